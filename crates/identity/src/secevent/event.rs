//! The events of CAEP 1.0, RISC 1.0 and SSF 1.0 that change who may do what here; others are known by their name.

use serde_json::{Map, Value};

/// The names of events.
pub mod event_type {
    /// CAEP: the session, or all sessions, of the subject were revoked.
    pub const SESSION_REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
    /// CAEP: a credential of the subject was made, revoked or changed.
    pub const CREDENTIAL_CHANGE: &str = "https://schemas.openid.net/secevent/caep/event-type/credential-change";
    /// RISC: the account was disabled.
    pub const ACCOUNT_DISABLED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
    /// RISC: the account was enabled.
    pub const ACCOUNT_ENABLED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-enabled";
    /// RISC: the account was deleted for good.
    pub const ACCOUNT_PURGED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-purged";
    /// SSF: the transmitter shows that its stream works.
    pub const VERIFICATION: &str = "https://schemas.openid.net/secevent/ssf/event-type/verification";
    /// SSF: the stream was paused, disabled or enabled.
    pub const STREAM_UPDATED: &str = "https://schemas.openid.net/secevent/ssf/event-type/stream-updated";
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A session, or all sessions, were revoked.
    SessionRevoked,
    /// A credential changed. `change` is `create`, `revoke`, `update` or `delete`.
    CredentialChange {
        /// How it changed.
        change: String,
    },
    /// The account was disabled.
    AccountDisabled,
    /// The account was enabled.
    AccountEnabled,
    /// The account was deleted.
    AccountPurged,
    /// The stream works; with the text that we asked with, if we asked.
    Verification {
        /// The text.
        state: Option<String>,
    },
    /// The stream changed: `enabled`, `paused` or `disabled`.
    StreamUpdated {
        /// Its new status.
        status: String,
    },
    /// Something that changes nothing here. Its name, cut.
    Other(String),
}

impl Event {
    pub(super) fn read(name: &str, payload: &Map<String, Value>) -> Self {
        let text = |member: &str| payload.get(member).and_then(Value::as_str).map(|t| t.chars().take(1024).collect::<String>());
        match name {
            event_type::SESSION_REVOKED => Self::SessionRevoked,
            event_type::CREDENTIAL_CHANGE => Self::CredentialChange { change: text("change_type").unwrap_or_default() },
            event_type::ACCOUNT_DISABLED => Self::AccountDisabled,
            event_type::ACCOUNT_ENABLED => Self::AccountEnabled,
            event_type::ACCOUNT_PURGED => Self::AccountPurged,
            event_type::VERIFICATION => Self::Verification { state: text("state") },
            event_type::STREAM_UPDATED => Self::StreamUpdated { status: text("status").unwrap_or_default() },
            other => Self::Other(other.chars().take(200).collect()),
        }
    }

    /// The word for the record.
    #[must_use]
    pub fn word(&self) -> &str {
        match self {
            Self::SessionRevoked => "session-revoked",
            Self::CredentialChange { .. } => "credential-change",
            Self::AccountDisabled => "account-disabled",
            Self::AccountEnabled => "account-enabled",
            Self::AccountPurged => "account-purged",
            Self::Verification { .. } => "verification",
            Self::StreamUpdated { .. } => "stream-updated",
            Self::Other(name) => name,
        }
    }
}
