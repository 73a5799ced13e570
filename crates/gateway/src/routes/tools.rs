//! Tools: what the catalogue has for workspaces.

use crate::{Error, Gateway, api::Tool, extract::At};
use aetherium_model::{page::Page, setup::ToolRef};
use axum::{Json, extract::State};

/// List tools
///
/// All that a workspace or an environment may ask for in `setup.tools`, by name, in one page.
#[utoipa::path(
    get, path = "/api/v1/tools", tag = "tools",
    responses((status = 200, body = Page<Tool>))
)]
pub(crate) async fn list(State(gateway): State<Gateway>) -> Json<Page<Tool>> {
    let items = gateway.config().catalog.tools().iter().map(Tool::from).collect();
    Json(Page { items, next_cursor: None })
}

/// Get a tool
#[utoipa::path(
    get, path = "/api/v1/tools/{tool}", tag = "tools",
    params(("tool" = String, Path, description = "The tool's name, or another that it answers to.")),
    responses((status = 200, body = Tool))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    At(tool): At<ToolRef>,
) -> Result<Json<Tool>, Error> {
    let id = tool.to_string();
    // A version names none.
    let found = gateway.config().catalog.tools().get(&id).map(Tool::from);
    found.map(Json).ok_or(Error::NotFound { what: "tool", id })
}
