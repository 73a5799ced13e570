//! The jailer around a Firecracker: a user of its own, a root directory with nothing but its own
//! files, limits, and the network namespace of its slot.
//!
//! ```text
//! <run dir>/<firecracker>/<id>/root/   the jail's root; made here, entered by the jailer
//!             kernel, initrd, disks    hard links: no mount, nothing to undo but the directory
//!             volatile             the VM's directory in the host's memory: Firecracker alone sees it there
//! <run dir>/api.sock, vsock.sock       links to the sockets inside, whose own paths are too long
//! ```
//! The jailer becomes Firecracker by exec, so that there is one process with one number. It clears
//! the environment, hence a jailed process carries no mark: it is known by its root directory.

use super::cgroup::{self, Hierarchy};
use crate::{LaunchSpec, VmmError};
use aetherium_model::VmId;
use rustix::fs::{Gid, Uid, chown};
use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// Users of jailed VMs: a range that systemd's "Users, Groups, UIDs and GIDs" leaves unused.
const FIRST_UID: u32 = 1_900_000_000;
const UIDS: u32 = 1 << 16;
/// The name inside of the VM's directory in the host's memory.
pub(crate) const VOLATILE: &str = "volatile";

/// Hands out users: each VM gets one that no other process has.
#[derive(Debug)]
pub(crate) struct Users {
    next: AtomicU32,
}

impl Users {
    /// Begins anywhere, so that another host process does not begin at the same.
    pub(crate) fn new() -> Self {
        Self { next: AtomicU32::new(std::process::id().wrapping_mul(251)) }
    }

    /// A user that no process has. Its group has the same number.
    pub(crate) fn take(&self) -> Result<u32, VmmError> {
        let taken = users_of_processes().map_err(VmmError::io("read", "/proc"))?;
        let free = (0..UIDS)
            .map(|_| FIRST_UID + self.next.fetch_add(1, Ordering::Relaxed) % UIDS)
            .find(|uid| !taken.contains(uid));
        free.ok_or_else(|| VmmError::BadValue {
            value: format!("{FIRST_UID} to {}", FIRST_UID + UIDS - 1),
            why: "every user of that range has a process",
        })
    }
}

fn users_of_processes() -> io::Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?;
    // A process that ends meanwhile has no user any more.
    Ok(entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.uid())).collect())
}

/// One VM's jail.
#[derive(Debug)]
pub(crate) struct Jail {
    /// The jailer's name of it: letters, digits and hyphens.
    id: String,
    run_dir: PathBuf,
    root: PathBuf,
    uid: u32,
    cgroups: Option<Hierarchy>,
}

impl Jail {
    /// Makes an empty jail below the VM's run directory, in place of whatever is there.
    pub(crate) fn make(
        vm_id: VmId,
        run_dir: &Path,
        firecracker: &Path,
        uid: u32,
    ) -> Result<Self, VmmError> {
        let id = jail_id(vm_id);
        let root = root(run_dir, firecracker, &id)?;
        remove(&root)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&root)
            .map_err(VmmError::io("create", &root))?;
        Ok(Self { id, run_dir: run_dir.to_owned(), root, uid, cgroups: Hierarchy::of_host().ok() })
    }

    /// Its root directory, as the host names it.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The cgroup that the jailer will make; `None` where the host has nothing to limit VMs with.
    pub(crate) fn cgroup(&self) -> Option<PathBuf> {
        self.cgroups.as_ref().map(|it| it.path(&self.id))
    }

    /// The jailer's arguments, followed by Firecracker's.
    pub(crate) fn args(
        &self,
        firecracker: &Path,
        spec: &LaunchSpec,
        program_args: &[String],
    ) -> Vec<OsString> {
        let uid = self.uid.to_string();
        let mut args: Vec<OsString> = vec!["--id".into(), self.id.clone().into()];
        args.extend(["--exec-file".into(), firecracker.into()]);
        args.extend(["--uid".into(), uid.clone().into(), "--gid".into(), uid.into()]);
        args.extend(["--chroot-base-dir".into(), self.run_dir.clone().into_os_string()]);
        // Without limits of ours the jailer must not look for a cgroup at all, which version 2 means.
        args.extend(["--cgroup-version".into(), "2".into()]);
        args.extend(["--parent-cgroup".into(), cgroup::PARENT.into()]);
        if self.cgroups.is_some() {
            for limit in cgroup::limits(&spec.resources, spec.volatile.is_some()) {
                args.extend(["--cgroup".into(), limit.into()]);
            }
        }
        if let Some(slot) = &spec.slot {
            args.extend(["--netns".into(), slot.netns.clone().into()]);
        }
        args.push("--".into());
        args.extend(program_args.iter().map(OsString::from));
        args
    }

    /// Lets the jail read a file of the host under the name `inside`.
    pub(crate) fn share(&self, host: &Path, inside: &Path) -> Result<(), VmmError> {
        let (source, place) = self.link(host, inside)?;
        let readable =
            |path: &Path| fs::metadata(path).map(|it| it.permissions().mode() & 0o004 != 0);
        match readable(&place).map_err(VmmError::io("look at", &source))? {
            true => Ok(()),
            // A file of this VM alone becomes its user's. Shared ones are readable by all: whoever
            // may not read them is kept out by the directories above.
            false => self.own(&place),
        }
    }

    /// Gives the jail a file of the host to write to, under the name `inside`.
    pub(crate) fn give(&self, host: &Path, inside: &Path) -> Result<(), VmmError> {
        let (_, place) = self.link(host, inside)?;
        self.own(&place)
    }

    /// Lets the jail write into a directory of the host's memory, which its process has to see at the
    /// place that is returned.
    pub(crate) fn make_volatile(&self, host: &Path) -> Result<PathBuf, VmmError> {
        let place = self.root.join(VOLATILE);
        fs::create_dir(&place).map_err(VmmError::io("create", &place))?;
        self.own(host)?;
        Ok(place)
    }

    /// Makes a short name in the run directory for a socket that will be inside the jail.
    pub(crate) fn name_socket(&self, inside: &Path) -> Result<PathBuf, VmmError> {
        let name = self.run_dir.join(inside.file_name().unwrap_or_default());
        let place = self.place(inside);
        let target = place.strip_prefix(&self.run_dir).unwrap_or(&place);
        symlink(target, &name).map_err(VmmError::io("make a link at", &name))?;
        Ok(name)
    }

    fn place(&self, inside: &Path) -> PathBuf {
        self.root.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// Links the file itself and not a link to it: inside, no other path resolves.
    fn link(&self, host: &Path, inside: &Path) -> Result<(PathBuf, PathBuf), VmmError> {
        let source = host.canonicalize().map_err(VmmError::io("find", host))?;
        let place = self.place(inside);
        fs::hard_link(&source, &place).map_err(VmmError::io("link into the jail", &source))?;
        Ok((source, place))
    }

    fn own(&self, path: &Path) -> Result<(), VmmError> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
        chown(path, Some(uid), Some(gid)).map_err(|error| VmmError::io("own", path)(error.into()))
    }
}

/// A VM's id as the jailer takes it.
pub(crate) fn jail_id(vm_id: VmId) -> String {
    vm_id.to_string().replace('_', "-")
}

/// The VM whose jail has this id.
pub(crate) fn vm_id(jail_id: &str) -> Option<VmId> {
    jail_id.replace('-', "_").parse().ok()
}

/// Where the jailer puts a jail.
pub(crate) fn root(run_dir: &Path, firecracker: &Path, id: &str) -> Result<PathBuf, VmmError> {
    // As the jailer does, which names the directory after the file and not after a link to it.
    let program = firecracker.canonicalize().map_err(VmmError::io("find", firecracker))?;
    let name = program.file_name().ok_or_else(|| VmmError::BadValue {
        value: firecracker.display().to_string(),
        why: "it names no file",
    })?;
    Ok(run_dir.join(name).join(id).join("root"))
}

/// Removes a jail's root; one that is gone is fine.
pub(crate) fn remove(root: &Path) -> Result<(), VmmError> {
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(VmmError::io("remove", root)(error))
        }
        _ => Ok(()),
    }
}
