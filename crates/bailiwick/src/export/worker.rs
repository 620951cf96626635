//! The worker of one sink: reads on from its place in the ledger, sends, and notes how far the sink certainly is.

use std::sync::Arc;
use std::time::Duration;

use bailiwick_store::{EntryRow, StoreError};
use tokio::time::Instant;

use super::origins::Origins;
use super::progress::Progress;
use super::record::{Mapper, Record, kind};
use super::sink::{Sent, Sink};
use crate::config::ExportEntry;
use crate::house::House;

/// After a new entry, what follows within this goes along with it: a lone call costs its sink one message, a burst few.
const LINGER: Duration = Duration::from_millis(50);
/// The cursor is written at most so often: each write is one more for the disk that calls wait for.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// The first pause after an attempt that failed; each further one is twice as long, up to the configured bound.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Bytes of records that go at once, beyond the first record.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Entries that are read at once.
const READ_MAX: u64 = 1000;

pub(super) struct Worker {
    house: Arc<House>,
    entry: ExportEntry,
    sink: Sink,
    mapper: Mapper,
    origins: Arc<Origins>,
    progress: Arc<Progress>,
    /// The index of the first entry that was not sent.
    position: u64,
    /// What the store says.
    saved: u64,
    saved_at: Instant,
    /// Records that go at once: fewer after a receiver said that it was too much.
    limit: usize,
    pause: Duration,
}

/// Records that go at once, and the place after them.
struct Batch {
    records: Vec<Record>,
    next: u64,
}

impl Worker {
    pub(super) fn new(house: Arc<House>, entry: ExportEntry, sink: Sink, origins: Arc<Origins>, progress: Arc<Progress>, begin: u64) -> Self {
        let (mapper, limit) = (Mapper::new(entry.format), entry.batch);
        Self { house, entry, sink, mapper, origins, progress, position: begin, saved: begin, saved_at: Instant::now(), limit, pause: PAUSE_MIN }
    }

    /// Works until the broker stops.
    pub(super) async fn run(mut self) {
        let stop = self.house.stop.clone();
        let mut heads = self.house.store.subscribe_head();
        while !stop.is_cancelled() {
            let size = heads.borrow_and_update().size;
            if self.position < size {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.step(size) => {}
                }
                continue;
            }
            let due = self.saved_at + SAVE_EVERY;
            let unsaved = self.sink.settled(self.position) != self.saved;
            tokio::select! {
                () = stop.cancelled() => {}
                changed = heads.changed() => match changed {
                    Ok(()) => tokio::time::sleep(LINGER).await,
                    Err(_) => break,
                },
                () = tokio::time::sleep_until(due), if unsaved => self.save().await,
            }
        }
        self.sink.close().await;
        self.save().await;
    }

    /// Sends one batch, or waits a while if it could not. Broken off at any point, what was sent is at worst sent again.
    async fn step(&mut self, size: u64) {
        let batch = match self.batch(size).await {
            Ok(batch) => batch,
            Err(error) => return self.failed(&format!("the ledger cannot be read: {}", error.public()), None).await,
        };
        if !batch.records.is_empty() {
            let attempt = tokio::time::timeout(self.entry.timeout, self.sink.send(self.origins.newest(), &batch.records)).await;
            match attempt {
                Ok(Ok(Sent::Done)) => {}
                Ok(Ok(Sent::From(index))) => {
                    self.position = index.min(self.position);
                    self.progress.back_to(self.position);
                    return self.failed("the receiver ended the connection; what it may not have got is sent again", None).await;
                }
                Ok(Err(error)) => {
                    if error.too_many && self.limit > 1 {
                        self.limit = (batch.records.len() / 2).max(1);
                        return;
                    }
                    return self.failed(&error.to_string(), error.pause).await;
                }
                Err(_) => return self.failed("it does not answer in time", None).await,
            }
            crate::fault::point("export-sent");
        }
        self.position = batch.next;
        self.pause = PAUSE_MIN;
        self.limit = self.limit.saturating_mul(2).min(self.entry.batch);
        if self.progress.sent(batch.next, batch.records.len() as u64) {
            tracing::info!(export = self.entry.name, "the export works again");
        }
        if self.saved_at.elapsed() >= SAVE_EVERY {
            self.save().await;
        }
    }

    /// The next records, as far as they fit.
    async fn batch(&mut self, size: u64) -> Result<Batch, StoreError> {
        let (mut records, mut bytes, mut next) = (Vec::new(), 0_usize, self.position);
        while next < size && records.len() < self.limit {
            let most = READ_MAX.min(u64::try_from(self.limit.saturating_sub(records.len())).unwrap_or(READ_MAX));
            let to = size.min(next.saturating_add(most));
            let rows = self.house.store.entries(next..to).await?;
            let missing = missing(&rows, next, to);
            if missing > 0 {
                tracing::warn!(export = self.entry.name, missing, from = next, to, "entries were gone before they could be exported");
                self.progress.missed(missing);
            }
            if rows.is_empty() {
                next = to;
            }
            for row in rows {
                // Pruned: only its leaf hash is left.
                if row.body.is_empty() {
                    next = row.index.saturating_add(1);
                    continue;
                }
                let entry = self.mapper.read(&row);
                if !self.entry.kinds.is_empty() && !self.entry.kinds.contains(kind(&entry)) {
                    next = row.index.saturating_add(1);
                    continue;
                }
                if let Some(record) = self.mapper.record(&self.house.store, self.origins.of(row.index), &row, &entry).await? {
                    if records.is_empty() {
                        self.progress.waits_since(record.at);
                    } else if bytes.saturating_add(record.text.len()) > BATCH_BYTES_MAX {
                        return Ok(Batch { records, next });
                    }
                    bytes = bytes.saturating_add(record.text.len());
                    records.push(record);
                }
                next = row.index.saturating_add(1);
            }
            // Nothing for this sink among many: go on by and by, so that its place is noted.
            if records.is_empty() && next.saturating_sub(self.position) >= READ_MAX.saturating_mul(10) {
                break;
            }
        }
        Ok(Batch { records, next })
    }

    /// Tells why it does not go on, and waits.
    async fn failed(&mut self, why: &str, asked: Option<Duration>) {
        let now = self.house.clock.now();
        if self.progress.failed(why, now) {
            tracing::warn!(export = self.entry.name, why, next = self.position, "the export is stuck; it is tried again until it works");
        }
        if self.saved_at.elapsed() >= SAVE_EVERY {
            self.save().await;
        }
        // Several brokers do not come back at the same moment.
        let [spread] = crate::clock::random::<1>();
        let pause = self.pause.mul_f64(0.75 + f64::from(spread) / 512.0);
        self.pause = self.pause.saturating_mul(2).min(self.entry.retry_max);
        tokio::time::sleep(asked.unwrap_or(pause).max(PAUSE_MIN / 2)).await;
    }

    /// Notes how far the sink certainly is. If that fails, more is sent again after a crash, and nothing is lost.
    async fn save(&mut self) {
        let next = self.sink.settled(self.position);
        self.saved_at = Instant::now();
        if next == self.saved {
            return;
        }
        let (name, now) = (self.entry.name.clone(), self.house.clock.now());
        match self.house.store.write(move |w| w.export_put(&name, next, now)).await {
            Ok(()) => self.saved = next,
            Err(error) => tracing::warn!(export = self.entry.name, %error, "the place of an export could not be noted"),
        }
    }
}

/// How many entries in front of or between these rows are not there, or were pruned to their leaf hashes. Fewer rows than were asked
/// for are no gap, no rows at all are one.
fn missing(rows: &[EntryRow], from: u64, to: u64) -> u64 {
    let Some(last) = rows.last() else { return to.saturating_sub(from) };
    let there = rows.iter().filter(|r| !r.body.is_empty()).count() as u64;
    last.index.saturating_add(1).saturating_sub(from).saturating_sub(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(index: u64, body: &[u8]) -> EntryRow {
        EntryRow { index, kind: String::new(), task: None, call: None, closes: None, leaf: [0; 32], body: body.to_vec() }
    }

    #[test]
    fn what_is_not_there_is_counted_and_what_was_not_asked_for_is_not() {
        assert_eq!(missing(&[], 5, 9), 4);
        assert_eq!(missing(&[row(5, b"x"), row(6, b"x")], 5, 9), 0);
        assert_eq!(missing(&[row(7, b"x"), row(9, b"x")], 5, 10), 3);
        assert_eq!(missing(&[row(5, b""), row(6, b"x")], 5, 9), 1);
    }
}
