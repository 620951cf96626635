//! What an API answered, as it may be shown: limited, cleaned of the credential, without headers that are for machines.

use bytes::BytesMut;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use serde_json::Value;

use super::Link;
use crate::redaction::Redaction;

/// Headers that say something to whoever asked (RFC 9110, RFC 8288, the draft on rate limits and what is common).
const SHOWN: [&str; 19] = [
    "allow",
    "content-language",
    "content-location",
    "content-type",
    "date",
    "deprecation",
    "etag",
    "last-modified",
    "link",
    "location",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "sunset",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-request-id",
    "x-total-count",
];
/// A header's value that is shown, in characters.
const VALUE_MAX: usize = 1000;
/// How deep JSON may be to be given as JSON, and how many members one object of it may have. Deeper or wider is given as text.
const DEPTH_MAX: usize = 48;
const MEMBERS_MAX: usize = 5_000;

/// What an API answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Those headers that are shown, by their names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Body,
    /// Places in which the credential stood and was cut out.
    pub redacted: usize,
}

/// The body of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// There is none.
    None,
    /// JSON.
    Json(Value),
    /// Text, or JSON that is too deep.
    Text(String),
    /// It is not given; why, in words.
    Omitted(String),
}

/// The answer, and whether it was read to its end.
pub(super) async fn read(link: &mut Link, response: hyper::Response<Incoming>, max: usize, redaction: &Redaction) -> Result<(Answer, bool), ()> {
    let (head, mut incoming) = response.into_parts();
    let mut redacted = 0_usize;
    let headers = shown(&head.headers, redaction, &mut redacted);
    let answer = |body, redacted| Answer { status: head.status.as_u16(), headers, body, redacted };
    if let Some(why) = not_read(&head.headers, max) {
        return Ok((answer(Body::Omitted(why), redacted), false));
    }
    let mut whole = BytesMut::new();
    while let Some(piece) = link.next(&mut incoming).await {
        let piece = piece.map_err(|_| ())?;
        if whole.len().saturating_add(piece.len()) > max {
            return Ok((answer(Body::Omitted(too_long(max)), redacted), false));
        }
        whole.extend_from_slice(&piece);
    }
    let body = body(&head.headers, &whole, redaction, &mut redacted);
    Ok((answer(body, redacted), true))
}

fn too_long(max: usize) -> String {
    format!("the answer is longer than {max} bytes: ask for less")
}

/// Why a body is not even read.
fn not_read(headers: &HeaderMap, max: usize) -> Option<String> {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > max) {
        return Some(too_long(max));
    }
    // None was asked for, and what is compressed cannot be searched for the credential.
    let encoded = headers.get_all(CONTENT_ENCODING).iter().any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    encoded.then(|| "the answer is compressed, which was not asked for".to_owned())
}

fn shown(headers: &HeaderMap, redaction: &Redaction, redacted: &mut usize) -> Vec<(String, String)> {
    let mut shown = Vec::new();
    for name in SHOWN {
        if let Some(value) = headers.get(name) {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            shown.push((name.to_owned(), text(&value, redaction, redacted).chars().take(VALUE_MAX).collect()));
        }
    }
    shown
}

fn body(headers: &HeaderMap, bytes: &[u8], redaction: &Redaction, redacted: &mut usize) -> Body {
    if bytes.is_empty() {
        return Body::None;
    }
    let said = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = said.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = kind == "application/json" || kind.ends_with("+json");
    if is_json
        && let Ok(mut value) = serde_json::from_slice::<Value>(bytes)
        && fits(&value, DEPTH_MAX)
    {
        *redacted = redacted.saturating_add(redaction.redact_value(&mut value));
        return Body::Json(value);
    }
    let is_text =
        is_json || kind.is_empty() || kind.starts_with("text/") || kind.ends_with("+xml") || kind.ends_with("/xml") || kind.ends_with("+yaml");
    match std::str::from_utf8(bytes) {
        Ok(words) if is_text || matches!(kind.as_str(), "application/x-ndjson" | "application/yaml" | "application/x-www-form-urlencoded") => {
            Body::Text(text(words, redaction, redacted))
        }
        _ => {
            let said: String = text(said, redaction, redacted).chars().take(80).collect();
            Body::Omitted(format!("the answer is {} bytes of `{said}`: only JSON and text are given", bytes.len()))
        }
    }
}

/// Cleaned, and without characters that control a terminal.
fn text(words: &str, redaction: &Redaction, redacted: &mut usize) -> String {
    let clean = redaction.redact_text(words);
    if matches!(clean, std::borrow::Cow::Owned(_)) {
        *redacted = redacted.saturating_add(1);
    }
    clean.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\r' | '\t') { ' ' } else { c }).collect()
}

fn fits(value: &Value, depth: usize) -> bool {
    let Some(deeper) = depth.checked_sub(1) else { return false };
    match value {
        Value::Array(all) => all.iter().all(|one| fits(one, deeper)),
        Value::Object(members) => members.len() <= MEMBERS_MAX && members.values().all(|one| fits(one, deeper)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::REDACTED;

    fn given(kind: &str, bytes: &[u8]) -> (Body, usize) {
        let mut redaction = Redaction::default();
        redaction.add(b"canary-0123456789");
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        let mut redacted = 0;
        (body(&headers, bytes, &redaction, &mut redacted), redacted)
    }

    #[test]
    fn json_is_cleaned_whatever_way_it_is_written() {
        let escaped: String = "canary-0123456789".chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
        let text = format!("{{\"a\":\"x {escaped}\",\"canary-0123456789\":[1,\"canary-0123456789\"]}}");
        let expected = json!({ "a": format!("x {REDACTED}"), REDACTED: [1, REDACTED] });
        assert_eq!(given("application/json; charset=utf-8", text.as_bytes()), (Body::Json(expected), 3));
        assert_eq!(given("application/problem+json", b"{\"a\":1}").0, Body::Json(json!({ "a": 1 })));
    }

    #[test]
    fn text_is_given_clean_and_bytes_are_not_given() {
        assert_eq!(given("text/plain", b"a\x1b[2Jb\ncanary-0123456789"), (Body::Text(format!("a [2Jb\n{REDACTED}")), 1));
        assert_eq!(given("application/json", b"{not json"), (Body::Text("{not json".into()), 0));
        assert!(
            matches!(given("image/png", b"\x89PNG canary-0123456789").0, Body::Omitted(why) if why.contains("image/png") && !why.contains("canary"))
        );
        assert!(matches!(given("text/plain", b"\xff\xfe").0, Body::Omitted(_)));
        assert!(matches!(given("x/canary-0123456789", b"\xff").0, Body::Omitted(why) if why.contains(REDACTED) && !why.contains("canary")));
        assert_eq!(given("text/plain", b"").0, Body::None);
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        assert_eq!(given("application/json", deep.as_bytes()).0, Body::Text(deep));
    }

    #[test]
    fn what_is_too_long_or_compressed_is_not_read() {
        let headers = |name, value: &str| HeaderMap::from_iter([(name, value.parse().unwrap())]);
        assert!(not_read(&headers(CONTENT_LENGTH, "11"), 10).unwrap().contains("longer than 10 bytes"));
        assert!(not_read(&headers(CONTENT_ENCODING, "gzip"), 10).unwrap().contains("compressed"));
        assert_eq!(not_read(&headers(CONTENT_ENCODING, "Identity"), 10), None);
    }
}
