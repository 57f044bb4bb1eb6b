//! Reading and writing the address in a socket-address context, in [`Endpoint`] form.
//!
//! Fields are read and written word by word through volatile accesses: the verifier of older kernels refuses the
//! wider ones the compiler would otherwise join them into.

use aya_ebpf::programs::SockAddrContext;
use proxy_ebpf::endpoint::Endpoint;

/// The address in an IPv4 context.
#[inline(always)]
pub(super) fn read_v4(context: &SockAddrContext) -> Endpoint {
    let raw = context.sock_addr;
    // SAFETY: 4-byte reads of context fields, allowed in every cgroup/*4 program.
    let (ip, port) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*raw).user_ip4),
            core::ptr::read_volatile(&raw const (*raw).user_port),
        )
    };
    Endpoint::v4(ip.to_ne_bytes(), u16::from_be(port as u16))
}

/// Replaces the address in an IPv4 context.
#[inline(always)]
pub(super) fn write_v4(context: &SockAddrContext, endpoint: &Endpoint) {
    let raw = context.sock_addr;
    // SAFETY: both fields are writable in cgroup/connect4 and cgroup/getpeername4.
    unsafe {
        core::ptr::write_volatile(
            &raw mut (*raw).user_ip4,
            u32::from_ne_bytes(endpoint.v4_octets()),
        );
        core::ptr::write_volatile(
            &raw mut (*raw).user_port,
            u32::from(endpoint.port().to_be()),
        );
    }
}

/// The address in an IPv6 context.
#[inline(always)]
pub(super) fn read_v6(context: &SockAddrContext) -> Endpoint {
    let raw = context.sock_addr;
    // SAFETY: 4-byte reads of context fields, allowed in every cgroup/*6 program.
    let (words, port) = unsafe {
        (
            read_words(&raw const (*raw).user_ip6),
            core::ptr::read_volatile(&raw const (*raw).user_port),
        )
    };
    Endpoint::v6(octets(words), u16::from_be(port as u16))
}

/// Replaces the address in an IPv6 context.
#[inline(always)]
pub(super) fn write_v6(context: &SockAddrContext, endpoint: &Endpoint) {
    let raw = context.sock_addr;
    let [a, b, c, d] = words(endpoint.octets());
    // SAFETY: the fields are writable in cgroup/connect6 and cgroup/getpeername6.
    unsafe {
        let ip = (&raw mut (*raw).user_ip6).cast::<u32>();
        core::ptr::write_volatile(ip, a);
        core::ptr::write_volatile(ip.add(1), b);
        core::ptr::write_volatile(ip.add(2), c);
        core::ptr::write_volatile(ip.add(3), d);
        core::ptr::write_volatile(
            &raw mut (*raw).user_port,
            u32::from(endpoint.port().to_be()),
        );
    }
}

/// Reads the four words of an IPv6 address field.
///
/// # Safety
/// `field` must be an address field of a BPF context or of a full socket.
#[inline(always)]
pub(super) unsafe fn read_words(field: *const [u32; 4]) -> [u32; 4] {
    let first = field.cast::<u32>();
    // SAFETY: within the array, by the caller's promise.
    unsafe {
        [
            core::ptr::read_volatile(first),
            core::ptr::read_volatile(first.add(1)),
            core::ptr::read_volatile(first.add(2)),
            core::ptr::read_volatile(first.add(3)),
        ]
    }
}

/// An address field's words as octets in network order.
#[inline(always)]
pub(super) fn octets(words: [u32; 4]) -> [u8; 16] {
    let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = words.map(u32::to_ne_bytes);
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// Sixteen octets as the kernel keeps an IPv6 address.
#[inline(always)]
pub(super) fn words(octets: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}
