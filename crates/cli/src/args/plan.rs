//! Arguments of `vm plan`.

use super::{DriverArgs, VmArgs};
use aetherium_vmm::firecracker::plan::FirecrackerVersion;
use clap::Args as ClapArgs;

/// What to plan, and for which Firecracker.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct PlanArgs {
    /// Plan for this version of Firecracker, such as `1.12.0`, instead of the one that is installed.
    #[arg(long, value_name = "VERSION")]
    pub(crate) firecracker_version: Option<FirecrackerVersion>,
    #[command(flatten)]
    pub(crate) vm: VmArgs,
    #[command(flatten)]
    pub(crate) driver: DriverArgs,
}
