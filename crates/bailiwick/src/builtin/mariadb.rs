//! `MariaDB` as tools: an account for each task, with the role that the configuration names.

use std::path::Path;
use std::sync::Arc;

use bailiwick_core::Clock;
use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::mariadb::{Mariadb, Settings as KindSettings};
use bailiwick_credentials::lease::Prefix;
use bailiwick_wire::sql::Dialect;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Built, sql};

const PORT: u16 = 3306;
/// How many connections an account may have at once: one that works, one that stops it, and some that are closing.
const CONNECTIONS: u32 = 8;

/// `[systems.NAME.mariadb]`: a server with its replicas, and what tasks may have there.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct File(sql::File);

/// The checked table.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    sql: sql::Settings,
    kind: KindSettings,
}

impl File {
    /// Parses the table. Words say what was expected.
    pub(crate) fn check(&self, folder: &Path) -> Result<Settings, String> {
        let sql = self.0.check(PORT, folder)?;
        if sql.read_rights.len() > 1 || sql.write_rights.len() > 1 {
            return Err("`read_rights` and `write_rights`: an account has one role: make one that is granted the others".to_owned());
        }
        let kind = KindSettings {
            nodes: sql.nodes.clone(),
            user: sql.user.clone(),
            roles: sql.rights(),
            connections: CONNECTIONS,
            statement_timeout: sql.limits.time,
        };
        kind.check().map_err(|error| error.detail().to_owned())?;
        if sql.database.is_empty() || sql.database.chars().count() > 64 {
            return Err("`database`: expected a name of 1 to 64 characters".to_owned());
        }
        Ok(Settings { sql, kind })
    }
}

impl Settings {
    /// The names of the sealed secrets that it needs.
    pub(crate) fn secrets(&self) -> Vec<&str> {
        vec![&self.sql.secret]
    }

    /// What the names of its accounts begin with.
    pub(crate) fn prefix(&self) -> Prefix {
        self.sql.prefix.clone()
    }

    /// Where its calls go: `mariadb://db1:3306/shop, ..`.
    pub(crate) fn target(&self) -> String {
        self.sql.target("mariadb")
    }

    /// Puts it together.
    pub(crate) fn build(&self, secret: &dyn Fn(&str) -> Result<Secret, String>, clock: &Arc<dyn Clock>) -> Result<Built, String> {
        let kind = Mariadb::new(self.kind.clone(), secret(&self.sql.secret)?, Arc::clone(clock)).map_err(|error| error.detail().to_owned())?;
        Ok(Built { kind: Arc::new(kind), builtin: Arc::new(sql::Tools::new(self.sql.clone(), Dialect::Mariadb)) })
    }
}
