//! What a user owns: the workspace, and the prompts sent to it. Both outlive every VM.
//!
//! ```text
//! creating ─► preparing ─► ready ─► deleting   what the workspace is: its state
//!     └───────────┴──────► failed(reason)
//!
//!            prompt, wake                what there is of it besides its disk: its lifecycle
//!   stopped ─────────────► active ◄──────────────┐ prompt, wake
//!      ▲                    │  │                 │
//!      └────────────────────┘  └────────► hibernated
//!        its VM ended otherwise   idle, hibernate │
//!      ▲                                          │
//!      └──────────────────────────────────────────┘
//!        its memory is of no use any more
//! ```
//! Where its VM stands is the VM's own state ([`crate::vm::VmState`]).

use crate::{
    Fault, PromptId, TaskId, Timestamp, VmId, WorkerId, WorkspaceId,
    assistant::{AssistantName, AssistantOptions},
    environment::MadeFrom,
    name::Name,
    placement::{Placement, WhenFull},
    recipe::{EnvName, GuestPath},
    run::RunState,
    secret::SecretUses,
    setup::{Preparation, Setup},
    vm::VmSpec,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// Where a workspace stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum WorkspaceState {
    /// Its disk is being made.
    Creating,
    /// What its setup asks for is being put into it.
    Preparing,
    /// It takes prompts.
    Ready,
    /// It is being removed.
    Deleting,
    /// It could not be made.
    Failed {
        /// Why.
        fault: Fault,
    },
}

impl WorkspaceState {
    /// The state's name, as in JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Deleting => "deleting",
            Self::Failed { .. } => "failed",
        }
    }
}

/// What there is of a workspace besides its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "lifecycle", rename_all = "snake_case")]
pub enum Lifecycle {
    /// A VM, which runs or is on its way to it or out of it.
    Active {
        /// The VM.
        vm_id: VmId,
    },
    /// The memory of its last VM, with everything that ran there. Its next VM goes on with it.
    Hibernated {
        /// What was kept.
        hibernation: Hibernation,
    },
    /// Nothing: its next VM boots.
    Stopped,
}

impl Lifecycle {
    /// The name, as in JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Active { .. } => "active",
            Self::Hibernated { .. } => "hibernated",
            Self::Stopped => "stopped",
        }
    }
}

/// The memory of a VM that was ended, beside its workspace's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Hibernation {
    /// When it was written.
    pub at: Timestamp,
    /// What it takes of the worker's disk, in bytes.
    pub bytes: u64,
}

/// What becomes of a workspace's VM that is idle for its timeout.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum IdleAction {
    /// Its memory is kept and it ends; what ran there goes on with the next VM. Where that cannot be, it
    /// is stopped.
    #[default]
    Hibernate,
    /// It is shut down; the disk stays.
    Stop,
}

impl IdleAction {
    /// The name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hibernate => "hibernate",
            Self::Stop => "stop",
        }
    }
}

impl fmt::Display for IdleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for IdleAction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "hibernate" => Ok(Self::Hibernate),
            "stop" => Ok(Self::Stop),
            _ => Err(format!("{text:?} is nothing to do with an idle VM: give hibernate or stop")),
        }
    }
}

/// A named place to work in, with a disk of its own and a VM on demand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// Its name, unique among workspaces.
    pub name: Name,
    /// What turns a prompt into a command.
    pub ai_assistant: AssistantName,
    /// What it was made from; absent where its creator named no environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<MadeFrom>,
    /// What is put into it before its first prompt, and given to each.
    #[serde(default, skip_serializing_if = "Setup::is_empty")]
    pub setup: Setup,
    /// How far that is.
    #[serde(default, skip_serializing_if = "Preparation::is_empty")]
    pub preparation: Preparation,
    /// The conversation of its assistant that the next prompt goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What its VMs are to be.
    #[serde(flatten)]
    pub spec: VmSpec,
    /// The worker that holds its disk.
    pub worker_id: WorkerId,
    /// What there is of it besides its disk.
    #[serde(flatten)]
    pub lifecycle: Lifecycle,
    /// Secrets that each of its prompts gets.
    #[serde(default, skip_serializing_if = "SecretUses::is_empty")]
    pub secrets: SecretUses,
    /// Its VM is hibernated or stopped after so many seconds without work; its disk stays.
    pub idle_timeout_s: u32,
    /// Which of the two.
    #[serde(default)]
    pub idle_action: IdleAction,
    /// Which workers may have it.
    #[serde(default, skip_serializing_if = "Placement::is_empty")]
    pub placement: Placement,
    /// What becomes of a prompt whose VM its worker has no room for; it waits a minute where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_full: Option<WhenFull>,
    /// Where it stands.
    #[serde(flatten)]
    pub state: WorkspaceState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Workspace {
    /// Its VM, while it has one.
    pub const fn vm_id(&self) -> Option<VmId> {
        match self.lifecycle {
            Lifecycle::Active { vm_id } => Some(vm_id),
            Lifecycle::Hibernated { .. } | Lifecycle::Stopped => None,
        }
    }
}

/// The idle timeout of a workspace whose creator does not say, in seconds.
pub const DEFAULT_IDLE_TIMEOUT_S: u32 = 900;

/// What a prompt asks for besides its text. What is absent is as its workspace says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PromptOptions {
    /// Environment, before the workspace's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub env: BTreeMap<EnvName, String>,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<GuestPath>,
    /// How its assistant works.
    #[serde(default, skip_serializing_if = "AssistantOptions::is_empty")]
    pub assistant: AssistantOptions,
    /// Whether it begins a conversation, instead of going on with the last prompt's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_session: bool,
}

impl PromptOptions {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One request to a workspace's assistant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Prompt {
    /// Its id.
    pub id: PromptId,
    /// The workspace it is for.
    pub workspace_id: WorkspaceId,
    /// The task that runs it.
    pub task_id: TaskId,
    /// The text.
    pub prompt: String,
    /// Secrets that it gets besides its workspace's.
    #[serde(default, skip_serializing_if = "SecretUses::is_empty")]
    pub secrets: SecretUses,
    /// Time it may take, in milliseconds; one hour where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What else it asks for.
    #[serde(flatten)]
    pub options: PromptOptions,
    /// The VM it ran in, once one was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<VmId>,
    /// Where it stands.
    #[serde(flatten)]
    pub state: RunState,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When it was handed to the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}
