//! `NATS`: a user of an account for each lease, signed here without asking a server; ended by a revocation that every later push carries on.
//!
//! What was measured on real servers, and rules this file: a revocation in the account's JWT ends open connections at once and refuses every JWT of
//! the user's key that is not newer; an account's JWT that is pushed later *without* it lets the user in again. So each push begins with what the
//! nodes have, read a moment before, and nothing has to be remembered here: a revocation of ours says itself until when it is needed. What somebody
//! else's push takes away is seen by [`list`](Kind::list) as an account that is back, and put back by the next end or [`Nats::restore`]. An empty list
//! of subjects means every subject to NATS; here it means none. A refused login is worded alike whatever the reason, so a control login with a fresh
//! user of the same account must go through beside it.
//!
//! Servers with a full resolver (`resolver: { type: full, .. }`): others forget at a restart what was pushed, or do not take it.

mod claims;
mod ending;
pub(crate) mod jwt;
pub(crate) mod nkey;
mod preflight;
pub(crate) mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bailiwick_core::{Clock, Timestamp};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::connection::within;
use crate::Secret;
use crate::lease::{Account, AccountName, Ending, Finding, Found, Kind, Minted, Node, Plan, Prefix, Step, TargetCode, TargetError, TargetIds};
use jwt::Claims;
use nkey::{Key, Role};
use session::{Session, target};

/// What the broker's own user of the system account must be allowed to publish; it subscribes below `_INBOX.>`.
pub const SUBJECTS: [&str; 3] = ["$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP", "$SYS.REQ.SERVER.*.CONNZ"];

const RIGHTS_MAX: usize = 64;
const SUBJECTS_MAX: usize = 256;
const NODES_MAX: usize = 32;
/// Connections are asked for in pages of this many.
const PAGE: usize = 512;
const PAGES_MAX: usize = 200;
/// How long a server may take for an answer of its own. The first push to a server that has just started takes longest.
const ASK_MAX: Duration = Duration::from_secs(4);
/// How far apart the servers' clocks and ours may be: a revocation stays this long after its user has expired.
const CLOCKS_DIFFER: Duration = Duration::from_secs(12 * 3600);
/// The word under which a user's public key is remembered.
pub(super) const USER: &str = "user";

/// What a right lets an account do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Right {
    /// Subjects that it may publish to. None means none.
    pub publish: Vec<String>,
    /// Subjects that it may subscribe to, besides its own inbox.
    pub subscribe: Vec<String>,
}

/// An account of a cluster, and what leases may have there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Every server.
    pub nodes: Vec<Node>,
    /// The account's public key, `A..`.
    pub account: String,
    /// Public keys of the operator (`O..`) that may have signed the account's JWT, besides the key that we sign with.
    pub operators: Vec<String>,
    /// The rights that a plan may ask for, by name.
    pub rights: BTreeMap<String, Right>,
    /// No lease is longer. What we know nothing else of is dead after this.
    pub lease_max: Duration,
    /// How many subscriptions an account may have at once.
    pub subscriptions: u32,
    /// How many bytes a message may have.
    pub payload_max: u32,
}

/// What we sign and log in with.
#[derive(Debug)]
pub struct Keys {
    /// The seed of the operator, or better of one of its signing keys: `SO..`. It signs the account's JWT when a user is revoked.
    pub operator: Secret,
    /// The seed of the account, or better of one of its signing keys: `SA..`. It signs users.
    pub account: Secret,
    /// Credentials of a user of the system account that may publish to [`SUBJECTS`].
    pub system: Secret,
}

/// A user that was ended, as long as its revocation is needed.
struct Ended {
    name: AccountName,
    /// No JWT of it was issued later, in seconds.
    at: i64,
    /// Until when its revocation is needed, in seconds.
    until: i64,
}

impl Settings {
    /// Whether everything is within its range.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if it is not, or a subject or a public key is none.
    pub fn check(&self) -> Result<(), TargetError> {
        let wrong = |what: &str| TargetError::new(TargetCode::Plan, Step::Connect, "", what);
        let names: BTreeSet<_> = self.nodes.iter().map(Node::name).collect();
        if self.nodes.is_empty() || self.nodes.len() > NODES_MAX || names.len() < self.nodes.len() {
            return Err(wrong("expected 1 to 32 nodes with different names"));
        }
        let subjects = || self.rights.values().flat_map(|right| right.publish.iter().chain(&right.subscribe));
        if self.rights.len() > RIGHTS_MAX || subjects().count() > SUBJECTS_MAX {
            return Err(wrong("expected at most 64 rights with at most 256 subjects together"));
        }
        if let Some(subject) = subjects().find(|subject| !is_subject(subject)) {
            return Err(wrong(&format!("`{subject}` is no subject")));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(7 * 86_400)).contains(&self.lease_max) {
            return Err(wrong("expected leases of one second to seven days"));
        }
        if nkey::public(&self.account, Role::Account).is_none() || self.operators.iter().any(|key| nkey::public(key, Role::Operator).is_none()) {
            return Err(wrong("expected the public key of an account, `A..`, and public keys of operators, `O..`"));
        }
        Ok(())
    }
}

/// Users of one account.
pub struct Nats {
    settings: Settings,
    operator: Key,
    account: Key,
    system: Key,
    system_jwt: String,
    clock: Arc<dyn Clock>,
    /// Users that this process ended or was told of, by their public keys.
    ended: std::sync::Mutex<BTreeMap<String, Ended>>,
    /// Who changes the account's JWT: two changes at once would lose one.
    turn: Mutex<()>,
}

impl Nats {
    /// An account as it is configured. Nothing is connected yet.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if a setting is out of its range, a subject is none, or a key is none of its kind.
    pub fn new(settings: Settings, keys: &Keys, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        let wrong = |what: &str| TargetError::new(TargetCode::Plan, Step::Connect, "", what);
        settings.check()?;
        let key = |secret: &Secret, role, what| Key::from_seed(jwt::seed_in(secret.expose()), role).ok_or_else(|| wrong(what));
        Ok(Self {
            operator: key(&keys.operator, Role::Operator, "expected the seed of an operator, `SO..`")?,
            account: key(&keys.account, Role::Account, "expected the seed of an account, `SA..`")?,
            system: key(&keys.system, Role::User, "expected credentials of a user")?,
            system_jwt: jwt::jwt_in(keys.system.expose()).ok_or_else(|| wrong("expected credentials with a JWT"))?.to_owned(),
            settings,
            clock,
            ended: std::sync::Mutex::default(),
            turn: Mutex::new(()),
        })
    }

    /// Says that a user was ended, by this process or one before: name, [`ids`](Account::ids) and expiry are read. From then on a node that would
    /// let it in again is seen. What was never said is revoked all the same, as long as nobody pushes the account's JWT without it.
    pub fn remember(&self, account: &Account) {
        if let Some(user) = account.ids.find(USER).filter(|user| nkey::public(user, Role::User).is_some()) {
            self.remember_user(user, &account.name, account.expires_at);
        }
    }

    fn remember_user(&self, user: &str, name: &AccountName, expires_at: Option<Timestamp>) {
        let now = self.clock.now();
        // No lease is longer, whatever is remembered of it.
        let last = now.plus(self.settings.lease_max);
        let until = seconds(expires_at.map_or(last, |at| at.min(last)).plus(CLOCKS_DIFFER));
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.retain(|_, ended| ended.until >= seconds(now));
        ended.insert(user.to_owned(), Ended { name: name.clone(), at: seconds(now), until });
    }

    /// Looks at every node whether each user that is [remembered](Nats::remember) is still revoked, and revokes anew those that are not. Gives their
    /// public keys: each is an incident. To be called when a node is back.
    ///
    /// # Errors
    /// What the first system that could not be asked said. The others are as they must be.
    pub async fn restore(&self) -> Result<Vec<String>, TargetError> {
        within(Step::Remove, async {
            let (mut sessions, mut trouble) = self.reach(Step::Connect).await;
            let change = claims::revoke(self, &mut sessions, None).await?;
            trouble.extend(change.trouble);
            trouble.into_iter().next().map_or(Ok(change.missing), Err)
        })
        .await
    }

    /// Connections with our own user of the system account to the nodes that can be reached, and what kept the others from it.
    async fn reach(&self, step: Step) -> (Vec<(&Node, Session)>, Vec<TargetError>) {
        let open = |node| async move {
            let opened = Session::open(node, &self.system_jwt, &self.system, "bailiwick").await;
            opened.map(|session| (node, session)).map_err(|failure| target(&failure, step, node.name()))
        };
        let (mut sessions, mut trouble) = (Vec::new(), Vec::new());
        for opened in join_all(self.settings.nodes.iter().map(open)).await {
            match opened {
                Ok(session) => sessions.push(session),
                Err(error) => trouble.push(error),
            }
        }
        (sessions, trouble)
    }

    /// The claims of a user, signed by the account.
    fn user_jwt(&self, user: &str, name: &str, issued_at: Timestamp, expires_at: Timestamp, mut nats: Claims) -> String {
        nats.insert("type".to_owned(), "user".into());
        nats.insert("version".to_owned(), 2.into());
        if self.account.public() != self.settings.account {
            nats.insert("issuer_account".to_owned(), self.settings.account.clone().into());
        }
        let mut claims = Claims::new();
        claims.insert("sub".to_owned(), user.into());
        claims.insert("name".to_owned(), name.into());
        claims.insert("iat".to_owned(), seconds(issued_at).into());
        claims.insert("exp".to_owned(), seconds(expires_at).into());
        claims.insert("nats".to_owned(), nats.into());
        jwt::sign(claims, &self.account)
    }

    fn mint_user(&self, plan: &Plan, secret: &Secret) -> Result<Minted, TargetError> {
        let wrong = |what: &str| TargetError::new(TargetCode::Plan, Step::Mint, "", what);
        let now = self.clock.now();
        if plan.tag.expires_at > now.plus(self.settings.lease_max) || plan.tag.expires_at <= now {
            return Err(wrong("the lease is over already, or longer than the configuration allows"));
        }
        let key = Key::from_seed(jwt::seed_in(secret.expose()), Role::User).ok_or_else(|| wrong("the secret is no seed of a user"))?;
        let mut right = Right::default();
        for name in &plan.rights {
            let more = self.settings.rights.get(name).ok_or_else(|| wrong(&format!("`{name}` is none of the configured rights")))?;
            right.publish.extend(more.publish.iter().cloned());
            right.subscribe.extend(more.subscribe.iter().cloned());
        }
        let nats = permissions(&plan.name, right, &self.settings, Some(plan));
        let jwt = self.user_jwt(&key.public(), plan.name.as_str(), now, plan.tag.expires_at, nats);
        Ok(Minted {
            ids: TargetIds::one(USER, key.public()),
            secret: Some(Secret::from(jwt::credentials(&jwt, jwt::seed_in(secret.expose())))),
            expires_at: Some(plan.tag.expires_at),
        })
    }

    async fn list_users(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        let (mut sessions, trouble) = self.reach(Step::List).await;
        if let Some(first) = trouble.into_iter().next() {
            return Err(first);
        }
        let lists = join_all(sessions.iter_mut().map(|(node, session)| self.list_at(node, session))).await;
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        for ((node, _), users) in sessions.iter().zip(lists) {
            for (user, name) in users?.into_iter().filter(|(_, name)| prefix.covers(name)) {
                let this = Found { name, ids: TargetIds::one(USER, &user), tag: None, node: node.name().to_owned() };
                found.entry(user).or_insert(this);
            }
        }
        Ok(found.into_values().collect())
    }

    /// Who is connected to the node, and whom it would let in although it was ended.
    async fn list_at(&self, node: &Node, session: &mut Session) -> Result<Vec<(String, AccountName)>, TargetError> {
        let open = connections(session, Step::List, &self.settings.account).await?;
        let open = open.into_iter().filter_map(|connection| Some((connection.user, connection.name.parse().ok()?)));
        let claims = claims::look_up(self, Step::List, node, session).await?;
        Ok(open.chain(claims::back(self, &claims)).collect())
    }
}

#[async_trait::async_trait]
impl Kind for Nats {
    fn kind(&self) -> &'static str {
        "nats"
    }

    /// The seed of a user. What is used are the credentials that [`Kind::mint`] gives, which have it in them.
    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        nkey::fresh_seed().map(Some)
    }

    fn remember(&self, account: &Account) {
        Self::remember(self, account);
    }

    fn listens(&self) -> bool {
        true
    }

    async fn preflight(&self, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
        within(Step::Verify, preflight::preflight(self, probe)).await
    }

    async fn mint(&self, plan: &Plan, secret: Option<&Secret>) -> Result<Minted, TargetError> {
        self.mint_user(plan, super::proposed(secret)?)
    }

    async fn end(&self, account: &Account) -> Result<Ending, TargetError> {
        within(Step::Remove, ending::end(self, account)).await
    }

    /// Those that have a connection open, and those that were ended and that some node would let in again. NATS keeps no list of users: another one that
    /// is not connected is seen by nobody, and expires.
    async fn list(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        within(Step::List, self.list_users(prefix)).await
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What a user may do. To NATS, no list of what is allowed means everything, so an empty one becomes a refusal of everything.
fn permissions(name: &AccountName, mut right: Right, settings: &Settings, plan: Option<&Plan>) -> Claims {
    // An inbox of its own: whoever may subscribe to `_INBOX.>` reads the answers to everybody.
    right.subscribe.push(format!("_INBOX.{name}.>"));
    let publish = if right.publish.is_empty() { json!({ "deny": [">"] }) } else { json!({ "allow": right.publish }) };
    let tags = plan.map(|plan| vec![format!("task:{}", plan.tag.task), format!("agent:{}", plan.tag.agent)]);
    let claims = json!({
        "pub": publish,
        "sub": { "allow": right.subscribe },
        "subs": settings.subscriptions,
        "data": -1,
        "payload": settings.payload_max,
        "tags": tags.unwrap_or_default(),
    });
    if let Value::Object(claims) = claims { claims } else { Claims::new() }
}

/// A connection of the account, as the server tells of it.
struct Connection {
    user: String,
    name: String,
}

/// Every connection of the account at the node of this session.
async fn connections(session: &mut Session, step: Step, account: &str) -> Result<Vec<Connection>, TargetError> {
    let subject = format!("$SYS.REQ.SERVER.{}.CONNZ", session.server());
    let mut found = Vec::new();
    for page in 0..PAGES_MAX {
        let body = json!({ "auth": true, "acc": account, "limit": PAGE, "offset": page.saturating_mul(PAGE) }).to_string();
        let answer = session.run(step, ASK_MAX, &subject, &body, |bytes| serde_json::from_slice::<Value>(bytes).ok()).await?;
        let list = answer.pointer("/data/connections").and_then(Value::as_array);
        let list = list.ok_or_else(|| TargetError::new(TargetCode::Protocol, step, "", "the server does not tell its connections"))?;
        let text = |connection: &Value, field: &str| connection.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let ours = list.iter().filter(|connection| text(connection, "account") == account);
        found.extend(ours.map(|connection| Connection { user: text(connection, "authorized_user"), name: text(connection, "name_tag") }));
        if list.len() < PAGE {
            return Ok(found);
        }
    }
    Err(TargetError::new(TargetCode::Protocol, step, "", "more than 100,000 connections"))
}

/// Words parted by dots, without spaces; `*` and `>` as the protocol has them.
fn is_subject(subject: &str) -> bool {
    (1..=256).contains(&subject.len())
        && subject.chars().all(|c| !c.is_whitespace() && !c.is_control())
        && subject.split('.').all(|word| !word.is_empty())
        && subject.strip_suffix(">").unwrap_or(subject).split('.').all(|word| !word.contains('>'))
}

const fn seconds(time: Timestamp) -> i64 {
    time.as_millis().div_euclid(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_words_and_dots() {
        for subject in ["orders", "orders.*", "orders.>", ">", "$JS.API.>"] {
            assert!(is_subject(subject), "{subject}");
        }
        for subject in ["", ".", "a..b", "a b", "a.>.b", "a\r\nPUB x 0", &"a".repeat(257)] {
            assert!(!is_subject(subject), "{subject}");
        }
    }
}
