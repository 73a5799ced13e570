//! A worker's internal API, answered by the test: it notes what it is asked, and says what it is told.

use aetherium_model::{
    ExecutionId, Fault, TemplateRef, VmId, WorkerId, WorkspaceId,
    disk::WorkspaceDisk,
    finding::Finding,
    interactive::Captured,
    metrics::VmMetrics,
    resources::{DiskMib, MemoryMib, Resources, Vcpus},
    run::Command,
    template::{Initramfs, Kernel, KernelFormat, RootFilesystem, Template, TemplateFile},
    tuning::{IoLimits, Tuning},
    vm::Vm,
    workspace::Workspace,
};
use axum::{
    Json, Router,
    extract::{Path as Id, Query, State, WebSocketUpgrade, ws::Message},
    response::{IntoResponse, Response},
    routing::{delete, get, patch, post},
};
use http::{HeaderMap, StatusCode, header};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{net::UnixListener, sync::Notify, task::JoinHandle};

pub(crate) struct FakeWorker {
    pub(crate) socket: PathBuf,
    pub(crate) seen: Arc<Seen>,
    serving: JoinHandle<()>,
}

/// What it was asked, and what it is to answer.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicUsize,
    pub(crate) commands: Mutex<Vec<Command>>,
    pub(crate) headers: Mutex<HeaderMap>,
    pub(crate) findings: Mutex<Vec<Finding>>,
    /// Answered instead of whatever else, if set.
    pub(crate) refusal: Mutex<Option<(StatusCode, Fault)>>,
    /// Whether requests for consoles stay unanswered.
    pub(crate) stalls: Mutex<bool>,
    /// Told when a WebSocket's client went away.
    pub(crate) client_gone: Notify,
}

/// Counts connections as they are accepted.
struct Counted(UnixListener, Arc<Seen>);

impl axum::serve::Listener for Counted {
    type Io = tokio::net::UnixStream;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let accepted = axum::serve::Listener::accept(&mut self.0).await;
        self.1.connections.fetch_add(1, Ordering::SeqCst);
        accepted
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

impl FakeWorker {
    pub(crate) fn start(socket: &Path) -> Self {
        let seen = Arc::new(Seen::default());
        let listener = Counted(UnixListener::bind(socket).unwrap(), Arc::clone(&seen));
        let router = Router::new()
            .route("/internal/v1/vms/{vm}", patch(changed))
            .route("/internal/v1/vms/{vm}/metrics", get(metrics))
            .route("/internal/v1/vms/{vm}/execute", post(execute))
            .route("/internal/v1/vms/{vm}/exec", get(exec))
            .route("/internal/v1/vms/{vm}/console", get(console))
            .route("/internal/v1/vms/{vm}/pause", post(changed))
            .route("/internal/v1/vms/{vm}/resume", post(changed))
            .route("/internal/v1/vms/{vm}/snapshot", post(changed))
            .route("/internal/v1/workspaces/{workspace}/hibernate", post(rested))
            .route("/internal/v1/workspaces/{workspace}/wake", post(rested))
            .route("/internal/v1/workspaces/{workspace}/execute", post(execute))
            .route("/internal/v1/workspaces/{workspace}/disk", get(disk))
            .route("/internal/v1/workspaces/{workspace}/disk/export", get(archive))
            .route("/internal/v1/workspaces/{workspace}/disk/grow", post(disk))
            .route("/internal/v1/workspaces/{workspace}/disk/snapshots", post(disk))
            .route("/internal/v1/workspaces/{workspace}/disk/snapshots/{name}", delete(disk))
            .route("/internal/v1/workspaces/{workspace}/disk/snapshots/{name}/restore", post(disk))
            .route("/internal/v1/templates", get(async || Json([template("default")])))
            .route("/internal/v1/templates/{name}", get(held_template).delete(remove_template))
            .route("/internal/v1/health", get(health))
            .with_state(Arc::clone(&seen));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { socket: socket.to_owned(), seen, serving }
    }

    pub(crate) fn refuse(&self, status: StatusCode, fault: Fault) {
        *self.seen.refusal.lock().unwrap() = Some((status, fault));
    }

    /// The worker is gone, its socket left behind.
    pub(crate) async fn kill(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }
}

type Shared = State<Arc<Seen>>;

fn refusal(seen: &Seen) -> Option<Response> {
    let refusal = seen.refusal.lock().unwrap().clone();
    refusal.map(|(status, fault)| (status, Json(fault)).into_response())
}

/// A VM after something was done to it.
async fn changed(Id(id): Id<VmId>) -> Json<Vm> {
    Json(Vm { id, ..crate::server::creating_vm(WorkerId::new()) })
}

/// A workspace after its VM was put to sleep, or woken.
async fn rested(Id(id): Id<WorkspaceId>) -> Json<Workspace> {
    Json(Workspace { id, ..crate::server::ready_workspace("rested", WorkerId::new()) })
}

async fn disk(State(seen): Shared) -> Response {
    let disk = WorkspaceDisk {
        workspace_id: WorkspaceId::new(),
        size_mib: DiskMib::try_from(4096).unwrap(),
        used_bytes: 1 << 20,
        vm_id: None,
        hibernation_bytes: 0,
        snapshots: Vec::new(),
    };
    refusal(&seen).unwrap_or_else(|| Json(disk).into_response())
}

async fn archive(State(seen): Shared) -> Response {
    let archive = ([(header::CONTENT_TYPE, "application/x-tar")], vec![7; 300_000]);
    refusal(&seen).unwrap_or_else(|| archive.into_response())
}

async fn metrics() -> Json<VmMetrics> {
    Json(VmMetrics {
        taken_at: aetherium_model::Timestamp::from_millis(0),
        host: Default::default(),
        vmm: Default::default(),
        guest: None,
    })
}

async fn execute(State(seen): Shared, Json(command): Json<Command>) -> Response {
    seen.commands.lock().unwrap().push(command.clone());
    if let Some(refusal) = refusal(&seen) {
        return refusal;
    }
    let stdout = command.argv.join(" ");
    let execution_id = ExecutionId::new();
    let result = crate::server::report(3);
    let captured =
        Captured { execution_id, result, stdout, stderr: String::new(), truncated: false };
    Json(captured).into_response()
}

/// Echoes frames; the text `close` makes it end the connection.
async fn exec(State(seen): Shared, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    *seen.headers.lock().unwrap() = headers;
    if let Some(refusal) = refusal(&seen) {
        return refusal;
    }
    upgrade.protocols(["aetherium"]).on_upgrade(async move |mut socket| {
        while let Some(Ok(message)) = socket.recv().await {
            if message == Message::text("close") {
                return;
            }
            if matches!(message, Message::Text(_) | Message::Binary(_))
                && socket.send(message).await.is_err()
            {
                break;
            }
        }
        seen.client_gone.notify_one();
    })
}

async fn console(State(seen): Shared, Query(query): Query<HashMap<String, usize>>) -> Response {
    if *seen.stalls.lock().unwrap() {
        std::future::pending::<()>().await;
    }
    let whole = b"Linux version 6\nwelcome\xff\n".to_vec();
    let from = query.get("tail_bytes").map_or(0, |tail| whole.len().saturating_sub(*tail));
    whole[from..].to_vec().into_response()
}

/// As a worker answers for a tag or a digest: the name is not what tells it.
async fn held_template(Id(wanted): Id<TemplateRef>) -> Json<Template> {
    Json(template(wanted.name.as_str()))
}

async fn remove_template(Id(name): Id<String>) -> Json<Template> {
    Json(template(&name))
}

async fn health(State(seen): Shared) -> Json<Vec<Finding>> {
    Json(seen.findings.lock().unwrap().clone())
}

/// A template whose defaults differ from those of a VM without one.
pub(crate) fn template(name: &str) -> Template {
    let file = |file: &str| TemplateFile { file: file.into(), sha256: "0".repeat(64), size: 1 };
    Template {
        format: 1,
        name: name.parse().unwrap(),
        digest: "0".repeat(64),
        kernel: Kernel {
            image: file("vmlinuz"),
            release: "6".into(),
            format: KernelFormat::BzImage,
            extra_args: vec![],
            cpu_template: None,
            transport: None,
            elf: None,
            needs_bytes: None,
            config: None,
        },
        initramfs: Initramfs {
            image: file("initramfs"),
            modules: vec![],
            agent_version: "0".into(),
            agent_sha256: "0".repeat(64),
        },
        rootfs: RootFilesystem {
            image: file("rootfs"),
            uuid: "u".into(),
            fstype: "ext4".into(),
            origin: "test".into(),
        },
        defaults: Resources {
            vcpus: Vcpus::try_from(2).unwrap(),
            memory_mib: MemoryMib::try_from(333).unwrap(),
            disk_mib: DiskMib::try_from(4444).unwrap(),
        },
        tuning: Tuning {
            limits: IoLimits {
                net_rx_bytes_per_s: Some("2M".parse().unwrap()),
                ..IoLimits::default()
            },
            ..Tuning::default()
        },
        snapshots: None,
        image: None,
        start: None,
        ready: None,
        init: None,
        created_at: aetherium_model::Timestamp::from_millis(0),
    }
}
