//! What a syslog receiver gets: one message for each event, whatever stands in it, and again what may have been lost on the way.

use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{PURPOSE, check_complete, index_of, place_with, size, story};
use crate::support::PATIENCE;

/// Reads one message by its length (RFC 6587 section 3.4.1). `None` at the end of the stream.
async fn frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = 0_usize;
    loop {
        match stream.read_u8().await.ok()? {
            b' ' => break,
            digit => length = length * 10 + usize::from(digit.checked_sub(b'0').filter(|d| *d < 10).expect("no length")),
        }
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// Takes a message apart as RFC 5424 section 6 has it; gives priority, MSGID and the event.
fn parsed(message: &[u8]) -> (u16, String, Value) {
    assert!(message.iter().all(|b| (0x20..0x7f).contains(b)), "not printable ASCII: {}", String::from_utf8_lossy(message));
    let text = std::str::from_utf8(message).unwrap();
    let mut parts = text.splitn(8, ' ');
    let mut next = || parts.next().unwrap();
    let (start, at, host, app, process, id, data) = (next(), next(), next(), next(), next(), next().to_owned(), next());
    let priority = start.strip_prefix('<').unwrap().strip_suffix(">1").unwrap().parse().unwrap();
    assert!(bailiwick_core::Timestamp::parse(at).is_ok() && at.ends_with('Z'), "{at}");
    assert_eq!((app, data), ("bailiwick", "-"));
    assert!(!host.is_empty() && process.parse::<u32>().is_ok());
    (priority, id, serde_json::from_str(next()).unwrap())
}

fn export(address: std::net::SocketAddr, scheme: &str, more: &str) -> String {
    format!("\n[[export]]\nname = \"log\"\nformat = \"ocsf\"\nsyslog = \"{scheme}://{address}\"\nretry_seconds_max = 1\n{more}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tcp_an_event_is_one_message_whatever_stands_in_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (place, _dir) = place_with(&export(listener.local_addr().unwrap(), "tcp", "facility = 16\nhostname = \"broker-1\"")).await;
    let broker = place.open().await;
    story(&place, &broker).await;
    let now = size(&broker).await;
    let mut stream = listener.accept().await.unwrap().0;
    let mut events = Vec::new();
    while events.last().is_none_or(|(_, _, e)| index_of(e) + 1 < now) {
        events.push(parsed(&tokio::time::timeout(PATIENCE, frame(&mut stream)).await.unwrap().unwrap()));
    }
    check_complete(&events.iter().map(|(_, _, e)| index_of(e)).collect::<Vec<_>>(), now);
    for (priority, id, event) in &events {
        assert_eq!(*id, event["metadata"]["event_code"]);
        // local0, and as severe as the event: informational, notice, warning, error.
        let severity = [6, 6, 5, 4, 3][usize::try_from(event["severity_id"].as_u64().unwrap()).unwrap()];
        assert_eq!(*priority, 16 * 8 + severity, "{event}");
    }
    assert!(events.iter().any(|(_, _, e)| e["unmapped"]["bailiwick"]["purpose"] == PURPOSE), "the purpose is not what was given");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_udp_an_event_is_one_datagram() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (place, _dir) = place_with(&export(socket.local_addr().unwrap(), "udp", "kinds = [\"task_opened\", \"incident\"]")).await;
    let broker = place.open().await;
    story(&place, &broker).await;
    let mut buffer = vec![0; 70_000];
    for kind in ["task_opened", "incident", "incident"] {
        let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(parsed(&buffer[..length]).1, kind);
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_receiver_that_went_away_may_not_have_got_is_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (place, _dir) = place_with(&export(listener.local_addr().unwrap(), "tcp", "batch = 5")).await;
    let broker = place.open().await;
    let mut indexes = Vec::new();
    // It reads a little and dies, with the rest unread: what is in the kernel's buffers is lost.
    for most in [2, 3] {
        let mut stream = listener.accept().await.unwrap().0;
        for _ in 0..most {
            indexes.push(index_of(&parsed(&tokio::time::timeout(PATIENCE, frame(&mut stream)).await.unwrap().unwrap()).2));
        }
        drop(stream);
        place.client().task("scout").await;
    }
    let reading = tokio::spawn(async move {
        let (mut stream, mut got) = (listener.accept().await.unwrap().0, Vec::new());
        while let Some(message) = frame(&mut stream).await {
            got.push(index_of(&parsed(&message).2));
        }
        (listener, got)
    });
    story(&place, &broker).await;
    let now = size(&broker).await;
    crate::support::until("it is sent", || broker.house.exports.all()[0].status(now, broker.house.clock.now()).next >= now).await;
    broker.stop().await;
    let (listener, got) = tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap();
    indexes.extend(got);
    check_complete(&indexes, now);
    // The receiver confirmed the end, so that everything is settled: the next start sends nothing again.
    let broker = place.open().await;
    let mut stream = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap().0;
    assert!(index_of(&parsed(&frame(&mut stream).await.unwrap()).2) >= now);
    broker.stop().await;
}
