//! Authorization codes (RFC 6749 section 4.1.2): 256 bits, for one minute, for one use; a second use ends what the first one opened.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::{AgentName, Digest, TaskId, Timestamp, ToolName};
use bailiwick_identity::KeyId;
use bailiwick_identity::oauth::CodeChallenge;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Consent;
use crate::clock::random;

/// How long a code can be redeemed.
//= rfc6749#section-4.1.2
// The authorization code MUST expire shortly after it is issued to mitigate the risk of leaks. A maximum authorization code lifetime
// of 10 minutes is RECOMMENDED.
const LIFE: Duration = Duration::from_secs(60);
/// How long a code that was redeemed is known as such.
const KNOWN: Duration = Duration::from_secs(3600);
const MOST: usize = 2000;

/// What a person allowed a client, until the client comes for it.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// The client's ID.
    pub client_id: String,
    /// Does it prove itself with a key?
    pub authenticates: bool,
    /// The redirect URI as it stood in the request, if it did.
    pub redirect_uri: Option<String>,
    /// What the client must know.
    pub challenge: CodeChallenge,
    /// The key that the client must prove, if it named one.
    pub key: Option<KeyId>,
    /// Does it say that all its tokens are bound to a key of its own?
    pub bound: bool,
    /// As which agent it works.
    pub agent: AgentName,
    /// With which tools.
    pub tools: Vec<ToolName>,
    /// For how long.
    pub ttl: Duration,
    /// What for, in the person's words.
    pub purpose: String,
    /// The session in which it was allowed.
    pub session: Digest,
    /// What is recorded of it.
    pub consent: Consent,
}

#[derive(Debug)]
enum Code {
    Fresh { allowed: Box<Allowed>, until: Timestamp },
    Used { task: Option<TaskId>, again: bool, until: Timestamp },
}

impl Code {
    const fn until(&self) -> Timestamp {
        match self {
            Self::Fresh { until, .. } | Self::Used { until, .. } => *until,
        }
    }
}

/// What a code is worth.
#[derive(Debug)]
pub enum Redeemed {
    /// It is good, for the first and only time.
    Allowed(Box<Allowed>),
    /// It was used before, and opened this task, if it did.
    Again(Option<TaskId>),
    /// It is none of ours, or too old.
    Unknown,
}

/// Codes, by their SHA-256.
#[derive(Debug, Default)]
pub(crate) struct Codes {
    by_digest: Mutex<HashMap<Digest, Code>>,
}

impl Codes {
    /// A code for this. `None` if very many wait.
    pub(crate) fn issue(&self, allowed: Allowed, now: Timestamp) -> Option<String> {
        let code = URL_SAFE_NO_PAD.encode(random::<32>());
        let mut all = self.by_digest.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, code| now < code.until());
        if all.len() >= MOST {
            return None;
        }
        all.insert(Digest::of(code.as_bytes()), Code::Fresh { allowed: Box::new(allowed), until: now.plus(LIFE) });
        Some(code)
    }

    /// Is the client of this code one of this ID that proves itself? Nothing for a code that is not fresh. It is not used by being asked about.
    pub(crate) fn is_of_proving_client(&self, code: &str, client_id: &str, now: Timestamp) -> Option<bool> {
        let all = self.by_digest.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get(&Digest::of(code.as_bytes()))? {
            Code::Fresh { allowed, until } if now < *until => Some(allowed.authenticates && allowed.client_id == client_id),
            Code::Fresh { .. } | Code::Used { .. } => None,
        }
    }

    /// Takes a code. Whoever presents it, it is used from now on.
    pub(crate) fn redeem(&self, code: &str, now: Timestamp) -> Redeemed {
        let mut all = self.by_digest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = all.get_mut(&Digest::of(code.as_bytes())).filter(|code| now < code.until()) else { return Redeemed::Unknown };
        match std::mem::replace(found, Code::Used { task: None, again: false, until: now.plus(KNOWN) }) {
            Code::Fresh { allowed, .. } => Redeemed::Allowed(allowed),
            Code::Used { task, until, .. } => {
                *found = Code::Used { task, again: true, until };
                Redeemed::Again(task)
            }
        }
    }

    /// The session in which these were allowed has ended: they open nothing any more.
    pub(crate) fn forget(&self, session: Digest) {
        let mut all = self.by_digest.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, code| !matches!(code, Code::Fresh { allowed, .. } if allowed.session == session));
    }

    /// The task that a code opened. False if the code was presented again meanwhile: then the task must not live.
    #[must_use]
    pub(crate) fn opened(&self, code: &str, opened: TaskId) -> bool {
        let mut all = self.by_digest.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&Digest::of(code.as_bytes())) {
            Some(Code::Used { task, again, .. }) => {
                *task = Some(opened);
                !*again
            }
            Some(Code::Fresh { .. }) | None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Allowed {
        let at = Timestamp::from_millis(0);
        Allowed {
            client_id: "c".to_owned(),
            authenticates: false,
            redirect_uri: None,
            challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM".parse().unwrap(),
            key: None,
            bound: false,
            agent: "a".parse().unwrap(),
            tools: vec![],
            ttl: Duration::from_secs(60),
            purpose: "p".to_owned(),
            session: Digest::of(b"s"),
            consent: Consent {
                by: "ana".parse().unwrap(),
                given_at: at,
                proof: "session",
                client: "c".to_owned(),
                client_name: "C".to_owned(),
                vouched_by: None,
                redirect_uri: "x".to_owned(),
            },
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn a_code_works_once_within_a_minute_and_its_second_use_names_the_task() {
        let codes = Codes::default();
        let code = codes.issue(allowed(), at(0)).unwrap();
        assert!(matches!(codes.redeem("x", at(1)), Redeemed::Unknown));
        assert!(matches!(codes.redeem(&code, at(59)), Redeemed::Allowed(_)));
        let task = TaskId::from_bytes([7; 16]);
        assert!(codes.opened(&code, task));
        assert!(matches!(codes.redeem(&code, at(120)), Redeemed::Again(Some(t)) if t == task));
        let late = codes.issue(allowed(), at(0)).unwrap();
        assert!(matches!(codes.redeem(&late, at(60)), Redeemed::Unknown));
    }

    #[test]
    fn a_code_that_comes_again_while_its_task_is_being_opened_takes_the_task_with_it() {
        let codes = Codes::default();
        let code = codes.issue(allowed(), at(0)).unwrap();
        assert!(matches!(codes.redeem(&code, at(1)), Redeemed::Allowed(_)));
        assert!(matches!(codes.redeem(&code, at(1)), Redeemed::Again(None)));
        assert!(!codes.opened(&code, TaskId::from_bytes([7; 16])));
    }

    #[test]
    fn the_end_of_a_session_takes_the_codes_that_were_allowed_in_it() {
        let codes = Codes::default();
        let (mine, other) = (codes.issue(allowed(), at(0)).unwrap(), Allowed { session: Digest::of(b"other"), ..allowed() });
        let other = codes.issue(other, at(0)).unwrap();
        codes.forget(Digest::of(b"s"));
        assert!(matches!(codes.redeem(&mine, at(1)), Redeemed::Unknown));
        assert!(matches!(codes.redeem(&other, at(1)), Redeemed::Allowed(_)));
    }

    #[test]
    fn codes_do_not_pile_up_without_end() {
        let codes = Codes::default();
        assert_eq!((0..MOST + 10).filter_map(|_| codes.issue(allowed(), at(0))).count(), MOST);
        assert!(codes.issue(allowed(), at(61)).is_some());
    }
}
