//! The recorder: what `core::record` asks of a journal, done on the store in one durable transaction.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::hold::HoldState;
use bailiwick_core::record::{Journal, Lost};
use bailiwick_core::{Bound, Call, Caller, Decision, Digest, ErrorCode, Hold, HoldId, Needs, TaskId, Timestamp};
use bailiwick_store::{Entry, Intent as IntentRow, StoreError};

use crate::clock::random;
use crate::entry::{self, Body};
use crate::house::House;

/// Writes the decisions of one call. `control` is the fence: the state of authority that was read before deciding.
#[derive(Debug)]
pub struct Recorder<'a> {
    /// The house.
    pub house: &'a House,
    /// The control sequence that was read before the decision.
    pub control: u64,
    /// The client's trace context.
    pub traceparent: Option<&'a str>,
}

/// Who acts, as entries say it.
#[must_use]
pub fn who<'a>(caller: &'a Caller, task: &'a bailiwick_core::Task) -> entry::Who<'a> {
    entry::Who {
        agent: &caller.spiffe_id,
        instance: caller.instance,
        subject: &caller.subject,
        owner: &task.owner,
        actors: &caller.actors,
        token: &caller.token,
    }
}

impl Journal for Recorder<'_> {
    type Error = StoreError;

    async fn intent(&self, decision: &Decision) -> Result<Result<u64, Lost>, StoreError> {
        let call = decision.call();
        let (task, tool) = (call.task(), call.tool());
        let now = self.house.clock.now();
        let hold = decision.spends();
        let body = entry::encode(
            now,
            &entry::Intent {
                call: call.id(),
                task: task.id,
                who: who(call.caller(), task),
                tool: &tool.name,
                effect: tool.effect,
                definition: tool.definition,
                target: &tool.target,
                arguments: self.house.keyed(call.arguments()),
                arguments_bytes: call.arguments().len(),
                digest: call.digest(),
                revision: decision.revision(),
                policies: decision.policies(),
                hold: hold.map(|h| h.id),
                approvals: hold.map_or(&[], |h| h.approvals.as_slice()),
                traceparent: self.traceparent,
            },
        );
        let consume = hold.map(|h| h.id);
        let row = IntentRow {
            known_control: self.control,
            task: task.id,
            call: call.id(),
            consume,
            budget_calls: task.budget.calls,
            at: now,
            body,
        };
        let written = self.house.store.intent(row).await?;
        if written.is_ok()
            && let Some(hold) = hold
        {
            let state = HoldState::Consumed { call: call.id(), at: now };
            self.house.holds.put(Hold { state, ..hold.clone() });
        }
        Ok(written)
    }

    async fn denial(&self, decision: &Decision) -> Result<(), StoreError> {
        let (code, detail) = decision.denial().unwrap_or((ErrorCode::Internal, ""));
        self.house.denied(decision.call(), code, detail, decision.policies()).await
    }

    async fn hold(&self, decision: &Decision, needs: &Needs) -> Result<Result<Hold, ErrorCode>, StoreError> {
        let call = decision.call();
        let (task, tool) = (call.task(), call.tool());
        let now = self.house.clock.now();
        let hold = Hold {
            id: HoldId::new(now, random()),
            call: call.id(),
            task: task.id,
            agent: task.agent.clone(),
            owner: task.owner.clone(),
            subject: task.subject.clone(),
            tool: tool.name.clone(),
            effect: tool.effect,
            target: tool.target.clone(),
            arguments: call.arguments().clone(),
            key: call.hold_key(),
            digest: call.digest(),
            revision: decision.revision().to_string(),
            people: needs.people.clone(),
            count: needs.count,
            reasons: bailiwick_core::decision::words(&needs.policies),
            approvals: Vec::new(),
            at: now,
            expires_at: now.plus(self.house.config.hold_ttl).min(task.expires_at),
            state: HoldState::Pending,
        };
        let body = entry::encode(
            now,
            &entry::HoldOpened {
                hold: hold.id,
                call: call.id(),
                task: task.id,
                who: who(call.caller(), task),
                tool: &tool.name,
                effect: tool.effect,
                digest: hold.digest,
                arguments: self.house.keyed(call.arguments()),
                people: &needs.people,
                count: needs.count,
                revision: decision.revision(),
                policies: &needs.policies,
                expires_at: hold.expires_at,
            },
        );
        match self.house.store.hold_open(&hold, body, usize::try_from(self.house.config.pending_max).unwrap_or(usize::MAX)).await? {
            Ok(hold) => {
                self.house.holds.put(hold.clone());
                Ok(Ok(hold))
            }
            Err(_) => {
                let detail = "too many calls of this task wait for people";
                self.house.denied(call, ErrorCode::HoldFlood, detail, &[]).await?;
                Ok(Err(ErrorCode::HoldFlood))
            }
        }
    }
}

/// Denials of the same kind within this time are written once, with their number.
const AGGREGATE: Duration = Duration::from_secs(10);
/// Kinds of denial that are told apart at a time; beyond it, all others count as one, so that an agent cannot fill the disk.
const KINDS_MAX: usize = 4096;

/// Counts denials, so that repeats are on record as a number rather than one by one.
#[derive(Debug, Default)]
pub struct DenialBook {
    kinds: Mutex<HashMap<(TaskId, Digest, ErrorCode), Seen>>,
}

#[derive(Debug)]
struct Seen {
    written: Timestamp,
    repeats: u64,
}

impl DenialBook {
    /// Says whether to write this denial now, and how many alike went unwritten before it.
    pub fn see(&self, task: TaskId, tool: &str, code: ErrorCode, now: Timestamp) -> Option<u64> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if kinds.len() >= KINDS_MAX {
            kinds.retain(|_, s| s.written.until(now) < AGGREGATE || s.repeats > 0);
        }
        let key = if kinds.len() < KINDS_MAX { (task, Digest::of(tool.as_bytes()), code) } else { (task, Digest::of(b""), code) };
        let room = kinds.len() < KINDS_MAX.saturating_mul(2);
        match kinds.get_mut(&key) {
            Some(seen) if seen.written.until(now) < AGGREGATE => {
                seen.repeats = seen.repeats.saturating_add(1);
                None
            }
            Some(seen) => {
                seen.written = now;
                Some(std::mem::take(&mut seen.repeats))
            }
            None if room => {
                kinds.insert(key, Seen { written: now, repeats: 0 });
                Some(0)
            }
            None => None,
        }
    }
}

impl House {
    /// Records a denied call that was bound; repeats are aggregated.
    ///
    /// # Errors
    /// The store's.
    pub async fn denied(
        &self, call: &Call<Bound>, code: ErrorCode, detail: &str, policies: &[bailiwick_core::PolicyRef],
    ) -> Result<(), StoreError> {
        self.denied_early(call.id(), call.caller(), call.task(), call.requested(), code, detail, policies).await
    }

    /// Records a call that was denied before it was bound.
    ///
    /// # Errors
    /// The store's.
    #[expect(clippy::too_many_arguments, reason = "these are the members of one entry")]
    pub async fn denied_early(
        &self, id: bailiwick_core::CallId, caller: &Caller, task: &bailiwick_core::Task, tool: &str, code: ErrorCode, detail: &str,
        policies: &[bailiwick_core::PolicyRef],
    ) -> Result<(), StoreError> {
        metrics::counter!("bailiwick_denials_total", "code" => code.slug()).increment(1);
        let now = self.clock.now();
        let Some(repeats) = self.denials.see(task.id, tool, code, now) else { return Ok(()) };
        let revision = self.revision();
        let tool: String = tool.chars().take(200).collect();
        let detail: String = detail.chars().take(1000).collect();
        let body = entry::encode(
            now,
            &entry::Denial {
                call: id,
                task: task.id,
                who: who(caller, task),
                tool: &tool,
                code: code.slug(),
                detail: &detail,
                revision: &revision,
                policies,
                repeats,
            },
        );
        let entry = Entry::new(<entry::Denial<'_> as Body>::WORD, body).of_call(id).of_task(task.id);
        self.store.append_relaxed(entry).await
    }

    /// Appends an entry and waits until it is durable.
    ///
    /// # Errors
    /// The store's.
    pub async fn append<T: Body + Sync>(&self, body: &T) -> Result<u64, StoreError> {
        self.store.append(Entry::new(T::WORD, entry::encode(self.clock.now(), body))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_denials_are_written_once_with_their_number() {
        let book = DenialBook::default();
        let at = Timestamp::from_millis;
        let task = TaskId::new(at(0), [0; 10]);
        assert_eq!(book.see(task, "t", ErrorCode::PolicyDenied, at(0)), Some(0));
        for ms in 1..100 {
            assert_eq!(book.see(task, "t", ErrorCode::PolicyDenied, at(ms)), None);
        }
        assert_eq!(book.see(task, "u", ErrorCode::PolicyDenied, at(100)), Some(0));
        assert_eq!(book.see(task, "t", ErrorCode::PolicyDenied, at(10_000)), Some(99));
    }

    #[test]
    fn an_agent_that_invents_names_does_not_grow_the_book() {
        let book = DenialBook::default();
        let at = Timestamp::from_millis(0);
        let task = TaskId::new(at, [0; 10]);
        let written = (0..50_000).filter(|i| book.see(task, &format!("t{i}"), ErrorCode::ToolUnknown, at).is_some()).count();
        assert!(written <= KINDS_MAX + 1, "{written}");
    }
}
