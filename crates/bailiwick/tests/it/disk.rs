//! A disk that is full, a file system that turns read-only, a clock that went back, pages and a log that are damaged: calls are refused in
//! words, nothing that was acknowledged is lost, and each has its way back, as docs/guides/recovery.md says it.
//!
//! The real program runs on file systems of its own, in a mount namespace: root can make one, and mostly everybody can.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use crate::support::{Answer, Broker, Client, ManualClock, PATIENCE, Place, TaskToken, entries, store_file};

/// A program in a mount namespace of its own, where the data directory is another file system.
struct Apart {
    child: tokio::process::Child,
    data: PathBuf,
}

/// The command that makes a namespace in which `mount` works. Without one there is nothing to show here.
fn unshare() -> Option<Vec<&'static str>> {
    let ways = [vec!["unshare", "-m"], vec!["unshare", "-Urm"], vec!["sudo", "-n", "unshare", "-m"]];
    let works = |way: &&Vec<&str>| {
        let script = "mount -t tmpfs none /mnt";
        std::process::Command::new(way[0]).args(&way[1..]).args(["sh", "-c", script]).output().is_ok_and(|done| done.status.success())
    };
    let way = ways.iter().find(works).cloned();
    assert!(
        way.is_some() || std::env::var_os("BAILIWICK_NO_MOUNTS").is_some(),
        "nobody may mount a file system here: run as root, or say BAILIWICK_NO_MOUNTS=1 to go without these tests"
    );
    way
}

impl Apart {
    /// Runs `bailiwick up` where `mount` has put another file system over the data directory; the directory's content goes with it.
    fn up(place: &Place, way: &[&str], mount: &str) -> Self {
        let script = format!(
            "set -e; mkdir -p \"$KEPT\"; cp -a \"$DATA/.\" \"$KEPT/\"; {mount}; chmod 700 \"$DATA\"; cp -an \"$KEPT/.\" \"$DATA/\"; {AFTER}exec \"$PROGRAM\" --data-dir \"$DATA\" --config \"$CONFIG\" up",
        );
        let mut command = tokio::process::Command::new(way[0]);
        command.args(&way[1..]).args(["sh", "-c", &script]);
        command.env("DATA", &place.data).env("KEPT", place.data.with_extension("kept")).env("CONFIG", &place.config);
        command.env("PROGRAM", env!("CARGO_BIN_EXE_bailiwick")).env("RUST_LOG", "error").env("RUST_BACKTRACE", "0");
        let log = std::fs::File::create(place.data.with_extension("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        Self { child: command.spawn().unwrap(), data: place.data.clone() }
    }

    /// The data directory as the program sees it.
    fn seen(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.child.id().unwrap()));
        root.join(self.data.strip_prefix("/").unwrap())
    }

    /// Something that is done in the program's namespace.
    fn inside(&self, command: &[&str]) {
        let pid = self.child.id().unwrap().to_string();
        let done = std::process::Command::new("nsenter").args(["-t", &pid, "-m", "--"]).args(command).output().unwrap();
        assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Ends it without a farewell, and gives what it leaves, as a directory of this namespace.
    async fn stopped(mut self, keep: &Path) {
        // At once, in the middle of whatever it does: the copy is what a kill would leave.
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
        let status = std::process::Command::new("cp").arg("-a").arg(self.seen()).arg(keep).status().unwrap();
        assert!(status.success());
        self.child.kill().await.unwrap();
    }
}

/// What stands there before the start was there for long: it is durable.
const AFTER: &str = "sync; ";

async fn ready(client: &Client<'_>) -> (u16, String) {
    let answer = client.send(Method::GET, "/readyz", &[], "").await;
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}

fn said(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

async fn put(client: &Client<'_>, task: &TaskToken, key: &str) -> Answer {
    client.call(task, "sys.put", &format!(r#"{{"key":"{key}","value":"v"}}"#)).await
}

/// Calls until one is refused; gives how many were answered before, and the refusal.
async fn until_refused(client: &Client<'_>, task: &TaskToken, name: &str) -> (usize, Answer) {
    for n in 0..5000 {
        let answer = put(client, task, &format!("{name}{n}")).await;
        if answer.word() != "done" {
            return (n, answer);
        }
    }
    panic!("calls pass without a disk");
}

/// Until the broker says that it is ready.
async fn until_ready(client: &Client<'_>) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (status, reasons) = ready(client).await;
        if status == 200 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "it did not come back: {reasons}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A place with an open task, its broker stopped, and a copy of the keys.
async fn place_with_task() -> (Place, TaskToken) {
    let place = Place::new().await;
    let broker = place.open().await;
    let task = place.client().task_with("scout", serde_json::json!({ "ttl_seconds": 28_000 })).await;
    broker.stop().await;
    (place, task)
}

/// How many calls to `put` the ledger says were done.
async fn done(broker: &Broker) -> usize {
    let all = entries(&broker.house).await;
    let intents: Vec<usize> = all.iter().enumerate().filter(|(_, e)| e["kind"] == "intent" && e["tool"] == "sys.put").map(|(n, _)| n).collect();
    all.iter()
        .filter(|e| e["kind"] == "outcome" && e["result"] == "done" && e["intent"].as_u64().is_some_and(|i| intents.contains(&(i as usize))))
        .count()
}

/// Replaces the data directory by another, and what it holds is whole and has at least these calls.
async fn whole_with(place: &Place, kept: &Path, acknowledged: usize) {
    std::fs::remove_dir_all(&place.data).unwrap();
    std::fs::rename(kept, &place.data).unwrap();
    let broker = place.open().await;
    assert!(done(&broker).await >= acknowledged, "an acknowledged call is not on record");
    broker.check_sound(place).await;
    broker.stop().await;
    place.verify();
}

/// Where the log ends that is in use: the rest was written beforehand, and is zeros.
fn log_in_use(log: &Path) -> u64 {
    let bytes = std::fs::read(log).unwrap();
    let last = bytes.iter().rposition(|b| *b != 0).unwrap();
    (last as u64 + 1).next_multiple_of(4096)
}

/// A broker on a small disk, after some calls.
async fn on_a_small_disk(way: &[&str]) -> (Place, TaskToken, Apart, TaskToken) {
    let (place, task) = place_with_task().await;
    let apart = Apart::up(&place, way, "mount -t tmpfs -o size=160m none \"$DATA\"");
    let client = place.client();
    client.wait_for_tools(&task).await;
    let other = client.task("scout").await;
    for n in 0..20 {
        assert_eq!(put(&client, &task, &format!("a{n}")).await.word(), "done");
    }
    (place, task, apart, other)
}

/// Fills the disk of a broker to its last block, with what was grown beforehand and is not used. Gives the file that fills it.
async fn filled(apart: &Apart) -> PathBuf {
    // The database follows the journal a moment later: its log is not to be written while a hole is made behind what it uses.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // Journal and log were grown beforehand, and would take thousands of calls: their unused parts are given back, and the disk is filled.
    for name in ["bailiwick.sqlite-wal", "bailiwick.journal"] {
        let file = apart.seen().join(name);
        let punched = std::process::Command::new("fallocate")
            .args(["--punch-hole", "--offset", &log_in_use(&file).to_string(), "--length", &(64u64 << 20).to_string()])
            .arg(&file)
            .status()
            .unwrap();
        assert!(punched.success());
    }
    let filler = apart.seen().join("filler");
    let full = std::process::Command::new("dd").args(["if=/dev/zero", "bs=64k"]).arg(format!("of={}", filler.display())).output().unwrap();
    assert!(String::from_utf8_lossy(&full.stderr).contains("No space left"), "{full:?}");
    filler
}

fn revoked_in(found: &[Value], task: &TaskToken) -> usize {
    found.iter().filter(|e| e["kind"] == "task_ended" && e["task"] == *task.id && e["reason"] == "revoked").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_every_call_is_refused_in_words_a_revocation_is_recorded_and_with_room_again_all_goes_on() {
    let Some(way) = unshare() else { return };
    let (place, task, apart, other) = on_a_small_disk(&way).await;
    let client = place.client();
    let filler = filled(&apart).await;
    let (more, refused) = until_refused(&client, &task, "b").await;
    assert!(said(&refused).contains("audit.unavailable") && said(&refused).contains("disk full"), "{refused:?}");
    let before = place.upstream.times("put", "");
    let read = client.call(&task, "sys.look", r#"{"key":"r"}"#).await;
    assert!(said(&read).contains("audit.unavailable"), "a read passed without a record: {read:?}");
    let (status, reasons) = ready(&client).await;
    assert_eq!(status, 503, "{reasons}");
    // What was kept of the disk is for this: a person takes a task's authority away, and it is on record.
    let revoke = async |task: &TaskToken| client.by("ops", Method::POST, &format!("/v1/tasks/{}/revoke", task.id), None).await;
    let revoked = revoke(&other).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    let (status, reasons) = ready(&client).await;
    assert_eq!(status, 503, "{reasons}");
    assert_eq!(put(&client, &other, "late").await.status, 401);
    assert!(said(&put(&client, &task, "late").await).contains("audit.unavailable"));
    assert_eq!(place.upstream.times("put", ""), before, "a call was sent without a record");
    // What a kill at this moment leaves has the revocation.
    let killed = place.data.with_extension("killed");
    copied(&apart.seen(), &killed);
    std::fs::remove_file(killed.join("filler")).unwrap();
    // Room again.
    std::fs::remove_file(&filler).unwrap();
    until_ready(&client).await;
    for n in 0..5 {
        assert_eq!(put(&client, &task, &format!("c{n}")).await.word(), "done");
    }
    assert_eq!(put(&client, &other, "late").await.status, 401);
    assert!(std::fs::metadata(apart.seen().join("bailiwick.reserve")).unwrap().len() >= 8 << 20, "the next full disk finds no reserve");
    let kept = place.data.with_extension("after");
    apart.stopped(&kept).await;
    // What was called after the first of them is not in it: it is only looked at.
    std::fs::remove_dir_all(&place.data).unwrap();
    std::fs::rename(&killed, &place.data).unwrap();
    let broker = place.open().await;
    assert_eq!(revoked_in(&entries(&broker.house).await, &other), 2, "closing and closed");
    broker.stop().await;
    whole_with(&place, &kept, 20 + more + 5).await;
    let broker = place.open().await;
    assert_eq!(revoked_in(&entries(&broker.house).await, &other), 2, "closing and closed");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_not_even_the_reserve_has_room_for_holds_in_memory_at_once_and_is_recorded_when_there_is_room() {
    let Some(way) = unshare() else { return };
    let (place, task, apart, other) = on_a_small_disk(&way).await;
    let client = place.client();
    // Somebody else has taken it.
    let reserve = std::fs::File::options().write(true).open(apart.seen().join("bailiwick.reserve")).unwrap();
    assert!(reserve.metadata().unwrap().len() > 0);
    reserve.set_len(0).unwrap();
    let filler = filled(&apart).await;
    let (more, _) = until_refused(&client, &task, "b").await;
    let revoked = client.by("ops", Method::POST, &format!("/v1/tasks/{}/revoke", other.id), None).await;
    let words = said(&revoked);
    assert!(revoked.status == 503 && words.contains("audit.unavailable") && words.contains("takes no more calls from now on"), "{revoked:?}");
    // Room again. Nobody asks a second time: the task stays ended, and the record says so.
    std::fs::remove_file(&filler).unwrap();
    until_ready(&client).await;
    assert_eq!(put(&client, &task, "c").await.word(), "done");
    assert_eq!(put(&client, &other, "late").await.status, 401);
    let shown = async || client.by("ops", Method::GET, &format!("/v1/tasks/{}", other.id), None).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !said(&shown().await).contains(r#""closed""#) {
        assert!(tokio::time::Instant::now() < deadline, "the end is not recorded: {:?}", shown().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let kept = place.data.with_extension("after");
    apart.stopped(&kept).await;
    whole_with(&place, &kept, 20 + more + 1).await;
    let broker = place.open().await;
    assert!(revoked_in(&entries(&broker.house).await, &other) > 0, "the revocation was forgotten");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_disk_that_is_full_or_read_only_says_so_and_what_to_do() {
    let Some(way) = unshare() else { return };
    for (mount, words) in [
        ("mount -t tmpfs -o size=32m none \"$DATA\"", ["No space left", "75 MB"]),
        ("mount --bind \"$DATA\" \"$DATA\"; mount -o remount,bind,ro \"$DATA\"; cp() { :; }; chmod() { :; }", ["Read-only file system", "writable"]),
    ] {
        let (place, task) = place_with_task().await;
        let mut apart = Apart::up(&place, &way, mount);
        let status = tokio::time::timeout(PATIENCE, apart.child.wait()).await.unwrap().unwrap();
        let log = std::fs::read_to_string(place.data.with_extension("log")).unwrap();
        assert!(!status.success() && words.iter().all(|w| log.contains(w)), "{log}");
        // On a disk as it should be, it goes on.
        let broker = place.open().await;
        assert_eq!(put(&place.client(), &task, "k").await.word(), "done");
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_file_system_turns_read_only_calls_are_refused_and_nothing_acknowledged_is_lost() {
    let Some(way) = unshare() else { return };
    let loops = std::process::Command::new("losetup").arg("-f").output().is_ok_and(|done| done.status.success());
    if way != ["unshare", "-m"] || !loops {
        eprintln!("not shown here: without loop devices no file system can be made to fail while it is in use");
        return;
    }
    let (place, task) = place_with_task().await;
    let image = place.data.with_extension("img");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(200 << 20).unwrap();
    assert!(std::process::Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status().unwrap().success());
    let mount = format!("mount -o loop,errors=remount-ro {} \"$DATA\"", image.display());
    let apart = Apart::up(&place, &way, &mount);
    let client = place.client();
    client.wait_for_tools(&task).await;
    for n in 0..20 {
        assert_eq!(put(&client, &task, &format!("a{n}")).await.word(), "done");
    }
    // What the kernel does when it finds the disk in error.
    apart.inside(&["mount", "-o", "remount,abort", &place.data.display().to_string()]);
    let (more, refused) = until_refused(&client, &task, "b").await;
    let words = said(&refused);
    assert!(words.contains("audit.unavailable") && (words.contains("read-only") || words.contains("input/output")), "{refused:?}");
    assert_eq!(ready(&client).await.0, 503);
    let sent = place.upstream.times("put", "");
    assert!(said(&put(&client, &task, "late").await).contains("audit.unavailable"));
    assert_eq!(place.upstream.times("put", ""), sent);
    // Gone, without any farewell; the disk is checked, and mounted again.
    let mut apart = apart;
    apart.child.kill().await.unwrap();
    let fsck = std::process::Command::new("fsck.ext4").args(["-p", "-f"]).arg(&image).status().unwrap();
    assert!(fsck.code().is_some_and(|code| code < 4), "{fsck:?}");
    let kept = place.data.with_extension("after");
    let copy = format!("mount -o loop {} /mnt && cp -a /mnt {}", image.display(), kept.display());
    assert!(std::process::Command::new("unshare").args(["-m", "sh", "-c", &copy]).status().unwrap().success());
    std::fs::set_permissions(&kept, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::remove_dir_all(kept.join("lost+found")).unwrap();
    whole_with(&place, &kept, 20 + more).await;
}

/// A copy of a data directory.
fn copied(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Starts the real program, which must refuse; gives what it said.
async fn refused_start(place: &Place) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_bailiwick"));
    command.arg("--data-dir").arg(&place.data).arg("--config").arg(&place.config).arg("up").env("RUST_LOG", "off").kill_on_drop(true);
    let done = tokio::time::timeout(PATIENCE, command.stdin(Stdio::null()).output()).await.expect("it started").unwrap();
    assert!(!done.status.success());
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// A broker that made some calls and was killed, so that its log is full of them. Gives how many.
async fn killed_after_calls(place: &Place, task: &TaskToken) -> usize {
    let mut child = place.spawn(None);
    let client = place.client();
    client.wait_for_tools(task).await;
    for n in 0..30 {
        assert_eq!(put(&client, task, &format!("a{n}")).await.word(), "done");
    }
    // Long enough for what was recorded to be published too.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    // Slowly, so that the database follows in several transactions.
    for n in 0..12 {
        assert_eq!(put(&client, task, &format!("b{n}")).await.word(), "done");
        tokio::time::sleep(Duration::from_millis(130)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    child.kill().await.unwrap();
    42
}

/// The middle of the frames that the log holds now; behind them may be those of an older one.
fn middle_of(log: &Path) -> u64 {
    let bytes = std::fs::read(log).unwrap();
    let frame = 24 + u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
    let ours = bytes[32..].chunks(frame).take_while(|f| f[8..16] == bytes[16..24]).count();
    assert!(ours >= 6, "the log holds {ours} frames");
    (32 + ours / 2 * frame + 500) as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_damaged_is_not_read_up_to_the_damage_and_with_the_file_back_nothing_is_lost() {
    let (place, task) = place_with_task().await;
    let calls = killed_after_calls(&place, &task).await;
    let kept = place.data.with_extension("kept");
    copied(&place.data, &kept);
    let log = place.data.join("bailiwick.sqlite-wal");
    let at = middle_of(&log);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&log).unwrap();
    let mut byte = [0u8];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    drop(file);
    let words = refused_start(&place).await;
    assert!(words.contains("database file is damaged") && words.contains("is damaged at byte") && words.contains("recovery.md"), "{words}");
    // A copy that is cut off there can be read up to there, as the guide says.
    let cut = place.data.with_extension("cut");
    copied(&place.data, &cut);
    let byte: u64 = words.split_once("at byte ").unwrap().1.split(',').next().unwrap().parse().unwrap();
    std::fs::OpenOptions::new().write(true).open(cut.join("bailiwick.sqlite-wal")).unwrap().set_len(byte).unwrap();
    let (key, origin) = bailiwick::ledger_access::log_key(&cut).unwrap();
    let before = bailiwick::ledger_access::verify(&cut, &origin, &key).unwrap().size;
    assert!(before > 0, "nothing is left of it");
    whole_with(&place, &kept, calls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_is_damaged_stops_the_start_and_with_the_file_back_nothing_is_lost() {
    let (place, task) = place_with_task().await;
    // Killed at once after its last call: the database has not followed.
    let mut child = place.spawn(None);
    let client = place.client();
    client.wait_for_tools(&task).await;
    for n in 0..30 {
        assert_eq!(put(&client, &task, &format!("a{n}")).await.word(), "done");
    }
    child.kill().await.unwrap();
    let kept = place.data.with_extension("kept");
    copied(&place.data, &kept);
    let (key, origin) = bailiwick::ledger_access::log_key(&kept).unwrap();
    let size = bailiwick::ledger_access::verify(&kept, &origin, &key).unwrap().size;
    let journal = place.data.join("bailiwick.journal");
    let bytes = std::fs::read(&journal).unwrap();
    // Every record is cut, so that whichever the database still needs is not whole, except for the last.
    let blocks = bytes[4096..].chunks(4096).enumerate().filter(|(_, block)| block[4..8] == *b"\xffbwj").map(|(n, _)| (n as u64 + 1) * 4096);
    let heads: Vec<u64> = blocks.collect();
    let file = std::fs::OpenOptions::new().write(true).open(&journal).unwrap();
    for head in &heads[..heads.len() - 1] {
        file.write_all_at(&[0xaa; 8], head + 40).unwrap();
    }
    drop(file);
    let words = refused_start(&place).await;
    assert!(words.contains("bailiwick.journal` is damaged at byte") && words.contains("recovery.md"), "{words}");
    assert!(bailiwick::ledger_access::verify(&place.data, &origin, &key).is_err());
    whole_with(&place, &kept, 30).await;
    let (key, origin) = bailiwick::ledger_access::log_key(&place.data).unwrap();
    assert!(bailiwick::ledger_access::verify(&place.data, &origin, &key).unwrap().size >= size);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_letter_in_an_old_entry_is_found_at_the_start_or_soon_after_and_no_call_passes_from_then_on() {
    let (place, task) = place_with_task().await;
    let broker = place.open().await;
    for n in 0..30 {
        assert_eq!(put(&place.client(), &task, &format!("a{n}")).await.word(), "done");
    }
    broker.stop().await;
    let kept = place.data.with_extension("kept");
    copied(&place.data, &kept);
    // One letter in the middle of an old entry: no structure of the database tells of it.
    let file = store_file(&place.data);
    let mut bytes = std::fs::read(&file).unwrap();
    let word = br#""tool":"sys.put""#;
    // Wherever it stands: some pages hold what is not used any more.
    let found: Vec<usize> = bytes.windows(word.len()).enumerate().filter(|(_, w)| w == word).map(|(at, _)| at).collect();
    assert!(found.len() >= 30);
    found.into_iter().for_each(|at| bytes[at + 12] ^= 0x01);
    std::fs::write(&file, bytes).unwrap();
    let mut child = place.spawn(None);
    let client = place.client();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let starts = loop {
        let answer = client.try_by("ops", Method::GET, "/readyz", None).await;
        if answer.is_some_and(|a| a.status == 503 && said(&a).contains("the record is damaged: entry")) {
            break true;
        }
        if child.try_wait().unwrap().is_some() {
            break false;
        }
        assert!(tokio::time::Instant::now() < deadline, "it did not notice");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    if starts {
        let before = place.upstream.times("put", "");
        let answer = put(&client, &task, "late").await;
        assert!(said(&answer).contains("audit.unavailable"), "{answer:?}");
        assert_eq!(place.upstream.times("put", ""), before);
        child.kill().await.unwrap();
    } else {
        let words = refused_start(&place).await;
        assert!(words.contains("the store cannot be opened") && words.contains("recovery.md"), "{words}");
    }
    whole_with(&place, &kept, 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_whose_structure_is_damaged_does_not_start_or_serves_no_call() {
    let (place, task) = place_with_task().await;
    let broker = place.open().await;
    assert_eq!(put(&place.client(), &task, "a").await.word(), "done");
    broker.stop().await;
    let file = store_file(&place.data);
    // All of it in the file: what stands in the log as well is not missed there.
    let conn = rusqlite::Connection::open(&file).unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(conn);
    let kept = place.data.with_extension("kept");
    copied(&place.data, &kept);
    let bytes = std::fs::read(&file).unwrap();
    let page = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    // Each page's head in turn.
    let mut refused = 0;
    for number in 0..bytes.len() / page {
        let mut damaged = bytes.clone();
        let head = number * page + if number == 0 { 100 } else { 0 };
        damaged[head..head + 8].copy_from_slice(&[0x55; 8]);
        // A page that is free holds nothing, and nobody looks at it.
        let probe = place.data.with_extension("probe");
        std::fs::write(&probe, &damaged).unwrap();
        let sound = rusqlite::Connection::open(&probe).and_then(|c| c.query_row("PRAGMA quick_check", [], |r| r.get::<_, String>(0)));
        std::fs::remove_file(&probe).unwrap();
        if sound.is_ok_and(|said| said == "ok") {
            continue;
        }
        std::fs::write(&file, damaged).unwrap();
        let config = bailiwick::config::Config::load(&place.config).unwrap();
        match bailiwick::house::House::open(config, &place.data, Arc::new(bailiwick::clock::SystemClock::start())).await {
            Err(error) => {
                assert!(
                    error.to_string().contains("damaged") || error.to_string().contains("malformed") || error.to_string().contains("stored"),
                    "{error}"
                );
                refused += 1;
            }
            Ok(opened) => {
                let broker = Broker::serving(opened);
                crate::support::until("the damage is found", || broker.house.pen.stopped().is_some()).await;
                assert_ne!(put(&place.client(), &task, "late").await.word(), "done", "page {number}");
                broker.stop().await;
                refused += 1;
            }
        }
        if number >= 12 {
            break;
        }
        std::fs::remove_dir_all(&place.data).unwrap();
        copied(&kept, &place.data);
    }
    assert!(refused > 5);
    assert_eq!(place.upstream.times("put", "late"), 0);
    whole_with(&place, &kept, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_far_behind_the_record_starts_nothing_and_one_a_little_behind_makes_nothing_live_longer() {
    let place = Place::new().await;
    let clock = ManualClock::start();
    let broker = place.open_at(clock.clone()).await;
    let client = place.client_at(clock.clone());
    let task = client.task_with("scout", serde_json::json!({ "ttl_seconds": 600 })).await;
    assert_eq!(put(&client, &task, "a").await.word(), "done");
    clock.forward(Duration::from_secs(595));
    assert_eq!(put(&client, &task, "b").await.word(), "done");
    broker.stop().await;
    // An hour back: no start, and words.
    clock.back(Duration::from_secs(3600));
    let config = || bailiwick::config::Config::load(&place.config).unwrap();
    let error = bailiwick::house::House::open(config(), &place.data, clock.clone()).await.unwrap_err();
    assert!(error.to_string().contains("the clock says") && error.hint().contains("clock right"), "{error}");
    // Four minutes back: time goes on from the newest entry, so that the task ends when it was to end, and not four minutes later.
    clock.forward(Duration::from_secs(3600 - 240));
    let broker = place.open_at(clock.clone()).await;
    let id = task.id.parse().unwrap();
    crate::support::until("the task has ended", || broker.house.live.find(id).is_none()).await;
    let found = broker.entries().await;
    assert!(found.iter().any(|e| e["kind"] == "incident" && e["what"] == "clock_back"), "nothing tells of it");
    let times: Vec<&str> = found.iter().filter_map(|e: &Value| e["at"].as_str()).collect();
    assert!(times.is_sorted(), "the record goes back in time");
    broker.stop().await;
    // With the clock right again it starts.
    clock.forward(Duration::from_secs(300));
    place.open_at(clock.clone()).await.stop().await;
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_clock_that_ran_ahead_a_new_shard_is_the_way_on() {
    let (place, _) = place_with_task().await;
    let store = crate::power_load::open(&place.data, &place.data).unwrap();
    let ahead = bailiwick_core::Clock::now(&bailiwick::clock::SystemClock::start()).plus(Duration::from_secs(7 * 24 * 3600));
    let body = format!(r#"{{"v":1,"kind":"house","at":"{ahead}","what":"stopped"}}"#);
    store.append(bailiwick_store::Entry::new("house", body.into_bytes())).await.unwrap();
    store.close().await;
    drop(store);
    let words = refused_start(&place).await;
    assert!(words.contains("the clock says") && words.contains("hint") && words.contains("recovery.md"), "{words}");
    let begun = tokio::process::Command::new(env!("CARGO_BIN_EXE_bailiwick"))
        .arg("--data-dir")
        .arg(&place.data)
        .arg("--config")
        .arg(&place.config)
        .args(["ledger", "shard", "new", "--even-so", "--reason", "the clock was ahead until today"])
        .output()
        .await
        .unwrap();
    assert!(begun.status.success(), "{begun:?}");
    place.open().await.stop().await;
}
