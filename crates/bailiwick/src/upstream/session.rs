//! Sessions of the handshake revisions over HTTP: one for each task, with its standalone event stream.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bailiwick_wire::mcp::Version;
use bailiwick_wire::{Raw, RawBuf};
use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::answer::{Answered, Content, Exchange, content};
use super::config::Inject;
use super::frame::{self, MetaEra, Outgoing};
use super::http::{HttpLink, PROTOCOL_VERSION, SESSION_ID};
use super::stream::{Resume, Source};
use super::{Reply, SessionKey, UpstreamError};

/// Sessions that may be open at one upstream, and under one key: a client that declares ever other capabilities must not fill it.
const SESSIONS_MAX: usize = 1024;
const OF_KEY_MAX: usize = 16;
/// The longest session id taken, in bytes.
const SESSION_ID_BYTES_MAX: usize = 4096;
/// How long the end of a session may take.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest wait between two attempts to follow a stream.
const FOLLOW_WAIT_MAX: Duration = Duration::from_secs(60);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The sessions of one upstream.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    slots: Mutex<HashMap<SlotKey, Arc<Slot>>>,
    /// Whether the upstream was seen to have no standalone stream.
    without_stream: AtomicBool,
}

/// A session is never shared between tasks, nor between clients that differ in what they can do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SlotKey {
    key: SessionKey,
    version: Version,
    capabilities: Box<str>,
}

/// The place of a session. Its lock is held while one is opened, so that a task opens one, not two.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) current: tokio::sync::Mutex<Option<Arc<Session>>>,
}

/// An open session.
pub(super) struct Session {
    /// `None`: the server keeps no sessions.
    pub(super) id: Option<HeaderValue>,
    pub(super) version: Version,
    /// What its last call was given.
    inject: Mutex<Arc<dyn Inject>>,
    /// The result of the handshake.
    pub(super) about: RawBuf,
    /// The life of the server in which it was opened.
    pub(super) life: u64,
    /// Ends the standalone stream with the session.
    _stream: DropGuard,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A session id lets its bearer speak in the session: it is not shown.
        f.debug_struct("Session").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Sessions {
    fn slots(&self) -> MutexGuard<'_, HashMap<SlotKey, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn slot(&self, key: &SessionKey, version: Version, capabilities: &str) -> Result<Arc<Slot>, UpstreamError> {
        let key = SlotKey { key: key.clone(), version, capabilities: capabilities.into() };
        let mut slots = self.slots();
        let full = |slots: &HashMap<SlotKey, Arc<Slot>>| {
            slots.len() >= SESSIONS_MAX || slots.keys().filter(|slot| slot.key == key.key).count() >= OF_KEY_MAX
        };
        if !slots.contains_key(&key) && full(&slots) {
            return Err(UpstreamError::unavailable("too many sessions are open there"));
        }
        Ok(Arc::clone(slots.entry(key).or_default()))
    }

    /// Forgets a session that the upstream does not know, unless it was replaced meanwhile.
    pub(super) async fn forget(&self, key: &SessionKey, version: Version, capabilities: &str, lost: &Arc<Session>) {
        let key = SlotKey { key: key.clone(), version, capabilities: capabilities.into() };
        let slot = self.slots().get(&key).cloned();
        if let Some(slot) = slot {
            slot.current.lock().await.take_if(|current| Arc::ptr_eq(current, lost));
        }
    }

    pub(super) fn take(&self, key: &SessionKey) -> Vec<Arc<Slot>> {
        let mut slots = self.slots();
        slots.extract_if(|slot, _| slot.key == *key).map(|(_, slot)| slot).collect()
    }

    pub(super) fn take_all(&self) -> Vec<Arc<Slot>> {
        std::mem::take(&mut *self.slots()).into_values().collect()
    }
}

impl Session {
    /// What goes along with its requests.
    pub(super) fn inject(&self) -> Arc<dyn Inject> {
        Arc::clone(&self.inject.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on this does.
    pub(super) fn renew(&self, inject: &Arc<dyn Inject>) {
        Arc::clone(inject).clone_into(&mut self.inject.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Puts in the headers that tie a request to this session.
    pub(super) fn mark(&self, headers: &mut HeaderMap) {
        mark(headers, self.id.as_ref(), self.version);
    }
}

fn mark(headers: &mut HeaderMap, id: Option<&HeaderValue>, version: Version) {
    headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(version.as_str()));
    if let Some(id) = id {
        headers.insert(SESSION_ID, id.clone());
    }
}

impl HttpLink {
    /// The handshake.
    pub(super) async fn open_session(
        self: &Arc<Self>,
        key: &SessionKey,
        version: Version,
        capabilities: &str,
        inject: &Arc<dyn Inject>,
    ) -> Result<Arc<Session>, UpstreamError> {
        let life = self.shared.life();
        let id = self.next_id();
        let params = frame::initialize_params(version, capabilities);
        let params = frame::owned(&params, params.len()).ok_or_else(|| UpstreamError::unavailable("the client's capabilities are not usable"))?;
        let outgoing = Outgoing { id, method: "initialize", params: params.raw(), era: MetaEra::Legacy, progress: false, extra: None };
        let request = self.post(outgoing.write(), &**inject)?;
        let (conn, response) = self.send(request, inject.certificate()?, true, None).await?;
        let session_id = session_id(response.headers())?;
        let exchange = Exchange { id, session: None, modern: false, events: None, token: None };
        let about = match self.answer(conn, response, &exchange).await? {
            Answered::Reply(Reply::Result(about)) => about,
            Answered::Reply(Reply::Error { .. }) | Answered::SessionLost | Answered::SessionDoubtful(_) => {
                return Err(UpstreamError::unavailable("it refuses the handshake"));
            }
        };
        let agreed = agreed_version(about.raw()).filter(|version| *version >= Version::V2025_03_26);
        let version = agreed.ok_or_else(|| UpstreamError::unavailable("it speaks no revision that we speak"))?;
        let stop = CancellationToken::new();
        let session =
            Arc::new(Session { id: session_id, version, inject: Mutex::new(Arc::clone(inject)), about, life, _stream: stop.clone().drop_guard() });
        self.tell(&session, frame::notification("notifications/initialized", "{}")).await?;
        self.follow_later(key, &session, stop);
        Ok(session)
    }

    /// Ends one session at the upstream: DELETE, whose failure changes nothing for us.
    pub(super) async fn end_slot(self: &Arc<Self>, slot: Arc<Slot>) {
        let ended = async {
            let session = slot.current.lock().await.take()?;
            session.id.as_ref()?;
            let inject = session.inject();
            let mut request = self.request(Method::DELETE, Bytes::new(), &*inject).ok()?;
            session.mark(request.headers_mut());
            let (mut conn, response) = self.send(request, inject.certificate().ok()?, true, None).await.ok()?;
            let (head, mut body) = response.into_parts();
            if self.collect(&mut conn, &mut body, &head.headers).await.is_ok() {
                self.pool.put(conn);
            }
            Some(())
        };
        if tokio::time::timeout(END_TIMEOUT, ended).await.is_err() {
            tracing::debug!(system = %self.shared.system(), "the end of a session was not answered in time");
        }
    }

    /// Follows the standalone stream of a session by a worker, for as long as the session is open.
    fn follow_later(self: &Arc<Self>, key: &SessionKey, session: &Arc<Session>, stop: CancellationToken) {
        if self.sessions.without_stream.load(Ordering::Relaxed) {
            return;
        }
        let (link, key) = (Arc::clone(self), key.clone());
        // The worker must not hold the session itself: its drop is what ends the worker.
        let session = Arc::downgrade(session);
        let all = self.shared.stop.clone();
        self.shared.workers.spawn(async move {
            let work = async {
                let mut resume = Resume::default();
                let mut wait = Duration::from_secs(1);
                while let Some(session) = session.upgrade() {
                    let followed = link.follow(&key, session, &mut resume).await;
                    match followed {
                        Followed::Never => break,
                        Followed::Ended { heard: true } => wait = resume.wait().max(Duration::from_secs(1)),
                        Followed::Ended { heard: false } => wait = wait.saturating_mul(2).min(FOLLOW_WAIT_MAX),
                    }
                    tokio::time::sleep(wait).await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = all.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Follows the stream once, until it ends.
    async fn follow(self: &Arc<Self>, key: &SessionKey, session: Arc<Session>, resume: &mut Resume) -> Followed {
        let inject = session.inject();
        let Ok(certificate) = inject.certificate() else {
            return Followed::Never;
        };
        let Ok(mut conn) = self.pool.beside(certificate).await else {
            return Followed::Ended { heard: false };
        };
        let Ok(mut request) = self.get(&*inject) else {
            return Followed::Never;
        };
        session.mark(request.headers_mut());
        resume.mark(request.headers_mut());
        let weak = Arc::downgrade(&session);
        drop(session);
        let Ok(response) = conn.send(request).await else {
            return Followed::Ended { heard: false };
        };
        let (head, body) = response.into_parts();
        if head.status == StatusCode::METHOD_NOT_ALLOWED {
            self.sessions.without_stream.store(true, Ordering::Relaxed);
        }
        if head.status != StatusCode::OK || content(&head.headers) != Content::Stream {
            return Followed::Never;
        }
        let source = Source::Standalone { key, session: weak };
        Followed::Ended { heard: self.follow_stream(conn, body, source, resume).await }
    }

    /// Takes a stream up again where it broke off (2025-11-25, transports, resumability).
    pub(super) async fn resume(
        self: &Arc<Self>,
        session: &Session,
        resume: &Resume,
    ) -> Result<(super::connect::Conn, hyper::body::Incoming), UpstreamError> {
        tokio::time::sleep(resume.wait()).await;
        let inject = session.inject();
        let mut request = self.get(&*inject)?;
        session.mark(request.headers_mut());
        resume.mark(request.headers_mut());
        let (conn, response) = self.send(request, inject.certificate()?, true, None).await?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK || content(&head.headers) != Content::Stream {
            return Err(UpstreamError::died("its stream ended before an answer came and cannot be resumed"));
        }
        Ok((conn, body))
    }
}

enum Followed {
    /// There is no such stream.
    Never,
    Ended {
        heard: bool,
    },
}

impl Resume {
    fn mark(&self, headers: &mut HeaderMap) {
        if let Some(id) = self.last_id.as_ref().and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert(LAST_EVENT_ID, id);
        }
    }
}

/// The session id of a handshake's response: visible ASCII (2025-06-18, transports, session management).
fn session_id(headers: &HeaderMap) -> Result<Option<HeaderValue>, UpstreamError> {
    let Some(id) = headers.get(SESSION_ID) else {
        return Ok(None);
    };
    let plain = !id.is_empty() && id.len() <= SESSION_ID_BYTES_MAX && id.as_bytes().iter().all(u8::is_ascii_graphic);
    if !plain {
        return Err(UpstreamError::broken("its session id is not valid"));
    }
    let mut id = id.clone();
    id.set_sensitive(true);
    Ok(Some(id))
}

/// The revision that a handshake agreed on, if it is one with a handshake that we speak.
pub(super) fn agreed_version(about: Raw<'_>) -> Option<Version> {
    let text = about.member("protocolVersion")?.string()?;
    // The revision before the first that we know of differs in nothing that we use over stdio.
    let version = if text == "2024-11-05" { Some(Version::V2025_03_26) } else { Version::parse(&text) };
    version.filter(|version| !version.is_modern())
}
