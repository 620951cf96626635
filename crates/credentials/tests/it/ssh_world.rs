//! A private sshd that trusts an authority, a broker for it, and the client that everybody has.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bailiwick_credentials::kinds::ssh::{Admin, Host, Login, Settings, Ssh};
use bailiwick_credentials::lease::{Account, AccountName, Kind as _, Minted, Plan, Prefix};
use bailiwick_credentials::sessions::ssh::{Limits, Ssh as Session};
use bailiwick_credentials::{RootKey, Secret};
use bailiwick_testkit::Scratch;
use bailiwick_testkit::servers::sshd::{Sshd, keygen};
use bailiwick_testkit::servers::unprivileged::run;

use crate::words::{clock, plan};

pub(crate) const LIMITS: Limits = Limits { time: Duration::from_secs(10), bytes: 4096 };
/// What OpenSSH's client says of a refused login.
pub(crate) const DENIED: &str = "Permission denied";

pub(crate) struct World {
    pub(crate) server: Sshd,
    pub(crate) files: Scratch,
}

impl World {
    pub(crate) fn start() -> Self {
        Self::with("ed25519", "")
    }

    pub(crate) fn with(kind: &'static str, more: &str) -> Self {
        let files = Scratch::new("bailiwick-ssh-world").unwrap();
        run(keygen().unwrap().args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(files.path().join("ca"))).unwrap();
        let server = server(&files, kind, more);
        Self { server, files }
    }

    /// Another host with the same authority.
    pub(crate) fn another(&self) -> Sshd {
        server(&self.files, "ed25519", "")
    }

    pub(crate) fn host(name: &str, server: &Sshd) -> Host {
        Host::new(name, "127.0.0.1", server.port(), &[server.host_key().unwrap()]).unwrap()
    }

    pub(crate) fn settings(&self) -> Settings {
        let login = |user: &str, principal: &str| Login { user: user.to_owned(), principal: principal.to_owned() };
        let admin = Admin { login: login(Sshd::BROKER, "bailiwick-admin"), sudo: false, folder: self.server.folder().to_str().unwrap().to_owned() };
        Settings {
            hosts: vec![Self::host("one", &self.server)],
            logins: BTreeMap::from([("write".to_owned(), login(Sshd::AGENT, "task-agent"))]),
            lease_max: Duration::from_secs(3600),
            source_addresses: Vec::new(),
            force_command: None,
            admin: Some(admin),
        }
    }

    pub(crate) fn broker(&self) -> Ssh {
        self.broker_with(self.settings())
    }

    pub(crate) fn broker_with(&self, settings: Settings) -> Ssh {
        let authority = fs::read(self.files.path().join("ca")).unwrap();
        Ssh::new(settings, &Secret::from(authority), clock()).unwrap()
    }

    pub(crate) fn session(&self, account: &Account) -> Session {
        let settings = self.settings();
        Session::new(&settings.hosts, &settings.logins["write"], account).unwrap()
    }

    /// A lease's credential in the hands of somebody else, with OpenSSH's own client.
    pub(crate) fn thief(&self, account: &Account) -> Thief {
        let folder = Scratch::new("bailiwick-ssh-thief").unwrap();
        let text = plain(account);
        let (key, certificate) = text.split_at(text.find("ssh-ed25519-cert-v01").unwrap());
        fs::write(folder.path().join("key"), key).unwrap();
        fs::set_permissions(folder.path().join("key"), Permissions::from_mode(0o600)).unwrap();
        fs::write(folder.path().join("key-cert.pub"), certificate).unwrap();
        let known = format!("[127.0.0.1]:{} {}\n", self.server.port(), self.server.host_key().unwrap());
        fs::write(folder.path().join("known"), known).unwrap();
        Thief { folder, port: self.server.port() }
    }
}

fn server(files: &Scratch, kind: &'static str, more: &str) -> Sshd {
    let authority = fs::read_to_string(files.path().join("ca.pub")).unwrap();
    Sshd::start(authority.trim(), &[(Sshd::AGENT, "task-agent"), (Sshd::BROKER, "bailiwick-admin")], kind, more).unwrap()
}

/// Mints as the house does: the key first, and then what was made of it.
pub(crate) async fn mint(broker: &Ssh, plan: &Plan) -> Account {
    let key = broker.propose().unwrap().unwrap();
    let Minted { ids, secret, expires_at } = broker.mint(plan, Some(&key)).await.unwrap();
    Account { name: plan.name.clone(), ids, secret, expires_at }
}

/// What the names of one test's leases begin with; each test has a letter. A host shows the processes of all its leases, and other tests' run there too.
pub(crate) fn own_prefix(test: char) -> Prefix {
    let digit = |number: u32| char::from_digit(number % 36, 36).unwrap();
    let process = std::process::id();
    format!("ag{test}{}{}_", digit(process), digit(process / 36)).parse().unwrap()
}

/// A plan with such a name.
pub(crate) fn own_plan(test: char, right: &str) -> Plan {
    let plan = plan(&[right]);
    Plan { name: AccountName::new(&own_prefix(test), plan.name.lease()), ..plan }
}

/// The secret of an account, by the door through which a caller keeps it.
pub(crate) fn plain(account: &Account) -> String {
    let (key, _) = RootKey::generate().unwrap();
    let sealer = key.sealer().unwrap();
    let sealed = sealer.seal("ssh", account.secret.as_ref().unwrap()).unwrap();
    String::from_utf8(sealer.open_bytes("ssh", &sealed).unwrap().to_vec()).unwrap()
}

pub(crate) struct Thief {
    pub(crate) folder: Scratch,
    port: u16,
}

impl Thief {
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("key-cert.pub")
    }

    pub(crate) fn ssh(&self, user: &str) -> Command {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let mut ssh = Command::new("/usr/bin/ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR"]);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", at("known"))).arg("-i").arg(at("key"));
        ssh.arg("-S").arg(at("master")).args(["-p", &self.port.to_string(), "-l", user]);
        ssh.stdin(Stdio::null()).env_remove("SSH_AUTH_SOCK");
        ssh
    }

    /// A command; its status, and both outputs.
    pub(crate) fn run(&self, command: &str) -> (i32, String) {
        let out = self.ssh(Sshd::AGENT).args(["127.0.0.1", command]).output().unwrap();
        (out.status.code().unwrap(), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
    }

    /// A connection that nothing runs on, and that later calls of this thief use.
    pub(crate) fn idle(&self) -> Open {
        let child = self.ssh(Sshd::AGENT).args(["-M", "-N", "127.0.0.1"]).stderr(Stdio::null()).spawn().unwrap();
        wait_for("a connection", || self.folder.path().join("master").exists());
        Open(child)
    }

    /// A command that goes on.
    pub(crate) fn begin(&self, command: &str) -> Open {
        Open(
            self.ssh(Sshd::AGENT).args(["-o", "ControlPath=none", "127.0.0.1", command]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(),
        )
    }
}

/// A client that runs.
pub(crate) struct Open(Child);

impl Open {
    pub(crate) fn is_open(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    pub(crate) fn wait_for_its_end(&mut self) {
        wait_for("the client's end", || !self.is_open());
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[track_caller]
pub(crate) fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}
