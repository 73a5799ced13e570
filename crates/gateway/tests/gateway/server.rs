//! A gateway on a free port of the loopback, and a client that speaks to it.

use crate::worker::FakeWorker;
use aetherium_gateway::{ApiKeys, Gateway, GatewayConfig, Problem, serve};
use aetherium_model::{
    ExecutionId, LoginId, PromptId, TaskId, Timestamp, VmId, WorkerId, WorkspaceId,
    environment::Environment,
    login::{Accepts, Login, LoginState},
    resources::DriverKind,
    room::Room,
    run::{Command, Execution, Exit, ExitReport, RunState},
    task::{Task, TaskKind, TaskState},
    vm::{Vm, VmSpec, VmState},
    worker::{Worker, WorkerState},
    workspace::{Lifecycle, Prompt, Workspace, WorkspaceState},
};
use aetherium_queue::{Bus, Health, Queue};
use aetherium_secrets::MasterKeys;
use aetherium_store::{DatabaseUrl, Store};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{net::SocketAddr, path::Path, sync::OnceLock, time::Duration};
use test_servers::{Postgres, Redis};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub(crate) const KEY: &str = "test-key-0123456789";
/// Longer than anything here takes: reached only when something is broken.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// How often a server looks at the store that hears nothing of the others.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The master keys of every gateway in these tests.
pub(crate) fn secrets_keys() -> MasterKeys {
    MasterKeys::parse("test:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=").unwrap()
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) queue: Queue,
    pub(crate) worker: FakeWorker,
    pub(crate) worker_id: WorkerId,
    pub(crate) shutdown: CancellationToken,
    pub(crate) serving: JoinHandle<std::io::Result<()>>,
    /// Where its rows are.
    pub(crate) database: String,
    pub(crate) directory: tempfile::TempDir,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn json(&self) -> Value {
        self.parse()
    }

    /// The problem, after checking what every problem must have.
    pub(crate) fn problem(&self) -> Problem {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let problem: Problem = self.parse();
        assert_eq!(problem.status, self.status.as_u16());
        assert_eq!(problem.request_id, self.headers["x-request-id"].to_str().unwrap());
        assert_eq!(problem.kind, format!("urn:aetherium:problem:{}", problem.code));
        assert!(!problem.title.is_empty() && !problem.detail.is_empty(), "{problem:?}");
        problem
    }
}

/// What the worker has: enough for what the tests make.
pub(crate) const ROOM: Room =
    Room { vcpus: 1000, memory_mib: 1_000_000, disk_mib: 10_000_000, vms: 1000 };

/// A VM that has just been asked for.
pub(crate) fn creating_vm(worker_id: WorkerId) -> Vm {
    Vm {
        id: VmId::new(),
        spec: VmSpec {
            template: "default".parse().unwrap(),
            template_digest: None,
            resources: Default::default(),
            tuning: Default::default(),
            network: Default::default(),
            transport: None,
            snapshot: None,
            snapshots: None,
        },
        worker_id,
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
    }
}

/// Which store and which bus, as `STORE+BUS`.
const PAIRING: &str = "AETHERIUM_TEST_FLEET";

/// Where the gateway's rows are, its bus, and that of its workers. `AETHERIUM_TEST_FLEET` says which: any
/// store (`sqlite`, `postgres`) with any bus (`in-process`: one for both, `polling` and `redis`: one each).
async fn servers(directory: &Path) -> (String, Bus, Bus) {
    let pairing = std::env::var(PAIRING).unwrap_or_else(|_| "sqlite+in-process".to_owned());
    let Some((store, bus)) = pairing.split_once('+') else {
        panic!("{PAIRING}={pairing} names no store and bus, such as postgres+redis");
    };
    let url = match store {
        "sqlite" => format!("sqlite://{}/db.sqlite", directory.display()),
        "postgres" => Postgres::of_this_process().database(),
        other => panic!("{PAIRING}: {other} is no store: sqlite, postgres"),
    };
    let (here, there) = buses(bus).await;
    (url, here, there)
}

async fn buses(kind: &str) -> (Bus, Bus) {
    static REDIS: OnceLock<Redis> = OnceLock::new();
    match kind {
        "in-process" => {
            let bus = Bus::in_process();
            (bus.clone(), bus)
        }
        "polling" => (Bus::polling(LOOK_AGAIN), Bus::polling(LOOK_AGAIN)),
        "redis" => {
            let redis = REDIS.get_or_init(Redis::start).url();
            let (here, there) = (Bus::redis(&redis).unwrap(), Bus::redis(&redis).unwrap());
            for bus in [&here, &there] {
                let mut found = bus.redis_health().unwrap();
                found.wait_for(|it| *it == Health::Healthy).await.unwrap();
            }
            (here, there)
        }
        other => panic!("{PAIRING}: {other} is no bus: in-process, polling, redis"),
    }
}

impl Server {
    /// A gateway with one active worker, whose internal API answers.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}, |store| store).await
    }

    pub(crate) async fn start_with(
        configure: impl FnOnce(&mut GatewayConfig),
        adapt: impl FnOnce(Store) -> Store,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (url, bus, others) = servers(directory.path()).await;
        let store = Store::open(&url.parse::<DatabaseUrl>().unwrap()).await.unwrap();
        let store = adapt(store.with_keys(secrets_keys()));
        // What the tests do to the store, a worker would.
        let queue = Queue::new(store.clone(), others);
        let mut config = GatewayConfig::new(ApiKeys::new([KEY]).unwrap());
        configure(&mut config);
        let gateway = Gateway::new(config, Queue::new(store, bus));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, gateway, shutdown.clone()));
        let worker = FakeWorker::start(&directory.path().join("worker.sock"));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let worker_id = WorkerId::new();
        let server = Self {
            address,
            queue,
            worker,
            worker_id,
            shutdown,
            serving,
            database: url,
            directory,
            client,
        };
        server.put_worker(server.worker_row()).await;
        server
    }

    pub(crate) fn worker_row(&self) -> Worker {
        Worker {
            id: self.worker_id,
            hostname: "testhost".into(),
            version: "0".into(),
            driver: Some(DriverKind::Qemu),
            driver_reason: "chosen by the test".into(),
            internal_address: format!("unix:{}", self.worker.socket.display()),
            templates: vec!["default".parse().unwrap()],
            zone: None,
            labels: Default::default(),
            capabilities: Default::default(),
            capacity: ROOM,
            allocatable: ROOM,
            reserved: Room::default(),
            usage: Default::default(),
            admission: Default::default(),
            state: WorkerState::Active,
            created_at: now(),
            heartbeat_at: now(),
        }
    }

    pub(crate) async fn put_worker(&self, worker: Worker) {
        self.queue.store().register_worker(&worker, None).await.unwrap();
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let exchange = async {
            let response = self.client.request(request).await.unwrap();
            let (parts, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Answer { status: parts.status, headers: parts.headers, body }
        };
        tokio::time::timeout(LONG, exchange).await.expect("the gateway must answer")
    }

    pub(crate) fn request(&self, method: Method, path: &str, body: &str) -> Request<Full<Bytes>> {
        Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("authorization", format!("Bearer {KEY}"))
            .header("content-type", "application/json")
            .body(Full::from(body.to_owned()))
            .unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path, "")).await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.send(self.request(Method::POST, path, body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path, "")).await
    }

    pub(crate) async fn post_with_key(&self, path: &str, body: &str, key: &str) -> Answer {
        let mut request = self.request(Method::POST, path, body);
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        self.send(request).await
    }

    /// A running VM in the store.
    pub(crate) async fn vm(&self) -> Vm {
        let vm = creating_vm(self.worker_id);
        let task = self.task(TaskKind::VmCreate { vm_id: vm.id });
        self.queue.create_vm(&vm, &task, None).await.unwrap();
        vm
    }

    /// A deletion that failed.
    pub(crate) async fn failed_delete(&self, vm: &Vm) -> TaskId {
        let store = self.queue.store();
        let task = self.task(TaskKind::VmDelete { vm_id: vm.id });
        let task = self.queue.request_vm_delete(vm.id, &task).await.unwrap();
        let later = now().after(LONG);
        loop {
            let claims = store.claim_waiting(self.worker_id, 99, now(), later).await.unwrap();
            for claim in &claims {
                let fault = aetherium_model::Fault::internal("of a test");
                let failed = TaskState::Failed;
                let _ = store.finish_task(claim, failed, Some(&fault), now()).await.unwrap();
            }
            if claims.iter().any(|it| it.id == task.id) {
                return task.id;
            }
            assert!(!claims.is_empty(), "the deletion is not handed out");
        }
    }

    pub(crate) async fn workspace(&self, name: &str) -> Workspace {
        let workspace = ready_workspace(name, self.worker_id);
        let task = self.task(TaskKind::WorkspaceCreate { workspace_id: workspace.id });
        self.queue.create_workspace(&workspace, &task, None).await.unwrap();
        workspace
    }

    pub(crate) async fn environment(&self, name: &str) -> Environment {
        let body = serde_json::json!({ "name": name }).to_string();
        self.post("/api/v1/environments", &body).await.parse()
    }

    pub(crate) async fn prompt(&self, workspace: &Workspace) -> Prompt {
        let id = PromptId::new();
        let task = self.task(TaskKind::PromptExecute { workspace_id: workspace.id, prompt_id: id });
        let prompt = Prompt {
            id,
            workspace_id: workspace.id,
            task_id: task.id,
            prompt: "true".into(),
            secrets: Default::default(),
            timeout_ms: None,
            options: Default::default(),
            vm_id: None,
            state: RunState::Queued,
            created_at: now(),
            started_at: None,
            finished_at: None,
        };
        self.queue.create_prompt(&prompt, &task, None).await.unwrap();
        prompt
    }

    /// An interactive execution, as a worker records it: running, without a task.
    pub(crate) async fn execution(&self, vm: &Vm) -> Execution {
        let execution = Execution {
            id: ExecutionId::new(),
            vm_id: vm.id,
            command: Command::new(["true"]),
            state: RunState::Running,
            created_at: now(),
            started_at: Some(now()),
            finished_at: None,
        };
        self.queue.create_execution(&execution, None, None).await.unwrap();
        execution
    }

    pub(crate) fn task(&self, kind: TaskKind) -> Task {
        task(self.worker_id, kind)
    }
}

/// A login that is over, on no record yet.
pub(crate) fn login(workspace_id: WorkspaceId) -> Login {
    Login {
        id: LoginId::new(),
        workspace_id,
        assistant: "claude-code".parse().unwrap(),
        accepts: Accepts::Code,
        state: LoginState::Succeeded,
        revision: 1,
        created_at: now(),
        updated_at: now(),
        expires_at: now(),
    }
}

/// A workspace that takes prompts, on no record yet.
pub(crate) fn ready_workspace(name: &str, worker_id: WorkerId) -> Workspace {
    Workspace {
        id: WorkspaceId::new(),
        name: name.parse().unwrap(),
        ai_assistant: Default::default(),
        environment: None,
        setup: Default::default(),
        preparation: Default::default(),
        session: None,
        spec: VmSpec {
            template: "default".parse().unwrap(),
            template_digest: None,
            resources: Default::default(),
            tuning: Default::default(),
            network: Default::default(),
            transport: None,
            snapshot: None,
            snapshots: None,
        },
        worker_id,
        lifecycle: Lifecycle::Stopped,
        secrets: Default::default(),
        idle_timeout_s: 900,
        idle_action: Default::default(),
        placement: Default::default(),
        when_full: None,
        state: WorkspaceState::Ready,
        created_at: now(),
        updated_at: now(),
    }
}

pub(crate) fn task(worker_id: WorkerId, kind: TaskKind) -> Task {
    Task::new(worker_id, kind, now())
}

pub(crate) fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

pub(crate) fn completed(code: i32) -> RunState {
    RunState::Completed { exit: report(code) }
}

pub(crate) fn report(code: i32) -> ExitReport {
    ExitReport {
        exit: Exit::Exited { code },
        exit_code: code,
        wall_ms: 1,
        user_ms: 0,
        system_ms: 0,
        max_rss_kib: 0,
    }
}
