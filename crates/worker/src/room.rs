//! Waiting for room: what is done where a workspace's VM does not fit on its worker.
//!
//! Whoever waits asks again and again, the more seldom the more others do, so that all of them ask about
//! as often as a few would: room is found as soon, and the store has no more to do. A task that waits
//! lends its hand back, as what makes room may be a task, too.

use crate::{
    handler::status,
    host::{self, Host},
    metrics::Waits,
    run,
};
use aetherium_model::{Fault, placement::WhenFull};
use aetherium_queue::{Resting, TaskContext};
use aetherium_store::RunRef;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How often one asks again that waits with few others, give or take a half.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often all of them ask, about.
const ASKS_PER_S: u32 = 64;

/// The task that a workspace's VM is wanted for.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    /// Whose log tells what is done.
    pub(crate) log: RunRef,
    pub(crate) context: &'a TaskContext,
}

/// One wait for room, which begins with the first refusal.
pub(crate) struct Wait<'a> {
    host: &'a Arc<Host>,
    asker: Option<Asker<'a>>,
    patience: Duration,
    deadline: Instant,
    begun: Option<Waits<'a>>,
    resting: Option<Resting>,
}

impl<'a> Wait<'a> {
    pub(crate) fn new(host: &'a Arc<Host>, when_full: WhenFull, asker: Option<Asker<'a>>) -> Self {
        let patience = when_full.patience();
        let deadline = Instant::now() + patience;
        Self { host, asker, patience, deadline, begun: None, resting: None }
    }

    /// Takes it that there was no room, and waits until it is time to ask again, with no hand in use where
    /// that may be.
    ///
    /// # Errors
    /// It was waited for long enough, or the worker stops.
    pub(crate) async fn refused(&mut self, why: Fault) -> Result<(), Fault> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(why.remedy(
                "send it again later, or let the workspace's prompts wait longer with when_full",
            ));
        }
        if self.begun.is_none() {
            self.begun = Some(self.host.metrics.waits_for_room());
            self.tell(&why).await;
        }
        if self.resting.is_none() {
            self.resting = self.asker.and_then(|asker| asker.context.rest());
        }
        let pause = pause(self.host.metrics.waiting_for_room(), rand::random());
        tokio::select! {
            () = tokio::time::sleep(pause.min(left)) => Ok(()),
            () = self.host.draining.cancelled() => Err(host::stopping()),
        }
    }

    async fn tell(&self, why: &Fault) {
        let Some(asker) = self.asker else { return };
        let told = format!("waiting for {} s at most: {}", self.patience.as_secs(), why.detail);
        run::append(self.host, asker.log, vec![status("waiting_for_room", told)]).await;
    }
}

/// How long one of so many that wait does not ask, by `draw` (0 to 1), so that they do not ask together.
fn pause(waiting: u32, draw: f64) -> Duration {
    let all = Duration::from_secs(1) * waiting / ASKS_PER_S;
    all.max(ASK_AGAIN).mul_f64(0.5 + draw.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn however_many_wait_they_ask_no_more_often_than_a_few_and_each_does(
            waiting in 1u32..5000, draw in 0.0..1.0,
        ) {
            let asks = |draw| f64::from(waiting) / pause(waiting, draw).as_secs_f64();
            // The mean of all draws is that of the middle one.
            prop_assert!(asks(0.5) <= f64::from(ASKS_PER_S) * 1.001, "{}", asks(0.5));
            prop_assert!(asks(0.5) >= f64::from(waiting.min(ASKS_PER_S)) * 0.999, "{}", asks(0.5));
            prop_assert!(pause(waiting, draw) >= ASK_AGAIN / 2);
        }
    }
}
