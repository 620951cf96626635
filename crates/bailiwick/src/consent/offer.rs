//! What a person can allow a client: the tools that an agent of his or hers may ask for and policy could ever permit.

use bailiwick_core::{Agent, Effect, Person, ToolName};
use bailiwick_policy::{Possible, TaskQuestion};

use crate::house::House;

/// The most tools that one page offers. Fewer than a task may ask for at once.
pub const OFFERED_MAX: usize = 200;

/// A tool that can be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedTool {
    /// Its name.
    pub name: ToolName,
    /// Its effect.
    pub effect: Effect,
    /// Does every call of it wait for a person?
    pub waits: bool,
}

impl OfferedTool {
    /// Is it ticked unless the person says otherwise? What only looks, and what waits for a person at every call. What would act by
    /// itself, and what would hand a credential out, a person ticks knowingly.
    #[must_use]
    pub fn is_ticked(&self) -> bool {
        self.effect == Effect::Read || (self.waits && self.effect != Effect::Issue)
    }
}

/// What an agent could be given for an interactive client.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The tools, by name.
    pub tools: Vec<OfferedTool>,
    /// There are more than a page offers.
    pub cut: bool,
}

impl House {
    /// The agents that may work for interactive clients of this person, the one that is offered first in front.
    #[must_use]
    pub fn agents_for(&self, person: &Person) -> Vec<&Agent> {
        let (clients, now) = (&self.config.clients, self.clock.now());
        let all = self.config.agents.values().map(|entry| &entry.agent);
        let mut agents: Vec<&Agent> = all.filter(|agent| clients.may_work_for(agent, &person.name) && self.in_service(agent, now).is_ok()).collect();
        agents.sort_by_key(|agent| clients.default_agent.as_ref() != Some(&agent.name));
        agents
    }

    /// The tools that a person can allow this agent. `purpose` is what policy is told that they are for.
    #[must_use]
    pub fn offer(&self, agent: &Agent, person: &Person, purpose: &str) -> Offer {
        let Some(entry) = self.config.agents.get(&agent.name) else { return Offer { tools: Vec::new(), cut: false } };
        let (registry, engine, now) = (self.registry.load(), self.engine.load(), self.clock.now());
        let approvers = self.approvers(&agent.owner, &person.name);
        let mut tools: Vec<OfferedTool> = Vec::new();
        for tool in registry.tools().filter(|t| t.callable() && entry.tools.iter().any(|p| p.matches(&t.tool.name))) {
            let name = &tool.tool.name;
            let question = TaskQuestion { agent, subject: &person.name, purpose, tool: name, approvers: &approvers, now };
            let waits = match engine.possible(question) {
                Possible::Free => false,
                Possible::WithApproval => true,
                Possible::Never(_) => continue,
            };
            tools.push(OfferedTool { name: name.clone(), effect: tool.tool.effect, waits });
        }
        tools.sort_by(|a, b| a.name.cmp(&b.name));
        tools.dedup_by(|a, b| a.name == b.name);
        let cut = tools.len() > OFFERED_MAX;
        tools.truncate(OFFERED_MAX);
        Offer { tools, cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_by_itself_is_ticked_for_the_person() {
        let ticked = |effect, waits| OfferedTool { name: "s.t".parse().unwrap(), effect, waits }.is_ticked();
        assert!(ticked(Effect::Read, false) && ticked(Effect::Read, true) && ticked(Effect::Transfer, true));
        for effect in [Effect::Influence, Effect::Write, Effect::Delete, Effect::Transfer, Effect::Approve, Effect::Issue] {
            assert!(!ticked(effect, false), "{effect:?}");
        }
        assert!(!ticked(Effect::Issue, true));
    }
}
