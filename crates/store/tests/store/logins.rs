//! Logins, one at a time of each assistant; and credentials, of which no renewal undoes a newer one.

use crate::support::*;
use aetherium_model::{
    Code, Fault, LoginId, VmId, WorkerId, WorkspaceId,
    assistant::AssistantName,
    event::{EventFilter, EventType},
    login::{Accepts, Invitation, Login, LoginState},
    page::PageRequest,
    secret::{SecretKind, SecretScope},
};
use aetherium_secrets::SecretValue;
use aetherium_store::{Before, Store, StoreError};

fn coder() -> AssistantName {
    "claude-code".parse().unwrap()
}

fn login(workspace: WorkspaceId) -> Login {
    Login {
        id: LoginId::new(),
        workspace_id: workspace,
        assistant: coder(),
        accepts: Accepts::Code,
        state: LoginState::Starting,
        revision: 1,
        created_at: at(1),
        updated_at: at(1),
        expires_at: at(900_001),
    }
}

fn value(text: &str) -> SecretValue {
    SecretValue::new(text.as_bytes().to_vec())
}

async fn vm_of(store: &Store, workspace: WorkspaceId) -> VmId {
    let worker = store.workspace(workspace).await.unwrap().worker_id;
    let vm = vm(worker, Some(workspace));
    store.insert_workspace_vm(&vm).await.unwrap();
    vm.id
}

async fn one_login_of_an_assistant_is_under_way_in_a_workspace_and_ends_once(engine: Engine) {
    let db = Db::fresh(engine).await;
    let (store, worker) = (&db.store, WorkerId::new());
    let one = ready_workspace(store, worker, "one").await;
    let first = login(one.id);
    store.create_login(&first, worker).await.unwrap();
    let second = store.create_login(&login(one.id), worker).await.unwrap_err();
    assert_eq!(second.code(), Code::Conflict, "{second}");
    let other = Login { assistant: AssistantName::SHELL, ..login(one.id) };
    store.create_login(&other, worker).await.unwrap();

    let invitation =
        Invitation { url: "https://id.example/".into(), code: Some("AB-CD".into()), refusal: None };
    let waiting = LoginState::Waiting(invitation);
    let now = store.set_login_state(first.id, &waiting, at(2)).await.unwrap();
    assert_eq!((now.revision, now.updated_at, &now.state), (2, at(2), &waiting));
    store.set_login_state(first.id, &LoginState::Succeeded, at(3)).await.unwrap();
    let over = store.set_login_state(first.id, &LoginState::Cancelled, at(4)).await.unwrap();
    assert_eq!((over.revision, over.state), (3, LoginState::Succeeded));
    store.create_login(&login(one.id), worker).await.unwrap();

    let nowhere = store.create_login(&login(WorkspaceId::new()), worker).await;
    assert!(matches!(nowhere, Err(StoreError::NotFound { .. })), "{nowhere:?}");
    assert!(store.login(WorkspaceId::new(), first.id).await.is_err(), "it is another workspace's");
}

async fn what_a_process_had_under_way_ends_with_it_and_old_logins_are_forgotten(engine: Engine) {
    let db = Db::fresh(engine).await;
    let (store, worker) = (&db.store, WorkerId::new());
    let one = ready_workspace(store, worker, "one").await;
    for _ in 0..30 {
        let made = login(one.id);
        store.create_login(&made, worker).await.unwrap();
        let fault = Fault::new(Code::LoginFailed, "no");
        store.set_login_state(made.id, &LoginState::Failed { fault }, at(2)).await.unwrap();
    }
    let (last, elsewhere) = (login(one.id), WorkerId::new());
    store.create_login(&last, worker).await.unwrap();
    let kept = store.logins(one.id, &PageRequest::default()).await.unwrap().items;
    assert_eq!((kept.len(), kept[0].id), (21, last.id));
    assert_eq!(store.interrupt_logins(elsewhere, at(3)).await.unwrap(), []);
    assert_eq!(store.interrupt_logins(worker, at(3)).await.unwrap(), [one.id]);
    let LoginState::Failed { fault } = store.login(one.id, last.id).await.unwrap().state else {
        panic!("it goes on")
    };
    assert_eq!(fault.code, Code::Interrupted);
}

async fn a_renewal_takes_effect_only_on_the_credentials_it_is_of(engine: Engine) {
    let db = Db::fresh(engine).await;
    let (store, worker) = (&db.store, WorkerId::new());
    let one = ready_workspace(store, worker, "one").await;
    let two = ready_workspace(store, worker, "two").await;
    let (here, there) = (vm_of(store, one.id).await, vm_of(store, two.id).await);
    assert!(store.read_credentials(&coder(), here, None, at(1)).await.unwrap().is_none());
    let put = |vm, text: &'static str, before| async move {
        store.put_credentials(&coder(), vm, &value(text), before, at(5)).await.unwrap()
    };
    let first = put(here, "first", Before::Any).await.unwrap();
    let read = store.read_credentials(&coder(), there, None, at(6)).await.unwrap().unwrap();
    assert_eq!((read.value.reveal(), read.generation), (&b"first"[..], first));
    // All in the same millisecond.
    let second = put(there, "second", Before::These(first)).await.unwrap();
    assert_eq!(put(here, "late", Before::These(first)).await, None, "they are not those any more");
    assert!(put(here, "third", Before::These(second)).await.is_some());
    let read = store.read_credentials(&coder(), here, None, at(6)).await.unwrap().unwrap();
    assert_eq!(read.value.reveal(), b"third");

    let known = store.credentials().await.unwrap();
    assert_eq!(known.iter().map(|it| &it.assistant).collect::<Vec<_>>(), [&coder()]);
    store.forget_credentials(&coder(), at(7)).await.unwrap();
    assert!(store.forget_credentials(&coder(), at(7)).await.is_err());
    assert_eq!(put(here, "resurrected", Before::These(second)).await, None);
    assert!(store.credentials().await.unwrap().is_empty());
}

async fn credentials_are_no_secret_that_a_prompt_can_ask_for(engine: Engine) {
    let db = Db::fresh(engine).await;
    let (store, worker) = (&db.store, WorkerId::new());
    let one = ready_workspace(store, worker, "one").await;
    let vm = vm_of(store, one.id).await;
    let name = "claude_code".parse().unwrap();
    let (project, opaque) = (SecretScope::Project, SecretKind::Opaque);
    store.put_credentials(&coder(), vm, &value("tokens"), Before::Any, at(5)).await.unwrap();
    store.put_secret(project, &name, opaque, &value("another"), at(6)).await.unwrap();
    let listed = store.secrets(project, &PageRequest::default()).await.unwrap().items;
    assert_eq!(listed.len(), 1);
    let read = store.read_credentials(&coder(), vm, None, at(7)).await.unwrap().unwrap();
    assert_eq!(read.value.reveal(), b"tokens");
    store.delete_secret(project, &name, at(8)).await.unwrap();
    assert!(store.read_credentials(&coder(), vm, None, at(9)).await.unwrap().is_some());
    let told = store.history(&EventFilter::default(), 0, 99).await.unwrap().items;
    let reads = told.iter().filter(|it| it.kind == EventType::SecretRead);
    assert!(reads.clone().all(|it| it.data.vm_id == Some(vm)) && reads.count() == 2);
}

on_both_engines! {
    one_login_of_an_assistant_is_under_way_in_a_workspace_and_ends_once
    what_a_process_had_under_way_ends_with_it_and_old_logins_are_forgotten
    a_renewal_takes_effect_only_on_the_credentials_it_is_of
    credentials_are_no_secret_that_a_prompt_can_ask_for
}
