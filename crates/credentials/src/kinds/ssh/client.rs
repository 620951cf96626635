//! A connection to a host with a certificate (RFC 4252), and commands on it, one at a time (RFC 4254). No terminal, no forwarding, no agent:
//! a channel that the host opens is refused.

use std::fmt;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::Host;
use super::certificate;
use super::exchange::{Hello, KEXINIT, exchange};
use super::key::Key;
use super::transport::{Transport, Trouble};
use super::wire::{Reader, put_string, put_u32};

/// How long a login may take.
const OPEN_MAX: Duration = Duration::from_secs(10);
/// How long a host may take to say that a channel is closed.
const CLOSE_MAX: Duration = Duration::from_secs(3);
/// A connection that was used so recently is taken for open.
const FRESH: Duration = Duration::from_secs(1);
/// How long one is listened to otherwise, for the host's farewell.
const LISTEN: Duration = Duration::from_millis(2);
/// How long the outputs of a command that has ended may still be held open by what it left running.
const AFTER_MAX: Duration = Duration::from_secs(1);
const OURS: &str = "SSH-2.0-Bailiwick";
/// What the host may send before it is told that we have read it.
const WINDOW: u32 = 1 << 20;
const CHUNK_MAX: u32 = 32 * 1024;
/// Banners and the like before the login's answer.
const BEFORE_MAX: usize = 32;

const SERVICE_REQUEST: u8 = 5;
const SERVICE_ACCEPT: u8 = 6;
const USERAUTH_REQUEST: u8 = 50;
const USERAUTH_FAILURE: u8 = 51;
const USERAUTH_SUCCESS: u8 = 52;
const USERAUTH_BANNER: u8 = 53;
const GLOBAL_REQUEST: u8 = 80;
const REQUEST_FAILURE: u8 = 82;
const CHANNEL_OPEN: u8 = 90;
const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
const CHANNEL_OPEN_FAILURE: u8 = 92;
const CHANNEL_WINDOW_ADJUST: u8 = 93;
const CHANNEL_DATA: u8 = 94;
const CHANNEL_EXTENDED_DATA: u8 = 95;
const CHANNEL_EOF: u8 = 96;
const CHANNEL_CLOSE: u8 = 97;
const CHANNEL_REQUEST: u8 = 98;
const CHANNEL_SUCCESS: u8 = 99;
const CHANNEL_FAILURE: u8 = 100;

/// What a command left.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    /// Its exit status; `None` if it was ended by a signal, or by us.
    pub(crate) status: Option<u32>,
    /// The signal that ended it, such as `KILL`.
    pub(crate) signal: Option<String>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// More was written than was kept.
    pub(crate) truncated: bool,
    /// It took too long, and was ended.
    pub(crate) late: bool,
}

/// What a command may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) time: Duration,
    /// Of each of both outputs.
    pub(crate) bytes: usize,
}

/// An open connection. Whoever drops it, or a call of it before its end, hangs up.
pub(crate) struct Client {
    transport: Transport,
    hello: Hello,
    session: Vec<u8>,
    channels: u32,
    used: Instant,
}

impl Client {
    /// Connects, sees that the host is the configured one, and logs in with the certificate.
    pub(crate) async fn open(host: &Host, user: &str, key: &Key, certificate: &[u8]) -> Result<Self, Trouble> {
        let opening = async {
            let stream = TcpStream::connect((host.address.as_str(), host.port)).await?;
            stream.set_nodelay(true)?;
            let (mut transport, theirs) = Transport::open(stream, OURS).await?;
            let hello = Hello { ours: OURS, theirs, keys: host.keys.clone() };
            let session = exchange(&mut transport, &hello, None, None).await?;
            let mut client = Self { transport, hello, session, channels: 0, used: Instant::now() };
            client.log_in(user, key, certificate).await?;
            Ok(client)
        };
        timeout(OPEN_MAX, opening).await.map_err(|_| Trouble::Lost(format!("no login within {} seconds", OPEN_MAX.as_secs())))?
    }

    /// Did the host hang up while nothing ran? Then nothing is lost by another connection.
    pub(crate) async fn is_open(&mut self) -> bool {
        if self.used.elapsed() < FRESH {
            return true;
        }
        let listening = async {
            loop {
                // What came late of an earlier command is passed over; nobody waits for it.
                if self.receive().await.is_err() {
                    return;
                }
            }
        };
        timeout(LISTEN, listening).await.is_err()
    }

    async fn log_in(&mut self, user: &str, key: &Key, certificate: &[u8]) -> Result<(), Trouble> {
        let mut request = vec![SERVICE_REQUEST];
        put_string(&mut request, b"ssh-userauth");
        self.transport.send(&request).await?;
        if self.receive().await?.first() != Some(&SERVICE_ACCEPT) {
            return Err(Trouble::Malformed("the host offers no login"));
        }
        let mut request = vec![USERAUTH_REQUEST];
        put_string(&mut request, user.as_bytes());
        put_string(&mut request, b"ssh-connection");
        put_string(&mut request, b"publickey");
        request.push(1);
        put_string(&mut request, certificate::ALGORITHM.as_bytes());
        put_string(&mut request, certificate);
        let mut signed = Vec::new();
        put_string(&mut signed, &self.session);
        signed.extend_from_slice(&request);
        put_string(&mut request, &key.sign(&signed));
        self.transport.send(&request).await?;
        for _ in 0..BEFORE_MAX {
            let answer = self.receive().await?;
            match answer.first() {
                Some(&USERAUTH_SUCCESS) => return Ok(()),
                Some(&USERAUTH_FAILURE) => {
                    let methods = Reader(answer.get(1..).unwrap_or_default()).text().unwrap_or_default().to_owned();
                    return Err(Trouble::Refused(format!("permission denied ({})", clean(&methods))));
                }
                Some(&USERAUTH_BANNER) => {}
                _ => return Err(Trouble::Malformed("an answer that belongs to no login")),
            }
        }
        Err(Trouble::Malformed("a login without an end"))
    }

    /// The next message; what keeps the connection alive is done on the way.
    async fn receive(&mut self) -> Result<Vec<u8>, Trouble> {
        loop {
            let message = self.transport.receive().await?;
            match message.first() {
                Some(&KEXINIT) => {
                    exchange(&mut self.transport, &self.hello, Some(message), Some(&self.session)).await?;
                }
                Some(&GLOBAL_REQUEST) => {
                    let mut reader = Reader(message.get(1..).unwrap_or_default());
                    let answer = reader.string().and_then(|_| reader.byte());
                    if answer.is_some_and(|wanted| wanted != 0) {
                        self.transport.send(&[REQUEST_FAILURE]).await?;
                    }
                }
                Some(&CHANNEL_OPEN) => {
                    let mut reader = Reader(message.get(1..).unwrap_or_default());
                    let theirs = reader.string().and_then(|_| reader.u32()).ok_or(Trouble::Malformed("a channel without a number"))?;
                    let mut refusal = vec![CHANNEL_OPEN_FAILURE];
                    put_u32(&mut refusal, theirs);
                    put_u32(&mut refusal, 1);
                    put_string(&mut refusal, b"");
                    put_string(&mut refusal, b"");
                    self.transport.send(&refusal).await?;
                }
                _ => return Ok(message),
            }
        }
    }

    /// Runs a command. With `input`, that is all that it can read; without, its input stays open until it has ended, so that the host can see when
    /// we hang up. A command that takes longer than its time has its channel closed, and is `late`.
    ///
    /// After an error, and after a drop, the connection is of no use. `Refused`: the host does not run commands for us, and nothing ran.
    pub(crate) async fn run(&mut self, command: &str, input: Option<&[u8]>, limits: Limits) -> Result<Done, Trouble> {
        let until = Instant::now() + limits.time;
        let mut channel = Channel {
            ours: self.channels,
            theirs: 0,
            room: 0,
            chunk: 0,
            left: WINDOW,
            bytes: limits.bytes,
            begun: false,
            exited: false,
            closed: false,
            done: Done::default(),
        };
        self.channels = self.channels.wrapping_add(1);
        let result = timeout_at(until, self.drive(&mut channel, command, input)).await;
        self.used = Instant::now();
        if let Ok(result) = result {
            result?;
            return Ok(channel.done);
        }
        if !channel.exited {
            channel.done.late = true;
        }
        let mut close = vec![CHANNEL_CLOSE];
        put_u32(&mut close, channel.theirs);
        let closing = async {
            self.transport.send(&close).await?;
            while !channel.closed {
                self.hear(&mut channel).await?;
            }
            Ok::<_, Trouble>(())
        };
        timeout(CLOSE_MAX, closing).await.map_err(|_| Trouble::Lost("the host does not close a channel".to_owned()))??;
        Ok(channel.done)
    }

    async fn drive(&mut self, channel: &mut Channel, command: &str, input: Option<&[u8]>) -> Result<(), Trouble> {
        let mut open = vec![CHANNEL_OPEN];
        put_string(&mut open, b"session");
        for number in [channel.ours, WINDOW, CHUNK_MAX] {
            put_u32(&mut open, number);
        }
        self.transport.send(&open).await?;
        let answer = self.of_channel(channel.ours).await?;
        let mut reader = Reader(answer.get(5..).unwrap_or_default());
        match answer.first() {
            Some(&CHANNEL_OPEN_CONFIRMATION) => {
                let numbers = reader.u32().zip(reader.u32()).zip(reader.u32());
                ((channel.theirs, channel.room), channel.chunk) = numbers.ok_or(Trouble::Malformed("a channel without a number"))?;
            }
            Some(&CHANNEL_OPEN_FAILURE) => {
                let words = reader.u32().and_then(|_| reader.text()).unwrap_or_default();
                return Err(Trouble::Refused(format!("no channel: {}", clean(words))));
            }
            _ => return Err(Trouble::Malformed("an answer that belongs to no channel")),
        }
        let mut request = vec![CHANNEL_REQUEST];
        put_u32(&mut request, channel.theirs);
        put_string(&mut request, b"exec");
        request.push(1);
        put_string(&mut request, command.as_bytes());
        self.transport.send(&request).await?;
        if let Some(input) = input {
            self.feed(channel, input).await?;
        }
        while !channel.closed && !channel.exited {
            self.hear(channel).await?;
        }
        let after = async {
            while !channel.closed {
                self.hear(channel).await?;
            }
            Ok::<_, Trouble>(())
        };
        if let Ok(result) = timeout(AFTER_MAX, after).await {
            result?;
        }
        let mut close = vec![CHANNEL_CLOSE];
        put_u32(&mut close, channel.theirs);
        self.transport.send(&close).await
    }

    async fn feed(&mut self, channel: &mut Channel, mut input: &[u8]) -> Result<(), Trouble> {
        while !input.is_empty() {
            while channel.room == 0 && !channel.closed {
                self.hear(channel).await?;
            }
            if channel.closed {
                return Ok(());
            }
            let length = usize::try_from(channel.room.min(channel.chunk).clamp(1, CHUNK_MAX)).unwrap_or(1).min(input.len());
            let (now, later) = input.split_at_checked(length).unwrap_or((input, &[]));
            let mut data = vec![CHANNEL_DATA];
            put_u32(&mut data, channel.theirs);
            put_string(&mut data, now);
            self.transport.send(&data).await?;
            channel.room = channel.room.saturating_sub(u32::try_from(length).unwrap_or(u32::MAX));
            input = later;
        }
        let mut end = vec![CHANNEL_EOF];
        put_u32(&mut end, channel.theirs);
        self.transport.send(&end).await
    }

    /// The next message of this channel. What came late for another is passed over.
    async fn of_channel(&mut self, ours: u32) -> Result<Vec<u8>, Trouble> {
        loop {
            let message = self.receive().await?;
            match (message.first(), Reader(message.get(1..).unwrap_or_default()).u32()) {
                (Some(&(CHANNEL_OPEN_CONFIRMATION..=CHANNEL_FAILURE)), Some(number)) if number == ours => return Ok(message),
                (Some(&(CHANNEL_OPEN_CONFIRMATION..=CHANNEL_FAILURE)), Some(_)) => {}
                _ => return Err(Trouble::Malformed("a message that belongs to no channel")),
            }
        }
    }

    /// Hears one message of the channel.
    async fn hear(&mut self, channel: &mut Channel) -> Result<(), Trouble> {
        let message = self.of_channel(channel.ours).await?;
        let mut reader = Reader(message.get(5..).unwrap_or_default());
        let malformed = || Trouble::Malformed("a message of a channel that is cut off");
        match message.first() {
            Some(&CHANNEL_CLOSE) => channel.closed = true,
            Some(&CHANNEL_WINDOW_ADJUST) => channel.room = channel.room.saturating_add(reader.u32().ok_or_else(malformed)?),
            Some(&CHANNEL_DATA) => channel.keep(reader.string().ok_or_else(malformed)?, false)?,
            Some(&CHANNEL_EXTENDED_DATA) => {
                let kind = reader.u32().ok_or_else(malformed)?;
                channel.keep(reader.string().ok_or_else(malformed)?, true)?;
                if kind != 1 {
                    return Err(Trouble::Malformed("an output that is neither of both"));
                }
            }
            Some(&CHANNEL_FAILURE) if !channel.begun => return Err(Trouble::Refused("the host runs no commands".to_owned())),
            Some(&CHANNEL_REQUEST) => {
                let (word, wanted) = reader.text().zip(reader.byte()).ok_or_else(malformed)?;
                match word {
                    "exit-status" => (channel.exited, channel.done.status) = (true, reader.u32()),
                    "exit-signal" => (channel.exited, channel.done.signal) = (true, reader.text().map(clean)),
                    _ => {}
                }
                if wanted != 0 {
                    let mut failure = vec![CHANNEL_FAILURE];
                    put_u32(&mut failure, channel.theirs);
                    self.transport.send(&failure).await?;
                }
            }
            // An end of the outputs comes before the exit status, or after it; the close after both.
            Some(&CHANNEL_SUCCESS) => channel.begun = true,
            Some(&(CHANNEL_EOF | CHANNEL_FAILURE)) => {}
            _ => return Err(Trouble::Malformed("an answer that belongs to no channel")),
        }
        if channel.left < WINDOW / 2 && !channel.closed {
            let mut adjust = vec![CHANNEL_WINDOW_ADJUST];
            put_u32(&mut adjust, channel.theirs);
            put_u32(&mut adjust, WINDOW - channel.left);
            self.transport.send(&adjust).await?;
            channel.left = WINDOW;
        }
        Ok(())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

struct Channel {
    ours: u32,
    theirs: u32,
    /// What we may still send, and how much at once.
    room: u32,
    chunk: u32,
    /// What the host may still send.
    left: u32,
    bytes: usize,
    /// The host said that the command runs.
    begun: bool,
    exited: bool,
    closed: bool,
    done: Done,
}

impl Channel {
    fn keep(&mut self, bytes: &[u8], error: bool) -> Result<(), Trouble> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.left = self.left.checked_sub(length).ok_or(Trouble::Malformed("more output than the host may send"))?;
        let kept = if error { &mut self.done.stderr } else { &mut self.done.stdout };
        let room = self.bytes.saturating_sub(kept.len());
        kept.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        self.done.truncated |= bytes.len() > room;
        Ok(())
    }
}

fn clean(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests;
