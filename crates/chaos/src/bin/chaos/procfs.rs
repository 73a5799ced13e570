//! What the kernel says of processes and time.

use chaos::evidence::uptime_ms;
use std::fs;

/// The mark that every process of a VM carries in its environment.
const MARK: &str = "AETHERIUM_VM=";

/// Milliseconds since the machine's start.
pub(crate) fn now_ms() -> u64 {
    fs::read_to_string("/proc/uptime").ok().and_then(|it| uptime_ms(&it)).unwrap_or_default()
}

/// A process of a VM.
pub(crate) struct OfVm {
    pub(crate) pid: u32,
    pub(crate) name: String,
    pub(crate) vm: String,
}

/// Every process of a VM that lives. The dead have no environment.
pub(crate) fn of_vms() -> Vec<OfVm> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let variables = environ.split(|byte| *byte == 0);
        let mark = variables.into_iter().find_map(|it| it.strip_prefix(MARK.as_bytes()))?;
        let vm = String::from_utf8_lossy(mark).into_owned();
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned();
        Some(OfVm { pid, name, vm })
    })
    .collect()
}
