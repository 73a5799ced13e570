//! A worker that leaves: as if its process were killed, but at once and for good.

use crate::world::{DEADLINE, World};
use aetherium_model::{run::RunState, task::TaskState, vm::VmState};
use aetherium_worker::Settings;
use tokio::time::timeout;

#[tokio::test]
async fn a_worker_that_leaves_ends_nothing_and_its_next_process_goes_on() {
    let world = World::new().await;
    let settings = Settings { max_vms: 1, ..Settings::default() };
    let worker = world.worker(settings.clone()).await;
    let vm = world.vm(worker.id()).await;
    let prompt = world.prompt(worker.id()).await;
    world.until_told(prompt, "waiting_for_room").await;

    let left = timeout(DEADLINE, worker.leave(2 * DEADLINE)).await;
    left.expect("a task of the worker does not stop");
    assert_eq!(world.queue.store().vm(vm).await.unwrap().state, VmState::Running);
    let task = world.queue.store().prompt(prompt).await.unwrap().task_id;
    assert_eq!(world.queue.store().task(task).await.unwrap().state, TaskState::Claimed);

    // Modelled VMs end with their process, which makes room.
    let worker = world.worker(settings).await;
    let ended = world.until_ended(prompt).await;
    assert!(matches!(ended.state, RunState::Completed { .. }), "{ended:#?}");
    worker.drain().await;
}
