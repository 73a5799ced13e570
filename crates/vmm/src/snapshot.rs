//! Snapshots: what one consists of, what it depends on, and whether it fits here. Pure, but for
//! reading what this host is.
//!
//! A snapshot is a directory. The driver writes the guest's memory and the state of its devices;
//! whoever owns the VM adds its disks and, last, the manifest: a directory without one is none.
//! Nothing of a snapshot that does not fit is touched: [`SnapshotGround::check`] comes first, and
//! names the field.

use crate::Accelerator;
pub use aetherium_model::vm::SnapshotKind;
use aetherium_model::{
    Code, Fault, Name, Timestamp,
    resources::{DriverKind, VirtioTransport},
};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};

/// The manifest's format; another number is refused.
pub const SNAPSHOT_FORMAT: u32 = 2;

/// Where a driver puts a snapshot's parts, and finds them. Absolute paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFiles {
    /// The guest's memory. QEMU leaves it empty: its state has everything.
    pub memory: PathBuf,
    /// The state of its virtual CPUs and devices.
    pub state: PathBuf,
}

impl SnapshotFiles {
    /// The files of the snapshot in this directory.
    pub fn within(dir: &std::path::Path) -> Self {
        Self { memory: dir.join("memory"), state: dir.join("state") }
    }
}

/// What a driver is, as far as its snapshots depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotVmm {
    /// The driver.
    pub driver: DriverKind,
    /// The VMM's version, for people: what counts is the format.
    pub version: String,
    /// The version of the state's format; QEMU's is its own version, without the patch level.
    pub format: String,
    /// The machine type with its version, where the driver has several, such as `pc-q35-7.2`.
    pub machine: Option<String>,
    /// The CPU that the guest has seen: the host's vendor, family, model and stepping, or the model
    /// that is emulated.
    pub cpu: String,
    /// How its code runs.
    pub accelerator: Accelerator,
}

/// A disk that a snapshot's guest has open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotDisk {
    /// What it is for, such as `root`.
    pub id: String,
    /// Its content at the snapshot.
    pub content: FileDigest,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Its length in bytes.
    pub size: u64,
    /// The function's name, a colon, and what it gives in hexadecimal.
    pub digest: String,
}

/// Its files, as they were when they were complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotContent {
    /// The guest's memory.
    pub memory: FileDigest,
    /// The state of its virtual CPUs and devices.
    pub state: FileDigest,
    /// The disks, the root first.
    pub disks: Vec<SnapshotDisk>,
}

/// How much of the memory a snapshot holds, and what it needs for the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SnapshotExtent {
    /// All of it.
    Full,
    /// What was written since this one, which may be a diff itself.
    Diff {
        /// The one before.
        base: SnapshotBase,
    },
}

/// A snapshot that another one builds upon. A name can be given anew; this is the one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotBase {
    /// Its name.
    pub name: Name,
    /// Its memory.
    pub memory: FileDigest,
}

/// Everything that must be at a load as it was at the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotGround {
    /// The VMM.
    pub vmm: SnapshotVmm,
    /// SHA-256 of the kernel image, in hexadecimal.
    pub kernel_sha256: String,
    /// The template's digest.
    pub template_digest: String,
    /// How the devices are attached.
    pub virtio_transport: Option<VirtioTransport>,
    /// Whether there is a virtio socket.
    pub vsock: bool,
    /// Whether there is a network interface.
    pub network: bool,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
}

/// A snapshot's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotManifest {
    /// [`SNAPSHOT_FORMAT`].
    pub format: u32,
    /// How much of the memory it holds.
    #[serde(flatten)]
    pub extent: SnapshotExtent,
    /// What it depends on.
    pub ground: SnapshotGround,
    /// What its files hold.
    pub content: SnapshotContent,
    /// When it was taken.
    pub created_at: Timestamp,
}

/// Why a snapshot does not fit: one field, as it was and as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot does not fit here: its {field} is {theirs}, and here it is {ours}")]
pub struct Mismatch {
    /// The manifest's field, such as `vcpus` or `memory.digest`.
    pub field: String,
    /// The snapshot's value.
    pub theirs: String,
    /// The value here.
    pub ours: String,
}

impl From<Mismatch> for Fault {
    fn from(mismatch: Mismatch) -> Self {
        Self::new(Code::Conflict, mismatch.to_string())
            .remedy("load it where it was taken, or take a new one here")
    }
}

/// Compares one field.
fn same<T: PartialEq + fmt::Debug>(field: &str, theirs: &T, ours: &T) -> Result<(), Mismatch> {
    if theirs == ours {
        return Ok(());
    }
    let field = field.to_owned();
    Err(Mismatch { field, theirs: format!("{theirs:?}"), ours: format!("{ours:?}") })
}

impl SnapshotGround {
    /// Whether a snapshot taken on this ground can be loaded on `here`.
    ///
    /// # Errors
    /// The first field that differs.
    pub fn check(&self, here: &Self) -> Result<(), Mismatch> {
        same("vmm.driver", &self.vmm.driver, &here.vmm.driver)?;
        same("vmm.format", &self.vmm.format, &here.vmm.format)?;
        same("vmm.machine", &self.vmm.machine, &here.vmm.machine)?;
        same("vmm.accelerator", &self.vmm.accelerator, &here.vmm.accelerator)?;
        same("vmm.cpu", &self.vmm.cpu, &here.vmm.cpu)?;
        same("kernel_sha256", &self.kernel_sha256, &here.kernel_sha256)?;
        same("template_digest", &self.template_digest, &here.template_digest)?;
        same("virtio_transport", &self.virtio_transport, &here.virtio_transport)?;
        same("vsock", &self.vsock, &here.vsock)?;
        same("network", &self.network, &here.network)?;
        same("vcpus", &self.vcpus, &here.vcpus)?;
        same("memory_mib", &self.memory_mib, &here.memory_mib)
    }
}

impl FileDigest {
    /// Whether a file still holds what it held when this was noted.
    ///
    /// # Errors
    /// Under the name of `field`, what differs.
    pub fn check(&self, field: &str, now: &Self) -> Result<(), Mismatch> {
        same(&format!("{field}.size"), &self.size, &now.size)?;
        same(&format!("{field}.digest"), &self.digest, &now.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ground() -> SnapshotGround {
        SnapshotGround {
            vmm: SnapshotVmm {
                driver: DriverKind::Firecracker,
                version: "1.16.1".to_owned(),
                format: "8.0.0".to_owned(),
                machine: None,
                cpu: "GenuineIntel/6/85/7".to_owned(),
                accelerator: Accelerator::Kvm,
            },
            kernel_sha256: "k".to_owned(),
            template_digest: "t".to_owned(),
            virtio_transport: Some(VirtioTransport::Pci),
            vsock: true,
            network: false,
            vcpus: 1,
            memory_mib: 256,
        }
    }

    #[test]
    fn a_snapshot_fits_where_nothing_that_counts_has_changed() {
        let mut here = ground();
        here.vmm.version = "1.16.2".to_owned();
        assert_eq!(ground().check(&here), Ok(()), "the version alone does not count");
    }

    #[test]
    fn each_field_that_differs_is_named() {
        type Change = fn(&mut SnapshotGround);
        let changes: [(&str, Change); 12] = [
            ("vmm.driver", |it| it.vmm.driver = DriverKind::Qemu),
            ("vmm.format", |it| it.vmm.format = "9.0.0".to_owned()),
            ("vmm.machine", |it| it.vmm.machine = Some("pc-q35-7.2".to_owned())),
            ("vmm.accelerator", |it| it.vmm.accelerator = Accelerator::Tcg),
            ("vmm.cpu", |it| it.vmm.cpu.push('x')),
            ("kernel_sha256", |it| it.kernel_sha256.push('x')),
            ("template_digest", |it| it.template_digest.push('x')),
            ("virtio_transport", |it| it.virtio_transport = Some(VirtioTransport::Mmio)),
            ("vsock", |it| it.vsock = false),
            ("network", |it| it.network = true),
            ("vcpus", |it| it.vcpus = 2),
            ("memory_mib", |it| it.memory_mib = 512),
        ];
        for (field, change) in changes {
            let mut here = ground();
            change(&mut here);
            assert_eq!(ground().check(&here).unwrap_err().field, field);
        }
    }

    #[test]
    fn a_file_that_changed_is_named_with_what_changed() {
        let was = FileDigest { size: 7, digest: "blake3:a".to_owned() };
        let longer = FileDigest { size: 8, ..was.clone() };
        assert_eq!(was.check("memory", &longer).unwrap_err().field, "memory.size");
        let other = FileDigest { size: 7, digest: "blake3:b".to_owned() };
        assert_eq!(was.check("memory", &other).unwrap_err().field, "memory.digest");
        assert_eq!(was.check("memory", &was), Ok(()));
    }

    #[test]
    fn a_diff_says_in_its_manifest_what_it_builds_upon() {
        let memory = FileDigest { size: 7, digest: "blake3:a".to_owned() };
        let base = SnapshotBase { name: "warm".parse().unwrap(), memory: memory.clone() };
        let manifest = SnapshotManifest {
            format: SNAPSHOT_FORMAT,
            extent: SnapshotExtent::Diff { base },
            ground: ground(),
            content: SnapshotContent { state: memory.clone(), memory, disks: Vec::new() },
            created_at: Timestamp::from_millis(0),
        };
        let json = serde_json::to_value(&manifest).unwrap();
        assert_eq!((&json["kind"], &json["base"]["name"]), (&"diff".into(), &"warm".into()));
        assert_eq!(serde_json::from_value::<SnapshotManifest>(json).unwrap(), manifest);
    }
}
