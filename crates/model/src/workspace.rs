//! What a user owns: the workspace, and the prompts sent to it. Both outlive every VM.

use crate::{
    Fault, PromptId, TaskId, Timestamp, VmId, WorkerId, WorkspaceId,
    assistant::Assistant,
    name::Name,
    placement::{Placement, WhenFull},
    run::RunState,
    secret::SecretUses,
    vm::VmSpec,
};
use serde::{Deserialize, Serialize};

/// Where a workspace stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum WorkspaceState {
    /// Its disk is being made.
    Creating,
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
            Self::Ready => "ready",
            Self::Deleting => "deleting",
            Self::Failed { .. } => "failed",
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
    pub ai_assistant: Assistant,
    /// What its VMs are to be.
    #[serde(flatten)]
    pub spec: VmSpec,
    /// The worker that holds its disk.
    pub worker_id: WorkerId,
    /// Its VM, while it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<VmId>,
    /// Secrets that each of its prompts gets.
    #[serde(default, skip_serializing_if = "SecretUses::is_empty")]
    pub secrets: SecretUses,
    /// Its VM is stopped after so many seconds without work; its disk stays.
    pub idle_timeout_s: u32,
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

/// The idle timeout of a workspace whose creator does not say, in seconds.
pub const DEFAULT_IDLE_TIMEOUT_S: u32 = 900;

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
