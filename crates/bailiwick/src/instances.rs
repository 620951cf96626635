//! Running copies of agents: which were seen, and those that a person ended. A copy that was ended gets no token, and its tokens are none.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError, RwLock};

use bailiwick_core::{Agent, AgentName, ComponentName, InstanceId, PersonName, TaskId, Timestamp};
use bailiwick_store::{Entry, StoreError};

use crate::entry::{self, AgentStep, Body as _};
use crate::house::House;
use crate::live::LiveTask;

/// Copies of one agent that are remembered: those that were seen last.
const COPIES_MAX: usize = 200;
/// Copies that were ended and are remembered, of all agents. People end them, one by one.
const ENDED_MAX: usize = 20_000;
/// Where the store keeps the copies that were ended: an object of `agent/instance` and the time.
const ENDED: &str = "ended_instances";

/// A running copy as it was seen. What a proof does not say is taken from the agent's own client: a copy is a name, not a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// When it was seen first, since the broker runs.
    pub first: Timestamp,
    /// When it was seen last.
    pub last: Timestamp,
    /// From where it was seen last.
    pub from: IpAddr,
}

/// A running copy as people see it.
#[derive(Clone, Debug)]
pub struct CopyView {
    /// Its id.
    pub instance: InstanceId,
    /// The component that it is, as its open tasks say.
    pub component: Option<ComponentName>,
    /// When and where it was seen; none for one that has a task open from before this start.
    pub seen: Option<Copy>,
    /// Its open tasks.
    pub tasks: Vec<TaskId>,
    /// When a person ended it.
    pub ended_at: Option<Timestamp>,
}

/// The copies of all agents.
#[derive(Debug, Default)]
pub struct Instances {
    seen: Mutex<HashMap<AgentName, BTreeMap<InstanceId, Copy>>>,
    ended: RwLock<BTreeMap<(AgentName, InstanceId), Timestamp>>,
}

impl Instances {
    /// A copy proved itself, or presented its token.
    pub fn see(&self, agent: &AgentName, instance: InstanceId, from: IpAddr, now: Timestamp) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let copies = seen.entry(agent.clone()).or_default();
        let copy = copies.entry(instance).or_insert(Copy { first: now, last: now, from });
        (copy.last, copy.from) = (now, from);
        if copies.len() > COPIES_MAX
            && let Some(oldest) = copies.iter().min_by_key(|(_, copy)| copy.last).map(|(id, _)| *id)
        {
            copies.remove(&oldest);
        }
    }

    /// Did a person end it?
    #[must_use]
    pub fn is_ended(&self, agent: &AgentName, instance: InstanceId) -> bool {
        let ended = self.ended.read().unwrap_or_else(PoisonError::into_inner);
        !ended.is_empty() && ended.contains_key(&(agent.clone(), instance))
    }

    fn end(&self, agent: &AgentName, instance: InstanceId, at: Timestamp) {
        self.ended.write().unwrap_or_else(PoisonError::into_inner).insert((agent.clone(), instance), at);
    }

    /// What is to be remembered of the ended ones, over a restart.
    fn kept(&self) -> Ended {
        let ended = self.ended.read().unwrap_or_else(PoisonError::into_inner);
        ended.iter().map(|((agent, instance), at)| (format!("{agent}/{instance}"), *at)).collect()
    }
}

/// The copies that were ended as the store keeps them: `agent/instance`, and when.
type Ended = BTreeMap<String, Timestamp>;

/// What the store has and what memory has, together: neither takes back what the other ended. Beyond the bound the oldest are forgotten.
fn together(stored: Option<&[u8]>, mut ended: Ended) -> Result<Ended, StoreError> {
    ended.extend(stored.map(serde_json::from_slice::<Ended>).transpose()?.unwrap_or_default());
    if ended.len() > ENDED_MAX {
        let mut newest: Vec<_> = ended.into_iter().collect();
        newest.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
        newest.truncate(ENDED_MAX);
        ended = newest.into_iter().collect();
    }
    Ok(ended)
}

impl House {
    /// The running copies of an agent that were seen or have a task open, the one seen last first.
    #[must_use]
    pub fn copies(&self, agent: &AgentName) -> Vec<CopyView> {
        let of_agent = self.instances.seen.lock().unwrap_or_else(PoisonError::into_inner).get(agent).cloned().unwrap_or_default();
        let mut copies: BTreeMap<InstanceId, CopyView> = BTreeMap::new();
        let view = |instance| CopyView { instance, component: None, seen: None, tasks: Vec::new(), ended_at: None };
        for (instance, seen) in of_agent {
            copies.entry(instance).or_insert_with(|| view(instance)).seen = Some(seen);
        }
        for live in self.live.all().into_iter().filter(|live| live.task.agent == *agent) {
            let copy = copies.entry(live.task.instance).or_insert_with(|| view(live.task.instance));
            copy.tasks.push(live.task.id);
            copy.component = copy.component.take().or_else(|| live.task.component.clone());
        }
        for ((of, instance), at) in self.instances.ended.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if of == agent {
                copies.entry(*instance).or_insert_with(|| view(*instance)).ended_at = Some(*at);
            }
        }
        let mut copies: Vec<CopyView> = copies.into_values().collect();
        copies.sort_by_key(|copy| std::cmp::Reverse(copy.seen.as_ref().map(|seen| seen.last)));
        copies
    }

    /// Ends one running copy of an agent: its tokens are none from this moment on, over a restart too, it gets no other, and its tasks and
    /// their parts end. Another copy goes on. False: no such copy is known.
    ///
    /// # Errors
    /// The store's: it is ended all the same, as long as this process lives.
    pub async fn end_copy(&self, agent: &Agent, instance: InstanceId, by: &PersonName) -> Result<bool, StoreError> {
        let known = self.copies(&agent.name).into_iter().find(|copy| copy.instance == instance);
        let Some(copy) = known else { return Ok(false) };
        let now = self.clock.now();
        // First in memory, then the fence, as with every authority that is taken away.
        self.instances.end(&agent.name, instance, copy.ended_at.unwrap_or(now));
        let body = AgentStep { what: "instance_ended", agent: &agent.spiffe_id, by, reason: None, key: None, instance: Some(instance) };
        let kept = self.instances.kept();
        let entry = Entry::new(AgentStep::WORD, entry::encode(now, &body));
        // In the transaction: another copy may have been ended, and recorded, since this was looked at.
        let keep = move |w: &mut bailiwick_store::Writing<'_>| {
            let ended = together(w.meta(ENDED)?.as_deref(), kept)?;
            w.meta_put(ENDED, &serde_json::to_vec(&ended)?)
        };
        let recorded = self.store.control(entry, keep).await;
        let is_its = |live: &LiveTask| live.task.agent == agent.name && live.task.instance == instance;
        self.end_tasks_where(is_its, by.as_str(), &format!("the running copy {instance} was ended")).await;
        recorded.map(|_| true)
    }

    /// Takes over which copies were ended before this start.
    pub(crate) async fn recover_ended_copies(&self) -> Result<(), StoreError> {
        let Some(text) = self.store.meta(ENDED).await? else { return Ok(()) };
        let kept: Ended = serde_json::from_slice(&text)?;
        for (name, at) in kept {
            if let Some((Ok(agent), Ok(instance))) = name.split_once('/').map(|(agent, instance)| (agent.parse(), instance.parse())) {
                self.instances.end(&agent, instance, at);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_names_copies_without_end_fills_no_memory_and_the_newest_stay() {
        let (instances, at) = (Instances::default(), Timestamp::from_millis);
        let agent: AgentName = "a".parse().unwrap();
        let copy = |n: u128| InstanceId::from_bytes(n.to_be_bytes());
        for n in 0..5000u128 {
            instances.see(&agent, copy(n), [127, 0, 0, 1].into(), at(i64::try_from(n).unwrap()));
        }
        let seen = instances.seen.lock().unwrap();
        assert!(seen[&agent].len() == COPIES_MAX && seen[&agent].contains_key(&copy(4999)) && !seen[&agent].contains_key(&copy(0)));
    }

    #[test]
    fn one_copy_that_is_ended_is_not_another_agents_copy_of_the_same_name() {
        let instances = Instances::default();
        let (a, b): (AgentName, AgentName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let copy = InstanceId::from_bytes([1; 16]);
        instances.end(&a, copy, Timestamp::from_millis(5));
        assert!(instances.is_ended(&a, copy) && !instances.is_ended(&b, copy) && !instances.is_ended(&a, InstanceId::from_bytes([2; 16])));
        assert_eq!(instances.kept().into_keys().collect::<Vec<_>>(), [format!("a/{copy}")]);
    }

    #[test]
    fn of_two_copies_that_are_ended_at_once_none_comes_back_whoever_is_recorded_last() {
        let at = Timestamp::from_seconds;
        let (first, second) = (Ended::from([("a/1".to_owned(), at(1))]), Ended::from([("a/1".to_owned(), at(1)), ("a/2".to_owned(), at(2))]));
        // The second one looked later, and was recorded first.
        let stored = serde_json::to_vec(&together(None, second.clone()).unwrap()).unwrap();
        assert_eq!(together(Some(&stored), first).unwrap(), second);
    }

    #[test]
    fn what_is_remembered_of_ended_copies_is_bounded_and_the_newest_stay() {
        let all: Ended = (0..i64::try_from(ENDED_MAX).unwrap() + 5).map(|n| (format!("a/{n}"), Timestamp::from_seconds(n))).collect();
        let kept = together(None, all).unwrap();
        assert!(kept.len() == ENDED_MAX && !kept.contains_key("a/4") && kept.contains_key("a/5"));
    }
}
