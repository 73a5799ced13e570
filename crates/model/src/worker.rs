//! A worker as the rest of the system sees it.

use crate::{HeldTemplate, TemplateRef, Timestamp, WorkerId, resources::DriverKind};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How often a worker says that it lives.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long after its last heartbeat a worker counts as gone.
pub const GONE_AFTER: Duration = Duration::from_secs(35);

/// Whether a worker takes new VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It takes work.
    Active,
    /// It takes no new VMs and is ending those it has.
    Draining,
    /// It stopped in order.
    Stopped,
    /// Its heartbeat stopped.
    Gone,
}

impl WorkerState {
    /// The state's name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Gone => "gone",
        }
    }
}

/// The host process that owns VMs on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Worker {
    /// Its id, kept across restarts.
    pub id: WorkerId,
    /// The machine's name.
    pub hostname: String,
    /// Aetherium's version there.
    pub version: String,
    /// The driver in use; absent when none passes its preflight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<DriverKind>,
    /// Why this driver, in a sentence.
    pub driver_reason: String,
    /// Where its internal API listens; not shown to callers.
    #[serde(skip)]
    #[schema(ignore)]
    pub internal_address: String,
    /// The templates it holds.
    pub templates: Vec<HeldTemplate>,
    /// Host processors.
    pub vcpus: u32,
    /// Host memory in MiB.
    pub memory_mib: u64,
    /// VMs that have not ended.
    pub vms: u32,
    /// Whether it takes work.
    pub state: WorkerState,
    /// When it was first seen.
    pub created_at: Timestamp,
    /// When it was last heard of.
    pub heartbeat_at: Timestamp,
}

impl Worker {
    /// Whether it can start VMs of this template. Some drivers' VMs start from none.
    pub fn can_start(&self, template: &TemplateRef) -> bool {
        let needs_none = self.driver.is_some_and(|driver| !driver.starts_from_template());
        needs_none || self.holds(template)
    }

    /// Whether it holds this template.
    pub fn holds(&self, template: &TemplateRef) -> bool {
        self.templates.iter().any(|held| held.answers(template))
    }

    /// The state as of `now`: a worker that no longer speaks is gone, whatever it said last.
    pub fn state_at(&self, now: Timestamp) -> WorkerState {
        match self.state {
            WorkerState::Active | WorkerState::Draining
                if now.since(self.heartbeat_at) > GONE_AFTER =>
            {
                WorkerState::Gone
            }
            state => state,
        }
    }
}
