//! kill -9 of a real process under load: every acknowledged entry is there, and every intent without an outcome is known.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

const DIRECTORY: &str = "BAILIWICK_STORE_CRASH_DIRECTORY";

/// The child: calls and tells what was acknowledged, until it is killed. Does nothing as an ordinary test.
#[test]
#[ignore = "the child of the crash test"]
fn child_under_load() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = open(Path::new(&dir));
        for (index, call) in store.open_intents().await.unwrap() {
            store.outcome(index, call, b"unknown".to_vec()).await.unwrap();
        }
        let round = store.head().size;
        let of = Task { budget: Budget { calls: u64::MAX, calls_per_minute: 1 }, ..task(round) };
        store.open_task(&of, Vec::new()).await.unwrap();
        let mut callers = Vec::new();
        for caller in 0..16u64 {
            let (store, of) = (store.clone(), of.clone());
            callers.push(tokio::spawn(async move {
                for n in 0.. {
                    let id = (round + 1) * 1_000_000_000 + caller * 10_000_000 + n;
                    let intent = Intent { budget_calls: u64::MAX, body: id.to_string().into_bytes(), ..intent(&store, &of, id) };
                    let index = store.intent(intent).await.unwrap().unwrap();
                    tell(&format!("intent {index} {id}"));
                    if n % 2 == 0 {
                        let outcome = store.outcome(index, call(id), b"done".to_vec()).await.unwrap();
                        tell(&format!("outcome {outcome} {index}"));
                    } else if n % 3 == 0 {
                        store.outcome_relaxed(index, call(id), b"done".to_vec()).await.unwrap();
                    }
                }
            }));
        }
        for caller in callers {
            caller.await.unwrap();
        }
    });
}

fn tell(line: &str) {
    let mut out = std::io::stderr().lock();
    out.write_all(format!("ack {line}\n").as_bytes()).unwrap();
}

#[tokio::test]
async fn kill_9_under_load_loses_no_acknowledged_entry() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..5u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::crash::child_under_load", "--ignored", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut told = Vec::new();
        // Killed at a moment that differs from round to round: after some acknowledgements, in the middle of the next batches.
        for line in lines.by_ref() {
            told.push(line.unwrap());
            if told.len() as u32 > 40 + 137 * round {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        told.extend(lines.map_while(Result::ok));
        let store = open(dir.path());
        let entries = check_whole(&store).await;
        for line in &told {
            // The last line may be cut off by the kill; a whole one has three parts after its mark.
            let Some(rest) = line.strip_prefix("ack ") else { continue };
            let parts: Vec<&str> = rest.split(' ').collect();
            let [what, index, value] = parts[..] else { continue };
            let entry = &entries[index.parse::<usize>().unwrap()];
            assert_eq!(entry.kind, what, "{line}");
            match what {
                "intent" => assert!(entry.body.starts_with(value.as_bytes()), "{line}"),
                _ => assert!(entry.closes.unwrap().to_string().starts_with(value), "{line}"),
            }
            acknowledged += 1;
        }
        let closed: BTreeSet<u64> = entries.iter().filter_map(|e| e.closes).collect();
        let open: Vec<u64> = entries.iter().filter(|e| e.kind == "intent" && !closed.contains(&e.index)).map(|e| e.index).collect();
        let listed: Vec<u64> = store.open_intents().await.unwrap().into_iter().map(|(index, _)| index).collect();
        assert_eq!(listed, open);
        store.close().await;
    }
    assert!(acknowledged > 500, "the load was too small to show anything: {acknowledged}");
}
