//! The end of a user: revoked on every node, its connections gone, and its login refused beside one that is accepted.

use std::time::Duration;

use futures_util::future::join_all;

use super::nkey::{Key, Role};
use super::session::{Session, is_refused_login, target};
use super::{Nats, Right, USER, claims, connections, jwt, nkey, permissions};
use crate::kinds::connection::Failure;
use crate::kinds::{NO_SECRET, revoked};
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
    system.remember_user(&user, &account.name, account.expires_at);
    // A node that cannot be reached keeps this from being an end, and the others from nothing.
    let (mut sessions, mut trouble) = system.reach(Step::Connect).await;
    let change = claims::revoke(system, &mut sessions, Some(&user)).await?;
    trouble.extend(change.trouble);
    let closed = join_all(sessions.iter_mut().map(|(node, session)| nothing_open(system, node, session, &user))).await;
    trouble.extend(closed.into_iter().filter_map(Result::err));
    if let Some(first) = trouble.into_iter().next() {
        return Err(first);
    }
    for missing in change.missing {
        end.saw("", Step::Remove, &format!("user {missing}, ended before, was no longer revoked and is again"));
    }
    for (node, _) in &sessions {
        end.saw(node.name(), Step::Remove, &format!("user {user} is revoked, with {} others", change.count.saturating_sub(1)));
        end.saw(node.name(), Step::Verify, "no connection");
    }
    end.verify(key.as_ref()).await
}

/// No connection of the user, by the node's own word.
async fn nothing_open(system: &Nats, node: &Node, session: &mut Session, user: &str) -> Result<(), TargetError> {
    for _ in 0..LOOKS_MAX {
        let all = connections(session, Step::Verify, &system.settings.account).await?;
        if !all.iter().any(|connection| connection.user == user) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Err(TargetError::new(TargetCode::Busy, Step::Kill, node.name(), "connections do not end"))
}

struct End<'a> {
    system: &'a Nats,
    account: &'a Account,
    evidence: Evidence,
}

impl End<'_> {
    fn saw(&mut self, node: &str, step: Step, saw: &str) {
        let now = self.system.clock.now();
        self.evidence.saw(node, step, now, saw, self.account.secret.as_ref());
    }

    /// Tries the login on every node, and beside it that of a fresh user of the account that may do nothing.
    async fn verify(mut self, key: Option<&Key>) -> Result<Ending, TargetError> {
        let Some(key) = key else { return Ok(revoked(&[NO_SECRET.to_owned()], self.evidence)) };
        let fresh = nkey::fresh_seed()?;
        let internal = || TargetError::new(TargetCode::Internal, Step::Verify, "", "a fresh seed is no seed");
        let control = Key::from_seed(fresh.expose(), Role::User).ok_or_else(internal)?;
        let nodes = &self.system.settings.nodes;
        let tried = join_all(nodes.iter().map(async |node| (self.try_login(node, key).await, self.try_login(node, &control).await))).await;
        let mut doubts = Vec::new();
        for (node, (login, control)) in nodes.iter().zip(tried) {
            match login {
                Ok(_) => return Err(TargetError::new(TargetCode::Busy, Step::Verify, node.name(), "the login is still accepted")),
                Err(Failure::Said(words)) if is_refused_login(&words) => self.saw(node.name(), Step::Verify, &words),
                Err(failure) => return Err(target(&failure, Step::Verify, node.name())),
            }
            match control {
                Ok(_) => self.saw(node.name(), Step::Verify, "a login of a fresh user of the same account is accepted"),
                Err(Failure::Said(words)) => doubts.push(format!("`{}` refuses every user of the account: {words}", node.name())),
                Err(failure) => return Err(target(&failure, Step::Verify, node.name())),
            }
        }
        Ok(revoked(&doubts, self.evidence))
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
