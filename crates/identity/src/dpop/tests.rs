//! Tests of proofs of possession: one negative test for each check of RFC 9449 section 4.3, and the proofs of another implementation.
use super::*;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const HTU: &str = "https://gw.example/mcp";
const TOKEN: &str = "eyJhbGciOiJFZERTQSJ9.e30.c2ln";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

struct World {
    key: SigningKey,
    nonces: Nonces,
    target: Target,
}

impl World {
    fn new() -> Self {
        Self { key: SigningKey::generate().unwrap().0, nonces: Nonces::new(&[1; 32]), target: Target::new(HTU).unwrap() }
    }

    fn header(&self) -> Value {
        let jwk = self.key.public().jwk();
        json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": { "kty": "OKP", "crv": "Ed25519", "x": jwk["x"] } })
    }

    fn claims(&self) -> Value {
        json!({ "jti": "0123456789ab", "htm": "POST", "htu": HTU, "iat": NOW.as_seconds(), "ath": hash(TOKEN) })
    }

    fn forge(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()).unwrap()))
    }

    fn rules(&self) -> Rules<'_> {
        Rules { nonces: &self.nonces, nonce_required: false, remembered_since: NOW.minus(seconds(3600)) }
    }

    fn judge(&self, proof: &str) -> Result<Proved, ProofError> {
        verify(proof, Request { method: "POST", target: &self.target, token: Some(TOKEN) }, self.rules(), NOW)
    }

    /// The proof with these members of header and claims changed; null removes one.
    fn judged(&self, header: &Value, claims: &Value) -> Result<Proved, ProofError> {
        self.judge(&self.forge(&with(self.header(), header), &with(self.claims(), claims)))
    }
}

fn with(mut base: Value, more: &Value) -> String {
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            base.as_object_mut().unwrap().remove(name);
        } else {
            base[name] = value.clone();
        }
    }
    base.to_string()
}

fn claims(more: Value) -> Result<Proved, ProofError> {
    World::new().judged(&json!({}), &more)
}

fn header(more: Value) -> Result<Proved, ProofError> {
    World::new().judged(&more, &json!({}))
}

#[test]
fn our_own_proof_proves_the_key_and_stands_for_itself_alone() {
    let world = World::new();
    let what = Statement { method: "POST", uri: HTU, token: Some(TOKEN), nonce: None, jti: "0123456789ab" };
    let proved = world.judge(&make(&world.key, &what, NOW).unwrap()).unwrap();
    assert_eq!((proved.key, proved.remember_until), (world.key.id(), NOW.plus(AGE_MAX)));
    let other = world.judge(&make(&world.key, &Statement { jti: "another", ..what }, NOW).unwrap()).unwrap();
    assert_ne!(other.once, proved.once);
    let elsewhere = World::new();
    let same_jti = elsewhere.judge(&make(&elsewhere.key, &what, NOW).unwrap()).unwrap();
    assert_ne!(same_jti.once, proved.once, "two keys that happen upon one jti do not hinder each other");
}

#[test]
fn the_example_of_the_standard_verifies_at_its_time() {
    // RFC 9449 figures 2 and 12, without and with a token.
    let token_request = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg";
    let resource = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
    let at = Timestamp::from_seconds(1_562_262_618);
    let nonces = Nonces::new(&[1; 32]);
    let rules = Rules { nonces: &nonces, nonce_required: false, remembered_since: at.minus(seconds(60)) };
    let endpoint = Target::new("https://server.example.com/token").unwrap();
    let proved = verify(token_request, Request { method: "POST", target: &endpoint, token: None }, rules, at).unwrap();
    assert_eq!(proved.key.to_string(), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
    let place = Target::new("https://resource.example.org/protectedresource").unwrap();
    let token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
    assert!(verify(resource, Request { method: "GET", target: &place, token: Some(token) }, rules, at).is_ok());
}

#[test]
fn check_2_what_is_no_single_jwt_is_refused() {
    let world = World::new();
    let good = world.forge(&world.header().to_string(), &world.claims().to_string());
    assert!(world.judge(&good).is_ok());
    let double = format!("{good},{good}");
    let spaced = format!("{good}, {good}");
    let padded = format!("{good}=");
    let four = format!("{good}.e30");
    for bad in ["", ".", "..", "a.b", double.as_str(), &spaced, &padded, &four, " a.b.c", "{}"] {
        assert!(matches!(world.judge(bad), Err(ProofError::Form(_))), "{bad}");
    }
    assert!(matches!(world.judge(&"a".repeat(9000)), Err(ProofError::TooLong(_))));
    let twice = format!(r#"{},"typ":"dpop+jwt"}}"#, world.header().to_string().strip_suffix('}').unwrap());
    assert_eq!(world.judge(&world.forge(&twice, &world.claims().to_string())), Err(ProofError::Duplicate));
    let deep = format!(r#"{{"jti":"0123456789ab","x":{}{}}}"#, "[".repeat(40), "]".repeat(40));
    assert_eq!(world.judge(&world.forge(&world.header().to_string(), &deep)), Err(ProofError::TooDeep));
    let claims_twice = world.claims().to_string().replace('}', r#","htm":"GET"}"#);
    assert_eq!(world.judge(&world.forge(&world.header().to_string(), &claims_twice)), Err(ProofError::Duplicate));
}

#[test]
fn check_3_every_claim_must_be_there_and_of_its_form() {
    for name in ["jti", "htm", "htu", "iat", "ath"] {
        assert_eq!(claims(json!({ name: null })), Err(ProofError::Claim(name)), "{name}");
        assert_eq!(claims(json!({ name: [] })), Err(ProofError::Claim(name)), "{name}");
    }
    assert_eq!(claims(json!({ "jti": "" })), Err(ProofError::Claim("jti")));
    assert_eq!(claims(json!({ "jti": "x".repeat(257) })), Err(ProofError::Claim("jti")));
    assert_eq!(claims(json!({ "iat": "1800000000" })), Err(ProofError::Claim("iat")));
    assert_eq!(claims(json!({ "nonce": 7 })), Err(ProofError::Claim("nonce")));
}

#[test]
fn check_4_another_type_is_no_proof() {
    for typ in [json!("at+jwt"), json!("jwt"), json!("client-authentication+jwt"), json!("dpop"), json!(null)] {
        assert_eq!(header(json!({ "typ": typ })), Err(ProofError::Type), "{typ}");
    }
    assert!(header(json!({ "typ": "application/dpop+jwt" })).is_ok());
}

#[test]
fn check_5_no_algorithm_but_an_asymmetric_one_of_the_key_itself() {
    for alg in ["none", "None", "HS256", "ES256", "RS256", "EdDSA ", "eddsa", ""] {
        assert_eq!(header(json!({ "alg": alg })), Err(ProofError::Algorithm), "{alg}");
    }
    assert_eq!(header(json!({ "alg": null })), Err(ProofError::Algorithm));
    assert!(header(json!({ "alg": "Ed25519" })).is_ok());
    // The public key as the secret of an HMAC.
    let world = World::new();
    let head = with(world.header(), &json!({ "alg": "HS256" }));
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(world.claims().to_string()));
    let secret = hmac::Key::new(hmac::HMAC_SHA256, world.key.public().to_pem().unwrap().as_bytes());
    let mac = URL_SAFE_NO_PAD.encode(hmac::sign(&secret, signed.as_bytes()));
    assert_eq!(world.judge(&format!("{signed}.{mac}")), Err(ProofError::Algorithm));
}

#[test]
fn check_6_the_signature_must_be_by_the_key_in_the_header() {
    let (world, other) = (World::new(), World::new());
    assert_eq!(world.judge(&other.forge(&world.header().to_string(), &world.claims().to_string())), Err(ProofError::Signature));
    let good = world.forge(&world.header().to_string(), &world.claims().to_string());
    let (signed, _) = good.rsplit_once('.').unwrap();
    assert_eq!(world.judge(&format!("{signed}.")), Err(ProofError::Signature));
    for name in ["jku", "x5u", "x5c", "crit", "b64"] {
        assert_eq!(header(json!({ name: "https://evil.example/keys" })), Err(ProofError::Header(name)), "{name}");
    }
    // A `kid` names nothing here: the key is the one that stands there.
    assert!(header(json!({ "kid": other.key.id().to_string() })).is_ok());
}

#[test]
fn check_7_a_private_or_weak_key_is_refused() {
    let world = World::new();
    let jwk = world.header()["jwk"].clone();
    let extended = |more: Value| serde_json::from_str::<Value>(&with(jwk.clone(), &more)).unwrap();
    assert!(world.judged(&json!({ "jwk": extended(json!({ "use": "sig", "ext": true, "key_ops": ["verify"] })) }), &json!({})).is_ok());
    for bad in [
        extended(json!({ "d": "AAAA" })),
        extended(json!({ "k": "AAAA" })),
        extended(json!({ "use": "enc" })),
        extended(json!({ "alg": "ES256" })),
        extended(json!({ "x": URL_SAFE_NO_PAD.encode([0; 32]) })),
        json!({ "kty": "oct", "k": "AAAA" }),
        json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0xff; 128]), "e": "AQAB" }),
        json!({}),
        json!("x"),
        json!(null),
    ] {
        assert_eq!(world.judged(&json!({ "jwk": bad }), &json!({})), Err(ProofError::Header("jwk")), "{bad}");
    }
}

#[test]
fn check_8_another_method_is_another_request() {
    for htm in ["GET", "post", "POST ", "DELETE", ""] {
        assert_eq!(claims(json!({ "htm": htm })), Err(ProofError::Request), "{htm}");
    }
}

#[test]
fn check_9_another_place_is_another_request_and_query_and_fragment_are_not_compared() {
    for htu in ["https://gw.example/mcp/", "https://GW.example:443/mcp?x=1", "https://gw.example/%6Dcp#f"] {
        assert!(claims(json!({ "htu": htu })).is_ok(), "{htu}");
    }
    for htu in ["http://gw.example/mcp", "https://evil.example/mcp", "https://gw.example/oauth/token", "/mcp", "", "https://gw.example:8443/mcp"] {
        assert_eq!(claims(json!({ "htu": htu })), Err(ProofError::Request), "{htu}");
    }
}

#[test]
fn check_10_where_a_nonce_is_demanded_only_a_fresh_one_of_ours_will_do() {
    let world = World::new();
    let rules = Rules { nonce_required: true, ..world.rules() };
    let request = Request { method: "POST", target: &world.target, token: Some(TOKEN) };
    let judged = |nonce: Value, now: Timestamp| {
        let proof = world.forge(&world.header().to_string(), &with(world.claims(), &json!({ "nonce": nonce, "iat": now.as_seconds() })));
        verify(&proof, request, rules, now)
    };
    let nonce = world.nonces.current(NOW);
    let proved = judged(json!(nonce), NOW).unwrap();
    assert!(NOW.until(proved.remember_until) <= Nonces::LIFE_MAX);
    assert_eq!(judged(json!(null), NOW), Err(ProofError::Nonce));
    assert_eq!(judged(json!(nonce), proved.remember_until), Err(ProofError::Nonce));
    assert!(judged(json!(nonce), proved.remember_until.minus(seconds(1))).is_ok());
    for wrong in ["", "x", &Nonces::new(&[2; 32]).current(NOW), nonce.get(1..).unwrap()] {
        assert_eq!(judged(json!(wrong), NOW), Err(ProofError::Nonce), "{wrong}");
    }
    // A wrong one is refused also where none is demanded.
    assert_eq!(world.judged(&json!({}), &json!({ "nonce": "x" })), Err(ProofError::Nonce));
}

#[test]
fn check_11_the_time_is_kept_to_the_second_and_a_clock_that_is_off_gets_a_nonce() {
    let world = World::new();
    let at = |iat: Timestamp, nonce: bool| {
        let nonce = if nonce { json!(world.nonces.current(NOW)) } else { json!(null) };
        world.judged(&json!({}), &json!({ "iat": iat.as_seconds(), "nonce": nonce }))
    };
    assert!(at(NOW.plus(AHEAD_MAX), false).is_ok());
    assert_eq!(at(NOW.plus(AHEAD_MAX).plus(seconds(1)), false), Err(ProofError::Nonce));
    assert!(at(NOW.minus(AGE_MAX).plus(seconds(1)), false).is_ok());
    assert_eq!(at(NOW.minus(AGE_MAX), false), Err(ProofError::Nonce));
    for inside in [NOW.plus(OFF_MAX), NOW.minus(OFF_MAX)] {
        assert!(at(inside, true).is_ok());
    }
    for outside in [NOW.plus(OFF_MAX).plus(seconds(1)), NOW.minus(OFF_MAX).minus(seconds(1)), Timestamp::from_seconds(0)] {
        assert_eq!(at(outside, true), Err(ProofError::IssuedAt));
    }
}

#[test]
fn check_12_the_proof_is_for_this_token() {
    for ath in [json!(hash("another token")), json!(""), json!(format!("{}=", hash(TOKEN)))] {
        assert_eq!(claims(json!({ "ath": ath })), Err(ProofError::Claim("ath")), "{ath}");
    }
    assert_eq!(claims(json!({ "ath": null })), Err(ProofError::Claim("ath")));
}

#[test]
fn a_proof_from_before_our_memory_needs_a_nonce() {
    let world = World::new();
    let rules = Rules { remembered_since: NOW, ..world.rules() };
    let request = Request { method: "POST", target: &world.target, token: Some(TOKEN) };
    let at = |iat: i64| verify(&world.forge(&world.header().to_string(), &with(world.claims(), &json!({ "iat": iat }))), request, rules, NOW);
    assert!(at(NOW.as_seconds()).is_ok());
    assert_eq!(at(NOW.as_seconds() - 1), Err(ProofError::Nonce));
}

#[test]
fn a_proof_of_an_elliptic_curve_key_with_both_coordinates_verifies() {
    let world = World::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
    let judged = |alg: &str, jwk: Value| {
        let head = json!({ "typ": "dpop+jwt", "alg": alg, "jwk": jwk }).to_string();
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(world.claims().to_string()));
        let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        world.judge(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    };
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
    assert!(judged("ES256", jwk.clone()).is_ok());
    assert_eq!(judged("EdDSA", jwk.clone()), Err(ProofError::Algorithm));
    assert_eq!(judged("ES256", json!({ "kty": "EC", "crv": "P-256", "x": y, "y": x })), Err(ProofError::Header("jwk")), "no point of the curve");
    assert_eq!(judged("ES256", json!({ "kty": "EC", "crv": "P-256", "x": x })), Err(ProofError::Header("jwk")));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(proof in ".{0,200}", header in "\\{.{0,80}\\}", claims in "\\{.{0,80}\\}") {
        let world = World::new();
        prop_assert!(world.judge(&proof).is_err());
        let _ = world.judge(&world.forge(&header, &claims)).is_ok();
    }

    #[test]
    fn no_changed_character_of_a_proof_is_taken(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]") {
        let world = World::new();
        let good = world.forge(&world.header().to_string(), &world.claims().to_string());
        let place = at.index(good.len());
        let changed = format!("{}{to}{}", good.get(..place).unwrap(), good.get(place + 1..).unwrap());
        prop_assert_eq!(world.judge(&changed).is_ok(), changed == good);
    }
}
