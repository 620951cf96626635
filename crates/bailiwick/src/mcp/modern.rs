//! Requests of clients that speak 2026-07-28: everything is in the request, nothing is remembered.

use std::sync::Arc;

use bailiwick_wire::mcp::{Headers, Message, Method, Modern, Refusal, Request, code};
use bailiwick_wire::{Raw, RawBuf};
use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::house::House;
use crate::mcp::call::{Asked, operation_arguments};
use crate::mcp::exchange::{Exchange, Said, Speaks};
use crate::mcp::parked::ToldList;
use crate::mcp::session::Scope;
use crate::mcp::{OutBody, empty, held, json, lists, refuse, relay};
use crate::pipeline::Who;

/// Serves one message.
pub(super) async fn serve(
    house: Arc<House>,
    scope: Scope,
    who: Who,
    headers: &Headers<'_>,
    modern: &Modern<'_>,
    message: &Message<'_>,
    body: &Bytes,
) -> Response<OutBody> {
    let Message::Request(request) = message else { return empty(StatusCode::ACCEPTED) };
    let declared = modern.meta.client_capabilities.unwrap_or(Raw::EMPTY_OBJECT).to_owned();
    let exchange = Exchange {
        house,
        who,
        scope,
        id: request.id.to_owned(),
        speaks: Speaks::Modern { capabilities: modern.capabilities, declared },
        meta: relay::passed_meta(request.params.meta, None),
        progress: modern.meta.progress_token.map(|t| t.raw().to_owned()),
        traceparent: modern.meta.traceparent.and_then(Raw::string).map(std::borrow::Cow::into_owned),
        told: modern.capabilities.answers_questions().then(ToldList::default),
    };
    match modern.method {
        Method::ToolsCall | Method::ResourcesRead | Method::PromptsGet | Method::Complete => {
            let asked = match take(&exchange, modern.method, request, body, CancellationToken::new()).await {
                Ok(asked) => asked,
                Err(refusal) => return refuse(&refusal),
            };
            // What a call mirrors into headers is checked for tools that the task has; for another, nothing tells that it exists.
            let granted = exchange.who.live.task.grant.tool(&asked.whole).is_some();
            if let Some(entry) = asked.entry.as_ref().filter(|_| granted && modern.method == Method::ToolsCall)
                && let Err(refusal) = headers.check_params(request.params.arguments_or_empty(), &entry.header_params)
            {
                return refuse(&refusal.with_id(Some(request.id)));
            }
            call(exchange, asked).await
        }
        Method::TasksGet | Method::TasksUpdate | Method::TasksCancel => {
            let handle = request.params.task_id.as_deref().unwrap_or_default();
            said(held::asynchronous(&exchange, modern.method, handle).await)
        }
        Method::Discover => said(lists::discover(&exchange)),
        Method::SubscriptionsListen => lists::listen(exchange, request.params.get("notifications").map(Raw::to_owned)).await,
        Method::ToolsList | Method::PromptsList | Method::ResourcesList | Method::ResourceTemplatesList => {
            said(lists::list(&exchange, modern.method, request.params.cursor.as_deref()).await)
        }
        _ => refuse(&Refusal::unknown_method(request.id, true)),
    }
}

/// Runs a call and answers with JSON or a stream.
pub(super) async fn call(exchange: Exchange, asked: Asked) -> Response<OutBody> {
    if !exchange.hears() {
        return said(exchange.call(asked, None).await);
    }
    let (events, heard) = mpsc::channel(relay::EVENTS);
    let caller = exchange.clone();
    relay::respond(exchange, async move { caller.call(asked, Some(events)).await }, heard).await
}

pub(super) fn said(said: Said) -> Response<OutBody> {
    json(StatusCode::from_u16(said.status).unwrap_or(StatusCode::OK), said.message)
}

/// Takes a call out of a request of either era: which tool or operation of which system, with which exact bytes.
pub(super) async fn take(
    exchange: &Exchange,
    method: Method,
    request: &Request<'_>,
    body: &Bytes,
    cancel: CancellationToken,
) -> Result<Asked, Refusal> {
    let missing = |what: &'static str| Refusal { http_status: 200, ..Refusal::bad_request(code::INVALID_PARAMS, what).with_id(Some(request.id)) };
    let params = &request.params;
    let (name, whole, arguments) = match method {
        Method::ToolsCall => {
            let name = params.name.as_deref().ok_or_else(|| missing("`params.name` is missing"))?;
            let arguments = params.arguments.map_or_else(|| Bytes::from_static(b"{}"), |raw| body.slice_ref(raw.bytes()));
            (name.to_owned(), exchange.whole_name(name), arguments)
        }
        Method::PromptsGet => {
            let name = params.name.as_deref().ok_or_else(|| missing("`params.name` is missing"))?;
            let (system, own) = lists::owner_of_prompt(exchange, name);
            (name.to_owned(), format!("{system}.prompts/get"), operation_arguments(params.raw(), Some(&own)))
        }
        Method::ResourcesRead => {
            let uri = params.uri.as_deref().ok_or_else(|| missing("`params.uri` is missing"))?;
            let system = lists::owner_of_resource(exchange, uri).await;
            (uri.to_owned(), format!("{system}.resources/read"), operation_arguments(params.raw(), None))
        }
        _ => {
            let system = lists::owner_of_completion(exchange, params.get("ref")).await;
            (String::from("completion/complete"), format!("{system}.completion/complete"), operation_arguments(params.raw(), None))
        }
    };
    let entry = exchange.house.registry.load().tool(&whole).cloned();
    let responses: Option<RawBuf> = params.input_responses.map(Raw::to_owned);
    let state = params.request_state.as_deref().map(str::to_owned);
    Ok(Asked { method, name, whole, entry, arguments, state, responses, cancel })
}
