//! Room for VMs: how much a worker has, how much of it may be promised, and how much a VM takes.

use crate::resources::{DiskMib, Resources};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// An amount of what VMs take of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Room {
    /// Processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Disk in MiB.
    pub disk_mib: u64,
    /// VMs.
    pub vms: u32,
}

impl Room {
    /// What a VM takes that has a disk of its own.
    pub const fn of_vm(size: Resources) -> Self {
        Self { disk_mib: size.disk_mib.get() as u64, ..Self::of_workspace_vm(size) }
    }

    /// What a workspace's VM takes: the disk is its workspace's.
    pub const fn of_workspace_vm(size: Resources) -> Self {
        let (vcpus, memory_mib) = (size.vcpus.get(), size.memory_mib.get() as u64);
        Self { vcpus, memory_mib, disk_mib: 0, vms: 1 }
    }

    /// What a workspace takes, with a VM or without.
    pub const fn of_workspace(disk: DiskMib) -> Self {
        Self { vcpus: 0, memory_mib: 0, disk_mib: disk.get() as u64, vms: 0 }
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, more: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(more.vcpus),
            memory_mib: self.memory_mib.saturating_add(more.memory_mib),
            disk_mib: self.disk_mib.saturating_add(more.disk_mib),
            vms: self.vms.saturating_add(more.vms),
        }
    }

    /// What is left without `taken`; nothing of what there is too little of.
    #[must_use]
    pub const fn less(self, taken: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(taken.vcpus),
            memory_mib: self.memory_mib.saturating_sub(taken.memory_mib),
            disk_mib: self.disk_mib.saturating_sub(taken.disk_mib),
            vms: self.vms.saturating_sub(taken.vms),
        }
    }

    /// Whether `wanted` fits into it.
    pub const fn holds(self, wanted: Self) -> bool {
        wanted.vcpus <= self.vcpus
            && wanted.memory_mib <= self.memory_mib
            && wanted.disk_mib <= self.disk_mib
            && wanted.vms <= self.vms
    }

    /// How full `whole` is with this in it: the part taken of what is scarcest, 0 to 1 and more.
    #[expect(clippy::cast_precision_loss, reason = "a part of a machine, for comparing")]
    pub fn fullness_of(self, whole: Self) -> f64 {
        let part = |taken: u64, of: u64| match (taken, of) {
            (0, _) => 0.0,
            (_, 0) => f64::INFINITY,
            (taken, of) => taken as f64 / of as f64,
        };
        [
            part(self.vcpus.into(), whole.vcpus.into()),
            part(self.memory_mib, whole.memory_mib),
            part(self.disk_mib, whole.disk_mib),
            part(self.vms.into(), whole.vms.into()),
        ]
        .into_iter()
        .fold(0.0, f64::max)
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vcpus, memory_mib, disk_mib, vms } = self;
        write!(f, "{vms} VMs, {vcpus} vCPUs, {memory_mib} MiB of memory, {disk_mib} MiB of disk")
    }
}

/// How much of a resource may be promised for each part there is: 0.1 to 100, in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio(u32);

impl Ratio {
    const MIN: u32 = 10;
    const MAX: u32 = 10_000;
    /// Just what there is.
    pub const ONE: Self = Self(100);
    /// As much as may ever be promised.
    pub const MOST: Self = Self(Self::MAX);

    fn of(self, amount: u64) -> u64 {
        amount.saturating_mul(self.0.into()) / 100
    }
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse =
            || format!("{text:?} is not a ratio: give 0.1 to 100, with two decimals at most");
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        if decimals.is_empty() || decimals.len() > 2 {
            return Err(refuse());
        }
        let digits = |text: &str| {
            let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            all.then(|| text.parse::<u32>().ok()).flatten().ok_or_else(refuse)
        };
        let decimals = digits(decimals)? * if decimals.len() == 1 { 10 } else { 1 };
        let hundredths = digits(whole)?.checked_mul(100).and_then(|it| it.checked_add(decimals));
        hundredths.filter(|it| (Self::MIN..=Self::MAX).contains(it)).map(Self).ok_or_else(refuse)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// How much more is promised of a machine than it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overcommit {
    /// vCPUs for each processor.
    pub cpu: Ratio,
    /// Guests' memory for each MiB.
    pub memory: Ratio,
    /// Guests' disks, which are sparse, for each MiB.
    pub disk: Ratio,
}

impl Overcommit {
    /// For a machine whose owner sees to it that what he starts fits.
    pub const OWNERS_CHOICE: Self =
        Self { cpu: Ratio::MOST, memory: Ratio::MOST, disk: Ratio::MOST };

    /// What may be promised of a machine that has `capacity`.
    pub fn of(&self, capacity: Room) -> Room {
        Room {
            vcpus: u32::try_from(self.cpu.of(capacity.vcpus.into())).unwrap_or(u32::MAX),
            memory_mib: self.memory.of(capacity.memory_mib),
            disk_mib: self.disk.of(capacity.disk_mib),
            vms: capacity.vms,
        }
    }
}

impl Default for Overcommit {
    fn default() -> Self {
        Self { cpu: Ratio(400), memory: Ratio::ONE, disk: Ratio(200) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_reads_as_people_write_it_and_refuses_the_rest() {
        for (text, shown) in [("4", "4.00"), ("1.5", "1.50"), ("0.1", "0.10"), ("2.25", "2.25")] {
            assert_eq!(text.parse::<Ratio>().unwrap().to_string(), shown);
        }
        for bad in ["", "0", "0.05", "101", "-1", "1.", ".5", "1.234", "1e3", "+2", "x"] {
            assert!(bad.parse::<Ratio>().unwrap_err().contains("0.1 to 100"), "{bad:?}");
        }
    }

    #[test]
    fn what_may_be_promised_is_what_there_is_times_its_ratio() {
        let capacity = Room { vcpus: 2, memory_mib: 1000, disk_mib: 500, vms: 7 };
        let promised = Overcommit::default().of(capacity);
        assert_eq!(promised, Room { vcpus: 8, memory_mib: 1000, disk_mib: 1000, vms: 7 });
    }

    #[test]
    fn a_machine_is_as_full_as_what_is_scarcest_on_it() {
        let whole = Room { vcpus: 10, memory_mib: 100, disk_mib: 0, vms: 10 };
        let taken = Room { vcpus: 1, memory_mib: 50, disk_mib: 0, vms: 2 };
        assert!((taken.fullness_of(whole) - 0.5).abs() < 1e-9);
        assert!(Room { disk_mib: 1, ..taken }.fullness_of(whole).is_infinite());
    }
}
