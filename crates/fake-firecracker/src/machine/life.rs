//! The microVM's life: start, keys, pause, resume, snapshots.
//!
//! ```text
//! Not started ─ InstanceStart ─► Running ⇄ Paused ─ snapshot/create ─► Paused
//!      └── snapshot/load ──► Paused (or Running, with resume_vm)
//! ```

use super::{Machine, State};
use crate::{
    body::{
        ActionBody, ActionType, BootSource, CreateSnapshot, Drive, LoadSnapshot, NetworkInterface,
        SnapshotType, StateBody, WantedState, read,
    },
    console::{Console, Hardware, LISTENING, PANIC, PROBE, farewell},
    fault, files,
    guest::{Guest, Parts},
    initrd,
    refusal::Refusal,
    settings::{GuestKind, VsockKind},
    snapshot::{self, Saved},
    version::Version,
};
use aetherium_agent_proto::config::{EndsBy, GuestConfig, Mode};
use serde_json::Value;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::sync::{Notify, watch};

/// How long a guest to which something happens is up before: time for its agent to be heard.
const UP_FOR: Duration = Duration::from_secs(1);

impl Machine {
    pub(super) fn act(&mut self, body: Value) -> Result<(), Refusal> {
        let ActionBody { action_type } = read(body)?;
        match (action_type, self.state) {
            (ActionType::InstanceStart, State::NotStarted) => self.start(),
            (ActionType::InstanceStart, _) => Err(Refusal::after_boot()),
            (_, State::NotStarted) => Err(Refusal::before_boot()),
            (ActionType::FlushMetrics, _) => self.flush_metrics(),
            (ActionType::SendCtrlAltDel, _) => {
                if let Some(guest) = self.guest.borrow().as_ref() {
                    guest.press_ctrl_alt_del();
                }
                Ok(())
            }
        }
    }

    /// Starts the virtual CPUs. The guest boots by itself, long after the answer.
    fn start(&mut self) -> Result<(), Refusal> {
        let Some(boot) = self.boot.clone() else {
            return Err(Refusal::bad_request(
                "Start microvm error: Cannot start microvm without kernel configuration.",
            ));
        };
        if let Some(path) = &self.serial {
            self.console.redirect(files::open_serial(path)?);
        }
        files::check_kernel(&boot.kernel_image_path, self.temper.version)?;
        self.guest_config = boot.initrd_path.as_deref().map(told).transpose()?.flatten();
        self.state = State::Running;
        self.log.line("fc_api", "Guest starts.");
        let fate = self.show_boot(&boot);
        tokio::spawn(self.life()?.lead(fate));
        Ok(())
    }

    /// What a guest of this machine lives with.
    fn life(&self) -> Result<Life, Refusal> {
        let tap = match self.networks.first() {
            None => None,
            Some((network, tap)) => {
                let tap = tap.try_clone().map_err(|it| Refusal::bad_request(it.to_string()))?;
                Some((tap, network.guest_mac.as_ref().map(|mac| mac.0)))
            }
        };
        Ok(Life {
            // Without a word from the host it is taken for one that ends as Firecracker can see.
            ends_by: self.guest_config.as_ref().map_or(EndsBy::Restart, |it| it.ends_by),
            parts: Parts {
                agent: self.temper.agent.clone(),
                dir: self.dir.clone(),
                config: self.guest_config.clone(),
                tap,
            },
            console: self.console.clone(),
            guest: self.guest.clone(),
            over: self.over.clone(),
        })
    }

    /// Prints what the kernel would, and says how the boot goes on.
    fn show_boot(&self, boot: &BootSource) -> Fate {
        let drives: Vec<Drive> = self.drives.iter().map(|(drive, _)| drive.clone()).collect();
        let networks: Vec<NetworkInterface> =
            self.networks.iter().map(|(it, _)| it.clone()).collect();
        let hardware = Hardware {
            boot,
            drives: &drives,
            networks: &networks,
            vsock: self.vsock.is_some(),
            pci: self.pci,
        };
        self.console.write(&hardware.kernel_lines());
        match self.temper.guest {
            GuestKind::Hangs => return Fate::Hangs,
            _ if hardware.loses_its_bus() => {}
            _ if self.guest_config.as_ref().is_some_and(|it| it.mode == Mode::Probe) => {
                return Fate::Probes;
            }
            GuestKind::Boots => return Fate::ComesUp(Afterwards::GoesOn),
            GuestKind::Dies => return Fate::ComesUp(Afterwards::Dies),
            GuestKind::Freezes => return Fate::ComesUp(Afterwards::Freezes),
            GuestKind::Panics => {}
        }
        Fate::Panics { restart: after_panic(&hardware.command_line()) }
    }

    pub(super) fn set_state(&mut self, body: Value) -> Result<(), Refusal> {
        let StateBody { state } = read(body)?;
        let guest = self.guest.borrow().clone();
        // What is so already is done again, and answered in the same way.
        match state {
            WantedState::Paused => {
                guest.iter().for_each(|guest| guest.pause());
                self.state = State::Paused;
                self.snapshot_taken = false;
            }
            WantedState::Resumed => {
                guest.iter().for_each(|guest| guest.resume());
                self.state = State::Running;
                // A snapshot tells the guest that its connections are gone, which cures it.
                if let Some((_, device)) = &self.vsock
                    && self.temper.vsock == VsockKind::LostByResume
                    && !self.snapshot_taken
                {
                    device.behave(VsockKind::Silent);
                }
            }
        }
        Ok(())
    }

    pub(super) fn create_snapshot(&mut self, body: Value) -> Result<(), Refusal> {
        let wanted: CreateSnapshot = read(body)?;
        if self.state != State::Paused {
            return Err(Refusal::bad_request(
                "Create snapshot error: Cannot save the microVM state: Operation not allowed: \
                 save/restore unavailable while running",
            ));
        }
        let diff = wanted.snapshot_type == SnapshotType::Diff;
        if diff && !self.machine.track_dirty_pages && self.temper.version < Version::V1_13 {
            return Err(Refusal::bad_request(
                "The requested operation is not supported: Diff snapshots are not allowed on uVMs \
                 with dirty page tracking disabled.",
            ));
        }
        let saved = Saved {
            format: self.temper.version.snapshot_format(),
            machine: self.machine.clone(),
            boot: self.boot.clone(),
            drives: self.drives.iter().map(|(drive, _)| drive.clone()).collect(),
            networks: self.networks.iter().map(|(it, _)| it.clone()).collect(),
            vsock: self.vsock.as_ref().map(|(vsock, _)| vsock.clone()),
            guest: self.guest_config.clone(),
            pci: self.pci,
        };
        snapshot::write(&saved, &wanted)?;
        self.snapshot_taken = true;
        // No connection survives a snapshot, on either side of it.
        if let Some((_, device)) = &self.vsock {
            device.cut();
        }
        Ok(())
    }

    pub(super) async fn load_snapshot(&mut self, body: Value) -> Result<(), Refusal> {
        let wanted: LoadSnapshot = read(body)?;
        let memory = wanted.memory()?;
        if self.boot_path {
            return Err(Refusal::bad_request(
                "Load snapshot error: Loading a microVM snapshot not allowed after configuring \
                 boot-specific resources.",
            ));
        }
        let saved = snapshot::read(&wanted.snapshot_path, memory, self.temper.version)?;
        self.restore(saved, &wanted).map_err(|refusal| {
            Refusal::fatal(format!(
                "Load snapshot error: Failed to restore from snapshot: Failed to build microVM from \
                 snapshot: {}",
                refusal.message
            ))
        })?;
        let life = self.life()?;
        // A restored guest was up before, and is at once.
        if let Some(ended) = life.come_up().await {
            tokio::spawn(ended);
        }
        self.state = State::Running;
        if !wanted.resume_vm {
            self.guest.borrow().iter().for_each(|guest| guest.pause());
            self.state = State::Paused;
        }
        Ok(())
    }

    /// Opens again what the snapshot's devices stand on.
    fn restore(&mut self, saved: Saved, wanted: &LoadSnapshot) -> Result<(), Refusal> {
        self.pci = saved.pci;
        self.machine = saved.machine;
        self.guest_config = saved.guest;
        for drive in saved.drives {
            let path = drive.path_on_host.clone().unwrap_or_default();
            let file = files::open_drive(&path, drive.is_read_only == Some(true))
                .map_err(Refusal::bad_request)?;
            self.drives.push((drive, file));
        }
        for override_ in &wanted.network_overrides {
            if !saved.networks.iter().any(|it| it.iface_id == override_.iface_id) {
                return Err(Refusal::bad_request("Unknown Network Device."));
            }
        }
        for mut network in saved.networks {
            let by = wanted.network_overrides.iter().find(|it| it.iface_id == network.iface_id);
            if let Some(by) = by {
                network.host_dev_name.clone_from(&by.host_dev_name);
            }
            let tap = files::open_tap(&network.host_dev_name)?;
            self.networks.push((network, tap));
        }
        match (saved.vsock, &wanted.vsock_override) {
            (None, Some(_)) => return Err(Refusal::bad_request("Unknown Vsock Device.")),
            (None, None) => {}
            (Some(mut vsock), by) => {
                if let Some(by) = by {
                    vsock.uds_path.clone_from(&by.uds_path);
                }
                let device = self.bind_vsock(&vsock).map_err(Refusal::bad_request)?;
                if self.temper.version.loses_restored_vsock() {
                    device.behave(VsockKind::Silent);
                }
                self.vsock = Some((vsock, device));
            }
        }
        Ok(())
    }
}

/// How a boot goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    ComesUp(Afterwards),
    /// Says that its kernel runs, and ends.
    Probes,
    Hangs,
    /// And restarts after so long, if at all.
    Panics {
        restart: Option<Duration>,
    },
}

/// How a guest that came up goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Afterwards {
    GoesOn,
    Dies,
    Freezes,
}

/// What `panic=` says: seconds until a restart, at once below zero, never at zero or without it.
fn after_panic(command_line: &str) -> Option<Duration> {
    let wanted = command_line.split_whitespace().rev().find_map(|it| it.strip_prefix("panic="))?;
    match wanted.parse::<i64>().ok()? {
        0 => None,
        seconds => Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
    }
}

/// The guest's life, beside the machine that started it.
struct Life {
    ends_by: EndsBy,
    parts: Parts,
    console: Arc<Console>,
    guest: watch::Sender<Option<Arc<Guest>>>,
    over: Arc<Notify>,
}

impl Life {
    async fn lead(self, fate: Fate) {
        match fate {
            Fate::Hangs => {}
            Fate::Probes => {
                self.console.write(PROBE);
                say_farewell(&self.console, self.ends_by, &self.over);
            }
            Fate::Panics { restart } => {
                self.console.write(PANIC);
                if let Some(delay) = restart {
                    tokio::time::sleep(delay).await;
                    self.over.notify_one();
                }
            }
            Fate::ComesUp(afterwards) => {
                let guest = self.guest.clone();
                if let Some(ended) = self.come_up().await {
                    tokio::join!(ended, befall(afterwards, &guest));
                }
            }
        }
    }

    /// Starts the agent. What comes back resolves with the guest's end.
    async fn come_up(self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let Self { ends_by, parts, console, guest, over } = self;
        let agent = parts.agent.clone();
        match Guest::boot(parts, &console).await {
            Ok((booted, ended)) => {
                console.write(LISTENING);
                guest.send_replace(Some(Arc::new(booted)));
                Some(async move {
                    ended.await;
                    guest.send_replace(None);
                    say_farewell(&console, ends_by, &over);
                })
            }
            Err(error) => {
                // A test that names no agent must see it, and not wait for an answer.
                eprintln!("fake-firecracker: {} does not start: {error}", agent.display());
                over.notify_one();
                None
            }
        }
    }
}

/// Lets happen to a guest what happens to it once it is up.
async fn befall(what: Afterwards, guest: &watch::Sender<Option<Arc<Guest>>>) {
    if what == Afterwards::GoesOn {
        return;
    }
    tokio::time::sleep(UP_FOR).await;
    match what {
        Afterwards::GoesOn => {}
        Afterwards::Dies => fault::die().await,
        Afterwards::Freezes => guest.borrow().iter().for_each(|guest| guest.pause()),
    }
}

/// The guest is over. Firecracker ends with a guest that restarts; one that switches itself off
/// leaves it standing.
fn say_farewell(console: &Console, ends_by: EndsBy, over: &Notify) {
    console.write(farewell(ends_by));
    if ends_by == EndsBy::Restart {
        over.notify_one();
    }
}

/// What the host told the guest in its initramfs.
fn told(initrd: &Path) -> Result<Option<GuestConfig>, Refusal> {
    initrd::guest_config(initrd).map_err(|error| {
        Refusal::bad_request(format!(
            "Start microvm error: Error with initrd initialization: {error}."
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_restarts_as_the_command_line_says() {
        assert_eq!(after_panic("reboot=k panic=1"), Some(Duration::from_secs(1)));
        assert_eq!(after_panic("panic=1 panic=-1"), Some(Duration::ZERO));
        assert_eq!(after_panic("panic=0"), None);
        assert_eq!(after_panic("quiet"), None);
    }
}
