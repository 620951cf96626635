//! Where an issuer's keys come from, kept while they are fresh: fetched in the background, again for a key that is not known yet, and the
//! last good ones held for a bounded time while there are no others.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bailiwick_core::Timestamp;
use bailiwick_identity::KeyError;
use bailiwick_identity::foreign::{KEY_SET_BYTES_MAX, KeySet};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::fetch::Fetcher;

/// For a key that is not known, an issuer is asked at most this often, whatever strangers present.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How often keys are looked at anew: of a file, and of what is fetched where its publisher says nothing.
const FILE_EVERY: Duration = Duration::from_secs(30);
const FETCH_EVERY: Duration = Duration::from_secs(300);
/// What a publisher may ask for.
const HINT_MIN: Duration = Duration::from_secs(10);
const HINT_MAX: Duration = Duration::from_secs(3600);
/// How soon it is tried again after a failure.
const RETRY: Duration = Duration::from_secs(15);
/// For how long the last good keys are good while no others can be had.
pub(crate) const KEPT_MAX: Duration = Duration::from_secs(12 * 3600);

/// The keys of one issuer, whatever place they come from.
pub(crate) trait Keys: std::fmt::Debug + Send + Sync {
    /// The keys in force, if there are any that may still be used.
    fn current(&self, now: Timestamp) -> Option<Arc<KeySet>>;

    /// Looks for others, unless that was done a moment ago: a key was named, or a signature was made, that these do not explain. True if it
    /// is worth trying once more.
    fn look_again(&self, now: Timestamp) -> BoxFuture<'_, bool>;
}

/// What a set is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Jwks,
    Bundle,
}

impl Form {
    fn read(self, bytes: &[u8]) -> Result<KeySet, KeyError> {
        match self {
            Self::Jwks => KeySet::jwks(bytes),
            Self::Bundle => KeySet::spiffe_bundle(bytes),
        }
    }
}

/// A place that can be asked.
#[derive(Debug)]
pub(super) enum Place {
    /// A file.
    File(PathBuf),
    /// The discovery document of an issuer, which names the place of its keys.
    Discovery(Fetcher, String),
    /// The keys themselves.
    Url(Fetcher, Url),
}

/// Keys of a place, kept.
#[derive(Debug)]
pub(super) struct Kept {
    name: String,
    place: Place,
    form: Form,
    held: RwLock<Option<Held>>,
    /// When the place was asked last. Held while it is asked, so that many ask once.
    asked: Mutex<Option<Timestamp>>,
}

#[derive(Clone, Debug)]
struct Held {
    keys: Arc<KeySet>,
    since: Timestamp,
}

impl Kept {
    pub(super) fn new(name: &str, place: Place, form: Form) -> Self {
        Self { name: name.to_owned(), place, form, held: RwLock::default(), asked: Mutex::default() }
    }

    /// Asks the place, and keeps what it gives. Gives how long to wait until the next time.
    ///
    /// # Errors
    /// Why there are no new keys; those that are held stay, for their time.
    pub(super) async fn refresh(&self, now: Timestamp) -> Result<Duration, String> {
        let mut asked = self.asked.lock().await;
        *asked = Some(now);
        self.ask(now).await
    }

    /// How long to wait after a failure.
    pub(super) const fn retry(&self) -> Duration {
        RETRY
    }

    async fn ask(&self, now: Timestamp) -> Result<Duration, String> {
        let bytes = self.bytes().await?;
        let keys = self.form.read(&bytes).map_err(|e| e.to_string())?;
        let every = match &self.place {
            Place::File(_) => FILE_EVERY,
            Place::Discovery(..) | Place::Url(..) => keys.refresh_hint().map_or(FETCH_EVERY, |hint| hint.clamp(HINT_MIN, HINT_MAX)),
        };
        if keys.left_out() > 0 && self.form == Form::Jwks {
            tracing::debug!(issuer = self.name, left_out = keys.left_out(), "keys of an issuer are of kinds that are not taken");
        }
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Some(Held { keys: Arc::new(keys), since: now });
        Ok(every)
    }

    async fn bytes(&self) -> Result<Bytes, String> {
        match &self.place {
            Place::File(path) => file(path).await,
            Place::Url(fetcher, url) => fetcher.get(url).await,
            Place::Discovery(fetcher, issuer) => {
                let place = discovered(issuer, &fetcher.get(&discovery_url(issuer)?).await?)?;
                fetcher.get(&place).await
            }
        }
    }
}

impl Keys for Kept {
    fn current(&self, now: Timestamp) -> Option<Arc<KeySet>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        (held.since.until(now) <= KEPT_MAX).then_some(held.keys)
    }

    fn look_again(&self, now: Timestamp) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let before = self.current(now);
            let mut asked = self.asked.lock().await;
            // Somebody asked while we waited for our turn, or a moment ago.
            if asked.is_some_and(|at| at.until(now) < AGAIN_AFTER) {
                let after = self.current(now);
                return after.is_some() && after != before;
            }
            *asked = Some(now);
            match self.ask(now).await {
                Ok(_) => true,
                Err(why) => {
                    tracing::warn!(issuer = self.name, why, "the keys of an issuer could not be had");
                    false
                }
            }
        })
    }
}

async fn file(path: &std::path::Path) -> Result<Bytes, String> {
    use tokio::io::AsyncReadExt as _;
    let wrong = |e: std::io::Error| format!("{}: {e}", path.display());
    let open = tokio::fs::File::open(path).await.map_err(wrong)?;
    let most = u64::try_from(KEY_SET_BYTES_MAX).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    // One byte more than is taken tells that there is more.
    open.take(most.saturating_add(1)).read_to_end(&mut bytes).await.map_err(wrong)?;
    Ok(bytes.into())
}

/// Where an issuer's discovery document is.
fn discovery_url(issuer: &str) -> Result<Url, String> {
    //= https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfigurationRequest
    // If the Issuer value contains a path component, any terminating / MUST be removed before appending
    // /.well-known/openid-configuration.
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    url.parse().map_err(|_| "the issuer is no URL".to_owned())
}

#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
}

/// The place of the keys, from the discovery document of this very issuer.
fn discovered(issuer: &str, document: &[u8]) -> Result<Url, String> {
    let document: Discovered = serde_json::from_slice(document).map_err(|_| "its discovery document is none")?;
    //= https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfigurationValidation
    // The issuer value returned MUST be identical to the Issuer URL that was used as the prefix to /.well-known/openid-configuration to
    // retrieve the configuration information.
    if document.issuer != issuer {
        return Err("its discovery document is another issuer's".to_owned());
    }
    let url: Url = document.jwks_uri.parse().map_err(|_| "its `jwks_uri` is no URL")?;
    //= https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderMetadata
    // jwks_uri REQUIRED. URL of the OP's JWK Set document, which MUST use the https scheme. In the clear only where the issuer itself is
    // reached so, which is on this machine; the connection checks that again.
    let safe = url.scheme() == "https" || url.scheme() == "http" && issuer.starts_with("http://");
    if safe && url.username().is_empty() && url.password().is_none() { Ok(url) } else { Err("its `jwks_uri` is no https URL".to_owned()) }
}

#[cfg(test)]
mod tests {
    use bailiwick_identity::SigningKey;
    use serde_json::json;

    use super::*;

    const START: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn jwks(key: &SigningKey) -> Vec<u8> {
        json!({ "keys": [key.public().jwk()] }).to_string().into_bytes()
    }

    fn in_file() -> (tempfile::TempDir, PathBuf, Kept) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let kept = Kept::new("x", Place::File(path.clone()), Form::Jwks);
        (dir, path, kept)
    }

    #[tokio::test]
    async fn the_last_good_keys_are_held_for_their_time_and_no_longer() {
        let (key, _) = SigningKey::generate().unwrap();
        let (_dir, path, kept) = in_file();
        assert!(kept.refresh(START).await.is_err() && kept.current(START).is_none());
        std::fs::write(&path, jwks(&key)).unwrap();
        assert_eq!(kept.refresh(START).await, Ok(FILE_EVERY));
        assert!(kept.current(START).unwrap().has(key.id()));
        std::fs::write(&path, "{}").unwrap();
        assert!(kept.refresh(START.plus(FILE_EVERY)).await.is_err());
        assert!(kept.current(START.plus(KEPT_MAX)).is_some() && kept.current(START.plus(KEPT_MAX + Duration::from_millis(1))).is_none());
    }

    #[tokio::test]
    async fn a_key_that_is_not_known_has_the_place_asked_again_but_not_at_once() {
        let ((old, _), (new, _)) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let (_dir, path, kept) = in_file();
        std::fs::write(&path, jwks(&old)).unwrap();
        kept.refresh(START).await.unwrap();
        std::fs::write(&path, jwks(&new)).unwrap();
        let at = |seconds| START.plus(Duration::from_secs(seconds));
        assert!(!kept.look_again(at(9)).await && kept.current(at(9)).unwrap().has(old.id()));
        assert!(kept.look_again(at(10)).await && kept.current(at(10)).unwrap().has(new.id()));
        std::fs::write(&path, jwks(&old)).unwrap();
        assert!(!kept.look_again(at(19)).await);
    }

    #[tokio::test]
    async fn a_file_that_is_too_long_is_no_key_set() {
        let (_dir, path, kept) = in_file();
        std::fs::write(&path, vec![b' '; KEY_SET_BYTES_MAX + 10]).unwrap();
        assert!(kept.refresh(START).await.unwrap_err().contains("too long"));
    }

    #[test]
    fn a_discovery_document_is_of_its_issuer_and_leads_to_https() {
        let at = |issuer: &str, document: serde_json::Value| discovered(issuer, document.to_string().as_bytes()).map(|u| u.to_string());
        let of = |issuer: &str, jwks: &str| json!({ "issuer": issuer, "jwks_uri": jwks });
        assert_eq!(at("https://a", of("https://a", "https://b/keys")).as_deref(), Ok("https://b/keys"));
        assert_eq!(at("http://127.0.0.1:1", of("http://127.0.0.1:1", "http://127.0.0.1:1/k")).as_deref(), Ok("http://127.0.0.1:1/k"));
        for bad in [of("https://a/", "https://a/k"), of("https://A", "https://a/k"), of("https://a", "http://a/k"), of("https://a", "file:///etc/x")]
        {
            assert!(at("https://a", bad.clone()).is_err(), "{bad}");
        }
        assert!(at("https://a", of("https://a", "https://u:p@a/k")).is_err() && at("https://a", json!({ "issuer": "https://a" })).is_err());
        assert_eq!(discovery_url("https://a/b/").unwrap().as_str(), "https://a/b/.well-known/openid-configuration");
    }
}
