//! Connects to a server's unix socket: what the hooks know of one, and whether it is redirected.
//!
//! A server's socket is called `.s.PGSQL.PORT` (`UNIXSOCK_PATH`, src/include/libpq/pqcomm.h); that name is what a
//! connect is recognised by, in a directory or in the abstract name space.

use crate::decision::{InterceptionState, TYPE_STREAM};
use crate::origin::Origin;
use crate::serving::Presence;
use crate::verdict::Verdict;

/// The size of `sun_path` (include/uapi/linux/un.h).
pub const PATH_BYTES: usize = 108;
/// The end of a path that is looked at: the longest name of a server's socket, and what comes before it.
pub const TAIL_BYTES: usize = 16;
/// The name that the kernel gives a listener that asks for any: a zero byte and five hexadecimal digits
/// (`unix_autobind`, net/unix/af_unix.c).
pub const LISTENER_NAME_BYTES: usize = 6;
/// What comes before the port.
const PREFIX: [u8; 9] = *b".s.PGSQL.";
/// The digits of the largest port.
const MAX_DIGITS: usize = 5;

/// The abstract name of a listener of ours: unknown to any other network namespace, and nobody else's while it
/// listens.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerName([u8; LISTENER_NAME_BYTES]);

impl ListenerName {
    /// Makes a name of its bytes, the zero byte first.
    #[inline(always)]
    pub const fn new(bytes: [u8; LISTENER_NAME_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes, the zero byte first.
    #[inline(always)]
    pub const fn bytes(&self) -> [u8; LISTENER_NAME_BYTES] {
        self.0
    }
}

/// The name an application dialled: `sun_path` up to its end.
///
/// Size: 112 bytes, alignment 4.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialledPath {
    bytes: [u8; PATH_BYTES],
    length: u32,
}

impl DialledPath {
    /// Makes a path of what can be one: 1 to 108 bytes.
    pub fn new(path: &[u8]) -> Option<Self> {
        let mut bytes = [0; PATH_BYTES];
        bytes.get_mut(..path.len())?.copy_from_slice(path);
        let length = u32::try_from(path.len())
            .ok()
            .filter(|length| *length > 0)?;
        Some(Self { bytes, length })
    }

    /// The room for its bytes, all zero, and for their number, to be filled in place.
    #[inline(always)]
    pub const fn restart(&mut self, length: u32) -> &mut [u8; PATH_BYTES] {
        self.bytes = [0; PATH_BYTES];
        self.length = length;
        &mut self.bytes
    }

    /// All of its room: the path, and zeros behind it.
    #[inline(always)]
    pub const fn room(&self) -> &[u8; PATH_BYTES] {
        &self.bytes
    }

    /// How many bytes it is long.
    #[inline(always)]
    pub const fn length(&self) -> u32 {
        self.length
    }

    /// The path. A name in the abstract name space begins with a zero byte.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length as usize).unwrap_or_default()
    }

    /// The port in its name.
    pub fn port(&self) -> Option<u16> {
        let path = self.bytes();
        let mut tail = [0; TAIL_BYTES];
        let taken = path.len().min(TAIL_BYTES);
        let end = path.get(path.len() - taken..)?;
        tail.get_mut(TAIL_BYTES - taken..)?.copy_from_slice(end);
        server_port(&tail, path.len())
    }
}

/// One redirected connect to a unix socket, kept in the connecting socket's own storage.
///
/// Size: 400 bytes, alignment 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixInterception {
    origin: Origin,
    /// 0 while the rest is written.
    connected_at_ns: u64,
    path: DialledPath,
}

impl UnixInterception {
    /// Gives out what is to be filled in, once: a record is never written anew, because its reader takes no lock.
    #[inline(always)]
    pub const fn parts(&mut self) -> (&mut Origin, &mut DialledPath) {
        (&mut self.origin, &mut self.path)
    }

    /// Says that everything is filled in, with the time since boot.
    #[inline(always)]
    pub const fn settle(&mut self, connected_at_ns: u64) {
        self.connected_at_ns = connected_at_ns;
    }

    /// Whether everything is filled in.
    #[inline(always)]
    pub const fn is_settled(&self) -> bool {
        self.connected_at_ns != 0
    }

    /// Who asked.
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// For what.
    #[inline(always)]
    pub const fn path(&self) -> &DialledPath {
        &self.path
    }
}

/// A connect to a unix socket as the hook sees it.
#[derive(Clone, Copy, Debug)]
pub struct UnixAttempt {
    /// The socket's type (`SOCK_*`).
    pub socket_type: u32,
    /// The port in the name of the socket that is dialled, if that is a server's.
    pub port: Option<u16>,
    /// The name that is dialled, if it may be a listener's.
    pub listener: Option<ListenerName>,
    /// The calling process.
    pub tgid: u32,
    /// The socket's network namespace.
    pub netns_cookie: u64,
}

/// What becomes of it; as [`crate::decision::Decision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnixDecision {
    /// None of our business.
    Ignore,
    /// It goes direct; counted under the verdict.
    Pass(Verdict),
    /// connect() fails; counted under the verdict.
    Refuse(Verdict),
    /// It goes to this listener.
    Redirect(ListenerName),
}

/// Decides about one connect.
#[inline(always)]
pub fn should_intercept(attempt: &UnixAttempt, state: &impl InterceptionState) -> UnixDecision {
    if attempt.socket_type != TYPE_STREAM {
        return UnixDecision::Ignore;
    }
    let is_to_server = attempt.port.is_some_and(|port| state.intercepts_port(port));
    if !is_to_server && attempt.listener.is_none() {
        return UnixDecision::Ignore;
    }
    let presence = state.presence();
    if matches!(presence, Presence::NotYet) {
        return UnixDecision::Ignore;
    }
    if let Some(dialled) = attempt.listener {
        return match state.unix_listener(attempt.netns_cookie) {
            Some(ours) if ours == dialled && is_refused_to(attempt, state) => {
                not_redirected(Verdict::OwnListener, state)
            }
            _ => UnixDecision::Ignore,
        };
    }
    if state.is_own_process(attempt.tgid) {
        return UnixDecision::Pass(Verdict::OwnProcess);
    }
    if matches!(presence, Presence::Down) {
        return not_redirected(Verdict::Unserved, state);
    }
    if state.listener_ports(attempt.netns_cookie).is_none() {
        return not_redirected(Verdict::OtherNetns, state);
    }
    match state.unix_listener(attempt.netns_cookie) {
        None => not_redirected(Verdict::NoListener, state),
        Some(_) if !is_there(attempt, state) => not_redirected(Verdict::Unserved, state),
        Some(listener) => UnixDecision::Redirect(listener),
    }
}

/// Whether the name is still ours, and the caller is not.
#[inline(always)]
fn is_refused_to(attempt: &UnixAttempt, state: &impl InterceptionState) -> bool {
    // If we are gone, the name is anybody's.
    !state.is_own_process(attempt.tgid) && is_there(attempt, state)
}

/// Whether the process that listens for unix sockets is there. No hook can look a unix socket up by its name, and who
/// binds that of one that has ended must get nothing; but a process's sockets end together, and its listener for TCP can
/// be looked up. Where loopback is down there is none, and the heartbeat has to do.
#[inline(always)]
fn is_there(attempt: &UnixAttempt, state: &impl InterceptionState) -> bool {
    let ports = state.listener_ports(attempt.netns_cookie);
    match ports.and_then(|ports| ports.any_tcp()) {
        Some(listener) => state.is_listening(&listener),
        None => matches!(state.presence(), Presence::Alive),
    }
}

/// What becomes of a connect that cannot be redirected.
#[inline(always)]
pub fn not_redirected(verdict: Verdict, state: &impl InterceptionState) -> UnixDecision {
    if state.refusals().contains(verdict) {
        UnixDecision::Refuse(verdict)
    } else {
        UnixDecision::Pass(verdict)
    }
}

/// The port of the server whose socket's path ends with `tail` and is `length` bytes long: `.s.PGSQL.` and decimal
/// digits without leading zeros, behind a slash or from the start. In an abstract name the zero byte is the start.
#[inline(always)]
pub fn server_port(tail: &[u8; TAIL_BYTES], length: usize) -> Option<u16> {
    let mut port = 0_u32;
    let mut scale = 1;
    let mut digits = 0;
    // From the end, at positions known when this is compiled: the verifier follows every one of them.
    while digits < MAX_DIGITS {
        let digit = *tail.get(TAIL_BYTES - 1 - digits)?;
        if !digit.is_ascii_digit() {
            break;
        }
        port += u32::from(digit - b'0') * scale;
        scale *= 10;
        digits += 1;
        if digit != b'0' && is_server_name(tail, length, digits) {
            return u16::try_from(port).ok();
        }
    }
    None
}

/// Whether the prefix comes before so many digits, and is all of the last component that does.
#[inline(always)]
fn is_server_name(tail: &[u8; TAIL_BYTES], length: usize, digits: usize) -> bool {
    let start = TAIL_BYTES - digits - PREFIX.len();
    let mut at = 0;
    while at < PREFIX.len() {
        if tail.get(start + at) != PREFIX.get(at) {
            return false;
        }
        at += 1;
    }
    let before = length.wrapping_sub(digits + PREFIX.len());
    before == 0 || matches!(tail.get(start - 1), Some(b'/' | 0))
}

#[cfg(test)]
mod tests;
