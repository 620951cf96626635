//! A private `NATS` server on a free port, with an operator and a full resolver; gone when its owner is dropped.

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::unprivileged::{command, find, folder, hand_over};
use crate::{Child, Scratch, free_port};

const START_MAX: Duration = Duration::from_secs(30);

/// A running server.
#[derive(Debug)]
pub struct Nats {
    // Before the folder, so that it is stopped before its files go.
    child: Option<Child>,
    scratch: Scratch,
    port: u16,
}

impl Nats {
    /// Starts a server that trusts the operator of `operator` (a JWT). `accounts` are public keys and JWTs; `system` is the system account's key.
    /// With `full`, pushed accounts are kept in a folder; otherwise the resolver has the given ones in memory and takes no other.
    /// `more` are lines of its configuration, such as those of a cluster.
    pub fn start(operator: &str, system: &str, accounts: &[(&str, &str)], full: bool, more: &str) -> Result<Self> {
        let scratch = Scratch::new("bailiwick-nats")?;
        hand_over(scratch.path())?;
        let data = scratch.path().join("jwt");
        folder(&data)?;
        let port = free_port()?;
        let resolver =
            if full { format!("resolver: {{ type: full, dir: \"{}\", allow_delete: true }}", data.display()) } else { "resolver: MEMORY".to_owned() };
        let preload: String = accounts.iter().map(|(key, jwt)| format!("  {key}: {jwt}\n")).collect();
        let conf = format!(
            "host: 127.0.0.1\nport: {port}\nserver_name: n{port}\nping_interval: 30\noperator: {operator}\nsystem_account: {system}\n{resolver}\n\
             resolver_preload: {{\n{preload}}}\n{more}\n"
        );
        hand_over(&scratch.write("nats.conf", &conf)?)?;
        let mut server = Self { child: None, scratch, port };
        server.run()?;
        Ok(server)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        let files = fs::read_dir(self.scratch.path()).into_iter().flatten().flatten().map(|entry| entry.path());
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()).collect()
    }

    /// Stops it at once, as a crash would; its files stay.
    pub fn stop(&mut self) -> Result<()> {
        self.child.take().map_or(Ok(()), |mut child| child.kill())
    }

    /// Starts it again after [`Nats::stop`], on the same port.
    pub fn run(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("it runs already");
        }
        let mut server = command(&find(&["/usr/sbin/nats-server", "/usr/bin/nats-server", "/usr/local/bin/nats-server"])?);
        server.arg("-DV").arg("-c").arg(self.scratch.path().join("nats.conf"));
        let number = fs::read_dir(self.scratch.path())?.count();
        let mut child = Child::spawn("nats-server", &mut server, &self.scratch.path().join(format!("server-{number:04}.log")))?;
        child.wait_for_port(self.port, START_MAX)?;
        self.child = Some(child);
        // It listens before it lets anybody in.
        let begin = Instant::now();
        while !greets(self.port) {
            if begin.elapsed() > START_MAX {
                bail!("it does not greet: {}", self.log());
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Does the server begin with its information?
fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut first = [0; 4];
    stream.set_read_timeout(Some(Duration::from_secs(2))).is_ok() && stream.read_exact(&mut first).is_ok() && first == *b"INFO"
}
