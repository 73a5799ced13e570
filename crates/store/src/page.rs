//! Cursors: a list is ordered by id, and ids sort by time.

use crate::StoreError;
use aetherium_model::page::{MAX_PAGE, PageRequest};
use std::str::FromStr;

/// The id below which a page begins, and the rows to fetch: one more than wanted.
pub(crate) fn bounds<Id: FromStr>(
    page: &PageRequest,
    prefix: &str,
) -> Result<(String, i64), StoreError> {
    let below = match &page.after {
        Some(given) if given.parse::<Id>().is_err() => {
            return Err(StoreError::InvalidCursor { given: given.chars().take(64).collect() });
        }
        Some(given) => given.clone(),
        // Above every id, in any collation: an id's first character is at most 7.
        None => format!("{prefix}_{}", "z".repeat(26)),
    };
    Ok((below, i64::from(limit(page)) + 1))
}

pub(crate) fn limit(page: &PageRequest) -> u32 {
    page.limit.clamp(1, MAX_PAGE)
}
