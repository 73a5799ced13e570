//! Claims, serial order, leases and cancellation, against a model small enough to be believed.

use crate::support::*;
use aetherium_model::{
    TaskId, VmId, WorkerId,
    task::{Loss, Recovery, Task, TaskState, recover},
    workspace::Workspace,
};
use aetherium_store::{RunRef, Start, Store, TaskEnd};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    /// A prompt for one of three workspaces.
    Prompt(usize),
    /// A VM, whose task shares its key with nobody.
    Vm,
    Claim,
    Start(usize),
    Succeed(usize),
    PutOff(usize, i64),
    Cancel(usize),
    Renew(usize),
    /// Time passes, then what expired is recovered.
    Pass(i64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..3usize).prop_map(Step::Prompt),
        1 => Just(Step::Vm),
        6 => Just(Step::Claim),
        3 => any::<usize>().prop_map(Step::Start),
        4 => any::<usize>().prop_map(Step::Succeed),
        1 => (any::<usize>(), 0..60i64).prop_map(|(which, ms)| Step::PutOff(which, ms)),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => any::<usize>().prop_map(Step::Renew),
        2 => (1..80i64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ]
}

const LEASE_MS: i64 = 100;

/// Tasks in the order they were made.
struct Model {
    tasks: Vec<Entry>,
    now: i64,
}

struct Entry {
    task: Task,
    not_before: i64,
    lease_until: i64,
}

impl Entry {
    fn held(&self) -> bool {
        matches!(self.task.state, TaskState::Claimed | TaskState::Started)
    }

    /// What becomes of a claim that is given up or lost.
    fn lose(&mut self, loss: Loss, not_before: i64) {
        self.task.state = match recover(&self.task, loss) {
            Recovery::Requeue => TaskState::Queued,
            Recovery::Resume => TaskState::Queued,
            Recovery::Interrupt(_) => TaskState::Interrupted,
            Recovery::GiveUp(_) => TaskState::Failed,
            Recovery::Cancel => TaskState::Cancelled,
        };
        self.not_before = not_before;
    }
}

impl Model {
    fn claim(&mut self) -> Option<TaskId> {
        let free = |index: usize| {
            let key = self.tasks[index].task.kind.serial_key();
            key.is_none()
                || self.tasks[..index].iter().all(|earlier| {
                    earlier.task.kind.serial_key() != key || earlier.task.state.is_terminal()
                })
        };
        let next = (0..self.tasks.len()).find(|&index| {
            let entry = &self.tasks[index];
            entry.task.state == TaskState::Queued && entry.not_before <= self.now && free(index)
        })?;
        let entry = &mut self.tasks[next];
        let started = entry.task.started_at.is_some();
        entry.task.state = if started { TaskState::Started } else { TaskState::Claimed };
        entry.task.attempts += 1;
        entry.lease_until = self.now + LEASE_MS;
        Some(entry.task.id)
    }

    fn pick(&mut self, which: usize) -> Option<&mut Entry> {
        let count = self.tasks.len();
        (count > 0).then(|| &mut self.tasks[which % count])
    }

    fn add(&mut self, task: Task) {
        self.tasks.push(Entry { not_before: 0, lease_until: 0, task });
    }
}

async fn apply(
    store: &Store,
    worker: WorkerId,
    spaces: &[Workspace],
    model: &mut Model,
    step: Step,
) {
    let now = at(model.now);
    match step {
        Step::Prompt(which) => {
            let (prompt, task) = prompt(&spaces[which], "x");
            store.create_prompt(&prompt, &task, None).await.unwrap();
            model.add(task);
        }
        Step::Vm => {
            let vm = vm(worker, None);
            let task = task(worker, aetherium_model::task::TaskKind::VmCreate { vm_id: vm.id });
            store.create_vm(&vm, &task, None).await.unwrap();
            model.add(task);
        }
        Step::Claim => {
            let lease = at(model.now + LEASE_MS);
            let claimed = claim_at(store, worker, now, lease).await;
            assert_eq!(claimed.map(|task| task.id), model.claim());
        }
        Step::Start(which) => {
            let Some(entry) = model.pick(which) else { return };
            let Some(run) = RunRef::of(&entry.task.kind) else { return };
            let wanted = match entry.task.state {
                TaskState::Claimed if entry.task.cancel_requested => Start::Cancelled,
                TaskState::Claimed => Start::Marked,
                _ => Start::NotOurs,
            };
            let start = store.start_run(run, Some(&entry.task), VmId::new(), now).await.unwrap();
            assert_eq!(start, wanted);
            if start == Start::Marked {
                entry.task.state = TaskState::Started;
                entry.task.started_at = Some(now);
            }
        }
        Step::Succeed(which) => {
            let Some(entry) = model.pick(which) else { return };
            let held = entry.held();
            let end =
                store.finish_task(&entry.task, TaskState::Succeeded, None, now).await.unwrap();
            assert_eq!(end == TaskEnd::Written, held);
            if held {
                entry.task.state = TaskState::Succeeded;
            }
        }
        Step::PutOff(which, ms) => {
            let until = model.now + ms;
            let Some(entry) = model.pick(which) else { return };
            let verdict = store.requeue(&entry.task, at(until), None, now).await.unwrap();
            assert_eq!(verdict, entry.held().then(|| recover(&entry.task, Loss::LetGo)));
            if entry.held() {
                entry.lose(Loss::LetGo, until);
            }
        }
        Step::Cancel(which) => {
            let Some(entry) = model.pick(which) else { return };
            store.request_cancel_task(entry.task.id, now).await.unwrap();
            let waits = entry.task.state == TaskState::Queued && entry.task.started_at.is_none();
            if waits && !entry.task.kind.is_idempotent() {
                entry.task.state = TaskState::Cancelled;
            } else if !entry.task.state.is_terminal() {
                entry.task.cancel_requested = true;
            }
        }
        Step::Renew(which) => {
            let until = model.now + LEASE_MS;
            let Some(entry) = model.pick(which) else { return };
            let ours = store.renew(std::slice::from_ref(&entry.task), at(until)).await.unwrap();
            assert_eq!(ours.len(), usize::from(entry.held()));
            entry.lease_until = until;
        }
        Step::Pass(ms) => {
            model.now += ms;
            let now = model.now;
            let lost = |entry: &&mut Entry| entry.held() && entry.lease_until < now;
            let recovered = store.recover_expired(at(now)).await.unwrap();
            let wanted: Vec<TaskId> = (model.tasks.iter_mut().filter(lost))
                .map(|entry| {
                    entry.lose(Loss::LetGo, 0);
                    entry.task.id
                })
                .collect();
            assert_eq!(recovered.iter().map(|it| it.task.id).collect::<Vec<_>>(), wanted);
        }
        Step::Restart => {
            store.recover_worker(worker, now).await.unwrap();
            model.tasks.iter_mut().filter(|entry| entry.held()).for_each(|entry| {
                entry.lose(Loss::Restarted, 0);
            });
        }
    }
}

async fn agree(store: &Store, model: &Model) {
    for entry in &model.tasks {
        let stored = store.task(entry.task.id).await.unwrap();
        assert_eq!(
            (stored.state, stored.attempts, stored.cancel_requested),
            (entry.task.state, entry.task.attempts, entry.task.cancel_requested),
            "{stored:?}"
        );
        if let Some(run) = RunRef::of(&stored.kind) {
            let state = store.run_state(run).await.unwrap();
            assert_eq!(state.is_terminal(), stored.state.is_terminal());
        }
    }
}

fn the_store_hands_out_what_the_model_does(engine: Engine) {
    let config =
        ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in proptest::collection::vec(step(), 1..80))| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let db = Db::fresh(engine).await;
            let worker = WorkerId::new();
            let mut spaces = Vec::new();
            for name in ["a", "b", "c"] {
                spaces.push(ready_workspace(&db.store, worker, name).await);
            }
            let mut model = Model { tasks: Vec::new(), now: 0 };
            for step in steps {
                apply(&db.store, worker, &spaces, &mut model, step).await;
            }
            agree(&db.store, &model).await;
        });
    });
}

#[test]
fn whatever_happens_sqlite_hands_out_what_the_model_does() {
    the_store_hands_out_what_the_model_does(Engine::Sqlite);
}

#[test]
fn whatever_happens_postgres_hands_out_what_the_model_does() {
    the_store_hands_out_what_the_model_does(Engine::Postgres);
}
