//! Quotas: what a project may use, checked in the transaction that would use more.
//!
//! A project with limits has its row held while something is added to it, so that two additions do
//! not both see the last free place. One without limits costs a look.

use crate::{Store, StoreError, row, transact::Tx};
use aetherium_model::{
    project::{Exceeded, Limits, Project, ProjectId, Usage},
    resources::Resources,
};
use sqlx::any::AnyRow;

/// A project with its use, counted by one statement.
const PROJECT: &str = "SELECT projects.*, live.vms, live.vcpus, live.memory_mib, \
     (SELECT COUNT(*) FROM workspaces WHERE project = $1) AS workspaces, \
     (SELECT COUNT(*) FROM runs JOIN workspaces ON workspaces.id = runs.workspace_id \
      WHERE workspaces.project = $1 AND runs.state = 'queued') AS queued_prompts \
     FROM projects, (SELECT COUNT(*) AS vms, \
      CAST(COALESCE(SUM(vcpus), 0) AS BIGINT) AS vcpus, \
      CAST(COALESCE(SUM(memory_mib), 0) AS BIGINT) AS memory_mib \
      FROM vms WHERE project = $1 AND ended_at IS NULL) AS live WHERE projects.id = $1";

impl Store {
    /// A project, its limits and what it uses.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn project(&self, id: &ProjectId) -> Result<Project, StoreError> {
        let row = self.first(sqlx::query(PROJECT).bind(id.as_str())).await?;
        decode(&row.ok_or_else(|| StoreError::not_found("project", id))?)
    }

    /// Says what a project may use, and makes it if there is none of that name. What it uses
    /// already it keeps.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn set_limits(&self, id: &ProjectId, limits: Limits) -> Result<Project, StoreError> {
        let most = |limit: Option<u64>| limit.map(|it| i64::try_from(it).unwrap_or(i64::MAX));
        self.change(|| async {
            let mut tx = self.begin().await?;
            sqlx::query(
                "INSERT INTO projects (id, max_vms, max_vcpus, max_memory_mib, max_workspaces, \
                 max_queued_prompts) VALUES ($1, $2, $3, $4, $5, $6) \
                 ON CONFLICT (id) DO UPDATE SET max_vms = excluded.max_vms, \
                 max_vcpus = excluded.max_vcpus, max_memory_mib = excluded.max_memory_mib, \
                 max_workspaces = excluded.max_workspaces, \
                 max_queued_prompts = excluded.max_queued_prompts",
            )
            .bind(id.as_str())
            .bind(most(limits.vms))
            .bind(most(limits.vcpus))
            .bind(most(limits.memory_mib))
            .bind(most(limits.workspaces))
            .bind(most(limits.queued_prompts))
            .execute(&mut *tx)
            .await?;
            Ok(tx.commit().await?)
        })
        .await?;
        self.project(id).await
    }
}

/// Refuses a VM that is more than its project may have.
pub(crate) async fn admit_vm(
    tx: &mut Tx,
    id: &ProjectId,
    size: &Resources,
) -> Result<(), StoreError> {
    admit(tx, id, |project| project.may_add_vm(size)).await
}

/// Refuses a workspace that is more than its project may have.
pub(crate) async fn admit_workspace(tx: &mut Tx, id: &ProjectId) -> Result<(), StoreError> {
    admit(tx, id, Project::may_add_workspace).await
}

/// Refuses a prompt that is more than may wait in its project.
pub(crate) async fn admit_prompt(tx: &mut Tx, id: &ProjectId) -> Result<(), StoreError> {
    admit(tx, id, Project::may_queue_prompt).await
}

async fn admit(
    tx: &mut Tx,
    id: &ProjectId,
    check: impl FnOnce(&Project) -> Result<(), Exceeded>,
) -> Result<(), StoreError> {
    let look = sqlx::query("SELECT * FROM projects WHERE id = $1").bind(id.as_str());
    let Some(found) = look.fetch_optional(&mut **tx).await? else { return Ok(()) };
    if limits(&found)? == Limits::default() {
        return Ok(());
    }
    let hold = sqlx::query("UPDATE projects SET id = id WHERE id = $1").bind(id.as_str());
    hold.execute(&mut **tx).await?;
    let counted = sqlx::query(PROJECT).bind(id.as_str()).fetch_one(&mut **tx).await?;
    Ok(check(&decode(&counted)?)?)
}

fn limits(from: &AnyRow) -> Result<Limits, StoreError> {
    Ok(Limits {
        vms: row::maybe_number(from, "max_vms")?,
        vcpus: row::maybe_number(from, "max_vcpus")?,
        memory_mib: row::maybe_number(from, "max_memory_mib")?,
        workspaces: row::maybe_number(from, "max_workspaces")?,
        queued_prompts: row::maybe_number(from, "max_queued_prompts")?,
    })
}

fn decode(from: &AnyRow) -> Result<Project, StoreError> {
    Ok(Project {
        id: row::parsed(from, "id")?,
        limits: limits(from)?,
        usage: Usage {
            vms: row::number(from, "vms")?,
            vcpus: row::number(from, "vcpus")?,
            memory_mib: row::number(from, "memory_mib")?,
            workspaces: row::number(from, "workspaces")?,
            queued_prompts: row::number(from, "queued_prompts")?,
        },
    })
}
