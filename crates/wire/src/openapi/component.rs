//! References within a document. Nothing outside of it is ever looked at.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::DocumentError;
use crate::json::{Kind, Raw};

/// References that lead to references.
const HOPS_MAX: usize = 16;
/// Look-ups that must walk through the whole document.
const WALKS_MAX: usize = 2_000;

/// A document with an index of its components.
pub(super) struct Components<'d> {
    root: Raw<'d>,
    index: BTreeMap<String, BTreeMap<String, Raw<'d>>>,
    is_3_0: bool,
    walks: Cell<usize>,
}

impl<'d> Components<'d> {
    pub(super) fn new(root: Raw<'d>) -> Result<Self, DocumentError> {
        let version = root.member("openapi").and_then(Raw::string).ok_or(DocumentError::Version)?;
        let minor = version.rsplit_once('.').filter(|(_, patch)| patch.parse::<u16>().is_ok()).map(|(minor, _)| minor);
        let is_3_0 = match minor {
            Some("3.0") => true,
            Some("3.1") => false,
            _ => return Err(DocumentError::Version),
        };
        let sections = root.member("components").into_iter().flat_map(Raw::members);
        let index = sections.map(|(section, all)| (section.into_owned(), all.members().map(|(name, one)| (name.into_owned(), one)).collect()));
        Ok(Self { root, index: index.collect(), is_3_0, walks: Cell::new(0) })
    }

    pub(super) const fn is_3_0(&self) -> bool {
        self.is_3_0
    }

    /// Is a parameter of this name and place (`header`, `query`) a credential of the API? It is never given by arguments.
    pub(super) fn is_credential(&self, place: &str, name: &str) -> bool {
        self.index.get("securitySchemes").into_iter().flatten().any(|(_, scheme)| {
            let says = |member: &str, text: &str| scheme.member(member).and_then(Raw::string).is_some_and(|said| said.eq_ignore_ascii_case(text));
            says("type", "apiKey") && says("in", place) && says("name", name)
        })
    }

    /// What a value is, if it is a reference; else the value itself.
    pub(super) fn resolve(&self, raw: Raw<'d>) -> Result<Raw<'d>, String> {
        let mut found = raw;
        for _ in 0..HOPS_MAX {
            match found.member("$ref").and_then(Raw::string) {
                Some(reference) => found = self.find(pointer_of(&reference)?)?,
                None => return Ok(found),
            }
        }
        Err("its references go in circles".to_owned())
    }

    /// What stands at a JSON pointer (RFC 6901), which begins with `/`.
    pub(super) fn find(&self, pointer: &str) -> Result<Raw<'d>, String> {
        let mut segments = pointer.split('/').skip(1).map(unescaped);
        let (first, section, name) = (segments.next(), segments.next(), segments.next());
        let mut found = match (first.as_deref(), section, name) {
            (Some("components"), Some(section), Some(name)) => {
                self.index.get(&section).and_then(|all| all.get(&name)).copied().ok_or_else(|| nowhere(pointer))?
            }
            _ => return self.walk(pointer),
        };
        for segment in segments {
            found = step(found, &segment).ok_or_else(|| nowhere(pointer))?;
        }
        Ok(found)
    }

    fn walk(&self, pointer: &str) -> Result<Raw<'d>, String> {
        self.walks.set(self.walks.get().saturating_add(1));
        if self.walks.get() > WALKS_MAX {
            return Err("the document has too many references outside of its components".to_owned());
        }
        let mut segments = pointer.split('/').skip(1).map(unescaped);
        segments.try_fold(self.root, |found, segment| step(found, &segment)).ok_or_else(|| nowhere(pointer))
    }
}

/// The pointer of a reference within the document.
pub(super) fn pointer_of(reference: &str) -> Result<&str, String> {
    match reference.strip_prefix('#') {
        Some(pointer) if pointer.starts_with('/') && !pointer.contains('%') => Ok(pointer),
        Some(_) => Err("it has a reference that is no plain JSON pointer".to_owned()),
        None => Err("it refers to another document, which is never fetched".to_owned()),
    }
}

fn step<'d>(found: Raw<'d>, segment: &str) -> Option<Raw<'d>> {
    match found.kind() {
        Kind::Array => segment.parse().ok().and_then(|index| found.elements().nth(index)),
        _ => found.member(segment),
    }
}

fn unescaped(segment: &str) -> String {
    segment.replace("~1", "/").replace("~0", "~")
}

fn nowhere(pointer: &str) -> String {
    let pointer: String = pointer.chars().filter(|c| !c.is_control()).take(120).collect();
    format!("the reference `#{pointer}` leads nowhere")
}
