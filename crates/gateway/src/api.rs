//! What callers send and what they get beyond the domain's own types. Clients may use these.
//!
//! Every request type refuses unknown fields and checks its own bounds ([`Check`]); whoever holds
//! one of them, fresh from an extractor, holds something allowed.

use crate::problem::FieldError;
use aetherium_model::{
    Name, TemplateRef,
    disk::{GrowDisk, TakeDiskSnapshot},
    finding::Finding,
    output::Stream,
    placement::{Placement, WhenFull},
    project::Limits,
    recipe::Recipe,
    resources::{DiskMib, MemoryMib, NetworkMode, Vcpus, VirtioTransport},
    run::Command,
    secret::{MAX_USES, SecretUses},
    setup::Objection,
    task::{Schedule, TaskState},
    template_ref::Version,
    tuning::{HugePages, IoLimits, Tuning},
    vm::{ChangeVm, SnapshotKind, TakeSnapshot},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

mod assistants;
mod environments;
mod events;
mod preparation;
mod prompts;
mod secrets;
mod webhooks;
mod workspaces;

pub use crate::problem::Problem;
pub use aetherium_model::environment::MAX_IDLE_TIMEOUT_S;
pub use assistants::{Assistant, AssistantCredential};
pub use environments::{CreateEnvironment, ReplaceEnvironment};
pub use events::EventLogQuery;
pub use preparation::PrepareWorkspace;
pub use prompts::CreatePrompt;
pub use secrets::{PutSecret, ValueEncoding, WrittenValue};
pub use webhooks::{ChangeWebhook, CreateWebhook, CreatedWebhook};
pub use workspaces::CreateWorkspace;

/// A request type's own bounds, beyond those its fields' types hold.
pub trait Check {
    /// Each field that is not allowed; none where all is well.
    fn check(&self) -> Vec<FieldError> {
        Vec::new()
    }
}

/// The template of VMs whose creator does not say.
pub const DEFAULT_TEMPLATE: &str = "default";

/// Asks for a VM that belongs to no workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVm {
    /// The template it starts from; `default` where absent.
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
    /// What it may reach; nothing where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkMode>,
    /// How devices are attached; as the template says, or as fits best, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<VirtioTransport>,
    /// A snapshot on the worker to start from. Template, size and network must be those it was taken
    /// with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Name>,
    /// The snapshots it is made ready for: it gets nothing that its driver cannot save, and for
    /// `diff` the pages it writes are noted. As the template says where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<SnapshotKind>,
    /// It is ended after so many seconds, whatever it does then; absent: it lives as long as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub ttl_s: Option<u32>,
    /// Which workers may have it, and which are liked best.
    #[serde(default, skip_serializing_if = "Placement::is_empty")]
    pub placement: Placement,
    /// What becomes of it where no worker has room; it fails where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_full: Option<WhenFull>,
}

/// The longest time that a VM may be given: 30 days, in seconds.
pub const MAX_TTL_S: u32 = 30 * 24 * 3600;

/// Gives a VM another time to live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"ttl_s": 3600}))]
pub struct SetTtl {
    /// It is ended so many seconds from now; absent: it lives as long as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub ttl_s: Option<u32>,
}

impl Check for SetTtl {
    fn check(&self) -> Vec<FieldError> {
        check_ttl(self.ttl_s)
    }
}

fn check_ttl(ttl_s: Option<u32>) -> Vec<FieldError> {
    match ttl_s {
        Some(s) if !(1..=MAX_TTL_S).contains(&s) => {
            wrong("ttl_s", format!("{s} is not allowed: give 1 to {MAX_TTL_S} seconds"))
        }
        _ => Vec::new(),
    }
}

impl CreateVm {
    /// What it says of what the VM takes beyond its size.
    pub fn tuning(&self) -> Tuning {
        let Self { balloon_mib, huge_pages, limits, .. } = *self;
        Tuning { balloon_mib, huge_pages, limits }
    }
}

impl Check for CreateVm {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = check_ttl(self.ttl_s);
        errors.extend(check_when_full(self.when_full));
        if self.snapshot.is_none() {
            return errors;
        }
        let Tuning { balloon_mib, huge_pages, limits } = self.tuning();
        let given = [
            ("balloon_mib", balloon_mib.is_some()),
            ("huge_pages", huge_pages.is_some()),
            ("limits", !limits.is_empty()),
        ];
        let given = given.into_iter().filter(|(_, given)| *given);
        let wrong = |(field, _)| wrong(field, "is the snapshot's own: leave it out");
        errors.extend(given.flat_map(wrong));
        errors
    }
}

impl Check for ChangeVm {
    fn check(&self) -> Vec<FieldError> {
        if self.is_empty() {
            return wrong("balloon_mib", "nothing is to be changed: give it, or limits");
        }
        Vec::new()
    }
}

impl Check for Limits {}
fn check_when_full(when_full: Option<WhenFull>) -> Vec<FieldError> {
    let problem = when_full.and_then(WhenFull::problem);
    problem.map(|it| wrong("when_full.queue_for_s", it)).unwrap_or_default()
}

/// Drains a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"deadline_s": 900}))]
pub struct DrainWorker {
    /// After so many seconds, VMs that are still in use are stopped; never where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 604_800)]
    pub deadline_s: Option<u32>,
}

impl Check for DrainWorker {
    fn check(&self) -> Vec<FieldError> {
        match self.deadline_s {
            Some(s) if s > MAX_IDLE_TIMEOUT_S => wrong(
                "deadline_s",
                format!("{s} is not allowed: give 0 to {MAX_IDLE_TIMEOUT_S} seconds"),
            ),
            _ => Vec::new(),
        }
    }
}

impl Check for TakeSnapshot {}

impl Check for GrowDisk {}

impl Check for TakeDiskSnapshot {}
/// Asks for a template of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildTemplate {
    /// Its name, and the tag it gets: `latest` where it says none.
    pub name: TemplateRef,
    /// What it is made of. Nothing in it may lie on the host's disk.
    pub recipe: Recipe,
    /// Whether the tag may have pointed to another template.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
}

impl Check for BuildTemplate {
    fn check(&self) -> Vec<FieldError> {
        let pinned = matches!(self.name.version, Version::Digest(_));
        let name = pinned.then(|| {
            wrong("name", "is a digest, which is made, not chosen: give NAME or NAME:TAG")
        });
        let fields = self.recipe.taken_from_host();
        let fields = fields
            .into_iter()
            .flat_map(|(field, problem)| wrong(&format!("recipe.{field}"), problem));
        name.into_iter().flatten().chain(fields).collect()
    }
}

/// Runs a command in a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"argv": ["uname", "-a"]}))]
pub struct Execute {
    /// Program and arguments; the program is looked up in the guest's PATH.
    #[schema(min_items = 1, max_items = 1024)]
    pub argv: Vec<String>,
    /// Environment variables on top of the guest's defaults.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Secrets that it gets, which go before `env`.
    #[serde(default, skip_serializing_if = "SecretUses::is_empty")]
    pub secrets: SecretUses,
    /// Working directory in the guest; the user's home where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User name or numeric id in the guest; root where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Time the command may take, in milliseconds; one hour where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400_000)]
    pub timeout_ms: Option<u64>,
    /// Whether to queue the command and answer at once, rather than wait for its end.
    #[serde(default, rename = "async", skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
    /// When it may run, and how soon, where it is queued.
    #[serde(default, skip_serializing_if = "Schedule::is_default")]
    pub schedule: Schedule,
}

impl Execute {
    /// The command it asks for.
    pub fn command(&self) -> Command {
        Command {
            argv: self.argv.clone(),
            env: self.env.clone(),
            secrets: self.secrets.clone(),
            cwd: self.cwd.clone(),
            user: self.user.clone(),
            timeout_ms: self.timeout_ms,
        }
    }
}

impl Check for Execute {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = match self.command().validate() {
            Ok(()) => Vec::new(),
            Err(invalid) => wrong(invalid.field, invalid.problem),
        };
        errors.extend(unmet(self.schedule));
        if !self.detached && !self.schedule.is_default() {
            errors.extend(wrong("schedule", "is only for what is queued: say `async` besides"));
        }
        errors
    }
}

fn check_uses(secrets: &SecretUses) -> Vec<FieldError> {
    match secrets.len() {
        uses if uses > MAX_USES => wrong("secrets", format!("asks for {uses}; at most {MAX_USES}")),
        _ => Vec::new(),
    }
}

fn unmet(schedule: Schedule) -> Vec<FieldError> {
    if schedule.leaves_time() {
        return Vec::new();
    }
    wrong("schedule.deadline", "must be later than `run_at`")
}

/// What the domain objects to, as an answer says it.
fn told(objections: Vec<Objection>) -> Vec<FieldError> {
    objections.into_iter().map(FieldError::from).collect()
}

fn wrong(field: &str, problem: impl Into<String>) -> Vec<FieldError> {
    vec![FieldError { field: field.to_owned(), problem: problem.into() }]
}

/// Something that was taken on, and where to follow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Accepted<T> {
    /// The thing itself.
    #[serde(flatten)]
    pub item: T,
    /// Paths by what they lead to: `self`; `task`, where it was made just now; and what is below.
    pub links: BTreeMap<String, String>,
}

/// The parameters every list takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// At most so many entries.
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Which VMs are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct VmQuery {
    /// Only those of this workspace, by its id or name.
    #[param(value_type = Option<String>)]
    pub workspace: Option<String>,
    /// Only those that have not ended.
    pub live: Option<bool>,
    /// At most so many entries.
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// The types of task there are.
pub const TASK_TYPES: [&str; 7] = [
    "vm:create",
    "vm:execute",
    "vm:delete",
    "workspace:create",
    "workspace:delete",
    "prompt:execute",
    "template:build",
];

/// Which tasks are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TaskQuery {
    /// Only those in this state.
    pub state: Option<TaskState>,
    /// Only those of this type, such as `vm:create`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Only those that were tried as often as allowed and failed each time, or only others.
    pub dead: Option<bool>,
    /// At most so many entries.
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Where an event stream begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// The number of the last event already seen; the Last-Event-ID header goes before it.
    #[param(minimum = 0)]
    pub after: Option<i64>,
}

/// Which output is downloaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OutputQuery {
    /// Only this stream; both, in the order they were written, where absent.
    pub stream: Option<Stream>,
}

/// How much of a console is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConsoleQuery {
    /// At most so many bytes, from the end.
    #[param(minimum = 1, maximum = 16_777_216)]
    pub tail_bytes: Option<u64>,
}

/// The most of a console that one request may ask for, in bytes.
pub const MAX_CONSOLE_BYTES: u64 = 16 * 1024 * 1024;

impl Check for ListQuery {}
impl Check for VmQuery {}

impl Check for TaskQuery {
    fn check(&self) -> Vec<FieldError> {
        match &self.kind {
            Some(kind) if !TASK_TYPES.contains(&kind.as_str()) => wrong(
                "type",
                format!("{kind:?} is not a type of task: give {}", TASK_TYPES.join(", ")),
            ),
            _ => Vec::new(),
        }
    }
}
impl Check for EventsQuery {}
impl Check for OutputQuery {}

impl Check for ConsoleQuery {
    fn check(&self) -> Vec<FieldError> {
        match self.tail_bytes {
            Some(n) if n == 0 || n > MAX_CONSOLE_BYTES => {
                wrong("tail_bytes", format!("{n} is not allowed: give 1 to {MAX_CONSOLE_BYTES}"))
            }
            _ => Vec::new(),
        }
    }
}

/// That the process lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    pub status: String,
}

/// Whether work can be done now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Readiness {
    /// Whether every check passed.
    pub ready: bool,
    /// What was checked, just now.
    pub checks: Vec<Finding>,
}
