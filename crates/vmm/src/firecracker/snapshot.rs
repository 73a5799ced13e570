//! Snapshots of a Firecracker: taken of a paused guest, loaded before anything else is configured.
//!
//! Names inside are the plan's and the same for every VM, so that a snapshot loads in any VM's place.
//! All connections over vsock end with a snapshot; listeners stay.

use super::{
    api::Api,
    jail::VOLATILE,
    machine::FirecrackerMachine,
    plan::{Feature, FirecrackerVersion, KnownBad},
    program::Program,
};
use crate::{
    Accelerator, Footprint, LaunchSpec, Machine as _, SnapshotFiles, SnapshotKind, SnapshotVmm,
    VmmError, VsockChoice, kvm, spawn::open_log, supervise::remove_if_there,
};
use aetherium_model::resources::DriverKind;
use rustix::fs::{Gid, Uid, chown};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// The names of a snapshot's files where Firecracker runs.
pub(super) const MEMORY: &str = "memory";
pub(super) const STATE: &str = "state";
/// How long writing a guest's memory may take; reading maps it, and is quick.
const TAKE_DEADLINE: Duration = Duration::from_secs(300);
const LOAD_DEADLINE: Duration = Duration::from_secs(30);
/// Memory above which diff snapshots are unsafe where [`KnownBad::LargeDiffSnapshots`] applies.
const LARGE_MIB: u32 = 3 * 1024;

/// What snapshots of this Firecracker on this host depend on.
pub(super) async fn of_this_host(program: &Program) -> Result<SnapshotVmm, VmmError> {
    Ok(SnapshotVmm {
        driver: DriverKind::Firecracker,
        version: program.info().await?.version.to_string(),
        format: program.snapshot_format().await?,
        machine: None,
        cpu: kvm::host_cpu(),
        accelerator: Accelerator::Kvm,
    })
}

/// Refuses what is known to break this VM after a load.
pub(super) fn refuse_known_bad(
    version: FirecrackerVersion,
    spec: &LaunchSpec,
) -> Result<(), VmmError> {
    let over_vsock_alone = spec.vsock == VsockChoice::Auto && spec.slot.is_none();
    // 1.16.0 alone: before it a restored vsock worked.
    let broken = version >= FirecrackerVersion::release(1, 16, 0)
        && version.known_bad().any(|bad| bad == KnownBad::RestoredVsock);
    if over_vsock_alone && broken {
        let why = format!("with Firecracker {version} {}", KnownBad::RestoredVsock.what());
        return Err(unsupported("load a snapshot of a VM with vsock alone", why));
    }
    Ok(())
}

fn unsupported(verb: &'static str, why: String) -> VmmError {
    VmmError::Unsupported { driver: DriverKind::Firecracker, verb, why }
}

/// How a Firecracker names files of snapshots.
#[derive(Debug, Clone, Copy)]
pub(super) struct Naming<'a> {
    /// The VM's directory in the host's memory.
    pub(super) volatile: Option<&'a Path>,
    /// Whether it sees nothing but its jail.
    pub(super) jailed: bool,
}

impl<'a> Naming<'a> {
    fn of(footprint: &'a Footprint) -> Self {
        Self { volatile: footprint.volatile.as_deref(), jailed: footprint.jail.is_some() }
    }

    /// Whether it reaches a file where that is. Any other has to be linked to where it runs.
    pub(super) fn reaches(&self, file: &Path) -> bool {
        self.volatile.is_some_and(|dir| file.parent() == Some(dir))
    }

    /// Its name of a file, which is `linked` if that has to be linked.
    fn name(&self, file: &Path, linked: &str) -> PathBuf {
        match (self.reaches(file), self.jailed) {
            (false, _) => PathBuf::from(linked),
            (true, false) => file.to_owned(),
            (true, true) => Path::new(VOLATILE).join(file.file_name().unwrap_or_default()),
        }
    }
}

/// Loads the snapshot that was put in place; the guest stays paused.
pub(super) async fn load(
    api: &Api,
    version: FirecrackerVersion,
    spec: &LaunchSpec,
    files: &SnapshotFiles,
    naming: Naming<'_>,
) -> Result<(), VmmError> {
    let memory = naming.name(&files.memory, MEMORY);
    let mut request = json!({
        "snapshot_path": naming.name(&files.state, STATE),
        "mem_backend": { "backend_type": "File", "backend_path": memory },
        "enable_diff_snapshots": spec.tracks_dirty_pages(),
        "resume_vm": false,
    });
    if version.supports(Feature::ClockRealtime) {
        request["clock_realtime"] = json!(true);
    }
    api.put("/snapshot/load", &request, LOAD_DEADLINE).await
}

/// Takes a snapshot of a paused guest, into files that are made here.
pub(super) async fn take(
    machine: &FirecrackerMachine,
    files: &SnapshotFiles,
    kind: SnapshotKind,
) -> Result<(), VmmError> {
    let footprint = machine.footprint();
    if kind == SnapshotKind::Diff && footprint.memory_mib > LARGE_MIB {
        let version = machine.version();
        if version.known_bad().any(|bad| bad == KnownBad::LargeDiffSnapshots) {
            let why = format!("with Firecracker {version} {}", KnownBad::LargeDiffSnapshots.what());
            return Err(unsupported("take a diff snapshot", why));
        }
    }
    let (place, naming) = (place(machine), Naming::of(footprint));
    for (file, name) in [(&files.memory, MEMORY), (&files.state, STATE)] {
        remove_if_there(file)?;
        drop(open_log(file)?);
        let inside = place.join(name);
        remove_if_there(&inside)?;
        let is_linked = !naming.reaches(file);
        match &footprint.jail {
            Some(jail) => {
                if is_linked {
                    let linked = fs::hard_link(file, &inside);
                    linked.map_err(VmmError::io("link into the jail", file))?;
                }
                let user = fs::metadata(&jail.root).map_err(VmmError::io("look at", &jail.root))?;
                own(file, user.uid())?;
            }
            None if is_linked => std::os::unix::fs::symlink(file, &inside)
                .map_err(VmmError::io("make a link at", &inside))?,
            None => {}
        }
    }
    let taken = create(machine, kind, files).await;
    for (file, name) in [(&files.memory, MEMORY), (&files.state, STATE)] {
        remove_if_there(&place.join(name))?;
        // Ours again, and for any jail to read: the directories above keep others out.
        own(file, rustix::process::geteuid().as_raw())?;
        fs::set_permissions(file, fs::Permissions::from_mode(0o644))
            .map_err(VmmError::io("set permissions of", file))?;
    }
    taken
}

/// Takes a snapshot for its effect on the guest alone.
pub(super) async fn take_and_discard(machine: &FirecrackerMachine) -> Result<(), VmmError> {
    // What is resident, into a file with holes; before 1.13 only all of it can be had.
    let kind = match machine.version() >= FirecrackerVersion::release(1, 13, 0) {
        true => SnapshotKind::Diff,
        false => SnapshotKind::Full,
    };
    let footprint = machine.footprint();
    // Where it can, it touches no disk.
    let files = SnapshotFiles::within(footprint.volatile.as_deref().unwrap_or(&place(machine)));
    let taken = create(machine, kind, &files).await;
    for file in [&files.memory, &files.state] {
        remove_if_there(file)?;
    }
    taken
}

async fn create(
    machine: &FirecrackerMachine,
    kind: SnapshotKind,
    files: &SnapshotFiles,
) -> Result<(), VmmError> {
    let naming = Naming::of(machine.footprint());
    let kind = match kind {
        SnapshotKind::Full => "Full",
        SnapshotKind::Diff => "Diff",
    };
    let request = json!({
        "snapshot_type": kind,
        "snapshot_path": naming.name(&files.state, STATE),
        "mem_file_path": naming.name(&files.memory, MEMORY),
    });
    machine.api.put("/snapshot/create", &request, TAKE_DEADLINE).await
}

/// The directory that Firecracker runs in, as the host names it.
fn place(machine: &FirecrackerMachine) -> PathBuf {
    let footprint = machine.footprint();
    match &footprint.jail {
        Some(jail) => jail.root.clone(),
        None => footprint.vmm_log.parent().unwrap_or(Path::new("/")).to_owned(),
    }
}

fn own(path: &Path, user: u32) -> Result<(), VmmError> {
    chown(path, Some(Uid::from_raw(user)), Some(Gid::from_raw(user)))
        .map_err(|error| VmmError::io("own", path)(error.into()))
}
