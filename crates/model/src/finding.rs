//! What a check of the host or of a template found: the words of `aetherium doctor`.

use serde::{Deserialize, Serialize};

/// How a check came out.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works without it, but less well; the remedy says how to gain it.
    Warn,
    /// Nothing that needs this can work.
    Fail,
}

/// One check: what was looked at, what was found, why it matters, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Finding {
    /// A stable name, such as `qemu.binary` or `kvm.probe`.
    pub check: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found, with the value.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// What to do about it; empty when all is well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Finding {
    /// A check that came out well.
    pub fn ok(check: &str, found: impl Into<String>, why: &str) -> Self {
        Self::new(check, Verdict::Ok, found.into(), why, String::new())
    }

    /// A check that leaves something to gain.
    pub fn warn(
        check: &str,
        found: impl Into<String>,
        why: &str,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(check, Verdict::Warn, found.into(), why, remedy.into())
    }

    /// A check that failed.
    pub fn fail(
        check: &str,
        found: impl Into<String>,
        why: &str,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(check, Verdict::Fail, found.into(), why, remedy.into())
    }

    fn new(check: &str, verdict: Verdict, found: String, why: &str, remedy: String) -> Self {
        Self { check: check.to_owned(), verdict, found, why: why.to_owned(), remedy }
    }
}
