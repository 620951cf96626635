//! People decide: a yes or a no to exactly one held call, and the ends that nobody decided.

use bailiwick_core::hold::HoldState;
use bailiwick_core::{Approval, ApprovalError, Digest, ErrorCode, Hold, HoldId, Person, PersonName, Timestamp};
use bailiwick_store::StoreError;
use bailiwick_wire::{Limits, Raw};

use crate::entry;
use crate::fault;
use crate::house::House;

/// What a person says about a held call.
#[derive(Debug)]
pub struct Saying {
    /// The digest that the person was shown.
    pub digest: Digest,
    /// SHA-256 of the words that the person saw.
    pub seen: Digest,
    /// `key`, `session` or [`PASSKEY`].
    pub proof: &'static str,
    /// The signature; empty for a session. Of a passkey: see `bailiwick_identity::passkey::Signed`.
    pub signature: String,
    /// The reason of a no, in the person's words.
    pub reason: String,
}

/// The proof of a decision that was signed with a passkey.
pub const PASSKEY: &str = "passkey";

/// Why it is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SayingError {
    /// There is no such hold.
    #[error("there is no such held call")]
    Absent,
    /// The rules of approval.
    #[error(transparent)]
    Rule(#[from] ApprovalError),
    /// It must be signed with a passkey.
    #[error("an approval of this call counts only with a passkey: decide it on its page")]
    PasskeyNeeded,
    /// Somebody else decided at the same time: look again.
    #[error("somebody else decided at the same time; look again")]
    Raced,
    /// The ledger cannot be written.
    #[error("the ledger cannot be written: {0}")]
    Store(#[from] StoreError),
}

impl SayingError {
    /// The public code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Absent => ErrorCode::HoldAbsent,
            Self::Rule(rule) => rule.code(),
            Self::PasskeyNeeded => ErrorCode::StepUpRequired,
            Self::Raced => ErrorCode::ApprovalMismatch,
            Self::Store(_) => ErrorCode::AuditUnavailable,
        }
    }
}

/// What people are shown of the arguments: the words of which a decision carries the digest.
#[must_use]
pub fn shown(hold: &Hold) -> String {
    match Raw::parse(&hold.arguments, &Limits::REPLY) {
        Ok(raw) => bailiwick_wire::render::render(raw).text,
        // The pipeline binds only what is JSON. Were it not, the person still sees all of it.
        Err(_) => bailiwick_wire::render::line(&String::from_utf8_lossy(&hold.arguments)),
    }
}

/// May this person say no to exactly this call now? Whoever may say yes may; the owner and the person on whose behalf it is asked may always
/// take it back.
///
/// # Errors
/// As for a yes.
pub fn may_refuse(hold: &Hold, person: &Person, digest: Digest, now: Timestamp) -> Result<(), ApprovalError> {
    let own = person.name == hold.owner || person.name == hold.subject;
    match hold.may_decide(person, true, digest, now) {
        Ok(_) => Ok(()),
        Err(ApprovalError::NotEligible) if own && hold.state == HoldState::Pending && digest == hold.digest => Ok(()),
        Err(rule) => Err(rule),
    }
}

impl House {
    /// Does an approval of this call count only with a passkey? A call whose agent is not known any more is of the highest risk.
    #[must_use]
    pub fn needs_passkey(&self, hold: &Hold) -> bool {
        let risk = self.agent(hold.agent.as_str()).map_or(bailiwick_core::RiskTier::High, |agent| agent.risk);
        self.config.step_up.covers(hold.effect, risk)
    }

    /// Takes a yes. When enough people said yes, as policy said when the call was held, the call is released; policy is asked again
    /// with the approvals as facts when it is made.
    ///
    /// # Errors
    /// See [`SayingError`]; nothing changed then.
    pub async fn approve(&self, id: HoldId, person: &Person, saying: Saying) -> Result<Hold, SayingError> {
        let now = self.clock.now();
        let seen = self.store.hold(id).await?.ok_or(SayingError::Absent)?;
        let kind = seen.may_decide(person, self.config.owner_may_approve, saying.digest, now)?;
        if saying.proof != PASSKEY && self.needs_passkey(&seen) {
            return Err(SayingError::PasskeyNeeded);
        }
        let approval = Approval {
            person: person.name.clone(),
            kind,
            digest: saying.digest,
            seen: saying.seen,
            proof: saying.proof.to_owned(),
            signature: saying.signature,
            at: now,
        };
        let mut hold = seen.clone();
        hold.approvals.push(approval);
        let enough = hold.approvals.len() >= hold.count;
        if enough {
            hold.state = HoldState::Approved { at: now };
        }
        let body = entry::encode(
            now,
            &entry::HoldDecided {
                hold: id,
                call: hold.call,
                task: hold.task,
                step: if enough { "approved" } else { "approval" },
                approval: hold.approvals.last(),
                by: None,
                reason: None,
            },
        );
        self.change_hold(&seen, hold, body).await
    }

    /// Takes a no.
    ///
    /// # Errors
    /// See [`SayingError`]; nothing changed then.
    pub async fn refuse(&self, id: HoldId, person: &Person, saying: Saying) -> Result<Hold, SayingError> {
        let now = self.clock.now();
        let seen = self.store.hold(id).await?.ok_or(SayingError::Absent)?;
        may_refuse(&seen, person, saying.digest, now)?;
        let reason: String = saying.reason.chars().take(500).collect();
        let hold = Hold { state: HoldState::Refused { by: person.name.clone(), reason: reason.clone(), at: now }, ..seen.clone() };
        let body = entry::HoldDecided {
            hold: id,
            call: hold.call,
            task: hold.task,
            step: "refused",
            approval: None,
            by: Some(&person.name),
            reason: Some(&reason),
        };
        self.change_hold(&seen, hold, entry::encode(now, &body)).await
    }

    /// The requester gives a held call up.
    ///
    /// # Errors
    /// The store's.
    pub async fn withdraw(&self, id: HoldId) -> Result<(), SayingError> {
        self.withdraw_for(id, None, None).await
    }

    /// The same, with who takes it back, and why.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn withdraw_for(&self, id: HoldId, by: Option<&PersonName>, reason: Option<&str>) -> Result<(), SayingError> {
        let now = self.clock.now();
        let Some(seen) = self.store.hold(id).await?.filter(|h| matches!(h.state, HoldState::Pending | HoldState::Approved { .. })) else {
            return Ok(());
        };
        let hold = Hold { state: HoldState::Withdrawn { at: now }, ..seen.clone() };
        let body = entry::HoldDecided { hold: id, call: hold.call, task: hold.task, step: "withdrawn", approval: None, by, reason };
        self.change_hold(&seen, hold, entry::encode(now, &body)).await.map(|_| ())
    }

    /// Ends the holds that nobody decided, or whose approval nobody used, in time.
    pub(crate) async fn expire_holds(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        for seen in self.holds.matching(|h| now >= h.expires_at) {
            let hold = Hold { state: HoldState::Expired { at: now }, ..seen.clone() };
            let body =
                entry::HoldDecided { hold: hold.id, call: hold.call, task: hold.task, step: "expired", approval: None, by: None, reason: None };
            if matches!(seen.state, HoldState::Refused { .. }) {
                self.holds.put(hold);
                continue;
            }
            match self.change_hold(&seen, hold, entry::encode(now, &body)).await {
                Ok(_) => {}
                Err(SayingError::Store(error)) => return Err(error),
                // Somebody was faster, in the store: take over what it says.
                Err(_) => match self.store.hold(seen.id).await? {
                    Some(hold) => self.holds.put(hold),
                    None => self.holds.put(Hold { state: HoldState::Expired { at: now }, ..seen }),
                },
            }
        }
        Ok(())
    }

    async fn change_hold(&self, seen: &Hold, hold: Hold, body: Vec<u8>) -> Result<Hold, SayingError> {
        fault::point("before-decision");
        if !self.store.hold_update(seen, &hold, body).await? {
            return Err(SayingError::Raced);
        }
        fault::point("after-decision");
        metrics::counter!("bailiwick_holds_decided_total", "state" => hold.state.word()).increment(1);
        self.holds.put(hold.clone());
        Ok(hold)
    }
}
