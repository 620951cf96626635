//! How agents stand, beyond what the configuration says: suspended by people, and which keys were revoked.
//!
//! What is taken away is taken away in memory first, then on record through the fence, then its tasks end; what is given back is on record
//! first. What rests on nothing any more is asked at every call, again after the fence was read: see [`House::stands`].

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use bailiwick_core::{Agent, AgentName, ComponentName, EndReason, InstanceId, PersonName, SpiffeId, Timestamp};
use bailiwick_identity::{Confirmation, KeyId, PublicKey, Verified};
use bailiwick_store::{Entry, Registered, Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::entry::{self, AgentStep, Body as _};
use crate::house::House;
use crate::live::LiveTask;
use crate::pipeline::Who;

/// That a person suspended an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// Since when.
    pub at: Timestamp,
    /// Who did it.
    pub by: PersonName,
    /// Why, in that person's words.
    pub reason: String,
}

/// That a person revoked a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRevoked {
    /// When.
    pub at: Timestamp,
    /// Who did it.
    pub by: PersonName,
}

/// What is remembered of an agent, as JSON in the store. Version 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    v: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suspended: Option<Suspension>,
    /// Tokens that were issued until then are worth nothing: the agent was suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    /// By thumbprint. None is ever forgotten.
    #[serde(default)]
    revoked_keys: BTreeMap<String, KeyRevoked>,
    /// The store does not know it yet.
    #[serde(skip)]
    unsaved: bool,
}

/// How all agents stand. The store is the truth; this is never more permissive.
#[derive(Debug, Default)]
pub struct Standing {
    agents: RwLock<BTreeMap<AgentName, Kept>>,
    /// Every key that was revoked, an agent's or a person's: it proves nothing, whoever registers it again.
    revoked: RwLock<HashSet<KeyId>>,
    changing: tokio::sync::Mutex<()>,
}

impl Standing {
    /// What the store remembers, and the keys of people that were revoked.
    ///
    /// # Errors
    /// The store's, or `Malformed` if a document in it cannot be read: then nobody knows who is suspended.
    pub async fn open(store: &Store, of_people: Vec<KeyId>) -> Result<Self, StoreError> {
        let standing = Self { revoked: RwLock::new(of_people.into_iter().collect()), ..Self::default() };
        for row in store.agents().await? {
            let malformed = || StoreError::Malformed { detail: "the document of an agent".into() };
            let kept: Kept = serde_json::from_str(&row.document).map_err(|_| malformed())?;
            for key in kept.revoked_keys.keys() {
                standing.revoke(key.parse().map_err(|_| malformed())?);
            }
            standing.agents.write().unwrap_or_else(PoisonError::into_inner).insert(row.name, kept);
        }
        Ok(standing)
    }

    /// From this moment on the key proves nothing.
    pub(crate) fn revoke(&self, key: KeyId) {
        self.revoked.write().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    /// Was this key revoked?
    #[must_use]
    pub fn is_revoked(&self, key: &KeyId) -> bool {
        let revoked = self.revoked.read().unwrap_or_else(PoisonError::into_inner);
        !revoked.is_empty() && revoked.contains(key)
    }

    /// Is one of the keys on which a task rests revoked?
    fn is_revoked_under(&self, live: &LiveTask) -> bool {
        let revoked = self.revoked.read().unwrap_or_else(PoisonError::into_inner);
        !revoked.is_empty() && live.task.keys().any(|key| key.parse().is_ok_and(|key: KeyId| revoked.contains(&key)))
    }

    /// Is the agent suspended by a person?
    #[must_use]
    pub fn is_suspended(&self, agent: &AgentName) -> bool {
        self.look(agent, |kept| kept.suspended.is_some())
    }

    /// The suspension of an agent.
    #[must_use]
    pub fn suspension(&self, agent: &AgentName) -> Option<Suspension> {
        self.agents.read().unwrap_or_else(PoisonError::into_inner).get(agent).and_then(|kept| kept.suspended.clone())
    }

    /// When a key of an agent was revoked.
    #[must_use]
    pub fn key_revoked(&self, agent: &AgentName, key: &KeyId) -> Option<KeyRevoked> {
        if !self.is_revoked(key) {
            return None;
        }
        self.agents.read().unwrap_or_else(PoisonError::into_inner).get(agent)?.revoked_keys.get(&key.to_string()).cloned()
    }

    /// Was a token of this agent issued before what it was issued under was taken away?
    fn is_before(&self, agent: &AgentName, issued: Timestamp) -> bool {
        self.look(agent, |kept| kept.not_before.is_some_and(|until| issued.as_seconds() <= until.as_seconds()))
    }

    fn look(&self, agent: &AgentName, is: impl FnOnce(&Kept) -> bool) -> bool {
        self.agents.read().unwrap_or_else(PoisonError::into_inner).get(agent).is_some_and(is)
    }

    /// Changes how an agent stands, in memory.
    fn change<T>(&self, agent: &AgentName, change: impl FnOnce(&mut Kept) -> T) -> T {
        let mut agents = self.agents.write().unwrap_or_else(PoisonError::into_inner);
        let kept = agents.entry(agent.clone()).or_default();
        kept.v = 1;
        change(kept)
    }

    fn kept(&self, agent: &AgentName) -> Kept {
        self.agents.read().unwrap_or_else(PoisonError::into_inner).get(agent).cloned().unwrap_or_default()
    }
}

/// What a token rests on, besides its own life and its task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground<'a> {
    agent: &'a AgentName,
    component: Option<&'a ComponentName>,
    instance: InstanceId,
    key: Option<KeyId>,
    confirmation: Option<Confirmation>,
    issued: Timestamp,
}

impl<'a> Ground<'a> {
    /// That of a token.
    pub(crate) const fn of(token: &'a Verified) -> Self {
        Self {
            agent: &token.agent,
            component: token.acting.component.as_ref(),
            instance: token.instance,
            key: token.acting.key,
            confirmation: token.confirmation,
            issued: token.issued,
        }
    }

    /// That of the token by which somebody calls.
    pub(crate) fn under(who: &'a Who) -> Self {
        let caller = &who.caller;
        Self {
            agent: &caller.agent,
            component: caller.component.as_ref(),
            instance: caller.instance,
            key: who.key,
            confirmation: who.confirmation,
            issued: who.issued,
        }
    }
}

impl House {
    /// The keys by which an agent itself proves who it is: from files, and by enrolment. None that was revoked.
    #[must_use]
    pub fn agent_keys(&self, agent: &AgentName) -> Vec<PublicKey> {
        self.valid([self.keyring.agent(agent.as_str()), self.enrolled.public_keys(agent)].concat())
    }

    /// The keys of a component of an agent. None that was revoked.
    #[must_use]
    pub fn component_keys(&self, agent: &AgentName, component: &ComponentName) -> Vec<PublicKey> {
        self.valid(self.keyring.component(agent, component))
    }

    /// The keys of a person. None that was revoked.
    #[must_use]
    pub fn person_keys(&self, person: &str) -> Vec<PublicKey> {
        self.valid(self.keyring.person(person))
    }

    fn valid(&self, mut keys: Vec<PublicKey>) -> Vec<PublicKey> {
        keys.retain(|key| !self.standing.is_revoked(&key.id()));
        keys
    }

    /// Does everything still hold on which a token rests? Asked when it is presented, and again for a call between the reading of the
    /// fence and the decision: whoever takes something away does it in memory before the fence moves.
    ///
    /// # Errors
    /// In words for the log and the record: what does not.
    pub(crate) fn stands(&self, on: Ground<'_>) -> Result<(), String> {
        let now = self.clock.now();
        let agent = self.agent(on.agent.as_str()).ok_or_else(|| format!("agent `{}` is not configured", on.agent))?;
        // An agent that was taken out of service, or whose review is overdue, does nothing more, whatever the policies say.
        self.in_service(agent, now)?;
        if self.standing.is_before(on.agent, on.issued) {
            return Err(format!("the token is from before agent `{}` was suspended", on.agent));
        }
        if self.instances.is_ended(on.agent, on.instance) {
            return Err(format!("the running copy {} was ended", on.instance));
        }
        if let Some(key) = on.key {
            let registered = self.keyring.holds(on.agent, on.component, &key) || (on.component.is_none() && self.enrolled.holds(&key));
            if !registered || self.standing.is_revoked(&key) {
                return Err(format!("the key {key}, by which the token's holder proved itself, was revoked or removed"));
            }
        }
        if let Some(Confirmation::Key(key)) = on.confirmation
            && self.standing.is_revoked(&key)
        {
            return Err(format!("the key {key}, to which the token is bound, was revoked"));
        }
        Ok(())
    }

    /// Does everything still hold on which a task rests, and every task that it is a part of?
    ///
    /// # Errors
    /// As [`House::stands`].
    pub(crate) fn task_stands(&self, live: &LiveTask) -> Result<(), String> {
        let now = self.clock.now();
        if !self.directory.is_in_force(&live.task.subject) {
            return Err(format!("`{}`, on whose behalf it is, is disabled or not known any more", live.task.subject));
        }
        let mut of = Some(live);
        while let Some(live) = of {
            let task = &live.task;
            let agent = self.agent(task.agent.as_str()).ok_or_else(|| format!("agent `{}` is not configured", task.agent))?;
            self.in_service(agent, now)?;
            if self.instances.is_ended(&task.agent, task.instance) {
                return Err(format!("the running copy {} was ended", task.instance));
            }
            if self.standing.is_revoked_under(live) {
                return Err(format!("a key was revoked on which the task {} rests", task.id));
            }
            of = live.parent().map(Arc::as_ref);
        }
        Ok(())
    }

    /// Suspends an agent. From this moment on it gets no token, those that it has are worth nothing, for good, and its tasks and their parts
    /// end; until somebody lets it work again, over a restart too.
    ///
    /// # Errors
    /// The store's: it is suspended all the same, as long as this process lives.
    pub async fn suspend_agent(&self, agent: &Agent, by: &PersonName, reason: &str) -> Result<(), StoreError> {
        let now = self.clock.now();
        let suspend = |kept: &mut Kept| {
            // Whoever was first stays.
            kept.unsaved |= kept.suspended.is_none();
            kept.suspended.get_or_insert_with(|| Suspension { at: now, by: by.clone(), reason: reason.to_owned() });
            kept.not_before = kept.not_before.max(Some(now));
            kept.unsaved
        };
        // At once, whoever is writing; and again, should somebody have let it work again meanwhile.
        self.standing.change(&agent.name, suspend);
        let recorded = {
            let _alone = self.standing.changing.lock().await;
            let step = AgentStep { what: "suspended", agent: &agent.spiffe_id, by, reason: Some(reason), key: None, instance: None };
            if self.standing.change(&agent.name, suspend) { self.record_standing(&agent.name, &step).await } else { Ok(()) }
        };
        self.end_tasks_where(|live| live.task.agent == agent.name, by.as_str(), "the agent was suspended").await;
        recorded
    }

    /// Lets an agent work again that a person suspended. What ended stays ended, and its old tokens stay worth nothing. False: it is not
    /// suspended.
    ///
    /// # Errors
    /// The store's: then it stays suspended.
    pub async fn resume_agent(&self, agent: &Agent, by: &PersonName, reason: &str) -> Result<bool, StoreError> {
        let _alone = self.standing.changing.lock().await;
        if !self.standing.is_suspended(&agent.name) {
            return Ok(false);
        }
        let kept = Kept { suspended: None, ..self.standing.kept(&agent.name) };
        let step = AgentStep { what: "resumed", agent: &agent.spiffe_id, by, reason: Some(reason), key: None, instance: None };
        self.record(&agent.name, &kept, &step).await?;
        self.standing.change(&agent.name, |kept| kept.suspended = None);
        Ok(true)
    }

    /// Is this a key of the agent, or of one of its components, or does an open task of it rest on this key, which is in no file any more?
    fn has_key(&self, agent: &AgentName, id: &KeyId) -> bool {
        let components = self.config.agents.get(agent).into_iter().flat_map(|entry| entry.components.keys());
        let of_components = components.flat_map(|component| self.keyring.component(agent, component));
        let own = [self.keyring.agent(agent.as_str()), self.enrolled.public_keys(agent)].concat();
        let name = id.to_string();
        let rests = |live: &Arc<LiveTask>| live.task.agent == *agent && live.task.keys().any(|key| key == name);
        own.into_iter().chain(of_components).any(|key| key.id() == *id) || self.live.all().iter().any(rests)
    }

    /// Revokes a key of an agent or of one of its components, wherever it is registered: it is in the wrong hands. From this moment on it
    /// proves nothing, tokens that it proved or that are bound to it are worth nothing, and every task that rests on it ends, with its parts.
    /// False: the agent has no such key, or it was revoked before.
    ///
    /// # Errors
    /// The store's: it is revoked all the same, as long as this process lives.
    pub async fn revoke_key(&self, agent: &AgentName, id: &KeyId, by: &PersonName) -> Result<bool, StoreError> {
        let name = id.to_string();
        let (before, saved) = (self.standing.key_revoked(agent, id).is_some(), self.standing.look(agent, |kept| !kept.unsaved));
        if if before { saved } else { !self.has_key(agent, id) } {
            return Ok(false);
        }
        let now = self.clock.now();
        // At once, whoever is writing.
        self.standing.revoke(*id);
        self.standing.change(agent, |kept| {
            kept.unsaved = true;
            kept.revoked_keys.entry(name.clone()).or_insert_with(|| KeyRevoked { at: now, by: by.clone() });
        });
        self.enrolled.without(agent, &name);
        let recorded = {
            let _alone = self.standing.changing.lock().await;
            let agent_id = SpiffeId::agent(&self.config.trust_domain, agent);
            let step = AgentStep { what: "key_revoked", agent: &agent_id, by, reason: None, key: Some(&name), instance: None };
            self.record_standing(agent, &step).await
        };
        // What was opened before the keys were remembered may have been opened with it.
        let rests = |live: &LiveTask| live.task.keys().any(|key| key == name) || (live.task.agent == *agent && live.task.proved_by.is_none());
        self.end_tasks_where(rests, by.as_str(), &format!("the key {name} was revoked")).await;
        recorded.map(|()| true)
    }

    /// Puts on record, through the fence, how an agent stands in memory.
    async fn record_standing(&self, agent: &AgentName, step: &AgentStep<'_>) -> Result<(), StoreError> {
        let recorded = self.record(agent, &self.standing.kept(agent), step).await;
        self.standing.change(agent, |kept| kept.unsaved = recorded.is_err());
        recorded
    }

    async fn record(&self, agent: &AgentName, kept: &Kept, step: &AgentStep<'_>) -> Result<(), StoreError> {
        let now = self.clock.now();
        let row = Registered { name: agent.clone(), document: serde_json::to_string(kept)?, public_key: Vec::new(), at: now };
        let body = entry::encode(now, step);
        let agent = agent.clone();
        let forget: Vec<String> = kept.revoked_keys.keys().cloned().collect();
        let change = move |w: &mut bailiwick_store::Writing<'_>| {
            w.agent_put(&row)?;
            crate::enrol::forget(w, &agent, &forget)
        };
        self.store.control(Entry::new(AgentStep::WORD, body), change).await.map(drop)
    }

    /// Ends open tasks of which this says so, side by side. What cannot be recorded is tried again until it is.
    pub(crate) async fn end_tasks_where(&self, is: impl Fn(&LiveTask) -> bool, by: &str, why: &str) {
        let ends = self.live.all().into_iter().filter(|live| is(live)).map(|live| async move {
            if let Err(error) = self.end_task_for(live.task.id, EndReason::Revoked, Some(by), Some(why)).await {
                tracing::error!(%error, task = %live.task.id, why, "the end of a task could not be recorded yet");
            }
        });
        futures_util::future::join_all(ends).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> AgentName {
        "scout".parse().unwrap()
    }

    #[test]
    fn what_is_remembered_of_an_agent_is_read_again_as_it_was_but_for_what_is_not_saved() {
        let by: PersonName = "ops".parse().unwrap();
        let at = Timestamp::from_seconds(7);
        let standing = Standing::default();
        standing.change(&agent(), |kept| {
            kept.suspended = Some(Suspension { at, by: by.clone(), reason: "why".to_owned() });
            kept.revoked_keys.insert("k".to_owned(), KeyRevoked { at, by });
            kept.unsaved = true;
        });
        let kept = standing.kept(&agent());
        let read: Kept = serde_json::from_str(&serde_json::to_string(&kept).unwrap()).unwrap();
        assert_eq!(read, Kept { unsaved: false, ..kept });
    }

    #[test]
    fn a_token_of_the_very_second_of_the_suspension_is_from_before_it() {
        let standing = Standing::default();
        let at = |seconds| Timestamp::from_seconds(seconds);
        assert!(!standing.is_before(&agent(), at(0)));
        standing.change(&agent(), |kept| kept.not_before = Some(at(100).plus(std::time::Duration::from_millis(300))));
        assert!(standing.is_before(&agent(), at(99)) && standing.is_before(&agent(), at(100)) && !standing.is_before(&agent(), at(101)));
        assert!(!standing.is_before(&"other".parse().unwrap(), at(1)));
    }
}
