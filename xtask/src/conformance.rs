//! Runs the official MCP conformance suite against two fixture servers, directly and through Bailiwick, and compares.
//!
//! `cargo xtask conformance [--direct-only] [--through auto|shim|URL] [--fixture NAME] [--revision REVISION] [--port PORT] [--strict]`
//!
//! `auto` starts Bailiwick before each fixture, and runs the suite through it twice: with the server spoken to in the suite's own era,
//! and in the other one, where Bailiwick translates; `shim` puts only the header shim there, which proves that the comparison itself sees no
//! difference where there is none; a URL is a gateway that already runs before the fixture on `--port`, with its token in
//! `BAILIWICK_TOKEN`. With `--strict`, a payload difference that nothing explains fails too.

mod compare;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::compare::{Difference, Run, compare};
use crate::process::{Child, free_port};
use crate::tools::{self, Tools};

/// What the suite speaks, and the era to which the server is pinned where the two shall differ.
const REVISIONS: [(&str, &str); 2] = [("2025-11-25", "modern"), ("2026-07-28", "legacy")];
const FIXTURES: [&str; 2] = ["python", "rmcp"];
/// Python needs several seconds on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Options {
    through: Option<Through>,
    fixtures: Vec<&'static str>,
    revisions: Vec<(&'static str, &'static str)>,
    port: Option<u16>,
    strict: bool,
}

#[derive(Debug)]
enum Through {
    Auto,
    Shim,
    Running { port: u16, path: String },
}

/// The command; `arguments` are those after `conformance`.
pub(crate) fn run(workspace: &Path, arguments: impl Iterator<Item = String>) -> Result<()> {
    let options = Options::parse(arguments)?;
    let tools = tools::install(workspace)?;
    build(workspace, options.through.as_ref())?;
    let chore = Chore { workspace, tools, results: workspace.join("target/conformance"), options };
    chore.run()
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options =
            Self { through: Some(Through::Auto), fixtures: FIXTURES.to_vec(), revisions: REVISIONS.to_vec(), port: None, strict: false };
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("`{flag}` needs a value"));
            match flag.as_str() {
                "--direct-only" => options.through = None,
                "--strict" => options.strict = true,
                "--through" => options.through = Some(Through::parse(&value()?)?),
                "--port" => options.port = Some(value()?.parse()?),
                "--fixture" => {
                    let name = value()?;
                    options.fixtures.retain(|fixture| *fixture == name);
                    if options.fixtures.is_empty() {
                        bail!("no fixture `{name}`; there are: {}", FIXTURES.join(", "));
                    }
                }
                "--revision" => {
                    let wanted = value()?;
                    options.revisions.retain(|(revision, _)| *revision == wanted);
                    if options.revisions.is_empty() {
                        bail!("no revision `{wanted}`; there are: {}", REVISIONS.map(|(revision, _)| revision).join(", "));
                    }
                }
                _ => bail!("unknown argument `{flag}`"),
            }
        }
        Ok(options)
    }
}

impl Through {
    fn parse(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "shim" => Ok(Self::Shim),
            url => {
                let rest = url.strip_prefix("http://").context("`--through` wants `auto`, `shim` or a URL of http://127.0.0.1")?;
                let (host, path) = rest.split_once('/').context("the URL needs a path")?;
                let port = host.rsplit_once(':').context("the URL needs a port")?.1.parse()?;
                Ok(Self::Running { port, path: format!("/{path}") })
            }
        }
    }
}

fn build(workspace: &Path, through: Option<&Through>) -> Result<()> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--locked", "--quiet", "-p", "bailiwick-testkit", "--bins"]).current_dir(workspace);
    if matches!(through, Some(Through::Auto)) {
        cargo.args(["-p", "bailiwick"]);
    }
    if !cargo.status()?.success() {
        bail!("the build failed");
    }
    Ok(())
}

/// A gateway that runs before a fixture, and how to talk to it.
#[derive(Debug)]
struct Gateway {
    port: u16,
    path: String,
    /// The endpoint behind which the server is spoken to in the other era.
    crossed: Option<String>,
    token: Option<String>,
    /// Kept so that the process ends with this value.
    _child: Option<Child>,
}

struct Chore<'a> {
    workspace: &'a Path,
    tools: Tools,
    results: PathBuf,
    options: Options,
}

/// One fixture and one revision, with servers of their own: so several can run at once.
#[derive(Debug, Clone, Copy)]
struct Round {
    fixture: &'static str,
    revision: &'static str,
    /// The other era.
    other: &'static str,
}

/// One line of the table and what belongs below it.
struct Line {
    cells: [String; 7],
    notes: Vec<String>,
    broken: bool,
}

impl Chore<'_> {
    fn run(&self) -> Result<()> {
        if self.results.exists() {
            fs::remove_dir_all(&self.results)?;
        }
        let begin = Instant::now();
        let lines = self.rounds()?;
        print(&lines)?;
        writeln!(stdout(), "\n{:.0} s in all", begin.elapsed().as_secs_f64())?;
        if lines.iter().any(|line| line.broken) {
            bail!("the conformance suite found what is listed above; all results are in `{}`", self.results.display());
        }
        Ok(())
    }

    /// All rounds, several at once; a given port is the server's in one round after the other.
    fn rounds(&self) -> Result<Vec<Line>> {
        let pairs = |fixture: &&'static str| {
            let fixture = *fixture;
            self.options.revisions.iter().map(move |&(revision, other)| Round { fixture, revision, other }).collect::<Vec<_>>()
        };
        let rounds: Vec<Round> = self.options.fixtures.iter().flat_map(pairs).collect();
        // The suites wait more than they work.
        let at_once = if self.options.port.is_some() { 1 } else { thread::available_parallelism().map_or(2, |n| n.get().saturating_mul(2)) };
        let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
        thread::scope(|scope| {
            for _ in 0..at_once.min(rounds.len()) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(round) = rounds.get(number) else { return };
                        let lines = self.round(*round);
                        done.lock().unwrap_or_else(PoisonError::into_inner).insert(number, lines);
                    }
                });
            }
        });
        let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let lines = done.into_values().collect::<Result<Vec<_>>>()?;
        Ok(lines.into_iter().flatten().collect())
    }

    fn round(&self, round: Round) -> Result<Vec<Line>> {
        let Round { fixture, revision, other } = round;
        let port = self.options.port.map_or_else(free_port, Ok)?;
        let _server = self.start_fixture(round, port, "fixture")?;
        // A server of its own: what one run of the suite makes it tell is not told in the other.
        let crossed_port = free_port()?;
        let crossed_server = matches!(self.options.through, Some(Through::Auto)).then(|| self.start_fixture(round, crossed_port, "fixture-crossed"));
        let _crossed_server = crossed_server.transpose()?;
        let front = self.options.through.as_ref().map(|through| self.start_front(round, [port, crossed_port], through)).transpose()?;
        let scored = self.scored(revision)?;
        let url = format!("http://localhost:{port}/mcp");
        let (direct, seconds) = self.suite(&url, revision, &format!("{fixture}/{revision}/direct"))?;
        let mut lines = vec![direct_line(fixture, revision, &direct, &scored, seconds)];
        let Some(front) = &front else { return Ok(lines) };
        let (through, crossed) = thread::scope(|scope| {
            let crossed = front.gateway.crossed.as_ref().map(|path| {
                let (url, name) = (front.url(path), format!("{fixture}/{revision}/{other}"));
                scope.spawn(move || self.suite(&url, revision, &name))
            });
            let through = self.suite(&front.url(&front.gateway.path), revision, &format!("{fixture}/{revision}/through"));
            let crossed = crossed.map(|run| run.join().unwrap_or_else(|_| bail!("the run between the eras failed")));
            (through, crossed)
        });
        let (through, seconds) = through?;
        let mut differences = compare(&direct, &through);
        if differences.iter().any(|difference| difference.reason().is_none()) {
            // What two direct runs do not agree on is chance (ids, times), not the gateway.
            let (again, _) = self.suite(&url, revision, &format!("{fixture}/{revision}/again"))?;
            let chance: BTreeSet<_> = compare(&direct, &again).iter().map(Difference::place).collect();
            differences.retain(|difference| !chance.contains(&difference.place()));
        }
        let pair = Pair { direct: &direct, through: &through, scored: &scored, differences };
        lines.push(pair.line(fixture, revision, seconds, self.options.strict));
        if let Some((crossed, seconds)) = crossed.transpose()? {
            let pair = Pair { direct: &direct, through: &crossed, scored: &scored, differences: compare(&direct, &crossed) };
            lines.push(pair.crossed(round, seconds));
        }
        Ok(lines)
    }

    fn start_fixture(&self, round: Round, port: u16, log: &str) -> Result<Child> {
        let mut command = if round.fixture == "python" {
            self.tools.everything_server(port)
        } else {
            let mut command = Command::new(self.binary("mcp-fixture-rmcp"));
            command.args(["--port", &port.to_string()]);
            command
        };
        let mut child = Child::spawn(round.fixture, &mut command, &self.log(round, log))?;
        child.wait_for_port(port, START_LIMIT)?;
        Ok(child)
    }

    /// Puts the gateway before the fixture and the shim, which adds the token, before the gateway.
    fn start_front(&self, round: Round, upstreams: [u16; 2], through: &Through) -> Result<Front> {
        let port = free_port()?;
        let gateway = match through {
            Through::Auto => self.start_gateway(round, upstreams, port)?,
            Through::Shim => Gateway { port: upstreams[0], path: "/mcp".to_owned(), crossed: None, token: None, _child: None },
            Through::Running { port, path } => {
                Gateway { port: *port, path: path.clone(), crossed: None, token: env::var("BAILIWICK_TOKEN").ok(), _child: None }
            }
        };
        let mut command = Command::new(self.binary("header-shim"));
        command.args(["--listen", &port.to_string(), "--target", &gateway.port.to_string()]);
        if let Some(token) = &gateway.token {
            command.args(["--header", &format!("Authorization: Bearer {token}")]);
        }
        let mut shim = Child::spawn("header-shim", &mut command, &self.log(round, "shim"))?;
        shim.wait_for_port(port, START_LIMIT)?;
        Ok(Front { port, gateway, _shim: shim })
    }

    /// Everything that this chore knows of Bailiwick's configuration and command line.
    fn start_gateway(&self, round: Round, upstreams: [u16; 2], shim: u16) -> Result<Gateway> {
        let folder = self.results.join(round.fixture).join(round.revision).join("bailiwick");
        let data = folder.join("data");
        // Not the data directory: the program makes it, for itself alone.
        fs::create_dir_all(&folder)?;
        let config = folder.join("bailiwick.toml");
        fs::write(&config, gateway_config(upstreams, shim, round.other))?;
        let port = free_port()?;
        let program = self.binary("bailiwick");
        let common = |command: &mut Command, verb: &str| {
            command.arg(verb).arg("--config").arg(&config).arg("--data-dir").arg(&data);
        };
        let mut add = Command::new(&program);
        common(&mut add, "agent");
        let added = add.args(["add", "conformance"]).output()?;
        if !added.status.success() {
            bail!("no agent key: {}", String::from_utf8_lossy(&added.stderr));
        }
        let mut up = Command::new(&program);
        common(&mut up, "up");
        up.args(["--listen", &format!("127.0.0.1:{port}")]);
        let mut child = Child::spawn("bailiwick", &mut up, &self.log(round, "bailiwick"))?;
        child.wait_for_port(port, START_LIMIT)?;
        let mut token = Command::new(&program);
        common(&mut token, "token");
        let issued = token.args(["--agent", "conformance"]).output()?;
        if !issued.status.success() {
            bail!("no task token: {}", String::from_utf8_lossy(&issued.stderr));
        }
        let token = String::from_utf8(issued.stdout)?.trim().to_owned();
        Ok(Gateway { port, path: "/mcp/s/fixture".to_owned(), crossed: Some("/mcp/s/crossed".to_owned()), token: Some(token), _child: Some(child) })
    }

    /// Runs the suite once. Its exit code says nothing that its results do not say better.
    fn suite(&self, url: &str, revision: &str, name: &str) -> Result<(Run, f64)> {
        let folder = self.results.join(name);
        fs::create_dir_all(&folder)?;
        let begin = Instant::now();
        let done = self
            .tools
            .conformance()
            .args(["server", "--url", url, "--requirements", revision, "-o"])
            .arg(&folder)
            .output()
            .context("cannot start the conformance suite")?;
        fs::write(folder.join("output.txt"), [done.stdout, done.stderr].concat())?;
        Ok((Run::load(&folder)?, begin.elapsed().as_secs_f64()))
    }

    /// The server scenarios that count for a revision, as the suite lists them.
    fn scored(&self, revision: &str) -> Result<Vec<String>> {
        let listed = self.tools.conformance().args(["list", "--requirements", revision]).output()?;
        let text = String::from_utf8(listed.stdout)?;
        let scenarios: Vec<_> = text
            .lines()
            .skip_while(|line| !line.starts_with("Server scenarios"))
            .skip(1)
            .map_while(|line| line.trim_start().strip_prefix("- "))
            .map(str::to_owned)
            .collect();
        if scenarios.is_empty() {
            bail!("the suite lists no server scenarios for {revision}");
        }
        Ok(scenarios)
    }

    fn binary(&self, name: &str) -> PathBuf {
        self.workspace.join("target/debug").join(name)
    }

    fn log(&self, round: Round, name: &str) -> PathBuf {
        self.results.join(round.fixture).join(round.revision).join(format!("{name}.log"))
    }
}

/// The endpoint that the suite talks to; the processes behind it end with this value.
struct Front {
    port: u16,
    gateway: Gateway,
    _shim: Child,
}

impl Front {
    fn url(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.port)
    }
}

/// The server as two systems, each unprefixed at its own endpoint: one spoken to in the client's era, one always in the other.
/// Everything that the suite uses is a `read`, so that nothing is held; the server's own questions to the client are relayed, which
/// is off by default.
fn gateway_config([upstream, crossed]: [u16; 2], shim: u16, other: &str) -> String {
    format!(
        r#"[listen]
allowed_hosts = ["localhost:{shim}", "127.0.0.1:{shim}"]

[tasks]
calls_per_minute_max = 100000

[people."conformance@example.com"]
roles = ["owner", "operator"]

[agents.conformance]
owner = "conformance@example.com"
purpose = "runs the MCP conformance suite"
risk = "low"
review_by = "2099-01-01"
tools = ["fixture.*", "crossed.*"]

[systems.fixture]
url = "http://127.0.0.1:{upstream}/mcp"
effects = {{ "*" = "read" }}
resources = "read"
prompts = "read"
relay = ["elicitation", "sampling", "roots"]

[systems.crossed]
url = "http://127.0.0.1:{crossed}/mcp"
era = "{other}"
effects = {{ "*" = "read" }}
resources = "read"
prompts = "read"
relay = ["elicitation", "sampling", "roots"]
"#
    )
}

/// What a scenario needs of the fixture that it has in one era only. The documentation repeats them.
fn one_era(round: Round, scenario: &str) -> Option<&'static str> {
    const ASKS_IN_THE_MIDDLE: [&str; 4] =
        ["tools-call-sampling", "tools-call-elicitation", "elicitation-sep1034-defaults", "elicitation-sep1330-enums"];
    const ANSWERS_WITH_ROUNDS: [&str; 9] = [
        "input-required-result-basic-sampling",
        "input-required-result-basic-list-roots",
        "input-required-result-request-state",
        "input-required-result-multiple-input-requests",
        "input-required-result-multi-round",
        "input-required-result-non-tool-request",
        "input-required-result-result-type",
        "input-required-result-tampered-state",
        "input-required-result-capability-check",
    ];
    match (round.fixture, round.other) {
        (_, "modern") if ASKS_IN_THE_MIDDLE.contains(&scenario) => {
            Some("the tool asks its client in the middle of a call, which 2026-07-28 has no message for")
        }
        (_, "legacy") if scenario == "input-required-result-basic-elicitation" => {
            Some("it wants the question under the server's own key, and a question of 2025-11-25 has none")
        }
        ("python", "legacy") if ANSWERS_WITH_ROUNDS.contains(&scenario) => {
            Some("the tool answers with `input_required` in every era, which its own SDK does not send in a session of 2025-11-25")
        }
        _ => None,
    }
}

/// Two runs of one revision.
struct Pair<'a> {
    direct: &'a Run,
    through: &'a Run,
    scored: &'a [String],
    differences: Vec<Difference>,
}

fn direct_line(fixture: &str, revision: &str, run: &Run, scored: &[String], seconds: f64) -> Line {
    let failing: Vec<_> = scored.iter().filter(|scenario| !run.passes(scenario)).collect();
    let notes = failing.iter().map(|scenario| format!("scored scenario fails directly: {scenario}")).collect();
    let cells = cells(fixture, revision, "direct", run, scored, seconds, String::new());
    Line { cells, notes, broken: !failing.is_empty() }
}

impl Pair<'_> {
    fn line(&self, fixture: &str, revision: &str, seconds: f64, strict: bool) -> Line {
        let lost = |scenario: &&String| self.direct.passes(scenario) && !self.through.passes(scenario);
        let lost: Vec<_> = self.scored.iter().filter(lost).collect();
        let mut notes: Vec<_> = lost.iter().map(|scenario| format!("scored scenario fails only through: {scenario}")).collect();
        for ((scenario, id, _), check) in self.through.failures().filter(|((scenario, ..), _)| lost.contains(&scenario)) {
            notes.push(format!("  {scenario} {id}: {}", check.message));
        }
        let unexplained: Vec<_> = self.differences.iter().filter(|difference| difference.reason().is_none()).collect();
        notes.extend(unexplained.iter().map(ToString::to_string));
        let count = |wanted: bool| unexplained.iter().filter(|found| matches!(found, Difference::Status { .. }) == wanted).count();
        let by_design = self.differences.len() - unexplained.len();
        let summary = format!("{} verdicts, {} payloads, {by_design} by design", count(true), count(false));
        let cells = cells(fixture, revision, "through", self.through, self.scored, seconds, summary);
        Line { cells, notes, broken: !lost.is_empty() || (strict && !unexplained.is_empty()) }
    }

    /// The line of a run in which the server is spoken to in the other era: what it must not lose is what passes directly, except
    /// where the fixture itself has something of one era only.
    fn crossed(&self, round: Round, seconds: f64) -> Line {
        let lost = |scenario: &&String| self.direct.passes(scenario) && !self.through.passes(scenario);
        let (explained, lost): (Vec<_>, Vec<_>) = self.scored.iter().filter(lost).partition(|scenario| one_era(round, scenario).is_some());
        let mut notes: Vec<_> =
            explained.iter().filter_map(|scenario| Some(format!("lost between the eras: {scenario}: {}", one_era(round, scenario)?))).collect();
        notes.extend(lost.iter().map(|scenario| format!("scored scenario fails only through: {scenario}")));
        for ((scenario, id, _), check) in self.through.failures().filter(|((scenario, ..), _)| lost.contains(&scenario)) {
            notes.push(format!("  {scenario} {id}: {}", check.message));
        }
        let verdicts = self.differences.iter().filter(|found| matches!(found, Difference::Status { .. })).count();
        let summary = format!("{verdicts} verdicts, {} scenarios of one era", explained.len());
        let cells = cells(round.fixture, round.revision, round.other, self.through, self.scored, seconds, summary);
        Line { cells, notes, broken: !lost.is_empty() }
    }
}

fn cells(fixture: &str, revision: &str, way: &str, run: &Run, scored: &[String], seconds: f64, differences: String) -> [String; 7] {
    let passing = scored.iter().filter(|scenario| run.passes(scenario)).count();
    [
        fixture.to_owned(),
        revision.to_owned(),
        way.to_owned(),
        format!("{passing} of {}", scored.len()),
        format!("{} pass, {} fail", run.count("SUCCESS"), run.count("FAILURE")),
        format!("{seconds:.1} s"),
        differences,
    ]
}

fn print(lines: &[Line]) -> Result<()> {
    let head = ["fixture", "revision", "way", "scored", "all checks", "time", "differences"].map(str::to_owned);
    let mut out = stdout().lock();
    for cells in std::iter::once(&head).chain(lines.iter().map(|line| &line.cells)) {
        let [fixture, revision, way, scored, checks, seconds, differences] = cells;
        writeln!(out, "{fixture:<8} {revision:<11} {way:<8} {scored:<9} {checks:<18} {seconds:>7}  {differences}")?;
    }
    for line in lines.iter().filter(|line| !line.notes.is_empty()) {
        let [fixture, revision, way, ..] = &line.cells;
        writeln!(out, "\n{fixture} {revision} {way}")?;
        for note in &line.notes {
            writeln!(out, "  {note}")?;
        }
    }
    Ok(())
}
