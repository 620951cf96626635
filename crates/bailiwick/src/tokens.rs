//! Tokens that were verified, so that a signature is checked once and not at every call.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bailiwick_core::{Digest, Timestamp};
use bailiwick_identity::Verified;
use bailiwick_store::{Entry, StoreError};

use crate::entry::{self, Body};
use crate::house::House;
use crate::pipeline::Who;

/// What a verified token stands for.
#[derive(Clone, Debug)]
pub enum Bearer {
    /// A task's token.
    Task(Arc<Verified>, Who),
    /// An agent's token: it opens tasks.
    Agent(Arc<Verified>),
}

impl Bearer {
    /// The token's claims.
    #[must_use]
    pub const fn verified(&self) -> &Arc<Verified> {
        match self {
            Self::Task(verified, _) | Self::Agent(verified) => verified,
        }
    }
}

#[derive(Clone, Debug)]
struct Seen {
    bearer: Bearer,
    from: IpAddr,
}

/// Most tokens that are remembered; beyond it, the oldest knowledge is thrown away and found again by verifying.
const KEPT_MAX: usize = 20_000;

/// A cache of verified tokens by their SHA-256. What it holds may be lost; it never makes an answer more permissive, because time
/// and task are looked at on every call, and a revoked token is taken out and denied by its id.
#[derive(Debug, Default)]
pub struct TokenCache {
    by_hash: RwLock<HashMap<Digest, Seen>>,
    revoked: RwLock<HashMap<String, Timestamp>>,
    /// Revoked in memory, not on record yet.
    to_record: Mutex<Vec<(String, Timestamp)>>,
    /// When the fence was moved last for revoked tokens. Whoever holds it records for all that wait.
    recorded: tokio::sync::Mutex<Option<tokio::time::Instant>>,
}

impl TokenCache {
    fn take_to_record(&self) -> Vec<(String, Timestamp)> {
        std::mem::take(&mut *self.to_record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn owe(&self, revoked: impl IntoIterator<Item = (String, Timestamp)>) {
        self.to_record.lock().unwrap_or_else(PoisonError::into_inner).extend(revoked);
    }

    /// What is known of a token, and from where it came last.
    #[must_use]
    pub fn find(&self, hash: &Digest) -> Option<(Bearer, IpAddr)> {
        self.by_hash.read().unwrap_or_else(PoisonError::into_inner).get(hash).map(|s| (s.bearer.clone(), s.from))
    }

    /// Remembers a token and from where it came.
    pub fn put(&self, hash: Digest, bearer: Bearer, from: IpAddr) {
        let mut by_hash = self.by_hash.write().unwrap_or_else(PoisonError::into_inner);
        if by_hash.len() >= KEPT_MAX {
            by_hash.clear();
        }
        by_hash.insert(hash, Seen { bearer, from });
    }

    /// Revokes a token by its `jti` (RFC 7009), until it would have expired anyway.
    pub fn revoke(&self, jti: &str, until: Timestamp, now: Timestamp) {
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        revoked.retain(|_, end| now < *end);
        revoked.insert(jti.to_owned(), until);
    }

    /// Was it revoked?
    #[must_use]
    pub fn is_revoked(&self, jti: &str) -> bool {
        let revoked = self.revoked.read().unwrap_or_else(PoisonError::into_inner);
        !revoked.is_empty() && revoked.contains_key(jti)
    }
}

/// Tokens that are revoked within this time move the fence together: an agent that revokes its tokens without end cannot have the
/// others' calls decided anew without end.
const FENCE_EVERY: Duration = Duration::from_millis(50);

/// Where the store keeps the revoked tokens that have not expired: an object of `jti` and end.
const REVOKED: &str = "revoked_tokens";

fn kept(text: Option<&[u8]>) -> Result<BTreeMap<String, Timestamp>, StoreError> {
    Ok(text.map(serde_json::from_slice).transpose()?.unwrap_or_default())
}

impl House {
    /// Revokes a token by its `jti` from this moment on, over a restart too, until it would have expired anyway. The fence moves: a
    /// call that was let in with it before and is not on record yet is decided again, and refused.
    ///
    /// # Errors
    /// The store's: the token is revoked all the same, as long as this process lives.
    pub async fn revoke_token(&self, jti: &str, until: Timestamp) -> Result<(), StoreError> {
        // First in memory, then the fence, as with every authority that is taken away.
        self.tokens.revoke(jti, until, self.clock.now());
        self.tokens.owe([(jti.to_owned(), until)]);
        let mut recorded = self.tokens.recorded.lock().await;
        if let Some(left) = recorded.and_then(|at| FENCE_EVERY.checked_sub(at.elapsed())) {
            tokio::time::sleep(left).await;
        }
        let revoked = self.tokens.take_to_record();
        // Somebody who was here before recorded it.
        let Some((first, rest)) = revoked.split_first() else { return Ok(()) };
        let now = self.clock.now();
        let entry = |jti: &str| {
            let body = entry::encode(now, &entry::House { what: "token_revoked", name: Some(jti), digest: None });
            Entry::new(<entry::House<'_> as Body>::WORD, body)
        };
        let (entries, all): (Vec<Entry>, _) = (rest.iter().map(|(jti, _)| entry(jti)).collect(), revoked.clone());
        let keep = move |w: &mut bailiwick_store::Writing<'_>| {
            for entry in entries {
                w.append(entry)?;
            }
            let mut known = kept(w.meta(REVOKED)?.as_deref())?;
            known.retain(|_, end| now < *end);
            known.extend(all);
            w.meta_put(REVOKED, &serde_json::to_vec(&known)?)
        };
        let written = self.store.control(entry(&first.0), keep).await;
        *recorded = Some(tokio::time::Instant::now());
        if let Err(error) = written {
            self.tokens.owe(revoked);
            return Err(error);
        }
        Ok(())
    }

    /// Takes over which tokens were revoked before this start.
    pub(crate) async fn recover_revoked_tokens(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        for (jti, until) in kept(self.store.meta(REVOKED).await?.as_deref())? {
            self.tokens.revoke(&jti, until, now);
        }
        Ok(())
    }
}
