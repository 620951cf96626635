//! Secrets that are replaced at their system: the durable steps of a replacement, and of which lease a secret is.

use rusqlite::OptionalExtension as _;

use crate::entry::Entry;
use crate::error::StoreError;
use crate::sql::{Count, int};
use crate::store::Store;
use crate::writing::Writing;

/// Where the replacement of a secret stands: `settled`, `open` or `lost`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptPhase {
    /// Nothing is under way.
    Settled,
    /// The system may take either.
    Open,
    /// It took neither.
    Lost,
}

impl KeptPhase {
    const fn word(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Open => "open",
            Self::Lost => "lost",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Settled, Self::Open, Self::Lost].into_iter().find(|phase| phase.word() == word)
    }
}

/// What is kept of one secret, sealed.
#[derive(Clone, PartialEq, Eq)]
pub struct KeptRow {
    /// The current one.
    pub current: Vec<u8>,
    /// The one that is to replace it.
    pub candidate: Option<Vec<u8>>,
    /// Where it stands.
    pub phase: KeptPhase,
    /// Rises with each step.
    pub revision: u64,
    /// The account name of the lease that has it.
    pub holder: Option<String>,
}

impl std::fmt::Debug for KeptRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptRow").field("phase", &self.phase).field("revision", &self.revision).field("holder", &self.holder).finish_non_exhaustive()
    }
}

/// Why a step was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStep {
    /// There is no such secret.
    Unset,
    /// It is not as it was seen.
    Moved,
    /// It does not stand where the step begins.
    Wrong,
}

impl Writing<'_> {
    /// What is kept of a secret. `None`: it is not set.
    ///
    /// # Errors
    /// The store's.
    pub fn kept(&self, name: &str) -> Result<Option<KeptRow>, StoreError> {
        kept(self.conn, name)
    }

    /// Opens a replacement, or gives an open one without a candidate its candidate. Gives the new revision.
    ///
    /// # Errors
    /// The store's.
    pub fn kept_begin(&mut self, name: &str, seen: u64, candidate: Option<&[u8]>) -> Result<Result<u64, NoStep>, StoreError> {
        let row = match self.kept_seen(name, seen)? {
            Ok(row) => row,
            Err(no) => return Ok(Err(no)),
        };
        let fits = row.phase == KeptPhase::Settled || row.phase == KeptPhase::Open && row.candidate.is_none() && candidate.is_some();
        if fits { self.kept_put(name, seen, KeptPhase::Open, candidate).map(Ok) } else { Ok(Err(NoStep::Wrong)) }
    }

    /// Closes a replacement: the candidate becomes the current one (`Some(true)`), is destroyed (`Some(false)`), or both are lost (`None`), with an
    /// entry that says so. Gives the new revision.
    ///
    /// # Errors
    /// The store's.
    pub fn kept_settle(&mut self, name: &str, seen: u64, taken: Option<bool>, entry: Option<Entry>) -> Result<Result<u64, NoStep>, StoreError> {
        let row = match self.kept_seen(name, seen)? {
            Ok(row) => row,
            Err(no) => return Ok(Err(no)),
        };
        if row.phase != KeptPhase::Open {
            return Ok(Err(NoStep::Wrong));
        }
        let revision = match (taken, row.candidate) {
            (Some(true), Some(candidate)) => {
                self.conn.prepare_cached("UPDATE secrets SET sealed = ?2 WHERE name = ?1")?.execute((name, &candidate))?;
                self.kept_put(name, seen, KeptPhase::Settled, None)?
            }
            (Some(true), None) => return Ok(Err(NoStep::Wrong)),
            (Some(false), _) => self.kept_put(name, seen, KeptPhase::Settled, None)?,
            (None, candidate) => self.kept_put(name, seen, KeptPhase::Lost, candidate.as_deref())?,
        };
        if let Some(entry) = entry {
            self.append(entry)?;
        }
        Ok(Ok(revision))
    }

    /// A person has set the secret: whatever was under way is over. Whose it is stays.
    pub(crate) fn kept_reset(&mut self, name: &str) -> Result<(), StoreError> {
        let sql = "UPDATE kept_secrets SET phase = 'settled', candidate = NULL, revision = revision + 1 WHERE name = ?1";
        self.conn.prepare_cached(sql)?.execute([name])?;
        Ok(())
    }

    /// Gives the secret to a holder. True: it is the holder's, now or since before. False: it is another's, or the holder has another one.
    ///
    /// # Errors
    /// The store's.
    pub fn kept_take(&mut self, name: &str, holder: &str) -> Result<Result<bool, NoStep>, StoreError> {
        let Some(row) = self.kept(name)? else { return Ok(Err(NoStep::Unset)) };
        if let Some(had) = row.holder {
            return Ok(Ok(had == holder));
        }
        let other: Option<String> =
            self.conn.prepare_cached("SELECT name FROM kept_secrets WHERE holder = ?1")?.query_row([holder], |r| r.get(0)).optional()?;
        if other.is_some() {
            return Ok(Ok(false));
        }
        let sql = "INSERT INTO kept_secrets VALUES (?1, 0, 'settled', NULL, ?2) ON CONFLICT (name) DO UPDATE SET holder = excluded.holder";
        self.conn.prepare_cached(sql)?.execute((name, holder))?;
        Ok(Ok(true))
    }

    /// The secret is nobody's, if it was this holder's.
    ///
    /// # Errors
    /// The store's.
    pub fn kept_give_back(&mut self, name: &str, holder: &str) -> Result<(), StoreError> {
        self.conn.prepare_cached("UPDATE kept_secrets SET holder = NULL WHERE name = ?1 AND holder = ?2")?.execute((name, holder))?;
        Ok(())
    }

    fn kept_seen(&self, name: &str, seen: u64) -> Result<Result<KeptRow, NoStep>, StoreError> {
        Ok(match self.kept(name)? {
            None => Err(NoStep::Unset),
            Some(row) if row.revision != seen => Err(NoStep::Moved),
            Some(row) => Ok(row),
        })
    }

    fn kept_put(&mut self, name: &str, seen: u64, phase: KeptPhase, candidate: Option<&[u8]>) -> Result<u64, StoreError> {
        let revision = seen.saturating_add(1);
        let sql = "INSERT INTO kept_secrets VALUES (?1, ?2, ?3, ?4, NULL)
            ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, phase = excluded.phase, candidate = excluded.candidate";
        self.conn.prepare_cached(sql)?.execute((name, int(revision), phase.word(), candidate))?;
        Ok(revision)
    }
}

impl Store {
    /// See [`Writing::kept`]: with everything that was written before.
    ///
    /// # Errors
    /// The store's.
    pub async fn kept(&self, name: &str) -> Result<Option<KeptRow>, StoreError> {
        let name = name.to_owned();
        self.read(move |conn| kept(conn, &name)).await
    }

    /// See [`Writing::kept_begin`]. Durable when it returns.
    ///
    /// # Errors
    /// The store's.
    pub async fn kept_begin(&self, name: &str, seen: u64, candidate: Option<Vec<u8>>) -> Result<Result<u64, NoStep>, StoreError> {
        let name = name.to_owned();
        self.write(move |w| w.kept_begin(&name, seen, candidate.as_deref())).await
    }

    /// See [`Writing::kept_settle`]. Durable when it returns.
    ///
    /// # Errors
    /// The store's.
    pub async fn kept_settle(&self, name: &str, seen: u64, taken: Option<bool>, entry: Option<Entry>) -> Result<Result<u64, NoStep>, StoreError> {
        let name = name.to_owned();
        self.write(move |w| w.kept_settle(&name, seen, taken, entry)).await
    }

    /// See [`Writing::kept_take`]. Durable when it returns.
    ///
    /// # Errors
    /// The store's.
    pub async fn kept_take(&self, name: &str, holder: &str) -> Result<Result<bool, NoStep>, StoreError> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.write(move |w| w.kept_take(&name, &holder)).await
    }

    /// See [`Writing::kept_give_back`]. Durable when it returns.
    ///
    /// # Errors
    /// The store's.
    pub async fn kept_give_back(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.write(move |w| w.kept_give_back(&name, &holder)).await
    }
}

fn kept(conn: &rusqlite::Connection, name: &str) -> Result<Option<KeptRow>, StoreError> {
    let sql =
        "SELECT s.sealed, k.candidate, k.phase, k.revision, k.holder FROM secrets s LEFT JOIN kept_secrets k ON k.name = s.name WHERE s.name = ?1";
    type Raw = (Vec<u8>, Option<Vec<u8>>, Option<String>, Option<Count>, Option<String>);
    let row: Option<Raw> = conn.prepare_cached(sql)?.query_row([name], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?))).optional()?;
    row.map(|(current, candidate, phase, revision, holder)| {
        let phase =
            phase.map_or(Ok(KeptPhase::Settled), |word| KeptPhase::parse(&word).ok_or_else(|| StoreError::malformed("the phase of a secret")))?;
        Ok(KeptRow { current, candidate, phase, revision: revision.map_or(0, |count| count.0), holder })
    })
    .transpose()
}
