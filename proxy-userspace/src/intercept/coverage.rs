//! Counts what interception cannot reach: connections older than the hooks, and unix sockets of servers.

use std::collections::HashSet;

use procfs::ProcError;
use procfs::net::{TcpNetEntry, TcpState, UnixNetEntry, UnixState, tcp, tcp6, unix};
use serde::{Deserialize, Serialize};

/// What was there before us, at start-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Established TCP connections to intercepted ports, counted at their client's end.
    pub established: usize,
    /// Listening unix sockets of PostgreSQL servers (`.s.PGSQL.PORT`) on intercepted ports.
    pub unix_sockets: usize,
}

/// How often the kernel's list of TCP sockets is read. It is not handed out at one moment: while sockets come and go
/// an entry can be left out, or shown twice.
const READINGS: usize = 3;

/// Counts what interception of `ports` does not cover in our network namespace.
///
/// # Errors
/// When /proc/net cannot be read.
pub fn uncovered(ports: &[u16]) -> procfs::ProcResult<Coverage> {
    let mut established = HashSet::new();
    for _ in 0..READINGS {
        let sockets = tcp_sockets()?;
        let to_ports = sockets.filter(|entry| is_established_to(entry, ports));
        established.extend(to_ports.map(|entry| (entry.local_address, entry.remote_address)));
    }
    Ok(Coverage {
        established: established.len(),
        unix_sockets: unix()?
            .iter()
            .filter(|entry| is_server_socket(entry, ports))
            .count(),
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
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    #[test]
    fn an_established_connection_counts_once_and_only_for_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(uncovered(&[port]).unwrap().established, 1);
        assert_eq!(uncovered(&[1]).unwrap().established, 0);
    }

    #[test]
    fn a_servers_unix_socket_counts_by_its_port() {
        let dir = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(dir.path().join(".s.PGSQL.61234")).unwrap();
        assert_eq!(uncovered(&[61234]).unwrap().unix_sockets, 1);
        assert_eq!(uncovered(&[61235]).unwrap().unix_sockets, 0);
    }
}
