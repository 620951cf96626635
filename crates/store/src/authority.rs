//! The authority in force, in memory: the fence, open tasks, usable approvals, open intents. Every change can be undone until it is durable.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bailiwick_core::record::Lost;
use bailiwick_core::{CallId, HoldId, LeaseId, Task, TaskId, Timestamp};

use crate::entry::Intent;
use crate::error::StoreError;
use crate::writing::Assigned;

/// An open task, as far as the fence looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenTask {
    /// Calls that were permitted, those of its parts among them.
    pub(crate) used: u64,
    /// Calls that may be permitted in all.
    pub(crate) calls: u64,
    pub(crate) expires_at: Timestamp,
    /// The task that it is a part of.
    pub(crate) parent: Option<TaskId>,
}

impl OpenTask {
    pub(crate) fn of(task: &Task, used: u64) -> Self {
        Self { used, calls: task.budget.calls, expires_at: task.expires_at, parent: task.parent() }
    }
}

/// An approval that was not used yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usable {
    pub(crate) task: TaskId,
    pub(crate) expires_at: Timestamp,
}

/// An intent that has no outcome yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unsettled {
    pub(crate) call: CallId,
    pub(crate) task: TaskId,
}

/// As long as any line of tasks may be: one task, and those that it is a part of.
const LINE_MAX: usize = bailiwick_core::delegation::DEPTH_MAX;

enum Undo {
    Control(u64),
    Task(TaskId, Option<OpenTask>),
    Approval(HoldId, Option<Usable>),
    Account(LeaseId, Option<Option<TaskId>>),
    Assigned(u64),
    Opened(u64),
    Closed(u64, Unsettled),
}

// INVARIANT: equal to what the database says, plus the changes of the batch at hand, each of which is on `undo`.
#[derive(Default)]
pub(crate) struct Authority {
    /// Entries that are durable.
    pub(crate) size: u64,
    control_seq: u64,
    tasks: HashMap<TaskId, OpenTask>,
    approvals: HashMap<HoldId, Usable>,
    /// Pooled accounts that wait (`None`), and those that a task was given, until they are being ended.
    accounts: HashMap<LeaseId, Option<TaskId>>,
    /// Accounts that were given to tasks, by the entries that gave them, which the database may not have yet.
    assigned: BTreeMap<u64, Assigned>,
    unsettled: BTreeMap<u64, Unsettled>,
    /// Intents that nobody is working on any more: left by a crash, or their caller is gone.
    left: BTreeSet<u64>,
    /// Tasks whose used calls changed since the anchor that the database has, or may have, each with the number of entries before the
    /// batch of its newest intent: a batch that failed leaves its tasks here.
    spent: BTreeMap<TaskId, u64>,
    counted: u64,
    undo: Vec<Undo>,
}

impl Authority {
    pub(crate) fn loaded(size: u64, control_seq: u64) -> Self {
        Self { size, control_seq, ..Self::default() }
    }

    pub(crate) fn load_task(&mut self, id: TaskId, task: OpenTask) {
        self.tasks.insert(id, task);
    }

    pub(crate) fn load_spent(&mut self, id: TaskId) {
        self.spent.insert(id, self.size);
    }

    pub(crate) fn load_approval(&mut self, id: HoldId, approval: Usable) {
        self.approvals.insert(id, approval);
    }

    pub(crate) fn load_account(&mut self, id: LeaseId) {
        self.accounts.insert(id, None);
    }

    pub(crate) fn load_unsettled(&mut self, index: u64, intent: Unsettled) {
        self.unsettled.insert(index, intent);
        self.left.insert(index);
    }

    pub(crate) fn load_settled(&mut self, index: u64) {
        self.unsettled.remove(&index);
        self.left.remove(&index);
    }

    pub(crate) const fn control_seq(&self) -> u64 {
        self.control_seq
    }

    /// The fence: does authority still say yes to this call? On yes, its budget and approval are spent.
    pub(crate) fn admit(&mut self, intent: &Intent) -> Result<(), Lost> {
        if intent.known_control != self.control_seq {
            return Err(Lost::Stale);
        }
        let line = self.line(intent.task).filter(|line| line.iter().all(|(_, task)| intent.at < task.expires_at)).ok_or(Lost::TaskClosed)?;
        let most = |id: TaskId, task: &OpenTask| if id == intent.task { intent.budget_calls } else { task.calls };
        let spent = |(id, task): &(TaskId, OpenTask)| task.used >= most(*id, task);
        if line.iter().any(spent) {
            return Err(Lost::BudgetCalls);
        }
        if let Some(assignment) = &intent.assigns {
            let taken = self.accounts.get(&assignment.lease).is_none_or(|by| by.is_some_and(|task| task != intent.task));
            if taken {
                return Err(Lost::LeaseGone);
            }
        }
        if let Some(hold) = intent.consume {
            let usable = self.approvals.get(&hold).is_some_and(|a| a.task == intent.task && intent.at < a.expires_at);
            if !usable {
                return Err(Lost::ApprovalGone);
            }
            self.set_approval(hold, None);
        }
        for (id, task) in line {
            self.set_task(id, Some(OpenTask { used: task.used.saturating_add(1), ..task }));
            self.spent.insert(id, self.size);
        }
        Ok(())
    }

    /// An open task and all that it is a part of, nearest first. `None`: one of them is not open, and so none of its parts is.
    pub(crate) fn line(&self, id: TaskId) -> Option<Vec<(TaskId, OpenTask)>> {
        let mut line: Vec<(TaskId, OpenTask)> = Vec::with_capacity(1);
        let mut next = Some(id);
        while let Some(id) = next {
            // A line is as long as a chain may be; one that comes back to itself is none.
            let task = self.tasks.get(&id).copied().filter(|_| line.len() <= LINE_MAX)?;
            line.push((id, task));
            next = task.parent;
        }
        Some(line)
    }

    /// The open parts of a task, and theirs.
    pub(crate) fn below(&self, id: TaskId) -> Vec<TaskId> {
        let mut below: Vec<TaskId> = Vec::new();
        let mut whole = vec![id];
        while let Some(of) = whole.pop() {
            let parts: Vec<TaskId> =
                self.tasks.iter().filter(|(part, t)| t.parent == Some(of) && !below.contains(part)).map(|(part, _)| *part).collect();
            whole.extend(&parts);
            below.extend(parts);
        }
        below.sort_unstable();
        below
    }

    pub(crate) fn open_intent(&mut self, index: u64, intent: Unsettled) {
        self.unsettled.insert(index, intent);
        self.undo.push(Undo::Opened(index));
    }

    /// Closes an open intent; it is closed once.
    pub(crate) fn close_intent(&mut self, index: u64, call: CallId) -> Result<TaskId, StoreError> {
        let Some(open) = self.unsettled.get(&index).copied().filter(|u| u.call == call) else {
            return Err(StoreError::conflict(format!("entry {index} is no open intent of this call")));
        };
        self.unsettled.remove(&index);
        self.undo.push(Undo::Closed(index, open));
        Ok(open.task)
    }

    /// Nobody waits for this intent any more.
    pub(crate) fn abandon(&mut self, index: u64, call: CallId) {
        if self.unsettled.get(&index).is_some_and(|u| u.call == call) {
            self.left.insert(index);
        }
    }

    /// Nobody waits for the intent of this call any more.
    pub(crate) fn abandon_call(&mut self, call: CallId) {
        let open = self.unsettled.iter().filter(|(_, u)| u.call == call).map(|(index, _)| *index);
        self.left.extend(open);
    }

    /// Open intents that nobody is working on.
    pub(crate) fn left_open(&mut self) -> Vec<(u64, CallId)> {
        let unsettled = &self.unsettled;
        self.left.retain(|index| unsettled.contains_key(index));
        self.left.iter().filter_map(|i| unsettled.get(i).map(|u| (*i, u.call))).collect()
    }

    /// Every intent below this index has its outcome.
    pub(crate) fn settled(&self, size: u64) -> u64 {
        self.unsettled.keys().next().copied().unwrap_or(size)
    }

    pub(crate) fn bump_control(&mut self) {
        self.undo.push(Undo::Control(self.control_seq));
        self.control_seq = self.control_seq.saturating_add(1);
    }

    /// Does this pooled account wait for a task?
    pub(crate) fn waits(&self, lease: LeaseId) -> bool {
        self.accounts.get(&lease) == Some(&None)
    }

    /// The entry of this index gives a pooled account to a task.
    pub(crate) fn assign(&mut self, index: u64, assigned: Assigned) {
        self.set_account(assigned.lease, Some(Some(assigned.task)));
        self.assigned.insert(index, assigned);
        self.undo.push(Undo::Assigned(index));
    }

    /// What was given to tasks, and the database may not know yet.
    pub(crate) fn assigned(&self) -> impl Iterator<Item = &Assigned> {
        self.assigned.values()
    }

    /// The database has every entry before this one.
    pub(crate) fn assigned_from(&mut self, floor: u64) {
        while let Some(first) = self.assigned.first_entry().filter(|first| *first.key() < floor) {
            first.remove();
        }
    }

    /// A pooled account waits (`Some(None)`), is a task's, or is being ended (`None`).
    pub(crate) fn set_account(&mut self, id: LeaseId, account: Option<Option<TaskId>>) {
        let before = replace(&mut self.accounts, id, account);
        self.undo.push(Undo::Account(id, before));
    }

    /// The accounts of a task are being ended.
    pub(crate) fn end_accounts(&mut self, of: TaskId) {
        let ended: Vec<LeaseId> = self.accounts.iter().filter(|(_, task)| **task == Some(of)).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|id| self.set_account(id, None));
    }

    pub(crate) fn task(&self, id: TaskId) -> Option<OpenTask> {
        self.tasks.get(&id).copied()
    }

    pub(crate) fn set_task(&mut self, id: TaskId, task: Option<OpenTask>) {
        let before = replace(&mut self.tasks, id, task);
        self.undo.push(Undo::Task(id, before));
    }

    pub(crate) fn set_approval(&mut self, id: HoldId, approval: Option<Usable>) {
        let before = replace(&mut self.approvals, id, approval);
        self.undo.push(Undo::Approval(id, before));
    }

    /// Tasks whose used calls are to be written with the anchor, with the number.
    pub(crate) fn spent(&self) -> Vec<(TaskId, u64)> {
        self.spent.keys().filter_map(|id| self.tasks.get(id).map(|t| (*id, t.used))).collect()
    }

    /// A place to come back to.
    pub(crate) const fn mark(&self) -> usize {
        self.undo.len()
    }

    pub(crate) fn undo_to(&mut self, mark: usize) {
        while self.undo.len() > mark {
            match self.undo.pop() {
                Some(Undo::Control(before)) => self.control_seq = before,
                Some(Undo::Task(id, before)) => {
                    replace(&mut self.tasks, id, before);
                }
                Some(Undo::Approval(id, before)) => {
                    replace(&mut self.approvals, id, before);
                }
                Some(Undo::Account(id, before)) => {
                    replace(&mut self.accounts, id, before);
                }
                Some(Undo::Assigned(index)) => {
                    self.assigned.remove(&index);
                }
                Some(Undo::Opened(index)) => {
                    self.unsettled.remove(&index);
                    // Its index goes to another call, for which somebody waits.
                    self.left.remove(&index);
                }
                Some(Undo::Closed(index, open)) => {
                    self.unsettled.insert(index, open);
                }
                None => break,
            }
        }
    }

    /// The batch is durable.
    pub(crate) fn keep(&mut self, size: u64) {
        self.size = size;
        self.undo.clear();
    }

    /// The database has an anchor that counts so many entries.
    pub(crate) fn counted_to(&mut self, anchored: u64) {
        if self.counted < anchored {
            self.counted = anchored;
            self.spent.retain(|_, newest| *newest >= anchored);
        }
    }

    #[cfg(test)]
    pub(crate) fn picture(&self) -> String {
        let tasks: BTreeMap<_, _> = self.tasks.iter().collect();
        let approvals: BTreeMap<_, _> = self.approvals.iter().collect();
        let waiting: BTreeSet<_> = self.accounts.iter().filter(|(_, task)| task.is_none()).map(|(id, _)| *id).collect();
        format!("{} {} {tasks:?} {approvals:?} {waiting:?} {:?}", self.size, self.control_seq, self.unsettled)
    }
}

fn replace<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_was_taken_back_and_given_to_another_call_is_not_left_open() {
        let intent = |call: u8| Unsettled { call: CallId::from_bytes([call; 16]), task: TaskId::from_bytes([9; 16]) };
        let mut authority = Authority::default();
        authority.open_intent(100, intent(1));
        authority.abandon_call(intent(1).call);
        authority.undo_to(0);
        authority.open_intent(100, intent(2));
        assert!(authority.left_open().is_empty(), "somebody waits for it");
    }
}
