//! Where the VMs of builds have their files: a directory each, locked by whoever runs the VM.
//!
//! The lock is the kernel's, so that it ends with its process however that ends. A directory whose lock
//! can be had is what a killed build left: its processes are ended, and it is removed.

use crate::{WorkerError, layout::private_dir};
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

/// The directory of one VM of a build.
pub(super) struct Place {
    path: PathBuf,
    _lock: File,
}

impl Place {
    /// Makes one in `builds`.
    pub(super) fn make(builds: &Path) -> Result<Self, WorkerError> {
        // Held until the new directory is locked: nobody may take it for a dead one.
        let _all = lock(builds, FlockOperation::LockExclusive)?;
        // Short, since sockets will be in it.
        let path = builds.join(format!("{:08x}", rand::random::<u32>()));
        private_dir(&path)?;
        let lock = lock(&path, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with all that is in it.
    pub(super) fn remove(self) {
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
        let root = place.path.clone();
        let strays = tokio::task::spawn_blocking(move || aetherium_vmm::strays(&root)).await;
        for stray in strays.into_iter().flatten().flatten() {
            tracing::warn!(vm = %stray.vm_id, "a VM of a killed build is ended");
            if let Err(error) = stray.kill(KILL_DEADLINE).await {
                tracing::error!(vm = %stray.vm_id, %error, "it would not die");
            }
            if let Err(error) = driver.sweep(stray.vm_id, &place.path).await {
                tracing::error!(vm = %stray.vm_id, %error, "something of it is left");
            }
        }
        place.remove();
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
            dead.push(Place { path, _lock: lock });
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
        let alive = Place::make(dir.path()).unwrap();
        let left = dir.path().join("00000000");
        fs::create_dir(&left).unwrap();
        let dead: Vec<_> = dead_places(dir.path()).unwrap().into_iter().map(|it| it.path).collect();
        assert_eq!(dead, [left]);
        let path = alive.path().to_owned();
        drop(alive);
        assert!(dead_places(dir.path()).unwrap().iter().any(|it| it.path == path));
    }
}
