//! Workloads that prove themselves by what others signed, at the token endpoint of a whole broker; and machines that enrol.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use bailiwick::clock::{SystemClock, random};
use bailiwick_core::{Clock as _, InstanceId, Timestamp};
use bailiwick_identity::SigningKey;
use bailiwick_identity::enrolment::{self, EnrolmentToken};
use bailiwick_identity::foreign::{id_jag, jwt_svid};
use bailiwick_testkit::certificates::{Authority, Wish};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::binding::{Holder, called};
use crate::broker::{Answer, Broker};
use crate::running::Installation;

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// An issuer that nobody here wrote: ES256, as clouds and SPIRE use it.
struct Issuer {
    pair: EcdsaKeyPair,
    kid: &'static str,
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Self { pair: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap(), kid }
    }

    fn jwk(&self, usage: &str) -> Value {
        let point = self.pair.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..65]].map(|n| URL_SAFE_NO_PAD.encode(n));
        json!({ "kty": "EC", "crv": "P-256", "use": usage, "kid": self.kid, "x": x, "y": y })
    }

    fn jwks(&self) -> String {
        json!({ "keys": [self.jwk("sig"), { "kty": "oct", "k": "AAAA", "kid": "never" }] }).to_string()
    }

    fn bundle(&self) -> String {
        json!({ "keys": [self.jwk("jwt-svid")], "spiffe_sequence": 1, "spiffe_refresh_hint": 10 }).to_string()
    }

    fn sign(&self, header: Value, claims: &Value) -> String {
        let header = merged(json!({ "alg": "ES256", "kid": self.kid, "typ": "JWT" }), header);
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn merged(mut to: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            to.as_object_mut().unwrap().remove(name);
        } else {
            to[name] = value.clone();
        }
    }
    to
}

fn now() -> i64 {
    SystemClock::start().now().as_seconds()
}

/// A broker that trusts these keys, in files: of a cluster, of a trust domain, of an identity provider.
async fn broker(kube: &Issuer, spire: &Issuer, idp: &Issuer, dir: &Path) -> Broker {
    let file = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let issuers = format!(
        r#"
[issuers.kube]
issuer = "https://kubernetes.default.svc.cluster.local"
jwks_file = "{}"
[issuers.prod]
issuer = "spiffe://prod.example"
kind = "spiffe"
spiffe_bundle_file = "{}"
[issuers.corp]
issuer = "https://idp.example"
kind = "id_jag"
jwks_file = "{}"
people = {{ 00u1zoe = "zoe" }}
[[agents.scout.proofs]]
issuer = "kube"
claims = {{ sub = "system:serviceaccount:prod:scout", "/kubernetes.io/namespace" = "prod" }}
model = "/kubernetes.io/model"
[[agents.scout.proofs]]
issuer = "prod"
claims = {{ sub = "spiffe://prod.example/ns/prod/sa/*" }}
[[agents.scout.proofs]]
issuer = "corp"
[[agents.other.proofs]]
issuer = "kube"
claims = {{ sub = "system:serviceaccount:prod:other" }}
[[agents.overdue.proofs]]
issuer = "kube"
claims = {{ sub = "system:serviceaccount:prod:overdue" }}
"#,
        file("kube.json", kube.jwks()),
        file("spire.json", spire.bundle()),
        file("idp.json", idp.jwks())
    );
    Broker::start(|text| format!("{text}{issuers}")).await
}

fn kube_claims(broker: &Broker, account: &str, pod: &str) -> Value {
    json!({
        "iss": "https://kubernetes.default.svc.cluster.local", "sub": format!("system:serviceaccount:prod:{account}"),
        "aud": [broker.house.urls.base], "iat": now(), "nbf": now(), "exp": now() + 3600, "jti": "ea28ed49-2e11-4280-9ec5-bc3d1d84661a",
        "kubernetes.io": {
            "namespace": "prod", "pod": { "name": pod, "uid": format!("uid-{pod}") },
            "serviceaccount": { "name": account, "uid": "a087d5a0" }, "warnafter": now() + 3607,
        },
    })
}

fn svid_claims(broker: &Broker, id: &str) -> Value {
    json!({ "sub": id, "aud": [broker.house.urls.token], "iat": now(), "exp": now() + 300 })
}

fn jag_claims(broker: &Broker, jti: &str) -> Value {
    json!({
        "iss": "https://idp.example", "sub": "00u1zoe", "aud": broker.house.urls.base, "client_id": broker.spiffe_id("scout"),
        "jti": jti, "iat": now(), "exp": now() + 300, "resource": broker.house.urls.mcp, "scope": "agent", "email": "zoe@example.org",
    })
}

async fn granted(broker: &Broker, assertion: &str, more: &[(&str, &str)]) -> Answer {
    let mut fields = vec![("grant_type", GRANT), ("assertion", assertion)];
    fields.extend_from_slice(more);
    broker.form("/oauth/token", &fields).await
}

fn error(answer: &Answer) -> String {
    answer.json()["error"].as_str().unwrap_or("none").to_owned()
}

fn token(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

async fn wait_for_the_shop(broker: &Broker) {
    crate::support::until("the shop is listed", || broker.house.registry.load().tool("shop.refund_order").is_some_and(|t| t.callable())).await;
}

async fn opened(broker: &Broker, token: &str, more: Value) -> Answer {
    let asked = merged(json!({ "purpose": "p", "tools": ["shop.show_order"] }), more);
    broker.with(token, Method::POST, "/v1/tasks", Some(asked)).await
}

// ---- workload tokens -----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_opens_a_task_with_its_own_token_and_renews_it_with_the_next_one() {
    let (kube, spire, idp, dir) = (Issuer::new("k"), Issuer::new("s"), Issuer::new("i"), tempfile::tempdir().unwrap());
    let broker = broker(&kube, &spire, &idp, dir.path()).await;
    wait_for_the_shop(&broker).await;
    let of_pod = |pod: &str| kube.sign(json!({}), &kube_claims(&broker, "scout", pod));
    let first = of_pod("a");
    let mcp = broker.house.urls.mcp.clone();
    let agent_token = token(&granted(&broker, &first, &[("resource", &mcp), ("scope", "agent")]).await);
    // It may be used again while it is young: whoever has it may not be able to have another made.
    token(&granted(&broker, &first, &[]).await);
    let task = opened(&broker, &agent_token, json!({})).await;
    assert_eq!(task.status, StatusCode::CREATED, "{task:?}");
    let id = task.json()["task"]["id"].as_str().unwrap().to_owned();
    let client = broker.spiffe_id("scout").to_string();
    let renewed = granted(&broker, &of_pod("a"), &[("task_id", &id), ("client_id", &client)]).await;
    assert_eq!((renewed.status, renewed.json()["task_id"].as_str()), (StatusCode::OK, Some(id.as_str())), "{renewed:?}");
    // Another pod of the same account is another copy.
    assert_eq!(error(&granted(&broker, &of_pod("b"), &[("task_id", &id)]).await), "invalid_grant");
    assert_eq!(error(&granted(&broker, &of_pod("a"), &[("task_id", &id), ("client_id", "spiffe://x/y")]).await), "invalid_grant");
    let metadata = broker.send(Method::GET, "/.well-known/oauth-authorization-server", &[], "").await.json();
    let has = |name: &str, word: &str| metadata[name].as_array().unwrap().contains(&json!(word));
    assert!(has("grant_types_supported", GRANT) && has("token_endpoint_auth_methods_supported", "spiffe_jwt"), "{metadata}");
    assert!(has("authorization_grant_profiles_supported", id_jag::PROFILE) && !metadata.to_string().contains("idp.example"), "{metadata}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workloads_token_that_breaks_one_rule_grants_nothing() {
    let (kube, spire, idp, dir) = (Issuer::new("k"), Issuer::new("s"), Issuer::new("i"), tempfile::tempdir().unwrap());
    let broker = broker(&kube, &spire, &idp, dir.path()).await;
    let claims = |more: Value| merged(kube_claims(&broker, "scout", "a"), more);
    let stranger = Issuer::new("k");
    let none = {
        let unsigned = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"k"}"#), URL_SAFE_NO_PAD.encode(claims(json!({})).to_string()));
        format!("{unsigned}.")
    };
    let cases = [
        ("not a token", "x.y.z".to_owned()),
        ("none", none),
        ("the key of a stranger by the same name", stranger.sign(json!({}), &claims(json!({})))),
        ("the key of another issuer that we trust", spire.sign(json!({ "kid": "s" }), &claims(json!({})))),
        ("a key that nobody has", kube.sign(json!({ "kid": "absent" }), &claims(json!({})))),
        ("a place of keys in the header", kube.sign(json!({ "jku": "http://127.0.0.1:1/keys" }), &claims(json!({})))),
        ("an access token", kube.sign(json!({ "typ": "at+jwt" }), &claims(json!({})))),
        ("another issuer", kube.sign(json!({}), &claims(json!({ "iss": "https://kubernetes.default.svc.cluster.local/" })))),
        ("the issuer of ID-JAGs", kube.sign(json!({}), &claims(json!({ "iss": "https://idp.example" })))),
        ("another audience", kube.sign(json!({}), &claims(json!({ "aud": ["https://kubernetes.default.svc"] })))),
        ("one audience too many", kube.sign(json!({}), &claims(json!({ "aud": [broker.house.urls.base, "https://kubernetes.default.svc"] })))),
        ("expired", kube.sign(json!({}), &claims(json!({ "exp": now() - 60 })))),
        ("too old", kube.sign(json!({}), &claims(json!({ "iat": now() - 3700, "nbf": now() - 3700 })))),
        ("not yet", kube.sign(json!({}), &claims(json!({ "nbf": now() + 300 })))),
        ("another account", kube.sign(json!({}), &claims(json!({ "sub": "system:serviceaccount:prod:stranger" })))),
        ("a longer subject", kube.sign(json!({}), &claims(json!({ "sub": "system:serviceaccount:prod:scout:x" })))),
        ("another namespace", kube.sign(json!({}), &claims(json!({ "kubernetes.io": { "namespace": "test" } })))),
        ("bound to a key that is not shown", kube.sign(json!({}), &claims(json!({ "cnf": { "jkt": "A".repeat(43) } })))),
    ];
    for (what, jwt) in cases {
        assert_eq!(error(&granted(&broker, &jwt, &[]).await), "invalid_grant", "{what}");
    }
    let good = kube.sign(json!({}), &claims(json!({})));
    // A client that says who it is beside it must be the same one.
    let of_other = broker.assertion("other", None);
    let both = [("client_assertion_type", bailiwick_identity::assertion::ASSERTION_TYPE), ("client_assertion", of_other.as_str())];
    assert_eq!(error(&granted(&broker, &good, &both).await), "invalid_grant");
    assert_eq!(error(&granted(&broker, &good, &[("scope", "admin")]).await), "invalid_scope");
    assert_eq!(error(&broker.form("/oauth/token", &[("grant_type", GRANT)]).await), "invalid_request");
    let overdue = kube.sign(json!({}), &kube_claims(&broker, "overdue", "a"));
    assert_eq!(error(&granted(&broker, &overdue, &[]).await), "unauthorized_client");
    token(&granted(&broker, &good, &[]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_an_issuer_proves_a_component_where_its_proof_says_so_and_a_task_is_the_components() {
    let (kube, dir) = (Issuer::new("k"), tempfile::tempdir().unwrap());
    let file = dir.path().join("kube.json");
    std::fs::write(&file, kube.jwks()).unwrap();
    let more = format!(
        "[agents.scout.components.reader]\npurpose = \"reads\"\ntools = [\"shop.show_order\"]\n[issuers.kube]\n\
         issuer = \"https://kubernetes.default.svc.cluster.local\"\njwks_file = \"{}\"\n\
         [[agents.scout.proofs]]\nissuer = \"kube\"\nclaims = {{ sub = \"system:serviceaccount:prod:scout\" }}\n\
         [[agents.scout.proofs]]\nissuer = \"kube\"\ncomponent = \"reader\"\nclaims = {{ sub = \"system:serviceaccount:prod:reader\" }}\n",
        file.display()
    );
    let broker = Broker::start(|text| format!("{text}{more}")).await;
    wait_for_the_shop(&broker).await;
    for (account, component) in [("reader", json!("reader")), ("scout", Value::Null)] {
        let claims = kube_claims(&broker, account, "a");
        let given = token(&granted(&broker, &kube.sign(json!({}), &claims), &[]).await);
        let task = opened(&broker, &given, json!({})).await;
        assert_eq!((task.status, &task.json()["task"]["component"]), (StatusCode::CREATED, &component), "{task:?}");
        // The component has its own tools, and not all those of its agent.
        let wide = opened(&broker, &given, json!({ "tools": ["shop.refund_order"] })).await;
        assert_eq!(wide.status.is_success(), component.is_null(), "{wide:?}");
    }
}

// ---- SPIFFE --------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jwt_svid_proves_a_client_wherever_one_proves_itself_and_again_until_it_expires() {
    let (kube, spire, idp, dir) = (Issuer::new("k"), Issuer::new("s"), Issuer::new("i"), tempfile::tempdir().unwrap());
    let broker = broker(&kube, &spire, &idp, dir.path()).await;
    let svid = |more: Value| spire.sign(json!({}), &merged(svid_claims(&broker, "spiffe://prod.example/ns/prod/sa/scout"), more));
    let client = async |svid: &str, target: &str, more: &[(&str, &str)]| {
        let mut fields = vec![("client_assertion_type", jwt_svid::ASSERTION_TYPE), ("client_assertion", svid)];
        fields.extend_from_slice(more);
        broker.form(target, &fields).await
    };
    let good = svid(json!({ "jti": "again" }));
    let grant = [("grant_type", "client_credentials")];
    let first = token(&client(&good, "/oauth/token", &grant).await);
    token(&client(&good, "/oauth/token", &grant).await);
    token(&granted(&broker, &good, &[]).await);
    let known = client(&good, "/oauth/introspect", &[("token", &first)]).await.json();
    assert_eq!((known["active"].as_bool(), known["client_id"].as_str()), (Some(true), Some(broker.spiffe_id("scout").as_str())));
    // The copy that it is, it says itself, where its SVID does not: so it can renew a task of its own.
    let (copy, bad) = (InstanceId::new(Timestamp::from_millis(1), random()).to_string(), "inst_x");
    let said = |id| [("grant_type", "client_credentials"), ("bailiwick_instance", id)];
    token(&client(&good, "/oauth/token", &said(&copy)).await);
    assert_eq!(error(&client(&good, "/oauth/token", &said(bad)).await), "invalid_request");
    for (what, bad) in [
        ("another trust domain", svid(json!({ "sub": "spiffe://test.example/ns/prod/sa/scout" }))),
        ("our own trust domain, which issues none here", svid(json!({ "sub": broker.spiffe_id("scout") }))),
        ("a longer path", svid(json!({ "sub": "spiffe://prod.example/ns/prod/sa/scout/x" }))),
        ("no SPIFFE ID", svid(json!({ "sub": "scout" }))),
        ("another audience", svid(json!({ "aud": ["https://other.example"] }))),
        ("one audience too many", svid(json!({ "aud": [broker.house.urls.base, "https://other.example"] }))),
        ("expired", svid(json!({ "exp": now() - 60 }))),
        ("without an end", svid(json!({ "exp": null }))),
        ("a life of a year", svid(json!({ "exp": now() + 31_536_000 }))),
        ("another issuer's key", kube.sign(json!({}), &svid_claims(&broker, "spiffe://prod.example/ns/prod/sa/scout"))),
        ("a workload's token", kube.sign(json!({}), &kube_claims(&broker, "scout", "a"))),
    ] {
        assert_eq!(error(&client(&bad, "/oauth/token", &grant).await), "invalid_client", "{what}");
    }
    let other = [("grant_type", "client_credentials"), ("client_id", "spiffe://bailiwick.local/agent/other")];
    assert_eq!(error(&client(&good, "/oauth/token", &other).await), "invalid_client");
    // And it is no `private_key_jwt`.
    assert_eq!(error(&broker.token_with(&good, &[]).await), "invalid_client");
}

// ---- ID-JAG --------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_jag_lets_its_client_act_for_its_person_and_for_nobody_else() {
    let (kube, spire, idp, dir) = (Issuer::new("k"), Issuer::new("s"), Issuer::new("i"), tempfile::tempdir().unwrap());
    let broker = broker(&kube, &spire, &idp, dir.path()).await;
    wait_for_the_shop(&broker).await;
    let with = async |agent: &str, jag: &str| {
        let assertion = broker.assertion(agent, None);
        let fields = [("client_assertion_type", bailiwick_identity::assertion::ASSERTION_TYPE), ("client_assertion", assertion.as_str())];
        granted(&broker, jag, &fields).await
    };
    let jag = |jti: &str, more: Value| idp.sign(json!({ "typ": id_jag::TYP }), &merged(jag_claims(&broker, jti), more));
    let good = jag("jag-number-1", json!({}));
    // Neither without the client's own proof, nor with another's.
    assert_eq!(error(&granted(&broker, &good, &[]).await), "invalid_client");
    assert_eq!(error(&with("other", &good).await), "invalid_grant");
    let agent_token = token(&with("scout", &good).await);
    for_zoe_alone(&broker, &agent_token).await;
    assert_eq!(error(&with("scout", &good).await), "invalid_grant", "a replay");
    let incidents = broker.house.store.incidents(10).await.unwrap();
    assert!(incidents.iter().any(|i| i.kind == "assertion_replayed" && i.document.contains("ID-JAG")), "{incidents:?}");
    for (n, (what, more, error_of)) in [
        ("another type", json!({}), "invalid_grant"),
        ("a stranger", json!({ "sub": "00u1ana" }), "invalid_grant"),
        ("another client", json!({ "client_id": broker.spiffe_id("other") }), "invalid_grant"),
        ("our token endpoint as audience", json!({ "aud": broker.house.urls.token }), "invalid_grant"),
        ("two audiences", json!({ "aud": [broker.house.urls.base, broker.house.urls.base] }), "invalid_grant"),
        ("too long a life", json!({ "exp": now() + 4000 }), "invalid_grant"),
        ("too old", json!({ "iat": now() - 700 }), "invalid_grant"),
        ("without an id", json!({ "jti": null }), "invalid_grant"),
        ("another actor", json!({ "act": { "sub": "somebody" } }), "invalid_grant"),
        ("details that we do not know", json!({ "authorization_details": [{ "type": "x" }] }), "invalid_grant"),
        ("another resource", json!({ "resource": "https://other.example/mcp" }), "invalid_target"),
        ("a part of ours", json!({ "resource": format!("{}/s/shop", broker.house.urls.mcp) }), "invalid_target"),
        ("another scope", json!({ "scope": "mail.read" }), "invalid_scope"),
        ("bound to a key that is not shown", json!({ "cnf": { "jkt": "A".repeat(43) } }), "invalid_grant"),
    ]
    .into_iter()
    .enumerate()
    {
        let claims = merged(jag_claims(&broker, &format!("jag-refused-{n}")), more);
        let typ = if n == 0 { "JWT" } else { id_jag::TYP };
        assert_eq!(error(&with("scout", &idp.sign(json!({ "typ": typ }), &claims)).await), error_of, "{what}");
    }
    // An identity provider that says who people are does not say what workloads are, and the reverse.
    let of_kube = kube.sign(
        json!({ "typ": id_jag::TYP }),
        &merged(jag_claims(&broker, "jag-of-kube"), json!({ "iss": "https://kubernetes.default.svc.cluster.local" })),
    );
    assert_eq!(error(&with("scout", &of_kube).await), "invalid_grant");
}

async fn for_zoe_alone(broker: &Broker, agent_token: &str) {
    let introspected = broker.client("/oauth/introspect", &broker.assertion("scout", None), &[("token", agent_token)]).await.json();
    assert_eq!((introspected["sub"].as_str(), introspected["scope"].as_str()), (Some("zoe"), Some("agent")), "{introspected}");
    assert!(introspected["act"]["sub"].as_str().unwrap().starts_with(broker.spiffe_id("scout").as_str()), "{introspected}");
    let refused = opened(broker, agent_token, json!({ "on_behalf_of": "ana" })).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::FORBIDDEN, "policy.denied"));
    let for_zoe = opened(broker, agent_token, json!({})).await;
    assert_eq!((for_zoe.status, for_zoe.json()["task"]["subject"].as_str()), (StatusCode::CREATED, Some("zoe")), "{for_zoe:?}");
    assert_eq!(opened(broker, agent_token, json!({ "on_behalf_of": "zoe" })).await.status, StatusCode::CREATED);
    // A task that the agent does for its owner is none of this token's.
    let own = broker.agent_token("scout", None).await;
    let of_ana = opened(broker, &own, json!({})).await.json()["task"]["id"].as_str().unwrap().to_owned();
    let looked = async |token: &str| broker.with(token, Method::GET, &format!("/v1/tasks/{of_ana}"), None).await.status;
    assert_eq!((looked(&own).await, looked(agent_token).await), (StatusCode::OK, StatusCode::NOT_FOUND));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_an_agent_has_for_one_person_drives_no_task_of_another_by_whichever_door() {
    let (kube, spire, idp, dir) = (Issuer::new("k"), Issuer::new("s"), Issuer::new("i"), tempfile::tempdir().unwrap());
    let broker = broker(&kube, &spire, &idp, dir.path()).await;
    wait_for_the_shop(&broker).await;
    // One running copy: nothing but the person tells the two tokens apart.
    let copy = InstanceId::new(Timestamp::from_millis(1), random());
    let own = broker.agent_token("scout", Some(copy)).await;
    let assertion = broker.assertion("scout", Some(copy));
    let client = [("client_assertion_type", bailiwick_identity::assertion::ASSERTION_TYPE), ("client_assertion", assertion.as_str())];
    let jag = idp.sign(json!({ "typ": id_jag::TYP }), &jag_claims(&broker, "jag-for-zoe"));
    let for_zoe = token(&granted(&broker, &jag, &client).await);
    let task = async |token: &str| opened(&broker, token, json!({})).await.json()["task"]["id"].as_str().unwrap().to_owned();
    let (of_ana, of_zoe) = (task(&own).await, task(&for_zoe).await);
    let driven =
        async |token: &str, task: &str| called(&broker, &format!("/mcp/t/{task}"), &[("authorization", &format!("Bearer {token}"))]).await.status;
    assert_eq!(driven(&for_zoe, &of_ana).await, StatusCode::UNAUTHORIZED);
    for (token, task) in [(&own, &of_ana), (&own, &of_zoe), (&for_zoe, &of_zoe)] {
        assert_eq!(driven(token, task).await, StatusCode::OK);
    }
    let through = |task: &str| json!({ "task": task, "tool": "shop.show_order", "arguments": { "order": "O-2008" } });
    for tool in ["task_call", "task_tools", "task_complete"] {
        let answer = broker.call(&for_zoe, tool, through(&of_ana)).await;
        assert!(answer.to_string().contains("task.absent"), "{tool}: {answer}");
    }
    assert_eq!(broker.with(&for_zoe, Method::POST, &format!("/v1/tasks/{of_ana}/complete"), None).await.status, StatusCode::NOT_FOUND);
    // It is there, and open, for whoever may have it.
    for (token, task) in [(&own, &of_ana), (&for_zoe, &of_zoe)] {
        let answer = broker.call(token, "task_call", through(task)).await;
        assert!(answer["result"]["isError"] == json!(false), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_that_is_bound_to_a_key_asks_about_tokens_and_revokes_them_with_this_key_only() {
    let (kube, spire, idp, dir) = (Issuer::new("k"), Issuer::new("s"), Issuer::new("i"), tempfile::tempdir().unwrap());
    let broker = broker(&kube, &spire, &idp, dir.path()).await;
    let (holder, thief) = (Holder::new(), Holder::new());
    let cnf = json!({ "cnf": { "jkt": holder.key.id().to_string() } });
    let svid = spire.sign(json!({}), &merged(svid_claims(&broker, "spiffe://prod.example/ns/prod/sa/scout"), cnf));
    let victim = broker.agent_token("scout", None).await;
    let fields = [("client_assertion_type", jwt_svid::ASSERTION_TYPE), ("client_assertion", svid.as_str()), ("token", victim.as_str())];
    for target in ["/oauth/introspect", "/oauth/revoke"] {
        for answer in [broker.form(target, &fields).await, thief.form(&broker, target, &fields).await] {
            assert_eq!((answer.status, error(&answer).as_str()), (StatusCode::BAD_REQUEST, "invalid_grant"), "{target}: {answer:?}");
            assert!(answer.json().get("active").is_none());
        }
    }
    assert_eq!(broker.with(&victim, Method::GET, "/v1/tasks", None).await.status, StatusCode::OK, "nothing was revoked");
    let known = holder.form(&broker, "/oauth/introspect", &fields).await.json();
    assert_eq!((known["active"].as_bool(), known["client_id"].as_str()), (Some(true), Some(broker.spiffe_id("scout").as_str())), "{known}");
    assert_eq!(holder.form(&broker, "/oauth/revoke", &fields).await.status, StatusCode::OK);
    assert_eq!(broker.with(&victim, Method::GET, "/v1/tasks", None).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_tokens_that_are_shown_side_by_side_each_demands_the_key_that_it_is_bound_to() {
    let (kube, spire, idp, dir) = (Issuer::new("k"), Issuer::new("s"), Issuer::new("i"), tempfile::tempdir().unwrap());
    let broker = broker(&kube, &spire, &idp, dir.path()).await;
    let (holder, thief) = (Holder::new(), Holder::new());
    let bound = |to: &Holder| json!({ "cnf": { "jkt": to.key.id().to_string() } });
    // The client's own proof, stolen from where its key is not.
    let stolen = spire.sign(json!({}), &merged(svid_claims(&broker, "spiffe://prod.example/ns/prod/sa/scout"), bound(&holder)));
    let jag = |jti: &str, more: Value| idp.sign(json!({ "typ": id_jag::TYP }), &merged(jag_claims(&broker, jti), more));
    let asks = async |who: &Holder, assertion: &str| {
        let proof = [("client_assertion_type", jwt_svid::ASSERTION_TYPE), ("client_assertion", stolen.as_str())];
        who.form(&broker, "/oauth/token", &[&[("grant_type", GRANT), ("assertion", assertion)], &proof[..]].concat()).await
    };
    let pod = kube.sign(json!({}), &kube_claims(&broker, "scout", "pod-1"));
    for (what, assertion) in [
        ("a leave that is bound to the thief's key", jag("jag-of-thief", bound(&thief))),
        ("a leave that is bound to nothing", jag("jag-of-nobody", json!({}))),
        ("a pod's token beside it", pod.clone()),
    ] {
        assert_eq!(error(&asks(&thief, &assertion).await), "invalid_grant", "{what}");
    }
    // None of that used anything up.
    for assertion in [jag("jag-of-nobody-2", json!({})), jag("jag-of-holder", bound(&holder)), pod] {
        token(&asks(&holder, &assertion).await);
    }
}

// ---- keys that are fetched -----------------------------------------------------------------------------------------------

/// An identity provider on this machine, whose documents can be changed.
struct Provider {
    address: SocketAddr,
    keys: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    /// `issuer`: what its discovery document says it is, if not itself.
    async fn start(keys: String, issuer: Option<&'static str>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (keys, asked) = (Arc::new(Mutex::new(keys)), Arc::new(AtomicUsize::new(0)));
        let (served, counted) = (Arc::clone(&keys), Arc::clone(&asked));
        let base = format!("http://{address}/tenant");
        let document = json!({ "issuer": issuer.map_or(base.clone(), str::to_owned), "jwks_uri": format!("{base}/keys") }).to_string();
        let router =
            axum::Router::new().route("/tenant/.well-known/openid-configuration", axum::routing::get(move || async move { document })).route(
                "/tenant/keys",
                axum::routing::get(move || {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let text = served.lock().unwrap().clone();
                    async move { text }
                }),
            );
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, keys, asked }
    }

    fn issuer(&self) -> String {
        format!("http://{}/tenant", self.address)
    }
}

async fn broker_of(issuer: &str) -> Broker {
    let proofs = format!(
        "[issuers.idp]\nissuer = \"{issuer}\"\ndiscovery = true\n[[agents.scout.proofs]]\nissuer = \"idp\"\n\
         claims = {{ sub = \"repo:acme/app:ref:refs/heads/*\", repository_owner = \"acme\" }}\ninstance = \"run_id\"\n"
    );
    Broker::start(|text| format!("{text}{proofs}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_discovered_and_a_new_one_is_looked_for_once_in_a_while() {
    let (old, new) = (Issuer::new("2026-10"), Issuer::new("2026-11"));
    let provider = Provider::start(old.jwks(), None).await;
    let broker = broker_of(&provider.issuer()).await;
    let claims = json!({
        "iss": provider.issuer(), "sub": "repo:acme/app:ref:refs/heads/main", "aud": broker.house.urls.base, "iat": now(), "exp": now() + 300,
        "repository": "acme/app", "repository_owner": "acme", "run_id": "6892011", "run_attempt": "1", "jti": "x",
    });
    token(&granted(&broker, &old.sign(json!({}), &claims), &[]).await);
    let before = provider.asked.load(Ordering::SeqCst);
    *provider.keys.lock().unwrap() = new.jwks();
    // Whatever strangers present, the issuer is not asked again at once: it was a moment ago.
    for _ in 0..5 {
        assert_eq!(error(&granted(&broker, &new.sign(json!({}), &claims), &[]).await), "invalid_grant");
    }
    assert_eq!(provider.asked.load(Ordering::SeqCst), before);
    tokio::time::sleep(std::time::Duration::from_millis(10_100)).await;
    token(&granted(&broker, &new.sign(json!({}), &claims), &[]).await);
    assert_eq!(error(&granted(&broker, &old.sign(json!({}), &claims), &[]).await), "invalid_grant", "a key that was taken back");
    assert_eq!(provider.asked.load(Ordering::SeqCst), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_discovery_document_of_another_issuer_gives_no_keys() {
    let issuer = Issuer::new("k");
    let provider = Provider::start(issuer.jwks(), Some("https://other.example")).await;
    let broker = broker_of(&provider.issuer()).await;
    let claims = json!({
        "iss": provider.issuer(), "sub": "repo:acme/app:ref:refs/heads/main", "aud": broker.house.urls.base, "iat": now(), "exp": now() + 300,
        "repository_owner": "acme",
    });
    assert_eq!(error(&granted(&broker, &issuer.sign(json!({}), &claims), &[]).await), "invalid_grant");
    assert_eq!(provider.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_comes_by_https_from_a_place_that_the_given_authority_vouches_for_and_from_no_other() {
    let (spire, dir) = (Issuer::new("s"), tempfile::tempdir().unwrap());
    let authority = Authority::new("tests").unwrap();
    let (ours, theirs) = (dir.path().join("ours.pem"), dir.path().join("theirs.pem"));
    std::fs::write(&ours, authority.root_pem()).unwrap();
    std::fs::write(&theirs, Authority::new("others").unwrap().root_pem()).unwrap();
    let leaf = authority.leaf(&Wish { addresses: &[[127, 0, 0, 1]], until: 3600, ..Wish::default() }).unwrap();
    let certificate = rustls::pki_types::CertificateDer::from(leaf.certificate);
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(leaf.key.into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate], key).unwrap()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bundle = spire.bundle();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, body) = (acceptor.clone(), bundle.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(tcp).await else { return };
                let _ = stream.read(&mut [0; 2048]).await;
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    let proofs = |ca: &Path| {
        format!(
            "[issuers.prod]\nissuer = \"spiffe://prod.example\"\nkind = \"spiffe\"\nspiffe_bundle_url = \"https://{address}/bundle.json\"\n\
             ca = \"{}\"\n[[agents.scout.proofs]]\nissuer = \"prod\"\nclaims = {{ sub = \"spiffe://prod.example/scout\" }}\n",
            ca.display()
        )
    };
    for (ca, outcome) in [(&ours, "none"), (&theirs, "invalid_grant")] {
        let broker = Broker::start(|text| format!("{text}{}", proofs(ca))).await;
        let svid = spire.sign(json!({}), &svid_claims(&broker, "spiffe://prod.example/scout"));
        assert_eq!(error(&granted(&broker, &svid, &[]).await), outcome, "{}", ca.display());
    }
}

#[tokio::test]
async fn a_broker_whose_file_of_keys_is_none_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    bailiwick::place::prepare(&data).unwrap();
    std::fs::write(dir.path().join("keys.json"), r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#).unwrap();
    let text = "[listen]\naddress = \"127.0.0.1:0\"\n[issuers.x]\nissuer = \"https://a\"\njwks_file = \"keys.json\"\n";
    let config = bailiwick::config::Config::parse("t", text, dir.path()).unwrap();
    let refused = bailiwick::house::House::open(config, &data, Arc::new(SystemClock::start())).await.unwrap_err().to_string();
    assert!(refused.contains("issuer `x`") && refused.contains("no key in the set"), "{refused}");
}

// ---- enrolment -----------------------------------------------------------------------------------------------------------

async fn given(broker: &Broker, who: &str, agent: &str) -> Answer {
    broker.by(who, Method::POST, &format!("/v1/agents/{agent}/enrolments"), Some(json!({ "minutes": 5 }))).await
}

async fn enrolled(broker: &Broker, text: &str, key: &SigningKey, audience: &str) -> Answer {
    let token = EnrolmentToken::parse(text).unwrap();
    let proof = enrolment::make(key, &token, audience, SystemClock::start().now()).unwrap();
    let body = json!({ "token": text, "key": key.public().jwk(), "proof": proof });
    broker.send(Method::POST, "/v1/enrol", &[("content-type", "application/json")], body.to_string()).await
}

/// Asks for a token with a key that is not the agent's in a file.
async fn by_key(broker: &Broker, key: &SigningKey, copy: Option<InstanceId>) -> Answer {
    let now = SystemClock::start().now();
    let (client, jti) = (broker.spiffe_id("scout"), bailiwick_core::AssertionId::new(now, random()));
    let statement = bailiwick_identity::assertion::Statement { client: &client, audience: &broker.house.urls.base, jti, instance: copy, model: None };
    broker.token_with(&bailiwick_identity::assertion::make(key, &statement, now).unwrap(), &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_exchanges_a_one_time_token_for_a_key_of_its_own_once() {
    let broker = Broker::start(|text| text).await;
    let [(first, _), (second, _)] = [(); 2].map(|()| SigningKey::generate().unwrap());
    for (who, status) in [("ana", StatusCode::CREATED), ("ops", StatusCode::CREATED), ("ben", StatusCode::FORBIDDEN), ("zoe", StatusCode::FORBIDDEN)]
    {
        assert_eq!(given(&broker, who, "scout").await.status, status, "{who}");
    }
    assert_eq!(given(&broker, "ana", "other").await.status, StatusCode::FORBIDDEN, "not hers");
    let long = broker.by("ops", Method::POST, "/v1/agents/scout/enrolments", Some(json!({ "minutes": 61 }))).await;
    assert_eq!(long.status, StatusCode::BAD_REQUEST);
    let text = given(&broker, "ops", "scout").await.json()["token"].as_str().unwrap().to_owned();
    let base = broker.house.urls.base.clone();
    // Whoever fails to prove the key by mistake can try again; a proof for another broker is none.
    assert_eq!(enrolled(&broker, &text, &first, "https://other.example").await.status, StatusCode::UNAUTHORIZED);
    let of_another = broker.send(
        Method::POST,
        "/v1/enrol",
        &[("content-type", "application/json")],
        json!({
            "token": text, "key": second.public().jwk(),
            "proof": enrolment::make(&first, &EnrolmentToken::parse(&text).unwrap(), &base, SystemClock::start().now()).unwrap(),
        })
        .to_string(),
    );
    assert_eq!(of_another.await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(by_key(&broker, &first, None).await.status, StatusCode::UNAUTHORIZED);
    let told = enrolled(&broker, &text, &first, &base).await;
    assert_eq!((told.status, told.json()["client_id"].as_str()), (StatusCode::OK, Some(broker.spiffe_id("scout").as_str())), "{told:?}");
    token(&by_key(&broker, &first, None).await);
    // The machine whose answer was lost asks again, and nothing is done twice; a second machine is an incident.
    assert_eq!(enrolled(&broker, &text, &first, &base).await.status, StatusCode::OK);
    assert_eq!(enrolled(&broker, &text, &second, &base).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(by_key(&broker, &second, None).await.status, StatusCode::UNAUTHORIZED);
    let incidents = broker.house.store.incidents(10).await.unwrap();
    assert_eq!(incidents.iter().filter(|i| i.kind == "enrolment_replayed").count(), 1, "{incidents:?}");
    let unknown = EnrolmentToken::new(&random());
    assert_eq!(enrolled(&broker, unknown.as_str(), &second, &base).await.status, StatusCode::UNAUTHORIZED);
    // One key is not two agents'.
    let again = given(&broker, "ops", "other").await.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(enrolled(&broker, &again, &first, &base).await.status, StatusCode::CONFLICT);
    // The store has no token, only its digest.
    for name in ["bailiwick.sqlite", "bailiwick.sqlite-wal"] {
        let bytes = std::fs::read(broker.data.join(name)).unwrap_or_default();
        assert!(!bytes.windows(text.len()).any(|w| w == text.as_bytes()), "{name} holds a token");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_machines_with_one_token_at_the_same_time_one_is_registered() {
    let broker = Broker::start(|text| text).await;
    let text = given(&broker, "ops", "scout").await.json()["token"].as_str().unwrap().to_owned();
    let base = broker.house.urls.base.clone();
    let keys: Vec<SigningKey> = (0..8).map(|_| SigningKey::generate().unwrap().0).collect();
    let all = futures_util::future::join_all(keys.iter().map(|key| enrolled(&broker, &text, key, &base))).await;
    assert_eq!(all.iter().filter(|answer| answer.status == StatusCode::OK).count(), 1, "{all:?}");
    let listed = broker.by("ana", Method::GET, "/v1/agents/scout/keys", None).await.json();
    let sources: Vec<&str> = listed["keys"].as_array().unwrap().iter().map(|k| k["source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["file", "enrolment"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_proves_nothing_more_and_what_was_opened_under_it_ends() {
    let broker = Broker::ready().await;
    let base = broker.house.urls.base.clone();
    let (key, _) = SigningKey::generate().unwrap();
    let text = given(&broker, "ana", "scout").await.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(enrolled(&broker, &text, &key, &base).await.status, StatusCode::OK);
    let copy = || InstanceId::new(Timestamp::from_millis(1), random());
    let (theirs, mine) = (token(&by_key(&broker, &key, Some(copy())).await), broker.agent_token("scout", Some(copy())).await);
    let (stolen, stolen_token) = broker.task(&theirs).await;
    let (_, own_token) = broker.task(&mine).await;
    let id = key.id().to_string();
    let path = format!("/v1/agents/scout/keys/{id}/revoke");
    assert_eq!(broker.by("ben", Method::POST, &path, None).await.status, StatusCode::FORBIDDEN);
    let left = broker.by("ana", Method::POST, &path, None).await;
    assert_eq!((left.status, left.json()["keys"].as_array().unwrap().len()), (StatusCode::OK, 1), "{left:?}");
    assert_eq!(broker.by("ana", Method::POST, &path, None).await.status, StatusCode::NOT_FOUND, "it is gone");
    assert_eq!(by_key(&broker, &key, None).await.status, StatusCode::UNAUTHORIZED);
    let seen = broker.by("ana", Method::GET, &format!("/v1/tasks/{}", stolen["id"].as_str().unwrap()), None).await.json();
    assert_eq!((seen["state"].as_str(), seen["reason"].as_str()), (Some("closed"), Some("revoked")));
    let asks = async |token: &str| broker.with(token, Method::GET, "/v1/tasks", None).await.status;
    assert_eq!((asks(&theirs).await, asks(&stolen_token).await), (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED));
    // The task of a copy that proved itself with another key goes on.
    assert_eq!(asks(&own_token).await, StatusCode::OK);
    // The token was spent, and brings nothing back.
    assert_eq!(enrolled(&broker, &text, &key, &base).await.status, StatusCode::UNAUTHORIZED);
}

#[test]
fn a_machine_that_has_nothing_but_a_token_in_a_file_connects_also_after_the_broker_started_anew() {
    let mut broker = Installation::of_two_people();
    let given = broker.done(&["agent", "enrol", "assistant", "--as", "ana"]);
    let machine = tempfile::tempdir().unwrap();
    let (file, data) = (machine.path().join("token"), machine.path().join("data"));
    std::fs::write(&file, &given).unwrap();
    let url = |broker: &Installation| {
        let endpoint: Value = serde_json::from_slice(&std::fs::read(broker.data().join("endpoint.json")).unwrap()).unwrap();
        endpoint["url"].as_str().unwrap().to_owned()
    };
    let on_the_machine = |broker: &Installation, args: &[&str]| {
        let mut command = broker.command(args);
        command.env("BAILIWICK_DATA_DIR", &data).env("BAILIWICK_URL", url(broker)).stdin(std::process::Stdio::null());
        command.output().unwrap()
    };
    let connect = ["connect", "--agent", "assistant", "--enrol", file.to_str().unwrap()];
    let connected = on_the_machine(&broker, &connect);
    assert!(connected.status.success(), "{}", crate::running::said(&connected));
    assert!(crate::running::said(&connected).contains("this machine is spiffe://bailiwick.local/agent/assistant"));
    // The configuration of a host starts it with the same arguments each time.
    assert!(on_the_machine(&broker, &connect).status.success());
    let opened = on_the_machine(&broker, &["token", "--agent", "assistant", "--json"]);
    assert!(opened.status.success(), "{}", crate::running::said(&opened));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(data.join("agents/assistant.key.pem")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let keys = broker.json(&["agent", "keys", "assistant", "--as", "ana"]);
    let enrolled = keys["keys"].as_array().unwrap().iter().find(|k| k["source"] == "enrolment").unwrap()["id"].as_str().unwrap().to_owned();
    assert!(broker.stop());
    let broker = broker.up(&[]);
    assert!(on_the_machine(&broker, &["token", "--agent", "assistant"]).status.success());
    broker.done(&["agent", "revoke-key", "assistant", &enrolled, "--as", "ana"]);
    assert!(!on_the_machine(&broker, &["token", "--agent", "assistant"]).status.success());
}
