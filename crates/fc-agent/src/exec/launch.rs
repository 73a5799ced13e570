//! Making a process: the few steps between the agent's program and another one.
//!
//! The child shares the agent's memory until it executes (`CLONE_VM | CLONE_VFORK`): no page table is
//! copied, and a failed step is told through memory. The price is discipline. Until the exec the
//! child runs on a stack of its own, with every signal blocked, and makes bare system calls only: it
//! must never allocate, lock, or call into a part of the C library that believes itself in the
//! agent (its `setuid` would change the agent's own threads).

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr;

/// The child's stack. Its steps need a few hundred bytes.
const STACK_BYTES: usize = 64 * 1024;
/// Real-time signals end here; the kernel has 64 in all.
const LAST_SIGNAL: c_int = 64;

/// What a child does before it executes, in this order.
pub(super) struct Launch<'a> {
    /// What becomes 0, 1 and 2. All above 2.
    pub(super) stdio: [BorrowedFd<'a>; 3],
    /// Descriptor 0 is a terminal and becomes the session's own.
    pub(super) controls_terminal: bool,
    /// An open `cgroup.procs` to enter.
    pub(super) cgroup: Option<BorrowedFd<'a>>,
    pub(super) nice: c_int,
    pub(super) descriptor_limit: Option<libc::rlimit64>,
    /// The user to become.
    pub(super) user: Option<Ids<'a>>,
    pub(super) umask: Option<u32>,
    pub(super) cwd: &'a CStr,
    /// Where the program may be, in order of preference.
    pub(super) candidates: &'a [CString],
    pub(super) argv: &'a [CString],
    pub(super) env: &'a [CString],
}

/// A user as the kernel knows one.
pub(super) struct Ids<'a> {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: &'a [u32],
}

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Clone,
    Session,
    Stdio,
    Terminal,
    Cgroup,
    Nice,
    DescriptorLimit,
    User,
    Cwd,
    Exec,
}

/// Where it failed, and how.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) step: Step,
    pub(super) source: io::Error,
}

/// What parent and child share. All pointers live until the child has executed or ended.
struct Shared<'a> {
    launch: &'a Launch<'a>,
    argv: *const *const c_char,
    env: *const *const c_char,
    /// `/bin/sh`, a place for the script, the script's arguments.
    script_argv: *mut *const c_char,
    failed: Option<(Step, c_int)>,
}

impl Launch<'_> {
    /// Starts the process and returns its id once it has executed.
    ///
    /// The caller must be the only one to wait for children meanwhile.
    pub(super) fn start(&self) -> Result<u32, Failure> {
        let argv = pointers(self.argv);
        let env = pointers(self.env);
        let mut script_argv = vec![SHELL.as_ptr(), ptr::null()];
        script_argv.extend_from_slice(argv.get(1..).unwrap_or_default());
        let mut shared = Shared {
            launch: self,
            argv: argv.as_ptr(),
            env: env.as_ptr(),
            script_argv: script_argv.as_mut_ptr(),
            failed: None,
        };
        let mut stack: Vec<u128> = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
        let signals = BlockedSignals::all();
        // SAFETY: `top` is the aligned end of memory that nobody else uses. The child gets a pointer
        // to `shared`, which outlives it: with CLONE_VFORK this thread stands still until the child
        // has executed or ended.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(stack.capacity()).cast::<c_void>();
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
            libc::clone(child, top, flags, (&raw mut shared).cast())
        };
        let cloned = io::Error::last_os_error();
        drop(signals);
        if pid < 0 {
            return Err(Failure { step: Step::Clone, source: cloned });
        }
        // SAFETY: `failed` is valid for reading; the child wrote it, which the compiler cannot see.
        match unsafe { ptr::read_volatile(&raw const shared.failed) } {
            None => Ok(pid.unsigned_abs()),
            Some((step, errno)) => {
                // SAFETY: no status is asked for. The child has ended and is not waited for elsewhere.
                unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
                Err(Failure { step, source: io::Error::from_raw_os_error(errno) })
            }
        }
    }
}

const SHELL: &CStr = c"/bin/sh";

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

/// All signals blocked, until dropped. A handler of the agent must not run in the child.
struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn all() -> Self {
        // SAFETY: all-zero sets are valid values to be overwritten, and valid for the calls.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self { before }
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set was filled by the call that blocked the rest.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut());
        }
    }
}

/// The child. Returns only by executing or ending.
extern "C" fn child(shared: *mut c_void) -> c_int {
    let shared = shared.cast::<Shared<'_>>();
    // SAFETY: the parent passed a valid `Shared` and stands still; nobody else touches it.
    let failed = unsafe { enter(&mut *shared) };
    // SAFETY: as above; the write is volatile because only the parent reads it. Ending by a bare
    // system call runs no exit handler of the agent.
    unsafe {
        ptr::write_volatile(&raw mut (*shared).failed, Some(failed));
        libc::syscall(libc::SYS_exit_group, 127 as c_long);
    }
    127
}

/// All steps. Returns what failed.
fn enter(shared: &mut Shared<'_>) -> (Step, c_int) {
    match prepare(shared.launch) {
        Err(failed) => failed,
        Ok(()) => (Step::Exec, execute(shared)),
    }
}

fn prepare(launch: &Launch<'_>) -> Result<(), (Step, c_int)> {
    reset_signals();
    // SAFETY: plain numbers.
    at(Step::Session, unsafe { libc::syscall(libc::SYS_setsid) })?;
    for (to, from) in (0..).zip(launch.stdio) {
        // SAFETY: plain numbers. Source and target differ, so the copy stays open over the exec.
        at(Step::Stdio, unsafe {
            libc::syscall(libc::SYS_dup3, from.as_raw_fd(), to as c_int, 0)
        })?;
    }
    if launch.controls_terminal {
        // SAFETY: plain numbers; 0 means not to steal it from another session.
        at(Step::Terminal, unsafe { libc::syscall(libc::SYS_ioctl, 0, libc::TIOCSCTTY, 0) })?;
    }
    if let Some(procs) = launch.cgroup {
        // SAFETY: the byte is valid for reading; "0" names the writer itself.
        at(Step::Cgroup, unsafe {
            libc::syscall(libc::SYS_write, procs.as_raw_fd(), c"0".as_ptr(), 1_usize)
        })?;
    }
    if launch.nice != 0 {
        // SAFETY: plain numbers; 0 names the caller.
        at(Step::Nice, unsafe {
            libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, launch.nice)
        })?;
    }
    if let Some(limit) = &launch.descriptor_limit {
        let nothing = ptr::null_mut::<libc::rlimit64>();
        let limit = ptr::from_ref(limit);
        // SAFETY: the limit is valid for reading; nothing is asked back.
        at(Step::DescriptorLimit, unsafe {
            libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, limit, nothing)
        })?;
    }
    if let Some(ids) = &launch.user {
        become_user(ids)?;
    }
    if let Some(umask) = launch.umask {
        // SAFETY: a plain number; it cannot fail.
        unsafe { libc::syscall(libc::SYS_umask, umask) };
    }
    // After the change of user, whose rights to the directory are the ones that count.
    // SAFETY: `cwd` ends in a zero byte.
    at(Step::Cwd, unsafe { libc::syscall(libc::SYS_chdir, launch.cwd.as_ptr()) })
}

fn become_user(ids: &Ids<'_>) -> Result<(), (Step, c_int)> {
    // SAFETY: the group list is valid for the length given; the rest are plain numbers. Bare calls
    // change this process alone, where the C library's would reach for the agent's threads.
    unsafe {
        at(Step::User, libc::syscall(libc::SYS_setgroups, ids.groups.len(), ids.groups.as_ptr()))?;
        at(Step::User, libc::syscall(libc::SYS_setgid, ids.gid))?;
        at(Step::User, libc::syscall(libc::SYS_setuid, ids.uid))
    }
}

/// Gives every signal its default, so that no handler of the agent can run here once signals are let
/// through, and what the agent ignores is not ignored by the program.
fn reset_signals() {
    // SAFETY: an all-zero action is "default, nothing blocked", valid for reading. Signals that cannot
    // be set are refused, which is as good. The set is changed by a bare call of its kernel size.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for signal in 1..=LAST_SIGNAL {
            libc::sigaction(signal, &raw const default, ptr::null_mut());
        }
        let none: u64 = 0;
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null_mut::<u64>(),
            size_of::<u64>(),
        );
    }
}

/// Tries the places the program may be at, as a shell does. Returns why none worked.
fn execute(shared: &mut Shared<'_>) -> c_int {
    let mut refused = None;
    for candidate in shared.launch.candidates {
        match exec(candidate.as_ptr(), shared.argv, shared.env) {
            libc::ENOENT | libc::ENOTDIR => {}
            // Another place may have one that may be executed.
            libc::EACCES => refused = Some(libc::EACCES),
            libc::ENOEXEC => {
                // A script without a first line is the shell's.
                // SAFETY: the list has a place for it at 1.
                unsafe { *shared.script_argv.add(1) = candidate.as_ptr() };
                return exec(SHELL.as_ptr(), shared.script_argv, shared.env);
            }
            errno => return errno,
        }
    }
    refused.unwrap_or(libc::ENOENT)
}

/// Executes, or says why not.
fn exec(path: *const c_char, argv: *const *const c_char, env: *const *const c_char) -> c_int {
    // SAFETY: the path ends in a zero byte, both lists in a null pointer. Only a failure returns.
    unsafe { libc::syscall(libc::SYS_execve, path, argv, env) };
    errno()
}

fn at(step: Step, result: c_long) -> Result<(), (Step, c_int)> {
    if result < 0 { Err((step, errno())) } else { Ok(()) }
}

fn errno() -> c_int {
    // SAFETY: the location is this thread's, which the parent, standing still, shares.
    unsafe { *libc::__errno_location() }
}
