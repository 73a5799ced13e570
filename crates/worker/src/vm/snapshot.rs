//! Taking a snapshot of a VM, and finding one again.
//!
//! A snapshot is made aside and renamed into place as a whole, so that whatever bears a name is
//! complete. It holds the VM's memory, hence all its secrets, and its token: only the owner of the data
//! directory may read it.

use super::{actor::Actor, base};
use crate::{
    WorkerError,
    host::Host,
    layout::{private_dir, replace_file},
};
use aetherium_agent_proto::Token;
use aetherium_image::{Holder, InstalledTemplate};
use aetherium_model::{Code, Fault, Name, resources::VirtioTransport, vm::VmSpec};
use aetherium_vmm::{
    Accelerator, AgentAddress, SNAPSHOT_FORMAT, SnapshotDisk, SnapshotFiles, SnapshotGround,
    SnapshotKind, SnapshotManifest,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

const MANIFEST: &str = "manifest.json";
/// The copy of the writable disk.
const OVERLAY: &str = "overlay.ext4";
/// The unit in which a disk's content is digested, in bytes.
const BLOCK_BYTES: usize = 4096;

/// A snapshot on this worker.
pub(super) struct Snapshot {
    dir: PathBuf,
    /// What it is, and what it depends on.
    pub(super) record: SnapshotRecord,
}

/// The manifest, and what a VM that starts from it has to know.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SnapshotRecord {
    pub(super) manifest: SnapshotManifest,
    /// What the agent inside demands over TCP, in clear.
    pub(super) token: Token,
}

impl Snapshot {
    /// The snapshot of that name.
    pub(super) fn open(host: &Host, name: &Name) -> Result<Self, Fault> {
        let dir = host.layout.snapshots().join(name.as_str());
        let path = dir.join(MANIFEST);
        let text = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Fault::new(Code::NotFound, format!("this worker has no snapshot {name}"))
                    .remedy("take one: aetherium vm snapshot VM NAME")
            }
            _ => WorkerError::io(&path, error).into(),
        })?;
        let broken = |why: String| {
            Fault::new(Code::Conflict, format!("the snapshot {name} cannot be used: {why}"))
                .remedy("remove it, and take a new one")
        };
        let record: SnapshotRecord =
            serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        let format = record.manifest.format;
        if format != SNAPSHOT_FORMAT {
            return Err(broken(format!("its format is {format}, and {SNAPSHOT_FORMAT} is known")));
        }
        Ok(Self { dir, record })
    }

    /// The driver's part of it.
    pub(super) fn files(&self) -> SnapshotFiles {
        SnapshotFiles::within(&self.dir)
    }

    /// The disk as it was.
    pub(super) fn overlay(&self) -> PathBuf {
        self.dir.join(OVERLAY)
    }
}

/// A VM's way into the world, as far as a snapshot depends on it.
pub(super) struct Devices {
    /// How its code runs.
    pub(super) accelerator: Accelerator,
    pub(super) virtio_transport: Option<VirtioTransport>,
    pub(super) vsock: bool,
    pub(super) network: bool,
}

/// What a snapshot of a VM like this depends on. Only the writable disk is read.
pub(super) async fn ground(
    host: &Host,
    spec: &VmSpec,
    template: &InstalledTemplate,
    devices: Devices,
    overlay: PathBuf,
) -> Result<SnapshotGround, Fault> {
    let root = &template.manifest.rootfs.image;
    let path = overlay.clone();
    let digested = tokio::task::spawn_blocking(move || digest(&overlay)).await;
    let (size, sha256) = digested
        .map_err(Fault::internal)?
        .map_err(|error| Fault::from(WorkerError::io(&path, error)))?;
    Ok(SnapshotGround {
        vmm: host.driver()?.snapshots(devices.accelerator).await?,
        kernel_sha256: template.manifest.kernel.image.sha256.clone(),
        template_digest: template.manifest.digest.clone(),
        virtio_transport: devices.virtio_transport,
        vsock: devices.vsock,
        network: devices.network,
        vcpus: spec.resources.vcpus.get(),
        memory_mib: spec.resources.memory_mib.get(),
        disks: vec![
            SnapshotDisk { id: "root".to_owned(), size: root.size, sha256: root.sha256.clone() },
            SnapshotDisk { id: "overlay".to_owned(), size, sha256 },
        ],
    })
}

/// A disk's length, and a digest of its content that does not depend on where it has holes: SHA-256
/// over each block that is not all zeros, with its number before it.
fn digest(path: &Path) -> io::Result<(u64, String)> {
    use rustix::{
        fs::{SeekFrom, seek},
        io::Errno,
    };
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let (mut sum, mut block) = (Sha256::new(), vec![0; BLOCK_BYTES]);
    let mut at = 0;
    while at < size {
        // Holes are most of a sparse disk, and are not read.
        let data = match seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data - data % BLOCK_BYTES as u64,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        at = seek(&file, SeekFrom::Hole(data.max(at)))?;
        seek(&file, SeekFrom::Start(data))?;
        for number in data / BLOCK_BYTES as u64..at.div_ceil(BLOCK_BYTES as u64) {
            let left = size - number * BLOCK_BYTES as u64;
            let wanted = usize::try_from(left).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
            let part = &mut block[..wanted];
            file.read_exact(part)?;
            if part.iter().any(|byte| *byte != 0) {
                sum.update(number.to_le_bytes());
                sum.update(&*part);
            }
        }
    }
    let bytes = sum.finalize();
    Ok((size, bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

impl Actor {
    /// Writes a snapshot of the paused VM.
    pub(super) async fn snapshot(&mut self, name: &Name) -> Result<(), Fault> {
        let vm = self.record.vm().clone();
        if vm.workspace_id.is_some() {
            let detail = format!("{} has its workspace's disk, which no other VM may have", vm.id);
            return Err(Fault::new(Code::Conflict, detail)
                .remedy("take snapshots of VMs without a workspace"));
        }
        let Some(machine) = self.machinery.as_ref().map(|it| it.machine.clone()) else {
            return Err(Fault::internal("a paused VM without a machine"));
        };
        let host = self.host.clone();
        let place = host.layout.snapshots().join(name.as_str());
        if place.exists() {
            return Err(Fault::new(Code::Conflict, format!("there is a snapshot {name} already"))
                .remedy("choose another name"));
        }
        let aside = host.layout.snapshots().join(format!(".{name}.{}", vm.id));
        private_dir(&aside)?;
        let taken = async {
            let files = SnapshotFiles::within(&aside);
            machine.snapshot(&files, SnapshotKind::Full).await?;
            let overlay = aside.join(OVERLAY);
            let disk = host.layout.vm(vm.id).join(super::start::OVERLAY);
            aetherium_image::copy_sparse(&disk, &overlay).await.map_err(WorkerError::from)?;
            let template = base::held(&host, &vm)?;
            let footprint = machine.footprint();
            let devices = Devices {
                accelerator: footprint.accelerator,
                virtio_transport: vm.virtio_transport,
                vsock: footprint.agent.iter().any(|it| matches!(it, AgentAddress::Vsock { .. })),
                network: vm.address.is_some(),
            };
            let ground = ground(&host, &vm.spec, &template, devices, overlay).await?;
            let record = SnapshotRecord {
                manifest: SnapshotManifest {
                    format: SNAPSHOT_FORMAT,
                    kind: SnapshotKind::Full,
                    ground,
                    created_at: host.now(),
                },
                token: self.token()?,
            };
            let text = serde_json::to_vec_pretty(&record).map_err(WorkerError::Encode)?;
            replace_file(&aside.join(MANIFEST), &text)?;
            base::hold_for_snapshot(&host, name, &template)?;
            fs::rename(&aside, &place).map_err(|error| WorkerError::io(&place, error))?;
            Ok(())
        };
        let taken = taken.await;
        if taken.is_err() {
            // It bears no name, so that nobody will take it for one.
            let _ = fs::remove_dir_all(&aside);
            if let Err(error) = host.templates.release(&Holder::Snapshot(name.clone())) {
                tracing::warn!(%error, snapshot = %name, "its template is kept for nothing");
            }
        }
        taken
    }

    /// What the VM's agent demands over TCP.
    fn token(&self) -> Result<Token, Fault> {
        let dir = self.host.layout.vm(self.record.vm().id);
        let journal = crate::journal::Journal::read(&dir)?;
        journal.map(|it| it.token).ok_or_else(|| Fault::internal("a VM without a journal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_depends_on_the_content_and_not_on_the_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (sparse, dense) = (dir.path().join("sparse"), dir.path().join("dense"));
        let mut content = vec![0; 64 * BLOCK_BYTES + 100];
        content[40 * BLOCK_BYTES + 7] = 1;
        content[64 * BLOCK_BYTES + 99] = 2;
        fs::write(&dense, &content).unwrap();
        let file = File::create(&sparse).unwrap();
        file.set_len(content.len() as u64).unwrap();
        for at in [40 * BLOCK_BYTES + 7, 64 * BLOCK_BYTES + 99] {
            std::os::unix::fs::FileExt::write_at(&file, &content[at..=at], at as u64).unwrap();
        }
        assert_eq!(digest(&sparse).unwrap(), digest(&dense).unwrap());

        content[40 * BLOCK_BYTES + 7] = 0;
        content[41 * BLOCK_BYTES + 7] = 1;
        fs::write(&dense, &content).unwrap();
        assert_ne!(digest(&sparse).unwrap().1, digest(&dense).unwrap().1);
    }
}
