//! A client of the Workload API: in a place that has SPIRE, the trust bundles come from its agent, and change when it says so.
//!
//! Only bundles are fetched, never an SVID: the broker has an identity of its own. What was received stays in force while the agent cannot be reached,
//! for twelve hours at most, and goes at once when it says that we may have it no more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::TrustDomain;
use bailiwick_identity::spiffe::workload_api::{Bundles, bundles_in};
use bailiwick_identity::spiffe::{BUNDLE_MAX, certificates, domain_named};
use bytes::{Bytes, BytesMut};
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::grpc;
use super::server::Executor;
use crate::proofs::KEPT_MAX;

/// The longest message that is read: the bundles of many trust domains.
const MESSAGE_MAX: usize = 4 * 1024 * 1024;
/// The first message comes at once, or the agent hangs.
const FIRST_WITHIN: Duration = Duration::from_secs(10);
/// A connection that is lost is made again after this long, and then after up to thirty times as long.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);
const PERMISSION_DENIED: &str = "7";
/// An agent that does not answer a ping within this hangs. It is asked seldom: servers of gRPC close connections that are pinged more than once in five
/// minutes.
const PING_EVERY: Duration = Duration::from_secs(330);
const PING_WITHIN: Duration = Duration::from_secs(20);

/// Why the Workload API gives no bundles.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadApiError {
    /// The endpoint is not `unix:///path`.
    #[error("`{0}` is no endpoint of a Workload API: expected `unix:///path/of/the.sock`")]
    Endpoint(String),
    /// It cannot be reached, or the connection broke.
    #[error("the Workload API at {path} cannot be reached: {why}")]
    Unreachable {
        /// The socket.
        path: String,
        /// Why.
        why: String,
    },
    /// It refused with a status of gRPC.
    #[error("the Workload API refused with the gRPC status {status}")]
    Refused {
        /// The number.
        status: String,
    },
    /// It said what cannot be read.
    #[error("the Workload API sent {0}")]
    Malformed(&'static str),
}

/// What was received last: whole, of every trust domain that the agent knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// The certificates of those who sign X.509-SVIDs, DER, by trust domain.
    pub x509: BTreeMap<TrustDomain, Vec<Vec<u8>>>,
    /// The JWK set of those who sign JWT-SVIDs, as bytes, by trust domain.
    pub jwt: BTreeMap<TrustDomain, Arc<[u8]>>,
}

/// The Workload API of this machine's SPIFFE implementation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadApi {
    path: PathBuf,
}

/// Bundles that are about to be followed.
#[derive(Debug)]
pub struct Following {
    api: WorkloadApi,
    sender: Arc<watch::Sender<Arc<Received>>>,
}

impl Following {
    /// Follows them until `stop`.
    pub fn start(self, workers: &TaskTracker, stop: &CancellationToken) {
        for which in [Which::X509, Which::Jwt] {
            let (api, workers_too, stop, sender) = (self.api.clone(), workers.clone(), stop.clone(), Arc::clone(&self.sender));
            workers.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = api.follow_one(which, &sender, &workers_too, KEPT_MAX) => {}
                }
            });
        }
    }
}

/// The path of the socket that an endpoint names.
///
/// # Errors
/// [`WorkloadApiError::Endpoint`] for everything but `unix:///path`.
pub fn endpoint_path(endpoint: &str) -> Result<PathBuf, WorkloadApiError> {
    //= spiffe-workload-endpoint#section-4
    // If the scheme is set to `unix`, then the authority component MUST NOT be set, and the path component MUST be set to the
    // absolute path of the SPIFFE Workload Endpoint Unix Domain Socket (e.g. `unix:///path/to/endpoint.sock`).
    let path = endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).map(Path::new);
    let plain = |path: &&Path| path.is_absolute() && !endpoint.contains(['?', '#', '%']);
    path.filter(plain).map(Path::to_path_buf).ok_or_else(|| WorkloadApiError::Endpoint(endpoint.chars().take(200).collect()))
}

/// Which bundles.
#[derive(Clone, Copy, Debug)]
enum Which {
    X509,
    Jwt,
}

impl Which {
    const fn call(self) -> &'static str {
        match self {
            Self::X509 => "/SpiffeWorkloadAPI/FetchX509Bundles",
            Self::Jwt => "/SpiffeWorkloadAPI/FetchJWTBundles",
        }
    }

    /// Reads a message. A trust domain whose bundle cannot be read has none.
    fn read(self, message: &[u8], received: &mut Received) -> Result<(), WorkloadApiError> {
        const MALFORMED: WorkloadApiError = WorkloadApiError::Malformed("a message that is none of bundles");
        let named = |all: Bundles| all.into_iter().filter_map(|(name, content)| Some((domain_named(&name)?, content)));
        match self {
            Self::X509 => {
                let all = bundles_in(message, 2).map_err(|_| MALFORMED)?;
                received.x509 =
                    named(all).filter_map(|(domain, der)| Some((domain, certificates(&der)?))).filter(|(_, all)| !all.is_empty()).collect();
            }
            Self::Jwt => {
                let all = bundles_in(message, 1).map_err(|_| MALFORMED)?;
                let fits = |(_, set): &(TrustDomain, Vec<u8>)| !set.is_empty() && set.len() <= BUNDLE_MAX;
                received.jwt = named(all).filter(fits).map(|(domain, set)| (domain, set.into())).collect();
            }
        }
        Ok(())
    }

    fn forget(self, received: &mut Received) {
        match self {
            Self::X509 => received.x509.clear(),
            Self::Jwt => received.jwt.clear(),
        }
    }
}

impl WorkloadApi {
    /// At this socket.
    #[must_use]
    pub const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Makes ready to follow the bundles. What is received is seen by the receiver, which rings with every change; until the first message there is
    /// nothing in it.
    #[must_use]
    pub fn following(self) -> (Following, watch::Receiver<Arc<Received>>) {
        let (sender, receiver) = watch::channel(Arc::new(Received::default()));
        (Following { api: self, sender: Arc::new(sender) }, receiver)
    }

    async fn follow_one(&self, which: Which, sender: &watch::Sender<Arc<Received>>, workers: &TaskTracker, kept: Duration) {
        let mut pause = AGAIN;
        let mut forgotten = Box::pin(tokio::time::sleep(kept));
        loop {
            let mut came = false;
            let error = self.stream(which, sender, workers, &mut came).await.err();
            if came {
                forgotten = Box::pin(tokio::time::sleep(kept));
            }
            //= spiffe-workload-api#section-5.2.2
            // If the server redacts bundles from a subsequent response (or all bundles, i.e., returns a "PermissionDenied" gRPC status
            // code) the client SHOULD cease using the redacted bundles.
            if matches!(&error, Some(WorkloadApiError::Refused { status }) if status == PERMISSION_DENIED) {
                put(sender, |received| which.forget(received));
            }
            if let Some(error) = &error {
                tracing::warn!(%error, path = %self.path.display(), "trust bundles are not followed; it is tried again");
            }
            //= spiffe-workload-api#section-4.2
            // The connection may, at any time, be terminated by either the server or the client. In this case, the client SHOULD
            // immediately establish a new connection.
            pause = if came { AGAIN } else { pause.saturating_mul(2).min(AGAIN_MAX) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = &mut forgotten, if !forgotten.is_elapsed() => {
                    tracing::error!(path = %self.path.display(), "the trust bundles of a Workload API that cannot be reached are too old: they are forgotten");
                    put(sender, |received| which.forget(received));
                }
            }
        }
    }

    async fn stream(
        &self,
        which: Which,
        sender: &watch::Sender<Arc<Received>>,
        workers: &TaskTracker,
        came: &mut bool,
    ) -> Result<(), WorkloadApiError> {
        let mut body = self.open(which, workers).await?;
        let mut buffer = BytesMut::new();
        loop {
            let next = body.frame();
            let frame = if *came {
                next.await
            } else {
                tokio::time::timeout(FIRST_WITHIN, next).await.map_err(|_| self.unreachable(&"no message came in time"))?
            };
            let Some(frame) = frame else { return Err(self.unreachable(&"the stream ended without a status")) };
            let frame = frame.map_err(|error| self.unreachable(&error))?;
            if let Some(trailers) = frame.trailers_ref() {
                return ended(trailers);
            }
            let Ok(data) = frame.into_data() else { continue };
            buffer.extend_from_slice(&data);
            while let Some(message) = grpc::take(&mut buffer, MESSAGE_MAX).map_err(WorkloadApiError::Malformed)? {
                *came = true;
                let mut read = Ok(());
                put(sender, |received| read = which.read(&message, received));
                read?;
            }
        }
    }

    async fn open(&self, which: Which, workers: &TaskTracker) -> Result<Incoming, WorkloadApiError> {
        let connected = tokio::time::timeout(FIRST_WITHIN, UnixStream::connect(&self.path)).await;
        let stream = connected.map_err(|_| self.unreachable(&"it does not answer"))?.map_err(|error| self.unreachable(&error))?;
        let shaken = http2::Builder::new(Executor(workers.clone()))
            .timer(TokioTimer::new())
            .max_header_list_size(16 * 1024)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream));
        let (mut send, connection) = shaken.await.map_err(|error| self.unreachable(&error))?;
        workers.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a Workload API ended with an error");
            }
        });
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://localhost{}", which.call()))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header("workload.spiffe.io", "true")
            .body(Full::new(grpc::request(b"")))
            .map_err(|error| self.unreachable(&error))?;
        let answered = tokio::time::timeout(FIRST_WITHIN, send.send_request(request)).await;
        let response = answered.map_err(|_| self.unreachable(&"it does not answer"))?.map_err(|error| self.unreachable(&error))?;
        if response.headers().contains_key("grpc-status") {
            ended(response.headers())?;
        }
        Ok(response.into_body())
    }

    fn unreachable(&self, why: &dyn std::fmt::Display) -> WorkloadApiError {
        WorkloadApiError::Unreachable { path: self.path.display().to_string(), why: why.to_string() }
    }
}

fn ended(headers: &http::HeaderMap) -> Result<(), WorkloadApiError> {
    let status = headers.get("grpc-status").and_then(|status| status.to_str().ok()).unwrap_or("none");
    if status == "0" { Ok(()) } else { Err(WorkloadApiError::Refused { status: status.chars().take(8).collect() }) }
}

/// Puts what changed in force; rings only if it did.
fn put(sender: &watch::Sender<Arc<Received>>, change: impl FnOnce(&mut Received)) {
    sender.send_if_modified(|now| {
        let mut next = Received::clone(now);
        change(&mut next);
        let modified = next != **now;
        *now = Arc::new(next);
        modified
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_full_path_of_a_socket() {
        assert_eq!(endpoint_path("unix:///run/spire/agent.sock").unwrap(), Path::new("/run/spire/agent.sock"));
        assert_eq!(endpoint_path("unix:/run/spire/agent.sock").unwrap(), Path::new("/run/spire/agent.sock"));
        for bad in ["", "/run/agent.sock", "unix://host/run/agent.sock", "unix:agent.sock", "tcp://127.0.0.1:80", "unix:///a?b", "unix:///a#b"] {
            assert!(endpoint_path(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn what_was_received_stays_while_the_agent_is_away_for_its_time_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let domain: TrustDomain = "td".parse().unwrap();
        let received = || Received { x509: [(domain.clone(), vec![vec![1]])].into(), jwt: [(domain.clone(), Arc::from(&b"{}"[..]))].into() };
        let of = |kept: Duration| {
            let (sender, receiver) = watch::channel(Arc::new(received()));
            let (api, workers) = (WorkloadApi::at(dir.path().join("nobody.sock")), TaskTracker::new());
            (tokio::spawn(async move { api.follow_one(Which::Jwt, &sender, &workers, kept).await }), receiver)
        };
        let (following, mut receiver) = of(Duration::from_millis(100));
        tokio::time::timeout(Duration::from_secs(10), receiver.wait_for(|now| now.jwt.is_empty())).await.expect("it is forgotten").unwrap();
        assert_eq!(receiver.borrow().x509.len(), 1, "the other is another's to follow");
        following.abort();
        let (following, receiver) = of(Duration::from_secs(3600));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(**receiver.borrow(), received());
        following.abort();
    }

    #[test]
    fn a_trust_domain_whose_bundle_cannot_be_read_has_none() {
        let all: Bundles = [("spiffe://a".to_owned(), vec![0x30, 0]), ("spiffe://B".to_owned(), vec![]), ("x y".to_owned(), vec![1])].into();
        let mut received = Received::default();
        Which::X509.read(&bailiwick_identity::spiffe::workload_api::x509_bundles(&all), &mut received).unwrap();
        assert!(received.x509.is_empty());
        assert!(Which::Jwt.read(&[0xff], &mut received).is_err());
    }
}
