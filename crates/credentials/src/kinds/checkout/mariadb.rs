//! An account of `MariaDB` that is there already. It sets its own password and kills its own sessions, which every account may.

use std::time::Duration;

use zeroize::Zeroizing;

use super::target::{Denied, Inside, Target, Unchanged, plain};
use crate::Secret;
use crate::kinds::mariadb::password_hash;
use crate::kinds::mariadb::session::{SETTINGS, Session, open};
use crate::kinds::mariadb::sql::{ACCESS_DENIED, Failure, name_literal};
use crate::lease::{Node, Step, TargetCode, TargetError};

/// How often sessions are looked for and killed before we say that the node is busy.
const KILLS_MAX: usize = 40;
const KILL_PAUSE: Duration = Duration::from_millis(50);
/// `Your password does not satisfy the current policy requirements`, `Password hash should be a 41-digit hexadecimal number`, and that of
/// `strict_password_validation`, which wants to see the password itself.
const POLICY: [u16; 3] = [1819, 1372, 1290];

/// A server and its replicas with accounts that were there before us.
#[derive(Debug, Clone)]
pub struct Mariadb {
    /// Every node on which the accounts can log in; the usual primary first.
    pub nodes: Vec<Node>,
    /// Whether the server is sent the password itself, because a policy there wants to look at it: its log of statements, if it has one, has it then.
    pub plain: bool,
}

#[async_trait::async_trait]
impl Target for Mariadb {
    fn word(&self) -> &'static str {
        "mariadb"
    }

    fn nodes(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name().to_owned()).collect()
    }

    fn has_user_name(&self, user: &str) -> bool {
        (1..=128).contains(&user.chars().count()) && !user.chars().any(char::is_control)
    }

    async fn log_in(&self, node: usize, user: &str, password: &Secret) -> Result<Box<dyn Inside>, Denied> {
        let missing = || Denied::Otherwise(TargetError::new(TargetCode::Internal, Step::Connect, "", "there is no such node"));
        let node = self.nodes.get(node).ok_or_else(missing)?;
        let mut session = open(node, user, password).await.map_err(|failure| match failure.is(ACCESS_DENIED) {
            true => Denied::Password(failure.words()),
            false => Denied::Otherwise(failure.target(Step::Connect, node.name())),
        })?;
        let set = session.execute(SETTINGS).await;
        set.map_err(|failure| Denied::Otherwise(failure.target(Step::Connect, node.name())))?;
        Ok(Box::new(Account { session, node: node.name().to_owned(), plain: self.plain }))
    }
}

struct Account {
    session: Session,
    node: String,
    plain: bool,
}

impl Account {
    fn unchanged(&self, failure: &Failure) -> Unchanged {
        match failure.number {
            Some(number) if POLICY.contains(&number) && !failure.words().contains("--read-only") => Unchanged::Policy(failure.words()),
            _ => Unchanged::Otherwise(failure.target(Step::Mint, &self.node)),
        }
    }
}

#[async_trait::async_trait]
impl Inside for Account {
    async fn takes_changes(&mut self) -> Result<bool, TargetError> {
        Ok(!self.session.read_only(Step::Connect).await?)
    }

    async fn change(&mut self, new: &Secret) -> Result<(), Unchanged> {
        let mut sql = Zeroizing::new(String::with_capacity(256));
        if self.plain {
            let password = plain(new, &self.node)?;
            sql.push_str("SET PASSWORD = PASSWORD('");
            sql.push_str(password);
            sql.push_str("')");
        } else {
            sql.push_str(&format!("SET PASSWORD = {}", name_literal(&password_hash(new))));
        }
        self.session.execute(&sql).await.map_err(|failure| self.unchanged(&failure))
    }

    async fn end_others(&mut self) -> Result<usize, TargetError> {
        // Without `PROCESS` an account sees its own sessions and no others, which are those that are to be ended.
        let look = "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() \
                    AND user = SUBSTRING(USER(), 1, CHAR_LENGTH(USER()) - LOCATE('@', REVERSE(USER())))";
        let mut ended = std::collections::BTreeSet::new();
        for _ in 0..KILLS_MAX {
            let found = self.session.ask(look).await.map_err(|failure| failure.target(Step::Kill, &self.node))?;
            if found.is_empty() {
                return Ok(ended.len());
            }
            for id in found {
                let id: u64 =
                    id.parse().map_err(|_| TargetError::new(TargetCode::Protocol, Step::Kill, &self.node, "a session's id is no number"))?;
                self.session.kill(Step::Kill, id).await?;
                ended.insert(id);
            }
            tokio::time::sleep(KILL_PAUSE).await;
        }
        Err(TargetError::new(TargetCode::Busy, Step::Kill, &self.node, "the account has sessions again and again"))
    }
}
