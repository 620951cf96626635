//! The end of leases: tried until it is shown, with back-off and without a cap (law 6), and told to people when it does not come.

use std::collections::hash_map::Entry;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::{LeaseId, TaskId};
use bailiwick_credentials::lease::{Account, TargetIds};
use bailiwick_store::{LeaseFilter, LeaseLife, LeaseRow, LeaseState, StoreError};
use futures_util::FutureExt as _;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::record::{End, step};
use super::{Event, Held, Leases, locked, seal_name};
use crate::fault;

/// The first wait between two tries; it doubles.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
/// The longest.
const AGAIN_MAX: Duration = Duration::from_secs(300);
/// Tries in vain after which somebody is called.
const STUCK_AFTER: u32 = 4;
/// How long the end of a task waits for the ends of its leases, before they go on behind it.
const END_WITHIN: Duration = Duration::from_secs(8);
/// Evidence in an entry beyond this many bytes is cut at its beginning: what verifies stands at its end.
const EVIDENCE_BYTES_MAX: usize = 40_000;

/// A lease that is being worked on. Given back when dropped.
pub(super) struct Busy<'a> {
    leases: &'a Leases,
    id: LeaseId,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        locked(&self.leases.busy).remove(&self.id);
        self.leases.freed.notify_waiters();
        // Somebody may have come for it meanwhile.
        self.leases.wake.notify_one();
    }
}

/// An end that is under way. However it comes back, by a panic too, it is under way no more, and whoever waits for it is told: nothing that goes
/// wrong in one try may keep the next one from being made.
struct UnderWay {
    leases: Arc<Leases>,
    id: LeaseId,
    _told: DropGuard,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        locked(&self.leases.queued).remove(&self.id);
        self.leases.wake.notify_one();
    }
}

/// What came of one try.
#[derive(Debug)]
pub(crate) enum Tried {
    /// It has its ending.
    Ended,
    /// It has not, and why.
    NotYet(String),
    /// Somebody else is at it.
    Busy,
}

impl Leases {
    /// Nobody else mints or ends it meanwhile. `None`: somebody does.
    pub(super) fn occupy(&self, id: LeaseId) -> Option<Busy<'_>> {
        let free = locked(&self.busy).insert(id);
        // Made only if it is free: dropping one gives the place back.
        if free { Some(Busy { leases: self, id }) } else { None }
    }

    /// Resolves when nobody mints or ends it.
    async fn free(&self, id: LeaseId) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if !locked(&self.busy).contains(&id) {
                return;
            }
            freed.await;
        }
    }

    /// A task ends: our connections of it are closed, whatever becomes of the record. Its leases stay what they are.
    pub(crate) async fn close_of(&self, task: TaskId) {
        let held: Vec<Arc<Held>> = locked(&self.held).iter().filter(|((of, ..), _)| *of == task).map(|(_, held)| Arc::clone(held)).collect();
        futures_util::future::join_all(held.iter().map(|held| held.close())).await;
    }

    /// A task has ended (its leases are `ending` in the store): our connections are closed, and the ends are tried at once. Waits for them,
    /// but not long; what is left goes on behind it.
    pub(crate) async fn end_of_task(self: &Arc<Self>, task: TaskId) {
        let held: Vec<Arc<Held>> = locked(&self.held).extract_if(|(of, ..), _| *of == task).map(|(_, held)| held).collect();
        futures_util::future::join_all(held.iter().map(|held| held.close())).await;
        for held in &held {
            // Reserved, and never used: the next task may have it.
            let pooled = held.making.try_lock().ok().and_then(|mut making| making.take());
            if let Some(pooled) = pooled {
                self.put_aside(held, pooled).await;
            }
        }
        let filter = LeaseFilter { task: Some(task), open: true, limit: usize::MAX, ..LeaseFilter::default() };
        let Ok(rows) = self.store.leases(filter).await else { return self.wake.notify_one() };
        // Whoever began one: it is waited for.
        let tries: Vec<CancellationToken> = rows.into_iter().map(|row| self.spawn_end(row)).collect();
        drop(tokio::time::timeout(END_WITHIN, futures_util::future::join_all(tries.iter().map(CancellationToken::cancelled))).await);
    }

    /// Begins one try, unless one is under way. What it gives is cancelled when the try has come back.
    fn spawn_end(self: &Arc<Self>, row: LeaseRow) -> CancellationToken {
        let id = row.lease.id;
        let back = match locked(&self.queued).entry(id) {
            Entry::Occupied(under_way) => return under_way.get().clone(),
            Entry::Vacant(free) => free.insert(CancellationToken::new()).clone(),
        };
        let under_way = UnderWay { leases: Arc::clone(self), id, _told: back.clone().drop_guard() };
        tokio::spawn(async move {
            let leases = &under_way.leases;
            // A making, or what the system is told, comes to its end first.
            drop(tokio::time::timeout(END_WITHIN, leases.free(id)).await);
            let leasing = leases.leasing(&row.lease.system);
            let place = match &leasing {
                Some(leasing) => Arc::clone(&leasing.places).acquire_owned().await.ok(),
                None => None,
            };
            let ended = match AssertUnwindSafe(leases.end(&row)).catch_unwind().await {
                Ok(ended) => ended.map(drop),
                Err(_) => leases.faulted(id).await,
            };
            drop(place);
            if let Err(error) = ended {
                tracing::error!(%error, lease = %id, "the end of a lease could not be recorded yet");
                // What was done at the system is done again then: not as fast as the store can fail.
                tokio::time::sleep(AGAIN_FIRST).await;
            }
            drop(under_way);
        });
        back
    }

    /// Begins to end whatever is due, and waits for nothing. Gives the time until the next one is.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn end_due(self: &Arc<Self>) -> Result<Option<Duration>, StoreError> {
        self.say_unsaid().await?;
        let filter = LeaseFilter { state: Some(LeaseState::Ending), limit: usize::MAX, ..LeaseFilter::default() };
        let now = self.clock.now();
        let mut soonest = None::<Duration>;
        for row in self.store.leases(filter).await? {
            match row.life.next_at {
                Some(next) if now < next => {
                    let wait = now.until(next);
                    soonest = Some(soonest.map_or(wait, |s| s.min(wait)));
                }
                _ => drop(self.spawn_end(row)),
            }
        }
        Ok(soonest)
    }

    /// The store is told of leases that are to be ended.
    pub(super) async fn say_unsaid(&self) -> Result<(), StoreError> {
        let ids = std::mem::take(&mut *locked(&self.unsaid));
        for (at, id) in ids.iter().enumerate() {
            if let Err(error) = self.store.lease_ending(*id).await {
                locked(&self.unsaid).extend(ids.iter().skip(at));
                return Err(error);
            }
        }
        Ok(())
    }

    /// One try to end one lease that is `ending`.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn end(&self, row: &LeaseRow) -> Result<Tried, StoreError> {
        let id = row.lease.id;
        let Some(_busy) = self.occupy(id) else { return Ok(Tried::Busy) };
        // What was read may be old: the mint's own ids may have come meanwhile, or the ending.
        let Some(row) = self.store.lease(id).await? else { return Ok(Tried::Ended) };
        match row.state {
            LeaseState::Ended => return Ok(Tried::Ended),
            LeaseState::Ending => {}
            LeaseState::Pooled | LeaseState::Intended | LeaseState::Live => return Ok(Tried::Busy),
        }
        let leasing = self.leasing(&row.lease.system).filter(|l| l.kind.kind() == row.lease.kind);
        let Some(leasing) = leasing else {
            let why = format!("the system `{}` is not configured as it was: configure it again, or end the lease by hand", row.lease.system);
            return self.not_yet(row, why, true).await;
        };
        if !covers(&row.lease.target, &leasing.target) {
            // An account is not there, and its login refused, at every server where it never was.
            let why = format!(
                "it was made at `{}`, and the system is at `{}` now: configure it as it was, or end the lease by hand",
                row.lease.target, leasing.target
            );
            return self.not_yet(row, why, true).await;
        }
        let account = match self.account(&row) {
            Ok(account) => account,
            Err(why) => return self.not_yet(row, why, true).await,
        };
        fault::point("lease-ending");
        match leasing.kind.end(&account).await {
            Ok(ending) => {
                fault::point("lease-dead");
                let ending = serde_json::to_value(&ending).unwrap_or_default();
                self.ended(row, ending, None, None).await?;
                fault::point("lease-ended");
                Ok(Tried::Ended)
            }
            Err(error) => self.not_yet(row, error.to_string(), !error.is_transient()).await,
        }
    }

    /// A try came to nothing because of a fault of ours: it is tried again later, and somebody is called.
    async fn faulted(&self, id: LeaseId) -> Result<(), StoreError> {
        tracing::error!(lease = %id, "a panic stopped the end of a lease; it is tried again");
        let Some(_busy) = self.occupy(id) else { return Ok(()) };
        match self.store.lease(id).await? {
            Some(row) if row.state == LeaseState::Ending => {
                self.not_yet(row, "a fault in the broker stopped the try: see its log".to_owned(), true).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// The account of a lease, with its secret.
    pub(super) fn account(&self, row: &LeaseRow) -> Result<Account, String> {
        let name = row.lease.account.parse().map_err(|_| "the name of the account is not well-formed".to_owned())?;
        let ids: TargetIds = serde_json::from_value(row.life.ids.clone()).unwrap_or_default();
        let open = |sealed: &Vec<u8>| self.sealer.open(&seal_name(row.lease.id), sealed).map_err(|e| format!("its secret does not open: {e}"));
        let secret = row.secret.as_ref().map(open).transpose()?;
        Ok(Account { name, ids, secret, expires_at: row.life.expires_at })
    }

    async fn not_yet(&self, row: LeaseRow, why: String, lasting: bool) -> Result<Tried, StoreError> {
        let attempts = row.life.attempts.saturating_add(1);
        let wait = AGAIN_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(AGAIN_MAX);
        let next_at = self.clock.now().plus(wait);
        let life = LeaseLife { attempts, next_at: Some(next_at), failure: Some(why.clone()), ..row.life };
        tracing::warn!(lease = %row.lease.id, system = %row.lease.system, attempts, %why, "a lease could not be ended yet; it is tried again");
        metrics::counter!("bailiwick_lease_end_failures_total", "system" => row.lease.system.to_string()).increment(1);
        self.store.lease_tried(row.lease.id, life).await?;
        // Once for a reason that lasts, else after some tries; and again each time that the number has doubled.
        let count = if lasting { attempts } else { attempts.saturating_sub(STUCK_AFTER - 1) };
        if count > 0 && count.is_power_of_two() {
            let event = Event::Stuck { lease: row.lease.id, task: row.task, system: row.lease.system, why: why.clone() };
            drop(self.events.send(event));
        }
        Ok(Tried::NotYet(why))
    }

    /// A person says that it is over, although nothing shows it.
    ///
    /// # Errors
    /// The store's. False: it had its ending already, or is not being ended.
    pub(crate) async fn end_by_hand(&self, id: LeaseId, by: &str, reason: &str) -> Result<bool, StoreError> {
        let Some(_busy) = self.occupy(id) else { return Ok(false) };
        let Some(row) = self.store.lease(id).await? else { return Ok(false) };
        if row.state != LeaseState::Ending {
            return Ok(false);
        }
        let ending = serde_json::json!({ "ending": "by-hand", "last_failure": row.life.failure });
        self.ended(row, ending, Some(by), Some(reason)).await?;
        Ok(true)
    }

    async fn ended(&self, row: LeaseRow, ending: serde_json::Value, by: Option<&str>, reason: Option<&str>) -> Result<(), StoreError> {
        let now = self.clock.now();
        let ending = fitting(ending);
        let life = LeaseLife { ending: Some(ending.clone()), by: by.map(str::to_owned), next_at: None, failure: None, ..row.life.clone() };
        let body = step(now, &row, "ended", None, Some(&End { ending: &ending, by, reason }));
        self.store.lease_ended(row.lease.id, life, now, body).await?;
        locked(&self.known).remove(&row.lease.id.to_bytes());
        let word = word(&ending).to_owned();
        metrics::counter!("bailiwick_leases_ended_total", "system" => row.lease.system.to_string(), "ending" => word).increment(1);
        drop(self.events.send(Event::Ended { task: row.task }));
        Ok(())
    }

    /// Resolves when there may be something to end.
    pub(crate) async fn rung(&self) {
        self.wake.notified().await;
    }
}

/// Is the system still where the account was made? Nodes may have been taken out of the configuration since (ADR 0013), none added.
fn covers(made: &str, now: &str) -> bool {
    let nodes = |target: &str| -> std::collections::BTreeSet<String> {
        let parts = target.split([',', ' ', '/', '@']).filter(|p| p.contains(':') && p.ends_with(|c: char| c.is_ascii_digit()));
        parts.map(str::to_owned).collect()
    };
    let (made_at, now_at) = (nodes(made), nodes(now));
    made == now || made.is_empty() || (!now_at.is_empty() && now_at.is_subset(&made_at))
}

/// The word of an ending.
pub(crate) fn word(ending: &serde_json::Value) -> &str {
    ending.get("ending").and_then(serde_json::Value::as_str).unwrap_or("revoked-unverified")
}

/// Evidence that fits into an entry: what is cut is its beginning, and that it was cut is said.
fn fitting(mut ending: serde_json::Value) -> serde_json::Value {
    let mut cut = 0_u32;
    while ending.to_string().len() > EVIDENCE_BYTES_MAX {
        let Some(lines) = ending.get_mut("evidence").and_then(serde_json::Value::as_array_mut).filter(|lines| !lines.is_empty()) else { break };
        lines.remove(0);
        cut = cut.saturating_add(1);
    }
    if cut > 0
        && let Some(object) = ending.as_object_mut()
    {
        object.insert("evidence_cut".to_owned(), cut.into());
    }
    ending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_tried_only_where_the_account_was_made() {
        let two = "postgresql://127.0.0.1:5432,127.0.0.1:5433/shop";
        for same in [two, "postgresql://127.0.0.1:5432/shop", "postgresql://127.0.0.1:5433/other"] {
            assert!(covers(two, same), "{same}");
        }
        for other in ["postgresql://127.0.0.1:5434/shop", "postgresql://127.0.0.1:5432,127.0.0.1:9/shop", "postgresql:///run/postgresql/shop", ""] {
            assert!(!covers(two, other), "{other}");
        }
        assert!(covers("", two), "a lease from before the place was remembered");
    }
}
