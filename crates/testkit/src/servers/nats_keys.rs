//! Keys and signed claims of NATS for private servers, written here a second time from the format's description, so that what the broker writes is read by others.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::nats::Nats;

const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const SEED: u8 = 18 << 3;
const USER: u8 = 20 << 3;

/// A key, with its seed.
#[derive(Debug)]
pub struct Nkey {
    pair: Ed25519KeyPair,
    /// Its public half, such as `UA..`.
    pub public: String,
    /// Its seed, such as `SUA..`.
    pub seed: String,
}

impl Nkey {
    /// `letter` says whose it is: `O`, `A` or `U`; `number` makes the key.
    pub fn new(letter: u8, number: u8) -> Result<Self> {
        let prefix = match letter {
            b'O' => 14 << 3,
            b'A' => 0,
            _ => USER,
        };
        Self::of(prefix, &[number; 32])
    }

    /// That of a user, from its seed.
    pub fn from_seed(seed: &str) -> Result<Self> {
        let bits = seed.bytes().map(|letter| {
            let digit = DIGITS.iter().position(|digit| *digit == letter).context("no digit of base 32")?;
            Ok(format!("{digit:05b}"))
        });
        let bits: String = bits.collect::<Result<_>>()?;
        let bytes = bits.as_bytes().chunks_exact(8).map(|byte| Ok(u8::from_str_radix(str::from_utf8(byte)?, 2)?));
        let bytes: Vec<u8> = bytes.collect::<Result<_>>()?;
        Self::of(USER, bytes.get(2..34).context("too short for a seed")?)
    }

    fn of(prefix: u8, key: &[u8]) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(key).ok().context("no key of Ed25519")?;
        let public = base32(&[&[prefix], pair.public_key().as_ref()].concat());
        let seed = base32(&[&[SEED | prefix >> 5, prefix << 3][..], key].concat());
        Ok(Self { pair, public, seed })
    }

    /// The claims, with this issuer, signed.
    #[must_use]
    pub fn sign(&self, mut claims: Value) -> String {
        if let Some(claims) = claims.as_object_mut() {
            claims.insert("iss".to_owned(), self.public.clone().into());
            claims.insert("jti".to_owned(), "made-by-a-test".into());
        }
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), encode(&claims));
        format!("{signed}.{}", self.signature(&signed))
    }

    /// The signature of a server's nonce, as a client sends it.
    #[must_use]
    pub fn signature(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.sign(text.as_bytes()))
    }
}

/// The bytes and their checksum (CRC-16/XMODEM) in base 32 without padding.
fn base32(bytes: &[u8]) -> String {
    let mut sum = 0_u16;
    for byte in bytes {
        sum ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            sum = if sum & 0x8000 == 0 { sum << 1 } else { sum << 1 ^ 0x1021 };
        }
    }
    let bits: String = bytes.iter().chain(&sum.to_le_bytes()).map(|byte| format!("{byte:08b}")).collect();
    let digit = |bits: &[u8]| {
        let value = bits.iter().chain(&[b'0'; 4]).take(5).fold(0_usize, |value, bit| value << 1 | usize::from(*bit == b'1'));
        char::from(DIGITS.get(value).copied().unwrap_or(b'?'))
    };
    bits.as_bytes().chunks(5).map(digit).collect()
}

/// Starts a server that trusts the operator, with an account and the system account.
pub fn start(operator: &Nkey, account: &Nkey, system: &Nkey, full: bool, more: &str) -> Result<Nats> {
    let (shop, ours) = (account_jwt(operator, account, &[]), account_jwt(operator, system, &[]));
    let accounts = [(account.public.as_str(), shop.as_str()), (&system.public, &ours)];
    let trusted = operator.sign(json!({ "sub": operator.public, "name": "operator", "iat": 1, "nats": { "type": "operator", "version": 2 } }));
    Nats::start(&trusted, &system.public, &accounts, full, more)
}

/// The account's JWT, with these users revoked until these seconds.
#[must_use]
pub fn account_jwt(operator: &Nkey, account: &Nkey, revoked: &[(&str, i64)]) -> String {
    let limits = json!({ "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1 });
    let mut nats = json!({ "type": "account", "version": 2, "limits": limits });
    let revoked: BTreeMap<_, _> = revoked.iter().copied().collect();
    if let Some(nats) = nats.as_object_mut().filter(|_| !revoked.is_empty()) {
        nats.insert("revocations".to_owned(), json!(revoked));
    }
    operator.sign(json!({ "sub": account.public, "name": "shop", "iat": 1, "nats": nats }))
}

/// The JWT of a user of the account that may do everything.
#[must_use]
pub fn user_jwt(account: &Nkey, user: &Nkey, name: &str) -> String {
    let nats = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    account.sign(json!({ "sub": user.public, "name": name, "iat": 1, "nats": nats }))
}

/// Credentials of a user of the system account that may publish to these subjects, and hears answers.
#[must_use]
pub fn system_credentials(system: &Nkey, user: &Nkey, subjects: &[&str]) -> String {
    let nats = json!({
        "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": { "allow": subjects }, "sub": { "allow": ["_INBOX.>"] },
    });
    let jwt = system.sign(json!({ "sub": user.public, "name": "broker", "iat": 1, "nats": nats }));
    let seed = &user.seed;
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}
