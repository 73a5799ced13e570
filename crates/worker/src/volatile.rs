//! Memory of guests on its way to or from a disk: a directory for each VM in the host's own memory, where what
//! a guest knows may stand in clear.
//!
//! ```text
//! <tmpfs>/aetherium-<worker>/<vm>/     memory, state: here for as long as they are being encrypted or loaded
//! ```
//! A VM whose secrets must not reach a disk is hibernated through here, or not at all.

use crate::{WorkerError, layout::private_dir};
use aetherium_model::{Code, Fault, VmId, WorkerId};
use rustix::fs::statfs;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where a host's memory is a file system, unless its operator says otherwise.
pub(crate) const DEFAULT: &str = "/dev/shm";
/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of linux/magic.h.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// A worker's directory in the host's memory, which is made with the first VM's; or why it has none.
#[derive(Debug)]
pub(crate) struct Volatile(Result<Place, Fault>);

#[derive(Debug)]
struct Place {
    /// The directory that its operator named.
    below: PathBuf,
    root: PathBuf,
}

impl Volatile {
    /// Takes a directory below one that is in the host's memory.
    pub(crate) fn open(below: &Path, worker: WorkerId) -> Self {
        let opened = Self::try_open(below, worker);
        if let Err(why) = &opened {
            tracing::warn!(%why, "VMs that were given secrets will be stopped, and not hibernated");
        }
        Self(opened)
    }

    fn try_open(below: &Path, worker: WorkerId) -> Result<Place, Fault> {
        // VMMs run elsewhere.
        let below = std::path::absolute(below).map_err(|error| WorkerError::io(below, error))?;
        let found = statfs(&below).map_err(|error| WorkerError::io(&below, error.into()))?;
        if !IN_MEMORY.contains(&found.f_type) {
            let detail = format!("{} is not in this host's memory", below.display());
            return Err(Fault::new(Code::InvalidRequest, detail)
                .remedy("name a directory of a tmpfs with --volatile-dir"));
        }
        let root = below.join(format!("aetherium-{worker}"));
        Ok(Place { below, root })
    }

    /// Makes the directory of a VM; nothing where the host has no place for one.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn make(&self, vm: VmId) -> Result<Option<PathBuf>, WorkerError> {
        let Ok(Place { root, .. }) = &self.0 else { return Ok(None) };
        let dir = root.join(vm.to_string());
        private_dir(&dir)?;
        Ok(Some(dir))
    }

    /// Whether `bytes` more have room.
    ///
    /// # Errors
    /// [`Code::NoCapacity`]: not now. Or why there is no such place.
    pub(crate) fn check_room(&self, bytes: u64) -> Result<(), Fault> {
        let Place { below, .. } = self.0.as_ref().map_err(Clone::clone)?;
        let found = statfs(below).map_err(|error| WorkerError::io(below, error.into()))?;
        let free = found.f_bavail * u64::try_from(found.f_bsize).unwrap_or_default();
        if bytes <= free {
            return Ok(());
        }
        let detail = format!(
            "{} has {free} bytes free, and a guest's memory takes {bytes} of it for a while",
            below.display()
        );
        Err(Fault::new(Code::NoCapacity, detail)
            .remedy("make it larger, or name another tmpfs with --volatile-dir"))
    }

    /// Removes what is there of a VM, the directory with it.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn remove(&self, vm: VmId) -> Result<(), WorkerError> {
        let Ok(Place { root, .. }) = &self.0 else { return Ok(()) };
        let dir = root.join(vm.to_string());
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(WorkerError::io(&dir, error))
            }
            _ => Ok(()),
        }
    }

    /// Removes what is there of a VM, but for the directory: its VMM may have that open.
    pub(crate) fn clear(&self, vm: VmId) {
        if let Ok(Place { root, .. }) = &self.0 {
            clear(&root.join(vm.to_string()));
        }
    }

    /// The VMs that have a directory.
    pub(crate) fn vms(&self) -> Vec<VmId> {
        let Ok(Place { root, .. }) = &self.0 else { return Vec::new() };
        let names = fs::read_dir(root).into_iter().flatten().flatten().map(|it| it.file_name());
        names.filter_map(|name| name.to_str()?.parse().ok()).collect()
    }

    /// Removes the worker's directory, once no VM has one.
    pub(crate) fn close(&self) {
        if let Ok(Place { root, .. }) = &self.0
            && let Err(error) = fs::remove_dir(root)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %root.display(), %error, "the directory for guests' memory is left");
        }
    }
}

/// Removes what may be left in a VM's directory of a snapshot that was given up half way.
pub(crate) fn clear(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if let Err(error) = fs::remove_file(entry.path()) {
            tracing::error!(path = %entry.path().display(), %error, "a guest's memory is left");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_in_the_hosts_memory_is_taken() {
        let on_disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let volatile = Volatile::open(on_disk.path(), WorkerId::new());
        let why = volatile.check_room(1).unwrap_err();
        assert!(why.detail.contains("is not in this host's memory"), "{why}");
        assert_eq!(volatile.make(VmId::new()).unwrap(), None);
        assert_eq!(fs::read_dir(on_disk.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_vms_directory_goes_with_the_vm_and_the_workers_with_the_worker() {
        let below = tempfile::tempdir_in(DEFAULT).unwrap();
        let volatile = Volatile::open(below.path(), WorkerId::new());
        let vm = VmId::new();
        let dir = volatile.make(vm).unwrap().unwrap();
        fs::write(dir.join("memory"), "m").unwrap();
        assert_eq!(volatile.vms(), [vm]);
        clear(&dir);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        volatile.remove(vm).unwrap();
        volatile.remove(vm).unwrap();
        volatile.check_room(1 << 10).unwrap();
        assert_eq!(volatile.check_room(u64::MAX).unwrap_err().code, Code::NoCapacity);
        volatile.close();
        assert_eq!(fs::read_dir(below.path()).unwrap().count(), 0);
    }
}
