//! Requests for access of another enforcement point (AuthZEN Access Request and Approval Profile 1.0, draft 1): a denial that one person turns
//! into one yes to exactly what was denied, and everything else that it is not; and what people may do here, asked by an enforcement point.

use bailiwick_identity::person::Word;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api::{decide, said};
use crate::authzen::{POLICIES, Pdp, question, record, user};
use crate::broker::{Answer, Broker};

const REQUESTS: &str = "/access/v1/requests";
const ERRORS: &str = "urn:openid:authzen:access-request:error:";

fn purge() -> Value {
    let mut asked = question(user("alice"), "purge", record("record-1"));
    asked["context"] = json!({ "ip": "192.0.2.7", "time": "noon" });
    asked
}

/// The request that follows from a denial.
fn request_of(asked: &Value, denied: &Value) -> Value {
    let mut request = asked.clone();
    let offer = &denied["context"]["access_request"];
    request["context"]["business_justification"] = json!("renewal");
    request["requested_access"] = json!({ "requested_until": "2099-01-01T00:00:00Z" });
    request["denial"] = json!({
        "evaluation_id": denied["context"]["evaluation_id"], "evaluated_at": denied["context"]["evaluated_at"], "reason": denied["context"]["reason"],
        "expires_at": offer["expires_at"], "binding_token": offer["binding_token"],
    });
    request
}

/// The path of a URL of the broker's.
fn path(pdp: &Pdp, url: &Value) -> String {
    url.as_str().unwrap().strip_prefix(&pdp.broker.house.urls.base).unwrap().to_owned()
}

async fn start() -> Pdp {
    Pdp::with(POLICIES, "volatile = [\"time\"]").await
}

async fn evaluated(pdp: &Pdp, asked: &Value) -> Value {
    let answer = pdp.ask("/access/v1/evaluation", asked.clone()).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

async fn submitted(pdp: &Pdp, asked: &Value) -> Value {
    let request = request_of(asked, &evaluated(pdp, asked).await);
    let answer = pdp.ask(REQUESTS, request).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    answer.json()
}

async fn status(pdp: &Pdp, task: &Value) -> Answer {
    pdp.broker.with(&pdp.token, Method::GET, &path(pdp, &task["task"]["status_endpoint"]), None).await
}

/// The held call that stands for a request, as this person sees it.
async fn hold_of(broker: &Broker, who: &str, task: &Value) -> Value {
    let holds = broker.by(who, Method::GET, "/v1/holds", None).await.json();
    let found = holds["holds"].as_array().unwrap().iter().find(|h| h["task"] == task["task"]["id"]).cloned();
    found.unwrap_or_else(|| panic!("{holds}"))
}

async fn decided(pdp: &Pdp, task: &Value, word: Word) {
    let hold = hold_of(&pdp.broker, "ben", task).await;
    let verb = if word == Word::Approve { "approve" } else { "refuse" };
    let answer = decide(&pdp.broker, "ben", &hold, verb, said(&pdp.broker, &hold, word, "ben")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

/// A request that ben approved: what is asked, and the approval.
async fn approved(pdp: &Pdp) -> (Value, Value) {
    let task = submitted(pdp, &purge()).await;
    decided(pdp, &task, Word::Approve).await;
    let done = status(pdp, &task).await.json();
    assert_eq!((&done["task"]["status"], &done["result"]["mode"]), (&json!("approved"), &json!("reevaluate")), "{done}");
    (purge(), done["result"]["approval"].clone())
}

fn with_approval(asked: &Value, approval: &Value) -> Value {
    let mut asked = asked.clone();
    asked["context"]["approval"] = approval.clone();
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_that_a_person_approves_is_one_yes_to_exactly_that_and_all_of_it_is_on_record() {
    let pdp = start().await;
    let denied = evaluated(&pdp, &purge()).await;
    assert_eq!(denied["decision"], false);
    let offer = &denied["context"]["access_request"];
    assert_eq!(path(&pdp, &offer["endpoint"]), REQUESTS);
    let answer = pdp.ask(REQUESTS, request_of(&purge(), &denied)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let task = answer.json();
    assert_eq!((&task["task"]["status"], task.get("result")), (&json!("pending"), None));
    assert_eq!(answer.headers["location"], task["task"]["status_endpoint"].as_str().unwrap());
    assert!(status(&pdp, &task).await.headers.contains_key("retry-after"));
    // What the person decides is all of it, and what was added is told apart.
    let hold = hold_of(&pdp.broker, "ben", &task).await;
    assert_eq!(
        (&hold["tool"], &hold["target"], &hold["agent"], &hold["owner"]),
        (&json!("records.purge"), &json!("record record-1"), &json!("scout"), &json!("ana"))
    );
    let shown: Value = serde_json::from_str(hold["arguments"].as_str().unwrap()).unwrap();
    let expected = json!({
        "subject": user("alice"), "action": { "name": "purge" }, "resource": record("record-1"), "context": { "ip": "192.0.2.7" },
        "said": { "business_justification": "renewal" }, "requested_access": { "requested_until": "2099-01-01T00:00:00Z" },
    });
    assert_eq!(shown, expected);
    decided(&pdp, &task, Word::Approve).await;
    let done = status(&pdp, &task).await.json();
    let approval = &done["result"]["approval"];
    // Without the approval it is denied as before; with it, once, whatever the time is by now.
    assert_eq!(evaluated(&pdp, &purge()).await["decision"], false);
    let mut again = with_approval(&purge(), approval);
    again["context"]["time"] = json!("one o'clock");
    let released = evaluated(&pdp, &again).await;
    assert_eq!((&released["decision"], &released["context"]["approval"]["id"]), (&json!(true), &approval["id"]), "{released}");
    let twice = evaluated(&pdp, &again).await;
    assert_eq!(
        (&twice["decision"], &twice["context"]["reason"], &twice["context"]["next_action"]),
        (&json!(false), &json!("approval_expired"), &json!("request")),
        "{twice}"
    );
    assert!(twice["context"]["access_request"]["binding_token"].is_string(), "a new request needs a new denial");
    // Where it stands does not go back.
    assert_eq!(status(&pdp, &task).await.json()["task"]["status"], "approved");
    let permits = pdp.on_record().await;
    assert_eq!(permits.len(), 1);
    assert_eq!((&permits[0]["hold"], &permits[0]["approvals"][0]["person"]), (&approval["id"], &json!("ben")));
    let seen = crate::support::entries(&pdp.broker.house).await;
    let steps: Vec<&str> = seen.iter().filter(|e| e["task"] == task["task"]["id"]).map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(steps, ["task_opened", "hold", "hold_step", "task_ended", "task_ended"]);
    let hold = hold_of(&pdp.broker, "ben", &task).await;
    assert_eq!(hold["state"], "consumed");
    let trace = pdp.broker.by("aud", Method::GET, &format!("/v1/trace/{}", hold["id"].as_str().unwrap()), None).await;
    assert_eq!(trace.status, StatusCode::OK, "{trace:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_releases_nothing_but_what_was_approved() {
    let pdp = start().await;
    let (asked, approval) = approved(&pdp).await;
    let other = |pointer: &str, value: Value| {
        let mut asked = with_approval(&asked, &approval);
        *asked.pointer_mut(pointer).unwrap() = value;
        asked
    };
    let mut with_properties = with_approval(&asked, &approval);
    with_properties["subject"]["properties"] = json!({ "act": { "sub": "agent-9" } });
    let mut without_context = with_approval(&asked, &approval);
    without_context["context"].as_object_mut().unwrap().remove("ip");
    for (what, asked) in [
        ("resource", other("/resource/id", json!("record-2"))),
        ("type", other("/resource/type", json!("file"))),
        ("context", other("/context/ip", json!("192.0.2.8"))),
        ("actor", with_properties),
        ("less context", without_context),
    ] {
        let denied = evaluated(&pdp, &asked).await;
        assert_eq!((&denied["decision"], &denied["context"]["reason"]), (&json!(false), &json!("out_of_scope")), "{what}: {denied}");
    }
    // Another subject has no way to it at all: policy names alice.
    assert_eq!(evaluated(&pdp, &other("/subject/id", json!("bob"))).await["decision"], false);
    // It comes back as it was given, or is none.
    let changed = |name: &str, value: Value| {
        let mut approval = approval.clone();
        approval[name] = value;
        with_approval(&asked, &approval)
    };
    for (what, asked) in [
        ("until", changed("approved_until", json!("2099-01-01T00:00:00.000Z"))),
        ("more", changed("state", json!("x"))),
        ("id", changed("id", json!(format!("hold_{}", "0".repeat(32))))),
        ("no id", with_approval(&asked, &json!({}))),
        ("no object", with_approval(&asked, &json!("x"))),
    ] {
        let denied = evaluated(&pdp, &asked).await;
        let told = (&denied["decision"], &denied["context"]["reason"], &denied["context"]["next_action"]);
        assert_eq!(told, (&json!(false), &json!("approval_unverifiable"), &json!("none")), "{what}: {denied}");
        assert!(denied["context"].get("access_request").is_none(), "{what}");
    }
    // In a batch it counts for nothing.
    let batch = pdp.ask("/access/v1/evaluations", json!({ "evaluations": [with_approval(&asked, &approval)] })).await.json();
    assert_eq!(batch["evaluations"][0]["decision"], false);
    assert!(pdp.on_record().await.is_empty());
    // Nothing of that spent it.
    assert_eq!(evaluated(&pdp, &with_approval(&asked, &approval)).await["decision"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_not_about_its_denial_is_refused_and_nobody_is_asked() {
    let pdp = start().await;
    let denied = evaluated(&pdp, &purge()).await;
    let request = request_of(&purge(), &denied);
    let changed = |pointer: &str, value: Value| {
        let mut request = request.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        request.pointer_mut(parent).unwrap()[name] = value;
        request
    };
    let another = evaluated(&pdp, &question(user("alice"), "purge", record("record-2"))).await;
    for (what, request) in [
        ("resource", changed("/resource/id", json!("record-2"))),
        ("subject", changed("/subject/id", json!("bob"))),
        ("action", changed("/action/name", json!("read"))),
        ("context", changed("/context/ip", json!("192.0.2.8"))),
        ("end", changed("/denial/expires_at", json!("2099-01-01T00:00:00.000Z"))),
        ("no end", changed("/denial/expires_at", Value::Null)),
        ("no token", changed("/denial/binding_token", Value::Null)),
        ("another denial", changed("/denial/binding_token", another["context"]["access_request"]["binding_token"].clone())),
        ("another evaluation", changed("/denial/evaluation_id", json!("jti_x"))),
        ("an agent's token", changed("/denial/binding_token", json!(pdp.token))),
        ("no denial", changed("/denial", Value::Null)),
    ] {
        let answer = pdp.ask(REQUESTS, request).await;
        assert_eq!(
            (answer.status, answer.json()["type"].as_str()),
            (StatusCode::BAD_REQUEST, Some(&*format!("{ERRORS}invalid_denial_binding"))),
            "{what}: {answer:?}"
        );
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{what}");
    }
    let mut bundle = request.clone();
    bundle["items"] = json!([]);
    assert_eq!(pdp.ask(REQUESTS, bundle).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(pdp.ask(REQUESTS, changed("/client", json!({ "actor": { "id": "agent-9" } }))).await.status, StatusCode::BAD_REQUEST);
    let long = pdp.ask(REQUESTS, changed("/context/business_justification", json!("x".repeat(20_000)))).await;
    assert_eq!((long.status, long.code().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "call.limit"));
    // Nothing of it asked anybody; and nobody but the enforcement point that was denied submits it.
    assert!(pdp.broker.by("ben", Method::GET, "/v1/holds", None).await.json()["holds"].as_array().unwrap().is_empty());
    let other = pdp.broker.agent_token("other", None).await;
    assert_eq!(pdp.broker.with(&other, Method::POST, REQUESTS, Some(request.clone())).await.code(), "authz.role");
    let task = pdp.ask(REQUESTS, request).await.json();
    let theirs = pdp.broker.with(&other, Method::GET, &path(&pdp, &task["task"]["status_endpoint"]), None).await;
    assert_eq!((theirs.status, theirs.json()["type"].as_str()), (StatusCode::NOT_FOUND, Some(&*format!("{ERRORS}unknown_task"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_again_is_the_same_task_and_a_no_is_not_asked_for_twice() {
    let pdp = start().await;
    let denied = evaluated(&pdp, &purge()).await;
    let request = request_of(&purge(), &denied).to_string();
    let with_key = async |key: &str, body: &str| pdp.raw(REQUESTS, &[("idempotency-key", key)], "application/json", body).await;
    let first = with_key("k-1", &request).await.json();
    assert_eq!(with_key("k-1", &request).await.json()["task"]["id"], first["task"]["id"]);
    let mut more = request_of(&purge(), &denied);
    more["context"]["business_justification"] = json!("another one");
    let conflict = with_key("k-1", &more.to_string()).await;
    assert_eq!((conflict.status, conflict.json()["type"].as_str()), (StatusCode::CONFLICT, Some(&*format!("{ERRORS}duplicate_request"))));
    // A new denial of the same, under another key or none, asks people no second time.
    let again = pdp.ask(REQUESTS, request_of(&purge(), &evaluated(&pdp, &purge()).await)).await.json();
    assert_eq!(again["task"]["id"], first["task"]["id"]);
    decided(&pdp, &first, Word::Refuse).await;
    let again = pdp.ask(REQUESTS, request_of(&purge(), &evaluated(&pdp, &purge()).await)).await;
    assert_eq!((again.status, &again.json()["task"]["status"]), (StatusCode::CREATED, &json!("denied")));
    assert_eq!(again.json()["task"]["id"], first["task"]["id"]);
    assert!(again.json().get("result").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_taken_back_until_people_decide_and_a_denial_is_submitted_once() {
    let pdp = start().await;
    let denied = evaluated(&pdp, &purge()).await;
    let task = pdp.ask(REQUESTS, request_of(&purge(), &denied)).await.json();
    let cancel = path(&pdp, &task["task"]["links"]["cancel"]);
    let cancelled = pdp.ask(&cancel, json!({ "reason": "changed_mind" })).await;
    assert_eq!((cancelled.status, &cancelled.json()["task"]["status"]), (StatusCode::OK, &json!("cancelled")));
    let twice = pdp.ask(&cancel, json!({})).await;
    assert_eq!((twice.status, twice.json()["type"].as_str()), (StatusCode::CONFLICT, Some(&*format!("{ERRORS}invalid_task_state"))));
    // Its denial is used up.
    let replayed = pdp.ask(REQUESTS, request_of(&purge(), &denied)).await;
    assert_eq!(replayed.json()["type"], format!("{ERRORS}invalid_denial_binding"), "{replayed:?}");
    let (_, approval) = approved(&pdp).await;
    let hold = pdp.broker.by("ben", Method::GET, &format!("/v1/holds/{}", approval["id"].as_str().unwrap()), None).await.json();
    let late = pdp.ask(&format!("{REQUESTS}/{}/cancel", hold["task"].as_str().unwrap()), json!({})).await;
    assert_eq!(late.status, StatusCode::CONFLICT, "{late:?}");
    // Its owner takes the approval back by ending the task: then it releases nothing.
    let revoke = format!("/v1/tasks/{}/revoke", hold["task"].as_str().unwrap());
    assert_eq!(pdp.broker.by("ana", Method::POST, &revoke, None).await.status, StatusCode::OK);
    let denied = evaluated(&pdp, &with_approval(&purge(), &approval)).await;
    assert_eq!((&denied["decision"], &denied["context"]["reason"]), (&json!(false), &json!("approval_expired")), "{denied}");
    assert!(pdp.on_record().await.is_empty());
}

/// People who ask are never asked, whatever they are called at the enforcement point.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_approves_what_he_or_she_asked_for() {
    let anyone = r#"@id("second") permit (principal is user, action, resource) when { context.approved.contains("ben") || context.approved.contains("ana") };"#;
    let pdp = Pdp::with(anyone, "people = { \"u-17\" = \"ben\" }").await;
    let approvers = async |subject: Value| evaluated(&pdp, &question(subject, "purge", record("r"))).await["context"].clone();
    assert_eq!(approvers(user("alice")).await["approvers"], json!(["ben"]));
    for own in [user("ben"), user("u-17")] {
        let context = approvers(own.clone()).await;
        assert_eq!((&context["reason"], context.get("access_request")), (&json!("policy.denied"), None), "{own}");
    }
    // Somebody who was disabled asks for nothing.
    let disabled = pdp.broker.by("ops", Method::POST, "/v1/people/zoe/disable", Some(json!({ "reason": "gone" }))).await;
    assert_eq!(disabled.status, StatusCode::OK, "{disabled:?}");
    assert_eq!(approvers(user("zoe")).await["reason"], "policy.denied");
    // An approver who was disabled after the yes has not said it.
    let asked = question(user("alice"), "purge", record("r"));
    let request = request_of(&asked, &evaluated(&pdp, &asked).await);
    let task = pdp.ask(REQUESTS, request).await.json();
    decided(&pdp, &task, Word::Approve).await;
    let approval = status(&pdp, &task).await.json()["result"]["approval"].clone();
    assert_eq!(pdp.broker.by("ops", Method::POST, "/v1/people/ben/disable", Some(json!({ "reason": "gone" }))).await.status, StatusCode::OK);
    let mut again = asked.clone();
    again["context"] = json!({ "approval": approval });
    let denied = evaluated(&pdp, &again).await;
    assert_eq!((&denied["decision"], &denied["context"]["reason"]), (&json!(false), &json!("policy_denied")), "{denied}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_not_buried_under_requests() {
    let pdp = start().await;
    let most = usize::try_from(pdp.broker.house.config.pending_max).unwrap();
    let ask = async |n: usize| {
        let mut asked = purge();
        asked["resource"] = record(&format!("record-{n}"));
        pdp.ask(REQUESTS, request_of(&asked, &evaluated(&pdp, &asked).await)).await
    };
    for n in 0..most {
        assert_eq!(ask(n).await.status, StatusCode::ACCEPTED, "{n}");
    }
    let flood = ask(most).await;
    assert_eq!((flood.status, flood.code().as_str()), (StatusCode::TOO_MANY_REQUESTS, "hold.flood"), "{flood:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_present_one_approval_at_once_get_one_yes() {
    let pdp = start().await;
    let (asked, approval) = approved(&pdp).await;
    let asked = with_approval(&asked, &approval);
    let all = futures_util::future::join_all((0..8).map(|_| evaluated(&pdp, &asked))).await;
    assert_eq!(all.iter().filter(|d| d["decision"] == true).count(), 1, "{all:?}");
    assert_eq!(pdp.on_record().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enforcement_point_that_may_asks_what_people_may_do_here_and_hears_what_the_api_would_say() {
    let pdp = Pdp::with(POLICIES, "asks_about_people = true").await;
    let task = submitted(&pdp, &purge()).await;
    let hold = hold_of(&pdp.broker, "ben", &task).await;
    let (hold, task) = (hold["id"].as_str().unwrap(), task["task"]["id"].as_str().unwrap());
    let may = async |who: &str, action: &str, kind: &str, id: &str| {
        let thing = json!({ "type": format!("bailiwick:{kind}"), "id": id });
        evaluated(&pdp, &question(user(who), action, thing)).await["decision"].as_bool().unwrap()
    };
    // As `POST /v1/holds/{id}/approve` and the others decide: who holds which role in this configuration.
    for (action, kind, id, yes) in [
        ("approve", "hold", hold, vec!["ben"]),
        ("refuse", "hold", hold, vec!["ana", "ben"]),
        ("read", "hold", hold, vec!["ana", "ben", "aud", "ops"]),
        ("read", "task", task, vec!["ana", "aud", "ops"]),
        ("revoke", "task", task, vec!["ana", "ops"]),
        ("own", "agent", "scout", vec!["ana"]),
        ("read", "agent", "scout", vec!["ana", "aud", "ops"]),
        ("enrol", "agent", "scout", vec!["ana", "ops"]),
        ("disable", "person", "zoe", vec!["ops"]),
        ("sign_out", "person", "zoe", vec!["ops", "zoe"]),
        ("read", "ledger", "entries", vec!["aud"]),
        ("delete", "task", task, vec![]),
        ("approve", "hold", "hold_x", vec![]),
        ("own", "agent", "nobody", vec![]),
        ("read", "secret", "x", vec![]),
    ] {
        for who in crate::broker::PEOPLE.into_iter().chain(["stranger"]) {
            assert_eq!(may(who, action, kind, id).await, yes.contains(&who), "{who} {action} {kind} {id}");
        }
    }
    let listed = || pdp.broker.house.registry.load().tool("shop.refund_order").is_some_and(|t| t.callable());
    crate::support::until("the shop is listed", listed).await;
    assert!(may("rea", "review", "tool", "shop.refund_order").await && !may("ben", "review", "tool", "shop.refund_order").await);
    assert!(may("ana", "use", "tool", "shop.show_order").await && !may("ben", "use", "tool", "shop.show_order").await);
    assert!(!may("ana", "use", "tool", "shop.absent").await);
    assert!(pdp.on_record().await.iter().any(|e| e["object_type"] == "bailiwick:hold" && e["principal"] == "ben" && e["action"] == "approve"));
    // A policy of its own has no say in it, and one that was not allowed to hears nothing.
    let closed = Pdp::with("@id(\"all\") permit (principal, action, resource);", "").await;
    let asked = question(user("ops"), "disable", json!({ "type": "bailiwick:person", "id": "zoe" }));
    assert_eq!(evaluated(&closed, &asked).await["decision"], false);
    assert_eq!(evaluated(&closed, &question(user("ops"), "disable", json!({ "type": "person", "id": "zoe" }))).await["decision"], true);
}
