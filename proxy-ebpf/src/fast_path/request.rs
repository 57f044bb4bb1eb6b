//! What userspace asks of the program that joins sockets, and what it answers.

use crate::endpoint::Endpoint;

/// The ends of a session's two connections, in the order in which bytes of the client's pass them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum End {
    /// The application's socket.
    Client = 0,
    /// Ours, that accepted it.
    Accepted = 1,
    /// Ours, that dialled the server.
    Dialled = 2,
    /// The server's.
    Server = 3,
}

/// Which sockets are to be joined, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish(u32);

impl Wish {
    /// The client's with ours.
    pub const CLIENT_LEG: Self = Self(1);
    /// Ours with the server's.
    pub const SERVER_LEG: Self = Self(2);
    /// The client's with the server's.
    pub const DIRECT: Self = Self(4);
    /// Besides, redirected bytes may reach applications, not only us.
    pub const BOTH_WAYS: Self = Self(8);

    /// Both wishes.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it holds all of another.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What became of a wish: what was joined, and the last reason why something was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer(u32);

impl Answer {
    /// Nothing was joined, and there is nothing to say why.
    pub const NOTHING: Self = Self(0);
    /// The request could not be read.
    pub const MALFORMED: Self = Self(0x100);
    /// A socket is not in this network namespace, or not connected (any more).
    pub const NOT_HERE: Self = Self(0x200);
    /// The application uses its socket in a way that would show the difference.
    pub const UNSUITABLE: Self = Self(0x400);
    /// The kernel does not put the socket into the map: something else uses it.
    pub const TAKEN: Self = Self(0x800);

    /// As the program returns it.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// As the program returns it.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// This was joined.
    #[inline(always)]
    pub const fn joined(wish: Wish) -> Self {
        Self(wish.0)
    }

    /// Both answers.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it holds another.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How a socket is found: the addresses of a packet that reaches it, as the kernel wants them (`struct bpf_sock_tuple`).
///
/// Size: 40 bytes, alignment 4.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketAddresses {
    words: [u32; 9],
    /// How many bytes of the words count.
    bytes: u32,
}

impl SocketAddresses {
    /// `sizeof(tuple->ipv4)` of `struct bpf_sock_tuple`, and of its `ipv6` (include/uapi/linux/bpf.h).
    const V4_BYTES: u32 = 12;
    const V6_BYTES: u32 = 36;

    /// Of the socket that is `local` and connected with `remote`.
    pub fn new(local: &Endpoint, remote: &Endpoint) -> Self {
        let [to_high, to_low] = local.port().to_be_bytes();
        let [from_high, from_low] = remote.port().to_be_bytes();
        let ports = u32::from_ne_bytes([from_high, from_low, to_high, to_low]);
        if local.is_v4() {
            let [from, to] = [remote, local].map(|end| u32::from_ne_bytes(end.v4_octets()));
            Self {
                words: [from, to, ports, 0, 0, 0, 0, 0, 0],
                bytes: Self::V4_BYTES,
            }
        } else {
            let [a, b, c, d] = words(remote);
            let [e, f, g, h] = words(local);
            Self {
                words: [a, b, c, d, e, f, g, h, ports],
                bytes: Self::V6_BYTES,
            }
        }
    }

    /// The address of a `struct bpf_sock_tuple`.
    #[inline(always)]
    pub const fn as_mut_ptr(&mut self) -> *mut u32 {
        self.words.as_mut_ptr()
    }

    /// The length of that: one of two numbers, as the verifier has to see.
    #[inline(always)]
    pub const fn tuple_bytes(&self) -> u32 {
        if self.bytes == Self::V4_BYTES {
            Self::V4_BYTES
        } else {
            Self::V6_BYTES
        }
    }
}

fn words(endpoint: &Endpoint) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = endpoint.octets();
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

/// What the program is run with, in place of a packet.
///
/// Size: 192 bytes, alignment 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// Where the kernel expects an Ethernet header; zeros are of no protocol it knows.
    header: [u8; 16],
    head: JoinHead,
    /// By [`End`].
    sockets: [SocketAddresses; 4],
}

/// The request without the addresses.
///
/// Size: 16 bytes, alignment 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinHead {
    session: u64,
    wish: u32,
    reserved: u32,
}

impl JoinRequest {
    /// Where the head is, in bytes.
    pub const HEAD_AT: usize = 16;

    /// A wish for the sockets of `session`, a number that is never used again: the two ends, ours first, of the
    /// client's connection and of the server's.
    pub fn new(
        session: u64,
        client: (Endpoint, Endpoint),
        server: (Endpoint, Endpoint),
        wish: Wish,
    ) -> Self {
        Self {
            header: [0; 16],
            head: JoinHead {
                session,
                wish: wish.0,
                reserved: 0,
            },
            sockets: [
                SocketAddresses::new(&client.1, &client.0),
                SocketAddresses::new(&client.0, &client.1),
                SocketAddresses::new(&server.0, &server.1),
                SocketAddresses::new(&server.1, &server.0),
            ],
        }
    }

    /// Where the addresses of a socket are, in bytes.
    #[inline(always)]
    pub const fn addresses_at(end: End) -> usize {
        Self::HEAD_AT + size_of::<JoinHead>() + size_of::<SocketAddresses>() * end as usize
    }
}

/// Whether the socket with this key has read what was redirected to it; given in place of a packet, too.
///
/// Size: 24 bytes, alignment 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskRequest {
    header: [u8; 16],
    key: u64,
}

impl AskRequest {
    /// Where the key is, in bytes.
    pub const KEY_AT: usize = 16;
    /// The answer: it has, or is gone.
    pub const READ: i32 = 0;
    /// The answer: something waits.
    pub const WAITS: i32 = 1;

    /// Asks about this socket.
    pub const fn new(key: u64) -> Self {
        Self {
            header: [0; 16],
            key,
        }
    }
}

impl JoinHead {
    /// The key of one of the session's sockets.
    #[inline(always)]
    pub const fn key(&self, end: End) -> u64 {
        key(self.session, end)
    }

    /// What is wished.
    #[inline(always)]
    pub const fn wish(&self) -> Wish {
        Wish(self.wish)
    }
}

/// The key of one of a session's sockets.
#[inline(always)]
pub const fn key(session: u64, end: End) -> u64 {
    (session << 2) | end as u64
}
