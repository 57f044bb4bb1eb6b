//! Loads, attaches and detaches the BPF programs.
//!
//! States are types: [`Loaded`] programs have passed the verifier and catch nothing, [`Attached`] ones are live.
//! Dropping either leaves nothing behind in the kernel.

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf, SkStorage};
use aya::programs::cgroup_sock_addr::CgroupSockAddrLink;
use aya::programs::sock_ops::SockOpsLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, SockOps};
use aya::{Btf, Ebpf, EbpfLoader};
use proxy_ebpf::handover::ListenerPorts;
use proxy_ebpf::names;
use proxy_ebpf::offsets::KernelOffsets;
use proxy_ebpf::refusals::Refusals;
use proxy_ebpf::verdict::Verdict;

use super::cgroup::Cgroup;
use super::handover::Handover;
use super::log::HookLog;
use super::object::OBJECT;
use super::unix::{Guise, UnixAttached, UnixHookError, UnixPrograms, UnixRecords};
use super::wanted::WantedQueue;

/// Attached before the connect hooks, so that nothing is redirected while its answers are missing.
const PEERNAME_PROGRAMS: [&str; 2] = [names::PROGRAM_GETPEERNAME4, names::PROGRAM_GETPEERNAME6];
const CONNECT_PROGRAMS: [&str; 2] = [names::PROGRAM_CONNECT4, names::PROGRAM_CONNECT6];

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
        source: aya::programs::ProgramError,
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
    /// The object does not hold what the loader expects: the build is broken.
    #[error("the BPF object has no `{0}`; rebuild with `cargo xtask build`")]
    Missing(&'static str),
}

/// What the programs shall intercept and where they send it.
#[derive(Clone, Debug)]
pub struct Targets {
    /// Destination ports.
    pub ports: Vec<u16>,
    /// The process never to intercept: our own, as the initial pid namespace numbers it.
    pub own_tgid: u32,
}

/// Programs that passed the verifier and are not attached to anything.
pub struct Loaded {
    ebpf: Ebpf,
    /// The hooks on unix sockets, once they are loaded too.
    unix: Option<UnixPrograms>,
    guise: Guise,
}

impl Loaded {
    /// Loads every program, with the offsets to read the calling task by and what it is to refuse.
    ///
    /// # Errors
    /// [`HookError`] with the kernel's reason and the verifier's log.
    pub fn load(offsets: &KernelOffsets, refusals: &Refusals) -> Result<Self, HookError> {
        let kernel_types = Btf::from_sys_fs().ok();
        let mut ebpf = EbpfLoader::new()
            .btf(kernel_types.as_ref())
            .override_global(names::GLOBAL_OFFSETS, offsets, true)
            .override_global(names::GLOBAL_REFUSALS, refusals, true)
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

    /// Fills the maps the decision looks at.
    ///
    /// # Errors
    /// [`HookError::Map`] when the kernel refuses an entry.
    pub fn configure(&mut self, targets: &Targets) -> Result<(), HookError> {
        for port in &targets.ports {
            self.set(names::MAP_PORTS, port, &1_u8)?;
        }
        self.set(names::MAP_OWN_PROCESSES, &targets.own_tgid, &1_u8)
    }

    fn set<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &'static str,
        key: &K,
        value: &V,
    ) -> Result<(), HookError> {
        let map = self.ebpf.map_mut(name).ok_or(HookError::Missing(name))?;
        HashMap::try_from(map)
            .and_then(|mut map: HashMap<&mut MapData, K, V>| map.insert(key, value, 0))
            .map_err(|source| HookError::Map { name, source })
    }

    /// Takes the hand-over table out; there is one taker.
    ///
    /// # Errors
    /// [`HookError::Missing`] when it was taken before.
    pub fn handover(&mut self) -> Result<Handover, HookError> {
        let name = names::MAP_HANDOVER;
        let map = self.ebpf.take_map(name).ok_or(HookError::Missing(name))?;
        let entries = HashMap::try_from(map).map_err(|source| HookError::Map { name, source })?;
        let name = names::MAP_UNIX_SOCKETS;
        let map = self.ebpf.take_map(name).ok_or(HookError::Missing(name))?;
        let unix = SkStorage::try_from(map).map_err(|source| HookError::Map { name, source })?;
        Ok(Handover::new(entries, UnixRecords::new(unix)))
    }

    /// Takes the table of listeners out; there is one keeper.
    ///
    /// # Errors
    /// [`HookError::Missing`] when it was taken before.
    pub fn listener_table(&mut self) -> Result<ListenerTable, HookError> {
        let name = names::MAP_LISTENERS;
        let map = self.ebpf.take_map(name).ok_or(HookError::Missing(name))?;
        let ports = HashMap::try_from(map).map_err(|source| HookError::Map { name, source })?;
        let unix = self.unix.as_ref().map(|_| self.guise);
        Ok(ListenerTable { ports, unix })
    }

    /// Takes out what tells of namespaces that want a listener; there is one reader.
    ///
    /// # Errors
    /// [`HookError::Missing`] when it was taken before.
    pub fn wanted(&mut self) -> Result<WantedQueue, HookError> {
        let name = names::MAP_WANTED_QUEUE;
        let map = self.ebpf.take_map(name).ok_or(HookError::Missing(name))?;
        let queue = RingBuf::try_from(map).map_err(|source| HookError::Map { name, source })?;
        let name = names::MAP_WANTED;
        let map = self.ebpf.take_map(name).ok_or(HookError::Missing(name))?;
        let waiting = HashMap::try_from(map).map_err(|source| HookError::Map { name, source })?;
        Ok(WantedQueue::new(queue, waiting))
    }

    /// Takes the counters out; there is one reader.
    ///
    /// # Errors
    /// [`HookError::Missing`] when they were taken before.
    pub fn counters(&mut self) -> Result<Counters, HookError> {
        let name = names::MAP_COUNTERS;
        let map = self.ebpf.take_map(name).ok_or(HookError::Missing(name))?;
        let slots = PerCpuArray::try_from(map).map_err(|source| HookError::Map { name, source })?;
        Ok(Counters { slots })
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
        let sock_ops = self.attach_sock_ops(cgroup)?;
        let mut answering = Vec::new();
        for name in PEERNAME_PROGRAMS {
            answering.push(self.attach_sock_addr(name, cgroup)?);
        }
        let unix = self.unix.take().map(|programs| programs.attach(cgroup));
        let unix = unix.transpose().map_err(HookError::Unix)?;
        let mut redirecting = Vec::new();
        for name in CONNECT_PROGRAMS {
            redirecting.push(self.attach_sock_addr(name, cgroup)?);
        }
        Ok(Attached {
            redirecting,
            unix,
            _answering: answering,
            _publishing: sock_ops,
            _ebpf: self.ebpf,
        })
    }

    fn attach_sock_addr(
        &mut self,
        name: &'static str,
        cgroup: &Cgroup,
    ) -> Result<CgroupSockAddrLink, HookError> {
        let program: &mut CgroupSockAddr = program(&mut self.ebpf, name)?;
        // `AllowMultiple` makes bpf_link_create fail with EINVAL; links are always multi (aya-rs/aya#1078).
        program
            .attach(cgroup.directory(), CgroupAttachMode::Single)
            .and_then(|id| program.take_link(id))
            .map_err(|source| HookError::Program { name, source })
    }

    fn attach_sock_ops(&mut self, cgroup: &Cgroup) -> Result<SockOpsLink, HookError> {
        let name = names::PROGRAM_SOCK_OPS;
        let program: &mut SockOps = program(&mut self.ebpf, name)?;
        program
            .attach(cgroup.directory(), CgroupAttachMode::Single)
            .and_then(|id| program.take_link(id))
            .map_err(|source| HookError::Program { name, source })
    }
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, HookError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(HookError::Missing(name))?
        .try_into()
        .map_err(|source| HookError::Program { name, source })
}

/// Live programs; dropping this detaches them all.
pub struct Attached {
    /// The connect hooks.
    redirecting: Vec<CgroupSockAddrLink>,
    /// Those on unix sockets, where they are intercepted.
    unix: Option<UnixAttached>,
    /// getpeername goes on telling redirected sockets whom they dialled while sessions drain.
    _answering: Vec<CgroupSockAddrLink>,
    /// A socket redirected before the connect hooks went may send its SYN later (TCP_FASTOPEN_CONNECT).
    _publishing: SockOpsLink,
    /// The maps must outlive the links.
    _ebpf: Ebpf,
}

impl Attached {
    /// Detaches the connect hooks: new connects go direct from here on, redirected sockets stay as they are.
    pub fn stop_redirecting(&mut self) {
        self.redirecting.clear();
        if let Some(unix) = &mut self.unix {
            unix.stop_redirecting();
        }
    }
}

/// The listeners' ports by network namespace, as the hooks see them.
pub struct ListenerTable {
    ports: HashMap<MapData, u64, ListenerPorts>,
    unix: Option<Guise>,
}

impl ListenerTable {
    /// The guise of listeners for unix sockets, if there are hooks that want any.
    pub(super) fn unix(&self) -> Option<Guise> {
        self.unix
    }

    /// Connects in the namespace go to these ports from now on.
    ///
    /// # Errors
    /// [`HookError::Map`] when the kernel refuses the entry.
    pub(super) fn insert(&mut self, cookie: u64, ports: ListenerPorts) -> Result<(), HookError> {
        let inserted = self.ports.insert(cookie, ports, 0);
        inserted.map_err(Self::failed)
    }

    /// Connects in the namespace go to no listener any more.
    ///
    /// # Errors
    /// [`HookError::Map`] when the kernel does not do it.
    pub(super) fn remove(&mut self, cookie: u64) -> Result<(), HookError> {
        self.ports.remove(&cookie).map_err(Self::failed)
    }

    fn failed(source: aya::maps::MapError) -> HookError {
        let name = names::MAP_LISTENERS;
        HookError::Map { name, source }
    }
}

/// The hooks' counters.
pub struct Counters {
    slots: PerCpuArray<MapData, u64>,
}

impl Counters {
    /// The count of one outcome over all CPUs.
    ///
    /// # Errors
    /// [`HookError::Map`] when the kernel does not answer.
    pub fn read(&self, verdict: Verdict) -> Result<u64, HookError> {
        let values = self
            .slots
            .get(&verdict.index(), 0)
            .map_err(|source| HookError::Map {
                name: names::MAP_COUNTERS,
                source,
            })?;
        Ok(values.iter().sum())
    }
}
