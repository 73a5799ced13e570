//! What Firecracker needs of its host, beyond being there itself.
//!
//! Opens `/dev/kvm` and makes a VM without memory or CPUs, which ends with its file; whether guests
//! really run is for the probe to show. Everything else is only read.

use super::plan::{CpuVendor, FirecrackerVersion, HostFacts, KnownBad};
use crate::kvm_device;
use aetherium_model::finding::Finding;
use rustix::fs::{StatFs, statfs};
use std::{fs, path::Path};

/// `CGROUP2_SUPER_MAGIC` of Linux.
const CGROUP2_MAGIC: i64 = 0x6367_7270;
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
const FREE_HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

/// Looks at the host, and at the version if Firecracker told it.
pub(crate) fn findings(version: Option<FirecrackerVersion>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = version.map(version_finding).into_iter().collect();
    findings.extend([kvm_device(), cgroups()]);
    findings
}

impl HostFacts {
    /// What this host has. What cannot be read counts as not there.
    pub fn of_host() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let pages = fs::read_to_string(FREE_HUGE_PAGES).unwrap_or_default();
        Self {
            cpu_vendor: vendor(&cpuinfo),
            free_huge_pages: pages.trim().parse().unwrap_or_default(),
        }
    }
}

fn vendor(cpuinfo: &str) -> CpuVendor {
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("vendor_id")?.split_once(':'));
    match name.map(|it| it.1.trim()) {
        Some("GenuineIntel") => CpuVendor::Intel,
        Some("AuthenticAMD") => CpuVendor::Amd,
        _ => CpuVendor::Other,
    }
}

/// Which defects the version has, by name.
fn version_finding(version: FirecrackerVersion) -> Finding {
    let check = "firecracker.version";
    let why = "later versions have more features and fewer known defects";
    let known: Vec<&str> = version.known_bad().map(KnownBad::what).collect();
    if known.is_empty() {
        return Finding::ok(check, format!("{version} has no known defect"), why);
    }
    let found = format!("{version}: {}", known.join("; "));
    // The last defect of the recommended version has no release without it yet.
    if version >= FirecrackerVersion::RECOMMENDED {
        return Finding::ok(check, found, why);
    }
    let remedy = format!("install Firecracker {} or later", FirecrackerVersion::RECOMMENDED);
    Finding::warn(check, found, why, remedy)
}

/// Whether KVM is there and makes VMs; that guests run is for a probe to show.
pub fn kvm_device() -> Finding {
    let (check, why) = ("kvm.device", "Firecracker runs guests under KVM alone");
    match kvm_device::try_vm() {
        Ok(()) => Finding::ok(check, "/dev/kvm opens and makes a VM", why),
        Err(error) => Finding::fail(check, error.to_string(), why, error.remedy()),
    }
}

/// Which cgroups the host has.
fn cgroups() -> Finding {
    let check = "host.cgroup";
    let why = "each VM's CPU, memory and processes are limited by a cgroup of its own";
    let remedy = "boot the host with systemd.unified_cgroup_hierarchy=1";
    match statfs(CGROUP_ROOT) {
        Ok(StatFs { f_type, .. }) if f_type == CGROUP2_MAGIC => {
            Finding::ok(check, format!("version 2 at {CGROUP_ROOT}"), why)
        }
        Ok(_) if Path::new(CGROUP_ROOT).join("unified").is_dir() => {
            let found = "versions 1 and 2 side by side: the controllers are version 1's";
            Finding::warn(check, found, why, remedy)
        }
        Ok(_) if Path::new(CGROUP_ROOT).join("memory").is_dir() => {
            Finding::warn(check, "version 1 alone: VMs run without limits", why, remedy)
        }
        Ok(_) => Finding::warn(check, "none: VMs run without limits", why, remedy),
        Err(error) => {
            let found = format!("{CGROUP_ROOT}: {error}: VMs run without limits");
            Finding::warn(check, found, why, remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aetherium_model::finding::Verdict;

    #[test]
    fn the_vendor_of_the_cpus_is_read_by_its_name() {
        let cpuinfo = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\n";
        assert_eq!(vendor(cpuinfo), CpuVendor::Amd);
        assert_eq!(vendor("vendor_id\t: GenuineIntel\n"), CpuVendor::Intel);
        assert_eq!(vendor(""), CpuVendor::Other);
    }

    #[test]
    fn an_old_version_is_warned_about_by_the_name_of_its_defects() {
        let old = version_finding(FirecrackerVersion::release(1, 14, 0));
        assert_eq!(old.verdict, Verdict::Warn);
        assert!(old.found.contains("diff snapshots") && old.remedy.contains("1.16.1"), "{old:?}");
        let recommended = version_finding(FirecrackerVersion::RECOMMENDED);
        assert_eq!(recommended.verdict, Verdict::Ok);
        assert!(recommended.found.contains("pause and resume"), "{recommended:?}");
    }

    #[test]
    fn every_check_says_why_it_matters_and_what_to_do() {
        for finding in findings(Some(FirecrackerVersion::OLDEST)) {
            assert!(!finding.why.is_empty() && !finding.found.is_empty(), "{finding:?}");
            assert_eq!(finding.remedy.is_empty(), finding.verdict == Verdict::Ok, "{finding:?}");
        }
    }
}
