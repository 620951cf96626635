//! An authenticator in software, and every rule of WebAuthn sections 7.1 and 7.2 broken once, alone.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use bailiwick_core::{Digest, HoldId, Timestamp};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::person::{Verdict, Word};

const ORIGIN: &str = "https://broker.example.org";

fn site() -> Site {
    Site { id: "broker.example.org".to_owned(), origins: vec![ORIGIN.to_owned()] }
}

enum Pair {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
    Rs256(Box<RsaKeyPair>),
}

/// An authenticator, with everything that it says open to change.
struct Authenticator {
    pair: Pair,
    id: Vec<u8>,
    site: String,
    flags: u8,
    counter: u32,
    format: &'static str,
    trailing: Vec<u8>,
}

fn head(major: u8, length: usize) -> Vec<u8> {
    match length {
        0..=23 => vec![major << 5 | length as u8],
        24..=255 => vec![major << 5 | 24, length as u8],
        _ => vec![major << 5 | 25, (length >> 8) as u8, length as u8],
    }
}

fn bytes(b: &[u8]) -> Vec<u8> {
    [head(2, b.len()), b.to_vec()].concat()
}

fn text(t: &str) -> Vec<u8> {
    [head(3, t.len()), t.as_bytes().to_vec()].concat()
}

impl Authenticator {
    fn new(pair: Pair) -> Self {
        Self { pair, id: vec![7; 32], site: site().id, flags: 0x05, counter: 1, format: "none", trailing: Vec::new() }
    }

    fn es256() -> Self {
        Self::new(Pair::Es256(EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_ASN1_SIGNING).unwrap()))
    }

    fn cose(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Es256(pair) => {
                let point = pair.public_key().as_ref();
                [vec![0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21], bytes(&point[1..33]), vec![0x22], bytes(&point[33..])].concat()
            }
            Pair::EdDsa(pair) => [vec![0xa4, 0x01, 0x01, 0x03, 0x27, 0x20, 0x06, 0x21], bytes(pair.public_key().as_ref())].concat(),
            Pair::Rs256(pair) => {
                let modulus = pair.public_key().modulus().big_endian_without_leading_zero().to_vec();
                [vec![0xa4, 0x01, 0x03, 0x03, 0x39, 0x01, 0x00, 0x20], bytes(&modulus), vec![0x21], bytes(&[1, 0, 1])].concat()
            }
        }
    }

    fn data(&self, with_key: bool) -> Vec<u8> {
        let mut data = Digest::of(self.site.as_bytes()).as_bytes().to_vec();
        data.push(self.flags | if with_key { 0x40 } else { 0 });
        data.extend(self.counter.to_be_bytes());
        if with_key {
            data.extend([0; 16]);
            data.extend((self.id.len() as u16).to_be_bytes());
            data.extend(&self.id);
            data.extend(self.cose());
        }
        data.extend(&self.trailing);
        data
    }

    fn create(&self) -> Vec<u8> {
        [vec![0xa3], text("fmt"), text(self.format), text("attStmt"), vec![0xa0], text("authData"), bytes(&self.data(true))].concat()
    }

    fn sign(&self, client_data: &[u8]) -> Assertion {
        let data = self.data(false);
        let message = [data.as_slice(), Digest::of(client_data).as_bytes()].concat();
        let signature = match &self.pair {
            Pair::Es256(pair) => pair.sign(&SystemRandom::new(), &message).unwrap().as_ref().to_vec(),
            Pair::EdDsa(pair) => pair.sign(&message).as_ref().to_vec(),
            Pair::Rs256(pair) => {
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), &message, &mut out).unwrap();
                out
            }
        };
        Assertion { id: self.id.clone(), authenticator_data: data, client_data: client_data.to_vec(), signature, user_handle: Some(b"ana".to_vec()) }
    }
}

fn client(ceremony: &str, challenge: &Challenge) -> Vec<u8> {
    json!({ "type": ceremony, "challenge": challenge.encoded(), "origin": ORIGIN, "crossOrigin": false }).to_string().into_bytes()
}

fn challenge() -> Challenge {
    Challenge::of("0123456789abcdef")
}

fn registered(authenticator: &Authenticator) -> Result<Registered, PasskeyError> {
    register(&authenticator.create(), &client("webauthn.create", &challenge()), &challenge(), &site())
}

fn used(authenticator: &Authenticator, passkey: &Passkey) -> Result<Used, PasskeyError> {
    verify(&authenticator.sign(&client("webauthn.get", &challenge())), passkey, b"ana", &challenge(), &site())
}

#[test]
fn a_passkey_of_each_algorithm_is_registered_and_used() {
    let ed = Pair::EdDsa(Ed25519KeyPair::generate().unwrap());
    let rsa = Pair::Rs256(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()));
    for mut authenticator in [Authenticator::es256(), Authenticator::new(ed), Authenticator::new(rsa)] {
        let passkey = registered(&authenticator).unwrap().passkey;
        assert_eq!((passkey.id.len(), passkey.counter, passkey.can_be_copied), (32, 1, false));
        authenticator.counter = 2;
        assert_eq!(used(&authenticator, &passkey).unwrap().counter, 2);
        let mut broken = authenticator.sign(&client("webauthn.get", &challenge()));
        *broken.signature.last_mut().unwrap() ^= 1;
        assert_eq!(verify(&broken, &passkey, b"ana", &challenge(), &site()).unwrap_err(), PasskeyError::Signature);
    }
}

#[test]
fn client_data_of_another_ceremony_challenge_origin_or_frame_is_refused() {
    let (authenticator, mut passkey) = (Authenticator::es256(), registered(&Authenticator::es256()).unwrap().passkey);
    passkey.key = registered(&authenticator).unwrap().passkey.key;
    passkey.counter = 0;
    let good = json!({ "type": "webauthn.get", "challenge": challenge().encoded(), "origin": ORIGIN, "crossOrigin": false, "other": 1 });
    let with = |name: &str, value: serde_json::Value| {
        let mut data = good.clone();
        data[name] = value;
        verify(&authenticator.sign(data.to_string().as_bytes()), &passkey, b"ana", &challenge(), &site()).map(drop)
    };
    assert_eq!(with("other", json!(2)), Ok(()));
    assert_eq!(with("type", json!("webauthn.create")), Err(PasskeyError::Type));
    assert_eq!(with("type", json!("payment.get")), Err(PasskeyError::Type));
    assert_eq!(with("challenge", json!(Challenge::of("another").encoded())), Err(PasskeyError::Challenge));
    assert_eq!(with("challenge", json!(format!("{}=", challenge().encoded()))), Err(PasskeyError::Challenge));
    for origin in
        ["http://broker.example.org", "https://broker.example.org:444", "https://broker.example.org.evil.example", "https://evil.example", "null"]
    {
        assert_eq!(with("origin", json!(origin)), Err(PasskeyError::Origin), "{origin}");
    }
    assert_eq!(with("crossOrigin", json!(true)), Err(PasskeyError::Framed));
    assert_eq!(with("topOrigin", json!(ORIGIN)), Err(PasskeyError::Framed));
    let twice = String::from_utf8(client("webauthn.get", &challenge())).unwrap().replace("{", "{\"origin\":\"https://evil.example\",");
    let assertion = authenticator.sign(twice.as_bytes());
    assert!(matches!(verify(&assertion, &passkey, b"ana", &challenge(), &site()), Err(PasskeyError::Form(_))));
    let long = authenticator.sign(&vec![b' '; 4097]);
    assert_eq!(verify(&long, &passkey, b"ana", &challenge(), &site()), Err(PasskeyError::TooLong));
}

#[test]
fn what_the_authenticator_says_is_held_against_the_site_the_user_and_what_is_known() {
    let change = |edit: &dyn Fn(&mut Authenticator)| {
        let mut authenticator = Authenticator::es256();
        let passkey = registered(&authenticator).unwrap().passkey;
        authenticator.counter = 2;
        edit(&mut authenticator);
        used(&authenticator, &passkey).map(|u| u.counter)
    };
    assert_eq!(change(&|_| ()), Ok(2));
    assert_eq!(change(&|a| a.site = "evil.example".to_owned()), Err(PasskeyError::RelyingParty));
    assert_eq!(change(&|a| a.flags = 0x04), Err(PasskeyError::NotPresent));
    assert_eq!(change(&|a| a.flags = 0x01), Err(PasskeyError::NotVerified));
    assert_eq!(change(&|a| a.flags = 0x05 | 0x10), Err(PasskeyError::Flags), "copied, and cannot be");
    assert_eq!(change(&|a| a.flags = 0x05 | 0x08), Err(PasskeyError::Flags), "could not be copied when it was registered");
    assert_eq!(change(&|a| a.counter = 1), Err(PasskeyError::Counter), "seen before");
    assert_eq!(change(&|a| a.counter = 0), Err(PasskeyError::Counter));
    assert_eq!(change(&|a| a.id = vec![8; 32]), Err(PasskeyError::Credential));
    assert!(matches!(change(&|a| a.trailing = vec![0]), Err(PasskeyError::Form(_))));
    assert!(
        matches!(
            change(&|a| {
                a.flags |= 0x80;
                a.trailing = vec![0x00]
            }),
            Err(PasskeyError::Form(_))
        ),
        "extensions that are no map"
    );
    assert_eq!(
        change(&|a| {
            a.flags |= 0x80;
            a.trailing = vec![0xa0]
        }),
        Ok(2),
        "empty extensions"
    );
    let none = {
        let mut authenticator = Authenticator::es256();
        authenticator.counter = 0;
        let passkey = registered(&authenticator).unwrap().passkey;
        used(&authenticator, &passkey).unwrap().counter
    };
    assert_eq!(none, 0, "one without a counter");
    let (authenticator, other) = (Authenticator::es256(), Authenticator::es256());
    let passkey = registered(&authenticator).unwrap().passkey;
    assert_eq!(used(&other, &passkey).unwrap_err(), PasskeyError::Signature);
    let assertion = authenticator.sign(&client("webauthn.get", &challenge()));
    assert_eq!(verify(&assertion, &passkey, b"ben", &challenge(), &site()).unwrap_err(), PasskeyError::User);
}

#[test]
fn a_registration_without_verification_key_or_form_is_refused() {
    let change = |edit: &dyn Fn(&mut Authenticator)| {
        let mut authenticator = Authenticator::es256();
        edit(&mut authenticator);
        registered(&authenticator).map(drop)
    };
    assert_eq!(change(&|a| a.site = "evil.example".to_owned()), Err(PasskeyError::RelyingParty));
    assert_eq!(change(&|a| a.flags = 0x41), Err(PasskeyError::NotVerified));
    assert_eq!(change(&|a| a.flags = 0x44), Err(PasskeyError::NotPresent));
    assert!(matches!(change(&|a| a.id = vec![1; 15]), Err(PasskeyError::Form(_))));
    assert!(matches!(change(&|a| a.id = vec![1; 1024]), Err(PasskeyError::Form(_))));
    assert_eq!(change(&|a| a.format = "packed"), Ok(()), "an attestation that is not believed");
    let authenticator = Authenticator::es256();
    let made = authenticator.create();
    let with = |attestation: &[u8], ceremony: &str| register(attestation, &client(ceremony, &challenge()), &challenge(), &site()).map(drop);
    assert_eq!(with(&made, "webauthn.get"), Err(PasskeyError::Type));
    assert!(matches!(with(&[made.as_slice(), &[0]].concat(), "webauthn.create"), Err(PasskeyError::Form(_))));
    assert!(matches!(with(&made[..made.len() - 1], "webauthn.create"), Err(PasskeyError::Form(_))));
    // Another algorithm than the key's, a curve that is none of ours, a point that is not on the curve.
    let replaced = |from: &[u8], to: &[u8]| {
        let at = made.windows(from.len()).position(|w| w == from).unwrap();
        [&made[..at], to, &made[at + from.len()..]].concat()
    };
    assert_eq!(with(&replaced(&[0x01, 0x02, 0x03, 0x26], &[0x01, 0x02, 0x03, 0x27]), "webauthn.create"), Err(PasskeyError::Key));
    assert_eq!(with(&replaced(&[0x20, 0x01, 0x21], &[0x20, 0x02, 0x21]), "webauthn.create"), Err(PasskeyError::Key));
    let point = match &authenticator.pair {
        Pair::Es256(pair) => pair.public_key().as_ref()[1..33].to_vec(),
        _ => panic!("made with P-256"),
    };
    assert_eq!(with(&replaced(&point, &[1; 32]), "webauthn.create"), Err(PasskeyError::Key));
}

#[test]
fn cbor_has_one_form_and_an_end() {
    for bad in [
        &[0x18, 0x17][..],                                 // 23 in two bytes
        &[0x19, 0x00, 0xff],                               // 255 in three
        &[0x5f, 0x41, 0x00, 0xff],                         // bytes of no definite length
        &[0xbf, 0xff],                                     // a map of no definite length
        &[0xc0, 0x00],                                     // a tag
        &[0xf9, 0x00, 0x00],                               // a float
        &[0xa2, 0x01, 0x00, 0x01, 0x00],                   // a name twice
        &[0xa1, 0x40, 0x00],                               // a name that is none
        &[0x61, 0xff],                                     // no UTF-8
        &[0x98, 0x21],                                     // too wide
        &[0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x00], // too deep
        &[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[],
    ] {
        assert!(cbor::whole(bad).is_err(), "{bad:02x?}");
    }
    assert!(cbor::whole(&[0xa1, 0x01, 0x20]).is_ok());
}

fn verdict(word: Word) -> Verdict {
    let hold = HoldId::new(Timestamp::from_seconds(1_763_856_000), [3; 10]);
    Verdict { hold, digest: Digest::of(b"call"), seen: Digest::of(b"words"), word }
}

#[test]
fn a_signed_decision_verifies_from_the_record_alone_and_for_nothing_else() {
    let authenticator = Authenticator::es256();
    let passkey = registered(&authenticator).unwrap().passkey;
    let nonce = "bm9uY2U";
    let challenge = VerdictChallenge { verdict: verdict(Word::Approve), nonce }.challenge();
    let signed = Signed { assertion: authenticator.sign(&client("webauthn.get", &challenge)), nonce: nonce.to_owned() };
    let read = Signed::parse(&signed.to_string()).unwrap();
    assert_eq!(read.verify(verdict(Word::Approve), &passkey, &site()), Ok(()));
    assert_eq!(read.verify(verdict(Word::Refuse), &passkey, &site()), Err(PasskeyError::Challenge));
    let other = Verdict { seen: Digest::of(b"other words"), ..verdict(Word::Approve) };
    assert_eq!(read.verify(other, &passkey, &site()), Err(PasskeyError::Challenge));
    let replayed = Signed { nonce: "b3RoZXI".to_owned(), ..read.clone() };
    assert_eq!(replayed.verify(verdict(Word::Approve), &passkey, &site()), Err(PasskeyError::Challenge));
    let elsewhere = Site { id: "evil.example".to_owned(), origins: vec![ORIGIN.to_owned()] };
    assert_eq!(read.verify(verdict(Word::Approve), &passkey, &elsewhere), Err(PasskeyError::RelyingParty));
    let text = signed.to_string();
    for bad in [text.replace("v1.", "v2."), format!("{text}.x"), text.rsplit_once('.').unwrap().0.to_owned(), String::new(), format!("{text}\n")] {
        assert!(Signed::parse(&bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), text in "[A-Za-z0-9._-]{0,300}") {
        let _ = cbor::whole(&bytes).is_ok();
        let _ = register(&bytes, &client("webauthn.create", &challenge()), &challenge(), &site()).is_ok();
        let _ = Signed::parse(&text).is_ok();
        let authenticator_data = [Digest::of(site().id.as_bytes()).as_bytes().as_slice(), &bytes].concat();
        let _ = super::authenticator::Authenticator::parse(&authenticator_data).is_ok();
    }
}
