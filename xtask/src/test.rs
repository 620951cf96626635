//! `cargo xtask test [--quick]`: installs what is missing, builds, runs the conformance suite, then every test, in this order.
//!
//! The test runner comes last, so that its own closing line closes the output. `--quick` leaves out what needs third-party programs.

use std::env;
use std::fs;
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::{conformance, tidy, tools};

/// Ignored tests with another reason measure something, or are the child process of a test: nobody runs them by a list.
const NEEDS_TOOLS: &str = "needs what `cargo xtask tools` installs";

/// Programs that tests start, and the Debian packages that hold them.
const PROGRAMS: [(&str, &str); 9] = [
    ("cc", "gcc libc6-dev"),
    ("curl", "curl ca-certificates"),
    ("git", "git"),
    ("mkfs.ext4", "e2fsprogs"),
    ("nats-server", "nats-server"),
    ("rabbitmqctl", "rabbitmq-server"),
    ("redis-server", "redis-server"),
    ("strace", "strace"),
    ("tar", "tar"),
];

/// Tests that take a number of rounds, and how many they take here: few among the others, these in a step of their own.
const ROUNDS: [(&str, &str); 7] = [
    // kill -9 of the store under load, checked and gone on with each time; of the whole broker; moments at which the power is lost.
    ("BAILIWICK_STORE_KILL_ROUNDS", "500"),
    ("BAILIWICK_KILL_ROUNDS", "50"),
    ("BAILIWICK_POWER_LOSSES", "450"),
    // Deaths between any two steps of a credential's life: against a system that is a map, and against PostgreSQL and MariaDB.
    ("BAILIWICK_SIMULATED_KILLS", "10000"),
    ("BAILIWICK_LEASE_KILLS", "200"),
    // Deaths while the root key is replaced.
    ("BAILIWICK_ROOT_KEY_KILLS", "40"),
    // Credentials one after another on one PostgreSQL.
    ("BAILIWICK_LEASES", "3000"),
];
const OF_ROUNDS: [&str; 7] = [
    "kill_9_at_random_moments",
    "whenever_the_power_is_lost",
    "killed_at_random_under_load",
    "after_any_death_no_account_is_left",
    "killed_between_any_two_steps",
    "killed_at_random_while_it_replaces",
    "many_in_a_row_leave_the_catalogue",
];

/// The command; `arguments` are those after `test`.
pub(crate) fn run(workspace: &Path, arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut quick = false;
    for argument in arguments {
        match argument.as_str() {
            "--quick" => quick = true,
            _ => bail!("unknown argument `{argument}`"),
        }
    }
    install_programs()?;
    let runner = Runner::find(workspace);
    step("build", || runner.build())?;
    step("documentation examples", || runner.examples())?;
    if quick {
        return runner.tests(None);
    }
    step("third-party programs", || tools::install(workspace).map(drop))?;
    step("kill -9, loss of power", || runner.rounds())?;
    // A failure here is told at once, and once more by the exit status; the tests run all the same, because they close the output.
    let conformance = step("conformance", || conformance::run(workspace, std::iter::empty()));
    if let Err(error) = &conformance {
        writeln!(stdout(), "error: {error:#}")?;
    }
    let by_hand = run_by_hand(&tidy::tracked(workspace)?)?;
    runner.tests(Some(&by_hand))?;
    conformance
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    writeln!(stdout(), "== {name}")?;
    let begin = Instant::now();
    let result = work();
    writeln!(stdout(), "== {name}: {:.0} s", begin.elapsed().as_secs_f64())?;
    result.with_context(|| format!("{name} failed"))
}

/// A fresh Debian or Ubuntu lacks some; Python and Node are the business of `tools`.
fn install_programs() -> Result<()> {
    let missing: Vec<_> = PROGRAMS.iter().filter(|(program, _)| !tools::which(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|(program, _)| *program).collect::<Vec<_>>().join(", ");
    if !tools::which("apt-get") {
        bail!("not installed: {names}\nhint: install them with the system's package manager");
    }
    writeln!(stdout(), "installing {names} with apt-get")?;
    apt_get(&["update", "-q"])?;
    let packages = missing.iter().flat_map(|(_, packages)| packages.split(' '));
    apt_get(&["install", "-q", "-y", "--no-install-recommends"].into_iter().chain(packages).collect::<Vec<_>>())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    finish(tools::as_root("apt-get").args(arguments))
}

/// Runs a command to its end, with our outputs and without standard input.
pub(crate) fn finish(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{}`", command.get_program().display()))?;
    if !status.success() {
        let arguments = command.get_args().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ");
        bail!("`{} {arguments}` ended with {status}", command.get_program().display());
    }
    Ok(())
}

/// Cargo in the workspace.
pub(crate) fn cargo(workspace: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace).env("CARGO_INCREMENTAL", "0");
    cargo
}

/// nextest if it is installed, else cargo's own runner.
struct Runner<'a> {
    workspace: &'a Path,
    nextest: bool,
}

impl<'a> Runner<'a> {
    fn find(workspace: &'a Path) -> Self {
        let nextest = cargo(workspace).args(["nextest", "--version"]).output().is_ok_and(|done| done.status.success());
        Self { workspace, nextest }
    }

    fn command(&self) -> Command {
        let mut command = cargo(self.workspace);
        if self.nextest {
            command.args(["nextest", "run"]);
        } else {
            command.args(["test", "--lib", "--bins", "--tests"]);
        }
        command.args(["--workspace", "--locked"]);
        command
    }

    /// Builds what the tests run, which includes the program and the fixtures.
    fn build(&self) -> Result<()> {
        finish(self.command().arg("--no-run"))
    }

    /// nextest cannot run documentation examples, so they always run apart.
    fn examples(&self) -> Result<()> {
        finish(cargo(self.workspace).args(["test", "--workspace", "--locked", "--doc", "--quiet"]))
    }

    /// The tests that take a number of rounds, with many.
    fn rounds(&self) -> Result<()> {
        let mut command = self.command();
        command.envs(ROUNDS);
        if self.nextest {
            // With what they counted. Those against real servers are among the ignored ones.
            command.args([
                "--run-ignored",
                "all",
                "--test-threads",
                "2",
                "--success-output",
                "final",
                "-E",
                &format!("(package(bailiwick) or package(bailiwick-credentials)) and test(/{}/)", OF_ROUNDS.join("|")),
            ]);
        } else {
            command.args(["--", "--include-ignored", "--test-threads=2", "--nocapture"]).args(OF_ROUNDS);
        }
        finish(&mut command)
    }

    /// All tests, and the ignored ones too unless they are in `by_hand`; without `by_hand`, no ignored test.
    fn tests(&self, by_hand: Option<&[String]>) -> Result<()> {
        let mut command = self.command();
        command.arg("--no-fail-fast");
        // A snapshot that differs is a failure, and never a new file.
        command.env("INSTA_UPDATE", "no");
        if self.nextest {
            // CI keeps the whole output, and one line for each test that passed says nothing there.
            command.args(["--status-level", "slow", "--final-status-level", "fail"]);
        }
        match by_hand {
            None => {}
            Some(names) if self.nextest => {
                command.args(["--run-ignored", "all", "-E", &format!("not test(/(^|::)({})$/)", names.join("|"))]);
            }
            Some(names) => {
                command.args(["--", "--include-ignored"]);
                for name in names {
                    command.args(["--skip", &format!("::{name}")]);
                }
            }
        }
        finish(&mut command)
    }
}

/// The names of the ignored tests in `sources` that do not wait for third-party programs.
fn run_by_hand(sources: &[PathBuf]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for path in sources.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        names.extend(ignored_otherwise(&fs::read_to_string(path)?));
    }
    Ok(names)
}

fn ignored_otherwise(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut lines = source.lines().map(str::trim_start);
    while let Some(line) = lines.next() {
        if !line.starts_with("#[ignore") || line.contains(NEEDS_TOOLS) {
            continue;
        }
        let name = lines.by_ref().find_map(|line| {
            let (_, rest) = line.split_once("fn ")?;
            Some(rest.split_once('(')?.0.to_owned())
        });
        names.extend(name);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tests_that_wait_for_tools_are_run_though_ignored() {
        let source = format!(
            "#[test]\n#[ignore = \"{NEEDS_TOOLS}\"]\nfn with_tools() {{}}\n#[ignore = \"a measurement\"]\n#[tokio::test]\nasync fn bench() {{}}\n#[test]\nfn plain() {{}}\n"
        );
        assert_eq!(ignored_otherwise(&source), ["bench"]);
    }
}
