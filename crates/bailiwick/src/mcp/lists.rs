//! What a task sees: tools, prompts, resources of the systems that it was granted, and what changes about them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use bailiwick_core::{CallId, ErrorCode, SystemName};
use bailiwick_store::Entry;
use bailiwick_wire::mcp::reply;
use bailiwick_wire::mcp::{Method, Refusal, Version, code};
use bailiwick_wire::{Raw, RawBuf};
use bytes::Bytes;
use http::Response;
use tokio::sync::mpsc;

use crate::clock::random;
use crate::entry::{self, Body};
use crate::house::House;
use crate::labels::{Asking, LabelError};
use crate::live::LiveTask;
use crate::mcp::call::{legacy_session, quoted};
use crate::mcp::exchange::{Exchange, Said};
use crate::mcp::session::Scope;
use crate::mcp::{OutBody, event_stream, relay};
use crate::pipeline::{Asks, Refused};
use crate::registry::{System, ToolEntry};
use crate::upstream::{Listening, Notice, Reply, UpstreamRequest, UseEra};

/// The capabilities that this endpoint has for this task, as a JSON object.
pub(super) fn capabilities(exchange: &Exchange) -> RawBuf {
    let mut members = vec!["\"tools\":{\"listChanged\":true}".to_owned()];
    let resources = exchange.systems_with("resources/read");
    let prompts = exchange.systems_with("prompts/get");
    if !resources.is_empty() {
        let subscribe = resources.iter().any(|s| declares(s, "resources", Some("subscribe")));
        members.push(format!("\"resources\":{{\"listChanged\":true,\"subscribe\":{subscribe}}}"));
    }
    if !prompts.is_empty() {
        members.push("\"prompts\":{\"listChanged\":true}".to_owned());
    }
    if prompts.iter().any(|s| declares(s, "completions", None)) {
        members.push("\"completions\":{}".to_owned());
    }
    if exchange.is_modern() {
        members.push("\"extensions\":{\"io.modelcontextprotocol/tasks\":{}}".to_owned());
    }
    if has_legacy_tasks(exchange) {
        members.push("\"tasks\":{\"list\":{},\"cancel\":{},\"requests\":{\"tools\":{\"call\":{}}}}".to_owned());
    }
    if !exchange.is_modern()
        && let Scope::System(name) = &exchange.scope
        && exchange.knows(name.as_str())
        && exchange.house.registry.load().system(name.as_str()).is_some_and(|s| declares(s, "logging", None))
    {
        members.push("\"logging\":{}".to_owned());
    }
    relay::own(&format!("{{{}}}", members.join(",")))
}

/// Does the client's revision have the tasks of 2025-11-25?
fn has_legacy_tasks(exchange: &Exchange) -> bool {
    legacy_session(exchange).is_some_and(|s| s.version >= Version::V2025_11_25)
}

/// Does a system say that it can do this?
fn declares(system: &System, capability: &str, member: Option<&str>) -> bool {
    let about = system.upstream.about().unwrap_or_default();
    [about.modern, about.legacy].into_iter().flatten().any(|said| {
        let found = said.raw().member("capabilities").and_then(|c| c.member(capability)).filter(|c| c.is_object());
        match member {
            None => found.is_some(),
            Some(member) => found.and_then(|c| c.member(member)).and_then(Raw::boolean) == Some(true),
        }
    })
}

pub(super) fn instructions(exchange: &Exchange) -> String {
    let task = &exchange.who.live.task;
    format!(
        "You work in task {} ({}) through Bailiwick. You see only the tools that this task was granted. Some calls wait for a person: \
         follow what the answer says, and do not change the arguments. The task ends at {}.",
        task.id,
        bailiwick_wire::render::line(&task.purpose),
        task.expires_at
    )
}

pub(super) fn discover(exchange: &Exchange) -> Said {
    let mut message = Vec::new();
    exchange.writer().discover(&mut message, &exchange.id, capabilities(exchange).raw(), Some(&instructions(exchange)));
    Said::ok(message)
}

/// `tools/list` from our own registry; the other lists from the systems that the task may read.
pub(super) async fn list(exchange: &Exchange, method: Method, cursor: Option<&str>) -> Said {
    if method == Method::ToolsList {
        return tools(exchange, cursor).await;
    }
    let (operation, member) = match method {
        Method::PromptsList => ("prompts/get", "prompts"),
        Method::ResourcesList => ("resources/read", "resources"),
        _ => ("resources/read", "resourceTemplates"),
    };
    let systems = exchange.systems_with(operation);
    if let Err(refused) = exchange.look_around(method).await {
        return exchange.refused(method, member, &refused);
    }
    for system in &systems {
        if let Err(refused) = exchange.hears_from(system, method.as_str()).await {
            return exchange.refused(method, member, &refused);
        }
    }
    let mut message = Vec::new();
    if let (Scope::System(_), [system]) = (&exchange.scope, systems.as_slice()) {
        let params = cursor.map_or_else(|| "{}".to_owned(), |c| format!("{{\"cursor\":{}}}", quoted(c)));
        return match ask(exchange, system, method, &relay::own(&params)).await {
            Ok(Reply::Result(result)) => {
                let Some(result) = clean(system, result) else {
                    return exchange.upstream_error(code::INTERNAL_ERROR.into(), "the list held a secret", None, 200);
                };
                exchange.writer().upstream_result(&mut message, &exchange.id, method, result.raw());
                Said::ok(message)
            }
            Ok(Reply::Error { code, message, data, http_status }) => {
                let (message, data) = (system.injection.redact_text(&message), data.and_then(|d| clean(system, d)));
                exchange.upstream_error(code, &message, data.as_ref(), http_status)
            }
            Err(words) => exchange.upstream_error(code::INTERNAL_ERROR.into(), &words, None, 200),
        };
    }
    let mut items: Vec<String> = Vec::new();
    for system in &systems {
        let all = system.upstream.list_all(method, &exchange.session_key()).await;
        for item in all.into_iter().flatten().filter_map(|item| clean(system, item)) {
            items.push(if method == Method::PromptsList { prefixed(&system.entry.name, item.raw()) } else { item.raw().text().to_owned() });
        }
    }
    let result = relay::own(&format!("{{\"{member}\":[{}]}}", items.join(",")));
    exchange.writer().upstream_result(&mut message, &exchange.id, method, result.raw());
    Said::ok(message)
}

async fn tools(exchange: &Exchange, cursor: Option<&str>) -> Said {
    if cursor.is_some() {
        return Said::refusal(&Refusal {
            http_status: 200,
            ..Refusal::bad_request(code::INVALID_PARAMS, "the list has one page").with_id(exchange.id_ref())
        });
    }
    let tools = match exchange.tools_told().await {
        Ok(tools) => tools,
        Err(refused) => return exchange.refused(Method::ToolsList, "tools", &refused),
    };
    let listed: Vec<&[u8]> = match exchange.scope {
        Scope::All => tools.iter().map(|t| t.listed_whole()).collect(),
        Scope::System(_) => tools.iter().map(|t| t.listed_own()).collect(),
    };
    let mut message = Vec::new();
    if has_legacy_tasks(exchange) {
        let waits = exchange.house.waiting_tools(&exchange.who.live.task);
        let marked: Vec<_> =
            tools.iter().zip(&listed).map(|(tool, text)| if waits(&tool.tool.name) { behind_a_handle(text) } else { Cow::Borrowed(*text) }).collect();
        exchange.writer().tools_list(&mut message, &exchange.id, marked.iter().map(|text| &**text), None);
    } else {
        exchange.writer().tools_list(&mut message, &exchange.id, listed, None);
    }
    Said::ok(message)
}

/// The definition of a tool whose calls may wait for people: they may be made behind a handle (MCP 2025-11-25, tasks). What the system
/// itself says of that stays.
fn behind_a_handle(definition: &[u8]) -> Cow<'_, [u8]> {
    let says = crate::registry::parse_raw(definition).is_none_or(|raw| raw.member("execution").is_some());
    match definition.strip_suffix(b"}") {
        Some(open) if !says => Cow::Owned([open, br#","execution":{"taskSupport":"optional"}}"#].concat()),
        _ => Cow::Borrowed(definition),
    }
}

impl Exchange {
    /// Asking what there is counts against the task's pace, and the first time that a task asks for each kind is on record.
    ///
    /// # Errors
    /// Too fast, or the record cannot be written.
    async fn look_around(&self, method: Method) -> Result<(), Refused> {
        let (live, house) = (&self.who.live, &self.house);
        let refused = |code: ErrorCode| Refused { code, detail: code.sentence().to_owned() };
        if !live.within_rate(house.clock.now()) {
            let (id, code) = (CallId::new(house.clock.now(), random()), ErrorCode::BudgetRate);
            let denied = house.denied_early(id, &self.who.caller, &live.task, method.as_str(), code, code.sentence(), &[]).await;
            return Err(refused(if denied.is_ok() { code } else { ErrorCode::AuditUnavailable }));
        }
        if live.has_looked(method.as_str()) {
            return Ok(());
        }
        let name = match &self.scope {
            Scope::All => method.as_str().to_owned(),
            Scope::System(system) => format!("{system}.{}", method.as_str()),
        };
        let body = entry::encode(house.clock.now(), &entry::House { what: "listed", name: Some(&name), digest: None });
        let entry = Entry::new(<entry::House<'_> as Body>::WORD, body).of_task(live.task.id);
        // It counts as looked once that is durable: where it is not, the next one is no less the first.
        house.store.append(entry).await.map_err(|error| {
            tracing::error!(%error, "a list was not given: the ledger cannot be written");
            refused(ErrorCode::AuditUnavailable)
        })?;
        live.looked(method.as_str());
        Ok(())
    }

    /// The tools that the task sees here, to be told. Their definitions bear the labels of `tools/list`: the task carries them first.
    ///
    /// # Errors
    /// It cannot, and none may be told.
    pub(super) async fn tools_told(&self) -> Result<Vec<Arc<ToolEntry>>, Refused> {
        let tools = self.tools();
        let mut told: Option<&Arc<System>> = None;
        // They come by system.
        for system in tools.iter().map(|tool| &tool.system) {
            if told.is_none_or(|told| !Arc::ptr_eq(told, system)) {
                self.hears_from(system, Method::ToolsList.as_str()).await?;
                told = Some(system);
            }
        }
        Ok(tools)
    }

    /// What a system says outside of calls bears its labels too: the task carries them first.
    ///
    /// # Errors
    /// It cannot, and nothing may be asked of the system.
    async fn hears_from(&self, system: &System, method: &str) -> Result<(), Refused> {
        self.house.label_for(&self.who.live, system, method).await.map_err(|error| {
            tracing::error!(%error, "a list was not given: the task could not be labelled");
            Refused { code: error.code(), detail: error.code().sentence().to_owned() }
        })
    }
}

impl House {
    /// A task is about to be given what a system says by this method, outside of any call.
    async fn label_for(&self, live: &LiveTask, system: &System, method: &str) -> Result<(), LabelError> {
        let labels = system.entry.labels_of(method)?;
        if live.carries(&labels) {
            return Ok(());
        }
        self.label(live, &labels, Asking { call: None, tool: &format!("{}.{method}", system.entry.name) }).await
    }
}

/// What a system said, without what was injected into it. `None`: it could not be taken out.
fn clean(system: &System, said: RawBuf) -> Option<RawBuf> {
    let clean = match system.injection.redact(said.raw().bytes()) {
        std::borrow::Cow::Borrowed(_) => None,
        std::borrow::Cow::Owned(clean) => Some(clean),
    };
    match clean {
        None => Some(said),
        Some(clean) => crate::registry::parse_raw(&clean).map(Raw::to_owned),
    }
}

async fn ask(exchange: &Exchange, system: &System, method: Method, params: &RawBuf) -> Result<Reply, String> {
    let key = exchange.session_key();
    let asks = exchange.asks(system);
    let era = match &asks {
        Asks::Modern { capabilities } => UseEra::Modern { capabilities: capabilities.raw() },
        Asks::Legacy { version, capabilities } => UseEra::Legacy { version: *version, capabilities: capabilities.raw() },
    };
    let request = UpstreamRequest::new(era, &key, method, params.raw());
    system.upstream.request(request, None).await.map_err(|e| e.to_string())
}

fn prefixed(system: &SystemName, prompt: Raw<'_>) -> String {
    let mut out = String::from("{");
    for (key, value) in prompt.entries() {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(key.text());
        out.push(':');
        match (key.string().as_deref(), value.string()) {
            (Some("name"), Some(name)) => out.push_str(&quoted(&format!("{system}.{name}"))),
            _ => out.push_str(value.text()),
        }
    }
    out.push('}');
    out
}

/// The system of a prompt, and the prompt's own name there. A name of no system gives an owner that no task was granted.
pub(super) fn owner_of_prompt(exchange: &Exchange, name: &str) -> (String, String) {
    match &exchange.scope {
        Scope::System(system) => (system.to_string(), name.to_owned()),
        Scope::All => {
            let (system, own) = name.split_once('.').unwrap_or(("?", name));
            (system.to_owned(), own.to_owned())
        }
    }
}

/// The system that owns a resource: the one of the endpoint, the only one that offers resources, or the one that lists it.
pub(super) async fn owner_of_resource(exchange: &Exchange, uri: &str) -> String {
    if let Scope::System(system) = &exchange.scope {
        return system.to_string();
    }
    let systems = exchange.systems_with("resources/read");
    if let [only] = systems.as_slice() {
        return only.entry.name.to_string();
    }
    // Several systems are asked for their lists to find out: no faster than anything else, and on record.
    if exchange.look_around(Method::ResourcesList).await.is_err() {
        return "?".to_owned();
    }
    let mut owners: BTreeSet<String> = BTreeSet::new();
    for system in &systems {
        let listed = system.upstream.list_all(Method::ResourcesList, &exchange.session_key()).await.unwrap_or_default();
        if listed.iter().any(|r| r.raw().member("uri").and_then(Raw::string).as_deref() == Some(uri)) {
            owners.insert(system.entry.name.to_string());
        }
    }
    // Two owners are none: nobody shall guess which one is meant.
    if owners.len() == 1 { owners.pop_first().unwrap_or_default() } else { "?".to_owned() }
}

/// The system whose prompt or resource is completed.
pub(super) async fn owner_of_completion(exchange: &Exchange, reference: Option<Raw<'_>>) -> String {
    let Some(reference) = reference else { return "?".to_owned() };
    if let Scope::System(system) = &exchange.scope {
        return system.to_string();
    }
    match (reference.member("name").and_then(Raw::string), reference.member("uri").and_then(Raw::string)) {
        // Names of this endpoint have their system in front, which the system itself would not know: ask at its own endpoint.
        (Some(_), _) | (None, None) => "?".to_owned(),
        (None, Some(uri)) => owner_of_resource(exchange, &uri).await,
    }
}

/// What the systems of an endpoint of which the task has something say outside of any request, as far as its client hears it.
pub(super) fn notices(
    house: &Arc<House>,
    scope: &Scope,
    live: &Arc<LiveTask>,
    hears: impl Fn(&Notice) -> bool + Clone + Send + Sync + 'static,
) -> mpsc::Receiver<Notice> {
    let (sender, receiver) = mpsc::channel(64);
    let registry = house.registry.load();
    let systems: Vec<Arc<System>> = match scope {
        Scope::All => registry.systems.values().cloned().collect(),
        Scope::System(name) => registry.system(name.as_str()).into_iter().cloned().collect(),
    };
    // A system of which the task has nothing does not exist for it.
    let known = |s: &Arc<System>| live.task.grant.tools().keys().any(|n| n.system() == s.entry.name.as_str());
    for system in systems.into_iter().filter(known) {
        let (mut heard, sender, stop) = (system.upstream.subscribe(), sender.clone(), house.stop.clone());
        let (house, live, hears) = (Arc::clone(house), Arc::clone(live), hears.clone());
        tokio::spawn(async move {
            loop {
                let notice = tokio::select! {
                    () = stop.cancelled() => return,
                    () = sender.closed() => return,
                    notice = heard.recv() => notice,
                };
                match notice {
                    Ok(notice) if hears(&notice) => {
                        if let Some(notice) = house.passable(&live, &system, notice).await
                            && sender.send(notice).await.is_err()
                        {
                            return;
                        }
                    }
                    Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                }
            }
        });
    }
    receiver
}

impl House {
    /// What a system says outside of any request, without what was injected into it, once the task carries its labels. `None`: it is not
    /// passed on.
    async fn passable(&self, live: &LiveTask, system: &System, mut notice: Notice) -> Option<Notice> {
        let leased = self.leases.injections_of(&system.entry.name);
        // What was injected does not come back on the side either.
        for injection in std::iter::once(&system.injection).chain(&leased) {
            let Cow::Owned(clean) = injection.redact(notice.params.raw().bytes()) else { continue };
            notice.params = Arc::new(crate::registry::parse_raw(&clean)?.to_owned());
        }
        match self.label_for(live, system, &notice.method).await {
            Ok(()) => Some(notice),
            Err(error) => {
                tracing::error!(%error, "a notification was not passed on: the task could not be labelled");
                None
            }
        }
    }
}

/// What a client wants to hear, cut to what it may.
#[derive(Debug, Default)]
struct Wanted {
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: BTreeSet<String>,
}

impl Wanted {
    fn read(exchange: &Exchange, asked: Option<&RawBuf>) -> Self {
        let Some(asked) = asked else { return Self::default() };
        let flag = |name: &str| asked.raw().member(name).and_then(Raw::boolean) == Some(true);
        let resources = !exchange.systems_with("resources/read").is_empty();
        let subscribe = !exchange.systems_with("resources/subscribe").is_empty();
        let uris = asked.raw().member("resourceSubscriptions").into_iter().flat_map(Raw::elements);
        Self {
            tools: flag("toolsListChanged"),
            prompts: flag("promptsListChanged") && !exchange.systems_with("prompts/get").is_empty(),
            resources: flag("resourcesListChanged") && resources,
            uris: if subscribe { uris.filter_map(Raw::string).map(std::borrow::Cow::into_owned).take(100).collect() } else { BTreeSet::new() },
        }
    }

    fn agreed(&self) -> RawBuf {
        let mut members = Vec::new();
        for (name, wanted) in [("toolsListChanged", self.tools), ("promptsListChanged", self.prompts), ("resourcesListChanged", self.resources)] {
            if wanted {
                members.push(format!("\"{name}\":true"));
            }
        }
        if !self.uris.is_empty() {
            let uris: Vec<String> = self.uris.iter().map(|u| quoted(u)).collect();
            members.push(format!("\"resourceSubscriptions\":[{}]", uris.join(",")));
        }
        relay::own(&format!("{{{}}}", members.join(",")))
    }

    fn covers(&self, notice: &Notice) -> bool {
        match &*notice.method {
            "notifications/prompts/list_changed" => self.prompts,
            "notifications/resources/list_changed" => self.resources,
            "notifications/resources/updated" => {
                let uri = notice.params.raw().member("uri").and_then(Raw::string).unwrap_or_default();
                self.uris.contains(&*uri)
            }
            _ => false,
        }
    }
}

/// `subscriptions/listen`: the stream of what changes, until the client goes, the token's task ends, or we stop.
pub(super) async fn listen(exchange: Exchange, asked: Option<RawBuf>) -> Response<OutBody> {
    if let Err(refused) = exchange.look_around(Method::SubscriptionsListen).await {
        let said = exchange.refused(Method::SubscriptionsListen, "subscriptions/listen", &refused);
        return crate::mcp::json(http::StatusCode::from_u16(said.status).unwrap_or(http::StatusCode::OK), said.message);
    }
    let Some(place) = exchange.house.live.stream(&exchange.who.live) else {
        return crate::mcp::plain(http::StatusCode::TOO_MANY_REQUESTS, "the task or its agent has too many streams open");
    };
    let wanted = Arc::new(Wanted::read(&exchange, asked.as_ref()));
    let (pieces, stream) = mpsc::channel::<Bytes>(relay::EVENTS);
    // Heard from before the acknowledgement on, so that nothing falls in between.
    let covered = Arc::clone(&wanted);
    let mut notices = notices(&exchange.house, &exchange.scope, &exchange.who.live, move |notice| covered.covers(notice));
    let mut changed = exchange.house.tools_changed.subscribe();
    changed.mark_unchanged();
    let subscriptions = upstream_listening(&exchange, &wanted);
    tokio::spawn(async move {
        let (_place, _subscriptions) = (place, subscriptions);
        let mut first = Vec::new();
        reply::acknowledged(&mut first, &exchange.id, wanted.agreed().raw());
        relay::send(&pieces, &first).await;
        let ended = exchange.who.live.ended().clone();
        let stop = exchange.house.stop.clone();
        loop {
            let message = tokio::select! {
                () = pieces.closed() => return,
                () = ended.cancelled() => break,
                () = stop.cancelled() => break,
                change = changed.changed() => {
                    if change.is_err() { break }
                    if !wanted.tools { continue }
                    let mut message = Vec::new();
                    reply::tools_changed(&mut message, Some(&exchange.id));
                    message
                }
                notice = notices.recv() => match notice {
                    Some(notice) => tagged(&exchange, &notice),
                    None => std::future::pending().await,
                },
            };
            relay::send(&pieces, &message).await;
        }
        let mut last = Vec::new();
        exchange.writer().subscription_end(&mut last, &exchange.id);
        relay::send(&pieces, &last).await;
    });
    event_stream(stream)
}

/// Resource subscriptions at the systems themselves, for as long as the client listens.
fn upstream_listening(exchange: &Exchange, wanted: &Wanted) -> Vec<Listening> {
    if wanted.uris.is_empty() {
        return Vec::new();
    }
    let uris: Vec<String> = wanted.uris.iter().map(|u| quoted(u)).collect();
    let filter = relay::own(&format!("{{\"resourceSubscriptions\":[{}]}}", uris.join(",")));
    let systems = exchange.systems_with("resources/subscribe");
    for system in &systems {
        // A system that shakes hands is asked to subscribe within the session under which it tells.
        if let Asks::Legacy { .. } = exchange.asks(system) {
            let (exchange, system, uris) = (exchange.clone(), Arc::clone(system), uris.clone());
            tokio::spawn(async move {
                for uri in uris {
                    let params = relay::own(&format!("{{\"uri\":{uri}}}"));
                    if let Err(error) = ask(&exchange, &system, Method::ResourcesSubscribe, &params).await {
                        tracing::debug!(%error, "a resource could not be subscribed to");
                    }
                }
            });
        }
    }
    systems.iter().map(|system| system.upstream.listen(&filter)).collect()
}

/// A notification with the client's own subscription id.
fn tagged(exchange: &Exchange, notice: &Notice) -> Vec<u8> {
    let mut params = format!("{{\"_meta\":{{\"io.modelcontextprotocol/subscriptionId\":{}}}", exchange.id.as_str());
    for (key, value) in notice.params.raw().entries() {
        if key.string().as_deref() != Some("_meta") {
            params.push(',');
            params.push_str(key.text());
            params.push(':');
            params.push_str(value.text());
        }
    }
    params.push('}');
    format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{}\",\"params\":{params}}}", notice.method).into_bytes()
}
