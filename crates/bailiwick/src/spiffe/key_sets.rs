//! The keys by which JWT-SVIDs are verified at our own doors: those of our own authority, and those that a Workload API told us.

use std::sync::{Arc, Mutex, PoisonError};

use bailiwick_core::{Timestamp, TrustDomain};
use bailiwick_identity::foreign::KeySet;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::{Issuer, Received};
use crate::proofs::Keys;

/// The keys of our own trust domain: always those in force, so that there is nothing to look for.
#[derive(Debug)]
pub(super) struct OwnKeys {
    issuer: Arc<Issuer>,
    read: Mutex<Option<(u64, Arc<KeySet>)>>,
}

impl OwnKeys {
    pub(super) fn new(issuer: Arc<Issuer>) -> Self {
        Self { issuer, read: Mutex::default() }
    }
}

impl Keys for OwnKeys {
    fn current(&self, _now: Timestamp) -> Option<Arc<KeySet>> {
        let authority = self.issuer.authority.load();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, set)) = read.as_ref().filter(|(sequence, _)| *sequence == authority.sequence()) {
            return Some(Arc::clone(set));
        }
        let set = Arc::new(KeySet::spiffe_bundle(authority.jwt_bundle().to_string().as_bytes()).ok()?);
        *read = Some((authority.sequence(), Arc::clone(&set)));
        Some(set)
    }

    fn look_again(&self, _now: Timestamp) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }
}

/// The keys of one trust domain as the Workload API told them last. It tells of changes by itself.
#[derive(Debug)]
pub(crate) struct ToldKeys {
    domain: TrustDomain,
    told: watch::Receiver<Arc<Received>>,
    read: Mutex<Option<AsRead>>,
}

/// A bundle, and the keys that it has, if it is one.
type AsRead = (Arc<[u8]>, Option<Arc<KeySet>>);

impl ToldKeys {
    /// Of this trust domain, from what is received here.
    pub(crate) fn new(domain: TrustDomain, told: watch::Receiver<Arc<Received>>) -> Self {
        Self { domain, told, read: Mutex::default() }
    }
}

impl Keys for ToldKeys {
    fn current(&self, _now: Timestamp) -> Option<Arc<KeySet>> {
        let bytes = Arc::clone(self.told.borrow().jwt.get(&self.domain)?);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, set)) = read.as_ref().filter(|(before, _)| Arc::ptr_eq(before, &bytes)) {
            return set.clone();
        }
        // Implementations need not say what the keys are for: in this message they are for nothing else.
        let set = KeySet::spiffe_bundle(&bytes).or_else(|_| KeySet::jwks(&bytes)).map(Arc::new);
        let set = set.inspect_err(|error| tracing::warn!(%error, domain = %self.domain, "the keys of a trust domain cannot be used")).ok();
        *read = Some((bytes, set.clone()));
        set
    }

    fn look_again(&self, _now: Timestamp) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    fn x509(&self, _now: Timestamp) -> Vec<Vec<u8>> {
        self.told.borrow().x509.get(&self.domain).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bailiwick_identity::spiffe::Authority;

    use super::*;

    #[test]
    fn keys_that_are_told_are_those_of_the_last_message_and_none_once_they_are_taken_away() {
        let now = Timestamp::from_seconds(1_795_000_000);
        let domain: TrustDomain = "td".parse().unwrap();
        let bundle = || {
            let authority = Authority::begin(domain.clone(), Duration::from_secs(86_400), [1; 16], 0, now).unwrap();
            (authority.jwt_keys()[0].id(), Arc::<[u8]>::from(authority.jwt_bundle().to_string().as_bytes()))
        };
        let (sender, receiver) = watch::channel(Arc::new(Received::default()));
        let keys = ToldKeys::new(domain.clone(), receiver);
        assert!(keys.current(now).is_none());
        for _ in 0..2 {
            let (id, bytes) = bundle();
            sender.send_replace(Arc::new(Received { jwt: [(domain.clone(), bytes)].into(), ..Received::default() }));
            assert!(keys.current(now).unwrap().has(id) && keys.current(now).unwrap().has(id));
        }
        sender.send_replace(Arc::new(Received { jwt: [("other".parse().unwrap(), bundle().1)].into(), ..Received::default() }));
        assert!(keys.current(now).is_none());
        sender.send_replace(Arc::new(Received { jwt: [(domain.clone(), Arc::<[u8]>::from(&b"{}"[..]))].into(), ..Received::default() }));
        assert!(keys.current(now).is_none());
    }
}
