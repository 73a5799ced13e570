//! The steps of a plan that give the guest its devices.

use super::{
    AgentTransport, ApiCall, Balloon, CacheType, Drive, Entropy, FileUse, GuestDevice,
    NetworkInterface, PlanError, RateLimits, Start, Topic, Vsock, draft::Draft, guest::Has,
};
use aetherium_agent_proto::AGENT_PORT;
use aetherium_model::kernel::KernelOption;
use std::net::SocketAddr;

/// The longest name of a network interface: `IFNAMSIZ` of Linux, less the NUL.
const MAX_TAP_BYTES: usize = 15;
/// The most disks: they are named by one letter.
const MAX_DISKS: usize = 26;
/// What a guest keeps of its memory at the least, whatever its balloon takes.
const MIN_BESIDE_BALLOON_MIB: u32 = 16;
/// The smallest context id that is not the host's or reserved; see vsock(7).
const MIN_GUEST_CID: u32 = 3;
/// The id of the one network interface, and its name in the guest.
const INTERFACE: &str = "eth0";

impl Draft<'_> {
    /// The disks, the root first.
    pub(super) fn disks(&mut self) -> Result<(), PlanError> {
        let disks = &self.request.disks;
        if disks.is_empty() {
            return Ok(());
        }
        if disks.len() > MAX_DISKS {
            return Err(PlanError::BadValue {
                what: "list of disks",
                value: format!("{} disks", disks.len()),
                why: "it has at most 26",
            });
        }
        self.require(KernelOption::VirtioBlk, "to see its disks")?;
        let by_kernel = matches!(self.template.start, Start::Disk { .. });
        if !by_kernel {
            self.require(KernelOption::Ext4, "to mount its root")?;
            if disks.len() > 1 {
                self.require(KernelOption::Overlay, "to lay a writable disk over its root")?;
            }
        }
        for (letter, disk) in ('a'..='z').zip(disks) {
            check_id(&disk.id)?;
            let usage = if disk.read_only { FileUse::Read } else { FileUse::Write };
            let path_on_host = self.share(&disk.path, &format!("disk_{}", disk.id), usage);
            let guest_name = format!("/dev/vd{letter}");
            self.device(&disk.id, guest_name, disk.purpose);
            self.plan.calls.push(ApiCall::Drive(Drive {
                drive_id: disk.id.clone(),
                path_on_host,
                // Where the kernel mounts no root, it is told of none: a guest whose initramfs is
                // damaged shall fail and not start the image's own init.
                is_root_device: by_kernel && letter == 'a',
                is_read_only: disk.read_only,
                cache_type: if disk.read_only { CacheType::Unsafe } else { CacheType::Writeback },
                rate_limiter: self.request.limits.disk,
            }));
        }
        let names: Vec<String> =
            ('a'..='z').zip(disks).map(|(it, disk)| format!("vd{it} {}", disk.id)).collect();
        let why = "virtio disks are vdX under PCI and MMIO alike, in the order of the calls; what a \
                   guest flushes reaches the host's disk";
        self.because(Topic::Disks, names.join(", "), why);
        Ok(())
    }

    /// The network interface, and the agent over TCP.
    pub(super) fn network(&mut self) -> Result<(), PlanError> {
        let Some(network) = &self.request.network else {
            self.because(Topic::Network, "none", "not asked for");
            return Ok(());
        };
        check_tap(&network.tap)?;
        self.require(KernelOption::VirtioNet, "for its network interface")?;
        self.device(INTERFACE, INTERFACE.to_owned(), "network interface");
        self.plan.calls.push(ApiCall::NetworkInterface(NetworkInterface {
            iface_id: INTERFACE.to_owned(),
            host_dev_name: network.tap.clone(),
            guest_mac: network.guest.mac.to_string(),
            rx_rate_limiter: self.request.limits.net_rx,
            tx_rate_limiter: self.request.limits.net_tx,
        }));
        self.plan.agent.push(AgentTransport::Tcp {
            netns: network.netns.clone(),
            address: SocketAddr::from((network.guest.address, AGENT_PORT)),
        });
        let (tap, netns, address) = (&network.tap, &network.netns, network.guest.address);
        let chosen = format!("{tap} of {netns} as {INTERFACE}, {address}");
        let why = "every guest sees the same network, so that a snapshot fits any slot";
        self.because(Topic::Network, chosen, why);
        Ok(())
    }

    /// The virtio socket, which goes before TCP where there are both.
    pub(super) fn vsock(&mut self) -> Result<(), PlanError> {
        let Some(vsock) = self.request.vsock else {
            self.because(Topic::Vsock, "none", "not asked for");
            return Ok(());
        };
        if vsock.guest_cid < MIN_GUEST_CID || vsock.guest_cid == u32::MAX {
            return Err(PlanError::BadValue {
                what: "context id of a guest",
                value: vsock.guest_cid.to_string(),
                why: "it is 3 to 4294967294",
            });
        }
        let why = match self.guest.has(KernelOption::VirtioVsock) {
            Has::Yes => "the agent is reached without the guest's network",
            Has::Unknown => "whether the kernel has its driver is not known",
            Has::No if self.plan.agent.is_empty() => {
                return self.require(
                    KernelOption::VirtioVsock,
                    "to be reached at all, as there is no network",
                );
            }
            Has::No => {
                let why = "the kernel has no driver for it: the agent is reached over TCP alone";
                self.because(Topic::Vsock, "none", why);
                return Ok(());
            }
        };
        let (uds, uds_path) = self.own("vsock", FileUse::Create);
        self.device("vsock", "/dev/vsock".to_owned(), "virtio socket");
        let guest_cid = vsock.guest_cid;
        self.plan.calls.push(ApiCall::Vsock(Vsock { guest_cid, uds_path }));
        self.because(Topic::Vsock, uds.display().to_string(), why);
        let port = u32::from(AGENT_PORT);
        self.plan.agent.insert(0, AgentTransport::Vsock { uds, port });
        Ok(())
    }

    /// Entropy from the host.
    pub(super) fn entropy(&mut self) {
        let (chosen, why) = if !self.request.entropy {
            ("none", "not asked for")
        } else if self.guest.has(KernelOption::VirtioRng) == Has::No {
            ("none", "the kernel has no driver for it")
        } else {
            self.device("entropy", "/dev/hwrng".to_owned(), "entropy");
            let rate_limiter = self.request.limits.entropy;
            self.plan.calls.push(ApiCall::Entropy(Entropy { rate_limiter }));
            ("virtio-rng", "a guest that has just booted has little of its own")
        };
        self.because(Topic::Entropy, chosen, why);
    }

    /// The balloon.
    pub(super) fn balloon(&mut self) -> Result<(), PlanError> {
        let Some(balloon) = self.request.balloon else {
            self.because(Topic::Balloon, "none", "not asked for");
            return Ok(());
        };
        let (balloon_mib, memory_mib) =
            (balloon.amount_mib, self.request.resources.memory_mib.get());
        if balloon_mib.saturating_add(MIN_BESIDE_BALLOON_MIB) > memory_mib {
            return Err(PlanError::BalloonTooLarge { balloon_mib, memory_mib });
        }
        if balloon_mib == 0 && self.guest.has(KernelOption::VirtioBalloon) == Has::No {
            let why = "the kernel has no driver for it: memory that it frees stays with the guest";
            self.because(Topic::Balloon, "none", why);
            return Ok(());
        }
        self.require(KernelOption::VirtioBalloon, "for its balloon")?;
        self.device("balloon", "virtio_balloon".to_owned(), "memory balloon");
        self.plan.calls.push(ApiCall::Balloon(Balloon {
            amount_mib: balloon_mib,
            deflate_on_oom: balloon.deflate_on_oom,
            stats_polling_interval_s: balloon.stats_interval_s,
        }));
        let why = "memory that the guest does not use can be had back";
        self.because(Topic::Balloon, format!("{balloon_mib} MiB"), why);
        Ok(())
    }

    /// What the guest's I/O is held to.
    pub(super) fn limits(&mut self) {
        let RateLimits { disk, net_rx, net_tx, entropy } = self.request.limits;
        let limited: Vec<String> = [
            (disk, "each disk"),
            (net_rx, "network received"),
            (net_tx, "network sent"),
            (entropy, "entropy"),
        ]
        .into_iter()
        .filter_map(|(limit, name)| limit.map(|limit| format!("{name} {limit}")))
        .collect();
        if limited.is_empty() {
            self.because(Topic::RateLimits, "none", "not asked for");
        } else {
            let why = "Firecracker holds the guest to them by token buckets";
            self.because(Topic::RateLimits, limited.join(", "), why);
        }
    }

    fn device(&mut self, id: &str, guest_name: String, purpose: &'static str) {
        self.plan.devices.push(GuestDevice { id: id.to_owned(), guest_name, purpose });
    }
}

/// Ids of Firecracker's API: letters, digits and `_`.
fn check_id(id: &str) -> Result<(), PlanError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if id.is_empty() || !id.bytes().all(plain) {
        let why = "it has letters, digits and _";
        return Err(PlanError::BadValue { what: "id of a disk", value: id.to_owned(), why });
    }
    Ok(())
}

fn check_tap(tap: &str) -> Result<(), PlanError> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    if tap.is_empty() || tap.len() > MAX_TAP_BYTES || !tap.bytes().all(plain) {
        let why = "it has 1 to 15 printable characters, none of them / or :";
        let what = "name of a TAP device";
        return Err(PlanError::BadValue { what, value: tap.to_owned(), why });
    }
    Ok(())
}
