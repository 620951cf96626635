//! Browsers on other sites (the CORS protocol of the Fetch standard): those that the configuration names may read what an MCP client needs, and
//! nothing else. Never with credentials: no cookie of ours is sent or taken.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

use crate::house::House;
use crate::mcp;

/// What a client's requests may carry beside what every site's may.
const TAKEN: [&str; 9] =
    ["authorization", "content-type", "dpop", "last-event-id", "mcp-method", "mcp-name", "mcp-protocol-version", "mcp-session-id", "traceparent"];
/// Arguments of a call that are repeated as headers (MCP 2026-07-28).
const PARAMETER: &str = "mcp-param-";
/// What it may read of an answer.
const SHOWN: HeaderValue = HeaderValue::from_static("WWW-Authenticate, DPoP-Nonce, Mcp-Session-Id, MCP-Protocol-Version, Retry-After");
/// How long a browser may keep our yes, in seconds.
const KEPT: HeaderValue = HeaderValue::from_static("600");
/// The most headers that are asked for, and how long their list may be, in bytes.
const ASKED_MAX: usize = 64;
const LIST_MAX: usize = 4096;

/// A browser on another site that may read an answer.
#[derive(Debug)]
pub(crate) struct Browser {
    origin: HeaderValue,
    methods: &'static str,
}

/// The methods of a path that clients in browsers need; none for every other path, the API and the pages of people among them.
fn methods(path: &str) -> Option<&'static str> {
    const RESOURCE: &str = "/.well-known/oauth-protected-resource";
    match path {
        _ if mcp::is_mcp(path) => Some("GET, POST, DELETE"),
        "/oauth/token" | "/oauth/register" | "/oauth/revoke" => Some("POST"),
        "/.well-known/oauth-authorization-server" | "/.well-known/jwks.json" => Some("GET"),
        _ if path.strip_prefix(RESOURCE).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) => Some("GET"),
        _ => None,
    }
}

impl Browser {
    /// Who asks from another site, if the configuration names that site and the path is one for it. A name that was bound to our address
    /// behind our back is not ours, whatever the site.
    pub(crate) fn of(house: &House, path: &str, headers: &HeaderMap) -> Option<Self> {
        let methods = methods(path)?;
        let mut origins = headers.get_all(ORIGIN).iter();
        let origin = origins.next().filter(|_| origins.next().is_none())?;
        let named = house.config.allowed_origins.iter().any(|o| o.as_bytes() == origin.as_bytes());
        (named && mcp::check_host(house, headers).is_ok()).then(|| Self { origin: origin.clone(), methods })
    }

    /// What is answered (204) to the question that a browser asks before its request, if this is that question.
    pub(crate) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<HeaderMap> {
        if *method != Method::OPTIONS || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut answer = HeaderMap::new();
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(self.methods));
        answer.insert(ACCESS_CONTROL_MAX_AGE, KEPT);
        if let Some(taken) = HeaderValue::from_str(&taken(headers)).ok().filter(|t| !t.is_empty()) {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, taken);
        }
        Some(answer)
    }

    /// Lets the site read the answer.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone());
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, SHOWN);
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
}

/// May this be the origin of a site that the configuration names? A star, `null` and an address with more than an origin are none.
///
/// # Errors
/// In words.
pub(crate) fn check_origin(text: &str) -> Result<(), String> {
    let wrong = || format!("`{}` is no origin", text.escape_debug());
    let (scheme, host) = text.split_once("://").ok_or_else(wrong)?;
    let plain = |text: &str, more: &[u8]| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || more.contains(&b));
    if plain(scheme, b"+.-") && plain(host, b".-:[]_") { Ok(()) } else { Err(wrong()) }
}

/// Those of the headers that are asked for that a client may send.
fn taken(headers: &HeaderMap) -> String {
    let asked = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter().filter_map(|v| v.to_str().ok()).filter(|v| v.len() <= LIST_MAX);
    let names = asked.flat_map(|list| list.split(',')).map(|name| name.trim().to_ascii_lowercase()).take(ASKED_MAX);
    let plain = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let taken: Vec<String> = names.filter(|name| TAKEN.contains(&name.as_str()) || name.strip_prefix(PARAMETER).is_some_and(plain)).collect();
    taken.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_and_operators_use_is_for_no_other_site() {
        for path in [
            "/v1/tasks",
            "/v1/holds",
            "/approvals",
            "/sign-in",
            "/consent",
            "/oauth/authorize",
            "/oauth/introspect",
            "/account",
            "/events",
            "/metrics",
            "/",
        ] {
            assert!(methods(path).is_none(), "{path}");
        }
        for path in ["/mcpx", "/.well-known/oauth-protected-resourcex", "/oauth/token/", "/.well-known/openid-configuration"] {
            assert!(methods(path).is_none(), "{path}");
        }
        assert_eq!(methods("/mcp/s/shop"), Some("GET, POST, DELETE"));
        assert_eq!(methods("/.well-known/oauth-protected-resource/mcp/s/shop"), Some("GET"));
    }

    #[test]
    fn a_site_is_named_by_its_origin_and_never_by_a_star() {
        for good in ["https://app.example", "http://localhost:6274", "http://[::1]:80", "vscode-webview://abc123"] {
            assert!(check_origin(good).is_ok(), "{good}");
        }
        for bad in [
            "*",
            "null",
            "",
            "https://",
            "https://*.example",
            "https://app.example/",
            "https://user@app.example",
            "https://App.example",
            "app.example",
            "https://a b",
        ] {
            assert!(check_origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_client_sends_what_the_protocol_has_and_nothing_else() {
        let asked = |list: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_str(list).unwrap());
            taken(&headers)
        };
        assert_eq!(asked("authorization, Content-Type,mcp-session-id"), "authorization, content-type, mcp-session-id");
        assert_eq!(asked("mcp-param-region, mcp-param-, mcp-param-a b, cookie, x-forwarded-for, *, host"), "mcp-param-region");
        assert_eq!(asked(""), "");
    }

    proptest! {
        #[test]
        fn no_list_of_headers_makes_more_than_was_asked_for(list in "[ -~]{0,200}") {
            let mut headers = HeaderMap::new();
            headers.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_str(&list).unwrap());
            let answer = taken(&headers);
            prop_assert!(answer.split(", ").filter(|n| !n.is_empty()).all(|name| list.to_ascii_lowercase().contains(name)));
            prop_assert!(HeaderValue::from_str(&answer).is_ok());
        }
    }
}
