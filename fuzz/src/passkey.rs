//! Any bytes as what a browser hands over of a passkey: an attestation object with right client data, an assertion that is rightly signed, a decision on
//! record. They end without panic, and only what the site's own authenticator made for this challenge passes.

use std::sync::OnceLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bailiwick_core::Digest;
use bailiwick_identity::PublicKey;
use bailiwick_identity::passkey::{Assertion, Challenge, Passkey, Signed, Site, decode, register, verify};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const ORIGIN: &str = "https://broker.example";

static HOLDER: OnceLock<(Ed25519KeyPair, Passkey, Site)> = OnceLock::new();

fn holder() -> &'static (Ed25519KeyPair, Passkey, Site) {
    HOLDER.get_or_init(|| {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let key = PublicKey::parse(&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}"#)).expect("a key");
        let site = Site { id: "broker.example".to_owned(), origins: vec![ORIGIN.to_owned()] };
        (pair, Passkey { id: vec![7; 32], key, counter: 5, can_be_copied: false }, site)
    })
}

fn client_data(kind: &str, challenge: &Challenge) -> Vec<u8> {
    format!(r#"{{"type":"{kind}","challenge":"{}","origin":"{ORIGIN}","crossOrigin":false}}"#, challenge.encoded()).into_bytes()
}

/// See the file.
pub fn run(bytes: &[u8]) {
    let (pair, passkey, site) = holder();
    let challenge = Challenge::of("once");
    if let Ok(made) = register(bytes, &client_data("webauthn.create", &challenge), &challenge, site) {
        assert!((16..=1023).contains(&made.passkey.id.len()));
    }
    assert!(register(bytes, &client_data("webauthn.get", &challenge), &challenge, site).is_err());
    assert!(register(bytes, &client_data("webauthn.create", &Challenge::of("another")), &challenge, site).is_err());
    let _ = register(bytes, bytes, &challenge, site).is_ok();
    let data = client_data("webauthn.get", &challenge);
    // The site's hash first, so that the flags and what follows them are what is tried.
    let authenticator = [Digest::of(site.id.as_bytes()).as_bytes().as_slice(), bytes].concat();
    let message = [authenticator.as_slice(), Digest::of(&data).as_bytes()].concat();
    let assertion = Assertion {
        id: passkey.id.clone(),
        authenticator_data: authenticator,
        client_data: data,
        signature: pair.sign(&message).as_ref().to_vec(),
        user_handle: None,
    };
    if let Ok(used) = verify(&assertion, passkey, b"ana", &challenge, site) {
        // Present, verified, not copied; a counter that rose; nothing behind it but extensions.
        assert!(used.counter > 5 && bytes.first().is_some_and(|flags| flags & 0x5d == 0x05), "{bytes:02x?}");
    }
    let other = Assertion { signature: bytes.to_vec(), ..assertion };
    assert!(verify(&other, passkey, b"ana", &challenge, site).is_err());
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = decode(text).is_ok();
        if let Ok(signed) = Signed::parse(text) {
            assert_eq!(Signed::parse(&signed.to_string()), Ok(signed));
        }
    }
}
