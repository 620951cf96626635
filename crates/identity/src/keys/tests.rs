//! Tests of keys: published examples, strictness, and signatures of the cryptographic library under each kind.
use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use proptest::prelude::*;

fn b64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn the_thumbprints_are_those_of_the_standards_examples() {
    // RFC 7638 section 3.1.
    let rsa = json!({"kty": "RSA", "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"});
    let key = PublicKey::from_jwk(&rsa).unwrap();
    assert_eq!(key.id().to_string(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    assert!(key.is_named("2011-04-29") && key.is_named("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs") && !key.is_named("x"));
    // RFC 8037 appendix A.3.
    let okp = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    assert_eq!(PublicKey::from_jwk(&okp).unwrap().id().to_string(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

#[test]
fn a_key_reads_back_from_its_pkcs8_its_pem_and_its_jwk() {
    let (key, pkcs8) = SigningKey::generate().unwrap();
    assert_eq!(SigningKey::from_pkcs8(&pkcs8).unwrap().id(), key.id());
    assert_eq!(SigningKey::from_pem(&private_pem(&pkcs8)).unwrap().id(), key.id());
    assert_eq!(PublicKey::from_jwk(&key.public().jwk()).unwrap(), *key.public());
    assert_eq!(PublicKey::parse(&key.public().to_pem().unwrap()).unwrap(), *key.public());
    assert_eq!(key.id().to_string().parse(), Ok(key.id()));
}

#[test]
fn a_key_never_shows_its_private_half() {
    let (key, pkcs8) = SigningKey::generate().unwrap();
    let shown = format!("{key:?} {:?}", key.public());
    let seed = pkcs8.get(16..48).unwrap();
    assert!(!shown.contains(&b64(seed)) && !shown.contains(&format!("{seed:?}")), "{shown}");
    assert!(!jwks(&[key.public().clone()]).to_string().contains("\"d\""));
}

#[test]
fn each_kind_verifies_its_own_algorithms_and_no_other() {
    let rng = SystemRandom::new();
    let message = b"eyJ.e30";
    let (ours, _) = SigningKey::generate().unwrap();
    let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let rsa = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let mut pkcs1 = vec![0; rsa.public_modulus_len()];
    rsa.sign(&signature::RSA_PKCS1_SHA256, &rng, message, &mut pkcs1).unwrap();
    let mut pss = vec![0; rsa.public_modulus_len()];
    rsa.sign(&signature::RSA_PSS_SHA256, &rng, message, &mut pss).unwrap();
    let pem = |spki: &[u8]| PublicKey::parse(&to_pem(spki, "PUBLIC KEY")).unwrap();
    let rsa_key = pem(rsa.public_key().as_der().unwrap().as_ref());
    let cases = [
        ("EdDSA", ours.public().clone(), ours.sign(message).unwrap()),
        ("Ed25519", ours.public().clone(), ours.sign(message).unwrap()),
        ("ES256", pem(p256.public_key().as_der().unwrap().as_ref()), p256.sign(&rng, message).unwrap().as_ref().to_vec()),
        ("ES384", pem(p384.public_key().as_der().unwrap().as_ref()), p384.sign(&rng, message).unwrap().as_ref().to_vec()),
        ("RS256", rsa_key.clone(), pkcs1),
        ("PS256", rsa_key, pss),
    ];
    for (own, key, signature) in &cases {
        assert_eq!(key.verify(own, message, signature), Ok(()), "{own}");
        assert_eq!(key.verify(own, b"another", signature), Err(ProofError::Signature), "{own}");
        assert_eq!(PublicKey::from_jwk(&key.jwk()).unwrap(), *key, "{own}");
        assert_eq!(PublicKey::parse(&key.to_pem().unwrap()).unwrap(), *key, "{own}");
        for other in ["none", "None", "", "HS256", "HS512", "ES256K", "eddsa", "ES256", "ES384", "RS256", "PS256", "EdDSA", "RS512"] {
            let same = Algorithm::from_name(other).is_some() && Algorithm::from_name(other) == Algorithm::from_name(own);
            assert_eq!(key.verify(other, message, signature).is_ok(), same, "{own} as {other}");
        }
    }
}

#[test]
fn the_algorithm_of_a_jwk_narrows_what_its_key_is_for() {
    let rsa = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let mut jwk = PublicKey::parse(&to_pem(rsa.public_key().as_der().unwrap().as_ref(), "PUBLIC KEY")).unwrap().jwk();
    jwk["alg"] = json!("PS256");
    let key = PublicKey::from_jwk(&jwk).unwrap();
    assert!(key.allows(Algorithm::Ps256) && !key.allows(Algorithm::Rs256));
    jwk["alg"] = json!("ES256");
    assert!(PublicKey::from_jwk(&jwk).is_err());
    jwk["alg"] = json!("none");
    assert!(PublicKey::from_jwk(&jwk).is_err());
}

#[test]
fn what_is_no_good_public_key_is_refused_with_its_reason() {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let good = |more: Value| {
        let mut jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
        jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        PublicKey::from_jwk(&jwk)
    };
    assert!(good(json!({})).is_ok() && good(json!({"use": "sig", "key_ops": ["verify"]})).is_ok());
    assert_eq!(good(json!({"d": x})), Err(KeyError::Private));
    assert_eq!(good(json!({"kty": "oct", "k": "AAAA"})), Err(KeyError::Private));
    assert_eq!(good(json!({"crv": "X25519"})), Err(KeyError::Kind));
    assert_eq!(good(json!({"crv": "Ed448"})), Err(KeyError::Kind));
    for bad in [
        json!({"use": "enc"}),
        json!({"key_ops": ["sign"]}),
        json!({"x": format!("{x}=")}),
        json!({"x": b64(&[1; 31])}),
        json!({"x": 5}),
        json!({"kid": "a".repeat(300)}),
    ] {
        assert!(matches!(good(bad.clone()), Err(KeyError::Form(_))), "{bad}");
    }
    assert!(PublicKey::parse(&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","x":"{x}"}}"#)).is_err());
    let off_curve = json!({"kty": "EC", "crv": "P-256", "x": b64(&[1; 32]), "y": b64(&[1; 32])});
    assert!(PublicKey::from_jwk(&off_curve).is_err());
    let (_, pkcs8) = SigningKey::generate().unwrap();
    assert_eq!(PublicKey::parse(&private_pem(&pkcs8)), Err(KeyError::Private));
}

#[test]
fn a_weak_rsa_key_is_refused() {
    let jwk = |n: &[u8], e: &[u8]| PublicKey::from_jwk(&json!({"kty": "RSA", "n": b64(n), "e": b64(e)}));
    let mut n = vec![0xff; 255];
    assert!(matches!(jwk(&n, &[1, 0, 1]), Err(KeyError::Weak(_))));
    n.insert(0, 0x7f);
    assert!(matches!(jwk(&n, &[1, 0, 1]), Err(KeyError::Weak(_))), "2047 bits");
    n[0] = 0xff;
    assert!(matches!(jwk(&n, &[3]), Err(KeyError::Weak(_))));
    n.insert(0, 0);
    assert!(matches!(jwk(&n, &[1, 0, 1]), Err(KeyError::Form(_))), "leading zero");
    assert_eq!(jwk(&vec![0xff; 1025], &[1, 0, 1]), Err(KeyError::Kind));
}

#[test]
fn a_point_of_small_order_is_no_key() {
    let mut points = vec![[0u8; 32]; 2];
    points[1][0] = 1;
    for low in [0xec, 0xed, 0xee] {
        let mut p = [0xff; 32];
        p[0] = low;
        p[31] = 0x7f;
        points.push(p);
        p[31] = 0xff;
        points.push(p);
    }
    for x in points {
        assert!(matches!(PublicKey::from_jwk(&json!({"kty": "OKP", "crv": "Ed25519", "x": b64(&x)})), Err(KeyError::Weak(_))), "{x:?}");
    }
}

proptest! {
    #[test]
    fn no_text_and_no_der_makes_a_key_panic(text in ".{0,300}", der in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = PublicKey::parse(&text).is_ok();
        let _ = PublicKey::parse(&to_pem(&der, "PUBLIC KEY")).is_ok();
        let _ = SigningKey::from_pkcs8(&der).is_ok();
    }

    #[test]
    fn a_damaged_key_is_refused_or_is_another_key(at in 0usize..44, flip in 1u8..) {
        let (key, _) = SigningKey::generate().unwrap();
        let pem = key.public().to_pem().unwrap();
        let mut spki = from_pem(pem.trim(), "PUBLIC KEY").unwrap().to_vec();
        spki[at] ^= flip;
        if let Ok(other) = PublicKey::parse(&to_pem(&spki, "PUBLIC KEY")) {
            prop_assert_ne!(other, key.public().clone());
        }
    }
}
