//! How fast an agent may ask for tokens and tasks, and the record of what it was refused: neither may be had without end.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::{AgentName, ErrorCode, Timestamp};

use crate::entry;
use crate::house::House;

/// What an agent asks for outside of its tasks' calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Door {
    /// A token.
    Token,
    /// A new task.
    Task,
}

impl Door {
    /// How often in a minute.
    const fn per_minute(self) -> usize {
        match self {
            Self::Token => 1200,
            Self::Task => 600,
        }
    }

    const fn refused(self) -> &'static str {
        match self {
            Self::Token => "token_refused",
            Self::Task => "task_refused",
        }
    }
}

/// Refusals within this time are written once, with their number.
const AGGREGATE: Duration = Duration::from_secs(10);

/// Of each agent, what it asked for in the last minute. Agents are those of the configuration, so this stays small.
#[derive(Debug, Default)]
pub struct Paces {
    by_agent: Mutex<HashMap<(AgentName, Door), Pace>>,
}

#[derive(Debug, Default)]
struct Pace {
    recent: VecDeque<i64>,
    written: Option<Timestamp>,
    unwritten: u64,
}

impl Paces {
    /// Takes a place in the sliding minute, or says no.
    #[must_use]
    pub fn within(&self, agent: &AgentName, door: Door, now: Timestamp) -> bool {
        let mut by_agent = self.by_agent.lock().unwrap_or_else(PoisonError::into_inner);
        let pace = by_agent.entry((agent.clone(), door)).or_default();
        let since = now.as_millis().saturating_sub(60_000);
        while pace.recent.front().is_some_and(|at| *at <= since) {
            pace.recent.pop_front();
        }
        let within = pace.recent.len() < door.per_minute();
        if within {
            pace.recent.push_back(now.as_millis());
        }
        within
    }

    /// Is a refusal to be written now? Then with how many before it that were not.
    fn refused(&self, agent: &AgentName, door: Door, now: Timestamp) -> Option<u64> {
        let mut by_agent = self.by_agent.lock().unwrap_or_else(PoisonError::into_inner);
        let pace = by_agent.entry((agent.clone(), door)).or_default();
        if pace.written.is_some_and(|at| at.until(now) < AGGREGATE) {
            pace.unwritten = pace.unwritten.saturating_add(1);
            return None;
        }
        pace.written = Some(now);
        Some(std::mem::take(&mut pace.unwritten))
    }
}

impl House {
    /// Puts on record that an agent was refused a token or a task; repeats are counted.
    pub(crate) async fn note_refused(&self, agent: &AgentName, door: Door, code: ErrorCode) {
        let Some(before) = self.paces.refused(agent, door, self.clock.now()) else { return };
        let name = format!("agent {agent}: {code}; {before} before it were not written");
        let note = entry::House { what: door.refused(), name: Some(&name), digest: None };
        if let Err(error) = self.append(&note).await {
            tracing::error!(%error, %agent, "a refusal could not be recorded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_gets_so_many_tasks_in_a_minute_and_no_more() {
        let (paces, at) = (Paces::default(), Timestamp::from_millis);
        let (scout, other): (AgentName, AgentName) = ("scout".parse().unwrap(), "other".parse().unwrap());
        let given = (0..2000).filter(|i| paces.within(&scout, Door::Task, at(*i))).count();
        assert_eq!(given, 600);
        assert!(paces.within(&other, Door::Task, at(2000)) && paces.within(&scout, Door::Token, at(2000)));
        assert!(paces.within(&scout, Door::Task, at(62_000)));
    }

    #[test]
    fn refusals_are_written_once_in_a_while_with_their_number() {
        let (paces, at) = (Paces::default(), Timestamp::from_millis);
        let scout: AgentName = "scout".parse().unwrap();
        assert_eq!(paces.refused(&scout, Door::Task, at(0)), Some(0));
        assert!((1..50).all(|i| paces.refused(&scout, Door::Task, at(i)).is_none()));
        assert_eq!(paces.refused(&scout, Door::Task, at(10_000)), Some(49));
    }
}
