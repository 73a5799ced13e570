//! Reading columns into domain types. What a column holds was written by this crate; anything else
//! is [`StoreError::Corrupt`], never a default.

use crate::StoreError;
use aetherium_model::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Row as _, any::AnyRow};
use std::{fmt::Display, str::FromStr};

pub(crate) fn text(row: &AnyRow, column: &str) -> Result<String, StoreError> {
    Ok(row.try_get(column)?)
}

pub(crate) fn maybe_text(row: &AnyRow, column: &str) -> Result<Option<String>, StoreError> {
    Ok(row.try_get(column)?)
}

pub(crate) fn int(row: &AnyRow, column: &str) -> Result<i64, StoreError> {
    Ok(row.try_get(column)?)
}

/// A number that was widened to 64 bits when written.
pub(crate) fn number<T: TryFrom<i64>>(row: &AnyRow, column: &str) -> Result<T, StoreError> {
    let value = int(row, column)?;
    T::try_from(value).map_err(|_| corrupt(column, format!("{value} is out of range")))
}

pub(crate) fn maybe_number<T: TryFrom<i64>>(
    row: &AnyRow,
    column: &str,
) -> Result<Option<T>, StoreError> {
    let value: Option<i64> = row.try_get(column)?;
    value
        .map(|value| {
            T::try_from(value).map_err(|_| corrupt(column, format!("{value} is out of range")))
        })
        .transpose()
}

pub(crate) fn time(row: &AnyRow, column: &str) -> Result<Timestamp, StoreError> {
    int(row, column).map(Timestamp::from_millis)
}

pub(crate) fn maybe_time(row: &AnyRow, column: &str) -> Result<Option<Timestamp>, StoreError> {
    let millis: Option<i64> = row.try_get(column)?;
    Ok(millis.map(Timestamp::from_millis))
}

pub(crate) fn parsed<T: FromStr<Err: Display>>(
    row: &AnyRow,
    column: &str,
) -> Result<T, StoreError> {
    text(row, column)?.parse().map_err(|error| corrupt(column, error))
}

pub(crate) fn maybe_parsed<T: FromStr<Err: Display>>(
    row: &AnyRow,
    column: &str,
) -> Result<Option<T>, StoreError> {
    maybe_text(row, column)?
        .map(|text| text.parse().map_err(|error| corrupt(column, error)))
        .transpose()
}

pub(crate) fn json<T: DeserializeOwned>(row: &AnyRow, column: &str) -> Result<T, StoreError> {
    serde_json::from_str(&text(row, column)?).map_err(|error| corrupt(column, error))
}

pub(crate) fn maybe_json<T: DeserializeOwned>(
    row: &AnyRow,
    column: &str,
) -> Result<Option<T>, StoreError> {
    maybe_text(row, column)?
        .map(|text| serde_json::from_str(&text).map_err(|error| corrupt(column, error)))
        .transpose()
}

/// One of an enum's names, as its JSON has it.
pub(crate) fn word<T: DeserializeOwned>(row: &AnyRow, column: &str) -> Result<T, StoreError> {
    maybe_word(row, column)?.ok_or_else(|| corrupt(column, "nothing"))
}

pub(crate) fn maybe_word<T: DeserializeOwned>(
    row: &AnyRow,
    column: &str,
) -> Result<Option<T>, StoreError> {
    maybe_text(row, column)?
        .map(|text| serde_json::from_value(text.into()).map_err(|error| corrupt(column, error)))
        .transpose()
}

/// The JSON that [`json`] reads back.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| corrupt("(to be written)", error))
}

pub(crate) fn corrupt(column: &str, problem: impl Display) -> StoreError {
    StoreError::Corrupt { column: column.to_owned(), problem: problem.to_string() }
}
