//! Whether what is on the disk is still what was recorded, and whether time goes on: looked at in the background, never in a call's way.
//! A ledger that is found damaged is not written any more, and so no call passes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bailiwick_core::{Clock, Timestamp};
use bailiwick_ledger::{Frontier, Hash, leaf_hash};
use bailiwick_store::{Reason, Store, StoreError};
use serde::Deserialize;

use crate::house::{House, StartError};
use crate::ledger_access::said_minimum;

/// How often everything is read again.
const EVERY: Duration = Duration::from_secs(6 * 3600);
/// Entries that are read at a time, and the pause after them, so that calls go first.
const PAGE: u64 = 512;
const PAUSE: Duration = Duration::from_millis(2);
/// Says that the record was found damaged, until it was seen whole again. Beside the database, which may be what is damaged.
const MARK: &str = "record-damaged";
/// A clock may be this far behind the newest entry: machines' clocks are corrected by little. What is more is somebody's decision.
const BEHIND_MAX: Duration = Duration::from_secs(300);

/// What is wrong with the record.
#[derive(Debug, thiserror::Error)]
enum Unsound {
    #[error("entry {0} is not what was recorded")]
    Entry(u64),
    #[error("entry {0} is missing")]
    Missing(u64),
    #[error("the entries do not lead to the signed root")]
    Root,
    #[error("the entries before {0} are empty, and no entry says that they were pruned")]
    Unsaid(u64),
    #[error("the database file is damaged: {0}")]
    Pages(StoreError),
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for Unsound {
    fn from(error: StoreError) -> Self {
        let damaged = matches!(error, StoreError::Unavailable { reason: Reason::Damaged | Reason::Disagrees, .. } | StoreError::Malformed { .. });
        if damaged { Self::Pages(error) } else { Self::Store(error) }
    }
}

impl House {
    /// Reads the whole record again and again. `behind`: the clock was so far behind the newest entry at the start.
    pub(crate) fn start_soundness(self: &Arc<Self>, behind: Option<Duration>) {
        let house = Arc::clone(self);
        self.workers.spawn(async move {
            if let Some(behind) = behind {
                let detail = format!("the clock is {} s behind the newest entry; time goes on from that entry", behind.as_secs());
                house.incident("clock_back", None, None, &detail).await;
            }
            loop {
                let looked = tokio::select! {
                    () = house.stop.cancelled() => return,
                    looked = house.look_over() => looked,
                };
                match looked {
                    Ok(entries) => tracing::debug!(entries, "the record is what was written"),
                    Err(Unsound::Store(error)) => tracing::warn!(%error, "the record could not be looked over"),
                    Err(wrong) => {
                        house.damaged(&wrong).await;
                    }
                }
                tokio::select! {
                    () = house.stop.cancelled() => return,
                    () = tokio::time::sleep(EVERY) => {}
                }
            }
        });
    }

    /// The pen first, so that nothing more is signed over what is damaged; then the mark for the next start; then the incident, without
    /// an entry.
    async fn damaged(&self, wrong: &Unsound) {
        self.pen.stop(&format!("the record is damaged: {wrong}"));
        metrics::counter!("bailiwick_incidents_total", "what" => "record_damaged").increment(1);
        tracing::error!(error.code = "audit.unavailable", %wrong, "the record is damaged: nothing is written to it, and no call passes");
        let mark = self.data_dir.join(MARK);
        if let Err(error) = crate::place::write_private(&mark, format!("{wrong}\n").as_bytes()) {
            tracing::error!(%error, path = %mark.display(), "the next start will not know of the damage before it finds it again");
        }
        let now = self.clock.now();
        let document = serde_json::json!({ "detail": wrong.to_string() }).to_string();
        let id = bailiwick_core::IncidentId::new(now, crate::clock::random());
        let row = bailiwick_store::Incident { id, kind: "record_damaged".to_owned(), at: now, document };
        if let Err(error) = self.store.write(move |w| w.incident_put(&row)).await {
            tracing::error!(%error, "the incident could not be kept");
        }
    }

    /// Before anything is signed: a record that was found damaged is looked over first. Whole again, the mark goes.
    ///
    /// # Errors
    /// If the mark cannot be read or taken away.
    pub(crate) async fn recall_damage(&self) -> Result<(), StartError> {
        let mark = self.data_dir.join(MARK);
        let failed = |e: std::io::Error| StartError::place(mark.display().to_string(), e);
        if !mark.try_exists().map_err(failed)? {
            return Ok(());
        }
        tracing::warn!("the record was found damaged before: all of it is read before anything is signed");
        match self.look_over().await {
            Ok(entries) => {
                tracing::info!(entries, "the record is whole again");
                std::fs::remove_file(&mark).map_err(failed)
            }
            Err(wrong) => {
                self.damaged(&wrong).await;
                Ok(())
            }
        }
    }

    /// Reads every entry up to the head of now. Gives their number.
    async fn look_over(&self) -> Result<u64, Unsound> {
        let head = self.store.head();
        let mut tree = Frontier::new();
        // The entry after the last one that is empty, and how far entries say that others were pruned.
        let (mut empty_to, mut said, mut minimum) = (0u64, 0u64, 0u64);
        while tree.size() < head.size {
            let from = tree.size();
            let rows = self.store.entries(from..head.size.min(from.saturating_add(PAGE))).await?;
            if rows.is_empty() {
                return Err(Unsound::Missing(from));
            }
            for row in rows {
                if row.index != tree.size() {
                    return Err(Unsound::Missing(tree.size()));
                }
                let leaf = Hash::from_bytes(row.leaf);
                if leaf_hash(&row.body) != leaf {
                    // Only a body that was pruned is empty; its leaf stays.
                    if row.index >= minimum {
                        // More may have been pruned since.
                        minimum = self.store.minimum().await?;
                    }
                    if !row.body.is_empty() || row.index >= minimum {
                        return Err(Unsound::Entry(row.index));
                    }
                    empty_to = row.index.saturating_add(1);
                }
                said = said.max(said_minimum(&row.body).unwrap_or_default());
                tree.push(leaf);
            }
            tokio::time::sleep(PAUSE).await;
        }
        if *tree.root().as_bytes() != head.root {
            return Err(Unsound::Root);
        }
        if empty_to > said && empty_to > self.said_since(head.size).await? {
            return Err(Unsound::Unsaid(empty_to));
        }
        self.store.check_pages().await?;
        Ok(head.size)
    }
}

impl House {
    /// How far the entries from here on say that others were pruned: it may have been ordered meanwhile.
    async fn said_since(&self, mut from: u64) -> Result<u64, Unsound> {
        let (to, mut said) = (self.store.head().size, 0u64);
        while from < to {
            let rows = self.store.entries(from..to.min(from.saturating_add(PAGE))).await?;
            let Some(last) = rows.last() else { return Err(Unsound::Missing(from)) };
            from = last.index.saturating_add(1);
            said = rows.iter().filter_map(|row| said_minimum(&row.body)).fold(said, u64::max);
        }
        Ok(said)
    }
}

#[derive(Deserialize)]
struct Recorded {
    at: Timestamp,
}

/// A clock that never says a time before the newest entry's, and how far the given one was behind it.
///
/// # Errors
/// If it is so far behind that what has expired would live again for long, or that the record would lie about its order.
pub(crate) async fn no_earlier(clock: Arc<dyn Clock>, store: &Store) -> Result<(Arc<dyn Clock>, Option<Duration>), StartError> {
    let newest = store.entries_newest(1).await?;
    // The body may have been pruned: then nothing newer than it was said.
    let Some(last) = newest.first().and_then(|row| serde_json::from_slice::<Recorded>(&row.body).ok()) else { return Ok((clock, None)) };
    let now = clock.now();
    let behind = now.until(last.at);
    if behind.is_zero() {
        return Ok((clock, None));
    }
    if behind > BEHIND_MAX {
        return Err(StartError::Clock { now, last: last.at });
    }
    Ok((Arc::new(NoEarlier { clock, floor: last.at, since: Instant::now() }), Some(behind)))
}

/// Until the clock has caught up, time goes on from the newest entry.
#[derive(Debug)]
struct NoEarlier {
    clock: Arc<dyn Clock>,
    floor: Timestamp,
    since: Instant,
}

impl Clock for NoEarlier {
    fn now(&self) -> Timestamp {
        self.clock.now().max(self.floor.plus(self.since.elapsed()))
    }
}
