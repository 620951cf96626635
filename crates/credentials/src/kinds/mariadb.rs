//! `MariaDB`: an account for each lease, with one role; its sessions are killed one by one on every node, and its login is tried.
//!
//! What was measured on real servers, and rules this file: a session goes on reading and writing after `ACCOUNT LOCK`, `REVOKE` and `DROP USER`,
//! so it must be killed. Who lacks `PROCESS` sees no sessions instead of an error, so the right is proved in the session that looks. There
//! is no transaction around accounts, so a lock by name keeps an end from overtaking a mint. Nothing expires an account, so orphans live
//! until a sweep. A name that is made again inherits what names it as definer, so none is.
//!
//! `MariaDB` 10.5 or newer. Only `root` may set another account's default role, which would be every right there is; the broker calls a procedure
//! of the administrator's instead, which does it for our names only ([`SETUP`]).

mod ending;
mod preflight;
pub(super) mod session;
pub(super) mod sql;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use bailiwick_core::Clock;

use crate::Secret;
use crate::lease::{Account, AccountName, Ending, Finding, Found, Kind, Minted, Node, Plan, Prefix, Step, TargetCode, TargetError, TargetIds};
use session::{Door, Session};
use sql::{name_literal, quoted_role};

/// What the administrator runs once, so that the broker can give an account its role. `delimiter //` goes before it in the command line client.
pub const SETUP: &str = "CREATE DATABASE IF NOT EXISTS bailiwick;
CREATE OR REPLACE PROCEDURE bailiwick.default_role(IN account VARCHAR(32), IN role VARCHAR(128)) SQL SECURITY DEFINER
BEGIN
  IF account REGEXP '^ag[a-z0-9]{0,3}_[0-9a-hjkmnp-tv-z]{26}$' THEN
    EXECUTE IMMEDIATE CONCAT('SET DEFAULT ROLE `', REPLACE(role, '`', '``'), '` FOR `', account, '`@`%`');
  END IF;
END";

const CALL_MAX: Duration = Duration::from_secs(55);
const ROLES_MAX: usize = 64;
const NODES_MAX: usize = 32;

/// A server and its replicas, and what leases may have there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Every node on which an account can log in; the usual primary first.
    pub nodes: Vec<Node>,
    /// The broker's own account.
    pub user: String,
    /// The roles that a plan may ask for, one at a time: an account has one default role. One role may be granted others.
    pub roles: Vec<String>,
    /// How many connections an account may have at once.
    pub connections: u32,
    /// How long an account's statement may take. The account can lift it: a guard against accidents, and no limit.
    pub statement_timeout: Duration,
}

impl Settings {
    /// Whether they can be used, told without a secret.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if there is no node, or a setting is out of its range.
    pub fn check(&self) -> Result<(), TargetError> {
        let wrong = |what: &str| Err(TargetError::new(TargetCode::Plan, Step::Connect, "", what));
        if self.nodes.is_empty() || self.nodes.len() > NODES_MAX {
            return wrong("expected 1 to 32 nodes");
        }
        if self.roles.len() > ROLES_MAX || !self.roles.iter().all(|role| fits(role)) {
            return wrong("expected at most 64 roles, each of 1 to 80 characters");
        }
        if !fits(&self.user) || self.roles.contains(&self.user) {
            return wrong("expected a user that is none of the roles");
        }
        if !(1..=1000).contains(&self.connections) {
            return wrong("expected 1 to 1000 connections for each account");
        }
        Ok(())
    }
}

/// Accounts of one server and its replicas.
pub struct Mariadb {
    doors: Vec<Door>,
    settings: Settings,
    clock: Arc<dyn Clock>,
}

impl Mariadb {
    /// A system as it is configured; `secret` is the password of the broker's own account. Nothing is connected yet.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if there is no node, or a setting is out of its range.
    pub fn new(settings: Settings, secret: Secret, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        settings.check()?;
        let secret = Arc::new(secret);
        let doors = settings.nodes.iter().map(|node| Door::new(node.clone(), &settings.user, Arc::clone(&secret))).collect();
        Ok(Self { doors, settings, clock })
    }

    /// The node that accepts writes, with a session there.
    async fn at_writer(&self, step: Step) -> Result<(&Door, Session), TargetError> {
        let mut trouble = None;
        for door in &self.doors {
            match door.take(step).await {
                Ok(mut session) => {
                    if !session.read_only(step).await? {
                        return Ok((door, session));
                    }
                    door.put_back(session);
                }
                Err(error) => {
                    trouble.get_or_insert(error);
                }
            }
        }
        Err(trouble.unwrap_or_else(|| TargetError::new(TargetCode::Busy, step, "", "no node accepts writes")))
    }

    async fn mint_account(&self, plan: &Plan, secret: &Secret) -> Result<Minted, TargetError> {
        let role = match plan.rights.as_slice() {
            [] => None,
            [role] if self.settings.roles.contains(role) => Some(role),
            [role] => return Err(TargetError::new(TargetCode::Plan, Step::Mint, "", &format!("`{role}` is none of the configured roles"))),
            _ => return Err(TargetError::new(TargetCode::Plan, Step::Mint, "", "an account has one role: make one that is granted the others")),
        };
        let (door, mut session) = self.at_writer(Step::Mint).await?;
        // The lock is ours before anything that creates is sent, so that an end cannot overtake us.
        if !session.lock(Step::Mint, &plan.name).await? {
            return Err(TargetError::new(TargetCode::Busy, Step::Mint, door.name(), "another mint or end of this name is under way"));
        }
        let account = sql::account(&plan.name);
        let (connections, timeout) = (self.settings.connections, self.settings.statement_timeout.as_secs());
        // A mint again replaces what the first one made: nobody can have used it, because its secret was not given to anybody.
        // Each statement commits by itself. An account that is cut off here has no rights, or no default role, and a name to be ended by.
        let mut batch = format!(
            "CREATE OR REPLACE USER {account} IDENTIFIED VIA mysql_native_password USING {} \
             WITH MAX_USER_CONNECTIONS {connections} MAX_STATEMENT_TIME {timeout}",
            name_literal(&password_hash(secret)),
        );
        if let Some(role) = role {
            let role_name = quoted_role(role);
            batch.push_str(&format!(
                "; GRANT {role_name} TO {account}; CALL bailiwick.default_role({}, {})",
                name_literal(plan.name.as_str()),
                name_literal(role)
            ));
        }
        session.run(Step::Mint, &batch).await?;
        session.unlock(Step::Mint, &plan.name).await?;
        door.put_back(session);
        Ok(Minted { ids: TargetIds::one("account", format!("{}@%", plan.name)), secret: None, expires_at: None })
    }

    async fn list_accounts(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        let (door, mut session) = self.at_writer(Step::List).await?;
        let sql = format!(
            "SELECT User FROM mysql.user WHERE LEFT(User, {}) = {} AND Host = '%' ORDER BY User",
            prefix.as_str().len(),
            name_literal(prefix.as_str())
        );
        let names = session.column(Step::List, &sql).await?;
        door.put_back(session);
        let ours = names.iter().filter_map(|name| name.parse::<AccountName>().ok()).filter(|name| prefix.covers(name));
        Ok(ours.map(|name| Found { ids: TargetIds::one("account", format!("{name}@%")), name, tag: None, node: door.name().to_owned() }).collect())
    }
}

#[async_trait::async_trait]
impl Kind for Mariadb {
    fn kind(&self) -> &'static str {
        "mariadb"
    }

    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        super::random_password().map(Some)
    }

    async fn preflight(&self, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
        within(Step::Verify, preflight::preflight(self, probe)).await
    }

    async fn mint(&self, plan: &Plan, secret: Option<&Secret>) -> Result<Minted, TargetError> {
        let secret = secret.ok_or_else(|| TargetError::new(TargetCode::Plan, Step::Mint, "", "an account needs the secret that was proposed"))?;
        within(Step::Mint, self.mint_account(plan, secret)).await
    }

    async fn end(&self, account: &Account) -> Result<Ending, TargetError> {
        within(Step::Remove, ending::end(self, account)).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        within(Step::List, self.list_accounts(prefix)).await
    }
}

impl fmt::Debug for Mariadb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mariadb").field("settings", &self.settings).finish_non_exhaustive()
    }
}

async fn within<T>(step: Step, work: impl Future<Output = Result<T, TargetError>>) -> Result<T, TargetError> {
    tokio::time::timeout(CALL_MAX, work).await.map_err(|_| TargetError::new(TargetCode::Busy, step, "", "it takes longer than 55 seconds"))?
}

/// `*` and the hex of SHA-1 of SHA-1, as `mysql_native_password` stores it. What is hashed is 256 random bits, so that nothing is found from it,
/// and the server's log of statements never has the password.
pub(super) fn password_hash(secret: &Secret) -> String {
    let once = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, secret.expose());
    let twice = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, once.as_ref());
    twice.as_ref().iter().fold("*".to_owned(), |hash, byte| format!("{hash}{byte:02X}"))
}

fn fits(name: &str) -> bool {
    (1..=80).contains(&name.chars().count()) && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_what_the_servers_own_function_gives() {
        // SELECT PASSWORD('password')
        assert_eq!(password_hash(&Secret::from("password".to_owned())), "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19");
    }
}
