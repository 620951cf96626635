//! People at the web page: one-time codes that the command line gives, and short sessions in a cookie.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::{Digest, PersonName, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::clock::random;

/// How long a code can be used, once.
pub const CODE_LIFE: Duration = Duration::from_secs(300);
/// How long a session lives.
pub const SESSION_LIFE: Duration = Duration::from_secs(8 * 3600);
const MOST: usize = 1000;

/// A signed-in person.
#[derive(Clone)]
pub struct WebSession {
    /// Who.
    pub person: PersonName,
    /// The token that every form must carry.
    pub csrf: String,
    until: Timestamp,
}

impl std::fmt::Debug for WebSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSession").field("person", &self.person).finish_non_exhaustive()
    }
}

/// Codes and sessions, by the SHA-256 of what the person holds.
#[derive(Debug, Default)]
pub struct SignIns {
    codes: Mutex<HashMap<Digest, (PersonName, Timestamp)>>,
    sessions: Mutex<HashMap<Digest, WebSession>>,
}

fn secret() -> String {
    URL_SAFE_NO_PAD.encode(random::<24>())
}

impl SignIns {
    /// A one-time code for a person who proved who he or she is by key.
    pub fn code(&self, person: PersonName, now: Timestamp) -> String {
        let code = secret();
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        codes.retain(|_, (_, until)| now < *until);
        if codes.len() < MOST {
            codes.insert(Digest::of(code.as_bytes()), (person, now.plus(CODE_LIFE)));
        }
        code
    }

    /// Exchanges a code for a session: the cookie's value. Once.
    pub fn exchange(&self, code: &str, now: Timestamp) -> Option<String> {
        let (person, until) = self.codes.lock().unwrap_or_else(PoisonError::into_inner).remove(&Digest::of(code.trim().as_bytes()))?;
        if now >= until {
            return None;
        }
        let cookie = secret();
        let session = WebSession { person, csrf: secret(), until: now.plus(SESSION_LIFE) };
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, s| now < s.until);
        if sessions.len() >= MOST {
            return None;
        }
        sessions.insert(Digest::of(cookie.as_bytes()), session);
        Some(cookie)
    }

    /// The session of a cookie.
    #[must_use]
    pub fn session(&self, cookie: &str, now: Timestamp) -> Option<WebSession> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get(&Digest::of(cookie.as_bytes())).filter(|s| now < s.until).cloned()
    }

    /// Ends a session.
    pub fn sign_out(&self, cookie: &str) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&Digest::of(cookie.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_works_once_and_not_after_its_time() {
        let ins = SignIns::default();
        let at = Timestamp::from_millis;
        let code = ins.code("ana".parse().unwrap(), at(0));
        let cookie = ins.exchange(&code, at(1)).unwrap();
        assert!(ins.exchange(&code, at(2)).is_none());
        assert_eq!(ins.session(&cookie, at(3)).unwrap().person.as_str(), "ana");
        ins.sign_out(&cookie);
        assert!(ins.session(&cookie, at(4)).is_none());
        let late = ins.code("ana".parse().unwrap(), at(0));
        assert!(ins.exchange(&late, at(300_000)).is_none());
    }
}
