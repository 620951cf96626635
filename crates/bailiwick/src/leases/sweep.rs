//! Preflight, and the sweep: a system is served only when its credentials can be ended there, and accounts that no lease explains are removed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bailiwick_core::{LeaseId, SystemName};
use bailiwick_credentials::lease::{self, AccountName, Finding, TargetError};

use super::{LeaseError, Leases, Leasing, locked};
use crate::clock::random;

/// An account of ours that no lease explains.
#[derive(Debug)]
pub(crate) struct SweepFinding {
    /// In words: where, whose it says it is, and what became of it.
    pub(crate) words: String,
}

impl Leases {
    /// Can everything be done at this system that a lease needs, its end above all? What is missing, with the statement that grants it.
    ///
    /// # Errors
    /// It could not be found out.
    pub(crate) async fn preflight(&self, leasing: &Leasing) -> Result<Vec<Finding>, TargetError> {
        let id = LeaseId::new(self.clock.now(), random()).to_bytes();
        // The probe is no orphan while it is there.
        locked(&self.known).insert(id);
        let found = leasing.kind.preflight(&AccountName::new(&leasing.prefix, id)).await;
        locked(&self.known).remove(&id);
        found
    }

    /// Looks once whether credentials can be ended there, before the first is made.
    ///
    /// # Errors
    /// `Unfit`, with every missing right and its remedy; or it could not be found out.
    pub(crate) async fn check(&self, leasing: &Leasing) -> Result<(), LeaseError> {
        if leasing.checked.load(Ordering::Acquire) {
            return Ok(());
        }
        let missing = self.preflight(leasing).await?;
        if !missing.is_empty() {
            let words: Vec<String> = missing.iter().map(|f| format!("on `{}`: {}; {}", f.node, f.missing, f.remedy)).collect();
            return Err(LeaseError::Unfit(words.join(" | ")));
        }
        leasing.checked.store(true, Ordering::Release);
        Ok(())
    }

    /// Removes accounts of this broker at a system that no lease explains.
    ///
    /// # Errors
    /// They could not be listed.
    pub(crate) async fn sweep(&self, system: &SystemName) -> Result<Vec<SweepFinding>, TargetError> {
        let Some(leasing) = self.leasing(system) else { return Ok(Vec::new()) };
        // One that was explained when they were listed may have its ending by the time that it is asked for.
        let before = locked(&self.known).clone();
        let explains = |name: &AccountName| before.contains(&name.lease()) || locked(&self.known).contains(&name.lease());
        let orphans = lease::sweep(&*leasing.kind, &leasing.prefix, &explains).await?;
        let words = |orphan: &lease::Orphan| {
            let whose = orphan.found.tag.as_ref().map_or_else(|| "without a tag".to_owned(), |t| format!("of {} for {}", t.task, t.agent));
            let became = match &orphan.ending {
                Ok(ending) => format!("it is ended: {}", ending.word()),
                Err(error) => format!("it could not be ended yet: {error}"),
            };
            format!("account `{}` at `{system}` ({}, {whose}) is explained by no lease; {became}", orphan.found.name, orphan.found.node)
        };
        Ok(orphans.iter().map(|orphan| SweepFinding { words: words(orphan) }).collect())
    }

    /// All systems that leases are made at.
    pub(crate) fn systems(&self) -> Vec<Arc<Leasing>> {
        self.systems.read().unwrap_or_else(std::sync::PoisonError::into_inner).values().cloned().collect()
    }
}
