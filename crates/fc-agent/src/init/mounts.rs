//! The kernel's own file systems.

use std::ffi::CStr;
use std::path::Path;

use aetherium_agent_proto::console::FatalCode;
use rustix::fs::Mode;
use rustix::mount::{MountFlags, mount};

use super::{Fatal, note};

struct Mount {
    fstype: &'static str,
    at: &'static str,
    flags: MountFlags,
    data: &'static CStr,
}

const NO_EXEC: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const NO_DEV: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

const PROC: Mount = Mount { fstype: "proc", at: "/proc", flags: NO_EXEC, data: c"" };
const SYS: Mount = Mount { fstype: "sysfs", at: "/sys", flags: NO_EXEC, data: c"" };
const DEV: Mount =
    Mount { fstype: "devtmpfs", at: "/dev", flags: MountFlags::NOSUID, data: c"mode=0755" };

/// In order: a later one may lie inside an earlier one.
const FINAL: [Mount; 8] = [
    PROC,
    SYS,
    DEV,
    Mount {
        fstype: "devpts",
        at: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        data: c"gid=5,mode=0620,ptmxmode=0666",
    },
    Mount { fstype: "tmpfs", at: "/dev/shm", flags: NO_DEV, data: c"mode=1777" },
    Mount { fstype: "tmpfs", at: "/run", flags: NO_DEV, data: c"mode=0755" },
    Mount { fstype: "cgroup2", at: "/sys/fs/cgroup", flags: NO_EXEC, data: c"nsdelegate" },
    Mount { fstype: "mqueue", at: "/dev/mqueue", flags: NO_EXEC, data: c"" },
];

/// File systems that not every kernel has, and whose places a kernel that has them makes.
const IF_KNOWN: [Mount; 4] = [
    Mount { fstype: "securityfs", at: "/sys/kernel/security", flags: NO_EXEC, data: c"" },
    Mount { fstype: "bpf", at: "/sys/fs/bpf", flags: NO_EXEC, data: c"mode=0700" },
    Mount { fstype: "tracefs", at: "/sys/kernel/tracing", flags: NO_EXEC, data: c"mode=0700" },
    Mount { fstype: "debugfs", at: "/sys/kernel/debug", flags: NO_EXEC, data: c"mode=0700" },
];

/// Where the root itself takes no writes.
const TMP: Mount = Mount { fstype: "tmpfs", at: "/tmp", flags: NO_DEV, data: c"mode=1777" };

/// Mounts what the init itself needs, in the initramfs.
pub(super) fn early() -> Result<(), Fatal> {
    for it in [PROC, SYS, DEV] {
        make(&it, "").map_err(|error| {
            let detail = format!("{} cannot be mounted on {}: {error}", it.fstype, it.at);
            Fatal::new(FatalCode::MountFailed, detail)
        })?;
    }
    Ok(())
}

/// Mounts everything in the root to come. What a kernel lacks is noted; programs that need it will
/// say so themselves.
pub(super) fn late(root: &str) {
    for it in FINAL {
        if let Err(error) = make(&it, root) {
            note(format!("{} is not mounted on {}: {error}", it.fstype, it.at));
        }
    }
    for it in IF_KNOWN {
        if Path::new(root).join(it.at.trim_start_matches('/')).is_dir() {
            // A kernel may have the place and not the file system.
            let _ = make(&it, root);
        }
    }
    if is_read_only(root)
        && let Err(error) = make(&TMP, root)
    {
        note(format!("/tmp takes no files: {error}"));
    }
    // Programs expect these names; devtmpfs does not make them.
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        // devtmpfs is one instance for all its mounts, so a link may be there already.
        let _ = rustix::fs::symlink(target, format!("{root}/dev/{name}"));
    }
}

fn is_read_only(root: &str) -> bool {
    let found = rustix::fs::statvfs(root);
    found.is_ok_and(|it| it.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

fn make(it: &Mount, root: &str) -> rustix::io::Result<()> {
    let at = format!("{root}{}", it.at);
    match rustix::fs::mkdir(&at, Mode::from_raw_mode(0o755)) {
        // A read-only root has the directory or gets no mount.
        Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::ROFS) => {}
        Err(error) => return Err(error),
    }
    match mount(it.fstype, &at, it.fstype, it.flags, it.data) {
        // The kernel may have mounted devtmpfs by itself.
        Err(rustix::io::Errno::BUSY) if it.fstype == "devtmpfs" => Ok(()),
        outcome => outcome,
    }
}
