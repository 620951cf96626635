//! Records by syslog (RFC 5424): over TLS (RFC 5425), over TCP with octet counting (RFC 6587), or over UDP (RFC 5426).
//!
//! Syslog has no acknowledgement. Over TLS and TCP, what was sent last is therefore sent again when a connection is lost: as much as
//! a receiver that went away may not have seen. Over UDP nobody knows; the guide says so.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use bailiwick_core::Timestamp;
use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;

use super::net::{Dialer, Io};
use super::record::Record;
use super::sink::{Sent, SinkError};
use crate::config::{LinkConfig, SyslogTransport};

/// Asked of the kernel for what is sent and not acknowledged. It takes up to twice as much.
pub(super) const SEND_BUFFER: u32 = 256 << 10;
/// What is sent again after a connection was lost: more than the send buffer, what TLS keeps, and a receiver's small buffers.
const AGAIN_BYTES: usize = 1 << 20;
/// The largest datagram's content, below what UDP can carry over IPv6.
const DATAGRAM_BYTES_MAX: usize = 65_000;
/// A receiver is given this long to confirm the end of a connection.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// The sink.
pub(super) struct SyslogSink {
    dialer: Dialer,
    transport: SyslogTransport,
    facility: u8,
    hostname: String,
    link: Option<Box<dyn Io>>,
    socket: Option<UdpSocket>,
    /// Batches that were sent on this connection and may not have arrived: first index and bytes.
    open: VecDeque<(u64, usize)>,
}

impl std::fmt::Debug for SyslogSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyslogSink").field("dialer", &self.dialer).field("transport", &self.transport).finish_non_exhaustive()
    }
}

impl SyslogSink {
    /// # Errors
    /// Why nothing could ever be sent there.
    pub(super) fn new(
        transport: SyslogTransport,
        (host, port): (&str, u16),
        facility: u8,
        hostname: Option<String>,
        link: &LinkConfig,
    ) -> Result<Self, String> {
        Ok(Self {
            dialer: Dialer::new(host, port, transport == SyslogTransport::Tls, None, link)?,
            transport,
            facility,
            hostname: hostname.unwrap_or_else(own_name),
            link: None,
            socket: None,
            open: VecDeque::new(),
        })
    }

    /// Sends records, one message each.
    pub(super) async fn send(&mut self, records: &[Record]) -> Result<Sent, SinkError> {
        if self.transport == SyslogTransport::Udp {
            return self.datagrams(records).await.map(|()| Sent::Done);
        }
        // Taken out while it is used: a write that is broken off halfway is the end of this connection.
        let mut link = match self.link.take().and_then(still_open) {
            Some(link) => link,
            None => {
                let link = self.dialer.dial().await?;
                if let Some((from, _)) = self.open.front().copied() {
                    self.open.clear();
                    self.link = Some(link);
                    return Ok(Sent::From(from));
                }
                link
            }
        };
        let mut bytes = Vec::new();
        for record in records {
            let message = self.message(record);
            //= rfc6587#section-3.4.1
            // SYSLOG-FRAME = MSG-LEN SP SYSLOG-MSG
            bytes.extend_from_slice(format!("{} ", message.len()).as_bytes());
            bytes.extend_from_slice(message.as_bytes());
        }
        if let Some(first) = records.first() {
            self.open.push_back((first.index, bytes.len()));
        }
        let written = async {
            link.write_all(&bytes).await?;
            link.flush().await
        };
        written.await.map_err(|e| SinkError::new(format!("the connection broke off: {}", e.kind())))?;
        self.link = Some(link);
        self.shorten();
        Ok(Sent::Done)
    }

    /// Batches that so much was sent after that they have left this machine.
    fn shorten(&mut self) {
        let mut bytes: usize = self.open.iter().map(|(_, bytes)| bytes).sum();
        while let Some((_, first)) = self.open.front().copied() {
            bytes = bytes.saturating_sub(first);
            if bytes < AGAIN_BYTES {
                return;
            }
            self.open.pop_front();
        }
    }

    /// The first index that may not have arrived. `None`: all that was sent has.
    pub(super) fn settled(&self) -> Option<u64> {
        self.open.front().map(|(index, _)| *index)
    }

    /// Ends the connection in order: a receiver that confirms the end has everything that was sent before it.
    pub(super) async fn close(&mut self) {
        let Some(mut link) = self.link.take() else { return };
        let ended = tokio::time::timeout(CLOSE_WITHIN, async {
            link.shutdown().await?;
            let mut rest = [0; 256];
            while link.read(&mut rest).await? > 0 {}
            Ok::<_, std::io::Error>(())
        });
        if matches!(ended.await, Ok(Ok(()))) {
            self.open.clear();
        }
    }

    async fn datagrams(&mut self, records: &[Record]) -> Result<(), SinkError> {
        let failed = |e: std::io::Error| SinkError::new(format!("a datagram cannot be sent: {}", e.kind()));
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let address = self.dialer.addresses().await?.into_iter().next().ok_or_else(|| SinkError::new("its name has no address"))?;
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await.map_err(failed)?;
                socket.connect(address).await.map_err(failed)?;
                socket
            }
        };
        for record in records {
            let mut message = self.message(record);
            //= rfc5424#section-6.1
            // If a receiver receives a message with a length larger than 2048 octets [...] it MAY truncate the payload.
            // All of it is ASCII, so it can be cut anywhere; its beginning, with what names it, arrives.
            message.truncate(DATAGRAM_BYTES_MAX);
            // An earlier datagram may have been refused, which is told now and is no matter of this one.
            let sent = match socket.send(message.as_bytes()).await {
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => socket.send(message.as_bytes()).await,
                other => other,
            };
            sent.map_err(failed)?;
        }
        self.socket = Some(socket);
        Ok(())
    }

    //= rfc5424#section-6
    // SYSLOG-MSG = HEADER SP STRUCTURED-DATA [SP MSG]
    fn message(&self, record: &Record) -> String {
        let severity = match record.severity {
            0 | 1 => 6, // informational
            2 => 5,     // notice
            3 => 4,     // warning
            4 => 3,     // error
            _ => 2,     // critical
        };
        let priority = u16::from(self.facility) * 8 + severity;
        let kind: String = record.kind.chars().filter(char::is_ascii_graphic).take(32).collect();
        let kind = if kind.is_empty() { "-" } else { &kind };
        let (at, process) = (utc(record.at), std::process::id());
        let mut message = format!("<{priority}>1 {at} {} bailiwick {process} {kind} - ", self.hostname);
        ascii(&record.text, &mut message);
        message
    }
}

/// RFC 3339 as `Timestamp` writes it, which has no more than three digits of a second: RFC 5424 allows six.
fn utc(at: Timestamp) -> String {
    at.to_string()
}

/// JSON with everything beyond printable ASCII escaped: a message without a byte that a receiver could take for an end, or for
/// another encoding. Outside of strings JSON has no such character.
fn ascii(json: &str, out: &mut String) {
    let mut units = [0; 2];
    for c in json.chars() {
        if (' '..='~').contains(&c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut units) {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
}

/// The connection, if the receiver has not closed it. It never has anything to say.
fn still_open(mut link: Box<dyn Io>) -> Option<Box<dyn Io>> {
    let mut said = [0; 256];
    loop {
        match link.read(&mut said).now_or_never() {
            None => return Some(link),
            Some(Ok(0) | Err(_)) => return None,
            Some(Ok(_)) => {}
        }
    }
}

/// The machine's name, or the nil value.
fn own_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::fs::read_to_string("/etc/hostname")).unwrap_or_default();
    let name: String = name.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
    if name.is_empty() { "-".to_owned() } else { name }
}

#[cfg(test)]
mod tests;
