//! What the standards forbid, tried at the doors of a running broker: RFC 9449, 8705, 9068 and 9728. The rules that need no broker are tried
//! one by one in the room of identity. `docs/concepts/standards.md` has all of them, each with its test.

use bailiwick::clock::{SystemClock, random};
use bailiwick_core::{AssertionId, Clock as _, Digest, SessionId};
use bailiwick_identity::dpop::{AGE_MAX, AHEAD_MAX, OFF_MAX};
use bailiwick_identity::token::{Acting, Purpose, SKEW, Statement};
use bailiwick_identity::{Confirmation, Issuer, SigningKey, dpop};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::binding::Holder;
use crate::broker::{Answer, Broker};

fn statement(broker: &Broker) -> Statement {
    let now = broker.house.clock.now();
    Statement {
        agent: "scout".parse().unwrap(),
        instance: bailiwick_core::InstanceId::new(now, random()),
        acting: Acting::default(),
        purpose: Purpose::Agent,
        scope: bailiwick_identity::oauth::Scope::agent(),
        audience: broker.house.urls.mcp.clone(),
        jti: SessionId::new(now, random()),
        confirmation: None,
    }
}

async fn tasks(broker: &Broker, authorization: &str) -> Answer {
    broker.send(Method::GET, "/v1/tasks", &[("authorization", authorization)], "").await
}

fn part(token: &str, at: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap()).unwrap()
}

/// A token with these parts, and the signature of another.
fn spliced(header: &str, claims: &str, of: &str) -> String {
    format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims), of.rsplit_once('.').unwrap().1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc_9068_no_token_passes_that_is_not_ours_for_this_resource_at_this_time() {
    let broker = Broker::start(|text| text).await;
    let house = &broker.house;
    let now = house.clock.now();
    let life = std::time::Duration::from_secs(60);
    let issue = |what: &Statement, at| house.issuer.issue(what, at, life).unwrap().token;
    let good = issue(&statement(&broker), now);
    assert_eq!(tasks(&broker, &format!("Bearer {good}")).await.status, StatusCode::OK);
    let (header, claims) = (part(&good, 0), part(&good, 1));
    let with = |base: &Value, name: &str, value: Value| {
        let mut changed = base.clone();
        changed[name] = value;
        changed.to_string()
    };
    let domain = house.config.trust_domain.clone();
    let own_key = Issuer::new(house.urls.base.clone(), domain.clone(), SigningKey::generate().unwrap().0);
    let deep = format!(r#"{{"sub":{}{}}}"#, "[".repeat(2000), "]".repeat(2000));
    let mut bad = vec![
        ("another audience", issue(&Statement { audience: "https://evil.example/mcp".to_owned(), ..statement(&broker) }, now)),
        ("the audience of one system alone", issue(&Statement { audience: format!("{}/s/shop", house.urls.mcp), ..statement(&broker) }, now)),
        ("a key of its own", own_key.issue(&statement(&broker), now, life).unwrap().token),
        ("over", issue(&statement(&broker), now.minus(life).minus(SKEW).minus(std::time::Duration::from_secs(1)))),
        ("of the future", issue(&statement(&broker), now.plus(SKEW).plus(std::time::Duration::from_secs(5)))),
        ("an assertion", broker.assertion("scout", None)),
        ("no signature", good.rsplit_once('.').unwrap().0.to_owned() + "."),
        ("a claim twice", spliced(&header.to_string(), &claims.to_string().replacen('{', r#"{"iss":"https://evil.example","#, 1), &good)),
        ("nested deeply", spliced(&header.to_string(), &deep, &good)),
        ("longer than any", format!("{}.{}.x", "a".repeat(5000), "b".repeat(5000))),
        ("another issuer", spliced(&header.to_string(), &with(&claims, "iss", json!("https://evil.example")), &good)),
    ];
    for alg in ["none", "HS256", "RS256", "ES256", "Ed25519"] {
        bad.push((alg, spliced(&with(&header, "alg", json!(alg)), &claims.to_string(), &good)));
    }
    for (name, value) in [
        ("jku", json!("https://evil.example/keys")),
        ("jwk", part(&good, 0)),
        ("x5u", json!("https://evil.example/c")),
        ("x5c", json!(["AAAA"])),
        ("kid", json!("../../keys/other")),
        ("kid", json!(broker.key("scout").public().id().to_string())),
        ("typ", json!("jwt")),
        ("typ", json!("dpop+jwt")),
        ("crit", json!(["exp"])),
    ] {
        bad.push((name, spliced(&with(&header, name, value), &claims.to_string(), &good)));
    }
    for (what, token) in bad {
        let refused = tasks(&broker, &format!("Bearer {token}")).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{what}");
        let challenge = refused.headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.contains("error=\"invalid_token\""), "{what}: {challenge}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc_9068_a_token_that_is_asked_for_without_a_resource_is_for_our_own_and_says_all_that_a_token_must() {
    let broker = Broker::start(|text| text).await;
    let given = broker.token_with(&broker.assertion("scout", None), &[]).await.json();
    let (header, claims) = (part(given["access_token"].as_str().unwrap(), 0), part(given["access_token"].as_str().unwrap(), 1));
    assert_eq!((&header["typ"], &header["alg"]), (&json!("at+jwt"), &json!("EdDSA")));
    assert_eq!((&claims["aud"], &claims["iss"]), (&json!(broker.house.urls.mcp), &json!(broker.house.urls.base)));
    for name in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti", "scope"] {
        assert!(claims.get(name).is_some_and(|claim| !claim.is_null()), "{name}: {claims}");
    }
    // Its subject is the agent, by a name that no person can have.
    assert!(claims["sub"] == claims["client_id"] && claims["sub"].as_str().unwrap().parse::<bailiwick_core::PersonName>().is_err(), "{claims}");
    // Asked for two of them, or for ours and another's: one audience or no token.
    let (mcp, shop) = (broker.house.urls.mcp.clone(), format!("{}/s/shop", broker.house.urls.mcp));
    let two = broker.token_with(&broker.assertion("scout", None), &[("resource", &mcp), ("resource", &shop)]).await.json();
    assert_eq!(part(two["access_token"].as_str().unwrap(), 1)["aud"], json!(mcp));
    for others in ["https://evil.example/mcp", "mcp", "https://evil.example/mcp#x"] {
        let refused = broker.token_with(&broker.assertion("scout", None), &[("resource", &mcp), ("resource", others)]).await;
        assert_eq!(refused.json()["error"], "invalid_target", "{others}");
    }
}

#[test]
fn every_test_that_the_table_of_the_standards_names_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/concepts/standards.md")).unwrap();
    let files: Vec<_> = ["crates/identity", "crates/bailiwick"].iter().flat_map(|folder| crate::support::files_of(&root.join(folder))).collect();
    let sources: String = files.iter().filter(|f| f.extension().is_some_and(|e| e == "rs")).map(|f| std::fs::read_to_string(f).unwrap()).collect();
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| section"));
    let mut named = 0;
    for row in rows {
        let shown = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let tests: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty() || shown.contains("does not concern us") || shown.contains("not obeyed"), "no test and no reason: {row}");
        for test in &tests {
            assert!(sources.contains(&format!("fn {test}(")), "`{test}` is not there: {row}");
        }
        named += tests.len();
    }
    assert!(named > 60, "{named}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc_9449_every_check_is_made_at_the_door() {
    let broker = Broker::start(|text| text + "\n[binding]\nnonces = true\n").await;
    let holder = Holder::new();
    let token = holder.agent_token(&broker, "scout", None).await;
    let first = tasks_with(&broker, &token, &[&holder.proof(&broker, "GET", "/v1/tasks", Some(&token))]).await;
    let nonce = first.headers["dpop-nonce"].to_str().unwrap().to_owned();
    let now = SystemClock::start().now();
    let uri = format!("{}/v1/tasks", broker.house.urls.base);
    let jti = || AssertionId::new(now, random()).to_string();
    let second = std::time::Duration::from_secs(1);
    let make = |method: &str, uri: &str, token: Option<&str>, nonce: Option<&str>, at| {
        dpop::make(&holder.key, &dpop::Statement { method, uri, token, nonce, jti: &jti() }, at).unwrap()
    };
    let good = || make("GET", &uri, Some(&token), Some(&nonce), now);
    assert_eq!(tasks_with(&broker, &token, &[&good()]).await.status, StatusCode::OK);
    let changed = |at: usize, name: &str, value: Value| {
        let good = good();
        let mut all = [part(&good, 0), part(&good, 1)];
        all[at][name] = value;
        spliced(&all[0].to_string(), &all[1].to_string(), &good)
    };
    let once = good();
    assert_eq!(tasks_with(&broker, &token, &[&once]).await.status, StatusCode::OK);
    let refused: Vec<(&str, Vec<String>)> = vec![
        ("1: two fields", vec![good(), good()]),
        ("1: no field", vec![]),
        ("2: a list", vec![format!("{},{}", good(), good())]),
        ("2: no JWT", vec!["x".to_owned()]),
        ("3: no jti", vec![changed(1, "jti", json!(null))]),
        ("4: another type", vec![changed(0, "typ", json!("jwt"))]),
        ("5: none", vec![changed(0, "alg", json!("none"))]),
        ("5: symmetric", vec![changed(0, "alg", json!("HS256"))]),
        ("6: another signature", vec![spliced(&part(&good(), 0).to_string(), &part(&good(), 1).to_string(), &once)]),
        ("7: a private key", vec![changed(0, "jwk", json!({ "kty": "OKP", "crv": "Ed25519", "x": part(&once, 0)["jwk"]["x"], "d": "AAAA" }))]),
        ("8: another method", vec![make("POST", &uri, Some(&token), Some(&nonce), now)]),
        ("9: another place", vec![make("GET", "https://evil.example/v1/tasks", Some(&token), Some(&nonce), now)]),
        ("9: another path", vec![make("GET", &format!("{uri}/x"), Some(&token), Some(&nonce), now)]),
        ("10: no nonce", vec![make("GET", &uri, Some(&token), None, now)]),
        ("10: a wrong nonce", vec![make("GET", &uri, Some(&token), Some(nonce.get(1..).unwrap()), now)]),
        ("11: too old", vec![make("GET", &uri, Some(&token), Some(&nonce), now.minus(OFF_MAX).minus(second).minus(second))]),
        ("11: of the future", vec![make("GET", &uri, Some(&token), Some(&nonce), now.plus(OFF_MAX).plus(second * 30))]),
        ("12: no token's hash", vec![make("GET", &uri, None, Some(&nonce), now)]),
        ("12: another token's hash", vec![make("GET", &uri, Some("x"), Some(&nonce), now)]),
        ("used before", vec![once.clone()]),
    ];
    assert!(AGE_MAX < OFF_MAX && AHEAD_MAX < OFF_MAX);
    for (what, proofs) in refused {
        let proofs: Vec<&str> = proofs.iter().map(String::as_str).collect();
        let answer = tasks_with(&broker, &token, &proofs).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{what}");
        let expected = if what.starts_with("10") { "authn.dpop_nonce" } else { "authn.dpop_invalid" };
        assert_eq!(answer.code(), expected, "{what}");
    }
    // 12, second half: bound to another key.
    let thief = Holder::new();
    assert_eq!(thief.with(&broker, &token, Method::GET, "/v1/tasks", None).await.code(), "authn.proof_invalid");
}

async fn tasks_with(broker: &Broker, token: &str, proofs: &[&str]) -> Answer {
    let authorization = format!("DPoP {token}");
    let mut headers = vec![("authorization", authorization.as_str())];
    headers.extend(proofs.iter().map(|proof| ("dpop", *proof)));
    broker.send(Method::GET, "/v1/tasks", &headers, "").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc_8705_a_token_of_a_certificate_is_nothing_without_it_and_a_field_is_no_certificate() {
    let broker = Broker::start(|text| text).await;
    let bound = Statement { confirmation: Some(Confirmation::Certificate(Digest::of(b"der"))), ..statement(&broker) };
    let token = broker.house.issuer.issue(&bound, broker.house.clock.now(), std::time::Duration::from_secs(60)).unwrap().token;
    let authorization = format!("Bearer {token}");
    let der = URL_SAFE_NO_PAD.encode(b"der");
    for field in ["x-client-cert", "x-forwarded-client-cert", "client-cert", "ssl-client-cert", "x-ssl-client-cert"] {
        let refused = broker.send(Method::GET, "/v1/tasks", &[("authorization", &authorization), (field, &der)], "").await;
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::UNAUTHORIZED, "authn.proof_invalid"), "{field}");
        assert!(refused.headers["www-authenticate"].to_str().unwrap().contains("invalid_token"));
    }
    assert_eq!(tasks(&broker, &format!("DPoP {token}")).await.status, StatusCode::UNAUTHORIZED);
    // Without the listener for certificates, no client is taken by one, and none is offered.
    let refused = broker.form("/oauth/token", &[("grant_type", "client_credentials"), ("client_id", "spiffe://bailiwick.local/agent/scout")]).await;
    assert_eq!(refused.json()["error"], "invalid_client");
    let server = broker.send(Method::GET, "/.well-known/oauth-authorization-server", &[], "").await.json();
    assert!(server.get("mtls_endpoint_aliases").is_none() && !server.to_string().contains("tls_client_auth"), "{server}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc_9728_the_challenge_leads_to_metadata_of_exactly_this_resource() {
    let broker = Broker::start(|text| text).await;
    let refused = broker.send(Method::POST, "/mcp", &[], "").await;
    let challenges: Vec<&str> = refused.headers.get_all("www-authenticate").iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert!(challenges.len() == 2 && challenges[0].starts_with("Bearer ") && challenges[1].starts_with("DPoP "), "{challenges:?}");
    for challenge in challenges {
        assert!(!challenge.contains("error"), "{challenge}");
        let (_, rest) = challenge.split_once("resource_metadata=\"").unwrap();
        let url: url::Url = rest.split_once('"').unwrap().0.parse().unwrap();
        let metadata = broker.send(Method::GET, url.path(), &[], "").await;
        assert_eq!(metadata.headers["content-type"], "application/json");
        let metadata = metadata.json();
        assert_eq!(metadata["resource"], json!(broker.house.urls.mcp));
        assert_eq!(metadata["bearer_methods_supported"], json!(["header"]));
        assert_eq!(metadata["dpop_bound_access_tokens_required"], json!(false));
    }
    // The document of each part of the endpoint is of that part, as a client demands that follows the challenge.
    let task = bailiwick_core::TaskId::new(broker.house.clock.now(), random()).to_string();
    for path in ["/mcp".to_owned(), "/mcp/s/shop".to_owned(), "/mcp/s/absent".to_owned(), format!("/mcp/t/{task}")] {
        for authorization in [&[][..], &[("authorization", "Bearer x")]] {
            let refused = broker.send(Method::POST, &path, authorization, "").await;
            for challenge in refused.headers.get_all("www-authenticate").iter().map(|v| v.to_str().unwrap()) {
                let url: url::Url = challenge.split_once("resource_metadata=\"").unwrap().1.split_once('"').unwrap().0.parse().unwrap();
                assert_eq!(url.path(), format!("/.well-known/oauth-protected-resource{path}"));
                let metadata = broker.send(Method::GET, url.path(), &[], "").await;
                assert_eq!(metadata.status, StatusCode::OK, "{path}");
                let metadata = metadata.json();
                assert_eq!(metadata["resource"], json!(format!("{}{path}", broker.house.urls.base)));
                // Parameters with zero values are omitted.
                let values = metadata.as_object().unwrap().values();
                assert!(values.into_iter().all(|value| !value.is_null() && value != &json!([]) && value != &json!("")), "{metadata}");
            }
        }
        // And it is a resource that a token can be asked for, which is for the one audience that there is.
        let resource = format!("{}{path}", broker.house.urls.base);
        let given = broker.token_with(&broker.assertion("scout", None), &[("resource", &resource)]).await.json();
        assert_eq!(part(given["access_token"].as_str().unwrap(), 1)["aud"], json!(broker.house.urls.mcp), "{path}");
    }
    for path in ["/mcp/s/No%20Name", "/mcp/s/shop%2f..", "/mcp/t/x", "/mcp/x"] {
        assert_eq!(broker.send(Method::POST, path, &[], "").await.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(broker.send(Method::GET, &format!("/.well-known/oauth-protected-resource{path}"), &[], "").await.status, StatusCode::NOT_FOUND);
    }
    // A token in the query or the body is no token.
    let token = broker.agent_token("scout", None).await;
    assert_eq!(broker.send(Method::GET, &format!("/v1/tasks?access_token={token}"), &[], "").await.status, StatusCode::UNAUTHORIZED);
    // Two ways at once are none.
    let both = [("authorization", &*format!("Bearer {token}")), ("authorization", &*format!("DPoP {token}"))];
    assert_eq!(broker.send(Method::GET, "/v1/tasks", &both, "").await.status, StatusCode::UNAUTHORIZED);
}
