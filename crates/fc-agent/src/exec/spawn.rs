//! From a request to a running process.
//!
//! The checks that need no process come first, with errors that name the value; what is left for the
//! child is a list of plain steps, which [`launch`](super::launch) takes.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use aetherium_agent_proto::{ExecSpec, ProcessLimits, Program, SpawnErrorKind, Stdio};
use rustix::pipe::{PipeFlags, pipe_with};

use super::cgroup::{Cgroup, CgroupError, Cgroups};
use super::descriptor::Descriptor;
use super::launch::{Failure, Ids, Launch, Step};
use super::terminal;
use super::user::{Accounts, User};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The priorities there are.
const NICE: std::ops::RangeInclusive<i32> = -20..=19;
/// The bits a umask can have.
const UMASK_BITS: u32 = 0o777;

/// Why a command could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error("the command is empty; argv needs at least a program")]
    EmptyArgv,
    #[error("`{0}` holds a zero byte or `=` where none can be; remove it")]
    BadText(String),
    #[error("program `{program}` was not found; give a path, or install it in the guest")]
    NotFound { program: String },
    #[error("program `{program}` may not be executed: {source}")]
    NotExecutable { program: String, source: io::Error },
    #[error("working directory `{cwd}` cannot be used: {source}")]
    BadCwd { cwd: String, source: io::Error },
    #[error("working directory `{cwd}` is not absolute; begin it with /")]
    RelativeCwd { cwd: String },
    #[error("user `{user}` does not exist in the guest; add it to /etc/passwd or give a number")]
    UnknownUser { user: String },
    #[error("the agent may not run commands as user `{user}`: {source}")]
    UserRefused { user: String, source: io::Error },
    #[error("arguments and environment of `{program}` are too long for the kernel")]
    TooLong { program: String },
    #[error("{limit} processes run already, which is the agent's limit; end some")]
    TooManyProcesses { limit: usize },
    #[error("the guest has no resources to start `{program}`: {source}")]
    NoResources { program: String, source: io::Error },
    #[error("{value} is no {what}; give one from {from} to {to}")]
    OutOfRange { what: &'static str, value: String, from: String, to: String },
    #[error("the guest cannot keep limits: {0}; ask for none, or boot it with cgroup v2")]
    NoLimits(#[source] CgroupError),
    #[error("priority {nice} was refused: {source}")]
    NiceRefused { nice: i32, source: io::Error },
    #[error("`{program}` could not be started: {source}")]
    Other { program: String, source: io::Error },
}

impl SpawnError {
    /// The kind the wire knows.
    pub(crate) fn kind(&self) -> SpawnErrorKind {
        match self {
            Self::EmptyArgv | Self::BadText(_) | Self::OutOfRange { .. } => {
                SpawnErrorKind::InvalidRequest
            }
            Self::NoLimits(_) => SpawnErrorKind::LimitsUnavailable,
            Self::NotFound { .. } => SpawnErrorKind::NotFound,
            Self::NotExecutable { .. } | Self::UserRefused { .. } | Self::NiceRefused { .. } => {
                SpawnErrorKind::PermissionDenied
            }
            Self::BadCwd { .. } | Self::RelativeCwd { .. } => SpawnErrorKind::BadCwd,
            Self::UnknownUser { .. } => SpawnErrorKind::UnknownUser,
            Self::TooLong { .. } => SpawnErrorKind::TooLong,
            Self::TooManyProcesses { .. } | Self::NoResources { .. } => {
                SpawnErrorKind::ResourceLimit
            }
            Self::Other { .. } => SpawnErrorKind::Other,
        }
    }
}

/// A command that has passed every check that needs no process.
pub(crate) struct Prepared {
    spec: ExecSpec,
    cwd: CString,
    user: User,
    /// The agent runs as another user, so the child must change.
    switch_user: bool,
    argv: Vec<String>,
}

/// A child that runs.
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    pub(crate) ends: Ends,
    pub(crate) cgroup: Option<Cgroup>,
}

/// The agent's ends of a process's descriptors.
pub(crate) enum Ends {
    Pipes { stdin: Option<Descriptor>, stdout: Descriptor, stderr: Descriptor },
    Terminal(Arc<Descriptor>),
}

impl Prepared {
    /// Checks a request against the guest's accounts.
    pub(crate) fn new(spec: ExecSpec) -> Result<Self, SpawnError> {
        check_text(&spec)?;
        check_ranges(&spec)?;
        let accounts = Accounts::read(Path::new("/etc"));
        let own_uid = rustix::process::geteuid().as_raw();
        let user = match &spec.user {
            Some(name) => {
                accounts.find(name).ok_or_else(|| SpawnError::UnknownUser { user: name.clone() })?
            }
            None => accounts.by_uid(own_uid),
        };
        let cwd = match &spec.cwd {
            Some(cwd) if cwd.starts_with('/') => cwd.clone(),
            Some(cwd) => return Err(SpawnError::RelativeCwd { cwd: cwd.clone() }),
            None if Path::new(&user.home).is_dir() => user.home.clone(),
            None => "/".to_owned(),
        };
        let argv = match &spec.program {
            Program::Argv(argv) => argv.clone(),
            Program::ShellLine(line) => vec![user.shell.clone(), "-c".to_owned(), line.clone()],
        };
        if argv.first().is_none_or(String::is_empty) {
            return Err(SpawnError::EmptyArgv);
        }
        let switch_user = spec.user.is_some() && user.uid != own_uid;
        Ok(Self { cwd: c_string(cwd)?, spec, user, switch_user, argv })
    }

    pub(crate) fn spec(&self) -> &ExecSpec {
        &self.spec
    }

    /// The command line, a shell line with its shell.
    pub(crate) fn argv(&self) -> &[String] {
        &self.argv
    }

    /// Makes the process. The caller must be the only one to wait for children meanwhile.
    pub(crate) fn spawn(
        &self,
        cgroups: &Cgroups,
        descriptor_limit: Option<libc::rlimit64>,
    ) -> Result<Spawned, SpawnError> {
        let cgroup = self.cgroup(cgroups)?;
        let procs = cgroup.as_ref().map(Cgroup::open_procs).transpose();
        let procs: Option<File> = procs.map_err(SpawnError::NoLimits)?;
        let (ends, [stdin, stdout, stderr]) = self
            .wire()
            .map_err(|source| SpawnError::NoResources { program: self.program(), source })?;
        let argv = c_strings(self.argv.clone())?;
        let env = c_strings(self.env())?;
        let launch = Launch {
            stdio: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            controls_terminal: matches!(self.spec.stdio, Stdio::Terminal(_)),
            cgroup: procs.as_ref().map(File::as_fd),
            nice: self.spec.nice,
            descriptor_limit,
            user: self.switch_user.then_some(Ids {
                uid: self.user.uid,
                gid: self.user.gid,
                groups: &self.user.groups,
            }),
            umask: self.spec.umask,
            cwd: &self.cwd,
            candidates: &self.candidates()?,
            argv: &argv,
            env: &env,
        };
        let pid = launch.start().map_err(|failure| self.explain(failure))?;
        Ok(Spawned { pid, ends, cgroup })
    }

    fn program(&self) -> String {
        self.argv.first().cloned().unwrap_or_default()
    }

    fn cgroup(&self, cgroups: &Cgroups) -> Result<Option<Cgroup>, SpawnError> {
        let limits: &ProcessLimits = &self.spec.limits;
        if limits.is_none() {
            return Ok(None);
        }
        cgroups.create(limits).map(Some).map_err(SpawnError::NoLimits)
    }

    /// Both sides of the process's descriptors: the agent's, and its own 0, 1 and 2.
    fn wire(&self) -> io::Result<(Ends, [OwnedFd; 3])> {
        if let Stdio::Terminal(terminal) = &self.spec.stdio {
            let ends = terminal::open(terminal.size)?;
            let child = above_stdio(ends.process)?;
            let agent = Arc::new(Descriptor::new(ends.agent)?);
            return Ok((Ends::Terminal(agent), [child.try_clone()?, child.try_clone()?, child]));
        }
        let (child_stdin, stdin) = if self.spec.stdio == Stdio::InputAndOutput {
            let (read, write) = pipe()?;
            (read, Some(agent_side(write)?))
        } else {
            (File::open("/dev/null")?.into(), None)
        };
        let (stdout, child_stdout) = pipe()?;
        let (stderr, child_stderr) = pipe()?;
        let ends = Ends::Pipes { stdin, stdout: agent_side(stdout)?, stderr: agent_side(stderr)? };
        let child = [child_stdin, child_stdout, child_stderr];
        let [stdin, stdout, stderr] = child.map(above_stdio);
        Ok((ends, [stdin?, stdout?, stderr?]))
    }

    /// The environment as `NAME=value`.
    fn env(&self) -> Vec<String> {
        let terminal = match &self.spec.stdio {
            Stdio::Terminal(terminal) => Some(("TERM", terminal.kind.as_str())),
            Stdio::Output | Stdio::InputAndOutput => None,
        };
        let user = &self.user;
        let defaults = [
            ("HOME", user.home.as_str()),
            ("USER", &user.name),
            ("LOGNAME", &user.name),
            ("SHELL", &user.shell),
            ("PATH", DEFAULT_PATH),
        ];
        let asked = &self.spec.env;
        let defaults = defaults.into_iter().chain(terminal);
        defaults
            .filter(|(name, _)| !asked.contains_key(*name))
            .map(|(name, value)| format!("{name}={value}"))
            .chain(asked.iter().map(|(name, value)| format!("{name}={value}")))
            .collect()
    }

    /// Where the program may be, by the child's own `PATH`.
    fn candidates(&self) -> Result<Vec<CString>, SpawnError> {
        let program = self.program();
        if program.contains('/') {
            return Ok(vec![c_string(program)?]);
        }
        let path = self.spec.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        path.split(':')
            // An empty entry is the working directory.
            .map(|dir| if dir.is_empty() { "." } else { dir })
            .map(|dir| c_string(format!("{dir}/{program}")))
            .collect()
    }

    fn explain(&self, failure: Failure) -> SpawnError {
        let program = self.program();
        let Failure { step, source } = failure;
        match (step, source.raw_os_error().unwrap_or(0)) {
            (Step::User, _) => SpawnError::UserRefused { user: self.user.name.clone(), source },
            (Step::Cwd, _) => {
                SpawnError::BadCwd { cwd: self.cwd.to_string_lossy().into_owned(), source }
            }
            (Step::Nice, _) => SpawnError::NiceRefused { nice: self.spec.nice, source },
            (Step::Cgroup, _) => SpawnError::NoLimits(CgroupError::Entry(source)),
            (Step::Exec, libc::ENOENT | libc::ENOTDIR) => SpawnError::NotFound { program },
            (Step::Exec, libc::EACCES | libc::EPERM | libc::EISDIR) => {
                SpawnError::NotExecutable { program, source }
            }
            (Step::Exec, libc::E2BIG | libc::ENAMETOOLONG) => SpawnError::TooLong { program },
            (_, libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => {
                SpawnError::NoResources { program, source }
            }
            _ => SpawnError::Other { program, source },
        }
    }
}

fn c_strings(texts: Vec<String>) -> Result<Vec<CString>, SpawnError> {
    texts.into_iter().map(c_string).collect()
}

fn c_string(text: String) -> Result<CString, SpawnError> {
    CString::new(text)
        .map_err(|error| SpawnError::BadText(String::from_utf8_lossy(&error.into_vec()).into()))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

fn agent_side(end: OwnedFd) -> io::Result<Descriptor> {
    rustix::io::ioctl_fionbio(&end, true)?;
    Descriptor::new(end)
}

/// A descriptor that is none of 0, 1 and 2, which the child overwrites one after the other. An agent
/// started with some of them closed would else get them for its pipes.
fn above_stdio(end: OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd as _;
    if end.as_raw_fd() > 2 {
        return Ok(end);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(&end, 3)?)
}

fn check_ranges(spec: &ExecSpec) -> Result<(), SpawnError> {
    if !NICE.contains(&spec.nice) {
        return Err(SpawnError::OutOfRange {
            what: "priority",
            value: spec.nice.to_string(),
            from: NICE.start().to_string(),
            to: NICE.end().to_string(),
        });
    }
    match spec.umask {
        Some(umask) if umask > UMASK_BITS => Err(SpawnError::OutOfRange {
            what: "umask",
            value: format!("{umask:o}"),
            from: "0".to_owned(),
            to: format!("{UMASK_BITS:o}"),
        }),
        _ => Ok(()),
    }
}

fn check_text(spec: &ExecSpec) -> Result<(), SpawnError> {
    let program = match &spec.program {
        Program::Argv(argv) => argv.as_slice(),
        Program::ShellLine(line) => std::slice::from_ref(line),
    };
    let terminal = match &spec.stdio {
        Stdio::Terminal(terminal) => Some(&terminal.kind),
        Stdio::Output | Stdio::InputAndOutput => None,
    };
    let texts = program.iter().chain(spec.env.values()).chain(&spec.cwd).chain(&spec.user);
    let texts = texts.chain(terminal);
    if let Some(text) = texts.into_iter().find(|text| text.contains('\0')) {
        return Err(SpawnError::BadText(text.replace('\0', "\\0")));
    }
    let bad = |name: &&String| name.is_empty() || name.contains(['\0', '=']);
    match spec.env.keys().find(bad) {
        Some(name) => Err(SpawnError::BadText(name.replace('\0', "\\0"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(spec: ExecSpec) -> SpawnErrorKind {
        match Prepared::new(spec) {
            Ok(_) => panic!("it was accepted"),
            Err(error) => error.kind(),
        }
    }

    #[test]
    fn a_request_that_cannot_run_is_refused_before_any_fork() {
        assert_eq!(kind(ExecSpec::new(Vec::<String>::new())), SpawnErrorKind::InvalidRequest);
        assert_eq!(kind(ExecSpec::new(["a\0b"])), SpawnErrorKind::InvalidRequest);
        assert_eq!(kind(ExecSpec::new(["a"]).env("A=B", "c")), SpawnErrorKind::InvalidRequest);
        assert_eq!(kind(ExecSpec::new(["a"]).cwd("here")), SpawnErrorKind::BadCwd);
        assert_eq!(kind(ExecSpec::new(["a"]).user("no-such-user")), SpawnErrorKind::UnknownUser);
        let umask = ExecSpec { umask: Some(0o1000), ..ExecSpec::new(["a"]) };
        assert_eq!(kind(umask), SpawnErrorKind::InvalidRequest);
        assert_eq!(
            kind(ExecSpec { nice: 20, ..ExecSpec::new(["a"]) }),
            SpawnErrorKind::InvalidRequest
        );
    }
}
