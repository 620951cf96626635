//! From checked arguments to a request: each value encoded for its place, so that it can end nothing but itself.

use std::fmt;

use super::operation::BODY;
use super::template::Piece;
use super::{Lists, Method, Operation, Parameter, Place, Requirement, encode};
use crate::json::{Kind, Raw};
use crate::schema::Violation;

/// Longest path and query, in bytes.
const TARGET_MAX: usize = 8 << 10;
/// Longest header, in bytes.
const HEADER_MAX: usize = 4 << 10;
/// Longest body, in bytes.
const BODY_MAX: usize = 1 << 20;

/// A request below some base address.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, which begins with `/`, and the query, percent-encoded.
    pub target: String,
    /// Name and value; the values have printable ASCII only.
    pub headers: Vec<(String, String)>,
    /// JSON.
    pub body: Option<String>,
}

impl fmt::Debug for Request {
    /// Arguments may hold what a log must not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.body.as_ref().map(String::len);
        f.debug_struct("Request").field("method", &self.method).field("target_bytes", &self.target.len()).field("body_bytes", &length).finish()
    }
}

/// Why there is no request. The words do not repeat values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    #[error("the arguments do not fit: {0}")]
    Arguments(#[from] Violation),
    #[error("`{argument}` {why}")]
    Argument {
        /// The member of the arguments.
        argument: String,
        /// What it must be.
        why: &'static str,
    },
    #[error("the request is too long: its path and query may have {TARGET_MAX} bytes, each header {HEADER_MAX}, its body {BODY_MAX}")]
    TooLong,
}

pub(super) fn build(operation: &Operation, arguments: Raw<'_>) -> Result<Request, RequestError> {
    operation.schema.check(arguments)?;
    let mut target = path(operation, arguments)?;
    let mut separator = '?';
    let mut headers = Vec::new();
    for parameter in &operation.parameters {
        let Some(given) = arguments.member(&parameter.argument) else { continue };
        let values = values(parameter, given)?;
        match parameter.place {
            Place::Path => {}
            Place::Query => query(&mut target, &mut separator, parameter, &values),
            Place::Header if values.is_empty() => {}
            Place::Header => headers.push((parameter.name.clone(), header(parameter, &values)?)),
        }
    }
    let body = match operation.body {
        None => None,
        Some(requirement) => match (arguments.member(BODY), requirement) {
            (Some(body), _) => Some(body.text().to_owned()),
            (None, Requirement::Optional) => None,
            (None, Requirement::Required) => return Err(wrong(BODY, "is missing")),
        },
    };
    let too_long = target.len() > TARGET_MAX || headers.iter().any(|(_, value)| value.len() > HEADER_MAX);
    if too_long || body.as_ref().is_some_and(|body| body.len() > BODY_MAX) {
        return Err(RequestError::TooLong);
    }
    Ok(Request { method: operation.method, target, headers, body })
}

fn path(operation: &Operation, arguments: Raw<'_>) -> Result<String, RequestError> {
    let mut path = String::new();
    for segment in &operation.segments {
        path.push('/');
        // As a server sees it after decoding.
        let mut seen = String::new();
        let mut last = None;
        for piece in segment {
            match piece {
                Piece::Literal(text) => {
                    path.push_str(text);
                    seen.push_str(text);
                }
                Piece::Parameter(name) => {
                    let parameter = operation.parameters.iter().find(|p| p.place == Place::Path && p.name == *name);
                    let parameter = parameter.ok_or_else(|| wrong(name, "is not described"))?;
                    let given = arguments.member(&parameter.argument).ok_or_else(|| wrong(&parameter.argument, "is missing"))?;
                    let text = path_value(parameter, given, &mut path)?;
                    seen.push_str(&text);
                    last = Some(&parameter.argument);
                }
            }
        }
        if let Some(argument) = last {
            encode::in_path(&seen).map_err(|why| wrong(argument, why))?;
        }
    }
    Ok(path)
}

/// Appends the value to the path, and gives it as a server sees it.
fn path_value(parameter: &Parameter, given: Raw<'_>, path: &mut String) -> Result<String, RequestError> {
    let values = values(parameter, given)?;
    if values.is_empty() {
        return Err(wrong(&parameter.argument, "must not be empty"));
    }
    for (index, value) in values.iter().enumerate() {
        encode::in_path(value).map_err(|why| wrong(&parameter.argument, why))?;
        if index > 0 {
            path.push(',');
        }
        encode::value(path, value);
    }
    Ok(values.join(","))
}

/// The texts of a value, one for each element.
fn values(parameter: &Parameter, given: Raw<'_>) -> Result<Vec<String>, RequestError> {
    match given.kind() {
        Kind::Array => given.elements().map(|element| scalar(parameter, element)).collect(),
        Kind::Null | Kind::Boolean | Kind::Number | Kind::String | Kind::Object => scalar(parameter, given).map(|value| vec![value]),
    }
}

fn scalar(parameter: &Parameter, given: Raw<'_>) -> Result<String, RequestError> {
    match given.kind() {
        Kind::String => given.string().map(std::borrow::Cow::into_owned).ok_or_else(|| wrong(&parameter.argument, "must be text")),
        Kind::Boolean => Ok(given.text().to_owned()),
        Kind::Number if given.text().bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.')) => Ok(given.text().to_owned()),
        Kind::Number => Err(wrong(&parameter.argument, "must be a number without an exponent")),
        Kind::Null | Kind::Array | Kind::Object => Err(wrong(&parameter.argument, "must be text, a number, true or false, or a list of such")),
    }
}

fn query(target: &mut String, separator: &mut char, parameter: &Parameter, values: &[String]) {
    let mut begin = |target: &mut String| {
        target.push(*separator);
        *separator = '&';
        encode::value(target, &parameter.name);
        target.push('=');
    };
    match parameter.lists {
        Lists::Repeated => {
            for value in values {
                begin(target);
                encode::value(target, value);
            }
        }
        Lists::Commas if values.is_empty() => {}
        Lists::Commas => {
            begin(target);
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    target.push(',');
                }
                encode::value(target, value);
            }
        }
    }
}

/// A field value of RFC 9110 section 5.5, without what servers read differently.
fn header(parameter: &Parameter, values: &[String]) -> Result<String, RequestError> {
    for value in values {
        if value.is_empty() || value.starts_with(' ') || value.ends_with(' ') {
            return Err(wrong(&parameter.argument, "must not be empty in a header, nor begin or end with a space"));
        }
        if !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(wrong(&parameter.argument, "must be printable ASCII, because it goes into a header"));
        }
        if values.len() > 1 && value.contains(',') {
            return Err(wrong(&parameter.argument, "must not have commas within the elements of a list in a header"));
        }
    }
    Ok(values.join(","))
}

fn wrong(argument: &str, why: &'static str) -> RequestError {
    RequestError::Argument { argument: argument.to_owned(), why }
}
