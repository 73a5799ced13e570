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
//!
//! Where many are started by one driver, `deck` names a directory of cards, `<name>.json`, each with
//! `guest`, `vsock` and `faults` of one VM. Each that serves takes one that is left, and renames it
//! to `<id>.dealt`, so that the test knows who got what. Once there are none, what the file says
//! holds.

use crate::{fault::Fault, version::Version};
use serde::{Deserialize, de::DeserializeOwned};
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
    /// Where the cards are that say it for one VM each.
    deck: Option<PathBuf>,
}

/// What is one VM's own.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Card {
    guest: GuestKind,
    vsock: VsockKind,
    faults: Vec<Fault>,
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
    /// Its agent comes up; soon after, Firecracker is killed, as if from outside.
    Dies,
    /// Its agent comes up; soon after, nothing in it runs any more, though nobody paused it.
    Freezes,
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
            deck: None,
        }
    }
}

impl Settings {
    /// Finds them, as the module says.
    pub(crate) fn find() -> Result<Self, String> {
        let program = PathBuf::from(std::env::args_os().next().unwrap_or_default());
        let mut settings: Self = match std::env::var_os("FAKE_FIRECRACKER_SETTINGS") {
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

    /// Takes a card for the VM with this id, if there is a deck with one left.
    pub(crate) fn deal(mut self, id: &str) -> Result<Self, String> {
        let Some(deck) = &self.deck else { return Ok(self) };
        if let Some(dealt) = take_card(deck, id).map_err(|e| format!("{}: {e}", deck.display()))? {
            let Card { guest, vsock, faults } = read(&dealt)?;
            self = Self { guest, vsock, faults, ..self };
        }
        Ok(self)
    }
}

/// Gives the first card that is left another name, which one process alone can.
fn take_card(deck: &Path, id: &str) -> io::Result<Option<PathBuf>> {
    let dealt = deck.join(id).with_extension("dealt");
    loop {
        let mut cards = Vec::new();
        for entry in fs::read_dir(deck)? {
            cards.push(entry?.path());
        }
        cards.retain(|path| path.extension().is_some_and(|it| it == "json"));
        let Some(card) = cards.into_iter().min() else { return Ok(None) };
        match fs::rename(card, &dealt) {
            Ok(()) => return Ok(Some(dealt)),
            // Another was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

fn read<T: DeserializeOwned + Default>(path: &Path) -> Result<T, String> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_dealt_once_and_bears_the_name_of_who_got_it() {
        let deck = tempfile::tempdir().unwrap();
        fs::write(deck.path().join("1.json"), r#"{"guest": "panics"}"#).unwrap();
        fs::write(deck.path().join("2.json"), r#"{"vsock": "closed"}"#).unwrap();
        let settings = || Settings {
            guest: GuestKind::Hangs,
            deck: Some(deck.path().to_owned()),
            ..Settings::default()
        };
        let kinds = |id: &str| {
            let dealt = settings().deal(id).unwrap();
            (dealt.guest, dealt.vsock)
        };
        assert_eq!(kinds("a"), (GuestKind::Panics, VsockKind::Served));
        assert_eq!(kinds("b"), (GuestKind::Boots, VsockKind::Closed));
        assert_eq!(kinds("c"), (GuestKind::Hangs, VsockKind::Served), "none was left");
        let names = ["a.dealt", "b.dealt"].map(|name| deck.path().join(name).exists());
        assert_eq!(names, [true, true]);
    }
}
