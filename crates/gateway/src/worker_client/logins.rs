//! Logins of assistants, which the worker does that holds their workspace.

use super::{JSON, WorkerClient, parse};
use aetherium_model::{
    Fault, LoginId, WorkspaceId,
    login::{Login, StartLogin},
    worker::Worker,
};
use bytes::Bytes;
use http::{Method, header};
use serde::Serialize;
use std::time::Duration;

/// What a login may take to take something, the assistant's own server included: the worker's own
/// deadlines, and some more.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(45);

impl WorkerClient {
    /// Begins a login, and returns it as it begins.
    pub(crate) async fn start_login(
        &self,
        worker: &Worker,
        workspace: WorkspaceId,
        body: &StartLogin,
    ) -> Result<Login, Fault> {
        self.of_login(worker, &format!("/internal/v1/workspaces/{workspace}/logins"), body).await
    }

    /// Gives a login what its user brought back: a `code`, or a `callback`.
    pub(crate) async fn submit_login(
        &self,
        worker: &Worker,
        workspace: WorkspaceId,
        id: LoginId,
        what: &str,
        body: &impl Serialize,
    ) -> Result<Login, Fault> {
        let path = format!("/internal/v1/workspaces/{workspace}/logins/{id}/{what}");
        self.of_login(worker, &path, body).await
    }

    /// Cancels a login, and returns it as it then is.
    pub(crate) async fn cancel_login(
        &self,
        worker: &Worker,
        workspace: WorkspaceId,
        id: LoginId,
    ) -> Result<Login, Fault> {
        let path = format!("/internal/v1/workspaces/{workspace}/logins/{id}/cancel");
        self.of_login(worker, &path, &serde_json::json!({})).await
    }

    async fn of_login(
        &self,
        worker: &Worker,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Login, Fault> {
        let body: Bytes = serde_json::to_vec(body).map_err(Fault::internal)?.into();
        let mut request = self.request(worker, Method::POST, path, body)?;
        request.headers_mut().insert(header::CONTENT_TYPE, JSON);
        let answer = self.call(worker, request, LOGIN_TIMEOUT).await?;
        parse(worker, &answer)
    }
}
