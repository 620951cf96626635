//! All that a person answers for: agents, tasks, acting calls, approvals and refusals, and what the person ended or changed.

use std::collections::BTreeSet;

use bailiwick_core::{PersonName, Timestamp};
use bailiwick_store::{ACT, EntryRow, Field, Group, Search, StoreError, Tally};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::changes::{Answered, answered};
use super::proof::Head;
use super::text;
use crate::house::House;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who.
    pub person: PersonName,
    /// From this time on.
    pub since: Timestamp,
    /// Before this time.
    pub until: Timestamp,
    /// So many of each kind.
    pub limit: usize,
}

/// All that a person answers for, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Answerable {
    /// Who.
    #[schema(value_type = String)]
    pub person: PersonName,
    /// From this time on.
    #[schema(value_type = String)]
    pub since: Timestamp,
    /// Before this time.
    #[schema(value_type = String)]
    pub until: Timestamp,
    /// Agents that the person owns, or owned then.
    pub agents: Vec<OwnedAgent>,
    /// Tasks of those agents.
    pub tasks: Vec<TaskLine>,
    /// What they did, other than reading.
    pub calls: Vec<CallLine>,
    /// What the person approved.
    pub approvals: Vec<ApprovalLine>,
    /// What the person refused, ended, classified or changed.
    pub deeds: Vec<DeedLine>,
    /// The lists of which there are more, by name. Ask with a shorter time or a higher limit.
    #[schema(value_type = Vec<String>)]
    pub more: BTreeSet<&'static str>,
    /// Entries that are not what was recorded. Nothing of what they say is to be believed.
    pub broken: Vec<u64>,
    /// The signed head under which all of it is proved.
    pub ledger: Head,
}

/// An agent and its owner.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OwnedAgent {
    /// Its SPIFFE ID.
    pub agent: String,
    /// Is the person its owner by the configuration in force?
    pub owned_now: bool,
    /// Calls that were permitted to it in the person's name.
    pub calls: u64,
}

/// A task that was opened.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TaskLine {
    /// Its opening in the ledger.
    pub entry: u64,
    /// When.
    pub at: String,
    /// The task.
    pub task: String,
    /// The agent.
    pub agent: String,
    /// On whose behalf.
    pub subject: String,
    /// What it was for, in the agent's words.
    pub purpose: String,
}

/// An acting call.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CallLine {
    /// Its intent in the ledger.
    pub entry: u64,
    /// When it was permitted.
    pub at: String,
    /// The call.
    pub call: String,
    /// Its task.
    pub task: String,
    /// The agent.
    pub agent: String,
    /// The tool.
    pub tool: String,
    /// Its effect.
    pub effect: String,
    /// Where it went.
    pub target: String,
    /// The policy revision in force.
    pub revision: String,
    /// Who approved it.
    pub approved_by: Vec<String>,
    /// What became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Answered>,
}

/// An approval.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ApprovalLine {
    /// Where it stands in the ledger.
    pub entry: u64,
    /// When.
    pub at: String,
    /// The hold.
    pub hold: String,
    /// The call that was held.
    pub call: String,
    /// The task.
    pub task: String,
    /// `second_person` or `own_request`.
    pub footing: String,
    /// How the person proved who he or she is.
    pub proof: String,
    /// What was approved: the digest of the call.
    pub digest: String,
}

/// Something that a person did to the house itself.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeedLine {
    /// Where it stands in the ledger.
    pub entry: u64,
    /// When.
    pub at: String,
    /// The kind of entry.
    pub kind: String,
    /// In one word: `refused`, `closing`, `classified`, ...
    pub what: String,
    /// To what: a hold, a task, a tool.
    pub about: String,
    /// Why, in the person's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

struct Gathering<'a> {
    house: &'a House,
    question: &'a Question,
    rows: Vec<EntryRow>,
    more: BTreeSet<&'static str>,
}

impl Gathering<'_> {
    async fn list(&mut self, name: &'static str, facts: &[(Field, &str)]) -> Result<Vec<(u64, Value)>, StoreError> {
        let facts = facts.iter().map(|(field, value)| (*field, (*value).to_owned())).collect();
        let (since, until) = (Some(self.question.since), Some(self.question.until));
        let found = self.house.store.search(Search { facts, since, until, limit: self.question.limit, ..Search::default() }).await?;
        if found.next.is_some() {
            self.more.insert(name);
        }
        let read = |row: &EntryRow| Some((row.index, serde_json::from_slice(&row.body).ok()?));
        let list = found.rows.iter().filter_map(read).collect();
        self.rows.extend(found.rows);
        Ok(list)
    }

    async fn calls(&mut self) -> Result<Vec<CallLine>, StoreError> {
        let person = self.question.person.to_string();
        let intents = self.list("calls", &[(Field::Kind, "intent"), (Field::Effect, ACT), (Field::Owner, &person)]).await?;
        let mut lines = Vec::with_capacity(intents.len());
        for (entry, body) in intents {
            let mut line = call_line(entry, &body);
            if let Ok(call) = line.call.parse() {
                let rows = self.house.store.entries_of_call(call).await?;
                let outcome = rows.into_iter().filter(|row| row.kind == "outcome").find_map(|row| {
                    let body: Value = serde_json::from_slice(&row.body).ok()?;
                    let own = body.get("intent").and_then(Value::as_u64) == Some(entry) && text(&body, "call").as_ref() == Some(&line.call);
                    own.then(|| (answered(row.index, &body), row))
                });
                if let Some((outcome, row)) = outcome {
                    line.outcome = Some(outcome);
                    self.rows.push(row);
                }
            }
            lines.push(line);
        }
        Ok(lines)
    }

    async fn agents(&self) -> Result<Vec<OwnedAgent>, StoreError> {
        let question = self.question;
        let group = Group { field: Field::Agent, within: vec![(Field::Kind, "intent".to_owned())], repeats: false };
        let scope = vec![(Field::Owner, question.person.to_string())];
        let tally = Tally { groups: vec![group], scope, last: question.since..question.since, this: question.since..question.until };
        let (_, groups) = self.house.store.tally(tally).await?;
        let mut agents: Vec<OwnedAgent> =
            groups.into_iter().flatten().map(|c| OwnedAgent { owned_now: false, agent: c.value, calls: c.this }).collect();
        for entry in self.house.config.agents.values().filter(|e| e.agent.owner == question.person) {
            let id = entry.agent.spiffe_id.to_string();
            match agents.iter_mut().find(|a| a.agent == id) {
                Some(known) => known.owned_now = true,
                None => agents.push(OwnedAgent { agent: id, owned_now: true, calls: 0 }),
            }
        }
        Ok(agents)
    }
}

/// All that a person answers for.
///
/// # Errors
/// The store's.
pub async fn of(house: &House, question: &Question) -> Result<Answerable, StoreError> {
    let person = question.person.to_string();
    let mut gathering = Gathering { house, question, rows: Vec::new(), more: BTreeSet::new() };
    let agents = gathering.agents().await?;
    let tasks = gathering.list("tasks", &[(Field::Kind, "task_opened"), (Field::Owner, &person)]).await?;
    let calls = gathering.calls().await?;
    let approvals = gathering.list("approvals", &[(Field::Kind, "hold_step"), (Field::Approver, &person)]).await?;
    let deeds = gathering.list("deeds", &[(Field::By, &person)]).await?;
    let Gathering { rows, more, .. } = gathering;
    let head = house.store.head();
    let proved = house.nodes.prove(&house.store, &head, rows).await?;
    Ok(Answerable {
        person: question.person.clone(),
        since: question.since,
        until: question.until,
        agents,
        tasks: tasks.iter().map(|(entry, body)| task_line(*entry, body)).collect(),
        calls,
        approvals: approvals.iter().map(|(entry, body)| approval_line(*entry, body)).collect(),
        deeds: deeds.iter().map(|(entry, body)| deed_line(*entry, body)).collect(),
        more,
        broken: proved.iter().filter(|e| !e.intact).map(|e| e.index).collect(),
        ledger: Head::of(&head),
    })
}

fn task_line(entry: u64, body: &Value) -> TaskLine {
    let opened = body.get("opened").unwrap_or(&Value::Null);
    let of = |name: &str| text(opened, name).unwrap_or_default();
    TaskLine {
        entry,
        at: text(body, "at").unwrap_or_default(),
        task: text(body, "task").unwrap_or_default(),
        agent: of("spiffe_id"),
        subject: of("subject"),
        purpose: of("purpose"),
    }
}

fn call_line(entry: u64, body: &Value) -> CallLine {
    let of = |name: &str| text(body, name).unwrap_or_default();
    let approvals = body.get("approvals").and_then(Value::as_array).into_iter().flatten();
    CallLine {
        entry,
        at: of("at"),
        call: of("call"),
        task: of("task"),
        agent: of("agent"),
        tool: of("tool"),
        effect: of("effect"),
        target: of("target"),
        revision: of("revision"),
        approved_by: approvals.filter_map(|a| text(a, "person")).collect(),
        outcome: None,
    }
}

fn approval_line(entry: u64, body: &Value) -> ApprovalLine {
    let of = |name: &str| text(body, name).unwrap_or_default();
    let approval = body.get("approval").unwrap_or(&Value::Null);
    let given = |name: &str| text(approval, name).unwrap_or_default();
    ApprovalLine {
        entry,
        at: of("at"),
        hold: of("hold"),
        call: of("call"),
        task: of("task"),
        footing: given("kind"),
        proof: given("proof"),
        digest: given("digest"),
    }
}

fn deed_line(entry: u64, body: &Value) -> DeedLine {
    let first = |names: &[&str]| names.iter().find_map(|name| text(body, name)).unwrap_or_default();
    DeedLine {
        entry,
        at: first(&["at"]),
        kind: first(&["kind"]),
        what: first(&["step", "state", "status", "what", "kind"]),
        about: first(&["hold", "tool", "task", "name", "agent", "system"]),
        reason: text(body, "reason"),
    }
}
