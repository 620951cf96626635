//! The life of a credential at its system: a name, what is made under it, and an ending with evidence. Every kind implements [`Kind`].
//!
//! A kind is one file of `kinds`; `docs/guides/add-a-credential-kind.md` shows how one is written. ADR 0013 says why the face is as it is.
//!
//! The caller keeps the order in which things become durable:
//!
//! 1. It makes an [`AccountName`] and asks the kind to [propose](Kind::propose) a secret.
//! 2. It writes the intent down, durably: name, rights, tag and the sealed secret.
//! 3. It calls [`Kind::mint`] and writes [`Minted::ids`] and the target's own expiry down.
//! 4. At the end it calls [`Kind::end`] until there is an [`Ending`], writes that down and destroys the sealed secret.
//!
//! The secret is sealed *before* it exists at the system and kept until the ending, because an end after a crash must try the login
//! that it claims to have ended. A login with another password would be refused by a live account too, and so would show nothing.

mod ending;
mod name;
mod node;
pub mod rotation;

use std::collections::BTreeMap;
use std::fmt;

use bailiwick_core::Timestamp;

pub use ending::{Ending, Evidence, Step, TargetCode, TargetError, Tried};
pub use name::{AccountName, AccountNameError, Prefix};
pub use node::{Node, NodeError, Trust};

use crate::Secret;

/// A kind of credential at one configured system, with every node of that system.
///
/// What holds for each method of each kind:
///
/// * It needs nothing but its arguments: another process may call it after a crash.
/// * It may be dropped at any await, and what it began is then either not done at all or found and ended by [`Kind::end`].
///   That includes bytes that are still on their way: an `end` that overtakes the `mint` it cleans up after must not see "nothing there"
///   and leave an account to be born a moment later. Kinds take a lock by the account's name at the system, or the like.
/// * It returns within a minute, with [`TargetCode::Busy`] if the system needs longer. It never retries for ever: its caller does.
/// * No secret stands in an error, in evidence or in the system's log of statements.
#[async_trait::async_trait]
pub trait Kind: Send + Sync + fmt::Debug {
    /// The kind's word in the configuration, such as `postgresql`.
    fn kind(&self) -> &'static str;

    /// A fresh secret to mint with, to be sealed and written down before [`Kind::mint`]. `None` where the system makes the secret.
    ///
    /// # Errors
    /// [`TargetCode::Internal`] if there is no randomness.
    fn propose(&self) -> Result<Option<Secret>, TargetError>;

    /// Proves that our own account can create, kill, remove and verify on every node, by doing it once with the account `probe`,
    /// whose name the caller has written down like any other and ends like any other if this fails. An empty list is a pass.
    ///
    /// # Errors
    /// Only if it cannot be found out, as when a node cannot be reached. A system that fails is not served.
    async fn preflight(&self, probe: &AccountName) -> Result<Vec<Finding>, TargetError>;

    /// Makes the account, and nothing but it. Called again with the same plan and secret, it finds the account and gives the same answer.
    /// `secret` is what was proposed, and `None` exactly where nothing was.
    ///
    /// # Errors
    /// After any error the account may or may not be there: the caller mints again or ends the name. It never takes the name for something else.
    async fn mint(&self, plan: &Plan, secret: Option<&Secret>) -> Result<Minted, TargetError>;

    /// Gives an account that was minted beforehand to a task: its tag and its expiry. For pools. Kinds without such a way say so.
    ///
    /// # Errors
    /// [`TargetCode::Unsupported`], or what the system said. The account is then not to be used, and is to be ended.
    async fn assign(&self, _account: &Account, _tag: &Tag) -> Result<(), TargetError> {
        Err(TargetError::new(TargetCode::Unsupported, Step::Mint, "", "this kind cannot give an account to a task afterwards"))
    }

    /// An account that was ended and has not expired long since, told at each start: for kinds whose systems could let it in again. Kinds
    /// whose systems forget nothing need not listen.
    fn remember(&self, _account: &Account) {}

    /// Is it to be told by [`remember`](Self::remember)?
    fn listens(&self) -> bool {
        false
    }

    /// Ends the account on every node: shuts the door, kills what is open, removes it, and tries the credential to see that it is refused.
    /// Each step may be done already. An account that was never made, or is gone, ends as well.
    ///
    /// # Errors
    /// What is left to do could not be done now. The account is to be taken for alive, and this is to be called again.
    async fn end(&self, account: &Account) -> Result<Ending, TargetError>;

    /// Every account of the system whose name is one of ours under `prefix`, on whichever node. Other names are never given, whatever they begin with.
    ///
    /// # Errors
    /// What the system said. There is no partial list.
    async fn list(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError>;
}

/// Ends every account of the prefix that `explains` does not know as a lease that has not ended. Gives what it found: each is an incident.
///
/// `explains` is asked after the accounts were listed, so a lease whose intent was written down before its mint is always known.
///
/// # Errors
/// The accounts could not be listed. An orphan that could not be ended is in the list, with the error.
pub async fn sweep(kind: &dyn Kind, prefix: &Prefix, explains: &(dyn Fn(&AccountName) -> bool + Sync)) -> Result<Vec<Orphan>, TargetError> {
    let mut orphans = Vec::new();
    for found in kind.list(prefix).await? {
        if explains(&found.name) {
            continue;
        }
        let account = Account { name: found.name.clone(), ids: found.ids.clone(), secret: None, expires_at: None };
        let ending = kind.end(&account).await;
        orphans.push(Orphan { found, ending });
    }
    Ok(orphans)
}

/// What is to be minted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The account's name, written down before.
    pub name: AccountName,
    /// For whom, and until when. The expiry is set at the system too, where it has one: a second lock.
    pub tag: Tag,
    /// What the account may do, in the kind's own words (`PostgreSQL`: groups, Redis: rules, and so on). The kind refuses what it does not know.
    pub rights: Vec<String>,
}

/// The chain in the system's own log: what its comment, connection name or key id says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tag {
    /// The task's id.
    pub task: String,
    /// The agent's identity.
    pub agent: String,
    /// When the lease ends at the latest.
    #[serde(rename = "exp")]
    pub expires_at: Timestamp,
}

impl Tag {
    /// The longest text form, in bytes, that is read back.
    pub const TEXT_MAX: usize = 1024;

    /// `{"task":"task_..","agent":"spiffe://..","exp":"2026-11-23T10:00:00.000Z"}`, for a comment or an attribute.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::json!({ "task": self.task, "agent": self.agent, "exp": self.expires_at }).to_string()
    }

    /// Reads [`Tag::to_text`] back. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > Self::TEXT_MAX { None } else { serde_json::from_str(text).ok() }
    }

    /// `bailiwick task_.. agent`, at most `max` bytes of ASCII without control characters, for a connection's name.
    #[must_use]
    pub fn connection_name(&self, max: usize) -> String {
        format!("bailiwick {} {}", self.task, self.agent).chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).take(max).collect()
    }
}

/// What the mint left to remember.
#[derive(Debug)]
#[must_use]
pub struct Minted {
    /// What the system calls the account (`PostgreSQL`: the role's oid), to be written down: an end finds the account's remains by them.
    pub ids: TargetIds,
    /// The secret, where the system made it. To be sealed and written down at once.
    pub secret: Option<Secret>,
    /// When the system itself stops to honour the credential. `None` if it never does.
    pub expires_at: Option<Timestamp>,
}

/// What is remembered of an account; enough to end it.
#[derive(Debug)]
pub struct Account {
    /// Its name.
    pub name: AccountName,
    /// What the mint left to remember; empty if the mint's answer was lost.
    pub ids: TargetIds,
    /// The secret, opened for this end. Without it the ending cannot be verified by use, and says so.
    pub secret: Option<Secret>,
    /// As in [`Minted::expires_at`], if it is known.
    pub expires_at: Option<Timestamp>,
}

impl Account {
    /// The name to log in with: the account's own, unless the mint left another one (an account that was there before).
    #[must_use]
    pub fn login(&self) -> &str {
        self.ids.find(TargetIds::LOGIN).unwrap_or(self.name.as_str())
    }

    /// The secret itself, for an agent that is allowed to have it; `None` if there is none or it is no text. This is the one way out of
    /// this room: whoever calls it has a permit for exactly that.
    #[must_use]
    pub fn hand_out(&self) -> Option<zeroize::Zeroizing<String>> {
        let secret = self.secret.as_ref()?;
        std::str::from_utf8(secret.expose()).ok().map(|text| zeroize::Zeroizing::new(text.to_owned()))
    }
}

/// What a system calls an account, by word. Few and short; no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct TargetIds(BTreeMap<String, String>);

impl TargetIds {
    /// The word for a name to log in with that is not the account's own.
    pub const LOGIN: &str = "login";

    /// One word and what it is.
    #[must_use]
    pub fn one(word: &str, id: impl fmt::Display) -> Self {
        Self::default().and(word, id)
    }

    /// And another word.
    #[must_use]
    pub fn and(mut self, word: &str, id: impl fmt::Display) -> Self {
        self.0.insert(word.to_owned(), id.to_string());
        self
    }

    /// What the word stands for.
    #[must_use]
    pub fn find(&self, word: &str) -> Option<&str> {
        self.0.get(word).map(String::as_str)
    }

    /// Is nothing known?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Something that our own account at the system cannot do.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The node on which.
    pub node: String,
    /// What it cannot do, and what would follow from that.
    pub missing: String,
    /// The statement or the step that gives it the right, to be run by the system's administrator.
    pub remedy: String,
}

/// An account found at the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: AccountName,
    /// What the system calls it.
    pub ids: TargetIds,
    /// What its comment says, if it says it.
    pub tag: Option<Tag>,
    /// The node on which it was found first.
    pub node: String,
}

/// An account that no live lease explains, and what became of it.
#[derive(Debug)]
pub struct Orphan {
    /// What was found.
    pub found: Found,
    /// How it ended, or why it could not be ended yet.
    pub ending: Result<Ending, TargetError>,
}

#[cfg(test)]
mod tests;
