//! The way to upstream MCP servers of either era, over stdio and streamable HTTP. Never decides anything and never keeps a
//! secret: a credential is injected at the moment of sending.

mod address;
mod answer;
mod config;
mod connect;
mod detect;
mod error;
mod frame;
mod http;
mod list;
mod listen;
mod local;
mod process;
mod session;
mod stdio;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bailiwick_core::{CallId, SystemName};
use bailiwick_wire::mcp::frame::ResultKind;
use bailiwick_wire::mcp::{ClientCapabilities, HeaderParam, Id, Method, Version};
use bailiwick_wire::{Raw, RawBuf};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use config::{Backoff, ConfigError, EraChoice, Inject, NoCredential, Relay, Transport, UpstreamConfig};
pub use connect::ClientCertificate;
pub use error::UpstreamError;
pub use list::{LIST_ITEMS_MAX, LIST_PAGES_MAX};
pub use listen::Listening;
pub use local::Local;

/// Notifications kept for a subscriber that is slow; beyond that it misses the oldest.
const NOTICES_KEPT: usize = 256;
/// The longest notification passed on, in bytes of its parameters.
const NOTICE_BYTES_MAX: usize = 64 << 10;
const EVENT_BYTES_MAX: usize = 1 << 20;
/// How much longer than a call without questions a client may take to answer one.
const ANSWER_TIME: Duration = Duration::from_secs(300);
/// A start that ends sooner than this is waited for; a later one fails the call at once.
const SHORT_BACKOFF: Duration = Duration::from_secs(1);

/// A configured upstream system. Clones share it; when the last is dropped, its process and connections end.
#[derive(Clone)]
pub struct Upstream {
    shared: Arc<Shared>,
    _stop: Arc<DropGuard>,
}

/// What the handle and its workers have in common.
struct Shared {
    config: UpstreamConfig,
    inject: Arc<dyn Inject>,
    state: watch::Sender<State>,
    notices: broadcast::Sender<Notice>,
    counters: Counters,
    stop: CancellationToken,
    workers: TaskTracker,
    lives: AtomicU64,
    subscriptions: listen::Subscriptions,
}

#[derive(Debug, Clone)]
enum State {
    Starting,
    Ready(Arc<Live>),
    BackingOff { until: Instant, why: Arc<str> },
    Stopped,
}

/// A server that takes calls.
#[derive(Debug)]
struct Live {
    link: Link,
    support: EraSupport,
    about: About,
    /// Which life of the server this is: it may have other tools than in the one before.
    life: u64,
}

#[derive(Debug, Clone)]
enum Link {
    Stdio(Arc<stdio::Channel>),
    Http(Arc<http::HttpLink>),
    Local(Arc<dyn Local>),
}

/// Which eras an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EraSupport {
    pub modern: bool,
    /// The newest handshake revision that it agreed to.
    pub legacy: Option<Version>,
}

/// What an upstream says about itself. Never for security.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The result of `server/discover`.
    pub modern: Option<RawBuf>,
    /// The result of `initialize`.
    pub legacy: Option<RawBuf>,
}

/// Where an upstream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Starting,
    Ready,
    /// It is tried again at `until`.
    BackingOff {
        until: Instant,
        why: Arc<str>,
    },
    Stopped,
}

/// Whose legacy session a call uses: the text of a task id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionKey(Arc<str>);

impl SessionKey {
    #[must_use]
    pub fn new(task: &str) -> Self {
        Self(task.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The era in which one request is sent.
#[derive(Debug, Clone, Copy)]
pub enum UseEra<'a> {
    /// 2026-07-28: with the capabilities that the client's request declared (an object). What is not relayed is left out.
    Modern { capabilities: Raw<'a> },
    /// A handshake revision: with the capabilities of the client's session (an object), cut in the same way.
    Legacy { version: Version, capabilities: Raw<'a> },
}

/// One request to an upstream.
#[derive(Debug, Clone)]
pub struct UpstreamRequest<'a> {
    pub era: UseEra<'a>,
    pub session: &'a SessionKey,
    pub method: Method,
    /// An object without `_meta`. Its bytes go out as they are; over stdio a line break between tokens becomes a space.
    pub params: Raw<'a>,
    /// Members of `_meta` to pass on (an object): trace context, the modern log level. Reserved ones are left out.
    pub meta: Option<Raw<'a>>,
    /// The client's own token; progress comes back under it.
    pub progress_token: Option<Id<'a>>,
    /// The tool's parameters that `x-mcp-header` mirrors (modern HTTP).
    pub headers: &'a [HeaderParam],
    /// Instead of the configured `call_timeout`.
    pub timeout: Option<Duration>,
    pub cancel: CancellationToken,
    /// The life of the server in which the tool was looked at ([`Upstream::life`]); in another one nothing is sent.
    pub life: Option<u64>,
    /// The call's own lease, instead of the upstream's injector (HTTP). A legacy session goes on with that of its last call.
    pub inject: Option<Arc<dyn Inject>>,
    /// The permitted call that this is, for the system's own log.
    pub call: Option<CallId>,
    /// The credential that was made for the task, for a system without a server.
    pub(crate) lease: Option<Arc<crate::leases::Held>>,
}

impl<'a> UpstreamRequest<'a> {
    /// A request with nothing beside its parameters.
    #[must_use]
    pub fn new(era: UseEra<'a>, session: &'a SessionKey, method: Method, params: Raw<'a>) -> Self {
        Self {
            era,
            session,
            method,
            params,
            meta: None,
            progress_token: None,
            headers: &[],
            timeout: None,
            cancel: CancellationToken::new(),
            life: None,
            inject: None,
            call: None,
            lease: None,
        }
    }
}

/// What an upstream answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The `result` object, byte for byte.
    Result(RawBuf),
    Error {
        code: i64,
        message: String,
        data: Option<RawBuf>,
        /// 200 over stdio.
        http_status: u16,
    },
}

/// What an upstream says while a request is open.
#[derive(Debug)]
pub enum Event {
    /// `params` as written, with the client's own progress token.
    Notification { method: String, params: RawBuf },
    /// A legacy server asks the client. Dropping `answer` says that there is none; `answer.closed()` that none is wanted.
    Request { method: String, params: RawBuf, answer: oneshot::Sender<ClientAnswer> },
}

/// A client's answer to a server's request: its `result` or its `error` object.
pub type ClientAnswer = Result<RawBuf, RawBuf>;

/// A notification that belongs to no request.
#[derive(Debug, Clone)]
pub struct Notice {
    /// The legacy HTTP session that it came on.
    pub session: Option<SessionKey>,
    pub method: Arc<str>,
    /// As written; a modern one still has the upstream's own subscription id in its `_meta`.
    pub params: Arc<RawBuf>,
}

/// How often an upstream sent what was dropped.
#[derive(Debug, Default)]
struct Counters {
    foreign: AtomicU64,
    late: AtomicU64,
    malformed: AtomicU64,
    refused: AtomicU64,
}

/// A copy of an upstream's counters since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Answers with an id that no open request has, second answers included (BI-033).
    pub foreign: u64,
    /// Answers to requests that nobody waited for any more.
    pub late: u64,
    /// Messages that break the protocol, or progress for nobody.
    pub malformed: u64,
    /// Requests to the client that were not relayed.
    pub refused: u64,
}

impl Counters {
    fn foreign(&self, system: &SystemName) {
        let before = self.foreign.fetch_add(1, Ordering::Relaxed);
        // A flood of them must not become a flood of the log.
        if !before.saturating_add(1).is_power_of_two() {
            return;
        }
        tracing::warn!(%system, "an upstream answered a request that is not open: dropped");
    }

    fn late(&self) {
        self.late.fetch_add(1, Ordering::Relaxed);
    }

    fn malformed(&self, system: &SystemName, why: &'static str) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%system, why, "an upstream sent a message that is not valid: dropped");
    }

    fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

impl Upstream {
    /// Begins to reach the system: starts its process, or finds out which eras its address speaks. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ConfigError`] for what can be told without trying.
    pub fn start(config: UpstreamConfig, inject: Arc<dyn Inject>) -> Result<Self, ConfigError> {
        let stop = CancellationToken::new();
        let http = match &config.transport {
            Transport::Http { url, allow_plain_http, extra_roots } => {
                let endpoint = address::Endpoint::parse(&config.system, url, *allow_plain_http)?;
                let bad = || ConfigError::Certificate { system: config.system.clone() };
                Some(connect::Pool::new(endpoint, extra_roots).map_err(|_| bad())?)
            }
            Transport::Stdio { command, .. } if command.as_os_str().is_empty() => {
                return Err(ConfigError::Command { system: config.system });
            }
            Transport::Stdio { .. } | Transport::Local(_) => None,
        };
        let local = match &config.transport {
            Transport::Local(local) => Some(Arc::clone(local)),
            Transport::Stdio { .. } | Transport::Http { .. } => None,
        };
        let shared = Arc::new(Shared {
            config,
            inject,
            state: watch::Sender::new(State::Starting),
            notices: broadcast::Sender::new(NOTICES_KEPT),
            counters: Counters::default(),
            stop: stop.clone(),
            workers: TaskTracker::new(),
            lives: AtomicU64::new(0),
            subscriptions: listen::Subscriptions::default(),
        });
        match (http, local) {
            (Some(pool), _) => shared.workers.spawn(http::supervise(Arc::clone(&shared), pool)),
            (None, Some(local)) => shared.workers.spawn(local::supervise(Arc::clone(&shared), local)),
            (None, None) => shared.workers.spawn(stdio::supervise(Arc::clone(&shared))),
        };
        Ok(Self { shared, _stop: Arc::new(stop.drop_guard()) })
    }

    /// Sends one request and waits for its answer. What the upstream says meanwhile goes to `events`.
    ///
    /// Dropping the future stops the request like `cancel` does.
    ///
    /// # Errors
    /// [`UpstreamError`] if there is no valid answer; it says whether the call may have run.
    pub async fn request(&self, request: UpstreamRequest<'_>, events: Option<mpsc::Sender<Event>>) -> Result<Reply, UpstreamError> {
        let allowed = request.timeout.unwrap_or(self.shared.config.call_timeout);
        let call = CallScope { cancel: request.cancel.clone(), sent: AtomicU64::new(0) };
        let work = async {
            let live = self.shared.live().await?;
            if let Some(subscribed) = self.subscribe_by_listening(&request, &live) {
                return subscribed;
            }
            self.shared.check_life(&request, live.life)?;
            check_era(&request, live.support)?;
            let reply = match &live.link {
                Link::Stdio(channel) => channel.call(&self.shared, &request, events, &call).await,
                Link::Http(link) => link.call(&request, events, &call).await,
                Link::Local(local) => local::call(&**local, &request, &call).await,
            };
            self.shared.check_wants(&request, reply?)
        };
        tokio::select! {
            biased;
            answer = work => answer,
            () = call.cancel.cancelled() => Err(UpstreamError::Cancelled {
                words: "its caller no longer waits".into(),
                may_have_run: call.was_sent(),
            }),
            () = tokio::time::sleep(allowed) => Err(UpstreamError::Timeout {
                words: format!("no answer within {} ms", allowed.as_millis()).into(),
                may_have_run: call.was_sent(),
            }),
        }
    }

    /// Ends what legacy sessions and subscriptions there are under `key`. Waits for the upstream's word, but not long.
    pub async fn end_session(&self, key: &SessionKey) {
        self.end_subscriptions(key);
        let state = self.shared.state.borrow().clone();
        if let State::Ready(live) = state
            && let Link::Http(link) = &live.link
        {
            link.end_sessions(key).await;
        }
    }

    /// Notifications that belong to no request, from now on. After a restart we tell of changed lists ourselves.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.shared.notices.subscribe()
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        match &*self.shared.state.borrow() {
            State::Starting => Status::Starting,
            State::Ready(_) => Status::Ready,
            State::BackingOff { until, why } => Status::BackingOff { until: *until, why: Arc::clone(why) },
            State::Stopped => Status::Stopped,
        }
    }

    /// Waits until it takes calls. `false`: it was stopped.
    pub async fn ready(&self) -> bool {
        let mut state = self.shared.state.subscribe();
        let reached = state.wait_for(|state| matches!(state, State::Ready(_) | State::Stopped)).await;
        reached.is_ok_and(|state| matches!(*state, State::Ready(_)))
    }

    /// Which eras it speaks, once that is known.
    #[must_use]
    pub fn era_support(&self) -> Option<EraSupport> {
        match &*self.shared.state.borrow() {
            State::Ready(live) => Some(live.support),
            State::Starting | State::BackingOff { .. } | State::Stopped => None,
        }
    }

    /// Which life of the server this is, counted from 1; 0 before the first. It moves whenever the server was away or forgot its
    /// sessions.
    #[must_use]
    pub fn life(&self) -> u64 {
        self.shared.life()
    }

    /// What it says about itself, once that is known.
    #[must_use]
    pub fn about(&self) -> Option<About> {
        match &*self.shared.state.borrow() {
            State::Ready(live) => Some(live.about.clone()),
            State::Starting | State::BackingOff { .. } | State::Stopped => None,
        }
    }

    /// What it sent that was dropped.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        let Counters { foreign, late, malformed, refused } = &self.shared.counters;
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Dropped { foreign: now(foreign), late: now(late), malformed: now(malformed), refused: now(refused) }
    }

    /// The configuration that it was started with.
    #[must_use]
    pub fn config(&self) -> &UpstreamConfig {
        &self.shared.config
    }

    /// Ends its process (stdin closed, then SIGTERM, then SIGKILL) or its sessions, and waits for that.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.workers.close();
        self.shared.workers.wait().await;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("system", &self.config.system).finish_non_exhaustive()
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("system", &self.shared.config.system).field("status", &self.status()).finish()
    }
}

/// What happened to a call so far, for the words of its failure.
#[derive(Debug)]
struct CallScope {
    cancel: CancellationToken,
    sent: AtomicU64,
}

impl CallScope {
    fn mark_sent(&self) {
        self.sent.store(1, Ordering::Release);
    }

    /// For a request that surely was not looked at and is sent again.
    fn unmark_sent(&self) {
        self.sent.store(0, Ordering::Release);
    }

    fn was_sent(&self) -> bool {
        self.sent.load(Ordering::Acquire) != 0
    }
}

impl Shared {
    fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// It takes calls, in a new life.
    fn ready(&self, live: Live) {
        let life = self.lives.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        self.set(State::Ready(Arc::new(Live { life, ..live })));
    }

    /// The server forgot a session of this life, so it has started anew: its tools are looked at before the next call of one.
    fn lives_anew(&self, life: u64) {
        let live = match &*self.state.borrow() {
            State::Ready(live) => Some(Arc::clone(live)),
            State::Starting | State::BackingOff { .. } | State::Stopped => None,
        };
        if let Some(live) = live.filter(|live| live.life == life) {
            self.ready(Live { link: live.link.clone(), support: live.support, about: live.about.clone(), life: 0 });
            self.notice_return();
        }
    }

    fn life(&self) -> u64 {
        self.lives.load(Ordering::Acquire)
    }

    fn check_life(&self, request: &UpstreamRequest<'_>, now: u64) -> Result<(), UpstreamError> {
        if request.life.is_none_or(|life| life == now) { Ok(()) } else { Err(UpstreamError::Anew) }
    }

    fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    fn system(&self) -> &SystemName {
        &self.config.system
    }

    /// Tells whoever listens. Nobody listening is no error.
    fn notice(&self, session: Option<&SessionKey>, method: &str, params: Raw<'_>) {
        if params.text().len() > NOTICE_BYTES_MAX {
            return self.counters.malformed(self.system(), "a notification is too long");
        }
        if self.notices.receiver_count() > 0 {
            let notice = Notice { session: session.cloned(), method: method.into(), params: Arc::new(params.to_owned()) };
            drop(self.notices.send(notice));
        }
    }

    /// A server that was away may have come back with other lists.
    fn notice_return(&self) {
        for method in ["notifications/tools/list_changed", "notifications/prompts/list_changed", "notifications/resources/list_changed"] {
            self.notice(None, method, Raw::EMPTY_OBJECT);
        }
    }

    /// A modern server may want input from the client: only what was declared to it, and only on three methods.
    //= mcp-2026-07-28 multi-round-trip requests: a server sends only kinds that the request declared
    fn check_wants(&self, request: &UpstreamRequest<'_>, reply: Reply) -> Result<Reply, UpstreamError> {
        let (Reply::Result(result), UseEra::Modern { capabilities }) = (&reply, request.era) else {
            return Ok(reply);
        };
        if ResultKind::of(result.raw()) != ResultKind::InputRequired {
            return Ok(reply);
        }
        let declared = ClientCapabilities::read(capabilities);
        let wanted = result.raw().member("inputRequests");
        let declared = wanted.iter().flat_map(|wanted| wanted.members()).all(|(_, wanted)| {
            let method = wanted.member("method").and_then(Raw::string).unwrap_or_default();
            self.config.relay.allows(&method)
                && match &*method {
                    "elicitation/create" => declared.elicitation_form || declared.elicitation_url,
                    "sampling/createMessage" => declared.sampling,
                    "roots/list" => declared.roots,
                    _ => false,
                }
        });
        let may_ask = matches!(request.method, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead);
        if declared && may_ask {
            return Ok(reply);
        }
        self.counters.refused();
        Err(UpstreamError::broken("it wants something from the client that is not relayed"))
    }

    /// The server, waiting for a start that is under way.
    async fn live(&self) -> Result<Arc<Live>, UpstreamError> {
        if let State::Ready(live) = &*self.state.borrow() {
            return Ok(Arc::clone(live));
        }
        let mut state = self.state.subscribe();
        let settled = |state: &State| match state {
            State::Starting => false,
            State::BackingOff { until, .. } => until.saturating_duration_since(Instant::now()) > SHORT_BACKOFF,
            State::Ready(_) | State::Stopped => true,
        };
        let waited = tokio::time::timeout(self.config.start_timeout, state.wait_for(settled)).await;
        match waited.as_ref().map(|reached| reached.as_deref()) {
            Ok(Ok(State::Ready(live))) => Ok(Arc::clone(live)),
            Ok(Ok(State::BackingOff { until, why })) => {
                let left = until.saturating_duration_since(Instant::now()).as_secs().saturating_add(1);
                Err(UpstreamError::unavailable(format!("{why}; it is tried again in {left} s")))
            }
            Ok(Ok(State::Starting | State::Stopped) | Err(_)) => Err(UpstreamError::unavailable("the broker has stopped using it")),
            Err(_) => Err(UpstreamError::unavailable("it has not started yet")),
        }
    }
}

fn check_era(request: &UpstreamRequest<'_>, support: EraSupport) -> Result<(), UpstreamError> {
    let (spoken, known) = match request.era {
        UseEra::Modern { .. } => (support.modern, request.method.is_modern()),
        UseEra::Legacy { .. } => (support.legacy.is_some(), request.method.is_legacy()),
    };
    if !spoken {
        return Err(UpstreamError::unavailable("it does not speak the protocol era of this request"));
    }
    if !known {
        return Err(UpstreamError::unavailable("the protocol era of this request does not have its method"));
    }
    if matches!(request.method, Method::Initialize | Method::SubscriptionsListen) {
        // A second handshake would change the session of others; a subscription has no end to wait for.
        return Err(UpstreamError::unavailable("the broker alone does that"));
    }
    Ok(())
}
