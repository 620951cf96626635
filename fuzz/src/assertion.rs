//! Any header and claims, rightly signed, and any bytes: `private_key_jwt` ends without panic, and passes only what keeps every rule.

use std::sync::OnceLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bailiwick_core::Timestamp;
use bailiwick_identity::PublicKey;
use bailiwick_identity::assertion::{AHEAD_MAX, Registered, SKEW, audiences, verify};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Parts;

const CLIENT: &str = "spiffe://example.org/agent/planner";
const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

static KEY: OnceLock<(Ed25519KeyPair, PublicKey)> = OnceLock::new();

fn key() -> &'static (Ed25519KeyPair, PublicKey) {
    KEY.get_or_init(|| {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let public = PublicKey::parse(&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}"#)).expect("a key");
        (pair, public)
    })
}

/// See the file.
pub fn run(bytes: &[u8]) {
    let mut parts = Parts::of(bytes);
    let (own_header, header, claims) = (parts.flag(), parts.line(), parts.rest());
    let (pair, public) = key();
    let lookup =
        |id: &str| (id == CLIENT).then(|| Registered { agent: "planner".parse().expect("a name"), component: None, keys: vec![public.clone()] });
    let ours = audiences("https://broker.example", "https://broker.example/oauth/token");
    assert!(verify(header, None, |_| None, &ours, NOW).is_err());
    let header = if own_header { r#"{"alg":"EdDSA"}"# } else { header };
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let assertion = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes())));
    let Ok(proved) = verify(&assertion, Some(CLIENT), lookup, &ours, NOW) else { return };
    assert!(assertion.len() <= 8192 && (8..=256).contains(&proved.jti.len()));
    assert_eq!((proved.agent.as_str(), proved.key), ("planner", public.id()));
    assert!(proved.remember_until() > NOW && proved.expires <= NOW.plus(AHEAD_MAX).plus(SKEW));
}
