//! Tasks from the command line: open one for an agent whose key is here, list, show, complete, revoke.

use std::time::Duration;

use bailiwick_core::{AgentName, Clock as _, InstanceId};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::{ApiClient, Opened, items};
use super::key_files::AgentKey;
use super::screen::{Style, field, line, short, table, text, unique};
use super::{Failure, Place, say, warn};
use crate::clock::random;

/// What a task is asked for.
#[derive(Clone, Debug, Args)]
pub(crate) struct Wish {
    /// The tools that it needs: `system.tool`, `system.*` or `*`; several with commas. Default: all that the agent may ask for.
    #[arg(long, value_name = "TOOLS", value_delimiter = ',')]
    tools: Vec<String>,
    /// What it is for.
    #[arg(long)]
    purpose: Option<String>,
    /// How long it may take, such as `30m` or `2h`.
    #[arg(long, value_parser = duration)]
    ttl: Option<Duration>,
    /// The person on whose behalf it is done. Default: the agent's owner.
    #[arg(long, value_name = "PERSON")]
    on_behalf_of: Option<String>,
    /// The model that works on it. Recorded as claimed.
    #[arg(long)]
    model: Option<String>,
}

impl Wish {
    /// The model, for the assertion.
    pub(crate) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// The body of `POST /v1/tasks`. What is not said is left out, so that the broker's defaults apply.
    pub(crate) fn document(&self, purpose: &str) -> Value {
        let mut wish = Map::new();
        wish.insert("purpose".to_owned(), json!(self.purpose.as_deref().unwrap_or(purpose)));
        if !self.tools.is_empty() {
            wish.insert("tools".to_owned(), json!(self.tools));
        }
        if let Some(ttl) = self.ttl {
            wish.insert("ttl_seconds".to_owned(), json!(ttl.as_secs()));
        }
        for (name, value) in [("on_behalf_of", &self.on_behalf_of), ("model", &self.model)] {
            if let Some(value) = value {
                wish.insert(name.to_owned(), json!(value));
            }
        }
        Value::Object(wish)
    }
}

/// `90`, `90s`, `30m`, `2h` or `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number with `s`, `m`, `h` or `d`, such as `30m`".to_owned();
    let (number, unit) = match text.char_indices().next_back() {
        Some((at, 's')) => (text.get(..at), 1),
        Some((at, 'm')) => (text.get(..at), 60),
        Some((at, 'h')) => (text.get(..at), 3600),
        Some((at, 'd')) => (text.get(..at), 86_400),
        _ => (Some(text), 1),
    };
    let number: u64 = number.and_then(|n| n.parse().ok()).ok_or_else(expected)?;
    number.checked_mul(unit).filter(|s| *s > 0).map(Duration::from_secs).ok_or_else(expected)
}

/// `bailiwick token`
#[derive(Debug, Args)]
pub(crate) struct Token {
    /// The agent.
    #[arg(long)]
    agent: AgentName,
    #[command(flatten)]
    wish: Wish,
}

impl Token {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        let api = ApiClient::of(place)?;
        let agent = AgentKey::load(&place.data_dir()?, &place.trust_domain()?, &self.agent)?;
        let instance = InstanceId::new(api.clock().now(), random());
        let token = api.token(&agent, instance, self.wish.model(), None).await?;
        let opened = api.open_task(&token, &self.wish.document("opened with `bailiwick token`")).await?;
        if place.json {
            let token = json!({ "access_token": opened.token.access_token.as_str(), "token_type": "Bearer", "expires_in": opened.token.expires_in });
            say(json!({ "task": opened.task, "narrowed": opened.narrowed, "token": token, "mcp": api.mcp() }));
            return Ok(());
        }
        warn(format_args!("{}", summary(&opened)));
        warn(field("endpoint", &api.mcp()));
        warn(field("token", &format!("valid for {} s, on standard output", opened.token.expires_in)));
        say(opened.token.access_token.as_str());
        Ok(())
    }
}

/// A task in a few lines.
pub(crate) fn summary(opened: &Opened) -> String {
    let mut lines = vec![described(&opened.task)];
    for narrowed in &opened.narrowed {
        lines.push(field("not granted", &format!("{}: {}", text(narrowed, "asked"), text(narrowed, "reason"))));
    }
    lines.join("\n")
}

/// A task's document in a few lines.
fn described(task: &Value) -> String {
    let mut lines = vec![
        field("task", &text(task, "id")),
        field("agent", &text(task, "spiffe_id")),
        field("instance", &text(task, "instance")),
        field("owner", &text(task, "owner")),
        field("on behalf of", &text(task, "subject")),
        field("purpose", &text(task, "purpose")),
        field("state", &state(task)),
        field("calls", &format!("{} of {}", text(task, "calls_used"), task.get("budget").map_or_else(|| "-".to_owned(), |b| text(b, "calls")))),
        field("opened", &text(task, "opened_at")),
        field("expires", &text(task, "expires_at")),
    ];
    if let Some(component) = component(task) {
        lines.insert(2, field("component", &component));
    }
    if task.get("model_attested").is_some() {
        lines.push(field("model", &format!("{} (attested)", text(task, "model_attested"))));
    } else if task.get("model_claimed").is_some() {
        lines.push(field("model", &format!("{} (claimed by the agent)", text(task, "model_claimed"))));
    }
    lines.push(field("has read", &super::screen::has_read(task)));
    lines.extend(super::trace::hops(items(task, "chain")));
    for (index, part) in items(task, "parts").iter().enumerate() {
        let label = if index == 0 { "parts" } else { "" };
        lines.push(field(label, &format!("{}, given to {} ({})", text(part, "id"), text(part, "agent"), text(part, "state"))));
    }
    for (index, tool) in items(task, "tools").iter().enumerate() {
        let needs = if tool.get("needs_approval") == Some(&Value::Bool(true)) { ", needs approval" } else { "" };
        let bounds = tool.get("arguments").filter(|a| a.as_object().is_some_and(|a| !a.is_empty()));
        let bounds = bounds.map_or_else(String::new, |b| format!(", within {}", line(&b.to_string())));
        let label = if index == 0 { "tools" } else { "" };
        lines.push(field(label, &format!("{} ({}{needs}{bounds})", text(tool, "name"), text(tool, "effect"))));
    }
    for (index, lease) in items(task, "leases").iter().enumerate() {
        let label = if index == 0 { "credentials" } else { "" };
        let what = format!("{} at {} ({})", text(lease, "account"), text(lease, "system"), text(lease, "class"));
        lines.push(field(label, &format!("{what}: {}", super::lease::standing(lease))));
    }
    lines.join("\n")
}

/// Which component does it, if that is known or should be.
fn component(task: &Value) -> Option<String> {
    let bundle = task.get("undivided") == Some(&Value::Bool(true));
    let named = task.get("component").map(|_| text(task, "component"));
    named.or_else(|| bundle.then(|| "a bundle of components that nobody told apart".to_owned()))
}

fn state(task: &Value) -> String {
    match task.get("reason").and_then(Value::as_str) {
        Some(reason) => format!("{}: {}", text(task, "state"), line(reason)),
        None => text(task, "state"),
    }
}

/// `bailiwick task`
#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Open tasks.
    List {
        /// Also those that have ended.
        #[arg(long)]
        all: bool,
    },
    /// One task.
    Show {
        /// Its id, or a unique end of it.
        id: String,
    },
    /// End a task as done; its agent's key must be here.
    Complete {
        /// Its id, or a unique end of it.
        id: String,
    },
    /// End a task at once: no further call of it passes.
    Revoke {
        /// Its id, or a unique end of it.
        id: String,
    },
}

impl TaskCommand {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        let api = ApiClient::of(place)?;
        let who = place.person()?;
        let find = async |given: &str| -> Result<Value, Failure> {
            let tasks = api.get(&who, "/v1/tasks").await?;
            let tasks = items(&tasks, "tasks");
            let ids = tasks.iter().filter_map(|t| t.get("id").and_then(Value::as_str));
            // An id that is not listed (the list is bounded) is asked for as it stands.
            let id = unique(given, ids, "task").or_else(|e| given.parse::<bailiwick_core::TaskId>().map(|_| given).map_err(|_| e))?;
            Ok(api.get(&who, &format!("/v1/tasks/{id}")).await?)
        };
        let task = match self {
            Self::List { all } => return list(place, &api.get(&who, if all { "/v1/tasks" } else { "/v1/tasks?state=open" }).await?),
            Self::Show { id } => find(&id).await?,
            Self::Complete { id } => complete(place, &api, &find(&id).await?).await?,
            Self::Revoke { id } => {
                let task = find(&id).await?;
                api.post(&who, &format!("/v1/tasks/{}/revoke", text(&task, "id")), &json!({})).await?
            }
        };
        // Some answers carry the task as a member.
        let task = task.get("task").filter(|t| t.is_object()).unwrap_or(&task);
        say(if place.json { task.to_string() } else { described(task) });
        Ok(())
    }
}

async fn complete(place: &Place, api: &ApiClient, task: &Value) -> Result<Value, Failure> {
    let agent: AgentName = text(task, "agent").parse().map_err(|e: bailiwick_core::NameError| Failure::new(e.to_string(), ""))?;
    let agent = AgentKey::load(&place.data_dir()?, &place.trust_domain()?, &agent)
        .map_err(|e| Failure::new(format!("{e}"), "a person ends a task with: bailiwick task revoke"))?;
    let broken = || Failure::new("the broker's description of the task cannot be read", "");
    let instance = text(task, "instance").parse().map_err(|_| broken())?;
    let token = api.token(&agent, instance, None, None).await?;
    Ok(api.complete(&token, text(task, "id").parse().map_err(|_| broken())?).await?)
}

fn list(place: &Place, tasks: &Value) -> Result<(), Failure> {
    if place.json {
        say(tasks);
        return Ok(());
    }
    let row = |t: &Value| {
        vec![short(&text(t, "id")), state(t), text(t, "agent"), text(t, "subject"), text(t, "calls_used"), text(t, "expires_at"), text(t, "purpose")]
    };
    let rows: Vec<_> = items(tasks, "tasks").iter().map(row).collect();
    if rows.is_empty() {
        warn("no task");
        return Ok(());
    }
    say(table(&["task", "state", "agent", "on behalf of", "calls", "expires", "purpose"], &rows, Style::of_terminal()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_or_is_in_seconds_and_is_never_nothing() {
        assert_eq!(duration("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "m", "-1m", "0", "1w", "1.5h", "99999999999999999999h", "18446744073709551615d", "3\u{e9}"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_wished_is_left_to_the_broker() {
        let wish = Wish { tools: vec![], purpose: None, ttl: None, on_behalf_of: None, model: None };
        assert_eq!(wish.document("why"), json!({ "purpose": "why" }));
        let wish = Wish {
            tools: vec!["shop.*".into()],
            purpose: Some("p".into()),
            ttl: Some(Duration::from_secs(60)),
            on_behalf_of: Some("ana".into()),
            model: Some("m".into()),
        };
        assert_eq!(wish.document("why"), json!({ "purpose": "p", "tools": ["shop.*"], "ttl_seconds": 60, "on_behalf_of": "ana", "model": "m" }));
    }
}
