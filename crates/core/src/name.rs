//! Names that were parsed: people, agents, systems, tools, SPIFFE IDs. A value of these types is well-formed.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::id::InstanceId;

/// Why a text is no name of its kind. Says what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no {kind}: expected {expected}")]
pub struct NameError {
    kind: &'static str,
    given: String,
    expected: &'static str,
}

fn wrong(kind: &'static str, given: &str, expected: &'static str) -> NameError {
    let given = given.chars().take(80).flat_map(char::escape_debug).collect();
    NameError { kind, given, expected }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $expected:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { Err(wrong($kind, text, $expected)) }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                <std::borrow::Cow<'_, str>>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

fn slug(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

fn tool_part(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Operations of MCP that are no tools and pass the same gate under a name with a slash, which no tool can have.
const OPERATIONS: [&str; 4] = ["resources/read", "resources/subscribe", "prompts/get", "completion/complete"];

fn operation(text: &str) -> bool {
    OPERATIONS.contains(&text)
}

name!(/// The name of an agent: a lower-case slug, the last segment of its SPIFFE ID.
    AgentName, "agent name", "1 to 63 of a-z, 0-9, `-`, `_`, starting with a letter or digit", |t| slug(t, 63));
name!(/// The name of a component of an agent: a lower-case slug that no running copy's id can be taken for.
    ComponentName, "component name", "1 to 63 of a-z, 0-9, `-`, `_`, starting with a letter or digit, and not with `inst_`",
    |t| slug(t, 63) && !t.starts_with("inst_"));
name!(/// The name of a configured system: a lower-case slug, and the first part of its tools' names.
    SystemName, "system name", "1 to 40 of a-z, 0-9, `-`, `_`, starting with a letter or digit", |t| slug(t, 40));
name!(/// A mark on data that a task has seen, such as `untrusted`, `pii` or `model-authored`: a lower-case slug.
    Label, "label", "1 to 40 of a-z, 0-9, `-`, `_`, starting with a letter or digit", |t| slug(t, 40));
name!(/// The name of a person: an address or a handle.
    PersonName, "person name", "1 to 120 of a-z, 0-9, `@`, `.`, `-`, `_`, `+`, in lower case, starting with a letter or digit",
    |t| (1..=120).contains(&t.len())
        && t.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'@' | b'.' | b'-' | b'_' | b'+'))
        && t.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()));
name!(/// A SPIFFE trust domain name (SPIFFE-ID section 2.1).
    TrustDomain, "trust domain", "1 to 255 of a-z, 0-9, `.`, `-`, `_`",
    |t| (1..=255).contains(&t.len()) && t.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')));
name!(/// A SPIFFE ID (SPIFFE-ID section 2): `spiffe://<trust domain>/<path>`, at most 2,048 bytes.
SpiffeId, "SPIFFE ID", "`spiffe://<trust domain>/<path>` with path segments of A-Z, a-z, 0-9, `.`, `-`, `_`", |t| {
    let Some((domain, path)) = t.strip_prefix("spiffe://").and_then(|r| r.split_once('/')) else { return false };
    let segment = |s: &str| !matches!(s, "" | "." | "..")
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    t.len() <= 2048 && domain.parse::<TrustDomain>().is_ok() && path.split('/').all(segment)
});

impl SpiffeId {
    /// The ID of an agent under a trust domain: `spiffe://<td>/agent/<name>`.
    #[must_use]
    pub fn agent(domain: &TrustDomain, name: &AgentName) -> Self {
        Self(format!("spiffe://{domain}/agent/{name}").into())
    }

    /// The ID of a component of the agent with this ID: `spiffe://<td>/agent/<name>/<component>`.
    #[must_use]
    pub fn of_component(&self, component: &ComponentName) -> Self {
        Self(format!("{self}/{component}").into())
    }

    /// The ID of a running copy of the agent or component with this ID: one segment more.
    #[must_use]
    pub fn of_instance(&self, instance: InstanceId) -> Self {
        Self(format!("{self}/{instance}").into())
    }
}

/// A tool as agents see it: `<system>.<tool>`, or `<system>.<operation>` for an MCP operation that is no tool.
#[derive(Clone)]
pub struct ToolName {
    text: Arc<str>,
    dot: usize,
}

// INVARIANT: equality, order and hash are those of the text alone, as `Borrow<str>` demands; the dot follows from the text.
impl PartialEq for ToolName {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for ToolName {}

impl PartialOrd for ToolName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ToolName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl std::hash::Hash for ToolName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl ToolName {
    /// Joins a system and the tool's own name there.
    ///
    /// # Errors
    /// The tool's own name must be 1 to 128 of `[A-Za-z0-9_.-]` (MCP 2026-07-28, tools), or one of the MCP operations.
    pub fn new(system: &SystemName, tool: &str) -> Result<Self, NameError> {
        if !tool_part(tool) && !operation(tool) {
            return Err(wrong("tool name", tool, "1 to 128 of A-Z, a-z, 0-9, `_`, `.`, `-`"));
        }
        Ok(Self { text: format!("{system}.{tool}").into(), dot: system.as_str().len() })
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The system's part.
    #[must_use]
    pub fn system(&self) -> &str {
        self.text.get(..self.dot).unwrap_or_default()
    }

    /// The tool's own name at its system.
    #[must_use]
    pub fn tool(&self) -> &str {
        self.text.get(self.dot.saturating_add(1)..).unwrap_or_default()
    }

    /// True for an MCP operation such as `resources/read` rather than a tool.
    #[must_use]
    pub fn is_operation(&self) -> bool {
        operation(self.tool())
    }
}

impl FromStr for ToolName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let expected = "`<system>.<tool>`";
        let (system, tool) = text.split_once('.').ok_or_else(|| wrong("tool name", text, expected))?;
        let system: SystemName = system.parse().map_err(|_| wrong("tool name", text, expected))?;
        Self::new(&system, tool)
    }
}

impl fmt::Display for ToolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ToolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Borrow<str> for ToolName {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl serde::Serialize for ToolName {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for ToolName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'_, str>>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_name_splits_at_the_first_dot() {
        let name: ToolName = "git.log.short".parse().unwrap();
        assert_eq!((name.system(), name.tool()), ("git", "log.short"));
    }

    #[test]
    fn a_tool_is_found_by_its_text_in_every_kind_of_map() {
        let name: ToolName = "shop.show_order".parse().unwrap();
        assert!(std::collections::HashMap::from([(name.clone(), ())]).contains_key("shop.show_order"));
        assert!(std::collections::BTreeMap::from([(name, ())]).contains_key("shop.show_order"));
    }

    #[test]
    fn bi_007_a_confusable_tool_name_is_refused() {
        assert!("mail.send_em\u{430}il".parse::<ToolName>().is_err());
    }

    #[test]
    fn an_operation_is_a_name_that_no_tool_can_have() {
        let name: ToolName = "docs.resources/read".parse().unwrap();
        assert!(name.is_operation());
        assert!("docs.some/thing".parse::<ToolName>().is_err());
    }

    #[test]
    fn spiffe_ids_follow_the_standard() {
        for good in ["spiffe://example.org/agent/a", "spiffe://td/x/y-z_1.2"] {
            assert!(good.parse::<SpiffeId>().is_ok(), "{good}");
        }
        for bad in [
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe://Example.org/a",
            "spiffe://td/a/../b",
            "spiffe://td/a//b",
            "spiffe://td:80/a",
            "spiffe://user@td/a",
            "spiffe://td/a?b",
            "spiffe://td/a#b",
            "https://td/a",
            "spiffe://td/%61",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_component_is_no_running_copy_and_both_stand_below_their_agent() {
        let agent = SpiffeId::agent(&"td".parse().unwrap(), &"planner".parse().unwrap());
        let component: ComponentName = "retrieval".parse().unwrap();
        let instance = InstanceId::from_bytes([7; 16]);
        let below = agent.of_component(&component);
        assert_eq!(below.as_str(), "spiffe://td/agent/planner/retrieval");
        assert_eq!(below.of_instance(instance).to_string().parse::<SpiffeId>().unwrap(), below.of_instance(instance));
        assert!(instance.to_string().parse::<ComponentName>().is_err() && "Retrieval".parse::<ComponentName>().is_err());
    }

    #[test]
    fn an_error_shows_hidden_characters_escaped() {
        let error = "a\u{202e}b".parse::<AgentName>().unwrap_err().to_string();
        assert!(error.contains("\\u{202e}"), "{error}");
    }
}
