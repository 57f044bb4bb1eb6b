use super::*;

const OURS: Traits = Traits {
    may_redirect: true,
    is_sender_ours: true,
    is_receiver_ours: false,
    is_counted: false,
};
const TO_US: Traits = Traits {
    may_redirect: true,
    is_sender_ours: false,
    is_receiver_ours: true,
    is_counted: false,
};
const DIRECT: Traits = Traits {
    may_redirect: true,
    is_sender_ours: false,
    is_receiver_ours: false,
    is_counted: true,
};
const SMALL: Message = Message {
    bytes: 100,
    is_stack_read: true,
    is_queue_read: true,
    is_receiver_indifferent: true,
    needs_stack: false,
};

fn pair(traits: Traits) -> Pair {
    Pair::new((1, 2), (3, 4), 0, traits)
}

#[test]
fn a_short_message_to_a_receiver_that_has_read_everything_is_redirected() {
    for traits in [OURS, TO_US, DIRECT] {
        assert_eq!(pair(traits).path(&SMALL), Path::Redirect, "{traits:?}");
    }
    let mut largest = SMALL;
    largest.bytes = FIRST_BYTES;
    assert_eq!(pair(OURS).path(&largest), Path::Redirect);
}

#[test]
fn what_may_not_be_redirected_goes_through_the_stack() {
    let cases = [
        (
            "bulk",
            Message {
                bytes: FIRST_BYTES + 1,
                ..SMALL
            },
        ),
        (
            "unread bytes in the stack",
            Message {
                is_stack_read: false,
                ..SMALL
            },
        ),
        (
            "a receiver that waits",
            Message {
                is_receiver_indifferent: false,
                ..SMALL
            },
        ),
        (
            "short of memory",
            Message {
                needs_stack: true,
                ..SMALL
            },
        ),
    ];
    for (case, message) in cases {
        for traits in [OURS, TO_US, DIRECT] {
            assert_eq!(
                pair(traits).path(&message),
                Path::Stack,
                "{case}, {traits:?}"
            );
        }
    }
    let never = Traits {
        may_redirect: false,
        ..OURS
    };
    assert_eq!(pair(never).path(&SMALL), Path::Stack);
}

#[test]
fn an_application_gets_nothing_from_us_through_the_stack_before_it_has_read_what_was_redirected() {
    let unread = Message {
        is_queue_read: false,
        ..SMALL
    };
    for message in [
        unread,
        Message {
            is_receiver_indifferent: false,
            ..unread
        },
        Message {
            needs_stack: true,
            ..unread
        },
        Message {
            bytes: QUEUE_BYTES + 1,
            ..unread
        },
    ] {
        assert_eq!(pair(OURS).path(&message), Path::Redirect, "{message:?}");
        if message != unread {
            // We read until there is nothing left; and what an application sends past us comes to us instead.
            assert_eq!(pair(TO_US).path(&message), Path::Stack, "{message:?}");
            assert_eq!(pair(DIRECT).path(&message), Path::Stack, "{message:?}");
        }
    }
}

#[test]
fn a_queue_that_is_not_read_takes_so_much_and_no_more() {
    let mut pair = pair(DIRECT);
    assert_eq!(pair.path(&SMALL), Path::Redirect);
    let unread = Message {
        bytes: QUEUE_BYTES / 2,
        is_queue_read: false,
        ..SMALL
    };
    assert_eq!(pair.path(&unread), Path::Redirect);
    assert_eq!(pair.path(&unread), Path::Stack);
    let rest = Message {
        bytes: QUEUE_BYTES / 2 - 100 - 3 * MESSAGE_BYTES,
        ..unread
    };
    assert_eq!(pair.path(&rest), Path::Redirect);
    assert_eq!(pair.path(&Message { bytes: 1, ..unread }), Path::Stack);
    assert_eq!(pair.path(&SMALL), Path::Redirect, "it was read");
    assert_eq!(pair.path(&unread), Path::Redirect);
}

#[test]
fn sequence_numbers_are_compared_around_their_end() {
    let near = Pair::new((1, 2), (3, 4), 10, DIRECT);
    assert!(near.is_read(u32::MAX - 4, 5));
    assert!(!near.is_read(u32::MAX - 4, 6));
    let behind = Pair::new((1, 2), (3, 4), 0_u32.wrapping_sub(10), DIRECT);
    assert!(behind.is_read(5, u32::MAX - 4));
}

#[test]
fn messages_of_a_byte_are_counted_with_what_each_takes() {
    let mut pair = pair(DIRECT);
    let byte = Message {
        bytes: 1,
        is_queue_read: false,
        ..SMALL
    };
    let redirected = (0..QUEUE_BYTES).take_while(|_| pair.path(&byte) == Path::Redirect);
    assert_eq!(
        redirected.count(),
        (QUEUE_BYTES / (MESSAGE_BYTES + 1)) as usize
    );
}
