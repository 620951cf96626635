//! What operators take away, and what goes with it: agents that are suspended, keys that are revoked or removed, people who are disabled.

use bailiwick::clock::{SystemClock, random};
use bailiwick_core::{AssertionId, Clock as _, InstanceId, SpiffeId};
use bailiwick_identity::{SigningKey, assertion};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::broker::{Answer, Broker};
use crate::running::Installation;
use crate::support::{Place, entries, until};

const COMPONENT: &str = "[agents.scout.components.reader]\npurpose = \"reads\"\ntools = [\"shop.show_order\"]\n[systems.shop]";

/// A broker whose `scout` has a component, and whose shop is listed.
async fn broker() -> Broker {
    let broker = Broker::start(|text| text.replacen("[systems.shop]", COMPONENT, 1)).await;
    until("the shop is listed", || broker.house.registry.load().tool("shop.refund_order").is_some_and(|t| t.callable())).await;
    broker
}

fn key() -> SigningKey {
    SigningKey::generate().unwrap().0
}

fn copy() -> InstanceId {
    InstanceId::new(SystemClock::start().now(), random())
}

/// Puts the public half of a key into the file of this name, as an administrator does.
fn put(broker: &Broker, file: &str, key: &SigningKey) {
    std::fs::write(broker.data.join("agents").join(file), key.public().jwk().to_string()).unwrap();
    broker.house.keyring.reload().unwrap();
}

/// What the token endpoint says to whoever proves itself by this key.
async fn asked(broker: &Broker, client: &SpiffeId, key: &SigningKey, copy: InstanceId, more: &[(&str, &str)]) -> Answer {
    let now = SystemClock::start().now();
    let jti = AssertionId::new(now, random());
    let statement = assertion::Statement { client, audience: &broker.house.urls.base, jti, instance: Some(copy), model: None };
    broker.token_with(&assertion::make(key, &statement, now).unwrap(), more).await
}

fn token(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

/// Opens a task with an agent token: its id, and its token.
async fn opened(broker: &Broker, agent_token: &str, more: Value) -> (String, String) {
    let mut asked = json!({ "purpose": "tests", "tools": ["shop.show_order"] });
    asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = broker.with(agent_token, Method::POST, "/v1/tasks", Some(asked)).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    let opened = answer.json();
    (opened["task"]["id"].as_str().unwrap().to_owned(), opened["token"]["access_token"].as_str().unwrap().to_owned())
}

/// Is a token taken?
async fn holds(broker: &Broker, token: &str) -> bool {
    match broker.with(token, Method::GET, "/v1/tasks", None).await.status {
        StatusCode::OK => true,
        StatusCode::UNAUTHORIZED => false,
        other => panic!("{other}"),
    }
}

async fn state(broker: &Broker, task: &str) -> Value {
    broker.by("ops", Method::GET, &format!("/v1/tasks/{task}"), None).await.json()["state"].clone()
}

/// Why the record says that a task ended.
async fn why(broker: &Broker, task: &str) -> String {
    let entries = entries(&broker.house).await;
    let ended = entries.iter().find(|e| e["kind"] == "task_ended" && e["task"] == *task && e["state"] == "closing").unwrap();
    assert_eq!(ended["reason"], "revoked", "{ended}");
    ended["why"].as_str().unwrap_or_default().to_owned()
}

fn because() -> Option<Value> {
    Some(json!({ "reason": "an incident" }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_a_file_that_is_revoked_ends_its_tokens_and_tasks_at_once_and_proves_nothing_again() {
    let broker = broker().await;
    let (stolen, own) = (key(), key());
    put(&broker, "scout.jwk", &stolen);
    let scout = broker.spiffe_id("scout");
    let agent_token = token(&asked(&broker, &scout, &stolen, copy(), &[]).await);
    let (task, task_token) = opened(&broker, &agent_token, json!({})).await;
    let (_, others_token) = opened(&broker, &broker.agent_token("other", None).await, json!({})).await;
    let id = stolen.public().id().to_string();
    let path = format!("/v1/agents/scout/keys/{id}/revoke");
    assert_eq!(broker.by("ben", Method::POST, &path, None).await.status, StatusCode::FORBIDDEN);
    let elsewhere = path.replace("scout", "other");
    assert_eq!(broker.by("ops", Method::POST, &elsewhere, None).await.status, StatusCode::NOT_FOUND, "not that agent's");
    assert!(holds(&broker, &agent_token).await && holds(&broker, &task_token).await);
    let left = broker.by("ana", Method::POST, &path, None).await;
    assert_eq!(left.status, StatusCode::OK, "{left:?}");
    let listed = left.json()["keys"].as_array().unwrap().iter().find(|k| k["id"] == *id).cloned().unwrap();
    assert!(listed["revoked_at"].is_string() && listed["source"] == "file", "it lies there still, and that is said: {listed}");
    assert!(!holds(&broker, &agent_token).await && !holds(&broker, &task_token).await && holds(&broker, &others_token).await);
    assert_eq!(state(&broker, &task).await, "closed");
    assert_eq!(why(&broker, &task).await, format!("the key {id} was revoked"));
    assert_eq!(asked(&broker, &scout, &stolen, copy(), &[]).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(broker.by("ana", Method::POST, &path, None).await.status, StatusCode::NOT_FOUND, "it was revoked before");
    // Nor does it prove anything under another name, or by another way in.
    put(&broker, "other.jwk", &stolen);
    assert_eq!(asked(&broker, &broker.spiffe_id("other"), &stolen, copy(), &[]).await.status, StatusCode::UNAUTHORIZED);
    put(&broker, "scout.jwk", &own);
    token(&asked(&broker, &scout, &own, copy(), &[]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_only_taken_out_of_its_file_leaves_the_task_to_whoever_proves_the_next_one() {
    let broker = broker().await;
    let (old, new, scout, copy) = (key(), key(), broker.spiffe_id("scout"), copy());
    put(&broker, "scout.jwk", &old);
    let agent_token = token(&asked(&broker, &scout, &old, copy, &[]).await);
    let (task, task_token) = opened(&broker, &agent_token, json!({})).await;
    assert!(holds(&broker, &task_token).await);
    // Nobody presents anything meanwhile: it is missed all the same.
    std::fs::write(broker.data.join("agents/scout.jwk"), new.public().jwk().to_string()).unwrap();
    let deadline = tokio::time::Instant::now() + crate::support::PATIENCE;
    while holds(&broker, &agent_token).await {
        assert!(tokio::time::Instant::now() < deadline, "the key was not missed");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(!holds(&broker, &task_token).await);
    assert_eq!(state(&broker, &task).await, "open");
    let renewed = token(&asked(&broker, &scout, &new, copy, &[("task_id", &task)]).await);
    assert!(holds(&broker, &renewed).await);
    // The old key is in the wrong hands after all: what it opened ends, though it lies in no file any more.
    let path = format!("/v1/agents/scout/keys/{}/revoke", old.public().id());
    assert_eq!(broker.by("ops", Method::POST, &path, None).await.status, StatusCode::OK);
    assert_eq!(state(&broker, &task).await, "closed", "it was opened with that key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_only_renewed_a_task_takes_its_own_token_along_and_leaves_the_task() {
    let broker = broker().await;
    let (first, second, scout, copy) = (key(), key(), broker.spiffe_id("scout"), copy());
    put(&broker, "scout.jwk", &first);
    let (task, first_token) = opened(&broker, &token(&asked(&broker, &scout, &first, copy, &[]).await), json!({})).await;
    // Two keys at a time: the second one by enrolment.
    let given = broker.by("ana", Method::POST, "/v1/agents/scout/enrolments", Some(json!({}))).await.json();
    let text = bailiwick_identity::enrolment::EnrolmentToken::parse(given["token"].as_str().unwrap()).unwrap();
    let proof = bailiwick_identity::enrolment::make(&second, &text, &broker.house.urls.base, SystemClock::start().now()).unwrap();
    let body = json!({ "token": text.as_str(), "key": second.public().jwk(), "proof": proof });
    let answer = broker.send(Method::POST, "/v1/enrol", &[("content-type", "application/json")], body.to_string()).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let second_token = token(&asked(&broker, &scout, &second, copy, &[("task_id", &task)]).await);
    assert!(holds(&broker, &first_token).await && holds(&broker, &second_token).await);
    let path = format!("/v1/agents/scout/keys/{}/revoke", second.public().id());
    assert_eq!(broker.by("ana", Method::POST, &path, None).await.status, StatusCode::OK);
    assert!(holds(&broker, &first_token).await && !holds(&broker, &second_token).await);
    assert_eq!(state(&broker, &task).await, "open");
    // The key does not come back by another enrolment.
    let given = broker.by("ana", Method::POST, "/v1/agents/scout/enrolments", Some(json!({}))).await.json();
    let text = bailiwick_identity::enrolment::EnrolmentToken::parse(given["token"].as_str().unwrap()).unwrap();
    let proof = bailiwick_identity::enrolment::make(&second, &text, &broker.house.urls.base, SystemClock::start().now()).unwrap();
    let body = json!({ "token": text.as_str(), "key": second.public().jwk(), "proof": proof });
    let again = broker.send(Method::POST, "/v1/enrol", &[("content-type", "application/json")], body.to_string()).await;
    assert_eq!(again.status, StatusCode::CONFLICT, "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_components_key_is_listed_and_revoked_and_the_agents_own_goes_on() {
    let broker = broker().await;
    let (own, reader) = (key(), key());
    put(&broker, "scout.jwk", &own);
    put(&broker, "scout.reader.jwk", &reader);
    let scout = broker.spiffe_id("scout");
    let (task, component_token) =
        opened(&broker, &token(&asked(&broker, &scout.of_component(&"reader".parse().unwrap()), &reader, copy(), &[]).await), json!({})).await;
    let (_, own_token) = opened(&broker, &token(&asked(&broker, &scout, &own, copy(), &[]).await), json!({})).await;
    let listed = broker.by("ana", Method::GET, "/v1/agents/scout/keys", None).await.json();
    let id = reader.public().id().to_string();
    assert!(listed["keys"].as_array().unwrap().iter().any(|k| k["id"] == *id && k["component"] == "reader"), "{listed}");
    let revoked = broker.by("ana", Method::POST, &format!("/v1/agents/scout/keys/{id}/revoke"), None).await;
    assert_eq!(revoked.status, StatusCode::OK, "{revoked:?}");
    assert_eq!(state(&broker, &task).await, "closed");
    assert!(!holds(&broker, &component_token).await && holds(&broker, &own_token).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_agent_does_nothing_and_its_old_tokens_are_worth_nothing_for_good() {
    let broker = broker().await;
    let agent_token = broker.agent_token("scout", None).await;
    let (task, task_token) = opened(&broker, &agent_token, json!({})).await;
    let suspend = "/v1/agents/scout/suspend";
    assert_eq!(broker.by("ben", Method::POST, suspend, because()).await.status, StatusCode::FORBIDDEN);
    assert_eq!(broker.by("ops", Method::POST, suspend, Some(json!({ "reason": " " }))).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(broker.by("ops", Method::POST, "/v1/agents/scout/resume", because()).await.status, StatusCode::CONFLICT, "it is not suspended");
    let stands = broker.by("ops", Method::POST, suspend, because()).await;
    assert_eq!(stands.status, StatusCode::OK, "{stands:?}");
    let stands = stands.json();
    assert_eq!(
        (stands["suspended"]["by"].as_str(), stands["in_service"].as_bool(), stands["open_tasks"].as_u64()),
        (Some("ops"), Some(false), Some(0))
    );
    assert!(!holds(&broker, &agent_token).await && !holds(&broker, &task_token).await);
    assert_eq!(state(&broker, &task).await, "closed");
    assert_eq!(why(&broker, &task).await, "the agent was suspended");
    let refused = broker.token_with(&broker.assertion("scout", None), &[]).await;
    assert_eq!((refused.status, refused.json()["error"].clone()), (StatusCode::BAD_REQUEST, json!("unauthorized_client")));
    // What an operator decided, its owner does not take back; the first reason stays.
    assert_eq!(broker.by("ana", Method::POST, suspend, Some(json!({ "reason": "mine" }))).await.json()["suspended"]["by"], "ops");
    assert_eq!(broker.by("ana", Method::POST, "/v1/agents/scout/resume", because()).await.status, StatusCode::FORBIDDEN);
    let stands = broker.by("ops", Method::POST, "/v1/agents/scout/resume", because()).await;
    assert_eq!((stands.status, stands.json()["in_service"].as_bool()), (StatusCode::OK, Some(true)), "{stands:?}");
    assert!(!holds(&broker, &agent_token).await && !holds(&broker, &task_token).await, "a token that ended does not come back");
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let fresh = broker.agent_token("scout", None).await;
    opened(&broker, &fresh, json!({})).await;
    let entries = entries(&broker.house).await;
    let steps: Vec<&Value> = entries.iter().filter(|e| e["kind"] == "agent").collect();
    let told: Vec<(&str, &str, &str)> =
        steps.iter().map(|e| (e["what"].as_str().unwrap(), e["by"].as_str().unwrap(), e["reason"].as_str().unwrap())).collect();
    assert_eq!(told, [("suspended", "ops", "an incident"), ("resumed", "ops", "an incident")]);
    // Its owner may stop it too, and let it go on again.
    assert_eq!(broker.by("ana", Method::POST, suspend, because()).await.status, StatusCode::OK);
    assert_eq!(broker.by("ana", Method::POST, "/v1/agents/scout/resume", because()).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_away_stays_away_over_a_restart() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    let (task, other) = (client.task("scout").await, client.task("other").await);
    let keys = client.by("ops", Method::GET, "/v1/agents/other/keys", None).await.json();
    let key = keys["keys"][0]["id"].as_str().unwrap().to_owned();
    for (path, body) in [("/v1/agents/scout/suspend".to_owned(), because()), (format!("/v1/agents/other/keys/{key}/revoke"), None)] {
        let answer = client.by("ops", Method::POST, &path, body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    broker.stop().await;
    let broker = place.open().await;
    assert!(broker.house.standing.is_suspended(&"scout".parse().unwrap()));
    assert_eq!(client.try_token("scout", None, &[]).await.json()["error"], "unauthorized_client");
    assert_eq!(client.try_token("other", None, &[]).await.json()["error"], "invalid_client");
    for task in [&task, &other] {
        assert_eq!(client.call(task, "sys.look", "{}").await.status, 401);
    }
    assert_eq!(client.by("ops", Method::POST, "/v1/agents/scout/resume", because()).await.status, 200);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    client.task("scout").await;
    broker.stop().await;
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_a_person_that_is_revoked_proves_nothing_and_what_it_approved_is_taken_back() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    let (task, payment) = (client.task("scout").await, r#"{"recipient":"acme","amount":10}"#);
    let approved = client.approved(&task, "sys.pay", payment).await;
    let now = SystemClock::start().now();
    let code = broker.house.sign_ins.code("ben".parse().unwrap(), now);
    let key = broker.house.person_keys("ben")[0].id();
    let path = format!("/v1/people/ben/keys/{key}/revoke");
    let revoke = async |who: &str, path: &str| client.by(who, Method::POST, path, because()).await;
    assert_eq!(revoke("ana", &path).await.status, 403);
    assert_eq!(revoke("ops", &path.replace("/ben/", "/ana/")).await.status, 404, "not her key");
    let stands = revoke("ops", &path).await;
    assert_eq!((stands.status, stands.json()["keys"].clone()), (200, json!([])), "{stands:?}");
    assert_eq!(client.by("ben", Method::GET, "/v1/tasks", None).await.status, 401);
    assert!(broker.house.sign_ins.take_code(&code, now).is_none());
    let hold = broker.house.store.hold(approved["id"].as_str().unwrap().parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(hold.state.word(), "withdrawn", "{hold:?}");
    assert_eq!(client.call(&task, "sys.pay", payment).await.word(), "held", "it waits for people anew");
    assert!(place.upstream.seen().is_empty());
    assert_eq!(revoke("ops", &path).await.status, 404, "it was revoked before");
    let incidents = broker.house.store.incidents(10).await.unwrap();
    assert!(incidents.iter().any(|i| i.kind == "key_revoked" && i.document.contains("an incident")), "{incidents:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_session_of_a_person_ends_and_the_other_goes_on() {
    let broker = broker().await;
    let now = SystemClock::start().now();
    let begin = || broker.house.sign_ins.begin("ben".parse().unwrap(), bailiwick::sign_in::Way::Code, None, now).unwrap();
    let ((first, session), (second, _)) = (begin(), begin());
    let path = |id: &str| format!("/v1/people/ben/sessions/{id}/end");
    assert_eq!(broker.by("ops", Method::POST, &path("0123456789abcdef"), None).await.status, StatusCode::NOT_FOUND);
    let of_ana = path(&session.id).replace("/ben/", "/ana/");
    assert_eq!(broker.by("ops", Method::POST, &of_ana, None).await.status, StatusCode::NOT_FOUND, "not her session");
    let stands = broker.by("ops", Method::POST, &path(&session.id), None).await;
    assert_eq!((stands.status, stands.json()["sessions"].as_array().unwrap().len()), (StatusCode::OK, 1));
    assert!(broker.house.sign_ins.session(&first, now).is_none() && broker.house.sign_ins.session(&second, now).is_some());
}

#[test]
fn operators_see_suspend_and_disable_from_the_command_line() {
    let broker = Installation::of_two_people();
    let ops = |args: &[&str]| broker.done(&[args, &["--as", "ana"]].concat());
    let told = ops(&["person", "list"]);
    assert!(told.contains("ana") && told.contains("approver, reviewer"), "{told}");
    assert!(broker.json(&["person", "show", "ben", "--as", "ana"])["keys"].as_array().unwrap().len() == 1);
    assert!(broker.refused(&["person", "show", "ana", "--as", "ben"]).contains("not known, or not to you"));
    assert!(broker.refused(&["person", "disable", "ben", "--as", "ana"]).contains("--reason"));
    assert!(ops(&["person", "disable", "ben", "--reason", "left"]).contains("since"));
    assert!(broker.refused(&["approvals", "--as", "ben"]).contains("authn.proof_invalid"));
    assert!(!ops(&["person", "enable", "ben", "--reason", "came back"]).contains("since"));
    broker.done(&["approvals", "--as", "ben"]);
    assert_eq!(broker.json(&["person", "sessions", "ben", "--as", "ana"]), json!({ "sessions": [] }));
    ops(&["person", "sign-out", "ben"]);
    assert!(broker.refused(&["person", "sign-out", "ben", "--session", "abc", "--as", "ana"]).contains("there is no session"));
    // An agent, with what it has open.
    let opened = broker.json(&["token", "--agent", "assistant"]);
    assert!(opened["task"].is_object(), "{opened}");
    assert!(ops(&["agent", "suspend", "assistant", "--reason", "odd calls"]).contains("is suspended since"));
    assert!(broker.refused(&["token", "--agent", "assistant"]).contains("suspended"));
    assert!(ops(&["agent", "list"]).contains("suspended"));
    let tasks = broker.json(&["task", "list", "--as", "ana"]);
    assert!(tasks["tasks"].as_array().unwrap().iter().all(|t| t["state"] != "open"), "{tasks}");
    assert!(ops(&["agent", "resume", "assistant", "--reason", "looked at"]).contains("may work again"));
    // A key of a file, and one of a person.
    let keys = broker.json(&["agent", "keys", "assistant", "--as", "ana"]);
    let key = keys["keys"][0]["id"].as_str().unwrap().to_owned();
    ops(&["agent", "revoke-key", "assistant", &key]);
    assert!(!broker.run(&["token", "--agent", "assistant"]).status.success());
    let key = broker.json(&["person", "show", "ben", "--as", "ana"])["keys"][0].as_str().unwrap().to_owned();
    ops(&["person", "revoke-key", "ben", &key, "--reason", "laptop stolen"]);
    assert!(broker.refused(&["approvals", "--as", "ben"]).contains("authn.proof_invalid"));
}
