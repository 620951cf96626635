//! The listener: hyper in front, MCP on the short way, everything else through the router; and an end without lost answers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Either};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::authn::challenge::Shown;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::doors::{self, Doors};
use crate::house::{House, Opened, StartError};
use crate::in_place::InPlace;
use crate::mcp::{self, OutBody};
use crate::mtls::ClientCertificate;
use crate::tls::Acceptor;

/// A client must send its request's head within this.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// The same, and the whole life, of a connection in the reserve.
const RESERVE_HEAD_TIMEOUT: Duration = Duration::from_secs(3);
const RESERVE_LIFE: Duration = Duration::from_secs(20);
/// A TLS handshake must be done within this.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls that run are given this long when the broker stops.
const GRACE: Duration = Duration::from_secs(10);

/// Opens the house, says that it is ready, serves until `stop`, and closes everything.
///
/// # Errors
/// Why it cannot start.
pub async fn run(config: Config, data_dir: &Path, stop: CancellationToken, ready: impl FnOnce(&Arc<House>)) -> Result<(), StartError> {
    let endpoint = data_dir.join("endpoint.json");
    let opened = House::open(config, data_dir, Arc::new(SystemClock::start())).await;
    let Opened { house, listener } = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // Another broker's file is not ours to remove.
            if !matches!(error, StartError::Store(bailiwick_store::StoreError::Locked { .. })) {
                let _ = std::fs::remove_file(endpoint);
            }
            return Err(error);
        }
    };
    ready(&house);
    serve(Arc::clone(&house), listener, stop).await;
    house.shutdown().await;
    // Gone already is as good as removed.
    let _ = std::fs::remove_file(endpoint);
    Ok(())
}

/// Serves connections until `stop`, then lets those that run end.
pub async fn serve(house: Arc<House>, listener: TcpListener, stop: CancellationToken) {
    let router = crate::api::router(Arc::clone(&house));
    let place = Arc::new(Serving { house, router, doors: Doors::default(), connections: TaskTracker::new(), stop });
    let mtls = place.house.config.mtls.as_ref();
    let acceptors = place.house.tls.main_acceptor().and_then(|main| {
        let certified = mtls.map(|config| place.house.tls.mtls_acceptor(&place.house, config)).transpose()?.flatten();
        Ok((main, certified.zip(place.house.tls.take_listener())))
    });
    match acceptors {
        Ok((main, Some((certified, second)))) => {
            tokio::join!(place.accept(listener, main), place.accept(second, Some(certified)));
        }
        Ok((main, None)) => place.accept(listener, main).await,
        // Nobody is let in without what the configuration says.
        Err(error) => tracing::error!(%error, "TLS cannot be used: no connection is accepted"),
    }
    place.house.stop.cancel();
    place.connections.close();
    if tokio::time::timeout(GRACE, place.connections.wait()).await.is_err() {
        tracing::warn!(left = place.connections.len(), "some connections did not end in time");
    }
}

/// What all listeners share.
struct Serving {
    house: Arc<House>,
    router: axum::Router,
    doors: Doors,
    connections: TaskTracker,
    stop: CancellationToken,
}

impl Serving {
    /// Accepts connections of one listener, with TLS or without.
    async fn accept(self: &Arc<Self>, listener: TcpListener, tls: Option<Acceptor>) {
        loop {
            let (stream, peer) = tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of file handles, say: wait a moment rather than spin.
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            // Without a place it is closed at once.
            let Some(entered) = self.doors.enter(peer.ip()) else { continue };
            let (place, tls) = (Arc::clone(self), tls.clone());
            self.connections.spawn(InPlace::new(async move {
                let served = place.one(stream, peer, tls, entered.reserve);
                if !entered.reserve {
                    served.await;
                } else if tokio::time::timeout(RESERVE_LIFE, served).await.is_err() {
                    tracing::debug!(%peer, "a connection in the reserve took too long");
                }
            }));
        }
    }

    /// One connection, from its handshake to its end.
    async fn one(&self, stream: TcpStream, peer: SocketAddr, tls: Option<Acceptor>, reserve: bool) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection went at once");
            return;
        }
        let Some(acceptor) = tls else { return self.connection(stream, peer, None, reserve, &self.stop).await };
        // The roots under which it comes in: read before the handshake looks at them.
        let era = if acceptor.is_mtls() { self.house.tls.era() } else { None };
        let within = if reserve { RESERVE_HEAD_TIMEOUT } else { HANDSHAKE_TIMEOUT };
        let stream = tokio::select! {
            () = self.stop.cancelled() => return,
            shaken = tokio::time::timeout(within, acceptor.accept(stream)) => match shaken {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%error, %peer, "a handshake failed"),
                Err(_) => return tracing::debug!(%peer, "a handshake took too long"),
            },
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|leaf| ClientCertificate::read(leaf));
        match (acceptor.is_mtls(), shown) {
            (false, _) => self.connection(stream, peer, None, reserve, &self.stop).await,
            (true, Some(Ok(certificate))) => {
                let over = era.unwrap_or_default();
                let ends = self.stop.child_token();
                let ended = self.connection(stream, peer, Some(certificate), reserve, &ends);
                tokio::pin!(ended);
                tokio::select! {
                    () = ended.as_mut() => {}
                    () = over.cancelled() => {
                        ends.cancel();
                        ended.await;
                    }
                }
            }
            // The verifier demands one that can be read.
            (true, None | Some(Err(_))) => tracing::error!(%peer, "a handshake without a client's certificate succeeded: closed"),
        }
    }

    async fn connection(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: SocketAddr,
        certificate: Option<ClientCertificate>,
        reserve: bool,
        stop: &CancellationToken,
    ) {
        let (house, router) = (Arc::clone(&self.house), self.router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (house, router) = (Arc::clone(&house), router.clone());
            if let Some(certificate) = &certificate {
                request.extensions_mut().insert(certificate.clone());
            }
            // It is large, and hyper moves it about.
            let answered = Box::pin(answer(house, router, request, peer, reserve));
            async move { Ok::<_, Infallible>(answered.await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(if reserve { RESERVE_HEAD_TIMEOUT } else { HEAD_TIMEOUT })
            .keep_alive(!reserve)
            .max_headers(64)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, %peer, "a connection ended with an error");
        }
    }
}

/// Answers one request, whatever listener it came by: with the challenges of a refusal, and the nonce for the next proof of possession.
pub(crate) async fn answer(
    house: Arc<House>,
    router: axum::Router,
    request: Request<Incoming>,
    peer: SocketAddr,
    reserve: bool,
) -> Response<Either<OutBody, axum::body::Body>> {
    let shown = Shown::of(&request);
    let mut response = dispatch(Arc::clone(&house), router, request, peer, reserve).await;
    house.challenge(shown, &mut response);
    response
}

async fn dispatch(
    house: Arc<House>,
    router: axum::Router,
    mut request: Request<Incoming>,
    peer: SocketAddr,
    reserve: bool,
) -> Response<Either<OutBody, axum::body::Body>> {
    if reserve && doors::is_for_agents(request.uri().path()) {
        return mcp::plain(StatusCode::SERVICE_UNAVAILABLE, "too many connections are open").map(Either::Left);
    }
    if mcp::is_mcp(request.uri().path()) {
        return mcp::serve(house, request, peer).await.map(Either::Left);
    }
    // Probes and scrapers come under any name, and learn nothing that a browser could use.
    let probe = matches!(request.uri().path(), "/healthz" | "/readyz" | "/metrics");
    if !probe && let Err(what) = mcp::check_host(&house, request.headers()) {
        return mcp::plain(StatusCode::FORBIDDEN, what).map(Either::Left);
    }
    request.extensions_mut().insert(ConnectInfo(peer));
    match router.oneshot(request.map(|body| axum::body::Body::new(body.map_err(axum::Error::new)))).await {
        Ok(response) => response.map(Either::Right),
        Err(never) => match never {},
    }
}
