//! Fetching what an issuer publishes: by https, or from this machine; no redirect, no proxy, nothing long and nothing slow. The URL comes
//! from the configuration, or from the discovery document of an issuer that stands there; never from a token.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bailiwick_credentials::address::{innermost, is_never_used};
use bailiwick_identity::foreign::KEY_SET_BYTES_MAX;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::config::LinkConfig;
use crate::export::net::trusting;

/// Name look-up, connection, TLS and answer together.
const WITHIN: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried, and how long each: one that does not answer leaves time for the others.
const ADDRESSES_MAX: usize = 8;
const EACH_WITHIN: Duration = Duration::from_secs(3);

/// Fetches documents under the web's authorities, under given ones besides, or under given ones only.
#[derive(Clone)]
pub(crate) struct Fetcher {
    tls: TlsConnector,
    /// Without TLS beyond this machine too.
    plain: bool,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fetcher")
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Fetcher {
    /// With these authorities, or the web's if there are none.
    ///
    /// # Errors
    /// If an authority is none.
    pub(crate) fn new(roots: &[CertificateDer<'static>]) -> Result<Self, String> {
        let mut store = rustls::RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(|e| e.to_string())?;
        }
        if roots.is_empty() {
            store.roots = webpki_roots::TLS_SERVER_ROOTS.to_vec();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        Ok(Self::over(config.with_root_certificates(store).with_no_client_auth(), false))
    }

    /// As the configuration says of the way to a provider or a transmitter of events: with the web's authorities and these.
    ///
    /// # Errors
    /// If an authority is none.
    pub(crate) fn linked(link: &LinkConfig) -> Result<Self, String> {
        trusting(link).map(|config| Self::over(config, link.allow_plain)).map_err(|e| e.to_string())
    }

    fn over(mut config: rustls::ClientConfig, plain: bool) -> Self {
        config.alpn_protocols.push(b"http/1.1".to_vec());
        Self { tls: Arc::new(config).into(), plain }
    }

    /// Gets one JSON document.
    ///
    /// # Errors
    /// Why there is none, in words without anything that the other side said.
    pub(crate) async fn get(&self, url: &Url) -> Result<Bytes, String> {
        tokio::time::timeout(WITHIN, self.fetched(url)).await.unwrap_or_else(|_| Err(format!("no answer within {} seconds", WITHIN.as_secs())))
    }

    async fn fetched(&self, url: &Url) -> Result<Bytes, String> {
        let stream = self.connected(url).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("the connection failed: {e}"))?;
        let request = request(url)?;
        // Driven here and not by a task of its own: whoever drops this drops the connection.
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|e| format!("no answer: {e}"))?;
            let (head, body) = answer.into_parts();
            //= rfc8414#section-3.2
            // A successful response MUST use the 200 OK HTTP status code. A redirect is none, and is not followed.
            if head.status != StatusCode::OK {
                return Err(format!("it answered {}", head.status.as_u16()));
            }
            let body = Limited::new(body, KEY_SET_BYTES_MAX).collect().await;
            body.map(http_body_util::Collected::to_bytes).map_err(|_| "its answer is too long, or did not arrive whole".to_owned())
        };
        let (exchange, connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
        match futures_util::future::select(exchange, connection).await {
            futures_util::future::Either::Left((done, _)) => done,
            // The connection has ended; what it brought is there already.
            futures_util::future::Either::Right((_, exchange)) => exchange.await,
        }
    }

    async fn connected(&self, url: &Url) -> Result<Box<dyn Io>, String> {
        let secure = url.scheme() == "https";
        let tcp = reached(&addresses(url).await?, secure || self.plain).await?;
        if !secure {
            return Ok(Box::new(tcp));
        }
        match self.tls.connect(server_name(url)?, tcp).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(format!("its certificate or TLS is not acceptable: {error}")),
        }
    }
}

/// A connection to the first of these addresses that may be asked and answers.
async fn reached(addresses: &[SocketAddr], anywhere: bool) -> Result<TcpStream, String> {
    let mut why = "its name has no address".to_owned();
    for address in addresses {
        if let Err(refused) = may_be_asked(address.ip(), anywhere) {
            refused.clone_into(&mut why);
            continue;
        }
        match tokio::time::timeout(EACH_WITHIN, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => why = format!("cannot connect: {}", error.kind()),
            Err(_) => "cannot connect in time".clone_into(&mut why),
        }
    }
    Err(why)
}

/// May this resolved address be asked? Looked at for each connection, so that a name cannot move.
fn may_be_asked(address: IpAddr, anywhere: bool) -> Result<(), &'static str> {
    if is_never_used(address) {
        return Err("link-local, metadata, unspecified and multicast addresses are never used");
    }
    if !anywhere && !innermost(address).is_loopback() {
        return Err("it is not on this machine, and the way there is not encrypted");
    }
    Ok(())
}

async fn addresses(url: &Url) -> Result<Vec<SocketAddr>, String> {
    let port = url.port_or_known_default().ok_or("the URL has no port")?;
    match url.host().ok_or("the URL has no host")? {
        Host::Ipv4(ip) => Ok(vec![(ip, port).into()]),
        Host::Ipv6(ip) => Ok(vec![(ip, port).into()]),
        Host::Domain(name) => {
            let found = tokio::net::lookup_host((name, port)).await.map_err(|_| "its name cannot be resolved")?;
            Ok(found.take(ADDRESSES_MAX).collect())
        }
    }
}

fn server_name(url: &Url) -> Result<ServerName<'static>, String> {
    match url.host().ok_or("the URL has no host")? {
        Host::Domain(name) => ServerName::try_from(name.to_owned()).map_err(|_| "its host is no name that a certificate can have".to_owned()),
        Host::Ipv4(ip) => Ok(IpAddr::from(ip).into()),
        Host::Ipv6(ip) => Ok(IpAddr::from(ip).into()),
    }
}

fn request(url: &Url) -> Result<Request<Empty<Bytes>>, String> {
    let host = url.host_str().ok_or("the URL has no host")?;
    let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let mut request = Request::get(target).body(Empty::new()).map_err(|_| "the URL's path cannot be asked for")?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_str(&authority).map_err(|_| "the host is no header value")?);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, application/jwk-set+json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("bailiwick/", env!("CARGO_PKG_VERSION"))));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_are_never_asked_and_others_only_by_tls() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for never in ["169.254.169.254", "::ffff:169.254.169.254", "0.0.0.0", "fd00:ec2::254"] {
            assert!(may_be_asked(ip(never), true).is_err(), "{never}");
        }
        assert!(may_be_asked(ip("10.1.2.3"), true).is_ok() && may_be_asked(ip("10.1.2.3"), false).is_err());
        assert!(may_be_asked(ip("127.0.0.1"), false).is_ok() && may_be_asked(ip("::ffff:127.0.0.1"), false).is_ok());
    }

    /// A place of this machine that takes no connection and refuses none: its queue is full.
    async fn silent() -> (tokio::net::TcpListener, Vec<TcpStream>) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut waiting = Vec::new();
        while let Ok(one) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(listener.local_addr().unwrap())).await {
            waiting.push(one.unwrap());
        }
        (listener, waiting)
    }

    #[tokio::test]
    async fn an_address_that_is_dead_or_not_to_be_asked_leaves_time_for_the_others() {
        let (quiet, _waiting) = silent().await;
        let good = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (quiet, good) = (quiet.local_addr().unwrap(), good.local_addr().map(|at| (at, good)).unwrap());
        let all = ["169.254.169.254:80".parse().unwrap(), closed, quiet, good.0];
        let within = tokio::time::timeout(WITHIN, reached(&all, true)).await.expect("within the time of one document");
        assert_eq!(within.unwrap().peer_addr().unwrap(), good.0);
        assert_eq!(reached(&[quiet], true).await.unwrap_err(), "cannot connect in time");
    }

    #[tokio::test]
    async fn a_redirect_a_long_answer_and_an_error_are_no_document() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let answers = [
            ("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_owned(), "it answered 302"),
            ("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned(), "it answered 500"),
            (format!("HTTP/1.1 200 OK\r\nContent-Length: {0}\r\n\r\n{1}", KEY_SET_BYTES_MAX + 1, "x".repeat(KEY_SET_BYTES_MAX + 1)), "too long"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}".to_owned(), "too long, or did not arrive whole"),
        ];
        for (answer, says) in answers {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url: Url = format!("http://{}/x?y=1", listener.local_addr().unwrap()).parse().unwrap();
            let served = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let got = stream.read(&mut head).await.unwrap();
                let _ = stream.write_all(answer.as_bytes()).await;
                String::from_utf8_lossy(&head[..got]).into_owned()
            });
            let said = Fetcher::new(&[]).unwrap().get(&url).await.unwrap_err();
            assert!(said.contains(says), "{said}");
            assert!(served.await.unwrap().starts_with("GET /x?y=1 HTTP/1.1\r\n"));
        }
    }
}
