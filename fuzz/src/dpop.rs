//! Any header and claims, rightly signed, and any bytes: a proof of possession ends without panic, and passes only what keeps every rule.

use std::sync::OnceLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bailiwick_core::Timestamp;
use bailiwick_identity::dpop::{Nonces, OFF_MAX, Request, Rules, Target, verify};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Parts;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

static KEY: OnceLock<(Ed25519KeyPair, Nonces, Target)> = OnceLock::new();

fn key() -> &'static (Ed25519KeyPair, Nonces, Target) {
    KEY.get_or_init(|| {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
        (pair, Nonces::new(&[1; 32]), Target::new("https://gw.example/mcp").expect("a URL"))
    })
}

/// See the file.
pub fn run(bytes: &[u8]) {
    let mut parts = Parts::of(bytes);
    let (own_header, header, htu, claims) = (parts.flag(), parts.line(), parts.line(), parts.rest());
    let (pair, nonces, target) = key();
    let rules = Rules { nonces, nonce_required: false, remembered_since: NOW.minus(OFF_MAX) };
    let request = Request { method: "POST", target, token: Some("token") };
    let _ = verify(header, request, rules, NOW).is_ok();
    let _ = (target.is(htu), nonces.accepted_until(htu, NOW));
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    let ours = format!(r#"{{"typ":"dpop+jwt","alg":"EdDSA","jwk":{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}}}"#);
    let header = if own_header { &ours } else { header };
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let proof = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes())));
    let Ok(proved) = verify(&proof, request, rules, NOW) else { return };
    assert!(proof.len() <= 8192 && proved.remember_until > NOW && NOW.until(proved.remember_until) <= Nonces::LIFE_MAX);
}
