//! What interception cannot reach, in numbers: connections older than the hooks ([`super::existing`] finds those over
//! TCP), and unix sockets of servers where there are no hooks for them.

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
    /// Established connections to unix sockets of PostgreSQL servers (`.s.PGSQL.PORT`) on intercepted ports, counted at
    /// their server's end, in our own network namespace, where those sockets are intercepted.
    pub unix_established: usize,
    /// Listening unix sockets of such servers there, where those are not intercepted.
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

/// Counts what interception of `ports`, with their unix sockets or without, does not cover of unix sockets.
///
/// # Errors
/// When /proc/net cannot be read.
pub fn uncovered(ports: &[u16], with_unix: bool) -> procfs::ProcResult<Coverage> {
    let sockets = unix()?;
    let in_state = |state| {
        let of_servers = sockets.iter().filter(|entry| is_servers(entry, ports));
        of_servers.filter(move |entry| entry.state == state).count()
    };
    Ok(if with_unix {
        Coverage {
            unix_established: in_state(UnixState::CONNECTED),
            ..Coverage::default()
        }
    } else {
        Coverage {
            unix_sockets: in_state(UnixState::UNCONNECTED),
            ..Coverage::default()
        }
    })
}

/// Whether this is a server's socket: `DIRECTORY/.s.PGSQL.PORT`, or its abstract form.
fn is_servers(entry: &UnixNetEntry, ports: &[u16]) -> bool {
    let name = entry
        .path
        .as_deref()
        .and_then(|path| path.file_name())
        .and_then(|name| name.to_str());
    let port = name
        .and_then(|name| name.strip_prefix(".s.PGSQL."))
        .and_then(|port| port.parse().ok());
    port.is_some_and(|port| ports.contains(&port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_servers_unix_socket_counts_by_its_port() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".s.PGSQL.61234");
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(uncovered(&[61234], false).unwrap().unix_sockets, 1);
        assert_eq!(uncovered(&[61235], false).unwrap().unix_sockets, 0);
        assert_eq!(uncovered(&[61234], true).unwrap(), Coverage::default());
        let _client = UnixStream::connect(&path).unwrap();
        let _accepted = listener.accept().unwrap();
        let older = uncovered(&[61234], true).unwrap();
        assert_eq!((older.unix_established, older.unix_sockets), (1, 0));
    }
}
