//! What operators see of a worker: its tasks, its VMs, and whether it is heard of.
//!
//! The VMs' states are read from their actors when somebody asks; a VM costs nothing between.

use crate::host::Host;
use aetherium_model::{
    Fault, Timestamp,
    finding::Finding,
    resources::DriverKind,
    run::RunState,
    task::{Task, TaskKind},
    vm::{AgentTransport, SnapshotKind, VmState},
    worker::HEARTBEAT,
};
use aetherium_queue::Outcome;
use aetherium_store::RunRef;
use aetherium_telemetry::{Observed, seconds};
use async_trait::async_trait;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use serde::{Deserialize, Serialize};
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transport {
    transport: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Start {
    driver: &'static str,
    origin: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// What a VM was started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StartedFrom {
    /// A template's kernel.
    #[default]
    Kernel,
    /// A snapshot, or the memory of a hibernated VM.
    Snapshot,
}

impl StartedFrom {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Snapshot => "snapshot",
        }
    }
}

/// The metrics of one worker.
pub(crate) struct WorkerMetrics {
    claimed: Family<Kind, Counter>,
    in_progress: Gauge,
    waiting_for_room: Gauge,
    dispatch: Histograms<Kind>,
    finished: Family<Ended, Counter>,
    took: Histograms<Kind>,
    runs: Family<Ended, Counter>,
    vms: Family<State, Gauge>,
    agents: Family<Transport, Gauge>,
    boots: Histograms<Start>,
    starts: Histograms<Start>,
    ends: Family<Reason, Counter>,
    snapshots: Histograms<Kind>,
    snapshots_failed: Family<Kind, Counter>,
    heartbeat_age: Gauge<f64, AtomicU64>,
    /// Milliseconds since the epoch, as of the last heartbeat that was written.
    heartbeat_at: AtomicI64,
}

impl WorkerMetrics {
    pub(crate) fn new(driver: Option<DriverKind>) -> Self {
        let metrics = Self {
            claimed: Family::default(),
            in_progress: Gauge::default(),
            waiting_for_room: Gauge::default(),
            dispatch: Family::new_with_constructor(seconds),
            finished: Family::default(),
            took: Family::new_with_constructor(seconds),
            runs: Family::default(),
            vms: Family::default(),
            agents: Family::default(),
            boots: Family::new_with_constructor(seconds),
            starts: Family::new_with_constructor(seconds),
            ends: Family::default(),
            snapshots: Family::new_with_constructor(seconds),
            snapshots_failed: Family::default(),
            heartbeat_age: Gauge::default(),
            heartbeat_at: AtomicI64::new(0),
        };
        metrics.begin_at_nothing(driver);
        metrics
    }

    /// A rate needs a value before the first event, and an alert a metric that is there.
    fn begin_at_nothing(&self, driver: Option<DriverKind>) {
        for kind in TaskKind::NAMES {
            let _ = self.claimed.get_or_create(&Kind { kind });
            let _ = self.dispatch.get_or_create(&Kind { kind });
            let _ = self.took.get_or_create(&Kind { kind });
            for outcome in ["done", "failed", "retried", "cancelled", "abandoned"] {
                let _ = self.finished.get_or_create(&Ended { kind, outcome });
            }
        }
        for kind in ["prompt", "execution"] {
            for outcome in ["completed", "failed", "interrupted", "cancelled"] {
                let _ = self.runs.get_or_create(&Ended { kind, outcome });
            }
        }
        for kind in [SnapshotKind::Full, SnapshotKind::Diff].map(SnapshotKind::as_str) {
            let _ = self.snapshots.get_or_create(&Kind { kind });
            let _ = self.snapshots_failed.get_or_create(&Kind { kind });
        }
        for from in [StartedFrom::Kernel, StartedFrom::Snapshot] {
            let Some(driver) = driver.map(DriverKind::as_str) else { continue };
            let start = Start { driver, origin: from.as_str() };
            let _ = self.boots.get_or_create(&start);
            let _ = self.starts.get_or_create(&start);
        }
        let _ = self.ends.get_or_create(&Reason { reason: "requested" });
    }

    /// Counts a task that was claimed and now begins.
    pub(crate) fn begin_task(&self, task: &Task, now: Timestamp) -> TaskBegun<'_> {
        let kind = task.kind.as_str();
        self.claimed.get_or_create(&Kind { kind }).inc();
        self.in_progress.inc();
        // Later attempts were waiting for something else than a worker.
        if task.attempts == 1 {
            let waited = now.since(task.created_at).as_secs_f64();
            self.dispatch.get_or_create(&Kind { kind }).observe(waited);
        }
        TaskBegun { metrics: self, kind, began: Instant::now(), outcome: "abandoned" }
    }

    /// Counts a workspace that waits for room, until the guard is dropped.
    pub(crate) fn waits_for_room(&self) -> Waits<'_> {
        self.waiting_for_room.inc();
        Waits(self)
    }

    /// How many workspaces wait for room.
    pub(crate) fn waiting_for_room(&self) -> u32 {
        u32::try_from(self.waiting_for_room.get()).unwrap_or_default()
    }

    /// Counts a prompt or execution that ended.
    pub(crate) fn run_ended(&self, run: RunRef, end: &RunState) {
        let kind = match run {
            RunRef::Prompt(_) => "prompt",
            RunRef::Execution(_) => "execution",
            // Counted as a task.
            RunRef::Task(_) => return,
        };
        self.runs.get_or_create(&Ended { kind, outcome: end.as_str() }).inc();
    }

    /// Counts a VM that was started: what its VMM and guest took, and what all of it did.
    pub(crate) fn started(
        &self,
        driver: DriverKind,
        from: StartedFrom,
        boot: Duration,
        whole: Duration,
    ) {
        let start = Start { driver: driver.as_str(), origin: from.as_str() };
        self.boots.get_or_create(&start).observe(boot.as_secs_f64());
        self.starts.get_or_create(&start).observe(whole.as_secs_f64());
    }

    /// Counts a VM that ended, or never began.
    pub(crate) fn ended(&self, why: &Fault) {
        self.ends.get_or_create(&Reason { reason: why.code.as_str() }).inc();
    }

    /// Counts a snapshot.
    pub(crate) fn snapshot(&self, kind: SnapshotKind, took: Duration, done: bool) {
        let kind = Kind { kind: kind.as_str() };
        match done {
            true => self.snapshots.get_or_create(&kind).observe(took.as_secs_f64()),
            false => drop(self.snapshots_failed.get_or_create(&kind).inc()),
        }
    }

    /// Notes a heartbeat that was written.
    pub(crate) fn heard_of(&self, at: Timestamp) {
        self.heartbeat_at.store(at.as_millis(), Ordering::Relaxed);
    }

    fn silent_for(&self, now: Timestamp) -> Duration {
        now.since(Timestamp::from_millis(self.heartbeat_at.load(Ordering::Relaxed)))
    }
}

/// A task in a handler's hands; one that is dropped without an outcome counts as abandoned.
pub(crate) struct TaskBegun<'a> {
    metrics: &'a WorkerMetrics,
    kind: &'static str,
    began: Instant,
    outcome: &'static str,
}

impl TaskBegun<'_> {
    pub(crate) fn ended(mut self, outcome: &Outcome) {
        self.outcome = match outcome {
            Outcome::Done | Outcome::Settled => "done",
            Outcome::Failed(_) => "failed",
            Outcome::Retry { .. } => "retried",
            Outcome::Cancelled => "cancelled",
        };
    }
}

impl Drop for TaskBegun<'_> {
    fn drop(&mut self) {
        let Self { metrics, kind, began, outcome } = self;
        metrics.in_progress.dec();
        metrics.took.get_or_create(&Kind { kind }).observe(began.elapsed().as_secs_f64());
        metrics.finished.get_or_create(&Ended { kind, outcome }).inc();
    }
}

/// A workspace that waits for room.
pub(crate) struct Waits<'a>(&'a WorkerMetrics);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting_for_room.dec();
    }
}

/// A worker, as operators watch it.
pub(crate) struct Watched(pub(crate) Arc<Host>);

#[async_trait]
impl Observed for Watched {
    fn register(&self, registry: &mut Registry) {
        let it = &self.0.metrics;
        register_tasks(it, registry);
        register_vms(it, registry);
        registry.register(
            "aetherium_worker_heartbeat_age_seconds",
            "How long ago this worker last wrote that it lives",
            it.heartbeat_age.clone(),
        );
    }

    async fn refresh(&self) {
        let (host, metrics) = (&self.0, &self.0.metrics);
        metrics.heartbeat_age.set(metrics.silent_for(host.now()).as_secs_f64());
        let seen = host.vms.seen();
        let count = |found: usize| i64::try_from(found).unwrap_or(i64::MAX);
        for state in VmState::LIVE {
            let vms = seen.iter().filter(|(it, _)| it.as_str() == state).count();
            metrics.vms.get_or_create(&State { state }).set(count(vms));
        }
        for transport in [AgentTransport::Vsock, AgentTransport::Tcp, AgentTransport::Unix] {
            let vms = seen.iter().filter(|(_, it)| *it == Some(transport)).count();
            let transport = transport.as_str();
            metrics.agents.get_or_create(&Transport { transport }).set(count(vms));
        }
    }

    async fn findings(&self) -> Vec<Finding> {
        let mut findings = vec![self.heard(), self.takes_work()];
        findings.extend(self.0.findings().await);
        findings
    }
}

impl Watched {
    fn heard(&self) -> Finding {
        const WHY: &str = "a worker that is not heard of counts as gone and gets no work";
        let silent = self.0.metrics.silent_for(self.0.now());
        let found = format!("the last heartbeat was written {} s ago", silent.as_secs());
        let patience = self.0.tenure.lease.map_or(HEARTBEAT * 3, |lease| lease.lasts());
        if silent <= patience {
            return Finding::ok("heartbeat", found, WHY);
        }
        Finding::fail("heartbeat", found, WHY, "see that the database is reachable from here")
    }

    fn takes_work(&self) -> Finding {
        const WHY: &str = "a worker that stops takes no new VMs";
        if self.0.draining.is_cancelled() {
            return Finding::fail("draining", "it was told to stop", WHY, "start it again");
        }
        Finding::ok("draining", "it takes work", WHY)
    }
}

fn register_tasks(it: &WorkerMetrics, registry: &mut Registry) {
    registry.register(
        "aetherium_tasks_claimed",
        "Tasks that a handler began with, by type",
        it.claimed.clone(),
    );
    registry.register(
        "aetherium_tasks_in_progress",
        "Tasks in a handler's hands",
        it.in_progress.clone(),
    );
    registry.register(
        "aetherium_workspaces_waiting_for_room",
        "Workspaces whose VM does not fit on the worker now, and is waited for",
        it.waiting_for_room.clone(),
    );
    registry.register(
        "aetherium_task_dispatch_seconds",
        "From a task's acceptance until its handler begins for the first time, by type",
        it.dispatch.clone(),
    );
    registry.register(
        "aetherium_task_duration_seconds",
        "What a handler took, by type",
        it.took.clone(),
    );
    registry.register(
        "aetherium_tasks_finished",
        "Tasks that a handler let go of, by type and outcome",
        it.finished.clone(),
    );
    registry.register(
        "aetherium_runs_finished",
        "Prompts and executions that ended, by outcome; any exit code is completed",
        it.runs.clone(),
    );
}

fn register_vms(it: &WorkerMetrics, registry: &mut Registry) {
    registry.register("aetherium_vms", "VMs that have not ended, by state", it.vms.clone());
    registry.register(
        "aetherium_vm_agents",
        "VMs whose agent answers, by the transport it is reached over",
        it.agents.clone(),
    );
    registry.register(
        "aetherium_vm_boot_seconds",
        "From the VMM's start until the VM was ready, by driver and origin",
        it.boots.clone(),
    );
    registry.register(
        "aetherium_vm_start_seconds",
        "The same with the making of its files, by driver and origin",
        it.starts.clone(),
    );
    registry.register(
        "aetherium_vms_ended",
        "VMs that ended or never began, by the code of their reason",
        it.ends.clone(),
    );
    registry.register(
        "aetherium_vm_snapshot_seconds",
        "What taking a snapshot took, by its kind",
        it.snapshots.clone(),
    );
    registry.register(
        "aetherium_vm_snapshots_failed",
        "Snapshots that could not be taken, by kind",
        it.snapshots_failed.clone(),
    );
}
