//! The end of an access token: revoked, then tried where it was accepted before; and called what it is if it goes on living.

use std::time::Duration;

use super::exchange::{Revocation, fingerprint, revoke};
use super::{Inner, PROBED, Probe};
use crate::Secret;
use crate::lease::{Account, Ending, Evidence, Step, TargetError};

/// How long to wait between two looks whether a revocation has reached the resource.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Ends the token; each step may be done already.
pub(super) async fn end(inner: &Inner, account: &Account) -> Result<Ending, TargetError> {
    let mut end = End { inner, account, evidence: Evidence::default() };
    let Some(token) = &account.secret else { return Ok(end.unknown()) };
    end.saw("", Step::Verify, &format!("the token whose SHA-256 begins with {}", fingerprint(token)));
    // A probe that cannot be asked keeps no token alive: without it the ending is less, and later.
    let accepted = end.was_accepted(token).await.unwrap_or(false);
    match revoke(inner, Step::Remove, token).await? {
        Revocation::Answered => {
            let node = inner.settings.revocation.as_ref().map_or("", |endpoint| endpoint.name());
            end.saw(node, Step::Remove, "the revocation was answered 200");
        }
        Revocation::None(why) => {
            end.saw("", Step::Remove, &why);
            return end.not_revoked(token, accepted).await;
        }
    }
    end.verify(token, accepted).await
}

struct End<'a> {
    inner: &'a Inner,
    account: &'a Account,
    evidence: Evidence,
}

impl End<'_> {
    fn saw(&mut self, node: &str, step: Step, saw: &str) {
        let now = self.inner.clock.now();
        self.evidence.saw(node, step, now, saw, self.account.secret.as_ref());
    }

    fn node(&self) -> &str {
        self.inner.settings.probe.as_ref().map_or("", |endpoint| endpoint.name())
    }

    /// A token that nobody knows lives until it expires.
    fn unknown(mut self) -> Ending {
        self.saw("", Step::Remove, "the token is not known: the server's answer was lost, or it was never made");
        let at = self.account.expires_at.or_else(|| Some(self.inner.clock.now().plus(self.inner.settings.lifetime_max?)));
        match at {
            Some(at) => Ending::ExpiresAt { at, evidence: self.evidence },
            None => Ending::RevokedUnverified {
                why: "the token is not known to anybody, and the server does not say when it expires".to_owned(),
                evidence: self.evidence,
            },
        }
    }

    /// Did the probe ever take it? What is known from the mint, or what it says now.
    async fn was_accepted(&mut self, token: &Secret) -> Result<bool, TargetError> {
        let node = self.node().to_owned();
        if self.account.ids.find(PROBED) == Some("accepted") {
            self.saw(&node, Step::Verify, "the probe accepted it when it was made");
            return Ok(true);
        }
        match self.inner.probe(Step::Verify, token).await? {
            Some(Probe::Accepted(words)) => {
                self.saw(&node, Step::Verify, &format!("the probe accepted it before the revocation: {words}"));
                Ok(true)
            }
            Some(Probe::Refused(words)) => {
                self.saw(&node, Step::Verify, &format!("the probe refused it before the revocation: {words}"));
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// Without a revocation: it lives until it expires, or is dead already.
    async fn not_revoked(mut self, token: &Secret, accepted: bool) -> Result<Ending, TargetError> {
        if let (true, Some(Probe::Refused(words))) = (accepted, self.inner.probe(Step::Verify, token).await?) {
            let node = self.node().to_owned();
            self.saw(&node, Step::Verify, &words);
            return Ok(Ending::RevokedVerified { evidence: self.evidence });
        }
        Ok(self.lives_on())
    }

    async fn verify(mut self, token: &Secret, accepted: bool) -> Result<Ending, TargetError> {
        let node = self.node().to_owned();
        let looks = self.inner.settings.revocation_lag_max.as_millis().div_ceil(LOOK_PAUSE.as_millis());
        for _ in 0..=looks {
            match self.inner.probe(Step::Verify, token).await? {
                None => return Ok(self.unverified("no probe is configured, so that it could not be tried")),
                Some(Probe::Refused(words)) if accepted => {
                    self.saw(&node, Step::Verify, &words);
                    return Ok(Ending::RevokedVerified { evidence: self.evidence });
                }
                Some(Probe::Refused(words)) => {
                    self.saw(&node, Step::Verify, &words);
                    return Ok(self.unverified("the probe never accepted it, so that its refusal says nothing"));
                }
                Some(Probe::Accepted(_)) => tokio::time::sleep(LOOK_PAUSE).await,
            }
        }
        self.saw(&node, Step::Verify, "the probe still accepts it: the server answers a revocation and does nothing for such tokens");
        Ok(self.lives_on())
    }

    fn unverified(self, why: &str) -> Ending {
        Ending::RevokedUnverified { why: why.to_owned(), evidence: self.evidence }
    }

    fn lives_on(self) -> Ending {
        match self.account.expires_at {
            Some(at) => Ending::ExpiresAt { at, evidence: self.evidence },
            None => Ending::InjectionStopped { evidence: self.evidence },
        }
    }
}
