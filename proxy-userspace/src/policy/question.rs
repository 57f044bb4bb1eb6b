//! What is asked of a policy: may this process do that, there?

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::subject::Subject;
use crate::destination::Destination;
use crate::tls::ClientCertificate;
use crate::wire::negotiation::Encryption;
use crate::wire::opening::{Opening, StartupMessage};
use crate::wire::text::printable;

/// What a process wants to do.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Have a session.
    Connect,
    /// Have a session with a replication stream.
    Replicate,
    /// Cancel what another session runs.
    Cancel,
}

impl Action {
    /// Its name in policies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Replicate => "replicate",
            Self::Cancel => "cancel",
        }
    }
}

/// A startup packet's parameters, as the server will understand them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartupFacts {
    /// The protocol version, `3.0`.
    pub protocol: String,
    /// The user the server will look up.
    pub user: Option<String>,
    /// The database it will look up; none for physical replication.
    pub database: Option<String>,
    /// Every parameter in the order sent.
    pub parameters: Vec<(String, String)>,
}

impl StartupFacts {
    /// What a client of protocol 3.0 would send: these names, and more parameters.
    pub fn new(
        user: Option<String>,
        database: Option<String>,
        more: Vec<(String, String)>,
    ) -> Self {
        let named = [("user", user.clone()), ("database", database.clone())];
        let mut parameters: Vec<_> = named
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect();
        parameters.extend(more);
        Self {
            protocol: "3.0".to_owned(),
            database: database.or_else(|| user.clone()),
            user,
            parameters,
        }
    }

    /// The same of a client that wants the WAL stream, which belongs to no database.
    pub fn physical_replication(user: Option<String>, more: Vec<(String, String)>) -> Self {
        Self {
            database: None,
            ..Self::new(user, None, more)
        }
    }

    /// The last value of a parameter, which is the one that counts.
    pub fn last(&self, name: &str) -> Option<&str> {
        let mut from_last = self.parameters.iter().rev();
        from_last
            .find(|(key, _)| spelled(key) == name)
            .map(|(_, value)| value.as_str())
    }

    /// Each parameter with its last value, by its name as the server looks it up.
    pub(super) fn settled(&self) -> BTreeMap<Cow<'_, str>, &str> {
        let each = self.parameters.iter();
        each.map(|(name, value)| (spelled(name), value.as_str()))
            .collect()
    }
}

/// A parameter's name as the server looks it up: its own four by their letters (`ProcessStartupPacket` in
/// src/backend/tcop/backend_startup.c), and settings whatever their case (`guc_name_compare` in src/backend/utils/misc/guc.c).
fn spelled(name: &str) -> Cow<'_, str> {
    const OWN: [&str; 4] = ["user", "database", "options", "replication"];
    let lower = name.to_ascii_lowercase();
    if lower == name || OWN.contains(&lower.as_str()) {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(lower)
    }
}

impl From<&StartupMessage> for StartupFacts {
    fn from(message: &StartupMessage) -> Self {
        let (major, minor) = message.protocol();
        Self {
            protocol: format!("{major}.{minor}"),
            user: message.user().map(printable),
            database: message.database().map(printable),
            parameters: message
                .parameters()
                .map(|(name, value)| (printable(name), printable(value)))
                .collect(),
        }
    }
}

/// What is known of the encryption between client and server, or client and pgusher.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TlsFacts {
    /// How the session is encrypted.
    pub encryption: Encryption,
    /// The name of the server the client asked for.
    pub sni: Option<String>,
    /// The client's certificate, verified by pgusher.
    pub certificate: Option<ClientCertificate>,
    /// Whether TLS would end at pgusher, were policies that ask for it enforced, though it passes through now.
    pub could_end_here: bool,
}

/// The session that a cancel request is aimed at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CancelFacts {
    /// Its key is that of a session through this pgusher.
    pub known: bool,
    /// That session's client is of the same workload.
    pub same_workload: bool,
    /// The process may connect to the server with the startup packet hidden.
    pub may_connect: bool,
}

/// One question. It holds everything the answer depends on but the policy and the time, so that it can be asked again
/// when the policy has changed.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who asks.
    pub subject: Arc<Subject>,
    /// What for.
    pub action: Action,
    /// The server, as the application dialled it.
    pub server: Destination,
    /// The database; none where it is not known or there is none.
    pub database: Option<String>,
    /// The startup packet, where it can be read.
    pub startup: Option<StartupFacts>,
    /// Encryption.
    pub tls: TlsFacts,
    /// For [`Action::Cancel`].
    pub cancel: CancelFacts,
}

impl Question {
    /// A question about a session whose startup packet cannot be read.
    pub fn opaque(subject: Arc<Subject>, server: Destination, tls: TlsFacts) -> Self {
        Self {
            subject,
            action: Action::Connect,
            server,
            database: None,
            startup: None,
            tls,
            cancel: CancelFacts::default(),
        }
    }

    /// A question about what an opening asks for; a cancel request asks for more than its packet says.
    pub fn of_opening(
        subject: Arc<Subject>,
        server: Destination,
        tls: TlsFacts,
        opening: &Opening,
    ) -> Self {
        let opaque = Self::opaque(subject, server, tls);
        match opening {
            Opening::Startup(message) => {
                opaque.with_startup(message.into(), message.replication().is_some())
            }
            _ => opaque,
        }
    }

    /// The same process and server, asking for a session with this startup packet.
    #[must_use]
    pub fn with_startup(self, startup: StartupFacts, replicates: bool) -> Self {
        Self {
            action: if replicates {
                Action::Replicate
            } else {
                Action::Connect
            },
            database: startup.database.clone(),
            startup: Some(startup),
            ..self
        }
    }

    /// The same process and server, asking to cancel.
    #[must_use]
    pub fn cancelling(self, database: Option<String>, cancel: CancelFacts) -> Self {
        Self {
            action: Action::Cancel,
            database,
            startup: None,
            cancel,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_looked_up_as_the_server_does() {
        let parameters = [
            ("user", "a"),
            ("User", "b"),
            ("application_name", "one"),
            ("Application_Name", "two"),
            ("SESSION_replication_role", "replica"),
        ];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let facts = StartupFacts {
            protocol: "3.0".to_owned(),
            user: Some("a".to_owned()),
            database: None,
            parameters: parameters.to_vec(),
        };
        assert_eq!(facts.last("application_name"), Some("two"));
        let settled: Vec<String> = facts
            .settled()
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let expected = [
            "User=b",
            "application_name=two",
            "session_replication_role=replica",
            "user=a",
        ];
        assert_eq!(settled, expected);
    }
}
