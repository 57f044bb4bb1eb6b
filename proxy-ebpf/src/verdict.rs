//! The outcomes the hooks count, each per CPU, so that `pgusher status` can tell what was not intercepted and why.

/// One counted outcome; the discriminant is its index in the counter array.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A connect was sent to our listener.
    Redirected = 0,
    /// A connect of pgusher itself went its own way.
    OwnProcess = 1,
    /// A connect from a network namespace without a listener could not be redirected.
    OtherNetns = 2,
    /// A connect to an IPv6 link-local address could not be redirected: the hook cannot see its scope.
    LinkLocal = 3,
    /// A connect of a family this namespace has no listener for could not be redirected.
    NoListener = 4,
    /// Socket storage could not be had, and the connect not be redirected.
    StorageFailed = 5,
    /// A redirected connect was handed over as its SYN left.
    Published = 6,
    /// A hand-over entry could not be stored; the accepting side refuses that connection.
    PublishFailed = 7,
    /// The socket is bound to an interface and its owner may not bind it to another: it could not be redirected.
    BoundToDevice = 8,
    /// A connect of somebody else's straight to our listener was refused.
    OwnListener = 9,
    /// A connect could not be redirected because nobody served behind the listener: pgusher was down, or hung.
    Unserved = 10,
    /// A connect to a server's unix socket was sent to our listener.
    UnixRedirected = 11,
}

impl Verdict {
    /// Every outcome, in the order of the counter array.
    pub const ALL: [Self; 12] = [
        Self::Redirected,
        Self::OwnProcess,
        Self::OtherNetns,
        Self::LinkLocal,
        Self::NoListener,
        Self::StorageFailed,
        Self::Published,
        Self::PublishFailed,
        Self::BoundToDevice,
        Self::OwnListener,
        Self::Unserved,
        Self::UnixRedirected,
    ];

    /// The index in the counter array.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// The name in the status document.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::OwnProcess => "own_process",
            Self::OtherNetns => "other_netns",
            Self::LinkLocal => "link_local",
            Self::NoListener => "no_listener",
            Self::StorageFailed => "storage_failed",
            Self::Published => "published",
            Self::PublishFailed => "publish_failed",
            Self::BoundToDevice => "bound_to_device",
            Self::OwnListener => "own_listener",
            Self::Unserved => "unserved",
            Self::UnixRedirected => "unix_redirected",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_outcomes_is_in_index_order() {
        for (position, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(verdict.index() as usize, position);
        }
    }
}
