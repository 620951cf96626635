//! The broker's own Unix socket: what is served at the address is served here too, and the process that connects is a proof of its agent.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;

use super::peer::Peer;
use super::socket::{Counted, Socket};
use crate::house::House;

/// A client must send its request's head within this.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
const GRACE: Duration = Duration::from_secs(8);

/// The process that a request came from, beside the request. Only this listener puts it there.
#[derive(Clone, Debug)]
pub(crate) struct LocalProcess(pub(crate) Arc<Peer>);

/// Serves connections until the broker stops.
pub(super) async fn serve(house: Arc<House>, socket: Socket) {
    let router = crate::api::router(Arc::clone(&house));
    loop {
        let (stream, peer, counted) = tokio::select! {
            () = house.stop.cancelled() => return,
            next = socket.next(|_| true) => next,
        };
        house.workers.spawn(connection(Arc::clone(&house), router.clone(), stream, peer, counted));
    }
}

async fn connection(house: Arc<House>, router: axum::Router, stream: UnixStream, peer: Arc<Peer>, _counted: Counted) {
    let stop = house.stop.clone();
    // No browser reaches a Unix socket, so no name can be rebound to it: whatever a client calls us, it means us.
    let host = house.urls.hosts.first().and_then(|host| HeaderValue::from_str(host).ok());
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (house, router) = (Arc::clone(&house), router.clone());
        if let Some(host) = &host {
            request.headers_mut().insert(header::HOST, host.clone());
        }
        request.extensions_mut().insert(LocalProcess(Arc::clone(&peer)));
        let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        async move { Ok::<_, Infallible>(crate::serve::answer(house, router, request, from, false).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a local connection ended with an error");
    }
}
