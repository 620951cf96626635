//! Tests of client assertions: those of other implementations verify; every rule has its refusal.
use super::*;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const CLIENT: &str = "spiffe://example.org/agent/planner";
const ISSUER: &str = "https://broker.example";

fn ours() -> Vec<String> {
    audiences(ISSUER, "https://broker.example/oauth/token")
}

fn registered(keys: Vec<PublicKey>) -> impl FnOnce(&str) -> Option<Registered> {
    move |id| (id == CLIENT).then(|| Registered { agent: "planner".parse().unwrap(), component: None, keys })
}

fn good() -> Value {
    let now = NOW.as_seconds();
    json!({"iss": CLIENT, "sub": CLIENT, "aud": ISSUER, "jti": "0123456789", "iat": now, "exp": now + 60})
}

fn forge(key: &SigningKey, header: &Value, claims: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap()))
}

fn judged(header: Value, more: Value) -> Result<Proved, ProofError> {
    let (key, _) = SigningKey::generate().unwrap();
    let mut claims = good();
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    let token = forge(&key, &header, &claims.to_string());
    verify(&token, None, registered(vec![key.public().clone()]), &ours(), NOW)
}

fn with(claims: Value) -> Result<Proved, ProofError> {
    judged(json!({"alg": "EdDSA"}), claims)
}

#[test]
fn an_assertion_of_our_own_client_proves_agent_key_instance_and_claimed_model() {
    let (key, _) = SigningKey::generate().unwrap();
    let client = CLIENT.parse().unwrap();
    let instance = InstanceId::new(NOW, [1; 10]);
    let what =
        Statement { client: &client, audience: ISSUER, jti: AssertionId::new(NOW, [2; 10]), instance: Some(instance), model: Some("acme/m-1") };
    let assertion = make(&key, &what, NOW).unwrap();
    let proved = verify(&assertion, Some(CLIENT), registered(vec![key.public().clone()]), &ours(), NOW).unwrap();
    assert_eq!((proved.agent.as_str(), proved.key, proved.instance), ("planner", key.id(), Some(instance)));
    assert_eq!((proved.model.as_deref(), proved.jti), (Some("acme/m-1"), AssertionId::new(NOW, [2; 10]).to_string()));
}

#[test]
fn assertions_of_another_implementation_verify_under_each_kind_of_key() {
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::signature::KeyPair as _;
    use aws_lc_rs::{rsa, signature as s};
    use base64::engine::general_purpose::STANDARD;
    use jsonwebtoken::{Algorithm as A, EncodingKey};
    let pem = |spki: &[u8]| PublicKey::parse(&format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(spki))).unwrap();
    let p256 = s::EcdsaKeyPair::generate(&s::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let p384 = s::EcdsaKeyPair::generate(&s::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let rsa = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let rsa_der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = rsa.as_der().unwrap();
    let rsa_pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(rsa_der.as_ref()));
    let rsa_key = || EncodingKey::from_rsa_pem(rsa_pem.as_bytes()).unwrap();
    let (ours_key, pkcs8) = SigningKey::generate().unwrap();
    let cases = [
        (A::EdDSA, ours_key.public().clone(), EncodingKey::from_ed_der(&pkcs8)),
        (A::ES256, pem(p256.public_key().as_der().unwrap().as_ref()), EncodingKey::from_ec_der(p256.to_pkcs8v1().unwrap().as_ref())),
        (A::ES384, pem(p384.public_key().as_der().unwrap().as_ref()), EncodingKey::from_ec_der(p384.to_pkcs8v1().unwrap().as_ref())),
        (A::RS256, pem(rsa.public_key().as_der().unwrap().as_ref()), rsa_key()),
        (A::PS256, pem(rsa.public_key().as_der().unwrap().as_ref()), rsa_key()),
    ];
    for (alg, public, private) in cases {
        let assertion = jsonwebtoken::encode(&jsonwebtoken::Header::new(alg), &good(), &private).unwrap();
        let proved = verify(&assertion, None, registered(vec![ours_key.public().clone(), public.clone()]), &ours(), NOW);
        assert_eq!(proved.map(|p| p.key), Ok(public.id()), "{alg:?}");
    }
}

#[test]
fn issuer_subject_and_client_id_must_be_the_same_registered_spiffe_id() {
    assert_eq!(with(json!({"iss": "spiffe://example.org/agent/other"})), Err(ProofError::Issuer));
    assert_eq!(with(json!({"sub": "spiffe://example.org/agent/other"})), Err(ProofError::Issuer));
    let other = "spiffe://example.org/agent/other";
    assert_eq!(with(json!({"iss": other, "sub": other})), Err(ProofError::Client));
    assert_eq!(with(json!({"iss": "planner", "sub": "planner"})), Err(ProofError::Client));
    assert_eq!(with(json!({"iss": null})), Err(ProofError::Claim("iss")));
    assert_eq!(with(json!({"sub": null})), Err(ProofError::Claim("sub")));
    let (key, _) = SigningKey::generate().unwrap();
    let assertion = forge(&key, &json!({"alg": "EdDSA"}), &good().to_string());
    assert_eq!(verify(&assertion, Some("planner"), registered(vec![key.public().clone()]), &ours(), NOW), Err(ProofError::Client));
}

#[test]
fn bi_015_and_bi_016_only_the_algorithms_of_the_registered_key_exist() {
    for alg in ["none", "HS256", "RS256", "ES256", "PS256", "eddsa", ""] {
        assert_eq!(judged(json!({"alg": alg}), json!({})), Err(ProofError::Algorithm), "{alg}");
    }
    assert_eq!(judged(json!({}), json!({})), Err(ProofError::Algorithm));
    let (key, _) = SigningKey::generate().unwrap();
    let x = URL_SAFE_NO_PAD.decode(key.public().jwk()["x"].as_str().unwrap()).unwrap();
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), URL_SAFE_NO_PAD.encode(good().to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &x), signed.as_bytes());
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag));
    assert_eq!(verify(&token, None, registered(vec![key.public().clone()]), &ours(), NOW), Err(ProofError::Algorithm));
}

#[test]
fn bi_019_a_header_may_name_a_registered_key_and_bring_none() {
    for name in ["jku", "x5u", "x5c", "jwk", "crit", "b64"] {
        assert_eq!(judged(json!({"alg": "EdDSA", name: "https://evil.example/k"}), json!({})), Err(ProofError::Header(name)));
    }
    for kid in [json!("../../dev/null"), json!(""), json!(1), json!("x".repeat(500))] {
        assert_eq!(judged(json!({"alg": "EdDSA", "kid": kid}), json!({})), Err(ProofError::Key), "{kid}");
    }
    let (key, _) = SigningKey::generate().unwrap();
    let (other, _) = SigningKey::generate().unwrap();
    let both = || registered(vec![key.public().clone(), other.public().clone()]);
    let named = forge(&key, &json!({"alg": "EdDSA", "kid": key.id().to_string()}), &good().to_string());
    assert_eq!(verify(&named, None, both(), &ours(), NOW).map(|p| p.key), Ok(key.id()));
    let swapped = forge(&key, &json!({"alg": "EdDSA", "kid": other.id().to_string()}), &good().to_string());
    assert_eq!(verify(&swapped, None, both(), &ours(), NOW), Err(ProofError::Signature));
    assert_eq!(verify(&named, None, registered(Vec::new()), &ours(), NOW), Err(ProofError::Key));
}

#[test]
fn the_audience_is_the_issuer_or_the_token_endpoint_and_nobody_else() {
    for aud in [
        json!(ISSUER),
        json!("https://broker.example/"),
        json!("https://broker.example/oauth/token"),
        json!([ISSUER]),
        json!([ISSUER, "https://broker.example/oauth/token"]),
    ] {
        assert!(with(json!({"aud": aud})).is_ok(), "{aud}");
    }
    for aud in [
        json!("https://evil.example"),
        json!([ISSUER, "https://evil.example"]),
        json!([]),
        json!([1]),
        json!("https://BROKER.example"),
        json!(vec![ISSUER; 5]),
    ] {
        assert_eq!(with(json!({"aud": aud})), Err(ProofError::Audience), "{aud}");
    }
    assert_eq!(with(json!({"aud": null})), Err(ProofError::Claim("aud")));
    assert_eq!(with(json!({"aud": {"a": ISSUER}})), Err(ProofError::Claim("aud")));
}

#[test]
fn an_issuer_with_a_path_is_known_without_an_added_slash_only() {
    assert!(!audiences("https://a.example/x", "https://a.example/t").contains(&"https://a.example/x/".to_owned()));
}

#[test]
fn bi_022_the_times_hold_at_their_bounds() {
    let now = NOW.as_seconds();
    let cases = [
        ("exp", json!(now - 4), None),
        ("exp", json!(now - 5), Some(ProofError::Expired)),
        ("exp", json!(now - 6), Some(ProofError::Expired)),
        ("exp", json!(now + 3630), None),
        ("exp", json!(now + 3631), Some(ProofError::Lifetime)),
        ("exp", json!(null), Some(ProofError::Claim("exp"))),
        ("nbf", json!(now + 30), None),
        ("nbf", json!(now + 31), Some(ProofError::NotYet)),
        ("iat", json!(now + 30), None),
        ("iat", json!(now + 31), Some(ProofError::IssuedAt)),
        ("iat", json!(now - 630), None),
        ("iat", json!(now - 631), Some(ProofError::IssuedAt)),
        ("iat", json!(null), None),
        ("iat", json!("now"), Some(ProofError::Claim("iat"))),
    ];
    for (name, value, expected) in cases {
        assert_eq!(with(json!({name: value})).err(), expected, "{name} {value}");
    }
}

#[test]
fn an_assertion_without_a_usable_jti_is_refused() {
    for jti in [json!(null), json!("short12"), json!("x".repeat(257)), json!(12_345_678)] {
        assert_eq!(with(json!({"jti": jti})), Err(ProofError::Claim("jti")), "{jti}");
    }
}

#[test]
fn the_jti_is_to_be_remembered_as_long_as_the_assertion_could_pass() {
    let proved = with(json!({})).unwrap();
    let (key, _) = SigningKey::generate().unwrap();
    let token = forge(&key, &json!({"alg": "EdDSA"}), &good().to_string());
    let late = |at| verify(&token, None, registered(vec![key.public().clone()]), &ours(), at);
    assert!(late(Timestamp::from_millis(proved.remember_until().as_millis() - 1)).is_ok());
    assert_eq!(late(proved.remember_until()), Err(ProofError::Expired));
}

#[test]
fn a_jwt_of_another_type_is_no_assertion() {
    for typ in ["at+jwt", "application/at+jwt", "bailiwick-person+jwt", "dpop+jwt", "secevent+jwt"] {
        assert_eq!(judged(json!({"alg": "EdDSA", "typ": typ}), json!({})), Err(ProofError::Type), "{typ}");
    }
    for typ in ["JWT", "jwt", "client-authentication+jwt", "application/jwt"] {
        assert!(judged(json!({"alg": "EdDSA", "typ": typ}), json!({})).is_ok(), "{typ}");
    }
}

#[test]
fn an_assertion_is_no_access_token_and_an_access_token_is_no_assertion() {
    let (key, pkcs8) = SigningKey::generate().unwrap();
    let domain: bailiwick_core::TrustDomain = "example.org".parse().unwrap();
    let issuer = crate::Issuer::new(ISSUER.to_owned(), domain.clone(), SigningKey::from_pkcs8(&pkcs8).unwrap());
    let what = crate::token::Statement {
        agent: "planner".parse().unwrap(),
        instance: InstanceId::new(NOW, [1; 10]),
        acting: crate::token::Acting::default(),
        purpose: crate::token::Purpose::Agent,
        scope: crate::oauth::Scope::agent(),
        audience: ISSUER.to_owned(),
        jti: bailiwick_core::SessionId::new(NOW, [2; 10]),
        confirmation: None,
    };
    let access = issuer.issue(&what, NOW, LIFE_MAX).unwrap().token;
    assert_eq!(verify(&access, None, registered(vec![key.public().clone()]), &ours(), NOW), Err(ProofError::Type));
    let verifier = crate::Verifier::new(ISSUER.to_owned(), domain, vec![key.public().clone()]);
    let client = CLIENT.parse().unwrap();
    let what = Statement { client: &client, audience: ISSUER, jti: AssertionId::new(NOW, [2; 10]), instance: None, model: None };
    assert_eq!(verifier.verify(&make(&key, &what, NOW).unwrap(), ISSUER, NOW), Err(ProofError::Type));
}

#[test]
fn duplicate_oversized_and_malformed_claims_are_refused() {
    let (key, _) = SigningKey::generate().unwrap();
    let twice = good().to_string().replacen('{', r#"{"sub":"spiffe://example.org/agent/other","#, 1);
    let token = forge(&key, &json!({"alg": "EdDSA"}), &twice);
    assert_eq!(verify(&token, None, registered(vec![key.public().clone()]), &ours(), NOW), Err(ProofError::Duplicate));
    assert_eq!(with(json!({"pad": "x".repeat(8000)})), Err(ProofError::TooLong(8192)));
    assert_eq!(with(json!({"bailiwick_instance": "x"})), Err(ProofError::Claim("bailiwick_instance")));
    for model in [json!(""), json!("a\nb"), json!("x".repeat(201)), json!({"name": "x"})] {
        assert_eq!(with(json!({"model": model})), Err(ProofError::Claim("model")), "{model}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_or_pass(text in "[A-Za-z0-9_.=-]{0,400}|.{0,200}", header in ".{0,80}", claims in ".{0,200}") {
        let (key, _) = SigningKey::generate().unwrap();
        let token = format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        for text in [text, token] {
            prop_assert!(verify(&text, None, registered(vec![key.public().clone()]), &ours(), NOW).is_err());
        }
    }
}
