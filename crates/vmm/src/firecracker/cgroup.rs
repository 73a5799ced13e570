//! The cgroup of a jailed VM: what limits it, and its removal, which the jailer leaves to us.
//!
//! Only cgroup v2 is used, and only where it has the controllers. Elsewhere a VM runs without limits
//! of its own, and the preflight says so.

use crate::VmmError;
use aetherium_model::resources::Resources;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// The cgroup that holds those of all VMs, below the root of the hierarchy.
pub(crate) const PARENT: &str = "aetherium";

const MIB: u64 = 1024 * 1024;
/// What Firecracker needs beside its guest's memory: its own pages, the buffers of its devices, and
/// some page cache, without which the guest's disks would crawl.
const OVERHEAD_MIB: u64 = 128;
/// Threads of a Firecracker beside its virtual CPUs: the event loop, the API, and some to spare for
/// those of asynchronous I/O.
const SPARE_THREADS: u32 = 32;
/// The period of CPU quotas, in microseconds: the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;
/// How often a cgroup is tried to be removed while its last process is going.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The controllers that limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// A cgroup v2 hierarchy that can limit VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    root: PathBuf,
}

impl Hierarchy {
    /// The host's, or why VMs cannot be limited by it.
    pub(crate) fn of_host() -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let root = mount_point(&mounts).ok_or("cgroup v2 is not mounted")?;
        let listed = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let missing: Vec<&str> = CONTROLLERS
            .into_iter()
            .filter(|wanted| !listed.split_whitespace().any(|it| it == *wanted))
            .collect();
        if !missing.is_empty() {
            return Err(format!(
                "the cgroup v2 at {} lacks {}",
                root.display(),
                missing.join(", ")
            ));
        }
        // In a container it may be there to be looked at only.
        let writable = rustix::fs::access(&root, rustix::fs::Access::WRITE_OK);
        writable.map_err(|error| format!("the cgroup v2 at {}: {error}", root.display()))?;
        Ok(Self { root })
    }

    /// Where the cgroup of the jail `id` is.
    pub(crate) fn path(&self, id: &str) -> PathBuf {
        self.root.join(PARENT).join(id)
    }
}

/// The jailer's arguments for a VM of this size. What it writes of its memory into the host's, where it has a
/// directory for that, counts as its own.
pub(crate) fn limits(size: &Resources, has_volatile: bool) -> Vec<String> {
    let vcpus = size.vcpus.get();
    let guest = u64::from(size.memory_mib.get());
    let written = if has_volatile { guest } else { 0 };
    let memory = (guest + written + OVERHEAD_MIB) * MIB;
    // One more than the guest has, so that its devices do not wait for its own load.
    let quota = (u64::from(vcpus) + 1) * CPU_PERIOD_US;
    vec![
        format!("memory.max={memory}"),
        format!("pids.max={}", vcpus + SPARE_THREADS),
        format!("cpu.max={quota} {CPU_PERIOD_US}"),
    ]
}

/// Removes a cgroup whose processes have ended; one that is gone is fine.
pub(crate) async fn remove(path: &Path, deadline: Duration) -> Result<(), VmmError> {
    let until = Instant::now() + deadline;
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The kernel lets go of the last process a moment after it was reaped.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {
                sleep(LOOK_AGAIN).await;
            }
            Err(error) => return Err(VmmError::io("remove", path)(error)),
        }
    }
}

/// The first cgroup v2 of `/proc/self/mounts`, see proc(5) and fstab(5).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (place, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_by_its_type() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point("tmpfs /cgroup2 tmpfs rw 0 0\n"), None);
    }

    #[test]
    fn a_vm_may_use_its_size_and_what_its_vmm_needs() {
        let size = Resources {
            vcpus: 2.try_into().unwrap(),
            memory_mib: 256.try_into().unwrap(),
            ..Resources::default()
        };
        let expected = ["memory.max=402653184", "pids.max=34", "cpu.max=300000 100000"];
        assert_eq!(limits(&size, false), expected);
        assert_eq!(
            limits(&size, true)[0],
            "memory.max=671088640",
            "its memory, and that once more"
        );
    }

    #[tokio::test]
    async fn removing_what_is_gone_is_no_error_and_what_stays_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = dir.path().join("vm");
        remove(&cgroup, Duration::ZERO).await.unwrap();
        fs::create_dir(&cgroup).unwrap();
        fs::write(cgroup.join("file"), "").unwrap();
        remove(&cgroup, Duration::ZERO).await.unwrap_err();
    }
}
