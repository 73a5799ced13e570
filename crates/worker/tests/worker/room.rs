//! Prompts whose VM does not fit: they wait, hold up nobody, and hear what is wanted of them.

use crate::world::{DEADLINE, World, now};
use aetherium_model::{run::RunState, task::TaskState};
use aetherium_worker::Settings;
use futures::future::join_all;
use std::time::Duration;
use tokio::time::timeout;

/// A worker that may have one VM, and two tasks in its hands.
fn small() -> Settings {
    Settings { max_vms: 1, max_in_flight: 2, ..Settings::default() }
}

#[tokio::test]
async fn more_prompts_than_hands_wait_for_room_and_what_makes_it_gets_through() {
    let world = World::new().await;
    let worker = world.worker(small()).await;
    let vm = world.vm(worker.id()).await;
    let mut prompts = Vec::new();
    for _ in 0..5 {
        prompts.push(world.prompt(worker.id()).await);
    }
    for prompt in &prompts {
        world.until_told(*prompt, "waiting_for_room").await;
    }
    world.end(worker.id(), vm).await;
    // Each has the room that the one before it leaves.
    let run = async |prompt| {
        let ended = world.until_ended(prompt).await;
        assert!(matches!(ended.state, RunState::Completed { .. }), "{ended:#?}");
        world.end(worker.id(), ended.vm_id.unwrap()).await;
    };
    timeout(DEADLINE, join_all(prompts.into_iter().map(run))).await.expect("not all of them run");
    worker.drain().await;
}

#[tokio::test]
async fn a_prompt_that_waits_for_room_hears_that_it_is_cancelled_and_that_the_worker_stops() {
    let world = World::new().await;
    let settings = Settings { drain_grace: Duration::from_secs(600), ..small() };
    let worker = world.worker(settings).await;
    world.vm(worker.id()).await;
    let (cancelled, kept) = (world.prompt(worker.id()).await, world.prompt(worker.id()).await);
    for prompt in [cancelled, kept] {
        world.until_told(prompt, "waiting_for_room").await;
    }
    world.queue.cancel_prompt(cancelled, now()).await.unwrap();
    assert_eq!(world.until_ended(cancelled).await.state, RunState::Cancelled);

    timeout(DEADLINE, worker.drain()).await.expect("the worker waits for a prompt that waits");
    let left = world.queue.store().prompt(kept).await.unwrap();
    assert_eq!(left.state, RunState::Queued);
    let task = world.queue.store().task(left.task_id).await.unwrap();
    assert_eq!((task.state, task.attempts), (TaskState::Queued, 1));

    // Its VM has gone with the worker: the next process has room.
    let worker = world.worker(small()).await;
    let ended = world.until_ended(kept).await;
    assert!(matches!(ended.state, RunState::Completed { .. }), "{ended:#?}");
    worker.drain().await;
}
