//! The OpenID provider at run time: its metadata and keys, fetched when they are needed and kept for a while.

use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::Timestamp;
use bailiwick_identity::PublicKey;
use bailiwick_identity::sign_in::{Provider, key_set, well_known};
use http::StatusCode;
use tokio::sync::Mutex;
use url::Url;

use super::web::{Question, ask};
use crate::config::{LinkConfig, ProviderConfig};

/// Metadata and keys are fetched anew after this.
const KEPT: Duration = Duration::from_secs(3600);
/// Keys are fetched anew for a token that they do not fit at most so often, whatever strangers present.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// After a failure nobody is asked for so long: whoever waits is told at once, and a stranger's requests do not pile up.
const REST: Duration = Duration::from_secs(2);

/// A provider that is configured.
#[derive(Debug)]
pub(crate) struct OpenIdProvider {
    pub(crate) config: ProviderConfig,
    metadata: Mutex<Kept<Provider>>,
    keys: FetchedKeys,
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
    pub(crate) fn new(config: ProviderConfig) -> Self {
        Self { config, metadata: Mutex::default(), keys: FetchedKeys::default() }
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
        let bytes = fetch(&url, &self.config.link).await?;
        Provider::parse(&self.config.issuer, &bytes).map_err(|e| Unreachable(format!("its metadata: {e}")))
    }

    /// The provider's keys. `again`: those that are kept did not fit, so that they may have changed.
    pub(crate) async fn keys(&self, now: Timestamp, again: bool) -> Result<Arc<Vec<PublicKey>>, Unreachable> {
        let metadata = self.metadata(now).await?;
        self.keys.get(&metadata.keys, &self.config.link, now, again).await
    }
}

/// Keys from a URL of the configuration, or of metadata that came from one.
#[derive(Debug, Default)]
pub(crate) struct FetchedKeys(Mutex<Kept<Vec<PublicKey>>>);

impl FetchedKeys {
    /// The keys, as they were fetched not long ago.
    pub(crate) async fn get(&self, url: &Url, link: &LinkConfig, now: Timestamp, again: bool) -> Result<Arc<Vec<PublicKey>>, Unreachable> {
        let mut kept = self.0.lock().await;
        if let Some(known) = kept.get(now, if again { AGAIN_AFTER } else { KEPT }) {
            return known;
        }
        let fetched = match fetch(url, link).await {
            Ok(bytes) => key_set(&bytes).map_err(|e| Unreachable(format!("its keys: {e}"))),
            Err(why) => Err(why),
        };
        kept.put(fetched, now)
    }
}

async fn fetch(url: &Url, link: &LinkConfig) -> Result<bytes::Bytes, Unreachable> {
    let answer = ask(url, link, Question::get()).await.map_err(|e| Unreachable(e.to_string()))?;
    if answer.status != StatusCode::OK {
        return Err(Unreachable(format!("`{url}` answered {}", answer.status)));
    }
    Ok(answer.body)
}
