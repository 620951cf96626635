//! The part of a tool's arguments that policy can read: typed from the tool's JSON schema, read from a call's exact bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cedar_policy::RestrictedExpression;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::analysis::Mentions;

/// Most arguments of one tool that policy can read; further ones have no type.
const ARGUMENTS_MAX: usize = 256;
/// Longest name of an argument that policy can read, in bytes.
const ARGUMENT_NAME_BYTES_MAX: usize = 256;
/// Deepest chain of `$ref`, `anyOf` and the like that is followed.
const DEPTH_MAX: usize = 8;

/// The Cedar type of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentKind {
    /// `string` -> `String`.
    Text,
    /// `integer` -> `Long`.
    Integer,
    /// `number` -> `decimal`: at most four decimal places. Another number is an error, which denies.
    Decimal,
    /// `boolean` -> `Bool`.
    Bool,
    /// An array of `string` -> `Set<String>`.
    Texts,
}

/// One argument that policy can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Argument {
    pub(crate) kind: ArgumentKind,
    pub(crate) required: bool,
    pub(crate) nullable: bool,
}

/// The arguments of a tool that have a type in policy, by name. What the tool's schema does not type (objects, unions, other
/// arrays) is not here; a policy that asks for such an argument by name gets an error, never silence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputShape {
    pub(crate) arguments: BTreeMap<String, Argument>,
}

impl InputShape {
    /// Reads a tool's `inputSchema`. Total: what cannot be typed is left out, a text that is no JSON gives an empty shape.
    #[must_use]
    pub fn of_json_schema(schema: &[u8]) -> Self {
        let Ok(root) = serde_json::from_slice::<Value>(schema) else { return Self::default() };
        let required: BTreeSet<&str> = root.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let Some(properties) = root.get("properties").and_then(Value::as_object) else { return Self::default() };
        let arguments = properties
            .iter()
            .filter(|(name, _)| name.len() <= ARGUMENT_NAME_BYTES_MAX)
            .filter_map(|(name, schema)| {
                let (kind, nullable) = kind(schema, &root, DEPTH_MAX)?;
                Some((name.clone(), Argument { kind, nullable, required: !nullable && required.contains(name.as_str()) }))
            })
            .take(ARGUMENTS_MAX)
            .collect();
        Self { arguments }
    }

    /// Names and kinds, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, ArgumentKind)> {
        self.arguments.iter().map(|(name, argument)| (name.as_str(), argument.kind))
    }

    /// Reads what policy mentions from the exact bytes of a call's arguments.
    pub(crate) fn read(&self, arguments: &[u8], mentions: &Mentions) -> Result<RestrictedExpression, InputError> {
        let mut deserializer = serde_json::Deserializer::from_slice(arguments);
        let members = deserializer.deserialize_map(Members).map_err(|_| InputError::NoObject)?;
        deserializer.end().map_err(|_| InputError::NoObject)?;
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut fields = Vec::new();
        for (name, raw) in &members {
            if !seen.insert(name) {
                return Err(InputError::Twice(name.clone()));
            }
            if !mentions.wants(name) {
                continue;
            }
            let Some(argument) = self.arguments.get(name) else { return Err(InputError::Untyped(name.clone())) };
            if argument.nullable && raw.get() == "null" {
                continue;
            }
            let value = value(argument.kind, raw.get()).ok_or_else(|| InputError::Misfit(name.clone(), argument.kind))?;
            fields.push((name.clone(), value));
        }
        if let Some((name, _)) = self.arguments.iter().find(|(n, a)| a.required && mentions.wants(n) && !seen.contains(n.as_str())) {
            return Err(InputError::Absent(name.clone()));
        }
        RestrictedExpression::new_record(fields).map_err(|_| InputError::NoObject)
    }
}

/// Why a call's arguments could not be shown to policy. Names arguments, never their values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InputError {
    #[error("the arguments are not one JSON object")]
    NoObject,
    #[error("argument `{}` is given twice", .0.escape_debug())]
    Twice(String),
    #[error("argument `{}`: policy reads it, but the tool's schema gives it no type that policy can read", .0.escape_debug())]
    Untyped(String),
    #[error("argument `{}`: policy reads it as {}, and it does not fit", .0.escape_debug(), .1)]
    Misfit(String, ArgumentKind),
    #[error("argument `{}`: policy reads it and the tool's schema requires it, but it is absent", .0.escape_debug())]
    Absent(String),
}

impl fmt::Display for ArgumentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "a string",
            Self::Integer => "an integer of 64 bits",
            Self::Decimal => "a number with at most four decimal places",
            Self::Bool => "true or false",
            Self::Texts => "a list of strings",
        })
    }
}

/// The members of one JSON object in order, values unread.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de RawValue)>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one JSON object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry::<String, &'de RawValue>()? {
            members.push(member);
        }
        Ok(members)
    }
}

fn value(kind: ArgumentKind, raw: &str) -> Option<RestrictedExpression> {
    match kind {
        ArgumentKind::Text => serde_json::from_str(raw).ok().map(RestrictedExpression::new_string),
        ArgumentKind::Integer => serde_json::from_str(raw).ok().map(RestrictedExpression::new_long),
        ArgumentKind::Bool => serde_json::from_str(raw).ok().map(RestrictedExpression::new_bool),
        ArgumentKind::Decimal => decimal(raw).map(RestrictedExpression::new_decimal),
        ArgumentKind::Texts => {
            let texts: Vec<String> = serde_json::from_str(raw).ok()?;
            Some(RestrictedExpression::new_set(texts.into_iter().map(RestrictedExpression::new_string)))
        }
    }
}

/// A JSON number as Cedar writes a decimal: `-?digits.digits`, one to four places, within 64 bits of ten-thousandths.
fn decimal(raw: &str) -> Option<String> {
    let (whole, fraction) = raw.split_once('.').unwrap_or((raw, "0"));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole.strip_prefix('-').unwrap_or(whole)) || !digits(fraction) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 4 {
        return None;
    }
    let scaled: i64 = format!("{whole}{fraction:0<4}").parse().ok()?;
    let sign = if scaled < 0 { "-" } else { "" };
    let scaled = scaled.unsigned_abs();
    Some(format!("{sign}{}.{:04}", scaled / 10_000, scaled % 10_000))
}

/// The kind of a property's schema, and whether `null` is allowed beside it.
fn kind(schema: &Value, root: &Value, depth: usize) -> Option<(ArgumentKind, bool)> {
    let depth = depth.checked_sub(1)?;
    if let Some(reference) = schema.get("$ref") {
        return kind(root.pointer(reference.as_str()?.strip_prefix('#')?)?, root, depth);
    }
    match schema.get("type") {
        Some(Value::String(word)) => return word_kind(word, schema, root, depth).map(|k| (k, false)),
        Some(Value::Array(words)) => {
            let nullable = words.iter().any(|w| w == "null");
            let mut others = words.iter().filter(|w| *w != "null");
            let (Some(word), None) = (others.next(), others.next()) else { return None };
            return word_kind(word.as_str()?, schema, root, depth).map(|k| (k, nullable));
        }
        Some(_) => return None,
        None => {}
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(branches) = schema.get(key) {
            return union(branches.as_array()?, root, depth);
        }
    }
    if let Some(parts) = schema.get("allOf") {
        let [part] = parts.as_array()?.as_slice() else { return None };
        return kind(part, root, depth);
    }
    match (schema.get("enum"), schema.get("const")) {
        (Some(values), None) => literals(values.as_array()?.iter()),
        (None, Some(value)) => literals(std::iter::once(value)),
        (Some(_), Some(_)) | (None, None) => None,
    }
}

fn word_kind(word: &str, schema: &Value, root: &Value, depth: usize) -> Option<ArgumentKind> {
    match word {
        "string" => Some(ArgumentKind::Text),
        "integer" => Some(ArgumentKind::Integer),
        "number" => Some(ArgumentKind::Decimal),
        "boolean" => Some(ArgumentKind::Bool),
        "array" if schema.get("prefixItems").is_none() => {
            (kind(schema.get("items")?, root, depth)? == (ArgumentKind::Text, false)).then_some(ArgumentKind::Texts)
        }
        _ => None,
    }
}

/// A union has a kind if all its branches but `null` have the same.
fn union(branches: &[Value], root: &Value, depth: usize) -> Option<(ArgumentKind, bool)> {
    let is_null = |b: &Value| b.get("type").is_some_and(|t| t == "null");
    let mut nullable = branches.iter().any(is_null);
    let mut found = None;
    for branch in branches.iter().filter(|b| !is_null(b)) {
        let (kind, null) = kind(branch, root, depth)?;
        nullable |= null;
        if *found.get_or_insert(kind) != kind {
            return None;
        }
    }
    found.map(|kind| (kind, nullable))
}

fn literals<'a>(values: impl Iterator<Item = &'a Value>) -> Option<(ArgumentKind, bool)> {
    let mut nullable = false;
    let mut found = None;
    for value in values {
        let kind = match value {
            Value::Null => {
                nullable = true;
                continue;
            }
            Value::String(_) => ArgumentKind::Text,
            Value::Bool(_) => ArgumentKind::Bool,
            Value::Number(n) if n.is_i64() => ArgumentKind::Integer,
            Value::Number(_) | Value::Array(_) | Value::Object(_) => return None,
        };
        if *found.get_or_insert(kind) != kind {
            return None;
        }
    }
    found.map(|kind| (kind, nullable))
}
