//! A private `PostgreSQL` cluster on a free port, with streaming standbys if wanted; gone when its owner is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::unprivileged::{command, folder, hand_over, run};
use crate::{Child, Scratch, free_port};

const START_MAX: Duration = Duration::from_secs(60);

/// A running cluster, or a standby of one.
#[derive(Debug)]
pub struct Postgres {
    // Before the folder, so that it is stopped before its files go.
    child: Option<Child>,
    scratch: Scratch,
    port: u16,
    options: Vec<String>,
}

impl Postgres {
    /// The superuser's name.
    pub const SUPERUSER: &str = "postgres";
    /// The superuser's password.
    pub const PASSWORD: &str = "superuser-of-a-private-cluster";

    /// Makes a cluster and starts it. `options` are settings such as `fsync=on`; without it, nothing is flushed to disk.
    /// It logs every statement. Passwords are SCRAM's, also on the Unix socket.
    pub fn start(options: &[&str]) -> Result<Self> {
        let scratch = place()?;
        let password = scratch.write("password", Self::PASSWORD)?;
        hand_over(&password)?;
        run(command(&program("initdb")?)
            .args(["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--username", Self::SUPERUSER])
            .arg("--pwfile")
            .arg(&password)
            .arg("--pgdata")
            .arg(scratch.path().join("data")))?;
        let mut cluster = Self { child: None, scratch, port: free_port()?, options: options.iter().map(|&option| option.to_owned()).collect() };
        cluster.run()?;
        Ok(cluster)
    }

    /// A streaming standby of it, which accepts readers.
    pub fn standby(&self) -> Result<Self> {
        let scratch = place()?;
        let data = scratch.path().join("data");
        run(self
            .client("pg_basebackup", Path::new("127.0.0.1"))?
            .args(["--write-recovery-conf", "--no-sync", "--checkpoint=fast", "--pgdata"])
            .arg(&data))?;
        let mut standby = Self { child: None, scratch, port: free_port()?, options: self.options.clone() };
        standby.run()?;
        Ok(standby)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Runs statements as the superuser; gives the rows, columns parted by `|`, without headings.
    pub fn sql(&self, database: &str, statements: &str) -> Result<String> {
        // By the Unix socket, so that a test may shut every other door.
        let mut psql = self.client("psql", self.scratch.path())?;
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statements]);
        Ok(run(&mut psql)?.trim_end().to_owned())
    }

    /// Everything that the server has logged, with every statement that it was sent.
    #[must_use]
    pub fn log(&self) -> String {
        let mut logs: Vec<_> = fs::read_dir(self.scratch.path()).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.sort();
        logs.iter().map(|path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()).collect()
    }

    /// Where its files are.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// Stops it at once, as a crash would; its files stay.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        // SIGQUIT: the postmaster takes its children with it, which SIGKILL would leave behind.
        let asked = Command::new("kill").arg("-QUIT").arg(child.id().to_string()).status()?;
        let begin = Instant::now();
        while asked.success() && begin.elapsed() < Duration::from_secs(10) && Path::new(&format!("/proc/{}/cmdline", child.id())).exists() {
            if fs::read(format!("/proc/{}/cmdline", child.id())).is_ok_and(|line| line.is_empty()) {
                break;
            }
            sleep(Duration::from_millis(10));
        }
        child.kill()
    }

    /// Starts it again after [`Postgres::stop`], on the same port.
    pub fn run(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("it runs already");
        }
        let mut server = command(&program("postgres")?);
        server.arg("-D").arg(self.data()).arg("-k").arg(self.scratch.path()).args(["-p", &self.port.to_string()]);
        let fixed = ["listen_addresses=127.0.0.1", "fsync=off", "max_prepared_transactions=20", "max_connections=120", "log_statement=all"];
        for option in fixed.into_iter().chain(self.options.iter().map(String::as_str)) {
            server.args(["-c", option]);
        }
        let number = fs::read_dir(self.scratch.path())?.count();
        let mut child = Child::spawn("postgres", &mut server, &self.scratch.path().join(format!("server-{number:04}.log")))?;
        child.wait_for_port(self.port, START_MAX)?;
        self.child = Some(child);
        let begin = Instant::now();
        loop {
            match self.sql("postgres", "SELECT 1") {
                Ok(_) => return Ok(()),
                Err(error) if begin.elapsed() > START_MAX => return Err(error.context(self.log())),
                Err(_) => sleep(Duration::from_millis(20)),
            }
        }
    }

    fn client(&self, name: &str, host: &Path) -> Result<Command> {
        let mut client = command(&program(name)?);
        client.env("PGPASSWORD", Self::PASSWORD).arg("-h").arg(host);
        client.args(["-p", &self.port.to_string(), "-U", Self::SUPERUSER]);
        Ok(client)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

fn place() -> Result<Scratch> {
    let scratch = Scratch::new("bailiwick-postgres")?;
    hand_over(scratch.path())?;
    folder(&scratch.path().join("data"))?;
    fs::set_permissions(scratch.path().join("data"), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(scratch)
}

/// A program of the newest version that Debian's packages installed, or of the path.
fn program(name: &str) -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin").join(name))))
        .filter(|(_, program)| program.is_file())
        .collect();
    found.sort();
    let paths = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).map(|folder| folder.join(name)).find(|path| path.is_file());
    let newest = found.pop().map(|(_, program)| program).or(paths);
    newest.with_context(|| format!("`{name}` of PostgreSQL is not installed\nhint: `cargo xtask test` installs it"))
}
