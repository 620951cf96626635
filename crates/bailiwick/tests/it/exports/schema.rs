//! Events of a real run against the published schema of OCSF 1.8.0 (`ocsf/README.md` says where it is from).

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_core::Digest;
use bailiwick_ledger::leaf_hash;
use bailiwick_wire::Raw;
use bailiwick_wire::json::Limits;
use bailiwick_wire::schema::Schema;
use serde_json::{Value, json};

use super::{ARGUMENT, PURPOSE, TRACE, check_complete, index_of, place_with, read_lines, size, story};
use crate::support::until;

const CLASSES: [(u64, &str); 6] = [
    (0, include_str!("../ocsf/0.json")),
    (2004, include_str!("../ocsf/2004.json")),
    (3003, include_str!("../ocsf/3003.json")),
    (3004, include_str!("../ocsf/3004.json")),
    (6002, include_str!("../ocsf/6002.json")),
    (6003, include_str!("../ocsf/6003.json")),
];

fn schemas() -> BTreeMap<u64, Schema> {
    let compile = |text: &str| Schema::compile(Raw::parse(text.as_bytes(), &Limits::REPLY).unwrap()).unwrap();
    CLASSES.iter().map(|(class, text)| (*class, compile(text))).collect()
}

fn fault(schemas: &BTreeMap<u64, Schema>, event: &Value) -> Option<String> {
    let text = event.to_string();
    let Some(schema) = event["class_uid"].as_u64().and_then(|class| schemas.get(&class)) else { return Some("no known class".to_owned()) };
    schema.check(Raw::parse(text.as_bytes(), &Limits::REPLY).unwrap()).err().map(|violation| violation.to_string())
}

#[test]
fn nothing_of_the_published_schema_but_patterns_of_addresses_goes_unchecked() {
    for (class, schema) in schemas() {
        let other: Vec<&String> = schema.unchecked().iter().filter(|u| !u.ends_with(" pattern")).collect();
        assert!(other.is_empty(), "{class}: {other:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_entry_of_a_run_is_an_event_that_fits_the_published_schema_and_a_broken_one_does_not() {
    let (place, dir) = place_with("\n[[export]]\nname = \"siem\"\nformat = \"ocsf\"\nfile = \"{dir}/events.jsonl\"\n").await;
    let broker = place.open().await;
    story(&place, &broker).await;
    let (entries, size) = (broker.entries().await, size(&broker).await);
    let path = dir.path().join("events.jsonl");
    until("every entry is in the file", || read_lines(&path).len() as u64 >= size).await;
    let events = read_lines(&path);
    let schemas = schemas();

    check_complete(&events.iter().map(index_of).collect::<Vec<_>>(), size);
    let known: BTreeSet<&str> = bailiwick::entry::WORDS.iter().copied().collect();
    let mut met = BTreeSet::new();
    let mut uids = BTreeSet::new();
    for event in &events {
        assert_eq!(fault(&schemas, event), None, "{event:#}");
        let entry = &entries[usize::try_from(index_of(event)).unwrap()];
        // Whoever has the event can compute the leaf.
        let raw = event["raw_data"].as_str().unwrap();
        assert_eq!(&serde_json::from_str::<Value>(raw).unwrap(), entry);
        let leaf = Digest::from_bytes(*leaf_hash(raw.as_bytes()).as_bytes()).to_string();
        assert_eq!(event["unmapped"]["record_integrity"]["fingerprint"]["value"], leaf);
        assert!(uids.insert(event["metadata"]["uid"].as_str().unwrap().to_owned()), "{event}");
        met.insert(event["metadata"]["event_code"].as_str().unwrap().to_owned());
        // None of today's entries is one that the mapping does not know.
        assert!(!known.contains(entry["kind"].as_str().unwrap()) || event["class_uid"] != 0, "{event:#}");
    }
    for kind in ["intent", "outcome", "denial", "hold", "hold_step", "task_opened", "task_ended", "tool", "incident", "house", "lease"] {
        assert!(met.contains(kind), "the run has no entry of kind {kind}");
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(ARGUMENT), "an argument is in an event");

    check_meaning(&events);
    check_broken(&schemas, &events);
    broker.stop().await;
}

/// What a security team looks for is where OCSF says that it is.
fn check_meaning(events: &[Value]) {
    let of = |kind: &'static str| events.iter().filter(move |e| e["metadata"]["event_code"] == kind);
    let outcome = of("outcome").find(|e| e["api"]["operation"] == "sys.look" && e["trace"]["uid"] == TRACE).expect("no traced outcome");
    assert_eq!((&outcome["class_uid"], &outcome["status_id"]), (&json!(6003), &json!(1)));
    assert_eq!(outcome["actor"]["user"]["uid"], "spiffe://bailiwick.local/agent/scout");
    assert_eq!(outcome["actor"]["invoked_by"], "ana");
    assert!(outcome["actor"]["authorizations"][0]["policy"]["uid"].is_string(), "{outcome:#}");
    assert!(of("outcome").any(|e| e["status_id"] == 2) && of("outcome").any(|e| e["status_id"] == 0), "no failure, or none unknown");
    assert!(of("denial").all(|e| e["action_id"] == 2 && e["disposition_id"] == 2));
    let opened = of("task_opened").find(|e| e["unmapped"]["bailiwick"]["purpose"] == PURPOSE).expect("no purpose");
    assert!(opened["privileges"].as_array().unwrap().iter().any(|p| p == "sys.pay"), "{opened:#}");
    let refused = of("hold_step").find(|e| e["disposition_id"] == 25).expect("nobody refused");
    assert_eq!((&refused["actor"]["user"]["uid"], &refused["api"]["operation"]), (&json!("ben"), &json!("sys.pay")));
    let incident = of("incident").next().unwrap();
    assert_eq!((&incident["class_uid"], &incident["severity_id"]), (&json!(2004), &json!(4)));
    assert!(of("task_ended").all(|e| e["class_uid"] == 3003) && of("tool").all(|e| e["class_uid"] == 3004));
}

/// The check can fail: each of these is no event any more.
fn check_broken(schemas: &BTreeMap<u64, Schema>, events: &[Value]) {
    let good = events.iter().find(|e| e["metadata"]["event_code"] == "intent").unwrap();
    type Breakage = (&'static str, fn(&mut Value));
    let breakages: [Breakage; 9] = [
        ("no time", |e| drop(e.as_object_mut().unwrap().remove("time"))),
        ("a time in words", |e| e["time"] = json!("today")),
        ("another type", |e| e["type_uid"] = json!(600_305)),
        ("another category", |e| e["category_uid"] = json!(3)),
        ("a member that OCSF does not have", |e| e["verdict"] = json!("allow")),
        ("a member of an object that OCSF does not have", |e| e["actor"]["user"]["role"] = json!("root")),
        ("no product", |e| drop(e["metadata"].as_object_mut().unwrap().remove("product"))),
        ("an action that there is not", |e| e["action_id"] = json!(12)),
        ("a user without any name", |e| e["actor"]["user"] = json!({ "type_id": 4 })),
    ];
    for (what, breakage) in breakages {
        let mut event = good.clone();
        breakage(&mut event);
        assert!(fault(schemas, &event).is_some(), "an event with {what} is taken");
    }
}
