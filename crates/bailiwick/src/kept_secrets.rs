//! Secrets that are replaced at their system, kept durably and sealed: the house's part of `credentials::lease::rotation`.

use std::sync::Arc;

use bailiwick_core::Clock;
use bailiwick_credentials::lease::AccountName;
use bailiwick_credentials::lease::rotation::{Custody, Kept, Phase, Rotation, RotationError, Truth};
use bailiwick_credentials::{Sealer, Secret};
use bailiwick_store::{Entry, KeptPhase, NoStep, Store, StoreError};

use crate::entry::{self, Body};

/// Where kinds keep secrets that outlive their tasks. A replacement that came to its end is on record, and so is one that lost its secret.
#[derive(Clone)]
pub struct KeptSecrets {
    store: Store,
    sealer: Sealer,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for KeptSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeptSecrets(..)")
    }
}

impl KeptSecrets {
    /// Over the house's store, sealed by its sealer.
    #[must_use]
    pub fn new(store: Store, sealer: Sealer, clock: Arc<dyn Clock>) -> Self {
        Self { store, sealer, clock }
    }

    fn entry(&self, what: &'static str, name: &str) -> Entry {
        let body = entry::House { what, name: Some(name), digest: None };
        Entry::new(<entry::House<'_> as Body>::WORD, entry::encode(self.clock.now(), &body))
    }
}

fn failed(name: &str) -> impl Fn(StoreError) -> RotationError + '_ {
    move |error| RotationError::Store(name.to_owned(), error.to_string())
}

fn stepped<T>(name: &str, result: Result<Result<T, NoStep>, StoreError>) -> Result<T, RotationError> {
    result.map_err(failed(name))?.map_err(|no| match no {
        NoStep::Unset => RotationError::Unset(name.to_owned()),
        NoStep::Moved => RotationError::Moved(name.to_owned()),
        NoStep::Wrong => RotationError::Step(name.to_owned()),
    })
}

#[async_trait::async_trait]
impl Rotation for KeptSecrets {
    async fn kept(&self, name: &str) -> Result<Kept, RotationError> {
        let row = self.store.kept(name).await.map_err(failed(name))?.ok_or_else(|| RotationError::Unset(name.to_owned()))?;
        let open = |sealed: &[u8]| self.sealer.open(name, sealed).map_err(|e| RotationError::Store(name.to_owned(), e.to_string()));
        let phase = match row.phase {
            KeptPhase::Settled => Phase::Settled,
            KeptPhase::Open => Phase::Open,
            KeptPhase::Lost => Phase::Lost,
        };
        Ok(Kept { current: open(&row.current)?, candidate: row.candidate.as_deref().map(open).transpose()?, phase, revision: row.revision })
    }

    async fn begin(&self, name: &str, seen: u64, candidate: Option<&Secret>) -> Result<u64, RotationError> {
        let sealed = candidate.map(|secret| self.sealer.seal(name, secret)).transpose();
        let sealed = sealed.map_err(|e| RotationError::Store(name.to_owned(), e.to_string()))?;
        stepped(name, self.store.kept_begin(name, seen, sealed).await)
    }

    async fn settle(&self, name: &str, seen: u64, truth: Truth) -> Result<u64, RotationError> {
        let (taken, entry) = match truth {
            Truth::Candidate => (Some(true), Some(self.entry("secret_rotated", name))),
            Truth::Current => (Some(false), None),
            Truth::Neither => {
                metrics::counter!("bailiwick_secrets_lost_total").increment(1);
                tracing::error!(name, "a system takes neither the old nor the new secret: set it anew: bailiwick secret set");
                (None, Some(self.entry("secret_lost", name)))
            }
        };
        stepped(name, self.store.kept_settle(name, seen, taken, entry).await)
    }
}

#[async_trait::async_trait]
impl Custody for KeptSecrets {
    async fn holder(&self, name: &str) -> Result<Option<AccountName>, RotationError> {
        let row = self.store.kept(name).await.map_err(failed(name))?.ok_or_else(|| RotationError::Unset(name.to_owned()))?;
        let parsed =
            row.holder.map(|holder| holder.parse().map_err(|_| RotationError::Store(name.to_owned(), "whose it is does not read back".into())));
        parsed.transpose()
    }

    async fn take(&self, name: &str, holder: &AccountName) -> Result<bool, RotationError> {
        stepped(name, self.store.kept_take(name, holder.as_str()).await)
    }

    async fn give_back(&self, name: &str, holder: &AccountName) -> Result<(), RotationError> {
        self.store.kept_give_back(name, holder.as_str()).await.map_err(failed(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::keys::Keys;
    use bailiwick_credentials::lease::Prefix;
    use bailiwick_store::Options;

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let place = Self { dir: tempfile::tempdir().unwrap() };
            crate::place::prepare(&place.data()).unwrap();
            place
        }

        fn data(&self) -> std::path::PathBuf {
            self.dir.path().join("data")
        }

        /// As after a start.
        fn open(&self) -> (KeptSecrets, Store, Sealer) {
            let keys = Keys::load_or_make(&self.data()).unwrap();
            let store = Store::open_with(&self.data(), Box::new(keys.integrator().unwrap()), Options { log_bytes: 0, readers: 1 }).unwrap();
            (KeptSecrets::new(store.clone(), keys.sealer().clone(), Arc::new(SystemClock::start())), store, keys.sealer().clone())
        }
    }

    fn secret(text: &str) -> Secret {
        Secret::from(text.to_owned())
    }

    fn plain(sealer: &Sealer, secret: &Secret) -> String {
        let sealed = sealer.seal("x", secret).unwrap();
        String::from_utf8(sealer.open_bytes("x", &sealed).unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn every_step_of_a_replacement_is_there_after_a_restart_and_none_is_taken_twice() {
        let place = Place::new();
        crate::secrets::set(&place.data(), "legacy", b"one".to_vec().into()).await.unwrap();
        let (kept, store, _) = place.open();
        assert_eq!(kept.kept("other").await.err(), Some(RotationError::Unset("other".into())));
        assert_eq!(kept.begin("other", 0, None).await, Err(RotationError::Unset("other".into())));
        let before = kept.kept("legacy").await.unwrap();
        assert_eq!((before.phase, before.revision, before.candidate.is_none()), (Phase::Settled, 0, true));
        assert_eq!(kept.settle("legacy", 0, Truth::Current).await, Err(RotationError::Step("legacy".into())));
        let revision = kept.begin("legacy", 0, Some(&secret("two"))).await.unwrap();
        assert_eq!(kept.begin("legacy", 0, Some(&secret("three"))).await, Err(RotationError::Moved("legacy".into())));
        assert_eq!(kept.begin("legacy", revision, Some(&secret("three"))).await, Err(RotationError::Step("legacy".into())));
        store.close().await;

        let (kept, store, sealer) = place.open();
        let open = kept.kept("legacy").await.unwrap();
        assert_eq!((open.phase, open.revision), (Phase::Open, revision));
        assert_eq!((plain(&sealer, &open.current), plain(&sealer, open.candidate.as_ref().unwrap())), ("one".into(), "two".into()));
        let revision = kept.settle("legacy", revision, Truth::Candidate).await.unwrap();
        assert_eq!(kept.settle("legacy", revision, Truth::Candidate).await, Err(RotationError::Step("legacy".into())));
        store.close().await;

        let (kept, store, sealer) = place.open();
        let after = kept.kept("legacy").await.unwrap();
        assert_eq!((after.phase, plain(&sealer, &after.current), after.candidate.is_none()), (Phase::Settled, "two".into(), true));
        // The system's own: asked first, told afterwards.
        let asked = kept.begin("legacy", after.revision, None).await.unwrap();
        assert_eq!(kept.begin("legacy", asked, None).await, Err(RotationError::Step("legacy".into())));
        assert_eq!(kept.settle("legacy", asked, Truth::Candidate).await, Err(RotationError::Step("legacy".into())));
        let told = kept.begin("legacy", asked, Some(&secret("three"))).await.unwrap();
        let lost = kept.settle("legacy", told, Truth::Neither).await.unwrap();
        let neither = kept.kept("legacy").await.unwrap();
        assert_eq!((neither.phase, neither.candidate.is_some()), (Phase::Lost, true));
        assert_eq!(kept.begin("legacy", lost, Some(&secret("four"))).await, Err(RotationError::Step("legacy".into())));
        store.close().await;
        crate::secrets::set(&place.data(), "legacy", b"five".to_vec().into()).await.unwrap();
        let (kept, _, sealer) = place.open();
        let set = kept.kept("legacy").await.unwrap();
        assert_eq!((set.phase, plain(&sealer, &set.current), set.candidate.is_none()), (Phase::Settled, "five".into(), true));
        assert_eq!(kept.begin("legacy", lost, None).await, Err(RotationError::Moved("legacy".into())), "a person's word is a step too");
    }

    #[tokio::test]
    async fn a_secret_has_one_holder_and_a_holder_one_secret_also_after_a_restart() {
        let place = Place::new();
        for name in ["a", "b"] {
            crate::secrets::set(&place.data(), name, b"one".to_vec().into()).await.unwrap();
        }
        let holder = |n: u8| AccountName::new(&Prefix::default(), [n; 16]);
        let (kept, store, _) = place.open();
        let (one, two) = (holder(1), holder(2));
        let (first, second) = tokio::join!(kept.take("a", &one), kept.take("a", &two));
        assert_eq!(first.unwrap() as u8 + second.unwrap() as u8, 1, "one of two");
        let owner = kept.holder("a").await.unwrap().unwrap();
        let other = if owner == one { two.clone() } else { one.clone() };
        assert_eq!((kept.take("a", &owner).await, kept.take("b", &owner).await), (Ok(true), Ok(false)));
        kept.give_back("a", &other).await.unwrap();
        store.close().await;
        crate::secrets::set(&place.data(), "a", b"anew".to_vec().into()).await.unwrap();
        let (kept, _, _) = place.open();
        assert_eq!(kept.holder("a").await, Ok(Some(owner.clone())), "a new value takes it from nobody");
        assert_eq!(kept.take("a", &other).await, Ok(false));
        kept.give_back("a", &owner).await.unwrap();
        assert_eq!((kept.holder("a").await, kept.take("a", &other).await), (Ok(None), Ok(true)));
        assert_eq!(kept.take("none", &other).await, Err(RotationError::Unset("none".into())));
    }
}
