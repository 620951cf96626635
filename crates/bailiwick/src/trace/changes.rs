//! What a task changed: its acting calls in order, each with what was sent and what came back, the reads around it, and the tools whose
//! definitions changed meanwhile.
//!
//! The ledger has digests only. `definition` before and after says that a tool is another one than it was. `arguments` binds what was
//! sent, `answer` what the system said then; their texts are kept apart, under salts of their own, so two digests of different calls
//! say nothing about each other. What the system held before and after is known as far as the task itself read it: the same question,
//! asked before the call and after it.

use std::collections::HashMap;

use bailiwick_core::TaskId;
use bailiwick_store::{EntryRow, Field, Search, StoreError};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::proof::Head;
use super::{number, text};
use crate::house::House;

/// Entries of one task that are looked through.
const ENTRIES_MAX: usize = 20_000;
const PAGE: usize = 1000;
/// Reads before an acting call that are looked at for one that was asked again.
const LOOK_BACK: usize = 50;
/// Changes of definitions that are looked at for each tool.
const DEFINITIONS_MAX: usize = 100;

/// What a task changed.
#[derive(Debug, Serialize, ToSchema)]
pub struct Changes {
    /// The task.
    #[schema(value_type = String)]
    pub task: TaskId,
    /// Its acting calls, in order.
    pub changes: Vec<Change>,
    /// Tools that it used and that were defined anew while it ran.
    pub definitions: Vec<Redefined>,
    /// Calls that only read.
    pub reads: u64,
    /// The task has more entries than were looked through.
    pub more: bool,
    /// Entries that are not what was recorded. Nothing of what they say is to be believed.
    pub broken: Vec<u64>,
    /// The signed head under which all of it is proved.
    pub ledger: Head,
}

/// An acting call.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Change {
    /// Its intent in the ledger.
    pub entry: u64,
    /// When it was permitted.
    pub at: String,
    /// The call.
    pub call: String,
    /// The agent.
    pub agent: String,
    /// The tool.
    pub tool: String,
    /// Its effect.
    pub effect: String,
    /// Where it went.
    pub target: String,
    /// The tool's pinned definition.
    pub definition: String,
    /// Digest of the arguments that were sent.
    pub arguments: String,
    /// Their length in bytes.
    pub arguments_bytes: u64,
    /// What permit and approval are bound to.
    pub digest: String,
    /// Who approved it.
    pub approved_by: Vec<String>,
    /// What became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Answered>,
    /// What the task last read there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Read>,
    /// The same question, asked again after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Read>,
}

/// What became of a call.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Answered {
    /// Its outcome in the ledger.
    pub entry: u64,
    /// `done`, `failed`, `unknown` or `not_sent`.
    pub result: String,
    /// Digest of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Its length in bytes.
    pub answer_bytes: u64,
}

/// A call that read.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Read {
    /// Its intent in the ledger.
    pub entry: u64,
    /// The call, under which its texts are kept.
    pub call: String,
    /// The tool.
    pub tool: String,
    /// Digest of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// A tool that was defined anew.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Redefined {
    /// Where it stands in the ledger.
    pub entry: u64,
    /// When.
    pub at: String,
    /// The tool.
    pub tool: String,
    /// The definition's digest before.
    pub before: String,
    /// And after.
    pub after: String,
    /// Where the tool stood then: `classified`, `review` or `quarantined`.
    pub status: String,
}

/// One call of the task, as it is put together.
struct Call {
    change: Change,
    target: String,
    question: String,
}

/// What the task changed. `None` if it has no entries.
///
/// # Errors
/// The store's.
pub async fn of(house: &House, task: TaskId) -> Result<Option<Changes>, StoreError> {
    let (rows, more) = entries(house, task).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let (first, last) = (rows.first().map_or(0, |r| r.index), rows.last().map_or(0, |r| r.index));
    let mut calls = put_together(&rows);
    let reads = calls.iter().filter(|c| c.change.effect == "read").count() as u64;
    set_around(&mut calls);
    let mut tools: Vec<String> = calls.iter().map(|c| c.change.tool.clone()).collect();
    tools.sort_unstable();
    tools.dedup();
    let mut rows: Vec<EntryRow> = rows.into_iter().filter(|r| matches!(r.kind.as_str(), "intent" | "outcome")).collect();
    let mut definitions = Vec::new();
    for tool in tools {
        for row in redefined(house, &tool, first..last.saturating_add(1)).await? {
            definitions.extend(redefinition(&row));
            rows.push(row);
        }
    }
    definitions.sort_by_key(|d| d.entry);
    let head = house.store.head();
    let proved = house.nodes.prove(&house.store, &head, rows).await?;
    let broken = proved.iter().filter(|e| !e.intact).map(|e| e.index).collect();
    let changes = calls.into_iter().map(|c| c.change).filter(|c| c.effect != "read").collect();
    Ok(Some(Changes { task, changes, definitions, reads, more, broken, ledger: Head::of(&head) }))
}

async fn entries(house: &House, task: TaskId) -> Result<(Vec<EntryRow>, bool), StoreError> {
    let mut rows: Vec<EntryRow> = Vec::new();
    loop {
        let from = rows.last().map_or(0, |row| row.index.saturating_add(1));
        let page = house.store.entries_of_task(task, from, PAGE).await?;
        let whole = page.len() == PAGE;
        rows.extend(page);
        if !whole || rows.len() >= ENTRIES_MAX {
            // An outcome names its call and not its task; the call of another task does not get in with it.
            rows.retain(|row| row.kind == "outcome" || super::member(row, "task") == Some(task));
            return Ok((rows, whole));
        }
    }
}

/// Calls with their outcomes, in order.
fn put_together(rows: &[EntryRow]) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut places: HashMap<u64, usize> = HashMap::new();
    for row in rows {
        let Ok(body) = serde_json::from_slice::<Value>(&row.body) else { continue };
        match body.get("kind").and_then(Value::as_str) {
            Some("intent") => {
                places.insert(row.index, calls.len());
                calls.push(intent(row.index, &body));
            }
            Some("outcome") => {
                let intent = body.get("intent").and_then(Value::as_u64).and_then(|i| places.get(&i));
                let call = intent.and_then(|at| calls.get_mut(*at)).filter(|c| text(&body, "call").as_ref() == Some(&c.change.call));
                if let Some(call) = call {
                    call.change.outcome = Some(answered(row.index, &body));
                }
            }
            _ => {}
        }
    }
    calls
}

fn intent(entry: u64, body: &Value) -> Call {
    let of = |name: &str| text(body, name).unwrap_or_default();
    let approved = body.get("approvals").and_then(Value::as_array).into_iter().flatten();
    let change = Change {
        entry,
        at: of("at"),
        call: of("call"),
        agent: of("agent"),
        tool: of("tool"),
        effect: of("effect"),
        target: of("target"),
        definition: of("definition"),
        arguments: of("arguments"),
        arguments_bytes: number(body, "arguments_bytes"),
        digest: of("digest"),
        approved_by: approved.filter_map(|a| text(a, "person")).collect(),
        outcome: None,
        before: None,
        after: None,
    };
    Call { target: change.target.clone(), question: change.digest.clone(), change }
}

pub(super) fn answered(entry: u64, body: &Value) -> Answered {
    Answered { entry, result: text(body, "result").unwrap_or_default(), answer: text(body, "answer"), answer_bytes: number(body, "answer_bytes") }
}

/// For each acting call the last question that was asked there before and again after it; if none was asked again, the last one before.
fn set_around(calls: &mut [Call]) {
    let (mut there, mut alike) = (HashMap::<&str, Vec<usize>>::new(), HashMap::<&str, Vec<usize>>::new());
    let reads = calls.iter().enumerate().filter(|(_, c)| c.change.effect == "read");
    for (at, call) in reads.filter(|(_, c)| c.change.outcome.as_ref().is_some_and(|o| o.result == "done")) {
        there.entry(&call.target).or_default().push(at);
        alike.entry(&call.question).or_default().push(at);
    }
    let mut around = Vec::new();
    for (at, call) in calls.iter().enumerate().filter(|(_, c)| c.change.effect != "read") {
        let asked = there.get(call.target.as_str()).map(Vec::as_slice).unwrap_or_default();
        let before = asked.get(..asked.partition_point(|read| *read < at)).unwrap_or_default();
        let again = |read: usize| {
            let same = alike.get(calls.get(read)?.question.as_str())?;
            same.get(same.partition_point(|other| *other < at)).copied()
        };
        let both = before.iter().rev().take(LOOK_BACK).find_map(|read| Some((*read, Some(again(*read)?))));
        around.extend(both.or_else(|| Some((*before.last()?, None))).map(|(before, after)| (at, before, after)));
    }
    for (at, before, after) in around {
        let (before, after) = (calls.get(before).map(read), after.and_then(|after| calls.get(after)).map(read));
        if let Some(call) = calls.get_mut(at) {
            (call.change.before, call.change.after) = (before, after);
        }
    }
}

fn read(call: &Call) -> Read {
    let change = &call.change;
    Read { entry: change.entry, call: change.call.clone(), tool: change.tool.clone(), answer: change.outcome.as_ref().and_then(|o| o.answer.clone()) }
}

async fn redefined(house: &House, tool: &str, range: std::ops::Range<u64>) -> Result<Vec<EntryRow>, StoreError> {
    let facts = vec![(Field::Kind, "tool".to_owned()), (Field::Tool, tool.to_owned())];
    let found = house.store.search(Search { facts, below: Some(range.end), limit: DEFINITIONS_MAX, ..Search::default() }).await?;
    Ok(found.rows.into_iter().filter(|row| row.index >= range.start).collect())
}

fn redefinition(row: &EntryRow) -> Option<Redefined> {
    let body: Value = serde_json::from_slice(&row.body).ok()?;
    let (before, after) = (text(&body, "before")?, text(&body, "definition")?);
    let of = |name: &str| text(&body, name).unwrap_or_default();
    (before != after).then(|| Redefined { entry: row.index, at: of("at"), tool: of("tool"), status: of("status"), before, after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(index: u64, body: &Value) -> EntryRow {
        let kind = body["kind"].as_str().unwrap().to_owned();
        EntryRow { index, kind, task: None, call: None, closes: None, leaf: [0; 32], body: body.to_string().into_bytes() }
    }

    /// (effect, question) for each call, in order; each is answered.
    fn calls(asked: &[(&str, &str)]) -> Vec<Call> {
        let mut rows = Vec::new();
        for (n, (effect, question)) in asked.iter().enumerate() {
            let (n, call) = (n as u64, format!("call_{n}"));
            rows.push(row(
                2 * n,
                &json!({"kind": "intent", "call": call, "tool": "s.t", "effect": effect, "target": "s", "digest": question, "approvals": [{"person": "ben"}]}),
            ));
            rows.push(row(2 * n + 1, &json!({"kind": "outcome", "call": call, "intent": 2 * n, "result": "done", "answer": format!("a{n}")})));
        }
        let mut calls = put_together(&rows);
        set_around(&mut calls);
        calls
    }

    #[test]
    fn a_write_stands_between_the_same_question_asked_before_and_after_it() {
        let calls = calls(&[("read", "q1"), ("read", "q2"), ("write", "w"), ("read", "q1"), ("read", "q3")]);
        let change = &calls[2].change;
        assert_eq!((change.before.as_ref().unwrap().entry, change.after.as_ref().unwrap().entry), (0, 6));
        assert_eq!(change.outcome.as_ref().unwrap().answer.as_deref(), Some("a2"));
        assert_eq!(change.approved_by, ["ben"]);
    }

    #[test]
    fn without_the_same_question_there_is_only_what_was_read_last() {
        let calls = calls(&[("read", "q1"), ("read", "q2"), ("delete", "w"), ("read", "q3")]);
        assert_eq!(calls[2].change.before.as_ref().unwrap().entry, 2);
        assert!(calls[2].change.after.is_none());
    }

    #[test]
    fn an_outcome_that_names_another_call_is_not_taken_for_this_one() {
        let rows = [
            row(0, &json!({"kind": "intent", "call": "call_1", "effect": "write"})),
            row(1, &json!({"kind": "outcome", "call": "call_2", "intent": 0, "result": "done"})),
        ];
        assert!(put_together(&rows)[0].change.outcome.is_none());
    }
}
