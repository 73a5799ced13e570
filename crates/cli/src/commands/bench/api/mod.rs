//! The accept path: how soon a handler begins with a prompt that was accepted, and how many prompts a
//! gateway accepts beside a bare loop of inserts into the same database.
//!
//! Gateway, store, queue and delivery loop are those of every server; only the handler is the
//! benchmark's own, and ends each prompt at once.

mod accept;
mod dispatch;

use super::{
    Figure,
    database::Database,
    front::{Carrier, Front},
};
use crate::{
    args::ApiBenchArgs,
    error::{CliError, local},
};
use aetherium_model::{
    Fault, Timestamp, WorkerId, WorkspaceId,
    placement::Placement,
    resources::Resources,
    task::{Task, TaskKind},
    tuning::Tuning,
    vm::VmSpec,
    workspace::{Lifecycle, Workspace, WorkspaceState},
};
use aetherium_queue::{Bus, Queue};
use aetherium_store::Store;
use std::time::SystemTime;

/// Workspaces whose prompts come in turn: enough that hardly any has to wait for the one before.
const WORKSPACES: usize = 64;

pub(super) async fn api(wanted: &ApiBenchArgs) -> Result<Vec<Figure>, CliError> {
    let dir = tempfile::tempdir().map_err(|error| local("a temporary directory", error))?;
    let database = Database::make(wanted.store.database.as_deref(), dir.path()).await?;
    let measured = measure(wanted, &database).await;
    database.remove().await?;
    measured
}

async fn measure(wanted: &ApiBenchArgs, database: &Database) -> Result<Vec<Figure>, CliError> {
    let carrier = Carrier::named(wanted.store.redis.as_deref(), Bus::in_process());
    // One thread: what it does in a second is what one core does.
    let front = Front::open(database.url(), carrier.clone(), None, 1).await?;
    let bus = carrier.bus()?;
    let url = database.url().parse().map_err(Fault::from)?;
    let queue = Queue::new(Box::pin(Store::open(&url)).await.map_err(Fault::from)?, bus);
    let ground = Ground { front, queue };
    let mut figures = dispatch::dispatch(&ground, wanted, database.is_postgres()).await?;
    figures.extend(accept::accept(&ground, wanted, database).await?);
    ground.front.close().await;
    ground.queue.store().close().await;
    Ok(figures)
}

/// What both parts stand on.
struct Ground {
    front: Front,
    queue: Queue,
}

impl Ground {
    /// Workspaces of a worker, and where their prompts are sent.
    async fn workspaces(&self, worker_id: WorkerId) -> Result<Vec<String>, CliError> {
        let mut paths = Vec::with_capacity(WORKSPACES);
        for _ in 0..WORKSPACES {
            let workspace = workspace(worker_id)?;
            let kind = TaskKind::WorkspaceCreate { workspace_id: workspace.id };
            let made = self
                .queue
                .create_workspace(&workspace, &Task::new(worker_id, kind, now()), None)
                .await;
            made.map_err(Fault::from)?;
            paths.push(format!("/workspaces/{}/prompts", workspace.id));
        }
        Ok(paths)
    }
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

fn workspace(worker_id: WorkerId) -> Result<Workspace, CliError> {
    let (id, now) = (WorkspaceId::new(), now());
    let name = format!("bench-{}", id.to_string().rsplit('_').next().unwrap_or_default());
    Ok(Workspace {
        id,
        name: name.parse().map_err(Fault::internal)?,
        ai_assistant: Default::default(),
        environment: None,
        setup: Default::default(),
        preparation: Default::default(),
        session: None,
        spec: VmSpec {
            template: "default".parse().map_err(Fault::internal)?,
            template_digest: None,
            resources: Resources::default(),
            tuning: Tuning::default(),
            network: Default::default(),
            transport: None,
            snapshot: None,
            snapshots: None,
        },
        worker_id,
        lifecycle: Lifecycle::Stopped,
        placement: Placement::default(),
        when_full: None,
        secrets: Default::default(),
        idle_timeout_s: 0,
        idle_action: Default::default(),
        state: WorkspaceState::Creating,
        created_at: now,
        updated_at: now,
    })
}
