//! Which journal belongs to this database: by a name that each run gives anew, and that both files say.
//!
//! A run names its journal when the database has everything of the one before: the database says first that the new name may come, then the
//! journal takes it, then the database says that it must be there. At the end of a run, when the database has everything again, it may. So a
//! journal of another database, one of another run, and one that is gone although it had what the database has not, are each seen.

use std::path::Path;

use rusqlite::Connection;

use crate::error::{Reason, StoreError};
use crate::journal::{self, JOURNAL};
use crate::schema::Directory;
use crate::sql::Count;

/// The name of a journal in one run. Zeros: of a journal from before they had names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JournalName(pub(crate) [u8; 16]);

/// What a database says of its journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bond {
    /// The place up to which it has everything.
    pub(crate) place: u64,
    /// The journal that must be there: the database has not everything of it.
    pub(crate) must: Option<JournalName>,
    /// Those that may be there instead: it has everything of them.
    pub(crate) may: Vec<JournalName>,
}

impl Bond {
    /// What this database says, whatever version of ours wrote it. `None`: of before there were journals.
    pub(crate) fn stored(conn: &Connection) -> Result<Option<Self>, StoreError> {
        let has = |column: &str| -> Result<bool, StoreError> {
            Ok(conn.query_row("SELECT count(*) FROM pragma_table_info('head') WHERE name = ?1", [column], |r| r.get(0))?)
        };
        if !has("journal")? {
            return Ok(None);
        }
        let place = conn.query_row("SELECT journal FROM head WHERE id = 0", [], |r| r.get::<_, Count>(0))?.0;
        if !has("journal_must")? {
            return Ok(Some(Self { place, must: None, may: vec![JournalName([0; 16])] }));
        }
        let row = conn.query_row("SELECT journal_must, journal_may FROM head WHERE id = 0", [], |r| Ok((r.get(0)?, r.get(1)?)));
        let (must, may): (Vec<u8>, Vec<u8>) = row?;
        Ok(Some(Self { place, must: names(&must).first().copied(), may: names(&may) }))
    }

    /// May a journal of this name stand beside the database?
    pub(crate) fn covers(&self, name: JournalName) -> bool {
        self.must.map_or_else(|| self.may.contains(&name), |must| must == name)
    }

    /// Refuses if the journal is gone that must be there.
    pub(crate) fn check_present(&self, path: &Path, is_there: bool) -> Result<(), StoreError> {
        if is_there || self.must.is_none() {
            return Ok(());
        }
        let detail = format!(
            "`{}` is missing, and calls may be on record in it alone: put it back from the same copy as the database. If it is lost for good: \
             `bailiwick ledger shard new --even-so --reason WHY` goes on without it, on record",
            path.display()
        );
        Err(StoreError::unavailable(Reason::Disagrees, detail))
    }
}

fn names(bytes: &[u8]) -> Vec<JournalName> {
    bytes.as_chunks::<16>().0.iter().copied().map(JournalName).collect()
}

/// A name that no journal had.
pub(crate) fn new_name(conn: &Connection) -> Result<JournalName, StoreError> {
    Ok(JournalName(conn.query_row("SELECT randomblob(16)", [], |r| r.get(0))?))
}

/// The database has everything of the journal that is there: it may stay, and may take the next name.
pub(crate) fn promise(conn: &Connection, there: Option<JournalName>, next: JournalName) -> Result<(), StoreError> {
    let may: Vec<u8> = there.into_iter().chain([next]).flat_map(|name| name.0).collect();
    conn.execute("UPDATE head SET journal_must = x'', journal_may = ?1 WHERE id = 0", [may])?;
    Ok(())
}

/// From now on what is acknowledged may be in this journal alone.
pub(crate) fn bind(conn: &Connection, name: JournalName) -> Result<(), StoreError> {
    conn.execute("UPDATE head SET journal_must = ?1, journal_may = x'' WHERE id = 0", [name.0])?;
    Ok(())
}

/// The database has everything of its journal, and nothing more comes.
pub(crate) fn release(conn: &Connection) -> Result<(), StoreError> {
    conn.execute("UPDATE head SET journal_may = journal_must, journal_must = x'' WHERE id = 0 AND journal_must <> x''", [])?;
    Ok(())
}

/// For who says on record that it is lost: a journal that must be there and is not is waited for no more. What only it had is gone; entries
/// that are missed in the middle refuse the start all the same. False: it is there, or none must be.
///
/// # Errors
/// `Locked`, `Directory`, `TooNew`, or the store's.
pub fn give_up_lost_journal(dir: &Path) -> Result<bool, StoreError> {
    let directory = Directory::take(dir)?;
    let conn = directory.open_writer(0)?;
    let bond = Bond::stored(&conn)?.unwrap_or_default();
    let lost = bond.must.is_some() && journal::look(&dir.join(JOURNAL), &bond)?.is_none();
    if lost {
        release(&conn)?;
        tracing::warn!("the journal is lost: what only it had on record is gone");
    }
    Ok(lost)
}
