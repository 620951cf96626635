//! An upstream over streamable HTTP: one POST for each call, JSON answers without detours, no redirects, no proxies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bailiwick_wire::mcp::{Id, Method as McpMethod, Version};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::{Notify, Semaphore, mpsc};

use super::answer::{Answered, Exchange, by_status};
use super::config::Inject;
use super::connect::{ClientCertificate, Conn, Pool, SendFailure};
use super::frame::{self, MetaEra, Outgoing};
use super::session::{Session, Sessions};
use super::{CallScope, Event, Reply, SessionKey, Shared, State, UpstreamError, UpstreamRequest, UseEra};

/// How often unused connections are looked at.
const SWEEP: Duration = Duration::from_secs(2);
/// How long ending all sessions may take when the upstream is stopped.
const FAREWELL: Duration = Duration::from_secs(3);

/// Messages on their way to one upstream that nobody waits for. What exceeds it is not sent.
const TELLING_MAX: usize = 64;
/// Questions of one upstream that may wait for clients.
const ASKING_MAX: usize = 256;

const ACCEPT_BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const ACCEPT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("bailiwick/", env!("CARGO_PKG_VERSION")));
pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
pub(super) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// Finds out what the address speaks, again and again until it is known; then keeps house until the upstream is stopped.
pub(super) async fn supervise(shared: Arc<Shared>, pool: Pool) {
    let link = Arc::new(HttpLink {
        shared: Arc::clone(&shared),
        pool,
        next_id: AtomicU64::new(1),
        sessions: Sessions::default(),
        telling: Arc::new(Semaphore::new(TELLING_MAX)),
        asking: Arc::new(Semaphore::new(ASKING_MAX)),
        suspect: Notify::new(),
    });
    let work = async {
        find(&shared, &link).await;
        loop {
            tokio::select! {
                () = tokio::time::sleep(SWEEP) => link.pool.sweep(),
                () = link.suspect.notified() => find_again(&shared, &link).await,
            }
        }
    };
    tokio::select! {
        () = shared.stop.cancelled() => {}
        () = work => {}
    }
    drop(tokio::time::timeout(FAREWELL, link.end_all_sessions()).await);
    shared.set(State::Stopped);
}

async fn find(shared: &Shared, link: &Arc<HttpLink>) {
    let mut wait = shared.config.backoff.first;
    loop {
        let why = match super::detect::http(shared, link).await {
            Ok(live) => {
                tracing::info!(system = %shared.system(), support = ?live.support, "a system is ready");
                return shared.ready(live);
            }
            Err(why) => why,
        };
        tracing::warn!(system = %shared.system(), why, wait_ms = wait.as_millis(), "a system cannot be used");
        let begun = Instant::now();
        shared.set(State::BackingOff { until: begun.checked_add(wait).unwrap_or(begun), why: why.into() });
        tokio::time::sleep(wait).await;
        wait = wait.saturating_mul(2).min(shared.config.backoff.max);
        shared.set(State::Starting);
    }
}

/// Looks again at a server that was away or answers like another one: it may have come back with other eras. Calls go on
/// meanwhile, as well as they can.
async fn find_again(shared: &Shared, link: &Arc<HttpLink>) {
    let mut wait = shared.config.backoff.first;
    loop {
        tokio::time::sleep(wait).await;
        if let Ok(live) = super::detect::http(shared, link).await {
            tracing::info!(system = %shared.system(), support = ?live.support, "a system is back");
            shared.ready(live);
            // The search itself may have raised suspicion.
            let _ = link.suspect.notified().now_or_never();
            return shared.notice_return();
        }
        wait = wait.saturating_mul(2).min(shared.config.backoff.max);
    }
}

/// Everything that calls over HTTP share.
#[derive(Debug)]
pub(super) struct HttpLink {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Pool,
    next_id: AtomicU64,
    pub(super) sessions: Sessions,
    /// Messages on their way that nobody waits for: an upstream that asks without end must not keep us busy without end.
    pub(super) telling: Arc<Semaphore>,
    /// Questions that wait for a client's answer.
    pub(super) asking: Arc<Semaphore>,
    /// Told when the server cannot be reached, or does not answer like what it was.
    pub(super) suspect: Notify,
}

impl HttpLink {
    /// One request and its answer.
    pub(super) async fn call(
        self: &Arc<Self>,
        request: &UpstreamRequest<'_>,
        events: Option<mpsc::Sender<Event>>,
        scope: &CallScope,
    ) -> Result<Reply, UpstreamError> {
        match request.era {
            UseEra::Modern { capabilities } => {
                let shown = frame::shown_capabilities(capabilities, self.shared.config.relay);
                self.call_modern(request, &shown, events, scope).await
            }
            UseEra::Legacy { version, capabilities } => {
                frame::Mirrored::read(request.params)?;
                let shown = frame::shown_capabilities(capabilities, self.shared.config.relay);
                let inject = self.injector(request);
                for _ in 0..2 {
                    let session = self.session(request.session, version, &shown, inject).await?;
                    match self.call_legacy(&session, request, events.clone(), scope).await? {
                        Answered::Reply(reply) => return Ok(reply),
                        Answered::SessionLost => {
                            scope.unmark_sent();
                            self.sessions.forget(request.session, version, &shown, &session).await;
                            // A server that forgot its sessions has started anew, and may have other tools.
                            self.shared.lives_anew(session.life);
                            self.shared.check_life(request, self.shared.life())?;
                        }
                        Answered::SessionDoubtful(reply) => {
                            self.sessions.forget(request.session, version, &shown, &session).await;
                            if !is_safe(request.method) {
                                return Ok(reply);
                            }
                        }
                    }
                }
                Err(UpstreamError::unavailable("it does not keep its sessions"))
            }
        }
    }

    pub(super) fn injector<'r>(&'r self, request: &'r UpstreamRequest<'_>) -> &'r Arc<dyn Inject> {
        request.inject.as_ref().unwrap_or(&self.shared.inject)
    }

    async fn call_modern(
        self: &Arc<Self>,
        request: &UpstreamRequest<'_>,
        capabilities: &str,
        events: Option<mpsc::Sender<Event>>,
        scope: &CallScope,
    ) -> Result<Reply, UpstreamError> {
        let id = self.next_id();
        let http = self.modern_request(id, request, capabilities, events.is_some())?;
        let token = request.progress_token.map(Id::to_owned);
        let exchange = Exchange { id, session: None, modern: true, events, token };
        let certificate = self.injector(request).certificate()?;
        let (conn, response) = self.send(http, certificate, is_safe(request.method), Some(scope)).await?;
        match self.answer(conn, response, &exchange).await? {
            Answered::Reply(reply) => Ok(reply),
            Answered::SessionLost | Answered::SessionDoubtful(_) => Err(UpstreamError::unavailable("it wants a session that this revision has not")),
        }
    }

    /// The HTTP request of a modern call, its mirrored headers derived from its body.
    pub(super) fn modern_request(
        &self,
        id: u64,
        request: &UpstreamRequest<'_>,
        capabilities: &str,
        events: bool,
    ) -> Result<Request<Full<Bytes>>, UpstreamError> {
        let mirrored = frame::Mirrored::read(request.params)?;
        let outgoing = Outgoing {
            id,
            method: request.method.as_str(),
            params: request.params,
            era: MetaEra::Modern { capabilities },
            progress: request.progress_token.is_some() && events,
            extra: request.meta,
        };
        let mut http = self.post(outgoing.write(), &**self.injector(request))?;
        for (name, value) in mirrored.headers(request.method, request.headers) {
            let header = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value));
            let (Ok(name), Ok(value)) = header else {
                return Err(UpstreamError::unavailable("a parameter does not fit into its header"));
            };
            http.headers_mut().insert(name, value);
        }
        Ok(http)
    }

    async fn call_legacy(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: &UpstreamRequest<'_>,
        events: Option<mpsc::Sender<Event>>,
        scope: &CallScope,
    ) -> Result<Answered, UpstreamError> {
        let id = self.next_id();
        if let Some(inject) = &request.inject {
            // A task that lives longer than its credential goes on in its session with the next one.
            session.renew(inject);
        }
        let inject = session.inject();
        let outgoing = Outgoing {
            id,
            method: request.method.as_str(),
            params: request.params,
            era: MetaEra::Legacy,
            progress: request.progress_token.is_some() && events.is_some(),
            extra: request.meta,
        };
        let mut http = self.post(outgoing.write(), &*inject)?;
        let certificate = inject.certificate()?;
        session.mark(http.headers_mut());
        let token = request.progress_token.map(Id::to_owned);
        let exchange = Exchange { id, session: Some(session), modern: false, events, token };
        // In these revisions a dropped connection does not stop a request: words do.
        let mut open = OpenCall { link: self, session, id, open: true };
        let answered = match self.send(http, certificate, is_safe(request.method), Some(scope)).await {
            Ok((conn, response)) => self.answer(conn, response, &exchange).await,
            Err(error) => Err(error),
        };
        open.open = false;
        answered
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// A POST of one message, the credential put in.
    pub(super) fn post(&self, body: Vec<u8>, inject: &dyn Inject) -> Result<Request<Full<Bytes>>, UpstreamError> {
        let mut request = self.request(Method::POST, body.into(), inject)?;
        request.headers_mut().insert(header::CONTENT_TYPE, JSON);
        request.headers_mut().insert(header::ACCEPT, ACCEPT_BOTH);
        Ok(request)
    }

    /// A GET of a legacy event stream.
    pub(super) fn get(&self, inject: &dyn Inject) -> Result<Request<Full<Bytes>>, UpstreamError> {
        let mut request = self.request(Method::GET, Bytes::new(), inject)?;
        request.headers_mut().insert(header::ACCEPT, ACCEPT_STREAM);
        Ok(request)
    }

    pub(super) fn request(&self, method: Method, body: Bytes, inject: &dyn Inject) -> Result<Request<Full<Bytes>>, UpstreamError> {
        let endpoint = self.pool.endpoint();
        let mut headers = HeaderMap::with_capacity(16);
        let mut refused = false;
        inject.headers(&mut |name, value| match injected(name, value) {
            Some((name, value)) => {
                headers.insert(name, value);
            }
            None => refused = true,
        });
        if refused {
            return Err(UpstreamError::unavailable("its credential does not fit into a header"));
        }
        headers.insert(header::HOST, endpoint.host.clone());
        headers.insert(header::USER_AGENT, USER_AGENT);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = endpoint.target.clone();
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Sends on a connection of the pool. A kept connection that turns out to be dead is replaced once, if nothing was
    /// written or if the request changes nothing.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        certificate: Option<Arc<ClientCertificate>>,
        safe: bool,
        scope: Option<&CallScope>,
    ) -> Result<(Conn, Response<Incoming>), UpstreamError> {
        let copy = safe.then(|| request.clone());
        let mut conn = self.pool.take(certificate.clone()).await.inspect_err(|_| self.suspect.notify_one())?;
        mark(scope, true);
        let failed = match conn.send(request).await {
            Ok(response) => return Ok((conn, response)),
            Err(failed) => failed,
        };
        let again = match failed {
            SendFailure { unsent: Some(request) } => Some(request),
            SendFailure { unsent: None } => copy,
        };
        let Some(request) = again.filter(|_| conn.reused) else {
            return Err(UpstreamError::died("the connection ended before an answer came"));
        };
        mark(scope, false);
        drop(conn);
        let mut conn = self.pool.fresh(certificate).await?;
        mark(scope, true);
        match conn.send(request).await {
            Ok(response) => Ok((conn, response)),
            Err(_) => Err(UpstreamError::died("the connection ended before an answer came")),
        }
    }

    /// Sends a message that has no answer: a notification, or our answer to a legacy server.
    pub(super) async fn tell(&self, session: &Session, message: Vec<u8>) -> Result<(), UpstreamError> {
        let inject = session.inject();
        let mut request = self.post(message, &*inject)?;
        session.mark(request.headers_mut());
        let (mut conn, response) = self.send(request, inject.certificate()?, false, None).await?;
        let (head, mut body) = response.into_parts();
        if self.collect(&mut conn, &mut body, &head.headers).await.is_ok() {
            self.pool.put(conn);
        }
        if head.status.is_success() { Ok(()) } else { Err(by_status(head.status)) }
    }

    /// As [`HttpLink::tell`], by a worker. What goes wrong is only logged.
    pub(super) fn tell_later(self: &Arc<Self>, session: &Arc<Session>, message: Vec<u8>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let Ok(place) = Arc::clone(&self.telling).try_acquire_owned() else {
            return;
        };
        let (link, session) = (Arc::clone(self), Arc::clone(session));
        let limit = self.shared.config.call_timeout;
        let work = async move {
            let _place = place;
            match tokio::time::timeout(limit, link.tell(&session, message)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(system = %link.shared.system(), %error, "a message was not taken")
                }
                Err(_) => {
                    tracing::debug!(system = %link.shared.system(), "a message was not taken in time")
                }
            }
        };
        self.shared.workers.spawn_on(work, &runtime);
    }

    pub(super) async fn end_sessions(self: &Arc<Self>, key: &SessionKey) {
        let ended = self.sessions.take(key).into_iter().map(|slot| self.end_slot(slot));
        futures_util::future::join_all(ended).await;
    }

    async fn end_all_sessions(self: &Arc<Self>) {
        let ended = self.sessions.take_all().into_iter().map(|slot| self.end_slot(slot));
        futures_util::future::join_all(ended).await;
    }

    /// The session of `key` in this version and with these capabilities, opened if there is none.
    pub(super) async fn session(
        self: &Arc<Self>,
        key: &SessionKey,
        version: Version,
        capabilities: &str,
        inject: &Arc<dyn Inject>,
    ) -> Result<Arc<Session>, UpstreamError> {
        let slot = self.sessions.slot(key, version, capabilities)?;
        let mut current = slot.current.lock().await;
        if let Some(session) = &*current {
            return Ok(Arc::clone(session));
        }
        let session = self.open_session(key, version, capabilities, inject).await?;
        *current = Some(Arc::clone(&session));
        Ok(session)
    }
}

fn mark(scope: Option<&CallScope>, sent: bool) {
    if let Some(scope) = scope {
        if sent { scope.mark_sent() } else { scope.unmark_sent() }
    }
}

/// A legacy request that is open at the upstream: dropping it says that nobody waits.
struct OpenCall<'a> {
    link: &'a Arc<HttpLink>,
    session: &'a Arc<Session>,
    id: u64,
    open: bool,
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        if self.open {
            self.link.tell_later(self.session, frame::cancelled(self.id));
        }
    }
}

/// Methods that only look: doing one twice is doing it once.
fn is_safe(method: McpMethod) -> bool {
    matches!(
        method,
        McpMethod::Discover
            | McpMethod::Ping
            | McpMethod::ToolsList
            | McpMethod::PromptsList
            | McpMethod::ResourcesList
            | McpMethod::ResourceTemplatesList
            | McpMethod::TasksGet
            | McpMethod::TasksList
    )
}

/// A credential's header. `None` if it is not one, or one that frames or routes the request.
fn injected(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    const OURS: [HeaderName; 10] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::EXPECT,
        header::ACCEPT,
    ];
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    if OURS.contains(&name) || name.as_str().starts_with("mcp-") {
        return None;
    }
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_cannot_take_the_place_of_a_header_that_frames_or_routes() {
        for name in ["Host", "content-length", "Transfer-Encoding", "Mcp-Session-Id", "mcp-name", "bad name", ""] {
            assert!(injected(name, "x").is_none(), "{name}");
        }
        assert!(injected("x-key", "a\r\nb: c").is_none());
        let (_, value) = injected("Authorization", "Bearer canary").unwrap();
        assert!(!format!("{value:?}").contains("canary"));
    }
}
