//! What a check-out needs of a system: log in as the account, change its own password, end its other sessions. [`Target`] is one file for each system.
//!
//! The account does it all by itself, so that no account of ours is needed at a system that knows nothing of us.

use std::fmt;

use crate::Secret;
use crate::lease::{Step, TargetCode, TargetError};

/// A system with accounts that were there before us, with every node on which they can log in.
#[async_trait::async_trait]
pub trait Target: Send + Sync + fmt::Debug {
    /// The system's word, such as `postgresql`.
    fn word(&self) -> &'static str;

    /// The names of the nodes, at least one; a node is known by its place in them.
    fn nodes(&self) -> Vec<String>;

    /// Is this a name that an account can have there?
    fn has_user_name(&self, user: &str) -> bool;

    /// Logs in to a node as the account, with this password.
    ///
    /// # Errors
    /// [`Denied::Password`] only if the node looked at this account's password and did not accept it.
    async fn log_in(&self, node: usize, user: &str, password: &Secret) -> Result<Box<dyn Inside>, Denied>;
}

/// A session of the account itself. Dropping it closes it.
#[async_trait::async_trait]
pub trait Inside: Send {
    /// Does this node accept changes? One that does not follows another.
    ///
    /// # Errors
    /// What the node said.
    async fn takes_changes(&mut self) -> Result<bool, TargetError>;

    /// Changes the account's own password. Done when it returns; after an error other than a refusal it may be done.
    ///
    /// # Errors
    /// [`Unchanged::Policy`] only if it was not changed, and another password may be.
    async fn change(&mut self, new: &Secret) -> Result<(), Unchanged>;

    /// Ends every other session of the account on this node, until none is left. Gives how many were ended.
    ///
    /// # Errors
    /// What the node said, or `Busy` if sessions come faster than they go.
    async fn end_others(&mut self) -> Result<usize, TargetError>;
}

/// Why a login did not go through.
#[derive(Debug)]
pub enum Denied {
    /// The node refused this password for this account, in these words.
    Password(String),
    /// It refused whatever the password is, or could not be asked.
    Otherwise(TargetError),
}

/// Why a password was not changed.
#[derive(Debug)]
pub enum Unchanged {
    /// The system does not like this password, in these words. It has the old one.
    Policy(String),
    /// What the system said, or the way to it. It has either.
    Otherwise(TargetError),
}

/// A password that stands in a statement itself: letters, digits, `-` and `_`, as ours are.
pub(super) fn plain<'a>(password: &'a Secret, node: &str) -> Result<&'a str, Unchanged> {
    let fits = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let other =
        || Unchanged::Otherwise(TargetError::new(TargetCode::Internal, Step::Gate, node, "the new password has characters that ours never have"));
    str::from_utf8(password.expose()).ok().filter(fits).ok_or_else(other)
}
