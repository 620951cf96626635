//! The engine against plain Cedar: all policies, all entities from JSON under the schema, the whole context, no slices, no memory.

use bailiwick_core::Verdict;
use bailiwick_policy::Engine;
use cedar_policy::{Authorizer, Context, Decision, Entities, EntityUid, Policy, PolicyId, PolicySet, Request, Schema};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::always::{ask, rule, text};
use crate::world::{Ask, NOW, engine, world};

fn entities(schema: &Schema, ask: &Ask) -> Entities {
    let uid = |kind: &str, id: &str| json!({ "type": kind, "id": id });
    let reference = |kind: &str, id: &str| json!({ "__entity": uid(kind, id) });
    let mut all: Vec<Value> = Vec::new();
    for person in world().people {
        let roles: Vec<String> = person.roles.iter().map(|r| format!("{r:?}").to_lowercase()).collect();
        all.push(json!({ "uid": uid("Person", person.name.as_str()), "attrs": { "roles": roles }, "parents": [] }));
    }
    for agent in world().agents {
        all.push(json!({ "uid": uid("Agent", agent.name.as_str()), "parents": [], "attrs": {
            "owner": reference("Person", agent.owner.as_str()), "purpose": agent.purpose, "risk": agent.risk.level(), "enabled": agent.enabled } }));
    }
    all.push(json!({ "uid": uid("System", "shop"), "attrs": { "name": "shop" }, "parents": [] }));
    // Whoever gave it on in these calls is the same agent.
    let chain: Vec<Value> = (ask.depth > 0).then(|| reference("Agent", &ask.agent)).into_iter().collect();
    all.push(json!({ "uid": uid("Task", "t"), "parents": [uid("Agent", &ask.agent)], "attrs": {
        "agent": reference("Agent", &ask.agent), "owner": reference("Person", "olga"), "subject": reference("Person", &ask.subject),
        "purpose": ask.purpose, "depth": ask.depth, "chain": chain, "root": reference("Agent", &ask.agent), "undivided": ask.undivided } }));
    Entities::from_json_value(Value::Array(all), Some(schema)).unwrap()
}

/// What plain Cedar says, by our rules for errors. `None` if the arguments are not what the tool's schema asks for.
fn plainly(engine: &Engine, ask: &Ask, approved: &[&str]) -> Option<Verdict> {
    let (schema, _) = Schema::from_cedarschema_str(engine.schema_text()).unwrap();
    let mut policies = PolicySet::new();
    for policy in engine.policies() {
        policies.add(Policy::parse(Some(PolicyId::new(&*policy.policy.id)), &policy.text).unwrap()).unwrap();
    }
    let uid = |text: String| text.parse::<EntityUid>().unwrap();
    let action = uid(format!("Action::\"{}\"", ask.tool));
    let input: Value = serde_json::from_str(&ask.arguments).unwrap();
    let context = json!({ "approved": approved, "approvals": approved.len(), "now": NOW.as_seconds(), "hour": 10, "weekday": 1, "calls": 0,
        "labels": ask.labels, "input": input });
    let context = Context::from_json_value(context, Some((&schema, &action))).ok()?;
    let request = Request::new(uid("Task::\"t\"".to_owned()), action, uid("System::\"shop\"".to_owned()), context, Some(&schema)).ok()?;
    let response = Authorizer::new().is_authorized(&request, &policies, &entities(&schema, ask));
    if let Some(error) = response.diagnostics().errors().next() {
        return Some(Verdict::Error(error.to_string()));
    }
    let mut by: Vec<_> = response.diagnostics().reason().map(ToString::to_string).collect();
    by.sort();
    let by: Vec<_> = engine.policies().iter().map(|p| p.policy.clone()).filter(|p| by.contains(&p.id.to_string())).collect();
    Some(match response.decision() {
        Decision::Allow => Verdict::Permit(by),
        Decision::Deny if by.is_empty() => Verdict::Silent,
        Decision::Deny => Verdict::Forbid(by),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn the_engine_says_what_plain_cedar_says(
        rules in prop::collection::vec(rule(), 0..8), ask in ask(), approved in prop::sample::subsequence(vec!["ana", "ben"], 0..=2),
    ) {
        let engine = engine(&text(&rules));
        if let Some(plain) = plainly(&engine, &ask, &approved) {
            let ours = ask.of(&engine, &approved);
            match (&plain, &ours) {
                (Verdict::Error(_), Verdict::Error(_)) => {}
                _ => prop_assert_eq!(plain, ours),
            }
        }
    }
}

#[test]
fn plain_cedar_answers_the_calls_that_are_compared() {
    let engine = engine(r#"@id("all") permit (principal, action, resource);"#);
    assert!(matches!(plainly(&engine, &Ask::new("low", "shop.delete_note", "{}"), &[]), Some(Verdict::Permit(_))));
    assert!(matches!(plainly(&engine, &Ask::new("low", "shop.refund_order", r#"{"cents":1,"order":"1"}"#), &[]), Some(Verdict::Permit(_))));
    assert_eq!(plainly(&engine, &Ask::new("low", "shop.refund_order", r#"{"cents":"1"}"#), &[]), None);
}
