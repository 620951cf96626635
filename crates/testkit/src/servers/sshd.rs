//! A private OpenSSH server on a free port, with an authority that it trusts and accounts that only it knows; gone when its owner is dropped.
//!
//! Run by root, it has the accounts `agent` (nobody's number) and `broker` (root's); run by anybody else, both are that person. The accounts are in files of
//! its own, which `nss_wrapper` shows to it: no account is made on the machine.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::unprivileged::{find, run};
use crate::{Child, Scratch, free_port};

const START_MAX: Duration = Duration::from_secs(30);
const NOBODY: u32 = 65534;

/// A running server.
#[derive(Debug)]
pub struct Sshd {
    // Before the folder, so that it is stopped before its files go.
    child: Option<Child>,
    scratch: Scratch,
    port: u16,
    kind: &'static str,
}

impl Sshd {
    /// The account that leases log in as.
    pub const AGENT: &str = "agent";
    /// The broker's own account.
    pub const BROKER: &str = "broker";

    /// Starts a server that trusts `authority` (a public key's line). `principals` are accounts and the names in certificates that may log in as them;
    /// `kind` is the host key's (`ed25519`, `ecdsa` or `rsa`); `more` are lines of its configuration, which come first and so win.
    pub fn start(authority: &str, principals: &[(&str, &str)], kind: &'static str, more: &str) -> Result<Self> {
        let scratch = Scratch::new("bailiwick-sshd")?;
        // The agent must be able to come in, and to see whether its lease has ended.
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o755))?;
        let server = Self { child: None, scratch, port: free_port()?, kind };
        let at = |name: &str| server.scratch.path().join(name);
        run(keygen()?.args(["-q", "-N", "", "-t", kind, "-f"]).arg(at("host_key")))?;
        fs::create_dir_all(at("state/ended"))?;
        run(keygen()?.arg("-q").arg("-k").arg("-f").arg(at("state/revoked_keys")))?;
        fs::create_dir(at("principals"))?;
        for (user, principal) in principals {
            let file = at("principals").join(user);
            let before = fs::read_to_string(&file).unwrap_or_default();
            fs::write(file, format!("{before}{principal}\n"))?;
        }
        server.scratch.write("authority", &format!("{authority}\n"))?;
        let (ours, group) = fs::metadata("/proc/self").map(|ours| (ours.uid(), ours.gid()))?;
        let (agent, broker) = if ours == 0 { (NOBODY, 0) } else { (ours, ours) };
        let home = server.scratch.path().display();
        let line = |name: &str, number: u32, group: u32| format!("{name}:*:{number}:{group}::{home}:/bin/sh\n");
        let agent_group = if ours == 0 { NOBODY } else { group };
        let accounts = line(Self::AGENT, agent, agent_group) + &line(Self::BROKER, broker, group) + &line("sshd", NOBODY - 1, NOBODY);
        server.scratch.write("passwd", &accounts)?;
        server.scratch.write("group", &format!("nogroup:x:{NOBODY}:\nours:x:{group}:\n"))?;
        let conf = format!(
            "{more}\nPort {}\nListenAddress 127.0.0.1\nHostKey {home}/host_key\nTrustedUserCAKeys {home}/authority\n\
             AuthorizedPrincipalsFile {home}/principals/%u\nAuthorizedKeysFile none\nRevokedKeys {home}/state/revoked_keys\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             MaxStartups 200\nLogLevel VERBOSE\n",
            server.port
        );
        server.scratch.write("sshd_config", &conf)?;
        let mut server = server;
        server.run()?;
        Ok(server)
    }

    /// Are there two accounts, of which only the broker's may do everything?
    #[must_use]
    pub fn has_two_accounts() -> bool {
        fs::metadata("/proc/self").is_ok_and(|ours| ours.uid() == 0)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its host key's kind and digits.
    pub fn host_key(&self) -> Result<String> {
        let line = fs::read_to_string(self.scratch.path().join("host_key.pub"))?;
        Ok(line.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
    }

    /// The folder with the list of revoked keys, and the folder `ended`.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// The folder of everything, which the accounts have as their home.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.scratch.path()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        let files = fs::read_dir(self.scratch.path()).into_iter().flatten().flatten().map(|entry| entry.path());
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()).collect()
    }

    /// Stops the listener at once; connections that are open stay, as they do on a real host.
    pub fn stop(&mut self) -> Result<()> {
        self.child.take().map_or(Ok(()), |mut child| child.kill())
    }

    /// Starts it again after [`Sshd::stop`], on the same port.
    pub fn run(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("it runs already");
        }
        let mut server = Command::new(find(&["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"])?);
        if Self::has_two_accounts() {
            fs::create_dir_all("/run/sshd").context("cannot make `/run/sshd`, where sshd of root shuts itself in")?;
        }
        let at = |name: &str| self.scratch.path().join(name);
        server.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
        server.env("LD_PRELOAD", wrapper()?).env("NSS_WRAPPER_PASSWD", at("passwd")).env("NSS_WRAPPER_GROUP", at("group"));
        server.args(["-D", "-e", "-f"]).arg(at("sshd_config"));
        let number = fs::read_dir(self.scratch.path())?.count();
        let mut child = Child::spawn(&format!("sshd ({})", self.kind), &mut server, &at(&format!("server-{number:04}.log")))?;
        child.wait_for_port(self.port, START_MAX)?;
        self.child = Some(child);
        Ok(())
    }
}

/// `ssh-keygen`, which makes keys and shows certificates.
pub fn keygen() -> Result<Command> {
    Ok(Command::new(find(&["/usr/bin/ssh-keygen", "/usr/local/bin/ssh-keygen"])?))
}

/// Where Debian, Ubuntu and others put it.
fn wrapper() -> Result<PathBuf> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let found = folders.chain([PathBuf::from("/usr/lib"), PathBuf::from("/usr/lib64")]).map(|folder| folder.join("libnss_wrapper.so"));
    let mut found = found.filter(|path| path.is_file());
    found.next().context("`libnss_wrapper.so` is not installed\nhint: `cargo xtask test` installs it")
}
