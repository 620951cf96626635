//! The check of a system while no broker runs: what `bailiwick system check` does with the configuration and the sealed secrets alone.

use std::collections::HashMap;
use std::sync::Arc;

use bailiwick_core::{Clock, LeaseId};
use bailiwick_credentials::lease::{AccountName, Finding};
use bailiwick_store::{Options, Store, StoreError};

use crate::cli::{Failure, Place};
use crate::clock::{SystemClock, random};
use crate::config::{Config, Transport};
use crate::keys::Keys;

/// What is missing at a system. `None`: a broker has the data directory, and is to be asked.
///
/// # Errors
/// There is no such system, no credentials are made there, a secret is not set, or it could not be found out.
pub(crate) async fn check_stopped(place: &Place, name: &str) -> Result<Option<Vec<Finding>>, Failure> {
    if place.is_remote() {
        return Ok(None);
    }
    let data_dir = place.data_dir()?;
    let failed = |e: crate::house::StartError| Failure::new(e.to_string(), e.hint());
    crate::place::prepare(&data_dir).map_err(failed)?;
    let keys = Keys::load_or_make(&data_dir).map_err(failed)?;
    let store = match Store::open_with(&data_dir, Box::new(keys.integrator().map_err(failed)?), Options { log_bytes: 0, readers: 1 }) {
        Ok(store) => store,
        Err(StoreError::Locked { .. }) => return Ok(None),
        Err(error) => return Err(Failure::new(error.to_string(), "see docs/guides/recovery.md")),
    };
    let found = check(&place.configuration()?, &store, &keys, name).await;
    store.close().await;
    found.map(Some)
}

async fn check(config: &Config, store: &Store, keys: &Keys, name: &str) -> Result<Vec<Finding>, Failure> {
    let known = config.systems.values().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
    let entry = config.systems.get(name).ok_or_else(|| Failure::new(format!("there is no system `{}`", name.escape_debug()), format!("the configuration has: {known}")))?;
    let Some(settings) = entry.leasing_settings() else {
        return Err(Failure::new(format!("no credentials are made for tasks at `{name}`"), "see docs/guides/leases.md"));
    };
    if let Transport::Stdio { .. } = &entry.transport {
        return Err(Failure::new(format!("`{name}` is started by `command`: its credentials are its own"), "see docs/guides/leases.md"));
    }
    let mut sealed = HashMap::new();
    for secret in settings.secrets() {
        sealed.insert(secret.to_owned(), store.secret(secret).await.map_err(|e| Failure::new(e.to_string(), "see docs/guides/recovery.md"))?);
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let built = crate::builtin::build(settings, &sealed, keys.sealer(), &clock).map_err(|why| Failure::new(format!("system `{name}`: {why}"), ""))?;
    let probe = AccountName::new(&settings.prefix(), LeaseId::new(clock.now(), random()).to_bytes());
    let found = built.kind.preflight(&probe).await;
    found.map_err(|e| Failure::new(format!("`{name}`: {e}"), "is the system running, and are address, account and secret right?"))
}
