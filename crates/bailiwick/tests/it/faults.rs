//! kill -9 at each step of a call's way, and at random under load: no call without a durable intent, no approved call twice, every
//! intent closed after the restart, and a ledger that verifies. The process that dies is the real one.

use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Broker, Client, PATIENCE, Place, TaskToken, entries};

const SIGABRT: i32 = 6;

/// How far a call got before its broker died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fate {
    /// It was recorded as permitted.
    intended: bool,
    /// It reached the system.
    sent: bool,
}

const POINTS: [(&str, Fate); 6] = [
    ("before-decide", Fate { intended: false, sent: false }),
    ("before-record", Fate { intended: false, sent: false }),
    ("after-record", Fate { intended: true, sent: false }),
    ("before-forward", Fate { intended: true, sent: false }),
    ("after-forward", Fate { intended: true, sent: true }),
    ("after-outcome", Fate { intended: true, sent: true }),
];

/// Starts the real program so that it dies at `point`, makes the call until it is dead, and checks that it died of nothing else.
async fn die_at(place: &Place, point: &str, task: &TaskToken, call: impl AsyncFnOnce(Client<'_>)) {
    let mut child = place.spawn(Some(point));
    let client = place.client();
    client.wait_for_tools(task).await;
    call(client).await;
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap_or_else(|_| panic!("it did not die at {point}")).unwrap();
    assert_eq!(status.signal(), Some(SIGABRT), "it died of something else at {point}: {status:?}");
}

/// A place where a task is open, of a broker that is not running.
async fn place_with_task() -> (Place, TaskToken) {
    let place = Place::new().await;
    let broker = place.open().await;
    let task = place.client().task("scout").await;
    broker.stop().await;
    (place, task)
}

/// What every restart must find: sound entries, and, once it is stopped, a ledger that verifies.
async fn check_and_stop(broker: Broker, place: &Place) {
    broker.check_sound(place).await;
    broker.stop().await;
    place.verify();
}

fn intents(entries: &[Value], tool: &str) -> usize {
    entries.iter().filter(|e| e["kind"] == "intent" && e["tool"] == tool).count()
}

/// The result that the only outcome of the only intent of this tool says.
fn only_outcome(entries: &[Value], tool: &str) -> String {
    let intent = entries.iter().position(|e| e["kind"] == "intent" && e["tool"] == tool).unwrap();
    let outcome = entries.iter().find(|e| e["kind"] == "outcome" && e["intent"] == intent).unwrap();
    outcome["result"].as_str().unwrap().to_owned()
}

/// A call that passes by itself dies at each point; made again after the restart, it passes.
async fn a_call_that_passes(tool: &str, arguments: &str) {
    for (point, fate) in POINTS {
        let (place, task) = place_with_task().await;
        let own = tool.trim_start_matches("sys.");
        die_at(&place, point, &task, async |client| assert!(client.try_call(&task, tool, arguments).await.is_none(), "it was answered at {point}"))
            .await;
        assert_eq!(place.upstream.times(own, ""), usize::from(fate.sent), "at {point}");
        let broker = place.open().await;
        let found = broker.entries().await;
        assert_eq!(intents(&found, tool), usize::from(fate.intended), "at {point}");
        if fate.intended {
            // What acts is on record before anybody hears of it; before that nobody knows.
            let outcome = only_outcome(&found, tool);
            let known = point == "after-outcome";
            assert!(outcome == "unknown" || (known && outcome == "done"), "at {point} the outcome is {outcome}");
            assert!(!(known && tool == "sys.put" && outcome != "done"), "at {point} the outcome of a write was lost");
        }
        assert_eq!(place.client().call(&task, tool, arguments).await.word(), "done", "at {point}");
        assert_eq!(place.upstream.times(own, ""), usize::from(fate.sent) + 1, "at {point}");
        check_and_stop(broker, &place).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_dies_at_any_step_leaves_a_closed_entry() {
    a_call_that_passes("sys.look", r#"{"key":"k"}"#).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permitted_write_that_dies_at_any_step_leaves_a_closed_entry() {
    a_call_that_passes("sys.put", r#"{"key":"k","value":"v"}"#).await;
}

const PAYMENT: &str = r#"{"recipient":"acme","amount":2.50}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approved_transfer_that_dies_at_any_step_runs_once_in_all() {
    for (point, fate) in POINTS {
        let place = Place::new().await;
        let broker = place.open().await;
        let client = place.client();
        let task = client.task("scout").await;
        client.approved(&task, "sys.pay", PAYMENT).await;
        broker.stop().await;
        die_at(&place, point, &task, async |client| {
            assert!(client.try_call(&task, "sys.pay", PAYMENT).await.is_none(), "it was answered at {point}")
        })
        .await;
        assert_eq!(place.upstream.times("pay", ""), usize::from(fate.sent), "at {point}");
        let broker = place.open().await;
        let again = place.client().call(&task, "sys.pay", PAYMENT).await.word();
        if fate.intended {
            // The approval is spent, whether or not the system got the call: a person decides anew.
            assert_eq!(again, "held", "at {point}");
            assert_eq!(place.client().pending(&task).await.len(), 1, "at {point}");
            assert_eq!(place.upstream.times("pay", ""), usize::from(fate.sent), "at {point}");
        } else {
            assert_eq!(again, "done", "at {point}");
            assert_eq!(place.upstream.times("pay", ""), 1, "at {point}");
            assert_eq!(place.client().call(&task, "sys.pay", PAYMENT).await.word(), "held", "at {point} the approval was good twice");
        }
        assert_eq!(intents(&broker.entries().await, "sys.pay"), 1, "at {point}");
        check_and_stop(broker, &place).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_outlives_the_death_of_its_broker_and_is_asked_once() {
    let (place, task) = place_with_task().await;
    die_at(&place, "after-hold", &task, async |client| assert!(client.try_call(&task, "sys.pay", PAYMENT).await.is_none())).await;
    let broker = place.open().await;
    let client = place.client();
    let before = client.pending(&task).await;
    assert_eq!(before.len(), 1);
    assert_eq!(client.call(&task, "sys.pay", PAYMENT).await.word(), "held");
    assert_eq!(client.pending(&task).await.len(), 1, "people are asked twice");
    assert_eq!(client.decide("ben", &before[0], "approve").await.status, 200);
    assert_eq!(client.call(&task, "sys.pay", PAYMENT).await.word(), "done");
    assert_eq!(place.upstream.seen().len(), 1);
    check_and_stop(broker, &place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_counts_after_a_death_only_if_it_was_on_record() {
    for (point, recorded) in [("before-decision", false), ("after-decision", true)] {
        let place = Place::new().await;
        let broker = place.open().await;
        let task = place.client().task("scout").await;
        assert_eq!(place.client().call(&task, "sys.pay", PAYMENT).await.word(), "held");
        let hold = place.client().pending(&task).await.remove(0);
        broker.stop().await;
        // The broker dies while it takes the approval: the approver hears nothing.
        let told = Arc::new(AtomicBool::new(false));
        let mut child = place.spawn(Some(point));
        let client = place.client();
        client.wait_for_tools(&task).await;
        let deciding = tokio::time::timeout(PATIENCE, async {
            let answer = client.try_decide("ben", &hold, "approve").await;
            told.store(answer.is_some(), Ordering::SeqCst);
        });
        deciding.await.unwrap();
        let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        assert_eq!((status.signal(), told.load(Ordering::SeqCst)), (Some(SIGABRT), false), "at {point}");
        let broker = place.open().await;
        let again = place.client().call(&task, "sys.pay", PAYMENT).await.word();
        assert_eq!(again, if recorded { "done" } else { "held" }, "at {point}");
        let found = broker.entries().await;
        let approved = found.iter().filter(|e| e["kind"] == "hold_step" && e["step"] == "approved").count();
        assert_eq!((approved, place.upstream.seen().len()), (usize::from(recorded), usize::from(recorded)), "at {point}");
        check_and_stop(broker, &place).await;
    }
}

/// One client's load until its broker dies: reads, writes, and payments that are approved and then made by two at once.
async fn load(client: Client<'_>, task: &TaskToken, next: &AtomicU64) {
    loop {
        let n = next.fetch_add(1, Ordering::SeqCst);
        let key = format!(r#"{{"key":"k{n}-"}}"#);
        if client.try_call(task, "sys.look", &key).await.is_none() {
            return;
        }
        if client.try_call(task, "sys.put", &format!(r#"{{"key":"k{n}-","value":"v"}}"#)).await.is_none() {
            return;
        }
        let payment = format!(r#"{{"recipient":"k{n}-","amount":1}}"#);
        if client.try_call(task, "sys.pay", &payment).await.is_none() {
            return;
        }
        let Some(holds) = client.try_pending(task).await else { return };
        for hold in holds.iter().filter(|h| h["arguments"].as_str().is_some_and(|a| a == payment)) {
            if client.try_decide("ben", hold, "approve").await.is_none() {
                return;
            }
        }
        let (one, two) = tokio::join!(client.try_call(task, "sys.pay", &payment), client.try_call(task, "sys.pay", &payment));
        if one.is_none() || two.is_none() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_under_load_nothing_is_sent_unrecorded_or_twice_and_the_ledger_verifies() {
    let rounds: u64 = std::env::var("BAILIWICK_KILL_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(20);
    let place = Place::with(|text| text.replace("expires_minutes = 60", "expires_minutes = 60\npending_max = 1000")).await;
    let broker = place.open().await;
    let task = place.client().task_with("scout", serde_json::json!({ "ttl_seconds": 28_000 })).await;
    broker.stop().await;
    let next = AtomicU64::new(0);
    for round in 0..rounds {
        let mut child = place.spawn(None);
        place.client().wait_for_tools(&task).await;
        let delay = 20 + u64::from(u16::from_be_bytes(bailiwick::clock::random())) % 600;
        let killing = async {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            // SIGKILL.
            child.kill().await.unwrap();
        };
        let one = || load(place.client(), &task, &next);
        tokio::join!(killing, one(), one(), one(), one());
        eprintln!("round {round}: killed after {delay} ms, {} calls reached the system so far", place.upstream.seen().len());
    }
    let broker = place.open().await;
    assert!(!place.upstream.seen().is_empty(), "no load");
    for n in 0..next.load(Ordering::SeqCst) {
        let sent = place.upstream.times("pay", &format!("k{n}-"));
        assert!(sent <= 1, "payment {n} was approved once and made {sent} times");
    }
    let found = entries(&broker.house).await;
    let mut spent: Vec<&str> = found.iter().filter(|e| e["kind"] == "intent").filter_map(|e| e["hold"].as_str()).collect();
    spent.sort_unstable();
    let all = spent.len();
    spent.dedup();
    assert_eq!(all, spent.len(), "an approval was spent twice");
    check_and_stop(broker, &place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bi_105_the_command_verifies_the_ledger_of_a_broker_that_was_killed_and_started_again() {
    let (place, task) = place_with_task().await;
    die_at(&place, "after-forward", &task, async |client| assert!(client.try_call(&task, "sys.put", r#"{"key":"k","value":"v"}"#).await.is_none()))
        .await;
    // The real program closes what was left open, at its start.
    let mut child = place.spawn(None);
    place.client().wait_for_tools(&task).await;
    child.kill().await.unwrap();
    let verify = tokio::process::Command::new(env!("CARGO_BIN_EXE_bailiwick"))
        .arg("--data-dir")
        .arg(&place.data)
        .args(["ledger", "verify"])
        .output()
        .await
        .unwrap();
    assert!(verify.status.success(), "{verify:?}");
    let broker = place.open().await;
    assert_eq!(only_outcome(&broker.entries().await, "sys.put"), "unknown");
    check_and_stop(broker, &place).await;
}
