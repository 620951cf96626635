//! Event streams of upstreams: the stream of one request until its answer, and standalone streams for as long as they last.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bailiwick_wire::Raw;
use bailiwick_wire::mcp::{Id, IdBuf};
use bailiwick_wire::sse::{self, Reader};
use hyper::body::{Body as _, Incoming as Body};
use tokio::sync::oneshot;

use super::answer::{Answered, Exchange};
use super::connect::Conn;
use super::frame::{self, Incoming, Malformed};
use super::http::HttpLink;
use super::session::Session;
use super::{Event, Reply, SessionKey, UpstreamError};

/// How long a stream may stay open behind its answer, so that its connection can be kept.
const TAIL_TIME: Duration = Duration::from_secs(1);
/// How much may come behind an answer, in bytes.
const TAIL_BYTES_MAX: usize = 64 << 10;
/// The wait before a stream is taken up again, unless it says otherwise.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The longest event id that is sent back, in bytes.
const EVENT_ID_BYTES_MAX: usize = 1024;

/// Where a stream broke off.
#[derive(Debug, Default)]
pub(super) struct Resume {
    pub(super) last_id: Option<String>,
    retry_ms: Option<u64>,
}

impl Resume {
    fn note(&mut self, event: &sse::Event) {
        if let Some(id) = event.id.as_ref().filter(|id| id.len() <= EVENT_ID_BYTES_MAX) {
            self.last_id = Some(id.clone());
        }
    }

    /// How long to wait before the next attempt.
    pub(super) fn wait(&self) -> Duration {
        self.retry_ms.map_or(RETRY, Duration::from_millis).clamp(RETRY_MIN, RETRY_MAX)
    }
}

/// A stream that belongs to no call.
pub(super) enum Source<'a> {
    /// The GET stream of a legacy session.
    Standalone { key: &'a SessionKey, session: Weak<Session> },
    /// The stream of a modern `subscriptions/listen`, by the id of that request.
    Listen { id: u64 },
}

impl HttpLink {
    /// Reads the stream of one request until its answer, taking it up again if it breaks off and may be resumed.
    pub(super) async fn answer_on_stream(
        self: &Arc<Self>,
        mut conn: Conn,
        mut body: Body,
        exchange: &Exchange<'_>,
    ) -> Result<Answered, UpstreamError> {
        let mut resume = Resume::default();
        loop {
            let mut reader = Reader::new(self.shared.config.frame_bytes_max);
            if let Some(reply) = self.read_answer(&mut conn, &mut body, &mut reader, exchange, &mut resume).await? {
                self.finish(conn, body, reader);
                return Ok(Answered::Reply(reply));
            }
            drop((conn, body));
            match exchange.session {
                Some(session) if resume.last_id.is_some() => (conn, body) = self.resume(session, &resume).await?,
                _ => {
                    return Err(UpstreamError::died("its stream ended before an answer came"));
                }
            }
        }
    }

    /// Reads until the answer (`Some`) or the end of the stream (`None`).
    async fn read_answer(
        self: &Arc<Self>,
        conn: &mut Conn,
        body: &mut Body,
        reader: &mut Reader,
        exchange: &Exchange<'_>,
        resume: &mut Resume,
    ) -> Result<Option<Reply>, UpstreamError> {
        loop {
            // A connection that broke off is an end like any other: resuming decides.
            let Some(Ok(bytes)) = conn.next(body).await else {
                return Ok(None);
            };
            let pushed = reader.push(&bytes);
            resume.retry_ms = reader.retry_ms().or(resume.retry_ms);
            while let Some(event) = reader.next_event() {
                resume.note(&event);
                if let Some(reply) = self.take_event(&event, exchange).await? {
                    return Ok(Some(reply));
                }
            }
            if pushed.is_err() {
                self.shared.counters.malformed(self.shared.system(), "its event stream is not valid");
                return Err(UpstreamError::broken("its event stream is not valid"));
            }
        }
    }

    async fn take_event(self: &Arc<Self>, event: &sse::Event, exchange: &Exchange<'_>) -> Result<Option<Reply>, UpstreamError> {
        let Some(message) = message(event) else {
            return Ok(None);
        };
        let counters = &self.shared.counters;
        match frame::read(message.as_bytes(), self.shared.config.frame_bytes_max) {
            Err(Malformed(why)) => {
                counters.malformed(self.shared.system(), why);
                return Err(UpstreamError::broken(why));
            }
            Ok(Incoming::Response { id, outcome }) => {
                // An error that could not tell its request can only mean the one request of this stream.
                if id.is_none_or(|id| frame::is_ours(id, exchange.id)) {
                    return Ok(Some(Reply::from_outcome(&outcome, 200)));
                }
                counters.foreign(self.shared.system());
            }
            Ok(Incoming::Notification { method, params }) => self.noticed(&method, params, exchange).await,
            Ok(Incoming::Request { id, method, params }) => self.asked(id, &method, params, exchange).await,
        }
        Ok(None)
    }

    async fn noticed(&self, method: &str, params: Raw<'_>, exchange: &Exchange<'_>) {
        let counters = &self.shared.counters;
        let params = match method {
            "notifications/progress" => {
                let ours = frame::progress_token(params) == Some(exchange.id);
                let token = exchange.token.as_ref().filter(|_| ours);
                let renamed = token.and_then(|token| frame::with_token(params, token.as_str(), self.shared.config.frame_bytes_max));
                let Some(renamed) = renamed else {
                    return counters.malformed(self.shared.system(), "progress of no open call");
                };
                renamed
            }
            // These say something about the system, not about the call.
            "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed"
            | "notifications/resources/updated" => return self.shared.notice(None, method, params),
            "notifications/cancelled" | "notifications/subscriptions/acknowledged" => return,
            _ if params.text().len() > super::EVENT_BYTES_MAX => {
                return counters.malformed(self.shared.system(), "a notification is too long");
            }
            _ => params.to_owned(),
        };
        if let Some(events) = &exchange.events {
            // Nobody listening any more is no reason to lose the answer.
            drop(events.send(Event::Notification { method: method.to_owned(), params }).await);
        }
    }

    /// A legacy server asks something on the stream of a request: the client behind that request may answer it.
    async fn asked(self: &Arc<Self>, id: Id<'_>, method: &str, params: Raw<'_>, exchange: &Exchange<'_>) {
        let counters = &self.shared.counters;
        let Some(session) = exchange.session.filter(|_| !exchange.modern) else {
            return counters.malformed(self.shared.system(), "a server of this revision sends no requests");
        };
        let id = id.to_owned();
        if method == "ping" {
            return self.tell_later(session, frame::answer(id.as_str(), Ok("{}")));
        }
        let events = exchange.events.as_ref().filter(|_| self.shared.config.relay.allows(method));
        let Some(events) = events else {
            counters.refused();
            return self.tell_later(session, frame::answer(id.as_str(), Err(frame::NOT_RELAYED)));
        };
        let (answer, answered) = oneshot::channel();
        let event = Event::Request { method: method.to_owned(), params: params.to_owned(), answer };
        if events.send(event).await.is_err() {
            return self.tell_later(session, frame::client_answer(id.as_str(), None));
        }
        self.answer_later(session, id, answered);
    }

    fn answer_later(self: &Arc<Self>, session: &Arc<Session>, id: IdBuf, answered: oneshot::Receiver<super::ClientAnswer>) {
        let Ok(place) = Arc::clone(&self.asking).try_acquire_owned() else {
            return self.tell_later(session, frame::client_answer(id.as_str(), None));
        };
        let (link, session) = (Arc::clone(self), Arc::clone(session));
        self.shared.workers.spawn(async move {
            let _place = place;
            let limit = link.shared.config.call_timeout.saturating_add(super::ANSWER_TIME);
            let outcome = tokio::time::timeout(limit, answered).await.ok().and_then(Result::ok);
            if let Err(error) = link.tell(&session, frame::client_answer(id.as_str(), outcome)).await {
                tracing::debug!(system = %link.shared.system(), %error, "a client's answer was not taken");
            }
        });
    }

    /// Reads what stands behind an answer, so that the connection can be kept. A second answer is dropped and counted.
    fn finish(self: &Arc<Self>, mut conn: Conn, mut body: Body, mut reader: Reader) {
        self.count_tail(&mut reader);
        if body.is_end_stream() {
            return self.pool.put(conn);
        }
        let link = Arc::clone(self);
        self.shared.workers.spawn(async move {
            let tail = async {
                let mut read = 0_usize;
                while let Some(Ok(bytes)) = conn.next(&mut body).await {
                    read = read.saturating_add(bytes.len());
                    if read > TAIL_BYTES_MAX || reader.push(&bytes).is_err() {
                        return None;
                    }
                    link.count_tail(&mut reader);
                }
                Some(conn)
            };
            if let Ok(Some(conn)) = tokio::time::timeout(TAIL_TIME, tail).await {
                link.pool.put(conn);
            }
        });
    }

    fn count_tail(&self, reader: &mut Reader) {
        while let Some(event) = reader.next_event() {
            let Some(message) = message(&event) else {
                continue;
            };
            match frame::read(message.as_bytes(), self.shared.config.frame_bytes_max) {
                Ok(Incoming::Response { .. }) => self.shared.counters.foreign(self.shared.system()),
                Ok(_) | Err(_) => self.shared.counters.malformed(self.shared.system(), "a message behind an answer"),
            }
        }
    }

    /// Reads a stream that belongs to no call until it ends. Says whether anything was heard on it.
    pub(super) async fn follow_stream(self: &Arc<Self>, mut conn: Conn, mut body: Body, source: Source<'_>, resume: &mut Resume) -> bool {
        let mut reader = Reader::new(self.shared.config.frame_bytes_max);
        let mut heard = false;
        while let Some(Ok(bytes)) = conn.next(&mut body).await {
            heard = true;
            let pushed = reader.push(&bytes);
            resume.retry_ms = reader.retry_ms().or(resume.retry_ms);
            while let Some(event) = reader.next_event() {
                resume.note(&event);
                if let Some(message) = message(&event)
                    && !self.heard(message, &source)
                {
                    return heard;
                }
            }
            if pushed.is_err() {
                self.shared.counters.malformed(self.shared.system(), "its event stream is not valid");
                return heard;
            }
        }
        heard
    }

    /// Takes one message of a stream that belongs to no call. `false` ends the stream.
    fn heard(self: &Arc<Self>, message: &str, source: &Source<'_>) -> bool {
        let (shared, counters) = (&self.shared, &self.shared.counters);
        match (frame::read(message.as_bytes(), shared.config.frame_bytes_max), source) {
            (Err(Malformed(why)), _) => counters.malformed(shared.system(), why),
            (Ok(Incoming::Notification { method, params }), _) => {
                let key = match source {
                    Source::Standalone { key, .. } => Some(*key),
                    Source::Listen { .. } => None,
                };
                if method != "notifications/subscriptions/acknowledged" {
                    shared.notice(key, &method, params);
                }
            }
            (Ok(Incoming::Response { id: Some(id), .. }), Source::Listen { id: ours }) if frame::is_ours(id, *ours) => {
                return false;
            }
            (Ok(Incoming::Response { .. }), _) => counters.foreign(shared.system()),
            (Ok(Incoming::Request { .. }), Source::Listen { .. }) => {
                counters.malformed(shared.system(), "a server of this revision sends no requests");
            }
            (Ok(Incoming::Request { id, method, .. }), Source::Standalone { session, .. }) => {
                let Some(session) = session.upgrade() else {
                    return false;
                };
                let id = id.to_owned();
                let outcome = if method == "ping" { Ok("{}") } else { Err(frame::NOT_RELAYED) };
                if outcome.is_err() {
                    counters.refused();
                }
                self.tell_later(&session, frame::answer(id.as_str(), outcome));
            }
        }
        true
    }
}

/// The message in an event. A stream may begin with an empty one, only to give it an id.
fn message(event: &sse::Event) -> Option<&str> {
    let is_message = event.event.as_deref().is_none_or(|kind| kind == "message");
    (is_message && !event.data.is_empty()).then_some(event.data.as_str())
}
