//! A server or fleet at a glance: what `aetherium status` shows. Values only.

use crate::{
    Timestamp,
    finding::{Finding, Verdict},
    worker::Worker,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a server or fleet is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Status {
    /// When it was looked at.
    pub taken_at: Timestamp,
    /// The version of the gateway that looked.
    pub version: String,
    /// Whether no check failed.
    pub healthy: bool,
    /// What was checked, and what to do where that is not as it should be.
    pub checks: Vec<Finding>,
    /// Every worker, as of now.
    pub workers: Vec<Worker>,
    /// How many VMs that have not ended are in each state.
    pub vms: BTreeMap<String, u64>,
    /// The tasks that wait, by type.
    pub waiting: Vec<WaitingTasks>,
}

/// The tasks of one type that wait for a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WaitingTasks {
    /// The type, such as `prompt:execute`.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many.
    pub tasks: u64,
    /// How long the oldest of them has waited, in milliseconds.
    pub oldest_ms: u64,
}

impl Status {
    /// What is not as it should be, the worst first.
    pub fn problems(&self) -> Vec<&Finding> {
        let mut problems: Vec<_> =
            self.checks.iter().filter(|check| check.verdict != Verdict::Ok).collect();
        problems.sort_by_key(|check| std::cmp::Reverse(check.verdict));
        problems
    }
}
