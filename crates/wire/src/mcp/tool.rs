//! Tool definitions of upstreams: parsed, searched for what should not be there, and rewritten for listing.

mod annotate;
mod hazard;

use std::borrow::Cow;

use super::envelope::folds_to;
use super::headers::HeaderParam;
use crate::canonical::canonical;
use crate::json::{Kind, Object, Raw};

pub use hazard::{Finding, Hazard, Severity};

/// Longest definition in bytes.
pub const MAX_DEFINITION_BYTES: usize = 256 << 10;
/// Longest name in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// A definition as an upstream's `tools/list` gave it. It can be registered; whether a model may see it is decided elsewhere.
#[derive(Debug, Clone)]
pub struct ToolDefinition<'a> {
    raw: Raw<'a>,
    pub name: Cow<'a, str>,
    pub title: Option<Cow<'a, str>>,
    pub description: Option<Cow<'a, str>>,
    /// An object.
    pub input_schema: Raw<'a>,
    /// An object.
    pub output_schema: Option<Raw<'a>>,
    pub annotations: Annotations,
    /// Parameters that a modern call mirrors into `Mcp-Param-*` headers.
    pub header_params: Vec<HeaderParam>,
}

/// What the upstream says about its tool, with the defaults of MCP for what it does not say. Untrusted: it may only
/// raise the risk that we assume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Annotations {
    pub read_only: bool,
    pub destructive: bool,
    pub idempotent: bool,
    pub open_world: bool,
}

impl Default for Annotations {
    fn default() -> Self {
        Self { read_only: false, destructive: true, idempotent: false, open_world: true }
    }
}

impl Annotations {
    fn read(raw: Raw<'_>) -> Self {
        let hint = |name, default| raw.member(name).and_then(Raw::boolean).unwrap_or(default);
        let default = Self::default();
        Self {
            read_only: hint("readOnlyHint", default.read_only),
            destructive: hint("destructiveHint", default.destructive),
            idempotent: hint("idempotentHint", default.idempotent),
            open_world: hint("openWorldHint", default.open_world),
        }
    }
}

/// Why a definition is not taken at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    #[error("definition is not an object")]
    NotAnObject,
    #[error("definition is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("name is not 1 to 128 of the characters A-Z a-z 0-9 _ . -")]
    Name,
    #[error("a member is a known name in other letter case")]
    LookAlikeMember,
    #[error("`inputSchema` is missing or not a schema of an object")]
    InputSchema,
    #[error("`outputSchema` is not an object")]
    OutputSchema,
    #[error("`x-mcp-header` at `{pointer}`: {reason}")]
    HeaderAnnotation { pointer: String, reason: &'static str },
}

const MEMBERS: [&str; 9] = ["name", "title", "description", "inputSchema", "outputSchema", "annotations", "icons", "execution", "_meta"];

impl<'a> ToolDefinition<'a> {
    /// Parses one element of `tools`.
    ///
    /// # Errors
    /// [`ToolError`] if the tool must be dropped from the list.
    pub fn parse(raw: Raw<'a>) -> Result<Self, ToolError> {
        if !raw.is_object() {
            return Err(ToolError::NotAnObject);
        }
        if raw.text().len() > MAX_DEFINITION_BYTES {
            return Err(ToolError::TooLong { limit: MAX_DEFINITION_BYTES });
        }
        let look_alike = |key: &str| MEMBERS.iter().any(|known| key != *known && folds_to(key, known));
        if raw.members().any(|(key, _)| look_alike(&key)) {
            return Err(ToolError::LookAlikeMember);
        }
        let name = raw.member("name").and_then(Raw::string).filter(|name| is_tool_name(name)).ok_or(ToolError::Name)?;
        let input_schema = raw.member("inputSchema").filter(|schema| schema.is_object());
        let input_schema = input_schema.ok_or(ToolError::InputSchema)?;
        if input_schema.member("type").and_then(Raw::string).as_deref() != Some("object") {
            return Err(ToolError::InputSchema);
        }
        let output_schema = raw.member("outputSchema").filter(|schema| !schema.is_null());
        if output_schema.is_some_and(|schema| !schema.is_object()) {
            return Err(ToolError::OutputSchema);
        }
        Ok(Self {
            raw,
            name,
            title: raw.member("title").and_then(Raw::string),
            description: raw.member("description").and_then(Raw::string),
            input_schema,
            output_schema,
            annotations: raw.member("annotations").map(Annotations::read).unwrap_or_default(),
            header_params: annotate::header_params(input_schema)?,
        })
    }

    /// The definition as it was written.
    pub fn raw(&self) -> Raw<'a> {
        self.raw
    }

    /// Appends what the definition's digest is made of: its canonical form, every member included. A changed digest is
    /// a redefined tool.
    pub fn digest_input(&self, out: &mut Vec<u8>) {
        let _ = canonical(self.raw, out);
    }

    /// Appends the definition for listing under another name: all members as they were written, without `icons`, which
    /// nobody shall fetch.
    pub fn write_listed(&self, listed_name: &str, out: &mut Vec<u8>) {
        let mut object = Object::begin(out).text("name", listed_name);
        for (key, value) in self.raw.entries() {
            match key.string().as_deref() {
                Some("name" | "icons") | None => {}
                Some(_) => object = object.entry(key.text(), value.text()),
            }
        }
        object.end();
    }

    /// Looks for hidden text, text that commands the model, references to other systems' tools (`other_names`), remote
    /// schema references and icons: in every key and string of the definition, not only the description.
    pub fn hazards<'n>(&self, other_names: impl IntoIterator<Item = &'n str>) -> Vec<Hazard> {
        hazard::scan(self.raw, &other_names.into_iter().collect::<Vec<_>>())
    }
}

/// Whether a name is 1 to 128 of `[A-Za-z0-9_.-]`.
pub fn is_tool_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// The tools and the next cursor of an upstream's `tools/list` result. `None` if it is not one.
pub fn list<'a>(result: Raw<'a>) -> Option<(impl Iterator<Item = Raw<'a>>, Option<Cow<'a, str>>)> {
    let tools = result.member("tools").filter(|tools| tools.kind() == Kind::Array)?;
    Some((tools.elements(), result.member("nextCursor").and_then(Raw::string)))
}

#[cfg(test)]
mod tests;
