//! Which connects that cannot be redirected are refused instead of going direct.
//!
//! Where policies are enforced, a connect that goes direct is a way around them. The loader decides once, the hooks
//! look it up for each connect.

use crate::verdict::Verdict;

/// A set of outcomes; a connect that comes to one of them fails with EPERM.
///
/// Size: 4 bytes, alignment 4.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusals(u32);

impl Refusals {
    /// What nobody ever has a reason for: our listeners serve connects that were redirected to them, and somebody who
    /// dials one could come upon the record of a connection that was given up before it was accepted.
    pub const ALWAYS: Self = Self(0).and(Verdict::OwnListener);

    /// What would be a way around the policies, apart from other network namespaces, and from when pgusher is down, which
    /// are settings.
    pub const ENFORCING: Self = Self::ALWAYS
        .and(Verdict::BoundToDevice)
        .and(Verdict::LinkLocal)
        .and(Verdict::NoListener)
        .and(Verdict::StorageFailed);

    /// These and one more; what is no failure to redirect cannot be refused, our own connects least of all.
    #[must_use]
    pub const fn and(self, verdict: Verdict) -> Self {
        match verdict {
            Verdict::OtherNetns
            | Verdict::LinkLocal
            | Verdict::NoListener
            | Verdict::StorageFailed
            | Verdict::BoundToDevice
            | Verdict::OwnListener
            | Verdict::Unserved => Self(self.0 | 1 << verdict.index()),
            Verdict::Redirected
            | Verdict::UnixRedirected
            | Verdict::OwnProcess
            | Verdict::Published
            | Verdict::PublishFailed => self,
        }
    }

    /// Whether a connect with this outcome is refused.
    #[inline(always)]
    pub const fn contains(self, verdict: Verdict) -> bool {
        self.0 & (1 << verdict.index()) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enforcing_refuses_every_way_around_that_is_no_setting() {
        for verdict in Verdict::ALL {
            let expected = matches!(
                verdict,
                Verdict::LinkLocal
                    | Verdict::NoListener
                    | Verdict::StorageFailed
                    | Verdict::BoundToDevice
                    | Verdict::OwnListener
            );
            assert_eq!(
                Refusals::ENFORCING.contains(verdict),
                expected,
                "{verdict:?}"
            );
            let always = verdict == Verdict::OwnListener;
            assert_eq!(Refusals::ALWAYS.contains(verdict), always, "{verdict:?}");
        }
        for setting in [Verdict::OtherNetns, Verdict::Unserved] {
            let all = Refusals::ENFORCING.and(setting);
            assert!(all.contains(setting) && all.contains(Verdict::LinkLocal));
        }
    }

    #[test]
    fn what_is_no_failure_to_redirect_is_never_refused() {
        for verdict in [
            Verdict::OwnProcess,
            Verdict::Redirected,
            Verdict::UnixRedirected,
            Verdict::Published,
            Verdict::PublishFailed,
        ] {
            assert_eq!(Refusals::ENFORCING.and(verdict), Refusals::ENFORCING);
        }
    }
}
