//! `PostgreSQL`: a role for each lease, a member of groups, with a verifier computed here; ended on every node, by its oid.
//!
//! What was measured on real servers, and rules this file: a session that did `SET ROLE` outlives `DROP ROLE`, so sessions are ended by oid
//! before and after it. Direct grants fill the catalogue and collide, so rights come by group only. A lagging standby accepts the login
//! of a role that is gone, so an end waits until each standby has replayed it, and tries the login there.
//!
//! `PostgreSQL` 14 or newer. The broker's own role is no superuser: `CREATEROLE`, `pg_signal_backend`, and the groups with admin option.

mod ahead;
mod ending;
mod preflight;
pub(super) mod scram;
pub(super) mod session;
pub(super) mod sql;
mod tls;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use bailiwick_core::Clock;
use zeroize::Zeroizing;

use crate::Secret;
use crate::lease::{Account, AccountName, Ending, Finding, Found, Kind, Minted, Node, Plan, Prefix, Step, Tag, TargetCode, TargetError, TargetIds};
use ahead::Ahead;
use session::{Door, Session};
use sql::{identifier, literal, text_literal};

/// Whatever is called ends after this long, with `busy`.
const CALL_MAX: Duration = Duration::from_secs(55);
const GROUPS_MAX: usize = 64;
const NODES_MAX: usize = 32;
/// The first half of our advisory locks' keys.
const LOCK_CLASS: i32 = 0x6167_6c65;
/// The word under which a role's oid is remembered.
const OID: &str = "oid";

/// A cluster, and what its leases may have there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Every node on which an account can log in; the usual primary first. After a failover the order need not be changed.
    pub nodes: Vec<Node>,
    /// The database that the broker connects to. It reaches the others only to remove what an account left there.
    pub database: String,
    /// The broker's own role.
    pub user: String,
    /// The groups that a plan may ask for.
    pub groups: Vec<String>,
    /// How many connections an account may have at once, on each node.
    pub connections: u32,
    /// How long an account's statement may take. The account can lift it: a guard against accidents, and no limit.
    pub statement_timeout: Duration,
    /// Whether objects of others that depend on what an account made are dropped with it. Otherwise such an end waits for a person,
    /// with the account shut out and without its groups.
    pub cascade: bool,
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
        if self.groups.len() > GROUPS_MAX || !self.groups.iter().all(|group| fits(group)) {
            return wrong("expected at most 64 groups, each of 1 to 63 bytes");
        }
        if !fits(&self.database) || !fits(&self.user) || self.groups.contains(&self.user) {
            return wrong("expected a database, and a user that is none of the groups");
        }
        if !(1..=1000).contains(&self.connections) {
            return wrong("expected 1 to 1000 connections for each account");
        }
        Ok(())
    }
}

/// Roles of one cluster.
pub struct Postgresql {
    doors: Vec<Door>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    ahead: Arc<Ahead>,
}

impl Postgresql {
    /// A cluster as it is configured; `secret` is the password of the broker's own role. Nothing is connected yet.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if there is no node, or a setting is out of its range.
    pub fn new(settings: Settings, secret: Secret, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        settings.check()?;
        let secret = Arc::new(secret);
        let doors = settings.nodes.iter().map(|node| Door::new(node.clone(), &settings.user, &settings.database, Arc::clone(&secret))).collect();
        Ok(Self { doors, settings, clock, ahead: Arc::default() })
    }

    /// A session at the node that accepts writes, usually the first, and the rows of what it began with, which says first whether it is a standby.
    async fn at_writer(&self, step: Step, begin: &str) -> Result<(&Door, Session, sql::Rows), TargetError> {
        let mut trouble = None;
        for door in &self.doors {
            let session = match door.take(step).await {
                Ok(session) => session,
                Err(error) => {
                    trouble.get_or_insert(error);
                    continue;
                }
            };
            let rows = session.run(step, begin).await?;
            if sql::cell(&rows, 0, 0) == Some("f") {
                return Ok((door, session, rows));
            }
        }
        Err(trouble.unwrap_or_else(|| TargetError::new(TargetCode::Busy, step, "", "no node accepts writes")))
    }

    fn check_rights(&self, rights: &[String]) -> Result<(), TargetError> {
        match rights.iter().find(|right| !self.settings.groups.contains(right)) {
            None if rights.len() <= GROUPS_MAX => Ok(()),
            None => Err(TargetError::new(TargetCode::Plan, Step::Mint, "", "more than 64 groups")),
            Some(right) => Err(TargetError::new(TargetCode::Plan, Step::Mint, "", &format!("`{right}` is none of the configured groups"))),
        }
    }

    async fn mint_role(&self, plan: &Plan, secret: &Secret) -> Result<Minted, TargetError> {
        self.check_rights(&plan.rights)?;
        // Else it is hashed now, while the server answers.
        let foreseen = self.ahead.take(secret);
        let hashing = foreseen.is_none().then(|| {
            let copy = Zeroizing::new(secret.expose().to_vec());
            tokio::task::spawn_blocking(move || scram::verifier(&Secret::from(copy)))
        });
        // The lock is held before anything that creates is sent, so that an end cannot overtake us.
        let (door, session, rows) = self.at_writer(Step::Mint, &format!("{}; {}", locked(&plan.name), is_there(&plan.name))).await?;
        let verifier = match (foreseen, hashing) {
            (Some(verifier), _) => verifier,
            (None, Some(hashing)) => hashing.await.map_err(|_| not_hashed())??,
            (None, None) => return Err(not_hashed()),
        };
        // INVARIANT: what creates is one statement batch in one transaction, so that a role without its tag or groups is never seen.
        let found = if sql::cell(&rows, 2, 0).is_some() { session.run(Step::Mint, &found(&plan.name)).await? } else { sql::Rows::new() };
        let sql = match found.first() {
            None => self.creation(plan, &verifier),
            Some(role) => {
                let same = role.get(2).and_then(Option::as_deref).and_then(Tag::parse).as_ref() == Some(&plan.tag);
                if !same || role.get(1).and_then(Option::as_deref) != Some("t") {
                    return Err(TargetError::new(TargetCode::Taken, Step::Mint, door.name(), "the role is there and is not this lease's"));
                }
                format!("ALTER ROLE {} PASSWORD {}", identifier(plan.name.as_str()), literal(&verifier))
            }
        };
        let rows = session.run(Step::Mint, &format!("{UNWAITED}; {sql}; {}; COMMIT", oid_of(&plan.name))).await?;
        door.put_back(session);
        // Nobody waits for a verifier now.
        self.ahead.make_spare();
        let oid = sql::cell(&rows, 0, 0).ok_or_else(|| TargetError::new(TargetCode::Protocol, Step::Mint, door.name(), "the role has no oid"))?;
        Ok(Minted { ids: TargetIds::one(OID, oid), secret: None, expires_at: Some(plan.tag.expires_at) })
    }

    fn creation(&self, plan: &Plan, verifier: &str) -> String {
        let role = identifier(plan.name.as_str());
        let groups: Vec<_> = plan.rights.iter().map(|group| identifier(group)).collect();
        let within = if groups.is_empty() { String::new() } else { format!(" IN ROLE {}", groups.join(", ")) };
        let (connections, timeout) = (self.settings.connections, self.settings.statement_timeout.as_millis());
        format!(
            "CREATE ROLE {role} LOGIN INHERIT NOCREATEDB NOCREATEROLE NOSUPERUSER NOREPLICATION NOBYPASSRLS CONNECTION LIMIT {connections} \
             PASSWORD {} VALID UNTIL {}{within}; GRANT {role} TO CURRENT_USER; COMMENT ON ROLE {role} IS {}; \
             ALTER ROLE {role} SET application_name = {}; ALTER ROLE {role} SET statement_timeout = {timeout}; \
             ALTER ROLE {role} SET idle_in_transaction_session_timeout = {timeout}",
            literal(verifier),
            literal(&plan.tag.expires_at.to_string()),
            text_literal(&plan.tag.to_text()),
            literal(&plan.tag.connection_name(63)),
        )
    }

    async fn assign_role(&self, account: &Account, tag: &Tag) -> Result<(), TargetError> {
        let role = identifier(account.name.as_str());
        let (door, session, _) = self.at_writer(Step::Mint, "BEGIN; SELECT pg_is_in_recovery()").await?;
        let sql = format!(
            "{UNWAITED}; ALTER ROLE {role} VALID UNTIL {}; COMMENT ON ROLE {role} IS {}; ALTER ROLE {role} SET application_name = {}; COMMIT",
            literal(&tag.expires_at.to_string()),
            text_literal(&tag.to_text()),
            literal(&tag.connection_name(63)),
        );
        session.run(Step::Mint, &sql).await?;
        door.put_back(session);
        Ok(())
    }

    async fn list_roles(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        let sql = format!(
            "SELECT pg_is_in_recovery(); SELECT rolname, oid, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE starts_with(rolname, {}) \
             ORDER BY rolname",
            literal(prefix.as_str())
        );
        let (door, session, rows) = self.at_writer(Step::List, &sql).await?;
        door.put_back(session);
        let found = rows.iter().skip(1).filter_map(|row| {
            let name = row.first()?.as_deref()?.parse::<AccountName>().ok()?;
            let tag = row.get(2).and_then(Option::as_deref).and_then(Tag::parse);
            Some(Found { name, ids: TargetIds::one(OID, row.get(1)?.as_deref()?), tag, node: door.name().to_owned() })
        });
        Ok(found.filter(|found| prefix.covers(&found.name)).collect())
    }
}

#[async_trait::async_trait]
impl Kind for Postgresql {
    fn kind(&self) -> &'static str {
        "postgresql"
    }

    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        self.ahead.propose().map(Some)
    }

    async fn preflight(&self, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
        within(Step::Verify, preflight::preflight(self, probe)).await
    }

    async fn mint(&self, plan: &Plan, secret: Option<&Secret>) -> Result<Minted, TargetError> {
        let secret = secret.ok_or_else(|| TargetError::new(TargetCode::Plan, Step::Mint, "", "a role needs the secret that was proposed"))?;
        within(Step::Mint, self.mint_role(plan, secret)).await
    }

    async fn assign(&self, account: &Account, tag: &Tag) -> Result<(), TargetError> {
        within(Step::Mint, self.assign_role(account, tag)).await
    }

    async fn end(&self, account: &Account) -> Result<Ending, TargetError> {
        within(Step::Remove, ending::end(self, account)).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        within(Step::List, self.list_roles(prefix)).await
    }
}

impl fmt::Debug for Postgresql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgresql").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn not_hashed() -> TargetError {
    TargetError::new(TargetCode::Internal, Step::Mint, "", "the verifier was not computed")
}

/// A role that a crash of the server takes with it is a role less: its making is not waited for on the server's disk, only its end is. What the
/// role writes comes after it in the server's log, so nothing of it can be there without it.
const UNWAITED: &str = "SET LOCAL synchronous_commit = off";

async fn within<T>(step: Step, work: impl Future<Output = Result<T, TargetError>>) -> Result<T, TargetError> {
    tokio::time::timeout(CALL_MAX, work).await.map_err(|_| TargetError::new(TargetCode::Busy, step, "", "it takes longer than 55 seconds"))?
}

/// Begins a transaction, takes the lock of the name, and says whether this node is a standby (row 0; row 1 is the lock's) and what role has
/// the name (row 2).
fn fence(name: &AccountName) -> String {
    format!("{}; {}", locked(name), found(name))
}

/// Begins a transaction, says whether this node is a standby (row 0), and takes the lock of the name (row 1).
fn locked(name: &AccountName) -> String {
    let key = lock_key(name);
    format!("BEGIN; SELECT pg_is_in_recovery(); SELECT pg_advisory_xact_lock({LOCK_CLASS}, {key})")
}

/// Whether a role has the name: NULL if none has. This is asked of the server's cache of names, without a plan.
fn is_there(name: &AccountName) -> String {
    format!("SELECT to_regrole({})", literal(&identifier(name.as_str())))
}

/// The role of the name: oid, may log in, comment. No row if there is none.
fn found(name: &AccountName) -> String {
    format!("SELECT oid, rolcanlogin, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = {}", literal(name.as_str()))
}

fn oid_of(name: &AccountName) -> String {
    format!("SELECT oid FROM pg_roles WHERE rolname = {}", literal(name.as_str()))
}

/// The second half of the lock's key. Two names with one key wait for each other, and nothing else.
fn lock_key(name: &AccountName) -> i32 {
    let hash = digest::digest(&digest::SHA256, name.as_str().as_bytes());
    hash.as_ref().first_chunk().copied().map_or(0, i32::from_be_bytes)
}

fn fits(name: &str) -> bool {
    (1..=63).contains(&name.len()) && !name.contains('\0')
}
