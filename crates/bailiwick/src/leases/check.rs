//! The check of a system while no broker runs: what `bailiwick system check` does with the configuration and the sealed secrets alone.

use std::path::Path;
use std::sync::Arc;

use bailiwick_core::{Clock, LeaseId};
use bailiwick_credentials::lease::rotation::Rotation;
use bailiwick_credentials::lease::{AccountName, Finding};
use bailiwick_store::{Options, Store, StoreError};

use crate::builtin::SealedSecrets;
use crate::cli::{Failure, Place};
use crate::clock::{SystemClock, random};
use crate::config::{Config, Transport};
use crate::federation::Federation;
use crate::kept_secrets::KeptSecrets;
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
    let found = check(&place.configuration()?, &data_dir, &store, &keys, name).await;
    store.close().await;
    found.map(Some)
}

async fn check(config: &Config, data_dir: &Path, store: &Store, keys: &Keys, name: &str) -> Result<Vec<Finding>, Failure> {
    let known = config.systems.values().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
    let entry = config
        .systems
        .get(name)
        .ok_or_else(|| Failure::new(format!("there is no system `{}`", name.escape_debug()), format!("the configuration has: {known}")))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let fault = |why: String| Failure::new(format!("system `{name}`: {why}"), "see docs/guides/leases.md");
    let damaged = |e: StoreError| Failure::new(e.to_string(), "see docs/guides/recovery.md");
    let (kind, prefix) = match (&entry.transport, &entry.credential) {
        (Transport::Builtin(settings), _) => {
            let secrets = SealedSecrets::of(store, keys.sealer(), settings.secrets()).await.map_err(damaged)?;
            (settings.put_together(&secrets, &clock).map_err(fault)?.kind, settings.prefix())
        }
        (Transport::Http { .. }, Some(settings)) => {
            let secrets = SealedSecrets::of(store, keys.sealer(), settings.secrets()).await.map_err(damaged)?;
            let kept: Arc<dyn Rotation> = Arc::new(KeptSecrets::new(store.clone(), keys.sealer().clone(), Arc::clone(&clock)));
            let base = config.public_url.clone().unwrap_or_default();
            let federation = Federation::open(data_dir, keys.sealer(), &base).map_err(|e| fault(e.to_string()))?;
            (settings.build(&|name| secrets.open(name), &kept, &federation, &clock).map_err(fault)?.kind, settings.prefix())
        }
        (Transport::Stdio { .. } | Transport::Http { .. }, _) => {
            return Err(Failure::new(format!("no credentials are made for tasks at `{name}`"), "see docs/guides/leases.md"));
        }
    };
    let probe = AccountName::new(&prefix, LeaseId::new(clock.now(), random()).to_bytes());
    let found = kind.preflight(&probe).await;
    found.map_err(|e| Failure::new(format!("`{name}`: {e}"), "is the system running, and are address, account and secret right?"))
}
