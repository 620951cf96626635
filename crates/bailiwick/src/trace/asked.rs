//! Asking by what entries say: the conditions of the API and the command line, as a question to the store.

use bailiwick_core::{AgentName, PersonName, SpiffeId, Timestamp, TrustDomain};
use bailiwick_store::{Fact, Field, SEARCH_LIMIT_MAX, Search, StoreError};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::proof::{Entry, Head};
use crate::house::House;

/// Entries that are given if nobody says how many.
const LIMIT: usize = 100;

/// Which entries. All conditions hold together. What becomes of a call says what the call said, and the end of a task what its opening
/// said.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Conditions {
    /// An agent by name or SPIFFE ID: acting, or in the chain.
    pub agent: Option<String>,
    /// The running copy.
    pub instance: Option<String>,
    /// A person in any part: owner, subject, approver, or who refused, ended or changed something.
    pub person: Option<String>,
    /// Who answers.
    pub owner: Option<String>,
    /// On whose behalf.
    pub subject: Option<String>,
    /// Who gave an approval.
    pub approver: Option<String>,
    /// The system.
    pub system: Option<String>,
    /// The tool.
    pub tool: Option<String>,
    /// `read`, `influence`, `write`, `delete`, `transfer`, `approve`; `act` is every effect but `read`.
    pub effect: Option<String>,
    /// Where a call went.
    pub resource: Option<String>,
    /// The task.
    pub task: Option<String>,
    /// The call.
    pub call: Option<String>,
    /// The kind of entry, such as `intent`, `outcome`, `denial`, `hold`, `hold_step`, `task_opened`, `task_ended`, `tool`, `incident`.
    pub kind: Option<String>,
    /// `done`, `failed`, `unknown`, `not_sent`, `denied`, `held`, `approved`, `refused`, `expired`, ...
    pub outcome: Option<String>,
    /// The code of a denial or a failure.
    pub code: Option<String>,
    /// The policy revision in force.
    pub revision: Option<String>,
    /// A determining policy.
    pub policy: Option<String>,
    /// The name of a secret, the id of a lease, or the `jti` of a token.
    pub credential: Option<String>,
    /// A label.
    pub label: Option<String>,
    /// From this time on (RFC 3339).
    pub since: Option<String>,
    /// Before this time (RFC 3339).
    pub until: Option<String>,
    /// Where to go on: the `next` of the page before.
    pub below: Option<u64>,
    /// At most so many, up to 1000. Default 100.
    pub limit: Option<usize>,
}

/// A condition that cannot be understood.
#[derive(Clone, Debug, thiserror::Error)]
#[error("`{0}` {1}")]
pub struct Unclear(&'static str, String);

/// A page of entries, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EntryPage)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// There may be more below this index; absent if that was all. A page may be empty and still say where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// The signed head under which they are proved.
    pub ledger: Head,
}

/// A time of a question.
///
/// # Errors
/// If it is no RFC 3339 timestamp.
pub fn time(name: &'static str, text: Option<&str>) -> Result<Option<Timestamp>, Unclear> {
    text.map(|text| Timestamp::parse(text).map_err(|_| Unclear(name, "is no time such as 2026-01-31T12:00:00Z".to_owned()))).transpose()
}

/// An agent's SPIFFE ID, from itself or from the agent's name.
///
/// # Errors
/// If it is neither.
pub fn agent(text: &str, domain: &TrustDomain) -> Result<String, Unclear> {
    if text.starts_with("spiffe://") {
        return Ok(text.to_owned());
    }
    let name: AgentName = text.parse().map_err(|e| Unclear("agent", format!("is neither a name nor a SPIFFE ID: {e}")))?;
    Ok(SpiffeId::agent(domain, &name).to_string())
}

impl Conditions {
    /// As a question to the store. For `only`, entries in which that person has no part do not exist.
    ///
    /// # Errors
    /// The first condition that cannot be understood.
    pub fn search(&self, domain: &TrustDomain, only: Option<&PersonName>) -> Result<Search, Unclear> {
        let mut facts: Vec<Fact> = [
            (Field::Instance, &self.instance),
            (Field::Person, &self.person),
            (Field::Owner, &self.owner),
            (Field::Subject, &self.subject),
            (Field::Approver, &self.approver),
            (Field::System, &self.system),
            (Field::Tool, &self.tool),
            (Field::Effect, &self.effect),
            (Field::Target, &self.resource),
            (Field::Kind, &self.kind),
            (Field::Outcome, &self.outcome),
            (Field::Code, &self.code),
            (Field::Revision, &self.revision),
            (Field::Policy, &self.policy),
            (Field::Credential, &self.credential),
            (Field::Label, &self.label),
        ]
        .into_iter()
        .filter_map(|(field, value)| Some((field, value.clone()?)))
        .collect();
        if let Some(text) = &self.agent {
            facts.push((Field::Agent, agent(text, domain)?));
        }
        facts.extend(only.map(|person| (Field::Person, person.to_string())));
        let id = |name: &'static str, _: &str| Unclear(name, "is no id".to_owned());
        Ok(Search {
            facts,
            task: self.task.as_deref().map(|t| t.parse().map_err(|_| id("task", t))).transpose()?,
            call: self.call.as_deref().map(|c| c.parse().map_err(|_| id("call", c))).transpose()?,
            since: time("since", self.since.as_deref())?,
            until: time("until", self.until.as_deref())?,
            below: self.below,
            limit: self.limit.unwrap_or(LIMIT).clamp(1, SEARCH_LIMIT_MAX),
        })
    }
}

/// The entries that are asked for, each with its proof.
///
/// # Errors
/// The store's.
pub async fn page(house: &House, search: Search) -> Result<Page, StoreError> {
    let found = house.store.search(search).await?;
    let head = house.store.head();
    let entries = house.nodes.prove(&house.store, &head, found.rows).await?;
    Ok(Page { entries, next: found.next, ledger: Head::of(&head) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> TrustDomain {
        "td".parse().unwrap()
    }

    #[test]
    fn an_agent_is_asked_for_by_its_name_or_its_spiffe_id() {
        for text in ["scout", "spiffe://td/agent/scout"] {
            assert_eq!(agent(text, &domain()).unwrap(), "spiffe://td/agent/scout");
        }
        assert!(agent("no name", &domain()).is_err());
    }

    #[test]
    fn whoever_may_see_only_his_own_asks_for_that_beside_everything_else() {
        let ana: PersonName = "ana".parse().unwrap();
        let asked = Conditions { person: Some("ben".to_owned()), limit: Some(9999), ..Conditions::default() };
        let search = asked.search(&domain(), Some(&ana)).unwrap();
        let people: Vec<&str> = search.facts.iter().filter(|(f, _)| *f == Field::Person).map(|(_, v)| v.as_str()).collect();
        assert_eq!((people, search.limit), (vec!["ben", "ana"], SEARCH_LIMIT_MAX));
    }

    #[test]
    fn a_condition_that_cannot_be_understood_is_named() {
        for (asked, named) in [
            (Conditions { since: Some("yesterday".to_owned()), ..Conditions::default() }, "since"),
            (Conditions { task: Some("call_1".to_owned()), ..Conditions::default() }, "task"),
            (Conditions { agent: Some(String::new()), ..Conditions::default() }, "agent"),
        ] {
            let why = asked.search(&domain(), None).unwrap_err().to_string();
            assert!(why.starts_with(&format!("`{named}`")), "{why}");
        }
    }
}
