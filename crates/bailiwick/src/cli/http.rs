//! A small HTTP/1.1 client: one request per connection, TLS but to loopback, with limits on time and size.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use url::{Host, Url};

use super::Failure;

/// Longest answer that is read as one piece, in bytes.
pub(crate) const ANSWER_BYTES_MAX: usize = 16 << 20;
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nothing listens there.
    #[error("the broker at {0} is not running")]
    Down(String),
    /// The connection failed.
    #[error("cannot talk to {0}: {1}")]
    Connection(String, String),
    /// It took too long.
    #[error("{0} did not answer within {1} seconds")]
    Timeout(String, u64),
    /// The URL is not one that we use.
    #[error("{0}")]
    Url(String),
    /// The broker refused.
    #[error("{detail} ({code})")]
    Problem {
        /// HTTP status.
        status: StatusCode,
        /// The stable code.
        code: String,
        /// What happened.
        detail: String,
        /// What to do.
        hint: String,
    },
    /// The answer was not one that the broker gives.
    #[error("the answer of {0} is not the broker's: {1}")]
    Answer(String, String),
    /// A key could not sign.
    #[error("signing failed: {0}")]
    Signing(String),
}

impl ClientError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> &str {
        match self {
            Self::Down(_) => "start it: bailiwick up",
            Self::Connection(..) | Self::Answer(..) => "check the address: --url, or the data directory: --data-dir",
            Self::Timeout(..) => "look at the broker's log",
            Self::Url(_) => "use https://, or http:// to this machine only",
            Self::Problem { hint, .. } => hint,
            Self::Signing(_) => "make the key anew",
        }
    }

    /// The status of a refusal.
    pub(crate) const fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Problem { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// A slug for machines: the broker's own, or why there is none.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Down(_) => "broker.down",
            Self::Connection(..) | Self::Url(_) => "broker.unreachable",
            Self::Timeout(..) => "broker.timeout",
            Self::Problem { code, .. } => code,
            Self::Answer(..) => "broker.answer",
            Self::Signing(_) => "internal",
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::new(error.to_string(), error.hint())
    }
}

/// Makes requests.
#[derive(Clone)]
pub(crate) struct Http {
    tls: tokio_rustls::TlsConnector,
    /// The broker's Unix socket, to which everything goes instead.
    socket: Option<PathBuf>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Http")
    }
}

/// An answer whose body has not been read. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: StatusCode,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) body: Incoming,
    from: String,
    _connection: Connection,
}

/// The task that drives a connection; it ends with its owner.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Answer {
    /// Is the body of this media type?
    pub(crate) fn is(&self, media_type: &str) -> bool {
        let given = self.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        given.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media_type)
    }

    /// Reads the whole body.
    pub(crate) async fn bytes(self, within: Duration) -> Result<Bytes, ClientError> {
        let Self { body, from, _connection, .. } = self;
        let whole = tokio::time::timeout(within, Limited::new(body, ANSWER_BYTES_MAX).collect()).await;
        let whole = whole.map_err(|_| ClientError::Timeout(from.clone(), within.as_secs()))?;
        whole.map(http_body_util::Collected::to_bytes).map_err(|e| ClientError::Connection(from, e.to_string()))
    }
}

impl Http {
    /// A client that trusts the public certificate authorities.
    pub(crate) fn new() -> Result<Self, ClientError> {
        let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|e| ClientError::Url(e.to_string()))?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { tls: Arc::new(config).into(), socket: None })
    }

    /// A client of the broker that listens on this Unix socket, whatever host a URL has.
    pub(crate) fn at_socket(path: &Path) -> Result<Self, ClientError> {
        Ok(Self { socket: Some(path.to_path_buf()), ..Self::new()? })
    }

    /// Does everything go to a Unix socket, whatever host a URL has?
    pub(crate) const fn is_at_socket(&self) -> bool {
        self.socket.is_some()
    }

    /// Sends a request and gives the answer when its head is there. Dropping the future closes the connection.
    pub(crate) async fn send(&self, method: Method, url: &Url, headers: HeaderMap, body: Bytes, within: Duration) -> Result<Answer, ClientError> {
        let from = place(url);
        let slow = |limit: Duration| ClientError::Timeout(from.clone(), limit.as_secs());
        let io = tokio::time::timeout(CONNECT_WITHIN, self.connect(url)).await.map_err(|_| slow(CONNECT_WITHIN))??;
        let broken = |e: hyper::Error| ClientError::Connection(from.clone(), plain(&e));
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(broken)?;
        let connection = Connection(tokio::spawn(async move {
            // What went wrong is told by the request.
            let _ = connection.await.is_ok();
        }));
        let mut request = Request::builder().method(method).uri(&url[url::Position::BeforePath..url::Position::AfterQuery]);
        if let Some(all) = request.headers_mut() {
            *all = headers;
            let host = host(url).and_then(|h| h.parse().map_err(|_| ClientError::Url(format!("`{url}` has no usable host"))))?;
            all.insert(header::HOST, host);
        }
        let request = request.body(Full::new(body)).map_err(|e| ClientError::Url(e.to_string()))?;
        let answer = tokio::time::timeout(within, sender.send_request(request)).await.map_err(|_| slow(within))?.map_err(broken)?;
        let (head, body) = answer.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body, from, _connection: connection })
    }

    async fn connect(&self, url: &Url) -> Result<Box<dyn Io>, ClientError> {
        let from = place(url);
        if let Some(path) = &self.socket {
            let stream = UnixStream::connect(path).await.map_err(|e| match e.kind() {
                std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound => ClientError::Down(path.display().to_string()),
                _ => ClientError::Connection(path.display().to_string(), e.to_string()),
            })?;
            return Ok(Box::new(stream));
        }
        let port = url.port_or_known_default().unwrap_or(443);
        let stream = match url.host() {
            Some(Host::Domain(name)) => TcpStream::connect((name, port)).await,
            Some(Host::Ipv4(ip)) => TcpStream::connect((ip, port)).await,
            Some(Host::Ipv6(ip)) => TcpStream::connect((ip, port)).await,
            None => return Err(ClientError::Url(format!("`{url}` has no host"))),
        };
        let stream = stream.map_err(|e| match e.kind() {
            std::io::ErrorKind::ConnectionRefused => ClientError::Down(from.clone()),
            _ => ClientError::Connection(from.clone(), e.to_string()),
        })?;
        let _ = stream.set_nodelay(true).is_ok();
        match url.scheme() {
            "http" if stream.peer_addr().is_ok_and(|peer| may_be_plain(peer.ip())) => Ok(Box::new(stream)),
            "https" => {
                let name = host_name(url)?;
                let stream = self.tls.connect(name, stream).await.map_err(|e| ClientError::Connection(from, e.to_string()))?;
                Ok(Box::new(stream))
            }
            _ => Err(ClientError::Url(format!("`{}` is plain HTTP to another machine: tokens would be readable on the way", place(url)))),
        }
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Whether tokens may go there without TLS: to this machine only, whatever name led to it.
fn may_be_plain(peer: std::net::IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

/// Scheme, host and port.
fn place(url: &Url) -> String {
    url[..url::Position::BeforePath].to_owned()
}

fn host(url: &Url) -> Result<String, ClientError> {
    let host = url.host_str().ok_or_else(|| ClientError::Url(format!("`{url}` has no host")))?;
    Ok(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

fn host_name(url: &Url) -> Result<rustls::pki_types::ServerName<'static>, ClientError> {
    let wrong = || ClientError::Url(format!("`{url}` has no host that a certificate can name"));
    match url.host().ok_or_else(wrong)? {
        Host::Domain(name) => rustls::pki_types::ServerName::try_from(name.to_owned()).map_err(|_| wrong()),
        Host::Ipv4(ip) => Ok(std::net::IpAddr::from(ip).into()),
        Host::Ipv6(ip) => Ok(std::net::IpAddr::from(ip).into()),
    }
}

/// An error with its causes, on one line.
fn plain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Parses a base URL: http or https, a host, nothing after the path, no trailing slash.
pub(crate) fn base_url(text: &str) -> Result<Url, ClientError> {
    let wrong = |why: &str| ClientError::Url(format!("`{}` is no URL of a broker: {why}", text.escape_debug()));
    let url: Url = text.trim_end_matches('/').parse().map_err(|e: url::ParseError| wrong(&e.to_string()))?;
    let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !plain {
        return Err(wrong("expected `http://` or `https://`, a host, and no credentials or query"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_has_a_host_and_nothing_behind_it() {
        assert_eq!(base_url("http://127.0.0.1:8200/").unwrap().as_str(), "http://127.0.0.1:8200/");
        for bad in ["ftp://a", "http://", "http://u:p@h", "https://h?x=1", "https://h#x", "127.0.0.1:8200", ""] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_go_without_tls_to_this_machine_only() {
        for here in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(may_be_plain(here.parse().unwrap()), "{here}");
        }
        for elsewhere in ["0.0.0.0", "10.0.0.1", "192.168.1.1", "::", "fe80::1", "::ffff:10.0.0.1"] {
            assert!(!may_be_plain(elsewhere.parse().unwrap()), "{elsewhere}");
        }
    }

    #[tokio::test]
    async fn a_broker_that_does_not_run_is_said_to_be_down_with_the_command_that_starts_it() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = base_url(&format!("http://{free}")).unwrap();
        let result = Http::new().unwrap().send(Method::GET, &url, HeaderMap::new(), Bytes::new(), CONNECT_WITHIN).await;
        let failure = Failure::from(result.unwrap_err()).to_string();
        assert!(failure.contains("is not running") && failure.contains("hint: start it: bailiwick up"), "{failure}");
    }

    #[tokio::test]
    async fn a_server_that_accepts_and_says_nothing_is_given_up() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = base_url(&format!("http://{}", silent.local_addr().unwrap())).unwrap();
        let result = Http::new().unwrap().send(Method::GET, &url, HeaderMap::new(), Bytes::new(), Duration::from_millis(50)).await;
        assert!(matches!(result, Err(ClientError::Timeout(..))), "{result:?}");
    }
}
