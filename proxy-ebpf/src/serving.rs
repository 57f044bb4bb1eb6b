//! How the hooks tell whether somebody serves what they redirect.

/// What the loader knows and the hooks go by.
///
/// Size: 16 bytes, alignment 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    stall_ns: u64,
    can_set_errno: u32,
    reserved: u32,
}

impl Serving {
    /// For programs that were loaded without being told: nobody is ever taken for hung.
    pub const UNTOLD: Self = Self::new(u64::MAX, false);

    /// Userspace that was silent for more than `stall_ns` nanoseconds counts as down; whether the kernel lets a hook choose
    /// the error of a connect that fails (`bpf_set_retval`, Linux 5.18).
    pub const fn new(stall_ns: u64, can_set_errno: bool) -> Self {
        Self {
            stall_ns,
            can_set_errno: can_set_errno as u32,
            reserved: 0,
        }
    }

    /// Whether userspace lives that was last heard of at `heartbeat`; it was never, or has said that it is going, if that
    /// is 0.
    #[inline(always)]
    pub const fn is_alive(&self, now_ns: u64, heartbeat: u64) -> bool {
        heartbeat != 0 && now_ns.saturating_sub(heartbeat) <= self.stall_ns
    }

    /// Whether a hook may choose the error.
    #[inline(always)]
    pub const fn can_set_errno(&self) -> bool {
        self.can_set_errno != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_silent_for_too_long_is_down() {
        let serving = Serving::new(5, true);
        assert!(serving.can_set_errno() && !Serving::UNTOLD.can_set_errno());
        for (now, heartbeat, expected) in [
            (100, 100, true),
            (105, 100, true),
            (106, 100, false),
            // Another CPU read the clock a little earlier.
            (99, 100, true),
            (3, 0, false),
        ] {
            assert_eq!(serving.is_alive(now, heartbeat), expected, "{now}");
        }
        assert!(Serving::UNTOLD.is_alive(u64::MAX, 1));
    }
}
