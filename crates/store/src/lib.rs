//! What is remembered: the SQLite store with one writer thread. Never sees HTTP or a plain secret.
//!
//! One thread owns the authority in force (the fence, open tasks with their used calls, usable approvals) and the queue. It takes whatever
//! queued while the last batch was on its way to the disk, has the batch's entries integrated into the tree by the [`Integrator`] that it was
//! given, makes all of it durable at once, and only then answers: nothing but calls as one record of the journal, which the database follows,
//! everything else as one transaction of the database. No caller waits for a timer: a lone one waits for one synchronisation of the disk, many
//! share one.
//!
//! An `Ok` of a method that writes says: it is durable. An error says: it did not happen, in memory as on disk.
#![deny(missing_docs)]

mod ahead;
mod archive;
mod authority;
mod backfill;
mod batch;
mod bond;
mod database;
mod desk;
mod entry;
mod erasure;
mod error;
mod exports;
mod holds;
mod index;
mod journal;
mod kept;
mod leases;
mod ledger;
mod payloads;
mod prune;
mod reader;
mod registry;
mod reserve;
mod schema;
mod sealed;
mod shards;
mod soundness;
mod sql;
mod store;
mod tasks;
mod wal;
mod writer;
mod writing;

#[cfg(test)]
mod tests;

pub use archive::Archive;
pub use bond::give_up_lost_journal;
pub use entry::{Assignment, ENTRY_BYTES_MAX, Entry, EntryRow, Head, Integrated, Integrator, Intent, kind};
pub use erasure::{ERASED_AT_ONCE_MAX, Erased, Erasure, TextSeal};
pub use error::{Reason, StoreError};
pub use exports::ExportCursor;
pub use holds::{HoldFilter, TooMany};
pub use index::{ACT, Counted, Fact, Field, Found, Group, LIMIT_MAX as SEARCH_LIMIT_MAX, Search, Tally, Window};
pub use kept::{KeptPhase, KeptRow, NoStep};
pub use leases::{Lease, LeaseFilter, LeaseLife, LeaseRow, LeaseState, MadeEntry, TaskIsClosed};
pub use payloads::{ErasedNote, Keeping, OfCall, Payload, PayloadKind, PayloadRow, Payloads, Sealing};
pub use prune::{BUNDLE, HeldBy, Prunable};
pub use registry::{Incident, Pin, PinStatus, RESULT_BYTES_MAX, Registered};
pub use sealed::{RootName, SealedPlace, SealedRow};
pub use shards::{Cosigned, Shard};
pub use store::{Options, RELAXED_MAX, Store};
pub use tasks::{Ended, Opening, TaskFilter, TaskRow};
pub use writing::Writing;
