//! The init: from the kernel's first process to a guest that serves.
//!
//! ```text
//! start ─► modules ─► root ─► switch ─► net ─► listening ──asked──► end
//!    └────────┴─────────┴───────┴────────┴─────────┴──fatal──► one console line, power off
//! ```
//!
//! Each step is announced on the console by one line ([`ConsoleLine`]). Owns every mount it makes
//! and the machine's end. Must never return or exit: the kernel panics without its first process.

mod console;
mod disks;
mod ext4;
mod files;
mod modules;
mod mounts;
mod net;
mod power;
mod root;

use std::time::Duration;

use aetherium_agent_proto::AGENT_PORT;
use aetherium_agent_proto::config::{EndsBy, GUEST_CONFIG_PATH, GuestConfig, Mode};
use aetherium_agent_proto::console::{ConsoleLine, FatalCode, SeenDisk, Stage};

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
    let mut ends_by = EndsBy::default();
    match boot(started_uptime_ms, &mut ends_by) {
        Ok(disk) => {
            console::say(&ConsoleLine::PowerOff);
            if let Some(disk) = disk {
                disk.close();
            }
        }
        Err(fatal) => {
            let Fatal { code, detail, seen } = fatal;
            console::say(&ConsoleLine::Fatal { code, detail, seen });
        }
    }
    power::end(ends_by)
}

/// A panic would end the init and panic the kernel; this ends the machine instead, and says why.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let line = ConsoleLine::Fatal {
            code: FatalCode::Internal,
            detail: panic.to_string(),
            seen: Vec::new(),
        };
        console::say(&line);
        power::end(EndsBy::default())
    }));
}

/// Everything from the first mount to the last process. Returns the writable disk to be closed.
fn boot(started_uptime_ms: u64, ends_by: &mut EndsBy) -> Result<Option<root::WritableDisk>, Fatal> {
    mounts::early()?;
    console::open();
    stage_at(Stage::Start, started_uptime_ms);
    let config = read_config()?;
    *ends_by = config.ends_by;
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
    power::take_ctrl_alt_del();
    let estate =
        Estate { disk: disk.as_ref().map(root::WritableDisk::descriptor), ends_by: config.ends_by };
    serve(config, estate, started_uptime_ms)?;
    Ok(disk)
}

/// Goes on in the place of the init's former program, whose estate this is. Never returns.
pub(crate) fn resume(estate: Estate, serve: impl FnOnce() -> Result<Ending, ServeError>) -> ! {
    end_on_panic();
    match serve() {
        Ok(Ending::Asked) => {
            console::say(&ConsoleLine::PowerOff);
            if let Some(disk) = estate.disk.map(root::WritableDisk::adopt) {
                disk.close();
            }
        }
        Err(error) => {
            let fatal = Fatal::new(FatalCode::Internal, error.to_string());
            let Fatal { code, detail, seen } = fatal;
            console::say(&ConsoleLine::Fatal { code, detail, seen });
        }
    }
    power::end(estate.ends_by)
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

fn serve(config: GuestConfig, estate: Estate, started_uptime_ms: u64) -> Result<(), Fatal> {
    let listen = listeners(&config);
    if listen.is_empty() {
        let detail = "vsock is absent or not wanted, and TCP not wanted or without a token";
        return Err(Fatal::new(FatalCode::ListenFailed, detail));
    }
    let mut left = listen.len();
    let config = ServeConfig {
        listen,
        token: config.token,
        role: Role::Init,
        estate: Some(estate),
        started_uptime_ms,
    };
    let served = serve::run(config, |_| {
        left -= 1;
        if left == 0 {
            stage(Stage::Listening);
        }
    });
    served.map(drop).map_err(|error| Fatal::new(FatalCode::ListenFailed, error.to_string()))
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
