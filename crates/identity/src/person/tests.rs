//! Tests of people's proofs and of signatures under decisions.
use super::*;
use proptest::prelude::*;
use serde_json::Value;

const API: &str = "http://127.0.0.1:4180";
const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const REQUEST: Request<'_> = Request { method: "POST", target: "/v1/tasks/task_1/revoke?why=x" };

fn alice() -> PersonName {
    "alice@corp".parse().unwrap()
}

fn key() -> SigningKey {
    SigningKey::generate().unwrap().0
}

fn held_by(key: &SigningKey) -> impl FnOnce(&KeyId) -> Option<(PersonName, PublicKey)> {
    let public = key.public().clone();
    move |id| (*id == public.id()).then(|| (alice(), public))
}

fn judged(typ: &str, more: Value) -> Result<Asked, ProofError> {
    let key = key();
    let now = NOW.as_seconds();
    let mut claims =
        json!({"sub": "alice@corp", "aud": API, "iat": now, "exp": now + 60, "jti": "0123456789", "htm": REQUEST.method, "htu": REQUEST.target});
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    verify(&jws::sign(&key, typ, &claims).unwrap(), held_by(&key), API, REQUEST, NOW)
}

#[test]
fn a_proof_proves_the_person_for_one_request() {
    let key = key();
    let proof = make(&key, &alice(), API, REQUEST, AssertionId::new(NOW, [1; 10]), NOW).unwrap();
    let asked = verify(&proof, held_by(&key), API, REQUEST, NOW).unwrap();
    assert_eq!((asked.person, asked.key), (alice(), key.id()));
    for other in [
        Request { method: "GET", ..REQUEST },
        Request { target: "/v1/tasks/task_1/revoke", ..REQUEST },
        Request { target: "/v1/tasks/task_2/revoke?why=x", ..REQUEST },
    ] {
        assert_eq!(verify(&proof, held_by(&key), API, other, NOW), Err(ProofError::Request), "{other:?}");
    }
    assert_eq!(verify(&proof, held_by(&key), "http://127.0.0.1:4181", REQUEST, NOW), Err(ProofError::Audience));
    assert_eq!(verify(&proof, |_| None, API, REQUEST, NOW), Err(ProofError::Key));
    let (other, public) = (self::key(), self::key().public().clone());
    assert_eq!(verify(&proof, |_| Some((alice(), public)), API, REQUEST, NOW), Err(ProofError::Key));
    assert_eq!(verify(&proof, held_by(&other), API, REQUEST, NOW), Err(ProofError::Key));
}

#[test]
fn every_rule_of_a_proof_has_its_refusal() {
    let now = NOW.as_seconds();
    let cases = [
        (json!({"sub": "bob@corp"}), ProofError::Claim("sub")),
        (json!({"sub": null}), ProofError::Claim("sub")),
        (json!({"aud": [API]}), ProofError::Claim("aud")),
        (json!({"htm": null}), ProofError::Claim("htm")),
        (json!({"htu": null}), ProofError::Claim("htu")),
        (json!({"jti": "short"}), ProofError::Claim("jti")),
        (json!({"exp": now - 5}), ProofError::Expired),
        (json!({"exp": now + 121}), ProofError::Lifetime),
        (json!({"iat": now + 6, "exp": now + 60}), ProofError::IssuedAt),
        (json!({"iat": null}), ProofError::Claim("iat")),
        (json!({"exp": null}), ProofError::Claim("exp")),
    ];
    for (more, expected) in cases {
        assert_eq!(judged(TYP, more.clone()), Err(expected), "{more}");
    }
    assert!(judged(TYP, json!({"exp": now - 4})).is_ok() && judged(TYP, json!({"exp": now + 120})).is_ok());
    for typ in ["at+jwt", "JWT", "client-authentication+jwt", "dpop+jwt"] {
        assert_eq!(judged(typ, json!({})), Err(ProofError::Type), "{typ}");
    }
}

#[test]
fn a_verdict_signs_exactly_one_call_one_text_and_one_word() {
    let key = key();
    let verdict = Verdict { hold: HoldId::new(NOW, [1; 10]), digest: Digest::of(b"call"), seen: Digest::of(b"words"), word: Word::Approve };
    let signature = verdict.sign(&key).unwrap();
    assert_eq!(verdict.verify(key.public(), &signature), Ok(()));
    let others = [
        Verdict { word: Word::Refuse, ..verdict },
        Verdict { hold: HoldId::new(NOW, [2; 10]), ..verdict },
        Verdict { digest: Digest::of(b"another"), ..verdict },
        Verdict { seen: Digest::of(b"other words"), ..verdict },
        Verdict { digest: verdict.seen, seen: verdict.digest, ..verdict },
    ];
    for other in others {
        assert_eq!(other.verify(key.public(), &signature), Err(ProofError::Signature), "{other:?}");
    }
    assert_eq!(verdict.verify(self::key().public(), &signature), Err(ProofError::Signature));
    for bad in ["", "AAAA", &format!("{signature}="), "not base64"] {
        assert!(verdict.verify(key.public(), bad).is_err(), "{bad}");
    }
}

#[test]
fn the_text_of_a_verdict_is_stable() {
    let verdict = Verdict {
        hold: HoldId::from_bytes([0x11; 16]),
        digest: Digest::from_bytes([0x22; 32]),
        seen: Digest::from_bytes([0x33; 32]),
        word: Word::Refuse,
    };
    let expected = format!("bailiwick-approval/v1\nhold_{}\n{}\n{}\nrefuse\n", "11".repeat(16), "22".repeat(32), "33".repeat(32));
    assert_eq!(verdict.message(), expected);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_or_pass(text in "[A-Za-z0-9_.=-]{0,400}|.{0,200}") {
        let key = key();
        prop_assert!(verify(&text, held_by(&key), API, REQUEST, NOW).is_err());
    }
}
