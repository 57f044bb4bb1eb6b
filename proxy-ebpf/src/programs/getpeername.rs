//! `cgroup/getpeername4` and `6`: an application that asks whom it is connected to hears the address it dialled.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use proxy_ebpf::endpoint::Endpoint;

use super::context::{read_v4, read_v6, write_v4, write_v6};
use super::maps::socket_record;

/// The only return value these hooks may have.
const PROCEED: i32 = 1;

#[cgroup_sock_addr(getpeername4)]
fn pgusher_getpeername4(context: SockAddrContext) -> i32 {
    if let Some(original) = original_of(&context, read_v4(&context)) {
        write_v4(&context, &original);
    }
    PROCEED
}

#[cgroup_sock_addr(getpeername6)]
fn pgusher_getpeername6(context: SockAddrContext) -> i32 {
    if let Some(original) = original_of(&context, read_v6(&context)) {
        write_v6(&context, &original);
    }
    PROCEED
}

/// The address the application dialled, if `peer` is the listener this socket was redirected to.
#[inline(always)]
fn original_of(context: &SockAddrContext, peer: Endpoint) -> Option<Endpoint> {
    // SAFETY: a pointer read of a context field.
    let socket = unsafe { (*context.sock_addr).__bindgen_anon_1.sk };
    let route = socket_record(socket)?.route();
    (route.redirect() == peer).then(|| route.original())
}
