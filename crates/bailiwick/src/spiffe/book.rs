//! What was issued to whom, counted: the first of its kind is on record at once, and how many followed is once in a while.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::{AgentName, Timestamp};

/// SVIDs of one kind for one agent within this time are written once, with their number.
const AGGREGATE: Duration = Duration::from_secs(60);
/// Kinds of one agent that are told apart at a time; all others count as one, so that an agent that invents audiences does not fill the disk.
const KINDS_MAX: usize = 32;
const OTHERS: &str = "JWT-SVID for further audiences";

/// SVIDs that were issued. Agents are those of the configuration, so this stays small.
#[derive(Debug, Default)]
pub(super) struct Book(Mutex<HashMap<AgentName, HashMap<String, Seen>>>);

#[derive(Debug)]
struct Seen {
    written: Timestamp,
    unwritten: u64,
}

impl Book {
    /// Is this one to be written now? Then under which kind, and how many of it before were not.
    pub(super) fn see(&self, agent: &AgentName, kind: String, now: Timestamp) -> Option<(String, u64)> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds = book.entry(agent.clone()).or_default();
        let kind = if kinds.contains_key(&kind) || kinds.len() < KINDS_MAX { kind } else { OTHERS.to_owned() };
        match kinds.get_mut(&kind) {
            Some(seen) if seen.written.until(now) < AGGREGATE => {
                seen.unwritten = seen.unwritten.saturating_add(1);
                None
            }
            Some(seen) => {
                seen.written = now;
                Some((kind, std::mem::take(&mut seen.unwritten)))
            }
            None => {
                kinds.insert(kind.clone(), Seen { written: now, unwritten: 0 });
                Some((kind, 0))
            }
        }
    }

    /// Forgets the kinds whose time is over, and gives those of which some are not on record yet.
    pub(super) fn settle(&self, now: Timestamp) -> Vec<(AgentName, String, u64)> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut owed = Vec::new();
        for (agent, kinds) in book.iter_mut() {
            for (kind, seen) in kinds.extract_if(|_, seen| seen.written.until(now) >= AGGREGATE) {
                if seen.unwritten > 0 {
                    owed.push((agent.clone(), kind, seen.unwritten));
                }
            }
        }
        owed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_fetches_again_and_again_is_written_once_with_its_number() {
        let (book, at) = (Book::default(), Timestamp::from_millis);
        let scout: AgentName = "scout".parse().unwrap();
        assert_eq!(book.see(&scout, "X.509-SVID".to_owned(), at(0)), Some(("X.509-SVID".to_owned(), 0)));
        assert!((1..100).all(|i| book.see(&scout, "X.509-SVID".to_owned(), at(i)).is_none()));
        assert_eq!(book.see(&scout, "X.509-SVID".to_owned(), at(60_000)), Some(("X.509-SVID".to_owned(), 99)));
        assert!(book.see(&scout, "X.509-SVID".to_owned(), at(60_001)).is_none());
        assert_eq!(book.settle(at(120_000)), [(scout.clone(), "X.509-SVID".to_owned(), 1)]);
        assert!(book.settle(at(300_000)).is_empty());
    }

    #[test]
    fn an_agent_that_invents_audiences_does_not_fill_the_record() {
        let (book, at) = (Book::default(), Timestamp::from_millis(0));
        let scout: AgentName = "scout".parse().unwrap();
        let written = (0..10_000).filter(|i| book.see(&scout, format!("JWT-SVID for {i}"), at).is_some()).count();
        assert!(written <= KINDS_MAX + 1, "{written}");
    }
}
