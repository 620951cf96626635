//! Commands over a connection that the broker holds: what they may take, how they end, and that words stay words.

use std::fs;
use std::time::Duration;

use bailiwick_credentials::lease::Kind as _;
use bailiwick_credentials::sessions::SessionError;
use bailiwick_credentials::sessions::ssh::Limits;

use crate::ssh_world::{LIMITS, World, mint, wait_for};
use crate::words::plan;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Does any process of this machine have this word on its command line?
fn runs(word: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .any(|line| line.split(|byte| *byte == 0).any(|part| part == word.as_bytes()))
}

#[tokio::test]
async fn a_command_gives_its_status_and_both_outputs_and_every_word_stays_a_word() {
    let world = World::start();
    let account = mint(&world.broker(), &plan(&["write"])).await;
    let session = world.session(&account);
    let ran = session.run("one", &words(&["sh", "-c", "echo out; echo err >&2; exit 7"]), LIMITS).await.unwrap();
    assert_eq!((ran.status, ran.stdout.as_slice(), ran.stderr.as_slice()), (Some(7), &b"out\n"[..], &b"err\n"[..]));
    let tricks = ["$(id)", "`id`", "; id", "a  b", "'", "\"", "\\", "*", "", "\n", "&& id", "\u{e4}\u{1f600}", "-n", "~"];
    let all: Vec<_> = ["printf", "%s\\0"].iter().chain(&tricks).copied().collect();
    let ran = session.run("one", &words(&all), LIMITS).await.unwrap();
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), tricks.map(|trick| format!("{trick}\0")).concat());
    let ran = session.run("one", &words(&["no-such-program"]), LIMITS).await.unwrap();
    assert_eq!(ran.status, Some(127));
    // Bytes that are no text come as they are, and its input is empty.
    assert_eq!(session.run("one", &words(&["printf", "\\377\\0"]), LIMITS).await.unwrap().stdout, b"\xff\0");
    assert_eq!(session.run("one", &words(&["cat"]), LIMITS).await.unwrap().status, Some(0));
    assert!(matches!(session.run("two", &words(&["true"]), LIMITS).await, Err(SessionError::NotSent(_))));
}

#[tokio::test]
async fn a_command_that_takes_too_long_or_says_too_much_is_bounded_and_the_connection_goes_on() {
    let world = World::start();
    let account = mint(&world.broker(), &plan(&["write"])).await;
    let session = world.session(&account);
    let short = Limits { time: Duration::from_secs(1), bytes: 100 };
    let ran = session.run("one", &words(&["sh", "-c", "echo begun; sleep 6017 & sleep 6018"]), short).await.unwrap();
    assert!(ran.late && ran.status.is_none() && ran.stdout == b"begun\n", "{ran:?}");
    wait_for("the end of what ran", || !runs("6017") && !runs("6018"));
    let long = Limits { time: Duration::from_secs(8), ..short };
    let ran = session.run("one", &words(&["sh", "-c", "yes | head -c 5000000; yes | head -c 3000000 >&2; exit 3"]), long).await.unwrap();
    assert!(ran.truncated && ran.stdout.len() == 100 && ran.stderr.len() == 100 && ran.status == Some(3), "{ran:?}");
    assert_eq!(session.run("one", &words(&["echo", "on"]), LIMITS).await.unwrap().stdout, b"on\n");
    // What it leaves running does not keep its answer back.
    let begin = std::time::Instant::now();
    let ran = session.run("one", &words(&["sh", "-c", "sleep 6019 & echo left"]), LIMITS).await.unwrap();
    assert_eq!((ran.status, ran.stdout.as_slice()), (Some(0), &b"left\n"[..]));
    assert!(begin.elapsed() < LIMITS.time);
    assert_eq!(session.run("one", &words(&["echo", "on"]), LIMITS).await.unwrap().stdout, b"on\n");
    assert_eq!(world.broker().end(&account).await.unwrap().word(), "revoked-verified");
    assert!(!runs("6019"));
}

#[tokio::test]
async fn whoever_stops_waiting_hangs_up_and_what_ran_is_killed() {
    let world = World::start();
    let account = mint(&world.broker(), &plan(&["write"])).await;
    let session = world.session(&account);
    let command = words(&["sleep", "6020"]);
    let running = session.run("one", &command, Limits { time: Duration::from_secs(600), ..LIMITS });
    assert!(tokio::time::timeout(Duration::from_secs(1), running).await.is_err());
    wait_for("the end of what ran", || !runs("6020"));
    assert_eq!(session.run("one", &words(&["echo", "again"]), LIMITS).await.unwrap().stdout, b"again\n");
    session.close().await;
    assert_eq!(session.run("one", &words(&["echo", "again"]), LIMITS).await.unwrap().stdout, b"again\n");
}

#[tokio::test]
async fn a_host_that_goes_away_is_lost_and_only_what_was_sent_may_have_run() {
    let mut world = World::start();
    let account = mint(&world.broker(), &plan(&["write"])).await;
    let session = world.session(&account);
    world.server.stop().unwrap();
    let error = session.run("one", &words(&["true"]), LIMITS).await.unwrap_err();
    assert!(error.gone() && !error.may_have_run(), "{error}");
    world.server.run().unwrap();
    let ran = session.run("one", &words(&["sh", "-c", "kill -KILL $(ps -o ppid= -p $(ps -o ppid= -p $PPID))"]), LIMITS).await;
    let error = ran.map(|ran| format!("{ran:?}")).unwrap_err();
    assert!(error.gone() && error.may_have_run(), "{error}");
    assert_eq!(session.run("one", &words(&["echo", "again"]), LIMITS).await.unwrap().stdout, b"again\n");

    // The host hangs up while nothing runs: nobody notices.
    let hang_up = "p=$(ps -o ppid= -p $(ps -o ppid= -p $PPID)); (sleep 0.2; kill -KILL $p) >/dev/null 2>&1 & echo soon";
    assert_eq!(session.run("one", &words(&["sh", "-c", hang_up]), LIMITS).await.unwrap().stdout, b"soon\n");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(session.run("one", &words(&["echo", "again"]), LIMITS).await.unwrap().stdout, b"again\n");
}
