//! Why policy says what it says about a call: every policy that could have mattered, and what it said.

use std::fmt;

use bailiwick_core::{Bound, Call, Facts, Policy as _, PolicyRef, Verdict};
use cedar_policy::{Effect, PolicySet};

use crate::engine::{Engine, errors};

/// What one policy said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matched {
    /// It matched, so it counts.
    Yes,
    /// It did not match.
    No,
    /// It could not be evaluated, which denies the call.
    Error(String),
}

/// One policy that could have mattered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The policy.
    pub policy: PolicyRef,
    /// True for `permit`.
    pub permits: bool,
    /// What it said.
    pub matched: Matched,
}

/// The answer to one question with all that led to it. `Display` says it in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The answer.
    pub verdict: Verdict,
    /// Every policy about this tool, by id. Empty if the question could not be put at all.
    pub policies: Vec<Explained>,
}

impl Engine {
    /// Asks about a call, and each policy by itself.
    #[must_use]
    pub fn explain(&self, call: &Call<Bound>, facts: Facts<'_>) -> Explanation {
        let verdict = self.ask(call, facts);
        let Ok((tool, cast, request)) = self.question(call, facts) else { return Explanation { verdict, policies: Vec::new() } };
        let explained = |policy: &cedar_policy::Policy| {
            let mut alone = PolicySet::new();
            let matched = match alone.add(policy.clone()) {
                Err(error) => Matched::Error(error.to_string()),
                Ok(()) => {
                    let response = self.authorizer.is_authorized(&request, &alone, &cast.entities);
                    match errors(&response).first() {
                        Some(error) => Matched::Error(error.clone()),
                        None if response.diagnostics().reason().next().is_some() => Matched::Yes,
                        None => Matched::No,
                    }
                }
            };
            Explained { policy: self.reference(policy.id()), permits: policy.effect() == Effect::Permit, matched }
        };
        let mut policies: Vec<Explained> = tool.slice.policies.policies().map(explained).collect();
        policies.sort_by(|a, b| a.policy.id.cmp(&b.policy.id));
        Explanation { verdict, policies }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Permit(_) => writeln!(f, "permitted")?,
            Verdict::Forbid(_) => writeln!(f, "forbidden")?,
            Verdict::Silent => writeln!(f, "denied: no policy permits it")?,
            Verdict::Error(error) => writeln!(f, "denied: {error}")?,
        }
        for Explained { policy, permits, matched } in &self.policies {
            let effect = if *permits { "permit" } else { "forbid" };
            match matched {
                Matched::Yes => write!(f, "  matched         {effect} `{}`", policy.id)?,
                Matched::No => write!(f, "  did not match   {effect} `{}`", policy.id)?,
                Matched::Error(error) => write!(f, "  error           {effect} `{}`: {error}", policy.id)?,
            }
            match &policy.reason {
                Some(reason) => writeln!(f, ": {reason}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
