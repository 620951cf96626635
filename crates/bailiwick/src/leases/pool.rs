//! Accounts that are made beforehand, so that the first call of a task does not wait for the system: each is given to one task, once.
//!
//! A pooled account is a lease without a task: written down before it is made, explained to the sweep, ended like any other. It has the
//! rights of its class, and a short life of its own. What nobody took in that time is ended and replaced.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bailiwick_core::record::Lost;
use bailiwick_core::{CallId, Effect, LeaseId, Timestamp};
use bailiwick_credentials::lease::{Account, AccountName, Minted, Plan, Tag};
use bailiwick_store::{Assignment, LeaseFilter, LeaseLife, LeaseRow, LeaseState, StoreError};
use tokio::sync::Notify;

use super::record::{begun, made, step};
use super::{Held, LeaseError, Leases, Leasing, locked, seal_name};
use crate::builtin::{Rights, Session};
use crate::clock::random;

/// How long an account may wait for a task.
const WAITS_FOR: Duration = Duration::from_secs(3600);
/// One that is over sooner than this is not given to a task any more.
const LEFT_MIN: Duration = Duration::from_secs(300);
/// What was not taken for this long is quiet: another account is made then, and not beside the first calls of tasks.
const QUIET: Duration = Duration::from_millis(20);
/// However many are taken one after another, another one is made after this.
const QUIET_WITHIN: Duration = Duration::from_secs(1);
/// The system's catalogue is told whose an account is after its first call, and after this in any case.
const SAY_WITHIN: Duration = Duration::from_millis(20);
/// The first wait between two tries to say so; it doubles.
const SAY_AGAIN_FIRST: Duration = Duration::from_millis(250);
/// The longest.
const SAY_AGAIN_MAX: Duration = Duration::from_secs(30);
/// What stands in the place of a task at the system.
const NOBODY: &str = "pool";

/// Accounts of one class that are to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PoolSize {
    /// For calls that read.
    pub(crate) read: usize,
    /// For calls that write.
    pub(crate) write: usize,
}

/// The accounts of one system that wait.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub(super) waiting: Vec<Pooled>,
    /// When the last one was taken.
    taken_at: Option<Timestamp>,
    /// Rings when one is taken.
    taken: Arc<Notify>,
}

impl Pool {
    fn of(&self, class: &str) -> usize {
        self.waiting.iter().filter(|p| p.class == class).count()
    }
}

/// An account that waits, with a connection that is open already.
#[derive(Debug)]
pub(crate) struct Pooled {
    /// As it is in the store, but for its secret.
    row: LeaseRow,
    class: &'static str,
    account: Account,
    session: Option<Arc<dyn Session>>,
    /// The system let it in when it was made.
    was_in: bool,
    until: Timestamp,
}

impl Pooled {
    /// The lease.
    pub(super) const fn id(&self) -> LeaseId {
        self.row.lease.id
    }

    /// The name of its account.
    pub(super) const fn name(&self) -> &AccountName {
        &self.account.name
    }

    /// Is its connection open, as far as that is known here?
    fn is_open(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !session.is_over())
    }

    async fn close(&self) {
        if let Some(session) = &self.session {
            session.close().await;
        }
    }
}

impl Leases {
    /// One that waits, if there is one with time left: rather one whose connection is open. It is the caller's now.
    pub(super) fn take_pooled(&self, leasing: &Leasing, class: &str) -> Option<Pooled> {
        let now = self.clock.now();
        let mut pools = locked(&self.pools);
        let pool = pools.get_mut(&leasing.system)?;
        let mut fit = pool.waiting.iter().enumerate().filter(|(_, p)| p.class == class && now.plus(LEFT_MIN) < p.until);
        let first = fit.next()?;
        let at = if first.1.is_open() { first.0 } else { fit.find(|(_, p)| p.is_open()).unwrap_or(first).0 };
        let taken = pool.waiting.swap_remove(at);
        pool.taken_at = Some(now);
        pool.taken.notify_one();
        Some(taken)
    }

    /// A task did not need it after all.
    pub(super) fn give_back(&self, leasing: &Leasing, pooled: Pooled) {
        if self.drained.load(Ordering::Acquire) {
            return self.retire(pooled.id());
        }
        locked(&self.pools).entry(leasing.system.clone()).or_default().waiting.push(pooled);
    }

    /// A call was not permitted: an account that waited is not kept from others for it, unless another call of the task counts on it.
    pub(crate) fn release(&self, held: &Arc<Held>) {
        let key = (held.task.id, held.leasing.system.clone(), held.rights.class);
        let mut all = locked(&self.held);
        // The map's and the caller's: whoever else wants it has to come by the map.
        let alone = Arc::strong_count(held) == 2 && !held.is_assigned() && all.get(&key).is_some_and(|found| Arc::ptr_eq(found, held));
        let pooled = if alone { held.making.try_lock().ok().and_then(|mut making| making.take()) } else { None };
        if let Some(pooled) = pooled {
            all.remove(&key);
            drop(all);
            self.give_back(&held.leasing, pooled);
        }
    }

    /// Its task has ended, or lost it, before it was used: the next task may have what is nobody's yet.
    pub(super) async fn put_aside(&self, held: &Arc<Held>, pooled: Pooled) {
        if !held.is_assigned() {
            return self.give_back(&held.leasing, pooled);
        }
        pooled.close().await;
        self.retire(pooled.id());
    }

    /// What is written down with the intent of a call, if the call's account waited and is nobody's yet: from then on it is the task's.
    ///
    /// # Errors
    /// It does not fit into an entry.
    pub(crate) fn assignment(&self, held: &Held, call: CallId) -> Result<Option<Assignment>, StoreError> {
        // Whoever has it now has written that down.
        let Ok(making) = held.making.try_lock() else { return Ok(None) };
        let Some(pooled) = making.as_ref().filter(|_| !held.is_assigned()) else { return Ok(None) };
        let tag = held.tag();
        let life = LeaseLife { call: Some(call), tag: tag.to_text(), expires_at: Some(tag.expires_at), ..pooled.row.life.clone() };
        let row = LeaseRow { life, task: Some(held.task.id), secret: None, ..pooled.row.clone() };
        let body = step(self.clock.now(), &row, "assigned", Some(&held.task), None);
        Assignment::new(held.id, &row.life, body).map(Some)
    }

    /// What became of an assignment.
    pub(crate) async fn assigned(&self, held: &Arc<Held>, written: Result<(), Lost>) {
        match written {
            Ok(()) => {
                crate::fault::point("lease-assigned");
                held.set_assigned();
            }
            // Another task has it, or it is being ended: it is ended in any case, and the call gets another one.
            Err(Lost::LeaseGone) => {
                self.let_go(held);
                let pooled = held.making.try_lock().ok().and_then(|mut making| making.take());
                if let Some(pooled) = pooled {
                    pooled.close().await;
                }
                self.retire(held.id);
            }
            Err(Lost::Stale | Lost::TaskClosed | Lost::BudgetCalls | Lost::ApprovalGone) => {}
        }
    }

    /// An account that waited, and that an intent gave to the task, is used from here on. Its connection says whose it is with the first
    /// statement, and the system's catalogue a moment later.
    pub(super) async fn take_into_use(self: &Arc<Self>, held: &Arc<Held>, pooled: Pooled) -> Result<(), LeaseError> {
        if !held.is_assigned() {
            pooled.close().await;
            return Err(LeaseError::Gone);
        }
        let tag = held.tag();
        let Pooled { account, session, was_in, .. } = pooled;
        let session = match session {
            Some(session) if !session.is_over() && session.assign(&tag).await => Some(session),
            Some(session) => {
                session.close().await;
                None
            }
            None => None,
        };
        let account = Account { expires_at: Some(tag.expires_at), ..account };
        held.set_live(account, (session, was_in)).map_err(|e| LeaseError::Seal(e.to_string()))?;
        // Its task may have ended meanwhile, and closed what was not there yet.
        if held.is_over() {
            held.close().await;
            return Err(LeaseError::TaskClosed);
        }
        self.say_whose(held);
        metrics::counter!("bailiwick_leases_pooled_total", "kind" => held.leasing.kind.kind()).increment(1);
        Ok(())
    }

    /// Says in the system's catalogue whose the account is now, and until when; the connection says so already. Tried until the system takes it
    /// or the lease ends, which waits only for a try that is under way; where the system refuses it, the account is used no more.
    fn say_whose(self: &Arc<Self>, held: &Arc<Held>) {
        let (leases, held) = (Arc::clone(self), Arc::clone(held));
        tokio::spawn(async move {
            // The task's first call goes first: this loads the same system.
            drop(tokio::time::timeout(SAY_WITHIN, held.first_used()).await);
            let mut wait = SAY_AGAIN_FIRST;
            while !held.is_over() {
                let said = {
                    // Else it is being ended already.
                    let Some(_busy) = leases.occupy(held.id) else { return };
                    held.say_whose().await
                };
                match said {
                    Ok(()) => return,
                    Err(error) if error.is_transient() => {
                        tracing::warn!(lease = %held.id, %error, "the name of an account's task could not be said at the system yet; it is tried again");
                    }
                    Err(error) => {
                        tracing::warn!(lease = %held.id, %error, "the system does not take the name of an account's task: the account is ended");
                        return leases.lost(&held);
                    }
                }
                drop(tokio::time::timeout(wait, held.ended()).await);
                wait = wait.saturating_mul(2).min(SAY_AGAIN_MAX);
            }
        });
    }

    /// Makes as many as are to wait, one at a time, and ends those whose time is over and those that the system lost.
    ///
    /// # Errors
    /// The first that could not be made: it is tried again later.
    pub(crate) async fn fill_pool(&self, leasing: &Leasing) -> Result<(), LeaseError> {
        let Some(builtin) = &leasing.builtin else { return Ok(()) };
        let now = self.clock.now();
        if leasing.is_down(now) {
            return Ok(());
        }
        let over: Vec<Pooled> = {
            let mut pools = locked(&self.pools);
            let pool = pools.entry(leasing.system.clone()).or_default();
            pool.waiting.extract_if(.., |p| p.until <= now.plus(LEFT_MIN)).collect()
        };
        for pooled in over {
            self.dispose(pooled).await;
        }
        self.open_again(leasing).await;
        for (effect, wanted) in [(Effect::Read, leasing.pool.read), (Effect::Write, leasing.pool.write)] {
            let rights = builtin.rights(effect);
            while self.waiting_of(leasing, rights.class) < wanted {
                self.let_calls_go_first(leasing, rights.class, wanted).await;
                if self.drained.load(Ordering::Acquire) {
                    return Ok(());
                }
                // One may have been given back meanwhile.
                if self.waiting_of(leasing, rights.class) < wanted {
                    let pooled = self.make_pooled(leasing, &rights).await?;
                    self.give_back(leasing, pooled);
                }
            }
        }
        Ok(())
    }

    /// Waits while first calls of tasks are going on, as making an account loads the same system: not beyond [`QUIET_WITHIN`], and not at all
    /// when fewer than half are left, so that a burst never finds it empty for longer than the making takes.
    async fn let_calls_go_first(&self, leasing: &Leasing, class: &str, wanted: usize) {
        let until = self.clock.now().plus(QUIET_WITHIN);
        loop {
            let now = self.clock.now();
            let (there, taken_at) = locked(&self.pools).get(&leasing.system).map_or((0, None), |pool| (pool.of(class), pool.taken_at));
            let rest = taken_at.map_or(Duration::ZERO, |at| now.until(at.plus(QUIET)));
            if there.saturating_mul(2) < wanted || rest.is_zero() || until <= now || self.drained.load(Ordering::Acquire) {
                return;
            }
            tokio::time::sleep(rest).await;
        }
    }

    /// Connections that the system closed while they waited are opened again. An account that is not let in any more is lost: a crash of the
    /// system may take with it what was made just before. It is ended, and another one is made.
    async fn open_again(&self, leasing: &Leasing) {
        let Some(builtin) = &leasing.builtin else { return };
        loop {
            let closed = {
                let mut pools = locked(&self.pools);
                let Some(pool) = pools.get_mut(&leasing.system) else { return };
                let Some(at) = pool.waiting.iter().position(|p| p.was_in && !p.is_open()) else { return };
                pool.waiting.swap_remove(at)
            };
            closed.close().await;
            match builtin.open(&closed.account, &waiting(closed.until)).await {
                Ok(session) => {
                    session.warm().await;
                    self.give_back(leasing, Pooled { session: Some(session), ..closed });
                }
                Err(error) if error.login_refused => {
                    tracing::warn!(lease = %closed.id(), system = %leasing.system, error = %error.words, "the system lost an account that waited: it is ended");
                    self.retire(closed.id());
                }
                Err(error) => {
                    tracing::debug!(lease = %closed.id(), system = %leasing.system, error = %error.words, "an account that waits has no connection");
                    return self.give_back(leasing, Pooled { session: None, ..closed });
                }
            }
        }
    }

    /// Accounts whose time is over and that nobody has: whoever reserved one went away. They wait for an hour, so this is looked at as seldom.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn retire_forgotten(&self, leasing: &Leasing, now: Timestamp) -> Result<(), LeaseError> {
        let filter =
            LeaseFilter { system: Some(leasing.system.clone()), state: Some(LeaseState::Pooled), limit: usize::MAX, ..LeaseFilter::default() };
        for row in self.store.leases(filter).await? {
            let waits = locked(&self.pools).get(&leasing.system).is_some_and(|pool| pool.waiting.iter().any(|p| p.id() == row.lease.id));
            if !waits && row.lease.begun_at.plus(WAITS_FOR) < now {
                self.retire(row.lease.id);
            }
        }
        Ok(())
    }

    async fn make_pooled(&self, leasing: &Leasing, rights: &Rights) -> Result<Pooled, LeaseError> {
        let now = self.clock.now();
        let id = LeaseId::new(now, random());
        let _busy = self.occupy(id).ok_or(LeaseError::TaskClosed)?;
        let name = AccountName::new(&leasing.prefix, id.to_bytes());
        let tag = waiting(now.plus(WAITS_FOR));
        let proposed = leasing.kind.propose()?;
        let seal = |secret: &_| self.sealer.seal(&seal_name(id), secret).map_err(|e| LeaseError::Seal(e.to_string()));
        let row = LeaseRow {
            lease: begun(now, id, leasing, rights, &name),
            task: None,
            state: LeaseState::Pooled,
            life: LeaseLife { tag: tag.to_text(), pooled: true, ..LeaseLife::default() },
            secret: proposed.as_ref().map(seal).transpose()?,
        };
        locked(&self.known).insert(id.to_bytes());
        if let Err(error) = self.store.lease_begin(row.clone(), step(now, &row, "intended", None, None)).await {
            locked(&self.known).remove(&id.to_bytes());
            return Err(error.into());
        }
        let made = self.finish_pooled(leasing, &row, name, tag, proposed).await;
        if made.is_err() {
            self.retire(id);
        }
        let (row, account, until) = made?;
        // One without a connection is good too: its first call opens it.
        let session = match &leasing.builtin {
            Some(builtin) => builtin.open(&account, &waiting(until)).await.ok(),
            None => None,
        };
        if let Some(session) = &session {
            session.warm().await;
        }
        Ok(Pooled { row, class: rights.class, account, was_in: session.is_some(), session, until })
    }

    async fn finish_pooled(
        &self,
        leasing: &Leasing,
        row: &LeaseRow,
        name: AccountName,
        tag: Tag,
        proposed: Option<bailiwick_credentials::Secret>,
    ) -> Result<(LeaseRow, Account, Timestamp), LeaseError> {
        let until = tag.expires_at;
        let plan = Plan { name: name.clone(), tag, rights: row.lease.rights.clone() };
        let minted = leasing.kind.mint(&plan, proposed.as_ref()).await;
        leasing.saw(minted.as_ref().err(), self.clock.now());
        let Minted { ids, secret, expires_at } = minted?;
        let sealed =
            secret.as_ref().map(|s| self.sealer.seal(&seal_name(row.lease.id), s)).transpose().map_err(|e| LeaseError::Seal(e.to_string()))?;
        let life = LeaseLife { ids: serde_json::to_value(&ids).unwrap_or_default(), expires_at, ..row.life.clone() };
        let now_row = LeaseRow { life: life.clone(), ..row.clone() };
        let body = made(self.clock.now(), &now_row, "pooled", None);
        self.store.lease_made(row.lease.id, life, sealed, body).await?;
        let account = Account { name, ids, secret: secret.or(proposed), expires_at };
        Ok((LeaseRow { secret: None, ..now_row }, account, expires_at.unwrap_or(until).min(until)))
    }

    async fn dispose(&self, pooled: Pooled) {
        pooled.close().await;
        self.retire(pooled.id());
    }

    /// The broker stops: what waits is ended, as far as there is time; the next start ends the rest.
    pub(crate) async fn drain_pools(self: &Arc<Self>) {
        self.drained.store(true, Ordering::Release);
        let all: Vec<Pooled> = locked(&self.pools).drain().flat_map(|(_, pool)| pool.waiting).collect();
        let ids: Vec<LeaseId> = all.iter().map(Pooled::id).collect();
        for pooled in all {
            self.dispose(pooled).await;
        }
        if let Err(error) = self.say_unsaid().await {
            tracing::warn!(%error, "accounts that waited for a task are ended at the next start");
            return;
        }
        let ends = ids.into_iter().map(|id| async move {
            if let Ok(Some(row)) = self.store.lease(id).await {
                drop(self.end(&row).await);
            }
        });
        futures_util::future::join_all(ends).await;
    }

    /// Accounts of a system that wait.
    pub(super) fn waiting(&self, system: &str) -> usize {
        locked(&self.pools).get(system).map_or(0, |pool| pool.waiting.len())
    }

    fn waiting_of(&self, leasing: &Leasing, class: &str) -> usize {
        locked(&self.pools).get(&leasing.system).map_or(0, |pool| pool.of(class))
    }

    /// Resolves when an account of the system was taken, and whoever took it had time for its first call: making another one loads the same system.
    pub(crate) async fn pool_rung(&self, leasing: &Leasing) {
        let taken = Arc::clone(&locked(&self.pools).entry(leasing.system.clone()).or_default().taken);
        taken.notified().await;
        tokio::time::sleep(QUIET).await;
    }
}

/// The tag of an account that waits for a task.
fn waiting(until: Timestamp) -> Tag {
    Tag { task: NOBODY.to_owned(), agent: NOBODY.to_owned(), expires_at: until }
}
