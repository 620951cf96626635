//! Questions to the record: who may ask what, what is found, and what people read of it.

use bailiwick_core::Digest;
use bailiwick_identity::person::{Verdict, Word};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::running::{Installation, call, refund};

fn text<'a>(document: &'a Value, name: &str) -> &'a str {
    document[name].as_str().unwrap_or_else(|| panic!("{name} in {document}"))
}

async fn get(broker: &Broker, who: &str, target: &str) -> Value {
    let answer = broker.by(who, Method::GET, target, None).await;
    assert_eq!(answer.status, StatusCode::OK, "{who} {target}: {answer:?}");
    answer.json()
}

async fn approve(broker: &Broker, hold: &Value) {
    let seen = Digest::of(format!("{}\n{}", text(hold, "nonce"), text(hold, "shown")).as_bytes());
    let digest: Digest = text(hold, "digest").parse().unwrap();
    let verdict = Verdict { hold: text(hold, "id").parse().unwrap(), digest, seen, word: Word::Approve };
    let body = json!({ "digest": digest, "seen": seen, "signature": verdict.sign(broker.key("ben")).unwrap() });
    let answer = broker.by("ben", Method::POST, &format!("/v1/holds/{}/approve", text(hold, "id")), Some(body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

/// Of ana's agent: an order is read, refunded with ben's approval, and read again. Of ops' agent: an order is read, a name is invented.
async fn two_agents(broker: &Broker) -> (String, String) {
    let look = || broker_arguments("O-2008");
    let (task, token, hold) = broker.held().await;
    assert!(broker.call(&token, "shop.show_order", look()).await["result"].is_object());
    approve(broker, &hold).await;
    let refunded = broker.call(&token, "shop.refund_order", Broker::refund()).await;
    assert!(refunded["result"].is_object(), "{refunded}");
    assert!(broker.call(&token, "shop.show_order", look()).await["result"].is_object());
    let (other, other_token) = broker.task(&broker.agent_token("other", None).await).await;
    assert!(broker.call(&other_token, "shop.show_order", look()).await["result"].is_object());
    broker.call(&other_token, "shop.absent", json!({})).await;
    (text(&task, "id").to_owned(), text(&other, "id").to_owned())
}

fn broker_arguments(order: &str) -> Value {
    json!({ "order": order })
}

fn kinds(page: &Value) -> Vec<&str> {
    page["entries"].as_array().unwrap().iter().map(|e| text(&e["entry"], "kind")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_found_by_what_they_say_and_each_is_proved_to_be_in_the_ledger() {
    let broker = Broker::ready().await;
    let (task, other) = two_agents(&broker).await;
    let intents = get(&broker, "aud", "/v1/entries?kind=intent&agent=scout").await;
    assert_eq!(intents["entries"].as_array().unwrap().len(), 3);
    for entry in intents["entries"].as_array().unwrap() {
        assert_eq!((entry["intact"].as_bool(), text(&entry["entry"], "task")), (Some(true), task.as_str()));
        assert!(!entry["proof"].as_array().unwrap().is_empty());
    }
    assert_eq!(
        kinds(&get(&broker, "aud", "/v1/entries?effect=act&agent=scout&outcome=done").await),
        ["outcome"],
        "what became of a call is its agent's"
    );
    assert_eq!(kinds(&get(&broker, "aud", &format!("/v1/entries?task={other}&outcome=denied&tool=shop.absent")).await), ["denial"]);
    assert_eq!(kinds(&get(&broker, "aud", "/v1/entries?approver=ben&kind=hold_step").await), ["hold_step"]);
    let jti = text(&intents["entries"][0]["entry"], "token");
    let with = get(&broker, "aud", &format!("/v1/entries?credential={jti}&kind=intent")).await;
    assert!(with["entries"].as_array().unwrap().iter().all(|e| text(&e["entry"], "token") == jti) && !kinds(&with).is_empty());
    // A page after the other gives what one page gives.
    let whole = get(&broker, "aud", "/v1/entries?agent=scout").await;
    let (mut paged, mut target) = (Vec::new(), "/v1/entries?agent=scout&limit=2".to_owned());
    loop {
        let page = get(&broker, "aud", &target).await;
        paged.extend(page["entries"].as_array().unwrap().iter().map(|e| e["index"].as_u64().unwrap()));
        let Some(next) = page["next"].as_u64() else { break };
        target = format!("/v1/entries?agent=scout&limit=2&below={next}");
    }
    let indexes: Vec<u64> = whole["entries"].as_array().unwrap().iter().map(|e| e["index"].as_u64().unwrap()).collect();
    assert_eq!(paged, indexes);
    for wrong in ["since=now", "task=x", "agent=a%20b", "colour=red"] {
        assert_eq!(broker.by("aud", Method::GET, &format!("/v1/entries?{wrong}"), None).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_sees_what_he_answers_for_and_nothing_of_another_owner() {
    let broker = Broker::ready().await;
    let (task, other) = two_agents(&broker).await;
    let others: Vec<u64> = get(&broker, "aud", &format!("/v1/entries?task={other}")).await["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["index"].as_u64().unwrap())
        .collect();
    assert!(others.len() >= 3);
    for target in ["/v1/entries", "/v1/entries?agent=other", "/v1/entries?owner=ops", "/v1/entries?person=ops"] {
        for who in ["ana", "ben", "zoe"] {
            let page = get(&broker, who, target).await;
            let seen: Vec<&Value> = page["entries"].as_array().unwrap().iter().collect();
            assert!(seen.iter().all(|e| !others.contains(&e["index"].as_u64().unwrap())), "{who} {target}");
            assert_eq!(seen.is_empty(), target != "/v1/entries" || who == "zoe", "{who} {target}");
        }
    }
    for index in &others {
        assert_eq!(broker.by("ana", Method::GET, &format!("/v1/trace/{index}"), None).await.status, StatusCode::NOT_FOUND);
    }
    for target in [format!("/v1/trace/{other}"), format!("/v1/tasks/{other}/changes")] {
        assert_eq!(broker.by("ana", Method::GET, &target, None).await.status, StatusCode::NOT_FOUND, "{target}");
        assert_eq!(broker.by("aud", Method::GET, &target, None).await.status, StatusCode::OK, "{target}");
    }
    for who in ["ops", "nobody"] {
        assert_eq!(broker.by("ana", Method::GET, &format!("/v1/reports/person?person={who}"), None).await.code(), "authz.role");
    }
    assert!(!get(&broker, "ana", "/v1/reports/difference").await.to_string().contains("agent/other"));
    assert!(get(&broker, "aud", "/v1/reports/difference").await.to_string().contains("agent/other"));
    assert_eq!(text(&get(&broker, "ana", &format!("/v1/trace/{task}")).await["chain"], "owner"), "ana");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_task_changed_is_a_list_of_calls_with_what_was_read_before_and_after() {
    let broker = Broker::ready().await;
    let look = json!({ "order": "O-2008" });
    let (task, token) = broker.task(&broker.agent_token("scout", None).await).await;
    assert!(broker.call(&token, "shop.show_order", look.clone()).await["result"].is_object());
    let waiting = broker.call(&token, "shop.refund_order", Broker::refund());
    let deciding = async {
        loop {
            let holds = get(&broker, "ben", "/v1/holds?state=pending").await;
            if let Some(hold) = holds["holds"].get(0) {
                return approve(&broker, hold).await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let (done, ()) = tokio::join!(waiting, deciding);
    if done["result"]["isError"] == true || !done["result"].is_object() {
        assert!(broker.call(&token, "shop.refund_order", Broker::refund()).await["result"].is_object());
    }
    assert!(broker.call(&token, "shop.show_order", look).await["result"].is_object());
    let changes = get(&broker, "ana", &format!("/v1/tasks/{}/changes", text(&task, "id"))).await;
    let list = changes["changes"].as_array().unwrap();
    assert_eq!((list.len(), changes["reads"].as_u64()), (1, Some(2)), "{changes}");
    let change = &list[0];
    assert_eq!((text(change, "tool"), text(change, "effect"), change["approved_by"][0].as_str()), ("shop.refund_order", "transfer", Some("ben")));
    assert_eq!(text(&change["outcome"], "result"), "done");
    let (before, after) = (change["before"]["entry"].as_u64().unwrap(), change["after"]["entry"].as_u64().unwrap());
    let entry = change["entry"].as_u64().unwrap();
    assert!(before < entry && entry < after, "{change}");
    assert_eq!(changes["broken"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_answers_for_and_what_differs_are_told_from_the_record() {
    let broker = Broker::ready().await;
    let before = bailiwick_core::Clock::now(&bailiwick::clock::SystemClock::start());
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    two_agents(&broker).await;
    let own = get(&broker, "ana", "/v1/reports/person").await;
    assert_eq!(
        (text(&own, "person"), text(&own["calls"][0], "tool"), text(&own["calls"][0]["outcome"], "result")),
        ("ana", "shop.refund_order", "done")
    );
    let scout = broker.spiffe_id("scout").to_string();
    let agent = own["agents"].as_array().unwrap().iter().find(|a| text(a, "agent") == scout).unwrap();
    assert_eq!((agent["calls"].as_u64(), agent["owned_now"].as_bool()), (Some(3), Some(true)));
    assert_eq!((text(&own["tasks"][0], "purpose"), own["tasks"].as_array().unwrap().len()), ("answer ticket 7", 1));
    let ben = get(&broker, "aud", "/v1/reports/person?person=ben").await;
    assert_eq!((text(&ben["approvals"][0], "proof"), ben["calls"].as_array().unwrap().len()), ("key", 0));

    let differs = get(&broker, "aud", &format!("/v1/reports/difference?this_since={before}")).await;
    let group = |name: &str| differs["groups"].as_array().unwrap().iter().find(|g| g["name"] == name).unwrap().clone();
    let appeared = |name: &str| group(name)["appeared"].as_array().unwrap().iter().map(|a| text(a, "value").to_owned()).collect::<Vec<_>>();
    assert_eq!(appeared("tools"), ["shop.refund_order", "shop.show_order"]);
    assert_eq!(appeared("approvers"), ["ben"]);
    assert!(appeared("denials by reason").contains(&"call.unknown_tool".to_owned()) || !appeared("denials by reason").is_empty(), "{differs}");
    assert_eq!(group("effects")["appeared"][0]["before"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_has_the_index_made_anew_and_finds_the_same() {
    let broker = Broker::ready().await;
    two_agents(&broker).await;
    let found = async || get(&broker, "aud", "/v1/entries?agent=scout&kind=intent").await["entries"].clone();
    let before = found().await;
    let rebuilt = broker.by("ops", Method::POST, "/v1/index/rebuild", None).await;
    assert_eq!(rebuilt.status, StatusCode::OK, "{rebuilt:?}");
    assert!(rebuilt.json()["entries"].as_u64().unwrap() > 10);
    let (was, is) = (before.as_array().unwrap(), found().await);
    assert_eq!(was.iter().map(|e| &e["index"]).collect::<Vec<_>>(), is.as_array().unwrap().iter().map(|e| &e["index"]).collect::<Vec<_>>());
}

#[test]
fn questions_after_an_incident_are_answered_on_the_command_line() {
    let mut two = Installation::of_two_people();
    let mut host = two.host(&[]);
    host.shake_hands();
    host.send(&call(1, "shop.refund_order", &refund()));
    let hold = two.held("ben")["id"].as_str().unwrap().to_owned();
    two.done(&["approve", &hold, "--as", "ben", "--yes"]);
    assert_eq!(host.next()["result"]["structuredContent"]["amount_cents"], 700);
    // A purpose that would move the cursor and write its own line.
    two.done(&["token", "--agent", "assistant", "--tools", "shop.show_order", "--purpose", "\u{1b}[2J\u{1b}]0;x\u{7}look", "--as", "ana"]);

    let told = |args: &[&str]| two.done(&[args, &["--as", "ana"]].concat());
    let listed = told(&["trace", "--effect", "act", "--last", "1h"]);
    assert!(listed.contains("shop.refund_order") && listed.contains("transfer") && listed.contains("under the signed head"), "{listed}");
    let opened = told(&["trace", "--kind", "task_opened"]);
    assert!(opened.contains("\\u{1b}") || opened.contains("look"), "{opened}");
    let task = two.json(&["trace", "--kind", "intent", "--effect", "act", "--as", "ana"])["entries"][0]["entry"]["task"].as_str().unwrap().to_owned();
    let changed = told(&["trace", "changes", &task]);
    assert!(changed.contains("transfer shop.refund_order on") && changed.contains("approved by    ben"), "{changed}");
    let whole = told(&["trace", &task]);
    assert!(whole.contains("the task was opened") && whole.contains("approved by ben"), "{whole}");
    let person = told(&["trace", "person", "ben"]);
    assert!(person.contains("ben answers for") && person.contains("second_person"), "{person}");
    let diff = told(&["trace", "diff"]);
    assert!(diff.contains("+ shop.refund_order  1, never before"), "{diff}");
    for shown in [listed, opened, changed, whole, person, diff] {
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    }
    assert!(two.refused(&["trace", "--agent", "no name", "--as", "ana"]).contains("agent"));
    assert!(told(&["index", "rebuild"]).contains("was made anew from"));
    drop(host);
    assert!(two.stop(), "{}", two.log());
    assert!(two.done(&["index", "rebuild"]).contains("was made anew from"));
}
