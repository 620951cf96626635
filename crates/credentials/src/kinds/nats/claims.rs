//! The change of an account's JWT: what every node has and the caller remembers is carried on, one user is added, and every node takes it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::jwt::{Claims, open_account, sign};
use super::session::Session;
use super::{ASK_MAX, Nats, seconds};
use crate::lease::{Node, Step, TargetCode, TargetError};

/// What was changed.
pub(super) struct Change {
    /// Users that the caller remembers as revoked and that some node did not.
    pub(super) missing: Vec<String>,
    /// How many revocations the account's JWT has now.
    pub(super) count: usize,
}

/// Revokes `user`, if one is given, and whatever the caller remembers, on every node.
pub(super) async fn revoke(system: &Nats, sessions: &mut [(&Node, Session)], user: Option<&str>) -> Result<Change, TargetError> {
    let _turn = system.turn.lock().await;
    let mut held = Vec::new();
    for (node, session) in sessions.iter_mut() {
        held.push(look_up(system, node, session).await?);
    }
    let now = seconds(system.clock.now());
    // Later than any JWT that we signed can be issued, so that a clock that differs lets none through.
    let at = now.saturating_add(i64::try_from(system.settings.lease_max.as_secs()).unwrap_or(i64::MAX / 2));
    let mut wanted: BTreeMap<String, i64> = BTreeMap::new();
    for claims in &held {
        for (user, time) in revocations(claims) {
            let entry = wanted.entry(user).or_insert(time);
            *entry = time.max(*entry);
        }
    }
    let mut missing = BTreeSet::new();
    for remembered in system.remembered.revoked() {
        if seconds(remembered.expires_at) < now.saturating_sub(60) {
            wanted.remove(&remembered.user);
            continue;
        }
        if held.iter().any(|claims| !revocations(claims).any(|(user, _)| user == remembered.user)) {
            missing.insert(remembered.user.clone());
        }
        wanted.entry(remembered.user).or_insert(at);
    }
    if let Some(user) = user {
        let entry = wanted.entry(user.to_owned()).or_insert(at);
        *entry = at.max(*entry);
        missing.remove(user);
    }
    let count = wanted.len();
    let stands = held.iter().all(|claims| revocations(claims).collect::<BTreeMap<_, _>>() == wanted);
    if !stands {
        let newest = held.into_iter().max_by_key(issued_at).unwrap_or_default();
        push(system, sessions, newest, wanted, now).await?;
    }
    Ok(Change { missing: missing.into_iter().collect(), count })
}

/// Signs the newest claims with these revocations and gives them to every node.
async fn push(
    system: &Nats,
    sessions: &mut [(&Node, Session)],
    mut claims: Claims,
    wanted: BTreeMap<String, i64>,
    now: i64,
) -> Result<(), TargetError> {
    // Among nodes, the JWT that was issued last wins.
    claims.insert("iat".to_owned(), now.max(issued_at(&claims).saturating_add(1)).into());
    let wanted: Claims = wanted.into_iter().map(|(user, time)| (user, time.into())).collect();
    match claims.get_mut("nats").and_then(Value::as_object_mut) {
        Some(nats) => nats.insert("revocations".to_owned(), wanted.into()),
        None => return Err(TargetError::new(TargetCode::Protocol, Step::Remove, "", "the account's JWT has no claims of NATS")),
    };
    let jwt = sign(claims, &system.operator);
    for (node, session) in sessions.iter_mut() {
        let server = session.server().to_owned();
        let from_this = |bytes: &[u8]| {
            let answer: Value = serde_json::from_slice(bytes).ok()?;
            (answer.pointer("/server/id").and_then(Value::as_str) == Some(server.as_str())).then_some(answer)
        };
        let answer = session.run(Step::Remove, ASK_MAX, "$SYS.REQ.CLAIMS.UPDATE", &jwt, from_this).await?;
        if answer.pointer("/data/code").and_then(Value::as_i64) != Some(200) {
            let words = answer.pointer("/error/description").and_then(Value::as_str).unwrap_or("no reason given");
            let detail = format!("the server does not take the account's JWT: {words}");
            return Err(TargetError::new(TargetCode::Refused, Step::Remove, node.name(), &detail));
        }
    }
    Ok(())
}

/// The account's claims as a node has them; only if the operator signed them.
pub(super) async fn look_up(system: &Nats, node: &Node, session: &mut Session) -> Result<Claims, TargetError> {
    let subject = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", system.settings.account);
    let text = session.run(Step::Remove, ASK_MAX, &subject, "", |bytes| Some(String::from_utf8_lossy(bytes).into_owned())).await?;
    let mut operators = system.settings.operators.clone();
    operators.push(system.operator.public());
    open_account(&text, &system.settings.account, &operators).ok_or_else(|| {
        let detail =
            if text.is_empty() { "the server does not know the account" } else { "the account's JWT is not signed by the configured operator" };
        TargetError::new(TargetCode::Refused, Step::Remove, node.name(), detail)
    })
}

fn revocations(claims: &Claims) -> impl Iterator<Item = (String, i64)> {
    let map = claims.get("nats").and_then(|nats| nats.get("revocations")).and_then(Value::as_object);
    map.into_iter().flatten().map(|(user, time)| (user.clone(), time.as_i64().unwrap_or(0)))
}

fn issued_at(claims: &Claims) -> i64 {
    claims.get("iat").and_then(Value::as_i64).unwrap_or(0)
}
