//! From a name to a credential: written down, made, written down again, and only then used.

use std::sync::Arc;

use bailiwick_core::{CallId, LeaseId};
use bailiwick_credentials::lease::{Account, Minted, Plan};
use bailiwick_store::{LeaseLife, LeaseRow, LeaseState};

use super::record::{begun, made, step};
use super::{Held, LeaseError, Leases, locked, seal_name};
use crate::fault;

impl Leases {
    /// Makes the credential if it is only a name yet. Whoever waits may go away: the making comes to its end all the same.
    ///
    /// # Errors
    /// There is none; what may have been made is being ended.
    pub(crate) async fn ready(self: &Arc<Self>, held: &Arc<Held>, call: CallId) -> Result<(), LeaseError> {
        if held.is_live() {
            return Ok(());
        }
        let (leases, held) = (Arc::clone(self), Arc::clone(held));
        let made = tokio::spawn(async move {
            let mut making = held.making.lock().await;
            if held.is_live() {
                return Ok(());
            }
            if held.is_over() {
                if let Some(pooled) = making.take() {
                    leases.put_aside(&held, pooled).await;
                }
                return Err(LeaseError::Gone);
            }
            let made = match making.take() {
                Some(pooled) => leases.take_into_use(&held, pooled).await,
                None => leases.make(&held, call).await,
            };
            if made.is_err() {
                leases.let_go(&held);
                leases.retire(held.id);
            }
            made
        });
        made.await.map_err(|_| LeaseError::Seal("the broker stops".to_owned()))?
    }

    /// Its account is gone at the system, although it has no ending yet: it gets one, and the next call of the task gets another lease.
    pub(crate) fn lost(&self, held: &Arc<Held>) {
        held.set_lost();
        self.let_go(held);
        self.retire(held.id);
    }

    /// The next call of the task gets another one.
    pub(super) fn let_go(&self, held: &Arc<Held>) {
        held.set_over();
        let key = (held.task.id, held.leasing.system.clone(), held.rights.class);
        let mut all = locked(&self.held);
        if all.get(&key).is_some_and(|found| Arc::ptr_eq(found, held)) {
            all.remove(&key);
        }
    }

    async fn make(&self, held: &Arc<Held>, call: CallId) -> Result<(), LeaseError> {
        if held.leasing.is_down(self.clock.now()) {
            return Err(LeaseError::Down);
        }
        let checked = self.check(&held.leasing).await;
        if let Err(LeaseError::Target(error)) = &checked {
            held.leasing.saw(Some(error), self.clock.now());
        }
        checked?;
        let _busy = self.occupy(held.id).ok_or(LeaseError::TaskClosed)?;
        let now = self.clock.now();
        let kind = &held.leasing.kind;
        let proposed = kind.propose()?;
        let tag = held.tag();
        let sealed = proposed.as_ref().map(|s| self.sealer.seal(&seal_name(held.id), s)).transpose().map_err(|e| LeaseError::Seal(e.to_string()))?;
        let row = LeaseRow {
            lease: begun(now, held.id, &held.leasing, &held.rights, &held.account),
            task: Some(held.task.id),
            state: LeaseState::Intended,
            life: LeaseLife { call: Some(call), tag: tag.to_text(), ..LeaseLife::default() },
            secret: sealed,
        };
        locked(&self.known).insert(held.id.to_bytes());
        fault::point("before-lease");
        let body = step(now, &row, "intended", Some(&held.task), None);
        let written = self.store.lease_begin(row.clone(), body).await;
        if !matches!(written, Ok(Ok(_))) {
            // Nothing is made, and nothing is on record that says so.
            locked(&self.known).remove(&held.id.to_bytes());
            written?.map_err(|_| LeaseError::TaskClosed)?;
        }
        fault::point("lease-intended");
        let plan = Plan { name: held.account.clone(), tag, rights: held.rights.rights.clone() };
        let minted = kind.mint(&plan, proposed.as_ref()).await;
        held.leasing.saw(minted.as_ref().err(), self.clock.now());
        let minted = minted?;
        fault::point("lease-minted");
        let Minted { ids, secret, expires_at } = minted;
        let sealed = secret.as_ref().map(|s| self.sealer.seal(&seal_name(held.id), s)).transpose().map_err(|e| LeaseError::Seal(e.to_string()))?;
        let life = LeaseLife { ids: serde_json::to_value(&ids).unwrap_or_default(), expires_at, ..row.life.clone() };
        let row = LeaseRow { life: life.clone(), ..row };
        let body = made(self.clock.now(), &row, "live", Some(&held.task));
        if !self.store.lease_made(held.id, life, sealed, body).await? {
            return Err(LeaseError::TaskClosed);
        }
        fault::point("lease-live");
        let account = Account { name: held.account.clone(), ids, secret: secret.or(proposed), expires_at };
        held.set_live(account, (None, false)).map_err(|e| LeaseError::Seal(e.to_string()))?;
        metrics::counter!("bailiwick_leases_made_total", "kind" => kind.kind()).increment(1);
        Ok(())
    }

    /// It is not used any more, and is to be ended.
    pub(super) fn retire(&self, id: LeaseId) {
        locked(&self.unsaid).push(id);
        self.wake.notify_one();
    }
}
