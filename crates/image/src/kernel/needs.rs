//! What guests need of their kernel, held against what is known of one before it runs. Pure.

use super::{Examined, Unpacked};
use aetherium_model::{
    finding::Finding,
    kernel::{ConfigSource, KernelConfig, KernelFacts, KernelOption, Setting},
    template::KernelFormat,
};

/// How badly something is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// No VM starts without it.
    Required,
    /// VMs start, but less well.
    Recommended,
    /// VMs start, and some programs in them do not run. As modules these may lie in the root
    /// filesystem, where the guest's own tools load them.
    ForPrograms,
}

/// Options that serve one purpose, all of them together.
struct Demand {
    check: &'static str,
    options: &'static [KernelOption],
    need: Need,
    without: &'static str,
}

const DEMANDS: [Demand; 9] = [
    demand("kernel.disk", &[KernelOption::VirtioBlk], Need::Required, "the guest finds no disk"),
    demand(
        "kernel.initramfs",
        &[KernelOption::Initramfs],
        Need::Required,
        "the agent and the guest's configuration come in an initramfs",
    ),
    demand(
        "kernel.ext4",
        &[KernelOption::Ext4],
        Need::Required,
        "the root file system cannot be mounted",
    ),
    demand(
        "kernel.overlay",
        &[KernelOption::Overlay],
        Need::Required,
        "the root file system cannot be made writable",
    ),
    demand(
        "kernel.vsock",
        &[KernelOption::VirtioVsock],
        Need::Recommended,
        "the agent is reached over TCP only, which needs a network device",
    ),
    demand(
        "kernel.network",
        &[KernelOption::VirtioNet],
        Need::Recommended,
        "VMs have no network, nor an agent reached over TCP",
    ),
    demand(
        "kernel.console",
        &[KernelOption::Serial, KernelOption::SerialConsole, KernelOption::SerialPnp],
        Need::Recommended,
        "nobody reads why a boot failed: without the last, nothing but the kernel can print",
    ),
    demand(
        "kernel.systemd",
        &[
            KernelOption::Cgroups,
            KernelOption::Devtmpfs,
            KernelOption::Tmpfs,
            KernelOption::Inotify,
            KernelOption::FileHandles,
            KernelOption::Autofs,
        ],
        Need::ForPrograms,
        "systemd as the guest's init needs them: its README, \"REQUIREMENTS\"",
    ),
    demand(
        "kernel.containers",
        &[
            KernelOption::MemoryCgroup,
            KernelOption::PidsCgroup,
            KernelOption::BpfCgroup,
            KernelOption::NetNamespaces,
            KernelOption::UserNamespaces,
            KernelOption::SeccompFilter,
            KernelOption::Veth,
            KernelOption::Bridge,
            KernelOption::BridgeNetfilter,
            KernelOption::Nat,
            KernelOption::NfTables,
            KernelOption::NftCompat,
            KernelOption::AddressType,
            KernelOption::Masquerade,
        ],
        Need::ForPrograms,
        "Docker in the guest needs them: contrib/check-config.sh of moby",
    ),
];

const fn demand(
    check: &'static str,
    options: &'static [KernelOption],
    need: Need,
    without: &'static str,
) -> Demand {
    Demand { check, options, need, without }
}

const BUS: &str = "kernel.bus";
const BUS_WHY: &str = "the guest sees no device without the bus it is on";
const PCI: &[KernelOption] =
    &[KernelOption::Pci, KernelOption::PciMmconfig, KernelOption::PciMsi, KernelOption::VirtioPci];
/// A guest is told of MMIO devices by one or the other.
const MMIO: [&[KernelOption]; 2] = [
    &[KernelOption::VirtioMmio, KernelOption::Acpi],
    &[KernelOption::VirtioMmio, KernelOption::VirtioMmioCmdline],
];
const ANOTHER_KERNEL: &str =
    "use a kernel that has it, such as the distribution's, or build one: aetherium kernel build";

/// Judges a kernel: what it is, and how it has what guests need.
pub fn findings(examined: &Examined) -> Vec<Finding> {
    let facts = &examined.facts;
    let mut findings = vec![image(examined), config(facts)];
    if facts.config.is_none() {
        return findings;
    }
    findings.push(bus(facts));
    findings.extend(DEMANDS.iter().map(|demand| demand.judge(facts)));
    findings.extend(modules(facts));
    findings
}

fn image(examined: &Examined) -> Finding {
    let (check, facts) = ("kernel.image", &examined.facts);
    let why = "Firecracker up to 1.16 loads uncompressed ELF kernels alone";
    let release = &facts.release;
    match (facts.format, &examined.elf) {
        (KernelFormat::Elf, _) => Finding::ok(check, format!("Linux {release}, ELF"), why),
        (KernelFormat::BzImage, Unpacked::Unreadable(detail)) => Finding::warn(
            check,
            format!("Linux {release}, a bzImage that cannot be unpacked: {detail}"),
            why,
            "give an uncompressed vmlinux, or use Firecracker 1.17",
        ),
        (KernelFormat::BzImage, _) => {
            Finding::ok(check, format!("Linux {release}, a bzImage with an ELF image inside"), why)
        }
    }
}

fn config(facts: &KernelFacts) -> Finding {
    let (check, why) = ("kernel.config", "it tells whether a guest can boot before one is started");
    match facts.config.as_ref().map(|config| config.source) {
        Some(ConfigSource::Image) => Finding::ok(check, "inside the image", why),
        Some(ConfigSource::Beside) => Finding::ok(check, "in a file beside the image", why),
        Some(ConfigSource::Named) => Finding::ok(check, "in the file that was named", why),
        None => Finding::warn(
            check,
            "not found, neither inside the image nor beside it: what it can do is not known",
            why,
            "name the file with --config, or put it beside the image as config-RELEASE",
        ),
    }
}

fn bus(facts: &KernelFacts) -> Finding {
    let mmio = MMIO.iter().map(|options| together(facts, options)).min_by_key(|it| rank(*it));
    let buses = [("PCI", together(facts, PCI)), ("MMIO", mmio.unwrap_or(Setting::Off))];
    let has: Vec<_> = buses
        .into_iter()
        .filter(|(_, setting)| *setting != Setting::Off)
        .map(|(name, setting)| format!("virtio over {name} {}", how(setting)))
        .collect();
    if has.is_empty() {
        return Finding::fail(
            BUS,
            "virtio neither over PCI nor over MMIO",
            BUS_WHY,
            ANOTHER_KERNEL,
        );
    }
    Finding::ok(BUS, has.join(", "), BUS_WHY)
}

impl Demand {
    fn judge(&self, facts: &KernelFacts) -> Finding {
        let off: Vec<_> = self
            .options
            .iter()
            .filter(|option| facts.setting(**option) == Some(Setting::Off))
            .map(ToString::to_string)
            .collect();
        if off.is_empty() {
            let names: Vec<_> = self.options.iter().map(|option| option.symbol()).collect();
            let found = format!("{} {}", names.join(", "), how(together(facts, self.options)));
            return Finding::ok(self.check, found, self.without);
        }
        let found = format!("{} is off", off.join(", "));
        match self.need {
            Need::Required => Finding::fail(self.check, found, self.without, ANOTHER_KERNEL),
            Need::Recommended | Need::ForPrograms => {
                Finding::warn(self.check, found, self.without, ANOTHER_KERNEL)
            }
        }
    }
}

/// Whether a kernel so configured comes to its root, and to its agent, without any module.
pub(crate) fn needs_no_modules(config: &KernelConfig) -> bool {
    let has = |options: &[KernelOption]| {
        options.iter().all(|option| config.get(*option) == Setting::BuiltIn)
    };
    let early = |demand: &&Demand| demand.need != Need::ForPrograms;
    let on_a_bus = has(PCI) || MMIO.iter().any(|options| has(options));
    on_a_bus && DEMANDS.iter().filter(early).all(|demand| has(demand.options))
}

/// Whether somebody has to load modules before the root is there.
fn modules(facts: &KernelFacts) -> Option<Finding> {
    let early = DEMANDS.iter().filter(|demand| demand.need != Need::ForPrograms);
    let needed = early.flat_map(|demand| demand.options).chain(PCI).copied();
    let modules: Vec<_> = needed
        .filter(|option| facts.setting(*option) == Some(Setting::Module))
        .map(KernelOption::symbol)
        .collect();
    let found = format!("{} are modules", modules.join(", "));
    (!modules.is_empty()).then(|| {
        Finding::warn(
            "kernel.modules",
            found,
            "without an initramfs that loads them the guest does not find its root",
            "give `template build` the kernel's modules directory with --modules, or import the \
             package that has both: aetherium kernel import",
        )
    })
}

/// How a kernel has all of several options.
fn together(facts: &KernelFacts, options: &[KernelOption]) -> Setting {
    let settings = options.iter().map(|it| facts.setting(*it).unwrap_or(Setting::Off));
    settings.max_by_key(|it| rank(*it)).unwrap_or(Setting::Off)
}

/// The worse, the higher.
const fn rank(setting: Setting) -> u8 {
    match setting {
        Setting::BuiltIn => 0,
        Setting::Module => 1,
        Setting::Off => 2,
    }
}

/// A setting in words.
pub const fn how(setting: Setting) -> &'static str {
    match setting {
        Setting::BuiltIn => "built in",
        Setting::Module => "as a module",
        Setting::Off => "absent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aetherium_model::finding::Verdict;

    fn kernel(options: &[(KernelOption, Setting)]) -> Examined {
        let options = options.iter().copied().collect();
        let config = Some(KernelConfig { source: ConfigSource::Image, options });
        let format = KernelFormat::Elf;
        let facts = KernelFacts { release: "6.1.0".into(), format, needs_bytes: 0, config };
        Examined { facts, elf: Unpacked::Already }
    }

    fn all(but: &[(KernelOption, Setting)]) -> Examined {
        let all = KernelOption::ALL.iter().map(|option| (*option, Setting::BuiltIn));
        kernel(&all.chain(but.iter().copied()).collect::<Vec<_>>())
    }

    fn verdict(examined: &Examined, check: &str) -> Option<Verdict> {
        let findings = findings(examined);
        findings.iter().find(|it| it.check == check).map(|it| it.verdict)
    }

    #[test]
    fn a_kernel_with_everything_built_in_has_nothing_to_complain_of() {
        let findings = findings(&all(&[]));
        assert!(findings.iter().all(|it| it.verdict == Verdict::Ok), "{findings:#?}");
        assert!(!findings.iter().any(|it| it.check == "kernel.modules"));
    }

    #[test]
    fn what_no_guest_starts_without_fails_and_the_rest_is_a_warning() {
        let off = |option| all(&[(option, Setting::Off)]);
        assert_eq!(verdict(&off(KernelOption::VirtioBlk), "kernel.disk"), Some(Verdict::Fail));
        assert_eq!(verdict(&off(KernelOption::Overlay), "kernel.overlay"), Some(Verdict::Fail));
        assert_eq!(verdict(&off(KernelOption::VirtioVsock), "kernel.vsock"), Some(Verdict::Warn));
        assert_eq!(verdict(&off(KernelOption::SerialPnp), "kernel.console"), Some(Verdict::Warn));
    }

    #[test]
    fn one_bus_suffices_and_mmio_needs_a_way_to_be_announced() {
        let off = |options: &[KernelOption]| {
            all(&options.iter().map(|it| (*it, Setting::Off)).collect::<Vec<_>>())
        };
        let (mmio, pci) = (KernelOption::VirtioMmio, KernelOption::VirtioPci);
        let (acpi, cmdline) = (KernelOption::Acpi, KernelOption::VirtioMmioCmdline);
        for options in [vec![mmio], vec![pci], vec![pci, acpi], vec![pci, cmdline]] {
            assert_eq!(verdict(&off(&options), BUS), Some(Verdict::Ok), "{options:?}");
        }
        for options in [vec![mmio, pci], vec![pci, acpi, cmdline]] {
            assert_eq!(verdict(&off(&options), BUS), Some(Verdict::Fail), "{options:?}");
        }
    }

    #[test]
    fn a_kernel_needs_no_modules_if_all_that_boots_it_is_built_in() {
        let alone = |but: &[(KernelOption, Setting)]| {
            needs_no_modules(all(but).facts.config.as_ref().unwrap())
        };
        assert!(alone(&[]));
        assert!(alone(&[(KernelOption::VirtioPci, Setting::Off)]), "there is MMIO");
        assert!(alone(&[(KernelOption::Bridge, Setting::Module)]));
        assert!(!alone(&[(KernelOption::Ext4, Setting::Module)]));
        assert!(!alone(&[(KernelOption::VirtioVsock, Setting::Off)]));
    }

    #[test]
    fn modules_are_a_warning_that_names_them() {
        let findings = findings(&all(&[(KernelOption::Ext4, Setting::Module)]));
        let modules = findings.iter().find(|it| it.check == "kernel.modules").unwrap();
        assert!(modules.found.contains("EXT4_FS") && modules.verdict == Verdict::Warn);
    }

    #[test]
    fn what_only_some_programs_need_may_be_a_module_and_is_missed_without_failing() {
        let (bridge, systemd) = (KernelOption::Bridge, KernelOption::Autofs);
        let module = all(&[(bridge, Setting::Module)]);
        assert_eq!(verdict(&module, "kernel.containers"), Some(Verdict::Ok));
        assert_eq!(verdict(&module, "kernel.modules"), None);
        let off = all(&[(bridge, Setting::Off), (systemd, Setting::Off)]);
        assert_eq!(verdict(&off, "kernel.containers"), Some(Verdict::Warn));
        assert_eq!(verdict(&off, "kernel.systemd"), Some(Verdict::Warn));
    }

    #[test]
    fn of_a_kernel_without_a_configuration_nothing_is_claimed() {
        let mut examined = all(&[]);
        examined.facts.config = None;
        let findings = findings(&examined);
        assert_eq!(findings.len(), 2);
        assert!(findings[1].verdict == Verdict::Warn && findings[1].remedy.contains("--config"));
    }
}
