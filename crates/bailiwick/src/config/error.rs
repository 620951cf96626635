//! A fault in the configuration, shown with its place.

use std::ops::Range;
use std::path::Path;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

/// A fault in the configuration: file, line, column, what was expected, and a hint.
#[derive(Debug)]
pub struct ConfigError(Box<Fault>);

#[derive(Debug)]
struct Fault {
    name: String,
    source: Option<NamedSource<String>>,
    span: Option<Range<usize>>,
    line_column: Option<(usize, usize)>,
    what: String,
    hint: String,
}

impl ConfigError {
    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self(Box::new(Fault {
            name: path.display().to_string(),
            source: None,
            span: None,
            line_column: None,
            what: format!("cannot read the file: {error}"),
            hint: "`bailiwick init` writes a commented starting point".to_owned(),
        }))
    }

    pub(super) fn at(name: &str, text: &str, span: Range<usize>, what: String, hint: &str) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line = before.matches('\n').count().saturating_add(1);
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()).saturating_add(1);
        Self(Box::new(Fault {
            name: name.to_owned(),
            source: Some(NamedSource::new(name, text.to_owned())),
            span: Some(span),
            line_column: Some((line, column)),
            what,
            hint: hint.to_owned(),
        }))
    }

    pub(super) fn toml(name: &str, text: &str, error: &toml::de::Error) -> Self {
        let hint = if error.message().contains("unknown field") {
            "the name may be misspelt, or stand in the wrong section"
        } else {
            "`bailiwick init` shows every setting; `bailiwick schema` prints the JSON Schema"
        };
        Self::at(name, text, error.span().unwrap_or(0..0), error.message().to_owned(), hint)
    }

    /// Line and column of the fault, from 1, if it has a place.
    #[must_use]
    pub fn line_column(&self) -> Option<(usize, usize)> {
        self.0.line_column
    }

    /// The whole report as plain text with the source line and a caret.
    #[must_use]
    pub fn report(&self) -> String {
        let mut out = String::new();
        let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(110);
        if handler.render_report(&mut out, self).is_err() {
            return self.to_string();
        }
        out
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.line_column {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.0.name, self.0.what),
            None => write!(f, "{}: {}", self.0.name, self.0.what),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Diagnostic for ConfigError {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(bailiwick_core::ErrorCode::ConfigInvalid))
    }
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(&self.0.hint))
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.0.source.as_ref().map(|s| s as &dyn SourceCode)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.0.span.clone()?;
        Some(Box::new(std::iter::once(LabeledSpan::new(Some("here".to_owned()), span.start, span.len().max(1)))))
    }
}
