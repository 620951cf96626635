//! A private server with an operator, a system account and the account of a shop; and clients as agents have them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::{Clock, Timestamp};
use bailiwick_credentials::kinds::nats::{Keys, Nats, Right, SUBJECTS, Settings};
use bailiwick_credentials::lease::{Minted, Node};
use bailiwick_credentials::{RootKey, Secret};
use bailiwick_testkit::free_port;
use bailiwick_testkit::servers::nats::Nats as Server;
use bailiwick_testkit::servers::nats_keys::{Nkey, account_jwt, start, system_credentials, user_jwt};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::words::{Now, clock};

pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) operator: Nkey,
    pub(crate) account: Nkey,
    system: Nkey,
    broker: Nkey,
}

impl World {
    pub(crate) fn start() -> Self {
        Self::with(true)
    }

    pub(crate) fn with(full: bool) -> Self {
        Self::with_more(full, "")
    }

    /// The first of a cluster, and another that is joined to it: what is pushed to one comes to the other.
    pub(crate) fn cluster() -> (Self, Server) {
        let port = free_port().unwrap();
        let first = Self::with_more(true, &format!("cluster: {{ name: c, listen: \"127.0.0.1:{port}\" }}"));
        let more = format!("cluster: {{ name: c, listen: \"127.0.0.1:-1\", routes: [\"nats://127.0.0.1:{port}\"] }}");
        let second = first.server_with(true, &more);
        (first, second)
    }

    fn with_more(full: bool, more: &str) -> Self {
        let [operator, account, system, broker] =
            [(b'O', 1), (b'A', 2), (b'A', 3), (b'U', 4)].map(|(letter, number)| Nkey::new(letter, number).unwrap());
        let server = start(&operator, &account, &system, full, more).unwrap();
        Self { server, operator, account, system, broker }
    }

    fn server_with(&self, full: bool, more: &str) -> Server {
        start(&self.operator, &self.account, &self.system, full, more).unwrap()
    }

    /// A broker that has just been started.
    pub(crate) fn broker(&self) -> Nats {
        self.try_broker(self.settings(), &self.keys(&SUBJECTS)).unwrap()
    }

    /// A broker whose clock is ahead of everybody's.
    pub(crate) fn broker_ahead(&self, by: Duration) -> Nats {
        Nats::new(self.settings(), &self.keys(&SUBJECTS), Arc::new(Ahead(by))).unwrap()
    }

    pub(crate) fn try_broker(&self, settings: Settings, keys: &Keys) -> Result<Nats, bailiwick_credentials::lease::TargetError> {
        Nats::new(settings, keys, clock())
    }

    pub(crate) fn settings(&self) -> Settings {
        let all = |subjects: &[&str]| subjects.iter().map(|&subject| subject.to_owned()).collect();
        let rights = [
            ("orders_ro", Right { publish: Vec::new(), subscribe: all(&["orders.>"]) }),
            ("orders_rw", Right { publish: all(&["orders.>"]), subscribe: all(&["orders.>"]) }),
        ];
        Settings {
            nodes: vec![Node::new("one", "127.0.0.1", self.server.port(), None).unwrap()],
            account: self.account.public.clone(),
            operators: Vec::new(),
            rights: BTreeMap::from(rights.map(|(name, right)| (name.to_owned(), right))),
            lease_max: Duration::from_secs(3600),
            subscriptions: 10,
            payload_max: 1 << 16,
        }
    }

    /// Our keys; our user of the system account may publish to `subjects`.
    pub(crate) fn keys(&self, subjects: &[&str]) -> Keys {
        let system = system_credentials(&self.system, &self.broker, subjects);
        Keys { operator: Secret::from(self.operator.seed.clone()), account: Secret::from(self.account.seed.clone()), system: Secret::from(system) }
    }

    /// What another tool does: pushes the account's JWT as it knows it, with these users revoked by now.
    pub(crate) async fn push(&self, revoked: &[&str]) -> String {
        let now = Now.now().as_millis() / 1000;
        self.push_at(&revoked.iter().map(|user| (*user, now)).collect::<Vec<_>>()).await
    }

    /// The same, with the times until which each is revoked.
    pub(crate) async fn push_at(&self, revoked: &[(&str, i64)]) -> String {
        let jwt = account_jwt(&self.operator, &self.account, revoked);
        self.ask("$SYS.REQ.CLAIMS.UPDATE", &jwt).await
    }

    /// The revocations that the server has.
    pub(crate) async fn revoked(&self) -> BTreeMap<String, i64> {
        let jwt = self.ask(&format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", self.account.public), "").await;
        serde_json::from_value(claims(&jwt)["nats"]["revocations"].clone()).unwrap_or_default()
    }

    /// Somebody of the account who may do everything.
    pub(crate) async fn anybody(&self) -> Agent {
        let key = Nkey::new(b'U', 8).unwrap();
        Agent::connect(&self.server, &user_jwt(&self.account, &key, "anybody"), &key).await.unwrap()
    }

    /// As an administrator.
    pub(crate) async fn ask(&self, subject: &str, body: &str) -> String {
        let mut admin = Agent::connect(&self.server, &user_jwt(&self.system, &self.broker, "admin"), &self.broker).await.unwrap();
        admin.send("SUB _INBOX.x 1").await;
        admin.send(&format!("PUB {subject} _INBOX.x {}\r\n{body}", body.len())).await;
        assert!(admin.hear().await.unwrap().starts_with("MSG"));
        admin.hear().await.unwrap()
    }
}

/// A clock that is so much ahead.
#[derive(Debug)]
struct Ahead(Duration);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Now.now().plus(self.0)
    }
}

/// A client as an agent has one.
pub(crate) struct Agent {
    stream: BufReader<TcpStream>,
}

impl Agent {
    /// With the credentials that a mint gave.
    pub(crate) async fn log_in(server: &Server, jwt: &str, seed: &str) -> Result<Self, String> {
        Self::connect(server, jwt, &Nkey::from_seed(seed).unwrap()).await
    }

    async fn connect(server: &Server, jwt: &str, key: &Nkey) -> Result<Self, String> {
        let mut agent = Self { stream: BufReader::new(TcpStream::connect(("127.0.0.1", server.port())).await.map_err(|error| error.to_string())?) };
        let info = agent.line().await?;
        let info: Value = serde_json::from_str(info.strip_prefix("INFO ").unwrap()).unwrap();
        let signature = key.signature(info["nonce"].as_str().unwrap());
        agent
            .send(&format!(
                "CONNECT {}",
                json!({ "verbose": false, "protocol": 1, "headers": true, "jwt": jwt, "sig": signature, "lang": "test", "version": "0" })
            ))
            .await;
        agent.ping().await.map(|()| agent)
    }

    pub(crate) async fn send(&mut self, line: &str) {
        drop(self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).await);
    }

    /// The next line; `Err` is the server's refusal, or `closed`. What the server tells of itself later on is passed over.
    pub(crate) async fn hear(&mut self) -> Result<String, String> {
        loop {
            let line = self.line().await?;
            if !line.starts_with("INFO ") {
                return Ok(line);
            }
        }
    }

    async fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        let reading = tokio::time::timeout(Duration::from_secs(10), self.stream.read_line(&mut line));
        let length = reading.await.map_err(|_| "silent".to_owned())?.unwrap_or(0);
        match line.trim_end() {
            _ if length == 0 => Err("closed".to_owned()),
            text if text.starts_with("-ERR") => Err(text.to_owned()),
            text => Ok(text.to_owned()),
        }
    }

    /// Everything that was sent is done, or refused.
    pub(crate) async fn ping(&mut self) -> Result<(), String> {
        self.send("PING").await;
        while self.hear().await? != "PONG" {}
        Ok(())
    }

    /// What the server says before it hangs up.
    pub(crate) async fn last_words(&mut self) -> String {
        let mut words = String::new();
        loop {
            match self.hear().await {
                Ok(_) => {}
                Err(word) if word == "closed" || word == "silent" => return words + &word,
                Err(word) => words.push_str(&word),
            }
        }
    }
}

/// JWT and seed in what a mint gave, by the door through which a caller keeps a secret.
pub(crate) fn credentials(minted: &Minted) -> (String, String) {
    let (key, _) = RootKey::generate().unwrap();
    let sealer = key.sealer().unwrap();
    let sealed = sealer.seal("nats", minted.secret.as_ref().unwrap()).unwrap();
    let text = String::from_utf8(sealer.open_bytes("nats", &sealed).unwrap().to_vec()).unwrap();
    let after = |heading: &str| text.lines().skip_while(|line| !line.contains(heading)).nth(1).unwrap().to_owned();
    (after("BEGIN NATS USER JWT"), after("BEGIN USER NKEY SEED"))
}

/// The claims in a JWT.
pub(crate) fn claims(jwt: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1).unwrap()).unwrap()).unwrap()
}
