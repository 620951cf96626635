//! Enrolment: a machine that has nothing is given a one-time token by a person, and exchanges it once for the registration of a key that it
//! made. The store has the token's digest, never the token.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::{Agent, AgentName, Digest, EndReason, InstanceId, PersonName, Timestamp};
use bailiwick_identity::enrolment::{self, EnrolmentToken};
use bailiwick_identity::{KeyId, PublicKey};
use bailiwick_store::{Entry, StoreError, Writing};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::random;
use crate::entry::{self, Body};
use crate::house::House;

/// How long a token may be good for.
pub const LIFE_MAX: Duration = Duration::from_secs(60 * 60);
/// How long it is good for where nothing is said.
pub const LIFE: Duration = Duration::from_secs(10 * 60);
/// Tokens that wait to be used, of all agents.
const WAITING_MAX: usize = 256;
/// Keys of one agent that came by enrolment.
const KEYS_MAX: usize = 256;
/// For how long a token that was used or has expired is remembered, so that its second use is seen for what it is.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Tokens that are remembered. Beyond it, those that ended first are forgotten.
const REMEMBERED_MAX: usize = 1024;
/// Running copies of which is known with which key they proved themselves.
const COPIES_MAX: usize = 20_000;

/// Where the store keeps them.
const TOKENS: &str = "enrolments";
const KEYS: &str = "enrolled_keys";

/// A token as it is remembered, under its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Given {
    agent: AgentName,
    by: PersonName,
    until: Timestamp,
    /// When it was used, and for which key.
    used: Option<Used>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Used {
    at: Timestamp,
    key: String,
}

/// The keys of an agent that came by enrolment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Registered {
    keys: Vec<EnrolledKey>,
    /// Tokens without a task that were issued until then are worth nothing: a key of the agent was revoked.
    #[serde(default)]
    not_before: Option<Timestamp>,
}

/// A key that came by enrolment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolledKey {
    /// Its thumbprint.
    pub id: String,
    /// The public key.
    jwk: Value,
    /// When it was registered.
    pub at: Timestamp,
    /// Who gave the token out.
    pub by: PersonName,
    /// From where it was registered.
    pub from: IpAddr,
}

type Tokens = BTreeMap<String, Given>;
type Keys = BTreeMap<AgentName, Registered>;

/// What enrolment keeps in memory. The store is the truth; this is what it said last.
#[derive(Debug, Default)]
pub struct Enrolled {
    keys: Mutex<Keys>,
    /// With which key each running copy proved itself last.
    copies: Mutex<HashMap<InstanceId, KeyId>>,
    /// What was revoked since this start, by agent, and when last. Locked after `keys`.
    gone: Mutex<BTreeMap<AgentName, (BTreeSet<String>, Timestamp)>>,
}

/// Why a key is not registered.
#[derive(Debug, thiserror::Error)]
pub enum NotEnrolled {
    /// The token is none, has expired, was used, or the key was not proved. Whoever asks is not told which.
    #[error("the enrolment token or the proof of the key is not valid")]
    Invalid,
    /// The agent has too many keys, or it has this one already.
    #[error("{0}")]
    Full(&'static str),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What became of a token in the store's transaction.
enum Redeemed {
    Registered(Given),
    Refused(&'static str),
    Again(Given),
    Full(&'static str),
}

fn read<T: serde::de::DeserializeOwned + Default>(bytes: Option<&[u8]>) -> Result<T, StoreError> {
    Ok(bytes.map(serde_json::from_slice).transpose()?.unwrap_or_default())
}

fn noted(now: Timestamp, what: &str, name: &str) -> Entry {
    Entry::new(<entry::House<'_> as Body>::WORD, entry::encode(now, &entry::House { what, name: Some(name), digest: None }))
}

/// Forgets what nobody needs to know any more.
fn tidy(tokens: &mut Tokens, now: Timestamp) {
    tokens.retain(|_, given| given.until.plus(REMEMBERED) > now);
    while tokens.len() >= REMEMBERED_MAX {
        let ended = tokens.iter().filter(|(_, given)| given.used.is_some() || given.until <= now);
        let Some(first) = ended.min_by_key(|(_, given)| given.until).map(|(digest, _)| digest.clone()) else { return };
        tokens.remove(&first);
    }
}

impl Enrolled {
    /// The keys of an agent.
    #[must_use]
    pub fn keys(&self, agent: &AgentName) -> Vec<EnrolledKey> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(agent).map(|r| r.keys.clone()).unwrap_or_default()
    }

    /// The same, to verify with.
    #[must_use]
    pub fn public_keys(&self, agent: &AgentName) -> Vec<PublicKey> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = keys.get(agent).map(|r| r.keys.as_slice()).unwrap_or_default();
        keys.iter().filter_map(|key| PublicKey::from_jwk(&key.jwk).ok()).collect()
    }

    /// Was this token, which has no task, issued before a key of its agent was revoked?
    #[must_use]
    pub fn is_before(&self, agent: &AgentName, issued: Timestamp) -> bool {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(agent).and_then(|r| r.not_before).is_some_and(|until| issued.as_seconds() <= until.as_seconds())
    }

    /// Notes with which key a running copy proved itself.
    pub(crate) fn proved(&self, instance: InstanceId, key: KeyId) {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if copies.len() >= COPIES_MAX {
            copies.clear();
        }
        copies.insert(instance, key);
    }

    /// Did this running copy prove itself with another key than this one? Not known means no.
    fn is_anothers(&self, instance: InstanceId, key: &KeyId) -> bool {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).get(&instance).is_some_and(|known| known != key)
    }

    /// Takes over what the store says, but for keys that were revoked here: what was read may be older than that.
    fn put(&self, mut keys: Keys) {
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        for (agent, (ids, at)) in &*self.gone.lock().unwrap_or_else(PoisonError::into_inner) {
            if let Some(registered) = keys.get_mut(agent) {
                registered.keys.retain(|key| !ids.contains(&key.id));
                registered.not_before = registered.not_before.max(Some(*at));
            }
        }
        *known = keys;
    }

    /// Revokes a key in memory. False: there is no such key.
    fn without(&self, agent: &AgentName, id: &str, now: Timestamp) -> bool {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(registered) = keys.get_mut(agent) else { return false };
        let before = registered.keys.len();
        registered.keys.retain(|key| key.id != id);
        let was_there = registered.keys.len() < before;
        if was_there {
            registered.not_before = Some(now);
            let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
            let (ids, at) = gone.entry(agent.clone()).or_insert_with(|| (BTreeSet::new(), now));
            ids.insert(id.to_owned());
            *at = now;
        }
        was_there
    }
}

impl House {
    /// Takes over the keys that came by enrolment before this start.
    pub(crate) async fn recover_enrolled(&self) -> Result<(), StoreError> {
        self.enrolled.put(read(self.store.meta(KEYS).await?.as_deref())?);
        Ok(())
    }

    /// Makes a one-time token for an agent. Gives it with the time until which it holds.
    ///
    /// # Errors
    /// `Full` if too many wait to be used; the store's.
    pub async fn enrol(&self, agent: &Agent, by: &PersonName, life: Duration) -> Result<(EnrolmentToken, Timestamp), NotEnrolled> {
        let now = self.clock.now();
        let (token, until) = (EnrolmentToken::new(&random()), now.plus(life.min(LIFE_MAX)));
        let (digest, given) = (token.digest().to_string(), Given { agent: agent.name.clone(), by: by.clone(), until, used: None });
        let note = noted(now, "enrolment_given", &format!("agent {}: by {by}, until {until}", agent.name));
        let kept = self.store.write(move |w| {
            let mut tokens: Tokens = read(w.meta(TOKENS)?.as_deref())?;
            tidy(&mut tokens, now);
            let waiting = tokens.values().filter(|g| g.used.is_none() && g.until > now).count();
            if waiting >= WAITING_MAX {
                return Ok(false);
            }
            tokens.insert(digest, given);
            w.meta_put(TOKENS, &serde_json::to_vec(&tokens)?)?;
            w.append(note)?;
            Ok(true)
        });
        if kept.await? { Ok((token, until)) } else { Err(NotEnrolled::Full("too many enrolment tokens wait to be used; let some expire")) }
    }

    /// Exchanges a token for the registration of a key whose private half `proof` proves. Once: a second use is an incident. If `wanted` is
    /// not the token's agent, the token is not spent.
    ///
    /// # Errors
    /// Why no key is registered.
    pub async fn redeem(
        &self,
        token: &EnrolmentToken,
        key: PublicKey,
        proof: &str,
        wanted: Option<AgentName>,
        from: IpAddr,
    ) -> Result<AgentName, NotEnrolled> {
        let now = self.clock.now();
        // Before the token is spent: whoever fails to prove the key by mistake can try again.
        enrolment::verify(proof, &key, token, &self.urls.base, now).map_err(|error| {
            tracing::info!(error.code = %error.code(), %error, %from, "an enrolment was refused: the key is not proved");
            NotEnrolled::Invalid
        })?;
        let mut agents: Vec<AgentName> = self.config.agents.keys().cloned().collect();
        agents.retain(|agent| wanted.as_ref().is_none_or(|wanted| wanted == agent));
        let digest = token.digest();
        let redeemed = self.store.write(move |w| redeemed(w, &digest, &key, &agents, from, now)).await?;
        match redeemed {
            Redeemed::Registered(given) => {
                self.recover_enrolled().await?;
                Ok(given.agent)
            }
            Redeemed::Full(why) => Err(NotEnrolled::Full(why)),
            Redeemed::Refused(why) => {
                tracing::info!(why, %from, "an enrolment was refused");
                Err(NotEnrolled::Invalid)
            }
            Redeemed::Again(given) => {
                let first = given.used.map(|used| format!("; it was used at {} for key {}", used.at, used.key)).unwrap_or_default();
                let detail =
                    format!("an enrolment token of agent `{}`, given out by {}, was presented again, from {from}{first}", given.agent, given.by);
                self.incident("enrolment_replayed", self.agent(given.agent.as_str()), None, &detail).await;
                Err(NotEnrolled::Invalid)
            }
        }
    }

    /// Revokes one key that came by enrolment. From this moment it proves nothing; tokens without a task that the agent has are worth
    /// nothing, and each open task of a copy that did not prove itself with another key ends. False: there is no such key.
    ///
    /// # Errors
    /// The store's: the key proves nothing all the same, as long as this process lives.
    pub async fn revoke_enrolled(&self, agent: &AgentName, id: &KeyId, by: &PersonName) -> Result<bool, StoreError> {
        let (now, name) = (self.clock.now(), id.to_string());
        // First in memory, then the fence, as with every authority that is taken away.
        if !self.enrolled.without(agent, &name, now) {
            return Ok(false);
        }
        let ends = self.live.all().into_iter().filter(|live| live.task.agent == *agent && !self.enrolled.is_anothers(live.task.instance, id));
        let ends: Vec<_> = ends.map(|live| live.task.id).collect();
        let by_whom = by.to_string();
        let ended = futures_util::future::join_all(ends.into_iter().map(|task| self.end_task(task, EndReason::Revoked, Some(&by_whom))));
        let note = noted(now, "enrolled_key_revoked", &format!("agent {agent}: {name}, by {by}"));
        let (agent, name) = (agent.clone(), name.clone());
        let forget = move |w: &mut Writing<'_>| {
            let mut keys: Keys = read(w.meta(KEYS)?.as_deref())?;
            if let Some(registered) = keys.get_mut(&agent) {
                registered.keys.retain(|key| key.id != name);
                registered.not_before = Some(now);
            }
            w.meta_put(KEYS, &serde_json::to_vec(&keys)?)
        };
        let recorded = self.store.control(note, forget).await;
        for failed in ended.await.into_iter().filter_map(Result::err) {
            tracing::error!(error = %failed, "the end of a task whose key was revoked could not be recorded yet");
        }
        recorded.map(|_| true)
    }
}

/// Spends the token and registers the key, or neither, in one transaction: of two at the same time, one is the second.
fn redeemed(
    w: &mut Writing<'_>,
    digest: &Digest,
    key: &PublicKey,
    agents: &[AgentName],
    from: IpAddr,
    now: Timestamp,
) -> Result<Redeemed, StoreError> {
    let mut tokens: Tokens = read(w.meta(TOKENS)?.as_deref())?;
    let Some(given) = tokens.get_mut(&digest.to_string()) else { return Ok(Redeemed::Refused("there is no such token")) };
    let mut keys: Keys = read(w.meta(KEYS)?.as_deref())?;
    let id = key.id().to_string();
    let known = |keys: &Keys| keys.values().any(|registered| registered.keys.iter().any(|known| known.id == id));
    if let Some(used) = &given.used {
        // The same machine, whose answer was lost: it proved the very key. Nothing is done twice.
        let same = used.key == id && known(&keys);
        return Ok(if same { Redeemed::Registered(given.clone()) } else { Redeemed::Again(given.clone()) });
    }
    if now >= given.until {
        return Ok(Redeemed::Refused("the token has expired"));
    }
    if !agents.contains(&given.agent) {
        return Ok(Redeemed::Refused("it is for another agent, or for one that is not configured any more"));
    }
    if known(&keys) {
        return Ok(Redeemed::Full("the key is registered already: make another one"));
    }
    let registered = keys.entry(given.agent.clone()).or_default();
    if registered.keys.len() >= KEYS_MAX {
        return Ok(Redeemed::Full("the agent has too many enrolled keys: revoke those that are not needed"));
    }
    registered.keys.push(EnrolledKey { id: id.clone(), jwk: key.jwk(), at: now, by: given.by.clone(), from });
    given.used = Some(Used { at: now, key: id.clone() });
    let given = given.clone();
    w.meta_put(TOKENS, &serde_json::to_vec(&tokens)?)?;
    w.meta_put(KEYS, &serde_json::to_vec(&keys)?)?;
    w.append(noted(now, "key_enrolled", &format!("agent {}: {id}, from {from}, by a token of {}", given.agent, given.by)))?;
    Ok(Redeemed::Registered(given))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(until: i64, used: bool) -> Given {
        let used = used.then(|| Used { at: Timestamp::from_seconds(until), key: "k".to_owned() });
        Given { agent: "a".parse().unwrap(), by: "ana".parse().unwrap(), until: Timestamp::from_seconds(until), used }
    }

    #[test]
    fn of_many_tokens_those_that_ended_first_are_forgotten_and_none_that_waits() {
        let now = Timestamp::from_seconds(1_000_000);
        let mut tokens: Tokens = (0..REMEMBERED_MAX).map(|i| (format!("{i:05}"), given(999_000 + i64::try_from(i).unwrap() % 900, true))).collect();
        tokens.insert("waits".to_owned(), given(1_000_100, false));
        tokens.insert("old".to_owned(), given(1_000_000 - 8 * 24 * 3600, true));
        tidy(&mut tokens, now);
        assert!(tokens.len() < REMEMBERED_MAX && tokens.contains_key("waits") && !tokens.contains_key("old"));
    }

    #[test]
    fn a_revoked_key_does_not_come_back_with_what_was_read_before() {
        let (a, now): (AgentName, _) = ("a".parse().unwrap(), Timestamp::from_seconds(100));
        let key = |id: &str| EnrolledKey { id: id.to_owned(), jwk: Value::Null, at: now, by: "ana".parse().unwrap(), from: [127, 0, 0, 1].into() };
        let read: Keys = [(a.clone(), Registered { keys: vec![key("one"), key("two")], not_before: None })].into();
        let enrolled = Enrolled::default();
        enrolled.put(read.clone());
        assert!(enrolled.without(&a, "one", now) && !enrolled.without(&a, "one", now));
        enrolled.put(read);
        assert_eq!(enrolled.keys(&a).iter().map(|k| k.id.as_str()).collect::<Vec<_>>(), ["two"]);
        assert!(enrolled.is_before(&a, now) && !enrolled.is_before(&a, now.plus(Duration::from_secs(1))));
    }

    #[test]
    fn a_copy_of_which_nothing_is_known_is_not_anothers() {
        let enrolled = Enrolled::default();
        let (a, b): (KeyId, KeyId) = ("A".repeat(43).parse().unwrap(), format!("{}E", "A".repeat(42)).parse().unwrap());
        let copy = InstanceId::from_bytes([1; 16]);
        assert!(!enrolled.is_anothers(copy, &a));
        enrolled.proved(copy, b);
        assert!(enrolled.is_anothers(copy, &a) && !enrolled.is_anothers(copy, &b));
    }
}
