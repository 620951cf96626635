//! Connections that the broker opens with a credential made for a task, and does the task's work over: one file for each protocol.
//!
//! The credential never leaves this room: a session takes an [`Account`](crate::lease::Account) with its secret, and gives rows, answers and
//! words. What every session keeps:
//!
//! * The chain stands in the system's own log: [`Tag::connection_name`](crate::lease::Tag::connection_name), or where the protocol has a place for it.
//! * Rows, bytes and time of an answer are limited here, whatever the system promises. What is too long is never read whole.
//! * A future of a session can be dropped at any await: the connection is then of no use, and what can be stopped at the system is stopped.
//! * No secret stands in an error, an answer or a debug form: [`words_of`] cleans what a system says.

pub mod http;
pub mod mariadb;
pub mod nats;
pub mod postgresql;
pub mod rabbitmq;
pub mod redis;
mod rows;
pub mod ssh;

use crate::Secret;
use crate::redaction::Redaction;

/// What a system says about a refusal is kept up to this many characters.
const WORDS_MAX: usize = 1000;

/// Why a session did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// It was not sent, because it cannot be: a parameter without a form at the system, a text that is too long.
    #[error("{0}")]
    NotSent(String),
    /// The system refused it. What it began is undone, and the session goes on.
    #[error("{code}: {words}")]
    Refused {
        /// The system's own code, such as an SQLSTATE.
        code: String,
        /// The system's own words, cleaned.
        words: String,
    },
    /// Wherever an answer came, the login was refused: the account is not there any more, or not as it was made.
    #[error("{0}")]
    LoginRefused(String),
    /// The connection could not be opened, or is gone.
    #[error("{words}")]
    Lost {
        /// What was seen.
        words: String,
        /// Whether what was asked may have been done all the same.
        may_have_run: bool,
    },
}

impl SessionError {
    /// The connection is gone, and nothing was done.
    pub(crate) fn lost(words: impl Into<String>) -> Self {
        Self::Lost { words: words.into(), may_have_run: false }
    }

    /// No connection could be opened; `refused`: because of the account, at each place that answered.
    pub(crate) fn no_login(words: String, refused: bool) -> Self {
        if refused { Self::LoginRefused(words) } else { Self::lost(words) }
    }

    /// Whether what was asked may have been done all the same.
    #[must_use]
    pub const fn may_have_run(&self) -> bool {
        matches!(self, Self::Lost { may_have_run: true, .. })
    }

    /// Whether the session is of no use any more.
    #[must_use]
    pub const fn gone(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::LoginRefused(_))
    }

    /// Whether the account was refused where it should be let in.
    #[must_use]
    pub const fn is_login_refused(&self) -> bool {
        matches!(self, Self::LoginRefused(_))
    }
}

/// Words of a system as they may be shown: `secret` is cut out in every form, control characters become spaces, and what is too long is cut off.
pub(crate) fn words_of(text: &str, secret: Option<&Secret>) -> String {
    let mut redaction = Redaction::default();
    if let Some(secret) = secret {
        redaction.add(secret.expose());
    }
    let text = redaction.redact(text.as_bytes());
    String::from_utf8_lossy(&text).chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_system_have_no_secret_and_an_end() {
        let secret = Secret::from("hunter2-hunter2".to_owned());
        let words = words_of(&format!("no\u{7} {} {}", "hunter2-hunter2", "x".repeat(5000)), Some(&secret));
        assert!(words.starts_with("no  [redacted by bailiwick] xxx"), "{words}");
        assert_eq!(words.chars().count(), WORDS_MAX);
    }

    #[test]
    fn only_a_lost_connection_may_have_run_what_it_was_asked() {
        assert!(SessionError::Lost { words: String::new(), may_have_run: true }.may_have_run());
        assert!(!SessionError::lost("gone").may_have_run() && SessionError::lost("gone").gone());
        let login = SessionError::no_login("28P01: no".to_owned(), true);
        assert!(login.is_login_refused() && login.gone() && !login.may_have_run() && !SessionError::lost("gone").is_login_refused());
        let refused = SessionError::Refused { code: "42501".into(), words: "permission denied".into() };
        assert!(!refused.gone() && !refused.may_have_run());
        assert_eq!(refused.to_string(), "42501: permission denied");
    }
}
