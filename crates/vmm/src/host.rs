//! What every driver needs of its host, as findings.

use aetherium_model::finding::Finding;
use std::{fs, path::Path};

const MIB: u64 = 1024 * 1024;
/// The least memory with which a default VM and the server fit.
const COMFORTABLE_MEMORY_MIB: u64 = 1024;
/// The least free disk with which a template can be built and a few VMs run.
const COMFORTABLE_DISK_MIB: u64 = 2048;

/// Memory that is available now.
pub(crate) fn memory() -> Finding {
    let (check, why) = ("host.memory", "each VM's memory comes out of the host's");
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match available_mib(&meminfo) {
        Some(mib) if mib >= COMFORTABLE_MEMORY_MIB => {
            Finding::ok(check, format!("{mib} MiB available"), why)
        }
        Some(mib) => {
            let remedy = "stop other programs, or give VMs less memory";
            Finding::warn(check, format!("only {mib} MiB available"), why, remedy)
        }
        None => Finding::warn(check, "/proc/meminfo does not tell", why, "mount /proc"),
    }
}

fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

/// Free space where disks are made. The directory need not exist yet: its nearest parent counts.
pub(crate) fn disk(data_dir: &Path) -> Finding {
    let (check, why) = ("host.disk", "templates and the disks of VMs live in the data directory");
    let Some(existing) = data_dir.ancestors().find(|dir| dir.exists()) else {
        let found = format!("{} does not exist", data_dir.display());
        return Finding::fail(check, found, why, "choose a data directory that can be made");
    };
    match rustix::fs::statvfs(existing) {
        Ok(stat) => {
            let mib = stat.f_bavail.saturating_mul(stat.f_frsize) / MIB;
            let found = format!("{mib} MiB free in {}", existing.display());
            if mib >= COMFORTABLE_DISK_MIB {
                Finding::ok(check, found, why)
            } else {
                Finding::warn(
                    check,
                    found,
                    why,
                    "free space there, or choose another data directory",
                )
            }
        }
        Err(error) => {
            let found = format!("{}: {error}", existing.display());
            Finding::fail(check, found, why, "choose a data directory that can be read")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_mib() {
        let meminfo = "MemTotal:       24684000 kB\nMemAvailable:   23747072 kB\n";
        assert_eq!(available_mib(meminfo), Some(23190));
        assert_eq!(available_mib(""), None);
    }

    #[test]
    fn a_data_directory_yet_to_be_made_counts_as_its_parent() {
        let parent = tempfile::tempdir().unwrap();
        let finding = disk(&parent.path().join("a/b"));
        assert!(finding.found.contains(&parent.path().display().to_string()), "{finding:?}");
    }
}
