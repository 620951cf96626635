//! `Redis`: an ACL user for each lease on every node, by the digest of its password; ended by `ACL DELUSER` on every node, and its login is tried.
//!
//! What was measured on real servers, and rules this file: `off` and `resetpass` leave open connections as they are, and `ACL DELUSER` ends them,
//! also within `MULTI`, `SUBSCRIBE` and blocking commands. Users do not replicate, so every node is told. Nothing expires a user. Whoever
//! runs `ACL SAVE` while a lease lives, or `CONFIG REWRITE` where there is no ACL file (as Sentinel does at each failover), writes the user
//! into a file from which `ACL LOAD` or a restart brings it back. So an end writes that file anew, wherever the user can stand in it; where the
//! server cannot write it, the ending says so and is less than verified.
//!
//! `Redis` 7.0 or newer, or Valkey. The broker's own user needs the commands of [`COMMANDS`], and no keys.

mod ending;
mod preflight;
pub(crate) mod resp;
mod rules;
pub(crate) mod session;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use bailiwick_core::Clock;
use futures_util::future::join_all;

use super::connection::within;
use crate::Secret;
use crate::lease::{Account, AccountName, Ending, Finding, Found, Kind, Minted, Node, Plan, Prefix, Step, Tag, TargetCode, TargetError, TargetIds};
use resp::Reply;
use session::{Session, target};

/// What the broker's own user must be allowed: `ACL SETUSER broker on >.. resetkeys resetchannels -@all +acl|setuser ..`.
pub const COMMANDS: [&str; 10] =
    ["acl|setuser", "acl|deluser", "acl|getuser", "acl|users", "acl|save", "acl|dryrun", "client|list", "client|kill", "config|rewrite", "info"];

const RIGHTS_MAX: usize = 64;
const RULES_MAX: usize = 256;
const NODES_MAX: usize = 32;
/// What the names of our connections begin with.
const OURS: &str = "bailiwick";

/// A server, its replicas or the members of its cluster, and what leases may have there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Every node: primaries and replicas. A host that begins with `/` is the path of a Unix socket.
    pub nodes: Vec<Node>,
    /// The broker's own user.
    pub user: String,
    /// The rights that a plan may ask for, by name, and the ACL rules of each: `~orders:*`, `&news.*`, `+@read`, `-get`. What is `@dangerous` comes
    /// with no category: it must be named as a command. What is `@admin` cannot be given.
    pub rights: BTreeMap<String, Vec<String>>,
}

impl Settings {
    /// Whether everything is within its range.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if there is no node, a setting is out of its range, or a rule is none that a right may have.
    pub fn check(&self) -> Result<(), TargetError> {
        let wrong = |what: &str| Err(TargetError::new(TargetCode::Plan, Step::Connect, "", what));
        let names: BTreeSet<_> = self.nodes.iter().map(Node::name).collect();
        if self.nodes.is_empty() || self.nodes.len() > NODES_MAX || names.len() < self.nodes.len() {
            return wrong("expected 1 to 32 nodes with different names");
        }
        if !(1..=128).contains(&self.user.len()) || self.user.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return wrong("expected a user of 1 to 128 characters without spaces");
        }
        if self.rights.len() > RIGHTS_MAX || self.rights.values().map(Vec::len).sum::<usize>() > RULES_MAX {
            return wrong("expected at most 64 rights with at most 256 rules together");
        }
        if let Some(rule) = self.rights.values().flatten().find(|rule| !rules::is_allowed(rule)) {
            return wrong(&format!("`{rule}` is no rule that a right may have: keys, channels, categories and commands, none of administration"));
        }
        Ok(())
    }
}

/// Users of the nodes of one system.
pub struct Redis {
    settings: Settings,
    secret: Secret,
    clock: Arc<dyn Clock>,
}

impl Redis {
    /// A system as it is configured; `secret` is the password of the broker's own user. Nothing is connected yet.
    ///
    /// # Errors
    /// As [`Settings::check`].
    pub fn new(settings: Settings, secret: Secret, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        settings.check()?;
        Ok(Self { settings, secret, clock })
    }

    /// A new connection with our own user: with the rights that it has now.
    async fn at(&self, node: &Node, name: &str) -> Result<Session, TargetError> {
        Session::open_own(node, &self.settings.user, &self.secret, name).await
    }

    async fn mint_user(&self, plan: &Plan, secret: &Secret) -> Result<Minted, TargetError> {
        let wrong = |what: &str| Err(TargetError::new(TargetCode::Plan, Step::Mint, "", what));
        if let Some(right) = plan.rights.iter().find(|right| !self.settings.rights.contains_key(*right)) {
            return wrong(&format!("`{right}` is none of the configured rights"));
        }
        if plan.rights.len() > RIGHTS_MAX {
            return wrong("more than 64 rights");
        }
        if secret.is_empty() {
            return wrong("the password is empty");
        }
        let rules = rules::of(plan.rights.iter().filter_map(|right| self.settings.rights.get(right)).flatten());
        let digest = password_digest(secret);
        let made = join_all(self.settings.nodes.iter().map(|node| self.mint_at(node, plan, &digest, &rules))).await;
        let mut ids = TargetIds::default();
        for (node, run) in self.settings.nodes.iter().zip(made) {
            ids = ids.and(&run_word(node), run?);
        }
        Ok(Minted { ids, secret: None, expires_at: None })
    }

    /// Makes the user on one node; gives the id of the server's run.
    async fn mint_at(&self, node: &Node, plan: &Plan, digest: &str, rules: &[&str]) -> Result<String, TargetError> {
        // The connection bears the lease's name before anything that creates is sent, so that an end can cut it off and cannot be overtaken.
        let mut session = self.at(node, &minter(&plan.name)).await?;
        let run = session.info(Step::Mint, &["server"]).await?.find("run_id").unwrap_or_default().to_owned();
        let name = plan.name.as_str();
        if let Some(passwords) = passwords(&mut session, Step::Mint, name).await?
            && passwords != [digest]
        {
            return Err(TargetError::new(TargetCode::Taken, Step::Mint, node.name(), "the user is there with another password"));
        }
        let by_digest = format!("#{digest}");
        let words: Vec<_> = ["ACL", "SETUSER", name, "reset", "on", &by_digest].into_iter().chain(rules.iter().copied()).collect();
        // The server's words may have a rule in them, and no password: it never comes here.
        session.run(Step::Mint, &words).await?;
        Ok(run)
    }

    async fn list_users(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        let lists = join_all(self.settings.nodes.iter().map(|node| self.list_at(node))).await;
        let mut found: BTreeMap<AccountName, Found> = BTreeMap::new();
        for (node, names) in self.settings.nodes.iter().zip(lists) {
            for name in names?.into_iter().filter(|name| prefix.covers(name)) {
                let this = Found { name: name.clone(), ids: TargetIds::default(), tag: None, node: node.name().to_owned() };
                found.entry(name).or_insert(this);
            }
        }
        Ok(found.into_values().collect())
    }

    async fn list_at(&self, node: &Node) -> Result<Vec<AccountName>, TargetError> {
        let mut session = self.at(node, OURS).await?;
        let reply = session.run(Step::List, &["ACL", "USERS"]).await?;
        Ok(reply.items().iter().filter_map(Reply::text).filter_map(|name| name.parse().ok()).collect())
    }
}

#[async_trait::async_trait]
impl Kind for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        super::random_password().map(Some)
    }

    async fn preflight(&self, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
        within(Step::Verify, preflight::preflight(self, probe)).await
    }

    async fn mint(&self, plan: &Plan, secret: Option<&Secret>) -> Result<Minted, TargetError> {
        within(Step::Mint, self.mint_user(plan, super::proposed(secret)?)).await
    }

    /// Nothing of a user says for whom it is, and nothing expires it: the connection's name does, and the lease.
    async fn assign(&self, _account: &Account, _tag: &Tag) -> Result<(), TargetError> {
        Ok(())
    }

    async fn end(&self, account: &Account) -> Result<Ending, TargetError> {
        within(Step::Remove, ending::end(self, account)).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        within(Step::List, self.list_users(prefix)).await
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The digests of a user's passwords; `None` if there is no such user.
async fn passwords(session: &mut Session, step: Step, name: &str) -> Result<Option<Vec<String>>, TargetError> {
    let reply = session.run(step, &["ACL", "GETUSER", name]).await?;
    if reply == Reply::Null {
        return Ok(None);
    }
    let fields = reply.items();
    let at = fields.iter().position(|field| field.text().as_deref() == Some("passwords"));
    let values = at.and_then(|at| fields.get(at.saturating_add(1))).map_or(&[][..], Reply::items);
    Ok(Some(values.iter().filter_map(Reply::text).map(Cow::into_owned).collect()))
}

/// SHA-256 of the password in hexadecimal, as Redis keeps it: 256 random bits need no salt.
fn password_digest(secret: &Secret) -> String {
    let digest = digest::digest(&digest::SHA256, secret.expose());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a connection that mints.
fn minter(name: &AccountName) -> String {
    format!("{OURS}:mint:{name}")
}

/// The word under which the run of a node's server is remembered: what was saved in another run cannot be told.
fn run_word(node: &Node) -> String {
    format!("run:{}", node.name())
}
