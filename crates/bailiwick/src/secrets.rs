//! Sealed secrets from the command line: put, listed by name, removed. The value is sealed at once and never shown.

use std::path::Path;
use std::sync::Arc;

use bailiwick_core::Clock as _;
use bailiwick_credentials::Secret;
use bailiwick_store::{Entry, Options, Store, StoreError};
use zeroize::Zeroizing;

use crate::clock::SystemClock;
use crate::entry::{self, Body};
use crate::house::StartError;
use crate::keys::{Keys, TreeIntegrator};
use crate::shard;
use crate::witness::Witnesses;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// A broker has the data directory.
    #[error("a broker is running on this data directory")]
    Running,
    /// The data directory or a key in it cannot be used.
    #[error(transparent)]
    Place(#[from] StartError),
    /// The value cannot be sealed: its name or its length.
    #[error("the secret `{0}` cannot be sealed: {1}")]
    Seal(String, String),
    /// There is no such secret.
    #[error("there is no secret `{0}`")]
    Absent(String),
    /// The store's.
    #[error("{0}")]
    Store(StoreError),
}

impl SecretError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Running => "stop it, change the secret, and start it again: it reads secrets when it starts",
            Self::Place(error) => error.hint(),
            Self::Seal(..) => "a name has letters, digits and `.`, `-`, `_`, `/`; a value at most 64 KiB",
            Self::Absent(_) => "see which there are: bailiwick secret list",
            Self::Store(_) => "see docs/guides/recovery.md",
        }
    }
}

impl From<StoreError> for SecretError {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Locked { .. }) { Self::Running } else { Self::Store(error) }
    }
}

impl From<SecretError> for crate::cli::Failure {
    fn from(error: SecretError) -> Self {
        Self::new(error.to_string(), error.hint())
    }
}

/// Seals a value under a name, in place of the one before. The record says that it was set, not what it is.
///
/// # Errors
/// `Running` while a broker runs here; or the name, the value, the keys or the store.
pub async fn set(data_dir: &Path, name: &str, value: Zeroizing<Vec<u8>>) -> Result<(), SecretError> {
    let (keys, store) = writable(data_dir).await?;
    let sealed = keys.sealer().seal(name, &Secret::from(value)).map_err(|e| SecretError::Seal(name.escape_debug().to_string(), e.to_string()))?;
    let key = name.to_owned();
    store.change(noted("secret_set", name), move |w| w.secret_put(&key, &sealed)).await?;
    store.close().await;
    Ok(())
}

/// The names of all secrets, sorted.
///
/// # Errors
/// As [`set`].
pub async fn list(data_dir: &Path) -> Result<Vec<String>, SecretError> {
    if !data_dir.join("bailiwick.sqlite").exists() {
        return Ok(Vec::new());
    }
    let (_, store) = open(data_dir)?;
    let names = store.secret_names().await?;
    store.close().await;
    Ok(names)
}

/// Removes a secret.
///
/// # Errors
/// `Absent`, or as [`set`].
pub async fn remove(data_dir: &Path, name: &str) -> Result<(), SecretError> {
    let absent = || SecretError::Absent(name.escape_debug().to_string());
    if !list(data_dir).await?.iter().any(|n| n == name) {
        return Err(absent());
    }
    let (_, store) = writable(data_dir).await?;
    let key = name.to_owned();
    let (_, was) = store.change(noted("secret_removed", name), move |w| w.secret_delete(&key)).await?;
    store.close().await;
    if was { Ok(()) } else { Err(absent()) }
}

fn noted(what: &'static str, name: &str) -> Entry {
    let body = entry::House { what, name: Some(name), digest: None };
    Entry::new(<entry::House<'_> as Body>::WORD, entry::encode(SystemClock::start().now(), &body))
}

/// Opens the store to write to it. A ledger that was set back is not written to here either.
pub(crate) async fn writable(data_dir: &Path) -> Result<(Keys, Store), SecretError> {
    crate::place::prepare(data_dir)?;
    let mut keys = Keys::load_or_make(data_dir)?;
    let pen = keys.pen()?;
    let store = Store::open_with(data_dir, Box::new(TreeIntegrator::new(Arc::clone(&pen))), Options { log_bytes: 0, readers: 1 })?;
    shard::adopt(&mut keys, &store, &pen, data_dir).await?;
    let found = shard::examine(&store, &pen, data_dir, None, &Witnesses::new(Vec::new())?).await;
    let found = found.map_err(|e| StartError::place("the published ledger", e))?;
    if let Some(finding) = found.first() {
        store.close().await;
        return Err(StartError::place("the ledger", finding).into());
    }
    Ok((keys, store))
}

fn open(data_dir: &Path) -> Result<(Keys, Store), SecretError> {
    crate::place::prepare(data_dir)?;
    let keys = Keys::load_or_make(data_dir)?;
    let store = Store::open_with(data_dir, Box::new(keys.integrator()?), Options { log_bytes: 0, readers: 1 })?;
    Ok((keys, store))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_is_sealed_listed_by_name_recorded_without_its_value_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        assert!(list(&data).await.unwrap().is_empty());
        set(&data, "github_token", Zeroizing::new(b"canary-5f1d".to_vec())).await.unwrap();
        assert_eq!(list(&data).await.unwrap(), ["github_token"]);
        {
            let (keys, store) = open(&data).unwrap();
            let sealed = store.secret("github_token").await.unwrap().unwrap();
            assert!(!sealed.windows(6).any(|w| w == b"canary"));
            assert!(keys.sealer().open("github_token", &sealed).is_ok());
            let record = store.entries(0..10).await.unwrap();
            let text: Vec<String> = record.iter().map(|r| String::from_utf8(r.body.clone()).unwrap()).collect();
            assert!(text.iter().any(|t| t.contains("secret_set") && t.contains("github_token")), "{text:?}");
            assert!(!text.iter().any(|t| t.contains("canary")), "{text:?}");
            store.close().await;
        }
        remove(&data, "github_token").await.unwrap();
        assert!(matches!(remove(&data, "github_token").await, Err(SecretError::Absent(_))));
    }

    #[tokio::test]
    async fn while_a_broker_has_the_store_nothing_is_changed_and_it_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        set(&data, "a", Zeroizing::new(b"x".to_vec())).await.unwrap();
        let (_, store) = open(&data).unwrap();
        assert!(matches!(set(&data, "a", Zeroizing::new(b"y".to_vec())).await, Err(SecretError::Running)));
        store.close().await;
    }
}
