//! Where an issuer's keys come from, kept while they are fresh: fetched in the background, again for a key that is not known yet, and the
//! last good ones held for a bounded time while there are no others. The one place where keys of others are fetched: for proofs of workloads, for
//! sign-in, and for security events.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bailiwick_core::{Timestamp, TrustDomain};
use bailiwick_identity::KeyError;
use bailiwick_identity::foreign::{KEY_SET_BYTES_MAX, KeySet};
use bailiwick_identity::spiffe::Bundle;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use tokio::sync::{Mutex, Notify};
use url::Url;

use super::fetch::Fetcher;

/// For a key that is not known, an issuer is asked at most this often, whatever strangers present.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// The same where the place could not be asked last time: whoever waits is told at once, and the requests of strangers do not pile up. With each
/// time that it fails, it is left alone for twice as long.
const REST: Duration = Duration::from_secs(2);
const REST_MAX: Duration = Duration::from_secs(30);
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

    /// Of a SPIFFE trust domain, the certificates (DER) of those who sign its X.509-SVIDs, as they are in force.
    fn x509(&self, _now: Timestamp) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

/// Verifies by the keys in force; by others, if there are, where these do not explain the signature. `None`: there are no keys.
pub(crate) async fn verified<T, E>(
    keys: &dyn Keys,
    now: Timestamp,
    unexplained: impl Fn(&E) -> bool,
    verify: impl Fn(&KeySet) -> Result<T, E>,
) -> Option<Result<T, E>> {
    let before = keys.current(now);
    let judged = before.as_ref().map(|keys| verify(keys));
    match &judged {
        Some(Err(error)) if unexplained(error) => {}
        None => {}
        Some(_) => return judged,
    }
    keys.look_again(now).await;
    let after = keys.current(now)?;
    match judged {
        // They are the same: a second look would say the same.
        Some(judged) if before.is_some_and(|before| Arc::ptr_eq(&before, &after)) => Some(judged),
        _ => Some(verify(&after)),
    }
}

/// What a set is read as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A JWK set.
    Jwks,
    /// The bundle of a SPIFFE trust domain.
    Bundle(TrustDomain),
}

impl Form {
    fn read(&self, bytes: &[u8]) -> Result<(KeySet, Vec<Vec<u8>>), KeyError> {
        match self {
            Self::Jwks => Ok((KeySet::jwks(bytes)?, Vec::new())),
            // One without certificates is good for JWT-SVIDs.
            Self::Bundle(domain) => Ok((KeySet::spiffe_bundle(bytes)?, Bundle::parse(domain.clone(), bytes).map(|b| b.x509).unwrap_or_default())),
        }
    }
}

/// A place that can be asked.
#[derive(Debug)]
pub(crate) enum Place {
    /// A file.
    File(PathBuf),
    /// The discovery document of an issuer, which names the place of its keys.
    Discovery(Fetcher, String),
    /// The keys themselves.
    Url(Fetcher, Url),
}

/// Keys of a place, kept.
#[derive(Debug)]
pub(crate) struct Kept {
    name: String,
    place: Place,
    form: Form,
    held: RwLock<Option<Held>>,
    /// When the place was asked last, and how it went. Held while it is asked, so that many ask once.
    asked: Mutex<Option<Asked>>,
    /// Rings when the keys were first wanted and had.
    first: Notify,
}

/// When a place was asked last, and how often in a row it has given nothing.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Timestamp,
    failures: u32,
}

impl Asked {
    /// Was that a moment ago?
    fn is_fresh(self, now: Timestamp) -> bool {
        self.at.until(now) < if self.failures == 0 { AGAIN_AFTER } else { rest(self.failures) }
    }
}

/// How long a place is left alone that failed so often in a row.
pub(crate) fn rest(failures: u32) -> Duration {
    REST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(REST_MAX)
}

#[derive(Clone, Debug)]
struct Held {
    keys: Arc<KeySet>,
    x509: Arc<[Vec<u8>]>,
    since: Timestamp,
}

impl Kept {
    pub(crate) fn new(name: &str, place: Place, form: Form) -> Self {
        Self { name: name.to_owned(), place, form, held: RwLock::default(), asked: Mutex::default(), first: Notify::new() }
    }

    /// Asks the place, and keeps what it gives. Gives how long to wait until the next time.
    ///
    /// # Errors
    /// Why there are no new keys; those that are held stay, for their time.
    pub(super) async fn refresh(&self, now: Timestamp) -> Result<Duration, String> {
        let mut asked = self.asked.lock().await;
        self.ask_once(&mut asked, now).await
    }

    /// Waits until the keys were wanted and had for the first time: until then nobody needs them, and the place is left alone.
    pub(super) async fn wanted(&self) -> Duration {
        self.first.notified().await;
        FETCH_EVERY
    }

    /// How long to wait after a failure.
    pub(super) const fn retry(&self) -> Duration {
        RETRY
    }

    async fn ask_once(&self, asked: &mut Option<Asked>, now: Timestamp) -> Result<Duration, String> {
        let before = asked.map_or(0, |asked| asked.failures);
        // Before, so that one who hangs up in the middle has asked too; that the place failed is not said by it.
        *asked = Some(Asked { at: now, failures: before.max(1) });
        let answer = self.ask(now).await;
        *asked = Some(Asked { at: now, failures: if answer.is_ok() { 0 } else { before.saturating_add(1) } });
        answer
    }

    async fn ask(&self, now: Timestamp) -> Result<Duration, String> {
        let bytes = self.bytes().await?;
        let (keys, x509) = self.form.read(&bytes).map_err(|e| e.to_string())?;
        let every = match &self.place {
            Place::File(_) => FILE_EVERY,
            Place::Discovery(..) | Place::Url(..) => keys.refresh_hint().map_or(FETCH_EVERY, |hint| hint.clamp(HINT_MIN, HINT_MAX)),
        };
        if keys.left_out() > 0 && self.form == Form::Jwks {
            tracing::debug!(issuer = self.name, left_out = keys.left_out(), "keys of an issuer are of kinds that are not taken");
        }
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Some(Held { keys: Arc::new(keys), x509: x509.into(), since: now });
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

    fn x509(&self, now: Timestamp) -> Vec<Vec<u8>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner).clone();
        held.filter(|held| held.since.until(now) <= KEPT_MAX).map(|held| held.x509.to_vec()).unwrap_or_default()
    }

    fn look_again(&self, now: Timestamp) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let before = self.current(now);
            let mut asked = self.asked.lock().await;
            // Somebody asked while we waited for our turn, or a moment ago.
            if asked.is_some_and(|asked| asked.is_fresh(now)) {
                let after = self.current(now);
                return after.is_some() && after != before;
            }
            match self.ask_once(&mut asked, now).await {
                Ok(_) => {
                    self.first.notify_one();
                    true
                }
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
    async fn a_place_that_gave_nothing_is_asked_again_soon_but_not_at_once() {
        let (key, _) = SigningKey::generate().unwrap();
        let (_dir, path, kept) = in_file();
        let at = |seconds| START.plus(Duration::from_secs(seconds));
        assert!(!kept.look_again(at(0)).await && kept.current(at(0)).is_none());
        std::fs::write(&path, jwks(&key)).unwrap();
        assert!(!kept.look_again(at(1)).await && kept.current(at(1)).is_none());
        assert!(kept.look_again(at(2)).await && kept.current(at(2)).unwrap().has(key.id()));
    }

    #[tokio::test]
    async fn a_place_that_keeps_failing_is_asked_more_and_more_seldom_until_it_answers() {
        let (key, _) = SigningKey::generate().unwrap();
        let (_dir, path, kept) = in_file();
        let at = |seconds| START.plus(Duration::from_secs(seconds));
        let mut times = Vec::new();
        for seconds in 0..119 {
            // Somebody names a key that nobody knows, every second.
            kept.look_again(at(seconds)).await;
            times.extend(kept.asked.lock().await.filter(|asked| asked.at == at(seconds)).map(|_| seconds));
        }
        assert_eq!(times, [0, 2, 6, 14, 30, 60, 90]);
        std::fs::write(&path, jwks(&key)).unwrap();
        assert!(!kept.look_again(at(119)).await && kept.look_again(at(120)).await);
        // What was before is forgotten with that.
        std::fs::write(&path, "{}").unwrap();
        assert!(!kept.look_again(at(130)).await);
        std::fs::write(&path, jwks(&key)).unwrap();
        assert!(!kept.look_again(at(131)).await && kept.look_again(at(132)).await);
    }

    #[tokio::test]
    async fn who_asks_and_hangs_up_has_asked_too() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}/keys", listener.local_addr().unwrap()).parse().unwrap();
        let kept = Kept::new("x", Place::Url(Fetcher::new(&[]).unwrap(), url), Form::Jwks);
        for millis in 0..20 {
            // Nobody answers; each of them is gone soon.
            let at = START.plus(Duration::from_millis(millis * 50));
            drop(tokio::time::timeout(Duration::from_millis(20), kept.look_again(at)).await);
        }
        let asked = async {
            let mut count = 0;
            while tokio::time::timeout(Duration::from_millis(100), listener.accept()).await.is_ok() {
                count += 1;
            }
            count
        };
        assert_eq!(asked.await, 1);
    }

    #[tokio::test]
    async fn a_signature_that_the_keys_do_not_explain_is_tried_again_only_by_other_keys() {
        let ((old, _), (new, _)) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let (_dir, path, kept) = in_file();
        let tried = std::sync::atomic::AtomicUsize::new(0);
        let by = |key: &SigningKey, now| {
            let (id, tried, kept) = (key.id(), &tried, &kept);
            let verify = move |keys: &KeySet| {
                tried.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                if keys.has(id) { Ok(()) } else { Err("key") }
            };
            async move { verified(kept, now, |why| *why == "key", verify).await }
        };
        let at = |seconds| START.plus(Duration::from_secs(seconds));
        assert_eq!(by(&old, at(0)).await, None, "there are none");
        std::fs::write(&path, jwks(&old)).unwrap();
        assert_eq!(by(&old, at(5)).await, Some(Ok(())));
        assert_eq!(by(&new, at(6)).await, Some(Err("key")));
        assert_eq!(tried.load(std::sync::atomic::Ordering::SeqCst), 2, "the same keys are not tried twice");
        std::fs::write(&path, jwks(&new)).unwrap();
        assert_eq!(by(&new, at(30)).await, Some(Ok(())));
        let final_error: Option<Result<(), &str>> = verified(&kept, at(60), |why| *why == "key", |_| Err("aud")).await;
        assert_eq!(final_error, Some(Err("aud")));
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
