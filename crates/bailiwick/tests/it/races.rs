//! What two can do at once, and what may change between a decision and its use: budgets, revocation, approvals, time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bailiwick_core::{Clock as _, TaskId};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Broker, Client, ManualClock, Place, TaskToken, modern, modern_headers, until};

const PAYMENT: &str = r#"{"recipient":"acme","amount":10}"#;
const HOUR: Duration = Duration::from_secs(3600);
const LONG: u64 = 28_000;

/// A new token for a task whose first one has expired.
fn renewed(broker: &Broker, task: &TaskToken) -> TaskToken {
    let id: TaskId = task.id.parse().unwrap();
    let live = broker.house.live.find(id).unwrap();
    TaskToken { id: task.id.clone(), token: broker.house.task_token(&live, None, None).unwrap().token }
}

fn of_kind<'a>(entries: &'a [Value], kind: &str) -> Vec<(usize, &'a Value)> {
    entries.iter().enumerate().filter(|(_, e)| e["kind"] == kind).collect()
}

async fn revoke(client: &Client<'_>, task: &TaskToken) {
    let answer = client.by("ops", Method::POST, &format!("/v1/tasks/{}/revoke", task.id), None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

// ---- budgets -------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bi_096_a_budget_of_one_gives_two_calls_at_once_exactly_one() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    for round in 0..20 {
        let task = client.task_with("scout", json!({ "budget": { "calls": 1 } })).await;
        let arguments = format!(r#"{{"key":"r{round}-"}}"#);
        let answers = join_all((0..2).map(|_| client.call(&task, "sys.look", &arguments))).await;
        let mut words: Vec<String> = answers.iter().map(super::support::Answer::word).collect();
        words.sort();
        assert_eq!(words, ["budget.calls", "done"]);
        assert_eq!(place.upstream.times("look", &format!("r{round}-")), 1);
    }
    broker.check_sound(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_calls_pass_in_a_minute_than_the_task_may_make() {
    let place = Place::new().await;
    let clock = ManualClock::start();
    let _broker = place.open_at(clock.clone()).await;
    let client = place.client_at(clock.clone());
    let task = client.task_with("scout", json!({ "budget": { "calls_per_minute": 3 } })).await;
    let words = async || join_all((0..8).map(|_| client.call(&task, "sys.look", "{}"))).await.iter().filter(|a| a.word() == "done").count();
    assert_eq!(words().await, 3);
    clock.forward(Duration::from_secs(59));
    assert_eq!(words().await, 0);
    clock.forward(Duration::from_secs(1));
    assert_eq!(words().await, 3);
    assert_eq!(place.upstream.seen().len(), 6);
}

// ---- revocation ----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bi_094_once_revoke_has_answered_no_call_is_admitted() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    for _ in 0..5 {
        let task = client.task("scout").await;
        let revoked = AtomicBool::new(false);
        let hammer = async || {
            // Two more after it is known to be revoked.
            let mut after = 0;
            while after < 2 {
                let known = revoked.load(Ordering::SeqCst);
                let tool = if known { "sys.put" } else { "sys.look" };
                let answer = client.call(&task, tool, if known { r#"{"key":"late","value":"v"}"# } else { "{}" }).await;
                assert!(!known || answer.status == 401, "a call passed after the revocation: {answer:?}");
                after += usize::from(known);
            }
        };
        let revoking = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            revoke(&client, &task).await;
            revoked.store(true, Ordering::SeqCst);
        };
        tokio::join!(revoking, join_all((0..8).map(|_| hammer())));
        let entries = broker.entries().await;
        let ended = of_kind(&entries, "task_ended").into_iter().find(|(_, e)| e["task"] == *task.id).unwrap().0;
        let intents: Vec<usize> = of_kind(&entries, "intent").into_iter().filter(|(_, e)| e["task"] == *task.id).map(|(i, _)| i).collect();
        assert!(!intents.is_empty() && intents.iter().all(|i| *i < ended), "an intent after the end at {ended}: {intents:?}");
    }
    assert_eq!(place.upstream.times("put", "late"), 0);
    broker.check_sound(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_run_are_stopped_when_their_task_is_revoked_and_others_are_not() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    let (task, other) = (client.task("scout").await, client.task("scout").await);
    let (read, write, others) =
        tokio::join!(client.call(&task, "sys.slow", r#"{"key":"a"}"#), client.call(&task, "sys.slow_put", r#"{"key":"b"}"#), async {
            let calling = client.call(&other, "sys.slow", r#"{"key":"c"}"#);
            let revoking = async {
                until("the calls run", || place.upstream.seen().len() == 3).await;
                revoke(&client, &task).await;
                // Only the other task's call still needs an answer. The gate opens once those of the revoked task are closed.
                let closed = async || of_kind(&broker.entries().await, "outcome").len();
                while closed().await < 2 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                place.upstream.open_gate();
            };
            tokio::join!(calling, revoking).0
        });
    assert_eq!((read.word().as_str(), write.word().as_str(), others.word().as_str()), ("call.cancelled", "call.cancelled", "done"));
    let entries = broker.entries().await;
    let results: Vec<&Value> = of_kind(&entries, "outcome").into_iter().map(|(_, e)| &e["result"]).collect();
    // They may have been done: nobody claims that they were not.
    assert_eq!(results, ["unknown", "unknown", "done"]);
}

// ---- approvals -----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bi_073_an_approval_is_used_once_however_many_come_at_once() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    for round in 0..10 {
        let payment = format!(r#"{{"recipient":"r{round}-","amount":10}}"#);
        client.approved(&task, "sys.pay", &payment).await;
        let answers = join_all((0..4).map(|_| client.call(&task, "sys.pay", &payment))).await;
        let words: Vec<String> = answers.iter().map(super::support::Answer::word).collect();
        assert_eq!(words.iter().filter(|w| *w == "done").count(), 1, "{words:?}");
        assert_eq!(words.iter().filter(|w| *w == "held").count(), 3, "{words:?}");
        assert_eq!(place.upstream.times("pay", &format!("r{round}-")), 1);
        // The three others wait together, for one new decision.
        assert_eq!(client.pending(&task).await.iter().filter(|h| h["arguments"] == *payment).count(), 1);
    }
    broker.check_sound(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bi_072_an_approval_of_ten_is_none_of_ten_thousand() {
    let place = Place::new().await;
    let _broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    client.approved(&task, "sys.pay", PAYMENT).await;
    for other in [
        r#"{"recipient":"acme","amount":10000}"#,
        r#"{"recipient":"acme","amount":"10"}"#,
        r#"{"recipient":"acme ","amount":10}"#,
        r#"{"recipient":"acme"}"#,
    ] {
        let word = client.call(&task, "sys.pay", other).await.word();
        assert!(matches!(word.as_str(), "held" | "call.arguments"), "{other}: {word}");
    }
    assert!(place.upstream.seen().is_empty());
    assert_eq!(client.call(&task, "sys.pay", PAYMENT).await.word(), "done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bytes_that_were_shown_are_the_bytes_that_are_sent() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    // The same call by meaning, in another spelling.
    client.approved(&task, "sys.pay", PAYMENT).await;
    assert_eq!(client.call(&task, "sys.pay", r#"{ "amount": 1e1, "recipient": "\u0061cme" }"#).await.word(), "done");
    assert_eq!(place.upstream.seen()[0].arguments(), PAYMENT);
    broker.check_sound(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bi_078_an_approval_in_one_task_is_none_in_another() {
    let place = Place::new().await;
    let _broker = place.open().await;
    let client = place.client();
    let (one, two, others) = (client.task("scout").await, client.task("scout").await, client.task("other").await);
    client.approved(&one, "sys.pay", PAYMENT).await;
    assert_eq!(client.call(&two, "sys.pay", PAYMENT).await.word(), "held");
    assert_eq!(client.call(&others, "sys.pay", PAYMENT).await.word(), "held");
    assert!(place.upstream.seen().is_empty());
    assert_eq!(client.call(&one, "sys.pay", PAYMENT).await.word(), "done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bi_075_an_approval_is_good_until_its_last_second_and_not_after() {
    for (late, word) in [(HOUR - Duration::from_millis(1), "done"), (HOUR, "held"), (HOUR + Duration::from_secs(1), "held")] {
        let place = Place::new().await;
        let clock = ManualClock::start();
        let broker = place.open_at(clock.clone()).await;
        let client = place.client_at(clock.clone());
        let task = client.task_with("scout", json!({ "ttl_seconds": LONG })).await;
        client.approved(&task, "sys.pay", PAYMENT).await;
        clock.forward(late);
        assert_eq!(client.call(&renewed(&broker, &task), "sys.pay", PAYMENT).await.word(), word, "after {late:?}");
        assert_eq!(place.upstream.seen().len(), usize::from(word == "done"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_that_comes_after_its_time_is_not_taken() {
    let place = Place::new().await;
    let clock = ManualClock::start();
    let broker = place.open_at(clock.clone()).await;
    let client = place.client_at(clock.clone());
    let task = client.task_with("scout", json!({ "ttl_seconds": LONG })).await;
    assert_eq!(client.call(&task, "sys.pay", PAYMENT).await.word(), "held");
    let hold = client.pending(&task).await.remove(0);
    clock.forward(HOUR);
    let late = client.decide("ben", &hold, "approve").await;
    assert!(matches!(late.status, 409 | 410), "{late:?}");
    assert_eq!(client.call(&renewed(&broker, &task), "sys.pay", PAYMENT).await.word(), "held");
    assert!(place.upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bi_099_a_clock_that_is_set_back_revives_nothing() {
    let place = Place::new().await;
    let clock = ManualClock::start();
    let broker = place.open_at(clock.clone()).await;
    let client = place.client_at(clock.clone());
    let (short, long) = (client.task("scout").await, client.task_with("scout", json!({ "ttl_seconds": LONG })).await);
    let hold = client.approved(&long, "sys.pay", PAYMENT).await;
    clock.forward(HOUR);
    let (ended, hold) = (short.id.parse().unwrap(), hold["id"].as_str().unwrap().parse().unwrap());
    until("time has ended both", || broker.house.live.find(ended).is_none() && broker.house.holds.get(hold).is_none()).await;
    clock.back(HOUR);
    let answer = client.call(&short, "sys.look", "{}").await;
    assert_eq!((answer.status, answer.word().as_str()), (401, "task.closed"));
    assert_eq!(client.call(&long, "sys.pay", PAYMENT).await.word(), "held");
    broker.stop().await;
    // Nor does a start with a clock that is late.
    let _broker = place.open_at(clock.clone()).await;
    assert_eq!(client.call(&short, "sys.look", "{}").await.status, 401);
    assert_eq!(client.call(&long, "sys.pay", PAYMENT).await.word(), "held");
    assert!(place.upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bi_079_a_tool_that_changed_after_the_approval_is_not_called() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    client.approved(&task, "sys.pay", PAYMENT).await;
    let before = place.upstream.lists();
    place.upstream.redefine(|tools| tools.replace(r#""amount":{"type":"number"}"#, r#""amount":{"type":"number"},"bcc":{"type":"string"}"#));
    until("the tool is set aside", || place.upstream.lists() > before && broker.house.registry.load().tool("sys.pay").is_some_and(|t| !t.callable()))
        .await;
    // The same bytes as for a tool that never was.
    let (changed, absent) = (client.call(&task, "sys.pay", PAYMENT).await, client.call(&task, "sys.nothing", PAYMENT).await);
    assert_eq!(
        String::from_utf8_lossy(&changed.body).replace("sys.pay", "NAME"),
        String::from_utf8_lossy(&absent.body).replace("sys.nothing", "NAME")
    );
    // Taking it back does not bring the approval back: a person looks first.
    let before = place.upstream.lists();
    place.upstream.redefine(|tools| tools.replace(r#","bcc":{"type":"string"}"#, ""));
    until("it was listed again", || place.upstream.lists() > before).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(client.call(&task, "sys.pay", PAYMENT).await.word(), "-32602");
    assert!(place.upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bi_079_the_policy_in_force_when_an_approval_is_used_decides() {
    let stricter = [
        // Nothing helps any more.
        (r#"@id("never") forbid (principal, action == Action::"sys.pay", resource);"#, "policy.denied"),
        // An approval of one person is not enough any more, and nobody else can approve.
        (r#"@id("two") forbid (principal, action == Action::"sys.pay", resource) unless { context.approvals >= 2 };"#, "policy.denied"),
    ];
    for (policy, word) in stricter {
        let place = Place::new().await;
        let broker = place.open().await;
        let client = place.client();
        let task = client.task("scout").await;
        client.approved(&task, "sys.pay", PAYMENT).await;
        broker.stop().await;
        place.add_policy(policy);
        let config = bailiwick::config::Config::load(&place.config).unwrap();
        let house = bailiwick::house::House::open(config, &place.data, Arc::new(bailiwick::clock::SystemClock::start())).await.unwrap();
        let broker = Broker::serving(house);
        client.wait_for_tools(&task).await;
        assert_eq!(client.call(&task, "sys.pay", PAYMENT).await.word(), word, "{policy}");
        assert!(place.upstream.seen().is_empty());
        broker.check_sound(&place).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_under_a_policy_that_asks_for_more_by_now_does_not_leave_the_call_stuck() {
    let place = Place::with(|text| text.replace("[people.ops]", "[people.cat]\nroles = [\"approver\"]\n[people.ops]")).await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    client.approved(&task, "sys.pay", PAYMENT).await;
    broker.stop().await;
    place.add_policy(r#"@id("two") forbid (principal, action == Action::"sys.pay", resource) unless { context.approvals >= 2 };"#);
    let broker = place.open().await;
    assert_eq!(client.call(&task, "sys.pay", PAYMENT).await.word(), "held");
    let holds = client.pending(&task).await;
    assert_eq!(holds.len(), 1, "nobody is asked");
    assert_eq!((&holds[0]["count"], &holds[0]["approvals"]), (&json!(2), &json!([])));
    for (who, word) in [("ben", "held"), ("cat", "done")] {
        assert_eq!(client.decide(who, &holds[0], "approve").await.status, 200);
        assert_eq!(client.call(&task, "sys.pay", PAYMENT).await.word(), word);
    }
    assert_eq!(place.upstream.seen().len(), 1);
    broker.check_sound(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bi_076_whoever_answers_for_the_request_does_not_approve_it() {
    let place = Place::new().await;
    let _broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "sys.pay", PAYMENT).await.word(), "held");
    let hold = client.pending(&task).await.remove(0);
    assert_eq!(hold["people"], json!(["ben"]));
    for (who, code) in [("ana", "approval.self"), ("ops", "approval.not_eligible")] {
        let answer = client.decide(who, &hold, "approve").await;
        assert_eq!((answer.status, answer.json()["code"].as_str().unwrap_or_default()), (403, code), "{who}");
    }
    // On whose behalf: the same.
    let own = client.task_with("scout", json!({ "on_behalf_of": "ben" })).await;
    // Nobody is left who could approve it: the task was not even granted it.
    assert_eq!(client.call(&own, "sys.pay", PAYMENT).await.word(), "-32602");
    assert_eq!(client.call(&task, "sys.pay", PAYMENT).await.word(), "held");
    assert!(place.upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bi_084_an_agents_credentials_open_no_door_of_the_approvers() {
    let place = Place::new().await;
    let _broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "sys.pay", PAYMENT).await.word(), "held");
    let hold = client.pending(&task).await.remove(0);
    let id = hold["id"].as_str().unwrap();
    let agent = client.agent_token("scout", None).await;
    let decision = json!({ "digest": hold["digest"], "seen": hold["digest"], "signature": "x" }).to_string();
    for token in [&agent, &task.token] {
        for (method, target) in [
            (Method::GET, "/v1/holds".to_owned()),
            (Method::GET, format!("/v1/holds/{id}")),
            (Method::POST, format!("/v1/holds/{id}/approve")),
            (Method::POST, format!("/v1/holds/{id}/refuse")),
            (Method::POST, format!("/approvals/{id}")),
            (Method::POST, "/v1/sign-in-codes".to_owned()),
        ] {
            let answer = client.with_token(token, method.clone(), &target, &decision).await;
            assert!(matches!(answer.status, 303 | 401 | 403 | 404 | 405 | 415), "{method} {target}: {answer:?}");
            assert!(!String::from_utf8_lossy(&answer.body).contains("acme"), "{method} {target} shows the call");
        }
    }
    // The link that the agent was given shows nothing by itself.
    let page = client.send(Method::GET, &format!("/approvals/{id}"), &[], "").await;
    assert!(page.status != 200 && !String::from_utf8_lossy(&page.body).contains("acme"), "{page:?}");
    assert_eq!(client.pending(&task).await.len(), 1);
    assert_eq!(client.call(&task, "sys.pay", PAYMENT).await.word(), "held");
    assert!(place.upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bi_082_a_flood_of_held_calls_ends_at_the_limit() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    let mut words = Vec::new();
    for batch in 0..25 {
        let calls = (0..8).map(|n| {
            let (client, task) = (&client, &task);
            async move { client.call(task, "sys.pay", &format!(r#"{{"recipient":"f{batch}-{n}","amount":1}}"#)).await.word() }
        });
        words.extend(join_all(calls).await);
    }
    assert_eq!(words.iter().filter(|w| *w == "held").count(), 20);
    assert_eq!(words.iter().filter(|w| *w == "hold.flood").count(), 180);
    assert_eq!(client.pending(&task).await.len(), 20);
    let entries = broker.entries().await;
    assert_eq!(of_kind(&entries, "hold").len(), 20);
    assert!(of_kind(&entries, "denial").iter().any(|(_, e)| e["code"] == "hold.flood"), "the flood is not on record");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bi_082_a_flood_from_many_tasks_of_one_agent_ends_too_and_leaves_room_for_others() {
    let place = Place::new().await;
    let _broker = place.open().await;
    let client = place.client();
    let mut held = 0;
    let mut last = None;
    for n in 0..10 {
        let task = client.task("scout").await;
        let calls = (0..20).map(|m| {
            let (client, task) = (&client, &task);
            async move { client.call(task, "sys.pay", &format!(r#"{{"recipient":"f{n}-{m}","amount":1}}"#)).await.word() }
        });
        held += join_all(calls).await.iter().filter(|w| *w == "held").count();
        last.get_or_insert(task);
    }
    assert!((100..120).contains(&held), "{held} calls of one agent wait for one person");
    let (first, other) = (last.unwrap(), client.task("other").await);
    assert_eq!(client.call(&first, "sys.pay", r#"{"recipient":"f0-0","amount":1}"#).await.word(), "held", "what waits goes on waiting");
    assert_eq!(client.call(&other, "sys.pay", PAYMENT).await.word(), "held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_outlives_its_client_and_every_entry_is_closed() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    for (tool, key) in [("sys.slow_put", "write"), ("sys.slow", "read")] {
        let arguments = format!(r#"{{"key":"{key}"}}"#);
        let calling = client.call(&task, tool, &arguments);
        let reached = until("the call runs", || place.upstream.times(tool.trim_start_matches("sys."), key) == 1);
        tokio::select! {
            answer = calling => panic!("{answer:?}"),
            // The client is gone: its connection is dropped with it.
            () = reached => {}
        }
    }
    // The write still runs; the read was given up.
    let results = async || {
        let entries = broker.entries().await;
        let of = |tool: &str| {
            let intent = of_kind(&entries, "intent").into_iter().find(|(_, e)| e["tool"] == tool).unwrap().0;
            of_kind(&entries, "outcome").into_iter().find(|(_, e)| e["intent"] == intent).map(|(_, e)| e["result"].as_str().unwrap().to_owned())
        };
        (of("sys.slow_put"), of("sys.slow"))
    };
    while results().await.1.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(results().await, (None, Some("unknown".to_owned())));
    place.upstream.open_gate();
    while results().await.0.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(results().await.0.as_deref(), Some("done"));
    broker.check_sound(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_refused_is_refused_again_without_asking() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "sys.pay", PAYMENT).await.word(), "held");
    let hold = client.pending(&task).await.remove(0);
    assert_eq!(client.decide("ben", &hold, "refuse").await.status, 200);
    for again in [PAYMENT, r#"{ "amount":10.0, "recipient":"acme" }"#] {
        assert_eq!(client.call(&task, "sys.pay", again).await.word(), "hold.refused");
    }
    assert!(client.pending(&task).await.is_empty() && place.upstream.seen().is_empty());
    assert_eq!(client.decide("ben", &hold, "approve").await.status, 409, "a no was turned into a yes");
    // Nor does a restart ask again.
    broker.stop().await;
    let _broker = place.open().await;
    assert_eq!(client.call(&task, "sys.pay", PAYMENT).await.word(), "hold.refused");
    assert!(place.upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_yes_and_a_no_at_once_are_one_of_them() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    for round in 0..10 {
        let payment = format!(r#"{{"recipient":"r{round}-","amount":10}}"#);
        assert_eq!(client.call(&task, "sys.pay", &payment).await.word(), "held");
        let hold = client.pending(&task).await.into_iter().find(|h| h["arguments"] == *payment).unwrap();
        let (yes, no) = tokio::join!(client.decide("ben", &hold, "approve"), client.decide("ben", &hold, "refuse"));
        assert_eq!([yes.status, no.status].iter().filter(|s| **s == 200).count(), 1, "{yes:?} {no:?}");
        let expected = if yes.status == 200 { "done" } else { "hold.refused" };
        assert_eq!(client.call(&task, "sys.pay", &payment).await.word(), expected);
        assert_eq!(place.upstream.times("pay", &format!("r{round}-")), usize::from(yes.status == 200));
    }
    broker.check_sound(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_calls_end_with_their_task() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    let approved = client.approved(&task, "sys.pay", r#"{"recipient":"approved","amount":1}"#).await;
    assert_eq!(client.call(&task, "sys.pay", PAYMENT).await.word(), "held");
    let hold = client.pending(&task).await.remove(0);
    let completed = client.with_token(&task.token, Method::POST, &format!("/v1/tasks/{}/complete", task.id), "").await;
    assert_eq!(completed.status, 200, "{completed:?}");
    for hold in [&approved, &hold] {
        let now = client.by("ben", Method::GET, &format!("/v1/holds/{}", hold["id"].as_str().unwrap()), None).await.json();
        assert_eq!(now["state"], "withdrawn");
    }
    assert_eq!(client.decide("ben", &hold, "approve").await.status, 409);
    assert_eq!(client.call(&task, "sys.pay", r#"{"recipient":"approved","amount":1}"#).await.status, 401);
    assert!(place.upstream.seen().is_empty());
    broker.check_sound(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_goes_on_when_it_is_approved_and_stops_when_its_task_ends() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    let (task, ending) = (client.task("scout").await, client.task("scout").await);
    // A client that can do nothing but wait.
    let wait = async |task: &TaskToken| {
        let body = modern("tools/call", &format!(r#""name":"sys.pay","arguments":{PAYMENT}"#), "{}");
        let bearer = format!("Bearer {}", task.token);
        client.send(Method::POST, "/mcp", &modern_headers(&bearer, "tools/call", Some("sys.pay")), body).await.word()
    };
    let people = async {
        let mut one = Vec::new();
        while one.is_empty() || client.pending(&ending).await.is_empty() {
            one = client.pending(&task).await;
        }
        assert_eq!(client.decide("ben", &one[0], "approve").await.status, 200);
        revoke(&client, &ending).await;
    };
    let (done, ended, ()) = tokio::join!(wait(&task), wait(&ending), people);
    assert_eq!(done, "done");
    assert!(matches!(ended.as_str(), "call.cancelled" | "task.closed"), "{ended}");
    assert_eq!(place.upstream.seen().len(), 1);
    broker.check_sound(&place).await;
}

#[test]
fn the_clock_of_these_tests_stands_still() {
    let clock = ManualClock::start();
    let at = clock.now();
    clock.forward(HOUR);
    clock.back(HOUR);
    assert_eq!(clock.now(), at);
}
