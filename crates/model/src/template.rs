//! What VMs start from: the manifest of an immutable image of kernel, initramfs and root filesystem.

use crate::{
    Timestamp,
    kernel::{KernelConfig, KernelFacts},
    name::Name,
    resources::{Resources, VirtioTransport},
    run::Command,
    tuning::Tuning,
    vm::SnapshotKind,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The manifest's format; a manifest with another number is refused by name.
pub const MANIFEST_FORMAT: u32 = 1;

/// One file of a template: its name inside the template's directory, and what it must contain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TemplateFile {
    /// The file's name.
    pub file: String,
    /// SHA-256 of its content, in hexadecimal.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
}

/// How a kernel image is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KernelFormat {
    /// The compressed, self-unpacking image that distributions ship.
    BzImage,
    /// An uncompressed ELF image.
    Elf,
}

/// What the CPUs of a guest are made to look like, by Firecracker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CpuTemplate {
    /// One of those that Firecracker has built in.
    Named(NamedCpuTemplate),
    /// One of our own.
    Custom(CpuModifiers),
}

/// Changes to registers, as Firecracker's `PUT /cpu-config` takes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
pub struct CpuModifiers(pub serde_json::Map<String, serde_json::Value>);

/// A CPU template that Firecracker has built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub enum NamedCpuTemplate {
    /// Intel, as in AWS's C3 instances.
    C3,
    /// Intel, as in AWS's T2 instances.
    T2,
    /// Intel: T2, and a Skylake's vulnerabilities.
    T2S,
    /// Intel: T2, at one with T2A.
    T2CL,
    /// AMD, at one with T2CL.
    T2A,
}

/// A template's kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Kernel {
    /// The image.
    #[serde(flatten)]
    pub image: TemplateFile,
    /// Its release, as `uname -r` shows it in the guest.
    pub release: String,
    /// How it is packed.
    pub format: KernelFormat,
    /// Arguments beyond those the driver chooses.
    #[serde(default)]
    pub extra_args: Vec<String>,
    /// What its guests' CPUs are made to look like; like the host's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_template: Option<CpuTemplate>,
    /// How its guests' devices are attached; as fits best where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<VirtioTransport>,
    /// The same kernel as an uncompressed ELF image, for VMMs that load nothing else; absent where
    /// `image` is one itself, or cannot be unpacked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elf: Option<TemplateFile>,
    /// Bytes of memory that it needs before it can begin; absent where nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_bytes: Option<u64>,
    /// Its configuration; absent where it is neither in the image nor was beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<KernelConfig>,
}

impl Kernel {
    /// What is known of it.
    pub fn facts(&self) -> KernelFacts {
        KernelFacts {
            release: self.release.clone(),
            format: self.format,
            needs_bytes: self.needs_bytes.unwrap_or(self.image.size),
            config: self.config.clone(),
        }
    }
}

/// A template's initramfs: the agent as `/init`, and the modules this kernel needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Initramfs {
    /// The archive.
    #[serde(flatten)]
    pub image: TemplateFile,
    /// The modules inside, in the order they are loaded.
    pub modules: Vec<String>,
    /// The agent's version.
    pub agent_version: String,
    /// SHA-256 of the agent's binary.
    pub agent_sha256: String,
}

/// A template's root filesystem: read-only, shared by every VM of the template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RootFilesystem {
    /// The image.
    #[serde(flatten)]
    pub image: TemplateFile,
    /// The filesystem's UUID, by which the guest finds it whatever the transport calls the device.
    pub uuid: String,
    /// The filesystem's type.
    pub fstype: String,
    /// Where it came from, such as `debian bookworm`.
    pub origin: String,
}

/// Everything a VM starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Template {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// Its name.
    pub name: Name,
    /// SHA-256 over the digests of its parts: two templates with the same digest start the same VM.
    pub digest: String,
    /// The kernel.
    pub kernel: Kernel,
    /// The initramfs.
    pub initramfs: Initramfs,
    /// The root filesystem.
    pub rootfs: RootFilesystem,
    /// The size of VMs whose creator does not say.
    pub defaults: Resources,
    /// What else its VMs take of their host, where their creator does not say.
    #[serde(default, skip_serializing_if = "Tuning::is_empty")]
    pub tuning: Tuning,
    /// The snapshots that VMs are made ready for whose creator does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<SnapshotKind>,
    /// What its image says about commands; nothing where it came from no image, or says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageDefaults>,
    /// The command that each of its VMs starts by itself once it has booted, tagged `start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Command>,
    /// What must succeed before one of its VMs counts as running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<ReadyCheck>,
    /// The program of the root filesystem that becomes the first process of its VMs, such as
    /// `/sbin/init`; the agent where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Template {
    /// Every file it is made of.
    pub fn files(&self) -> impl Iterator<Item = &TemplateFile> {
        [&self.kernel.image, &self.initramfs.image, &self.rootfs.image]
            .into_iter()
            .chain(&self.kernel.elf)
    }
}

/// A command that tells whether a VM can be used: tried again until it exits with 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReadyCheck {
    /// The command.
    pub command: Command,
    /// Milliseconds that its success is waited for. Then the VM has failed.
    pub deadline_ms: u64,
}

/// What an image says about the commands of its containers, kept for the commands of its VMs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageDefaults {
    /// The program that the image is for, with its first arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Arguments of the entry point, or the program where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Environment of every command that does not set the variable itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Who runs a command that names no user: a name or a number of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Where a command runs that names no directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
}

impl ImageDefaults {
    /// The command with what it leaves open filled in. The entry point is not put before it: a
    /// command says all that is to run.
    #[must_use]
    pub fn complete(&self, command: &Command) -> Command {
        let mut complete = command.clone();
        for (name, value) in &self.env {
            complete.env.entry(name.clone()).or_insert_with(|| value.clone());
        }
        complete.user = complete.user.or_else(|| self.user.clone());
        complete.cwd = complete.cwd.or_else(|| self.workdir.clone());
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_fills_in_what_a_command_leaves_open_and_nothing_else() {
        let image = ImageDefaults {
            env: [("A".into(), "image".into()), ("B".into(), "image".into())].into(),
            user: Some("app".into()),
            workdir: Some("/srv".into()),
            entrypoint: vec!["/init".into()],
            ..ImageDefaults::default()
        };
        let open = Command { env: [("A".into(), "own".into())].into(), ..Command::new(["true"]) };
        let complete = image.complete(&open);
        assert_eq!(complete.argv, ["true"]);
        assert_eq!((complete.env["A"].as_str(), complete.env["B"].as_str()), ("own", "image"));
        assert_eq!(complete.user.as_deref(), Some("app"));
        assert_eq!(complete.cwd.as_deref(), Some("/srv"));
        let own = Command { user: Some("root".into()), cwd: Some("/".into()), ..open };
        let complete = image.complete(&own);
        assert_eq!((complete.user, complete.cwd), (own.user, own.cwd));
    }

    #[test]
    fn a_manifest_from_before_kernels_were_looked_at_still_reads() {
        let json = serde_json::json!({
            "file": "kernel", "sha256": "", "size": 7, "release": "6.1.0", "format": "bz_image",
        });
        let kernel: Kernel = serde_json::from_value(json).unwrap();
        let facts = kernel.facts();
        assert_eq!((facts.needs_bytes, facts.config), (7, None));
    }

    #[test]
    fn a_cpu_template_is_a_name_or_firecrackers_own_json() {
        let named: CpuTemplate = serde_json::from_str(r#"{"named":"T2CL"}"#).unwrap();
        assert_eq!(named, CpuTemplate::Named(NamedCpuTemplate::T2CL));
        let custom: CpuTemplate =
            serde_json::from_str(r#"{"custom":{"msr_modifiers":[]}}"#).unwrap();
        assert!(matches!(custom, CpuTemplate::Custom(CpuModifiers(map)) if map.len() == 1));
    }
}
