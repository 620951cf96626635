//! Passwords whose verifiers are computed before anybody asks for them: hashing one takes as long as several statements, and a task that waits for its
//! credential should not wait for that. A password that stands here opens nothing: no role has it yet.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest;

use super::scram;
use crate::Secret;
use crate::lease::TargetError;

/// Proposals that may be on their way to their mint. What is older is hashed again.
const KEPT_MAX: usize = 64;

/// One password for the next proposal, and verifiers of those that were proposed. Only a memory of what can be computed again.
#[derive(Default)]
pub(super) struct Ahead {
    spare: Mutex<Option<(Secret, String)>>,
    proposed: Mutex<VecDeque<([u8; 32], String)>>,
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Under which a verifier is found: a digest of what is 256 random bits.
fn key(secret: &Secret) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, secret.expose());
    hash.as_ref().first_chunk().copied().unwrap_or_default()
}

impl Ahead {
    /// A fresh password; each is given once.
    pub(super) fn propose(self: &Arc<Self>) -> Result<Secret, TargetError> {
        let spare = locked(&self.spare).take();
        let Some((secret, verifier)) = spare else { return crate::kinds::random_password() };
        let mut proposed = locked(&self.proposed);
        if proposed.len() >= KEPT_MAX {
            proposed.pop_front();
        }
        proposed.push_back((key(&secret), verifier));
        drop(proposed);
        Ok(secret)
    }

    /// The verifier of a password that was proposed, if it is still known.
    pub(super) fn take(&self, secret: &Secret) -> Option<String> {
        let key = key(secret);
        let mut proposed = locked(&self.proposed);
        let at = proposed.iter().position(|(of, _)| *of == key)?;
        proposed.remove(at).map(|(_, verifier)| verifier)
    }

    /// Computes one for the next proposal, if there is none.
    pub(super) fn make_spare(self: &Arc<Self>) {
        if locked(&self.spare).is_some() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let ahead = Arc::clone(self);
        drop(runtime.spawn_blocking(move || {
            let made = crate::kinds::random_password().and_then(|secret| scram::verifier(&secret).map(|verifier| (secret, verifier)));
            // Without randomness the next proposal says so.
            if let Ok(made) = made {
                locked(&ahead.spare).get_or_insert(made);
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_password_is_given_once_and_its_verifier_is_its_own() {
        let ahead = Arc::new(Ahead::default());
        let first = ahead.propose().unwrap();
        ahead.make_spare();
        assert!(ahead.take(&first).is_none(), "the first was not foreseen");
        let mut seen = vec![key(&first)];
        for _ in 0..3 {
            while locked(&ahead.spare).is_none() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            let secret = ahead.propose().unwrap();
            ahead.make_spare();
            assert!(!seen.contains(&key(&secret)));
            seen.push(key(&secret));
            let verifier = ahead.take(&secret).unwrap();
            assert!(scram::is_of(&verifier, &secret), "{verifier}");
            assert!(ahead.take(&secret).is_none(), "it is used once");
        }
    }

    #[tokio::test]
    async fn proposals_that_never_become_an_account_do_not_pile_up() {
        let ahead = Arc::new(Ahead::default());
        for number in 0..KEPT_MAX + 9 {
            *locked(&ahead.spare) = Some((Secret::from(format!("password-{number}")), format!("verifier-{number}")));
            ahead.propose().unwrap();
        }
        assert_eq!(locked(&ahead.proposed).len(), KEPT_MAX);
        assert!(ahead.take(&Secret::from("password-0".to_owned())).is_none());
        assert!(ahead.take(&Secret::from(format!("password-{}", KEPT_MAX + 8))).is_some());
    }
}
