//! The steps of a plan that make the machine: logs, console, CPUs, memory, kernel.

use super::{
    ApiCall, BootSource, Confinement, Console, CpuVendor, Feature, FileUse, HugePages,
    MachineConfig, PlanError, Start, Topic,
    draft::{Draft, extra_args},
    guest::Has,
    kernel_args,
};
use aetherium_model::{
    kernel::KernelOption,
    resources::VirtioTransport,
    template::{CpuTemplate, KernelFormat, NamedCpuTemplate},
};
use std::path::PathBuf;

const MIB: u64 = 1024 * 1024;

impl Draft<'_> {
    /// Says where Firecracker runs.
    pub(super) fn jail(&mut self) {
        match &self.request.confinement {
            Confinement::Plain => {
                let why = "only root can make a jail; Firecracker's own system call filter remains";
                self.because(Topic::Jail, "none", why);
            }
            Confinement::Jailed { root } => {
                let root = root.display().to_string();
                let why = "a guest that breaks out of Firecracker meets an empty directory and a \
                           user of its own";
                self.because(Topic::Jail, root, why);
            }
        }
    }

    /// Firecracker's log and metrics, as arguments: so they are there before the first call, and for a
    /// snapshot, before whose load nothing may be configured.
    pub(super) fn logs(&mut self) {
        let (log, log_path) = self.own("vmm.log", FileUse::Append);
        let (_, metrics_path) = self.own("metrics.json", FileUse::Append);
        self.plan.program_args.extend(
            ["--log-path", &log_path, "--level", "Info", "--show-level"]
                .into_iter()
                .chain(["--metrics-path", &metrics_path])
                .map(str::to_owned),
        );
        let why = if self.version.supports(Feature::MakesLogFiles) {
            "what Firecracker says of a failure is kept with the VM"
        } else {
            "what Firecracker says of a failure is kept with the VM; both files must exist before"
        };
        self.because(Topic::Logs, log.display().to_string(), why);
    }

    /// Where the guest's console goes: to standard output, which whoever starts Firecracker opens for
    /// appending. A file that Firecracker opens itself (`PUT /serial`) could not be cut while it runs.
    pub(super) fn console(&mut self) {
        let verbosity = match self.request.console {
            Console::Quiet => "quiet",
            Console::Verbose => "all messages",
        };
        let why = kernel_args::console_reason(self.request.console, &self.guest);
        self.because(Topic::Console, format!("standard output, {verbosity}"), why);
    }

    /// CPUs and memory.
    pub(super) fn machine(&mut self) -> Result<(), PlanError> {
        self.memory()?;
        let (cpu_template, custom) = self.cpu()?;
        self.plan.calls.push(ApiCall::MachineConfig(MachineConfig {
            vcpu_count: self.request.resources.vcpus.get(),
            mem_size_mib: self.request.resources.memory_mib.get(),
            smt: false,
            cpu_template,
            track_dirty_pages: self.request.track_dirty_pages,
            huge_pages: self.request.huge_pages,
        }));
        // After the machine's configuration, which sets the CPU template, too.
        self.plan.calls.extend(custom);
        Ok(())
    }

    fn memory(&mut self) -> Result<(), PlanError> {
        let memory_mib = self.request.resources.memory_mib.get();
        let initramfs_bytes = self.guest.initramfs().map_or(0, |it| it.bytes);
        // The archive and what is unpacked from it are in memory at the same time.
        let needs_bytes =
            self.guest.kernel.needs_bytes.saturating_add(initramfs_bytes.saturating_mul(2));
        let (has_mib, needs_mib) = (u64::from(memory_mib), needs_bytes.div_ceil(MIB));
        if has_mib < needs_mib {
            return Err(PlanError::MemoryTooSmall { has_mib, needs_mib });
        }
        let pages = self.pages(memory_mib)?;
        let mut why = format!("kernel and initramfs need {needs_mib} MiB to begin; {pages}");
        if self.request.track_dirty_pages {
            why.push_str("; written pages are noted for diff snapshots, which costs speed");
        }
        self.because(Topic::Memory, format!("{memory_mib} MiB"), why);
        Ok(())
    }

    fn pages(&self, memory_mib: u32) -> Result<&'static str, PlanError> {
        let refuse = |why: String| Err(PlanError::HugePages { memory_mib, why });
        let feature = match self.request.huge_pages {
            HugePages::None => return Ok("ordinary pages"),
            HugePages::TwoMib => Feature::HugePages,
            HugePages::Transparent => Feature::TransparentHugePages,
        };
        if !self.version.supports(feature) {
            return Err(PlanError::FeatureMissing { feature, version: self.version });
        }
        if !memory_mib.is_multiple_of(2) {
            return refuse("it is no multiple of 2 MiB".to_owned());
        }
        if self.request.huge_pages == HugePages::Transparent {
            return Ok("huge pages where the host's kernel finds some");
        }
        // Firecracker does not reserve them, and is killed when it meets the end of the pool.
        let (needed, free) = (u64::from(memory_mib / 2), self.host.free_huge_pages);
        if free < needed {
            return refuse(format!("it takes {needed} pages of 2 MiB, and {free} are free"));
        }
        if self.request.track_dirty_pages {
            return Ok("huge pages, though noting written pages takes their advantage away");
        }
        Ok("huge pages of 2 MiB, as asked for")
    }

    /// The built-in template's name, or the call that sets a custom one.
    fn cpu(&mut self) -> Result<(Option<NamedCpuTemplate>, Option<ApiCall>), PlanError> {
        let vcpus = match self.request.resources.vcpus.get() {
            1 => "1 vCPU".to_owned(),
            count => format!("{count} vCPUs"),
        };
        match &self.template.cpu {
            None => {
                self.because(Topic::Cpu, vcpus, "no CPU template: the guest sees the host's CPU");
                Ok((None, None))
            }
            Some(CpuTemplate::Custom(modifiers)) => {
                let why = "the template brings a custom CPU template";
                self.because(Topic::Cpu, vcpus, why);
                Ok((None, Some(ApiCall::CpuConfig(modifiers.clone()))))
            }
            Some(CpuTemplate::Named(name)) => {
                let vendor = self.host.cpu_vendor;
                if vendor != vendor_of(*name) {
                    return Err(PlanError::CpuTemplate { template: *name, vendor });
                }
                let why = format!("the template asks for Firecracker's {name:?}");
                self.because(Topic::Cpu, vcpus, why);
                Ok((Some(*name), None))
            }
        }
    }

    /// Kernel, initramfs and kernel arguments. After all devices, as their number matters.
    pub(super) fn boot_source(&mut self) -> Result<(), PlanError> {
        self.plan.appended_args = kernel_args::appended(
            self.version,
            self.plan.transport,
            &self.template.start,
            self.request.disks.first().is_some_and(|disk| disk.read_only),
            self.plan.devices.len(),
        );
        let extra = extra_args(self.template, self.request);
        self.plan.kernel_args = kernel_args::line(
            self.plan.transport,
            &self.template.start,
            &self.guest,
            self.request.console,
            extra,
        )?;
        kernel_args::check_length(&self.plan.kernel_args, &self.plan.appended_args)?;
        let why = match self.plan.transport {
            VirtioTransport::Pci => "no pci=off, without which Firecracker's PCI bus is not seen",
            VirtioTransport::Mmio => "pci=off, as there is no bus to search",
        };
        self.because(Topic::KernelArgs, self.plan.kernel_args.clone(), why);

        let kernel = self.kernel_file()?;
        let kernel_image_path = self.share(&kernel, "kernel", FileUse::Read);
        let initrd_path = self.start()?;
        let boot_args = self.plan.kernel_args.clone();
        self.plan.calls.push(ApiCall::BootSource(BootSource {
            kernel_image_path,
            initrd_path,
            boot_args,
        }));
        Ok(())
    }

    fn kernel_file(&mut self) -> Result<PathBuf, PlanError> {
        let files = &self.template.kernel;
        let (path, why) = match (files.format, &files.elf) {
            (KernelFormat::Elf, _) => (&files.image, "an uncompressed ELF image"),
            (KernelFormat::BzImage, Some(elf)) => {
                (elf, "unpacked from a bzImage: any Firecracker loads it, and without unpacking")
            }
            (KernelFormat::BzImage, None) if self.version.supports(Feature::BzImage) => {
                (&files.image, "a bzImage, which this Firecracker loads")
            }
            (KernelFormat::BzImage, None) => {
                return Err(PlanError::BzImage { version: self.version });
            }
        };
        let path = path.clone();
        self.because(Topic::Kernel, path.display().to_string(), why);
        Ok(path)
    }

    /// What the kernel starts; the initramfs's name for Firecracker.
    fn start(&mut self) -> Result<Option<String>, PlanError> {
        match &self.template.start {
            Start::Initramfs(initramfs) => {
                self.require(KernelOption::Initramfs, "to start from an initramfs")?;
                let why = "the agent finds its root by UUID, whatever the device is called";
                self.because(Topic::Root, "initramfs with the agent as /init", why);
                Ok(Some(self.share(&initramfs.path, "initramfs", FileUse::Read)))
            }
            Start::Disk { .. } => {
                if self.request.disks.is_empty() {
                    return Err(PlanError::NoRoot);
                }
                let why = "there is no initramfs: the kernel mounts the first disk itself";
                self.because(Topic::Root, "/dev/vda", why);
                Ok(None)
            }
        }
    }

    /// Whether the guest hears Ctrl-Alt-Del.
    pub(super) fn keyboard(&mut self) {
        let heard = self.guest.has_all(&[KernelOption::I8042, KernelOption::AtKeyboard]);
        self.plan.hears_ctrl_alt_del = heard != Has::No;
    }
}

const fn vendor_of(template: NamedCpuTemplate) -> CpuVendor {
    match template {
        NamedCpuTemplate::T2A => CpuVendor::Amd,
        NamedCpuTemplate::C3
        | NamedCpuTemplate::T2
        | NamedCpuTemplate::T2S
        | NamedCpuTemplate::T2CL => CpuVendor::Intel,
    }
}
