//! The process is killed in the middle of everything; nothing is half done afterwards, and nothing
//! that was acknowledged is gone.

use crate::support::*;
use aetherium_model::{
    PromptId, WorkerId,
    output::{EventBody, Stream},
    page::{MAX_PAGE, PageRequest},
    run::RunState,
    task::TaskState,
    workspace::{Prompt, Workspace},
};
use aetherium_store::{DatabaseUrl, Finish, RunRef, Store};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
};

const CHILD: &str = "AETHERIUM_TEST_CRASH_CHILD";

/// Not a test of its own: the process that is killed. It says what it did after it was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_writes_until_it_is_killed() {
    let Ok(given) = std::env::var(CHILD) else { return };
    let (url, worker) = given.split_once('|').unwrap();
    let url: DatabaseUrl = url.parse().unwrap();
    let worker: WorkerId = worker.parse().unwrap();
    let store = Store::open(&url).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for name in ["a", "b", "c"] {
        let workspace = store.workspace_by_name(&name.parse().unwrap()).await.unwrap();
        writers.spawn(submit(store.clone(), workspace));
        writers.spawn(work(store.clone(), worker));
    }
    writers.join_all().await;
}

fn say(done: &str, id: PromptId) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{done} {id}").unwrap();
    out.flush().unwrap();
}

async fn submit(store: Store, workspace: Workspace) {
    loop {
        let prompt = add_prompt(&store, &workspace).await;
        say("created", prompt.id);
    }
}

async fn work(store: Store, worker: WorkerId) {
    loop {
        let Some(claim) = claim(&store, worker).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let run = start(&store, &claim).await;
        let RunRef::Prompt(id) = run else { panic!("{run} is no prompt") };
        say("started", id);
        for _ in 0..3 {
            let body = EventBody::Output { stream: Stream::Stdout, text: "x".repeat(3000) };
            store.append_events(run, vec![(at(2), body.clone()), (at(2), body)]).await.unwrap();
        }
        assert_eq!(store.finish_run(run, completed(), at(3)).await.unwrap(), Finish::Written);
        say("finished", id);
    }
}

async fn a_killed_process_leaves_nothing_half_done_and_loses_nothing_it_said(engine: Engine) {
    for lines_before_kill in [1, 7, 40, 150, 333] {
        let db = Db::fresh(engine).await;
        let worker = WorkerId::new();
        for name in ["a", "b", "c"] {
            ready_workspace(&db.store, worker, name).await;
        }
        let said = run_and_kill(&db.url, worker, lines_before_kill).await;
        let store = db.reopened().await;
        let before = all_prompts(&store).await;
        for prompt in &before {
            check_whole(&store, prompt).await;
        }
        for (done, id) in &said {
            let prompt = before.iter().find(|prompt| prompt.id == *id).expect("it was created");
            let holds = match done.as_str() {
                "created" => true,
                "started" => prompt.started_at.is_some(),
                _ => prompt.state == completed(),
            };
            assert!(holds, "{id} was {done} and now is {}", prompt.state.as_str());
        }
        store.recover_worker(worker, at(9)).await.unwrap();
        for prompt in before {
            let after = store.prompt(prompt.id).await.unwrap();
            check_whole(&store, &after).await;
            match prompt.state {
                RunState::Running => {
                    let task = store.task(prompt.task_id).await.unwrap();
                    assert_eq!((task.state, task.started_at.is_some()), (TaskState::Queued, true));
                    assert_eq!(after.state, RunState::Running);
                }
                state => assert_eq!(after.state, state),
            }
        }
    }
}

async fn run_and_kill(
    url: &DatabaseUrl,
    worker: WorkerId,
    lines: usize,
) -> Vec<(String, PromptId)> {
    let address = match url {
        DatabaseUrl::Sqlite(path) => format!("sqlite://{}", path.display()),
        DatabaseUrl::Postgres(url) => url.clone(),
    };
    tokio::task::spawn_blocking(move || {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_that_writes_until_it_is_killed", "--nocapture"])
            .env(CHILD, format!("{address}|{worker}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let Some((_, told)) = line.split_once('@') else { continue };
            let (done, id) = told.split_once(' ').unwrap();
            // The kill may cut the last line.
            if let Ok(id) = id.parse() {
                said.push((done.to_owned(), id));
            }
            if said.len() == lines {
                // SIGKILL; what it still says until then counts too.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(said.len() >= lines, "the child ended by itself");
        said
    })
    .await
    .unwrap()
}

async fn all_prompts(store: &Store) -> Vec<Prompt> {
    let mut all = Vec::new();
    for name in ["a", "b", "c"] {
        let workspace = store.workspace_by_name(&name.parse().unwrap()).await.unwrap();
        let mut page = PageRequest { limit: MAX_PAGE, after: None };
        loop {
            let part = store.prompts(workspace.id, &page).await.unwrap();
            all.extend(part.items);
            page.after = part.next_cursor;
            if page.after.is_none() {
                break;
            }
        }
    }
    all
}

/// A prompt, its task and its log agree.
async fn check_whole(store: &Store, prompt: &Prompt) {
    let task = store.task(prompt.task_id).await.unwrap();
    let log = store.events(RunRef::Prompt(prompt.id), 0, 1000).await.unwrap();
    assert!(log.iter().map(|event| event.seq).eq(1..=log.len() as i64));
    let ends: Vec<_> =
        log.iter().filter(|event| matches!(event.body, EventBody::End { .. })).collect();
    assert_eq!(prompt.state.is_terminal(), task.state.is_terminal());
    assert_eq!(ends.len(), usize::from(prompt.state.is_terminal()));
    if let Some(end) = ends.first() {
        assert_eq!(end.body, EventBody::End { state: prompt.state.clone() });
        assert_eq!(end.seq, log.len() as i64);
    }
    // Between two workers a task that has started waits, and its run is said to run.
    let started = !task.state.is_terminal() && task.started_at.is_some();
    assert_eq!(prompt.state == RunState::Running, started);
    // Each append has two entries: both or none.
    assert_eq!((log.len() - ends.len()) % 2, 0);
}

on_both_engines! {
    a_killed_process_leaves_nothing_half_done_and_loses_nothing_it_said
}
