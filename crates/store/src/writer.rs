//! The writer: one thread, one connection, one transaction for whatever queued during the last one. Answers only what is durable.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use crate::authority::{Authority, Unsettled};
use crate::backfill::Backfill;
use crate::batch::{Answered, Job, Owed};
use crate::desk::Desk;
use crate::entry::{Head, Integrated, Integrator, check_body, kind};
use crate::error::{Reason, StoreError};
use crate::schema::{Directory, Loaded, load, stored_head};
use crate::sql::int;
use crate::writing::{Pending, Writing};

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
    conn: Connection,
    integrator: Box<dyn Integrator>,
    state: Authority,
    frontier: Vec<u8>,
    head: Head,
    /// Entries that the anchor on disk counts.
    anchored: u64,
    published: Arc<Published>,
    /// A batch failed: look whether the disk agrees before the next.
    suspect: bool,
    /// Requests that were handed over and not looked at yet.
    waiting: VecDeque<Job>,
    /// Kept between batches, so that its memory is.
    batch: Batch,
    /// Whom to tell of the end.
    stopped: Option<oneshot::Sender<()>>,
    backfill: Backfill,
    _directory: Arc<Directory>,
}

#[derive(Default)]
struct Batch {
    pending: Vec<Pending>,
    bytes: usize,
    begun: bool,
    /// Requests in it for which somebody waits.
    awaited: usize,
    owed: Vec<Owed>,
    stop: Option<oneshot::Sender<()>>,
}

impl Writer {
    pub(crate) fn new(
        conn: Connection,
        integrator: Box<dyn Integrator>,
        loaded: Loaded,
        published: Arc<Published>,
        backfill: Backfill,
        directory: Arc<Directory>,
    ) -> Self {
        let Loaded { authority, frontier, head, anchored } = loaded;
        Self {
            conn,
            integrator,
            state: authority,
            frontier,
            head,
            anchored,
            published,
            suspect: false,
            waiting: VecDeque::new(),
            batch: Batch::default(),
            stopped: None,
            backfill,
            _directory: directory,
        }
    }

    /// Writes all that waits, batch by batch.
    pub(crate) fn write(&mut self, desk: &Desk) {
        desk.take(&mut self.waiting);
        while !self.waiting.is_empty() {
            let mut batch = std::mem::take(&mut self.batch);
            let result = self.batch(&mut batch, desk);
            desk.crowd(batch.awaited);
            self.answer(&mut batch, result);
            if let Some(stopped) = batch.stop.take() {
                self.stopped = Some(stopped);
            }
            self.batch = batch;
        }
    }

    /// Lets go of the database. Gives whom to tell.
    pub(crate) fn end(self) -> Option<oneshot::Sender<()>> {
        self.stopped
    }

    fn batch(&mut self, batch: &mut Batch, desk: &Desk) -> Result<Option<Head>, StoreError> {
        if let Err(error) = self.make_sound() {
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
            self.take(batch, job)?;
            taken = taken.saturating_add(1);
        }
        self.flush(batch)
    }

    /// Runs one request. An error ends the batch; what concerns only this request is in the answer that it is owed.
    fn take(&mut self, batch: &mut Batch, job: Job) -> Result<(), StoreError> {
        match job {
            Job::Intent(intent, reply) => {
                if let Err(error) = check_body(&intent.body) {
                    batch.owed.push(Owed::Refused(reply, error));
                    return Ok(());
                }
                let admitted = self.state.admit(&intent);
                let spent = intent.consume.filter(|_| admitted.is_ok());
                let admitted = admitted.map(|()| {
                    let index = self.next_index(batch);
                    self.state.open_intent(index, Unsettled { call: intent.call, task: intent.task });
                    index
                });
                batch.owed.push(Owed::Intent(reply, intent.call, admitted));
                if let Some(hold) = spent {
                    self.begin(batch)?;
                    crate::holds::consume(&self.conn, hold, intent.call, intent.at)?;
                }
                if admitted.is_ok() {
                    batch.push(kind::INTENT, Some(intent.task), Some(intent.call), None, intent.body);
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
            Job::Change(mut change) => {
                let result = self.begin(batch).and_then(|()| self.change(batch, change.as_mut()));
                batch.owed.push(Owed::Change(change));
                return result;
            }
            Job::Stop(reply) => batch.stop = Some(reply),
        }
        Ok(())
    }

    /// Runs a change so that it happens whole or not at all.
    fn change(&mut self, batch: &mut Batch, change: &mut dyn crate::batch::Change) -> Result<(), StoreError> {
        self.conn.prepare_cached("SAVEPOINT change")?.execute([])?;
        let (mark, entries) = (self.state.mark(), batch.pending.len());
        let mut writing = Writing { conn: &self.conn, state: &mut self.state, pending: &mut batch.pending };
        let result = change.run(&mut writing);
        match result {
            Ok(()) => {
                batch.bytes = batch.pending.iter().skip(entries).fold(batch.bytes, |n, p| n.saturating_add(p.body.len()));
            }
            Err(error) if error.ends_batch() || self.conn.is_autocommit() => return Err(error),
            Err(_) => {
                self.state.undo_to(mark);
                batch.pending.truncate(entries);
                self.conn.prepare_cached("ROLLBACK TO change")?.execute([])?;
            }
        }
        self.conn.prepare_cached("RELEASE change")?.execute([])?;
        Ok(())
    }

    fn next_index(&self, batch: &Batch) -> u64 {
        self.state.size.saturating_add(u64::try_from(batch.pending.len()).unwrap_or(u64::MAX))
    }

    fn begin(&self, batch: &mut Batch) -> Result<(), StoreError> {
        if !batch.begun {
            self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            batch.begun = true;
        }
        Ok(())
    }

    /// Integrates, writes and commits. `None`: nothing was to be written.
    fn flush(&mut self, batch: &mut Batch) -> Result<Option<Head>, StoreError> {
        if batch.pending.is_empty() {
            if batch.begun {
                self.conn.prepare_cached("COMMIT")?.execute([])?;
                self.state.keep(self.state.size, false);
            }
            return Ok(None);
        }
        let changed = batch.begun;
        self.begin(batch)?;
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
        self.write_entries(batch, &tree)?;
        let anchor = changed || tree.size.saturating_sub(self.anchored) >= ANCHOR_EVERY;
        if anchor {
            self.write_anchor(&tree)?;
        }
        self.conn.prepare_cached("COMMIT")?.execute([])?;
        self.backfill.wrote(batch.pending.len(), batch.bytes);
        let Integrated { frontier, size, root, checkpoint, .. } = tree;
        self.state.keep(size, anchor);
        if anchor {
            self.anchored = size;
        }
        self.frontier = frontier;
        self.head = Head { size, root, checkpoint: checkpoint.into() };
        Ok(Some(self.head.clone()))
    }

    /// The entries, the last of them with the signed note over the tree with all of them.
    fn write_entries(&self, batch: &Batch, tree: &Integrated) -> Result<(), StoreError> {
        let mut insert = self
            .conn
            .prepare_cached("INSERT INTO entries (idx, kind, task, call, closes, leaf, body, note) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
        let mut left = batch.pending.len();
        for (index, (entry, leaf)) in (int(self.state.size)..).zip(batch.pending.iter().zip(&tree.leaves)) {
            left = left.saturating_sub(1);
            let note = (left == 0).then_some(tree.checkpoint.as_str());
            let (task, call) = (entry.task.map(|t| t.to_bytes()), entry.call.map(|c| c.to_bytes()));
            insert.execute((index, entry.kind, task, call, entry.closes.map(int), leaf.as_slice(), entry.body.as_slice(), note))?;
        }
        Ok(())
    }

    /// What the next start begins with: tree, fence and used calls as of this batch.
    fn write_anchor(&mut self, tree: &Integrated) -> Result<(), StoreError> {
        let mut update = self.conn.prepare_cached("UPDATE tasks SET used = ?2 WHERE id = ?1")?;
        for (task, used) in self.state.spent() {
            update.execute((task.to_bytes(), int(used)))?;
        }
        let settled = self.state.settled(tree.size);
        self.conn
            .prepare_cached("UPDATE head SET size = ?1, control_seq = ?2, settled = ?3, frontier = ?4, root = ?5, checkpoint = ?6 WHERE id = 0")?
            .execute((
                int(tree.size),
                int(self.state.control_seq()),
                int(settled),
                tree.frontier.as_slice(),
                tree.root.as_slice(),
                tree.checkpoint.as_str(),
            ))?;
        Ok(())
    }

    /// Publishes the new state, or brings the old one back, and gives every answer.
    fn answer(&mut self, batch: &mut Batch, result: Result<Option<Head>, StoreError>) {
        self.published.failing.store(result.is_err(), Ordering::Relaxed);
        let told = match result {
            Ok(head) => {
                self.publish(head);
                Ok(())
            }
            Err(error) => {
                tracing::error!(error.code = error.code().slug(), %error, requests = batch.owed.len(), "a batch could not be written");
                self.roll_back();
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
        batch.begun = false;
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

    fn roll_back(&mut self) {
        self.state.undo_to(0);
        self.suspect = true;
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "rolling back failed");
        }
    }

    /// After a failure: is what the disk says what memory says? If not, memory is read anew.
    fn make_sound(&mut self) -> Result<(), StoreError> {
        if !self.suspect {
            return Ok(());
        }
        if !self.conn.is_autocommit() {
            self.conn.execute_batch("ROLLBACK")?;
        }
        let stored = stored_head(&self.conn)?;
        if stored != Some((self.state.size, self.state.control_seq())) {
            tracing::warn!(?stored, size = self.state.size, "the disk kept another state than was answered: reading it");
            let Loaded { authority, frontier, head, anchored } = load(&self.conn, self.integrator.as_mut())?;
            (self.state, self.frontier, self.anchored) = (authority, frontier, anchored);
            self.publish(Some(head.clone()));
            self.head = head;
        }
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
        self.pending.push(Pending { kind, task, call, closes, body });
    }
}
