//! `cargo xtask bench tokens`: what it costs to verify a token, on first sight and when it was seen before, with the proofs that bind it; and
//! how long after its revocation a token, or a task, is refused for the first time, under load.
//!
//! Times are CPU time of the one thread that verifies, as the kernel counts it, so that other work on the machine does not count. *Seen before*
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
use bailiwick_core::{AssertionId, Clock as _, Digest, EndReason, InstanceId, SessionId};
use bailiwick_identity::dpop::{self, Nonces, Request, Rules, Target};
use bailiwick_identity::token::{Acting, Issued, Purpose, Statement};
use bailiwick_identity::{Confirmation, SigningKey, Verifier};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use broker::Broker;
use http::request::Parts;
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
        revocations(&broker, &mut report).await;
    });
    if json {
        println!("{}", Value::Object(report));
    }
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// The median of a hundred batches, in microseconds.
fn say(name: &str, goal: Option<f64>, rounds: u32, report: &mut Map<String, Value>, mut once: impl FnMut(u32)) {
    let batch = (rounds / 100).max(1);
    let mut times: Vec<f64> = (0..100)
        .map(|round| {
            let start = cpu();
            (0..batch).for_each(|n| once(round * batch + n));
            (cpu() - start).as_secs_f64() * 1e6 / f64::from(batch)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let (median, worst) = (times[50], times[98]);
    let verdict = goal.map_or(String::new(), |goal| format!("   goal {goal:>5.1}: {}", if median <= goal { "met" } else { "MISSED" }));
    println!("{name:<44} p50 {median:>8.2} µs   p98 {worst:>8.2} µs{verdict}");
    report.insert(format!("{}_us", name.replace([' ', ','], "_")), json!((median * 100.0).round() / 100.0));
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
    say("token seen before, with revocation", Some(3.0), rounds, report, |_| {
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

/// Two threads present a token without end; another takes it away. From the moment when that is asked for to the first refusal.
async fn revocations(broker: &Broker, report: &mut Map<String, Value>) {
    let house = &broker.house;
    let mut by_token = Vec::new();
    let mut by_task = Vec::new();
    for _ in 0..20 {
        let issued = issue(house, None);
        let verified = house.verifier.verify(&issued.token, &house.urls.mcp, house.clock.now()).unwrap();
        by_token
            .push(refused_after(house, &issued.token, async || house.revoke_token(&verified.jti.to_string(), issued.expires).await.unwrap()).await);
        let agent = broker.agent_token("scout", None).await;
        let (task, token) = broker.task(&agent).await;
        let id = task["id"].as_str().unwrap().parse().unwrap();
        by_task.push(refused_after(house, &token, async || house.end_task(id, EndReason::Revoked, Some("bench")).await.unwrap()).await);
    }
    for (name, mut times) in [("revoked token", by_token), ("ended task", by_task)] {
        times.sort();
        let (median, worst) = (times[times.len() / 2].as_secs_f64() * 1e3, times[times.len() - 1].as_secs_f64() * 1e3);
        println!("{name:<44} p50 {median:>8.3} ms   max {worst:>8.3} ms   goal  10.0: {}", if worst <= 10.0 { "met" } else { "MISSED" });
        report.insert(format!("{}_ms_max", name.replace(' ', "_")), json!((worst * 1000.0).round() / 1000.0));
    }
}

async fn refused_after(house: &Arc<House>, token: &str, take_away: impl AsyncFnOnce()) -> Duration {
    let begin = Instant::now();
    let (refused, good, stop) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let authorization = format!("Bearer {token}");
    let load: Vec<_> = (0..2)
        .map(|_| {
            let (house, refused, good, stop, authorization) =
                (Arc::clone(house), Arc::clone(&refused), Arc::clone(&good), Arc::clone(&stop), authorization.clone());
            tokio::spawn(async move {
                let given = parts(&[("authorization", &authorization)]);
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..100 {
                        match house.bearer(&Presented { from: [127, 0, 0, 1].into(), parts: &given }).await {
                            Ok(_) => drop(good.fetch_add(1, Ordering::Relaxed)),
                            Err(_) => {
                                refused.fetch_min(u64::try_from(begin.elapsed().as_nanos()).unwrap(), Ordering::Relaxed);
                                return;
                            }
                        }
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    while good.load(Ordering::Relaxed) < 1000 {
        tokio::task::yield_now().await;
    }
    let asked = begin.elapsed();
    take_away().await;
    for one in load {
        tokio::time::timeout(Duration::from_secs(5), one).await.unwrap().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    Duration::from_nanos(refused.load(Ordering::Relaxed)).saturating_sub(asked)
}
