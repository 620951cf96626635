//! What follows from leases for tasks and people: workers that end and sweep, and tasks that are closed when all is ended.

use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::{EndReason, SystemName, TaskState};
use tokio::sync::mpsc;

use super::{Event, Leasing, PoolSize};
use crate::house::House;

/// The longest that nothing is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Between two looks for accounts that waited, and that nobody has.
const FORGOTTEN_AGAIN: Duration = Duration::from_secs(3600);
/// Between two looks for leases that ended long ago, and how long one is kept.
const FORGET_AGAIN: Duration = Duration::from_secs(3600);
const ENDED_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// Between two sweeps of a system.
const SWEEP_AGAIN: Duration = Duration::from_secs(300);

impl House {
    /// Starts what ends leases, closes tasks after them, and sweeps systems.
    pub(crate) fn start_leases(self: &Arc<Self>, mut happened: mpsc::UnboundedReceiver<Event>) {
        let house = Arc::clone(self);
        self.workers.spawn(async move {
            loop {
                let due = if house.pen.stopped().is_some() { Ok(None) } else { house.leases.end_due().await };
                let wait = match due {
                    Ok(next) => next.unwrap_or(LOOK_AGAIN).clamp(Duration::from_millis(50), LOOK_AGAIN),
                    Err(error) => {
                        tracing::error!(%error, "leases could not be looked at");
                        Duration::from_secs(1)
                    }
                };
                tokio::select! {
                    () = house.stop.cancelled() => return,
                    () = house.leases.rung() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
        });
        let house = Arc::clone(self);
        self.workers.spawn(async move {
            loop {
                let event = tokio::select! {
                    () = house.stop.cancelled() => return,
                    event = happened.recv() => event,
                };
                let Some(event) = event else { return };
                house.happened(event).await;
            }
        });
        let house = Arc::clone(self);
        self.workers.spawn(async move {
            loop {
                if house.pen.stopped().is_none()
                    && let Err(error) = house.forget_ended().await
                {
                    tracing::warn!(%error, "leases that ended long ago could not be forgotten");
                }
                tokio::select! {
                    () = house.stop.cancelled() => return,
                    () = tokio::time::sleep(FORGET_AGAIN) => {}
                }
            }
        });
        for leasing in self.leases.systems() {
            let (house, system) = (Arc::clone(self), leasing.system.clone());
            self.workers.spawn(async move { house.keep_swept(system).await });
            if leasing.pool != PoolSize::default() {
                let house = Arc::clone(self);
                self.workers.spawn(async move { house.keep_pool(&leasing).await });
            }
        }
    }

    async fn happened(&self, event: Event) {
        match event {
            Event::Ended { task: Some(task) } => {
                let Ok(Some(row)) = self.store.task(task).await else { return };
                if !matches!(row.state, TaskState::Closing { .. }) {
                    return;
                }
                let reason = row.state.reason().unwrap_or(EndReason::Expired);
                if let Err(error) = self.close_task(task, reason, Some(&row.task)).await {
                    tracing::error!(%error, %task, "a task could not be closed yet");
                }
            }
            Event::Ended { task: None } => {}
            Event::Stuck { lease, task, system, why } => {
                let agent = match task {
                    Some(task) => self.store.task(task).await.ok().flatten().map(|row| row.task.agent),
                    None => None,
                };
                let agent = agent.and_then(|name| self.agent(name.as_str()).cloned());
                let detail = format!("{lease} at `{system}` is not ended yet, and is tried again: {why}");
                self.incident("lease_not_ended", agent.as_ref(), task, &detail).await;
            }
        }
    }

    /// Leases that ended long ago leave their table. The ledger keeps each of their steps.
    async fn forget_ended(&self) -> Result<(), bailiwick_store::StoreError> {
        let before = self.clock.now().minus(ENDED_KEPT);
        while self.store.leases_forget(before).await? > 0 {}
        Ok(())
    }

    async fn keep_swept(self: Arc<Self>, system: SystemName) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                // Without the pen nobody knows what is in force elsewhere, and nothing could be put on record.
                () = async { if self.pen.stopped().is_none() { self.sweep_system(&system).await } } => {}
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(SWEEP_AGAIN) => {}
            }
        }
    }

    async fn keep_pool(&self, leasing: &Leasing) {
        let mut look_at = self.clock.now();
        loop {
            let now = self.clock.now();
            if look_at <= now && self.pen.stopped().is_none() {
                match self.leases.retire_forgotten(leasing, now).await {
                    Ok(()) => look_at = now.plus(FORGOTTEN_AGAIN),
                    Err(error) => tracing::warn!(system = %leasing.system, %error, "accounts that nobody took could not be looked at"),
                }
            }
            if self.is_served(&leasing.system)
                && self.pen.stopped().is_none()
                && let Err(error) = self.leases.fill_pool(leasing).await
            {
                tracing::warn!(system = %leasing.system, %error, "no account could be made beforehand");
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.leases.pool_rung(leasing) => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Accounts of a system that wait for a task.
    #[must_use]
    pub fn pooled(&self, system: &str) -> usize {
        self.leases.waiting(system)
    }

    /// Did the system pass its check?
    fn is_served(&self, system: &SystemName) -> bool {
        let registry = self.registry.load();
        registry.systems.get(system).is_some_and(|s| s.upstream.status() == crate::upstream::Status::Ready)
    }

    /// Removes accounts that no lease explains; each is an incident.
    pub(crate) async fn sweep_system(&self, system: &SystemName) {
        match self.leases.sweep(system).await {
            Ok(orphans) => {
                for orphan in orphans {
                    self.incident("orphan_account", None, None, &orphan.words).await;
                }
            }
            Err(error) => tracing::warn!(%system, %error, "the accounts of a system could not be listed"),
        }
    }
}
