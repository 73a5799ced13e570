//! What workspaces keep for their assistants.

use crate::support::*;
use aetherium_model::{
    WorkerId, WorkspaceId,
    secret::{SecretKind, SecretScope},
};
use aetherium_secrets::{MasterKeys, SecretValue, new_key_line};
use aetherium_store::{Fence, StoreError};

async fn a_conversation_is_kept_by_its_worker_alone(engine: Engine) {
    let db = Db::fresh(engine).await;
    let workspace = ready_workspace(&db.store, WorkerId::new(), "one").await;
    db.store.set_workspace_session(workspace.id, "first", at(5)).await.unwrap();
    db.store.set_workspace_session(workspace.id, "second", at(6)).await.unwrap();
    let kept = db.store.workspace(workspace.id).await.unwrap();
    assert_eq!((kept.session.as_deref(), kept.updated_at), (Some("second"), at(6)));
    let fence = Fence { worker_id: workspace.worker_id, epoch: aetherium_model::worker::Epoch(9) };
    let gone = db.store.clone().fenced(fence);
    let refused = gone.set_workspace_session(workspace.id, "third", at(7)).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    let nowhere = db.store.set_workspace_session(WorkspaceId::new(), "x", at(7)).await;
    assert!(matches!(nowhere, Err(StoreError::NotFound { .. })), "{nowhere:?}");
}

async fn of_a_workspaces_secrets_the_assistants_credentials_are_told(engine: Engine) {
    let db = Db::fresh(engine).await;
    let keys = new_key_line(&"k".parse().unwrap()).to_string();
    let store = db.store.clone().with_keys(MasterKeys::parse(&keys).unwrap());
    let one = ready_workspace(&store, WorkerId::new(), "one").await;
    let two = ready_workspace(&store, WorkerId::new(), "two").await;
    let (project, own) = (SecretScope::Project, SecretScope::Workspace(one.id));
    for (scope, name, kind) in [
        (project, "A", SecretKind::AssistantCredential),
        (project, "B", SecretKind::Opaque),
        (own, "A", SecretKind::AssistantCredential),
        (own, "C", SecretKind::AssistantCredential),
    ] {
        let value = SecretValue::new(b"value".to_vec());
        store.put_secret(scope, &name.parse().unwrap(), kind, &value, at(1)).await.unwrap();
    }
    let names = async |id| {
        let found = store.assistant_credentials(id).await.unwrap();
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names(one.id).await, ["A", "C"]);
    assert_eq!(names(two.id).await, ["A"]);
}

on_both_engines! {
    a_conversation_is_kept_by_its_worker_alone
    of_a_workspaces_secrets_the_assistants_credentials_are_told
}
