//! Nonces that nobody remembers: each says by itself when it was given, under a key that only we have.

use std::time::Duration;

use aws_lc_rs::hmac;
use bailiwick_core::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A nonce is the same for so many seconds.
const SLOT: i64 = 60;
/// It is taken for so many seconds after that.
const LIFE: i64 = 180;
/// Eight bytes that say when, and the tag, in base64url.
const LENGTH: usize = 54;

/// Makes and knows nonces. Whoever makes one anew, with another key, knows none that was given before.
#[derive(Clone)]
pub struct Nonces {
    key: hmac::Key,
}

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nonces")
    }
}

impl Nonces {
    /// The longest time for which a nonce is taken.
    pub const LIFE_MAX: Duration = Duration::from_secs(240);

    /// Nonces under a random key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// The nonce of now: 54 characters of base64url.
    #[must_use]
    pub fn current(&self, now: Timestamp) -> String {
        self.of(slot(now))
    }

    /// Until when this nonce is taken, if it is one of ours and is taken now.
    #[must_use]
    pub fn accepted_until(&self, nonce: &str, now: Timestamp) -> Option<Timestamp> {
        if nonce.len() != LENGTH {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(nonce).ok()?;
        let (when, tag) = bytes.split_first_chunk::<8>()?;
        hmac::verify(&self.key, when, tag).ok()?;
        let when = i64::from_be_bytes(*when);
        let until = when.checked_add(1)?.checked_mul(SLOT)?.checked_add(LIFE)?;
        (when <= slot(now) && now.as_seconds() < until).then(|| Timestamp::from_seconds(until))
    }

    fn of(&self, slot: i64) -> String {
        let tag = hmac::sign(&self.key, &slot.to_be_bytes());
        let bytes: Vec<u8> = slot.to_be_bytes().into_iter().chain(tag.as_ref().iter().copied()).collect();
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

fn slot(now: Timestamp) -> i64 {
    now.as_seconds().div_euclid(SLOT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    #[test]
    fn a_nonce_is_taken_for_a_few_minutes_and_not_a_second_longer() {
        let nonces = Nonces::new(&[7; 32]);
        let nonce = nonces.current(NOW);
        let until = nonces.accepted_until(&nonce, NOW).unwrap();
        assert!(NOW.until(until) <= Nonces::LIFE_MAX && NOW.until(until) > Duration::from_secs(179));
        assert!(nonces.accepted_until(&nonce, until.minus(Duration::from_millis(1))).is_some());
        assert!(nonces.accepted_until(&nonce, until).is_none());
        assert!(nonces.accepted_until(&nonce, NOW.minus(Duration::from_secs(61))).is_none(), "from the future");
    }

    #[test]
    fn nonces_of_another_key_or_changed_ones_are_not_ours() {
        let nonces = Nonces::new(&[7; 32]);
        assert!(nonces.accepted_until(&Nonces::new(&[8; 32]).current(NOW), NOW).is_none());
        let good = nonces.current(NOW);
        for at in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert!(nonces.accepted_until(std::str::from_utf8(&bytes).unwrap(), NOW).is_none(), "{at}");
        }
        let shown = format!("{nonces:?}");
        assert_eq!(shown, "Nonces");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_is_taken(text in ".{0,60}", slot in any::<i64>(), at in any::<i64>()) {
            let nonces = Nonces::new(&[7; 32]);
            let forged = URL_SAFE_NO_PAD.encode(slot.to_be_bytes().into_iter().chain([0; 32]).collect::<Vec<u8>>());
            prop_assert!(nonces.accepted_until(&text, Timestamp::from_millis(at)).is_none());
            prop_assert!(nonces.accepted_until(&forged, NOW).is_none());
            let _ = nonces.accepted_until(&nonces.of(slot), NOW).is_some();
        }
    }
}
