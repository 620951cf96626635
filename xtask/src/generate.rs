//! `cargo xtask gen [--check]`: writes `docs/reference/` and `docs/threats.md` from the code, so that they cannot say something else.

mod command_line;
mod configuration;
mod errors;
mod threats;

use std::fs;
use std::io::{Write as _, stdout};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::test::{cargo, finish};
use crate::tidy;

const FOLDER: &str = "docs";

/// The command; `arguments` are those after `gen`.
pub(crate) fn run(workspace: &Path, mut arguments: impl Iterator<Item = String>) -> Result<()> {
    match arguments.next().as_deref() {
        None => write(workspace),
        Some("--check") => check(workspace),
        Some(other) => bail!("unknown argument `{other}`"),
    }
}

fn write(workspace: &Path) -> Result<()> {
    let folder = workspace.join(FOLDER);
    fs::create_dir_all(folder.join("reference"))?;
    for (name, text) in files(workspace)? {
        let path = folder.join(name);
        if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            fs::write(&path, text)?;
            writeln!(stdout(), "wrote {FOLDER}/{name}")?;
        }
    }
    Ok(())
}

/// Fails if a generated file is not what the code would generate now.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    let mut stale = Vec::new();
    for (name, text) in files(workspace)? {
        if fs::read_to_string(workspace.join(FOLDER).join(name)).ok() != Some(text) {
            stale.push(format!("{FOLDER}/{name}"));
        }
    }
    if !stale.is_empty() {
        bail!("not as the code generates them: {}\nhint: run `cargo xtask gen` and look at the difference", stale.join(", "));
    }
    Ok(())
}

fn files(workspace: &Path) -> Result<Vec<(&'static str, String)>> {
    let program = Program::build(workspace)?;
    let schema: Value = serde_json::from_str(&program.output(&["schema"])?).context("`bailiwick schema` is not JSON")?;
    let openapi: Value = serde_json::from_str(&program.output(&["openapi"])?).context("`bailiwick openapi` is not JSON")?;
    let codes = fs::read_to_string(workspace.join("crates/core/src/error.rs"))?;
    Ok(vec![
        ("reference/errors.md", errors::page(&codes)?),
        ("reference/configuration.md", configuration::page(&schema)),
        ("reference/bailiwick.schema.json", format!("{schema:#}\n")),
        ("reference/openapi.json", format!("{openapi:#}\n")),
        ("reference/cli.md", command_line::page(&program)?),
        ("threats.md", threats::page(workspace, &tidy::tracked(workspace)?)?),
    ])
}

/// The built `bailiwick`.
struct Program {
    path: std::path::PathBuf,
}

impl Program {
    fn build(workspace: &Path) -> Result<Self> {
        finish(cargo(workspace).args(["build", "--locked", "--quiet", "-p", "bailiwick"]))?;
        Ok(Self { path: workspace.join("target/debug/bailiwick") })
    }

    /// Standard output of a command that must succeed, in an environment that changes nothing of it.
    fn output(&self, arguments: &[&str]) -> Result<String> {
        let done = Command::new(&self.path)
            .args(arguments)
            .env_clear()
            .env("HOME", "/nonexistent")
            .output()
            .with_context(|| format!("cannot start `{}`", self.path.display()))?;
        if !done.status.success() {
            bail!("`bailiwick {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr));
        }
        Ok(String::from_utf8(done.stdout)?)
    }
}
