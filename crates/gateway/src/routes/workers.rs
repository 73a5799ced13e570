//! Workers: read-only. A worker's row says what it said; its state is judged as of now.

use crate::{
    Error, Gateway,
    api::ListQuery,
    extract::{At, Query, page},
    gateway::now,
};
use aetherium_model::{WorkerId, page::Page, worker::Worker};
use axum::{Json, extract::State};

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
    let mut workers = gateway.store().workers(&page(query.limit, query.cursor)?).await?;
    workers.items.iter_mut().for_each(judge);
    Ok(Json(workers))
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
    let mut worker = gateway.store().worker(id).await?;
    judge(&mut worker);
    Ok(Json(worker))
}

fn judge(worker: &mut Worker) {
    worker.state = worker.state_at(now());
}
