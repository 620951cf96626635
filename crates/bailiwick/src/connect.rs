//! `bailiwick connect`: a stdio bridge for any MCP host of either era. It holds the agent's key, opens the task, renews its tokens
//! and ends the task when the host ends. Nothing but MCP messages is ever written to standard output.

mod credential;
pub(crate) mod era;
mod lines;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::{AgentName, SpiffeId};
use bailiwick_wire::json::Limits;
use bailiwick_wire::mcp::{self, IdBuf, Message, Method, Notification, Request, code};
use bailiwick_wire::sse;
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use url::Url;

use crate::cli::client::{ApiClient, problem};
use crate::cli::http::{Answer, ClientError};
use crate::cli::key_files::AgentKey;
use crate::cli::task::Wish;
use crate::cli::{Failure, Place, warn};
use credential::{Credential, Proof};
use era::{Legacy, ToolHeaders};

/// The broker ends every call in time; this is only for one that is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(3700);
/// How long answers may still come after the host closed its end.
const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// How long saying goodbye to the broker may take: hosts kill a bridge after two seconds.
const GOODBYE_WITHIN: Duration = Duration::from_millis(1500);
/// Requests of the host that may be under way at a time.
const RUNNING_MAX: usize = 256;
/// The path of the MCP endpoint.
const MCP_PATH: &str = "/mcp";
/// One event of a stream, or one answer, in bytes.
const MESSAGE_BYTES_MAX: usize = 17 << 20;

/// A stdio bridge for any MCP host.
#[derive(Debug, Args)]
pub struct Connect {
    /// The agent; its key must be here.
    #[arg(long, env = "BAILIWICK_AGENT", required_unless_present = "socket")]
    agent: Option<AgentName>,
    /// The broker's Unix socket (`[listen] unix`): no key is needed, because the process of this command is the agent by the broker's configuration.
    #[arg(long, env = "BAILIWICK_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// A file with a one-time token (`bailiwick agent enrol`): where the agent has no key here yet, one is made and registered with it.
    #[arg(long, env = "BAILIWICK_ENROL", value_name = "FILE", requires = "agent")]
    enrol: Option<std::path::PathBuf>,
    #[command(flatten)]
    wish: Wish,
}

impl Connect {
    /// Bridges until standard input ends, standard output is closed, or a signal comes.
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        let (api, proof) = match (&self.socket, &self.agent) {
            (Some(socket), agent) => {
                let named = agent.as_ref().map(|name| place.trust_domain().map(|domain| SpiffeId::agent(&domain, name))).transpose()?;
                (ApiClient::at_socket(socket)?, Proof::Process(named))
            }
            (None, Some(agent)) => {
                let api = ApiClient::of(place)?;
                if let Some(file) = &self.enrol {
                    crate::cli::enrol::here(place, &api, agent, file).await?;
                }
                let key = AgentKey::load(&place.data_dir()?, &place.trust_domain()?, agent)?;
                let proof = Proof::by_key(&api, key);
                (api, proof)
            }
            (None, None) => return Err(Failure::new("neither an agent nor a socket is named", "give --agent or --socket")),
        };
        let (out, mut written) = lines::writer(tokio::io::stdout());
        // Its tokens are worth something together with this process only.
        let api = api.hold_key().await?;
        let bridge = Arc::new(Bridge::new(Arc::new(api), proof, self.wish, out)?);
        let input = lines::Reader::new(tokio::io::stdin());
        let ended = bridge.serve(input, &mut written, stopped()?).await;
        bridge.goodbye().await;
        drop(bridge);
        // With the bridge, the last sender is gone: what is queued is written, and then the writer ends.
        let _ = tokio::time::timeout(GOODBYE_WITHIN, written.closed()).await.is_ok();
        ended
    }
}

/// Resolves at the first signal that asks us to end.
fn stopped() -> Result<impl Future<Output = ()>, Failure> {
    let listen = |kind| signal(kind).map_err(|e| Failure::new(format!("cannot listen for signals: {e}"), ""));
    let (mut term, mut int, mut hup) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = hup.recv() => {}
        }
    })
}

/// Stops what still runs.
async fn end(mut work: JoinSet<()>) -> Result<(), Failure> {
    work.shutdown().await;
    Ok(())
}

struct Bridge {
    api: Arc<ApiClient>,
    mcp: Url,
    credential: Credential,
    out: mpsc::Sender<Bytes>,
    legacy: Legacy,
    tools: ToolHeaders,
    running: Mutex<HashMap<IdBuf, Running>>,
    /// Reads a stream from the broker for what belongs to no request; at most one.
    listener: Mutex<Option<AbortHandle>>,
}

struct Running {
    abort: AbortHandle,
    modern: bool,
}

impl Bridge {
    fn new(api: Arc<ApiClient>, proof: Proof, wish: Wish, out: mpsc::Sender<Bytes>) -> Result<Self, Failure> {
        let mcp = api.mcp().parse().map_err(|e: url::ParseError| Failure::new(e.to_string(), ""))?;
        let credential = Credential::new(Arc::clone(&api), proof, wish);
        Ok(Self {
            api,
            mcp,
            credential,
            out,
            legacy: Legacy::default(),
            tools: ToolHeaders::default(),
            running: Mutex::default(),
            listener: Mutex::default(),
        })
    }

    /// Reads the host's messages and has each answered, many at a time.
    async fn serve(
        self: &Arc<Self>,
        mut input: lines::Reader<impl tokio::io::AsyncRead + Unpin>,
        written: &mut lines::Written,
        stopped: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        let mut work = JoinSet::new();
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                line = input.next() => match line {
                    Ok(Some(lines::Line::Whole(line))) => tokio::select! {
                        () = self.message(line, &mut work) => {}
                        () = &mut stopped => return end(work).await,
                        () = written.closed() => return end(work).await,
                    },
                    Ok(Some(lines::Line::TooLong)) => self.refuse(None, code::INVALID_REQUEST, "the message is longer than 4 MiB").await,
                    Ok(None) => break,
                    Err(error) => return Err(Failure::new(format!("standard input: {error}"), "")),
                },
                // Collects what is done, so that it is not kept.
                Some(_) = work.join_next() => {}
                () = &mut stopped => return end(work).await,
                () = written.closed() => return end(work).await,
            }
        }
        let last = async { while work.join_next().await.is_some() {} };
        tokio::select! {
            _ = tokio::time::timeout(LAST_ANSWERS_WITHIN, last) => {}
            () = &mut stopped => {}
            () = written.closed() => {}
        }
        end(work).await
    }

    async fn message(self: &Arc<Self>, line: Bytes, work: &mut JoinSet<()>) {
        match Message::parse(&line, &Limits::REQUEST) {
            Err(refusal) => self.refuse(refusal.id.as_ref(), refusal.code, &refusal.message).await,
            Ok(Message::Request(request)) => self.request(&request, line.clone(), work).await,
            Ok(Message::Notification(notification)) => self.notification(&notification, line.clone()).await,
            Ok(Message::Response(_)) => {
                let bridge = Arc::clone(self);
                work.spawn(async move { bridge.one_way(line, bridge.legacy.headers()).await });
            }
        }
    }

    async fn request(self: &Arc<Self>, request: &Request<'_>, line: Bytes, work: &mut JoinSet<()>) {
        let id = request.id.to_owned();
        let modern = era::modern_version(&request.params).is_some();
        self.credential.introduce(&request.params);
        if request.method == "initialize" && !modern {
            // What follows depends on the session that this begins.
            self.answer(id, Asked::Initialize, line).await;
            return;
        }
        if self.running.lock().unwrap_or_else(PoisonError::into_inner).len() >= RUNNING_MAX {
            return self.refuse(Some(&id), code::INTERNAL_ERROR, "too many requests are under way; wait for answers").await;
        }
        let asked = match (Method::parse(&request.method), modern) {
            (Some(Method::ToolsList), true) => Asked::ToolsList,
            (Some(Method::ToolsCall), true) => Asked::ToolsCall,
            (_, true) => Asked::Modern,
            (_, false) => Asked::Legacy,
        };
        let bridge = Arc::clone(self);
        let of = id.clone();
        // The task waits until it is on the list, so that it is never put there after it ended.
        let (listed, on_list) = tokio::sync::oneshot::channel::<()>();
        let abort = work.spawn(async move {
            if on_list.await.is_ok() {
                bridge.answer(of.clone(), asked, line).await;
                bridge.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&of);
            }
        });
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Running { abort, modern });
        let _ = listed.send(()).is_ok();
    }

    async fn notification(self: &Arc<Self>, notification: &Notification<'_>, line: Bytes) {
        if notification.method == "notifications/cancelled" {
            let Some(id) = notification.params.get("requestId").and_then(mcp::Id::parse).map(mcp::Id::to_owned) else { return };
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            let modern = running.as_ref().is_some_and(|r| r.modern);
            if !modern {
                // In the handshake versions a closed connection cancels nothing: it must be said.
                self.one_way(line, self.legacy.headers()).await;
            }
            if let Some(running) = running {
                running.abort.abort();
            }
            return;
        }
        let modern = era::modern_version(&notification.params);
        let headers = match modern {
            Some(version) => era::modern_headers(&version, &notification.method, &notification.params, &[]),
            None => self.legacy.headers(),
        };
        // In order: what comes after `notifications/initialized` may count on it.
        self.one_way(line, headers).await;
        if notification.method == "notifications/initialized" && self.legacy.has_session() {
            let bridge = Arc::clone(self);
            let listener = tokio::spawn(async move { bridge.listen().await }).abort_handle();
            // A new session has a stream of its own.
            if let Some(before) = self.listener.lock().unwrap_or_else(PoisonError::into_inner).replace(listener) {
                before.abort();
            }
        }
    }

    /// Has one request answered: by the broker, or by an error that says why not.
    async fn answer(&self, id: IdBuf, asked: Asked, line: Bytes) {
        let result = self.ask(&id, asked, &line).await;
        if let Err(error) = result {
            self.explain(&id, &error).await;
        }
    }

    async fn ask(&self, id: &IdBuf, asked: Asked, line: &Bytes) -> Result<(), ClientError> {
        let headers = self.headers(asked, line);
        let mut answer = self.post(headers, line.clone()).await?;
        if matches!(asked, Asked::ToolsCall) && answer.status == StatusCode::BAD_REQUEST {
            // A parameter may have to be mirrored into a header that we have not heard of yet.
            let refused = answer.bytes(ANSWER_WITHIN).await?;
            if era::error_code(&refused) != Some(code::HEADER_MISMATCH) || !self.learn_tools(line).await? {
                return self.pass_whole(id, asked, StatusCode::BAD_REQUEST, &refused).await;
            }
            answer = self.post(self.headers(asked, line), line.clone()).await?;
        }
        if matches!(asked, Asked::Initialize) {
            self.legacy.begin(&answer.headers);
        }
        if answer.status.is_success() && answer.is("text/event-stream") {
            return self.pass_stream(id, asked, answer).await;
        }
        let status = answer.status;
        let body = answer.bytes(ANSWER_WITHIN).await?;
        self.pass_whole(id, asked, status, &body).await
    }

    fn headers(&self, asked: Asked, line: &[u8]) -> HeaderMap {
        let Ok(Message::Request(request)) = Message::parse(line, &Limits::REQUEST) else { return HeaderMap::new() };
        match (asked, era::modern_version(&request.params)) {
            (Asked::Initialize, _) => HeaderMap::new(),
            (_, Some(version)) => {
                let annotated = request.params.name.as_deref().map(|name| self.tools.of(name)).unwrap_or_default();
                era::modern_headers(&version, &request.method, &request.params, &annotated)
            }
            (_, None) => self.legacy.headers(),
        }
    }

    /// Posts a message with the task's token; once more with a new one if the broker does not take it.
    async fn post(&self, mut headers: HeaderMap, line: Bytes) -> Result<Answer, ClientError> {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let mut token = self.credential.token().await?;
        // A nonce for the proof and a new token, each once.
        let (mut given, mut renewed) = (false, false);
        loop {
            let mut headers = headers.clone();
            headers.extend(self.api.authorization(&token, &http::Method::POST, MCP_PATH)?);
            let answer = self.api.http().send(http::Method::POST, &self.mcp, headers, line.clone(), ANSWER_WITHIN).await?;
            self.api.note_nonce(&answer.headers);
            match (answer.status, wants_nonce(&answer.headers)) {
                (StatusCode::UNAUTHORIZED, true) if !given => given = true,
                (StatusCode::UNAUTHORIZED, false) if !renewed => {
                    renewed = true;
                    token = self.credential.another_than(&token).await?;
                }
                _ => return Ok(answer),
            }
        }
    }

    /// Sends what nobody answers; a failure is told on standard error.
    async fn one_way(&self, line: Bytes, headers: HeaderMap) {
        match self.post(headers, line).await {
            Ok(answer) if answer.status.is_success() => {}
            Ok(answer) => warn(format_args!("bailiwick connect: the broker answered {} to a notification", answer.status)),
            Err(error) => warn(format_args!("bailiwick connect: {}", Failure::from(error))),
        }
    }

    /// Passes one answer that came as one piece.
    async fn pass_whole(&self, id: &IdBuf, asked: Asked, status: StatusCode, body: &[u8]) -> Result<(), ClientError> {
        match Message::parse(body, &Limits::REPLY) {
            Ok(Message::Response(response)) if response.id.to_owned() == *id || status.is_success() => {
                self.look(asked, body);
                self.write(body).await;
                Ok(())
            }
            _ if status.is_success() => Err(ClientError::Answer(self.mcp.to_string(), "it is no JSON-RPC response".to_owned())),
            _ => Err(era::json_rpc_error(body).unwrap_or_else(|| problem(status, body))),
        }
    }

    /// Passes the messages of a stream as they come, until it ends.
    async fn pass_stream(&self, id: &IdBuf, asked: Asked, mut answer: Answer) -> Result<(), ClientError> {
        let broken = |why: String| ClientError::Answer(self.mcp.to_string(), why);
        let mut reader = sse::Reader::new(MESSAGE_BYTES_MAX);
        let mut answered = false;
        while let Some(frame) = answer.body.frame().await {
            let Ok(bytes) = frame.map_err(|e| broken(e.to_string()))?.into_data() else { continue };
            reader.push(&bytes).map_err(|e| broken(e.to_string()))?;
            while let Some(event) = reader.next_event() {
                let message = event.data.as_bytes();
                if message.is_empty() {
                    continue;
                }
                if matches!(Message::parse(message, &Limits::REPLY), Ok(Message::Response(r)) if r.id.to_owned() == *id) {
                    answered = true;
                    self.look(asked, message);
                }
                self.write(message).await;
            }
        }
        if answered { Ok(()) } else { Err(broken("the stream ended before the answer".to_owned())) }
    }

    /// Learns from an answer what later requests must carry.
    fn look(&self, asked: Asked, body: &[u8]) {
        match asked {
            Asked::ToolsList => self.tools.learn(body).map_or((), drop),
            Asked::Initialize => self.legacy.negotiated(body),
            Asked::ToolsCall | Asked::Modern | Asked::Legacy => {}
        }
    }

    /// Lists the tools on our own account, to know which parameters are mirrored into headers. True if anything was learned.
    async fn learn_tools(&self, call: &[u8]) -> Result<bool, ClientError> {
        const PAGES_MAX: usize = 50;
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let Some(list) = era::tools_list(call, cursor.as_deref()) else { return Ok(false) };
            let headers = self.headers(Asked::ToolsList, &list);
            let answer = self.post(headers, list.into()).await?;
            if !answer.status.is_success() || !answer.is("application/json") {
                return Ok(false);
            }
            cursor = self.tools.learn(&answer.bytes(ANSWER_WITHIN).await?);
            if cursor.is_none() {
                break;
            }
        }
        Ok(self.tools.any())
    }

    /// Passes what the broker says to a legacy session outside of any request, for as long as it offers that.
    async fn listen(&self) {
        let mut last_id: Option<HeaderValue> = None;
        let mut wait = Duration::from_secs(1);
        loop {
            match self.listen_once(&mut last_id).await {
                Ok(Some(retry)) => wait = retry.unwrap_or(Duration::from_secs(1)),
                // Not offered, or not any more.
                Ok(None) => return,
                Err(_) => wait = wait.saturating_mul(2).min(Duration::from_secs(30)),
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn listen_once(&self, last_id: &mut Option<HeaderValue>) -> Result<Option<Option<Duration>>, ClientError> {
        let mut headers = self.legacy.headers();
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.extend(self.api.authorization(&*self.credential.token().await?, &http::Method::GET, MCP_PATH)?);
        if let Some(id) = last_id.clone() {
            headers.insert("last-event-id", id);
        }
        let mut answer = self.api.http().send(http::Method::GET, &self.mcp, headers, Bytes::new(), ANSWER_WITHIN).await?;
        if !answer.status.is_success() || !answer.is("text/event-stream") {
            let later = answer.status.is_server_error() || answer.status == StatusCode::UNAUTHORIZED;
            return if later { Err(problem(answer.status, b"")) } else { Ok(None) };
        }
        let broken = |why: String| ClientError::Answer(self.mcp.to_string(), why);
        let mut reader = sse::Reader::new(MESSAGE_BYTES_MAX);
        while let Some(frame) = answer.body.frame().await {
            let Ok(bytes) = frame.map_err(|e| broken(e.to_string()))?.into_data() else { continue };
            reader.push(&bytes).map_err(|e| broken(e.to_string()))?;
            while let Some(event) = reader.next_event() {
                *last_id = event.id.as_deref().and_then(|id| id.parse().ok());
                if !event.data.is_empty() {
                    self.write(event.data.as_bytes()).await;
                }
            }
        }
        Ok(Some(reader.retry_ms().map(|ms| Duration::from_millis(ms.clamp(100, 60_000)))))
    }

    async fn write(&self, message: &[u8]) {
        // If the host is gone, the loop sees it.
        let _ = self.out.send(lines::one_line(message)).await.is_ok();
    }

    async fn refuse(&self, id: Option<&IdBuf>, code: i32, why: &str) {
        let mut out = Vec::new();
        mcp::reply::error(&mut out, id, code, why, None);
        self.write(&out).await;
    }

    /// Tells the host why there is no answer: a JSON-RPC error with a sentence, the code and the hint.
    async fn explain(&self, id: &IdBuf, error: &ClientError) {
        let data = serde_json::json!({ "code": error.code(), "hint": error.hint() }).to_string();
        let data = bailiwick_wire::json::Raw::parse(data.as_bytes(), &Limits::REQUEST).ok();
        let words = if error.hint().is_empty() { error.to_string() } else { format!("{error}. {}", error.hint()) };
        let mut out = Vec::new();
        mcp::reply::error(&mut out, Some(id), code::INTERNAL_ERROR, &words, data);
        self.write(&out).await;
        warn(format_args!("bailiwick connect: {words}"));
    }

    /// Ends the session and the task.
    async fn goodbye(&self) {
        if let Some(listener) = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take() {
            listener.abort();
        }
        let farewell = async {
            if self.legacy.has_session()
                && let Ok(token) = self.credential.token().await
                && let Ok(authorization) = self.api.authorization(&token, &http::Method::DELETE, MCP_PATH)
            {
                let mut headers = self.legacy.headers();
                headers.extend(authorization);
                let _ = self.api.http().send(http::Method::DELETE, &self.mcp, headers, Bytes::new(), GOODBYE_WITHIN).await.is_ok();
            }
            self.credential.finish().await
        };
        match tokio::time::timeout(GOODBYE_WITHIN, farewell).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn(format_args!("bailiwick connect: the task could not be completed and will expire: {error}")),
            Err(_) => warn("bailiwick connect: the task could not be completed in time and will expire"),
        }
    }
}

/// Is it only the proof that needs the nonce which came with the answer?
fn wants_nonce(answer: &HeaderMap) -> bool {
    let challenges = answer.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    challenges.into_iter().any(|challenge| challenge.contains("error=\"use_dpop_nonce\""))
}

/// What a request asks for, as far as the bridge must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Initialize,
    ToolsList,
    ToolsCall,
    Modern,
    Legacy,
}
