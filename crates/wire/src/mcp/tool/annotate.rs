//! `x-mcp-header` annotations of an input schema: which parameters a call mirrors into headers.

use super::ToolError;
use crate::json::{Kind, Raw};
use crate::mcp::headers::{HeaderKind, HeaderParam};

const KEYWORD: &str = "x-mcp-header";

/// Collects the annotations. One that is wrong drops the tool, as the specification demands of clients.
pub(super) fn header_params(schema: Raw<'_>) -> Result<Vec<HeaderParam>, ToolError> {
    let mut found = Vec::new();
    let mut path = Vec::new();
    reachable(schema, &mut path, &mut found)?;
    Ok(found)
}

/// Visits a schema that is reached through `properties` only.
fn reachable(schema: Raw<'_>, path: &mut Vec<String>, found: &mut Vec<HeaderParam>) -> Result<(), ToolError> {
    if let Some(value) = schema.member(KEYWORD) {
        let param = annotation(schema, value, path, found)?;
        found.push(param);
    }
    for (keyword, value) in schema.members() {
        match &*keyword {
            "properties" => {
                for (name, property) in value.members() {
                    path.push(name.into_owned());
                    reachable(property, path, found)?;
                    path.pop();
                }
            }
            _ => unreachable_part(&keyword, value, path)?,
        }
    }
    Ok(())
}

/// Visits what no header may mirror: items, alternatives, definitions. An annotation there is wrong.
fn unreachable_part(keyword: &str, value: Raw<'_>, path: &[String]) -> Result<(), ToolError> {
    if matches!(keyword, "default" | "const" | "enum" | "examples" | "example") {
        return Ok(());
    }
    match value.kind() {
        Kind::Array => value.elements().try_for_each(|item| unreachable_part("", item, path)),
        Kind::Object => {
            // Members of these are named by the author; of all others, by JSON Schema.
            let named = matches!(keyword, "properties" | "$defs" | "definitions" | "patternProperties" | "dependentSchemas");
            value.members().try_for_each(|(key, member)| {
                if !named && key == KEYWORD {
                    return Err(wrong(path, "only a parameter reached through `properties` can have one"));
                }
                unreachable_part(if named { "" } else { &key }, member, path)
            })
        }
        _ => Ok(()),
    }
}

fn annotation(schema: Raw<'_>, value: Raw<'_>, path: &[String], found: &[HeaderParam]) -> Result<HeaderParam, ToolError> {
    let header = value.string().filter(|name| is_token(name));
    let header = header.ok_or_else(|| wrong(path, "must be a header name"))?.into_owned();
    if found.iter().any(|param| param.header.eq_ignore_ascii_case(&header)) {
        return Err(wrong(path, "one header stands for two parameters"));
    }
    let kind = match schema.member("type").and_then(Raw::string).as_deref() {
        Some("string") => HeaderKind::String,
        Some("integer") => HeaderKind::Integer,
        Some("boolean") => HeaderKind::Boolean,
        _ => {
            return Err(wrong(path, "the parameter must be a string, an integer or a boolean"));
        }
    };
    Ok(HeaderParam { header, path: path.to_vec(), kind })
}

fn wrong(path: &[String], reason: &'static str) -> ToolError {
    let pointer = path.iter().map(|name| format!("/{name}")).collect();
    ToolError::HeaderAnnotation { pointer, reason }
}

/// RFC 9110 section 5.6.2, of bounded length.
fn is_token(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
