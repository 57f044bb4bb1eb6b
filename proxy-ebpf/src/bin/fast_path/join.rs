//! Joins the sockets of a session. Userspace runs this program with a [`JoinRequest`] in place of a packet, from inside the
//! network namespace in which the sockets are: a program can hold a socket of somebody else's, a process only its own.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_NOEXIST, bpf_sock};
use aya_ebpf::helpers::generated::{
    bpf_map_delete_elem, bpf_map_update_elem, bpf_sk_lookup_tcp, bpf_sk_release,
};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use proxy_ebpf::fast_path::{
    Answer, End, JoinHead, JoinRequest, Pair, SocketAddresses, Traits, Wish,
};

use super::sockets::{FAST_BYTES, FAST_SOCKETS, TcpSocket, new_pair_of, offsets};

/// `BPF_F_CURRENT_NETNS`: where whoever runs the program is.
const SAME_NETNS: u64 = u64::MAX;
/// `BPF_TCP_ESTABLISHED` of include/uapi/linux/bpf.h.
const ESTABLISHED: u32 = 1;

#[classifier]
fn pgusher_fast_join(context: TcContext) -> i32 {
    let Ok(head) = context.load::<JoinHead>(JoinRequest::HEAD_AT) else {
        return Answer::MALFORMED.bits() as i32;
    };
    let wish = head.wish();
    let answer = if wish.has(Wish::DIRECT) {
        join_directly(&context, &head).unwrap_or(Answer::NOT_HERE)
    } else {
        join_legs(&context, &head, wish)
    };
    answer.bits() as i32
}

#[inline(always)]
fn join_legs(context: &TcContext, head: &JoinHead, wish: Wish) -> Answer {
    let mut answer = Answer::NOTHING;
    for (leg, ends) in [
        (Wish::CLIENT_LEG, (End::Accepted, End::Client)),
        (Wish::SERVER_LEG, (End::Dialled, End::Server)),
    ] {
        if wish.has(leg) {
            let joined = join_leg(context, head, ends, leg);
            answer = answer.and(joined.unwrap_or(Answer::NOT_HERE));
        }
    }
    answer
}

/// A socket that is held, with what is kept of it.
struct Held {
    socket: *mut bpf_sock,
    pair: &'static mut Pair,
    key: u64,
}

impl Held {
    /// Its address in kernel memory. Taken from where it was put: to the verifier the socket itself is no number.
    #[inline(always)]
    fn address(&mut self) -> u64 {
        let address = self.socket as u64;
        let known = Pair::new((address, self.key), (0, 0), 0, NO_PART);
        // SAFETY: writes and reads a map value that lives as long as the socket, which is held.
        unsafe {
            core::ptr::write_volatile(self.pair, known);
            core::ptr::read_volatile(self.pair).own()
        }
    }

    /// Puts it into the map, with what applies to its sends from then on.
    #[inline(always)]
    fn enter(&mut self, pair: Pair) -> bool {
        *self.pair = pair;
        let map = core::ptr::from_ref(&FAST_SOCKETS).cast_mut().cast();
        let key = core::ptr::from_mut(&mut self.key).cast();
        // SAFETY: the map is one of ours, the key as long as its keys, and the socket held.
        let updated =
            unsafe { bpf_map_update_elem(map, key, self.socket.cast(), u64::from(BPF_NOEXIST)) };
        if updated != 0 {
            *self.pair = Pair::new((0, 0), (0, 0), 0, NO_PART);
        }
        updated == 0
    }
}

impl Held {
    /// Takes it out of the map again; nothing was redirected to it.
    #[inline(always)]
    fn leave(&mut self) {
        *self.pair = Pair::new((0, 0), (0, 0), 0, NO_PART);
        let map = core::ptr::from_ref(&FAST_SOCKETS).cast_mut().cast();
        // SAFETY: the map is one of ours, and the key as long as its keys.
        unsafe { bpf_map_delete_elem(map, core::ptr::from_mut(&mut self.key).cast()) };
    }
}

impl Drop for Held {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: it was found, and is used no more.
        unsafe { bpf_sk_release(self.socket.cast()) };
    }
}

/// A socket of which nothing is redirected.
const NO_PART: Traits = Traits {
    may_redirect: false,
    is_sender_ours: false,
    is_receiver_ours: false,
    is_counted: false,
};

/// Joins our socket and its peer; `None` if one is not here.
#[inline(always)]
fn join_leg(
    context: &TcContext,
    head: &JoinHead,
    (ours, theirs): (End, End),
    wish: Wish,
) -> Option<Answer> {
    let mut own = hold(context, head, ours)?;
    let mut peer = hold(context, head, theirs)?;
    let reaches_it = head.wish().has(Wish::BOTH_WAYS);
    Some(join(&mut own, &mut peer, wish, reaches_it))
}

#[inline(always)]
fn join(own: &mut Held, peer: &mut Held, wish: Wish, reaches_it: bool) -> Answer {
    let kernel = offsets();
    let (own_at, peer_at) = ((own.address(), own.key), (peer.address(), peer.key));
    if !TcpSocket::at(peer_at.0, kernel).is_indifferent() {
        return Answer::UNSUITABLE;
    }
    let from_us = Traits {
        may_redirect: reaches_it,
        is_sender_ours: true,
        ..NO_PART
    };
    let to_us = Traits {
        may_redirect: true,
        is_receiver_ours: true,
        ..NO_PART
    };
    if !own.enter(Pair::new(own_at, peer_at, 0, from_us)) {
        return Answer::TAKEN;
    }
    if peer.enter(Pair::new(peer_at, own_at, 0, to_us)) {
        Answer::joined(wish)
    } else {
        own.leave();
        Answer::TAKEN
    }
}

/// Joins the client's socket and the server's. Whatever still goes through the stack goes through pgusher, byte for byte;
/// so a distance between the sequence numbers of the two connections holds for good.
#[inline(always)]
fn join_directly(context: &TcContext, head: &JoinHead) -> Option<Answer> {
    Session {
        client: hold(context, head, End::Client)?,
        accepted: hold(context, head, End::Accepted)?,
        dialled: hold(context, head, End::Dialled)?,
        server: hold(context, head, End::Server)?,
    }
    .join()
}

/// All sockets of a session.
struct Session {
    client: Held,
    accepted: Held,
    dialled: Held,
    server: Held,
}

impl Session {
    #[inline(always)]
    fn join(&mut self) -> Option<Answer> {
        let kernel = offsets();
        let client = (self.client.address(), self.client.key);
        let (accepted, dialled) = (self.accepted.address(), self.dialled.address());
        let server = (self.server.address(), self.server.key);
        let at = |address| TcpSocket::at(address, kernel);
        if !at(client.0).is_indifferent() || !at(server.0).is_indifferent() {
            return Some(Answer::UNSUITABLE);
        }
        // What was read here was written there: userspace holds nothing back at this moment.
        let (to_server, from_client) = (at(dialled).write_seq()?, at(accepted).copied_seq()?);
        let (to_client, from_server) = (at(accepted).write_seq()?, at(dialled).copied_seq()?);
        let direct = Traits {
            may_redirect: true,
            is_counted: true,
            ..NO_PART
        };
        let forth = to_server.wrapping_sub(from_client);
        let back = to_client.wrapping_sub(from_server);
        // Nothing of theirs is redirected that cannot be counted, so the counters are there first: from when both are in the
        // map on, either may send to the other, and could not leave without losing that.
        if FAST_BYTES.insert(client.1, 0, 0).is_ok() && FAST_BYTES.insert(server.1, 0, 0).is_ok() {
            // Ours stay as they are: of what they send, nothing is redirected.
            if self.client.enter(Pair::new(client, server, forth, direct)) {
                if self.server.enter(Pair::new(server, client, back, direct)) {
                    return Some(Answer::joined(Wish::DIRECT));
                }
                self.client.leave();
            }
        }
        let _ = FAST_BYTES.remove(client.1);
        let _ = FAST_BYTES.remove(server.1);
        Some(Answer::TAKEN)
    }
}

/// Finds the connected socket at one end and holds it.
#[inline(always)]
fn hold(context: &TcContext, head: &JoinHead, end: End) -> Option<Held> {
    let socket = find(context, end)?;
    // SAFETY: a field of a socket that is held.
    let is_connected = unsafe { (*socket).state } == ESTABLISHED;
    match new_pair_of(socket) {
        Some(pair) if is_connected => Some(Held {
            socket,
            pair,
            key: head.key(end),
        }),
        _ => {
            // SAFETY: it was found above and is used no more.
            unsafe { bpf_sk_release(socket.cast()) };
            None
        }
    }
}

/// Finds a socket, which has to be given back.
#[inline(always)]
fn find(context: &TcContext, end: End) -> Option<*mut bpf_sock> {
    let mut addresses: SocketAddresses = context.load(JoinRequest::addresses_at(end)).ok()?;
    let bytes = addresses.tuple_bytes();
    // SAFETY: the tuple is as long as it is said to be.
    let socket = unsafe {
        bpf_sk_lookup_tcp(
            context.as_ptr(),
            addresses.as_mut_ptr().cast(),
            bytes,
            SAME_NETNS,
            0,
        )
    };
    (!socket.is_null()).then_some(socket)
}
