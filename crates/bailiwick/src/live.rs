//! The tasks as the call's path sees them: open or not, how fast, and the signal that stops what is running.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bailiwick_core::{Labels, Task, TaskId, Timestamp, TooManyLabels};
use bailiwick_credentials::TaskSalt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// A task in memory. The durable truth about its state and its used calls is the store's; this is never more permissive than that
/// for longer than one transaction, because the writer checks both again.
#[derive(Debug)]
pub struct LiveTask {
    /// The task.
    pub task: Arc<Task>,
    /// What the salts of its calls' digests are made from.
    pub salt: TaskSalt,
    /// The task that it is a part of: it is open no longer than that, and counts and paces there too.
    parent: Option<Arc<LiveTask>>,
    open: AtomicBool,
    used: AtomicU64,
    recent: Mutex<VecDeque<i64>>,
    ended: CancellationToken,
    streams: Arc<Semaphore>,
    /// The marks of what it was given. One set for the whole and all its parts: what one of them has read, it can tell the others.
    labels: Arc<RwLock<Labels>>,
    /// Up to which of all labellings it carries what the tasks of its running copy were given: see [`House::recall`](crate::house::House).
    recalled: AtomicU64,
    /// What it asked for that is on record once: kinds of lists.
    looked: Mutex<BTreeSet<String>>,
}

/// Streams outside of calls (`GET`, `subscriptions/listen`) that one task may hold open, and all tasks of one agent together.
const STREAMS_MAX: usize = 8;
const STREAMS_OF_AGENT_MAX: usize = 64;

impl LiveTask {
    /// A task that is open.
    #[must_use]
    pub fn open(task: Arc<Task>, used: u64, salt: TaskSalt) -> Arc<Self> {
        Self::part_of(None, task, used, salt)
    }

    /// A task that is open, as a part of another. When that ends, whatever runs here is told in the same moment.
    #[must_use]
    pub fn part_of(parent: Option<Arc<Self>>, task: Arc<Task>, used: u64, salt: TaskSalt) -> Arc<Self> {
        let ended = parent.as_ref().map_or_else(CancellationToken::new, |parent| parent.ended.child_token());
        let labels = parent.as_ref().map(|parent| Arc::clone(&parent.labels)).unwrap_or_default();
        Arc::new(Self {
            task,
            salt,
            parent,
            open: AtomicBool::new(true),
            used: AtomicU64::new(used),
            recent: Mutex::default(),
            ended,
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            labels,
            recalled: AtomicU64::new(0),
            looked: Mutex::default(),
        })
    }

    /// May calls pass?
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.open.load(Ordering::Acquire) && !self.task.expired(now) && self.parent.as_ref().is_none_or(|parent| parent.is_open(now))
    }

    /// The task that it is a part of.
    #[must_use]
    pub const fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// Is it a part of this task, or a part of a part of it?
    #[must_use]
    pub fn is_below(&self, id: TaskId) -> bool {
        self.task.chain.iter().any(|hop| hop.task == id)
    }

    /// Stops it: no further call, and whatever runs is told to stop.
    pub fn end(&self) {
        self.open.store(false, Ordering::Release);
        self.ended.cancel();
    }

    /// Resolves when the task ends.
    #[must_use]
    pub const fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// How many streams outside of calls it holds open.
    fn streaming(&self) -> usize {
        STREAMS_MAX.saturating_sub(self.streams.available_permits())
    }

    /// Is it on record that the task asked for this kind of list? There are few kinds.
    #[must_use]
    pub fn has_looked(&self, kind: &str) -> bool {
        let looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        looked.len() >= 16 || looked.contains(kind)
    }

    /// It is on record that the task asked for this kind of list.
    pub fn looked(&self, kind: &str) {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner).insert(kind.to_owned());
    }

    /// The labels of all that it, the whole that it is a part of, and the parts of that were given.
    #[must_use]
    pub fn labels(&self) -> Labels {
        self.labels.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does it carry these labels already?
    #[must_use]
    pub fn carries(&self, labels: &Labels) -> bool {
        labels.is_empty() || labels.within(&self.labels.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// It carries these labels from now on. Only what is durable is said here.
    ///
    /// # Errors
    /// If they are too many; it carries what it carried then.
    pub fn label(&self, labels: &Labels) -> Result<(), TooManyLabels> {
        let mut carried = self.labels.write().unwrap_or_else(PoisonError::into_inner);
        *carried = carried.with(labels)?;
        Ok(())
    }

    /// Does it carry what its running copy was given up to this labelling?
    #[must_use]
    pub(crate) fn has_recalled(&self, labelling: u64) -> bool {
        self.recalled.load(Ordering::Acquire) >= labelling
    }

    /// It carries what its running copy was given up to this labelling.
    pub(crate) fn recalled(&self, labelling: u64) {
        self.recalled.fetch_max(labelling, Ordering::AcqRel);
    }

    /// Calls permitted so far, those of its parts among them.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts a permitted call, here and in all that it is a part of.
    pub fn count(&self) {
        self.used.fetch_add(1, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.count();
        }
    }

    /// Takes one place in the sliding minute, here and in all that it is a part of, or says no.
    #[must_use]
    pub fn within_rate(&self, now: Timestamp) -> bool {
        self.has_place(now) && self.parent.as_ref().is_none_or(|parent| parent.within_rate(now))
    }

    fn has_place(&self, now: Timestamp) -> bool {
        let limit = usize::try_from(self.task.budget.calls_per_minute).unwrap_or(usize::MAX);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.as_millis().saturating_sub(60_000);
        while recent.front().is_some_and(|at| *at <= since) {
            recent.pop_front();
        }
        if recent.len() >= limit {
            return false;
        }
        recent.push_back(now.as_millis());
        true
    }
}

/// All open tasks.
#[derive(Debug, Default)]
pub struct LiveTasks {
    by_id: RwLock<HashMap<TaskId, Arc<LiveTask>>>,
}

impl LiveTasks {
    /// Adds a task.
    pub fn insert(&self, task: Arc<LiveTask>) {
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).insert(task.task.id, task);
    }

    /// The task, if it is open or was a moment ago.
    #[must_use]
    pub fn find(&self, id: TaskId) -> Option<Arc<LiveTask>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Ends and forgets it.
    pub fn end(&self, id: TaskId) -> Option<Arc<LiveTask>> {
        let task = self.by_id.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(task) = &task {
            task.end();
        }
        task
    }

    /// Its parts, and theirs: the nearest first.
    #[must_use]
    pub fn below(&self, id: TaskId) -> Vec<Arc<LiveTask>> {
        let tasks = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        let mut below: Vec<_> = tasks.values().filter(|t| t.is_below(id)).cloned().collect();
        below.sort_by_key(|t| (t.task.chain.len(), t.task.id));
        below
    }

    /// Those whose time has run out.
    #[must_use]
    pub fn expired(&self, now: Timestamp) -> Vec<Arc<LiveTask>> {
        let tasks = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        tasks.values().filter(|t| t.task.expired(now)).cloned().collect()
    }

    /// Takes one of the few places of a task for streams outside of calls, or says no: neither one token nor one agent with many tasks
    /// must hold every connection.
    #[must_use]
    pub fn stream(&self, of: &LiveTask) -> Option<OwnedSemaphorePermit> {
        // Held, so that two at once do not count the same places.
        let tasks = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        let of_agent: usize = tasks.values().filter(|t| t.task.agent == of.task.agent).map(|t| t.streaming()).sum();
        if of_agent >= STREAMS_OF_AGENT_MAX { None } else { Arc::clone(&of.streams).try_acquire_owned().ok() }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<LiveTask>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_core::{Budget, Grant, InstanceId};
    use std::time::Duration;

    fn task(calls_per_minute: u32) -> Arc<LiveTask> {
        numbered(0, calls_per_minute)
    }

    #[test]
    fn one_agent_does_not_hold_the_streams_of_all_however_many_tasks_it_has() {
        let tasks = LiveTasks::default();
        let all: Vec<_> = (0..20).map(|n| numbered(n, 9)).collect();
        all.iter().for_each(|t| tasks.insert(Arc::clone(t)));
        let mut held: Vec<_> = all.iter().flat_map(|t| std::iter::from_fn(|| tasks.stream(t)).take(99)).collect();
        assert_eq!(held.len(), STREAMS_OF_AGENT_MAX);
        held.pop();
        assert!(tasks.stream(&all[19]).is_some());
        drop(held);
        let of_one: Vec<_> = std::iter::from_fn(|| tasks.stream(&all[0])).take(99).collect();
        assert_eq!(of_one.len(), STREAMS_MAX);
    }

    fn numbered(n: u8, calls_per_minute: u32) -> Arc<LiveTask> {
        let at = Timestamp::from_millis(0);
        LiveTask::open(
            Arc::new(Task {
                id: TaskId::new(at, [n; 10]),
                agent: "a".parse().unwrap(),
                spiffe_id: "spiffe://td/agent/a".parse().unwrap(),
                instance: InstanceId::new(at, [0; 10]),
                owner: "ana".parse().unwrap(),
                subject: "ana".parse().unwrap(),
                purpose: String::new(),
                model_claimed: None,
                model_attested: None,
                component: None,
                undivided: false,
                held_by: None,
                proved_by: None,
                chain: Vec::new(),
                grant: Grant::default(),
                budget: Budget { calls: 9, calls_per_minute },
                opened_at: at,
                expires_at: at.plus(Duration::from_secs(600)),
            }),
            0,
            TaskSalt::of(&[7; 32]),
        )
    }

    #[test]
    fn no_more_calls_pass_in_a_minute_than_the_budget_says() {
        let task = task(2);
        let at = Timestamp::from_millis;
        assert!(task.within_rate(at(0)) && task.within_rate(at(10)));
        assert!(!task.within_rate(at(59_999)));
        assert!(task.within_rate(at(60_000)));
        assert!(!task.within_rate(at(60_005)));
    }

    #[test]
    fn an_ended_task_is_not_open_and_what_runs_is_told() {
        let task = task(2);
        let now = Timestamp::from_millis(5);
        assert!(task.is_open(now));
        task.end();
        assert!(!task.is_open(now) && task.ended().is_cancelled());
    }

    #[test]
    fn a_whole_and_its_parts_carry_one_set_of_labels_that_only_grows() {
        let labels = |names: &[&str]| Labels::new(names.iter().map(|name| name.parse().unwrap())).unwrap();
        let (whole, other) = (numbered(1, 3), numbered(2, 3));
        let part = |of: &Arc<LiveTask>, n| LiveTask::part_of(Some(Arc::clone(of)), Arc::clone(&numbered(n, 3).task), 0, TaskSalt::of(&[7; 32]));
        let (left, right) = (part(&whole, 3), part(&whole, 4));
        let below = part(&left, 5);
        below.label(&labels(&["untrusted"])).unwrap();
        right.label(&labels(&["pii", "untrusted"])).unwrap();
        for task in [&whole, &left, &right, &below, &part(&right, 6)] {
            assert_eq!(task.labels(), labels(&["pii", "untrusted"]));
            assert!(task.carries(&labels(&["pii"])) && !task.carries(&labels(&["secret"])));
        }
        assert!(other.labels().is_empty() && other.carries(&Labels::default()) && !other.carries(&labels(&["pii"])));
        let full = Labels::new((0..32).map(|n| format!("l{n}").parse().unwrap())).unwrap();
        assert!(whole.label(&full).is_err());
        assert_eq!(left.labels(), labels(&["pii", "untrusted"]), "what cannot be carried takes nothing away");
    }

    #[test]
    fn a_part_ends_with_the_whole_and_counts_and_paces_in_it() {
        let whole = numbered(1, 3);
        let hop = whole.task.hop();
        let part = |n: u8| {
            let task = Task { chain: vec![hop.clone()], ..Task::clone(&numbered(n, 9).task) };
            LiveTask::part_of(Some(Arc::clone(&whole)), Arc::new(task), 0, TaskSalt::of(&[n; 32]))
        };
        let (left, right) = (part(2), part(3));
        let now = Timestamp::from_millis(5);
        assert!(left.within_rate(now) && right.within_rate(now) && left.within_rate(now));
        assert!(!right.within_rate(now), "the three places of the whole are taken");
        left.count();
        right.count();
        assert_eq!((whole.used(), left.used(), right.used()), (2, 1, 1));
        let tasks = LiveTasks::default();
        [&whole, &left, &right].into_iter().for_each(|t| tasks.insert(Arc::clone(t)));
        assert_eq!(tasks.below(whole.task.id).len(), 2);
        left.end();
        assert!(!left.is_open(now) && whole.is_open(now) && right.is_open(now) && !whole.ended().is_cancelled());
        whole.end();
        assert!(!right.is_open(now) && right.ended().is_cancelled());
    }

    #[test]
    fn a_task_is_not_open_at_the_very_moment_of_its_expiry() {
        let task = task(2);
        assert!(task.is_open(Timestamp::from_millis(599_999)));
        assert!(!task.is_open(Timestamp::from_millis(600_000)));
    }
}
