//! Templates: read from the workers that hold them, since no worker's disk is the gateway's; built and
//! removed by workers.

use crate::{
    Error, Gateway,
    api::{Accepted, BuildTemplate, ListQuery},
    auth::Acting,
    extract::{self, At, IdempotencyKey, Query, page},
    fleet,
    routes::links,
};
use aetherium_model::{
    Code, Name, TemplateRef,
    page::Page,
    task::{Task, TaskKind},
    template::Template,
    worker::Worker,
};
use axum::{Json, extract::State};
use futures::future::join_all;
use http::StatusCode;
use std::collections::BTreeMap;

/// Build a template
///
/// Answers as soon as the build is recorded; its task tells how it goes, and how it failed with the
/// last lines of the step. Steps run in VMs of a worker. Cancel the task to end the build.
#[utoipa::path(
    post, path = "/api/v1/templates", tag = "templates", request_body = BuildTemplate,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes the request safe to repeat for a day.")),
    responses((status = 202, body = Accepted<Task>))
)]
pub(crate) async fn create(
    Acting(gateway): Acting,
    key: IdempotencyKey,
    extract::Json(body): extract::Json<BuildTemplate>,
) -> Result<(StatusCode, Json<Accepted<Task>>), Error> {
    let key = key.bind(&body)?;
    let BuildTemplate { name, recipe, replace } = body;
    let worker = fleet::place_build(&gateway, &recipe.base).await?;
    let own = format!("/api/v1/templates/{name}");
    let kind = TaskKind::TemplateBuild { template: name, recipe: Box::new(recipe), replace };
    let created = gateway.queue().create_task(&fleet::task(worker, kind), key.as_ref()).await?;
    let task = created.into_inner();
    let links = links(&own, Some(task.id), &[]);
    Ok((StatusCode::ACCEPTED, Json(Accepted { item: task, links })))
}

/// Delete a template
///
/// Takes the tag away on every worker that has it, and answers. VMs that run from what it pointed to go
/// on.
#[utoipa::path(
    delete, path = "/api/v1/templates/{template}", tag = "templates",
    params(("template" = TemplateRef, Path, description = "The template: `NAME` or `NAME:TAG`.")),
    responses((status = 200, body = Template))
)]
pub(crate) async fn delete(
    State(gateway): State<Gateway>,
    At(wanted): At<TemplateRef>,
) -> Result<Json<Template>, Error> {
    let workers = fleet::answering(&gateway).await?;
    let mut removed = None;
    for worker in &workers {
        match gateway.workers().remove_template(worker, &wanted).await {
            Ok(template) => removed = Some(template),
            Err(fault) if fault.code == Code::NotFound => {}
            Err(fault) => return Err(fault.into()),
        }
    }
    removed.map(Json).ok_or_else(|| Error::NotFound { what: "template", id: wanted.to_string() })
}

/// List templates
///
/// By name, over all active workers. Where workers hold different images of one name, the one made
/// last is shown.
#[utoipa::path(
    get, path = "/api/v1/templates", tag = "templates", params(ListQuery),
    responses((status = 200, body = Page<Template>))
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Template>>, Error> {
    let page = page(query.limit, query.cursor)?;
    let known = known(&gateway, &fleet::answering(&gateway).await?).await?;
    let after = page.after.unwrap_or_default();
    let rows = known
        .into_values()
        .filter(|template| template.name.as_str() > after.as_str())
        .take(page.limit as usize + 1)
        .collect();
    Ok(Json(Page::from_rows(rows, page.limit, |template: &Template| template.name.to_string())))
}

/// Get a template
///
/// By its name, by a tag, or by its digest. Where workers hold different images of one tag, the one made
/// last is shown.
#[utoipa::path(
    get, path = "/api/v1/templates/{template}", tag = "templates",
    params((
        "template" = TemplateRef, Path,
        description = "The template: `NAME`, `NAME:TAG` or `NAME@sha256:DIGEST`."
    )),
    responses((status = 200, body = Template))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    At(wanted): At<TemplateRef>,
) -> Result<Json<Template>, Error> {
    let mut holders = fleet::answering(&gateway).await?;
    holders.retain(|worker| worker.holds(&wanted));
    let answers = join_all(holders.iter().map(|it| gateway.workers().template(it, &wanted))).await;
    let (found, mut failed): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    if let Some(newest) = found.into_iter().flatten().max_by_key(|it| it.created_at) {
        return Ok(Json(newest));
    }
    match failed.pop() {
        Some(Err(fault)) if fault.code != Code::NotFound => Err(fault.into()),
        _ => Err(Error::NotFound { what: "template", id: wanted.to_string() }),
    }
}

/// What the workers hold, by name. Fails only if none of them can be asked.
async fn known(gateway: &Gateway, workers: &[Worker]) -> Result<BTreeMap<Name, Template>, Error> {
    let answers = join_all(workers.iter().map(|worker| gateway.workers().templates(worker))).await;
    let mut known: BTreeMap<Name, Template> = BTreeMap::new();
    let mut failure = None;
    let mut answered = workers.is_empty();
    for answer in answers {
        match answer {
            Ok(templates) => {
                answered = true;
                for template in templates {
                    let newer = |held: &Template| held.created_at < template.created_at;
                    if known.get(&template.name).is_none_or(newer) {
                        known.insert(template.name.clone(), template);
                    }
                }
            }
            Err(fault) => {
                tracing::warn!(%fault, "a worker does not list its templates");
                failure = Some(fault);
            }
        }
    }
    match failure {
        Some(fault) if !answered => Err(fault.into()),
        _ => Ok(known),
    }
}
