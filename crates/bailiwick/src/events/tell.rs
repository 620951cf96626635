//! Ends of tasks, told to receivers as CAEP `session-revoked`: each from its own durable place in the ledger, at least once, in order.
//!
//! The token of one end has the same `jti` each time, so that a receiver can drop what it got before.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bailiwick_core::{Digest, EndReason, Task, TaskId, Timestamp};
use bailiwick_identity::secevent::{Initiator, Subject, TaskEnd};
use bailiwick_store::{EntryRow, StoreError};
use http::StatusCode;
use serde::Deserialize;
use tokio::sync::Notify;

use crate::config::Receiver;
use crate::house::House;
use crate::sign_in::web::{Question, ask};

/// Entries that are read at once.
const READ_MAX: u64 = 500;
/// The first pause after a push that failed, and the longest.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Tokens that one poll gives, and that may be acknowledged ahead of one that is not.
const POLLED_MAX: usize = 50;
const AHEAD_MAX: usize = 1000;

/// One receiver, and how far it certainly is.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) config: Receiver,
    pub(super) state: Mutex<State>,
    /// Rings when there is something to push that is in no entry.
    pub(super) wanted: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The first entry that the receiver may not have got.
    next: u64,
    /// Entries after it that it has.
    ahead: BTreeSet<u64>,
    /// What proves that the way to it is open, until it has it.
    pub(super) proof: Option<Proof>,
    /// When such a proof was asked for last.
    pub(super) proved: Option<Timestamp>,
}

/// A token that is in no entry: it is forgotten when the broker stops, and asked for again.
#[derive(Clone)]
pub(super) struct Proof {
    pub(super) jti: String,
    pub(super) token: String,
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proof").field("jti", &self.jti).finish_non_exhaustive()
    }
}

/// An end of a task, as the ledger has it.
#[derive(Deserialize)]
struct Ended {
    task: TaskId,
    state: String,
    reason: EndReason,
    by: Option<String>,
    at: Timestamp,
}

/// One token, and where it stands in the ledger.
struct Told {
    index: u64,
    jti: String,
    token: String,
}

/// What a receiver asks for when it polls (RFC 8936 section 2.4).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PollAsked {
    #[serde(rename = "maxEvents")]
    most: Option<usize>,
    ack: Vec<String>,
    #[serde(rename = "setErrs")]
    errors: serde_json::Map<String, serde_json::Value>,
}

impl Outbox {
    pub(super) fn new(config: Receiver) -> Self {
        Self { config, state: Mutex::default(), wanted: Notify::new() }
    }

    /// Under which name its place is kept, beside those of exports.
    fn cursor(&self) -> String {
        format!("events:{}", self.config.name)
    }

    fn next(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).next
    }

    fn proof(&self) -> Option<Proof> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).proof.clone()
    }

    /// The receiver has this proof, or never will.
    fn proof_is_told(&self, jti: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.proof.as_ref().is_some_and(|proof| proof.jti == jti) {
            state.proof = None;
        }
    }

    fn jti(&self, origin: &str, index: u64) -> String {
        Digest::bind("bailiwick-event/v1", &[origin.as_bytes(), self.config.name.as_bytes(), &index.to_be_bytes()]).to_string()
    }
}

impl House {
    /// Finds a receiver's place. One that is new is told what ends from now on.
    pub(super) async fn open_outbox(&self, outbox: &Outbox) -> Result<(), StoreError> {
        let size = self.store.head().size;
        let cursor = self.store.export(&outbox.cursor()).await?;
        let next = cursor.as_ref().map_or(size, |c| c.next.min(size));
        if cursor.is_none() {
            self.save_outbox(outbox, next).await?;
        }
        outbox.state.lock().unwrap_or_else(PoisonError::into_inner).next = next;
        Ok(())
    }

    async fn save_outbox(&self, outbox: &Outbox, next: u64) -> Result<(), StoreError> {
        let (name, now) = (outbox.cursor(), self.clock.now());
        self.store.write(move |w| w.export_put(&name, next, now)).await
    }

    /// Pushes until the broker stops (RFC 8935).
    pub(super) async fn push(&self, outbox: &Outbox) {
        let mut heads = self.store.subscribe_head();
        let mut retry = RETRY_MIN;
        while !self.stop.is_cancelled() {
            let size = heads.borrow_and_update().size;
            let pause = match self.push_some(outbox, size).await {
                Ok(true) => Some(Duration::ZERO),
                Ok(false) => None,
                Err(why) => {
                    tracing::warn!(to = outbox.config.name, why, "an event could not be pushed; it is tried again until it can");
                    metrics::counter!("bailiwick_events_failed_total", "to" => outbox.config.name.clone()).increment(1);
                    retry = retry.saturating_mul(2).min(RETRY_MAX);
                    Some(retry)
                }
            };
            if pause.is_none_or(|p| p.is_zero()) {
                retry = RETRY_MIN;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = heads.changed(), if pause.is_none() => if changed.is_err() { return },
                () = outbox.wanted.notified() => {}
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
    }

    /// Pushes what stands in the next entries. False: it has everything.
    async fn push_some(&self, outbox: &Outbox, size: u64) -> Result<bool, String> {
        if outbox.config.push.is_none() {
            return Ok(false);
        }
        if let Some(Proof { jti, token }) = outbox.proof() {
            self.pushed(outbox, &jti, token).await?;
            outbox.proof_is_told(&jti);
        }
        let from = outbox.next();
        if from >= size {
            return Ok(false);
        }
        let to = size.min(from.saturating_add(READ_MAX));
        for told in self.ends(outbox, from, to, usize::MAX).await.map_err(|e| e.to_string())? {
            self.pushed(outbox, &told.jti, told.token).await?;
            self.advance(outbox, told.index.saturating_add(1)).await.map_err(|e| e.to_string())?;
        }
        // Kept in memory only: what has no end of a task in it is read again after a crash, and costs nothing else.
        outbox.state.lock().unwrap_or_else(PoisonError::into_inner).next = to;
        Ok(true)
    }

    /// Pushes one token. It is told when the receiver has it, or will never take it.
    async fn pushed(&self, outbox: &Outbox, jti: &str, token: String) -> Result<(), String> {
        let Some(url) = &outbox.config.push else { return Err("it is not pushed to".to_owned()) };
        let bearer = self.bearer_of(&outbox.config.bearer).await?;
        //= rfc8935#section-2.1
        // To transmit a SET to a SET Recipient, the SET Transmitter makes an HTTP POST request to a TLS-enabled HTTP endpoint
        // provided by the SET Recipient. The Content-Type header field of this request MUST be "application/secevent+jwt".
        let question = Question::post("application/secevent+jwt", token);
        let question = bearer.with(|value| question.authorization(value)).ok_or("no secret")?;
        let answer = ask(url, &outbox.config.link, question).await.map_err(|e| e.to_string())?;
        match answer.status {
            //= rfc8935#section-2.2
            // If the SET is determined to be valid, the SET Recipient SHALL acknowledge successful transmission by responding
            // with HTTP Response Status Code 202 (Accepted). Some answer 200 or 204.
            StatusCode::ACCEPTED | StatusCode::OK | StatusCode::NO_CONTENT => {}
            // It will never take this one; the next ones it may.
            StatusCode::BAD_REQUEST => tracing::error!(to = outbox.config.name, jti, "a receiver refused an event for good"),
            status => return Err(format!("it answered {status}")),
        }
        metrics::counter!("bailiwick_events_told_total", "to" => outbox.config.name.clone()).increment(1);
        Ok(())
    }

    async fn advance(&self, outbox: &Outbox, next: u64) -> Result<(), StoreError> {
        self.save_outbox(outbox, next).await?;
        outbox.state.lock().unwrap_or_else(PoisonError::into_inner).next = next;
        Ok(())
    }

    /// A receiver polls: what it has is noted, and it is given what it has not (RFC 8936). None: there is no such receiver, or it did not
    /// present its secret.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn polled(&self, name: &str, authorization: Option<&str>, asked: &PollAsked) -> Result<Option<serde_json::Value>, StoreError> {
        let Some(outbox) = self.events.to.get(name).filter(|o| o.config.push.is_none()) else { return Ok(None) };
        let known = match self.bearer_of(&outbox.config.bearer).await {
            Ok(bearer) => bearer.is(authorization),
            Err(why) => {
                tracing::error!(why, to = name, "a receiver cannot poll");
                false
            }
        };
        if !known {
            return Ok(None);
        }
        for (jti, why) in asked.errors.iter().take(AHEAD_MAX) {
            tracing::error!(to = name, jti, %why, "a receiver refused an event for good");
        }
        let has: BTreeSet<&str> = asked.ack.iter().chain(asked.errors.keys()).map(String::as_str).take(AHEAD_MAX).collect();
        for jti in &has {
            outbox.proof_is_told(jti);
        }
        let size = self.store.head().size;
        self.acknowledge(outbox, &has, size).await?;
        let most = asked.most.unwrap_or(POLLED_MAX).min(POLLED_MAX);
        let from = outbox.next();
        let told = self.ends(outbox, from, size, most.saturating_add(1)).await?;
        let ahead = outbox.state.lock().unwrap_or_else(PoisonError::into_inner).ahead.clone();
        let due: Vec<&Told> = told.iter().filter(|t| !ahead.contains(&t.index)).collect();
        // A proof comes first; whoever wants none at all only acknowledges.
        let proof = outbox.proof().filter(|_| most > 0).map(|p| (p.jti, p.token));
        let room = most.saturating_sub(usize::from(proof.is_some()));
        let tokens = proof.into_iter().chain(due.iter().take(room).map(|t| (t.jti.clone(), t.token.clone())));
        let sets: serde_json::Map<String, serde_json::Value> = tokens.map(|(jti, token)| (jti, serde_json::Value::String(token))).collect();
        Ok(Some(serde_json::json!({ "sets": sets, "moreAvailable": due.len() > room })))
    }

    /// Moves a receiver's place up to the first entry that it has not acknowledged.
    async fn acknowledge(&self, outbox: &Outbox, has: &BTreeSet<&str>, size: u64) -> Result<(), StoreError> {
        let from = outbox.next();
        let told = self.ends(outbox, from, size, AHEAD_MAX).await?;
        let next = {
            let mut state = outbox.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.ahead.extend(told.iter().filter(|t| has.contains(t.jti.as_str())).map(|t| t.index));
            let open = told.iter().map(|t| t.index).find(|index| !state.ahead.contains(index));
            let next = open.unwrap_or_else(|| if told.len() < AHEAD_MAX { size } else { told.last().map_or(from, |t| t.index.saturating_add(1)) });
            state.ahead = state.ahead.split_off(&next);
            next
        };
        if next > from && !told.is_empty() {
            self.advance(outbox, next).await?;
        } else {
            outbox.state.lock().unwrap_or_else(PoisonError::into_inner).next = next;
        }
        Ok(())
    }

    /// The ends of tasks in these entries, as tokens for a receiver.
    async fn ends(&self, outbox: &Outbox, from: u64, to: u64, most: usize) -> Result<Vec<Told>, StoreError> {
        let mut told = Vec::new();
        let mut next = from;
        while next < to && told.len() < most {
            let until = to.min(next.saturating_add(READ_MAX));
            for row in self.store.entries(next..until).await?.into_iter().filter(|row| row.kind == bailiwick_store::kind::TASK_ENDED) {
                if let Some(one) = self.end_of(outbox, &row).await?
                    && told.len() < most
                {
                    told.push(one);
                }
            }
            next = until;
        }
        Ok(told)
    }

    async fn end_of(&self, outbox: &Outbox, row: &EntryRow) -> Result<Option<Told>, StoreError> {
        // The first step says that no call passes any more; the second, that every credential has its ending.
        let Some(ended) = serde_json::from_slice::<Ended>(&row.body).ok().filter(|e| e.state == "closing") else { return Ok(None) };
        // A task that could do nothing carried a request for access: nobody's session ends with it.
        let task = self.store.task(ended.task).await?.map(|row| row.task).filter(|task| !task.grant.is_empty());
        let Some(task) = task else { return Ok(None) };
        let jti = outbox.jti(self.issuer.url(), row.index);
        let end = TaskEnd {
            task: ended.task,
            user: self.subject_for_others(&task),
            audience: &outbox.config.audience,
            jti: &jti,
            at: ended.at,
            by: match (ended.reason, &ended.by) {
                (EndReason::Completed, _) => Initiator::User,
                (EndReason::Revoked, Some(_)) => Initiator::Admin,
                _ => Initiator::System,
            },
            reason: ended.reason.word(),
        };
        match end.sign(&self.issuer, self.clock.now()) {
            Ok(token) => Ok(Some(Told { index: row.index, jti, token })),
            Err(error) => {
                tracing::error!(%error, "an event could not be signed");
                Ok(None)
            }
        }
    }

    /// The person of a task, as others know persons: by the provider's id, else by our own name.
    fn subject_for_others(&self, task: &Task) -> Subject {
        let known = self.directory.known(&task.subject);
        let at_provider = known.and_then(|k| Some(Subject::IssSub { iss: k.issuer?, sub: k.subject? }));
        at_provider.unwrap_or_else(|| Subject::IssSub { iss: self.issuer.url().to_owned(), sub: task.subject.to_string() })
    }
}
