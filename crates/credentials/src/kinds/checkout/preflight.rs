//! Whether each account can be lent and taken back: asked, then done once, with the probe as the task.

use super::target::{Denied, Inside};
use super::{Checkout, Legacy, kept, truth};
use crate::Secret;
use crate::lease::rotation::{Phase, RotationError};
use crate::lease::{Account, AccountName, Ending, Finding, Step, TargetCode, TargetError, TargetIds};

/// What is missing; nothing, if each account that is free was lent and taken back as it must. One that is lent to a task is left alone.
pub(super) async fn preflight(system: &Checkout, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
    let mut findings = Vec::new();
    for legacy in &system.settings.accounts {
        let before = findings.len();
        look(system, legacy, &mut findings).await?;
        if findings.len() == before {
            lend(system, legacy, probe, &mut findings).await?;
        }
    }
    Ok(findings)
}

fn find(findings: &mut Vec<Finding>, node: &str, missing: impl Into<String>, remedy: impl Into<String>) {
    findings.push(Finding { node: node.to_owned(), missing: missing.into(), remedy: remedy.into() });
}

/// Is there a password, and does each node look at it?
async fn look(system: &Checkout, legacy: &Legacy, findings: &mut Vec<Finding>) -> Result<(), TargetError> {
    let set = format!("bailiwick secret set {}", legacy.secret);
    match system.custody.kept(&legacy.secret).await {
        Ok(now) if now.phase == Phase::Lost => find(findings, "", truth::lost(legacy, Step::Verify).detail(), set),
        Ok(_) => {}
        Err(RotationError::Unset(_)) => find(findings, "", format!("the password of `{}` is not set", legacy.user), set),
        Err(error) => return Err(kept(&error, Step::Verify)),
    }
    for node in 0..system.nodes.len() {
        match system.target.log_in(node, &legacy.user, &system.password()?).await {
            Ok(_) => {
                let missing = format!("`{}` is let in with any password: an old one could not be shown to be refused", legacy.user);
                find(findings, system.node(node), missing, "have the node ask for passwords (PostgreSQL: `scram-sha-256` in pg_hba.conf)");
            }
            Err(Denied::Password(_)) => {}
            Err(Denied::Otherwise(error)) if error.is_transient() => return Err(error),
            Err(Denied::Otherwise(error)) => find(findings, system.node(node), error.to_string(), "let the broker's host in with a password"),
        }
    }
    Ok(())
}

/// A whole turn: lent, with a session open; taken back; the session is gone.
async fn lend(system: &Checkout, legacy: &Legacy, probe: &AccountName, findings: &mut Vec<Finding>) -> Result<(), TargetError> {
    if !system.custody.take(&legacy.secret, probe).await.map_err(|error| kept(&error, Step::Verify))? {
        return Ok(());
    }
    let mut open = Vec::new();
    let secret = match system.hand_over(legacy).await {
        Ok(secret) => {
            open_everywhere(system, legacy, &secret, &mut open).await;
            Some(secret)
        }
        Err(error) if error.is_transient() => return Err(error),
        Err(error) => {
            find(findings, error.node(), error.to_string(), format!("bailiwick secret set {}", legacy.secret));
            None
        }
    };
    let account = Account { name: probe.clone(), ids: TargetIds::one(super::ACCOUNT, &legacy.user), secret, expires_at: None };
    let ending = super::ending::end(system, &account).await;
    for (node, mut inside) in open {
        if inside.takes_changes().await.is_ok() {
            let missing = format!("an open session of `{}` was not ended", legacy.user);
            find(findings, system.node(node), missing, "let the account end its own sessions");
        }
    }
    match ending {
        Ok(Ending::RevokedVerified { .. }) => Ok(()),
        Ok(ending) => {
            find(findings, "", format!("an end could not be verified: {ending:?}"), "let the broker log in to every node with a password");
            Ok(())
        }
        Err(error) if matches!(error.code(), TargetCode::Privilege | TargetCode::Refused) => {
            find(findings, error.node(), error.to_string(), "let the account change its own password");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn open_everywhere(system: &Checkout, legacy: &Legacy, secret: &Secret, open: &mut Vec<(usize, Box<dyn Inside>)>) {
    for node in 0..system.nodes.len() {
        if let Ok(inside) = system.target.log_in(node, &legacy.user, secret).await {
            open.push((node, inside));
        }
    }
}
