//! Connections to one HTTP upstream: resolved and checked, encrypted where configured, kept open between calls.
//!
//! A connection is driven by the call that uses it, not by a task of its own: dropping it closes its socket at once.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::UpstreamError;
use super::address::{Endpoint, Place};

/// Connections kept open between calls.
const IDLE_MAX: usize = 32;
/// How long one is kept. Shorter than what common servers allow (5 s), so that none is closed while we write to it.
const IDLE_TIME: Duration = Duration::from_secs(4);
/// Connections that may be in use at once.
const OPEN_MAX: usize = 256;
/// For each address, name look-up and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of a response, in bytes, and the number of its headers.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 100;

/// Connections to one endpoint.
pub(super) struct Pool {
    endpoint: Endpoint,
    tls: Option<Tls>,
    idle: Mutex<VecDeque<Idle>>,
    open: Arc<Semaphore>,
}

/// TLS, and whom we trust, for connections with a certificate of a task.
struct Tls {
    plain: TlsConnector,
    roots: Arc<rustls::RootCertStore>,
}

/// A client certificate, and the connections that were opened with it: no request of anybody else goes over them. Once it is over, they are closed,
/// and no other is opened.
pub struct ClientCertificate {
    key: Arc<CertifiedKey>,
    idle: Mutex<VecDeque<Idle>>,
    over: AtomicBool,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate").field("over", &self.is_over()).finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// With its key.
    #[must_use]
    pub fn new(key: Arc<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self { key, idle: Mutex::default(), over: AtomicBool::new(false) })
    }

    /// Closes what is open and idle; what is in use is closed by whoever uses it, and not kept.
    pub fn close(&self) {
        self.over.store(true, Ordering::Release);
        locked(&self.idle).clear();
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

fn locked(idle: &Mutex<VecDeque<Idle>>) -> MutexGuard<'_, VecDeque<Idle>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Idle {
    link: Link,
    since: Instant,
}

/// One connection, to be used for one exchange at a time.
pub(super) struct Conn {
    link: Link,
    /// Whether it has served an exchange before.
    pub(super) reused: bool,
    /// With which it was opened.
    certificate: Option<Arc<ClientCertificate>>,
    /// `None` for a standing stream: it must not take the place of a call.
    _place: Option<OwnedSemaphorePermit>,
}

struct Link {
    sender: SendRequest<Full<Bytes>>,
    /// `None` once it has ended.
    wire: Option<Wire>,
}

/// What moves the bytes of a connection, for as long as someone polls it.
type Wire = Pin<Box<Connection<TokioIo<Stream>, Full<Bytes>>>>;

/// Why a request got no response.
pub(super) struct SendFailure {
    /// The request, if no byte of it was written.
    pub(super) unsent: Option<Request<Full<Bytes>>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(endpoint: Endpoint, extra_roots: &[CertificateDer<'static>]) -> Result<Self, rustls::Error> {
        let tls = endpoint.tls.is_some().then(|| Tls::new(extra_roots)).transpose()?;
        Ok(Self { endpoint, tls, idle: Mutex::default(), open: Arc::new(Semaphore::new(OPEN_MAX)) })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A connection with this certificate that is open as far as we can know, else a new one.
    pub(super) async fn take(&self, certificate: Option<Arc<ClientCertificate>>) -> Result<Conn, UpstreamError> {
        let place = self.place().await?;
        while let Some(mut link) = self.pop_idle(certificate.as_ref()) {
            if link.is_usable().await {
                return Ok(Conn { link, reused: true, certificate, _place: Some(place) });
            }
        }
        self.connect(Some(place), certificate).await
    }

    /// A new connection.
    pub(super) async fn fresh(&self, certificate: Option<Arc<ClientCertificate>>) -> Result<Conn, UpstreamError> {
        let place = self.place().await?;
        self.connect(Some(place), certificate).await
    }

    /// A new connection for a standing stream. The caller limits how many there are.
    pub(super) async fn beside(&self, certificate: Option<Arc<ClientCertificate>>) -> Result<Conn, UpstreamError> {
        self.connect(None, certificate).await
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, UpstreamError> {
        let place = Arc::clone(&self.open).acquire_owned().await;
        place.map_err(|_| UpstreamError::unavailable("the broker has stopped using it"))
    }

    /// Keeps a connection whose response was read to its end.
    pub(super) fn put(&self, conn: Conn) {
        let Conn { link, certificate, .. } = conn;
        if link.wire.is_some() && !link.sender.is_closed() {
            let mut idle = self.idle_of(certificate.as_ref());
            // Looked at under the lock under which its end takes them away.
            if certificate.as_ref().is_some_and(|certificate| certificate.is_over()) {
                return;
            }
            while idle.len() >= IDLE_MAX || idle.front().is_some_and(|oldest| oldest.since.elapsed() >= IDLE_TIME) {
                idle.pop_front();
            }
            idle.push_back(Idle { link, since: Instant::now() });
        }
    }

    fn idle_of<'p>(&'p self, certificate: Option<&'p Arc<ClientCertificate>>) -> MutexGuard<'p, VecDeque<Idle>> {
        locked(certificate.map_or(&self.idle, |certificate| &certificate.idle))
    }

    /// Closes connections that were not used for a while.
    pub(super) fn sweep(&self) {
        let mut idle = locked(&self.idle);
        while idle.front().is_some_and(|oldest| oldest.since.elapsed() >= IDLE_TIME) {
            idle.pop_front();
        }
    }

    fn pop_idle(&self, certificate: Option<&Arc<ClientCertificate>>) -> Option<Link> {
        let newest = self.idle_of(certificate).pop_back()?;
        (newest.since.elapsed() < IDLE_TIME).then_some(newest.link)
    }

    async fn connect(&self, place: Option<OwnedSemaphorePermit>, certificate: Option<Arc<ClientCertificate>>) -> Result<Conn, UpstreamError> {
        if certificate.as_ref().is_some_and(|certificate| certificate.is_over()) {
            return Err(UpstreamError::NoCredential);
        }
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, self.dial(certificate.as_deref())).await {
            Ok(dialed) => dialed?,
            Err(_) => {
                return Err(UpstreamError::unavailable("it takes too long to connect to"));
            }
        };
        let built = http1::Builder::new().max_header_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).handshake(TokioIo::new(stream)).await;
        let (sender, wire) = built.map_err(|_| UpstreamError::unavailable("the connection failed at once"))?;
        Ok(Conn { link: Link { sender, wire: Some(Box::pin(wire)) }, reused: false, certificate, _place: place })
    }

    async fn dial(&self, certificate: Option<&ClientCertificate>) -> Result<Stream, UpstreamError> {
        let tcp = self.dial_tcp().await?;
        // A call is one small write: it must not wait for the acknowledgement of the last one.
        drop(tcp.set_nodelay(true));
        match (&self.tls, &self.endpoint.tls) {
            (Some(tls), Some(name)) => {
                let own = certificate.map(|certificate| tls.with(certificate)).transpose();
                let own = own.map_err(|_| UpstreamError::unavailable("its client certificate is not usable"))?;
                let connector = own.as_ref().unwrap_or(&tls.plain);
                let secured = connector.connect(name.clone(), tcp).await;
                let secured = secured.map_err(|error| {
                    tracing::debug!(%error, "TLS to a system failed");
                    UpstreamError::unavailable("its certificate or TLS is not acceptable")
                })?;
                Ok(Stream::Tls(Box::new(secured)))
            }
            _ => Ok(Stream::Plain(tcp)),
        }
    }

    /// Connects to an address that was checked after it was resolved: never to the name.
    async fn dial_tcp(&self) -> Result<TcpStream, UpstreamError> {
        let addresses = self.resolve().await?;
        // One bad address spoils the name: a mixed answer is how rebinding looks.
        for ip in &addresses {
            self.endpoint.check(*ip).map_err(UpstreamError::unavailable)?;
        }
        let mut failure = UpstreamError::unavailable("its name has no address");
        for ip in addresses {
            match TcpStream::connect(SocketAddr::new(ip, self.endpoint.port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    failure = UpstreamError::unavailable(format!("cannot connect: {}", error.kind()));
                }
            }
        }
        Err(failure)
    }

    async fn resolve(&self) -> Result<Vec<IpAddr>, UpstreamError> {
        match &self.endpoint.place {
            Place::Address(ip) => Ok(vec![*ip]),
            Place::Name(name) => {
                let found = tokio::net::lookup_host((name.as_str(), self.endpoint.port)).await;
                let found = found.map_err(|_| UpstreamError::unavailable("its name cannot be resolved"))?;
                Ok(found.map(|address| address.ip()).take(16).collect())
            }
        }
    }
}

impl Tls {
    /// TLS with the web's roots and what the operator added; HTTP/1.1 only.
    fn new(extra_roots: &[CertificateDer<'static>]) -> Result<Self, rustls::Error> {
        let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for root in extra_roots {
            roots.add(root.clone())?;
        }
        let roots = Arc::new(roots);
        let config = trusting(&roots)?.with_no_client_auth();
        Ok(Self { plain: connector(config), roots })
    }

    /// The same, showing this certificate.
    fn with(&self, certificate: &ClientCertificate) -> Result<TlsConnector, rustls::Error> {
        let key = SingleCertAndKey::from(Arc::clone(&certificate.key));
        let mut config = trusting(&self.roots)?.with_client_cert_resolver(Arc::new(key));
        // A session that is taken up again would not show the certificate.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(connector(config))
    }
}

fn trusting(
    roots: &Arc<rustls::RootCertStore>,
) -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(Arc::clone(roots)))
}

fn connector(mut config: rustls::ClientConfig) -> TlsConnector {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

impl Link {
    /// Polls once: notices that the server has closed it, and makes it ready for the next request.
    async fn is_usable(&mut self) -> bool {
        poll_fn(|cx| {
            self.poll_wire(cx);
            Poll::Ready(self.wire.is_some() && self.sender.is_ready())
        })
        .await
    }

    fn poll_wire(&mut self, cx: &mut Context<'_>) {
        poll_wire(&mut self.wire, cx);
    }
}

fn poll_wire(wire: &mut Option<Wire>, cx: &mut Context<'_>) {
    if let Some(open) = wire
        && open.as_mut().poll(cx).is_ready()
    {
        *wire = None;
    }
}

impl Conn {
    /// Sends a request and waits for the head of its response.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, SendFailure> {
        let Link { sender, wire } = &mut self.link;
        let sent = sender.try_send_request(request);
        drive(wire, sent).await.map_err(|mut failed| {
            tracing::debug!(error = %failed.error(), "a request to a system failed");
            SendFailure { unsent: failed.take_message() }
        })
    }

    /// The next piece of the body; `None` at its end, an error if the connection broke off.
    pub(super) async fn next(&mut self, body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            if hyper::body::Body::is_end_stream(body) {
                return None;
            }
            match drive(&mut self.link.wire, body.frame()).await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Awaits `work`, which needs the connection to make progress.
async fn drive<F: Future>(wire: &mut Option<Wire>, work: F) -> F::Output {
    let mut work = std::pin::pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        poll_wire(wire, cx);
        work.as_mut().poll(cx)
    })
    .await
}

/// Bytes, encrypted or not.
#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }
}
