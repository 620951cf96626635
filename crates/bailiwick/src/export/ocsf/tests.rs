//! What entries become, one by one. That events fit the published schema is shown over a real run, in `tests/it/exports.rs`.

use super::*;

fn of(entry: &Value, cause: Option<&Value>, task: Option<&Value>) -> Value {
    let text = entry.to_string();
    event(&Facts { origin: "ledger.example/2026", index: 7, leaf: [9; 32], text: &text, entry, cause, task })
}

fn intent(effect: &str) -> Value {
    json!({ "v": 1, "kind": "intent", "at": "2026-11-23T00:00:00.000Z", "call": "call_x", "task": "task_1", "agent": "spiffe://td/agent/scout",
        "instance": "inst_1", "subject": "ana", "owner": "ben", "actors": ["spiffe://td/agent/lead"], "token": "tok_1", "tool": "shop.refund",
        "effect": effect, "target": "stdio:shop", "arguments": "aa", "digest": "bb", "revision": "r1", "policies": [{ "id": "p1", "reason": "because" }] })
}

#[test]
fn a_permitted_call_names_actor_session_policy_and_chain() {
    let event = of(&intent("transfer"), None, None);
    assert_eq!((&event["class_uid"], &event["type_uid"], &event["activity_name"]), (&json!(6003), &json!(600_399), &json!("transfer")));
    assert_eq!((&event["action_id"], &event["disposition_id"]), (&json!(1), &json!(1)));
    assert_eq!(event["actor"]["user"], json!({ "uid": "spiffe://td/agent/scout", "name": "scout", "type_id": 4, "credential_uid": "tok_1" }));
    assert_eq!((&event["actor"]["session"]["uid"], &event["actor"]["invoked_by"]), (&json!("task_1"), &json!("spiffe://td/agent/lead")));
    assert_eq!(event["actor"]["authorizations"][0]["policy"]["desc"], "because");
    assert_eq!(event["unmapped"]["delegation"]["chain"][1]["spiffe_id"], "spiffe://td/agent/lead");
    assert_eq!(event["unmapped"]["record_integrity"]["fingerprint"]["value"], "09".repeat(32));
    assert_eq!((&event["metadata"]["uid"], &event["metadata"]["sequence"]), (&json!("ledger.example/2026/7"), &json!(7)));
    let back: Value = serde_json::from_str(event["raw_data"].as_str().unwrap()).unwrap();
    assert_eq!(back, intent("transfer"));
}

#[test]
fn effects_are_activities_where_ocsf_has_one() {
    for (effect, id) in [("read", 2), ("write", 3), ("delete", 4), ("influence", 99), ("approve", 99)] {
        assert_eq!(of(&intent(effect), None, None)["activity_id"], id, "{effect}");
    }
}

#[test]
fn an_outcome_tells_what_its_intent_said_and_what_became_of_it() {
    let cause = intent("read");
    for (result, id) in [("done", 1), ("failed", 2), ("not_sent", 2), ("unknown", 0)] {
        let outcome = json!({ "kind": "outcome", "at": "2026-11-23T00:00:02Z", "call": "call_x", "intent": 3, "result": result, "duration_ms": 5 });
        let event = of(&outcome, Some(&cause), None);
        assert_eq!((&event["status_id"], &event["api"]["operation"], &event["duration"]), (&json!(id), &json!("shop.refund"), &json!(5)), "{result}");
        assert_eq!(event["end_time"].as_i64().unwrap() - event["start_time"].as_i64().unwrap(), 2000);
    }
}

#[test]
fn of_a_person_it_is_told_who_did_what_to_whom() {
    let step =
        json!({ "kind": "person", "at": "2026-11-23T00:00:00Z", "what": "disabled", "person": "ana", "by": "idp", "detail": "account-disabled" });
    let event = of(&step, None, None);
    assert_eq!((&event["class_uid"], &event["activity_id"], &event["severity_id"]), (&json!(3004), &json!(9), &json!(2)));
    assert_eq!(
        (&event["entity"]["name"], &event["actor"]["user"]["name"], &event["comment"]),
        (&json!("ana"), &json!("idp"), &json!("account-disabled"))
    );
    let own = of(&json!({ "kind": "person", "at": "2026-11-23T00:00:00Z", "what": "signed_in", "person": "ana", "way": "oidc" }), None, None);
    assert_eq!((&own["actor"]["user"]["name"], &own["activity_name"]), (&json!("ana"), &json!("signed_in")));
}

#[test]
fn of_an_agent_it_is_told_who_took_what_from_it() {
    let agent = "spiffe://td/agent/scout";
    let step = |what: &str, more: Value| {
        let mut step = json!({ "kind": "agent", "at": "2026-11-23T00:00:00Z", "what": what, "agent": agent, "by": "ops" });
        step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        of(&step, None, None)
    };
    let event = step("suspended", json!({ "reason": "odd calls" }));
    assert_eq!((&event["class_uid"], &event["activity_id"], &event["severity_id"]), (&json!(3004), &json!(12), &json!(2)));
    assert_eq!((&event["entity"]["name"], &event["actor"]["user"]["name"], &event["comment"]), (&json!(agent), &json!("ops"), &json!("odd calls")));
    assert_eq!(step("resumed", json!({}))["severity_id"], 1);
    assert_eq!(step("key_revoked", json!({ "key": "k" }))["entity"]["data"]["key"], "k");
}

#[test]
fn a_denial_is_blocked_and_counts_what_it_stands_for() {
    let denial = json!({ "kind": "denial", "at": "2026-11-23T00:00:00Z", "tool": "shop.x", "code": "policy.denied", "detail": "no", "repeats": 4 });
    let event = of(&denial, None, None);
    assert_eq!((&event["action_id"], &event["disposition_id"], &event["status_code"]), (&json!(2), &json!(2), &json!("policy.denied")));
    assert_eq!(event["count"], 5);
}

#[test]
fn what_a_task_was_given_is_told_with_its_calls_and_when_it_is_new() {
    let mut cause = intent("transfer");
    cause["labels"] = json!(["pii", "untrusted"]);
    let outcome = json!({ "kind": "outcome", "at": "2026-11-23T00:00:02Z", "call": "call_x", "intent": 3, "result": "done", "duration_ms": 5 });
    for event in [of(&cause, None, None), of(&outcome, Some(&cause), None)] {
        assert_eq!(event["unmapped"]["bailiwick"]["labels"], json!(["pii", "untrusted"]));
    }
    let new = json!({ "kind": "labelled", "at": "2026-11-23T00:00:00Z", "task": "task_1", "tool": "shop.list_tickets", "labels": ["untrusted"] });
    let event = of(&new, None, Some(&json!({ "spiffe_id": "spiffe://td/agent/scout" })));
    assert_eq!((&event["class_uid"], &event["activity_id"], &event["entity"]["uid"]), (&json!(3004), &json!(3), &json!("task_1")));
    assert_eq!((&event["message"], &event["actor"]["user"]["name"]), (&json!("the task is given what bears: untrusted"), &json!("scout")));
}

#[test]
fn in_the_step_of_a_hold_the_person_acts() {
    let hold =
        json!({ "kind": "hold", "at": "2026-11-23T00:00:00Z", "tool": "shop.refund", "effect": "transfer", "agent": "spiffe://td/agent/scout" });
    let yes = json!({ "kind": "hold_step", "at": "2026-11-23T00:00:09Z", "step": "approved", "approval": { "person": "ben" } });
    let no = json!({ "kind": "hold_step", "at": "2026-11-23T00:00:09Z", "step": "refused", "by": "cat", "reason": "too much" });
    let (yes, no) = (of(&yes, Some(&hold), None), of(&no, Some(&hold), None));
    assert_eq!((&yes["actor"]["user"]["uid"], &yes["disposition_id"]), (&json!("ben"), &json!(8)));
    assert_eq!((&no["actor"]["user"]["uid"], &no["disposition_id"], &no["status_detail"]), (&json!("cat"), &json!(25), &json!("too much")));
    assert_eq!(yes["api"]["operation"], "shop.refund");
}

#[test]
fn a_claimed_model_is_named_with_the_maker_only_if_that_was_claimed_too() {
    for (model, provider) in [("acme/large-1", "acme"), ("large-1", "unknown")] {
        let task = json!({ "model_claimed": model });
        assert_eq!(of(&intent("read"), None, Some(&task))["ai_model"], json!({ "name": model, "ai_provider": provider }));
    }
    assert_eq!(of(&intent("read"), None, Some(&json!({ "model_claimed": null }))).get("ai_model"), None);
}

#[test]
fn a_kind_that_this_mapping_does_not_know_is_told_all_the_same() {
    let event = of(&json!({ "kind": "later", "at": "2026-11-23T00:00:00Z", "x": 1 }), None, None);
    assert_eq!((&event["class_uid"], &event["activity_name"]), (&json!(0), &json!("later")));
    assert!(event["raw_data"].as_str().unwrap().contains("\"x\":1"));
}
