//! `sock_ops`, TCP_CONNECT_CB: the source port is known and the SYN has not left yet, so the record is published
//! before the accepting side can possibly ask for it.

use aya_ebpf::bindings::{BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock_ops};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use proxy_ebpf::endpoint::Endpoint;
use proxy_ebpf::handover::HandoverKey;
use proxy_ebpf::interception::Interception;
use proxy_ebpf::verdict::Verdict;

use super::context::{octets, read_words};
use super::maps::{count, publish, socket_record};

/// The only return value that leaves the connection alone.
const PROCEED: u32 = 1;

#[sock_ops]
fn pgusher_sock_ops(context: SockOpsContext) -> u32 {
    if context.op() != BPF_SOCK_OPS_TCP_CONNECT_CB {
        return PROCEED;
    }
    // SAFETY: a pointer read of a context field.
    let socket = unsafe { (*context.ops).__bindgen_anon_2.sk };
    let Some(interception) = socket_record(socket) else {
        return PROCEED;
    };
    if let Some(key) = handover_key(context.ops, interception) {
        count(match publish(&key, interception) {
            Ok(()) => Verdict::Published,
            Err(_) => Verdict::PublishFailed,
        });
    }
    PROCEED
}

/// The connection's key; `None` when the socket is on its way to somewhere else than our listener.
#[inline(always)]
fn handover_key(raw: *mut bpf_sock_ops, interception: &Interception) -> Option<HandoverKey> {
    let listener = interception.route().redirect();
    // SAFETY: 4-byte reads of context fields; `local_port` is in host order, `remote_port` in network order in the
    // upper half (include/uapi/linux/bpf.h).
    let (local_port, remote_port) = unsafe {
        (
            (*raw).local_port as u16,
            u32::from_be((*raw).remote_port) as u16,
        )
    };
    if remote_port != listener.port() {
        return None;
    }
    // SAFETY: as above.
    let client = unsafe {
        if listener.is_v4() {
            Endpoint::v4((*raw).local_ip4.to_ne_bytes(), local_port)
        } else {
            Endpoint::v6(octets(read_words(&raw const (*raw).local_ip6)), local_port)
        }
    };
    Some(HandoverKey::new(
        interception.origin().netns_cookie(),
        client,
        listener,
    ))
}
