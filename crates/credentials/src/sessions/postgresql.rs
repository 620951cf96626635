//! A session of `PostgreSQL` that the broker holds with a role made for a task: one statement at a time, reads in a transaction that is read-only and
//! rolled back, writes in one that is committed or nothing.
//!
//! The client is written here because the answer of a stranger's database is read frame by frame: no row, however long, is read whole if it is
//! longer than the limit. A stranger's statement goes by the extended protocol only, in which the server takes one statement; the simple
//! protocol is for ours. `SET ROLE` is never done: a session that did it outlives its role.

mod frame;
mod scram;
mod value;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

pub use super::rows::{Column, Limits, Rows};

use super::{SessionError, words_of};
use crate::Secret;
use crate::kinds::connection::{self, OPEN_MAX, Stream};
use crate::lease::{Account, Node, Tag};
use frame::{Broken, Fields, Frame, Frames, Wire};
use scram::{MECHANISM, Scram};

/// The longest statement and the longest parameter, in bytes.
const TEXT_MAX: usize = 1 << 20;
/// How much longer than the server we wait, before we stop it from here.
const GRACE: Duration = Duration::from_secs(2);
/// Frames of a login.
const LOGIN_MAX: usize = 200;
/// Rows that are asked for at once, at most.
const BATCH_MAX: usize = 200;

/// What holds in each session, whatever the role's or the database's settings are.
const OPTIONS: &str = "-c standard_conforming_strings=on -c bytea_output=hex -c DateStyle=ISO -c IntervalStyle=iso_8601 -c TimeZone=UTC \
                       -c extra_float_digits=1 -c xmlbinary=base64 -c idle_in_transaction_session_timeout=60000 -c default_transaction_read_only=off";

/// Where sessions are opened.
#[derive(Debug, Clone)]
pub struct Place {
    /// Every node on which an account can log in; the usual primary first.
    pub nodes: Vec<Node>,
    /// The database.
    pub database: String,
    /// Whether only the node that accepts writes will do. Otherwise a standby is taken if nothing else answers.
    pub writes: bool,
}

/// A session with an account's login. One statement runs at a time; others wait.
pub struct Session {
    node: Node,
    user: String,
    key: Option<CancelKey>,
    /// What the session is called in the server's log, if not as it was at its opening.
    name: std::sync::Mutex<Option<Name>>,
    wire: Mutex<Option<Wire>>,
}

/// What a session is called since it was given to a task.
#[derive(Clone)]
struct Name {
    name: String,
    /// The server was told.
    said: bool,
}

/// What stops a session's statement from another connection (section 55.2.8).
#[derive(Clone, Copy)]
struct CancelKey {
    process: i32,
    secret: i32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Read,
    Write,
}

impl Session {
    /// Logs in with the account. The session's name in the server's log is that of the tag.
    ///
    /// # Errors
    /// [`SessionError::Lost`] if no node takes the login, with the words of the first that refused.
    pub async fn open(place: &Place, account: &Account, tag: &Tag) -> Result<Self, SessionError> {
        let Some(secret) = &account.secret else { return Err(SessionError::lost("the account has no secret to log in with")) };
        let (mut standby, mut trouble, mut refused) = (None, None, true);
        for node in &place.nodes {
            let name = tag.connection_name(63);
            let mut refusal = None;
            let opening = log_in(node, account.login(), secret, &place.database, &name, &mut refusal);
            let opened = tokio::time::timeout(OPEN_MAX, opening).await.unwrap_or_else(|_| Err(Broken("no answer within 8 seconds".to_owned())));
            match opened {
                Ok((wire, key)) => {
                    let is_standby = wire.status.standby;
                    let session = Self {
                        node: node.clone(),
                        user: account.login().to_owned(),
                        key,
                        name: std::sync::Mutex::new(None),
                        wire: Mutex::new(Some(wire)),
                    };
                    if !is_standby {
                        return Ok(session);
                    }
                    standby.get_or_insert(session);
                }
                Err(Broken(words)) => {
                    // Class 28: invalid authorization.
                    refused &= words.starts_with("28");
                    trouble.get_or_insert_with(|| format!("`{}`: {}", node.name(), words_of(&words, Some(secret))));
                }
            }
        }
        match (standby, trouble) {
            (Some(session), _) if !place.writes => Ok(session),
            (standby, Some(words)) => Err(SessionError::no_login(words, refused && standby.is_none())),
            _ => Err(SessionError::lost("no node accepts writes")),
        }
    }

    /// Runs a statement in a read-only transaction, which is rolled back, and takes its first rows.
    ///
    /// # Errors
    /// [`SessionError::Refused`] with the server's SQLSTATE; after [`SessionError::Lost`] the session is of no use. Nothing was written, ever.
    pub async fn read(&self, sql: &str, parameters: &[Value], limits: &Limits) -> Result<Rows, SessionError> {
        self.run(Mode::Read, sql, parameters, limits).await
    }

    /// Runs a statement in a transaction of its own and commits it. Rows beyond the limits are left out; the statement is done all the same.
    ///
    /// # Errors
    /// As [`read`](Self::read); where the connection was lost while the commit was under way, it may have been done.
    pub async fn write(&self, sql: &str, parameters: &[Value], limits: &Limits) -> Result<Rows, SessionError> {
        self.run(Mode::Write, sql, parameters, limits).await
    }

    /// Gives a session that was opened beforehand to a task: whatever it does from now on has the tag's name in the server's log. The server is told
    /// with the next statement, in front of it. False: it cannot be used for that.
    pub async fn assign(&self, tag: &Tag) -> bool {
        let slot = self.wire.lock().await;
        if slot.is_none() {
            return false;
        }
        *self.named() = Some(Name { name: tag.connection_name(63), said: false });
        true
    }

    fn named(&self) -> std::sync::MutexGuard<'_, Option<Name>> {
        self.name.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether the connection is gone, so that the next call needs another session. False while a statement runs. A server that said
    /// something by itself most likely said goodbye: what it was is not looked at.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.wire.try_lock().is_ok_and(|mut slot| {
            if slot.as_mut().is_some_and(|wire| !wire.is_quiet()) {
                *slot = None;
            }
            slot.is_none()
        })
    }

    /// Says goodbye and closes the connection. A statement that runs is not waited for.
    pub async fn close(&self) {
        if let Ok(mut slot) = self.wire.try_lock()
            && let Some(mut wire) = slot.take()
        {
            drop(tokio::time::timeout(Duration::from_secs(1), wire.send(&Frames::default().terminate().0)).await);
        }
    }

    async fn run(&self, mode: Mode, sql: &str, parameters: &[Value], limits: &Limits) -> Result<Rows, SessionError> {
        check(sql)?;
        let Ok(mut slot) = tokio::time::timeout(limits.time, self.wire.lock()).await else {
            return Err(SessionError::NotSent("another statement of this session still runs".to_owned()));
        };
        // While a statement runs, the connection is this future's: dropped with it, it is closed, and the guard stops the server.
        let Some(mut wire) = slot.take() else { return Err(SessionError::lost("the session is closed")) };
        if mode == Mode::Write && wire.status.standby {
            return Err(SessionError::lost("the node accepts no writes: it is a standby"));
        }
        let name = self.named().clone();
        let mut guard = Guard { node: &self.node, key: self.key, armed: true };
        let mut exchange = Exchange { wire: &mut wire, mode, limits, name, told: false, committing: false, usable: true };
        let outcome = tokio::time::timeout(limits.time.saturating_add(GRACE), exchange.run(sql, parameters)).await;
        let (committing, told) = (exchange.committing, exchange.told);
        if told && let Some(name) = self.named().as_mut() {
            name.said = true;
        }
        match outcome {
            Ok(Ok(outcome)) => {
                // What came of it is known, whatever becomes of the session now.
                let usable = tokio::time::timeout(GRACE, exchange.tidy()).await.unwrap_or(false);
                guard.armed = !usable;
                let strange = wire.status.superuser || wire.status.user != self.user;
                if usable && !strange {
                    *slot = Some(wire);
                }
                outcome
            }
            Ok(Err(Broken(words))) => Err(SessionError::Lost { words: words_of(&words, None), may_have_run: committing }),
            Err(_) => Err(SessionError::Lost { words: "the server did not end in time, and was stopped".to_owned(), may_have_run: committing }),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("node", &self.node).field("user", &self.user).finish_non_exhaustive()
    }
}

fn check(sql: &str) -> Result<(), SessionError> {
    if sql.len() > TEXT_MAX || sql.contains('\0') {
        return Err(SessionError::NotSent("expected a statement of at most 1 MiB without a NUL".to_owned()));
    }
    Ok(())
}

/// Stops the server's work on a statement whose future went away.
struct Guard<'a> {
    node: &'a Node,
    key: Option<CancelKey>,
    armed: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let (Some(key), Ok(runtime)) = (self.key.filter(|_| self.armed), tokio::runtime::Handle::try_current()) else { return };
        let node = self.node.clone();
        runtime.spawn(async move {
            let stopping = async {
                let mut stream = reach(&node).await?;
                stream.write_all(&Frames::default().cancel(key.process, key.secret).0).await?;
                stream.flush().await?;
                // The server closes when it has passed the request on.
                stream.read_u8().await?;
                Ok::<_, Broken>(())
            };
            drop(tokio::time::timeout(OPEN_MAX, stopping).await);
        });
    }
}

/// A statement under way.
struct Exchange<'a> {
    wire: &'a mut Wire,
    mode: Mode,
    limits: &'a Limits,
    /// What the session is called, where it must be told, or told again after its state was forgotten.
    name: Option<Name>,
    /// The server was told so.
    told: bool,
    /// The commit was sent: from then on nobody but its answer says that it was not done.
    committing: bool,
    /// The connection can be used again afterwards.
    usable: bool,
}

/// The outer error: the connection is of no use. The inner one: the session goes on.
type Outcome<T> = Result<Result<T, SessionError>, Broken>;

impl Exchange<'_> {
    async fn run(&mut self, sql: &str, parameters: &[Value]) -> Outcome<Rows> {
        let timeout = self.limits.time.as_millis().clamp(1, 3_600_000);
        let access = if self.mode == Mode::Read { "READ ONLY" } else { "READ WRITE" };
        let begin = format!("BEGIN TRANSACTION {access}; SET LOCAL statement_timeout = {timeout}; SET LOCAL lock_timeout = {timeout}");
        let naming = self.name.as_ref().filter(|name| !name.said).map(|name| naming(&name.name));
        // A query of its own: what is set in the transaction's query is undone with the transaction.
        let first = naming.iter().fold(Frames::default(), |frames, naming| frames.ours(naming));
        self.wire.send(&first.ours(&begin).prepare(sql).0).await?;
        // The answers of all are read before anything is made of one.
        let named = if naming.is_some() { self.finish().await? } else { Ok(String::new()) };
        let begun = self.finish().await?;
        let prepared = self.prepared().await?;
        self.told = naming.is_some() && named.is_ok();
        if let Err(refusal) = named.and(begun) {
            self.usable = false;
            return Ok(Err(refusal));
        }
        let done = match prepared {
            // Such as `COMMIT`, which would end what keeps a read from writing.
            Ok((_, None)) if self.mode == Mode::Read => Err(SessionError::NotSent("the statement gives no rows, so it is no read".to_owned())),
            Ok((types, columns)) => self.execute(&types, columns.unwrap_or_default(), parameters).await?,
            Err(refusal) => Err(refusal),
        };
        match (self.mode, done) {
            (Mode::Write, Ok(rows)) => {
                self.committing = true;
                let committed = self.ours("COMMIT").await?;
                Ok(committed.and_then(|tag| match tag.as_str() {
                    "COMMIT" => Ok(rows),
                    _ => Err(SessionError::Refused { code: "25P02".to_owned(), words: "the transaction was rolled back".to_owned() }),
                }))
            }
            // It did not come to a commit: whatever becomes of the rollback, nothing was done. A lock that is the session's outlives it.
            (mode, done) => {
                let back = if mode == Mode::Read { "ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()" } else { "ROLLBACK" };
                self.usable &= matches!(self.ours(back).await, Ok(Ok(_)));
                Ok(done)
            }
        }
    }

    /// What a statement's functions set, made or locked is not there for the next call, whether the statement was done or not: is the session as new?
    /// (What a read set is gone with its transaction.)
    async fn tidy(&mut self) -> bool {
        if self.mode == Mode::Read || !self.usable {
            return self.usable;
        }
        if !matches!(self.ours("DISCARD ALL").await, Ok(Ok(_))) {
            return false;
        }
        match self.name.take() {
            Some(name) => matches!(self.ours(&naming(&name.name)).await, Ok(Ok(_))),
            None => true,
        }
    }

    /// Runs a statement of ours and gives the tag of its last command.
    async fn ours(&mut self, sql: &str) -> Outcome<String> {
        self.wire.send(&Frames::default().ours(sql).0).await?;
        self.finish().await
    }

    /// Reads until the server is ready; gives the last command's tag.
    async fn finish(&mut self) -> Outcome<String> {
        let (mut tag, mut refusal) = (String::new(), None);
        loop {
            match self.wire.next(TEXT_MAX).await? {
                Frame::Body(b'Z', _) => return Ok(refusal.map_or(Ok(tag), Err)),
                Frame::Body(b'C', body) => tag = Fields(&body).text().unwrap_or_default(),
                Frame::Body(b'E', body) => refusal = Some(refused(&body)?),
                Frame::Body(b'1' | b'2' | b'3' | b'n' | b't' | b'T' | b'D' | b'I' | b's', _) | Frame::RowTooLong => {}
                Frame::Body(..) => return Err(Broken("the server sent what was not asked for".to_owned())),
            }
        }
    }

    /// The types of the parameters, and the columns with theirs; none if the statement gives no rows.
    async fn prepared(&mut self) -> Outcome<(Vec<u32>, Option<Vec<(Column, u32)>>)> {
        let (mut types, mut columns, mut refusal) = (Vec::new(), None, None);
        let malformed = || Broken("the server's description of the statement is cut off".to_owned());
        loop {
            match self.wire.next(TEXT_MAX).await? {
                Frame::Body(b'Z', _) => return Ok(refusal.map_or(Ok((types, columns)), Err)),
                Frame::Body(b'E', body) => refusal = Some(refused(&body)?),
                Frame::Body(b't', body) => types = parameter_types(&body).ok_or_else(malformed)?,
                Frame::Body(b'T', body) => columns = Some(described(&body).ok_or_else(malformed)?),
                Frame::Body(b'1' | b'n', _) => {}
                _ => return Err(Broken("the server sent what was not asked for".to_owned())),
            }
        }
    }

    async fn execute(&mut self, types: &[u32], columns: Vec<(Column, u32)>, parameters: &[Value]) -> Outcome<Rows> {
        if types.len() != parameters.len() {
            return Ok(Err(SessionError::NotSent(format!("the statement takes {} parameters, and {} were given", types.len(), parameters.len()))));
        }
        let mut values = Vec::with_capacity(types.len());
        for (oid, parameter) in types.iter().zip(parameters) {
            match value::parameter(*oid, parameter) {
                Ok(text) if text.as_ref().is_none_or(|text| text.len() <= TEXT_MAX) => values.push(text),
                Ok(_) => return Ok(Err(SessionError::NotSent("a parameter is longer than 1 MiB".to_owned()))),
                Err(words) => return Ok(Err(SessionError::NotSent(words))),
            }
        }
        let (names, oids): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let mut answer = Rows { columns: names, ..Rows::default() };
        let mut left = self.limits.bytes;
        let mut batch = 10.min(self.limits.rows.saturating_add(1));
        let mut frames = Frames::default().bind(&values);
        // The server's count is that of the last batch.
        let mut before = 0;
        loop {
            self.wire.send(&frames.execute(i32::try_from(batch).unwrap_or(1)).0).await?;
            match self.batch(&oids, &mut answer, &mut left).await? {
                Err(refusal) => return Ok(Err(refusal)),
                Ok(Batch::Complete(tag)) => {
                    answer.affected = affected(&tag).map(|last| last.saturating_add(before));
                    return Ok(Ok(answer));
                }
                // A read ends where nothing more fits. What writes runs to its end.
                Ok(Batch::Suspended) if answer.truncated && self.mode == Mode::Read => return Ok(Ok(answer)),
                Ok(Batch::Suspended) => before = before.saturating_add(u64::try_from(batch).unwrap_or(u64::MAX)),
            }
            // Rows as wide as those so far should fit in what is left.
            let width = self.limits.bytes.saturating_sub(left).checked_div(answer.rows.len()).unwrap_or(1).max(1);
            let wanted = self.limits.rows.saturating_sub(answer.rows.len()).saturating_add(1);
            batch = if answer.truncated { BATCH_MAX } else { wanted.min(left.checked_div(width).unwrap_or(1).saturating_add(1)).clamp(1, BATCH_MAX) };
            frames = Frames::default();
        }
    }

    /// Takes the rows of one `Execute`.
    async fn batch(&mut self, oids: &[u32], answer: &mut Rows, left: &mut usize) -> Outcome<Batch> {
        let (mut end, mut refusal) = (None, None);
        loop {
            // The frame has four bytes for each value beside it.
            let row_max = if answer.truncated { 0 } else { left.saturating_add(oids.len().saturating_mul(4)).saturating_add(2) };
            match self.wire.next(row_max).await? {
                Frame::RowTooLong => answer.truncated = true,
                Frame::Body(b'D', _) if answer.truncated => {}
                Frame::Body(b'D', body) => {
                    let row = row(oids, &body).ok_or_else(|| Broken("a row is cut off".to_owned()))?;
                    if answer.rows.len() >= self.limits.rows {
                        answer.truncated = true;
                    } else {
                        *left = left.saturating_sub(body.len());
                        answer.rows.push(row);
                    }
                }
                Frame::Body(b'C', body) => end = Some(Batch::Complete(Fields(&body).text().unwrap_or_default())),
                Frame::Body(b's', _) => end = Some(Batch::Suspended),
                Frame::Body(b'I', _) => end = Some(Batch::Complete(String::new())),
                Frame::Body(b'E', body) => refusal = Some(refused(&body)?),
                Frame::Body(b'Z', _) => {
                    return match (refusal, end) {
                        (Some(refusal), _) => Ok(Err(refusal)),
                        (None, Some(end)) => Ok(Ok(end)),
                        (None, None) => Err(Broken("the server ended without an end".to_owned())),
                    };
                }
                Frame::Body(b'2', _) => {}
                Frame::Body(..) => return Err(Broken("the server sent what was not asked for".to_owned())),
            }
        }
    }
}

enum Batch {
    Complete(String),
    Suspended,
}

/// The name has neither control characters nor letters beyond ASCII, and a backslash is one in each session of ours.
fn naming(name: &str) -> String {
    format!("SET application_name = '{}'", name.replace('\'', "''"))
}

/// `INSERT 0 5`, `UPDATE 5`.
fn affected(tag: &str) -> Option<u64> {
    let (command, count) = tag.rsplit_once(' ')?;
    if command == "SELECT" || command == "FETCH" { None } else { count.parse().ok() }
}

fn parameter_types(body: &[u8]) -> Option<Vec<u32>> {
    let mut fields = Fields(body);
    (0..fields.short()?).map(|_| fields.long().map(i32::cast_unsigned)).collect()
}

fn described(body: &[u8]) -> Option<Vec<(Column, u32)>> {
    let mut fields = Fields(body);
    (0..fields.short()?)
        .map(|_| {
            let name = fields.text()?;
            fields.bytes(6)?;
            let oid = fields.long()?.cast_unsigned();
            fields.bytes(8)?;
            Some((Column { name, kind: value::name(oid) }, oid))
        })
        .collect()
}

fn row(oids: &[u32], body: &[u8]) -> Option<Vec<Value>> {
    let mut fields = Fields(body);
    if usize::try_from(fields.short()?).ok()? != oids.len() {
        return None;
    }
    oids.iter()
        .map(|oid| match fields.long()? {
            -1 => Some(Value::Null),
            length => Some(value::value(*oid, fields.bytes(usize::try_from(length).ok()?)?)),
        })
        .collect()
}

/// What the server refused with. If it ends the session with that, the session is of no use.
fn refused(body: &[u8]) -> Result<SessionError, Broken> {
    let mut fields = Fields(body);
    let (mut severity, mut code, mut words) = (String::new(), String::new(), String::new());
    while let Some(field) = fields.byte().filter(|field| *field != 0) {
        let text = fields.text().unwrap_or_default();
        match field {
            b'V' => severity = text,
            b'C' => code = text.chars().filter(char::is_ascii_alphanumeric).take(5).collect(),
            b'M' => words.insert_str(0, &text),
            b'D' => words.push_str(&format!("; {text}")),
            b'H' => words.push_str(&format!("; hint: {text}")),
            b'P' => words.push_str(&format!("; at character {text}")),
            _ => {}
        }
    }
    if severity == "FATAL" || severity == "PANIC" {
        return Err(Broken(format!("{code}: {words}")));
    }
    Ok(SessionError::Refused { code, words: words_of(&words, None) })
}

/// A connection to the node, under TLS where the node has it; nothing secret went over it yet.
async fn reach(node: &Node) -> Result<Box<dyn Stream>, Broken> {
    let lost = |failure: connection::Failure| Broken(failure.words().to_owned());
    if node.host().starts_with('/') {
        return Ok(Box::new(UnixStream::connect(format!("{}/.s.PGSQL.{}", node.host(), node.port())).await?));
    }
    let mut stream = connection::open_plain(node).await.map_err(lost)?;
    if node.tls().is_some() {
        stream.write_all(&Frames::default().ssl_request().0).await?;
        stream.flush().await?;
        // One byte and no more: what follows belongs to TLS.
        if stream.read_u8().await? != b'S' {
            return Err(Broken("the server has no TLS".to_owned()));
        }
    }
    connection::secure(stream, node).await.map_err(lost)
}

/// Logs in by SCRAM, in which the server proves that it knows the verifier; no other way is taken.
/// What came of a login that was only tried.
pub(crate) enum Tried {
    /// It was let in; the connection is closed.
    In,
    /// The server refused it.
    Refused {
        code: String,
        message: String,
        /// The function of the server that did.
        routine: Option<String>,
    },
    /// Neither: no way there, or a server that asks for the password in another form than leases' roles have.
    Neither,
}

/// Tries a login, as a lease's session makes it.
pub(crate) async fn try_login(node: &Node, user: &str, secret: &Secret, database: &str) -> Tried {
    let mut refusal = None;
    let trying = log_in(node, user, secret, database, "bailiwick verify", &mut refusal);
    let tried = tokio::time::timeout(OPEN_MAX, trying).await.unwrap_or_else(|_| Err(Broken("no answer within 8 seconds".to_owned())));
    match (tried, refusal) {
        (Ok(_), _) => Tried::In,
        (Err(_), Some(body)) => {
            let mut fields = Fields(&body);
            let (mut code, mut message, mut routine) = (String::new(), String::new(), None);
            while let Some(field) = fields.byte().filter(|field| *field != 0) {
                let text = fields.text().unwrap_or_default();
                match field {
                    b'C' => code = text.chars().filter(char::is_ascii_alphanumeric).take(5).collect(),
                    b'M' => message = text,
                    b'R' => routine = Some(text),
                    _ => {}
                }
            }
            Tried::Refused { code, message, routine }
        }
        (Err(_), None) => Tried::Neither,
    }
}

async fn log_in(
    node: &Node,
    user: &str,
    secret: &Secret,
    database: &str,
    name: &str,
    refusal: &mut Option<Bytes>,
) -> Result<(Wire, Option<CancelKey>), Broken> {
    let mut wire = Wire::new(reach(node).await?);
    let settings = [("user", user), ("database", database), ("application_name", name), ("client_encoding", "UTF8"), ("options", OPTIONS)];
    wire.send(&Frames::default().startup(&settings).0).await?;
    let (mut scram, mut proof, mut proved, mut key) = (None, None, false, None);
    for _ in 0..LOGIN_MAX {
        let Frame::Body(kind, body) = wire.next(0).await? else { return Err(Broken("rows came before the login".to_owned())) };
        let mut fields = Fields(&body);
        match (kind, if kind == b'R' { fields.long() } else { None }) {
            (b'R', Some(10)) => {
                if !std::iter::from_fn(|| fields.text().filter(|text| !text.is_empty())).any(|mechanism| mechanism == MECHANISM) {
                    return Err(Broken("the server does not offer SCRAM-SHA-256".to_owned()));
                }
                let begun = Scram::new().ok_or_else(|| Broken("no randomness is available".to_owned()))?;
                wire.send(&Frames::default().sasl_first(MECHANISM, begun.first().as_bytes()).0).await?;
                scram = Some(begun);
            }
            (b'R', Some(11)) => {
                let answered = scram.take().and_then(|scram: Scram| scram.answer(secret.expose(), fields.0));
                let (last, expected) = answered.ok_or_else(|| Broken("the server's part of SCRAM is wrong".to_owned()))?;
                wire.send(&Frames::default().sasl(last.as_bytes()).0).await?;
                proof = Some(expected);
            }
            (b'R', Some(12)) => proved = proof.take().is_some_and(|proof| proof.holds(fields.0)),
            (b'R', Some(0)) if proved => {}
            (b'R', Some(0)) => return Err(Broken("the server let us in without a proof that it knows the role".to_owned())),
            (b'R', _) => return Err(Broken("the server asks for the password in a form that would show it".to_owned())),
            (b'K', _) => key = fields.long().zip(fields.long()).map(|(process, secret)| CancelKey { process, secret }),
            (b'E', _) => {
                *refusal = Some(body.clone());
                return Err(Broken(refused(&body).map_or_else(|Broken(words)| words, |refusal| refusal.to_string())));
            }
            (b'Z', _) if proved && !wire.status.superuser && wire.status.user == user => return Ok((wire, key)),
            (b'Z', _) => return Err(Broken("the session is not the role's".to_owned())),
            _ => {}
        }
    }
    Err(Broken("the login has no end".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_its_code_and_words() {
        let body = b"SERROR\0VERROR\0C23505\0Mduplicate key\0DKey (id)=(1) already exists.\0P8\0\0";
        let SessionError::Refused { code, words } = refused(body).unwrap() else { panic!() };
        assert_eq!((code.as_str(), words.as_str()), ("23505", "duplicate key; Key (id)=(1) already exists.; at character 8"));
        assert_eq!(refused(b"SFATAL\0VFATAL\0C57P01\0Mterminating\0\0").unwrap_err().0, "57P01: terminating");
    }

    #[test]
    fn what_is_cut_off_is_no_row() {
        assert_eq!(row(&[23, 25], b"\0\x02\0\0\0\x015\xff\xff\xff\xff").unwrap(), [Value::from(5), Value::Null]);
        for cut in [&b""[..], b"\0", b"\0\x02\0\0\0\x015", b"\0\x01\0\0\0\x015", b"\0\x02\0\0\0\x055\0\0\0\0", b"\xff\xff"] {
            assert_eq!(row(&[23, 25], cut), None);
        }
        assert!(described(b"\0\x01a\0\0\0").is_none() && parameter_types(b"\0\x01").is_none());
    }

    #[test]
    fn only_what_changes_rows_has_a_count() {
        assert_eq!((affected("INSERT 0 5"), affected("UPDATE 3"), affected("SELECT 7"), affected("CREATE TABLE")), (Some(5), Some(3), None, None));
    }
}
