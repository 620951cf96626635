//! Benchmarks, each of which prints a table and, with `--json`, one JSON object as its last line.
//!
//! `cargo xtask bench gateway [--json] [--seconds N] [--rounds N] [--direct-only]`: one echo fixture, called directly and through Bailiwick
//! with token check, policy and durable ledger on, in turns within one run. `--seconds` is the length of one measured window; each number is
//! the median of all rounds. One wrong answer, or one call that the fixture did not see exactly once, fails the run: errors are never averaged in.
//!
//! `cargo xtask bench ledger [--json] [--seconds N] [--rounds N] [--entries N] [--folder DIR]`: intents on record beside the least that a durable
//! group commit takes, in turns within one run; then a long log, verified, exported and traced.
//!
//! `cargo xtask bench leases [--json] [--leases N]`: making and ending an account of `PostgreSQL` beside its bare statements, in turns within one run;
//! then the first call of a task, with the account made on the way and with one that waited.
//!
//! `cargo xtask bench tokens [--json] [--rounds N]`: CPU per verification of a token, on first sight and when seen before, with and without the
//! proof that binds it; then the time from a revocation to the first refusal under load.

mod gateway;
mod report;

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// The command; `arguments` are those after `bench`.
pub(crate) fn run(workspace: &Path, mut arguments: impl Iterator<Item = String>) -> Result<()> {
    match arguments.next().as_deref() {
        Some("gateway") => gateway::run(workspace, &Options::parse(arguments)?),
        Some("ledger") => {
            let folder = workspace.join("target/bench");
            std::fs::create_dir_all(&folder)?;
            house(workspace, "ledger", ["--folder".into(), folder.display().to_string()].into_iter().chain(arguments))
        }
        Some("leases") => house(workspace, "leases", arguments),
        Some("tokens") => house(workspace, "tokens", arguments),
        other => bail!("unknown benchmark `{}`; there are: gateway, ledger, leases, tokens", other.unwrap_or_default()),
    }
}

/// Runs a benchmark of the house, which reads the arguments itself.
fn house(workspace: &Path, name: &str, arguments: impl Iterator<Item = String>) -> Result<()> {
    let done = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["bench", "--locked", "--quiet", "-p", "bailiwick", "--bench", name, "--"])
        .args(arguments)
        .current_dir(workspace)
        .status()?;
    ensure!(done.success(), "the benchmark failed");
    Ok(())
}

#[derive(Debug, PartialEq)]
struct Options {
    json: bool,
    direct_only: bool,
    seconds: f64,
    rounds: u32,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { json: false, direct_only: false, seconds: 2.0, rounds: 5 };
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("`{flag}` needs a value"));
            match flag.as_str() {
                "--json" => options.json = true,
                "--direct-only" => options.direct_only = true,
                "--seconds" => options.seconds = value()?.parse()?,
                "--rounds" => options.rounds = value()?.parse()?,
                _ => bail!("unknown argument `{flag}`"),
            }
        }
        if !(0.1..=60.0).contains(&options.seconds) || !(1..=100).contains(&options.rounds) {
            bail!("`--seconds` is 0.1 to 60 and `--rounds` is 1 to 100");
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_have_bounds_and_defaults() {
        let options = parse("--json --seconds 0.5").unwrap();
        assert!(options.json && !options.direct_only);
        assert_eq!((options.seconds, options.rounds), (0.5, 5));
        for wrong in ["--seconds 0", "--seconds NaN", "--rounds 0", "--seconds", "--fast"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
