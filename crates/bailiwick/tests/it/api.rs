//! Tasks, held calls, tools, traces and the ledger, as people and agents use them.

use bailiwick_core::Digest;
use bailiwick_identity::person::{Verdict, Word};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::broker::{Answer, Broker};

fn text<'a>(document: &'a Value, name: &str) -> &'a str {
    document[name].as_str().unwrap_or_else(|| panic!("{name} in {document}"))
}

/// What a person says about a held call, signed by `signer`.
pub(crate) fn said(broker: &Broker, hold: &Value, word: Word, signer: &str) -> Value {
    let seen = Digest::of(format!("{}\n{}", text(hold, "nonce"), text(hold, "shown")).as_bytes());
    let digest: Digest = text(hold, "digest").parse().unwrap();
    let verdict = Verdict { hold: text(hold, "id").parse().unwrap(), digest, seen, word };
    json!({ "digest": digest, "seen": seen, "signature": verdict.sign(broker.key(signer)).unwrap() })
}

/// That person decides a held call.
pub(crate) async fn decide(broker: &Broker, who: &str, hold: &Value, verb: &str, body: Value) -> Answer {
    broker.by(who, Method::POST, &format!("/v1/holds/{}/{verb}", text(hold, "id")), Some(body)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_seen_by_its_agent_its_owner_operators_and_auditors_and_is_not_there_for_others() {
    let broker = Broker::ready().await;
    let (mine, others) = (broker.agent_token("scout", None).await, broker.agent_token("other", None).await);
    let (task, _) = broker.task(&mine).await;
    assert_eq!((text(&task, "state"), text(&task, "owner"), text(&task, "model_claimed")), ("open", "ana", "m-1"));
    let tools: Vec<(&str, bool)> =
        task["tools"].as_array().unwrap().iter().map(|t| (t["name"].as_str().unwrap(), t["needs_approval"].as_bool().unwrap())).collect();
    assert_eq!(tools, [("shop.refund_order", true), ("shop.show_order", false)]);
    let target = format!("/v1/tasks/{}", text(&task, "id"));
    assert_eq!(broker.with(&mine, Method::GET, &target, None).await.status, StatusCode::OK);
    assert_eq!(broker.with(&others, Method::GET, &target, None).await.status, StatusCode::NOT_FOUND);
    for (name, sees) in [("ana", true), ("ops", true), ("aud", true), ("ben", false), ("rea", false), ("zoe", false)] {
        let one = broker.by(name, Method::GET, &target, None).await.status;
        let all = broker.by(name, Method::GET, "/v1/tasks", None).await.json();
        assert_eq!((one == StatusCode::OK, !all["tasks"].as_array().unwrap().is_empty()), (sees, sees), "{name}");
    }
    assert!(broker.with(&others, Method::GET, "/v1/tasks", None).await.json()["tasks"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_revoked_by_its_owner_or_an_operator_and_its_token_is_worth_nothing_then() {
    let broker = Broker::ready().await;
    let (task, token) = broker.task(&broker.agent_token("scout", None).await).await;
    let target = format!("/v1/tasks/{}/revoke", text(&task, "id"));
    assert_eq!(broker.by("ben", Method::POST, &target, None).await.status, StatusCode::NOT_FOUND);
    assert_eq!(broker.by("aud", Method::POST, &target, None).await.code(), "authz.role");
    let revoked = broker.by("ana", Method::POST, &target, None).await;
    assert_eq!((text(&revoked.json(), "state"), text(&revoked.json(), "reason")), ("closed", "revoked"));
    let again = broker.by("ops", Method::POST, &target, None).await;
    assert_eq!((again.status, text(&again.json(), "reason")), (StatusCode::OK, "revoked"));
    assert_eq!(broker.with(&token, Method::GET, "/v1/tasks", None).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tasks_token_opens_no_task_and_what_is_not_granted_is_said() {
    let broker = Broker::ready().await;
    let agent = broker.agent_token("scout", None).await;
    let (_, token) = broker.task(&agent).await;
    let refused = broker.with(&token, Method::POST, "/v1/tasks", Some(json!({ "purpose": "more" }))).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::FORBIDDEN, "authz.role"));
    let nothing = broker.with(&agent, Method::POST, "/v1/tasks", Some(json!({ "purpose": "x", "tools": ["shop.absent"] }))).await;
    assert_eq!((nothing.status, nothing.code().as_str()), (StatusCode::FORBIDDEN, "task.narrowed_to_nothing"));
    assert_eq!(nothing.json()["narrowed"], json!([{ "asked": "shop.absent", "reason": "there is no such tool" }]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_call_is_released_by_an_approver_who_signed_it_and_traced_to_him() {
    let broker = Broker::ready().await;
    let (task, token, hold) = broker.held().await;
    assert_eq!((text(&hold, "state"), text(&hold, "tool"), text(&hold, "purpose")), ("pending", "shop.refund_order", "answer ticket 7"));
    assert_eq!(text(&hold, "spiffe_id"), broker.spiffe_id("scout").as_str());
    assert_eq!(text(&hold, "arguments"), Broker::refund().to_string());
    // Those whom it does not concern do not see it; those who see it may not all decide.
    assert_eq!(decide(&broker, "zoe", &hold, "approve", said(&broker, &hold, Word::Approve, "zoe")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(decide(&broker, "aud", &hold, "approve", said(&broker, &hold, Word::Approve, "aud")).await.code(), "approval.not_eligible");
    // A signature by another key, over another word, or over another digest.
    assert_eq!(decide(&broker, "ben", &hold, "approve", said(&broker, &hold, Word::Approve, "ana")).await.code(), "authn.proof_invalid");
    assert_eq!(decide(&broker, "ben", &hold, "approve", said(&broker, &hold, Word::Refuse, "ben")).await.code(), "authn.proof_invalid");
    let mut other = hold.clone();
    other["digest"] = json!("0".repeat(64));
    assert_eq!(decide(&broker, "ben", &hold, "approve", said(&broker, &other, Word::Approve, "ben")).await.code(), "approval.mismatch");
    let approved = decide(&broker, "ben", &hold, "approve", said(&broker, &hold, Word::Approve, "ben")).await;
    assert_eq!((approved.status, text(&approved.json(), "state")), (StatusCode::OK, "approved"), "{approved:?}");
    let twice = decide(&broker, "ben", &hold, "approve", said(&broker, &hold, Word::Approve, "ben")).await;
    assert_eq!(twice.status, StatusCode::CONFLICT);
    let done = broker.call(&token, "shop.refund_order", Broker::refund()).await;
    assert!(done["result"].is_object(), "{done}");

    let trace = broker.by("aud", Method::GET, &format!("/v1/trace/{}", text(&hold, "id")), None).await.json();
    assert_eq!((text(&trace["chain"], "model_claimed"), text(&trace["chain"], "owner")), ("m-1", "ana"));
    assert_eq!(text(&trace["chain"], "agent"), broker.spiffe_id("scout").as_str());
    assert_eq!(trace["task"]["id"], task["id"]);
    assert_eq!(text(&trace["decision"], "verdict"), "allow");
    assert_eq!(text(&trace["hold"], "state"), "consumed");
    assert_eq!((text(&trace["approvals"][0], "person"), text(&trace["approvals"][0], "proof")), ("ben", "key"));
    assert_eq!(trace["decision"]["digest"], hold["digest"]);
    let kinds: Vec<&str> = trace["entries"].as_array().unwrap().iter().map(|e| e["entry"]["kind"].as_str().unwrap()).collect();
    for kind in ["task_opened", "hold", "hold_step", "intent", "outcome"] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
    // The same story from the call that was made, and from the entry of its permit.
    for id in [text(&trace, "call").to_owned(), trace["intent"].to_string()] {
        let other = broker.by("ben", Method::GET, &format!("/v1/trace/{id}"), None).await.json();
        assert_eq!((&other["intent"], &other["hold"]), (&trace["intent"], &trace["hold"]), "{id}");
    }
    assert_eq!(broker.by("zoe", Method::GET, &format!("/v1/trace/{}", text(&hold, "id")), None).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_no_is_enough_and_the_reason_is_on_record() {
    let broker = Broker::ready().await;
    let (_, token, hold) = broker.held().await;
    let mut body = said(&broker, &hold, Word::Refuse, "ben");
    body["reason"] = json!("not without a photo");
    let refused = decide(&broker, "ben", &hold, "refuse", body).await.json();
    assert_eq!((text(&refused, "state"), text(&refused, "refused_by"), text(&refused, "refusal")), ("refused", "ben", "not without a photo"));
    let call = broker.call(&token, "shop.refund_order", Broker::refund()).await.to_string();
    assert!(call.contains("hold.refused"), "{call}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_may_not_decide_what_it_asked_even_with_its_owners_role() {
    let broker = Broker::start(|t| t.replace("[people.ana]\nroles = [\"owner\"]", "[people.ana]\nroles = [\"owner\", \"approver\"]")).await;
    while !broker.house.registry.load().tool("shop.refund_order").is_some_and(|t| t.callable()) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let (_, _, hold) = broker.held().await;
    let own = decide(&broker, "ana", &hold, "approve", said(&broker, &hold, Word::Approve, "ana")).await;
    assert_eq!(own.code(), "approval.self");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reviewer_classifies_exactly_the_definition_that_was_looked_at() {
    let broker = Broker::ready().await;
    let tools = broker.by("zoe", Method::GET, "/v1/tools", None).await.json();
    let tool = tools["tools"].as_array().unwrap().iter().find(|t| t["name"] == "shop.comment_ticket").unwrap().clone();
    assert_eq!(text(&tool, "status"), "review");
    let say = async |definition: &str| {
        let body = json!({ "effect": "influence", "definition": definition });
        broker.by("rea", Method::POST, "/v1/tools/shop.comment_ticket/classify", Some(body)).await
    };
    assert_eq!(say(&"0".repeat(64)).await.status, StatusCode::CONFLICT);
    let classified = say(text(&tool, "definition")).await;
    assert_eq!(
        (classified.status, text(&classified.json(), "status"), text(&classified.json(), "by")),
        (StatusCode::OK, "classified", "rea"),
        "{classified:?}"
    );
    assert!(broker.house.registry.load().tool("shop.comment_ticket").unwrap().callable());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_is_read_by_auditors_in_pieces_and_verifies_while_the_broker_runs() {
    let broker = Broker::ready().await;
    broker.held().await;
    let (key, origin) = bailiwick::ledger_access::log_key(&broker.data).unwrap();
    let page = broker.by("aud", Method::GET, "/v1/ledger/entries?from=1&to=3", None).await.json();
    let indexes: Vec<u64> = page["entries"].as_array().unwrap().iter().map(|e| e["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [1, 2]);
    let all = broker.by("aud", Method::GET, "/v1/ledger/entries", None).await.json();
    let mut check = bailiwick::ledger_access::Check::new(text(&all, "checkpoint"), &origin, &key).unwrap();
    for entry in all["entries"].as_array().unwrap() {
        let leaf: Digest = text(entry, "leaf").parse().unwrap();
        check.push(text(entry, "text").as_bytes(), leaf.as_bytes()).unwrap();
    }
    assert_eq!(check.finish().unwrap().size, all["size"].as_u64().unwrap());
    // The command's own check finds the store taken, and asks the broker as the auditor whose key is here.
    let out = broker.data.join("published");
    let (data, to) = (broker.data.clone(), out.clone());
    let (verified, exported) = tokio::task::spawn_blocking({
        let (key, origin) = (key.clone(), origin.clone());
        move || (bailiwick::ledger_access::verify(&data, &origin, &key), bailiwick::ledger_access::export(&data, &to))
    })
    .await
    .unwrap();
    assert!(verified.unwrap().size >= all["size"].as_u64().unwrap());
    assert_eq!(bailiwick_ledger::export::verify(&out, &origin, &key).unwrap().entries, exported.unwrap());
    let note = broker.send(Method::GET, "/v1/ledger/checkpoint", &[], "").await;
    assert!(note.text().starts_with(origin.as_str()), "{note:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_listed_to_those_who_answer_for_them_and_why_a_system_is_down_to_operators() {
    let broker = Broker::ready().await;
    let names = async |who: &str| {
        let list = broker.by(who, Method::GET, "/v1/agents", None).await.json();
        list["agents"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("ana").await, ["overdue", "scout"]);
    assert_eq!(names("rea").await, ["other", "overdue", "scout"]);
    assert!(names("zoe").await.is_empty());
    let systems = broker.by("ops", Method::GET, "/v1/systems", None).await.json();
    assert_eq!((text(&systems["systems"][0], "name"), text(&systems["systems"][0], "status")), ("shop", "ready"));
    let ready = broker.send(Method::GET, "/readyz", &[], "").await;
    assert_eq!((ready.status, ready.json()["systems"]["ready"].as_u64()), (StatusCode::OK, Some(1)), "{ready:?}");
    assert!(!ready.text().contains("shop"), "names are for people who prove themselves: {ready:?}");
    let metrics = broker.send(Method::GET, "/metrics", &[], "").await;
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
}
