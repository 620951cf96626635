//! The house and its publication: the look before the first signature, the worker, and what becomes of what it finds.

use std::sync::Arc;
use std::time::Duration;

use bailiwick_store::StoreError;
use tokio::time::Instant;

use crate::house::{House, StartError};
use crate::shard::{Finding, examine};

/// After a publication that failed, the next one waits at least this long.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

impl House {
    /// Before anything is signed: if what was let out cannot be continued, the pen is taken away.
    pub(crate) async fn examine_ledger(&self) -> Result<(), StartError> {
        self.recall_damage().await?;
        let found = examine(&self.store, &self.pen, &self.data_dir, Some(&self.config), self.publication.witnesses()).await;
        let found = found.map_err(|e| StartError::place("the published ledger", e))?;
        for finding in &found {
            self.pen.stop(&finding.to_string());
        }
        self.stopped_by(&found).await;
        Ok(())
    }

    /// Says what stopped the pen: in the log, and as an incident without an entry, for nothing can be signed any more.
    async fn stopped_by(&self, found: &[Finding]) {
        for finding in found {
            metrics::counter!("bailiwick_incidents_total", "what" => "ledger_departed").increment(1);
            tracing::error!(
                error.code = bailiwick_core::ErrorCode::AuditUnavailable.slug(),
                %finding,
                "nothing is signed and no call is made any more: stop the broker, look at `bailiwick ledger shard status`, and begin a new shard with `bailiwick ledger shard new`"
            );
            let now = self.clock.now();
            let id = bailiwick_core::IncidentId::new(now, crate::clock::random());
            let document = serde_json::json!({ "detail": finding.to_string(), "checkpoint": finding.note }).to_string();
            let row = bailiwick_store::Incident { id, kind: "ledger_departed".to_owned(), at: now, document };
            if let Err(error) = self.store.write(move |w| w.incident_put(&row)).await {
                tracing::error!(%error, "the incident could not be kept");
            }
        }
    }

    /// After a new shard: what was open in the older state is ended, for nobody knows what was revoked or spent since.
    pub(crate) async fn settle_shard(&self) -> Result<(), StoreError> {
        // Also one behind which another shard was begun meanwhile.
        let unsettled: Vec<u64> = self.store.shards().await?.iter().filter(|shard| !shard.settled).map(|shard| shard.number).collect();
        if unsettled.is_empty() {
            return Ok(());
        }
        for live in self.live.all() {
            self.end_task(live.task.id, bailiwick_core::EndReason::Revoked, Some("ledger shard new")).await?;
        }
        self.store.write(move |w| unsettled.into_iter().try_for_each(|number| w.shard_settled(number))).await
    }

    /// Starts the worker.
    pub(crate) fn start_publication(self: &Arc<Self>) {
        let house = Arc::clone(self);
        self.workers.spawn(async move {
            tokio::select! {
                () = house.stop.cancelled() => {}
                () = house.keep_published() => {}
            }
        });
    }

    async fn keep_published(&self) {
        let publication = &self.publication;
        let mut heads = self.store.subscribe_head();
        heads.mark_changed();
        loop {
            let size = self.store.head().size;
            let due = publication.witnesses.next_due(size).await.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                changed = heads.changed() => if changed.is_err() { return },
                () = publication.wanted.notified() => {}
                () = tokio::time::sleep_until(due.max(Instant::now() + Duration::from_millis(200))) => {}
            }
            let failing = match publication.round(&self.store, &self.pen, self.clock.now()).await {
                Ok((stops, words)) => {
                    self.stopped_by(&stops).await;
                    for word in words {
                        self.incident("witness_word", None, None, &word.to_string()).await;
                    }
                    false
                }
                Err(error) => {
                    metrics::counter!("bailiwick_ledger_publication_failures_total").increment(1);
                    tracing::error!(%error, "the ledger could not be published");
                    true
                }
            };
            let published = publication.current().map_or(0, |current| current.size);
            metrics::gauge!("bailiwick_ledger_size").set(crate::witness::gauge(self.store.head().size));
            metrics::gauge!("bailiwick_ledger_published_lag").set(crate::witness::gauge(self.store.head().size.saturating_sub(published)));
            let pause = if failing { publication.every.max(AFTER_FAILURE) } else { publication.every };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = publication.wanted.notified() => publication.wanted.notify_one(),
            }
        }
    }
}
