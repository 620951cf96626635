//! What a ledger entry says, as compact JSON with a fixed order of members. Each kind has its own version, in `v`.
//!
//! Arguments and results are never in it, only their keyed and salted digests, so that personal data can be erased and the tree still
//! verifies. Version 2 of `intent`, `outcome` and `hold` says that the digests are salted, and until when a text is kept.

use bailiwick_core::{
    Approval, CallId, ComponentName, Digest, Effect, EndReason, HoldId, IncidentId, InstanceId, Labels, LeaseId, PersonName, PolicyRef, SpiffeId,
    TaskId, Timestamp, ToolName,
};
use serde::Serialize;

/// The body of an entry.
#[derive(Serialize)]
struct Envelope<'a, T: Serialize> {
    v: u8,
    kind: &'static str,
    at: Timestamp,
    #[serde(flatten)]
    body: &'a T,
}

/// Encodes an entry. The order of members is the order of the type's fields.
#[must_use]
pub fn encode<T: Body>(at: Timestamp, body: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(768);
    // A struct of strings and numbers always serialises. Were one that does not to come, its kind and time are on record all the same,
    // and that the rest is missing.
    if let Err(error) = serde_json::to_writer(&mut out, &Envelope { v: T::VERSION, kind: T::WORD, at, body }) {
        tracing::error!(%error, kind = T::WORD, "an entry could not be encoded whole");
        let broken = serde_json::json!({ "v": T::VERSION, "kind": T::WORD, "at": at.to_string(), "unencodable": true });
        out = broken.to_string().into_bytes();
    }
    out
}

/// A type that can be an entry's body.
pub trait Body: Serialize {
    /// The word in `kind`.
    const WORD: &'static str;
    /// The version of this kind's schema, in `v`.
    const VERSION: u8;
}

/// Every word that can stand in `kind`.
pub const WORDS: &[&str] = &[
    "intent",
    "outcome",
    "denial",
    "hold",
    "hold_step",
    "task_opened",
    "labelled",
    "task_ended",
    "tool",
    "incident",
    "house",
    "shard",
    "erasure",
    "texts_read",
    "evaluation",
    "pruned",
    "lease",
    "person",
    "agent",
];

macro_rules! body {
    ($type:ty, $word:literal) => {
        body!($type, $word, 1);
    };
    ($type:ty, $word:literal, $version:literal) => {
        impl Body for $type {
            const WORD: &'static str = $word;
            const VERSION: u8 = $version;
        }
    };
}

/// Who acts: the chain from the person to the running copy.
#[derive(Debug, Serialize)]
pub struct Who<'a> {
    /// The current actor.
    pub agent: &'a SpiffeId,
    /// The component of it, if one acts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<&'a ComponentName>,
    /// A bundle of components acts that nobody told apart.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub undivided: bool,
    /// The running copy.
    pub instance: InstanceId,
    /// On whose behalf.
    pub subject: &'a PersonName,
    /// Who answers.
    pub owner: &'a PersonName,
    /// The actors before, nearest first, each with its running copy; their tasks and owners stand in the entry that opened the task.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub actors: &'a [SpiffeId],
    /// The `jti` of the token.
    pub token: &'a str,
}

/// A permitted call.
#[derive(Debug, Serialize)]
pub struct Intent<'a> {
    /// The call.
    pub call: CallId,
    /// Its task.
    pub task: TaskId,
    /// Who acts.
    #[serde(flatten)]
    pub who: Who<'a>,
    /// The tool.
    pub tool: &'a ToolName,
    /// Its effect.
    pub effect: Effect,
    /// The pinned definition's digest.
    pub definition: Digest,
    /// Where it goes.
    pub target: &'a str,
    /// Keyed and salted digest of the exact bytes of the arguments.
    pub arguments: Digest,
    /// Their length in bytes.
    pub arguments_bytes: usize,
    /// Keyed and salted digest of what the client brought back to the system's questions (`requestState`, `inputResponses`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brought: Option<Digest>,
    /// Until when their text is to be kept, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<Timestamp>,
    /// What permit and approval are bound to.
    pub digest: Digest,
    /// The policy revision in force.
    pub revision: &'a str,
    /// The determining policies.
    pub policies: &'a [PolicyRef],
    /// The hold whose approval is spent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldId>,
    /// The approvals that are spent.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub approvals: &'a [Approval],
    /// The names of the sealed secrets that are injected into it.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub injects: &'a [&'a str],
    /// The lease of the credential with which it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// The labels that the task carried when it was decided.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: &'a Labels,
    /// W3C trace context of the client, if it sent one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<&'a str>,
}
body!(Intent<'_>, "intent", 2);

/// What became of an intent.
#[derive(Debug, Serialize)]
pub struct Outcome<'a> {
    /// The call.
    pub call: CallId,
    /// The index of its intent.
    pub intent: u64,
    /// `done`, `failed` (the system said so), `unknown`, `not_sent`.
    pub result: &'a str,
    /// The error code, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'a str>,
    /// Keyed and salted digest of the answer's bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Digest>,
    /// Their length in bytes.
    pub answer_bytes: usize,
    /// Until when their text is to be kept, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<Timestamp>,
    /// What the client answered to the system's questions in the middle of the call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<Told>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}
body!(Outcome<'_>, "outcome", 2);

/// An answer of a client to a question that a system asked in the middle of a call.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// The question's method, such as `elicitation/create`.
    pub method: String,
    /// Keyed and salted digest of the answer's bytes.
    pub answer: Digest,
}

/// A denied call, or several alike.
#[derive(Debug, Serialize)]
pub struct Denial<'a> {
    /// The last call.
    pub call: CallId,
    /// Its task.
    pub task: TaskId,
    /// Who acts.
    #[serde(flatten)]
    pub who: Who<'a>,
    /// The name that was asked for.
    pub tool: &'a str,
    /// Why.
    pub code: &'a str,
    /// Why, in words.
    pub detail: &'a str,
    /// The policy revision in force.
    pub revision: &'a str,
    /// The determining policies.
    pub policies: &'a [PolicyRef],
    /// The labels that the task carries.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: &'a Labels,
    /// Alike denials that were not written one by one before this one.
    pub repeats: u64,
}
body!(Denial<'_>, "denial");

/// A call that waits for people.
#[derive(Debug, Serialize)]
pub struct HoldOpened<'a> {
    /// The hold.
    pub hold: HoldId,
    /// The call.
    pub call: CallId,
    /// Its task.
    pub task: TaskId,
    /// Who acts.
    #[serde(flatten)]
    pub who: Who<'a>,
    /// The tool.
    pub tool: &'a ToolName,
    /// Its effect.
    pub effect: Effect,
    /// What an approval is bound to.
    pub digest: Digest,
    /// Keyed and salted digest of the arguments' bytes.
    pub arguments: Digest,
    /// Until when their text is to be kept, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<Timestamp>,
    /// Whose approval counts.
    pub people: &'a [PersonName],
    /// How many are needed.
    pub count: usize,
    /// The policy revision in force.
    pub revision: &'a str,
    /// The determining policies.
    pub policies: &'a [PolicyRef],
    /// The labels that the task carried when it was decided.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: &'a Labels,
    /// Until when.
    pub expires_at: Timestamp,
}
body!(HoldOpened<'_>, "hold", 2);

/// A hold went on: a yes, a no, or an end without either.
#[derive(Debug, Serialize)]
pub struct HoldDecided<'a> {
    /// The hold.
    pub hold: HoldId,
    /// The call that was held first.
    pub call: CallId,
    /// Its task.
    pub task: TaskId,
    /// `approval`, `approved`, `refused`, `expired`, `withdrawn`.
    pub step: &'a str,
    /// The approval that was added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<&'a Approval>,
    /// Who refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'a PersonName>,
    /// Why, in that person's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
}
body!(HoldDecided<'_>, "hold_step");

/// A task was opened.
#[derive(Debug, Serialize)]
pub struct TaskOpened<'a> {
    /// The task, whole.
    pub task: TaskId,
    /// What it is.
    pub opened: &'a bailiwick_core::Task,
    /// What was asked for and not granted, with the reason.
    pub narrowed: &'a [Narrowed],
    /// The labels with which it begins: those of the task that it is a part of, or of the tasks of the running copy whose model opened it.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: &'a Labels,
    /// The policy revision in force.
    pub revision: &'a str,
    /// The consent by which a person opened it for a client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consent: Option<&'a crate::consent::Consent>,
}
body!(TaskOpened<'_>, "task_opened");

/// Something that was asked for and not granted.
#[derive(Clone, Debug, Serialize)]
pub struct Narrowed {
    /// What was asked for.
    pub asked: String,
    /// Why it was not granted, in words.
    pub reason: String,
}

/// A task, the whole that it is a part of, and all parts of that carry labels from here on: it is about to be given what bears them.
#[derive(Debug, Serialize)]
pub struct Labelled<'a> {
    /// The task that asked.
    pub task: TaskId,
    /// The whole that it is a part of, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole: Option<TaskId>,
    /// The permitted call that asks for it, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<CallId>,
    /// The tool or operation whose answers bear them; `task_call` where a model brought them along from other tasks of its running copy.
    pub tool: &'a str,
    /// Those that are new.
    pub labels: &'a Labels,
}
body!(Labelled<'_>, "labelled");

/// A task goes towards its end.
#[derive(Debug, Serialize)]
pub struct TaskEnded<'a> {
    /// The task.
    pub task: TaskId,
    /// `closing` or `closed`.
    pub state: &'a str,
    /// Why.
    pub reason: EndReason,
    /// Who ended it, where a person or its agent did; the task with which it ended, for a part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'a str>,
    /// What was taken away that it rested on, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'a str>,
    /// How each credential that it used ended.
    pub endings: &'a [Ending],
    /// Endings that found no room here; each lease's own entry has its own.
    #[serde(skip_serializing_if = "is_zero")]
    pub endings_cut: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}
body!(TaskEnded<'_>, "task_ended");

/// How a system's credential ended for a task.
#[derive(Clone, Debug, Serialize)]
pub struct Ending {
    /// The system.
    pub system: String,
    /// The lease, if the credential was made for the task; its own entry has the evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// `revoked-verified`, `revoked-unverified`, `expires-at`, `injection-stopped` (the broker uses it for no further call of the task), or
    /// `by-hand` (a person said so).
    pub ending: String,
}

/// A tool was seen, classified or quarantined.
#[derive(Debug, Serialize)]
pub struct ToolChanged<'a> {
    /// The tool.
    pub tool: &'a ToolName,
    /// The definition's digest.
    pub definition: Digest,
    /// The digest that was pinned before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Digest>,
    /// `classified`, `review`, `quarantined`.
    pub status: &'a str,
    /// Its effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// `configuration`, `proposal`, or the person who looked at it.
    pub by: &'a str,
    /// What was found in the definition.
    pub findings: &'a [String],
}
body!(ToolChanged<'_>, "tool");

/// Something that should not have happened.
#[derive(Debug, Serialize)]
pub struct Incident<'a> {
    /// Its id.
    pub incident: IncidentId,
    /// A slug.
    pub what: &'a str,
    /// The agent concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<&'a SpiffeId>,
    /// The task concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// In words.
    pub detail: &'a str,
}
body!(Incident<'_>, "incident");

/// The broker itself.
#[derive(Debug, Serialize)]
pub struct House<'a> {
    /// A slug: `started`, `stopped`, `policy`, `secret_set`, `secret_removed`, `secret_rotated`, `secret_lost`, `token_revoked`,
    /// `store_recovered`, `root_key_rotation_begun`, `root_key_rotated`, `listed`, `texts_searched` (by a person: what was looked for is not said).
    pub what: &'a str,
    /// Who or what it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// A digest or revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<&'a str>,
}
body!(House<'_>, "house");

/// A shard begins: the ledger goes on under another name and key, over the same entries.
#[derive(Debug, Serialize)]
pub struct ShardBegun<'a> {
    /// Its number.
    pub number: u64,
    /// Its origin.
    pub origin: &'a str,
    /// Its public key.
    pub vkey: &'a str,
    /// The origin of the shard before.
    pub old_origin: &'a str,
    /// The public key of the shard before.
    pub old_vkey: &'a str,
    /// The last head of the shard before over exactly the entries before this one, as it was signed.
    pub old_head: &'a str,
    /// The furthest signed head of the shard before that was seen anywhere.
    pub known: &'a str,
    /// What was found that could not be continued.
    pub found: &'a [String],
    /// Why it was begun, in the operator's words.
    pub reason: &'a str,
}
body!(ShardBegun<'_>, "shard");

/// Somebody had texts erased. It says which by their ids, never what stood in them.
#[derive(Debug, Serialize)]
pub struct Erasure<'a> {
    /// Who.
    pub by: &'a PersonName,
    /// Why, in that person's words.
    pub reason: &'a str,
    /// All calls of these tasks.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub tasks: &'a [TaskId],
    /// These calls.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub calls: &'a [CallId],
}
body!(Erasure<'_>, "erasure");

/// Somebody looked at the kept texts of a call.
#[derive(Debug, Serialize)]
pub struct TextsRead<'a> {
    /// The call.
    pub call: CallId,
    /// Who.
    pub by: &'a PersonName,
}
body!(TextsRead<'_>, "texts_read");

/// Another enforcement point was told that it may let something pass. What it knows of the things themselves is not in it.
#[derive(Debug, Serialize)]
pub struct Evaluation<'a> {
    /// The enforcement point.
    pub point: &'a str,
    /// The agent that it is.
    pub agent: &'a SpiffeId,
    /// The type of who would do it, in the enforcement point's words.
    pub principal_type: &'a str,
    /// Who. Not `subject`, which is a person of ours.
    pub principal: &'a str,
    /// What.
    pub action: &'a str,
    /// The type of what it would be done to.
    pub object_type: &'a str,
    /// To what.
    pub object: &'a str,
    /// The revision of the enforcement point's policies.
    pub revision: &'a str,
    /// The determining policies.
    pub policies: &'a [PolicyRef],
    /// The request for access whose approval is spent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldId>,
    /// The approvals that are spent.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub approvals: &'a [Approval],
}
body!(Evaluation<'_>, "evaluation");

/// The bodies of entries are gone; their leaf hashes stay.
#[derive(Debug, Serialize)]
pub struct Pruned<'a> {
    /// The first entry that still has its body.
    pub minimum: u64,
    /// The first one before.
    pub before: u64,
    /// Entries from this time on are kept.
    pub kept_from: Timestamp,
    /// Who, if it was a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'a PersonName>,
    /// How many days the policy keeps.
    pub policy_days: u64,
}
body!(Pruned<'_>, "pruned");

/// A step in the life of a credential that is made for a task.
#[derive(Debug, Serialize)]
pub struct LeaseStep<'a> {
    /// The lease.
    pub lease: LeaseId,
    /// `intended` (nothing is made before this is durable), `live`, `assigned`, `not_used` (made while its task ended), `ended`.
    pub state: &'a str,
    /// Its task; none while it is pooled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The permitted call for which it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<CallId>,
    /// The agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<&'a SpiffeId>,
    /// The component of it for which it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<&'a ComponentName>,
    /// The running copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// The agent's owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<&'a PersonName>,
    /// On whose behalf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<&'a PersonName>,
    /// The system.
    pub system: &'a str,
    /// The kind of credential: `postgresql`, `ssh`, ...
    pub credential_kind: &'a str,
    /// The rights' class.
    pub class: &'a str,
    /// The name of its account at the system.
    pub account: &'a str,
    /// What it may do there, in the kind's own words.
    pub rights: &'a [String],
    /// Under which ids the system knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<&'a serde_json::Value>,
    /// When the account ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// How it ended, with what was tried and seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<&'a serde_json::Value>,
    /// How often the end was tried in vain before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Who ended it by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'a str>,
    /// Why, in that person's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
}
body!(LeaseStep<'_>, "lease");

/// Something happened with a person, or with how a person proves who he or she is.
#[derive(Debug, Serialize)]
pub struct PersonStep<'a> {
    /// A slug: `recognized` (by the provider), `signed_in`, `signed_out`, `logged_out` (at the provider), `disabled`, `enabled`, `invited`,
    /// `passkey_added`, `passkey_removed`, `signed_in_with` and `decided_with` (a passkey was used), `event` (an event that was received).
    pub what: &'a str,
    /// Who.
    pub person: &'a PersonName,
    /// Who did it, if not the person: another person, `provider`, or the name of a transmitter of events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'a str>,
    /// How the person came in: `code`, `oidc`, `passkey` or `invitation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way: Option<&'a str>,
    /// The session's id, the provider, the passkey's name, or the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
    /// The id of the passkey, in base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passkey: Option<&'a str>,
    /// Its public key, as a JWK: what approvals by it verify with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a serde_json::Value>,
}
body!(PersonStep<'_>, "person");

/// Something was taken from an agent, or given back.
#[derive(Debug, Serialize)]
pub struct AgentStep<'a> {
    /// A slug: `suspended`, `resumed`, `key_revoked`, `instance_ended`.
    pub what: &'a str,
    /// The agent.
    pub agent: &'a SpiffeId,
    /// Who did it.
    pub by: &'a PersonName,
    /// Why, in that person's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// The thumbprint of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
    /// The running copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
}
body!(AgentStep<'_>, "agent");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_kinds_is_whole() {
        let source = include_str!("entry.rs").split("#[cfg(test)]").next().unwrap();
        let words: Vec<&str> = source.lines().filter_map(|l| l.strip_prefix("body!(")?.split('"').nth(1)).collect();
        assert_eq!(words, WORDS);
    }

    #[test]
    fn an_entry_is_one_line_whatever_a_stranger_writes_into_it() {
        // BI-103: log injection.
        let at = Timestamp::from_millis(1_763_856_000_000);
        let evil = "x\n{\"verdict\":\"allow\"}";
        let bytes = encode(at, &House { what: "agent_added", name: Some(evil), digest: None });
        let text = String::from_utf8(bytes).unwrap();
        assert!(!text.contains('\n'));
        insta::assert_snapshot!(text, @r#"{"v":1,"kind":"house","at":"2025-11-23T00:00:00.000Z","what":"agent_added","name":"x\n{\"verdict\":\"allow\"}"}"#);
    }
}
