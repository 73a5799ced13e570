//! A fresh database of either engine for each test, and the things to put into it.

use aetherium_model::{
    ExecutionId, PromptId, Timestamp, VmId, WorkerId, WorkspaceId,
    resources::{NetworkMode, Resources},
    run::{Command, Execution, Exit, ExitReport, RunState},
    task::{Task, TaskKind, TaskState},
    vm::{Vm, VmSpec, VmState},
    workspace::{Lifecycle, Prompt, Workspace, WorkspaceState},
};
use aetherium_secrets::MasterKeys;
use aetherium_store::{DatabaseUrl, RunRef, Start, Store};
use sqlx::Connection as _;
use test_servers::Postgres;

/// Which database a test is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// Makes two tests of each case.
macro_rules! on_both_engines {
    ($($case:ident)+) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case($crate::support::Engine::Sqlite).await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case($crate::support::Engine::Postgres).await;
                }
            )+
        }
    };
}
pub(crate) use on_both_engines;

pub(crate) struct Db {
    pub(crate) store: Store,
    pub(crate) url: DatabaseUrl,
    _dir: tempfile::TempDir,
}

impl Db {
    pub(crate) async fn fresh(engine: Engine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url: DatabaseUrl = Self::nothing(engine, &dir).parse().unwrap();
        let store = Store::open(&url).await.unwrap().with_keys(keys());
        Self { store, url, _dir: dir }
    }

    /// The address of a database with nothing in it.
    pub(crate) fn nothing(engine: Engine, dir: &tempfile::TempDir) -> String {
        match engine {
            Engine::Sqlite => format!("sqlite://{}", dir.path().join("a b%20#?c.db").display()),
            Engine::Postgres => Postgres::of_this_process().database(),
        }
    }

    /// As after a restart of the process.
    pub(crate) async fn reopened(&self) -> Store {
        Store::open(&self.url).await.unwrap()
    }

    /// Speaks to the database itself.
    pub(crate) async fn raw(&self, statements: &str) -> Result<(), sqlx::Error> {
        raw(&self.url, statements.to_owned()).await
    }
}

/// Speaks to a database itself, whatever is in it.
pub(crate) async fn raw(url: &DatabaseUrl, statements: String) -> Result<(), sqlx::Error> {
    let mut connection = connect(url).await;
    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&mut connection).await;
    connection.close().await.unwrap();
    done.map(drop)
}

/// A connection beside the store's.
pub(crate) async fn connect(url: &DatabaseUrl) -> sqlx::AnyConnection {
    sqlx::any::install_default_drivers();
    let url = match url {
        DatabaseUrl::Postgres(url) => url.clone(),
        DatabaseUrl::Sqlite(path) => {
            let path = path.to_str().unwrap();
            let path = path.replace('%', "%25").replace('#', "%23").replace('?', "%3F");
            format!("sqlite://{}?mode=rwc", path.replace(' ', "%20"))
        }
    };
    sqlx::AnyConnection::connect(&url).await.unwrap()
}

/// The master keys of these tests; the data of upgrades is encrypted with it, too.
pub(crate) fn keys() -> MasterKeys {
    MasterKeys::parse("test:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=").unwrap()
}

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// Beyond every moment in these tests.
pub(crate) fn far() -> Timestamp {
    at(1_000_000_000)
}

pub(crate) fn spec() -> VmSpec {
    VmSpec {
        template: "debian".parse().unwrap(),
        template_digest: None,
        resources: Resources::default(),
        tuning: Default::default(),
        network: NetworkMode::Isolated,
        transport: None,
        snapshot: None,
        snapshots: None,
    }
}

pub(crate) fn task(worker_id: WorkerId, kind: TaskKind) -> Task {
    Task::new(worker_id, kind, at(0))
}

pub(crate) fn vm(worker_id: WorkerId, workspace_id: Option<WorkspaceId>) -> Vm {
    Vm {
        id: VmId::new(),
        spec: spec(),
        worker_id,
        workspace_id,
        state: VmState::Creating,
        driver: None,
        accelerator: None,
        agent_transport: None,
        virtio_transport: None,
        address: None,
        timings: None,
        expires_at: None,
        created_at: at(0),
        updated_at: at(0),
    }
}

pub(crate) fn workspace(worker_id: WorkerId, name: &str) -> (Workspace, Task) {
    let workspace = Workspace {
        id: WorkspaceId::new(),
        name: name.parse().unwrap(),
        ai_assistant: Default::default(),
        environment: None,
        setup: Default::default(),
        preparation: Default::default(),
        session: None,
        spec: spec(),
        worker_id,
        lifecycle: Lifecycle::Stopped,
        secrets: Default::default(),
        idle_timeout_s: 900,
        idle_action: Default::default(),
        placement: Default::default(),
        when_full: None,
        state: WorkspaceState::Creating,
        created_at: at(0),
        updated_at: at(0),
    };
    let create = task(worker_id, TaskKind::WorkspaceCreate { workspace_id: workspace.id });
    (workspace, create)
}

pub(crate) fn prompt(workspace: &Workspace, text: &str) -> (Prompt, Task) {
    let id = PromptId::new();
    let kind = TaskKind::PromptExecute { workspace_id: workspace.id, prompt_id: id };
    let task = task(workspace.worker_id, kind);
    let prompt = Prompt {
        id,
        workspace_id: workspace.id,
        task_id: task.id,
        prompt: text.to_owned(),
        secrets: Default::default(),
        timeout_ms: Some(5),
        options: Default::default(),
        vm_id: None,
        state: RunState::Queued,
        created_at: at(0),
        started_at: None,
        finished_at: None,
    };
    (prompt, task)
}

pub(crate) fn execution(vm: &Vm) -> (Execution, Task) {
    let id = ExecutionId::new();
    let task = task(vm.worker_id, TaskKind::VmExecute { vm_id: vm.id, execution_id: id });
    let execution = Execution {
        id,
        vm_id: vm.id,
        command: Command::new(["true"]),
        state: RunState::Queued,
        created_at: at(0),
        started_at: None,
        finished_at: None,
    };
    (execution, task)
}

pub(crate) fn completed() -> RunState {
    let exit = Exit::Exited { code: 3 };
    let exit =
        ExitReport { exit, exit_code: 3, wall_ms: 1, user_ms: 1, system_ms: 0, max_rss_kib: 9 };
    RunState::Completed { exit }
}

/// A workspace that is ready, with no task left to do.
pub(crate) async fn ready_workspace(store: &Store, worker: WorkerId, name: &str) -> Workspace {
    let (mut workspace, create) = workspace(worker, name);
    workspace.state = WorkspaceState::Ready;
    assert!(store.create_workspace(&workspace, &create, None).await.unwrap().is_new());
    let claim = claim(store, worker).await.unwrap();
    assert_eq!(claim.id, create.id);
    let end = store.finish_task(&claim, TaskState::Succeeded, None, at(0)).await.unwrap();
    assert_eq!(end, aetherium_store::TaskEnd::Written);
    workspace
}

pub(crate) async fn add_prompt(store: &Store, workspace: &Workspace) -> Prompt {
    let (prompt, task) = prompt(workspace, "echo");
    store.create_prompt(&prompt, &task, None).await.unwrap().into_inner()
}

pub(crate) async fn claim(store: &Store, worker: WorkerId) -> Option<Task> {
    claim_at(store, worker, at(0), far()).await
}

pub(crate) async fn start(store: &Store, claim: &Task) -> RunRef {
    let run = RunRef::of(&claim.kind).unwrap();
    let start = store.start_run(run, Some(claim), VmId::new(), at(1)).await.unwrap();
    assert_eq!(start, Start::Marked);
    run
}

/// Claims the one task whose turn it is.
pub(crate) async fn claim_at(
    store: &Store,
    worker: WorkerId,
    now: Timestamp,
    lease_until: Timestamp,
) -> Option<Task> {
    store.claim_waiting(worker, 1, now, lease_until).await.unwrap().pop()
}
