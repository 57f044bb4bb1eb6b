//! Names of users and groups in this host's databases, whatever a container's own say.
//!
//! A database may be on another machine (LDAP): looking up is apart from everything else, with a time limit of its own.

use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User};

/// How long all names of an identity may take.
pub(super) const NAMES_LIMIT: Duration = Duration::from_secs(1);

/// What the databases say.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) user: Option<String>,
    pub(super) group: Option<String>,
    pub(super) groups: Option<Vec<String>>,
}

impl Names {
    /// Looks up a user, its group and the supplementary groups. Blocks for as long as the databases do.
    pub(super) fn look_up(uid: u32, gid: u32, groups: Option<&[u32]>) -> Self {
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        Self {
            user: user.map(|user| user.name),
            group: group(gid),
            groups: groups.map(|groups| groups.iter().filter_map(|gid| group(*gid)).collect()),
        }
    }
}

fn group(gid: u32) -> Option<String> {
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    group.map(|group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_without_a_name_have_none() {
        let names = Names::look_up(0, 0, Some(&[0, 3_999_999_999]));
        assert_eq!(names.user.as_deref(), Some("root"));
        assert_eq!(names.group.as_deref(), Some("root"));
        assert_eq!(names.groups, Some(vec!["root".to_owned()]));
        let nobody = Names::look_up(3_999_999_999, 3_999_999_999, None);
        assert_eq!(
            (nobody.user, nobody.group, nobody.groups),
            (None, None, None)
        );
    }
}
