//! Accounts that are made beforehand, so that the first call of a task does not wait for the system: each is given to one task, once.
//!
//! A pooled account is a lease without a task: written down before it is made, explained to the sweep, ended like any other. It has the
//! rights of its class, and a short life of its own. What nobody took in that time is ended and replaced.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bailiwick_core::{CallId, Effect, LeaseId, Timestamp};
use bailiwick_credentials::lease::{Account, AccountName, Minted, Plan, Tag};
use bailiwick_store::{LeaseFilter, LeaseLife, LeaseRow, LeaseState};

use super::record::{begun, made, step};
use super::{Held, LeaseError, Leases, Leasing, locked, seal_name};
use crate::builtin::{Rights, Session};
use crate::clock::random;

/// How long an account may wait for a task.
const WAITS_FOR: Duration = Duration::from_secs(3600);
/// One that is over sooner than this is not given to a task any more.
const LEFT_MIN: Duration = Duration::from_secs(300);
/// How long after one was taken another one is made.
const AFTER_TAKING: Duration = Duration::from_millis(20);
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

/// An account that waits, with a connection that is open already.
#[derive(Debug)]
pub(crate) struct Pooled {
    /// As it is in the store, but for its secret.
    row: LeaseRow,
    class: &'static str,
    account: Account,
    session: Option<Arc<dyn Session>>,
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
}

impl Leases {
    /// One that waits, if there is one with time left. It is the caller's now.
    pub(super) fn take_pooled(&self, leasing: &Leasing, class: &str) -> Option<Pooled> {
        let now = self.clock.now();
        let mut pools = locked(&self.pools);
        let pool = pools.get_mut(&leasing.system)?;
        let at = pool.iter().position(|p| p.class == class && now.plus(LEFT_MIN) < p.until)?;
        let taken = pool.swap_remove(at);
        drop(pools);
        self.pool_wake.notify_waiters();
        Some(taken)
    }

    /// A task did not need it after all.
    pub(super) fn give_back(&self, leasing: &Leasing, pooled: Pooled) {
        if self.drained.load(Ordering::Acquire) {
            return self.retire(pooled.id());
        }
        locked(&self.pools).entry(leasing.system.clone()).or_default().push(pooled);
    }

    /// A call was not permitted: an account that waited is not kept from others for it, unless another call of the task counts on it.
    pub(crate) fn release(&self, held: &Arc<Held>) {
        let key = (held.task.id, held.leasing.system.clone(), held.rights.class);
        let mut all = locked(&self.held);
        // The map's and the caller's: whoever else wants it has to come by the map.
        let alone = Arc::strong_count(held) == 2 && all.get(&key).is_some_and(|found| Arc::ptr_eq(found, held));
        let pooled = if alone { held.making.try_lock().ok().and_then(|mut making| making.take()) } else { None };
        if let Some(pooled) = pooled {
            all.remove(&key);
            drop(all);
            self.give_back(&held.leasing, pooled);
        }
    }

    /// A pooled account becomes a task's: written down and said on the connection, then used. The system's own catalogue follows at once.
    pub(super) async fn assign(self: &Arc<Self>, held: &Arc<Held>, pooled: Pooled, call: CallId) -> Result<(), LeaseError> {
        let Pooled { row, account, session, .. } = pooled;
        let id = row.lease.id;
        let busy = self.occupy(id).ok_or(LeaseError::Gone)?;
        let tag = held.tag();
        let life = LeaseLife { call: Some(call), tag: tag.to_text(), expires_at: Some(tag.expires_at), ..row.life.clone() };
        let row = LeaseRow { life: life.clone(), task: Some(held.task.id), ..row };
        let body = step(self.clock.now(), &row, "assigned", Some(&held.task), None);
        let written = async {
            let written = self.store.lease_assign(id, held.task.id, life, body).await;
            crate::fault::point("lease-assigned");
            written
        };
        let named = async {
            match session {
                Some(session) if session.assign(&tag).await => Some(session),
                Some(session) => {
                    session.close().await;
                    None
                }
                None => None,
            }
        };
        let (written, session) = tokio::join!(written, named);
        let written = written.map_err(LeaseError::from).and_then(|written| if written { Ok(()) } else { Err(LeaseError::Gone) });
        if let (Err(_), Some(session)) = (&written, &session) {
            session.close().await;
        }
        written?;
        held.set_live(Account { expires_at: Some(tag.expires_at), ..account }, session).map_err(|e| LeaseError::Seal(e.to_string()))?;
        drop(busy);
        self.say_whose(held);
        metrics::counter!("bailiwick_leases_pooled_total", "kind" => held.leasing.kind.kind()).increment(1);
        Ok(())
    }

    /// Says in the system's catalogue whose the account is now, and until when; the connection says so already. Where the system does not take it, the
    /// account is used no more. Its end waits for this.
    fn say_whose(self: &Arc<Self>, held: &Arc<Held>) {
        let (leases, held) = (Arc::clone(self), Arc::clone(held));
        tokio::spawn(async move {
            // Else it is being ended already.
            let Some(_busy) = leases.occupy(held.id) else { return };
            if let Err(error) = held.say_whose().await {
                tracing::warn!(lease = %held.id, %error, "the system does not take the name of an account's task: the account is ended");
                leases.lost(&held);
            }
        });
    }

    /// Makes as many as are to wait, and ends those whose time is over.
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
            pool.extract_if(.., |p| p.until <= now.plus(LEFT_MIN)).collect()
        };
        for pooled in over {
            self.dispose(pooled).await;
        }
        for (effect, wanted) in [(Effect::Read, leasing.pool.read), (Effect::Write, leasing.pool.write)] {
            let rights = builtin.rights(effect);
            loop {
                let there = locked(&self.pools).get(&leasing.system).map_or(0, |pool| pool.iter().filter(|p| p.class == rights.class).count());
                if there >= wanted || self.drained.load(Ordering::Acquire) {
                    break;
                }
                let pooled = self.make_pooled(leasing, &rights).await?;
                self.give_back(leasing, pooled);
            }
        }
        Ok(())
    }

    /// Accounts whose time is over and that nobody has: whoever reserved one went away. They wait for an hour, so this is looked at as seldom.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn retire_forgotten(&self, leasing: &Leasing, now: Timestamp) -> Result<(), LeaseError> {
        let filter =
            LeaseFilter { system: Some(leasing.system.clone()), state: Some(LeaseState::Pooled), limit: usize::MAX, ..LeaseFilter::default() };
        for row in self.store.leases(filter).await? {
            let waits = locked(&self.pools).get(&leasing.system).is_some_and(|pool| pool.iter().any(|p| p.id() == row.lease.id));
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
        let tag = Tag { task: NOBODY.to_owned(), agent: NOBODY.to_owned(), expires_at: now.plus(WAITS_FOR) };
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
        let tag = Tag { task: NOBODY.to_owned(), agent: NOBODY.to_owned(), expires_at: until };
        let session = match &leasing.builtin {
            Some(builtin) => builtin.open(&account, &tag).await.ok(),
            None => None,
        };
        Ok(Pooled { row, class: rights.class, account, session, until })
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
        if let Some(session) = &pooled.session {
            session.close().await;
        }
        self.retire(pooled.id());
    }

    /// The broker stops: what waits is ended, as far as there is time; the next start ends the rest.
    pub(crate) async fn drain_pools(self: &Arc<Self>) {
        self.drained.store(true, Ordering::Release);
        let all: Vec<Pooled> = locked(&self.pools).drain().flat_map(|(_, pool)| pool).collect();
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
        locked(&self.pools).get(system).map_or(0, Vec::len)
    }

    /// Resolves when an account was taken, and whoever took it had time for its first call: making another one loads the same system.
    pub(crate) async fn pool_rung(&self) {
        self.pool_wake.notified().await;
        tokio::time::sleep(AFTER_TAKING).await;
    }
}
