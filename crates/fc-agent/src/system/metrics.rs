//! How busy and how full the guest is, from the kernel's own tables.

use std::path::Path;
use std::time::Duration;

use aetherium_agent_proto::Refusal;
use aetherium_agent_proto::system::{
    CpuMetrics, DiskMetrics, InterfaceMetrics, MemoryMetrics, Metrics,
};

use crate::clock;
use crate::refuse::OrRefuse as _;

/// Reads everything once.
pub(super) fn read() -> Result<Metrics, Refusal> {
    let stat = proc("stat")?;
    let loadavg = proc("loadavg")?;
    let mut cpu = cpu(&stat, ticks_per_second());
    cpu.load = load(&loadavg);
    Ok(Metrics {
        uptime: Duration::from_millis(clock::uptime_ms()),
        cpu,
        memory: memory(&proc("meminfo")?),
        disk: disk()?,
        processes: processes()?,
        threads: threads(&loadavg),
        interfaces: interfaces(&proc("net/dev")?),
        agent_resident_bytes: resident(&proc("self/statm")?),
    })
}

fn proc(name: &str) -> Result<String, Refusal> {
    let path = Path::new("/proc").join(name);
    std::fs::read_to_string(&path).cannot("be read", &path)
}

fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}

/// `cpu user nice system idle iowait irq softirq steal …`, then a line for each processor.
fn cpu(stat: &str, ticks_per_second: u64) -> CpuMetrics {
    let is_one = |line: &&str| {
        line.strip_prefix("cpu")
            .is_some_and(|rest| rest.starts_with(|it: char| it.is_ascii_digit()))
    };
    let sum = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let ticks: Vec<u64> =
        sum.unwrap_or_default().split_ascii_whitespace().map_while(|it| it.parse().ok()).collect();
    let time = |fields: &[usize]| {
        let ticks: u64 = fields.iter().filter_map(|it| ticks.get(*it)).sum();
        Duration::from_millis(ticks.saturating_mul(1_000) / ticks_per_second)
    };
    CpuMetrics {
        online: u32::try_from(stat.lines().filter(is_one).count()).unwrap_or(u32::MAX),
        busy: time(&[0, 1, 2, 5, 6]),
        idle: time(&[3, 4]),
        steal: time(&[7]),
        load: [0.0; 3],
    }
}

/// `0.52 0.41 0.30 1/123 4567`: averages, running and all threads, the last id.
fn load(loadavg: &str) -> [f64; 3] {
    let mut fields = loadavg.split_ascii_whitespace().map(|it| it.parse().unwrap_or(0.0));
    std::array::from_fn(|_| fields.next().unwrap_or(0.0))
}

fn threads(loadavg: &str) -> u64 {
    let all = loadavg.split_ascii_whitespace().nth(3).and_then(|it| it.split_once('/'));
    all.and_then(|(_, all)| all.parse().ok()).unwrap_or(0)
}

/// `Name:  value kB` lines.
fn memory(meminfo: &str) -> MemoryMetrics {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|it| it.split_ascii_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0).saturating_mul(1024)
    };
    MemoryMetrics {
        total_bytes: bytes("MemTotal"),
        available_bytes: bytes("MemAvailable"),
        cached_bytes: bytes("Cached"),
        swap_total_bytes: bytes("SwapTotal"),
        swap_free_bytes: bytes("SwapFree"),
    }
}

fn disk() -> Result<DiskMetrics, Refusal> {
    let root = Path::new("/");
    let found = rustix::fs::statvfs(root).cannot("be measured", root)?;
    Ok(DiskMetrics {
        total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        available_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        total_inodes: found.f_files,
        available_inodes: found.f_favail,
    })
}

/// Each process has a directory named by its id.
fn processes() -> Result<u64, Refusal> {
    let path = Path::new("/proc");
    let entries = std::fs::read_dir(path).cannot("be listed", path)?.flatten();
    let is_id = |name: &[u8]| name.iter().all(u8::is_ascii_digit);
    Ok(entries.filter(|it| is_id(it.file_name().as_encoded_bytes())).count() as u64)
}

/// `name: bytes packets errs drop fifo frame compressed multicast` received, then the same sent.
fn interfaces(dev: &str) -> Vec<InterfaceMetrics> {
    let interface = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> =
            numbers.split_ascii_whitespace().map_while(|it| it.parse().ok()).collect();
        let [
            rx,
            rx_packets,
            rx_errors,
            rx_dropped,
            _,
            _,
            _,
            _,
            tx,
            tx_packets,
            tx_errors,
            tx_dropped,
            ..,
        ] = numbers[..]
        else {
            return None;
        };
        Some(InterfaceMetrics {
            name: name.trim().to_owned(),
            received_bytes: rx,
            sent_bytes: tx,
            received_packets: rx_packets,
            sent_packets: tx_packets,
            errors: rx_errors.saturating_add(tx_errors),
            dropped: rx_dropped.saturating_add(tx_dropped),
        })
    };
    dev.lines().filter_map(interface).filter(|it| it.name != "lo").collect()
}

/// The second number of `statm` is the resident pages.
fn resident(statm: &str) -> u64 {
    let pages = statm.split_ascii_whitespace().nth(1).and_then(|it| it.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn processor_time_is_told_busy_from_idle() {
        let stat = "cpu  100 20 30 4000 50 6 7 8 0 0\ncpu0 1 2 3\ncpu1 1 2 3\nintr 5\nctxt 9\n";
        let cpu = cpu(stat, 100);
        assert_eq!(cpu.online, 2);
        assert_eq!(cpu.busy, Duration::from_millis(1_630));
        assert_eq!(cpu.idle, Duration::from_millis(40_500));
        assert_eq!(cpu.steal, Duration::from_millis(80));
    }

    #[test]
    fn load_and_threads_are_on_one_line() {
        let line = "0.52 0.41 0.30 1/123 4567\n";
        assert_eq!((load(line), threads(line)), ([0.52, 0.41, 0.30], 123));
    }

    #[test]
    fn memory_is_in_bytes() {
        let memory =
            memory("MemTotal:  2048 kB\nMemAvailable: 1024 kB\nSwapCached: 9 kB\nCached: 4 kB\n");
        assert_eq!(memory.total_bytes, 2 << 20);
        assert_eq!((memory.available_bytes, memory.cached_bytes), (1 << 20, 4096));
    }

    #[test]
    fn the_loopback_is_no_interface_worth_telling() {
        let dev = "Inter-| Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
                   eth0: 10 2 1 1 0 0 0 0 20 4 2 2 0 0 0 0\n";
        let found = interfaces(dev);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].received_bytes, found[0].sent_bytes), (10, 20));
        assert_eq!((found[0].errors, found[0].dropped), (3, 3));
    }

    proptest! {
        #[test]
        fn no_table_makes_the_readers_fail(text in "\\PC{0,120}") {
            let _ = (cpu(&text, 100), load(&text), threads(&text), memory(&text), interfaces(&text));
        }
    }
}
