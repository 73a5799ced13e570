//! Handing the machine over to the image's own init, such as systemd, and serving on beside it.
//!
//! ```text
//! PID 1 ─┬─ fork ─► agent: own session, own cgroup ── serves ─► asks init for the machine's end
//!        │            └─ "listening" ─┐
//!        └─ waits (≤ 10 s) ◄──────────┘ exec ─► the image's init
//! ```
//!
//! The agent listens before init starts, so no boot of an image, however slow or broken, keeps its
//! host out. Its own cgroup keeps it out of every unit: an init that stops a unit, or tidies up its
//! own cgroup, does not meet it. The mounts of the early boot stay; systemd takes those it finds.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use aetherium_agent_proto::config::GuestConfig;
use aetherium_agent_proto::console::{ConsoleLine, FatalCode, Stage};
use rustix::event::{PollFd, PollFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::{Fatal, console, end_beside, last_will, note, serve, stage};
use crate::serve::Role;
use crate::upgrade::Estate;

/// How long the agent may take to listen.
const LISTEN_DEADLINE: Duration = Duration::from_secs(10);
/// The agent's cgroup. systemd leaves what it did not make alone.
const CGROUP: &str = "/sys/fs/cgroup/aetherium-agent";
/// Without it an init that renames interfaces by their slot would rename the one in use.
const LINK_RULES: (&str, &str) = ("/run/systemd/network", "99-default.link");

/// Hands over. Returns only when that fails.
pub(super) fn to(program: &str, config: GuestConfig, started_uptime_ms: u64) -> Fatal {
    match attempt(program, config, started_uptime_ms) {
        Ok(never) => match never {},
        Err(detail) => Fatal::new(FatalCode::HandOverFailed, detail),
    }
}

fn attempt(
    program: &str,
    config: GuestConfig,
    started_uptime_ms: u64,
) -> Result<Infallible, String> {
    let metadata = fs::metadata(program)
        .map_err(|error| format!("the image's init `{program}` is not there: {error}"))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(format!("the image's init `{program}` is no program"));
    }
    let argv = CString::new(program).map_err(|_| format!("`{program}` holds a zero byte"))?;
    keep_interface_names();
    let (ready, listening) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("no pipe to the agent: {error}"))?;
    // SAFETY: no other thread runs yet, so the child may do whatever it likes.
    match unsafe { libc::fork() } {
        -1 => return Err(format!("the agent cannot be forked: {}", io::Error::last_os_error())),
        0 => {
            drop(ready);
            serve_beside(config, started_uptime_ms, || {
                stage(Stage::Listening);
                // The other end waits, or has given up and says so itself.
                let _ = rustix::io::write(&listening, b"1");
            })
        }
        _ => drop(listening),
    }
    wait_for(&ready)?;
    Err(execute(&argv))
}

/// Waits for the agent's word. Its end closes the pipe, which counts as none.
fn wait_for(ready: &impl std::os::fd::AsFd) -> Result<(), String> {
    let deadline = rustix::event::Timespec {
        tv_sec: LISTEN_DEADLINE.as_secs() as i64,
        tv_nsec: LISTEN_DEADLINE.subsec_nanos().into(),
    };
    let mut waited = [PollFd::new(ready, PollFlags::IN)];
    let polled = rustix::event::poll(&mut waited, Some(&deadline));
    match polled.and_then(|ready_count| {
        let mut word = [0; 1];
        if ready_count == 0 { Ok(0) } else { rustix::io::read(ready, &mut word) }
    }) {
        Ok(0) => Err(format!("the agent did not listen within {} ms", LISTEN_DEADLINE.as_millis())),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("the agent cannot be waited for: {error}")),
    }
}

/// Becomes the image's init, with the environment the kernel gave.
fn execute(program: &CString) -> String {
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            CString::new(name.into_vec()).ok()
        })
        .collect();
    let mut env_pointers: Vec<_> = env.iter().map(|it| it.as_ptr()).collect();
    env_pointers.push(std::ptr::null());
    let argv = [program.as_ptr(), std::ptr::null()];
    // SAFETY: both lists end in a null and hold pointers to strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env_pointers.as_ptr()) };
    let error = io::Error::last_os_error();
    format!("the image's init `{}` does not start: {error}", program.to_string_lossy())
}

/// The agent's life beside an init. Exits; it is not the first process any more.
fn serve_beside(config: GuestConfig, started_uptime_ms: u64, listening: impl FnMut()) -> ! {
    // A program that dies beside init ends itself alone, and says why.
    std::panic::set_hook(Box::new(|panic| note(format!("the agent failed: {panic}"))));
    // The name in process lists; the agent was started as `/init`, which it is no more.
    let _ = fs::write("/proc/self/comm", "fc-agent");
    // In a session of its own no terminal that init hangs up takes the agent with it.
    let _ = rustix::process::setsid();
    leave_inits_cgroup();
    let estate = Estate { disk: None, will: last_will() };
    let code = match serve(config, Role::Process, estate, started_uptime_ms, listening) {
        Ok(ending) => match end_beside(ending, Some(estate)) {
            Ok(()) => 0,
            Err(error) => {
                note(format!("init was not asked for the machine's end: {error}"));
                1
            }
        },
        Err(Fatal { code, detail, seen }) => {
            console::say(&ConsoleLine::Fatal { code, detail, seen });
            1
        }
    };
    std::process::exit(code)
}

fn leave_inits_cgroup() {
    let moved = fs::create_dir_all(CGROUP)
        .and_then(|()| fs::write(format!("{CGROUP}/cgroup.procs"), std::process::id().to_string()));
    if let Err(error) = moved {
        note(format!("the agent shares init's cgroup: {error}"));
    }
}

fn keep_interface_names() {
    let (dir, file) = LINK_RULES;
    let written = fs::create_dir_all(dir)
        .and_then(|()| std::os::unix::fs::symlink("/dev/null", format!("{dir}/{file}")));
    if let Err(error) = written {
        note(format!("{dir}/{file} was not made; the image may rename eth0: {error}"));
    }
}
