//! What an SQL statement answers, as JSON, and how much of it is taken.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The greatest whole number that every reader of JSON keeps exactly (RFC 8259 section 6).
const EXACT_MAX: i64 = (1 << 53) - 1;

/// How much of an answer is taken, and how long a statement may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rows at most; more are not fetched.
    pub rows: usize,
    /// Bytes of values at most. A row that does not fit any more is left out, with all that follow.
    pub bytes: usize,
    /// How long a statement may take, with its transaction.
    pub time: Duration,
}

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Column {
    /// Its name. Names may repeat.
    pub name: String,
    /// Its type as the system calls it.
    #[serde(rename = "type")]
    pub kind: String,
}

/// What a statement answered.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Rows {
    /// The columns, in order; none if the statement gives no rows.
    pub columns: Vec<Column>,
    /// The rows: for each column `null`, a boolean, a number that JSON keeps exactly, `{"base64": ".."}` for bytes, or a text. Dates and times
    /// are ISO 8601.
    pub rows: Vec<Vec<Value>>,
    /// There are more rows than were taken.
    pub truncated: bool,
    /// How many rows the statement changed, where the system says it.
    pub affected: Option<u64>,
}

/// A whole number: as a number if every reader keeps it, otherwise as text.
pub(super) fn integer(number: i64) -> Value {
    if (-EXACT_MAX..=EXACT_MAX).contains(&number) { Value::from(number) } else { Value::from(number.to_string()) }
}

/// Bytes, with the marker that says so.
pub(super) fn bytes(bytes: &[u8]) -> Value {
    json!({ "base64": STANDARD.encode(bytes) })
}

/// The bytes of `{"base64": ".."}`; `None` if it is something else.
pub(super) fn marked_bytes(value: &Value) -> Option<Vec<u8>> {
    let members = value.as_object()?;
    let text = members.get("base64").filter(|_| members.len() == 1)?.as_str()?;
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_a_reader_would_round_are_texts() {
        assert_eq!(integer(9_007_199_254_740_991), json!(9_007_199_254_740_991_i64));
        assert_eq!(integer(9_007_199_254_740_992), json!("9007199254740992"));
        assert_eq!(integer(i64::MIN), json!("-9223372036854775808"));
    }

    #[test]
    fn marked_bytes_come_back() {
        assert_eq!(marked_bytes(&bytes(b"\0\xff")).unwrap(), b"\0\xff");
        assert_eq!(marked_bytes(&json!({ "base64": "AA==", "more": 1 })), None);
        assert_eq!(marked_bytes(&json!({ "base64": "?" })), None);
    }
}
