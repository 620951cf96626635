//! A private `MariaDB` server on a free port; gone when its owner is dropped.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::unprivileged::{command, find, folder, hand_over, run};
use crate::{Child, Scratch, free_port};

const START_MAX: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub struct Mariadb {
    // Before the folder, so that it is stopped before its files go.
    child: Option<Child>,
    scratch: Scratch,
    port: u16,
    options: Vec<String>,
}

impl Mariadb {
    /// The name of the account that may do everything.
    pub const SUPERUSER: &str = "root";
    /// Its password.
    pub const PASSWORD: &str = "root-of-a-private-server";

    /// Makes a server's files and starts it. `options` are settings such as `innodb-flush-log-at-trx-commit=1`; without it, little is
    /// flushed to disk. It logs every statement.
    pub fn start(options: &[&str]) -> Result<Self> {
        let scratch = Scratch::new("bailiwick-mariadb")?;
        hand_over(scratch.path())?;
        let data = scratch.path().join("data");
        folder(&data)?;
        run(command(&find(&["/usr/bin/mariadb-install-db", "/usr/local/bin/mariadb-install-db"])?)
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", "--basedir=/usr"])
            .args(["--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0"])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--tmpdir={}", scratch.path().display())))?;
        let init = format!("ALTER USER 'root'@'localhost' IDENTIFIED BY '{}';", Self::PASSWORD);
        hand_over(&scratch.write("init.sql", &init)?)?;
        let mut server = Self { child: None, scratch, port: free_port()?, options: options.iter().map(|&option| option.to_owned()).collect() };
        server.run()?;
        Ok(server)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Runs statements as the superuser; gives the rows, columns parted by tabs, without headings.
    pub fn sql(&self, statements: &str) -> Result<String> {
        let mut client = command(&find(&["/usr/bin/mariadb", "/usr/local/bin/mariadb"])?);
        client.env("MYSQL_PWD", Self::PASSWORD).args(["--no-defaults", "-N", "-B", "-u", Self::SUPERUSER]);
        client.arg(format!("--socket={}", self.scratch.path().join("s").display())).args(["-e", statements]);
        Ok(run(&mut client)?.trim_end().to_owned())
    }

    /// Every statement that the server was sent, and its error log.
    #[must_use]
    pub fn log(&self) -> String {
        let mut logs: Vec<_> = fs::read_dir(self.scratch.path()).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.sort();
        logs.iter().map(|path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()).collect()
    }

    /// Stops it at once, as a crash would; its files stay.
    pub fn stop(&mut self) -> Result<()> {
        self.child.take().map_or(Ok(()), |mut child| child.kill())
    }

    /// Starts it again after [`Mariadb::stop`], on the same port.
    pub fn run(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("it runs already");
        }
        let path = self.scratch.path();
        let mut server = command(&find(&["/usr/sbin/mariadbd", "/usr/libexec/mariadbd", "/usr/local/sbin/mariadbd"])?);
        server.args([
            "--no-defaults",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--basedir=/usr",
            "--general-log=1",
            "--max-connections=120",
        ]);
        server.args(["--innodb-flush-log-at-trx-commit=0", "--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M", "--performance-schema=0"]);
        server.arg(format!("--port={}", self.port));
        for (option, file) in
            [("datadir", "data"), ("socket", "s"), ("pid-file", "pid"), ("init-file", "init.sql"), ("general-log-file", "general.log")]
        {
            server.arg(format!("--{option}={}", path.join(file).display()));
        }
        server.arg(format!("--tmpdir={}", path.display())).args(self.options.iter().map(|option| format!("--{option}")));
        let number = fs::read_dir(path)?.count();
        let mut child = Child::spawn("mariadbd", &mut server, &path.join(format!("server-{number:04}.log")))?;
        child.wait_for_port(self.port, START_MAX)?;
        self.child = Some(child);
        let begin = Instant::now();
        loop {
            match self.sql("SELECT 1") {
                Ok(_) => return Ok(()),
                Err(error) if begin.elapsed() > START_MAX => return Err(error.context(self.log())),
                Err(_) => sleep(Duration::from_millis(20)),
            }
        }
    }

    /// The server's process.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Holds the server still (SIGSTOP), or lets it go on.
    pub fn pause(&self, still: bool) -> Result<()> {
        let Some(id) = self.id() else { bail!("it does not run") };
        let done = Command::new("kill").args([if still { "-STOP" } else { "-CONT" }, &id.to_string()]).status()?;
        if done.success() { Ok(()) } else { bail!("the signal was not sent") }
    }
}
