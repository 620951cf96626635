//! The use of a refresh token that may be good for one use: written ahead, one at a time, and never dropped between the server's answer and our disk.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::exchange::{self, Refused, Token};
use super::{Grant, Inner};
use crate::Secret;
use crate::lease::rotation::{Kept, Phase, Rotation, RotationError, Truth};
use crate::lease::{Step, TargetCode, TargetError};

/// How often it is tried to write down what the server gave: it gives it once.
const WRITES_MAX: usize = 5;
const WRITE_PAUSE: Duration = Duration::from_millis(100);

/// An access token. Whoever asked may go away meanwhile: the exchange goes on, because an answer that nobody reads is a refresh token lost for ever.
pub(super) async fn token(inner: &Arc<Inner>, scopes: &BTreeSet<String>, agent: &str) -> Result<Token, TargetError> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let (inner, scopes, agent) = (Arc::clone(inner), scopes.clone(), agent.to_owned());
    tokio::spawn(async move {
        let _turn = inner.turn.lock().await;
        // Whoever went away while others had their turn has cost nothing yet.
        if tell.is_closed() {
            return;
        }
        let token = in_turn(&inner, &scopes, &agent).await;
        // A token that nobody waits for any more is known to nobody else.
        if let Err(Ok(token)) = tell.send(token) {
            drop(exchange::revoke(&inner, Step::Remove, &token.secret).await);
        }
    });
    told.await.map_err(|_| TargetError::new(TargetCode::Internal, Step::Mint, "", "a refresh broke off"))?
}

async fn in_turn(inner: &Inner, scopes: &BTreeSet<String>, agent: &str) -> Result<Token, TargetError> {
    let Grant::RefreshToken { name, kept } = &inner.grant else {
        return Err(TargetError::new(TargetCode::Internal, Step::Mint, "", "there is no refresh token"));
    };
    let rotation = Turn { name, kept: kept.as_ref() };
    let seen = rotation.open().await?;
    let lost = seen.candidate.is_none() && seen.phase == Phase::Open;
    let mut words = String::new();
    // The newest first. Only a refusal of the token itself makes it right to try the one before: it may be that the server forgot what it gave.
    for (truth, refresh) in [(Truth::Candidate, seen.candidate.as_ref()), (Truth::Current, Some(&seen.current))] {
        let Some(refresh) = refresh else { continue };
        match exchange::refresh(inner, refresh, scopes, agent).await {
            Ok(mut answered) => {
                let kept = rotation.keep(&seen, truth, answered.refresh.take()).await;
                let token = answered.access(inner).await?;
                if let Err(error) = kept {
                    drop(exchange::revoke(inner, Step::Mint, &token.secret).await);
                    return Err(error);
                }
                return Ok(token);
            }
            Err(Refused::Grant(error)) => words = error.detail().to_owned(),
            Err(Refused::Other(error)) => return Err(error),
        }
    }
    rotation.settle(seen.revision, Truth::Neither).await?;
    let why = if lost { "; the answer to an earlier request was lost, and with it, it seems, the token that replaced this one" } else { "" };
    let what = format!("the refresh token `{name}` is not honoured any more, and a person has to set a new one ({words}){why}");
    Err(TargetError::new(TargetCode::Refused, Step::Mint, inner.settings.token.name(), &what))
}

/// What is kept of one refresh token, while it is our turn.
struct Turn<'a> {
    name: &'a str,
    kept: &'a dyn Rotation,
}

impl Turn<'_> {
    /// Before anything is sent it is durable that an answer may be lost.
    async fn open(&self) -> Result<Kept, TargetError> {
        let mut seen = self.kept.kept(self.name).await.map_err(target)?;
        match seen.phase {
            Phase::Settled => seen.revision = self.kept.begin(self.name, seen.revision, None).await.map_err(target)?,
            Phase::Open => return Ok(seen),
            Phase::Lost => {
                let what = format!("the refresh token `{}` is not honoured any more, and a person has to set a new one", self.name);
                return Err(TargetError::new(TargetCode::Refused, Step::Mint, "", &what));
            }
        }
        // It was settled: that nothing is known to be lost is what `in_turn` reads from this.
        Ok(Kept { phase: Phase::Settled, ..seen })
    }

    async fn settle(&self, revision: u64, truth: Truth) -> Result<u64, TargetError> {
        self.kept.settle(self.name, revision, truth).await.map_err(target)
    }

    /// What worked, and what came in its place, which becomes the candidate: the last two are kept.
    async fn keep(&self, seen: &Kept, worked: Truth, fresh: Option<Secret>) -> Result<(), TargetError> {
        let mut left = WRITES_MAX;
        loop {
            let error = match self.write(seen, worked, fresh.as_ref()).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            left = left.saturating_sub(1);
            if left == 0 {
                return Err(target(error));
            }
            tokio::time::sleep(WRITE_PAUSE).await;
        }
    }

    /// Each step may be taken already by a try that was not seen to succeed.
    async fn write(&self, seen: &Kept, worked: Truth, fresh: Option<&Secret>) -> Result<(), RotationError> {
        let mut now = self.kept.kept(self.name).await?;
        let is = |a: Option<&Secret>, b: Option<&Secret>| a.map(Secret::expose) == b.map(Secret::expose);
        if fresh.is_some() && is(now.candidate.as_ref(), fresh) {
            return Ok(());
        }
        let replaced = is(now.candidate.as_ref(), seen.candidate.as_ref()) && is(Some(&now.current), Some(&seen.current));
        if now.phase == Phase::Open && replaced && (seen.candidate.is_some() || fresh.is_none()) {
            now.revision = self.kept.settle(self.name, now.revision, worked).await?;
        }
        if let Some(fresh) = fresh {
            self.kept.begin(self.name, now.revision, Some(fresh)).await?;
        }
        Ok(())
    }
}

fn target(error: RotationError) -> TargetError {
    let code = match error {
        RotationError::Moved(_) => TargetCode::Busy,
        RotationError::Unset(_) => TargetCode::Refused,
        RotationError::Step(_) | RotationError::Store(..) => TargetCode::Internal,
    };
    TargetError::new(code, Step::Mint, "", &error.to_string())
}
