//! The worker's delivery loop: one task that claims, hands out, renews and recovers.
//!
//! ```text
//!            ┌── claim until there is nothing or hands are full ──► spawn handler
//! recover ─► │   pass on cancel requests
//!            │   renew leases, then recover what expired (in this order: a machine that slept
//!            │   must not find its own work lost)
//!            └── wait: called │ a handler ended or rests │ something is due │ shutdown
//! ```
//! A call that names a task is followed by one statement for this task, while there is nothing else to
//! do. Any other has the table asked whose turn it is; so has a hand that becomes free.
//!
//! It owns every handler it spawned and joins it. An idle loop asks the database once in
//! [`IDLE_POLL`], which also finds work whose wake-up was lost.

use crate::{
    Bus, Calls, Handler, TaskContext, Topic,
    clock::Clock,
    queue::announce_task,
    rest::{Hand, Rests},
    settle::Settler,
};
use aetherium_model::{
    TaskId, Timestamp, WorkerId,
    task::{LEASE, Recovery, Task},
};
use aetherium_store::{Recovered, Store, StoreError};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

/// How often an idle consumer looks for work that it was not woken for.
pub const IDLE_POLL: Duration = Duration::from_secs(15);
/// How often leases are renewed while there is work: twice may fail before one runs out.
const RENEW_EVERY: Duration = Duration::from_secs(LEASE.as_secs() / 3);
/// How often cancel requests are looked for while there is work; the bus usually tells sooner.
const CANCEL_POLL: Duration = Duration::from_secs(2);
/// How long the loop waits after the database failed it.
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// How many handlers may rest for each that may work at once. Each has its lease renewed.
const RESTING_PER_HAND: usize = 16;

/// The delivery loop of one worker. A worker id has one consumer at a time.
pub struct Consumer {
    /// Where the tasks are.
    pub store: Store,
    /// Where wake-ups come from and ends are announced.
    pub bus: Bus,
    /// Whose tasks.
    pub worker_id: WorkerId,
    /// What does them.
    pub handler: Arc<dyn Handler>,
    /// How many at once, but for those that rest ([`TaskContext::rest`]).
    pub max_in_flight: usize,
    /// How long handlers may go on after shutdown began.
    pub grace: Duration,
}

impl Consumer {
    /// Recovers what an earlier process of this worker left, then delivers tasks until `shutdown`
    /// fires, then waits for handlers until the grace is over, ends those that remain, and gives
    /// their tasks back.
    ///
    /// # Errors
    /// The store's, if recovery at the start fails. Later errors are logged and outlived.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StoreError> {
        let clock = Clock::of(&self.store).await?;
        let recovered = self.store.recover_worker(self.worker_id, clock.now()).await?;
        for run in self.store.interrupt_interactive_runs(self.worker_id, clock.now()).await? {
            tracing::warn!(%run, "interrupted an interactive run of an earlier process");
            self.bus.announce(Topic::Run(run));
        }
        let grace = self.grace;
        // Before the first look: what comes during it is not missed.
        let mut work = self.bus.work_of(self.worker_id);
        let mut delivery = Delivery::new(self, clock, shutdown.clone());
        delivery.report(recovered).await;
        while !shutdown.is_cancelled() {
            let calls = work.take();
            delivery.round(&calls).await;
            work.followed(calls);
            let at_most = delivery.until_next_round();
            tokio::select! {
                () = shutdown.cancelled() => {}
                Some(joined) = delivery.handlers.join_next_with_id() => delivery.joined(joined),
                () = delivery.rests.begun() => delivery.more = true,
                () = work.called(at_most) => {}
            }
        }
        let deadline = Instant::now() + grace;
        while !delivery.handlers.is_empty() && Instant::now() < deadline {
            if work.take().look || Instant::now() >= delivery.cancel_at {
                delivery.pass_on_cancels().await;
            }
            delivery.keep_hold().await;
            let left = deadline.saturating_duration_since(Instant::now());
            tokio::select! {
                Some(joined) = delivery.handlers.join_next_with_id() => delivery.joined(joined),
                () = work.called(left.min(CANCEL_POLL)) => {}
            }
        }
        delivery.give_back().await;
        Ok(())
    }
}

/// A task in a handler's hands.
struct InFlight {
    claim: Task,
    cancel: CancellationToken,
}

type Joined = Result<(tokio::task::Id, Option<Timestamp>), tokio::task::JoinError>;

struct Delivery {
    consumer: Consumer,
    clock: Clock,
    shutdown: CancellationToken,
    handlers: JoinSet<Option<Timestamp>>,
    in_flight: HashMap<tokio::task::Id, InFlight>,
    rests: Arc<Rests>,
    /// There may be tasks that could run and that no hint has told of, or had hands for.
    more: bool,
    /// When a task that was put off may run.
    due: Option<Timestamp>,
    renew_at: Instant,
    cancel_at: Instant,
    look_at: Instant,
    /// The database failed: wait a little before asking again.
    failed: bool,
}

impl Delivery {
    fn new(consumer: Consumer, clock: Clock, shutdown: CancellationToken) -> Self {
        let now = Instant::now();
        let rests = Rests::at_most(consumer.max_in_flight.saturating_mul(RESTING_PER_HAND));
        Self {
            consumer,
            clock,
            shutdown,
            handlers: JoinSet::new(),
            in_flight: HashMap::new(),
            rests,
            more: true,
            due: None,
            renew_at: now + RENEW_EVERY,
            cancel_at: now + CANCEL_POLL,
            look_at: now,
            failed: false,
        }
    }

    async fn round(&mut self, calls: &Calls) {
        self.failed = false;
        let looks = Instant::now() >= self.look_at;
        if looks {
            let set = self.clock.set(&self.consumer.store).await;
            self.checked(set);
        }
        // What becomes due while this round claims may be missed by the claims, so "not yet due"
        // means not before they began.
        let began = self.clock.now();
        let is_due = self.due.is_some_and(|due| due <= began);
        self.more |= calls.look || is_due || looks;
        // Before all else: what was accepted waits for this.
        let is_later = self.claim(calls).await;
        if calls.look || Instant::now() >= self.cancel_at {
            self.pass_on_cancels().await;
        }
        self.keep_hold().await;
        if looks {
            self.look_at = Instant::now() + IDLE_POLL;
            let expired = self.consumer.store.recover_expired(self.clock.now()).await;
            if let Some(recovered) = self.checked(expired) {
                self.report(recovered).await;
            }
        }
        if looks || is_due {
            let overdue = self.consumer.store.fail_overdue(self.clock.now()).await;
            if let Some(failed) = self.checked(overdue) {
                self.report(failed).await;
            }
        }
        if looks || is_due || is_later {
            self.look_for_due(began).await;
        }
    }

    /// Claims what there are hands for. A single hint with nothing else to do goes straight to its task;
    /// whenever there may be more, the table says whose turn it is. Returns whether a task that was told
    /// of may have to wait for its time.
    async fn claim(&mut self, calls: &Calls) -> bool {
        match calls.hints[..] {
            [] => {}
            [task] if !self.more && self.hands() > 0 => return !self.claim_hinted(task).await,
            _ => self.more = true,
        }
        while self.more && self.hands() > 0 && !self.shutdown.is_cancelled() {
            let (now, hands) = (self.clock.now(), self.hands());
            let store = &self.consumer.store;
            let worker_id = self.consumer.worker_id;
            let claimed = store.claim_waiting(worker_id, hands, now, now.after(LEASE)).await;
            let Some(claimed) = self.checked(claimed) else { return false };
            self.more = !claimed.is_empty();
            claimed.into_iter().for_each(|claim| self.hand_out(claim));
        }
        !calls.hints.is_empty()
    }

    /// Returns whether it was to be had.
    async fn claim_hinted(&mut self, id: TaskId) -> bool {
        let now = self.clock.now();
        let store = &self.consumer.store;
        let claimed = store.claim_hinted(self.consumer.worker_id, id, now, now.after(LEASE)).await;
        match self.checked(claimed) {
            Some(claim) => claim.map(|claim| self.hand_out(claim)).is_some(),
            None => {
                self.more = true;
                false
            }
        }
    }

    fn hands(&self) -> usize {
        let at_work = self.handlers.len().saturating_sub(self.rests.count());
        self.consumer.max_in_flight.saturating_sub(at_work)
    }

    fn hand_out(&mut self, claim: Task) {
        let cancel = CancellationToken::new();
        if claim.cancel_requested {
            cancel.cancel();
        }
        let context = TaskContext {
            cancelled: cancel.clone(),
            shutting_down: self.shutdown.clone(),
            hand: Hand::new(Arc::clone(&self.rests)),
        };
        let settler = Settler {
            store: self.consumer.store.clone(),
            bus: self.consumer.bus.clone(),
            handler: Arc::clone(&self.consumer.handler),
            clock: self.clock.clone(),
        };
        self.consumer.bus.announce(Topic::Task(claim.id));
        let spawned = self.handlers.spawn(settler.deliver(claim.clone(), context));
        if self.in_flight.is_empty() {
            self.renew_at = Instant::now() + RENEW_EVERY;
        }
        self.in_flight.insert(spawned.id(), InFlight { claim, cancel });
    }

    /// Passes on cancel requests, while there is work.
    async fn pass_on_cancels(&mut self) {
        self.cancel_at = Instant::now() + CANCEL_POLL;
        if self.in_flight.is_empty() {
            return;
        }
        let asked = self.consumer.store.cancel_requested(self.consumer.worker_id).await;
        for id in self.checked(asked).unwrap_or_default() {
            self.cancel(|task| task == id);
        }
    }

    /// Renews leases, while there is work.
    async fn keep_hold(&mut self) {
        if self.in_flight.is_empty() || Instant::now() < self.renew_at {
            return;
        }
        let claims: Vec<Task> = self.in_flight.values().map(|held| held.claim.clone()).collect();
        let until = self.clock.now().after(LEASE);
        let renewed = self.consumer.store.renew(&claims, until).await;
        let Some(ours) = self.checked(renewed) else {
            self.renew_at = Instant::now() + AFTER_ERROR;
            return;
        };
        self.renew_at = Instant::now() + RENEW_EVERY;
        // A task that was just ended by its handler is not ours any more either; then nobody
        // listens to its token.
        self.cancel(|task| !ours.contains(&task));
    }

    fn cancel(&self, which: impl Fn(TaskId) -> bool) {
        self.in_flight
            .values()
            .filter(|held| which(held.claim.id))
            .for_each(|held| held.cancel.cancel());
    }

    /// Notes when the first task comes due that was not yet due at `began`.
    async fn look_for_due(&mut self, began: Timestamp) {
        let next = self.consumer.store.next_due(self.consumer.worker_id, began).await;
        self.due = self.checked(next).flatten();
    }

    fn until_next_round(&self) -> Duration {
        if self.failed {
            return AFTER_ERROR;
        }
        let look = self.look_at.saturating_duration_since(Instant::now());
        let due = self.due.map_or(look, |due| due.since(self.clock.now()));
        let hold = if self.in_flight.is_empty() { look } else { CANCEL_POLL };
        look.min(due).min(hold)
    }

    fn joined(&mut self, joined: Joined) {
        let (id, put_off) = match joined {
            Ok((id, put_off)) => (id, put_off),
            Err(error) => {
                // Its lease runs out, and recovery ends it.
                tracing::error!(%error, "the delivery of a task broke down");
                (error.id(), None)
            }
        };
        // There is a hand more, and perhaps a serial key is free.
        let ended = self.in_flight.remove(&id);
        self.more |=
            self.hands() <= 1 || ended.is_none_or(|it| it.claim.kind.serial_key().is_some());
        self.due = self.due.into_iter().chain(put_off).min();
    }

    /// Ends the handlers that did not end in time, and gives their tasks back.
    async fn give_back(&mut self) {
        self.handlers.abort_all();
        while let Some(joined) = self.handlers.join_next_with_id().await {
            if let Ok((id, _)) = joined {
                self.in_flight.remove(&id);
            }
        }
        for (_, InFlight { claim, .. }) in std::mem::take(&mut self.in_flight) {
            let now = self.clock.now();
            let given_back = self.consumer.store.requeue(&claim, now, None, now).await;
            if let Some(Some(verdict)) = self.checked(given_back) {
                self.report(vec![Recovered { task: claim, verdict }]).await;
            }
        }
    }

    /// Tells the log, the readers and the handler what was done with lost tasks.
    async fn report(&self, recovered: Vec<Recovered>) {
        for Recovered { task, verdict } in recovered {
            tracing::warn!(task = %task.id, kind = task.kind.as_str(), ?verdict, "recovered a task");
            announce_task(&self.consumer.bus, &task);
            match &verdict {
                Recovery::Requeue | Recovery::Resume => self.consumer.bus.wake(task.worker_id),
                verdict if task.worker_id == self.consumer.worker_id => {
                    crate::settle::abandon(&*self.consumer.handler, &task, verdict).await;
                }
                _ => {}
            }
        }
    }

    fn checked<T>(&mut self, result: Result<T, StoreError>) -> Option<T> {
        result
            .inspect_err(|error| {
                self.failed = true;
                tracing::error!(%error, "the store failed the delivery loop; it tries again");
            })
            .ok()
    }
}
