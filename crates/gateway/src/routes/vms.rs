//! VMs: made and ended by tasks; their commands, consoles and shells.

use crate::{
    Error, Gateway,
    api::{Accepted, ConsoleQuery, CreateVm, Execute, ListQuery, SetTtl, VmQuery},
    auth::Acting,
    edge::RequestId,
    extract::{At, IdempotencyKey, Json, Query, WorkspaceRef, page},
    fleet::{self, Takes, Wanted},
    gateway::now,
    routes::{links, workspaces},
    tunnel,
    worker_client::Freeze,
};
use aetherium_model::{
    Code, ExecutionId, Fault, VmId, WorkerId,
    interactive::Captured,
    metrics::VmMetrics,
    page::Page,
    placement::WhenFull,
    run::{Execution, RunState},
    task::{Task, TaskKind},
    tuning::Tuning,
    vm::{ChangeVm, TakeSnapshot, Vm, VmSpec, VmState},
};
use aetherium_store::VmFilter;
use axum::{
    Extension,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use std::time::Duration;

/// Create a VM
///
/// Answers as soon as the VM is recorded; its state tells how its start goes. It belongs to no
/// workspace and runs until it is deleted.
#[utoipa::path(
    post, path = "/api/v1/vms", tag = "vms", request_body = CreateVm,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes the request safe to repeat for a day.")),
    responses((status = 202, body = Accepted<Vm>))
)]
pub(crate) async fn create(
    Acting(gateway): Acting,
    key: IdempotencyKey,
    Json(body): Json<CreateVm>,
) -> Result<(StatusCode, axum::Json<Accepted<Vm>>), Error> {
    let key = key.bind(&body)?;
    let tuning = body.tuning();
    let wanted = Wanted {
        template: body.template,
        vcpus: body.vcpus,
        memory_mib: body.memory_mib,
        disk_mib: body.disk_mib,
        tuning,
        network: body.network,
        transport: body.transport,
        snapshot: body.snapshot,
        snapshots: body.snapshots,
        placement: body.placement,
        when_full: body.when_full.unwrap_or(WhenFull::Fail),
        takes: Takes::Vm,
    };
    let (created, task) = fleet::place(&gateway, wanted, |worker, spec| {
        let vm = new_vm(worker, spec, body.ttl_s);
        let task = fleet::task(worker, TaskKind::VmCreate { vm_id: vm.id });
        let (queue, key) = (gateway.queue().clone(), key.clone());
        async move { Ok((queue.create_vm(&vm, &task, key.as_ref()).await?, task)) }
    })
    .await?;
    let task = created.is_new().then_some(task.id);
    let vm = created.into_inner();
    let own = format!("/api/v1/vms/{}", vm.id);
    let links = links(&own, task, &["console", "execute", "exec", "executions", "metrics"]);
    Ok((StatusCode::ACCEPTED, axum::Json(Accepted { item: vm, links })))
}

fn new_vm(worker_id: WorkerId, spec: VmSpec, ttl_s: Option<u32>) -> Vm {
    let now = now();
    Vm {
        id: VmId::new(),
        spec,
        worker_id,
        workspace_id: None,
        state: VmState::Creating,
        driver: None,
        accelerator: None,
        agent_transport: None,
        virtio_transport: None,
        address: None,
        timings: None,
        expires_at: ttl_s.map(|s| now.after(Duration::from_secs(s.into()))),
        created_at: now,
        updated_at: now,
    }
}

/// List VMs
///
/// Newest first, those that ended included.
#[utoipa::path(
    get, path = "/api/v1/vms", tag = "vms", params(VmQuery),
    responses((status = 200, body = Page<Vm>))
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Query(query): Query<VmQuery>,
) -> Result<axum::Json<Page<Vm>>, Error> {
    let workspace_id = match query.workspace {
        None => None,
        Some(text) => {
            let given: WorkspaceRef = text.parse().map_err(|e| Error::field("workspace", e))?;
            Some(workspaces::find(&gateway, given).await?.id)
        }
    };
    let filter = VmFilter { workspace_id, live_only: query.live.unwrap_or(false) };
    let page = page(query.limit, query.cursor)?;
    Ok(axum::Json(gateway.store().vms(filter, &page).await?))
}

/// Get a VM
#[utoipa::path(
    get, path = "/api/v1/vms/{vm}", tag = "vms",
    params(("vm" = VmId, Path, description = "The VM's id.")),
    responses((status = 200, body = Vm))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    At(id): At<VmId>,
) -> Result<axum::Json<Vm>, Error> {
    Ok(axum::Json(gateway.store().vm(id).await?))
}

/// Delete a VM
///
/// Ends it and removes what it took; its record stays. Asked again, answers with the same task.
#[utoipa::path(
    delete, path = "/api/v1/vms/{vm}", tag = "vms",
    params(("vm" = VmId, Path, description = "The VM's id.")),
    responses((status = 202, body = Task))
)]
pub(crate) async fn delete(
    Acting(gateway): Acting,
    At(id): At<VmId>,
) -> Result<(StatusCode, axum::Json<Task>), Error> {
    let vm = gateway.store().vm(id).await?;
    let task = fleet::task(vm.worker_id, TaskKind::VmDelete { vm_id: id });
    let task = gateway.queue().request_vm_delete(id, &task).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(task)))
}

/// Give a VM another time to live
///
/// Counted from now; without one it lives as long as it likes. Once its time is over nothing can be
/// changed about that.
#[utoipa::path(
    post, path = "/api/v1/vms/{vm}/ttl", tag = "vms", request_body = SetTtl,
    params(("vm" = VmId, Path, description = "The VM's id.")),
    responses((status = 200, body = Vm))
)]
pub(crate) async fn ttl(
    Acting(gateway): Acting,
    At(id): At<VmId>,
    Json(body): Json<SetTtl>,
) -> Result<axum::Json<Vm>, Error> {
    let now = now();
    let expires_at = body.ttl_s.map(|s| now.after(Duration::from_secs(s.into())));
    Ok(axum::Json(gateway.store().set_vm_expiry(id, expires_at, now).await?))
}

/// Take a snapshot of a VM
///
/// Writes its memory, its devices and its disk on its worker, from which other VMs can start. The VM
/// stands still meanwhile, and loses its connections over vsock.
#[utoipa::path(
    post, path = "/api/v1/vms/{vm}/snapshot", tag = "vms", request_body = TakeSnapshot,
    params(("vm" = VmId, Path, description = "The VM's id.")),
    responses((status = 200, body = Vm))
)]
pub(crate) async fn snapshot(
    State(gateway): State<Gateway>,
    At(id): At<VmId>,
    Json(body): Json<TakeSnapshot>,
) -> Result<axum::Json<Vm>, Error> {
    let vm = gateway.store().vm(id).await?;
    refuse_if_ended(&vm)?;
    let worker = fleet::owner(&gateway, &vm).await?;
    Ok(axum::Json(gateway.workers().snapshot(&worker, id, &body).await?))
}

/// Change a VM
///
/// Changes, while it goes on, how much of its memory it goes without and what its I/O is held to. What
/// is absent stays as it is; a limit of 0 is lifted. What its driver cannot change is a conflict.
#[utoipa::path(
    patch, path = "/api/v1/vms/{vm}", tag = "vms", request_body = ChangeVm,
    params(("vm" = VmId, Path, description = "The VM's id.")),
    responses((status = 200, body = Vm))
)]
pub(crate) async fn change(
    State(gateway): State<Gateway>,
    At(id): At<VmId>,
    Json(body): Json<ChangeVm>,
) -> Result<axum::Json<Vm>, Error> {
    let vm = gateway.store().vm(id).await?;
    refuse_if_ended(&vm)?;
    let wanted = Tuning { balloon_mib: body.balloon_mib, ..Tuning::default() };
    wanted.check(vm.spec.resources.memory_mib).map_err(fleet::misfit)?;
    let worker = fleet::owner(&gateway, &vm).await?;
    Ok(axum::Json(gateway.workers().change(&worker, id, &body).await?))
}

/// Read a VM's metrics
///
/// What it uses now: what its VMM costs the host, what its VMM counts, and what its guest says of
/// itself. Parts that nobody can tell are absent.
#[utoipa::path(
    get, path = "/api/v1/vms/{vm}/metrics", tag = "vms",
    params(("vm" = VmId, Path, description = "The VM's id.")),
    responses((status = 200, body = VmMetrics))
)]
pub(crate) async fn metrics(
    State(gateway): State<Gateway>,
    At(id): At<VmId>,
) -> Result<axum::Json<VmMetrics>, Error> {
    let vm = gateway.store().vm(id).await?;
    refuse_if_ended(&vm)?;
    let worker = fleet::owner(&gateway, &vm).await?;
    Ok(axum::Json(gateway.workers().metrics(&worker, id).await?))
}

/// Pause a VM
///
/// Stops its CPUs and keeps its memory; its commands stand still, and their timeouts with them. Asked
/// again, it changes nothing.
#[utoipa::path(
    post, path = "/api/v1/vms/{vm}/pause", tag = "vms",
    params(("vm" = VmId, Path, description = "The VM's id.")),
    responses((status = 200, body = Vm))
)]
pub(crate) async fn pause(
    State(gateway): State<Gateway>,
    At(id): At<VmId>,
) -> Result<axum::Json<Vm>, Error> {
    freeze(&gateway, id, Freeze::Pause).await
}

/// Resume a VM
///
/// Lets a paused VM go on, and answers once its agent does. Asked again, it changes nothing.
#[utoipa::path(
    post, path = "/api/v1/vms/{vm}/resume", tag = "vms",
    params(("vm" = VmId, Path, description = "The VM's id.")),
    responses((status = 200, body = Vm))
)]
pub(crate) async fn resume(
    State(gateway): State<Gateway>,
    At(id): At<VmId>,
) -> Result<axum::Json<Vm>, Error> {
    freeze(&gateway, id, Freeze::Resume).await
}

async fn freeze(gateway: &Gateway, id: VmId, how: Freeze) -> Result<axum::Json<Vm>, Error> {
    let vm = gateway.store().vm(id).await?;
    refuse_if_ended(&vm)?;
    let worker = fleet::owner(gateway, &vm).await?;
    Ok(axum::Json(gateway.workers().freeze(&worker, id, how).await?))
}

/// Run a command in a VM
///
/// Waits for its end and answers 200 with what it wrote; with `async` it is queued, and the answer
/// is 202 with the execution. A command that exits non-zero is a result, not a problem.
#[utoipa::path(
    post, path = "/api/v1/vms/{vm}/execute", tag = "executions", request_body = Execute,
    params(
        ("vm" = VmId, Path, description = "The VM's id."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes the request safe to repeat for a day. Only with `async`."),
    ),
    responses((status = 200, body = Captured), (status = 202, body = Accepted<Execution>))
)]
pub(crate) async fn execute(
    Acting(gateway): Acting,
    At(id): At<VmId>,
    key: IdempotencyKey,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Json(body): Json<Execute>,
) -> Result<Response, Error> {
    let vm = gateway.store().vm(id).await?;
    refuse_if_ended(&vm)?;
    if body.detached {
        return Ok(queue(&gateway, &vm, key, &body).await?.into_response());
    }
    key.refuse(
        "is honoured only with \"async\": true: a command that is waited for is not queued",
    )?;
    let worker = fleet::owner(&gateway, &vm).await?;
    let captured = gateway.workers().execute(&worker, id, &body.command(), &request_id).await?;
    Ok(axum::Json(captured).into_response())
}

async fn queue(
    gateway: &Gateway,
    vm: &Vm,
    key: IdempotencyKey,
    body: &Execute,
) -> Result<(StatusCode, axum::Json<Accepted<Execution>>), Error> {
    let key = key.bind(body)?;
    let execution = Execution {
        id: ExecutionId::new(),
        vm_id: vm.id,
        command: body.command(),
        state: RunState::Queued,
        created_at: now(),
        started_at: None,
        finished_at: None,
    };
    let kind = TaskKind::VmExecute { vm_id: vm.id, execution_id: execution.id };
    let task = fleet::task(vm.worker_id, kind).scheduled(body.schedule);
    let created = gateway.queue().create_execution(&execution, Some(&task), key.as_ref()).await?;
    let task = created.is_new().then_some(task.id);
    let execution = created.into_inner();
    let own = format!("/api/v1/executions/{}", execution.id);
    let links = links(&own, task, &["events", "output"]);
    Ok((StatusCode::ACCEPTED, axum::Json(Accepted { item: execution, links })))
}

/// List a VM's executions
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/vms/{vm}/executions", tag = "executions",
    params(("vm" = VmId, Path, description = "The VM's id."), ListQuery),
    responses((status = 200, body = Page<Execution>))
)]
pub(crate) async fn executions(
    State(gateway): State<Gateway>,
    At(id): At<VmId>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<Execution>>, Error> {
    let vm = gateway.store().vm(id).await?;
    let page = page(query.limit, query.cursor)?;
    Ok(axum::Json(gateway.store().executions(vm.id, &page).await?))
}

/// Read a VM's console
///
/// What the guest's kernel and init wrote, as bytes; also of a VM that has ended.
#[utoipa::path(
    get, path = "/api/v1/vms/{vm}/console", tag = "vms",
    params(("vm" = VmId, Path, description = "The VM's id."), ConsoleQuery),
    responses((status = 200, body = String, content_type = "text/plain"))
)]
pub(crate) async fn console(
    State(gateway): State<Gateway>,
    At(id): At<VmId>,
    Query(query): Query<ConsoleQuery>,
) -> Result<Response, Error> {
    let vm = gateway.store().vm(id).await?;
    let worker = fleet::owner(&gateway, &vm).await?;
    let bytes = gateway.workers().console(&worker, id, query.tail_bytes).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], bytes).into_response())
}

/// Run a command interactively
///
/// A WebSocket. The first text frame is `Open`; then binary frames carry the streams, the first
/// byte saying which: 0 standard input, 1 standard output, 2 standard error. Text frames carry
/// `ClientFrame` and `ServerFrame`. A client that goes away ends the command.
#[utoipa::path(
    get, path = "/api/v1/vms/{vm}/exec", tag = "executions",
    params(("vm" = VmId, Path, description = "The VM's id.")),
    responses((status = 101, description = "Switched to WebSocket"))
)]
pub(crate) async fn exec(
    State(gateway): State<Gateway>,
    At(id): At<VmId>,
    request: Request,
) -> Result<Response, Error> {
    let vm = gateway.store().vm(id).await?;
    refuse_if_ended(&vm)?;
    let worker = fleet::owner(&gateway, &vm).await?;
    tunnel::join(&gateway, &worker, &format!("/internal/v1/vms/{id}/exec"), request).await
}

/// A VM that has ended runs nothing, and its worker may have forgotten it.
fn refuse_if_ended(vm: &Vm) -> Result<(), Error> {
    match vm.state.termination().filter(|_| vm.state.is_terminal()) {
        None => Ok(()),
        Some(why) => {
            let detail = format!("VM {} is {}: {}", vm.id, vm.state.as_str(), why.detail);
            Err(Fault::new(Code::VmGone, detail).remedy("create another VM").into())
        }
    }
}
