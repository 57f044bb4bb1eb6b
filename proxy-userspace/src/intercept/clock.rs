//! The kernel's clocks, as the hooks read them.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since boot (`bpf_ktime_get_boot_ns`), the clock of the records.
pub(super) fn boot_time_ns() -> u64 {
    nanoseconds(ClockId::Boottime)
}

/// The clock of `bpf_ktime_get_ns`; it stands still while the host sleeps.
pub(super) fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let nanoseconds = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(nanoseconds).unwrap_or(0)
}
