//! Requests of clients that shake hands: 2025-11-25, 2025-06-18, 2025-03-26.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bailiwick_wire::mcp::reply::{self, Client, Writer};
use bailiwick_wire::mcp::{Headers, Initialize, Legacy, Message, Meta, Method, Refusal, Request, Version, code};
use bailiwick_wire::{Limits, Raw};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::house::House;
use crate::mcp::exchange::{Exchange, SERVER, Speaks};
use crate::mcp::parked::ToldList;
use crate::mcp::session::{Scope, Session};
use crate::mcp::{OutBody, challenge, empty, event_stream, legacy_tasks, lists, modern, not_allowed, plain, refuse, relay};
use crate::pipeline::Who;
use crate::tokens::Bearer;
use crate::upstream::{Notice, UpstreamRequest, UseEra};

const SESSION_HEADER: &str = "mcp-session-id";
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Serves one message.
pub(super) async fn serve(house: Arc<House>, scope: Scope, who: Who, legacy: &Legacy<'_>, message: &Message<'_>, body: &Bytes) -> Response<OutBody> {
    if let (true, Message::Request(request)) = (legacy.initialize, message) {
        return initialize(&house, scope, &who, request).await;
    }
    let Some(id) = legacy.session else {
        return refuse(&Refusal::bad_request(code::INVALID_REQUEST, "Mcp-Session-Id header is missing; initialize first").with_id(message.id()));
    };
    let now = house.clock.now();
    // A session that ended, and one of another task, are the same: not there (BI-025).
    let Some(session) = house.sessions.find(id, who.live.task.id, &scope, now) else {
        return refuse(&Refusal {
            http_status: 404,
            ..Refusal::bad_request(code::INVALID_REQUEST, "session not found; initialize again").with_id(message.id())
        });
    };
    match message {
        Message::Request(request) => answer(house, scope, who, session, request, body).await,
        Message::Notification(notification) => {
            if notification.method == "notifications/cancelled"
                && let Some(id) = notification.params.get("requestId")
            {
                session.cancel(id.text());
            }
            empty(StatusCode::ACCEPTED)
        }
        Message::Response(response) => {
            let id = response.id.raw().string().unwrap_or_default();
            let given = match response.outcome {
                Ok(result) => Ok(result.to_owned()),
                Err(error) => Err(error.to_owned()),
            };
            if !session.answered(&id, given) {
                tracing::debug!("a client answered a request that nobody made");
            }
            empty(StatusCode::ACCEPTED)
        }
    }
}

async fn initialize(house: &Arc<House>, scope: Scope, who: &Who, request: &Request<'_>) -> Response<OutBody> {
    let asked = match Initialize::read(request) {
        Ok(asked) => asked,
        Err(refusal) => return refuse(&refusal),
    };
    let version = asked.negotiated;
    let declared = request.params.get("capabilities").filter(|c| c.is_object()).unwrap_or(Raw::EMPTY_OBJECT);
    let capabilities = asked.capabilities;
    let now = house.clock.now();
    let Some(session) = house.sessions.open(version, capabilities, declared.to_owned(), (who.live.task.id, &who.live.task.agent), scope.clone(), now)
    else {
        return refuse(&Refusal {
            http_status: 429,
            ..Refusal::bad_request(code::INVALID_REQUEST, "too many sessions are open").with_id(Some(request.id))
        });
    };
    let exchange = Exchange {
        house: Arc::clone(house),
        who: who.clone(),
        scope,
        id: request.id.to_owned(),
        speaks: Speaks::Legacy(Arc::clone(&session)),
        meta: None,
        progress: None,
        traceparent: None,
        told: None,
    };
    let capabilities = lists::capabilities(&exchange);
    let mut message = Vec::new();
    let writer = Writer { client: Client::Legacy, server: &SERVER };
    writer.initialize(&mut message, &exchange.id, version, capabilities.raw(), Some(&lists::instructions(&exchange)));
    let mut response = super::json(StatusCode::OK, message);
    if let Ok(value) = HeaderValue::from_str(&session.id) {
        response.headers_mut().insert(SESSION_HEADER, value);
    }
    response
}

async fn answer(house: Arc<House>, scope: Scope, who: Who, session: Arc<Session>, request: &Request<'_>, body: &Bytes) -> Response<OutBody> {
    let Some(method) = Method::parse(&request.method).filter(|m| m.is_legacy()) else {
        return refuse(&Refusal::unknown_method(request.id, false));
    };
    let meta = Meta::read(&request.params);
    let exchange = Exchange {
        house,
        who,
        scope,
        id: request.id.to_owned(),
        speaks: Speaks::Legacy(Arc::clone(&session)),
        meta: relay::passed_meta(request.params.meta, Some(session.level())),
        progress: meta.progress_token.map(|t| t.raw().to_owned()),
        traceparent: meta.traceparent.and_then(Raw::string).map(std::borrow::Cow::into_owned),
        told: session.capabilities.answers_questions().then(ToldList::default),
    };
    match method {
        Method::Ping => done(&exchange),
        method if relay::is_call(method) => {
            let running = session.begin(exchange.id.as_str());
            let asked = match modern::take(&exchange, method, request, body, running.cancel.clone()).await {
                Ok(asked) => asked,
                Err(refusal) => return refuse(&refusal),
            };
            if let Some(ttl) = legacy_tasks::wanted(&session, method, request) {
                return modern::said(legacy_tasks::begin(&exchange, &session, asked, ttl));
            }
            let (events, heard) = mpsc::channel(relay::EVENTS);
            let caller = exchange.clone();
            let work = async move {
                let said = caller.call(asked, Some(events)).await;
                drop(running);
                said
            };
            relay::respond(exchange, work, heard).await
        }
        Method::ToolsList | Method::PromptsList | Method::ResourcesList | Method::ResourceTemplatesList => {
            modern::said(lists::list(&exchange, method, request.params.cursor.as_deref()).await)
        }
        Method::TasksGet | Method::TasksResult | Method::TasksList | Method::TasksCancel if session.version >= Version::V2025_11_25 => {
            let handle = request.params.task_id.as_deref().unwrap_or_default();
            modern::said(legacy_tasks::answer(&exchange, &session, method, handle).await)
        }
        Method::LoggingSetLevel => set_level(&exchange, request).await,
        Method::ResourcesSubscribe | Method::ResourcesUnsubscribe => subscribe(&exchange, method, request).await,
        _ => refuse(&Refusal::unknown_method(request.id, false)),
    }
}

fn done(exchange: &Exchange) -> Response<OutBody> {
    let mut message = Vec::new();
    exchange.writer().empty(&mut message, &exchange.id);
    super::json(StatusCode::OK, message)
}

/// How much the systems of this endpoint log to this session. Changes nothing but that.
async fn set_level(exchange: &Exchange, request: &Request<'_>) -> Response<OutBody> {
    const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
    let level = request.params.get("level").and_then(Raw::string).unwrap_or_default();
    let Some(level) = LEVELS.into_iter().find(|known| *known == level) else {
        return refuse(&Refusal {
            http_status: 200,
            ..Refusal::bad_request(code::INVALID_PARAMS, "`level` is not a log level").with_id(Some(request.id))
        });
    };
    if let Speaks::Legacy(session) = &exchange.speaks {
        session.set_level(level);
    }
    let params = relay::own(&format!("{{\"level\":\"{level}\"}}"));
    let Scope::System(name) = &exchange.scope else { return done(exchange) };
    if !exchange.knows(name.as_str()) || !exchange.who.live.within_rate(exchange.house.clock.now()) {
        return done(exchange);
    }
    let Some(system) = exchange.house.registry.load().system(name.as_str()).cloned() else { return done(exchange) };
    if let crate::pipeline::Asks::Legacy { version, capabilities } = exchange.asks(&system) {
        let key = exchange.session_key();
        let era = UseEra::Legacy { version, capabilities: capabilities.raw() };
        let ask = UpstreamRequest::new(era, &key, Method::LoggingSetLevel, params.raw());
        if let Err(error) = system.upstream.request(ask, None).await {
            tracing::debug!(%error, "the log level could not be set at the system");
        }
    }
    done(exchange)
}

/// A subscription to a resource passes the same gate as reading it.
async fn subscribe(exchange: &Exchange, method: Method, request: &Request<'_>) -> Response<OutBody> {
    let missing =
        || refuse(&Refusal { http_status: 200, ..Refusal::bad_request(code::INVALID_PARAMS, "resource not found").with_id(Some(request.id)) });
    let Some(uri) = request.params.uri.as_deref() else { return missing() };
    let system = lists::owner_of_resource(exchange, uri).await;
    let registry = exchange.house.registry.load_full();
    let whole = format!("{system}.resources/subscribe");
    let Some(entry) = registry.tool(&whole).cloned() else { return missing() };
    let asked = super::call::Asked {
        method,
        name: uri.to_owned(),
        whole,
        entry: Some(entry),
        arguments: super::call::operation_arguments(request.params.raw(), None),
        state: None,
        responses: None,
        cancel: CancellationToken::new(),
    };
    modern::call(exchange.clone(), asked).await
}

/// `GET`: what goes to a session outside of any request.
pub(super) fn stream(house: &Arc<House>, scope: &Scope, bearer: &Bearer, headers: &Headers<'_>) -> Response<OutBody> {
    let Bearer::Task(_, who) = bearer else { return not_allowed() };
    let Some(session) = session_of(house, scope, who, headers) else { return not_allowed() };
    let Some(place) = house.live.stream(&who.live) else {
        return plain(StatusCode::TOO_MANY_REQUESTS, "the task or its agent has too many streams open");
    };
    let (pieces, stream) = mpsc::channel::<Bytes>(relay::EVENTS);
    // A second stream takes the place of the first.
    *session.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(pieces.clone());
    let house = Arc::clone(house);
    let live = Arc::clone(&who.live);
    tokio::spawn(async move {
        let _place = place;
        let hearing = Arc::clone(&session);
        let mut notices = lists::notices(&house, &session.scope, &live, move |notice| hears(&hearing, notice));
        let mut changed = house.tools_changed.subscribe();
        changed.mark_unchanged();
        loop {
            let message = tokio::select! {
                () = live.ended().cancelled() => return,
                () = house.stop.cancelled() => return,
                () = pieces.closed() => return,
                change = changed.changed() => {
                    if change.is_err() { return }
                    let mut message = Vec::new();
                    reply::tools_changed(&mut message, None);
                    message
                }
                notice = notices.recv() => match notice {
                    Some(notice) => {
                        format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{}\",\"params\":{}}}", notice.method, notice.params.raw().text()).into_bytes()
                    }
                    None => std::future::pending().await,
                },
                () = tokio::time::sleep(KEEP_ALIVE) => {
                    let mut comment = Vec::new();
                    bailiwick_wire::sse::write_comment(&mut comment);
                    if pieces.send(Bytes::from(comment)).await.is_err() { return }
                    continue;
                }
            };
            relay::send(&pieces, &message).await;
        }
    });
    event_stream(stream)
}

/// May this session hear what a system says outside of any request? A process that all tasks share does not say whose work it speaks
/// of: then only that a list changed, and what this very client subscribed to.
fn hears(session: &Session, notice: &Notice) -> bool {
    let own = notice.session.as_ref().map(|s| *s == session.key);
    match &*notice.method {
        "notifications/prompts/list_changed" | "notifications/resources/list_changed" => own != Some(false),
        "notifications/resources/updated" => {
            let uri = notice.params.raw().member("uri").and_then(Raw::string).unwrap_or_default();
            own != Some(false) && session.heeds(&uri)
        }
        "notifications/message" | "notifications/elicitation/complete" => own == Some(true),
        _ => false,
    }
}

/// `DELETE`: the client ends its session.
pub(super) async fn end(house: &Arc<House>, scope: &Scope, bearer: &Bearer, headers: &Headers<'_>) -> Response<OutBody> {
    let Bearer::Task(_, who) = bearer else { return challenge(bailiwick_core::ErrorCode::TaskAbsent) };
    if headers.session_id().is_none() {
        return not_allowed();
    }
    let Some(session) = session_of(house, scope, who, headers) else { return plain(StatusCode::NOT_FOUND, "session not found") };
    house.end_mcp_session(&session).await;
    empty(StatusCode::NO_CONTENT)
}

fn session_of(house: &House, scope: &Scope, who: &Who, headers: &Headers<'_>) -> Option<Arc<Session>> {
    house.sessions.find(headers.session_id()?, who.live.task.id, scope, house.clock.now())
}

impl House {
    /// Ends a client's session, and the systems' own sessions under it.
    pub(crate) async fn end_mcp_session(&self, session: &Session) {
        self.sessions.end(&session.id);
        session.handles.end();
        *session.stream.lock().unwrap_or_else(PoisonError::into_inner) = None;
        for system in self.registry.load_full().systems.values() {
            system.upstream.end_session(&session.key).await;
        }
    }

    /// Takes out of what a system says on the side whatever was injected into it.
    ///
    /// # Errors
    /// If it cannot be taken out: then nothing of it may be passed on.
    pub(super) fn redact_for(&self, exchange: &Exchange, said: bailiwick_wire::RawBuf) -> Result<bailiwick_wire::RawBuf, ()> {
        let registry = self.registry.load();
        let systems: Vec<_> = match &exchange.scope {
            Scope::System(name) => registry.system(name.as_str()).into_iter().cloned().collect(),
            Scope::All => registry.systems.values().cloned().collect(),
        };
        let mut clean: Option<Vec<u8>> = None;
        for system in systems {
            let leased = self.leases.injections_of(&system.entry.name);
            for injection in std::iter::once(&system.injection).chain(&leased) {
                if let std::borrow::Cow::Owned(redacted) = injection.redact(clean.as_deref().unwrap_or(said.raw().bytes())) {
                    clean = Some(redacted);
                }
            }
        }
        match clean {
            None => Ok(said),
            Some(clean) => Raw::parse(&clean, &Limits::REPLY).map(Raw::to_owned).map_err(|_| ()),
        }
    }
}
