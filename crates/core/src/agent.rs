//! Agents (registered workloads) and the people who answer for them.

use std::collections::BTreeSet;

use crate::name::{AgentName, PersonName, SpiffeId};
use crate::time::Timestamp;

/// How much harm an agent could do, as its owner assessed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RiskTier {
    /// Little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
}

impl RiskTier {
    /// 1, 2 or 3, for comparison in policy.
    #[must_use]
    pub const fn level(self) -> i64 {
        match self {
            Self::Low => 1,
            Self::Medium => 2,
            Self::High => 3,
        }
    }

    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// A registered workload. An agent always has an owner, and a date by which its reach is reviewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its name.
    pub name: AgentName,
    /// Its SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// The person who answers for it.
    pub owner: PersonName,
    /// What it is for, in words.
    pub purpose: String,
    /// How much harm it could do.
    pub risk: RiskTier,
    /// The models that it may run. Recorded as claimed; never raises what is allowed.
    pub models: Vec<String>,
    /// After this it gets no more tokens until its owner reviews it.
    pub review_by: Timestamp,
    /// False if it was suspended.
    pub enabled: bool,
}

/// What a person may do here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Answers for agents; sees and revokes their tasks.
    Owner,
    /// Decides held calls.
    Approver,
    /// Decides changes of reach, quarantined tools included.
    Reviewer,
    /// Reads the record.
    Auditor,
    /// Runs the installation: sees and revokes every task.
    Operator,
}

/// A human.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The name by which configuration, policy and record know this person.
    pub name: PersonName,
    /// What this person may do.
    pub roles: BTreeSet<Role>,
}
