//! Security events: taken by push and poll, each once, with what they end; and the ends of tasks, told by push and poll.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::Ed25519KeyPair;
use bailiwick::clock::SystemClock;
use bailiwick_core::Clock as _;
use bailiwick_identity::foreign::KeySet;
use bailiwick_identity::secevent::{self, Event, Subject, event_type};
use bailiwick_identity::{Algorithm, SigningKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::support::until;

const ALL: &[Algorithm] = &[Algorithm::EdDsa];

/// The other side: a transmitter with its keys and what it has to poll, and a receiver that can be made to fail.
struct Others {
    key: SigningKey,
    pair: Ed25519KeyPair,
    url: String,
    queue: Mutex<BTreeMap<String, String>>,
    errors: Mutex<Vec<Value>>,
    got: Mutex<Vec<String>>,
    down: AtomicBool,
}

impl Others {
    async fn start() -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (key, private) = SigningKey::generate().unwrap();
        let others = Arc::new(Self {
            key,
            pair: Ed25519KeyPair::from_pkcs8(&private).unwrap(),
            url: format!("http://{}", listener.local_addr().unwrap()),
            queue: Mutex::default(),
            errors: Mutex::default(),
            got: Mutex::default(),
            down: AtomicBool::new(false),
        });
        let (poll, push) = (Arc::clone(&others), Arc::clone(&others));
        let keys = bailiwick_identity::jwks(&[others.key.public().clone()]);
        let discovery = json!({ "issuer": others.url, "jwks_uri": format!("{}/jwks", others.url) });
        let router = axum::Router::new()
            .route("/.well-known/openid-configuration", axum::routing::get(move || std::future::ready(axum::Json(discovery.clone()))))
            .route("/jwks", axum::routing::get(move || std::future::ready(axum::Json(keys.clone()))))
            .route("/poll", axum::routing::post(move |headers: HeaderMap, body: Bytes| std::future::ready(poll.polled(&headers, &body))))
            .route("/push", axum::routing::post(move |headers: HeaderMap, body: Bytes| std::future::ready(push.pushed(&headers, &body))));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        others
    }

    fn polled(&self, headers: &HeaderMap, body: &[u8]) -> (StatusCode, String) {
        if headers["authorization"] != "Bearer canary-from" {
            return (StatusCode::UNAUTHORIZED, String::new());
        }
        let asked: Value = serde_json::from_slice(body).unwrap();
        let mut queue = self.queue.lock().unwrap();
        for jti in asked["ack"].as_array().unwrap() {
            queue.remove(jti.as_str().unwrap());
        }
        for (jti, why) in asked["setErrs"].as_object().unwrap() {
            queue.remove(jti);
            self.errors.lock().unwrap().push(why.clone());
        }
        (StatusCode::OK, json!({ "sets": *queue, "moreAvailable": false }).to_string())
    }

    fn pushed(&self, headers: &HeaderMap, body: &[u8]) -> StatusCode {
        if self.down.load(Ordering::SeqCst) {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        assert_eq!(headers["authorization"], "Bearer canary-to");
        assert_eq!(headers["content-type"], "application/secevent+jwt");
        self.got.lock().unwrap().push(String::from_utf8(body.to_vec()).unwrap());
        StatusCode::ACCEPTED
    }

    /// A token of the transmitter about somebody.
    fn token(&self, jti: &str, subject: &Value, event: &str, edit: impl FnOnce(&mut Value)) -> String {
        let now = SystemClock::start().now().as_seconds();
        let mut claims = json!({ "iss": self.url, "aud": "https://broker.test", "iat": now, "jti": jti, "sub_id": subject, "events": { event: {} } });
        edit(&mut claims);
        self.signed("secevent+jwt", &claims)
    }

    /// A logout token of the provider about somebody.
    fn logout_token(&self, jti: &str, sub: &str) -> String {
        let now = SystemClock::start().now().as_seconds();
        let events = json!({ (bailiwick_identity::sign_in::LOGOUT_EVENT): {} });
        self.signed("logout+jwt", &json!({ "iss": self.url, "aud": "b", "iat": now, "exp": now + 120, "jti": jti, "sub": sub, "events": events }))
    }

    fn signed(&self, typ: &str, claims: &Value) -> String {
        let header = json!({ "typ": typ, "alg": "EdDSA", "kid": self.key.public().id().to_string() });
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()).as_ref()))
    }
}

/// A broker whose people are known at the transmitter, which is the OpenID provider's side; `way` completes the transmitter and receivers.
async fn broker(others: &Others, way: &str) -> Broker {
    let section = format!(
        r#"
[sign_in.oidc]
issuer = "{url}"
client_id = "b"
[[events.from]]
name = "idp"
issuer = "{url}"
audience = "https://broker.test"
jwks_url = "{url}/jwks"
bearer = "from"
{way}"#,
        url = others.url
    );
    Broker::start_with(&[("from", "canary-from"), ("to", "canary-to")], |text| {
        let text = text.replace("[people.ben]\n", "[people.ben]\nsub = \"u-ben\"\n");
        format!("{}{section}", text.replace("[people.ana]\n", "[people.ana]\nsub = \"u-ana\"\n"))
    })
    .await
}

async fn push(broker: &Broker, token: &str) -> (u16, String) {
    let headers = [("content-type", "application/secevent+jwt"), ("authorization", "Bearer canary-from")];
    let answer = broker.send(Method::POST, "/events", &headers, token.to_owned()).await;
    let err = if answer.body.is_empty() { String::new() } else { answer.json()["err"].as_str().unwrap_or_default().to_owned() };
    (answer.status.as_u16(), err)
}

async fn task_of(broker: &Broker, agent: &str, who: &str) -> String {
    let token = broker.agent_token(agent, None).await;
    let asked = json!({ "purpose": "p", "tools": ["shop.show_order"], "on_behalf_of": who });
    let opened = broker.with(&token, Method::POST, "/v1/tasks", Some(asked)).await;
    assert_eq!(opened.status, StatusCode::CREATED, "{opened:?}");
    opened.json()["task"]["id"].as_str().unwrap().to_owned()
}

async fn is_open(broker: &Broker, task: &str) -> bool {
    broker.by("ops", Method::GET, &format!("/v1/tasks/{task}"), None).await.json()["state"] == "open"
}

fn of(sub: &str, url: &str) -> Value {
    json!({ "format": "iss_sub", "iss": url, "sub": sub })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_who_is_disabled_at_the_provider_loses_sessions_tasks_and_keys_at_once() {
    let others = Others::start().await;
    let broker = broker(&others, "").await;
    // Agent `other` is owned by ops: a task on behalf of ana, one of ana's own agent, and one that is nobody's of hers.
    let (on_behalf, owned, else_s) =
        (task_of(&broker, "other", "ana").await, task_of(&broker, "scout", "ben").await, task_of(&broker, "other", "ben").await);
    let code = broker.by("ana", Method::POST, "/v1/sign-in-codes", None).await.json()["code"].as_str().unwrap().to_owned();
    assert_eq!(broker.by("ana", Method::GET, "/v1/tasks", None).await.status, StatusCode::OK);
    let disabled = others.token("j-1", &of("u-ana", &others.url), event_type::ACCOUNT_DISABLED, |_| ());
    assert_eq!(push(&broker, &disabled).await, (202, String::new()));
    assert!(!is_open(&broker, &on_behalf).await && !is_open(&broker, &owned).await && is_open(&broker, &else_s).await);
    assert_eq!(broker.by("ana", Method::GET, "/v1/tasks", None).await.status, StatusCode::UNAUTHORIZED, "her key opens nothing");
    assert!(broker.house.sign_ins.take_code(&code, SystemClock::start().now()).is_none(), "nor does her code");
    // Her agents get no token, and nobody opens one on her behalf.
    let (assertion, mcp) = (broker.assertion("scout", None), broker.house.urls.mcp.clone());
    let refused = broker.token_with(&assertion, &[("resource", &mcp), ("scope", "agent")]).await;
    assert_eq!((refused.status, refused.json()["error"].clone()), (StatusCode::BAD_REQUEST, json!("unauthorized_client")));
    let token = broker.agent_token("other", None).await;
    let refused = broker.with(&token, Method::POST, "/v1/tasks", Some(json!({ "purpose": "p", "on_behalf_of": "ana" }))).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:?}");
    // Enabled again; and the old token does not disable her twice.
    let enabled = others.token("j-2", &of("u-ana", &others.url), event_type::ACCOUNT_ENABLED, |_| ());
    assert_eq!(push(&broker, &enabled).await.0, 202);
    assert_eq!(push(&broker, &disabled).await.0, 202, "taken before");
    assert_eq!(broker.by("ana", Method::GET, "/v1/tasks", None).await.status, StatusCode::OK);
    assert!(!is_open(&broker, &on_behalf).await, "what ended stays ended");
    // What an operator decided is not taken back by an event.
    let by_operator = broker.by("ops", Method::POST, "/v1/people/ana/disable", Some(json!({ "reason": "an incident" }))).await;
    assert_eq!(by_operator.status, StatusCode::OK, "{by_operator:?}");
    let enabled = others.token("j-3", &of("u-ana", &others.url), event_type::ACCOUNT_ENABLED, |_| ());
    assert_eq!(push(&broker, &enabled).await.0, 202);
    assert_eq!(broker.by("ana", Method::GET, "/v1/tasks", None).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_token_ends_what_is_open_once_and_what_was_begun_since_is_not_touched_by_its_replay() {
    let others = Others::start().await;
    let broker = broker(&others, "").await;
    let logs_out = async |token: &str| broker.form("/sign-in/oidc/logout", &[("logout_token", token)]).await.status;
    let told = async || {
        let all = crate::support::entries(&broker.house).await;
        all.into_iter().filter(|e| e["kind"] == "person" && e["what"] == "logged_out" && e["person"] == "ben").count()
    };
    let task = task_of(&broker, "scout", "ben").await;
    let (first, second) = (others.logout_token("logout-1", "u-ben"), others.logout_token("logout-2", "u-ben"));
    assert_eq!(logs_out(&first).await, StatusCode::OK);
    assert!(!is_open(&broker, &task).await && told().await == 1);
    // Whoever saw it go by ends nothing with it a second time.
    let task = task_of(&broker, "scout", "ben").await;
    assert_eq!(logs_out(&first).await, StatusCode::BAD_REQUEST);
    assert!(is_open(&broker, &task).await && told().await == 1);
    // The next one of the provider does; and one that is about somebody else's sessions, or no logout, does not.
    let event = others.token("j-1", &of("u-ben", &others.url), event_type::SESSION_REVOKED, |_| ());
    for (what, token) in [("a stranger's", others.logout_token("logout-3", "u-nobody")), ("an event", event)] {
        assert_eq!(logs_out(&token).await, if what == "an event" { StatusCode::BAD_REQUEST } else { StatusCode::OK }, "{what}");
        assert!(is_open(&broker, &task).await, "{what}");
    }
    assert_eq!(logs_out(&second).await, StatusCode::OK);
    assert!(!is_open(&broker, &task).await && told().await == 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_revoked_end_with_the_tasks_and_a_named_session_ends_alone() {
    let others = Others::start().await;
    let broker = broker(&others, "").await;
    let task = task_of(&broker, "other", "ben").await;
    let complex = json!({ "format": "complex", "user": of("u-ben", &others.url), "session": { "format": "opaque", "id": "s-9" } });
    assert_eq!(push(&broker, &others.token("j-1", &complex, event_type::SESSION_REVOKED, |_| ())).await.0, 202);
    assert!(is_open(&broker, &task).await, "one session, of which nothing was begun here");
    let nobody = json!({ "format": "email", "email": "eve@example.org" });
    assert_eq!(push(&broker, &others.token("j-2", &nobody, event_type::SESSION_REVOKED, |_| ())).await.0, 202);
    assert!(is_open(&broker, &task).await);
    assert_eq!(push(&broker, &others.token("j-3", &of("u-ben", &others.url), event_type::SESSION_REVOKED, |_| ())).await.0, 202);
    assert!(!is_open(&broker, &task).await);
    assert_eq!(broker.by("ben", Method::GET, "/v1/tasks", None).await.status, StatusCode::OK, "his key is his");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_transmitters_token_for_us_is_refused_with_the_standards_code() {
    let others = Others::start().await;
    let broker = broker(&others, "").await;
    let subject = of("u-ben", &others.url);
    let refused = async |edit: &dyn Fn(&mut Value)| push(&broker, &others.token("j", &subject, event_type::ACCOUNT_DISABLED, edit)).await;
    assert_eq!(refused(&|c| c["iss"] = json!("https://evil.example")).await, (400, "invalid_issuer".to_owned()));
    assert_eq!(refused(&|c| c["aud"] = json!("https://other.test")).await, (400, "invalid_audience".to_owned()));
    assert_eq!(refused(&|c| c["exp"] = json!(1)).await, (400, "invalid_request".to_owned()));
    assert_eq!(refused(&|c| c["sub"] = json!("u-ben")).await, (400, "invalid_request".to_owned()));
    assert_eq!(refused(&|c| c["iat"] = json!(1)).await, (400, "invalid_request".to_owned()));
    let other = Others::start().await;
    let forged = other.token("j", &subject, event_type::ACCOUNT_DISABLED, |c| c["iss"] = json!(others.url));
    assert_eq!(push(&broker, &forged).await, (400, "invalid_key".to_owned()));
    assert_eq!(push(&broker, "e30").await.0, 400);
    let good = others.token("j", &subject, event_type::ACCOUNT_DISABLED, |_| ());
    for headers in [
        vec![("content-type", "application/secevent+jwt")],
        vec![("content-type", "application/secevent+jwt"), ("authorization", "Bearer canary-to")],
    ] {
        let answer = broker.send(Method::POST, "/events", &headers, good.clone()).await;
        assert_eq!((answer.status, answer.json()["err"].clone()), (StatusCode::UNAUTHORIZED, json!("authentication_failed")));
    }
    let wrong_type = [("content-type", "application/json"), ("authorization", "Bearer canary-from")];
    assert_eq!(broker.send(Method::POST, "/events", &wrong_type, good.clone()).await.status, StatusCode::BAD_REQUEST);
    assert!(broker.house.person("ben").is_some(), "nothing of all that did anything");
    assert_eq!(push(&broker, &good).await.0, 202);
    assert!(broker.house.person("ben").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_polled_acknowledged_and_those_that_are_none_are_told_as_errors() {
    let others = Others::start().await;
    {
        let mut queue = others.queue.lock().unwrap();
        queue.insert("j-1".to_owned(), others.token("j-1", &of("u-ben", &others.url), event_type::ACCOUNT_DISABLED, |_| ()));
        queue.insert("j-2".to_owned(), "nonsense".to_owned());
    }
    let broker = broker(&others, &format!("poll_url = \"{}/poll\"\n", others.url)).await;
    until("the event is polled", || broker.house.person("ben").is_none()).await;
    until("all is acknowledged", || others.queue.lock().unwrap().is_empty()).await;
    assert_eq!(others.errors.lock().unwrap()[0]["err"], "invalid_request");
}

/// What a receiver got, verified with the broker's published keys.
async fn verified(broker: &Broker, token: &str) -> secevent::Received {
    let keys = KeySet::jwks(&broker.send(Method::GET, "/.well-known/jwks.json", &[], "").await.body).unwrap();
    let from = secevent::From { issuer: &broker.house.urls.base, audience: "https://siem.test", keys: &keys, algorithms: ALL };
    secevent::verify(token, &from, SystemClock::start().now()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_task_is_pushed_as_session_revoked_once_the_receiver_is_there() {
    let others = Others::start().await;
    let receiver = format!("[[events.to]]\nname = \"siem\"\naudience = \"https://siem.test\"\npush_url = \"{}/push\"\nbearer = \"to\"\n", others.url);
    let broker = broker(&others, &receiver).await;
    others.down.store(true, Ordering::SeqCst);
    let task = task_of(&broker, "other", "ben").await;
    assert_eq!(broker.by("ops", Method::POST, &format!("/v1/tasks/{task}/revoke"), None).await.status, StatusCode::OK);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(others.got.lock().unwrap().is_empty());
    others.down.store(false, Ordering::SeqCst);
    until("the receiver is told", || !others.got.lock().unwrap().is_empty()).await;
    let token = others.got.lock().unwrap()[0].clone();
    let received = verified(&broker, &token).await;
    assert_eq!(received.events, [Event::SessionRevoked]);
    let Some(Subject::Complex { user: Some(user), session: Some(session), .. }) = received.subject else { panic!("{token}") };
    assert_eq!(*session, Subject::Opaque(task));
    assert_eq!(*user, Subject::IssSub { iss: broker.house.urls.base.clone(), sub: "ben".to_owned() });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(others.got.lock().unwrap().len(), 1, "told once: the second step of the end is no other end");
    let about = broker.send(Method::GET, "/.well-known/ssf-configuration", &[], "").await.json();
    assert_eq!(
        (about["issuer"].as_str(), about["delivery_methods_supported"].clone()),
        (Some(broker.house.urls.base.as_str()), json!(["urn:ietf:rfc:8935"]))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_polls_until_it_acknowledges_and_only_with_its_secret() {
    let others = Others::start().await;
    let broker = broker(&others, "[[events.to]]\nname = \"siem\"\naudience = \"https://siem.test\"\nbearer = \"to\"\n").await;
    let poll = async |secret: &str, name: &str, body: Value| {
        let headers = [("content-type", "application/json"), ("authorization", secret)];
        broker.send(Method::POST, &format!("/events/poll/{name}"), &headers, body.to_string()).await
    };
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let task = task_of(&broker, "other", "ben").await;
        assert_eq!(broker.by("ops", Method::POST, &format!("/v1/tasks/{task}/revoke"), None).await.status, StatusCode::OK);
        tasks.push(task);
    }
    for (secret, name) in [("Bearer canary-from", "siem"), ("", "siem"), ("Bearer canary-to", "other")] {
        assert_eq!(poll(secret, name, json!({})).await.status, StatusCode::UNAUTHORIZED, "{secret} {name}");
    }
    let good = "Bearer canary-to";
    let first = poll(good, "siem", json!({ "maxEvents": 2, "returnImmediately": true })).await.json();
    assert_eq!((first["sets"].as_object().unwrap().len(), first["moreAvailable"].clone()), (2, json!(true)));
    let again = poll(good, "siem", json!({})).await.json();
    let all = again["sets"].as_object().unwrap();
    assert_eq!((all.len(), again["moreAvailable"].clone()), (3, json!(false)), "nothing was acknowledged");
    assert!(first["sets"].as_object().unwrap().keys().all(|jti| all.contains_key(jti)), "the same end has the same id");
    for (jti, token) in all {
        let received = verified(&broker, token.as_str().unwrap()).await;
        assert_eq!(&received.jti, jti);
    }
    // The one in the middle is acknowledged ahead; the others come again, and then nothing does.
    let jtis: Vec<&String> = all.keys().collect();
    let left = poll(good, "siem", json!({ "ack": [jtis[1]] })).await.json();
    assert_eq!(left["sets"].as_object().unwrap().keys().collect::<Vec<_>>(), [jtis[0], jtis[2]]);
    let none = poll(good, "siem", json!({ "ack": [jtis[0]], "setErrs": { jtis[2]: { "err": "invalid_request", "description": "x" } } })).await.json();
    assert_eq!(none, json!({ "sets": {}, "moreAvailable": false }));
}

/// The token that verifies a stream, as the receiver sees it.
async fn proves(broker: &Broker, token: &str, state: Option<&str>) {
    let received = verified(broker, token).await;
    assert_eq!(received.events, [Event::Verification { state: state.map(str::to_owned) }]);
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap();
    assert_eq!(claims["sub_id"], json!({ "format": "opaque", "id": "siem" }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_reads_its_stream_and_has_it_verified_with_its_secret_only() {
    let others = Others::start().await;
    let broker = broker(&others, "[[events.to]]\nname = \"siem\"\naudience = \"https://siem.test\"\nbearer = \"to\"\n").await;
    let about = broker.send(Method::GET, "/.well-known/ssf-configuration", &[], "").await.json();
    let path = |name: &str| about[name].as_str().unwrap().strip_prefix(&broker.house.urls.base).unwrap().to_owned();
    let ask = async |secret: &str, method: Method, target: &str, body: Value| {
        let headers = [("content-type", "application/json"), ("authorization", secret)];
        broker.send(method, target, &headers, body.to_string()).await
    };
    let good = "Bearer canary-to";
    let (streams, status, verify) = (path("configuration_endpoint"), path("status_endpoint"), path("verification_endpoint"));
    for secret in ["", "Bearer canary-from", "Bearer canary-t"] {
        assert_eq!(ask(secret, Method::GET, &streams, json!({})).await.status, StatusCode::UNAUTHORIZED, "{secret}");
        assert_eq!(ask(secret, Method::GET, &format!("{status}?stream_id=siem"), json!({})).await.status, StatusCode::UNAUTHORIZED, "{secret}");
        assert_eq!(ask(secret, Method::POST, &verify, json!({ "stream_id": "siem" })).await.status, StatusCode::UNAUTHORIZED, "{secret}");
    }
    let all = ask(good, Method::GET, &streams, json!({})).await.json();
    let one = ask(good, Method::GET, &format!("{streams}?stream_id=siem"), json!({})).await.json();
    assert_eq!(all, json!([one]));
    let poll = format!("{}/events/poll/siem", broker.house.urls.base);
    assert_eq!(
        (&one["iss"], &one["aud"], &one["delivery"], &one["events_delivered"]),
        (
            &about["issuer"],
            &json!("https://siem.test"),
            &json!({ "method": "urn:ietf:rfc:8936", "endpoint_url": poll }),
            &json!([event_type::SESSION_REVOKED])
        )
    );
    assert_eq!(ask(good, Method::GET, &format!("{streams}?stream_id=other"), json!({})).await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        ask(good, Method::GET, &format!("{status}?stream_id=siem"), json!({})).await.json(),
        json!({ "stream_id": "siem", "status": "enabled" })
    );
    // Streams are made in the configuration.
    assert_eq!(ask(good, Method::POST, &streams, json!({})).await.status, StatusCode::METHOD_NOT_ALLOWED);

    let long = json!({ "stream_id": "siem", "state": "x".repeat(257) });
    assert_eq!(ask(good, Method::POST, &verify, long).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(ask(good, Method::POST, &verify, json!({ "stream_id": "siem", "state": "s-1" })).await.status, StatusCode::NO_CONTENT);
    assert_eq!(ask(good, Method::POST, &verify, json!({ "stream_id": "siem" })).await.status, StatusCode::TOO_MANY_REQUESTS);
    let sets = ask(good, Method::POST, "/events/poll/siem", json!({})).await.json()["sets"].as_object().unwrap().clone();
    let (jti, token) = sets.iter().next().unwrap();
    proves(&broker, token.as_str().unwrap(), Some("s-1")).await;
    let again = ask(good, Method::POST, "/events/poll/siem", json!({})).await.json();
    assert!(again["sets"].get(jti).is_some(), "until it is acknowledged");
    let none = ask(good, Method::POST, "/events/poll/siem", json!({ "ack": [jti] })).await.json();
    assert_eq!(none["sets"], json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_pushed_is_verified_by_a_push() {
    let others = Others::start().await;
    let receiver = format!("[[events.to]]\nname = \"siem\"\naudience = \"https://siem.test\"\npush_url = \"{}/push\"\nbearer = \"to\"\n", others.url);
    let broker = broker(&others, &receiver).await;
    let headers = [("content-type", "application/json"), ("authorization", "Bearer canary-to")];
    let asked = broker.send(Method::POST, "/events/verify", &headers, json!({ "stream_id": "siem" }).to_string()).await;
    assert_eq!(asked.status, StatusCode::NO_CONTENT);
    until("the receiver is told", || !others.got.lock().unwrap().is_empty()).await;
    let token = others.got.lock().unwrap()[0].clone();
    proves(&broker, &token, None).await;
}
