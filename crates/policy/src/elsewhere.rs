//! Policies about things that are not ours: what another enforcement point asks (AuthZEN), in its own types, under policies of its own.
//!
//! There is no schema: subject, resource and action come as the enforcement point tells them. An attribute that a policy reads and that is
//! not there is an error, and any error is a denial, as everywhere.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use bailiwick_core::{Digest, PersonName, PolicyRef, Revision, Verdict};
use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet, Request, RestrictedExpression,
};
use serde_json::{Map, Value};

use crate::load::Source;

/// Values in the properties of one thing, at every depth.
const VALUES_MAX: usize = 256;
const DEPTH_MAX: usize = 8;
/// How many hex digits of the digest name a revision.
const REVISION_DIGITS: usize = 16;

/// A subject or a resource of another enforcement point.
#[derive(Clone, Debug, PartialEq)]
pub struct Thing {
    /// Its type, in the enforcement point's words.
    pub kind: String,
    /// Its id among those of its type.
    pub id: String,
    /// What is known of it.
    pub properties: Map<String, Value>,
}

/// A question of another enforcement point.
#[derive(Clone, Copy, Debug)]
pub struct ElsewhereQuestion<'a> {
    /// Who would do it.
    pub subject: &'a Thing,
    /// What would be done.
    pub action: &'a str,
    /// What is known of that: `context.action`.
    pub action_properties: &'a Map<String, Value>,
    /// To what.
    pub resource: &'a Thing,
    /// What else is known: `context.request`.
    pub context: &'a Map<String, Value>,
    /// Who has approved it: `context.approved`.
    pub approved: &'a [PersonName],
}

/// Policies in force for one enforcement point.
pub struct Elsewhere {
    authorizer: Authorizer,
    policies: PolicySet,
    refs: BTreeMap<PolicyId, PolicyRef>,
    revision: Revision,
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere").field("revision", &self.revision).field("policies", &self.refs.len()).finish_non_exhaustive()
    }
}

impl Elsewhere {
    /// Reads policies. All or nothing.
    ///
    /// # Errors
    /// The first problem, with its source.
    pub fn new(sources: &[Source]) -> Result<Self, String> {
        let mut policies = PolicySet::new();
        let mut refs = BTreeMap::new();
        for source in sources {
            let read: PolicySet = source.text.parse().map_err(|e| format!("{}: {e}", source.name))?;
            if read.templates().next().is_some() {
                return Err(format!("{}: templates are not supported", source.name));
            }
            for (number, policy) in read.policies().enumerate() {
                let id = policy.annotation("id").map_or_else(|| format!("{}#{}", source.name, number.saturating_add(1)), str::to_owned);
                let reason = policy.annotation("reason").filter(|text| !text.is_empty()).map(Arc::from);
                let renamed: Policy = policy.new_id(PolicyId::new(&id));
                refs.insert(renamed.id().clone(), PolicyRef { id: id.into(), reason });
                policies.add(renamed).map_err(|e| format!("{}: {e}", source.name))?;
            }
        }
        let parts: Vec<&[u8]> = sources.iter().map(|s| s.text.as_bytes()).collect();
        let revision: String = Digest::bind("bailiwick/elsewhere/v1", &parts).to_string().chars().take(REVISION_DIGITS).collect();
        Ok(Self { authorizer: Authorizer::new(), policies, refs, revision: revision.into() })
    }

    /// The revision in force.
    #[must_use]
    pub const fn revision(&self) -> &Revision {
        &self.revision
    }

    /// What the policies say to a question.
    #[must_use]
    pub fn ask(&self, question: ElsewhereQuestion<'_>) -> Verdict {
        match self.asked(question) {
            Ok(verdict) => verdict,
            Err(why) => Verdict::Error(why),
        }
    }

    fn asked(&self, question: ElsewhereQuestion<'_>) -> Result<Verdict, String> {
        let principal = entity(question.subject)?;
        let resource = entity(question.resource)?;
        let action = uid("Action", question.action)?;
        let approved = question.approved.iter().map(|name| RestrictedExpression::new_string(name.to_string()));
        let context = Context::from_pairs([
            ("action".to_owned(), record(question.action_properties)?),
            ("request".to_owned(), record(question.context)?),
            ("approved".to_owned(), RestrictedExpression::new_set(approved)),
        ])
        .map_err(|e| e.to_string())?;
        let request = Request::new(principal.uid(), action, resource.uid(), context, None).map_err(|e| e.to_string())?;
        // One that asks whether it may do something to itself is one entity.
        let mut all = vec![principal];
        if all.iter().all(|one| one.uid() != resource.uid()) {
            all.push(resource);
        }
        let entities = Entities::from_entities(all, None).map_err(|e| e.to_string())?;
        let response = self.authorizer.is_authorized(&request, &self.policies, &entities);
        // Cedar skips a policy that errors, a `forbid` too: law 4.
        let errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
        if !errors.is_empty() {
            return Err(errors.join("; "));
        }
        let mut reasons: Vec<PolicyRef> = response.diagnostics().reason().filter_map(|id| self.refs.get(id).cloned()).collect();
        reasons.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(match (response.decision(), reasons.is_empty()) {
            (Decision::Allow, _) => Verdict::Permit(reasons),
            (Decision::Deny, false) => Verdict::Forbid(reasons),
            (Decision::Deny, true) => Verdict::Silent,
        })
    }
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind: EntityTypeName = kind.parse().map_err(|_| "a type that no policy could name".to_owned())?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn entity(thing: &Thing) -> Result<Entity, String> {
    let mut left = VALUES_MAX;
    let attributes = pairs(&thing.properties, 0, &mut left)?.collect::<Result<HashMap<_, _>, _>>()?;
    Entity::new(uid(&thing.kind, &thing.id)?, attributes, HashSet::new()).map_err(|e| e.to_string())
}

fn record(properties: &Map<String, Value>) -> Result<RestrictedExpression, String> {
    let mut left = VALUES_MAX;
    record_at(properties, 0, &mut left)
}

fn record_at(properties: &Map<String, Value>, depth: usize, left: &mut usize) -> Result<RestrictedExpression, String> {
    let all = pairs(properties, depth, left)?.collect::<Result<Vec<_>, _>>()?;
    RestrictedExpression::new_record(all).map_err(|e| e.to_string())
}

type Pair = Result<(String, RestrictedExpression), String>;

fn pairs<'a>(properties: &'a Map<String, Value>, depth: usize, left: &'a mut usize) -> Result<impl Iterator<Item = Pair> + 'a, String> {
    if depth > DEPTH_MAX {
        return Err("properties are nested too deeply".to_owned());
    }
    Ok(properties.iter().filter_map(move |(name, value)| Some(value_of(value, depth, left)?.map(|value| (name.clone(), value)))))
}

/// A value as Cedar has it. A null is not there at all; a number with a fraction is its text.
fn value_of(value: &Value, depth: usize, left: &mut usize) -> Option<Result<RestrictedExpression, String>> {
    let Some(rest) = left.checked_sub(1) else { return Some(Err("there are too many properties".to_owned())) };
    *left = rest;
    Some(match value {
        Value::Null => return None,
        Value::Bool(is) => Ok(RestrictedExpression::new_bool(*is)),
        Value::Number(number) => Ok(match number.as_i64() {
            Some(whole) => RestrictedExpression::new_long(whole),
            None => RestrictedExpression::new_string(number.to_string()),
        }),
        Value::String(text) => Ok(RestrictedExpression::new_string(text.clone())),
        Value::Array(_) if depth >= DEPTH_MAX => Err("properties are nested too deeply".to_owned()),
        Value::Array(all) => {
            let all: Result<Vec<_>, _> = all.iter().filter_map(|one| value_of(one, depth.saturating_add(1), left)).collect();
            all.map(RestrictedExpression::new_set)
        }
        Value::Object(inner) => record_at(inner, depth.saturating_add(1), left),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const TEXT: &str = r#"
@id("readers") @reason("staff read") permit (principal is user, action == Action::"read", resource is record);
@id("no-secrets") forbid (principal, action, resource) when { resource has secret && resource.secret };
@id("approved") permit (principal, action == Action::"write", resource) when { context.approved.contains("ben") };
@id("broken") permit (principal, action == Action::"break", resource) when { resource.absent };
@id("broken-forbid") forbid (principal, action == Action::"break2", resource) when { resource.absent };
@id("break2") permit (principal, action == Action::"break2", resource);
"#;

    fn engine(text: &str) -> Result<Elsewhere, String> {
        Elsewhere::new(&[Source { name: "a.cedar".into(), text: text.into() }])
    }

    fn thing(kind: &str, id: &str, properties: Value) -> Thing {
        Thing { kind: kind.to_owned(), id: id.to_owned(), properties: properties.as_object().unwrap().clone() }
    }

    fn ask(action: &str, subject: &Thing, resource: &Thing, approved: &[PersonName]) -> Verdict {
        let none = Map::new();
        let question = ElsewhereQuestion { subject, action, action_properties: &none, resource, context: &none, approved };
        engine(TEXT).unwrap().ask(question)
    }

    #[test]
    fn policies_decide_about_types_that_we_do_not_know() {
        let (ana, book) = (thing("user", "ana", json!({})), thing("record", "1", json!({})));
        let Verdict::Permit(why) = ask("read", &ana, &book, &[]) else { panic!() };
        assert_eq!((&*why[0].id, why[0].reason.as_deref()), ("readers", Some("staff read")));
        assert!(matches!(ask("read", &ana, &thing("record", "1", json!({"secret": true})), &[]), Verdict::Forbid(_)));
        assert_eq!(ask("read", &thing("robot", "r", json!({})), &book, &[]), Verdict::Silent);
        assert_eq!(ask("write", &ana, &book, &[]), Verdict::Silent);
        assert!(matches!(ask("write", &ana, &book, &["ben".parse().unwrap()]), Verdict::Permit(_)));
        assert!(matches!(ask("read", &ana, &ana, &[]), Verdict::Silent));
    }

    #[test]
    fn an_error_denies_even_where_it_is_in_a_forbid() {
        let (ana, book) = (thing("user", "ana", json!({})), thing("record", "1", json!({})));
        for action in ["break", "break2"] {
            assert!(matches!(ask(action, &ana, &book, &[]), Verdict::Error(_)), "{action}");
        }
        for bad in ["", "a b", "user::", "1", "__cedar", "\u{e9}\""] {
            assert!(matches!(ask("read", &thing(bad, "ana", json!({})), &book, &[]), Verdict::Error(_) | Verdict::Silent), "{bad}");
        }
    }

    #[test]
    fn properties_are_values_and_never_entities_or_code() {
        let evil = json!({"__entity": {"type": "user", "id": "root"}, "__extn": {"fn": "ip", "arg": "x"}, "n": 1.5, "none": null, "list": [1, "a"]});
        assert!(matches!(ask("read", &thing("user", "ana", evil), &thing("record", "1", json!({})), &[]), Verdict::Permit(_)));
        let deep = (0..20).fold(json!({}), |inner, _| json!({ "a": inner }));
        let wide: Map<String, Value> = (0..300).map(|n| (n.to_string(), json!(1))).collect();
        for too_much in [deep, Value::Object(wide)] {
            assert!(matches!(ask("read", &thing("user", "ana", too_much), &thing("record", "1", json!({})), &[]), Verdict::Error(_)));
        }
    }

    #[test]
    fn policies_are_taken_all_or_not_at_all() {
        assert!(engine("permit (").is_err());
        assert!(engine("permit (principal == ?principal, action, resource);").is_err());
        assert!(engine("@id(\"a\") permit (principal, action, resource); @id(\"a\") permit (principal, action, resource);").is_err());
        assert_ne!(engine(TEXT).unwrap().revision(), engine("").unwrap().revision());
    }

    proptest! {
        #[test]
        fn whatever_is_asked_nothing_panics_and_no_policy_means_no(kind in "\\PC{0,12}", id in "\\PC{0,12}", action in "\\PC{0,12}", name in "\\PC{0,12}", text in "\\PC{0,12}") {
            let one = thing(&kind, &id, json!({ name: text }));
            let none = Map::new();
            let question = ElsewhereQuestion { subject: &one, action: &action, action_properties: &one.properties, resource: &one, context: &none, approved: &[] };
            prop_assert!(!matches!(engine("").unwrap().ask(question), Verdict::Permit(_)));
        }
    }
}
