//! `connect_unix`, `getpeername_unix` and `getsockname_unix` (Linux 6.7): the same for servers' unix sockets.
//!
//! A connect of ours goes to an abstract listener of its own network namespace, and its record stays with the
//! connecting socket. Both ends lead to it: the socket that accepts is made within connect(), in the caller's cgroup,
//! and its `peer` is the connecting socket. When our process asks for its own name, it gets a copy of the record; a
//! client that asks for its peer's hears what it dialled.
//!
//! aya knows neither these attach types nor calls of kernel functions. The section names are stand-ins for its parser;
//! `intercept/unix` of the loader puts in what is meant. Design: docs/decisions/0042-unix-sockets.md.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_ktime_get_boot_ns, bpf_probe_read_kernel, bpf_skc_to_unix_sock,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use proxy_ebpf::decision::InterceptionState as _;
use proxy_ebpf::kernel::read;
use proxy_ebpf::names::{CALL_CAST_TO_KERN_CTX, CALL_SET_SUN_PATH};
use proxy_ebpf::unix::{
    LISTENER_NAME_BYTES, ListenerName, PATH_BYTES, TAIL_BYTES, UnixAttempt, UnixDecision,
    not_redirected, server_port, should_intercept,
};
use proxy_ebpf::verdict::Verdict;

use super::connect::{refuse, tell};
use super::maps::{Maps, count, forget_unix_socket, offset, unix_record, unix_record_or_new};
use super::origin;

/// The hook's return value: go on with the address as it is now.
const PROCEED: i32 = 1;
/// Where the path begins in a `sockaddr_un`, behind the family.
const PATH_AT: usize = 2;

#[cgroup_sock_addr(connect4)]
fn pgusher_connect_unix(context: SockAddrContext) -> i32 {
    match intercept(&context) {
        UnixDecision::Refuse(verdict) => refuse(verdict),
        UnixDecision::Ignore | UnixDecision::Pass(_) | UnixDecision::Redirect(_) => PROCEED,
    }
}

#[cgroup_sock_addr(connect4)]
fn pgusher_getpeername_unix(context: SockAddrContext) -> i32 {
    if let Some(record) = unix_record(peer_of(&context))
        && record.is_settled()
    {
        let path = record.path();
        let length = u64::from(path.length());
        // As the kernel tells a path: with the zero behind it, if there is room for one.
        let told = if path.room()[0] == 0 || length == PATH_BYTES as u64 {
            length
        } else {
            length + 1
        };
        // Always so; the verifier has to see it.
        if told <= PATH_BYTES as u64 {
            set_path(&context, path.room().as_ptr(), told);
        }
    }
    PROCEED
}

#[cgroup_sock_addr(connect4)]
fn pgusher_getsockname_unix(context: SockAddrContext) -> i32 {
    let maps = Maps { context: &context };
    // Another connect of the same socket may be writing its record now: half of one is nobody's. The helper's call keeps
    // the compiler from copying before it has looked.
    if maps.is_own_process(context.tgid())
        && let Some(record) = unix_record(peer_of(&context))
        && record.is_settled()
        && let Some(copy) = unix_record_or_new(socket_of(&context))
    {
        *copy = *record;
    }
    PROCEED
}

/// The address in the hook's hands.
struct Address {
    /// Where the path begins, in kernel memory.
    path: u64,
    /// How many bytes of it there are, with whatever is behind its end.
    room: u64,
}

/// Decides, records, counts, and redirects.
#[inline(always)]
fn intercept(context: &SockAddrContext) -> UnixDecision {
    if is_connected(context) {
        // The kernel will say so. What the socket was redirected for stays as it is, whoever tries again.
        return UnixDecision::Ignore;
    }
    let Some(address) = address_of(context) else {
        return UnixDecision::Ignore;
    };
    let length = length_of(&address);
    let mut tail = [0_u8; TAIL_BYTES];
    // What lies before a path shorter than this is the caller's own stack in the kernel, and nobody's port.
    read_kernel(
        &mut tail,
        address
            .path
            .wrapping_add(length)
            .wrapping_sub(TAIL_BYTES as u64),
    );
    // SAFETY: 4-byte reads of context fields; the helper takes the context itself.
    let (socket_type, netns_cookie) = unsafe {
        (
            (*context.sock_addr).type_,
            bpf_get_netns_cookie(context.as_ptr()),
        )
    };
    let attempt = UnixAttempt {
        socket_type,
        port: server_port(&tail, length as usize),
        listener: listener_in(&tail, length),
        tgid: context.tgid(),
        netns_cookie,
    };
    let socket = socket_of(context);
    let maps = Maps { context };
    let mut decision = should_intercept(&attempt, &maps);
    if let UnixDecision::Redirect(listener) = decision
        && !redirect(context, &address, length, (netns_cookie, listener))
    {
        decision = not_redirected(Verdict::StorageFailed, &maps);
    }
    match decision {
        UnixDecision::Redirect(_) => count(Verdict::UnixRedirected),
        UnixDecision::Pass(verdict) | UnixDecision::Refuse(verdict) => {
            forget_unix_socket(socket);
            tell(context, verdict, netns_cookie);
        }
        UnixDecision::Ignore => forget_unix_socket(socket),
    }
    decision
}

/// Keeps the record with the socket and puts the listener's name in the address's place. Whether that could be done.
#[inline(always)]
fn redirect(
    context: &SockAddrContext,
    address: &Address,
    length: u64,
    (netns_cookie, listener): (u64, ListenerName),
) -> bool {
    let socket = socket_of(context);
    // A new one: who reads the old one goes on reading it as it was.
    forget_unix_socket(socket);
    let Some(record) = unix_record_or_new(socket) else {
        return false;
    };
    if length == 0 || length > PATH_BYTES as u64 {
        return false;
    }
    let (origin, path) = record.parts();
    origin::capture(context, netns_cookie, origin);
    let room = path.restart(length as u32);
    // SAFETY: the length was checked against the room just now.
    let read = unsafe {
        bpf_probe_read_kernel(
            room.as_mut_ptr().cast(),
            length as u32,
            address.path as *const c_void,
        )
    };
    // SAFETY: a helper without preconditions. Its call keeps the compiler from settling what is not written yet.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    record.settle(now);
    let name = listener.bytes();
    read == 0 && set_path(context, name.as_ptr(), LISTENER_NAME_BYTES as u64)
}

/// Where the address is, followed from the kernel's own context.
#[inline(always)]
fn address_of(context: &SockAddrContext) -> Option<Address> {
    // Read back from the stack: to the verifier it is a plain number then, and may be reckoned with.
    let kernel_context = kernel_context(context);
    let base = read_back(&kernel_context)?;
    let start: u64 = read(base, offset!(sock_addr_uaddr))?;
    let length: u32 = read(base, offset!(sock_addr_uaddrlen))?;
    Some(Address {
        path: start.wrapping_add(PATH_AT as u64),
        room: u64::from(length).saturating_sub(PATH_AT as u64),
    })
}

/// The length of the path: up to its first zero, or all of an abstract name.
#[inline(always)]
fn length_of(address: &Address) -> u64 {
    let mut path = [0_u8; PATH_BYTES];
    read_kernel(&mut path, address.path);
    let room = address.room.min(PATH_BYTES as u64);
    if path[0] == 0 {
        return room;
    }
    let mut length = 0;
    while length < PATH_BYTES && path[length] != 0 {
        length += 1;
    }
    room.min(length as u64)
}

/// The name that is dialled, if it has the form of a listener's.
#[inline(always)]
fn listener_in(tail: &[u8; TAIL_BYTES], length: u64) -> Option<ListenerName> {
    const AT: usize = TAIL_BYTES - LISTENER_NAME_BYTES;
    if length != LISTENER_NAME_BYTES as u64 || tail[AT] != 0 {
        return None;
    }
    let mut name = [0; LISTENER_NAME_BYTES];
    let mut at = 0;
    while at < LISTENER_NAME_BYTES {
        name[at] = tail[AT + at];
        at += 1;
    }
    Some(ListenerName::new(name))
}

/// Whether the socket has a connection already.
#[inline(always)]
fn is_connected(context: &SockAddrContext) -> bool {
    /// Of a socket of any family (include/net/tcp_states.h)
    const TCP_ESTABLISHED: u32 = 1;
    let socket = socket_of(context);
    // SAFETY: the verifier allows word reads of a full socket.
    !socket.is_null() && unsafe { (*socket).state } == TCP_ESTABLISHED
}

#[inline(always)]
fn socket_of(context: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: a pointer read of a context field.
    unsafe { (*context.sock_addr).__bindgen_anon_1.sk }
}

/// The socket at the other end of the context's own; null where there is none.
#[inline(always)]
fn peer_of(context: &SockAddrContext) -> *mut bpf_sock {
    let Some(offset) = offset!(unix_sock_peer).get() else {
        return core::ptr::null_mut();
    };
    // SAFETY: the helper takes any socket, and answers null for one that is not of this family.
    let socket = unsafe { bpf_skc_to_unix_sock(socket_of(context).cast()) }.cast::<u8>();
    if socket.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: a pointer read of a field whose place the kernel's own types tell; the verifier checks it against them.
    unsafe { core::ptr::read_volatile(socket.add(offset).cast()) }
}

/// The kernel's own form of the context (`bpf_sock_addr_kern`).
#[inline(always)]
fn kernel_context(context: &SockAddrContext) -> *mut c_void {
    // SAFETY: the loader puts the number of a kernel function with this signature in the place of the address.
    unsafe {
        let cast: unsafe extern "C" fn(*mut c_void) -> *mut c_void =
            core::mem::transmute(CALL_CAST_TO_KERN_CTX);
        cast(context.as_ptr())
    }
}

/// Puts another path into the context's address. Whether the kernel took it.
#[inline(always)]
fn set_path(context: &SockAddrContext, path: *const u8, length: u64) -> bool {
    // SAFETY: as for `kernel_context`; the caller's path is as long as it says, which the verifier checks. Of a whole
    // register it knows more than of a half.
    unsafe {
        let set: unsafe extern "C" fn(*mut c_void, *const u8, u64) -> i32 =
            core::mem::transmute(CALL_SET_SUN_PATH);
        set(kernel_context(context), path, length) == 0
    }
}

#[inline(always)]
fn read_back(pointer: &*mut c_void) -> Option<u64> {
    let mut bytes = [0_u8; 8];
    read_kernel(&mut bytes, core::ptr::from_ref(pointer) as u64).then(|| u64::from_ne_bytes(bytes))
}

/// Fills `into` from kernel memory. Whether it could be read.
#[inline(always)]
fn read_kernel<const N: usize>(into: &mut [u8; N], address: u64) -> bool {
    // SAFETY: probe_read_kernel checks the address and reports a fault instead of taking it.
    let read = unsafe {
        bpf_probe_read_kernel(into.as_mut_ptr().cast(), N as u32, address as *const c_void)
    };
    read == 0
}
