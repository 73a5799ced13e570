//! Hands that handlers lend back: a handler that only waits for something holds nobody up meanwhile.
//!
//! What is waited for may be the end of a task that waits for a hand. So the hands of a consumer are for
//! those at work; who rests keeps its claim, is still renewed, and hears of cancellation and shutdown.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};
use tokio::sync::Notify;

/// How many of a consumer's handlers rest.
#[derive(Debug)]
pub(crate) struct Rests {
    most: usize,
    resting: AtomicUsize,
    begun: Notify,
}

impl Rests {
    pub(crate) fn at_most(most: usize) -> Arc<Self> {
        Arc::new(Self { most, resting: AtomicUsize::new(0), begun: Notify::new() })
    }

    pub(crate) fn count(&self) -> usize {
        self.resting.load(SeqCst)
    }

    /// Waits until one has begun to rest since this was last waited for.
    pub(crate) async fn begun(&self) {
        self.begun.notified().await;
    }
}

/// The hand that a task is in.
#[derive(Debug)]
pub(crate) struct Hand {
    rests: Arc<Rests>,
    is_lent: AtomicBool,
}

impl Hand {
    pub(crate) fn new(rests: Arc<Rests>) -> Arc<Self> {
        Arc::new(Self { rests, is_lent: AtomicBool::new(false) })
    }

    pub(crate) fn lend(self: &Arc<Self>) -> Option<Resting> {
        if self.is_lent.swap(true, SeqCst) {
            return None;
        }
        let most = self.rests.most;
        let one_more = |resting| (resting < most).then_some(resting + 1);
        if self.rests.resting.fetch_update(SeqCst, SeqCst, one_more).is_err() {
            self.is_lent.store(false, SeqCst);
            return None;
        }
        self.rests.begun.notify_one();
        Some(Resting(Arc::clone(self)))
    }
}

/// While this lives, its handler rests. When it is dropped the handler works again at once, even where
/// all hands are full by then: the consumer claims no more until they are fewer.
#[derive(Debug)]
#[must_use]
pub struct Resting(Arc<Hand>);

impl Drop for Resting {
    fn drop(&mut self) {
        self.0.rests.resting.fetch_sub(1, SeqCst);
        self.0.is_lent.store(false, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_is_lent_once_at_a_time_and_no_more_of_them_than_may_be() {
        let rests = Rests::at_most(2);
        let [one, two, three] = [0; 3].map(|_| Hand::new(Arc::clone(&rests)));
        let first = one.lend().unwrap();
        assert!(one.lend().is_none(), "it was lent twice");
        let _second = two.lend().unwrap();
        assert_eq!(rests.count(), 2);
        assert!(three.lend().is_none(), "more rest than may");
        drop(first);
        let third = three.lend().unwrap();
        assert!(one.lend().is_none());
        drop(third);
        let _first = one.lend().unwrap();
        assert_eq!(rests.count(), 2);
    }
}
