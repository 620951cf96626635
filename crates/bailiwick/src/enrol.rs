//! Enrolment: a machine that has nothing is given a one-time token by a person, and exchanges it once for the registration of a key that it
//! made. The store has the token's digest, never the token.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use bailiwick_core::{Agent, AgentName, Digest, PersonName, Timestamp};
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

/// What enrolment keeps in memory. The store is the truth; this is what it said last. A key that was revoked is none, whatever stands here:
/// see [`House::agent_keys`].
#[derive(Debug, Default)]
pub struct Enrolled {
    keys: Mutex<Keys>,
    /// The thumbprints of all of them, to be looked up at each call. Locked after `keys`.
    held: RwLock<HashSet<KeyId>>,
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

    /// Is this key registered by enrolment? No key is twice.
    #[must_use]
    pub fn holds(&self, key: &KeyId) -> bool {
        self.held.read().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    /// Takes over what the store says.
    fn put(&self, keys: Keys) {
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        *known = keys;
        self.settle(&known);
    }

    /// Forgets a key in memory.
    pub(crate) fn without(&self, agent: &AgentName, id: &str) {
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(registered) = known.get_mut(agent) {
            registered.keys.retain(|key| key.id != id);
        }
        self.settle(&known);
    }

    fn settle(&self, keys: &Keys) {
        let all = keys.values().flat_map(|registered| &registered.keys).filter_map(|key| key.id.parse().ok());
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = all.collect();
    }
}

/// Forgets keys of an agent, in the transaction that revokes them.
pub(crate) fn forget(w: &mut Writing<'_>, agent: &AgentName, ids: &[String]) -> Result<(), StoreError> {
    let mut keys: Keys = read(w.meta(KEYS)?.as_deref())?;
    let Some(registered) = keys.get_mut(agent) else { return Ok(()) };
    let before = registered.keys.len();
    registered.keys.retain(|key| !ids.contains(&key.id));
    if registered.keys.len() < before { w.meta_put(KEYS, &serde_json::to_vec(&keys)?) } else { Ok(()) }
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
        let revoked = self.standing.is_revoked(&key.id());
        let redeemed = self.store.write(move |w| redeemed(w, &digest, (&key, revoked), &agents, from, now)).await?;
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
}

/// Spends the token and registers the key, or neither, in one transaction: of two at the same time, one is the second.
fn redeemed(
    w: &mut Writing<'_>,
    digest: &Digest,
    (key, revoked): (&PublicKey, bool),
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
    if revoked {
        return Ok(Redeemed::Full("the key was revoked: make another one"));
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
    fn what_is_looked_up_at_each_call_is_what_is_registered() {
        let (a, now): (AgentName, _) = ("a".parse().unwrap(), Timestamp::from_seconds(100));
        let (one, two) = ("A".repeat(43), format!("{}E", "A".repeat(42)));
        let key = |id: &str| EnrolledKey { id: id.to_owned(), jwk: Value::Null, at: now, by: "ana".parse().unwrap(), from: [127, 0, 0, 1].into() };
        let enrolled = Enrolled::default();
        enrolled.put([(a.clone(), Registered { keys: vec![key(&one), key(&two)] })].into());
        assert!(enrolled.holds(&one.parse().unwrap()) && enrolled.holds(&two.parse().unwrap()));
        enrolled.without(&a, &one);
        assert!(!enrolled.holds(&one.parse().unwrap()) && enrolled.holds(&two.parse().unwrap()));
        assert_eq!(enrolled.keys(&a).len(), 1);
    }
}
