//! A question of another enforcement point, and the part of it to which an approval is bound.

use std::collections::BTreeSet;

use bailiwick_core::Digest;
use bailiwick_policy::Thing;
use bailiwick_wire::{Limits, Raw, canonical};
use serde_json::{Map, Value, json};

/// A question, as it is sent.
#[derive(Clone, Debug)]
pub struct Asking {
    /// Who would do it.
    pub subject: Thing,
    /// What would be done.
    pub action: String,
    /// What is known of that.
    pub action_properties: Map<String, Value>,
    /// To what.
    pub resource: Thing,
    /// What else is known. What the access-request profile puts there is not among it.
    pub context: Map<String, Value>,
    /// The approval that is presented.
    pub approval: Option<Value>,
}

//= authzen-access-request-approval-profile-1_0#terminology
// Profile machinery members (access_request, evaluation_id, evaluated_at, and reason) are not authorization-relevant.
// So no policy sees them: what does not bind an approval must not decide.
const MACHINERY: [&str; 4] = ["access_request", "evaluation_id", "evaluated_at", "reason"];

impl Asking {
    /// Takes what the profile puts into the context out of it.
    pub(crate) fn without_machinery(mut self) -> Self {
        for name in MACHINERY {
            self.context.remove(name);
        }
        self.approval = self.context.remove("approval");
        self
    }

    /// The members of its context that bind an approval: all but those that are configured to change.
    pub(super) fn members(&self, volatile: &BTreeSet<String>) -> Vec<&str> {
        self.context.keys().filter(|name| !volatile.contains(*name)).map(String::as_str).collect()
    }

    /// Subject, resource, action and these members of the context.
    pub(super) fn scope(&self, members: &[&str]) -> Value {
        let context: Map<String, Value> =
            self.context.iter().filter(|(name, _)| members.contains(&name.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect();
        let mut action = json!({ "name": self.action });
        if let (Some(members), false) = (action.as_object_mut(), self.action_properties.is_empty()) {
            members.insert("properties".to_owned(), Value::Object(self.action_properties.clone()));
        }
        json!({ "subject": thing(&self.subject, None), "resource": thing(&self.resource, None), "action": action, "context": context })
    }

    /// What a denial's token binds; nothing if a number in it could be read as two.
    //= authzen-access-request-approval-profile-1_0#binding-token-integrity
    // a binding_hash whose value is the base64url-encoded (without padding) SHA-256 digest of the RFC8785 JSON Canonicalization Scheme
    // (JCS) serialization of the JSON object {"subject": <Subject>, "resource": <Resource>, "action": <Action>, "context":
    // <authorization-relevant Context>}, where <Subject> is the bound Subject with subject.properties.act removed
    pub(super) fn hash(&self, members: &[&str]) -> Option<Digest> {
        let mut scope = self.scope(members);
        if let Some(all) = scope.as_object_mut() {
            all.insert("subject".to_owned(), thing(&self.subject, Some("act")));
        }
        canonical_of(&scope).map(|bytes| Digest::of(&bytes))
    }
}

fn thing(thing: &Thing, without: Option<&str>) -> Value {
    let mut properties = thing.properties.clone();
    if let Some(name) = without {
        properties.remove(name);
    }
    if properties.is_empty() {
        return json!({ "type": thing.kind, "id": thing.id });
    }
    json!({ "type": thing.kind, "id": thing.id, "properties": properties })
}

/// One spelling for one value; none if a number in it is not exactly one number.
pub(super) fn canonical_of(value: &Value) -> Option<Vec<u8>> {
    let text = value.to_string();
    let raw = Raw::parse(text.as_bytes(), &Limits::REQUEST).ok()?;
    let mut out = Vec::with_capacity(text.len());
    let seen = canonical(raw, &mut out);
    (!seen.lossy_numbers).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asking(context: &Value) -> Asking {
        let of = |kind: &str, id: &str| Thing { kind: kind.to_owned(), id: id.to_owned(), properties: Map::new() };
        Asking {
            subject: of("user", "alice"),
            action: "purge".to_owned(),
            action_properties: Map::new(),
            resource: of("record", "r"),
            context: context.as_object().unwrap().clone(),
            approval: None,
        }
    }

    #[test]
    fn the_hash_is_that_of_the_profile() {
        let asked = asking(&json!({ "ip": "1.2.3.4", "time": "now" }));
        let expected =
            r#"{"action":{"name":"purge"},"context":{"ip":"1.2.3.4"},"resource":{"id":"r","type":"record"},"subject":{"id":"alice","type":"user"}}"#;
        assert_eq!(asked.hash(&["ip"]), Some(Digest::of(expected.as_bytes())));
    }

    #[test]
    fn the_actor_in_a_subject_is_not_hashed_and_is_bound_by_an_approval() {
        let mut with = asking(&json!({}));
        with.subject.properties.insert("act".to_owned(), json!({ "sub": "agent-1" }));
        let without = asking(&json!({}));
        assert_eq!(with.hash(&[]), without.hash(&[]));
        assert_ne!(with.scope(&[]), without.scope(&[]));
    }

    #[test]
    fn what_the_profile_adds_is_seen_by_no_policy() {
        let asked =
            asking(&json!({ "approval": { "id": "x" }, "reason": "r", "evaluation_id": "e", "evaluated_at": "t", "access_request": {}, "ip": 1 }));
        let clean = asked.without_machinery();
        assert_eq!(clean.context, *json!({ "ip": 1 }).as_object().unwrap());
        assert_eq!(clean.approval, Some(json!({ "id": "x" })));
    }

    #[test]
    fn a_number_that_is_two_numbers_is_never_bound() {
        assert!(asking(&json!({ "n": 9_007_199_254_740_993_u64 })).hash(&["n"]).is_none());
        assert!(asking(&json!({ "n": 9_007_199_254_740_991_u64 })).hash(&["n"]).is_some());
    }

    proptest! {
        #[test]
        fn whatever_differs_in_a_bound_member_differs_in_the_hash(a in "\\PC{0,20}", b in "\\PC{0,20}", volatile in "\\PC{0,20}") {
            let with = |value: &str, time: &str| asking(&json!({ "ip": value, "time": time })).hash(&["ip"]).unwrap();
            prop_assert_eq!(with(&a, "now") == with(&b, &volatile), a == b);
        }
    }
}
