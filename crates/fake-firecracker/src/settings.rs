//! What a test asks of the fake.
//!
//! A JSON object, from the file named by `FAKE_FIRECRACKER_SETTINGS`, or else from
//! `<program>.json` beside the program as it was started, links not followed:
//!
//! ```json
//! {
//!   "version": "1.15.0",
//!   "agent": "/path/to/fc-agent",
//!   "guest": "boots",
//!   "vsock": "served",
//!   "faults": [
//!     { "at": "PUT /boot-source", "do": { "refuse": "no such luck" } },
//!     { "at": "PUT /actions InstanceStart", "do": "hang" },
//!     { "at": "PATCH /vm Paused", "do": "die", "times": 1 },
//!     { "at": "start", "do": { "exit": 1 } }
//!   ]
//! }
//! ```
//!
//! `FAKE_FIRECRACKER_VERSION` and `FAKE_FIRECRACKER_AGENT` come before what the file says. Without
//! an agent named, `fc-agent` beside the program is taken.

use crate::{fault::Fault, version::Version};
use serde::Deserialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// See the module.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// The version that is claimed and imitated.
    pub(crate) version: Version,
    /// The guest's agent.
    pub(crate) agent: PathBuf,
    /// How the guest behaves.
    pub(crate) guest: GuestKind,
    /// How the vsock device behaves.
    pub(crate) vsock: VsockKind,
    /// What goes wrong.
    pub(crate) faults: Vec<Fault>,
}

/// How a guest behaves once it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GuestKind {
    /// Its agent comes up.
    #[default]
    Boots,
    /// It finds no root, panics and restarts, which ends Firecracker.
    Panics,
    /// It prints its first lines and no more.
    Hangs,
}

/// How a vsock device behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VsockKind {
    /// As Firecracker's.
    #[default]
    Served,
    /// Connections are accepted and never answered.
    Silent,
    /// Connections are closed at once, as if nobody ever listened in the guest.
    Closed,
    /// As Firecracker's up to 1.16.1 when it is unlucky: silent after a bare pause and resume.
    LostByResume,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: Version::DEFAULT,
            agent: PathBuf::new(),
            guest: GuestKind::default(),
            vsock: VsockKind::default(),
            faults: Vec::new(),
        }
    }
}

impl Settings {
    /// Finds them, as the module says.
    pub(crate) fn find() -> Result<Self, String> {
        let program = PathBuf::from(std::env::args_os().next().unwrap_or_default());
        let mut settings = match std::env::var_os("FAKE_FIRECRACKER_SETTINGS") {
            Some(path) => read(Path::new(&path))?,
            None => {
                let mut beside = program.clone().into_os_string();
                beside.push(".json");
                read(Path::new(&beside))?
            }
        };
        if let Ok(version) = std::env::var("FAKE_FIRECRACKER_VERSION") {
            settings.version = version.parse()?;
        }
        if let Some(agent) = std::env::var_os("FAKE_FIRECRACKER_AGENT") {
            settings.agent = agent.into();
        }
        if settings.agent.as_os_str().is_empty() {
            settings.agent = program.with_file_name("fc-agent");
        }
        Ok(settings)
    }
}

fn read(path: &Path) -> Result<Settings, String> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Settings::default()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}
