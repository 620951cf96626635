//! The shop's file: opening it, and making its tables and first rows. Never changes a file that is not a shop.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::ShopError;

/// Marks the file as ours: `BWSH` in ASCII, in SQLite's `application_id`.
const APPLICATION_ID: i32 = 0x4257_5348;
/// The version of the tables, in SQLite's `user_version`.
const VERSION: i32 = 1;
/// How long a call waits for another process that writes the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const SCHEMA: &str = include_str!("schema.sql");
const FIRST_DAY: &str = include_str!("seed.sql");

/// Opens the shop in `file`, making it first where there is none.
pub(super) fn open(file: &Path) -> Result<Connection, ShopError> {
    let mut shop = Connection::open(file)?;
    shop.busy_timeout(BUSY_TIMEOUT)?;
    shop.pragma_update(None, "foreign_keys", true)?;
    shop.pragma_update(None, "trusted_schema", false)?;
    fill_if_empty(&mut shop)?;
    Ok(shop)
}

/// Looks and fills under one write lock, so that two processes that start together make one shop.
fn fill_if_empty(shop: &mut Connection) -> Result<(), ShopError> {
    let change = shop.transaction_with_behavior(TransactionBehavior::Immediate).map_err(not_a_database)?;
    let application: i32 = change.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let version: i32 = change.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 = change.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, version, tables) {
        (APPLICATION_ID, VERSION, _) => Ok(()),
        (0, 0, 0) => {
            change.execute_batch(SCHEMA)?;
            change.execute_batch(FIRST_DAY)?;
            change.pragma_update(None, "application_id", APPLICATION_ID)?;
            change.pragma_update(None, "user_version", VERSION)?;
            change.commit()?;
            Ok(())
        }
        _ => Err(ShopError::NotAShop),
    }
}

fn not_a_database(error: rusqlite::Error) -> ShopError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => ShopError::NotAShop,
        _ => ShopError::File(error),
    }
}
