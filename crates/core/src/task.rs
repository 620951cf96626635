//! A task: the unit of work that has purpose, owner, agent, grant, budget and an end. No task, no call.

use std::time::Duration;

use crate::delegation::Hop;
use crate::grant::Grant;
use crate::id::{InstanceId, TaskId};
use crate::name::{AgentName, ComponentName, PersonName, SpiffeId};
use crate::time::Timestamp;

/// How much a task may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Budget {
    /// Calls in all that may be permitted.
    pub calls: u64,
    /// Calls that may be permitted in any minute.
    pub calls_per_minute: u32,
}

/// Why a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndReason {
    /// Its agent said that the work is done.
    Completed,
    /// Its time ran out.
    Expired,
    /// A person ended it.
    Revoked,
    /// A task that it is a part of has ended.
    Parent,
}

impl EndReason {
    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Parent => "parent",
        }
    }
}

/// Where a task stands. Only forward: open, closing, closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum TaskState {
    /// Calls may pass.
    Open,
    /// No call passes any more; something that it used has no ending yet.
    Closing {
        /// Why.
        reason: EndReason,
        /// Since when.
        at: Timestamp,
    },
    /// Ended, with all that it used.
    Closed {
        /// Why.
        reason: EndReason,
        /// When it was closed.
        at: Timestamp,
    },
}

impl TaskState {
    /// The word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closing { .. } => "closing",
            Self::Closed { .. } => "closed",
        }
    }

    /// May a call pass?
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// The first step of the end. `None` if the end has begun already: the first reason stays.
    #[must_use]
    pub const fn closing(self, reason: EndReason, at: Timestamp) -> Option<Self> {
        match self {
            Self::Open => Some(Self::Closing { reason, at }),
            Self::Closing { .. } | Self::Closed { .. } => None,
        }
    }

    /// The last step, once nothing that the task used is left without an ending.
    #[must_use]
    pub const fn closed(self, at: Timestamp) -> Option<Self> {
        match self {
            Self::Closing { reason, .. } => Some(Self::Closed { reason, at }),
            Self::Open | Self::Closed { .. } => None,
        }
    }

    /// The reason of the end, if it has begun.
    #[must_use]
    pub const fn reason(&self) -> Option<EndReason> {
        match self {
            Self::Open => None,
            Self::Closing { reason, .. } | Self::Closed { reason, .. } => Some(*reason),
        }
    }
}

/// What the tokens of a task are bound to, from its opening to its end.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldBy {
    /// One key, by its thumbprint (RFC 7638): `jkt`.
    Key(String),
    /// A certificate: of an agent any of its own, as they live shorter than tasks; of a client of a person the one by which its refresh
    /// token was issued.
    Certificate,
}

/// With what whoever opened a task had proved itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProvedBy {
    /// A registered key, by its thumbprint (RFC 7638).
    Key(String),
    /// Something else: what another issuer signed, a process, a person's leave.
    Other,
}

/// What a task is. What changes (state, calls used) is kept beside it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The agent that does it.
    pub agent: AgentName,
    /// The agent's SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// The running copy that opened it.
    pub instance: InstanceId,
    /// The person who answers for the agent.
    pub owner: PersonName,
    /// The person on whose behalf it is done (RFC 8693 `sub`).
    pub subject: PersonName,
    /// What it is for, in words, as the agent gave it.
    pub purpose: String,
    /// The model that the agent says it runs. Claimed, never trusted.
    pub model_claimed: Option<String>,
    /// The model that an issuer whom we trust says it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_attested: Option<String>,
    /// The component of the agent that does it, if it proved that it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentName>,
    /// It is done by a bundle of components that nobody told apart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undivided: bool,
    /// The tasks that it is a part of, nearest first: whose agent gave it on to the next. Empty without delegation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<Hop>,
    /// What its tokens are bound to, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<HeldBy>,
    /// With what its tokens' first holder proved itself. None: it was opened before that was remembered, and may be any key's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proved_by: Option<ProvedBy>,
    /// What it may do.
    pub grant: Grant,
    /// How much it may do.
    pub budget: Budget,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

impl Task {
    /// Has its time run out?
    #[must_use]
    pub fn expired(&self, now: Timestamp) -> bool {
        now >= self.expires_at
    }

    /// The task that it is a part of.
    #[must_use]
    pub fn parent(&self) -> Option<TaskId> {
        self.chain.first().map(|hop| hop.task)
    }

    /// The task that it and all that it is a part of are parts of in the end: itself, if it is a part of none.
    #[must_use]
    pub fn whole(&self) -> TaskId {
        self.chain.last().map_or(self.id, |hop| hop.task)
    }

    /// Who does it: the agent, or its component if it is one.
    #[must_use]
    pub fn workload(&self) -> SpiffeId {
        self.component.as_ref().map_or_else(|| self.spiffe_id.clone(), |component| self.spiffe_id.of_component(component))
    }

    /// Who does it: agent, component if it is one, and running copy.
    #[must_use]
    pub fn actor(&self) -> SpiffeId {
        self.hop().actor()
    }

    /// The actors before, nearest first (RFC 8693 nested `act`).
    #[must_use]
    pub fn actors(&self) -> Vec<SpiffeId> {
        self.chain.iter().map(Hop::actor).collect()
    }

    /// It as a link of the chain of its children.
    #[must_use]
    pub fn hop(&self) -> Hop {
        Hop {
            task: self.id,
            agent: self.agent.clone(),
            spiffe_id: self.spiffe_id.clone(),
            component: self.component.clone(),
            instance: self.instance,
            owner: self.owner.clone(),
        }
    }

    /// The model, and whether somebody whom we trust attested it.
    #[must_use]
    pub fn model(&self) -> Option<(&str, &'static str)> {
        let attested = self.model_attested.as_deref().map(|name| (name, "attested"));
        attested.or_else(|| self.model_claimed.as_deref().map(|name| (name, "claimed")))
    }

    /// The keys on which it rests: that with which it was opened, and that to which its tokens are bound.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let opened = self.proved_by.iter().filter_map(|by| if let ProvedBy::Key(key) = by { Some(key.as_str()) } else { None });
        let held = self.held_by.iter().filter_map(|by| if let HeldBy::Key(key) = by { Some(key.as_str()) } else { None });
        opened.chain(held)
    }

    /// How long is left.
    #[must_use]
    pub fn left(&self, now: Timestamp) -> Duration {
        now.until(self.expires_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_task_only_goes_forward_and_keeps_its_first_reason(steps in proptest::collection::vec(0u8..5, 0..12)) {
            let at = Timestamp::from_millis(1);
            let mut state = TaskState::Open;
            let mut first: Option<EndReason> = None;
            for step in steps {
                let rank = |s: &TaskState| match s { TaskState::Open => 0, TaskState::Closing { .. } => 1, TaskState::Closed { .. } => 2 };
                let next = match step {
                    0 => state.closing(EndReason::Completed, at),
                    1 => state.closing(EndReason::Expired, at),
                    2 => state.closing(EndReason::Revoked, at),
                    3 => state.closing(EndReason::Parent, at),
                    _ => state.closed(at),
                };
                if let Some(next) = next {
                    prop_assert_eq!(rank(&next), rank(&state) + 1);
                    first = first.or(next.reason());
                    state = next;
                }
                prop_assert_eq!(state.reason(), first);
                prop_assert_eq!(state.is_open(), first.is_none());
            }
        }
    }
}
