//! Whether the app has what its rights promise, and whether a token can be ended: a token of each right is made, and ended.

use std::collections::BTreeMap;

use hyper::Method;
use serde::Deserialize;

use super::{GithubApp, Level, ending};
use crate::lease::{Account, AccountName, Ending, Finding, Step, TargetCode, TargetError};

/// The installation, as far as it is read.
#[derive(Deserialize)]
struct Installation {
    #[serde(default)]
    permissions: BTreeMap<String, String>,
    suspended_at: Option<String>,
}

/// What is missing; nothing, if a token of each right lived and died as it must.
pub(super) async fn preflight(system: &GithubApp, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
    let mut findings = Vec::new();
    let settings = &system.settings;
    let jwt = system.jwt()?;
    let question = GithubApp::question(Method::GET, format!("/app/installations/{}", settings.installation), "bailiwick preflight").bearer(&jwt);
    let reply = settings.api.ask(Step::Verify, question).await?;
    match reply.status {
        200 => {}
        401 => {
            let missing = format!("the app `{}` with this key is refused: {}", settings.client_id, reply.words(&["/message"], &[&jwt]));
            find(&mut findings, system, missing, "make a private key in the app's settings, and set it: bailiwick secret set NAME");
            return Ok(findings);
        }
        404 => {
            find(
                &mut findings,
                system,
                format!("the app has no installation {}", settings.installation),
                "install the app, and configure the number at the end of the installation's URL",
            );
            return Ok(findings);
        }
        _ => return Err(system.refusal(Step::Verify, &reply, &[&jwt])),
    }
    let installation: Installation =
        reply.json().ok_or_else(|| TargetError::new(TargetCode::Protocol, Step::Verify, settings.api.name(), "the answer is no installation"))?;
    if installation.suspended_at.is_some() {
        find(&mut findings, system, "the installation is suspended", "unsuspend it in the organisation's settings");
        return Ok(findings);
    }
    for (name, right) in &settings.rights {
        for (permission, level) in &right.permissions {
            let has = installation
                .permissions
                .get(permission)
                .and_then(|word| [Level::Read, Level::Write, Level::Admin].into_iter().find(|level| level.word() == word));
            if has.is_none_or(|has| has < *level) {
                let missing = format!("the right `{name}` needs the permission `{permission}: {}`", level.word());
                find(&mut findings, system, missing, "give it to the app, and accept it for the installation");
            }
        }
    }
    if findings.is_empty() {
        try_rights(system, probe, &mut findings).await?;
    }
    Ok(findings)
}

async fn try_rights(system: &GithubApp, probe: &AccountName, findings: &mut Vec<Finding>) -> Result<(), TargetError> {
    for (name, right) in &system.settings.rights {
        let tried = async {
            let minted = system.mint_token(right, "bailiwick preflight").await?;
            let account = Account { name: probe.clone(), ids: minted.ids, secret: minted.secret, expires_at: minted.expires_at };
            ending::end(system, &account).await
        };
        match tried.await {
            Ok(Ending::RevokedVerified { .. }) => {}
            Ok(ending) => {
                find(findings, system, format!("an end was `{}` instead of `revoked-verified`", ending.word()), "let the app's own requests through")
            }
            Err(error) if error.is_transient() || error.code() == TargetCode::Internal => return Err(error),
            Err(error) => {
                let missing = format!("no token for the right `{name}`: {error}");
                find(findings, system, missing, "let the installation have these repositories, and leave the others out of the right");
            }
        }
    }
    Ok(())
}

fn find(findings: &mut Vec<Finding>, system: &GithubApp, missing: impl Into<String>, remedy: impl Into<String>) {
    findings.push(Finding { node: system.settings.api.name().to_owned(), missing: missing.into(), remedy: remedy.into() });
}
