//! Background work: what time ends is ended, what could not be written is written, what a crash left is closed.

use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::EndReason;

use crate::house::House;

impl House {
    /// Starts the sweeper.
    pub(crate) fn start_workers(self: &Arc<Self>) {
        self.start_retention();
        let house = Arc::clone(self);
        self.workers.spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(500));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = house.stop.cancelled() => return,
                    _ = tick.tick() => {}
                }
                house.sweep().await;
            }
        });
        let house = Arc::clone(self);
        self.workers.spawn(async move {
            // The first trace of a long log would have to wait for it.
            if let Err(error) = house.nodes.warm(&house.store).await {
                tracing::warn!(%error, "what proofs are made from could not be read");
            }
        });
        let house = Arc::clone(self);
        self.workers.spawn(async move {
            house.finish_closing().await;
            let mut tick = tokio::time::interval(Duration::from_secs(30));
            loop {
                tokio::select! {
                    () = house.stop.cancelled() => return,
                    _ = tick.tick() => {}
                }
                house.finish_closing().await;
                if let Err(error) = house.close_left_open("lost").await {
                    tracing::error!(%error, "entries that were left open could not be closed yet");
                }
            }
        });
    }

    /// Ends expired tasks and holds.
    async fn sweep(&self) {
        let now = self.clock.now();
        self.pay_ends().await;
        if self.pen.stopped().is_some() {
            return;
        }
        if self.store.is_failing() {
            // Whoever watches readiness sends no calls, and without a write nobody would see that the disk has room again.
            let found = crate::entry::House { what: "store_recovered", name: None, digest: None };
            if self.append(&found).await.is_ok() {
                tracing::info!("the store can be written again");
            }
        }
        // Side by side: a system that hangs holds up the end of nobody else's task.
        let ends = self.live.expired(now).into_iter().map(|live| async move {
            if let Err(error) = self.end_task(live.task.id, EndReason::Expired, None).await {
                tracing::error!(%error, task = %live.task.id, "the end of a task could not be recorded yet");
            }
        });
        futures_util::future::join_all(ends).await;
        if let Err(error) = self.expire_holds().await {
            tracing::error!(%error, "the end of held calls could not be recorded yet");
        }
        self.settle_denials().await;
        self.settle_people().await;
        self.keyring.refresh();
        for changed in self.keyring.take_changed() {
            let found = crate::entry::House { what: changed.what, name: Some(&changed.name), digest: None };
            if let Err(error) = self.append(&found).await {
                tracing::error!(%error, key = changed.name, "a key that came or went could not be recorded");
            }
        }
        self.count_texts();
        self.parking.expire(now, |task| self.live.find(task).is_some());
        let gone = self.sessions.expire(now);
        for session in gone {
            // With the systems' own sessions under it.
            self.end_mcp_session(&session).await;
        }
        metrics::gauge!("bailiwick_tasks_open").set(f64::from(u32::try_from(self.live.all().len()).unwrap_or(u32::MAX)));
    }

    /// Tasks that a crash left in `closing` are closed.
    async fn finish_closing(&self) {
        let filter = bailiwick_store::TaskFilter { state: Some("closing"), limit: usize::MAX, ..Default::default() };
        let Ok(rows) = self.store.tasks(filter).await else { return };
        for row in rows {
            let reason = row.state.reason().unwrap_or(EndReason::Expired);
            if let Err(error) = self.close_task(row.task.id, reason, Some(&row.task)).await {
                tracing::error!(%error, task = %row.task.id, "a task could not be closed yet");
            }
        }
    }
}
