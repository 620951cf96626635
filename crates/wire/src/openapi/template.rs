//! Path templates: segments of literal text and parameters, of which none can become two.

use super::encode;

/// Most segments of a path.
const SEGMENTS_MAX: usize = 64;

/// One segment of a path.
pub(super) type Segment = Vec<Piece>;

/// A piece of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// As it is sent.
    Literal(String),
    /// The name of a parameter at the API.
    Parameter(String),
}

/// The segments of a template such as `/pets/{petId}`. The last is empty if the path ends with a slash.
pub(super) fn parse(path: &str) -> Result<Vec<Segment>, String> {
    let rest = path.strip_prefix('/').ok_or("its path does not begin with `/`")?;
    if rest.contains(['?', '#']) {
        return Err("its path has a `?` or a `#`".to_owned());
    }
    let all: Vec<&str> = rest.split('/').collect();
    if all.len() > SEGMENTS_MAX {
        return Err(format!("its path has more than {SEGMENTS_MAX} segments"));
    }
    let last = all.len().saturating_sub(1);
    let mut segments = Vec::with_capacity(all.len());
    for (index, text) in all.into_iter().enumerate() {
        if text.is_empty() && index != last {
            return Err("its path has an empty segment".to_owned());
        }
        segments.push(segment(text)?);
    }
    Ok(segments)
}

fn segment(text: &str) -> Result<Segment, String> {
    let mut pieces: Segment = Vec::new();
    let mut rest = text;
    while let Some((literal, tail)) = rest.split_once('{') {
        let (name, after) = tail.split_once('}').ok_or("its path has a `{` without `}`")?;
        if name.is_empty() || name.contains('{') {
            return Err("its path has a parameter without a name".to_owned());
        }
        push_literal(&mut pieces, literal)?;
        if matches!(pieces.last(), Some(Piece::Parameter(_))) {
            return Err("its path has two parameters side by side, which cannot be told apart".to_owned());
        }
        pieces.push(Piece::Parameter(name.to_owned()));
        rest = after;
    }
    push_literal(&mut pieces, rest)?;
    if matches!(pieces.as_slice(), [Piece::Literal(only)] if encode::is_dots(only)) {
        return Err("its path has a `.` or `..`".to_owned());
    }
    Ok(pieces)
}

fn push_literal(pieces: &mut Segment, literal: &str) -> Result<(), String> {
    if literal.is_empty() {
        return Ok(());
    }
    if literal.contains(['}', '%', '\\']) || literal.chars().any(char::is_control) {
        return Err("its path has characters that paths of different servers mean differently".to_owned());
    }
    let mut text = String::new();
    encode::literal(&mut text, literal);
    pieces.push(Piece::Literal(text));
    Ok(())
}
