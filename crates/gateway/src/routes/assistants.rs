//! Assistants: what the catalogue has for workspaces.

use crate::{Error, Gateway, api::Assistant, extract::At, problem::FieldError};
use aetherium_model::{
    assistant::{AssistantName, AssistantOptions},
    page::Page,
    secret::SecretUses,
    workspace::Workspace,
};
use axum::{Json, extract::State};

/// List assistants
///
/// All that a workspace or an environment may have as `ai_assistant`, by name, in one page.
#[utoipa::path(
    get, path = "/api/v1/assistants", tag = "assistants",
    responses((status = 200, body = Page<Assistant>))
)]
pub(crate) async fn list(State(gateway): State<Gateway>) -> Json<Page<Assistant>> {
    let items = gateway.config().catalog.assistants().map(Assistant::from).collect();
    Json(Page { items, next_cursor: None })
}

/// Get an assistant
#[utoipa::path(
    get, path = "/api/v1/assistants/{assistant}", tag = "assistants",
    params(("assistant" = AssistantName, Path, description = "The assistant's name.")),
    responses((status = 200, body = Assistant))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    At(name): At<AssistantName>,
) -> Result<Json<Assistant>, Error> {
    let found = gateway.config().catalog.assistant(&name).ok().map(Assistant::from);
    found.map(Json).ok_or(Error::NotFound { what: "assistant", id: name.to_string() })
}

/// Refuses an assistant that the catalogue does not have, or that cannot do what is asked of it; `field` is
/// the options' place in the request.
pub(crate) fn check(
    gateway: &Gateway,
    name: &AssistantName,
    field: &str,
    options: &AssistantOptions,
) -> Result<(), FieldError> {
    let found = gateway.config().catalog.assistant(name).map_err(|fault| FieldError {
        field: "ai_assistant".to_owned(),
        problem: format!("{}: {}", fault.detail, fault.remedy),
    })?;
    found
        .accepts(options)
        .map_err(|it| FieldError { field: format!("{field}.{}", it.field), problem: it.problem })
}

/// Refuses a prompt whose assistant is known to have no credentials. One with a login may have them on its
/// workspace's disk, which only its worker sees.
pub(crate) async fn check_credentials(
    gateway: &Gateway,
    workspace: &Workspace,
    uses: &SecretUses,
    has_variable: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    let assistant = gateway.config().catalog.assistant(&workspace.ai_assistant)?;
    if assistant.login.is_some() || assistant.is_known_by(uses, has_variable) {
        return Ok(());
    }
    let there = gateway.store().assistant_credentials(workspace.id).await?;
    if assistant.credentials.iter().any(|it| there.contains(&it.secret)) {
        return Ok(());
    }
    Err(assistant.without_credentials().into())
}
