//! What becomes of tasks when Redis fails: each still runs once, and Redis is used again when it is back.

use crate::support::*;
use aetherium_model::{
    TaskId,
    task::{Task, TaskState},
};
use aetherium_queue::{Bus, Changed, Health, Outcome, Topic};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use test_servers::Redis;
use tokio::time::timeout;

/// How many tasks come before, during and after each fault.
const TASKS: usize = 20;

/// A worker at work, and how often each task ran.
struct Work {
    world: World,
    running: Running,
    runs: Arc<Mutex<HashMap<TaskId, u32>>>,
    made: Vec<TaskId>,
}

impl Work {
    fn begin(world: World) -> Self {
        let runs = Arc::new(Mutex::new(HashMap::new()));
        let handler = answers({
            let runs = Arc::clone(&runs);
            move |task: Task, _| {
                *runs.lock().unwrap().entry(task.id).or_default() += 1;
                Box::pin(async { Outcome::Done })
            }
        });
        let running = world.consume(handler, DEADLINE);
        Self { world, running, runs, made: Vec::new() }
    }

    /// Makes tasks, for which nobody waits, whatever Redis does.
    async fn add(&mut self) {
        let begun = Instant::now();
        for _ in 0..TASKS {
            self.made.push(self.world.add_vm().await.1.id);
        }
        assert!(begun.elapsed() < DEADLINE, "Redis held up who made tasks");
    }

    async fn all_done(&self) {
        for id in &self.made {
            self.world.until(*id, TaskState::Succeeded).await;
        }
    }

    /// Makes tasks one after the other, in less time than looking for each would take.
    async fn hints_arrive(&mut self) {
        self.world.until_redis(Health::Healthy).await;
        let one_after_the_other = async {
            for _ in 0..TASKS {
                let id = self.world.add_vm().await.1.id;
                self.world.until(id, TaskState::Succeeded).await;
                self.made.push(id);
            }
        };
        let in_time = timeout(DEADLINE, one_after_the_other).await;
        assert!(in_time.is_ok(), "tasks are found by looking alone");
    }

    /// Everything that was made has run once.
    async fn end(self) {
        self.all_done().await;
        self.running.stop().await;
        let runs = self.runs.lock().unwrap();
        assert_eq!(runs.len(), self.made.len());
        assert!(runs.values().all(|times| *times == 1), "{runs:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_forgets_everything_loses_and_doubles_nothing() {
    let redis = Redis::start();
    let mut work = Work::begin(World::with_redis(&redis).await);
    work.hints_arrive().await;
    for _ in 0..3 {
        work.add().await;
        redis.flush();
    }
    work.all_done().await;
    work.hints_arrive().await;
    work.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_is_killed_and_comes_back_empty_loses_and_doubles_nothing() {
    let mut redis = Redis::start();
    let mut work = Work::begin(World::with_redis(&redis).await);
    work.hints_arrive().await;
    work.add().await;
    redis.kill();
    work.add().await;
    work.world.until_redis(Health::Away).await;
    work.add().await;
    work.all_done().await;
    redis.restart();
    work.add().await;
    work.hints_arrive().await;
    work.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_stands_still_holds_nobody_up_and_is_used_again() {
    let redis = Redis::start();
    let mut work = Work::begin(World::with_redis(&redis).await);
    work.hints_arrive().await;
    redis.pause();
    work.add().await;
    work.all_done().await;
    work.world.until_redis(Health::Away).await;
    work.add().await;
    work.all_done().await;
    redis.go_on();
    work.hints_arrive().await;
    work.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_work_is_found_by_looking_until_redis_comes() {
    let mut redis = Redis::absent();
    let mut work = Work::begin(World::with_redis(&redis).await);
    work.add().await;
    work.all_done().await;
    redis.restart();
    work.hints_arrive().await;
    work.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_a_dead_process_took_are_followed_by_the_next_one() {
    let redis = Redis::start();
    let world = World::with_redis(&redis).await;
    world.until_redis(Health::Healthy).await;
    let stream = format!("aetherium:work:{}", world.worker);
    redis.command(&format!("XGROUP CREATE {stream} worker 0 MKSTREAM"));
    let (_, task) = world.add_vm().await;
    let begun = Instant::now();
    let take = format!("XREADGROUP GROUP worker of-the-dead COUNT 99 STREAMS {stream} >");
    while !redis.command(&take).contains(&task.id.to_string()) {
        assert!(begun.elapsed() < DEADLINE, "the call does not come");
    }
    let mut work = Work::begin(world);
    work.made.push(task.id);
    work.all_done().await;
    let begun = Instant::now();
    // No call is left in anybody's hands, and nobody but the new process is known.
    let left = || {
        let pending = redis.command(&format!("XPENDING {stream} worker"));
        let known = redis.command(&format!("XINFO CONSUMERS {stream} worker"));
        !pending.contains("\r\n:0\r\n") && !pending.starts_with("*4\r\n:0\r\n")
            || known.contains("of-the-dead")
    };
    while left() {
        assert!(begun.elapsed() < DEADLINE, "the dead process still has calls");
        tokio::task::yield_now().await;
    }
    work.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_announced_after_a_subscription_began_reaches_it_from_another_process() {
    let redis = Redis::start();
    let (here, there) = (Bus::redis(&redis.url()).unwrap(), Bus::redis(&redis.url()).unwrap());
    for bus in [&here, &there] {
        bus.redis_health().unwrap().wait_for(|it| *it == Health::Healthy).await.unwrap();
    }
    let announced = async {
        for _ in 0..50 {
            let topic = Topic::Task(TaskId::new());
            let mut heard = here.subscribe(topic);
            there.announce(topic);
            assert_eq!(heard.changed(DEADLINE).await, Changed::Yes);
            // It may be told once more, when Redis confirms the subscription; then there is silence.
            while heard.changed(Duration::from_millis(20)).await == Changed::Yes {}
            there.announce(topic);
            assert_eq!(heard.changed(DEADLINE).await, Changed::Yes);
        }
    };
    assert!(timeout(DEADLINE, announced).await.is_ok(), "changes are found by looking alone");
}
