//! Could a call of this tool ever pass? Asked before there is a call: when a task is opened, and when its tools are listed.

use bailiwick_core::{Agent, PersonName, PolicyRef, Timestamp, ToolName};

use crate::engine::{Cast, Engine, Tool, Unanswerable, approvals, errors, request};
use crate::world::TaskFacts;

/// A task that may be opened, and a tool that it asks for.
#[derive(Clone, Copy, Debug)]
pub struct TaskQuestion<'a> {
    /// The agent. Its facts are those of the engine's world.
    pub agent: &'a Agent,
    /// On whose behalf.
    pub subject: &'a PersonName,
    /// What for.
    pub purpose: &'a str,
    /// The tool.
    pub tool: &'a ToolName,
    /// Who may approve the calls of such a task.
    pub approvers: &'a [PersonName],
    /// The time now. The answer holds for later too, so policies about time are taken as if they could say yes.
    pub now: Timestamp,
}

/// The answer: at most too wide, never too narrow, as each call is decided anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Possible {
    /// Some call could pass without anybody's approval.
    Free,
    /// Some call could pass if these approvers approved it, none without.
    WithApproval,
    /// No call can pass. The policies that forbid it; empty if simply none permits it.
    Never(Vec<PolicyRef>),
}

impl Engine {
    /// Could a call of this tool pass for some arguments, at some time, at some depth of delegation?
    #[must_use]
    pub fn possible(&self, question: TaskQuestion<'_>) -> Possible {
        let Some(tool) = self.tools.get(question.tool) else { return Possible::Never(Vec::new()) };
        let facts = TaskFacts {
            agent: question.agent.name.clone(),
            owner: question.agent.owner.clone(),
            subject: question.subject.clone(),
            purpose: question.purpose.to_owned(),
            depth: 0,
            chain: Vec::new(),
            component: None,
            undivided: false,
            model: None,
            model_attested: None,
        };
        let Ok(cast) = self.cast(facts, self.types.task("?"), tool) else { return Possible::Never(Vec::new()) };
        let mut forbidden = Vec::new();
        let steps: &[(&[PersonName], Possible)] = &[(&[], Possible::Free), (question.approvers, Possible::WithApproval)];
        for (approved, answer) in steps {
            match self.outline(&cast, tool, approved) {
                Ok(Outline::Passes) => return answer.clone(),
                Ok(Outline::Forbidden(by)) => forbidden = by,
                Ok(Outline::Silent) => forbidden.clear(),
                Err(_) => {}
            }
        }
        Possible::Never(forbidden)
    }

    fn outline(&self, cast: &Cast, tool: &Tool, approved: &[PersonName]) -> Result<Outline, Unanswerable> {
        let request = request(&cast.principal, tool, approvals(approved))?;
        let forbids = self.authorizer.is_authorized(&request, &tool.slice.outline_forbids, &cast.entities);
        let by = self.determining(&forbids);
        let broken = errors(&forbids);
        if !broken.is_empty() {
            return Err(Unanswerable::Evaluation(broken)); // it would break every call
        }
        if !by.is_empty() {
            return Ok(Outline::Forbidden(by));
        }
        let permits = self.authorizer.is_authorized(&request, &tool.slice.outline_permits, &cast.entities);
        // An error may come from a condition that stood behind one that was left out: it does not say no.
        let passes = permits.decision() == cedar_policy::Decision::Allow || permits.diagnostics().errors().next().is_some();
        Ok(if passes { Outline::Passes } else { Outline::Silent })
    }
}

enum Outline {
    Passes,
    Forbidden(Vec<PolicyRef>),
    Silent,
}
