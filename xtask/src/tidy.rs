//! Checks on tracked files that no compiler makes: first lines, sizes, the lock's ceiling, nothing of the machine that wrote them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Raised only on purpose.
const PACKAGES_MAX: usize = 520;

/// Lines of a source file before its tests.
const LINES_MAX: usize = 700;

/// In two pieces each, so that this file passes its own check.
const NOT_OURS: [(&str, &str); 8] = [
    ("crates", ".io"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("npmjs", ".org"),
    ("npmjs", ".com"),
    ("/work", "/main"),
    ("/work", "/shared"),
    ("/root", "/"),
];

/// Fails with every finding at once.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    let mut findings = Vec::new();
    for path in tracked(workspace)? {
        let name = path.strip_prefix(workspace).unwrap_or(&path).display().to_string();
        // What is not text has no lines to check.
        if let Ok(text) = fs::read_to_string(&path) {
            findings.extend(findings_of(&name, &text).into_iter().map(|finding| format!("{name}: {finding}")));
        }
    }
    if !findings.is_empty() {
        bail!("{}", findings.join("\n"));
    }
    Ok(())
}

/// Every tracked file that is there, with its whole path.
pub(crate) fn tracked(workspace: &Path) -> Result<Vec<PathBuf>> {
    let listed = Command::new("git").arg("-C").arg(workspace).args(["ls-files", "-z"]).output().context("cannot start `git`")?;
    if !listed.status.success() {
        bail!("git does not list the files: {}", String::from_utf8_lossy(&listed.stderr).trim_end());
    }
    let names = String::from_utf8(listed.stdout).context("a tracked file's name is not UTF-8")?;
    Ok(names.split_terminator('\0').map(|name| workspace.join(name)).filter(|path| path.is_file()).collect())
}

fn findings_of(name: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if name == "Cargo.lock" {
        let packages = text.lines().filter(|line| *line == "[[package]]").count();
        if packages > PACKAGES_MAX {
            findings.push(format!("{packages} packages, the ceiling is {PACKAGES_MAX}"));
        }
        return findings;
    }
    if !name.ends_with(".lock") {
        for foreign in NOT_OURS.map(|(start, end)| format!("{start}{end}")) {
            if let Some((number, _)) = text.lines().enumerate().find(|(_, line)| line.contains(&foreign)) {
                findings.push(format!("line {}: `{foreign}` belongs to a machine or a registry", number + 1));
            }
        }
    }
    if name.ends_with(".rs") {
        if !text.starts_with("//!") && !name.contains("/compile_fail/") {
            findings.push("the first line is not `//!`".to_owned());
        }
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        let only_tests = name.contains("/tests/") || name.ends_with("/tests.rs");
        if lines > LINES_MAX && !only_tests {
            findings.push(format!("{lines} lines without tests, more than {LINES_MAX}"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(name: &str, text: &str) -> usize {
        findings_of(name, text).len()
    }

    #[test]
    fn the_lock_has_a_ceiling() {
        assert_eq!(count("Cargo.lock", &"[[package]]\n".repeat(PACKAGES_MAX)), 0);
        assert_eq!(count("Cargo.lock", &"[[package]]\n".repeat(PACKAGES_MAX + 1)), 1);
    }

    #[test]
    fn a_source_file_says_first_what_it_is() {
        assert_eq!(count("crates/core/src/x.rs", "//! What it is.\n"), 0);
        assert_eq!(count("crates/core/src/x.rs", "fn main() {}\n"), 1);
    }

    #[test]
    fn tests_do_not_count_towards_the_size_of_a_file() {
        let (head, long) = ("//! x\n", "\n".repeat(LINES_MAX));
        assert_eq!(count("a/src/x.rs", &format!("{head}{long}")), 1);
        assert_eq!(count("a/src/x.rs", &format!("{head}#[cfg(test)]\n{long}")), 0);
        assert_eq!(count("a/tests/it/x.rs", &format!("{head}{long}")), 0);
    }

    #[test]
    fn a_name_of_a_machine_or_a_registry_is_found_in_any_text() {
        for (start, end) in NOT_OURS {
            assert_eq!(count("README.md", &format!("see {start}{end} there")), 1, "{start}{end}");
        }
    }
}
