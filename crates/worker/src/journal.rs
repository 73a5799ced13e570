//! What a VM has taken from this host, on disk, so that a worker that was killed knows on its next
//! start what to take over and what to release. One file per VM, replaced as a whole.

use crate::{
    WorkerError,
    layout::{Layout, replace_file},
    metrics::StartedFrom,
};
use aetherium_agent_proto::Token;
use aetherium_model::{Code, Fault, VmId, WorkspaceId, template::ImageDefaults};
use aetherium_net::Slot;
use aetherium_vmm::{Footprint, SnapshotBase};
use serde::{Deserialize, Serialize};
use std::{fs, io, path::Path};

/// The journal's name in the VM's directory.
pub(crate) const FILE: &str = "journal.json";

/// One VM's journal.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// Whose it is.
    pub(crate) vm_id: VmId,
    /// The workspace it serves, if any.
    pub(crate) workspace_id: Option<WorkspaceId>,
    /// What its agent demands over TCP, in clear: only the owner may read the file.
    pub(crate) token: Token,
    /// What its template's image says about commands.
    #[serde(default)]
    pub(crate) image: ImageDefaults,
    /// Its part of the host's network, if it has one.
    #[serde(default)]
    pub(crate) slot: Option<Slot>,
    /// Its processes and sockets; absent until they were started.
    pub(crate) footprint: Option<Footprint>,
    /// Whether its start has come to its end. Journals of earlier versions do not tell.
    #[serde(default)]
    pub(crate) readiness: Readiness,
    /// What a diff snapshot of it would build upon.
    #[serde(default)]
    pub(crate) diff_base: DiffBase,
    /// What its guest comes from. Journals of earlier versions do not tell.
    #[serde(default)]
    pub(crate) started_from: StartedFrom,
}

/// Whether a VM's start has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Readiness {
    /// Its guest may run, and has not shown yet that it can be used.
    Awaited,
    /// It could be used.
    #[default]
    Seen,
}

/// What a diff snapshot of a VM would build upon: what its VMM notes is what was written since.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DiffBase {
    /// Nothing: written pages are not noted.
    #[default]
    Untracked,
    /// Nothing yet.
    NoneYet,
    /// This snapshot.
    Since(SnapshotBase),
    /// Nothing any more: the VMM has forgotten what was written since.
    Forgotten,
}

impl DiffBase {
    /// The base, or why there is none.
    pub(crate) fn known(self, vm: VmId) -> Result<SnapshotBase, Fault> {
        let refuse =
            |detail: String, remedy: &str| Err(Fault::new(Code::Conflict, detail).remedy(remedy));
        match self {
            Self::Since(base) => Ok(base),
            Self::Untracked => refuse(
                format!("the pages that {vm} writes are not noted, which diff snapshots need"),
                "create VMs, or their template, with snapshots `diff`; or take a full one",
            ),
            Self::NoneYet => refuse(
                format!("there is no snapshot of {vm} yet that a diff could build upon"),
                "take a full one first",
            ),
            Self::Forgotten => refuse(
                format!(
                    "which pages {vm} has written since its last snapshot is forgotten: it was \
                     paused by other means than a snapshot, or one failed"
                ),
                "take a full one; diffs can build upon that",
            ),
        }
    }

    /// After a snapshot.
    pub(crate) fn at(&self, base: SnapshotBase) -> Self {
        match self {
            Self::Untracked => Self::Untracked,
            Self::NoneYet | Self::Since(_) | Self::Forgotten => Self::Since(base),
        }
    }

    /// After the VMM has forgotten what was written.
    pub(crate) fn forgotten(&self) -> Self {
        match self {
            Self::Since(_) => Self::Forgotten,
            Self::Untracked | Self::NoneYet | Self::Forgotten => self.clone(),
        }
    }
}

impl Journal {
    /// Writes the journal into the VM's directory.
    pub(crate) fn write(&self, layout: &Layout) -> Result<(), WorkerError> {
        let text = serde_json::to_vec_pretty(self).map_err(WorkerError::Encode)?;
        replace_file(&layout.vm(self.vm_id).join(FILE), &text)
    }

    /// Reads the journal of the VM whose directory this is; `None` where there is none or it is
    /// not readable as one, which for the caller is the same: nothing there can be taken over.
    pub(crate) fn read(vm_dir: &Path) -> Result<Option<Self>, WorkerError> {
        let path = vm_dir.join(FILE);
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text)
                .inspect_err(
                    |error| tracing::warn!(path = %path.display(), %error, "unreadable journal"),
                )
                .ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(WorkerError::io(&path, error)),
        }
    }

    /// Removes the journal: the VM has taken nothing any more.
    pub(crate) fn remove(vm_dir: &Path) -> Result<(), WorkerError> {
        let path = vm_dir.join(FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(WorkerError::io(&path, error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aetherium_vmm::FileDigest;

    #[test]
    fn a_diff_builds_upon_the_last_snapshot_and_upon_none_once_the_vmm_has_forgotten() {
        let digest = FileDigest { size: 1, digest: "blake3:a".to_owned() };
        let base = SnapshotBase { name: "warm".parse().unwrap(), memory: digest };
        let vm = VmId::new();
        let code = |state: DiffBase| state.known(vm).unwrap_err().code;
        assert_eq!(code(DiffBase::Untracked.at(base.clone())), Code::Conflict, "never noted");
        assert_eq!(code(DiffBase::NoneYet.forgotten()), Code::Conflict);
        let since = DiffBase::NoneYet.at(base.clone());
        assert_eq!(since.clone().known(vm).unwrap(), base);
        let forgotten = since.forgotten();
        assert!(forgotten.clone().known(vm).unwrap_err().detail.contains("forgotten"));
        assert_eq!(forgotten.at(base.clone()).known(vm).unwrap(), base, "until the next");
    }
}
