//! The whole broker under a tracer: nothing is sent to a system before the intent is durable, whenever the power is lost.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bailiwick_store::EntryRow;

use crate::power_load::open;
use crate::power_trace::{Disk, JOURNAL, Survivors, Trace, traced};
use crate::support::{Client, Place, TaskToken};

/// The entries that a loss of power at this moment leaves at the least.
async fn left(disk: &Disk<'_>, keys: &Path) -> Vec<EntryRow> {
    let memory = Path::new("/dev/shm");
    let found = tempfile::tempdir_in(if memory.is_dir() { memory } else { Path::new("/tmp") }).unwrap();
    std::fs::set_permissions(found.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    disk.after_power_loss(Survivors::None, found.path());
    let store = open(found.path(), keys).unwrap();
    let rows = store.entries(0..u64::MAX >> 1).await.unwrap();
    store.close().await;
    rows
}

async fn calls(client: Client<'_>, task: &TaskToken, lane: usize, most: usize) {
    for n in 0..most {
        let answer = client.call(task, "sys.put", &format!(r#"{{"key":"sent-{lane}-{n}-","value":"v"}}"#)).await;
        assert_eq!(answer.word(), "done", "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_to_a_system_before_its_intent_would_outlive_a_loss_of_power_nor_answered_before_its_outcome_would() {
    let place = Place::new().await;
    let broker = place.open().await;
    let task = place.client().task("scout").await;
    broker.stop().await;
    let out = tempfile::NamedTempFile::new().unwrap();
    // The tracer begins with an empty folder: what the first start left is put there as if it were written now.
    let before: Vec<(String, Vec<u8>)> = std::fs::read_dir(&place.data)
        .unwrap()
        .filter_map(|e| {
            let e = e.unwrap();
            let name = e.file_name().into_string().unwrap();
            (name.contains(".sqlite") || name == JOURNAL).then(|| (name, std::fs::read(e.path()).unwrap()))
        })
        .collect();
    let mut command = tokio::process::Command::from(traced(Path::new(env!("CARGO_BIN_EXE_bailiwick")), out.path()));
    command.arg("--data-dir").arg(&place.data).arg("--config").arg(&place.config).arg("up");
    command.env("RUST_LOG", "off").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let client = place.client();
    client.wait_for_tools(&task).await;
    // One after the other, so that each send has exactly the intents before it, then several at once.
    calls(place.client(), &task, 0, 15).await;
    tokio::join!(
        calls(place.client(), &task, 1, 8),
        calls(place.client(), &task, 2, 8),
        calls(place.client(), &task, 3, 8),
        calls(place.client(), &task, 4, 8)
    );
    let endpoint: serde_json::Value = serde_json::from_slice(&std::fs::read(place.data.join("endpoint.json")).unwrap()).unwrap();
    let stopped = std::process::Command::new("kill").args(["-TERM", &endpoint["pid"].to_string()]).status().unwrap();
    assert!(stopped.success());
    tokio::time::timeout(Duration::from_secs(60), child.wait()).await.unwrap().unwrap();
    let trace = Trace::read(out.path());
    let mut disk = Disk::new(&trace, &place.data);
    before.into_iter().for_each(|(name, content)| disk.begin_with(&name, content));
    let holds = |data: &[u8], text: &[u8]| data.windows(text.len()).any(|w| w == text);
    let (mut sent, mut answered) = (0, 0);
    for (at, path, data) in trace.told() {
        let socket = path.to_string_lossy().starts_with("socket:");
        let sends = socket && holds(data, br#""key":"sent-"#);
        // The answer to the client: the system's words, in our envelope.
        let answers = socket && !sends && data.starts_with(b"HTTP/1.1 200") && holds(data, br#""text":"done""#);
        if !sends && !answers {
            continue;
        }
        (sent, answered) = (sent + usize::from(sends), answered + usize::from(answers));
        disk.go_to(at);
        let rows = left(&disk, &place.data).await;
        let of =
            |kind: &str| rows.iter().filter(|r| r.kind == kind && holds(&r.body, if kind == "intent" { b"sys.put" } else { b"\"done\"" })).count();
        assert!(of("intent") >= sent, "send {sent} began at {at}, when {} intents were durable", of("intent"));
        assert!(of("outcome") >= answered, "answer {answered} began at {at}, when {} outcomes were durable", of("outcome"));
    }
    assert_eq!((sent, answered), (47, 47), "the trace was not understood");
    // Not vacuous: without synchronisations nothing of it would be there.
    let mut lying = Disk::lying(&trace, &place.data);
    lying.go_to(trace.moments.len());
    assert!(left(&lying, &place.data).await.is_empty(), "this test cannot fail");
}
