//! The fast path: sockets of a session joined so that short messages go past the TCP/IP stack.
//!
//! Loaded from an object of its own, and only where it is switched on. Everything it needs of the kernel is found out at
//! start; what a single session lacks, it does without. Design: docs/decisions/0061-fast-path.md.

mod gate;
mod probe;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{HashMap, MapData, PerCpuArray, SockHash};
use aya::programs::{SchedClassifier, SkMsg, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use proxy_ebpf::endpoint::Endpoint;
use proxy_ebpf::fast_path::{Answer, AskRequest, End, JoinRequest, Path, QUEUE_BYTES, Wish, key};
use proxy_ebpf::names;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

pub use gate::{Joined, JoinedSocket};

use gate::Gate;

use super::btf::{BtfError, SocketTypes, socket_types};
use super::hooks::{HookError, program, taken, typed};
use super::namespace::Namespace;
use super::object::FAST_PATH_OBJECT;

/// Whom redirected bytes may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// pgusher's own sockets; applications' too where the kernel hides the difference from them altogether.
    Unnoticed,
    /// Applications' sockets too, which then must not be read with splice(2), or asked with FIONREAD where the kernel does
    /// not answer for redirected bytes.
    Applications,
}

/// Why there is no fast path.
#[derive(Debug, thiserror::Error)]
pub enum FastPathError {
    /// The kernel's structures cannot be told.
    #[error(transparent)]
    Types(#[from] BtfError),
    /// The kernel would lose bytes.
    #[error(
        "this kernel drops redirected bytes when a connection is reset; Linux 6.0 and later keep them"
    )]
    TooOld,
    /// Taking part alone would show.
    #[error(
        "this kernel's FIONREAD tells applications on the fast path that there is nothing to read where there is: only fast_path = \"full\" is possible (docs/fast-path.md)"
    )]
    Noticed,
    /// It could not be tried.
    #[error("the fast path could not be tried on sockets of pgusher's own: {0}")]
    Probe(#[source] io::Error),
    /// A structure is not as expected.
    #[error("this kernel's sockets are not laid out as expected (docs/kernels.md)")]
    Layout,
    /// The kernel refused the object, a program or a map.
    #[error(transparent)]
    Hook(#[from] HookError),
}

/// Why sessions go without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoFastPath {
    /// It is not wanted.
    Off,
    /// It is, and the kernel cannot have one.
    Impossible {
        /// What the kernel lacks.
        reason: String,
    },
}

/// What took the fast path since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastPathCounts {
    /// Connections of clients that were joined with ours.
    pub client_legs: u64,
    /// Ours that were joined with a server's.
    pub server_legs: u64,
    /// Sessions whose client was joined with its server.
    pub direct: u64,
    /// Connections that were not: nobody on this host has their other end, or uses it in a way that would show.
    pub left_alone: u64,
    /// Messages that were redirected.
    pub redirected: u64,
    /// Messages of joined sockets that went through the stack.
    pub through_stack: u64,
    /// Times that a message of ours waited until the application had read what was before it.
    pub delayed: u64,
}

/// Joins sockets.
pub struct FastPath {
    /// Holds the programs, and the sockets' map, which the one that decides is attached to.
    programs: Ebpf,
    sockets: SockHash<MapData, u64>,
    bytes: Mutex<HashMap<MapData, u64, u64>>,
    messages: PerCpuArray<MapData, u64>,
    /// How many of them were those that it was tried with at start.
    of_probe: FastPathCounts,
    reaches_applications: bool,
    next_session: AtomicU64,
    client_legs: AtomicU64,
    server_legs: AtomicU64,
    direct: AtomicU64,
    left_alone: AtomicU64,
    delayed: AtomicU64,
}

/// The sockets of a session, as its relay knows them.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// Our address and the client's, on the connection with it.
    pub client: (SocketAddr, SocketAddr),
    /// Our address and the server's, on the connection with it.
    pub server: (SocketAddr, SocketAddr),
}

impl std::fmt::Debug for FastPath {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("FastPath").finish_non_exhaustive()
    }
}

impl FastPath {
    /// Loads the programs.
    ///
    /// # Errors
    /// [`FastPathError`]; interception is not affected.
    pub fn load(reach: Reach) -> Result<Self, FastPathError> {
        let types = socket_types()?;
        check(&types)?;
        let mut programs = EbpfLoader::new()
            .override_global(names::GLOBAL_FAST_OFFSETS, &types.offsets, true)
            .load(FAST_PATH_OBJECT)
            .map_err(HookError::from)?;
        let name = names::MAP_FAST_SOCKETS;
        let sockets: SockHash<_, u64> = typed(name, taken(&mut programs, name)?)?;
        attach(&mut programs, &sockets)?;
        load(&mut programs, names::PROGRAM_FAST_JOIN)?;
        load(&mut programs, names::PROGRAM_FAST_ASK)?;
        let (bytes, messages) = (names::MAP_FAST_BYTES, names::MAP_FAST_COUNTERS);
        let mut fast_path = Self {
            bytes: Mutex::new(typed(bytes, taken(&mut programs, bytes)?)?),
            messages: typed(messages, taken(&mut programs, messages)?)?,
            programs,
            sockets,
            of_probe: FastPathCounts::default(),
            reaches_applications: false,
            next_session: AtomicU64::new(1),
            client_legs: AtomicU64::new(0),
            server_legs: AtomicU64::new(0),
            direct: AtomicU64::new(0),
            left_alone: AtomicU64::new(0),
            delayed: AtomicU64::new(0),
        };
        let seen = fast_path.probe().map_err(FastPathError::Probe)?;
        fast_path.of_probe = fast_path.counts()?;
        if reach == Reach::Unnoticed && !seen.counts_stack_bytes {
            return Err(FastPathError::Noticed);
        }
        fast_path.reaches_applications =
            reach == Reach::Applications || seen.shows_redirected_bytes;
        Ok(fast_path)
    }

    /// Whether applications are sent redirected bytes too.
    pub fn reaches_applications(&self) -> bool {
        self.reaches_applications
    }

    /// Joins what can be joined of a session whose relay holds nothing back at this moment: its client with its server, if
    /// that is wished, or each with us. Blocks for some microseconds; where `namespace` is not our own, for as long as it
    /// takes to start a thread.
    pub fn join(
        self: &Arc<Self>,
        namespace: &Namespace,
        connections: Connections,
        is_direct_wished: bool,
    ) -> Joined {
        if is_direct_wished && self.reaches_applications {
            let session = self.next_session.fetch_add(1, Ordering::Relaxed);
            let answer = self.run(namespace, session, connections, Wish::DIRECT);
            if answer.has(Answer::joined(Wish::DIRECT)) {
                self.direct.fetch_add(1, Ordering::Relaxed);
                // What comes to us is what had no place in the other's queue: each time that has to be read first.
                let ours = |end| JoinedSocket {
                    has_two_queues: false,
                    gate: Some(self.gate(key(session, end), 0)),
                };
                return Joined {
                    client: ours(End::Client),
                    server: ours(End::Server),
                    direct: Some(session),
                };
            }
        }
        let mut legs = Wish::CLIENT_LEG.and(Wish::SERVER_LEG);
        if self.reaches_applications {
            legs = legs.and(Wish::BOTH_WAYS);
        }
        let session = self.next_session.fetch_add(1, Ordering::Relaxed);
        let answer = self.run(namespace, session, connections, legs);
        let ours = |leg: Wish, end: End, counter: &AtomicU64| {
            let is_joined = answer.has(Answer::joined(leg));
            let counter = if is_joined { counter } else { &self.left_alone };
            counter.fetch_add(1, Ordering::Relaxed);
            let reaches_it = is_joined && self.reaches_applications;
            JoinedSocket {
                has_two_queues: is_joined,
                gate: reaches_it.then(|| self.gate(key(session, end), QUEUE_BYTES as usize)),
            }
        };
        Joined {
            client: ours(Wish::CLIENT_LEG, End::Client, &self.client_legs),
            server: ours(Wish::SERVER_LEG, End::Server, &self.server_legs),
            direct: None,
        }
    }

    fn gate(self: &Arc<Self>, key: u64, limit: usize) -> Gate {
        Gate::new(Arc::clone(self), key, limit)
    }

    fn run(
        self: &Arc<Self>,
        namespace: &Namespace,
        session: u64,
        connections: Connections,
        wish: Wish,
    ) -> Answer {
        let ends = |(ours, theirs): (SocketAddr, SocketAddr)| {
            (Endpoint::from(ours), Endpoint::from(theirs))
        };
        let (client, server) = (ends(connections.client), ends(connections.server));
        let request = JoinRequest::new(session, client, server, wish);
        let this = Arc::clone(self);
        let ran =
            namespace.visit(move || this.run_here(names::PROGRAM_FAST_JOIN, request.as_bytes()));
        let answer = ran.map(Answer::from_bits).unwrap_or_else(|error| {
            warn!(%error, "a session could not be put on the fast path and goes on without it");
            Answer::NOTHING
        });
        debug!(session, ?wish, ?answer, "fast path");
        answer
    }

    fn run_here(&self, name: &'static str, request: &[u8]) -> io::Result<u32> {
        let program = self.programs.program(name);
        let program = program.ok_or_else(|| io::Error::other(HookError::Missing(name)))?;
        let program: &SchedClassifier = program.try_into().map_err(io::Error::other)?;
        let options = TestRunOptions {
            data_in: Some(request),
            ..TestRunOptions::new()
        };
        let ran = program.test_run(options).map_err(io::Error::other)?;
        Ok(ran.return_value)
    }

    /// Whether the socket with this key has read what was redirected to it. Where the kernel does not say, it has not: who
    /// waits asks again.
    fn is_queue_read(&self, key: u64) -> bool {
        let request = AskRequest::new(key);
        let answer = self.run_here(names::PROGRAM_FAST_ASK, request.as_bytes());
        answer.is_ok_and(|answer| answer != AskRequest::WAITS.unsigned_abs())
    }

    /// Bytes that passed us by in a session that was joined directly, to the server and to the client; asked once, at its
    /// end.
    pub fn passed_by(&self, session: u64) -> (u64, u64) {
        let mut all = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut take = |end| {
            let key = key(session, end);
            let bytes = all.get(&key, 0).unwrap_or_default();
            if let Err(error) = all.remove(&key) {
                warn!(%error, session, "an entry of the fast path stays behind");
            }
            bytes
        };
        (take(End::Client), take(End::Server))
    }

    /// Bytes that have passed us by up to now, in both directions.
    pub fn passed_by_so_far(&self, session: u64) -> u64 {
        let all = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = |end| all.get(&key(session, end), 0).unwrap_or_default();
        bytes(End::Client) + bytes(End::Server)
    }

    /// The counts as they stand.
    ///
    /// # Errors
    /// [`HookError::Map`] when the kernel does not tell.
    pub fn counts(&self) -> Result<FastPathCounts, HookError> {
        Ok(FastPathCounts {
            client_legs: self.client_legs.load(Ordering::Relaxed),
            server_legs: self.server_legs.load(Ordering::Relaxed),
            direct: self.direct.load(Ordering::Relaxed),
            left_alone: self.left_alone.load(Ordering::Relaxed),
            redirected: self.messages(Path::Redirect)? - self.of_probe.redirected,
            through_stack: self.messages(Path::Stack)? - self.of_probe.through_stack,
            delayed: self.delayed.load(Ordering::Relaxed),
        })
    }

    /// Messages that went this way, pgusher's own among them.
    fn messages(&self, path: Path) -> Result<u64, HookError> {
        let name = names::MAP_FAST_COUNTERS;
        let values = self.messages.get(&(path as u32), 0);
        let values = values.map_err(|source| HookError::Map { name, source })?;
        Ok(values.iter().sum())
    }
}

/// An application that keeps a socket open whose session is over would keep the programs with it: a socket without unread
/// bytes is let go. One that has some goes when it is closed.
impl Drop for FastPath {
    fn drop(&mut self) {
        let joined: Vec<u64> = self.sockets.keys().flatten().collect();
        for key in joined {
            if self.is_queue_read(key)
                && let Err(error) = self.sockets.remove(&key)
            {
                debug!(%error, key, "a socket has left the fast path by itself");
            }
        }
    }
}

/// Whether the kernel can have a fast path at all.
fn check(types: &SocketTypes) -> Result<(), FastPathError> {
    if !types.keeps_queue_on_reset {
        return Err(FastPathError::TooOld);
    }
    if types.offsets.is_complete() {
        Ok(())
    } else {
        Err(FastPathError::Layout)
    }
}

fn attach(programs: &mut Ebpf, sockets: &SockHash<MapData, u64>) -> Result<(), HookError> {
    let name = names::PROGRAM_FAST_SEND;
    let send: &mut SkMsg = program(programs, name)?;
    let attached = send.load().and_then(|()| send.attach(sockets.fd()));
    attached
        .map(drop)
        .map_err(|source| HookError::Program { name, source })
}

fn load(programs: &mut Ebpf, name: &'static str) -> Result<(), HookError> {
    let program: &mut SchedClassifier = program(programs, name)?;
    program
        .load()
        .map_err(|source| HookError::Program { name, source })
}
