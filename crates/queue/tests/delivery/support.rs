//! A store, a consumer over it, and handlers whose answers the test gives.

use aetherium_model::{
    ExecutionId, Fault, TaskId, Timestamp, VmId, WorkerId,
    resources::{NetworkMode, Resources},
    run::{Command, Execution, Exit, ExitReport, RunState},
    task::{Schedule, Task, TaskKind, TaskState},
    vm::{Vm, VmSpec, VmState},
};
use aetherium_queue::{
    Bus, Changed, Consumer, Handler, Health, Outcome, Queue, TaskContext, Topic,
};
use aetherium_store::{DatabaseUrl, RunRef, Start, Store, StoreError};
use async_trait::async_trait;
use sqlx::Connection as _;
use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, SystemTime},
};
use test_servers::{Postgres, Redis};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Shorter than the idle poll: what happens within it was not found by polling.
pub(crate) const DEADLINE: Duration = Duration::from_secs(12);

/// How tasks get from where they are made to the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// One process over SQLite.
    InProcess,
    /// A gateway and a worker over PostgreSQL that look again and again.
    Polling,
    /// The same, with Redis between them.
    Redis,
}

/// Makes a test of each case for every way.
macro_rules! on_every_way {
    ($($case:ident)+) => {
        mod in_process { $crate::support::on_one_way! { InProcess $($case)+ } }
        mod polling { $crate::support::on_one_way! { Polling $($case)+ } }
        mod redis { $crate::support::on_one_way! { Redis $($case)+ } }
    };
}
macro_rules! on_one_way {
    ($way:ident $($case:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case($crate::support::Way::$way).await;
            }
        )+
    };
}
pub(crate) use {on_every_way, on_one_way};

pub(crate) struct World {
    /// The gateway's, with a bus of its own where a worker would be another process.
    pub(crate) queue: Queue,
    /// The worker's bus.
    worker_bus: Bus,
    pub(crate) worker: WorkerId,
    url: DatabaseUrl,
    redis: Option<String>,
    _dir: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new(way: Way) -> Self {
        static REDIS: OnceLock<Redis> = OnceLock::new();
        match way {
            Way::InProcess | Way::Polling => Self::make(way, None).await,
            Way::Redis => {
                let url = REDIS.get_or_init(Redis::start).url();
                let world = Self::make(way, Some(url)).await;
                world.until_redis(Health::Healthy).await;
                world
            }
        }
    }

    /// With this Redis, in whatever state it is.
    pub(crate) async fn with_redis(redis: &Redis) -> Self {
        Self::make(Way::Redis, Some(redis.url())).await
    }

    async fn make(way: Way, redis: Option<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = match way {
            Way::InProcess => DatabaseUrl::Sqlite(dir.path().join("x.db")),
            Way::Polling | Way::Redis => Postgres::of_this_process().database().parse().unwrap(),
        };
        let (bus, worker_bus) = buses(&url, redis.as_deref());
        let queue = Queue::new(Store::open(&url).await.unwrap(), bus);
        Self { queue, worker_bus, worker: WorkerId::new(), url, redis, _dir: dir }
    }

    /// Has PostgreSQL do what no store would ask of it.
    pub(crate) async fn postgres(&self, statements: &'static str) {
        let DatabaseUrl::Postgres(url) = &self.url else { panic!("{} is none", self.url) };
        let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::raw_sql(statements).execute(&mut connection).await.unwrap();
    }

    /// The same database with nothing else of the old process left.
    pub(crate) async fn restarted(self) -> Self {
        let (bus, worker_bus) = buses(&self.url, self.redis.as_deref());
        let queue = Queue::new(Store::open(&self.url).await.unwrap(), bus);
        Self { queue, worker_bus, ..self }
    }

    /// Waits until both processes find Redis so.
    pub(crate) async fn until_redis(&self, health: Health) {
        for bus in [self.queue.bus(), &self.worker_bus] {
            let mut found = bus.redis_health().unwrap();
            let turned = found.wait_for(|it| *it == health);
            let in_time = tokio::time::timeout(DEADLINE, turned).await;
            assert!(in_time.is_ok(), "Redis is not found {health:?}");
        }
    }

    pub(crate) fn consume(&self, handler: Arc<dyn Handler>, grace: Duration) -> Running {
        self.consume_at_once(handler, grace, 8)
    }

    pub(crate) fn consume_at_once(
        &self,
        handler: Arc<dyn Handler>,
        grace: Duration,
        max_in_flight: usize,
    ) -> Running {
        let shutdown = CancellationToken::new();
        let consumer = Consumer {
            store: self.queue.store().clone(),
            bus: self.worker_bus.clone(),
            worker_id: self.worker,
            handler,
            max_in_flight,
            grace,
        };
        Running { task: tokio::spawn(consumer.run(shutdown.clone())), shutdown }
    }

    pub(crate) async fn add_vm(&self) -> (Vm, Task) {
        let vm = Vm {
            id: VmId::new(),
            spec: VmSpec {
                template: "debian".parse().unwrap(),
                template_digest: None,
                resources: Resources::default(),
                tuning: Default::default(),
                network: NetworkMode::Isolated,
                transport: None,
                snapshot: None,
                snapshots: None,
            },
            worker_id: self.worker,
            workspace_id: None,
            state: VmState::Creating,
            driver: None,
            accelerator: None,
            agent_transport: None,
            virtio_transport: None,
            address: None,
            timings: None,
            expires_at: None,
            created_at: now(),
            updated_at: now(),
        };
        let task = task(self.worker, TaskKind::VmCreate { vm_id: vm.id });
        self.queue.create_vm(&vm, &task, None).await.unwrap();
        (vm, task)
    }

    pub(crate) async fn add_execution(&self, vm_id: VmId) -> (Execution, Task) {
        self.add_scheduled(vm_id, Schedule::default()).await
    }

    pub(crate) async fn add_scheduled(&self, vm_id: VmId, schedule: Schedule) -> (Execution, Task) {
        let execution = Execution {
            id: ExecutionId::new(),
            vm_id,
            command: Command::new(["true"]),
            state: RunState::Queued,
            created_at: now(),
            started_at: None,
            finished_at: None,
        };
        let task = task(self.worker, TaskKind::VmExecute { vm_id, execution_id: execution.id });
        let task = task.scheduled(schedule);
        self.queue.create_execution(&execution, Some(&task), None).await.unwrap();
        (execution, task)
    }

    pub(crate) async fn add_delete(&self, vm_id: VmId) -> Task {
        let task = task(self.worker, TaskKind::VmDelete { vm_id });
        self.queue.request_vm_delete(vm_id, &task).await.unwrap()
    }

    /// Waits until a task is in this state, by its notifications alone.
    pub(crate) async fn until(&self, id: TaskId, state: TaskState) -> Task {
        let mut changes = self.queue.bus().subscribe(Topic::Task(id));
        loop {
            let task = self.queue.store().task(id).await.unwrap();
            if task.state == state {
                return task;
            }
            assert!(!task.state.is_terminal(), "it ended otherwise: {task:?}");
            let changed = changes.changed(DEADLINE).await;
            assert_eq!(changed, Changed::Yes, "still {}, not {state:?}", task.state.as_str());
        }
    }

    pub(crate) async fn state(&self, id: TaskId) -> TaskState {
        self.queue.store().task(id).await.unwrap().state
    }

    /// Writes the start mark of a claimed execution.
    pub(crate) async fn start(queue: &Queue, claim: &Task) -> RunRef {
        let run = RunRef::of(&claim.kind).unwrap();
        let start = queue.start_run(run, Some(claim), VmId::new(), now()).await.unwrap();
        assert_eq!(start, Start::Marked);
        run
    }
}

pub(crate) struct Running {
    pub(crate) task: JoinHandle<Result<(), StoreError>>,
    pub(crate) shutdown: CancellationToken,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap().unwrap();
    }

    /// As if the process were killed: nothing gets to write anything any more.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

type Answer = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A handler made of a closure; it remembers which tasks were abandoned.
pub(crate) struct Answers<F> {
    answer: F,
    pub(crate) abandoned: Mutex<HashMap<TaskId, Fault>>,
}

pub(crate) fn answers<F>(answer: F) -> Arc<Answers<F>>
where
    F: Fn(Task, TaskContext) -> Answer + Send + Sync,
{
    Arc::new(Answers { answer, abandoned: Mutex::default() })
}

#[async_trait]
impl<F> Handler for Answers<F>
where
    F: Fn(Task, TaskContext) -> Answer + Send + Sync,
{
    async fn handle(&self, task: Task, context: TaskContext) -> Outcome {
        (self.answer)(task, context).await
    }

    async fn abandoned(&self, task: &Task, fault: &Fault) {
        self.abandoned.lock().unwrap().insert(task.id, fault.clone());
    }
}

pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}

pub(crate) fn completed() -> RunState {
    let exit = Exit::Exited { code: 0 };
    let exit =
        ExitReport { exit, exit_code: 0, wall_ms: 1, user_ms: 1, system_ms: 0, max_rss_kib: 9 };
    RunState::Completed { exit }
}

/// The gateway's bus and the worker's.
fn buses(url: &DatabaseUrl, redis: Option<&str>) -> (Bus, Bus) {
    let bus = || match (url, redis) {
        (_, Some(redis)) => Bus::redis(redis).unwrap(),
        (DatabaseUrl::Postgres(_), None) => Bus::polling(Duration::from_millis(20)),
        (DatabaseUrl::Sqlite(_), None) => Bus::in_process(),
    };
    let one = bus();
    let two = if matches!(url, DatabaseUrl::Sqlite(_)) { one.clone() } else { bus() };
    (one, two)
}

fn task(worker_id: WorkerId, kind: TaskKind) -> Task {
    Task::new(worker_id, kind, now())
}
