//! By what a process is to be known in a draft.

use crate::policy::Subject;

/// The first of these that is attested: what is run comes before who runs it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Principal {
    Unit(String),
    Pod(String),
    Container(String),
    /// A program and its user.
    Program {
        executable: String,
        user: String,
    },
    User(String),
}

/// How systemd calls the sessions of people who log in: a number that changes each time.
const LOGIN_SCOPE: &str = "session-";

impl Principal {
    pub(super) fn of(subject: &Subject) -> Self {
        let all = |kind: &str| {
            let memberships = subject.memberships().iter();
            memberships
                .filter(move |group| group.kind == kind)
                .map(|group| group.id.as_str())
                .collect::<Vec<_>>()
        };
        // Names before numbers.
        let named = |kind: &str, mark: &str| {
            let ids = all(kind);
            let name = ids.iter().find(|id| !id.starts_with(mark)).copied();
            name.or_else(|| ids.first().copied()).map(str::to_owned)
        };
        let unit = all("Unit")
            .into_iter()
            .find(|unit| !unit.starts_with(LOGIN_SCOPE));
        let executable = all("Executable").into_iter().find(|id| id.starts_with('/'));
        let user = named("User", "#").unwrap_or_default();
        // A container's unit, if it has one, is the runtime's scope: its name is the container's.
        if let Some(pod) = named("Pod", "uid:") {
            Self::Pod(pod)
        } else if let Some(container) = named("Container", "#") {
            Self::Container(container)
        } else if let Some(unit) = unit {
            Self::Unit(unit.to_owned())
        } else if let Some(executable) = executable {
            Self::Program {
                executable: executable.to_owned(),
                user,
            }
        } else {
            Self::User(user)
        }
    }
}
