//! Held calls in memory: found by their key on the call's path, with a bell that rings when anything about a hold changes.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use bailiwick_core::hold::HoldState;
use bailiwick_core::{Digest, Hold, HoldId, TaskId, Timestamp};
use tokio::sync::watch;

/// Holds that still matter: pending, approved and unused, or refused a while ago. The durable truth is the store's.
#[derive(Debug)]
pub struct Holds {
    by_key: RwLock<HashMap<Digest, Hold>>,
    bell: watch::Sender<u64>,
}

impl Default for Holds {
    fn default() -> Self {
        Self { by_key: RwLock::default(), bell: watch::Sender::new(0) }
    }
}

impl Holds {
    /// Takes over what the store says about a hold, and rings.
    pub fn put(&self, hold: Hold) {
        {
            let mut by_key = self.by_key.write().unwrap_or_else(PoisonError::into_inner);
            match hold.state {
                HoldState::Pending | HoldState::Approved { .. } | HoldState::Refused { .. } => {
                    by_key.insert(hold.key, hold);
                }
                HoldState::Expired { .. } | HoldState::Withdrawn { .. } | HoldState::Consumed { .. } => {
                    if by_key.get(&hold.key).is_some_and(|h| h.id == hold.id) {
                        by_key.remove(&hold.key);
                    }
                }
            }
        }
        self.ring();
    }

    /// Wakes everyone who waits for a hold.
    pub fn ring(&self) {
        self.bell.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// The hold of this key, if it still matters.
    #[must_use]
    pub fn find(&self, key: &Digest, now: Timestamp) -> Option<Hold> {
        let by_key = self.by_key.read().unwrap_or_else(PoisonError::into_inner);
        by_key.get(key).filter(|h| now < h.expires_at).cloned()
    }

    /// Is there any hold at all? Saves hashing a key on the way of a read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The hold of this id, if it still matters.
    #[must_use]
    pub fn get(&self, id: HoldId) -> Option<Hold> {
        let by_key = self.by_key.read().unwrap_or_else(PoisonError::into_inner);
        by_key.values().find(|h| h.id == id).cloned()
    }

    /// The holds that pass a test.
    #[must_use]
    pub fn matching(&self, test: impl Fn(&Hold) -> bool) -> Vec<Hold> {
        let by_key = self.by_key.read().unwrap_or_else(PoisonError::into_inner);
        by_key.values().filter(|h| test(h)).cloned().collect()
    }

    /// How many calls of a task wait for people.
    #[must_use]
    pub fn pending_of(&self, task: TaskId) -> usize {
        self.matching(|h| h.task == task && h.state == HoldState::Pending).len()
    }

    /// Listens to the bell.
    #[must_use]
    pub fn bell(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }
}
