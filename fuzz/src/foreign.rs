//! Any header and claims, rightly signed by an issuer, and any bytes as tokens and key sets: foreign tokens end without panic, and pass only
//! what keeps every rule of their profile. Patterns of claims fit only what has their segments.

use std::sync::OnceLock;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use bailiwick_core::Timestamp;
use bailiwick_identity::foreign::{ClaimPath, Claimed, KeySet, Mapping, Pattern, Rules, Wanted, id_jag, jwt_svid, oidc};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Parts;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const AGE: Duration = Duration::from_secs(600);
const OIDC: &str = "https://i.example";
const DOMAIN: &str = "spiffe://t.example";

static SPIRE: OnceLock<(EcdsaKeyPair, KeySet)> = OnceLock::new();

fn spire() -> &'static (EcdsaKeyPair, KeySet) {
    SPIRE.get_or_init(|| {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let bundle = format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","use":"jwt-svid","kid":"k","x":"{x}","y":"{y}"}}]}}"#);
        let keys = KeySet::spiffe_bundle(bundle.as_bytes()).expect("a bundle");
        (pair, keys)
    })
}

/// See the file.
pub fn run(bytes: &[u8]) {
    let mut parts = Parts::of(bytes);
    let (kind, header, pattern, path, claims) = (parts.byte(), parts.line(), parts.line(), parts.line(), parts.rest());
    let (pair, keys) = super::issuer();
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
    if let Ok(found) = id_jag::verify(&token, keys, &rules(OIDC), NOW) {
        assert!(kind % 4 >= 2 && found.jti.len() >= 8 && !found.client_id.is_empty());
    }
    assert!(jwt_svid::verify(&token, keys, &rules(DOMAIN), NOW).is_err());
    let (pair, keys) = spire();
    let header = if kind % 4 == 3 { header } else { r#"{"alg":"ES256","kid":"k"}"# };
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let svid = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature")));
    if let Ok(found) = jwt_svid::verify(&svid, keys, &rules(DOMAIN), NOW) {
        assert!(found.id.as_str().starts_with("spiffe://t.example/") && found.expires <= NOW.plus(AGE * 2));
        // What is for us alone is for us.
        assert!(jwt_svid::verify_for(&svid, keys, &"t.example".parse().expect("a trust domain"), &ours[0], NOW).is_ok());
    }
    if let Ok(pattern) = pattern.parse::<Pattern>() {
        let segments = |text: &str| text.matches(['/', ':']).count();
        let text = String::from_utf8_lossy(claims);
        assert!(!pattern.fits(&text) || segments(&text) == segments(&pattern.to_string()));
    }
}
