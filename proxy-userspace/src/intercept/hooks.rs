//! Loads the BPF programs and attaches them.
//!
//! States are types: [`Loaded`] programs have passed the verifier and catch nothing, [`Attached`] ones are live.
//! Dropping either leaves nothing behind in the kernel, unless it was pinned.

use std::time::Duration;

use aya::maps::{Array, HashMap, Map, RingBuf, SkStorage};
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, ProgramError, ProgramType, SockOps};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use proxy_ebpf::names;
use proxy_ebpf::offsets::KernelOffsets;
use proxy_ebpf::refusals::Refusals;
use proxy_ebpf::serving::Serving;
use tracing::warn;

use super::attached::{Attached, Hook};
use super::cgroup::Cgroup;
use super::handover::Handover;
use super::heartbeat::Heartbeat;
use super::log::HookLog;
use super::object::OBJECT;
use super::tables::{Counters, ListenerTable, OwnProcesses};
use super::unix::{Guise, UnixHookError, UnixPrograms, UnixRecords};
use super::wanted::WantedQueue;
use crate::identify::ProcessId;

/// Attached before the connect hooks, so that nothing is redirected while its answers are missing.
const PEERNAME_PROGRAMS: [&str; 2] = [names::PROGRAM_GETPEERNAME4, names::PROGRAM_GETPEERNAME6];
const CONNECT_PROGRAMS: [&str; 2] = [names::PROGRAM_CONNECT4, names::PROGRAM_CONNECT6];

/// `AllowMultiple` makes bpf_link_create fail with EINVAL; links are always multi (aya-rs/aya#1078).
const MODE: CgroupAttachMode = CgroupAttachMode::Single;

/// Why the programs could not be loaded, configured or attached.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The object as a whole was refused.
    #[error("the kernel refused the BPF object; `pgusher doctor` says what it lacks")]
    Object(#[from] aya::EbpfError),
    /// One program was refused by the verifier or could not be attached.
    #[error("the kernel refused BPF program {name}")]
    Program {
        /// The program's name.
        name: &'static str,
        /// The kernel's reason, with the verifier's log where there is one.
        source: ProgramError,
    },
    /// A map could not be read or written.
    #[error("the kernel refused an operation on BPF map {name}")]
    Map {
        /// The map's name.
        name: &'static str,
        /// The kernel's reason.
        source: aya::maps::MapError,
    },
    /// The hooks on unix sockets could not be attached.
    #[error("the kernel refused to attach the hooks on unix sockets")]
    Unix(#[source] std::io::Error),
    /// A link has no descriptor of its own.
    #[error("the kernel cannot keep BPF program {name} attached by a link; Linux 5.7 is needed")]
    Link {
        /// The program's name.
        name: &'static str,
        /// Why not.
        source: LinkError,
    },
    /// The object does not hold what the loader expects: the build is broken.
    #[error("the BPF object has no `{0}`; rebuild with `cargo xtask build`")]
    Missing(&'static str),
}

/// What the programs are told once, before they are loaded.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Where the kernel keeps what they read of the calling task.
    pub offsets: KernelOffsets,
    /// Which connects fail instead of going direct.
    pub refusals: Refusals,
    /// After which silence of ours we count as down.
    pub stall_timeout: Duration,
}

/// Programs that passed the verifier and are not attached to anything.
pub struct Loaded {
    ebpf: Ebpf,
    /// The hooks on unix sockets, once they are loaded too.
    unix: Option<UnixPrograms>,
    guise: Guise,
}

impl Loaded {
    /// Loads every program.
    ///
    /// # Errors
    /// [`HookError`] with the kernel's reason and the verifier's log.
    pub fn load(terms: &Terms) -> Result<Self, HookError> {
        let serving = terms.serving();
        let mut ebpf = EbpfLoader::new()
            .override_global(names::GLOBAL_OFFSETS, &terms.offsets, true)
            .override_global(names::GLOBAL_REFUSALS, &terms.refusals, true)
            .override_global(names::GLOBAL_SERVING, &serving, true)
            .load(OBJECT)?;
        for name in PEERNAME_PROGRAMS.into_iter().chain(CONNECT_PROGRAMS) {
            let program: &mut CgroupSockAddr = program(&mut ebpf, name)?;
            program
                .load()
                .map_err(|source| HookError::Program { name, source })?;
        }
        let name = names::PROGRAM_SOCK_OPS;
        let sock_ops: &mut SockOps = program(&mut ebpf, name)?;
        sock_ops
            .load()
            .map_err(|source| HookError::Program { name, source })?;
        Ok(Self {
            ebpf,
            unix: None,
            guise: Guise::default(),
        })
    }

    /// Loads the hooks on unix sockets too, which need a newer kernel than the others; their listeners are to have this
    /// guise. Comes before anything is taken out.
    ///
    /// # Errors
    /// [`UnixHookError`]; the others are not affected.
    pub fn load_unix(&mut self, guise: Guise) -> Result<(), UnixHookError> {
        self.guise = guise;
        self.unix = Some(UnixPrograms::load(&self.ebpf)?);
        Ok(())
    }

    /// Intercepts connects to these ports.
    ///
    /// # Errors
    /// [`HookError::Map`] when the kernel refuses an entry.
    pub fn intercept(&mut self, ports: &[u16]) -> Result<(), HookError> {
        let name = names::MAP_PORTS;
        let map = self.take(name)?;
        let mut map: HashMap<_, u16, u8> = typed(name, map)?;
        for port in ports {
            let inserted = map.insert(port, 1, 0);
            inserted.map_err(|source| HookError::Map { name, source })?;
        }
        Ok(())
    }

    /// Takes the table of exempt processes out, with our own in it; there is one keeper.
    ///
    /// # Errors
    /// [`HookError::Map`] when the kernel refuses an entry, [`HookError::Missing`] when the table was taken before.
    pub fn own_processes(&mut self, own: ProcessId) -> Result<OwnProcesses, HookError> {
        let name = names::MAP_OWN_PROCESSES;
        let map = self.take(name)?;
        let processes = OwnProcesses::new(typed(name, map)?);
        processes.exempt(own)?;
        Ok(processes)
    }

    /// Takes out what tells the programs that we live; there is one heart.
    ///
    /// # Errors
    /// [`HookError::Missing`] when it was taken before.
    pub fn heartbeat(&mut self) -> Result<Heartbeat, HookError> {
        let name = names::MAP_HEARTBEAT;
        let map = self.take(name)?;
        let slot: Array<_, u64> = typed(name, map)?;
        Ok(Heartbeat::new(slot))
    }

    /// Takes the hand-over table out; there is one taker.
    ///
    /// # Errors
    /// [`HookError::Missing`] when it was taken before.
    pub fn handover(&mut self) -> Result<Handover, HookError> {
        let name = names::MAP_HANDOVER;
        let map = self.take(name)?;
        let entries: HashMap<_, _, _> = typed(name, map)?;
        let name = names::MAP_UNIX_SOCKETS;
        let map = self.take(name)?;
        let unix: SkStorage<_, _> = typed(name, map)?;
        Ok(Handover::new(entries, UnixRecords::new(unix)))
    }

    /// Takes the table of listeners out; there is one keeper.
    ///
    /// # Errors
    /// [`HookError::Missing`] when it was taken before.
    pub fn listener_table(&mut self) -> Result<ListenerTable, HookError> {
        let name = names::MAP_LISTENERS;
        let map = self.take(name)?;
        let ports: HashMap<_, _, _> = typed(name, map)?;
        let name = names::MAP_LISTENING;
        let map = self.take(name)?;
        let marks: SkStorage<_, u32> = typed(name, map)?;
        let unix = self.unix.as_ref().map(|_| self.guise);
        Ok(ListenerTable::new(ports, marks, unix))
    }

    /// Takes out what tells of namespaces that want a listener; there is one reader.
    ///
    /// # Errors
    /// [`HookError::Missing`] when it was taken before.
    pub fn wanted(&mut self) -> Result<WantedQueue, HookError> {
        let name = names::MAP_WANTED_QUEUE;
        let map = self.take(name)?;
        let queue: RingBuf<_> = typed(name, map)?;
        let name = names::MAP_WANTED;
        let map = self.take(name)?;
        Ok(WantedQueue::new(queue, typed(name, map)?))
    }

    /// Takes the counters out; there is one reader.
    ///
    /// # Errors
    /// [`HookError::Missing`] when they were taken before.
    pub fn counters(&mut self) -> Result<Counters, HookError> {
        let name = names::MAP_COUNTERS;
        Ok(Counters::new(self.take(name)?))
    }

    fn take(&mut self, name: &'static str) -> Result<Map, HookError> {
        taken(&mut self.ebpf, name)
    }

    /// The programs' own log, to be read for as long as they run.
    ///
    /// # Errors
    /// The reason when the log's ring buffer cannot be had.
    pub fn log(&mut self) -> Result<HookLog, aya_log::Error> {
        HookLog::init(&mut self.ebpf)
    }

    /// Attaches to `cgroup`; from the return on, connects are intercepted.
    ///
    /// # Errors
    /// [`HookError::Program`]; nothing stays attached then.
    pub fn attach(mut self, cgroup: &Cgroup) -> Result<Attached, HookError> {
        let publishing = self.attach_sock_ops(cgroup)?;
        let mut answering = vec![publishing];
        for name in PEERNAME_PROGRAMS {
            answering.push(self.attach_sock_addr(name, cgroup)?);
        }
        let mut redirecting = Vec::new();
        if let Some(unix) = self.unix.take() {
            answering.extend(unix.attach_answering(cgroup).map_err(HookError::Unix)?);
            redirecting.push(unix.attach_connect(cgroup).map_err(HookError::Unix)?);
        }
        for name in CONNECT_PROGRAMS {
            redirecting.push(self.attach_sock_addr(name, cgroup)?);
        }
        Ok(Attached::new(redirecting, answering, self.ebpf))
    }

    fn attach_sock_addr(&mut self, name: &'static str, cgroup: &Cgroup) -> Result<Hook, HookError> {
        let program: &mut CgroupSockAddr = program(&mut self.ebpf, name)?;
        let attached = program.attach(cgroup.directory(), MODE);
        held(name, attached.and_then(|id| program.take_link(id)))
    }

    fn attach_sock_ops(&mut self, cgroup: &Cgroup) -> Result<Hook, HookError> {
        let name = names::PROGRAM_SOCK_OPS;
        let program: &mut SockOps = program(&mut self.ebpf, name)?;
        let attached = program.attach(cgroup.directory(), MODE);
        held(name, attached.and_then(|id| program.take_link(id)))
    }
}

/// The attached program as what is kept of it: its link's descriptor.
fn held<L>(name: &'static str, link: Result<L, ProgramError>) -> Result<Hook, HookError>
where
    FdLink: TryFrom<L, Error = LinkError>,
{
    let link = link.map_err(|source| HookError::Program { name, source })?;
    let link = FdLink::try_from(link).map_err(|source| HookError::Link { name, source })?;
    Ok(Hook::new(name, link))
}

impl Terms {
    fn serving(&self) -> Serving {
        let set_retval = BpfHelper::BPF_FUNC_set_retval;
        let can_set_errno = is_helper_supported(ProgramType::CgroupSockAddr, set_retval);
        let can_set_errno = can_set_errno.unwrap_or_else(|error| {
            warn!(%error, "cannot tell whether hooks may choose an error; refused connects get EPERM");
            false
        });
        let stall_ns = self.stall_timeout.as_nanos();
        Serving::new(u64::try_from(stall_ns).unwrap_or(u64::MAX), can_set_errno)
    }
}

/// A map that nobody has taken out before.
pub(super) fn taken(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, HookError> {
    ebpf.take_map(name).ok_or(HookError::Missing(name))
}

/// The map as what it is.
pub(super) fn typed<M: TryFrom<Map, Error = aya::maps::MapError>>(
    name: &'static str,
    map: Map,
) -> Result<M, HookError> {
    M::try_from(map).map_err(|source| HookError::Map { name, source })
}

/// The program as what it is.
pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, HookError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(HookError::Missing(name))?
        .try_into()
        .map_err(|source| HookError::Program { name, source })
}
