//! Sockets that a process inside the test's cgroup connects and hands to the test.
//!
//! The hooks see the connect of that process, inside its cgroup; the test then speaks on an ordinary
//! `TcpStream`. Dialled from the test process itself the connection would bypass pgusher: that is how a test compares.

use std::io::{IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::cgroup::TestCgroup;
use crate::condition::DEADLINE;
use crate::programs;

/// A process inside the cgroup that connects when it is told to; it ends when this is dropped.
#[derive(Debug)]
pub struct Dialer {
    /// The process's standard input: addresses go in, sockets come back.
    channel: Mutex<UnixStream>,
    program: Child,
}

impl Dialer {
    /// Starts the process.
    ///
    /// # Errors
    /// When it cannot be compiled or started.
    pub fn start(cgroup: &TestCgroup) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(DEADLINE))?;
        let program = programs::c_client(cgroup, "dial")?
            .stdin(OwnedFd::from(theirs))
            .spawn()?;
        Ok(Self {
            channel: Mutex::new(ours),
            program,
        })
    }

    /// The process id that the audit trail must name.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.program.id()
    }

    /// Connects to 127.0.0.1 and `port`.
    ///
    /// # Errors
    /// When connect fails.
    pub fn dial(&self, port: u16) -> Result<TcpStream> {
        self.dial_address(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Connects to `address`; reads on the stream time out after [`DEADLINE`].
    ///
    /// # Errors
    /// When connect fails.
    pub fn dial_address(&self, address: SocketAddr) -> Result<TcpStream> {
        let mut channel = self
            .channel
            .lock()
            .map_err(|_| anyhow!("a test panicked while it dialled"))?;
        writeln!(channel, "{} {}", address.ip(), address.port())?;
        let stream =
            TcpStream::from(receive(&channel).with_context(|| format!("dialling {address}"))?);
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        // A process that is gone already is what this wants.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn receive(channel: &UnixStream) -> Result<OwnedFd> {
    let mut answer = [0_u8; 4];
    let mut room = nix::cmsg_space!(RawFd);
    let mut slices = [IoSliceMut::new(&mut answer)];
    let message = loop {
        let received = recvmsg::<()>(
            channel.as_raw_fd(),
            &mut slices,
            Some(&mut room),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        match received {
            // With a timeout on the socket even a stopped and continued process gets this.
            Err(Errno::EINTR) => {}
            received => break received?,
        }
    };
    let received = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    match received {
        Some(descriptor) => Ok(adopt(descriptor)),
        None => {
            let error = std::io::Error::from_raw_os_error(i32::from_ne_bytes(answer));
            Err(anyhow::Error::from(error).context("connect"))
        }
    }
}

/// Reads until the peer closes, and returns everything and how it closed.
///
/// # Errors
/// When nothing happens before the deadline.
pub fn read_to_close(stream: &mut TcpStream) -> Result<(Vec<u8>, Close)> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => Ok((bytes, Close::Ended)),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
            Ok((bytes, Close::Reset))
        }
        Err(error) => Err(error).with_context(|| format!("read {bytes:?} and no close")),
    }
}

/// How a peer closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// With a FIN.
    Ended,
    /// With a RST.
    Reset,
}

#[expect(
    unsafe_code,
    reason = "a received descriptor is a bare number until somebody owns it"
)]
fn adopt(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the kernel made this descriptor for us in recvmsg, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
