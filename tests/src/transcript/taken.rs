//! Asks the kernel whether the process at the other end of a loopback connection has read everything sent so far.
//!
//! What a socket has sent and not had acknowledged does not tell that: acknowledging is the kernel's doing, and it
//! takes its time. The receiving socket does: how much it received, and how much of that waits to be read. It belongs
//! to another process; `sock_diag(7)` shows it.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h)
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` (linux/netlink.h)
const REQUEST: u16 = 1;
/// `1 << (INET_DIAG_INFO - 1)` (linux/inet_diag.h): answer with a `tcp_info` as well.
const WITH_TCP_INFO: u8 = 1 << 1;
/// `INET_DIAG_INFO`
const TCP_INFO_ATTRIBUTE: u16 = 2;
/// Bytes of `nlmsghdr`, and of it with `inet_diag_msg`.
const HEADER_BYTES: usize = 16;
const ANSWER_BYTES: usize = HEADER_BYTES + 72;
/// Where `inet_diag_msg` has its state and its `idiag_rqueue`.
const STATE_AT: usize = HEADER_BYTES + 1;
const UNREAD_AT: usize = HEADER_BYTES + 56;
/// Where `tcp_info` has its `tcpi_bytes_received`.
const RECEIVED_AT: usize = 128;
/// `TCP_ESTABLISHED` and `TCP_CLOSE_WAIT` (net/tcp_states.h): states in which a process still reads.
const READING_STATES: [u8; 2] = [1, 8];

/// What became of the bytes sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The process has read them all.
    Yes,
    /// It has not.
    NotYet,
    /// It has closed its socket, or will not read any more.
    Gone,
}

/// A channel to ask.
#[derive(Debug)]
pub(super) struct Kernel(Socket);

impl Kernel {
    pub(super) fn open() -> Result<Self> {
        let (family, protocol) = (libc::AF_NETLINK, libc::NETLINK_SOCK_DIAG);
        let socket = Socket::new(
            Domain::from(family),
            Type::RAW,
            Some(Protocol::from(protocol)),
        );
        Ok(Self(socket.context("the kernel has no sock_diag")?))
    }

    /// Whether the socket at `listener` whose peer is `client` has received `sent` bytes and holds none of them.
    pub(super) fn taken(
        &self,
        listener: SocketAddr,
        client: SocketAddr,
        sent: u64,
    ) -> Result<Taken> {
        self.0.send(&request(listener, client)?)?;
        let mut answer = vec![0; 4096];
        let read = std::io::Read::read(&mut &self.0, &mut answer)?;
        answer.truncate(read);
        let kind = answer.get(4..6).and_then(|bytes| bytes.first_chunk::<2>());
        let kind = u16::from_ne_bytes(*kind.context("an answer of the kernel is cut")?);
        if kind != SOCK_DIAG_BY_FAMILY {
            // An error, which can only be that there is no such socket.
            return Ok(Taken::Gone);
        }
        let state = answer.get(STATE_AT).copied().unwrap_or_default();
        if !READING_STATES.contains(&state) {
            return Ok(Taken::Gone);
        }
        let unread = answer
            .get(UNREAD_AT..)
            .and_then(|bytes| bytes.first_chunk::<4>());
        let unread = u32::from_ne_bytes(*unread.context("no queue in the kernel's answer")?);
        let is_taken = unread == 0 && received(&answer)? >= sent;
        Ok(if is_taken { Taken::Yes } else { Taken::NotYet })
    }
}

/// `nlmsghdr` and `inet_diag_req_v2` for exactly one IPv4 socket.
fn request(local: SocketAddr, remote: SocketAddr) -> Result<Vec<u8>> {
    let mut id = Vec::new();
    id.extend(local.port().to_be_bytes());
    id.extend(remote.port().to_be_bytes());
    for address in [local, remote] {
        let SocketAddr::V4(address) = address else {
            anyhow::bail!("{address} is not IPv4");
        };
        id.extend(address.ip().octets());
        id.extend([0; 12]);
    }
    // Any interface, no cookie.
    id.extend([0_u8; 4]);
    id.extend([0xff_u8; 8]);
    let mut body = vec![2, libc::IPPROTO_TCP as u8, WITH_TCP_INFO, 0];
    body.extend([0xff; 4]);
    body.extend(id);
    let mut header = Vec::new();
    header.extend(u32::try_from(HEADER_BYTES + body.len())?.to_ne_bytes());
    header.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    header.extend(REQUEST.to_ne_bytes());
    header.extend([0_u8; 8]);
    header.extend(body);
    Ok(header)
}

/// `tcpi_bytes_received` from the attributes of an answer.
fn received(answer: &[u8]) -> Result<u64> {
    let mut rest = answer.get(ANSWER_BYTES..).unwrap_or_default();
    while let Some(([a, b, c, d], _)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        ensure!(length >= 4, "an attribute of {length} bytes");
        if u16::from_ne_bytes([*c, *d]) == TCP_INFO_ATTRIBUTE {
            let count = rest
                .get(4 + RECEIVED_AT..)
                .and_then(|bytes| bytes.first_chunk::<8>());
            return Ok(u64::from_ne_bytes(
                *count.context("a tcp_info without counts")?,
            ));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    anyhow::bail!("the kernel's answer has no tcp_info")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn bytes_are_taken_when_the_peer_has_read_them_and_not_before() {
        let kernel = Kernel::open().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let there = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(there).unwrap();
        let here = client.local_addr().unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        client.write_all(b"abc").unwrap();
        let look = |sent| kernel.taken(there, here, sent).unwrap();
        assert_eq!(look(3), Taken::NotYet);
        let mut read = [0; 3];
        accepted.read_exact(&mut read).unwrap();
        assert_eq!(look(3), Taken::Yes);
        assert_eq!(look(4), Taken::NotYet);
        drop(accepted);
        assert_eq!(look(3), Taken::Gone);
    }
}
