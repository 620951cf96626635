//! The URL of a request as a proof names it, compared as RFC 9449 section 4.3 recommends.

use url::Url;

/// The longest `htu` that is looked at.
const TARGET_MAX: usize = 2048;

/// Where a request was sent: scheme, host, port and path, in one spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    given: String,
    normal: String,
}

impl Target {
    /// From a URL of ours. `None` if it is no http or https URL.
    #[must_use]
    pub fn new(url: &str) -> Option<Self> {
        Some(Self { given: url.to_owned(), normal: normal(url)? })
    }

    /// Is this the same place, in whatever spelling?
    #[must_use]
    pub fn is(&self, htu: &str) -> bool {
        htu == self.given || normal(htu).is_some_and(|other| other == self.normal)
    }
}

//= rfc9449#section-4.3
// To reduce the likelihood of false negatives, servers SHOULD employ syntax-based normalization (Section 6.2.2 of [RFC3986]) and
// scheme-based normalization (Section 6.2.3 of [RFC3986]) before comparing the htu claim.
fn normal(text: &str) -> Option<String> {
    // Only what may stand in a URI at all: what a lenient parser would mend is not sent by anybody who means well.
    let uri = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}');
    if text.len() > TARGET_MAX || !text.bytes().all(uri) {
        return None;
    }
    let url = Url::parse(text).ok()?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    let path = escapes(url.path())?;
    // One slash at the end is no difference; a second one is.
    let path = path.strip_suffix('/').unwrap_or(&path);
    Some(format!("{}://{}:{}{path}", url.scheme(), url.host_str()?, url.port_or_known_default()?))
}

//= rfc3986#section-6.2.2
// the hexadecimal digits within a percent-encoding triplet should be normalized to use uppercase letters [...] percent-encoded octets
// that correspond to unreserved characters should be decoded.
fn escapes(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let (digits, after) = after.split_at_checked(2)?;
        let byte = u8::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_place_are_one() {
        let target = Target::new("https://gw.example/mcp/s/a~b").unwrap();
        for same in [
            "https://gw.example/mcp/s/a~b",
            "HTTPS://GW.Example:443/mcp/s/a~b",
            "https://gw.example/mcp/s/a%7Eb/",
            "https://gw.example/mcp/s/a%7eb?x=1#y",
            "https://gw.example/mcp/./x/../s/%61~b",
        ] {
            assert!(target.is(same), "{same}");
        }
        assert!(Target::new("https://gw.example").unwrap().is("https://gw.example/"));
    }

    #[test]
    fn another_place_is_another() {
        let target = Target::new("https://gw.example/mcp").unwrap();
        for other in [
            "http://gw.example/mcp",
            "https://gw.example:444/mcp",
            "https://gw.example/mcp//",
            "https://gw.example/MCP",
            "https://gw.example/mcp%2F",
            "https://gw.example/mcp/s",
            "https://gw.example.evil/mcp",
            "https://u@gw.example/mcp",
            "https://gw.example\\mcp",
            " https://gw.example/mcp",
            "https://gw.example/m\tcp",
            "https://gw.example/mcp%",
            "https://gw.example/mcp%+1",
            "//gw.example/mcp",
            "/mcp",
            "",
        ] {
            assert!(!target.is(other), "{other}");
        }
        assert!(Target::new("ftp://gw.example/mcp").is_none());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_is_normal_stays_so(text in "https?://[a-z:%0-9/.?#~-]{0,40}|.{0,60}") {
            if let Some(once) = normal(&text) {
                prop_assert!(once.ends_with('/') || normal(&once).unwrap() == once, "{once}");
            }
        }
    }
}
