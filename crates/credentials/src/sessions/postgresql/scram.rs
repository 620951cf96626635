//! The client's side of SCRAM-SHA-256 (RFC 5802 section 3, RFC 7677), without channel binding: the server proves that it knows the verifier, and
//! the password is never sent.

use std::num::NonZeroU32;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// The only mechanism that is spoken.
pub(super) const MECHANISM: &str = "SCRAM-SHA-256";
/// A server that asks for more would keep us busy.
const ITERATIONS_MAX: u32 = 100_000;

/// An exchange under way.
pub(super) struct Scram {
    nonce: String,
}

/// What the server must prove.
pub(super) struct Proof(hmac::Tag);

impl Scram {
    /// `None` if there is no randomness.
    pub(super) fn new() -> Option<Self> {
        let mut nonce = [0; 18];
        rand::fill(&mut nonce).ok()?;
        Some(Self { nonce: STANDARD.encode(nonce) })
    }

    /// The first message, without and with its header. The user's name is in the startup message.
    pub(super) fn first(&self) -> String {
        format!("n,,n=,r={}", self.nonce)
    }

    /// The last message, and what the server must answer to it. `None`: the server's message is none of this exchange.
    pub(super) fn answer(self, password: &[u8], server_first: &[u8]) -> Option<(String, Proof)> {
        let server_first = str::from_utf8(server_first).ok()?;
        let mut parts = server_first.split(',');
        let nonce = parts.next()?.strip_prefix("r=")?;
        let salt = STANDARD.decode(parts.next()?.strip_prefix("s=")?).ok()?;
        let iterations: NonZeroU32 = parts.next()?.strip_prefix("i=")?.parse().ok()?;
        if !nonce.starts_with(&self.nonce) || nonce.len() <= self.nonce.len() || iterations.get() > ITERATIONS_MAX || salt.is_empty() {
            return None;
        }
        let mut salted = Zeroizing::new([0; 32]);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password, salted.as_mut_slice());
        let key = hmac::Key::new(hmac::HMAC_SHA256, salted.as_slice());
        let client_key = hmac::sign(&key, b"Client Key");
        let stored = digest::digest(&digest::SHA256, client_key.as_ref());
        let without_proof = format!("c=biws,r={nonce}");
        let message = format!("n=,r={},{server_first},{without_proof}", self.nonce);
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, stored.as_ref()), message.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, signature)| key ^ signature).collect();
        let server_key = hmac::sign(&key, b"Server Key");
        let expected = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, server_key.as_ref()), message.as_bytes());
        Some((format!("{without_proof},p={}", STANDARD.encode(proof)), Proof(expected)))
    }
}

impl Proof {
    /// Did the server prove that it knows the verifier?
    pub(super) fn holds(&self, server_final: &[u8]) -> bool {
        let given = str::from_utf8(server_final).ok().and_then(|text| text.strip_prefix("v=")).and_then(|v| STANDARD.decode(v).ok());
        given.is_some_and(|given| constant_time::verify_slices_are_equal(&given, self.0.as_ref()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exchange_is_that_of_rfc_7677() {
        // RFC 7677 section 3, with an empty user name as PostgreSQL has it: the proof and the signature were computed by another implementation.
        let scram = Scram { nonce: "rOprNGfwEbeRWgbNEkqO".into() };
        assert_eq!(scram.first(), "n,,n=,r=rOprNGfwEbeRWgbNEkqO");
        let server = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, proof) = scram.answer(b"pencil", server).unwrap();
        assert_eq!(last, "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=qvT2SWdEH5Q06albL+hjSYuUhCG7VndFyzIb7CK4n9k=");
        assert!(proof.holds(b"v=3HO6Qt1M4MKJrmlKaoOqLAI0/0TV0HZe7J9H3MBtSOg="));
        assert!(!proof.holds(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!proof.holds(b"e=other-error"));
    }

    #[test]
    fn a_server_that_does_not_answer_our_nonce_gets_no_proof() {
        for message in [
            "r=abc,s=AAAA,i=4096",
            "r=other-def,s=AAAA,i=4096",
            "r=abcdef,s=AAAA,i=0",
            "r=abcdef,s=AAAA,i=99999999",
            "r=abcdef,s=,i=4096",
            "r=abcdef,s=AAAA",
            "m=x,r=abcdef,s=AAAA,i=4096",
            "",
        ] {
            assert!(Scram { nonce: "abc".into() }.answer(b"pencil", message.as_bytes()).is_none(), "{message}");
        }
        assert!(Scram { nonce: "abc".into() }.answer(b"pencil", b"r=abcdef,s=AAAA,i=4096").is_some());
    }
}
