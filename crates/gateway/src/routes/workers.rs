//! Workers: what they are, and whether they take VMs. Their state is judged by the database's clock.

use crate::{
    Error, Gateway,
    api::{DrainWorker, ListQuery},
    extract::{self, At, Query, page},
    gateway::now,
};
use aetherium_model::{WorkerId, page::Page, worker::Worker};
use axum::{Json, extract::State};
use std::time::Duration;

/// List workers
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/workers", tag = "workers", params(ListQuery),
    responses((status = 200, body = Page<Worker>))
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Worker>>, Error> {
    Ok(Json(gateway.store().workers(&page(query.limit, query.cursor)?).await?))
}

/// Get a worker
#[utoipa::path(
    get, path = "/api/v1/workers/{worker}", tag = "workers",
    params(("worker" = WorkerId, Path, description = "The worker's id.")),
    responses((status = 200, body = Worker))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    At(id): At<WorkerId>,
) -> Result<Json<Worker>, Error> {
    Ok(Json(gateway.store().worker(id).await?))
}

/// Cordon a worker
///
/// It starts no more VMs; those it has go on. Asked again, it changes nothing.
#[utoipa::path(
    post, path = "/api/v1/workers/{worker}/cordon", tag = "workers",
    params(("worker" = WorkerId, Path, description = "The worker's id.")),
    responses((status = 200, body = Worker))
)]
pub(crate) async fn cordon(
    State(gateway): State<Gateway>,
    At(id): At<WorkerId>,
) -> Result<Json<Worker>, Error> {
    Ok(Json(gateway.store().cordon_worker(id, now()).await?))
}

/// Drain a worker
///
/// It starts no more VMs. Those of workspaces are stopped as soon as nothing runs in them, the others and
/// those in use at the deadline; workspaces keep their disks. Its `reserved.vms` tell how many are left,
/// and its state is `drained` once none is. Asked again, the last deadline counts.
#[utoipa::path(
    post, path = "/api/v1/workers/{worker}/drain", tag = "workers", request_body = DrainWorker,
    params(("worker" = WorkerId, Path, description = "The worker's id.")),
    responses((status = 200, body = Worker))
)]
pub(crate) async fn drain(
    State(gateway): State<Gateway>,
    At(id): At<WorkerId>,
    extract::Json(body): extract::Json<DrainWorker>,
) -> Result<Json<Worker>, Error> {
    let within = body.deadline_s.map(|s| Duration::from_secs(s.into()));
    Ok(Json(gateway.store().drain_worker(id, within, now()).await?))
}

/// Activate a worker
///
/// It starts VMs again. Asked again, it changes nothing.
#[utoipa::path(
    post, path = "/api/v1/workers/{worker}/activate", tag = "workers",
    params(("worker" = WorkerId, Path, description = "The worker's id.")),
    responses((status = 200, body = Worker))
)]
pub(crate) async fn activate(
    State(gateway): State<Gateway>,
    At(id): At<WorkerId>,
) -> Result<Json<Worker>, Error> {
    Ok(Json(gateway.store().activate_worker(id, now()).await?))
}
