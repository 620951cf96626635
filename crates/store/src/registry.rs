//! What is looked up by name: pinned tools, agents and people, sealed secrets, results, used assertions, incidents, and plain values.

use std::fmt;

use bailiwick_core::{AgentName, Digest, Effect, HoldId, IncidentId, PersonName, SystemName, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::error::StoreError;
use crate::sql::{At, digest, limit, parsed};
use crate::store::Store;
use crate::writing::Writing;

/// The largest result of an asynchronous call that is kept, in bytes.
pub const RESULT_BYTES_MAX: usize = 16 << 20;
/// The largest sealed secret or plain value, in bytes.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// Unexpired assertions of one issuer that are remembered. Beyond it, further ones are refused: an assertion that cannot be
/// remembered could be used twice.
const JTIS_MAX: i64 = 4096;

/// Whether a tool's definition may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinStatus {
    /// Someone gave it its effect.
    Classified,
    /// We guessed its effect; it cannot be called.
    Proposed,
    /// Its definition changed; it cannot be called.
    Quarantined,
}

impl PinStatus {
    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Classified => "classified",
            Self::Proposed => "proposed",
            Self::Quarantined => "quarantined",
        }
    }
}

impl std::str::FromStr for PinStatus {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Classified, Self::Proposed, Self::Quarantined];
        known.into_iter().find(|s| s.word() == text).ok_or_else(|| "expected one of classified, proposed, quarantined".to_owned())
    }
}

/// A tool's definition as it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The system that offers it.
    pub system: SystemName,
    /// Its own name there.
    pub tool: String,
    /// The definition's exact bytes.
    pub definition: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// Its effect.
    pub effect: Effect,
    /// May it be called?
    pub status: PinStatus,
    /// Who gave it its effect.
    pub classified_by: Option<PersonName>,
    /// Since when it stands so.
    pub at: Timestamp,
}

/// An agent or person that was registered at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered<N> {
    /// The name.
    pub name: N,
    /// What it is, as JSON.
    pub document: String,
    /// The public key by which it proves itself; may be empty.
    pub public_key: Vec<u8>,
    /// When it was put so.
    pub at: Timestamp,
}

/// Something that should not have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// Its id.
    pub id: IncidentId,
    /// What kind, as a slug.
    pub kind: String,
    /// When.
    pub at: Timestamp,
    /// What happened, as JSON.
    pub document: String,
}

impl Writing<'_> {
    /// Puts a pin in place of the one before.
    ///
    /// # Errors
    /// The store's.
    pub fn pin_put(&mut self, pin: &Pin) -> Result<(), StoreError> {
        self.conn.prepare_cached("INSERT OR REPLACE INTO pins VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?.execute((
            pin.system.as_str(),
            &pin.tool,
            &pin.definition,
            pin.digest.as_bytes(),
            pin.effect.word(),
            pin.status.word(),
            pin.classified_by.as_ref().map(PersonName::as_str),
            pin.at.as_millis(),
        ))?;
        Ok(())
    }

    /// A pin, with the changes queued before.
    ///
    /// # Errors
    /// The store's.
    pub fn pin(&self, system: &SystemName, tool: &str) -> Result<Option<Pin>, StoreError> {
        pin(self.conn, system.as_str(), tool)
    }

    /// Puts an agent in place of the one of that name.
    ///
    /// # Errors
    /// The store's.
    pub fn agent_put(&mut self, agent: &Registered<AgentName>) -> Result<(), StoreError> {
        put(self.conn, "INSERT OR REPLACE INTO agents VALUES (?1, ?2, ?3, ?4)", agent)
    }

    /// Removes an agent. False: there was none.
    ///
    /// # Errors
    /// The store's.
    pub fn agent_delete(&mut self, name: &AgentName) -> Result<bool, StoreError> {
        Ok(self.conn.prepare_cached("DELETE FROM agents WHERE name = ?1")?.execute([name.as_str()])? > 0)
    }

    /// Puts a person in place of the one of that name.
    ///
    /// # Errors
    /// The store's.
    pub fn person_put(&mut self, person: &Registered<PersonName>) -> Result<(), StoreError> {
        put(self.conn, "INSERT OR REPLACE INTO people VALUES (?1, ?2, ?3, ?4)", person)
    }

    /// Removes a person. False: there was none.
    ///
    /// # Errors
    /// The store's.
    pub fn person_delete(&mut self, name: &PersonName) -> Result<bool, StoreError> {
        Ok(self.conn.prepare_cached("DELETE FROM people WHERE name = ?1")?.execute([name.as_str()])? > 0)
    }

    /// Puts a sealed secret in place of the one of that name.
    ///
    /// # Errors
    /// `TooLarge` beyond 1 MiB.
    pub fn secret_put(&mut self, name: &str, sealed: &[u8]) -> Result<(), StoreError> {
        check("secret", sealed, VALUE_BYTES_MAX)?;
        self.conn.prepare_cached("INSERT OR REPLACE INTO secrets VALUES (?1, ?2)")?.execute((name, sealed))?;
        self.kept_reset(name)
    }

    /// Removes a sealed secret. False: there was none.
    ///
    /// # Errors
    /// The store's.
    pub fn secret_delete(&mut self, name: &str) -> Result<bool, StoreError> {
        self.kept_reset(name)?;
        Ok(self.conn.prepare_cached("DELETE FROM secrets WHERE name = ?1")?.execute([name])? > 0)
    }

    /// Puts a plain value in place of the one of that key.
    ///
    /// # Errors
    /// `TooLarge` beyond 1 MiB.
    pub fn meta_put(&mut self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        check("value", value, VALUE_BYTES_MAX)?;
        self.conn.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?.execute((key, value))?;
        Ok(())
    }

    /// A plain value, with the changes queued before.
    ///
    /// # Errors
    /// The store's.
    pub fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        blob(self.conn, "SELECT value FROM meta WHERE key = ?1", key)
    }

    /// Notes an incident.
    ///
    /// # Errors
    /// `Conflict` if its id is taken.
    pub fn incident_put(&mut self, incident: &Incident) -> Result<(), StoreError> {
        self.conn.prepare_cached("INSERT INTO incidents VALUES (?1, ?2, ?3, ?4)")?.execute((
            incident.id.to_bytes(),
            &incident.kind,
            incident.at.as_millis(),
            &incident.document,
        ))?;
        Ok(())
    }

    /// Keeps what an asynchronous call gave.
    ///
    /// # Errors
    /// `TooLarge` beyond [`RESULT_BYTES_MAX`], `Conflict` without such a hold.
    pub fn result_put(&mut self, hold: HoldId, result: &[u8]) -> Result<(), StoreError> {
        check("result", result, RESULT_BYTES_MAX)?;
        // Not OR REPLACE: that would hide the missing hold behind another error on some versions.
        self.conn
            .prepare_cached("INSERT INTO results VALUES (?1, ?2) ON CONFLICT (hold) DO UPDATE SET result = excluded.result")?
            .execute((hold.to_bytes(), result))?;
        Ok(())
    }

    /// Forgets what an asynchronous call gave. False: there was nothing.
    ///
    /// # Errors
    /// The store's.
    pub fn result_delete(&mut self, hold: HoldId) -> Result<bool, StoreError> {
        Ok(self.conn.prepare_cached("DELETE FROM results WHERE hold = ?1")?.execute([hold.to_bytes()])? > 0)
    }

    /// Uses an assertion. True only the first time; never true once it has expired, nor when too many of this issuer are remembered.
    ///
    /// # Errors
    /// The store's.
    pub fn jti_use(&mut self, issuer: &str, jti: &str, expires: Timestamp, now: Timestamp) -> Result<bool, StoreError> {
        if expires <= now {
            return Ok(false);
        }
        self.conn.prepare_cached("DELETE FROM jtis WHERE issuer = ?1 AND expires <= ?2")?.execute((issuer, now.as_millis()))?;
        let known: i64 = self.conn.prepare_cached("SELECT count(*) FROM jtis WHERE issuer = ?1")?.query_row([issuer], |r| r.get(0))?;
        if known >= JTIS_MAX {
            tracing::warn!(issuer, known, "too many unexpired assertions: refusing further ones");
            return Ok(false);
        }
        let jti = Digest::bind("bailiwick jti", &[jti.as_bytes()]);
        let mut insert = self.conn.prepare_cached("INSERT OR IGNORE INTO jtis VALUES (?1, ?2, ?3)")?;
        Ok(insert.execute((issuer, jti.as_bytes(), expires.as_millis()))? == 1)
    }
}

impl Store {
    /// Uses an assertion, durably and once. See [`Writing::jti_use`].
    ///
    /// # Errors
    /// The store's: the assertion is not to be accepted then.
    pub async fn jti_use(&self, issuer: &str, jti: &str, expires: Timestamp, now: Timestamp) -> Result<bool, StoreError> {
        let (issuer, jti) = (issuer.to_owned(), jti.to_owned());
        self.write(move |w| w.jti_use(&issuer, &jti, expires, now)).await
    }

    /// Was an assertion used, and not so long ago that it was forgotten?
    ///
    /// # Errors
    /// The store's.
    pub async fn jti_seen(&self, issuer: &str, jti: &str, now: Timestamp) -> Result<bool, StoreError> {
        let (issuer, jti) = (issuer.to_owned(), Digest::bind("bailiwick jti", &[jti.as_bytes()]));
        self.read(move |conn| {
            let mut statement = conn.prepare_cached("SELECT 1 FROM jtis WHERE issuer = ?1 AND jti = ?2 AND expires > ?3")?;
            Ok(statement.exists((issuer, jti.as_bytes(), now.as_millis()))?)
        })
        .await
    }

    /// Puts a sealed secret in place of the one of that name.
    ///
    /// # Errors
    /// `TooLarge` beyond 1 MiB.
    pub async fn secret_put(&self, name: &str, sealed: Vec<u8>) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.write(move |w| w.secret_put(&name, &sealed)).await
    }

    /// A sealed secret.
    ///
    /// # Errors
    /// The store's.
    pub async fn secret(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let name = name.to_owned();
        self.read(move |conn| blob(conn, "SELECT sealed FROM secrets WHERE name = ?1", &name)).await
    }

    /// Removes a sealed secret. False: there was none.
    ///
    /// # Errors
    /// The store's.
    pub async fn secret_delete(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.write(move |w| w.secret_delete(&name)).await
    }

    /// The names of all secrets.
    ///
    /// # Errors
    /// The store's.
    pub async fn secret_names(&self) -> Result<Vec<String>, StoreError> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached("SELECT name FROM secrets ORDER BY name")?;
            Ok(statement.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// All pins, by system and tool.
    ///
    /// # Errors
    /// The store's.
    pub async fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        self.read(pins).await
    }

    /// One pin.
    ///
    /// # Errors
    /// The store's.
    pub async fn pin(&self, system: &SystemName, tool: &str) -> Result<Option<Pin>, StoreError> {
        let (system, tool) = (system.clone(), tool.to_owned());
        self.read(move |conn| pin(conn, system.as_str(), &tool)).await
    }

    /// All agents that were registered at run time.
    ///
    /// # Errors
    /// The store's.
    pub async fn agents(&self) -> Result<Vec<Registered<AgentName>>, StoreError> {
        self.read(|conn| registered(conn, "SELECT * FROM agents ORDER BY name")).await
    }

    /// All people that were registered at run time.
    ///
    /// # Errors
    /// The store's.
    pub async fn people(&self) -> Result<Vec<Registered<PersonName>>, StoreError> {
        self.read(|conn| registered(conn, "SELECT * FROM people ORDER BY name")).await
    }

    /// Incidents, newest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn incidents(&self, most: usize) -> Result<Vec<Incident>, StoreError> {
        self.read(move |conn| {
            let mut statement = conn.prepare_cached("SELECT id, kind, at, document FROM incidents ORDER BY id DESC LIMIT ?1")?;
            let rows = statement.query_map([limit(most)], |r| {
                Ok(Incident { id: IncidentId::from_bytes(r.get(0)?), kind: r.get(1)?, at: r.get::<_, At>(2)?.0, document: r.get(3)? })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Keeps what an asynchronous call gave, durably.
    ///
    /// # Errors
    /// `TooLarge` beyond [`RESULT_BYTES_MAX`], `Conflict` without such a hold.
    pub async fn result_put(&self, hold: HoldId, result: Vec<u8>) -> Result<(), StoreError> {
        let sealed = self.sealed_text(&format!("result/{hold}"), &result)?;
        self.write(move |w| w.result_put(hold, &sealed)).await
    }

    /// What an asynchronous call gave.
    ///
    /// # Errors
    /// The store's.
    pub async fn result(&self, hold: HoldId) -> Result<Option<Vec<u8>>, StoreError> {
        let stored: Option<Vec<u8>> = self
            .read(move |conn| {
                let mut statement = conn.prepare_cached("SELECT result FROM results WHERE hold = ?1")?;
                Ok(statement.query_row([hold.to_bytes()], |r| r.get(0)).optional()?)
            })
            .await?;
        stored.map(|stored| self.opened_text(&format!("result/{hold}"), stored)).transpose()
    }

    /// Puts a plain value in place of the one of that key.
    ///
    /// # Errors
    /// `TooLarge` beyond 1 MiB.
    pub async fn meta_put(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        let key = key.to_owned();
        self.write(move |w| w.meta_put(&key, &value)).await
    }

    /// A plain value.
    ///
    /// # Errors
    /// The store's.
    pub async fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let key = key.to_owned();
        self.read(move |conn| blob(conn, "SELECT value FROM meta WHERE key = ?1", &key)).await
    }
}

const fn check(what: &'static str, bytes: &[u8], max: usize) -> Result<(), StoreError> {
    let len = bytes.len();
    if len > max { Err(StoreError::TooLarge { what, len, max }) } else { Ok(()) }
}

fn blob(conn: &Connection, sql: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(conn.prepare_cached(sql)?.query_row([key], |r| r.get(0)).optional()?)
}

fn put<N: fmt::Display>(conn: &Connection, sql: &str, row: &Registered<N>) -> Result<(), StoreError> {
    conn.prepare_cached(sql)?.execute((row.name.to_string(), &row.document, &row.public_key, row.at.as_millis()))?;
    Ok(())
}

fn registered<N>(conn: &Connection, sql: &str) -> Result<Vec<Registered<N>>, StoreError>
where
    N: std::str::FromStr,
    N::Err: fmt::Display,
{
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get(1)?, r.get(2)?, r.get::<_, At>(3)?.0)))?;
    rows.map(|row| {
        let (name, document, public_key, at) = row?;
        Ok(Registered { name: parsed(&name)?, document, public_key, at })
    })
    .collect()
}

type RawPin = (String, String, Vec<u8>, [u8; 32], String, String, Option<String>, Timestamp);

/// All pins, by system and tool.
pub(crate) fn pins(conn: &Connection) -> Result<Vec<Pin>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT * FROM pins ORDER BY system, tool")?;
    statement.query_map([], raw_pin)?.map(|row| parse_pin(row?)).collect()
}

fn raw_pin(r: &Row<'_>) -> rusqlite::Result<RawPin> {
    Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?, r.get(6)?, r.get::<_, At>(7)?.0))
}

fn parse_pin((system, tool, definition, hash, effect, status, classified_by, at): RawPin) -> Result<Pin, StoreError> {
    Ok(Pin {
        system: parsed(&system)?,
        tool,
        definition,
        digest: digest(hash),
        effect: parsed(&effect)?,
        status: parsed(&status)?,
        classified_by: classified_by.map(|name| parsed(&name)).transpose()?,
        at,
    })
}

fn pin(conn: &Connection, system: &str, tool: &str) -> Result<Option<Pin>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT * FROM pins WHERE system = ?1 AND tool = ?2")?;
    statement.query_row((system, tool), raw_pin).optional()?.map(parse_pin).transpose()
}
