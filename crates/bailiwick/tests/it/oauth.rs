//! The OAuth endpoints: who gets a token, who learns what about one, and what a replayed assertion does.

use bailiwick::clock::random;
use bailiwick_core::{InstanceId, Timestamp};
use http::{Method, StatusCode};
use serde_json::json;

use crate::broker::Broker;

fn instance() -> InstanceId {
    InstanceId::new(Timestamp::from_millis(1), random())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_assertion_gets_nothing_and_is_an_incident_on_record() {
    let broker = Broker::start(|text| text).await;
    let assertion = broker.assertion("scout", None);
    let first = broker.token_with(&assertion, &[]).await;
    assert_eq!(first.status, StatusCode::OK, "{first:?}");
    assert_eq!(first.headers["cache-control"], "no-store");
    let again = broker.token_with(&assertion, &[]).await;
    assert_eq!((again.status, again.json()["error"].as_str().unwrap()), (StatusCode::UNAUTHORIZED, "invalid_client"));
    broker.token_with(&assertion, &[]).await;
    let incidents = broker.house.store.incidents(10).await.unwrap();
    let replays: Vec<_> = incidents.iter().filter(|i| i.kind == "assertion_replayed").collect();
    assert_eq!(replays.len(), 1, "many replays are one incident: {incidents:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_for_our_resource_our_scope_and_agents_in_service_only() {
    let broker = Broker::start(|text| text).await;
    let error = async |agent: &str, fields: &[(&str, &str)]| {
        let answer = broker.token_with(&broker.assertion(agent, None), fields).await;
        answer.json()["error"].as_str().unwrap_or("none").to_owned()
    };
    let mcp = broker.house.urls.mcp.clone();
    assert_eq!(error("scout", &[("resource", &mcp)]).await, "none");
    assert_eq!(error("scout", &[("resource", &format!("{mcp}/s/shop"))]).await, "none");
    // Which systems there are is not told here: the audience is the endpoint itself, whatever is named below it.
    assert_eq!(error("scout", &[("resource", &format!("{mcp}/s/other"))]).await, "none");
    assert_eq!(error("scout", &[("resource", &format!("{mcp}/s/No Such Name"))]).await, "invalid_target");
    assert_eq!(error("scout", &[("resource", "https://evil.example/mcp")]).await, "invalid_target");
    assert_eq!(error("scout", &[("scope", "admin")]).await, "invalid_scope");
    assert_eq!(error("overdue", &[]).await, "unauthorized_client");
    // Signed by another agent's key.
    let now = bailiwick_core::Clock::now(&bailiwick::clock::SystemClock::start());
    let client = broker.spiffe_id("scout");
    let jti = bailiwick_core::AssertionId::new(now, random());
    let statement = bailiwick_identity::assertion::Statement { client: &client, audience: &broker.house.urls.base, jti, instance: None, model: None };
    let forged = bailiwick_identity::assertion::make(broker.key("other"), &statement, now).unwrap();
    assert_eq!(broker.token_with(&forged, &[]).await.json()["error"], "invalid_client");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_put_there_while_the_broker_runs_is_found() {
    let broker = Broker::start(|text| text).await;
    let file = broker.data.join("agents").join("scout.jwk");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, broker.key("other").public().jwk().to_string()).unwrap();
    broker.house.keyring.reload().unwrap();
    assert_eq!(broker.token_with(&broker.assertion("scout", None), &[]).await.status, StatusCode::UNAUTHORIZED);
    std::fs::write(&file, text).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(broker.token_with(&broker.assertion("scout", None), &[]).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tasks_token_is_renewed_for_the_same_copy_while_the_task_is_open() {
    let broker = Broker::ready().await;
    let mine = instance();
    let (task, _) = broker.task(&broker.agent_token("scout", Some(mine)).await).await;
    let id = task["id"].as_str().unwrap().to_owned();
    let renew = async |agent: &str, copy: Option<InstanceId>| broker.token_with(&broker.assertion(agent, copy), &[("task_id", &id)]).await;
    let renewed = renew("scout", Some(mine)).await;
    assert_eq!(renewed.status, StatusCode::OK, "{renewed:?}");
    assert_eq!(renewed.json()["task_id"], json!(id));
    for (agent, copy) in [("scout", Some(instance())), ("scout", None), ("other", Some(mine))] {
        assert_eq!(renew(agent, copy).await.json()["error"], "invalid_grant", "{agent} {copy:?}");
    }
    let token = renewed.json()["access_token"].as_str().unwrap().to_owned();
    let completed = broker.with(&token, Method::POST, &format!("/v1/tasks/{id}/complete"), Some(json!({}))).await;
    assert_eq!((completed.json()["state"].as_str(), completed.json()["reason"].as_str()), (Some("closed"), Some("completed")));
    assert_eq!(renew("scout", Some(mine)).await.json()["error"], "invalid_grant");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn introspection_tells_only_those_who_may_know_and_revocation_holds_at_once() {
    let broker = Broker::start(|text| text).await;
    let token = broker.agent_token("scout", None).await;
    let by_agent = async |agent: &str| broker.client("/oauth/introspect", &broker.assertion(agent, None), &[("token", &token)]).await.json();
    let by_person = async |name: &str| {
        let proof = broker.proof(name, &Method::POST, "/oauth/introspect");
        let headers = [("authorization", proof.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        broker.send(Method::POST, "/oauth/introspect", &headers, format!("token={token}")).await.json()
    };
    assert_eq!(by_agent("scout").await["active"], true);
    assert_eq!(by_agent("other").await, json!({ "active": false }));
    for (name, knows) in [("ana", true), ("ops", true), ("aud", true), ("ben", false), ("zoe", false)] {
        assert_eq!(by_person(name).await["active"], knows, "{name}");
    }
    let revoke = async |agent: &str, token: &str| broker.client("/oauth/revoke", &broker.assertion(agent, None), &[("token", token)]).await;
    assert_eq!(revoke("other", &token).await.json()["error"], "invalid_grant");
    assert_eq!(broker.with(&token, Method::GET, "/v1/tasks", None).await.status, StatusCode::OK);
    assert_eq!(revoke("scout", "not a token").await.status, StatusCode::OK);
    assert_eq!(revoke("scout", &token).await.status, StatusCode::OK);
    assert_eq!(broker.with(&token, Method::GET, "/v1/tasks", None).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(by_agent("scout").await, json!({ "active": false }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metadata_leads_from_the_resource_to_the_token_endpoint() {
    let broker = Broker::start(|text| text).await;
    let get = async |path: &str| broker.send(Method::GET, path, &[], "").await.json();
    let resource = get("/.well-known/oauth-protected-resource/mcp").await;
    assert_eq!(resource["resource"], json!(broker.house.urls.mcp));
    assert_eq!(resource["authorization_servers"], json!([broker.house.urls.base]));
    assert_eq!(get("/.well-known/oauth-protected-resource/mcp/s/shop").await["resource"], json!(format!("{}/s/shop", broker.house.urls.mcp)));
    let server = get("/.well-known/oauth-authorization-server").await;
    assert_eq!(server["issuer"], json!(broker.house.urls.base));
    assert_eq!(server["token_endpoint"], json!(broker.house.urls.token));
    let keys = get("/.well-known/jwks.json").await;
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
    assert!(keys["keys"][0].get("d").is_none());
}
