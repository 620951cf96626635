//! Messages as RFC 5424 has them, whatever stands in a record; frames over TLS; and what counts as arrived.

use proptest::prelude::*;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::super::http::tests::{acceptor, record, root};
use super::*;

fn sink(transport: SyslogTransport, host: &str, port: u16) -> SyslogSink {
    let link = LinkConfig { roots: vec![root()], allow_plain: false };
    SyslogSink::new(transport, (host, port), 13, Some("host-1".to_owned()), &link).unwrap()
}

#[test]
fn a_message_is_as_rfc_5424_has_it() {
    let sink = sink(SyslogTransport::Udp, "127.0.0.1", 514);
    let message = sink.message(&record(0, "{\"a\":\"\u{fc}\u{1f600}\u{7f}\"}"));
    let rest = message.strip_prefix("<110>1 2025-11-23T00:00:00.007Z host-1 bailiwick ").unwrap();
    let (process, rest) = rest.split_once(' ').unwrap();
    assert_eq!(process, std::process::id().to_string());
    assert_eq!(rest, r#"intent - {"a":"\u00fc\ud83d\ude00\u007f"}"#);
    for (severity, priority) in [(1, 110), (2, 109), (3, 108), (4, 107), (6, 106)] {
        assert!(sink.message(&Record { severity, ..record(0, "{}") }).starts_with(&format!("<{priority}>1 ")));
    }
    let odd = sink.message(&Record { kind: "a b\n\u{fc}".to_owned(), ..record(0, "{}") });
    assert!(odd.ends_with(" ab - {}"), "{odd}");
}

proptest! {
    #[test]
    fn whatever_a_text_holds_its_message_is_printable_ascii_and_reads_back(text in any::<String>()) {
        let mut out = String::new();
        ascii(&Value::from(text.as_str()).to_string(), &mut out);
        prop_assert!(out.bytes().all(|b| (0x20..0x7f).contains(&b)));
        prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
    }
}

#[tokio::test]
async fn over_tls_messages_are_framed_by_their_length_and_end_in_order() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let read = tokio::spawn(async move {
        let mut stream = acceptor().accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        stream.shutdown().await.unwrap();
        all
    });
    let mut sink = sink(SyslogTransport::Tls, "localhost", port);
    let records = [record(3, "{\"n\":3}"), record(4, "{\"n\":\"4\\n\"}")];
    assert_eq!(sink.send(&records).await.unwrap(), Sent::Done);
    // Sent is not arrived.
    assert_eq!(sink.settled(), Some(3));
    sink.close().await;
    assert_eq!(sink.settled(), None);
    let expected: String = records.iter().map(|r| sink.message(r)).map(|m| format!("{} {m}", m.len())).collect();
    assert_eq!(read.await.unwrap(), expected);
}

#[tokio::test]
async fn a_receiver_that_nobody_vouches_for_gets_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepted = tokio::spawn(async move { acceptor().accept(listener.accept().await.unwrap().0).await.is_ok() });
    let error = sink(SyslogTransport::Tls, "127.0.0.1", port).send(&[record(0, "{}")]).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(!accepted.await.unwrap());
}

#[tokio::test]
async fn what_much_was_sent_after_has_arrived_and_the_rest_is_begun_again_on_a_new_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut sink = sink(SyslogTransport::Tcp, "127.0.0.1", listener.local_addr().unwrap().port());
    let large = format!("\"{}\"", "x".repeat(AGAIN_BYTES / 4));
    let (done, mut enough) = tokio::sync::oneshot::channel::<()>();
    let reading = tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        let mut piece = vec![0; 64 << 10];
        loop {
            tokio::select! {
                read = stream.read(&mut piece) => assert!(read.unwrap() > 0),
                _ = &mut enough => return listener,
            }
        }
    });
    for index in 0..9 {
        assert_eq!(sink.send(&[record(index, &large)]).await.unwrap(), Sent::Done);
    }
    assert_eq!(sink.settled(), Some(5));
    done.send(()).unwrap();
    let listener = reading.await.unwrap();
    // The end of the connection may take a moment to be seen, and a write may go into nothing before.
    let begun = async {
        for index in 9.. {
            match sink.send(&[record(index, "{}")]).await {
                Ok(Sent::From(from)) => return from,
                Ok(Sent::Done) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        0
    };
    assert_eq!(begun.await, 5);
    assert_eq!(sink.settled(), None);
    drop(listener);
}
