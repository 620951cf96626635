//! `RabbitMQ`: a user for each lease, by the management API, with a password hash computed here; its removal closes what is open, and its login
//! is tried by AMQP on every node.
//!
//! What was measured on real servers, and rules this file: a changed password and removed permissions leave open channels as they are; the
//! removal of the user closes them, and whoever has logged in and not yet opened a virtual host is refused there. The API answers 401 to a user without
//! a tag whether its password is right or not, so that only AMQP shows that a login is dead. Nothing expires a user. Tags become Erlang atoms, which
//! are never freed, so a lease's name or task is never put into one.
//!
//! The server has no locks and tells of no API connection, so bytes of a mint that was killed could come after its end. The first of them makes a user
//! without any permission, and the second is refused without the first. An end that does not know its mint's answer waits and looks again.

pub(crate) mod amqp;
mod api;
mod ending;
mod preflight;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{digest, rand};
use bailiwick_core::Clock;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::connection::within;
use crate::Secret;
use crate::lease::{Account, AccountName, Ending, Finding, Found, Kind, Minted, Node, Plan, Prefix, Step, Tag, TargetCode, TargetError, TargetIds};
use api::{Api, encoded};

const RIGHTS_MAX: usize = 64;
const NODES_MAX: usize = 32;
const PATTERN_MAX: usize = 256;
/// The word under which it is remembered that the mint was answered.
const MADE: &str = "made";

/// What a right lets an account do in one virtual host. Each pattern is a regular expression that the whole name of a queue or an exchange must match; an
/// empty one matches none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// The virtual host.
    pub vhost: String,
    /// What it may declare and delete.
    pub configure: String,
    /// What it may publish to and bind.
    pub write: String,
    /// What it may consume from.
    pub read: String,
}

/// A cluster, and what leases may have there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The management API of one or more nodes. The first that answers is asked.
    pub api: Vec<Node>,
    /// Where each node of the cluster speaks AMQP: an account can log in at every one.
    pub nodes: Vec<Node>,
    /// The broker's own user, with the tag `administrator`.
    pub user: String,
    /// The rights that a plan may ask for, by name. A plan has at most one of each virtual host.
    pub rights: BTreeMap<String, Right>,
    /// How many connections an account may have at once.
    pub connections: u32,
}

impl Settings {
    /// Whether everything is within its range.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if there is no node, or a setting is out of its range.
    pub fn check(&self) -> Result<(), TargetError> {
        let wrong = |what: &str| Err(TargetError::new(TargetCode::Plan, Step::Connect, "", what));
        if self.nodes.is_empty() || self.nodes.len() > NODES_MAX || self.api.is_empty() || self.api.len() > NODES_MAX {
            return wrong("expected 1 to 32 nodes, and 1 to 32 places of the API");
        }
        if self.api.iter().chain(&self.nodes).any(|node| node.host().starts_with('/')) {
            return wrong("the server speaks on no Unix socket");
        }
        let fits = |right: &Right| [&right.vhost, &right.configure, &right.write, &right.read].iter().all(|text| text.len() <= PATTERN_MAX);
        if self.rights.len() > RIGHTS_MAX || !self.rights.values().all(|right| fits(right) && !right.vhost.is_empty()) {
            return wrong("expected at most 64 rights, with a virtual host and patterns of at most 256 bytes");
        }
        if !(1..=128).contains(&self.user.len()) || self.user.chars().any(|c| c.is_control() || c == ':') {
            return wrong("expected a user of 1 to 128 characters without colons");
        }
        if !(1..=1000).contains(&self.connections) {
            return wrong("expected 1 to 1000 connections for each account");
        }
        Ok(())
    }
}

/// Users of one cluster.
pub struct Rabbitmq {
    api: Api,
    secret: Arc<Secret>,
    settings: Settings,
    clock: Arc<dyn Clock>,
}

impl Rabbitmq {
    /// A cluster as it is configured; `secret` is the password of the broker's own user. Nothing is connected yet.
    ///
    /// # Errors
    /// As [`Settings::check`].
    pub fn new(settings: Settings, secret: Secret, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        settings.check()?;
        let secret = Arc::new(secret);
        Ok(Self { api: Api::new(settings.api.clone(), &settings.user, Arc::clone(&secret)), secret, settings, clock })
    }

    /// The rights that the plan asks for.
    fn rights(&self, plan: &Plan) -> Result<Vec<&Right>, TargetError> {
        let wrong = |what: &str| TargetError::new(TargetCode::Plan, Step::Mint, "", what);
        let mut vhosts = BTreeSet::new();
        let mut rights = Vec::new();
        for name in &plan.rights {
            let right = self.settings.rights.get(name).ok_or_else(|| wrong(&format!("`{name}` is none of the configured rights")))?;
            if !vhosts.insert(&right.vhost) {
                return Err(wrong("an account has one right in each virtual host"));
            }
            rights.push(right);
        }
        Ok(rights)
    }

    async fn mint_user(&self, plan: &Plan, secret: &Secret) -> Result<Minted, TargetError> {
        let rights = self.rights(plan)?;
        if secret.is_empty() {
            return Err(TargetError::new(TargetCode::Plan, Step::Mint, "", "the password is empty"));
        }
        let path = user_path(&plan.name);
        if let Some(user) = self.api.find(Step::Mint, &path).await? {
            let hash = user.get("password_hash").and_then(Value::as_str).unwrap_or_default();
            if !is_hash_of(hash, secret) {
                return Err(TargetError::new(TargetCode::Taken, Step::Mint, "", "the user is there with another password"));
            }
        }
        // A user without permissions can open no virtual host. Without the user, permissions and limits are refused.
        let user = json!({ "password_hash": password_hash(secret)?, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "" });
        self.api.put(Step::Mint, &path, &user).await?;
        let limit = format!("/user-limits/{}/max-connections", plan.name);
        self.api.put(Step::Mint, &limit, &json!({ "value": self.settings.connections })).await?;
        for right in rights {
            let permissions = json!({ "configure": whole(&right.configure), "write": whole(&right.write), "read": whole(&right.read) });
            self.api.put(Step::Mint, &format!("/permissions/{}/{}", encoded(&right.vhost), plan.name), &permissions).await?;
        }
        Ok(Minted { ids: TargetIds::one(MADE, "yes"), secret: None, expires_at: None })
    }

    async fn list_users(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        let users = self.api.find(Step::List, "/users?columns=name").await?;
        let users = users.as_ref().and_then(Value::as_array);
        let users = users.ok_or_else(|| TargetError::new(TargetCode::Protocol, Step::List, "", "the server does not list its users"))?;
        let names = users.iter().filter_map(|user| user.get("name")?.as_str()?.parse::<AccountName>().ok());
        let found = |name| Found { name, ids: TargetIds::default(), tag: None, node: String::new() };
        Ok(names.filter(|name| prefix.covers(name)).map(found).collect())
    }
}

#[async_trait::async_trait]
impl Kind for Rabbitmq {
    fn kind(&self) -> &'static str {
        "rabbitmq"
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

impl fmt::Debug for Rabbitmq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rabbitmq").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn user_path(name: &AccountName) -> String {
    format!("/users/{name}")
}

/// The server looks for the pattern anywhere in a name; we mean all of it. Its empty pattern matches no name.
fn whole(pattern: &str) -> String {
    if pattern.is_empty() { String::new() } else { format!("^(?:{pattern})$") }
}

/// `rabbit_password_hashing_sha256`: four bytes of salt, then SHA-256 of salt and password.
fn password_hash(secret: &Secret) -> Result<String, TargetError> {
    let mut salt = [0; 4];
    rand::fill(&mut salt).map_err(|_| TargetError::new(TargetCode::Internal, Step::Mint, "", "no randomness is available"))?;
    Ok(STANDARD.encode(salted(salt, secret)))
}

fn is_hash_of(hash: &str, secret: &Secret) -> bool {
    let Ok(hash) = STANDARD.decode(hash) else { return false };
    hash.first_chunk::<4>().is_some_and(|salt| salted(*salt, secret) == hash)
}

fn salted(salt: [u8; 4], secret: &Secret) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&salt);
    context.update(secret.expose());
    let digest = context.finish();
    salt.iter().chain(digest.as_ref()).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_that_of_the_servers_documentation() {
        // RabbitMQ, "Password hashing": salt 908D C60A, password `test12`.
        let secret = Secret::from("test12".to_owned());
        assert_eq!(STANDARD.encode(salted([0x90, 0x8d, 0xc6, 0x0a], &secret)), "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR");
        let hash = password_hash(&secret).unwrap();
        assert!(is_hash_of(&hash, &secret) && !is_hash_of(&hash, &Secret::from("test13".to_owned())));
        assert!(!is_hash_of("", &secret) && !is_hash_of("?", &secret));
        assert_ne!(hash, password_hash(&secret).unwrap());
    }

    #[test]
    fn a_pattern_means_the_whole_name_and_an_empty_one_none() {
        assert_eq!(whole(""), "");
        assert_eq!(whole("a|b"), "^(?:a|b)$");
    }
}
