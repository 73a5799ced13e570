//! The worker: the host process that owns the VMs of one machine.
//!
//! ```text
//!            tasks (queue)                         interactive work (Unix socket)
//!                 │                                         │
//!            handler.rs ───────────┐             ┌────── api.rs, execution.rs
//!                 │                ▼             ▼          │
//!           workspace.rs        vm/ one actor per VM        │
//!                 │                │  record, start, end    │
//!                 └────► run.rs ◄──┴────────────────────────┘
//!                          │ output, result
//!                       store, bus
//! ```
//! - `rejoin.rs` finds a run's command again, after a lost connection or the worker's own restart.
//! - `host.rs` is what all of them share; `layout.rs` knows the names of files.
//! - `reconcile.rs` runs before anything else: it takes over VMs that an earlier process of this
//!   worker left running and releases what cannot be taken over. Hence nothing a crash leaves is
//!   left for good.
//! - `build/` makes templates of recipes, in VMs of its own; a server need not run for that.
//! - `room.rs` waits for room where a workspace's VM does not fit.
//! - `hibernation.rs` keeps the memory of workspaces' VMs that were idle beside their disks.
//! - `volatile.rs` is where memory of VMs that were given secrets stands in clear on that way.
//! - `login/` logs assistants in, and carries their logins from VM to VM.
//! - `metrics.rs` is what operators watch.
//! - `heartbeat.rs` tells the rest of the system that this worker lives, and hears what it is to do;
//!   `lease.rs` ends everything when it has not been heard of in time; `housekeeping.rs` prunes, and
//!   has `reconcile.rs` look again every minute; `expiry.rs` ends VMs whose time is over.
//! - A VM's actor is the only writer of its state. Nobody here waits without a deadline.
//!
//! The worker must never answer anyone but its owner and, in a fleet, gateways that show a pass
//! (`remote.rs`).

mod api;
mod assistant;
mod build;
mod digest;
mod disk;
mod error;
mod execution;
mod expiry;
mod handler;
mod heartbeat;
mod hibernation;
mod host;
mod housekeeping;
mod journal;
mod layout;
mod lease;
mod login;
mod mcp;
mod metrics;
mod preparation;
mod prompt;
mod reconcile;
mod rejoin;
mod remote;
mod room;
mod run;
mod secrets;
mod tail;
mod tools;
mod vm;
mod volatile;
mod workspace;

pub use build::{BuildGround, BuildLog, StepReuse, build_template};
pub use error::WorkerError;
pub use host::{DEFAULT_MAX_VMS, Settings, SlotChoice, guest_net};
pub use layout::Layout;
pub use remote::Remote;
pub use vm::{
    GuestIdentity, ends_by, preview, probe_guest, write_guest_initrd, write_probe_initrd,
};

use aetherium_agent_client::AgentClient;
use aetherium_image::{BlankDisks, TemplateStore};
use aetherium_model::{Code, Fault, VmId, WorkerId, event::By, worker::WorkerState};
use aetherium_queue::{Bus, Consumer, Queue};
use aetherium_store::Store;
use aetherium_telemetry::Observed;
use aetherium_vmm::Chosen;
use disk::DiskClaims;
use handler::Handlers;
use heartbeat::{Described, Told};
use host::{Host, Registry};
use metrics::WorkerMetrics;
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use volatile::Volatile;

/// What a worker is made of.
pub struct Parts {
    /// Its files.
    pub layout: Layout,
    /// The truth of tasks, VMs and workspaces.
    pub store: Store,
    /// Wake-ups and notifications.
    pub bus: Bus,
    /// The driver, or why there is none: a worker without one still answers what it is asked.
    pub driver: Result<Chosen, Fault>,
    /// Where gateways on other machines reach it, if they shall.
    pub remote: Option<Remote>,
    /// Times and paths.
    pub settings: Settings,
}

/// A running worker. Stop it with [`Worker::drain`], or with [`Worker::leave`] where its VMs are to go on.
pub struct Worker {
    host: Arc<Host>,
    stop_consumer: CancellationToken,
    stop_serving: CancellationToken,
    fenced: CancellationToken,
    consumer: JoinHandle<()>,
    serving: Vec<JoinHandle<()>>,
}

impl Worker {
    /// Reconciles what an earlier process left, then begins to work.
    ///
    /// # Errors
    /// The data directory or the store cannot be used.
    pub async fn start(parts: Parts) -> Result<Self, WorkerError> {
        let Parts { layout, store, bus, driver, remote, settings } = parts;
        layout.check_room_for_sockets()?;
        let id = host::identity(&layout)?;
        let slots = host::open_slots(settings.slots, id, &driver).await;
        let address = remote
            .as_ref()
            .map_or_else(|| format!("unix:{}", layout.socket().display()), Remote::registered);
        let templates = TemplateStore::open(layout.templates())?;
        let described = Described {
            id,
            address: &address,
            root: layout.root(),
            driver: &driver,
            has_slots: slots.is_ok(),
            templates: &templates,
            settings: &settings,
            now: SystemTime::now().into(),
        };
        let tenure = lease::begin(&store, &heartbeat::describe(&described), settings.lease).await?;
        let host = Arc::new(Host {
            id,
            slots,
            templates,
            blanks: BlankDisks::open(layout.blanks())?,
            disks: DiskClaims::default(),
            hibernating: hibernation::Promises::default(),
            volatile: Volatile::open(&settings.volatile_dir, id),
            layout,
            queue: Queue::new(store.on_behalf_of(By::worker(id)).fenced(tenure.fence), bus),
            settings,
            vms: Registry::default(),
            logins: login::Logins::default(),
            metrics: WorkerMetrics::new(driver.as_ref().ok().map(|it| it.vmm.kind())),
            driver,
            tenure,
            told: Told::default(),
            draining: CancellationToken::new(),
            digests: digest::Digests::default(),
            learnt: tokio::sync::Mutex::new(HashSet::new()),
        });
        let (stop_consumer, stop_serving) = (CancellationToken::new(), CancellationToken::new());
        let fenced = CancellationToken::new();
        // A start that fails half way lets go of its lease.
        let failed = stop_serving.clone().drop_guard();
        let beating = tokio::spawn(heartbeat::keep(Arc::clone(&host), stop_serving.clone()));
        let fencing = lease::fence(Arc::clone(&host), stop_consumer.clone(), fenced.clone());
        let stopped = stop_serving.clone().cancelled_owned();
        let fencing = tokio::spawn(async move {
            tokio::select! { () = fencing => {} () = stopped => {} }
        });

        disk::sweep(&host.layout);
        let report = reconcile::reconcile(&host).await?;
        tracing::info!(worker = %host.id, ?report, "reconciled");
        host.queue.interrupt_logins(host.id, host.now()).await?;
        hibernation::sweep(&host).await?;
        build::sweep(&host).await?;
        let listener = api::bind(&host)?;
        host.queue
            .store()
            .set_worker_state(host.tenure.fence, WorkerState::Active, host.now())
            .await?;

        let mut serving = vec![
            beating,
            fencing,
            tokio::spawn(api::serve(Arc::clone(&host), listener, stop_serving.clone())),
            tokio::spawn(housekeeping::keep_house(Arc::clone(&host), stop_serving.clone())),
            tokio::spawn(expiry::end_expired(Arc::clone(&host), stop_serving.clone())),
        ];
        if let Some(remote) = remote {
            let served = remote::serve(Arc::clone(&host), remote, stop_serving.clone());
            serving.push(tokio::spawn(served));
        }
        let consumer = Consumer {
            store: host.queue.store().clone(),
            bus: host.queue.bus().clone(),
            worker_id: host.id,
            handler: Arc::new(Handlers { host: Arc::clone(&host) }),
            max_in_flight: host.settings.max_in_flight,
            grace: host.settings.drain_grace,
        };
        let consumer = tokio::spawn(consume(consumer, stop_consumer.clone()));
        failed.disarm();
        Ok(Self { host, stop_consumer, stop_serving, fenced, consumer, serving })
    }

    /// The worker's id.
    pub fn id(&self) -> WorkerId {
        self.host.id
    }

    /// This worker, for whoever watches it.
    pub fn watched(&self) -> impl Observed + use<> {
        metrics::Watched(Arc::clone(&self.host))
    }

    /// The agent of a VM that runs here, without the layers between: for benchmarks.
    ///
    /// # Errors
    /// Why the VM does not run.
    pub async fn agent(&self, vm: VmId) -> Result<AgentClient, Fault> {
        self.host.vms.get(vm)?.agent().await
    }

    /// Waits until the worker has lost its lease and none of its VMs is left. It works no more then: its
    /// process must begin anew.
    pub async fn fenced(&self) {
        self.fenced.cancelled().await;
    }

    /// Stops in order: takes no more tasks, gives running commands their grace, ends every VM.
    pub async fn drain(self) {
        let began = Instant::now();
        // Before anything is given back, which would be claimed again.
        self.stop_consumer.cancel();
        self.host.draining.cancel();
        self.host.logins.end().await;
        heartbeat::announce(&self.host, WorkerState::Draining).await;
        join("the task consumer", self.consumer).await;
        // Interactive commands have no task; they get what is left of the grace.
        self.host.vms.quiet(self.host.settings.drain_grace.saturating_sub(began.elapsed())).await;
        let reason = Fault::new(Code::Drained, "the worker was told to stop");
        self.host.vms.stop_all(&reason).await;
        if let Ok(slots) = &self.host.slots
            && let Err(error) = slots.clone().close().await
        {
            tracing::warn!(%error, "the host's rules for VMs' networks are left");
        }
        self.host.volatile.close();
        self.stop_serving.cancel();
        for task in self.serving {
            join("a serving task", task).await;
        }
        heartbeat::announce(&self.host, WorkerState::Stopped).await;
    }

    /// Stops where it stands, as if its process were killed: nothing is ended, given back or announced.
    /// VMs that outlive this process go on for the worker's next one, which also finds the tasks that were
    /// in hand. What has not stopped after `at_most` is cut off.
    pub async fn leave(self, at_most: Duration) {
        let deadline = tokio::time::Instant::now() + at_most;
        self.stop_serving.cancel();
        // Before the VMs' actors go, whose handlers would take it for the VMs' end. They go with it.
        cut_off(self.consumer).await;
        self.host.draining.cancel();
        for mut task in self.serving {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                cut_off(task).await;
            }
        }
        let rest = async {
            self.host.logins.end().await;
            self.host.vms.leave().await;
        };
        if tokio::time::timeout_at(deadline, rest).await.is_err() {
            tracing::warn!(worker = %self.host.id, "it is left with tasks that do not end");
        }
    }
}

async fn cut_off(task: JoinHandle<()>) {
    task.abort();
    // It has ended, of itself or so.
    let _ = task.await;
}

async fn consume(consumer: Consumer, stop: CancellationToken) {
    if let Err(error) = consumer.run(stop).await {
        tracing::error!(%error, "the task consumer ended");
    }
}

async fn join(what: &str, task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(%error, "{what} did not end well");
    }
}
