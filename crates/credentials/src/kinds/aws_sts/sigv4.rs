//! Signature version 4 of AWS: what a request says, hashed, and signed with a key that is derived for the day, the region and the service.

use aws_lc_rs::{digest, hmac};
use bailiwick_core::Timestamp;
use hyper::header::HeaderName;
use zeroize::Zeroizing;

use super::Keys;

const HEADERS_MAX: usize = 32;

/// What is signed. Nothing of it is changed on the way: path and query are encoded here as they are to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`, `POST` and so on.
    pub method: &'a str,
    /// The field `Host`.
    pub host: &'a str,
    /// The path, its parts percent-encoded, with `/` at its beginning.
    pub path: &'a str,
    /// The query's names and values, not encoded.
    pub query: &'a [(&'a str, &'a str)],
    /// Further fields that are signed, with names in small letters.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
    /// Such as `eu-central-1`.
    pub region: &'a str,
    /// Such as `sts`.
    pub service: &'a str,
}

/// Why a request is not signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a path that begins with `/`, at most 32 fields with names in small letters, and values without control characters")]
pub struct SignError;

/// The fields that go along with a request. They are secrets.
pub struct Signed {
    date: String,
    token: Zeroizing<Vec<u8>>,
    authorization: Zeroizing<String>,
}

impl Signed {
    /// Names and values.
    pub(crate) fn headers(&self) -> [(HeaderName, &[u8]); 3] {
        [
            (HeaderName::from_static("x-amz-date"), self.date.as_bytes()),
            (HeaderName::from_static("x-amz-security-token"), self.token.as_slice()),
            (hyper::header::AUTHORIZATION, self.authorization.as_bytes()),
        ]
    }
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signed(..)")
    }
}

/// Signs.
///
/// # Errors
/// [`SignError`] if the request could be read in two ways.
pub fn sign(request: &Request<'_>, keys: &Keys, now: Timestamp) -> Result<Signed, SignError> {
    let token = Some(keys.session_token.expose()).filter(|token| !token.is_empty());
    signed(request, keys.access_key_id.expose(), keys.secret_access_key.expose(), token, &date(now))
}

fn signed(request: &Request<'_>, id: &[u8], key: &[u8], token: Option<&[u8]>, date: &str) -> Result<Signed, SignError> {
    let id = std::str::from_utf8(id).map_err(|_| SignError)?;
    let token = token.map(|token| std::str::from_utf8(token)).transpose().map_err(|_| SignError)?;
    let mut headers: Vec<(&str, &str)> = request.headers.to_vec();
    headers.push(("host", request.host));
    headers.push(("x-amz-date", date));
    headers.extend(token.map(|token| ("x-amz-security-token", token)));
    headers.sort_unstable();
    let fits = |(name, value): &(&str, &str)| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') && !value.chars().any(char::is_control)
    };
    let twice = headers.array_windows::<2>().any(|[(a, _), (b, _)]| a == b);
    if headers.len() > HEADERS_MAX || twice || !headers.iter().all(fits) || !request.path.starts_with('/') || request.path.contains(['?', '#', ' ']) {
        return Err(SignError);
    }
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let fields = Zeroizing::new(headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect::<String>());
    let canonical = Zeroizing::new(format!(
        "{}\n{}\n{}\n{}\n{names}\n{}",
        request.method,
        request.path,
        query(request.query),
        fields.as_str(),
        hex(digest::digest(&digest::SHA256, request.body).as_ref())
    ));
    let day = date.get(..8).ok_or(SignError)?;
    let scope = format!("{day}/{}/{}/aws4_request", request.region, request.service);
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref()));
    let signature = hex(&hmac(&derived(key, day, request.region, request.service), to_sign.as_bytes()));
    Ok(Signed {
        date: date.to_owned(),
        token: Zeroizing::new(token.unwrap_or_default().as_bytes().to_vec()),
        authorization: Zeroizing::new(format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}")),
    })
}

/// The key of one day, region and service.
fn derived(key: &[u8], day: &str, region: &str, service: &str) -> Zeroizing<Vec<u8>> {
    let first = Zeroizing::new([b"AWS4".as_slice(), key].concat());
    [day, region, service, "aws4_request"].iter().fold(first, |key, part| hmac(&key, part.as_bytes()))
}

fn hmac(key: &[u8], message: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec())
}

/// `20150830T123600Z`.
fn date(now: Timestamp) -> String {
    Timestamp::from_seconds(now.as_seconds()).to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect::<String>().replace(".000", "")
}

/// In the order of the encoded names, then values.
fn query(pairs: &[(&str, &str)]) -> String {
    let mut pairs: Vec<(String, String)> = pairs.iter().map(|(name, value)| (encoded(name), encoded(value))).collect();
    pairs.sort_unstable();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// RFC 3986 section 2.3: everything but what is unreserved.
fn encoded(text: &str) -> String {
    let one = |b: u8| if b.is_ascii_alphanumeric() || b"-._~".contains(&b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(one).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &[u8] = b"AKIDEXAMPLE";
    const KEY: &[u8] = b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const DATE: &str = "20150830T123600Z";
    const REQUEST: Request<'_> = Request {
        method: "GET",
        host: "example.amazonaws.com",
        path: "/",
        query: &[],
        headers: &[],
        body: b"",
        region: "us-east-1",
        service: "service",
    };

    fn signature(request: &Request<'_>, token: Option<&[u8]>) -> String {
        let signed = signed(request, ID, KEY, token, DATE).unwrap();
        signed.authorization.rsplit_once("Signature=").unwrap().1.to_owned()
    }

    /// The test suite that AWS publishes for version 4.
    #[test]
    fn signatures_are_those_of_the_published_suite() {
        assert_eq!(signature(&REQUEST, None), "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
        assert_eq!(signature(&Request { method: "POST", ..REQUEST }, None), "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b");
        let query = [("Param2", "value2"), ("Param1", "value1")];
        assert_eq!(signature(&Request { query: &query, ..REQUEST }, None), "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500");
        let form = Request { method: "POST", headers: &[("content-type", "application/x-www-form-urlencoded")], body: b"Param1=value1", ..REQUEST };
        assert_eq!(signature(&form, None), "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a");
    }

    /// The example of the IAM user guide: `ListUsers`.
    #[test]
    fn a_key_and_a_signature_are_those_of_the_documentation() {
        let key = derived(KEY, "20150830", "us-east-1", "iam");
        assert_eq!(hex(&key), "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9");
        let request = Request {
            host: "iam.amazonaws.com",
            query: &[("Action", "ListUsers"), ("Version", "2010-05-08")],
            headers: &[("content-type", "application/x-www-form-urlencoded; charset=utf-8")],
            service: "iam",
            ..REQUEST
        };
        assert_eq!(signature(&request, None), "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
    }

    #[test]
    fn a_request_that_could_be_read_in_two_ways_is_not_signed() {
        assert_eq!(date(Timestamp::parse("2015-08-30T12:36:00.999Z").unwrap()), DATE);
        for bad in [
            Request { headers: &[("host", "other")], ..REQUEST },
            Request { headers: &[("x-a", "1"), ("x-a", "2")], ..REQUEST },
            Request { headers: &[("X-A", "1")], ..REQUEST },
            Request { headers: &[("x-a", "1\nx-b:2")], ..REQUEST },
            Request { path: "", ..REQUEST },
            Request { path: "/a?b", ..REQUEST },
        ] {
            assert_eq!(signed(&bad, ID, KEY, None, DATE).unwrap_err(), SignError, "{bad:?}");
        }
        let with = signed(&REQUEST, ID, KEY, Some(b"token"), DATE).unwrap();
        assert!(with.authorization.contains("SignedHeaders=host;x-amz-date;x-amz-security-token,"));
        assert_eq!(format!("{with:?}"), "Signed(..)");
    }
}
