//! Where in a trace something happens, in the words of W3C Trace Context (level 1). Values only.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    num::{NonZeroU64, NonZeroU128},
    str::FromStr,
};

/// The trace that work belongs to, and the span that caused it: the value of a `traceparent` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TraceParent {
    /// The whole trace.
    pub trace_id: TraceId,
    /// The span that what follows is a part of.
    pub span_id: NonZeroU64,
    /// Whether somebody keeps the trace.
    pub sampled: bool,
}

/// A trace's id; 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub NonZeroU128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Text that is no trace parent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent, such as 00-<32 hexadecimal digits>-<16 of them>-01")]
pub struct InvalidTraceParent;

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    /// Versions after the first may have more behind what this one knows.
    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let mut fields = text.split('-');
        let mut next = |digits| {
            let field = fields.next().filter(|field| field.len() == digits);
            let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            field.filter(|field| field.bytes().all(lower)).ok_or(InvalidTraceParent)
        };
        let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        if version == "ff" || (version == "00" && fields.next().is_some()) {
            return Err(InvalidTraceParent);
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().and_then(NonZeroU128::new);
        let span_id = u64::from_str_radix(span, 16).ok().and_then(NonZeroU64::new);
        let flags = u8::from_str_radix(flags, 16).map_err(|_| InvalidTraceParent)?;
        Ok(Self {
            trace_id: TraceId(trace_id.ok_or(InvalidTraceParent)?),
            span_id: span_id.ok_or(InvalidTraceParent)?,
            sampled: flags & 1 == 1,
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

impl From<TraceParent> for String {
    fn from(parent: TraceParent) -> Self {
        parent.to_string()
    }
}

impl TryFrom<String> for TraceParent {
    type Error = InvalidTraceParent;

    fn try_from(text: String) -> Result<Self, InvalidTraceParent> {
        text.parse()
    }
}

impl utoipa::PartialSchema for TraceParent {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some("^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$"))
            .into()
    }
}

impl utoipa::ToSchema for TraceParent {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";
        let parent: TraceParent = text.parse().unwrap();
        assert!(parent.sampled);
        assert_eq!(parent.to_string(), text);
        assert_eq!(parent.trace_id.to_string(), &text[3..35]);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let text = "cc-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-03-what-comes";
        assert!(text.parse::<TraceParent>().unwrap().sampled);
    }

    #[test]
    fn what_is_no_trace_parent_is_refused() {
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7",
            "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-00f067aa0ba902b7-01",
            "00-+af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01",
        ] {
            assert_eq!(bad.parse::<TraceParent>(), Err(InvalidTraceParent), "{bad:?}");
        }
    }
}
