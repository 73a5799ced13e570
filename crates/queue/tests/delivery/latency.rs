//! How soon a task begins, measured: `cargo test --release -p aetherium-queue --test delivery latency --
//! --ignored --nocapture --test-threads 1`, on a machine that does nothing else.

use crate::support::*;
use aetherium_queue::Outcome;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::time::{MissedTickBehavior, interval};

const TASKS: usize = 500;
const EVERY: Duration = Duration::from_millis(10);

/// At a hundred tasks a second, from the moment one is accepted to the start of its handler.
async fn begin(way: Way, half: Duration, nearly_all: Duration) {
    let world = World::new(way).await;
    let started = Arc::new(Mutex::new(HashMap::new()));
    let handler = answers({
        let started = Arc::clone(&started);
        move |task, _| {
            started.lock().unwrap().insert(task.id, Instant::now());
            Box::pin(async { Outcome::Done })
        }
    });
    let running = world.consume(handler, DEADLINE);
    let mut accepted = Vec::new();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for _ in 0..TASKS {
        tick.tick().await;
        let task = world.add_vm().await.1.id;
        accepted.push((task, Instant::now()));
    }
    for (task, _) in &accepted {
        world.until(*task, aetherium_model::task::TaskState::Succeeded).await;
    }
    running.stop().await;
    let started = started.lock().unwrap();
    let mut took: Vec<_> =
        accepted.iter().map(|(id, at)| started[id].saturating_duration_since(*at)).collect();
    took.sort();
    let (median, p99) = (took[TASKS / 2], took[TASKS * 99 / 100]);
    println!("{way:?}: p50 {median:?}, p99 {p99:?}, longest {:?}", took[TASKS - 1]);
    assert!(median <= half && p99 <= nearly_all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, which wants the machine for itself"]
async fn in_process_tasks_begin_within_two_milliseconds() {
    begin(Way::InProcess, Duration::from_millis(2), Duration::from_millis(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, which wants the machine for itself"]
async fn over_redis_tasks_begin_within_five_milliseconds() {
    begin(Way::Redis, Duration::from_millis(5), Duration::from_millis(25)).await;
}
