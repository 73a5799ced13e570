//! What a VM has taken from this host, on disk, so that a worker that was killed knows on its next
//! start what to take over and what to release. One file per VM, replaced as a whole.

use crate::{
    WorkerError,
    layout::{Layout, replace_file},
};
use aetherium_agent_proto::Token;
use aetherium_model::{VmId, WorkspaceId, template::ImageDefaults};
use aetherium_net::Slot;
use aetherium_vmm::Footprint;
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
