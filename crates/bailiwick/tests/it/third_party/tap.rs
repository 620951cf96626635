//! Listens between a client and the broker, changes nothing, and tells how a held call was put to the client.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::spawn;

/// How a held call was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The request was kept open.
    Open,
    /// `input_required` with state only, again and again.
    Rounds,
    /// `input_required` with the page as a URL elicitation, then with state only.
    PageThenRounds,
    /// `elicitation/create` with the page, on the call's own stream.
    PageOnStream,
    /// A handle of the tasks extension, polled.
    Handle,
}

impl Form {
    /// In words, for the table.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Open => "the request is kept open",
            Self::Rounds => "rounds with state",
            Self::PageThenRounds => "a page by URL elicitation, then rounds",
            Self::PageOnStream => "a page by URL elicitation on the call's stream",
            Self::Handle => "a task handle, polled",
        }
    }
}

/// A wire with an ear.
pub(super) struct Tap {
    pub(super) url: String,
    asked: Arc<Mutex<Vec<u8>>>,
    told: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    /// A listener for a tap, before it is known where the broker is.
    pub(super) fn listener() -> TcpListener {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
    }

    /// Passes everything that arrives at `listener` to the broker at `url`, and back.
    pub(super) fn between(listener: TcpListener, url: &str) -> Self {
        let broker: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let tap = Self { url: format!("http://{}/mcp", listener.local_addr().unwrap()), asked: Arc::default(), told: Arc::default() };
        let (asked, told) = (Arc::clone(&tap.asked), Arc::clone(&tap.told));
        spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect(broker).unwrap();
                pass(client.try_clone().unwrap(), server.try_clone().unwrap(), Arc::clone(&asked));
                pass(server, client, Arc::clone(&told));
            }
        });
        tap
    }

    /// How the held call was put to the client.
    pub(super) fn form(&self) -> Form {
        let told = self.told();
        if told.contains("\"resultType\":\"task\"") {
            Form::Handle
        } else if told.contains("elicitation/create") && told.contains("\"resultType\":\"input_required\"") {
            Form::PageThenRounds
        } else if told.contains("elicitation/create") {
            Form::PageOnStream
        } else if told.contains("\"resultType\":\"input_required\"") {
            Form::Rounds
        } else {
            Form::Open
        }
    }

    /// How many times the client was told to come again.
    pub(super) fn rounds(&self) -> usize {
        self.told().matches("\"resultType\":\"input_required\"").count()
    }

    /// The protocol version that the client's last requests name.
    pub(super) fn version(&self) -> String {
        let asked = String::from_utf8_lossy(&self.asked.lock().unwrap()).to_lowercase();
        let (_, after) = asked.rsplit_once("mcp-protocol-version: ").unwrap_or_default();
        after.chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect()
    }

    /// Everything that the broker said.
    pub(super) fn told(&self) -> String {
        String::from_utf8_lossy(&self.told.lock().unwrap()).into_owned()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, ear: Arc<Mutex<Vec<u8>>>) {
    spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            ear.lock().unwrap().extend_from_slice(&buffer[..n]);
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        // An end is passed on in both directions, so that a client that leaves is seen to leave.
        drop(to.shutdown(Shutdown::Both));
        drop(from.shutdown(Shutdown::Both));
    });
}
