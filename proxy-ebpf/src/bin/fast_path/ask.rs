//! Tells whether a socket's application has read what was redirected to it. Userspace runs this program with an
//! [`AskRequest`] in place of a packet.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_map_lookup_elem, bpf_sk_release};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use proxy_ebpf::fast_path::AskRequest;

use super::sockets::{FAST_SOCKETS, TcpSocket, offsets, pair_of};

#[classifier]
fn pgusher_fast_ask(context: TcContext) -> i32 {
    let Ok(key) = context.load::<u64>(AskRequest::KEY_AT) else {
        return AskRequest::READ;
    };
    let map = core::ptr::from_ref(&FAST_SOCKETS).cast_mut().cast();
    // SAFETY: the map is one of ours, the key as long as its keys; what is found is given back below.
    let socket: *mut bpf_sock = unsafe { bpf_map_lookup_elem(map, (&raw const key).cast()) }.cast();
    if socket.is_null() {
        // It is gone, and reads nothing any more.
        return AskRequest::READ;
    }
    let is_read = pair_of(socket)
        .and_then(|pair| TcpSocket::at(pair.own(), offsets()).is_queue_read())
        .unwrap_or(true);
    // SAFETY: it was found above and is used no more.
    unsafe { bpf_sk_release(socket.cast()) };
    if is_read {
        AskRequest::READ
    } else {
        AskRequest::WAITS
    }
}
