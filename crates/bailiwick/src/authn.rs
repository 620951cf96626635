//! Who presents a token, with what beside it, and from where.

pub(crate) mod binding;
pub(crate) mod challenge;
mod replays;

use std::net::IpAddr;
use std::sync::Arc;

use bailiwick_core::{Digest, ErrorCode};
use bailiwick_identity::sightings::Used;
use bailiwick_identity::{Place, Proof, ProofError};
use http::header::AUTHORIZATION;
use http::request::Parts;

use crate::house::House;
use crate::pipeline::Who;
use crate::standing::Ground;
use crate::tokens::Bearer;
use bailiwick_identity::oauth::Scheme;

/// Why a request is not authenticated. `error` is the OAuth error for the challenge; none if no credentials came at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAuthenticated {
    /// The code.
    pub code: ErrorCode,
}

/// A request without its body: what it shows beside a token or an assertion. The listener puts what the connection proved (a client's
/// certificate, a local process) into the extensions of its parts.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The peer's address.
    pub from: IpAddr,
    /// Method, target, headers and extensions.
    pub parts: &'a Parts,
}

impl House {
    /// The token of a request: verified, not revoked, of a task that is open. One place at a time.
    ///
    /// # Errors
    /// Without a valid token; the reason is in the log.
    pub async fn bearer(&self, presented: &Presented<'_>) -> Result<Bearer, NotAuthenticated> {
        let missing = NotAuthenticated { code: ErrorCode::AuthnMissing };
        let from = presented.from;
        let mut values = presented.parts.headers.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or(missing)?;
        let invalid = |why: &dyn std::fmt::Display| {
            tracing::info!(error.code = %ErrorCode::ProofInvalid, %why, "a token was refused");
            NotAuthenticated { code: ErrorCode::ProofInvalid }
        };
        if values.next().is_some() {
            return Err(invalid(&"more than one Authorization header"));
        }
        let value = value.to_str().map_err(|e| invalid(&e))?;
        let (scheme, token) = match Proof::from_authorization(value).map_err(|e| invalid(&e))? {
            Proof::Bearer(token) => (Scheme::Bearer, token),
            Proof::Bound(token) => (Scheme::Dpop, token),
            _ => return Err(invalid(&"not an access token")),
        };
        let hash = Digest::of(token.as_bytes());
        let now = self.clock.now();
        if let Some((bearer, last)) = self.tokens.find(&hash) {
            bearer.verified().check_time(now).map_err(|e| expired_or(&e, invalid))?;
            self.still_good(&bearer)?;
            self.bound(bearer.verified(), scheme, token, presented)?;
            if last != from {
                self.seen_at(&bearer, from, now).await;
                self.tokens.put(hash, bearer.clone(), from);
            }
            return Ok(bearer);
        }
        let verified = Arc::new(self.verifier.verify(token, &self.urls.mcp, now).map_err(|e| expired_or(&e, invalid))?);
        let bearer = match verified.caller() {
            None => Bearer::Agent(verified),
            Some(caller) => {
                let live = self.live.find(caller.task).ok_or(NotAuthenticated { code: ErrorCode::TaskClosed })?;
                let (confirmation, key, issued) = (verified.confirmation, verified.acting.key, verified.issued);
                Bearer::Task(verified, Who { caller: Arc::new(caller), live, confirmation, key, issued })
            }
        };
        self.still_good(&bearer)?;
        self.bound(bearer.verified(), scheme, token, presented)?;
        self.seen_at(&bearer, from, now).await;
        self.tokens.put(hash, bearer.clone(), from);
        Ok(bearer)
    }

    fn still_good(&self, bearer: &Bearer) -> Result<(), NotAuthenticated> {
        let now = self.clock.now();
        let verified = bearer.verified();
        if self.tokens.is_revoked(&verified.jti.to_string()) {
            return Err(NotAuthenticated { code: ErrorCode::ProofInvalid });
        }
        if let Bearer::Task(_, who) = bearer
            && !who.live.is_open(now)
        {
            return Err(NotAuthenticated { code: ErrorCode::TaskClosed });
        }
        let task = if let Bearer::Task(_, who) = bearer { self.task_stands(&who.live) } else { Ok(()) };
        task.and_then(|()| self.stands(Ground::of(verified))).map_err(|why| {
            tracing::info!(%why, "a token was refused");
            NotAuthenticated { code: ErrorCode::ProofInvalid }
        })
    }

    /// One identity used from two places at once is an incident.
    async fn seen_at(&self, bearer: &Bearer, address: IpAddr, now: bailiwick_core::Timestamp) {
        let verified = bearer.verified();
        if let Some(agent) = self.agent(verified.agent.as_str()) {
            let place = Place { address, instance: verified.instance };
            self.sighted(agent, Used::Token(verified.jti), place, now).await;
        }
    }
}

fn expired_or(error: &ProofError, invalid: impl Fn(&dyn std::fmt::Display) -> NotAuthenticated) -> NotAuthenticated {
    if matches!(error, ProofError::Expired) { NotAuthenticated { code: ErrorCode::TokenExpired } } else { invalid(error) }
}
