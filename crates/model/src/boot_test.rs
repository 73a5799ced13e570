//! What came of booting a template to see whether it works.

use crate::{
    Timestamp,
    finding::{Finding, Verdict},
    resources::DriverKind,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The verdict of one boot. It is kept beside a template, and is no part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BootTest {
    /// When it was.
    pub at: Timestamp,
    /// How long it took, in milliseconds, from the request for a VM to the last check.
    pub took_ms: u64,
    /// The driver.
    pub driver: DriverKind,
    /// How the driver ran the guest's CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// The version of each part that took part, by its name.
    pub versions: BTreeMap<String, String>,
    /// Each check.
    pub checks: Vec<Finding>,
}

impl BootTest {
    /// Whether no check failed, and there was one.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|it| it.verdict != Verdict::Fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_without_a_check_or_with_a_failed_one_is_not_passed() {
        let test = |checks| BootTest {
            at: Timestamp::from_millis(0),
            took_ms: 1,
            driver: DriverKind::Qemu,
            accelerator: None,
            versions: BTreeMap::new(),
            checks,
        };
        let (good, bad) = (Finding::ok("a", "", ""), Finding::fail("b", "", "", "mend it"));
        assert!(!test(vec![]).passed());
        assert!(test(vec![good.clone()]).passed());
        assert!(!test(vec![good, bad]).passed());
    }
}
