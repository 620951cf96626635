//! Tests of every kind of token that is taken, by one table of kinds: what none of them may let pass, and no one of them for another.
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use bailiwick_core::{InstanceId, SessionId, TaskId, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::foreign::{self, KeySet, id_jag, jwt_svid, oidc};
use crate::oauth::Scope;
use crate::token::{Acting, Purpose, Statement};
use crate::{Algorithm, Issuer, ProofError, PublicKey, SigningKey, Verifier, assertion, dpop, enrolment, person, secevent, sign_in};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const AT: i64 = 1_800_000_000;
/// We, as an authorization server; our resource; and as a provider of people knows us.
const US: &str = "https://broker.example";
const MCP: &str = "https://broker.example/mcp";
const CLIENT: &str = "bailiwick";
/// Others: an issuer of workloads' tokens and ID-JAGs, a provider of people, a trust domain.
const THEM: &str = "https://issuer.example";
const LOGIN: &str = "https://login.example";
const DOMAIN: &str = "spiffe://prod.example";
const AGENT: &str = "spiffe://example.org/agent/planner";
const AGE: Duration = Duration::from_secs(600);
const MAX_AGE: Duration = Duration::from_secs(3600);
const NONCE: &str = "n-0123456789";
const ALL: &[Algorithm] = &[Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256];

type Judge = fn(&str, &[PublicKey], Timestamp) -> Result<(), String>;

/// One kind of token, with a good one of it.
struct Kind {
    name: &'static str,
    typ: &'static str,
    claims: Value,
    /// The most bytes of it that are looked at.
    limit: usize,
    judge: Judge,
    /// Where its issuer stands, if it names one, and where its audience does.
    issuer: Option<&'static str>,
    audience: Option<&'static str>,
    /// It may be for others as well.
    shared: bool,
    /// Claims of time: the last good value and the first bad one, in seconds from now.
    bounds: &'static [(&'static str, i64, i64)],
}

/// A key, by which tokens are signed that look good.
struct Signer {
    edwards: SigningKey,
    curve: EcdsaKeyPair,
}

impl Signer {
    fn new() -> Self {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let curve = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        Self { edwards: SigningKey::generate().unwrap().0, curve }
    }

    /// The standard for JWT-SVIDs knows no Ed25519.
    fn algorithm(kind: &Kind) -> &'static str {
        if is_svid(kind) { "ES256" } else { "EdDSA" }
    }

    fn public(&self, kind: &Kind) -> PublicKey {
        if Self::algorithm(kind) == "EdDSA" {
            return self.edwards.public().clone();
        }
        let point = self.curve.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..65]].map(|n| URL_SAFE_NO_PAD.encode(n));
        PublicKey::from_jwk(&json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y })).unwrap()
    }

    fn header(&self, kind: &Kind) -> Value {
        let public = self.public(kind);
        let mut header = json!({ "typ": kind.typ, "alg": Self::algorithm(kind) });
        if kind.typ == "dpop+jwt" {
            header["jwk"] = public.jwk();
        } else {
            header["kid"] = json!(public.id().to_string());
        }
        header
    }

    /// A token of exactly these texts, signed.
    fn sign(&self, kind: &Kind, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = if Self::algorithm(kind) == "EdDSA" {
            self.edwards.sign(signed.as_bytes()).unwrap()
        } else {
            self.curve.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec()
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// How a token is judged by a verifier that believes this key.
    fn judged(&self, kind: &Kind, header: &Value, claims: &Value) -> Result<(), String> {
        self.texts(kind, &header.to_string(), &claims.to_string())
    }

    fn texts(&self, kind: &Kind, header: &str, claims: &str) -> Result<(), String> {
        (kind.judge)(&self.sign(kind, header, claims), &[self.public(kind)], NOW)
    }

    fn with_claims(&self, kind: &Kind, more: Value) -> Result<(), String> {
        self.judged(kind, &self.header(kind), &merged(kind.claims.clone(), more))
    }

    fn with_header(&self, kind: &Kind, more: Value) -> Result<(), String> {
        self.judged(kind, &merged(self.header(kind), more), &kind.claims)
    }
}

fn is_svid(kind: &Kind) -> bool {
    kind.name.starts_with("a JWT-SVID")
}

/// Null takes a member away.
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

fn said<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<(), String> {
    result.map(drop).map_err(|error| error.to_string())
}

fn is_refused(result: Result<(), String>, for_one_of: &[ProofError], what: &str) {
    let why = result.expect_err(what);
    assert!(for_one_of.iter().any(|error| error.to_string() == why), "{what}: {why}, not one of {for_one_of:?}");
}

fn set(keys: &[PublicKey]) -> KeySet {
    KeySet::jwks(crate::jwks(keys).to_string().as_bytes()).unwrap()
}

fn ours() -> Vec<String> {
    assertion::audiences(US, "https://broker.example/oauth/token")
}

fn rules<'a>(issuer: &'a str, audiences: &'a [String]) -> foreign::Rules<'a> {
    foreign::Rules { issuer, audiences, age_max: AGE }
}

fn enrolment_token() -> enrolment::EnrolmentToken {
    enrolment::EnrolmentToken::new(&[7; 32])
}

fn access_token() -> Kind {
    let what = Statement {
        agent: "planner".parse().unwrap(),
        instance: InstanceId::new(NOW, [3; 10]),
        scope: Scope::tools(),
        acting: Acting::default(),
        purpose: Purpose::Task { task: TaskId::new(NOW, [5; 10]), subject: "alice@corp".parse().unwrap(), actors: Vec::new() },
        audience: MCP.to_owned(),
        jti: SessionId::new(NOW, [4; 10]),
        confirmation: None,
    };
    let issuer = Issuer::new(US.to_owned(), "example.org".parse().unwrap(), SigningKey::generate().unwrap().0);
    let token = issuer.issue(&what, NOW, Duration::from_secs(300)).unwrap().token;
    Kind {
        name: "an access token",
        typ: "at+jwt",
        claims: serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap(),
        limit: 8192,
        judge: |token, keys, now| said(Verifier::new(US.to_owned(), "example.org".parse().unwrap(), keys.to_vec()).verify(token, MCP, now)),
        issuer: Some(US),
        audience: Some(MCP),
        shared: false,
        bounds: &[("exp", -4, -5), ("exp", 3600, 3601), ("nbf", 5, 6), ("iat", 5, 6)],
    }
}

/// What clients and people sign themselves.
fn own_proofs() -> [Kind; 4] {
    let request = json!({ "htm": "POST", "htu": "/v1/tasks" });
    [
        Kind {
            name: "a client assertion",
            typ: "client-authentication+jwt",
            claims: json!({ "iss": AGENT, "sub": AGENT, "aud": US, "jti": "0123456789", "nbf": AT, "iat": AT, "exp": AT + 60 }),
            limit: 8192,
            judge: |token, keys, now| {
                let known = |id: &str| {
                    (id == AGENT).then(|| assertion::Registered { agent: "planner".parse().unwrap(), component: None, keys: keys.to_vec() })
                };
                said(assertion::verify(token, None, known, &ours(), now))
            },
            issuer: Some(AGENT),
            audience: Some(US),
            shared: false,
            bounds: &[("exp", -4, -5), ("exp", 3630, 3631), ("nbf", 30, 31), ("iat", 30, 31), ("iat", -630, -631)],
        },
        Kind {
            name: "a DPoP proof",
            typ: "dpop+jwt",
            claims: json!({ "jti": "0123456789ab", "htm": "POST", "htu": MCP, "iat": AT }),
            limit: 8192,
            judge: |token, _, now| {
                let (target, nonces) = (dpop::Target::new(MCP).unwrap(), dpop::Nonces::new(&[1; 32]));
                let rules = dpop::Rules { nonces: &nonces, nonce_required: false, remembered_since: now.minus(MAX_AGE) };
                said(dpop::verify(token, dpop::Request { method: "POST", target: &target, token: None }, rules, now))
            },
            issuer: None,
            audience: None,
            shared: false,
            bounds: &[("iat", 5, 6), ("iat", -59, -60)],
        },
        Kind {
            name: "a person's proof",
            typ: "bailiwick-person+jwt",
            claims: merged(json!({ "sub": "alice@corp", "aud": US, "iat": AT, "exp": AT + 60, "jti": "0123456789" }), request),
            limit: 8192,
            judge: |token, keys, now| {
                let holder = |id: &crate::KeyId| Some(("alice@corp".parse().unwrap(), keys.iter().find(|key| key.id() == *id)?.clone()));
                said(person::verify(token, holder, US, person::Request { method: "POST", target: "/v1/tasks" }, now))
            },
            issuer: None,
            audience: Some(US),
            shared: false,
            bounds: &[("exp", -4, -5), ("exp", 120, 121), ("iat", 5, 6)],
        },
        Kind {
            name: "a machine's proof at its enrolment",
            typ: "bailiwick-enrolment+jwt",
            claims: json!({ "aud": US, "enrolment": enrolment_token().digest(), "iat": AT, "exp": AT + 60 }),
            limit: 8192,
            judge: |token, keys, now| said(enrolment::verify(token, keys.first().unwrap(), &enrolment_token(), US, now)),
            issuer: None,
            audience: Some(US),
            shared: false,
            bounds: &[("exp", -29, -30), ("exp", 120, 121), ("iat", 30, 31)],
        },
    ]
}

/// What issuers of workloads sign.
fn of_workloads() -> [Kind; 4] {
    const AGED: &[(&str, i64, i64)] = &[("exp", -4, -5), ("exp", 630, 631), ("nbf", 30, 31), ("iat", 30, 31), ("iat", -630, -631)];
    let times = json!({ "aud": US, "nbf": AT, "iat": AT, "exp": AT + 300 });
    [
        Kind {
            name: "a JWT-SVID of a client",
            typ: "JWT",
            claims: merged(times.clone(), json!({ "sub": "spiffe://prod.example/ns/a" })),
            limit: 8192,
            judge: |token, keys, now| said(jwt_svid::verify(token, &set(keys), &rules(DOMAIN, &ours()), now)),
            issuer: None,
            audience: Some(US),
            shared: false,
            bounds: AGED,
        },
        Kind {
            name: "a JWT-SVID shown to us",
            typ: "JWT",
            claims: merged(times.clone(), json!({ "sub": "spiffe://prod.example/ns/a" })),
            limit: 8192,
            judge: |token, keys, now| said(jwt_svid::verify_for(token, &set(keys), &"prod.example".parse().unwrap(), US, now)),
            issuer: None,
            audience: Some(US),
            shared: true,
            bounds: &[("exp", -4, -5), ("nbf", 30, 31), ("iat", 30, 31)],
        },
        Kind {
            name: "a workload's OpenID Connect token",
            typ: "JWT",
            claims: merged(times.clone(), json!({ "iss": THEM, "sub": "system:serviceaccount:prod:planner" })),
            limit: 8192,
            judge: |token, keys, now| said(oidc::verify(token, &set(keys), &rules(THEM, &ours()), now)),
            issuer: Some(THEM),
            audience: Some(US),
            shared: false,
            bounds: &[("exp", -4, -5), ("nbf", 30, 31), ("iat", 30, 31), ("iat", -630, -631)],
        },
        Kind {
            name: "an ID-JAG",
            typ: id_jag::TYP,
            claims: merged(times, json!({ "iss": THEM, "sub": "00u1abc", "client_id": AGENT, "jti": "9e43f81b64a33f20" })),
            limit: 8192,
            judge: |token, keys, now| said(id_jag::verify(token, &set(keys), &rules(THEM, &[US.to_owned()]), now)),
            issuer: Some(THEM),
            audience: Some(US),
            shared: false,
            bounds: AGED,
        },
    ]
}

/// What providers of people sign.
fn of_people() -> [Kind; 3] {
    let from = json!({ "iss": LOGIN, "sub": "u-1", "aud": CLIENT, "nbf": AT, "iat": AT, "exp": AT + 120 });
    [
        Kind {
            name: "an ID token",
            typ: "JWT",
            claims: merged(from.clone(), json!({ "nonce": NONCE, "auth_time": AT })),
            limit: sign_in::TOKEN_MAX,
            judge: |token, keys, now| {
                let (max_age, access_token) = (Some(MAX_AGE), "access");
                said(sign_in::verify(
                    token,
                    &sign_in::Expected { issuer: LOGIN, client: CLIENT, nonce: NONCE, keys: &set(keys), algorithms: ALL, access_token, max_age },
                    now,
                ))
            },
            issuer: Some(LOGIN),
            audience: Some(CLIENT),
            shared: false,
            bounds: &[("exp", -29, -30), ("nbf", 30, 31), ("iat", 30, 31), ("iat", -600, -601), ("auth_time", -3630, -3631), ("auth_time", 30, 31)],
        },
        Kind {
            name: "a logout token",
            typ: "logout+jwt",
            claims: merged(from, json!({ "jti": "j", "events": { (sign_in::LOGOUT_EVENT): {} } })),
            limit: sign_in::TOKEN_MAX,
            judge: |token, keys, now| said(sign_in::logout(token, LOGIN, CLIENT, &set(keys), ALL, now)),
            issuer: Some(LOGIN),
            audience: Some(CLIENT),
            shared: false,
            bounds: &[("exp", -29, -30), ("nbf", 30, 31), ("iat", 30, 31), ("iat", -600, -601)],
        },
        Kind {
            name: "a security event token",
            typ: "secevent+jwt",
            claims: json!({
                "iss": LOGIN, "aud": CLIENT, "iat": AT, "jti": "j-1", "sub_id": { "format": "iss_sub", "iss": LOGIN, "sub": "u-1" },
                "events": { (secevent::event_type::ACCOUNT_DISABLED): {} },
            }),
            limit: secevent::TOKEN_MAX,
            judge: |token, keys, now| {
                said(secevent::verify(token, &secevent::From { issuer: LOGIN, audience: CLIENT, keys: &set(keys), algorithms: ALL }, now))
            },
            issuer: Some(LOGIN),
            audience: Some(CLIENT),
            shared: true,
            bounds: &[("iat", 60, 61), ("iat", -604_800, -604_801)],
        },
    ]
}

fn kinds() -> Vec<Kind> {
    [access_token()].into_iter().chain(own_proofs()).chain(of_workloads()).chain(of_people()).collect()
}

#[test]
fn a_good_token_of_every_kind_is_taken_and_by_no_verifier_of_another_kind() {
    let signer = Signer::new();
    let kinds = kinds();
    assert_eq!(kinds.len(), 12);
    for kind in &kinds {
        let token = signer.sign(kind, &signer.header(kind).to_string(), &kind.claims.to_string());
        // Every verifier believes the keys of all: only what the token is keeps it apart.
        let keys = [signer.public(kind)];
        for other in &kinds {
            let judged = (other.judge)(&token, &keys, NOW);
            // One and the same JWT-SVID proves a client, and is shown to us by others.
            let same = kind.name == other.name || is_svid(kind) && is_svid(other);
            assert_eq!(judged.is_ok(), same, "{} taken for {}: {judged:?}", kind.name, other.name);
        }
    }
}

#[test]
fn no_kind_takes_its_own_claims_under_the_type_of_another_kind() {
    let signer = Signer::new();
    for kind in kinds() {
        for typ in kinds().iter().map(|other| other.typ).filter(|typ| *typ != kind.typ) {
            // RFC 7523 and OpenID Connect demand no type of these two: a plain one is none.
            if typ == "JWT" && matches!(kind.name, "a client assertion" | "a logout token") {
                continue;
            }
            is_refused(signer.with_header(&kind, json!({ "typ": typ })), &[ProofError::Type], &format!("{} as {typ}", kind.name));
        }
    }
}

#[test]
fn no_kind_takes_a_token_that_nobody_signed_or_that_is_signed_by_an_algorithm_that_is_not_its_keys_own() {
    const NO_ALGORITHM: &[ProofError] = &[ProofError::Algorithm, ProofError::Key];
    let signer = Signer::new();
    for kind in kinds() {
        let public = signer.public(&kind);
        for alg in ["none", "None", "nOnE", "HS256", "HS512", "RS256", "PS256", "ES384", "ES512", "", "EdDSA ", "es256"] {
            is_refused(signer.with_header(&kind, json!({ "alg": alg })), NO_ALGORITHM, &format!("{} by {alg}", kind.name));
        }
        is_refused(signer.with_header(&kind, json!({ "alg": null })), NO_ALGORITHM, kind.name);
        is_refused(signer.with_header(&kind, json!({ "alg": ["EdDSA"] })), NO_ALGORITHM, kind.name);
        // Without a signature; and with one of an HMAC, whose secret is the public key as anybody can have it.
        let texts = |alg: &str| {
            let header = merged(signer.header(&kind), json!({ "alg": alg })).to_string();
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(kind.claims.to_string()))
        };
        let unsigned = |alg: &str| (kind.judge)(&format!("{}.", texts(alg)), std::slice::from_ref(&public), NOW);
        is_refused(unsigned("none"), NO_ALGORITHM, kind.name);
        is_refused(unsigned(Signer::algorithm(&kind)), &[ProofError::Signature], kind.name);
        let raw = URL_SAFE_NO_PAD.decode(public.jwk()["x"].as_str().unwrap()).unwrap();
        for secret in [raw, public.to_pem().unwrap().into_bytes(), public.jwk().to_string().into_bytes()] {
            for alg in ["HS256", Signer::algorithm(&kind)] {
                let signed = texts(alg);
                let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes());
                let judged = (kind.judge)(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag)), std::slice::from_ref(&public), NOW);
                is_refused(judged, &[ProofError::Algorithm, ProofError::Key, ProofError::Signature], kind.name);
            }
        }
    }
}

#[test]
fn no_kind_lets_a_header_bring_a_key_name_a_place_of_one_or_ask_for_more_than_is_understood() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    for kind in kinds() {
        for name in ["jku", "x5u", "x5c", "crit", "b64"] {
            for value in [json!("https://evil.example/keys"), json!(["exp"]), json!(false), json!({})] {
                is_refused(signer.with_header(&kind, json!({ name: value })), &[ProofError::Header(name)], &format!("{} with {name}", kind.name));
            }
        }
        let own = stranger.public(&kind).jwk();
        if kind.typ == "dpop+jwt" {
            // It brings its key: then that one signed it.
            is_refused(signer.with_header(&kind, json!({ "jwk": own })), &[ProofError::Signature], kind.name);
            continue;
        }
        let forged = stranger.sign(&kind, &merged(signer.header(&kind), json!({ "jwk": own })).to_string(), &kind.claims.to_string());
        is_refused((kind.judge)(&forged, &[signer.public(&kind)], NOW), &[ProofError::Header("jwk")], kind.name);
    }
}

#[test]
fn no_kind_lets_a_kid_choose_a_key_that_did_not_sign_or_a_place_outside_the_known_ones() {
    let (signer, other, stranger) = (Signer::new(), Signer::new(), Signer::new());
    for kind in kinds().into_iter().filter(|kind| kind.typ != "dpop+jwt") {
        let keys = [signer.public(&kind), other.public(&kind)];
        let judged = |by: &Signer, header: &Value| (kind.judge)(&by.sign(&kind, &header.to_string(), &kind.claims.to_string()), &keys, NOW);
        assert_eq!(judged(&signer, &signer.header(&kind)), Ok(()), "{}", kind.name);
        // Signed by a stranger, under the name of a key that is known; and under its own name.
        is_refused(judged(&stranger, &signer.header(&kind)), &[ProofError::Signature], kind.name);
        is_refused(judged(&stranger, &stranger.header(&kind)), &[ProofError::Key, ProofError::Signature], kind.name);
        if kind.typ == "bailiwick-enrolment+jwt" {
            // The one key that it is to prove is known, whatever it is called.
            is_refused(judged(&other, &signer.header(&kind)), &[ProofError::Signature], kind.name);
            continue;
        }
        // Each key is good, and neither is for the other's name.
        is_refused(judged(&other, &signer.header(&kind)), &[ProofError::Signature], kind.name);
        for kid in ["../../../dev/null", "/etc/passwd", "' OR 1=1 --", "https://evil.example/k", "\u{0}", "A", &"A".repeat(43)] {
            let header = merged(signer.header(&kind), json!({ "kid": kid }));
            is_refused(judged(&signer, &header), &[ProofError::Key], &format!("{} with {kid}", kind.name));
        }
        is_refused(judged(&signer, &merged(signer.header(&kind), json!({ "kid": ["x"] }))), &[ProofError::Key], kind.name);
    }
}

#[test]
fn no_kind_takes_a_token_with_a_member_twice_however_it_is_spelled_and_wherever_it_stands() {
    let signer = Signer::new();
    for kind in kinds() {
        let (header, claims) = (signer.header(&kind).to_string(), kind.claims.to_string());
        let twice = |text: &str, member: &str| format!("{{{member},{}", text.strip_prefix('{').unwrap());
        for name in kind.claims.as_object().unwrap().keys() {
            let escaped: String = name.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
            for member in [format!("\"{name}\":\"x\""), format!("\"{escaped}\":\"x\""), format!("\"{name}\":{}", kind.claims[name])] {
                is_refused(signer.texts(&kind, &header, &twice(&claims, &member)), &[ProofError::Duplicate], &format!("{}: {member}", kind.name));
            }
        }
        for member in [r#""alg":"none""#, r#""typ":"JWT""#, "\"\\u0061lg\":\"EdDSA\""] {
            is_refused(signer.texts(&kind, &twice(&header, member), &claims), &[ProofError::Duplicate], &format!("{}: {member}", kind.name));
        }
        let nested = twice(&claims, r#""x":[{"a":1,"a":1}]"#);
        is_refused(signer.texts(&kind, &header, &nested), &[ProofError::Duplicate], kind.name);
    }
}

#[test]
fn no_kind_reads_a_token_that_is_too_long_too_deep_too_wide_or_no_single_jwt() {
    const NO_TOKEN: &[ProofError] = &[ProofError::Form("not three parts"), ProofError::Form("not base64url")];
    let signer = Signer::new();
    for kind in kinds() {
        let (header, claims) = (signer.header(&kind).to_string(), kind.claims.to_string());
        let also = |text: &str, member: &str| format!("{},{member}}}", text.strip_suffix('}').unwrap());
        for open in ["[", r#"{"a":"#] {
            for depth in [40, 400] {
                let close = if open == "[" { "]" } else { "}" };
                let member = format!("\"x\":{}1{}", open.repeat(depth), close.repeat(depth));
                is_refused(signer.texts(&kind, &header, &also(&claims, &member)), &[ProofError::TooDeep], kind.name);
                is_refused(signer.texts(&kind, &also(&header, &member), &claims), &[ProofError::TooDeep], kind.name);
            }
        }
        let wide = format!("\"x\":[{}]", vec!["1"; 513].join(","));
        is_refused(signer.texts(&kind, &header, &also(&claims, &wide)), &[ProofError::Form("too many elements")], kind.name);
        let members: Vec<String> = (0..513).map(|n| format!("\"m{n}\":1")).collect();
        is_refused(signer.texts(&kind, &header, &also(&claims, &members.join(","))), &[ProofError::Form("too many members")], kind.name);
        // To the byte: one more than the limit is not looked at.
        let good = signer.sign(&kind, &header, &claims);
        let judged = |token: &str| (kind.judge)(token, &[signer.public(&kind)], NOW);
        is_refused(judged(&format!("{good}{}", "A".repeat(kind.limit + 1 - good.len()))), &[ProofError::TooLong(kind.limit)], kind.name);
        let filled = judged(&format!("{good}{}", "A".repeat(kind.limit - good.len()))).unwrap_err();
        assert_ne!(filled, ProofError::TooLong(kind.limit).to_string(), "{}", kind.name);
        let (signed, signature) = good.rsplit_once('.').unwrap();
        for bad in [
            format!("{good}={good}"),
            format!("{good}."),
            format!("{good}.{signature}"),
            format!("{good}="),
            format!("{good}\n"),
            format!(" {good}"),
            signed.to_owned(),
            String::new(),
            "..".to_owned(),
        ] {
            let why = judged(&bad).expect_err(kind.name);
            let form = NO_TOKEN.iter().any(|error| error.to_string() == why) || bad == "..";
            assert!(form, "{}: {bad}: {why}", kind.name);
        }
        for bad in ["", "[]", "null", "7", "{} {}", "\u{feff}{}"] {
            assert!(signer.texts(&kind, &header, bad).is_err() && signer.texts(&kind, bad, &claims).is_err(), "{}: {bad}", kind.name);
        }
    }
}

#[test]
fn no_kind_takes_a_token_for_another_audience_or_of_another_issuer() {
    let signer = Signer::new();
    for kind in kinds() {
        if let Some(ours) = kind.audience {
            const AUD: &[ProofError] = &[ProofError::Audience, ProofError::Claim("aud")];
            let near = ["https://evil.example".to_owned(), format!("{ours}/x"), format!(" {ours}"), ours.to_uppercase(), String::new()];
            for aud in
                near.iter().map(|aud| json!(aud)).chain([json!(null), json!([]), json!([7]), json!({ "a": ours }), json!(["https://evil.example"])])
            {
                is_refused(signer.with_claims(&kind, json!({ "aud": aud })), AUD, &format!("{} for {aud}", kind.name));
            }
            // Whoever else it is for could have come with it.
            let both = signer.with_claims(&kind, json!({ "aud": [ours, "https://evil.example"] }));
            assert_eq!(both.is_ok(), kind.shared, "{}: {both:?}", kind.name);
            let crowd: Vec<String> = (0..20).map(|n| format!("https://{n}.example")).chain([ours.to_owned()]).collect();
            is_refused(signer.with_claims(&kind, json!({ "aud": crowd })), AUD, kind.name);
        }
        if let Some(issuer) = kind.issuer {
            const ISS: &[ProofError] = &[ProofError::Issuer, ProofError::Claim("iss"), ProofError::Client];
            let near =
                ["https://evil.example".to_owned(), format!("{issuer}/"), issuer.to_uppercase(), format!("{issuer}.evil.example"), String::new()];
            for iss in near.iter().map(|iss| json!(iss)).chain([json!(null), json!([issuer]), json!({ "a": issuer })]) {
                is_refused(signer.with_claims(&kind, json!({ "iss": iss })), ISS, &format!("{} of {iss}", kind.name));
            }
        }
    }
}

#[test]
fn every_kind_keeps_its_times_to_the_second_at_the_bounds_of_skew() {
    const LATE: &[ProofError] = &[
        ProofError::Expired,
        ProofError::NotYet,
        ProofError::IssuedAt,
        ProofError::Lifetime,
        ProofError::Claim("auth_time"),
        // What a client whose clock is off is told: to come again with a nonce.
        ProofError::Nonce,
    ];
    let signer = Signer::new();
    for kind in kinds() {
        for (name, good, bad) in kind.bounds {
            assert_eq!(signer.with_claims(&kind, json!({ *name: AT + good })), Ok(()), "{}: {name} {good}", kind.name);
            is_refused(signer.with_claims(&kind, json!({ *name: AT + bad })), LATE, &format!("{}: {name} {bad}", kind.name));
        }
        let named: std::collections::BTreeSet<&str> = kind.bounds.iter().map(|(name, ..)| *name).collect();
        for name in named {
            for wrong in [json!(AT.to_string()), json!(-1), json!(1e300), json!(253_402_300_800_i64), json!(true), json!([AT]), json!({})] {
                let why = signer.with_claims(&kind, json!({ name: wrong })).expect_err(kind.name);
                assert!(why.contains(name), "{}: {name} {wrong}: {why}", kind.name);
            }
        }
        // Each kind ends by itself: without the claim that bounds it, it is none.
        let ends = if kind.claims.get("exp").is_some() { "exp" } else { "iat" };
        assert!(signer.with_claims(&kind, json!({ ends: null })).is_err(), "{}", kind.name);
    }
}
