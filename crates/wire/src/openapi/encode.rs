//! Percent-encoding for each place of a URL, and values that no two servers may read differently.

/// How often a value may be encoded in itself and is still looked through.
const ROUNDS_MAX: usize = 4;

/// Everything but RFC 3986's unreserved characters is encoded (section 2.3).
pub(super) fn value(out: &mut String, text: &str) {
    encode(out, text, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'));
}

/// Literal text of a path: what RFC 3986 section 3.3 allows in a segment stays.
pub(super) fn literal(out: &mut String, text: &str) {
    encode(out, text, |byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte));
}

fn encode(out: &mut String, text: &str, plain: impl Fn(u8) -> bool) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |n: u8| HEX.get(usize::from(n)).copied().map_or('0', char::from);
    for byte in text.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

/// Is this segment `.` or `..` for some server? Some cut a segment at its first `;`.
pub(super) fn is_dots(segment: &str) -> bool {
    matches!(segment.split(';').next().unwrap_or_default(), "." | "..")
}

/// Whether a value can stand in a path so that every server sees one segment. Servers and the proxies before them decode once,
/// twice or not at all, and take `\` for `/`.
pub(super) fn in_path(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("must not be empty");
    }
    if text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace) {
        return Err("must not begin or end with a space");
    }
    let mut seen = text.to_owned();
    for _ in 0..ROUNDS_MAX {
        if seen.contains(['/', '\\']) {
            return Err("must not have a `/` or `\\`, encoded or not: it is one segment of the path");
        }
        if seen.chars().any(char::is_control) {
            return Err("must not have control characters");
        }
        if is_dots(&seen) {
            return Err("must not be `.` or `..`");
        }
        match decoded(&seen) {
            Ok(None) => return Ok(()),
            Ok(Some(next)) => seen = next,
            Err(()) => return Err("must not have percent-encoded bytes that are no text"),
        }
    }
    Err("must not be percent-encoded again and again")
}

/// Percent-encoding undone once; `None` if there is none.
pub(super) fn decoded(text: &str) -> Result<Option<String>, ()> {
    let mut out = Vec::with_capacity(text.len());
    let mut found = false;
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let pair = tail.first_chunk::<2>().filter(|pair| *byte == b'%' && pair.iter().all(u8::is_ascii_hexdigit));
        if let Some(n) = pair.and_then(|pair| std::str::from_utf8(pair).ok()).and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            found = true;
            out.push(n);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            out.push(*byte);
            rest = tail;
        }
    }
    if found { String::from_utf8(out).map(Some).map_err(|_| ()) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_of_some_server_would_read_as_more_than_one_segment_is_refused() {
        for bad in [
            "",
            ".",
            "..",
            "..;",
            "..;/",
            "a/b",
            "a\\b",
            "%2e%2e",
            "%2E.",
            "a%2fb",
            "a%5Cb",
            "%252e%252e",
            "%25252fx",
            "%c0%af",
            "a\0",
            "a\n",
            " a",
            "a ",
            "%00",
            "%0d%0aX",
            "%2525252525252541",
        ] {
            assert!(in_path(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "...", "a..b", "100%", "%zz", "a%20b", "jos\u{e9}", "a b", "a:b@c", "~", "1;v=2", "%"] {
            assert_eq!(in_path(good), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn every_reserved_character_of_a_value_is_encoded() {
        let mut out = String::new();
        value(&mut out, "a b&c=d/?#[]@!$'()*+,;:%\u{e9}~-._");
        assert_eq!(out, "a%20b%26c%3Dd%2F%3F%23%5B%5D%40%21%24%27%28%29%2A%2B%2C%3B%3A%25%C3%A9~-._");
        assert_eq!(decoded(&out).unwrap().unwrap(), "a b&c=d/?#[]@!$'()*+,;:%\u{e9}~-._");
    }
}
