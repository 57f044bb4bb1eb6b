//! How the hooks tell whether somebody serves what they redirect.

/// Whether userspace is there to serve, as the hooks can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It does not serve yet, and another instance does: whatever happens is none of our business.
    NotYet,
    /// It serves.
    Alive,
    /// It did, and has ended, or hangs.
    Down,
}

/// The heartbeat of who does not serve yet; no clock ever says that.
pub const NOT_YET: u64 = u64::MAX;

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
    /// the error of a connect that fails (`bpf_set_retval`, for these hooks since Linux 6.1).
    pub const fn new(stall_ns: u64, can_set_errno: bool) -> Self {
        Self {
            stall_ns,
            can_set_errno: can_set_errno as u32,
            reserved: 0,
        }
    }

    /// What has become of userspace that was last heard of at `heartbeat`; it has said that it is going if that is 0.
    #[inline(always)]
    pub const fn presence(&self, now_ns: u64, heartbeat: u64) -> Presence {
        if heartbeat == NOT_YET {
            Presence::NotYet
        } else if heartbeat != 0 && now_ns.saturating_sub(heartbeat) <= self.stall_ns {
            Presence::Alive
        } else {
            Presence::Down
        }
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
            (100, 100, Presence::Alive),
            (105, 100, Presence::Alive),
            (106, 100, Presence::Down),
            // Another CPU read the clock a little earlier.
            (99, 100, Presence::Alive),
            (3, 0, Presence::Down),
            (100, NOT_YET, Presence::NotYet),
        ] {
            assert_eq!(serving.presence(now, heartbeat), expected, "{now}");
        }
        assert_eq!(Serving::UNTOLD.presence(u64::MAX, 1), Presence::Alive);
    }
}
