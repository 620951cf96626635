//! A command's form: its words, in which typed arguments stand, and what a model may give for each. What does not fit is refused before anything is decided;
//! quotes are put around words by the session.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

const WORDS_MAX: usize = 64;
const ARGUMENTS_MAX: usize = 16;
const LITERAL_MAX: usize = 1024;
const TEXT_MAX: usize = 256;
const PATH_MAX: usize = 512;
const CHOICES_MAX: usize = 256;

/// What a model may give for an argument.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(tag = "is", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ArgumentFile {
    /// Letters, digits, `.`, `_`, `@`, `:` and `-`, beginning with a letter, a digit or `_`; at most 256 of them.
    Word {
        /// What it is, as the model reads it.
        description: Option<String>,
    },
    /// One of these.
    Choice {
        /// What it is, as the model reads it.
        description: Option<String>,
        /// The words that it may be.
        of: Vec<String>,
    },
    /// The path of something below a folder, without `..`, of letters, digits and `.`, `_`, `-`, `+`, `,`, `@`, `:`, `=`, `%`. What symbolic links at
    /// the host lead to is not looked at.
    Path {
        /// What it is, as the model reads it.
        description: Option<String>,
        /// The folder, such as `/var/log`.
        below: String,
    },
    /// A whole number.
    Integer {
        /// What it is, as the model reads it.
        description: Option<String>,
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Argument(String),
}

/// The words of a command, and its arguments.
#[derive(Clone, Debug)]
pub(super) struct Form {
    words: Vec<Vec<Part>>,
    arguments: BTreeMap<String, ArgumentFile>,
}

impl Form {
    /// Parses the words. Each argument must be declared, and be used.
    pub(super) fn parse(words: &[String], arguments: &BTreeMap<String, ArgumentFile>) -> Result<Self, String> {
        if words.is_empty() || words.len() > WORDS_MAX || arguments.len() > ARGUMENTS_MAX {
            return Err(format!("expected 1 to {WORDS_MAX} words and at most {ARGUMENTS_MAX} arguments"));
        }
        arguments.iter().try_for_each(|(name, argument)| check(name, argument))?;
        let words: Vec<Vec<Part>> = words.iter().map(|word| parts(word)).collect::<Result<_, _>>()?;
        let used: Vec<&String> = words.iter().flatten().filter_map(|part| if let Part::Argument(name) = part { Some(name) } else { None }).collect();
        if let Some(unknown) = used.iter().find(|name| !arguments.contains_key(**name)) {
            return Err(format!("`{{{unknown}}}` is none of its arguments"));
        }
        if let Some(unused) = arguments.keys().find(|name| !used.contains(name)) {
            return Err(format!("the argument `{unused}` is nowhere in its words"));
        }
        let negative = |name: &String| matches!(arguments.get(name), Some(ArgumentFile::Integer { min, .. }) if *min < 0);
        let mut begins = words.iter().filter_map(|word| if let Some(Part::Argument(name)) = word.first() { Some(name) } else { None });
        if let Some(name) = begins.find(|name| negative(name)) {
            return Err(format!("`{{{name}}}` can be below zero: at the beginning of a word it would be an option of the program"));
        }
        let program_is_fixed = words.first().is_some_and(|word| matches!(word.as_slice(), [Part::Text(program)] if is_program(program)));
        if !program_is_fixed {
            return Err("expected a program as the first word: a name or a path, without arguments in it".to_owned());
        }
        Ok(Self { words, arguments: arguments.clone() })
    }

    /// The words of a call. Words say what was expected.
    pub(super) fn fill(&self, given: &Map<String, Value>) -> Result<Vec<String>, String> {
        if let Some(unknown) = given.keys().find(|name| !self.arguments.contains_key(*name)) {
            let known: Vec<_> = self.arguments.keys().map(String::as_str).collect();
            let unknown: String = unknown.chars().filter(|c| !c.is_control()).take(60).collect();
            return Err(format!("`{unknown}` is none of its arguments ({})", known.join(", ")));
        }
        let mut values = BTreeMap::new();
        for (name, argument) in &self.arguments {
            let text = given.get(name).and_then(|value| value_of(argument, value));
            values.insert(name.as_str(), text.ok_or_else(|| format!("`{name}`: expected {}", expected(argument)))?);
        }
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Argument(name) => values.get(name.as_str()).cloned().unwrap_or_default(),
        };
        Ok(self.words.iter().map(|word| word.iter().map(part).collect()).collect())
    }

    /// The properties of the tool's input, and the names of those that must be there: all.
    pub(super) fn schema(&self) -> (Map<String, Value>, Vec<String>) {
        let properties = self.arguments.iter().map(|(name, argument)| {
            let (mut schema, description) = match argument {
                ArgumentFile::Word { description } => (json!({ "type": "string", "pattern": WORD, "maxLength": TEXT_MAX }), description),
                ArgumentFile::Choice { description, of } => (json!({ "type": "string", "enum": of }), description),
                ArgumentFile::Path { description, .. } => (json!({ "type": "string", "maxLength": PATH_MAX }), description),
                ArgumentFile::Integer { description, min, max } => (json!({ "type": "integer", "minimum": min, "maximum": max }), description),
            };
            if let Some(schema) = schema.as_object_mut() {
                let words = description.clone().unwrap_or_else(|| expected(argument));
                schema.insert("description".to_owned(), words.into());
            }
            (name.clone(), schema)
        });
        (properties.collect(), self.arguments.keys().cloned().collect())
    }
}

const WORD: &str = "^[A-Za-z0-9_][A-Za-z0-9._@:-]*$";

/// The name of a command or an argument.
pub(super) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn check(name: &str, argument: &ArgumentFile) -> Result<(), String> {
    if !is_name(name) {
        return Err(format!("`{name}`: expected a name of small letters, digits and `_`"));
    }
    let wrong = match argument {
        ArgumentFile::Word { .. } => false,
        ArgumentFile::Choice { of, .. } => of.is_empty() || of.len() > CHOICES_MAX || of.iter().any(|word| !is_literal(word)),
        ArgumentFile::Path { below, .. } => !is_path(below),
        ArgumentFile::Integer { min, max, .. } => min > max,
    };
    if wrong { Err(format!("`{name}`: expected {}", expected(argument))) } else { Ok(()) }
}

fn expected(argument: &ArgumentFile) -> String {
    match argument {
        ArgumentFile::Word { .. } => format!("a word of letters, digits, `.`, `_`, `@`, `:` and `-`, at most {TEXT_MAX}, not beginning with a sign"),
        ArgumentFile::Choice { of, .. } => format!("one of: {}", of.join(", ")),
        ArgumentFile::Path { below, .. } => format!("the path of something below `{below}`, of letters, digits and `._-+,@:=%`, without `..`"),
        ArgumentFile::Integer { min, max, .. } => format!("a whole number from {min} to {max}"),
    }
}

/// The text that stands for the value, if it may be given.
fn value_of(argument: &ArgumentFile, value: &Value) -> Option<String> {
    match (argument, value) {
        (ArgumentFile::Word { .. }, Value::String(text)) => is_word(text).then(|| text.clone()),
        (ArgumentFile::Choice { of, .. }, Value::String(text)) => of.contains(text).then(|| text.clone()),
        (ArgumentFile::Path { below, .. }, Value::String(text)) => {
            let rest = text.strip_prefix(below.as_str()).and_then(|rest| rest.strip_prefix('/'));
            (is_path(text) && rest.is_some()).then(|| text.clone())
        }
        (ArgumentFile::Integer { min, max, .. }, Value::Number(number)) => {
            number.as_i64().filter(|number| (min..=max).contains(&number)).map(|number| number.to_string())
        }
        _ => None,
    }
}

fn is_word(text: &str) -> bool {
    text.len() <= TEXT_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | ':' | '-'))
}

/// From the root, with no part that leads elsewhere, and nothing that a shell reads otherwise: somebody's form may have a shell in it after all.
fn is_path(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | ',' | '@' | ':' | '=' | '%');
    (2..=PATH_MAX).contains(&text.len())
        && text.starts_with('/')
        && text.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != ".." && part.chars().all(plain))
}

fn is_literal(word: &str) -> bool {
    word.len() <= LITERAL_MAX && !word.chars().any(char::is_control)
}

fn is_program(word: &str) -> bool {
    !word.is_empty() && !word.starts_with('-') && !word.contains('=') && !word.chars().any(char::is_whitespace)
}

/// Text and `{arguments}`; `{{` and `}}` stand for braces.
fn parts(word: &str) -> Result<Vec<Part>, String> {
    if !is_literal(word) {
        return Err(format!("expected words of at most {LITERAL_MAX} printable characters"));
    }
    let (mut parts, mut text, mut rest) = (Vec::new(), String::new(), word);
    while let Some(at) = rest.find(['{', '}']) {
        let (before, after) = rest.split_at_checked(at).unwrap_or((rest, ""));
        text.push_str(before);
        if let Some(after) = after.strip_prefix("{{") {
            text.push('{');
            rest = after;
        } else if let Some(after) = after.strip_prefix("}}") {
            text.push('}');
            rest = after;
        } else {
            let name = after.strip_prefix('{').and_then(|after| after.split_once('}'));
            let (name, after) =
                name.filter(|(name, _)| is_name(name)).ok_or_else(|| format!("`{word}`: expected `{{name}}`, or `{{{{` for a brace"))?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(Part::Argument(name.to_owned()));
            rest = after;
        }
    }
    text.push_str(rest);
    if !text.is_empty() || parts.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arguments() -> BTreeMap<String, ArgumentFile> {
        let file = json!({
            "service": { "is": "choice", "of": ["nginx", "-weird one"] },
            "unit": { "is": "word" },
            "file": { "is": "path", "below": "/var/log" },
            "lines": { "is": "integer", "min": 1, "max": 100 },
        });
        serde_json::from_value(file).unwrap()
    }

    fn form() -> Form {
        let words = ["tail", "-n{lines}", "--", "{file}", "a{{b}}c", "{service}:{unit}", "$(id)"].map(str::to_owned);
        Form::parse(&words, &arguments()).unwrap()
    }

    fn fill(change: impl Fn(&mut Map<String, Value>)) -> Result<Vec<String>, String> {
        let mut given = json!({ "service": "nginx", "unit": "a.b", "file": "/var/log/app/x.log", "lines": 5 }).as_object().unwrap().clone();
        change(&mut given);
        form().fill(&given)
    }

    #[test]
    fn a_call_becomes_the_words_of_the_form() {
        assert_eq!(fill(|_| {}).unwrap(), ["tail", "-n5", "--", "/var/log/app/x.log", "a{b}c", "nginx:a.b", "$(id)"]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_was_expected() {
        for (name, value) in [
            ("service", json!("apache")),
            ("service", json!(1)),
            ("unit", json!("-rf")),
            ("unit", json!("")),
            ("unit", json!("a b")),
            ("unit", json!("a;b")),
            ("unit", json!("a/b")),
            ("unit", json!("a\n")),
            ("unit", json!("\u{430}")),
            ("unit", json!("x".repeat(257))),
            ("file", json!("/var/log")),
            ("file", json!("/var/log/")),
            ("file", json!("/var/logs/x")),
            ("file", json!("/var/log/../../etc/shadow")),
            ("file", json!("/var/log/./x")),
            ("file", json!("/var/log//x")),
            ("file", json!("var/log/x")),
            ("file", json!("/var/log/a\u{0}b")),
            ("file", json!("/var/log/a b")),
            ("file", json!("/var/log/$(id)")),
            ("file", json!("/var/log/*")),
            ("lines", json!(0)),
            ("lines", json!(101)),
            ("lines", json!(1.5)),
            ("lines", json!("5")),
            ("lines", json!(1e300)),
            ("lines", json!(null)),
        ] {
            let refused = fill(|given| drop(given.insert(name.to_owned(), value.clone()))).unwrap_err();
            assert!(refused.starts_with(&format!("`{name}`: expected ")), "{refused}");
        }
        assert!(fill(|given| drop(given.remove("unit"))).unwrap_err().contains("`unit`: expected"));
        assert!(fill(|given| drop(given.insert("more".into(), json!(1)))).unwrap_err().contains("`more` is none of its arguments"));
    }

    #[test]
    fn a_form_that_a_model_could_bend_is_refused() {
        for words in [
            &[][..],
            &["{unit}"],
            &["/bin/{unit}"],
            &[""],
            &["-x", "{unit}"],
            &["PATH=/tmp", "{unit}"],
            &["a b", "{unit}"],
            &["tail", "{nothing}"],
            &["tail", "{unit"],
            &["tail", "unit}"],
            &["tail", "{}"],
            &["tail"],
            &["tail", "a\nb", "{unit}"],
        ] {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            let arguments = arguments().into_iter().filter(|(name, _)| name == "unit").collect();
            assert!(Form::parse(&words, &arguments).is_err(), "{words:?}");
        }
        for argument in [
            json!({ "is": "choice", "of": [] }),
            json!({ "is": "choice", "of": ["a\u{0}"] }),
            json!({ "is": "path", "below": "/" }),
            json!({ "is": "path", "below": "/a/../b" }),
            json!({ "is": "integer", "min": 2, "max": 1 }),
            json!({ "is": "integer", "min": -1, "max": 1 }),
        ] {
            let arguments = BTreeMap::from([("x".to_owned(), serde_json::from_value(argument.clone()).unwrap())]);
            assert!(Form::parse(&["a".to_owned(), "{x}".to_owned()], &arguments).is_err(), "{argument}");
        }
        let below = BTreeMap::from([("x".to_owned(), serde_json::from_value(json!({ "is": "integer", "min": -5, "max": 5 })).unwrap())]);
        let form = Form::parse(&["a".to_owned(), "--by={x}".to_owned()], &below).unwrap();
        assert_eq!(form.fill(json!({ "x": -5 }).as_object().unwrap()).unwrap(), ["a", "--by=-5"], "behind a name it is no option");
        for argument in [json!({ "is": "word", "more": 1 }), json!({ "is": "anything" })] {
            assert!(serde_json::from_value::<ArgumentFile>(argument).is_err());
        }
    }

    proptest! {
        #[test]
        fn whatever_is_given_the_words_are_as_many_as_the_form_has(text in ".{0,40}") {
            for name in ["unit", "file", "service"] {
                if let Ok(words) = fill(|given| drop(given.insert(name.to_owned(), json!(text)))) {
                    prop_assert_eq!(words.len(), 7);
                    prop_assert!(words.iter().all(|word| !word.chars().any(char::is_control)));
                    prop_assert!(!text.contains("..") || name == "unit" || !text.split('/').any(|part| part == ".."));
                }
            }
        }
    }
}
