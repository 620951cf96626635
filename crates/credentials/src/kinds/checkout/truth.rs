//! Which password the system takes, when a change was cut off: the candidate is tried first, then the current one.

use super::target::Denied;
use super::{Checkout, Legacy, kept};
use crate::lease::rotation::{Kept, Phase, Truth};
use crate::lease::{Step, TargetCode, TargetError};

/// What is kept of the account, after an open change was settled by what the system takes. `saw` is told what was seen on which node.
pub(super) async fn settled(system: &Checkout, legacy: &Legacy, saw: &mut (dyn FnMut(usize, Step, &str) + Send)) -> Result<Kept, TargetError> {
    let read = async || system.custody.kept(&legacy.secret).await.map_err(|error| kept(&error, Step::Verify));
    let mut now = read().await?;
    if now.phase == Phase::Open {
        let truth = find(system, legacy, &now, saw).await?;
        system.custody.settle(&legacy.secret, now.revision, truth).await.map_err(|error| kept(&error, Step::Verify))?;
        now = read().await?;
    }
    match now.phase {
        Phase::Settled => Ok(now),
        Phase::Lost => Err(lost(legacy, Step::Verify)),
        Phase::Open => Err(TargetError::new(TargetCode::Busy, Step::Verify, "", "another change of this password is under way")),
    }
}

/// Neither password works: only a person can go on.
pub(super) fn lost(legacy: &Legacy, step: Step) -> TargetError {
    let words = format!("no password that is known of `{}` is accepted there; set it anew: bailiwick secret set {}", legacy.user, legacy.secret);
    TargetError::new(TargetCode::Refused, step, "", &words)
}

async fn find(system: &Checkout, legacy: &Legacy, now: &Kept, saw: &mut (dyn FnMut(usize, Step, &str) + Send)) -> Result<Truth, TargetError> {
    let mut trouble = None;
    for node in 0..system.nodes.len() {
        if takes_candidate(system, legacy, now, node, &mut trouble).await {
            saw(node, Step::Verify, "a change that was cut off had been done: the candidate is accepted");
            return Ok(Truth::Candidate);
        }
        match system.target.log_in(node, &legacy.user, &now.current).await {
            Err(Denied::Password(_)) => {}
            Err(Denied::Otherwise(error)) => {
                trouble.get_or_insert(error);
            }
            Ok(mut inside) => {
                if !inside.takes_changes().await? {
                    // It may not have followed yet.
                    trouble.get_or_insert_with(|| TargetError::new(TargetCode::Busy, Step::Verify, system.node(node), "it may lag behind"));
                    continue;
                }
                // The change may still be on its way: in a session that is open, because it was sent only after that session's login. With all
                // of them ended, it was done, or will never be.
                inside.end_others().await?;
                let mut late = None;
                let done = takes_candidate(system, legacy, now, node, &mut late).await;
                if let Some(error) = late {
                    return Err(error);
                }
                saw(node, Step::Verify, if done { "a change that was cut off had been done" } else { "a change that was cut off had not been done" });
                return Ok(if done { Truth::Candidate } else { Truth::Current });
            }
        }
    }
    trouble.map_or(Ok(Truth::Neither), Err)
}

async fn takes_candidate(system: &Checkout, legacy: &Legacy, now: &Kept, node: usize, trouble: &mut Option<TargetError>) -> bool {
    let Some(candidate) = &now.candidate else { return false };
    match system.target.log_in(node, &legacy.user, candidate).await {
        Ok(_) => true,
        Err(Denied::Password(_)) => false,
        Err(Denied::Otherwise(error)) => {
            trouble.get_or_insert(error);
            false
        }
    }
}
