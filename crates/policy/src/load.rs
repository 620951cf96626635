//! Policy texts become policies, or an error that names file, line and column and says what to do.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use cedar_policy::{Effect, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Report};

use crate::analysis::{Analysis, analyse};

/// One policy text and the name under which errors show it, such as its file's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The name.
    pub name: Arc<str>,
    /// Cedar policies.
    pub text: Arc<str>,
}

/// The policies that are in force where nobody gave any. Directories of policies given by people replace them.
#[must_use]
pub fn default_pack() -> Source {
    Source { name: "default.cedar".into(), text: include_str!("default.cedar").into() }
}

/// Most problems that are shown in full.
const SHOWN_MAX: usize = 20;
const WIDTH: usize = 110;

/// One thing that is wrong with a policy text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The name of the source; `None` if the installation rather than a text is wrong.
    pub source: Option<Arc<str>>,
    /// What is wrong.
    pub message: String,
    /// What was expected there, if known.
    pub label: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// Where, in bytes of the source's text.
    pub span: Option<Range<usize>>,
    /// The line, from 1; 0 if there is no place.
    pub line: usize,
    /// The column in characters, from 1; 0 if there is no place.
    pub column: usize,
}

/// Why policies were not taken. Nothing of them is in force.
#[derive(Clone, Debug)]
pub struct LoadError {
    problems: Vec<Problem>,
    texts: BTreeMap<Arc<str>, Arc<str>>,
}

impl LoadError {
    pub(crate) fn new(problems: Vec<Problem>, sources: &[Source]) -> Self {
        Self { problems, texts: sources.iter().map(|s| (Arc::clone(&s.name), Arc::clone(&s.text))).collect() }
    }

    /// Everything that is wrong, in the order of the sources.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// All of it as plain text with file, line, column, the place underlined, and what to do.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        for problem in self.problems.iter().take(SHOWN_MAX) {
            out.push_str(&problem.render(problem.source.as_ref().and_then(|s| self.texts.get(s))));
        }
        let more = self.problems.len().saturating_sub(SHOWN_MAX);
        if more > 0 {
            out.push_str(&format!("and {more} more\n"));
        }
        out
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.first() {
            Some(first) => write!(f, "{first}")?,
            None => f.write_str("the policies cannot be used")?,
        }
        match self.problems.len().saturating_sub(1) {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

impl std::error::Error for LoadError {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{source}:")?;
            if self.line > 0 {
                write!(f, "{}:{}:", self.line, self.column)?;
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.message)
    }
}

impl Problem {
    pub(crate) fn of_installation(message: String, hint: &str) -> Self {
        Self { source: None, message, label: None, hint: Some(hint.to_owned()), span: None, line: 0, column: 0 }
    }

    pub(crate) fn at(source: &Source, span: Option<Range<usize>>, message: String, hint: Option<String>) -> Self {
        let (line, column) = span.as_ref().map_or((0, 0), |s| place(&source.text, s.start));
        Self { source: Some(Arc::clone(&source.name)), message, label: None, hint, span, line, column }
    }

    /// From Cedar's own diagnostics, the related ones after it.
    fn of_cedar(source: &Source, diagnostic: &dyn Diagnostic, into: &mut Vec<Self>) {
        let labels: Vec<LabeledSpan> = diagnostic.labels().into_iter().flatten().collect();
        let span = labels.first().map(|l| l.offset()..l.offset().saturating_add(l.len()));
        // Cedar's messages give the policy's place again; ours is the caret.
        let mut problem = Self::at(source, span, diagnostic.to_string(), diagnostic.help().map(|h| h.to_string()));
        problem.label = labels.first().and_then(|l| l.label().map(str::to_owned));
        into.push(problem);
        for related in diagnostic.related().into_iter().flatten() {
            Self::of_cedar(source, related, into);
        }
    }

    fn render(&self, text: Option<&Arc<str>>) -> String {
        let mut diagnostic = MietteDiagnostic::new(self.message.clone());
        if let Some(hint) = &self.hint {
            diagnostic = diagnostic.with_help(hint.clone());
        }
        if let Some(span) = &self.span {
            diagnostic = diagnostic.with_label(LabeledSpan::new(self.label.clone(), span.start, span.len()));
        }
        let report = Report::new(diagnostic);
        let report = match (text, &self.source) {
            (Some(text), Some(name)) => report.with_source_code(NamedSource::new(name, text.to_string())),
            _ => report,
        };
        let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(WIDTH).with_links(false);
        let mut out = String::new();
        match handler.render_report(&mut out, report.as_ref()) {
            Ok(()) => out,
            Err(fmt::Error) => format!("{self}\n"),
        }
    }
}

/// Line and column, both from 1, of a byte offset.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count().saturating_add(1);
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count().saturating_add(1);
    (line, column)
}

/// A policy that was read and checked.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) policy: Policy,
    pub(crate) analysis: Analysis,
    pub(crate) source: Arc<str>,
    pub(crate) line: usize,
}

/// Reads all sources. Warnings are about policies that can never match and the like.
pub(crate) fn load(sources: &[Source], schema: &Schema) -> Result<(Vec<Loaded>, Vec<Problem>), Vec<Problem>> {
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let mut loaded: Vec<Loaded> = Vec::new();
    let mut places: BTreeMap<PolicyId, String> = BTreeMap::new();
    let validator = Validator::new(schema.clone());
    for source in sources {
        let mut set = PolicySet::new();
        for (policy, span) in named(source, &mut places, &mut problems) {
            if set.add(policy.clone()).is_err() {
                continue; // a duplicate id, reported already
            }
            match analyse(&policy) {
                Err(error) => problems.push(Problem::at(source, span, format!("policy `{}`: {error}", policy.id()), None)),
                Ok(Analysis { group_as_tool: Some(group), .. }) => {
                    let message = format!("no tool is equal to `Action::\"{group}\"`: it is a group of tools");
                    let hint = format!("write `action in Action::\"{group}\"`");
                    let span = within(source, span, &format!("Action::\"{group}\""));
                    problems.push(Problem::at(source, span, message, Some(hint)));
                }
                Ok(analysis) => {
                    if analysis.reads_claimed_model && policy.effect() == Effect::Permit {
                        let message = format!("policy `{}` permits by `principal.model`, which an agent merely claims", policy.id());
                        let hint = "a claim may only narrow: use it in a `forbid`".to_owned();
                        warnings.push(Problem::at(source, within(source, span.clone(), "model"), message, Some(hint)));
                    }
                    let line = span.map_or(0, |s| place(&source.text, s.start).0);
                    loaded.push(Loaded { policy, analysis, source: Arc::clone(&source.name), line });
                }
            }
        }
        let result = validator.validate(&set, ValidationMode::Strict);
        let mut found: Vec<Problem> = Vec::new();
        result.validation_errors().for_each(|e| Problem::of_cedar(source, e, &mut found));
        problems.append(&mut sorted(found));
        let mut found: Vec<Problem> = Vec::new();
        result.validation_warnings().for_each(|w| Problem::of_cedar(source, w, &mut found));
        warnings.append(&mut sorted(found));
    }
    if problems.is_empty() { Ok((loaded, warnings)) } else { Err(problems) }
}

/// Cedar's results come in no order, and once for each tool that a policy is about.
fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by(|a, b| (a.line, a.column, &a.message).cmp(&(b.line, b.column, &b.message)));
    problems.dedup();
    problems
}

type Spanned = (Policy, Option<Range<usize>>);

/// The policies of a source under their own names, in order, with their places.
fn named(source: &Source, places: &mut BTreeMap<PolicyId, String>, problems: &mut Vec<Problem>) -> Vec<Spanned> {
    let set: PolicySet = match source.text.parse() {
        Ok(set) => set,
        Err(error) => {
            let error: cedar_policy::ParseErrors = error;
            Problem::of_cedar(source, &error, problems);
            return Vec::new();
        }
    };
    for template in set.templates() {
        let text = template.to_cedar();
        let span = source.text.find(&text).map(|start| start..start.saturating_add(text.len()));
        let span = within(source, span, if text.contains("?principal") { "?principal" } else { "?resource" });
        let hint = "write the policy without `?principal` and `?resource`, once for each case".to_owned();
        problems.push(Problem::at(source, span, "templates are not supported".to_owned(), Some(hint)));
    }
    let mut policies: Vec<&Policy> = set.policies().collect();
    // Cedar numbers the policies of a text: `policy0`, `policy1`, ...
    policies.sort_by_key(|p| p.id().to_string().strip_prefix("policy").and_then(|n| n.parse::<usize>().ok()));
    let mut from = 0;
    let mut out = Vec::new();
    for policy in policies {
        let text = policy.to_cedar().unwrap_or_default();
        let span = source.text.get(from..).and_then(|rest| rest.find(&text)).map(|at| {
            let start = from.saturating_add(at);
            from = start.saturating_add(text.len());
            start..from
        });
        if let Some(id) = own_id(source, policy, span.clone(), places, problems) {
            out.push((policy.new_id(id), span));
        }
    }
    out
}

fn own_id(
    source: &Source,
    policy: &Policy,
    span: Option<Range<usize>>,
    places: &mut BTreeMap<PolicyId, String>,
    problems: &mut Vec<Problem>,
) -> Option<PolicyId> {
    let head = span.clone().map(|s| s.start..s.start.saturating_add(first_line(source, s.start)));
    let well_formed = |id: &str| (1..=80).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    let Some(id) = policy.annotation("id") else {
        let hint = "put `@id(\"a-short-name\")` in front of it; decisions and the record name policies by it".to_owned();
        problems.push(Problem::at(source, head, "this policy has no id".to_owned(), Some(hint)));
        return None;
    };
    if !well_formed(id) {
        let message = format!("`{}` is no policy id: expected 1 to 80 of A-Z, a-z, 0-9, `.`, `_`, `-`", id.escape_debug());
        problems.push(Problem::at(source, head, message, None));
        return None;
    }
    let id = PolicyId::new(id);
    let (line, _) = span.map_or((0, 0), |s| place(&source.text, s.start));
    if let Some(first) = places.insert(id.clone(), format!("{}:{line}", source.name)) {
        let message = format!("policy id `{id}` is taken: {first} has it already");
        problems.push(Problem::at(source, head, message, Some("give each policy an id of its own".to_owned())));
        return None;
    }
    Some(id)
}

/// The first place of a word within a policy; the policy's own if the word is written otherwise there.
fn within(source: &Source, span: Option<Range<usize>>, word: &str) -> Option<Range<usize>> {
    let span = span?;
    let Some(at) = source.text.get(span.clone()).and_then(|text| text.find(word)) else { return Some(span) };
    let start = span.start.saturating_add(at);
    Some(start..start.saturating_add(word.len()))
}

fn first_line(source: &Source, start: usize) -> usize {
    source.text.get(start..).and_then(|t| t.lines().next()).map_or(0, str::len)
}
