//! One connection to a node, logged in: the broker's own, or a try to log in as an account.

use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::resp::{Limits, OWN, Progress, Reply, TOO_LONG, encode, parse};
use crate::Secret;
use crate::kinds::connection::{ANSWER_MAX, Failure, OPEN_MAX, Stream, open, timed};
use crate::lease::{Node, Step, TargetCode, TargetError};

/// A connection that is logged in.
pub(crate) struct Session {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    node: String,
    limits: Limits,
    is_primary: bool,
}

impl Session {
    /// Connects, logs in and gives the connection a name, which `CLIENT LIST` shows from then on.
    pub(super) async fn open(node: &Node, user: &str, secret: &Secret, name: &str) -> Result<Self, Failure> {
        Self::open_with(node, user, secret, name, OWN).await
    }

    /// As [`Session::open`], with other limits of replies. The name has no spaces.
    pub(crate) async fn open_with(node: &Node, user: &str, secret: &Secret, name: &str, limits: Limits) -> Result<Self, Failure> {
        timed(OPEN_MAX, async {
            let stream = open(node).await?;
            let mut session = Self { stream, buffer: Vec::new(), node: node.name().to_owned(), limits: OWN, is_primary: false };
            let words: [&[u8]; 7] = [b"HELLO", b"2", b"AUTH", user.as_bytes(), secret.expose(), b"SETNAME", name.as_bytes()];
            match session.exchange(&words).await {
                Ok(hello) => {
                    let role = hello.items().iter().position(|item| item.text().as_deref() == Some("role"));
                    let role = role.and_then(|at| hello.items().get(at.saturating_add(1))).and_then(Reply::text);
                    session.is_primary = role.as_deref() == Some("master");
                    session.limits = limits;
                    Ok(session)
                }
                // A server that does not know the command repeats its arguments, and with them the password.
                Err(Failure::Said(words)) if words.contains("with args") => Err(Failure::Said("ERR unknown command `HELLO`".to_owned())),
                Err(failure) => Err(failure),
            }
        })
        .await
    }

    /// Did the node say that it accepts writes?
    pub(crate) const fn is_primary(&self) -> bool {
        self.is_primary
    }

    /// The same, with our own account and for a step.
    pub(super) async fn open_own(node: &Node, user: &str, secret: &Secret, name: &str) -> Result<Self, TargetError> {
        let opened = Self::open(node, user, secret, name).await;
        opened.map_err(|failure| target(&failure, Step::Connect, node.name()))
    }

    /// Asks, and gives the reply. A refusal is a failure.
    pub(super) async fn run(&mut self, step: Step, words: &[&str]) -> Result<Reply, TargetError> {
        let asked = self.ask(words).await;
        asked.map_err(|failure| target(&failure, step, &self.node))
    }

    /// As [`Session::run`], for a caller that tells the failures apart.
    pub(super) async fn ask(&mut self, words: &[&str]) -> Result<Reply, Failure> {
        let words: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
        timed(ANSWER_MAX, self.exchange(&words)).await
    }

    /// Sends a command and waits for its reply, without a limit of time. After one that is dropped in between, the connection is of no use.
    pub(crate) async fn exchange(&mut self, words: &[&[u8]]) -> Result<Reply, Failure> {
        self.stream.write_all(&encode(words)).await?;
        self.stream.flush().await?;
        let mut progress = Progress::default();
        loop {
            if progress.is_whole(&self.buffer, self.limits).map_err(Failure::Malformed)?
                && let Some((reply, used)) = parse(&self.buffer, self.limits).map_err(Failure::Malformed)?
            {
                self.buffer.drain(..used);
                return if let Reply::Error(words) = reply { Err(Failure::Said(words)) } else { Ok(reply) };
            }
            if self.buffer.len() > self.limits.bytes {
                return Err(Failure::Malformed(TOO_LONG));
            }
            self.buffer.reserve(64 << 10);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(Failure::Lost("the node hung up".to_owned()));
            }
        }
    }

    /// Has the server hung up, or said something that nobody asked for? Waits for nothing.
    pub(crate) fn look(&mut self) -> Result<(), Failure> {
        match self.stream.read_buf(&mut self.buffer).now_or_never() {
            None if self.buffer.is_empty() => Ok(()),
            Some(Ok(0)) => Err(Failure::Lost("the node hung up".to_owned())),
            Some(Err(error)) => Err(error.into()),
            None | Some(Ok(_)) => Err(Failure::Malformed("something that nobody asked for")),
        }
    }

    /// Every connection of the node, as the fields of its line in `CLIENT LIST`.
    pub(super) async fn clients(&mut self, step: Step) -> Result<Vec<Client>, TargetError> {
        let reply = self.run(step, &["CLIENT", "LIST"]).await?;
        let text = reply.text().ok_or_else(|| TargetError::new(TargetCode::Protocol, step, &self.node, "`CLIENT LIST` gives no text"))?;
        let field = |line: &str, key: &str| line.split(' ').find_map(|field| field.strip_prefix(key)).unwrap_or_default().to_owned();
        Ok(text.lines().map(|line| Client { id: field(line, "id="), name: field(line, "name="), user: field(line, "user=") }).collect())
    }

    /// A value of `INFO`.
    pub(super) async fn info(&mut self, step: Step, sections: &[&str]) -> Result<Info, TargetError> {
        let words: Vec<_> = ["INFO"].into_iter().chain(sections.iter().copied()).collect();
        let reply = self.run(step, &words).await?;
        Ok(Info(reply.text().unwrap_or_default().into_owned()))
    }
}

/// A line of `CLIENT LIST`.
pub(super) struct Client {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) user: String,
}

/// What `INFO` says.
pub(super) struct Info(String);

impl Info {
    pub(super) fn find(&self, key: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
    }
}

/// What a failure means for who asked.
pub(super) fn target(failure: &Failure, step: Step, node: &str) -> TargetError {
    let code = match failure {
        Failure::Lost(_) => TargetCode::Unreachable,
        Failure::Malformed(_) => TargetCode::Protocol,
        Failure::Said(words) => match words.split(' ').next().unwrap_or_default() {
            "NOPERM" => TargetCode::Privilege,
            "WRONGPASS" | "NOAUTH" | "DENIED" => TargetCode::Refused,
            "LOADING" | "BUSY" | "MASTERDOWN" | "TRYAGAIN" | "OOM" | "UNBLOCKED" => TargetCode::Busy,
            _ if words.starts_with("ERR max number of clients") => TargetCode::Busy,
            _ if words.starts_with("ERR unknown command") || words.starts_with("ERR unknown subcommand") => TargetCode::Unsupported,
            _ if step == Step::Mint => TargetCode::Plan,
            _ => TargetCode::Refused,
        },
    };
    TargetError::new(code, step, node, failure.words())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_whether_to_wait() {
        for (words, code) in [
            ("NOPERM User broker has no permissions to run the 'acl|save' command", TargetCode::Privilege),
            ("WRONGPASS invalid username-password pair or user is disabled.", TargetCode::Refused),
            ("LOADING Redis is loading the dataset in memory", TargetCode::Busy),
            ("BUSY Redis is busy running a script.", TargetCode::Busy),
            ("ERR max number of clients reached", TargetCode::Busy),
            ("ERR unknown command `HELLO`", TargetCode::Unsupported),
        ] {
            assert_eq!(target(&Failure::Said(words.into()), Step::Remove, "one").code(), code, "{words}");
        }
        assert!(target(&Failure::Lost("gone".into()), Step::Connect, "one").is_transient());
        assert!(target(&Failure::Malformed("what"), Step::Connect, "one").is_transient());
    }

    #[test]
    fn info_is_read_by_its_whole_key() {
        let info = Info("# Server\r\nrun_id:abc\r\nxrun_id:no\r\n".into());
        assert_eq!((info.find("run_id"), info.find("run")), (Some("abc"), None));
    }
}
