//! Reading `/proc`: who a process is, whose child it is, and what its environment says. Read only.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// What `/proc/<pid>/stat` says of a process; see proc(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Field 1.
    pub(crate) pid: u32,
    /// Field 3; `Z` is a process that has ended and waits to be reaped.
    pub(crate) state: char,
    /// Field 4.
    pub(crate) parent: u32,
    /// Field 6; none of a process that has just been reaped, which reads as -1.
    pub(crate) session: Option<u32>,
    /// Fields 14 and 15, processor time in clock ticks.
    pub(crate) cpu_ticks: u64,
    /// Field 20.
    pub(crate) threads: u32,
    /// Field 22, in clock ticks since the host's boot.
    pub(crate) start_ticks: u64,
}

impl Stat {
    /// Reads the line. The command's name, field 2, stands in parentheses and may hold anything,
    /// parentheses and spaces included; so the fields are counted from the last one.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let pid = line.split_once(' ')?.0.parse().ok()?;
        let mut fields = line.rsplit_once(')')?.1.split_whitespace();
        Some(Self {
            pid,
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            session: u32::try_from(fields.nth(1)?.parse::<i64>().ok()?).ok(),
            cpu_ticks: {
                let user: u64 = fields.nth(7)?.parse().ok()?;
                user.checked_add(fields.next()?.parse().ok()?)?
            },
            threads: fields.nth(4)?.parse().ok()?,
            start_ticks: fields.nth(1)?.parse().ok()?,
        })
    }

    /// Whether its code can still run.
    pub(crate) const fn is_alive(self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// The process with that number; `None` if there is none.
pub(crate) fn stat(pid: u32) -> io::Result<Option<Stat>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(bytes) => {
            let line = String::from_utf8_lossy(&bytes);
            Stat::parse(&line).map(Some).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("/proc/{pid}/stat reads {line:?}"),
                )
            })
        }
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every process there is; one that ends meanwhile may be missing.
pub(crate) fn all() -> io::Result<Vec<Stat>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.extend(stat(pid)?);
        }
    }
    Ok(found)
}

/// The value of a variable in the environment that a process was started with; `None` where it is
/// not set, or where this process may not look.
pub(crate) fn variable(environ: &[u8], name: &str) -> Option<String> {
    environ.split(|byte| *byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    })
}

/// The environment that a process was started with; empty if it is gone or not ours to read.
pub(crate) fn environ(pid: u32) -> Vec<u8> {
    // A process of another user or one that just ended has nothing to tell: both read as empty.
    fs::read(PathBuf::from(format!("/proc/{pid}/environ"))).unwrap_or_default()
}

/// The arguments that a process was started with; empty if it is gone or not ours to read.
pub(crate) fn arguments(pid: u32) -> Vec<String> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&raw);
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// Whether `root` is a process's root directory: the same directory, by whatever name.
pub(crate) fn has_root(pid: u32, root: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|it| (it.dev(), it.ino()));
    let theirs = identity(Path::new(&format!("/proc/{pid}/root")));
    theirs.is_some() && theirs == identity(root)
}

/// Reading an entry of a process that ends meanwhile fails in either of these ways.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn this_very_process_reads_as_alive_and_started() {
        let own = stat(std::process::id()).unwrap().unwrap();
        assert_eq!(own.pid, std::process::id());
        assert!(own.is_alive() && own.start_ticks > 0);
        assert_eq!(own.parent, std::os::unix::process::parent_id());
        assert!(all().unwrap().contains(&own) || !all().unwrap().is_empty());
    }

    #[test]
    fn a_number_that_no_process_has_is_none() {
        assert_eq!(stat(u32::MAX).unwrap(), None);
    }

    #[test]
    fn a_process_that_is_being_reaped_is_read_as_dead() {
        let line = "408 (cat) X 0 -1 -1 0 -1 4227084 101 0 0 0 0 0 0 0 20 0 0 0 3864783 0 0";
        let dead = Stat::parse(line).unwrap();
        assert!(!dead.is_alive());
        assert_eq!((dead.parent, dead.session, dead.start_ticks), (0, None, 3_864_783));
    }

    #[test]
    fn only_a_whole_name_is_a_variable() {
        let environ = b"XA=1\0A=2\0AB=3\0";
        assert_eq!(variable(environ, "A").as_deref(), Some("2"));
        assert_eq!(variable(environ, "B"), None);
    }

    proptest! {
        #[test]
        fn a_command_name_cannot_shift_the_fields(name in "[ -~]{0,15}") {
            let line = format!("42 ({name}) S 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 1 2");
            let (cpu_ticks, threads) = (5 + 6, 1);
            let expected =
                Stat { pid: 42, state: 'S', parent: 7, session: Some(9), cpu_ticks, threads, start_ticks: 777 };
            prop_assert_eq!(Stat::parse(&line), Some(expected));
        }

        #[test]
        fn no_line_makes_the_reader_fail(line in "\\PC{0,80}") {
            let _ = Stat::parse(&line);
        }
    }
}
