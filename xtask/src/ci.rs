//! `cargo xtask ci [--no-test]`: every check that a change must pass, one after the other; a failed one does not hide the next.

use std::io::{Write as _, stdout};
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::test::{cargo, finish};
use crate::{generate, test, tidy};

type Check = (&'static str, fn(&Path) -> Result<()>);

const CHECKS: [Check; 7] = [
    ("format", |workspace| finish(cargo(workspace).args(["fmt", "--all", "--check"]))),
    ("tidy", tidy::check),
    ("clippy", |workspace| finish(cargo(workspace).args(["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"]))),
    ("documentation", |workspace| {
        finish(cargo(workspace).args(["doc", "--workspace", "--no-deps", "--locked", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("dependencies", dependencies),
    ("generated files", generate::check),
    ("tests", |workspace| test::run(workspace, std::iter::empty())),
];

/// The command; `arguments` are those after `ci`. With `--no-test`, everything but the tests.
pub(crate) fn run(workspace: &Path, arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut tests = true;
    for argument in arguments {
        match argument.as_str() {
            "--no-test" => tests = false,
            _ => bail!("unknown argument `{argument}`"),
        }
    }
    let mut failed = Vec::new();
    for (name, check) in CHECKS.iter().filter(|(name, _)| tests || *name != "tests") {
        writeln!(stdout(), "== {name}")?;
        if let Err(error) = check(workspace) {
            writeln!(stdout(), "error: {error:#}")?;
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Licences, sources and bans of `deny.toml`. Advisories need the network, so they are not part of this.
fn dependencies(workspace: &Path) -> Result<()> {
    let installed = Command::new("cargo-deny").arg("--version").output().is_ok_and(|done| done.status.success());
    if !installed {
        writeln!(stdout(), "cargo-deny is not installed: licences and sources were not checked")?;
        return Ok(());
    }
    finish(cargo(workspace).args(["deny", "--locked", "check", "licenses", "sources", "bans"]))
}
