//! Connections to intercepted ports that are older than the hooks: found, listed, and aborted if the operator says so.
//!
//! Runs once, after the hooks are attached: what is connected from then on is either redirected or counted by them.
//! Design: docs/decisions/0043-existing-sessions.md.

mod diag;
mod holders;
mod scope;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;
use tracing::warn;

use super::cgroup::Cgroup;
use super::namespace::Namespace;
use super::namespaces::Namespaces;
use crate::config::Adopt;
use diag::{Diag, TcpSocket};
pub use holders::Holder;
use scope::Scope;

/// How often our own namespace is looked through, and every other in which something was found. The kernel's list is not
/// handed out at one moment, so that a connection can be left out.
const ROUNDS: usize = 3;
/// The most connections that are listed; more are counted.
const MAX_LISTED: usize = 1000;
/// The most bytes of names and paths in the list.
const MAX_LISTED_BYTES: usize = 256 * 1024;

/// What to look for, and what becomes of it.
#[derive(Clone, Debug)]
pub struct Search {
    /// Intercepted ports.
    pub ports: Vec<u16>,
    /// Whether what is found is aborted.
    pub adopt: Adopt,
    /// Processes whose connections are none of ours to end: pgusher itself, and one before it that still drains.
    pub exempt: Vec<u32>,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It goes on, unseen by us.
    Left,
    /// It was aborted.
    Reset,
    /// It ended before it could be aborted.
    Ended,
}

/// A connection that is older than the hooks, as it is recorded.
#[derive(Clone, Debug)]
pub struct Existing {
    /// The client's end.
    pub local: SocketAddr,
    /// The server's end.
    pub remote: SocketAddr,
    /// The network namespace's number in /proc.
    pub netns: u64,
    /// Who holds it, as far as they are described.
    pub processes: Vec<Holder>,
    /// How many hold it.
    pub holders: usize,
    /// What became of it.
    pub outcome: Outcome,
}

impl Existing {
    fn bytes(&self) -> usize {
        self.processes.iter().map(Holder::bytes).sum()
    }
}

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Settled {
    /// By cookie: what became of it.
    outcomes: HashMap<u64, Outcome>,
    listed: HashMap<u64, Existing>,
    listed_bytes: usize,
    /// Why connections could not be aborted.
    refusal: Option<io::Error>,
}

/// A connection in its namespace.
struct Found {
    socket: TcpSocket,
    namespace: Arc<Namespace>,
}

/// Looks for connections of processes in `cgroup`, in every namespace that has listeners, and settles what becomes of
/// them, with the privileges of the calling thread. Blocks.
///
/// # Errors
/// The operating system's reason if cgroups or processes cannot be read; nothing is aborted then.
pub fn settle(search: &Search, cgroup: &Cgroup, namespaces: &Namespaces) -> io::Result<Settled> {
    let mut settled = Settled::default();
    if search.adopt == Adopt::Ignore {
        return Ok(settled);
    }
    let scope = Scope::of(cgroup)?;
    let mut places = namespaces.all();
    for _ in 0..ROUNDS {
        let found = look(search, &places)?;
        // A look costs milliseconds on a large host, for each of what may be a thousand namespaces.
        let of_interest: HashSet<u64> = found.iter().map(|one| one.namespace.cookie()).collect();
        places.retain(|place| place.is_own() || of_interest.contains(&place.cookie()));
        let ours = settled.take_in(search, &scope, found)?;
        if search.adopt == Adopt::Reset {
            if ours.is_empty() {
                break;
            }
            settled.abort(&ours);
        }
    }
    Ok(settled)
}

/// The client ends of connections to intercepted ports.
fn look(search: &Search, places: &[Arc<Namespace>]) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for namespace in places {
        match namespace.visit_with_all(|| client_ends(&search.ports)) {
            Ok(sockets) => found.extend(sockets.into_iter().map(|socket| Found {
                socket,
                namespace: Arc::clone(namespace),
            })),
            // The kernel cannot do it anywhere.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Err(error),
            Err(error) => warn!(
                netns = namespace.inode(),
                %error,
                "cannot tell which connections exist already in a network namespace"
            ),
        }
    }
    Ok(found)
}

/// Those of the calling thread's namespace.
fn client_ends(ports: &[u16]) -> io::Result<Vec<TcpSocket>> {
    let (mut listeners, mut clients) = (HashSet::new(), Vec::new());
    Diag::open()?.for_each(|socket| {
        if socket.is_listener() {
            listeners.insert(socket.local());
        } else if ports.contains(&socket.remote().port()) {
            clients.push(socket);
        }
    })?;
    // A client's own port may be one of those that are intercepted: its server's end looks like a client's then.
    clients.retain(|socket| !is_accepted(socket.local(), &listeners));
    Ok(clients)
}

/// Whether a connection with this address of its own may have been accepted here.
fn is_accepted(local: SocketAddr, listeners: &HashSet<SocketAddr>) -> bool {
    let unspecified = [[0; 4].into(), [0; 16].into()];
    let addresses = unspecified.into_iter().chain([local.ip()]);
    let mut listening = addresses.map(|ip| SocketAddr::new(ip, local.port()));
    listening.any(|address| listeners.contains(&address))
}

impl Settled {
    /// How many connections were found.
    pub fn found(&self) -> usize {
        self.outcomes.len()
    }

    /// How many were aborted.
    pub fn reset(&self) -> usize {
        let outcomes = self.outcomes.values();
        outcomes
            .filter(|outcome| **outcome == Outcome::Reset)
            .count()
    }

    /// Why connections could not be aborted, if they could not.
    pub fn refusal(&self) -> Option<&io::Error> {
        self.refusal.as_ref()
    }

    /// The connections, as many as are listed.
    pub fn into_listed(self) -> Vec<Existing> {
        let outcomes = self.outcomes;
        let with_outcome = |(cookie, existing): (u64, Existing)| Existing {
            outcome: outcomes.get(&cookie).copied().unwrap_or(existing.outcome),
            ..existing
        };
        self.listed.into_iter().map(with_outcome).collect()
    }

    /// Enters what is of the scope and not exempt; returns it, known before or not.
    fn take_in(
        &mut self,
        search: &Search,
        scope: &Scope,
        found: Vec<Found>,
    ) -> io::Result<Vec<Found>> {
        let inodes = found.iter().map(|found| found.socket.inode).collect();
        let holders = holders::of(&inodes, &search.exempt)?;
        let mut ours = Vec::new();
        for one in found {
            let held_by = holders
                .get(&one.socket.inode)
                .map_or(&[][..], Vec::as_slice);
            let is_exempt = held_by.iter().any(|pid| search.exempt.contains(pid));
            let is_inside = scope.has_cgroup(one.socket.cgroup)
                || held_by.iter().any(|pid| scope.has_process(*pid));
            if is_inside && !is_exempt {
                self.enter(&one, held_by);
                ours.push(one);
            }
        }
        Ok(ours)
    }

    fn enter(&mut self, found: &Found, held_by: &[u32]) {
        let cookie = found.socket.cookie();
        if self.outcomes.insert(cookie, Outcome::Left).is_some() {
            return;
        }
        if self.listed.len() >= MAX_LISTED || self.listed_bytes >= MAX_LISTED_BYTES {
            return;
        }
        let existing = Existing {
            local: found.socket.local(),
            remote: found.socket.remote(),
            netns: found.namespace.inode(),
            processes: holders::describe(held_by),
            holders: held_by.len(),
            outcome: Outcome::Left,
        };
        self.listed_bytes += existing.bytes();
        self.listed.insert(cookie, existing);
    }

    /// Aborts these connections, each in its namespace.
    fn abort(&mut self, ours: &[Found]) {
        let mut by_namespace: HashMap<u64, (&Arc<Namespace>, Vec<TcpSocket>)> = HashMap::new();
        for one in ours {
            let entry = by_namespace.entry(one.namespace.cookie());
            let (_, sockets) = entry.or_insert_with(|| (&one.namespace, Vec::new()));
            sockets.push(one.socket);
        }
        for (namespace, sockets) in by_namespace.into_values() {
            match namespace.visit_with_all(|| abort_all(&sockets)) {
                Ok(results) => results.into_iter().for_each(|result| self.note(result)),
                Err(error) => self.refusal = Some(error),
            }
        }
    }

    fn note(&mut self, (cookie, result): (u64, io::Result<()>)) {
        let outcome = match result {
            Ok(()) => Outcome::Reset,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Outcome::Ended,
            Err(error) => {
                self.refusal = Some(error);
                Outcome::Left
            }
        };
        self.outcomes.insert(cookie, outcome);
    }
}

/// Aborts connections of the calling thread's namespace; what became of each is told by cookie.
fn abort_all(sockets: &[TcpSocket]) -> io::Result<Vec<(u64, io::Result<()>)>> {
    let mut diag = Diag::open()?;
    let results = sockets
        .iter()
        .map(|socket| (socket.cookie(), diag.abort(socket)));
    Ok(results.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn only_the_clients_end_counts_even_where_its_own_port_is_intercepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let stream = TcpStream::connect(server).unwrap();
        let client = stream.local_addr().unwrap();
        let found = client_ends(&[server.port(), client.port()]).unwrap();
        let ends: Vec<_> = found
            .iter()
            .map(|one| (one.local(), one.remote()))
            .collect();
        assert!(ends.contains(&(client, server)), "{ends:?}");
        assert!(!ends.contains(&(server, client)), "{ends:?}");
        assert!(client_ends(&[]).unwrap().is_empty());
    }

    #[test]
    fn a_listener_on_every_address_accepts_on_this_one() {
        let local: SocketAddr = "10.0.0.1:5432".parse().unwrap();
        let cases = [
            ("0.0.0.0:5432", true),
            ("[::]:5432", true),
            ("10.0.0.1:5432", true),
            ("10.0.0.2:5432", false),
            ("0.0.0.0:5433", false),
        ];
        for (listener, is_its) in cases {
            let listeners = HashSet::from([listener.parse().unwrap()]);
            assert_eq!(is_accepted(local, &listeners), is_its, "{listener}");
        }
    }

    #[test]
    fn what_is_outside_the_cgroup_or_held_by_an_exempt_process_is_none_of_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let namespace = Arc::new(Namespace::own(Vec::new()).unwrap());
        let (inside, outside) = (Scope::everything(), Scope::default());
        let own = std::process::id();
        for (scope, exempt, expected) in [
            (&inside, vec![], 1),
            (&inside, vec![own], 0),
            (&outside, vec![], 0),
        ] {
            let socket = client_ends(&[port]).unwrap().remove(0);
            let namespace = Arc::clone(&namespace);
            let search = Search {
                ports: vec![port],
                adopt: Adopt::Reset,
                exempt,
            };
            let mut settled = Settled::default();
            let found = vec![Found { socket, namespace }];
            let ours = settled.take_in(&search, scope, found).unwrap();
            assert_eq!(ours.len(), expected, "{search:?}");
            assert_eq!(settled.found(), expected, "{search:?}");
        }
    }

    #[test]
    fn what_a_kernel_cannot_abort_is_left_and_what_is_gone_has_ended() {
        let failed = |errno| Err(io::Error::from_raw_os_error(errno));
        let mut settled = Settled::default();
        settled.note((1, Ok(())));
        settled.note((2, failed(libc::ENOENT)));
        assert!(settled.refusal().is_none());
        settled.note((3, failed(libc::EOPNOTSUPP)));
        let outcome = |cookie: u64| settled.outcomes.get(&cookie).copied();
        assert_eq!(outcome(1), Some(Outcome::Reset));
        assert_eq!(outcome(2), Some(Outcome::Ended));
        assert_eq!(outcome(3), Some(Outcome::Left));
        let refusal = settled.refusal().and_then(io::Error::raw_os_error);
        assert_eq!(refusal, Some(libc::EOPNOTSUPP));
        assert_eq!((settled.found(), settled.reset()), (3, 1));
    }

    #[test]
    fn more_connections_than_are_listed_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let _stream = TcpStream::connect(server).unwrap();
        let socket = client_ends(&[server.port()]).unwrap().remove(0);
        let namespace = Arc::new(Namespace::own(Vec::new()).unwrap());
        let mut settled = Settled::default();
        for number in 0..=MAX_LISTED as u64 {
            assert_eq!(settled.listed.len() as u64, number);
            let socket = socket.with_cookie(number);
            let namespace = Arc::clone(&namespace);
            settled.enter(&Found { socket, namespace }, &[]);
        }
        assert_eq!(settled.found(), MAX_LISTED + 1);
        assert_eq!(settled.into_listed().len(), MAX_LISTED);
    }
}
