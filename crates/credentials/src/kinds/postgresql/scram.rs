//! The verifier of a password, computed here so that the server never sees the password, and no log of statements has it.
//!
//! RFC 5802 section 3 and RFC 7677, in the form that `PostgreSQL` stores: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::Secret;
use crate::lease::{Step, TargetCode, TargetError};

/// RFC 7677 section 4: at least 4096. More would gain nothing, because our passwords are 256 random bits.
const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(4095);

/// The verifier of a password of printable ASCII, under a random salt. (Other passwords would need `SASLprep` first; ours never do.)
pub(in crate::kinds) fn verifier(secret: &Secret) -> Result<String, TargetError> {
    let mut salt = [0; 16];
    rand::fill(&mut salt).map_err(|_| TargetError::new(TargetCode::Internal, Step::Mint, "", "no randomness is available"))?;
    if !secret.expose().iter().all(u8::is_ascii_graphic) || secret.is_empty() {
        return Err(TargetError::new(TargetCode::Plan, Step::Mint, "", "the password is not printable ASCII"));
    }
    Ok(of(secret.expose(), &salt))
}

fn of(password: &[u8], salt: &[u8]) -> String {
    let mut salted = Zeroizing::new([0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, salt, password, salted.as_mut_slice());
    let key = hmac::Key::new(hmac::HMAC_SHA256, salted.as_slice());
    let client = hmac::sign(&key, b"Client Key");
    let stored = digest::digest(&digest::SHA256, client.as_ref());
    let server = hmac::sign(&key, b"Server Key");
    format!("SCRAM-SHA-256${ITERATIONS}:{}${}:{}", STANDARD.encode(salt), STANDARD.encode(stored), STANDARD.encode(server))
}

/// Is it the verifier of this password?
#[cfg(test)]
pub(super) fn is_of(verifier: &str, secret: &Secret) -> bool {
    let salt = verifier.split(['$', ':']).nth(2).and_then(|salt| STANDARD.decode(salt).ok()).unwrap_or_default();
    of(secret.expose(), &salt) == verifier
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifier_is_that_of_rfc_7677() {
        // RFC 7677 section 3: user `user`, password `pencil`, this salt and 4096 iterations. The keys were computed from the same input
        // by another implementation, and they reproduce the example's proof and server signature.
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        assert_eq!(
            of(b"pencil", &salt),
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
    }

    #[test]
    fn two_verifiers_of_one_password_differ() {
        let secret = Secret::from("pencil".to_owned());
        assert_ne!(verifier(&secret).unwrap(), verifier(&secret).unwrap());
        assert!(verifier(&Secret::from("p\u{e4}ncil".to_owned())).is_err());
        assert!(verifier(&Secret::from(String::new())).is_err());
    }
}
