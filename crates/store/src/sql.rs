//! Between SQLite's values and ours: ids, digests, times, counts.

use bailiwick_core::{Digest, Timestamp};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};

use crate::error::StoreError;

/// A count or index as SQLite keeps it.
pub(crate) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A limit on rows as SQLite takes it.
pub(crate) fn limit(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A count or index that was never negative.
pub(crate) struct Count(pub(crate) u64);

impl FromSql for Count {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let n = value.as_i64()?;
        u64::try_from(n).map(Self).map_err(|_| FromSqlError::OutOfRange(n))
    }
}

/// A timestamp in milliseconds.
pub(crate) struct At(pub(crate) Timestamp);

impl FromSql for At {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(|ms| Self(Timestamp::from_millis(ms)))
    }
}

/// Any parsed text: a name, a word.
pub(crate) fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, StoreError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| StoreError::malformed(e.to_string()))
}

/// A digest as 32 bytes.
pub(crate) const fn digest(bytes: [u8; 32]) -> Digest {
    Digest::from_bytes(bytes)
}
