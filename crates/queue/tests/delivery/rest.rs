//! Handlers that rest while they wait, and the hands that this leaves to others.

use crate::support::*;
use aetherium_model::{
    Code, Fault, TaskId,
    task::{TaskKind, TaskState},
};
use aetherium_queue::{Handler, Outcome};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// As many as two hands may have rest.
const WAITING: usize = 32;

/// Executions rest until there is room, which the end of a VM makes; and those that may not.
fn executions_wait_for_room() -> (Arc<dyn Handler>, Arc<Mutex<Vec<TaskId>>>) {
    let (room, kept) = (CancellationToken::new(), Arc::<Mutex<Vec<_>>>::default());
    let told = Arc::clone(&kept);
    let handler: Arc<dyn Handler> = answers(move |task, context| {
        let (room, kept) = (room.clone(), Arc::clone(&kept));
        Box::pin(async move {
            match task.kind {
                TaskKind::VmExecute { .. } => {
                    let resting = context.rest();
                    if resting.is_none() {
                        kept.lock().unwrap().push(task.id);
                    }
                    tokio::select! {
                        () = room.cancelled() => Outcome::Cancelled,
                        () = context.cancelled().cancelled() => Outcome::Cancelled,
                        () = context.shutting_down().cancelled() => {
                            let fault = Fault::new(Code::Unavailable, "it stops");
                            Outcome::Retry { after: Duration::ZERO, fault }
                        }
                    }
                }
                TaskKind::VmDelete { .. } => {
                    room.cancel();
                    Outcome::Done
                }
                _ => Outcome::Done,
            }
        })
    });
    (handler, told)
}

async fn whoever_rests_leaves_every_hand_to_what_is_waited_for(way: Way) {
    let world = World::new(way).await;
    let (vm, create) = world.add_vm().await;
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        waiting.push(world.add_execution(vm.id).await.1.id);
    }
    // All of them were there before: that a hand is free is all that the consumer hears of.
    let (handler, _) = executions_wait_for_room();
    let running = world.consume_at_once(handler, DEADLINE, 2);
    let all_rest = async {
        world.until(create.id, TaskState::Succeeded).await;
        for id in &waiting {
            world.until(*id, TaskState::Claimed).await;
        }
    };
    tokio::time::timeout(DEADLINE, all_rest).await.expect("a hand that was lent is not used");
    let delete = world.add_delete(vm.id).await;
    world.until(delete.id, TaskState::Succeeded).await;
    for id in waiting {
        world.until(id, TaskState::Cancelled).await;
    }
    running.stop().await;
}

async fn no_more_rest_than_may_and_the_others_keep_their_hand(way: Way) {
    let world = World::new(way).await;
    let (vm, _) = world.add_vm().await;
    let mut waiting = Vec::new();
    for _ in 0..WAITING + 3 {
        waiting.push(world.add_execution(vm.id).await.1.id);
    }
    let last = waiting[WAITING + 2];
    let (handler, kept) = executions_wait_for_room();
    let running = world.consume_at_once(handler, DEADLINE, 2);
    // Both hands are full of such as may not rest.
    let full = async {
        loop {
            if let [one, _] = kept.lock().unwrap()[..] {
                break one;
            }
            tokio::task::yield_now().await;
        }
    };
    let one = tokio::time::timeout(DEADLINE, full).await.expect("more rest than may");
    assert_eq!(world.state(last).await, TaskState::Queued);
    world.queue.request_cancel_task(one, now()).await.unwrap();
    world.until(last, TaskState::Claimed).await;
    running.stop().await;
}

async fn whoever_rests_hears_that_it_is_cancelled_and_that_the_worker_stops(way: Way) {
    let world = World::new(way).await;
    let (vm, _) = world.add_vm().await;
    let (_, cancelled) = world.add_execution(vm.id).await;
    let (_, left) = world.add_execution(vm.id).await;
    let (handler, _) = executions_wait_for_room();
    let running = world.consume_at_once(handler, DEADLINE, 1);
    world.until(cancelled.id, TaskState::Claimed).await;
    world.until(left.id, TaskState::Claimed).await;
    world.queue.request_cancel_task(cancelled.id, now()).await.unwrap();
    world.until(cancelled.id, TaskState::Cancelled).await;
    assert_eq!(world.state(left.id).await, TaskState::Claimed);
    running.stop().await;
    assert_eq!(world.state(left.id).await, TaskState::Queued);
}

on_every_way! {
    whoever_rests_leaves_every_hand_to_what_is_waited_for
    no_more_rest_than_may_and_the_others_keep_their_hand
    whoever_rests_hears_that_it_is_cancelled_and_that_the_worker_stops
}
