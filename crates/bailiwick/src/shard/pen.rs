//! The pen: signs each head of the ledger inside the store's transaction, and can be taken away. Without it nothing is written.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bailiwick_ledger::note::SigningKey;
use bailiwick_ledger::{Hash, Origin, VerifierKey, sign_checkpoint};

/// What signs, shared between the store's writer and whoever may stop it.
pub struct Pen(ArcSwap<State>);

enum State {
    Writes { key: SigningKey, origin: Origin },
    Stopped { key: VerifierKey, origin: Origin, why: Arc<str> },
}

impl Pen {
    /// A pen that signs for this log.
    #[must_use]
    pub fn new(key: SigningKey, origin: Origin) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(State::Writes { key, origin })))
    }

    /// Nothing is signed from here on. The first reason stays.
    pub fn stop(&self, why: &str) {
        self.0.rcu(|state| match &**state {
            State::Writes { key, origin } => Arc::new(State::Stopped { key: key.verifier().clone(), origin: origin.clone(), why: why.into() }),
            State::Stopped { .. } => Arc::clone(state),
        });
    }

    /// Why nothing is signed, if so.
    #[must_use]
    pub fn stopped(&self) -> Option<Arc<str>> {
        match &**self.0.load() {
            State::Writes { .. } => None,
            State::Stopped { why, .. } => Some(Arc::clone(why)),
        }
    }

    /// Signs for another log from here on: a new shard.
    pub(crate) fn change(&self, key: SigningKey, origin: Origin) {
        self.0.store(Arc::new(State::Writes { key, origin }));
    }

    /// The log and its public key.
    #[must_use]
    pub fn log(&self) -> (Origin, VerifierKey) {
        match &**self.0.load() {
            State::Writes { key, origin } => (origin.clone(), key.verifier().clone()),
            State::Stopped { key, origin, .. } => (origin.clone(), key.clone()),
        }
    }

    /// The signed note over a head.
    ///
    /// # Errors
    /// Why nothing is signed.
    pub(crate) fn sign(&self, size: u64, root: &Hash) -> Result<String, String> {
        match &**self.0.load() {
            State::Writes { key, origin } => sign_checkpoint(origin, size, root, key).map_err(|e| e.to_string()),
            State::Stopped { why, .. } => Err(why.to_string()),
        }
    }
}

impl std::fmt::Debug for Pen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (origin, _) = self.log();
        f.debug_struct("Pen").field("origin", &origin.as_str()).field("stopped", &self.stopped()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_ledger::empty_root;

    #[test]
    fn a_pen_that_was_taken_away_signs_nothing_and_says_why_it_was_first() {
        let origin: Origin = "example.com/log".parse().unwrap();
        let key = || SigningKey::from_seed(origin.key_name().clone(), &[1; 32]).unwrap();
        let pen = Pen::new(key(), origin.clone());
        assert!(pen.sign(0, &empty_root()).is_ok() && pen.stopped().is_none());
        pen.stop("first");
        pen.stop("second");
        assert_eq!(pen.sign(0, &empty_root()), Err("first".to_owned()));
        assert_eq!(pen.stopped().as_deref(), Some("first"));
        assert_eq!(pen.log(), (origin.clone(), key().verifier().clone()));
        pen.change(key(), origin.clone());
        assert!(pen.sign(0, &empty_root()).is_ok());
    }
}
