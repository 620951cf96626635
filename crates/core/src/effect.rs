//! What a tool does to the world, and the effect proposed for a tool that nobody classified yet.

use std::fmt;
use std::str::FromStr;

/// The effect of a tool. Ordered by how much a mistake costs, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Only looks.
    Read,
    /// Writes what people or automata will trust: tickets, recommendations, configuration suggestions.
    Influence,
    /// Changes data.
    Write,
    /// Removes data.
    Delete,
    /// Moves money or goods, or changes who receives them.
    Transfer,
    /// Decides something that others wait for, or grants a right.
    Approve,
    /// Hands a credential out to the agent, which uses it without us until its task ends.
    Issue,
}

impl Effect {
    /// All effects, least first.
    pub const ALL: [Self; 7] = [Self::Read, Self::Influence, Self::Write, Self::Delete, Self::Transfer, Self::Approve, Self::Issue];

    /// The word, as in configuration, policy and record.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Influence => "influence",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Transfer => "transfer",
            Self::Approve => "approve",
            Self::Issue => "issue",
        }
    }

    /// Everything but reading: the answer waits until the outcome is on record.
    #[must_use]
    pub const fn is_acting(self) -> bool {
        !matches!(self, Self::Read)
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Effect {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|e| e.word() == text)
            .ok_or_else(|| "expected one of read, influence, write, delete, transfer, approve, issue".to_owned())
    }
}

/// What a tool's annotations admit (MCP `ToolAnnotations`), with the defaults of the specification already applied.
/// They come from the system that is to be controlled, so they can only raise the effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolHints {
    /// `readOnlyHint`, default false.
    pub read_only: bool,
    /// `destructiveHint`, default true; means something only if not read-only.
    pub destructive: bool,
}

impl Default for ToolHints {
    fn default() -> Self {
        Self { read_only: false, destructive: true }
    }
}

impl ToolHints {
    /// The least effect that the annotations admit. They never lower an effect; they only rule out a lower one.
    #[must_use]
    pub const fn floor(self) -> Effect {
        if self.read_only { Effect::Read } else { Effect::Influence }
    }

    /// The least effect when the annotations were *written by the system* rather than left out: a tool that says that it is
    /// destructive is at least a `write`.
    #[must_use]
    pub const fn floor_given(self, given: bool) -> Effect {
        if given && !self.read_only && self.destructive { Effect::Write } else { self.floor() }
    }
}

const TRANSFER: [&str; 11] = ["transfer", "pay", "refund", "payout", "wire", "charge", "send_money", "purchase", "buy", "withdraw", "invoice"];
const APPROVE: [&str; 9] = ["approve", "grant", "authorize", "merge", "accept", "confirm", "release", "promote", "sign"];
const DELETE: [&str; 10] = ["delete", "remove", "drop", "destroy", "purge", "erase", "truncate", "wipe", "reset", "kill"];
const INFLUENCE: [&str; 9] = ["comment", "recommend", "suggest", "reply", "post", "notify", "message", "email", "announce"];

/// Proposes an effect from a tool's name and annotations, to be confirmed by a person. Never lower than what the annotations
/// admit; a name raises it, and only a tool that says that it only reads *and* has no acting word in its name is proposed as `read`.
#[must_use]
pub fn propose(name: &str, hints: ToolHints, hints_given: bool) -> Effect {
    let words = words(name);
    let any = |list: &[&str]| words.iter().any(|w| list.contains(&w.as_str()));
    let by_name = if any(&APPROVE) {
        Effect::Approve
    } else if any(&TRANSFER) {
        Effect::Transfer
    } else if any(&DELETE) {
        Effect::Delete
    } else if any(&INFLUENCE) {
        Effect::Influence
    } else if hints.read_only {
        Effect::Read
    } else {
        Effect::Write
    };
    by_name.max(hints.floor_given(hints_given))
}

/// Splits `send_money`, `sendMoney`, `send-money` into words; joined pairs are kept too, so that `send_money` is found as one.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = vec![String::new()];
    let mut lower_before = false;
    for c in name.chars() {
        let boundary = matches!(c, '_' | '-' | '.' | '/') || (c.is_ascii_uppercase() && lower_before);
        lower_before = c.is_ascii_lowercase() || c.is_ascii_digit();
        if boundary {
            words.push(String::new());
        }
        if c.is_ascii_alphanumeric()
            && let Some(last) = words.last_mut()
        {
            last.push(c.to_ascii_lowercase());
        }
    }
    let pairs: Vec<String> = words.windows(2).map(|w| w.join("_")).collect();
    words.extend(pairs);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const READS: ToolHints = ToolHints { read_only: true, destructive: false };

    #[test]
    fn bi_004_a_read_only_hint_does_not_lower_what_the_name_admits() {
        assert_eq!(propose("delete_file", READS, true), Effect::Delete);
        assert_eq!(propose("refundOrder", READS, true), Effect::Transfer);
        assert_eq!(propose("send-money", READS, true), Effect::Transfer);
    }

    #[test]
    fn without_annotations_nothing_is_proposed_as_read() {
        assert_eq!(propose("get_thing", ToolHints::default(), false), Effect::Write);
        assert_eq!(propose("comment_ticket", ToolHints::default(), false), Effect::Influence);
        assert_eq!(propose("comment_ticket", ToolHints::default(), true), Effect::Write);
    }

    #[test]
    fn a_reading_tool_with_a_read_only_hint_is_a_read() {
        assert_eq!(propose("list_orders", READS, true), Effect::Read);
    }

    #[test]
    fn an_unknown_word_is_a_write() {
        assert_eq!(propose("frobnicate", ToolHints { read_only: false, destructive: false }, true), Effect::Write);
    }
}
