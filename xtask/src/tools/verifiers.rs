//! Verifiers and a witness of C2SP logs that strangers wrote: Go's `x/mod/sumdb` by apt-get, the others from PyPI, by hash.

use std::env;
use std::fs;
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{PIP_INSTALL, Tools, as_root, run, twice, which};

/// These packages judge our log, so they are pinned by the hash of the one wheel that each has. What they need has wheels for many
/// platforms, and is pinned by version.
pub(super) const PINS: &[&str] = &[
    "aics-tlog==0.2.1 --hash=sha256:e8cd2be003001576353bbd1a139b68252baf85df8e5d356c5ff26f3c417efdfc",
    "aics-witness==0.1.0 --hash=sha256:cd3f5acd2e79a8e29411a5a810b65ad7c5709d468cf1e889533bb0d5e5fe8400",
    "tlog-scales==0.0.3 --hash=sha256:89cee88f3a08de210b0d05f1c6e208a87e7f0640ff560d43bd9042d680574dbb",
    "cryptography==50.0.2",
    "requests==2.34.2",
];

/// `aics-tlog` and `aics-witness` ask for 3.12.
const ASKED: (u8, u8) = (3, 12);

/// They use nothing that 3.11 (Debian 12) lacks, and pip is then told to overlook what they ask for. `tlog-scales` itself asks for 3.11.
const ENOUGH: (u8, u8) = (3, 11);

/// Where Debian and Ubuntu put the sources of Go packages.
const SUMDB: &str = "/usr/share/gocode/src/golang.org/x/mod/sumdb/tlog";

impl Tools {
    /// A virtual environment with the two verifiers and the witness.
    pub(super) fn install_verifiers(&self, folder: &Path, pins: &[&str]) -> Result<()> {
        let (python, version) = python()?;
        run(Command::new(python).args(["-m", "venv"]).arg(folder))?;
        let (judges, needs): (Vec<&str>, Vec<&str>) = pins.iter().partition(|pin| pin.contains("--hash="));
        let pip = folder.join("bin/pip");
        run(Command::new(&pip).args(PIP_INSTALL).args(needs))?;
        // pip takes hashes from a file only.
        let requirements = folder.join("requirements.txt");
        fs::write(&requirements, judges.join("\n") + "\n")?;
        let mut install = Command::new(&pip);
        install.args(PIP_INSTALL).args(["--no-deps", "--require-hashes", "--only-binary", ":all:"]);
        if version < ASKED {
            install.arg("--ignore-requires-python");
        }
        run(install.arg("--requirement").arg(requirements))?;
        // A Python that lacks something would show here, and not in the middle of a test.
        for program in ["aics-tlog", "aics-witness", "tlog-tiles"] {
            run(Command::new(folder.join("bin").join(program)).arg("--help")).with_context(|| format!("`{program}` does not start"))?;
        }
        Ok(())
    }
}

/// Go and its package `x/mod`, which the system's own package manager has.
pub(super) fn ensure_go() -> Result<()> {
    let mut missing = Vec::new();
    if !which("go") {
        missing.push("golang-go");
    }
    if !Path::new(SUMDB).is_dir() {
        missing.push("golang-golang-x-mod-dev");
    }
    if missing.is_empty() {
        return Ok(());
    }
    if !which("apt-get") {
        bail!(
            "the verifier of Go's `x/mod/sumdb` could not be installed: there is no apt-get\nhint: install Go, and golang.org/x/mod below /usr/share/gocode"
        );
    }
    writeln!(stdout(), "installing {} with apt-get", missing.join(", "))?;
    twice("apt-get", || {
        run(as_root("apt-get").args(["update", "-q"]))?;
        run(as_root("apt-get").args(["install", "-q", "-y", "--no-install-recommends"]).args(&missing))
    })
    .context("the verifier of Go's `x/mod/sumdb` could not be installed")
}

/// The best Python there is: one that the verifiers ask for, else one that is enough. A machine may have it beside its default one.
fn python() -> Result<(PathBuf, (u8, u8))> {
    if let Some(found) = best_python() {
        return Ok(found);
    }
    // Ubuntu 22.04 has it beside its 3.10.
    if which("apt-get") {
        writeln!(stdout(), "installing python3.11 with apt-get")?;
        run(as_root("apt-get").args(["install", "-q", "-y", "--no-install-recommends", "python3.11", "python3.11-venv"]))
            .context("aics-tlog, aics-witness and tlog-scales could not be installed: they need Python 3.12, or at least 3.11")?;
    }
    best_python().context("aics-tlog, aics-witness and tlog-scales could not be installed: they need Python 3.12, or at least 3.11")
}

fn best_python() -> Option<(PathBuf, (u8, u8))> {
    let mut candidates: Vec<PathBuf> = ["python3", "python3.14", "python3.13", "python3.12", "python3.11"].map(PathBuf::from).into();
    let pyenv = env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".pyenv")));
    let versions = pyenv.and_then(|root| fs::read_dir(root.join("versions")).ok());
    candidates.extend(versions.into_iter().flatten().flatten().map(|version| version.path().join("bin/python3")));
    // pyenv's shims and its default hide the system's own.
    candidates.push("/usr/bin/python3".into());
    let mut found: Option<(PathBuf, (u8, u8))> = None;
    for candidate in candidates {
        let Some(version) = version(&candidate).filter(|version| *version >= ENOUGH) else { continue };
        if found.as_ref().is_none_or(|(_, best)| *best < ASKED && version >= ASKED) {
            found = Some((candidate, version));
        }
    }
    found
}

/// The version of a Python that can make virtual environments.
fn version(python: &Path) -> Option<(u8, u8)> {
    let program = "import sys, venv, ensurepip; print(sys.version_info.major, sys.version_info.minor)";
    let done = Command::new(python).args(["-c", program]).output().ok().filter(|done| done.status.success())?;
    let text = String::from_utf8(done.stdout).ok()?;
    let (major, minor) = text.trim().split_once(' ')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
