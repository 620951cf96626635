//! Finding entries: what the index points to is read from the ledger and held against the question, newest first.

use std::cell::Cell;

use bailiwick_core::{CallId, TaskId, Timestamp};
use rusqlite::Connection;

use super::fact::{Fact, Facts, Field, kept};
use super::follow::{Follower, SPAN, inherited, term};
use super::posting::{Backwards, Source};
use crate::entry::EntryRow;
use crate::error::StoreError;
use crate::ledger::entries_in;
use crate::sql::{Count, int};

/// Most entries in one answer.
pub const LIMIT_MAX: usize = 1000;
/// Rows that are read for one answer. What is further away comes with the next question.
const READS_MAX: u64 = 20_000;

pub(super) const SINCE: &str = "SELECT min(first) FROM spans WHERE high >= ?1";
pub(super) const UNTIL: &str = "SELECT max(first) FROM spans WHERE low < ?1";

/// Which entries. All conditions hold together.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// They say this. What becomes of a call says what the call said.
    pub facts: Vec<Fact>,
    /// Of this task.
    pub task: Option<TaskId>,
    /// Of this call.
    pub call: Option<CallId>,
    /// From this time on.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// Below this index: the `next` of the answer before.
    pub below: Option<u64>,
    /// So many, at most [`LIMIT_MAX`].
    pub limit: usize,
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The entries, newest first.
    pub rows: Vec<EntryRow>,
    /// Where to go on: there may be more below this index. None if that was all.
    pub next: Option<u64>,
    /// Rows of the index and of the ledger that were read for it.
    pub reads: u64,
}

impl Follower {
    pub(super) fn search(&self, search: &Search) -> Result<Found, StoreError> {
        let reads = Cell::new(0);
        let Some(mut sources) = self.sources(&search.facts, &reads)? else { return Ok(Found::default()) };
        sources.extend(search.task.map(|id| Backwards::new(&self.conn, Source::Task(id.to_bytes()), &reads)));
        sources.extend(search.call.map(|id| Backwards::new(&self.conn, Source::Call(id.to_bytes()), &reads)));
        let low = self.begin(search.since)?;
        let end = self.end(search.until)?.min(search.below.unwrap_or(u64::MAX));
        let limit = search.limit.clamp(1, LIMIT_MAX);
        let (mut found, mut at) = (Found::default(), end.checked_sub(1));
        while let Some(candidate) = at {
            let Some(index) = all_at(&mut sources, candidate)?.filter(|index| *index >= low) else { break };
            if reads.get() > READS_MAX {
                found.next = Some(index.saturating_add(1));
                break;
            }
            if let Some(row) = self.matching(search, index, &reads)? {
                if found.rows.len() == limit {
                    found.next = found.rows.last().map(|r| r.index);
                    break;
                }
                found.rows.push(row);
            }
            at = index.checked_sub(1);
        }
        found.reads = reads.get();
        Ok(found)
    }

    /// One source for each fact. None if one of them was never said.
    pub(super) fn sources<'a>(&'a self, facts: &[Fact], reads: &'a Cell<u64>) -> Result<Option<Vec<Backwards<'a>>>, StoreError> {
        let mut sources = Vec::with_capacity(facts.len());
        for (field, value) in facts {
            let Some(term) = term(&self.conn, *field, kept(value))? else { return Ok(None) };
            sources.push(Backwards::new(&self.conn, Source::Term(term), reads));
        }
        Ok(Some(sources))
    }

    /// The entry, if it is what was asked for by its own words and by those of the entries that it follows from.
    fn matching(&self, search: &Search, index: u64, reads: &Cell<u64>) -> Result<Option<EntryRow>, StoreError> {
        reads.set(reads.get().saturating_add(1));
        let Some(row) = entries_in(&self.ledger, index..index.saturating_add(1))?.pop() else { return Ok(None) };
        let facts = Facts::of(&row.body);
        let in_time = search.since.is_none_or(|since| facts.at.is_some_and(|at| at >= since.as_millis()))
            && search.until.is_none_or(|until| facts.at.is_some_and(|at| at < until.as_millis()));
        let of_task = |id: TaskId| facts.tasks.iter().any(|t| t.parse() == Ok(id)) || (facts.tasks.is_empty() && row.task == Some(id));
        let of_call = |id: CallId| facts.calls.iter().any(|c| c.parse() == Ok(id)) || (facts.calls.is_empty() && row.call == Some(id));
        let named = search.task.is_none_or(of_task) && search.call.is_none_or(of_call);
        if !in_time || !named {
            return Ok(None);
        }
        let missing: Vec<&Fact> = search.facts.iter().filter(|(field, value)| !facts.says(*field, value)).collect();
        if missing.is_empty() {
            return Ok(Some(row));
        }
        reads.set(reads.get().saturating_add(1));
        let rest = inherited(&self.conn, &self.ledger, &facts.rest, index)?;
        let says = |field: Field, value: &str| rest.iter().any(|(f, v)| *f == field && v == kept(value));
        Ok(missing.iter().all(|(field, value)| says(*field, value)).then_some(row))
    }

    /// The first entry that can be of this time or later.
    fn begin(&self, since: Option<Timestamp>) -> Result<u64, StoreError> {
        let Some(since) = since else { return Ok(0) };
        let first = edge(&self.conn, SINCE, since)?;
        Ok(first.unwrap_or(u64::MAX))
    }

    /// The entry after the last one that can be before this time.
    fn end(&self, until: Option<Timestamp>) -> Result<u64, StoreError> {
        let next = self.next()?;
        let Some(until) = until else { return Ok(next) };
        let last = edge(&self.conn, UNTIL, until)?;
        Ok(last.map_or(0, |first| next.min(first.saturating_add(SPAN))))
    }

    /// The first entry of this time or later, in the order of the ledger.
    pub(super) fn first_since(&self, since: Timestamp) -> Result<u64, StoreError> {
        let next = self.next()?;
        let Some(span) = edge(&self.conn, SINCE, since)? else { return Ok(next) };
        let rows = entries_in(&self.ledger, span..next.min(span.saturating_add(SPAN)))?;
        let first = rows.iter().find(|row| Facts::of(&row.body).at.is_some_and(|at| at >= since.as_millis()));
        Ok(first.map_or(next, |row| row.index))
    }
}

fn edge(conn: &Connection, sql: &str, at: Timestamp) -> Result<Option<u64>, StoreError> {
    Ok(conn.prepare_cached(sql)?.query_row([at.as_millis()], |r| r.get::<_, Option<Count>>(0))?.map(|c| c.0))
}

/// The greatest number up to `most` that all sources have. Without sources, `most`.
pub(super) fn all_at(sources: &mut [Backwards<'_>], most: u64) -> Result<Option<u64>, StoreError> {
    let mut candidate = most;
    loop {
        let asked = candidate;
        for source in sources.iter_mut() {
            match source.up_to(candidate)? {
                Some(number) => candidate = number,
                None => return Ok(None),
            }
        }
        if candidate == asked {
            return Ok(Some(candidate));
        }
    }
}

/// As SQLite keeps the bounds of a range.
pub(super) fn bounds(range: &std::ops::Range<u64>) -> (i64, i64) {
    (int(range.start), int(range.end))
}
