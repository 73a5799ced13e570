//! A prompt is accepted in one of two ways, which must come to the same.

use crate::support::{Db, Engine, prompt, raw, ready_workspace, workspace};
use aetherium_model::{Timestamp, WorkerId, task::Task, workspace::Prompt};
use aetherium_store::{Idempotency, StoreError};
use sqlx::{Connection as _, Row as _};

/// Every column of a prompt's rows but for what no two prompts share, as JSON.
const ROWS: &str = "SELECT (SELECT to_jsonb(tasks) - 'id' - 'seq' - 'kind_json' FROM tasks \
     WHERE id = $1)::text || (SELECT to_jsonb(runs) - 'id' - 'task_id' FROM runs WHERE id = $2)::text \
     || (SELECT to_jsonb(event_log) - 'id' - 'ordinal' - 'subject_id' - 'task_id' FROM event_log \
     WHERE subject_id = $2 AND task_id = $1)::text";

async fn rows(db: &Db, prompt: &Prompt) -> String {
    let url = db.postgres_url();
    let mut connection = sqlx::AnyConnection::connect(&url).await.unwrap();
    let asked = sqlx::query(ROWS).bind(prompt.task_id.to_string()).bind(prompt.id.to_string());
    let row = asked.fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    row.get(0)
}

fn later(mut task: Task) -> Task {
    task.run_at = Some(Timestamp::from_millis(77));
    task.deadline = Some(Timestamp::from_millis(99));
    task
}

#[tokio::test]
async fn a_prompt_is_the_same_whether_one_statement_accepted_it_or_a_transaction() {
    let db = Db::fresh(Engine::Postgres).await;
    let workspace = ready_workspace(&db.store, WorkerId::new(), "a").await;
    for put_off in [false, true] {
        let made = || {
            let (prompt, task) = prompt(&workspace, "it's \u{1f980}\nand more");
            (prompt, if put_off { later(task) } else { task })
        };
        let (at_once, its_task) = made();
        db.store.create_prompt(&at_once, &its_task, None).await.unwrap();
        let (by_transaction, other_task) = made();
        // Who brings a key has it taken in a transaction.
        let key = Idempotency { key: format!("key-{put_off}"), request_sha256: "x".to_owned() };
        db.store.create_prompt(&by_transaction, &other_task, Some(&key)).await.unwrap();
        assert_eq!(rows(&db, &at_once).await, rows(&db, &by_transaction).await);
        assert_eq!(db.store.prompt(at_once.id).await.unwrap(), at_once);
        assert_eq!(db.store.task(its_task.id).await.unwrap(), its_task);
        assert_eq!(db.store.task(other_task.id).await.unwrap(), other_task);
    }
}

#[tokio::test]
async fn what_one_statement_does_not_accept_is_refused_with_its_reason_and_leaves_nothing() {
    let db = Db::fresh(Engine::Postgres).await;
    let (absent, _) = workspace(WorkerId::new(), "absent");
    let (refused, task) = prompt(&absent, "true");
    let error = db.store.create_prompt(&refused, &task, None).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");

    let leaving = ready_workspace(&db.store, WorkerId::new(), "leaving").await;
    let delete = aetherium_model::task::TaskKind::WorkspaceDelete { workspace_id: leaving.id };
    let delete = Task::new(leaving.worker_id, delete, Timestamp::from_millis(0));
    db.store.begin_delete_workspace(leaving.id, &delete).await.unwrap();
    let (refused, task) = prompt(&leaving, "true");
    let error = db.store.create_prompt(&refused, &task, None).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");

    let full = ready_workspace(&db.store, WorkerId::new(), "full").await;
    let small = db.store.clone().with_max_queued(1);
    let (refused, task) = prompt(&full, "true");
    let error = small.create_prompt(&refused, &task, None).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
    assert!(matches!(db.store.task(task.id).await, Err(StoreError::NotFound { .. })));
    raw(&db.url, "SELECT 1 / (CASE WHEN EXISTS (SELECT 1 FROM runs) THEN 0 ELSE 1 END)".to_owned())
        .await
        .unwrap();
}
