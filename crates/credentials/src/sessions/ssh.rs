//! SSH with a certificate made for a task: one command at a time on each host, as a list of words that no shell reads otherwise. No terminal, no
//! forwarding, no agent. The chain stands in the certificate's key id, which the host logs at each login.
//!
//! A command ends with its connection: whoever drops [`Ssh::run`] hangs up, and what ran is killed at the host, with its process group.

use std::fmt;
use std::time::Duration;

use tokio::sync::Mutex;

use super::{SessionError, words_of};
use crate::kinds::ssh::client::{Client, Limits as Wire};
use crate::kinds::ssh::key::Key;
use crate::kinds::ssh::{Host, Login, Trouble, certificate, quote};
use crate::lease::Account;

/// A command line may be so long; hosts take about 128 KiB.
pub const COMMAND_MAX: usize = 16 * 1024;
const WORDS_MAX: usize = 128;
const TIME_MAX: Duration = Duration::from_secs(3600);
/// What the forced command of a lease says when the lease has ended.
const OVER: (Option<u32>, &[u8]) = (Some(69), b"bailiwick: this lease has ended\n");
/// A command that does nothing.
const NOTHING: &str = "exit 0";
/// The host's own limit is so much longer than ours: it is for when the connection is cut without a word.
const GRACE: Duration = Duration::from_secs(3);

/// What a command may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long it may run, at most an hour.
    pub time: Duration,
    /// How many bytes of each of its outputs are kept. What comes after them is read and thrown away.
    pub bytes: usize,
}

/// What a command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status; `None` if it was ended by a signal, or because it took too long.
    pub status: Option<u32>,
    /// The signal that ended it, such as `KILL`, where the host says so.
    pub signal: Option<String>,
    /// The beginning of its standard output.
    pub stdout: Vec<u8>,
    /// The beginning of its standard error.
    pub stderr: Vec<u8>,
    /// It wrote more than was kept.
    pub truncated: bool,
    /// It took too long, and was killed.
    pub late: bool,
}

/// Connections to the hosts of one system, opened when they are first needed.
pub struct Ssh {
    user: String,
    key: Key,
    certificate: Vec<u8>,
    connections: Vec<(Host, Mutex<Option<Client>>)>,
}

impl Ssh {
    /// With what [`Kind::mint`](crate::lease::Kind::mint) of [`kinds::ssh`](crate::kinds::ssh) gave. Nothing is connected yet.
    ///
    /// # Errors
    /// `NotSent` if the account has no key and certificate.
    pub fn new(hosts: &[Host], login: &Login, account: &Account) -> Result<Self, SessionError> {
        let text = account.secret.as_ref().map(crate::Secret::expose).unwrap_or_default();
        let parts = Key::from_file(text).zip(certificate::in_text(text));
        let (key, certificate) = parts.ok_or_else(|| SessionError::NotSent("the lease has no key and certificate".to_owned()))?;
        let connections = hosts.iter().map(|host| (host.clone(), Mutex::new(None))).collect();
        Ok(Self { user: login.user.clone(), key, certificate, connections })
    }

    /// Connects to a host, unless it is connected already.
    ///
    /// # Errors
    /// `Lost` with what the host said.
    pub async fn connect(&self, host: &str) -> Result<(), SessionError> {
        let (host, slot) = self.find(host)?;
        let mut slot = slot.lock().await;
        if slot.is_none() {
            *slot = Some(self.open(host).await?);
        }
        Ok(())
    }

    /// Runs a command on the host of this name. Commands on one host wait for each other.
    ///
    /// # Errors
    /// `NotSent` if the words cannot be sent, `Lost` if the host cannot be reached or the connection was cut, `Refused` if the host runs no commands.
    pub async fn run(&self, host: &str, words: &[String], limits: Limits) -> Result<Ran, SessionError> {
        let command = command(words, limits.time)?;
        let (host, slot) = self.find(host)?;
        let mut slot = slot.lock().await;
        // INVARIANT: while a command runs the connection is here and not in its slot, so that whoever drops this hangs up.
        let mut kept = slot.take();
        let is_open = match &mut kept {
            Some(client) => client.is_open().await,
            None => false,
        };
        let mut client = match kept.filter(|_| is_open) {
            Some(client) => client,
            None => self.open(host).await?,
        };
        let done = match client.run(&command, None, Wire { time: limits.time.min(TIME_MAX), bytes: limits.bytes }).await {
            Ok(done) => done,
            Err(Trouble::Refused(words)) => return Err(SessionError::Refused { code: "ssh".to_owned(), words: words_of(&words, None) }),
            Err(trouble) => {
                return Err(SessionError::Lost { words: format!("`{}`: {}", host.name(), words_of(trouble.words(), None)), may_have_run: true });
            }
        };
        // A command may say the same words. One that does nothing tells them apart: where the lease has ended, nothing else is ever said.
        if (done.status, done.stderr.as_slice()) == OVER {
            let wire = Wire { time: GRACE, bytes: OVER.1.len().saturating_add(1) };
            match client.run(NOTHING, None, wire).await {
                Ok(again) if (again.status, again.stderr.as_slice()) == OVER => return Err(SessionError::lost("the lease has ended")),
                Ok(_) => {}
                Err(trouble) => {
                    return Err(SessionError::Lost { words: format!("`{}`: {}", host.name(), words_of(trouble.words(), None)), may_have_run: true });
                }
            }
        }
        *slot = Some(client);
        Ok(Ran { status: done.status, signal: done.signal, stdout: done.stdout, stderr: done.stderr, truncated: done.truncated, late: done.late })
    }

    /// Hangs up everywhere. What still runs is killed at the hosts.
    pub async fn close(&self) {
        for (_, slot) in &self.connections {
            slot.lock().await.take();
        }
    }

    async fn open(&self, host: &Host) -> Result<Client, SessionError> {
        let opened = Client::open(host, &self.user, &self.key, &self.certificate).await;
        opened.map_err(|trouble| SessionError::lost(format!("`{}`: {}", host.name(), words_of(trouble.words(), None))))
    }

    fn find(&self, name: &str) -> Result<(&Host, &Mutex<Option<Client>>), SessionError> {
        let found = self.connections.iter().find(|(host, _)| host.name() == name).map(|(host, slot)| (host, slot));
        found.ok_or_else(|| SessionError::NotSent(format!("`{}` is none of the hosts", words_of(name, None))))
    }
}

impl fmt::Debug for Ssh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ssh").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The command line: the words in a process group of their own, which is killed when the connection is closed, or after its time.
fn command(words: &[String], time: Duration) -> Result<String, SessionError> {
    let length = words.iter().map(String::len).fold(0_usize, usize::saturating_add);
    if words.is_empty() || words.len() > WORDS_MAX || length > COMMAND_MAX {
        return Err(SessionError::NotSent(format!("a command has 1 to {WORDS_MAX} words and at most {COMMAND_MAX} bytes")));
    }
    if words.iter().any(|word| word.contains('\0')) || words.first().is_some_and(|program| program.is_empty() || program.starts_with('-')) {
        return Err(SessionError::NotSent("a command has no NUL, and begins with a program".to_owned()));
    }
    let seconds = time.min(TIME_MAX).saturating_add(GRACE).as_secs();
    // Our side of standard input stays open and silent: its end is the end of the connection, or of our patience.
    Ok(format!(
        "exec 3<&0 </dev/null; timeout -s KILL {seconds} {} 3<&- & c=$!; {{ read -r _ <&3; kill -KILL -$c $c; }} >/dev/null 2>&1 & w=$!; \
         exec 3<&-; wait $c; s=$?; kill -KILL $w 2>/dev/null; exit $s",
        quote::line(words)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_words_and_each_of_them_stays_one() {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let time = Duration::from_secs(10);
        assert!(
            command(&words(&["systemctl", "restart", "a; reboot"]), time).unwrap().contains("timeout -s KILL 13 systemctl restart 'a; reboot' 3<&-")
        );
        for wrong in [&[][..], &[""], &["-s"], &["a", "b\0c"]] {
            assert!(matches!(command(&words(wrong), time), Err(SessionError::NotSent(_))), "{wrong:?}");
        }
        assert!(command(&words(&["a", &"x".repeat(COMMAND_MAX)]), time).is_err());
        assert!(command(&vec!["a".to_owned(); WORDS_MAX + 1], time).is_err());
    }
}
