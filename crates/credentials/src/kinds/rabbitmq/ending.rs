//! The end of a user: removed, its connections gone, and its login refused on every node, beside our own that is accepted.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;

use super::amqp::Connection;
use super::api::encoded;
use super::{Rabbitmq, user_path};
use crate::kinds::connection::Failure;
use crate::kinds::{NO_SECRET, revoked};
use crate::lease::{Account, Ending, Evidence, Step, TargetCode, TargetError};

/// How long the bytes of a killed mint may be on their way.
const SETTLE: Duration = Duration::from_millis(300);
/// How often connections are looked for, until none is left.
const LOOKS_MAX: usize = 100;
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Ends the user; each step may be done already.
pub(super) async fn end(system: &Rabbitmq, account: &Account) -> Result<Ending, TargetError> {
    let mut end = End { system, account, evidence: Evidence::default() };
    end.remove().await?;
    if account.ids.is_empty() {
        // The mint's answer was never seen, so it may have been killed a moment ago.
        tokio::time::sleep(SETTLE).await;
        end.remove().await?;
    }
    end.nothing_open().await?;
    if system.api.find(Step::Verify, &user_path(&account.name)).await?.is_some() {
        return Err(TargetError::new(TargetCode::Busy, Step::Verify, "", "the user is there again"));
    }
    end.saw("", Step::Verify, "no user and no connection");
    end.verify().await
}

struct End<'a> {
    system: &'a Rabbitmq,
    account: &'a Account,
    evidence: Evidence,
}

impl End<'_> {
    fn saw(&mut self, node: &str, step: Step, saw: &str) {
        let now = self.system.clock.now();
        self.evidence.saw(node, step, now, saw, self.account.secret.as_ref());
    }

    async fn remove(&mut self) -> Result<(), TargetError> {
        let was_there = self.system.api.remove(Step::Remove, &user_path(&self.account.name)).await?;
        self.saw("", Step::Remove, if was_there { "user removed" } else { "there is no such user" });
        Ok(())
    }

    /// The server closes the user's connections by itself when the user goes; what is left is told to close. A client that does not answer a close
    /// can do nothing any more, and is counted for some seconds.
    async fn nothing_open(&mut self) -> Result<(), TargetError> {
        let path = format!("/connections/username/{}", self.account.name);
        for _ in 0..LOOKS_MAX {
            let list = self.system.api.find(Step::Kill, &path).await?;
            let open = list.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            if open.is_empty() {
                return Ok(());
            }
            for name in open.iter().filter_map(|connection| connection.get("name")?.as_str()) {
                self.system.api.remove(Step::Kill, &format!("/connections/{}", encoded(name))).await?;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Err(TargetError::new(TargetCode::Busy, Step::Kill, "", "connections do not end"))
    }

    /// Tries the login on every node, and beside it our own: a server that lets nobody in says nothing about the user.
    async fn verify(mut self) -> Result<Ending, TargetError> {
        let Some(secret) = &self.account.secret else { return Ok(revoked(&[NO_SECRET.to_owned()], self.evidence)) };
        let (system, name) = (self.system, self.account.name.as_str());
        let nodes = &system.settings.nodes;
        let tried = nodes
            .iter()
            .map(async |node| (Connection::log_in(node, name, secret).await, Connection::log_in(node, &system.settings.user, &system.secret).await));
        let (tried, mut doubts) = (join_all(tried).await, Vec::new());
        for (node, (login, ours)) in nodes.iter().zip(tried) {
            match login {
                Ok(_) => return Err(TargetError::new(TargetCode::Busy, Step::Verify, node.name(), "the login is still accepted")),
                Err(Failure::Said(words)) if words.starts_with("403 ACCESS_REFUSED") => self.saw(node.name(), Step::Verify, &words),
                Err(failure) => return Err(target(&failure, node.name())),
            }
            match ours {
                Ok(_) => self.saw(node.name(), Step::Verify, "a login of the broker's own user is accepted"),
                Err(Failure::Said(words)) => doubts.push(format!("`{}` refuses the broker's own login, too: {words}", node.name())),
                Err(failure) => return Err(target(&failure, node.name())),
            }
        }
        Ok(revoked(&doubts, self.evidence))
    }
}

/// What a failed try means.
pub(super) fn target(failure: &Failure, node: &str) -> TargetError {
    let code = match failure {
        Failure::Lost(_) => TargetCode::Unreachable,
        Failure::Malformed(_) => TargetCode::Protocol,
        Failure::Said(words) if words.starts_with("403") || words.starts_with("530") => TargetCode::Refused,
        Failure::Said(_) => TargetCode::Busy,
    };
    TargetError::new(code, Step::Verify, node, failure.words())
}
