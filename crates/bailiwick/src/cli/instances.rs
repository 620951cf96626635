//! Running copies of an agent from the command line: listed, and ended one by one.

use bailiwick_core::AgentName;
use serde_json::{Value, json};

use super::client::{ApiClient, items};
use super::screen::{Style, table, text, unique};
use super::{Failure, Place, say, warn};

fn path(name: &str) -> Result<String, Failure> {
    let name: AgentName = name.parse().map_err(|e: bailiwick_core::NameError| Failure::new(e.to_string(), ""))?;
    Ok(format!("/v1/agents/{name}/instances"))
}

/// `bailiwick agent instances`
pub(crate) async fn list(place: &Place, name: &str) -> Result<(), Failure> {
    show(place, &ApiClient::of(place)?.get(&place.person()?, &path(name)?).await?);
    Ok(())
}

/// `bailiwick agent revoke-instance`
pub(crate) async fn revoke(place: &Place, name: &str, instance: &str) -> Result<(), Failure> {
    let (api, who, path) = (ApiClient::of(place)?, place.person()?, path(name)?);
    let known = api.get(&who, &path).await?;
    let ids = items(&known, "instances").iter().filter_map(|i| i.get("instance").and_then(Value::as_str));
    let id = unique(instance, ids, "running copy")?;
    show(place, &api.post(&who, &format!("{path}/{id}/revoke"), &json!({})).await?);
    Ok(())
}

fn show(place: &Place, told: &Value) {
    if place.json {
        return say(told);
    }
    let row = |i: &Value| {
        let tasks = items(i, "tasks").len().to_string();
        vec![text(i, "instance"), text(i, "component"), text(i, "last_seen"), text(i, "from"), tasks, text(i, "ended_at")]
    };
    let rows: Vec<_> = items(told, "instances").iter().map(row).collect();
    if rows.is_empty() {
        return warn("no running copy was seen");
    }
    say(table(&["copy", "component", "last seen", "from", "open tasks", "ended"], &rows, Style::of_terminal()));
}
