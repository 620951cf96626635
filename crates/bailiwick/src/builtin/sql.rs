//! What systems of SQL share: four tools, a classifier that says which of them a statement needs, and answers as rows.
//!
//! `query` reads, `execute` writes, `delete` removes, `describe` says what is there. The classifier ([`bailiwick_wire::sql`]) refuses early and
//! explains; the guard is the rights of the login that the call gets, and for reads a transaction that writes nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::{CallId, Effect};
use bailiwick_credentials::lease::{Account, Node, Prefix, Tag};
use bailiwick_credentials::sessions::{SessionError, mariadb, postgresql};
use bailiwick_wire::sql::{Dialect, Limits, Statement, classify_with};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::held::{self, NodeFile, answer, arguments, definition, trouble, unless_cancelled};
use super::{Answer, Builtin, Refusal, Rights, Session, UseError};

const QUERY: &str = "query";
const EXECUTE: &str = "execute";
const DELETE: &str = "delete";
const DESCRIBE: &str = "describe";
const READ: &str = "read";
const WRITE: &str = "write";
const ROWS_MAX: usize = 100_000;
const BYTES_MAX: usize = 2 << 20;
const SECONDS_MAX: u64 = 600;
const FUNCTIONS_MAX: usize = 1000;
const TABLE_MAX: usize = 200;

/// `[systems.NAME.postgresql]` and `[systems.NAME.mariadb]`: a server with its standbys or replicas, and what tasks may have there.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Every node on which an account can log in; the usual primary first.
    nodes: Vec<NodeFile>,
    /// The database that statements run in.
    database: String,
    /// The broker's own role or account.
    user: String,
    /// The name of the secret that is its password.
    secret: String,
    /// What the names of this broker's accounts begin with: `ag_` unless two brokers share the server.
    prefix: Option<String>,
    /// The groups (PostgreSQL) or the role (MariaDB) of a task that reads. Without them there are no tools that read.
    #[serde(default)]
    read_rights: Vec<String>,
    /// The groups or the role of a task that writes or deletes. Without them there are no such tools.
    #[serde(default)]
    write_rights: Vec<String>,
    /// Functions of which you say that they only read, such as `similarity` or `app.price`. A statement that calls another function than these and
    /// the usual ones needs the tool `delete`.
    #[serde(default)]
    reading_functions: Vec<String>,
    /// The most rows of an answer; 1000 unless it is said.
    rows_max: Option<usize>,
    /// The most bytes of an answer's values; 1048576 unless it is said.
    bytes_max: Option<usize>,
    /// How long a statement may take, in seconds; 30 unless it is said.
    seconds_max: Option<u64>,
}

/// The checked table.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) nodes: Vec<Node>,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) secret: String,
    pub(super) prefix: Prefix,
    pub(super) read_rights: Vec<String>,
    pub(super) write_rights: Vec<String>,
    pub(super) limits: postgresql::Limits,
    reading_functions: BTreeSet<String>,
}

/// What a table of accounts that were there before says, without what is for accounts that are made.
pub(super) struct OfAccounts {
    pub(super) nodes: Vec<NodeFile>,
    pub(super) database: String,
    pub(super) users: Vec<String>,
    pub(super) writes: bool,
    pub(super) prefix: Option<String>,
    pub(super) reading_functions: Vec<String>,
    pub(super) rows_max: Option<usize>,
    pub(super) bytes_max: Option<usize>,
    pub(super) seconds_max: Option<u64>,
}

impl File {
    /// Accounts that were there before: their names are the rights, and nobody else logs in.
    pub(super) fn of_accounts(given: OfAccounts) -> Self {
        let OfAccounts { nodes, database, users, writes, prefix, reading_functions, rows_max, bytes_max, seconds_max } = given;
        let write_rights = if writes { users.clone() } else { Vec::new() };
        let (user, secret) = (String::new(), String::new());
        Self { nodes, database, user, secret, prefix, read_rights: users, write_rights, reading_functions, rows_max, bytes_max, seconds_max }
    }

    pub(super) fn check(&self, port: u16, folder: &Path) -> Result<Settings, String> {
        if self.read_rights.is_empty() && self.write_rights.is_empty() {
            return Err("expected `read_rights` or `write_rights`: without any there is nothing to do".to_owned());
        }
        let limits = postgresql::Limits {
            rows: self.rows_max.unwrap_or(1000),
            bytes: self.bytes_max.unwrap_or(1 << 20),
            time: Duration::from_secs(self.seconds_max.unwrap_or(30)),
        };
        if !(1..=ROWS_MAX).contains(&limits.rows) || !(1..=BYTES_MAX).contains(&limits.bytes) || !(1..=SECONDS_MAX).contains(&limits.time.as_secs()) {
            return Err(format!("expected 1 to {ROWS_MAX} rows, 1 to {BYTES_MAX} bytes and 1 to {SECONDS_MAX} seconds"));
        }
        let is_name = |name: &String| {
            let parts =
                name.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            name.len() <= TABLE_MAX && parts
        };
        if self.reading_functions.len() > FUNCTIONS_MAX || !self.reading_functions.iter().all(is_name) {
            return Err("`reading_functions`: expected names of small letters, digits and `_`, with or without their schema".to_owned());
        }
        let prefix = self.prefix.as_deref().map_or(Ok(Prefix::default()), str::parse).map_err(|error| format!("`prefix`: {error}"))?;
        Ok(Settings {
            nodes: held::nodes(&self.nodes, port, folder)?,
            database: self.database.clone(),
            user: self.user.clone(),
            secret: self.secret.clone(),
            prefix,
            read_rights: self.read_rights.clone(),
            write_rights: self.write_rights.clone(),
            limits,
            reading_functions: self.reading_functions.iter().cloned().collect(),
        })
    }
}

impl Settings {
    /// Every right that a lease may have, once.
    pub(super) fn rights(&self) -> Vec<String> {
        let all: BTreeSet<_> = self.read_rights.iter().chain(&self.write_rights).cloned().collect();
        all.into_iter().collect()
    }

    pub(super) fn target(&self, scheme: &str) -> String {
        let database = &self.database;
        self.nodes.iter().map(|node| format!("{scheme}://{}:{}/{database}", node.host(), node.port())).collect::<Vec<_>>().join(", ")
    }
}

/// The tools of a server.
pub(super) struct Tools {
    settings: Settings,
    dialect: Dialect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    sql: String,
    #[serde(default)]
    parameters: Vec<Value>,
    max_rows: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Describe {
    table: Option<String>,
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tools").field("settings", &self.settings).field("dialect", &self.dialect).finish()
    }
}

impl Tools {
    pub(super) const fn new(settings: Settings, dialect: Dialect) -> Self {
        Self { settings, dialect }
    }

    fn names(&self) -> Vec<(&'static str, Effect)> {
        let reads = [(QUERY, Effect::Read), (DESCRIBE, Effect::Read)];
        let writes = [(EXECUTE, Effect::Write), (DELETE, Effect::Delete)];
        let reads = reads.into_iter().filter(|_| !self.settings.read_rights.is_empty());
        reads.chain(writes.into_iter().filter(|_| !self.settings.write_rights.is_empty())).collect()
    }
}

/// The statement of a call, and what it does. Judging and doing read it by the same words.
fn statement(settings: &Settings, dialect: Dialect, run: &Run) -> Result<Statement, Refusal> {
    let statement =
        classify_with(dialect, &run.sql, &Limits::default(), &settings.reading_functions).map_err(|refusal| Refusal::new(refusal.words()))?;
    if usize::from(statement.parameters) != run.parameters.len() {
        let (takes, given) = (statement.parameters, run.parameters.len());
        return Err(Refusal::new(format!("the statement takes {takes} parameters, and {given} were given")));
    }
    Ok(statement)
}

fn judge_run(settings: &Settings, dialect: Dialect, tool: &str, given: &Value) -> Result<(Run, Statement), Refusal> {
    let run: Run = arguments(given)?;
    if run.max_rows.is_some_and(|rows| rows == 0 || rows > settings.limits.rows || tool != QUERY) {
        return Err(Refusal::new(format!("`max_rows` is for `{QUERY}`, and 1 to {}", settings.limits.rows)));
    }
    let statement = statement(settings, dialect, &run)?;
    if tool == QUERY && statement.effect != Effect::Read {
        let other = if statement.effect == Effect::Write { EXECUTE } else { DELETE };
        let why = statement.reasons.first().map_or("", String::as_str);
        return Err(Refusal::new(format!("`{QUERY}` only reads, and this statement does more: {why}. Use `{other}` if it is meant")));
    }
    Ok((run, statement))
}

#[async_trait::async_trait]
impl Builtin for Tools {
    fn tools(&self) -> Vec<Value> {
        self.names().into_iter().map(|(name, effect)| tool(name, effect, self.dialect, self.settings.limits.rows)).collect()
    }

    fn effect(&self, tool: &str) -> Option<Effect> {
        self.names().into_iter().find(|(name, _)| *name == tool).map(|(_, effect)| effect)
    }

    fn judge(&self, tool: &str, given: &Value) -> Result<Effect, Refusal> {
        match self.effect(tool) {
            None => Err(Refusal::new("there is no such tool")),
            Some(_) if tool == DESCRIBE => described(arguments::<Describe>(given)?.table.as_deref()).map(|_| Effect::Read),
            Some(least) => {
                let (_, statement) = judge_run(&self.settings, self.dialect, tool, given)?;
                // A statement that only reads is run by `execute` in a transaction that may write.
                Ok(statement.effect.max(if least == Effect::Read { Effect::Read } else { Effect::Write }))
            }
        }
    }

    fn rights(&self, effect: Effect) -> Rights {
        match effect {
            Effect::Read => Rights { class: READ, rights: self.settings.read_rights.clone() },
            _ => Rights { class: WRITE, rights: self.settings.write_rights.clone() },
        }
    }

    async fn open(&self, account: &Account, tag: &Tag) -> Result<Arc<dyn Session>, UseError> {
        let (nodes, database) = (self.settings.nodes.clone(), self.settings.database.clone());
        // An account does not say what it may do. Where the primary is gone, what writes is refused by the standby itself.
        let connection = match self.dialect {
            Dialect::Postgresql => {
                let place = postgresql::Place { nodes, database, writes: false };
                Connection::Postgresql(Box::new(postgresql::Session::open(&place, account, tag).await.map_err(|error| trouble(&error))?))
            }
            Dialect::Mariadb => {
                let place = mariadb::Place { nodes, database, writes: false, packet_bytes: self.settings.limits.bytes };
                Connection::Mariadb(Box::new(mariadb::Session::open(&place, account, tag).await.map_err(|error| trouble(&error))?))
            }
        };
        Ok(Arc::new(Held { connection, settings: self.settings.clone(), dialect: self.dialect }))
    }
}

/// A session of either server.
#[derive(Debug)]
enum Connection {
    Postgresql(Box<postgresql::Session>),
    Mariadb(Box<mariadb::Session>),
}

impl Connection {
    async fn run(&self, tool: &str, sql: &str, parameters: &[Value], limits: &postgresql::Limits) -> Result<postgresql::Rows, SessionError> {
        match (self, tool == QUERY || tool == DESCRIBE) {
            (Self::Postgresql(session), true) => session.read(sql, parameters, limits).await,
            (Self::Postgresql(session), false) => session.write(sql, parameters, limits).await,
            (Self::Mariadb(session), true) => session.read(sql, parameters, limits).await,
            (Self::Mariadb(session), false) => session.write(sql, parameters, limits).await,
        }
    }
}

#[derive(Debug)]
struct Held {
    connection: Connection,
    settings: Settings,
    dialect: Dialect,
}

#[async_trait::async_trait]
impl Session for Held {
    async fn call(&self, _call: CallId, tool: &str, given: &Value, cancel: &CancellationToken) -> Result<Answer, UseError> {
        let refused = |refusal: Refusal| UseError { words: refusal.words, may_have_run: false, gone: false, login_refused: false };
        let mut limits = self.settings.limits;
        let (sql, parameters) = if tool == DESCRIBE {
            let asked: Describe = arguments(given).map_err(refused)?;
            catalogue(self.dialect, described(asked.table.as_deref()).map_err(refused)?)
        } else {
            let (run, statement) = judge_run(&self.settings, self.dialect, tool, given).map_err(refused)?;
            limits.rows = run.max_rows.unwrap_or(limits.rows).min(limits.rows);
            (statement.text, run.parameters)
        };
        let work = async { answer(self.connection.run(tool, &sql, &parameters, &limits).await.map(|rows| told(&rows))) };
        // A call that is dropped is stopped at the server. What reads was rolled back, whenever that was.
        let reads = matches!(tool, QUERY | DESCRIBE);
        unless_cancelled(cancel, work).await.map_err(|error| UseError { may_have_run: error.may_have_run && !reads, ..error })
    }

    async fn warm(&self) {
        // A server reads its catalogue for the first statement of each connection.
        match &self.connection {
            Connection::Postgresql(session) => drop(session.read("SELECT 1", &[], &self.settings.limits).await),
            Connection::Mariadb(_) => {}
        }
    }

    async fn assign(&self, tag: &Tag) -> bool {
        match &self.connection {
            Connection::Postgresql(session) => session.assign(tag).await,
            Connection::Mariadb(_) => false,
        }
    }

    fn is_over(&self) -> bool {
        match &self.connection {
            Connection::Postgresql(session) => session.is_over(),
            Connection::Mariadb(session) => session.is_over(),
        }
    }

    async fn close(&self) {
        match &self.connection {
            Connection::Postgresql(session) => session.close().await,
            Connection::Mariadb(session) => session.close().await,
        }
    }
}

fn told(rows: &postgresql::Rows) -> Value {
    let mut told = json!({ "columns": rows.columns, "rows": rows.rows, "row_count": rows.rows.len(), "truncated": rows.truncated });
    if let (Some(affected), Some(members)) = (rows.affected, told.as_object_mut()) {
        members.insert("affected".to_owned(), affected.into());
    }
    told
}

/// `orders` or `app.orders`, as the catalogue has it.
fn described(table: Option<&str>) -> Result<Option<(Option<&str>, &str)>, Refusal> {
    let Some(table) = table else { return Ok(None) };
    if table.is_empty() || table.len() > TABLE_MAX || table.chars().any(char::is_control) {
        return Err(Refusal::new("`table`: expected a table's name, such as `orders` or `app.orders`, without quotes"));
    }
    Ok(Some(table.split_once('.').map_or((None, table), |(schema, table)| (Some(schema), table))))
}

const POSTGRESQL_TABLES: &str = "\
    SELECT n.nspname AS \"schema\", c.relname AS \"table\", \
           CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE 'table' END AS \"kind\" \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' AND NOT starts_with(n.nspname::text, 'pg_') \
      AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
      AND (pg_catalog.has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE') OR pg_catalog.has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE')) \
    ORDER BY 1, 2";

const POSTGRESQL_COLUMNS: &str = "\
    SELECT n.nspname AS \"schema\", c.relname AS \"table\", a.attname AS \"column\", pg_catalog.format_type(a.atttypid, a.atttypmod) AS \"type\", \
           NOT a.attnotnull AS \"nullable\", pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS \"default\", \
           (SELECT pg_catalog.string_agg(CASE k.contype WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique' \
                   ELSE 'references ' || k.confrelid::pg_catalog.regclass::text END, ', ' ORDER BY k.contype) \
            FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'f') AND a.attnum = ANY (k.conkey)) AS \"keys\" \
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum \
    WHERE c.relname = $2::text AND (n.nspname = $1::text OR ($1::text IS NULL AND pg_catalog.pg_table_is_visible(c.oid))) \
      AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped \
      AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT, INSERT, UPDATE') \
    ORDER BY n.nspname, a.attnum";

const MARIADB_TABLES: &str = "\
    SELECT table_schema AS `schema`, table_name AS `table`, IF(table_type = 'VIEW', 'view', 'table') AS `kind` FROM information_schema.tables \
    WHERE table_schema NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys') ORDER BY 1, 2";

const MARIADB_COLUMNS: &str = "\
    SELECT c.table_schema AS `schema`, c.table_name AS `table`, c.column_name AS `column`, c.column_type AS `type`, c.is_nullable = 'YES' AS `nullable`, \
           c.column_default AS `default`, \
           NULLIF(CONCAT_WS(', ', CASE c.column_key WHEN 'PRI' THEN 'primary key' WHEN 'UNI' THEN 'unique' WHEN 'MUL' THEN 'index' END, \
             (SELECT GROUP_CONCAT('references ', k.referenced_table_schema, '.', k.referenced_table_name SEPARATOR ', ') \
              FROM information_schema.key_column_usage k WHERE k.table_schema = c.table_schema AND k.table_name = c.table_name \
              AND k.column_name = c.column_name AND k.referenced_table_name IS NOT NULL)), '') AS `keys` \
    FROM information_schema.columns c WHERE c.table_schema = COALESCE(?, DATABASE()) AND c.table_name = ? ORDER BY c.ordinal_position";

/// What the catalogue is asked: the tables that this login may use, or the columns of one.
fn catalogue(dialect: Dialect, table: Option<(Option<&str>, &str)>) -> (String, Vec<Value>) {
    let (tables, columns) = match dialect {
        Dialect::Postgresql => (POSTGRESQL_TABLES, POSTGRESQL_COLUMNS),
        Dialect::Mariadb => (MARIADB_TABLES, MARIADB_COLUMNS),
    };
    match table {
        None => (tables.to_owned(), Vec::new()),
        Some((schema, table)) => (columns.to_owned(), vec![json!(schema), json!(table)]),
    }
}

fn tool(name: &str, effect: Effect, dialect: Dialect, rows: usize) -> Value {
    let (server, place, quote) = match dialect {
        Dialect::Postgresql => ("PostgreSQL", "$1, $2", '"'),
        Dialect::Mariadb => ("MariaDB", "?", '`'),
    };
    let (title, says) = match name {
        QUERY => (
            "Query",
            format!(
                "Runs one {server} statement that only reads (SELECT, WITH, VALUES, SHOW, EXPLAIN), in a read-only transaction, and gives its rows."
            ),
        ),
        EXECUTE => {
            ("Execute", format!("Runs one {server} statement that adds or changes data or definitions, in a transaction of its own, and commits it."))
        }
        DELETE => (
            "Delete",
            format!(
                "Runs one {server} statement that removes data or definitions (DELETE, TRUNCATE, DROP), or that calls a procedure or a function of which is \
                 not known what it does, in a transaction of its own, and commits it."
            ),
        ),
        _ => ("Describe", "Lists the tables and views that can be used, or the columns of one with their types and keys.".to_owned()),
    };
    if name == DESCRIBE {
        let input = json!({ "table": {
            "type": "string", "minLength": 1, "maxLength": TABLE_MAX,
            "description": "a table's name without quotes, such as orders or app.orders; left out: all tables",
        } });
        return definition(name, title, &says, effect, (&input, &[]), &output(false));
    }
    let says = format!(
        "{says} Write values as {place} and give them in `parameters`: no text with a backslash, no dollar quotes, no variables. Names are quoted by \
         {quote}. Nothing of the session lasts until the next call."
    );
    let mut input = json!({
        "sql": { "type": "string", "minLength": 1, "maxLength": Limits::default().bytes, "description": "one statement" },
        "parameters": {
            "type": "array", "maxItems": Limits::default().parameters,
            "description": "its values, in order: null, booleans, numbers, texts, arrays, objects (JSON), {\"base64\": \"..\"} for bytes",
            "items": {},
        },
    });
    if let Some(members) = input.as_object_mut().filter(|_| name == QUERY) {
        let words = format!("at most so many rows; {rows} unless it is said");
        members.insert("max_rows".to_owned(), json!({ "type": "integer", "minimum": 1, "maximum": rows, "description": words }));
    }
    definition(name, title, &says, effect, (&input, &["sql"]), &output(name != QUERY))
}

fn output(affects: bool) -> Value {
    let mut output = json!({
        "columns": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": { "name": { "type": "string" }, "type": { "type": "string" } },
                "required": ["name", "type"],
                "additionalProperties": false,
            },
        },
        "rows": {
            "type": "array",
            "description": "numbers that JSON cannot keep, decimals and dates are texts; bytes are {\"base64\": \"..\"}",
            "items": { "type": "array", "items": {} },
        },
        "row_count": { "type": "integer", "minimum": 0, "description": "how many rows are here" },
        "truncated": { "type": "boolean", "description": "there are more rows than are here" },
    });
    if let Some(members) = output.as_object_mut().filter(|_| affects) {
        members
            .insert("affected".to_owned(), json!({ "type": "integer", "minimum": 0, "description": "how many rows were added, changed or removed" }));
    }
    output
}

#[cfg(test)]
mod tests;
