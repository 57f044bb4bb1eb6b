//! Names of users and groups in this host's databases, whatever a container's own say.
//!
//! A database may be on another machine (LDAP): asking is apart from everything else, with places and a time limit of its
//! own. This host's files answer at once.

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

/// Somebody who has a name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Id {
    User(u32),
    Group(u32),
}

/// Tells the name of a user or group.
pub(super) type Ask = fn(Id) -> nix::Result<Option<String>>;

impl Names {
    /// What the files say of everybody that the calling process is, and of those groups. Whole if that is all.
    pub(super) fn in_files(databases: &Databases, origin: &Origin, groups: Option<&[u32]>) -> Self {
        Self::of(databases, |_| Err(Errno::EAGAIN), origin, groups)
    }

    /// Looks up everybody that the calling process is, and those groups: in the files, and what they do not have by
    /// asking. Blocks for as long as who is asked does.
    pub(super) fn of(
        databases: &Databases,
        ask: Ask,
        origin: &Origin,
        groups: Option<&[u32]>,
    ) -> Self {
        let gid = origin.gid();
        let egid = origin.effective_ids().map_or(gid, |(_, egid)| egid);
        let gids = [&[gid, egid], groups.unwrap_or_default()].concat();
        let (user, known) = databases.find(origin.uid(), &gids);
        let answered = Cell::new(true);
        let told = |id| {
            ask(id).unwrap_or_else(|error| {
                answered.set(answered.get() && NOT_FOUND.contains(&error));
                None
            })
        };
        let user = user.or_else(|| told(Id::User(origin.uid())));
        let named = |(gid, known): (&u32, Option<String>)| known.or_else(|| told(Id::Group(*gid)));
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

/// Asks whoever nsswitch.conf(5) names.
pub(super) fn ask_libc(id: Id) -> nix::Result<Option<String>> {
    match id {
        Id::User(uid) => Ok(User::from_uid(Uid::from_raw(uid))?.map(|user| user.name)),
        Id::Group(gid) => Ok(Group::from_gid(Gid::from_raw(gid))?.map(|group| group.name)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const NOBODYS: u32 = 3_999_999_999;

    fn origin(uid: u32, gid: u32) -> Origin {
        let mut origin = Origin::new(1, uid, gid, 0, 0);
        origin.set_effective_ids(uid, 0);
        origin
    }

    fn look_up(uid: u32, gid: u32, groups: Option<&[u32]>) -> Names {
        let databases = Databases::in_directory(Path::new("/etc"));
        Names::of(&databases, ask_libc, &origin(uid, gid), groups)
    }

    #[test]
    fn ids_without_a_name_have_none() {
        let names = look_up(0, 0, Some(&[0, NOBODYS]));
        assert_eq!(names.user.as_deref(), Some("root"));
        assert_eq!(names.group.as_deref(), Some("root"));
        assert_eq!(names.effective_group.as_deref(), Some("root"));
        assert!(names.is_whole && !Names::default().is_whole);
        assert_eq!(names.groups, Some(vec!["root".to_owned()]));
        let nobody = look_up(NOBODYS, NOBODYS, None);
        assert_eq!(
            (nobody.user, nobody.group, nobody.groups),
            (None, None, None)
        );
    }

    #[test]
    fn what_the_files_do_not_have_they_do_not_deny() {
        let databases = Databases::in_directory(Path::new("/nonexistent"));
        let names = Names::in_files(&databases, &origin(0, 0), Some(&[0]));
        assert_eq!((names.user, names.groups), (None, Some(Vec::new())));
        assert!(!names.is_whole);
    }
}
