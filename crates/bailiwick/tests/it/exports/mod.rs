//! Exports through the real listener and the real program: what receivers get, and that none of them can hold up or lose anything.

mod collector;
mod guide;
mod receiver;
mod schema;
mod strangers;
mod stuck;
mod syslog;
mod traces;

use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Broker, Client, Place, TaskToken, modern_headers};

/// A client's trace, and its span in it.
pub(crate) const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
pub(crate) const SPAN: &str = "00f067aa0ba902b7";
/// A purpose that would be two messages, or half of one, for a receiver that goes by lines.
pub(crate) const PURPOSE: &str = "line one\nline two\r\n<13>1 forged \u{85}\u{2028}\u{7f} \u{fc}";
/// What a call's arguments hold, to be found nowhere.
pub(crate) const ARGUMENT: &str = "canary-of-an-argument-31c7";

/// A place with these exports. `{dir}` stands for a folder of its own.
pub(crate) async fn place_with(exports: &str) -> (Place, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let exports = exports.replace("{dir}", dir.path().to_str().unwrap());
    (Place::with(|text| format!("{text}{exports}")).await, dir)
}

/// Calls a tool with a trace context, as a client that is traced does.
pub(crate) async fn traced(client: &Client<'_>, task: &TaskToken, tool: &str, arguments: &str) -> Answer {
    let meta = format!(
        r#"{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{"elicitation":{{"url":{{}}}}}},"traceparent":"00-{TRACE}-{SPAN}-01"}}"#
    );
    let body = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments},"_meta":{meta}}}}}"#);
    let bearer = format!("Bearer {}", task.token);
    client.send(Method::POST, "/mcp", &modern_headers(&bearer, "tools/call", Some(tool)), body).await
}

/// Does something of every kind that there are entries of.
pub(crate) async fn story(place: &Place, broker: &Broker) -> TaskToken {
    let client = place.client();
    let task = client.task_with("scout", json!({ "purpose": PURPOSE })).await;
    let argument = format!(r#"{{"key":"{ARGUMENT}"}}"#);
    assert_eq!(traced(&client, &task, "sys.look", &argument).await.word(), "done");
    assert_eq!(client.call(&task, "sys.put", r#"{"key":"k","value":"v"}"#).await.word(), "done");
    // Not granted, and not there.
    assert!(client.call(&task, "sys.purge", "{}").await.status >= 200);
    assert!(client.call(&task, "sys.no\u{e4}", "{}").await.status >= 200);
    // Held, and refused; held, approved and made.
    let held = client.call(&task, "sys.pay", r#"{"recipient":"mallory","amount":1}"#).await;
    assert_eq!(held.word(), "held");
    let hold = client.pending(&task).await.remove(0);
    assert_eq!(client.decide("ben", &hold, "refuse").await.status, 200);
    client.approved(&task, "sys.pay", r#"{"recipient":"acme","amount":2}"#).await;
    assert_eq!(client.call(&task, "sys.pay", r#"{"recipient":"acme","amount":2}"#).await.word(), "done");
    // A system that says no, and one that answers nonsense.
    place.upstream.play(|id| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"no"}}],"isError":true,"resultType":"complete"}}}}"#)
    });
    client.call(&task, "sys.look", r#"{"key":"fails"}"#).await;
    place.upstream.play(|_| "nonsense".to_owned());
    client.call(&task, "sys.look", r#"{"key":"breaks"}"#).await;
    let agent = broker.house.agent("scout").cloned();
    broker.house.incident("two_places", agent.as_ref(), Some(task.id.parse().unwrap()), "seen here and there").await;
    broker.house.incident("of_nobody", None, None, "something").await;
    for (state, by) in [("intended", None), ("live", None), ("ended", None), ("ended", Some("ops"))] {
        lease_step(broker, &task, state, by).await;
    }
    let revoked = client.by("ana", Method::POST, &format!("/v1/tasks/{}/revoke", task.id), None).await;
    assert!(revoked.status < 300, "{revoked:?}");
    task
}

/// A step of a credential's life, as `leases.rs` has it from real systems.
async fn lease_step(broker: &Broker, task: &TaskToken, state: &str, by: Option<&str>) {
    let ending = json!({ "ending": if by.is_some() { "by-hand" } else { "revoked-verified" }, "evidence": [{ "node": "primary", "step": "verify", "saw": "28P01" }] });
    let step = bailiwick::entry::LeaseStep {
        lease: bailiwick_core::LeaseId::from_bytes([7; 16]),
        state,
        task: Some(task.id.parse().unwrap()),
        call: None,
        agent: None,
        component: None,
        instance: None,
        owner: None,
        subject: None,
        system: "orders",
        credential_kind: "postgresql",
        class: "read",
        account: "ag_00000000000000000000000007",
        rights: &["orders_ro".to_owned()],
        ids: None,
        expires_at: None,
        ended: (state == "ended").then_some(&ending),
        attempts: None,
        by,
        reason: by.map(|_| "the server is scrapped"),
    };
    broker.house.append(&step).await.unwrap();
}

/// The number of entries once everything that was queued is durable.
pub(crate) async fn size(broker: &Broker) -> u64 {
    broker.entries().await.len() as u64
}

/// The lines of a file, each as JSON.
pub(crate) fn read_lines(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // Every reader sees the same lines, also one that knows the separators of Unicode.
    assert!(!text.contains(['\u{85}', '\u{2028}', '\u{2029}']));
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The ledger index of an event, whatever its format.
pub(crate) fn index_of(event: &Value) -> u64 {
    event["index"].as_u64().or_else(|| event["metadata"]["sequence"].as_u64()).unwrap_or_else(|| panic!("no index: {event}"))
}

/// Every entry was received, and in order but for what was sent again.
pub(crate) fn check_complete(indexes: &[u64], size: u64) {
    let all: std::collections::BTreeSet<u64> = indexes.iter().copied().collect();
    let missing: Vec<u64> = (0..size).filter(|i| !all.contains(i)).collect();
    assert!(missing.is_empty(), "of {size} entries these were lost: {missing:?}");
    // Whatever arrives for the first time arrives in order.
    let mut newest = None;
    for index in indexes {
        let first = newest.is_none_or(|n| *index > n);
        assert!(!first || newest.map_or(0, |n| n + 1) == *index, "{index} came right after {newest:?}");
        newest = newest.max(Some(*index));
    }
}
