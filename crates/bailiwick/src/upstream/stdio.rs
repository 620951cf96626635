//! A stdio upstream: one process shared by all calls, kept alive, with ids and progress tokens of our own.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bailiwick_wire::Raw;
use bailiwick_wire::mcp::{Id, IdBuf};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::frame::{self, Incoming, Malformed, MetaEra, Outcome, Outgoing};
use super::process::{self, Line, Pipes, Process};
use super::{CallScope, Event, Reply, SessionKey, Shared, State, UpstreamError, UpstreamRequest, UseEra};

/// Messages that wait for a process to read them.
const OUTBOX: usize = 64;
/// Calls that one process may have open.
const OPEN_CALLS_MAX: usize = 1024;
/// Ids of calls that nobody waits for any more, kept to tell a late answer from a foreign one.
const ABANDONED_KEPT: usize = 1024;
/// A server that heeds that a call was given up never answers it. What it asks after this is not about that call any more.
const ABANDONED_FOR: Duration = Duration::from_secs(300);
/// How long the other signs of an end are waited for once there is one: the exit code tells more than a closed pipe.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Requests of the server to clients that may be open.
const RELAYS_MAX: usize = 16;

/// Keeps the process alive until the upstream is stopped.
pub(super) async fn supervise(shared: Arc<Shared>) {
    let mut wait = shared.config.backoff.first;
    let mut lives = 0_u64;
    loop {
        let begun = Instant::now();
        let why = run(&shared, lives > 0).await;
        lives = lives.saturating_add(1);
        if shared.is_stopped() {
            break;
        }
        if begun.elapsed() >= shared.config.backoff.max {
            wait = shared.config.backoff.first;
        }
        tracing::warn!(system = %shared.system(), why, wait_ms = wait.as_millis(), "a system's process is down");
        let until = Instant::now().checked_add(wait).unwrap_or(begun);
        shared.set(State::BackingOff { until, why: why.into() });
        tokio::select! {
            () = shared.stop.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
        }
        wait = wait.saturating_mul(2).min(shared.config.backoff.max);
        shared.set(State::Starting);
    }
    shared.set(State::Stopped);
}

/// One life of the process. Returns why it ended.
async fn run(shared: &Arc<Shared>, again: bool) -> String {
    let (mut process, pipes) = match Process::spawn(shared) {
        Ok(spawned) => spawned,
        Err(why) => return why,
    };
    let (channel, outbox) = Channel::new();
    let Pipes { input, output } = pipes;
    let why = {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => "the broker stops it".to_owned(),
            why = serve(shared, &channel, again) => why,
            why = ended(shared, &channel, &mut process, output) => why,
            never = write_lines(input, outbox) => never,
        }
        // Here the writer ends and closes the input of the process.
    };
    // Open calls learn of it at once, before the process had its time to end.
    channel.close(&why);
    if !shared.is_stopped() {
        shared.set(State::Starting);
    }
    process.end().await;
    why
}

/// Finds out the era, then stays for as long as the process does. Returns only if the server cannot be used.
async fn serve(shared: &Arc<Shared>, channel: &Arc<Channel>, again: bool) -> String {
    let found = super::detect::stdio(shared, channel);
    match tokio::time::timeout(shared.config.start_timeout, found).await {
        Ok(Ok(live)) => {
            tracing::info!(system = %shared.system(), support = ?live.support, "a system is ready");
            shared.ready(live);
            if again {
                shared.notice_return();
            }
            std::future::pending().await
        }
        Ok(Err(why)) => why,
        Err(_) => format!("it did not answer within {} ms of its start", shared.config.start_timeout.as_millis()),
    }
}

/// Reads what the server writes until it ends. What it wrote just before its end is still taken.
async fn ended(shared: &Arc<Shared>, channel: &Arc<Channel>, process: &mut Process, output: ChildStdout) -> String {
    let mut read = std::pin::pin!(read_lines(shared, channel, output));
    let mut exited = std::pin::pin!(process.exited());
    tokio::select! {
        why = &mut exited => {
            // The pipe may be held open by a process that it left behind.
            drop(tokio::time::timeout(LAST_WORDS, read).await);
            why
        }
        () = &mut read => {
            let why = tokio::time::timeout(LAST_WORDS, exited).await;
            why.unwrap_or_else(|_| "it closed its output".to_owned())
        }
    }
}

/// Writes messages for as long as the process lives. That it does not read any more is no end: its exit is.
async fn write_lines(mut input: ChildStdin, mut outbox: mpsc::Receiver<Vec<u8>>) -> String {
    while let Some(mut frame) = outbox.recv().await {
        as_line(&mut frame);
        if input.write_all(&frame).await.is_err() || input.flush().await.is_err() {
            tokio::time::sleep(LAST_WORDS).await;
            return "it closed its input".to_owned();
        }
    }
    "its input was closed".to_owned()
}

/// A message as one line: a line break can only stand between tokens of JSON, where a space means the same.
fn as_line(frame: &mut Vec<u8>) {
    for byte in frame.iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
    frame.push(b'\n');
}

async fn read_lines(shared: &Arc<Shared>, channel: &Arc<Channel>, output: ChildStdout) {
    let mut reader = BufReader::with_capacity(64 << 10, output);
    let mut line = Vec::new();
    loop {
        match process::next_line(&mut reader, &mut line, shared.config.frame_bytes_max).await {
            Ok(Line::Frame) if line.trim_ascii().is_empty() => {}
            Ok(Line::Frame) => channel.take(shared, &line),
            Ok(Line::TooLong) => channel.too_long(shared),
            Ok(Line::End) | Err(_) => return,
        }
        if line.capacity() > 1 << 20 {
            line = Vec::new();
        }
    }
}

/// The two directions of one life of a process.
#[derive(Debug)]
pub(super) struct Channel {
    outbox: mpsc::Sender<Vec<u8>>,
    calls: Mutex<Calls>,
    next_id: AtomicU64,
    relays: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Calls {
    open: HashMap<u64, Waiting>,
    abandoned: VecDeque<(u64, SessionKey, Instant)>,
    /// Requests of the server that a client answers, by the server's id.
    relayed: HashMap<IdBuf, oneshot::Sender<()>>,
    /// Why no answer comes any more.
    closed: Option<Arc<str>>,
    modern: bool,
}

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Result<Reply, UpstreamError>>,
    events: Option<mpsc::Sender<Event>>,
    /// The client's own progress token.
    token: Option<IdBuf>,
    session: SessionKey,
}

/// An open call. Dropping it before its answer stops the call.
#[derive(Debug)]
pub(super) struct OpenCall {
    channel: Arc<Channel>,
    id: u64,
    answer: oneshot::Receiver<Result<Reply, UpstreamError>>,
    /// Whether the server must be told that nobody waits.
    tell: bool,
}

impl Channel {
    fn new() -> (Arc<Self>, mpsc::Receiver<Vec<u8>>) {
        let (outbox, lines) = mpsc::channel(OUTBOX);
        let channel = Self { outbox, calls: Mutex::default(), next_id: AtomicU64::new(1), relays: Arc::new(Semaphore::new(RELAYS_MAX)) };
        (Arc::new(channel), lines)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the server is a modern one: it may not ask anything.
    pub(super) fn set_modern(&self) {
        self.calls().modern = true;
    }

    /// One request and its answer.
    pub(super) async fn call(
        self: &Arc<Self>,
        shared: &Shared,
        request: &UpstreamRequest<'_>,
        events: Option<mpsc::Sender<Event>>,
        scope: &CallScope,
    ) -> Result<Reply, UpstreamError> {
        frame::Mirrored::read(request.params)?;
        let capabilities;
        let era = match request.era {
            UseEra::Modern { capabilities: declared } => {
                capabilities = frame::shown_capabilities(declared, shared.config.relay);
                MetaEra::Modern { capabilities: &capabilities }
            }
            UseEra::Legacy { .. } => MetaEra::Legacy,
        };
        let token = request.progress_token.map(Id::to_owned);
        let progress = token.is_some() && events.is_some();
        let mut open = self.open(events, token, request.session)?;
        let outgoing = Outgoing { id: open.id, method: request.method.as_str(), params: request.params, era, progress, extra: request.meta };
        let frame = outgoing.write();
        let place = self.outbox.reserve().await.map_err(|_| UpstreamError::unavailable("its process has ended"))?;
        scope.mark_sent();
        open.tell = true;
        place.send(frame);
        open.answer().await
    }

    /// One request of our own during the start. It is never cancelled: an answer that comes late is only dropped.
    pub(super) fn begin(self: &Arc<Self>, method: &'static str, params: Raw<'_>, era: MetaEra<'_>) -> Result<OpenCall, UpstreamError> {
        let open = self.open(None, None, &SessionKey::new("broker"))?;
        let outgoing = Outgoing { id: open.id, method, params, era, progress: false, extra: None };
        self.send(outgoing.write());
        Ok(open)
    }

    /// Sends without an answer to wait for. A process that does not read loses it.
    pub(super) fn send(&self, frame: Vec<u8>) {
        if self.outbox.try_send(frame).is_err() {
            tracing::debug!("a process does not read: a message to it was dropped");
        }
    }

    fn open(self: &Arc<Self>, events: Option<mpsc::Sender<Event>>, token: Option<IdBuf>, session: &SessionKey) -> Result<OpenCall, UpstreamError> {
        let (sender, answer) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut calls = self.calls();
        if let Some(why) = &calls.closed {
            return Err(UpstreamError::unavailable(why.to_string()));
        }
        if calls.open.len() >= OPEN_CALLS_MAX {
            return Err(UpstreamError::unavailable("too many calls are open there"));
        }
        calls.open.insert(id, Waiting { answer: sender, events, token, session: session.clone() });
        drop(calls);
        Ok(OpenCall { channel: Arc::clone(self), id, answer, tell: false })
    }

    /// Tells every open call that there will be no answer.
    fn close(&self, why: &str) {
        let open = {
            let mut calls = self.calls();
            calls.closed = Some(why.into());
            calls.relayed.clear();
            std::mem::take(&mut calls.open)
        };
        for waiting in open.into_values() {
            drop(waiting.answer.send(Err(UpstreamError::died(why.to_owned()))));
        }
    }

    /// Takes one line of the server.
    fn take(self: &Arc<Self>, shared: &Arc<Shared>, line: &[u8]) {
        match frame::read(line, shared.config.frame_bytes_max) {
            Err(Malformed(why)) => shared.counters.malformed(shared.system(), why),
            Ok(Incoming::Response { id: None, .. }) => {
                shared.counters.malformed(shared.system(), "an error that answers no request");
            }
            Ok(Incoming::Response { id: Some(id), outcome }) => self.answered(shared, id, &outcome),
            Ok(Incoming::Notification { method, params }) => self.noticed(shared, &method, params),
            Ok(Incoming::Request { id, method, params }) => self.asked(shared, id, &method, params),
        }
    }

    fn answered(&self, shared: &Shared, id: Id<'_>, outcome: &Outcome<'_>) {
        let mut calls = self.calls();
        let number = frame::number(id);
        let waiting = number.and_then(|number| calls.open.remove(&number));
        let late = number.and_then(|number| calls.abandoned.iter().position(|(abandoned, ..)| *abandoned == number));
        if let Some(place) = late {
            calls.abandoned.remove(place);
        }
        drop(calls);
        match (waiting, late) {
            (Some(waiting), _) => drop(waiting.answer.send(Ok(Reply::from_outcome(outcome, 200)))),
            (None, Some(_)) => shared.counters.late(),
            (None, None) => shared.counters.foreign(shared.system()),
        }
    }

    fn noticed(&self, shared: &Shared, method: &str, params: Raw<'_>) {
        match method {
            "notifications/progress" => {
                if !self.progressed(shared, method, params) {
                    shared.counters.malformed(shared.system(), "progress of no open call");
                }
            }
            "notifications/cancelled" => {
                if let Some(id) = params.member("requestId").and_then(Id::parse) {
                    self.calls().relayed.remove(&id.to_owned());
                }
            }
            "notifications/subscriptions/acknowledged" => {}
            _ => shared.notice(None, method, params),
        }
    }

    /// Hands progress to its call. A caller that does not keep up misses some.
    fn progressed(&self, shared: &Shared, method: &str, params: Raw<'_>) -> bool {
        let Some(number) = frame::progress_token(params) else {
            return false;
        };
        let calls = self.calls();
        let Some(Waiting { events: Some(events), token: Some(token), .. }) = calls.open.get(&number) else {
            return calls.abandoned.iter().any(|(abandoned, ..)| *abandoned == number);
        };
        let Some(params) = frame::with_token(params, token.as_str(), shared.config.frame_bytes_max) else {
            return false;
        };
        drop(events.try_send(Event::Notification { method: method.to_owned(), params }));
        true
    }

    /// Answers a request of the server, or lets the client answer it.
    fn asked(self: &Arc<Self>, shared: &Arc<Shared>, id: Id<'_>, method: &str, params: Raw<'_>) {
        if self.calls().modern {
            return shared.counters.malformed(shared.system(), "a server of this revision sends no requests");
        }
        let server_id = id.to_owned();
        if method == "ping" {
            return self.send(frame::answer(server_id.as_str(), Ok("{}")));
        }
        let relayed = shared.config.relay.allows(method) && self.relay(shared, &server_id, method, params);
        if !relayed {
            shared.counters.refused();
            self.send(frame::answer(server_id.as_str(), Err(frame::NOT_RELAYED)));
        }
    }

    /// Nothing on this channel says to which call a request of the server belongs. So it is relayed only while exactly one
    /// is open, and the server owes no answer to a call of another session that was given up a while ago: nobody may be asked about the work of
    /// another.
    fn relay(self: &Arc<Self>, shared: &Arc<Shared>, id: &IdBuf, method: &str, params: Raw<'_>) -> bool {
        let Ok(place) = Arc::clone(&self.relays).try_acquire_owned() else {
            return false;
        };
        let (answer, mut answered) = oneshot::channel();
        let (alive, withdrawn) = oneshot::channel::<()>();
        {
            let mut calls = self.calls();
            let mut open = calls.open.values();
            let (Some(Waiting { events: Some(events), session, .. }), None) = (open.next(), open.next()) else {
                return false;
            };
            if may_be_anothers(&calls.abandoned, session, Instant::now()) {
                return false;
            }
            let event = Event::Request { method: method.to_owned(), params: params.to_owned(), answer };
            if events.try_send(event).is_err() {
                return false;
            }
            calls.relayed.insert(id.clone(), alive);
        }
        let (channel, id) = (Arc::clone(self), id.clone());
        shared.workers.spawn(async move {
            let outcome = tokio::select! {
                outcome = &mut answered => outcome.ok(),
                // The server took its question back, or its process is gone.
                _ = withdrawn => None,
            };
            answered.close();
            let wanted = channel.calls().relayed.remove(&id).is_some();
            if wanted {
                channel.send(frame::client_answer(id.as_str(), outcome));
            }
            drop(place);
        });
        true
    }

    /// A line over the limit is gone, its id with it. If only one call is open it was that one's; else each waits on, and
    /// the one whose answer is lost runs into its time.
    fn too_long(&self, shared: &Shared) {
        shared.counters.malformed(shared.system(), "it is longer than the limit");
        let mut calls = self.calls();
        let mut ids = calls.open.keys();
        if let (Some(&only), None) = (ids.next(), ids.next())
            && let Some(waiting) = calls.open.remove(&only)
        {
            let words = format!("it is longer than {} bytes", shared.config.frame_bytes_max);
            drop(waiting.answer.send(Err(UpstreamError::broken(words))));
        }
    }
}

/// May a question that is asked now be about a call of another session, which was given up and not answered?
fn may_be_anothers(abandoned: &VecDeque<(u64, SessionKey, Instant)>, session: &SessionKey, now: Instant) -> bool {
    abandoned.iter().any(|(_, of, at)| of != session && now.saturating_duration_since(*at) < ABANDONED_FOR)
}

impl OpenCall {
    /// Waits for the answer. May be asked again if the future was dropped.
    pub(super) async fn answer(&mut self) -> Result<Reply, UpstreamError> {
        (&mut self.answer).await.unwrap_or_else(|_| Err(UpstreamError::died("its process has ended")))
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut calls = self.channel.calls();
        let given_up = calls.open.remove(&self.id);
        let unanswered = given_up.is_some();
        if let Some(Waiting { session, .. }) = given_up {
            if calls.abandoned.len() >= ABANDONED_KEPT {
                calls.abandoned.pop_front();
            }
            calls.abandoned.push_back((self.id, session, Instant::now()));
        }
        drop(calls);
        if unanswered && self.tell {
            self.channel.send(frame::cancelled(self.id));
        }
    }
}

impl Reply {
    pub(super) fn from_outcome(outcome: &Outcome<'_>, http_status: u16) -> Self {
        match outcome {
            Outcome::Result(result) => Self::Result(Raw::to_owned(*result)),
            Outcome::Error { code, message, data } => {
                Self::Error { code: *code, message: message.clone().into_owned(), data: data.map(Raw::to_owned), http_status }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_given_up_ends_the_questions_of_other_sessions_for_a_while_and_not_for_ever() {
        let (one, other, now) = (SessionKey::new("task_1"), SessionKey::new("task_2"), Instant::now());
        let abandoned = VecDeque::from([(1, one.clone(), now)]);
        let after = |wait| now.checked_add(wait).unwrap();
        assert!(may_be_anothers(&abandoned, &other, after(ABANDONED_FOR.saturating_sub(Duration::from_millis(1)))));
        assert!(!may_be_anothers(&abandoned, &other, after(ABANDONED_FOR)));
        assert!(!may_be_anothers(&abandoned, &one, now));
    }

    #[test]
    fn a_message_is_one_line_whatever_space_it_has() {
        let mut frame = b"{\"a\":\r\n\t1,\"b\":\"x\\ny\"}".to_vec();
        as_line(&mut frame);
        assert_eq!(frame, b"{\"a\":  \t1,\"b\":\"x\\ny\"}\n");
    }
}
