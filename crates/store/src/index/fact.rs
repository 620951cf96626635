//! What an entry says that it can be found by: read from its own bytes, so that an answer can be held against the entry itself.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// What an entry can be found by, besides its index, its time, its call and its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Field {
    /// The kind of the entry, as its body says: `intent`, `outcome`, `denial`, `hold`, `hold_step`, `task_opened`, ...
    Kind = 1,
    /// The SPIFFE ID of an agent that acts, or stands in the chain.
    Agent,
    /// The running copy.
    Instance,
    /// Who answers for the agent.
    Owner,
    /// On whose behalf.
    Subject,
    /// Who gave an approval.
    Approver,
    /// Who was asked for one.
    Asked,
    /// Who refused, ended or changed something.
    By,
    /// Owner, subject, approver, or who refused, ended or changed something.
    Person,
    /// The system.
    System,
    /// The tool.
    Tool,
    /// The effect; `act` for every effect but `read`.
    Effect,
    /// Where a call goes.
    Target,
    /// What became of it: `done`, `failed`, `unknown`, `not_sent`, `denied`, `held`, `approved`, `refused`, `closed`, ...
    Outcome,
    /// The code of a denial or a failure.
    Code,
    /// The policy revision in force.
    Revision,
    /// A determining policy.
    Policy,
    /// The name of a secret, the id of a lease, the `jti` of a token.
    Credential,
    /// A label.
    Label,
    /// The id of a hold, an incident or a lease.
    Thing,
    /// The slug of an incident or of an entry about the broker itself.
    What,
}

impl Field {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::Kind,
        Self::Agent,
        Self::Instance,
        Self::Owner,
        Self::Subject,
        Self::Approver,
        Self::Asked,
        Self::By,
        Self::Person,
        Self::System,
        Self::Tool,
        Self::Effect,
        Self::Target,
        Self::Outcome,
        Self::Code,
        Self::Revision,
        Self::Policy,
        Self::Credential,
        Self::Label,
        Self::Thing,
        Self::What,
    ];

    /// As it stands in the index. Changing one is a new version of the index.
    pub(super) const fn number(self) -> i64 {
        self as i64
    }

    /// Does what becomes of a call say this too, although only the call's own entry has it in writing?
    const fn is_inherited(self) -> bool {
        !matches!(self, Self::Kind | Self::Outcome | Self::Code | Self::Thing | Self::What | Self::Asked)
    }
}

/// One thing that an entry says.
pub type Fact = (Field, String);

/// The word for every effect but `read`.
pub const ACT: &str = "act";

/// The longest value that is kept, in bytes; of a longer one the beginning.
const VALUE_MAX: usize = 256;
/// Members of one list that are looked at.
const LIST_MAX: usize = 256;

/// A value as it stands in the index.
pub(super) fn kept(value: &str) -> &str {
    let mut end = VALUE_MAX.min(value.len());
    while !value.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    value.get(..end).unwrap_or_default()
}

/// Where the rest of what is true of an entry stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// In the intent at this index.
    Intent(u64),
    /// In the opening of the task with this id.
    Task(String),
    /// In the intent of the call with this id.
    Call(String),
    /// It says all itself.
    Nowhere,
}

/// What one entry says.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) said: Vec<Fact>,
    /// Milliseconds since the epoch, if it says when.
    pub(super) at: Option<i64>,
    /// Alike entries that were not written before this one.
    pub(super) repeats: u64,
    /// The tasks that it is about.
    pub(super) tasks: Vec<String>,
    /// The calls that it is about.
    pub(super) calls: Vec<String>,
    pub(super) rest: Rest,
}

impl Facts {
    /// Reads an entry. One that is no JSON object says nothing.
    pub(super) fn of(body: &[u8]) -> Self {
        let body: Members<'_> = serde_json::from_slice(body).unwrap_or_default();
        let mut reading = Reading { said: Vec::with_capacity(24) };
        reading.all(&body);
        let mut said = reading.said;
        said.sort_unstable();
        said.dedup();
        let owned = said.iter().any(|(field, _)| *field == Field::Owner);
        let (task, call) = (body.text("task"), body.text("call"));
        let rest = match (body.number("intent"), &task, &call) {
            (Some(intent), ..) if body.text("kind").as_deref() == Some("outcome") => Rest::Intent(intent),
            (_, Some(task), _) if !owned => Rest::Task(task.to_string()),
            (_, None, Some(call)) if !owned => Rest::Call(call.to_string()),
            _ => Rest::Nowhere,
        };
        let all = |one: Option<Cow<'_, str>>, many: &str| {
            one.map(Cow::into_owned).into_iter().chain(body.list(many).iter().filter_map(Value::as_str).map(str::to_owned)).collect()
        };
        Self {
            at: body.text("at").and_then(|at| bailiwick_core::Timestamp::parse(&at).ok()).map(bailiwick_core::Timestamp::as_millis),
            repeats: body.number("repeats").unwrap_or_default(),
            tasks: all(task, "tasks"),
            calls: all(call, "calls"),
            said,
            rest,
        }
    }

    /// What is true of whatever follows from this entry.
    pub(super) fn inherited(self) -> impl Iterator<Item = Fact> {
        self.said.into_iter().filter(|(field, _)| field.is_inherited())
    }

    pub(super) fn says(&self, field: Field, value: &str) -> bool {
        self.said.iter().any(|(f, v)| *f == field && v == kept(value))
    }
}

/// The members of an entry, each as it stands: most are looked at once or not at all.
#[derive(Default)]
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(28);
                while let Some(name) = map.next_key::<Name<'de>>()? {
                    members.push((name.0, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Object)
    }
}

/// The name of a member, borrowed where nothing in it is escaped.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Members<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rfind(|(n, _)| n == name).map(|(_, raw)| raw.get())
    }

    /// A text that is not empty.
    fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        let Name(text) = serde_json::from_str(self.get(name)?).ok()?;
        (!text.is_empty()).then_some(text)
    }

    fn number(&self, name: &str) -> Option<u64> {
        serde_json::from_str(self.get(name)?).ok()
    }

    fn value(&self, name: &str) -> Option<Value> {
        serde_json::from_str(self.get(name)?).ok()
    }

    fn list(&self, name: &str) -> Vec<Value> {
        let mut list: Vec<Value> = self.get(name).and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default();
        list.truncate(LIST_MAX);
        list
    }
}

fn text<'a>(body: &'a Value, name: &str) -> Option<&'a str> {
    body.get(name)?.as_str().filter(|t| !t.is_empty())
}

struct Reading {
    said: Vec<Fact>,
}

impl Reading {
    fn say(&mut self, field: Field, value: &str) {
        if !value.is_empty() {
            self.said.push((field, kept(value).to_owned()));
        }
    }

    fn person(&mut self, field: Field, name: &str) {
        self.say(field, name);
        self.say(Field::Person, name);
    }

    fn all(&mut self, body: &Members<'_>) {
        let kind = body.text("kind").unwrap_or_default();
        self.say(Field::Kind, &kind);
        for (name, field) in [
            ("agent", Field::Agent),
            ("instance", Field::Instance),
            ("system", Field::System),
            ("target", Field::Target),
            ("code", Field::Code),
            ("revision", Field::Revision),
            ("token", Field::Credential),
            ("credential", Field::Credential),
            ("secret", Field::Credential),
            ("lease", Field::Credential),
            ("lease", Field::Thing),
            ("hold", Field::Thing),
            ("incident", Field::Thing),
            ("what", Field::What),
        ] {
            if let Some(value) = body.text(name) {
                self.say(field, &value);
            }
        }
        for (name, field) in [
            ("actors", Field::Agent),
            ("injects", Field::Credential),
            ("labels", Field::Label),
            ("resources", Field::Target),
            ("people", Field::Asked),
        ] {
            body.list(name).iter().filter_map(Value::as_str).for_each(|value| self.say(field, value));
        }
        self.tool(body);
        self.people(body);
        self.outcome(&kind, body);
        for policy in &body.list("policies") {
            self.say(Field::Policy, policy.as_str().or_else(|| text(policy, "id")).unwrap_or_default());
        }
        for ending in &body.list("endings") {
            self.say(Field::System, text(ending, "system").unwrap_or_default());
            for name in ["lease", "credential", "secret"] {
                self.say(Field::Credential, text(ending, name).unwrap_or_default());
            }
        }
        if let Some(opened) = &body.value("opened") {
            self.say(Field::Agent, text(opened, "spiffe_id").unwrap_or_default());
            self.say(Field::Instance, text(opened, "instance").unwrap_or_default());
            self.person(Field::Owner, text(opened, "owner").unwrap_or_default());
            self.person(Field::Subject, text(opened, "subject").unwrap_or_default());
        }
    }

    fn tool(&mut self, body: &Members<'_>) {
        if let Some(tool) = body.text("tool") {
            self.say(Field::Tool, &tool);
            if let Some((system, _)) = tool.split_once('.') {
                self.say(Field::System, system);
            }
        }
        if let Some(effect) = body.text("effect") {
            self.say(Field::Effect, &effect);
            if effect != "read" {
                self.say(Field::Effect, ACT);
            }
        }
    }

    fn people(&mut self, body: &Members<'_>) {
        self.person(Field::Owner, &body.text("owner").unwrap_or_default());
        self.person(Field::Subject, &body.text("subject").unwrap_or_default());
        let given = body.list("approvals").into_iter().chain(body.value("approval"));
        given.for_each(|approval| self.person(Field::Approver, text(&approval, "person").unwrap_or_default()));
        match body.text("by").as_deref() {
            // What a tool's effect comes from, when no person looked at it.
            None | Some("configuration" | "proposal") => {}
            Some(agent) if agent.starts_with("spiffe://") => self.say(Field::Agent, agent),
            Some(person) => self.person(Field::By, person),
        }
    }

    fn outcome(&mut self, kind: &str, body: &Members<'_>) {
        let of = |name: &str| body.text(name).unwrap_or_default();
        match kind {
            "outcome" => self.say(Field::Outcome, &of("result")),
            "denial" => self.say(Field::Outcome, "denied"),
            "hold" => self.say(Field::Outcome, "held"),
            "hold_step" => self.say(Field::Outcome, &of("step")),
            "task_ended" => self.say(Field::Outcome, &of("state")),
            "tool" => self.say(Field::Outcome, &of("status")),
            "house" => match &*of("what") {
                "secret_set" | "secret_removed" | "secret_rotated" | "secret_lost" | "token_revoked" => self.say(Field::Credential, &of("name")),
                "policy" => self.say(Field::Revision, &of("digest")),
                _ => {}
            },
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(body: &str, field: Field) -> Vec<String> {
        Facts::of(body.as_bytes()).said.into_iter().filter(|(f, _)| *f == field).map(|(_, v)| v).collect()
    }

    #[test]
    fn a_permitted_call_is_found_by_everything_that_it_names() {
        let body = r#"{"v":1,"kind":"intent","at":"1970-01-01T00:00:01.000Z","call":"call_1","task":"task_1","agent":"spiffe://td/agent/a",
            "actors":["spiffe://td/agent/b"],"instance":"inst_1","subject":"sam","owner":"ana","token":"tok_1","tool":"shop.refund_order",
            "effect":"transfer","target":"stdio:shop","revision":"r1","policies":[{"id":"p1","reason":"x"}],"injects":["shop.TOKEN"],
            "hold":"hold_1","approvals":[{"person":"ben"}],"labels":["pii"]}"#;
        let facts = Facts::of(body.as_bytes());
        for (field, value) in [
            (Field::Kind, "intent"),
            (Field::Agent, "spiffe://td/agent/a"),
            (Field::Agent, "spiffe://td/agent/b"),
            (Field::System, "shop"),
            (Field::Effect, "transfer"),
            (Field::Effect, ACT),
            (Field::Credential, "tok_1"),
            (Field::Credential, "shop.TOKEN"),
            (Field::Policy, "p1"),
            (Field::Label, "pii"),
            (Field::Thing, "hold_1"),
        ] {
            assert!(facts.says(field, value), "{field:?} {value}");
        }
        assert_eq!(values(body, Field::Person), ["ana", "ben", "sam"]);
        assert_eq!((facts.at, facts.rest), (Some(1000), Rest::Nowhere));
    }

    #[test]
    fn an_outcome_points_to_its_intent_and_an_end_to_the_opening_of_its_task() {
        assert_eq!(Facts::of(br#"{"kind":"outcome","intent":7,"result":"failed"}"#).rest, Rest::Intent(7));
        assert_eq!(Facts::of(br#"{"kind":"task_ended","task":"task_1","state":"closed"}"#).rest, Rest::Task("task_1".to_owned()));
        assert_eq!(Facts::of(br#"{"kind":"texts_read","call":"call_1","by":"ana"}"#).rest, Rest::Call("call_1".to_owned()));
    }

    #[test]
    fn an_erasure_is_about_each_task_and_call_that_it_names() {
        let facts = Facts::of(br#"{"kind":"erasure","by":"ana","tasks":["task_1","task_2"],"calls":["call_1"]}"#);
        assert_eq!((facts.tasks, facts.calls), (vec!["task_1".to_owned(), "task_2".to_owned()], vec!["call_1".to_owned()]));
    }

    #[test]
    fn what_a_tools_effect_comes_from_is_nobody() {
        assert!(values(r#"{"kind":"tool","by":"configuration"}"#, Field::Person).is_empty());
        assert_eq!(values(r#"{"kind":"tool","by":"rea"}"#, Field::Person), ["rea"]);
    }

    #[test]
    fn what_is_no_entry_says_nothing_whatever_it_is() {
        for bad in ["", "null", "[1]", "\"x\"", "{\"kind\":7,\"agent\":{},\"policies\":{},\"approvals\":\"x\",\"intent\":-1}", "\u{0}\u{ff}"] {
            let facts = Facts::of(bad.as_bytes());
            assert!(facts.said.is_empty() && facts.rest == Rest::Nowhere, "{bad}: {facts:?}");
        }
    }

    #[test]
    fn a_long_value_is_kept_by_its_beginning_and_found_by_the_whole() {
        let long = "\u{e9}".repeat(400);
        let facts = Facts::of(format!(r#"{{"kind":"denial","tool":"{long}"}}"#).as_bytes());
        assert!(facts.says(Field::Tool, &long) && facts.said.iter().all(|(_, v)| v.len() <= VALUE_MAX));
    }
}
