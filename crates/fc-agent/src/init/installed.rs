//! The agent of a guest whose image boots its own init, started by that init: see
//! `docs/host-prepare.md`.
//!
//! ```text
//! the image's init ─► look for the configuration disk ─► host name, network ─► serve over vsock, TCP
//! ```
//!
//! There is no initramfs of the host's here, and the kernel's command line carries no secret. So what
//! only this guest may know comes on a small ext4 disk, known by its label, with a `guest.json`. It is
//! mounted for as long as it takes to read. Without it the agent serves over vsock, which needs no token.
//!
//! Must never touch root, overlay or modules: that was the init's work, and is done.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::time::Duration;

use aetherium_agent_proto::GuestConfig;
use aetherium_agent_proto::config::{
    CONFIG_DISK_FILE, CONFIG_DISK_LABEL, Disk, DiskSelector, Transports,
};
use aetherium_agent_proto::console::Stage;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::disks::Disks;
use super::{LastWill, end_beside, files, net, serve, stage};
use crate::clock;
use crate::serve::Role;
use crate::upgrade::Estate;

/// For root alone, and gone with the machine.
const PLACE: &str = "/run/aetherium/config";
/// How long the disk may take to appear: an init that starts services has found its disks, and one that
/// is in a hurry finds virtio's within this time.
const DISK_DEADLINE: Duration = Duration::from_millis(500);

/// Serves beside the init that started it, until asked to end. The error is for people.
pub(crate) fn run() -> Result<(), String> {
    let config = read_config()?.unwrap_or_else(without_disk);
    files::write_identity(&config);
    if config.net.is_some() {
        net::bring_up(config.net.as_ref());
    }
    let will = LastWill { ends_by: config.ends_by, on_fatal: config.on_fatal };
    let estate = Estate { disk: None, will };
    let served = serve(config, Role::Process, estate, clock::uptime_ms(), || {
        stage(Stage::Listening);
    });
    let ending = served.map_err(|fatal| {
        format!(
            "{}; give the VM a vsock device, or a disk labelled {CONFIG_DISK_LABEL} whose \
             {CONFIG_DISK_FILE} has a token",
            fatal.detail
        )
    })?;
    end_beside(ending, Some(estate)).map_err(|error| error.to_string())
}

/// Over TCP nobody could prove who they are.
fn without_disk() -> GuestConfig {
    let transports = Transports { vsock: true, tcp: false };
    GuestConfig { transports, ..GuestConfig::default() }
}

/// What the configuration disk says; `None` without one.
fn read_config() -> Result<Option<GuestConfig>, String> {
    let disk = Disk::ext4(DiskSelector::Label(CONFIG_DISK_LABEL.to_owned()));
    let Some(device) = Disks::default().find(&disk, DISK_DEADLINE) else { return Ok(None) };
    let text = read_from(&device, &disk.fstype)
        .map_err(|error| format!("{CONFIG_DISK_FILE} of {device} cannot be read: {error}"))?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| format!("{CONFIG_DISK_FILE} of {device} is no configuration: {error}"))
}

fn read_from(device: &str, fstype: &str) -> io::Result<Vec<u8>> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(PLACE)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(device, PLACE, fstype, flags, c"")?;
    let text = fs::read(format!("{PLACE}/{CONFIG_DISK_FILE}"));
    // A disk that stays mounted is for root's eyes only.
    let _ = unmount(PLACE, UnmountFlags::DETACH);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_configuration_disk_nobody_is_let_in_over_tcp() {
        let config = without_disk();
        assert!(config.transports.vsock && !config.transports.tcp && config.token.is_none());
    }
}
