//! The OpenID provider at run time: its metadata, fetched when it is needed and kept for a while, and its keys.

use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::Timestamp;
use bailiwick_identity::sign_in::{Provider, well_known};
use tokio::sync::Mutex;
use url::Url;

use crate::config::ProviderConfig;
use crate::house::StartError;
use crate::proofs::{Fetcher, Form, Kept as KeptKeys, Place, rest};

/// Metadata is fetched anew after this.
const KEPT: Duration = Duration::from_secs(3600);

/// A provider that is configured.
#[derive(Debug)]
pub(crate) struct OpenIdProvider {
    pub(crate) config: ProviderConfig,
    metadata: Mutex<Kept<Provider>>,
    pub(crate) keys: Arc<KeptKeys>,
    fetcher: Fetcher,
}

/// Something that was fetched, and when; or when that failed last, and how often in a row.
#[derive(Debug)]
struct Kept<T> {
    value: Option<(Arc<T>, Timestamp)>,
    failed: Option<(String, Timestamp, u32)>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { value: None, failed: None }
    }
}

impl<T> Kept<T> {
    /// What is kept, if it is not older than that; or the failure of a moment ago.
    fn get(&self, now: Timestamp, life: Duration) -> Option<Result<Arc<T>, Unreachable>> {
        if let Some((value, at)) = &self.value
            && now < at.plus(life)
        {
            return Some(Ok(Arc::clone(value)));
        }
        // After a failure nobody is asked for a while: whoever waits is told at once, and a stranger's requests do not pile up.
        let (why, at, times) = self.failed.as_ref()?;
        (now < at.plus(rest(*times))).then(|| Err(Unreachable(why.clone())))
    }

    fn put(&mut self, fetched: Result<T, Unreachable>, now: Timestamp) -> Result<Arc<T>, Unreachable> {
        match fetched {
            Ok(value) => {
                let value = Arc::new(value);
                *self = Self { value: Some((Arc::clone(&value), now)), failed: None };
                Ok(value)
            }
            Err(why) => {
                let before = self.failed.as_ref().map_or(0, |(_, _, times)| *times);
                self.failed = Some((why.0.clone(), now, before.saturating_add(1)));
                Err(why)
            }
        }
    }
}

/// Why a provider cannot be asked. For the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreachable(String);

impl OpenIdProvider {
    /// As it is configured. Nothing is fetched yet.
    ///
    /// # Errors
    /// If an authority on the way there is none.
    pub(crate) fn new(config: ProviderConfig) -> Result<Self, StartError> {
        let fetcher = Fetcher::linked(&config.link).map_err(|why| StartError::place("the OpenID provider", why))?;
        let place = Place::Discovery(fetcher.clone(), config.issuer.clone());
        let keys = Arc::new(KeptKeys::new(&config.issuer, place, Form::Jwks));
        Ok(Self { config, metadata: Mutex::default(), keys, fetcher })
    }

    /// What the provider says of itself.
    pub(crate) async fn metadata(&self, now: Timestamp) -> Result<Arc<Provider>, Unreachable> {
        let mut kept = self.metadata.lock().await;
        if let Some(known) = kept.get(now, KEPT) {
            return known;
        }
        let fetched = self.fetch_metadata().await;
        kept.put(fetched, now)
    }

    async fn fetch_metadata(&self) -> Result<Provider, Unreachable> {
        let url: Url = well_known(&self.config.issuer).parse().map_err(|_| Unreachable("the issuer is no URL".to_owned()))?;
        let bytes = self.fetcher.get(&url).await.map_err(|why| Unreachable(format!("`{url}`: {why}")))?;
        Provider::parse(&self.config.issuer, &bytes).map_err(|e| Unreachable(format!("its metadata: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_keeps_failing_is_asked_more_and_more_seldom_until_it_answers() {
        let mut kept: Kept<u8> = Kept::default();
        let at = Timestamp::from_seconds;
        let mut asked = Vec::new();
        for seconds in 0..70 {
            if kept.get(at(seconds), KEPT).is_none() {
                asked.push(seconds);
                assert!(kept.put(Err(Unreachable("no".to_owned())), at(seconds)).is_err());
            }
        }
        assert_eq!(asked, [0, 2, 6, 14, 30, 60]);
        assert!(kept.put(Ok(7), at(90)).is_ok() && kept.get(at(91), KEPT).unwrap().is_ok());
        let over = at(90).plus(KEPT);
        assert!(kept.get(over, KEPT).is_none() && kept.put(Err(Unreachable("no".to_owned())), over).is_err());
        assert!(kept.get(over.plus(Duration::from_secs(1)), KEPT).unwrap().is_err() && kept.get(over.plus(Duration::from_secs(2)), KEPT).is_none());
    }
}
