//! The auditor's guide works as it is written: its commands are taken from the page and run.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use bailiwick_ledger::export::{self, Directory, Exporter};
use bailiwick_ledger::{Checkpoint, CosigningKey, Note, Origin, Receipt, SigningKey, TrustPolicy, leaf_hash};
use bailiwick_testkit::Scratch;
use bailiwick_testkit::clients::tools;

use crate::foreign::sources;

const GUIDE: &str = include_str!("../../../../docs/guides/audit-the-ledger.md");

/// The lines of the page's shell blocks, except those that install something and those of our own program.
fn commands() -> Vec<&'static str> {
    let blocks = GUIDE.split("```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    let foreign = |block: &&str| !block.contains("install") && !block.starts_with("bailiwick ");
    blocks.filter(foreign).flat_map(str::lines).collect()
}

/// Runs a line of the page where the page says that one is.
fn run(line: &str, place: &Path) -> Output {
    Command::new("sh").args(["-e", "-c", line]).current_dir(place).env("GOCACHE", tools().join("go-cache")).output().unwrap()
}

fn origin() -> Origin {
    "example.com/bailiwick/2027".parse().unwrap()
}

fn key() -> SigningKey {
    SigningKey::from_seed(origin().key_name().clone(), &[42; 32]).unwrap()
}

fn entry(at: u64) -> Vec<u8> {
    format!("{{\"entry\":{at}}}").into_bytes()
}

/// A place with everything that the page asks for: 3000 entries, of which the old checkpoint has seen 1000.
fn prepared() -> Scratch {
    let witness = CosigningKey::from_seed("witness.example/one".parse().unwrap(), &[7; 32]).unwrap();
    let place = Scratch::new("bailiwick-guide").unwrap();
    let export = place.path().join("export");
    export::write(&export, &origin(), &key(), (0..1000).map(entry)).unwrap();
    fs::copy(export.join("checkpoint"), place.path().join("checkpoint.old")).unwrap();
    let mut exporter = Exporter::resume(&export, &origin(), key().verifier()).unwrap();
    (1000..3000).for_each(|at| exporter.push(&entry(at)).unwrap());
    let mut note = Checkpoint { origin: origin(), size: 3000, root: exporter.root() }.sign(&key()).unwrap();
    note.add(witness.cosign(note.text(), 1_800_000_000).unwrap()).unwrap();
    exporter.finish(&note.to_string()).unwrap();
    place.write("ledger.vkey", &format!("{}\n", key().verifier())).unwrap();
    place.write("witness.vkey", &format!("{}\n", witness.verifier())).unwrap();
    for file in ["verify.go", "audit_aics.py", "audit_scales.py"] {
        fs::copy(sources().join(file), place.path().join(file)).unwrap();
    }
    std::os::unix::fs::symlink(fs::canonicalize(tools().join("verifiers")).unwrap(), place.path().join("venv")).unwrap();
    place
}

/// Runs the whole page. The lines with one of `words` must refuse, the others must not.
fn only_refused_by(place: &Path, words: &[&str]) {
    for line in commands() {
        let done = run(line, place);
        let refuses = words.iter().any(|word| line.contains(word));
        let said = [done.stdout, done.stderr].concat();
        assert_eq!(done.status.success(), !refuses, "{line}\n{}", String::from_utf8_lossy(&said));
    }
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn the_auditors_guide_runs_as_it_is_written_and_its_tools_refuse_an_entry_that_was_changed() {
    let place = prepared();
    assert!(commands().len() >= 10, "{:?}", commands());
    only_refused_by(place.path(), &[]);
    assert_eq!(fs::read(place.path().join("entry-7.json")).unwrap(), b"{\"entry\":7}");
    // The proof that a stranger makes from our files is a receipt to us.
    let line = commands().into_iter().find(|line| line.contains("gen-proof")).unwrap();
    let receipt: Receipt = String::from_utf8(run(line, place.path()).stdout).unwrap().parse().unwrap();
    let keys = ["ledger.vkey", "witness.vkey"].map(|name| fs::read_to_string(place.path().join(name)).unwrap());
    let policy: TrustPolicy = format!("log {}witness one {}quorum one\n", keys[0], keys[1]).parse().unwrap();
    assert_eq!(receipt.verify_by(&leaf_hash(b"{\"entry\":7}"), &policy).unwrap().checkpoint.size, 3000);
    assert!(receipt.verify_by(&leaf_hash(b"{\"entry\":8}"), &policy).is_err());

    let bundle = place.path().join("export/tile/entries/000");
    let changed = fs::read_to_string(&bundle).unwrap().replacen("{\"entry\":7}", "{\"entry\":8}", 1);
    fs::write(&bundle, changed).unwrap();
    only_refused_by(place.path(), &["./verify ", "audit_", "verify-inclusion", "get-leaf"]);
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn the_auditors_guide_is_right_about_who_looks_at_the_checkpoints_signature() {
    let place = prepared();
    let export = place.path().join("export");
    let note = Note::parse(&Directory::new(&export).checkpoint().unwrap()).unwrap();
    let head = Checkpoint::parse(note.text().as_str()).unwrap();
    let other = SigningKey::from_seed(origin().key_name().clone(), &[43; 32]).unwrap();
    fs::write(export.join("checkpoint"), head.sign(&other).unwrap().to_string()).unwrap();
    only_refused_by(place.path(), &["./verify ", "audit_", "aics-tlog "]);
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn whoever_kept_an_old_checkpoint_refuses_a_rollback_and_a_rewritten_history_that_our_own_key_signed() {
    let place = prepared();
    let export = place.path().join("export");
    for (size, changed) in [(999, u64::MAX), (1000, 10), (3000, 10), (3000, 999)] {
        fs::remove_dir_all(&export).unwrap();
        let entries = (0..size).map(|at| entry(if at == changed { 0 } else { at }));
        export::write(&export, &origin(), &key(), entries).unwrap();
        // No witness has cosigned these.
        only_refused_by(place.path(), &["checkpoint.old", "--quorum"]);
    }
}
