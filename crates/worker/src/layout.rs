//! Where a worker keeps its files: the one place that knows the names inside the data directory.
//!
//! ```text
//! <data>/worker-id            this worker's identity, kept across restarts
//! <data>/worker.sock          the internal API
//! <data>/templates/           kernels, initramfs, root filesystems by content; see `TemplateStore`
//! <data>/blanks/              empty filesystems, one per size
//! <data>/probes/              verdicts of probe guests
//! <data>/builds/              VMs of templates that are being built
//! <data>/cache/steps/         root filesystems that steps of builds have left
//! <data>/snapshots/<name>/    memory, devices, disk, manifest
//! <data>/vms/<id>/            journal, sockets, console, the VM's own disk
//! <data>/workspaces/<id>/     the workspace's disk, snapshots of it, and its hibernated VM's memory
//! ```

use crate::WorkerError;
use aetherium_model::{VmId, WorkspaceId};
use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Unix socket paths end at 107 bytes (`sun_path` in unix(7)); the longest name below the data
/// directory is `/vms/vm_<26>/` and a socket's name.
const MAX_DATA_DIR_BYTES: usize =
    107 - "/vms/vm_01234567890123456789012345/".len() - "vsock.sock_65535".len();

/// A worker's part of the data directory.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Opens the data directory, making what is missing; only its owner may enter.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(root: &Path) -> Result<Self, WorkerError> {
        let root = std::path::absolute(root).map_err(|source| WorkerError::io(root, source))?;
        let layout = Self { root };
        for dir in [
            layout.root.clone(),
            layout.templates(),
            layout.blanks(),
            layout.probes(),
            layout.builds(),
            layout.snapshots(),
            layout.vms(),
            layout.workspaces(),
        ] {
            private_dir(&dir)?;
        }
        Ok(layout)
    }

    /// Whether the names of VMs' sockets below the data directory will not be too long.
    ///
    /// # Errors
    /// They will: no VM could be started.
    pub fn check_room_for_sockets(&self) -> Result<(), WorkerError> {
        let length = self.root.as_os_str().len();
        if length <= MAX_DATA_DIR_BYTES {
            return Ok(());
        }
        let path = self.root.clone();
        Err(WorkerError::DataDirTooLong { path, length, most: MAX_DATA_DIR_BYTES })
    }

    /// The data directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file that holds the worker's id.
    pub fn worker_id(&self) -> PathBuf {
        self.root.join("worker-id")
    }

    /// The socket of the internal API.
    pub fn socket(&self) -> PathBuf {
        self.root.join("worker.sock")
    }

    /// The store of templates.
    pub fn templates(&self) -> PathBuf {
        self.root.join("templates")
    }

    /// Empty filesystems to copy.
    pub fn blanks(&self) -> PathBuf {
        self.root.join("blanks")
    }

    /// Verdicts of probe guests.
    pub fn probes(&self) -> PathBuf {
        self.root.join("probes")
    }

    /// VMs of templates that are being built.
    pub fn builds(&self) -> PathBuf {
        self.root.join("builds")
    }

    /// Root filesystems that steps of builds have left.
    pub fn steps(&self) -> PathBuf {
        self.root.join("cache/steps")
    }

    /// Snapshots by name.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// All VMs.
    pub fn vms(&self) -> PathBuf {
        self.root.join("vms")
    }

    /// One VM.
    pub fn vm(&self, id: VmId) -> PathBuf {
        self.vms().join(id.to_string())
    }

    /// Says, by being there, that a VM was given secrets.
    pub fn secrets_mark(&self, id: VmId) -> PathBuf {
        self.vm(id).join("was-given-secrets")
    }

    /// All workspaces.
    pub fn workspaces(&self) -> PathBuf {
        self.root.join("workspaces")
    }

    /// One workspace.
    pub fn workspace(&self, id: WorkspaceId) -> PathBuf {
        self.workspaces().join(id.to_string())
    }

    /// One workspace's disk.
    pub fn workspace_disk(&self, id: WorkspaceId) -> PathBuf {
        self.workspace(id).join("disk.ext4")
    }

    /// The memory of one workspace's hibernated VM.
    pub fn hibernation(&self, id: WorkspaceId) -> PathBuf {
        self.workspace(id).join("hibernation")
    }

    /// Snapshots of one workspace's disk.
    pub fn disk_snapshots(&self, id: WorkspaceId) -> PathBuf {
        self.workspace(id).join("snapshots")
    }
}

/// Makes a directory, with its parents, that only its owner may enter; one that exists is kept.
///
/// # Errors
/// It cannot be made, or belongs to somebody else.
pub(crate) fn private_dir(path: &Path) -> Result<(), WorkerError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .map_err(|source| WorkerError::io(path, source))
}

/// Replaces a file's content so that a reader, or a crash at any point, sees the old or the new
/// content and never a part. Only the owner may read it.
///
/// # Errors
/// The file or its directory cannot be written.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> Result<(), WorkerError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let temporary = path.with_extension("new");
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|source| WorkerError::io(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_too_deep_for_sockets_is_refused_before_any_vm_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(&dir.path().join("x".repeat(100))).unwrap();
        let error = layout.check_room_for_sockets().unwrap_err().to_string();
        assert!(error.contains("--data-dir"), "{error}");
        Layout::open(&dir.path().join("x")).unwrap().check_room_for_sockets().unwrap();
    }

    #[test]
    fn only_the_owner_may_enter_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(&dir.path().join("data")).unwrap();
        let mode = fs::metadata(layout.vms()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
