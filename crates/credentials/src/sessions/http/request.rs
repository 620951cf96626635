//! One request as it is sent: a path below the origin's, headers that are nobody else's, and the credential in its one place.

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Uri;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use zeroize::Zeroizing;

use super::{Credential, Placement, Settings};
use crate::Secret;
use crate::lease::Tag;
use crate::redaction::Redaction;
use crate::sessions::SessionError;

/// Longest path and query, without the credential, in bytes.
const TARGET_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
const HEADER_MAX: usize = 4 << 10;
/// Longest body, in bytes.
const BODY_MAX: usize = 1 << 20;
/// Task and agent in a header, in bytes.
const TAG_MAX: usize = 512;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Headers that no request brings: they belong to the connection, to the credential, or change for some server what the request is.
const NOT_GIVEN: [&str; 36] = [
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "max-forwards",
    "origin",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "referer",
    "set-cookie",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
    "x-real-ip",
];

/// The methods of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of RFC 9110 section 9.3 and RFC 5789")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    const fn word(self) -> hyper::Method {
        match self {
            Self::Get => hyper::Method::GET,
            Self::Head => hyper::Method::HEAD,
            Self::Post => hyper::Method::POST,
            Self::Put => hyper::Method::PUT,
            Self::Patch => hyper::Method::PATCH,
            Self::Delete => hyper::Method::DELETE,
        }
    }
}

/// What is to be sent. It has no host: that is the session's.
#[derive(Clone)]
pub struct Request {
    method: Method,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    /// The span and the id of the call that it is.
    call: Option<(String, String)>,
}

impl Request {
    /// `target` is a path, which begins with `/` and stands behind the origin's, and a query; both percent-encoded.
    #[must_use]
    pub fn new(method: Method, target: impl Into<String>) -> Self {
        Self { method, target: target.into(), headers: Vec::new(), body: None, call: None }
    }

    /// It is this call: its span (16 hexadecimal digits) and its id, for the system's own log. Without them the span is one of its own.
    #[must_use]
    pub fn of_call(mut self, span: &str, id: &str) -> Self {
        self.call = Some((span.to_owned(), id.to_owned()));
        self
    }

    /// And a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// And a body, which is JSON.
    #[must_use]
    pub fn json(mut self, body: impl Into<String>) -> Self {
        self.body = Some(body.into());
        self
    }
}

impl std::fmt::Debug for Request {
    /// What is asked may hold what a log must not.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("method", &self.method).finish_non_exhaustive()
    }
}

/// The chain, as it stands in the system's own log.
pub(super) struct Chain {
    trace: String,
    words: String,
}

impl Chain {
    /// The trace is the task's own id, which is as long and as random; for an id of another form, a digest of it.
    pub(super) fn new(tag: &Tag) -> Self {
        let own = tag.task.rsplit('_').next().unwrap_or_default();
        let fits = own.len() == 32 && own.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) && own.bytes().any(|b| b != b'0');
        let trace =
            if fits { own.to_owned() } else { hex(digest::digest(&digest::SHA256, tag.task.as_bytes()).as_ref().get(..16).unwrap_or_default()) };
        Self { trace, words: tag.connection_name(TAG_MAX) }
    }

    /// W3C trace context: the task's trace, and the call's span, or one of this request.
    fn traceparent(&self, request: &Request) -> Result<String, SessionError> {
        if let Some((span, _)) = &request.call {
            return Ok(format!("00-{}-{span}-01", self.trace));
        }
        let mut span = [0; 8];
        rand::fill(&mut span).map_err(|_| SessionError::lost("no randomness is available"))?;
        Ok(format!("00-{}-{}-01", self.trace, hex(&span)))
    }

    /// Task, agent and call.
    fn words(&self, request: &Request) -> String {
        request.call.as_ref().map_or_else(|| self.words.clone(), |(_, id)| format!("{} {id}", self.words))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What answers are cleaned of.
pub(super) fn redaction(placement: &Placement, secret: &Secret) -> Redaction {
    let mut redaction = Redaction::default();
    redaction.add(secret.expose());
    if let Placement::Basic { user } = placement {
        redaction.add(&pair(user, secret));
    }
    redaction
}

/// The credential has a place that is nothing else's.
pub(super) fn check_placement(settings: &Settings) -> Result<(), SessionError> {
    let wrong = |words: &str| Err(SessionError::NotSent(words.to_owned()));
    let reserved = |name: &HeaderName| name != AUTHORIZATION && NOT_GIVEN.contains(&name.as_str());
    match &settings.placement {
        Placement::Header { name, .. } if reserved(name) => wrong("the credential's header belongs to the connection"),
        Placement::Header { before, .. } if before.len() > 64 || !before.bytes().all(|b| matches!(b, b' '..=b'~')) => {
            wrong("what stands before the credential must be at most 64 characters of ASCII")
        }
        Placement::Basic { user } if user.is_empty() || user.len() > 256 || user.contains(':') || user.chars().any(char::is_control) => {
            wrong("the user must be 1 to 256 characters without a colon")
        }
        Placement::Query { name } if name.is_empty() || name.len() > 128 || !name.bytes().all(is_unreserved) => {
            wrong("the credential's parameter must be 1 to 128 letters, digits, `-`, `.`, `_` or `~`")
        }
        placement if settings.tag_header.as_ref().is_some_and(|name| NOT_GIVEN.contains(&name.as_str()) || header_of(placement) == Some(name)) => {
            wrong("the header of task and agent belongs to the connection or to the credential")
        }
        _ => Ok(()),
    }
}

/// The header in which the credential stands.
fn header_of(placement: &Placement) -> Option<&HeaderName> {
    match placement {
        Placement::Bearer | Placement::Basic { .. } => Some(&AUTHORIZATION),
        Placement::Header { name, .. } => Some(name),
        Placement::Query { .. } => None,
    }
}

/// The request with everything in its place.
pub(super) fn write(
    settings: &Settings,
    request: &Request,
    chain: &Chain,
    credential: &Credential,
) -> Result<hyper::Request<Full<Bytes>>, SessionError> {
    let not_sent = |words: &str| SessionError::NotSent(words.to_owned());
    check_target(&request.target, &settings.placement)?;
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_str(settings.origin.authority()).map_err(|_| not_sent("the host is no header"))?);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/*;q=0.5"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("bailiwick/", env!("CARGO_PKG_VERSION"))));
    headers.insert(TRACEPARENT, HeaderValue::from_str(&chain.traceparent(request)?).map_err(|_| not_sent("the trace is no header"))?);
    if let Some(name) = &settings.tag_header {
        headers.insert(name, HeaderValue::from_str(&chain.words(request)).map_err(|_| not_sent("task and agent are no header"))?);
    }
    add_given(&mut headers, request, settings)?;
    let body = request.body.clone().unwrap_or_default();
    if body.len() > BODY_MAX {
        return Err(not_sent("the body is longer than 1 MiB"));
    }
    if request.body.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let mut target = Zeroizing::new(format!("{}{}", settings.origin.path(), request.target));
    match credential {
        Credential::None => {}
        Credential::Minted(_) | Credential::Stored(_) => {
            let placed = credential.look(|secret| place(settings, secret, &mut headers, &mut target));
            placed.ok_or_else(|| SessionError::lost("the credential has ended"))??;
        }
    }
    let uri: Uri = target.parse().map_err(|_| not_sent("the path cannot be sent"))?;
    let mut outgoing = hyper::Request::new(Full::new(Bytes::from(body)));
    *outgoing.method_mut() = request.method.word();
    *outgoing.uri_mut() = uri;
    *outgoing.headers_mut() = headers;
    Ok(outgoing)
}

fn add_given(headers: &mut HeaderMap, request: &Request, settings: &Settings) -> Result<(), SessionError> {
    let not_sent = |words: String| SessionError::NotSent(words);
    if request.headers.len() > HEADERS_MAX {
        return Err(not_sent(format!("a request has at most {HEADERS_MAX} headers")));
    }
    for (name, value) in &request.headers {
        let shown: String = name.chars().take(80).filter(|c| !c.is_control()).collect();
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| not_sent(format!("`{shown}` is no header")))?;
        let ours = NOT_GIVEN.contains(&name.as_str()) || header_of(&settings.placement) == Some(&name) || settings.tag_header.as_ref() == Some(&name);
        if ours || headers.contains_key(&name) {
            return Err(not_sent(format!("the header `{shown}` is not given by requests, or is given twice")));
        }
        let fits = value.len() <= HEADER_MAX && value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let value = HeaderValue::from_str(value).ok().filter(|_| fits);
        headers.insert(name, value.ok_or_else(|| not_sent(format!("the header `{shown}` must be printable ASCII, at most {HEADER_MAX} bytes")))?);
    }
    Ok(())
}

/// A path of whole segments and a query, which leave the origin's path and the credential's parameter alone.
fn check_target(target: &str, placement: &Placement) -> Result<(), SessionError> {
    let not_sent = |words: &str| Err(SessionError::NotSent(words.to_owned()));
    if target.len() > TARGET_MAX {
        return not_sent("the path and query are longer than 8 KiB");
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    if !path.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) || target.contains(['#', '\\']) {
        return not_sent("the path must begin with `/` and be percent-encoded");
    }
    let lower = path.to_ascii_lowercase();
    if ["%2f", "%5c", "%00"].iter().any(|bad| lower.contains(bad)) {
        return not_sent("the path must not have an encoded `/` or `\\`");
    }
    let segments: Vec<String> =
        lower.replace("%2e", ".").split('/').skip(1).map(|text| text.split(';').next().unwrap_or_default().to_owned()).collect();
    let last = segments.len().saturating_sub(1);
    let odd = segments.iter().enumerate().any(|(index, text)| matches!(text.as_str(), "." | "..") || (text.is_empty() && index != last));
    if odd {
        return not_sent("the path must not have `.`, `..` or empty segments");
    }
    if let (Some(query), Placement::Query { name }) = (query, placement) {
        // Some servers take `;` for `&`.
        let names = query.split(['&', ';']).map(|pair| decoded(pair.split('=').next().unwrap_or_default()));
        if names.into_iter().any(|given| given.eq_ignore_ascii_case(name.as_bytes())) {
            return not_sent("the query must not have the credential's parameter");
        }
    }
    Ok(())
}

fn decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let digits = tail.first_chunk::<2>().filter(|_| *byte == b'%').and_then(|pair| std::str::from_utf8(pair).ok());
        let one = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(one.unwrap_or(if *byte == b'+' { b' ' } else { *byte }));
        rest = if one.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    out
}

/// Puts the credential where it belongs.
fn place(settings: &Settings, secret: &Secret, headers: &mut HeaderMap, target: &mut Zeroizing<String>) -> Result<(), SessionError> {
    let unfit = || SessionError::NotSent("the credential cannot be written in its place".to_owned());
    let secret_bytes = secret.expose();
    if secret_bytes.is_empty() {
        return Err(unfit());
    }
    let value = match &settings.placement {
        Placement::Bearer => Zeroizing::new([b"Bearer ".as_slice(), secret_bytes].concat()),
        Placement::Header { before, .. } => Zeroizing::new([before.as_bytes(), secret_bytes].concat()),
        //= rfc7617#section-2
        // the user-id and password MUST NOT contain any control characters
        Placement::Basic { .. } if secret_bytes.iter().any(u8::is_ascii_control) => return Err(unfit()),
        Placement::Basic { user } => {
            let encoded = Zeroizing::new(STANDARD.encode(pair(user, secret).as_slice()));
            Zeroizing::new([b"Basic ".as_slice(), encoded.as_bytes()].concat())
        }
        Placement::Query { name } => {
            let separator = if target.contains('?') { '&' } else { '?' };
            target.push(separator);
            target.push_str(name);
            target.push('=');
            for byte in secret_bytes {
                if is_unreserved(*byte) { target.push(char::from(*byte)) } else { target.push_str(&format!("%{byte:02X}")) }
            }
            return Ok(());
        }
    };
    let name = header_of(&settings.placement).ok_or_else(unfit)?;
    let fits = value.iter().all(|byte| matches!(byte, b' '..=b'~')) && !value.ends_with(b" ");
    let mut value = HeaderValue::from_bytes(&value).ok().filter(|_| fits).ok_or_else(unfit)?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

fn pair(user: &str, secret: &Secret) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([user.as_bytes(), b":", secret.expose()].concat())
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bailiwick_core::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::sessions::http::{Limits, Origin};

    const SECRET: &str = "canary/0123+456789";

    fn settings(placement: Placement) -> Settings {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = Arc::new(tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth());
        let origin = Origin::new("https://api.example.org/v1", false, &tls).unwrap();
        let limits = Limits { bytes: 1000, time: Duration::from_secs(5) };
        Settings { origin, placement, limits, tag_header: Some(HeaderName::from_static("x-bailiwick-task")) }
    }

    fn written(placement: Placement, request: &Request) -> Result<hyper::Request<Full<Bytes>>, SessionError> {
        let tag = Tag { task: format!("task_{}", "0a".repeat(16)), agent: "spiffe://td/a\n".into(), expires_at: Timestamp::from_millis(0) };
        let settings = settings(placement);
        check_placement(&settings)?;
        write(&settings, request, &Chain::new(&tag), &Credential::Minted(Secret::from(SECRET.to_owned())))
    }

    fn header<'r>(request: &'r hyper::Request<Full<Bytes>>, name: &str) -> &'r str {
        request.headers().get(name).unwrap().to_str().unwrap()
    }

    #[test]
    fn the_credential_stands_in_its_place_and_nothing_shows_it() {
        let get = Request::new(Method::Get, "/orders?a=b").header("X-Reason", "because");
        let bearer = written(Placement::Bearer, &get).unwrap();
        assert_eq!(header(&bearer, "authorization"), format!("Bearer {SECRET}"));
        assert_eq!((bearer.uri().to_string().as_str(), header(&bearer, "x-reason")), ("/v1/orders?a=b", "because"));
        let own = Placement::Header { name: HeaderName::from_static("x-api-key"), before: "Key ".into() };
        assert_eq!(header(&written(own, &get).unwrap(), "x-api-key"), format!("Key {SECRET}"));
        let basic = written(Placement::Basic { user: "shop".into() }, &get).unwrap();
        assert_eq!(header(&basic, "authorization"), format!("Basic {}", STANDARD.encode(format!("shop:{SECRET}"))));
        let query = written(Placement::Query { name: "key".into() }, &get).unwrap();
        assert_eq!(query.uri(), "/v1/orders?a=b&key=canary%2F0123%2B456789");
        assert!(!format!("{bearer:?} {basic:?}").contains("canary"), "{bearer:?}");
    }

    #[test]
    fn the_chain_stands_in_the_request() {
        let request = written(Placement::Bearer, &Request::new(Method::Post, "/x").json("{}")).unwrap();
        assert_eq!(header(&request, "x-bailiwick-task"), format!("bailiwick task_{} spiffe://td/a?", "0a".repeat(16)));
        let parent: Vec<&str> = header(&request, "traceparent").split('-').collect();
        assert_eq!((parent[0], parent[1], parent[2].len(), parent[3]), ("00", "0a".repeat(16).as_str(), 16, "01"));
        let of_call = written(Placement::Bearer, &Request::new(Method::Get, "/x").of_call("00f067aa0ba902b7", "call_1")).unwrap();
        assert_eq!(header(&of_call, "x-bailiwick-task"), format!("bailiwick task_{} spiffe://td/a? call_1", "0a".repeat(16)));
        assert_eq!(header(&of_call, "traceparent"), format!("00-{}-00f067aa0ba902b7-01", "0a".repeat(16)));
        assert_eq!((header(&request, "content-type"), header(&request, "accept-encoding")), ("application/json", "identity"));
    }

    #[test]
    fn no_request_brings_a_header_that_is_not_its_own() {
        let own = || Placement::Header { name: HeaderName::from_static("x-api-key"), before: String::new() };
        for name in [
            "Authorization",
            "X-API-Key",
            "Host",
            "Cookie",
            "Transfer-Encoding",
            "X-HTTP-Method-Override",
            "traceparent",
            "X-Bailiwick-Task",
            "a b",
            "",
        ] {
            let refused = written(own(), &Request::new(Method::Get, "/").header(name, "x"));
            assert!(matches!(refused, Err(SessionError::NotSent(_))), "{name}");
        }
        assert!(written(own(), &Request::new(Method::Get, "/").header("X-A", "a\r\nb")).is_err());
        assert!(written(own(), &Request::new(Method::Get, "/").header("X-A", "1").header("x-a", "2")).is_err());
    }

    #[test]
    fn no_path_leaves_the_origins_path() {
        for bad in [
            "",
            "x",
            "//evil.example/",
            "/../x",
            "/a/%2e%2E/b",
            "/a/..;/b",
            "/a%2fb",
            "/a%5Cb",
            "/a\\b",
            "/a#b",
            "/a b",
            "/a//b",
            "/a/./b",
            "/\r\n",
            "/%00",
            "https://evil.example/",
            "@evil.example/",
            "/?key=mine",
            "/?a=b&%6bey=mine",
            "/?KEY=mine",
            "/?a=b;key=mine",
        ] {
            let refused = written(Placement::Query { name: "key".into() }, &Request::new(Method::Get, bad));
            assert!(matches!(refused, Err(SessionError::NotSent(_))), "{bad}");
        }
    }

    #[test]
    fn a_placement_that_is_the_connections_is_refused() {
        let header = |name: &'static str| Placement::Header { name: HeaderName::from_static(name), before: String::new() };
        for bad in [
            header("host"),
            header("content-length"),
            header("x-bailiwick-task"),
            Placement::Basic { user: "a:b".into() },
            Placement::Query { name: "a&b".into() },
        ] {
            assert!(check_placement(&settings(bad.clone())).is_err(), "{bad:?}");
        }
        assert!(check_placement(&settings(header("authorization"))).is_ok());
    }

    proptest! {
        #[test]
        fn whatever_target_is_sent_stays_behind_the_origins_path(target in "/?[a-z./%\\\\?#@:;&=\\r\\n é2eEfF5cC0]{0,24}") {
            if let Ok(request) = written(Placement::Bearer, &Request::new(Method::Get, target.clone())) {
                let uri = request.uri().to_string();
                prop_assert_eq!(&uri, &format!("/v1{target}"));
                let url = hyper::Uri::try_from(format!("https://api.example.org{uri}")).unwrap();
                prop_assert_eq!(url.host(), Some("api.example.org"));
                prop_assert!(url.path().starts_with("/v1/") && !url.path().split('/').any(|text| matches!(text, "." | "..")));
            }
        }
    }
}
