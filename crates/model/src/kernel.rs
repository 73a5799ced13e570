//! What is known of a guest kernel before it runs: values only, read from its image by whoever can.

use crate::template::KernelFormat;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

macro_rules! options {
    ($($(#[doc = $doc:literal])+ $variant:ident = $symbol:literal,)+) => {
        /// An option of a kernel's configuration that decides whether and how a guest can boot.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
            utoipa::ToSchema,
        )]
        pub enum KernelOption { $($(#[doc = $doc])+ #[serde(rename = $symbol)] $variant,)+ }

        impl KernelOption {
            /// Every option there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The option's symbol in Kconfig, without the leading `CONFIG_`.
            pub const fn symbol(self) -> &'static str {
                match self { $(Self::$variant => $symbol,)+ }
            }
        }
    };
}

options! {
    /// The PCI bus.
    Pci = "PCI",
    /// Configuration of PCI devices through memory: the only way Firecracker offers.
    PciMmconfig = "PCI_MMCONFIG",
    /// Message-signalled interrupts: the only kind Firecracker's PCI devices raise.
    PciMsi = "PCI_MSI",
    /// ACPI, by which a guest finds its devices.
    Acpi = "ACPI",
    /// virtio over PCI.
    VirtioPci = "VIRTIO_PCI",
    /// virtio over memory-mapped registers.
    VirtioMmio = "VIRTIO_MMIO",
    /// Memory-mapped virtio devices named on the kernel's command line.
    VirtioMmioCmdline = "VIRTIO_MMIO_CMDLINE_DEVICES",
    /// virtio disks.
    VirtioBlk = "VIRTIO_BLK",
    /// virtio network interfaces.
    VirtioNet = "VIRTIO_NET",
    /// virtio sockets, the guest's side.
    VirtioVsock = "VIRTIO_VSOCKETS",
    /// The memory balloon.
    VirtioBalloon = "VIRTIO_BALLOON",
    /// Entropy from the host.
    VirtioRng = "HW_RANDOM_VIRTIO",
    /// An initramfs.
    Initramfs = "BLK_DEV_INITRD",
    /// Loadable modules.
    Modules = "MODULES",
    /// The ext4 file system.
    Ext4 = "EXT4_FS",
    /// The overlay file system.
    Overlay = "OVERLAY_FS",
    /// The serial port, and with it a console.
    Serial = "SERIAL_8250",
    /// The serial port as a console.
    SerialConsole = "SERIAL_8250_CONSOLE",
    /// The serial port found by ACPI; without it nothing but the kernel itself can print.
    SerialPnp = "SERIAL_8250_PNP",
    /// The keyboard controller, whose reset line ends a guest and through which Ctrl-Alt-Del comes.
    I8042 = "SERIO_I8042",
    /// The keyboard, which hears Ctrl-Alt-Del.
    AtKeyboard = "KEYBOARD_ATKBD",
    /// Being a guest of KVM: its clock and its ways to save exits.
    KvmGuest = "KVM_GUEST",
    /// Direct entry in 32-bit mode, instead of the boot protocol of Linux.
    Pvh = "PVH",
    /// Notice of a restored snapshot, on which the guest renews its random numbers.
    VmGenId = "VMGENID",
    /// The kernel's configuration inside its image.
    Ikconfig = "IKCONFIG",
    /// Files for every device, made by the kernel.
    Devtmpfs = "DEVTMPFS",
    /// Files in memory.
    Tmpfs = "TMPFS",
    /// Notice of changed files.
    Inotify = "INOTIFY_USER",
    /// Names of files that outlive a rename.
    FileHandles = "FHANDLE",
    /// Mounts made on first use.
    Autofs = "AUTOFS_FS",
    /// Control groups: who belongs together, and what they may take.
    Cgroups = "CGROUPS",
    /// Limits of memory.
    MemoryCgroup = "MEMCG",
    /// Limits of processes.
    PidsCgroup = "CGROUP_PIDS",
    /// Programs that decide which devices a group may open.
    BpfCgroup = "CGROUP_BPF",
    /// Users of a container's own.
    UserNamespaces = "USER_NS",
    /// A network of a container's own.
    NetNamespaces = "NET_NS",
    /// Filters of system calls.
    SeccompFilter = "SECCOMP_FILTER",
    /// Pairs of network interfaces, one end for a container.
    Veth = "VETH",
    /// Bridges, to which the other ends are tied.
    Bridge = "BRIDGE",
    /// Firewall rules that see what crosses a bridge.
    BridgeNetfilter = "BRIDGE_NETFILTER",
    /// Firewall rules that rewrite addresses.
    Nat = "NF_NAT",
    /// Firewall rules of nftables.
    NfTables = "NF_TABLES",
    /// Firewall rules of iptables, expressed in nftables.
    NftCompat = "NFT_COMPAT",
    /// Firewall rules that ask whose address it is.
    AddressType = "NETFILTER_XT_MATCH_ADDRTYPE",
    /// Firewall rules that hide addresses behind the guest's own.
    Masquerade = "NETFILTER_XT_TARGET_MASQUERADE",
}

impl fmt::Display for KernelOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CONFIG_{}", self.symbol())
    }
}

/// How a kernel was built in regard of one option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// Part of the image.
    BuiltIn,
    /// A module, which somebody must load.
    Module,
    /// Not there.
    Off,
}

/// Where a configuration was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConfigSource {
    /// Inside the image (`CONFIG_IKCONFIG`).
    Image,
    /// In a `config-<release>` beside it.
    Beside,
    /// In a file that somebody named.
    Named,
}

/// A kernel's configuration, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KernelConfig {
    /// Where it was found.
    pub source: ConfigSource,
    /// The options that are not [`Setting::Off`].
    #[schema(value_type = BTreeMap<String, Setting>)]
    pub options: BTreeMap<KernelOption, Setting>,
}

impl KernelConfig {
    /// How the kernel was built in regard of `option`.
    pub fn get(&self, option: KernelOption) -> Setting {
        self.options.get(&option).copied().unwrap_or(Setting::Off)
    }
}

/// What is known of a kernel image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KernelFacts {
    /// Its release, as `uname -r` shows it in the guest.
    pub release: String,
    /// How it is packed.
    pub format: KernelFormat,
    /// Bytes of guest memory, counted from address 0, that it needs before it can begin, without
    /// any initramfs.
    pub needs_bytes: u64,
    /// Its configuration; absent where it is neither in the image nor beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<KernelConfig>,
}

impl KernelFacts {
    /// How the kernel was built in regard of `option`; `None` where nobody knows.
    pub fn setting(&self, option: KernelOption) -> Option<Setting> {
        self.config.as_ref().map(|config| config.get(option))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_a_configuration_does_not_name_is_off() {
        let config = KernelConfig {
            source: ConfigSource::Image,
            options: [(KernelOption::Pci, Setting::BuiltIn)].into(),
        };
        assert_eq!(config.get(KernelOption::Pci), Setting::BuiltIn);
        assert_eq!(config.get(KernelOption::VirtioBlk), Setting::Off);
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(json["options"]["PCI"], "built_in");
        assert_eq!(serde_json::from_value::<KernelConfig>(json).unwrap(), config);
    }
}
