//! What a system says while a call runs, passed on to the client; and an answer that becomes an event stream only if it must.

use bailiwick_wire::mcp::{META_LOG_LEVEL, Method};
use bailiwick_wire::{Limits, Raw, RawBuf};
use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::sync::{mpsc, oneshot};

use crate::labels::HEARD;
use crate::mcp::call::{legacy_session, quoted};
use crate::mcp::exchange::{Exchange, Said};
use crate::mcp::{OutBody, event_stream, json};
use crate::upstream::Event;

/// Events that may wait for a slow client.
pub(super) const EVENTS: usize = 64;

/// Answers with JSON, if the call ends before the system says anything; else with an event stream.
///
/// When a modern client goes away, its request is cancelled (MCP 2026-07-28, transports). For a handshake client it is not.
pub(super) async fn respond(
    exchange: Exchange,
    work: impl Future<Output = Said> + Send + 'static,
    mut events: mpsc::Receiver<Event>,
) -> Response<OutBody> {
    let mut work = Box::pin(work);
    let first = tokio::select! {
        biased;
        event = events.recv() => event,
        said = &mut work => return said_json(said),
    };
    let Some(first) = first else { return said_json(work.await) };
    let (pieces, stream) = mpsc::channel::<Bytes>(EVENTS);
    tokio::spawn(async move {
        let mut next = Some(first);
        loop {
            if let Some(event) = next.take() {
                pass(&exchange, event, &pieces).await;
            }
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => next = Some(event),
                    None => {
                        let said = work.await;
                        send(&pieces, &said.message).await;
                        return;
                    }
                },
                said = &mut work => {
                    while let Ok(event) = events.try_recv() {
                        pass(&exchange, event, &pieces).await;
                    }
                    send(&pieces, &said.message).await;
                    return;
                }
                () = pieces.closed(), if exchange.is_modern() => return,
            }
        }
    });
    event_stream(stream)
}

fn said_json(said: Said) -> Response<OutBody> {
    json(StatusCode::from_u16(said.status).unwrap_or(StatusCode::OK), said.message)
}

/// Sends one message as an event. A client that is gone is no error here.
pub(super) async fn send(pieces: &mpsc::Sender<Bytes>, message: &[u8]) {
    let Ok(text) = std::str::from_utf8(message) else { return };
    let mut out = Vec::with_capacity(message.len().saturating_add(64));
    bailiwick_wire::sse::write_message(&mut out, text);
    let _ = pieces.send(Bytes::from(out)).await;
}

async fn pass(exchange: &Exchange, event: Event, pieces: &mpsc::Sender<Bytes>) {
    match event {
        Event::Notification { method, params } if HEARD.contains(&&*method) => {
            let Ok(clean) = exchange.house.redact_for(exchange, params) else {
                return tracing::warn!(method, "a notification was not passed on: it held a secret that could not be taken out");
            };
            let message = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{method}\",\"params\":{}}}", clean.raw().text());
            send(pieces, message.as_bytes()).await;
        }
        Event::Notification { method, .. } => tracing::debug!(method, "a notification was not passed on"),
        Event::Request { method, params, answer } => {
            // Only a session has a way back for answers. Dropping `answer` tells the system that there is none.
            let Ok(params) = exchange.house.redact_for(exchange, params) else { return };
            let Some((id, answered)) = legacy_session(exchange).and_then(|s| s.ask()) else { return };
            let message = format!("{{\"jsonrpc\":\"2.0\",\"id\":\"{id}\",\"method\":{},\"params\":{}}}", quoted(&method), params.raw().text());
            send(pieces, message.as_bytes()).await;
            let exchange = exchange.clone();
            tokio::spawn(async move {
                let mut answer = answer;
                tokio::select! {
                    given = answered => if let Ok(given) = given
                        && given.as_ref().map_or(true, |given| exchange.note_told(exchange.told.as_ref(), &method, given.raw()))
                    {
                        drop(answer.send(given));
                    },
                    () = answer.closed() => {}
                }
            });
        }
    }
}

/// A modern system asks a client that shakes hands: each question goes to it as a request of ours on the call's stream, and the
/// answers are brought back in the retry. `None`: the client cannot, or does not, answer.
pub(super) async fn ask_all(exchange: &Exchange, result: &RawBuf, events: Option<&mpsc::Sender<Event>>) -> Option<Vec<(&'static str, String)>> {
    let (declared, events) = (exchange.capabilities(), events?);
    let mut answers = String::from("{");
    for (key, request) in result.raw().member("inputRequests").into_iter().flat_map(Raw::members) {
        let method = request.member("method")?.string()?.into_owned();
        let may = match method.as_str() {
            "elicitation/create" => declared.elicitation_form || declared.elicitation_url,
            "sampling/createMessage" => declared.sampling,
            "roots/list" => declared.roots,
            _ => false,
        };
        if !may {
            return None;
        }
        let params = request.member("params").unwrap_or(Raw::EMPTY_OBJECT).to_owned();
        let (answer, answered) = oneshot::channel();
        events.send(Event::Request { method, params, answer }).await.ok()?;
        let given = answered.await.ok()?.ok()?;
        if answers.len() > 1 {
            answers.push(',');
        }
        answers.push_str(&quoted(&key));
        answers.push(':');
        answers.push_str(given.raw().text());
    }
    answers.push('}');
    let mut extra = vec![("inputResponses", answers)];
    if let Some(state) = result.raw().member("requestState").and_then(Raw::string) {
        extra.push(("requestState", quoted(&state)));
    }
    Some(extra)
}

/// Whether a method's request may be asked of a system at all at this moment of the code; the pipeline decides the rest.
pub(super) const fn is_call(method: Method) -> bool {
    matches!(method, Method::ToolsCall | Method::ResourcesRead | Method::PromptsGet | Method::Complete)
}

/// The members of a request's `_meta` that are passed on: trace context and the log level. Whatever else stands there is in no
/// decision and on no record, so it does not reach a system.
///
/// A client that shakes hands sets its `level` for the whole session; a system of 2026-07-28 is told with each request.
pub(super) fn passed_meta(meta: Option<Raw<'_>>, level: Option<&str>) -> Option<RawBuf> {
    if meta.is_none() && level.is_none() {
        return None;
    }
    let mut text = String::from("{");
    if let Some(level) = level {
        text.push_str(&format!("\"{META_LOG_LEVEL}\":{}", quoted(level)));
    }
    for (key, value) in meta.into_iter().flat_map(Raw::members) {
        if matches!(&*key, "traceparent" | "tracestate" | "baggage") || (key == META_LOG_LEVEL && level.is_none()) {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&quoted(&key));
            text.push(':');
            text.push_str(value.text());
        }
    }
    text.push('}');
    Some(own(&text))
}

/// Parses text that we made ourselves.
pub(super) fn own(text: &str) -> RawBuf {
    Raw::parse(text.as_bytes(), &Limits::REPLY).unwrap_or(Raw::EMPTY_OBJECT).to_owned()
}
