//! Runs the external tools of a build: each with a deadline, in a process group of its own, its
//! words passed on and its last lines kept for the error.
//!
//! A command that is cancelled, or whose deadline passes, is ended with its whole group. Nothing
//! here goes through a shell.

use crate::{
    error::{ImageError, OnPath, Result},
    progress::Progress,
};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    collections::VecDeque,
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::Child,
    time::timeout,
};

/// Where administrators' tools live; users' PATH often lacks it, but they may run them.
const SBIN: &str = "/usr/local/sbin:/usr/sbin:/sbin";
/// The lines of output that an error carries.
const TAIL_LINES: usize = 20;
/// How much of a command line an error repeats.
const MAX_COMMAND_CHARS: usize = 200;
/// The most that is kept of a command's standard output, in bytes.
const MAX_STDOUT_BYTES: usize = 4 << 20;
/// The time between being asked and being forced to end.
const GRACE: Duration = Duration::from_secs(5);

/// What a tool's line on standard error means to people; `None` if nothing.
pub(crate) type Narrator = fn(&str) -> Option<&str>;

/// What to run.
#[derive(Debug, Clone)]
enum Program {
    /// Looked for in PATH and where administrators' tools live.
    Named { name: &'static str, package: &'static str },
    /// This file.
    File(PathBuf),
}

/// One run of a program.
pub(crate) struct Tool<'a> {
    program: Program,
    args: Vec<OsString>,
    dir: Option<PathBuf>,
    envs: Vec<(&'static str, OsString)>,
    deadline: Duration,
    narrate: Option<(&'a dyn Progress, Narrator)>,
    speaks_on_stdout: bool,
    log: Option<File>,
    remedy: &'static str,
    /// An exit code that is as good as none.
    accepted: Option<i32>,
}

impl<'a> Tool<'a> {
    /// A run of the program `name`, which is in `package`.
    pub(crate) fn new(name: &'static str, package: &'static str, deadline: Duration) -> Self {
        Self::of(Program::Named { name, package }, deadline)
    }

    /// A run of a program by its path.
    pub(crate) fn file(path: &Path, deadline: Duration) -> Self {
        Self::of(Program::File(path.to_owned()), deadline)
    }

    fn of(program: Program, deadline: Duration) -> Self {
        Self {
            program,
            args: Vec::new(),
            dir: None,
            envs: Vec::new(),
            deadline,
            narrate: None,
            speaks_on_stdout: false,
            log: None,
            remedy: "",
            accepted: None,
        }
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Runs it in this directory.
    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((name, value.as_ref().to_owned()));
        self
    }

    /// Passes on what it says on standard error, one step for each line with a meaning.
    pub(crate) fn narrate(mut self, progress: &'a dyn Progress, narrator: Narrator) -> Self {
        self.narrate = Some((progress, narrator));
        self
    }

    /// What it says to people comes on standard output, which other tools keep for what was asked of
    /// them: its lines are passed on, and the last of them told in an error.
    pub(crate) fn speaks_on_stdout(mut self) -> Self {
        self.speaks_on_stdout = true;
        self
    }

    /// Keeps all that it says in a file, too.
    pub(crate) fn log(mut self, log: File) -> Self {
        self.log = Some(log);
        self
    }

    /// What to do should it fail.
    pub(crate) fn remedy(mut self, remedy: &'static str) -> Self {
        self.remedy = remedy;
        self
    }

    /// Takes this exit code for a success, too.
    pub(crate) fn accept(mut self, code: i32) -> Self {
        self.accepted = Some(code);
        self
    }

    /// Runs it as what `wrapper` starts: `wrapper` gets this program and its arguments last.
    pub(crate) fn under(self, wrapper: Tool<'a>) -> Result<Self> {
        let inner = self.program.find()?;
        Ok(Self {
            program: wrapper.program,
            args: wrapper.args.into_iter().chain([inner.into()]).chain(self.args).collect(),
            ..self
        })
    }

    /// Runs it to its end and gives its standard output.
    pub(crate) async fn run(self) -> Result<String> {
        let mut child = self.spawn()?;
        let group = Group::of(&child);
        let (mut out, mut tail) = (String::new(), VecDeque::new());
        let finished = timeout(self.deadline, self.attend(&mut child, &mut out, &mut tail)).await;
        let tail = Vec::from(tail);
        match finished {
            Ok(Ok(status)) => {
                group.ended();
                let good =
                    status.success() || self.accepted.is_some_and(|it| status.code() == Some(it));
                if good { Ok(out) } else { Err(self.failed(status, tail)) }
            }
            Ok(Err(error)) => Err(error).on("run", &self.program.find()?),
            Err(_) => {
                group.end(&mut child).await;
                let (command, deadline) = (self.command_line(), self.deadline);
                Err(ImageError::CommandTimedOut { command, deadline, tail })
            }
        }
    }

    fn spawn(&self) -> Result<Child> {
        let program = self.program.find()?;
        let mut command = tokio::process::Command::new(&program);
        command
            .args(&self.args)
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("PATH", search_path())
            .envs(self.envs.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.spawn().on("start", &program)
    }

    async fn attend(
        &self,
        child: &mut Child,
        out: &mut String,
        tail: &mut VecDeque<String>,
    ) -> std::io::Result<ExitStatus> {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // The two readers below take turns; a lock is what the compiler takes for that across threads.
        let tail = Mutex::new(tail);
        let said = |line: &str| {
            if let Some((progress, narrator)) = self.narrate
                && let Some(step) = narrator(line)
            {
                progress.step(step);
            }
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(line.to_owned());
        };
        let collect = each_line(stdout, |line| {
            if out.len() + line.len() < MAX_STDOUT_BYTES {
                out.push_str(line);
                out.push('\n');
            }
            if self.speaks_on_stdout && !line.is_empty() {
                said(line);
            }
            self.note(line);
        });
        let follow = each_line(stderr, |line| {
            said(line);
            self.note(line);
        });
        let (collected, followed, status) = tokio::join!(collect, follow, child.wait());
        collected?;
        followed?;
        status
    }

    /// Adds a line to the log. One that cannot be written is missed by nobody but its reader.
    fn note(&self, line: &str) {
        if let Some(mut log) = self.log.as_ref() {
            let _ = writeln!(log, "{line}");
        }
    }

    fn failed(&self, status: ExitStatus, tail: Vec<String>) -> ImageError {
        ImageError::CommandFailed {
            command: self.command_line(),
            status: status.to_string(),
            tail,
            remedy: self.remedy.to_owned(),
        }
    }

    fn command_line(&self) -> String {
        let program = match &self.program {
            Program::Named { name, .. } => (*name).into(),
            Program::File(path) => path.to_string_lossy(),
        };
        let args = self.args.iter().map(|arg| arg.to_string_lossy());
        let line = std::iter::once(program).chain(args).collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(MAX_COMMAND_CHARS) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    }
}

impl Program {
    fn find(&self) -> Result<PathBuf> {
        match self {
            Self::Named { name, package } => find(name, package),
            Self::File(path) => Ok(path.clone()),
        }
    }
}

/// Looks a program up, so that its absence is known before any work is done.
pub(crate) fn find(program: &'static str, package: &'static str) -> Result<PathBuf> {
    env::split_paths(&search_path())
        .map(|dir| dir.join(program))
        .find(|path| {
            rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
        })
        .ok_or_else(|| ImageError::ProgramMissing { program: program.to_owned(), package })
}

fn search_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    path.push(":");
    path.push(SBIN);
    path
}

async fn each_line(
    source: Option<impl AsyncRead + Unpin>,
    mut act: impl FnMut(&str),
) -> std::io::Result<()> {
    let Some(source) = source else { return Ok(()) };
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    while source.read_until(b'\n', &mut line).await? > 0 {
        act(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(())
}

/// A running process group, which does not outlive this value.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }

    /// Its leader has been waited for: the number may belong to another soon.
    fn ended(mut self) {
        self.0 = None;
    }

    /// Asks it to end, then ends it.
    async fn end(self, child: &mut Child) {
        self.signal(Signal::TERM);
        let _ended_by_itself = timeout(GRACE, child.wait()).await;
    }

    fn signal(&self, signal: Signal) {
        // The only error is that nobody is left.
        let _nobody_left = self.0.map(|group| kill_process_group(group, signal));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[cfg(test)]
mod tests;
