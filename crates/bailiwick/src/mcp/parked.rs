//! Calls in mid-air: a system that shakes hands asks its question while the call runs, and a client of 2026-07-28 answers it with its
//! next request. The call stays open behind our `requestState`, bounded in number and time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::{AgentName, Digest, ErrorCode, InstanceId, TaskId, Timestamp};
use bailiwick_wire::mcp::ClientCapabilities;
use bailiwick_wire::mcp::reply::ElicitationAnswer;
use bailiwick_wire::{Raw, RawBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::random;
use crate::mcp::call::{Asked, quoted};
use crate::mcp::exchange::{Exchange, Said};
use crate::mcp::relay;
use crate::pipeline::{Answer, Asks, Refused};
use crate::state_seal::State;
use crate::upstream::{ClientAnswer, Event};

/// Answers of a client in one call. Each is in the entry of its outcome.
const TOLD_MAX: usize = 64;
/// How long a call waits for the answer to its question.
pub(crate) const PARKED_FOR: Duration = Duration::from_secs(300);
/// Calls of one task that may wait so, of all tasks of one agent, and of all.
const OF_TASK_MAX: usize = 8;
const OF_AGENT_MAX: usize = 32;
const ALL_MAX: usize = 256;
/// Questions of one call that may be open.
const QUESTIONS_MAX: usize = 16;
/// A system that asks several things at once is heard out for this long.
const HEAR_OUT: Duration = Duration::from_millis(20);

/// The calls that wait for answers.
#[derive(Debug, Default)]
pub struct Parking {
    by_id: Mutex<HashMap<u128, Parked>>,
}

/// A call that waits, and for whom.
#[derive(Debug)]
struct Parked {
    task: TaskId,
    agent: AgentName,
    instance: InstanceId,
    key: Digest,
    until: Timestamp,
    run: Run,
}

impl Parking {
    /// Keeps a call that runs. `None`: too many wait already; dropping the call tells its system that there is no answer.
    fn put(&self, parked: Parked) -> Option<u128> {
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        let of_task = by_id.values().filter(|p| p.task == parked.task).count();
        let of_agent = by_id.values().filter(|p| p.agent == parked.agent).count();
        if by_id.len() >= ALL_MAX || of_task >= OF_TASK_MAX || of_agent >= OF_AGENT_MAX {
            return None;
        }
        let id = u128::from_be_bytes(random());
        by_id.insert(id, parked);
        Some(id)
    }

    /// Gives it back, once, to the copy of the agent that made the call, in its task, for the same tool and arguments.
    pub(super) fn take(&self, id: u128, task: TaskId, instance: InstanceId, key: &Digest, now: Timestamp) -> Option<Run> {
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        by_id.get(&id).filter(|p| p.task == task && p.instance == instance && p.key == *key && now < p.until)?;
        by_id.remove(&id).map(|p| p.run)
    }

    /// Gives up those whose client did not come back, and those of tasks that ended.
    pub(crate) fn expire(&self, now: Timestamp, open: impl Fn(TaskId) -> bool) {
        let gone: Vec<Parked> = {
            let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
            by_id.extract_if(|_, p| now >= p.until || !open(p.task)).map(|(_, p)| p).collect()
        };
        drop(gone);
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Does none wait?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A call that runs by itself, so that it can outlive the request that began it. Dropping it gives the call up.
#[derive(Debug)]
pub(super) struct Run {
    answer: Working,
    events: mpsc::Receiver<Event>,
    /// What was asked and not answered, by the key under which the client is asked.
    open: BTreeMap<String, Question>,
    asked: u32,
    cancel: CancellationToken,
    /// How long the system may take between questions.
    patience: Duration,
    /// What was answered: it goes on record with the call's outcome, whichever request brought it.
    told: Option<ToldList>,
}

#[derive(Debug)]
struct Working(JoinHandle<Answer>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
struct Question {
    method: String,
    params: RawBuf,
    answer: oneshot::Sender<ClientAnswer>,
}

/// What came next of a call that runs.
pub(super) enum Turn {
    /// Its end.
    Answered(Answer),
    /// Questions for the client.
    Asked,
}

/// May the system of this call ask this client something in the middle of it? Then how long a call may take there.
pub(super) fn may_ask(exchange: &Exchange, asked: &Asked) -> Option<Duration> {
    let entry = asked.entry.as_ref().filter(|_| exchange.is_modern())?;
    let config = entry.system.upstream.config();
    let declared = exchange.capabilities();
    let may = (config.relay.elicitation && (declared.elicitation_form || declared.elicitation_url))
        || (config.relay.sampling && declared.sampling)
        || (config.relay.roots && declared.roots);
    (may && matches!(exchange.asks(&entry.system), Asks::Legacy { .. })).then_some(config.call_timeout)
}

impl Run {
    /// Starts a call.
    pub(super) fn start(exchange: &Exchange, asked: &Asked, extra: Vec<(&'static str, String)>, patience: Duration) -> Self {
        let (sender, events) = mpsc::channel(relay::EVENTS);
        let cancel = asked.cancel.child_token();
        let (caller, asked) = (exchange.clone(), Asked { cancel: cancel.clone(), ..asked.clone() });
        let work = async move { caller.once(&asked, extra, Some(sender)).await };
        Self { answer: Working(tokio::spawn(work)), events, open: BTreeMap::new(), asked: 0, cancel, patience, told: exchange.told.clone() }
    }

    /// Lets it run until it ends or asks.
    pub(super) async fn turn(&mut self, exchange: &Exchange, heard: Option<&mpsc::Sender<Event>>) -> Turn {
        let deadline = tokio::time::Instant::now() + self.patience;
        loop {
            if !self.open.is_empty() {
                return self.hear_out(exchange, heard).await;
            }
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(event) => self.take(exchange, event, heard).await,
                    None => return Turn::Answered(self.ended().await),
                },
                answer = &mut self.answer.0 => return Turn::Answered(answered(answer)),
                () = tokio::time::sleep_until(deadline) => {
                    self.cancel.cancel();
                    // What stops it puts its outcome on record first.
                    drop(self.ended().await);
                    let detail = "the system did not answer in time".to_owned();
                    return Turn::Answered(Answer::Refused(Refused { code: ErrorCode::UpstreamTimeout, detail }));
                }
            }
        }
    }

    async fn ended(&mut self) -> Answer {
        answered((&mut self.answer.0).await)
    }

    /// What else the system says right behind its first question.
    async fn hear_out(&mut self, exchange: &Exchange, heard: Option<&mpsc::Sender<Event>>) -> Turn {
        let deadline = tokio::time::Instant::now() + HEAR_OUT;
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(event) => self.take(exchange, event, heard).await,
                    None => return Turn::Answered(self.ended().await),
                },
                answer = &mut self.answer.0 => return Turn::Answered(answered(answer)),
                () = tokio::time::sleep_until(deadline) => return Turn::Asked,
            }
        }
    }

    async fn take(&mut self, exchange: &Exchange, event: Event, heard: Option<&mpsc::Sender<Event>>) {
        match event {
            Event::Notification { .. } => {
                if let Some(heard) = heard {
                    // A client that is gone needs no word.
                    let _ = heard.send(event).await;
                }
            }
            Event::Request { method, params, answer } => {
                // Dropping `answer` tells the system that there is none.
                let Ok(params) = exchange.house.redact_for(exchange, params) else { return };
                if self.open.len() >= QUESTIONS_MAX || !declares(exchange.capabilities(), &method, params.raw()) {
                    return;
                }
                self.asked = self.asked.saturating_add(1);
                self.open.insert(format!("q{}", self.asked), Question { method, params, answer });
            }
        }
    }

    /// Hands the client's answers to the system. What it left out, or what is no answer, stays open.
    pub(super) fn give(&mut self, exchange: &Exchange, responses: Option<Raw<'_>>) {
        for (key, given) in responses.into_iter().flat_map(Raw::members) {
            let Some(question) = self.open.remove(&*key) else { continue };
            if answers(&question.method, given) {
                if !exchange.note_told(self.told.as_ref(), &question.method, given) {
                    continue;
                }
                // A system that took its question back needs no answer.
                drop(question.answer.send(Ok(given.to_owned())));
            } else {
                self.open.insert(key.into_owned(), question);
            }
        }
        // A question that was taken back is not asked again.
        self.open.retain(|_, question| !question.answer.is_closed());
    }

    fn requests(&self) -> RawBuf {
        let mut text = String::from("{\"inputRequests\":{");
        for (i, (key, question)) in self.open.iter().enumerate() {
            if i > 0 {
                text.push(',');
            }
            text.push_str(&format!("{}:{{\"method\":{},\"params\":{}}}", quoted(key), quoted(&question.method), question.params.raw().text()));
        }
        text.push_str("}}");
        relay::own(&text)
    }
}

fn answered(joined: Result<Answer, tokio::task::JoinError>) -> Answer {
    joined.unwrap_or_else(|_| {
        let code = ErrorCode::Internal;
        Answer::Refused(Refused { code, detail: code.sentence().to_owned() })
    })
}

/// Did this request's client say that it can answer such a question?
fn declares(declared: ClientCapabilities, method: &str, params: Raw<'_>) -> bool {
    match method {
        "elicitation/create" if params.member("mode").and_then(Raw::string).as_deref() == Some("url") => declared.elicitation_url,
        "elicitation/create" => declared.elicitation_form,
        "sampling/createMessage" => declared.sampling,
        "roots/list" => declared.roots,
        _ => false,
    }
}

/// Is this an answer to such a question, as far as its shape tells?
fn answers(method: &str, given: Raw<'_>) -> bool {
    match method {
        "elicitation/create" => ElicitationAnswer::read(given).is_some(),
        "sampling/createMessage" => given.member("content").is_some(),
        _ => given.member("roots").is_some_and(|roots| roots.kind() == bailiwick_wire::json::Kind::Array),
    }
}

impl Exchange {
    /// Puts the system's questions to the client; the call waits behind the state that it brings back.
    pub(super) fn park(&self, asked: &Asked, run: Run) -> Said {
        let now = self.house.clock.now();
        let questions = run.requests();
        let (task, until) = (self.who.live.task.id, now.plus(PARKED_FOR));
        let Some(key) = self.state_key(asked) else { return self.refused(asked.method, &asked.name, &crate::mcp::call::unknown()) };
        let agent = self.who.live.task.agent.clone();
        let parked = Parked { task, agent, instance: self.who.caller.instance, key, until, run };
        let sealed = self.house.parking.put(parked).and_then(|id| {
            let state = State::Parked { id: format!("{id:032x}"), task, key, until };
            self.house.state_seal.seal(&state)
        });
        let Some(sealed) = sealed else {
            let detail = "the system asked for input, and too many calls wait for answers already".to_owned();
            return self.refused(asked.method, &asked.name, &Refused { code: ErrorCode::LimitExceeded, detail });
        };
        let mut message = Vec::new();
        self.writer().input_required(&mut message, &self.id, questions.raw(), &sealed);
        Said::ok(message)
    }

    /// Takes a call up again that waits for answers.
    pub(super) fn resume(&self, asked: &Asked, id: &str, key: &Digest) -> Option<Run> {
        let id = u128::from_str_radix(id, 16).ok()?;
        let mut run = self.house.parking.take(id, self.who.live.task.id, self.who.caller.instance, key, self.house.clock.now())?;
        run.give(self, asked.responses.as_ref().map(RawBuf::raw));
        Some(run)
    }

    /// Notes what the client answered to a system's question, for the record of the call's outcome. False: it has answered so often
    /// that the outcome could not hold it, and this answer must not be passed on.
    #[must_use]
    pub(super) fn note_told(&self, told: Option<&ToldList>, method: &str, answer: Raw<'_>) -> bool {
        let Some(told) = told else { return true };
        let salt = bailiwick_core::Salt::from_bytes(self.who.live.salt.answer(method.as_bytes()));
        let digest = self.house.salted(&salt, answer.bytes());
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD_MAX {
            return false;
        }
        told.push(crate::entry::Told { method: method.to_owned(), answer: digest });
        true
    }
}

/// Answers of a client to a system's questions in the middle of a call.
pub type ToldList = Arc<Mutex<Vec<crate::entry::Told>>>;

/// What was answered so far.
pub(crate) fn told(list: &ToldList) -> Vec<crate::entry::Told> {
    list.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
