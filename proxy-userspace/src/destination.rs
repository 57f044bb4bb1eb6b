//! Where an application wants to go: an address and port, or a server's unix socket. The name that policies, routes and
//! records know a server by.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use proxy_ebpf::unix::DialledPath;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::wire::text::printable;

/// What a name begins with that is in a mount namespace of its own.
const MOUNTS: &str = "mnt:[";

/// A server, as an application dials it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// Over TCP.
    Tcp(SocketAddr),
    /// A socket of this host's.
    Unix(SocketPath),
}

/// The name of a server's unix socket: a path, `@` and a name in the abstract name space, or a mount namespace and a path
/// in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketPath {
    text: Arc<str>,
    port: u16,
}

impl SocketPath {
    /// Makes the name of `path`'s bytes, if its last component is a server's: `.s.PGSQL.PORT`.
    pub fn new(path: &[u8]) -> Option<Self> {
        let tail = path.get(path.len().saturating_sub(proxy_ebpf::unix::PATH_BYTES)..)?;
        let port = DialledPath::new(tail)?.port()?;
        let text = match path.strip_prefix(b"\0") {
            Some(name) => format!("@{}", printable(name)),
            None => printable(path),
        };
        Some(Self::at(text, port))
    }

    /// The name of a socket that is called otherwise, and was dialled under a name with this port.
    pub fn at(path: impl Into<Arc<str>>, port: u16) -> Self {
        let text = path.into();
        Self { text, port }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What comes before the slash and the server's own name.
    pub fn directory(&self) -> Option<&str> {
        self.text.rsplit_once('/').map(|(directory, _)| directory)
    }

    /// The port in it.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A directory's path on this host as servers' names have it, with links resolved as far as it exists. A name in the
/// abstract name space (`@name`) has none.
pub fn without_links(directory: &str) -> String {
    if !directory.starts_with('/') {
        return directory.to_owned();
    }
    let path = Path::new(directory);
    let resolved = path.ancestors().find_map(|above| {
        let real = above.canonicalize().ok()?;
        let rest = path.strip_prefix(above).ok()?;
        Some(real.join(rest).to_str()?.trim_end_matches('/').to_owned())
    });
    resolved.unwrap_or_else(|| directory.to_owned())
}

impl Destination {
    /// The server's port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(address) => address.port(),
            Self::Unix(path) => path.port(),
        }
    }

    /// Its address, if it is one with an address.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix(_) => None,
        }
    }

    /// Its path, if it is a unix socket.
    pub fn path(&self) -> Option<&SocketPath> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }
}

/// An address that is mapped into IPv6 is the one that is mapped.
impl From<SocketAddr> for Destination {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(match address.ip().to_canonical() {
            mapped if mapped != address.ip() => SocketAddr::new(mapped, address.port()),
            _ => address,
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix(path) => out.write_str(path.as_str()),
        }
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = match text.strip_prefix('@') {
            Some(name) => SocketPath::new(format!("\0{name}").as_bytes()),
            None if text.starts_with('/') || text.starts_with(MOUNTS) => {
                SocketPath::new(text.as_bytes())
            }
            None => None,
        };
        if let Some(path) = path {
            return Ok(Self::Unix(path));
        }
        text.parse::<SocketAddr>().map(Self::from).map_err(|_| {
            format!(
                "`{text}` is neither an address with a port, such as 10.0.0.5:5432, nor a server's socket, such as \
                 /run/postgresql/.s.PGSQL.5432"
            )
        })
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A destination as it is told to another process of pgusher's, in place of its name: a socket that is called otherwise has
/// no port in that.
pub mod exact {
    use super::{Arc, Destination, SocketAddr, SocketPath};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Told {
        Tcp(SocketAddr),
        Unix { path: Arc<str>, port: u16 },
    }

    /// Tells it.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(
        destination: &Destination,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let told = match destination {
            Destination::Tcp(address) => Told::Tcp(*address),
            Destination::Unix(path) => Told::Unix {
                path: Arc::clone(&path.text),
                port: path.port,
            },
        };
        told.serialize(serializer)
    }

    /// Hears it.
    ///
    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Destination, D::Error> {
        Ok(match Told::deserialize(deserializer)? {
            Told::Tcp(address) => Destination::Tcp(address),
            Told::Unix { path, port } => Destination::Unix(SocketPath::at(path, port)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_address_or_a_path_with_a_port_in_its_name() {
        for text in [
            "192.0.2.1:5432",
            "[2001:db8::1]:6432",
            "/run/postgresql/.s.PGSQL.5432",
            "@abstract/.s.PGSQL.5432",
            "mnt:[4026532201]/run/.s.PGSQL.5432",
        ] {
            let destination: Destination = text.parse().unwrap();
            assert_eq!(destination.to_string(), text);
            assert!([5432, 6432].contains(&destination.port()), "{text}");
        }
        for text in ["", "192.0.2.1", "/run/postgresql", "run/.s.PGSQL.5432", "@"] {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }

    #[test]
    fn another_process_hears_what_was_meant_whatever_it_is_called() {
        for destination in [
            Destination::from(SocketAddr::from(([192, 0, 2, 1], 5432))),
            Destination::Unix(SocketPath::new(b"/run/postgresql/.s.PGSQL.5432").unwrap()),
            Destination::Unix(SocketPath::at("/run/called/otherwise", 5432)),
        ] {
            let mut told = Vec::new();
            exact::serialize(&destination, &mut serde_json::Serializer::new(&mut told)).unwrap();
            let heard = exact::deserialize(&mut serde_json::Deserializer::from_slice(&told));
            assert_eq!(heard.unwrap(), destination);
        }
    }

    #[test]
    fn a_resolved_path_may_be_longer_than_one_that_can_be_dialled() {
        let long = format!("/{}/.s.PGSQL.5432", "x".repeat(200));
        let path = SocketPath::new(long.as_bytes()).unwrap();
        assert_eq!((path.as_str(), path.port()), (long.as_str(), 5432));
    }
}
