//! From a request to a running process.
//!
//! The checks that need no process come first, with errors that name the value. The child itself
//! does only what must happen after the fork: a new session, the user, the directory.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use aetherium_agent_proto::{ExecSpec, SpawnErrorKind};
use tokio::net::unix::pipe;

use super::user::{Accounts, User};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A child tells by its errno what failed; these keep its steps apart. Real ones are below 4096.
const CWD_STEP: i32 = 10_000;
const USER_STEP: i32 = 20_000;

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
    #[error("`{program}` could not be started: {source}")]
    Other { program: String, source: io::Error },
}

impl SpawnError {
    /// The kind the wire knows.
    pub(crate) fn kind(&self) -> SpawnErrorKind {
        match self {
            Self::EmptyArgv | Self::BadText(_) => SpawnErrorKind::InvalidRequest,
            Self::NotFound { .. } => SpawnErrorKind::NotFound,
            Self::NotExecutable { .. } | Self::UserRefused { .. } => {
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
    cwd: String,
    user: User,
    /// The agent runs as another user, so the child must change.
    switch_user: bool,
}

/// A child that runs.
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    pub(crate) stdin: Option<pipe::Sender>,
    pub(crate) stdout: pipe::Receiver,
    pub(crate) stderr: pipe::Receiver,
}

impl Prepared {
    /// Checks a request against the guest's accounts.
    pub(crate) fn new(spec: ExecSpec) -> Result<Self, SpawnError> {
        if spec.argv.first().is_none_or(String::is_empty) {
            return Err(SpawnError::EmptyArgv);
        }
        check_text(&spec)?;
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
        let switch_user = spec.user.is_some() && user.uid != own_uid;
        Ok(Self { spec, cwd, user, switch_user })
    }

    pub(crate) fn spec(&self) -> &ExecSpec {
        &self.spec
    }

    /// Forks and executes.
    pub(crate) fn spawn(&self) -> Result<Spawned, SpawnError> {
        let mut command = self.command()?;
        let mut child = command.spawn().map_err(|source| self.failure(source))?;
        let pid = child.id();
        let mut adopt = || -> io::Result<Spawned> {
            let missing = || io::Error::other("a pipe is missing");
            let stdout = OwnedFd::from(child.stdout.take().ok_or_else(missing)?);
            let stderr = OwnedFd::from(child.stderr.take().ok_or_else(missing)?);
            let stdin = child.stdin.take().map(OwnedFd::from);
            Ok(Spawned {
                pid,
                stdin: stdin.map(pipe::Sender::from_owned_fd).transpose()?,
                stdout: pipe::Receiver::from_owned_fd(stdout)?,
                stderr: pipe::Receiver::from_owned_fd(stderr)?,
            })
        };
        adopt().map_err(|source| {
            // Nobody will follow it, so it must not live. The reaper takes its status.
            let _ = child.kill();
            SpawnError::NoResources { program: self.program(), source }
        })
    }

    fn program(&self) -> String {
        self.spec.argv.first().cloned().unwrap_or_default()
    }

    fn command(&self) -> Result<Command, SpawnError> {
        let mut command = Command::new(self.program());
        command
            .args(&self.spec.argv[1..])
            .env_clear()
            .env("HOME", &self.user.home)
            .env("USER", &self.user.name)
            .env("LOGNAME", &self.user.name)
            .env("SHELL", &self.user.shell)
            .env("PATH", DEFAULT_PATH)
            .envs(&self.spec.env)
            .stdin(if self.spec.stdin { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let cwd =
            CString::new(self.cwd.as_str()).map_err(|_| SpawnError::BadText(self.cwd.clone()))?;
        let user = self.switch_user.then(|| self.user.clone());
        let enter = move || enter(user.as_ref(), &cwd);
        // SAFETY: `enter` makes plain system calls only; it neither allocates nor locks.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }

    fn failure(&self, source: io::Error) -> SpawnError {
        let program = self.program();
        let errno = source.raw_os_error().unwrap_or(0);
        if errno >= USER_STEP {
            let source = io::Error::from_raw_os_error(errno - USER_STEP);
            return SpawnError::UserRefused { user: self.user.name.clone(), source };
        }
        if errno >= CWD_STEP {
            let source = io::Error::from_raw_os_error(errno - CWD_STEP);
            return SpawnError::BadCwd { cwd: self.cwd.clone(), source };
        }
        match errno {
            libc::ENOENT | libc::ENOTDIR => SpawnError::NotFound { program },
            libc::EACCES | libc::EPERM | libc::EISDIR => {
                SpawnError::NotExecutable { program, source }
            }
            libc::E2BIG | libc::ENAMETOOLONG => SpawnError::TooLong { program },
            libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE => {
                SpawnError::NoResources { program, source }
            }
            _ => SpawnError::Other { program, source },
        }
    }
}

/// What the child does between fork and exec.
fn enter(user: Option<&User>, cwd: &CString) -> io::Result<()> {
    let at = |step: i32| {
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        Err(io::Error::from_raw_os_error(step + errno))
    };
    // SAFETY: setsid takes nothing; it cannot fail in a fresh child, which leads no group.
    unsafe { libc::setsid() };
    if let Some(user) = user {
        // SAFETY: the group list is valid for the length given; the rest are plain numbers.
        let failed = unsafe {
            libc::setgroups(user.groups.len(), user.groups.as_ptr()) != 0
                || libc::setgid(user.gid) != 0
                || libc::setuid(user.uid) != 0
        };
        if failed {
            return at(USER_STEP);
        }
    }
    // After the change of user, whose rights to the directory are the ones that count.
    // SAFETY: `cwd` ends in a zero byte.
    if unsafe { libc::chdir(cwd.as_ptr()) } != 0 {
        return at(CWD_STEP);
    }
    Ok(())
}

fn check_text(spec: &ExecSpec) -> Result<(), SpawnError> {
    let texts = spec.argv.iter().chain(spec.env.values()).chain(&spec.cwd).chain(&spec.user);
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
    }
}
