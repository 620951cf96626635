//! Policies: the example of the specification, each rule with a line that breaks it, and quorums against a plain model.

use proptest::prelude::*;

use super::*;
use crate::checkpoint::Origin;
use crate::hash::leaf_hash;
use crate::note::{CosigningKey, SigningKey};

fn log_key(seed: u8) -> SigningKey {
    SigningKey::from_seed("example.com/log".parse().unwrap(), &[seed; 32]).unwrap()
}

fn witness_key(seed: u8) -> CosigningKey {
    CosigningKey::from_seed(format!("witness.example/{seed}").parse().unwrap(), &[seed; 32]).unwrap()
}

/// The example of the specification, with keys.
fn example() -> String {
    let key = |seed| witness_key(seed).verifier().to_string();
    format!(
        "# An example\nlog {}\n\nwitness X1 {}\nwitness X2 {}\n\twitness  X3\t{} https://w.example/ \ngroup X-witnesses 2 X1 X2 X3\n\n\
         witness Y1 {}\nwitness Y2 {}\nwitness Y3 {}\ngroup Y-witnesses any Y1 Y2 Y3\n\n  # both\ngroup X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n",
        log_key(1).verifier(),
        key(11),
        key(12),
        key(13),
        key(21),
        key(22),
        key(23),
    )
}

fn signed(size: u64, witnesses: &[u8]) -> Note {
    let origin: Origin = "example.com/log".parse().unwrap();
    let mut note = Checkpoint { origin, size, root: leaf_hash(b"") }.sign(&log_key(1)).unwrap();
    for seed in witnesses {
        let line = witness_key(*seed).cosign(note.text(), 1000 + u64::from(*seed)).unwrap();
        note.add(line).unwrap();
    }
    note
}

fn fault(text: &str) -> (usize, PolicyFault) {
    let error = text.parse::<TrustPolicy>().unwrap_err();
    (error.line, error.fault)
}

#[test]
fn the_example_of_the_specification_asks_for_two_of_one_group_and_one_of_the_other() {
    let policy: TrustPolicy = example().parse().unwrap();
    assert_eq!((policy.logs().len(), policy.witnesses().len()), (1, 6));
    assert_eq!(policy.witnesses()[2].url(), Some("https://w.example/"));
    assert!(policy.needs_witnesses());
    for (witnesses, enough) in [
        (&[11, 12, 21][..], true),
        (&[12, 13, 22], true),
        (&[11, 12, 13, 21, 22, 23], true),
        (&[11, 12, 13], false),
        (&[11, 21, 22, 23], false),
        (&[21], false),
        (&[], false),
    ] {
        let opened = policy.open(&signed(5, witnesses).to_string());
        assert_eq!(opened.is_ok(), enough, "{witnesses:?}: {opened:?}");
        if let Ok(trusted) = opened {
            assert_eq!((trusted.checkpoint.size, trusted.log, trusted.cosigned.len()), (5, log_key(1).verifier().clone(), witnesses.len()));
            assert_eq!(trusted.cosigned[0].1.time, Some(1000 + u64::from(witnesses[0])));
        }
    }
}

#[test]
fn who_is_missing_is_said() {
    let policy: TrustPolicy = example().parse().unwrap();
    let refused = policy.open(&signed(5, &[11, 21]).to_string()).unwrap_err();
    assert_eq!(refused.to_string(), "the quorum `X-and-Y` has not cosigned; only these did: X1, Y1");
}

#[test]
fn a_policy_without_quorum_of_witnesses_still_needs_the_logs_own_signature() {
    let policy: TrustPolicy = format!("log {}\nwitness w {}\nquorum none\n", log_key(1).verifier(), witness_key(11).verifier()).parse().unwrap();
    assert!(!policy.needs_witnesses());
    assert!(policy.open(&signed(5, &[]).to_string()).is_ok());
    let note = signed(5, &[]);
    let alone = Note::new(note.text().clone(), witness_key(11).cosign(note.text(), 7).unwrap());
    assert_eq!(policy.open(&alone.to_string()), Err(TrustError::Checkpoint(CheckpointError::Unsigned)));
}

#[test]
fn any_known_log_of_the_origin_may_have_signed_and_no_other() {
    let (one, two) = (log_key(1), log_key(2));
    let policy: TrustPolicy = format!("log {}\nlog {}\nquorum none\n", one.verifier(), two.verifier()).parse().unwrap();
    let head = Checkpoint { origin: "example.com/log".parse().unwrap(), size: 1, root: leaf_hash(b"") };
    for key in [&one, &two] {
        assert_eq!(policy.open(&head.sign(key).unwrap().to_string()).unwrap().log, *key.verifier());
    }
    assert_eq!(policy.open(&head.sign(&log_key(3)).unwrap().to_string()), Err(TrustError::Checkpoint(NoteError::Unsigned.into())));
    // Another log's key, on another origin's head.
    let other = Checkpoint { origin: "example.com/other".parse().unwrap(), ..head };
    assert_eq!(policy.open(&other.sign(&one).unwrap().to_string()), Err(TrustError::UnknownLog("example.com/other".to_owned())));
}

#[test]
fn a_wrong_signature_by_a_known_witness_refuses_the_whole_even_if_the_quorum_does_not_need_it() {
    let policy: TrustPolicy = format!("log {}\nwitness w {}\nquorum none\n", log_key(1).verifier(), witness_key(11).verifier()).parse().unwrap();
    let mut note = signed(5, &[]);
    note.add(witness_key(11).cosign(signed(6, &[]).text(), 7).unwrap()).unwrap();
    assert!(matches!(policy.open(&note.to_string()), Err(TrustError::Checkpoint(CheckpointError::Note(NoteError::Signature(_))))));
    let mut note = signed(5, &[]);
    note.add(witness_key(12).cosign(signed(6, &[]).text(), 7).unwrap()).unwrap();
    assert!(policy.open(&note.to_string()).is_ok());
}

#[test]
fn each_rule_of_the_specification_is_kept_and_broken_ones_are_named_with_their_line() {
    let log = log_key(1).verifier().to_string();
    let (a, b) = (witness_key(11).verifier().to_string(), witness_key(12).verifier().to_string());
    let same_key_other_name = VerifierKey::new("other".parse().unwrap(), KeyKind::Cosignature, *witness_key(11).verifier().public_key());
    let base = format!("witness a {a}\nwitness b {b}\n");
    let text = |name: &str| name.to_owned();
    for (policy, line, fault_expected) in [
        (String::new(), 1, PolicyFault::NoQuorum),
        (format!("log {log}\n"), 2, PolicyFault::NoQuorum),
        ("quorum none".to_owned(), 1, PolicyFault::Cut),
        ("quorum none\n ".to_owned(), 2, PolicyFault::Cut),
        ("quorum none\r\n".to_owned(), 1, PolicyFault::Control),
        ("# \u{7f}\nquorum none\n".to_owned(), 1, PolicyFault::Control),
        ("quorum none\nquorum none\n".to_owned(), 2, PolicyFault::SecondQuorum),
        ("quorum\n".to_owned(), 1, PolicyFault::Form("quorum <name>|none")),
        ("quorum none none\n".to_owned(), 1, PolicyFault::Form("quorum <name>|none")),
        ("quorum a\n".to_owned(), 1, PolicyFault::Absent(text("a"))),
        (format!("quorum a\n{base}"), 1, PolicyFault::Absent(text("a"))),
        ("Quorum none\n".to_owned(), 1, PolicyFault::Word(text("Quorum"))),
        ("log\n".to_owned(), 1, PolicyFault::Form("log <vkey> [<url>]")),
        (format!("log {log} u v\n"), 1, PolicyFault::Form("log <vkey> [<url>]")),
        (format!("log {log}\nlog {log}\n"), 2, PolicyFault::Duplicate),
        (format!("log {a}\n"), 1, PolicyFault::Kind { found: 4, expected: 1 }),
        (format!("witness a {log}\n"), 1, PolicyFault::Kind { found: 1, expected: 4 }),
        (format!("witness {a}\n"), 1, PolicyFault::Form("witness <name> <vkey> [<url>]")),
        (format!("witness a {a}x\n"), 1, PolicyFault::Key(NoteError::Key("bad length"))),
        (format!("witness a {a}\nwitness b {a}\n"), 2, PolicyFault::Duplicate),
        (format!("witness a {a}\nwitness b {same_key_other_name}\n"), 2, PolicyFault::Duplicate),
        (format!("witness a {a}\nwitness a {b}\n"), 2, PolicyFault::Taken(text("a"))),
        (format!("witness none {a}\n"), 1, PolicyFault::Taken(text("none"))),
        (format!("{base}group a any b\n"), 3, PolicyFault::Taken(text("a"))),
        (format!("{base}group none any b\n"), 3, PolicyFault::Taken(text("none"))),
        (format!("{base}group g any\n"), 3, PolicyFault::Form("group <name> all|any|<k> <name>...")),
        (format!("{base}group g any none\n"), 3, PolicyFault::Absent(text("none"))),
        (format!("{base}group g any g\n"), 3, PolicyFault::Absent(text("g"))),
        (format!("{base}group g any a a\n"), 3, PolicyFault::Member(text("a"))),
        (format!("{base}group g any a\ngroup h all a b\n"), 4, PolicyFault::Member(text("a"))),
        (format!("{base}group g 0 a b\n"), 3, PolicyFault::Threshold(2)),
        (format!("{base}group g 3 a b\n"), 3, PolicyFault::Threshold(2)),
        (format!("{base}group g -1 a b\n"), 3, PolicyFault::Threshold(2)),
        (format!("{base}group g some a b\n"), 3, PolicyFault::Threshold(2)),
    ] {
        assert_eq!(fault(&policy), (line, fault_expected), "{policy:?}");
    }
}

#[test]
fn names_are_octets_and_are_not_folded() {
    let (a, b) = (witness_key(11).verifier().to_string(), witness_key(12).verifier().to_string());
    // The Kelvin sign is not the letter K, and octets that are no UTF-8 are a name like any other.
    let text = format!("witness K {a}\nwitness \u{212a} {b}\n# \u{fc}\nquorum \u{212a}\n");
    let policy: TrustPolicy = text.parse().unwrap();
    assert!(policy.is_quorum(["\u{212a}".as_bytes()]) && !policy.is_quorum([b"K".as_slice()]));
    let odd = [b"witness \xff\xfe ".as_slice(), a.as_bytes(), b" http://\xff/\nquorum \xff\xfe\n"].concat();
    let policy = TrustPolicy::parse(&odd).unwrap();
    assert!(policy.is_quorum([b"\xff\xfe".as_slice()]) && !policy.is_quorum([b"\xff".as_slice()]));
    assert_eq!(policy.witnesses()[0].url(), None);
}

#[test]
fn as_many_as_the_specification_asks_for_are_taken_and_there_is_an_end() {
    let policy = |count: u8| {
        let witnesses: String = (1..=count).map(|n| format!("witness w{n} {}\n", witness_key(n).verifier())).collect();
        let members: String = (1..=count).map(|n| format!(" w{n}")).collect();
        format!("{witnesses}group all 2{members}\nquorum all\n").parse::<TrustPolicy>()
    };
    assert_eq!(policy(128).unwrap().witnesses().len(), 128);
    assert_eq!(policy(129).unwrap_err(), PolicyError { line: 129, fault: PolicyFault::TooLong });
    assert_eq!(fault(&"#".repeat(MAX_POLICY + 1)).1, PolicyFault::TooLong);
}

#[test]
fn a_policy_is_written_as_it_is_read() {
    let policy: TrustPolicy = example().parse().unwrap();
    assert_eq!(policy.to_string().parse::<TrustPolicy>().unwrap(), policy);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_group_is_a_count_over_its_members(needed in 1_usize..=6, members in 1_u8..=6, present in any::<u8>()) {
        let needed = needed.min(usize::from(members));
        let witnesses: String = (0..members).map(|n| format!("witness w{n} {}\n", witness_key(n + 1).verifier())).collect();
        let names: Vec<String> = (0..members).map(|n| format!("w{n}")).collect();
        let policy: TrustPolicy = format!("{witnesses}group g {needed} {}\nquorum g\n", names.join(" ")).parse().unwrap();
        let cosigned: Vec<&[u8]> = (0..members).filter(|n| present >> n & 1 == 1).map(|n| names[usize::from(n)].as_bytes()).collect();
        prop_assert_eq!(policy.is_quorum(cosigned.iter().copied()), cosigned.len() >= needed);
        // More witnesses never make less: a stranger beside them neither.
        prop_assert_eq!(policy.is_quorum(cosigned.iter().copied().chain([b"stranger".as_slice()])), cosigned.len() >= needed);
    }

    #[test]
    fn no_octets_break_the_reader(text in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = TrustPolicy::parse(&text).is_ok();
    }

    #[test]
    fn no_lines_of_known_words_break_the_reader(words in prop::collection::vec(prop::sample::select(vec!["log", "witness", "group", "quorum", "none", "all", "any", "1", "a", "b", "\n", "\n", "#", "\t"]), 0..60)) {
        let _ = words.join(" ").parse::<TrustPolicy>().is_ok();
    }
}
