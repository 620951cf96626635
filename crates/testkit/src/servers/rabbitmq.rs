//! A private `RabbitMQ` server on free ports, with its management API; gone when its owner is dropped, with the `epmd` that it began.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::unprivileged::{command, find, folder, hand_over};
use crate::{Child, Scratch, free_port};

/// The first start of a machine takes long.
const START_MAX: Duration = Duration::from_secs(150);

/// A running server.
#[derive(Debug)]
pub struct Rabbitmq {
    // Before the folder, so that it is stopped before its files go.
    child: Option<Child>,
    scratch: Scratch,
    port: u16,
    api: u16,
    distribution: u16,
    epmd: u16,
}

impl Rabbitmq {
    /// The name of the administrator.
    pub const ADMINISTRATOR: &str = "root";
    /// The administrator's password.
    pub const PASSWORD: &str = "root-of-a-private-server";

    /// Makes a server and starts it.
    pub fn start() -> Result<Self> {
        let scratch = Scratch::new("bailiwick-rabbitmq")?;
        hand_over(scratch.path())?;
        folder(&scratch.path().join("data"))?;
        let mut server = Self { child: None, scratch, port: low_port()?, api: free_port()?, distribution: free_port()?, epmd: free_port()? };
        let conf = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {}\ndefault_user = {}\ndefault_pass = {}\nlog.console.level = debug\n",
            server.port,
            server.api,
            Self::ADMINISTRATOR,
            Self::PASSWORD
        );
        hand_over(&server.scratch.write("rabbitmq.conf", &conf)?)?;
        hand_over(&server.scratch.write("plugins", "[rabbitmq_management].\n")?)?;
        server.run()?;
        Ok(server)
    }

    /// The port of AMQP on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The port of the management API on 127.0.0.1.
    #[must_use]
    pub const fn api(&self) -> u16 {
        self.api
    }

    /// Asks the management API as the administrator: the status and the body. `path` begins after `/api`.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let mut client = Command::new("curl");
        client.args(["--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}", "--header", "content-type: application/json"]);
        client.arg("--user").arg(format!("{}:{}", Self::ADMINISTRATOR, Self::PASSWORD)).args(["--request", method]);
        if !body.is_empty() {
            client.args(["--data", body]);
        }
        let answer = super::unprivileged::run(client.arg(format!("http://127.0.0.1:{}/api{path}", self.api)))?;
        let (body, status) = answer.rsplit_once('\n').context("no status")?;
        Ok((status.parse()?, body.to_owned()))
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.child.as_ref().map(Child::output).unwrap_or_default()
    }

    /// Stops it at once, as a crash would; its files stay.
    pub fn stop(&mut self) -> Result<()> {
        self.child.take().map_or(Ok(()), |mut child| child.kill())?;
        end_of(self.scratch.path());
        Ok(())
    }

    /// Starts it again after [`Rabbitmq::stop`], on the same ports.
    pub fn run(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("it runs already");
        }
        let path = self.scratch.path();
        let mut server = command(&find(&["/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/local/sbin/rabbitmq-server"])?);
        let ports = [("RABBITMQ_NODE_PORT", self.port), ("RABBITMQ_DIST_PORT", self.distribution), ("ERL_EPMD_PORT", self.epmd)];
        server.envs(ports.map(|(name, port)| (name, port.to_string())));
        let files = [("HOME", "data"), ("RABBITMQ_MNESIA_BASE", "data/mnesia"), ("RABBITMQ_LOG_BASE", "data/log"), ("RABBITMQ_PID_FILE", "data/pid")];
        let files = files.into_iter().chain([("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"), ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins")]);
        server.envs(files.map(|(name, file)| (name, path.join(file))));
        server.env("RABBITMQ_NODENAME", format!("b{}@localhost", self.port)).env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1");
        server.env("ERL_EPMD_ADDRESS", "127.0.0.1").env("RABBITMQ_CONF_ENV_FILE", "/dev/null").env("RABBITMQ_LOGS", "-");
        // Otherwise `epmd` does not let itself be ended while it remembers the server.
        server.env("ERL_EPMD_RELAXED_COMMAND_CHECK", "true");
        server.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+sbwt none +S 1");
        let number = fs::read_dir(path)?.count();
        let mut child = Child::spawn("rabbitmq-server", &mut server, &path.join(format!("server-{number:04}.log")))?;
        child.wait_for_port(self.api, START_MAX)?;
        self.child = Some(child);
        let begin = Instant::now();
        loop {
            match self.ask("GET", "/whoami", "") {
                Ok((200, _)) if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() => return Ok(()),
                answer if begin.elapsed() > START_MAX => bail!("it does not answer: {answer:?}\n{}", self.log()),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for Rabbitmq {
    fn drop(&mut self) {
        // What the server began by itself goes with it, and so does `epmd`, which is on a port of its own.
        drop(self.stop());
        if let Ok(epmd) = find(&["/usr/bin/epmd", "/usr/local/bin/epmd"]) {
            drop(command(&epmd).args(["-port", &self.epmd.to_string(), "-kill"]).output());
        }
    }
}

/// Ends processes that have our folder in their command line: the server's script may have begun others.
fn end_of(folder: &Path) {
    let Some(folder) = folder.to_str() else { return };
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let id = process.file_name();
        if String::from_utf8_lossy(&line).contains(folder) && id.to_str().is_some_and(|id| id.parse::<u32>().is_ok_and(|id| id != std::process::id()))
        {
            drop(Command::new("kill").arg("-KILL").arg(&id).status());
        }
    }
}

/// The server puts its distribution 20,000 higher if nobody says otherwise, so it wants a low port.
fn low_port() -> Result<u16> {
    let start = 20_000 + u16::try_from(std::process::id() % 20_000)?;
    let free = (start..45_535).chain(20_000..start).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.context("no free port below 45,535")
}
