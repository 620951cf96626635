//! How a credential's life ended, with what was seen, and why it could not be ended yet.

use bailiwick_core::Timestamp;

use crate::Secret;
use crate::redaction::Redaction;

/// What a system said is kept up to this many characters.
const SAW_MAX: usize = 300;
/// Evidence holds at most this many lines; the last ones win, because they are those that verify.
const TRIED_MAX: usize = 100;

/// How a credential's life ended. The names are those of the record.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "ending", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Ending {
    /// It was tried afterwards on every node, and refused.
    RevokedVerified {
        /// What was done, and the refusals.
        evidence: Evidence,
    },
    /// It was removed, and its use could not be tried.
    RevokedUnverified {
        /// Why not.
        why: String,
        /// What was done and seen.
        evidence: Evidence,
    },
    /// The system has no way to revoke it: it ends by itself.
    ExpiresAt {
        /// When.
        at: Timestamp,
        /// What was done and seen.
        evidence: Evidence,
    },
    /// It lives on at the system, which knows no ending; we no longer use it.
    InjectionStopped {
        /// What was done and seen.
        evidence: Evidence,
    },
}

impl Ending {
    /// The word of the record: `revoked-verified`, `revoked-unverified`, `expires-at` or `injection-stopped`.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::RevokedVerified { .. } => "revoked-verified",
            Self::RevokedUnverified { .. } => "revoked-unverified",
            Self::ExpiresAt { .. } => "expires-at",
            Self::InjectionStopped { .. } => "injection-stopped",
        }
    }

    /// What was done and seen.
    #[must_use]
    pub const fn evidence(&self) -> &Evidence {
        match self {
            Self::RevokedVerified { evidence }
            | Self::RevokedUnverified { evidence, .. }
            | Self::ExpiresAt { evidence, .. }
            | Self::InjectionStopped { evidence } => evidence,
        }
    }
}

/// A part of an account's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// Reaching the node with our own account.
    Connect,
    /// Making the account.
    Mint,
    /// Shutting the door: no new login.
    Gate,
    /// Ending what is open.
    Kill,
    /// Removing the account and what it owns.
    Remove,
    /// Trying the credential, and looking for what is left.
    Verify,
    /// Listing accounts.
    List,
}

impl Step {
    const fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Mint => "mint",
            Self::Gate => "gate",
            Self::Kill => "kill",
            Self::Remove => "remove",
            Self::Verify => "verify",
            Self::List => "list",
        }
    }
}

/// One thing that was tried and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tried {
    /// On which node.
    pub node: String,
    /// What it was a part of.
    pub step: Step,
    /// When it was seen.
    pub at: Timestamp,
    /// What was seen, in the system's words where it said something; without secrets.
    pub saw: String,
}

/// What was tried at the end of a credential, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Evidence(Vec<Tried>);

impl Evidence {
    /// Adds what was seen; `secret` is cut out of it, and so are control characters and what is too long.
    pub fn saw(&mut self, node: &str, step: Step, at: Timestamp, saw: &str, secret: Option<&Secret>) {
        if self.0.len() >= TRIED_MAX {
            self.0.remove(0);
        }
        self.0.push(Tried { node: node.to_owned(), step, at, saw: clean(saw, secret) });
    }

    /// What was tried, in order.
    #[must_use]
    pub fn tried(&self) -> &[Tried] {
        &self.0
    }
}

/// Text of a system as we may keep it.
fn clean(text: &str, secret: Option<&Secret>) -> String {
    let mut redaction = Redaction::default();
    if let Some(secret) = secret {
        redaction.add(secret.expose());
    }
    let text = redaction.redact(text.as_bytes());
    String::from_utf8_lossy(&text).chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAW_MAX).collect()
}

/// What went wrong, as a stable word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetCode {
    /// The node does not answer, or hung up. Transient.
    Unreachable,
    /// The system works on it, holds a lock or lags behind. Transient.
    Busy,
    /// The system refuses our own account. Lasts until a person changes something there.
    Refused,
    /// Our own account lacks a right. Lasts until a person grants it.
    Privilege,
    /// The plan asks for what the system or the kind does not know. Permanent.
    Plan,
    /// The name is taken by something that is not ours. Permanent.
    Taken,
    /// The kind has no such way. Permanent.
    Unsupported,
    /// The system answered what nobody expects. Taken for transient.
    Protocol,
    /// Something of our own failed.
    Internal,
}

impl TargetCode {
    /// The stable word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Busy => "busy",
            Self::Refused => "refused",
            Self::Privilege => "privilege",
            Self::Plan => "plan",
            Self::Taken => "taken",
            Self::Unsupported => "unsupported",
            Self::Protocol => "protocol",
            Self::Internal => "internal",
        }
    }
}

/// What a system, or the way to it, did not let us do. It has no secret in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} on `{node}` failed ({}): {detail}", step.word(), code.word())]
pub struct TargetError {
    code: TargetCode,
    step: Step,
    node: String,
    detail: String,
}

impl TargetError {
    /// `detail` is for people who run the system: cleaned of control characters, cut to 300 characters. It must not have a secret in it.
    #[must_use]
    pub fn new(code: TargetCode, step: Step, node: &str, detail: &str) -> Self {
        Self { code, step, node: node.to_owned(), detail: clean(detail, None) }
    }

    /// What went wrong.
    #[must_use]
    pub const fn code(&self) -> TargetCode {
        self.code
    }

    /// Where in the account's life.
    #[must_use]
    pub const fn step(&self) -> Step {
        self.step
    }

    /// On which node; empty if it is none in particular.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// What was said, for people.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// May the same call succeed later without a person? An end is tried again in any case; this says whether to call for somebody.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self.code, TargetCode::Unreachable | TargetCode::Busy | TargetCode::Protocol)
    }
}
