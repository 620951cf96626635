//! The unmodified verifiers and the witness of C2SP logs that `cargo xtask tools` installs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::clients::tools;
use crate::{Child, Scratch, free_port};

/// A program of the verifiers' virtual environment: `python`, `aics-tlog`, `aics-witness` or `tlog-tiles`.
#[must_use]
pub fn verifier(program: &str) -> PathBuf {
    tools().join("verifiers/bin").join(program)
}

/// Builds a Go program of one file that imports `golang.org/x/mod`, with the compiler and the sources of the system's packages.
pub fn go_build(source: &Path, program: &Path) -> Result<()> {
    let built = Command::new("go")
        .arg("build")
        .arg("-o")
        .args([program, source])
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOCACHE", tools().join("go-cache"))
        .env("GOFLAGS", "")
        .env("CGO_ENABLED", "0")
        .output()
        .context("cannot start `go`")?;
    if !built.status.success() {
        bail!("`{}` was not built: {}", source.display(), String::from_utf8_lossy(&built.stderr));
    }
    Ok(())
}

/// A running `aics-witness` (PyPI): an independent witness with a key and a database of its own, in a private folder.
#[derive(Debug)]
pub struct Witness {
    // Before the folder: fields are dropped in this order.
    child: Child,
    folder: Scratch,
    port: u16,
    vkey: String,
}

impl Witness {
    /// Makes a new witness called `name` that knows one log, by origin and verifier key, and starts it.
    pub fn start(name: &str, origin: &str, vkey: &str) -> Result<Self> {
        let folder = Scratch::new("bailiwick-witness")?;
        let port = free_port()?;
        let own = ask(&folder, &["init", "--name", name, "--listen", &format!("127.0.0.1:{port}")])?;
        ask(&folder, &["add-log", "--origin", origin, "--vkey", vkey])?;
        let child = serve(&folder, port)?;
        Ok(Self { child, folder, port, vkey: own.trim().to_owned() })
    }

    /// Its public key, as a verifier key of kind cosignature.
    #[must_use]
    pub fn vkey(&self) -> &str {
        &self.vkey
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it is asked, without the `/add-checkpoint`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Kills it (SIGKILL) and starts it again on what it had stored.
    pub fn kill_and_start(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child = serve(&self.folder, self.port)?;
        Ok(())
    }

    /// The signed requests that it refused and kept as evidence against the log, as JSON.
    pub fn evidence(&self) -> Result<String> {
        ask(&self.folder, &["evidence"])
    }
}

fn serve(folder: &Scratch, port: u16) -> Result<Child> {
    let mut child = Child::spawn("aics-witness", &mut command(folder, &["serve"]), &folder.path().join("witness.log"))?;
    child.wait_for_port(port, Duration::from_secs(60))?;
    Ok(child)
}

fn command(folder: &Scratch, arguments: &[&str]) -> Command {
    let mut command = Command::new(verifier("aics-witness"));
    // A seed or a file from the environment would be somebody's real witness.
    command.args(arguments).current_dir(folder.path()).env_remove("WITNESS_SEED_HEX").env_remove("AICS_WITNESS_CONFIG");
    command
}

/// Runs it to its end and gives what it said.
fn ask(folder: &Scratch, arguments: &[&str]) -> Result<String> {
    let done = command(folder, arguments).output().context("cannot start `aics-witness`")?;
    if !done.status.success() {
        bail!("`aics-witness {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr));
    }
    Ok(String::from_utf8(done.stdout)?)
}
