//! Sends between sockets of the same host that go past the TCP/IP stack: what joins them, and the one decision which
//! way a message takes.
//!
//! A socket that takes part has a [`Pair`]. What it sends is put straight into its peer's receive queue (a sockhash
//! redirect into ingress), or goes through the stack as ever. Design: docs/decisions/0061-fast-path.md.
//!
//! **Invariant:** bytes arrive in the order in which they were sent, whichever way each took. A receiver reads its
//! queue of redirected bytes before what came through the stack; so a redirect waits until everything that went through
//! the stack is read, which two sequence numbers tell exactly. **Invariant:** no application has unread bytes of both kinds:
//! a read ends where the first kind ends, and it may take a short read for the end of what is there (epoll(7) says so).
//! Whoever sends to an application through the stack is pgusher, which asks before whether the queue is read.

mod request;

pub use request::{Answer, AskRequest, End, JoinHead, JoinRequest, SocketAddresses, Wish, key};

use crate::offsets::FieldOffset;

/// The most that a receiver without unread bytes is sent past the stack at once: what is larger is bulk, which the stack
/// carries as fast.
pub const FIRST_BYTES: u32 = 16 * 1024;
/// The most that may wait in a receiver's queue of redirected bytes, with what the kernel needs for each message.
pub const QUEUE_BYTES: u32 = 128 * 1024;
/// What a message of any length takes besides its bytes, in kernel memory that nobody is charged for: a `sk_msg`, which is
/// not joined with the one before it.
pub const MESSAGE_BYTES: u32 = 1024;

/// Which way a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Into the receiver's queue.
    Redirect,
    /// Through TCP/IP.
    Stack,
}

/// What is known of a message and its receiver at the moment of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its length.
    pub bytes: u32,
    /// Whether the receiver has read everything that came through the stack.
    pub is_stack_read: bool,
    /// Whether the receiver has read everything that was redirected to it.
    pub is_queue_read: bool,
    /// Whether the receiver's application cannot tell the difference as it uses its socket now.
    pub is_receiver_indifferent: bool,
    /// Whether only the stack does what the sender has to see: wait where the kernel is short of memory for TCP, fail where
    /// the sender has shut its side.
    pub needs_stack: bool,
}

/// What is kept with a socket that takes part: where its peer is, and what may be done.
///
/// Size: 48 bytes, alignment 8. Addresses are those of kernel structures; what is read there decides about the way only,
/// and a redirect goes by the key, which is never used twice.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    own: u64,
    peer: u64,
    own_key: u64,
    peer_key: u64,
    /// What has to be added to our sequence numbers to get the peer's.
    shift: u32,
    /// What was redirected since the peer's queue was last seen empty takes.
    queued: u32,
    traits: u32,
    reserved: u32,
}

/// What applies to the sends of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// Sends may be redirected.
    pub may_redirect: bool,
    /// The socket is pgusher's.
    pub is_sender_ours: bool,
    /// The peer's is.
    pub is_receiver_ours: bool,
    /// Redirected bytes are counted: pgusher does not see them.
    pub is_counted: bool,
}

impl Traits {
    const MAY_REDIRECT: u32 = 1;
    const SENDER_IS_OURS: u32 = 2;
    const RECEIVER_IS_OURS: u32 = 4;
    const IS_COUNTED: u32 = 8;

    #[inline(always)]
    const fn bits(self) -> u32 {
        (self.may_redirect as u32 * Self::MAY_REDIRECT)
            | (self.is_sender_ours as u32 * Self::SENDER_IS_OURS)
            | (self.is_receiver_ours as u32 * Self::RECEIVER_IS_OURS)
            | (self.is_counted as u32 * Self::IS_COUNTED)
    }
}

impl Pair {
    /// A socket at the address `own`, to be joined with the one at `peer`; each is (address, key).
    #[inline(always)]
    pub const fn new(own: (u64, u64), peer: (u64, u64), shift: u32, traits: Traits) -> Self {
        Self {
            own: own.0,
            peer: peer.0,
            own_key: own.1,
            peer_key: peer.1,
            shift,
            queued: 0,
            traits: traits.bits(),
            reserved: 0,
        }
    }

    /// The address of the socket itself.
    #[inline(always)]
    pub const fn own(&self) -> u64 {
        self.own
    }

    /// The address of its peer.
    #[inline(always)]
    pub const fn peer(&self) -> u64 {
        self.peer
    }

    /// The socket's own key.
    #[inline(always)]
    pub const fn own_key(&self) -> u64 {
        self.own_key
    }

    /// The key under which a redirect finds the peer.
    #[inline(always)]
    pub const fn peer_key(&self) -> u64 {
        self.peer_key
    }

    /// Whether redirected bytes are counted.
    #[inline(always)]
    pub const fn is_counted(&self) -> bool {
        self.has(Traits::IS_COUNTED)
    }

    /// Whether messages may be redirected at all.
    #[inline(always)]
    pub const fn may_redirect(&self) -> bool {
        self.has(Traits::MAY_REDIRECT)
    }

    /// Whether pgusher reads what this socket sends.
    #[inline(always)]
    pub const fn is_receiver_ours(&self) -> bool {
        self.has(Traits::RECEIVER_IS_OURS)
    }

    /// Whether a receiver that has read up to `copied_seq` has read what was sent up to `write_seq`.
    #[inline(always)]
    pub const fn is_read(&self, write_seq: u32, copied_seq: u32) -> bool {
        write_seq.wrapping_add(self.shift) == copied_seq
    }

    /// Decides which way a message takes, and keeps count of what waits.
    #[inline(always)]
    pub fn path(&mut self, message: &Message) -> Path {
        let queued = if message.is_queue_read {
            0
        } else {
            self.queued
        };
        let taken = message.bytes.saturating_add(MESSAGE_BYTES);
        let total = queued.saturating_add(taken);
        // From us to an application, nothing overtakes what is not read: pgusher keeps count of what may wait.
        let must_follow = !message.is_queue_read
            && self.has(Traits::SENDER_IS_OURS)
            && !self.has(Traits::RECEIVER_IS_OURS);
        let has_room = if message.is_queue_read {
            message.bytes <= FIRST_BYTES
        } else {
            total <= QUEUE_BYTES
        };
        let is_free = has_room && message.is_receiver_indifferent && !message.needs_stack;
        if self.has(Traits::MAY_REDIRECT) && message.is_stack_read && (must_follow || is_free) {
            self.queued = total;
            Path::Redirect
        } else {
            Path::Stack
        }
    }

    #[inline(always)]
    const fn has(&self, one: u32) -> bool {
        self.traits & one != 0
    }
}

/// Where the running kernel keeps what decides about a message. Each must be known.
///
/// Size: 44 bytes, alignment 4. Field paths are those of include/linux/tcp.h, include/linux/skmsg.h, include/net/sock.h,
/// include/linux/net.h and include/linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOffsets {
    /// `tcp_sock::write_seq`: how far the sender has written
    pub tcp_write_seq: FieldOffset,
    /// `tcp_sock::copied_seq`: how far the receiver has read
    pub tcp_copied_seq: FieldOffset,
    /// `sock::sk_user_data`: where its `sk_psock` is
    pub sock_user_data: FieldOffset,
    /// `sock::sk_socket`
    pub sock_socket: FieldOffset,
    /// `sock::sk_rcvlowat`
    pub sock_rcvlowat: FieldOffset,
    /// `sock::sk_shutdown`
    pub sock_shutdown: FieldOffset,
    /// `sock_common::skc_prot`, with which every `sock` begins
    pub sock_prot: FieldOffset,
    /// `proto::memory_pressure`
    pub proto_memory_pressure: FieldOffset,
    /// `socket::file`
    pub socket_file: FieldOffset,
    /// `file::f_flags`
    pub file_flags: FieldOffset,
    /// `sk_psock::ingress_msg`: the queue of redirected bytes
    pub psock_ingress: FieldOffset,
}

impl SocketOffsets {
    /// Nothing known: nothing is ever redirected.
    pub const ABSENT: Self = Self {
        tcp_write_seq: FieldOffset::ABSENT,
        tcp_copied_seq: FieldOffset::ABSENT,
        sock_user_data: FieldOffset::ABSENT,
        sock_socket: FieldOffset::ABSENT,
        sock_rcvlowat: FieldOffset::ABSENT,
        sock_shutdown: FieldOffset::ABSENT,
        sock_prot: FieldOffset::ABSENT,
        proto_memory_pressure: FieldOffset::ABSENT,
        socket_file: FieldOffset::ABSENT,
        file_flags: FieldOffset::ABSENT,
        psock_ingress: FieldOffset::ABSENT,
    };

    /// Whether everything was found.
    pub fn is_complete(&self) -> bool {
        [
            self.tcp_write_seq,
            self.tcp_copied_seq,
            self.sock_user_data,
            self.sock_socket,
            self.sock_rcvlowat,
            self.sock_shutdown,
            self.sock_prot,
            self.proto_memory_pressure,
            self.socket_file,
            self.file_flags,
            self.psock_ingress,
        ]
        .iter()
        .all(|offset| offset.get().is_some())
    }
}

#[cfg(test)]
mod tests;
