//! A worker's snapshots: finding one, with those it builds upon, and what each depends on.
//!
//! A snapshot is made aside and renamed into place as a whole, so that whatever bears a name is
//! complete; see [`super::take`]. It holds the VM's memory, hence all its secrets, and its token: only
//! the owner of the data directory may read it.

use super::sealed::Envelope;
use crate::{WorkerError, digest::Holes, host::Host};
use aetherium_agent_proto::Token;
use aetherium_image::InstalledTemplate;
use aetherium_model::{Code, Fault, Name, WorkspaceId, resources::VirtioTransport, vm::VmSpec};
use aetherium_vmm::{
    Accelerator, SNAPSHOT_FORMAT, SnapshotBase, SnapshotDisk, SnapshotExtent, SnapshotFiles,
    SnapshotGround, SnapshotManifest,
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The manifest's name.
pub(super) const MANIFEST: &str = "manifest.json";
/// The copy of the writable disk.
pub(super) const OVERLAY: &str = "overlay.ext4";
/// How many snapshots one may build upon: each makes a load slower, and a loss worse.
const MOST_BASES: usize = 16;

/// A snapshot on this worker.
pub(super) struct Snapshot {
    /// What it is called where it cannot be used.
    called: String,
    dir: PathBuf,
    /// What it is, and what it depends on.
    pub(super) record: SnapshotRecord,
}

/// The manifest, and what a VM that starts from it has to know.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SnapshotRecord {
    #[serde(flatten)]
    pub(super) manifest: SnapshotManifest,
    /// The workspace whose disk the guest has open. That disk is not copied: it goes on, and the
    /// snapshot can be loaded for as long as it has not.
    #[serde(default)]
    pub(super) workspace: Option<WorkspaceId>,
    /// The key of its memory and state, where they are encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sealed: Option<Envelope>,
    /// What the agent inside demands over TCP, in clear.
    pub(super) token: Token,
}

impl Snapshot {
    /// The snapshot of that name.
    pub(super) fn open(host: &Host, name: &Name) -> Result<Self, Fault> {
        let dir = host.layout.snapshots().join(name.as_str());
        Self::read(dir, format!("snapshot {name}"))
    }

    /// The memory of a workspace's hibernated VM.
    pub(super) fn of_hibernated(host: &Host, workspace: WorkspaceId) -> Result<Self, Fault> {
        Self::read(host.layout.hibernation(workspace), format!("hibernated VM of {workspace}"))
    }

    fn read(dir: PathBuf, called: String) -> Result<Self, Fault> {
        let path = dir.join(MANIFEST);
        let text = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Fault::new(Code::NotFound, format!("this worker has no {called}"))
                    .remedy("take one: aetherium vm snapshot VM NAME")
            }
            _ => WorkerError::io(&path, error).into(),
        })?;
        let broken = |why: String| {
            Fault::new(Code::Conflict, format!("the {called} cannot be used: {why}"))
                .remedy("remove it, and take a new one")
        };
        // The number first: a manifest of another format may lack what this one has.
        let Format { format } =
            serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        if format != SNAPSHOT_FORMAT {
            return Err(broken(format!("its format is {format}, and {SNAPSHOT_FORMAT} is known")));
        }
        let record = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        Ok(Self { called, dir, record })
    }

    /// The snapshots that this one builds upon, the next one first.
    pub(super) fn bases(&self, host: &Host) -> Result<Vec<Self>, Fault> {
        let mut bases: Vec<Self> = Vec::new();
        while let SnapshotExtent::Diff { base } = &bases.last().unwrap_or(self).manifest().extent {
            if bases.len() == MOST_BASES {
                let detail =
                    format!("the {} builds upon more than {MOST_BASES} others", self.called);
                return Err(Fault::new(Code::Conflict, detail).remedy("take a full one"));
            }
            let below = Self::open(host, &base.name).map_err(|fault| {
                let detail = format!("the {} builds upon {}: {fault}", self.called, base.name);
                Fault::new(Code::Conflict, detail).remedy("put it back, or take a new full one")
            })?;
            base.memory.check("base.memory", &below.manifest().content.memory)?;
            bases.push(below);
        }
        Ok(bases)
    }

    /// It, by its name, as one that the next diff builds upon.
    pub(super) fn as_base(&self, name: &Name) -> SnapshotBase {
        SnapshotBase { name: name.clone(), memory: self.manifest().content.memory.clone() }
    }

    pub(super) const fn manifest(&self) -> &SnapshotManifest {
        &self.record.manifest
    }

    /// The driver's part of it.
    pub(super) fn files(&self) -> SnapshotFiles {
        SnapshotFiles::within(&self.dir)
    }

    /// The disk that a VM starts from, unless it is a workspace's.
    pub(super) fn overlay(&self) -> PathBuf {
        self.dir.join(OVERLAY)
    }

    /// Whether its memory is what was written.
    pub(super) async fn check_memory(&self, host: &Host, field: &str) -> Result<(), Fault> {
        let now = host.digests.of(&self.files().memory, holes(&self.manifest().extent)).await?;
        Ok(self.manifest().content.memory.check(field, &now)?)
    }

    /// Whether state and disks, of which the writable one is at `overlay`, are what was written.
    pub(super) async fn check_machine(
        &self,
        host: &Host,
        template: &InstalledTemplate,
        overlay: &Path,
    ) -> Result<(), Fault> {
        let content = &self.manifest().content;
        let state = host.digests.of(&self.files().state, Holes::Zeros).await?;
        content.state.check("state", &state)?;
        let here = disks(host, template, overlay).await?;
        for (theirs, ours) in content.disks.iter().zip(&here) {
            theirs.content.check(&format!("disks.{}", theirs.id), &ours.content)?;
        }
        Ok(())
    }
}

/// The part of a manifest that every format has.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// What a hole means in the memory of a snapshot.
pub(super) const fn holes(extent: &SnapshotExtent) -> Holes {
    match extent {
        SnapshotExtent::Full => Holes::Zeros,
        SnapshotExtent::Diff { .. } => Holes::Nothing,
    }
}

/// A VM's disks, the root first. The root is its template's, whose manifest knows what it holds.
pub(super) async fn disks(
    host: &Host,
    template: &InstalledTemplate,
    overlay: &Path,
) -> Result<Vec<SnapshotDisk>, Fault> {
    let root = &template.manifest.rootfs.image;
    let root =
        aetherium_vmm::FileDigest { size: root.size, digest: format!("sha256:{}", root.sha256) };
    Ok(vec![
        SnapshotDisk { id: "root".to_owned(), content: root },
        SnapshotDisk {
            id: "overlay".to_owned(),
            content: host.digests.of(overlay, Holes::Zeros).await?,
        },
    ])
}

/// How a VM runs and is attached, as far as a snapshot depends on it.
pub(super) struct Devices {
    pub(super) accelerator: Accelerator,
    pub(super) virtio_transport: Option<VirtioTransport>,
    pub(super) vsock: bool,
    pub(super) network: bool,
}

/// What a snapshot of a VM like this depends on.
pub(super) async fn ground(
    host: &Host,
    spec: &VmSpec,
    template: &InstalledTemplate,
    devices: Devices,
) -> Result<SnapshotGround, Fault> {
    Ok(SnapshotGround {
        vmm: host.driver()?.snapshots(devices.accelerator).await?,
        kernel_sha256: template.manifest.kernel.image.sha256.clone(),
        template_digest: template.manifest.digest.clone(),
        virtio_transport: devices.virtio_transport,
        vsock: devices.vsock,
        network: devices.network,
        vcpus: spec.resources.vcpus.get(),
        memory_mib: spec.resources.memory_mib.get(),
    })
}
