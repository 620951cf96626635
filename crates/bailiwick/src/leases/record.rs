//! The entries of a lease's steps: what each says is told from the lease as the store has it, and from whose it is.

use bailiwick_core::{LeaseId, Task, Timestamp};
use bailiwick_credentials::lease::AccountName;
use bailiwick_store::{Lease, LeaseRow, MadeEntry};

use super::Leasing;
use crate::builtin::Rights;
use crate::entry::{self, LeaseStep};

/// A lease that begins: what is written down before anything is made.
pub(super) fn begun(now: Timestamp, id: LeaseId, leasing: &Leasing, rights: &Rights, account: &AccountName) -> Lease {
    Lease {
        id,
        system: leasing.system.clone(),
        class: rights.class.to_owned(),
        kind: leasing.kind.kind().to_owned(),
        account: account.to_string(),
        target: leasing.target.clone(),
        rights: rights.rights.clone(),
        begun_at: now,
    }
}

/// How a lease ended, and whose word it is if nothing shows it.
pub(super) struct End<'a> {
    pub(super) ending: &'a serde_json::Value,
    pub(super) by: Option<&'a str>,
    pub(super) reason: Option<&'a str>,
}

/// The entry of a step. `task` is the task whose call takes it, if one does.
pub(super) fn step(now: Timestamp, row: &LeaseRow, state: &str, task: Option<&Task>, end: Option<&End<'_>>) -> Vec<u8> {
    entry::encode(
        now,
        &LeaseStep {
            lease: row.lease.id,
            state,
            task: row.task,
            call: row.life.call,
            agent: task.map(|task| &task.spiffe_id),
            component: task.and_then(|task| task.component.as_ref()),
            instance: task.map(|task| task.instance),
            owner: task.map(|task| &task.owner),
            subject: task.map(|task| &task.subject),
            system: row.lease.system.as_str(),
            credential_kind: &row.lease.kind,
            class: &row.lease.class,
            account: &row.lease.account,
            rights: &row.lease.rights,
            // Before it is made, nobody knows it.
            ids: (state != "intended").then_some(&row.life.ids),
            expires_at: row.life.expires_at,
            ended: end.map(|end| end.ending),
            attempts: end.map(|_| row.life.attempts),
            by: end.and_then(|end| end.by),
            reason: end.and_then(|end| end.reason),
        },
    )
}

/// The entry of a credential that was made: `state`, unless it is being ended meanwhile.
pub(super) fn made(now: Timestamp, row: &LeaseRow, state: &str, task: Option<&Task>) -> MadeEntry {
    MadeEntry { made: step(now, row, state, task, None), not_used: step(now, row, "not_used", task, None) }
}
