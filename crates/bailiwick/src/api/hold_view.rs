//! What the pages show of held calls, gathered from the hold, its task and the ledger.

use std::collections::HashMap;
use std::time::Duration;

use bailiwick_core::hold::HoldState;
use bailiwick_core::{ApprovalError, ApprovalKind, Hold, TaskId, Timestamp};
use bailiwick_store::EntryRow;
use serde_json::Value;

use super::holds::{seen, shown, visible};
use super::problem::Problem;
use super::web::SignedIn;
use crate::house::House;
use crate::pages::{
    ApprovalMade, ApprovalsView, EarlierCall, Ending, HoldLine, HoldView, Moment, PasskeyAsk, Permission, Reason, Requester, Standing,
};

/// Lines of each part of the list.
const LINES_MAX: usize = 100;
/// Earlier calls that the page shows, the latest ones.
const EARLIER_MAX: usize = 50;
/// Entries of a task that are looked through.
const ENTRIES_MAX: usize = 20_000;
const PAGE: usize = 1000;

/// The list of held calls for a person.
pub(super) async fn approvals_view(house: &House, by: &SignedIn) -> Result<ApprovalsView, Problem> {
    let now = house.clock.now();
    let all = visible(house, &by.person, None, usize::MAX).await?;
    let (waiting, ended): (Vec<_>, Vec<_>) = all.iter().partition(|h| h.waits(now));
    let lines = |holds: &[&Hold]| holds.iter().take(LINES_MAX).map(|h| hold_line(house, by, h, now)).collect();
    Ok(ApprovalsView { viewer: by.viewer(), waiting: lines(&waiting), waiting_total: waiting.len(), ended: lines(&ended), ended_total: ended.len() })
}

fn hold_line(house: &House, by: &SignedIn, hold: &Hold, now: Timestamp) -> HoldLine {
    HoldLine {
        hold: hold.id.to_string(),
        agent: hold.agent.to_string(),
        subject: hold.subject.to_string(),
        system: hold.tool.system().to_owned(),
        tool: hold.tool.to_string(),
        effect: hold.effect,
        target: hold.target.clone(),
        requested: moment(hold.at, now),
        expires: moment(hold.expires_at, now),
        state: hold.state.word().to_owned(),
        for_viewer: hold.may_decide(&by.person, house.config.owner_may_approve, hold.digest, now).is_ok(),
    }
}

/// One held call for a person.
pub(super) async fn hold_view(house: &House, by: &SignedIn, hold: &Hold, on_site: bool) -> Result<HoldView, Problem> {
    let now = house.clock.now();
    let row = house.store.task(hold.task).await?;
    let labels = row.as_ref().map(|row| row.labels.iter().map(ToString::to_string).collect()).unwrap_or_default();
    let task = row.map(|row| row.task);
    let of_call = house.store.entries_of_call(hold.call).await?;
    let opened = of_call.iter().map(|row| (row.index, body(row))).find(|(_, b)| is(b, "kind", "hold") && is(b, "hold", &hold.id.to_string()));
    let before = opened.as_ref().map_or(u64::MAX, |(index, _)| *index);
    let earlier = earlier(house, hold.task, before).await?;
    Ok(HoldView {
        viewer: by.viewer(),
        hold: hold.id.to_string(),
        requester: Requester {
            agent: hold.agent.to_string(),
            spiffe_id: task.as_ref().map(|t| t.spiffe_id.to_string()).unwrap_or_default(),
            owner: hold.owner.to_string(),
            subject: hold.subject.to_string(),
            task: hold.task.to_string(),
            purpose: task.map(|t| t.purpose).unwrap_or_default(),
            labels,
        },
        system: hold.tool.system().to_owned(),
        tool: hold.tool.to_string(),
        effect: hold.effect,
        target: hold.target.clone(),
        arguments: shown(hold),
        arguments_bytes: hold.arguments.len(),
        digest: hold.digest.to_string(),
        reasons: reasons(hold, opened.as_ref().map(|(_, b)| b)),
        revision: hold.revision.clone(),
        approvers: hold.people.iter().map(ToString::to_string).collect(),
        approvals_needed: hold.count,
        approvals: hold.approvals.iter().map(|a| made(a, now)).collect(),
        requested: moment(hold.at, now),
        expires: moment(hold.expires_at, now),
        earlier_total: earlier.len(),
        earlier: earlier.into_iter().rev().take(EARLIER_MAX).rev().collect(),
        standing: standing(house, by, hold, now, on_site),
        passkey: passkey(house, by, hold, now, on_site),
    })
}

fn made(approval: &bailiwick_core::Approval, now: Timestamp) -> ApprovalMade {
    ApprovalMade {
        person: approval.person.to_string(),
        own_request: approval.kind == ApprovalKind::OwnRequest,
        proof: approval.proof.clone(),
        at: moment(approval.at, now),
    }
}

/// The policies of the entry that held it; the words of the hold if that entry is not there.
fn reasons(hold: &Hold, opened: Option<&Value>) -> Vec<Reason> {
    let policies = opened.and_then(|b| b.get("policies")?.as_array()).into_iter().flatten();
    let found: Vec<Reason> = policies.map(|p| Reason { policy: text(p, "id"), words: text(p, "reason") }).collect();
    if found.is_empty() && !hold.reasons.is_empty() {
        return vec![Reason { policy: String::new(), words: hold.reasons.clone() }];
    }
    found
}

/// How the person's passkey signs a yes: where there is one, and the browser looks at the page under the address that it was made for.
fn passkey(house: &House, by: &SignedIn, hold: &Hold, now: Timestamp, on_site: bool) -> Option<PasskeyAsk> {
    if !on_site || !hold.waits(now) {
        return None;
    }
    let ask = house.ask_decision(&by.session, hold.id, hold.digest, seen(hold))?;
    Some(PasskeyAsk { options: ask.options, ticket: ask.ticket })
}

fn standing(house: &House, by: &SignedIn, hold: &Hold, now: Timestamp, on_site: bool) -> Standing {
    let over = |by: Option<String>, reason: Option<String>, at: Timestamp| {
        Standing::Over(Ending { word: hold.state.word().to_owned(), by, reason: reason.filter(|r| !r.is_empty()), at: moment(at, now), entry: None })
    };
    match &hold.state {
        HoldState::Pending if now >= hold.expires_at => {
            Standing::Over(Ending { word: "expired".to_owned(), by: None, reason: None, at: moment(hold.expires_at, now), entry: None })
        }
        HoldState::Pending => Standing::Open(permission(house, by, hold, now, on_site)),
        HoldState::Approved { at } => {
            let people: Vec<String> = hold.approvals.iter().map(|a| a.person.to_string()).collect();
            over(Some(people.join(", ")), None, *at)
        }
        HoldState::Refused { by, reason, at } => over(Some(by.to_string()), Some(reason.clone()), *at),
        HoldState::Expired { at } | HoldState::Withdrawn { at } | HoldState::Consumed { at, .. } => over(None, None, *at),
    }
}

fn permission(house: &House, by: &SignedIn, hold: &Hold, now: Timestamp, on_site: bool) -> Permission {
    let refused = |why: &str| Permission::Refused(why.to_owned());
    let eligible = hold.may_decide(&by.person, house.config.owner_may_approve, hold.digest, now).is_ok();
    if eligible && house.needs_passkey(hold) && passkey(house, by, hold, now, on_site).is_none() {
        let site = house.passkey_site().and_then(|s| s.origins.into_iter().next());
        return Permission::Refused(match site {
            Some(site) if !on_site => format!("An approval of this call must be signed with a passkey: open it at {site}."),
            Some(_) => "An approval of this call must be signed with a passkey: register one first, under /account.".to_owned(),
            None => "An approval of this call must be signed with a passkey, and there are none here.".to_owned(),
        });
    }
    match hold.may_decide(&by.person, house.config.owner_may_approve, hold.digest, now) {
        Ok(ApprovalKind::SecondPerson) => Permission::Granted,
        Ok(ApprovalKind::OwnRequest) => Permission::OwnRequest,
        Err(ApprovalError::OwnRequest) => {
            refused("It is your own request: you own the agent, or the work is done for you. Another approver decides.")
        }
        Err(ApprovalError::NotEligible) if hold.approvals.iter().any(|a| a.person == by.person.name) => {
            refused("You approved it already; others are asked.")
        }
        Err(_) => refused("Your approval would not release this call."),
    }
}

/// The calls of a task before an entry, oldest first.
async fn earlier(house: &House, task: TaskId, before: u64) -> Result<Vec<EarlierCall>, Problem> {
    let mut calls: Vec<(u64, EarlierCall)> = Vec::new();
    let mut outcomes: HashMap<u64, String> = HashMap::new();
    let (mut from, mut seen) = (0, 0usize);
    while seen < ENTRIES_MAX {
        let page = house.store.entries_of_task(task, from, PAGE).await?;
        for row in &page {
            let body = body(row);
            if is(&body, "kind", "outcome") {
                outcomes.insert(body.get("intent").and_then(Value::as_u64).unwrap_or(u64::MAX), text(&body, "result"));
            } else if row.index < before && (is(&body, "kind", "intent") || is(&body, "kind", "denial")) {
                calls.push((row.index, earlier_call(row.index, &body)));
            }
        }
        seen = seen.saturating_add(page.len());
        match page.last() {
            Some(last) if page.len() == PAGE => from = last.index.saturating_add(1),
            _ => break,
        }
    }
    for (index, call) in &mut calls {
        if let Some(result) = outcomes.get(index) {
            call.outcome = format!("allowed, {result}");
        }
    }
    Ok(calls.into_iter().map(|(_, call)| call).collect())
}

fn earlier_call(index: u64, body: &Value) -> EarlierCall {
    let tool = text(body, "tool");
    EarlierCall {
        at: text(body, "at"),
        system: tool.split('.').next().unwrap_or_default().to_owned(),
        effect: text(body, "effect").parse().unwrap_or(bailiwick_core::Effect::Read),
        target: text(body, "target"),
        outcome: if is(body, "kind", "denial") { format!("denied, {}", text(body, "code")) } else { "allowed, no outcome yet".to_owned() },
        entry: index.to_string(),
        tool,
    }
}

fn body(row: &EntryRow) -> Value {
    serde_json::from_slice(&row.body).unwrap_or(Value::Null)
}

fn text(body: &Value, name: &str) -> String {
    body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn is(body: &Value, name: &str, value: &str) -> bool {
    body.get(name).and_then(Value::as_str) == Some(value)
}

/// A point in time as people say it.
pub(super) fn moment(at: Timestamp, now: Timestamp) -> Moment {
    let words = if at > now { format!("in {}", span(now.until(at))) } else { format!("{} ago", span(at.until(now))) };
    Moment { at: at.to_string(), words }
}

fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_said_from_now() {
        let at = Timestamp::from_seconds;
        let words = |a: i64, n: i64| moment(at(a), at(n)).words;
        assert_eq!(words(600, 0), "in 10 minutes");
        assert_eq!(words(0, 1), "1 second ago");
        assert_eq!(words(0, 3 * 86_400), "3 days ago");
        assert_eq!(words(7300, 0), "in 2 hours");
    }
}
