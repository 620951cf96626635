//! `cargo xtask bench tokens`: what it costs to verify a token, on first sight and when it was seen before, with the proofs that bind it; and
//! how long after an operator took it away a task, an agent, a person, a key or a running copy is refused for the first time, under load.
//!
//! Costs are CPU time of the one thread that verifies, as the kernel counts it, so that other work on the machine does not count. *Seen before*
//! is `House::bearer` as every request meets it: the cache, the clock, the revocation, the task, the agent and the demand of `[binding]`.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing, reason = "a program for measurements")]
#![allow(dead_code, clippy::allow_attributes, reason = "the support of the tests has more than this needs")]

#[path = "../tests/it/broker.rs"]
mod broker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use bailiwick::authn::Presented;
use bailiwick::clock::{SystemClock, random};
use bailiwick::house::House;
use bailiwick_core::{AssertionId, Clock as _, Digest, InstanceId, SessionId};
use bailiwick_identity::dpop::{self, Nonces, Request, Rules, Target};
use bailiwick_identity::token::{Acting, Issued, Purpose, Statement};
use bailiwick_identity::{Confirmation, SigningKey, Verifier, assertion};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use broker::Broker;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};

fn main() {
    let (mut json, mut rounds) = (false, 20_000_u32);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        match flag.as_str() {
            "--json" => json = true,
            // Cargo says so to every benchmark.
            "--bench" => {}
            "--rounds" => rounds = arguments.next().unwrap().parse().unwrap(),
            other => panic!("unknown argument `{other}`; there are --json and --rounds N"),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut report = Map::new();
    runtime.block_on(async {
        let broker = Broker::ready().await;
        // Proofs without a nonce are taken from here on.
        tokio::time::sleep(dpop::AHEAD_MAX + Duration::from_secs(1)).await;
        costs(&broker, rounds, &mut report).await;
        revocations(&Arc::new(broker), &mut report).await;
    });
    if json {
        println!("{}", Value::Object(report));
    }
}

/// CPU time of this thread. The kernel adds it up when the thread leaves the processor or at a tick (4 ms), so the thread leaves first.
fn cpu() -> Duration {
    std::thread::sleep(Duration::from_nanos(1));
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// CPU time of one, over all rounds together, as kernels count it in steps of some milliseconds; and the wall time of batches, which says the
/// same on a quiet machine and shows how far it goes up.
fn say(name: &str, goal: Option<f64>, rounds: u32, report: &mut Map<String, Value>, mut once: impl FnMut(u32)) {
    let batch = (rounds / 100).max(1);
    let mut walls: Vec<f64> = Vec::with_capacity(100);
    let begin = cpu();
    for round in 0..100 {
        let start = Instant::now();
        (0..batch).for_each(|n| once(round * batch + n));
        walls.push(start.elapsed().as_secs_f64() * 1e6 / f64::from(batch));
    }
    let mean = (cpu() - begin).as_secs_f64() * 1e6 / f64::from(100 * batch);
    walls.sort_by(f64::total_cmp);
    let (median, worst) = (walls[50], walls[98]);
    let verdict = goal.map_or(String::new(), |goal| format!("   goal {goal:>5.1}: {}", if mean <= goal { "met" } else { "MISSED" }));
    println!("{name:<44} CPU {mean:>8.2} µs   wall p50 {median:>8.2} µs   p98 {worst:>8.2} µs{verdict}");
    report.insert(format!("{}_us", name.replace([' ', ','], "_")), json!((mean * 100.0).round() / 100.0));
}

fn statement(house: &House, confirmation: Option<Confirmation>) -> Statement {
    let now = house.clock.now();
    Statement {
        agent: "scout".parse().unwrap(),
        instance: InstanceId::new(now, random()),
        acting: Acting::default(),
        purpose: Purpose::Agent,
        scope: bailiwick_identity::oauth::Scope::agent(),
        audience: house.urls.mcp.clone(),
        jti: SessionId::new(now, random()),
        confirmation,
    }
}

fn issue(house: &House, confirmation: Option<Confirmation>) -> Issued {
    house.issuer.issue(&statement(house, confirmation), house.clock.now(), Duration::from_secs(3600)).unwrap()
}

fn parts(headers: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::builder().method("POST").uri("/mcp");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// Proofs as another implementation makes them: ES256.
fn es256(pair: &EcdsaKeyPair, house: &House, token: &str, n: u32) -> String {
    let point = pair.public_key().as_ref();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
    let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": { "kty": "EC", "crv": "P-256", "x": x, "y": y } });
    let ath = URL_SAFE_NO_PAD.encode(Digest::of(token.as_bytes()).as_bytes());
    let claims = json!({ "jti": format!("proof-{n}"), "htm": "POST", "htu": house.urls.mcp, "iat": house.clock.now().as_seconds(), "ath": ath });
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

async fn costs(broker: &Broker, rounds: u32, report: &mut Map<String, Value>) {
    let house = &broker.house;
    let from = std::net::IpAddr::from([127, 0, 0, 1]);
    let verifier = Verifier::new(house.urls.base.clone(), house.config.trust_domain.clone(), vec![house.issuer.public().clone()]);
    let plain = issue(house, None).token;
    let now = house.clock.now();
    say("token on first sight", Some(60.0), rounds, report, |_| assert!(verifier.verify(&plain, &house.urls.mcp, now).is_ok()));
    let given = parts(&[("authorization", &format!("Bearer {plain}"))]);
    house.bearer(&Presented { from, parts: &given }).await.unwrap();
    say("token seen before, with revocation", Some(3.0), rounds * 20, report, |_| {
        assert!(now_or_never(house.bearer(&Presented { from, parts: &given })).is_ok());
    });
    let key = SigningKey::generate().unwrap().0;
    let bound = issue(house, Some(Confirmation::Key(key.id()))).token;
    let (nonces, target) = (Nonces::new(&random()), Target::new(&house.urls.mcp).unwrap());
    let rules = Rules { nonces: &nonces, nonce_required: false, remembered_since: now.minus(Duration::from_secs(600)) };
    let request = Request { method: "POST", target: &target, token: Some(&bound) };
    let make = || {
        let now = SystemClock::start().now();
        let jti = AssertionId::new(now, random()).to_string();
        let what = dpop::Statement { method: "POST", uri: &house.urls.mcp, token: Some(&bound), nonce: None, jti: &jti };
        dpop::make(&key, &what, now).unwrap()
    };
    let proof = make();
    say("DPoP proof alone, EdDSA", None, rounds, report, |_| assert!(dpop::verify(&proof, request, rules, now).is_ok()));
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let proof = es256(&pair, house, &bound, 0);
    say("DPoP proof alone, ES256", None, rounds, report, |_| assert!(dpop::verify(&proof, request, rules, house.clock.now()).is_ok()));
    // Each proof is used once, so they are made before and measured soon.
    let few = rounds.min(5_000);
    let all: Vec<Parts> = (0..few).map(|_| parts(&[("authorization", &format!("DPoP {bound}")), ("dpop", &make())])).collect();
    house.bearer(&Presented { from, parts: &parts(&[("authorization", &format!("DPoP {bound}")), ("dpop", &make())]) }).await.unwrap();
    say("bound token seen before, with its proof", None, few, report, |n| {
        let given = &all[usize::try_from(n).unwrap() % all.len()];
        assert!(now_or_never(house.bearer(&Presented { from, parts: given })).is_ok());
    });
}

/// What was seen before is answered without waiting.
fn now_or_never<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

/// What a person takes away: by which request, and the task token that rests on it.
struct Case {
    token: String,
    target: String,
    /// What gives it back, for the next round.
    back: Option<String>,
}

const KINDS: [&str; 5] = ["task", "agent", "person", "key", "instance"];
/// Clients that call at once, each over a connection of its own.
const CLIENTS: usize = 4;
const ROUNDS: usize = 20;

impl Case {
    async fn of(kind: &str, broker: &Broker) -> Self {
        let now = broker.house.clock.now();
        let copy = InstanceId::new(now, random());
        let (key, agent) = if kind == "key" { (Some(SigningKey::generate().unwrap().0), "other") } else { (None, "scout") };
        if let Some(key) = &key {
            std::fs::write(broker.data.join("agents/other.jwk"), key.public().jwk().to_string()).unwrap();
            broker.house.keyring.reload().unwrap();
        }
        let client = broker.spiffe_id(agent);
        let jti = AssertionId::new(now, random());
        let statement = assertion::Statement { client: &client, audience: &broker.house.urls.base, jti, instance: Some(copy), model: None };
        let assertion = assertion::make(key.as_ref().unwrap_or(broker.key(agent)), &statement, now).unwrap();
        let given = broker.token_with(&assertion, &[("scope", "agent")]).await;
        assert_eq!(given.status, StatusCode::OK, "{given:?}");
        let mut asked = json!({ "purpose": "bench", "tools": ["shop.show_order"] });
        if kind == "person" {
            asked["on_behalf_of"] = json!("zoe");
        }
        let opened = broker.with(given.json()["access_token"].as_str().unwrap(), Method::POST, "/v1/tasks", Some(asked)).await;
        assert_eq!(opened.status, StatusCode::CREATED, "{opened:?}");
        let opened = opened.json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (target, back) = match kind {
            "task" => (format!("/v1/tasks/{}/revoke", text(&opened["task"]["id"])), None),
            "agent" => ("/v1/agents/scout/suspend".to_owned(), Some("/v1/agents/scout/resume")),
            "person" => ("/v1/people/zoe/disable".to_owned(), Some("/v1/people/zoe/enable")),
            "key" => (format!("/v1/agents/other/keys/{}/revoke", key.unwrap().public().id()), None),
            _ => (format!("/v1/agents/scout/instances/{copy}/revoke"), None),
        };
        Self { token: text(&opened["token"]["access_token"]), target, back: back.map(str::to_owned) }
    }
}

/// A connection that is kept.
struct Line {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    token: String,
}

impl Line {
    async fn to(broker: &Broker, token: &str) -> Self {
        let stream = tokio::net::TcpStream::connect(broker.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender, token: format!("Bearer {token}") }
    }

    /// Does a call pass?
    async fn call(&mut self, host: &str) -> bool {
        let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
        let params = json!({ "name": "shop.show_order", "arguments": { "order": "O-2008" }, "_meta": meta });
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
        let request = http::Request::post("/mcp")
            .header("host", host)
            .header("authorization", &self.token)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", "tools/call")
            .header("mcp-name", "shop.show_order");
        self.sender.ready().await.unwrap();
        let answer = self.sender.send_request(request.body(Full::new(Bytes::from(body.to_string()))).unwrap()).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        status == StatusCode::OK && message["result"]["isError"] == false
    }
}

/// Clients call without end, over HTTP; an operator takes away, over HTTP, what their calls rest on. For each kind the time from the sending
/// of that request to the first refusal that a client sees. No call that is sent after its answer passes.
async fn revocations(broker: &Arc<Broker>, report: &mut Map<String, Value>) {
    for kind in KINDS {
        let (mut first, mut calls) = (Vec::new(), 0);
        for _ in 0..ROUNDS {
            let case = Case::of(kind, broker).await;
            let (refused, passed) = taken_away(broker, &case).await;
            first.push(refused);
            calls += passed;
            if let Some(back) = &case.back {
                let answer = broker.by("ops", Method::POST, back, Some(json!({ "reason": "bench" }))).await;
                assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
                // Tokens of the very second are from before it was taken away.
                tokio::time::sleep(Duration::from_millis(1100)).await;
            }
        }
        first.sort();
        let (median, worst) = (first[first.len() / 2].as_secs_f64() * 1e3, first[first.len() - 1].as_secs_f64() * 1e3);
        let verdict = if worst <= 10.0 { "met" } else { "MISSED" };
        let name = format!("revoked {kind}, to the first refusal");
        println!("{name:<44} p50 {median:>8.3} ms   max {worst:>8.3} ms   goal  10.0: {verdict}   {calls} calls before, 0 after the answer");
        report.insert(format!("revoked_{kind}_ms_p50"), json!((median * 1000.0).round() / 1000.0));
        report.insert(format!("revoked_{kind}_ms_max"), json!((worst * 1000.0).round() / 1000.0));
    }
}

/// The time from the revocation to the first refusal, and how many calls passed before.
async fn taken_away(broker: &Arc<Broker>, case: &Case) -> (Duration, usize) {
    let begin = Instant::now();
    let (good, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (broker, good, answered, token) = (Arc::clone(broker), Arc::clone(&good), Arc::clone(&answered), case.token.clone());
            tokio::spawn(async move {
                let mut line = Line::to(&broker, &token).await;
                let host = broker.address.to_string();
                let (mut first, mut passed, mut after) = (None, 0, 0);
                // Some more after the answer: each has to be refused.
                while after < 5 {
                    let known = answered.load(Ordering::SeqCst);
                    let passes = line.call(&host).await;
                    assert!(!(known && passes), "a call passed after the answer of the revocation");
                    after += usize::from(known);
                    if passes {
                        passed += 1;
                        good.fetch_add(1, Ordering::Relaxed);
                    } else {
                        first.get_or_insert(begin.elapsed());
                    }
                }
                (first.unwrap(), passed)
            })
        })
        .collect();
    while good.load(Ordering::Relaxed) < 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let asked = begin.elapsed();
    let answer = broker.by("ops", Method::POST, &case.target, Some(json!({ "reason": "bench" }))).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answered.store(true, Ordering::SeqCst);
    let (mut first, mut passed) = (Duration::MAX, 0);
    for client in clients {
        let (refused, calls) = tokio::time::timeout(Duration::from_secs(30), client).await.unwrap().unwrap();
        assert!(asked <= refused, "a call was refused before anything was taken away");
        first = first.min(refused);
        passed += calls;
    }
    (first.saturating_sub(asked), passed)
}
