//! Where the VMs of builds have their files: a directory each, locked by whoever runs the VM.
//!
//! The lock is the kernel's, so that it ends with its process however that ends. A directory whose lock
//! can be had is what a killed build left: its processes are ended, what they took of the host is given
//! back, and it is removed.

use super::network;
use crate::{WorkerError, layout::private_dir};
use aetherium_model::VmId;
use aetherium_vmm::Vmm;
use rustix::fs::FlockOperation;
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How long killed processes may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// The file that says which VM a directory is of.
const VM: &str = "vm";

/// The directory of one VM of a build.
pub(super) struct Place {
    path: PathBuf,
    /// Unknown where its maker was killed at once: then there is nothing but the directory.
    vm_id: Option<VmId>,
    _lock: File,
}

impl Place {
    /// Makes one in `builds`.
    pub(super) fn make(builds: &Path, vm_id: VmId) -> Result<Self, WorkerError> {
        // Held until the new directory is locked: nobody may take it for a dead one.
        let _all = lock(builds, FlockOperation::LockExclusive)?;
        // Short, since sockets will be in it.
        let path = builds.join(format!("{:08x}", rand::random::<u32>()));
        private_dir(&path)?;
        let lock = lock(&path, FlockOperation::NonBlockingLockExclusive)?;
        let file = path.join(VM);
        fs::write(&file, vm_id.to_string()).map_err(|error| WorkerError::io(&file, error))?;
        Ok(Self { path, vm_id: Some(vm_id), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Ends what still runs of its VM, gives back what that took of the host, and removes it. What cannot be
    /// given back now is left for the next build, and so is the directory that tells of it.
    pub(super) async fn clear(self, driver: &Arc<dyn Vmm>) {
        let root = self.path.clone();
        let strays = tokio::task::spawn_blocking(move || aetherium_vmm::strays(&root)).await;
        for stray in strays.into_iter().flatten().flatten() {
            tracing::warn!(vm = %stray.vm_id, "a process of a build's VM is ended");
            if let Err(error) = stray.kill(KILL_DEADLINE).await {
                tracing::error!(vm = %stray.vm_id, %error, "it would not die");
            }
        }
        if let Some(vm) = self.vm_id {
            if let Err(error) = driver.sweep(vm, &self.path).await {
                tracing::error!(%vm, %error, "something of a build's VM is left");
            }
            if let Err(fault) = network::remove(&self, vm).await {
                tracing::error!(%vm, %fault, "the network of a build's VM is left to the next build");
                return;
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "left to the next build");
        }
    }
}

/// Ends and removes what killed builds left.
pub(super) async fn sweep(builds: &Path, driver: &Arc<dyn Vmm>) -> Result<(), WorkerError> {
    let root = builds.to_owned();
    let dead = tokio::task::spawn_blocking(move || dead_places(&root));
    let dead = dead.await.map_err(|error| WorkerError::io(builds, io::Error::other(error)))??;
    for place in dead {
        tracing::warn!(path = %place.path.display(), "what a killed build left is cleared away");
        place.clear(driver).await;
    }
    Ok(())
}

/// The directories whose owners are gone, now ours.
fn dead_places(builds: &Path) -> Result<Vec<Place>, WorkerError> {
    private_dir(builds)?;
    let _all = lock(builds, FlockOperation::LockExclusive)?;
    let mut dead = Vec::new();
    for entry in fs::read_dir(builds).map_err(|error| WorkerError::io(builds, error))? {
        let path = entry.map_err(|error| WorkerError::io(builds, error))?.path();
        if let Ok(lock) = lock(&path, FlockOperation::NonBlockingLockExclusive) {
            let vm_id = fs::read_to_string(path.join(VM)).ok().and_then(|id| id.parse().ok());
            dead.push(Place { path, vm_id, _lock: lock });
        }
    }
    Ok(dead)
}

fn lock(dir: &Path, how: FlockOperation) -> Result<File, WorkerError> {
    let file = File::open(dir).map_err(|error| WorkerError::io(dir, error))?;
    rustix::fs::flock(&file, how).map_err(|error| WorkerError::io(dir, error.into()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_place_that_nobody_holds_counts_as_dead() {
        let dir = tempfile::tempdir().unwrap();
        let vm = VmId::new();
        let alive = Place::make(dir.path(), vm).unwrap();
        let left = dir.path().join("00000000");
        fs::create_dir(&left).unwrap();
        let dead: Vec<_> = dead_places(dir.path()).unwrap().into_iter().map(|it| it.path).collect();
        assert_eq!(dead, [left]);
        let path = alive.path().to_owned();
        drop(alive);
        let dead = dead_places(dir.path()).unwrap();
        assert!(dead.iter().any(|it| it.path == path && it.vm_id == Some(vm)));
    }
}
