//! The one decision: is this connect redirected, and if not, why.
//!
//! It is a pure function of the attempt and of what the maps say, so that the hook, the unit tests and whatever
//! explains a connection to an operator cannot drift apart.

use crate::endpoint::Endpoint;
use crate::handover::ListenerPorts;
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
}

/// What becomes of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// None of our business: not TCP, or another port. Not counted.
    Ignore,
    /// Ours by port, but it goes direct; counted under the verdict.
    Pass(Verdict),
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
    if !state.intercepts_port(attempt.destination.port()) {
        return Decision::Ignore;
    }
    if state.is_own_process(attempt.tgid) {
        return Decision::Pass(Verdict::OwnProcess);
    }
    if attempt.destination.is_link_local_v6() {
        return Decision::Pass(Verdict::LinkLocal);
    }
    let Some(ports) = state.listener_ports(attempt.netns_cookie) else {
        return Decision::Pass(Verdict::OtherNetns);
    };
    let destination = if attempt.destination.is_unspecified() {
        attempt.destination.with_loopback_ip()
    } else {
        attempt.destination
    };
    match ports.for_destination(&destination) {
        Some(listener) => Decision::Redirect {
            destination,
            listener,
        },
        None => Decision::Pass(Verdict::NoListener),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::SocketAddr;

    struct State;

    impl InterceptionState for State {
        fn intercepts_port(&self, port: u16) -> bool {
            port == 5432 || port == 6432
        }
        fn is_own_process(&self, tgid: u32) -> bool {
            tgid == 100
        }
        fn listener_ports(&self, netns_cookie: u64) -> Option<ListenerPorts> {
            match netns_cookie {
                1 => Some(ListenerPorts::new(Some(15432), Some(15433))),
                2 => Some(ListenerPorts::new(Some(15432), None)),
                _ => None,
            }
        }
    }

    fn endpoint(text: &str) -> Endpoint {
        text.parse::<SocketAddr>().unwrap().into()
    }

    fn attempt(destination: &str) -> Attempt {
        Attempt {
            protocol: PROTOCOL_TCP,
            socket_type: TYPE_STREAM,
            destination: endpoint(destination),
            tgid: 7,
            netns_cookie: 1,
        }
    }

    fn redirect(destination: &str, listener: &str) -> Decision {
        Decision::Redirect {
            destination: endpoint(destination),
            listener: endpoint(listener),
        }
    }

    #[test]
    fn tcp_to_an_intercepted_port_goes_to_the_listener_of_its_family() {
        let cases = [
            (
                "192.0.2.1:5432",
                redirect("192.0.2.1:5432", "127.0.0.1:15432"),
            ),
            (
                "192.0.2.1:6432",
                redirect("192.0.2.1:6432", "127.0.0.1:15432"),
            ),
            (
                "[2001:db8::1]:5432",
                redirect("[2001:db8::1]:5432", "[::1]:15433"),
            ),
            (
                "[::ffff:192.0.2.1]:5432",
                redirect("192.0.2.1:5432", "127.0.0.1:15432"),
            ),
            (
                "0.0.0.0:5432",
                redirect("127.0.0.1:5432", "127.0.0.1:15432"),
            ),
            ("[::]:5432", redirect("[::1]:5432", "[::1]:15433")),
            ("192.0.2.1:5433", Decision::Ignore),
            ("[fe80::1]:5432", Decision::Pass(Verdict::LinkLocal)),
        ];
        for (destination, expected) in cases {
            assert_eq!(
                should_intercept(&attempt(destination), &State),
                expected,
                "{destination}"
            );
        }
    }

    #[test]
    fn other_protocols_and_socket_types_are_ignored() {
        for (protocol, socket_type) in [(17, 2), (PROTOCOL_TCP, 3), (132, TYPE_STREAM)] {
            let attempt = Attempt {
                protocol,
                socket_type,
                ..attempt("192.0.2.1:5432")
            };
            assert_eq!(should_intercept(&attempt, &State), Decision::Ignore);
        }
    }

    #[test]
    fn our_own_process_is_never_redirected() {
        let attempt = Attempt {
            tgid: 100,
            ..attempt("192.0.2.1:5432")
        };
        assert_eq!(
            should_intercept(&attempt, &State),
            Decision::Pass(Verdict::OwnProcess)
        );
    }

    #[test]
    fn a_namespace_without_a_listener_goes_direct_and_says_which_kind_of_lack() {
        let other = Attempt {
            netns_cookie: 9,
            ..attempt("192.0.2.1:5432")
        };
        assert_eq!(
            should_intercept(&other, &State),
            Decision::Pass(Verdict::OtherNetns)
        );
        let no_v6 = Attempt {
            netns_cookie: 2,
            ..attempt("[2001:db8::1]:5432")
        };
        assert_eq!(
            should_intercept(&no_v6, &State),
            Decision::Pass(Verdict::NoListener)
        );
    }
}
