//! Tests of certificates: what an X.509-SVID must be is found, everything else is refused for its own reason.
use super::*;
use bailiwick_testkit::certificates::{Authority, CERT_SIGN, CRL_SIGN, DIGITAL_SIGNATURE, Wish, self_signed};
use proptest::prelude::*;

use crate::keys::SigningKey;

const ID: &str = "spiffe://example.org/agent/planner";

fn of(wish: &Wish<'_>) -> Certificate {
    Certificate::read(&Authority::new("ca").unwrap().leaf(wish).unwrap().certificate).unwrap()
}

fn refused(wish: &Wish<'_>) -> X509Fault {
    of(wish).spiffe_id().cloned().unwrap_err()
}

#[test]
fn an_svid_names_one_workload_and_the_thumbprint_is_that_of_its_der() {
    let leaf = Authority::new("ca").unwrap().leaf(&Wish { uris: &[ID], dns: &["planner.example"], ..Wish::default() }).unwrap();
    let read = Certificate::read(&leaf.certificate).unwrap();
    assert_eq!(read.spiffe_id().unwrap().as_str(), ID);
    assert_eq!(read.thumbprint(), Digest::of(&leaf.certificate));
    assert_eq!(read.confirmation(), Confirmation::Certificate(Digest::of(&leaf.certificate)));
    assert!(read.key().is_some());
    let shown = format!("{read:?}");
    assert!(shown.contains(ID), "{shown}");
}

#[test]
fn a_certificate_that_breaks_a_rule_of_svids_is_none() {
    let good = Wish { uris: &[ID], ..Wish::default() };
    assert!(of(&good).spiffe_id().is_ok());
    assert!(of(&Wish { purposes: None, ..good.clone() }).spiffe_id().is_ok());
    assert_eq!(refused(&Wish { authority: true, ..good.clone() }), X509Fault::Signing);
    assert_eq!(refused(&Wish { usage: None, ..good.clone() }), X509Fault::Usage);
    for bits in [CERT_SIGN, CRL_SIGN] {
        assert_eq!(refused(&Wish { usage: Some((DIGITAL_SIGNATURE | bits, true)), ..good.clone() }), X509Fault::Signing);
    }
    assert_eq!(refused(&Wish { usage: Some((0x20, true)), ..good.clone() }), X509Fault::Usage);
    assert_eq!(refused(&Wish { uris: &[], dns: &["planner.example"], ..good.clone() }), X509Fault::Name);
    assert_eq!(refused(&Wish { uris: &[ID, "spiffe://example.org/agent/other"], ..good.clone() }), X509Fault::Name);
    assert_eq!(refused(&Wish { uris: &[ID, "https://example.org"], ..good.clone() }), X509Fault::Name);
    for uri in ["https://example.org/agent/planner", "spiffe://example.org", "spiffe://example.org/", "spiffe://Example.org/a", ""] {
        assert_eq!(refused(&Wish { uris: &[uri], ..good.clone() }), X509Fault::Name, "{uri}");
    }
}

#[test]
fn a_certificate_is_valid_from_its_first_second_through_its_last() {
    let certificate = of(&Wish { from: -10, until: 10, ..Wish::default() });
    let second = std::time::Duration::from_secs(1);
    let (from, until) = (certificate.not_before, certificate.not_after);
    assert_eq!(from.until(until), std::time::Duration::from_secs(20));
    assert!(certificate.check_time(from).is_ok() && certificate.check_time(until).is_ok());
    assert_eq!(certificate.check_time(from.minus(second)), Err(CertificateError::Time));
    assert_eq!(certificate.check_time(until.plus(second)), Err(CertificateError::Time));
}

#[test]
fn the_key_of_a_certificate_that_an_agent_signed_for_itself_is_its_registered_key() {
    let (key, pkcs8) = SigningKey::generate().unwrap();
    let certificate = Certificate::read(&self_signed(&pkcs8, &Wish::default()).unwrap().certificate).unwrap();
    assert_eq!(certificate.key().unwrap().id(), key.id());
    assert_eq!(certificate.spiffe_id(), Err(X509Fault::Name));
}

#[test]
fn what_follows_what_is_cut_and_what_is_too_long_is_refused() {
    let der = Authority::new("ca").unwrap().leaf(&Wish { uris: &[ID], ..Wish::default() }).unwrap().certificate;
    for cut in 0..der.len() {
        assert!(Certificate::read(&der[..cut]).is_err(), "{cut}");
    }
    assert!(Certificate::read(&[der.as_slice(), &[0]].concat()).is_err());
    assert_eq!(Certificate::read(&vec![0x30; CERTIFICATE_MAX + 1]).unwrap_err(), CertificateError::Form);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Certificate::read(&bytes).is_ok();
    }

    #[test]
    fn no_changed_byte_makes_it_panic_and_none_leaves_the_thumbprint(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut der = Authority::new("ca").unwrap().leaf(&Wish { uris: &[ID], ..Wish::default() }).unwrap().certificate;
        let before = Digest::of(&der);
        let place = at.index(der.len());
        let changed = der[place] != to;
        der[place] = to;
        if let Ok(read) = Certificate::read(&der) {
            prop_assert_eq!(read.thumbprint() != before, changed);
            let _ = read.spiffe_id().is_ok();
        }
    }
}
