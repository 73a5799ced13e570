//! What to do about each error, and the code by which programs tell it.

use super::ImageError;
use crate::layers::Problem;
use aetherium_model::Code;
use std::io;

impl ImageError {
    /// What to do about it; empty where nothing can be advised.
    pub fn remedy(&self) -> String {
        match self {
            Self::AlreadyExists { name } => {
                format!("give another name, or ask to replace {name}; running VMs keep the old one")
            }
            Self::NotFound { .. } => "build it first, or list the templates there are".into(),
            Self::Busy { .. } => "wait for the other build to end, then try again".into(),
            Self::NotATag { template } => {
                format!("write {} or {}:TAG", template.name, template.name)
            }
            Self::StoreDamaged { path, .. } => format!(
                "look at {}; if it cannot be mended, move it away and build the template again",
                path.display()
            ),
            Self::StoreBusy { .. } => "try again when the other process has ended".into(),
            Self::Broken { name, .. } => format!("build {name} again, replacing it"),
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free some space there, or keep the data on another filesystem".into()
                }
                io::ErrorKind::PermissionDenied => {
                    "give this user access, or run as a user who has it".into()
                }
                io::ErrorKind::NotFound => "check that the path is right".into(),
                _ => String::new(),
            },
            Self::ProgramMissing { package, .. } => {
                format!("install the package {package} (as root: apt-get install {package})")
            }
            Self::BuildToolsMissing { packages, .. } => {
                format!("as root: apt-get install {}", packages.join(" "))
            }
            Self::CommandFailed { remedy, .. } => remedy.clone(),
            Self::CommandTimedOut { .. } => {
                "try again when the machine or the network is less busy".into()
            }
            Self::DistributionUnknown { .. } => {
                "give a kernel image and its modules as files".into()
            }
            Self::PackageUnknown { .. } => {
                "refresh the package index (as root: apt-get update), then try again".into()
            }
            Self::PackageIncomplete { .. } => {
                "remove the package from the download cache and try again".into()
            }
            Self::KernelUnusable { .. } => "give a bzImage (vmlinuz) or an x86-64 vmlinux".into(),
            Self::KernelConfigUnusable { .. } => "give the .config of a kernel's build".into(),
            Self::KernelOptionsLost { .. } => {
                "see what they depend on (make menuconfig in the source), and add that to the fragment"
                    .into()
            }
            Self::KernelNotFound { .. } => {
                "import it first (aetherium kernel import), or list those there are".into()
            }
            Self::KernelExists { name } => {
                format!("give another name, or ask to replace {name}; templates keep the old one")
            }
            Self::KernelsBusy { .. } => "wait for the other import to end, then try again".into(),
            Self::DriverMissing { driver, .. } => format!(
                "use a kernel with {driver}, such as the distribution's, or give its modules directory"
            ),
            Self::ModuleUnusable { .. } | Self::ModuleCircle { .. } => {
                "give the modules directory that belongs to the kernel".into()
            }
            Self::AgentUnusable { .. } => {
                "build fc-agent for a musl target, or otherwise statically linked".into()
            }
            Self::RootfsUnusable { .. } => {
                "give a directory with a Linux userland, or an unmounted, clean ext4 image".into()
            }
            Self::RecipeInvalid(_) => "docs/templates.md says what a recipe may hold".into(),
            Self::RecipeNotSent { .. } => {
                "build it on the server's own machine, or as an image to begin with".into()
            }
            Self::CopyRefused { .. } => "copy files, directories and links only".into(),
            Self::RootfsInUse { path } => format!(
                "end the VM that uses it; if there is none, complete its journal: e2fsck -fp {}",
                path.display()
            ),
            Self::RootfsDamaged { path, previous: Some(previous), .. } => {
                let (previous, path) = (previous.display(), path.display());
                format!(
                    "restore the copy that was kept: cp --sparse=always {previous} {path}.new && \
                     mv {path}.new {path}"
                )
            }
            Self::RootfsDamaged { path, previous: None, .. } => format!(
                "build it anew, or repair it (first keep a copy): e2fsck -f {}",
                path.display()
            ),
            Self::RootfsBusy { .. } => "wait for the other run to end, then try again".into(),
            Self::AgentNotInstalled { .. } => {
                "make room for it in the image, or boot the image with Aetherium's initramfs, which \
                 has the agent"
                    .into()
            }
            Self::LayerRefused { problem, .. } => layer_remedy(problem).into(),
            Self::ImageUnusable { .. } => {
                "get the image anew, or build it with another tool".into()
            }
            Self::PlatformMissing { wanted, .. } => {
                format!("use an image that is made for {wanted}")
            }
            Self::ImageMissing { .. } => {
                "check the image's name and tag; a private one may need a login".into()
            }
            Self::RegistryDenied { host, .. } => format!(
                "log in (docker login {host}), or set AETHERIUM_REGISTRY_USERNAME and \
                 AETHERIUM_REGISTRY_PASSWORD"
            ),
            Self::RegistryFailed { .. } => {
                "check the network and try again; what has come so far is kept".into()
            }
            Self::BlobWrong { .. } => {
                "try again; if it happens again, the registry or a proxy on the way is broken"
                    .into()
            }
            Self::BlobBusy { .. } => "wait for the other download, or end it".into(),
            Self::RuntimeEnded(_) => "start it again".into(),
        }
    }

    /// The stable code that a [`Fault`] of it has.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::AlreadyExists { .. }
            | Self::Busy { .. }
            | Self::BlobBusy { .. }
            | Self::StoreBusy { .. }
            | Self::RootfsBusy { .. }
            | Self::KernelExists { .. }
            | Self::KernelsBusy { .. }
            | Self::RootfsInUse { .. } => Code::Conflict,
            Self::NotFound { .. } | Self::ImageMissing { .. } | Self::KernelNotFound { .. } => {
                Code::NotFound
            }
            Self::Broken { .. } | Self::StoreDamaged { .. } => Code::TemplateBroken,
            Self::Io { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                Code::DiskFull
            }
            Self::CommandTimedOut { .. } => Code::DeadlineExceeded,
            Self::ProgramMissing { .. }
            | Self::BuildToolsMissing { .. }
            | Self::CommandFailed { .. }
            | Self::PackageUnknown { .. }
            | Self::RegistryDenied { .. }
            | Self::RegistryFailed { .. }
            | Self::BlobWrong { .. }
            | Self::RuntimeEnded(_) => Code::Unavailable,
            Self::Io { .. } | Self::LayerRefused { problem: Problem::Host { .. }, .. } => {
                Code::Internal
            }
            _ => Code::InvalidRequest,
        }
    }
}

fn layer_remedy(problem: &Problem) -> &'static str {
    match problem {
        Problem::Host { .. } => "see that there is room, and that this user may write there",
        Problem::Unreadable(_) | Problem::Digest { .. } => "get the image anew: it is damaged",
        Problem::PaxSparse => "pack the layer without --sparse, or with tar --format=gnu",
        _ => "do not use this image unless you know why it is so; build it anew to change that",
    }
}
