//! What callers say of workspaces.

use super::{Check, check_when_full, told};
use crate::problem::FieldError;
use aetherium_model::{
    Name, TemplateRef,
    assistant::AssistantName,
    environment::EnvironmentSpec,
    placement::{Placement, WhenFull},
    resources::{DiskMib, MemoryMib, NetworkMode, Vcpus, VirtioTransport},
    secret::SecretUses,
    setup::Setup,
    tuning::{HugePages, IoLimits, Tuning},
    vm::SnapshotKind,
    workspace::IdleAction,
};
use serde::{Deserialize, Serialize};

/// Asks for a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "demo", "ai_assistant": "shell"}))]
pub struct CreateWorkspace {
    /// Its name, unique among workspaces.
    pub name: Name,
    /// The environment it is made from, by id or name. What is said here goes before what it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Name>,
    /// What turns its prompts into commands; `shell` where neither this nor the environment says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ai_assistant: Option<AssistantName>,
    /// The template of its VMs; `default` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateRef>,
    /// Virtual CPUs; the template's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<Vcpus>,
    /// Guest memory in MiB; the template's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<MemoryMib>,
    /// Writable disk in MiB; the template's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<DiskMib>,
    /// Memory that the guest goes without until it is given back, in MiB; the template's default, or
    /// none, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_048_560)]
    pub balloon_mib: Option<u32>,
    /// What pages of the host its memory is made of; as the template says, or ordinary ones, where
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub huge_pages: Option<HugePages>,
    /// What its I/O is held to; what is absent, as the template says, or not at all.
    #[serde(default, skip_serializing_if = "IoLimits::is_empty")]
    pub limits: IoLimits,
    /// What its VMs may reach; nothing where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkMode>,
    /// How devices are attached; as the template says, or as fits best, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<VirtioTransport>,
    /// The snapshots its VMs are made ready for; as the template says where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<SnapshotKind>,
    /// Secrets that each of its prompts gets.
    #[serde(default, skip_serializing_if = "SecretUses::is_empty")]
    pub secrets: SecretUses,
    /// Its VM is hibernated or stopped after so many seconds without work; 900 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 604_800)]
    pub idle_timeout_s: Option<u32>,
    /// Which of the two. With `hibernate` its VMs are made ready for it (`snapshots` is `full` where
    /// absent); where absent they are as they are, and hibernated where that can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_action: Option<IdleAction>,
    /// Which workers may have it, and which are liked best.
    #[serde(default, skip_serializing_if = "Placement::is_empty")]
    pub placement: Placement,
    /// What becomes of it where no worker has room for its disk (it fails where absent), and of its
    /// prompts where its worker has none for its VM (they wait a minute where absent).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_full: Option<WhenFull>,
    /// What is put into it before its first prompt, and given to each. Its lists are done after the
    /// environment's, its single values go before them.
    #[serde(default, skip_serializing_if = "Setup::is_empty")]
    pub setup: Setup,
}

impl CreateWorkspace {
    /// A workspace of which everything but the name is left to the defaults.
    pub fn named(name: Name) -> Self {
        Self {
            name,
            environment: None,
            ai_assistant: None,
            template: None,
            vcpus: None,
            memory_mib: None,
            disk_mib: None,
            balloon_mib: None,
            huge_pages: None,
            limits: IoLimits::default(),
            network: None,
            transport: None,
            snapshots: None,
            secrets: SecretUses::default(),
            idle_timeout_s: None,
            idle_action: None,
            placement: Placement::default(),
            when_full: None,
            setup: Setup::default(),
        }
    }
}

impl CreateWorkspace {
    /// What its VMs are made ready for, where this becomes of idle ones: what cannot be saved would keep
    /// them from hibernating.
    pub fn snapshots(&self, idle_action: Option<IdleAction>) -> Option<SnapshotKind> {
        let wanted = (idle_action == Some(IdleAction::Hibernate)).then_some(SnapshotKind::Full);
        self.snapshots.or(wanted)
    }

    /// What it says of what its VMs take beyond their size.
    pub fn tuning(&self) -> Tuning {
        let Self { balloon_mib, huge_pages, limits, .. } = *self;
        Tuning { balloon_mib, huge_pages, limits }
    }
}

impl CreateWorkspace {
    /// What it says of what an environment may say, too.
    pub fn asked(&self) -> EnvironmentSpec {
        EnvironmentSpec {
            description: String::new(),
            ai_assistant: self.ai_assistant.clone(),
            template: self.template.clone(),
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            disk_mib: self.disk_mib,
            network: self.network,
            secrets: self.secrets.clone(),
            idle_timeout_s: self.idle_timeout_s,
            idle_action: self.idle_action,
            placement: self.placement.clone(),
            setup: self.setup.clone(),
        }
    }
}

impl Check for CreateWorkspace {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = check_when_full(self.when_full);
        errors.extend(told(self.asked().objections()));
        errors
    }
}
