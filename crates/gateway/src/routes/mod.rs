//! The handlers, one file for each kind of thing. Each says what it needs from the store, the bus
//! and the worker, and nothing of HTTP beyond its status.

pub(crate) mod assistants;
pub(crate) mod disks;
pub(crate) mod environments;
pub(crate) mod events;
pub(crate) mod executions;
pub(crate) mod hibernation;
pub(crate) mod preparation;
pub(crate) mod projects;
pub(crate) mod prompts;
pub(crate) mod secrets;
pub(crate) mod status;
pub(crate) mod task_events;
pub(crate) mod tasks;
pub(crate) mod templates;
pub(crate) mod vms;
pub(crate) mod webhooks;
pub(crate) mod workers;
pub(crate) mod workspaces;

use aetherium_model::TaskId;
use std::collections::BTreeMap;

/// Where to follow what was taken on: the thing itself, its task, and what lies below it.
pub(crate) fn links(own: &str, task: Option<TaskId>, below: &[&str]) -> BTreeMap<String, String> {
    let mut links: BTreeMap<_, _> =
        below.iter().map(|name| ((*name).to_owned(), format!("{own}/{name}"))).collect();
    links.insert("self".to_owned(), own.to_owned());
    links.extend(task.map(|id| ("task".to_owned(), format!("/api/v1/tasks/{id}"))));
    links
}
