//! What processes and threads of this machine use, from `/proc` (proc(5)).

use crate::error::{CliError, local};
use std::{fs, time::Duration};

/// User and system time of a process: fields 14 and 15 of its `stat`.
pub(super) fn cpu_of(pid: u32) -> Result<Duration, CliError> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).map_err(|error| local(&path, error))?;
    Ok(ticks(&stat, &[UTIME, STIME]))
}

/// What a process holds in memory, in MiB: the line `VmRSS` of its `status`.
pub(super) fn resident_mib(pid: u32) -> Result<f64, CliError> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(|error| local(&path, error))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 =
        line.and_then(|it| it.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(f64::NAN);
    Ok(kib / 1024.0)
}

/// What the living threads of this process that bear a name have used.
pub(super) fn cpu_of_threads(name: &str) -> Duration {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of_thread = |dir: fs::DirEntry| {
        // One that ends meanwhile has no more to tell.
        let comm = fs::read_to_string(dir.path().join("comm")).ok()?;
        let stat = fs::read_to_string(dir.path().join("stat")).ok()?;
        (comm.trim_end() == name).then(|| ticks(&stat, &[UTIME, STIME]))
    };
    threads.filter_map(of_thread).sum()
}

/// The process of this number, if it bears this name.
pub(super) fn is_named(pid: u32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
}

/// The parent of a process.
pub(super) fn parent_of(pid: u32) -> Option<u32> {
    field(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, PPID)
}

/// What a process and its children have used, those that have ended included.
pub(super) fn cpu_of_family(parent: u32) -> Duration {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|dir| dir.file_name().to_str()?.parse::<u32>().ok());
    let stats =
        pids.filter_map(|pid| Some((pid, fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)));
    let used = stats.map(|(pid, stat)| {
        if pid == parent {
            ticks(&stat, &[UTIME, STIME, CUTIME, CSTIME])
        } else if field(&stat, PPID) == Some(parent) {
            ticks(&stat, &[UTIME, STIME])
        } else {
            Duration::ZERO
        }
    });
    used.sum()
}

/// Fields of `stat`, counted from the one after the name, which may hold anything.
const PPID: usize = 1;
const UTIME: usize = 11;
const STIME: usize = 12;
const CUTIME: usize = 13;
const CSTIME: usize = 14;

fn field(stat: &str, index: usize) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(index)?.parse().ok()
}

fn ticks(stat: &str, fields: &[usize]) -> Duration {
    let ticks: u32 = fields.iter().filter_map(|index| field(stat, *index)).sum();
    Duration::from_secs_f64(f64::from(ticks) / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 3 7 7 0 -1 0 0 0 0 0 150 50 10 5 20 0 1 0 99";
        assert_eq!(field(stat, PPID), Some(3));
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(ticks(stat, &[UTIME, STIME]).as_secs_f64(), 200.0 / per_second);
        assert_eq!(ticks(stat, &[CUTIME, CSTIME]).as_secs_f64(), 15.0 / per_second);
    }

    #[test]
    fn a_thread_s_work_is_counted_under_its_name() {
        let (working, done) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
        let thread = std::thread::Builder::new().name("a-worker".into()).spawn(move || {
            let began = std::time::Instant::now();
            while cpu_of_threads("a-worker") < Duration::from_millis(30) {
                assert!(began.elapsed() < Duration::from_secs(30), "its work is not counted");
            }
            working.0.send(()).unwrap();
            let _ = done.1.recv();
        });
        working.1.recv().unwrap();
        assert!(cpu_of_threads("a-worker") >= Duration::from_millis(30));
        assert_eq!(cpu_of_threads("nobody"), Duration::ZERO);
        drop(done.0);
        thread.unwrap().join().unwrap();
    }
}
