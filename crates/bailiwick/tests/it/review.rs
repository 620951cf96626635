//! What a reading for attacks found, as tests that failed before.

use std::sync::Arc;
use std::time::Duration;

use bailiwick::clock::random;
use bailiwick_core::{InstanceId, Timestamp};
use http::Method;
use serde_json::{Value, json};

use crate::support::{ManualClock, Place, modern, until};

const PAY: &str = r#"{"recipient":"GB29","amount":1}"#;

fn of_kind<'a>(entries: &'a [Value], what: &str) -> Vec<&'a Value> {
    entries.iter().filter(|e| e["what"] == what).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_about_other_words_than_the_broker_shows_is_not_taken() {
    let place = Place::new().await;
    let _broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "sys.pay", PAY).await.word(), "held");
    let hold = client.pending(&task).await.remove(0);
    let mut other = hold.clone();
    other["shown"] = json!("{\"recipient\":\"somebody else\"}");
    for word in ["approve", "refuse"] {
        let answer = client.decide("ben", &other, word).await;
        assert_eq!(answer.json()["code"], "approval.mismatch", "{answer:?}");
    }
    assert_eq!(client.decide("ben", &hold, "approve").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_proved_itself_does_not_learn_which_systems_there_are() {
    let place = Place::new().await;
    let _broker = place.open().await;
    let client = place.client();
    let answer = async |system: &str| {
        let body = format!(
            "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=a.b.c&resource={}/mcp/s/{system}",
            client.base().replace(':', "%3A").replace('/', "%2F")
        );
        let answer = client.send(Method::POST, "/oauth/token", &[("content-type", "application/x-www-form-urlencoded")], body).await;
        (answer.status, answer.json()["error"].clone())
    };
    assert_eq!(answer("sys").await, answer("nosuch").await);
    assert_eq!(answer("sys").await.1, "invalid_client");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_running_copy_of_an_agent_does_not_complete_the_task_of_another() {
    let place = Place::new().await;
    let _broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    let other = client.agent_token("scout", Some(InstanceId::new(Timestamp::from_millis(1), random()))).await;
    let path = format!("/v1/tasks/{}/complete", task.id);
    assert_eq!(client.with_token(&other, Method::POST, &path, "").await.status, 403);
    assert_eq!(client.call(&task, "sys.look", "{}").await.word(), "done");
    assert_eq!(client.with_token(&task.token, Method::POST, &path, "").await.json()["state"], "closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_ran_out_while_the_broker_was_down_is_ended_on_record() {
    let place = Place::new().await;
    let clock = ManualClock::start();
    let broker = place.open_at(Arc::<ManualClock>::clone(&clock)).await;
    let client = place.client_at(Arc::<ManualClock>::clone(&clock));
    let task = client.task_with("scout", json!({ "ttl_seconds": 86_400 })).await;
    assert_eq!(client.call(&task, "sys.pay", PAY).await.word(), "held");
    let id = client.pending(&task).await[0]["id"].clone();
    broker.stop().await;
    clock.forward(Duration::from_secs(7200));
    let broker = place.open_at(clock).await;
    for _ in 0..200 {
        let entries = broker.entries().await;
        if entries.iter().any(|e| e["kind"] == "hold_step" && e["hold"] == id && e["step"] != "approval") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the hold stayed open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_found_while_the_broker_runs_is_on_record_as_such() {
    let place = Place::new().await;
    let broker = place.open().await;
    assert!(of_kind(&broker.entries().await, "key_found").is_empty());
    let (key, _) = bailiwick_identity::SigningKey::generate().unwrap();
    std::fs::write(place.data.join("agents/late.jwk"), key.public().jwk().to_string()).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!broker.house.keyring.agent("late").is_empty());
    for _ in 0..200 {
        let entries = broker.entries().await;
        if let [found] = of_kind(&entries, "key_found").as_slice() {
            assert_eq!(found["name"], format!("agent late: {}", key.public().id()));
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the key is not on record");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_count_against_the_pace_of_a_task_and_are_on_record_once() {
    let place = Place::with(|text| {
        let text = text.replace("\"sys.pay\", \"twin.look\"", "\"sys.pay\", \"twin.look\", \"sys.resources/read\"");
        text.replacen("headers = {", "resources = \"read\"\nheaders = {", 1)
    })
    .await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task_with("scout", json!({ "budget": { "calls_per_minute": 3 } })).await;
    let list = async || client.post(&task, "resources/list", None, modern("resources/list", "", "{}")).await.json();
    for _ in 0..3 {
        assert!(list().await["error"]["code"] != -31_403);
    }
    assert_eq!(list().await["error"]["code"], -31_403);
    let entries = broker.entries().await;
    assert_eq!(of_kind(&entries, "listed").len(), 1);
    assert!(entries.iter().any(|e| e["kind"] == "denial" && e["tool"] == "resources/list"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nothing_can_be_recorded_no_list_is_given_not_even_the_second_time() {
    let place = Place::with(|text| {
        let text = text.replace("\"sys.pay\", \"twin.look\"", "\"sys.pay\", \"twin.look\", \"sys.resources/read\"");
        text.replacen("headers = {", "resources = \"read\"\nheaders = {", 1)
    })
    .await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    broker.house.pen.stop("a test takes it away");
    for _ in 0..3 {
        let answer = client.post(&task, "resources/list", None, modern("resources/list", "", "{}")).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains("audit.unavailable"), "{text}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_brings_back_beside_the_arguments_is_on_record_with_the_call() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    let body = modern("tools/call", r#""name":"sys.look","arguments":{},"inputResponses":{"q":{"action":"accept"}}"#, r#"{"elicitation":{}}"#);
    assert_eq!(client.post(&task, "tools/call", Some("sys.look"), body).await.word(), "done");
    assert_eq!(client.call(&task, "sys.look", "{}").await.word(), "done");
    let entries = broker.entries().await;
    let brought: Vec<bool> = entries.iter().filter(|e| e["kind"] == "intent").map(|e| e["brought"].is_string()).collect();
    assert_eq!(brought, [true, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_opening_is_on_record() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    let token = client.agent_token("scout", None).await;
    for _ in 0..5 {
        let refused = client.with_token(&token, Method::POST, "/v1/tasks", r#"{"purpose":"x","tools":["nosuch.tool"]}"#).await;
        assert!(refused.status >= 400, "{refused:?}");
    }
    let entries = broker.entries().await;
    assert_eq!(of_kind(&entries, "task_refused").len(), 1);
    until("nothing reached a system", || place.upstream.seen().is_empty()).await;
}
