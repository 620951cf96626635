//! The tools of an agent that has no task yet, for clients that know MCP and nothing else: open a task, see its tools, call one,
//! complete it. The list never changes; every `task_call` passes the same gate as a call with a task's token.

use std::sync::Arc;

use bailiwick_core::{Caller, EndReason, TaskId};
use bailiwick_identity::Verified;
use bailiwick_wire::mcp::reply::{Client, Writer};
use bailiwick_wire::mcp::{ClientCapabilities, Era, Initialize, Message, Meta, Method, Refusal, Request, Version, code};
use bailiwick_wire::{Raw, RawBuf};
use bytes::Bytes;
use http::{Response, StatusCode};
use tokio_util::sync::CancellationToken;

use crate::house::House;
use crate::mcp::call::{Asked, quoted};
use crate::mcp::exchange::{Exchange, SERVER, Speaks};
use crate::mcp::parked::ToldList;
use crate::mcp::session::{Scope, Sessions};
use crate::mcp::{OutBody, empty, json, modern, refuse, relay};
use crate::pipeline::Who;
use crate::tasks::TaskRequest;

const TASK: &str = r#"{"type":"string","description":"The task's id, as task_open gave it."}"#;

fn definitions() -> [String; 4] {
    let tool = |name: &str, description: &str, properties: &str, required: &str, read_only: bool| {
        format!(
            "{{\"name\":\"{name}\",\"description\":{},\"inputSchema\":{{\"type\":\"object\",\"properties\":{{{properties}}},\"required\":[{required}],\"additionalProperties\":false}},\"annotations\":{{\"readOnlyHint\":{read_only},\"destructiveHint\":false}}}}",
            quoted(description)
        )
    };
    [
        tool(
            "task_open",
            "Opens a task: say what it is for and which tools it needs. The answer says which tools were granted, and why others were not.",
            "\"purpose\":{\"type\":\"string\",\"description\":\"What the task is for, in a sentence.\"},\"tools\":{\"type\":\"array\",\"items\":{},\"description\":\"Names such as shop.show_order, patterns such as shop.*, or objects with tool and arguments (bounds on arguments). All that may be asked for, if left out.\"},\"ttl_seconds\":{\"type\":\"integer\",\"minimum\":1},\"on_behalf_of\":{\"type\":\"string\"},\"model\":{\"type\":\"string\"},\"budget\":{\"type\":\"object\"}",
            "\"purpose\"",
            false,
        ),
        tool("task_tools", "Lists the tools of an open task with their schemas.", &format!("\"task\":{TASK}"), "\"task\"", true),
        tool(
            "task_call",
            "Calls a tool of an open task.",
            &format!("\"task\":{TASK},\"tool\":{{\"type\":\"string\"}},\"arguments\":{{\"type\":\"object\"}}"),
            "\"task\",\"tool\"",
            false,
        ),
        tool("task_complete", "Ends a task whose work is done.", &format!("\"task\":{TASK}"), "\"task\"", false),
    ]
}

/// The agent as caller of one of its own open tasks.
pub(super) fn who(house: &House, verified: &Verified, task: TaskId) -> Option<Who> {
    let live = house.live.find(task)?;
    let same = live.task.agent == verified.agent && live.task.component == verified.acting.component;
    let same = same && house.may_hold(&live.task, verified.confirmation.as_ref()) && house.task_stands(&live).is_ok();
    // A token that speaks for one person sees that person's tasks and no other's.
    let same = same && verified.acting.on_behalf_of.as_ref().is_none_or(|person| *person == live.task.subject);
    let own = same && live.task.instance == verified.instance && live.is_open(house.clock.now());
    let caller = Caller {
        agent: verified.agent.clone(),
        spiffe_id: verified.spiffe_id.clone(),
        component: verified.acting.component.clone(),
        instance: verified.instance,
        subject: live.task.subject.clone(),
        actors: live.task.actors(),
        task,
        token: verified.jti.to_string(),
    };
    own.then(|| Who { caller: Arc::new(caller), live, confirmation: verified.confirmation, key: verified.acting.key, issued: verified.issued })
}

/// Serves one message of an agent without a task.
pub(super) async fn serve(house: &Arc<House>, verified: &Verified, era: &Era<'_>, message: &Message<'_>, body: &Bytes) -> Response<OutBody> {
    let Message::Request(request) = message else { return empty(StatusCode::ACCEPTED) };
    let client = if matches!(era, Era::Modern(_)) { Client::Modern } else { Client::Legacy };
    let writer = Writer { client, server: &SERVER };
    let id = request.id.to_owned();
    let mut out = Vec::new();
    let capabilities = relay::own("{\"tools\":{}}");
    let words = "You have no task yet. Open one with task_open; then call its tools with task_call, and end it with task_complete.";
    match Method::parse(&request.method) {
        Some(Method::Initialize) if client == Client::Legacy => {
            let version = Initialize::read(request).map_or(Version::LATEST_LEGACY, |i| i.negotiated);
            writer.initialize(&mut out, &id, version, capabilities.raw(), Some(words));
        }
        Some(Method::Discover) if client == Client::Modern => writer.discover(&mut out, &id, capabilities.raw(), Some(words)),
        Some(Method::Ping) if client == Client::Legacy => writer.empty(&mut out, &id),
        Some(Method::ToolsList) => {
            let all = definitions();
            writer.tools_list(&mut out, &id, all.iter().map(String::as_bytes), None);
        }
        Some(Method::ToolsCall) => return call(house, verified, era, request, body).await,
        _ => return refuse(&Refusal::unknown_method(request.id, client == Client::Modern)),
    }
    json(StatusCode::OK, out)
}

async fn call(house: &Arc<House>, verified: &Verified, era: &Era<'_>, request: &Request<'_>, body: &Bytes) -> Response<OutBody> {
    let arguments = request.params.arguments_or_empty();
    let name = request.params.name.as_deref().unwrap_or_default();
    let client = if matches!(era, Era::Modern(_)) { Client::Modern } else { Client::Legacy };
    let writer = Writer { client, server: &SERVER };
    let id = request.id.to_owned();
    let say = |text: &str, is_error: bool| {
        let mut out = Vec::new();
        writer.tool_text(&mut out, &id, text, is_error);
        json(StatusCode::OK, out)
    };
    if name == "task_open" {
        let asked: TaskRequest = match serde_json::from_str(arguments.text()) {
            Ok(asked) => TaskRequest { held_by: crate::authn::binding::held_by(verified.confirmation.as_ref()), by_model: true, ..asked },
            Err(error) => return say(&format!("the arguments do not fit: {error} [call.arguments]"), true),
        };
        return match house.open_task_of(&verified.agent, verified.instance, &verified.acting, asked).await {
            Ok(opened) => say(&crate::api::opened_text(house, &opened), false),
            Err(refused) => {
                say(&format!("{} [{}] {}", refused.detail, refused.code, serde_json::to_string(&refused.narrowed).unwrap_or_default()), true)
            }
        };
    }
    if !matches!(name, "task_tools" | "task_call" | "task_complete") {
        return refuse(&Refusal::unknown_tool(request.id, name));
    }
    let task = arguments.member("task").and_then(Raw::string).and_then(|t| t.parse().ok()).and_then(|t| who(house, verified, t));
    let Some(who) = task else { return say("there is no such open task of yours [task.absent]", true) };
    match name {
        "task_complete" => {
            let agent = verified.spiffe_id.to_string();
            match house.end_task(who.live.task.id, EndReason::Completed, Some(&agent)).await {
                Ok(()) => say("the task is completed", false),
                Err(error) => {
                    say(&format!("the task takes no more calls; its end is recorded as soon as the store can be written: {}", error.public()), true)
                }
            }
        }
        "task_tools" => {
            let exchange = exchange(house, who, era, request);
            let tools = match exchange.tools_told().await {
                Ok(tools) => tools,
                Err(refused) => return say(&format!("{} [{}]", refused.detail, refused.code), true),
            };
            let listed: Vec<String> = tools.iter().map(|t| String::from_utf8_lossy(t.listed_whole()).into_owned()).collect();
            say(&format!("[{}]", listed.join(",")), false)
        }
        _ => {
            let Some(tool) = arguments.member("tool").and_then(Raw::string) else {
                return refuse(&Refusal {
                    http_status: 200,
                    ..Refusal::bad_request(code::INVALID_PARAMS, "`tool` is missing").with_id(Some(request.id))
                });
            };
            if let Err(error) = house.recall(&who.live, verified.acting.named).await {
                let code = error.code();
                tracing::error!(error.code = %code, %error, task = %who.live.task.id, "a call was not made: its task could not be labelled");
                return say(&format!("{}: the task could not be marked with what its agent has read in others [{code}]", code.sentence()), true);
            }
            let inner = arguments.member("arguments").map_or_else(|| Bytes::from_static(b"{}"), |raw| body.slice_ref(raw.bytes()));
            let exchange = exchange(house, who, era, request);
            let entry = house.registry.load().tool(&tool).cloned();
            let responses: Option<RawBuf> = request.params.input_responses.map(Raw::to_owned);
            let asked = Asked {
                method: Method::ToolsCall,
                name: tool.to_string(),
                whole: tool.into_owned(),
                entry,
                arguments: inner,
                state: request.params.request_state.as_deref().map(str::to_owned),
                responses,
                cancel: CancellationToken::new(),
            };
            modern::call(exchange, asked).await
        }
    }
}

fn exchange(house: &Arc<House>, who: Who, era: &Era<'_>, request: &Request<'_>) -> Exchange {
    let meta = Meta::read(&request.params);
    let speaks = match era {
        Era::Modern(modern) => {
            Speaks::Modern { capabilities: modern.capabilities, declared: modern.meta.client_capabilities.unwrap_or(Raw::EMPTY_OBJECT).to_owned() }
        }
        // A client that shakes hands gets no session here: nothing is remembered of it, and nothing is asked of it.
        Era::Legacy(_) | Era::StrayNotification => {
            Speaks::Legacy(Sessions::passing(Version::V2025_06_18, ClientCapabilities::default(), who.live.task.id))
        }
    };
    Exchange {
        house: Arc::clone(house),
        who,
        scope: Scope::All,
        id: request.id.to_owned(),
        speaks,
        meta: relay::passed_meta(request.params.meta, None),
        progress: meta.progress_token.map(|t| t.raw().to_owned()),
        traceparent: meta.traceparent.and_then(Raw::string).map(std::borrow::Cow::into_owned),
        told: matches!(era, Era::Modern(modern) if modern.capabilities.answers_questions()).then(ToldList::default),
    }
}
