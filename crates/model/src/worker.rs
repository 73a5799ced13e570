//! A worker as the rest of the system sees it: what it says of itself, what is promised of it, and
//! whether it takes VMs.

use crate::{
    HeldTemplate, TemplateRef, Timestamp, WorkerId, name::Name, resources::DriverKind, room::Room,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How long a worker may work without having been heard of.
///
/// Two clocks are involved, and neither is a wall clock. The worker counts from the moment it *sent* the
/// last heartbeat that was answered, on its own clock, and gives up after [`Lease::lasts`]. The store
/// counts from the moment it *wrote* that heartbeat, which is later, on the database's clock, and lets
/// others take over after [`Lease::granted`]. Between the two lies what the worker has to end its VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease(Duration);

impl Lease {
    /// The shortest: three heartbeats may still get lost on a busy machine.
    pub const MIN: Duration = Duration::from_secs(1);
    /// The longest: nothing of a lost worker is taken over before it ran out.
    pub const MAX: Duration = Duration::from_secs(3600);

    /// How long the worker itself counts on it.
    pub const fn lasts(self) -> Duration {
        self.0
    }

    /// How often it is renewed: three times may fail before it is lost.
    pub fn heartbeat(self) -> Duration {
        self.0 / 4
    }

    /// How long others wait: three quarters more, in which the worker ends its VMs.
    pub fn granted(self) -> Duration {
        self.0 + self.0 * 3 / 4
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self(Duration::from_secs(20))
    }
}

impl TryFrom<Duration> for Lease {
    type Error = String;

    fn try_from(lasts: Duration) -> Result<Self, String> {
        if (Self::MIN..=Self::MAX).contains(&lasts) {
            Ok(Self(lasts))
        } else {
            Err(format!(
                "a lease of {lasts:?} is not allowed: give {:?} to {:?}",
                Self::MIN,
                Self::MAX
            ))
        }
    }
}

/// How often a worker without a lease says what it uses.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// Which of a worker's tenures it is: each start of the worker begins one, and so does whoever declares
/// it gone. What was begun in an earlier one changes nothing any more.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct Epoch(pub i64);

/// Where a worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It takes over what an earlier process of it left.
    Starting,
    /// It takes work.
    Active,
    /// It starts no VMs, for somebody wants that; those it has go on.
    Cordoned,
    /// It starts no VMs and is ending those it has.
    Draining,
    /// It was drained: no VM is left on it.
    Drained,
    /// It stopped in order.
    Stopped,
    /// Its lease ran out. Its VMs count as ended.
    Gone,
}

impl WorkerState {
    /// The states in which a worker may stay until somebody does something.
    pub const LASTING: [Self; 5] =
        [Self::Active, Self::Cordoned, Self::Draining, Self::Drained, Self::Gone];

    /// The state's name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Active => "active",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Stopped => "stopped",
            Self::Gone => "gone",
        }
    }

    /// Whether its internal API should answer.
    pub const fn answers(self) -> bool {
        matches!(self, Self::Active | Self::Cordoned | Self::Draining | Self::Drained)
    }
}

/// What an operator wants of a worker. It outlives the worker's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Admission {
    /// It may start VMs.
    #[default]
    Open,
    /// It starts none; those it has go on.
    Cordoned,
    /// It starts none, and those it has end: a workspace's as soon as nothing runs in it, the others at
    /// the deadline.
    Draining {
        /// When what is left is stopped, by the database's clock; never where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
    },
}

impl Admission {
    /// The mode's name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Cordoned => "cordoned",
            Self::Draining { .. } => "draining",
        }
    }
}

/// What a worker can do beyond running VMs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Its machine has KVM.
    Kvm,
    /// Its driver attaches devices by PCI.
    Pci,
    /// Its VMs get networks of their own.
    Slots,
    /// Its driver takes snapshots.
    Snapshots,
}

/// What an operator says of a worker, for placement.
pub type Labels = BTreeMap<Name, Name>;

/// What a worker's machine uses, by all that runs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Usage {
    /// The load average of the last minute, in hundredths of a processor.
    pub load_percent: u32,
    /// Memory in use, in MiB.
    pub memory_mib: u64,
    /// What is in use of the filesystem that holds the data directory, in MiB.
    pub disk_mib: u64,
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
    /// Where it stands, as its operator names places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Name>,
    /// What its operator says of it.
    #[serde(default)]
    pub labels: Labels,
    /// What it can do beyond running VMs.
    #[serde(default)]
    pub capabilities: BTreeSet<Capability>,
    /// What its machine has, as it measured.
    pub capacity: Room,
    /// What may be promised of it: its capacity, with its ratios of overcommitment.
    pub allocatable: Room,
    /// What is promised: to VMs that have not ended, and disk to workspaces.
    #[serde(default)]
    pub reserved: Room,
    /// What its machine uses.
    #[serde(default)]
    pub usage: Usage,
    /// What its operator wants of it.
    #[serde(default)]
    pub admission: Admission,
    /// Where it stands.
    pub state: WorkerState,
    /// When it was first seen.
    pub created_at: Timestamp,
    /// When it was last heard of, by the database's clock.
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

    /// What may still be promised of it.
    pub fn free(&self) -> Room {
        self.allocatable.less(self.reserved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_gives_up_before_others_may_take_over_and_beats_several_times_until_then() {
        for lasts in [Lease::MIN, Lease::default().lasts(), Lease::MAX] {
            let lease = Lease::try_from(lasts).unwrap();
            assert!(lease.heartbeat() * 3 < lease.lasts() && lease.lasts() < lease.granted());
        }
        assert!(Lease::try_from(Duration::from_millis(999)).unwrap_err().contains("999ms"));
    }
}
