//! What goes: texts whose time is over, and texts that somebody had erased. An order to erase is on record before it is carried out, and
//! is carried out again after a crash until nothing is left of it.

mod looking;
mod running;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::hold::HoldState;
use bailiwick_core::{CallId, Hold, HoldId, PersonName, TaskId, TaskState, Timestamp};
use bailiwick_store::{ERASED_AT_ONCE_MAX, Entry, Erased, Keeping, Payloads, StoreError, TaskFilter};
use serde_json::Value;

use crate::config::Config;
use crate::entry::{self, Body};
use crate::fault;
use crate::house::{House, StartError};

pub(crate) use running::Retaining;

/// How often texts whose time is over are taken out.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
/// Tasks whose salts are forgotten in one transaction.
const FORGET_AT_ONCE: usize = 200;
/// Texts that are looked through at a time.
const PAGE: usize = 200;
/// The longest reason of an erasure, in characters. It stays on record: a number of a request, not a person's data.
const REASON_MAX: usize = 200;
/// The shortest text that can be looked for: a shorter one is in everything.
const CONTAINING_MIN: usize = 3;

/// What is to be erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// All calls of a task.
    Task(TaskId),
    /// One call, and the held call that it came of.
    Call(CallId),
    /// All calls of all tasks that were done on behalf of this person.
    Subject(PersonName),
    /// Every call in one of whose kept texts this stands. It is looked for, and recorded nowhere.
    Containing(String),
}

/// What an order to erase names, once it was looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Whole tasks.
    pub tasks: Vec<TaskId>,
    /// Single calls.
    pub calls: Vec<CallId>,
    /// Tasks that were named and are still open: nothing of them is erased.
    pub open: Vec<TaskId>,
}

/// What was erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was named.
    pub named: Named,
    /// Texts that were kept and are gone.
    pub texts: u64,
    /// Where the ledger says so.
    pub entries: Vec<u64>,
}

/// Why nothing was erased.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EraseError {
    /// There is no such task or call, or nothing that holds the text.
    #[error("there is nothing of that name to erase")]
    Absent,
    /// It is still open.
    #[error("the task `{0}` is still open, and needs what would be erased: end it first")]
    Open(TaskId),
    /// The order is not well-formed.
    #[error("{0}")]
    Invalid(&'static str),
    /// The store's.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Opens the file of texts. One that cannot be opened stops the start only if the configuration requires it.
pub(crate) fn open_payloads(config: &Config, data_dir: &Path) -> Result<Payloads, StartError> {
    let keeping = Keeping { durable: config.retention.required, bytes_max: config.retention.total_bytes_max };
    match Payloads::open_with(data_dir, keeping) {
        Ok(payloads) => Ok(payloads),
        Err(error) if config.retention.required => Err(error.into()),
        Err(error) => {
            tracing::error!(%error, "texts of calls cannot be kept: their file cannot be opened");
            Ok(Payloads::broken())
        }
    }
}

/// What was pruned, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// The first entry that was there.
    pub from: u64,
    /// The first one that is there now.
    pub to: u64,
    /// Entries from this time on are kept, whatever else.
    pub kept_from: Timestamp,
    /// What keeps more from being pruned, in words.
    pub held_by: Option<&'static str>,
    /// Where the ledger says so. `None`: there was nothing to prune, or it was only a question.
    pub entry: Option<u64>,
}

/// Why nothing was pruned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// Without a policy, a log is not pruned (C2SP tlog-tiles, section Retention Policies).
    #[error("the configuration has no policy by which the ledger may be pruned: `ledger_days` under [retention]")]
    NoPolicy,
    /// The policy keeps it.
    #[error("the policy keeps entries from {0} on")]
    Kept(Timestamp),
    /// The store's.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl House {
    /// Prunes the ledger: what entries from before a time said goes, their hashes stay. Without a time, by what the policy says. On
    /// record first; it never touches what is open, what an export or the publication has not got yet, or what the policy keeps.
    ///
    /// # Errors
    /// See [`PruneError`]. After a `Store` error it may be on record; it goes on at the next start.
    pub async fn prune(&self, before: Option<Timestamp>, by: Option<&PersonName>, dry: bool) -> Result<Pruned, PruneError> {
        let now = self.clock.now();
        let policy = self.config.retention.ledger.ok_or(PruneError::NoPolicy)?;
        let life = i64::try_from(policy.as_millis()).unwrap_or(i64::MAX);
        let keeps = Timestamp::from_millis(now.as_millis().saturating_sub(life));
        let kept_from = before.unwrap_or(keeps);
        if kept_from > keeps {
            return Err(PruneError::Kept(keeps));
        }
        let prunable = self.store.prunable(kept_from, self.let_out_to().await?).await?;
        let (from, to) = (prunable.from, prunable.to);
        let pruned = Pruned { from, to, kept_from, held_by: prunable.held_by.map(bailiwick_store::HeldBy::words), entry: None };
        if dry || to == from {
            return Ok(pruned);
        }
        let policy_days = policy.as_secs() / (24 * 60 * 60);
        let body = entry::encode(now, &entry::Pruned { minimum: to, before: from, kept_from, by, policy_days });
        let entry = Entry::new(<entry::Pruned<'_> as Body>::WORD, body);
        let index = self.store.write(move |w| w.prune(entry, to)).await?;
        fault::point("after-prune-ordered");
        self.finish_pruning().await?;
        self.forget_tasks_of(to, kept_from).await?;
        metrics::gauge!("bailiwick_ledger_minimum").set(f64::from(u32::try_from(to).unwrap_or(u32::MAX)));
        Ok(Pruned { entry: Some(index), ..pruned })
    }

    /// The first entry that some export, or the publication, has not got yet.
    async fn let_out_to(&self) -> Result<u64, StoreError> {
        let cursors = self.store.exports().await?;
        let next = |name: &str| cursors.iter().find(|c| c.name == name).map_or(0, |c| c.next);
        let exports = self.config.exports.iter().map(|export| next(&export.name));
        Ok(exports.chain(self.publication.entries_out().await).min().unwrap_or(u64::MAX))
    }

    /// Carries a pruning out that is on record. What it leaves in the index and in the log goes too.
    ///
    /// # Errors
    /// The store's; it is tried again at the next start.
    pub(crate) async fn finish_pruning(&self) -> Result<(), StoreError> {
        if self.store.prune_on().await? {
            fault::point("after-prune");
            self.store.cut_log().await?;
            self.store.rebuild_index().await?;
            // Last: a start after a crash begins with the first step again.
            self.store.pruned_done().await?;
        }
        Ok(())
    }

    /// Tasks of which every entry was pruned are forgotten, with their held calls.
    async fn forget_tasks_of(&self, minimum: u64, kept_from: Timestamp) -> Result<(), StoreError> {
        let first = self.store.entry(minimum).await?;
        let body: Value = first.and_then(|row| serde_json::from_slice(&row.body).ok()).unwrap_or_default();
        let at = body.get("at").and_then(|at| Timestamp::parse(at.as_str()?).ok()).unwrap_or(kept_from);
        let gone = self.store.forget_tasks_before(at.min(kept_from)).await?;
        if gone > 0 {
            tracing::info!(tasks = gone, "tasks whose entries were pruned are forgotten");
        }
        self.store.cut_log().await
    }

    /// Starts the worker that takes out what is over.
    pub(crate) fn start_retention(self: &Arc<Self>) {
        let house = Arc::clone(self);
        self.workers.spawn(async move {
            let mut tick = tokio::time::interval(EXPIRE_EVERY);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = house.stop.cancelled() => return,
                    _ = tick.tick() => {}
                }
                if let Err(error) = house.expire_texts().await {
                    tracing::error!(%error, "texts whose time is over could not be taken out yet");
                }
            }
        });
    }

    /// Tells how the file of texts stands, to whoever reads the metrics.
    pub(crate) fn count_texts(&self) {
        metrics::counter!("bailiwick_texts_lost_total").absolute(self.payloads.lost());
        metrics::counter!("bailiwick_texts_displaced_total").absolute(self.payloads.displaced());
        metrics::gauge!("bailiwick_texts_waiting").set(f64::from(u32::try_from(self.payloads.waiting()).unwrap_or(u32::MAX)));
    }

    /// Takes out the texts whose time is over, and what is kept of tasks that ended long ago.
    ///
    /// # Errors
    /// The store's; it is tried again.
    pub async fn expire_texts(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        self.finish_erasures().await?;
        self.tell_displaced().await;
        let texts = self.payloads.expire(now).await?;
        let life = i64::try_from(self.config.retention.digests.as_millis()).unwrap_or(i64::MAX);
        let before = Timestamp::from_millis(now.as_millis().saturating_sub(life));
        let mut tasks = 0usize;
        loop {
            let step = self.store.write(move |w| w.forget_tasks(before, FORGET_AT_ONCE)).await?;
            tasks = tasks.saturating_add(step);
            if step < FORGET_AT_ONCE {
                break;
            }
        }
        if tasks > 0 {
            self.store.cut_log().await?;
        }
        if texts > 0 || tasks > 0 {
            tracing::info!(texts, tasks, "texts whose time was over are gone");
        }
        Ok(())
    }

    /// Looks up what an order names. To look into texts is put on record first, with who does it, and without what is looked for.
    ///
    /// # Errors
    /// `Absent` if that is nothing, `Open` if the one thing that it names is still open, `Invalid`, or the store's.
    pub async fn named(&self, selector: &Selector, by: &PersonName) -> Result<Named, EraseError> {
        let named = match selector {
            Selector::Task(id) => {
                let row = self.store.task(*id).await?.ok_or(EraseError::Absent)?;
                if !matches!(row.state, TaskState::Closed { .. }) {
                    return Err(EraseError::Open(*id));
                }
                Named { tasks: vec![*id], ..Named::default() }
            }
            Selector::Call(id) => {
                let calls = self.with_hold(*id).await?;
                if calls.is_empty() {
                    return Err(EraseError::Absent);
                }
                self.closed(calls.into_iter().map(|call| (call, None)).collect(), true).await?
            }
            Selector::Subject(person) => {
                let rows = self.store.tasks(TaskFilter { subject: Some(person.clone()), limit: usize::MAX, ..TaskFilter::default() }).await?;
                let (closed, open): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| matches!(row.state, TaskState::Closed { .. }));
                let ids = |rows: Vec<bailiwick_store::TaskRow>| rows.into_iter().map(|row| row.task.id).collect();
                Named { tasks: ids(closed), calls: Vec::new(), open: ids(open) }
            }
            Selector::Containing(text) => {
                if text.len() < CONTAINING_MIN {
                    return Err(EraseError::Invalid("the text to look for is too short: at least 3 bytes"));
                }
                self.append(&entry::House { what: "texts_searched", name: Some(by.as_str()), digest: None }).await?;
                self.closed(self.containing(text).await?, false).await?
            }
        };
        if named.tasks.is_empty() && named.calls.is_empty() && named.open.is_empty() { Err(EraseError::Absent) } else { Ok(named) }
    }

    /// A call with the one that was held before it, or was made with its approval: they have the same arguments. Empty: the ledger does
    /// not know it.
    async fn with_hold(&self, call: CallId) -> Result<BTreeSet<CallId>, EraseError> {
        let entries = self.store.entries_of_call(call).await?;
        let mut calls: BTreeSet<CallId> = entries.first().map(|_| call).into_iter().collect();
        for row in entries {
            let body: Value = serde_json::from_slice(&row.body).unwrap_or_default();
            let hold = body.get("hold").and_then(|h| h.as_str()?.parse::<HoldId>().ok());
            if let Some(id) = hold
                && let Some(hold) = self.store.hold(id).await?
            {
                calls.insert(hold.call);
                if let HoldState::Consumed { call, .. } = hold.state {
                    calls.insert(call);
                }
            }
        }
        Ok(calls)
    }

    /// The calls whose task is over; the tasks of the others are named as open, or, where one call was meant, refused. A text may name
    /// the task of a call that never came on record.
    async fn closed(&self, calls: BTreeMap<CallId, Option<TaskId>>, one: bool) -> Result<Named, EraseError> {
        let mut named = Named::default();
        for (call, said) in calls {
            let entries = self.store.entries_of_call(call).await?;
            let Some(task) = entries.iter().find_map(|row| row.task).or(said) else { continue };
            let open = self.store.task(task).await?.is_some_and(|row| !matches!(row.state, TaskState::Closed { .. }));
            match open {
                true if one => return Err(EraseError::Open(task)),
                true if named.open.contains(&task) => {}
                true => named.open.push(task),
                false => named.calls.push(call),
            }
        }
        Ok(named)
    }

    /// Erases texts of calls: on record first, then gone from every file. The ledger keeps its entries, whose digests nobody can
    /// recognise any more.
    ///
    /// # Errors
    /// See [`EraseError`]. After a `Store` error the order may be on record; it is carried out as soon as that is possible.
    pub async fn erase(&self, selector: &Selector, reason: &str, by: &PersonName) -> Result<Report, EraseError> {
        let reason = reason.trim();
        if reason.is_empty() || reason.chars().count() > REASON_MAX {
            return Err(EraseError::Invalid("say why, in at most 200 characters; it stays on record, so name no person's data"));
        }
        let named = self.named(selector, by).await?;
        let mut report = Report::default();
        let tasks = named.tasks.chunks(ERASED_AT_ONCE_MAX).map(|ids| Erased::Tasks(ids.to_vec()));
        let calls = named.calls.chunks(ERASED_AT_ONCE_MAX).map(|ids| Erased::Calls(ids.to_vec()));
        for what in tasks.chain(calls) {
            report.entries.push(self.order(what, reason, by).await?);
        }
        fault::point("after-erasure-ordered");
        self.forget_holds(&named);
        report.texts = self.finish_erasures().await?;
        metrics::counter!("bailiwick_texts_erased_total").increment(report.texts);
        report.named = named;
        Ok(report)
    }

    /// Puts one order on record, together with what the store itself erases. Gives the entry's index.
    async fn order(&self, what: Erased, reason: &str, by: &PersonName) -> Result<u64, EraseError> {
        let now = self.clock.now();
        let (tasks, calls): (&[TaskId], &[CallId]) = match &what {
            Erased::Tasks(ids) => (ids, &[]),
            Erased::Calls(ids) => (&[], ids),
        };
        let body = entry::encode(now, &entry::Erasure { by, reason, tasks, calls });
        let mut salts = BTreeSet::new();
        for call in calls {
            salts.extend(self.store.entries_of_call(*call).await?.iter().find_map(|row| row.task));
        }
        let entry = Entry::new(<entry::Erasure<'_> as Body>::WORD, body);
        let entry = match (tasks, calls) {
            ([task], _) => entry.of_task(*task),
            (_, [call]) => entry.of_call(*call),
            _ => entry,
        };
        let by = by.clone();
        let index = self
            .store
            .write(move |w| {
                let index = w.erase(entry, &what, by.as_str(), now)?;
                // The salt of the task would give away the erased calls' salts; what is kept of the other calls has its own.
                for task in salts {
                    w.salt_delete(task)?;
                }
                Ok(index)
            })
            .await?;
        Ok(index)
    }

    /// Refused calls of a task that is over may still be remembered, with their arguments.
    fn forget_holds(&self, named: &Named) {
        let at = self.clock.now();
        for hold in self.holds.matching(|h| named.tasks.contains(&h.task) || named.calls.contains(&h.call)) {
            self.holds.put(Hold { state: HoldState::Expired { at }, ..hold });
        }
    }

    /// Carries out the orders that are on record and not done. Gives how many texts went.
    ///
    /// # Errors
    /// The store's; they are tried again.
    pub async fn finish_erasures(&self) -> Result<u64, StoreError> {
        let due = self.store.erasures_due().await?;
        if due.is_empty() {
            return Ok(0);
        }
        let mut texts = 0u64;
        for erasure in due {
            let entry = erasure.entry;
            texts = texts.saturating_add(self.payloads.erase(erasure).await?);
            fault::point("after-erasure");
            self.store.cut_log().await?;
            fault::point("after-log-cut");
            self.store.erasure_done(entry).await?;
        }
        Ok(texts)
    }
}
