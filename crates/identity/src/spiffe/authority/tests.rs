//! Tests of the authority: what it makes is read by another implementation and by us, and its generations overlap.

use super::*;
use crate::foreign::KeySet;
use crate::foreign::jwt_svid::{Svid, verify_for};
use crate::proof::ProofError;
use crate::spiffe::{Bundle, X509Fault, certificates, read_x509};

const DAY: Duration = Duration::from_secs(86_400);
const WEEK: Duration = Duration::from_secs(7 * 86_400);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(1_795_000_000 + seconds)
}

fn authority() -> Authority {
    Authority::begin("td".parse().unwrap(), WEEK, [0xff; 16], 0, at(0)).unwrap()
}

fn planner() -> SpiffeId {
    "spiffe://td/agent/planner".parse().unwrap()
}

fn to(audience: &str) -> Vec<String> {
    vec![audience.to_owned()]
}

/// The keys of an authority, as everybody reads them.
fn keys(authority: &Authority) -> KeySet {
    KeySet::spiffe_bundle(authority.jwt_bundle().to_string().as_bytes()).unwrap()
}

fn proved(svid: &str, audience: &str, keys: &KeySet, now: Timestamp) -> Result<Svid, ProofError> {
    verify_for(svid, keys, &"td".parse().unwrap(), audience, now)
}

fn hour() -> Duration {
    Duration::from_secs(3600)
}

#[test]
fn a_jwt_svid_proves_its_workload_to_its_audience_until_it_expires() {
    let authority = authority();
    let svid = authority.jwt_svid(&planner(), &to("reports"), Duration::from_secs(300), at(0)).unwrap();
    let verify = |audience: &str, now| proved(&svid.token, audience, &keys(&authority), now);
    let good = verify("reports", at(1)).unwrap();
    assert_eq!((good.id, good.expires, &good.claims.into_json()["aud"]), (planner(), at(300), &json!(["reports"])));
    assert_eq!(verify("other", at(1)).unwrap_err(), ProofError::Audience);
    assert_eq!(verify("reports", at(400)).unwrap_err(), ProofError::Expired);
    let of_another = Authority::begin("td".parse().unwrap(), WEEK, [1; 16], 0, at(0)).unwrap();
    assert_eq!(proved(&svid.token, "reports", &keys(&of_another), at(1)).unwrap_err(), ProofError::Key);
    let other_domain = verify_for(&svid.token, &keys(&authority), &"other".parse().unwrap(), "reports", at(1));
    assert_eq!(other_domain.unwrap_err(), ProofError::Issuer);
    // One that was made for several is good for each of them, and for nobody else.
    let several = authority.jwt_svid(&planner(), &["a".to_owned(), "b".to_owned()], hour(), at(0)).unwrap();
    let judged = |audience: &str| proved(&several.token, audience, &keys(&authority), at(1)).map(|svid| svid.id);
    assert_eq!((judged("a"), judged("b"), judged("c")), (Ok(planner()), Ok(planner()), Err(ProofError::Audience)));
}

#[test]
fn another_implementation_takes_a_jwt_svid_by_the_bundle() {
    let authority = authority();
    let svid = authority.jwt_svid(&planner(), &to("reports"), Duration::from_secs(300), at(0)).unwrap();
    let key: jsonwebtoken::jwk::Jwk = {
        let mut key = authority.jwt_bundle()["keys"][0].clone();
        assert_eq!(key["use"], "jwt-svid");
        key.as_object_mut().unwrap().remove("use");
        serde_json::from_value(key).unwrap()
    };
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    rules.set_audience(&["reports"]);
    rules.validate_exp = false;
    let read = jsonwebtoken::decode::<Value>(&svid.token, &jsonwebtoken::DecodingKey::from_jwk(&key).unwrap(), &rules).unwrap();
    assert_eq!(read.claims["sub"], "spiffe://td/agent/planner");
    assert_eq!(Some(read.header.kid.unwrap()), key.common.key_id);
}

#[test]
fn an_x509_svid_says_who_it_is_and_a_root_does_not() {
    let authority = authority();
    let svid = authority.x509_svid(&planner(), hour(), [0xff; 16], at(0)).unwrap();
    let facts = read_x509(&svid.certificate).unwrap();
    assert_eq!((facts.id, facts.until, facts.from), (planner(), at(3600), at(-60)));
    assert_eq!(facts.serial, svid.serial);
    assert!(svid.serial[0] < 0x80);
    assert_eq!(read_x509(authority.roots()[0]).unwrap_err(), X509Fault::Signing);
    assert_eq!(certificates(&authority.roots().concat()).unwrap(), authority.roots());
    assert_eq!(certificates(&svid.certificate), None);
}

#[test]
fn no_svid_is_made_for_another_trust_domain_without_an_audience_or_for_longer_than_an_hour() {
    let authority = authority();
    let foreign: SpiffeId = "spiffe://other/agent/planner".parse().unwrap();
    assert!(authority.x509_svid(&foreign, hour(), [1; 16], at(0)).is_err());
    assert!(authority.jwt_svid(&foreign, &to("a"), hour(), at(0)).is_err());
    for audience in [vec![], to(""), to("a\nb"), to(&"a".repeat(513)), vec!["a".to_owned(); 9]] {
        assert!(authority.jwt_svid(&planner(), &audience, hour(), at(0)).is_err(), "{audience:?}");
    }
    assert_eq!(authority.x509_svid(&planner(), WEEK, [1; 16], at(0)).unwrap().expires, at(3600));
    assert_eq!(authority.jwt_svid(&planner(), &to("a"), WEEK, at(0)).unwrap().expires, at(3600));
}

#[test]
fn what_is_kept_is_the_same_authority_and_anything_else_is_none() {
    let authority = authority();
    let kept = authority.to_bytes().unwrap();
    let again = Authority::from_bytes(&kept).unwrap();
    assert_eq!(again.bundle(DAY), authority.bundle(DAY));
    let svid = again.jwt_svid(&planner(), &to("a"), hour(), at(0)).unwrap();
    assert!(proved(&svid.token, "a", &keys(&authority), at(0)).is_ok());
    assert_eq!(Authority::from_bytes(b"{}").unwrap_err(), AuthorityError::Kept);
    assert_eq!(Authority::from_bytes(&kept[..kept.len() - 1]).unwrap_err(), AuthorityError::Kept);
    let shown = format!("{authority:?} {svid:?}");
    assert!(!shown.contains(&svid.token) && shown.len() < 300, "{shown}");
}

/// Whoever reads the bundle at least once in each time of announcement can check every SVID at every moment.
#[test]
fn generations_overlap_so_that_no_svid_is_ever_unknown_to_one_who_reads_the_bundle_now_and_then() {
    let mut authority = authority();
    let step = 3600 * 4;
    let mut read: Vec<(i64, KeySet)> = Vec::new();
    let mut signers = std::collections::BTreeSet::new();
    let mut sequences = Vec::new();
    for now in (0..).step_by(step).take_while(|now| *now < 60 * 86_400) {
        if let Some(next) = authority.turn(WEEK, [3; 16], at(now)).unwrap() {
            assert!(next.sequence() > authority.sequence());
            sequences.push(next.sequence());
            authority = next;
        }
        assert!(authority.generations.len() <= 3);
        read.push((now, keys(&authority)));
        let svid = authority.jwt_svid(&planner(), &to("a"), hour(), at(now)).unwrap();
        // A reader whose copy is as old as may be.
        let old = read.iter().find(|(when, _)| now - when <= i64::try_from((WEEK / ANNOUNCED).as_secs()).unwrap()).unwrap();
        signers.insert(proved(&svid.token, "a", &old.1, at(now)).unwrap().key);
        // And one whose copy is from the end of its life.
        assert!(proved(&svid.token, "a", &keys(&authority), svid.expires.minus(Duration::from_secs(1))).is_ok());
    }
    assert!(signers.len() >= 10, "{}", signers.len());
    assert!(sequences.is_sorted());
}

#[test]
fn after_a_long_stop_there_is_a_new_generation_that_signs_at_once() {
    let authority = authority();
    assert!(matches!(authority.jwt_svid(&planner(), &to("a"), hour(), at(8 * 86_400)), Err(AuthorityError::Expired)));
    let next = authority.turn(WEEK, [4; 16], at(8 * 86_400)).unwrap().unwrap();
    assert_eq!(next.generations.len(), 1);
    assert!(next.jwt_svid(&planner(), &to("a"), hour(), at(8 * 86_400)).is_ok());
}

#[test]
fn an_svid_never_outlives_the_generation_that_signed_it() {
    let authority = authority();
    let late = at(7 * 86_400 - 60);
    assert_eq!(authority.x509_svid(&planner(), hour(), [1; 16], late).unwrap().expires, at(7 * 86_400));
    assert_eq!(authority.jwt_svid(&planner(), &to("a"), hour(), late).unwrap().expires, at(7 * 86_400));
}

#[test]
fn our_bundle_is_read_as_it_was_written() {
    let authority = authority();
    let text = authority.bundle(Duration::from_secs(300)).to_string();
    let bundle = Bundle::parse("td".parse().unwrap(), text.as_bytes()).unwrap();
    assert_eq!(bundle.x509, authority.roots());
    assert_eq!((bundle.sequence, bundle.refresh), (Some(1), Some(Duration::from_secs(300))));
    let jwt = KeySet::spiffe_bundle(text.as_bytes()).unwrap();
    assert!(authority.jwt_keys().iter().all(|key| jwt.has(key.id())) && jwt.len() == authority.jwt_keys().len());
}

#[test]
fn keys_of_other_uses_and_kinds_are_ignored_and_a_bundle_without_any_is_refused() {
    let authority = authority();
    let mut bundle = authority.bundle(DAY);
    let td = || "td".parse().unwrap();
    for key in bundle["keys"].as_array_mut().unwrap() {
        key["use"] = json!("wit-svid");
    }
    assert!(Bundle::parse(td(), bundle.to_string().as_bytes()).is_err());
    for bad in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, r#"{"keys":[{"use":"x509-svid","x5c":["AAAA"]}]}"#] {
        assert!(Bundle::parse(td(), bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(KeySet::spiffe_bundle(bundle.to_string().as_bytes()).is_err());
    let hmac = r#"{"keys":[{"use":"jwt-svid","kty":"oct","k":"c2VjcmV0","kid":"a"}]}"#;
    assert!(KeySet::spiffe_bundle(hmac.as_bytes()).is_err());
    let eddsa = r#"{"keys":[{"use":"jwt-svid","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"a"}]}"#;
    assert!(KeySet::spiffe_bundle(eddsa.as_bytes()).is_err());
}

#[test]
fn a_jwt_svid_with_other_headers_another_type_or_another_algorithm_is_refused() {
    let authority = authority();
    let svid = authority.jwt_svid(&planner(), &to("a"), hour(), at(0)).unwrap();
    let (_, rest) = svid.token.split_once('.').unwrap();
    let kid = authority.jwt_keys()[0].id();
    let with = |header: String| {
        let token = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header));
        proved(&token, "a", &keys(&authority), at(0)).unwrap_err()
    };
    assert_eq!(with(format!(r#"{{"alg":"none","kid":"{kid}"}}"#)), ProofError::Algorithm);
    assert_eq!(with(format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#)), ProofError::Algorithm);
    assert_eq!(with(format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#)), ProofError::Algorithm);
    assert_eq!(with(format!(r#"{{"alg":"ES256","kid":"{kid}","typ":"at+jwt"}}"#)), ProofError::Type);
    assert_eq!(with(format!(r#"{{"alg":"ES256","kid":"{kid}","x":1}}"#)), ProofError::Header("of a JWT-SVID"));
    assert_eq!(with(format!(r#"{{"alg":"ES256","kid":"{kid}","jku":"https://a"}}"#)), ProofError::Header("jku"));
    assert_eq!(with(r#"{"alg":"ES256","kid":"other"}"#.to_owned()), ProofError::Key);
    assert_eq!(with(format!(r#"{{"alg":"ES256","kid":"{kid}","typ":"JOSE"}}"#)), ProofError::Signature);
}

mod certificates_of_strangers {
    use proptest::prelude::*;

    use super::*;
    use bailiwick_core::der::{OCTET_STRING, object, sequence, value};

    /// The certificate with its extensions replaced: the signature is wrong then, which reading does not look at.
    fn with_names(uris: &[&str]) -> Vec<u8> {
        let svid = authority().x509_svid(&planner(), hour(), [5; 16], at(0)).unwrap();
        let names: Vec<u8> = uris.iter().flat_map(|uri| value(0x86, uri.as_bytes())).collect();
        let new = sequence(&[&object(&[0x55, 0x1d, 17]), &value(OCTET_STRING, &sequence(&[&names]))]);
        let mut outer = bailiwick_core::der::Reader::new(&svid.certificate);
        let mut whole = outer.inside(0x30).unwrap();
        let mut body = whole.inside(0x30).unwrap();
        let mut parts: Vec<Vec<u8>> = (0..7).map(|_| body.next().unwrap().whole.to_vec()).collect();
        let mut extensions = body.inside(0xa3).unwrap().inside(0x30).unwrap();
        let mut all = Vec::new();
        while let Some(one) = extensions.next() {
            if !one.whole.windows(3).any(|w| w == [0x55, 0x1d, 17]) {
                all.extend_from_slice(one.whole);
            }
        }
        all.extend(new);
        parts.push(value(0xa3, &value(0x30, &all)));
        let body = sequence(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        sequence(&[&body, whole.next().unwrap().whole, whole.next().unwrap().whole])
    }

    #[test]
    fn none_two_or_other_names_are_nobody() {
        assert_eq!(read_x509(&with_names(&["spiffe://td/agent/x"])).unwrap().id.as_str(), "spiffe://td/agent/x");
        let two = ["spiffe://td/agent/x", "spiffe://td/agent/y"];
        for uris in [
            &two[..],
            &[][..],
            &["spiffe://td"][..],
            &["https://td/agent/x"][..],
            &["spiffe://td/agent/../x"][..],
            &["spiffe://td/agent/x", "https://a"][..],
        ] {
            assert_eq!(read_x509(&with_names(uris)).unwrap_err(), X509Fault::Name, "{uris:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = read_x509(&bytes).is_ok();
            let _ = certificates(&bytes).is_some();
            let _ = Bundle::parse("td".parse().unwrap(), &bytes).is_ok();
            let _ = Authority::from_bytes(&bytes).is_ok();
        }

        #[test]
        fn a_certificate_with_one_byte_changed_is_read_or_refused(place in 0_usize..500, byte in any::<u8>()) {
            let svid = authority().x509_svid(&planner(), hour(), [6; 16], at(0)).unwrap();
            let mut changed = svid.certificate;
            let place = place % changed.len();
            changed[place] = byte;
            let _ = read_x509(&changed).is_ok();
            prop_assert!(read_x509(&changed[..changed.len() - 1]).is_err());
        }
    }
}
