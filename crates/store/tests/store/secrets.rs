//! Secrets: encrypted for the row they are in, read with a trace, and brought under a new key.

use crate::support::*;
use aetherium_model::{
    Code, ExecutionId, VmId, WebhookId, WorkerId, WorkspaceId,
    event::{Actor, By, EventFilter, EventType, SubjectKind},
    page::PageRequest,
    secret::{SecretKind, SecretName, SecretScope, SecretUses},
    webhook::{Webhook, WebhookSecret, WebhookState},
};
use aetherium_secrets::{MasterKeys, SealError, SecretValue, new_key_line};
use aetherium_store::{RunRef, Store, StoreError};

const ALL: u64 = u64::MAX;

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

fn line(id: &str) -> String {
    new_key_line(&id.parse().unwrap()).to_string()
}

fn keys(lines: &[&str]) -> MasterKeys {
    MasterKeys::parse(&lines.concat()).unwrap()
}

async fn put(store: &Store, scope: SecretScope, text: &str, value: &str) {
    let value = SecretValue::new(value.as_bytes().to_vec());
    store.put_secret(scope, &name(text), SecretKind::Opaque, &value, at(1)).await.unwrap();
}

async fn vm_of(store: &Store, workspace: Option<WorkspaceId>) -> VmId {
    let worker = match workspace {
        Some(id) => store.workspace(id).await.unwrap().worker_id,
        None => WorkerId::new(),
    };
    let vm = vm(worker, workspace);
    match workspace {
        Some(_) => store.insert_workspace_vm(&vm).await.unwrap(),
        None => {
            let create = task(worker, aetherium_model::task::TaskKind::VmCreate { vm_id: vm.id });
            store.create_vm(&vm, &create, None).await.unwrap();
        }
    }
    vm.id
}

async fn read(store: &Store, vm: VmId, names: &[&str]) -> Result<Vec<String>, StoreError> {
    let uses: SecretUses = names.iter().map(|it| (name(it), name(it))).collect();
    let run = RunRef::Execution(ExecutionId::new());
    let read = store.read_secrets(run, vm, &uses, at(9)).await?;
    Ok(read.iter().map(|it| it.value.reveal_text().unwrap().to_owned()).collect())
}

async fn a_workspaces_secret_goes_before_the_projects_and_stays_its_own(engine: Engine) {
    let db = Db::fresh(engine).await;
    let store = &db.store;
    let one = ready_workspace(store, WorkerId::new(), "one").await;
    let own = SecretScope::Workspace(one.id);
    put(store, SecretScope::Project, "A", "project's a").await;
    put(store, SecretScope::Project, "B", "project's b").await;
    put(store, own, "A", "one's a").await;
    put(store, own, "C", "one's c").await;
    let (inside, outside) = (vm_of(store, Some(one.id)).await, vm_of(store, None).await);
    let values = read(store, inside, &["A", "B", "C"]).await.unwrap();
    assert_eq!(values, ["one's a", "project's b", "one's c"]);
    assert_eq!(read(store, outside, &["A"]).await.unwrap(), ["project's a"]);
    let missing = read(store, outside, &["C"]).await.unwrap_err();
    assert_eq!(missing.code(), Code::SecretMissing);

    let listed = store.secrets(own, &PageRequest::default()).await.unwrap().items;
    assert_eq!(listed.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["C", "A"]);
    let nowhere = SecretScope::Workspace(WorkspaceId::new());
    let value = SecretValue::new(b"x".to_vec());
    let refused = store.put_secret(nowhere, &name("A"), SecretKind::Opaque, &value, at(1)).await;
    assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
}

async fn a_value_is_replaced_under_its_name_and_gone_when_it_is_deleted(engine: Engine) {
    let db = Db::fresh(engine).await;
    put(&db.store, SecretScope::Project, "A", "first").await;
    let first = db.store.secrets(SecretScope::Project, &PageRequest::default()).await.unwrap();
    put(&db.store, SecretScope::Project, "A", "second").await;
    let second = db.store.secrets(SecretScope::Project, &PageRequest::default()).await.unwrap();
    assert_eq!((second.items.len(), second.items[0].id), (1, first.items[0].id));
    let vm = vm_of(&db.store, None).await;
    assert_eq!(read(&db.store, vm, &["A"]).await.unwrap(), ["second"]);
    db.store.delete_secret(SecretScope::Project, &name("A"), at(3)).await.unwrap();
    assert_eq!(read(&db.store, vm, &["A"]).await.unwrap_err().code(), Code::SecretMissing);
    let again = db.store.delete_secret(SecretScope::Project, &name("A"), at(3)).await;
    assert!(matches!(again, Err(StoreError::NotFound { .. })), "{again:?}");
}

async fn each_read_is_in_the_event_log_with_who_read_and_for_which_run(engine: Engine) {
    let db = Db::fresh(engine).await;
    put(&db.store, SecretScope::Project, "A", "value").await;
    let vm = vm_of(&db.store, None).await;
    let worker = WorkerId::new();
    let run = RunRef::Execution(ExecutionId::new());
    let uses = [(name("VARIABLE"), name("A"))].into_iter().collect();
    let reader = db.store.on_behalf_of(By::worker(worker));
    reader.read_secrets(run, vm, &uses, at(9)).await.unwrap();
    let filter = EventFilter { subject: Some(SubjectKind::Secret), ..EventFilter::default() };
    let told = db.store.history(&filter, 0, 9).await.unwrap().items;
    let kinds: Vec<_> = told.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventType::SecretSet, EventType::SecretRead]);
    assert_eq!(told[1].actor, Actor::Worker(worker));
    assert_eq!(told[1].data.run_id, Some(run.to_string()));
    assert_eq!(told[1].data.secret, Some(name("A")));
}

async fn a_row_that_was_altered_moved_or_renamed_does_not_open(engine: Engine) {
    let db = Db::fresh(engine).await;
    put(&db.store, SecretScope::Project, "A", "value of a").await;
    put(&db.store, SecretScope::Project, "B", "value of b").await;
    let workspace = ready_workspace(&db.store, WorkerId::new(), "w").await;
    put(&db.store, SecretScope::Workspace(workspace.id), "C", "value of c").await;
    let vm = vm_of(&db.store, None).await;
    for tampered in [
        "UPDATE secrets SET envelope = (SELECT envelope FROM secrets WHERE name = 'B') WHERE name = 'A'",
        "UPDATE secrets SET kind = 'file' WHERE name = 'B'",
        "UPDATE secrets SET scope = 'project:default' WHERE name = 'C'",
    ] {
        db.raw(tampered).await.unwrap();
    }
    for stolen in ["A", "B", "C"] {
        let error = read(&db.store, vm, &[stolen]).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Sealed(SealError::Altered { .. })),
            "{stolen}: {error}"
        );
        assert_eq!(error.code(), Code::SecretUnreadable);
    }
}

async fn without_the_right_key_nothing_is_read_and_a_check_says_so(engine: Engine) {
    let db = Db::fresh(engine).await;
    let (right, other) = (line("a"), line("a"));
    let store = db.reopened().await;
    store.check_keys().await.unwrap();
    let store = store.with_keys(keys(&[&right]));
    put(&store, SecretScope::Project, "A", "value").await;
    store.check_keys().await.unwrap();
    let refused = async |store: Store| {
        let error = store.check_keys().await.unwrap_err();
        assert_eq!(error.code(), Code::SecretUnreadable, "{error}");
        error.to_string()
    };
    assert!(refused(db.reopened().await).await.contains("no master key"));
    let namesake = refused(db.reopened().await.with_keys(keys(&[&other]))).await;
    assert!(namesake.contains("another key of the same name"), "{namesake}");
    let unknown = refused(db.reopened().await.with_keys(keys(&[&line("b")]))).await;
    assert!(unknown.contains("the master key a, which is not known here"), "{unknown}");
}

async fn a_rotation_that_was_killed_half_way_goes_on_where_it_stood(engine: Engine) {
    let db = Db::fresh(engine).await;
    let (old, new) = (line("old"), line("new"));
    let before = db.reopened().await.with_keys(keys(&[&old]));
    for number in 0..8 {
        put(&before, SecretScope::Project, &format!("S{number}"), &format!("value {number}")).await;
    }
    let hook = webhook();
    before.create_webhook(&hook, &WebhookSecret::of([1; 32])).await.unwrap();
    let vm = vm_of(&before, None).await;

    // What it had done when it was killed stays done.
    let rotating = db.reopened().await.with_keys(keys(&[&new, &old]));
    assert_eq!(rotating.rotate_secrets(3).await.unwrap().rewrapped, 3);
    rotating.close().await;
    let rotating = db.reopened().await.with_keys(keys(&[&new, &old]));
    assert_eq!(read(&rotating, vm, &["S0", "S7"]).await.unwrap(), ["value 0", "value 7"]);
    let rest = rotating.rotate_secrets(ALL).await.unwrap();
    assert_eq!((rest.rewrapped, rest.failed), (6, vec![]));
    assert_eq!(rotating.rotate_secrets(ALL).await.unwrap().rewrapped, 0, "once more is nothing");

    // The old key is not needed any more.
    let after = db.reopened().await.with_keys(keys(&[&new]));
    after.check_keys().await.unwrap();
    assert_eq!(read(&after, vm, &["S0", "S7"]).await.unwrap(), ["value 0", "value 7"]);
    assert_eq!(after.webhook_secret(hook.id).await.unwrap(), WebhookSecret::of([1; 32]));
    let listed = after.secrets(SecretScope::Project, &PageRequest::default()).await.unwrap().items;
    assert!(listed.iter().all(|secret| secret.key_id == "new"));
}

async fn a_rotation_tells_of_rows_that_do_not_open_and_goes_on_with_the_others(engine: Engine) {
    let db = Db::fresh(engine).await;
    let (old, new) = (line("old"), line("new"));
    let before = db.reopened().await.with_keys(keys(&[&old]));
    for text in ["A", "B", "C"] {
        put(&before, SecretScope::Project, text, "value").await;
    }
    db.raw("UPDATE secrets SET envelope = 'QUJD.QUJD' WHERE name = 'B'").await.unwrap();
    let done =
        db.reopened().await.with_keys(keys(&[&new, &old])).rotate_secrets(ALL).await.unwrap();
    assert_eq!((done.rewrapped, done.failed.len()), (2, 1));
    assert!(done.failed[0].0.starts_with("sc_"), "{done:?}");
}

async fn a_webhooks_secret_from_before_is_encrypted_at_the_first_check(engine: Engine) {
    let db = Db::fresh(engine).await;
    let hook = webhook();
    db.store.create_webhook(&hook, &WebhookSecret::of([1; 32])).await.unwrap();
    let in_clear = WebhookSecret::of([2; 32]);
    let before =
        format!("UPDATE webhooks SET secret_key_id = NULL, secret = '{}'", in_clear.reveal());
    db.raw(&before).await.unwrap();
    assert_eq!(db.store.webhook_secret(hook.id).await.unwrap(), in_clear);
    assert_eq!(db.reopened().await.check_keys().await.unwrap_err().code(), Code::SecretUnreadable);
    db.store.check_keys().await.unwrap();
    assert_eq!(db.store.webhook_secret(hook.id).await.unwrap(), in_clear);
    let sealed = "DELETE FROM webhooks WHERE secret LIKE 'whsec_%' OR secret_key_id IS NULL";
    db.raw(sealed).await.unwrap();
    db.store.webhook(hook.id).await.unwrap();
}

async fn what_a_prompt_and_a_workspace_ask_for_is_kept(engine: Engine) {
    let db = Db::fresh(engine).await;
    let uses: SecretUses = [(name("V"), name("A"))].into_iter().collect();
    let (mut workspace, create) = workspace(WorkerId::new(), "w");
    workspace.secrets = uses.clone();
    db.store.create_workspace(&workspace, &create, None).await.unwrap();
    assert_eq!(db.store.workspace(workspace.id).await.unwrap().secrets, uses);
    let (mut prompt, task) = prompt(&workspace, "echo");
    prompt.secrets = uses.clone();
    db.store.create_prompt(&prompt, &task, None).await.unwrap();
    assert_eq!(db.store.prompt(prompt.id).await.unwrap().secrets, uses);
}

fn webhook() -> Webhook {
    Webhook {
        id: WebhookId::new(),
        url: "https://example.com/hook".into(),
        filter: EventFilter::default(),
        state: WebhookState::Active,
        reached: 0,
        failures: 0,
        created_at: at(0),
        updated_at: at(0),
    }
}

on_both_engines! {
    a_workspaces_secret_goes_before_the_projects_and_stays_its_own
    a_value_is_replaced_under_its_name_and_gone_when_it_is_deleted
    each_read_is_in_the_event_log_with_who_read_and_for_which_run
    a_row_that_was_altered_moved_or_renamed_does_not_open
    without_the_right_key_nothing_is_read_and_a_check_says_so
    a_rotation_that_was_killed_half_way_goes_on_where_it_stood
    a_rotation_tells_of_rows_that_do_not_open_and_goes_on_with_the_others
    a_webhooks_secret_from_before_is_encrypted_at_the_first_check
    what_a_prompt_and_a_workspace_ask_for_is_kept
}
