use super::*;
use core::net::SocketAddr;

/// Listeners in two namespaces, what is refused, and whether we are well.
struct State {
    refusals: Refusals,
    is_listening: bool,
    presence: Presence,
}

/// Where nothing is enforced.
const OBSERVING: State = serving(Refusals::ALWAYS);

const fn serving(refusals: Refusals) -> State {
    State {
        refusals,
        is_listening: true,
        presence: Presence::Alive,
    }
}

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
            3 => Some(ListenerPorts::new(None, None).with_unix(ListenerName::new(*b"\0abcde"))),
            _ => None,
        }
    }
    fn unix_listener(&self, netns_cookie: u64) -> Option<ListenerName> {
        self.listener_ports(netns_cookie)?.unix()
    }
    fn is_listening(&self, _: &Endpoint) -> bool {
        self.is_listening
    }
    fn presence(&self) -> Presence {
        self.presence
    }
    fn refusals(&self) -> Refusals {
        self.refusals
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
            should_intercept(&attempt(destination), &OBSERVING),
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
        assert_eq!(should_intercept(&attempt, &OBSERVING), Decision::Ignore);
    }
}

#[test]
fn our_own_process_is_never_redirected() {
    let attempt = Attempt {
        tgid: 100,
        ..attempt("192.0.2.1:5432")
    };
    assert_eq!(
        should_intercept(&attempt, &OBSERVING),
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
        should_intercept(&other, &OBSERVING),
        Decision::Pass(Verdict::OtherNetns)
    );
    let only_unix = Attempt {
        netns_cookie: 3,
        ..other
    };
    assert_eq!(
        should_intercept(&only_unix, &OBSERVING),
        Decision::Pass(Verdict::OtherNetns)
    );
    let no_v6 = Attempt {
        netns_cookie: 2,
        ..attempt("[2001:db8::1]:5432")
    };
    assert_eq!(
        should_intercept(&no_v6, &OBSERVING),
        Decision::Pass(Verdict::NoListener)
    );
}

#[test]
fn what_would_go_around_the_policies_is_refused_where_they_are_enforced() {
    let no_v6 = Attempt {
        netns_cookie: 2,
        ..attempt("[2001:db8::1]:5432")
    };
    let other_netns = Attempt {
        netns_cookie: 9,
        ..attempt("192.0.2.1:5432")
    };
    let own = Attempt {
        tgid: 100,
        ..other_netns
    };
    let cases = [
        (attempt("[fe80::1]:5432"), Verdict::LinkLocal, true, true),
        (no_v6, Verdict::NoListener, true, true),
        (other_netns, Verdict::OtherNetns, false, true),
        (own, Verdict::OwnProcess, false, false),
    ];
    let outcome = |verdict, is_refused| {
        if is_refused {
            Decision::Refuse(verdict)
        } else {
            Decision::Pass(verdict)
        }
    };
    let enforcing = serving(Refusals::ENFORCING);
    let everywhere = serving(Refusals::ENFORCING.and(Verdict::OtherNetns));
    for (attempt, verdict, here, there) in cases {
        assert_eq!(
            should_intercept(&attempt, &OBSERVING),
            Decision::Pass(verdict)
        );
        assert_eq!(
            should_intercept(&attempt, &enforcing),
            outcome(verdict, here)
        );
        assert_eq!(
            should_intercept(&attempt, &everywhere),
            outcome(verdict, there)
        );
    }
}

#[test]
fn nobody_but_us_dials_our_listeners() {
    let refused = Decision::Refuse(Verdict::OwnListener);
    let cases = [
        ("127.0.0.1:15432", refused),
        ("0.0.0.0:15432", refused),
        ("[::ffff:127.0.0.1]:15432", refused),
        ("[::1]:15433", refused),
        ("[::]:15433", refused),
        // The other family's listener, or nobody's.
        ("127.0.0.1:15433", Decision::Ignore),
        ("[::1]:15432", Decision::Ignore),
        ("127.0.0.2:15432", Decision::Ignore),
        ("192.0.2.1:15432", Decision::Ignore),
    ];
    for (destination, expected) in cases {
        let attempt = attempt(destination);
        assert_eq!(
            should_intercept(&attempt, &OBSERVING),
            expected,
            "{destination}"
        );
        let ours = Attempt {
            tgid: 100,
            ..attempt
        };
        assert_eq!(should_intercept(&ours, &OBSERVING), Decision::Ignore);
        // Listeners are those of the socket's own namespace.
        let elsewhere = Attempt {
            netns_cookie: 9,
            ..attempt
        };
        assert_eq!(should_intercept(&elsewhere, &OBSERVING), Decision::Ignore);
    }
}
#[test]
fn while_nobody_serves_connects_go_as_declared() {
    let closed = Refusals::ALWAYS.and(Verdict::Unserved);
    let cases = [
        (Refusals::ALWAYS, Decision::Pass(Verdict::Unserved)),
        (closed, Decision::Refuse(Verdict::Unserved)),
    ];
    for (refusals, expected) in cases {
        let (alive, down) = (Presence::Alive, Presence::Down);
        for (is_listening, presence) in [(false, alive), (true, down), (false, down)] {
            let down = State {
                refusals,
                is_listening,
                presence,
            };
            for destination in ["192.0.2.1:5432", "[2001:db8::1]:5432"] {
                assert_eq!(should_intercept(&attempt(destination), &down), expected);
            }
            let other_netns = Attempt {
                netns_cookie: 9,
                ..attempt("192.0.2.1:5432")
            };
            if presence == Presence::Down {
                assert_eq!(should_intercept(&other_netns, &down), expected);
            }
            let other_port = attempt("192.0.2.1:5433");
            assert_eq!(should_intercept(&other_port, &down), Decision::Ignore);
        }
        let up = should_intercept(&attempt("192.0.2.1:5432"), &serving(refusals));
        assert_eq!(up, redirect("192.0.2.1:5432", "127.0.0.1:15432"));
    }
}

#[test]
fn who_does_not_serve_yet_leaves_everything_alone() {
    let not_yet = State {
        refusals: Refusals::ENFORCING.and(Verdict::Unserved),
        is_listening: true,
        presence: Presence::NotYet,
    };
    for destination in ["192.0.2.1:5432", "[fe80::1]:5432", "127.0.0.1:15432"] {
        assert_eq!(
            should_intercept(&attempt(destination), &not_yet),
            Decision::Ignore
        );
    }
}

#[test]
fn a_port_that_was_ours_is_anybodys_once_we_are_gone() {
    let gone = State {
        is_listening: false,
        ..OBSERVING
    };
    assert_eq!(
        should_intercept(&attempt("127.0.0.1:15432"), &gone),
        Decision::Ignore
    );
}
