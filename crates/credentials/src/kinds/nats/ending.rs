//! The end of a user: revoked on every node, its connections gone, and its login refused beside one that is accepted.

use std::time::Duration;

use super::nkey::{Key, Role};
use super::session::{Session, is_refused_login, target};
use super::{Nats, Right, USER, claims, connections, jwt, nkey, permissions};
use crate::kinds::connection::Failure;
use crate::lease::{Account, Ending, Evidence, Node, Step, TargetCode, TargetError};

/// How often connections are looked for, until none is left. The node closes them by itself.
const LOOKS_MAX: usize = 40;
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How long what we try the login with could live, if it were accepted.
const TRY_LIFE: Duration = Duration::from_secs(60);
const TRY_AGE: Duration = Duration::from_secs(5);

/// Ends the user; each step may be done already.
pub(super) async fn end(system: &Nats, account: &Account) -> Result<Ending, TargetError> {
    let key = account.secret.as_ref().and_then(|secret| Key::from_seed(jwt::seed_in(secret.expose()), Role::User));
    let mut end = End { system, account, evidence: Evidence::default() };
    let Some(user) = key.as_ref().map(Key::public).or_else(|| account.ids.find(USER).map(str::to_owned)) else {
        // Nothing says which key it is. What we signed for it expires, and what we did not sign is nothing.
        let at = account.expires_at.unwrap_or_else(|| system.clock.now().plus(system.settings.lease_max));
        return Ok(Ending::ExpiresAt { at, evidence: end.evidence });
    };
    if nkey::public(&user, Role::User).is_none() {
        return Err(TargetError::new(TargetCode::Plan, Step::Gate, "", "the remembered key is none of a user"));
    }
    let mut sessions = system.sessions(Step::Gate).await?;
    let change = claims::revoke(system, &mut sessions, Some(&user)).await?;
    for (node, _) in &sessions {
        end.saw(node, Step::Remove, &format!("user {user} is revoked, with {} others", change.count.saturating_sub(1)));
    }
    for missing in change.missing {
        end.saw_anywhere(Step::Remove, &format!("user {missing}, ended before, was no longer revoked and is again"));
    }
    for (node, session) in &mut sessions {
        end.nothing_open(node, session, &user).await?;
    }
    end.verify(key.as_ref()).await
}

struct End<'a> {
    system: &'a Nats,
    account: &'a Account,
    evidence: Evidence,
}

impl End<'_> {
    fn saw(&mut self, node: &Node, step: Step, saw: &str) {
        let now = self.system.clock.now();
        self.evidence.saw(node.name(), step, now, saw, self.account.secret.as_ref());
    }

    fn saw_anywhere(&mut self, step: Step, saw: &str) {
        let now = self.system.clock.now();
        self.evidence.saw("", step, now, saw, self.account.secret.as_ref());
    }

    /// No connection of the user, by the node's own word.
    async fn nothing_open(&mut self, node: &Node, session: &mut Session, user: &str) -> Result<(), TargetError> {
        for _ in 0..LOOKS_MAX {
            let all = connections(session, Step::Verify, &self.system.settings.account).await?;
            if !all.iter().any(|connection| connection.user == user) {
                self.saw(node, Step::Verify, "no connection");
                return Ok(());
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Err(TargetError::new(TargetCode::Busy, Step::Kill, node.name(), "connections do not end"))
    }

    /// Tries the login on every node, and beside it that of a fresh user of the account that may do nothing.
    async fn verify(mut self, key: Option<&Key>) -> Result<Ending, TargetError> {
        let Some(key) = key else {
            let why = "its secret is not known, so that a login could not be tried".to_owned();
            return Ok(Ending::RevokedUnverified { why, evidence: self.evidence });
        };
        let fresh = nkey::fresh_seed()?;
        let internal = || TargetError::new(TargetCode::Internal, Step::Verify, "", "a fresh seed is no seed");
        let control = Key::from_seed(fresh.expose(), Role::User).ok_or_else(internal)?;
        let (system, mut why) = (self.system, None);
        for node in &system.settings.nodes {
            match self.try_login(node, key).await {
                Ok(_) => return Err(TargetError::new(TargetCode::Busy, Step::Verify, node.name(), "the login is still accepted")),
                Err(Failure::Said(words)) if is_refused_login(&words) => self.saw(node, Step::Verify, &words),
                Err(failure) => return Err(target(&failure, Step::Verify, node.name())),
            }
            match self.try_login(node, &control).await {
                Ok(_) => self.saw(node, Step::Verify, "a login of a fresh user of the same account is accepted"),
                Err(Failure::Said(words)) => why = Some(format!("`{}` refuses every user of the account: {words}", node.name())),
                Err(failure) => return Err(target(&failure, Step::Verify, node.name())),
            }
        }
        Ok(match why {
            None => Ending::RevokedVerified { evidence: self.evidence },
            Some(why) => Ending::RevokedUnverified { why, evidence: self.evidence },
        })
    }

    /// A login with a JWT of this key that has not expired: the one that was minted may have, and its refusal would show that only.
    async fn try_login(&self, node: &Node, key: &Key) -> Result<Session, Failure> {
        let now = self.system.clock.now();
        let nats = permissions(&self.account.name, Right::default(), &self.system.settings, None);
        let issued = bailiwick_core::Timestamp::from_millis(now.as_millis().saturating_sub(i64::try_from(TRY_AGE.as_millis()).unwrap_or(0)));
        let jwt = self.system.user_jwt(&key.public(), "bailiwick verify", issued, now.plus(TRY_LIFE), nats);
        Session::open(node, &jwt, key, "bailiwick verify").await
    }
}
