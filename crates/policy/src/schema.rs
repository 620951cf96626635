//! The Cedar schema of an installation: entity types, effects as groups of actions, one action for each tool.

use std::collections::BTreeMap;

use bailiwick_core::{Effect, ToolName};
use cedar_policy::{Schema, SchemaFragment};
use serde_json::{Map, Value, json};

use crate::shape::{ArgumentKind, InputShape};

pub(crate) const ACTION: &str = "Action";
pub(crate) const AGENT: &str = "Agent";
pub(crate) const PERSON: &str = "Person";
pub(crate) const SYSTEM: &str = "System";
pub(crate) const TASK: &str = "Task";

/// The group of everything that is not only reading, and the group of everything.
pub(crate) const ACT: &str = "act";
pub(crate) const ANY: &str = "any";
/// All groups of actions. No tool has such a name: a tool's name has a dot.
pub(crate) const GROUPS: [&str; 9] = ["any", "act", "read", "influence", "write", "delete", "transfer", "approve", "issue"];

/// The groups that a tool of this effect is in, nearest first.
pub(crate) const fn groups_of(effect: Effect) -> &'static [&'static str] {
    match effect {
        Effect::Read => &["read", ANY],
        Effect::Influence => &["influence", ACT, ANY],
        Effect::Write => &["write", ACT, ANY],
        Effect::Delete => &["delete", ACT, ANY],
        Effect::Transfer => &["transfer", ACT, ANY],
        Effect::Approve => &["approve", ACT, ANY],
        Effect::Issue => &["issue", ACT, ANY],
    }
}

fn attribute(kind: ArgumentKind, required: bool) -> Value {
    let mut attribute = match kind {
        ArgumentKind::Text => json!({ "type": "String" }),
        ArgumentKind::Integer => json!({ "type": "Long" }),
        ArgumentKind::Decimal => json!({ "type": "Extension", "name": "decimal" }),
        ArgumentKind::Bool => json!({ "type": "Boolean" }),
        ArgumentKind::Texts => json!({ "type": "Set", "element": { "type": "String" } }),
    };
    if let Some(members) = attribute.as_object_mut() {
        members.insert("required".to_owned(), Value::Bool(required));
    }
    attribute
}

fn record(attributes: Value) -> Value {
    json!({ "type": "Record", "attributes": attributes })
}

fn entity_types() -> Value {
    let text = json!({ "type": "String" });
    let long = json!({ "type": "Long" });
    let entity = |name: &str| json!({ "type": "Entity", "name": name });
    json!({
        PERSON: { "shape": record(json!({ "roles": { "type": "Set", "element": text } })) },
        AGENT: { "shape": record(json!({
            "owner": entity(PERSON), "purpose": text, "risk": long, "enabled": { "type": "Boolean" },
        })) },
        SYSTEM: { "shape": record(json!({ "name": text })) },
        TASK: { "memberOfTypes": [AGENT], "shape": record(json!({
            "agent": entity(AGENT), "owner": entity(PERSON), "subject": entity(PERSON), "purpose": text, "depth": long,
            "chain": { "type": "Set", "element": entity(AGENT) }, "root": entity(AGENT), "undivided": { "type": "Boolean" },
            "component": { "type": "String", "required": false },
            "model": { "type": "String", "required": false }, "model_attested": { "type": "String", "required": false },
        })) },
    })
}

/// What every call's context holds, and the call's arguments.
fn applies_to(input: &InputShape) -> Value {
    let arguments: Map<String, Value> = input.arguments.iter().map(|(n, a)| (n.clone(), attribute(a.kind, a.required))).collect();
    let texts = json!({ "type": "Set", "element": { "type": "String" } });
    let long = json!({ "type": "Long" });
    json!({
        "principalTypes": [TASK], "resourceTypes": [SYSTEM],
        "context": record(json!({
            "approved": texts, "approvals": long, "now": long, "hour": long, "weekday": long, "calls": long, "labels": texts,
            "input": record(Value::Object(arguments)),
        })),
    })
}

/// The schema in Cedar's JSON form, where any name can stand.
fn json_schema(tools: &BTreeMap<ToolName, (Effect, InputShape)>) -> Value {
    let mut actions = Map::new();
    actions.insert(ANY.to_owned(), json!({}));
    actions.insert(ACT.to_owned(), json!({ "memberOf": [{ "id": ANY }] }));
    // Effects apply to calls without arguments, so that a policy about an effect is valid before there is any tool.
    for effect in Effect::ALL {
        let parents: Vec<Value> = groups_of(effect).iter().skip(1).take(1).map(|g| json!({ "id": g })).collect();
        actions.insert(effect.word().to_owned(), json!({ "memberOf": parents, "appliesTo": applies_to(&InputShape::default()) }));
    }
    for (name, (effect, input)) in tools {
        actions.insert(name.as_str().to_owned(), json!({ "memberOf": [{ "id": effect.word() }], "appliesTo": applies_to(input) }));
    }
    json!({ "": { "entityTypes": entity_types(), "actions": actions } })
}

/// Makes the schema and its text for people and editors.
pub(crate) fn compile(tools: &BTreeMap<ToolName, (Effect, InputShape)>) -> Result<(Schema, String), String> {
    let fragment = SchemaFragment::from_json_value(json_schema(tools)).map_err(|e| e.to_string())?;
    let text = fragment.to_cedarschema().map_err(|e| e.to_string())?;
    let schema = Schema::from_schema_fragments([fragment]).map_err(|e| e.to_string())?;
    Ok((schema, text))
}
