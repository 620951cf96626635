//! A small client of NATS: log in, ask, and read the answers. Every length that the server states has a limit.

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::nkey::Key;
use crate::kinds::connection::{Failure, OPEN_MAX, Stream, open_plain, secure, timed};
use crate::lease::{Node, Step, TargetCode, TargetError};

const LINE_MAX: usize = 64 << 10;
const PAYLOAD_MAX: usize = 8 << 20;
/// What is said of a message that is longer than its limit.
pub(crate) const TOO_LONG: &str = "a message is too long";

/// A connection that is logged in.
pub(crate) struct Session {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    server: String,
    node: String,
    asked: u32,
    /// What subjects of answers begin with.
    inbox: String,
    /// The longest message that the server takes.
    payload_max: usize,
    /// The longest message that is read.
    answer_max: usize,
}

/// Something that the server sent.
enum Sent {
    Info(Value),
    Ping,
    Pong,
    Refused(String),
    Message { subscription: String, message: Message },
    Other,
}

/// An answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// `NATS/1.0`, a status if there is one, and lines of `name: value`.
    pub(crate) head: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Message {
    /// Did the server answer that nobody listens?
    pub(crate) fn is_nobody(&self) -> bool {
        self.head.starts_with(b"NATS/1.0 503")
    }
}

impl Session {
    fn over(stream: Box<dyn Stream>, node: &str) -> Self {
        let (server, inbox) = (String::new(), "_INBOX".to_owned());
        Self { stream, buffer: Vec::new(), server, node: node.to_owned(), asked: 0, inbox, payload_max: 0, answer_max: PAYLOAD_MAX }
    }

    /// For somebody else's work: answers come below `inbox`, and are at most `answer_max` bytes long.
    pub(crate) fn held(mut self, inbox: String, answer_max: usize) -> Self {
        self.inbox = inbox;
        self.answer_max = answer_max.min(PAYLOAD_MAX);
        self
    }

    /// Connects and logs in with a user's JWT, of which we have the key.
    pub(crate) async fn open(node: &Node, jwt: &str, key: &Key, name: &str) -> Result<Self, Failure> {
        timed(OPEN_MAX, async {
            let stream = open_plain(node).await?;
            let mut session = Self::over(stream, node.name());
            let Sent::Info(info) = session.read().await? else { return Err(Failure::Malformed("the server does not begin with its information")) };
            let is = |word: &str| info.get(word).and_then(Value::as_bool) == Some(true);
            session.payload_max = info.get("max_payload").and_then(Value::as_u64).and_then(|max| usize::try_from(max).ok()).unwrap_or(0);
            session.server = info.get("server_id").and_then(Value::as_str).unwrap_or_default().to_owned();
            let tls = node.tls().is_some();
            if tls && !is("tls_required") && !is("tls_available") {
                return Err(Failure::Lost("the server has no TLS".to_owned()));
            }
            if tls {
                // What came in the clear after the information is not taken for what the server says under TLS.
                session.buffer.clear();
                session.stream = secure(session.stream, node).await?;
            }
            let nonce = info.get("nonce").and_then(Value::as_str).ok_or(Failure::Malformed("the server gives no nonce: it asks for no keys"))?;
            let signature = URL_SAFE_NO_PAD.encode(key.sign(nonce.as_bytes()));
            let connect = json!({
                "verbose": false, "pedantic": false, "echo": false, "headers": true, "no_responders": true, "protocol": 1, "tls_required": tls,
                "lang": "rust", "version": env!("CARGO_PKG_VERSION"), "name": name, "jwt": jwt, "sig": signature,
            });
            session.send(format!("CONNECT {connect}\r\nPING\r\n").as_bytes()).await?;
            session.wait_for_pong().await?;
            Ok(session)
        })
        .await
    }

    /// The longest message that the server takes, with its headers.
    pub(crate) const fn payload_max(&self) -> usize {
        self.payload_max
    }

    /// The id of the server.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    async fn wait_for_pong(&mut self) -> Result<(), Failure> {
        loop {
            match self.read().await? {
                Sent::Pong => return Ok(()),
                Sent::Refused(words) => return Err(Failure::Said(words)),
                Sent::Ping => self.send(b"PONG\r\n").await?,
                Sent::Info(_) | Sent::Message { .. } | Sent::Other => {}
            }
        }
    }

    /// Asks, and gives the first answer that `take` takes.
    pub(super) async fn ask<T>(&mut self, subject: &str, body: &str, take: impl Fn(&[u8]) -> Option<T>) -> Result<T, Failure> {
        let (subscription, inbox) = self.subscribe().await?;
        self.put(subject, &inbox, &[], body.as_bytes()).await?;
        let answer = loop {
            let message = self.answer(&subscription).await?;
            if message.is_nobody() {
                return Err(Failure::Said("nobody answers to this: no responders".to_owned()));
            }
            if let Some(answer) = take(&message.payload) {
                break answer;
            }
        };
        self.send(format!("UNSUB {subscription}\r\n").as_bytes()).await?;
        Ok(answer)
    }

    /// Publishes, and waits until the server has seen it. `head` has no line break but between its lines.
    pub(crate) async fn publish(&mut self, subject: &str, head: &[u8], body: &[u8]) -> Result<(), Failure> {
        self.put(subject, "", head, body).await?;
        self.flush().await
    }

    /// Publishes, and waits for one answer. A refusal says that nothing was published: where no answer may be heard, nothing is asked.
    pub(crate) async fn request(&mut self, subject: &str, head: &[u8], body: &[u8]) -> Result<Message, Failure> {
        let (subscription, inbox) = self.subscribe().await?;
        self.flush().await?;
        self.put(subject, &inbox, head, body).await?;
        let message = self.answer(&subscription).await;
        self.send(format!("UNSUB {subscription}\r\n").as_bytes()).await?;
        if let Err(Failure::Said(words)) = message {
            // Another refusal may be on its way, and belongs to this.
            return match self.flush().await {
                Ok(()) | Err(Failure::Said(_)) => Err(Failure::Said(words)),
                Err(_) => Err(Failure::Lost(words)),
            };
        }
        message
    }

    /// Listens to an inbox of its own. Gives the number of the subscription, and the inbox.
    async fn subscribe(&mut self) -> Result<(String, String), Failure> {
        self.asked = self.asked.wrapping_add(1);
        let subscription = self.asked.to_string();
        let mut random = [0; 16];
        rand::fill(&mut random).map_err(|_| Failure::Lost("no randomness is available".to_owned()))?;
        let inbox = format!("{}.{}", self.inbox, URL_SAFE_NO_PAD.encode(random));
        self.send(format!("SUB {inbox} {subscription}\r\n").as_bytes()).await?;
        Ok((subscription, inbox))
    }

    /// The next message of a subscription.
    async fn answer(&mut self, subscription: &str) -> Result<Message, Failure> {
        loop {
            match self.read().await? {
                Sent::Message { subscription: of, message } if of == subscription => return Ok(message),
                Sent::Refused(words) => return Err(Failure::Said(words)),
                Sent::Ping => self.send(b"PONG\r\n").await?,
                Sent::Info(_) | Sent::Message { .. } | Sent::Pong | Sent::Other => {}
            }
        }
    }

    async fn put(&mut self, subject: &str, answers: &str, head: &[u8], body: &[u8]) -> Result<(), Failure> {
        let whole = head.len().saturating_add(body.len());
        let line = if head.is_empty() {
            format!("PUB {subject} {answers} {whole}\r\n")
        } else {
            format!("HPUB {subject} {answers} {} {whole}\r\n", head.len())
        };
        self.send(&[line.as_bytes(), head, body, b"\r\n"].concat()).await
    }

    /// Waits until everything that was sent is done. What was refused of it is told, and the connection goes on.
    pub(crate) async fn flush(&mut self) -> Result<(), Failure> {
        self.send(b"PING\r\n").await?;
        let mut refused = None;
        loop {
            match self.read().await {
                Ok(Sent::Pong) => return refused.map_or(Ok(()), |words| Err(Failure::Said(words))),
                Ok(Sent::Refused(words)) => refused = Some(words),
                Ok(Sent::Ping) => self.send(b"PONG\r\n").await?,
                Ok(Sent::Info(_) | Sent::Message { .. } | Sent::Other) => {}
                Err(failure) => return Err(refused.map_or(failure, Failure::Lost)),
            }
        }
    }

    /// Reads what has come without waiting for more: pings are answered, and a server that hung up is seen.
    pub(crate) async fn look(&mut self) -> Result<(), Failure> {
        // What the server said before it hung up is told.
        let mut open = Ok(());
        while open.is_ok()
            && let Some(filled) = self.fill().now_or_never()
        {
            open = filled;
            if self.buffer.len() > PAYLOAD_MAX {
                return Err(Failure::Malformed(TOO_LONG));
            }
        }
        while self.buffer.windows(2).any(|pair| pair == b"\r\n") {
            match self.read().await? {
                Sent::Ping => self.send(b"PONG\r\n").await?,
                Sent::Refused(words) => return Err(Failure::Lost(words)),
                Sent::Info(_) | Sent::Message { .. } | Sent::Pong | Sent::Other => {}
            }
        }
        open
    }

    /// As [`Session::ask`], for a step of an account's life, within `limit`.
    pub(super) async fn run<T>(
        &mut self,
        step: Step,
        limit: std::time::Duration,
        subject: &str,
        body: &str,
        take: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, TargetError> {
        let node = self.node.clone();
        timed(limit, self.ask(subject, body, take)).await.map_err(|failure| target(&failure, step, &node))
    }

    /// Has the server hung up, or does it answer?
    pub(super) async fn answers(&mut self) -> bool {
        timed(OPEN_MAX, self.flush()).await.is_ok()
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    async fn read(&mut self) -> Result<Sent, Failure> {
        let line = self.line().await?;
        let (word, rest) = line.split_once([' ', '\t']).unwrap_or((&line, ""));
        let rest = rest.trim();
        let fields: Vec<_> = rest.split_ascii_whitespace().collect();
        let number = |text: &str| text.parse::<usize>().ok().filter(|length| *length <= self.answer_max);
        match (word.to_ascii_uppercase().as_str(), fields.as_slice()) {
            ("INFO", _) => serde_json::from_str(rest).map(Sent::Info).map_err(|_| Failure::Malformed("information that is no JSON")),
            ("PING", _) => Ok(Sent::Ping),
            ("PONG", _) => Ok(Sent::Pong),
            ("+OK", _) => Ok(Sent::Other),
            ("-ERR", _) => Ok(Sent::Refused(rest.trim_matches('\'').to_owned())),
            ("MSG", [_, subscription, .., length]) => {
                let length = number(length).ok_or(Failure::Malformed(TOO_LONG))?;
                let message = Message { head: Vec::new(), payload: self.payload(length).await? };
                Ok(Sent::Message { subscription: (*subscription).to_owned(), message })
            }
            ("HMSG", [_, subscription, .., head, length]) => {
                let (Some(head), Some(length)) = (number(head), number(length)) else { return Err(Failure::Malformed(TOO_LONG)) };
                let both = self.payload(length).await?;
                let (head, payload) = both.split_at_checked(head).ok_or(Failure::Malformed("a message is shorter than its head"))?;
                let message = Message { head: head.to_vec(), payload: payload.to_vec() };
                Ok(Sent::Message { subscription: (*subscription).to_owned(), message })
            }
            _ => Err(Failure::Malformed("an operation that nobody knows")),
        }
    }

    async fn line(&mut self) -> Result<String, Failure> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.drain(..end.saturating_add(2)).take(end).collect::<Vec<_>>();
                return String::from_utf8(line).map_err(|_| Failure::Malformed("a line that is no text"));
            }
            if self.buffer.len() > LINE_MAX {
                return Err(Failure::Malformed("a line is too long"));
            }
            self.fill().await?;
        }
    }

    async fn payload(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        while self.buffer.len() < length.saturating_add(2) {
            self.fill().await?;
        }
        let payload = self.buffer.drain(..length).collect();
        self.buffer.drain(..2);
        Ok(payload)
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        self.buffer.reserve(16 << 10);
        if self.stream.read_buf(&mut self.buffer).await? == 0 { Err(Failure::Lost("the node hung up".to_owned())) } else { Ok(()) }
    }
}

/// Is this the refusal of a login, whatever the reason?
pub(super) fn is_refused_login(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    // One that came too late was not looked at.
    (words.contains("authorization violation") || words.contains("authentication")) && !words.contains("timeout")
}

/// What a failure means for who asked.
pub(super) fn target(failure: &Failure, step: Step, node: &str) -> TargetError {
    let code = match failure {
        Failure::Lost(_) => TargetCode::Unreachable,
        Failure::Malformed(_) => TargetCode::Protocol,
        Failure::Said(words) if words.to_ascii_lowercase().contains("permissions violation") => TargetCode::Privilege,
        Failure::Said(words) if words.contains("no responders") => TargetCode::Unsupported,
        Failure::Said(words) if words.to_ascii_lowercase().contains("maximum") => TargetCode::Busy,
        Failure::Said(_) => TargetCode::Refused,
    };
    TargetError::new(code, step, node, failure.words())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<Sent, Failure> {
        let (mut there, here) = tokio::io::duplex(1 << 20);
        there.write_all(bytes).await.unwrap();
        drop(there);
        Session::over(Box::new(here), "one").read().await
    }

    #[tokio::test]
    async fn what_the_server_sends_is_read_and_its_lengths_have_limits() {
        assert!(
            matches!(read(b"MSG a.b 7 5\r\nhello\r\n").await, Ok(Sent::Message { message, .. }) if message.payload == b"hello" && !message.is_nobody())
        );
        assert!(matches!(read(b"MSG a.b 7 reply 5\r\nhello\r\n").await, Ok(Sent::Message { subscription, .. }) if subscription == "7"));
        assert!(
            matches!(read(b"HMSG a 1 16 18\r\nNATS/1.0 503\r\n\r\nhi\r\n").await, Ok(Sent::Message { message, .. }) if message.payload == b"hi" && message.is_nobody())
        );
        assert!(matches!(read(b"-ERR 'Authorization Violation'\r\n").await, Ok(Sent::Refused(words)) if is_refused_login(&words)));
        for bytes in
            [&b"MSG a 1 99999999\r\n"[..], b"MSG a 1 -1\r\n", b"HMSG a 1 5 4\r\nabcd\r\n", b"INFO {\r\n", b"WHAT\r\n", b"MSG a\r\n", b"\xff\r\n"]
        {
            assert!(matches!(read(bytes).await, Err(Failure::Malformed(_))), "{}", String::from_utf8_lossy(bytes));
        }
        assert!(matches!(read(&vec![b'x'; LINE_MAX + 2]).await, Err(Failure::Malformed(_))));
        assert!(matches!(read(b"MSG a 1 5\r\nhel").await, Err(Failure::Lost(_))));
    }

    #[tokio::test]
    async fn where_no_answer_may_be_heard_nothing_is_asked_and_the_connection_goes_on() {
        let (mut there, here) = tokio::io::duplex(1 << 20);
        let mut session = Session::over(Box::new(here), "one");
        there.write_all(b"-ERR 'Permissions Violation for Subscription to \"_INBOX.x\"'\r\nPONG\r\n").await.unwrap();
        let refused = session.request("orders", b"", b"secret question").await;
        assert!(matches!(&refused, Err(Failure::Said(words)) if words.contains("for Subscription")), "{refused:?}");
        there.write_all(b"PONG\r\n").await.unwrap();
        session.publish("orders", b"", b"told").await.unwrap();
        drop(session);
        let mut heard = String::new();
        there.read_to_string(&mut heard).await.unwrap();
        assert!(heard.starts_with("SUB _INBOX.") && heard.contains("told") && !heard.contains("question"), "{heard}");
    }

    #[test]
    fn a_login_that_came_too_late_was_not_refused() {
        assert!(is_refused_login("'Authorization Violation'") && is_refused_login("'User Authentication Revoked'"));
        assert!(!is_refused_login("'Authentication Timeout'"));
    }
}
