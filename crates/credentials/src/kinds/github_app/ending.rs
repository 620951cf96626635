//! The end of an installation token: it revokes itself, and is then refused, beside the app itself that is accepted.

use std::time::Duration;

use hyper::Method;

use super::{GithubApp, HASHED, TOKEN_LIFE};
use crate::Secret;
use crate::lease::{Account, Ending, Evidence, Step, TargetCode, TargetError};

/// A revocation may take this many looks to be known everywhere.
const LOOKS_MAX: usize = 40;
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Ends the token; it may be done already.
pub(super) async fn end(system: &GithubApp, account: &Account) -> Result<Ending, TargetError> {
    let mut end = End { system, account, evidence: Evidence::default() };
    if let Some(hashed) = account.ids.find(HASHED) {
        end.saw(Step::Verify, &format!("the token that the audit log calls {hashed}"));
    }
    let Some(token) = &account.secret else {
        end.saw(Step::Remove, "the token is not known: the answer was lost, or it was never made");
        let at = account.expires_at.unwrap_or_else(|| system.clock.now().plus(TOKEN_LIFE));
        return Ok(Ending::ExpiresAt { at, evidence: end.evidence });
    };
    let control = match system.delete(token).await? {
        Ok(()) => {
            end.saw(Step::Remove, "it revoked itself: status 204, so that it was accepted until then");
            None
        }
        // Nobody saw it accepted in this run, so that a server which refuses everybody would look alike.
        Err(words) => {
            end.saw(Step::Remove, &format!("it is refused already: {words}"));
            end.control().await?
        }
    };
    end.verify(token, control).await
}

struct End<'a> {
    system: &'a GithubApp,
    account: &'a Account,
    evidence: Evidence,
}

impl End<'_> {
    fn saw(&mut self, step: Step, saw: &str) {
        let now = self.system.clock.now();
        self.evidence.saw(self.system.settings.api.name(), step, now, saw, self.account.secret.as_ref());
    }

    /// Is the app itself accepted? What it says if it is not.
    async fn control(&mut self) -> Result<Option<String>, TargetError> {
        let jwt = self.system.jwt()?;
        let question = GithubApp::question(Method::GET, "/app", "bailiwick").bearer(&jwt);
        let reply = self.system.settings.api.ask(Step::Verify, question).await?;
        match reply.status {
            200 => {
                self.saw(Step::Verify, "the app itself is accepted");
                Ok(None)
            }
            401 | 404 => Ok(Some(format!("the app itself is refused, too: {}", reply.words(&["/message"], &[&jwt])))),
            _ => Err(self.system.refusal(Step::Verify, &reply, &[&jwt])),
        }
    }

    async fn verify(mut self, token: &Secret, control: Option<String>) -> Result<Ending, TargetError> {
        for _ in 0..LOOKS_MAX {
            let question = GithubApp::question(Method::GET, "/installation/repositories?per_page=1", "bailiwick").bearer(token);
            let reply = self.system.settings.api.ask(Step::Verify, question).await?;
            match reply.status {
                401 => {
                    self.saw(Step::Verify, &reply.words(&["/message"], &[token]));
                    return Ok(match control {
                        None => Ending::RevokedVerified { evidence: self.evidence },
                        Some(why) => Ending::RevokedUnverified { why, evidence: self.evidence },
                    });
                }
                200 => tokio::time::sleep(LOOK_PAUSE).await,
                _ => return Err(self.system.refusal(Step::Verify, &reply, &[token])),
            }
        }
        Err(TargetError::new(TargetCode::Busy, Step::Verify, self.system.settings.api.name(), "the token is still accepted"))
    }
}
