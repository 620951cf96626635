//! Notes, keys and cosignatures against published examples and against forgeries.

use proptest::prelude::*;

use super::*;

/// The example of Go's `golang.org/x/mod/sumdb/note`.
const TEXT: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
const LINE: &str = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
const VKEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const SEED: &str = "gQoUAtUUbI2E8kQzMPVAgOv5juF9nHT2JS/F1ccoMXM=";

fn name(text: &str) -> KeyName {
    text.parse().unwrap()
}

fn key(of: &str) -> SigningKey {
    SigningKey::from_seed(name(of), &[of.len() as u8; 32]).unwrap()
}

fn text(of: &str) -> NoteText {
    of.to_owned().try_into().unwrap()
}

#[test]
fn the_published_example_is_made_and_verified() {
    let seed: [u8; 32] = STANDARD.decode(SEED).unwrap().try_into().unwrap();
    let signer = SigningKey::from_seed(name("PeterNeumann"), &seed).unwrap();
    assert_eq!(signer.verifier().to_string(), VKEY);
    let note = Note::new(text(TEXT), signer.sign(&text(TEXT)));
    assert_eq!(note.to_string(), format!("{TEXT}\n{LINE}"));
    let verified = Note::parse(&note.to_string()).unwrap().verify(&[VKEY.parse().unwrap()]).unwrap();
    assert_eq!(verified, [Verified { key: VKEY.parse().unwrap(), time: None }]);
}

#[test]
fn the_debug_of_a_key_shows_nothing_secret() {
    let seed = [0xa7; 32];
    let (signer, witness) = (SigningKey::from_seed(name("log"), &seed).unwrap(), CosigningKey::from_seed(name("witness"), &seed).unwrap());
    let shown = format!("{signer:?} {witness:?}");
    assert!(!shown.contains("a7a7") && !shown.contains(&STANDARD.encode(seed)) && !shown.contains("167, 167"));
    assert!(shown.contains(&signer.verifier().to_string()));
}

#[test]
fn keys_whose_text_is_not_canonical_or_whose_id_is_another_are_refused() {
    let other_kind = VerifierKey::new(name("PeterNeumann"), KeyKind::Cosignature, [1; 32]).to_string();
    assert!(other_kind.parse::<VerifierKey>().is_ok());
    for bad in [
        "",
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        &VKEY.replace("c74f20a3", "c74f20a4"),
        &VKEY.replace("c74f20a3", "C74F20A3"),
        &VKEY.replace("PeterNeumann", "Peter Neumann"),
        &VKEY.replace("PeterNeumann", ""),
        &VKEY.replace("+AR", "+AB"),
        &VKEY.replace("+AR", "+AR "),
        &format!("{VKEY}="),
    ] {
        assert!(matches!(bad.parse::<VerifierKey>(), Err(NoteError::Key(_))), "{bad}");
    }
}

#[test]
fn texts_that_are_no_notes_are_refused() {
    for bad in [
        "",
        "\n",
        TEXT,
        &format!("{TEXT}{LINE}"),
        &format!("{TEXT}\n"),
        &format!("{TEXT}\n{}", LINE.trim_end()),
        &format!("{TEXT}\n{LINE}\n"),
        &format!("{TEXT}\n{LINE}more\n"),
        &format!("{TEXT}\n{}", LINE.replace('\u{2014}', "-")),
        &format!("{TEXT}\n{}", LINE.replace("PeterNeumann", "Peter Neumann")),
        &format!("{TEXT}\n{}", LINE.replace("x08g", "x08")),
        &format!("{TEXT}\n\u{2014} PeterNeumann x08gow==\n"),
        &format!("a\rb\n\n{LINE}"),
        &format!("a\tb\n\n{LINE}"),
    ] {
        assert!(matches!(Note::parse(bad), Err(NoteError::Form(_))), "{bad:?}");
    }
    assert!(Note::parse(&format!("\n\n{LINE}")).is_ok(), "a text may be an empty line");
}

#[test]
fn sixteen_signatures_are_accepted_and_a_flood_is_not() {
    let signed = |count: usize| {
        let body = text(TEXT);
        let lines: String = (0..count).map(|at| key(&format!("k{at}")).sign(&body).to_string()).collect();
        format!("{TEXT}\n{lines}{LINE}")
    };
    let trusted = [VKEY.parse().unwrap()];
    assert_eq!(Note::parse(&signed(15)).unwrap().verify(&trusted).unwrap().len(), 1);
    assert_eq!(Note::parse(&signed(MAX_SIGNATURES - 1)).unwrap().verify(&trusted).unwrap().len(), 1);
    assert!(Note::parse(&signed(MAX_SIGNATURES)).is_err());
    assert!(Note::parse(&format!("{}\n\n{LINE}", "a".repeat(MAX_NOTE))).is_err());
}

#[test]
fn unknown_keys_are_ignored_even_with_the_name_or_the_id_of_a_known_one() {
    let log = key("log");
    let namesake = SigningKey::from_seed(name("log"), &[99; 32]).unwrap();
    let mut note = Note::new(text(TEXT), namesake.sign(&text(TEXT)));
    assert_eq!(note.verify(&[log.verifier().clone()]), Err(NoteError::Unsigned));
    let mut other_name = log.sign(&text(TEXT));
    other_name.name = name("other");
    note.add(other_name).unwrap();
    assert_eq!(note.verify(&[log.verifier().clone()]), Err(NoteError::Unsigned));
    note.add(log.sign(&text(TEXT))).unwrap();
    assert_eq!(note.verify(&[log.verifier().clone()]).unwrap().len(), 1);
}

#[test]
fn one_wrong_signature_of_a_known_key_refuses_the_note_although_another_is_right() {
    let (log, witness) = (key("log"), key("witness"));
    let mut note = Note::new(text(TEXT), log.sign(&text(TEXT)));
    note.add(witness.sign(&text("another text\n"))).unwrap();
    assert!(note.verify(&[log.verifier().clone()]).is_ok());
    let both = [log.verifier().clone(), witness.verifier().clone()];
    assert_eq!(note.verify(&both), Err(NoteError::Signature("witness".to_owned())));
    // A second, wrong line of the same key is not hidden by the first, right one.
    let twice = format!("{TEXT}\n{}{}", log.sign(&text(TEXT)), log.sign(&text("another text\n")));
    assert_eq!(Note::parse(&twice).unwrap().verify(&both), Err(NoteError::Signature("log".to_owned())));
}

#[test]
fn trusted_keys_that_cannot_be_told_apart_are_an_error_and_the_same_one_twice_is_not() {
    let log = key("log");
    let mut other = key("other").verifier().clone();
    (other.name, other.id) = (name("log"), log.verifier().id());
    let note = Note::new(text(TEXT), log.sign(&text(TEXT)));
    assert_eq!(note.verify(&[log.verifier().clone(), other]), Err(NoteError::Ambiguous("log".to_owned())));
    let twice = [log.verifier().clone(), log.verifier().clone()];
    assert_eq!(note.verify(&twice).unwrap().len(), 1);
}

#[test]
fn a_cosignature_signs_the_message_of_the_specification() {
    let witness = CosigningKey::from_seed(name("witness.example.com/w1"), &[3; 32]).unwrap();
    let body = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
    let line = witness.cosign(&text(body), 1_679_315_147).unwrap();
    let (time, signature) = line.blob.split_first_chunk::<8>().unwrap();
    assert_eq!(u64::from_be_bytes(*time), 1_679_315_147);
    // The message as the specification prints it.
    let message = "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
    let public = UnparsedPublicKey::new(&ED25519, witness.verifier().public_key());
    assert!(public.verify(message.as_bytes(), signature).is_ok());
    let verified = Note::new(text(body), line).verify(&[witness.verifier().clone()]).unwrap();
    assert_eq!(verified[0].time, Some(1_679_315_147));
}

#[test]
fn a_cosignature_holds_for_its_time_only_and_has_another_key_id_than_a_signature() {
    let witness = CosigningKey::from_seed(name("w"), &[3; 32]).unwrap();
    let log = SigningKey::from_seed(name("w"), &[3; 32]).unwrap();
    assert_ne!(witness.verifier().id(), log.verifier().id());
    let mut line = witness.cosign(&text(TEXT), 1000).unwrap();
    line.blob[7] ^= 1;
    let trusted = [witness.verifier().clone()];
    assert_eq!(Note::new(text(TEXT), line).verify(&trusted), Err(NoteError::Signature("w".to_owned())));
    assert!(witness.cosign(&text(TEXT), 1 << 63).is_err());
    let mut short = witness.cosign(&text(TEXT), 1000).unwrap();
    short.blob.truncate(7);
    assert_eq!(Note::new(text(TEXT), short).verify(&trusted), Err(NoteError::Signature("w".to_owned())));
}

proptest! {
    #[test]
    fn what_is_parsed_is_written_the_same(note in "([a-z]{0,3}\n){1,4}\n(\u{2014} [a-z]{1,3} [A-Za-z0-9+/]{8}\n){1,3}") {
        if let Ok(parsed) = Note::parse(&note) {
            prop_assert_eq!(parsed.to_string(), note);
        }
    }
}
