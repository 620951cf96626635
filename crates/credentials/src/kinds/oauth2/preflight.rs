//! Whether the client gets a token of each right, and whether one can be ended as the configuration promises: done once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::exchange::{self, Token};
use super::{Grant, Inner, ending, refresh};
use crate::lease::{Account, AccountName, Ending, Finding, Step, TargetCode, TargetError};

const PROBE_LIFE: Duration = Duration::from_secs(600);
const AGENT: &str = "bailiwick preflight";

/// What is missing; nothing, if a token of each right was made, and the first of them ended as it must.
pub(super) async fn preflight(inner: &Arc<Inner>, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
    let mut findings = Vec::new();
    let mut ended = false;
    for (name, scopes) in &inner.settings.rights {
        let scopes: BTreeSet<String> = scopes.iter().cloned().collect();
        let token = match &inner.grant {
            Grant::ClientCredentials => exchange::client_credentials(inner, &scopes, AGENT).await,
            Grant::RefreshToken { .. } => refresh::token(inner, &scopes, AGENT).await,
        };
        let token = match token {
            Ok(token) => token,
            Err(error) if error.is_transient() || error.code() == TargetCode::Internal => return Err(error),
            Err(error) => {
                let remedy =
                    format!("let the client `{}` have the scope `{}`", inner.settings.client_id, scopes.into_iter().collect::<Vec<_>>().join(" "));
                find(&mut findings, error.node(), format!("no token for the right `{name}`: {error}"), remedy);
                continue;
            }
        };
        if ended {
            drop(exchange::revoke(inner, Step::Remove, &token.secret).await?);
        } else {
            ended = true;
            try_ending(inner, probe, token, &mut findings).await?;
        }
    }
    Ok(findings)
}

async fn try_ending(inner: &Inner, probe: &AccountName, token: Token, findings: &mut Vec<Finding>) -> Result<(), TargetError> {
    let expires_at = token.expires_at.or_else(|| Some(inner.clock.now().plus(PROBE_LIFE)));
    let minted = inner.remember(token).await?;
    let account = Account { name: probe.clone(), ids: minted.ids, secret: minted.secret, expires_at };
    let (endpoint, verified) = (inner.settings.revocation.as_ref(), inner.settings.probe.is_some());
    let node = endpoint.map_or("", |endpoint| endpoint.name());
    match ending::end(inner, &account).await {
        Ok(Ending::RevokedUnverified { why, .. }) if verified => {
            find(findings, node, format!("an end could not be verified: {why}"), "name a probe that tokens of each right may ask");
        }
        Ok(Ending::ExpiresAt { .. } | Ending::InjectionStopped { .. }) if endpoint.is_some() && verified => {
            let missing = "the server answers a revocation, and the token is accepted as before";
            let remedy = "let the server give opaque tokens, or leave the revocation endpoint out: credentials then end as `expires-at`";
            find(findings, node, missing, remedy);
        }
        Ok(_) => {}
        Err(error) if error.is_transient() || error.code() == TargetCode::Internal => return Err(error),
        Err(error) => find(findings, error.node(), error.to_string(), "let the client revoke its own tokens, and the probe answer"),
    }
    Ok(())
}

fn find(findings: &mut Vec<Finding>, node: &str, missing: impl Into<String>, remedy: impl Into<String>) {
    findings.push(Finding { node: node.to_owned(), missing: missing.into(), remedy: remedy.into() });
}
