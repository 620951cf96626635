//! The Workload API (`spiffe/spiffe`, `standards/SPIFFE_Workload_API.md`), served to the processes that connect to its socket.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::{Agent, Timestamp};
use bailiwick_identity::ProofError;
use bailiwick_identity::foreign::{Claimed, jwt_svid};
use bailiwick_identity::spiffe::workload_api::{self as message, JwtRequest, ValidateRequest, X509};
use bailiwick_identity::spiffe::{AuthorityError, domain_of};
use bytes::Bytes;
use http::{Method, Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use super::authority_field::AnyAuthority;
use super::grpc::{self, Answer, Code, Frames, OK, Status};
use super::peer::{self, Attested, Peer};
use super::socket::{Counted, Socket};
use super::{Issuer, NOBODY};
use crate::clock::random;
use crate::house::House;

/// Calls on one connection at a time.
const STREAMS_MAX: u32 = 16;
/// What a client may send on one stream before we have read it: its message, and nothing beyond.
const WINDOW: u32 = 64 * 1024 + 5;
/// A client that does not answer a ping within this is gone: its process was stopped, say.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WITHIN: Duration = Duration::from_secs(20);
/// A connection on which no call is made for so long is closed: at first, and after the last call. Clients connect again by themselves.
const FIRST_CALL_WITHIN: Duration = Duration::from_secs(30);
const IDLE_MAX: Duration = Duration::from_secs(300);
/// A client must take a message within this.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// A client must send its message within this.
const MESSAGE_WITHIN: Duration = Duration::from_secs(10);
/// A stream of an agent that is not in service any more ends within this.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Connections that are open are given this long when the broker stops.
const GRACE: Duration = Duration::from_secs(2);

const SERVICE: &str = "/SpiffeWorkloadAPI/";
const STOPS: Status = Status(Code::Unavailable, "the broker stops");
const MALFORMED: Status = Status(Code::InvalidArgument, "the message is malformed");

/// Serves connections until the broker stops.
pub(super) async fn serve(house: Arc<House>, issuer: Arc<Issuer>, socket: Socket) {
    loop {
        let (stream, peer, counted) = tokio::select! {
            () = house.stop.cancelled() => return,
            next = socket.next(|peer| peer::may_be_agent(peer, &house.config)) => next,
        };
        house.workers.spawn(connection(Arc::clone(&house), Arc::clone(&issuer), stream, peer, counted));
    }
}

/// Runs what a connection needs beside itself under the house's own count of tasks.
#[derive(Clone, Debug)]
pub(super) struct Executor(pub(super) TaskTracker);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        drop(self.0.spawn(future));
    }
}

async fn connection(house: Arc<House>, issuer: Arc<Issuer>, stream: UnixStream, peer: Arc<Peer>, _counted: Counted) {
    let stop = house.stop.clone();
    let executor = Executor(house.workers.clone());
    let (calls, idle) = Calls::new();
    let service = service_fn(move |request: Request<Incoming>| {
        let (house, issuer, peer, one) = (Arc::clone(&house), Arc::clone(&issuer), Arc::clone(&peer), calls.begin());
        async move { Ok::<_, Infallible>(call(house, issuer, peer, request, one).await.unwrap_or_else(grpc::refused)) }
    });
    let connection = http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_frame_size(16 * 1024)
        .max_header_list_size(16 * 1024)
        .max_send_buf_size(256 * 1024)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WITHIN)
        .serve_connection(TokioIo::new(AnyAuthority::new(stream)), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop_or_idle(&stop, idle) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection to the Workload API ended with an error");
    }
}

/// How many calls a connection has under way.
#[derive(Clone, Debug)]
struct Calls(Arc<watch::Sender<usize>>);

/// One call, until it is dropped.
#[derive(Debug)]
struct UnderWay(Calls);

impl Calls {
    fn new() -> (Self, watch::Receiver<usize>) {
        let (sender, receiver) = watch::channel(0);
        (Self(Arc::new(sender)), receiver)
    }

    fn begin(&self) -> UnderWay {
        self.0.send_modify(|calls| *calls = calls.saturating_add(1));
        UnderWay(self.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.send_modify(|calls| *calls = calls.saturating_sub(1));
    }
}

async fn stop_or_idle(stop: &CancellationToken, calls: watch::Receiver<usize>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = idle(calls, FIRST_CALL_WITHIN, IDLE_MAX) => tracing::debug!("a connection to the Workload API on which nothing was asked is closed"),
    }
}

/// Waits until no call was under way for too long.
async fn idle(mut calls: watch::Receiver<usize>, first: Duration, later: Duration) {
    let mut patience = first;
    loop {
        let busy = *calls.borrow_and_update() > 0;
        if busy {
            patience = later;
        }
        match tokio::time::timeout(patience, calls.changed()).await {
            // A call came or ended in between, however short it was.
            Ok(Ok(())) => patience = later,
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) if busy => {}
            Err(_) => return,
        }
    }
}

/// What is streamed, again and again as it changes.
#[derive(Clone, Copy, Debug)]
enum Streamed {
    X509Svid,
    X509Bundles,
    JwtBundles,
}

async fn call(
    house: Arc<House>,
    issuer: Arc<Issuer>,
    peer: Arc<Peer>,
    request: Request<Incoming>,
    under_way: UnderWay,
) -> Result<Response<Frames>, Status> {
    let (parts, body) = request.into_parts();
    let is_grpc = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if parts.method != Method::POST || !is_grpc {
        return Err(Status(Code::InvalidArgument, "expected a call by gRPC"));
    }
    //= spiffe-workload-endpoint#section-3
    // Every client request to the SPIFFE Workload Endpoint MUST include the static gRPC metadata key `workload.spiffe.io` with a
    // value of `true` (case sensitive). Requests not including this metadata key/value MUST be rejected.
    let mut said = parts.headers.get_all("workload.spiffe.io").iter();
    if said.next().is_none_or(|value| value != "true") || said.next().is_some() {
        return Err(Status(Code::InvalidArgument, "the security header is missing: workload.spiffe.io: true"));
    }
    let read = tokio::time::timeout(MESSAGE_WITHIN, grpc::message(body)).await;
    let bytes = read.map_err(|_| Status(Code::InvalidArgument, "the message did not come in time"))??;
    let streamed = match parts.uri.path().strip_prefix(SERVICE) {
        Some("FetchX509SVID") => Streamed::X509Svid,
        Some("FetchX509Bundles") => Streamed::X509Bundles,
        Some("FetchJWTBundles") => Streamed::JwtBundles,
        Some("FetchJWTSVID") => return one(fetch_jwt(&house, &issuer, &peer, &bytes).await?, &house, under_way),
        Some("ValidateJWTSVID") => return one(validate(&house, &issuer, &peer, &bytes).await?, &house, under_way),
        //= spiffe-workload-endpoint#appendix-a
        // Unimplemented: The requested RPC is not implemented by the server.
        _ => return Err(Status(Code::Unimplemented, "this call is not offered")),
    };
    // Whoever may have nothing is told at once, without a stream.
    house.entitled(&peer).await?;
    let (answer, response) = grpc::answer();
    let workers = house.workers.clone();
    workers.spawn(async move {
        if let Err(status) = stream(&house, &issuer, &peer, streamed, &answer).await {
            taken(answer.finish(status)).await;
        }
        drop(under_way);
    });
    Ok(response)
}

/// An answer of one message.
fn one(message: Vec<u8>, house: &House, under_way: UnderWay) -> Result<Response<Frames>, Status> {
    let (answer, response) = grpc::answer();
    house.workers.spawn(async move {
        if taken(answer.send(&message)).await == Some(true) {
            taken(answer.finish(OK)).await;
        }
        drop(under_way);
    });
    Ok(response)
}

/// What a client takes in time. One that does not read holds nothing here: neither a place nor a look at who it is.
async fn taken<T>(sent: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(TAKEN_WITHIN, sent).await.ok()
}

/// Sends the whole of what the process may have, and again when it changes, until the client is gone or may have it no more.
async fn stream(house: &Arc<House>, issuer: &Issuer, peer: &Arc<Peer>, streamed: Streamed, answer: &Answer) -> Result<(), Status> {
    let mut changed = issuer.changed.subscribe();
    loop {
        changed.mark_unchanged();
        let (attested, agent) = house.entitled(peer).await?;
        let (message, renew) = match streamed {
            Streamed::X509Svid => x509(house, issuer, &attested, agent).await?,
            Streamed::X509Bundles => {
                let own = issuer.authority.load().roots().concat();
                (Zeroizing::new(message::x509_bundles(&issuer.with_federated(own, |federated| &federated.x509))), None)
            }
            Streamed::JwtBundles => {
                let own = issuer.authority.load().jwt_bundle().to_string().into_bytes();
                (Zeroizing::new(message::jwt_bundles(&issuer.with_federated(own, |federated| &federated.jwt))), None)
            }
        };
        if taken(answer.send(&message)).await != Some(true) {
            return Ok(());
        }
        drop(message);
        loop {
            tokio::select! {
                () = answer.gone() => return Ok(()),
                () = house.stop.cancelled() => return Err(STOPS),
                _ = changed.changed() => break,
                () = tokio::time::sleep(LOOK_AGAIN) => {
                    let (now_attested, _) = house.entitled(peer).await?;
                    if now_attested.agent != attested.agent {
                        return Err(NOBODY);
                    }
                    if renew.is_some_and(|renew: Timestamp| house.clock.now() >= renew) {
                        break;
                    }
                }
            }
        }
    }
}

/// A fresh X.509-SVID, and when it is to be renewed.
async fn x509(house: &House, issuer: &Issuer, attested: &Attested, agent: &Agent) -> Result<(Zeroizing<Vec<u8>>, Option<Timestamp>), Status> {
    house.in_svid_pace(agent).await?;
    let authority = issuer.authority.load_full();
    let now = house.clock.now();
    let svid = authority.x509_svid(&agent.spiffe_id, issuer.settings.x509_life, random(), now).map_err(|error| refused(&error))?;
    let serial: String = svid.serial.iter().map(|byte| format!("{byte:02x}")).collect();
    house.note_issued(issuer, attested, &agent.spiffe_id, "X.509-SVID".to_owned(), Some(&serial)).await?;
    metrics::counter!("bailiwick_svids_issued_total", "kind" => "x509").increment(1);
    let bundle = authority.roots().concat();
    let parts = X509 { id: agent.spiffe_id.as_str(), certificate: &svid.certificate, key: &svid.key, bundle: &bundle };
    Ok((message::x509_response(&parts, &issuer.federated.load().x509), Some(now.plus(now.until(svid.expires) / 2))))
}

async fn fetch_jwt(house: &Arc<House>, issuer: &Issuer, peer: &Arc<Peer>, bytes: &Bytes) -> Result<Vec<u8>, Status> {
    let asked = JwtRequest::parse(bytes).map_err(|_| MALFORMED)?;
    //= spiffe-workload-api#section-4.5
    // Servers receiving a message in which a mandatory field has a default value SHOULD respond with the "InvalidArgument" gRPC
    // status code.
    if asked.audience.is_empty() {
        return Err(Status(Code::InvalidArgument, "an audience is needed"));
    }
    let (attested, agent) = house.entitled(peer).await?;
    if asked.id.is_some_and(|id| id != agent.spiffe_id.as_str()) {
        return Err(NOBODY);
    }
    house.in_svid_pace(agent).await?;
    let authority = issuer.authority.load_full();
    let svid = authority.jwt_svid(&agent.spiffe_id, &asked.audience, issuer.settings.jwt_life, house.clock.now()).map_err(|error| refused(&error))?;
    let audience: String = asked.audience.join(" ").chars().take(200).collect();
    house.note_issued(issuer, &attested, &agent.spiffe_id, format!("JWT-SVID for {audience}"), None).await?;
    metrics::counter!("bailiwick_svids_issued_total", "kind" => "jwt").increment(1);
    Ok(message::jwt_response(agent.spiffe_id.as_str(), &svid.token))
}

async fn validate(house: &Arc<House>, issuer: &Issuer, peer: &Arc<Peer>, bytes: &Bytes) -> Result<Vec<u8>, Status> {
    let asked = ValidateRequest::parse(bytes).map_err(|_| MALFORMED)?;
    if asked.audience.is_empty() || asked.svid.is_empty() {
        return Err(Status(Code::InvalidArgument, "an audience and an SVID are needed"));
    }
    let (_, agent) = house.entitled(peer).await?;
    house.in_svid_pace(agent).await?;
    let svid = validated(house, issuer, &asked).map_err(|error| {
        tracing::info!(%error, "a JWT-SVID was not valid");
        Status(Code::InvalidArgument, "the JWT-SVID is not valid for this audience")
    })?;
    Ok(message::validated(svid.id.as_str(), &svid.claims.into_json()))
}

//= spiffe-workload-api#section-6.2.3
// The server MUST parse and validate the JWT-SVID according to the rules outlined in the JWT-SVID specification.
fn validated(house: &House, issuer: &Issuer, asked: &ValidateRequest) -> Result<jwt_svid::Svid, ProofError> {
    //= spiffe-trust-domain-and-bundle#section-3
    // When validating an SVID, validators must choose the bundle corresponding to the trust domain that the SVID resides in.
    let subject = Claimed::read(&asked.svid)?.subject.and_then(|subject| subject.parse().ok());
    let domain = subject.and_then(|id| domain_of(&id)).ok_or(ProofError::Claim("sub"))?;
    let keys = house.keys_for_agents(issuer, &domain).ok_or(ProofError::Key)?;
    jwt_svid::verify_for(&asked.svid, &keys, &domain, &asked.audience, house.clock.now())
}

fn refused(error: &AuthorityError) -> Status {
    match error {
        AuthorityError::Asked(_) => Status(Code::InvalidArgument, "no SVID is made for this audience: one to eight, each of 1 to 512 bytes"),
        error => {
            tracing::error!(%error, "an SVID could not be made");
            Status(Code::Internal, "the SVID could not be made")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_is_idle_only_once_no_call_was_under_way_for_long_enough() {
        const SHORT: Duration = Duration::from_millis(20);
        const LONG: Duration = Duration::from_secs(3600);
        let within = |watched, first, later| tokio::time::timeout(Duration::from_millis(200), idle(watched, first, later));
        let (_calls, watched) = Calls::new();
        assert!(within(watched.clone(), SHORT, LONG).await.is_ok(), "nothing was ever asked");
        assert!(within(watched, LONG, SHORT).await.is_err(), "there is time for a first call");
        let (calls, watched) = Calls::new();
        let (one, two) = (calls.begin(), calls.begin());
        drop(one);
        assert!(within(watched.clone(), SHORT, SHORT).await.is_err(), "a call is under way");
        drop(two);
        assert!(within(watched, LONG, SHORT).await.is_err(), "of one that looks now it is the first time");
        let (calls, watched) = Calls::new();
        let looked = tokio::spawn(idle(watched, LONG, SHORT));
        tokio::task::yield_now().await;
        drop(calls.begin());
        assert!(tokio::time::timeout(Duration::from_secs(5), looked).await.is_ok(), "its last call is over");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_not_waited_for_without_end() {
        let (answer, response) = grpc::answer();
        let sent = async {
            for _ in 0..10 {
                if tokio::time::timeout(Duration::from_millis(50), answer.send(b"x")).await.is_err() {
                    return true;
                }
            }
            false
        };
        assert!(sent.await, "what is not read stands in a short queue");
        drop(response);
        assert_eq!(taken(answer.send(b"x")).await, Some(false));
    }
}
