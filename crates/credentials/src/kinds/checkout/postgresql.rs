//! A role of `PostgreSQL` that is there already. It sets its own password and ends its own sessions, which every role may.

use tokio_postgres::error::SqlState;
use zeroize::Zeroizing;

use super::target::{Denied, Inside, Target, Unchanged, plain};
use crate::Secret;
use crate::kinds::postgresql::scram;
use crate::kinds::postgresql::session::{OPTIONS, Session, open};
use crate::kinds::postgresql::sql::{Failure, cell, identifier, literal};
use crate::lease::{Node, Step, TargetCode, TargetError};

/// How often sessions are told to end before we say that the node is busy. Each telling waits up to a second by itself.
const KILLS_MAX: usize = 8;
/// How long one session is waited for, in milliseconds.
const KILL_WAIT: u32 = 1000;

/// A cluster with roles that were there before us: every node on which they can log in.
#[derive(Debug, Clone)]
pub struct Postgresql {
    /// The nodes; the usual primary first.
    pub nodes: Vec<Node>,
    /// The database to which the roles can connect.
    pub database: String,
    /// Whether the server is sent the password itself, because a policy there wants to look at it. Otherwise it gets a verifier, which its log of
    /// statements may have.
    pub plain: bool,
}

#[async_trait::async_trait]
impl Target for Postgresql {
    fn word(&self) -> &'static str {
        "postgresql"
    }

    fn nodes(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name().to_owned()).collect()
    }

    fn has_user_name(&self, user: &str) -> bool {
        (1..=63).contains(&user.len()) && !user.chars().any(char::is_control)
    }

    async fn log_in(&self, node: usize, user: &str, password: &Secret) -> Result<Box<dyn Inside>, Denied> {
        let missing = || Denied::Otherwise(TargetError::new(TargetCode::Internal, Step::Connect, "", "there is no such node"));
        let node = self.nodes.get(node).ok_or_else(missing)?;
        let opened = open(node, user, password, &self.database, "bailiwick", OPTIONS).await;
        let session = opened.map_err(|failure| match failure.is(&SqlState::INVALID_PASSWORD) {
            true => Denied::Password(failure.words()),
            false => Denied::Otherwise(failure.target(Step::Connect, node.name())),
        })?;
        let inside = Role { session, node: node.name().to_owned(), user: user.to_owned(), plain: self.plain };
        // A role can have another one set for it at login: its sessions and its password are its own all the same.
        inside.run(Step::Connect, "SET ROLE NONE").await.map_err(Denied::Otherwise)?;
        Ok(Box::new(inside))
    }
}

struct Role {
    session: Session,
    node: String,
    user: String,
    plain: bool,
}

impl Role {
    async fn run(&self, step: Step, sql: &str) -> Result<Vec<Vec<Option<String>>>, TargetError> {
        self.session.ask(sql).await.map_err(|failure| failure.target(step, &self.node))
    }

    fn unchanged(&self, failure: &Failure) -> Unchanged {
        // 22: a value that is refused, as `passwordcheck` says it; 28: as others do; P0: raised by somebody's own code. All come before the change.
        let class = failure.state.as_ref().and_then(|state| state.code().get(..2).map(str::to_owned));
        match class.as_deref() {
            Some("22" | "28" | "P0") => Unchanged::Policy(failure.words()),
            _ => Unchanged::Otherwise(failure.target(Step::Mint, &self.node)),
        }
    }
}

#[async_trait::async_trait]
impl Inside for Role {
    async fn takes_changes(&mut self) -> Result<bool, TargetError> {
        let rows = self.run(Step::Connect, "SELECT pg_is_in_recovery()").await?;
        Ok(cell(&rows, 0, 0) == Some("f"))
    }

    async fn change(&mut self, new: &Secret) -> Result<(), Unchanged> {
        let mut sql = Zeroizing::new(String::with_capacity(512));
        sql.push_str(&format!("ALTER ROLE {} PASSWORD ", identifier(&self.user)));
        if self.plain {
            // Ours are letters, digits, `-` and `_`: nothing to quote, and no copy is made of it here.
            let password = plain(new, &self.node)?;
            sql.push('\'');
            sql.push_str(password);
            sql.push('\'');
        } else {
            sql.push_str(&literal(&scram::verifier(new).map_err(Unchanged::Otherwise)?));
        }
        // By itself, so that what is answered is done. A session or a role that is read-only is not for this statement.
        self.run(Step::Mint, "SET default_transaction_read_only = off").await.map_err(Unchanged::Otherwise)?;
        self.session.ask(&sql).await.map_err(|failure| self.unchanged(&failure)).map(drop)
    }

    async fn end_others(&mut self) -> Result<usize, TargetError> {
        let others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usesysid = (SELECT oid FROM pg_roles WHERE rolname = session_user)";
        let mut ended = 0_usize;
        for _ in 0..KILLS_MAX {
            let sql = format!("SELECT pg_terminate_backend(pid, {KILL_WAIT}) {others}; SELECT count(*) {others}");
            let rows = self.run(Step::Kill, &sql).await?;
            ended = ended.saturating_add(rows.len().saturating_sub(1));
            if rows.last().and_then(|row| row.first()).and_then(Option::as_deref) == Some("0") {
                return Ok(ended);
            }
        }
        Err(TargetError::new(TargetCode::Busy, Step::Kill, &self.node, "the account has sessions again and again"))
    }
}
