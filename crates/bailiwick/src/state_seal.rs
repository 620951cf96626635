//! What we hand to a client and get back: `requestState` of held calls, handles of asynchronous results. Sealed, so that a client
//! can neither read nor make one; bound to task and call, and never a right by itself.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use bailiwick_core::{Digest, HoldId, TaskId, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::house::StartError;

const NONCE: usize = 12;
const STATE: &str = "bailiwick/state/v1";
const LONGEST: usize = 64 * 1024;

/// What is sealed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// A call that is held: which leg of waiting this is, so that the state changes with every leg.
    Hold {
        /// The hold.
        hold: HoldId,
        /// The task of the call.
        task: TaskId,
        /// The key of the call.
        key: Digest,
        /// 1 for the first answer.
        leg: u32,
        /// After this it is refused.
        until: Timestamp,
    },
    /// An upstream's own `requestState`, on its way back through us.
    Upstream {
        /// The task of the call.
        task: TaskId,
        /// The key of the call: tool, definition, target, arguments.
        key: Digest,
        /// The upstream's state, if it gave one.
        inner: Option<String>,
        /// After this it is refused.
        until: Timestamp,
    },
    /// A call that waits, while it runs, for the answer to a question of its system.
    Parked {
        /// Under which it is kept: 32 hex digits.
        id: String,
        /// The task of the call.
        task: TaskId,
        /// The key of the call: tool, definition, target, task, arguments.
        key: Digest,
        /// After this it is refused.
        until: Timestamp,
    },
    /// A handle of an asynchronous result (MCP's tasks extension).
    Async {
        /// The hold that it waits for.
        hold: HoldId,
        /// The task of the call.
        task: TaskId,
    },
}

/// Seals and unseals.
pub struct StateSeal {
    key: RandomizedNonceKey,
}

impl std::fmt::Debug for StateSeal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateSeal(..)")
    }
}

impl StateSeal {
    /// With a key of 32 bytes.
    ///
    /// # Errors
    /// If the cryptographic library does not take it.
    pub fn new(key: &[u8; 32]) -> Result<Self, StartError> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|e| StartError::place("the state key", e))?;
        Ok(Self { key })
    }

    /// Seals. `None` only if the cryptographic library fails.
    #[must_use]
    pub fn seal(&self, state: &State) -> Option<String> {
        self.seal_as(STATE, state)
    }

    /// Seals another thing, under a word of its own: what was sealed under one word never opens under another.
    pub(crate) fn seal_as<T: Serialize>(&self, word: &'static str, what: &T) -> Option<String> {
        let mut bytes = serde_json::to_vec(what).ok()?;
        let nonce = self.key.seal_in_place_append_tag(Aad::from(word.as_bytes()), &mut bytes).ok()?;
        let mut out = nonce.as_ref().to_vec();
        out.append(&mut bytes);
        Some(URL_SAFE_NO_PAD.encode(out))
    }

    /// Unseals what a client gave back. `None`: it is not ours, or was changed.
    #[must_use]
    pub fn open(&self, text: &str) -> Option<State> {
        self.open_as(STATE, text)
    }

    /// Unseals what was sealed under this word.
    pub(crate) fn open_as<T: DeserializeOwned>(&self, word: &'static str, text: &str) -> Option<T> {
        if text.len() > LONGEST {
            return None;
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self.key.open_in_place(nonce, Aad::from(word.as_bytes()), sealed).ok()?;
        serde_json::from_slice(plain).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_and_what_was_changed_does_not() {
        let seal = StateSeal::new(&[7; 32]).unwrap();
        let at = Timestamp::from_millis(9);
        let state = State::Async { hold: HoldId::new(at, [1; 10]), task: TaskId::new(at, [2; 10]) };
        let text = seal.seal(&state).unwrap();
        assert_eq!(seal.open(&text), Some(state));
        assert_ne!(seal.seal(&seal.open(&text).unwrap()).unwrap(), text);
        for i in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
            assert!(seal.open(std::str::from_utf8(&bytes).unwrap()).is_none(), "{i}");
        }
        assert!(seal.open("").is_none() && seal.open("AAAA").is_none());
        assert!(StateSeal::new(&[8; 32]).unwrap().open(&text).is_none());
        let other = seal.seal_as("another word", &State::Async { hold: HoldId::new(at, [1; 10]), task: TaskId::new(at, [2; 10]) }).unwrap();
        assert!(seal.open(&other).is_none() && seal.open_as::<State>("another word", &other).is_some());
    }
}
