//! The replacement of the root key: everything is sealed anew under the next one while calls go on, and the old one is destroyed when nothing is
//! sealed under it any more.
//!
//! The order, each step durable before the next: the next key is written beside the one in force; that is put on record; from then on everything new is
//! sealed under it, and both open. What is there is sealed anew in small batches, each only where it still stands as it was read. Then the
//! store takes nothing more under the old key, and in the same transaction counts what is under it: nothing. Only then does the next key take
//! the old one's place. A process that is killed anywhere finds both keys at its next start, and goes on.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::Clock;
use bailiwick_credentials::{RootId, SealError, Sealer};
use bailiwick_store::{Entry, Payloads, SealedPlace, Store, StoreError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::config::Sealing;
use crate::entry::{self, Body};
use crate::fault;
use crate::house::{House, StartError};
use crate::keys::{Held, files_under, reseal_files, root};

/// How much is sealed anew at a time: rows of each sort of the store, and texts of calls, which are long.
const BATCH: usize = 64;
const BATCH_TEXTS: usize = 8;
/// Between two batches, so that calls find the writer free.
const PAUSE: Duration = Duration::from_millis(5);
/// After a failure, it is tried again so much later.
const AGAIN: Duration = Duration::from_secs(30);
/// What cannot be sealed anew is named up to so many.
const STUCK_SHOWN: usize = 5;

/// Why the root key is not replaced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// One replacement at a time.
    #[error("the root key is being replaced already")]
    Replacing,
    /// The data directory, a key, or where the key comes from.
    #[error(transparent)]
    Place(#[from] StartError),
    /// The store's.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Something that is sealed under the old key does not open.
    #[error("{count} things that are sealed under the old root key do not open, so that it is not destroyed: {which}")]
    Stuck {
        /// How many.
        count: usize,
        /// The first of them.
        which: String,
    },
}

impl RotateError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Replacing => "see how far it is: bailiwick root-key status",
            Self::Place(error) => error.hint(),
            Self::Store(_) => "it goes on by itself when the store can be written; see docs/guides/recovery.md",
            Self::Stuck { .. } => {
                "they were damaged: set such secrets anew, or put the data directory back from a backup; see docs/guides/sealing.md"
            }
        }
    }
}

/// How the root key stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = RootKey)]
pub struct RootStatus {
    /// The name of the root key under which is sealed: 16 hex digits that say nothing about the key.
    pub id: String,
    /// Where it comes from: `file`, `credential`, `pkcs11`.
    pub held: String,
    /// Where the configuration says that it comes from: another place is reached by `rotate`.
    pub configured: String,
    /// The root key that is being replaced, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replacing: Option<String>,
    /// How many things were sealed anew since this process began with it.
    pub resealed: u64,
    /// Why it did not get further, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What the house knows of its root key.
#[derive(Debug)]
pub(crate) struct RootKeeper {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    held: Held,
    resealed: u64,
    why: Option<String>,
}

impl RootKeeper {
    pub(crate) fn new(held: Held) -> Self {
        Self { state: Mutex::new(State { held, resealed: 0, why: None }) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl House {
    /// How the root key stands.
    #[must_use]
    pub fn root_status(&self) -> RootStatus {
        self.root_key.with(|state| RootStatus {
            id: self.sealer().current().to_string(),
            held: state.held.by.to_owned(),
            configured: self.config.sealing.word().to_owned(),
            replacing: state.held.replacing.map(|old| old.to_string()),
            resealed: state.resealed,
            why: state.why.clone(),
        })
    }

    /// Begins to replace the root key by one from where the configuration says. Returns when the new one is durable, on record, and sealed under;
    /// the rest goes on behind.
    ///
    /// # Errors
    /// Why it was not begun.
    pub async fn rotate_root(self: &Arc<Self>, by: &str) -> Result<RootStatus, RotateError> {
        let old = self.sealer().current();
        self.root_key.with(|state| match state.held.replacing {
            Some(_) => Err(RotateError::Replacing),
            None => {
                state.held.replacing = Some(old);
                Ok(())
            }
        })?;
        let work = self.work();
        match work.begin(&self.config.sealing, old, Some(by)).await {
            Ok(held) => {
                self.root_key.with(|state| *state = State { held: Held { by: held, replacing: Some(old) }, resealed: 0, why: None });
                self.finish_root(old);
                Ok(self.root_status())
            }
            Err(error) => {
                self.root_key.with(|state| state.held.replacing = None);
                Err(error)
            }
        }
    }

    /// Goes on with a replacement that the last process did not bring to its end.
    pub(crate) fn resume_root(self: &Arc<Self>) {
        if self.pen.stopped().is_some() {
            return;
        }
        let held = self.root_key.with(|state| state.held);
        if held.by != self.config.sealing.word() {
            tracing::warn!(
                held = held.by,
                configured = self.config.sealing.word(),
                "the root key does not come from where the configuration says: `bailiwick root-key rotate` replaces it by one that does"
            );
        }
        if let Some(old) = held.replacing {
            tracing::info!(%old, "the replacement of the root key goes on");
            self.finish_root(old);
        }
    }

    fn finish_root(self: &Arc<Self>, old: RootId) {
        let house = Arc::clone(self);
        self.workers.spawn(async move {
            loop {
                let keeper = &house.root_key;
                let count = |things: u64| keeper.with(|state| state.resealed = state.resealed.saturating_add(things));
                let work = house.work();
                let done = tokio::select! {
                    () = house.stop.cancelled() => return,
                    done = work.finish(old, &count) => done,
                };
                let Err(error) = done else { break };
                tracing::error!(%error, hint = error.hint(), "the replacement of the root key did not get to its end yet");
                metrics::counter!("bailiwick_root_key_failures_total").increment(1);
                keeper.with(|state| state.why = Some(error.to_string()));
                tokio::select! {
                    () = house.stop.cancelled() => return,
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
            house.root_key.with(|state| {
                state.held.replacing = None;
                state.why = None;
            });
            tracing::info!(root = %house.sealer().current(), "the root key was replaced, and the old one destroyed");
        });
    }

    fn work(&self) -> Resealing<'_> {
        Resealing { data_dir: &self.data_dir, sealer: self.sealer(), store: &self.store, payloads: &self.payloads, clock: self.clock.as_ref() }
    }
}

/// Replaces the root key of a stopped broker, or brings a replacement to its end. Gives the new root key's name and how many things were sealed anew.
///
/// # Errors
/// `Store(Locked)` while a broker runs here; or why not.
pub async fn rotate_stopped(data_dir: &Path, source: &Sealing) -> Result<(RootId, u64), RotateError> {
    let (keys, store) = crate::secrets::writable(data_dir).await.map_err(|error| match error {
        crate::secrets::SecretError::Place(error) => RotateError::Place(error),
        crate::secrets::SecretError::Running => RotateError::Store(StoreError::Locked { path: data_dir.to_path_buf() }),
        crate::secrets::SecretError::Store(error) => RotateError::Store(error),
        other => RotateError::Place(StartError::place("the store", other)),
    })?;
    let payloads = Payloads::open(data_dir, true)?;
    let clock = crate::clock::SystemClock::start();
    let work = Resealing { data_dir, sealer: keys.sealer(), store: &store, payloads: &payloads, clock: &clock };
    let resealed = Mutex::new(0u64);
    let count = |things: u64| {
        let mut all = resealed.lock().unwrap_or_else(PoisonError::into_inner);
        *all = all.saturating_add(things);
    };
    let done = async {
        let old = match keys.held().replacing {
            Some(old) => old,
            None => {
                let old = keys.sealer().current();
                work.begin(source, old, None).await?;
                old
            }
        };
        work.finish(old, &count).await
    };
    let done = done.await;
    payloads.close().await;
    store.close().await;
    done?;
    let all = *resealed.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((keys.sealer().current(), all))
}

/// What a replacement works on.
struct Resealing<'a> {
    data_dir: &'a Path,
    sealer: &'a Sealer,
    store: &'a Store,
    payloads: &'a Payloads,
    clock: &'a dyn Clock,
}

impl Resealing<'_> {
    /// Makes the next key and seals under it from then on. Gives the word of the source that holds it.
    async fn begin(&self, source: &Sealing, old: RootId, by: Option<&str>) -> Result<&'static str, RotateError> {
        let next = root::make_next(self.data_dir, source, old)?;
        let id = next.key.id();
        if let Err(error) = self.note("root_key_rotation_begun", id, by).await {
            // Nothing was sealed under it, and nobody would know of it.
            drop(std::fs::remove_file(self.data_dir.join("root.next")));
            return Err(error.into());
        }
        fault::point("root-key-begun");
        self.sealer.adopt(&next.key).map_err(|e| StartError::place("root.next", e))?;
        Ok(next.held)
    }

    /// Seals everything anew and destroys the old key. Can be called again after any failure.
    async fn finish(&self, old: RootId, count: &(dyn Fn(u64) + Sync)) -> Result<(), RotateError> {
        let name = *old.as_bytes();
        loop {
            let stuck = self.reseal_rows(old, count).await?;
            let stuck_texts = self.reseal_texts(old, count).await?;
            count(u64::try_from(reseal_files(self.data_dir, self.sealer)?).unwrap_or(u64::MAX));
            fault::point("root-key-files");
            let stuck: Vec<String> = stuck.iter().map(|place| format!("{place:?}")).chain(stuck_texts).collect();
            if !stuck.is_empty() {
                let which = stuck.iter().take(STUCK_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(RotateError::Stuck { count: stuck.len(), which });
            }
            // INVARIANT: from this transaction on nothing is written under the old key, and it counts everything that was.
            let rows = self.store.retire_root(name).await?;
            let texts = self.payloads.sealed_under(name).await?;
            let files = files_under(self.data_dir, old)?;
            fault::point("root-key-retired");
            if (rows, texts, files) == (0, 0, 0) {
                break;
            }
        }
        // Texts are written without waiting for the disk: now it is waited for, and no page remains as it was before.
        self.payloads.cut_log().await?;
        if let Err(error) = self.store.cut_log().await {
            tracing::info!(%error, "the store's log holds pages as they were before the root key was replaced; it is written back later");
        }
        let new = self.sealer.current();
        self.note("root_key_rotated", new, None).await?;
        fault::point("root-key-proved");
        root::put_in_force(self.data_dir)?;
        self.sealer.forget_others();
        fault::point("root-key-replaced");
        Ok(())
    }

    /// Rows of the store, batch by batch. Gives those that do not open.
    async fn reseal_rows(&self, old: RootId, count: &(dyn Fn(u64) + Sync)) -> Result<BTreeSet<SealedPlace>, RotateError> {
        let mut stuck = BTreeSet::new();
        loop {
            let rows = self.store.sealed_rows(*old.as_bytes(), BATCH.saturating_add(stuck.len())).await?;
            let mut batch = Vec::new();
            for row in rows {
                match self.sealer.reseal(&label(&row.place), &row.sealed) {
                    Ok(Some(anew)) => batch.push((row, anew)),
                    Ok(None) => {}
                    Err(SealError::Library) => return Err(StartError::place("the cryptographic library", "failed").into()),
                    Err(error) => {
                        tracing::error!(%error, place = ?row.place, "something that is sealed does not open");
                        stuck.insert(row.place);
                    }
                }
            }
            if batch.is_empty() {
                return Ok(stuck);
            }
            let done = self.store.reseal(batch).await?;
            count(u64::try_from(done).unwrap_or(u64::MAX));
            fault::point("root-key-batch");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Texts of calls, batch by batch. Gives those that do not open.
    async fn reseal_texts(&self, old: RootId, count: &(dyn Fn(u64) + Sync)) -> Result<Vec<String>, RotateError> {
        let mut stuck = Vec::new();
        let mut after = 0;
        loop {
            let rows = self.payloads.sealed_rows(*old.as_bytes(), after, BATCH_TEXTS).await?;
            let Some(last) = rows.last() else { return Ok(stuck) };
            after = last.id;
            let mut batch = Vec::new();
            for row in rows {
                let label = crate::payload::name(row.kind, row.call);
                match self.sealer.reseal(&label, &row.sealed) {
                    Ok(Some(anew)) => batch.push((row, anew)),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::error!(%error, label, "the text of a call does not open");
                        stuck.push(label);
                    }
                }
            }
            let done = self.payloads.reseal(batch).await?;
            count(u64::try_from(done).unwrap_or(u64::MAX));
            fault::point("root-key-texts");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn note(&self, what: &'static str, id: RootId, by: Option<&str>) -> Result<(), StoreError> {
        let name = by.map_or_else(|| id.to_string(), |by| format!("{id} by {by}"));
        let body = entry::House { what, name: Some(&name), digest: None };
        let entry = Entry::new(<entry::House<'_> as Body>::WORD, entry::encode(self.clock.now(), &body));
        self.store.change(entry, |_| Ok(())).await.map(drop)
    }
}

/// The name under which something is sealed.
fn label(place: &SealedPlace) -> String {
    match place {
        SealedPlace::Secret(name) | SealedPlace::Candidate(name) => name.clone(),
        SealedPlace::Salt(task) => crate::payload::salt_name(*task),
        SealedPlace::Lease(lease) => crate::leases::seal_name(*lease),
        SealedPlace::HeldArguments(hold) => format!("hold/{hold}"),
        SealedPlace::HeldResult(hold) => format!("result/{hold}"),
    }
}
