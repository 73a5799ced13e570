//! A worker over SQLite, and what is asked of it.

use aetherium_model::{
    Name, PromptId, TaskId, Timestamp, VmId, WorkerId, WorkspaceId,
    output::EventBody,
    placement::WhenFull,
    run::RunState,
    task::{Task, TaskKind, TaskState},
    vm::{Vm, VmSpec, VmState},
    workspace::{Lifecycle, Prompt, Workspace, WorkspaceState},
};
use aetherium_queue::{Bus, Changed, Queue, Topic};
use aetherium_store::{DatabaseUrl, RunRef, Store};
use aetherium_vmm::{Chosen, Model, Simulated};
use aetherium_worker::{Layout, Parts, Settings, SlotChoice, Worker};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Longer than anything here takes: reached only when something is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The files of a worker, and its queue as a gateway has it.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) queue: Queue,
}

impl World {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::Sqlite(dir.path().join("x.db"));
        let queue = Queue::new(Store::open(&url).await.unwrap(), Bus::in_process());
        Self { dir, queue }
    }

    /// The worker; the same one each time, as in another process.
    pub(crate) async fn worker(&self, settings: Settings) -> Worker {
        let vmm = Simulated::new(Model::default(), self.dir.path().join("guests.sock"));
        let (vmm, reason) = (Arc::new(vmm), "asked for by the test".to_owned());
        let parts = Parts {
            layout: Layout::open(&self.dir.path().join("data")).unwrap(),
            store: self.queue.store().clone(),
            bus: self.queue.bus().clone(),
            driver: Ok(Chosen { vmm, reason, findings: Vec::new() }),
            remote: None,
            settings: Settings { slots: SlotChoice::Off, ..settings },
        };
        Worker::start(parts).await.unwrap()
    }

    /// A VM that runs.
    pub(crate) async fn vm(&self, worker: WorkerId) -> VmId {
        let vm = Vm {
            id: VmId::new(),
            spec: spec(),
            worker_id: worker,
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
        let create = Task::new(worker, TaskKind::VmCreate { vm_id: vm.id }, now());
        self.queue.create_vm(&vm, &create, None).await.unwrap();
        self.until_done(create.id).await;
        vm.id
    }

    /// Ends a VM.
    pub(crate) async fn end(&self, worker: WorkerId, vm: VmId) {
        let delete = Task::new(worker, TaskKind::VmDelete { vm_id: vm }, now());
        let delete = self.queue.request_vm_delete(vm, &delete).await.unwrap();
        self.until_done(delete.id).await;
    }

    /// A prompt in a workspace of its own, which waits for room as long as it may.
    pub(crate) async fn prompt(&self, worker: WorkerId) -> PromptId {
        let workspace = workspace(worker);
        let create = TaskKind::WorkspaceCreate { workspace_id: workspace.id };
        let create = Task::new(worker, create, now());
        self.queue.create_workspace(&workspace, &create, None).await.unwrap();
        let id = PromptId::new();
        let execute = TaskKind::PromptExecute { workspace_id: workspace.id, prompt_id: id };
        let execute = Task::new(worker, execute, now());
        let prompt = Prompt {
            id,
            workspace_id: workspace.id,
            task_id: execute.id,
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
        self.queue.create_prompt(&prompt, &execute, None).await.unwrap();
        id
    }

    /// Waits until a prompt's log tells of this stage.
    pub(crate) async fn until_told(&self, prompt: PromptId, wanted: &str) {
        let run = RunRef::Prompt(prompt);
        let mut changes = self.queue.bus().subscribe(Topic::Run(run));
        loop {
            let told = self.queue.store().events(run, 0, 1000).await.unwrap();
            let is_wanted = |body: &EventBody| matches!(body, EventBody::Status { stage, .. } if stage == wanted);
            if told.iter().any(|event| is_wanted(&event.body)) {
                return;
            }
            assert_eq!(changes.changed(DEADLINE).await, Changed::Yes, "no {wanted} in {told:#?}");
        }
    }

    /// Waits until a prompt has ended.
    pub(crate) async fn until_ended(&self, prompt: PromptId) -> Prompt {
        let mut changes = self.queue.bus().subscribe(Topic::Run(RunRef::Prompt(prompt)));
        loop {
            let now = self.queue.store().prompt(prompt).await.unwrap();
            if now.state.is_terminal() {
                return now;
            }
            assert_eq!(changes.changed(DEADLINE).await, Changed::Yes, "no end of {now:#?}");
        }
    }

    async fn until_done(&self, task: TaskId) {
        let mut changes = self.queue.bus().subscribe(Topic::Task(task));
        loop {
            let now = self.queue.store().task(task).await.unwrap();
            if now.state == TaskState::Succeeded {
                return;
            }
            assert!(!now.state.is_terminal(), "{now:#?}");
            assert_eq!(changes.changed(DEADLINE).await, Changed::Yes, "no end of {now:#?}");
        }
    }
}

fn workspace(worker_id: WorkerId) -> Workspace {
    let id = WorkspaceId::new();
    let name: Name = format!("w{}", &id.to_string()[id.to_string().len() - 12..]).parse().unwrap();
    Workspace {
        id,
        name,
        ai_assistant: "shell".parse().unwrap(),
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
        when_full: Some(WhenFull::queue_for_s(WhenFull::MAX_S)),
        state: WorkspaceState::Creating,
        created_at: now(),
        updated_at: now(),
    }
}

fn spec() -> VmSpec {
    VmSpec {
        template: "default".parse().unwrap(),
        template_digest: None,
        resources: Default::default(),
        tuning: Default::default(),
        network: Default::default(),
        transport: None,
        snapshot: None,
        snapshots: None,
    }
}

pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}
