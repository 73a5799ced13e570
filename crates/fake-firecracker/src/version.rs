//! The version that the fake claims, and what depends on it.

use serde::Deserialize;
use std::{fmt, str::FromStr};

/// A Firecracker release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// The oldest that is imitated.
    pub(crate) const OLDEST: Self = Self::new(1, 7, 0);
    /// `--enable-pci`, and diff snapshots without dirty page tracking.
    pub(crate) const V1_13: Self = Self::new(1, 13, 0);
    /// Network overrides.
    pub(crate) const V1_12: Self = Self::new(1, 12, 0);
    /// `/serial`, `/pmem`, `/hotplug/memory`, balloon hinting; log and metrics files are created.
    pub(crate) const V1_14: Self = Self::new(1, 14, 0);
    /// Vsock overrides, `clock_realtime`, hot-plugged devices, MTU.
    pub(crate) const V1_16: Self = Self::new(1, 16, 0);
    /// What is on the main branch after 1.16.1: bzImage kernels, transparent huge pages.
    pub(crate) const NEXT: Self = Self::new(1, 17, 0);
    /// What is claimed when nothing else is asked for.
    pub(crate) const DEFAULT: Self = Self::new(1, 16, 1);

    const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// The version of its snapshots. 1.16.1 says 10.0.0 and the sources after it 11.0.0; the others
    /// are counted from there, as every minor release has had another.
    pub(crate) fn snapshot_format(self) -> String {
        format!("{}.0.0", self.minor - 6)
    }

    /// Whether the connections of a vsock that a snapshot restored never come about: 1.16.0.
    pub(crate) fn loses_restored_vsock(self) -> bool {
        self == Self::V1_16
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<u32>> = text.split('.').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some([major, minor, patch]) if *major == 1 && *minor >= Self::OLDEST.minor => {
                Ok(Self::new(*major, *minor, *patch))
            }
            _ => Err(format!("{text:?} is no version to imitate: give {} or later", Self::OLDEST)),
        }
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number_and_not_by_letter() {
        let parse = |text: &str| text.parse::<Version>().unwrap();
        assert!(parse("1.9.1") < parse("1.12.0") && parse("1.16.0") < parse("1.16.1"));
        assert_eq!(parse("1.16.1"), Version::DEFAULT);
        for text in ["", "1.6.0", "2.0.0", "1.16", "v1.16.1", "1.x.0"] {
            assert!(text.parse::<Version>().is_err(), "{text:?}");
        }
    }
}
