//! A held connection to NATS: a message published, or a question asked and one answer heard; nothing is subscribed but an inbox of the account's own.

use std::fmt;
use std::time::Duration;

use tokio::sync::Mutex;

use super::{SessionError, words_of};
use crate::kinds::connection::Failure;
use crate::kinds::nats::jwt::{jwt_in, seed_in};
use crate::kinds::nats::nkey::{Key, Role};
use crate::kinds::nats::session::{Message, Session, TOO_LONG};
use crate::lease::{Account, Node, Tag};

/// The longest subject.
pub const SUBJECT_MAX: usize = 256;
/// How many headers a message may have.
pub const HEADERS_MAX: usize = 32;
/// The longest name of a header and the longest value.
pub const HEADER_MAX: usize = 1024;
const NAME_MAX: usize = 200;

/// How long a message and an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message's body that is sent.
    pub body: usize,
    /// Bytes of an answer, with its headers.
    pub answer: usize,
    /// Time of a call.
    pub time: Duration,
}

/// Names and values, in their order.
pub type Headers = Vec<(String, String)>;

/// An answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub body: Vec<u8>,
}

/// A connection that is logged in as a leased account.
pub struct Connection {
    /// Nothing, when the connection is of no use any more. Taken out while a call is under way.
    session: Mutex<Option<Session>>,
    node: String,
    limits: Limits,
}

impl Connection {
    /// Logs in at the first node that lets us in.
    ///
    /// # Errors
    /// `Lost`, with what the first node said.
    pub async fn open(nodes: &[Node], account: &Account, tag: &Tag, limits: Limits) -> Result<Self, SessionError> {
        let credentials = account.secret.as_ref().and_then(|secret| {
            let key = Key::from_seed(seed_in(secret.expose()), Role::User)?;
            Some((jwt_in(secret.expose())?, key, secret))
        });
        let Some((jwt, key, secret)) = credentials else { return Err(SessionError::lost("the account's credentials are not known")) };
        let (name, inbox) = (tag.connection_name(NAME_MAX), format!("_INBOX.{}", account.name));
        let (mut trouble, mut refused) = (None, true);
        for node in nodes {
            match Session::open(node, jwt, &key, &name).await {
                Ok(session) => {
                    let session = session.held(inbox, limits.answer);
                    return Ok(Self { session: Mutex::new(Some(session)), node: node.name().to_owned(), limits });
                }
                Err(failure) => {
                    refused &= failure.words().to_ascii_lowercase().contains("authorization violation");
                    trouble.get_or_insert(format!(
                        "`{}` does not let the task's account in: {}",
                        node.name(),
                        words_of(failure.words(), Some(secret))
                    ));
                }
            }
        }
        Err(SessionError::no_login(trouble.unwrap_or_else(|| "no node is configured".to_owned()), refused))
    }

    /// Publishes a message, and waits until the server has seen it. Who hears it, nobody tells.
    ///
    /// # Errors
    /// `NotSent` if the subject is none, or something is too long. `Refused` if the account may not publish to the subject. `Lost` if the connection is gone,
    /// or the server did not answer in time.
    pub async fn publish(&self, subject: &str, headers: &Headers, body: &[u8]) -> Result<(), SessionError> {
        let head = self.head(subject, headers, body)?;
        self.call(head.len().saturating_add(body.len()), async |session| session.publish(subject, &head, body).await).await
    }

    /// Publishes a message that wants an answer, and gives the first that comes.
    ///
    /// # Errors
    /// As [`Connection::publish`]; `Refused` with `503` if nobody listens to the subject.
    pub async fn request(&self, subject: &str, headers: &Headers, body: &[u8]) -> Result<Answer, SessionError> {
        let head = self.head(subject, headers, body)?;
        let answer = self.call(head.len().saturating_add(body.len()), async |session| session.request(subject, &head, body).await).await?;
        if answer.is_nobody() {
            return Err(SessionError::Refused { code: "503".to_owned(), words: "nobody listens to this subject".to_owned() });
        }
        Ok(read(answer))
    }

    /// Hangs up.
    pub async fn close(&self) {
        drop(self.session.lock().await.take());
    }

    async fn call<T>(&self, length: usize, work: impl AsyncFnOnce(&mut Session) -> Result<T, Failure>) -> Result<T, SessionError> {
        let mut place = self.session.lock().await;
        // Whoever is dropped from here on takes the connection with it.
        let mut session = place.take().ok_or_else(|| SessionError::lost("the connection is gone"))?;
        let most = session.payload_max();
        if length > most {
            *place = Some(session);
            return Err(SessionError::NotSent(format!("the server takes messages of at most {most} bytes with their headers")));
        }
        let ended = |failure: &Failure| format!("`{}` ended the connection: {}", self.node, words_of(failure.words(), None));
        let lost = |words: String| SessionError::Lost { words, may_have_run: true };
        let late = || lost(format!("no answer within {} seconds", self.limits.time.as_secs()));
        match tokio::time::timeout(self.limits.time, session.look()).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return Err(SessionError::lost(ended(&failure))),
            Err(_) => return Err(SessionError::lost(format!("`{}` does not go on", self.node))),
        }
        match tokio::time::timeout(self.limits.time, work(&mut session)).await {
            Ok(Ok(answer)) => {
                *place = Some(session);
                Ok(answer)
            }
            Ok(Err(Failure::Said(words))) if words.to_ascii_lowercase().contains("permissions violation") => {
                *place = Some(session);
                Err(SessionError::Refused { code: "permissions".to_owned(), words: words_of(&words, None) })
            }
            Ok(Err(Failure::Malformed(TOO_LONG))) => Err(lost(format!("the answer has more than {} bytes", self.limits.answer))),
            Ok(Err(failure)) => Err(lost(ended(&failure))),
            Err(_) => Err(late()),
        }
    }

    /// The headers as they are sent, if everything has a form.
    fn head(&self, subject: &str, headers: &Headers, body: &[u8]) -> Result<Vec<u8>, SessionError> {
        if !is_subject(subject) {
            let words = format!("a subject is words parted by dots, of at most {SUBJECT_MAX} bytes, without spaces and wildcards");
            return Err(SessionError::NotSent(words));
        }
        if body.len() > self.limits.body {
            return Err(SessionError::NotSent(format!("a body has at most {} bytes", self.limits.body)));
        }
        let is_header = |(name, value): &(String, String)| {
            let token = |b: u8| b.is_ascii_graphic() && b != b':';
            let printable = |c: char| !c.is_control();
            !name.is_empty() && name.len() <= HEADER_MAX && name.bytes().all(token) && value.len() <= HEADER_MAX && value.chars().all(printable)
        };
        if headers.len() > HEADERS_MAX || !headers.iter().all(is_header) {
            let words = format!(
                "at most {HEADERS_MAX} headers, with names of printable ASCII without colons, and values of one line and at most {HEADER_MAX} bytes"
            );
            return Err(SessionError::NotSent(words));
        }
        if headers.is_empty() {
            return Ok(Vec::new());
        }
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        Ok(format!("NATS/1.0\r\n{lines}\r\n").into_bytes())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("node", &self.node).finish_non_exhaustive()
    }
}

/// A subject to publish to: words parted by dots, none of them a wildcard.
fn is_subject(subject: &str) -> bool {
    subject.len() <= SUBJECT_MAX
        && subject
            .split('.')
            .all(|word| !word.is_empty() && word != "*" && word != ">" && word.chars().all(|c| !c.is_whitespace() && !c.is_control()))
}

fn read(message: Message) -> Answer {
    let head = String::from_utf8_lossy(&message.head);
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(':')).take(HEADERS_MAX);
    let headers = headers.map(|(name, value)| (name.to_owned(), words_of(value.trim(), None))).collect();
    Answer { headers, body: message.payload }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_to_publish_to_has_no_wildcard_and_no_second_line() {
        for subject in ["orders", "orders.new", "a>b.c", "a*"] {
            assert!(is_subject(subject), "{subject}");
        }
        for subject in ["", ".", "a..b", "orders.*", "orders.>", ">", "a b", "a\r\nPUB b 0", "a\tb", &"a".repeat(257)] {
            assert!(!is_subject(subject), "{subject}");
        }
    }

    #[test]
    fn an_answer_is_read_with_its_headers() {
        let message = Message { head: b"NATS/1.0\r\na: 1\r\nB:x:y\r\n\r\n".to_vec(), payload: b"hi".to_vec() };
        let headers = [("a", "1"), ("B", "x:y")].map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        assert_eq!(read(message), Answer { headers, body: b"hi".to_vec() });
    }
}
