//! The OpenID provider at run time: its metadata, fetched when it is needed and kept for a while, and its keys.

use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::Timestamp;
use bailiwick_identity::sign_in::{Provider, well_known};
use tokio::sync::Mutex;
use url::Url;

use crate::config::ProviderConfig;
use crate::house::StartError;
use crate::proofs::{Fetcher, Form, Kept as KeptKeys, Place};

/// Metadata is fetched anew after this.
const KEPT: Duration = Duration::from_secs(3600);
/// After a failure nobody is asked for so long: whoever waits is told at once, and a stranger's requests do not pile up.
const REST: Duration = Duration::from_secs(2);

/// A provider that is configured.
#[derive(Debug)]
pub(crate) struct OpenIdProvider {
    pub(crate) config: ProviderConfig,
    metadata: Mutex<Kept<Provider>>,
    pub(crate) keys: Arc<KeptKeys>,
    fetcher: Fetcher,
}

/// Something that was fetched, and when; or when that failed last.
#[derive(Debug)]
struct Kept<T> {
    value: Option<(Arc<T>, Timestamp)>,
    failed: Option<(String, Timestamp)>,
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
        let (why, at) = self.failed.as_ref()?;
        (now < at.plus(REST)).then(|| Err(Unreachable(why.clone())))
    }

    fn put(&mut self, fetched: Result<T, Unreachable>, now: Timestamp) -> Result<Arc<T>, Unreachable> {
        match fetched {
            Ok(value) => {
                let value = Arc::new(value);
                *self = Self { value: Some((Arc::clone(&value), now)), failed: None };
                Ok(value)
            }
            Err(why) => {
                self.failed = Some((why.0.clone(), now));
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
