//! What the journal has and the database has not yet: durable entries in memory, for readers, and for the thread that lets the database follow.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bailiwick_core::TaskId;

use crate::entry::EntryRow;
use crate::error::StoreError;
use crate::writing::Pending;

/// The database follows after this long at the latest: many calls then cost one transaction of it.
const FOLLOW_AFTER: Duration = Duration::from_millis(250);
/// After a failure it is tried again so often.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Bytes after which it follows at once, if the journal is large enough.
const FOLLOW_BYTES: usize = 256 << 10;

/// One batch that is in the journal.
pub(crate) struct Recorded {
    /// The index of its first entry.
    pub(crate) first: u64,
    /// The place behind it in the journal.
    pub(crate) end: u64,
    pub(crate) entries: Vec<Pending>,
    pub(crate) leaves: Vec<[u8; 32]>,
    pub(crate) note: Arc<str>,
    /// What the next start may begin with, once the database has this batch.
    pub(crate) anchor: Option<Anchor>,
}

/// Tree, fence and used calls as of so many entries.
pub(crate) struct Anchor {
    pub(crate) size: u64,
    pub(crate) control_seq: u64,
    pub(crate) settled: u64,
    pub(crate) frontier: Vec<u8>,
    pub(crate) root: [u8; 32],
    pub(crate) checkpoint: Arc<str>,
    pub(crate) used: Vec<(TaskId, u64)>,
}

impl Recorded {
    /// The index behind its last entry.
    pub(crate) fn last(&self) -> u64 {
        self.first.saturating_add(u64::try_from(self.entries.len()).unwrap_or(u64::MAX))
    }

    fn bytes(&self) -> usize {
        self.entries.iter().fold(0, |n, e| n.saturating_add(e.body.len()).saturating_add(200))
    }

    fn assigned(&self) -> usize {
        self.entries.iter().filter(|e| e.assigns.is_some()).count()
    }

    /// Its entries within a range, in order.
    fn within(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, &Pending, &[u8; 32])> {
        let all = (self.first..).zip(self.entries.iter().zip(&self.leaves)).map(|(index, (entry, leaf))| (index, entry, leaf));
        let range = range.clone();
        all.filter(move |(index, ..)| range.contains(index))
    }
}

/// The batches, oldest first.
pub(crate) struct Ahead {
    state: Mutex<State>,
    bell: Condvar,
    follow_bytes: usize,
}

#[derive(Default)]
struct State {
    batches: VecDeque<Arc<Recorded>>,
    bytes: usize,
    /// Entries among them that give an account to a task.
    assigned: usize,
    /// Entries that are durable, wherever.
    size: u64,
    /// Since when the oldest batch waits.
    since: Option<Instant>,
    failure: Option<StoreError>,
    closed: bool,
}

impl Ahead {
    pub(crate) fn new(size: u64, ring: u64) -> Self {
        let quarter = usize::try_from(ring / 4).unwrap_or(usize::MAX);
        Self { state: Mutex::new(State { size, ..State::default() }), bell: Condvar::new(), follow_bytes: FOLLOW_BYTES.min(quarter) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch is in the journal.
    pub(crate) fn push(&self, batch: Recorded) {
        let mut state = self.state();
        let (before, bytes) = (state.bytes, batch.bytes());
        state.bytes = before.saturating_add(bytes);
        state.assigned = state.assigned.saturating_add(batch.assigned());
        state.size = batch.last();
        let first = state.since.is_none();
        state.since.get_or_insert_with(Instant::now);
        state.batches.push_back(Arc::new(batch));
        let ring = first || (before < self.follow_bytes && state.bytes >= self.follow_bytes);
        drop(state);
        if ring {
            self.bell.notify_one();
        }
    }

    /// The database has so many entries by a transaction of its own.
    pub(crate) fn grown_to(&self, size: u64) {
        self.state().size = size;
    }

    /// Entries that are durable.
    pub(crate) fn size(&self) -> u64 {
        self.state().size
    }

    /// The database has every entry before this one.
    pub(crate) fn floor(&self) -> u64 {
        let state = self.state();
        state.batches.front().map_or(state.size, |batch| batch.first)
    }

    /// Does the journal alone know that an account was given to a task?
    pub(crate) fn has_assigned(&self) -> bool {
        self.state().assigned > 0
    }

    /// The place in the journal up to which everything is here or in the database.
    pub(crate) fn end(&self) -> Option<u64> {
        self.state().batches.back().map(|batch| batch.end)
    }

    /// The oldest batches, up to so many bytes and at least one, if there is one.
    pub(crate) fn oldest(&self, most: usize) -> Vec<Arc<Recorded>> {
        let mut bytes = 0usize;
        let fits = |batch: &&Arc<Recorded>| {
            let fits = bytes < most;
            bytes = bytes.saturating_add(batch.bytes());
            fits
        };
        self.state().batches.iter().take_while(fits).cloned().collect()
    }

    /// The database has everything up to this place in the journal.
    pub(crate) fn followed(&self, end: u64) {
        let mut gone = Vec::new();
        let mut state = self.state();
        while let Some(batch) = state.batches.pop_front_if(|batch| batch.end <= end) {
            state.bytes = state.bytes.saturating_sub(batch.bytes());
            state.assigned = state.assigned.saturating_sub(batch.assigned());
            gone.push(batch);
        }
        state.since = if state.batches.is_empty() { None } else { Some(Instant::now()) };
        state.failure = None;
    }

    /// The database could not follow.
    pub(crate) fn failed(&self, error: &StoreError) {
        self.state().failure = Some(error.clone());
    }

    /// Why the database does not follow at the moment.
    pub(crate) fn failure(&self) -> Option<StoreError> {
        self.state().failure.clone()
    }

    /// The entries of a range that the database may not have, in order, and how many there are in all.
    pub(crate) fn entries(&self, range: &Range<u64>) -> (u64, Vec<EntryRow>) {
        let row = |(index, e, leaf): (u64, &Pending, &[u8; 32])| EntryRow {
            index,
            kind: e.kind.to_owned(),
            task: e.task,
            call: e.call,
            closes: e.closes,
            leaf: *leaf,
            body: e.body.clone(),
        };
        self.each(range, row)
    }

    /// The same of their leaf hashes.
    pub(crate) fn leaves(&self, range: &Range<u64>) -> (u64, Vec<(u64, [u8; 32])>) {
        self.each(range, |(index, _, leaf)| (index, *leaf))
    }

    fn each<T>(&self, range: &Range<u64>, of: impl Fn((u64, &Pending, &[u8; 32])) -> T) -> (u64, Vec<T>) {
        let state = self.state();
        let from = state.batches.partition_point(|batch| batch.last() <= range.start);
        let batches: Vec<Arc<Recorded>> = state.batches.iter().skip(from).take_while(|batch| batch.first < range.end).cloned().collect();
        let size = state.size;
        drop(state);
        (size, batches.iter().flat_map(|batch| batch.within(range)).map(of).collect())
    }

    /// Nothing comes any more.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.bell.notify_all();
    }

    /// Waits until the database is to follow. False: nothing comes any more.
    pub(crate) fn wait(&self) -> bool {
        let mut state = self.state();
        loop {
            if state.closed {
                return false;
            }
            let after = if state.failure.is_some() { AGAIN_AFTER } else { FOLLOW_AFTER };
            let left = state.since.map(|since| after.saturating_sub(since.elapsed()));
            // Without a journal nothing is ever ahead, and it takes no bytes at all to be full.
            let full = !state.batches.is_empty() && state.bytes >= self.follow_bytes && state.failure.is_none();
            if full || left == Some(Duration::ZERO) {
                // Whatever comes of it, the next time is counted from here.
                state.since = Some(Instant::now());
                return true;
            }
            state = match left {
                Some(left) => self.bell.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.bell.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_journal_who_follows_sleeps_until_the_end() {
        let ahead = Arc::new(Ahead::new(5, 0));
        let waits = Arc::clone(&ahead);
        let follower = std::thread::spawn(move || waits.wait());
        std::thread::sleep(Duration::from_millis(100));
        assert!(!follower.is_finished(), "it was woken for nothing");
        ahead.close();
        assert!(!follower.join().unwrap());
    }
}
