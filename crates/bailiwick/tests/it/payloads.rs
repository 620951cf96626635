//! Texts of calls: kept sealed, shown to those who may look, gone when their time is over or when somebody had them erased, whatever
//! dies meanwhile; and a ledger that verifies through all of it.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::{Broker, Client, ManualClock, PATIENCE, Place, TaskToken, store_file};

const CANARY: &str = "canary-9c1e55";
const SIGABRT: i32 = 6;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn arguments(n: u32) -> String {
    format!(r#"{{"key":"k{n}","value":"{CANARY}-{n}"}}"#)
}

fn payment(n: u32) -> String {
    format!(r#"{{"recipient":"{CANARY}-{n}","amount":2.50}}"#)
}

fn answer(id: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"{CANARY}-answer"}}],"isError":false,"resultType":"complete"}}}}"#
    )
}

/// A place whose configuration keeps this.
async fn place(retention: &str) -> Place {
    let place = Place::with(|text| format!("{text}\n[retention]\n{retention}\n")).await;
    place.upstream.play(answer);
    place
}

/// Does any file of the directory hold the text, in plain or as it stands in hex?
fn plain(dir: &Path, text: &str) -> Option<String> {
    let hex: String = text.bytes().map(|b| format!("{b:02x}")).collect();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            if [text, hex.as_str()].iter().any(|t| bytes.windows(t.len()).any(|w| w == t.as_bytes())) {
                return Some(path.display().to_string());
            }
        }
    }
    None
}

/// The call of the newest entry of this kind and tool.
fn call_of(entries: &[Value], kind: &str, tool: &str) -> String {
    let entry = entries.iter().rev().find(|e| e["kind"] == kind && e["tool"] == tool).unwrap();
    entry["call"].as_str().unwrap().to_owned()
}

async fn texts(client: &Client<'_>, who: &str, call: &str) -> Value {
    let answer = client.by(who, Method::GET, &format!("/v1/calls/{call}/texts"), None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn end(client: &Client<'_>, task: &TaskToken) {
    let answer = client.with_token(&task.token, Method::POST, &format!("/v1/tasks/{}/complete", task.id), "").await;
    assert!(answer.status < 300, "{answer:?}");
}

fn order(member: &str, id: &str) -> Value {
    json!({ member: id, "reason": "request 4711" })
}

async fn erase(client: &Client<'_>, order: Value) -> Value {
    let answer = client.by("ops", Method::POST, "/v1/erasures", Some(order)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn stop_and_verify(broker: Broker, place: &Place) -> u64 {
    broker.check_sound(place).await;
    broker.stop().await;
    place.verify()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_is_sealed_everywhere_and_shown_to_an_auditor_and_to_the_owner_with_each_look_on_record() {
    let place = place("answers = 30").await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "sys.put", &arguments(1)).await.word(), "done");
    assert_eq!(client.call(&task, "sys.look", &format!(r#"{{"key":"{CANARY}-read"}}"#)).await.word(), "done");
    client.approved(&task, "sys.pay", &payment(1)).await;
    // Held, approved and not used; and used.
    assert_eq!(plain(&place.data, CANARY), None);
    assert_eq!(client.call(&task, "sys.pay", &payment(1)).await.word(), "done");
    let entries = broker.entries().await;
    let put = call_of(&entries, "intent", "sys.put");
    for who in ["ben", "ana"] {
        let shown = texts(&client, who, &put).await;
        assert_eq!(shown["arguments"]["text"], arguments(1), "{shown}");
        assert_eq!((&shown["arguments"]["on_record"], &shown["arguments"]["truncated"]), (&json!(true), &json!(false)));
        assert!(shown["answer"]["text"].as_str().unwrap().contains("-answer") && shown["answer"]["on_record"] == true, "{shown}");
    }
    // Arguments of a read are not kept unless somebody says so; its answer is, here.
    let look = texts(&client, "ben", &call_of(&entries, "intent", "sys.look")).await;
    assert_eq!((&look["arguments"]["state"], &look["answer"]["state"]), (&json!("not_kept"), &json!("kept")));
    for (kind, call) in [("hold", call_of(&entries, "hold", "sys.pay")), ("intent", call_of(&entries, "intent", "sys.pay"))] {
        assert_eq!(texts(&client, "ben", &call).await["arguments"]["text"], payment(1), "{kind}");
    }
    // An operator looks after the broker, not into calls; a person who has nothing to do with it does not learn that it exists.
    for who in ["ops", "cat"] {
        let refused = client.by(who, Method::GET, &format!("/v1/calls/{put}/texts"), None).await;
        assert!(matches!(refused.status, 401 | 404), "{who}: {refused:?}");
    }
    let looks = broker.entries().await.iter().filter(|e| e["kind"] == "texts_read" && e["call"] == put).count();
    assert_eq!(looks, 2);
    assert_eq!(plain(&place.data, CANARY), None);
    stop_and_verify(broker, &place).await;
    assert_eq!(plain(&place.data, CANARY), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_erased_is_gone_with_its_salt_and_the_ledger_says_who_and_why_and_verifies() {
    let place = place("arguments = 30\nanswers = 30").await;
    let broker = place.open().await;
    let client = place.client();
    let (task, other) = (client.task("scout").await, client.task("scout").await);
    assert_eq!(client.call(&task, "sys.put", &arguments(1)).await.word(), "done");
    client.approved(&task, "sys.pay", &payment(1)).await;
    assert_eq!(client.call(&task, "sys.pay", &payment(1)).await.word(), "done");
    assert_eq!(client.call(&other, "sys.put", &arguments(2)).await.word(), "done");
    let entries = broker.entries().await;
    let (put, pay, held) = (call_of(&entries[..], "intent", "sys.put"), call_of(&entries, "intent", "sys.pay"), call_of(&entries, "hold", "sys.pay"));
    let first = entries.iter().find(|e| e["kind"] == "intent" && e["tool"] == "sys.put").unwrap();
    let first_call = first["call"].as_str().unwrap().to_owned();
    let id = task.id.parse().unwrap();
    let digest = broker.house.argument_digest(id, arguments(1).as_bytes()).await.unwrap().unwrap();
    assert_eq!(first["arguments"], digest.to_string());
    // What is open keeps what it needs.
    let refused = client.by("ops", Method::POST, "/v1/erasures", Some(order("task", &task.id))).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert_eq!(client.by("ben", Method::POST, "/v1/erasures", Some(order("task", &task.id))).await.status, 403);
    end(&client, &task).await;
    end(&client, &other).await;
    let dry = erase(&client, json!({ "task": task.id, "reason": "x", "dry_run": true })).await;
    assert_eq!((&dry["tasks"], &dry["texts"]), (&json!([task.id]), &json!(0)));
    assert_eq!(texts(&client, "ben", &pay).await["arguments"]["state"], "kept");
    let report = erase(&client, order("task", &task.id)).await;
    // Arguments of the held call, and arguments and answer of the two that were made.
    assert_eq!(report["texts"], 5, "{report}");
    for call in [&pay, &held, &first_call] {
        let shown = texts(&client, "ben", call).await;
        assert_eq!((&shown["arguments"]["state"], &shown["arguments"]["by"]), (&json!("erased"), &json!("ops")), "{shown}");
        assert_eq!(shown["arguments"]["entry"], report["entries"][0]);
    }
    assert_eq!(texts(&client, "ben", &put).await["arguments"]["text"], arguments(2), "another task's text is gone");
    // Nobody can recognise the digests any more, not even with the broker's own keys.
    assert_eq!(broker.house.argument_digest(id, arguments(1).as_bytes()).await.unwrap(), None);
    let index = usize::try_from(report["entries"][0].as_u64().unwrap()).unwrap();
    let entry = &broker.entries().await[index];
    assert_eq!(
        (&entry["kind"], &entry["by"], &entry["reason"], &entry["tasks"]),
        (&json!("erasure"), &json!("ops"), &json!("request 4711"), &json!([task.id]))
    );
    assert!(!entry.to_string().contains(CANARY));
    // The held call's arguments, which people were shown, are gone too.
    let hold = broker.house.store.holds(bailiwick_store::HoldFilter::default()).await.unwrap().remove(0);
    assert!(hold.arguments.is_empty());
    broker.stop().await;
    place.verify();
    let payloads = rusqlite::Connection::open(place.data.join("payloads.sqlite")).unwrap();
    let left: i64 = payloads.query_row("SELECT count(*) FROM payloads", [], |r| r.get(0)).unwrap();
    assert_eq!(left, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_erased_by_what_stands_in_them_and_by_person_and_one_by_one() {
    let place = place("arguments = 30").await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    let mut calls = Vec::new();
    for n in 1..=3 {
        assert_eq!(client.call(&task, "sys.put", &arguments(n)).await.word(), "done");
        calls.push(call_of(&broker.entries().await, "intent", "sys.put"));
    }
    let said = format!(r#"{{"key":"x","value":"\u00e9 \"{CANARY}\""}}"#);
    assert_eq!(client.call(&task, "sys.put", &said).await.word(), "done");
    // While the task is open, it is said that nothing happens to it.
    let report = erase(&client, order("containing", &format!("{CANARY}-2"))).await;
    assert_eq!((&report["open"], &report["texts"]), (&json!([task.id]), &json!(0)));
    end(&client, &task).await;
    let state = async |n: usize| texts(&client, "ben", &calls[n]).await["arguments"]["state"].clone();
    let report = erase(&client, order("containing", &format!("{CANARY}-2"))).await;
    assert_eq!((&report["calls"], &report["texts"]), (&json!([calls[1]]), &json!(1)));
    assert_eq!((state(0).await, state(1).await), (json!("kept"), json!("erased")));
    // What stands there with an escape is found as JSON writes it.
    assert_eq!(erase(&client, order("containing", &format!("\"{CANARY}\""))).await["texts"], 1);
    let report = erase(&client, order("call", &calls[0])).await;
    assert_eq!((&report["calls"], &report["texts"]), (&json!([calls[0]]), &json!(1)));
    // What is left of the task is still shown, and still the text whose digest is on record, without the task's salt.
    let kept = texts(&client, "ben", &calls[2]).await;
    assert_eq!(kept["arguments"]["on_record"], true, "{kept}");
    assert_eq!(erase(&client, order("subject", "ana")).await["texts"], 1);
    assert_eq!(state(2).await, json!("erased"));
    for (bad, status) in [
        (json!({ "reason": "x" }), 400),
        (json!({ "task": task.id, "subject": "ana", "reason": "x" }), 400),
        (json!({ "task": task.id, "reason": " " }), 400),
        (json!({ "containing": "ab", "reason": "x" }), 400),
        (json!({ "containing": "nowhere at all", "reason": "x" }), 404),
        (json!({ "subject": "nobody", "reason": "x" }), 404),
        (json!({ "task": task.id, "reason": "x".repeat(201) }), 400),
    ] {
        assert_eq!(client.by("ops", Method::POST, "/v1/erasures", Some(bad.clone())).await.status, status, "{bad}");
    }
    broker.stop().await;
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_was_put_in_the_place_of_another_or_changed_is_not_shown() {
    let place = place("answers = 30").await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    for n in 1..=2 {
        assert_eq!(client.call(&task, "sys.put", &arguments(n)).await.word(), "done");
    }
    let entries = broker.entries().await;
    let calls: Vec<String> = entries.iter().filter(|e| e["kind"] == "intent").map(|e| e["call"].as_str().unwrap().to_owned()).collect();
    assert_eq!(texts(&client, "ben", &calls[0]).await["arguments"]["state"], "kept");
    broker.stop().await;
    let payloads = rusqlite::Connection::open(place.data.join("payloads.sqlite")).unwrap();
    // The arguments of the first call in the place of the second's, and its answer in the place of its own arguments.
    let swap = "UPDATE payloads SET sealed = (SELECT sealed FROM payloads p WHERE p.kind = 1 AND p.id = (SELECT min(id) FROM payloads)) WHERE kind = 1 AND id > 1;
        UPDATE payloads SET sealed = (SELECT sealed FROM payloads p WHERE p.kind = 2 AND p.call = payloads.call) WHERE id = (SELECT min(id) FROM payloads);";
    payloads.execute_batch(swap).unwrap();
    drop(payloads);
    let broker = place.open().await;
    for call in &calls {
        let shown = texts(&place.client(), "ben", call).await;
        assert_eq!((&shown["arguments"]["state"], &shown["answer"]["state"]), (&json!("damaged"), &json!("kept")), "{shown}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_that_dies_at_any_step_is_carried_out_at_the_next_start() {
    for point in ["after-erasure-ordered", "after-erasure", "after-log-cut"] {
        let place = place("arguments = 30").await;
        let broker = place.open().await;
        let client = place.client();
        let (task, other) = (client.task("scout").await, client.task("scout").await);
        assert_eq!(client.call(&task, "sys.put", &arguments(1)).await.word(), "done");
        let call = call_of(&broker.entries().await, "intent", "sys.put");
        end(&client, &task).await;
        broker.stop().await;
        let mut child = place.spawn(Some(point));
        client.wait_for_tools(&other).await;
        let gone = client.try_by("ops", Method::POST, "/v1/erasures", Some(order("task", &task.id))).await;
        assert!(gone.is_none(), "it was answered at {point}");
        let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.signal(), Some(SIGABRT), "it died of something else at {point}: {status:?}");
        let broker = place.open().await;
        assert_eq!(texts(&place.client(), "ben", &call).await["arguments"]["state"], "erased", "at {point}");
        assert!(broker.house.store.erasures_due().await.unwrap().is_empty(), "at {point}");
        assert_eq!(broker.entries().await.iter().filter(|e| e["kind"] == "erasure").count(), 1, "at {point}");
        broker.stop().await;
        place.verify();
        let payloads = rusqlite::Connection::open(place.data.join("payloads.sqlite")).unwrap();
        assert_eq!(payloads.query_row("SELECT count(*) FROM payloads", [], |r| r.get::<_, i64>(0)).unwrap(), 0, "at {point}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_moment_when_its_time_is_over_a_text_is_gone_and_is_said_to_be() {
    let place = place("[retention.arguments]\nwrite = 2\ntransfer = 0").await;
    let clock = ManualClock::start();
    let broker = place.open_at(std::sync::Arc::clone(&clock) as _).await;
    let client = place.client_at(std::sync::Arc::clone(&clock) as _);
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "sys.put", &arguments(1)).await.word(), "done");
    client.approved(&task, "sys.pay", &payment(1)).await;
    let entries = broker.entries().await;
    let (put, held) = (call_of(&entries, "intent", "sys.put"), call_of(&entries, "hold", "sys.pay"));
    assert_eq!(texts(&client, "ben", &held).await["arguments"]["state"], "not_kept");
    clock.forward(2 * DAY - Duration::from_millis(1));
    broker.house.expire_texts().await.unwrap();
    assert_eq!(texts(&client, "ben", &put).await["arguments"]["state"], "kept");
    clock.forward(Duration::from_millis(1));
    assert_eq!(texts(&client, "ben", &put).await["arguments"]["state"], "expired");
    broker.house.expire_texts().await.unwrap();
    assert_eq!(texts(&client, "ben", &put).await["arguments"]["state"], "expired");
    // Long after its end a task's digests are nobody's any more, and what people were shown is gone.
    let id = task.id.parse().unwrap();
    let closed = async || broker.house.store.task(id).await.unwrap().is_some_and(|row| row.state.word() == "closed");
    while !closed().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(broker.house.argument_digest(id, arguments(1).as_bytes()).await.unwrap().is_some());
    clock.forward(91 * DAY);
    broker.house.expire_texts().await.unwrap();
    assert_eq!(broker.house.argument_digest(id, arguments(1).as_bytes()).await.unwrap(), None);
    assert!(broker.house.store.holds(bailiwick_store::HoldFilter::default()).await.unwrap().iter().all(|h| h.arguments.is_empty()));
    broker.stop().await;
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_texts_are_required_nothing_acts_without_one_and_reading_goes_on() {
    let place = place("payloads = \"required\"").await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "sys.put", &arguments(1)).await.word(), "done");
    let file = rusqlite::Connection::open(place.data.join("payloads.sqlite")).unwrap();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(client.call(&task, "sys.put", &arguments(2)).await.word(), "-31503");
    assert_eq!(client.call(&task, "sys.look", r#"{"key":"k"}"#).await.word(), "done");
    assert_eq!((place.upstream.times("put", ""), place.upstream.times("look", "")), (1, 1));
    assert_eq!(client.send(Method::GET, "/readyz", &[], "").await.status, 503);
    file.execute_batch("ROLLBACK").unwrap();
    assert_eq!(client.call(&task, "sys.put", &arguments(2)).await.word(), "done");
    assert_eq!(client.send(Method::GET, "/readyz", &[], "").await.status, 200);
    stop_and_verify(broker, &place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_texts_are_required_one_stands_before_its_call_whatever_dies() {
    for (point, intents) in [("before-payload", 0), ("after-payload", 0), ("after-record", 1)] {
        let place = place("payloads = \"required\"").await;
        let broker = place.open().await;
        let client = place.client();
        let task = client.task("scout").await;
        broker.stop().await;
        let mut child = place.spawn(Some(point));
        client.wait_for_tools(&task).await;
        assert!(client.try_call(&task, "sys.put", &arguments(1)).await.is_none(), "it was answered at {point}");
        let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.signal(), Some(SIGABRT), "at {point}");
        assert_eq!(place.upstream.times("put", ""), 0, "at {point}");
        let broker = place.open().await;
        let found: Vec<Value> = broker.entries().await.into_iter().filter(|e| e["kind"] == "intent").collect();
        assert_eq!(found.len(), intents, "at {point}");
        for intent in &found {
            let shown = texts(&place.client(), "ben", intent["call"].as_str().unwrap()).await;
            assert_eq!(shown["arguments"]["text"], arguments(1), "at {point}");
        }
        stop_and_verify(broker, &place).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_opened_loses_texts_and_no_calls_and_says_so_unless_texts_are_required() {
    let place = place("").await;
    place.open().await.stop().await;
    std::fs::write(place.data.join("payloads.sqlite"), b"this is no database, and is left as it is").unwrap();
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "sys.put", &arguments(1)).await.word(), "done");
    assert_eq!(broker.house.payloads.lost(), 1);
    let counted = String::from_utf8(client.send(Method::GET, "/metrics", &[], "").await.body.to_vec()).unwrap();
    assert!(counted.contains("bailiwick_texts_lost_total"), "{counted}");
    stop_and_verify(broker, &place).await;
    assert!(std::fs::read(place.data.join("payloads.sqlite")).unwrap().starts_with(b"this is no database"));
    let text = std::fs::read_to_string(&place.config).unwrap().replace("[retention]", "[retention]\npayloads = \"required\"");
    std::fs::write(&place.config, text).unwrap();
    let config = bailiwick::config::Config::load(&place.config).unwrap();
    let clock = std::sync::Arc::new(bailiwick::clock::SystemClock::start());
    assert!(bailiwick::house::House::open(config, &place.data, clock).await.is_err());
    assert!(store_file(&place.data).exists());
}

/// A ledger with this many entries that are older than the policy keeps, and then some.
async fn old_ledger(place: &Place, old: u32) {
    let clock = ManualClock::start();
    clock.back(400 * DAY);
    let broker = place.open_at(std::sync::Arc::clone(&clock) as _).await;
    for n in 0..old {
        let name = format!("{CANARY}-{n}");
        broker.house.append(&bailiwick::entry::House { what: "secret_set", name: Some(&name), digest: None }).await.unwrap();
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_is_pruned_by_its_policy_alone_and_verifies_and_exports_what_is_left() {
    let place = place("ledger_days = 30").await;
    old_ledger(&place, 600).await;
    let broker = place.open().await;
    let client = place.client();
    let ask = async |who: &str, body: Value| client.by(who, Method::POST, "/v1/ledger/prune", Some(body)).await;
    assert_eq!(ask("ben", json!({})).await.status, 403);
    let young = bailiwick_core::Clock::now(&bailiwick::clock::SystemClock::start()).plus(Duration::ZERO);
    let refused = ask("ops", json!({ "before": young })).await;
    assert!(refused.status == 409 && refused.json().to_string().contains("policy keeps"), "{refused:?}");
    let dry = ask("ops", json!({ "dry_run": true })).await.json();
    assert_eq!((&dry["from"], &dry["minimum"], dry.get("entry")), (&json!(0), &json!(512), None));
    assert_eq!(broker.house.store.minimum().await.unwrap(), 0);
    let pruned = ask("ops", json!({})).await.json();
    assert_eq!((&pruned["from"], &pruned["minimum"]), (&json!(0), &json!(512)), "{pruned}");
    let said = client.by("ben", Method::GET, "/v1/ledger/entries?from=510&to=514", None).await.json();
    assert_eq!(said["minimum"], 512);
    let texts: Vec<bool> = said["entries"].as_array().unwrap().iter().map(|e| e["text"].is_string()).collect();
    assert_eq!(texts, [false, false, true, true]);
    // What is left of a pruned entry is its place and its hash.
    assert_eq!(client.by("ben", Method::GET, "/v1/trace/3", None).await.status, 200);
    assert_eq!(ask("ops", json!({})).await.json()["minimum"], 512, "there was more to prune");
    // The log goes on.
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "sys.look", r#"{"key":"k"}"#).await.word(), "done");
    let entry = usize::try_from(pruned["entry"].as_u64().unwrap()).unwrap();
    let row = broker.house.store.entry(u64::try_from(entry).unwrap()).await.unwrap().unwrap();
    let body: Value = serde_json::from_slice(&row.body).unwrap();
    assert_eq!((&body["kind"], &body["minimum"], &body["by"], &body["policy_days"]), (&json!("pruned"), &json!(512), &json!("ops"), &json!(30)));
    let size = broker.house.store.head().size;
    broker.stop().await;
    assert_eq!(plain(&place.data, &format!("{CANARY}-0\"")), None);
    assert!(plain(&place.data, &format!("{CANARY}-590\"")).is_some());
    let (key, origin) = bailiwick::ledger_access::log_key(&place.data).unwrap();
    let verified = bailiwick::ledger_access::verify_kept(&place.data, &origin, &key).unwrap();
    assert!(verified.minimum == 512 && verified.head.size >= size, "{verified:?}");
    let out = place.data.parent().unwrap().join("out");
    bailiwick::ledger_access::export(&place.data, &out).unwrap();
    let report = bailiwick_ledger::export::audit_kept(&out, &origin, &key, &[], |_, _| {}).unwrap();
    assert_eq!((report.minimum, report.entries), (512, report.size - 512));
    // A beginning that is missing without a word in the log is no pruning.
    let store = rusqlite::Connection::open(store_file(&place.data)).unwrap();
    store.execute_batch("UPDATE entries SET body = x'' WHERE idx < 600; UPDATE pruned SET minimum = 600, done = 600").unwrap();
    drop(store);
    let refused = bailiwick::ledger_access::verify_kept(&place.data, &origin, &key);
    assert!(matches!(refused, Err(bailiwick::ledger_access::AccessError::Unsaid(600))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_policy_nothing_is_pruned_however_old() {
    let place = place("").await;
    old_ledger(&place, 300).await;
    let broker = place.open().await;
    let refused = place.client().by("ops", Method::POST, "/v1/ledger/prune", Some(json!({}))).await;
    assert!(refused.status == 409 && refused.json().to_string().contains("no policy"), "{refused:?}");
    assert_eq!(broker.house.store.minimum().await.unwrap(), 0);
    broker.stop().await;
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pruning_that_dies_at_any_step_is_carried_out_at_the_next_start() {
    for point in ["after-prune-ordered", "after-prune"] {
        let place = place("ledger_days = 30").await;
        old_ledger(&place, 600).await;
        let broker = place.open().await;
        let client = place.client();
        let task = client.task("scout").await;
        // The index has the names too.
        broker.house.store.rebuild_index().await.unwrap();
        broker.stop().await;
        assert!(plain(&place.data, &format!("{CANARY}-7")).is_some());
        let mut child = place.spawn(Some(point));
        client.wait_for_tools(&task).await;
        let gone = client.try_by("ops", Method::POST, "/v1/ledger/prune", Some(json!({}))).await;
        assert!(gone.is_none(), "it was answered at {point}");
        let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.signal(), Some(SIGABRT), "it died of something else at {point}: {status:?}");
        let broker = place.open().await;
        assert_eq!(broker.house.store.minimum().await.unwrap(), 512, "at {point}");
        assert_eq!(client.call(&task, "sys.look", r#"{"key":"k"}"#).await.word(), "done");
        broker.stop().await;
        assert_eq!(plain(&place.data, &format!("{CANARY}-0\"")), None, "at {point}");
        let index = std::fs::read(place.data.join("index.sqlite")).unwrap();
        let name = format!("{CANARY}-100");
        assert!(!index.windows(name.len()).any(|w| w == name.as_bytes()), "the index still has a pruned name after {point}");
        place.verify();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_published_yet_is_not_pruned_and_is_as_soon_as_it_is() {
    let place = Place::with(|text| format!("{text}\n[retention]\nledger_days = 30\n[ledger]\npublish = \"out\"\npublish_seconds = 3600\n")).await;
    let clock = ManualClock::start();
    clock.back(400 * DAY);
    let broker = place.open_at(std::sync::Arc::clone(&clock) as _).await;
    assert!(broker.house.publication.covering(0, Duration::from_secs(30)).await);
    // The next publication is an hour away.
    for n in 0..600 {
        let name = format!("{CANARY}-{n}");
        broker.house.append(&bailiwick::entry::House { what: "secret_set", name: Some(&name), digest: None }).await.unwrap();
    }
    let published = broker.house.publication.current().unwrap().size;
    assert!(published < 256, "{published}");
    clock.forward(400 * DAY);
    let client = place.client_at(std::sync::Arc::clone(&clock) as _);
    let ask = async || client.by("ops", Method::POST, "/v1/ledger/prune", Some(json!({}))).await.json();
    let held = ask().await;
    assert_eq!((&held["minimum"], held["held_by"].as_str().is_some_and(|w| w.contains("publication"))), (&json!(0), true), "{held}");
    let last = broker.house.store.head().size - 1;
    assert!(broker.house.publication.covering(last, Duration::from_secs(30)).await);
    // The entries go out right behind the head.
    let out = place.config.parent().unwrap().join("out/1");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while ask().await["minimum"] != json!(512) {
        assert!(tokio::time::Instant::now() < deadline, "what is published is not pruned");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    broker.stop().await;
    let (key, origin) = bailiwick::ledger_access::log_key(&place.data).unwrap();
    let report = bailiwick_ledger::export::audit_kept(&out, &origin, &key, &[], |_, _| {}).unwrap();
    assert_eq!((report.minimum, report.entries), (0, report.size), "entries are missing from the publication");
}

fn rows(place: &Place) -> i64 {
    let payloads = rusqlite::Connection::open(place.data.join("payloads.sqlite")).unwrap();
    payloads.query_row("SELECT count(*) FROM payloads", [], |r| r.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_texts_are_required_a_call_that_is_denied_in_the_last_moment_leaves_none() {
    let place = place("payloads = \"required\"").await;
    let broker = place.open().await;
    let client = place.client();
    let mut done = 0;
    for round in 0..5u32 {
        let task = client.task_with("scout", json!({ "budget": { "calls": 1 } })).await;
        let texts: Vec<String> = (0..8).map(|n| arguments(round * 8 + n)).collect();
        let words = futures_util::future::join_all(texts.iter().map(|text| client.call(&task, "sys.put", text))).await;
        done += words.iter().filter(|a| a.word() == "done").count();
    }
    assert_eq!(done, 5);
    // Nor does one that the ledger does not take.
    let task = client.task("scout").await;
    broker.house.pen.stop("a test takes it away");
    let refused = client.call(&task, "sys.put", &arguments(99)).await;
    assert!(String::from_utf8_lossy(&refused.body).contains("audit.unavailable"), "{refused:?}");
    broker.stop().await;
    assert_eq!(rows(&place), 5, "texts of denied calls are kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_whose_call_was_never_recorded_is_found_and_erased_with_the_others() {
    let place = place("payloads = \"required\"").await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    broker.stop().await;
    let mut child = place.spawn(Some("after-payload"));
    client.wait_for_tools(&task).await;
    assert!(client.try_call(&task, "sys.put", &arguments(1)).await.is_none());
    tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    let broker = place.open().await;
    let report = erase(&client, order("containing", &format!("{CANARY}-1"))).await;
    assert_eq!((&report["open"], &report["texts"]), (&json!([task.id]), &json!(0)));
    end(&client, &task).await;
    assert_eq!(erase(&client, order("containing", &format!("{CANARY}-1"))).await["texts"], 1);
    broker.stop().await;
    assert_eq!(rows(&place), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_looked_for_is_found_however_json_writes_it_and_in_results_that_wait() {
    let place = place("arguments = 30").await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    let forms = [
        r#"{"key":"1","value":"M\u00fcller"}"#,
        r#"{"key":"2","value":"a\/b\/c"}"#,
        r#"{"key":"3","value":"so \ud83d\ude00 be it"}"#,
        r#"{"key":"4","value":"{\"name\":\"Gro\\u00df\"}"}"#,
        r#"{"key":"5","value":"two\nlines"}"#,
    ];
    for form in forms {
        assert_eq!(client.call(&task, "sys.put", form).await.word(), "done");
    }
    client.approved(&task, "sys.pay", &payment(1)).await;
    let hold = broker.house.store.holds(bailiwick_store::HoldFilter::default()).await.unwrap().remove(0);
    let result = format!(r#"{{"content":[{{"type":"text","text":"W\u00e4re {CANARY}-result"}}]}}"#);
    broker.house.store.result_put(hold.id, result.into_bytes()).await.unwrap();
    end(&client, &task).await;
    let looked = broker.entries().await.len();
    for (text, calls) in [("Müller", 1), ("a/b/c", 1), ("so 😀 be", 1), ("Groß", 1), ("two\nlines", 1), ("Wäre ", 1)] {
        let dry = client.by("ops", Method::POST, "/v1/erasures", Some(json!({ "containing": text, "reason": "x", "dry_run": true }))).await;
        assert_eq!((dry.status, &dry.json()["calls_total"]), (200, &json!(calls)), "{text}: {dry:?}");
    }
    // Who looks into texts is on record, if only asking; what was looked for is not.
    let entries = broker.entries().await;
    let looks: Vec<&Value> = entries[looked..].iter().filter(|e| e["what"] == "texts_searched").collect();
    assert!(looks.len() == 6 && looks.iter().all(|e| e["name"] == "ops"), "{looks:?}");
    assert!(!entries.iter().any(|e| e.to_string().contains("Müller")));
    erase(&client, json!({ "containing": "Wäre ", "reason": "request 4711" })).await;
    assert!(broker.house.store.result(hold.id).await.unwrap().is_none(), "the result is still there");
    broker.stop().await;
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_goes_on_when_whoever_asked_is_gone_and_the_same_request_joins_it() {
    let place = place("arguments = 30").await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "sys.put", &arguments(1)).await.word(), "done");
    end(&client, &task).await;
    assert_eq!(texts(&client, "ben", &call_of(&broker.entries().await, "intent", "sys.put")).await["arguments"]["state"], "kept");
    let file = rusqlite::Connection::open(place.data.join("payloads.sqlite")).unwrap();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Its client gives up while the file is held.
    let asked = client.by("ops", Method::POST, "/v1/erasures", Some(order("task", &task.id)));
    assert!(tokio::time::timeout(Duration::from_millis(1500), asked).await.is_err());
    let second = client.by("ops", Method::POST, "/v1/erasures", Some(order("task", &task.id)));
    let release = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        file.execute_batch("ROLLBACK").unwrap();
    };
    let (second, ()) = tokio::join!(second, release);
    assert_eq!((second.status, &second.json()["texts"]), (200, &json!(1)), "{second:?}");
    let orders = broker.entries().await.iter().filter(|e| e["kind"] == "erasure").count();
    assert_eq!(orders, 1, "the same request was ordered twice");
    assert!(broker.house.store.erasures_due().await.unwrap().is_empty());
    broker.stop().await;
    place.verify();
    assert_eq!(rows(&place), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_whose_client_went_away_is_carried_out_without_another_word() {
    let place = place("arguments = 30").await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "sys.put", &arguments(1)).await.word(), "done");
    end(&client, &task).await;
    let file = rusqlite::Connection::open(place.data.join("payloads.sqlite")).unwrap();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    let asked = client.by("ops", Method::POST, "/v1/erasures", Some(order("task", &task.id)));
    assert!(tokio::time::timeout(Duration::from_millis(1500), asked).await.is_err());
    assert_eq!(broker.house.store.erasures_due().await.unwrap().len(), 1);
    file.execute_batch("ROLLBACK").unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !broker.house.store.erasures_due().await.unwrap().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "it was dropped with its request");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    broker.stop().await;
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_have_a_bound_in_all_and_the_oldest_go_before_their_time_with_an_entry_that_says_so() {
    let place = place("total_mib_max = 1").await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    let long = "x".repeat(60_000);
    let mut calls = Vec::new();
    for n in 0..40 {
        assert_eq!(client.call(&task, "sys.put", &format!(r#"{{"key":"{n}","value":"{long}"}}"#)).await.word(), "done");
        calls.push(call_of(&broker.entries().await, "intent", "sys.put"));
    }
    assert_eq!(texts(&client, "ben", &calls[0]).await["arguments"]["state"], "lost");
    assert_eq!(texts(&client, "ben", &calls[39]).await["arguments"]["state"], "kept");
    broker.house.expire_texts().await.unwrap();
    let said = broker.entries().await.into_iter().filter(|e| e["what"] == "texts_displaced").count();
    assert_eq!(said, 1);
    let counted = String::from_utf8(client.send(Method::GET, "/metrics", &[], "").await.body.to_vec()).unwrap();
    assert!(counted.contains("bailiwick_texts_displaced_total"), "{counted}");
    stop_and_verify(broker, &place).await;
    let bytes = std::fs::metadata(place.data.join("payloads.sqlite")).unwrap().len();
    assert!(bytes <= (1 << 20) + (128 << 10), "{bytes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_that_are_required_never_go_for_room_and_the_call_whose_text_finds_none_is_refused() {
    let place = place("payloads = \"required\"\ntotal_mib_max = 1\nanswers = 30").await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    let long = "x".repeat(60_000);
    let mut passed = Vec::new();
    let refused = loop {
        let answer = client.call(&task, "sys.put", &format!(r#"{{"key":"{}","value":"{long}"}}"#, passed.len())).await;
        if answer.word() != "done" {
            break answer;
        }
        passed.push(call_of(&broker.entries().await, "intent", "sys.put"));
        assert!(passed.len() < 100, "there is no bound");
    };
    assert!(passed.len() > 5);
    let words = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(words.contains("audit.unavailable") && words.contains("total_mib_max"), "{words}");
    assert_eq!(place.upstream.times("put", ""), passed.len(), "a call was made whose text is not kept");
    assert_eq!(client.call(&task, "sys.look", r#"{"key":"k"}"#).await.word(), "done");
    assert_eq!(client.send(Method::GET, "/readyz", &[], "").await.status, 503);
    for call in &passed {
        assert_eq!(texts(&client, "ben", call).await["arguments"]["state"], "kept");
    }
    stop_and_verify(broker, &place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_somebody_emptied_is_found_and_the_next_start_knows_of_it_at_once() {
    let place = place("").await;
    old_ledger(&place, 600).await;
    let empty = |sql: &str| rusqlite::Connection::open(store_file(&place.data)).unwrap().execute_batch(sql).unwrap();
    empty("CREATE TABLE kept_aside AS SELECT idx, body FROM entries WHERE idx = 3; UPDATE entries SET body = x'' WHERE idx = 3");
    let broker = place.open().await;
    let house = std::sync::Arc::clone(&broker.house);
    crate::support::until("it is found", || house.pen.stopped().is_some()).await;
    drop(house);
    // What is wrong with the record is for those with a role; a stranger learns that something is.
    let client = place.client();
    let stranger = client.send(Method::GET, "/readyz", &[], "").await;
    assert_eq!(stranger.status, 503);
    assert!(!stranger.json().to_string().contains("entry 3 ") && stranger.json().to_string().contains("audit.unavailable"), "{stranger:?}");
    let operator = client.by("ops", Method::GET, "/readyz", None).await;
    assert!(operator.status == 503 && operator.json().to_string().contains("entry 3 "), "{operator:?}");
    let size = broker.house.store.head().size;
    broker.stop().await;
    let broker = place.open().await;
    assert!(broker.house.pen.stopped().is_some(), "the damage was forgotten");
    assert_eq!(broker.house.store.head().size, size, "something was signed although the record is damaged");
    broker.stop().await;
    // Once it is whole again, everything goes on.
    empty("UPDATE entries SET body = (SELECT body FROM kept_aside) WHERE idx = 3; DROP TABLE kept_aside");
    let broker = place.open().await;
    assert!(broker.house.pen.stopped().is_none());
    broker.stop().await;
    let broker = place.open().await;
    assert!(broker.house.pen.stopped().is_none());
    stop_and_verify(broker, &place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pruned_record_is_whole_and_one_that_only_looks_pruned_is_not() {
    for honest in [true, false] {
        let place = place("ledger_days = 30").await;
        old_ledger(&place, 600).await;
        if honest {
            let broker = place.open().await;
            let pruned = place.client().by("ops", Method::POST, "/v1/ledger/prune", Some(json!({}))).await.json();
            assert_eq!(pruned["minimum"], 512, "{pruned}");
            broker.stop().await;
        } else {
            let store = rusqlite::Connection::open(store_file(&place.data)).unwrap();
            store.execute_batch("UPDATE entries SET body = x'' WHERE idx < 5; UPDATE pruned SET minimum = 256, done = 256").unwrap();
        }
        // With the mark, the next start reads everything before it signs anything.
        let mark = place.data.join("record-damaged");
        std::fs::write(&mark, b"for a test\n").unwrap();
        let broker = place.open().await;
        let stopped = broker.house.pen.stopped();
        if honest {
            assert_eq!(stopped, None);
        } else {
            assert!(stopped.as_deref().is_some_and(|why| why.contains("no entry says that they were pruned")), "{stopped:?}");
        }
        assert_eq!(mark.exists(), !honest);
        broker.stop().await;
    }
}
