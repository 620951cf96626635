//! A session of `MariaDB` that the broker holds with an account made for a task: one prepared statement at a time, reads in a read-only transaction
//! that is rolled back, writes in one that is committed.
//!
//! A stranger's statement is prepared, never sent as text: a prepared statement is one statement, whatever the session allows, and its values do
//! not touch its text. No file of ours is ever sent, because no handler for one is there. What is larger than the limits is not read: the
//! connection is given up instead, and the server is told to end it.

use std::fmt;
use std::time::Duration;

use mysql_async::consts::ColumnType;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Column as MysqlColumn, Conn, DriverError, Error, IoError, Opts, OptsBuilder, Params, SslOpts, Value as Sent};
use serde_json::Value;
use tokio::sync::Mutex;

pub use super::rows::{Column, Limits, Rows};

use super::rows::{bytes, integer, marked_bytes};
use super::{SessionError, words_of};
use crate::Secret;
use crate::lease::{Account, Node, Tag};

const OPEN_MAX: Duration = Duration::from_secs(8);
/// How much longer than the server we wait, before we stop it from here.
const GRACE: Duration = Duration::from_secs(2);
/// The longest statement and the longest parameter, in bytes.
const TEXT_MAX: usize = 1 << 20;
/// The character set of values that are bytes.
const BINARY: u16 = 63;
/// After these words of the server the session is of no use: shutdown, killed.
const ENDED: [u16; 3] = [1053, 1927, 4031];
/// The node is a replica, or became one: it takes no writes.
const READ_ONLY: u16 = 1290;
/// How the driver tells error 1045.
const ACCESS_DENIED: &str = "(1045)";

/// What holds in each session. With `IGNORE_SPACE` a name before a parenthesis is a function, whatever stands between them; without `ANSI_QUOTES` and
/// `NO_BACKSLASH_ESCAPES`, statements that have neither `"` nor `\` are read as they are everywhere.
const SETTINGS: &str = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,NO_AUTO_CREATE_USER,IGNORE_SPACE', \
                        time_zone = '+00:00', autocommit = 1, group_concat_max_len = 1048576, character_set_client = utf8mb4, \
                        character_set_connection = utf8mb4, character_set_results = utf8mb4";

/// Where sessions are opened.
#[derive(Debug, Clone)]
pub struct Place {
    /// Every node on which an account can log in; the usual primary first.
    pub nodes: Vec<Node>,
    /// The database that a session is in.
    pub database: String,
    /// Whether only the node that accepts writes will do. Otherwise a replica is taken if nothing else answers.
    pub writes: bool,
    /// No packet of the server is read that is longer than this; at least as long as the answers that are asked for.
    pub packet_bytes: usize,
}

/// A session with an account's login. One statement runs at a time; others wait.
pub struct Session {
    node: String,
    user: String,
    options: Opts,
    connection: Mutex<Option<Conn>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Read,
    Write,
}

impl Session {
    /// Logs in with the account. The connection's attribute `program_name` is the tag's name; the account's name is in the server's log.
    ///
    /// # Errors
    /// [`SessionError::Lost`] if no node takes the login, with the words of the first that refused.
    pub async fn open(place: &Place, account: &Account, tag: &Tag) -> Result<Self, SessionError> {
        let Some(secret) = &account.secret else { return Err(SessionError::lost("the account has no secret to log in with")) };
        let (mut replica, mut trouble, mut refused) = (None, None, true);
        for node in &place.nodes {
            let opened = match options(node, account.login(), secret, place, tag) {
                Ok(options) => log_in(&options).await.map(|(connection, read_only)| (connection, read_only, options)),
                Err(words) => Err(words),
            };
            match opened {
                Ok((connection, read_only, options)) => {
                    let session =
                        Self { node: node.name().to_owned(), user: account.login().to_owned(), options, connection: Mutex::new(Some(connection)) };
                    if !read_only {
                        return Ok(session);
                    }
                    replica.get_or_insert(session);
                }
                Err(words) => {
                    refused &= words.contains(ACCESS_DENIED);
                    trouble.get_or_insert_with(|| format!("`{}`: {}", node.name(), words_of(&words, Some(secret))));
                }
            }
        }
        match (replica, trouble) {
            (Some(session), _) if !place.writes => Ok(session),
            (replica, Some(words)) => Err(SessionError::no_login(words, refused && replica.is_none())),
            _ => Err(SessionError::lost("no node accepts writes")),
        }
    }

    /// Runs a statement in a read-only transaction, which is rolled back, and takes its first rows.
    ///
    /// # Errors
    /// [`SessionError::Refused`] with the server's number; after [`SessionError::Lost`] the session is of no use. No table was written.
    pub async fn read(&self, sql: &str, parameters: &[Value], limits: &Limits) -> Result<Rows, SessionError> {
        self.run(Mode::Read, sql, parameters, limits).await
    }

    /// Runs a statement in a transaction of its own and commits it. What changes a definition, and tables of engines without transactions, are
    /// committed by the server as they go.
    ///
    /// # Errors
    /// As [`read`](Self::read); where the connection was lost after the statement was sent, it may have been done.
    pub async fn write(&self, sql: &str, parameters: &[Value], limits: &Limits) -> Result<Rows, SessionError> {
        self.run(Mode::Write, sql, parameters, limits).await
    }

    /// Whether the connection is gone, so that the next call needs another session. False while a statement runs.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.connection.try_lock().is_ok_and(|slot| slot.is_none())
    }

    /// Says goodbye and closes the connection. A statement that runs is not waited for.
    pub async fn close(&self) {
        if let Ok(mut slot) = self.connection.try_lock()
            && let Some(connection) = slot.take()
        {
            drop(tokio::time::timeout(Duration::from_secs(1), connection.disconnect()).await);
        }
    }

    async fn run(&self, mode: Mode, sql: &str, parameters: &[Value], limits: &Limits) -> Result<Rows, SessionError> {
        if sql.len() > TEXT_MAX || sql.contains('\0') {
            return Err(SessionError::NotSent("expected a statement of at most 1 MiB without a NUL".to_owned()));
        }
        let parameters = parameters.iter().map(parameter).collect::<Result<Vec<_>, _>>().map_err(SessionError::NotSent)?;
        let Ok(mut slot) = tokio::time::timeout(limits.time, self.connection.lock()).await else {
            return Err(SessionError::NotSent("another statement of this session still runs".to_owned()));
        };
        // While a statement runs, the connection is this future's: dropped with it, it is closed, and the guard ends it at the server.
        let Some(mut connection) = slot.take() else { return Err(SessionError::lost("the session is closed")) };
        let mut guard = Guard { options: &self.options, id: connection.id(), armed: true };
        let mut exchange = Exchange { connection: &mut connection, mode, limits, sent: false, usable: true };
        let outcome = tokio::time::timeout(limits.time.saturating_add(GRACE), exchange.run(sql, parameters)).await;
        let sent = exchange.sent && mode == Mode::Write;
        match outcome {
            Ok(Ok(outcome)) => {
                // What came of it is known, whatever becomes of the session now.
                if tokio::time::timeout(GRACE, exchange.tidy()).await.unwrap_or(false) {
                    guard.armed = false;
                    *slot = Some(connection);
                }
                outcome
            }
            Ok(Err(words)) => Err(SessionError::Lost { words: words_of(&words, None), may_have_run: sent }),
            Err(_) => Err(SessionError::Lost { words: "the server did not end in time, and was stopped".to_owned(), may_have_run: sent }),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("node", &self.node).field("user", &self.user).finish_non_exhaustive()
    }
}

/// Ends the connection at the server when the future of a statement went away, or left an answer unread.
struct Guard<'a> {
    options: &'a Opts,
    id: u32,
    armed: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.armed {
            return;
        }
        let (options, id) = (self.options.clone(), self.id);
        runtime.spawn(async move {
            let ending = async {
                let mut connection = Conn::new(options).await?;
                connection.query_drop(format!("KILL HARD CONNECTION {id}")).await?;
                connection.disconnect().await
            };
            drop(tokio::time::timeout(OPEN_MAX, ending).await);
        });
    }
}

/// A statement under way.
struct Exchange<'a> {
    connection: &'a mut Conn,
    mode: Mode,
    limits: &'a Limits,
    /// The statement was sent: from then on only the server's answer says that it was not done.
    sent: bool,
    /// The connection can be used again afterwards.
    usable: bool,
}

/// The outer error: the connection is of no use. The inner one: the session goes on.
type Outcome<T> = Result<Result<T, SessionError>, String>;

/// What the server refused, or why the connection is of no use.
fn told<T>(error: Error) -> Outcome<T> {
    match error {
        Error::Server(refusal) if ENDED.contains(&refusal.code) => Err(format!("{}: {}", refusal.code, refusal.message)),
        Error::Server(refusal) => Ok(Err(SessionError::Refused { code: refusal.code.to_string(), words: words_of(&refusal.message, None) })),
        other => Err(other.to_string()),
    }
}

impl Exchange<'_> {
    async fn run(&mut self, sql: &str, parameters: Vec<Sent>) -> Outcome<Rows> {
        let access = if self.mode == Mode::Read { "READ ONLY" } else { "READ WRITE" };
        let time = self.limits.time.as_secs_f64().clamp(0.001, 3600.0);
        // A read without a limit of its own gets one, so that no giant answer is begun.
        let rows = if self.mode == Mode::Read { self.limits.rows.saturating_add(1).to_string() } else { "DEFAULT".to_owned() };
        // The session's own default too: a statement that ends the transaction by itself is still refused to write.
        let read_only = u8::from(self.mode == Mode::Read);
        let wait = self.limits.time.as_secs().clamp(1, 3600);
        let begin = format!(
            "SET SESSION max_statement_time = {time:.3}, sql_select_limit = {rows}, lock_wait_timeout = {wait}, innodb_lock_wait_timeout = {wait}, \
             tx_read_only = {read_only}; START TRANSACTION {access}"
        );
        self.ours(&begin).await?;
        let done = self.statement(sql, parameters).await?;
        if !self.usable {
            return Ok(done);
        }
        match (self.mode, done) {
            (Mode::Write, Ok(rows)) => {
                let committed = match self.connection.query_drop("COMMIT").await {
                    Ok(()) => Ok(rows),
                    Err(error) => match told(error)? {
                        Ok(never) => never,
                        Err(refusal) => Err(refusal),
                    },
                };
                Ok(committed)
            }
            // What was refused or read is known too; if the rollback fails, the connection's end does it.
            (_, done) => {
                self.usable = self.ours("ROLLBACK").await.is_ok();
                Ok(done)
            }
        }
    }

    /// What the statement's functions set, locked or made is not there for the next call, whether the statement was done or not: is the session as new?
    async fn tidy(&mut self) -> bool {
        self.usable && matches!(self.connection.reset().await, Ok(true)) && self.connection.query_drop(SETTINGS).await.is_ok()
    }

    /// Statements of our own. If the server refuses one, the connection is of no use.
    async fn ours(&mut self, sql: &str) -> Result<(), String> {
        self.connection.query_drop(sql).await.map_err(|error| match error {
            Error::Server(refusal) => format!("{}: {}", refusal.code, refusal.message),
            other => other.to_string(),
        })
    }

    async fn statement(&mut self, sql: &str, parameters: Vec<Sent>) -> Outcome<Rows> {
        let statement = match self.connection.prep(sql).await {
            Ok(statement) => statement,
            Err(error) => return told(error),
        };
        if usize::from(statement.num_params()) != parameters.len() {
            let words = format!("the statement takes {} parameters, and {} were given", statement.num_params(), parameters.len());
            drop(self.connection.close(statement).await);
            return Ok(Err(SessionError::NotSent(words)));
        }
        // `DROP TABLE` runs in a read-only transaction: it ends it first. What gives no rows is no read.
        // (Of some forms of `SHOW` the server tells the columns only when they run.)
        let shows = sql.trim_start().get(..5).is_some_and(|word| word.eq_ignore_ascii_case("show "));
        if self.mode == Mode::Read && statement.columns().is_empty() && !shows {
            drop(self.connection.close(statement).await);
            return Ok(Err(SessionError::NotSent("the statement gives no rows, so it is no read".to_owned())));
        }
        let parameters = if parameters.is_empty() { Params::Empty } else { Params::Positional(parameters) };
        self.sent = true;
        let answer = self.answer(&statement, parameters).await;
        if let (Mode::Write, Ok(Err(SessionError::Refused { code, words }))) = (self.mode, &answer)
            && *code == READ_ONLY.to_string()
        {
            // The next session finds the node that takes writes. A procedure may have done some of its work before it came to what it may not do.
            self.sent = !is_one_change(sql);
            return Err(words.clone());
        }
        if self.usable && self.connection.close(statement).await.is_err() {
            self.usable = false;
        }
        answer
    }

    async fn answer(&mut self, statement: &mysql_async::Statement, parameters: Params) -> Outcome<Rows> {
        let mut result = match self.connection.exec_iter(statement, parameters).await {
            Ok(result) => result,
            Err(error) => return told(error),
        };
        let columns = result.columns().unwrap_or_default();
        let mut answer = Rows { columns: columns.iter().map(column).collect(), ..Rows::default() };
        let mut left = self.limits.bytes;
        loop {
            match result.next().await {
                Ok(None) => break,
                Ok(Some(_)) if answer.truncated => {}
                Ok(Some(row)) => {
                    let values = row.unwrap_raw().into_iter().zip(columns.iter());
                    let values: Vec<_> = values.map(|(sent, column)| value(column, &sent.unwrap_or(Sent::NULL))).collect();
                    let size: usize = values.iter().map(size_of_value).sum();
                    if answer.rows.len() >= self.limits.rows || size > left {
                        answer.truncated = true;
                    } else {
                        left = left.saturating_sub(size);
                        answer.rows.push(values);
                    }
                }
                // A row larger than a packet may be. It is not read, and neither is what follows.
                Err(error) if self.mode == Mode::Read && is_too_large(&error) => {
                    answer.truncated = true;
                    self.usable = false;
                    return Ok(Ok(answer));
                }
                Err(error) => return told(error),
            }
            // A read ends where nothing more fits: the rest is not read, and the connection is given up for that.
            if answer.truncated && self.mode == Mode::Read && result_goes_on(&mut result).await {
                drop(result);
                self.usable = false;
                return Ok(Ok(answer));
            }
        }
        answer.affected = if columns.is_empty() { Some(result.affected_rows()) } else { None };
        if result.drop_result().await.is_err() {
            self.usable = false;
        }
        Ok(Ok(answer))
    }
}

/// Is it a change of one table, which is done whole or not at all?
fn is_one_change(sql: &str) -> bool {
    let first: String = sql.trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
    ["insert", "update", "delete", "replace"].contains(&first.to_ascii_lowercase().as_str())
}

/// Is it a row that is larger than a packet may be? (The driver has two forms of that.)
fn is_too_large(error: &Error) -> bool {
    match error {
        Error::Driver(DriverError::PacketTooLarge) => true,
        // The type of the codec's own error is not ours to name.
        Error::Io(IoError::Io(error)) => error.get_ref().is_some_and(|inner| inner.to_string() == "Packet is larger than max_allowed_packet"),
        _ => false,
    }
}

/// Is there more than one row left to read? (With the limit that a read gets, there seldom is.)
async fn result_goes_on<P: mysql_async::prelude::Protocol>(result: &mut mysql_async::QueryResult<'_, '_, P>) -> bool {
    !matches!(result.next().await, Ok(None))
}

/// A parameter. An object or an array becomes JSON, and `{"base64": ".."}` bytes.
fn parameter(value: &Value) -> Result<Sent, String> {
    let sent = match value {
        Value::Null => Sent::NULL,
        Value::Bool(flag) => Sent::Int(i64::from(*flag)),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), ..) => Sent::Int(number),
            (_, Some(number), _) => Sent::UInt(number),
            (.., Some(number)) => Sent::Double(number),
            _ => return Err("a number has no form at the server".to_owned()),
        },
        Value::String(text) => Sent::Bytes(text.clone().into_bytes()),
        Value::Array(_) | Value::Object(_) => Sent::Bytes(marked_bytes(value).unwrap_or_else(|| value.to_string().into_bytes())),
    };
    match &sent {
        Sent::Bytes(bytes) if bytes.len() > TEXT_MAX => Err("a parameter is longer than 1 MiB".to_owned()),
        _ => Ok(sent),
    }
}

fn column(column: &MysqlColumn) -> Column {
    let binary = column.character_set() == BINARY;
    let kind = match column.column_type() {
        ColumnType::MYSQL_TYPE_TINY => "tinyint",
        ColumnType::MYSQL_TYPE_SHORT => "smallint",
        ColumnType::MYSQL_TYPE_INT24 => "mediumint",
        ColumnType::MYSQL_TYPE_LONG => "int",
        ColumnType::MYSQL_TYPE_LONGLONG => "bigint",
        ColumnType::MYSQL_TYPE_FLOAT => "float",
        ColumnType::MYSQL_TYPE_DOUBLE => "double",
        ColumnType::MYSQL_TYPE_DECIMAL | ColumnType::MYSQL_TYPE_NEWDECIMAL => "decimal",
        ColumnType::MYSQL_TYPE_DATE | ColumnType::MYSQL_TYPE_NEWDATE => "date",
        ColumnType::MYSQL_TYPE_TIME | ColumnType::MYSQL_TYPE_TIME2 => "time",
        ColumnType::MYSQL_TYPE_DATETIME | ColumnType::MYSQL_TYPE_DATETIME2 => "datetime",
        ColumnType::MYSQL_TYPE_TIMESTAMP | ColumnType::MYSQL_TYPE_TIMESTAMP2 => "timestamp",
        ColumnType::MYSQL_TYPE_YEAR => "year",
        ColumnType::MYSQL_TYPE_BIT => "bit",
        ColumnType::MYSQL_TYPE_NULL => "null",
        ColumnType::MYSQL_TYPE_GEOMETRY => "geometry",
        ColumnType::MYSQL_TYPE_ENUM => "enum",
        ColumnType::MYSQL_TYPE_SET => "set",
        _ if binary => "binary",
        _ => "text",
    };
    Column { name: column.name_str().into_owned(), kind: kind.to_owned() }
}

fn value(column: &MysqlColumn, sent: &Sent) -> Value {
    match sent {
        Sent::NULL => Value::Null,
        Sent::Int(number) => integer(*number),
        Sent::UInt(number) => i64::try_from(*number).map_or_else(|_| Value::from(number.to_string()), integer),
        // The shortest text that is this number, not the digits of its nearest double.
        Sent::Float(number) => number.to_string().parse::<f64>().map_or(Value::Null, Value::from),
        Sent::Double(number) => Value::from(*number),
        Sent::Date(year, month, day, hour, minute, second, micros) => {
            let date = format!("{year:04}-{month:02}-{day:02}");
            let is_date = matches!(column.column_type(), ColumnType::MYSQL_TYPE_DATE | ColumnType::MYSQL_TYPE_NEWDATE);
            Value::from(if is_date { date } else { format!("{date}T{hour:02}:{minute:02}:{second:02}{}", fraction(*micros)) })
        }
        Sent::Time(negative, days, hours, minutes, seconds, micros) => {
            let hours = u64::from(*days).saturating_mul(24).saturating_add(u64::from(*hours));
            let sign = if *negative { "-" } else { "" };
            Value::from(format!("{sign}{hours:02}:{minutes:02}:{seconds:02}{}", fraction(*micros)))
        }
        Sent::Bytes(found) => match str::from_utf8(found) {
            Ok(text) if is_text(column) => Value::from(text),
            _ => bytes(found),
        },
    }
}

/// Numbers that come as digits, and values with a character set.
fn is_text(column: &MysqlColumn) -> bool {
    let digits = matches!(column.column_type(), ColumnType::MYSQL_TYPE_DECIMAL | ColumnType::MYSQL_TYPE_NEWDECIMAL);
    digits || (column.character_set() != BINARY && !matches!(column.column_type(), ColumnType::MYSQL_TYPE_BIT | ColumnType::MYSQL_TYPE_GEOMETRY))
}

fn fraction(micros: u32) -> String {
    if micros == 0 { String::new() } else { format!(".{micros:06}") }
}

fn size_of_value(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len().saturating_add(4),
        Value::Object(members) => members.values().map(size_of_value).sum::<usize>().saturating_add(12),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => 8,
    }
}

fn options(node: &Node, user: &str, secret: &Secret, place: &Place, tag: &Tag) -> Result<Opts, String> {
    let password = str::from_utf8(secret.expose()).map_err(|_| "the password is no UTF-8".to_owned())?.to_owned();
    let mut options = OptsBuilder::default()
        .user(Some(user))
        .pass(Some(password))
        .db_name(Some(place.database.as_str()))
        .stmt_cache_size(0)
        .prefer_socket(false)
        .max_allowed_packet(Some(place.packet_bytes.max(4 * TEXT_MAX)))
        .wait_timeout(Some(3600))
        .tcp_keepalive(Some(Duration::from_secs(15)))
        .connect_attribute("program_name", tag.connection_name(200));
    options =
        if node.host().starts_with('/') { options.socket(Some(node.host())) } else { options.ip_or_hostname(node.host()).tcp_port(node.port()) };
    if let Some(trust) = node.tls() {
        let roots = SslOpts::default().with_root_certs(vec![trust.pem().to_vec().into()]).with_disable_built_in_roots(true);
        options = options.ssl_opts(Some(roots));
    }
    Ok(options.into())
}

/// A session, and whether its node is a replica that takes no writes.
async fn log_in(options: &Opts) -> Result<(Conn, bool), String> {
    let opening = async {
        let mut connection = Conn::new(options.clone()).await.map_err(|error| error.to_string())?;
        connection.query_drop(SETTINGS).await.map_err(|error| error.to_string())?;
        let read_only: Option<mysql_async::Row> = connection.query_first("SELECT @@global.read_only").await.map_err(|error| error.to_string())?;
        let read_only = match read_only.as_ref().and_then(|row| row.as_ref(0)) {
            Some(Sent::Int(0) | Sent::UInt(0)) => false,
            Some(Sent::Bytes(text)) => text.as_slice() != b"0",
            _ => true,
        };
        Ok((connection, read_only))
    };
    tokio::time::timeout(OPEN_MAX, opening).await.unwrap_or_else(|_| Err("no answer within 8 seconds".to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_change_of_one_table_is_not_done_when_the_server_says_that_it_takes_none() {
        for sql in ["INSERT INTO a VALUES (1)", "  update a set b = 1", "DELETE FROM a", "replace into a values (1)"] {
            assert!(is_one_change(sql), "{sql}");
        }
        for sql in
            ["CALL tidy()", "/* x */ INSERT INTO a VALUES (1)", "BEGIN NOT ATOMIC INSERT INTO a VALUES (1); END", "ALTER TABLE a ADD b INT", ""]
        {
            assert!(!is_one_change(sql), "{sql}");
        }
    }

    fn of(kind: ColumnType, set: u16) -> MysqlColumn {
        MysqlColumn::new(kind).with_character_set(set)
    }

    #[test]
    fn values_are_json_without_loss() {
        let text = of(ColumnType::MYSQL_TYPE_VAR_STRING, 45);
        let blob = of(ColumnType::MYSQL_TYPE_BLOB, BINARY);
        for (column, sent, expected) in [
            (&text, Sent::NULL, Value::Null),
            (&text, Sent::Int(-5), json!(-5)),
            (&text, Sent::UInt(u64::MAX), json!("18446744073709551615")),
            (&text, Sent::Float(0.1), json!(0.1)),
            (&text, Sent::Double(1.5), json!(1.5)),
            (&text, Sent::Bytes("\u{fc}".into()), json!("\u{fc}")),
            (&text, Sent::Bytes(vec![0xff]), json!({ "base64": "/w==" })),
            (&blob, Sent::Bytes("a".into()), json!({ "base64": "YQ==" })),
            (&of(ColumnType::MYSQL_TYPE_NEWDECIMAL, BINARY), Sent::Bytes("1.10".into()), json!("1.10")),
            (&of(ColumnType::MYSQL_TYPE_BIT, 45), Sent::Bytes(vec![1]), json!({ "base64": "AQ==" })),
            (&of(ColumnType::MYSQL_TYPE_DATE, BINARY), Sent::Date(2026, 11, 3, 0, 0, 0, 0), json!("2026-11-03")),
            (&of(ColumnType::MYSQL_TYPE_DATETIME, BINARY), Sent::Date(2026, 11, 3, 1, 2, 3, 0), json!("2026-11-03T01:02:03")),
            (&of(ColumnType::MYSQL_TYPE_TIMESTAMP, BINARY), Sent::Date(2026, 11, 3, 1, 2, 3, 4000), json!("2026-11-03T01:02:03.004000")),
            (&of(ColumnType::MYSQL_TYPE_TIME, BINARY), Sent::Time(true, 1, 2, 3, 4, 0), json!("-26:03:04")),
        ] {
            assert_eq!(value(column, &sent), expected, "{sent:?}");
        }
    }

    #[test]
    fn parameters_keep_their_value() {
        for (given, expected) in [
            (json!(null), Sent::NULL),
            (json!(true), Sent::Int(1)),
            (json!(-1), Sent::Int(-1)),
            (json!(u64::MAX), Sent::UInt(u64::MAX)),
            (json!(0.5), Sent::Double(0.5)),
            (json!("a"), Sent::Bytes("a".into())),
            (json!([1]), Sent::Bytes("[1]".into())),
            (json!({ "base64": "AP8=" }), Sent::Bytes(vec![0, 0xff])),
        ] {
            assert_eq!(parameter(&given).unwrap(), expected, "{given}");
        }
        assert!(parameter(&json!("x".repeat(TEXT_MAX + 1))).is_err());
    }
}
