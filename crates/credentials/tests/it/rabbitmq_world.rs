//! A private server with a virtual host of a shop, and clients of AMQP 0-9-1 as agents have them.

use std::collections::BTreeMap;
use std::time::Duration;

use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::rabbitmq::{Rabbitmq, Right, Settings};
use bailiwick_credentials::lease::{AccountName, Node};
use bailiwick_testkit::servers::rabbitmq::Rabbitmq as Server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::words::{PASSWORD, clock};

const BROKER: &str = "broker-password";

pub(crate) struct World {
    pub(crate) server: Server,
}

impl World {
    pub(crate) fn start() -> Self {
        let world = Self { server: Server::start().unwrap() };
        world.ask("PUT", "/users/broker", &format!("{{\"password\":\"{BROKER}\",\"tags\":\"administrator\"}}"));
        world.ask("PUT", "/vhosts/shop", "");
        world.ask("PUT", "/permissions/shop/root", "{\"configure\":\".*\",\"write\":\".*\",\"read\":\".*\"}");
        for queue in ["orders", "salaries"] {
            world.ask("PUT", &format!("/queues/shop/{queue}"), "{}");
        }
        world
    }

    /// As the administrator; it must work.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let (status, answer) = self.server.ask(method, path, body).unwrap();
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// A broker that has just been started.
    pub(crate) fn broker(&self) -> Rabbitmq {
        Rabbitmq::new(self.settings(), Secret::from(BROKER.to_owned()), clock()).unwrap()
    }

    pub(crate) fn settings(&self) -> Settings {
        let right =
            |vhost: &str, read: &str, write: &str| Right { vhost: vhost.into(), configure: String::new(), write: write.into(), read: read.into() };
        let rights = [
            ("orders_ro", right("shop", "orders", "")),
            ("orders_rw", right("shop", "orders", "orders|amq\\.default")),
            ("other", right("shop", "", "")),
        ];
        Settings {
            api: vec![Node::new("api", "127.0.0.1", self.server.api(), None).unwrap()],
            nodes: vec![Node::new("one", "127.0.0.1", self.server.port(), None).unwrap()],
            user: "broker".into(),
            rights: BTreeMap::from(rights.map(|(name, right)| (name.to_owned(), right))),
            connections: 4,
        }
    }

    /// Everything on the server that has a name of ours.
    pub(crate) fn left(&self) -> String {
        let found =
            ["/users?columns=name", "/permissions?columns=user", "/user-limits", "/connections?columns=user"].map(|path| self.ask("GET", path, ""));
        found.into_iter().filter(|answer| answer.contains("ag_")).collect()
    }
}

/// A client as an agent has one.
pub(crate) struct Agent(TcpStream);

impl Agent {
    /// Logged in, and no virtual host open yet; `Err` is what the server said.
    pub(crate) async fn log_in(server: &Server, name: &AccountName) -> Result<Self, String> {
        let mut agent = Self(TcpStream::connect(("127.0.0.1", server.port())).await.map_err(|error| error.to_string())?);
        agent.0.write_all(b"AMQP\0\0\x09\x01").await.map_err(|error| error.to_string())?;
        agent.hear().await?;
        let capability = b"\x1cauthentication_failure_closet\x01";
        let mut properties = b"\x0ccapabilitiesF".to_vec();
        properties.extend(u32::try_from(capability.len()).unwrap().to_be_bytes());
        properties.extend(capability);
        let response = format!("\0{name}\0{PASSWORD}");
        let mut start = u32::try_from(properties.len()).unwrap().to_be_bytes().to_vec();
        start.extend(properties);
        start.extend(b"\x05PLAIN");
        start.extend(u32::try_from(response.len()).unwrap().to_be_bytes());
        start.extend(response.as_bytes());
        start.extend(b"\x05en_US");
        agent.send(0, 10, 11, &start).await;
        agent.hear().await.map(|_| agent)
    }

    /// Logged in, with a channel in the virtual host `shop`.
    pub(crate) async fn open(server: &Server, name: &AccountName) -> Result<Self, String> {
        let mut agent = Self::log_in(server, name).await?;
        agent.open_vhost().await?;
        agent.send(1, 20, 10, b"\0").await;
        agent.hear().await.map(|_| agent)
    }

    pub(crate) async fn open_vhost(&mut self) -> Result<(), String> {
        self.send(0, 10, 31, b"\x07\xff\0\x02\0\0\0\0").await;
        self.send(0, 10, 40, b"\x04shop\0\0").await;
        self.hear().await.map(drop)
    }

    /// Does as clients do: answers nothing, hangs up when the server closes. Gives what the server said.
    pub(crate) fn watch(mut self) -> tokio::task::JoinHandle<String> {
        tokio::spawn(async move {
            loop {
                if let Err(said) = self.hear().await {
                    return said;
                }
            }
        })
    }

    /// Takes a message from a queue (`basic.get`).
    pub(crate) async fn get(&mut self, queue: &str) -> Result<(u16, u16), String> {
        let mut arguments = vec![0, 0, u8::try_from(queue.len()).unwrap()];
        arguments.extend(queue.as_bytes());
        arguments.push(1);
        self.send(1, 60, 70, &arguments).await;
        self.hear().await
    }

    /// Makes a queue.
    pub(crate) async fn declare(&mut self, queue: &str) -> Result<(u16, u16), String> {
        let mut arguments = vec![0, 0, u8::try_from(queue.len()).unwrap()];
        arguments.extend(queue.as_bytes());
        arguments.extend([0, 0, 0, 0, 0]);
        self.send(1, 50, 10, &arguments).await;
        self.hear().await
    }

    async fn send(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let mut frame = vec![1];
        frame.extend(channel.to_be_bytes());
        frame.extend(u32::try_from(arguments.len() + 4).unwrap().to_be_bytes());
        frame.extend([class.to_be_bytes(), method.to_be_bytes()].concat());
        frame.extend(arguments);
        frame.push(0xce);
        drop(self.0.write_all(&frame).await);
    }

    /// The next method; `Err` is code and words of a close, or `closed`.
    pub(crate) async fn hear(&mut self) -> Result<(u16, u16), String> {
        loop {
            let mut head = [0; 7];
            let reading = tokio::time::timeout(Duration::from_secs(30), self.0.read_exact(&mut head));
            reading.await.map_err(|_| "silent".to_owned())?.map_err(|_| "closed".to_owned())?;
            let mut body = vec![0; usize::try_from(u32::from_be_bytes(head[3..].try_into().unwrap())).unwrap() + 1];
            self.0.read_exact(&mut body).await.map_err(|_| "closed".to_owned())?;
            let number = |at: usize| u16::from_be_bytes(body[at..at + 2].try_into().unwrap());
            match (head[0], number(0), number(2)) {
                (1, 10, 50) | (1, 20, 40) => return Err(format!("{} {}", number(4), String::from_utf8_lossy(&body[7..7 + usize::from(body[6])]))),
                (1, class, method) => return Ok((class, method)),
                _ => {}
            }
        }
    }
}
