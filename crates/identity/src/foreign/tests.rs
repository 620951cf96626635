//! Tokens of the shapes that real issuers make verify; every rule of RFC 7523 and of the three profiles has its refusal.
use super::*;
use crate::keys::{KeyError, PublicKey, SigningKey};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::json;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const US: &str = "https://broker.example";
const TOKEN: &str = "https://broker.example/oauth/token";
const OIDC: &str = "https://issuer.example";
const DOMAIN: &str = "spiffe://prod.example";
const AGE: Duration = Duration::from_secs(600);

struct Issuer {
    key: SigningKey,
    keys: KeySet,
}

impl Issuer {
    fn new() -> Self {
        let (key, _) = SigningKey::generate().unwrap();
        let keys = set(&[("k1", key.public())]);
        Self { key, keys }
    }

    fn sign(&self, header: &Value, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()).unwrap()))
    }
}

fn set(keys: &[(&str, &PublicKey)]) -> KeySet {
    let named = |(name, key): &(&str, &PublicKey)| {
        let mut jwk = key.jwk();
        jwk["kid"] = json!(name);
        jwk
    };
    KeySet::jwks(json!({ "keys": keys.iter().map(named).collect::<Vec<_>>() }).to_string().as_bytes()).unwrap()
}

fn merged(mut claims: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn ours() -> Vec<String> {
    crate::assertion::audiences(US, TOKEN)
}

fn header() -> Value {
    json!({ "alg": "EdDSA", "kid": "k1" })
}

fn oidc_claims() -> Value {
    let now = NOW.as_seconds();
    json!({ "iss": OIDC, "sub": "system:serviceaccount:prod:planner", "aud": [US], "iat": now, "nbf": now, "exp": now + 3600 })
}

fn oidc_with(header: Value, claims: &str) -> Result<oidc::Workload, ProofError> {
    let issuer = Issuer::new();
    let rules = Rules { issuer: OIDC, audiences: &ours(), age_max: AGE };
    oidc::verify(&issuer.sign(&header, claims), &issuer.keys, &rules, NOW)
}

fn oidc(more: Value) -> Result<oidc::Workload, ProofError> {
    oidc_with(header(), &merged(oidc_claims(), more).to_string())
}

fn svid_claims() -> Value {
    let now = NOW.as_seconds();
    json!({ "sub": "spiffe://prod.example/ns/a/planner", "aud": [US], "iat": now, "exp": now + 300 })
}

/// An authority of JWT-SVIDs: `EdDSA` is no algorithm of theirs.
struct Spire {
    key: EcdsaKeyPair,
    keys: KeySet,
}

impl Spire {
    fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (x, y) = key.public_key().as_ref()[1..].split_at(32);
        let jwk =
            json!({ "kty": "EC", "crv": "P-256", "use": "jwt-svid", "kid": "k1", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) });
        Self { key, keys: KeySet::spiffe_bundle(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap() }
    }

    fn sign(&self, header: &Value, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap()))
    }
}

fn svid(head: Value, more: Value) -> Result<jwt_svid::Svid, ProofError> {
    let spire = Spire::new();
    let rules = Rules { issuer: DOMAIN, audiences: &ours(), age_max: AGE };
    let head = merged(json!({ "alg": "ES256", "kid": "k1" }), head);
    jwt_svid::verify(&spire.sign(&head, &merged(svid_claims(), more).to_string()), &spire.keys, &rules, NOW)
}

const CLIENT: &str = "spiffe://bailiwick.local/agent/planner";

fn jag_claims() -> Value {
    let now = NOW.as_seconds();
    json!({
        "iss": OIDC, "sub": "00u1abc", "aud": US, "client_id": CLIENT, "jti": "9e43f81b64a33f20116179",
        "iat": now, "exp": now + 300, "resource": "https://broker.example/mcp", "scope": "agent",
    })
}

fn jag(head: Value, more: Value) -> Result<id_jag::Jag, ProofError> {
    let issuer = Issuer::new();
    let only = [US.to_owned()];
    let rules = Rules { issuer: OIDC, audiences: &only, age_max: AGE };
    let head = merged(merged(header(), json!({ "typ": id_jag::TYP })), head);
    id_jag::verify(&issuer.sign(&head, &merged(jag_claims(), more).to_string()), &issuer.keys, &rules, NOW)
}

fn mapping(all: &[(&str, &str)]) -> Mapping {
    Mapping::new(all.iter().map(|(p, w)| (p.parse().unwrap(), Wanted::Text(w.parse().unwrap())))).unwrap()
}

// ---- tokens of real shape ------------------------------------------------------------------------------------------------

#[test]
fn a_projected_service_account_token_of_kubernetes_verifies_and_maps_by_its_nested_claims() {
    let more = json!({
        "jti": "ea28ed49-2e11-4280-9ec5-bc3d1d84661a",
        "kubernetes.io": {
            "namespace": "prod",
            "node": { "name": "n1", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1" },
            "pod": { "name": "planner-69cbfb9798-jv9gn", "uid": "778a530c-b3f4-47c0-9cd5-ab018fb64f33" },
            "serviceaccount": { "name": "planner", "uid": "a087d5a0-e1dd-43ec-93ac-f13d89cd13af" },
            "warnafter": NOW.as_seconds() + 3607,
        },
    });
    let token = oidc(more).unwrap();
    let sub = ("sub", "system:serviceaccount:prod:planner");
    assert!(token.claims.fit(&mapping(&[sub, ("/kubernetes.io/serviceaccount/name", "planner")])));
    assert!(!token.claims.fit(&mapping(&[sub, ("/kubernetes.io/serviceaccount/name", "other")])));
    assert!(!token.claims.fit(&mapping(&[sub, ("kubernetes.io", "prod")])));
    let pod: ClaimPath = "/kubernetes.io/pod/uid".parse().unwrap();
    let copy = token.claims.word(&pod).unwrap();
    assert_eq!(instance(OIDC, &token.subject, &copy), instance(OIDC, &token.subject, &copy));
    assert_ne!(instance(OIDC, &token.subject, &copy), instance("https://other.example", &token.subject, &copy));
    let shown = format!("{:?}", token.claims);
    assert!(!shown.contains("planner") && shown.contains("sub"), "{shown}");
}

#[test]
fn tokens_of_github_actions_and_gitlab_verify_and_map_by_subject() {
    let github = json!({
        "sub": "repo:acme/app:ref:refs/heads/main", "jti": "example-id", "environment": "prod", "ref": "refs/heads/main",
        "sha": "e6f0b5", "repository": "acme/app", "repository_owner": "acme", "repository_id": "74", "run_id": "6892011", "run_attempt": "1",
        "job_workflow_ref": "acme/app/.github/workflows/x.yml@refs/heads/main", "aud": US,
    });
    let token = oidc_with(json!({ "typ": "JWT", "alg": "EdDSA", "x5t": "abc", "kid": "k1" }), &merged(oidc_claims(), github).to_string()).unwrap();
    assert!(token.claims.fit(&mapping(&[("sub", "repo:acme/app:ref:refs/heads/*"), ("repository_owner", "acme")])));
    assert!(!token.claims.fit(&mapping(&[("sub", "repo:acme/app:environment:*")])));
    let gitlab = json!({
        "sub": "project_path:acme/app:ref_type:branch:ref:main", "project_path": "acme/app", "job_id": "302", "ref_protected": "true",
        "user_access_level": "developer", "groups_direct": ["acme"], "aud": US,
    });
    let token = oidc(gitlab).unwrap();
    assert!(token.claims.fit(&mapping(&[("sub", "project_path:acme/app:ref_type:branch:ref:*"), ("ref_protected", "true")])));
    assert_eq!(token.claims.word(&"job_id".parse().unwrap()).as_deref(), Some("302"));
}

#[test]
fn tokens_of_another_implementation_verify_under_each_kind_of_key_and_only_under_it() {
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::signature::KeyPair as _;
    use aws_lc_rs::{rsa, signature as s};
    use jsonwebtoken::{Algorithm as A, EncodingKey};
    let pem = |spki: &[u8]| PublicKey::parse(&format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(spki))).unwrap();
    let p256 = s::EcdsaKeyPair::generate(&s::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let p384 = s::EcdsaKeyPair::generate(&s::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let rsa = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let rsa_der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = rsa.as_der().unwrap();
    let rsa_pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(rsa_der.as_ref()));
    let (ed, pkcs8) = SigningKey::generate().unwrap();
    let (a, b, c) = (
        pem(p256.public_key().as_der().unwrap().as_ref()),
        pem(p384.public_key().as_der().unwrap().as_ref()),
        pem(rsa.public_key().as_der().unwrap().as_ref()),
    );
    let keys = set(&[("ed", ed.public()), ("a", &a), ("b", &b), ("c", &c)]);
    let cases = [
        (A::EdDSA, "ed", EncodingKey::from_ed_der(&pkcs8)),
        (A::ES256, "a", EncodingKey::from_ec_der(p256.to_pkcs8v1().unwrap().as_ref())),
        (A::ES384, "b", EncodingKey::from_ec_der(p384.to_pkcs8v1().unwrap().as_ref())),
        (A::RS256, "c", EncodingKey::from_rsa_pem(rsa_pem.as_bytes()).unwrap()),
        (A::PS256, "c", EncodingKey::from_rsa_pem(rsa_pem.as_bytes()).unwrap()),
    ];
    let rules = Rules { issuer: OIDC, audiences: &ours(), age_max: AGE };
    for (alg, kid, private) in cases {
        let signed = |kid: Option<&str>| {
            let head = jsonwebtoken::Header { kid: kid.map(str::to_owned), ..jsonwebtoken::Header::new(alg) };
            jsonwebtoken::encode(&head, &oidc_claims(), &private).unwrap()
        };
        let judged = |kid| oidc::verify(&signed(kid), &keys, &rules, NOW).map(|_| ());
        assert_eq!(judged(Some(kid)), Ok(()), "{alg:?}");
        // Several keys: a token that names none is nobody's, and one that names another's is not tried with the rest.
        assert_eq!(judged(None), Err(ProofError::Key), "{alg:?}");
        assert_eq!(judged(Some("absent")), Err(ProofError::Key), "{alg:?}");
        let other = if kid == "ed" { "a" } else { "ed" };
        assert_eq!(judged(Some(other)), Err(ProofError::Algorithm), "{alg:?}");
    }
}

// ---- key sets ------------------------------------------------------------------------------------------------------------

#[test]
fn a_key_set_leaves_out_what_we_do_not_take_and_is_refused_if_nothing_is_left() {
    let (key, _) = SigningKey::generate().unwrap();
    let good = merged(key.public().jwk(), json!({ "kid": "k1" }));
    let others = [
        json!({ "kty": "oct", "k": "AAAA", "kid": "h" }),
        json!({ "kty": "RSA", "n": "A".repeat(700), "e": "AQAB", "kid": "long" }),
        json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA" }),
        merged(good.clone(), json!({ "use": "enc" })),
        merged(good.clone(), json!({ "d": "AAAA" })),
        json!(7),
    ];
    let all: Vec<Value> = others.iter().cloned().chain([good]).collect();
    let set = KeySet::jwks(json!({ "keys": all }).to_string().as_bytes()).unwrap();
    assert_eq!((set.len(), set.left_out(), set.has(key.id())), (1, 6, true));
    for bad in [json!({ "keys": others }), json!({ "keys": [] }), json!({ "keys": {} }), json!({}), json!([])] {
        assert!(matches!(KeySet::jwks(bad.to_string().as_bytes()), Err(KeyError::Form(_))), "{bad}");
    }
    assert!(KeySet::jwks(&vec![b' '; KEY_SET_BYTES_MAX + 1]).is_err());
}

#[test]
fn a_bundle_gives_its_jwt_authorities_only_and_its_hint() {
    let point = || {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        json!({ "kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
    };
    let (key, other) = (point(), point());
    let id = |jwk: &Value| PublicKey::from_jwk(jwk).unwrap().id();
    let (ed, _) = SigningKey::generate().unwrap();
    let jwk = |key: &Value, more: Value| merged(key.clone(), more);
    let bundle = json!({
        "keys": [
            jwk(&other, json!({ "use": "x509-svid", "kid": "x", "x5c": ["MIIB"] })), jwk(&other, json!({ "kid": "no use" })),
            jwk(&other, json!({ "use": "jwt-svid" })), jwk(&other, json!({ "use": "sig", "kid": "s" })),
            merged(ed.public().jwk(), json!({ "use": "jwt-svid" })), jwk(&key, json!({ "use": "jwt-svid", "kid": "k1" })),
        ],
        "spiffe_sequence": 12, "spiffe_refresh_hint": 300,
    });
    let set = KeySet::spiffe_bundle(bundle.to_string().as_bytes()).unwrap();
    assert!(set.has(id(&key)) && !set.has(id(&other)) && !set.has(ed.id()));
    assert_eq!((set.len(), set.refresh_hint()), (1, Some(Duration::from_secs(300))));
    // And a bundle is no JWK set: its keys have another use.
    let set = KeySet::jwks(bundle.to_string().as_bytes()).unwrap();
    assert!(!set.has(id(&key)));
}

#[test]
fn of_a_set_without_end_the_first_keys_are_taken() {
    let (key, _) = SigningKey::generate().unwrap();
    let all: Vec<Value> = (0..300).map(|i| merged(key.public().jwk(), json!({ "kid": i.to_string() }))).collect();
    let set = KeySet::jwks(json!({ "keys": all }).to_string().as_bytes()).unwrap();
    assert_eq!((set.len(), set.left_out()), (64, 236));
}

#[test]
fn of_several_keys_of_one_name_the_one_that_signed_is_found_and_its_name_is_not_enough() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let keys = set(&[("k1", other.key.public()), ("k1", issuer.key.public())]);
    let rules = Rules { issuer: OIDC, audiences: &ours(), age_max: AGE };
    let token = issuer.sign(&header(), &oidc_claims().to_string());
    assert_eq!(oidc::verify(&token, &keys, &rules, NOW).unwrap().key, issuer.key.id());
    assert_eq!(oidc::verify(&Issuer::new().sign(&header(), &oidc_claims().to_string()), &keys, &rules, NOW).err(), Some(ProofError::Signature));
}

#[test]
fn a_token_without_a_key_name_is_taken_where_there_is_one_key() {
    assert!(oidc_with(json!({ "alg": "EdDSA" }), &oidc_claims().to_string()).is_ok());
    assert_eq!(oidc_with(json!({ "alg": "EdDSA", "kid": "other" }), &oidc_claims().to_string()).err(), Some(ProofError::Key));
    assert_eq!(oidc_with(json!({ "alg": "EdDSA", "kid": 7 }), &oidc_claims().to_string()).err(), Some(ProofError::Key));
    // A thumbprint is no name, unless the issuer gave the key that name.
    let issuer = Issuer::new();
    let rules = Rules { issuer: OIDC, audiences: &ours(), age_max: AGE };
    let by_thumbprint = issuer.sign(&json!({ "alg": "EdDSA", "kid": issuer.key.id().to_string() }), &oidc_claims().to_string());
    assert_eq!(oidc::verify(&by_thumbprint, &issuer.keys, &rules, NOW).err(), Some(ProofError::Key));
}

// ---- rules of RFC 7523 section 3 and RFC 8725 ----------------------------------------------------------------------------

#[test]
fn bi_015_no_algorithm_but_the_keys_own_exists() {
    for alg in ["none", "None", "HS256", "RS256", "ES256", "PS256", ""] {
        assert_eq!(oidc_with(json!({ "alg": alg, "kid": "k1" }), &oidc_claims().to_string()).err(), Some(ProofError::Algorithm), "{alg}");
    }
    // The public key as a secret.
    let issuer = Issuer::new();
    let x = URL_SAFE_NO_PAD.decode(issuer.key.public().jwk()["x"].as_str().unwrap()).unwrap();
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"k1"}"#), URL_SAFE_NO_PAD.encode(oidc_claims().to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &x), signed.as_bytes());
    let rules = Rules { issuer: OIDC, audiences: &ours(), age_max: AGE };
    let forged = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag));
    assert_eq!(oidc::verify(&forged, &issuer.keys, &rules, NOW).err(), Some(ProofError::Algorithm));
}

#[test]
fn bi_019_a_header_brings_no_key_and_no_place_of_one() {
    for name in ["jku", "x5u", "x5c", "jwk", "crit", "b64"] {
        let refused = oidc_with(merged(header(), json!({ name: "https://evil.example/keys" })), &oidc_claims().to_string()).err();
        assert_eq!(refused, Some(ProofError::Header(name)), "{name}");
    }
}

#[test]
fn another_issuers_key_of_the_same_name_signs_nothing_here() {
    let (ours_issuer, theirs) = (Issuer::new(), Issuer::new());
    let rules = Rules { issuer: OIDC, audiences: &ours(), age_max: AGE };
    let forged = theirs.sign(&header(), &oidc_claims().to_string());
    assert_eq!(oidc::verify(&forged, &ours_issuer.keys, &rules, NOW).err(), Some(ProofError::Signature));
    let (signed, signature) = forged.rsplit_once('.').unwrap();
    let other = theirs.sign(&header(), &merged(oidc_claims(), json!({ "sub": "another" })).to_string());
    let (of_another, _) = other.rsplit_once('.').unwrap();
    assert_ne!(signed, of_another);
    let spliced = format!("{of_another}.{signature}");
    assert_eq!(oidc::verify(&spliced, &theirs.keys, &rules, NOW).err(), Some(ProofError::Signature));
}

#[test]
fn issuer_subject_audience_and_expiry_must_be_there_and_exact() {
    assert_eq!(oidc(json!({ "iss": null })).err(), Some(ProofError::Claim("iss")));
    for near in ["https://issuer.example/", "https://ISSUER.example", "http://issuer.example", "https://issuer.example.evil"] {
        assert_eq!(oidc(json!({ "iss": near })).err(), Some(ProofError::Issuer), "{near}");
    }
    for bad in [json!(null), json!(""), json!(7), json!("a\u{0}b"), json!("x".repeat(2049))] {
        assert_eq!(oidc(json!({ "sub": bad })).err(), Some(ProofError::Claim("sub")), "{bad}");
    }
    assert_eq!(oidc(json!({ "aud": null })).err(), Some(ProofError::Claim("aud")));
    for bad in [json!("https://other.example"), json!([]), json!([US, "https://kubernetes.default.svc"]), json!([7]), json!(format!("{US}/mcp"))] {
        assert_eq!(oidc(json!({ "aud": bad })).err(), Some(ProofError::Audience), "{bad}");
    }
    for good in [json!(US), json!([TOKEN]), json!([US, TOKEN])] {
        assert!(oidc(json!({ "aud": good })).is_ok(), "{good}");
    }
    assert_eq!(oidc(json!({ "exp": null })).err(), Some(ProofError::Claim("exp")));
    assert_eq!(oidc(json!({ "iat": null })).err(), Some(ProofError::Claim("iat")));
    let nobody = Rules { issuer: OIDC, audiences: &[], age_max: AGE };
    let issuer = Issuer::new();
    assert_eq!(oidc::verify(&issuer.sign(&header(), &oidc_claims().to_string()), &issuer.keys, &nobody, NOW).err(), Some(ProofError::Audience));
}

#[test]
fn clocks_may_differ_up_to_their_bounds_and_no_further() {
    let now = NOW.as_seconds();
    for (more, judged) in [
        (json!({ "exp": now - 4 }), None),
        (json!({ "exp": now - 5 }), Some(ProofError::Expired)),
        (json!({ "nbf": now + 30 }), None),
        (json!({ "nbf": now + 31 }), Some(ProofError::NotYet)),
        (json!({ "iat": now + 30 }), None),
        (json!({ "iat": now + 31 }), Some(ProofError::IssuedAt)),
        (json!({ "iat": now - 630 }), None),
        (json!({ "iat": now - 631 }), Some(ProofError::IssuedAt)),
        (json!({ "exp": "soon" }), Some(ProofError::Claim("exp"))),
        (json!({ "exp": 1e300 }), Some(ProofError::Claim("exp"))),
        // Kubernetes extends tokens to a year; their age is what is bounded.
        (json!({ "exp": now + 31_536_000 }), None),
    ] {
        assert_eq!(oidc(more.clone()).err(), judged, "{more}");
    }
    assert_eq!(svid(json!({}), json!({ "exp": now + 631 })).err(), Some(ProofError::Lifetime));
    assert_eq!(jag(json!({}), json!({ "exp": now + 631 })).err(), Some(ProofError::Lifetime));
}

#[test]
fn long_deep_wide_and_doubled_tokens_are_refused() {
    let good = oidc_claims().to_string();
    let with = |member: &str| format!("{},{member}}}", good.trim_end_matches('}'));
    assert_eq!(oidc_with(header(), &with(&format!(r#""x":"{}""#, "a".repeat(9000)))).err(), Some(ProofError::TooLong(8192)));
    assert_eq!(oidc_with(header(), &with(&format!(r#""x":{}{}"#, "[".repeat(40), "]".repeat(40)))).err(), Some(ProofError::TooDeep));
    assert_eq!(oidc_with(header(), &with(r#""sub":"system:serviceaccount:prod:other""#)).err(), Some(ProofError::Duplicate));
    assert_eq!(oidc_with(header(), &with(r#""kubernetes.io":{"a":1,"a":2}"#)).err(), Some(ProofError::Duplicate));
    assert_eq!(oidc_with(header(), &with(r#""\u0069ss":"x""#)).err(), Some(ProofError::Duplicate));
    for bad in ["[]", "null", "", "{}x"] {
        assert!(matches!(oidc_with(header(), bad).err(), Some(ProofError::Form(_))), "{bad}");
    }
}

#[test]
fn a_token_that_is_bound_to_a_key_says_so_and_one_that_is_bound_otherwise_is_refused() {
    let jkt = "A".repeat(43);
    assert!(matches!(oidc(json!({ "cnf": { "jkt": jkt } })).unwrap().confirmation, Some(Confirmation::Key(_))));
    assert!(matches!(jag(json!({}), json!({ "cnf": { "jkt": jkt } })).unwrap().confirmation, Some(Confirmation::Key(_))));
    for bad in [json!({ "jwk": {} }), json!({ "kid": "x" }), json!({}), json!("x")] {
        assert_eq!(oidc(json!({ "cnf": bad })).err(), Some(ProofError::Claim("cnf")), "{bad}");
        assert_eq!(svid(json!({}), json!({ "cnf": bad })).err(), Some(ProofError::Claim("cnf")), "{bad}");
    }
}

#[test]
fn a_token_of_one_type_is_none_of_another() {
    for typ in ["at+jwt", "application/at+jwt", "logout+jwt", "secevent+jwt", "dpop+jwt", "oauth-id-jag+jwt", "JOSE", "wit+jwt"] {
        assert_eq!(oidc_with(merged(header(), json!({ "typ": typ })), &oidc_claims().to_string()).err(), Some(ProofError::Type), "{typ}");
    }
    for typ in ["at+jwt", "oauth-id-jag+jwt", "wit+jwt", "client-authentication+jwt"] {
        assert_eq!(svid(json!({ "typ": typ }), json!({})).err(), Some(ProofError::Type), "{typ}");
    }
    for typ in [json!(null), json!("JWT"), json!("at+jwt"), json!("id-jag+jwt")] {
        assert_eq!(jag(json!({ "typ": typ }), json!({})).err(), Some(ProofError::Type), "{typ}");
    }
    assert!(jag(json!({ "typ": "application/OAuth-ID-JAG+jwt" }), json!({})).is_ok());
}

// ---- JWT-SVID ------------------------------------------------------------------------------------------------------------

#[test]
fn a_jwt_svid_proves_a_spiffe_id_of_its_own_trust_domain_and_of_no_other() {
    for typ in [json!(null), json!("JWT"), json!("JOSE")] {
        assert_eq!(svid(json!({ "typ": typ }), json!({})).unwrap().id.as_str(), "spiffe://prod.example/ns/a/planner");
    }
    // `iss` and `jti` are optional, and mean nothing here.
    assert!(svid(json!({}), json!({ "iss": "https://anybody.example", "iat": null, "jti": "x" })).is_ok());
    let others = ["spiffe://test.example/ns/a", "spiffe://prod.example.evil/a", "spiffe://prod/example/a", "spiffe://xprod.example/a"];
    for other in others {
        assert_eq!(svid(json!({}), json!({ "sub": other })).err(), Some(ProofError::Issuer), "{other}");
    }
    for bad in [json!(null), json!("planner"), json!("spiffe://prod.example"), json!("spiffe://prod.example/../x"), json!("SPIFFE://prod.example/a")]
    {
        assert_eq!(svid(json!({}), json!({ "sub": bad })).err(), Some(ProofError::Claim("sub")), "{bad}");
    }
    for bad in [json!("https://other.example"), json!([US, "other"])] {
        assert_eq!(svid(json!({}), json!({ "aud": bad })).err(), Some(ProofError::Audience), "{bad}");
    }
    // What the standard does not name is no header and no algorithm of an SVID.
    assert_eq!(svid(json!({ "alg": "EdDSA" }), json!({})).err(), Some(ProofError::Algorithm));
    assert_eq!(svid(json!({ "x5t": "abc" }), json!({})).err(), Some(ProofError::Header("of a JWT-SVID")));
    assert_eq!(svid(json!({}), json!({ "exp": null })).err(), Some(ProofError::Claim("exp")));
    assert_eq!(svid(json!({}), json!({ "aud": null })).err(), Some(ProofError::Claim("aud")));
}

// ---- ID-JAG --------------------------------------------------------------------------------------------------------------

#[test]
fn an_id_jag_says_who_lets_whom_act_for_whom() {
    let granted = jag(json!({}), json!({ "act": { "sub": CLIENT }, "aud": [US], "email": "ana@example.org" })).unwrap();
    assert_eq!((granted.subject.as_str(), granted.client_id.as_str(), granted.jti.len()), ("00u1abc", CLIENT, 22));
    assert_eq!((granted.resources, granted.scope.unwrap().to_string()), (vec![format!("{US}/mcp")], "agent".to_owned()));
    assert_eq!(jag(json!({}), json!({ "resource": null, "scope": null })).unwrap().scope, None);
}

#[test]
fn every_rule_of_an_id_jag_has_its_refusal() {
    for (name, error) in [
        ("iss", ProofError::Claim("iss")),
        ("sub", ProofError::Claim("sub")),
        ("aud", ProofError::Claim("aud")),
        ("client_id", ProofError::Claim("client_id")),
        ("jti", ProofError::Claim("jti")),
        ("exp", ProofError::Claim("exp")),
        ("iat", ProofError::Claim("iat")),
    ] {
        assert_eq!(jag(json!({}), json!({ name: null })).err(), Some(error), "{name}");
    }
    // Our issuer identifier, alone: the token endpoint is none, and nobody else may hold it.
    for bad in [json!(TOKEN), json!([US, US]), json!([US, TOKEN]), json!([]), json!(format!("{US}/"))] {
        assert_eq!(jag(json!({}), json!({ "aud": bad })).err(), Some(ProofError::Audience), "{bad}");
    }
    for bad in [json!({ "sub": "another" }), json!({ "sub": CLIENT, "act": { "sub": "x" } }), json!({}), json!("x")] {
        assert_eq!(jag(json!({}), json!({ "act": bad })).err(), Some(ProofError::Claim("act")), "{bad}");
    }
    assert_eq!(jag(json!({}), json!({ "authorization_details": [] })).err(), Some(ProofError::Claim("authorization_details")));
    for bad in [json!(7), json!([]), json!([7]), json!(vec!["x"; 9])] {
        assert_eq!(jag(json!({}), json!({ "resource": bad })).err(), Some(ProofError::Claim("resource")), "{bad}");
    }
    assert_eq!(jag(json!({}), json!({ "scope": "a\"b" })).err(), Some(ProofError::Claim("scope")));
    assert_eq!(jag(json!({}), json!({ "jti": "short" })).err(), Some(ProofError::Claim("jti")));
    assert_eq!(jag(json!({}), json!({ "iss": "https://other.example" })).err(), Some(ProofError::Issuer));
}

#[test]
fn what_a_token_claims_is_read_without_being_believed() {
    let issuer = Issuer::new();
    let claimed = Claimed::read(&issuer.sign(&json!({ "alg": "none", "typ": "JWT" }), &svid_claims().to_string())).unwrap();
    assert_eq!((claimed.typ.as_deref(), claimed.issuer, claimed.subject.as_deref()), (Some("jwt"), None, Some("spiffe://prod.example/ns/a/planner")));
    assert!(Claimed::read("a.b").is_err() && Claimed::read("").is_err());
}

proptest! {
    #[test]
    fn no_token_and_no_key_set_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,200}", claims in "\\PC{0,120}") {
        let issuer = Issuer::new();
        let rules = Rules { issuer: OIDC, audiences: &ours(), age_max: AGE };
        let _ = KeySet::jwks(&bytes).is_ok();
        let _ = KeySet::spiffe_bundle(&bytes).is_ok();
        for token in [text, issuer.sign(&header(), &claims)] {
            let _ = Claimed::read(&token).is_ok();
            prop_assert!(oidc::verify(&token, &issuer.keys, &rules, NOW).is_err());
            prop_assert!(jwt_svid::verify(&token, &issuer.keys, &rules, NOW).is_err());
            prop_assert!(id_jag::verify(&token, &issuer.keys, &rules, NOW).is_err());
        }
    }

    /// Whatever one changes in a good token, it is refused, or says the same as before.
    #[test]
    fn a_changed_byte_proves_nothing(at in 0usize..400, with in any::<u8>()) {
        let issuer = Issuer::new();
        let rules = Rules { issuer: OIDC, audiences: &ours(), age_max: AGE };
        let good = issuer.sign(&header(), &oidc_claims().to_string());
        let mut bytes = good.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] = with;
        let Ok(changed) = String::from_utf8(bytes) else { return Ok(()) };
        prop_assert_eq!(oidc::verify(&changed, &issuer.keys, &rules, NOW).is_ok(), changed == good);
    }
}

#[test]
fn a_token_that_came_of_an_id_jag_names_its_person_and_its_actor_and_nothing_else_passes_for_one() {
    use crate::token::{Acting, Purpose, Statement};
    let (key, pkcs8) = SigningKey::generate().unwrap();
    let domain: bailiwick_core::TrustDomain = "bailiwick.local".parse().unwrap();
    let tokens = crate::Issuer::new(US.to_owned(), domain.clone(), SigningKey::from_pkcs8(&pkcs8).unwrap());
    let verifier = crate::Verifier::new(US.to_owned(), domain, vec![key.public().clone()]);
    let copy = InstanceId::from_bytes([1; 16]);
    let what = Statement {
        agent: "planner".parse().unwrap(),
        instance: copy,
        acting: Acting { on_behalf_of: Some("zoe".parse().unwrap()), ..Acting::default() },
        purpose: Purpose::Agent,
        scope: crate::oauth::Scope::agent(),
        audience: US.to_owned(),
        jti: bailiwick_core::SessionId::from_bytes([2; 16]),
        confirmation: None,
    };
    let issued = tokens.issue(&what, NOW, Duration::from_secs(300)).unwrap().token;
    let verified = verifier.verify(&issued, US, NOW).unwrap();
    assert_eq!((verified.acting.on_behalf_of.as_ref().map(|p| p.as_str()), verified.task()), (Some("zoe"), None));
    // The same claims with one of them changed, signed by us all the same.
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(issued.split('.').nth(1).unwrap()).unwrap()).unwrap();
    let actor = format!("{CLIENT}/{copy}");
    assert_eq!((&claims["sub"], &claims["act"]), (&json!("zoe"), &json!({ "sub": actor })));
    let judged = |more: Value| {
        let token = crate::jws::sign(&key, "at+jwt", &merged(claims.clone(), more)).unwrap();
        verifier.verify(&token, US, NOW).map(|v| v.acting.on_behalf_of)
    };
    assert_eq!(judged(json!({ "sub": CLIENT, "act": null })), Ok(None));
    for (more, error) in [
        (json!({ "act": null }), ProofError::Claim("act")),
        (json!({ "act": { "sub": CLIENT } }), ProofError::Claim("act")),
        (json!({ "act": { "sub": actor, "act": { "sub": "spiffe://bailiwick.local/agent/other" } } }), ProofError::Claim("act")),
        (json!({ "sub": CLIENT }), ProofError::Claim("act")),
        (json!({ "sub": "spiffe://bailiwick.local/agent/other" }), ProofError::Claim("sub")),
        (json!({ "sub": "No Person" }), ProofError::Claim("sub")),
        (json!({ "scope": "mcp:tools" }), ProofError::Claim("scope")),
    ] {
        assert_eq!(judged(more.clone()), Err(error), "{more}");
    }
}
