//! Whether the database file is still what the engine made it: its structure, page by page.

use crate::error::{Reason, StoreError};
use crate::store::Store;

impl Store {
    /// Looks at the structure of every page of the database, while calls go on. It takes as long as reading the file does.
    ///
    /// # Errors
    /// `Unavailable` with the reason `Damaged`, and the first thing that is wrong.
    pub async fn check_pages(&self) -> Result<(), StoreError> {
        self.read_all(|conn| {
            let found: String = conn.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
            if found == "ok" { Ok(()) } else { Err(StoreError::unavailable(Reason::Damaged, found)) }
        })
        .await
    }
}
