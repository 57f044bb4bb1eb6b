//! `sk_msg`: decides which way each message of a socket that takes part goes.

use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::macros::sk_msg;
use aya_ebpf::programs::SkMsgContext;
use proxy_ebpf::fast_path::{Message, Pair, Path};

use super::sockets::{FAST_BYTES, FAST_COUNTERS, FAST_SOCKETS, TcpSocket, offsets, pair_of};

/// Into the receive queue of the socket that the message is redirected to (include/uapi/linux/bpf.h).
const INGRESS: u64 = aya_ebpf::bindings::BPF_F_INGRESS as u64;

#[sk_msg]
fn pgusher_fast_send(context: SkMsgContext) -> u32 {
    // SAFETY: a pointer read of a context field.
    let socket = unsafe { (*context.msg).__bindgen_anon_3.sk };
    let Some(pair) = pair_of(socket) else {
        return SK_PASS;
    };
    if !pair.may_redirect() {
        return SK_PASS;
    }
    let bytes = context.size();
    let path = look(pair, bytes).map_or(Path::Stack, |message| pair.path(&message));
    // Never SK_DROP: a socket that was refused once is refused for ever (`tcp_bpf_send_verdict`, net/ipv4/tcp_bpf.c).
    if path == Path::Stack || !redirect(&context, pair, bytes) {
        count(Path::Stack);
    }
    SK_PASS
}

/// What is known now; `None` where the kernel does not say.
#[inline(always)]
fn look(pair: &Pair, bytes: u32) -> Option<Message> {
    let kernel = offsets();
    let own = TcpSocket::at(pair.own(), kernel);
    let peer = TcpSocket::at(pair.peer(), kernel);
    Some(Message {
        bytes,
        is_stack_read: pair.is_read(own.write_seq()?, peer.copied_seq()?),
        is_queue_read: peer.is_queue_read()?,
        is_receiver_indifferent: pair.is_receiver_ours() || peer.is_indifferent(),
        needs_stack: own.has_shut_down() || peer.is_memory_short(),
    })
}

/// Redirects the message; a peer that is gone leaves it to the stack, and so does a session that is over.
#[inline(always)]
fn redirect(context: &SkMsgContext, pair: &Pair, bytes: u32) -> bool {
    let total = if pair.is_counted() {
        let Some(total) = FAST_BYTES.get_ptr_mut(pair.own_key()) else {
            return false;
        };
        Some(total)
    } else {
        None
    };
    let redirected = FAST_SOCKETS.redirect_msg(context, pair.peer_key(), INGRESS);
    if redirected != i64::from(SK_PASS) {
        return false;
    }
    count(Path::Redirect);
    if let Some(total) = total {
        // SAFETY: the value is eight aligned bytes of a map that outlives the program; this socket's sends, which hold its
        // lock, are all that writes it.
        unsafe { *total += u64::from(bytes) };
    }
    true
}

#[inline(always)]
fn count(path: Path) {
    if let Some(counter) = FAST_COUNTERS.get_ptr_mut(path as u32) {
        // SAFETY: a per-CPU slot that only this CPU writes while the program runs.
        unsafe { *counter += 1 };
    }
}
