//! What VMs take of their host beyond their size, on the command line.

use aetherium_model::tuning::{ByteRate, HugePages, IoLimits, OpRate, Tuning};
use clap::Args as ClapArgs;

/// What VMs take beyond their size; the template's, or the driver's own, where absent.
#[derive(Debug, Clone, Copy, Default, ClapArgs)]
pub(crate) struct TuningArgs {
    /// Memory that the guest goes without until it is given back, in MiB.
    #[arg(long, value_name = "MIB")]
    pub(crate) balloon_mib: Option<u32>,
    /// What pages of the host its memory is made of: `none`, `2m` or `transparent`.
    #[arg(long, value_name = "PAGES")]
    pub(crate) huge_pages: Option<HugePages>,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

impl TuningArgs {
    /// As the model has it.
    pub(crate) fn tuning(&self) -> Tuning {
        let Self { balloon_mib, huge_pages, limits } = *self;
        Tuning { balloon_mib, huge_pages, limits: limits.limits() }
    }
}

/// What I/O is held to; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, ClapArgs)]
pub(crate) struct LimitArgs {
    /// Bytes that each disk reads and writes in a second, such as `20M`; 0 for no limit.
    #[arg(long, value_name = "BYTES")]
    disk_bandwidth: Option<ByteRate>,
    /// Requests that each disk does in a second; 0 for no limit.
    #[arg(long, value_name = "REQUESTS")]
    disk_ops: Option<OpRate>,
    /// Bytes that the guest receives over its network in a second; 0 for no limit.
    #[arg(long, value_name = "BYTES")]
    net_rx_bandwidth: Option<ByteRate>,
    /// Bytes that it sends over its network in a second; 0 for no limit.
    #[arg(long, value_name = "BYTES")]
    net_tx_bandwidth: Option<ByteRate>,
}

impl LimitArgs {
    /// As the model has it.
    pub(crate) const fn limits(&self) -> IoLimits {
        IoLimits {
            disk_bytes_per_s: self.disk_bandwidth,
            disk_ops_per_s: self.disk_ops,
            net_rx_bytes_per_s: self.net_rx_bandwidth,
            net_tx_bytes_per_s: self.net_tx_bandwidth,
        }
    }
}
