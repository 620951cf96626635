//! Schemas of OpenAPI as JSON Schema 2020-12: self-contained, without what only documents need, references as `$defs`.

use std::collections::{BTreeMap, BTreeSet};

use super::component::{Components, pointer_of};
use crate::json::{Kind, Raw, write_string};

/// Schemas within schemas.
const DEPTH_MAX: usize = 24;
/// Descriptions inside a schema, in characters.
const DESCRIPTION_MAX: usize = 500;
/// A default that is copied, in bytes.
const DEFAULT_MAX: usize = 256;
/// All schemas of one document that were converted, in bytes.
const TOTAL_MAX: usize = 64 << 20;

/// Which way a schema's values go: a request has no `readOnly` property, an answer no `writeOnly` one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Answer,
}

/// Converts schemas of one document; each component once.
pub(super) struct Converter<'c, 'd> {
    components: &'c Components<'d>,
    direction: Direction,
    done: BTreeMap<String, Result<Converted, String>>,
    /// From pointers to names of definitions.
    names: BTreeMap<String, String>,
    taken: BTreeSet<String>,
    total: usize,
}

/// A schema, and the pointers that it refers to.
#[derive(Debug, Clone, Default)]
pub(super) struct Converted {
    pub(super) text: String,
    pub(super) refers: BTreeSet<String>,
}

impl<'c, 'd> Converter<'c, 'd> {
    pub(super) fn new(components: &'c Components<'d>, direction: Direction) -> Self {
        Self { components, direction, done: BTreeMap::new(), names: BTreeMap::new(), taken: BTreeSet::new(), total: 0 }
    }

    /// One schema; `description` stands in it if it has none of its own.
    pub(super) fn schema(&mut self, raw: Raw<'d>, description: Option<&str>) -> Result<Converted, String> {
        let mut out = Converted::default();
        self.any(raw, description, 0, &mut out)?;
        self.total = self.total.saturating_add(out.text.len());
        if self.total > TOTAL_MAX { Err("the document's schemas are too large".to_owned()) } else { Ok(out) }
    }

    /// `"$defs":{..}` for everything that is referred to, directly or not; empty if nothing is. `max` bounds its bytes.
    pub(super) fn definitions(&mut self, refers: &BTreeSet<String>, max: usize) -> Result<String, String> {
        let mut waiting: Vec<String> = refers.iter().cloned().collect();
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        let mut length = 0_usize;
        while let Some(pointer) = waiting.pop() {
            if seen.contains_key(&pointer) {
                continue;
            }
            let converted = self.referred(&pointer)?;
            length = length.saturating_add(converted.text.len());
            if length > max {
                return Err(format!("its schema is longer than {max} bytes"));
            }
            waiting.extend(converted.refers.iter().cloned());
            seen.insert(pointer, converted.text);
        }
        let mut out = Vec::new();
        for (pointer, text) in &seen {
            out.extend_from_slice(if out.is_empty() { b"\"$defs\":{" } else { b"," });
            write_string(&mut out, &self.name_of(pointer));
            out.push(b':');
            out.extend_from_slice(text.as_bytes());
        }
        if !out.is_empty() {
            out.push(b'}');
        }
        String::from_utf8(out).map_err(|_| "its schema is not text".to_owned())
    }

    fn referred(&mut self, pointer: &str) -> Result<Converted, String> {
        if let Some(done) = self.done.get(pointer) {
            return done.clone();
        }
        let converted = self.components.find(pointer).and_then(|raw| self.schema(raw, None));
        self.done.insert(pointer.to_owned(), converted.clone());
        converted
    }

    /// The name of a definition: the last part of its pointer, made unique.
    fn name_of(&mut self, pointer: &str) -> String {
        if let Some(name) = self.names.get(pointer) {
            return name.clone();
        }
        let last = super::cleaned(pointer.rsplit('/').next().unwrap_or_default());
        let last = if last.is_empty() { "schema".to_owned() } else { last };
        let mut name = last.clone();
        let mut count = 1_usize;
        while !self.taken.insert(name.clone()) {
            count = count.saturating_add(1);
            name = format!("{last}_{count}");
        }
        self.names.insert(pointer.to_owned(), name.clone());
        name
    }

    fn any(&mut self, raw: Raw<'d>, description: Option<&str>, depth: usize, out: &mut Converted) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("its schema is nested deeper than {DEPTH_MAX}"));
        }
        match raw.kind() {
            Kind::Object => self.object(raw, description, depth, out),
            Kind::Boolean => {
                out.text.push_str(raw.text());
                Ok(())
            }
            Kind::Null | Kind::Number | Kind::String | Kind::Array => Err("it has a schema that is none".to_owned()),
        }
    }

    fn object(&mut self, raw: Raw<'d>, description: Option<&str>, depth: usize, out: &mut Converted) -> Result<(), String> {
        out.text.push('{');
        let reference = raw.member("$ref").map(|reference| reference.string().ok_or("it has a reference that is no text")).transpose()?;
        if let Some(reference) = &reference {
            let pointer = pointer_of(reference)?.to_owned();
            let target = format!("#/$defs/{}", self.name_of(&pointer));
            key(out, "$ref");
            text(out, &target);
            out.refers.insert(pointer);
        }
        // In 3.0 nothing that stands beside a reference counts.
        if reference.is_none() || !self.components.is_3_0() {
            let hidden = self.hidden(raw);
            for (word, value) in raw.members() {
                self.keyword(raw, &word, value, &hidden, depth, out)?;
            }
        }
        if let Some(description) = description.filter(|_| raw.member("description").is_none()) {
            key(out, "description");
            text(out, &cut(description, DESCRIPTION_MAX));
        }
        out.text.push('}');
        Ok(())
    }

    /// Properties that do not go this way.
    fn hidden(&self, raw: Raw<'d>) -> BTreeSet<String> {
        let word = if self.direction == Direction::Request { "readOnly" } else { "writeOnly" };
        let is_hidden = |schema: Raw<'d>| {
            let said = |raw: Raw<'d>| raw.member(word).and_then(Raw::boolean) == Some(true);
            said(schema) || self.components.resolve(schema).is_ok_and(said)
        };
        let properties = raw.member("properties").into_iter().flat_map(Raw::members);
        properties.filter(|(_, schema)| is_hidden(*schema)).map(|(name, _)| name.into_owned()).collect()
    }

    /// One keyword. What constrains nothing, and what JSON Schema does not know, is left out.
    fn keyword(
        &mut self,
        schema: Raw<'d>,
        word: &str,
        value: Raw<'d>,
        hidden: &BTreeSet<String>,
        depth: usize,
        out: &mut Converted,
    ) -> Result<(), String> {
        let flag = |name: &str| self.components.is_3_0() && schema.member(name).and_then(Raw::boolean) == Some(true);
        match word {
            "type" if value.kind() == Kind::String && flag("nullable") => {
                key(out, word);
                out.text.push_str(&format!("[{},\"null\"]", value.text()));
            }
            // In 3.0 these are flags of `minimum` and `maximum`.
            "minimum" if flag("exclusiveMinimum") => copy(out, "exclusiveMinimum", value),
            "maximum" if flag("exclusiveMaximum") => copy(out, "exclusiveMaximum", value),
            "exclusiveMinimum" | "exclusiveMaximum" if value.kind() != Kind::Number => {}
            "properties" => {
                key(out, word);
                self.map(value, hidden, depth, out)?;
            }
            "patternProperties" | "dependentSchemas" => {
                key(out, word);
                self.map(value, &BTreeSet::new(), depth, out)?;
            }
            "required" => {
                let names: Vec<_> =
                    value.elements().filter(|name| name.string().is_some_and(|name| !hidden.contains(&*name))).map(Raw::text).collect();
                key(out, word);
                out.text.push_str(&format!("[{}]", names.join(",")));
            }
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => {
                key(out, word);
                self.list(value, depth, out)?;
            }
            "additionalProperties"
            | "items"
            | "not"
            | "if"
            | "then"
            | "else"
            | "contains"
            | "propertyNames"
            | "unevaluatedItems"
            | "unevaluatedProperties" => {
                key(out, word);
                self.any(value, None, depth.saturating_add(1), out)?;
            }
            "title" | "description" => {
                if let Some(words) = value.string() {
                    key(out, word);
                    text(out, &cut(&words, DESCRIPTION_MAX));
                }
            }
            "default" if value.text().len() <= DEFAULT_MAX => copy(out, word, value),
            "type" | "enum" | "const" | "uniqueItems" | "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties"
            | "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" | "pattern" | "format" | "minContains"
            | "maxContains" | "dependentRequired" | "deprecated" => copy(out, word, value),
            "$id" | "$anchor" | "$dynamicRef" | "$dynamicAnchor" | "$recursiveRef" => {
                return Err(format!("its schema uses `{word}`, which is not supported"));
            }
            _ => {}
        }
        Ok(())
    }

    fn map(&mut self, value: Raw<'d>, hidden: &BTreeSet<String>, depth: usize, out: &mut Converted) -> Result<(), String> {
        out.text.push('{');
        for (name, schema) in value.members() {
            if !hidden.contains(&*name) {
                key(out, &name);
                self.any(schema, None, depth.saturating_add(1), out)?;
            } else if self.direction == Direction::Request {
                // Said to be no part of a request, so that one that has it is refused; what is not said may be there.
                key(out, &name);
                out.text.push_str(NEVER);
            }
        }
        out.text.push('}');
        Ok(())
    }

    fn list(&mut self, value: Raw<'d>, depth: usize, out: &mut Converted) -> Result<(), String> {
        out.text.push('[');
        for (index, schema) in value.elements().enumerate() {
            if index > 0 {
                out.text.push(',');
            }
            self.any(schema, None, depth.saturating_add(1), out)?;
        }
        out.text.push(']');
        Ok(())
    }
}

/// What no value is.
const NEVER: &str = "{\"not\":{}}";

fn key(out: &mut Converted, name: &str) {
    // Only an object that was just opened ends so: what stands in strings ends with a quote.
    if !out.text.ends_with('{') {
        out.text.push(',');
    }
    text(out, name);
    out.text.push(':');
}

fn copy(out: &mut Converted, name: &str, value: Raw<'_>) {
    key(out, name);
    out.text.push_str(value.text());
}

fn text(out: &mut Converted, words: &str) {
    out.text.push_str(&quoted(words));
}

/// A JSON string.
pub(super) fn quoted(words: &str) -> String {
    let mut bytes = Vec::with_capacity(words.len().saturating_add(2));
    write_string(&mut bytes, words);
    String::from_utf8(bytes).unwrap_or_else(|_| "\"\"".to_owned())
}

/// At most so many characters, and none that controls a terminal.
pub(super) fn cut(words: &str, max: usize) -> String {
    words.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).take(max).collect()
}
