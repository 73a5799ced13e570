//! The init: from the kernel's first process to a guest that serves.
//!
//! ```text
//! start ─► modules ─► root ─► switch ─► net ─► listening ──asked──► end
//!    │        │         │       │        │         └─ or: the image's own init becomes PID 1
//!    └────────┴─────────┴───────┴────────┴──fatal──► one console line, power off or hold
//! ```
//!
//! Each step is announced on the console by one line ([`ConsoleLine`]). Owns every mount it makes
//! and the machine's end. Must never return or exit: the kernel panics without its first process.

mod console;
mod disks;
mod ext4;
mod files;
mod hand_over;
pub(crate) mod installed;
mod modules;
mod mounts;
mod net;
mod power;
mod root;

use std::sync::OnceLock;
use std::time::Duration;

use aetherium_agent_proto::AGENT_PORT;
use aetherium_agent_proto::config::{
    EndsBy, FirstProcess, GUEST_CONFIG_PATH, GuestConfig, Mode, OnFatal,
};
use aetherium_agent_proto::console::{ConsoleLine, FatalCode, SeenDisk, Stage};

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::serve::{self, Ending, Listen, Role, ServeConfig, ServeError};
use crate::server::vsock_is_there;
use crate::upgrade::Estate;

/// A boot that cannot go on.
#[derive(Debug)]
pub(crate) struct Fatal {
    code: FatalCode,
    detail: String,
    seen: Vec<SeenDisk>,
}

impl Fatal {
    fn new(code: FatalCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), seen: Vec::new() }
    }
}

/// Boots the guest and serves. Never returns.
pub(crate) fn run() -> ! {
    let started_uptime_ms = clock::uptime_ms();
    console::open();
    end_on_panic();
    match boot(started_uptime_ms) {
        Ok(disk) => end_machine(disk),
        Err(fatal) => give_up(fatal),
    }
}

/// How the machine ends, and what an end that nobody asked for comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct LastWill {
    ends_by: EndsBy,
    on_fatal: OnFatal,
}

/// Written once the configuration is read.
static LAST_WILL: OnceLock<LastWill> = OnceLock::new();

fn last_will() -> LastWill {
    LAST_WILL.get().copied().unwrap_or_default()
}

/// Says why the boot, or the agent, cannot go on, and ends or holds the machine as configured.
fn give_up(fatal: Fatal) -> ! {
    let Fatal { code, detail, seen } = fatal;
    console::say(&ConsoleLine::Fatal { code, detail, seen });
    match last_will() {
        LastWill { on_fatal: OnFatal::End, ends_by } => power::end(ends_by),
        LastWill { on_fatal: OnFatal::Hold, .. } => power::hold(),
    }
}

/// A panic would end the init and panic the kernel; this ends the machine instead, and says why.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        give_up(Fatal::new(FatalCode::Internal, panic.to_string()));
    }));
}

/// Does what the ending of an agent beside another first process means. Where the machine is the
/// agent's own and a caller wished for the end, that process is asked for it, if it is known to listen;
/// otherwise the machine is stopped from here.
pub(crate) fn end_beside(ending: Ending, estate: Option<Estate>) -> std::io::Result<()> {
    match (ending, estate) {
        (Ending::Wished, Some(estate)) => {
            console::say(&ConsoleLine::PowerOff);
            power::ask(estate.will.ends_by)
        }
        // The one who sent the signal ends the machine, if anybody does.
        (Ending::Signalled, _) | (Ending::Wished, None) => Ok(()),
    }
}

/// Everything from the first mount to the last process. Returns the writable disk to be closed.
fn boot(started_uptime_ms: u64) -> Result<Option<root::WritableDisk>, Fatal> {
    mounts::early()?;
    console::open();
    stage_at(Stage::Start, started_uptime_ms);
    let config = read_config()?;
    LAST_WILL.get_or_init(|| LastWill { ends_by: config.ends_by, on_fatal: config.on_fatal });
    if config.mode == Mode::Probe {
        console::say(&ConsoleLine::Probe { uptime_ms: clock::uptime_ms() });
        return Ok(None);
    }
    modules::load_all();
    stage(Stage::Modules);
    let disk = root::assemble(&config)?;
    stage(Stage::Root);
    mounts::late(root::NEW_ROOT);
    root::switch()?;
    console::open();
    stage(Stage::Switch);
    files::write_identity(&config);
    net::bring_up(config.net.as_ref());
    stage(Stage::Net);
    if let FirstProcess::Image { program } = &config.first_process {
        return Err(hand_over::to(&program.clone(), config, started_uptime_ms));
    }
    power::take_ctrl_alt_del();
    let disk_descriptor = disk.as_ref().map(root::WritableDisk::descriptor);
    let estate = Estate { disk: disk_descriptor, will: last_will() };
    serve(config, Role::Init, estate, started_uptime_ms, || stage(Stage::Listening))?;
    Ok(disk)
}

/// Goes on in the place of the init's former program, whose estate this is. Never returns.
pub(crate) fn resume(estate: Estate, serve: impl FnOnce() -> Result<Ending, ServeError>) -> ! {
    LAST_WILL.get_or_init(|| estate.will);
    end_on_panic();
    match serve() {
        Ok(_) => end_machine(estate.disk.map(root::WritableDisk::adopt)),
        Err(error) => give_up(Fatal::new(FatalCode::Internal, error.to_string())),
    }
}

fn end_machine(disk: Option<root::WritableDisk>) -> ! {
    console::say(&ConsoleLine::PowerOff);
    if let Some(disk) = disk {
        disk.close();
    }
    power::end(last_will().ends_by)
}

fn read_config() -> Result<GuestConfig, Fatal> {
    let text = std::fs::read(GUEST_CONFIG_PATH).map_err(|error| {
        let detail = format!("{GUEST_CONFIG_PATH} cannot be read from the initramfs: {error}");
        Fatal::new(FatalCode::ConfigMissing, detail)
    })?;
    serde_json::from_slice(&text).map_err(|error| {
        let detail = format!("{GUEST_CONFIG_PATH} is no guest configuration: {error}");
        Fatal::new(FatalCode::ConfigInvalid, detail)
    })
}

/// Serves until asked to end. Calls `listening` once every listener is there.
fn serve(
    config: GuestConfig,
    role: Role,
    estate: Estate,
    started_uptime_ms: u64,
    mut listening: impl FnMut(),
) -> Result<Ending, Fatal> {
    let listen = listeners(&config);
    if listen.is_empty() {
        let detail = "vsock is absent or not wanted, and TCP not wanted or without a token";
        return Err(Fatal::new(FatalCode::ListenFailed, detail));
    }
    let mut left = listen.len();
    let estate = Some(estate);
    let config = ServeConfig { listen, token: config.token, role, estate, started_uptime_ms };
    let served = serve::run(config, |_| {
        left -= 1;
        if left == 0 {
            listening();
        }
    });
    served.map_err(|error| Fatal::new(FatalCode::ListenFailed, error.to_string()))
}

fn listeners(config: &GuestConfig) -> Vec<Listen> {
    let mut listen = Vec::new();
    if config.transports.vsock && vsock_is_there() {
        listen.push(Listen::Vsock(u32::from(AGENT_PORT)));
    }
    // An agent on TCP without a token would obey every neighbour.
    if config.transports.tcp && config.token.is_some() {
        listen.push(Listen::Tcp(([0, 0, 0, 0], AGENT_PORT).into()));
    }
    listen
}

fn stage(stage: Stage) {
    stage_at(stage, clock::uptime_ms());
}

fn stage_at(stage: Stage, uptime_ms: u64) {
    console::say(&ConsoleLine::Stage { stage, uptime_ms });
}

/// Says what went wrong without being fatal.
fn note(detail: impl Into<String>) {
    console::say(&ConsoleLine::Note { detail: detail.into() });
}

/// Asks again every few milliseconds until there is an answer or the time is over. An init has
/// nothing else to do meanwhile.
fn poll<T>(deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    const PAUSE: Duration = Duration::from_millis(5);
    let end = std::time::Instant::now() + deadline;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if std::time::Instant::now() >= end {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}
