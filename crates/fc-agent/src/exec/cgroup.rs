//! Limits on a process and all it starts, kept by the kernel: one cgroup (v2) for each.
//!
//! ```text
//! <where the agent is>           the root, or what a service manager delegated
//! ├── aetherium.agent            the agent, where it had to make way: only leaves may hold processes
//! └── aetherium.processes
//!     ├── 1                      one process with its limits
//!     └── 2
//! ```
//!
//! The tree is made when the first limit is asked for. Where there is no cgroup v2, or none the agent
//! may write to, asking is an error; nothing is ever run without a limit it was to have.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aetherium_agent_proto::ProcessLimits;

const AGENT_LEAF: &str = "aetherium.agent";
const PROCESSES: &str = "aetherium.processes";
/// The length of the period in which CPU time is counted, in µs: the kernel's own choice.
const CPU_PERIOD_US: u64 = 100_000;

/// Why limits cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("no cgroup v2 is mounted")]
    NotMounted,
    #[error("cgroup v2 has no `{0}` controller here")]
    NoController(&'static str),
    #[error("{path} cannot be written: {source}")]
    Write { path: String, source: io::Error },
    #[error("the process cannot enter its cgroup: {0}")]
    Entry(#[source] io::Error),
}

/// The agent's part of the tree.
pub(crate) struct Cgroups {
    /// Where the agent itself is; `None` without cgroup v2.
    own: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Cgroups whose process has ended while others it started go on.
    left: Vec<PathBuf>,
}

/// One process's cgroup. Removed when dropped, if nothing is left in it.
pub(crate) struct Cgroup {
    dir: PathBuf,
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Where something is left in it, [`Cgroups::retire`] remembers it.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// What a cgroup saw.
pub(super) struct Usage {
    pub(super) oom_killed: bool,
    pub(super) peak_memory_bytes: Option<u64>,
}

impl Cgroups {
    /// Finds the agent's place in the tree, if there is one.
    pub(crate) fn find() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let own = own_dir(&read("/proc/self/mounts"), &read("/proc/self/cgroup"));
        Self { own, state: Mutex::default() }
    }

    /// Makes a cgroup with these limits.
    pub(super) fn create(&self, limits: &ProcessLimits) -> Result<Cgroup, CgroupError> {
        let own = self.own.as_ref().ok_or(CgroupError::NotMounted)?;
        let processes = own.join(PROCESSES);
        let controllers = controllers(limits);
        offered(own, &controllers)?;
        make_dir(&processes)?;
        delegate(own, &controllers)?;
        enable(&processes, &controllers)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // What was left has ended by now, or is left again.
        state.left.retain(|dir| fs::remove_dir(dir).is_err() && dir.exists());
        state.next += 1;
        let cgroup = Cgroup { dir: processes.join(format!("{}", state.next)) };
        make_dir(&cgroup.dir)?;
        cgroup.limit(limits)?;
        Ok(cgroup)
    }

    /// Takes back the cgroup of an ended process.
    pub(super) fn retire(&self, cgroup: Cgroup) {
        let dir = cgroup.dir.clone();
        drop(cgroup);
        if dir.exists() {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.left.push(dir);
        }
    }
}

fn controllers(limits: &ProcessLimits) -> Vec<&'static str> {
    let wanted = [
        (limits.memory_bytes.is_some(), "memory"),
        (limits.pids.is_some(), "pids"),
        (limits.cpu_millis.is_some(), "cpu"),
    ];
    wanted.into_iter().filter_map(|(wanted, name)| wanted.then_some(name)).collect()
}

/// Whether the kernel offers all of them at this place.
fn offered(dir: &Path, controllers: &[&'static str]) -> Result<(), CgroupError> {
    let offered = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let missing = controllers.iter().find(|it| !offered.split_whitespace().any(|on| on == **it));
    missing.map_or(Ok(()), |name| Err(CgroupError::NoController(name)))
}

/// Lets the agent's children-to-be have controllers, for which the agent may have to make way.
fn delegate(own: &Path, controllers: &[&'static str]) -> Result<(), CgroupError> {
    let Err(first) = enable(own, controllers) else { return Ok(()) };
    let leaf = own.join(AGENT_LEAF);
    make_dir(&leaf)?;
    let procs = fs::read_to_string(own.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines() {
        // Those that end meanwhile need not be moved.
        let _ = fs::write(leaf.join("cgroup.procs"), pid);
    }
    enable(own, controllers).map_err(|_| first)
}

fn enable(dir: &Path, controllers: &[&'static str]) -> Result<(), CgroupError> {
    let text: Vec<String> = controllers.iter().map(|name| format!("+{name}")).collect();
    write(&dir.join("cgroup.subtree_control"), &text.join(" "))
}

fn make_dir(dir: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(dir) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(CgroupError::Write { path: dir.display().to_string(), source })
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    fs::write(path, text)
        .map_err(|source| CgroupError::Write { path: path.display().to_string(), source })
}

/// The agent's own directory, from the tables of mounts and of its cgroups.
fn own_dir(mounts: &str, cgroup: &str) -> Option<PathBuf> {
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some(at)
    })?;
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = own.trim_start_matches('/');
    // After an upgrade the agent is still where it made way to.
    let own = own.strip_suffix(AGENT_LEAF).unwrap_or(own);
    Some(Path::new(mount).join(own))
}

impl Cgroup {
    /// The cgroup of a process that a former program of this agent started.
    pub(super) fn adopt(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn limit(&self, limits: &ProcessLimits) -> Result<(), CgroupError> {
        let file = |name: &str| self.dir.join(name);
        if let Some(bytes) = limits.memory_bytes {
            write(&file("memory.max"), &bytes.to_string())?;
            // All of it ends together, and not one process of it at random.
            write(&file("memory.oom.group"), "1")?;
            // A guest without swap has no such file.
            let _ = fs::write(file("memory.swap.max"), "0");
        }
        if let Some(pids) = limits.pids {
            write(&file("pids.max"), &pids.to_string())?;
        }
        if let Some(millis) = limits.cpu_millis {
            let quota_us = u64::from(millis) * CPU_PERIOD_US / 1_000;
            write(&file("cpu.max"), &format!("{quota_us} {CPU_PERIOD_US}"))?;
        }
        Ok(())
    }

    /// The file through which a process enters.
    pub(super) fn open_procs(&self) -> Result<File, CgroupError> {
        let path = self.dir.join("cgroup.procs");
        let opened = File::options().write(true).open(&path);
        opened.map_err(|source| CgroupError::Write { path: path.display().to_string(), source })
    }

    pub(super) fn usage(&self) -> Usage {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        let kills = read("memory.events")
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok());
        Usage {
            oom_killed: kills.unwrap_or(0) > 0,
            peak_memory_bytes: read("memory.peak").trim().parse().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";

    /// A directory with the files the kernel would show.
    fn tree(controllers: &str) -> (tempfile::TempDir, Cgroups) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), controllers).unwrap();
        let own = Some(dir.path().to_owned());
        (dir, Cgroups { own, state: Mutex::default() })
    }

    fn limits() -> ProcessLimits {
        ProcessLimits { memory_bytes: Some(1 << 20), pids: Some(7), cpu_millis: Some(250) }
    }

    #[test]
    fn the_agents_place_is_found_and_survives_its_own_making_way() {
        let own = |cgroup| own_dir(MOUNTS, cgroup);
        assert_eq!(own("1:name=systemd:/x\n0::/\n").unwrap(), Path::new("/sys/fs/cgroup/"));
        let service = Path::new("/sys/fs/cgroup/system.slice/fc.service/");
        assert_eq!(own("0::/system.slice/fc.service\n").unwrap(), service);
        assert_eq!(own("0::/system.slice/fc.service/aetherium.agent\n").unwrap(), service);
        assert_eq!(own_dir("proc /proc proc rw 0 0\n", "0::/\n"), None);
    }

    #[test]
    fn each_limit_is_written_where_the_kernel_reads_it() {
        let (dir, cgroups) = tree("cpu memory pids");
        let cgroup = cgroups.create(&limits()).unwrap();
        let read = |name: &str| fs::read_to_string(cgroup.dir.join(name)).unwrap();
        assert_eq!((read("memory.max").as_str(), read("pids.max").as_str()), ("1048576", "7"));
        assert_eq!(read("cpu.max"), "25000 100000");
        let enabled = fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(enabled, "+memory +pids +cpu");
    }

    #[test]
    fn limits_that_cannot_be_kept_are_an_error() {
        let (_dir, cgroups) = tree("cpu pids");
        let error = cgroups.create(&limits()).err().unwrap();
        assert!(matches!(error, CgroupError::NoController("memory")), "{error}");
        let nowhere = Cgroups { own: None, state: Mutex::default() };
        assert!(matches!(nowhere.create(&limits()), Err(CgroupError::NotMounted)));
    }

    #[test]
    fn a_kill_for_want_of_memory_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = Cgroup::adopt(dir.path().to_owned());
        assert!(!cgroup.usage().oom_killed);
        fs::write(dir.path().join("memory.events"), "low 0\noom 3\noom_kill 1\n").unwrap();
        fs::write(dir.path().join("memory.peak"), "4096\n").unwrap();
        assert!(cgroup.usage().oom_killed);
        assert_eq!(cgroup.usage().peak_memory_bytes, Some(4096));
    }
}
