//! Runs the official MCP conformance suite against two fixture servers, directly and through Bailiwick, and compares.
//!
//! `cargo xtask conformance [--direct-only] [--through auto|shim|URL] [--fixture NAME] [--port PORT] [--strict]`
//!
//! `auto` starts Bailiwick before each fixture; `shim` puts only the header shim there, which proves that the comparison itself sees no
//! difference where there is none; a URL is a gateway that already runs before the fixture on `--port`, with its token in
//! `BAILIWICK_TOKEN`. With `--strict`, a payload difference that nothing explains fails too.

mod compare;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::compare::{Difference, Run, compare};
use crate::process::{Child, free_port};
use crate::tools::{self, Tools};

const REVISIONS: [&str; 2] = ["2025-11-25", "2026-07-28"];
const FIXTURES: [&str; 2] = ["python", "rmcp"];
/// Python needs several seconds on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Options {
    through: Option<Through>,
    fixtures: Vec<&'static str>,
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
        let mut options = Self { through: Some(Through::Auto), fixtures: FIXTURES.to_vec(), port: None, strict: false };
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
        let mut lines = Vec::new();
        for fixture in &self.options.fixtures {
            self.run_fixture(fixture, &mut lines)?;
        }
        print(&lines)?;
        if lines.iter().any(|line| line.broken) {
            bail!("the conformance suite found what is listed above; all results are in `{}`", self.results.display());
        }
        Ok(())
    }

    fn run_fixture(&self, fixture: &str, lines: &mut Vec<Line>) -> Result<()> {
        let port = self.options.port.map_or_else(free_port, Ok)?;
        let _server = self.start_fixture(fixture, port)?;
        let front = self.options.through.as_ref().map(|through| self.start_front(fixture, port, through)).transpose()?;
        for revision in REVISIONS {
            let scored = self.scored(revision)?;
            let url = format!("http://localhost:{port}/mcp");
            let (direct, seconds) = self.suite(&url, revision, &format!("{fixture}/{revision}/direct"))?;
            lines.push(direct_line(fixture, revision, &direct, &scored, seconds));
            if let Some(front) = &front {
                let (through, seconds) = self.suite(&front.url, revision, &format!("{fixture}/{revision}/through"))?;
                let mut differences = compare(&direct, &through);
                if differences.iter().any(|difference| difference.reason().is_none()) {
                    // What two direct runs do not agree on is chance (ids, times), not the gateway.
                    let (again, _) = self.suite(&url, revision, &format!("{fixture}/{revision}/again"))?;
                    let chance: BTreeSet<_> = compare(&direct, &again).iter().map(Difference::place).collect();
                    differences.retain(|difference| !chance.contains(&difference.place()));
                }
                let pair = Pair { direct: &direct, through: &through, scored: &scored, differences };
                lines.push(pair.line(fixture, revision, seconds, self.options.strict));
            }
        }
        Ok(())
    }

    fn start_fixture(&self, fixture: &str, port: u16) -> Result<Child> {
        let mut command = if fixture == "python" {
            self.tools.everything_server(port)
        } else {
            let mut command = Command::new(self.binary("mcp-fixture-rmcp"));
            command.args(["--port", &port.to_string()]);
            command
        };
        let mut child = Child::spawn(fixture, &mut command, &self.log(fixture, "fixture"))?;
        child.wait_for_port(port, START_LIMIT)?;
        Ok(child)
    }

    /// Puts the gateway before the fixture and the shim, which adds the token, before the gateway.
    fn start_front(&self, fixture: &str, upstream: u16, through: &Through) -> Result<Front> {
        let port = free_port()?;
        let gateway = match through {
            Through::Auto => self.start_gateway(fixture, upstream, port)?,
            Through::Shim => Gateway { port: upstream, path: "/mcp".to_owned(), token: None, _child: None },
            Through::Running { port, path } => Gateway { port: *port, path: path.clone(), token: env::var("BAILIWICK_TOKEN").ok(), _child: None },
        };
        let mut command = Command::new(self.binary("header-shim"));
        command.args(["--listen", &port.to_string(), "--target", &gateway.port.to_string()]);
        if let Some(token) = &gateway.token {
            command.args(["--header", &format!("Authorization: Bearer {token}")]);
        }
        let mut shim = Child::spawn("header-shim", &mut command, &self.log(fixture, "shim"))?;
        shim.wait_for_port(port, START_LIMIT)?;
        Ok(Front { url: format!("http://localhost:{port}{}", gateway.path), _shim: shim, _gateway: gateway })
    }

    /// Everything that this chore knows of Bailiwick's configuration and command line.
    fn start_gateway(&self, fixture: &str, upstream: u16, shim: u16) -> Result<Gateway> {
        let folder = self.results.join(fixture).join("bailiwick");
        let data = folder.join("data");
        // Not the data directory: the program makes it, for itself alone.
        fs::create_dir_all(&folder)?;
        let config = folder.join("bailiwick.toml");
        fs::write(&config, gateway_config(upstream, shim))?;
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
        let mut child = Child::spawn("bailiwick", &mut up, &self.log(fixture, "bailiwick"))?;
        child.wait_for_port(port, START_LIMIT)?;
        let mut token = Command::new(&program);
        common(&mut token, "token");
        let issued = token.args(["--agent", "conformance"]).output()?;
        if !issued.status.success() {
            bail!("no task token: {}", String::from_utf8_lossy(&issued.stderr));
        }
        let token = String::from_utf8(issued.stdout)?.trim().to_owned();
        Ok(Gateway { port, path: "/mcp/s/fixture".to_owned(), token: Some(token), _child: Some(child) })
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

    fn log(&self, fixture: &str, name: &str) -> PathBuf {
        self.results.join(fixture).join(format!("{name}.log"))
    }
}

/// The endpoint that the suite talks to; the processes behind it end with this value.
struct Front {
    url: String,
    _shim: Child,
    _gateway: Gateway,
}

/// One system without prefix, one agent that may call every tool of it, no approvals.
/// One system, unprefixed at its own endpoint; everything that the suite uses is a `read`, so that nothing is held; the server's
/// own questions to the client are relayed, which is off by default.
fn gateway_config(upstream: u16, shim: u16) -> String {
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
tools = ["fixture.*"]

[systems.fixture]
url = "http://127.0.0.1:{upstream}/mcp"
effects = {{ "*" = "read" }}
resources = "read"
prompts = "read"
relay = ["elicitation", "sampling", "roots"]
"#
    )
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
