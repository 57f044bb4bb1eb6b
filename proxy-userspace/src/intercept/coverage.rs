//! What interception cannot reach, in numbers: connections older than the hooks ([`super::existing`] finds them), and
//! unix sockets of servers.

use procfs::net::{UnixNetEntry, UnixState, unix};
use serde::{Deserialize, Serialize};

use super::existing::Settled;

/// What was there before us, at start-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Established TCP connections to intercepted ports, counted at their client's end; none if nobody looked, or could.
    pub established: Option<usize>,
    /// Those of them that were aborted.
    pub reset: usize,
    /// Listening unix sockets of PostgreSQL servers (`.s.PGSQL.PORT`) on intercepted ports, in our own network
    /// namespace.
    pub unix_sockets: usize,
}

impl Coverage {
    /// With what was found of TCP connections.
    #[must_use]
    pub fn with_connections(self, settled: &Settled) -> Self {
        Self {
            established: Some(settled.found()),
            reset: settled.reset(),
            ..self
        }
    }
}

/// Counts the unix sockets that interception of `ports` does not cover.
///
/// # Errors
/// When /proc/net cannot be read.
pub fn uncovered(ports: &[u16]) -> procfs::ProcResult<Coverage> {
    let sockets = unix()?;
    let servers = sockets
        .iter()
        .filter(|entry| is_server_socket(entry, ports));
    Ok(Coverage {
        unix_sockets: servers.count(),
        ..Coverage::default()
    })
}

/// Whether this is a server's listening socket: `DIRECTORY/.s.PGSQL.PORT`, or its abstract form.
fn is_server_socket(entry: &UnixNetEntry, ports: &[u16]) -> bool {
    let name = entry
        .path
        .as_deref()
        .and_then(|path| path.file_name())
        .and_then(|name| name.to_str());
    let port = name
        .and_then(|name| name.strip_prefix(".s.PGSQL."))
        .and_then(|port| port.parse().ok());
    entry.state == UnixState::UNCONNECTED && port.is_some_and(|port| ports.contains(&port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_servers_unix_socket_counts_by_its_port() {
        let dir = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(dir.path().join(".s.PGSQL.61234")).unwrap();
        assert_eq!(uncovered(&[61234]).unwrap().unix_sockets, 1);
        assert_eq!(uncovered(&[61235]).unwrap().unix_sockets, 0);
    }
}
