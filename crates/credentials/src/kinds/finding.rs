//! What a preflight finds, collected: what lasts until a person changes something is a finding, the rest is an error.

use crate::lease::{Finding, TargetCode, TargetError};

/// Findings, in the order in which they were found.
#[derive(Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    /// Something is missing on the node; `remedy` gives it.
    pub(super) fn find(&mut self, node: &str, missing: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Finding { node: node.to_owned(), missing: missing.into(), remedy: remedy.into() });
    }

    /// What went wrong, if it lasts.
    ///
    /// # Errors
    /// The error, if it may pass by itself or is our own.
    pub(super) fn note(&mut self, error: TargetError, remedy: impl Into<String>) -> Result<(), TargetError> {
        if error.is_transient() || error.code() == TargetCode::Internal {
            return Err(error);
        }
        self.find(error.node(), error.to_string(), remedy);
        Ok(())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    pub(super) fn into_list(self) -> Vec<Finding> {
        self.0
    }
}
