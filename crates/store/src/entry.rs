//! What goes into the ledger and what comes out: entries, intents, heads, and the Merkle maths that is handed in.

use std::fmt;
use std::sync::Arc;

use bailiwick_core::{CallId, HoldId, LeaseId, TaskId, Timestamp};

use crate::error::StoreError;
use crate::leases::LeaseLife;

/// The largest body of an entry, in bytes (C2SP tlog-tiles, entry bundles: a 16-bit length).
pub const ENTRY_BYTES_MAX: usize = 65_535;

/// The words for kinds of entries that the store itself writes. Any other word may be used by [`Entry`].
pub mod kind {
    /// A permitted call, before it is sent.
    pub const INTENT: &str = "intent";
    /// What became of a permitted call.
    pub const OUTCOME: &str = "outcome";
    /// A task was opened.
    pub const TASK_OPENED: &str = "task.opened";
    /// A task began to end, or ended.
    pub const TASK_ENDED: &str = "task.ended";
    /// A call was held.
    pub const HOLD_OPENED: &str = "hold.opened";
    /// A held call was decided, expired or was withdrawn.
    pub const HOLD_CHANGED: &str = "hold.changed";
    /// A step in the life of a lease.
    pub const LEASE: &str = "lease";
}

/// One entry to append, other than an intent or an outcome.
#[derive(Clone)]
pub struct Entry {
    pub(crate) kind: &'static str,
    pub(crate) task: Option<TaskId>,
    pub(crate) call: Option<CallId>,
    pub(crate) body: Vec<u8>,
}

impl Entry {
    /// An entry of this kind with exactly these bytes.
    #[must_use]
    pub const fn new(kind: &'static str, body: Vec<u8>) -> Self {
        Self { kind, task: None, call: None, body }
    }

    /// It can be found by this task.
    #[must_use]
    pub const fn of_task(mut self, task: TaskId) -> Self {
        self.task = Some(task);
        self
    }

    /// It can be found by this call.
    #[must_use]
    pub const fn of_call(mut self, call: CallId) -> Self {
        self.call = Some(call);
        self
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if matches!(self.kind, kind::INTENT | kind::OUTCOME) {
            return Err(StoreError::conflict("an intent or outcome cannot be appended as a plain entry"));
        }
        check_body(&self.body)
    }
}

pub(crate) fn check_body(body: &[u8]) -> Result<(), StoreError> {
    let len = body.len();
    if len > ENTRY_BYTES_MAX {
        return Err(StoreError::TooLarge { what: "entry", len, max: ENTRY_BYTES_MAX });
    }
    Ok(())
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("kind", &self.kind)
            .field("task", &self.task)
            .field("call", &self.call)
            .field("bytes", &self.body.len())
            .finish()
    }
}

/// A permitted call, to be recorded before it is sent.
#[derive(Clone)]
pub struct Intent {
    /// The fence: the control sequence under which the call was decided.
    pub known_control: u64,
    /// The call's task.
    pub task: TaskId,
    /// The call.
    pub call: CallId,
    /// The approval that it spends.
    pub consume: Option<HoldId>,
    /// How many calls the task may make in all.
    pub budget_calls: u64,
    /// The time now.
    pub at: Timestamp,
    /// The account that waited in a pool and is its task's from here on.
    pub assigns: Option<Assignment>,
    /// The entry's bytes.
    pub body: Vec<u8>,
}

/// A pooled account that becomes a task's with the intent of the task's call: in the same durable write, or not at all.
#[derive(Clone)]
pub struct Assignment {
    pub(crate) lease: LeaseId,
    pub(crate) life: String,
    pub(crate) body: Vec<u8>,
}

impl Assignment {
    /// This lease, with what changes about it, and the bytes of its entry.
    ///
    /// # Errors
    /// `TooLarge` if the entry does not fit.
    pub fn new(lease: LeaseId, life: &LeaseLife, body: Vec<u8>) -> Result<Self, StoreError> {
        check_body(&body)?;
        Ok(Self { lease, life: serde_json::to_string(life)?, body })
    }
}

impl fmt::Debug for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assignment").field("lease", &self.lease).field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intent")
            .field("known_control", &self.known_control)
            .field("task", &self.task)
            .field("call", &self.call)
            .field("consume", &self.consume)
            .field("budget_calls", &self.budget_calls)
            .field("at", &self.at)
            .field("assigns", &self.assigns)
            .field("bytes", &self.body.len())
            .finish()
    }
}

/// The tree after a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Integrated {
    /// The leaf hashes of the batch, in order.
    pub leaves: Vec<[u8; 32]>,
    /// What the next batch continues from.
    pub frontier: Vec<u8>,
    /// The number of entries in the tree.
    pub size: u64,
    /// The root of the tree.
    pub root: [u8; 32],
    /// The signed note over it.
    pub checkpoint: String,
}

/// The Merkle maths: a pure function of state and entries. The store keeps the state.
pub trait Integrator: Send {
    /// Adds `entries` to the tree that `frontier` stands for (empty bytes: the empty tree) and signs the new head. With no entries
    /// it gives the head of the tree as it is.
    ///
    /// # Errors
    /// Why the tree cannot be continued, in words. Nothing of the batch is written then.
    fn integrate(&mut self, frontier: &[u8], entries: &[&[u8]]) -> Result<Integrated, String>;
}

/// The durable head of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number of entries.
    pub size: u64,
    /// The root of the tree over them.
    pub root: [u8; 32],
    /// The signed note over it.
    pub checkpoint: Arc<str>,
}

/// One entry as it stands in the ledger.
#[derive(Clone, PartialEq, Eq)]
pub struct EntryRow {
    /// Its place, from 0.
    pub index: u64,
    /// Its kind.
    pub kind: String,
    /// Its task.
    pub task: Option<TaskId>,
    /// Its call.
    pub call: Option<CallId>,
    /// For an outcome, the index of the intent that it closes.
    pub closes: Option<u64>,
    /// Its leaf hash.
    pub leaf: [u8; 32],
    /// Its bytes.
    pub body: Vec<u8>,
}

impl fmt::Debug for EntryRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryRow")
            .field("index", &self.index)
            .field("kind", &self.kind)
            .field("task", &self.task)
            .field("call", &self.call)
            .field("closes", &self.closes)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}
