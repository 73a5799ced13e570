//! The root file system: found, mounted, covered by its overlay, made `/`.
//!
//! ```text
//! root disk  ──ro──► /aetherium-lower ─┐
//! overlay disk ─rw─► /aetherium-disk ──┴─ overlay ──► /aetherium-root ──move──► /
//! ```
//! Without an overlay disk the root disk itself becomes `/`: read-only, or writable where the guest's
//! work is to change it.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _, RawFd};
use std::path::Path;
use std::time::Duration;

use aetherium_agent_proto::config::{Disk, GuestConfig, RootAccess};
use aetherium_agent_proto::console::FatalCode;
use rustix::fs::{AtFlags, Mode};
use rustix::mount::{MountFlags, mount, mount_move, mount_remount};

use super::disks::Disks;
use super::{Fatal, note};

/// Where the root is put together.
pub(super) const NEW_ROOT: &str = "/aetherium-root";
const LOWER: &str = "/aetherium-lower";
const DISK: &str = "/aetherium-disk";

/// The disk behind `/` that takes writes.
pub(super) struct WritableDisk {
    /// Its top directory, the only way to it once it is covered.
    top: File,
}

impl WritableDisk {
    /// The number of its descriptor, for a program that takes over.
    pub(super) fn descriptor(&self) -> RawFd {
        self.top.as_raw_fd()
    }

    /// The disk of the init's former program.
    pub(super) fn adopt(top: RawFd) -> Self {
        // SAFETY: that program left it open for this one and named it once.
        Self { top: unsafe { File::from_raw_fd(top) } }
    }

    /// Stops writes, so that the file system is clean for its next use.
    pub(super) fn close(&self) {
        rustix::fs::sync();
        // The overlay writes through the disk, so it goes first.
        let read_only = MountFlags::RDONLY;
        let _ = mount_remount("/", read_only, c"");
        let path = format!("/proc/self/fd/{}", self.top.as_raw_fd());
        if let Err(error) = mount_remount(path, read_only, c"") {
            // Its journal makes it whole at the next mount.
            note(format!("the overlay disk stays writable to the end: {error}"));
        }
    }
}

/// Finds and mounts the root, with its overlay if there is one.
pub(super) fn assemble(config: &GuestConfig) -> Result<Option<WritableDisk>, Fatal> {
    let root = config.root.as_ref().ok_or_else(|| {
        Fatal::new(FatalCode::ConfigInvalid, "the configuration names no `root` disk")
    })?;
    let deadline = Duration::from_millis(config.root_deadline_ms);
    let mut disks = Disks::default();
    let (lower, flags) = match (&config.overlay, config.root_access) {
        (Some(_), _) => (LOWER, MountFlags::RDONLY),
        (None, RootAccess::Read) => (NEW_ROOT, MountFlags::RDONLY),
        (None, RootAccess::Write) => (NEW_ROOT, MountFlags::NOATIME),
    };
    let device = find(&mut disks, root, deadline, FatalCode::RootNotFound)?;
    let mounted = mount_at(&device, lower, &root.fstype, flags, c"");
    let top = mounted.and_then(|()| File::open(lower)).map_err(|error| {
        failed(&disks, FatalCode::RootMountFailed, &device, &root.fstype, &error)
    })?;
    let Some(overlay) = &config.overlay else {
        let writable = config.root_access == RootAccess::Write;
        return Ok(writable.then_some(WritableDisk { top }));
    };
    let device = find(&mut disks, overlay, deadline, FatalCode::OverlayNotFound)?;
    // What files no longer use goes back to the host as it is freed. `fstrim` cannot do it: it does
    // not reach a disk below an overlay.
    let options = if overlay.fstype == "ext4" && discards(&device) { c"discard" } else { c"" };
    mount_at(&device, DISK, &overlay.fstype, MountFlags::NOATIME, options).map_err(|error| {
        failed(&disks, FatalCode::OverlayFailed, &device, &overlay.fstype, &error)
    })?;
    let top = lay_over()
        .map_err(|error| failed(&disks, FatalCode::OverlayFailed, &device, "overlay", &error))?;
    Ok(Some(WritableDisk { top }))
}

fn find(
    disks: &mut Disks,
    disk: &Disk,
    deadline: Duration,
    code: FatalCode,
) -> Result<String, Fatal> {
    disks.find(disk, deadline).ok_or_else(|| {
        let detail = format!("no disk with {} after {} ms", disk.by, deadline.as_millis());
        Fatal { code, detail, seen: disks.seen() }
    })
}

fn failed(
    disks: &Disks,
    code: FatalCode,
    device: &str,
    fstype: &str,
    error: &std::io::Error,
) -> Fatal {
    let detail = format!("{device} does not mount as {fstype}: {error}");
    Fatal { code, detail, seen: disks.seen() }
}

fn mount_at(
    device: &str,
    at: &str,
    fstype: &str,
    flags: MountFlags,
    options: &CStr,
) -> std::io::Result<()> {
    make_dir(at)?;
    Ok(mount(device, at, fstype, flags, options)?)
}

/// Whether a disk takes back what is no longer used: `Documentation/ABI/stable/sysfs-block` of Linux.
fn discards(device: &str) -> bool {
    let name = device.trim_start_matches("/dev/");
    let most = std::fs::read_to_string(format!("/sys/class/block/{name}/queue/discard_max_bytes"));
    most.is_ok_and(|bytes| bytes.trim() != "0")
}

/// Lays the overlay disk's `upper` over the root.
fn lay_over() -> std::io::Result<File> {
    let (upper, work) = (format!("{DISK}/upper"), format!("{DISK}/work"));
    for dir in [upper.as_str(), work.as_str(), NEW_ROOT] {
        make_dir(dir)?;
    }
    let options = format!("lowerdir={LOWER},upperdir={upper},workdir={work}");
    let options = std::ffi::CString::new(options)?;
    mount("overlay", NEW_ROOT, "overlay", MountFlags::empty(), options.as_c_str())?;
    File::open(DISK)
}

fn make_dir(path: &str) -> std::io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes the new root `/` and gives the initramfs's memory back.
pub(super) fn switch() -> Result<(), Fatal> {
    let attempt = || -> std::io::Result<()> {
        std::env::set_current_dir(NEW_ROOT)?;
        delete_initramfs(Path::new("/"));
        mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        std::env::set_current_dir("/")
    };
    attempt().map_err(|error| {
        Fatal::new(FatalCode::SwitchFailed, format!("the root cannot become /: {error}"))
    })
}

/// Removes every file of the initramfs, and nothing behind a mount point.
fn delete_initramfs(root: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(device) = std::fs::symlink_metadata(root).map(|it| it.dev()) else { return };
    delete_children(root, device);
}

fn delete_children(dir: &Path, device: u64) {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(found) = std::fs::symlink_metadata(&path) else { continue };
        if found.dev() != device {
            continue;
        }
        // What cannot be removed costs memory and nothing else.
        let flags = if found.is_dir() {
            delete_children(&path, device);
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        let _ = rustix::fs::unlinkat(rustix::fs::CWD, &path, flags);
    }
}
