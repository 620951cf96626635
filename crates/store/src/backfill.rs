//! Writing the log back into the database on a thread of its own, while calls go on: the writer asks for it every so many bytes.

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use crate::error::{Reason, StoreError};

/// Bytes in the log after which it is written back. The log is grown for half as much again.
const EVERY: usize = 32 << 20;
/// What an entry takes beside its body, in pages that are written more than once.
const BESIDE: usize = 512;

/// The way to the thread. It ends when this is dropped.
pub(crate) struct Backfill {
    bell: SyncSender<()>,
    since: usize,
}

impl Backfill {
    pub(crate) fn start(conn: Connection) -> Result<(Self, JoinHandle<()>), StoreError> {
        // One ring more than is heard: what comes while it works is not forgotten.
        let (bell, rings) = sync_channel::<()>(1);
        let work = move || {
            while rings.recv().is_ok() {
                // The reply is (busy, pages in the log, pages written back). What readers still need stays in the log.
                if let Err(error) = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
                    tracing::warn!(%error, "the log could not be written back into the database yet");
                }
            }
        };
        let thread = std::thread::Builder::new().name("store-backfill".to_owned()).spawn(work);
        Ok((Self { bell, since: 0 }, thread.map_err(|e| StoreError::unavailable(Reason::Memory, e.to_string()))?))
    }

    /// So many entries with so many bytes in all are in the log.
    pub(crate) fn wrote(&mut self, entries: usize, bytes: usize) {
        self.since = self.since.saturating_add(bytes).saturating_add(entries.saturating_mul(BESIDE));
        if self.since >= EVERY {
            self.since = 0;
            match self.bell.try_send(()) {
                Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
            }
        }
    }
}
