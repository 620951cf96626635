//! Whether our keys and our own user can do all that an end needs: a probe is signed, let in, revoked and refused on every node.

use std::time::Duration;

use serde_json::Value;

use super::nkey::{Key, Role};
use super::session::Session;
use super::{Nats, SUBJECTS, claims, connections, ending, jwt, nkey};
use crate::kinds::finding::Findings;
use crate::lease::{Account, AccountName, Ending, Finding, Plan, Step, Tag, TargetCode, TargetError};

const PROBE_LIFE: Duration = Duration::from_secs(60);

/// What is missing; nothing, if a probe lived and died as it must.
pub(super) async fn preflight(system: &Nats, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
    let mut findings = Findings::default();
    for node in &system.settings.nodes {
        // A connection for each question: after a refusal, a server may close it.
        let mut session = match Session::open(node, &system.system_jwt, &system.system, "bailiwick").await {
            Ok(session) => session,
            Err(failure) => {
                findings.note(super::target(&failure, Step::Connect, node.name()), "give the broker a user of the system account")?;
                continue;
            }
        };
        let allow = || format!("let this user of the system account publish to {}, and subscribe to _INBOX.>", SUBJECTS.join(", "));
        match claims::look_up(system, Step::Verify, node, &mut session).await {
            // A server takes a JWT of the system account's user whoever signed it, and does not heed it. So we push none before the account
            // has one that shows that our key is heeded.
            Ok(claims) if claims.get("iss").and_then(Value::as_str) != Some(&system.operator.public()) => {
                let detail = "the account's JWT is signed by another key of the operator: nothing shows that the servers trust ours";
                let error = TargetError::new(TargetCode::Refused, Step::Verify, node.name(), detail);
                let remedy = format!("sign the account with {} once, and push it", system.operator.public());
                findings.note(error, remedy)?;
            }
            Ok(_) => {
                if let Err(error) = connections(&mut session, Step::List, &system.settings.account).await {
                    findings.note(error, allow())?;
                }
            }
            Err(error) => {
                let signed = error.to_string().contains("operator");
                let remedy = if signed { "name the key that signed it among the operator's keys".to_owned() } else { allow() };
                findings.note(error, remedy)?;
            }
        }
    }
    if findings.is_empty() {
        try_probe(system, probe, &mut findings).await?;
    }
    Ok(findings.into_list())
}

/// A whole life: signed, let in on every node, revoked, refused.
async fn try_probe(system: &Nats, probe: &AccountName, findings: &mut Findings) -> Result<(), TargetError> {
    let seed = nkey::fresh_seed()?;
    let expires_at = system.clock.now().plus(PROBE_LIFE.min(system.settings.lease_max));
    let tag = Tag { task: "preflight".to_owned(), agent: "bailiwick".to_owned(), expires_at };
    let minted = system.mint_user(&Plan { name: probe.clone(), tag, rights: Vec::new() }, &seed)?;
    let jwt = minted.secret.as_ref().and_then(|secret| jwt::jwt_in(secret.expose())).unwrap_or_default().to_owned();
    let key = Key::from_seed(seed.expose(), Role::User);
    let key = key.ok_or_else(|| TargetError::new(TargetCode::Internal, Step::Mint, "", "a fresh seed is no seed"))?;
    let mut open = Vec::new();
    for node in &system.settings.nodes {
        match Session::open(node, &jwt, &key, "bailiwick verify").await {
            Ok(session) => open.push((node, session)),
            Err(failure) => {
                findings.note(super::target(&failure, Step::Verify, node.name()), "configure a key that may sign users of the account")?
            }
        }
    }
    let account = Account { name: probe.clone(), ids: minted.ids, secret: Some(seed), expires_at: Some(expires_at) };
    match ending::end(system, &account).await {
        Ok(Ending::RevokedVerified { .. }) => {}
        Ok(ending) => {
            let error = TargetError::new(TargetCode::Refused, Step::Verify, "", &format!("a probe's end is only `{}`", ending.word()));
            findings.note(error, "configure a key that may sign users of the account")?;
        }
        Err(error) => findings.note(error, "use a full resolver, and an operator's key that it trusts")?,
    }
    for (node, mut session) in open {
        if session.answers().await {
            let error = TargetError::new(TargetCode::Refused, Step::Kill, node.name(), "an open connection of a probe was not ended");
            findings.note(error, "upgrade the server")?;
        }
    }
    Ok(())
}
