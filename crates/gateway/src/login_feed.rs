//! A login as a stream: where it stands, and where it then comes to.

use crate::{
    Error, Gateway,
    sse::{self, Feed, Part, Then},
};
use aetherium_model::{LoginId, WorkspaceId};
use aetherium_queue::Topic;
use aetherium_store::{Store, StoreError};
use axum::response::{Response, sse::Event};
use std::time::Duration;

/// Answers with a login's changes after the revision `seen`.
pub(crate) async fn serve(
    gateway: Gateway,
    workspace: WorkspaceId,
    id: LoginId,
    seen: i64,
) -> Result<Response, Error> {
    let feed = LoginFeed { store: gateway.store().clone(), workspace, id, seen };
    sse::serve(gateway, Topic::Workspace(workspace), feed).await
}

struct LoginFeed {
    store: Store,
    workspace: WorkspaceId,
    id: LoginId,
    seen: i64,
}

impl Feed for LoginFeed {
    // What its worker announces may be lost.
    const RECHECK: Duration = Duration::from_secs(2);

    fn name(&self) -> String {
        self.id.to_string()
    }

    async fn read(&mut self) -> Result<Part, StoreError> {
        let login = self.store.login(self.workspace, self.id).await?;
        let then = if login.state.is_over() { Then::End } else { Then::Wait };
        if login.revision <= self.seen {
            return Ok(Part { entries: Vec::new(), then });
        }
        self.seen = login.revision;
        let event = Event::default().id(login.revision.to_string()).event(login.state.as_str());
        Ok(Part { entries: vec![event.json_data(&login)], then })
    }
}
