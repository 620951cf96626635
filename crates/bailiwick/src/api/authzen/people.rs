//! What people may do at the broker itself, told to an enforcement point that may ask: the rules of the API, by the functions that the API uses.

use bailiwick_core::{AgentName, HoldId, Person, PersonName, PolicyRef, Role, TaskId};
use bailiwick_policy::TaskQuestion;
use bailiwick_store::StoreError;

use super::super::asker::{answers_for, ends_task, has, sees_task};
use super::super::holds::sees_hold;
use crate::approve::may_refuse;
use crate::authzen::{Asker, Asking, Evaluated, Point};
use crate::house::House;

/// Types that begin so are the broker's own. No policy of an enforcement point can name one.
const OURS: &str = "bailiwick:";

/// What the broker says of a thing of its own. None: it is none, and the enforcement point's policies decide.
pub(super) async fn judged(house: &House, point: &Point, asking: &Asking) -> Result<Option<Evaluated>, StoreError> {
    let Some(kind) = asking.resource.kind.strip_prefix(OURS) else { return Ok(None) };
    let no = Ok(Some(Evaluated::Deny(Vec::new())));
    if !point.entry.asks_about_people || asking.subject.kind != "user" {
        return no;
    }
    let Asker::Person(name) = house.asker_elsewhere(point, &asking.subject) else { return no };
    let Some(person) = house.person(name.as_str()) else { return no };
    if !may(house, &person, &asking.action, kind, &asking.resource.id).await? {
        return no;
    }
    let rule = PolicyRef { id: format!("{OURS}{kind}.{}", asking.action).into(), reason: None };
    Ok(Some(Evaluated::Permit(vec![rule])))
}

/// May this person do that here? Nobody may do what is not listed, nor anything to what is not there or not his or hers to see.
async fn may(house: &House, person: &Person, action: &str, kind: &str, id: &str) -> Result<bool, StoreError> {
    Ok(match kind {
        "hold" => on_hold(house, person, action, id).await?,
        "task" => match id.parse::<TaskId>() {
            Ok(id) => house.store.task(id).await?.is_some_and(|row| match action {
                "read" => sees_task(person, &row.task),
                "revoke" => sees_task(person, &row.task) && ends_task(person, &row.task),
                _ => false,
            }),
            Err(_) => false,
        },
        "agent" => id.parse::<AgentName>().ok().and_then(|name| house.agent(name.as_str())).is_some_and(|agent| match action {
            "own" => agent.owner == person.name,
            "read" => answers_for(person, agent, &[Role::Operator, Role::Auditor]),
            "enrol" | "revoke" => answers_for(person, agent, &[Role::Operator]),
            _ => false,
        }),
        "tool" => match action {
            "review" => house.registry.load().tool(id).is_some() && has(person, &[Role::Reviewer]),
            "use" => uses(house, person, id),
            _ => false,
        },
        "person" => {
            id.parse::<PersonName>().is_ok_and(|name| house.config.people.contains_key(&name) || house.directory.names().contains(&name))
                && match action {
                    "disable" | "enable" | "invite" => has(person, &[Role::Operator]),
                    "sign_out" => id == person.name.as_str() || has(person, &[Role::Operator]),
                    _ => false,
                }
        }
        "ledger" => action == "read" && id == "entries" && has(person, &[Role::Auditor]),
        _ => false,
    })
}

async fn on_hold(house: &House, person: &Person, action: &str, id: &str) -> Result<bool, StoreError> {
    let Ok(id) = id.parse::<HoldId>() else { return Ok(false) };
    let Some(hold) = house.store.hold(id).await?.filter(|hold| sees_hold(person, hold)) else { return Ok(false) };
    let now = house.clock.now();
    Ok(match action {
        "read" => true,
        "approve" => hold.may_decide(person, house.config.owner_may_approve, hold.digest, now).is_ok(),
        "refuse" => may_refuse(&hold, person, hold.digest, now).is_ok(),
        _ => false,
    })
}

/// Could a task of an agent that this person owns be granted the tool, as policy is now? The call itself may still have to wait for people.
fn uses(house: &House, person: &Person, tool: &str) -> bool {
    let registry = house.registry.load();
    let Some(tool) = registry.tool(tool) else { return false };
    let (engine, now) = (house.engine.load(), house.clock.now());
    let approvers = house.approvers(&person.name, &person.name);
    house.config.agents.values().filter(|entry| entry.agent.owner == person.name && house.in_service(&entry.agent, now).is_ok()).any(|entry| {
        let (agent, name) = (&entry.agent, &tool.tool.name);
        let question = TaskQuestion { agent, subject: &person.name, purpose: &agent.purpose, tool: name, approvers: &approvers, now };
        entry.tools.iter().any(|pattern| pattern.matches(name)) && house.ever(&engine, question, tool).is_ok()
    })
}
