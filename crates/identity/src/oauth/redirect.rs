//! Where an interactive client is answered: redirection endpoints (RFC 6749 section 3.1.2, RFC 8252 section 7), compared exactly.

use std::fmt;

use url::{Position, Url};

/// The longest redirect URI, in bytes.
pub(super) const REDIRECT_MAX: usize = 512;
/// Hosts of this very machine, as they stand in a URI.
const LOOPBACK: [&str; 3] = ["127.0.0.1", "[::1]", "localhost"];

/// A redirection endpoint that a client may have: `https`, `http` to this machine, or a scheme of an application's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectUri {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// `https`: the origin.
    Site(String),
    /// `http` to this machine: the host, and what stands behind host and port.
    Loopback { host: &'static str, rest: String },
    /// A scheme of an application's own.
    Application(String),
}

/// The text is no redirect URI that a client may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RedirectError(&'static str);

impl RedirectUri {
    /// Reads one. `schemes` are the schemes of applications that are allowed besides those in reverse domain form.
    ///
    /// # Errors
    /// Why a client may not have it.
    pub fn parse(text: &str, schemes: &[String]) -> Result<Self, RedirectError> {
        if text.len() > REDIRECT_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(RedirectError("a redirect URI is at most 512 bytes of visible ASCII"));
        }
        let url = Url::parse(text).map_err(|_| RedirectError("a redirect URI is an absolute URI"))?;
        //= rfc6749#section-3.1.2
        // The redirection endpoint URI MUST be an absolute URI [...] The endpoint URI MUST NOT include a fragment component.
        if url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
            return Err(RedirectError("a redirect URI has neither a fragment nor a user"));
        }
        // What we compare, show and send is one text: one that a browser would read as another is refused.
        let written = text == url.as_str() || text == url[..Position::BeforePath].to_owned() && url.path() == "/" && url.query().is_none();
        if !written || text.contains('\\') {
            return Err(RedirectError("a redirect URI is written as a browser would write it"));
        }
        let kind = match url.scheme() {
            "https" if url.host_str().is_some_and(plain) => Kind::Site(url.origin().ascii_serialization()),
            "http" => loopback(text).ok_or(RedirectError("a redirect URI with `http` is on this machine: 127.0.0.1, [::1] or localhost"))?,
            scheme if private_use(scheme) || schemes.iter().any(|s| s == scheme) => Kind::Application(scheme.to_owned()),
            _ => return Err(RedirectError("a redirect URI is `https`, `http` to this machine, or of a scheme that an application may have")),
        };
        Ok(Self { text: text.to_owned(), kind })
    }

    /// Is this what the client asked to be answered at?
    #[must_use]
    pub fn admits(&self, asked: &str) -> bool {
        //= rfc9700#section-2.1
        // When comparing client redirection URIs against pre-registered URIs, authorization servers MUST utilize exact string
        // matching except for port numbers in localhost redirection URIs of native apps
        if self.text == asked {
            return true;
        }
        //= rfc8252#section-7.3
        // The authorization server MUST allow any port to be specified at the time of the request for loopback IP redirect URIs,
        // to accommodate clients that obtain an available ephemeral port from the operating system at the time of the request.
        match (&self.kind, loopback(asked)) {
            (Kind::Loopback { host, rest }, Some(Kind::Loopback { host: other, rest: behind })) => *host == other && *rest == behind,
            _ => false,
        }
    }

    /// The very URI that was asked for, if this admits it: the same place, at the port that was asked for.
    #[must_use]
    pub fn admitted(&self, asked: &str) -> Option<Self> {
        if !self.admits(asked) {
            return None;
        }
        if self.text == asked { Some(self.clone()) } else { Self::parse(asked, &[]).ok() }
    }

    /// Is it on the machine of the person's browser, where any program can listen?
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        matches!(self.kind, Kind::Loopback { .. })
    }

    /// Who is answered, for people: the host with its port, or the application's scheme.
    #[must_use]
    pub fn place(&self) -> &str {
        match &self.kind {
            Kind::Site(origin) => origin.strip_prefix("https://").unwrap_or(origin),
            Kind::Loopback { rest, .. } => self.text.strip_prefix("http://").and_then(|t| t.strip_suffix(rest.as_str())).unwrap_or(&self.text),
            Kind::Application(scheme) => scheme,
        }
    }

    /// The source by which a `Content-Security-Policy` names it.
    #[must_use]
    pub fn source(&self) -> String {
        match &self.kind {
            Kind::Site(origin) => origin.clone(),
            Kind::Loopback { .. } => format!("http://{}", self.place()),
            Kind::Application(scheme) => format!("{scheme}:"),
        }
    }

    /// The URI with these parameters of an authorization response (RFC 6749 section 4.1.2).
    #[must_use]
    pub fn answer(&self, parameters: &[(&str, &str)]) -> String {
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        //= rfc6749#section-3.1.2
        // The endpoint URI MAY include an "application/x-www-form-urlencoded" formatted query component, which MUST be retained
        // when adding additional query parameters.
        let joint = if self.text.contains('?') { '&' } else { '?' };
        format!("{}{joint}{query}", self.text)
    }
}

impl fmt::Display for RedirectUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A name of hosts, or an address. A parser of URLs takes more (`*`, `;`, `,`), which would be read as something else where a policy for browsers names it.
fn plain(host: &str) -> bool {
    host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'[' | b']' | b':'))
}

/// Taken apart by its bytes, without a parser that might mean well.
fn loopback(text: &str) -> Option<Kind> {
    let after = text.strip_prefix("http://")?;
    let (host, behind) = LOOPBACK.iter().find_map(|host| after.strip_prefix(host).map(|rest| (*host, rest)))?;
    let rest = match behind.strip_prefix(':') {
        None => behind,
        Some(port_on) => {
            let digits = port_on.bytes().take_while(u8::is_ascii_digit).count();
            let (port, rest) = port_on.split_at_checked(digits)?;
            port.parse::<u16>().ok().filter(|p| *p > 0)?;
            rest
        }
    };
    let whole = rest.is_empty() || rest.starts_with('/');
    (whole && rest.len() <= REDIRECT_MAX && rest.bytes().all(|b| b.is_ascii_graphic() && b != b'\\' && b != b'#'))
        .then(|| Kind::Loopback { host, rest: rest.to_owned() })
}

/// A scheme that an application can call its own.
fn private_use(scheme: &str) -> bool {
    //= rfc8252#section-7.1
    // When choosing a URI scheme to associate with the app, apps MUST use a URI scheme based on a domain name under their
    // control, expressed in reverse order
    scheme.contains('.') && scheme.split('.').all(|label| !label.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uri(text: &str) -> RedirectUri {
        RedirectUri::parse(text, &["cursor".to_owned()]).unwrap()
    }

    #[test]
    fn a_client_may_be_answered_at_sites_at_this_machine_and_at_applications() {
        for (text, place, source) in [
            ("https://claude.ai/api/mcp/auth_callback", "claude.ai", "https://claude.ai"),
            ("https://a.example:8443/cb?x=1", "a.example:8443", "https://a.example:8443"),
            ("http://127.0.0.1:33418/", "127.0.0.1:33418", "http://127.0.0.1:33418"),
            ("http://127.0.0.1:33418", "127.0.0.1:33418", "http://127.0.0.1:33418"),
            ("http://localhost/callback", "localhost", "http://localhost"),
            ("http://[::1]:8080/callback", "[::1]:8080", "http://[::1]:8080"),
            ("cursor://anysphere.cursor-mcp/oauth/callback", "cursor", "cursor:"),
            ("com.example.app:/cb", "com.example.app", "com.example.app:"),
        ] {
            let read = uri(text);
            assert_eq!((read.place(), read.source().as_str()), (place, source), "{text}");
        }
    }

    #[test]
    fn nothing_else_is_a_place_to_be_answered_at() {
        for bad in [
            "",
            "/callback",
            "callback",
            "http://a.example/cb",
            "http://127.0.0.2/cb",
            "http://localhost.evil.example/cb",
            "http://127.0.0.1:80@evil.example/cb",
            "http://127.0.0.1@evil.example/cb",
            "http://127.0.0.1:99999/cb",
            "https://u@a.example/cb",
            "https://u:p@a.example/cb",
            "https://a.example/cb#f",
            "https://a.example/cb#",
            "https://A.example/cb",
            "https://a.example:443/cb",
            "https://a.example/a/../cb",
            "https://a.example\\@evil.example/",
            "https://a.example/\u{e9}",
            "https://a.example/a b",
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "vbscript:x",
            "ms-msdt:x",
            "search-ms:query=x",
            "ws://127.0.0.1/",
            "ftp://a.example/",
            ".a:/x",
            // What a parser of URLs takes for a host, and a browser's policy for something else.
            "https://*/cb",
            "https://*.a.example/cb",
            "https://a.example;script-src/cb",
            "https://a.example,b.example/cb",
            "https://'unsafe-inline'/cb",
        ] {
            assert!(RedirectUri::parse(bad, &["cursor".to_owned()]).is_err(), "{bad}");
        }
        assert!(RedirectUri::parse(&format!("https://a.example/{}", "x".repeat(REDIRECT_MAX)), &[]).is_err());
        assert!(RedirectUri::parse("cursor://x/y", &[]).is_err(), "a scheme that nobody allowed");
    }

    #[test]
    fn only_the_port_of_this_machine_may_differ() {
        let here = uri("http://127.0.0.1:1234/callback");
        for good in ["http://127.0.0.1:1234/callback", "http://127.0.0.1:9/callback", "http://127.0.0.1/callback"] {
            assert_eq!(here.admitted(good).unwrap().to_string(), good);
        }
        for bad in [
            "http://localhost:1234/callback",
            "http://[::1]:1234/callback",
            "http://127.0.0.1:1234/callback/",
            "http://127.0.0.1:1234/callback?x=1",
            "http://127.0.0.1:1234/callbac",
            "http://127.0.0.1:0/callback",
            "http://127.0.0.1:12345678/callback",
            "http://127.0.0.1:1@evil.example/callback",
            "http://127.0.0.1:1234@evil.example/callback",
            "http://127.0.0.1.evil.example/callback",
            "https://127.0.0.1:1234/callback",
            "http://127.0.0.1:1234/callback#x",
        ] {
            assert!(here.admitted(bad).is_none(), "{bad}");
        }
        let site = uri("https://a.example/cb");
        assert!(site.admits("https://a.example/cb"));
        for bad in ["https://a.example:444/cb", "https://a.example/cb/", "https://a.example/cb?x", "https://a.example.evil.example/cb"] {
            assert!(!site.admits(bad), "{bad}");
        }
    }

    #[test]
    fn an_answer_keeps_the_query_and_cannot_break_out_of_its_parameters() {
        let answer = uri("https://a.example/cb?x=1").answer(&[("state", "a&code=evil#\u{e9} \r\n"), ("iss", "https://b.example")]);
        assert_eq!(answer, "https://a.example/cb?x=1&state=a%26code%3Devil%23%C3%A9+%0D%0A&iss=https%3A%2F%2Fb.example");
        assert_eq!(uri("http://localhost/cb").answer(&[("code", "c")]), "http://localhost/cb?code=c");
    }

    proptest! {
        #[test]
        fn what_is_admitted_is_at_the_same_host_whatever_is_asked(asked in "(http|https)://(127.0.0.1|localhost|a.example)[:@/a-z0-9.\\\\#?]{0,24}") {
            for own in ["http://127.0.0.1:1/callback", "https://a.example/cb"] {
                let own = uri(own);
                if let Some(admitted) = own.admitted(&asked) {
                    let (a, b) = (Url::parse(&admitted.to_string()).unwrap(), Url::parse(&own.to_string()).unwrap());
                    prop_assert_eq!((a.scheme(), a.host_str(), a.path()), (b.scheme(), b.host_str(), b.path()));
                }
            }
        }
    }
}
