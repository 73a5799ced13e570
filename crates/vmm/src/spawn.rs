//! Starting a process that outlives this one: in a session of its own, marked, its output in a log.

use crate::{
    Role, VmmError,
    held::{Held, MARK_ROLE, MARK_RUN_DIR, MARK_VM},
};
use aetherium_model::VmId;
use rustix::{
    io::{FdFlags, fcntl_setfd},
    mount::{MountPropagationFlags, mount_bind, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};
use std::{
    ffi::{CString, OsString},
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{ffi::OsStrExt as _, fs::OpenOptionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Variables of this process's environment that a VMM may see; whatever else is there, such as
/// secrets of the server, stays here.
const PASSED_ON: [&str; 3] = ["PATH", "HOME", "TMPDIR"];

/// One process to start.
pub(crate) struct Spawn<'a> {
    pub(crate) role: Role,
    pub(crate) vm_id: VmId,
    pub(crate) run_dir: &'a Path,
    pub(crate) program: &'a Path,
    pub(crate) args: Vec<OsString>,
    /// Where its output goes, appended.
    pub(crate) log: &'a Path,
    /// Where its standard output goes, if not into the log.
    pub(crate) stdout: Option<&'a Path>,
    /// A descriptor it inherits under the same number.
    pub(crate) inherit: Option<BorrowedFd<'a>>,
    /// A directory that it sees at another place, too.
    pub(crate) bind: Option<&'a Bind>,
}

/// A directory under another name, in a mount namespace of the process's own: for nobody else is anything
/// mounted, and nothing has to be unmounted.
#[derive(Debug)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    /// An empty directory.
    pub(crate) target: PathBuf,
}

impl Spawn<'_> {
    /// Starts it.
    pub(crate) fn start(self) -> Result<Held, VmmError> {
        let log = open_log(self.log)?;
        let stdout = match self.stdout {
            Some(path) => open_log(path)?,
            None => log.try_clone().map_err(VmmError::io("open", self.log))?,
        };
        let mut command = Command::new(self.program);
        command
            .args(&self.args)
            .current_dir(self.run_dir)
            .env_clear()
            .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env(MARK_VM, self.vm_id.to_string())
            .env(MARK_RUN_DIR, self.run_dir)
            .env(MARK_ROLE, role_mark(self.role))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(log);
        detach(&mut command, self.inherit);
        if let Some(bind) = self.bind {
            mount(&mut command, bind)?;
        }
        let spawn_error = |source| VmmError::Spawn { program: self.program.to_owned(), source };
        let mut child = command.spawn().map_err(spawn_error)?;
        Held::child(self.role, child.id()).map_err(|source| {
            // It cannot be held, so it must not live. Both calls fail only if it is gone already.
            let _ = child.kill();
            let _ = child.wait();
            spawn_error(source)
        })
    }
}

/// Lets the command start in a session of its own, keeping `inherit` open across the exec.
fn detach(command: &mut Command, inherit: Option<BorrowedFd<'_>>) {
    use std::os::fd::AsRawFd;
    let number = inherit.map(|fd| fd.as_raw_fd());
    let prepare = move || -> io::Result<()> {
        rustix::process::setsid()?;
        if let Some(number) = number {
            // SAFETY: the caller of `detach` holds the descriptor open until the spawn is over, and
            // a forked child has the same numbers.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl_setfd(fd.as_fd(), FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; setsid(2) and
    // fcntl(2) are, and nothing here allocates.
    unsafe { command.pre_exec(prepare) };
}

/// Lets the command see a directory at another place.
fn mount(command: &mut Command, bind: &Bind) -> Result<(), VmmError> {
    let name = |path: &Path| {
        CString::new(path.as_os_str().as_bytes()).map_err(|_| VmmError::BadValue {
            value: path.display().to_string(),
            why: "the path has a NUL byte",
        })
    };
    let (source, target) = (name(&bind.source)?, name(&bind.target)?);
    let prepare = move || -> io::Result<()> {
        // SAFETY: that is unsafe for what threads share, and this process has one.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        // First, or the host would see what is mounted.
        mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
        Ok(mount_bind(source.as_c_str(), target.as_c_str())?)
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; unshare(2) and mount(2)
    // are, and nothing here allocates: the names are C strings already.
    unsafe { command.pre_exec(prepare) };
    Ok(())
}

pub(crate) const fn role_mark(role: Role) -> &'static str {
    match role {
        Role::Vmm => "vmm",
        Role::VsockHelper => "vsock_helper",
        Role::Agent => "agent",
    }
}

/// Opens a log for appending, readable by its owner alone: guests print secrets, too.
pub(crate) fn open_log(path: &Path) -> Result<File, VmmError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(VmmError::io("open", path))
}

/// The program at `configured`, or `name` as found in `PATH`.
pub(crate) fn find_program(configured: Option<&Path>, name: &str) -> Option<PathBuf> {
    use rustix::fs::{Access, access};
    let is_program = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    match configured {
        Some(path) => Some(path.to_owned()).filter(is_program),
        None => {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).map(|dir| dir.join(name)).find(is_program)
        }
    }
}

/// Checks that a Unix socket can be bound at `path`: `sun_path` has 108 bytes, the last a NUL, see
/// unix(7).
pub(crate) fn check_socket_path(path: &Path) -> Result<(), VmmError> {
    if path.as_os_str().len() > 107 {
        return Err(VmmError::PathTooLong { path: path.to_owned() });
    }
    Ok(())
}
