//! Secrets: files that exist in memory alone.
//!
//! They lie in a tmpfs of their own, so that no snapshot of a disk and no overlay holds them. The
//! directory can be passed through and not listed; each file is for its owner's eyes alone.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aetherium_agent_proto::system::{MAX_SECRET_BYTES, SECRETS_DIR, SecretName};
use aetherium_agent_proto::{Refusal, RefusalKind};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::mount::{MountFlags, mount};

use crate::actor::unknown;
use crate::exec::Accounts;
use crate::refuse::OrRefuse as _;

/// The file system's number, from the kernel's `linux/magic.h`.
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// Where a secret is written before it takes its name. A secret's name never begins with a dot.
const TEMP: &str = ".new";
/// `noswap` came with Linux 6.4; a guest without swap misses nothing.
const OPTIONS: [&CStr; 2] = [c"mode=0711,size=16m,noswap", c"mode=0711,size=16m"];

/// One writer at a time: there is one name for what is not complete.
static WRITING: Mutex<()> = Mutex::new(());

/// Writes a secret, whole, and returns its path.
pub(super) fn write(name: &SecretName, data: &[u8], user: Option<&str>) -> Result<String, Refusal> {
    if data.len() > MAX_SECRET_BYTES {
        let detail = format!("a secret of {} bytes; at most {MAX_SECRET_BYTES}", data.len());
        return Err(Refusal::new(RefusalKind::TooLarge, detail));
    }
    let owner = match user {
        Some(user) => {
            let found = Accounts::read(Path::new("/etc")).find(user);
            Some(found.ok_or_else(|| unknown(user))?)
        }
        None => None,
    };
    let _one_at_a_time = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = open_dir()?;
    let path = Path::new(SECRETS_DIR).join(name.as_str());
    let attempt = || -> std::io::Result<()> {
        // A leftover of an agent that died meanwhile.
        let _ = rustix::fs::unlinkat(&dir, TEMP, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&dir, TEMP, flags, Mode::RUSR)?);
        file.write_all(data)?;
        if let Some(owner) = &owner {
            std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid))?;
        }
        Ok(rustix::fs::renameat(&dir, TEMP, &dir, name.as_str())?)
    };
    let written = attempt();
    if written.is_err() {
        let _ = rustix::fs::unlinkat(&dir, TEMP, AtFlags::empty());
    }
    written.cannot("be written", &path)?;
    Ok(path.display().to_string())
}

/// Removes a secret; whether it was there.
pub(super) fn remove(name: &SecretName) -> Result<bool, Refusal> {
    match rustix::fs::unlinkat(open_dir()?, name.as_str(), AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error).cannot("be removed", &Path::new(SECRETS_DIR).join(name.as_str())),
    }
}

/// Opens the directory, mounted the first time, and proves that it lies in memory.
fn open_dir() -> Result<OwnedFd, Refusal> {
    let path = Path::new(SECRETS_DIR);
    std::fs::create_dir_all(path).cannot("be made", path)?;
    let dir = open(path)?;
    if is_own_tmpfs(&dir)? {
        return Ok(dir);
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mount = |options: &CStr| mount("tmpfs", path, "tmpfs", flags, options);
    mount(OPTIONS[0]).or_else(|_| mount(OPTIONS[1])).cannot("be given a file system", path)?;
    let dir = open(path)?;
    if is_own_tmpfs(&dir)? {
        Ok(dir)
    } else {
        let detail = format!("{SECRETS_DIR} does not lie in memory; nothing was written to it");
        Err(Refusal::new(RefusalKind::Unsupported, detail))
    }
}

fn open(path: &Path) -> Result<OwnedFd, Refusal> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).cannot("be opened", path)
}

/// Whether a directory is the top of a tmpfs that holds nothing else.
fn is_own_tmpfs(dir: &OwnedFd) -> Result<bool, Refusal> {
    let path = Path::new(SECRETS_DIR);
    let system = rustix::fs::fstatfs(dir).cannot("be looked at", path)?;
    let here = rustix::fs::fstat(dir).cannot("be looked at", path)?;
    let above = rustix::fs::statat(dir.as_fd(), "..", AtFlags::empty());
    let above = above.cannot("be looked at", path)?;
    Ok(system.f_type as i64 == TMPFS_MAGIC && here.st_dev != above.st_dev)
}
