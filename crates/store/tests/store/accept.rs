//! A prompt is accepted in one of two ways, which must come to the same.

use crate::support::{Db, Engine, connect, on_both_engines, prompt, ready_workspace, workspace};
use aetherium_model::{Timestamp, WorkerId, task::Task, workspace::Prompt};
use aetherium_store::{Idempotency, StoreError};
use sqlx::{AssertSqlSafe, Column as _, Connection as _, Row as _};

/// Where a prompt's rows are, which of their columns no two prompts share, and how they are found.
const ROWS: [(&str, &[&str], &str); 3] = [
    ("tasks", &["id", "seq", "kind_json"], "id = $1 AND $2 <> ''"),
    ("runs", &["id", "task_id"], "task_id = $1 AND id = $2"),
    ("event_log", &["id", "ordinal", "subject_id", "task_id"], "task_id = $1 AND subject_id = $2"),
];

/// Every column of a prompt's rows but for what no two prompts share, as text.
async fn rows(db: &Db, prompt: &Prompt) -> Vec<(String, Option<String>)> {
    let mut connection = connect(&db.url).await;
    let mut columns = Vec::new();
    for (table, own, condition) in ROWS {
        let named = |columns: &str| format!("SELECT {columns} FROM {table} WHERE {condition}");
        let all = sqlx::query(AssertSqlSafe(named("*")))
            .bind(prompt.task_id.to_string())
            .bind(prompt.id.to_string())
            .fetch_one(&mut connection)
            .await
            .unwrap();
        for name in all.columns().iter().map(|it| it.name()).filter(|it| !own.contains(it)) {
            let one = sqlx::query(AssertSqlSafe(named(&format!("CAST({name} AS TEXT)"))))
                .bind(prompt.task_id.to_string())
                .bind(prompt.id.to_string())
                .fetch_one(&mut connection)
                .await
                .unwrap();
            columns.push((format!("{table}.{name}"), one.get(0)));
        }
    }
    connection.close().await.unwrap();
    columns
}

fn later(mut task: Task) -> Task {
    task.run_at = Some(Timestamp::from_millis(77));
    task.deadline = Some(Timestamp::from_millis(99));
    task
}

async fn a_prompt_is_the_same_whether_it_was_accepted_at_once_or_by_the_longer_transaction(
    engine: Engine,
) {
    let db = Db::fresh(engine).await;
    let workspace = ready_workspace(&db.store, WorkerId::new(), "a").await;
    for put_off in [false, true] {
        let made = || {
            let (prompt, task) = prompt(&workspace, "it's \u{1f980}\nand more");
            (prompt, if put_off { later(task) } else { task })
        };
        let (at_once, its_task) = made();
        db.store.create_prompt(&at_once, &its_task, None).await.unwrap();
        let (by_transaction, other_task) = made();
        // Who brings a key has it taken in the longer one.
        let key = Idempotency { key: format!("key-{put_off}"), request_sha256: "x".to_owned() };
        db.store.create_prompt(&by_transaction, &other_task, Some(&key)).await.unwrap();
        let columns = rows(&db, &at_once).await;
        assert!(columns.len() > 30, "{columns:?}");
        assert_eq!(columns, rows(&db, &by_transaction).await);
        assert_eq!(db.store.prompt(at_once.id).await.unwrap(), at_once);
        assert_eq!(db.store.task(its_task.id).await.unwrap(), its_task);
        assert_eq!(db.store.task(other_task.id).await.unwrap(), other_task);
    }
}

async fn what_is_not_accepted_at_once_is_refused_with_its_reason_and_leaves_nothing(
    engine: Engine,
) {
    let db = Db::fresh(engine).await;
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
    for left in [
        "SELECT id FROM runs WHERE prompt_json IS NOT NULL",
        "SELECT id FROM event_log WHERE subject_kind = 'prompt'",
    ] {
        let mut connection = connect(&db.url).await;
        assert!(
            sqlx::query(left).fetch_optional(&mut connection).await.unwrap().is_none(),
            "{left}"
        );
        connection.close().await.unwrap();
    }
}

on_both_engines! {
    a_prompt_is_the_same_whether_it_was_accepted_at_once_or_by_the_longer_transaction
    what_is_not_accepted_at_once_is_refused_with_its_reason_and_leaves_nothing
}
