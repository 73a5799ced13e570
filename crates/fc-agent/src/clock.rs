//! The guest's uptime, the one clock host and guest can compare.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the kernel booted, time asleep included.
pub(crate) fn uptime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1_000 + nanos / 1_000_000
}
