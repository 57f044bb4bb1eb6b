//! Counts what interception cannot reach: connections older than the hooks, and unix sockets of servers where there are
//! no hooks for them.

use std::collections::HashSet;

use procfs::ProcError;
use procfs::net::{TcpNetEntry, TcpState, UnixNetEntry, UnixState, tcp, tcp6, unix};
use serde::{Deserialize, Serialize};

/// What was there before us, at start-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Established connections to intercepted ports: over TCP, counted at their client's end, and to unix sockets, counted
    /// at their server's, where those are intercepted.
    pub established: usize,
    /// Listening unix sockets of PostgreSQL servers (`.s.PGSQL.PORT`) on intercepted ports, where those are not
    /// intercepted.
    pub unix_sockets: usize,
}

/// How often the kernel's list of TCP sockets is read. It is not handed out at one moment: while sockets come and go
/// an entry can be left out, or shown twice.
const READINGS: usize = 3;

/// Counts what interception of `ports`, with their unix sockets or without, does not cover in our network namespace.
///
/// # Errors
/// When /proc/net cannot be read.
pub fn uncovered(ports: &[u16], with_unix: bool) -> procfs::ProcResult<Coverage> {
    let mut established = HashSet::new();
    for _ in 0..READINGS {
        let sockets = tcp_sockets()?;
        let to_ports = sockets.filter(|entry| is_established_to(entry, ports));
        established.extend(to_ports.map(|entry| (entry.local_address, entry.remote_address)));
    }
    let unix = unix()?;
    let in_state = |state| {
        let of_servers = unix.iter().filter(|entry| is_servers(entry, ports));
        of_servers.filter(move |entry| entry.state == state).count()
    };
    Ok(if with_unix {
        Coverage {
            established: established.len() + in_state(UnixState::CONNECTED),
            unix_sockets: 0,
        }
    } else {
        Coverage {
            established: established.len(),
            unix_sockets: in_state(UnixState::UNCONNECTED),
        }
    })
}

fn tcp_sockets() -> procfs::ProcResult<impl Iterator<Item = TcpNetEntry>> {
    let v6 = match tcp6() {
        // The file is not there on a host without IPv6.
        Err(ProcError::NotFound(_)) => Vec::new(),
        entries => entries?,
    };
    Ok(tcp()?.into_iter().chain(v6))
}

fn is_established_to(entry: &TcpNetEntry, ports: &[u16]) -> bool {
    entry.state == TcpState::Established && ports.contains(&entry.remote_address.port())
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
    use std::net::TcpListener;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn an_established_connection_counts_once_and_only_for_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(uncovered(&[port], false).unwrap().established, 1);
        assert_eq!(uncovered(&[1], false).unwrap().established, 0);
    }

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
        assert_eq!((older.established, older.unix_sockets), (1, 0));
    }
}
