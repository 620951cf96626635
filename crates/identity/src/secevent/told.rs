//! What we tell: the end of a task as CAEP `session-revoked`, and the event by which a receiver sees that the way to it is open; signed with the key that also signs task tokens.

use bailiwick_core::{TaskId, Timestamp};
use serde_json::json;

use super::{Subject, TYP, event_type};
use crate::jws;
use crate::keys::KeyError;
use crate::token::Issuer;

/// Who ended it (CAEP section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// A person with a role here.
    Admin,
    /// The agent itself: the work is done.
    User,
    /// Its time ran out.
    System,
}

impl Initiator {
    const fn word(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::User => "user",
            Self::System => "system",
        }
    }
}

/// The end of a task.
#[derive(Clone, Debug)]
pub struct TaskEnd<'a> {
    /// The task.
    pub task: TaskId,
    /// The person on whose behalf it was, as the receiver knows persons.
    pub user: Subject,
    /// The receiver.
    pub audience: &'a str,
    /// The token's own id: the same each time the same end is told.
    pub jti: &'a str,
    /// When it ended.
    pub at: Timestamp,
    /// Who ended it.
    pub by: Initiator,
    /// Why, in one word: `completed`, `expired` or `revoked`.
    pub reason: &'a str,
}

impl TaskEnd<'_> {
    /// The signed token.
    ///
    /// # Errors
    /// `Library` if the cryptographic library fails.
    pub fn sign(&self, issuer: &Issuer, now: Timestamp) -> Result<String, KeyError> {
        let session = Subject::Opaque(self.task.to_string());
        let subject = Subject::Complex { user: Some(Box::new(self.user.clone())), session: Some(Box::new(session)), narrowed: false };
        //= openid-caep-1_0#section-3.1
        // Session Revoked signals that the session identified by the subject has been revoked. [...] There are no event-specific
        // claims for this event type.
        let event = json!({
            "event_timestamp": self.at.as_seconds(), "initiating_entity": self.by.word(), "reason_admin": { "en": format!("task {}", self.reason) },
        });
        let claims = json!({
            "iss": issuer.url(), "aud": self.audience, "jti": self.jti, "iat": now.as_seconds(), "txn": self.task.to_string(),
            "sub_id": subject.to_json(), "events": { event_type::SESSION_REVOKED: event },
        });
        jws::sign(issuer.key(), TYP, &claims)
    }
}

/// The event that a receiver asks for, to see that the way to it is open.
#[derive(Clone, Copy, Debug)]
pub struct Verification<'a> {
    /// The receiver's stream.
    pub stream: &'a str,
    /// The receiver.
    pub audience: &'a str,
    /// The token's own id.
    pub jti: &'a str,
    /// What the receiver gets back, if it gave something.
    pub state: Option<&'a str>,
}

impl Verification<'_> {
    /// The signed token.
    ///
    /// # Errors
    /// `Library` if the cryptographic library fails.
    pub fn sign(&self, issuer: &Issuer, now: Timestamp) -> Result<String, KeyError> {
        //= openid-sharedsignals-framework-1_0#section-8.1.4.1
        // The Verification Event [...] event type URI: "https://schemas.openid.net/secevent/ssf/event-type/verification". [...] state
        // OPTIONAL. An opaque value provided by the Event Receiver when the event is triggered. [...] the "sub_id" value MUST always be
        // set to have a simple value of type "opaque". The "id" of the value MUST be the stream_id of the stream being verified.
        let event = self.state.map_or_else(|| json!({}), |state| json!({ "state": state }));
        let claims = json!({
            "iss": issuer.url(), "aud": self.audience, "jti": self.jti, "iat": now.as_seconds(),
            "sub_id": Subject::Opaque(self.stream.to_owned()).to_json(), "events": { event_type::VERIFICATION: event },
        });
        jws::sign(issuer.key(), TYP, &claims)
    }
}
