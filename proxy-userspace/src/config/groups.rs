//! `[[server_group]]` tables: servers that policies speak of under one name.

use std::collections::HashSet;

use serde::Deserialize;

use super::ConfigError;
use super::routes::Network;
use crate::destination::Destination;

/// One `[[server_group]]` table as it can be written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerGroupSettings {
    /// What policies call it: `ServerGroup::"name"`.
    pub name: String,
    /// Addresses or networks of its servers, or directories of their unix sockets; empty is all.
    #[serde(default)]
    pub destination: Vec<Network>,
    /// Their ports; empty is all.
    #[serde(default)]
    pub port: Vec<u16>,
}

/// All groups; a server may be in several.
#[derive(Clone, Debug, Default)]
pub struct ServerGroups {
    groups: Vec<ServerGroupSettings>,
}

impl ServerGroups {
    /// Checks the tables.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the group.
    pub(super) fn check(groups: Vec<ServerGroupSettings>) -> Result<Self, ConfigError> {
        let refuse = |reason| {
            Err(ConfigError::Value {
                setting: "server_group",
                reason,
            })
        };
        let mut names = HashSet::new();
        for group in &groups {
            if group.name.is_empty() {
                return refuse("a group needs a name for policies to call it by".to_owned());
            }
            if !names.insert(&group.name) {
                return refuse(format!("there are two groups \"{}\"", group.name));
            }
            if group.destination.is_empty() && group.port.is_empty() {
                return refuse(format!(
                    "\"{}\" has neither destination nor port, so every server would be in it",
                    group.name
                ));
            }
            if group.port.contains(&0) {
                return refuse(format!("\"{}\": 0 is not a port", group.name));
            }
        }
        Ok(Self { groups })
    }

    /// One group of one server.
    #[cfg(test)]
    pub(crate) fn tests_group(name: &str, server: std::net::SocketAddr) -> Self {
        let destination = Network::try_from(server.ip().to_string());
        Self {
            groups: vec![ServerGroupSettings {
                name: name.to_owned(),
                destination: destination.into_iter().collect(),
                port: vec![server.port()],
            }],
        }
    }

    /// Whether there is a group of this name.
    pub fn has(&self, name: &str) -> bool {
        self.groups.iter().any(|group| group.name == name)
    }

    /// The names of the groups that a server is in.
    pub fn of<'a>(&'a self, server: &'a Destination) -> impl Iterator<Item = &'a str> {
        let groups = self.groups.iter();
        groups
            .filter(move |group| Network::any_contains(&group.destination, &group.port, server))
            .map(|group| group.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_found_by_the_names_they_go_by() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        let link = real.join("link");
        std::os::unix::fs::symlink(real.join("there"), &link).unwrap();
        std::fs::create_dir(real.join("there")).unwrap();
        let cases = [
            ("::ffff:10.0.0.5".to_owned(), "10.0.0.5:5432".to_owned()),
            ("::ffff:10.0.0.0/120".to_owned(), "10.0.0.7:5432".to_owned()),
            ("10.0.0.5".to_owned(), "[::ffff:10.0.0.5]:5432".to_owned()),
            (
                format!("{}/", link.display()),
                format!("{}/there/.s.PGSQL.5432", real.display()),
            ),
            (
                format!("{}/later", link.display()),
                format!("{}/there/later/.s.PGSQL.5432", real.display()),
            ),
        ];
        for (network, server) in cases {
            let group = ServerGroupSettings {
                name: "group".to_owned(),
                destination: vec![Network::try_from(network.clone()).unwrap()],
                port: Vec::new(),
            };
            let groups = ServerGroups::check(vec![group]).unwrap();
            let server: Destination = server.parse().unwrap();
            assert_eq!(groups.of(&server).count(), 1, "{network} {server}");
        }
    }
}
