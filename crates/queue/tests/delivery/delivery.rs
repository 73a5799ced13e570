//! What a worker can count on.

use crate::support::*;
use aetherium_model::{
    Code, Fault, TaskId,
    run::RunState,
    task::{MAX_ATTEMPTS, Priority, Schedule, TaskKind, TaskState},
};
use aetherium_queue::Outcome;
use aetherium_store::{Finish, RunRef, TaskFilter};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::sync::Notify;

async fn hundreds_of_tasks_all_run_once_and_no_more_at_a_time_than_allowed(way: Way) {
    let world = World::new(way).await;
    let (runs, at_once) =
        (Arc::new(Mutex::new(HashMap::<TaskId, u32>::new())), Arc::new(AtomicU32::new(0)));
    let handler = answers({
        let runs = Arc::clone(&runs);
        move |task, _| {
            let (runs, at_once) = (Arc::clone(&runs), Arc::clone(&at_once));
            Box::pin(async move {
                assert!(at_once.fetch_add(1, SeqCst) < 8, "too many at once");
                *runs.lock().unwrap().entry(task.id).or_default() += 1;
                tokio::task::yield_now().await;
                at_once.fetch_sub(1, SeqCst);
                Outcome::Done
            })
        }
    });
    let mut tasks = Vec::new();
    for _ in 0..100 {
        tasks.push(world.add_vm().await.1.id);
    }
    let running = world.consume(handler, DEADLINE);
    for _ in 0..200 {
        tasks.push(world.add_vm().await.1.id);
    }
    for id in &tasks {
        world.until(*id, TaskState::Succeeded).await;
    }
    running.stop().await;
    let runs = runs.lock().unwrap();
    assert_eq!(runs.len(), tasks.len());
    assert!(runs.values().all(|times| *times == 1));
}

async fn an_idle_consumer_is_woken_by_every_task_that_comes(way: Way) {
    let world = World::new(way).await;
    let running = world.consume(answers(|_, _| Box::pin(async { Outcome::Done })), DEADLINE);
    for _ in 0..150 {
        let (_, task) = world.add_vm().await;
        world.until(task.id, TaskState::Succeeded).await;
    }
    running.stop().await;
}

async fn tasks_of_one_serial_key_run_one_at_a_time_in_order(way: Way) {
    let world = World::new(way).await;
    let busy = Arc::new(Mutex::new(HashMap::<String, Vec<TaskId>>::new()));
    let done = Arc::new(Mutex::new(Vec::new()));
    let handler = answers({
        let done = Arc::clone(&done);
        move |task, _| {
            let (busy, done) = (Arc::clone(&busy), Arc::clone(&done));
            Box::pin(async move {
                let key = task.kind.serial_key().unwrap();
                {
                    let mut busy = busy.lock().unwrap();
                    let here = busy.entry(key.clone()).or_default();
                    here.push(task.id);
                    assert_eq!(here.len(), 1, "two tasks of {key}");
                }
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                busy.lock().unwrap().get_mut(&key).unwrap().clear();
                done.lock().unwrap().push(task.id);
                Outcome::Done
            })
        }
    });
    let mut pairs = Vec::new();
    for _ in 0..20 {
        let (vm, create) = world.add_vm().await;
        pairs.push((create.id, world.add_delete(vm.id).await.id));
    }
    let running = world.consume(handler, DEADLINE);
    for (_, delete) in &pairs {
        world.until(*delete, TaskState::Succeeded).await;
    }
    running.stop().await;
    let done = done.lock().unwrap();
    let place = |id: &TaskId| done.iter().position(|it| it == id).unwrap();
    assert!(pairs.iter().all(|(create, delete)| place(create) < place(delete)));
}

async fn a_handler_that_panics_fails_its_task_and_nothing_else(way: Way) {
    let world = World::new(way).await;
    let handler = answers(|task, _| {
        Box::pin(async move {
            assert!(!matches!(task.kind, TaskKind::VmCreate { .. }), "boom");
            Outcome::Done
        })
    });
    let running = world.consume(handler.clone(), DEADLINE);
    let (vm, create) = world.add_vm().await;
    let delete = world.add_delete(vm.id).await;
    let failed = world.until(create.id, TaskState::Failed).await;
    let fault = failed.fault.unwrap();
    assert_eq!(fault.code, Code::Internal);
    assert!(fault.detail.contains("boom"), "{fault}");
    world.until(delete.id, TaskState::Succeeded).await;
    running.stop().await;
    assert_eq!(handler.abandoned.lock().unwrap().get(&create.id), Some(&fault));
}

async fn a_handler_that_panics_or_fails_after_the_start_mark_interrupts_its_run(way: Way) {
    let world = World::new(way).await;
    let (queue, panics) = (world.queue.clone(), Arc::new(AtomicBool::new(true)));
    let handler = answers(move |task, _| {
        let (queue, panics) = (queue.clone(), Arc::clone(&panics));
        Box::pin(async move {
            if RunRef::of(&task.kind).is_none() {
                return Outcome::Done;
            }
            World::start(&queue, &task).await;
            assert!(!panics.swap(false, SeqCst), "boom");
            Outcome::Failed(Fault::new(Code::Unavailable, "the database is away"))
        })
    });
    let running = world.consume(handler, DEADLINE);
    let (vm, _) = world.add_vm().await;
    for _ in ["it panics", "it fails"] {
        let (execution, task) = world.add_execution(vm.id).await;
        world.until(task.id, TaskState::Interrupted).await;
        let state = world.queue.store().execution(execution.id).await.unwrap().state;
        assert!(matches!(state, RunState::Interrupted { .. }));
    }
    running.stop().await;
}

async fn a_handler_that_forgets_the_end_of_its_run_does_not_leave_it_running(way: Way) {
    let world = World::new(way).await;
    let queue = world.queue.clone();
    let handler = answers(move |task, _| {
        let queue = queue.clone();
        Box::pin(async move {
            if RunRef::of(&task.kind).is_some() {
                World::start(&queue, &task).await;
            }
            Outcome::Settled
        })
    });
    let running = world.consume(handler, DEADLINE);
    let (vm, create) = world.add_vm().await;
    let (_, task) = world.add_execution(vm.id).await;
    world.until(task.id, TaskState::Interrupted).await;
    world.until(create.id, TaskState::Failed).await;
    running.stop().await;
}

async fn a_cancellation_reaches_the_handler_that_runs(way: Way) {
    let world = World::new(way).await;
    let queue = world.queue.clone();
    let handler = answers(move |task, context| {
        let queue = queue.clone();
        Box::pin(async move {
            if RunRef::of(&task.kind).is_none() {
                return Outcome::Done;
            }
            let run = World::start(&queue, &task).await;
            context.cancelled().cancelled().await;
            let finish = queue.finish_run(run, RunState::Cancelled, now()).await.unwrap();
            assert_eq!(finish, Finish::Written);
            Outcome::Settled
        })
    });
    let running = world.consume(handler, DEADLINE);
    let (vm, _) = world.add_vm().await;
    let (execution, task) = world.add_execution(vm.id).await;
    let (_, other) = world.add_execution(vm.id).await;
    world.until(task.id, TaskState::Started).await;
    world.until(other.id, TaskState::Started).await;
    world.queue.request_cancel_task(task.id, now()).await.unwrap();
    world.until(task.id, TaskState::Cancelled).await;
    let state = world.queue.store().execution(execution.id).await.unwrap().state;
    assert_eq!(state, RunState::Cancelled);
    assert_eq!(world.state(other.id).await, TaskState::Started);
    world.queue.request_cancel_task(other.id, now()).await.unwrap();
    world.until(other.id, TaskState::Cancelled).await;
    running.stop().await;
}

async fn what_is_put_off_comes_again_and_ends_with_its_reason_when_tried_too_often(way: Way) {
    let world = World::new(way).await;
    let handler = answers(|_, _| {
        let fault = Fault::new(Code::NoCapacity, "no room");
        Box::pin(async { Outcome::Retry { after: Duration::from_millis(5), fault } })
    });
    let running = world.consume(handler.clone(), DEADLINE);
    let (_, task) = world.add_vm().await;
    let failed = world.until(task.id, TaskState::Failed).await;
    assert_eq!(failed.attempts, MAX_ATTEMPTS);
    let fault = failed.fault.unwrap();
    assert_eq!(fault.code, Code::RetriesExhausted);
    running.stop().await;
    assert_eq!(handler.abandoned.lock().unwrap().get(&task.id), Some(&fault));
}

async fn what_comes_due_at_the_very_moment_it_is_looked_for_is_not_forgotten(way: Way) {
    let world = World::new(way).await;
    let handler = answers(|task, _| {
        // About as long as a round takes: sooner or later a task comes due in the midst of one.
        let after = Duration::from_millis(u64::from(task.attempts) % 3);
        let fault = Fault::new(Code::NoCapacity, "no room");
        Box::pin(async move { Outcome::Retry { after, fault } })
    });
    let running = world.consume(handler, DEADLINE);
    for _ in 0..40 {
        let (_, task) = world.add_vm().await;
        world.until(task.id, TaskState::Failed).await;
    }
    running.stop().await;
}

async fn shutdown_waits_for_handlers_within_the_grace(way: Way) {
    let world = World::new(way).await;
    let (stopping, late_is_there) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = answers({
        let (stopping, late_is_there) = (Arc::clone(&stopping), Arc::clone(&late_is_there));
        move |_, context| {
            let (stopping, late_is_there) = (Arc::clone(&stopping), Arc::clone(&late_is_there));
            Box::pin(async move {
                context.shutting_down().cancelled().await;
                // Passed on by the consumer when it claims no more.
                context.cancelled().cancelled().await;
                stopping.notify_one();
                late_is_there.notified().await;
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                Outcome::Done
            })
        }
    });
    let running = world.consume(handler, DEADLINE);
    let (_, task) = world.add_vm().await;
    world.until(task.id, TaskState::Claimed).await;
    running.shutdown.cancel();
    world.queue.request_cancel_task(task.id, now()).await.unwrap();
    stopping.notified().await;
    let (_, late) = world.add_vm().await;
    late_is_there.notify_one();
    running.stop().await;
    assert_eq!(world.state(task.id).await, TaskState::Succeeded);
    assert_eq!(world.state(late.id).await, TaskState::Queued);
}

async fn shutdown_hands_back_what_has_not_started_and_interrupts_what_has(way: Way) {
    let world = World::new(way).await;
    let queue = world.queue.clone();
    let handler = answers(move |task, _| {
        let queue = queue.clone();
        Box::pin(async move {
            if RunRef::of(&task.kind).is_some() {
                World::start(&queue, &task).await;
            }
            std::future::pending().await
        })
    });
    let running = world.consume(handler.clone(), Duration::ZERO);
    let (vm, create) = world.add_vm().await;
    let (_, started) = world.add_execution(vm.id).await;
    world.until(create.id, TaskState::Claimed).await;
    world.until(started.id, TaskState::Started).await;
    running.stop().await;
    assert_eq!(world.state(create.id).await, TaskState::Queued);
    assert_eq!(world.state(started.id).await, TaskState::Interrupted);
    assert_eq!(Vec::from_iter(handler.abandoned.lock().unwrap().keys()), [&started.id]);
}

async fn after_a_kill_what_can_be_repeated_runs_again_and_a_started_command_is_only_gone_on_with(
    way: Way,
) {
    let world = World::new(way).await;
    let queue = world.queue.clone();
    let handler = answers(move |task, _| {
        let queue = queue.clone();
        Box::pin(async move {
            if RunRef::of(&task.kind).is_some() {
                World::start(&queue, &task).await;
            }
            std::future::pending().await
        })
    });
    let running = world.consume(handler, DEADLINE);
    let (vm, create) = world.add_vm().await;
    let (execution, started) = world.add_execution(vm.id).await;
    world.until(create.id, TaskState::Claimed).await;
    world.until(started.id, TaskState::Started).await;
    running.kill().await;

    let world = world.restarted().await;
    let (_, waiting) = world.add_execution(vm.id).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler = answers({
        let (queue, seen) = (world.queue.clone(), Arc::clone(&seen));
        move |task, _| {
            let queue = queue.clone();
            seen.lock().unwrap().push((task.id, task.attempts, task.state));
            Box::pin(async move {
                if let Some(run) = RunRef::of(&task.kind) {
                    if task.state != TaskState::Started {
                        World::start(&queue, &task).await;
                    }
                    let _ = queue.finish_run(run, completed(), now()).await.unwrap();
                }
                Outcome::Done
            })
        }
    });
    let running = world.consume(handler.clone(), DEADLINE);
    world.until(create.id, TaskState::Succeeded).await;
    world.until(waiting.id, TaskState::Succeeded).await;
    world.until(started.id, TaskState::Succeeded).await;
    running.stop().await;
    let seen = seen.lock().unwrap().clone();
    let was = |id, attempts, state| assert!(seen.contains(&(id, attempts, state)), "{seen:?}");
    was(waiting.id, 1, TaskState::Claimed);
    was(create.id, 2, TaskState::Claimed);
    was(started.id, 2, TaskState::Started);
    assert_eq!(seen.len(), 3, "{seen:?}");
    let state = world.queue.store().execution(execution.id).await.unwrap().state;
    assert_eq!(state, completed());
    assert!(handler.abandoned.lock().unwrap().is_empty());
}

async fn what_fails_for_a_reason_that_passes_is_tried_again_and_anything_else_is_not(way: Way) {
    let world = World::new(way).await;
    let handler = answers(move |task, _| {
        Box::pin(async move {
            let busy = Outcome::Failed(Fault::new(Code::Busy, "not now"));
            match task.kind {
                TaskKind::VmExecute { .. } if task.attempts < 3 => busy,
                TaskKind::VmExecute { .. } => Outcome::Cancelled,
                _ => Outcome::Failed(Fault::new(Code::Conflict, "never")),
            }
        })
    });
    let running = world.consume(handler, DEADLINE);
    let (vm, create) = world.add_vm().await;
    let (_, passing) = world.add_execution(vm.id).await;
    assert_eq!(world.until(passing.id, TaskState::Cancelled).await.attempts, 3);
    assert_eq!(world.until(create.id, TaskState::Failed).await.attempts, 1);
    running.stop().await;
}

async fn a_dead_letter_is_listed_and_done_again_when_that_is_safe(way: Way) {
    let world = World::new(way).await;
    let is_mended = Arc::new(AtomicBool::new(false));
    let handler = answers({
        let is_mended = Arc::clone(&is_mended);
        move |_, _| {
            let done = is_mended.load(SeqCst);
            Box::pin(async move {
                if done {
                    return Outcome::Done;
                }
                let fault = Fault::new(Code::NoCapacity, "no room");
                Outcome::Retry { after: Duration::ZERO, fault }
            })
        }
    });
    let running = world.consume(handler, DEADLINE);
    let (vm, create) = world.add_vm().await;
    world.until(create.id, TaskState::Failed).await;
    let delete = world.add_delete(vm.id).await;
    world.until(delete.id, TaskState::Failed).await;
    let filter = TaskFilter { dead: Some(true), ..TaskFilter::default() };
    let dead = world.queue.store().tasks(&filter, &Default::default()).await.unwrap().items;
    assert_eq!(dead.iter().map(|it| it.id).collect::<Vec<_>>(), [delete.id, create.id]);

    is_mended.store(true, SeqCst);
    let refused = world.queue.requeue_failed(create.id).await.unwrap_err();
    assert_eq!(refused.code(), Code::Conflict);
    assert_eq!(world.queue.requeue_failed(delete.id).await.unwrap().attempts, 0);
    assert_eq!(world.until(delete.id, TaskState::Succeeded).await.attempts, 1);
    world.queue.requeue_failed(delete.id).await.unwrap_err();
    running.stop().await;
}

async fn a_task_runs_at_its_time_or_fails_after_its_deadline_and_holds_nobody_up(way: Way) {
    let world = World::new(way).await;
    let ran = Arc::new(Mutex::new(Vec::new()));
    let handler = answers({
        let ran = Arc::clone(&ran);
        move |task, _| {
            ran.lock().unwrap().push((task.id, now()));
            Box::pin(async { Outcome::Done })
        }
    });
    let running = world.consume(handler, DEADLINE);
    let (vm, create) = world.add_vm().await;
    world.until(create.id, TaskState::Succeeded).await;
    let in_ms = |ms| Some(now().after(Duration::from_millis(ms)));
    let tomorrow = in_ms(86_400_000);
    let far = Schedule { run_at: tomorrow, ..Schedule::default() };
    let (_, far) = world.add_scheduled(vm.id, far).await;
    let soon = Schedule { run_at: in_ms(700), ..Schedule::default() };
    let (_, soon) = world.add_scheduled(vm.id, soon).await;
    let late = Schedule { run_at: tomorrow, deadline: in_ms(900), ..Schedule::default() };
    let (late_run, late) = world.add_scheduled(vm.id, late).await;
    let (_, other) = world.add_vm().await;
    world.until(other.id, TaskState::Succeeded).await;

    // The handler wrote no end for it, which is told when it has run.
    world.until(soon.id, TaskState::Failed).await;
    let fault = world.until(late.id, TaskState::Failed).await.fault.unwrap();
    assert_eq!(fault.code, Code::DeadlineExceeded);
    let state = world.queue.store().execution(late_run.id).await.unwrap().state;
    assert!(matches!(state, RunState::Failed { .. }), "{state:?}");
    assert_eq!(world.state(far.id).await, TaskState::Queued);
    running.stop().await;
    let ran = ran.lock().unwrap();
    let when = |id| ran.iter().find(|(it, _)| *it == id).map(|(_, at)| *at);
    assert!(when(soon.id) >= soon.run_at && when(soon.id).is_some());
    assert_eq!((when(late.id), when(far.id)), (None, None));
}

async fn with_one_hand_the_more_urgent_is_next_and_the_patient_is_not_forgotten(way: Way) {
    let world = World::new(way).await;
    let (begun, order) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
    let handler = answers({
        let (begun, order) = (Arc::clone(&begun), Arc::clone(&order));
        move |task, _| {
            let (begun, order) = (Arc::clone(&begun), Arc::clone(&order));
            Box::pin(async move {
                let is_first = order.lock().unwrap().is_empty();
                order.lock().unwrap().push(task.id);
                if is_first {
                    begun.notified().await;
                }
                Outcome::Cancelled
            })
        }
    });
    let running = world.consume_at_once(handler, DEADLINE, 1);
    let (vm, first) = world.add_vm().await;
    world.until(first.id, TaskState::Claimed).await;
    let mut made = Vec::new();
    for priority in [Priority::Batch, Priority::Normal, Priority::Interactive] {
        let schedule = Schedule { priority, ..Schedule::default() };
        made.push(world.add_scheduled(vm.id, schedule).await.1.id);
    }
    begun.notify_one();
    world.until(made[0], TaskState::Cancelled).await;
    running.stop().await;
    made.push(first.id);
    made.reverse();
    assert_eq!(*order.lock().unwrap(), made);
}

on_every_way! {
    what_fails_for_a_reason_that_passes_is_tried_again_and_anything_else_is_not
    a_dead_letter_is_listed_and_done_again_when_that_is_safe
    a_task_runs_at_its_time_or_fails_after_its_deadline_and_holds_nobody_up
    with_one_hand_the_more_urgent_is_next_and_the_patient_is_not_forgotten
    hundreds_of_tasks_all_run_once_and_no_more_at_a_time_than_allowed
    an_idle_consumer_is_woken_by_every_task_that_comes
    tasks_of_one_serial_key_run_one_at_a_time_in_order
    a_handler_that_panics_fails_its_task_and_nothing_else
    a_handler_that_panics_or_fails_after_the_start_mark_interrupts_its_run
    a_handler_that_forgets_the_end_of_its_run_does_not_leave_it_running
    a_cancellation_reaches_the_handler_that_runs
    what_is_put_off_comes_again_and_ends_with_its_reason_when_tried_too_often
    what_comes_due_at_the_very_moment_it_is_looked_for_is_not_forgotten
    shutdown_waits_for_handlers_within_the_grace
    shutdown_hands_back_what_has_not_started_and_interrupts_what_has
    after_a_kill_what_can_be_repeated_runs_again_and_a_started_command_is_only_gone_on_with
}
