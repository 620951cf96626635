//! Deciding: policy is asked with the facts; "denied now, but permitted if these people approve" is a hold.

use std::sync::Arc;

use crate::call::{Bound, Call};
use crate::error::ErrorCode;
use crate::hold::{Approval, Hold};
use crate::label::Labels;
use crate::name::PersonName;
use crate::time::Timestamp;

/// A revision of the whole policy, as shown and recorded.
pub type Revision = Arc<str>;

/// A policy that determined an answer, with its reason in words.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PolicyRef {
    /// The policy's id.
    pub id: Arc<str>,
    /// Its `@reason`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
}

/// The facts that vary from one asking to the next.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Who has approved exactly this call. A fact, not a door: policy decides what it is worth.
    pub approved: &'a [PersonName],
    /// The time now.
    pub now: Timestamp,
    /// Calls of this task that were permitted before this one.
    pub calls_before: u64,
    /// The marks of what the task has seen.
    pub labels: &'a Labels,
}

/// What is true of a task at the moment of a decision, whoever approves.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The time now.
    pub now: Timestamp,
    /// Calls of the task that were permitted before this one.
    pub calls_before: u64,
    /// The marks of what the task has seen.
    pub labels: &'a Labels,
}

impl<'a> Circumstances<'a> {
    /// The facts, if these people approved.
    #[must_use]
    pub const fn approved_by(self, approved: &'a [PersonName]) -> Facts<'a> {
        Facts { approved, now: self.now, calls_before: self.calls_before, labels: self.labels }
    }
}

/// What policy says to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Some `permit` matched and no `forbid` did.
    Permit(Vec<PolicyRef>),
    /// A `forbid` matched.
    Forbid(Vec<PolicyRef>),
    /// Nothing matched. Empty means no.
    Silent,
    /// Something could not be evaluated. Law 4: errors deny. The text is for the log.
    Error(String),
}

/// What answers questions about calls.
pub trait Policy {
    /// Would this call be permitted, given these facts?
    fn ask(&self, call: &Call<Bound>, facts: Facts<'_>) -> Verdict;
    /// The revision in force.
    fn revision(&self) -> Revision;
}

/// Whose approval would release a call.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Needs {
    /// The people whose approval counts.
    pub people: Vec<PersonName>,
    /// How many of them are needed, at least, from now on.
    pub count: usize,
    /// The policies that deny it now or that would permit it then.
    pub policies: Vec<PolicyRef>,
}

/// What was decided. Made only by [`decide`].
///
/// ```compile_fail,E0063
/// fn allow(call: bailiwick_core::Call<bailiwick_core::Bound>) -> bailiwick_core::Decision {
///     bailiwick_core::Decision { }
/// }
/// ```
#[derive(Debug)]
#[must_use = "a decision that is not recorded permits nothing"]
pub struct Decision {
    pub(crate) call: Call<Bound>,
    pub(crate) revision: Revision,
    pub(crate) labels: Labels,
    pub(crate) outcome: Outcome,
}

/// The three answers.
#[derive(Debug)]
pub(crate) enum Outcome {
    Allow { policies: Vec<PolicyRef>, hold: Option<Box<Hold>> },
    Deny { code: ErrorCode, policies: Vec<PolicyRef>, detail: String },
    Hold(Needs),
}

impl Decision {
    /// The call that was decided.
    pub const fn call(&self) -> &Call<Bound> {
        &self.call
    }
    /// `allow`, `deny` or `hold`.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self.outcome {
            Outcome::Allow { .. } => "allow",
            Outcome::Deny { .. } => "deny",
            Outcome::Hold(_) => "hold",
        }
    }
    /// The revision of the policy that decided.
    #[must_use]
    pub const fn revision(&self) -> &Revision {
        &self.revision
    }
    /// The task's labels as they were when it was decided.
    #[must_use]
    pub const fn labels(&self) -> &Labels {
        &self.labels
    }
    /// The determining policies.
    #[must_use]
    pub fn policies(&self) -> &[PolicyRef] {
        match &self.outcome {
            Outcome::Allow { policies, .. } | Outcome::Deny { policies, .. } => policies,
            Outcome::Hold(needs) => &needs.policies,
        }
    }
    /// The hold whose approval is spent by this decision, if one is.
    #[must_use]
    pub fn spends(&self) -> Option<&Hold> {
        match &self.outcome {
            Outcome::Allow { hold, .. } => hold.as_deref(),
            Outcome::Deny { .. } | Outcome::Hold(_) => None,
        }
    }
    /// For a hold: whose approval would release it.
    #[must_use]
    pub const fn needs(&self) -> Option<&Needs> {
        match &self.outcome {
            Outcome::Hold(needs) => Some(needs),
            Outcome::Allow { .. } | Outcome::Deny { .. } => None,
        }
    }
    /// For a denial: the code and the words for the log and the record.
    #[must_use]
    pub fn denial(&self) -> Option<(ErrorCode, &str)> {
        match &self.outcome {
            Outcome::Deny { code, detail, .. } => Some((*code, detail)),
            Outcome::Allow { .. } | Outcome::Hold(_) => None,
        }
    }
}

/// Most people that are tried as approvers for one call.
const CANDIDATES_MAX: usize = 32;

/// Decides a call.
///
/// `hold` is the approved hold of exactly this call, if there is one; its approvals are facts. `approvers` are the people who may
/// approve a call of this task: never the one on whose behalf it is made, unless the installation says so.
pub fn decide(policy: &impl Policy, call: Call<Bound>, hold: Option<Hold>, approvers: &[PersonName], at: Circumstances<'_>) -> Decision {
    let revision = policy.revision();
    let hold = hold.filter(|h| h.key == call.hold_key() && h.releases(at.now));
    let call = match &hold {
        Some(hold) => call.adopt(hold),
        None => call,
    };
    // The bytes that were approved are the bytes that are asked about.
    let hold = hold.filter(|h| h.digest == call.digest());
    let approved: Vec<PersonName> = hold.iter().flat_map(|h| h.approvals.iter().map(|a: &Approval| a.person.clone())).collect();
    let outcome = match policy.ask(&call, at.approved_by(&approved)) {
        Verdict::Permit(policies) => Outcome::Allow { policies, hold: hold.map(Box::new) },
        Verdict::Error(detail) => Outcome::Deny { code: ErrorCode::PolicyError, policies: Vec::new(), detail },
        Verdict::Forbid(policies) => hold_or_deny(policy, &call, &approved, approvers, at, policies),
        Verdict::Silent => hold_or_deny(policy, &call, &approved, approvers, at, Vec::new()),
    };
    Decision { call, revision, labels: at.labels.clone(), outcome }
}

/// Would the policy permit the call if these people had approved it?
#[must_use]
pub fn released_by(policy: &impl Policy, call: &Call<Bound>, approved: &[PersonName], at: Circumstances<'_>) -> bool {
    matches!(policy.ask(call, at.approved_by(approved)), Verdict::Permit(_))
}

fn hold_or_deny(
    policy: &impl Policy,
    call: &Call<Bound>,
    approved: &[PersonName],
    approvers: &[PersonName],
    at: Circumstances<'_>,
    denied_by: Vec<PolicyRef>,
) -> Outcome {
    let candidates: Vec<PersonName> = approvers.iter().filter(|p| !approved.contains(p)).take(CANDIDATES_MAX).cloned().collect();
    let with = |extra: &[PersonName]| [approved, extra].concat();
    let deny = |policies: Vec<PolicyRef>| {
        let detail = if policies.is_empty() { "no policy permits it".to_owned() } else { words(&policies) };
        Outcome::Deny { code: ErrorCode::PolicyDenied, policies, detail }
    };
    let Verdict::Permit(with_all) = policy.ask(call, at.approved_by(&with(&candidates))) else { return deny(denied_by) };
    if candidates.is_empty() {
        return deny(denied_by);
    }
    if !call.exact_numbers() {
        let detail = "a number in the arguments cannot be shown exactly; send it as a string".to_owned();
        return Outcome::Deny { code: ErrorCode::ArgumentsInvalid, policies: denied_by, detail };
    }
    let mut policies = denied_by;
    policies.extend(with_all);
    let alone: Vec<PersonName> = candidates.iter().filter(|p| released_by(policy, call, &with(std::slice::from_ref(*p)), at)).cloned().collect();
    if !alone.is_empty() {
        return Outcome::Hold(Needs { people: alone, count: 1, policies });
    }
    // Nobody is enough alone: leave out whoever is not needed to find how many it takes.
    let mut needed = candidates.clone();
    for person in &candidates {
        let without: Vec<PersonName> = needed.iter().filter(|p| *p != person).cloned().collect();
        if released_by(policy, call, &with(&without), at) {
            needed = without;
        }
    }
    let count = needed.len();
    let people = candidates
        .iter()
        .filter(|p| needed.contains(p) || needed.iter().any(|n| released_by(policy, call, &with(&swap(&needed, n, p)), at)))
        .cloned()
        .collect();
    Outcome::Hold(Needs { people, count, policies })
}

fn swap(list: &[PersonName], out: &PersonName, into: &PersonName) -> Vec<PersonName> {
    list.iter().map(|p| if p == out { into.clone() } else { p.clone() }).collect()
}

/// The policies' reasons in words, for people and models.
#[must_use]
pub fn words(policies: &[PolicyRef]) -> String {
    let words: Vec<String> = policies
        .iter()
        .map(|p| match &p.reason {
            Some(reason) => format!("{reason} (policy `{}`)", p.id),
            None => format!("policy `{}`", p.id),
        })
        .collect();
    words.join("; ")
}
