//! Names of users and groups in this host's databases, whatever a container's own say.
//!
//! A database may be on another machine (LDAP): looking up is apart from everything else, with a time limit of its own.

use std::cell::Cell;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User};
use proxy_ebpf::origin::Origin;

use super::databases::Databases;

/// How long all names of an identity may take.
pub(super) const NAMES_LIMIT: Duration = Duration::from_secs(1);

/// What the databases may say instead of nothing where there is no such id (getpwuid(3)).
const NOT_FOUND: [Errno; 4] = [Errno::ENOENT, Errno::ESRCH, Errno::EBADF, Errno::EPERM];

/// What the databases say.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) user: Option<String>,
    pub(super) group: Option<String>,
    pub(super) effective_group: Option<String>,
    pub(super) groups: Option<Vec<String>>,
    /// Every database has answered: what has no name here has none.
    pub(super) is_whole: bool,
}

impl Names {
    /// Looks up everybody that the calling process is, and those groups. Blocks for as long as the databases do.
    pub(super) fn of(databases: &Databases, origin: &Origin, groups: Option<&[u32]>) -> Self {
        let gid = origin.gid();
        let egid = origin.effective_ids().map_or(gid, |(_, egid)| egid);
        Self::look_up(databases, origin.uid(), [gid, egid], groups)
    }

    /// Looks up a user, its real and effective group and the supplementary groups.
    fn look_up(
        databases: &Databases,
        uid: u32,
        [gid, egid]: [u32; 2],
        groups: Option<&[u32]>,
    ) -> Self {
        let gids = [&[gid, egid], groups.unwrap_or_default()].concat();
        let (known_user, known) = databases.find(uid, &gids);
        let answered = Cell::new(true);
        let told = |answer: nix::Result<Option<String>>| {
            answer.unwrap_or_else(|error| {
                answered.set(answered.get() && NOT_FOUND.contains(&error));
                None
            })
        };
        let user = known_user.or_else(|| told(user(uid)));
        let named = |(gid, known): (&u32, Option<String>)| known.or_else(|| told(group(*gid)));
        let mut names = gids.iter().zip(known).map(named);
        Self {
            user,
            group: names.next().flatten(),
            effective_group: names.next().flatten(),
            groups: groups.map(|_| names.flatten().collect()),
            is_whole: answered.get(),
        }
    }
}

fn user(uid: u32) -> nix::Result<Option<String>> {
    let user = User::from_uid(Uid::from_raw(uid))?;
    Ok(user.map(|user| user.name))
}

fn group(gid: u32) -> nix::Result<Option<String>> {
    let group = Group::from_gid(Gid::from_raw(gid))?;
    Ok(group.map(|group| group.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(uid: u32, gid: u32, groups: Option<&[u32]>) -> Names {
        let databases = Databases::in_directory(std::path::Path::new("/etc"));
        Names::look_up(&databases, uid, [gid, 0], groups)
    }

    #[test]
    fn ids_without_a_name_have_none() {
        let names = look_up(0, 0, Some(&[0, 3_999_999_999]));
        assert_eq!(names.user.as_deref(), Some("root"));
        assert_eq!(names.group.as_deref(), Some("root"));
        assert_eq!(names.effective_group.as_deref(), Some("root"));
        assert!(names.is_whole && !Names::default().is_whole);
        assert_eq!(names.groups, Some(vec!["root".to_owned()]));
        let nobody = look_up(3_999_999_999, 3_999_999_999, None);
        assert_eq!(
            (nobody.user, nobody.group, nobody.groups),
            (None, None, None)
        );
    }
}
