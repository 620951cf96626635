//! An independent public witness, PyPI `aics-witness`, cosigns our growing log and refuses every other history.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use bailiwick_ledger::export::{Directory, Exporter};
use bailiwick_ledger::witness::{ADD_CHECKPOINT, AddCheckpoint, Answer, monitor_path, read_answer, read_shown};
use bailiwick_ledger::{Checkpoint, CosigningKey, Hash, Note, Origin, SigningKey, TrustPolicy, VerifierKey, consistency_proof};
use bailiwick_testkit::verifiers::verifier;
use bailiwick_testkit::{Scratch, Witness};

use crate::foreign::{ALL, Strangers};

const NAME: &str = "witness.example/one";

fn origin() -> Origin {
    "example.com/bailiwick/2027".parse().unwrap()
}

fn key() -> SigningKey {
    SigningKey::from_seed(origin().key_name().clone(), &[42; 32]).unwrap()
}

/// A log in a directory; from entry `forks_at` on, it says other things than the log that does not fork.
struct Log {
    scratch: Scratch,
    forks_at: u64,
}

impl Log {
    fn new(forks_at: u64) -> Self {
        Self { scratch: Scratch::new("bailiwick-witnessed").unwrap(), forks_at }
    }

    fn directory(&self) -> Directory {
        Directory::new(&self.export())
    }

    fn export(&self) -> PathBuf {
        self.scratch.path().join("export")
    }

    /// Publishes up to `size`, signed by the log alone.
    fn grow(&self, size: u64) -> Note {
        let exists = self.export().join("checkpoint").exists();
        let resumed = || Exporter::resume(&self.export(), &origin(), key().verifier());
        let mut exporter = if exists { resumed() } else { Exporter::create(&self.export()) }.unwrap();
        for at in exporter.size()..size {
            exporter.push(format!("{{\"entry\":{at},\"forked\":{}}}", at >= self.forks_at).as_bytes()).unwrap();
        }
        let note = Checkpoint { origin: origin(), size, root: exporter.root() }.sign(&key()).unwrap();
        exporter.finish(&note.to_string()).unwrap();
        note
    }

    fn proof(&self, old: u64, new: u64) -> Vec<Hash> {
        consistency_proof(&self.directory(), old, new).unwrap()
    }
}

/// One request over HTTP/1.1: status, media type, body.
fn http(port: u16, method: &str, path: &str, body: &str) -> (u16, Option<String>, Vec<u8>) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    write!(stream, "{method} /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = vec![];
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let media = head.lines().find_map(|line| line.strip_prefix("Content-Type: "));
    (status, media.map(str::to_owned), answer[end + 4..].to_vec())
}

/// Sends a request as our client words it and reads the answer as our client does.
fn send(witness: &Witness, old: u64, proof: Vec<Hash>, note: &Note) -> Answer {
    let request = AddCheckpoint::new(old, proof, note.clone()).unwrap().to_string();
    let (status, media, body) = http(witness.port(), "POST", ADD_CHECKPOINT, &request);
    read_answer(status, media.as_deref(), &body, note, &witness_key(witness)).unwrap()
}

fn witness_key(witness: &Witness) -> VerifierKey {
    witness.vkey().parse().unwrap()
}

/// The head that the witness shows to everybody.
fn shown(witness: &Witness) -> Checkpoint {
    let (status, _, body) = http(witness.port(), "GET", &monitor_path(&origin()), "");
    assert_eq!(status, 200);
    let (checkpoint, note) = read_shown(&body, &origin(), key().verifier()).unwrap();
    assert_eq!(note.verify(&[witness_key(witness)]).unwrap().len(), 1);
    checkpoint
}

fn started() -> Witness {
    Witness::start(NAME, origin().as_str(), &key().verifier().to_string()).unwrap()
}

/// Whether `aics-tlog`, which counts cosignatures itself, finds the published head cosigned by this witness.
fn counted(export: &Path, vkey: &Path, witness: &Witness) -> bool {
    let mut command = Command::new(verifier("aics-tlog"));
    command.args(["verify-checkpoint", "--origin", origin().as_str(), "--witness-key", witness.vkey(), "--quorum", "1"]);
    let done = command.arg("--vkey-file").arg(vkey).arg("--tiles").arg(export).output().unwrap();
    let words = String::from_utf8(done.stdout).unwrap();
    assert_eq!(words.contains("\"cosignatures\": 1"), done.status.success(), "{words}");
    done.status.success()
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn a_public_witness_cosigns_a_growing_log_and_strangers_count_its_cosignature() {
    let (witness, log, strangers) = (started(), Log::new(u64::MAX), Strangers::ready());
    let vkey = log.scratch.write("ledger.vkey", &key().verifier().to_string()).unwrap();
    let policy: TrustPolicy = format!("log {}\nwitness one {}\nquorum one\n", key().verifier(), witness.vkey()).parse().unwrap();
    let mut old = 0;
    for size in [1, 2, 255, 256, 300, 3000, 3000, 70_000] {
        let mut note = log.grow(size);
        assert!(policy.open(&note.to_string()).is_err());
        assert!(!counted(&log.export(), &vkey, &witness), "size {size}");
        let Answer::Cosigned { lines, .. } = send(&witness, old, log.proof(old, size), &note) else {
            panic!("not cosigned at size {size}");
        };
        lines.into_iter().for_each(|line| note.add(line).unwrap());
        Exporter::resume(&log.export(), &origin(), key().verifier()).unwrap().finish(&note.to_string()).unwrap();
        assert_eq!(policy.open(&log.directory().checkpoint().unwrap()).unwrap().cosigned[0].0, "one");
        assert!(counted(&log.export(), &vkey, &witness), "size {size}");
        assert_eq!(shown(&witness).size, size);
        old = size;
    }
    // A second signature line is no obstacle for those who only know the log's key.
    for stranger in ALL {
        let answer = strangers.ask(stranger, &log.export(), &vkey);
        assert!(answer.accepted, "{}", answer.words);
    }
    assert_eq!(witness.evidence().unwrap().trim(), "[]");
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn a_public_witness_refuses_a_rollback_a_fork_and_a_bad_proof_and_goes_on_with_the_true_log() {
    let (mut witness, log, fork) = (started(), Log::new(u64::MAX), Log::new(250));
    // A backup from when the log had 200 entries.
    let backup = Log::new(u64::MAX);
    let restored = backup.grow(200);
    let at_300 = log.grow(300);
    assert!(matches!(send(&witness, 0, vec![], &at_300), Answer::Cosigned { .. }));
    let (forked_300, same_size) = (fork.grow(300), fork.proof(300, 300));
    let forked_400 = fork.grow(400);
    let at_400 = log.grow(400);
    let good = log.proof(300, 400);
    let cut = good[1..].to_vec();
    let mut swapped = good.clone();
    swapped.swap(0, 1);
    let longer = [good.clone(), vec![good[0]]].concat();

    for round in ["before", "after kill -9"] {
        // A rollback: the restored log believes that it is where the witness last saw it, and would go on from there.
        assert_eq!(send(&witness, 200, vec![], &restored), Answer::Size(300), "{round}");
        assert_eq!(send(&witness, 0, vec![], &restored), Answer::Size(300), "{round}");
        // Not even with the right old size: a log does not shrink.
        assert_eq!(send(&witness, 300, vec![], &restored), Answer::NotUnderstood, "{round}");
        // A fork, of the same size and of a larger one, with the best proof that it can make.
        assert_eq!(send(&witness, 300, same_size.clone(), &forked_300), Answer::Inconsistent, "{round}");
        assert_eq!(send(&witness, 300, fork.proof(300, 400), &forked_400), Answer::Inconsistent, "{round}");
        assert_eq!(send(&witness, 0, vec![], &forked_400), Answer::Size(300), "{round}");
        // The true log with a proof that is not one.
        for bad in [&cut, &swapped, &longer, &vec![]] {
            assert_eq!(send(&witness, 300, bad.clone(), &at_400), Answer::Inconsistent, "{round}");
        }
        assert_eq!(shown(&witness), Checkpoint::parse(at_300.text().as_str()).unwrap(), "{round}");
        witness.kill_and_start().unwrap();
    }

    // Nobody else can speak for the log.
    let stranger = SigningKey::from_seed(origin().key_name().clone(), &[43; 32]).unwrap();
    let head = Checkpoint::parse(at_400.text().as_str()).unwrap();
    assert_eq!(send(&witness, 300, good.clone(), &head.sign(&stranger).unwrap()), Answer::NotTrusted);
    let other = Checkpoint { origin: "example.com/other".parse().unwrap(), ..head.clone() };
    assert_eq!(send(&witness, 300, good.clone(), &other.sign(&key()).unwrap()), Answer::UnknownLog);

    assert!(matches!(send(&witness, 300, good, &at_400), Answer::Cosigned { .. }));
    assert_eq!(shown(&witness), head);
    // The two heads that our key has signed and that contradict each other are kept, and convict the log.
    let evidence = witness.evidence().unwrap();
    for forked in [&forked_300, &forked_400] {
        let root = Checkpoint::parse(forked.text().as_str()).unwrap().root.to_base64();
        assert!(evidence.contains(&root), "{evidence}");
    }
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn a_public_witness_cosigns_what_sixty_others_have_cosigned() {
    let (witness, log) = (started(), Log::new(u64::MAX));
    let mut note = log.grow(2);
    for at in 0..60_u8 {
        let name = format!("witness.example/{at}").parse().unwrap();
        let other = CosigningKey::from_seed(name, &[at; 32]).unwrap();
        note.add(other.cosign(note.text(), 1).unwrap()).unwrap();
    }
    assert!(matches!(send(&witness, 0, vec![], &note), Answer::Cosigned { .. }));
}
