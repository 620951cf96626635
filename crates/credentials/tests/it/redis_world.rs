//! A private server with a replica, the broker's user as the guide makes it, and connections as an agent opens them.

use std::collections::BTreeMap;
use std::time::Duration;

use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::redis::{COMMANDS, Redis, Settings};
use bailiwick_credentials::lease::{AccountName, Node};
use bailiwick_testkit::servers::redis::{Redis as Server, Users};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::words::{PASSWORD, clock};

const BROKER: &str = "broker-password";

pub(crate) struct World {
    pub(crate) primary: Server,
    pub(crate) replica: Server,
}

impl World {
    pub(crate) fn start(kept: Users) -> Self {
        let broker = broker_line();
        let world = Self { primary: Server::start(kept, &[&broker], &[]).unwrap(), replica: Server::start(kept, &[&broker], &[]).unwrap() };
        world.replica.follow(&world.primary).unwrap();
        for n in 0..3 {
            world.primary.admin(&["SET", &format!("orders:{n}"), "bread"]).unwrap();
        }
        world.primary.admin(&["SET", "salaries", "secret"]).unwrap();
        while world.replica.admin(&["GET", "salaries"]).unwrap() != "secret" {}
        world
    }

    /// A broker that has just been started.
    pub(crate) fn broker(&self) -> Redis {
        broker(vec![node("primary", &self.primary), node("replica", &self.replica)])
    }

    /// Everything on the servers that has a name of ours.
    pub(crate) fn left(&self) -> String {
        [&self.primary, &self.replica].map(left).concat()
    }
}

/// `broker on >broker-password .. +acl|setuser ..`, as the guide has it.
pub(crate) fn broker_line() -> String {
    format!("broker on >{BROKER} resetkeys resetchannels -@all +{}", COMMANDS.join(" +"))
}

pub(crate) fn left(server: &Server) -> String {
    let users = server.admin(&["ACL", "USERS"]).unwrap();
    let clients = server.admin(&["CLIENT", "LIST"]).unwrap();
    let ours = users.lines().filter(|line| line.contains("ag_")).chain(clients.lines().filter(|line| line.contains("user=ag_")));
    ours.map(|line| format!("{line}\n")).collect()
}

pub(crate) fn settings(nodes: Vec<Node>) -> Settings {
    let right = |rules: &[&str]| rules.iter().map(|&rule| rule.to_owned()).collect::<Vec<_>>();
    let rights = [
        ("orders_ro", right(&["~orders:*", "+@read", "+@connection", "+@transaction"])),
        ("orders_rw", right(&["~orders:*", "~queue", "&news.*", "+@read", "+@write", "+@connection", "+@transaction", "+@pubsub", "+@blocking"])),
    ];
    Settings { nodes, user: "broker".into(), rights: BTreeMap::from(rights.map(|(name, rules)| (name.to_owned(), rules))) }
}

pub(crate) fn broker(nodes: Vec<Node>) -> Redis {
    of(settings(nodes))
}

pub(crate) fn of(settings: Settings) -> Redis {
    Redis::new(settings, Secret::from(BROKER.to_owned()), clock()).unwrap()
}

pub(crate) fn node(name: &str, server: &Server) -> Node {
    Node::new(name, "127.0.0.1", server.port(), None).unwrap()
}

/// A connection as an agent has one.
pub(crate) struct Agent(TcpStream);

impl Agent {
    pub(crate) async fn log_in(server: &Server, name: &AccountName) -> Result<Self, String> {
        Self::log_in_as(server, name.as_str(), PASSWORD).await
    }

    pub(crate) async fn log_in_as(server: &Server, name: &str, password: &str) -> Result<Self, String> {
        let mut agent = Self(TcpStream::connect(("127.0.0.1", server.port())).await.map_err(|error| error.to_string())?);
        agent.ask(&format!("AUTH {name} {password}")).await?;
        Ok(agent)
    }

    /// The reply's bytes; `Err` is the refusal, or `closed`.
    pub(crate) async fn ask(&mut self, command: &str) -> Result<String, String> {
        self.send(command).await?;
        self.hear().await
    }

    pub(crate) async fn send(&mut self, command: &str) -> Result<(), String> {
        self.0.write_all(format!("{command}\r\n").as_bytes()).await.map_err(|_| "closed".to_owned())
    }

    /// What comes next.
    pub(crate) async fn hear(&mut self) -> Result<String, String> {
        let mut bytes = vec![0; 64 << 10];
        let reading = tokio::time::timeout(Duration::from_secs(10), self.0.read(&mut bytes));
        let length = reading.await.map_err(|_| "silent".to_owned())?.unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..length]).trim_end().to_owned();
        match text.strip_prefix('-') {
            _ if length == 0 => Err("closed".to_owned()),
            Some(refusal) => Err(refusal.to_owned()),
            None => Ok(text),
        }
    }
}
