//! A call that waits for people, told in the form that its client understands; and the asynchronous results that come of it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::hold::HoldState;
use bailiwick_core::{Call, CallId, Effect, ErrorCode, Hold, HoldId};
use bailiwick_wire::mcp::reply::{Elicitation, ElicitationAnswer, Pending, TaskHandle, TaskStatus};
use bailiwick_wire::mcp::{Method, Refusal, Version, code};
use bailiwick_wire::{Limits, Raw};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::clock::random;
use crate::house::House;
use crate::mcp::call::{Asked, legacy_session, quoted};
use crate::mcp::exchange::{Exchange, Said};
use crate::pipeline::{Answer, Asks, Refused, Sending, Who};
use crate::state_seal::State;
use crate::upstream::{Event, Reply, SessionKey};

/// One leg of waiting: below the 30 s at which proxies give up, and the 60 s at which clients do.
const LEG: Duration = Duration::from_secs(25);
/// Waiting for a client that has shown its person a page.
const LEG_SHOWN: Duration = Duration::from_secs(40);
/// Clients' drivers stop after ten rounds with an exception; we stop before, with words.
const LEGS_MAX: u32 = 8;
/// A client that got "pending" may ask again after this.
const RETRY_AFTER_MS: u64 = 30_000;
const POLL_MS: u64 = 2_000;

/// What to do about a held call.
#[derive(Debug)]
pub(super) enum Step {
    /// It was released: make it.
    Again,
    /// Tell the client.
    Say(Said),
}

/// How far the waiting is.
#[derive(Debug)]
pub(super) struct Waiting {
    leg: u32,
    shown: bool,
}

impl Waiting {
    /// After so many legs.
    pub(super) const fn new(leg: u32) -> Self {
        Self { leg, shown: false }
    }

    /// The next step for a held call, in the form that the request's era and declared capabilities allow.
    pub(super) async fn step(&mut self, exchange: &Exchange, asked: &Asked, hold: Hold, events: Option<&mpsc::Sender<Event>>) -> Step {
        if let Some(said) = over(exchange, asked, &hold.state) {
            return Step::Say(said);
        }
        let declared = exchange.capabilities();
        match legacy_session(exchange) {
            None if declared.tasks_extension && asked.method == Method::ToolsCall => Step::Say(handle(exchange, &hold)),
            None if declared.elicitation_url && self.leg == 0 => {
                self.leg = 1;
                Step::Say(show_page(exchange, asked, &hold))
            }
            None => {
                let state = wait(&exchange.house, &hold, LEG, &asked.cancel).await;
                self.after_leg(exchange, asked, &hold, state)
            }
            Some(session) if session.version >= Version::V2025_11_25 && declared.elicitation_url && !self.shown => {
                self.shown = true;
                let state = show_and_wait(exchange, asked, &hold, events).await;
                self.after_leg(exchange, asked, &hold, state)
            }
            Some(_) => {
                let state = wait(&exchange.house, &hold, LEG, &asked.cancel).await;
                self.after_leg(exchange, asked, &hold, state)
            }
        }
    }

    fn after_leg(&self, exchange: &Exchange, asked: &Asked, hold: &Hold, state: HoldState) -> Step {
        if matches!(state, HoldState::Approved { .. }) {
            return Step::Again;
        }
        if let Some(said) = over(exchange, asked, &state) {
            return Step::Say(said);
        }
        if !exchange.is_modern() || self.leg >= LEGS_MAX {
            return Step::Say(pending(exchange, asked, hold));
        }
        let Some(state) = next_state(exchange, asked, hold, self.leg.saturating_add(1)) else { return Step::Say(pending(exchange, asked, hold)) };
        let mut message = Vec::new();
        exchange.writer().held_state(&mut message, &exchange.id, &state);
        Step::Say(Said::ok(message))
    }
}

/// The end of a hold that is not an approval, told to the model.
fn over(exchange: &Exchange, asked: &Asked, state: &HoldState) -> Option<Said> {
    end_of(state).map(|refused| exchange.refused(asked.method, &asked.name, &refused))
}

/// The end of a hold that is not an approval, in words.
pub(super) fn end_of(state: &HoldState) -> Option<Refused> {
    let (code, detail) = match state {
        HoldState::Pending | HoldState::Approved { .. } | HoldState::Consumed { .. } => return None,
        HoldState::Refused { by, reason, .. } if reason.is_empty() => (ErrorCode::HoldRefused, format!("`{by}` refused this call")),
        HoldState::Refused { by, reason, .. } => {
            (ErrorCode::HoldRefused, format!("`{by}` refused this call: {}", bailiwick_wire::render::line(reason)))
        }
        HoldState::Expired { .. } => (ErrorCode::HoldExpired, ErrorCode::HoldExpired.sentence().to_owned()),
        HoldState::Withdrawn { .. } => (ErrorCode::CallCancelled, "the held call was withdrawn; it was not made".to_owned()),
    };
    Some(Refused { code, detail })
}

/// Waits until a hold is decided, or for one leg.
pub(super) async fn wait(house: &House, hold: &Hold, leg: Duration, cancel: &CancellationToken) -> HoldState {
    let mut bell = house.holds.bell();
    let deadline = tokio::time::Instant::now() + leg;
    loop {
        bell.mark_unchanged();
        let state = match house.holds.get(hold.id) {
            Some(now) => now.state,
            None => house.store.hold(hold.id).await.ok().flatten().map_or(HoldState::Pending, |h| h.state),
        };
        if state != HoldState::Pending {
            return state;
        }
        tokio::select! {
            changed = bell.changed() => if changed.is_err() { return HoldState::Pending },
            () = tokio::time::sleep_until(deadline) => return HoldState::Pending,
            () = cancel.cancelled() => return HoldState::Pending,
        }
    }
}

fn page(exchange: &Exchange, hold: &Hold) -> String {
    format!("{}/approvals/{}", exchange.house.urls.base, hold.id)
}

fn next_state(exchange: &Exchange, asked: &Asked, hold: &Hold, leg: u32) -> Option<String> {
    let key = exchange.state_key(asked)?;
    exchange.house.state_seal.seal(&State::Hold { hold: hold.id, task: hold.task, key, leg, until: hold.expires_at })
}

pub(super) fn summary(hold: &Hold) -> String {
    format!("a person must approve `{}` ({}) before it is done", hold.tool, hold.effect)
}

/// Modern, first leg: a page for the client's person, and the state to bring back.
fn show_page(exchange: &Exchange, asked: &Asked, hold: &Hold) -> Said {
    let mut message = Vec::new();
    let (id, url, words) = (hold.id.to_string(), page(exchange, hold), summary(hold));
    let elicitation = Elicitation { approval: &id, url: &url, message: &words };
    match next_state(exchange, asked, hold, 1) {
        Some(state) => exchange.writer().held_url(&mut message, &exchange.id, &elicitation, &state),
        None => {
            return exchange.refused(
                Method::ToolsCall,
                hold.tool.as_str(),
                &Refused { code: ErrorCode::Internal, detail: "the state could not be sealed".to_owned() },
            );
        }
    }
    Said::ok(message)
}

/// 2025-11-25: a page for the client's person on the call's stream, then waiting. Accepting to open the page is not an approval.
async fn show_and_wait(exchange: &Exchange, asked: &Asked, hold: &Hold, events: Option<&mpsc::Sender<Event>>) -> HoldState {
    let Some(events) = events else { return HoldState::Pending };
    let (id, url, words) = (hold.id.to_string(), page(exchange, hold), summary(hold));
    let params = format!("{{\"mode\":\"url\",\"elicitationId\":\"{id}\",\"url\":{},\"message\":{}}}", quoted(&url), quoted(&words));
    let Ok(params) = Raw::parse(params.as_bytes(), &Limits::REPLY) else { return HoldState::Pending };
    let (answer, answered) = oneshot::channel();
    let event = Event::Request { method: "elicitation/create".to_owned(), params: params.to_owned(), answer };
    if events.send(event).await.is_err() {
        return HoldState::Pending;
    }
    let declined = async {
        match answered.await {
            Ok(Ok(result)) if matches!(ElicitationAnswer::read(result.raw()), Some(ElicitationAnswer::Decline | ElicitationAnswer::Cancel)) => true,
            Ok(Err(_)) | Err(_) => std::future::pending().await,
            Ok(Ok(_)) => std::future::pending().await,
        }
    };
    let state = tokio::select! {
        state = wait(&exchange.house, hold, LEG_SHOWN, &asked.cancel) => state,
        declined = declined => {
            if declined && let Err(error) = exchange.house.withdraw(hold.id).await {
                tracing::warn!(%error, "a hold could not be withdrawn");
            }
            exchange.house.store.hold(hold.id).await.ok().flatten().map_or(HoldState::Pending, |h| h.state)
        }
    };
    if state != HoldState::Pending {
        let params = format!("{{\"elicitationId\":\"{id}\"}}");
        if let Ok(params) = Raw::parse(params.as_bytes(), &Limits::REPLY) {
            // A client that is gone needs no word.
            let _ = events.send(Event::Notification { method: "notifications/elicitation/complete".to_owned(), params: params.to_owned() }).await;
        }
    }
    state
}

/// The universal fallback: an error result that says what was not done, who must approve, and how to ask again.
fn pending(exchange: &Exchange, asked: &Asked, hold: &Hold) -> Said {
    let people: Vec<&str> = hold.people.iter().map(bailiwick_core::PersonName::as_str).collect();
    let needed = hold.count.saturating_sub(hold.approvals.len());
    let who = if needed >= people.len() { people.join(" and ") } else { format!("{needed} of {}", people.join(", ")) };
    let text = format!(
        "APPROVAL PENDING ({id}): `{tool}` was NOT executed. {who} must approve it at {page}, or with `bailiwick approve {id}`. \
         Call this tool again with exactly the same arguments to get the outcome; wait at least 30 s between tries. \
         Do not change the arguments: that starts a new approval. [hold.pending]",
        id = hold.id,
        tool = hold.tool,
        page = page(exchange, hold),
    );
    if asked.method != Method::ToolsCall {
        return exchange.refused(asked.method, &asked.name, &Refused { code: ErrorCode::HoldPending, detail: text });
    }
    let (id, expires) = (hold.id.to_string(), hold.expires_at.to_string());
    let mut message = Vec::new();
    let facts = Pending { approval: &id, text: &text, retry_after_ms: RETRY_AFTER_MS, expires_at: &expires };
    exchange.writer().held_pending(&mut message, &exchange.id, &facts);
    Said::ok(message)
}

/// Did the client's person decline the page of a held call?
pub(super) fn declined(responses: Raw<'_>) -> bool {
    let answer = responses.member("approval").and_then(ElicitationAnswer::read);
    matches!(answer, Some(ElicitationAnswer::Decline | ElicitationAnswer::Cancel))
}

// ---- asynchronous results: MCP's tasks extension -------------------------------------------------------------------------

/// Holds that somebody waits for, and those whose call is being made.
static WATCHED: Mutex<BTreeSet<HoldId>> = Mutex::new(BTreeSet::new());
static RELEASED: Mutex<BTreeSet<HoldId>> = Mutex::new(BTreeSet::new());

/// The only one at work on a hold, until it is dropped.
struct Alone {
    at_work: &'static Mutex<BTreeSet<HoldId>>,
    hold: HoldId,
}

impl Alone {
    fn with(at_work: &'static Mutex<BTreeSet<HoldId>>, hold: HoldId) -> Option<Self> {
        let first = at_work.lock().unwrap_or_else(PoisonError::into_inner).insert(hold);
        // Made only by the first: dropping one gives its place up.
        if first { Some(Self { at_work, hold }) } else { None }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hold);
    }
}

/// A handle to poll. The hold is durable already; the call is made when it is released, whether or not someone polls.
fn handle(exchange: &Exchange, hold: &Hold) -> Said {
    let Some(task_id) = exchange.house.state_seal.seal(&State::Async { hold: hold.id, task: hold.task }) else {
        return exchange.refused(
            Method::ToolsCall,
            hold.tool.as_str(),
            &Refused { code: ErrorCode::Internal, detail: "the handle could not be sealed".to_owned() },
        );
    };
    // However often the same call is made again, one waits for its hold.
    if let Some(alone) = Alone::with(&WATCHED, hold.id) {
        let (house, who, id) = (Arc::clone(&exchange.house), exchange.who.clone(), hold.id);
        let watched = hold.clone();
        exchange.house.workers.spawn(async move {
            let _alone = alone;
            let left = house.clock.now().until(watched.expires_at);
            let cancel = who.live.ended().clone();
            let state = tokio::select! {
                () = house.stop.cancelled() => return,
                state = wait(&house, &watched, left, &cancel) => state,
            };
            if matches!(state, HoldState::Approved { .. }) {
                run_released(&house, &who, id).await;
            }
        });
    }
    let mut message = Vec::new();
    let (created, words) = (hold.at.to_string(), format!("{}: {}", hold.id, summary(hold)));
    let task = described(&task_id, TaskStatus::Working, &words, &created, &created, hold.at.until(hold.expires_at));
    exchange.writer().held_task(&mut message, &exchange.id, &task);
    Said::ok(message)
}

fn described<'a>(task_id: &'a str, status: TaskStatus, words: &'a str, created: &'a str, updated: &'a str, ttl: Duration) -> TaskHandle<'a> {
    TaskHandle {
        task_id,
        status,
        status_message: Some(words),
        created_at: created,
        last_updated_at: updated,
        ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        poll_interval_ms: POLL_MS,
    }
}

/// Makes a released call whose client only polls, and keeps its result. The approval is consumed once, whoever comes first.
async fn run_released(house: &Arc<House>, who: &Who, id: HoldId) {
    // The second to come would find the approval spent, and ask people anew.
    let Some(_alone) = Alone::with(&RELEASED, id) else { return };
    let Ok(Some(hold)) = house.store.hold(id).await else { return };
    // What hands a credential out is answered to the call itself, and kept nowhere.
    if !matches!(hold.state, HoldState::Approved { .. }) || hold.effect == Effect::Issue {
        return;
    }
    let registry = house.registry.load_full();
    let entry = registry.tool(hold.tool.as_str()).cloned();
    let now = house.clock.now();
    let call = Call::new(CallId::new(now, random()), now, hold.tool.to_string(), hold.arguments.clone());
    let support = entry.as_ref().and_then(|e| e.system.upstream.era_support()).unwrap_or_default();
    let none = Raw::EMPTY_OBJECT.to_owned();
    let asks = match (support.modern, support.legacy) {
        (false, Some(version)) => Asks::Legacy { version, capabilities: none },
        (true, _) | (false, None) => Asks::Modern { capabilities: none },
    };
    let sending = Sending {
        asks,
        session: SessionKey::new(&hold.task.to_string()),
        method: Method::ToolsCall,
        meta: None,
        progress: None,
        events: None,
        cancel: CancellationToken::new(),
        extra: Vec::new(),
        waits: None,
        life: None,
        told: None,
        lease: None,
    };
    let stored = match house.handle(call, who, entry.as_ref(), None, sending).await {
        Answer::Done(Reply::Result(result)) => format!("{{\"result\":{}}}", result.raw().text()),
        Answer::Done(Reply::Error { code, message, .. }) => format!("{{\"error\":{{\"code\":{code},\"message\":{}}}}}", quoted(&message)),
        // Held anew: somebody else used the approval first. There is nothing to keep.
        Answer::Held(_) => return,
        Answer::Refused(refused) => {
            let text = quoted(&format!("{} [{}]", refused.detail, refused.code));
            format!("{{\"result\":{{\"content\":[{{\"type\":\"text\",\"text\":{text}}}],\"isError\":true}}}}")
        }
    };
    if let Err(error) = house.store.result_put(id, stored.into_bytes()).await {
        tracing::error!(%error, hold = %id, "the result of a released call could not be kept");
    }
    house.holds.ring();
}

/// `tasks/get`, `tasks/update`, `tasks/cancel` for a handle of this task; another's is unknown.
pub(super) async fn asynchronous(exchange: &Exchange, method: Method, handle: &str) -> Said {
    let unknown =
        || Said::refusal(&Refusal { http_status: 200, ..Refusal::bad_request(code::INVALID_PARAMS, "unknown task").with_id(exchange.id_ref()) });
    let Some(State::Async { hold, task }) = exchange.house.state_seal.open(handle) else { return unknown() };
    if task != exchange.who.live.task.id {
        return unknown();
    }
    let Ok(Some(hold)) = exchange.house.store.hold(hold).await else { return unknown() };
    let mut message = Vec::new();
    match method {
        Method::TasksGet => return get(exchange, handle, hold).await,
        Method::TasksCancel => {
            if let Err(error) = exchange.house.withdraw(hold.id).await {
                tracing::warn!(%error, "a hold could not be withdrawn");
            }
        }
        _ => {}
    }
    exchange.writer().empty(&mut message, &exchange.id);
    Said::ok(message)
}

async fn get(exchange: &Exchange, handle: &str, hold: Hold) -> Said {
    let house = &exchange.house;
    if matches!(hold.state, HoldState::Approved { .. }) {
        // After a restart nobody waits for it any more: whoever polls has it made.
        let (house, who, id) = (Arc::clone(house), exchange.who.clone(), hold.id);
        tokio::spawn(async move { run_released(&house, &who, id).await });
    }
    let stored = house.store.result(hold.id).await.ok().flatten();
    let (created, updated) = (hold.at.to_string(), house.clock.now().to_string());
    let stored_raw = stored.as_deref().and_then(|s| Raw::parse(s, &Limits::REPLY).ok());
    let refusal = |text: &str| format!("{{\"content\":[{{\"type\":\"text\",\"text\":{}}}],\"isError\":true}}", quoted(text));
    let refused;
    let (status, words, outcome) = match (&hold.state, stored_raw) {
        (_, Some(stored)) => match (stored.member("result"), stored.member("error")) {
            (Some(result), _) => (TaskStatus::Completed, "done".to_owned(), Some(Ok(result))),
            (None, Some(error)) => (TaskStatus::Failed, "the system answered with an error".to_owned(), Some(Err(error))),
            (None, None) => (TaskStatus::Failed, "the result is not readable".to_owned(), None),
        },
        (HoldState::Approved { .. }, None) if hold.effect == Effect::Issue => {
            refused = refusal("it is approved: make exactly this call again, and its answer has the credential");
            (TaskStatus::Completed, "approved".to_owned(), Raw::parse(refused.as_bytes(), &Limits::REPLY).ok().map(Ok))
        }
        (HoldState::Pending | HoldState::Approved { .. } | HoldState::Consumed { .. }, None) => {
            (TaskStatus::Working, format!("{}: {}", hold.id, summary(&hold)), None)
        }
        (HoldState::Refused { by, .. }, None) => {
            refused = refusal(&format!("`{by}` refused this call. Do not retry. [hold.refused]"));
            (TaskStatus::Completed, "refused".to_owned(), Raw::parse(refused.as_bytes(), &Limits::REPLY).ok().map(Ok))
        }
        (HoldState::Expired { .. }, None) => {
            refused = refusal("nobody decided in time; the call was not made [hold.expired]");
            (TaskStatus::Completed, "expired".to_owned(), Raw::parse(refused.as_bytes(), &Limits::REPLY).ok().map(Ok))
        }
        (HoldState::Withdrawn { .. }, None) => (TaskStatus::Cancelled, "withdrawn".to_owned(), None),
    };
    let task = described(handle, status, &words, &created, &updated, hold.at.until(hold.expires_at));
    let mut message = Vec::new();
    exchange.writer().task(&mut message, &exchange.id, &task, outcome);
    Said::ok(message)
}
