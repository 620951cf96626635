//! Room for texts: the file has a bound in all, and the oldest texts that are not required go for new ones.

use rusqlite::Connection;

use crate::error::StoreError;
use crate::sql::Count;

/// Texts that go at a time until there is room.
const AT_ONCE: i64 = 8;
/// What a text takes beside its own bytes: its row, its places in the indexes, and the rest of its last page.
const BESIDE: u64 = 8192;

/// Makes room for a sealed text of this length, and counts the texts that go for it.
///
/// # Errors
/// `NoRoom` if it does not fit and nothing more may go; or the store's.
pub(super) fn make(conn: &Connection, len: usize, bytes_max: u64, displaced: &mut u64) -> Result<(), StoreError> {
    let needed = u64::try_from(len).unwrap_or(u64::MAX).saturating_add(BESIDE);
    let no_room = StoreError::NoRoom { what: "texts of calls", max: bytes_max };
    if needed > bytes_max {
        return Err(no_room);
    }
    while used(conn)?.saturating_add(needed) > bytes_max {
        let oldest = "DELETE FROM payloads WHERE id IN (SELECT id FROM payloads WHERE required = 0 ORDER BY id LIMIT ?1)";
        let step = conn.prepare_cached(oldest)?.execute([AT_ONCE])?;
        if step == 0 {
            return Err(no_room);
        }
        *displaced = displaced.saturating_add(u64::try_from(step).unwrap_or(u64::MAX));
    }
    Ok(())
}

/// Bytes of the file that are in use: pages that were freed are used again first.
fn used(conn: &Connection) -> Result<u64, StoreError> {
    let sql = "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
    Ok(conn.prepare_cached(sql)?.query_row([], |r| r.get::<_, Count>(0))?.0)
}
