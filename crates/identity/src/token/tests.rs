//! Tests of tokens: what we issue verifies; every way of bending one is refused for its own reason.
use super::*;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;

const ISSUER: &str = "https://broker.example";
const AUDIENCE: &str = "https://broker.example/mcp";
const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const LIFE: Duration = Duration::from_secs(300);

fn domain() -> TrustDomain {
    "example.org".parse().unwrap()
}

fn issuer() -> Issuer {
    Issuer::new(ISSUER.to_owned(), domain(), SigningKey::generate().unwrap().0)
}

fn verifier(issuer: &Issuer) -> Verifier {
    Verifier::new(ISSUER.to_owned(), domain(), vec![issuer.public().clone()])
}

fn statement(purpose: Purpose) -> Statement {
    Statement {
        agent: "planner".parse().unwrap(),
        instance: InstanceId::new(NOW, [3; 10]),
        scope: if purpose == Purpose::Agent { Scope::agent() } else { "mcp:tools".parse().unwrap() },
        acting: Acting::default(),
        purpose,
        audience: AUDIENCE.to_owned(),
        jti: SessionId::new(NOW, [4; 10]),
        confirmation: None,
    }
}

#[test]
fn an_agent_token_says_whether_the_running_copy_has_a_name_and_one_that_does_not_say_it_has_none() {
    let issuer = issuer();
    for named in [true, false] {
        let statement = Statement { acting: Acting { named, ..Acting::default() }, ..statement(Purpose::Agent) };
        let token = issuer.issue(&statement, NOW, LIFE).unwrap().token;
        assert_eq!(verifier(&issuer).verify(&token, AUDIENCE, NOW).unwrap().acting.named, named);
        let part = token.split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        assert_eq!(claims.get("instance_named").is_some(), named);
        let wrong = forge(&issuer, &header(&issuer).to_string(), &with(&claims, json!({ "instance_named": "yes" })));
        assert_eq!(verifier(&issuer).verify(&wrong, AUDIENCE, NOW), Err(ProofError::Claim("instance_named")));
    }
}

fn task() -> Purpose {
    let before = |name: &str| format!("spiffe://example.org/agent/{name}").parse().unwrap();
    Purpose::Task { task: TaskId::new(NOW, [5; 10]), subject: "alice@corp".parse().unwrap(), actors: vec![before("b"), before("c")] }
}

fn claims(issuer: &Issuer) -> Value {
    let token = issuer.issue(&statement(task()), NOW, LIFE).unwrap().token;
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn forge(issuer: &Issuer, header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = issuer.key.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn header(issuer: &Issuer) -> Value {
    json!({"typ": "at+jwt", "alg": "EdDSA", "kid": issuer.public().id().to_string()})
}

fn with(base: &Value, more: Value) -> String {
    let mut all = base.clone();
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            all.as_object_mut().unwrap().remove(name);
        } else {
            all[name] = value.clone();
        }
    }
    all.to_string()
}

/// The token of a forged header and claims, as the verifier judges it.
fn judged(more_header: Value, more_claims: Value) -> Result<Verified, ProofError> {
    let issuer = issuer();
    let token = forge(&issuer, &with(&header(&issuer), more_header), &with(&claims(&issuer), more_claims));
    verifier(&issuer).verify(&token, AUDIENCE, NOW)
}

#[test]
fn a_task_token_proves_agent_instance_task_and_person() {
    let issuer = issuer();
    let issued = issuer.issue(&statement(task()), NOW, LIFE).unwrap();
    let verified = verifier(&issuer).verify(&issued.token, AUDIENCE, NOW).unwrap();
    let caller = verified.caller().unwrap();
    assert_eq!((issued.expires_in, issued.expires), (300, NOW.plus(LIFE)));
    assert_eq!(caller.spiffe_id.as_str(), "spiffe://example.org/agent/planner");
    assert_eq!((caller.agent.as_str(), caller.subject.as_str()), ("planner", "alice@corp"));
    assert_eq!((caller.task, caller.instance), (TaskId::new(NOW, [5; 10]), InstanceId::new(NOW, [3; 10])));
    assert_eq!(caller.actors.iter().map(SpiffeId::as_str).collect::<Vec<_>>(), ["spiffe://example.org/agent/b", "spiffe://example.org/agent/c"]);
    assert_eq!(verified.purpose, task());
}

#[test]
fn an_agent_token_has_no_task_and_names_the_agent_as_its_subject() {
    let issuer = issuer();
    let token = issuer.issue(&statement(Purpose::Agent), NOW, LIFE).unwrap().token;
    let verified = verifier(&issuer).verify(&token, AUDIENCE, NOW).unwrap();
    assert_eq!((verified.task(), verified.caller(), verified.scope.to_string().as_str()), (None, None, "agent"));
}

#[test]
fn the_nested_chain_is_written_with_the_current_actor_outermost() {
    let claims = claims(&issuer());
    assert_eq!(claims["act"]["sub"], format!("spiffe://example.org/agent/planner/{}", InstanceId::new(NOW, [3; 10])));
    assert_eq!(claims["act"]["act"]["sub"], "spiffe://example.org/agent/b");
    assert_eq!(claims["act"]["act"]["act"], json!({"sub": "spiffe://example.org/agent/c"}));
}

#[test]
fn bi_015_a_token_with_alg_none_is_refused() {
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        assert_eq!(judged(json!({"alg": alg}), json!({})), Err(ProofError::Algorithm), "{alg}");
    }
    let issuer = issuer();
    let unsigned = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"at+jwt"}"#), URL_SAFE_NO_PAD.encode(claims(&issuer).to_string()));
    assert_eq!(verifier(&issuer).verify(&unsigned, AUDIENCE, NOW), Err(ProofError::Algorithm));
}

#[test]
fn bi_016_a_token_signed_by_hmac_with_the_public_key_is_refused() {
    let issuer = issuer();
    let jwk = issuer.public().jwk();
    let x = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();
    for secret in [x, issuer.public().to_pem().unwrap().into_bytes(), jwk.to_string().into_bytes()] {
        for alg in ["HS256", "EdDSA"] {
            let signed = format!(
                "{}.{}",
                URL_SAFE_NO_PAD.encode(with(&header(&issuer), json!({"alg": alg}))),
                URL_SAFE_NO_PAD.encode(claims(&issuer).to_string())
            );
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes());
            let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag));
            let expected = if alg == "HS256" { ProofError::Algorithm } else { ProofError::Signature };
            assert_eq!(verifier(&issuer).verify(&token, AUDIENCE, NOW), Err(expected));
        }
    }
}

#[test]
fn bi_019_a_token_cannot_choose_its_key_or_name_a_place_to_fetch_one() {
    for kid in ["../../dev/null", "", "' OR 1=1 --", "https://evil.example/k", "a", &"A".repeat(43)] {
        assert_eq!(judged(json!({"kid": kid}), json!({})), Err(ProofError::Key), "{kid}");
    }
    assert_eq!(judged(json!({"kid": null}), json!({})), Err(ProofError::Key));
    assert_eq!(judged(json!({"kid": 1}), json!({})), Err(ProofError::Key));
    for name in ["jku", "x5u", "x5c", "jwk", "crit", "b64"] {
        assert_eq!(judged(json!({name: "https://evil.example/k"}), json!({})), Err(ProofError::Header(name)));
    }
    assert_eq!(judged(json!({"cty": "JWT"}), json!({})), Err(ProofError::Header("unknown")));
}

#[test]
fn a_key_that_the_token_brings_itself_is_not_used() {
    let (ours, other) = (issuer(), issuer());
    let header = with(&header(&other), json!({"jwk": other.public().jwk()}));
    let token = forge(&other, &header, &claims(&ours).to_string());
    assert_eq!(verifier(&ours).verify(&token, AUDIENCE, NOW), Err(ProofError::Header("jwk")));
    let token = other.issue(&statement(task()), NOW, LIFE).unwrap().token;
    assert_eq!(verifier(&ours).verify(&token, AUDIENCE, NOW), Err(ProofError::Key));
    let token = forge(&other, &with(&self::header(&ours), json!({})), &claims(&ours).to_string());
    assert_eq!(verifier(&ours).verify(&token, AUDIENCE, NOW), Err(ProofError::Signature));
}

#[test]
fn a_token_for_another_audience_or_of_another_issuer_is_refused() {
    for aud in [json!("https://broker.example/mcp/"), json!("https://broker.example"), json!("https://evil.example/mcp"), json!("")] {
        assert_eq!(judged(json!({}), json!({"aud": aud})), Err(ProofError::Audience), "{aud}");
    }
    assert_eq!(judged(json!({}), json!({"aud": [AUDIENCE, "https://evil.example"]})), Err(ProofError::Claim("aud")));
    assert_eq!(judged(json!({}), json!({"aud": null})), Err(ProofError::Claim("aud")));
    for iss in ["https://broker.example/", "https://BROKER.example", "https://evil.example", ""] {
        assert_eq!(judged(json!({}), json!({"iss": iss})), Err(ProofError::Issuer), "{iss}");
    }
}

#[test]
fn bi_022_the_times_hold_to_the_millisecond_at_the_bounds_of_skew() {
    let issuer = issuer();
    let token = issuer.issue(&statement(task()), NOW, LIFE).unwrap().token;
    let at = |millis: i64| verifier(&issuer).verify(&token, AUDIENCE, Timestamp::from_millis(NOW.as_millis() + millis)).err();
    assert_eq!(at(300_000 + 4_999), None);
    assert_eq!(at(300_000 + 5_000), Some(ProofError::Expired));
    assert_eq!(at(300_000 + 6_000), Some(ProofError::Expired));
    assert_eq!(at(-5_000), None);
    assert_eq!(at(-5_001), Some(ProofError::NotYet));
    let future = NOW.as_seconds() + 6;
    assert_eq!(judged(json!({}), json!({"nbf": future})), Err(ProofError::NotYet));
    assert_eq!(judged(json!({}), json!({"iat": future})), Err(ProofError::IssuedAt));
    assert_eq!(judged(json!({}), json!({"exp": NOW.as_seconds() + 3601})), Err(ProofError::Lifetime));
    for name in ["exp", "nbf", "iat"] {
        for wrong in [json!(null), json!("1800000000"), json!(-1), json!(1e300), json!(true), json!([1])] {
            assert_eq!(judged(json!({}), json!({name: wrong})), Err(ProofError::Claim(name)), "{name}");
        }
    }
}

#[test]
fn bi_024_a_token_names_one_agent_and_one_instance_and_the_chain_must_agree() {
    let other = InstanceId::new(NOW, [9; 10]);
    assert_eq!(judged(json!({}), json!({"instance": other})), Err(ProofError::Claim("act")));
    assert_eq!(judged(json!({}), json!({"client_id": "spiffe://example.org/agent/other"})), Err(ProofError::Claim("act")));
    assert_eq!(judged(json!({}), json!({"act": null})), Err(ProofError::Claim("act")));
    // A component is another actor than its agent.
    assert_eq!(judged(json!({}), json!({"client_id": "spiffe://example.org/agent/planner/memory"})), Err(ProofError::Claim("act")));
    for id in [
        "spiffe://evil.org/agent/planner",
        "spiffe://example.org.evil/agent/planner",
        "spiffe://example.org/agent/a/b/c",
        "spiffe://example.org/agent/planner/inst_00000000000000000000000000000001",
        "spiffe://example.org/agent/planner/Memory",
        "spiffe://example.org/planner",
        "planner",
    ] {
        assert_eq!(judged(json!({}), json!({"client_id": id})), Err(ProofError::Claim("client_id")), "{id}");
    }
}

#[test]
fn a_token_of_another_type_is_refused() {
    for typ in ["JWT", "jwt", "bailiwick-person+jwt", "client-authentication+jwt", "dpop+jwt", "at+jwt+x", ""] {
        assert_eq!(judged(json!({"typ": typ}), json!({})), Err(ProofError::Type), "{typ}");
    }
    assert_eq!(judged(json!({"typ": null}), json!({})), Err(ProofError::Type));
    assert_eq!(judged(json!({"typ": 1}), json!({})), Err(ProofError::Type));
    assert!(judged(json!({"typ": "application/AT+JWT"}), json!({})).is_ok());
}

#[test]
fn every_claim_is_parsed_into_its_type() {
    for (name, wrong) in [
        ("jti", "x"),
        ("task_id", "inst_0"),
        ("sub", "Alice Corp"),
        ("sub", "spiffe://example.org/agent/planner"),
        ("instance", "1"),
        ("scope", "a\"b"),
    ] {
        assert_eq!(judged(json!({}), json!({name: wrong})), Err(ProofError::Claim(name)), "{name}");
    }
    for name in ["jti", "sub", "instance", "scope", "client_id"] {
        assert_eq!(judged(json!({}), json!({name: null})), Err(ProofError::Claim(name)), "{name}");
    }
}

#[test]
fn a_token_that_lost_its_task_is_no_agent_token() {
    // Its scope is that of a task, whomever it names.
    assert_eq!(judged(json!({}), json!({"task_id": null})), Err(ProofError::Claim("scope")));
    assert_eq!(judged(json!({}), json!({"task_id": null, "act": null})), Err(ProofError::Claim("scope")));
    let agent = json!({"task_id": null, "act": null, "sub": "spiffe://example.org/agent/planner"});
    assert_eq!(judged(json!({}), agent), Err(ProofError::Claim("scope")));
}

#[test]
fn duplicate_claims_and_headers_are_refused() {
    let issuer = issuer();
    let claims = claims(&issuer).to_string();
    let twice = format!("{},\"sub\":\"mallory\"}}", claims.strip_suffix('}').unwrap());
    assert_eq!(verifier(&issuer).verify(&forge(&issuer, &header(&issuer).to_string(), &twice), AUDIENCE, NOW), Err(ProofError::Duplicate));
    let header = header(&issuer).to_string();
    let twice = format!("{},\"alg\":\"none\"}}", header.strip_suffix('}').unwrap());
    assert_eq!(verifier(&issuer).verify(&forge(&issuer, &twice, &claims), AUDIENCE, NOW), Err(ProofError::Duplicate));
}

#[test]
fn oversized_and_deeply_nested_tokens_are_refused() {
    let issuer = issuer();
    let verifier = verifier(&issuer);
    assert_eq!(verifier.verify(&"a".repeat(8193), AUDIENCE, NOW), Err(ProofError::TooLong(8192)));
    let deep = format!(r#"{{"act":{}1{}}}"#, r#"{"act":"#.repeat(200), "}".repeat(200));
    assert_eq!(verifier.verify(&forge(&issuer, &header(&issuer).to_string(), &deep), AUDIENCE, NOW), Err(ProofError::TooDeep));
    let chain = (0..16).fold(json!({"sub": "spiffe://example.org/agent/z"}), |inner, _| json!({"sub": "spiffe://example.org/agent/z", "act": inner}));
    let chain = json!({"sub": format!("spiffe://example.org/agent/planner/{}", InstanceId::new(NOW, [3; 10])), "act": chain});
    assert_eq!(judged(json!({}), json!({"act": chain})), Err(ProofError::Claim("act")));
}

#[test]
fn a_token_does_not_outlive_the_longest_life_whatever_is_asked() {
    let issued = issuer().issue(&statement(task()), NOW, Duration::from_secs(1 << 40)).unwrap();
    assert_eq!(issued.expires, NOW.plus(LIFE_MAX));
}

#[test]
fn a_remembered_token_still_expires() {
    let issuer = issuer();
    let token = issuer.issue(&statement(task()), NOW, LIFE).unwrap().token;
    let verified = verifier(&issuer).verify(&token, AUDIENCE, NOW).unwrap();
    assert_eq!(verified.check_time(NOW.plus(LIFE)), Ok(()));
    assert_eq!(verified.check_time(NOW.plus(LIFE + SKEW)), Err(ProofError::Expired));
}

#[test]
fn another_implementation_verifies_our_tokens_by_our_jwk() {
    let issuer = issuer();
    let token = issuer.issue(&statement(task()), NOW, LIFE).unwrap().token;
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(issuer.public().jwk()).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
    rules.set_audience(&[AUDIENCE]);
    rules.set_issuer(&[ISSUER]);
    rules.validate_exp = false;
    let theirs = jsonwebtoken::decode::<Value>(token.as_bytes(), &key, &rules).unwrap();
    assert_eq!(theirs.claims["sub"], "alice@corp");
    assert_eq!(theirs.header.typ.as_deref(), Some("at+jwt"));
}

#[test]
fn a_statement_of_what_was_issued_does_not_show_the_token() {
    let issued = issuer().issue(&statement(task()), NOW, LIFE).unwrap();
    assert!(!format!("{issued:?}").contains(&issued.token));
}

proptest! {
    #[test]
    fn no_text_makes_the_verifier_panic_or_pass(text in "[A-Za-z0-9_.=-]{0,400}|.{0,200}") {
        let issuer = issuer();
        prop_assert!(verifier(&issuer).verify(&text, AUDIENCE, NOW).is_err());
    }

    #[test]
    fn no_header_or_claims_make_the_verifier_panic(header in ".{0,120}", claims in proptest::collection::vec(any::<u8>(), 0..200)) {
        let issuer = issuer();
        let token = format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        prop_assert!(verifier(&issuer).verify(&token, AUDIENCE, NOW).is_err());
    }

    #[test]
    fn a_token_with_one_changed_character_is_refused(at in any::<prop::sample::Index>(), c in "[A-Za-z0-9_.-]") {
        let issuer = issuer();
        let token = issuer.issue(&statement(task()), NOW, LIFE).unwrap().token;
        let mut changed: Vec<char> = token.chars().collect();
        *at.get_mut(&mut changed) = c.chars().next().unwrap();
        let changed: String = changed.into_iter().collect();
        prop_assert_eq!(verifier(&issuer).verify(&changed, AUDIENCE, NOW).is_ok(), changed == token);
    }
}

#[test]
fn the_key_that_a_token_is_bound_to_is_read_as_it_was_said() {
    let jkt: KeyId = "A".repeat(43).parse().unwrap();
    for confirmation in [Confirmation::Key(jkt), Confirmation::Certificate(bailiwick_core::Digest::of(b"der"))] {
        let issuer = issuer();
        let issued = issuer.issue(&Statement { confirmation: Some(confirmation), ..statement(task()) }, NOW, LIFE_MAX).unwrap();
        let verified = verifier(&issuer).verify(&issued.token, AUDIENCE, NOW).unwrap();
        assert_eq!((verified.confirmation, issued.confirmation), (Some(confirmation), Some(confirmation)));
    }
}
