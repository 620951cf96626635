//! Leases from the command line: what is there, what is not ended yet and why, ending one by hand, and the check of a system.

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{ApiClient, items};
use super::screen::{Style, field, line, short, table, text, texts, unique};
use super::{Failure, Place, say, warn};

/// `bailiwick lease`
#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Leases that are not ended.
    List {
        /// Also those that are ended.
        #[arg(long)]
        all: bool,
        /// Only of this task.
        #[arg(long, value_name = "TASK")]
        task: Option<String>,
        /// Only of this system.
        #[arg(long, value_name = "SYSTEM")]
        system: Option<String>,
    },
    /// One lease, with its ending and the evidence.
    Show {
        /// Its id, or a unique end of it.
        id: String,
    },
    /// End a lease now; by hand, on record with your name and reason, if its end cannot be shown.
    End {
        /// Its id, or a unique end of it.
        id: String,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
    },
}

impl LeaseCommand {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        let api = ApiClient::of(place)?;
        let who = place.person()?;
        let find = async |given: &str| -> Result<Value, Failure> {
            if given.parse::<bailiwick_core::LeaseId>().is_ok() {
                return Ok(api.get(&who, &format!("/v1/leases/{given}")).await?);
            }
            let answer = api.get(&who, "/v1/leases?all=true&limit=500").await?;
            let leases = items(&answer, "leases");
            let id = unique(given, leases.iter().filter_map(|l| l.get("id").and_then(Value::as_str)), "lease")?;
            let found = leases.iter().find(|l| l.get("id").and_then(Value::as_str) == Some(id));
            found.cloned().ok_or_else(|| Failure::new("there is no such lease", "see which there are: bailiwick lease list --all"))
        };
        let lease = match self {
            Self::List { all, task, system } => {
                let mut query = format!("?all={all}&limit=500");
                for (name, value) in [("task", task), ("system", system)] {
                    if let Some(value) = value {
                        let value: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
                        query.push_str(&format!("&{name}={value}"));
                    }
                }
                return list(place, &api.get(&who, &format!("/v1/leases{query}")).await?);
            }
            Self::Show { id } => find(&id).await?,
            Self::End { id, reason } => {
                let lease = find(&id).await?;
                api.post(&who, &format!("/v1/leases/{}/end", text(&lease, "id")), &json!({ "reason": reason })).await?
            }
        };
        say(if place.json { lease.to_string() } else { described(&lease) });
        Ok(())
    }
}

/// Where a lease stands, in a few words.
pub(super) fn standing(lease: &Value) -> String {
    if lease.get("ending").is_some() || lease.get("failure").is_some() { ending(lease) } else { text(lease, "state") }
}

fn ending(lease: &Value) -> String {
    match lease.get("ending") {
        Some(ending) => text(ending, "ending"),
        None if lease.get("failure").is_some() => format!("not yet: {}", text(lease, "failure")),
        None => "-".to_owned(),
    }
}

fn described(lease: &Value) -> String {
    let mut lines = vec![
        field("lease", &text(lease, "id")),
        field("task", &text(lease, "task")),
        field("for call", &text(lease, "call")),
        field("system", &format!("{} ({}, {})", text(lease, "system"), text(lease, "kind"), text(lease, "class"))),
        field("account", &text(lease, "account")),
        field("rights", &texts(lease, "rights").join(", ")),
        field("state", &text(lease, "state")),
        field("begun", &text(lease, "begun_at")),
        field("expires", &text(lease, "expires_at")),
        field("ending", &ending(lease)),
    ];
    for member in ["attempts", "next_at", "ended_by"] {
        if lease.get(member).is_some_and(|v| !v.is_null() && v.as_u64() != Some(0)) {
            lines.push(field(member, &text(lease, member)));
        }
    }
    let evidence = lease.get("ending").map(|e| items(e, "evidence")).unwrap_or_default();
    for (at, tried) in evidence.iter().enumerate() {
        let label = if at == 0 { "evidence" } else { "" };
        lines.push(field(label, &format!("{} {} on {}: {}", text(tried, "at"), text(tried, "step"), text(tried, "node"), line(&text(tried, "saw")))));
    }
    lines.join("\n")
}

fn list(place: &Place, answer: &Value) -> Result<(), Failure> {
    if place.json {
        say(answer);
        return Ok(());
    }
    let row = |l: &Value| {
        vec![short(&text(l, "id")), text(l, "state"), text(l, "system"), text(l, "class"), text(l, "account"), short(&text(l, "task")), ending(l)]
    };
    let rows: Vec<_> = items(answer, "leases").iter().map(row).collect();
    if rows.is_empty() {
        warn("no lease");
        return Ok(());
    }
    say(table(&["lease", "state", "system", "class", "account", "task", "ending"], &rows, Style::of_terminal()));
    Ok(())
}

/// `bailiwick system`
#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// The configured systems, and how each stands.
    List,
    /// Prove that credentials can be made, ended and verified at a system; says what is missing and which statement grants it.
    Check {
        /// The system's name.
        name: String,
    },
}

impl SystemCommand {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        match self {
            Self::List => systems(place).await,
            Self::Check { name } => check(place, &name).await,
        }
    }
}

async fn systems(place: &Place) -> Result<(), Failure> {
    let answer = ApiClient::of(place)?.get(&place.person()?, "/v1/systems").await?;
    if place.json {
        say(&answer);
        return Ok(());
    }
    let row = |s: &Value| {
        vec![text(s, "name"), text(s, "status"), text(s, "target"), text(s, "tools_classified"), text(s, "tools_waiting"), text(s, "why")]
    };
    let rows: Vec<_> = items(&answer, "systems").iter().map(row).collect();
    say(table(&["system", "status", "target", "tools", "waiting", "why"], &rows, Style::of_terminal()));
    Ok(())
}

async fn check(place: &Place, name: &str) -> Result<(), Failure> {
    // With a broker running it has the secrets; else they are read here.
    let missing = match crate::leases::check_stopped(place, name).await? {
        Some(missing) => json!({ "system": name, "passed": missing.is_empty(), "missing": missing }),
        None => {
            let name: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
            ApiClient::of(place)?.post(&place.person()?, &format!("/v1/systems/{name}/check"), &json!({})).await?
        }
    };
    let findings = items(&missing, "missing");
    if place.json {
        say(&missing);
    } else if findings.is_empty() {
        say(Style::of_terminal().good(&format!("`{name}`: credentials can be made, ended and verified there")));
    } else {
        for finding in findings {
            say(field("on", &text(finding, "node")));
            say(field("missing", &text(finding, "missing")));
            say(field("remedy", &text(finding, "remedy")));
        }
    }
    if findings.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        format!("`{name}` is not served: {} of the broker's own rights there are missing", findings.len()),
        "grant them by the statements above, as an administrator of the system, and check again",
    ))
}
