//! Leases: credentials that are made for a task, used over connections that we hold, and ended with evidence.
//!
//! The order is that of `credentials::lease`: the intent with the account's name and the sealed secret is durable before anything is made
//! at a system, so that a crash leaves a name to clean. A task stays `closing` while any of its leases has no ending; tries never stop.
//! This module journals, mints and ends; what follows from it for tasks and people is in [`work`].

mod check;
mod ending;
#[cfg(test)]
mod faults;
mod given;
mod held;
mod mint;
mod pool;
mod record;
#[cfg(test)]
mod simulation;
mod sweep;
mod work;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bailiwick_core::{Clock, LeaseId, SystemName, Task, TaskId, Timestamp};
use bailiwick_credentials::lease::{AccountName, Kind, Prefix, TargetCode, TargetError};
use bailiwick_credentials::{Injection, SealError, Sealer, Secret};
use bailiwick_store::{LeaseFilter, LeaseRow, LeaseState, Store, StoreError};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::builtin::{Builtin, Rights};
use crate::clock::random;
use pool::Pool;

pub(crate) use check::check_stopped;
pub(crate) use ending::{Tried, word};
pub(crate) use given::{Given, GivenBy, HeaderUse, span};
pub(crate) use held::Held;
pub(crate) use pool::PoolSize;

/// The classes of credentials that are handed out: apart from those that the broker uses, so that their traces are too.
pub(crate) const ISSUED_READ: &str = "issued-read";
/// As [`ISSUED_READ`], for one that writes.
pub(crate) const ISSUED_WRITE: &str = "issued-write";

/// How long a system that could not be reached is left alone; it doubles.
const DOWN_FIRST: Duration = Duration::from_secs(1);
const DOWN_MAX: Duration = Duration::from_secs(30);
/// Kinds are told at start of what was ended in this time: longer than a lease, and than clocks differ.
const REMEMBERED_MS: i64 = 36 * 3600 * 1000;

/// Ends that are tried at a time at one system.
pub(crate) const ENDS_AT_ONCE: usize = 8;

/// Seals the secrets of leases.
pub(crate) trait Seals: Send + Sync {
    /// Seals a secret under a name.
    fn seal(&self, name: &str, secret: &Secret) -> Result<Vec<u8>, SealError>;
    /// Opens it again.
    fn open(&self, name: &str, sealed: &[u8]) -> Result<Secret, SealError>;
}

impl Seals for Sealer {
    fn seal(&self, name: &str, secret: &Secret) -> Result<Vec<u8>, SealError> {
        Self::seal(self, name, secret)
    }
    fn open(&self, name: &str, sealed: &[u8]) -> Result<Secret, SealError> {
        Self::open(self, name, sealed)
    }
}

/// How one system's credentials are made, and how its calls use them.
#[derive(Debug)]
pub(crate) struct Leasing {
    /// The system.
    pub(crate) system: SystemName,
    /// Mints and ends.
    pub(crate) kind: Arc<dyn Kind>,
    /// Where it is, without secrets.
    pub(crate) target: String,
    /// What the names of its accounts begin with.
    pub(crate) prefix: Prefix,
    /// What a call of it does; none for a system with a server of its own.
    pub(crate) builtin: Option<Arc<dyn Builtin>>,
    /// The rights of a credential of a system with a server of its own.
    pub(crate) rights: Vec<String>,
    /// How a system with a server of its own is given it.
    pub(crate) given: Option<Given>,
    /// Accounts that wait for tasks.
    pub(crate) pool: PoolSize,
    /// May a credential be handed out to an agent, by a tool of its own?
    pub(crate) issues: bool,
    /// Everything that an end needs was there when it was looked at.
    pub(crate) checked: AtomicBool,
    /// Why nothing is made there, as its check found it; none where it passed, or was not looked at.
    pub(crate) unfit: Mutex<Option<String>>,
    /// Ends that are tried at a time: one system that hangs holds up no other.
    pub(crate) places: Arc<Semaphore>,
    /// Since it could not be reached, nothing is made there until then; and how long that was.
    pub(crate) down: Mutex<Option<(Timestamp, Duration)>>,
}

impl Leasing {
    /// Why it is not served, if its check found something.
    pub(crate) fn unfit(&self) -> Option<String> {
        locked(&self.unfit).clone()
    }

    /// What its check found.
    pub(crate) fn set_unfit(&self, why: Option<String>) {
        *locked(&self.unfit) = why;
    }

    /// Could it not be reached a moment ago?
    pub(crate) fn is_down(&self, now: Timestamp) -> bool {
        locked(&self.down).is_some_and(|(until, _)| now < until)
    }

    /// It answered, or could not be reached: then it is left alone for a while, so that what is tried in vain is not written down without end.
    pub(super) fn saw(&self, error: Option<&TargetError>, now: Timestamp) {
        let mut down = locked(&self.down);
        *down = error.filter(|e| e.code() == TargetCode::Unreachable).map(|_| {
            let wait = down.map_or(DOWN_FIRST, |(_, wait)| wait.saturating_mul(2).min(DOWN_MAX));
            (now.plus(wait), wait)
        });
    }
}

/// Why a call gets no credential.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    /// The task is not open any more.
    #[error("its task has ended")]
    TaskClosed,
    /// Another call found that it cannot be made, or somebody ended it.
    #[error("the credential is not there any more")]
    Gone,
    /// The system could not be reached a moment ago.
    #[error("the system could not be reached a moment ago")]
    Down,
    /// The system, or the way to it.
    #[error("no credential could be made: {0}")]
    Target(#[from] TargetError),
    /// The broker's own account at the system lacks a right that an end needs.
    #[error("no credential is made, as it could not be ended: {0}")]
    Unfit(String),
    /// The store's.
    #[error("the lease could not be written down: {0}")]
    Store(#[from] StoreError),
    /// The secret could not be sealed or used.
    #[error("the credential cannot be kept: {0}")]
    Seal(String),
}

/// What happened to a lease, for whoever looks after tasks and calls people.
#[derive(Debug)]
pub(crate) enum Event {
    /// It has its ending.
    Ended {
        /// Its task.
        task: Option<TaskId>,
    },
    /// Its end was tried in vain so often, or for such a reason, that somebody should look.
    Stuck {
        /// The lease.
        lease: LeaseId,
        /// Its task.
        task: Option<TaskId>,
        /// Its system.
        system: SystemName,
        /// Why, in words.
        why: String,
    },
}

type Key = (TaskId, SystemName, &'static str);

/// All leases of this broker.
pub(crate) struct Leases {
    store: Store,
    sealer: Arc<dyn Seals>,
    clock: Arc<dyn Clock>,
    systems: RwLock<BTreeMap<SystemName, Arc<Leasing>>>,
    held: Mutex<HashMap<Key, Arc<Held>>>,
    /// Accounts that the journal explains: from before the intent until after the ending.
    known: Mutex<HashSet<[u8; 16]>>,
    /// Leases that are being minted or ended at this moment.
    busy: Mutex<HashSet<LeaseId>>,
    /// Rings when one of them is not any more.
    freed: Notify,
    /// Leases that are to be ended, and the store could not be told so.
    unsaid: Mutex<Vec<LeaseId>>,
    /// Accounts that wait for tasks.
    pools: Mutex<HashMap<SystemName, Pool>>,
    /// Rings when there is something to end.
    wake: Notify,
    /// Leases whose end was begun and has not come back, and what says that it has.
    queued: Mutex<HashMap<LeaseId, CancellationToken>>,
    /// The broker stops: no account is made beforehand any more.
    drained: AtomicBool,
    events: mpsc::UnboundedSender<Event>,
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leases").field("held", &locked(&self.held).len()).finish_non_exhaustive()
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name under which a lease's secret is sealed.
pub(crate) fn seal_name(lease: LeaseId) -> String {
    format!("lease/{lease}")
}

impl Leases {
    /// No leases yet. What happens to them comes out of the receiver.
    pub(crate) fn new(store: Store, sealer: Arc<dyn Seals>, clock: Arc<dyn Clock>) -> (Arc<Self>, mpsc::UnboundedReceiver<Event>) {
        let (events, happened) = mpsc::unbounded_channel();
        let leases = Self {
            store,
            sealer,
            clock,
            systems: RwLock::default(),
            held: Mutex::default(),
            known: Mutex::default(),
            busy: Mutex::default(),
            freed: Notify::new(),
            unsaid: Mutex::default(),
            pools: Mutex::default(),
            wake: Notify::new(),
            queued: Mutex::default(),
            drained: AtomicBool::new(false),
            events,
        };
        (Arc::new(leases), happened)
    }

    /// Leases of this system are made and ended so from now on.
    pub(crate) fn add(&self, leasing: Arc<Leasing>) {
        self.systems.write().unwrap_or_else(PoisonError::into_inner).insert(leasing.system.clone(), leasing);
    }

    /// How leases of a system are made.
    pub(crate) fn leasing(&self, system: &SystemName) -> Option<Arc<Leasing>> {
        self.systems.read().unwrap_or_else(PoisonError::into_inner).get(system).cloned()
    }

    /// The task's lease of this system and class: the one that it has, or one that is only a name yet. Nothing is made or written.
    pub(crate) fn reserve(&self, task: &Arc<Task>, leasing: &Arc<Leasing>, rights: Rights) -> Arc<Held> {
        let now = self.clock.now();
        let key = (task.id, leasing.system.clone(), rights.class);
        let mut held = locked(&self.held);
        if let Some(found) = held.get(&key) {
            if found.is_usable(now) {
                return Arc::clone(found);
            }
            // It is at its end before the task is: the task gets another one.
            found.set_over();
            let over = Arc::clone(found);
            tokio::spawn(async move { over.close().await });
            self.retire(found.id);
        }
        let fresh = match self.take_pooled(leasing, rights.class) {
            Some(pooled) => Held::from_pool(pooled, Arc::clone(task), Arc::clone(leasing), rights),
            None => {
                let id = LeaseId::new(now, random());
                Held::reserved(id, AccountName::new(&leasing.prefix, id.to_bytes()), Arc::clone(task), Arc::clone(leasing), rights)
            }
        };
        let fresh = Arc::new(fresh);
        held.insert(key, Arc::clone(&fresh));
        fresh
    }

    /// In place of one whose account the system had lost while it waited, for the call that it was for: one that is made now, or the one that another
    /// call of the task has in its place already.
    pub(crate) fn instead_of(&self, lost: &Arc<Held>) -> Arc<Held> {
        let now = self.clock.now();
        let key = (lost.task.id, lost.leasing.system.clone(), lost.rights.class);
        let mut all = locked(&self.held);
        if let Some(found) = all.get(&key).filter(|found| found.is_usable(now) && found.is_live()) {
            return Arc::clone(found);
        }
        let id = LeaseId::new(now, random());
        let name = AccountName::new(&lost.leasing.prefix, id.to_bytes());
        let fresh = Arc::new(Held::reserved(id, name, Arc::clone(&lost.task), Arc::clone(&lost.leasing), lost.rights.clone()));
        // What another call waits to have made, or to use, stays the task's: this one is ended with the task all the same.
        all.entry(key).or_insert_with(|| Arc::clone(&fresh));
        fresh
    }

    /// Takes up what the store remembers: what may be used is used on, everything else is ended. `task` gives the open tasks. Where nothing may be
    /// written, nothing is used and nothing ended.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn recover(&self, may_write: bool, task: impl Fn(TaskId) -> Option<Arc<Task>>) -> Result<(), StoreError> {
        let open = LeaseFilter { open: true, limit: usize::MAX, ..LeaseFilter::default() };
        for row in self.store.leases(open).await? {
            locked(&self.known).insert(row.lease.id.to_bytes());
            if !may_write {
                // Everything stays as it is for the shard to come.
                continue;
            }
            let live = (row.state == LeaseState::Live).then(|| row.task.and_then(&task)).flatten();
            let taken = live.is_some_and(|task| self.take_up(&row, &task));
            if !taken && row.state != LeaseState::Ending {
                self.store.lease_ending(row.lease.id).await?;
            }
        }
        let since = Timestamp::from_millis(self.clock.now().as_millis().saturating_sub(REMEMBERED_MS));
        let ended = if self.systems().iter().any(|l| l.kind.listens()) { self.store.leases_ended_since(since).await? } else { Vec::new() };
        for row in ended {
            if let (Some(leasing), Ok(account)) = (self.leasing(&row.lease.system), self.account(&row)) {
                leasing.kind.remember(&account);
            }
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Takes up a live lease of an open task, if its system is the one that it was and its secret opens.
    fn take_up(&self, row: &LeaseRow, task: &Arc<Task>) -> bool {
        let same = |l: &Arc<Leasing>| l.kind.kind() == row.lease.kind && l.target == row.lease.target;
        let Some(leasing) = self.leasing(&row.lease.system).filter(same) else { return false };
        // It may not have been said at the system whose it is.
        if row.life.pooled {
            return false;
        }
        let Some(class) = ["read", "write", "use", ISSUED_READ, ISSUED_WRITE].into_iter().find(|c| *c == row.lease.class) else { return false };
        let Ok(account) = self.account(row) else { return false };
        let rights = Rights { class, rights: row.lease.rights.clone() };
        let held = Held::reserved(row.lease.id, account.name.clone(), Arc::clone(task), leasing, rights);
        if held.set_live(account, (None, false)).is_err() {
            return false;
        }
        held.set_used();
        let key = (task.id, row.lease.system.clone(), class);
        let mut all = locked(&self.held);
        // The newest of two is the one in use.
        if all.contains_key(&key) {
            return false;
        }
        all.insert(key, Arc::new(held));
        true
    }

    /// A lease is taken from its task: our connection is closed, and it is to be ended. Nothing if it is not in use.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn stop_using(&self, id: LeaseId) -> Result<(), StoreError> {
        let held = locked(&self.held).extract_if(|_, held| held.id == id).map(|(_, held)| held).next();
        if let Some(held) = held {
            held.close().await;
        }
        locked(&self.pools).values_mut().for_each(|pool| pool.waiting.retain(|waiting| waiting.id() != id));
        self.store.lease_ending(id).await?;
        Ok(())
    }

    /// What the leases in use of a system inject: what it says beside an answer is cleaned of them.
    pub(crate) fn injections_of(&self, system: &SystemName) -> Vec<Arc<Injection>> {
        if self.leasing(system).is_none() {
            return Vec::new();
        }
        locked(&self.held).iter().filter(|((_, of, _), _)| of == system).filter_map(|(_, held)| held.injection()).collect()
    }
}
