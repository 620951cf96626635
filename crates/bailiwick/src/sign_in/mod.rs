//! People at the web page: ways in (one-time codes, an OpenID provider, passkeys), and short sessions in a cookie.

pub(crate) mod directory;
mod flow;
mod provider;
mod taken;
pub(crate) mod web;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::{Digest, PersonName, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

pub use directory::{Directory, KeptPasskey, Known};
pub(crate) use flow::{FLOW_LIFE, Flows, Returned, SignInRefused};
pub(crate) use provider::OpenIdProvider;

use crate::clock::random;

/// How long a code can be used, once.
pub const CODE_LIFE: Duration = Duration::from_secs(300);
/// How long someone may take to register a first passkey after an operator's invitation was taken.
const ENROLMENT_LIFE: Duration = Duration::from_secs(900);
/// Codes and sessions of everybody, and sessions of one person.
const MOST: usize = 10_000;
const MOST_OF_ONE: usize = 20;

/// How somebody came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A one-time code that the person's own key made.
    Code,
    /// The OpenID provider.
    Provider,
    /// A passkey.
    Passkey,
    /// An operator's invitation: nothing can be done with it but registering a first passkey.
    Invitation,
}

impl Way {
    /// The word for the record.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Provider => "oidc",
            Self::Passkey => "passkey",
            Self::Invitation => "invitation",
        }
    }
}

/// The session at the provider that a session here goes back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The provider's issuer.
    pub issuer: String,
    /// The person's id there.
    pub subject: String,
    /// The session's id there, if it has one.
    pub session: Option<String>,
    /// When the person proved himself or herself there, if the provider says it.
    pub proved_at: Option<Timestamp>,
}

/// A signed-in person.
#[derive(Clone)]
pub struct WebSession {
    /// Its name, which is no secret: 16 hex digits.
    pub id: String,
    /// Who.
    pub person: PersonName,
    /// How the person came in.
    pub way: Way,
    /// What tells it from others where its cookie is not to be, and is no secret either.
    pub mark: Digest,
    /// The token that every form must carry.
    pub csrf: String,
    /// Since when.
    pub since: Timestamp,
    /// When it was used last.
    pub used: Timestamp,
    /// When it ends, however busy.
    pub until: Timestamp,
    /// Where it goes back to.
    pub upstream: Option<Upstream>,
}

impl WebSession {
    /// When the person proved who he or she is: here, or where the session goes back to, if that is known.
    #[must_use]
    pub fn proved_at(&self) -> Option<Timestamp> {
        self.upstream.as_ref().map_or(Some(self.since), |upstream| upstream.proved_at.map(|at| at.min(self.since)))
    }
}

impl std::fmt::Debug for WebSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSession").field("id", &self.id).field("person", &self.person).field("way", &self.way).finish_non_exhaustive()
    }
}

/// A code: for whom, by which way, and until when.
#[derive(Debug)]
struct Code {
    person: PersonName,
    way: Way,
    until: Timestamp,
}

/// Codes and sessions, by the SHA-256 of what the person holds. In memory only: a start of the broker ends every session.
#[derive(Debug)]
pub struct SignIns {
    session_max: Duration,
    idle_max: Duration,
    codes: Mutex<HashMap<Digest, Code>>,
    sessions: Mutex<HashMap<Digest, WebSession>>,
}

/// 256 random bits in base64url.
pub(crate) fn secret() -> String {
    URL_SAFE_NO_PAD.encode(random::<32>())
}

/// What tells a session from others, and is no secret.
pub(crate) fn mark(cookie: &str) -> Digest {
    Digest::bind("bailiwick/session/v1", &[cookie.as_bytes()])
}

impl SignIns {
    /// With the longest life of a session, and the longest time that nobody uses it.
    #[must_use]
    pub fn new(session_max: Duration, idle_max: Duration) -> Self {
        Self { session_max, idle_max, codes: Mutex::default(), sessions: Mutex::default() }
    }

    /// The longest life of a session.
    #[must_use]
    pub const fn session_max(&self) -> Duration {
        self.session_max
    }

    /// A one-time code for a person who proved who he or she is by key.
    pub fn code(&self, person: PersonName, now: Timestamp) -> String {
        self.any_code(person, Way::Code, now)
    }

    /// A one-time code with which a person who has nothing yet registers a first passkey.
    pub fn invitation(&self, person: PersonName, now: Timestamp) -> String {
        self.any_code(person, Way::Invitation, now)
    }

    fn any_code(&self, person: PersonName, way: Way, now: Timestamp) -> String {
        let code = secret();
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        codes.retain(|_, code| now < code.until);
        if codes.len() < MOST {
            codes.insert(Digest::of(code.as_bytes()), Code { person, way, until: now.plus(CODE_LIFE) });
        }
        code
    }

    /// Takes a code. Once: whoever comes second has none.
    pub fn take_code(&self, code: &str, now: Timestamp) -> Option<(PersonName, Way)> {
        let taken = self.codes.lock().unwrap_or_else(PoisonError::into_inner).remove(&Digest::of(code.trim().as_bytes()))?;
        (now < taken.until).then_some((taken.person, taken.way))
    }

    /// Begins a session. Gives the cookie's value; none if there are too many sessions.
    pub fn begin(&self, person: PersonName, way: Way, upstream: Option<Upstream>, now: Timestamp) -> Option<(String, WebSession)> {
        let cookie = secret();
        let digest = Digest::of(cookie.as_bytes());
        let life = if way == Way::Invitation { ENROLMENT_LIFE } else { self.session_max };
        let session = WebSession {
            id: digest.to_string().chars().take(16).collect(),
            mark: mark(&cookie),
            person,
            way,
            csrf: secret(),
            since: now,
            used: now,
            until: now.plus(life),
            upstream,
        };
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, s| self.lives(s, now));
        // Whoever signs in once more than that loses the session that was used least lately.
        let own: Vec<(Timestamp, Digest)> = sessions.iter().filter(|(_, s)| s.person == session.person).map(|(d, s)| (s.used, *d)).collect();
        if own.len() >= MOST_OF_ONE
            && let Some((_, oldest)) = own.iter().min_by_key(|(used, _)| *used)
        {
            sessions.remove(oldest);
        }
        if sessions.len() >= MOST {
            return None;
        }
        sessions.insert(digest, session.clone());
        Some((cookie, session))
    }

    fn lives(&self, session: &WebSession, now: Timestamp) -> bool {
        now < session.until && now < session.used.plus(self.idle_max)
    }

    /// The session of a cookie. It is used now.
    #[must_use]
    pub fn session(&self, cookie: &str, now: Timestamp) -> Option<WebSession> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let session = sessions.get_mut(&Digest::of(cookie.as_bytes())).filter(|s| self.lives(s, now))?;
        session.used = session.used.max(now);
        Some(session.clone())
    }

    /// Does the session of this mark live?
    #[must_use]
    pub fn has_mark(&self, mark: Digest, now: Timestamp) -> bool {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).values().any(|s| s.mark == mark && self.lives(s, now))
    }

    /// Ends a session.
    pub fn sign_out(&self, cookie: &str) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&Digest::of(cookie.as_bytes()));
    }

    /// The sessions that live, newest first.
    #[must_use]
    pub fn all(&self, now: Timestamp) -> Vec<WebSession> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<WebSession> = sessions.values().filter(|s| self.lives(s, now)).cloned().collect();
        all.sort_by(|a, b| b.since.cmp(&a.since).then_with(|| a.id.cmp(&b.id)));
        all
    }

    /// Ends every session, and forgets every code, of which this says so. Gives the sessions that ended.
    pub fn end(&self, which: impl Fn(&WebSession) -> bool) -> Vec<WebSession> {
        let mut ended = Vec::new();
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, session| {
            let goes = which(session);
            if goes {
                ended.push(session.clone());
            }
            !goes
        });
        ended
    }

    /// Forgets every code of a person.
    pub fn forget_codes(&self, person: &PersonName) {
        self.codes.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, code| code.person != *person);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ins() -> SignIns {
        SignIns::new(Duration::from_secs(8 * 3600), Duration::from_secs(1800))
    }

    const fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn ana() -> PersonName {
        "ana".parse().unwrap()
    }

    #[test]
    fn a_code_works_once_and_not_after_its_time() {
        let ins = ins();
        let code = ins.code(ana(), at(0));
        assert_eq!(ins.take_code(&code, at(1)), Some((ana(), Way::Code)));
        assert!(ins.take_code(&code, at(2)).is_none());
        let late = ins.code(ana(), at(0));
        assert!(ins.take_code(&late, at(300_000)).is_none());
        let gone = ins.invitation(ana(), at(0));
        ins.forget_codes(&ana());
        assert!(ins.take_code(&gone, at(1)).is_none());
    }

    #[test]
    fn a_session_ends_by_its_age_by_idleness_by_sign_out_and_by_name() {
        let ins = ins();
        let (cookie, session) = ins.begin(ana(), Way::Code, None, at(0)).unwrap();
        assert_eq!(ins.session(&cookie, at(1_799_999)).unwrap().person, ana());
        assert!(ins.session(&cookie, at(1_799_999 + 1_800_000)).is_none(), "idle");
        let (busy, _) = ins.begin(ana(), Way::Passkey, None, at(0)).unwrap();
        for minute in 1..8 * 60 {
            assert!(ins.session(&busy, at(minute * 60_000)).is_some(), "{minute}");
        }
        assert!(ins.session(&busy, at(8 * 3_600_000)).is_none(), "its age");
        let (cookie, other) = ins.begin(ana(), Way::Code, None, at(0)).unwrap();
        assert_ne!(session.id, other.id);
        assert!(ins.end(|s| s.id == session.id).len() <= 1);
        assert!(ins.session(&cookie, at(1)).is_some());
        ins.sign_out(&cookie);
        assert!(ins.session(&cookie, at(2)).is_none());
        assert!(ins.session(&session.id, at(2)).is_none(), "a name opens nothing");
    }

    #[test]
    fn a_session_that_goes_back_to_a_provider_is_as_fresh_as_the_proof_there() {
        let begun = |proved_at: Option<Timestamp>| {
            let upstream = Upstream { issuer: "i".to_owned(), subject: "s".to_owned(), session: None, proved_at };
            ins().begin(ana(), Way::Provider, Some(upstream), at(1000)).unwrap().1.proved_at()
        };
        assert_eq!(ins().begin(ana(), Way::Code, None, at(1000)).unwrap().1.proved_at(), Some(at(1000)));
        assert_eq!(begun(Some(at(10))), Some(at(10)));
        assert_eq!(begun(Some(at(5000))), Some(at(1000)), "a clock that is ahead does not make it fresher than it is");
        assert_eq!(begun(None), None, "nobody knows");
    }

    #[test]
    fn one_person_has_a_bounded_number_of_sessions_and_an_invitation_a_short_one() {
        let ins = ins();
        let first = ins.begin(ana(), Way::Code, None, at(0)).unwrap().0;
        for n in 1..=20 {
            assert!(ins.begin(ana(), Way::Code, None, at(n)).is_some());
        }
        assert_eq!(ins.all(at(21)).len(), 20);
        assert!(ins.session(&first, at(21)).is_none());
        let (invited, _) = ins.begin("ben".parse().unwrap(), Way::Invitation, None, at(0)).unwrap();
        assert!(ins.session(&invited, at(899_999)).is_some() && ins.session(&invited, at(900_000)).is_none());
        assert!(!format!("{:?}", ins.all(at(30))).contains("csrf"));
    }
}
