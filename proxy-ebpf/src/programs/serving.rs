//! Whether somebody serves: the listener is there and is ours, and userspace has been heard of.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::btf_maps::{Array, SkStorage};
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_ns, bpf_set_retval, bpf_sk_lookup_tcp, bpf_sk_release, bpf_sk_storage_get,
};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::SockAddrContext;
use proxy_ebpf::endpoint::Endpoint;
use proxy_ebpf::serving::{Presence, Serving};

use super::context::words;

/// `ECONNREFUSED` of include/uapi/asm-generic/errno.h: nobody serves there, try again later.
const ECONNREFUSED: i32 = 111;
/// `BPF_F_CURRENT_NETNS`: where the socket is that connects.
const SAME_NETNS: u64 = u64::MAX;
/// `sizeof(tuple->ipv4)` of `struct bpf_sock_tuple`, and of its `ipv6` (include/uapi/linux/bpf.h).
const V4_TUPLE_BYTES: u32 = 12;
const V6_TUPLE_BYTES: u32 = 36;

#[btf_map]
static LISTENING: SkStorage<u32> = SkStorage::new();

#[btf_map]
static HEARTBEAT: Array<u64, 1> = Array::new();

/// Set by the loader, as the other globals are.
#[unsafe(no_mangle)]
static SERVING: Serving = Serving::UNTOLD;

#[inline(always)]
fn serving() -> Serving {
    // SAFETY: reads a static; volatile because the loader changes it behind the compiler's back.
    unsafe { core::ptr::read_volatile(&raw const SERVING) }
}

/// What has become of userspace.
#[inline(always)]
pub(super) fn presence() -> Presence {
    let Some(heartbeat) = HEARTBEAT.get_ptr(0) else {
        return Presence::Down;
    };
    // SAFETY: the value is eight aligned bytes of a map that outlives the programs; the helper has no preconditions.
    let (heartbeat, now) = unsafe { (core::ptr::read_volatile(heartbeat), bpf_ktime_get_ns()) };
    serving().presence(now, heartbeat)
}

/// Whether a socket with our mark listens there.
#[inline(always)]
pub(super) fn is_listening(context: &SockAddrContext, listener: &Endpoint) -> bool {
    let (mut tuple, bytes) = tuple_to(listener);
    // SAFETY: the tuple is as long as it is said to be; what is found is given back below.
    let socket = unsafe {
        bpf_sk_lookup_tcp(
            context.as_ptr(),
            tuple.as_mut_ptr().cast(),
            bytes,
            SAME_NETNS,
            0,
        )
    };
    if socket.is_null() {
        return false;
    }
    let map = core::ptr::from_ref(&LISTENING).cast_mut().cast();
    // SAFETY: the map is one of ours, and the socket held until it is released.
    unsafe {
        let mark = bpf_sk_storage_get(map, socket.cast(), core::ptr::null_mut(), 0);
        bpf_sk_release(socket.cast());
        !mark.is_null()
    }
}

/// A connection from port 0, which nobody has: what is found for it listens. The words of a `bpf_sock_tuple`, of which the
/// kernel reads as many bytes as it is told; the others are zero, because the verifier wants to know them all.
#[inline(always)]
fn tuple_to(listener: &Endpoint) -> ([u32; 9], u32) {
    let [high, low] = listener.port().to_be_bytes();
    let ports = u32::from_ne_bytes([0, 0, high, low]);
    if listener.is_v4() {
        let ip = u32::from_ne_bytes(listener.v4_octets());
        ([ip, ip, ports, 0, 0, 0, 0, 0, 0], V4_TUPLE_BYTES)
    } else {
        let [a, b, c, d] = words(listener.octets());
        ([a, b, c, d, a, b, c, d, ports], V6_TUPLE_BYTES)
    }
}

/// Makes the connect that is about to fail say that nobody listens, where the kernel allows it.
#[inline(always)]
pub(super) fn fail_as_unserved() {
    if serving().can_set_errno() {
        // SAFETY: a helper without preconditions, called only where the loader found it.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
}
