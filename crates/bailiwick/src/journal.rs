//! The recorder: what `core::record` asks of a journal, done on the store in one durable transaction.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::hold::HoldState;
use bailiwick_core::record::{Journal, Lost};
use bailiwick_core::{Bound, Call, CallId, Caller, Circumstances, Decision, Digest, ErrorCode, Hold, HoldId, Needs, PersonName, TaskId, Timestamp};
use bailiwick_store::{Entry, Intent as IntentRow, PayloadKind, StoreError};

use crate::approve::SayingError;
use crate::clock::random;
use crate::entry::{self, Body};
use crate::house::House;
use crate::leases::Held;

/// Writes the decisions of one call. `control` is the fence: the state of authority that was read before deciding.
#[derive(Debug)]
pub struct Recorder<'a> {
    /// The house.
    pub house: &'a House,
    /// The control sequence that was read before the decision.
    pub control: u64,
    /// The client's trace context.
    pub traceparent: Option<&'a str>,
    /// What the client brought back to the system's questions, beside the arguments.
    pub brought: Option<Vec<u8>>,
    /// The lease with which the call would be sent.
    pub(crate) lease: Option<&'a Arc<Held>>,
}

/// Who acts, as entries say it.
#[must_use]
pub fn who<'a>(caller: &'a Caller, task: &'a bailiwick_core::Task) -> entry::Who<'a> {
    entry::Who {
        agent: &caller.spiffe_id,
        component: caller.component.as_ref(),
        undivided: task.undivided,
        instance: caller.instance,
        subject: &caller.subject,
        owner: &task.owner,
        actors: &caller.actors,
        token: &caller.token,
    }
}

/// All tasks of an agent together may have this many times as many calls waiting as one task.
pub(crate) const TASKS_THAT_WAIT: usize = 5;

impl Recorder<'_> {
    /// Do so many calls of the agent's tasks wait already that one more would only bury them (BI-082)? What waits already may be
    /// asked for again.
    fn crowded(&self, hold: &Hold, pending_max: usize, now: Timestamp) -> bool {
        let holds = &self.house.holds;
        let waiting = || holds.matching(|h| h.agent == hold.agent && h.waits(now)).len();
        holds.find(&hold.key, now).is_none() && waiting() >= pending_max.saturating_mul(TASKS_THAT_WAIT)
    }

    /// Keeps the text without which the call may not be made. That there is no room for it is on record as a denial.
    async fn keep_first(&self, call: &Call<Bound>, text: bailiwick_store::Payload) -> Result<(), StoreError> {
        let kept = self.house.keep_first(text).await;
        if let Err(error @ StoreError::NoRoom { .. }) = &kept {
            self.house.denied(call, error.code(), error.public(), &[]).await?;
        }
        kept
    }

    /// Do the approvals of this hold release the call under the policy in force?
    fn released_by(&self, call: &Call<Bound>, hold: &Hold, now: Timestamp) -> bool {
        let approvers = self.house.approvers_of(call.task());
        let approved: Vec<PersonName> = hold.approvals.iter().map(|a| a.person.clone()).filter(|p| approvers.contains(p)).collect();
        let live = self.house.live.find(call.task().id);
        let (calls_before, labels) = live.map_or_else(Default::default, |live| (live.used(), live.labels()));
        let at = Circumstances { now, calls_before, labels: &labels };
        bailiwick_core::decision::released_by(&**self.house.engine.load(), call, &approved, at)
    }
}

impl Journal for Recorder<'_> {
    type Error = StoreError;

    async fn intent(&self, decision: &Decision) -> Result<Result<u64, Lost>, StoreError> {
        let call = decision.call();
        let (task, tool) = (call.task(), call.tool());
        let now = self.house.clock.now();
        let hold = decision.spends();
        let injects = self.house.config.systems.get(tool.name.system()).map(crate::config::SystemEntry::secret_names).unwrap_or_default();
        let kept_until = self.house.kept_until(PayloadKind::Arguments, tool, now);
        let mut text = kept_until.map(|until| self.house.arguments_of(call, now, until));
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
                arguments: self.house.salted(call.salt(), call.arguments()),
                arguments_bytes: call.arguments().len(),
                brought: self.brought.as_ref().map(|b| self.house.salted(call.salt(), b)),
                kept_until,
                digest: call.digest(),
                revision: decision.revision(),
                policies: decision.policies(),
                hold: hold.map(|h| h.id),
                approvals: hold.map_or(&[], |h| h.approvals.as_slice()),
                injects: &injects,
                lease: self.lease.map(|held| held.id),
                labels: decision.labels(),
                traceparent: self.traceparent,
            },
        );
        let consume = hold.map(|h| h.id);
        let assigns = self.lease.map_or(Ok(None), |held| self.house.leases.assignment(held, call.id()))?;
        let assigned = self.lease.filter(|_| assigns.is_some());
        let (known_control, budget_calls) = (self.control, task.budget.calls);
        let row = IntentRow { known_control, task: task.id, call: call.id(), consume, budget_calls, at: now, assigns, body };
        let required = if self.house.must_keep(tool.effect) { text.take() } else { None };
        let kept_first = required.is_some();
        if let Some(text) = required {
            self.keep_first(call, text).await?;
        }
        let written = self.house.store.intent(row).await;
        // Only a store that is closed may have written it and not said so.
        if kept_first && !matches!(written, Ok(Ok(_)) | Err(StoreError::Closed)) {
            self.house.unkeep(call.id(), PayloadKind::Arguments).await;
        }
        let written = written?;
        if let Some(held) = assigned {
            self.house.leases.assigned(held, written.map(drop)).await;
        }
        if let (Ok(_), Some(text)) = (&written, text) {
            self.house.keep(text);
        }
        if written.is_ok()
            && let Some(hold) = hold
        {
            let state = HoldState::Consumed { call: call.id(), at: now };
            self.house.holds.put(Hold { state, ..hold.clone() });
        }
        match written {
            Ok(_) | Err(Lost::Stale | Lost::LeaseGone) => {}
            // What is refused is on record, here too.
            Err(Lost::TaskClosed) => self.house.denied(call, ErrorCode::TaskClosed, ErrorCode::TaskClosed.sentence(), &[]).await?,
            Err(Lost::BudgetCalls) => self.house.denied(call, ErrorCode::BudgetCalls, ErrorCode::BudgetCalls.sentence(), &[]).await?,
            // Memory is behind the store: take over what it says, or the call would be decided in vain until the hold is over.
            Err(Lost::ApprovalGone) => {
                if let Some(hold) = hold
                    && let Some(now) = self.house.store.hold(hold.id).await?
                {
                    self.house.holds.put(now);
                }
            }
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
        let kept_until = self.house.kept_until(PayloadKind::Arguments, tool, now);
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
                arguments: self.house.salted(call.salt(), call.arguments()),
                kept_until,
                people: &needs.people,
                count: needs.count,
                revision: decision.revision(),
                policies: &needs.policies,
                labels: decision.labels(),
                expires_at: hold.expires_at,
            },
        );
        let pending_max = usize::try_from(self.house.config.pending_max).unwrap_or(usize::MAX);
        if self.crowded(&hold, pending_max, now) {
            self.house.denied(call, ErrorCode::HoldFlood, "too many calls of this agent wait for people", &[]).await?;
            return Ok(Err(ErrorCode::HoldFlood));
        }
        let opened = self.house.store.hold_open(&hold, body, pending_max).await?;
        // Approved, but by now policy asks for more than it did then: it is taken back, and the call is decided as if nobody had been
        // asked. Otherwise it would wait for nobody.
        if let Ok(found) = &opened
            && matches!(found.state, HoldState::Approved { .. })
            && !self.released_by(call, found, now)
        {
            // Somebody else did something with it meanwhile: deciding again finds out what.
            if let Err(SayingError::Store(error)) = self.house.withdraw(found.id).await {
                return Err(error);
            }
            return Ok(Ok(Hold { state: HoldState::Withdrawn { at: now }, ..found.clone() }));
        }
        match opened {
            Ok(hold) => {
                // One that was found is of an earlier call, whose text is kept.
                if let (true, Some(until)) = (hold.call == call.id(), kept_until) {
                    self.house.keep(self.house.arguments_of(call, now, until));
                }
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
    first: Denied,
}

/// A denial, as far as a later entry about its repeats needs it.
#[derive(Clone, Debug)]
pub struct Denied {
    call: CallId,
    task: TaskId,
    caller: Caller,
    owner: PersonName,
    undivided: bool,
    tool: String,
    code: ErrorCode,
    detail: String,
}

impl DenialBook {
    /// Says whether to write this denial now, and how many alike went unwritten before it.
    pub fn see(&self, task: TaskId, tool: &str, code: ErrorCode, now: Timestamp, denied: impl FnOnce() -> Denied) -> Option<u64> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        // Too fast is one kind, whatever was asked for.
        let alike = code == ErrorCode::BudgetRate || kinds.len() >= KINDS_MAX;
        let own = (task, Digest::of(tool.as_bytes()), code);
        let key = if alike && !kinds.contains_key(&own) { (task, Digest::of(b""), code) } else { own };
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
                kinds.insert(key, Seen { written: now, repeats: 0, first: denied() });
                Some(0)
            }
            None => None,
        }
    }

    /// Forgets the kinds whose time is over, and gives those whose repeats are not on record yet.
    fn settle(&self, now: Timestamp) -> Vec<(Denied, u64)> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let over: Vec<Seen> = kinds.extract_if(|_, s| s.written.until(now) >= AGGREGATE).map(|(_, s)| s).collect();
        over.into_iter().filter(|s| s.repeats > 0).map(|s| (s.first, s.repeats)).collect()
    }
}

impl House {
    /// Records a denied call that was bound; repeats are aggregated.
    ///
    /// # Errors
    /// The store's.
    pub async fn denied(&self, call: &Call<Bound>, code: ErrorCode, detail: &str, policies: &[bailiwick_core::PolicyRef]) -> Result<(), StoreError> {
        self.denied_early(call.id(), call.caller(), call.task(), call.requested(), code, detail, policies).await
    }

    /// Records a call that was denied before it was bound.
    ///
    /// # Errors
    /// The store's.
    #[expect(clippy::too_many_arguments, reason = "these are the members of one entry")]
    pub async fn denied_early(
        &self,
        id: bailiwick_core::CallId,
        caller: &Caller,
        task: &bailiwick_core::Task,
        tool: &str,
        code: ErrorCode,
        detail: &str,
        policies: &[bailiwick_core::PolicyRef],
    ) -> Result<(), StoreError> {
        metrics::counter!("bailiwick_denials_total", "code" => code.slug()).increment(1);
        let now = self.clock.now();
        let denied = || Denied {
            call: id,
            task: task.id,
            caller: caller.clone(),
            owner: task.owner.clone(),
            undivided: task.undivided,
            tool: tool.chars().take(200).collect(),
            code,
            detail: detail.chars().take(1000).collect(),
        };
        let Some(repeats) = self.denials.see(task.id, tool, code, now, denied) else { return Ok(()) };
        self.append_denial(&denied(), policies, repeats).await
    }

    async fn append_denial(&self, denied: &Denied, policies: &[bailiwick_core::PolicyRef], repeats: u64) -> Result<(), StoreError> {
        let revision = self.revision();
        let labels = self.live.find(denied.task).map(|live| live.labels()).unwrap_or_default();
        let caller = &denied.caller;
        let body = entry::encode(
            self.clock.now(),
            &entry::Denial {
                call: denied.call,
                task: denied.task,
                who: entry::Who {
                    agent: &caller.spiffe_id,
                    component: caller.component.as_ref(),
                    undivided: denied.undivided,
                    instance: caller.instance,
                    subject: &caller.subject,
                    owner: &denied.owner,
                    actors: &caller.actors,
                    token: &caller.token,
                },
                tool: &denied.tool,
                code: denied.code.slug(),
                detail: &denied.detail,
                revision: &revision,
                policies,
                labels: &labels,
                repeats,
            },
        );
        let entry = Entry::new(<entry::Denial<'_> as Body>::WORD, body).of_call(denied.call).of_task(denied.task);
        self.store.append_relaxed(entry).await
    }

    /// Puts the repeats of denials on record that nothing followed.
    pub(crate) async fn settle_denials(&self) {
        for (denied, repeats) in self.denials.settle(self.clock.now()) {
            if let Err(error) = self.append_denial(&denied, &[], repeats).await {
                tracing::error!(%error, repeats, task = %denied.task, "repeated denials could not be recorded");
            }
        }
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

    fn denied(task: TaskId) -> Denied {
        let caller = Caller {
            agent: "a".parse().unwrap(),
            spiffe_id: "spiffe://td/agent/a".parse().unwrap(),
            component: None,
            instance: bailiwick_core::InstanceId::new(Timestamp::from_millis(0), [0; 10]),
            subject: "ana".parse().unwrap(),
            actors: Vec::new(),
            task,
            token: String::new(),
        };
        let (tool, detail) = ("t".to_owned(), String::new());
        Denied {
            call: CallId::new(Timestamp::from_millis(0), [0; 10]),
            task,
            caller,
            owner: "ana".parse().unwrap(),
            undivided: false,
            tool,
            code: ErrorCode::PolicyDenied,
            detail,
        }
    }

    #[test]
    fn repeated_denials_are_written_once_with_their_number() {
        let book = DenialBook::default();
        let at = Timestamp::from_millis;
        let task = TaskId::new(at(0), [0; 10]);
        let see = |tool: &str, ms| book.see(task, tool, ErrorCode::PolicyDenied, at(ms), || denied(task));
        assert_eq!(see("t", 0), Some(0));
        for ms in 1..100 {
            assert_eq!(see("t", ms), None);
        }
        assert_eq!(see("u", 100), Some(0));
        assert_eq!(see("t", 10_000), Some(99));
    }

    #[test]
    fn repeats_that_nothing_follows_are_on_record_all_the_same_and_their_place_is_free_again() {
        let book = DenialBook::default();
        let at = Timestamp::from_millis;
        let task = TaskId::new(at(0), [0; 10]);
        for i in 0..2 * KINDS_MAX {
            for _ in 0..2 {
                book.see(task, &format!("t{i}"), ErrorCode::ToolUnknown, at(0), || denied(task));
            }
        }
        assert!(book.settle(at(9_999)).is_empty());
        let unwritten: u64 = book.settle(at(10_000)).iter().map(|(_, repeats)| repeats).sum();
        assert!(unwritten >= u64::try_from(KINDS_MAX).unwrap());
        let other = TaskId::new(at(0), [1; 10]);
        assert_eq!(book.see(other, "x", ErrorCode::PolicyDenied, at(10_001), || denied(other)), Some(0));
    }

    #[test]
    fn an_agent_that_invents_names_does_not_grow_the_book() {
        let book = DenialBook::default();
        let at = Timestamp::from_millis(0);
        let task = TaskId::new(at, [0; 10]);
        let written = (0..50_000).filter(|i| book.see(task, &format!("t{i}"), ErrorCode::ToolUnknown, at, || denied(task)).is_some()).count();
        assert!(written <= KINDS_MAX + 1, "{written}");
    }
}
