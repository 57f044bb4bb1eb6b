//! Asks the kernel for the TCP sockets of the calling thread's network namespace, and has it abort some of them
//! (`NETLINK_SOCK_DIAG`, include/uapi/linux/inet_diag.h).
//!
//! The crates for it know neither `SOCK_DESTROY` as a message nor the attribute that names a socket's cgroup.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The kernel fills at most 32 KiB at a time (`netlink_dump` in net/netlink/af_netlink.c).
const BUFFER_BYTES: usize = 64 * 1024;
const HEADER_BYTES: usize = 16;
/// `struct inet_diag_msg`, which attributes follow.
const MESSAGE_BYTES: usize = 72;
/// `struct inet_diag_sockid`: ports, addresses, interface and cookie.
const ID_BYTES: usize = 48;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// Both ask and answer.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// Linux 5.8; always there, whatever was asked for.
const INET_DIAG_CGROUP_ID: u16 = 21;
/// Without the flags for nested and network byte order.
const ATTRIBUTE_TYPE: u16 = 0x3fff;

/// TCP states by number (include/net/tcp_states.h).
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const LISTEN: u8 = 10;
const STATES: u32 = 1 << ESTABLISHED | 1 << SYN_SENT | 1 << LISTEN;

/// A TCP socket as the kernel describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpSocket {
    family: u8,
    state: u8,
    id: [u8; ID_BYTES],
    /// Its number in /proc/PID/fd; 0 where no descriptor leads to it.
    pub(super) inode: u32,
    /// The cgroup that it was made in, which is what the hooks go by.
    pub(super) cgroup: Option<u64>,
}

impl TcpSocket {
    pub(super) fn is_listener(&self) -> bool {
        self.state == LISTEN
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.address(0, 4)
    }

    pub(super) fn remote(&self) -> SocketAddr {
        self.address(2, 20)
    }

    /// What no other socket of this boot has.
    pub(super) fn cookie(&self) -> u64 {
        field(&self.id, 40)
            .map(u64::from_ne_bytes)
            .unwrap_or_default()
    }

    fn address(&self, port_at: usize, ip_at: usize) -> SocketAddr {
        let port = field(&self.id, port_at).map(u16::from_be_bytes);
        let ip = if i32::from(self.family) == libc::AF_INET {
            field::<4>(&self.id, ip_at).map(|ip| IpAddr::V4(Ipv4Addr::from(ip)))
        } else {
            field::<16>(&self.id, ip_at).map(|ip| Ipv6Addr::from(ip).to_canonical())
        };
        SocketAddr::new(
            ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            port.unwrap_or_default(),
        )
    }

    fn parse(message: &[u8]) -> Option<Self> {
        let attributes = message.get(MESSAGE_BYTES..)?;
        Some(Self {
            family: *message.first()?,
            state: *message.get(1)?,
            id: field(message, 4)?,
            inode: u32::from_ne_bytes(field(message, 68)?),
            cgroup: cgroup_among(attributes),
        })
    }
}

/// A conversation with the kernel about one network namespace.
pub(super) struct Diag {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Diag {
    /// Opens it in the namespace of the calling thread.
    ///
    /// # Errors
    /// The operating system's reason.
    pub(super) fn open() -> io::Result<Self> {
        let (family, kind) = (AddressFamily::NETLINK, SocketType::DGRAM);
        let protocol = Some(netlink::SOCK_DIAG);
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?;
        // From here on nobody but the kernel can send us anything.
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        let buffer = vec![0; BUFFER_BYTES];
        Ok(Self { socket, buffer })
    }

    /// Shows every listener, and every connection that is established or about to be.
    ///
    /// # Errors
    /// The operating system's reason; `ENOENT` where the kernel has no `tcp_diag`.
    pub(super) fn for_each(&mut self, mut seen: impl FnMut(TcpSocket)) -> io::Result<()> {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let family = u8::try_from(family).map_err(io::Error::other)?;
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            self.ask(SOCK_DIAG_BY_FAMILY, flags, family, &[0; ID_BYTES])?;
            self.answers(&mut seen)?;
        }
        Ok(())
    }

    /// Aborts a connection: its process gets ECONNABORTED, its peer a reset.
    ///
    /// # Errors
    /// The kernel's reason: `ENOENT` if it is gone already, `EOPNOTSUPP` without `CONFIG_INET_DIAG_DESTROY`.
    pub(super) fn abort(&mut self, socket: &TcpSocket) -> io::Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        self.ask(SOCK_DESTROY, flags, socket.family, &socket.id)?;
        self.answers(|_| ())
    }

    fn ask(&self, kind: u16, flags: u16, family: u8, id: &[u8; ID_BYTES]) -> io::Result<()> {
        let protocol = u8::try_from(libc::IPPROTO_TCP).map_err(io::Error::other)?;
        let mut body = vec![family, protocol, 0, 0];
        body.extend(STATES.to_ne_bytes());
        body.extend(id);
        let length = u32::try_from(HEADER_BYTES + body.len()).map_err(io::Error::other)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        // Sequence and port: there is one question at a time.
        message.extend([0; 8]);
        message.extend(body);
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
        Ok(())
    }

    /// Reads the answer to the last question to its end.
    fn answers(&mut self, mut seen: impl FnMut(TcpSocket)) -> io::Result<()> {
        loop {
            let (length, _) =
                rustix::net::recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC)?;
            let received = self.buffer.get(..length).ok_or_else(malformed)?;
            if read_messages(received, &mut seen)? {
                return Ok(());
            }
        }
    }
}

/// Reads the messages of one datagram; returns whether they are the last.
fn read_messages(mut rest: &[u8], seen: &mut impl FnMut(TcpSocket)) -> io::Result<bool> {
    while !rest.is_empty() {
        let length = field(rest, 0)
            .map(u32::from_ne_bytes)
            .ok_or_else(malformed)?;
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let kind = field(rest, 4)
            .map(u16::from_ne_bytes)
            .ok_or_else(malformed)?;
        let body = rest.get(HEADER_BYTES..length).ok_or_else(malformed)?;
        match kind {
            NLMSG_DONE | NLMSG_ERROR => return outcome(body).map(|()| true),
            SOCK_DIAG_BY_FAMILY => seen(TcpSocket::parse(body).ok_or_else(malformed)?),
            _ => {}
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

/// Both kinds of last message begin with an errno, negated; 0 is success.
fn outcome(body: &[u8]) -> io::Result<()> {
    match field(body, 0).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
        None => Err(malformed()),
    }
}

fn cgroup_among(mut attributes: &[u8]) -> Option<u64> {
    loop {
        let length = usize::from(u16::from_ne_bytes(field(attributes, 0)?));
        let kind = u16::from_ne_bytes(field(attributes, 2)?) & ATTRIBUTE_TYPE;
        let value = attributes.get(4..length)?;
        if kind == INET_DIAG_CGROUP_ID {
            return field(value, 0).map(u64::from_ne_bytes);
        }
        attributes = attributes.get(aligned(length)..)?;
    }
}

/// Messages and attributes begin at multiples of four bytes.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the kernel's answer about TCP sockets cannot be read",
    )
}

#[cfg(test)]
impl TcpSocket {
    /// The same under another cookie.
    pub(super) fn with_cookie(mut self, cookie: u64) -> Self {
        self.id[40..].copy_from_slice(&cookie.to_ne_bytes());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn sockets() -> Vec<TcpSocket> {
        let mut found = Vec::new();
        Diag::open()
            .unwrap()
            .for_each(|one| found.push(one))
            .unwrap();
        found
    }

    #[test]
    fn both_ends_of_a_connection_and_its_listener_are_shown() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let server = listener.local_addr().unwrap();
            let stream = TcpStream::connect(server).unwrap();
            let client = stream.local_addr().unwrap();
            let found = sockets();
            let has = |local, remote| {
                let mut found = found.iter();
                found.any(|one| one.local() == local && one.remote() == remote)
            };
            assert!(has(client, server) && has(server, client));
            let listens = |one: &&TcpSocket| one.is_listener() && one.local() == server;
            let listener = found.iter().find(listens).unwrap();
            assert!(listener.cgroup.is_some() && listener.inode != 0);
        }
    }

    #[test]
    fn a_v4_mapped_address_is_the_v4_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), server.port());
        let _stream = TcpStream::connect(mapped).unwrap();
        let is_client = |one: &TcpSocket| one.remote() == server;
        assert!(sockets().iter().any(is_client));
    }

    #[test]
    fn an_answer_cut_anywhere_is_refused_and_nothing_else() {
        let mut message = Vec::new();
        message.extend(100_u32.to_ne_bytes());
        message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message.extend([0; 10]);
        message.extend([2, ESTABLISHED]);
        message.extend([7; MESSAGE_BYTES - 2]);
        message.extend(12_u16.to_ne_bytes());
        message.extend(INET_DIAG_CGROUP_ID.to_ne_bytes());
        message.extend(9_u64.to_ne_bytes());
        let mut found = Vec::new();
        let is_last = read_messages(&message, &mut |one| found.push(one)).unwrap();
        assert!(!is_last && found[0].cgroup == Some(9));
        for length in 1..message.len() {
            let cut = message.get(..length).unwrap();
            assert!(read_messages(cut, &mut |_| ()).is_err(), "{length}");
        }
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        for length in [0_u32, 1, 15, u32::MAX] {
            let mut message = length.to_ne_bytes().to_vec();
            message.extend([0; 12]);
            assert!(read_messages(&message, &mut |_| ()).is_err(), "{length}");
        }
        for length in [0_u16, 3, 5, u16::MAX] {
            let mut attributes = length.to_ne_bytes().to_vec();
            attributes.extend([0; 2]);
            assert_eq!(cgroup_among(&attributes), None, "{length}");
        }
    }

    #[test]
    fn what_is_gone_cannot_be_aborted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let is_it = |one: &TcpSocket| one.is_listener() && one.local() == server;
        let one = sockets()
            .into_iter()
            .find(is_it)
            .unwrap()
            .with_cookie(u64::MAX - 1);
        let error = Diag::open().unwrap().abort(&one).unwrap_err();
        let expected = [libc::ENOENT, libc::EPERM].map(Some);
        assert!(expected.contains(&error.raw_os_error()), "{error}");
    }
}
