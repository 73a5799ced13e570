//! Aetherium's domain: the words of the system as types, and its decisions as pure functions.
//!
//! This crate owns identifiers, resource sizes, the state machines of VMs, prompts and tasks, and
//! the catalogue of stable error codes. It performs no I/O, spawns nothing and knows no clock: the
//! time comes in as a [`Timestamp`]. Every other crate may depend on it; it depends on none.

pub mod assistant;
pub mod boot_test;
pub mod build;
pub mod disk;
pub mod environment;
pub mod event;
pub mod fault;
pub mod finding;
pub mod held_template;
pub mod id;
pub mod interactive;
pub mod kernel;
pub mod limits;
pub mod metrics;
pub mod name;
pub mod output;
pub mod page;
pub mod pass;
pub mod placement;
pub mod project;
pub mod recipe;
pub mod resources;
pub mod retry;
pub mod room;
pub mod run;
pub mod schedule;
pub mod secret;
pub mod setup;
pub mod status;
pub mod task;
pub mod template;
pub mod template_ref;
pub mod time;
pub mod trace;
pub mod tuning;
pub mod vm;
pub mod webhook;
pub mod worker;
pub mod workspace;

pub use fault::{Code, Fault};
pub use held_template::HeldTemplate;
pub use id::{
    DeliveryId, EnvironmentId, ExecutionId, PromptId, SecretId, TaskId, VmId, WebhookId, WorkerId,
    WorkspaceId,
};
pub use name::Name;
pub use template_ref::{Digest, TemplateRef};
pub use time::Timestamp;
pub use trace::TraceParent;
