//! A private `Redis` server on a free port, alone or as a replica; gone when its owner is dropped.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::unprivileged::{command, find, folder, hand_over, run};
use crate::{Child, Scratch, free_port};

const START_MAX: Duration = Duration::from_secs(30);

/// A running server.
#[derive(Debug)]
pub struct Redis {
    // Before the folder, so that it is stopped before its files go.
    child: Option<Child>,
    scratch: Scratch,
    port: u16,
}

/// Where a server keeps its users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// In a file of their own.
    AclFile,
    /// In the file of its configuration.
    Configuration,
    /// Nowhere: it has no file at all.
    Memory,
}

impl Redis {
    /// The password of the user `default`, who may do everything.
    pub const PASSWORD: &str = "default-of-a-private-server";

    /// Starts a server. `users` are lines such as `broker on >password -@all`; `options` are lines of its configuration.
    pub fn start(kept: Users, users: &[&str], options: &[&str]) -> Result<Self> {
        let scratch = Scratch::new("bailiwick-redis")?;
        hand_over(scratch.path())?;
        let data = scratch.path().join("data");
        folder(&data)?;
        let port = free_port()?;
        let default = format!("default on >{} ~* &* +@all", Self::PASSWORD);
        let users: String = [default.as_str()].iter().chain(users).map(|user| format!("user {user}\n")).collect();
        let dir = data.display();
        let mut lines = format!(
            "bind 127.0.0.1\nport {port}\ndir {dir}\nsave \"\"\nmasterauth {}\nslowlog-log-slower-than 0\nrepl-diskless-sync-delay 0\n",
            Self::PASSWORD
        );
        options.iter().for_each(|option| lines.push_str(&format!("{option}\n")));
        if kept == Users::AclFile {
            lines.push_str(&format!("aclfile {}\n", data.join("users.acl").display()));
            fs::write(data.join("users.acl"), &users)?;
            hand_over(&data.join("users.acl"))?;
        } else {
            lines.push_str(&users);
        }
        fs::write(data.join("redis.conf"), lines)?;
        hand_over(&data.join("redis.conf"))?;
        let mut server = Self { child: None, scratch, port };
        if kept == Users::Memory {
            let conf = fs::read_to_string(data.join("redis.conf"))?;
            fs::remove_file(data.join("redis.conf"))?;
            server.spawn(conf.lines().filter(|line| !line.starts_with("user ")).flat_map(arguments).collect())?;
            for user in users.lines().skip(1).chain(users.lines().take(1)) {
                let words: Vec<_> = ["ACL", "SETUSER"].into_iter().chain(user.split(' ').skip(1)).collect();
                server.admin_without_password(&words)?;
            }
        } else {
            server.run()?;
        }
        Ok(server)
    }

    /// Makes it a replica of another.
    pub fn follow(&self, primary: &Self) -> Result<()> {
        self.admin(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()])?;
        let begin = Instant::now();
        while !self.admin(&["INFO", "replication"])?.contains("master_link_status:up") {
            if begin.elapsed() > START_MAX {
                bail!("it does not follow: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Runs one command as `default`; gives the reply as `redis-cli` prints it.
    pub fn admin(&self, words: &[&str]) -> Result<String> {
        let mut client = command(&find(&["/usr/bin/redis-cli", "/usr/local/bin/redis-cli"])?);
        client.env("REDISCLI_AUTH", Self::PASSWORD).args(["-e", "--no-auth-warning", "-h", "127.0.0.1", "-p", &self.port.to_string()]).args(words);
        Ok(run(&mut client)?.trim_end().to_owned())
    }

    fn admin_without_password(&self, words: &[&str]) -> Result<String> {
        let mut client = command(&find(&["/usr/bin/redis-cli", "/usr/local/bin/redis-cli"])?);
        client.args(["-e", "-h", "127.0.0.1", "-p", &self.port.to_string()]).args(words);
        run(&mut client)
    }

    /// What it has logged, and the files that it keeps.
    #[must_use]
    pub fn log(&self) -> String {
        let folders = [self.scratch.path().to_owned(), self.scratch.path().join("data")];
        let files = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten().map(|entry| entry.path());
        files.filter(|path| path.is_file()).map(|path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()).collect()
    }

    /// A file of its folder.
    pub fn file(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(self.scratch.path().join("data").join(name))?)
    }

    /// Lets it write no file of its folder, or lets it again.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let mode = if frozen { 0o555 } else { 0o755 };
        Ok(fs::set_permissions(self.scratch.path().join("data"), fs::Permissions::from_mode(mode))?)
    }

    /// Stops it at once, as a crash would; its files stay.
    pub fn stop(&mut self) -> Result<()> {
        self.child.take().map_or(Ok(()), |mut child| child.kill())
    }

    /// Starts it again after [`Redis::stop`], on the same port, from its configuration.
    pub fn run(&mut self) -> Result<()> {
        self.spawn(vec![self.scratch.path().join("data/redis.conf").display().to_string()])
    }

    fn spawn(&mut self, arguments: Vec<String>) -> Result<()> {
        if self.child.is_some() {
            bail!("it runs already");
        }
        let mut server = command(&find(&["/usr/bin/redis-server", "/usr/local/bin/redis-server"])?);
        server.args(arguments);
        let number = fs::read_dir(self.scratch.path())?.count();
        let mut child = Child::spawn("redis-server", &mut server, &self.scratch.path().join(format!("server-{number:04}.log")))?;
        child.wait_for_port(self.port, START_MAX)?;
        self.child = Some(child);
        Ok(())
    }
}

/// A line of a configuration as arguments.
fn arguments(line: &str) -> Vec<String> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    [format!("--{word}")].into_iter().chain(rest.split(' ').map(|part| part.trim_matches('"').to_owned())).collect()
}
