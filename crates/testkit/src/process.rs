//! Child processes that end with their owner, and free ports for them to listen on.
//!
//! Only the standard library and `anyhow` are used, because `xtask` includes this file too.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

const POLL: Duration = Duration::from_millis(20);

/// A TCP port on 127.0.0.1 that was free a moment ago.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// A running process whose output goes to a log file and which is killed when this value is dropped.
#[derive(Debug)]
pub struct Child {
    name: String,
    inner: std::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts `command` with no standard input; both outputs go to the file `log`, made anew.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        if let Some(parent) = log.parent() {
            fs::create_dir_all(parent)?;
        }
        let out = File::create(log).with_context(|| format!("cannot write `{}`", log.display()))?;
        let err = out.try_clone()?;
        let inner = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("cannot start {name} (`{}`)", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), inner, log: log.to_owned() })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.inner.id()
    }

    /// Everything that it has written so far.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until 127.0.0.1:`port` accepts connections. A process that ends before that is an error at once, with its log.
    pub fn wait_for_port(&mut self, port: u16, limit: Duration) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let begin = Instant::now();
        loop {
            if let Some(status) = self.inner.try_wait()? {
                bail!("{} ended ({status}) before it listened on {address}:\n{}", self.name, self.output());
            }
            if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
                return Ok(());
            }
            if begin.elapsed() > limit {
                bail!("{} did not listen on {address} within {limit:?}:\n{}", self.name, self.output());
            }
            sleep(POLL);
        }
    }

    /// Kills it now (SIGKILL) and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        if self.inner.try_wait()?.is_none() {
            self.inner.kill()?;
            self.inner.wait()?;
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM), kills it after `grace`, and says whether it ended by itself with success.
    pub fn terminate(&mut self, grace: Duration) -> Result<bool> {
        let asked = Command::new("kill").arg("-TERM").arg(self.id().to_string()).status()?;
        let begin = Instant::now();
        while asked.success() && begin.elapsed() < grace {
            if let Some(status) = self.inner.try_wait()? {
                return Ok(status.success());
            }
            sleep(POLL);
        }
        self.kill()?;
        Ok(false)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.kill());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log file that is gone after the test.
    struct Log(PathBuf);

    impl Drop for Log {
        fn drop(&mut self) {
            drop(fs::remove_file(&self.0));
        }
    }

    fn log(name: &str) -> Log {
        let id = std::process::id();
        Log(std::env::temp_dir().join(format!("bailiwick-process-{id}-{name}.log")))
    }

    #[test]
    fn a_child_ends_with_its_owner() {
        let log = log("drop");
        let child = Child::spawn("sleep", Command::new("sleep").arg("600"), &log.0).unwrap();
        let proc_entry = PathBuf::from(format!("/proc/{}", child.id()));
        let alive = || proc_entry.exists();
        assert!(alive());
        drop(child);
        assert!(!alive());
    }

    #[test]
    fn a_child_that_ends_early_is_an_error_that_carries_its_log() {
        let log = log("early");
        let mut child = Child::spawn("shell", Command::new("sh").args(["-c", "echo out of cheese; exit 3"]), &log.0).unwrap();
        let error = child.wait_for_port(free_port().unwrap(), Duration::from_secs(30)).unwrap_err();
        assert!(error.to_string().contains("out of cheese"), "{error}");
    }

    #[test]
    fn a_port_is_ready_once_something_listens() {
        let log = log("port");
        let mut child = Child::spawn("sleep", Command::new("sleep").arg("600"), &log.0).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        child.wait_for_port(listener.local_addr().unwrap().port(), Duration::from_secs(30)).unwrap();
    }

    #[test]
    fn a_child_that_ignores_the_request_to_end_is_killed() {
        let log = log("deaf");
        let mut deaf =
            Child::spawn("shell", Command::new("sh").args(["-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]), &log.0).unwrap();
        while !deaf.output().contains("ready") {
            sleep(POLL);
        }
        assert!(!deaf.terminate(Duration::from_millis(200)).unwrap());
    }
}
