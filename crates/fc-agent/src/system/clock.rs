//! The clock that tells the date. Nothing in the agent waits by it.

use std::time::{Duration, SystemTime};

use aetherium_agent_proto::{Refusal, RefusalKind};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::refuse::OrRefuse as _;

/// Sets the clock and tells how far it was moved, in nanoseconds, forward if positive.
pub(super) fn set(since_epoch: Duration) -> Result<i64, Refusal> {
    let too_far = || {
        let detail = format!("{} s after 1970 is no time of this clock", since_epoch.as_secs());
        Refusal::new(RefusalKind::InvalidRequest, detail)
    };
    let seconds = i64::try_from(since_epoch.as_secs()).map_err(|_| too_far())?;
    let wanted = SystemTime::UNIX_EPOCH.checked_add(since_epoch).ok_or_else(too_far)?;
    let before = SystemTime::now();
    let at = Timespec { tv_sec: seconds, tv_nsec: since_epoch.subsec_nanos().into() };
    clock_settime(ClockId::Realtime, at).or_refuse("the clock cannot be set")?;
    let nanos = |distance: Duration| i64::try_from(distance.as_nanos()).unwrap_or(i64::MAX);
    Ok(match wanted.duration_since(before) {
        Ok(forward) => nanos(forward),
        Err(back) => -nanos(back.duration()),
    })
}
