//! What a VM's processes cost the host, as `/proc` tells. Read only.

use crate::{Footprint, procfs};
use aetherium_model::metrics::HostUsage;
use std::fs;

impl Footprint {
    /// What its processes use now, added up. One that has ended uses nothing.
    pub fn usage(&self) -> HostUsage {
        let mut usage = HostUsage::default();
        for who in &self.processes {
            let Ok(Some(stat)) = procfs::stat(who.pid) else { continue };
            if stat.start_ticks != who.start_ticks {
                continue;
            }
            usage.cpu_ms += stat.cpu_ticks * 1000 / rustix::param::clock_ticks_per_second();
            usage.threads += stat.threads;
            usage.resident_bytes += resident_bytes(who.pid);
        }
        usage
    }
}

/// Resident memory: the second field of `/proc/<pid>/statm`, in pages; see proc(5).
fn resident_bytes(pid: u32) -> u64 {
    // A process that has ended has none.
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    pages.unwrap_or(0) * page_bytes
}
