//! The hooks' tables as userspace keeps them: listeners, exempt processes, counters.

use std::net::TcpListener;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, SkStorage};
use aya::pin::PinError;
use proxy_ebpf::handover::ListenerPorts;
use proxy_ebpf::names;
use proxy_ebpf::verdict::Verdict;

use super::hooks::HookError;
use super::unix::Guise;
use crate::identify::ProcessId;

/// The listeners as the hooks see them: their ports by network namespace, and a mark on each socket.
pub struct ListenerTable {
    ports: HashMap<MapData, u64, ListenerPorts>,
    marks: SkStorage<MapData, u32>,
    unix: Option<Guise>,
}

impl ListenerTable {
    pub(super) fn new(
        ports: HashMap<MapData, u64, ListenerPorts>,
        marks: SkStorage<MapData, u32>,
        unix: Option<Guise>,
    ) -> Self {
        Self { ports, marks, unix }
    }

    /// The guise of listeners for unix sockets, if there are hooks that want any.
    pub(super) fn unix(&self) -> Option<Guise> {
        self.unix
    }

    /// This socket is a listener of ours, for as long as it lives; over TCP, because no hook looks up others.
    ///
    /// # Errors
    /// [`HookError::Map`] when the kernel does not do it.
    pub(super) fn mark(&mut self, listener: &TcpListener) -> Result<(), HookError> {
        let name = names::MAP_LISTENING;
        let marked = self.marks.insert(listener, 1, 0);
        marked.map_err(|source| HookError::Map { name, source })
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

    fn failed(source: MapError) -> HookError {
        let name = names::MAP_LISTENERS;
        HookError::Map { name, source }
    }
}

/// The processes whose connects are never redirected.
pub struct OwnProcesses {
    started: Mutex<HashMap<MapData, u32, u64>>,
}

impl OwnProcesses {
    pub(super) fn new(started: HashMap<MapData, u32, u64>) -> Self {
        Self {
            started: Mutex::new(started),
        }
    }

    /// Exempts a process.
    ///
    /// # Errors
    /// [`HookError::Map`] when the kernel refuses the entry.
    pub fn exempt(&self, process: ProcessId) -> Result<(), HookError> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let inserted = started.insert(process.pid, process.started_at_ticks, 0);
        inserted.map_err(Self::failed)
    }

    /// Takes a process's exemption away again.
    ///
    /// # Errors
    /// [`HookError::Map`] when the kernel does not do it.
    pub fn forget(&self, process: ProcessId) -> Result<(), HookError> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        match started.remove(&process.pid) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(source) => Err(Self::failed(source)),
        }
    }

    fn failed(source: MapError) -> HookError {
        let name = names::MAP_OWN_PROCESSES;
        HookError::Map { name, source }
    }
}

/// The hooks' counters.
pub struct Counters {
    map: Map,
}

impl Counters {
    pub(super) fn new(map: Map) -> Self {
        Self { map }
    }

    /// Those that another process pinned, of the same layout.
    ///
    /// # Errors
    /// [`MapError`] when they are not there, or not counters.
    pub(super) fn from_pin(path: &Path) -> Result<Self, MapError> {
        let map = Map::PerCpuArray(MapData::from_pin(path)?);
        PerCpuArray::<_, u64>::try_from(&map)?;
        Ok(Self { map })
    }

    /// Pins them there.
    ///
    /// # Errors
    /// [`PinError`]
    pub(super) fn pin(&self, path: &Path) -> Result<(), PinError> {
        self.map.pin(path)
    }

    /// The count of one outcome over all CPUs.
    ///
    /// # Errors
    /// [`HookError::Map`] when the kernel does not answer.
    pub fn read(&self, verdict: Verdict) -> Result<u64, HookError> {
        let name = names::MAP_COUNTERS;
        let values = PerCpuArray::<_, u64>::try_from(&self.map)
            .and_then(|slots| slots.get(&verdict.index(), 0))
            .map_err(|source| HookError::Map { name, source })?;
        Ok(values.iter().sum())
    }
}
