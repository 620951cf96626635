//! From the text of a schema to nodes; every reference resolved, nothing fetched.

use std::collections::{BTreeMap, BTreeSet};

use super::format::Format;
use super::{Additional, Bounds, Condition, Limit, Node, Schema, SchemaError, Type};
use crate::canonical::canonical;
use crate::json::{Kind, Raw};

/// Most subschemas of one schema.
const MAX_NODES: usize = 5_000;

pub(super) fn compile(root: Raw<'_>) -> Result<Schema, SchemaError> {
    let mut compiler = Compiler { root, nodes: Vec::new(), places: BTreeMap::new(), unchecked: BTreeSet::new() };
    remote_reference(root, "")?;
    compiler.node(root, "")?;
    Ok(Schema { nodes: compiler.nodes, unchecked: compiler.unchecked.into_iter().collect() })
}

struct Compiler<'a> {
    root: Raw<'a>,
    nodes: Vec<Node>,
    /// Pointer to node, so that each subschema is compiled once and references may be circular.
    places: BTreeMap<String, usize>,
    unchecked: BTreeSet<String>,
}

impl<'a> Compiler<'a> {
    fn node(&mut self, raw: Raw<'a>, pointer: &str) -> Result<usize, SchemaError> {
        if let Some(place) = self.places.get(pointer) {
            return Ok(*place);
        }
        let place = self.nodes.len();
        if place >= MAX_NODES {
            return Err(SchemaError::TooLarge { limit: MAX_NODES });
        }
        self.places.insert(pointer.to_owned(), place);
        self.nodes.push(Node::default());
        let mut node = Node::default();
        match raw.kind() {
            Kind::Boolean => node.never = raw.boolean() == Some(false),
            Kind::Object => {
                for (keyword, value) in raw.members() {
                    self.keyword(&mut node, raw, &keyword, value, pointer)?;
                }
            }
            _ => {
                return Err(SchemaError::NotASchema { pointer: pointer.to_owned() });
            }
        }
        if let Some(slot) = self.nodes.get_mut(place) {
            *slot = node;
        }
        Ok(place)
    }

    fn keyword(&mut self, node: &mut Node, schema: Raw<'a>, keyword: &str, value: Raw<'a>, pointer: &str) -> Result<(), SchemaError> {
        let bad = || SchemaError::BadKeyword { pointer: pointer.to_owned(), keyword: keyword.to_owned() };
        let here = || format!("{pointer}/{}", escaped(keyword));
        match keyword {
            "type" => node.types = Some(types(value).ok_or_else(bad)?),
            "enum" => {
                let values = (value.kind() == Kind::Array).then(|| value.elements().map(form).collect());
                node.allowed = Some(narrowed(node.allowed.take(), values.ok_or_else(bad)?));
            }
            "const" => node.allowed = Some(narrowed(node.allowed.take(), vec![form(value)])),
            "properties" => node.properties = Some(self.named(value, &here()).ok_or_else(bad)??),
            "required" => node.required = strings(value).ok_or_else(bad)?,
            "additionalProperties" => {
                node.additional = match value.boolean() {
                    Some(false) => Additional::Refused,
                    _ => Additional::Schema(self.node(value, &here())?),
                };
            }
            // `false` says what this checker does anyway.
            "unevaluatedProperties" if value.boolean() == Some(false) => {}
            "unevaluatedProperties" => {
                node.open = true;
                if value.boolean().is_none() {
                    self.note(pointer, keyword);
                }
            }
            "items" if value.kind() == Kind::Array => node.prefix_items = self.listed(value, &here())?,
            "items" => node.items = Some(self.node(value, &here())?),
            "prefixItems" => node.prefix_items = self.list(value, &here()).ok_or_else(bad)??,
            "uniqueItems" => node.unique_items = value.boolean().ok_or_else(bad)?,
            "minItems" => node.count.least = Some(size(value).ok_or_else(bad)?),
            "maxItems" => node.count.most = Some(size(value).ok_or_else(bad)?),
            "minLength" => node.length.least = Some(size(value).ok_or_else(bad)?),
            "maxLength" => node.length.most = Some(size(value).ok_or_else(bad)?),
            "minProperties" => node.members.least = Some(size(value).ok_or_else(bad)?),
            "maxProperties" => node.members.most = Some(size(value).ok_or_else(bad)?),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                if value.kind() != Kind::Number {
                    return Err(bad());
                }
                node.range.push((limit(keyword), value.text().to_owned()));
            }
            "format" => self.format(node, value, pointer).ok_or_else(bad)?,
            "allOf" => node.all_of = self.list(value, &here()).ok_or_else(bad)??,
            "anyOf" => node.any_of = Some(self.list(value, &here()).ok_or_else(bad)??),
            "oneOf" => node.one_of = Some(self.list(value, &here()).ok_or_else(bad)??),
            "not" => node.not = Some(self.node(value, &here())?),
            "if" => node.condition = Some(self.condition(schema, value, pointer)?),
            "$ref" => node.reference = Some(self.reference(&value.string().ok_or_else(bad)?, pointer)?),
            _ if is_silent(keyword, pointer) => {}
            _ => self.note(pointer, keyword),
        }
        Ok(())
    }

    fn note(&mut self, pointer: &str, keyword: &str) {
        self.unchecked.insert(format!("{pointer} {keyword}").trim_start().to_owned());
    }

    fn format(&mut self, node: &mut Node, value: Raw<'a>, pointer: &str) -> Option<()> {
        let name = value.string()?;
        node.format = Format::parse(&name);
        if node.format.is_none() {
            self.note(pointer, &format!("format:{name}"));
        }
        Some(())
    }

    fn condition(&mut self, schema: Raw<'a>, when: Raw<'a>, pointer: &str) -> Result<Condition, SchemaError> {
        let when = self.node(when, &format!("{pointer}/if"))?;
        let mut branch = |name: &str| match schema.member(name) {
            Some(raw) => self.node(raw, &format!("{pointer}/{name}")).map(Some),
            None => Ok(None),
        };
        Ok(Condition { when, then: branch("then")?, otherwise: branch("else")? })
    }

    fn named(&mut self, raw: Raw<'a>, pointer: &str) -> Option<Result<BTreeMap<String, usize>, SchemaError>> {
        let each = |(name, schema): (std::borrow::Cow<'a, str>, Raw<'a>)| {
            let place = self.node(schema, &format!("{pointer}/{}", escaped(&name)))?;
            Ok((name.into_owned(), place))
        };
        raw.is_object().then(|| raw.members().map(each).collect())
    }

    fn list(&mut self, raw: Raw<'a>, pointer: &str) -> Option<Result<Vec<usize>, SchemaError>> {
        (raw.kind() == Kind::Array && raw.elements().next().is_some()).then(|| self.listed(raw, pointer))
    }

    fn listed(&mut self, raw: Raw<'a>, pointer: &str) -> Result<Vec<usize>, SchemaError> {
        raw.elements().enumerate().map(|(index, schema)| self.node(schema, &format!("{pointer}/{index}"))).collect()
    }

    fn reference(&mut self, target: &str, pointer: &str) -> Result<usize, SchemaError> {
        let Some(path) = target.strip_prefix('#') else {
            return Err(SchemaError::RemoteReference { pointer: pointer.to_owned() });
        };
        let unknown = || SchemaError::UnknownReference { pointer: pointer.to_owned() };
        let path = percent_decoded(path).ok_or_else(unknown)?;
        if !path.is_empty() && !path.starts_with('/') {
            return Err(unknown());
        }
        let mut found = self.root;
        for segment in path.split('/').skip(1) {
            let name = segment.replace("~1", "/").replace("~0", "~");
            let next = match found.kind() {
                Kind::Array => name.parse().ok().and_then(|index| found.elements().nth(index)),
                _ => found.member(&name),
            };
            found = next.ok_or_else(unknown)?;
        }
        self.node(found, &path)
    }
}

/// Refuses a reference out of the schema wherever it stands, also in parts that are not checked.
fn remote_reference(raw: Raw<'_>, pointer: &str) -> Result<(), SchemaError> {
    for (index, item) in raw.elements().enumerate() {
        remote_reference(item, &format!("{pointer}/{index}"))?;
    }
    for (key, value) in raw.members() {
        let refers = matches!(&*key, "$ref" | "$dynamicRef" | "$recursiveRef");
        if refers && value.string().is_some_and(|target| !target.starts_with('#')) {
            return Err(SchemaError::RemoteReference { pointer: pointer.to_owned() });
        }
        remote_reference(value, &format!("{pointer}/{}", escaped(&key)))?;
    }
    Ok(())
}

/// Keywords that constrain nothing, or whose content is reached by another way.
fn is_silent(keyword: &str, pointer: &str) -> bool {
    match keyword {
        "title" | "description" | "default" | "examples" | "example" | "$schema" | "$comment" | "deprecated" | "readOnly" | "writeOnly" | "$defs"
        | "definitions" | "then" | "else" => true,
        "$id" => pointer.is_empty(),
        _ => keyword.starts_with("x-"),
    }
}

fn limit(keyword: &str) -> Limit {
    match keyword {
        "minimum" => Limit::Least,
        "maximum" => Limit::Most,
        "exclusiveMinimum" => Limit::Above,
        _ => Limit::Below,
    }
}

fn types(value: Raw<'_>) -> Option<Vec<Type>> {
    match value.kind() {
        Kind::String => Some(vec![Type::parse(&value.string()?)?]),
        Kind::Array => value.elements().map(|name| Type::parse(&name.string()?)).collect(),
        _ => None,
    }
}

fn strings(value: Raw<'_>) -> Option<Vec<String>> {
    if value.kind() != Kind::Array {
        return None;
    }
    value.elements().map(|name| name.string().map(Into::into)).collect()
}

fn size(value: Raw<'_>) -> Option<u64> {
    value.integer().and_then(|size| u64::try_from(size).ok())
}

fn form(value: Raw<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let _ = canonical(value, &mut out);
    out
}

/// Both `enum` and `const` hold where both stand.
fn narrowed(before: Option<Vec<Vec<u8>>>, mut now: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    if let Some(before) = before {
        now.retain(|value| before.contains(value));
    }
    now
}

/// One segment of a JSON pointer (RFC 6901 section 3).
pub(super) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, tail)) = rest.split_once('%') {
        out.extend_from_slice(plain.as_bytes());
        out.push(u8::from_str_radix(tail.get(..2)?, 16).ok()?);
        rest = tail.get(2..)?;
    }
    out.extend_from_slice(rest.as_bytes());
    String::from_utf8(out).ok()
}

impl Bounds {
    pub(super) fn admit(self, count: usize) -> bool {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.least.is_none_or(|least| count >= least) && self.most.is_none_or(|most| count <= most)
    }

    /// Like `at least 1 and at most 5 things`.
    pub(super) fn words(self, things: &str) -> String {
        match (self.least, self.most) {
            (Some(least), Some(most)) => format!("at least {least} and at most {most} {things}"),
            (Some(least), None) => format!("at least {least} {things}"),
            (None, Some(most)) => format!("at most {most} {things}"),
            (None, None) => format!("any number of {things}"),
        }
    }
}
