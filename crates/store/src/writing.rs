//! What a change may do inside the writer's transaction: rows of every table, entries, and the authority in force, all or nothing.

use std::fmt;

use bailiwick_core::{CallId, LeaseId, TaskId};
use rusqlite::Connection;

use crate::authority::Authority;
use crate::entry::Entry;
use crate::error::StoreError;

/// An entry of the batch at hand that has its index but is not written yet.
pub(crate) struct Pending {
    pub(crate) kind: &'static str,
    pub(crate) task: Option<TaskId>,
    pub(crate) call: Option<CallId>,
    pub(crate) closes: Option<u64>,
    /// The pooled account that it gives to its task.
    pub(crate) assigns: Option<Assigned>,
    pub(crate) body: Vec<u8>,
}

/// A pooled account that an entry gives to a task: what the database is told when it follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assigned {
    pub(crate) lease: LeaseId,
    pub(crate) task: TaskId,
    pub(crate) life: String,
}

/// The inside of one transaction on the writer's thread. Whatever a change does through it is durable together, or did not happen.
/// It sees the changes that were queued before it.
pub struct Writing<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) state: &'a mut Authority,
    pub(crate) pending: &'a mut Vec<Pending>,
}

impl Writing<'_> {
    /// Appends an entry to the ledger and gives its index.
    ///
    /// # Errors
    /// `TooLarge` beyond [`ENTRY_BYTES_MAX`](crate::ENTRY_BYTES_MAX), `Conflict` for the kinds `intent` and `outcome`.
    pub fn append(&mut self, entry: Entry) -> Result<u64, StoreError> {
        entry.check()?;
        let Entry { kind, task, call, body } = entry;
        Ok(self.push(Pending { kind, task, call, closes: None, assigns: None, body }))
    }

    /// Appends an entry that takes authority away and moves the fence: no call that was decided before passes any more.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    pub fn append_control(&mut self, entry: Entry) -> Result<u64, StoreError> {
        let index = self.append(entry)?;
        self.state.bump_control();
        Ok(index)
    }

    /// The fence as it stands here.
    #[must_use]
    pub fn control_seq(&self) -> u64 {
        self.state.control_seq()
    }

    pub(crate) fn push(&mut self, entry: Pending) -> u64 {
        let at = u64::try_from(self.pending.len()).unwrap_or(u64::MAX);
        self.pending.push(entry);
        self.state.size.saturating_add(at)
    }
}

impl fmt::Debug for Writing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").field("control_seq", &self.control_seq()).finish_non_exhaustive()
    }
}
