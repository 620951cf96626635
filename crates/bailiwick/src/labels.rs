//! Labels on tasks: put on, durably, before anything is asked for that bears them, so that no answer is ever ahead of its label; and brought
//! along by a model that goes on in another task.

use std::sync::atomic::{AtomicU64, Ordering};

use bailiwick_core::{CallId, ErrorCode, Labels, TooManyLabels};
use bailiwick_store::{Entry, StoreError};

use crate::entry::{self, Body};
use crate::house::House;
use crate::live::LiveTask;

/// Why a task could not be given what bears its labels. Nothing of it may be asked for then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabelError {
    /// It would have too many.
    #[error(transparent)]
    Many(#[from] TooManyLabels),
    /// They could not be written.
    #[error("the store cannot be written")]
    Store(#[from] StoreError),
}

impl LabelError {
    /// The public code.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Many(_) => ErrorCode::LimitExceeded,
            Self::Store(_) => ErrorCode::AuditUnavailable,
        }
    }
}

/// The notifications that a client is told in the middle of its call. Each bears the labels of its own name.
pub(crate) const HEARD: [&str; 6] = [
    "notifications/progress",
    "notifications/message",
    "notifications/elicitation/complete",
    "notifications/resources/updated",
    "notifications/resources/list_changed",
    "notifications/prompts/list_changed",
];

/// How often labels were put on any task since the start.
#[derive(Debug)]
pub(crate) struct Labellings(AtomicU64);

impl Default for Labellings {
    fn default() -> Self {
        // Before the first of this start there were those of earlier ones.
        Self(AtomicU64::new(1))
    }
}

/// What is about to be asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    /// The permitted call, if it is one.
    pub(crate) call: Option<CallId>,
    /// The whole name of its tool or operation.
    pub(crate) tool: &'a str,
}

impl House {
    /// A task is about to be given what bears these labels: it carries them from here on, and so do the task that it is a part of and all
    /// parts of that. They are durable when this returns. Nothing is written, and nothing allocated, where it carries them already.
    ///
    /// # Errors
    /// They could not be put on it.
    pub(crate) async fn label(&self, live: &LiveTask, labels: &Labels, asking: Asking<'_>) -> Result<(), LabelError> {
        if live.carries(labels) {
            return Ok(());
        }
        let before = live.labels();
        before.with(labels)?;
        let (task, whole) = (live.task.id, live.task.whole());
        let body =
            entry::Labelled { task, whole: (whole != task).then_some(whole), call: asking.call, tool: asking.tool, labels: &labels.beyond(&before) };
        let entry = Entry::new(<entry::Labelled<'_> as Body>::WORD, entry::encode(self.clock.now(), &body)).of_task(task);
        let entry = match asking.call {
            Some(call) => entry.of_call(call),
            None => entry,
        };
        let put = labels.clone();
        self.store.write(move |w| w.label_whole(whole, &put, entry)).await?;
        // INVARIANT: memory says it only once the disk does. Two at once may each have written theirs: the disk has both.
        self.labelled(live, labels)?;
        Ok(())
    }

    /// The disk says that a task carries these labels: now memory does.
    ///
    /// # Errors
    /// They are too many.
    pub(crate) fn labelled(&self, live: &LiveTask, labels: &Labels) -> Result<(), TooManyLabels> {
        if labels.is_empty() {
            return Ok(());
        }
        // INVARIANT: counted before memory says it. Whoever finds it there, and goes on, is found by the next call of the running copy.
        self.labellings.0.fetch_add(1, Ordering::AcqRel);
        live.label(labels)
    }

    /// A model goes on with one of its tasks by the agent's own token: it has read what all tasks of its running copy were given, and this
    /// one carries it from here on. Nothing is read where nothing was labelled since the last time.
    ///
    /// # Errors
    /// It cannot, and the model may do nothing in it.
    pub(crate) async fn recall(&self, live: &LiveTask, named: bool) -> Result<(), LabelError> {
        // Looked at first: what is labelled from here on is the next call's.
        let labelling = self.labellings.0.load(Ordering::Acquire);
        if live.has_recalled(labelling) {
            return Ok(());
        }
        let mut labels = Labels::default();
        for more in self.store.labels_of_copy(&live.task.agent, live.task.instance, named).await? {
            labels = labels.with(&more)?;
        }
        self.label(live, &labels, Asking { call: None, tool: "task_call" }).await?;
        live.recalled(labelling);
        Ok(())
    }
}
