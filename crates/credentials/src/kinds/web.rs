//! One HTTPS request and its answer on a connection of its own, for kinds whose system is a web API. It follows no redirect, and knows no proxy, no cookie
//! and no environment; an answer has a limit in bytes and in time.

use std::fmt;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::connection::{ANSWER_MAX, Failure, OPEN_MAX, Stream, timed};
use crate::Secret;
use crate::address::is_never_used;
use crate::lease::{Step, TargetCode, TargetError};
use crate::redaction::Redaction;

/// The longest URL that is configured.
const URL_MAX: usize = 2048;
/// A name is tried at so many of its addresses.
const ADDRESSES_MAX: usize = 8;
/// Answers that are not lists.
const BODY_MAX: usize = 256 << 10;
/// The longest token that is taken.
const TOKEN_MAX: usize = 32 << 10;
/// Of what a system says in its own words, so much is repeated.
const WORDS_MAX: usize = 200;

/// Why a URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// It is none of the form that is needed.
    #[error("expected a URL of the form `https://host[:port][/path][?query]`, at most 2048 characters, without user, password and fragment")]
    Url,
    /// `http://`, and not this machine.
    #[error("`{0}` is another machine: credentials need `https://` on the way there")]
    Plain(String),
    /// `https://` without anybody to trust.
    #[error("`https://` needs certificates of authorities to trust")]
    Roots,
    /// The address is never used.
    #[error("`{0}` is link-local, a metadata service, unspecified or multicast: such addresses are never used")]
    Address(String),
}

/// A URL of the system, and whom to trust to be its host. It has no secret in it.
#[derive(Clone)]
pub struct Endpoint {
    name: String,
    host: String,
    port: u16,
    authority: String,
    path: String,
    query: Option<String>,
    tls: Option<Arc<ClientConfig>>,
}

impl Endpoint {
    /// `name` is what evidence calls it. `tls` says whom to trust, and needs no ALPN; it is not used for `http://`, which goes to this machine only.
    ///
    /// # Errors
    /// Which rule the URL breaks.
    pub fn new(name: &str, url: &str, tls: Option<Arc<ClientConfig>>) -> Result<Self, EndpointError> {
        let named = (1..=253).contains(&name.len()) && !name.chars().any(char::is_control);
        if !named || url.len() > URL_MAX || url.contains('#') {
            return Err(EndpointError::Url);
        }
        let uri: Uri = url.parse().map_err(|_| EndpointError::Url)?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or(EndpointError::Url)?;
        // A port that is none is not the standard one.
        let port = match authority.as_str().strip_prefix(authority.host()).ok_or(EndpointError::Url)? {
            "" => None,
            given => Some(
                given
                    .strip_prefix(':')
                    .filter(|port| port.bytes().all(|b| b.is_ascii_digit()))
                    .and_then(|port| port.parse::<u16>().ok())
                    .filter(|port| *port > 0)
                    .ok_or(EndpointError::Url)?,
            ),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let (secure, standard) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            _ => return Err(EndpointError::Url),
        };
        if host.is_empty() {
            return Err(EndpointError::Url);
        }
        if secure && tls.is_none() {
            return Err(EndpointError::Roots);
        }
        let address: Option<IpAddr> = host.parse().ok();
        if !secure && host != "localhost" && !address.is_some_and(|address| address.is_loopback()) {
            return Err(EndpointError::Plain(host));
        }
        if address.is_some_and(is_never_used) {
            return Err(EndpointError::Address(host));
        }
        Ok(Self {
            name: name.to_owned(),
            port: port.unwrap_or(standard),
            authority: authority.as_str().to_owned(),
            path: uri.path().trim_end_matches('/').to_owned(),
            query: uri.query().map(str::to_owned),
            tls: tls.filter(|_| secure),
            host,
        })
    }

    /// What evidence calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Host, and port if it is not the scheme's own: as in the field `Host`.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path, without a `/` at its end.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Is it a place that paths can be put behind?
    #[must_use]
    pub const fn is_base(&self) -> bool {
        self.query.is_none()
    }

    /// Asks. An answer is an answer whatever its status, a redirect too.
    pub(super) async fn ask(&self, step: Step, question: Question) -> Result<Reply, TargetError> {
        let lost = |step, failure: &Failure| TargetError::new(TargetCode::Unreachable, step, &self.name, failure.words());
        let (request, max) = self.request(question).map_err(|failure| TargetError::new(TargetCode::Plan, step, &self.name, failure.words()))?;
        let stream = self.open().await.map_err(|failure| lost(Step::Connect, &failure))?;
        let reply = timed(ANSWER_MAX, exchange(TokioIo::new(stream), request, max)).await;
        reply.map_err(|failure| lost(step, &failure))
    }

    fn request(&self, question: Question) -> Result<(Request<Full<Bytes>>, usize), Failure> {
        let target = match (&self.query, question.suffix.as_str()) {
            (Some(query), "") => format!("{}?{query}", self.path),
            (_, suffix) => format!("{}{suffix}", self.path),
        };
        let target = if target.starts_with('/') { target } else { format!("/{target}") };
        let mut request = Request::builder().method(question.method).uri(target).header(HOST, &self.authority);
        for (name, value) in question.headers {
            request = request.header(name, value?);
        }
        let request = request.body(Full::new(question.body)).map_err(|_| Failure::Malformed("the request cannot be written"))?;
        Ok((request, question.max))
    }

    async fn open(&self) -> Result<Box<dyn Stream>, Failure> {
        let stream = timed(OPEN_MAX, self.dial()).await?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let host = ServerName::try_from(self.host.clone()).map_err(|_| Failure::Malformed("the host is no name that a certificate can have"))?;
        let shaking = TlsConnector::from(Arc::clone(tls)).connect(host, stream);
        timed(OPEN_MAX, async { Ok(Box::new(shaking.await?) as Box<dyn Stream>) }).await
    }

    /// Each address is judged each time, so that a name cannot move to where we must not go.
    async fn dial(&self) -> Result<TcpStream, Failure> {
        let mut last = Failure::Lost("the host has no address".to_owned());
        for address in tokio::net::lookup_host((self.host.as_str(), self.port)).await?.take(ADDRESSES_MAX) {
            if is_never_used(address.ip()) || (self.tls.is_none() && !address.ip().is_loopback()) {
                last = Failure::Lost("the host has an address that is never used".to_owned());
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}{}{})", self.name, self.authority, self.path, if self.tls.is_some() { ", tls" } else { "" })
    }
}

/// What is asked of an [`Endpoint`].
pub(super) struct Question {
    method: Method,
    suffix: String,
    headers: Vec<(HeaderName, Result<HeaderValue, Failure>)>,
    body: Bytes,
    max: usize,
}

impl Question {
    /// `suffix` goes behind the endpoint's path as it stands: its parts are [encoded](crate::kinds::web::encoded) already.
    pub(super) fn new(method: Method, suffix: impl Into<String>) -> Self {
        let agent = HeaderValue::from_static(concat!("bailiwick/", env!("CARGO_PKG_VERSION")));
        let headers = vec![(USER_AGENT, Ok(agent)), (ACCEPT, Ok(HeaderValue::from_static("application/json")))];
        Self { method, suffix: suffix.into(), headers, body: Bytes::new(), max: BODY_MAX }
    }

    /// In place of a header that is there already.
    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        let value = HeaderValue::from_str(value).map_err(|_| Failure::Malformed("a header cannot be written"));
        self.headers.push((name, value));
        self
    }

    /// A header that nothing shows.
    pub(super) fn secret_header(mut self, name: HeaderName, value: &[u8]) -> Self {
        let value = HeaderValue::from_bytes(value).map_err(|_| Failure::Malformed("a secret cannot be written in a header"));
        let value = value.map(|mut value| {
            value.set_sensitive(true);
            value
        });
        self.headers.push((name, value));
        self
    }

    /// RFC 6750 section 2.1.
    pub(super) fn bearer(self, token: &Secret) -> Self {
        let value = Zeroizing::new([b"Bearer ".as_slice(), token.expose()].concat());
        self.secret_header(AUTHORIZATION, &value)
    }

    pub(super) fn json(self, body: &serde_json::Value) -> Self {
        let this = self.header(CONTENT_TYPE, "application/json");
        Self { body: Bytes::from(body.to_string()), ..this }
    }

    /// A JSON body with a secret in it, which is wiped.
    pub(super) fn secret_json(self, body: Zeroizing<Vec<u8>>) -> Self {
        let this = self.header(CONTENT_TYPE, "application/json");
        Self { body: Bytes::from_owner(body), ..this }
    }

    pub(super) fn form(self, form: Form) -> Self {
        let this = self.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        Self { body: Bytes::from_owner(form.0), ..this }
    }

    /// For lists.
    pub(super) fn at_most(self, bytes: usize) -> Self {
        Self { max: bytes, ..self }
    }
}

/// `application/x-www-form-urlencoded`, wiped after it was sent.
pub(super) struct Form(Zeroizing<Vec<u8>>);

impl Form {
    pub(super) fn new() -> Self {
        Self(Zeroizing::new(Vec::with_capacity(8 << 10)))
    }

    pub(super) fn and(mut self, name: &str, value: &[u8]) -> Self {
        if !self.0.is_empty() {
            self.0.push(b'&');
        }
        form_encode(name.as_bytes(), &mut self.0);
        self.0.push(b'=');
        form_encode(value, &mut self.0);
        self
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// RFC 6749 appendix B.
pub(super) fn form_encode(text: &[u8], into: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b' ' => into.push(b'+'),
            b'*' | b'-' | b'.' | b'_' => into.push(byte),
            byte if byte.is_ascii_alphanumeric() => into.push(byte),
            byte => percent(byte, into),
        }
    }
}

fn percent(byte: u8, into: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |n: u8| DIGITS.get(usize::from(n)).copied().unwrap_or(b'0');
    into.extend([b'%', digit(byte >> 4), digit(byte & 15)]);
}

/// A part of a path, RFC 3986 section 2.1: everything is encoded but letters and digits, `-` and `_`.
pub(super) fn encoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            bytes.push(byte);
        } else {
            percent(byte, &mut bytes);
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// What was answered. Its body may have a secret in it, and is wiped.
pub(super) struct Reply {
    pub(super) status: u16,
    /// It says when to come back: a limit of its pace, whatever the status.
    pub(super) retry_after: bool,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Reply {
    /// The body as JSON of this shape.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// A transient status, or one that no request of ours has.
    pub(super) const fn code(&self) -> TargetCode {
        match self.status {
            401 => TargetCode::Refused,
            _ if self.retry_after => TargetCode::Busy,
            403 => TargetCode::Privilege,
            408 | 425 | 429 | 500..=599 => TargetCode::Busy,
            _ => TargetCode::Protocol,
        }
    }

    /// `status 403: words`, the words being what stands at one of these places of a JSON body, without these secrets.
    pub(super) fn words(&self, places: &[&str], secrets: &[&Secret]) -> String {
        if matches!(self.status, 300..=399) {
            return format!("status {}: a redirect, which is never followed", self.status);
        }
        let body: serde_json::Value = self.json().unwrap_or_default();
        let said: Vec<&str> = places.iter().filter_map(|place| body.pointer(place)?.as_str()).collect();
        if said.is_empty() {
            return format!("status {}", self.status);
        }
        format!("status {}: {}", self.status, clean(&said.join(": "), secrets))
    }
}

/// A system's own words without our secrets, cut.
pub(super) fn clean(words: &str, secrets: &[&Secret]) -> String {
    let mut redaction = Redaction::default();
    secrets.iter().for_each(|secret| redaction.add(secret.expose()));
    String::from_utf8_lossy(&redaction.redact(words.as_bytes())).chars().take(WORDS_MAX).collect()
}

/// A text of an answer that is a secret: wiped, never shown.
pub(super) struct SecretText(Zeroizing<String>);

impl SecretText {
    /// A token that can stand in a header: visible ASCII, RFC 6749 appendix A.12, of at most 32 KiB.
    pub(super) fn into_token(self) -> Option<Secret> {
        let fits = (1..=TOKEN_MAX).contains(&self.0.len()) && self.0.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
        fits.then(|| Secret::from(Zeroizing::new(self.0.as_bytes().to_vec())))
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = SecretText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SecretText, E> {
                Ok(SecretText(Zeroizing::new(text.to_owned())))
            }

            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<SecretText, E> {
                Ok(SecretText(Zeroizing::new(text)))
            }
        }
        deserializer.deserialize_string(Visitor)
    }
}

/// One request on a fresh stream, and its whole answer.
pub(super) async fn exchange(
    stream: impl hyper::rt::Read + hyper::rt::Write + Unpin,
    request: Request<Full<Bytes>>,
    max: usize,
) -> Result<Reply, Failure> {
    let lost = |error: hyper::Error| Failure::Lost(error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(lost)?;
    let exchange = async { read(sender.send_request(request).await.map_err(lost)?, max).await };
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(lost(error)),
        },
    }
}

async fn read(answer: Response<Incoming>, max: usize) -> Result<Reply, Failure> {
    let status = answer.status().as_u16();
    let retry_after = answer.headers().contains_key(RETRY_AFTER) || answer.headers().get("x-ratelimit-remaining").is_some_and(|left| left == "0");
    let mut body = Zeroizing::new(Vec::with_capacity(4 << 10));
    let mut incoming = answer.into_body();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|_| Failure::Lost("the answer broke off".to_owned()))?;
        let Some(data) = frame.data_ref() else { continue };
        if body.len().saturating_add(data.len()) > max {
            return Err(Failure::Lost(format!("the answer is longer than {max} bytes")));
        }
        body.extend_from_slice(data);
    }
    Ok(Reply { status, retry_after, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Trust;

    fn trust() -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
    }

    #[test]
    fn a_url_names_a_place_and_nothing_else() {
        let endpoint = |url: &str| Endpoint::new("one", url, Some(trust()));
        let good = endpoint("https://api.example.org:8443/v3/").unwrap();
        assert_eq!((good.authority(), good.path(), good.is_base()), ("api.example.org:8443", "/v3", true));
        assert_eq!(format!("{good:?}"), "one (api.example.org:8443/v3, tls)");
        assert!(!endpoint("https://api.example.org/a?b=c").unwrap().is_base());
        let long = format!("https://h/{}", "a".repeat(URL_MAX));
        for bad in [
            "",
            "api.example.org",
            "/v3",
            "ftp://h/",
            "https://u:p@h/",
            "https://u@h/",
            "https://h/#f",
            "https://",
            "https://h:/",
            "https://h:99999/",
            "https://h:0/",
            "https://h:+1/",
            "https://[::1]x/",
            &long,
        ] {
            assert_eq!(endpoint(bad).unwrap_err(), EndpointError::Url, "{bad}");
        }
        assert_eq!(Endpoint::new("one", "https://h/", None).unwrap_err(), EndpointError::Roots);
        assert!(Trust::new(b"").is_err());
    }

    #[test]
    fn without_tls_a_url_is_on_this_machine_and_some_addresses_are_nowhere() {
        let endpoint = |url: &str| Endpoint::new("one", url, Some(trust()));
        for here in ["http://127.0.0.1:80/", "http://[::1]/x", "http://localhost:1"] {
            assert!(endpoint(here).unwrap().tls.is_none(), "{here}");
        }
        for there in ["http://10.0.0.1/", "http://api.example.org/", "http://[::ffff:10.0.0.1]/", "http://localhost.example.org"] {
            assert!(matches!(endpoint(there).unwrap_err(), EndpointError::Plain(_)), "{there}");
        }
        for never in [
            "169.254.169.254",
            "[::ffff:169.254.169.254]",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "0.0.0.0",
            "[::]",
            "224.0.0.1",
            "168.63.129.16",
            "[64:ff9b::a9fe:a9fe]",
        ] {
            assert!(matches!(endpoint(&format!("https://{never}/")).unwrap_err(), EndpointError::Address(_)), "{never}");
        }
    }

    #[test]
    fn a_form_and_a_path_keep_their_parts_apart() {
        assert_eq!(Form::new().and("a b", b"x&y=z/\xc3\xbc").and("c", b"*-._~").bytes(), b"a+b=x%26y%3Dz%2F%C3%BC&c=*-._%7E");
        assert_eq!(encoded("a/../b?c#\u{fc} _-"), "a%2F%2E%2E%2Fb%3Fc%23%C3%BC%20_-");
    }

    #[test]
    fn a_token_is_visible_ascii_and_words_are_without_secrets() {
        let token = |json: &str| serde_json::from_str::<SecretText>(json).ok().and_then(SecretText::into_token);
        assert!(token("\"ghs_abc\"").is_some_and(|token| token.expose() == b"ghs_abc"));
        for bad in ["\"\"", "\"a b\"", "\"a\\nb\"", "\"\u{fc}\"", "1", "null"] {
            assert!(token(bad).is_none(), "{bad}");
        }
        assert!(token(&format!("\"{}\"", "a".repeat(TOKEN_MAX + 1))).is_none());
        let secret = Secret::from("canary-0123456789".to_owned());
        let reply = |status, body: &str| Reply { status, retry_after: false, body: Zeroizing::new(body.as_bytes().to_vec()) };
        let said = reply(400, "{\"error\":\"invalid_client\",\"error_description\":\"canary-0123456789 is wrong\"}");
        assert_eq!(said.words(&["/error", "/error_description"], &[&secret]), "status 400: invalid_client: [redacted by bailiwick] is wrong");
        assert_eq!(reply(302, "{}").words(&["/error"], &[]), "status 302: a redirect, which is never followed");
        assert_eq!(reply(503, "<html>").words(&["/error"], &[]), "status 503");
        assert!(matches!(reply(503, "").code(), TargetCode::Busy));
    }
}
