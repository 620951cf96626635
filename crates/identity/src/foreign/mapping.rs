//! Which tokens of an issuer are an agent's: claims that are wanted, each exact or a template with one bounded star. Never a regular
//! expression: what a subject can lengthen, it cannot make fit.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// The most claims that one mapping wants.
const CLAIMS_MAX: usize = 16;
/// The longest path of a claim, in bytes, and its most steps.
const PATH_MAX: usize = 256;
const STEPS_MAX: usize = 8;
/// The longest value that is compared, and what a star stands for at most, in bytes.
const VALUE_MAX: usize = 1024;
const STAR_MAX: usize = 255;
/// Segments that stand before the star in the pattern of a subject: what names the party that may mint further subjects.
const PINNED_MIN: usize = 2;

/// Why a mapping is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MappingError {
    /// A claim's name is no path.
    #[error("`{0}` is no claim: write the name of a claim, or a JSON pointer such as `/kubernetes.io/serviceaccount/name`")]
    Path(String),
    /// A value is no pattern.
    #[error("`{0}` is no pattern: at most one `*`, standing for one whole segment between `/` or `:`, and not alone")]
    Pattern(String),
    /// One claim is wanted twice.
    #[error("the claim `{0}` is wanted twice")]
    Twice(String),
    /// The subject is not wanted, or is pinned too loosely.
    #[error("`sub` must be pinned: an exact text, or a pattern whose first two segments are fixed")]
    Subject,
    /// Too many claims are wanted.
    #[error("more than {CLAIMS_MAX} claims are wanted")]
    TooMany,
}

/// Where a claim stands: its name, or a JSON pointer (RFC 6901) to a claim inside another one.
#[derive(Clone)]
pub struct ClaimPath {
    steps: Vec<String>,
}

impl ClaimPath {
    /// The names to follow; never empty.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        &self.steps
    }

    fn is_subject(&self) -> bool {
        matches!(self.steps.as_slice(), [one] if one == "sub")
    }
}

impl FromStr for ClaimPath {
    type Err = MappingError;

    /// A text that begins with `/` is a JSON pointer; every other text is the name of one claim, dots and slashes included.
    fn from_str(text: &str) -> Result<Self, MappingError> {
        let wrong = || MappingError::Path(text.chars().take(80).flat_map(char::escape_debug).collect());
        if text.is_empty() || text.len() > PATH_MAX || text.chars().any(char::is_control) {
            return Err(wrong());
        }
        let steps = match text.strip_prefix('/') {
            None => vec![text.to_owned()],
            Some(rest) => rest.split('/').map(unescaped).collect::<Option<Vec<_>>>().ok_or_else(wrong)?,
        };
        if steps.len() > STEPS_MAX || steps.iter().any(String::is_empty) { Err(wrong()) } else { Ok(Self { steps }) }
    }
}

//= rfc6901#section-4
// Evaluation of each reference token begins by decoding any escaped character sequence. This is performed by first transforming any
// occurrence of the sequence '~1' to '/', and then transforming any occurrence of the sequence '~0' to '~'.
fn unescaped(token: &str) -> Option<String> {
    let good = token.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    good.then(|| token.replace("~1", "/").replace("~0", "~"))
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.steps.as_slice() {
            [one] if !one.starts_with('/') => f.write_str(one),
            all => all.iter().try_for_each(|step| write!(f, "/{}", step.replace('~', "~0").replace('/', "~1"))),
        }
    }
}

impl fmt::Debug for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for ClaimPath {
    fn eq(&self, other: &Self) -> bool {
        self.steps == other.steps
    }
}

impl Eq for ClaimPath {}

impl PartialOrd for ClaimPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ClaimPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.steps.cmp(&other.steps)
    }
}

/// A text, or a template: one `*` stands for one whole segment between `/` or `:`, of 1 to 255 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The text, or what stands before the star.
    before: String,
    /// What stands after the star.
    after: Option<String>,
}

impl FromStr for Pattern {
    type Err = MappingError;

    fn from_str(text: &str) -> Result<Self, MappingError> {
        let wrong = || MappingError::Pattern(text.chars().take(80).flat_map(char::escape_debug).collect());
        if text.is_empty() || text.len() > VALUE_MAX || text.chars().any(char::is_control) {
            return Err(wrong());
        }
        let Some((before, after)) = text.split_once('*') else { return Ok(Self { before: text.to_owned(), after: None }) };
        let begins = before.is_empty() || before.ends_with(DELIMITERS);
        let ends = after.is_empty() || after.starts_with(DELIMITERS);
        // A star alone says nothing of the value: leave the claim out, then.
        let fixed = !(before.is_empty() && after.is_empty());
        if begins && ends && fixed && !after.contains('*') {
            Ok(Self { before: before.to_owned(), after: Some(after.to_owned()) })
        } else {
            Err(wrong())
        }
    }
}

/// What ends a segment.
const DELIMITERS: [char; 2] = ['/', ':'];

impl Pattern {
    /// Does this text fit?
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        let Some(after) = &self.after else { return self.before == text };
        let star = text.strip_prefix(self.before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
        star.is_some_and(|star| (1..=STAR_MAX).contains(&star.len()) && star.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':'))
    }

    /// The fixed text with which every text that fits begins.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.before
    }

    /// Is there no text that fits both? A star is a whole segment, so they can be compared segment by segment.
    fn is_apart_from(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.segments(), other.segments());
        let apart = |(a, b): (&Segment<'_>, &Segment<'_>)| match (a, b) {
            (Segment::Star, Segment::Star) => false,
            (Segment::Star, Segment::Text(text)) | (Segment::Text(text), Segment::Star) => text.is_empty() || text.starts_with(DELIMITERS),
            (Segment::Text(a), Segment::Text(b)) => a != b,
        };
        mine.len() != theirs.len() || mine.iter().zip(&theirs).any(apart)
    }

    /// Segments and the delimiters between them, in turn.
    fn segments(&self) -> Vec<Segment<'_>> {
        let mut all = Vec::new();
        split(&self.before, &mut all);
        if let Some(after) = &self.after {
            // What `before` ends with is the empty segment in which the star stands.
            all.pop();
            all.push(Segment::Star);
            let mut rest = Vec::new();
            split(after, &mut rest);
            all.extend(rest.into_iter().skip(1));
        }
        all
    }

    /// Is the subject pinned by this? The star, if there is one, stands behind what names who may mint further subjects.
    fn pins(&self) -> bool {
        let segments = self.before.split(DELIMITERS).filter(|segment| !segment.is_empty()).count();
        self.after.is_none() || segments >= PINNED_MIN
    }
}

enum Segment<'a> {
    /// A segment or a delimiter.
    Text(&'a str),
    /// One segment that is not empty.
    Star,
}

fn split<'a>(text: &'a str, into: &mut Vec<Segment<'a>>) {
    let mut rest = text;
    while let Some(at) = rest.find(DELIMITERS) {
        let (segment, after) = rest.split_at_checked(at).unwrap_or((rest, ""));
        let (delimiter, after) = after.split_at_checked(1).unwrap_or((after, ""));
        into.extend([Segment::Text(segment), Segment::Text(delimiter)]);
        rest = after;
    }
    into.push(Segment::Text(rest));
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.after {
            None => f.write_str(&self.before),
            Some(after) => write!(f, "{}*{after}", self.before),
        }
    }
}

/// What a claim must be. A claim of another type, a list of values too, never fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A text.
    Text(Pattern),
    /// A whole number.
    Integer(i64),
    /// True or false.
    Bool(bool),
}

impl Wanted {
    fn fits(&self, value: &Value) -> bool {
        match self {
            Self::Text(pattern) => value.as_str().is_some_and(|text| text.len() <= VALUE_MAX && pattern.fits(text)),
            Self::Integer(number) => value.as_i64() == Some(*number),
            Self::Bool(yes) => value.as_bool() == Some(*yes),
        }
    }

    fn is_apart_from(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.is_apart_from(b),
            (Self::Integer(a), Self::Integer(b)) => a != b,
            (Self::Bool(a), Self::Bool(b)) => a != b,
            _ => true,
        }
    }
}

/// The claims that make a token an agent's. All of them must fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping(BTreeMap<ClaimPath, Wanted>);

impl Mapping {
    /// A mapping that pins the subject.
    ///
    /// # Errors
    /// `Subject` if it does not; `Twice` or `TooMany`.
    pub fn new(claims: impl IntoIterator<Item = (ClaimPath, Wanted)>) -> Result<Self, MappingError> {
        let mapping = Self::bounding(claims)?;
        let pinned = |wanted: &Wanted| matches!(wanted, Wanted::Text(pattern) if pattern.pins());
        if mapping.subject().is_some_and(pinned) { Ok(mapping) } else { Err(MappingError::Subject) }
    }

    /// A mapping that only bounds further what is pinned otherwise. It may be empty, and fits everything then.
    ///
    /// # Errors
    /// `Twice` or `TooMany`.
    pub fn bounding(claims: impl IntoIterator<Item = (ClaimPath, Wanted)>) -> Result<Self, MappingError> {
        let mut all = BTreeMap::new();
        for (path, wanted) in claims {
            if all.contains_key(&path) {
                return Err(MappingError::Twice(path.to_string()));
            }
            all.insert(path, wanted);
            if all.len() > CLAIMS_MAX {
                return Err(MappingError::TooMany);
            }
        }
        Ok(Self(all))
    }

    /// What the subject must be, if that is said.
    #[must_use]
    pub fn subject(&self) -> Option<&Wanted> {
        self.0.iter().find(|(path, _)| path.is_subject()).map(|(_, wanted)| wanted)
    }

    /// Could one token fit both? True also where only the issuer could know better.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.0.iter().any(|(path, mine)| other.0.get(path).is_some_and(|theirs| mine.is_apart_from(theirs)))
    }

    pub(super) fn fits<'v>(&self, at: impl Fn(&ClaimPath) -> Option<&'v Value>) -> bool {
        self.0.iter().all(|(path, wanted)| at(path).is_some_and(|value| wanted.fits(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    fn path(text: &str) -> ClaimPath {
        text.parse().unwrap()
    }

    fn wants(all: &[(&str, &str)]) -> Mapping {
        Mapping::bounding(all.iter().map(|(p, w)| (path(p), Wanted::Text(pattern(w))))).unwrap()
    }

    #[test]
    fn a_star_is_one_whole_segment_that_no_subject_can_lengthen() {
        let main = pattern("repo:acme/app:ref:refs/heads/*");
        for good in ["repo:acme/app:ref:refs/heads/main", "repo:acme/app:ref:refs/heads/release-1.2"] {
            assert!(main.fits(good), "{good}");
        }
        for bad in [
            "repo:acme/app:ref:refs/heads/",
            "repo:acme/app:ref:refs/heads/a/b",
            "repo:acme/app:ref:refs/heads/a:b",
            "repo:acme/app:ref:refs/heads/main ",
            "repo:acme/app:ref:refs/heads/m\u{e4}in",
            "repo:acme/app:ref:refs/tags/main",
            "xrepo:acme/app:ref:refs/heads/main",
            "repo:acme/app:ref:refs/heads/*/..",
            "",
        ] {
            assert!(!main.fits(bad), "{bad}");
        }
        assert!(!main.fits(&format!("repo:acme/app:ref:refs/heads/{}", "a".repeat(256))));
        let middle = pattern("repo:acme/*:ref:refs/heads/main");
        assert!(middle.fits("repo:acme/app:ref:refs/heads/main") && !middle.fits("repo:acme/:ref:refs/heads/main"));
        assert!(!middle.fits("repo:acme/evil:ref:refs/heads/main:ref:refs/heads/main"));
    }

    #[test]
    fn what_is_no_bounded_template_is_refused() {
        for bad in ["", "*", "a*", "*a", "a/b*", "a/*b", "a/*/*", "**", "a/**", "a:*b:c", "a\n", "a/*\0"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad:?}");
        }
        for bad in [".*", "a.*", "[^/]*"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
        for good in ["a/*", "*/a", "a:*", "a/*/b"] {
            assert_eq!(good.parse::<Pattern>().map(|p| p.to_string()), Ok(good.to_owned()));
        }
        // A regular expression is a text like every other, if it has no star.
        assert!(!pattern("sub.+").fits("subbb") && pattern("sub.+").fits("sub.+"));
    }

    #[test]
    fn a_path_is_a_name_or_a_pointer_and_never_both() {
        assert_eq!(path("kubernetes.io").steps(), ["kubernetes.io"]);
        assert_eq!(path("https://x.example/claim").steps(), ["https://x.example/claim"]);
        assert_eq!(path("/kubernetes.io/serviceaccount/name").steps(), ["kubernetes.io", "serviceaccount", "name"]);
        assert_eq!(path("/a~1b/c~0d").steps(), ["a/b", "c~d"]);
        assert_eq!((path("/sub"), path("/a~1b/c~0d").to_string()), (path("sub"), "/a~1b/c~0d".to_owned()));
        for bad in ["", "/", "//a", "/a/", "/a~2", "/a~", "/1/2/3/4/5/6/7/8/9", "a\u{0}"] {
            assert!(bad.parse::<ClaimPath>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_subject_must_be_pinned_beyond_what_others_can_choose() {
        let with = |sub: &str| Mapping::new([(path("sub"), Wanted::Text(pattern(sub)))]);
        for good in ["x", "system:serviceaccount:prod:*", "repo:acme/*:ref:refs/heads/main", "spiffe://prod.example/ns/*"] {
            assert!(with(good).is_ok(), "{good}");
        }
        for bad in ["*/app", "repo:*/app:ref:refs/heads/main", "repo:*"] {
            assert_eq!(with(bad), Err(MappingError::Subject), "{bad}");
        }
        assert_eq!(Mapping::new([]), Err(MappingError::Subject));
        assert_eq!(Mapping::new([(path("aud"), Wanted::Text(pattern("x")))]), Err(MappingError::Subject));
        assert_eq!(Mapping::new([(path("sub"), Wanted::Integer(7))]), Err(MappingError::Subject));
        assert_eq!(Mapping::new([(path("/x/sub"), Wanted::Text(pattern("a")))]), Err(MappingError::Subject));
        let twice = [(path("sub"), Wanted::Text(pattern("a"))), (path("/sub"), Wanted::Text(pattern("b")))];
        assert_eq!(Mapping::new(twice), Err(MappingError::Twice("sub".to_owned())));
    }

    #[test]
    fn two_mappings_are_apart_only_if_one_claim_tells_every_token_of_them_apart() {
        let sub = |text: &str| wants(&[("sub", text)]);
        for (a, b) in [("a", "b"), ("a/*", "b/*"), ("a/*", "a/x/y"), ("a:*", "a/x"), ("a/*", "a/"), ("a/*/c", "a/b/d"), ("*/a", "b/c")] {
            assert!(!sub(a).overlaps(&sub(b)) && !sub(b).overlaps(&sub(a)), "{a} {b}");
        }
        for (a, b) in [("a", "a"), ("a/*", "a/b"), ("a/*", "*/b"), ("a/*/c", "a/b/*"), ("repo:o/*:x", "repo:o/r:x")] {
            assert!(sub(a).overlaps(&sub(b)) && sub(b).overlaps(&sub(a)), "{a} {b}");
        }
        let prod = wants(&[("sub", "s"), ("env", "prod")]);
        assert!(!prod.overlaps(&wants(&[("sub", "s"), ("env", "test")])) && prod.overlaps(&wants(&[("sub", "s"), ("ref", "x")])));
        let flag = |yes| Mapping::bounding([(path("sub"), Wanted::Bool(yes))]).unwrap();
        assert!(!flag(true).overlaps(&flag(false)) && !flag(true).overlaps(&sub("true")));
    }

    #[test]
    fn a_claim_of_another_type_does_not_fit() {
        let claims = json!({ "sub": ["a"], "n": "7", "t": "true", "o": { "p": "q" } });
        let at = |path: &ClaimPath| {
            let (first, rest) = path.steps().split_first()?;
            rest.iter().try_fold(claims.get(first)?, |v, s| v.as_object()?.get(s))
        };
        assert!(!wants(&[("sub", "a")]).fits(at) && !wants(&[("absent", "a")]).fits(at) && wants(&[("/o/p", "q")]).fits(at));
        for (name, wanted) in [("n", Wanted::Integer(7)), ("t", Wanted::Bool(true)), ("o", Wanted::Text(pattern("q")))] {
            assert!(!Mapping::bounding([(path(name), wanted)]).unwrap().fits(at), "{name}");
        }
    }

    proptest! {
        /// If two patterns are said to be apart, no text fits both.
        #[test]
        fn what_is_said_to_be_apart_has_no_text_in_common(
            a in "[ab/:]{0,4}(\\*)?[ab/:]{0,4}", b in "[ab/:]{0,4}(\\*)?[ab/:]{0,4}", text in "[ab/:]{1,8}"
        ) {
            let (Ok(a), Ok(b)) = (a.parse::<Pattern>(), b.parse::<Pattern>()) else { return Ok(()) };
            if a.is_apart_from(&b) {
                prop_assert!(!(a.fits(&text) && b.fits(&text)), "{a} {b} {text}");
            }
            // And what both are made to fit is seen to overlap.
            let filled = Pattern::from_str(&a.to_string().replace('*', "ab")).unwrap();
            if b.fits(&filled.before) {
                prop_assert!(!a.is_apart_from(&b), "{a} {b}");
            }
        }

        #[test]
        fn a_template_never_takes_a_text_with_more_segments_than_its_own(star in "\\PC{0,12}") {
            let text = format!("repo:acme/{star}:x");
            let fits = pattern("repo:acme/*:x").fits(&text);
            prop_assert!(!fits || text.matches(['/', ':']).count() == 3, "{text}");
        }

        #[test]
        fn no_text_makes_a_pattern_or_a_path_panic(text in "\\PC{0,60}", other in "\\PC{0,60}") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert_eq!(pattern.to_string(), text.clone());
                let _ = pattern.fits(&other);
            }
            if let Ok(path) = text.parse::<ClaimPath>() {
                prop_assert_eq!(path.to_string().parse::<ClaimPath>().unwrap(), path);
            }
        }
    }
}
