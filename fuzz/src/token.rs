//! Any header and claims, rightly signed, and any bytes: the verifier ends without panic, and passes only what keeps every rule.

use std::sync::OnceLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bailiwick_core::{Timestamp, TrustDomain};
use bailiwick_identity::{PublicKey, Verifier};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Parts;

const ISSUER: &str = "https://broker.example";
const AUDIENCE: &str = "https://broker.example/mcp";
const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

static KEY: OnceLock<(Ed25519KeyPair, Verifier, String)> = OnceLock::new();

fn key() -> &'static (Ed25519KeyPair, Verifier, String) {
    KEY.get_or_init(|| {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let public = PublicKey::parse(&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}"#)).expect("a key");
        let domain: TrustDomain = "example.org".parse().expect("a domain");
        let kid = public.id().to_string();
        (pair, Verifier::new(ISSUER.to_owned(), domain, vec![public]), kid)
    })
}

/// See the file.
pub fn run(bytes: &[u8]) {
    let mut parts = Parts::of(bytes);
    let (own_header, header, claims) = (parts.flag(), parts.line(), parts.rest());
    let (pair, verifier, kid) = key();
    let _ = verifier.verify(header, AUDIENCE, NOW).is_ok();
    let ours = format!(r#"{{"typ":"at+jwt","alg":"EdDSA","kid":"{kid}"}}"#);
    let header = if own_header { &ours } else { header };
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes())));
    let Ok(verified) = verifier.verify(&token, AUDIENCE, NOW) else { return };
    assert!(token.len() <= 8192 && header.contains(kid.as_str()));
    assert_eq!((verified.issuer.as_str(), verified.audience.as_str()), (ISSUER, AUDIENCE));
    assert!(verified.check_time(NOW).is_ok());
    assert!(verified.spiffe_id.as_str().strip_prefix("spiffe://example.org/agent/") == Some(verified.agent.as_str()));
    assert_eq!(verified.task().is_some(), verified.caller().is_some());
}
