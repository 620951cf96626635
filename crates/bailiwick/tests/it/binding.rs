//! Tokens that are bound to a key: by proofs of possession (RFC 9449), at the token endpoint and at every door behind it.

use std::cell::RefCell;

use bailiwick::clock::{SystemClock, random};
use bailiwick_core::{AssertionId, Clock as _, InstanceId, Timestamp};
use bailiwick_identity::{SigningKey, dpop};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::broker::{Answer, Broker};

/// A client with a key of its own, which takes nonces as they are given.
pub(crate) struct Holder {
    pub(crate) key: SigningKey,
    nonce: RefCell<Option<String>>,
}

impl Holder {
    pub(crate) fn new() -> Self {
        Self { key: SigningKey::generate().unwrap().0, nonce: RefCell::default() }
    }

    /// A proof for one request to this broker.
    pub(crate) fn proof(&self, broker: &Broker, method: &str, path: &str, token: Option<&str>) -> String {
        let now = SystemClock::start().now();
        let uri = format!("{}{path}", broker.house.urls.base);
        let (jti, nonce) = (AssertionId::new(now, random()).to_string(), self.nonce.borrow().clone());
        dpop::make(&self.key, &dpop::Statement { method, uri: &uri, token, nonce: nonce.as_deref(), jti: &jti }, now).unwrap()
    }

    fn take_nonce(&self, answer: &Answer) -> bool {
        let given = answer.headers.get("dpop-nonce").map(|n| n.to_str().unwrap().to_owned());
        let wanted = answer.text().contains("use_dpop_nonce") || answer.text().contains("authn.dpop_nonce");
        if given.is_some() {
            self.nonce.replace(given);
        }
        wanted
    }

    /// The token endpoint, with the agent's assertion and a proof.
    pub(crate) async fn token(&self, broker: &Broker, agent: &str, instance: Option<InstanceId>, fields: &[(&str, &str)]) -> Answer {
        let mut all = vec![("grant_type", "client_credentials"), ("client_assertion_type", bailiwick_identity::assertion::ASSERTION_TYPE)];
        // One assertion for both tries: what is refused for its nonce has not used it up.
        let assertion = broker.assertion(agent, instance);
        all.push(("client_assertion", &assertion));
        all.extend_from_slice(fields);
        self.form(broker, "/oauth/token", &all).await
    }

    /// A form, with a proof for it.
    pub(crate) async fn form(&self, broker: &Broker, path: &str, fields: &[(&str, &str)]) -> Answer {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let once = async || {
            let proof = self.proof(broker, "POST", path, None);
            let headers = [("content-type", "application/x-www-form-urlencoded"), ("dpop", proof.as_str())];
            broker.send(Method::POST, path, &headers, body.clone()).await
        };
        let answer = once().await;
        if self.take_nonce(&answer) { once().await } else { answer }
    }

    /// An agent token that is bound to the key.
    pub(crate) async fn agent_token(&self, broker: &Broker, agent: &str, instance: Option<InstanceId>) -> String {
        let answer = self.token(broker, agent, instance, &[]).await;
        assert_eq!((answer.status, answer.json()["token_type"].as_str()), (StatusCode::OK, Some("DPoP")), "{answer:?}");
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// A request with a token by the scheme `DPoP`.
    pub(crate) async fn with(&self, broker: &Broker, token: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        let once = async || {
            let proof = self.proof(broker, method.as_str(), path.split('?').next().unwrap(), Some(token));
            let headers = [("authorization", &*format!("DPoP {token}")), ("dpop", proof.as_str()), ("content-type", "application/json")];
            broker.send(method.clone(), path, &headers, body.clone()).await
        };
        let answer = once().await;
        if self.take_nonce(&answer) { once().await } else { answer }
    }

    /// Opens a task of the shop; gives its id and its token.
    pub(crate) async fn task(&self, broker: &Broker, agent_token: &str) -> (String, String) {
        let asked = json!({ "purpose": "answer ticket 7", "tools": ["shop.show_order"] });
        let answer = self.with(broker, agent_token, Method::POST, "/v1/tasks", Some(asked)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        let opened = answer.json();
        assert_eq!(opened["token"]["token_type"], "DPoP", "{opened}");
        (opened["task"]["id"].as_str().unwrap().to_owned(), opened["token"]["access_token"].as_str().unwrap().to_owned())
    }
}

pub(crate) fn call() -> (Vec<(&'static str, &'static str)>, String) {
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    let params = json!({ "name": "shop.show_order", "arguments": { "order": "O-2008" }, "_meta": meta });
    let headers = vec![
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "shop.show_order"),
    ];
    (headers, json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string())
}

/// A call of the shop with these fields beside.
pub(crate) async fn called(broker: &Broker, path: &str, more: &[(&str, &str)]) -> Answer {
    let (mut headers, body) = call();
    headers.extend_from_slice(more);
    broker.send(Method::POST, path, &headers, body).await
}

fn challenges(answer: &Answer) -> Vec<String> {
    answer.headers.get_all("www-authenticate").iter().map(|v| v.to_str().unwrap().to_owned()).collect()
}

fn instance() -> InstanceId {
    InstanceId::new(Timestamp::from_millis(1), random())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_token_works_for_its_holder_and_for_nobody_else() {
    let broker = Broker::ready().await;
    let (holder, thief, mine) = (Holder::new(), Holder::new(), instance());
    let agent = holder.agent_token(&broker, "scout", Some(mine)).await;
    let (task, token) = holder.task(&broker, &agent).await;
    let bound = format!("DPoP {token}");
    let good = holder.proof(&broker, "POST", "/mcp", Some(&token));
    let answer = called(&broker, "/mcp", &[("authorization", &bound), ("dpop", &good)]).await;
    assert!(answer.json()["result"]["isError"] == json!(false), "{answer:?}");
    // The very proof again.
    let again = called(&broker, "/mcp", &[("authorization", &bound), ("dpop", &good)]).await;
    assert_eq!((again.status, again.code().as_str()), (StatusCode::UNAUTHORIZED, "authn.dpop_invalid"));
    assert!(challenges(&again)[1].contains("error=\"invalid_dpop_proof\""), "{again:?}");
    // As a bearer token, with and without the proof beside it.
    let fresh = || holder.proof(&broker, "POST", "/mcp", Some(&token));
    for more in [vec![("authorization", format!("Bearer {token}"))], vec![("authorization", format!("Bearer {token}")), ("dpop", fresh())]] {
        let more: Vec<_> = more.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let refused = called(&broker, "/mcp", &more).await;
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::UNAUTHORIZED, "authn.proof_invalid"));
        assert!(challenges(&refused)[0].contains("Bearer") && challenges(&refused)[0].contains("invalid_token"), "{refused:?}");
    }
    // With another key; without a proof; with two.
    let stolen = thief.with(&broker, &token, Method::POST, "/mcp", None).await;
    assert_eq!((stolen.status, stolen.code().as_str()), (StatusCode::UNAUTHORIZED, "authn.proof_invalid"));
    assert!(challenges(&stolen)[1].contains("DPoP") && challenges(&stolen)[1].contains("invalid_token"), "{stolen:?}");
    let none = called(&broker, "/mcp", &[("authorization", &bound)]).await;
    let two = called(&broker, "/mcp", &[("authorization", &bound), ("dpop", &fresh()), ("dpop", &fresh())]).await;
    for refused in [none, two] {
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::UNAUTHORIZED, "authn.dpop_invalid"));
    }
    // Renewed for the same key and for no other, nor for none.
    let renew = async |who: &Holder| who.token(&broker, "scout", Some(mine), &[("task_id", &task)]).await;
    assert_eq!(renew(&thief).await.json()["error"], "invalid_grant");
    assert_eq!(broker.token_with(&broker.assertion("scout", Some(mine)), &[("task_id", &task)]).await.json()["error"], "invalid_grant");
    let renewed = renew(&holder).await;
    assert_eq!((renewed.status, renewed.json()["token_type"].as_str()), (StatusCode::OK, Some("DPoP")), "{renewed:?}");
    // Another key of the same agent does not drive the task either.
    let other = thief.agent_token(&broker, "scout", Some(mine)).await;
    let driven = thief.with(&broker, &other, Method::POST, &format!("/mcp/t/{task}"), None).await;
    assert_eq!(driven.status, StatusCode::BAD_REQUEST, "no message, but a good token: {driven:?}");
    let proof = thief.proof(&broker, "POST", &format!("/mcp/t/{task}"), Some(&other));
    let driven = called(&broker, &format!("/mcp/t/{task}"), &[("authorization", &format!("DPoP {other}")), ("dpop", &proof)]).await;
    assert_eq!(driven.status, StatusCode::UNAUTHORIZED, "{driven:?}");
    // On record: which key may hold its tokens.
    let row = broker.house.store.task(task.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(row.task.held_by, Some(bailiwick_core::HeldBy::Key(holder.key.id().to_string())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_bound_to_nothing_is_no_bound_one() {
    let broker = Broker::start(|text| text).await;
    let (holder, plain) = (Holder::new(), broker.agent_token("scout", None).await);
    let refused = holder.with(&broker, &plain, Method::GET, "/v1/tasks", None).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::UNAUTHORIZED, "authn.proof_invalid"));
    assert_eq!(broker.with(&plain, Method::GET, "/v1/tasks", None).await.status, StatusCode::OK);
    // What is known of a bound one is told with its key.
    let bound = holder.agent_token(&broker, "scout", None).await;
    let known = broker.client("/oauth/introspect", &broker.assertion("scout", None), &[("token", &bound)]).await.json();
    assert_eq!((known["token_type"].as_str(), known["cnf"]["jkt"].as_str()), (Some("DPoP"), Some(&*holder.key.id().to_string())), "{known}");
    assert_eq!(holder.with(&broker, &bound, Method::GET, "/v1/tasks?state=open", None).await.status, StatusCode::OK, "a query is not compared");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_is_for_the_public_url_whatever_host_the_request_names() {
    let broker =
        Broker::start(|text| text.replace("address = \"127.0.0.1:0\"", "address = \"127.0.0.1:0\"\npublic_url = \"https://gw.example/base\"")).await;
    let holder = Holder::new();
    let token = holder.agent_token(&broker, "scout", None).await;
    let ask = async |htu: &str| {
        let now = SystemClock::start().now();
        let jti = AssertionId::new(now, random()).to_string();
        let nonce = holder.nonce.borrow().clone();
        let what = dpop::Statement { method: "GET", uri: htu, token: Some(&token), nonce: nonce.as_deref(), jti: &jti };
        let proof = dpop::make(&holder.key, &what, now).unwrap();
        broker.send(Method::GET, "/v1/tasks", &[("authorization", &format!("DPoP {token}")), ("dpop", &proof)], "").await
    };
    for (htu, status) in [
        ("https://gw.example/base/v1/tasks", StatusCode::OK),
        ("HTTPS://GW.EXAMPLE:443/base/v1/tasks", StatusCode::OK),
        (&format!("http://{}/v1/tasks", broker.address), StatusCode::UNAUTHORIZED),
        ("https://gw.example/v1/tasks", StatusCode::UNAUTHORIZED),
        ("https://evil.example/base/v1/tasks", StatusCode::UNAUTHORIZED),
    ] {
        let answer = ask(htu).await;
        assert_eq!(answer.status, status, "{htu}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_each_proof_needs_a_nonce_it_is_given_with_every_answer_and_a_client_never_waits() {
    let broker = Broker::start(|text| text + "\n[binding]\nnonces = true\n").await;
    let holder = Holder::new();
    let form = [("content-type", "application/x-www-form-urlencoded"), ("dpop", &*holder.proof(&broker, "POST", "/oauth/token", None))];
    let first = broker.send(Method::POST, "/oauth/token", &form, "grant_type=client_credentials").await;
    assert_eq!((first.status, first.json()["error"].as_str()), (StatusCode::BAD_REQUEST, Some("use_dpop_nonce")));
    assert_eq!(first.headers.get_all("dpop-nonce").iter().count(), 1);
    let token = holder.agent_token(&broker, "scout", None).await;
    for _ in 0..3 {
        let proof = holder.proof(&broker, "GET", "/v1/tasks", Some(&token));
        let answer = broker.send(Method::GET, "/v1/tasks", &[("authorization", &format!("DPoP {token}")), ("dpop", &proof)], "").await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert!(answer.headers.contains_key("dpop-nonce"));
    }
    holder.nonce.replace(None);
    let proof = holder.proof(&broker, "GET", "/v1/tasks", Some(&token));
    let refused = broker.send(Method::GET, "/v1/tasks", &[("authorization", &format!("DPoP {token}")), ("dpop", &proof)], "").await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::UNAUTHORIZED, "authn.dpop_nonce"));
    assert!(challenges(&refused)[1].contains("error=\"use_dpop_nonce\"") && refused.headers.contains_key("dpop-nonce"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demand_is_kept_at_the_token_endpoint_at_every_door_and_for_each_system() {
    let broker = Broker::start(|text| text + "\n[binding]\nrequired = \"dpop\"\n").await;
    let refused = broker.token_with(&broker.assertion("scout", None), &[]).await;
    assert_eq!((refused.status, refused.json()["error"].as_str()), (StatusCode::BAD_REQUEST, Some("invalid_request")));
    let holder = Holder::new();
    holder.agent_token(&broker, "scout", None).await;
    let metadata = broker.send(Method::GET, "/.well-known/oauth-protected-resource/mcp", &[], "").await.json();
    assert_eq!(metadata["dpop_bound_access_tokens_required"], json!(true));
    assert!(metadata["dpop_signing_alg_values_supported"].as_array().unwrap().contains(&json!("ES256")), "{metadata}");
    let nobody = broker.send(Method::GET, "/v1/tasks", &[], "").await;
    assert!(challenges(&nobody).len() == 1 && challenges(&nobody)[0].starts_with("DPoP "), "{nobody:?}");
    // A token of an earlier time, before anything was demanded.
    let now = broker.house.clock.now();
    let statement = bailiwick_identity::token::Statement {
        agent: "scout".parse().unwrap(),
        instance: instance(),
        acting: bailiwick_identity::token::Acting::default(),
        purpose: bailiwick_identity::token::Purpose::Agent,
        scope: bailiwick_identity::oauth::Scope::agent(),
        audience: broker.house.urls.mcp.clone(),
        jti: bailiwick_core::SessionId::new(now, random()),
        confirmation: None,
    };
    let old = broker.house.issuer.issue(&statement, now, std::time::Duration::from_secs(60)).unwrap();
    let refused = broker.with(&old.token, Method::GET, "/v1/tasks", None).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::UNAUTHORIZED, "authn.binding_required"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_system_can_demand_more_than_the_rest() {
    let broker = Broker::start(|text| text.replace("[systems.shop.effects]", "binding = \"any\"\n[systems.shop.effects]")).await;
    let (task, token) = loop {
        let agent = broker.agent_token("scout", None).await;
        let asked = json!({ "purpose": "x", "tools": ["shop.show_order"] });
        let answer = broker.with(&agent, Method::POST, "/v1/tasks", Some(asked)).await;
        if answer.status == StatusCode::CREATED {
            let opened = answer.json();
            break (opened["task"]["id"].clone(), opened["token"]["access_token"].as_str().unwrap().to_owned());
        }
    };
    let refused = broker.call(&token, "shop.show_order", json!({ "order": "O-2008" })).await;
    assert!(refused["result"]["isError"] == json!(true) && refused.to_string().contains("authn.binding_required"), "{refused}");
    let denied = broker.by("ana", Method::GET, &format!("/v1/tasks/{}/trace", task.as_str().unwrap()), None).await;
    assert!(denied.text().contains("authn.binding_required") || denied.status == StatusCode::NOT_FOUND, "{denied:?}");
    let holder = Holder::new();
    let (_, token) = holder.task(&broker, &holder.agent_token(&broker, "scout", None).await).await;
    let proof = holder.proof(&broker, "POST", "/mcp", Some(&token));
    let answer = called(&broker, "/mcp", &[("authorization", &format!("DPoP {token}")), ("dpop", &proof)]).await;
    assert!(answer.json()["result"]["isError"] == json!(false), "{answer:?}");
}
