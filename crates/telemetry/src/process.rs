//! What this process takes of its machine, under the names that Prometheus' own clients use.

use crate::Observed;
use async_trait::async_trait;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge, info::Info},
    registry::Registry,
};
use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};
use std::{
    fs, io,
    sync::atomic::{AtomicU64, Ordering},
};

/// The process, as the kernel counts it.
#[derive(Debug, Default)]
pub struct Process {
    role: &'static str,
    cpu_seconds: Counter<f64, AtomicU64>,
    resident_bytes: Gauge<u64, AtomicU64>,
    virtual_bytes: Gauge<u64, AtomicU64>,
    threads: Gauge<u64, AtomicU64>,
    open_fds: Gauge<u64, AtomicU64>,
    max_fds: Gauge<u64, AtomicU64>,
    start_seconds: Gauge<f64, AtomicU64>,
}

impl Process {
    /// This process, in this role.
    pub fn new(role: &'static str) -> Self {
        Self { role, ..Self::default() }
    }

    fn read(&self) -> io::Result<()> {
        let stat = Stat::of(&fs::read_to_string("/proc/self/stat")?)
            .ok_or_else(|| io::Error::other("/proc/self/stat is not as proc(5) has it"))?;
        self.cpu_seconds.inner().store(stat.cpu_seconds.to_bits(), Ordering::Relaxed);
        self.resident_bytes.set(stat.resident_bytes);
        self.virtual_bytes.set(stat.virtual_bytes);
        self.threads.set(stat.threads);
        let boot = fs::read_to_string("/proc/stat")?;
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok());
        self.start_seconds.set(boot.unwrap_or_default() + stat.after_boot);
        // One of them is open for counting.
        let open = fs::read_dir("/proc/self/fd")?.count().saturating_sub(1);
        self.open_fds.set(u64::try_from(open).unwrap_or(u64::MAX));
        self.max_fds.set(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX));
        Ok(())
    }
}

#[async_trait]
impl Observed for Process {
    fn register(&self, registry: &mut Registry) {
        let build = Info::new([("version", env!("CARGO_PKG_VERSION")), ("role", self.role)]);
        registry.register("aetherium_build", "What this process is", build);
        let mut add = |name: &str, help: &str, gauge: &Gauge<u64, AtomicU64>| {
            registry.register(name, help, gauge.clone());
        };
        add("process_resident_memory_bytes", "Resident memory", &self.resident_bytes);
        add("process_virtual_memory_bytes", "Virtual memory", &self.virtual_bytes);
        add("process_threads", "Threads", &self.threads);
        add("process_open_fds", "Open file descriptors", &self.open_fds);
        add("process_max_fds", "File descriptors that may be open", &self.max_fds);
        let cpu = self.cpu_seconds.clone();
        registry.register("process_cpu_seconds", "Processor time, in user and system mode", cpu);
        let start = self.start_seconds.clone();
        registry.register("process_start_time_seconds", "Its start, since the Unix epoch", start);
    }

    async fn refresh(&self) {
        if let Err(error) = self.read() {
            tracing::warn!(%error, "what this process uses could not be read");
        }
    }
}

/// A part of /proc/self/stat, see proc_pid_stat(5).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: u64,
    /// When it was started, in seconds since the machine's boot.
    after_boot: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Stat {
    fn of(text: &str) -> Option<Self> {
        // The program's name stands in brackets and may hold anything; the third field follows it.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        #[expect(clippy::cast_precision_loss, reason = "of ticks in centuries")]
        let seconds = |ticks: u64| ticks as f64 / clock_ticks_per_second() as f64;
        Some(Self {
            cpu_seconds: seconds(field(14)? + field(15)?),
            threads: field(20)?,
            after_boot: seconds(field(22)?),
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * u64::try_from(page_size()).ok()?,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "these are tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_process_has_memory_threads_a_start_and_standard_streams() {
        let process = Process::new("test");
        process.refresh().await;
        assert!(process.resident_bytes.get() > 1 << 20, "{process:?}");
        assert!(process.virtual_bytes.get() >= process.resident_bytes.get());
        assert!(process.threads.get() >= 1 && process.open_fds.get() >= 3);
        assert!(process.max_fds.get() > process.open_fds.get());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - process.start_seconds.get();
        assert!((-2.0..600.0).contains(&age), "started {age} s ago");
    }

    #[test]
    fn a_programs_name_may_hold_anything() {
        let text = "7 (a) b) (c)) S 1 2 3 4 5 6 7 8 9 10 100 50 0 0 20 0 4 0 900 8192 2 0";
        let stat = Stat::of(text).unwrap();
        assert_eq!((stat.threads, stat.virtual_bytes), (4, 8192));
    }
}
