//! Writing to the store and telling those who wait for it, in that order: one way to do both.

use crate::{Bus, Topic, metrics::QueueMetrics};
use aetherium_model::{
    PromptId, TaskId, Timestamp, VmId, WorkspaceId,
    event::By,
    output::EventBody,
    resources::DiskMib,
    run::{Execution, RunState},
    setup::{Preparation, Setup},
    task::Task,
    vm::Vm,
    workspace::{Hibernation, Prompt, Workspace, WorkspaceState},
};
use aetherium_store::{Created, Finish, Idempotency, Redo, RunRef, Start, Store, StoreError};

/// The store and the bus together: each method is the store's of the same name, then tells whom
/// it concerns. Its errors are the store's.
#[derive(Debug, Clone)]
pub struct Queue {
    store: Store,
    bus: Bus,
    pub(crate) metrics: QueueMetrics,
}

type Result<T> = std::result::Result<T, StoreError>;

/// For those who make work: each wakes the worker that is to do it.
impl Queue {
    /// A queue of the tasks in `store`.
    pub fn new(store: Store, bus: Bus) -> Self {
        Self { store, bus, metrics: QueueMetrics::new() }
    }

    /// The same queue, for changes that are made on behalf of `by`.
    #[must_use]
    pub fn on_behalf_of(&self, by: By) -> Self {
        Self { store: self.store.on_behalf_of(by), ..self.clone() }
    }

    /// The store, for reading and for what nobody waits for.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The bus, for subscribing.
    pub const fn bus(&self) -> &Bus {
        &self.bus
    }

    /// See [`Store::create_workspace`].
    ///
    /// # Errors
    /// The store's.
    pub async fn create_workspace(
        &self,
        workspace: &Workspace,
        task: &Task,
        key: Option<&Idempotency>,
    ) -> Result<Created<Workspace>> {
        let created = self.store.create_workspace(workspace, task, key).await?;
        self.metrics.accepted(task, created.is_new());
        self.enqueued(task);
        Ok(created)
    }

    /// See [`Store::begin_delete_workspace`].
    ///
    /// # Errors
    /// The store's.
    pub async fn begin_delete_workspace(&self, id: WorkspaceId, task: &Task) -> Result<Task> {
        let asked = task.id;
        let task = self.store.begin_delete_workspace(id, task).await?;
        self.metrics.accepted(&task, task.id == asked);
        self.bus.announce(Topic::Workspace(id));
        self.enqueued(&task);
        Ok(task)
    }

    /// See [`Store::begin_prepare_workspace`].
    ///
    /// # Errors
    /// The store's.
    pub async fn begin_prepare_workspace(
        &self,
        id: WorkspaceId,
        setup: Option<&Setup>,
        redo: Redo,
        task: &Task,
    ) -> Result<Task> {
        let asked = task.id;
        let task = self.store.begin_prepare_workspace(id, setup, redo, task).await?;
        self.metrics.accepted(&task, task.id == asked);
        self.bus.announce(Topic::Workspace(id));
        self.enqueued(&task);
        Ok(task)
    }

    /// See [`Store::create_vm`].
    ///
    /// # Errors
    /// The store's.
    pub async fn create_vm(
        &self,
        vm: &Vm,
        task: &Task,
        key: Option<&Idempotency>,
    ) -> Result<Created<Vm>> {
        let created = self.store.create_vm(vm, task, key).await?;
        self.metrics.accepted(task, created.is_new());
        self.enqueued(task);
        Ok(created)
    }

    /// See [`Store::request_vm_delete`].
    ///
    /// # Errors
    /// The store's.
    pub async fn request_vm_delete(&self, id: VmId, task: &Task) -> Result<Task> {
        let asked = task.id;
        let task = self.store.request_vm_delete(id, task).await?;
        self.metrics.accepted(&task, task.id == asked);
        self.enqueued(&task);
        Ok(task)
    }

    /// See [`Store::create_prompt`].
    ///
    /// # Errors
    /// The store's.
    pub async fn create_prompt(
        &self,
        prompt: &Prompt,
        task: &Task,
        key: Option<&Idempotency>,
    ) -> Result<Created<Prompt>> {
        let created = self.store.create_prompt(prompt, task, key).await?;
        self.metrics.accepted(task, created.is_new());
        self.enqueued(task);
        Ok(created)
    }

    /// See [`Store::create_execution`].
    ///
    /// # Errors
    /// The store's.
    pub async fn create_execution(
        &self,
        execution: &Execution,
        task: Option<&Task>,
        key: Option<&Idempotency>,
    ) -> Result<Created<Execution>> {
        let created = self.store.create_execution(execution, task, key).await?;
        if let Some(task) = task {
            self.metrics.accepted(task, created.is_new());
            self.enqueued(task);
        }
        Ok(created)
    }

    /// See [`Store::create_task`].
    ///
    /// # Errors
    /// The store's.
    pub async fn create_task(
        &self,
        task: &Task,
        key: Option<&Idempotency>,
    ) -> Result<Created<Task>> {
        let created = self.store.create_task(task, key).await?;
        self.metrics.accepted(task, created.is_new());
        self.enqueued(task);
        Ok(created)
    }

    /// See [`Store::cancel_prompt`].
    ///
    /// # Errors
    /// The store's.
    pub async fn cancel_prompt(&self, id: PromptId, now: Timestamp) -> Result<Prompt> {
        let prompt = self.store.cancel_prompt(id, now).await?;
        let task = self.store.task(prompt.task_id).await?;
        self.cancelling(&task);
        Ok(prompt)
    }

    /// See [`Store::request_cancel_task`].
    ///
    /// # Errors
    /// The store's.
    pub async fn request_cancel_task(&self, id: TaskId, now: Timestamp) -> Result<Task> {
        let task = self.store.request_cancel_task(id, now).await?;
        self.cancelling(&task);
        Ok(task)
    }

    /// See [`Store::requeue_failed`].
    ///
    /// # Errors
    /// The store's.
    pub async fn requeue_failed(&self, id: TaskId) -> Result<Task> {
        let task = self.store.requeue_failed(id).await?;
        self.enqueued(&task);
        announce_task(&self.bus, &task);
        Ok(task)
    }

    fn enqueued(&self, task: &Task) {
        self.bus.hint(task.worker_id, task.id);
    }

    fn cancelling(&self, task: &Task) {
        self.bus.wake(task.worker_id);
        announce_task(&self.bus, task);
    }
}

/// For those who do the work: each tells the readers.
impl Queue {
    /// See [`Store::start_run`].
    ///
    /// # Errors
    /// The store's.
    pub async fn start_run(
        &self,
        run: RunRef,
        claim: Option<&Task>,
        vm_id: VmId,
        now: Timestamp,
    ) -> Result<Start> {
        let start = self.store.start_run(run, claim, vm_id, now).await?;
        self.bus.announce(Topic::Run(run));
        if let Some(task) = claim {
            self.bus.announce(Topic::Task(task.id));
        }
        Ok(start)
    }

    /// See [`Store::append_events`].
    ///
    /// # Errors
    /// The store's.
    pub async fn append_events(
        &self,
        run: RunRef,
        events: Vec<(Timestamp, EventBody)>,
    ) -> Result<i64> {
        let last_seq = self.store.append_events(run, events).await?;
        self.bus.announce(Topic::of(run));
        Ok(last_seq)
    }

    /// See [`Store::finish_run`]. The run's task is announced when its handler returns.
    ///
    /// # Errors
    /// The store's.
    pub async fn finish_run(&self, run: RunRef, state: RunState, now: Timestamp) -> Result<Finish> {
        let finish = self.store.finish_run(run, state, now).await?;
        self.bus.announce(Topic::Run(run));
        Ok(finish)
    }

    /// See [`Store::insert_workspace_vm`].
    ///
    /// # Errors
    /// The store's.
    pub async fn insert_workspace_vm(&self, vm: &Vm) -> Result<()> {
        self.store.insert_workspace_vm(vm).await?;
        if let Some(workspace_id) = vm.workspace_id {
            self.bus.announce(Topic::Workspace(workspace_id));
        }
        Ok(())
    }

    /// See [`Store::update_vm`].
    ///
    /// # Errors
    /// The store's.
    pub async fn update_vm(&self, vm: &Vm) -> Result<()> {
        self.store.update_vm(vm).await?;
        self.bus.announce(Topic::Vm(vm.id));
        Ok(())
    }

    /// See [`Store::set_workspace_state`].
    ///
    /// # Errors
    /// The store's.
    pub async fn set_workspace_state(
        &self,
        id: WorkspaceId,
        state: &WorkspaceState,
        now: Timestamp,
    ) -> Result<()> {
        self.store.set_workspace_state(id, state, now).await?;
        self.bus.announce(Topic::Workspace(id));
        Ok(())
    }

    /// See [`Store::set_preparation`].
    ///
    /// # Errors
    /// The store's.
    pub async fn set_preparation(
        &self,
        id: WorkspaceId,
        preparation: &Preparation,
        now: Timestamp,
    ) -> Result<()> {
        self.store.set_preparation(id, preparation, now).await?;
        self.bus.announce(Topic::Workspace(id));
        Ok(())
    }

    /// See [`Store::set_workspace_session`].
    ///
    /// # Errors
    /// The store's.
    pub async fn set_workspace_session(
        &self,
        id: WorkspaceId,
        session: &str,
        now: Timestamp,
    ) -> Result<()> {
        self.store.set_workspace_session(id, session, now).await?;
        self.bus.announce(Topic::Workspace(id));
        Ok(())
    }

    /// See [`Store::set_workspace_disk`].
    ///
    /// # Errors
    /// The store's.
    pub async fn set_workspace_disk(
        &self,
        id: WorkspaceId,
        size: DiskMib,
        now: Timestamp,
    ) -> Result<()> {
        self.store.set_workspace_disk(id, size, now).await?;
        self.bus.announce(Topic::Workspace(id));
        Ok(())
    }

    /// See [`Store::set_hibernation`].
    ///
    /// # Errors
    /// The store's.
    pub async fn set_hibernation(
        &self,
        id: WorkspaceId,
        hibernation: Option<&Hibernation>,
        now: Timestamp,
    ) -> Result<()> {
        self.store.set_hibernation(id, hibernation, now).await?;
        self.bus.announce(Topic::Workspace(id));
        Ok(())
    }

    /// See [`Store::remove_workspace`].
    ///
    /// # Errors
    /// The store's.
    pub async fn remove_workspace(&self, id: WorkspaceId, now: Timestamp) -> Result<()> {
        self.store.remove_workspace(id, now).await?;
        self.bus.announce(Topic::Workspace(id));
        Ok(())
    }
}

/// Tells the readers of a task and of its run.
pub(crate) fn announce_task(bus: &Bus, task: &Task) {
    bus.announce(Topic::Task(task.id));
    if let Some(run) = RunRef::of(&task.kind) {
        bus.announce(Topic::Run(run));
    }
}
