//! Databases of every earlier version, with what its binary had written, are brought up to date.
//!
//! Each migration has a file of the same name in `upgrades/`: what a binary of that version writes
//! that one before it does not. The files were written when the version was, and stay as they are.

use crate::support::*;
use aetherium_model::{
    Code, ExecutionId, Fault, PromptId, TaskId, VmId, WorkerId, WorkspaceId,
    event::{EventFilter, EventType},
    page::PageRequest,
    project::{Limits, ProjectId},
    run::RunState,
    task::{Priority, Recovery, Schedule},
};
use aetherium_store::{Created, DatabaseUrl, Idempotency, RunRef, Store, TaskFilter};
use std::{fs, path::Path};

const ONE: &str = "00000000000000000000000001";
const TWO: &str = "00000000000000000000000002";
const THREE: &str = "00000000000000000000000003";

/// A version of the schema, and what its binary had written.
struct Version {
    schema: String,
    /// What PostgreSQL gets besides.
    for_postgres: Option<String>,
    data: String,
}

fn versions() -> Vec<Version> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = fs::read_dir(here.join("migrations")).unwrap().map(|it| it.unwrap());
    let files = files.filter(|it| it.file_type().unwrap().is_file());
    let mut names: Vec<_> = files.map(|it| it.file_name()).collect();
    names.sort();
    let version = |name: std::ffi::OsString| Version {
        schema: fs::read_to_string(here.join("migrations").join(&name)).unwrap(),
        for_postgres: fs::read_to_string(here.join("migrations/postgres").join(&name)).ok(),
        data: fs::read_to_string(here.join("tests/store/upgrades").join(&name))
            .unwrap_or_else(|error| panic!("a migration needs data in upgrades/{name:?}: {error}")),
    };
    names.into_iter().map(version).collect()
}

/// A database that lived through `versions` and no later one.
async fn left_by(versions: &[Version], engine: Engine, dir: &tempfile::TempDir) -> DatabaseUrl {
    let url: DatabaseUrl = Db::nothing(engine, dir).parse().unwrap();
    let journal = "CREATE TABLE schema_versions \
                   (version BIGINT NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL)";
    raw(&url, journal.to_owned()).await.unwrap();
    for (number, version) in (1..).zip(versions) {
        raw(&url, version.schema.clone()).await.unwrap();
        if let Some(besides) = version.for_postgres.clone().filter(|_| engine == Engine::Postgres) {
            raw(&url, besides).await.unwrap();
        }
        raw(&url, format!("INSERT INTO schema_versions VALUES ({number}, 0)")).await.unwrap();
        raw(&url, version.data.clone()).await.unwrap();
    }
    url
}

async fn what_an_earlier_version_left_is_kept_and_goes_on(engine: Engine) {
    let versions = versions();
    for version in 1..=versions.len() {
        let dir = tempfile::tempdir().unwrap();
        let url = left_by(&versions[..version], engine, &dir).await;
        let store = Store::open(&url).await.unwrap();
        let newest = store.schema_version().await.unwrap();
        assert_eq!(newest, i64::try_from(versions.len()).unwrap());
        what_was_there_is_there(&store, version).await;
        work_goes_on(&store).await;
    }
}

/// The first version, counted from 1, whose tasks have a trace.
const TRACED: usize = 6;

async fn what_was_there_is_there(store: &Store, version: usize) {
    let worker: WorkerId = format!("wk_{ONE}").parse().unwrap();
    let vm: VmId = format!("vm_{ONE}").parse().unwrap();
    let ended: VmId = format!("vm_{TWO}").parse().unwrap();
    assert_eq!(store.worker(worker).await.unwrap().templates, ["debian".parse().unwrap()]);
    let workspace = store.workspace_by_name(&"kept".parse().unwrap()).await.unwrap();
    assert_eq!((workspace.vm_id(), workspace.spec), (Some(vm), spec()));

    let live = store.live_vms(worker).await.unwrap();
    assert_eq!(live.iter().map(|vm| vm.id).collect::<Vec<_>>(), [vm]);
    let address = live[0].address.map(|address| address.to_string());
    assert_eq!(address.as_deref(), (version >= 2).then_some("127.0.0.1"));
    let fault = store.vm(ended).await.unwrap().state;
    assert_eq!(fault.as_str(), "failed");

    let traced: TaskId = format!("tk_{THREE}").parse().unwrap();
    let trace = store.task(traced).await.unwrap().trace.map(|it| it.trace_id.to_string());
    let theirs = (version >= TRACED).then_some("0af7651916cd43dd8448eb211c80319c");
    assert_eq!(trace.as_deref(), theirs);

    let done: PromptId = format!("pr_{ONE}").parse().unwrap();
    let prompt = store.prompt(done).await.unwrap();
    assert_eq!((prompt.prompt.as_str(), prompt.state), ("echo hello", completed()));
    assert_eq!(store.events(RunRef::Prompt(done), 0, 9).await.unwrap().len(), 2);
    let execution: ExecutionId = format!("ex_{ONE}").parse().unwrap();
    assert_eq!(store.execution(execution).await.unwrap().command.argv, ["true"]);

    let dead = TaskFilter { dead: Some(true), ..TaskFilter::default() };
    let dead = store.tasks(&dead, &PageRequest::default()).await.unwrap().items;
    assert_eq!(dead.len(), usize::from(version >= 3));
    if version >= 3 {
        let put_off: TaskId = "tk_00000000000000000000000006".parse().unwrap();
        let put_off = store.task(put_off).await.unwrap();
        let (run_at, deadline) = (Some(at(7)), Some(at(9)));
        let schedule = Schedule { priority: Priority::Batch, run_at, deadline };
        assert_eq!(put_off.clone().scheduled(schedule), put_off);
    }

    let told = store.history(&EventFilter::default(), 0, 9).await.unwrap();
    let told: Vec<_> = told.items.iter().map(|event| (event.seq, event.kind)).collect();
    let project = store.project(&ProjectId::default()).await.unwrap();
    if version >= number_of("0005_events.sql") {
        assert_eq!(told, [(1, EventType::VmCreating), (2, EventType::VmBooting)]);
        assert_eq!((project.limits.vms, project.usage.memory_mib), (Some(9), 512));
        assert_eq!(live[0].expires_at, Some(at(4_000_000_000_000)));
        assert_eq!(store.active_webhooks().await.unwrap()[0].url, "https://example.com/");
    } else {
        assert_eq!(told, []);
        assert_eq!((project.limits, project.usage.vms), (Limits::default(), 1));
    }

    if version >= number_of("0007_secrets.sql") {
        let uses = store.prompt(format!("pr_{ONE}").parse().unwrap()).await.unwrap().secrets;
        assert_eq!(serde_json::to_string(&uses).unwrap(), r#"{"KEY":{"secret":"TOKEN"}}"#);
        let (run, store) = (RunRef::Execution(ExecutionId::new()), store.clone().with_keys(keys()));
        let read = store.read_secrets(run, vm, &uses, at(5)).await.unwrap();
        assert_eq!(read[0].value.reveal(), b"kept-token");
    }

    if version >= number_of("0010_logins.sql") {
        let under_way = store.interrupt_logins(worker, at(5)).await.unwrap();
        assert_eq!(under_way, [workspace.id]);
        let logins = store.logins(workspace.id, &PageRequest::default()).await.unwrap().items;
        assert_eq!((logins[0].state.as_str(), logins[0].revision), ("failed", 3));
    }
}

/// The version of the schema that a file makes.
fn number_of(migration: &str) -> usize {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = fs::read_dir(here.join("migrations")).unwrap().map(|it| it.unwrap().file_name());
    files.filter(|name| name.as_os_str() <= std::ffi::OsStr::new(migration)).count()
}

async fn work_goes_on(store: &Store) {
    let worker: WorkerId = format!("wk_{ONE}").parse().unwrap();
    let workspace: WorkspaceId = format!("ws_{ONE}").parse().unwrap();
    let running: PromptId = format!("pr_{TWO}").parse().unwrap();
    let waiting: PromptId = format!("pr_{THREE}").parse().unwrap();

    let workspace = store.workspace(workspace).await.unwrap();
    let key = Idempotency { key: "once".into(), request_sha256: "00ff".into() };
    let (again, task) = prompt(&workspace, "sleep 600");
    let first = store.create_prompt(&again, &task, Some(&key)).await.unwrap();
    assert!(matches!(first, Created::Existing(prompt) if prompt.id == running));
    let added = add_prompt(store, &workspace).await;

    let recovered = store.recover_worker(worker, at(9)).await.unwrap();
    // Whether its command still runs is for its worker to find out, which here finds nothing.
    assert_eq!(recovered[0].verdict, Recovery::Resume);
    assert_eq!(claim(store, worker).await.unwrap().id, recovered[0].task.id);
    let lost = RunState::Interrupted { fault: Fault::new(Code::Interrupted, "it is gone") };
    let _ = store.finish_run(RunRef::Prompt(running), lost, at(9)).await.unwrap();
    let interactive = store.interrupt_interactive_runs(worker, at(9)).await.unwrap();
    assert_eq!(interactive.len(), 1);
    assert_eq!(store.prompt(running).await.unwrap().state.as_str(), "interrupted");
    for next in [waiting, added.id] {
        let claimed = claim(store, worker).await.unwrap();
        let run = start(store, &claimed).await;
        assert_eq!(run, RunRef::Prompt(next));
        let _ = store.finish_run(run, completed(), at(10)).await.unwrap();
    }
    assert_eq!(claim(store, worker).await, None);
}

async fn an_upgrade_that_fails_leaves_the_version_before(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let url = left_by(&versions()[..1], engine, &dir).await;
    // The second statement of the second version will find its column there.
    raw(&url, "ALTER TABLE vms ADD COLUMN address TEXT".to_owned()).await.unwrap();
    Store::open(&url).await.unwrap_err();
    let looked = Store::connect(&url).await.unwrap();
    assert_eq!(looked.schema_version().await.unwrap(), 1);
    let first_statement = "SELECT virtio_transport FROM vms".to_owned();
    raw(&url, first_statement).await.unwrap_err();
    raw(&url, "ALTER TABLE vms DROP COLUMN address".to_owned()).await.unwrap();
    what_was_there_is_there(&Store::open(&url).await.unwrap(), 1).await;
}

on_both_engines! {
    what_an_earlier_version_left_is_kept_and_goes_on
    an_upgrade_that_fails_leaves_the_version_before
}
