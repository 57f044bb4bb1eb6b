//! What is taken for a server's socket, and what becomes of a connect to one.

use super::*;
use crate::endpoint::Endpoint;
use crate::handover::ListenerPorts;
use crate::refusals::Refusals;

const NAME: ListenerName = ListenerName::new(*b"\0abcde");

/// A listener for unix sockets in one namespace, another without one, one with nothing else; what is refused, and
/// whether we are well.
#[derive(Clone, Copy)]
struct State {
    refusals: Refusals,
    is_listening: bool,
    presence: Presence,
}

const fn serving(refusals: Refusals) -> State {
    State {
        refusals,
        is_listening: true,
        presence: Presence::Alive,
    }
}

impl InterceptionState for State {
    fn intercepts_port(&self, port: u16) -> bool {
        port == 5432
    }
    fn is_own_process(&self, tgid: u32) -> bool {
        tgid == 100
    }
    fn listener_ports(&self, netns_cookie: u64) -> Option<ListenerPorts> {
        let ports = ListenerPorts::new(Some(15432), None);
        match netns_cookie {
            1 => Some(ports.with_unix(NAME)),
            2 => Some(ports),
            3 => Some(ListenerPorts::new(None, None).with_unix(NAME)),
            _ => None,
        }
    }
    fn unix_listener(&self, netns_cookie: u64) -> Option<ListenerName> {
        self.listener_ports(netns_cookie)?.unix()
    }
    fn is_listening(&self, listener: &Endpoint) -> bool {
        assert_eq!(*listener, Endpoint::v4([127, 0, 0, 1], 15432));
        self.is_listening
    }
    fn presence(&self) -> Presence {
        self.presence
    }
    fn refusals(&self) -> Refusals {
        self.refusals
    }
}

const ATTEMPT: UnixAttempt = UnixAttempt {
    socket_type: TYPE_STREAM,
    port: Some(5432),
    listener: None,
    tgid: 7,
    netns_cookie: 1,
};

fn port(path: &[u8]) -> Option<u16> {
    DialledPath::new(path)?.port()
}

#[test]
fn a_servers_socket_is_known_by_its_name_and_by_no_other() {
    let cases: [(&[u8], Option<u16>); 16] = [
        (b"/run/postgresql/.s.PGSQL.5432", Some(5432)),
        (b"/.s.PGSQL.1", Some(1)),
        (b".s.PGSQL.65535", Some(65535)),
        (b"a/.s.PGSQL.65535", Some(65535)),
        (b"\0.s.PGSQL.5432", Some(5432)),
        (b"\0name/.s.PGSQL.5432", Some(5432)),
        (b"/run/.s.PGSQL.65536", None),
        (b"/run/.s.PGSQL.100000", None),
        (b"/run/.s.PGSQL.0", None),
        (b"/run/.s.PGSQL.05432", None),
        (b"/run/.s.PGSQL.", None),
        (b"/run/.s.PGSQL.5432x", None),
        (b"/run/x.s.PGSQL.5432", None),
        (b"/run/.s.PGSQL.5432/x", None),
        (b"/run/.s.pgsql.5432", None),
        (b"5432", None),
    ];
    for (path, expected) in cases {
        assert_eq!(port(path), expected, "{path:?}");
    }
}

#[test]
fn a_path_is_from_one_byte_to_all_the_room_there_is() {
    assert_eq!(DialledPath::new(b""), None);
    assert_eq!(DialledPath::new(&[b'x'; PATH_BYTES + 1]), None);
    let longest = DialledPath::new(&[b'x'; PATH_BYTES]).unwrap();
    assert_eq!(longest.bytes(), [b'x'; PATH_BYTES]);
    assert_eq!(longest.port(), None);
}

#[test]
fn what_lies_before_a_short_path_is_not_looked_at() {
    // Ten bytes are the path; before them is whatever the caller had there.
    assert_eq!(server_port(b"xxxxxx.s.PGSQL.7", 10), Some(7));
    assert_eq!(server_port(b"xxxxxx.s.PGSQL.7", 11), None);
}

#[test]
fn streams_to_an_intercepted_port_go_to_the_listener() {
    let state = serving(Refusals::ALWAYS);
    let redirected = UnixDecision::Redirect(NAME);
    assert_eq!(should_intercept(&ATTEMPT, &state), redirected);
    let ignored = [
        UnixAttempt {
            socket_type: 5,
            ..ATTEMPT
        },
        UnixAttempt {
            port: Some(5433),
            ..ATTEMPT
        },
        UnixAttempt {
            port: None,
            ..ATTEMPT
        },
        UnixAttempt {
            listener: Some(ListenerName::new(*b"\0fffff")),
            port: None,
            ..ATTEMPT
        },
    ];
    for attempt in ignored {
        assert_eq!(should_intercept(&attempt, &state), UnixDecision::Ignore);
    }
}

#[test]
fn what_cannot_be_redirected_goes_as_declared() {
    let enforcing = serving(Refusals::ENFORCING.and(Verdict::OtherNetns));
    let cases = [
        (2, 7, Verdict::NoListener, true),
        (9, 7, Verdict::OtherNetns, true),
        (1, 100, Verdict::OwnProcess, false),
    ];
    for (netns_cookie, tgid, verdict, is_refused) in cases {
        let attempt = UnixAttempt {
            netns_cookie,
            tgid,
            ..ATTEMPT
        };
        let passed = UnixDecision::Pass(verdict);
        let observing = serving(Refusals::ALWAYS);
        assert_eq!(should_intercept(&attempt, &observing), passed);
        let enforced = if is_refused {
            UnixDecision::Refuse(verdict)
        } else {
            passed
        };
        assert_eq!(should_intercept(&attempt, &enforcing), enforced);
    }
}

#[test]
fn nobody_but_us_dials_our_listener() {
    let state = serving(Refusals::ALWAYS);
    let attempt = UnixAttempt {
        port: None,
        listener: Some(NAME),
        ..ATTEMPT
    };
    let refused = UnixDecision::Refuse(Verdict::OwnListener);
    assert_eq!(should_intercept(&attempt, &state), refused);
    for (tgid, netns_cookie) in [(100, 1), (7, 2), (7, 9)] {
        let attempt = UnixAttempt {
            tgid,
            netns_cookie,
            ..attempt
        };
        assert_eq!(should_intercept(&attempt, &state), UnixDecision::Ignore);
    }
}

#[test]
fn while_nobody_serves_connects_go_as_declared() {
    let closed = Refusals::ALWAYS.and(Verdict::Unserved);
    let cases = [
        (Refusals::ALWAYS, UnixDecision::Pass(Verdict::Unserved)),
        (closed, UnixDecision::Refuse(Verdict::Unserved)),
    ];
    let (alive, down) = (Presence::Alive, Presence::Down);
    for (refusals, expected) in cases {
        for (is_listening, presence) in [(false, alive), (true, down), (false, down)] {
            let gone = State {
                refusals,
                is_listening,
                presence,
            };
            assert_eq!(should_intercept(&ATTEMPT, &gone), expected);
            let other_port = UnixAttempt {
                port: Some(5433),
                ..ATTEMPT
            };
            assert_eq!(should_intercept(&other_port, &gone), UnixDecision::Ignore);
            let own = UnixAttempt {
                tgid: 100,
                ..ATTEMPT
            };
            let passed = UnixDecision::Pass(Verdict::OwnProcess);
            assert_eq!(should_intercept(&own, &gone), passed);
        }
    }
}

#[test]
fn without_loopback_the_heartbeat_alone_tells() {
    let attempt = UnixAttempt {
        netns_cookie: 3,
        ..ATTEMPT
    };
    let state = State {
        is_listening: false,
        ..serving(Refusals::ALWAYS)
    };
    let redirected = UnixDecision::Redirect(NAME);
    assert_eq!(should_intercept(&attempt, &state), redirected);
    let down = State {
        presence: Presence::Down,
        ..state
    };
    let passed = UnixDecision::Pass(Verdict::Unserved);
    assert_eq!(should_intercept(&attempt, &down), passed);
}

#[test]
fn who_does_not_serve_yet_leaves_everything_alone_and_a_name_of_the_gone_is_anybodys() {
    let to_listener = UnixAttempt {
        port: None,
        listener: Some(NAME),
        ..ATTEMPT
    };
    let not_yet = State {
        presence: Presence::NotYet,
        ..serving(Refusals::ENFORCING.and(Verdict::Unserved))
    };
    for attempt in [ATTEMPT, to_listener] {
        assert_eq!(should_intercept(&attempt, &not_yet), UnixDecision::Ignore);
    }
    let gone = State {
        is_listening: false,
        ..serving(Refusals::ENFORCING)
    };
    assert_eq!(should_intercept(&to_listener, &gone), UnixDecision::Ignore);
}
