//! What a VM takes of its host beyond its size: how its memory is backed, how much of that it goes
//! without, and what its I/O is held to.

use crate::resources::MemoryMib;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What a guest keeps of its memory at the least, whatever its balloon takes, in MiB.
pub const MIN_BESIDE_BALLOON_MIB: u32 = 16;

/// What a creator can say of it; the template's, or the driver's own, where absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Tuning {
    /// Memory that the guest goes without until it is given back, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_048_560)]
    pub balloon_mib: Option<u32>,
    /// What pages of the host its memory is made of; ordinary ones where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub huge_pages: Option<HugePages>,
    /// What its I/O is held to.
    #[serde(default, skip_serializing_if = "IoLimits::is_empty")]
    pub limits: IoLimits,
}

impl Tuning {
    /// This, with what it leaves open taken from `defaults`.
    #[must_use]
    pub fn or(self, defaults: Self) -> Self {
        Self {
            balloon_mib: self.balloon_mib.or(defaults.balloon_mib),
            huge_pages: self.huge_pages.or(defaults.huge_pages),
            limits: self.limits.or(defaults.limits),
        }
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks that it fits a memory of this size.
    ///
    /// # Errors
    /// The field that does not, and why.
    pub fn check(&self, memory: MemoryMib) -> Result<(), Misfit> {
        let memory_mib = memory.get();
        if let Some(balloon_mib) = self.balloon_mib {
            let most = memory_mib.saturating_sub(MIN_BESIDE_BALLOON_MIB);
            if balloon_mib > most {
                let problem = format!(
                    "{balloon_mib} is not allowed: a guest of {memory_mib} MiB keeps \
                     {MIN_BESIDE_BALLOON_MIB} MiB, so give 0 to {most}"
                );
                return Err(Misfit { field: "balloon_mib", problem });
            }
        }
        let has_huge_pages = self.huge_pages.is_some_and(|pages| pages != HugePages::None);
        if has_huge_pages && !memory_mib.is_multiple_of(2) {
            let problem = format!("{memory_mib} MiB of memory are no multiple of a page of 2 MiB");
            return Err(Misfit { field: "huge_pages", problem });
        }
        Ok(())
    }
}

/// A field that does not fit the VM's size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Its name in JSON.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// The pages of the host that a guest's memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub enum HugePages {
    /// Ordinary ones.
    #[serde(rename = "none")]
    None,
    /// Pages of 2 MiB from the pool that the host has reserved.
    #[serde(rename = "2m")]
    TwoMib,
    /// Huge ones where the host's kernel finds some.
    #[serde(rename = "transparent")]
    Transparent,
}

impl FromStr for HugePages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "2m" => Ok(Self::TwoMib),
            "transparent" => Ok(Self::Transparent),
            _ => Err(format!("{text:?} are no pages: give none, 2m or transparent")),
        }
    }
}

/// What a guest's I/O is held to. What is absent is not limited, or stays as it is where limits are
/// changed; 0 lifts a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IoLimits {
    /// Bytes that each disk reads and writes in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes_per_s: Option<ByteRate>,
    /// Requests that each disk does in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_ops_per_s: Option<OpRate>,
    /// Bytes that it receives over its network in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_rx_bytes_per_s: Option<ByteRate>,
    /// Bytes that it sends over its network in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_tx_bytes_per_s: Option<ByteRate>,
}

impl IoLimits {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This, with what it leaves open taken from `defaults`.
    #[must_use]
    pub fn or(self, defaults: Self) -> Self {
        Self {
            disk_bytes_per_s: self.disk_bytes_per_s.or(defaults.disk_bytes_per_s),
            disk_ops_per_s: self.disk_ops_per_s.or(defaults.disk_ops_per_s),
            net_rx_bytes_per_s: self.net_rx_bytes_per_s.or(defaults.net_rx_bytes_per_s),
            net_tx_bytes_per_s: self.net_tx_bytes_per_s.or(defaults.net_tx_bytes_per_s),
        }
    }

    /// Whether there is a limit, and not only the lack of one.
    pub fn limits_anything(&self) -> bool {
        let limited = |rate: Option<ByteRate>| rate.and_then(ByteRate::limit).is_some();
        limited(self.disk_bytes_per_s)
            || limited(self.net_rx_bytes_per_s)
            || limited(self.net_tx_bytes_per_s)
            || self.disk_ops_per_s.and_then(OpRate::limit).is_some()
    }

    /// Whether it says anything of the network.
    pub const fn concerns_network(&self) -> bool {
        self.net_rx_bytes_per_s.is_some() || self.net_tx_bytes_per_s.is_some()
    }
}

macro_rules! rates {
    ($($(#[$doc:meta])* $name:ident: $min:literal, $unit:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name(u64);

        impl $name {
            /// The smallest that limits.
            pub const MIN: u64 = $min;

            /// So many in a second; `None` for no limit.
            pub const fn limit(self) -> Option<u64> {
                match self.0 {
                    0 => None,
                    limit => Some(limit),
                }
            }
        }

        impl TryFrom<u64> for $name {
            type Error = String;

            fn try_from(value: u64) -> Result<Self, String> {
                if value == 0 || value >= Self::MIN {
                    return Ok(Self(value));
                }
                Err(format!("{value} is not allowed: give {} {} or more, or 0 for no limit", Self::MIN, $unit))
            }
        }

        /// A whole number, which may be followed by K, M or G for powers of 1024.
        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::try_from(scaled(text).ok_or_else(|| {
                    format!("{text:?} is no number of {}: give one such as 500K, 20M or 1G", $unit)
                })?)
            }
        }

        impl From<$name> for u64 {
            fn from(rate: $name) -> Self {
                rate.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.limit() {
                    Some(limit) => write!(f, "{limit} {}", $unit),
                    None => f.write_str("unlimited"),
                }
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::Integer)
                    .description(Some(format!("{} {} or more; 0 for no limit.", Self::MIN, $unit)))
                    .minimum(Some(0))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    )+};
}

rates! {
    /// Bytes in a second, or no limit. Less than a page in a few milliseconds would only look as if
    /// the device hung.
    ByteRate: 65_536, "bytes/s";
    /// Requests in a second, or no limit.
    OpRate: 10, "requests/s";
}

/// A whole number with a power of 1024 behind it.
fn scaled(text: &str) -> Option<u64> {
    let (number, power) = match text.char_indices().next_back()? {
        (at, 'K' | 'k') => (&text[..at], 1),
        (at, 'M' | 'm') => (&text[..at], 2),
        (at, 'G' | 'g') => (&text[..at], 3),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1024_u64.pow(power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_the_memory_is_named_by_its_field() {
        let memory = |mib: u32| MemoryMib::try_from(mib).unwrap();
        let balloon = Tuning { balloon_mib: Some(240), ..Tuning::default() };
        assert_eq!(balloon.check(memory(256)), Ok(()));
        let misfit = balloon.check(memory(255)).unwrap_err();
        assert_eq!(misfit.field, "balloon_mib");
        assert!(misfit.problem.contains("0 to 239"), "{}", misfit.problem);
        let pages = Tuning { huge_pages: Some(HugePages::TwoMib), ..Tuning::default() };
        assert_eq!(pages.check(memory(255)).unwrap_err().field, "huge_pages");
        assert_eq!(pages.check(memory(256)), Ok(()));
    }

    #[test]
    fn what_is_said_goes_before_what_the_template_says() {
        let rate = |text: &str| Some(text.parse().unwrap());
        let limits = |disk, net| IoLimits {
            disk_bytes_per_s: disk,
            net_rx_bytes_per_s: net,
            ..IoLimits::default()
        };
        let own = Tuning { limits: limits(rate("0"), None), ..Tuning::default() };
        let template = Tuning {
            balloon_mib: Some(8),
            limits: limits(rate("1M"), rate("2M")),
            huge_pages: None,
        };
        let both = own.or(template);
        assert_eq!(both.balloon_mib, Some(8));
        assert_eq!(both.limits, limits(rate("0"), rate("2M")));
    }

    #[test]
    fn a_rate_is_none_or_enough_and_may_have_a_unit() {
        assert_eq!("1M".parse::<ByteRate>().unwrap().limit(), Some(1_048_576));
        assert_eq!("0".parse::<ByteRate>().unwrap().limit(), None);
        for bad in ["", "M", "-1", "1T", "65535", "99999999999999999999G", "18014398509481984M"] {
            assert!(bad.parse::<ByteRate>().is_err(), "{bad:?}");
        }
        let error = serde_json::from_str::<OpRate>("3").unwrap_err().to_string();
        assert!(error.contains("10 requests/s or more"), "{error}");
        assert_eq!(serde_json::to_string(&"20".parse::<OpRate>().unwrap()).unwrap(), "20");
    }
}
