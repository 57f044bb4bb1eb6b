//! The maps, and what kernel memory says of a socket.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::btf_maps::{HashMap, PerCpuArray, SkStorage, SockHash};
use aya_ebpf::macros::btf_map;
use proxy_ebpf::fast_path::{Pair, SocketOffsets};
use proxy_ebpf::kernel::{CREATE, read, socket_storage};
use proxy_ebpf::names::MAX_FAST_SOCKETS;
use proxy_ebpf::offsets::FieldOffset;

#[btf_map]
pub(super) static FAST_SOCKETS: SockHash<u64, MAX_FAST_SOCKETS> = SockHash::new();

#[btf_map]
pub(super) static FAST_BYTES: HashMap<u64, u64, MAX_FAST_SOCKETS> = HashMap::new();

#[btf_map]
pub(super) static FAST_COUNTERS: PerCpuArray<u64, 2> = PerCpuArray::new();

#[btf_map]
static FAST_PAIRS: SkStorage<Pair> = SkStorage::new();

/// Set by the loader.
#[unsafe(no_mangle)]
static FAST_OFFSETS: SocketOffsets = SocketOffsets::ABSENT;

/// `O_NONBLOCK` of include/uapi/asm-generic/fcntl.h.
const O_NONBLOCK: u32 = 0o4000;
/// What `sk_user_data` says besides its address, in the bits that an address leaves free (include/net/sock.h).
const USER_DATA_FLAGS: u64 = 7;
/// `SK_USER_DATA_PSOCK`: the address is that of a `sk_psock`.
const IS_PSOCK: u64 = 4;

#[inline(always)]
pub(super) fn offsets() -> SocketOffsets {
    // SAFETY: reads a static; volatile because the loader changes it behind the compiler's back.
    unsafe { core::ptr::read_volatile(&raw const FAST_OFFSETS) }
}

/// What is kept with a socket, if it takes part.
#[inline(always)]
pub(super) fn pair_of(socket: *mut bpf_sock) -> Option<&'static mut Pair> {
    socket_storage(&FAST_PAIRS, socket, 0)
}

/// The same, made (zeroed) if there is none.
#[inline(always)]
pub(super) fn new_pair_of(socket: *mut bpf_sock) -> Option<&'static mut Pair> {
    socket_storage(&FAST_PAIRS, socket, CREATE)
}

/// A TCP socket in kernel memory. What is read of one that is gone is meaningless, and harmless.
#[derive(Clone, Copy)]
pub(super) struct TcpSocket {
    address: u64,
    kernel: SocketOffsets,
}

impl TcpSocket {
    #[inline(always)]
    pub(super) fn at(address: u64, kernel: SocketOffsets) -> Self {
        Self { address, kernel }
    }

    /// How far it has written into the stack.
    #[inline(always)]
    pub(super) fn write_seq(&self) -> Option<u32> {
        read(self.address, self.kernel.tcp_write_seq)
    }

    /// How far its application has read of what came through the stack.
    #[inline(always)]
    pub(super) fn copied_seq(&self) -> Option<u32> {
        read(self.address, self.kernel.tcp_copied_seq)
    }

    /// Whether everything redirected to it is read: its queue is a list whose head points at itself.
    #[inline(always)]
    pub(super) fn is_queue_read(&self) -> Option<bool> {
        let user_data: u64 = read(self.address, self.kernel.sock_user_data)?;
        if user_data & IS_PSOCK == 0 {
            return None;
        }
        let head = (user_data & !USER_DATA_FLAGS) + self.kernel.psock_ingress.get()? as u64;
        let first: u64 = read(head, FieldOffset::new(0))?;
        Some(first == head)
    }

    /// Whether its application cannot tell how bytes come: it never waits inside a read, and asks for any number of them.
    #[inline(always)]
    pub(super) fn is_indifferent(&self) -> bool {
        self.reads_without_waiting().unwrap_or(false)
    }

    #[inline(always)]
    fn reads_without_waiting(&self) -> Option<bool> {
        let low_water: u32 = read(self.address, self.kernel.sock_rcvlowat)?;
        let socket: u64 = read(self.address, self.kernel.sock_socket)?;
        let file: u64 = read(socket, self.kernel.socket_file)?;
        let flags: u32 = read(file, self.kernel.file_flags)?;
        Some(flags & O_NONBLOCK != 0 && low_water == 1)
    }

    /// Whether its application has said that it sends no more (`SEND_SHUTDOWN` of include/net/sock.h).
    #[inline(always)]
    pub(super) fn has_shut_down(&self) -> bool {
        const SEND_SHUTDOWN: u8 = 2;
        let shut: Option<u8> = read(self.address, self.kernel.sock_shutdown);
        shut.is_none_or(|shut| shut & SEND_SHUTDOWN != 0)
    }

    /// Whether the kernel is short of memory for TCP; also where it does not say.
    #[inline(always)]
    pub(super) fn is_memory_short(&self) -> bool {
        let pressure = || -> Option<u64> {
            let protocol: u64 = read(self.address, self.kernel.sock_prot)?;
            let pressure: u64 = read(protocol, self.kernel.proto_memory_pressure)?;
            read(pressure, FieldOffset::new(0))
        };
        pressure() != Some(0)
    }
}
