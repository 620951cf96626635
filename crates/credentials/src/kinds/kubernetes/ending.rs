//! The end of a token: the object that it is bound to is removed, and the API server is asked until it has forgotten that the token was good.

use std::time::Duration;

use hyper::Method;
use serde_json::json;

use super::{ACCEPTED, Kubernetes, OURS, UID, object_name};
use crate::lease::{Account, Ending, Evidence, Step, TargetCode, TargetError};

/// How long the bytes of a killed mint may be on their way.
const SETTLE: Duration = Duration::from_millis(300);
/// How often the object is looked for until it is gone: finalizers keep one.
const GONE_LOOKS: usize = 40;
const GONE_PAUSE: Duration = Duration::from_millis(250);
/// How often the token is tried, after API servers should have forgotten it.
const REFUSAL_LOOKS: usize = 20;
const REFUSAL_PAUSE: Duration = Duration::from_millis(500);

/// Ends the token; each step may be done already.
pub(super) async fn end(system: &Kubernetes, account: &Account) -> Result<Ending, TargetError> {
    let mut end = End { system, account, evidence: Evidence::default() };
    end.remove().await?;
    if account.ids.is_empty() {
        // The mint's answer was never seen, so it may have been killed a moment ago.
        tokio::time::sleep(SETTLE).await;
        end.remove().await?;
    }
    end.saw(Step::Remove, "there is no such object");
    end.verify().await
}

struct End<'a> {
    system: &'a Kubernetes,
    account: &'a Account,
    evidence: Evidence,
}

impl End<'_> {
    fn saw(&mut self, step: Step, saw: &str) {
        let now = self.system.clock.now();
        self.evidence.saw(self.system.api.node(), step, now, saw, self.account.secret.as_ref());
    }

    /// Removes the object, if it is there and ours, and waits until it is gone.
    async fn remove(&mut self) -> Result<(), TargetError> {
        for look in 0..GONE_LOOKS {
            let Some(object) = self.system.find(Step::Remove, &self.account.name).await? else { return Ok(()) };
            if !object.is_ours() {
                return Err(TargetError::new(
                    TargetCode::Taken,
                    Step::Remove,
                    self.system.api.node(),
                    "an object of this name is there, and is not ours",
                ));
            }
            let uid = object.metadata.uid;
            if self.account.ids.find(UID).is_some_and(|known| known != uid) {
                self.saw(Step::Remove, "an object of this name with another uid is there");
            }
            if object.metadata.deletion_timestamp.is_none() {
                let path = format!("{}/{}", self.system.secrets(), object_name(&self.account.name));
                let body = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": { "uid": uid } });
                let reply = self.system.api.ask(Step::Remove, Method::DELETE, &path, Some(&body), OURS).await?;
                match reply.status {
                    200 | 202 => self.saw(Step::Remove, &format!("the object {uid} was removed")),
                    404 => return Ok(()),
                    // Another one stands there now, which is looked at next.
                    409 => {}
                    _ => return Err(self.system.api.refusal(Step::Remove, &reply)),
                }
            }
            if look > 0 {
                tokio::time::sleep(GONE_PAUSE).await;
            }
        }
        Err(TargetError::new(
            TargetCode::Busy,
            Step::Remove,
            self.system.api.node(),
            "the object is being removed: something holds it with a finalizer",
        ))
    }

    async fn verify(mut self) -> Result<Ending, TargetError> {
        let Some(token) = &self.account.secret else {
            let why = "the token is not known, so that it could not be tried; what it was bound to is gone".to_owned();
            return Ok(Ending::RevokedUnverified { why, evidence: self.evidence });
        };
        // Before that, an API server that was not asked could still take it.
        tokio::time::sleep(self.system.settings.remembered).await;
        let mut refused = None;
        for _ in 0..REFUSAL_LOOKS {
            refused = self.system.review(Step::Verify, token).await?.refused;
            if refused.is_some() {
                break;
            }
            tokio::time::sleep(REFUSAL_PAUSE).await;
        }
        let Some(words) = refused else {
            return Err(TargetError::new(TargetCode::Busy, Step::Verify, self.system.api.node(), "the token is still honoured"));
        };
        self.saw(Step::Verify, &format!("a review refuses the token: {words}"));
        if self.account.ids.find(ACCEPTED).is_none() {
            let why = "the token was never seen to be good, so that its refusal says nothing".to_owned();
            return Ok(Ending::RevokedUnverified { why, evidence: self.evidence });
        }
        self.saw(Step::Verify, "a review accepted it when it was made");
        if self.system.settings.audiences.is_empty() || self.system.settings.audiences_ask {
            return Ok(Ending::RevokedVerified { evidence: self.evidence });
        }
        self.saw(Step::Verify, "whoever else is in the token's audience may look at its signature only");
        match self.account.expires_at {
            Some(at) => Ok(Ending::ExpiresAt { at, evidence: self.evidence }),
            None => Ok(Ending::RevokedUnverified { why: "it is not known when the token expires for others".to_owned(), evidence: self.evidence }),
        }
    }
}
