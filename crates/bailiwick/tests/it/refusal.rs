//! Every route of the OpenAPI document refuses: without proof, with the wrong kind of proof, and for ids that are not there. A route
//! without a case fails.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::broker::Broker;

/// Who may use a route at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// Everybody: nothing that it says is a secret.
    Public,
    /// Everybody, where the configuration opens it; here it does not.
    Closed,
    /// A client assertion in the form.
    Client,
    /// An agent's token.
    Agent,
    /// An agent's token, or a person.
    Both,
    /// Any person who is configured; what he or she sees depends on roles.
    Person,
    /// A person with this role, or one of these with `|` in between.
    Role(&'static str),
    /// A browser with a session.
    Session,
    /// The sign-in form: what proves is the code in it.
    Form,
}

/// A public key of nobody here.
fn a_key() -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" })
}

/// One line for each route, with a person who may use it and a body that is well-formed.
#[expect(clippy::too_many_lines, reason = "the table of all routes")]
fn cases() -> Vec<(&'static str, &'static str, Door, Option<Value>)> {
    use Door::{Agent, Both, Client, Closed, Form, Person, Public, Role, Session};
    let hex = "0".repeat(64);
    let decision = json!({ "digest": hex, "seen": hex, "signature": "AA" });
    vec![
        ("post", "/oauth/token", Client, None),
        ("get", "/oauth/authorize", Closed, None),
        ("post", "/oauth/register", Closed, Some(json!({ "redirect_uris": ["http://127.0.0.1/cb"] }))),
        ("post", "/access/v1/evaluation", Agent, Some(json!({}))),
        ("post", "/access/v1/evaluations", Agent, Some(json!({}))),
        ("post", "/access/v1/search/subject", Agent, Some(json!({}))),
        ("post", "/access/v1/search/resource", Agent, Some(json!({}))),
        ("post", "/access/v1/search/action", Agent, Some(json!({}))),
        ("post", "/access/v1/requests", Agent, Some(json!({}))),
        ("get", "/access/v1/requests/{id}", Agent, None),
        ("post", "/access/v1/requests/{id}/cancel", Agent, None),
        ("get", "/.well-known/authzen-configuration", Public, None),
        ("get", "/consent", Session, None),
        ("post", "/consent", Session, None),
        ("post", "/oauth/introspect", Client, None),
        ("post", "/oauth/revoke", Client, None),
        ("get", "/.well-known/oauth-authorization-server", Public, None),
        ("get", "/.well-known/oauth-protected-resource", Public, None),
        ("get", "/.well-known/oauth-protected-resource/mcp", Public, None),
        ("get", "/.well-known/oauth-protected-resource/mcp/s/{system}", Public, None),
        ("get", "/.well-known/oauth-protected-resource/mcp/t/{id}", Public, None),
        ("get", "/.well-known/jwks.json", Public, None),
        ("get", "/.well-known/spiffe-bundle", Public, None),
        ("get", "/federation/.well-known/openid-configuration", Public, None),
        ("get", "/federation/jwks.json", Public, None),
        ("post", "/v1/tasks", Agent, Some(json!({ "purpose": "x" }))),
        ("get", "/v1/tasks", Both, None),
        ("get", "/v1/tasks/{id}", Both, None),
        ("post", "/v1/tasks/{id}/complete", Agent, None),
        ("post", "/v1/tasks/{id}/revoke", Person, None),
        ("get", "/v1/holds", Person, None),
        ("get", "/v1/holds/{id}", Person, None),
        ("post", "/v1/holds/{id}/approve", Person, Some(decision.clone())),
        ("post", "/v1/holds/{id}/refuse", Person, Some(decision)),
        ("get", "/v1/tools", Person, None),
        ("post", "/v1/tools/{name}/classify", Role("rea"), Some(json!({ "effect": "read", "definition": hex }))),
        ("get", "/v1/agents", Person, None),
        ("post", "/v1/agents/{name}/enrolments", Person, Some(json!({}))),
        ("get", "/v1/agents/{name}/keys", Person, None),
        ("post", "/v1/agents/{name}/keys/{key}/revoke", Person, None),
        ("post", "/v1/agents/{name}/suspend", Person, Some(json!({ "reason": "x" }))),
        ("post", "/v1/agents/{name}/resume", Person, Some(json!({ "reason": "x" }))),
        ("get", "/v1/agents/{name}/instances", Person, None),
        ("post", "/v1/agents/{name}/instances/{instance}/revoke", Person, None),
        // What proves is the one-time token in the body.
        ("post", "/v1/enrol", Both, Some(json!({ "token": format!("bwe_{}", "A".repeat(43)), "key": a_key(), "proof": "e30.e30.AA" }))),
        ("get", "/v1/systems", Person, None),
        ("get", "/v1/secrets", Role("ops"), None),
        ("get", "/v1/leases", Role("aud|ops"), None),
        ("get", "/v1/leases/{id}", Person, None),
        ("post", "/v1/leases/{id}/end", Role("ops"), Some(json!({ "reason": "x" }))),
        ("post", "/v1/systems/{name}/check", Role("ops"), Some(json!({}))),
        ("get", "/v1/root-key", Role("aud|ops"), None),
        ("post", "/v1/root-key/rotate", Role("ops"), None),
        ("get", "/v1/trace/{id}", Person, None),
        ("get", "/v1/entries", Person, None),
        ("get", "/v1/tasks/{id}/changes", Person, None),
        ("get", "/v1/reports/person", Person, None),
        ("get", "/v1/reports/difference", Person, None),
        ("post", "/v1/index/rebuild", Role("ops"), None),
        ("get", "/v1/calls/{id}/texts", Person, None),
        ("post", "/v1/ledger/prune", Role("ops"), Some(json!({}))),
        ("post", "/v1/erasures", Role("ops"), Some(json!({ "task": format!("task_{}", "0".repeat(32)), "reason": "x" }))),
        ("get", "/v1/ledger/checkpoint", Public, None),
        ("get", "/v1/exports", Role("aud|ops"), None),
        ("get", "/v1/ledger/entries", Role("aud"), None),
        ("get", "/v1/ledger/receipts/{id}", Person, None),
        ("get", "/v1/ledger/status", Person, None),
        ("post", "/v1/sign-in-codes", Person, None),
        ("get", "/sign-in", Public, None),
        ("post", "/sign-in", Form, None),
        ("post", "/sign-out", Session, None),
        ("get", "/approvals", Session, None),
        ("get", "/approvals/{hold}", Session, None),
        ("post", "/approvals/{hold}", Session, None),
        ("get", "/assets/style.css", Public, None),
        ("get", "/assets/passkey.js", Public, None),
        ("get", "/sign-in/oidc", Closed, None),
        ("get", "/sign-in/oidc/callback", Closed, None),
        ("post", "/sign-in/oidc/logout", Closed, None),
        ("post", "/sign-in/passkey", Form, None),
        ("get", "/account", Session, None),
        ("post", "/account/passkeys", Session, None),
        ("post", "/account/passkeys/remove", Session, None),
        ("post", "/account/sessions/end", Session, None),
        ("get", "/v1/people", Person, None),
        ("post", "/v1/people/{name}/disable", Role("ops"), Some(json!({ "reason": "x" }))),
        ("post", "/v1/people/{name}/enable", Role("ops"), Some(json!({ "reason": "x" }))),
        ("post", "/v1/people/{name}/sign-out", Person, None),
        ("post", "/v1/people/{name}/sessions/{id}/end", Role("ops"), None),
        ("post", "/v1/people/{name}/passkeys/{id}/remove", Role("ops"), Some(json!({ "reason": "x" }))),
        ("post", "/v1/people/{name}/keys/{key}/revoke", Role("ops"), Some(json!({ "reason": "x" }))),
        ("post", "/v1/people/{name}/invite", Role("ops"), None),
        ("post", "/events", Closed, None),
        ("post", "/events/poll/{name}", Closed, None),
        ("get", "/events/streams", Closed, None),
        ("get", "/events/status", Closed, None),
        ("post", "/events/verify", Closed, Some(json!({ "stream_id": "x" }))),
        ("get", "/.well-known/ssf-configuration", Public, None),
        ("get", "/healthz", Public, None),
        ("get", "/readyz", Public, None),
        ("get", "/metrics", Public, None),
        ("get", "/openapi.json", Public, None),
    ]
}

/// A path with ids that are well-formed and not there.
fn filled(path: &str) -> String {
    let id = match path {
        _ if path.starts_with("/v1/tasks") || path.contains("/mcp/t/") => "task_",
        _ if path.starts_with("/v1/leases") => "lease_",
        _ => "hold_",
    };
    let absent = format!("{id}{}", "0".repeat(32));
    path.replace("{id}", &absent)
        .replace("{key}", &"A".repeat(43))
        .replace("{hold}", &absent)
        .replace("{name}", if path.starts_with("/v1/systems") || path.starts_with("/v1/agents") { "absent" } else { "shop.absent" })
        .replace("{system}", "absent")
}

fn method(word: &str) -> Method {
    word.to_uppercase().parse().unwrap()
}

fn type_of(door: Door) -> (&'static str, &'static str) {
    let form = matches!(door, Door::Client | Door::Session | Door::Form);
    ("content-type", if form { "application/x-www-form-urlencoded" } else { "application/json" })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_without_a_case_fails_and_so_does_a_case_without_a_route() {
    let broker = Broker::start(|text| text).await;
    let document = broker.send(Method::GET, "/openapi.json", &[], "").await.json();
    let paths = document["paths"].as_object().unwrap();
    let routes: BTreeSet<(String, String)> =
        paths.iter().flat_map(|(path, ops)| ops.as_object().unwrap().keys().map(move |m| (m.clone(), path.clone()))).collect();
    let known: BTreeSet<(String, String)> = cases().iter().map(|(m, p, ..)| ((*m).to_owned(), (*p).to_owned())).collect();
    assert_eq!(routes, known);
    for (m, path, door, _) in cases() {
        let secured = document["paths"][path][m]["security"].is_array();
        assert_eq!(secured, !matches!(door, Door::Public | Door::Closed), "{m} {path}: the document and the case disagree about who may");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_refuses_without_proof_and_with_a_token_that_is_none() {
    let broker = Broker::start(|text| text).await;
    for (m, path, door, body) in cases() {
        let (target, content_type) = (filled(path), type_of(door));
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        let bare = broker.send(method(m), &target, &[content_type], body.clone()).await;
        let garbage = broker.send(method(m), &target, &[content_type, ("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.")], body).await;
        for answer in [bare, garbage] {
            match door {
                Door::Public => assert!(answer.status.is_success() || path == "/readyz", "{m} {path}: {answer:?}"),
                Door::Closed => assert_eq!(answer.status, StatusCode::NOT_FOUND, "{m} {path}: {answer:?}"),
                Door::Client if path.ends_with("introspect") && answer.headers.contains_key("www-authenticate") => {
                    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{m} {path}");
                }
                Door::Client => assert!(matches!(answer.status.as_u16(), 400 | 401) && answer.json()["error"].is_string(), "{m} {path}: {answer:?}"),
                Door::Agent | Door::Both | Door::Person | Door::Role(_) => {
                    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{m} {path}: {answer:?}");
                    assert!(answer.headers["www-authenticate"].to_str().unwrap().contains("resource_metadata="), "{m} {path}");
                    assert!(answer.code().starts_with("authn."), "{m} {path}: {answer:?}");
                }
                Door::Session if m == "get" => {
                    assert!(answer.headers["location"].to_str().unwrap().starts_with("/sign-in"), "{m} {path}: {answer:?}")
                }
                Door::Session | Door::Form => assert_eq!(answer.status, StatusCode::FORBIDDEN, "{m} {path}: {answer:?}"),
            }
            assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{m} {path}");
            assert!(answer.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"), "{m} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_refuses_the_wrong_kind_of_caller() {
    let broker = Broker::start(|text| text).await;
    let token = broker.agent_token("scout", None).await;
    for (m, path, door, body) in cases() {
        let target = filled(path);
        match door {
            Door::Person | Door::Role(_) => {
                let answer = broker.with(&token, method(m), &target, body.clone()).await;
                assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, "authz.role"), "{m} {path}: an agent's token");
            }
            Door::Agent => {
                let answer = broker.by("ops", method(m), &target, body.clone()).await;
                assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, "authz.role"), "{m} {path}: a person");
            }
            Door::Session if m == "get" => {
                let answer = broker.by("ops", method(m), &target, None).await;
                assert!(answer.headers["location"].to_str().unwrap().starts_with("/sign-in"), "{m} {path}: a key is no session");
            }
            Door::Public | Door::Closed | Door::Client | Door::Both | Door::Session | Door::Form => {}
        }
        if let Door::Role(who) = door {
            for other in crate::broker::PEOPLE.iter().filter(|p| !who.split('|').any(|w| w == **p)) {
                let answer = broker.by(other, method(m), &target, body.clone()).await;
                assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, "authz.role"), "{m} {path}: {other}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_not_found_by_anybody() {
    let broker = Broker::start(|text| text).await;
    let token = broker.agent_token("scout", None).await;
    for (m, path, door, body) in cases().into_iter().filter(|(_, path, ..)| path.contains('{')) {
        for target in [
            filled(path),
            path.replace("{id}", "x").replace("{hold}", "x").replace("{name}", "no-tool").replace("{system}", "%20").replace("{key}", "x"),
        ] {
            let answer = match door {
                Door::Agent => broker.with(&token, method(m), &target, body.clone()).await,
                Door::Both | Door::Person => broker.by("ops", method(m), &target, body.clone()).await,
                Door::Role(who) => broker.by(who.split('|').next().unwrap(), method(m), &target, body.clone()).await,
                Door::Public | Door::Closed | Door::Client | Door::Session | Door::Form => continue,
            };
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{m} {target}: {answer:?}");
        }
    }
    let nowhere = broker.send(Method::GET, "/v1/nothing", &[], "").await;
    assert_eq!(nowhere.status, StatusCode::NOT_FOUND);
    let wrong = broker.send(Method::POST, "/healthz", &[], "").await;
    assert_eq!(wrong.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persons_proof_is_for_one_request_by_one_person_once() {
    let broker = Broker::start(|text| text).await;
    let proof = broker.proof("ops", &Method::GET, "/v1/tasks");
    let ask = async |target: &str, proof: &str| broker.send(Method::GET, target, &[("authorization", proof)], "").await.status;
    assert_eq!(ask("/v1/tasks?state=open", &proof).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask("/v1/holds", &proof).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask("/v1/tasks", &proof).await, StatusCode::OK);
    assert_eq!(ask("/v1/tasks", &proof).await, StatusCode::UNAUTHORIZED, "a replay");
    // The same as a bearer token, and signed by a key that is another person's.
    let bearer = broker.proof("ops", &Method::GET, "/v1/tasks").replace("Bailiwick-Person", "Bearer");
    assert_eq!(ask("/v1/tasks", &bearer).await, StatusCode::OK);
    let forged = {
        let now = bailiwick_core::Clock::now(&bailiwick::clock::SystemClock::start());
        let request = bailiwick_identity::person::Request { method: "GET", target: "/v1/tasks" };
        let jti = bailiwick_core::AssertionId::new(now, bailiwick::clock::random());
        let jwt = bailiwick_identity::person::make(broker.key("zoe"), &"ops".parse().unwrap(), &broker.house.urls.base, request, jti, now).unwrap();
        format!("Bailiwick-Person {jwt}")
    };
    assert_eq!(ask("/v1/tasks", &forged).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_and_queries_that_are_too_long_or_unknown_are_refused() {
    let broker = Broker::start(|text| text).await;
    let token = broker.agent_token("scout", None).await;
    let long = broker.with(&token, Method::POST, "/v1/tasks", Some(json!({ "purpose": "x".repeat(70_000) }))).await;
    assert_eq!((long.status, long.code().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "call.limit"));
    let unknown = broker.with(&token, Method::POST, "/v1/tasks", Some(json!({ "purpose": "x", "admin": true }))).await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
    let kind = broker.send(Method::POST, "/v1/tasks", &[("authorization", &format!("Bearer {token}"))], "{}").await;
    assert_eq!(kind.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let query = broker.by("ops", Method::GET, "/v1/tasks?all=yes", None).await;
    assert_eq!(query.status, StatusCode::BAD_REQUEST);
    let state = broker.by("ops", Method::GET, "/v1/tasks?state=gone", None).await;
    assert_eq!(state.status, StatusCode::BAD_REQUEST);
}
