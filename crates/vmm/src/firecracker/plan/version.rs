//! Firecracker versions: which there is, what it can do, and what is wrong with it.
//!
//! The versions are those of Firecracker's CHANGELOG.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A Firecracker version, ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FirecrackerVersion {
    major: u32,
    minor: u32,
    patch: u32,
    /// `false` sorts a build of the development branch before the release it leads to.
    released: bool,
}

impl FirecrackerVersion {
    /// The oldest version that this driver speaks to.
    pub const OLDEST: Self = Self::release(1, 7, 0);
    /// The oldest version without a known defect that matters here.
    pub const RECOMMENDED: Self = Self::release(1, 16, 1);

    /// A released version.
    pub const fn release(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch, released: true }
    }

    /// Whether this version has `feature`. A development build counts as the release it leads to.
    pub fn supports(self, feature: Feature) -> bool {
        Self { released: true, ..self } >= feature.since()
    }

    /// The known defects of this version.
    pub fn known_bad(self) -> impl Iterator<Item = KnownBad> {
        KnownBad::ALL.iter().copied().filter(move |bad| bad.affects(self))
    }
}

impl fmt::Display for FirecrackerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = if self.released { "" } else { "-dev" };
        write!(f, "{}.{}.{}{suffix}", self.major, self.minor, self.patch)
    }
}

/// A text that names no Firecracker version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no Firecracker version; write it as in 1.16.1")]
pub struct InvalidVersion(String);

impl FromStr for FirecrackerVersion {
    type Err = InvalidVersion;

    /// Reads `1.16.1`, `v1.17.0-dev`, or the whole output of `firecracker --version`, whose first
    /// line is `Firecracker v1.16.1`.
    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let invalid = || InvalidVersion(text.chars().take(80).collect());
        let line = text.trim_start().lines().next().unwrap_or_default().trim_end();
        let line = line.strip_prefix("Firecracker ").unwrap_or(line);
        let number = line.strip_prefix('v').unwrap_or(line);
        let (number, suffix) = number.split_once('-').unwrap_or((number, ""));
        let mut parts = number.split('.').map(|part| part.parse::<u32>());
        let mut next = || parts.next().and_then(Result::ok).ok_or_else(invalid);
        let (major, minor, patch) = (next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(invalid());
        }
        Ok(Self { major, minor, patch, released: !suffix.starts_with("dev") })
    }
}

impl Serialize for FirecrackerVersion {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FirecrackerVersion {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What not every version can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Guest memory in huge pages of 2 MiB.
    HugePages,
    /// ACPI tables for the guest.
    Acpi,
    /// The identifier that tells a guest it was restored.
    VmGenId,
    /// Entry by PVH.
    Pvh,
    /// Other TAPs at a restore: `network_overrides`.
    NetworkOverrides,
    /// virtio over PCI: `--enable-pci`.
    Pci,
    /// Log and metrics files are made where missing.
    MakesLogFiles,
    /// Memory that can be added and taken: `/hotplug/memory`.
    MemoryHotplug,
    /// Free page hinting and reporting of the balloon.
    FreePageReporting,
    /// Another vsock socket at a restore: `vsock_override`.
    VsockOverride,
    /// The guest's clock set at a restore: `clock_realtime`.
    ClockRealtime,
    /// Kernels as bzImage.
    BzImage,
    /// Transparent huge pages.
    TransparentHugePages,
    /// The VM's id in its metrics.
    MetricsId,
}

impl Feature {
    /// The version it came with.
    pub const fn since(self) -> FirecrackerVersion {
        let (minor, patch) = match self {
            Self::HugePages => (7, 0),
            Self::Acpi | Self::VmGenId => (8, 0),
            Self::Pvh | Self::NetworkOverrides => (12, 0),
            Self::Pci => (13, 0),
            Self::MakesLogFiles | Self::MemoryHotplug | Self::FreePageReporting => (14, 0),
            Self::VsockOverride | Self::ClockRealtime => (16, 0),
            Self::BzImage | Self::TransparentHugePages | Self::MetricsId => (17, 0),
        };
        FirecrackerVersion::release(1, minor, patch)
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HugePages => "huge pages",
            Self::Acpi => "ACPI",
            Self::VmGenId => "VM generation identifier",
            Self::Pvh => "entry by PVH",
            Self::NetworkOverrides => "network overrides at a restore",
            Self::Pci => "virtio over PCI",
            Self::MakesLogFiles => "making of log files",
            Self::MemoryHotplug => "memory hotplug",
            Self::FreePageReporting => "free page reporting",
            Self::VsockOverride => "vsock override at a restore",
            Self::ClockRealtime => "setting of the clock at a restore",
            Self::BzImage => "support of bzImage kernels",
            Self::TransparentHugePages => "transparent huge pages",
            Self::MetricsId => "id in its metrics",
        })
    }
}

/// A defect of some versions that a user can meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KnownBad {
    /// vsock connections break after a restore.
    RestoredVsock,
    /// Diff snapshots of guests with more than 3 GiB corrupt their memory.
    LargeDiffSnapshots,
    /// vsock can hang after a bare pause and resume.
    PausedVsock,
    /// The console can fall silent after a restore.
    RestoredConsole,
}

impl KnownBad {
    /// Every defect there is.
    pub const ALL: &'static [Self] =
        &[Self::RestoredVsock, Self::LargeDiffSnapshots, Self::PausedVsock, Self::RestoredConsole];

    /// The first version without it.
    pub const fn fixed_in(self) -> FirecrackerVersion {
        match self {
            Self::LargeDiffSnapshots => FirecrackerVersion::release(1, 15, 0),
            Self::RestoredConsole => FirecrackerVersion::release(1, 16, 0),
            Self::RestoredVsock => FirecrackerVersion::release(1, 16, 1),
            Self::PausedVsock => FirecrackerVersion::release(1, 17, 0),
        }
    }

    fn affects(self, version: FirecrackerVersion) -> bool {
        version < self.fixed_in()
    }

    /// What goes wrong, in a sentence.
    pub const fn what(self) -> &'static str {
        match self {
            Self::RestoredVsock => "connections from the guest over vsock time out after a restore",
            Self::LargeDiffSnapshots => {
                "diff snapshots of a guest with more than 3 GiB of memory corrupt its memory"
            }
            Self::PausedVsock => {
                "new connections over vsock can hang after a pause and resume without a snapshot"
            }
            Self::RestoredConsole => {
                "the console can fall silent when a snapshot was taken while it was printing"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_version_is_read_from_what_firecracker_prints() {
        let printed = "Firecracker v1.16.1\n\n2026-01-01T00:00:00 [anonymous-instance:main] \
                       Firecracker exiting successfully. exit_code=0\n";
        assert_eq!(printed.parse(), Ok(FirecrackerVersion::release(1, 16, 1)));
        assert_eq!("v1.7.0".parse(), Ok(FirecrackerVersion::release(1, 7, 0)));
        let after_a_tag: FirecrackerVersion = "Firecracker v1.13.1-28-g0123abc".parse().unwrap();
        assert_eq!(after_a_tag.to_string(), "1.13.1");
        for text in ["", "Firecracker", "1.16", "1.16.x", "1.2.3.4", "jailer v1"] {
            assert!(text.parse::<FirecrackerVersion>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_development_build_is_older_than_its_release_but_has_its_features() {
        let dev: FirecrackerVersion = "1.17.0-dev".parse().unwrap();
        assert!(FirecrackerVersion::release(1, 16, 1) < dev);
        assert!(dev < FirecrackerVersion::release(1, 17, 0));
        assert!(dev.supports(Feature::BzImage));
        assert_eq!(dev.to_string(), "1.17.0-dev");
    }

    #[test]
    fn features_come_with_their_version_and_stay() {
        let table = [
            (Feature::HugePages, "1.7.0"),
            (Feature::Acpi, "1.8.0"),
            (Feature::NetworkOverrides, "1.12.0"),
            (Feature::Pci, "1.13.0"),
            (Feature::VsockOverride, "1.16.0"),
            (Feature::BzImage, "1.17.0"),
        ];
        for (feature, since) in table {
            assert_eq!(feature.since().to_string(), since);
            assert!(feature.since().supports(feature));
            assert!(FirecrackerVersion::release(2, 0, 0).supports(feature));
        }
        assert!(!FirecrackerVersion::release(1, 12, 9).supports(Feature::Pci));
        assert!(!FirecrackerVersion::release(1, 16, 1).supports(Feature::BzImage));
    }

    #[test]
    fn known_defects_are_told_of_the_versions_that_have_them() {
        let of = |minor, patch| {
            FirecrackerVersion::release(1, minor, patch).known_bad().collect::<Vec<_>>()
        };
        assert!(of(14, 0).contains(&KnownBad::LargeDiffSnapshots));
        assert!(!of(15, 0).contains(&KnownBad::LargeDiffSnapshots));
        assert!(of(16, 0).contains(&KnownBad::RestoredVsock));
        assert_eq!(of(16, 1), [KnownBad::PausedVsock]);
        assert_eq!(of(17, 0), []);
    }

    proptest! {
        #[test]
        fn a_version_reads_back_from_its_text(major: u32, minor: u32, patch: u32, released: bool) {
            let version = FirecrackerVersion { major, minor, patch, released };
            prop_assert_eq!(version.to_string().parse(), Ok(version));
        }

        #[test]
        fn no_text_makes_the_reader_fail(text in "\\PC{0,40}") {
            let _ = text.parse::<FirecrackerVersion>();
        }
    }
}
