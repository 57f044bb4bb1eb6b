//! The one decision: is this connect redirected, and if not, why.
//!
//! It is a pure function of the attempt and of what the maps say, so that the hook, the unit tests and whatever
//! explains a connection to an operator cannot drift apart.

use crate::endpoint::Endpoint;
use crate::handover::ListenerPorts;
use crate::refusals::Refusals;
use crate::serving::Presence;
use crate::unix::ListenerName;
use crate::verdict::Verdict;

/// `IPPROTO_TCP`
pub const PROTOCOL_TCP: u32 = 6;
/// `SOCK_STREAM`
pub const TYPE_STREAM: u32 = 1;

/// A connect as the hook sees it, before anything was changed.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The socket's protocol (`IPPROTO_*`).
    pub protocol: u32,
    /// The socket's type (`SOCK_*`).
    pub socket_type: u32,
    /// Where the application wants to go.
    pub destination: Endpoint,
    /// The calling process.
    pub tgid: u32,
    /// The socket's network namespace.
    pub netns_cookie: u64,
}

/// What the decision asks of the interception's state: the BPF maps in the kernel, plain values in tests.
pub trait InterceptionState {
    /// Whether connects to this port (host order) are intercepted.
    fn intercepts_port(&self, port: u16) -> bool;
    /// Whether this process is pgusher itself.
    fn is_own_process(&self, tgid: u32) -> bool;
    /// The listener ports of a network namespace, if it has any.
    fn listener_ports(&self, netns_cookie: u64) -> Option<ListenerPorts>;
    /// Whether a listener of ours is there, over TCP.
    fn is_listening(&self, listener: &Endpoint) -> bool;
    /// Whether whoever listens is there to serve.
    fn presence(&self) -> Presence;
    /// The name of a network namespace's listener for unix sockets, if it has one.
    fn unix_listener(&self, netns_cookie: u64) -> Option<ListenerName>;
    /// What is refused rather than let go direct.
    fn refusals(&self) -> Refusals;
}

/// What becomes of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// None of our business: not TCP, or another port. Not counted.
    Ignore,
    /// Ours by port, but it goes direct; counted under the verdict.
    Pass(Verdict),
    /// connect() fails, with ECONNREFUSED if nobody serves and with EPERM otherwise; counted under the verdict.
    Refuse(Verdict),
    /// It goes to this listener; `destination` is what connect() would have reached, with `0.0.0.0` and `::`
    /// resolved to loopback as the kernel does.
    Redirect {
        /// Where the application's connection is to end.
        destination: Endpoint,
        /// The listener it is sent to.
        listener: Endpoint,
    },
}

/// Decides about one connect.
#[inline(always)]
pub fn should_intercept(attempt: &Attempt, state: &impl InterceptionState) -> Decision {
    if attempt.protocol != PROTOCOL_TCP || attempt.socket_type != TYPE_STREAM {
        return Decision::Ignore;
    }
    let destination = if attempt.destination.is_unspecified() {
        attempt.destination.with_loopback_ip()
    } else {
        attempt.destination
    };
    let presence = state.presence();
    if presence == Presence::NotYet {
        return Decision::Ignore;
    }
    if is_own_listener(attempt, &destination, state) {
        return not_redirected(Verdict::OwnListener, state);
    }
    if !state.intercepts_port(destination.port()) {
        return Decision::Ignore;
    }
    if state.is_own_process(attempt.tgid) {
        return Decision::Pass(Verdict::OwnProcess);
    }
    // Nobody opens listeners where there are none, either.
    if presence == Presence::Down {
        return not_redirected(Verdict::Unserved, state);
    }
    if destination.is_link_local_v6() {
        return not_redirected(Verdict::LinkLocal, state);
    }
    let ports = match state.listener_ports(attempt.netns_cookie) {
        Some(ports) if ports.has_tcp() => ports,
        _ => return not_redirected(Verdict::OtherNetns, state),
    };
    let Some(listener) = ports.for_destination(&destination) else {
        return not_redirected(Verdict::NoListener, state);
    };
    if !state.is_listening(&listener) {
        return not_redirected(Verdict::Unserved, state);
    }
    Decision::Redirect {
        destination,
        listener,
    }
}

/// What becomes of a connect that cannot be redirected, for the reason that the verdict gives.
#[inline(always)]
pub fn not_redirected(verdict: Verdict, state: &impl InterceptionState) -> Decision {
    if state.refusals().contains(verdict) {
        Decision::Refuse(verdict)
    } else {
        Decision::Pass(verdict)
    }
}

/// Whether somebody else dials our listener, which is for redirected connects alone. Connects to other addresses than
/// loopback pay nothing for the question.
#[inline(always)]
fn is_own_listener(
    attempt: &Attempt,
    destination: &Endpoint,
    state: &impl InterceptionState,
) -> bool {
    *destination == destination.with_loopback_ip()
        && state
            .listener_ports(attempt.netns_cookie)
            .and_then(|ports| ports.for_destination(destination))
            .is_some_and(|listener| listener == *destination)
        && !state.is_own_process(attempt.tgid)
        // If we are gone, the port is anybody's.
        && state.is_listening(destination)
}

#[cfg(test)]
mod tests;
