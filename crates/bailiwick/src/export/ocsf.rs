//! Entries as events of OCSF 1.8.0. Pure functions: no argument and no result of a call is in an entry, so none is in an event.
//!
//! The exact text of the entry stands in `raw_data`, so that whoever has an event can compute the leaf hash and ask for its proof.

use bailiwick_core::Timestamp;
use serde_json::{Map, Value, json};

use super::facts::{Facts, TraceContext, short, split};

const VERSION: &str = "1.8.0";
const PRODUCT: &str = "Bailiwick";

/// An event class: its number, its category, and the profiles that its events follow.
struct Class {
    uid: u32,
    category: u32,
    profiles: &'static [&'static str],
}

const API_ACTIVITY: Class = Class { uid: 6003, category: 6, profiles: &["ai_operation", "security_control", "trace"] };
const AUTHORIZE_SESSION: Class = Class { uid: 3003, category: 3, profiles: &["security_control"] };
const ENTITY_MANAGEMENT: Class = Class { uid: 3004, category: 3, profiles: &["security_control"] };
const DETECTION_FINDING: Class = Class { uid: 2004, category: 2, profiles: &["security_control"] };
const APPLICATION_LIFECYCLE: Class = Class { uid: 6002, category: 6, profiles: &[] };
/// For a kind of entry that this version of the mapping does not know: better an event without detail than none.
const BASE_EVENT: Class = Class { uid: 0, category: 0, profiles: &[] };

const INFORMATIONAL: u8 = 1;
const LOW: u8 = 2;
const MEDIUM: u8 = 3;
const HIGH: u8 = 4;

/// The event of an entry.
#[must_use]
pub fn event(facts: &Facts<'_>) -> Value {
    let mut event = match facts.kind() {
        "intent" => permitted(facts),
        "outcome" => outcome(facts),
        "denial" => denied(facts),
        "hold" => held(facts),
        "hold_step" => hold_step(facts),
        "task_opened" | "task_ended" => session(facts),
        "labelled" => labelled(facts),
        "tool" => tool(facts),
        "incident" => incident(facts),
        "house" => house(facts),
        "lease" => lease(facts),
        "person" => of_person(facts),
        "agent" => of_agent(facts),
        "shard" | "erasure" | "texts_read" | "pruned" => upkeep(facts),
        other => base(facts, &BASE_EVENT, 99, Some(other), INFORMATIONAL),
    };
    event.retain(|_, value| !value.is_null());
    Value::Object(event)
}

/// How severe an event is, as OCSF counts: 1 informational to 6 fatal.
#[must_use]
pub fn severity(facts: &Facts<'_>) -> u8 {
    match (facts.kind(), facts.own("result"), facts.own("status")) {
        ("outcome", Some("unknown"), _) | ("tool", _, Some("quarantined")) => MEDIUM,
        ("denial" | "hold", ..) | ("outcome", Some("failed" | "not_sent"), _) | ("tool", _, Some("review")) => LOW,
        ("incident" | "shard", ..) => HIGH,
        ("person", ..) if matches!(facts.own("what"), Some("disabled" | "invited" | "key_revoked" | "passkey_added" | "passkey_removed")) => LOW,
        ("agent", ..) if facts.own("what") != Some("resumed") => LOW,
        // A person said that it is over; nothing showed it.
        ("lease", ..) if facts.own("by").is_some() => MEDIUM,
        ("erasure" | "pruned", ..) => LOW,
        _ => INFORMATIONAL,
    }
}

type Event = Map<String, Value>;

/// What every event has.
fn base(facts: &Facts<'_>, class: &Class, activity: u32, name: Option<&str>, severity: u8) -> Event {
    let members = json!({
        "activity_id": activity,
        "activity_name": name,
        "category_uid": class.category,
        "class_uid": class.uid,
        "type_uid": class.uid.saturating_mul(100).saturating_add(activity),
        "severity_id": severity,
        "time": facts.at().as_millis(),
        "metadata": metadata(facts, class),
        "raw_data": facts.text,
        "raw_data_size": facts.text.len(),
        "unmapped": unmapped(facts),
    });
    match members {
        Value::Object(members) => members,
        _ => Event::new(),
    }
}

fn metadata(facts: &Facts<'_>, class: &Class) -> Value {
    kept(json!({
        "version": VERSION,
        "product": product(),
        "profiles": class.profiles,
        "uid": facts.uid(),
        "sequence": facts.index,
        "correlation_uid": facts.text("call").or_else(|| facts.own("task")),
        "event_code": facts.kind(),
        "log_name": facts.origin,
        "log_version": facts.entry.get("v").and_then(Value::as_u64).map(|v| v.to_string()),
        "original_time": facts.own("at"),
    }))
}

fn product() -> Value {
    json!({ "name": PRODUCT, "vendor_name": PRODUCT, "version": env!("CARGO_PKG_VERSION") })
}

/// What OCSF 1.8 has no place for: the chain of delegation, and where the record can be checked.
fn unmapped(facts: &Facts<'_>) -> Value {
    let chain = facts.agent().map(|agent| {
        let before = facts.actors().into_iter().map(|a| json!({ "spiffe_id": a }));
        let acting = kept(json!({ "spiffe_id": agent, "component": facts.of_task("component"), "instance": facts.of_task("instance") }));
        std::iter::once(acting).chain(before).collect::<Vec<_>>()
    });
    let decided = json!({
        "task": facts.text("task"), "purpose": facts.task.and_then(|t| t.get("purpose")), "call": facts.text("call"), "hold": facts.text("hold"),
        "effect": facts.text("effect"), "target": facts.text("target"), "definition": facts.text("definition"),
        "bound_to": facts.text("call").and_then(|_| facts.text("digest")), "arguments_digest": facts.text("arguments"), "answer_digest": facts.own("answer"),
        "revision": facts.text("revision"), "approvals": facts.any("approvals"), "approval": facts.entry.get("approval"),
        "step": facts.own("step"), "reason": facts.own("reason"), "endings": facts.entry.get("endings"), "narrowed": facts.entry.get("narrowed"),
        "repeats": facts.entry.get("repeats"), "injects": facts.any("injects"), "labels": facts.any("labels"), "tasks": facts.entry.get("tasks"), "calls": facts.entry.get("calls"),
        "minimum": facts.entry.get("minimum"), "old_origin": facts.own("old_origin"), "model_claimed": facts.task.and_then(|t| t.get("model_claimed")), "model_attested": facts.task.and_then(|t| t.get("model_attested")),
    });
    kept(json!({
        "bailiwick": kept(decided),
        "delegation": kept(json!({ "subject": facts.of_task("subject"), "owner": facts.of_task("owner"), "chain": chain })),
        "record_integrity": {
            "chain_uid": facts.origin, "uid": facts.index, "fingerprint": { "algorithm_id": 3, "value": facts.leaf() },
            "tree": "RFC 6962 leaf hash over raw_data",
        },
    }))
}

/// Without the members that are not known.
fn kept(mut value: Value) -> Value {
    if let Some(members) = value.as_object_mut() {
        members.retain(|_, v| !v.is_null() && v.as_object().is_none_or(|o| !o.is_empty()));
    }
    value
}

/// The agent as OCSF sees it: a service's account.
fn user(facts: &Facts<'_>) -> Value {
    match facts.agent() {
        Some(agent) => kept(json!({ "uid": agent, "name": short(agent), "type_id": 4, "credential_uid": facts.text("token") })),
        None => json!({ "name": PRODUCT, "type_id": 3 }),
    }
}

fn person(name: &str) -> Value {
    json!({ "uid": name, "name": name, "type_id": 1 })
}

fn task_session(facts: &Facts<'_>) -> Value {
    let moment = |name: &str| Some(Timestamp::parse(facts.task?.get(name)?.as_str()?).ok()?.as_millis());
    match facts.text("task") {
        None => Value::Null,
        Some(task) => kept(json!({
            "uid": task, "uid_alt": facts.of_task("instance"), "issuer": facts.origin, "credential_uid": facts.text("token"),
            "created_time": moment("opened_at"), "expiration_time": moment("expires_at"), "expiration_reason": facts.own("reason"),
        })),
    }
}

fn authorizations(facts: &Facts<'_>, decision: &str) -> Value {
    let version = facts.text("revision");
    let policies = facts.policies().into_iter();
    let each = policies.map(|(id, why)| {
        let policy = kept(json!({ "uid": id, "name": id, "desc": why, "version": version, "is_applied": true, "type": "Cedar" }));
        json!({ "decision": decision, "policy": policy })
    });
    Value::Array(each.collect())
}

fn actor(facts: &Facts<'_>, decision: &str) -> Value {
    // Who caused the agent to act: the one who handed the work on, else the person on whose behalf it is done.
    let invoked_by = facts.actors().first().copied().or_else(|| facts.of_task("subject"));
    kept(json!({
        "user": user(facts), "session": task_session(facts), "authorizations": authorizations(facts, decision), "invoked_by": invoked_by,
    }))
}

/// What stands for a place on the network: the running copy of the agent. Its address is not on record.
fn source(facts: &Facts<'_>) -> Value {
    match facts.agent() {
        Some(agent) => kept(json!({ "instance_uid": facts.of_task("instance"), "uid": agent, "name": short(agent) })),
        None => json!({ "name": PRODUCT }),
    }
}

/// What is decided about a call. `done` is OCSF's disposition.
struct Control {
    action: u8,
    action_name: Option<&'static str>,
    done: u8,
    decision: &'static str,
}

const ALLOWED: Control = Control { action: 1, action_name: None, done: 1, decision: "allow" };
const BLOCKED: Control = Control { action: 2, action_name: None, done: 2, decision: "deny" };
const DELAYED: Control = Control { action: 99, action_name: Some("Held"), done: 14, decision: "hold" };

/// An API Activity event about the call of this entry.
fn call(facts: &Facts<'_>, control: &Control) -> Event {
    let tool = facts.text("tool").unwrap_or("unknown");
    let (system, _) = split(tool);
    let (activity, name) = activity(facts.text("effect"));
    let mut event = base(facts, &API_ACTIVITY, activity, name, severity(facts));
    let service = json!({ "name": system });
    let model = facts.task.and_then(|t| t.get("model_claimed")).and_then(Value::as_str).filter(|m| !m.is_empty());
    let model = model.map(|name| {
        // Who makes it is a claim too, and often not made.
        json!({ "ai_provider": name.split_once('/').map_or("unknown", |(provider, _)| provider), "name": name })
    });
    let trace = TraceContext::of(facts).map(|context| {
        let began = facts.began().filter(|_| facts.kind() == "outcome");
        let span = began.map(|began| {
            let parent = context.parent.clone();
            kept(json!({
                "uid": context.span, "parent_uid": parent, "operation": tool, "start_time": began.as_millis(), "end_time": facts.at().as_millis(),
            }))
        });
        kept(json!({ "uid": context.trace, "span": span }))
    });
    let target = kept(json!({ "uid": tool, "name": system, "type": "system", "role_id": 1, "version": facts.text("definition") }));
    event.extend([
        ("actor".to_owned(), actor(facts, control.decision)),
        ("src_endpoint".to_owned(), source(facts)),
        ("api".to_owned(), kept(json!({ "operation": tool, "service": service, "request": facts.text("call").map(|c| json!({ "uid": c })) }))),
        ("resources".to_owned(), json!([target])),
        ("ai_model".to_owned(), model.unwrap_or_default()),
        ("message_context".to_owned(), json!({ "ai_role_id": 3, "service": service })),
        ("trace".to_owned(), trace.unwrap_or_default()),
        ("action_id".to_owned(), control.action.into()),
        ("action".to_owned(), control.action_name.into()),
        ("disposition_id".to_owned(), control.done.into()),
        ("policy".to_owned(), kept(json!({ "uid": facts.text("revision"), "name": facts.text("revision").map(|_| "policy revision") }))),
    ]);
    if event.get("policy").and_then(Value::as_object).is_some_and(Map::is_empty) {
        event.remove("policy");
    }
    event
}

/// Which of OCSF's four activities an effect is.
fn activity(effect: Option<&str>) -> (u32, Option<&str>) {
    match effect {
        Some("read") => (2, Some("Read")),
        Some("write") => (3, Some("Update")),
        Some("delete") => (4, Some("Delete")),
        Some(other) => (99, Some(other)),
        None => (0, None),
    }
}

fn status(event: &mut Event, id: u8, code: Option<&str>, detail: Option<&str>) {
    event.insert("status_id".to_owned(), id.into());
    event.insert("status_code".to_owned(), code.into());
    event.insert("status_detail".to_owned(), detail.into());
}

fn permitted(facts: &Facts<'_>) -> Event {
    let mut event = call(facts, &ALLOWED);
    status(&mut event, 99, Some("permitted"), Some("recorded before it is sent"));
    event.insert("status".to_owned(), "Permitted".into());
    event.insert("message".to_owned(), format!("{} was permitted", facts.text("tool").unwrap_or("a call")).into());
    event
}

fn outcome(facts: &Facts<'_>) -> Event {
    let mut event = call(facts, &ALLOWED);
    let result = facts.own("result").unwrap_or("unknown");
    let id = match result {
        "done" => 1,
        "failed" | "not_sent" => 2,
        _ => 0,
    };
    status(&mut event, id, facts.own("code").or(Some(result)), None);
    event.insert("message".to_owned(), format!("{}: {result}", facts.text("tool").unwrap_or("a call")).into());
    event.insert("duration".to_owned(), facts.entry.get("duration_ms").cloned().unwrap_or_default());
    event.insert("start_time".to_owned(), facts.began().map(Timestamp::as_millis).into());
    event.insert("end_time".to_owned(), facts.at().as_millis().into());
    if let Some(api) = event.get_mut("api").and_then(Value::as_object_mut) {
        api.insert("response".to_owned(), kept(json!({ "message": result, "error": facts.own("code") })));
    }
    event
}

fn denied(facts: &Facts<'_>) -> Event {
    let mut event = call(facts, &BLOCKED);
    status(&mut event, 2, facts.own("code"), facts.own("detail"));
    event.insert("message".to_owned(), format!("{} was denied", facts.text("tool").unwrap_or("a call")).into());
    event.insert("count".to_owned(), facts.repeats().saturating_add(1).into());
    event
}

fn held(facts: &Facts<'_>) -> Event {
    let mut event = call(facts, &DELAYED);
    status(&mut event, 99, Some("hold.pending"), None);
    event.insert("status".to_owned(), "Held".into());
    event.insert("message".to_owned(), format!("{} waits for people", facts.text("tool").unwrap_or("a call")).into());
    event
}

fn hold_step(facts: &Facts<'_>) -> Event {
    let step = facts.own("step").unwrap_or("unknown");
    let control = match step {
        "approved" => Control { action: 1, action_name: None, done: 8, decision: "approve" },
        "approval" => Control { action: 99, action_name: Some("Held"), done: 8, decision: "approve" },
        "refused" => Control { action: 2, action_name: None, done: 25, decision: "refuse" },
        "withdrawn" => Control { action: 2, action_name: None, done: 6, decision: "withdraw" },
        _ => BLOCKED,
    };
    let mut event = call(facts, &control);
    let good = matches!(step, "approved" | "approval");
    status(&mut event, if good { 1 } else { 2 }, Some(&format!("hold.{step}")), facts.own("reason"));
    event.insert("message".to_owned(), format!("the held call of {} is now: {step}", facts.text("tool").unwrap_or("a tool")).into());
    // Here a person acts, and not the agent.
    let approver = facts.entry.get("approval").and_then(|a| a.get("person")).and_then(Value::as_str);
    if let Some(name) = facts.own("by").or(approver)
        && let Some(actor) = event.get_mut("actor").and_then(Value::as_object_mut)
    {
        actor.insert("user".to_owned(), person(name));
    }
    event
}

/// The tools that a task was granted.
fn privileges(facts: &Facts<'_>) -> Value {
    let tools = facts.task.and_then(|t| t.get("grant")).and_then(|g| g.get("tools")).or_else(|| facts.task?.get("grant"));
    let name = |v: &Value| Some(v.as_str().or_else(|| v.get("tool")?.as_str()).or_else(|| v.get("name")?.as_str())?.to_owned());
    match tools {
        Some(Value::Array(tools)) => tools.iter().filter_map(name).collect::<Vec<_>>().into(),
        Some(Value::Object(tools)) => tools.keys().cloned().collect::<Vec<_>>().into(),
        _ => json!([]),
    }
}

fn session(facts: &Facts<'_>) -> Event {
    let opened = facts.kind() == "task_opened";
    let (activity, name) = if opened { (1, "Assign Privileges") } else { (99, "Revoke Privileges") };
    let mut event = base(facts, &AUTHORIZE_SESSION, activity, Some(name), severity(facts));
    let state = if opened { "open" } else { facts.own("state").unwrap_or("ended") };
    status(&mut event, 1, Some(state), facts.own("reason"));
    let by = facts.own("by").map_or_else(|| user(facts), person);
    event.extend([
        ("user".to_owned(), user(facts)),
        ("session".to_owned(), task_session(facts)),
        ("privileges".to_owned(), privileges(facts)),
        ("actor".to_owned(), kept(json!({ "user": by, "invoked_by": facts.of_task("subject") }))),
        ("action_id".to_owned(), 1.into()),
        ("disposition_id".to_owned(), if opened { 1 } else { 24 }.into()),
        ("message".to_owned(), format!("the task is {state}").into()),
    ]);
    event
}

/// A change of something that calls are decided by.
fn entity(facts: &Facts<'_>, activity: (u32, &str), entity: Value, message: String) -> Event {
    let mut event = base(facts, &ENTITY_MANAGEMENT, activity.0, Some(activity.1), severity(facts));
    event.insert("entity".to_owned(), entity);
    event.insert("message".to_owned(), message.into());
    event.insert("status_id".to_owned(), 1.into());
    event
}

fn tool(facts: &Facts<'_>) -> Event {
    let (name, status) = (facts.own("tool").unwrap_or("unknown"), facts.own("status").unwrap_or("unknown"));
    let activity = match status {
        "classified" => (8, "Enable"),
        "review" => (6, "Enroll"),
        "quarantined" => (12, "Suspend"),
        _ => (3, "Update"),
    };
    let about = kept(json!({
        "name": name, "uid": name, "type_id": 99, "type": "Tool", "version": facts.own("definition"),
        "data": kept(json!({ "effect": facts.own("effect"), "status": status, "definition_before": facts.own("before") })),
    }));
    let mut event = entity(facts, activity, about, format!("the tool {name}: {status}"));
    let findings: Vec<&str> = facts.entry.get("findings").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    if !findings.is_empty() {
        event.insert("comment".to_owned(), findings.join("; ").into());
    }
    event.insert("action_id".to_owned(), if status == "classified" { 1 } else { 2 }.into());
    event.insert("disposition_id".to_owned(), if status == "classified" { 1 } else { 3 }.into());
    let actor = match facts.own("by") {
        Some("configuration" | "proposal") | None => json!({ "app_name": PRODUCT }),
        Some(name) => json!({ "user": person(name) }),
    };
    event.insert("actor".to_owned(), actor);
    event
}

/// A task carries labels from here on.
fn labelled(facts: &Facts<'_>) -> Event {
    let task = facts.own("task").unwrap_or("unknown");
    let labels = facts.labels();
    let about = json!({ "name": task, "uid": task, "type_id": 99, "type": "Task", "data": { "labels": labels } });
    let mut event = entity(facts, (3, "Update"), about, format!("the task is given what bears: {}", labels.join(", ")));
    event.insert("actor".to_owned(), kept(json!({ "user": user(facts), "app_name": PRODUCT })));
    event
}

/// A credential that is made for a task, or ended.
fn lease(facts: &Facts<'_>) -> Event {
    let state = facts.own("state").unwrap_or("unknown");
    let activity = match state {
        "live" => (1, "Create"),
        "ended" => (4, "Delete"),
        other => (99, other),
    };
    let account = facts.own("account").unwrap_or("unknown");
    let about = kept(json!({
        "name": account, "uid": facts.own("lease"), "type_id": 99, "type": "Credential",
        "data": kept(json!({
            "system": facts.own("system"), "kind": facts.own("credential_kind"), "class": facts.own("class"), "rights": facts.entry.get("rights"),
            "state": state, "expires_at": facts.own("expires_at"), "ending": facts.entry.get("ended"),
        })),
    }));
    let ending = facts.entry.get("ended").and_then(|e| e.get("ending")).and_then(Value::as_str);
    let message = match ending {
        Some(ending) => format!("the credential {account} has ended: {ending}"),
        None => format!("the credential {account}: {state}"),
    };
    let mut event = entity(facts, activity, about, message);
    event.insert("comment".to_owned(), facts.own("reason").into());
    event.insert("actor".to_owned(), facts.own("by").map_or_else(|| json!({ "app_name": PRODUCT }), |name| json!({ "user": person(name) })));
    event
}

fn incident(facts: &Facts<'_>) -> Event {
    let mut event = base(facts, &DETECTION_FINDING, 1, Some("Create"), severity(facts));
    let what = facts.own("what").unwrap_or("unknown");
    let info = kept(json!({
        "uid": facts.own("incident").map_or_else(|| facts.uid(), str::to_owned), "title": what, "desc": facts.own("detail"), "types": [what],
        "created_time": facts.at().as_millis(), "product": product(),
    }));
    event.extend([
        ("finding_info".to_owned(), info),
        ("status_id".to_owned(), 1.into()),
        ("is_alert".to_owned(), true.into()),
        ("message".to_owned(), facts.own("detail").into()),
        ("evidences".to_owned(), facts.agent().map(|_| json!([{ "user": user(facts), "actor": actor(facts, "observe") }])).into()),
    ]);
    event
}

fn house(facts: &Facts<'_>) -> Event {
    let what = facts.own("what").unwrap_or("unknown");
    let (name, digest) = (facts.own("name"), facts.own("digest"));
    let other = |kind: &str| kept(json!({ "name": name.unwrap_or(what), "uid": name.or(digest), "type_id": 99, "type": kind }));
    match what {
        "started" | "stopped" | "store_recovered" => {
            let (activity, word) = match what {
                "started" => (3, "Start"),
                "stopped" => (4, "Stop"),
                _ => (99, "Recover"),
            };
            let mut event = base(facts, &APPLICATION_LIFECYCLE, activity, Some(word), severity(facts));
            event.insert("app".to_owned(), product());
            event.insert("message".to_owned(), format!("the broker: {what}").into());
            event
        }
        "policy" => {
            let policy = kept(json!({ "name": "policy revision", "uid": digest, "version": digest, "type": "Cedar", "is_applied": true }));
            let about = kept(json!({ "name": "policy revision", "uid": digest, "type_id": 5, "type": "Policy", "policy": policy }));
            entity(facts, (3, "Update"), about, "another policy revision is in force".to_owned())
        }
        "secret_set" => entity(facts, (3, "Update"), other("Secret"), "a secret was set".to_owned()),
        "secret_rotated" => entity(facts, (3, "Update"), other("Secret"), "a secret was replaced at its system".to_owned()),
        "secret_lost" => entity(facts, (99, what), other("Secret"), "a system takes neither the old nor the new secret".to_owned()),
        "root_key_rotation_begun" => entity(facts, (1, "Create"), other("Root key"), "the root key is being replaced".to_owned()),
        "root_key_rotated" => {
            entity(facts, (3, "Update"), other("Root key"), "the root key was replaced, and nothing is sealed under the old one".to_owned())
        }
        "secret_removed" => entity(facts, (4, "Delete"), other("Secret"), "a secret was removed".to_owned()),
        "token_revoked" => entity(facts, (11, "Deactivate"), other("Token"), "a token was revoked".to_owned()),
        _ => entity(facts, (99, what), other("Other"), format!("the broker: {what}")),
    }
}

/// What happens with a person, or with how a person proves who he or she is.
fn of_person(facts: &Facts<'_>) -> Event {
    let (what, name) = (facts.own("what").unwrap_or("unknown"), facts.own("person").unwrap_or("unknown"));
    let activity = match what {
        "recognized" => (3, "Update"),
        "passkey_added" => (6, "Enroll"),
        "passkey_removed" => (7, "Unenroll"),
        "enabled" => (8, "Enable"),
        "disabled" => (9, "Disable"),
        _ => (99, what),
    };
    let about = json!({ "name": name, "uid": name, "type_id": 99, "type": "Person" });
    let mut event = entity(facts, activity, about, format!("a person: {what}"));
    event.insert("comment".to_owned(), facts.own("detail").into());
    event.insert("actor".to_owned(), json!({ "user": person(facts.own("by").unwrap_or(name)) }));
    event
}

/// What is taken from an agent, or given back.
fn of_agent(facts: &Facts<'_>) -> Event {
    let (what, name) = (facts.own("what").unwrap_or("unknown"), facts.own("agent").unwrap_or("unknown"));
    let activity = match what {
        "suspended" => (12, "Suspend"),
        "resumed" => (8, "Enable"),
        "key_revoked" | "instance_ended" => (11, "Deactivate"),
        _ => (99, what),
    };
    let data = kept(json!({ "key": facts.own("key"), "instance": facts.own("instance") }));
    let about = json!({ "name": name, "uid": name, "type_id": 99, "type": "Agent", "data": data });
    let mut event = entity(facts, activity, about, format!("an agent: {what}"));
    event.insert("comment".to_owned(), facts.own("reason").into());
    event.insert("actor".to_owned(), facts.own("by").map_or_else(|| json!({ "app_name": PRODUCT }), |name| json!({ "user": person(name) })));
    event
}

/// What is done to the record itself.
fn upkeep(facts: &Facts<'_>) -> Event {
    let about = |name: &str, kind: &str| json!({ "name": name, "uid": name, "type_id": 99, "type": kind });
    let (activity, entity_of, message) = match facts.kind() {
        "shard" => ((1, "Create"), about(facts.own("origin").unwrap_or(facts.origin), "Ledger"), "the ledger goes on under another name"),
        "erasure" => ((4, "Delete"), about("texts of calls", "Text"), "texts of calls were erased"),
        "texts_read" => ((2, "Read"), about(facts.text("call").unwrap_or("a call"), "Text"), "the texts of a call were looked at"),
        _ => ((4, "Delete"), about(facts.origin, "Ledger"), "old entries were pruned to their leaf hashes"),
    };
    let mut event = entity(facts, activity, entity_of, message.to_owned());
    event.insert("comment".to_owned(), facts.own("reason").into());
    event.insert("actor".to_owned(), facts.own("by").map_or_else(|| json!({ "app_name": PRODUCT }), |name| json!({ "user": person(name) })));
    event
}

#[cfg(test)]
mod tests;
