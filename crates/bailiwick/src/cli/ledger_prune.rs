//! `bailiwick ledger prune`: what old entries said goes, by the policy of the configuration; the rest still verifies, and says so.

use bailiwick_core::{Clock as _, Timestamp};
use clap::Args;
use serde_json::{Value, json};

use super::client::ApiClient;
use super::screen::{field, text};
use super::{Failure, Place, say};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// `bailiwick ledger prune`
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Keep entries from this date or time on: `2026-01-31`, or `2026-01-31T08:00:00Z`. Default: what the policy keeps.
    #[arg(long, value_name = "DATE", value_parser = time, conflicts_with = "keep")]
    before: Option<Timestamp>,
    /// Keep the entries of so many days.
    #[arg(long, value_name = "DAYS")]
    keep: Option<u32>,
    /// Only say what would be pruned.
    #[arg(long)]
    dry_run: bool,
}

impl Prune {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        let now = crate::clock::SystemClock::start().now();
        let kept = self.keep.map(|days| Timestamp::from_millis(now.as_millis().saturating_sub(i64::from(days).saturating_mul(DAY_MS))));
        let asked = json!({ "before": self.before.or(kept), "dry_run": self.dry_run });
        let report = ApiClient::of(place)?.post(&place.person()?, "/v1/ledger/prune", &asked).await?;
        say(if place.json { report.to_string() } else { told(&report) });
        Ok(())
    }
}

/// A date, or a time, in UTC.
fn time(text: &str) -> Result<Timestamp, String> {
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    Timestamp::parse(&whole).map_err(|_| "expected a date such as 2026-01-31, or a time such as 2026-01-31T08:00:00Z".to_owned())
}

fn told(report: &Value) -> String {
    let number = |name: &str| report.get(name).and_then(Value::as_u64).unwrap_or_default();
    let dry = report.get("dry_run").and_then(Value::as_bool).unwrap_or_default();
    let gone = number("minimum").saturating_sub(number("from"));
    let mut lines = vec![match (gone, dry) {
        (0, _) => "there is nothing to prune".to_owned(),
        (_, true) => format!("{gone} entries would be pruned to their hashes"),
        (_, false) => format!("{gone} entries are pruned to their hashes"),
    }];
    lines.push(field("first kept", &format!("entry {}", number("minimum"))));
    lines.push(field("kept from", &text(report, "kept_from")));
    if report.get("held_by").is_some() {
        lines.push(field("no more", &format!("because of {}", text(report, "held_by"))));
    }
    if report.get("entry").is_some() {
        lines.push(field("on record", &format!("entry {}", number("entry"))));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_the_beginning_of_its_day_and_what_is_neither_date_nor_time_is_refused() {
        assert_eq!(time("2026-01-31").unwrap(), time("2026-01-31T00:00:00Z").unwrap());
        for bad in ["", "yesterday", "2026-13-01", "2026-1-1", "31.01.2026"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_was_pruned_is_told_with_what_holds_the_rest() {
        let report = json!({"dry_run": false, "from": 256, "minimum": 1024, "kept_from": "2026-01-31T00:00:00.000Z", "held_by": "a task that is still open", "entry": 4711});
        insta::assert_snapshot!(told(&report), @r"
        768 entries are pruned to their hashes
          first kept     entry 1024
          kept from      2026-01-31T00:00:00.000Z
          no more        because of a task that is still open
          on record      entry 4711
        ");
        let nothing = json!({"dry_run": true, "from": 0, "minimum": 0, "kept_from": "2026-01-31T00:00:00.000Z"});
        assert!(told(&nothing).starts_with("there is nothing to prune"));
    }
}
