//! What a kernel can do together with its initramfs.

use super::{InitramfsFacts, Start, TemplateFacts};
use aetherium_model::kernel::{KernelFacts, KernelOption, Setting};

/// Whether a guest has a driver at the moment it needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Has {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// The kernel's configuration is not known.
    Unknown,
}

/// A kernel, and what it starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guest<'a> {
    pub(super) kernel: &'a KernelFacts,
    initramfs: Option<&'a InitramfsFacts>,
}

impl<'a> Guest<'a> {
    pub(super) fn new(kernel: &'a KernelFacts, template: &'a TemplateFacts) -> Self {
        let initramfs = match &template.start {
            Start::Initramfs(initramfs) => Some(initramfs),
            Start::Disk { .. } => None,
        };
        Self { kernel, initramfs }
    }

    pub(super) const fn initramfs(&self) -> Option<&'a InitramfsFacts> {
        self.initramfs
    }

    /// Whether the guest has `option` before it mounts its root: built in, or as a module of the
    /// initramfs.
    pub(super) fn has(&self, option: KernelOption) -> Has {
        let brought = self.brings_module(option);
        match self.kernel.setting(option) {
            Some(Setting::BuiltIn) => Has::Yes,
            Some(Setting::Module) | None if brought => Has::Yes,
            Some(Setting::Module | Setting::Off) => Has::No,
            None => Has::Unknown,
        }
    }

    /// Whether the guest has them all.
    pub(super) fn has_all(&self, options: &[KernelOption]) -> Has {
        let each = || options.iter().map(|option| self.has(*option));
        if each().any(|it| it == Has::No) {
            Has::No
        } else if each().all(|it| it == Has::Yes) {
            Has::Yes
        } else {
            Has::Unknown
        }
    }

    /// Whether it depends on modules.
    pub(super) fn loads_modules(&self) -> bool {
        self.initramfs.is_some_and(|it| !it.modules.is_empty())
    }

    fn brings_module(&self, option: KernelOption) -> bool {
        let Some(name) = module(option) else { return false };
        self.initramfs.is_some_and(|it| it.modules.iter().any(|module| module == name))
    }
}

/// The module that an option builds, in the kernel's spelling; `None` for what cannot be one.
const fn module(option: KernelOption) -> Option<&'static str> {
    match option {
        KernelOption::VirtioPci => Some("virtio_pci"),
        KernelOption::VirtioMmio => Some("virtio_mmio"),
        KernelOption::VirtioBlk => Some("virtio_blk"),
        KernelOption::VirtioNet => Some("virtio_net"),
        KernelOption::VirtioVsock => Some("vmw_vsock_virtio_transport"),
        KernelOption::VirtioBalloon => Some("virtio_balloon"),
        KernelOption::VirtioRng => Some("virtio_rng"),
        KernelOption::Ext4 => Some("ext4"),
        KernelOption::Overlay => Some("overlay"),
        _ => None,
    }
}
