//! Accounts of a database that were there before us, as tools: lent to one task at a time, with another password after it.
//!
//! The tools are those of [`sql`]. A task has one lease for reading and writing, because an account has one password; a read runs in a
//! transaction that writes nothing all the same.

use std::path::Path;
use std::sync::Arc;

use bailiwick_core::{Clock, Effect};
use bailiwick_credentials::kinds::checkout::target::Target;
use bailiwick_credentials::kinds::checkout::{Checkout, Legacy, Settings as KindSettings, mariadb, postgresql};
use bailiwick_credentials::lease::rotation::Custody;
use bailiwick_credentials::lease::{Account, Prefix, Tag};
use bailiwick_wire::sql::Dialect;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::held::NodeFile;
use super::{Built, Builtin, Refusal, Rights, Session, UseError, sql};

/// The rights' class: one lease for each task.
const USE: &str = "use";
const PASSWORD_CHARS: usize = 43;

/// `[systems.NAME.checkout]`: accounts of a database that know nothing of us.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// What the server is: `postgresql` or `mariadb`.
    server: Server,
    /// Every node on which the accounts can log in; the usual primary first.
    nodes: Vec<NodeFile>,
    /// The database that statements run in.
    database: String,
    /// The accounts that would do. A task gets the first one that is free.
    accounts: Vec<AccountFile>,
    /// Whether tasks may write and delete with them. Default false.
    #[serde(default)]
    writes: bool,
    /// How many characters a new password has, 22 to 64; 43 unless it is said.
    password_chars: Option<usize>,
    /// Whether the server is sent new passwords themselves, because a policy there wants to look at them. Its log of statements, if it has one, has
    /// them then. Default false.
    #[serde(default)]
    plain_passwords: bool,
    /// What the names of this broker's leases begin with: `ag_` unless it is said.
    prefix: Option<String>,
    /// Functions of which you say that they only read.
    #[serde(default)]
    reading_functions: Vec<String>,
    /// The most rows of an answer; 1000 unless it is said.
    rows_max: Option<usize>,
    /// The most bytes of an answer's values; 1048576 unless it is said.
    bytes_max: Option<usize>,
    /// How long a statement may take, in seconds; 30 unless it is said.
    seconds_max: Option<u64>,
}

/// What the server is.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Server {
    /// `PostgreSQL`.
    Postgresql,
    /// `MariaDB`.
    Mariadb,
}

/// An account and its password.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AccountFile {
    /// Its name at the server.
    user: String,
    /// The name of the secret that is its password (`bailiwick secret set NAME`).
    secret: String,
}

/// The checked table.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    sql: sql::Settings,
    server: Server,
    kind: KindSettings,
    plain: bool,
}

impl File {
    /// Parses the table. Words say what was expected.
    pub(crate) fn check(&self, folder: &Path) -> Result<Settings, String> {
        let port = match self.server {
            Server::Postgresql => 5432,
            Server::Mariadb => 3306,
        };
        let users: Vec<String> = self.accounts.iter().map(|account| account.user.clone()).collect();
        if users.is_empty() {
            return Err("`accounts`: expected at least one".to_owned());
        }
        let file = sql::File::of_accounts(sql::OfAccounts {
            nodes: self.nodes.clone(),
            database: self.database.clone(),
            users,
            writes: self.writes,
            prefix: self.prefix.clone(),
            reading_functions: self.reading_functions.clone(),
            rows_max: self.rows_max,
            bytes_max: self.bytes_max,
            seconds_max: self.seconds_max,
        });
        let kind = KindSettings {
            accounts: self.accounts.iter().map(|account| Legacy { user: account.user.clone(), secret: account.secret.clone() }).collect(),
            password_chars: self.password_chars.unwrap_or(PASSWORD_CHARS),
        };
        let settings = Settings { sql: file.check(port, folder)?, server: self.server, kind, plain: self.plain_passwords };
        settings.kind.check(settings.target_of().as_ref()).map_err(|error| error.detail().to_owned())?;
        Ok(settings)
    }
}

impl Settings {
    /// None: the accounts' passwords are kept by [`Custody`], which changes them.
    pub(crate) fn secrets(&self) -> Vec<&str> {
        Vec::new()
    }

    /// What the names of its leases begin with.
    pub(crate) fn prefix(&self) -> Prefix {
        self.sql.prefix.clone()
    }

    /// Where its calls go.
    pub(crate) fn target(&self) -> String {
        self.sql.target(match self.server {
            Server::Postgresql => "postgresql",
            Server::Mariadb => "mariadb",
        })
    }

    fn target_of(&self) -> Arc<dyn Target> {
        let (nodes, plain) = (self.sql.nodes.clone(), self.plain);
        match self.server {
            Server::Postgresql => Arc::new(postgresql::Postgresql { nodes, database: self.sql.database.clone(), plain }),
            Server::Mariadb => Arc::new(mariadb::Mariadb { nodes, plain }),
        }
    }

    /// Puts it together. `kept` is where the passwords are.
    pub(crate) fn build(&self, kept: &Arc<dyn Custody>, clock: &Arc<dyn Clock>) -> Result<Built, String> {
        let kind = Checkout::new(self.kind.clone(), self.target_of(), Arc::clone(kept), Arc::clone(clock));
        let dialect = match self.server {
            Server::Postgresql => Dialect::Postgresql,
            Server::Mariadb => Dialect::Mariadb,
        };
        let tools = Tools { sql: sql::Tools::new(self.sql.clone(), dialect), accounts: self.sql.rights() };
        Ok(Built { kind: Arc::new(kind.map_err(|error| error.detail().to_owned())?), builtin: Arc::new(tools) })
    }
}

/// The tools of a server, with one lease for all of them.
#[derive(Debug)]
struct Tools {
    sql: sql::Tools,
    accounts: Vec<String>,
}

#[async_trait::async_trait]
impl Builtin for Tools {
    fn tools(&self) -> Vec<Value> {
        self.sql.tools()
    }

    fn effect(&self, tool: &str) -> Option<Effect> {
        self.sql.effect(tool)
    }

    fn judge(&self, tool: &str, arguments: &Value) -> Result<Effect, Refusal> {
        self.sql.judge(tool, arguments)
    }

    fn rights(&self, _: Effect) -> Rights {
        Rights { class: USE, rights: self.accounts.clone() }
    }

    async fn open(&self, account: &Account, tag: &Tag) -> Result<Arc<dyn Session>, UseError> {
        self.sql.open(account, tag).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        toml::from_str::<File>(text).map_err(|e| e.to_string())?.check(Path::new("/etc/bailiwick"))
    }

    const TABLE: &str =
        "server = 'postgresql'\nnodes = [{ host = '127.0.0.1' }]\ndatabase = 'erp'\naccounts = [{ user = 'erp', secret = 'erp-password' }]\n";

    #[test]
    fn a_table_says_which_accounts_and_nothing_is_left_over() {
        let settings = read(TABLE).unwrap();
        assert_eq!((settings.target().as_str(), settings.secrets().len()), ("postgresql://127.0.0.1:5432/erp", 0));
        assert!(read(&TABLE.replace("postgresql", "mariadb")).unwrap().target().starts_with("mariadb://127.0.0.1:3306"));
        for bad in [
            TABLE.replace("postgresql", "oracle"),
            TABLE.replace("[{ user = 'erp', secret = 'erp-password' }]", "[]"),
            TABLE.replace("user = 'erp', ", ""),
            TABLE.replace("'erp-password' }", "'' }"),
            TABLE.replace("}]\n", "}, { user = 'erp', secret = 'other' }]\n"),
            TABLE.replace("127.0.0.1", "db.example.org"),
            format!("{TABLE}password_chars = 8\n"),
            format!("{TABLE}password = 'x'\n"),
        ] {
            assert!(read(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reading_and_writing_have_one_lease_and_without_writes_there_is_no_tool_that_writes() {
        let names = |settings: &Settings| {
            let tools = Tools { sql: sql::Tools::new(settings.sql.clone(), Dialect::Postgresql), accounts: settings.sql.rights() };
            assert_eq!(tools.rights(Effect::Read), tools.rights(Effect::Delete));
            assert_eq!(tools.rights(Effect::Read).rights, ["erp"]);
            tools.tools().iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&read(TABLE).unwrap()), ["query", "describe"]);
        assert_eq!(names(&read(&format!("{TABLE}writes = true\n")).unwrap()), ["query", "describe", "execute", "delete"]);
    }
}
