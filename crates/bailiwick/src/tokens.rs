//! Tokens that were verified, so that a signature is checked once and not at every call.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use bailiwick_core::{Digest, Timestamp};
use bailiwick_identity::Verified;

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
}

impl TokenCache {
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
