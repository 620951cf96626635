//! Calls of 2025-11-25 that brought `params.task`: answered at once with a handle, made behind it, and asked for by `tasks/get` and
//! `tasks/result`. They live as long as the client's session; a hold among them is durable, and an identical call finds it again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::hold::HoldState;
use bailiwick_core::{ErrorCode, HoldId, Timestamp};
use bailiwick_wire::mcp::reply::{LegacyTask, TaskHandle, TaskStatus};
use bailiwick_wire::mcp::{Method, Refusal, Request, Version, code};
use bailiwick_wire::{Raw, RawBuf};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::random;
use crate::mcp::call::Asked;
use crate::mcp::exchange::{Exchange, Said};
use crate::mcp::held;
use crate::mcp::session::Session;
use crate::pipeline::{Answer, Refused};
use crate::upstream::Reply;

/// Most of them in one session.
const TASKS_MAX: usize = 32;
/// How long one is kept that names no time, and the longest.
const TTL: Duration = Duration::from_secs(3600);
const POLL_MS: u64 = 2_000;

/// The calls of one session that run behind a handle.
#[derive(Debug, Default)]
pub(super) struct Handles {
    by_id: Mutex<BTreeMap<String, Arc<Behind>>>,
}

/// One call behind a handle.
#[derive(Debug)]
struct Behind {
    id: String,
    created: Timestamp,
    ttl: Duration,
    cancel: CancellationToken,
    stands: watch::Sender<Stands>,
}

/// How it stands.
#[derive(Clone, Debug)]
struct Stands {
    at: Timestamp,
    /// The hold that it waits for.
    held: Option<(HoldId, String)>,
    outcome: Option<Outcome>,
}

/// How it ended.
#[derive(Clone, Debug)]
enum Outcome {
    Result(RawBuf),
    Error { code: i64, message: String, data: Option<RawBuf> },
    Refused(ErrorCode, String),
    Cancelled,
}

impl Handles {
    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Behind>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more: what is over its time goes first. `None`: there is none.
    fn begin(&self, now: Timestamp, ttl: Duration) -> Option<Arc<Behind>> {
        let mut all = self.all();
        all.retain(|_, one| !one.is_over(now));
        if all.len() >= TASKS_MAX {
            return None;
        }
        let id = format!("{:032x}", u128::from_be_bytes(random()));
        let stands = watch::Sender::new(Stands { at: now, held: None, outcome: None });
        let one = Arc::new(Behind { id: id.clone(), created: now, ttl, cancel: CancellationToken::new(), stands });
        all.insert(id, Arc::clone(&one));
        Some(one)
    }

    /// The session ends: nobody will ask any more. A hold among them stays.
    pub(super) fn end(&self) {
        self.all().values().for_each(|one| one.cancel.cancel());
    }

    fn find(&self, id: &str, now: Timestamp) -> Option<Arc<Behind>> {
        self.all().get(id).filter(|one| !one.is_over(now)).cloned()
    }
}

impl Behind {
    /// Its time is over, and nothing runs behind it any more.
    fn is_over(&self, now: Timestamp) -> bool {
        now >= self.created.plus(self.ttl) && self.stands.borrow().outcome.is_some()
    }

    fn told<T>(&self, tell: impl FnOnce(&LegacyTask<'_>) -> T) -> T {
        let stands = self.stands.borrow().clone();
        let (status, words) = match (&stands.outcome, &stands.held) {
            (Some(Outcome::Result(_) | Outcome::Refused(..)), _) => (TaskStatus::Completed, None),
            (Some(Outcome::Error { .. }), _) => (TaskStatus::Failed, Some("the system answered with an error".to_owned())),
            (Some(Outcome::Cancelled), _) => (TaskStatus::Cancelled, None),
            (None, Some((_, words))) => (TaskStatus::Working, Some(words.clone())),
            (None, None) => (TaskStatus::Working, None),
        };
        let (created, updated) = (self.created.to_string(), stands.at.to_string());
        tell(&LegacyTask(TaskHandle {
            task_id: &self.id,
            status,
            status_message: words.as_deref(),
            created_at: &created,
            last_updated_at: &updated,
            ttl_ms: u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX),
            poll_interval_ms: POLL_MS,
        }))
    }

    fn end(&self, at: Timestamp, outcome: Outcome) {
        // The first end stays: what was cancelled does not come back with a result.
        self.stands.send_if_modified(|stands| {
            let first = stands.outcome.is_none();
            if first {
                (stands.at, stands.outcome) = (at, Some(outcome));
            }
            first
        });
    }
}

/// The time that a request asks for, if it asks for a handle and its session's revision has them.
pub(super) fn wanted(session: &Session, method: Method, request: &Request<'_>) -> Option<Duration> {
    let task = request.params.get("task").filter(|t| t.is_object())?;
    if method != Method::ToolsCall || session.version < Version::V2025_11_25 {
        return None;
    }
    let asked = task.member("ttl").and_then(Raw::integer).and_then(|n| u64::try_from(n).ok()).map(Duration::from_millis);
    Some(asked.map_or(TTL, |ttl| ttl.min(TTL)))
}

/// Answers a call with a handle, and makes it behind the handle.
pub(super) fn begin(exchange: &Exchange, session: &Session, asked: Asked, ttl: Duration) -> Said {
    let now = exchange.house.clock.now();
    let Some(one) = session.handles.begin(now, ttl) else {
        let refused = Refused { code: ErrorCode::LimitExceeded, detail: format!("at most {TASKS_MAX} tasks may run in one session") };
        return exchange.refused(Method::ToolsCall, &asked.name, &refused);
    };
    let (caller, behind) = (exchange.clone(), Arc::clone(&one));
    let asked = Asked { cancel: one.cancel.clone(), ..asked };
    exchange.house.workers.spawn(async move {
        let house = Arc::clone(&caller.house);
        let outcome = tokio::select! {
            biased;
            outcome = work(&caller, &asked, &behind) => outcome,
            () = caller.who.live.ended().cancelled() => Outcome::Cancelled,
            () = house.stop.cancelled() => Outcome::Cancelled,
        };
        behind.end(house.clock.now(), outcome);
    });
    let mut message = Vec::new();
    one.told(|task| exchange.writer().held_legacy_task(&mut message, &exchange.id, task));
    Said::ok(message)
}

/// Makes the call; if it is held, waits for people, and makes it again.
async fn work(exchange: &Exchange, asked: &Asked, one: &Behind) -> Outcome {
    loop {
        let hold = match exchange.once(asked, Vec::new(), None).await {
            Answer::Done(Reply::Result(result)) => return Outcome::Result(result),
            Answer::Done(Reply::Error { code, message, data, .. }) => return Outcome::Error { code, message, data },
            Answer::Refused(refused) => return Outcome::Refused(refused.code, refused.detail),
            Answer::Held(hold) => hold,
        };
        if let Some(refused) = held::end_of(&hold.state) {
            return Outcome::Refused(refused.code, refused.detail);
        }
        let now = exchange.house.clock.now();
        one.stands.send_modify(|stands| (stands.at, stands.held) = (now, Some((hold.id, format!("{}: {}", hold.id, held::summary(&hold))))));
        let state = held::wait(&exchange.house, &hold, now.until(hold.expires_at), &asked.cancel).await;
        if asked.cancel.is_cancelled() {
            return Outcome::Cancelled;
        }
        match held::end_of(&state) {
            Some(refused) => return Outcome::Refused(refused.code, refused.detail),
            None if matches!(state, HoldState::Pending) => {
                let code = ErrorCode::HoldExpired;
                return Outcome::Refused(code, code.sentence().to_owned());
            }
            None => {}
        }
    }
}

/// `tasks/get`, `tasks/result`, `tasks/list`, `tasks/cancel` of 2025-11-25, for handles of this very session; another's is unknown.
pub(super) async fn answer(exchange: &Exchange, session: &Session, method: Method, handle: &str) -> Said {
    let (house, mut message) = (&exchange.house, Vec::new());
    let refused = |why: &'static str| {
        Said::refusal(&Refusal { http_status: 200, ..Refusal::bad_request(code::INVALID_PARAMS, why).with_id(exchange.id_ref()) })
    };
    if method == Method::TasksList {
        return list(exchange, session);
    }
    let Some(one) = session.handles.find(handle, house.clock.now()) else { return refused("unknown task") };
    match method {
        Method::TasksResult => return result(exchange, &one).await,
        Method::TasksCancel => {
            // Cancelling what is over is an error (MCP 2025-11-25, tasks).
            if one.stands.borrow().outcome.is_some() {
                return refused("the task is over already");
            }
            one.cancel.cancel();
            let held = one.stands.borrow().held.as_ref().map(|(id, _)| *id);
            one.end(house.clock.now(), Outcome::Cancelled);
            if let Some(hold) = held
                && let Err(error) = house.withdraw(hold).await
            {
                tracing::warn!(%error, "a hold could not be withdrawn");
            }
        }
        _ => {}
    }
    one.told(|task| exchange.writer().legacy_task(&mut message, &exchange.id, task));
    Said::ok(message)
}

fn list(exchange: &Exchange, session: &Session) -> Said {
    let now = exchange.house.clock.now();
    let all: Vec<_> = session.handles.all().values().filter(|one| !one.is_over(now)).cloned().collect();
    let mut items = Vec::new();
    for one in &all {
        let mut item = Vec::new();
        one.told(|task| task.write(&mut item));
        items.push(item);
    }
    let mut message = Vec::new();
    exchange.writer().legacy_tasks(&mut message, &exchange.id, &items);
    Said::ok(message)
}

/// Waits for the end, and answers as the call itself would have been answered.
async fn result(exchange: &Exchange, one: &Behind) -> Said {
    let mut stands = one.stands.subscribe();
    let ended = stands.wait_for(|stands| stands.outcome.is_some());
    let outcome = tokio::select! {
        ended = ended => ended.ok().and_then(|stands| stands.outcome.clone()),
        () = exchange.who.live.ended().cancelled() => None,
        () = exchange.house.stop.cancelled() => None,
    };
    let cancelled =
        || Refused { code: ErrorCode::CallCancelled, detail: "the task was cancelled; its call was not made, or its answer is not known".to_owned() };
    match outcome {
        Some(Outcome::Result(result)) => {
            let mut message = Vec::with_capacity(result.raw().text().len().saturating_add(256));
            exchange.writer().legacy_task_result(&mut message, &exchange.id, result.raw(), &one.id);
            Said::ok(message)
        }
        Some(Outcome::Error { code, message, data }) => exchange.upstream_error(code, &message, data.as_ref(), 200),
        Some(Outcome::Refused(code, detail)) => exchange.refused(Method::ToolsCall, "", &Refused { code, detail }),
        Some(Outcome::Cancelled) | None => exchange.refused(Method::ToolsCall, "", &cancelled()),
    }
}
