//! Values of `PostgreSQL` between JSON and the texts that its own functions read and write.

use serde_json::Value;

use crate::sessions::rows::{bytes, integer, marked_bytes};

const BOOL: u32 = 16;
const BYTEA: u32 = 17;
const TEXT: u32 = 25;
const JSON: [u32; 2] = [114, 3802];

/// Types that have a name here; others are told by their number.
const NAMES: &[(u32, &str)] = &[
    (BOOL, "boolean"),
    (BYTEA, "bytea"),
    (18, "char"),
    (19, "name"),
    (20, "bigint"),
    (21, "smallint"),
    (23, "integer"),
    (24, "regproc"),
    (TEXT, "text"),
    (26, "oid"),
    (114, "json"),
    (142, "xml"),
    (600, "point"),
    (650, "cidr"),
    (700, "real"),
    (701, "double precision"),
    (705, "unknown"),
    (790, "money"),
    (829, "macaddr"),
    (869, "inet"),
    (1000, "boolean[]"),
    (1001, "bytea[]"),
    (1005, "smallint[]"),
    (1007, "integer[]"),
    (1009, "text[]"),
    (1015, "character varying[]"),
    (1016, "bigint[]"),
    (1021, "real[]"),
    (1022, "double precision[]"),
    (1042, "character"),
    (1043, "character varying"),
    (1082, "date"),
    (1083, "time"),
    (1114, "timestamp"),
    (1115, "timestamp[]"),
    (1182, "date[]"),
    (1184, "timestamptz"),
    (1185, "timestamptz[]"),
    (1186, "interval"),
    (1231, "numeric[]"),
    (1266, "timetz"),
    (1560, "bit"),
    (1562, "bit varying"),
    (1700, "numeric"),
    (2205, "regclass"),
    (2249, "record"),
    (2278, "void"),
    (2950, "uuid"),
    (2951, "uuid[]"),
    (3614, "tsvector"),
    (3615, "tsquery"),
    (3802, "jsonb"),
    (3807, "jsonb[]"),
    (3904, "int4range"),
    (3906, "numrange"),
    (3908, "tsrange"),
    (3910, "tstzrange"),
    (3912, "daterange"),
];

/// The type's name.
pub(super) fn name(oid: u32) -> String {
    NAMES.iter().find(|(known, _)| *known == oid).map_or_else(|| format!("type {oid}"), |(_, name)| (*name).to_owned())
}

/// A parameter as the server's own functions read it; `None` is NULL.
///
/// A text goes as it is, also where a number, a date or JSON is expected. An array becomes an array of the server, except where JSON or a text is
/// expected; an object becomes JSON, and `{"base64": ".."}` bytes.
pub(super) fn parameter(oid: u32, value: &Value) -> Result<Option<String>, String> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) if !JSON.contains(&oid) && oid != TEXT => array(items, 0)?,
        Value::Object(_) if !JSON.contains(&oid) && marked_bytes(value).is_some() => hex(&marked_bytes(value).unwrap_or_default()),
        Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    if text.contains('\0') { Err("a text cannot have a NUL".to_owned()) } else { Ok(Some(text)) }
}

/// `{1,NULL,"a \"b\""}` (section 8.15.2).
fn array(items: &[Value], depth: usize) -> Result<String, String> {
    if depth > 6 {
        return Err("an array is nested too deeply".to_owned());
    }
    let mut parts = Vec::with_capacity(items.len());
    for item in items {
        parts.push(match item {
            Value::Null => "NULL".to_owned(),
            Value::Array(items) => array(items, depth + 1)?,
            Value::Bool(_) | Value::Number(_) => item.to_string(),
            Value::String(text) => quoted(text),
            Value::Object(_) => quoted(&marked_bytes(item).map_or_else(|| item.to_string(), |bytes| hex(&bytes))),
        });
    }
    Ok(format!("{{{}}}", parts.join(",")))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// A value of an answer.
pub(super) fn value(oid: u32, text: &[u8]) -> Value {
    let text = String::from_utf8_lossy(text);
    match oid {
        BOOL => Value::Bool(text == "t"),
        20 | 21 | 23 | 26 => text.parse().map_or_else(|_| Value::from(&*text), integer),
        700 | 701 => text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map_or_else(|| Value::from(&*text), Value::Number),
        BYTEA => unhex(&text).map_or_else(|| Value::from(&*text), |found| bytes(&found)),
        // ISO 8601 has a `T` between date and time, and `Z` for UTC, in which every session of ours is.
        1114 => Value::from(text.replacen(' ', "T", 1)),
        1184 => {
            let stamp = text.replacen(' ', "T", 1);
            Value::from(stamp.strip_suffix("+00").map_or(stamp.clone(), |utc| format!("{utc}Z")))
        }
        _ => Value::from(&*text),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_what_the_servers_functions_read() {
        for (oid, given, text) in [
            (23, json!(5), "5"),
            (23, json!("5"), "5"),
            (16, json!(true), "true"),
            (3802, json!({ "a": [1] }), r#"{"a":[1]}"#),
            (3802, json!([1, "x"]), r#"[1,"x"]"#),
            (25, json!(["a"]), r#"["a"]"#),
            (1009, json!(["a", null, "b\"\\c,", ["d"]]), r#"{"a",NULL,"b\"\\c,",{"d"}}"#),
            (1007, json!([1, 2]), "{1,2}"),
            (17, json!({ "base64": "AP8=" }), "\\x00ff"),
            (1001, json!([{ "base64": "AP8=" }]), r#"{"\\x00ff"}"#),
            (3802, json!({ "base64": "AP8=" }), r#"{"base64":"AP8="}"#),
        ] {
            assert_eq!(parameter(oid, &given).unwrap().unwrap(), text, "{oid} {given}");
        }
        assert_eq!(parameter(23, &Value::Null).unwrap(), None);
        assert!(parameter(25, &json!("a\0b")).is_err());
        assert!(parameter(1007, &json!([[[[[[[[[1]]]]]]]]])).is_err());
    }

    #[test]
    fn values_are_json_without_loss() {
        for (oid, text, expected) in [
            (16, "t", json!(true)),
            (16, "f", json!(false)),
            (23, "-7", json!(-7)),
            (20, "9007199254740993", json!("9007199254740993")),
            (701, "0.1", json!(0.1)),
            (701, "NaN", json!("NaN")),
            (701, "-Infinity", json!("-Infinity")),
            (1700, "12345678901234567890.123", json!("12345678901234567890.123")),
            (17, "\\x00ff", json!({ "base64": "AP8=" })),
            (1114, "2026-11-23 10:00:00.5", json!("2026-11-23T10:00:00.5")),
            (1184, "2026-11-23 10:00:00+00", json!("2026-11-23T10:00:00Z")),
            (1184, "infinity", json!("infinity")),
            (1082, "2026-11-23", json!("2026-11-23")),
            (3802, "{\"a\": 1}", json!("{\"a\": 1}")),
            (1007, "{1,2}", json!("{1,2}")),
            (99_999, "x", json!("x")),
        ] {
            assert_eq!(value(oid, text.as_bytes()), expected, "{oid} {text}");
        }
        assert_eq!((name(23), name(99_999)), ("integer".to_owned(), "type 99999".to_owned()));
    }
}
