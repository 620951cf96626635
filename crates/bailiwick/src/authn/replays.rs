//! Which proofs of possession were used, for as long as they would be taken again: in memory, bounded, and closed when it is full.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use bailiwick_core::Timestamp;
use bailiwick_identity::KeyId;
use bailiwick_identity::dpop::{Nonces, Proved};

/// Parts that are locked each for itself.
const SHARDS: usize = 16;
/// Proofs that one part remembers of one generation: a million in all.
const SHARD_MAX: usize = 1 << 16;
/// Of these, by one key: a quarter, so that no agent fills the memory of all.
const OF_KEY_MAX: u32 = 1 << 14;

/// What was used. A generation lasts as long as the longest time for which a proof is taken, and the one before it is kept: so what is
/// forgotten is not taken any more.
#[derive(Debug, Default)]
pub(crate) struct Replays {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    began: Timestamp,
    now: Generation,
    before: Generation,
}

#[derive(Debug, Default)]
struct Generation {
    used: HashSet<[u8; 16]>,
    by_key: HashMap<KeyId, u32>,
}

/// There is no room to remember another proof, so none can be taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Replays {
    /// Notes that a proof is used; false if it was used before.
    pub(crate) fn first(&self, proved: &Proved, now: Timestamp) -> Result<bool, Full> {
        let bytes = proved.once.as_bytes();
        let (Some(short), Some(first)) = (bytes.first_chunk::<16>(), bytes.last()) else { return Err(Full) };
        // The shard is chosen by another part than what is kept.
        let shard = self.shards.get(usize::from(*first) % SHARDS).ok_or(Full)?;
        shard.lock().unwrap_or_else(PoisonError::into_inner).first(*short, proved.key, now)
    }
}

impl Shard {
    fn first(&mut self, used: [u8; 16], key: KeyId, now: Timestamp) -> Result<bool, Full> {
        let age = self.began.until(now);
        if age >= Nonces::LIFE_MAX {
            let old = std::mem::take(&mut self.now);
            // After a long silence the one before is too old as well.
            self.before = if age >= Nonces::LIFE_MAX.saturating_mul(2) { Generation::default() } else { old };
            self.began = now;
        }
        if self.now.used.contains(&used) || self.before.used.contains(&used) {
            return Ok(false);
        }
        // Looked at before anything is kept: keys cost nothing to make, and what is refused must not grow us.
        if self.now.used.len() >= SHARD_MAX || self.now.by_key.get(&key).is_some_and(|count| *count >= OF_KEY_MAX) {
            return Err(Full);
        }
        let of_key = self.now.by_key.entry(key).or_default();
        *of_key = of_key.saturating_add(1);
        self.now.used.insert(used);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn key(n: u8) -> KeyId {
        format!("{}{}", "A".repeat(41), ["AA", "AE", "AI", "AM"][usize::from(n) % 4]).parse().unwrap()
    }

    fn stranger(n: u8) -> KeyId {
        URL_SAFE_NO_PAD.encode([n; 32]).parse().unwrap()
    }

    fn used(n: u32) -> [u8; 16] {
        let mut all = [0; 16];
        all[..4].copy_from_slice(&n.to_be_bytes());
        all
    }

    #[test]
    fn a_proof_is_new_once_for_as_long_as_it_is_taken() {
        let mut shard = Shard::default();
        assert_eq!(shard.first(used(1), key(0), NOW), Ok(true));
        for seconds in [0, 1, 100, 239] {
            assert_eq!(shard.first(used(1), key(0), NOW.plus(Duration::from_secs(seconds))), Ok(false), "{seconds}");
        }
    }

    #[test]
    fn one_key_fills_its_own_part_and_no_other_and_time_makes_room() {
        let mut shard = Shard::default();
        for n in 0..OF_KEY_MAX {
            assert_eq!(shard.first(used(n), key(0), NOW), Ok(true));
        }
        assert_eq!(shard.first(used(OF_KEY_MAX), key(0), NOW), Err(Full));
        assert_eq!(shard.first(used(OF_KEY_MAX), key(1), NOW), Ok(true));
        assert_eq!(shard.first(used(7), key(0), NOW), Ok(false), "what was used is told also when it is full");
        let later = NOW.plus(Nonces::LIFE_MAX);
        assert_eq!(shard.first(used(OF_KEY_MAX + 1), key(0), later), Ok(true));
    }

    #[test]
    fn it_is_bounded_whatever_comes() {
        let mut shard = Shard::default();
        let most = u32::try_from(SHARD_MAX).unwrap();
        let taken = (0..most + 10).filter(|n| shard.first(used(*n), key(u8::try_from(n % 4).unwrap()), NOW) == Ok(true)).count();
        assert_eq!(taken, SHARD_MAX);
        // Nor do keys pile up for which there is no room.
        for n in 0..100_u8 {
            assert_eq!(shard.first(used(most + 20), stranger(n), NOW), Err(Full));
        }
        assert_eq!(shard.now.by_key.len(), 4);
    }

    proptest! {
        #[test]
        fn no_proof_is_new_twice_within_the_time_for_which_it_is_taken(steps in proptest::collection::vec((0_u32..6, 0_u64..90), 1..60)) {
            let mut shard = Shard::default();
            let mut last: HashMap<u32, Timestamp> = HashMap::new();
            let mut now = NOW;
            for (proof, wait) in steps {
                now = now.plus(Duration::from_secs(wait));
                let new = shard.first(used(proof), key(0), now).unwrap();
                if let Some(before) = last.get(&proof) {
                    prop_assert!(!new || before.until(now) >= Nonces::LIFE_MAX, "{proof} again after {:?}", before.until(now));
                }
                if new {
                    last.insert(proof, now);
                }
            }
        }
    }
}
