//! How a call to an upstream can fail, in words that are safe to show, and whether the call may have run all the same.

use std::borrow::Cow;

use bailiwick_core::ErrorCode;

type Words = Cow<'static, str>;

/// Why there is no answer. An error that the upstream itself answered is a [`super::Reply`], not this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// It could not be reached, or refused us before it looked at the call.
    #[error("the system is not available: {words}")]
    Unavailable { words: Words, may_have_run: bool },
    /// It did not answer in time.
    #[error("the system did not answer in time: {words}")]
    Timeout { words: Words, may_have_run: bool },
    /// What it answered breaks the protocol.
    #[error("the system's answer is not valid: {words}")]
    Broken { words: Words, may_have_run: bool },
    /// The caller stopped waiting.
    #[error("the call was stopped: {words}")]
    Cancelled { words: Words, may_have_run: bool },
    /// No credential could be made for it: nothing was sent.
    #[error("no credential could be made for the call, so it was not sent")]
    NoCredential,
    /// It started anew since its tools were looked at: nothing was sent.
    #[error("the system is not available: it has started anew, and its tools are looked at first")]
    Anew,
    /// Its process or connection ended during the call.
    #[error("the system ended during the call: {words}")]
    Died { words: Words, may_have_run: bool },
}

impl UpstreamError {
    pub(super) fn unavailable(words: impl Into<Words>) -> Self {
        Self::Unavailable { words: words.into(), may_have_run: false }
    }

    pub(super) fn broken(words: impl Into<Words>) -> Self {
        Self::Broken { words: words.into(), may_have_run: true }
    }

    pub(super) fn died(words: impl Into<Words>) -> Self {
        Self::Died { words: words.into(), may_have_run: true }
    }

    fn parts(&self) -> (&Words, bool) {
        const ANEW: &Words = &Cow::Borrowed("it has started anew, and its tools are looked at first");
        const NONE: &Words = &Cow::Borrowed("no credential could be made for the call");
        match self {
            Self::Anew => (ANEW, false),
            Self::NoCredential => (NONE, false),
            Self::Unavailable { words, may_have_run }
            | Self::Timeout { words, may_have_run }
            | Self::Broken { words, may_have_run }
            | Self::Cancelled { words, may_have_run }
            | Self::Died { words, may_have_run } => (words, *may_have_run),
        }
    }

    /// What happened, without any text of the upstream's own and without secrets.
    #[must_use]
    pub fn words(&self) -> &str {
        self.parts().0
    }

    /// Whether the system may have done what was asked. `false` only where that is certain.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        self.parts().1
    }

    /// The public code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Anew | Self::Unavailable { may_have_run: false, .. } | Self::Died { may_have_run: false, .. } => ErrorCode::UpstreamUnavailable,
            Self::NoCredential => ErrorCode::CredentialUnavailable,
            Self::Timeout { .. } => ErrorCode::UpstreamTimeout,
            Self::Cancelled { .. } => ErrorCode::CallCancelled,
            Self::Unavailable { .. } | Self::Broken { .. } | Self::Died { .. } => ErrorCode::UpstreamBroken,
        }
    }
}
