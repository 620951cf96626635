//! Codes, tokens and refresh tokens of interactive clients that have a key or a certificate: worth something with that one, and nothing without it.

use bailiwick_testkit::certificates::{Leaf, Wish};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::binding::{Holder, called};
use crate::broker::{Answer, Broker};
use crate::interactive::{DESKTOP, REDIRECT, VERIFIER, asked, broker, code, form, parameter, post, registered, sent};
use crate::mtls::World;

const SCOUT: &str = "spiffe://bailiwick.local/agent/scout";
const OTHER: &str = "spiffe://bailiwick.local/agent/other";

fn claims(answer: &Value) -> Value {
    let token = answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

fn text<'a>(answer: &'a Value, name: &str) -> &'a str {
    answer[name].as_str().unwrap_or_else(|| panic!("{name} in {answer}"))
}

fn of_code<'a>(client: &'a str, code: &'a str) -> [(&'a str, &'a str); 5] {
    [("grant_type", "authorization_code"), ("client_id", client), ("code", code), ("redirect_uri", REDIRECT), ("code_verifier", VERIFIER)]
}

fn of_refresh<'a>(client: &'a str, token: &'a str) -> [(&'a str, &'a str); 3] {
    [("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token)]
}

fn is_refused(answer: &Answer, what: &str) {
    assert_eq!((answer.status, answer.json()["error"].as_str()), (StatusCode::BAD_REQUEST, Some("invalid_grant")), "{what}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_issued_with_a_key_is_worth_nothing_without_it_and_what_a_thief_tries_costs_its_client_nothing() {
    let broker = broker("").await;
    let client = registered(&broker).await;
    let (holder, thief) = (Holder::new(), Holder::new());
    let code_of = code(&broker, &client, &["shop.show_order"]).await;
    let first = holder.form(&broker, "/oauth/token", &of_code(&client, &code_of)).await;
    assert_eq!(first.status, StatusCode::OK, "{first:?}");
    let first = first.json();
    let key = holder.key.id().to_string();
    assert_eq!((text(&first, "token_type"), &claims(&first)["cnf"]), ("DPoP", &json!({ "jkt": key })));
    let refresh = text(&first, "refresh_token");
    is_refused(&thief.form(&broker, "/oauth/token", &of_refresh(&client, refresh)).await, "another key");
    is_refused(&broker.form("/oauth/token", &of_refresh(&client, refresh)).await, "no key");
    // A proof that its client made for another request, in the hands of whoever saw it.
    let seen = holder.proof(&broker, "POST", "/mcp", None);
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(of_refresh(&client, refresh)).finish();
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("dpop", seen.as_str())];
    let replayed = broker.send(Method::POST, "/oauth/token", &headers, body).await;
    assert_eq!(replayed.json()["error"], "invalid_dpop_proof", "{replayed:?}");
    // None of that used it up, or ended the task.
    let second = holder.form(&broker, "/oauth/token", &of_refresh(&client, refresh)).await.json();
    assert_eq!((&second["task_id"], &claims(&second)["cnf"]), (&first["task_id"], &json!({ "jkt": key })));
    is_refused(&thief.form(&broker, "/oauth/token", &of_refresh(&client, text(&second, "refresh_token"))).await, "the next one, with another key");
    let token = text(&second, "access_token");
    for (scheme, proof) in [("Bearer", None), ("DPoP", None), ("DPoP", Some(thief.proof(&broker, "POST", "/mcp", Some(token))))] {
        let authorization = format!("{scheme} {token}");
        let mut more = vec![("authorization", authorization.as_str())];
        more.extend(proof.as_deref().map(|proof| ("dpop", proof)));
        assert_eq!(called(&broker, "/mcp", &more).await.status, StatusCode::UNAUTHORIZED, "{scheme}");
    }
    let proof = holder.proof(&broker, "POST", "/mcp", Some(token));
    let good = called(&broker, "/mcp", &[("authorization", &format!("DPoP {token}")), ("dpop", &proof)]).await;
    assert!(good.json()["result"]["isError"] == json!(false), "{good:?}");
    // One that was issued without a key is not taken with one either: it is another client's way.
    let plain = code(&broker, &client, &["shop.show_order"]).await;
    let plain = broker.form("/oauth/token", &of_code(&client, &plain)).await.json();
    is_refused(&holder.form(&broker, "/oauth/token", &of_refresh(&client, text(&plain, "refresh_token"))).await, "a key where there was none");
    assert_eq!(broker.form("/oauth/token", &of_refresh(&client, text(&plain, "refresh_token"))).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_refused_uses_no_proof_up_so_that_strangers_fill_no_memory_with_theirs() {
    let broker = broker("").await;
    let client = registered(&broker).await;
    let holder = Holder::new();
    // It knows the nonce of now from this.
    is_refused(&holder.form(&broker, "/oauth/token", &of_code(&client, "AAAA")).await, "no code");
    let proof = holder.proof(&broker, "POST", "/oauth/token", None);
    let with_it = async |fields: &[(&str, &str)]| {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("dpop", proof.as_str())];
        broker.send(Method::POST, "/oauth/token", &headers, body).await
    };
    is_refused(&with_it(&of_code(&client, "AAAA")).await, "no code of ours");
    is_refused(&with_it(&of_refresh(&client, "AAAA")).await, "no refresh token of ours");
    let good = code(&broker, &client, &["shop.show_order"]).await;
    let given = with_it(&of_code(&client, &good)).await;
    assert_eq!((given.status, given.json()["token_type"].as_str()), (StatusCode::OK, Some("DPoP")), "{given:?}");
    // What was granted by it, is: once.
    let again = with_it(&of_refresh(&client, text(&given.json(), "refresh_token"))).await;
    assert_eq!(again.json()["error"], "invalid_dpop_proof", "{again:?}");
    assert_eq!(holder.form(&broker, "/oauth/token", &of_refresh(&client, text(&given.json(), "refresh_token"))).await.status, StatusCode::OK);
}

/// A code that is bound to a key by the request for it.
async fn code_for(broker: &Broker, client: &str, jkt: &str) -> String {
    let (mut browser, page) = asked(broker, "ana", client, &[("dpop_jkt", jkt)]).await;
    let answer = post(&mut browser, &form(&page, &["shop.show_order"])).await;
    parameter(&sent(&answer).1, "code")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_for_which_a_client_named_its_key_is_redeemed_with_this_key_only() {
    let broker = broker("").await;
    let client = registered(&broker).await;
    let (holder, thief) = (Holder::new(), Holder::new());
    let jkt = holder.key.id().to_string();
    // Whoever stole the code, and the verifier with it.
    let stolen = code_for(&broker, &client, &jkt).await;
    is_refused(&thief.form(&broker, "/oauth/token", &of_code(&client, &stolen)).await, "another key");
    let stolen = code_for(&broker, &client, &jkt).await;
    is_refused(&broker.form("/oauth/token", &of_code(&client, &stolen)).await, "no key");
    let own = code_for(&broker, &client, &jkt).await;
    let given = holder.form(&broker, "/oauth/token", &of_code(&client, &own)).await.json();
    assert_eq!((text(&given, "token_type"), &claims(&given)["cnf"]["jkt"]), ("DPoP", &json!(jkt)));
    // What is no thumbprint is told to the client, and no code is given.
    let (_, answer) = asked(&broker, "ana", &client, &[("dpop_jkt", "short")]).await;
    assert_eq!(parameter(&sent(&answer).1, "error"), "invalid_request");
}

async fn redeemed(world: &World, client: &str, leaf: &Leaf) -> Value {
    let code = code(&world.broker, client, &["shop.show_order"]).await;
    let answer = world.form(leaf, "/oauth/token", &of_code(client, &code)).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

async fn with_shop() -> World {
    let world = World::plain(DESKTOP).await;
    crate::support::until("the shop is listed", || world.broker.house.registry.load().tool("shop.refund_order").is_some_and(|t| t.callable())).await;
    world
}

fn thumbprint(leaf: &Leaf) -> Value {
    json!({ "x5t#S256": URL_SAFE_NO_PAD.encode(bailiwick_core::Digest::of(&leaf.certificate).as_bytes()) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_issued_in_tls_is_worth_nothing_without_the_very_certificate() {
    let world = with_shop().await;
    let client = registered(&world.broker).await;
    let (own, next, other) = (world.svid(SCOUT), world.svid(SCOUT), world.svid(OTHER));
    let first = redeemed(&world, &client, &own).await;
    assert_eq!((text(&first, "token_type"), &claims(&first)["cnf"]), ("Bearer", &thumbprint(&own)));
    let refresh = text(&first, "refresh_token");
    let fields = of_refresh(&client, refresh);
    for (leaf, what) in [(&next, "another certificate of the same workload"), (&other, "that of another")] {
        is_refused(&world.form(leaf, "/oauth/token", &fields).await.unwrap(), what);
    }
    is_refused(&world.broker.form("/oauth/token", &fields).await, "no certificate");
    is_refused(&Holder::new().form(&world.broker, "/oauth/token", &fields).await, "a key in its place");
    // It was not used up by any of them; the next one is bound as well.
    let second = world.form(&own, "/oauth/token", &fields).await.unwrap().json();
    assert_eq!((&second["task_id"], &claims(&second)["cnf"]), (&first["task_id"], &thumbprint(&own)));
    is_refused(&world.form(&next, "/oauth/token", &of_refresh(&client, text(&second, "refresh_token"))).await.unwrap(), "the next one, elsewhere");
    let token = text(&second, "access_token");
    assert_eq!(world.tasks(world.mtls(), Some(&own), token).await, StatusCode::OK);
    assert_eq!(world.tasks(world.mtls(), Some(&next), token).await, StatusCode::UNAUTHORIZED);
    assert_eq!(world.broker.with(token, Method::GET, "/v1/tasks", None).await.status, StatusCode::UNAUTHORIZED);
    // And one that was issued to nobody in particular is not redeemed in TLS.
    let plain = code(&world.broker, &client, &["shop.show_order"]).await;
    let plain = world.broker.form("/oauth/token", &of_code(&client, &plain)).await.json();
    is_refused(
        &world.form(&own, "/oauth/token", &of_refresh(&client, text(&plain, "refresh_token"))).await.unwrap(),
        "a certificate where there was none",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_tls_an_agent_revokes_its_tokens_and_a_client_of_a_person_its_own_and_neither_the_others() {
    let world = with_shop().await;
    let client = registered(&world.broker).await;
    let (scout, other) = (world.svid(SCOUT), world.svid(OTHER));
    let token_of = async |leaf: &Leaf, id: &str| text(&world.token(leaf, Some(id)).await.unwrap().json(), "access_token").to_owned();
    let revoke = async |leaf: &Leaf, id: &str, token: &str| world.form(leaf, "/oauth/revoke", &[("client_id", id), ("token", token)]).await.unwrap();
    let works = async |leaf: &Leaf, token: &str| world.tasks(world.mtls(), Some(leaf), token).await == StatusCode::OK;
    let token = token_of(&scout, SCOUT).await;
    let given = redeemed(&world, &client, &scout).await;
    let (access, refresh) = (text(&given, "access_token"), text(&given, "refresh_token"));
    // Another agent, another agent's name, and the client of a person who knows the token.
    is_refused(&revoke(&other, OTHER, &token).await, "by another agent");
    assert_eq!(revoke(&other, SCOUT, &token).await.json()["error"], "invalid_client", "in its name");
    assert_eq!(revoke(&other, &client, &token).await.json()["error"], "invalid_client", "by a client of a person");
    assert!(works(&scout, &token).await);
    // An agent, what a person's client holds: neither of its tokens was issued to it.
    is_refused(&revoke(&scout, SCOUT, access).await, "the access token of a person's client");
    is_refused(&revoke(&scout, SCOUT, refresh).await, "the refresh token of a person's client");
    assert!(works(&scout, access).await);
    // Each its own.
    assert_eq!(revoke(&scout, SCOUT, &token).await.status, StatusCode::OK);
    assert!(!works(&scout, &token).await && works(&scout, access).await);
    assert_eq!(revoke(&scout, &client, refresh).await.status, StatusCode::OK);
    assert!(!works(&scout, access).await);
    is_refused(&world.form(&scout, "/oauth/token", &of_refresh(&client, refresh)).await.unwrap(), "after its revocation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_tokens_are_bound_to_a_certificate_of_its_own_and_renewed_for_no_other() {
    let world = with_shop().await;
    let broker = &world.broker;
    let copy = bailiwick_core::InstanceId::new(bailiwick_core::Timestamp::from_millis(1), bailiwick::clock::random());
    let elsewhere = world.partner.leaf(&Wish { uris: &["spiffe://partner.example/ns/a/sa/else"], ..Wish::default() }).unwrap();
    let (own, next, other) = (world.svid(SCOUT), world.svid(SCOUT), world.svid(OTHER));
    let by_assertion = async |leaf: &Leaf, more: &[(&str, &str)]| {
        let assertion = broker.assertion("scout", Some(copy));
        let mut fields = vec![("grant_type", "client_credentials"), ("client_assertion_type", bailiwick_identity::assertion::ASSERTION_TYPE)];
        fields.push(("client_assertion", &assertion));
        fields.extend_from_slice(more);
        world.form(leaf, "/oauth/token", &fields).await.unwrap()
    };
    // Whoever has the agent's key, on the connection of another workload that is let in.
    for leaf in [&other, &elsewhere] {
        let refused = by_assertion(leaf, &[]).await;
        assert_eq!((refused.status, refused.json()["error"].as_str()), (StatusCode::UNAUTHORIZED, Some("invalid_client")), "{refused:?}");
    }
    let agent = by_assertion(&own, &[]).await.json();
    assert_eq!(claims(&agent)["cnf"], thumbprint(&own));
    let authorization = format!("Bearer {}", text(&agent, "access_token"));
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let asked = r#"{"purpose":"p","tools":["shop.show_order"]}"#;
    let opened = world.ask(world.mtls(), Some(&own), Method::POST, "/v1/tasks", &headers, asked).await.unwrap();
    assert_eq!(opened.status, StatusCode::CREATED, "{opened:?}");
    let task = opened.json()["task"]["id"].as_str().unwrap().to_owned();
    let renew = [("task_id", task.as_str())];
    // Certificates live shorter than tasks: the agent's next one will do, and nobody else's, nor none.
    assert_eq!(claims(&by_assertion(&next, &renew).await.json())["cnf"], thumbprint(&next));
    for leaf in [&other, &elsewhere] {
        assert_eq!(by_assertion(leaf, &renew).await.json()["error"], "invalid_client");
    }
    is_refused(&broker.token_with(&broker.assertion("scout", Some(copy)), &renew).await, "no certificate");
    let key = Holder::new().token(broker, "scout", Some(copy), &renew).await;
    is_refused(&key, "a key in its place");
}
