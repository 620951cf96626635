//! Postings: the indexes of the entries that say one thing, in blocks of ascending numbers, read from the newest backwards.

use std::cell::Cell;

use rusqlite::{Connection, OptionalExtension};

use crate::error::StoreError;
use crate::sql::{Count, int};

/// Numbers in one block.
pub(super) const BLOCK: usize = 256;

/// Appends a number to a block whose last one is `last`: the distance in base 128, lower digits first (LEB128).
pub(super) fn put(data: &mut Vec<u8>, last: u64, next: u64) {
    let mut rest = next.saturating_sub(last);
    while rest >= 0x80 {
        data.push(0x80 | u8::try_from(rest & 0x7f).unwrap_or_default());
        rest >>= 7;
    }
    data.push(u8::try_from(rest).unwrap_or_default());
}

/// The numbers of a block. What is malformed ends it: the index can only leave out.
pub(super) fn numbers(first: u64, data: &[u8]) -> Vec<u64> {
    let mut all = vec![first];
    let (mut last, mut distance, mut shift) = (first, 0_u64, 0_u32);
    for byte in data {
        if shift >= 63 {
            break;
        }
        distance |= u64::from(byte & 0x7f) << shift;
        shift = shift.saturating_add(7);
        if byte & 0x80 == 0 {
            let Some(next) = last.checked_add(distance).filter(|next| *next > last) else { break };
            all.push(next);
            (last, distance, shift) = (next, 0, 0);
        }
    }
    all
}

/// Where numbers come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Term(i64),
    Task([u8; 16]),
    Call([u8; 16]),
}

/// The SQL of each source, so that a test can ask how it is run.
pub(super) const TERM: &str = "SELECT first, data FROM postings WHERE term = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1";
pub(super) const TASK: &str = "SELECT idx FROM task_index WHERE task = ?1 AND idx <= ?2 ORDER BY idx DESC LIMIT 256";
pub(super) const CALL: &str = "SELECT idx FROM call_index WHERE call = ?1 AND idx <= ?2 ORDER BY idx DESC LIMIT 256";

/// Goes through a source from the newest entry backwards.
pub(super) struct Backwards<'a> {
    conn: &'a Connection,
    source: Source,
    /// Ascending, and all that there is between its ends.
    block: Vec<u64>,
    reads: &'a Cell<u64>,
}

impl<'a> Backwards<'a> {
    /// `reads` counts the rows that are read.
    pub(super) const fn new(conn: &'a Connection, source: Source, reads: &'a Cell<u64>) -> Self {
        Self { conn, source, block: Vec::new(), reads }
    }

    /// The greatest number up to `most`. Each question must ask for no more than the one before.
    pub(super) fn up_to(&mut self, most: u64) -> Result<Option<u64>, StoreError> {
        if self.block.first().is_none_or(|first| most < *first) {
            self.block = self.load(most)?;
        }
        let count = self.block.partition_point(|number| *number <= most);
        Ok(count.checked_sub(1).and_then(|at| self.block.get(at).copied()))
    }

    fn load(&self, most: u64) -> Result<Vec<u64>, StoreError> {
        let mut block = match self.source {
            Source::Term(term) => {
                let mut statement = self.conn.prepare_cached(TERM)?;
                let row = statement.query_row((term, int(most)), |r| Ok((r.get::<_, Count>(0)?.0, r.get::<_, Vec<u8>>(1)?))).optional()?;
                self.reads.set(self.reads.get().saturating_add(1));
                return Ok(row.map(|(first, data)| numbers(first, &data)).unwrap_or_default());
            }
            Source::Task(id) => self.listed(TASK, id, most)?,
            Source::Call(id) => self.listed(CALL, id, most)?,
        };
        self.reads.set(self.reads.get().saturating_add(block.len() as u64));
        block.reverse();
        Ok(block)
    }

    fn listed(&self, sql: &str, id: [u8; 16], most: u64) -> Result<Vec<u64>, StoreError> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map((id, int(most)), |r| Ok(r.get::<_, Count>(0)?.0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator, so that many shapes of blocks are tried.
    fn shapes() -> impl Iterator<Item = Vec<u64>> {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        (0..200).map(move |shape| {
            let mut all = vec![shape];
            for _ in 0..(shape % 40) {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let last = *all.last().unwrap();
                all.push(last + 1 + seed % (1 << (shape % 40)));
            }
            all
        })
    }

    #[test]
    fn a_block_gives_back_the_numbers_that_were_put_in() {
        for all in shapes() {
            let mut data = Vec::new();
            all.windows(2).for_each(|pair| put(&mut data, pair[0], pair[1]));
            assert_eq!(numbers(all[0], &data), all);
        }
    }

    #[test]
    fn a_block_that_somebody_wrote_over_ends_and_never_goes_back() {
        for bytes in [vec![0xff; 40], vec![0], vec![1, 0, 5], vec![0x80], vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]] {
            for first in [0, 7, u64::MAX - 1] {
                let all = numbers(first, &bytes);
                assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "{bytes:?}");
            }
        }
    }
}
