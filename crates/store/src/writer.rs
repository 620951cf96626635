//! The writer: one at a time, one record of the journal or one transaction for whatever queued during the last one. Answers only what is durable.
//!
//! A batch of nothing but calls is one record of the journal, and the database follows. A batch that changes anything else is a transaction of
//! the database with all of its entries. Entries that are still ahead of the database may then stand between those that it has.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use crate::ahead::{Anchor, Recorded};
use crate::authority::{Authority, Unsettled};
use crate::batch::{Answered, Job, Owed};
use crate::database::{Database, Held, insert, set_dense};
use crate::desk::Desk;
use crate::entry::{Assignment, Head, Integrated, Integrator, check_body, kind};
use crate::error::{Reason, StoreError};
use crate::journal::Journal;
use crate::reserve::Reserve;
use crate::schema::{Directory, Loaded, load, stored_head};
use crate::writing::{Assigned, Pending, Writing};

/// Requests and bytes of entries after which a batch is closed even if more are waiting.
const BATCH_JOBS_MAX: usize = 4096;
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Entries after which the anchor is set anew: what the next start takes into the tree again, and what is looked through for a task's used calls.
const ANCHOR_EVERY: u64 = 1024;

/// What the writer tells everyone without being asked.
pub(crate) struct Published {
    pub(crate) control_seq: AtomicU64,
    pub(crate) relaxed_lost: AtomicU64,
    /// The last batch could not be written.
    pub(crate) failing: AtomicBool,
    pub(crate) head: watch::Sender<Head>,
}

pub(crate) struct Writer {
    database: Arc<Database>,
    /// `None`: every batch is a transaction of the database.
    journal: Option<Journal>,
    /// What is left when the disk is full. `None`: nothing is.
    reserve: Option<Reserve>,
    integrator: Box<dyn Integrator>,
    state: Authority,
    frontier: Vec<u8>,
    head: Head,
    /// Entries that the newest anchor counts, which the database may not have yet.
    anchored: u64,
    published: Arc<Published>,
    /// A batch failed: look whether the disk agrees before the next.
    suspect: bool,
    /// A transaction failed, and all of it may stand in the database's log: a start would take it. The next batch goes there too, over it.
    void_log: bool,
    /// Requests that were handed over and not looked at yet.
    waiting: VecDeque<Job>,
    /// Kept between batches, so that its memory is.
    batch: Batch,
    /// Whom to tell of the end.
    stopped: Option<oneshot::Sender<()>>,
    _directory: Arc<Directory>,
}

#[derive(Default)]
struct Batch {
    pending: Vec<Pending>,
    bytes: usize,
    /// Requests in it for which somebody waits.
    awaited: usize,
    owed: Vec<Owed>,
    stop: Option<oneshot::Sender<()>>,
    /// Who wants nothing to be left in the journal.
    wipe: Vec<oneshot::Sender<Result<(), StoreError>>>,
}

impl Writer {
    pub(crate) fn new(
        database: Arc<Database>,
        (journal, reserve): (Option<Journal>, Option<Reserve>),
        integrator: Box<dyn Integrator>,
        loaded: Loaded,
        published: Arc<Published>,
        directory: Arc<Directory>,
    ) -> Self {
        let Loaded { authority, frontier, head, anchored } = loaded;
        Self {
            database,
            journal,
            reserve,
            integrator,
            state: authority,
            frontier,
            head,
            anchored,
            published,
            suspect: false,
            void_log: false,
            waiting: VecDeque::new(),
            batch: Batch::default(),
            stopped: None,
            _directory: directory,
        }
    }

    /// Writes all that waits, batch by batch.
    pub(crate) fn write(&mut self, desk: &Desk) {
        desk.take(&mut self.waiting);
        let database = Arc::clone(&self.database);
        while !self.waiting.is_empty() {
            let mut batch = std::mem::take(&mut self.batch);
            let mut held = Held::new(&database);
            let result = self.batch(&mut batch, &mut held, desk);
            desk.crowd(batch.awaited);
            if let Err(error) = &result {
                self.use_reserve(error);
                self.state.undo_to(0);
                self.suspect = true;
                self.void_log |= held.has_begun();
                held.roll_back();
            }
            drop(held);
            self.answer(&mut batch, result);
            for reply in batch.wipe.drain(..) {
                // The asker may have gone.
                reply.send(self.wipe()).unwrap_or_default();
            }
            if let Some(stopped) = batch.stop.take() {
                self.stopped = Some(stopped);
            }
            self.batch = batch;
        }
    }

    /// If the disk is full: from now on what is left of it is for what takes authority away, and nobody follows. False: there was nothing
    /// left, or it is in use.
    fn use_reserve(&mut self, error: &StoreError) -> bool {
        let full = matches!(error, StoreError::Unavailable { reason: Reason::DiskFull, .. });
        let spent = full && self.reserve.as_mut().is_some_and(Reserve::spend);
        if spent {
            self.database.pause(true);
        }
        spent
    }

    /// Is the disk full?
    fn is_full(&self) -> bool {
        self.reserve.as_ref().is_some_and(Reserve::is_spent)
    }

    /// Lets the database have everything, and lets go of it. Gives whom to tell.
    pub(crate) fn end(self) -> Option<oneshot::Sender<()>> {
        self.database.close();
        self.stopped
    }

    /// Leaves nothing in the journal: the database has everything.
    fn wipe(&mut self) -> Result<(), StoreError> {
        self.database.catch_up()?;
        self.journal.as_mut().map_or(Ok(()), Journal::wipe)
    }

    fn batch(&mut self, batch: &mut Batch, held: &mut Held<'_>, desk: &Desk) -> Result<Option<Head>, StoreError> {
        if let Err(error) = self.make_sound(held) {
            let mut after = Answered { abandoned: Vec::new(), lost: &self.published.relaxed_lost };
            if let Some(first) = self.waiting.pop_front() {
                first.refuse(error.clone(), &mut after);
            }
            let abandoned = after.abandoned;
            self.heed(&abandoned);
            return Err(error);
        }
        let mut taken = 0usize;
        while taken < BATCH_JOBS_MAX && batch.bytes < BATCH_BYTES_MAX {
            if self.waiting.is_empty() {
                desk.take(&mut self.waiting);
            }
            let Some(job) = self.waiting.pop_front() else { break };
            batch.awaited = batch.awaited.saturating_add(usize::from(job.is_awaited()));
            self.take(batch, held, job)?;
            taken = taken.saturating_add(1);
        }
        self.flush(batch, held)
    }

    /// Runs one request. An error ends the batch; what concerns only this request is in the answer that it is owed.
    fn take(&mut self, batch: &mut Batch, held: &mut Held<'_>, job: Job) -> Result<(), StoreError> {
        if self.is_full() && !job.has_reserve() {
            let mut after = Answered { abandoned: Vec::new(), lost: &self.published.relaxed_lost };
            job.refuse(Reserve::refusal(), &mut after);
            let abandoned = after.abandoned;
            self.heed(&abandoned);
            return Ok(());
        }
        match job {
            Job::Intent(intent, reply) => {
                if let Err(error) = check_body(&intent.body) {
                    batch.owed.push(Owed::Refused(reply, error));
                    return Ok(());
                }
                let admitted = self.state.admit(&intent);
                let assigns = intent.assigns.filter(|a| admitted.is_ok() && self.state.waits(a.lease));
                let spent = intent.consume.filter(|_| admitted.is_ok());
                let admitted = admitted.map(|()| {
                    let index = self.next_index(batch);
                    self.state.open_intent(index, Unsettled { call: intent.call, task: intent.task });
                    index
                });
                batch.owed.push(Owed::Intent(reply, intent.call, admitted));
                if let Some(hold) = spent {
                    crate::holds::consume(held.begin()?, hold, intent.call, intent.at)?;
                }
                if admitted.is_ok() {
                    batch.push(kind::INTENT, Some(intent.task), Some(intent.call), None, intent.body);
                }
                if let Some(Assignment { lease, life, body }) = assigns {
                    let assigned = Assigned { lease, task: intent.task, life };
                    self.state.assign(self.next_index(batch), assigned.clone());
                    batch.bytes = batch.bytes.saturating_add(body.len());
                    let (task, call) = (Some(intent.task), Some(intent.call));
                    batch.pending.push(Pending { kind: kind::LEASE, task, call, closes: None, assigns: Some(assigned), body });
                }
            }
            Job::Outcome { intent, call, body, ack } => {
                let task = check_body(&body).and_then(|()| self.state.close_intent(intent, call));
                let result = task.map(|task| {
                    let index = self.next_index(batch);
                    batch.push(kind::OUTCOME, Some(task), Some(call), Some(intent), body);
                    index
                });
                batch.owed.push(Owed::Entry { ack, result, closing: Some((intent, call)) });
            }
            Job::Append(entry, ack) => {
                let result = entry.check().map(|()| {
                    let index = self.next_index(batch);
                    batch.push(entry.kind, entry.task, entry.call, None, entry.body);
                    index
                });
                batch.owed.push(Owed::Entry { ack, result, closing: None });
            }
            Job::Abandon(call) => self.state.abandon_call(call),
            Job::Change(mut change, _) => {
                // INVARIANT: a change finds every account that a call was given before it.
                let told = |conn: &Connection, state: &Authority| state.assigned().try_for_each(|assigned| crate::leases::assign(conn, assigned));
                let result = held.begin().and_then(|conn| {
                    told(conn, &self.state)?;
                    Self::change(&mut self.state, batch, conn, change.as_mut())
                });
                batch.owed.push(Owed::Change(change));
                return result;
            }
            Job::Wipe(reply) => batch.wipe.push(reply),
            Job::Stop(reply) => batch.stop = Some(reply),
        }
        Ok(())
    }

    /// Runs a change so that it happens whole or not at all.
    fn change(state: &mut Authority, batch: &mut Batch, conn: &Connection, change: &mut dyn crate::batch::Change) -> Result<(), StoreError> {
        conn.prepare_cached("SAVEPOINT change")?.execute([])?;
        let (mark, entries) = (state.mark(), batch.pending.len());
        let result = change.run(&mut Writing { conn, state, pending: &mut batch.pending });
        match result {
            Ok(()) => {
                batch.bytes = batch.pending.iter().skip(entries).fold(batch.bytes, |n, p| n.saturating_add(p.body.len()));
            }
            Err(error) if error.ends_batch() || conn.is_autocommit() => return Err(error),
            Err(_) => {
                state.undo_to(mark);
                batch.pending.truncate(entries);
                conn.prepare_cached("ROLLBACK TO change")?.execute([])?;
            }
        }
        conn.prepare_cached("RELEASE change")?.execute([])?;
        Ok(())
    }

    fn next_index(&self, batch: &Batch) -> u64 {
        self.state.size.saturating_add(u64::try_from(batch.pending.len()).unwrap_or(u64::MAX))
    }

    /// Integrates, writes and commits. `None`: nothing was to be written.
    fn flush(&mut self, batch: &mut Batch, held: &mut Held<'_>) -> Result<Option<Head>, StoreError> {
        if batch.pending.is_empty() {
            if held.has_begun() {
                held.commit(0, 0, None)?;
                self.state.keep(self.state.size);
            }
            return Ok(None);
        }
        let bodies: Vec<&[u8]> = batch.pending.iter().map(|p| p.body.as_slice()).collect();
        let tree = self.integrator.integrate(&self.frontier, &bodies).map_err(|e| StoreError::unavailable(Reason::Ledger, e))?;
        let expected = self.next_index(batch);
        if tree.size != expected || tree.leaves.len() != bodies.len() {
            let detail = format!("expected a tree of {expected} entries, got {} with {} leaves", tree.size, tree.leaves.len());
            return Err(StoreError::unavailable(Reason::Ledger, detail));
        }
        if tree.checkpoint.is_empty() {
            return Err(StoreError::unavailable(Reason::Ledger, "the store was opened for reading only: nobody signs"));
        }
        let Integrated { leaves, frontier, size, root, checkpoint } = tree;
        let head = Head { size, root, checkpoint: checkpoint.into() };
        let in_journal = !held.has_begun() && !self.void_log && self.has_place(batch, &head)?;
        let anchor = (!in_journal || size.saturating_sub(self.anchored) >= ANCHOR_EVERY).then(|| self.anchor(&head, &frontier));
        let set = anchor.is_some();
        if in_journal {
            self.write_journal(batch, leaves, &head, anchor)?;
        } else {
            self.write_database(batch, held, &leaves, &head, anchor)?;
            self.void_log = false;
        }
        self.state.keep(size);
        if set {
            self.anchored = size;
        }
        // What the database has counted need not be counted again.
        self.state.counted_to(self.database.anchored());
        self.state.assigned_from(self.database.ahead.floor());
        self.frontier = frontier;
        self.head = head;
        Ok(Some(self.head.clone()))
    }

    /// Is there a place for this batch in the journal? If it is full, the database follows as far as is needed.
    fn has_place(&self, batch: &Batch, head: &Head) -> Result<bool, StoreError> {
        let Some(journal) = &self.journal else { return Ok(false) };
        let Some(bytes) = journal.room_for(&batch.pending, &head.checkpoint) else { return Ok(false) };
        self.database.follow_to(journal.free_before(bytes))?;
        Ok(true)
    }

    fn write_journal(&mut self, batch: &mut Batch, leaves: Vec<[u8; 32]>, head: &Head, anchor: Option<Anchor>) -> Result<(), StoreError> {
        let Some(journal) = &mut self.journal else { return Err(StoreError::Closed) };
        let first = self.state.size;
        let end = journal.append(first, &batch.pending, &leaves, &head.checkpoint)?;
        let entries = std::mem::take(&mut batch.pending);
        self.database.ahead.push(Recorded { first, end, entries, leaves, note: Arc::clone(&head.checkpoint), anchor });
        Ok(())
    }

    fn write_database(&self, batch: &Batch, held: &mut Held<'_>, leaves: &[[u8; 32]], head: &Head, anchor: Option<Anchor>) -> Result<(), StoreError> {
        let conn = held.begin()?;
        insert(conn, self.state.size, &batch.pending, leaves, &head.checkpoint)?;
        if let Some(anchor) = anchor {
            anchor.write(conn)?;
            // Nobody follows meanwhile.
            set_dense(conn, self.database.ahead.floor())?;
        }
        held.commit(batch.pending.len(), batch.bytes, Some(head.size))
    }

    /// What the next start begins with: tree, fence and used calls as of this batch.
    fn anchor(&self, head: &Head, frontier: &[u8]) -> Anchor {
        Anchor {
            size: head.size,
            control_seq: self.state.control_seq(),
            settled: self.state.settled(head.size),
            frontier: frontier.to_vec(),
            root: head.root,
            checkpoint: Arc::clone(&head.checkpoint),
            used: self.state.spent(),
        }
    }

    /// Publishes the new state, or brings the old one back, and gives every answer.
    fn answer(&mut self, batch: &mut Batch, result: Result<Option<Head>, StoreError>) {
        self.published.failing.store(result.is_err() || self.is_full(), Ordering::Relaxed);
        let told = match result {
            Ok(head) => {
                self.publish(head);
                Ok(())
            }
            Err(error) => {
                tracing::error!(error.code = error.code().slug(), %error, requests = batch.owed.len(), "a batch could not be written");
                Err(error)
            }
        };
        let mut after = Answered { abandoned: Vec::new(), lost: &self.published.relaxed_lost };
        for owed in batch.owed.drain(..) {
            owed.answer(told.clone(), &mut after);
        }
        let abandoned = after.abandoned;
        self.heed(&abandoned);
        batch.pending.clear();
        batch.bytes = 0;
        batch.awaited = 0;
    }

    fn publish(&self, head: Option<Head>) {
        self.published.control_seq.store(self.state.control_seq(), Ordering::Release);
        if let Some(head) = head {
            self.published.head.send_replace(head);
        }
    }

    fn heed(&mut self, abandoned: &[(u64, bailiwick_core::CallId)]) {
        for (index, call) in abandoned {
            self.state.abandon(*index, *call);
        }
    }

    /// After a failure: is what the disk says what memory says? If not, memory is read anew. And while the database cannot follow the
    /// journal, nothing passes: what is durable there alone must not become more and more.
    fn make_sound(&mut self, held: &mut Held<'_>) -> Result<(), StoreError> {
        if self.reserve.as_mut().is_none_or(Reserve::regain) {
            self.database.pause(false);
            if self.database.ahead.failure().is_some()
                && let Err(error) = self.database.catch_up()
                && !self.use_reserve(&error)
            {
                return Err(error);
            }
        }
        if !self.suspect {
            return Ok(());
        }
        if let Some(journal) = &mut self.journal {
            journal.make_sound()?;
        }
        let floor = self.database.ahead.floor().min(self.state.size);
        let stored = stored_head(held.conn()?)?;
        let sound = stored.is_some_and(|(size, control)| (floor..=self.state.size).contains(&size) && control == self.state.control_seq());
        if !sound {
            tracing::warn!(?stored, size = self.state.size, "the disk kept another state than was answered: reading it");
            held.roll_back();
            self.database.catch_up()?;
            let Loaded { authority, frontier, head, anchored } = load(held.conn()?, self.integrator.as_mut())?;
            (self.state, self.frontier, self.anchored) = (authority, frontier, anchored);
            self.database.ahead.grown_to(head.size);
            self.publish(Some(head.clone()));
            self.head = head;
        }
        // Let go of the connection: this batch may not need it.
        held.roll_back();
        self.suspect = false;
        Ok(())
    }
}

impl Batch {
    fn push(
        &mut self,
        kind: &'static str,
        task: Option<bailiwick_core::TaskId>,
        call: Option<bailiwick_core::CallId>,
        closes: Option<u64>,
        body: Vec<u8>,
    ) {
        self.bytes = self.bytes.saturating_add(body.len());
        self.pending.push(Pending { kind, task, call, closes, assigns: None, body });
    }
}
