//! Any claims, rightly signed by a provider, and any bytes: ID tokens, logout tokens and security events end without panic, none passes for another, and
//! what passes is of that provider and for us.

use bailiwick_core::Timestamp;
use bailiwick_identity::Algorithm;
use bailiwick_identity::secevent::{self, From};
use bailiwick_identity::sign_in::{Expected, Provider, logout, verify};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Parts;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const ISSUER: &str = "https://i.example";
const US: &str = "broker";
const ALL: &[Algorithm] = &Algorithm::ALL;

/// See the file.
pub fn run(bytes: &[u8]) {
    let mut parts = Parts::of(bytes);
    let (kind, header, claims) = (parts.byte(), parts.line(), parts.rest());
    let (pair, keys) = super::issuer();
    let header = match kind % 4 {
        0 => r#"{"alg":"EdDSA","kid":"k"}"#,
        1 => r#"{"alg":"EdDSA","kid":"k","typ":"logout+jwt"}"#,
        2 => r#"{"alg":"EdDSA","kid":"k","typ":"secevent+jwt"}"#,
        _ => header,
    };
    if let Ok(read) = Provider::parse(ISSUER, claims) {
        assert!(read.issuer == ISSUER && read.keys.scheme().starts_with("http") && read.token.username().is_empty());
    }
    let _ = secevent::named_issuer(header).is_ok();
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes())));
    let expected = Expected { issuer: ISSUER, client: US, nonce: "n", keys, algorithms: ALL, access_token: "a", max_age: None };
    let id = verify(&token, &expected, NOW);
    let out = logout(&token, ISSUER, US, keys, ALL, NOW);
    let told = secevent::verify(&token, &From { issuer: ISSUER, audience: US, keys, algorithms: ALL }, NOW);
    // A token is of one kind.
    assert!(u8::from(id.is_ok()) + u8::from(out.is_ok()) + u8::from(told.is_ok()) <= 1);
    if let Ok(id) = id {
        assert!((1..=255).contains(&id.subject.len()) && id.subject.is_ascii());
    }
    if let Ok(out) = out {
        assert!((out.subject.is_some() || out.session.is_some()) && out.remember_until() > NOW);
    }
    if let Ok(told) = told {
        assert!((1..=8).contains(&told.events.len()) && told.remember_until() > NOW && told.issuer == ISSUER);
    }
    // Signed by nobody, it is none of them.
    let forged = format!("{signed}.{}", URL_SAFE_NO_PAD.encode([0; 64]));
    assert!(verify(&forged, &expected, NOW).is_err() && logout(&forged, ISSUER, US, keys, ALL, NOW).is_err());
}
