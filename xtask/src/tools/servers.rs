//! Servers that tests start for themselves, as the system's own package manager has them. Nothing of theirs runs but in tests.

use std::fs;
use std::io::{Write as _, stdout};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::{as_root, run, twice, which};

/// A server: its name, whether it is there, and the Debian packages that hold it.
struct Server {
    name: &'static str,
    there: fn() -> bool,
    packages: &'static [&'static str],
}

/// Each is looked for where Debian and Ubuntu put it, which is not always on the path.
const SERVERS: &[Server] = &[
    // Makes certificates for the others.
    Server { name: "OpenSSL", there: || which("openssl"), packages: &["openssl"] },
    // An SSH server with accounts that are not the machine's.
    Server {
        name: "OpenSSH",
        there: || all(&["/usr/sbin/sshd", "/usr/bin/ssh", "/usr/bin/ssh-keygen"]) && wrapper(),
        packages: &["openssh-server", "openssh-client", "libnss-wrapper"],
    },
    // A token in software, whose key wraps a root key.
    Server { name: "SoftHSM", there: || which("softhsm2-util") && all(&["/usr/lib/softhsm/libsofthsm2.so"]), packages: &["softhsm2"] },
    Server { name: "PostgreSQL", there: postgresql, packages: &["postgresql", "postgresql-client"] },
    Server {
        name: "MariaDB",
        there: || all(&["/usr/sbin/mariadbd", "/usr/bin/mariadb-install-db", "/usr/bin/mariadb"]),
        packages: &["mariadb-server-core", "mariadb-client-core"],
    },
];

/// Installs what is missing.
pub(super) fn ensure() -> Result<()> {
    let missing: Vec<_> = SERVERS.iter().filter(|server| !(server.there)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|server| server.name).collect::<Vec<_>>().join(", ");
    if !which("apt-get") {
        bail!("not installed: {names}\nhint: install them with the system's package manager");
    }
    writeln!(stdout(), "installing {names} with apt-get")?;
    let packages: Vec<_> = missing.iter().flat_map(|server| server.packages).collect();
    twice("apt-get", || {
        run(as_root("apt-get").args(["update", "-q"]))?;
        run(as_root("apt-get").args(["install", "-q", "-y", "--no-install-recommends"]).args(&packages))
    })
    .with_context(|| format!("{names} could not be installed"))?;
    match missing.iter().find(|server| !(server.there)()) {
        None => Ok(()),
        Some(server) => bail!("{} was installed, and is not where it is looked for", server.name),
    }
}

fn all(programs: &[&str]) -> bool {
    programs.iter().all(|program| Path::new(program).is_file())
}

/// A library, which Debian puts into a folder of the machine's architecture.
fn wrapper() -> bool {
    fs::read_dir("/usr/lib").into_iter().flatten().flatten().any(|folder| folder.path().join("libnss_wrapper.so").is_file())
}

/// Debian has a folder for each version; elsewhere it is on the path.
fn postgresql() -> bool {
    let in_a_version = |program: &str| {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        versions.into_iter().any(|version| version.path().join("bin").join(program).is_file())
    };
    ["initdb", "postgres", "pg_basebackup", "psql"].iter().all(|program| which(program) || in_a_version(program))
}
