//! A checker of arguments compiled from a tool's input schema: what the schema does not name is refused.
//!
//! It knows the part of JSON Schema 2020-12 that tools use. It is stricter in one point: an object schema that lists
//! `properties` and does not speak of others refuses others. Keywords that it does not check are listed, not hidden.

mod check;
mod compile;
mod format;

use std::collections::BTreeMap;

use crate::json::{Kind, Raw};

/// A compiled schema. Build it once for a tool definition, then check each call's arguments.
#[derive(Debug, Clone)]
pub struct Schema {
    nodes: Vec<Node>,
    unchecked: Vec<String>,
}

/// Why a schema cannot be compiled. The tool that has it cannot be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    #[error("schema at `{pointer}` is neither an object nor a boolean")]
    NotASchema { pointer: String },
    #[error("`$ref` at `{pointer}` leads out of the schema")]
    RemoteReference { pointer: String },
    #[error("`$ref` at `{pointer}` leads nowhere")]
    UnknownReference { pointer: String },
    #[error("`{keyword}` at `{pointer}` has a value that it cannot have")]
    BadKeyword { pointer: String, keyword: String },
    #[error("schema is larger than {limit} subschemas")]
    TooLarge { limit: usize },
}

/// What is wrong with arguments: where, and what was expected there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pointer}`: {expectation}")]
pub struct Violation {
    /// JSON pointer (RFC 6901) into the arguments; empty for the whole.
    pub pointer: String,
    /// In plain words, without the value that was found.
    pub expectation: String,
}

impl Schema {
    /// Compiles an `inputSchema`.
    ///
    /// # Errors
    /// [`SchemaError`] if it is no schema, refers to what is not in it, or is too large.
    pub fn compile(raw: Raw<'_>) -> Result<Self, SchemaError> {
        compile::compile(raw)
    }

    /// Checks a value, normally a call's arguments.
    ///
    /// # Errors
    /// The first [`Violation`] in written order.
    pub fn check(&self, value: Raw<'_>) -> Result<(), Violation> {
        check::check(self, value)
    }

    /// Keywords that the schema uses and this checker does not, as `pointer keyword`, sorted, each once.
    pub fn unchecked(&self) -> &[String] {
        &self.unchecked
    }
}

/// One subschema. Other subschemas are named by their place in [`Schema::nodes`].
#[derive(Debug, Clone, Default)]
struct Node {
    /// The schema `false`: nothing passes.
    never: bool,
    types: Option<Vec<Type>>,
    /// `None` without the keyword; an empty map says that there are no properties.
    properties: Option<BTreeMap<String, usize>>,
    additional: Additional,
    /// Further properties pass here, unchecked.
    open: bool,
    required: Vec<String>,
    /// Canonical forms.
    allowed: Option<Vec<Vec<u8>>>,
    items: Option<usize>,
    prefix_items: Vec<usize>,
    unique_items: bool,
    count: Bounds,
    length: Bounds,
    members: Bounds,
    range: Vec<(Limit, String)>,
    format: Option<format::Format>,
    all_of: Vec<usize>,
    any_of: Option<Vec<usize>>,
    one_of: Option<Vec<usize>>,
    not: Option<usize>,
    condition: Option<Condition>,
    reference: Option<usize>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Additional {
    #[default]
    Unsaid,
    Refused,
    Schema(usize),
}

#[derive(Debug, Clone, Copy)]
struct Condition {
    when: usize,
    then: Option<usize>,
    otherwise: Option<usize>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bounds {
    least: Option<u64>,
    most: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Least,
    Most,
    Above,
    Below,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Integer,
    Of(Kind),
}

impl Type {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "integer" => Self::Integer,
            "null" => Self::Of(Kind::Null),
            "boolean" => Self::Of(Kind::Boolean),
            "number" => Self::Of(Kind::Number),
            "string" => Self::Of(Kind::String),
            "array" => Self::Of(Kind::Array),
            "object" => Self::Of(Kind::Object),
            _ => return None,
        })
    }

    fn admits(self, value: Raw<'_>) -> bool {
        match self {
            Self::Integer => value.number().is_some_and(|number| number.is_whole()),
            Self::Of(kind) => value.kind() == kind,
        }
    }

    fn words(self) -> String {
        match self {
            Self::Integer => "a whole number".to_owned(),
            Self::Of(kind) => kind.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
