//! A log of a million entries is exported and judged by three code bases of strangers, as it is and after each of a list of forgeries.

use std::fs;
use std::path::PathBuf;
use std::thread;

use bailiwick_ledger::export;
use bailiwick_ledger::note::Note;
use bailiwick_ledger::{BundleId, Checkpoint, MAX_ENTRY, Origin, SigningKey, TileId, leaf_hash};
use bailiwick_testkit::Scratch;

use crate::foreign::{ALL, Answer, Stranger, Strangers};

const ENTRIES: u64 = 1_000_000;

fn origin() -> Origin {
    "example.com/bailiwick/2027".parse().unwrap()
}

fn key() -> SigningKey {
    SigningKey::from_seed(origin().key_name().clone(), &[42; 32]).unwrap()
}

/// Entries of all lengths that there may be, most of them short.
fn entry(index: u64) -> Vec<u8> {
    match index {
        7 => vec![],
        300 => vec![0xff; MAX_ENTRY],
        _ => format!("{{\"v\":1,\"kind\":\"intent\",\"entry\":{index},\"rest\":\"{}\"}}", "x".repeat((index % 97) as usize)).into_bytes(),
    }
}

/// An exported log, and the key that an auditor has from elsewhere.
struct Log {
    _scratch: Scratch,
    directory: PathBuf,
    vkey: PathBuf,
    head: Checkpoint,
}

impl Log {
    fn publish(size: u64) -> Self {
        let scratch = Scratch::new("bailiwick-published").unwrap();
        let directory = scratch.path().join("export");
        let head = export::write(&directory, &origin(), &key(), (0..size).map(entry)).unwrap();
        let vkey = scratch.write("ledger.vkey", &format!("{}\n", key().verifier())).unwrap();
        Self { _scratch: scratch, directory, vkey, head }
    }

    fn bundle(&self, index: u64) -> String {
        BundleId::for_size(index / 256, self.head.size).unwrap().to_string()
    }

    fn tile(&self, index: u64) -> String {
        TileId::for_size(0, index / 256, self.head.size).unwrap().to_string()
    }
}

/// A change of the published files that is undone when it is dropped.
struct Forgery<'a> {
    log: &'a Log,
    saved: Vec<(PathBuf, Vec<u8>)>,
}

impl<'a> Forgery<'a> {
    fn of(log: &'a Log) -> Self {
        Self { log, saved: vec![] }
    }

    /// Rewrites a file, or removes it.
    fn change(mut self, name: &str, change: impl FnOnce(&[u8]) -> Option<Vec<u8>>) -> Self {
        let path = self.log.directory.join(name);
        let before = fs::read(&path).unwrap();
        match change(&before) {
            Some(after) => {
                assert_ne!(before, after, "{name} was not changed");
                fs::write(&path, after).unwrap();
            }
            None => fs::remove_file(&path).unwrap(),
        }
        self.saved.push((path, before));
        self
    }

    fn checkpoint(self, text: &str) -> Self {
        self.change("checkpoint", |_| Some(text.into()))
    }
}

impl Drop for Forgery<'_> {
    fn drop(&mut self) {
        for (path, bytes) in self.saved.drain(..) {
            fs::write(path, bytes).unwrap();
        }
    }
}

/// Where each entry of a bundle begins and ends, with its length prefix.
fn places(bundle: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut places, mut at) = (vec![], 0);
    while at < bundle.len() {
        let end = at + 2 + usize::from(u16::from_be_bytes([bundle[at], bundle[at + 1]]));
        places.push(at..end);
        at = end;
    }
    places
}

/// One bit of the last byte of an entry; the tiles stay as they were.
fn flipped(log: &Log, index: u64) -> Forgery<'_> {
    Forgery::of(log).change(&log.bundle(index), |bytes| {
        let mut changed = bytes.to_vec();
        changed[places(bytes)[(index % 256) as usize].end - 1] ^= 1;
        Some(changed)
    })
}

/// One bit of a hash in a tile of the second level; the entries stay as they were.
fn flipped_in_a_tile(log: &Log) -> Forgery<'_> {
    let tile = TileId::for_size(1, 0, log.head.size).unwrap().to_string();
    Forgery::of(log).change(&tile, |bytes| {
        let mut changed = bytes.to_vec();
        changed[bytes.len() / 2] ^= 0x80;
        Some(changed)
    })
}

/// The last entry and the last leaf hash are cut off; the names of the files stay as they were.
fn shortened(log: &Log) -> Forgery<'_> {
    let last = log.head.size - 1;
    Forgery::of(log)
        .change(&log.bundle(last), |bytes| Some(bytes[..places(bytes).last().unwrap().start].to_vec()))
        .change(&log.tile(last), |bytes| Some(bytes[..bytes.len() - 32].to_vec()))
}

/// The files that hold the last entries are gone.
fn dropped(log: &Log) -> Forgery<'_> {
    let last = log.head.size - 1;
    Forgery::of(log).change(&log.bundle(last), |_| None).change(&log.tile(last), |_| None)
}

/// An entry and its neighbour change places, in the bundle and in the tile, so that each entry still has the hash in its place.
fn reordered(log: &Log, index: u64) -> Forgery<'_> {
    let at = (index % 256) as usize;
    Forgery::of(log)
        .change(&log.bundle(index), |bytes| {
            let places = places(bytes);
            let (one, two) = (places[at].clone(), places[at + 1].clone());
            Some([&bytes[..one.start], &bytes[two.clone()], &bytes[one], &bytes[two.end..]].concat())
        })
        .change(&log.tile(index), |bytes| {
            let (one, two) = (at * 32, (at + 1) * 32);
            Some([&bytes[..one], &bytes[two..two + 32], &bytes[one..two], &bytes[two + 32..]].concat())
        })
}

/// Somebody else's key, under our name.
fn by_another_key(log: &Log) -> Forgery<'_> {
    let other = SigningKey::from_seed(origin().key_name().clone(), &[43; 32]).unwrap();
    Forgery::of(log).checkpoint(&log.head.sign(&other).unwrap().to_string())
}

/// The right key with its right signature, of another text.
fn with_the_signature_of_another_text(log: &Log) -> Forgery<'_> {
    let shorter = Checkpoint { size: log.head.size - 1, ..log.head.clone() };
    let signature = log.head.sign(&key()).unwrap().signatures()[0].clone();
    let text = shorter.sign(&key()).unwrap().text().clone();
    Forgery::of(log).checkpoint(&Note::new(text, signature).to_string())
}

/// The log's own key has signed another history: what a stolen key can do.
fn by_our_key_for_another_root(log: &Log) -> Forgery<'_> {
    let other = Checkpoint { root: leaf_hash(b"another history"), ..log.head.clone() };
    Forgery::of(log).checkpoint(&other.sign(&key()).unwrap().to_string())
}

/// The log's own key has signed the head of another log.
fn of_another_log(log: &Log) -> Forgery<'_> {
    let other = Checkpoint { origin: "example.com/other".parse().unwrap(), ..log.head.clone() };
    Forgery::of(log).checkpoint(&other.sign(&key()).unwrap().to_string())
}

/// All of them at the same time; ours last.
fn judged(strangers: &Strangers, log: &Log) -> Vec<Answer> {
    thread::scope(|scope| {
        let running = ALL.map(|stranger| scope.spawn(move || strangers.ask(stranger, &log.directory, &log.vkey)));
        let ours = match export::verify(&log.directory, &origin(), key().verifier()) {
            Ok(report) => Answer { accepted: true, words: format!("verified {} entries", report.entries) },
            Err(error) => Answer { accepted: false, words: error.to_string() },
        };
        running.into_iter().map(|asked| asked.join().unwrap()).chain([ours]).collect()
    })
}

type Forge = Box<dyn Fn(&Log) -> Forgery<'_>>;

/// What is forged, and what Go, aics-tlog, tlog-scales and we say about it: refused for this and for no other reason.
fn forgeries(size: u64) -> Vec<(&'static str, Forge, [String; 4])> {
    let said = |words: [&str; 4]| words.map(str::to_owned);
    // Not in the first tile and not in the last.
    let (byte, pair) = (size * 2 / 5, (size / 3) / 256 * 256 + 100);
    let bundle = BundleId::for_size(byte / 256, size).unwrap();
    let tile = TileId::for_size(0, pair / 256, size).unwrap();
    vec![
        (
            "one flipped bit",
            Box::new(move |log| flipped(log, byte)),
            [
                "the entries do not lead to the signed root".to_owned(),
                format!("TileVerificationError: {bundle} does not match its level 0 tile"),
                format!("entry {byte} is not the one in its tile"),
                format!("entry {byte} is not the entry that was signed"),
            ],
        ),
        (
            "one flipped bit of a tile",
            Box::new(flipped_in_a_tile),
            said(["not the tile that was signed", "TileVerificationError", "InclusionProofInvalid", "is not the tile that was signed"]),
        ),
        (
            "a shortened tail",
            Box::new(shortened),
            said([
                &format!("entry {}: missing or cut off", size - 1),
                "TileVerificationError: the right-edge tiles do not match the root",
                "IndexError",
                "does not have the form of its kind",
            ]),
        ),
        ("a dropped tail", Box::new(dropped), said(["no such file", "TileMissingError", "could not get tile", "No such file"])),
        (
            "a reordered pair",
            Box::new(move |log| reordered(log, pair)),
            [
                "the entries do not lead to the signed root".to_owned(),
                format!("TileVerificationError: {tile} does not match its parent tile"),
                "InclusionProofInvalid".to_owned(),
                format!("`{tile}` is not the tile that was signed"),
            ],
        ),
        (
            "a checkpoint by another key",
            Box::new(by_another_key),
            said(["note has no verifiable signatures", "checkpoint: ", "no signature matched vkey", "no trusted key has signed"]),
        ),
        (
            "a checkpoint with the signature of another text",
            Box::new(with_the_signature_of_another_text),
            said(["invalid signature for key", "checkpoint: ", "InvalidSignature", "the signature of `example.com/bailiwick/2027` is wrong"]),
        ),
        (
            "a checkpoint by our key for another root",
            Box::new(by_our_key_for_another_root),
            said([
                "the entries do not lead to the signed root",
                "the right-edge tiles do not match the root",
                "the tiles do not lead to the signed root",
                "the log does not lead to the signed root",
            ]),
        ),
        (
            "the checkpoint of another log",
            Box::new(of_another_log),
            said(["checkpoint: another log's", "origin mismatch", "checkpoint: another log's", "the origin is `example.com/other`"]),
        ),
    ]
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn a_million_entries_verify_by_the_code_of_three_strangers_and_each_catches_every_forgery() {
    let size = std::env::var("BAILIWICK_STRANGERS_ENTRIES").map_or(ENTRIES, |count| count.parse().unwrap());
    let strangers = Strangers::ready();
    let log = Log::publish(size);
    for (who, answer) in judged(&strangers, &log).into_iter().enumerate() {
        assert!(answer.accepted && answer.words.contains(&format!("verified {size} entries")), "{who}: {}", answer.words);
    }
    for (what, forge, expected) in forgeries(size) {
        let forgery = forge(&log);
        for (who, (answer, expected)) in judged(&strangers, &log).into_iter().zip(expected).enumerate() {
            assert!(!answer.accepted, "{what} was accepted by {who}");
            assert!(answer.words.contains(&expected), "{what}, {who}: {}", answer.words);
        }
        drop(forgery);
    }
    // Nothing else was wrong all the time.
    let answer = strangers.ask(Stranger::Go, &log.directory, &log.vkey);
    assert!(answer.accepted, "{}", answer.words);
}
