//! The life of a VM, as a pure state machine. One task owns a VM's state and asks [`VmState::step`].
//!
//! ```text
//!             ┌────────► failed(reason) ◄───────┬───────────┐
//! creating ─► booting ─► running ─► pausing ─► paused ─► resuming ─► running
//!                          └──────► stopping ─► stopped(reason)
//! ```
//! - creating: disks, tokens and sockets are being made; nothing runs yet.
//! - booting: the VMM runs; the agent has not answered yet.
//! - running: the agent has answered.
//! - pausing, paused: its CPUs are stopped. A freeze that fails leads back to running.
//! - resuming: it goes on, and its agent has not answered again yet. A thaw that fails leads back to
//!   paused.
//! - stopping: somebody asked for the end; the guest gets its grace.
//! - stopped, failed: nothing of the VM is left but its records. Both carry the reason.

use crate::{
    Fault, Timestamp, VmId, WorkerId, WorkspaceId,
    name::Name,
    resources::{DriverKind, NetworkMode, Resources, VirtioTransport},
    template_ref::{Digest, TemplateRef},
    tuning::{IoLimits, Tuning},
};
use serde::{Deserialize, Serialize};
use std::{net::Ipv4Addr, str::FromStr};

/// Where a VM stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum VmState {
    /// Its parts are being made.
    Creating,
    /// The VMM runs, the agent has not answered yet.
    Booting,
    /// The agent answers.
    Running,
    /// It is being frozen.
    Pausing,
    /// It is frozen; its memory is kept.
    Paused,
    /// It is being thawed.
    Resuming,
    /// It is being ended on request.
    Stopping {
        /// Why.
        termination: Fault,
    },
    /// It ended on request.
    Stopped {
        /// Why.
        termination: Fault,
    },
    /// It ended, or never began, for a reason nobody asked for.
    Failed {
        /// Why.
        termination: Fault,
    },
}

/// What happens to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmEvent {
    /// Its VMM was started.
    Launched,
    /// Its agent answered, or it was never kept from answering: its freezing failed.
    AgentAnswered,
    /// Somebody wants it frozen.
    PauseRequested,
    /// It is frozen, or still is: its thawing failed.
    Frozen,
    /// Somebody wants it thawed.
    ResumeRequested,
    /// Somebody wants it ended, for this reason.
    StopRequested(Fault),
    /// Its VMM has ended; the reason is what the evidence says, should nobody have asked for it.
    Ended(Fault),
}

impl VmState {
    /// The names of the states of a VM that has not ended.
    pub const LIVE: [&'static str; 7] =
        ["creating", "booting", "running", "pausing", "paused", "resuming", "stopping"];

    /// The state that follows `event`, or `None` where the event has no place in this state.
    ///
    /// Ending is possible from every state that is not terminal. An end that was asked for keeps
    /// the reason of whoever asked first.
    #[must_use]
    pub fn step(&self, event: VmEvent) -> Option<Self> {
        use VmEvent as E;
        Some(match (self, event) {
            (Self::Stopped { .. } | Self::Failed { .. }, _) => return None,
            (Self::Stopping { termination }, E::Ended(_)) => {
                Self::Stopped { termination: termination.clone() }
            }
            (Self::Stopping { .. }, _) => return None,
            (_, E::Ended(termination)) => Self::Failed { termination },
            (_, E::StopRequested(termination)) => Self::Stopping { termination },
            (Self::Creating, E::Launched) => Self::Booting,
            (Self::Booting | Self::Pausing | Self::Resuming, E::AgentAnswered) => Self::Running,
            (Self::Running, E::PauseRequested) => Self::Pausing,
            (Self::Pausing | Self::Resuming, E::Frozen) => Self::Paused,
            (Self::Paused, E::ResumeRequested) => Self::Resuming,
            _ => return None,
        })
    }

    /// Whether nothing will change any more.
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Stopped { .. } | Self::Failed { .. })
    }

    /// The state's name, as in JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Booting => "booting",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Stopping { .. } => "stopping",
            Self::Stopped { .. } => "stopped",
            Self::Failed { .. } => "failed",
        }
    }

    /// Why it ended or is ending.
    pub const fn termination(&self) -> Option<&Fault> {
        match self {
            Self::Stopping { termination }
            | Self::Stopped { termination }
            | Self::Failed { termination } => Some(termination),
            _ => None,
        }
    }
}

/// What a VM is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmSpec {
    /// The template it starts from, as its creator named it.
    pub template: TemplateRef,
    /// Which one that is. Its disk is made over this one and stays with it, whatever the name comes
    /// to mean. Absent until it is known, and where guests start from no template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_digest: Option<Digest>,
    /// Its size.
    #[serde(flatten)]
    pub resources: Resources,
    /// What else it takes of its host.
    #[serde(flatten)]
    pub tuning: Tuning,
    /// What it may reach.
    pub network: NetworkMode,
    /// How its devices are attached; as its template says, or as fits best, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<VirtioTransport>,
    /// The snapshot it starts from, instead of its template's kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Name>,
    /// The snapshots it is made ready for: it gets nothing that its driver cannot save (QEMU: a
    /// virtio socket), and for `diff` the pages it writes are noted. Absent: nothing is done for
    /// them, and full ones are taken where they can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<SnapshotKind>,
}

impl VmSpec {
    /// The template to start from: the very one where that is known, else what its name means.
    pub fn pinned(&self) -> TemplateRef {
        match &self.template_digest {
            Some(digest) => TemplateRef::pinned(self.template.name.clone(), digest.clone()),
            None => self.template.clone(),
        }
    }
}

/// How much of a guest's memory a snapshot holds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotKind {
    /// All of it.
    #[default]
    Full,
    /// What was written since the VM's snapshot before, which it needs to be loaded.
    Diff,
}

impl SnapshotKind {
    /// The kind's name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Diff => "diff",
        }
    }
}

impl FromStr for SnapshotKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "full" => Ok(Self::Full),
            "diff" => Ok(Self::Diff),
            _ => Err(format!("{text:?} is not a kind of snapshot: give full or diff")),
        }
    }
}

/// Changes what a running VM takes of its host. What is absent stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"balloon_mib": 128, "limits": {"disk_bytes_per_s": 20_971_520}}))]
pub struct ChangeVm {
    /// Memory that the guest goes without until it is given back, in MiB; 0 gives all of it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_048_560)]
    pub balloon_mib: Option<u32>,
    /// What its I/O is held to.
    #[serde(default, skip_serializing_if = "IoLimits::is_empty")]
    pub limits: IoLimits,
}

impl ChangeVm {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Takes a snapshot of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeSnapshot {
    /// Its name, which no other snapshot of the worker has.
    pub name: Name,
    /// How much of the memory it holds; all where absent.
    #[serde(default)]
    pub kind: SnapshotKind,
}

/// Over which channel the agent was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentTransport {
    /// A virtio socket.
    Vsock,
    /// TCP with the VM's token.
    Tcp,
    /// A Unix socket: the process driver only.
    Unix,
}

impl AgentTransport {
    /// The transport's name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vsock => "vsock",
            Self::Tcp => "tcp",
            Self::Unix => "unix",
        }
    }
}

/// How long each stage of a start took, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StartTimings {
    /// Making disks, sockets and tokens.
    pub prepare_ms: u64,
    /// From the VMM's start to the guest's init.
    pub boot_ms: u64,
    /// From the guest's init to the agent's first answer.
    pub agent_ms: u64,
}

impl StartTimings {
    /// From the request reaching the worker to the agent's first answer.
    pub const fn total_ms(self) -> u64 {
        self.prepare_ms + self.boot_ms + self.agent_ms
    }
}

/// One microVM on one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Vm {
    /// Its id.
    pub id: VmId,
    /// What it was made to be.
    #[serde(flatten)]
    pub spec: VmSpec,
    /// The worker that owns it.
    pub worker_id: WorkerId,
    /// The workspace it serves; absent for a VM made by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<WorkspaceId>,
    /// Where it stands.
    #[serde(flatten)]
    pub state: VmState,
    /// The VMM that runs it, once chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<DriverKind>,
    /// How the VMM runs guest code: `kvm`, `tcg` or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// Over which channel its agent answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_transport: Option<AgentTransport>,
    /// How its devices are attached, once that was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtio_transport: Option<VirtioTransport>,
    /// Where its host reaches any of its ports; absent without a network of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// How long its start took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<StartTimings>,
    /// When it is ended, whatever it does then; absent if it may live as long as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;
    use proptest::prelude::*;

    fn fault(code: Code) -> Fault {
        Fault::new(code, "x")
    }

    fn any_event() -> impl Strategy<Value = VmEvent> {
        prop_oneof![
            Just(VmEvent::Launched),
            Just(VmEvent::AgentAnswered),
            Just(VmEvent::PauseRequested),
            Just(VmEvent::Frozen),
            Just(VmEvent::ResumeRequested),
            Just(VmEvent::StopRequested(fault(Code::Requested))),
            Just(VmEvent::Ended(fault(Code::VmmExited))),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_a_vm_ends_once_and_with_a_reason(events in proptest::collection::vec(any_event(), 0..40)) {
            let mut state = VmState::Creating;
            let mut stop_was_asked_for = false;
            for event in events {
                let asks = matches!(event, VmEvent::StopRequested(_));
                let ends = matches!(event, VmEvent::Ended(_));
                let was_terminal = state.is_terminal();
                let Some(next) = state.step(event) else {
                    prop_assert!(!ends || was_terminal, "an end must be taken in {}", state.as_str());
                    continue;
                };
                prop_assert!(!was_terminal, "{} follows {}", next.as_str(), state.as_str());
                stop_was_asked_for |= asks;
                if next.is_terminal() {
                    let expected = if stop_was_asked_for { "stopped" } else { "failed" };
                    prop_assert_eq!(next.as_str(), expected);
                    prop_assert!(next.termination().is_some());
                }
                state = next;
            }
        }
    }

    #[test]
    fn a_requested_end_keeps_the_reason_of_whoever_asked() {
        let stopping = VmState::Running.step(VmEvent::StopRequested(fault(Code::Idle))).unwrap();
        let stopped = stopping.step(VmEvent::Ended(fault(Code::VmmKilled))).unwrap();
        assert_eq!(stopped, VmState::Stopped { termination: fault(Code::Idle) });
    }

    #[test]
    fn a_vm_is_one_flat_object_in_json() {
        let state = VmState::Failed { termination: fault(Code::KernelPanic) };
        let vm = Vm {
            id: VmId::new(),
            spec: VmSpec {
                template: "t".parse().unwrap(),
                template_digest: None,
                resources: Resources::default(),
                tuning: Tuning { balloon_mib: Some(64), ..Tuning::default() },
                network: NetworkMode::Isolated,
                transport: None,
                snapshot: None,
                snapshots: None,
            },
            worker_id: WorkerId::new(),
            workspace_id: None,
            state,
            driver: Some(DriverKind::Qemu),
            accelerator: None,
            agent_transport: Some(AgentTransport::Tcp),
            virtio_transport: None,
            address: None,
            timings: None,
            expires_at: None,
            created_at: Timestamp::from_millis(0),
            updated_at: Timestamp::from_millis(0),
        };
        let json = serde_json::to_value(&vm).unwrap();
        assert_eq!(json["state"], "failed");
        assert_eq!(json["termination"]["code"], "kernel_panic");
        assert_eq!(json["memory_mib"], 512);
        assert_eq!(json["balloon_mib"], 64);
        assert_eq!(serde_json::from_value::<Vm>(json).unwrap(), vm);
    }
}
