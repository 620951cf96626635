//! Questions to the record from the command line: one action, entries by what they say, what a task changed, what a person answers
//! for, what differs between two weeks. Whatever the broker answers is held against its signed head here.

mod proved;
mod story;
mod views;

use std::time::Duration;

use bailiwick_core::{Clock as _, Timestamp};
use clap::{Args, Subcommand};
use serde_json::Value;

pub(crate) use story::{hops, story};

use super::client::ApiClient;
use super::screen::{Style, line};
use super::task::duration;
use super::{Failure, Place, say, warn};

/// `bailiwick trace`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Trace {
    /// A call, a held call, a task, an incident, or the index of a ledger entry. Without it: entries by what they say.
    #[arg(conflicts_with_all = ["agent", "any_person", "owner", "subject", "approver", "system", "tool", "effect", "resource", "task", "kind", "outcome", "code", "revision", "policy", "credential", "label", "limit", "below", "since", "until", "last"])]
    what: Option<String>,
    /// Show the kept arguments and answer of the call. Each look is on record.
    #[arg(long, requires = "what")]
    texts: bool,
    #[command(flatten)]
    asked: Asked,
    #[command(subcommand)]
    view: Option<View>,
}

/// Other ways to ask.
#[derive(Debug, Subcommand)]
enum View {
    /// What a task changed: its acting calls in order, the reads around each, and tools that were defined anew meanwhile.
    Changes {
        /// The task.
        task: String,
    },
    /// All that a person answers for: agents, tasks, acting calls, approvals, and what the person ended or changed.
    Person {
        /// The person. Default: you.
        name: Option<String>,
        #[command(flatten)]
        time: Time,
        /// At most so many lines of each kind.
        #[arg(long, value_name = "COUNT")]
        limit: Option<usize>,
    },
    /// What differs between two stretches of time: this week and last, if nothing else is said.
    Diff {
        /// The length of the later stretch, which ends now.
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = duration)]
        this: Duration,
        /// The length of the earlier one, which ends where the later one begins. Default: as long as that.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        last: Option<Duration>,
    },
}

/// When.
#[derive(Clone, Debug, Args)]
struct Time {
    /// From this time on: `2026-01-31` or `2026-01-31T12:00:00Z`.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Before this time.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// In the last `90s`, `30m`, `2h` or `7d`.
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "since")]
    last: Option<Duration>,
}

/// Conditions, all of which hold together.
#[derive(Clone, Debug, Args)]
struct Asked {
    /// An agent by name or SPIFFE ID.
    #[arg(long)]
    agent: Option<String>,
    /// A person in any part: owner, subject, approver, or who refused, ended or changed something.
    // Its own name for clap: `person` is that of `--as`.
    #[arg(long = "person", id = "any_person", value_name = "PERSON")]
    person: Option<String>,
    /// Who answers for the agent.
    #[arg(long)]
    owner: Option<String>,
    /// On whose behalf.
    #[arg(long)]
    subject: Option<String>,
    /// Who gave an approval.
    #[arg(long)]
    approver: Option<String>,
    /// The system.
    #[arg(long)]
    system: Option<String>,
    /// The tool.
    #[arg(long)]
    tool: Option<String>,
    /// The effect; `act` is every effect but `read`.
    #[arg(long)]
    effect: Option<String>,
    /// Where calls went.
    #[arg(long)]
    resource: Option<String>,
    /// The task.
    #[arg(long)]
    task: Option<String>,
    /// The kind of entry: `intent`, `outcome`, `denial`, `hold`, `hold_step`, `task_opened`, `task_ended`, `tool`, `incident`, ...
    #[arg(long)]
    kind: Option<String>,
    /// What became of it: `done`, `failed`, `unknown`, `denied`, `held`, `approved`, `refused`, ...
    #[arg(long)]
    outcome: Option<String>,
    /// The code of a denial or failure, such as `policy.denied`.
    #[arg(long)]
    code: Option<String>,
    /// The policy revision in force.
    #[arg(long)]
    revision: Option<String>,
    /// A policy that decided.
    #[arg(long)]
    policy: Option<String>,
    /// The name of a secret, the id of a lease, or the `jti` of a token.
    #[arg(long)]
    credential: Option<String>,
    /// A label.
    #[arg(long)]
    label: Option<String>,
    #[command(flatten)]
    time: Time,
    /// At most so many, newest first.
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
    /// Go on below this entry.
    #[arg(long, value_name = "ENTRY")]
    below: Option<u64>,
}

/// A date or a time, as people write it.
fn moment(text: &str) -> Result<Timestamp, String> {
    let whole = if text.contains(['T', 't']) { text.to_owned() } else { format!("{text}T00:00:00Z") };
    Timestamp::parse(&whole).map_err(|_| "expected a day such as `2026-01-31`, or a time such as `2026-01-31T12:00:00Z`".to_owned())
}

/// A query, name by name.
#[derive(Default)]
struct Query(Vec<(&'static str, String)>);

impl Query {
    fn put(&mut self, name: &'static str, value: Option<impl std::fmt::Display>) {
        self.0.extend(value.map(|value| (name, value.to_string())));
    }

    fn time(&mut self, time: &Time, now: Timestamp) {
        self.put("since", time.since.or_else(|| time.last.map(|last| now.minus(last))));
        self.put("until", time.until);
    }

    fn of(self, path: &str) -> String {
        if self.0.is_empty() {
            return path.to_owned();
        }
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(self.0).finish();
        format!("{path}?{query}")
    }
}

impl Asked {
    fn query(&self, now: Timestamp) -> String {
        let mut query = Query::default();
        for (name, value) in [
            ("agent", &self.agent),
            ("person", &self.person),
            ("owner", &self.owner),
            ("subject", &self.subject),
            ("approver", &self.approver),
            ("system", &self.system),
            ("tool", &self.tool),
            ("effect", &self.effect),
            ("resource", &self.resource),
            ("task", &self.task),
            ("kind", &self.kind),
            ("outcome", &self.outcome),
            ("code", &self.code),
            ("revision", &self.revision),
            ("policy", &self.policy),
            ("credential", &self.credential),
            ("label", &self.label),
        ] {
            query.put(name, value.as_deref());
        }
        query.time(&self.time, now);
        query.put("limit", self.limit);
        query.put("below", self.below);
        query.of("/v1/entries")
    }
}

/// A segment of a path: an id and nothing else.
fn id(text: &str) -> Result<&str, Failure> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let wrong = || Failure::new(format!("`{}` is no id", line(text)), "give a call, a held call, a task, an incident, or an entry's index");
    if plain { Ok(text) } else { Err(wrong()) }
}

impl Trace {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        let (api, person) = (ApiClient::of(place)?, place.person()?);
        let now = api.clock().now();
        let (path, view): (String, fn(&Value, Style) -> String) = match (&self.what, self.view) {
            (Some(what), _) => (format!("/v1/trace/{}", id(what)?), story),
            (None, None) => (self.asked.query(now), views::entries),
            (None, Some(View::Changes { task })) => (format!("/v1/tasks/{}/changes", id(&task)?), views::changes),
            (None, Some(View::Person { name, time, limit })) => {
                let mut query = Query::default();
                query.put("person", name);
                query.time(&time, now);
                query.put("limit", limit);
                (query.of("/v1/reports/person"), views::person)
            }
            (None, Some(View::Diff { this, last })) => {
                let mut query = Query::default();
                let since = now.minus(this);
                query.put("this_since", Some(since));
                query.put("last_since", last.map(|last| since.minus(last)));
                (query.of("/v1/reports/difference"), views::difference)
            }
        };
        let answer = api.get(&person, &path).await?;
        let style = Style::of_terminal();
        say(if place.json { answer.to_string() } else { view(&answer, style) });
        let checked = proved::check(&answer, &place.data_dir()?.join("ledger.vkey"));
        let words = checked.map_err(|why| {
            Failure::new(
                format!("THE RECORD DOES NOT VERIFY: {why}"),
                "keep the broker's data directory as it is, and compare it with an exported copy",
            )
        })?;
        // Beside a document, it is for people.
        if place.json {
            warn(words)
        } else {
            say(style.faint(&format!("\n{words}")))
        }
        if self.texts {
            super::payload_texts::show(&api, &person, place, &answer).await?;
        }
        Ok(())
    }
}

/// `bailiwick index`
#[derive(Debug, Subcommand)]
pub(crate) enum IndexCommand {
    /// Throw the index of the record away and make it anew from the ledger. What is found then does not depend on what stood in it.
    Rebuild,
}

impl IndexCommand {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        let Self::Rebuild = self;
        let entries = if place.url.is_some() || super::client::Endpoint::read(&place.data_dir()?).is_some() {
            let answer = ApiClient::of(place)?.post(&place.person()?, "/v1/index/rebuild", &Value::Null).await?;
            answer.get("entries").and_then(Value::as_u64).unwrap_or_default()
        } else {
            crate::ledger_access::rebuild_index(&place.data_dir()?)
                .map_err(|e| Failure::new(e.to_string(), "name the broker's data directory: --data-dir"))?
        };
        if place.json {
            say(serde_json::json!({ "entries": entries }))
        } else {
            say(format_args!("the index was made anew from {entries} entries"))
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        trace: Trace,
    }

    fn parsed(words: &[&str]) -> Result<Trace, clap::Error> {
        Line::try_parse_from([&["trace"], words].concat()).map(|l| l.trace)
    }

    #[test]
    fn conditions_are_sent_as_they_are_typed_and_times_as_moments() {
        let asked = parsed(&["--agent", "scout", "--effect", "act", "--last", "7d", "--limit", "5"]).unwrap().asked;
        let now = Timestamp::parse("2026-11-23T00:00:00Z").unwrap();
        assert_eq!(asked.query(now), "/v1/entries?agent=scout&effect=act&since=2026-11-16T00%3A00%3A00.000Z&limit=5");
        let asked = parsed(&["--tool", "a&person=ops", "--since", "2026-01-31"]).unwrap().asked;
        assert_eq!(asked.query(now), "/v1/entries?tool=a%26person%3Dops&since=2026-01-31T00%3A00%3A00.000Z");
    }

    #[test]
    fn an_id_and_conditions_are_not_asked_together_and_views_are_known_by_their_name() {
        assert!(parsed(&["call_1", "--agent", "scout"]).is_err());
        assert!(parsed(&["--since", "yesterday"]).is_err());
        assert!(parsed(&["--last", "7d", "--since", "2026-01-31"]).is_err());
        assert!(matches!(parsed(&["changes", "task_1"]).unwrap().view, Some(View::Changes { .. })));
        assert!(matches!(parsed(&["person", "ana", "--last", "30d"]).unwrap().view, Some(View::Person { .. })));
        assert!(matches!(parsed(&["diff"]).unwrap().view, Some(View::Diff { last: None, .. })));
        assert_eq!(parsed(&["call_1"]).unwrap().what.as_deref(), Some("call_1"));
    }

    #[test]
    fn who_asks_can_be_said_beside_every_condition() {
        for words in
            [["trace", "--person", "ben", "--as", "ana"].as_slice(), &["trace", "7", "--as", "ana"], &["trace", "person", "ben", "--as", "ana"]]
        {
            let line = crate::cli::Cli::try_parse_from(["bailiwick"].iter().chain(words)).unwrap();
            assert_eq!(line.place.person.as_deref(), Some("ana"), "{words:?}");
        }
    }

    #[test]
    fn what_is_no_id_is_not_put_into_a_path() {
        for bad in ["", "../admin", "call_1?x=1", "a/b", "\u{1b}[2J"] {
            let why = id(bad).unwrap_err().to_string();
            assert!(!why.contains('\u{1b}'), "{why}");
        }
    }
}
