//! Hosts that say what no host says: a client leaves them, and neither waits for ever nor keeps what has no end.

use tokio::net::TcpListener;

use super::super::exchange::fake::accept;
use super::super::key::fresh;
use super::*;

const LIMITS: Limits = Limits { time: Duration::from_millis(1500), bytes: 1000 };

fn key() -> Key {
    Key::from_file(fresh().unwrap().expose()).unwrap()
}

/// Runs a command at a host that answers a login so, and a channel so.
async fn run_at(login: Vec<Vec<u8>>, channel: Vec<Vec<u8>>) -> Result<Done, Trouble> {
    let ours = key();
    let line = ours.public_line();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = Host::new("one", "127.0.0.1", listener.local_addr().unwrap().port(), &[line]).unwrap();
    let serving = async {
        let mut transport = accept(listener.accept().await.unwrap().0, &ours, &ours).await.unwrap();
        transport.receive().await.unwrap();
        transport.send(&accepted()).await.unwrap();
        transport.receive().await.unwrap();
        for message in login {
            drop(transport.send(&message).await);
        }
        if transport.receive().await.is_ok() {
            for message in channel {
                drop(transport.send(&message).await);
            }
            // What it is told by then is of no interest; it only does not hang up.
            while transport.receive().await.is_ok() {}
        }
        std::future::pending::<()>().await;
    };
    let using = async {
        let mut client = Client::open(&host, "agent", &key(), b"certificate").await?;
        client.run("true", None, LIMITS).await
    };
    tokio::select! {
        result = using => result,
        () = serving => panic!("it never ends"),
    }
}

fn accepted() -> Vec<u8> {
    let mut message = vec![SERVICE_ACCEPT];
    put_string(&mut message, b"ssh-userauth");
    message
}

fn numbers(kind: u8, numbers: &[u32]) -> Vec<u8> {
    let mut message = vec![kind];
    numbers.iter().for_each(|number| put_u32(&mut message, *number));
    message
}

fn data(length: usize) -> Vec<u8> {
    let mut message = numbers(CHANNEL_DATA, &[0]);
    put_string(&mut message, &vec![b'x'; length]);
    message
}

fn exit(status: u32) -> Vec<u8> {
    let mut message = numbers(CHANNEL_REQUEST, &[0]);
    put_string(&mut message, b"exit-status");
    message.push(0);
    put_u32(&mut message, status);
    message
}

/// The channel is open, with room for what we send.
fn confirmed() -> Vec<u8> {
    numbers(CHANNEL_OPEN_CONFIRMATION, &[0, 7, 1000, 1000])
}

async fn run(channel: Vec<Vec<u8>>) -> Result<Done, Trouble> {
    run_at(vec![vec![USERAUTH_SUCCESS]], channel).await
}

#[tokio::test]
async fn a_host_that_shows_a_key_and_does_not_have_it_is_refused() {
    let (known, another) = (key(), key());
    for (shown, signer, words) in [(&known, &another, "does not prove"), (&another, &another, "another host key")] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = Host::new("one", "127.0.0.1", listener.local_addr().unwrap().port(), &[known.public_line()]).unwrap();
        let serving = async { accept(listener.accept().await.unwrap().0, shown, signer).await.is_some() };
        let user = key();
        let (served, opened) = tokio::join!(serving, async {
            let result = Client::open(&host, "agent", &user, b"certificate").await;
            result.map(|_| ()).unwrap_err()
        });
        assert!(!served && matches!(&opened, Trouble::Refused(said) if said.contains(words)), "{opened:?}");
    }
}

#[tokio::test]
async fn a_command_is_done_when_its_host_says_so_in_whichever_order() {
    let (eof, close, success) = (numbers(CHANNEL_EOF, &[0]), numbers(CHANNEL_CLOSE, &[0]), numbers(CHANNEL_SUCCESS, &[0]));
    for channel in [
        vec![confirmed(), success.clone(), data(5), exit(3), eof.clone(), close.clone()],
        vec![confirmed(), data(5), eof.clone(), success.clone(), exit(3), close.clone()],
        // A channel that the host opens is refused, and what belongs to another channel is passed over.
        vec![
            {
                let mut open = vec![CHANNEL_OPEN];
                put_string(&mut open, b"auth-agent@openssh.com");
                open.extend_from_slice(&numbers(0, &[9, 1000, 1000])[1..]);
                open
            },
            numbers(CHANNEL_CLOSE, &[55]),
            confirmed(),
            success.clone(),
            data(5),
            exit(3),
            close.clone(),
        ],
    ] {
        let done = run(channel).await.unwrap();
        assert_eq!((done.status, done.stdout.as_slice(), done.late), (Some(3), &b"xxxxx"[..], false));
    }
    let done = run(vec![confirmed(), success, data(5), close]).await.unwrap();
    assert_eq!((done.status, done.signal), (None, None), "closed without a status");
}

#[tokio::test]
async fn what_no_host_may_say_ends_the_connection() {
    let cases: [(Vec<Vec<u8>>, &str); 9] = [
        (vec![numbers(CHANNEL_OPEN_CONFIRMATION, &[0, 7])], "a channel without a number"),
        (vec![numbers(CHANNEL_OPEN_FAILURE, &[0, 1])], "no channel"),
        (vec![vec![200]], "belongs to no channel"),
        (vec![confirmed(), vec![CHANNEL_DATA, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]], "cut off"),
        (vec![confirmed(), numbers(CHANNEL_FAILURE, &[0])], "runs no commands"),
        (
            vec![confirmed(), {
                let mut message = numbers(CHANNEL_EXTENDED_DATA, &[0, 2]);
                put_string(&mut message, b"x");
                message
            }],
            "neither of both",
        ),
        (vec![numbers(super::super::transport::DISCONNECT, &[2, 0])], "hung up"),
        (vec![vec![KEXINIT, 1, 2]], "algorithms"),
        (vec![confirmed(), vec![]], "an empty packet"),
    ];
    for (channel, words) in cases {
        let trouble = run(channel).await.unwrap_err();
        assert!(trouble.words().contains(words), "{words}: {trouble:?}");
    }
    // A flood, told each time that it was read: nothing of it is kept beyond the limit, and it has an end in time.
    let flood = std::iter::once(confirmed()).chain((0..8).map(|_| data(200_000))).chain([exit(0), numbers(CHANNEL_CLOSE, &[0])]);
    let done = run(flood.collect()).await.unwrap();
    assert_eq!((done.stdout.len(), done.truncated, done.status), (LIMITS.bytes, true, Some(0)));
}

#[tokio::test]
async fn a_login_has_an_end() {
    let banner = {
        let mut message = vec![USERAUTH_BANNER];
        put_string(&mut message, b"hello");
        put_string(&mut message, b"");
        message
    };
    let trouble = run_at(vec![banner.clone(); 40], Vec::new()).await.unwrap_err();
    assert_eq!(trouble, Trouble::Malformed("a login without an end"));
    let refusal = {
        let mut message = vec![USERAUTH_FAILURE];
        put_string(&mut message, b"publickey\x07");
        message.push(0);
        message
    };
    let trouble = run_at(vec![banner, refusal], Vec::new()).await.unwrap_err();
    assert_eq!(trouble, Trouble::Refused("permission denied (publickey )".to_owned()));
    // A question for another form of login is none that we answer.
    let trouble = run_at(vec![vec![60, 0, 0]], Vec::new()).await.unwrap_err();
    assert_eq!(trouble, Trouble::Malformed("an answer that belongs to no login"));
}

#[tokio::test]
async fn a_silent_host_is_left_when_the_time_is_over() {
    let success = numbers(CHANNEL_SUCCESS, &[0]);
    let (one, two, three) = tokio::join!(run(Vec::new()), run(vec![confirmed()]), run(vec![confirmed(), success]));
    for result in [one, two, three] {
        assert_eq!(result.unwrap_err().words(), "the host does not close a channel");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_a_host_says_on_a_channel_the_client_comes_back(messages in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 1..60), 0..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let close = numbers(CHANNEL_CLOSE, &[0]);
        let messages = std::iter::once(confirmed()).chain(messages).chain([close.clone(), close]).collect();
        let done = runtime.block_on(async { timeout(Duration::from_secs(20), run(messages)).await });
        assert!(done.is_ok(), "it waits for ever");
    }
}
