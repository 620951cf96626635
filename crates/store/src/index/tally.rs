//! Counting: how often each value of a field was said in two stretches of time, and whether it was ever said before them.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;

use bailiwick_core::Timestamp;

use super::fact::{Fact, Field};
use super::follow::Follower;
use super::posting::{Backwards, Source, numbers};
use super::search::bounds;
use crate::error::StoreError;
use crate::sql::{Count, limit};

/// Values of one field that are counted.
const VALUES_MAX: usize = 10_000;
/// Rows that are read to find out whether something was ever said before. Beyond it, nobody knows.
const READS_MAX: u64 = 5_000;
/// Entries in one stretch: what a map of them with one bit each may take.
const STRETCH_MAX: u64 = 1 << 30;

pub(super) const VALUES: &str = "SELECT id, value FROM terms WHERE field = ?1 ORDER BY value LIMIT ?2";
pub(super) const BLOCKS: &str = "SELECT first, data FROM postings WHERE term = ?1 AND first < ?3 AND first >= ifnull((SELECT max(first) FROM postings WHERE term = ?1 AND first <= ?2), 0)";
pub(super) const REPEATS: &str = "SELECT idx, n FROM repeats WHERE idx >= ?1 AND idx < ?2";

/// What to count.
#[derive(Clone, Debug)]
pub struct Tally {
    /// The groups, each an own list in the answer.
    pub groups: Vec<Group>,
    /// Only entries that say this.
    pub scope: Vec<Fact>,
    /// The earlier stretch.
    pub last: Range<Timestamp>,
    /// The later one.
    pub this: Range<Timestamp>,
}

/// One field to count by.
#[derive(Clone, Debug)]
pub struct Group {
    /// The field.
    pub field: Field,
    /// Only entries that also say this.
    pub within: Vec<Fact>,
    /// Count alike entries that were not written one by one, too.
    pub repeats: bool,
}

/// How often a value was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The value.
    pub value: String,
    /// In the earlier stretch.
    pub last: u64,
    /// In the later one.
    pub this: u64,
    /// Before both of them. None: it would have taken too long to find out.
    pub before: Option<bool>,
}

/// The two stretches as ranges of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The earlier one.
    pub last: Range<u64>,
    /// The later one.
    pub this: Range<u64>,
}

impl Follower {
    pub(super) fn tally(&self, tally: &Tally) -> Result<(Window, Vec<Vec<Counted>>), StoreError> {
        let stretch = |times: &Range<Timestamp>| -> Result<Range<u64>, StoreError> {
            let (start, end) = (self.first_since(times.start)?, self.first_since(times.end)?);
            // The earliest of a stretch that is too long for one answer is left out.
            Ok(start.max(end.saturating_sub(STRETCH_MAX)).min(end)..end)
        };
        let window = Window { last: stretch(&tally.last)?, this: stretch(&tally.this)? };
        let mut groups = Vec::with_capacity(tally.groups.len());
        for group in &tally.groups {
            groups.push(self.counted(group, &tally.scope, &window)?);
        }
        Ok((window, groups))
    }

    fn counted(&self, group: &Group, scope: &[Fact], window: &Window) -> Result<Vec<Counted>, StoreError> {
        let facts: Vec<Fact> = scope.iter().chain(&group.within).cloned().collect();
        let (last, this) = (self.map(&facts, &window.last, group.repeats)?, self.map(&facts, &window.this, group.repeats)?);
        let before = window.last.start.min(window.this.start);
        let mut counted = Vec::new();
        let mut statement = self.conn.prepare_cached(VALUES)?;
        let values = statement.query_map((group.field.number(), limit(VALUES_MAX)), |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?)))?;
        for value in values {
            let (term, value) = value?;
            let (last, this) = (self.count(term, &last)?, self.count(term, &this)?);
            if last > 0 || this > 0 {
                counted.push(Counted { before: self.was_said(term, &facts, before)?, value, last, this });
            }
        }
        Ok(counted)
    }

    /// Which entries of a stretch say all of this.
    fn map(&self, facts: &[Fact], range: &Range<u64>, repeats: bool) -> Result<Map, StoreError> {
        let length = range.end.saturating_sub(range.start);
        let words = usize::try_from(length.div_ceil(64)).unwrap_or_default();
        let mut map = Map { range: range.clone(), bits: vec![u64::MAX; words], repeats: HashMap::new() };
        for (field, value) in facts {
            let mut said = Map { range: range.clone(), bits: vec![0; words], repeats: HashMap::new() };
            if let Some(term) = super::follow::term(&self.conn, *field, super::fact::kept(value))? {
                self.each(term, range, |index| said.set(index))?;
            }
            map.bits.iter_mut().zip(&said.bits).for_each(|(a, b)| *a &= b);
        }
        if repeats {
            let mut statement = self.conn.prepare_cached(REPEATS)?;
            let rows = statement.query_map(bounds(range), |r| Ok((r.get::<_, Count>(0)?.0, r.get::<_, Count>(1)?.0)))?;
            map.repeats = rows.collect::<Result<_, _>>()?;
        }
        Ok(map)
    }

    fn count(&self, term: i64, map: &Map) -> Result<u64, StoreError> {
        let mut count = 0_u64;
        self.each(term, &map.range, |index| {
            if map.has(index) {
                count = count.saturating_add(1).saturating_add(map.repeats.get(&index).copied().unwrap_or_default());
            }
        })?;
        Ok(count)
    }

    fn each(&self, term: i64, range: &Range<u64>, mut each: impl FnMut(u64)) -> Result<(), StoreError> {
        if range.is_empty() {
            return Ok(());
        }
        let (start, end) = bounds(range);
        let mut statement = self.conn.prepare_cached(BLOCKS)?;
        let mut rows = statement.query((term, start, end))?;
        while let Some(row) = rows.next()? {
            let first = row.get::<_, Count>(0)?.0;
            let data = row.get_ref(1)?.as_blob().map_err(|e| StoreError::malformed(e.to_string()))?;
            numbers(first, data).into_iter().filter(|index| range.contains(index)).for_each(&mut each);
        }
        Ok(())
    }

    /// Was it said, with all of this, below this index?
    fn was_said(&self, term: i64, facts: &[Fact], below: u64) -> Result<Option<bool>, StoreError> {
        let reads = Cell::new(0);
        let Some(mut sources) = self.sources(facts, &reads)? else { return Ok(Some(false)) };
        sources.insert(0, Backwards::new(&self.conn, Source::Term(term), &reads));
        let Some(mut candidate) = below.checked_sub(1) else { return Ok(Some(false)) };
        // In stretches, so that the reads are looked at in between.
        loop {
            let mut agreed = candidate;
            for source in &mut sources {
                match source.up_to(agreed)? {
                    Some(number) => agreed = number,
                    None => return Ok(Some(false)),
                }
            }
            if agreed == candidate {
                return Ok(Some(true));
            }
            if reads.get() > READS_MAX {
                return Ok(None);
            }
            candidate = agreed;
        }
    }
}

/// One bit for each entry of a stretch.
struct Map {
    range: Range<u64>,
    bits: Vec<u64>,
    repeats: HashMap<u64, u64>,
}

impl Map {
    fn place(&self, index: u64) -> Option<(usize, u32)> {
        let at = index.checked_sub(self.range.start)?;
        Some((usize::try_from(at / 64).ok()?, u32::try_from(at % 64).ok()?))
    }

    fn set(&mut self, index: u64) {
        if let Some((word, bit)) = self.place(index)
            && let Some(word) = self.bits.get_mut(word)
        {
            *word |= 1_u64 << bit;
        }
    }

    fn has(&self, index: u64) -> bool {
        self.place(index).is_some_and(|(word, bit)| self.bits.get(word).is_some_and(|w| w & (1_u64 << bit) != 0))
    }
}
