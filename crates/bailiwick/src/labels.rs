//! Labels on tasks: put on, durably, before anything is asked for that bears them, so that no answer is ever ahead of its label.

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
        live.label(labels)?;
        Ok(())
    }
}
