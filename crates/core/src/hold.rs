//! A held call and the human's bound yes: digest-bound, expiring, consumed once, never given by the requester.

use bytes::Bytes;

use crate::agent::{Person, Role};
use crate::digest::Digest;
use crate::effect::Effect;
use crate::error::ErrorCode;
use crate::id::{CallId, HoldId, TaskId};
use crate::name::{AgentName, PersonName, ToolName};
use crate::time::Timestamp;

/// Where a held call stands. Only forward.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum HoldState {
    /// People may decide.
    Pending,
    /// Enough people said yes; the call may be made once.
    Approved {
        /// When the last needed yes came.
        at: Timestamp,
    },
    /// Someone said no.
    Refused {
        /// Who.
        by: PersonName,
        /// Why, in that person's words.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// Nobody decided in time.
    Expired {
        /// When.
        at: Timestamp,
    },
    /// The requester gave it up, or its task ended.
    Withdrawn {
        /// When.
        at: Timestamp,
    },
    /// The approved call was permitted; the approval is spent.
    Consumed {
        /// By which call.
        call: CallId,
        /// When.
        at: Timestamp,
    },
}

impl HoldState {
    /// The word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved { .. } => "approved",
            Self::Refused { .. } => "refused",
            Self::Expired { .. } => "expired",
            Self::Withdrawn { .. } => "withdrawn",
            Self::Consumed { .. } => "consumed",
        }
    }
}

/// A call that waits for people, with the exact bytes that they are shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    /// Its id: a name, not a capability.
    pub id: HoldId,
    /// The call that was held first.
    pub call: CallId,
    /// Its task.
    pub task: TaskId,
    /// Its agent.
    pub agent: AgentName,
    /// The agent's owner.
    pub owner: PersonName,
    /// The person on whose behalf it was asked.
    pub subject: PersonName,
    /// The tool.
    pub tool: ToolName,
    /// The tool's effect.
    pub effect: Effect,
    /// Where it goes.
    pub target: String,
    /// The exact bytes of the arguments: what is shown is what is sent.
    pub arguments: Bytes,
    /// The key under which an identical call finds this hold.
    pub key: Digest,
    /// The digest that an approval is bound to.
    pub digest: Digest,
    /// The revision of the policy that held it.
    pub revision: String,
    /// Whose approval counts, as policy said when it was held.
    pub people: Vec<PersonName>,
    /// How many are needed.
    pub count: usize,
    /// Why it is held, in words.
    pub reasons: String,
    /// The approvals so far.
    pub approvals: Vec<Approval>,
    /// When it was held.
    pub at: Timestamp,
    /// Until when people may decide, and until when an approval may be used.
    pub expires_at: Timestamp,
    /// Where it stands.
    pub state: HoldState,
}

/// On what footing a person approved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalKind {
    /// Someone other than the agent's owner and the person on whose behalf it was asked.
    SecondPerson,
    /// The agent's own owner or the person on whose behalf it was asked, where the installation allows it. Marked as what it is.
    OwnRequest,
}

/// A human's yes to exactly one call.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Approval {
    /// Who.
    pub person: PersonName,
    /// On what footing.
    pub kind: ApprovalKind,
    /// The digest that was approved.
    pub digest: Digest,
    /// SHA-256 of the words that the approver saw.
    pub seen: Digest,
    /// How the person proved who he or she is: `key` or `passkey` with a signature, or `session`.
    pub proof: String,
    /// The person's signature over digest, words and verdict, in base64url; of a passkey its whole assertion; empty for a session.
    pub signature: String,
    /// When.
    pub at: Timestamp,
}

/// Why an approval is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.code().sentence())]
#[non_exhaustive]
pub enum ApprovalError {
    /// The person is the one on whose behalf the call was asked, or the agent's owner.
    OwnRequest,
    /// The person is no approver, or policy would not count this approval.
    NotEligible,
    /// The digest is not that of the held call.
    Mismatch,
    /// The hold's time is over.
    Expired,
    /// It is not pending any more.
    Decided,
}

impl ApprovalError {
    /// The public code.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::OwnRequest => ErrorCode::ApprovalSelf,
            Self::NotEligible => ErrorCode::ApprovalNotEligible,
            Self::Mismatch => ErrorCode::ApprovalMismatch,
            Self::Expired => ErrorCode::HoldExpired,
            Self::Decided => ErrorCode::HoldAbsent,
        }
    }
}

/// May this person approve a call of this agent and subject, and on what footing?
///
/// # Errors
/// `NotEligible` without the approver's role, `OwnRequest` for the subject or owner where `own_requests` is false.
pub fn footing(person: &Person, owner: &PersonName, subject: &PersonName, own_requests: bool) -> Result<ApprovalKind, ApprovalError> {
    if !person.roles.contains(&Role::Approver) {
        return Err(ApprovalError::NotEligible);
    }
    if person.name != *owner && person.name != *subject {
        return Ok(ApprovalKind::SecondPerson);
    }
    if own_requests { Ok(ApprovalKind::OwnRequest) } else { Err(ApprovalError::OwnRequest) }
}

impl Hold {
    /// May an approval of this hold still be used?
    #[must_use]
    pub fn releases(&self, now: Timestamp) -> bool {
        matches!(self.state, HoldState::Approved { .. }) && now < self.expires_at
    }

    /// Is it still waiting for people?
    #[must_use]
    pub fn waits(&self, now: Timestamp) -> bool {
        self.state == HoldState::Pending && now < self.expires_at
    }

    /// Checks that this person may say yes or no to exactly this call now. `digest` is what the person was shown.
    ///
    /// # Errors
    /// Decided, expired, not eligible, own request, or another digest.
    pub fn may_decide(&self, person: &Person, own_requests: bool, digest: Digest, now: Timestamp) -> Result<ApprovalKind, ApprovalError> {
        if self.state != HoldState::Pending {
            return Err(ApprovalError::Decided);
        }
        if now >= self.expires_at {
            return Err(ApprovalError::Expired);
        }
        let kind = footing(person, &self.owner, &self.subject, own_requests)?;
        if !self.people.contains(&person.name) || self.approvals.iter().any(|a| a.person == person.name) {
            return Err(ApprovalError::NotEligible);
        }
        if digest != self.digest {
            return Err(ApprovalError::Mismatch);
        }
        Ok(kind)
    }
}
