//! Every rule of a security event token is broken once, alone; and what we tell is what we would take.

use bailiwick_core::{TaskId, TrustDomain};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::jws;
use crate::keys::SigningKey;
use crate::strict::put;
use crate::token::Issuer;

const ISSUER: &str = "https://login.example.org";
const OURS: &str = "https://broker.example.org";
const ALL: &[Algorithm] = &[Algorithm::EdDsa];

fn now() -> Timestamp {
    Timestamp::from_seconds(1_763_856_000)
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": [OURS, "https://other.example"], "iat": now().as_seconds(), "jti": "j-1", "txn": "t",
        "sub_id": { "format": "iss_sub", "iss": ISSUER, "sub": "u-1" },
        "events": { event_type::ACCOUNT_DISABLED: { "reason": "hijacking" } },
    })
}

fn check(typ: &str, claims: &Value) -> Result<Received, Refused> {
    let key = SigningKey::generate().unwrap().0;
    let keys = KeySet::of_keys(&[key.public().clone()]);
    verify(&jws::sign(&key, typ, claims).unwrap(), &From { issuer: ISSUER, audience: OURS, keys: &keys, algorithms: ALL }, now())
}

fn with(name: &str, value: Value) -> Result<Received, Refused> {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => put(&mut claims, name, value),
    }
    check("secevent+jwt", &claims)
}

#[test]
fn a_token_says_of_whom_and_what() {
    let received = with("x", json!(1)).unwrap();
    assert_eq!(received.subject, Some(Subject::IssSub { iss: ISSUER.to_owned(), sub: "u-1".to_owned() }));
    assert_eq!(received.events, [Event::AccountDisabled]);
    assert!(received.remember_until() > now().plus(AGE_MAX), "its id outlives its age");
    let verification = with("events", json!({ event_type::VERIFICATION: { "state": "abc" } })).unwrap();
    assert_eq!(verification.events, [Event::Verification { state: Some("abc".to_owned()) }]);
    assert!(matches!(&with("events", json!({ "https://x.example/new": {} })).unwrap().events[..], [Event::Other(_)]));
}

#[test]
fn each_check_refuses_alone_with_the_code_of_the_standard() {
    let at = now().as_seconds();
    let cases = [
        ("iss", json!("https://evil.example"), "invalid_issuer"),
        ("iss", Value::Null, "invalid_request"),
        ("aud", json!("https://other.example"), "invalid_audience"),
        ("aud", Value::Null, "invalid_audience"),
        ("exp", json!(at + 60), "invalid_request"),
        ("sub", json!("u-1"), "invalid_request"),
        ("iat", json!(at + 61), "invalid_request"),
        ("iat", json!(at - 7 * 24 * 3600 - 1), "invalid_request"),
        ("iat", Value::Null, "invalid_request"),
        ("jti", Value::Null, "invalid_request"),
        ("jti", json!("j".repeat(257)), "invalid_request"),
        ("events", json!({}), "invalid_request"),
        ("events", json!([]), "invalid_request"),
        ("events", json!({ event_type::SESSION_REVOKED: 1 }), "invalid_request"),
        ("events", Value::Null, "invalid_request"),
        ("sub_id", json!("u-1"), "invalid_request"),
        ("sub_id", json!({ "iss": ISSUER, "sub": "u-1" }), "invalid_request"),
        ("sub_id", json!({ "format": "iss_sub", "iss": ISSUER }), "invalid_request"),
        ("sub_id", json!({ "format": "iss_sub", "iss": ISSUER, "sub": "u", "email": "e" }), "invalid_request"),
        ("sub_id", json!({ "format": "email", "email": "" }), "invalid_request"),
        ("sub_id", json!({ "format": "complex" }), "invalid_request"),
        ("sub_id", json!({ "format": "complex", "user": { "format": "complex", "user": {} } }), "invalid_request"),
        ("sub_id", json!({ "format": "aliases", "identifiers": [] }), "invalid_request"),
        ("sub_id", json!({ "format": "aliases", "identifiers": [{ "format": "aliases", "identifiers": [] }] }), "invalid_request"),
    ];
    for (name, value, expected) in cases {
        assert_eq!(with(name, value.clone()).unwrap_err().code(), expected, "{name} {value}");
    }
    for typ in ["JWT", "logout+jwt", "at+jwt"] {
        assert_eq!(check(typ, &claims()).unwrap_err().code(), "invalid_request", "{typ}");
    }
    let (ours, other) = (SigningKey::generate().unwrap().0, SigningKey::generate().unwrap().0);
    let keys = KeySet::of_keys(&[ours.public().clone()]);
    let from = From { issuer: ISSUER, audience: OURS, keys: &keys, algorithms: ALL };
    assert_eq!(verify(&jws::sign(&other, "secevent+jwt", &claims()).unwrap(), &from, now()).unwrap_err().code(), "invalid_key");
    let narrow = From { algorithms: &[Algorithm::Es256], ..from };
    assert_eq!(verify(&jws::sign(&ours, "secevent+jwt", &claims()).unwrap(), &narrow, now()).unwrap_err().code(), "invalid_key");
}

#[test]
fn subjects_are_read_as_they_are_written() {
    let email = Subject::Email("ana@example.org".to_owned());
    let id = Subject::IssSub { iss: ISSUER.to_owned(), sub: "u-1".to_owned() };
    let session = Some(Box::new(Subject::Opaque("s-1".to_owned())));
    let complex = Subject::Complex { user: Some(Box::new(id.clone())), session, narrowed: false };
    for subject in [email.clone(), id.clone(), complex, Subject::Aliases(vec![id, email])] {
        assert_eq!(Subject::read(&subject.to_json()), Ok(subject));
    }
    let device = json!({ "format": "complex", "user": { "format": "opaque", "id": "x" }, "device": { "format": "opaque", "id": "y" } });
    assert!(matches!(Subject::read(&device), Ok(Subject::Complex { narrowed: true, .. })));
    assert_eq!(Subject::read(&json!({ "format": "phone_number", "phone_number": "+1" })), Ok(Subject::Other("phone_number".to_owned())));
}

#[test]
fn the_end_of_a_task_is_told_as_a_token_that_any_receiver_verifies() {
    let key = SigningKey::generate().unwrap().0;
    let keys = KeySet::of_keys(&[key.public().clone()]);
    let domain: TrustDomain = "example.org".parse().unwrap();
    let issuer = Issuer::new(OURS.to_owned(), domain, key);
    let task = TaskId::new(now(), [1; 10]);
    let user = Subject::IssSub { iss: ISSUER.to_owned(), sub: "u-1".to_owned() };
    let end = TaskEnd { task, user: user.clone(), audience: "https://siem.example", jti: "e-17", at: now(), by: Initiator::Admin, reason: "revoked" };
    let token = end.sign(&issuer, now()).unwrap();
    let from = From { issuer: OURS, audience: "https://siem.example", keys: &keys, algorithms: ALL };
    let received = verify(&token, &from, now()).unwrap();
    let session = Some(Box::new(Subject::Opaque(task.to_string())));
    assert_eq!(received.subject, Some(Subject::Complex { user: Some(Box::new(user)), session, narrowed: false }));
    assert_eq!((received.jti.as_str(), received.events.as_slice()), ("e-17", [Event::SessionRevoked].as_slice()));
    assert_eq!(named_issuer(&token).unwrap(), OURS);
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,300}", part in "[A-Za-z0-9_-]{0,200}") {
        let keys = KeySet::of_keys(&[SigningKey::generate().unwrap().0.public().clone()]);
        let from = From { issuer: ISSUER, audience: OURS, keys: &keys, algorithms: ALL };
        let _ = (verify(&text, &from, now()).is_ok(), named_issuer(&format!("e30.{part}.x")).is_ok());
    }
}
