//! Token exchange (RFC 8693): the token of a task is presented, and a part of that task is asked for, in the words of RFC 9396.

use std::collections::BTreeMap;
use std::time::Duration;

use bailiwick_core::{Constraint, SystemName};
use serde::Deserialize;

use super::answer::OauthError;
use super::form::Form;
use super::request::same_resource;
use crate::strict::Object;

/// `grant_type` of token exchange.
pub const EXCHANGE_GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// The only type of token that is taken and given: an access token of ours.
pub const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// The type of a detail that asks for tools of a system.
pub const TOOL_DETAIL: &str = "bailiwick:tool";
/// The type of the detail that says what the part is for, and how much of it is wanted.
pub const TASK_DETAIL: &str = "bailiwick:task";

const AUDIENCES_MAX: usize = 8;
const DETAILS_BYTES_MAX: usize = 16 * 1024;
const TEXT_MAX: usize = 500;

/// A request for a part of a task.
#[derive(Clone, PartialEq)]
pub struct Exchange {
    /// The token of the task of which a part is asked for.
    pub subject_token: String,
    /// A token of whoever asks, beside its proof as a client.
    pub actor_token: Option<String>,
    /// What is asked for.
    pub asked: AskedPart,
}

// A bound that is no number cannot be written in JSON.
impl Eq for Exchange {}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("asked", &self.asked).finish_non_exhaustive()
    }
}

/// What is asked for of a task. What is left out is as it is in the whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AskedPart {
    /// What its tokens are to be bound to. Nobody asks for it: it is what the taker shows with the request.
    pub held_by: Option<bailiwick_core::HeldBy>,
    /// The tools; all that whoever asks may have, if none are named.
    pub tools: Option<Vec<AskedTools>>,
    /// What it is for, in words.
    pub purpose: Option<String>,
    /// The model that works on it. Claimed.
    pub model: Option<String>,
    /// Calls in all.
    pub calls: Option<u64>,
    /// Calls in any minute.
    pub calls_per_minute: Option<u32>,
    /// How long it may take.
    pub ttl: Option<Duration>,
}

/// Tools of one system, each with the same bounds on its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct AskedTools {
    /// The system.
    pub system: SystemName,
    /// The tools' own names there; `*` for all that may be had.
    pub actions: Vec<String>,
    /// Bounds by argument.
    pub constraints: BTreeMap<String, Constraint>,
}

//= rfc9396#section-2
// authorization_details: The request parameter [...] contains, in JSON notation, an array of objects. [...] type: An identifier for
// the authorization details type as a string. [...] This field is REQUIRED.
#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum Detail {
    #[serde(rename = "bailiwick:tool")]
    Tool {
        identifier: SystemName,
        actions: Vec<String>,
        #[serde(default)]
        constraints: BTreeMap<String, Constraint>,
    },
    #[serde(rename = "bailiwick:task")]
    Task { purpose: Option<String>, model: Option<String>, calls: Option<u64>, calls_per_minute: Option<u32>, ttl_seconds: Option<u64> },
}

impl Exchange {
    /// Reads the parameters of RFC 8693 section 2.1. `ours` are the resources that tokens may be for.
    pub(super) fn read(form: &Form, ours: &[String]) -> Result<Self, OauthError> {
        let required = |name, words| form.value(name).ok_or(OauthError::invalid_request(words));
        //= rfc8693#section-2.1
        // subject_token REQUIRED. [...] subject_token_type REQUIRED. An identifier, as described in Section 3, that indicates the type
        // of the security token in the "subject_token" parameter.
        let subject_token = required("subject_token", "subject_token is missing")?.to_owned();
        if required("subject_token_type", "subject_token_type is missing")? != ACCESS_TOKEN {
            return Err(OauthError::invalid_request("subject_token_type must be that of an access token"));
        }
        //= rfc8693#section-2.1
        // actor_token_type [...] This is REQUIRED when the "actor_token" parameter is present in the request but MUST NOT be included
        // otherwise.
        let actor_token = match (form.value("actor_token"), form.value("actor_token_type")) {
            (None, None) => None,
            (Some(token), Some(ACCESS_TOKEN)) => Some(token.to_owned()),
            (Some(_), Some(_)) => return Err(OauthError::invalid_request("actor_token_type must be that of an access token")),
            (Some(_), None) => return Err(OauthError::invalid_request("actor_token_type is missing")),
            (None, Some(_)) => return Err(OauthError::invalid_request("actor_token_type stands without an actor_token")),
        };
        if form.value("requested_token_type").is_some_and(|asked| asked != ACCESS_TOKEN) {
            return Err(OauthError::invalid_request("requested_token_type must be that of an access token"));
        }
        //= rfc8693#section-2.2.2
        // If the authorization server is unwilling or unable to issue a token for any target service indicated by the "resource" or
        // "audience" parameters, the "invalid_target" error code SHOULD be used in the error response.
        let audiences: Vec<&str> = form.values("audience").take(AUDIENCES_MAX.saturating_add(1)).collect();
        let known = |asked: &&str| ours.iter().any(|our| same_resource(our, asked));
        if audiences.len() > AUDIENCES_MAX || !audiences.iter().all(known) {
            return Err(OauthError::invalid_target());
        }
        let asked = form.value("authorization_details").map(details).transpose()?.unwrap_or_default();
        Ok(Self { subject_token, actor_token, asked })
    }
}

//= rfc9396#section-5
// The AS MUST refuse to process any unknown authorization details type or authorization details not conforming to the respective
// type definition. The AS MUST abort processing and respond with an error invalid_authorization_details to the client if any of the
// following are true of the objects in the authorization_details structure: contains an unknown authorization details type value, is
// an object of known type but containing unknown fields, contains fields of the wrong type for the authorization details type,
// contains fields with invalid values for the authorization details type, or is missing required fields for the authorization
// details type.
fn details(text: &str) -> Result<AskedPart, OauthError> {
    const WRONG: OauthError =
        OauthError::invalid_authorization_details("authorization_details is no array of details of the types that are supported");
    const TWICE: OauthError = OauthError::invalid_authorization_details("there is more than one detail of type bailiwick:task");
    const NOTHING: OauthError = OauthError::invalid_authorization_details("a detail names no action, or a bound that bounds nothing or is not exact");
    if text.len() > DETAILS_BYTES_MAX {
        return Err(WRONG);
    }
    // The reader of objects is strict about names that stand twice, at every depth: the array is put into one.
    let read = Object::parse(format!("{{\"details\":{text}}}").as_bytes()).map_err(|_| WRONG)?;
    let details = read.member("details").filter(|_| read.names().count() == 1).cloned().ok_or(WRONG)?;
    let details: Vec<Detail> = serde_json::from_value(details).map_err(|_| WRONG)?;
    let mut asked = AskedPart { tools: None, ..AskedPart::default() };
    let mut sized = false;
    for detail in details {
        match detail {
            Detail::Tool { identifier, actions, constraints } => {
                let vague = constraints.values().any(|c| c.is_empty() || !c.is_exact());
                if actions.is_empty() || vague {
                    return Err(NOTHING);
                }
                asked.tools.get_or_insert_default().push(AskedTools { system: identifier, actions, constraints });
            }
            Detail::Task { purpose, model, calls, calls_per_minute, ttl_seconds } => {
                if std::mem::replace(&mut sized, true) {
                    return Err(TWICE);
                }
                let long = |text: &Option<String>| text.as_ref().is_some_and(|t| t.trim().is_empty() || t.len() > TEXT_MAX);
                if long(&purpose) || long(&model) || ttl_seconds == Some(0) {
                    return Err(WRONG);
                }
                asked = AskedPart { purpose, model, calls, calls_per_minute, ttl: ttl_seconds.map(Duration::from_secs), ..asked };
            }
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::{GrantType, TokenRequest};
    use proptest::prelude::*;

    const CLIENT: &str = "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=a.b.c";

    fn parse(fields: &[(&str, &str)]) -> Result<Exchange, OauthError> {
        let ours = ["https://gw.example/mcp".to_owned()];
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let body = format!("{CLIENT}&grant_type={}&{form}", EXCHANGE_GRANT.replace(':', "%3A"));
        match TokenRequest::parse(body.as_bytes(), &ours)?.grant {
            GrantType::TokenExchange(exchange) => Ok(*exchange),
            other => panic!("{other:?}"),
        }
    }

    const SUBJECT: [(&str, &str); 2] = [("subject_token", "s.s.s"), ("subject_token_type", ACCESS_TOKEN)];

    fn with(more: &[(&str, &str)]) -> Result<Exchange, OauthError> {
        parse(&[&SUBJECT, more].concat())
    }

    fn error(more: &[(&str, &str)]) -> &'static str {
        with(more).unwrap_err().error()
    }

    #[test]
    fn an_exchange_is_read_with_all_that_it_asks_for() {
        let details =
            r#"[{"type":"bailiwick:tool","identifier":"shop","actions":["show_order","refund_order"],"constraints":{"amount_cents":{"max":500}}},
            {"type":"bailiwick:task","purpose":"refund","ttl_seconds":60,"calls":3,"calls_per_minute":2,"model":"m-1"}]"#
                .replace('\n', "");
        let actor = [("actor_token", "a.a.a"), ("actor_token_type", ACCESS_TOKEN)];
        let more = [("authorization_details", details.as_str()), ("requested_token_type", ACCESS_TOKEN), ("audience", "https://gw.example/mcp/")];
        let exchange = with(&[&actor[..], &more].concat()).unwrap();
        assert_eq!((exchange.subject_token.as_str(), exchange.actor_token.as_deref()), ("s.s.s", Some("a.a.a")));
        let asked = exchange.asked;
        assert_eq!(
            (asked.purpose.as_deref(), asked.ttl, asked.calls, asked.calls_per_minute),
            (Some("refund"), Some(Duration::from_secs(60)), Some(3), Some(2))
        );
        let tools = asked.tools.unwrap();
        assert_eq!((tools[0].system.as_str(), tools[0].actions.len(), tools[0].constraints["amount_cents"].max), ("shop", 2, Some(500.0)));
        assert_eq!(with(&[]).unwrap().asked, AskedPart::default());
    }

    #[test]
    fn every_parameter_that_the_standard_demands_or_forbids_is_looked_at() {
        assert_eq!(parse(&SUBJECT[..1]).unwrap_err().error(), "invalid_request");
        assert_eq!(parse(&SUBJECT[1..]).unwrap_err().error(), "invalid_request");
        for of in ["refresh_token", "id_token", "jwt", "saml1", "saml2"] {
            let other = format!("urn:ietf:params:oauth:token-type:{of}");
            assert_eq!(parse(&[SUBJECT[0], ("subject_token_type", &other)]).unwrap_err().error(), "invalid_request", "{of}");
            assert_eq!(error(&[("requested_token_type", &other)]), "invalid_request", "{of}");
            assert_eq!(error(&[("actor_token", "a"), ("actor_token_type", &other)]), "invalid_request", "{of}");
        }
        assert_eq!(error(&[("actor_token", "a")]), "invalid_request");
        assert_eq!(error(&[("actor_token_type", ACCESS_TOKEN)]), "invalid_request");
        assert_eq!(error(&[("audience", "https://evil.example/mcp")]), "invalid_target");
        assert_eq!(error(&[("audience", "https://gw.example/mcp"), ("audience", "other")]), "invalid_target");
        assert_eq!(error(&[("resource", "https://evil.example/mcp")]), "invalid_target");
        assert_eq!(error(&[("scope", "a\"")]), "invalid_scope");
        assert_eq!(error(&[("subject_token", "twice")]), "invalid_request");
    }

    #[test]
    fn a_detail_that_is_not_wholly_understood_is_refused() {
        for bad in [
            "",
            "{}",
            "[1]",
            r#"[{"identifier":"shop","actions":["a"]}]"#,
            r#"[{"type":"other","identifier":"shop","actions":["a"]}]"#,
            r#"[{"type":"bailiwick:tool","identifier":"shop"}]"#,
            r#"[{"type":"bailiwick:tool","identifier":"shop","actions":[]}]"#,
            r#"[{"type":"bailiwick:tool","identifier":"Shop","actions":["a"]}]"#,
            r#"[{"type":"bailiwick:tool","identifier":"shop","actions":["a"],"more":1}]"#,
            r#"[{"type":"bailiwick:tool","identifier":"shop","identifier":"bank","actions":["a"]}]"#,
            r#"[{"type":"bailiwick:tool","identifier":"shop","actions":["a"],"constraints":{"n":{}}}]"#,
            r#"[{"type":"bailiwick:tool","identifier":"shop","actions":["a"],"constraints":{"n":{"max":9007199254740994}}}]"#,
            r#"[{"type":"bailiwick:tool","identifier":"shop","actions":["a"],"constraints":{"n":{"most":1}}}]"#,
            r#"[{"type":"bailiwick:task"},{"type":"bailiwick:task"}]"#,
            r#"[{"type":"bailiwick:task","purpose":" "}]"#,
            r#"[{"type":"bailiwick:task","ttl_seconds":0}]"#,
            r#"[{"type":"bailiwick:task","calls":-1}]"#,
            r#"[],"more":[]"#,
            "[]}",
        ] {
            let error = if bad.is_empty() { details(bad).unwrap_err().error() } else { error(&[("authorization_details", bad)]) };
            assert_eq!(error, "invalid_authorization_details", "{bad}");
        }
        let deep = format!("[{}{}]", "[".repeat(5000), "]".repeat(5000));
        assert!(details(&deep).is_err() && details(&"[".repeat(20_000)).is_err());
    }

    #[test]
    fn a_request_does_not_show_its_tokens() {
        let shown = format!("{:?}", with(&[("actor_token", "hunter2"), ("actor_token_type", ACCESS_TOKEN)]).unwrap());
        assert!(!shown.contains("hunter2") && !shown.contains("s.s.s"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_details_make_it_panic(text in r#"[\[\]{}":,a-z0-9]{0,60}"#) {
            let _ = details(&text).is_ok();
        }
    }
}
