//! The change of an account's JWT: what every node has is read back and carried on, users are added, and every node takes it.
//!
//! A revocation is a time: what was issued until then is refused. Ours is a time that never comes, and in its lower bits it says until when it is
//! needed, so that any process that has the keys can take it out, and nobody takes out those of others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use futures_util::future::join_all;
use serde_json::Value;

use super::jwt::{Claims, open_account, sign};
use super::session::Session;
use super::{ASK_MAX, Nats, seconds};
use crate::lease::{AccountName, Node, Step, TargetCode, TargetError};

/// The bits that say until when a revocation is needed: seconds until the year 2242.
const UNTIL_BITS: u32 = 33;
/// What stands above them in ours. Together they stay below 2^53, so that every reader of JSON has them exactly.
const OURS: i64 = 0xb_a111 << UNTIL_BITS;

/// A revocation of ours.
fn lasting(until: i64) -> i64 {
    OURS | until.clamp(0, (1 << UNTIL_BITS) - 1)
}

/// Until when it is needed, if it is one of ours.
fn until(revocation: i64) -> Option<i64> {
    (revocation >> UNTIL_BITS == OURS >> UNTIL_BITS).then_some(revocation & ((1 << UNTIL_BITS) - 1))
}

/// What was changed.
pub(super) struct Change {
    /// Users that were ended before, and that some node would have let in again.
    pub(super) missing: Vec<String>,
    /// How many revocations the account's JWT has now.
    pub(super) count: usize,
    /// What kept nodes from it.
    pub(super) trouble: Vec<TargetError>,
}

/// Revokes every user that is remembered as ended, on every node of the sessions. `user` is the one that is ended now. Nodes that could not be told are taken
/// out of the sessions.
pub(super) async fn revoke(system: &Nats, sessions: &mut Vec<(&Node, Session)>, user: Option<&str>) -> Result<Change, TargetError> {
    let _turn = system.turn.lock().await;
    let mut trouble = Vec::new();
    let looked = join_all(sessions.iter_mut().map(|(node, session)| look_up(system, Step::Remove, node, session))).await;
    let held = keep(sessions, looked, &mut trouble);
    let now = seconds(system.clock.now());
    let (wanted, mut missing) = wanted(system, &held, now);
    missing.retain(|missing| user != Some(missing));
    let count = wanted.len();
    let stands = held.iter().all(|claims| revocations(claims).collect::<BTreeMap<_, _>>() == wanted);
    if !stands {
        let newest = held.into_iter().max_by_key(issued_at).unwrap_or_default();
        let jwt = signed(system, newest, wanted, now)?;
        let pushed = join_all(sessions.iter_mut().map(|(node, session)| push(node, session, &jwt))).await;
        keep(sessions, pushed, &mut trouble);
    }
    Ok(Change { missing: missing.into_iter().collect(), count, trouble })
}

/// Keeps the sessions where it went well; gives what they gave.
fn keep<T>(sessions: &mut Vec<(&Node, Session)>, results: Vec<Result<T, TargetError>>, trouble: &mut Vec<TargetError>) -> Vec<T> {
    let mut results = results.into_iter();
    let mut given = Vec::new();
    sessions.retain(|_| match results.next() {
        Some(Ok(result)) => {
            given.push(result);
            true
        }
        Some(Err(error)) => {
            trouble.push(error);
            false
        }
        None => false,
    });
    given
}

/// The revocations that the account's JWT must have, and whom of the ended some node would let in.
fn wanted(system: &Nats, held: &[Claims], now: i64) -> (BTreeMap<String, i64>, BTreeSet<String>) {
    let mut wanted: BTreeMap<String, i64> = BTreeMap::new();
    for (user, time) in held.iter().flat_map(revocations) {
        let entry = wanted.entry(user).or_insert(time);
        *entry = time.max(*entry);
    }
    let mut missing = BTreeSet::new();
    let ended = system.ended.lock().unwrap_or_else(PoisonError::into_inner);
    for (user, ended) in ended.iter() {
        if held.iter().any(|claims| !is_revoked(claims, user, ended.at)) {
            missing.insert(user.clone());
        }
        let entry = wanted.entry(user.clone()).or_insert(0);
        *entry = lasting(ended.until).max(*entry);
    }
    wanted.retain(|_, time| until(*time).is_none_or(|until| until >= now));
    (wanted, missing)
}

/// Whom of the ended a node with these claims would let in again.
pub(super) fn back(system: &Nats, claims: &Claims) -> Vec<(String, AccountName)> {
    let now = seconds(system.clock.now());
    let ended = system.ended.lock().unwrap_or_else(PoisonError::into_inner);
    let back = ended.iter().filter(|(user, ended)| ended.until >= now && !is_revoked(claims, user, ended.at));
    back.map(|(user, ended)| (user.clone(), ended.name.clone())).collect()
}

/// Is every JWT of the user refused that was issued until `issued`? A revocation with an earlier time is none.
fn is_revoked(claims: &Claims, user: &str, issued: i64) -> bool {
    let map = claims.get("nats").and_then(|nats| nats.get("revocations"));
    map.and_then(|map| map.get(user)).and_then(Value::as_i64).is_some_and(|time| time >= issued)
}

/// The newest claims with these revocations, signed.
fn signed(system: &Nats, mut claims: Claims, wanted: BTreeMap<String, i64>, now: i64) -> Result<String, TargetError> {
    // Among nodes, the JWT that was issued last wins.
    claims.insert("iat".to_owned(), now.max(issued_at(&claims).saturating_add(1)).into());
    let wanted: Claims = wanted.into_iter().map(|(user, time)| (user, time.into())).collect();
    match claims.get_mut("nats").and_then(Value::as_object_mut) {
        Some(nats) => nats.insert("revocations".to_owned(), wanted.into()),
        None => return Err(TargetError::new(TargetCode::Protocol, Step::Remove, "", "the account's JWT has no claims of NATS")),
    };
    Ok(sign(claims, &system.operator))
}

/// Gives a node the account's JWT; it takes it.
async fn push(node: &Node, session: &mut Session, jwt: &str) -> Result<(), TargetError> {
    if jwt.len() > session.payload_max() {
        let detail = format!("the account's JWT has {} bytes with its revocations, and the server takes {}", jwt.len(), session.payload_max());
        return Err(TargetError::new(TargetCode::Refused, Step::Remove, node.name(), &detail));
    }
    let server = session.server().to_owned();
    let from_this = |bytes: &[u8]| {
        let answer: Value = serde_json::from_slice(bytes).ok()?;
        (answer.pointer("/server/id").and_then(Value::as_str) == Some(server.as_str())).then_some(answer)
    };
    let answer = session.run(Step::Remove, ASK_MAX, "$SYS.REQ.CLAIMS.UPDATE", jwt, from_this).await?;
    if answer.pointer("/data/code").and_then(Value::as_i64) == Some(200) {
        return Ok(());
    }
    let words = answer.pointer("/error/description").and_then(Value::as_str).unwrap_or("no reason given");
    let detail = format!("the server does not take the account's JWT: {words}");
    Err(TargetError::new(TargetCode::Refused, Step::Remove, node.name(), &detail))
}

/// The account's claims as a node has them; only if the operator signed them.
pub(super) async fn look_up(system: &Nats, step: Step, node: &Node, session: &mut Session) -> Result<Claims, TargetError> {
    let subject = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", system.settings.account);
    let text = session.run(step, ASK_MAX, &subject, "", |bytes| Some(String::from_utf8_lossy(bytes).into_owned())).await?;
    let mut operators = system.settings.operators.clone();
    operators.push(system.operator.public());
    open_account(&text, &system.settings.account, &operators).ok_or_else(|| {
        let detail =
            if text.is_empty() { "the server does not know the account" } else { "the account's JWT is not signed by the configured operator" };
        TargetError::new(TargetCode::Refused, step, node.name(), detail)
    })
}

fn revocations(claims: &Claims) -> impl Iterator<Item = (String, i64)> {
    let map = claims.get("nats").and_then(|nats| nats.get("revocations")).and_then(Value::as_object);
    map.into_iter().flatten().map(|(user, time)| (user.clone(), time.as_i64().unwrap_or(0)))
}

fn issued_at(claims: &Claims) -> i64 {
    claims.get("iat").and_then(Value::as_i64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn account(revoked: &Value) -> Claims {
        json!({ "nats": { "revocations": revoked } }).as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn a_revocation_with_a_time_before_the_issue_is_none() {
        for (revoked, expected) in [(json!({ "U": 100 }), true), (json!({ "U": 99 }), false), (json!({ "U": 0 }), false), (json!({}), false)] {
            assert_eq!(is_revoked(&account(&revoked), "U", 100), expected, "{revoked}");
        }
        for odd in [json!({ "U": "100" }), json!({ "U": 1e99 }), json!([100]), json!(null)] {
            assert!(!is_revoked(&account(&odd), "U", 100), "{odd}");
        }
        assert!(is_revoked(&account(&json!({ "U": lasting(0) })), "U", 4_000_000_000));
    }

    proptest! {
        #[test]
        fn ours_is_known_again_by_whoever_reads_json_and_those_of_others_are_none(time in 0..1_i64 << UNTIL_BITS, other in 0..OURS) {
            prop_assert_eq!(until(lasting(time)), Some(time));
            prop_assert_eq!(until(other), None);
            prop_assert!(lasting(time) < 1 << 53 && lasting(time) > 1 << UNTIL_BITS);
            let read: f64 = lasting(time).to_string().parse().unwrap();
            prop_assert_eq!(format!("{read:.0}"), lasting(time).to_string());
        }
    }
}
