//! `bench gateway`: starts the fixture, Bailiwick and the load generator, and has each case measured directly and through.

use std::env;
use std::fs::{self, File};
use std::io::{Read as _, Write as _, stderr};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::Options;
use super::report::{CASES, Case, Report, Sample, Tool, Way};
use crate::process::{Child, free_port};

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_GRACE: Duration = Duration::from_secs(10);
const WARM_UP_SECONDS: &str = "0.3";
const AGENT: &str = "bench";

pub(super) fn run(workspace: &Path, options: &Options) -> Result<()> {
    build(workspace, options)?;
    let folder = workspace.join("target/bench/gateway");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let bench =
        Bench { programs: workspace.join("target/release"), policies: workspace.join("crates/policy/src/default.cedar"), folder: &folder, options };
    let report = bench.run().with_context(|| format!("the benchmark failed; its logs are in `{}`", folder.display()))?;
    report.print(options.json)?;
    // It held every call that was made: gigabytes. After a failure it stays, to be looked at.
    fs::remove_dir_all(&folder)?;
    Ok(())
}

fn build(workspace: &Path, options: &Options) -> Result<()> {
    // Without rmcp, which only other fixtures need.
    let fixtures = ["bailiwick-testkit", "--no-default-features", "--bin=mcp-fixture-echo", "--bin=mcp-load"];
    let mut packages = vec![fixtures.as_slice()];
    if !options.direct_only {
        packages.push(&["bailiwick"]);
    }
    for package in packages {
        let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--locked", "--quiet", "--release", "-p"])
            .args(package)
            .current_dir(workspace)
            .status()?;
        ensure!(built.success(), "the build failed");
    }
    Ok(())
}

struct Bench<'a> {
    programs: PathBuf,
    policies: PathBuf,
    folder: &'a Path,
    options: &'a Options,
}

/// Something that answers MCP, and what the load generator must know of it.
#[derive(Clone)]
struct Target<'a> {
    way: Way,
    port: u16,
    token_file: Option<&'a Path>,
    fixture: &'a Child,
    broker: Option<&'a Child>,
}

/// A running Bailiwick with a task token.
struct Broker {
    child: Child,
    port: u16,
    token_file: PathBuf,
}

impl Bench<'_> {
    fn run(&self) -> Result<Report> {
        let mut report = Report::new(self.options.rounds);
        let port = free_port()?;
        let mut command = Command::new(self.programs.join("mcp-fixture-echo"));
        command.args(["--port", &port.to_string()]);
        let mut fixture = Child::spawn("the fixture", &mut command, &self.folder.join("fixture.log"))?;
        fixture.wait_for_port(port, START_LIMIT)?;
        let before = Counts::of(port)?;
        let direct = Target { way: Way::Direct, port, token_file: None, fixture: &fixture, broker: None };
        // The default policies hold writes; a broker whose policies permit them measures these, after the other.
        for tool in [Tool::Echo, Tool::Put] {
            let cases: Vec<_> = CASES.iter().filter(|case| case.tool == tool).collect();
            if self.options.direct_only {
                self.rounds(&cases, std::slice::from_ref(&direct), &mut report)?;
                continue;
            }
            let mut broker = self.start_broker(port, tool)?;
            let through =
                Target { way: Way::Through, port: broker.port, token_file: Some(&broker.token_file), broker: Some(&broker.child), ..direct.clone() };
            self.rounds(&cases, &[direct.clone(), through], &mut report)?;
            ensure!(broker.child.terminate(STOP_GRACE)?, "bailiwick did not end well:\n{}", broker.child.output());
        }
        let seen = Counts::of(port)?.since(&before);
        let sent = Counts { echo: report.sent(Tool::Echo), put: report.sent(Tool::Put) };
        ensure!(seen == sent, "calls were lost or done twice: {sent:?} were sent, the fixture saw {seen:?}");
        Ok(report)
    }

    /// Directly and through in turns, so that what else the machine does falls on both.
    fn rounds(&self, cases: &[&Case], targets: &[Target<'_>], report: &mut Report) -> Result<()> {
        for round in 1..=self.options.rounds {
            for case in cases {
                write!(stderr(), "\rround {round}: {} ", case.label())?;
                if case.connections == 1 {
                    report.appends.push(self.durable_append()?);
                }
                let mut order: Vec<_> = targets.iter().collect();
                if round % 2 == 0 {
                    order.reverse();
                }
                for target in order {
                    report.add(case, target.way, self.measure(case, target)?);
                }
            }
        }
        writeln!(stderr(), "\r")?;
        Ok(())
    }

    fn measure(&self, case: &Case, target: &Target<'_>) -> Result<Sample> {
        let name = case.tool.name();
        let tool = match target.way {
            Way::Direct => name.to_owned(),
            Way::Through => format!("echo.{name}"),
        };
        let mut command = Command::new(self.programs.join("mcp-load"));
        command
            .args(["--port", &target.port.to_string()])
            .args(["--tool", &tool, "--kind", name])
            .args(["--connections", &case.connections.to_string()])
            .args(["--seconds", &self.options.seconds.to_string()])
            .args(["--warm-up", WARM_UP_SECONDS])
            .args(["--watch", &format!("server={}", target.fixture.id())]);
        if let Some(file) = target.token_file {
            command.arg("--token-file").arg(file);
        }
        if let Some(broker) = target.broker {
            command.args(["--watch", &format!("broker={}", broker.id())]);
        }
        let place = format!("{} {}", target.way.label(), case.label());
        let done = command.output()?;
        ensure!(done.status.success(), "{place}: the load generator failed: {}", String::from_utf8_lossy(&done.stderr));
        let line: Value = serde_json::from_slice(&done.stdout).with_context(|| format!("{place}: no JSON from the load generator"))?;
        Sample::parse(&line).with_context(|| place)
    }

    /// The median time, in µs, that one small record takes to the disk in the simplest way there is: 1 KiB written into a file that has its
    /// size already, and synced.
    fn durable_append(&self) -> Result<f64> {
        const RECORD: usize = 1 << 10;
        const RECORDS: usize = 256;
        let path = self.folder.join("append");
        fs::write(&path, vec![0; RECORD * RECORDS])?;
        let file = File::options().write(true).open(&path)?;
        file.sync_all()?;
        let mut took = Vec::with_capacity(RECORDS);
        for place in 0..RECORDS {
            let begin = Instant::now();
            file.write_all_at(&[1; RECORD], (place * RECORD) as u64)?;
            file.sync_data()?;
            took.push(begin.elapsed().as_secs_f64() * 1e6);
        }
        super::report::median(took).context("no appends")
    }

    fn start_broker(&self, upstream: u16, tool: Tool) -> Result<Broker> {
        let name = tool.name();
        let folder = self.folder.join(format!("bailiwick-{name}"));
        let policies = folder.join("policies");
        fs::create_dir_all(&policies)?;
        let default = fs::read_to_string(&self.policies)?;
        fs::write(policies.join("bench.cedar"), default + PERMIT_WRITES)?;
        let config = folder.join("bailiwick.toml");
        fs::write(&config, configuration(upstream, tool))?;
        let bailiwick = |arguments: &[&str]| {
            let mut command = Command::new(self.programs.join("bailiwick"));
            command.args(arguments).arg("--config").arg(&config).arg("--data-dir").arg(folder.join("data"));
            command
        };
        output(&mut bailiwick(&["agent", "add", AGENT]))?;
        let port = free_port()?;
        let mut child = Child::spawn("bailiwick", &mut bailiwick(&["up", "--listen", &format!("127.0.0.1:{port}")]), &folder.join("bailiwick.log"))?;
        child.wait_for_port(port, START_LIMIT)?;
        let token = output(&mut bailiwick(&["token", "--agent", AGENT]))?;
        let token_file = folder.join("token");
        fs::write(&token_file, token)?;
        Ok(Broker { child, port, token_file })
    }
}

const PERMIT_WRITES: &str = r#"
@id("bench-writes") @reason("the benchmark writes on its own")
permit (principal in Agent::"bench", action in Action::"write", resource);
"#;

/// Limits of number are raised, since the product has them for what a benchmark is: far too many calls. Everything else is as it comes.
fn configuration(upstream: u16, tool: Tool) -> String {
    let policy = match tool {
        Tool::Echo => "",
        Tool::Put => "[policy]\ndirectory = \"policies\"\n",
    };
    format!(
        r#"{policy}
[tasks]
token_minutes = 60
calls_max = 1000000000
calls_per_minute_max = 4000000000

[people."ana@example.org"]
roles = ["owner", "operator"]

[agents.{AGENT}]
owner = "ana@example.org"
purpose = "measures what a call costs"
risk = "low"
review_by = "2099-12-31"
tools = ["echo.*"]

[systems.echo]
url = "http://127.0.0.1:{upstream}/mcp"
effects = {{ echo = "read", put = "write" }}
"#
    )
}

fn output(command: &mut Command) -> Result<String> {
    let done = command.output()?;
    if !done.status.success() {
        bail!(
            "`{} {}` ended with {}:\n{}",
            command.get_program().display(),
            command.get_args().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" "),
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(String::from_utf8(done.stdout)?)
}

/// How often each of the fixture's tools ran.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    echo: u64,
    put: u64,
}

impl Counts {
    fn of(port: u16) -> Result<Self> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.write_all(b"GET /counts HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("the fixture gave no counts")?;
        let counts: Value = serde_json::from_str(body)?;
        let count = |name: &str| counts.get(name).and_then(Value::as_u64).with_context(|| format!("the fixture has no count of `{name}`"));
        Ok(Self { echo: count("echo")?, put: count("put")? })
    }

    const fn since(&self, before: &Self) -> Self {
        Self { echo: self.echo.saturating_sub(before.echo), put: self.put.saturating_sub(before.put) }
    }
}
