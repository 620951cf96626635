//! A secret that outlives its tasks and is replaced at its system: what the house keeps of it, durably, while it is being replaced.
//!
//! A replacement has two phases, because no one commits here and at the system at once. [`Rotation::begin`] makes the candidate durable
//! beside the current one; then the system is asked; then [`Rotation::settle`] says which of the two the system was *seen* to take, and the
//! other is destroyed. After a crash in between, the kind finds [`Phase::Open`] and asks the system: the candidate first, then the current
//! one; whichever works is the truth.
//!
//! | the secret is made by | `begin` | then |
//! |---|---|---|
//! | us (a password) | `begin(Some(new))` | change it there, log in with it, `settle(Candidate)` |
//! | the system (a refresh token) | `begin(None)` | ask, `begin(Some(answer))` at once, `settle(Candidate)` |
//!
//! An open phase without a candidate says that an answer may have been lost.

use super::AccountName;
use crate::Secret;

/// What is kept of one secret.
#[derive(Debug)]
#[must_use]
pub struct Kept {
    /// The one that was seen to work last, or that a person set.
    pub current: Secret,
    /// The one that was offered to the system, or came from it, and was not settled yet.
    pub candidate: Option<Secret>,
    /// Where the replacement stands.
    pub phase: Phase,
    /// Rises with each change. A step is only taken from what was seen, so that two at once cannot both take it.
    pub revision: u64,
}

/// Where a replacement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Nothing is under way: the current one is the truth, and there is no candidate.
    Settled,
    /// The system was, or was about to be, asked: it may take either.
    Open,
    /// It took neither. Nothing is done with it until a person sets it anew, which makes it settled.
    Lost,
}

/// What the system was seen to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// The candidate: it becomes the current one, and the old one is destroyed.
    Candidate,
    /// Still the current one: the candidate is destroyed.
    Current,
    /// Neither: both are kept as they are, the phase is [`Phase::Lost`], and a person is called.
    Neither,
}

/// Why a step was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// There is no secret of that name.
    #[error("the secret `{0}` is not set")]
    Unset(String),
    /// It is not as it was seen: somebody else took a step. To be read again.
    #[error("the secret `{0}` was changed meanwhile")]
    Moved(String),
    /// The step is not one from where the replacement stands, such as a second candidate beside an open one.
    #[error("the replacement of the secret `{0}` does not stand where this step begins")]
    Step(String),
    /// It could not be made durable, or not be read. What it was is not known until it is read again. The words have no secret in them.
    #[error("what is kept of the secret `{0}` cannot be read or written: {1}")]
    Store(String, String),
}

/// Where the house keeps such secrets, sealed. Every step is durable before it returns; a step that fails, or whose future is dropped, was taken or not.
#[async_trait::async_trait]
pub trait Rotation: Send + Sync + std::fmt::Debug {
    /// What is kept under the name, which is the one under which a person set it (`bailiwick secret set NAME`).
    ///
    /// # Errors
    /// `Unset` or `Store`.
    async fn kept(&self, name: &str) -> Result<Kept, RotationError>;

    /// Opens the replacement, or gives an open one that has no candidate yet its candidate. Gives the new revision.
    ///
    /// # Errors
    /// `Moved` if the revision is not the one that was `seen`; `Step` if the phase is lost, if there is a candidate already, or if none is given to an
    /// open replacement; `Unset` or `Store`.
    async fn begin(&self, name: &str, seen: u64, candidate: Option<&Secret>) -> Result<u64, RotationError>;

    /// Closes an open replacement by what the system was seen to take. Gives the new revision.
    ///
    /// # Errors
    /// `Moved`; `Step` if none is open, or `Truth::Candidate` is said where there is none; `Unset` or `Store`.
    async fn settle(&self, name: &str, seen: u64, truth: Truth) -> Result<u64, RotationError>;
}

/// A secret of which one lease has the use at a time: for accounts that were there before us, and that a task checks out.
///
/// What the house must keep durably, for each name: at most one holder. [`Custody::take`] is a compare-and-swap, in the same
/// place as the secret itself, so that it holds whatever crashes: that is the lock of the account. A name under which something is held
/// is not changed by a person in any other way than setting the secret, which takes it from nobody.
#[async_trait::async_trait]
pub trait Custody: Rotation {
    /// Who has it now.
    ///
    /// # Errors
    /// `Unset` or `Store`.
    async fn holder(&self, name: &str) -> Result<Option<AccountName>, RotationError>;

    /// Gives it to this holder, and to no other until it is given back. `true`: it is the holder's, now or since before.
    ///
    /// # Errors
    /// `Unset` or `Store`.
    async fn take(&self, name: &str, holder: &AccountName) -> Result<bool, RotationError>;

    /// It is nobody's, if it was this holder's.
    ///
    /// # Errors
    /// `Unset` or `Store`.
    async fn give_back(&self, name: &str, holder: &AccountName) -> Result<(), RotationError>;
}
