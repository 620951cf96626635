//! Erasures that are under way: they go on whoever is gone, and the same request finds the one that runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bailiwick_core::PersonName;
use tokio::sync::watch;

use super::{EraseError, Report, Selector};
use crate::house::House;

/// Erasures that may run at a time.
const RUNNING_MAX: usize = 16;

/// What goes on, and what was said.
#[derive(Debug, Default)]
pub(crate) struct Retaining {
    running: Mutex<Vec<Running>>,
    /// Texts that went for others, as far as the ledger says so.
    displaced_told: AtomicU64,
}

/// An order, word for word.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Order {
    selector: Selector,
    reason: String,
    by: PersonName,
}

type Ended = Option<Result<Report, EraseError>>;

#[derive(Debug)]
struct Running {
    order: Order,
    ended: watch::Receiver<Ended>,
}

impl House {
    /// Erases texts of calls, as [`erase`](Self::erase), and goes on if whoever asked is gone. The same order of the same person while
    /// it runs is not carried out a second time: it gets the same report.
    ///
    /// # Errors
    /// As for [`erase`](Self::erase).
    pub async fn erase_on(self: &Arc<Self>, selector: Selector, reason: String, by: PersonName) -> Result<Report, EraseError> {
        let mut ended = self.erasure(Order { selector, reason, by })?;
        let stopped = || EraseError::Store(bailiwick_store::StoreError::Closed);
        let ended = ended.wait_for(Option::is_some).await.map_err(|_| stopped())?;
        ended.clone().unwrap_or_else(|| Err(stopped()))
    }

    fn erasure(self: &Arc<Self>, order: Order) -> Result<watch::Receiver<Ended>, EraseError> {
        let mut running = self.retaining.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = running.iter().find(|r| r.order == order) {
            return Ok(same.ended.clone());
        }
        if running.len() >= RUNNING_MAX {
            return Err(EraseError::Invalid("too many erasures are under way: ask again when they are done"));
        }
        let (end, ended) = watch::channel(None);
        running.push(Running { order: order.clone(), ended: ended.clone() });
        drop(running);
        let house = Arc::clone(self);
        self.workers.spawn(async move {
            let report = house.erase(&order.selector, &order.reason, &order.by).await;
            if let Err(error) = &report {
                tracing::warn!(%error, "an erasure came to nothing, or not to its end");
            }
            house.retaining.running.lock().unwrap_or_else(PoisonError::into_inner).retain(|r| r.order != order);
            end.send_replace(Some(report));
        });
        Ok(ended)
    }

    /// Says in the ledger that texts went before their time, if some did since it was said last.
    pub(super) async fn tell_displaced(&self) {
        let displaced = self.payloads.displaced();
        let told = self.retaining.displaced_told.swap(displaced, Ordering::Relaxed);
        if displaced > told {
            let gone = displaced.saturating_sub(told);
            let detail = format!("{gone} texts of calls went before their time, to make room for newer ones: see `total_mib_max` under [retention]");
            self.incident("texts_displaced", None, None, &detail).await;
            self.count_texts();
        }
    }
}
