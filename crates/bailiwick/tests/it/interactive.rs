//! A client that knows nothing but the URL: its person signs in, narrows what it may do, and it works until the person or the time ends it.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::broker::{Answer, Broker};
use crate::pages::{Browser, hidden};

pub(crate) const REDIRECT: &str = "http://127.0.0.1:4711/callback";
pub(crate) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub(crate) const DESKTOP: &str = r#"
[agents.desktop]
owner = "ana"
purpose = "ana's own clients"
risk = "low"
review_by = "2099-12-31"
tools = ["shop.*"]
interactive = true
[clients]
interactive = true
registration = true
"#;

pub(crate) async fn broker(more: &str) -> Broker {
    let broker = Broker::start(|text| format!("{text}{DESKTOP}{more}")).await;
    for _ in 0..600 {
        if broker.house.registry.load().tool("shop.refund_order").is_some_and(|t| t.callable()) {
            return broker;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the shop was not listed");
}

fn challenge() -> String {
    URL_SAFE_NO_PAD.encode(bailiwick_core::Digest::of(VERIFIER.as_bytes()).as_bytes())
}

async fn register(broker: &Broker, redirect: &str) -> Answer {
    let body = json!({ "client_name": "A client", "redirect_uris": [redirect], "token_endpoint_auth_method": "none" });
    broker.send(Method::POST, "/oauth/register", &[("content-type", "application/json")], body.to_string()).await
}

pub(crate) async fn registered(broker: &Broker) -> String {
    let answer = register(broker, REDIRECT).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.json()["client_id"].as_str().unwrap().to_owned()
}

/// The path of a request, with these parameters changed or, with an empty value, left out.
fn request(broker: &Broker, client: &str, change: &[(&str, &str)]) -> String {
    let (challenge, resource) = (challenge(), broker.house.urls.mcp.clone());
    let mut all = vec![
        ("response_type", "code"),
        ("client_id", client),
        ("redirect_uri", REDIRECT),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
        ("state", "my state"),
        ("scope", "mcp:tools"),
        ("resource", &resource),
    ];
    for (name, value) in change {
        all.retain(|(n, _)| n != name);
        if !value.is_empty() {
            all.push((name, value));
        }
    }
    format!("/oauth/authorize?{}", url::form_urlencoded::Serializer::new(String::new()).extend_pairs(all).finish())
}

/// Where the page in between leads.
fn onward(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let at = answer.text().split("content=\"0;url=").nth(1).unwrap_or_else(|| panic!("{}", answer.text()));
    at.split('"').next().unwrap().to_owned()
}

/// The person before the question.
pub(crate) async fn asked<'a>(broker: &'a Broker, person: &str, client: &str, change: &[(&str, &str)]) -> (Browser<'a>, Answer) {
    let mut browser = Browser::new(broker);
    browser.sign_in(person, "").await;
    let question = onward(&browser.get(&request(broker, client, change)).await);
    let page = browser.get(&question).await;
    (browser, page)
}

/// The fields of the form as they stand in the page, with these tools.
pub(crate) fn form(page: &Answer, tools: &[&str]) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = ["csrf", "request", "agent"]
        .iter()
        .map(|name| ((*name).to_owned(), hidden(page.text().split("<form class=\"card\"").nth(1).unwrap(), name)))
        .collect();
    fields.extend(tools.iter().map(|tool| (format!("tool:{tool}"), "yes".to_owned())));
    for (name, value) in [("purpose", "look at orders"), ("minutes", "60"), ("decision", "approve")] {
        fields.push((name.to_owned(), value.to_owned()));
    }
    fields
}

pub(crate) async fn post(browser: &mut Browser<'_>, fields: &[(String, String)]) -> Answer {
    let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    browser.post("/consent", &fields).await
}

/// The parameters of the address to which the browser is sent.
pub(crate) fn sent(answer: &Answer) -> (String, Vec<(String, String)>) {
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{answer:?}");
    let address: url::Url = answer.headers["location"].to_str().unwrap().parse().unwrap();
    let parameters = address.query_pairs().into_owned().collect();
    (address.as_str().split('?').next().unwrap().to_owned(), parameters)
}

pub(crate) fn parameter(parameters: &[(String, String)], name: &str) -> String {
    parameters.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} in {parameters:?}")).1.clone()
}

/// A code for these tools, by ana.
pub(crate) async fn code(broker: &Broker, client: &str, tools: &[&str]) -> String {
    let (mut browser, page) = asked(broker, "ana", client, &[]).await;
    let answer = post(&mut browser, &form(&page, tools)).await;
    parameter(&sent(&answer).1, "code")
}

async fn redeem(broker: &Broker, client: &str, code: &str, change: &[(&str, &str)]) -> Answer {
    let mut all =
        vec![("grant_type", "authorization_code"), ("client_id", client), ("code", code), ("redirect_uri", REDIRECT), ("code_verifier", VERIFIER)];
    for (name, value) in change {
        all.retain(|(n, _)| n != name);
        if !value.is_empty() {
            all.push((name, value));
        }
    }
    broker.form("/oauth/token", &all).await
}

async fn refresh(broker: &Broker, client: &str, token: &str) -> Answer {
    broker.form("/oauth/token", &[("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token)]).await
}

async fn tokens(broker: &Broker, client: &str) -> Value {
    let code = code(broker, client, &["shop.show_order"]).await;
    let answer = redeem(broker, client, &code, &[]).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

async fn looks(broker: &Broker, token: &str) -> Answer {
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "shop.show_order", "arguments": { "order": "O-2008" }, "_meta": meta } });
    let headers = [
        ("authorization", &*format!("Bearer {token}")),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "shop.show_order"),
    ];
    broker.send(Method::POST, "/mcp", &headers, body.to_string()).await
}

async fn entries(broker: &Broker, kind: &str) -> Vec<Value> {
    crate::support::entries(&broker.house).await.into_iter().filter(|e| e["kind"] == kind).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_knows_only_the_url_gets_what_its_person_left_ticked_and_no_more() {
    let broker = broker("").await;
    let base = broker.house.urls.base.clone();
    // From the endpoint to the metadata, as the specification says.
    let refused = broker.send(Method::POST, "/mcp", &[("content-type", "application/json")], "{}").await;
    let challenge = refused.headers["www-authenticate"].to_str().unwrap().to_owned();
    assert!(refused.status == StatusCode::UNAUTHORIZED && challenge.contains("scope=\"mcp:tools\""), "{challenge}");
    let resource = broker.send(Method::GET, "/.well-known/oauth-protected-resource/mcp", &[], "").await.json();
    assert_eq!((&resource["authorization_servers"][0], &resource["scopes_supported"]), (&json!(base), &json!(["mcp:tools"])));
    let server = broker.send(Method::GET, "/.well-known/oauth-authorization-server", &[], "").await.json();
    assert_eq!(server["registration_endpoint"], format!("{base}/oauth/register"));
    assert_eq!(server["authorization_endpoint"], format!("{base}/oauth/authorize"));
    assert_eq!(server["client_id_metadata_document_supported"], json!(false));
    let client = registered(&broker).await;

    // The person is not signed in: through the form, and back.
    let mut browser = Browser::new(&broker);
    let question = onward(&browser.get(&request(&broker, &client, &[])).await);
    let to_sign_in = browser.get(&question).await.headers["location"].to_str().unwrap().to_owned();
    let sealed = to_sign_in.strip_prefix("/sign-in?request=").unwrap().to_owned();
    let code = broker.by("ana", Method::POST, "/v1/sign-in-codes", None).await.json();
    let csrf = hidden(browser.get(&to_sign_in).await.text(), "csrf");
    let signed_in = browser.post("/sign-in", &[("csrf", &csrf), ("secret", code["code"].as_str().unwrap()), ("request", &sealed)]).await;
    assert_eq!(signed_in.headers["location"].to_str().unwrap(), question);
    let page = browser.get(&question).await;
    for part in ["Nobody vouches for it", "A client", "127.0.0.1:4711", "desktop", "shop.show_order", "every call waits for a person"] {
        assert!(page.text().contains(part), "{part}: {}", page.text());
    }
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("form-action 'self' http://127.0.0.1:4711;") && policy.contains("frame-ancestors 'none'"), "{policy}");

    // Narrowed to one tool.
    let allowed = post(&mut browser, &form(&page, &["shop.show_order"])).await;
    let (place, parameters) = sent(&allowed);
    assert_eq!(place, REDIRECT);
    assert_eq!((parameter(&parameters, "state"), parameter(&parameters, "iss")), ("my state".to_owned(), base.clone()));
    let answer = redeem(&broker, &client, &parameter(&parameters, "code"), &[("resource", &broker.house.urls.mcp)]).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    let given = answer.json();
    assert_eq!((&given["token_type"], &given["scope"]), (&json!("Bearer"), &json!("mcp:tools")), "{given}");
    let token = given["access_token"].as_str().unwrap();
    let looked = broker.call(token, "shop.show_order", json!({ "order": "O-2008" })).await;
    assert!(looked["result"]["isError"] != true && looked["result"].is_object(), "{looked}");
    let refund = broker.call(token, "shop.refund_order", Broker::refund()).await.to_string();
    assert!(refund.contains("Unknown tool"), "{refund}");

    // The task is the person's, and the record says by which client it came.
    let tasks = broker.by("ana", Method::GET, "/v1/tasks", None).await.json();
    let task = &tasks["tasks"][0];
    assert_eq!(
        (&task["agent"], &task["owner"], &task["subject"], &task["purpose"]),
        (&json!("desktop"), &json!("ana"), &json!("ana"), &json!("look at orders"))
    );
    let opened = entries(&broker, "task_opened").await.pop().unwrap();
    let consent = &opened["consent"];
    assert_eq!(
        (&consent["by"], &consent["proof"], &consent["client_name"], &consent["redirect_uri"]),
        (&json!("ana"), &json!("code"), &json!("A client"), &json!(REDIRECT))
    );
    assert!(consent["client"].as_str().unwrap().starts_with("registered:") && consent.get("vouched_by").is_none(), "{consent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_is_for_its_own_client_and_its_second_use_ends_what_the_first_opened() {
    let broker = broker("").await;
    let client = registered(&broker).await;
    let other = registered(&broker).await;
    for (name, value) in [
        ("client_id", other.as_str()),
        ("code_verifier", &"x".repeat(43)),
        ("code_verifier", challenge().as_str()),
        ("redirect_uri", "http://127.0.0.1:4712/callback"),
        ("redirect_uri", ""),
    ] {
        let code = code(&broker, &client, &["shop.show_order"]).await;
        let refused = redeem(&broker, &client, &code, &[(name, value)]).await;
        assert_eq!((refused.status, refused.json()["error"].as_str()), (StatusCode::BAD_REQUEST, Some("invalid_grant")), "{name} {value}");
        // Whoever had it once had it: it is not good any more for its own client either.
        assert_eq!(redeem(&broker, &client, &code, &[]).await.status, StatusCode::BAD_REQUEST, "{name}");
    }
    for (name, value, error) in [
        ("code_verifier", "", "invalid_request"),
        ("code", "", "invalid_request"),
        ("client_id", "", "invalid_request"),
        ("client_secret", "x", "invalid_client"),
        ("resource", "https://evil.example/mcp", "invalid_target"),
        ("scope", "admin", "invalid_scope"),
        ("code", "AAAA", "invalid_grant"),
    ] {
        let refused = redeem(&broker, &client, "x", &[(name, value)]).await;
        assert_eq!(refused.json()["error"], error, "{name} {value}");
    }
    let code = code(&broker, &client, &["shop.show_order"]).await;
    let given = redeem(&broker, &client, &code, &[]).await.json();
    let token = given["access_token"].as_str().unwrap();
    assert_eq!(looks(&broker, token).await.status, StatusCode::OK);
    assert_eq!(redeem(&broker, &client, &code, &[]).await.json()["error"], "invalid_grant");
    assert_eq!(looks(&broker, token).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refresh(&broker, &client, given["refresh_token"].as_str().unwrap()).await.json()["error"], "invalid_grant");
    assert!(entries(&broker, "incident").await.iter().any(|e| e["what"] == "code_reused"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_works_once_and_one_that_comes_twice_ends_the_task() {
    let broker = broker("").await;
    let client = registered(&broker).await;
    let first = tokens(&broker, &client).await;
    let (first_token, first_refresh) = (first["access_token"].as_str().unwrap(), first["refresh_token"].as_str().unwrap());
    let other = registered(&broker).await;
    for (who, token) in [(other.as_str(), first_refresh), (client.as_str(), "AAAA"), (client.as_str(), first_token)] {
        assert_eq!(refresh(&broker, who, token).await.json()["error"], "invalid_grant");
    }
    let second = refresh(&broker, &client, first_refresh).await.json();
    assert_eq!(second["task_id"], first["task_id"]);
    let third = refresh(&broker, &client, second["refresh_token"].as_str().unwrap()).await.json();
    let token = third["access_token"].as_str().unwrap();
    assert_eq!(looks(&broker, token).await.status, StatusCode::OK);
    // Somebody has an old one.
    assert_eq!(refresh(&broker, &client, first_refresh).await.json()["error"], "invalid_grant");
    assert_eq!(looks(&broker, token).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refresh(&broker, &client, third["refresh_token"].as_str().unwrap()).await.json()["error"], "invalid_grant");
    assert!(entries(&broker, "incident").await.iter().any(|e| e["what"] == "refresh_token_reused" && e["task"] == first["task_id"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_task_ends_with_its_refresh_token_with_its_person_and_with_the_session() {
    let broker = broker("").await;
    let client = registered(&broker).await;
    // The client gives it up; another one cannot.
    let given = tokens(&broker, &client).await;
    let (token, refresh_token) = (given["access_token"].as_str().unwrap(), given["refresh_token"].as_str().unwrap());
    let other = registered(&broker).await;
    let by_other = broker.form("/oauth/revoke", &[("token", refresh_token), ("client_id", &other)]).await;
    assert_eq!(by_other.json()["error"], "invalid_grant");
    assert_eq!(looks(&broker, token).await.status, StatusCode::OK);
    assert_eq!(broker.form("/oauth/revoke", &[("token", refresh_token), ("client_id", &client)]).await.status, StatusCode::OK);
    assert_eq!(looks(&broker, token).await.status, StatusCode::UNAUTHORIZED);
    // The access token does as well.
    let given = tokens(&broker, &client).await;
    let token = given["access_token"].as_str().unwrap();
    // Whoever was given nothing of the kind would have to prove itself as an agent.
    assert_eq!(broker.form("/oauth/revoke", &[("token", token), ("client_id", &other)]).await.json()["error"], "invalid_client");
    assert_eq!(looks(&broker, token).await.status, StatusCode::OK);
    assert_eq!(broker.form("/oauth/revoke", &[("token", token), ("client_id", &client)]).await.status, StatusCode::OK);
    assert_eq!(looks(&broker, token).await.status, StatusCode::UNAUTHORIZED);
    // The person revokes it.
    let given = tokens(&broker, &client).await;
    let path = format!("/v1/tasks/{}/revoke", given["task_id"].as_str().unwrap());
    assert_eq!(broker.by("ana", Method::POST, &path, None).await.status, StatusCode::OK);
    assert_eq!(refresh(&broker, &client, given["refresh_token"].as_str().unwrap()).await.json()["error"], "invalid_grant");
    // The person signs out where he or she allowed it, and not elsewhere.
    let (mut browser, page) = asked(&broker, "ana", &client, &[]).await;
    let code = parameter(&sent(&post(&mut browser, &form(&page, &["shop.show_order"])).await).1, "code");
    let given = redeem(&broker, &client, &code, &[]).await.json();
    let token = given["access_token"].as_str().unwrap();
    let mut elsewhere = Browser::new(&broker);
    elsewhere.sign_in("ana", "").await;
    let csrf = hidden(elsewhere.get("/approvals").await.text(), "csrf");
    elsewhere.post("/sign-out", &[("csrf", &csrf)]).await;
    assert_eq!(looks(&broker, token).await.status, StatusCode::OK);
    let csrf = hidden(browser.get("/approvals").await.text(), "csrf");
    browser.post("/sign-out", &[("csrf", &csrf)]).await;
    assert_eq!(looks(&broker, token).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_sent_to_an_address_that_is_not_the_clients_own() {
    let broker = broker("").await;
    let client = registered(&broker).await;
    for redirect in [
        "https://evil.example/callback",
        "http://127.0.0.1:4711/callback/",
        "http://127.0.0.1:4711/callback?x",
        "http://localhost:4711/callback",
        "http://127.0.0.1:4711@evil.example/callback",
        "http://127.0.0.1.evil.example:4711/callback",
    ] {
        let (_, page) = asked(&broker, "ana", &client, &[("redirect_uri", redirect)]).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "{redirect}");
        assert!(page.headers.get("location").is_none() && page.text().contains("did not name as its own"), "{redirect}");
    }
    // Another port of this machine is the same client.
    let (mut browser, page) = asked(&broker, "ana", &client, &[("redirect_uri", "http://127.0.0.1:5/callback")]).await;
    let answer = post(&mut browser, &form(&page, &["shop.show_order"])).await;
    assert_eq!(sent(&answer).0, "http://127.0.0.1:5/callback");
    // What is wrong with the rest is told to the client, with its state.
    for (name, value, error) in [
        ("response_type", "token", "unsupported_response_type"),
        ("code_challenge_method", "plain", "invalid_request"),
        ("code_challenge", "", "invalid_request"),
        ("scope", "admin", "invalid_scope"),
        ("resource", "https://evil.example/mcp", "invalid_target"),
    ] {
        let (_, answer) = asked(&broker, "ana", &client, &[(name, value)]).await;
        let (place, parameters) = sent(&answer);
        assert_eq!(
            (place.as_str(), parameter(&parameters, "error").as_str(), parameter(&parameters, "state").as_str()),
            (REDIRECT, error, "my state")
        );
        assert_eq!(parameter(&parameters, "iss"), broker.house.urls.base);
    }
    // But not to a site for which nobody vouches: whoever registered it would have a link of ours that leads there.
    let site = register(&broker, "https://evil.example/cb").await.json()["client_id"].as_str().unwrap().to_owned();
    let (_, page) = asked(&broker, "ana", &site, &[("redirect_uri", "https://evil.example/cb"), ("scope", "admin")]).await;
    assert!(page.status == StatusCode::BAD_REQUEST && page.headers.get("location").is_none(), "{page:?}");
    // Without a client that is known there is not even a question; who it is not, is not told elsewhere.
    for id in ["unknown", "https://evil.example/client", &format!("{client}A"), ""] {
        let mut browser = Browser::new(&broker);
        browser.sign_in("ana", "").await;
        let first = browser.get(&request(&broker, id, &[])).await;
        let page = if first.status == StatusCode::OK { browser.get(&onward(&first)).await } else { first };
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "{id}");
        assert!(page.headers.get("location").is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consent_is_given_once_by_the_one_who_was_asked_on_our_own_page_for_what_was_offered() {
    let broker = broker("").await;
    let client = registered(&broker).await;
    let base = broker.house.urls.base.clone();
    let (mut browser, page) = asked(&broker, "ana", &client, &[]).await;
    let fields = form(&page, &["shop.show_order"]);
    let with = |name: &str, value: &str| -> Vec<(String, String)> {
        let mut all: Vec<_> = fields.iter().filter(|(n, _)| n != name).cloned().collect();
        all.push((name.to_owned(), value.to_owned()));
        all
    };
    let plain: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    for origin in [None, Some("null"), Some("https://evil.example")] {
        assert_eq!(browser.send(Method::POST, "/consent", origin, &plain).await.status, StatusCode::FORBIDDEN, "{origin:?}");
    }
    assert_eq!(Browser::new(&broker).send(Method::POST, "/consent", Some(&base), &plain).await.status, StatusCode::FORBIDDEN);
    for (name, value, status) in [
        ("csrf", "other", StatusCode::FORBIDDEN),
        ("request", "AAAA", StatusCode::FORBIDDEN),
        ("request", client.as_str(), StatusCode::FORBIDDEN),
        ("decision", "perhaps", StatusCode::BAD_REQUEST),
        ("agent", "scout", StatusCode::FORBIDDEN),
        ("agent", "absent", StatusCode::FORBIDDEN),
        ("minutes", "7", StatusCode::BAD_REQUEST),
        ("minutes", "99999999", StatusCode::BAD_REQUEST),
        ("purpose", " ", StatusCode::BAD_REQUEST),
        ("tool:shop.absent", "yes", StatusCode::CONFLICT),
        ("tool:shop.show_order", "no", StatusCode::CONFLICT),
        ("tool:*", "yes", StatusCode::CONFLICT),
    ] {
        let answer = post(&mut browser, &with(name, value)).await;
        assert_eq!(answer.status, status, "{name} {value}: {answer:?}");
    }
    let nothing: Vec<_> = fields.iter().filter(|(n, _)| !n.starts_with("tool:")).cloned().collect();
    assert_eq!(post(&mut browser, &nothing).await.status, StatusCode::BAD_REQUEST);
    // Another person's session has another token, and another person has no such agent.
    let mut other = Browser::new(&broker);
    other.sign_in("ben", "").await;
    assert_eq!(post(&mut other, &fields).await.status, StatusCode::FORBIDDEN);
    let (_, page_of_other) = asked(&broker, "ben", &client, &[]).await;
    assert!(page_of_other.status == StatusCode::FORBIDDEN && page_of_other.text().contains("no agent of yours"), "{page_of_other:?}");
    // The first decision counts.
    let refused = post(&mut browser, &with("decision", "refuse")).await;
    assert_eq!(parameter(&sent(&refused).1, "error"), "access_denied");
    assert_eq!(post(&mut browser, &fields).await.status, StatusCode::FORBIDDEN);
    assert!(entries(&broker, "task_opened").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_said_so_there_are_no_interactive_clients() {
    let broker = Broker::start(|text| text).await;
    let server = broker.send(Method::GET, "/.well-known/oauth-authorization-server", &[], "").await.json();
    for name in ["authorization_endpoint", "registration_endpoint", "code_challenge_methods_supported"] {
        assert!(server.get(name).is_none(), "{name}");
    }
    assert_eq!(broker.send(Method::GET, &request(&broker, "x", &[]), &[], "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(register(&broker, REDIRECT).await.status, StatusCode::NOT_FOUND);
    assert_eq!(redeem(&broker, "x", "x", &[]).await.json()["error"], "invalid_grant");
    // And registering is a thing of its own.
    let only_documents = Broker::start(|text| format!("{text}{}", DESKTOP.replace("registration = true", ""))).await;
    assert_eq!(register(&only_documents, REDIRECT).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_registers_is_bounded_and_never_trusted() {
    let broker = broker("").await;
    for redirect in ["http://evil.example/cb", "javascript:alert(1)", "cursor://x/y", "https://a.example/#x", ""] {
        let answer = register(&broker, redirect).await;
        assert_eq!((answer.status, answer.json()["error"].as_str()), (StatusCode::BAD_REQUEST, Some("invalid_redirect_uri")), "{redirect}");
    }
    let long = register(&broker, &format!("https://a.example/{}", "x".repeat(6000))).await;
    assert_eq!(long.status, StatusCode::PAYLOAD_TOO_LARGE);
    let form = broker.send(Method::POST, "/oauth/register", &[("content-type", "text/plain")], "{}").await;
    assert_eq!(form.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let answer = broker
        .send(
            Method::POST,
            "/oauth/register",
            &[("content-type", "application/json")],
            json!({ "client_name": "Bank\u{202e}</h1>", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "client_secret_basic" })
                .to_string(),
        )
        .await
        .json();
    assert!(answer["token_endpoint_auth_method"] == "none" && answer.get("client_secret").is_none(), "{answer}");
    let (_, page) = asked(&broker, "ana", answer["client_id"].as_str().unwrap(), &[]).await;
    assert!(page.text().contains("U+202E") && !page.text().contains('\u{202e}') && !page.text().contains("Bank</h1>"), "{}", page.text());
}

/// A site with a certificate of our own authority that answers as it is told, and counts.
struct Site {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Site {
    async fn start(answer: impl Fn(&str, u16) -> String + Send + Sync + 'static) -> Self {
        let chain = CertificateDer::from_pem_slice(include_bytes!("../../src/upstream/tests/tls/leaf.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../../src/upstream/tests/tls/leaf.key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![chain], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&asked), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen, answer) = (acceptor.clone(), Arc::clone(&seen), Arc::clone(&answer));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let (mut head, mut buffer) = (String::new(), [0; 4096]);
                    while !head.contains("\r\n\r\n") {
                        let read = stream.read(&mut buffer).await.unwrap_or(0);
                        if read == 0 {
                            return;
                        }
                        head.push_str(&String::from_utf8_lossy(&buffer[..read]));
                    }
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    seen.lock().unwrap().push(head);
                    let _ = stream.write_all(answer(&path, port).as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { port, asked }
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn json_answer(body: &Value, more: &str) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{more}content-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_known_by_the_document_at_its_url_which_is_read_once_somebody_signed_in() {
    let site = Site::start(|path, port| {
        let id = format!("https://localhost:{port}{path}");
        let document = json!({ "client_id": id, "client_name": "Vouched", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
        match path {
            "/elsewhere" => "HTTP/1.1 302 Found\r\nlocation: /client\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "/other" => json_answer(&json!({ "client_id": "https://evil.example/client", "redirect_uris": [REDIRECT] }), ""),
            "/long" => json_answer(&json!({ "client_id": id, "redirect_uris": [REDIRECT], "x": "x".repeat(6000) }), ""),
            "/html" => "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
            "/secret" => json_answer(&json!({ "client_id": id, "redirect_uris": [REDIRECT], "client_secret": "x" }), ""),
            "/fresh" => json_answer(&document, "cache-control: no-store\r\n"),
            _ => json_answer(&document, ""),
        }
    })
    .await;
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src/upstream/tests/tls/root.pem");
    let more = format!("private_document_hosts = [\"localhost:{}\"]\ndocuments_ca = \"{root}\"\n", site.port);
    let broker = broker(&more).await;
    let server = broker.send(Method::GET, "/.well-known/oauth-authorization-server", &[], "").await.json();
    assert_eq!(server["client_id_metadata_document_supported"], json!(true));
    let id = |path: &str| format!("https://localhost:{}{path}", site.port);

    // Nobody is signed in: nothing is fetched, however often it is asked for.
    let mut stranger = Browser::new(&broker);
    let question = onward(&stranger.get(&request(&broker, &id("/client"), &[])).await);
    assert!(stranger.get(&question).await.headers["location"].to_str().unwrap().starts_with("/sign-in?request="));
    assert_eq!(site.asked(), 0);

    let (mut browser, page) = asked(&broker, "ana", &id("/client"), &[]).await;
    assert!(page.text().contains(&format!("Only <b><bdi>localhost:{}</bdi></b> vouches for it", site.port)), "{}", page.text());
    let answer = post(&mut browser, &form(&page, &["shop.show_order"])).await;
    let given = redeem(&broker, &id("/client"), &parameter(&sent(&answer).1, "code"), &[]).await.json();
    assert_eq!(looks(&broker, given["access_token"].as_str().unwrap()).await.status, StatusCode::OK);
    assert_eq!(site.asked(), 1, "it is kept for a while");
    let head = site.asked.lock().unwrap()[0].to_lowercase();
    assert!(!head.contains("cookie") && !head.contains("authorization") && !head.contains("referer"), "{head}");
    let consent = entries(&broker, "task_opened").await.pop().unwrap()["consent"].clone();
    assert_eq!((&consent["client"], &consent["vouched_by"]), (&json!(id("/client")), &json!(format!("localhost:{}", site.port))));

    for bad in ["/elsewhere", "/other", "/long", "/html", "/secret"] {
        let (_, page) = asked(&broker, "ana", &id(bad), &[]).await;
        assert!(page.status == StatusCode::BAD_REQUEST && page.text().contains("cannot be used"), "{bad}: {}", page.text());
    }
    let before = site.asked();
    asked(&broker, "ana", &id("/fresh"), &[]).await;
    asked(&broker, "ana", &id("/fresh"), &[]).await;
    assert_eq!(site.asked(), before + 2, "it asked not to be kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_is_read_from_hosts_that_were_named_and_not_from_private_places_behind_them() {
    let site = Site::start(|_, _| panic!("nobody comes here")).await;
    let host = format!("localhost:{}", site.port);
    let broker = broker(&format!("document_hosts = [\"{host}\"]\n")).await;
    let (_, page) = asked(&broker, "ana", &format!("https://{host}/client"), &[]).await;
    assert!(page.text().contains("private network"), "{}", page.text());
    let (_, page) = asked(&broker, "ana", "https://other.example/client", &[]).await;
    assert!(page.text().contains("are not known here"), "{}", page.text());
    assert_eq!(site.asked(), 0);
}

/// A client that proves itself with a key: signs an assertion as RFC 7523 has it.
struct KeyedClient {
    id: String,
    key: bailiwick_identity::SigningKey,
    pair: aws_lc_rs::signature::Ed25519KeyPair,
}

impl KeyedClient {
    fn new(id: String) -> Self {
        let (key, private) = bailiwick_identity::SigningKey::generate().unwrap();
        Self { id, key, pair: aws_lc_rs::signature::Ed25519KeyPair::from_pkcs8(&private).unwrap() }
    }

    /// An assertion, with these claims changed.
    fn assertion(&self, broker: &Broker, change: &[(&str, Value)]) -> String {
        let now = bailiwick_core::Clock::now(&bailiwick::clock::SystemClock::start());
        let jti = bailiwick_core::AssertionId::new(now, bailiwick::clock::random());
        let mut claims = json!({ "iss": self.id, "sub": self.id, "aud": broker.house.urls.base, "iat": now.as_seconds(), "exp": now.as_seconds() + 60, "jti": jti });
        for (name, value) in change {
            claims[*name] = value.clone();
        }
        let header = json!({ "alg": "EdDSA", "kid": self.key.public().id().to_string() });
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()).as_ref()))
    }

    fn jwk(&self) -> Value {
        let mut jwk = self.key.public().jwk();
        jwk["kid"] = json!(self.key.public().id().to_string());
        jwk
    }
}

const ASSERTION: (&str, &str) = ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_document_names_its_keys_proves_itself_each_time_and_nobody_else_is_it() {
    let keys: Arc<Mutex<Value>> = Arc::default();
    let served = Arc::clone(&keys);
    let site = Site::start(move |path, port| {
        let id = format!("https://localhost:{port}{path}");
        let document =
            json!({ "client_id": id, "client_name": "Keyed", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "private_key_jwt" });
        let with = |name: &str, value: Value| {
            let mut document = document.clone();
            document[name] = value;
            json_answer(&document, "")
        };
        match path {
            "/keys" => json_answer(&json!({ "keys": served.lock().unwrap().clone() }), "cache-control: no-store\r\n"),
            "/client" => with("jwks_uri", json!(format!("https://localhost:{port}/keys"))),
            "/inline" => with("jwks", json!({ "keys": served.lock().unwrap().clone() })),
            "/far" => with("jwks_uri", json!("https://keys.example/keys")),
            _ => json_answer(&document, ""),
        }
    })
    .await;
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src/upstream/tests/tls/root.pem");
    let broker = broker(&format!("private_document_hosts = [\"localhost:{}\"]\ndocuments_ca = \"{root}\"\n", site.port)).await;
    let client = KeyedClient::new(format!("https://localhost:{}/client", site.port));
    *keys.lock().unwrap() = json!([client.jwk()]);
    let with = async |code: &str, assertion: &str| redeem(&broker, &client.id, code, &[ASSERTION, ("client_assertion", assertion)]).await;

    // Whoever has no code of this client makes us fetch nothing.
    let before = site.asked();
    assert_eq!(with("AAAA", &client.assertion(&broker, &[])).await.json()["error"], "invalid_grant");
    assert_eq!(site.asked(), before);
    let first = code(&broker, &client.id, &["shop.show_order"]).await;
    let stranger = KeyedClient::new(client.id.clone());
    let used = client.assertion(&broker, &[]);
    for (what, assertion) in [
        ("another key", stranger.assertion(&broker, &[])),
        ("another client", client.assertion(&broker, &[("sub", json!("https://localhost/other")), ("iss", json!("https://localhost/other"))])),
        ("another issuer", client.assertion(&broker, &[("iss", json!("https://localhost/other"))])),
        ("for another", client.assertion(&broker, &[("aud", json!("https://other.example"))])),
        ("over", client.assertion(&broker, &[("exp", json!(1)), ("iat", json!(1))])),
        ("without an id", client.assertion(&broker, &[("jti", Value::Null)])),
        ("none", String::from("e30.e30.")),
    ] {
        let refused = with(&first, &assertion).await;
        assert_eq!((refused.status, refused.json()["error"].as_str()), (StatusCode::UNAUTHORIZED, Some("invalid_client")), "{what}: {refused:?}");
    }
    let given = with(&first, &used).await;
    assert_eq!(given.status, StatusCode::OK, "{given:?}");
    let given = given.json();
    assert_eq!(looks(&broker, given["access_token"].as_str().unwrap()).await.status, StatusCode::OK);

    // The refresh token is worth nothing without the proof, and the proof works once.
    let token = given["refresh_token"].as_str().unwrap();
    let refresh_with = async |token: &str, assertion: &str| {
        broker.form("/oauth/token", &[("grant_type", "refresh_token"), ("refresh_token", token), ASSERTION, ("client_assertion", assertion)]).await
    };
    assert_eq!(refresh(&broker, &client.id, token).await.json()["error"], "invalid_client");
    assert_eq!(refresh_with(token, &used).await.json()["error"], "invalid_client", "a replay");
    assert_eq!(refresh_with(token, &stranger.assertion(&broker, &[])).await.json()["error"], "invalid_client");
    let next = refresh_with(token, &client.assertion(&broker, &[])).await;
    assert_eq!(next.status, StatusCode::OK, "{next:?}");
    let next = next.json()["refresh_token"].as_str().unwrap().to_owned();
    // Nor does anybody else give it up.
    let revoke = async |fields: &[(&str, &str)]| {
        let mut all = vec![("token", next.as_str())];
        all.extend_from_slice(fields);
        broker.form("/oauth/revoke", &all).await.status
    };
    assert_eq!(revoke(&[("client_id", &client.id)]).await, StatusCode::UNAUTHORIZED);
    assert_eq!(revoke(&[ASSERTION, ("client_assertion", &client.assertion(&broker, &[]))]).await, StatusCode::OK);
    assert_eq!(refresh_with(&next, &client.assertion(&broker, &[])).await.json()["error"], "invalid_grant");

    // Without a proof its code is worth nothing, and is used up by that.
    let bare = code(&broker, &client.id, &["shop.show_order"]).await;
    assert_eq!(redeem(&broker, &client.id, &bare, &[]).await.json()["error"], "invalid_client");
    assert_eq!(with(&bare, &client.assertion(&broker, &[])).await.json()["error"], "invalid_grant");
    // A client without keys that brings a proof is not who its document says.
    let public = registered(&broker).await;
    let theirs = code(&broker, &public, &["shop.show_order"]).await;
    let refused = redeem(&broker, &public, &theirs, &[ASSERTION, ("client_assertion", &client.assertion(&broker, &[]))]).await;
    assert_eq!(refused.json()["error"], "invalid_client");
    // Keys in the document itself.
    let inline = KeyedClient::new(format!("https://localhost:{}/inline", site.port));
    *keys.lock().unwrap() = json!([inline.jwk()]);
    let theirs = code(&broker, &inline.id, &["shop.show_order"]).await;
    let given = redeem(&broker, &inline.id, &theirs, &[ASSERTION, ("client_assertion", &inline.assertion(&broker, &[]))]).await;
    assert_eq!(given.status, StatusCode::OK, "{given:?}");
    // Keys at a host that nobody named are not fetched, and a document that names none is none of such a client.
    let far = KeyedClient::new(format!("https://localhost:{}/far", site.port));
    let theirs = code(&broker, &far.id, &["shop.show_order"]).await;
    let refused = redeem(&broker, &far.id, &theirs, &[ASSERTION, ("client_assertion", &far.assertion(&broker, &[]))]).await;
    assert_eq!(refused.json()["error"], "invalid_client");
    let (_, page) = asked(&broker, "ana", &format!("https://localhost:{}/without", site.port), &[]).await;
    assert!(page.text().contains("jwks or jwks_uri"), "{}", page.text());
}

/// A client with a document of its own for each thing that it can promise.
struct Promising {
    site: Site,
    keyed: KeyedClient,
}

impl Promising {
    async fn start() -> (Self, Broker) {
        let keyed = KeyedClient::new(String::new());
        let jwk = keyed.jwk();
        let site = Site::start(move |path, port| {
            let mut document = json!({ "client_id": format!("https://localhost:{port}{path}"), "client_name": "C", "redirect_uris": [REDIRECT] });
            let keys = json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks": { "keys": [jwk.clone()] } });
            let promised = match path {
                "/bound" => json!({ "dpop_bound_access_tokens": true }),
                "/vague" => json!({ "dpop_bound_access_tokens": "true" }),
                _ => keys,
            };
            let algorithm = match path {
                "/curve" => Some("ES256"),
                "/edwards" => Some("EdDSA"),
                "/shared" => Some("HS256"),
                _ => None,
            };
            for (name, value) in promised.as_object().unwrap() {
                document[name] = value.clone();
            }
            if let Some(algorithm) = algorithm {
                document["token_endpoint_auth_signing_alg"] = json!(algorithm);
            }
            json_answer(&document, "")
        })
        .await;
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src/upstream/tests/tls/root.pem");
        let broker = broker(&format!("private_document_hosts = [\"localhost:{}\"]\ndocuments_ca = \"{root}\"\n", site.port)).await;
        (Self { site, keyed }, broker)
    }

    fn id(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.site.port)
    }

    fn assertion(&self, broker: &Broker, path: &str) -> String {
        let id = json!(self.id(path));
        self.keyed.assertion(broker, &[("iss", id.clone()), ("sub", id)])
    }

    async fn redeemed(&self, broker: &Broker, path: &str) -> Answer {
        let code = code(broker, &self.id(path), &["shop.show_order"]).await;
        redeem(broker, &self.id(path), &code, &[ASSERTION, ("client_assertion", &self.assertion(broker, path))]).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_says_that_its_tokens_are_bound_gets_none_that_is_not() {
    let (client, broker) = Promising::start().await;
    let id = client.id("/bound");
    let without = code(&broker, &id, &["shop.show_order"]).await;
    let refused = redeem(&broker, &id, &without, &[]).await;
    assert_eq!((refused.status, refused.json()["error"].as_str()), (StatusCode::BAD_REQUEST, Some("invalid_dpop_proof")), "{refused:?}");
    let holder = crate::binding::Holder::new();
    let with = code(&broker, &id, &["shop.show_order"]).await;
    let fields = [("grant_type", "authorization_code"), ("client_id", &id), ("code", &with), ("redirect_uri", REDIRECT), ("code_verifier", VERIFIER)];
    let given = holder.form(&broker, "/oauth/token", &fields).await;
    assert_eq!((given.status, given.json()["token_type"].as_str()), (StatusCode::OK, Some("DPoP")), "{given:?}");
    // Nor does it get one without the key later.
    let refused = refresh(&broker, &id, given.json()["refresh_token"].as_str().unwrap()).await;
    assert_eq!(refused.json()["error"], "invalid_grant", "{refused:?}");
    // One that registers says it in the same words.
    let body = json!({ "redirect_uris": [REDIRECT], "dpop_bound_access_tokens": true }).to_string();
    let answer = broker.send(Method::POST, "/oauth/register", &[("content-type", "application/json")], body).await.json();
    assert_eq!(answer["dpop_bound_access_tokens"], true, "{answer}");
    let registered = answer["client_id"].as_str().unwrap();
    let theirs = code(&broker, registered, &["shop.show_order"]).await;
    assert_eq!(redeem(&broker, registered, &theirs, &[]).await.json()["error"], "invalid_dpop_proof");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_algorithm_that_a_document_names_is_the_only_one_and_one_that_is_not_taken_makes_it_none() {
    let (client, broker) = Promising::start().await;
    for path in ["/edwards", "/any"] {
        assert_eq!(client.redeemed(&broker, path).await.status, StatusCode::OK, "{path}");
    }
    let refused = client.redeemed(&broker, "/curve").await;
    assert_eq!((refused.status, refused.json()["error"].as_str()), (StatusCode::UNAUTHORIZED, Some("invalid_client")), "{refused:?}");
    for path in ["/shared", "/vague"] {
        let (_, page) = asked(&broker, "ana", &client.id(path), &[]).await;
        assert!(page.status == StatusCode::BAD_REQUEST && page.text().contains("cannot be used"), "{path}: {}", page.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_with_keys_was_given_is_given_up_by_itself_only_refresh_token_or_access_token() {
    let (client, broker) = Promising::start().await;
    let given = client.redeemed(&broker, "/any").await.json();
    let access = given["access_token"].as_str().unwrap();
    for token in [access, given["refresh_token"].as_str().unwrap()] {
        // Its ID is no secret, and who reads a log may have the token.
        let refused = broker.form("/oauth/revoke", &[("client_id", &client.id("/any")), ("token", token)]).await;
        assert_eq!((refused.status, refused.json()["error"].as_str()), (StatusCode::UNAUTHORIZED, Some("invalid_client")), "{refused:?}");
    }
    assert_eq!(looks(&broker, access).await.status, StatusCode::OK);
    let own = [ASSERTION, ("client_assertion", &client.assertion(&broker, "/any")), ("token", access)];
    assert_eq!(broker.form("/oauth/revoke", &own).await.status, StatusCode::OK);
    assert_eq!(looks(&broker, access).await.status, StatusCode::UNAUTHORIZED);
}
