//! The grammar of `aetherium host`.

use super::parse::{duration, file};
use aetherium_model::TemplateRef;
use clap::{Args as ClapArgs, Subcommand};
use std::{path::PathBuf, time::Duration};

/// Verbs on the host.
#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Get a host ready for VMs, as a Kubernetes init container does: check KVM, kernel and root
    /// filesystem, install or upgrade the agent. Can be run any number of times, also at once.
    #[command(after_help = "\
The root filesystem is never written to: all is done on a copy beside it, which is checked before and
after and takes its place by one rename; the image before is kept as FILE.previous.
Exit codes: 0 ready; 1 a check failed; 2 wrong arguments; 3 the root filesystem is damaged or in use;
75 another run holds the root filesystem: try again.

Examples:
  aetherium host prepare --template default --import default.tar
  aetherium host prepare --kernel vmlinux --rootfs rootfs.ext4
  aetherium host prepare --kernel vmlinux --rootfs rootfs.ext4 --install-agent --json")]
    Prepare(Box<PrepareArgs>),
}

/// Arguments of `host prepare`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct PrepareArgs {
    /// Take kernel and root filesystem from this template of the data directory, whose initramfs has
    /// the agent.
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) template: Option<TemplateRef>,
    /// Take the template in from this file first, which `template export` wrote, and let the name point
    /// to it. VMs that run go on with the one they have.
    #[arg(long, value_name = "FILE", requires = "template")]
    pub(crate) import: Option<PathBuf>,
    /// The kernel of the VMs: a file (ELF or bzImage), or the name of an imported one.
    #[arg(
        long,
        value_name = "FILE|NAME",
        required_unless_present = "template",
        conflicts_with = "template"
    )]
    pub(crate) kernel: Option<PathBuf>,
    /// The kernel's configuration, where it is neither inside the image nor beside it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The root filesystem of the VMs: an ext4 image.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "template",
        conflicts_with = "template"
    )]
    pub(crate) rootfs: Option<PathBuf>,
    /// Install the agent in the root filesystem with its systemd unit, or upgrade it there.
    #[arg(long, conflicts_with = "template")]
    pub(crate) install_agent: bool,
    /// The guest agent's static binary; else fc-agent beside this program.
    #[arg(long, env = "AETHERIUM_AGENT", value_name = "FILE", value_parser = file)]
    pub(crate) agent: Option<PathBuf>,
    /// Firecracker's program, with which a guest is tried; else firecracker from PATH.
    #[arg(long, env = "AETHERIUM_FIRECRACKER", value_name = "FILE")]
    pub(crate) firecracker: Option<PathBuf>,
    /// Only warn where KVM is missing or runs no guest: VMs will be emulated.
    #[arg(long)]
    pub(crate) allow_no_kvm: bool,
    /// Do not start a guest to see whether KVM runs it.
    #[arg(long)]
    pub(crate) no_probe: bool,
    /// How long another run on the same root filesystem is waited for.
    #[arg(long, default_value = "2m", value_parser = duration, value_name = "TIME")]
    pub(crate) wait: Duration,
}
