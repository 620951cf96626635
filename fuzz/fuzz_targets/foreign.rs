//! Any header and claims, rightly signed by an issuer, and any bytes as tokens and key sets: foreign tokens end without panic, and pass only
//! what keeps every rule of their profile. Patterns of claims fit only what has their segments.
#![no_main]

use std::sync::OnceLock;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bailiwick_core::Timestamp;
use bailiwick_identity::foreign::{Claimed, ClaimPath, KeySet, Mapping, Pattern, Rules, Wanted, id_jag, jwt_svid, oidc};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const AGE: Duration = Duration::from_secs(600);
const OIDC: &str = "https://i.example";
const DOMAIN: &str = "spiffe://t.example";

static ISSUER: OnceLock<(Ed25519KeyPair, KeySet)> = OnceLock::new();

fn issuer() -> &'static (Ed25519KeyPair, KeySet) {
    ISSUER.get_or_init(|| {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let keys = KeySet::jwks(format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"k"}}]}}"#).as_bytes()).expect("a key set");
        (pair, keys)
    })
}

fuzz_target!(|input: (u8, &str, &[u8], &str, &str)| {
    let (kind, header, claims, pattern, path) = input;
    let (pair, keys) = issuer();
    let ours = ["https://b.example".to_owned()];
    let rules = |issuer| Rules { issuer, audiences: &ours, age_max: AGE };
    let _ = KeySet::jwks(claims).is_ok();
    let _ = KeySet::spiffe_bundle(claims).is_ok();
    let _ = Claimed::read(header).is_ok();
    assert!(oidc::verify(header, keys, &rules(OIDC), NOW).is_err());
    let header = match kind % 4 {
        0 => r#"{"alg":"EdDSA","kid":"k"}"#,
        1 => r#"{"alg":"EdDSA","typ":"JWT"}"#,
        2 => r#"{"alg":"EdDSA","typ":"oauth-id-jag+jwt"}"#,
        _ => header,
    };
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes())));
    let mapping = || Mapping::bounding([(path.parse::<ClaimPath>().ok()?, Wanted::Text(pattern.parse().ok()?))]).ok();
    if let Ok(found) = oidc::verify(&token, keys, &rules(OIDC), NOW) {
        assert!(!found.subject.is_empty() && found.expires > NOW.minus(Duration::from_secs(5)) && found.issued >= NOW.minus(AGE * 2));
        let _ = mapping().map(|mapping| found.claims.fit(&mapping));
    }
    if let Ok(found) = jwt_svid::verify(&token, keys, &rules(DOMAIN), NOW) {
        assert!(found.id.as_str().starts_with("spiffe://t.example/") && found.expires <= NOW.plus(AGE * 2));
    }
    if let Ok(found) = id_jag::verify(&token, keys, &rules(OIDC), NOW) {
        assert!(kind % 4 >= 2 && found.jti.len() >= 8 && !found.client_id.is_empty());
    }
    if let Ok(pattern) = pattern.parse::<Pattern>() {
        let segments = |text: &str| text.matches(['/', ':']).count();
        let text = String::from_utf8_lossy(claims);
        assert!(!pattern.fits(&text) || segments(&text) == segments(&pattern.to_string()));
    }
});
