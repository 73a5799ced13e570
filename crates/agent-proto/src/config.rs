//! What the host tells a guest at boot: the JSON file an init finds in its initramfs.
//!
//! Unknown fields are ignored, so that an older init boots under a newer host.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Token;

/// Where the init finds its [`GuestConfig`] in the initramfs.
pub const GUEST_CONFIG_PATH: &str = "/aetherium/guest.json";
/// The label of the ext4 disk on which an agent that the image's own init starts finds its
/// [`GuestConfig`].
pub const CONFIG_DISK_LABEL: &str = "aetherium-config";
/// The file on that disk, in its top directory.
pub const CONFIG_DISK_FILE: &str = "guest.json";
/// The directory of kernel modules in the initramfs, uncompressed.
pub const MODULES_DIR: &str = "/aetherium/modules";
/// The file that names the modules to load, one per line, in load order.
pub const MODULES_ORDER_PATH: &str = "/aetherium/modules.order";

/// A guest's boot configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// What to do with the boot.
    #[serde(default)]
    pub mode: Mode,
    /// The secret a caller over TCP must prove; without it the agent does not listen on TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// The guest's host name; the kernel's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The root file system. Required in [`Mode::Run`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Disk>,
    /// A writable disk laid over the root; the root alone if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Disk>,
    /// What may be done to a root without an overlay. One under an overlay is never written to.
    #[serde(default, skip_serializing_if = "RootAccess::is_read")]
    pub root_access: RootAccess,
    /// The address of `eth0`; only the loopback comes up if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<GuestNet>,
    /// What the agent listens on.
    #[serde(default)]
    pub transports: Transports,
    /// How long to look for the disks, in milliseconds.
    #[serde(default = "default_root_deadline_ms")]
    pub root_deadline_ms: u64,
    /// How the guest ends.
    #[serde(default)]
    pub ends_by: EndsBy,
    /// Who is the first process once the root is `/`.
    #[serde(default, skip_serializing_if = "FirstProcess::is_agent")]
    pub first_process: FirstProcess,
    /// What a boot that cannot go on comes to.
    #[serde(default, skip_serializing_if = "OnFatal::is_end")]
    pub on_fatal: OnFatal,
}

const fn default_root_deadline_ms() -> u64 {
    5_000
}

impl Default for GuestConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Run,
            token: None,
            hostname: None,
            root: None,
            overlay: None,
            root_access: RootAccess::Read,
            net: None,
            transports: Transports::default(),
            root_deadline_ms: default_root_deadline_ms(),
            ends_by: EndsBy::PowerOff,
            first_process: FirstProcess::Agent,
            on_fatal: OnFatal::End,
        }
    }
}

/// What a boot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Find the root, switch to it and serve.
    #[default]
    Run,
    /// Say that the guest runs, and power off.
    Probe,
}

/// Who is the guest's first process once the root is `/`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstProcess {
    /// The agent stays it.
    #[default]
    Agent,
    /// The image's own init becomes it, such as systemd. The agent serves on beside it.
    Image {
        /// The program in the root file system, as in `/sbin/init`.
        program: String,
    },
}

impl FirstProcess {
    fn is_agent(&self) -> bool {
        *self == Self::Agent
    }
}

/// What a guest may do to the file system of its root disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootAccess {
    /// Read it.
    #[default]
    Read,
    /// Change it: the disk is this guest's own, and what it leaves there is wanted.
    Write,
}

impl RootAccess {
    fn is_read(&self) -> bool {
        *self == Self::Read
    }
}

/// What a boot that cannot go on comes to, once it has said why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFatal {
    /// The guest ends, as [`GuestConfig::ends_by`] says.
    #[default]
    End,
    /// It stays as it is, for somebody to look at from outside.
    Hold,
}

impl OnFatal {
    fn is_end(&self) -> bool {
        *self == Self::End
    }
}

/// How a guest tells its VMM that it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndsBy {
    /// Power off, for a machine that has a switch: QEMU with ACPI.
    #[default]
    PowerOff,
    /// Restart, for a VMM that ends at a reset and emulates no power switch: Firecracker. The same
    /// holds for QEMU with `-no-reboot`.
    Restart,
}

/// A disk, named by what it carries and never by where it is plugged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// How to know it.
    pub by: DiskSelector,
    /// Its file system; `ext4` if absent. Others can only be found by serial.
    #[serde(default = "default_fstype")]
    pub fstype: String,
}

fn default_fstype() -> String {
    "ext4".to_owned()
}

impl Disk {
    /// An ext4 disk.
    #[must_use]
    pub fn ext4(by: DiskSelector) -> Self {
        Self { by, fstype: default_fstype() }
    }
}

/// A mark that tells one disk from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskSelector {
    /// The file system's UUID, hyphenated; case does not matter.
    Uuid(String),
    /// The file system's label.
    Label(String),
    /// The virtio-blk serial: at most 20 bytes.
    Serial(String),
}

impl fmt::Display for DiskSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(it) => write!(f, "uuid={it}"),
            Self::Label(it) => write!(f, "label={it}"),
            Self::Serial(it) => write!(f, "serial={it}"),
        }
    }
}

/// The static address of `eth0`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNet {
    /// Address and prefix length, as in `172.16.0.2/24`.
    pub address_cidr: Ipv4Cidr,
    /// The default route; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// Name servers for `/etc/resolv.conf`, which is left alone if there are none.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// Routes beside the default one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
}

/// A way to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The network; bits of the address past its prefix do not count.
    pub to_cidr: Ipv4Cidr,
    /// The neighbour that leads to it.
    pub via: Ipv4Addr,
}

/// What the agent listens on in a guest. Both by default; vsock is skipped where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Transports {
    /// Listen on vsock where the guest has it.
    pub vsock: bool,
    /// Listen on TCP, given a token.
    pub tcp: bool,
}

impl Default for Transports {
    fn default() -> Self {
        Self { vsock: true, tcp: true }
    }
}

/// An IPv4 address with the length of its network prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Cidr {
    address: Ipv4Addr,
    prefix: u8,
}

/// A text that is no IPv4 address with a prefix length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an IPv4 address with a prefix length; write it as in 172.16.0.2/24")]
pub struct InvalidCidr(String);

impl Ipv4Cidr {
    /// Joins an address and a prefix length of at most 32.
    ///
    /// # Errors
    /// [`InvalidCidr`] when the prefix is longer than 32 bits.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Result<Self, InvalidCidr> {
        if prefix > 32 {
            return Err(InvalidCidr(format!("{address}/{prefix}")));
        }
        Ok(Self { address, prefix })
    }

    /// The address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The prefix length, 0 to 32.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The network mask, as in 255.255.255.0.
    #[must_use]
    pub fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0))
    }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Ipv4Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let invalid = || InvalidCidr(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address = address.parse().map_err(|_| invalid())?;
        Self::new(address, prefix.parse().map_err(|_| invalid())?).map_err(|_| invalid())
    }
}

impl TryFrom<String> for Ipv4Cidr {
    type Error = InvalidCidr;

    fn try_from(text: String) -> Result<Self, InvalidCidr> {
        text.parse()
    }
}

impl From<Ipv4Cidr> for String {
    fn from(cidr: Ipv4Cidr) -> Self {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_hosts_extra_fields_are_ignored() {
        let config: GuestConfig =
            serde_json::from_str(r#"{"mode":"probe","from_the_future":{"x":1}}"#).unwrap();
        assert_eq!(config, GuestConfig { mode: Mode::Probe, ..GuestConfig::default() });
    }

    #[test]
    fn the_token_stays_out_of_debug_output() {
        let config = GuestConfig {
            token: Some(Token::new("a-very-secret-token").unwrap()),
            ..GuestConfig::default()
        };
        assert!(!format!("{config:?}").contains("very-secret"));
    }

    #[test]
    fn a_cidr_knows_its_mask_at_both_ends() {
        let mask = |text: &str| text.parse::<Ipv4Cidr>().unwrap().netmask().to_string();
        assert_eq!(mask("172.16.0.2/24"), "255.255.255.0");
        assert_eq!(mask("10.0.0.1/32"), "255.255.255.255");
        assert_eq!(mask("10.0.0.1/0"), "0.0.0.0");
    }

    #[test]
    fn what_is_no_cidr_is_refused_with_its_text() {
        for text in ["172.16.0.2", "172.16.0.2/33", "x/8", ""] {
            let error = text.parse::<Ipv4Cidr>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }
}
