//! The maps, and the decision's view of them.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::btf_maps::{HashMap, PerCpuArray, RingBuf, SkStorage};
use aya_ebpf::helpers::generated::bpf_sk_storage_delete;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::SockAddrContext;
use proxy_ebpf::decision::InterceptionState;
use proxy_ebpf::endpoint::Endpoint;
use proxy_ebpf::handover::{HandoverKey, ListenerPorts};
use proxy_ebpf::interception::Interception;
use proxy_ebpf::kernel::{CREATE, socket_storage};
use proxy_ebpf::names::{
    MAX_HANDOVER, MAX_LISTENERS, MAX_OWN_PROCESSES, MAX_PORTS, MAX_WANTED, WANTED_BYTES,
};
use proxy_ebpf::offsets::KernelOffsets;
use proxy_ebpf::refusals::Refusals;
use proxy_ebpf::serving::Presence;
use proxy_ebpf::unix::{ListenerName, UnixInterception};
use proxy_ebpf::verdict::Verdict;
use proxy_ebpf::wanted::WantedNetns;

use super::origin::started_at_ticks;
use super::serving;

#[btf_map]
static PORTS: HashMap<u16, u8, MAX_PORTS> = HashMap::new();

#[btf_map]
static OWN_PROCESSES: HashMap<u32, u64, MAX_OWN_PROCESSES> = HashMap::new();

#[btf_map]
static LISTENERS: HashMap<u64, ListenerPorts, MAX_LISTENERS> = HashMap::new();

#[btf_map]
static HANDOVER: HashMap<HandoverKey, Interception, MAX_HANDOVER> = HashMap::new();

#[btf_map]
static WANTED: HashMap<u64, u8, MAX_WANTED> = HashMap::new();

#[btf_map]
static WANTED_QUEUE: RingBuf<WantedNetns, WANTED_BYTES> = RingBuf::new();

#[btf_map]
static COUNTERS: PerCpuArray<u64, { Verdict::ALL.len() }> = PerCpuArray::new();

/// One record per redirected socket; it goes when the socket goes.
#[btf_map]
static SOCKETS: SkStorage<Interception> = SkStorage::new();

/// The same for connects to unix sockets; a socket of ours that accepted one gets a copy.
#[btf_map]
static UNIX_SOCKETS: SkStorage<UnixInterception> = SkStorage::new();

/// Set by the loader. Not `aya_ebpf::Global`: the union inside it gets a name (`MaybeUninit<…>`) that bpf-linker
/// 0.10 does not mangle and the kernel's BTF check refuses ("Invalid name").
#[unsafe(no_mangle)]
pub(super) static OFFSETS: KernelOffsets = KernelOffsets::ABSENT;

/// Set by the loader, as [`OFFSETS`] is.
#[unsafe(no_mangle)]
static REFUSALS: Refusals = Refusals::ALWAYS;

/// The maps as the decision about one connect sees them.
pub(super) struct Maps<'a> {
    pub(super) context: &'a SockAddrContext,
}

impl InterceptionState for Maps<'_> {
    #[inline(always)]
    fn intercepts_port(&self, port: u16) -> bool {
        PORTS.get_ptr(port).is_some()
    }

    #[inline(always)]
    fn is_own_process(&self, tgid: u32) -> bool {
        let Some(started) = OWN_PROCESSES.get_ptr(tgid) else {
            return false;
        };
        // The number may be another process's by now; where the kernel does not say when it was started, the number has
        // to do.
        // SAFETY: the value is eight bytes of a map that outlives the programs.
        let started = unsafe { *started };
        started == 0 || started_at_ticks().is_none_or(|ticks| ticks == started)
    }

    #[inline(always)]
    fn listener_ports(&self, netns_cookie: u64) -> Option<ListenerPorts> {
        // SAFETY: the value is four bytes of a map that outlives the programs. Userspace removes the entry of a
        // namespace in which nobody lives any more; whoever comes back at that very moment may read the ports of
        // another one, and finds no listener of ours behind them.
        LISTENERS
            .get_ptr(netns_cookie)
            .map(|ports| unsafe { *ports })
    }

    #[inline(always)]
    fn unix_listener(&self, netns_cookie: u64) -> Option<ListenerName> {
        self.listener_ports(netns_cookie)?.unix()
    }

    #[inline(always)]
    fn is_listening(&self, listener: &Endpoint) -> bool {
        serving::is_listening(self.context, listener)
    }

    #[inline(always)]
    fn presence(&self) -> Presence {
        serving::presence()
    }

    #[inline(always)]
    fn refusals(&self) -> Refusals {
        // SAFETY: reads a static; volatile because the loader changes it behind the compiler's back.
        unsafe { core::ptr::read_volatile(&raw const REFUSALS) }
    }
}

/// One of [`OFFSETS`], read by itself: the verifier knows the value of a read-only word, not that of one that went
/// through the stack, of which there is little besides.
macro_rules! offset {
    ($($field:ident).+) => {
        // SAFETY: reads a part of a static; volatile because the loader changes it behind the compiler's back.
        unsafe {
            core::ptr::read_volatile(&raw const $crate::programs::maps::OFFSETS.$($field).+)
        }
    };
}
pub(super) use offset;

#[inline(always)]
pub(super) fn count(verdict: Verdict) {
    if let Some(counter) = COUNTERS.get_ptr_mut(verdict.index()) {
        // SAFETY: a per-CPU slot that only this CPU writes while the program runs.
        unsafe { *counter += 1 };
    }
}

/// Tells userspace that a namespace needs a listener; once, until userspace has answered.
#[inline(always)]
pub(super) fn want_listener(wanted: &WantedNetns) {
    const NEW_ONLY: u64 = aya_ebpf::bindings::BPF_NOEXIST as u64;
    let cookie = wanted.netns_cookie();
    if WANTED.insert(cookie, 1, NEW_ONLY).is_ok() && WANTED_QUEUE.output(wanted, 0).is_err() {
        // Best effort: what stays behind here keeps the next connect from telling.
        let _ = WANTED.remove(cookie);
    }
}

/// Publishes a connect for the accepting side.
///
/// # Errors
/// The kernel's error when the map is full.
#[inline(always)]
pub(super) fn publish(key: &HandoverKey, interception: &Interception) -> Result<(), i32> {
    HANDOVER.insert(key, interception, 0)
}

/// The record kept with a socket, if it was redirected.
#[inline(always)]
pub(super) fn socket_record(socket: *mut bpf_sock) -> Option<&'static mut Interception> {
    socket_storage(&SOCKETS, socket, 0)
}

/// The record kept with a socket, made (zeroed) if there is none.
#[inline(always)]
pub(super) fn socket_record_or_new(socket: *mut bpf_sock) -> Option<&'static mut Interception> {
    socket_storage(&SOCKETS, socket, CREATE)
}

/// The record kept with a unix socket, if it was redirected.
#[inline(always)]
pub(super) fn unix_record(socket: *mut bpf_sock) -> Option<&'static mut UnixInterception> {
    socket_storage(&UNIX_SOCKETS, socket, 0)
}

/// The record kept with a unix socket, made (zeroed) if there is none.
#[inline(always)]
pub(super) fn unix_record_or_new(socket: *mut bpf_sock) -> Option<&'static mut UnixInterception> {
    socket_storage(&UNIX_SOCKETS, socket, CREATE)
}

/// Forgets what a socket was redirected for: it connects somewhere else now.
#[inline(always)]
pub(super) fn forget_socket(socket: *mut bpf_sock) {
    forget(&SOCKETS, socket);
}

/// Forgets what a unix socket was redirected for.
#[inline(always)]
pub(super) fn forget_unix_socket(socket: *mut bpf_sock) {
    forget(&UNIX_SOCKETS, socket);
}

#[inline(always)]
fn forget<T>(map: &SkStorage<T>, socket: *mut bpf_sock) {
    let map = core::ptr::from_ref(map).cast_mut().cast();
    // SAFETY: the map is one of ours, `socket` comes from the context; a missing record is not an error.
    unsafe { bpf_sk_storage_delete(map, socket.cast()) };
}
