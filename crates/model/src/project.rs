//! Projects: who shares a quota. API keys, workspaces and VMs belong to one each.
//!
//! A project bounds what is used, and nothing else yet: whoever holds a key sees the things of
//! every project.

use crate::{Code, Fault, Name, name::InvalidName, resources::Resources};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A project's name, which is its id. Keys that name none belong to `default`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct ProjectId(String);

impl ProjectId {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ProjectId {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for ProjectId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse::<Name>().map(|name| Self(name.to_string()))
    }
}

impl<'de> Deserialize<'de> for ProjectId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Name::deserialize(d).map(|name| Self(name.to_string()))
    }
}

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a project may use at once. What is absent has no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// VMs that have not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vms: Option<u64>,
    /// Their virtual CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u64>,
    /// Their memory, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Workspaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspaces: Option<u64>,
    /// Prompts that wait for their turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_prompts: Option<u64>,
}

/// What a project uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Usage {
    /// VMs that have not ended.
    pub vms: u64,
    /// Their virtual CPUs.
    pub vcpus: u64,
    /// Their memory, in MiB.
    pub memory_mib: u64,
    /// Workspaces.
    pub workspaces: u64,
    /// Prompts that wait for their turn.
    pub queued_prompts: u64,
}

/// A limit that something new would exceed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("project {project} may have {most} {what} and has {used}; {wanted} more is too much")]
pub struct Exceeded {
    /// The project.
    pub project: ProjectId,
    /// The limit's name, as in JSON.
    pub what: &'static str,
    /// The limit.
    pub most: u64,
    /// What is used of it.
    pub used: u64,
    /// What was to be added.
    pub wanted: u64,
}

impl From<Exceeded> for Fault {
    fn from(error: Exceeded) -> Self {
        Self::new(Code::QuotaExceeded, error.to_string())
            .remedy("end or delete what is not needed, or have the project's limit raised")
    }
}

/// A project, what it may use and what it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Project {
    /// Its name.
    pub id: ProjectId,
    /// What it may use.
    pub limits: Limits,
    /// What it uses now.
    pub usage: Usage,
}

impl Project {
    /// Whether a VM of this size may be added.
    ///
    /// # Errors
    /// The first limit that it would exceed.
    pub fn may_add_vm(&self, size: &Resources) -> Result<(), Exceeded> {
        let (limits, usage) = (self.limits, self.usage);
        self.fits("vms", limits.vms, usage.vms, 1)?;
        self.fits("vcpus", limits.vcpus, usage.vcpus, size.vcpus.get().into())?;
        self.fits("memory_mib", limits.memory_mib, usage.memory_mib, size.memory_mib.get().into())
    }

    /// Whether a workspace may be added.
    ///
    /// # Errors
    /// [`Exceeded`].
    pub fn may_add_workspace(&self) -> Result<(), Exceeded> {
        self.fits("workspaces", self.limits.workspaces, self.usage.workspaces, 1)
    }

    /// Whether a prompt may wait.
    ///
    /// # Errors
    /// [`Exceeded`].
    pub fn may_queue_prompt(&self) -> Result<(), Exceeded> {
        self.fits("queued_prompts", self.limits.queued_prompts, self.usage.queued_prompts, 1)
    }

    fn fits(
        &self,
        what: &'static str,
        most: Option<u64>,
        used: u64,
        wanted: u64,
    ) -> Result<(), Exceeded> {
        match most {
            Some(most) if used.saturating_add(wanted) > most => {
                Err(Exceeded { project: self.id.clone(), what, most, used, wanted })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_exactly_is_taken_and_one_more_is_refused_by_name() {
        let limits = Limits { memory_mib: Some(1024), ..Limits::default() };
        let usage = Usage { memory_mib: 512, ..Usage::default() };
        let mut project = Project { id: ProjectId::default(), limits, usage };
        let size = Resources { memory_mib: 512.try_into().unwrap(), ..Resources::default() };
        assert_eq!(project.may_add_vm(&size), Ok(()));
        project.usage.memory_mib = 513;
        let text = project.may_add_vm(&size).unwrap_err().to_string();
        assert_eq!(
            text,
            "project default may have 1024 memory_mib and has 513; 512 more is too much"
        );
    }
}
