//! OpenAPI 3.0 and 3.1 documents as operations that can be offered as tools, and requests built from their checked arguments.
//!
//! What a document says about servers is not read, and of security only which parameters are credentials, so that no argument is one: where requests
//! go and with which credential is the configuration's business.
//! A request that is built has the path of its template with each parameter inside its own segment, whatever the arguments say.

mod component;
mod convert;
mod encode;
mod operation;
mod request;
mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::json::{JsonError, Limits, Raw, RawBuf};
use crate::schema::Schema;

pub use request::{Request, RequestError};

use component::Components;
use convert::{Converter, Direction};
use template::Segment;

/// Longest document in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// Most operations of one document.
pub const OPERATIONS_MAX: usize = 5_000;
/// Most operations that are taken from one document.
pub const TAKEN_MAX: usize = 500;
/// Longest schema of one operation's arguments, in bytes.
pub const SCHEMA_BYTES_MAX: usize = 128 << 10;
/// Longest schema of an answer that is kept, in bytes. A longer one would cost the model more than it tells.
pub const ANSWER_SCHEMA_BYTES_MAX: usize = 8 << 10;

const LIMITS: Limits = Limits { bytes: DOCUMENT_BYTES_MAX, depth: 64, keys: 10_000, string: 1 << 20, refuse_nul: true };

/// The methods that operations are taken of (RFC 9110 section 9.3, RFC 5789).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// The word of the request line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    fn of_key(key: &str) -> Option<Self> {
        Some(match key {
            "get" => Self::Get,
            "head" => Self::Head,
            "post" => Self::Post,
            "put" => Self::Put,
            "patch" => Self::Patch,
            "delete" => Self::Delete,
            _ => return None,
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which operations of a document are wanted, and what of them the caller sets itself.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// Is the operation of this tool name wanted?
    pub wanted: &'a dyn Fn(&str) -> bool,
    /// Headers that the caller sets, in any case: parameters of these names are left out.
    pub headers: &'a [&'a str],
    /// Parameters of the query that the caller sets.
    pub query: &'a [&'a str],
}

impl fmt::Debug for Choice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Choice").field("headers", &self.headers).field("query", &self.query).finish_non_exhaustive()
    }
}

/// Why nothing of a document is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    #[error("expected an OpenAPI document in JSON (one in YAML is to be converted first): {0}")]
    Json(#[from] JsonError),
    #[error("expected `openapi` to be 3.0 or 3.1, with a number for the patch")]
    Version,
    #[error("expected an object at `{0}`")]
    Object(String),
    #[error("it has more than {OPERATIONS_MAX} operations")]
    Operations,
    #[error("more than {TAKEN_MAX} operations are chosen: name those that are needed")]
    Taken,
    #[error("`{one}` and `{other}` would both be the tool `{name}`: exclude it, or give one of them another `operationId`")]
    SameName {
        /// The tool's name.
        name: String,
        /// Method and path.
        one: String,
        /// Method and path.
        other: String,
    },
}

/// The operations of a document.
#[derive(Debug, Clone)]
pub struct Document {
    operations: Vec<Operation>,
    skipped: Vec<Skipped>,
}

/// A wanted operation that cannot be offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The tool that it would have been.
    pub name: String,
    /// Method and path.
    pub operation: String,
    /// Why not, in plain words.
    pub why: String,
}

impl Document {
    /// Reads a document. Operations that cannot be offered safely are skipped and listed.
    ///
    /// # Errors
    /// [`DocumentError`] if it is no such document, is too large, or two wanted operations have the same name.
    pub fn parse(bytes: &[u8], choice: &Choice<'_>) -> Result<Self, DocumentError> {
        let root = Raw::parse(bytes, &LIMITS)?;
        let components = Components::new(root)?;
        let found = wanted(root, &components, choice)?;
        let mut requests = Converter::new(&components, Direction::Request);
        let mut answers = Converter::new(&components, Direction::Answer);
        let mut document = Self { operations: Vec::new(), skipped: Vec::new() };
        for found in found {
            match operation::parse(&found, choice, &components, &mut requests, &mut answers) {
                Ok(operation) => document.operations.push(operation),
                Err(why) => document.skipped.push(Skipped { operation: found.label(), name: found.name, why }),
            }
        }
        Ok(document)
    }

    /// What can be offered, in the order of the document.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// What was wanted and cannot be offered.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }
}

/// An operation as it stands in a document, with the tool name that it gets.
struct Found<'d> {
    name: String,
    method: Method,
    path: String,
    item: Raw<'d>,
    raw: Raw<'d>,
}

impl Found<'_> {
    fn label(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

fn wanted<'d>(root: Raw<'d>, components: &Components<'d>, choice: &Choice<'_>) -> Result<Vec<Found<'d>>, DocumentError> {
    let mut found: Vec<Found<'d>> = Vec::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut count = 0_usize;
    let paths = match root.member("paths") {
        Some(paths) if paths.is_object() => paths,
        Some(_) => return Err(DocumentError::Object("/paths".to_owned())),
        None => return Ok(found),
    };
    for (path, item) in paths.members().filter(|(path, _)| !path.starts_with("x-")) {
        let item = components.resolve(item).unwrap_or(item);
        for (key, raw) in item.members() {
            let Some(method) = Method::of_key(&key) else { continue };
            count = count.saturating_add(1);
            if count > OPERATIONS_MAX {
                return Err(DocumentError::Operations);
            }
            let name = tool_name(raw, method, &path);
            if !(choice.wanted)(&name) {
                continue;
            }
            let one = Found { name, method, path: path.clone().into_owned(), item, raw };
            if let Some(other) = names.get(&one.name).and_then(|at| found.get(*at)) {
                return Err(DocumentError::SameName { name: one.name.clone(), one: other.label(), other: one.label() });
            }
            names.insert(one.name.clone(), found.len());
            found.push(one);
            if found.len() > TAKEN_MAX {
                return Err(DocumentError::Taken);
            }
        }
    }
    Ok(found)
}

/// The `operationId`, or method and path, as 1 to 64 letters, digits, `_` and `-`: what every client takes for a tool's name.
fn tool_name(raw: Raw<'_>, method: Method, path: &str) -> String {
    let id = raw.member("operationId").and_then(Raw::string).map(|id| cleaned(&id)).filter(|id| !id.is_empty());
    id.unwrap_or_else(|| cleaned(&format!("{}_{path}", method.as_str().to_ascii_lowercase())))
}

/// At most 64 letters, digits, `_` and `-`; whatever else stands there is one `_`, and none at the ends. Of a longer text the beginning stays, with a
/// number made of the whole, so that names that begin alike stay apart.
fn cleaned(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_ascii_alphanumeric() || c == '-' => out.push(c),
            _ if out.is_empty() || out.ends_with('_') => {}
            _ => out.push('_'),
        }
    }
    out.truncate(out.trim_end_matches('_').len());
    if out.len() > 64 {
        // FNV-1a: two names that share it are refused like any two of one name.
        let number = out.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        out.truncate(53);
        out.push_str(&format!("_{:010x}", number >> 24));
    }
    out
}

/// One operation: what a tool says of it, and how a call of it becomes a request.
#[derive(Debug, Clone)]
pub struct Operation {
    name: String,
    method: Method,
    path: String,
    segments: Vec<Segment>,
    parameters: Vec<Parameter>,
    body: Option<Requirement>,
    title: Option<String>,
    description: Option<String>,
    input: RawBuf,
    schema: Schema,
    answer: Option<RawBuf>,
    left_out: BTreeSet<String>,
}

/// A parameter of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parameter {
    /// The member of the arguments.
    argument: String,
    /// The name at the API.
    name: String,
    place: Place,
    lists: Lists,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Path,
    Query,
    Header,
}

/// How an array is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lists {
    /// `a=1&a=2`
    Repeated,
    /// `a=1,2`
    Commas,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Requirement {
    Required,
    Optional,
}

impl Operation {
    /// The tool's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The path's template, as the document has it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The operation's summary.
    #[must_use]
    pub fn title(&self) -> Option<&str> {
        self.title.as_deref()
    }

    /// What the document says of it, cut to 2,000 characters.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The schema of its arguments: a closed object of its parameters and, as `body`, the JSON that is sent.
    #[must_use]
    pub fn input_schema(&self) -> Raw<'_> {
        self.input.raw()
    }

    /// The schema of a successful answer in JSON, if the document has a short one.
    #[must_use]
    pub fn answer_schema(&self) -> Option<Raw<'_>> {
        self.answer.as_ref().map(RawBuf::raw)
    }

    /// Optional parameters of the document that cannot be given, such as cookies, and those that the caller sets itself.
    pub fn left_out(&self) -> impl Iterator<Item = &str> {
        self.left_out.iter().map(String::as_str)
    }

    /// The request for these arguments.
    ///
    /// # Errors
    /// [`RequestError`] if they do not fit the schema, or cannot be written in their places.
    pub fn request(&self, arguments: Raw<'_>) -> Result<Request, RequestError> {
        request::build(self, arguments)
    }
}

#[cfg(test)]
mod tests;
