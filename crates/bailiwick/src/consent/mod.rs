//! Interactive clients: who they are, what their person allowed them, and the codes and refresh tokens by which they get it (ADR 0021).
//!
//! A client of a person has no right of its own. It is given an open task of an agent that this person owns, with the tools that he
//! or she left ticked.

mod clients;
mod codes;
mod documents;
mod offer;
mod refresh;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::{PersonName, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::clock::random;
use crate::house::House;

pub use clients::{ClientRefused, InteractiveClient};
pub use codes::{Allowed, Redeemed};
pub use offer::{OFFERED_MAX, Offer, OfferedTool};
pub use refresh::{Refreshed, Rotation};

/// How long a person may think about a request, signing in included.
pub const REQUEST_LIFE: Duration = Duration::from_secs(15 * 60);
/// Requests that were decided and could be sent again.
const DECIDED_MAX: usize = 10_000;

/// What is remembered of interactive clients while the broker runs.
#[derive(Debug, Default)]
pub struct Consents {
    /// Codes, by their SHA-256.
    pub(crate) codes: codes::Codes,
    documents: documents::Documents,
    decided: Mutex<HashMap<String, Timestamp>>,
}

/// A request to the authorization endpoint on its way over the sign-in page to the question: kept by the browser, sealed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pending {
    /// Decided once.
    id: String,
    /// The query as it came.
    pub query: String,
    until: Timestamp,
}

/// The word under which requests are sealed.
const PENDING: &str = "bailiwick/authorization/v1";

impl House {
    /// Seals a request for the person's browser. `None` only if the cryptographic library fails.
    #[must_use]
    pub fn seal_request(&self, query: &str) -> Option<String> {
        let id = URL_SAFE_NO_PAD.encode(random::<16>());
        self.state_seal.seal_as(PENDING, &Pending { id, query: query.to_owned(), until: self.clock.now().plus(REQUEST_LIFE) })
    }

    /// Opens a request that was sealed here, is not too old and was not decided yet.
    #[must_use]
    pub fn open_request(&self, sealed: &str) -> Option<Pending> {
        let pending: Pending = self.state_seal.open_as(PENDING, sealed)?;
        let now = self.clock.now();
        let decided = self.consents.decided.lock().unwrap_or_else(PoisonError::into_inner);
        (now < pending.until && !decided.contains_key(&pending.id)).then_some(pending)
    }

    /// Takes a request as decided. False if it was already, or too many were.
    #[must_use]
    pub fn decide_request(&self, pending: &Pending) -> bool {
        let now = self.clock.now();
        let mut decided = self.consents.decided.lock().unwrap_or_else(PoisonError::into_inner);
        decided.retain(|_, until| now < *until);
        decided.len() < DECIDED_MAX && now < pending.until && decided.insert(pending.id.clone(), pending.until).is_none()
    }
}

/// What a person allowed, as it stands in the entry that opens the task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Consent {
    /// Who allowed it.
    pub by: PersonName,
    /// When.
    pub given_at: Timestamp,
    /// How he or she had signed in: `code`, `passkey`, ...
    pub proof: &'static str,
    /// The client's ID: its URL, or the digest of the ID that it was given when it registered.
    pub client: String,
    /// What it calls itself.
    pub client_name: String,
    /// The host that vouches for it. Absent: nobody does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vouched_by: Option<String>,
    /// Where the code was sent.
    pub redirect_uri: String,
}
