//! `bailiwick ledger erase`: an operator has kept texts of calls erased; the ledger still verifies, and says who did it and why.

use clap::Args;
use serde_json::{Map, Value, json};

use super::client::{ApiClient, items};
use super::screen::{field, line};
use super::{Failure, Place, say};

/// `bailiwick ledger erase`
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Erase {
    #[command(flatten)]
    what: What,
    /// Why. It stays on record: name a request, not a person's data.
    #[arg(long)]
    reason: String,
    /// Only say what would be erased.
    #[arg(long)]
    dry_run: bool,
}

/// Exactly one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// All calls of a task.
    #[arg(long)]
    task: Option<String>,
    /// One call, and the held call that it came of.
    #[arg(long)]
    call: Option<String>,
    /// All calls of all tasks that were done on behalf of this person.
    #[arg(long, value_name = "PERSON")]
    subject: Option<String>,
    /// Every call in one of whose kept texts this stands, such as the number of a customer. It is looked for, and recorded nowhere.
    #[arg(long, value_name = "TEXT")]
    containing: Option<String>,
}

impl Erase {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        let mut asked = Map::new();
        let what = self.what;
        for (name, value) in [("task", what.task), ("call", what.call), ("subject", what.subject), ("containing", what.containing)] {
            asked.extend(value.map(|value| (name.to_owned(), json!(value))));
        }
        asked.insert("reason".to_owned(), json!(self.reason));
        asked.insert("dry_run".to_owned(), json!(self.dry_run));
        let report = ApiClient::of(place)?.post(&place.person()?, "/v1/erasures", &Value::Object(asked)).await?;
        say(if place.json { report.to_string() } else { told(&report) });
        Ok(())
    }
}

fn told(report: &Value) -> String {
    let number = |name: &str| report.get(name).and_then(Value::as_u64).unwrap_or_default();
    let ids = |name: &str| items(report, name).iter().filter_map(Value::as_str).map(line).collect::<Vec<_>>();
    let dry = report.get("dry_run").and_then(Value::as_bool).unwrap_or_default();
    let mut lines =
        vec![if dry { "would be erased".to_owned() } else { format!("erased: {} kept texts, and the salts of their digests", number("texts")) }];
    lines.push(field("tasks", &number("tasks_total").to_string()));
    lines.push(field("calls", &number("calls_total").to_string()));
    if dry {
        lines.extend(ids("tasks").iter().chain(&ids("calls")).map(|id| field("", id)));
    }
    for task in ids("open") {
        lines.push(field("still open", &format!("{task}: nothing of it is erased before it has ended")));
    }
    let entries: Vec<String> = items(report, "entries").iter().filter_map(Value::as_u64).map(|n| n.to_string()).collect();
    if !entries.is_empty() {
        lines.push(field("on record", &format!("entry {}", entries.join(", "))));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_erased_is_told_with_what_was_not() {
        let report = json!({"dry_run": false, "tasks": ["task_1"], "calls": [], "tasks_total": 1, "calls_total": 0, "open": ["task_2"], "texts": 3, "entries": [17]});
        insta::assert_snapshot!(told(&report), @r"
        erased: 3 kept texts, and the salts of their digests
          tasks          1
          calls          0
          still open     task_2: nothing of it is erased before it has ended
          on record      entry 17
        ");
    }
}
