//! Every rule of an ID token and a logout token is broken once, alone.

use std::time::Duration;

use aws_lc_rs::digest::{SHA512, digest};
use bailiwick_core::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::foreign::KeySet;
use crate::jws;
use crate::keys::{Algorithm, PublicKey, SigningKey};
use crate::proof::ProofError;
use crate::strict::put;

const ISSUER: &str = "https://login.example.org/realms/one";
const CLIENT: &str = "bailiwick";
const NONCE: &str = "n-0123456789";
const ALL: &[Algorithm] = &[Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256];

fn now() -> Timestamp {
    Timestamp::from_seconds(1_763_856_000)
}

fn key() -> SigningKey {
    SigningKey::generate().unwrap().0
}

fn half(access_token: &str) -> String {
    URL_SAFE_NO_PAD.encode(&digest(&SHA512, access_token.as_bytes()).as_ref()[..32])
}

fn claims() -> Value {
    let at = now().as_seconds();
    json!({
        "iss": ISSUER, "sub": "u-1", "aud": CLIENT, "exp": at + 300, "iat": at, "nonce": NONCE, "auth_time": at - 60, "sid": "s-1",
        "at_hash": half("access"), "groups": ["approvers", "staff"], "realm_access": { "roles": ["x"] },
        "email": "ana@example.org", "email_verified": true,
    })
}

fn check(key: &SigningKey, token: &str) -> Result<SignedIn, ProofError> {
    let keys = KeySet::of_keys(&[key.public().clone()]);
    let expected = Expected {
        issuer: ISSUER,
        client: CLIENT,
        nonce: NONCE,
        keys: &keys,
        algorithms: ALL,
        access_token: "access",
        max_age: Some(Duration::from_secs(3600)),
    };
    verify(token, &expected, now())
}

fn with(name: &str, value: Value) -> Result<SignedIn, ProofError> {
    let (key, mut claims) = (key(), claims());
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => put(&mut claims, name, value),
    }
    check(&key, &jws::sign(&key, "JWT", &claims).unwrap())
}

#[test]
fn a_token_of_the_provider_for_us_and_this_sign_in_says_who_signed_in() {
    let signed_in = with("x", json!(1)).unwrap();
    assert_eq!((signed_in.subject.as_str(), signed_in.session.as_deref()), ("u-1", Some("s-1")));
    let texts = |place: &str| signed_in.claims.texts(&place.parse().unwrap()).join(",");
    assert_eq!((texts("groups").as_str(), texts("/realm_access/roles").as_str(), texts("none").as_str()), ("approvers,staff", "x", ""));
    assert_eq!(signed_in.claims.verified_email(), Some("ana@example.org"));
    assert!(!format!("{signed_in:?}").contains("ana@example.org"));
    assert!(with("aud", json!([CLIENT])).is_ok() && with("azp", json!(CLIENT)).is_ok() && with("at_hash", Value::Null).is_ok());
    assert!(with("email_verified", json!("true")).unwrap().claims.verified_email().is_none());
}

#[test]
fn each_check_of_an_id_token_refuses_alone() {
    let at = now().as_seconds();
    let cases = [
        ("iss", json!("https://login.example.org/realms/two"), ProofError::Issuer),
        ("iss", json!("https://login.example.org/realms/one/"), ProofError::Issuer),
        ("iss", Value::Null, ProofError::Claim("iss")),
        ("aud", json!("another"), ProofError::Audience),
        ("aud", json!([CLIENT, "another"]), ProofError::Audience),
        ("aud", json!([]), ProofError::Audience),
        ("aud", Value::Null, ProofError::Audience),
        ("azp", json!("another"), ProofError::Claim("azp")),
        ("azp", json!(7), ProofError::Claim("azp")),
        ("exp", json!(at - 30), ProofError::Expired),
        ("exp", Value::Null, ProofError::Claim("exp")),
        ("nbf", json!(at + 31), ProofError::NotYet),
        ("iat", json!(at + 31), ProofError::IssuedAt),
        ("iat", json!(at - 601), ProofError::IssuedAt),
        ("iat", Value::Null, ProofError::Claim("iat")),
        ("nonce", json!("n-0123456788"), ProofError::Claim("nonce")),
        ("nonce", Value::Null, ProofError::Claim("nonce")),
        ("at_hash", json!(half("another")), ProofError::Claim("at_hash")),
        ("at_hash", json!(""), ProofError::Claim("at_hash")),
        ("auth_time", json!(at - 3631), ProofError::Claim("auth_time")),
        ("auth_time", json!(at + 31), ProofError::Claim("auth_time")),
        ("auth_time", Value::Null, ProofError::Claim("auth_time")),
        ("sub", json!(""), ProofError::Claim("sub")),
        ("sub", json!("a".repeat(256)), ProofError::Claim("sub")),
        ("sub", json!("\u{fc}"), ProofError::Claim("sub")),
        ("sub", Value::Null, ProofError::Claim("sub")),
        ("sid", json!(""), ProofError::Claim("sid")),
    ];
    for (name, value, expected) in cases {
        assert_eq!(with(name, value.clone()).unwrap_err(), expected, "{name} {value}");
    }
}

#[test]
fn only_the_providers_keys_and_algorithms_count_and_other_kinds_of_tokens_do_not() {
    let (ours, other) = (key(), key());
    let token = jws::sign(&ours, "JWT", &claims()).unwrap();
    assert_eq!(check(&other, &token).unwrap_err(), ProofError::Key);
    for typ in ["at+jwt", "logout+jwt", "secevent+jwt", "dpop+jwt"] {
        assert_eq!(check(&ours, &jws::sign(&ours, typ, &claims()).unwrap()).unwrap_err(), ProofError::Type, "{typ}");
    }
    // Signed with the provider's public key as if it were a secret; by nobody; and with a key that it brings along.
    let parts: Vec<&str> = token.split('.').collect();
    let forged = |header: &str| format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(header), parts[1], parts[2]);
    let kid = ours.public().id();
    assert_eq!(check(&ours, &forged(&format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#))).unwrap_err(), ProofError::Algorithm);
    assert_eq!(check(&ours, &forged(r#"{"alg":"none"}"#)).unwrap_err(), ProofError::Algorithm);
    assert_eq!(check(&ours, &forged(&format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#))).unwrap_err(), ProofError::Algorithm);
    assert_eq!(check(&ours, &forged(&format!(r#"{{"alg":"EdDSA","jwk":{}}}"#, other.public().jwk()))).unwrap_err(), ProofError::Header("jwk"));
    assert_eq!(check(&ours, &forged(r#"{"alg":"EdDSA","jku":"https://evil.example"}"#)).unwrap_err(), ProofError::Header("jku"));
    assert_eq!(check(&ours, &forged(&format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#))).unwrap_err(), ProofError::Signature);
    assert_eq!(check(&ours, &"a".repeat(TOKEN_MAX + 1)).unwrap_err(), ProofError::TooLong(TOKEN_MAX));
    // Without a name, the key is clear only where there is one.
    let nameless = |keys: &[PublicKey]| {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA"}"#);
        let signed = format!("{header}.{}", parts[1]);
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(ours.sign(signed.as_bytes()).unwrap()));
        let keys = &KeySet::of_keys(keys);
        let expected = Expected { issuer: ISSUER, client: CLIENT, nonce: NONCE, keys, algorithms: ALL, access_token: "access", max_age: None };
        verify(&token, &expected, now()).map(drop)
    };
    assert_eq!(nameless(&[ours.public().clone()]), Ok(()));
    assert_eq!(nameless(&[ours.public().clone(), other.public().clone()]), Err(ProofError::Key));
}

fn logout_with(name: &str, value: Value) -> Result<LoggedOut, ProofError> {
    let at = now().as_seconds();
    let mut claims = json!({
        "iss": ISSUER, "sub": "u-1", "sid": "s-1", "aud": CLIENT, "iat": at, "exp": at + 120, "jti": "j", "events": { LOGOUT_EVENT: {} },
    });
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => put(&mut claims, name, value),
    }
    let key = key();
    logout(&jws::sign(&key, "logout+jwt", &claims).unwrap(), ISSUER, CLIENT, &KeySet::of_keys(&[key.public().clone()]), ALL, now())
}

#[test]
fn a_logout_token_names_a_person_or_a_session_and_each_of_its_checks_refuses_alone() {
    let whole = logout_with("x", json!(1)).unwrap();
    assert_eq!((whole.subject.as_deref(), whole.session.as_deref(), whole.jti.as_str()), (Some("u-1"), Some("s-1"), "j"));
    assert!(logout_with("sid", Value::Null).unwrap().session.is_none());
    assert!(logout_with("sub", Value::Null).unwrap().subject.is_none());
    let at = now().as_seconds();
    let cases = [
        ("iss", json!("https://evil.example"), ProofError::Issuer),
        ("aud", json!("another"), ProofError::Audience),
        ("exp", json!(at - 31), ProofError::Expired),
        ("exp", Value::Null, ProofError::Claim("exp")),
        ("iat", Value::Null, ProofError::Claim("iat")),
        ("events", Value::Null, ProofError::Claim("events")),
        ("events", json!({}), ProofError::Claim("events")),
        ("events", json!({ LOGOUT_EVENT: true }), ProofError::Claim("events")),
        ("events", json!([LOGOUT_EVENT]), ProofError::Claim("events")),
        ("nonce", json!("n"), ProofError::Claim("nonce")),
        ("jti", Value::Null, ProofError::Claim("jti")),
        ("jti", json!(""), ProofError::Claim("jti")),
    ];
    for (name, value, expected) in cases {
        assert_eq!(logout_with(name, value.clone()).unwrap_err(), expected, "{name} {value}");
    }
    // However far its end lies: it is too old before that, and then nobody needs to remember it.
    let far = logout_with("exp", json!(at + 31_536_000)).unwrap();
    assert_eq!(far.remember_until(), now().plus(Duration::from_secs(600)).plus(SKEW));
    assert_eq!(logout_with("iat", json!(at - 601)).unwrap_err(), ProofError::IssuedAt);
    // An ID token is no logout token, and neither is one that names nobody.
    let key = key();
    let as_logout = |typ: &str, claims: &Value| {
        logout(&jws::sign(&key, typ, claims).unwrap(), ISSUER, CLIENT, &KeySet::of_keys(&[key.public().clone()]), ALL, now())
    };
    assert_eq!(as_logout("JWT", &claims()).unwrap_err(), ProofError::Claim("events"));
    assert_eq!(as_logout("at+jwt", &claims()).unwrap_err(), ProofError::Type);
    let nobody = json!({ "iss": ISSUER, "aud": CLIENT, "iat": at, "exp": at + 9, "jti": "j", "events": { LOGOUT_EVENT: {} } });
    assert_eq!(as_logout("logout+jwt", &nobody).unwrap_err(), ProofError::Claim("sub"));
}

fn metadata() -> Value {
    json!({
        "issuer": ISSUER, "authorization_endpoint": format!("{ISSUER}/auth"), "token_endpoint": format!("{ISSUER}/token"),
        "jwks_uri": format!("{ISSUER}/keys"), "response_types_supported": ["code", "id_token"], "code_challenge_methods_supported": ["plain", "S256"],
        "authorization_response_iss_parameter_supported": true,
    })
}

#[test]
fn metadata_is_of_exactly_the_issuer_that_was_asked_and_names_places_that_may_be_asked() {
    let with = |name: &str, value: Value| {
        let mut document = metadata();
        put(&mut document, name, value);
        Provider::parse(ISSUER, document.to_string().as_bytes())
    };
    let provider = with("x", json!(1)).unwrap();
    assert!(provider.is_issuer_of(Some(ISSUER)) && !provider.is_issuer_of(None) && !provider.is_issuer_of(Some("https://evil.example")));
    let silent = with("authorization_response_iss_parameter_supported", json!(false)).unwrap();
    assert!(silent.is_issuer_of(None) && !silent.is_issuer_of(Some("https://evil.example")));
    assert!(matches!(with("issuer", json!("https://evil.example")), Err(DiscoveryError::Issuer(_))));
    assert!(matches!(with("issuer", json!(format!("{ISSUER}/"))), Err(DiscoveryError::Issuer(_))));
    for bad in ["http://login.example.org/x", "javascript:alert(1)", "https://u:p@login.example.org/", "https://h/#f", "//h/x", ""] {
        for name in ["authorization_endpoint", "token_endpoint", "jwks_uri"] {
            assert_eq!(with(name, json!(bad)).unwrap_err(), DiscoveryError::Member(name), "{bad}");
        }
    }
    assert!(with("token_endpoint", json!("http://127.0.0.1:3000/token")).is_ok());
    assert!(matches!(with("response_types_supported", json!(["id_token"])), Err(DiscoveryError::Unsupported(_))));
    assert!(matches!(with("code_challenge_methods_supported", json!(["plain"])), Err(DiscoveryError::Unsupported(_))));
    assert_eq!(Provider::parse(ISSUER, b"[]").unwrap_err(), DiscoveryError::Form);
    assert_eq!(well_known("https://h/a/"), "https://h/a/.well-known/openid-configuration");
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(text in ".{0,300}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let key = key();
        let _ = check(&key, &text).is_ok();
        let _ = logout(&text, ISSUER, CLIENT, &KeySet::of_keys(&[key.public().clone()]), ALL, now()).is_ok();
        let _ = Provider::parse(ISSUER, &bytes).is_ok();
    }
}
