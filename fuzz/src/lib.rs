//! What strangers send, thrown at each parser that reads it: one module for each target, each with a `run` that takes any bytes and panics if a promise
//! is broken.
//!
//! `cargo fuzz` drives them by the binaries in `fuzz_targets`; `cargo xtask test` runs them over their seeds (`crates/bailiwick/tests/it/seeds.rs`).

use std::sync::OnceLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bailiwick_identity::foreign::KeySet;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

pub mod assertion;
pub mod certificate;
pub mod client_metadata;
pub mod der;
pub mod dpop;
pub mod envelope;
pub mod foreign;
pub mod json;
pub mod oauth_form;
pub mod openapi;
pub mod passkey;
pub mod schema;
pub mod sign_in;
pub mod spiffe;
pub mod sql;
pub mod sse;
pub mod token;
pub mod workload_api;

/// A target: what it does with the bytes of a stranger.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 18] = [
    ("assertion", assertion::run),
    ("certificate", certificate::run),
    ("client_metadata", client_metadata::run),
    ("der", der::run),
    ("dpop", dpop::run),
    ("envelope", envelope::run),
    ("foreign", foreign::run),
    ("json", json::run),
    ("oauth_form", oauth_form::run),
    ("openapi", openapi::run),
    ("passkey", passkey::run),
    ("schema", schema::run),
    ("sign_in", sign_in::run),
    ("spiffe", spiffe::run),
    ("sql", sql::run),
    ("sse", sse::run),
    ("token", token::run),
    ("workload_api", workload_api::run),
];

/// A key of somebody who issues tokens, and the key set with which its signatures are verified.
fn issuer() -> &'static (Ed25519KeyPair, KeySet) {
    static ISSUER: OnceLock<(Ed25519KeyPair, KeySet)> = OnceLock::new();
    ISSUER.get_or_init(|| {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let keys = KeySet::jwks(format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"k"}}]}}"#).as_bytes()).expect("a key set");
        (pair, keys)
    })
}

/// Bytes that are taken apart: a byte, lines, and what is left.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    const fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The first byte; zero if there is none.
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A line, which is empty if it is no text.
    fn line(&mut self) -> &'a str {
        let end = self.0.iter().position(|byte| *byte == b'\n').unwrap_or(self.0.len());
        let (line, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        str::from_utf8(line).unwrap_or_default()
    }

    const fn rest(self) -> &'a [u8] {
        self.0
    }
}
