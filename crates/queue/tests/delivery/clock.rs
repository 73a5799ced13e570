//! Workers whose clocks are wrong.

use crate::support::*;
use aetherium_model::{
    WorkerId,
    task::{LEASE, TaskState},
};
use aetherium_queue::Outcome;

/// From now on the database says that it is an hour earlier than it is for the workers.
const BEHIND: &str = "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql \
    VOLATILE AS 'SELECT pg_catalog.clock_timestamp() - interval ''1 hour'''; \
    DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', \
    current_database()); END $$;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_clock_is_ahead_leaves_others_what_they_hold_and_does_its_own() {
    let world = World::new(Way::Polling).await;
    world.postgres(BEHIND).await;
    let mut world = world.restarted().await;
    let store = world.queue.store().clone();
    let clock = store.clock().await.unwrap();
    assert!(clock.after(LEASE) < now(), "the database's clock is not behind");

    let own = std::mem::replace(&mut world.worker, WorkerId::new());
    let (_, theirs) = world.add_vm().await;
    let held = store.claim_waiting(world.worker, 1, clock, clock.after(LEASE)).await.unwrap();
    assert_eq!(held.len(), 1);
    world.worker = own;

    let running = world.consume(answers(|_, _| Box::pin(async { Outcome::Done })), DEADLINE);
    let (_, mine) = world.add_vm().await;
    world.until(mine.id, TaskState::Succeeded).await;
    // Its first look for what ran out is over, too.
    running.stop().await;
    assert_eq!(world.state(theirs.id).await, TaskState::Claimed);
}
