//! What an interactive client says of itself: a client ID metadata document, or a registration (RFC 7591). None of it is believed; it
//! is bounded, shown to a person, and decides where an answer may go.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use super::answer::OauthError;
use super::redirect::RedirectUri;
use crate::foreign::KeySet;
use crate::keys::Algorithm;
use crate::strict::Object;

/// The longest metadata document or registration, in bytes.
pub const METADATA_MAX: usize = 5 * 1024;
/// The longest name of a client, in characters.
const NAME_MAX: usize = 100;
/// The longest URL that is a client's ID, in bytes.
const URL_MAX: usize = 512;
/// The most redirect URIs of one client.
const REDIRECTS_MAX: usize = 16;
/// What all that a registration keeps may be long, in bytes: it travels in the client's ID.
const KEPT_MAX: usize = 1200;

/// A client ID that is a URL, at which the client's metadata is read (draft-ietf-oauth-client-id-metadata-document).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientIdUrl {
    text: String,
    host: String,
    port: u16,
}

/// The text is no URL that can be a client's ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a client ID is an https URL with a host name and a path, without user, query and fragment")]
pub struct ClientIdError;

impl FromStr for ClientIdUrl {
    type Err = ClientIdError;
    fn from_str(text: &str) -> Result<Self, ClientIdError> {
        let url = Url::parse(text).map_err(|_| ClientIdError)?;
        //= draft-ietf-oauth-client-id-metadata-document#section-3
        // Client identifier URLs MUST have an "https" scheme, MUST contain a path component, MUST NOT contain single-dot or
        // double-dot path segments, MUST NOT contain a fragment component and MUST NOT contain a username or password component.
        // That no parser changes the text rules out the dots, and every other way to write one URL twice.
        let plain = text.len() <= URL_MAX && url.as_str() == text && url.fragment().is_none() && url.query().is_none();
        let nobody = url.username().is_empty() && url.password().is_none();
        let Some(url::Host::Domain(host)) = url.host() else { return Err(ClientIdError) };
        if url.scheme() != "https" || !plain || !nobody || url.path().len() < 2 || host.ends_with('.') {
            return Err(ClientIdError);
        }
        Ok(Self { host: host.to_owned(), port: url.port().unwrap_or(443), text: text.to_owned() })
    }
}

impl ClientIdUrl {
    /// The host's name: who vouches for the client.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The host, with its port if that is not the usual one.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == 443 { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.strip_prefix("https://").and_then(|rest| rest.find('/').and_then(|at| rest.get(at..))).unwrap_or("/")
    }

    /// The whole.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for ClientIdUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a client says of itself, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientMetadata {
    /// What it calls itself. Anything a stranger likes: show it as such.
    pub name: String,
    /// Where it may be answered.
    pub redirect_uris: Vec<RedirectUri>,
    /// What it proves itself with at the token endpoint.
    pub keys: ClientKeys,
    /// The one algorithm by which it signs what it proves itself with, if it says one (`token_endpoint_auth_signing_alg`).
    pub signs_by: Option<Algorithm>,
    /// Are all its tokens bound to a key of its own (`dpop_bound_access_tokens`)?
    pub bound: bool,
}

/// What a client proves itself with (`token_endpoint_auth_method`, RFC 7591 section 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientKeys {
    /// `none`: it is a public client.
    Public,
    /// `private_key_jwt`, with keys that stand in its document.
    Here(KeySet),
    /// `private_key_jwt`, with keys that stand elsewhere.
    At(ClientIdUrl),
}

/// Why a client is not taken (RFC 7591 section 3.2.2).
const fn wrong(description: &'static str) -> OauthError {
    OauthError::named("invalid_client_metadata", description)
}

const fn wrong_redirect(description: &'static str) -> OauthError {
    OauthError::named("invalid_redirect_uri", description)
}

impl ClientMetadata {
    /// Reads the document at a client's ID. `schemes` are schemes of applications that are allowed for redirect URIs.
    ///
    /// # Errors
    /// Why the client is not taken.
    pub fn of_document(id: &ClientIdUrl, bytes: &[u8], schemes: &[String]) -> Result<Self, OauthError> {
        let document = object(bytes)?;
        //= draft-ietf-oauth-client-id-metadata-document#section-4.1
        // The client metadata document MUST contain a client_id property [...] its value MUST match the URL of the document
        // using simple string comparison
        if document.text("client_id").ok() != Some(id.as_str()) {
            return Err(wrong("client_id in the document is not the document's URL"));
        }
        //= draft-ietf-oauth-client-id-metadata-document#section-4.1
        // The client_secret and client_secret_expires_at properties MUST NOT be used.
        if document.member("client_secret").is_some() || document.member("client_secret_expires_at").is_some() {
            return Err(wrong("a document that everybody reads has no client_secret"));
        }
        let keys = keys(&document)?;
        let signs_by = if keys == ClientKeys::Public { None } else { signs_by(&document)? };
        Ok(Self { keys, signs_by, ..read(&document, schemes)? })
    }

    /// Reads a registration. `schemes` are schemes of applications that are allowed for redirect URIs.
    ///
    /// # Errors
    /// Why the client is not registered.
    pub fn of_registration(bytes: &[u8], schemes: &[String]) -> Result<Self, OauthError> {
        //= rfc7591#section-2
        // The authorization server [...] MAY reject or replace any of the client's requested metadata values submitted during the
        // registration and substitute them with suitable values.
        // Whatever way of authentication is asked for, the answer says `none`.
        let metadata = read(&object(bytes)?, schemes)?;
        let kept: usize = metadata.redirect_uris.iter().map(|uri| uri.to_string().len().saturating_add(3)).sum();
        if kept.saturating_add(metadata.name.len()) > KEPT_MAX {
            return Err(wrong("name and redirect URIs are too long in all"));
        }
        Ok(metadata)
    }

    /// The redirect URI of this client that a request means.
    #[must_use]
    pub fn redirect(&self, asked: Option<&str>) -> Option<RedirectUri> {
        match (asked, self.redirect_uris.as_slice()) {
            (Some(asked), all) => all.iter().find_map(|uri| uri.admitted(asked)),
            //= rfc6749#section-3.1.2.3
            // If multiple redirection URIs have been registered [...] the client MUST include a redirection URI with the
            // authorization request using the "redirect_uri" request parameter.
            (None, [only]) => Some(only.clone()),
            (None, _) => None,
        }
    }

    /// Would its answers reach whatever program listens on the person's machine, and nothing else?
    #[must_use]
    pub fn is_loopback_only(&self) -> bool {
        self.redirect_uris.iter().all(RedirectUri::is_loopback)
    }
}

fn object(bytes: &[u8]) -> Result<Object, OauthError> {
    if bytes.len() > METADATA_MAX {
        return Err(wrong("the metadata is longer than 5 KB"));
    }
    Object::parse(bytes).map_err(|_| wrong("the metadata is no JSON object with unique names"))
}

/// What a document says that its client proves itself with.
fn keys(document: &Object) -> Result<ClientKeys, OauthError> {
    match document.text_if("token_endpoint_auth_method") {
        Ok(None | Some("none")) => return Ok(ClientKeys::Public),
        Ok(Some("private_key_jwt")) => {}
        //= draft-ietf-oauth-client-id-metadata-document#section-4.1
        // the token_endpoint_auth_method property MUST NOT include client_secret_post, client_secret_basic, client_secret_jwt, or any other
        // method based around a shared symmetric secret
        _ => return Err(wrong("token_endpoint_auth_method must be none or private_key_jwt")),
    }
    //= rfc7591#section-2
    // The "jwks_uri" and "jwks" parameters MUST NOT both be present in the same request or response.
    match (document.member("jwks"), document.text_if("jwks_uri")) {
        (Some(set), Ok(None)) => {
            let set = KeySet::jwks(set.to_string().as_bytes()).map_err(|_| wrong("jwks has no key that is taken"))?;
            Ok(ClientKeys::Here(set))
        }
        (None, Ok(Some(uri))) => {
            uri.parse().map(ClientKeys::At).map_err(|_| wrong("jwks_uri is an https URL with a host name and a path, without a query"))
        }
        _ => Err(wrong("a client that proves itself with private_key_jwt has jwks or jwks_uri, and not both")),
    }
}

//= https://openid.net/specs/openid-connect-registration-1_0.html#ClientMetadata
// token_endpoint_auth_signing_alg OPTIONAL. JWS alg algorithm that MUST be used for signing the JWT used to authenticate the Client at
// the Token Endpoint for the private_key_jwt and client_secret_jwt authentication methods. All Token Requests using these authentication
// methods from this Client MUST be rejected, if the JWT is not signed with this algorithm. [...] The value none MUST NOT be used.
fn signs_by(document: &Object) -> Result<Option<Algorithm>, OauthError> {
    const WRONG: OauthError = wrong("token_endpoint_auth_signing_alg is no algorithm that is taken");
    let name = document.text_if("token_endpoint_auth_signing_alg").map_err(|_| WRONG)?;
    name.map(|name| Algorithm::from_name(name).ok_or(WRONG)).transpose()
}

//= rfc9449#section-5.2
// dpop_bound_access_tokens: A boolean value specifying whether the client always uses DPoP for token requests. If omitted, the default
// value is false.
fn bound(object: &Object) -> Result<bool, OauthError> {
    match object.member("dpop_bound_access_tokens") {
        None => Ok(false),
        Some(Value::Bool(bound)) => Ok(*bound),
        Some(_) => Err(wrong("dpop_bound_access_tokens is true or false")),
    }
}

fn texts<'a>(object: &'a Object, name: &'static str) -> Result<Option<Vec<&'a str>>, OauthError> {
    const LIST: OauthError = wrong("a list of the metadata is no list of texts");
    let Some(value) = object.member(name) else { return Ok(None) };
    let all = value.as_array().ok_or(LIST)?;
    all.iter().map(|v| v.as_str().ok_or(LIST)).collect::<Result<Vec<_>, _>>().map(Some)
}

fn read(object: &Object, schemes: &[String]) -> Result<ClientMetadata, OauthError> {
    let name = object.text_if("client_name").map_err(|_| wrong("client_name is no text"))?.unwrap_or("").trim();
    if name.chars().count() > NAME_MAX {
        return Err(wrong("client_name is longer than 100 characters"));
    }
    let takes = |list: Option<Vec<&str>>, word: &str| list.is_none_or(|l| l.contains(&word));
    if !takes(texts(object, "grant_types")?, "authorization_code") || !takes(texts(object, "response_types")?, "code") {
        return Err(wrong("use the grant authorization_code and the response type code"));
    }
    let given = texts(object, "redirect_uris")?.unwrap_or_default();
    if given.is_empty() || given.len() > REDIRECTS_MAX {
        return Err(wrong_redirect("redirect_uris must be 1 to 16"));
    }
    let parse = |text: &&str| RedirectUri::parse(text, schemes);
    let redirect_uris = given.iter().map(parse).collect::<Result<Vec<_>, _>>().map_err(|_| {
        wrong_redirect("a redirect URI is https, http to this machine, or of a scheme that an application may have; as a browser would write it")
    })?;
    Ok(ClientMetadata {
        name: if name.is_empty() { "a client without a name".to_owned() } else { name.to_owned() },
        redirect_uris,
        keys: ClientKeys::Public,
        signs_by: None,
        bound: bound(object)?,
    })
}

/// A registration as it travels, sealed, in the ID that the client was given.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    #[serde(rename = "n")]
    name: String,
    #[serde(rename = "r")]
    redirect_uris: Vec<String>,
    #[serde(rename = "b", default, skip_serializing_if = "std::ops::Not::not")]
    bound: bool,
    /// After this, in seconds since 1970, the client registers again.
    #[serde(rename = "x")]
    pub until: i64,
}

impl Registration {
    /// What is kept of a client that registers.
    #[must_use]
    pub fn new(metadata: &ClientMetadata, until: i64) -> Self {
        let redirect_uris = metadata.redirect_uris.iter().map(ToString::to_string).collect();
        Self { name: metadata.name.clone(), redirect_uris, bound: metadata.bound, until }
    }

    /// What the client said. Its redirect URIs are judged again, as the configuration allows them now.
    ///
    /// # Errors
    /// If one of them is not allowed any more.
    pub fn metadata(&self, schemes: &[String]) -> Result<ClientMetadata, OauthError> {
        let uris = self.redirect_uris.iter().map(|text| RedirectUri::parse(text, schemes)).collect::<Result<Vec<_>, _>>();
        let redirect_uris = uris.map_err(|_| wrong_redirect("a redirect URI is not allowed any more"))?;
        Ok(ClientMetadata { name: self.name.clone(), redirect_uris, keys: ClientKeys::Public, signs_by: None, bound: self.bound })
    }

    /// The answer to the client (RFC 7591 section 3.2.1).
    #[must_use]
    pub fn answer(&self, client_id: &str, issued_at: i64) -> Value {
        json!({
            "client_id": client_id,
            "client_id_issued_at": issued_at,
            "client_name": self.name,
            "redirect_uris": self.redirect_uris,
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
            "dpop_bound_access_tokens": self.bound,
            "scope": crate::token::TOOLS_SCOPE,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "https://c.example/client.json";

    fn document(change: &[(&str, Value)]) -> Result<ClientMetadata, OauthError> {
        let mut all =
            json!({ "client_id": ID, "client_name": "C", "redirect_uris": ["http://127.0.0.1/cb", "https://c.example/cb"], "logo_uri": "x" });
        for (name, value) in change {
            all[*name] = value.clone();
        }
        ClientMetadata::of_document(&ID.parse().unwrap(), all.to_string().as_bytes(), &[])
    }

    #[test]
    fn a_client_id_is_a_url_that_can_be_written_in_one_way_only() {
        let id: ClientIdUrl = "https://c.example:8443/a/b".parse().unwrap();
        assert_eq!((id.host(), id.port(), id.path(), id.authority().as_str()), ("c.example", 8443, "/a/b", "c.example:8443"));
        for bad in [
            "http://c.example/a",
            "https://c.example",
            "https://c.example/",
            "https://c.example/a/../b",
            "https://c.example/./b",
            "https://c.example/%2e%2e/b",
            "https://c.example/a#f",
            "https://c.example/a?q",
            "https://u@c.example/a",
            "https://u:p@c.example/a",
            "https://C.example/a",
            "https://c.example:443/a",
            "https://c.example./a",
            "https://127.0.0.1/a",
            "https://2130706433/a",
            "https://[::1]/a",
            "https://0x7f.1/a",
            "https:c.example/a",
            "https://c.example\\a",
            "c.example/a",
            "",
        ] {
            assert!(bad.parse::<ClientIdUrl>().is_err(), "{bad}");
        }
        assert!(format!("https://c.example/{}", "x".repeat(URL_MAX)).parse::<ClientIdUrl>().is_err());
    }

    #[test]
    fn a_document_is_of_its_url_and_of_a_public_client() {
        let read = document(&[]).unwrap();
        assert_eq!((read.name.as_str(), read.redirect_uris.len(), read.is_loopback_only()), ("C", 2, false));
        for (name, value) in [
            ("client_id", json!("https://c.example/other")),
            ("client_id", json!("https://c.example/client.json/")),
            ("client_id", json!(1)),
            ("client_secret", json!("x")),
            ("client_secret_expires_at", json!(0)),
            ("token_endpoint_auth_method", json!("client_secret_basic")),
            ("token_endpoint_auth_method", json!("client_secret_jwt")),
            ("token_endpoint_auth_method", json!("private_key_jwt")),
            ("grant_types", json!(["client_credentials"])),
            ("grant_types", json!("authorization_code")),
            ("response_types", json!(["token"])),
            ("client_name", json!(["C"])),
            ("client_name", json!("x".repeat(101))),
        ] {
            assert_eq!(document(&[(name, value.clone())]).unwrap_err().error(), "invalid_client_metadata", "{name} {value}");
        }
        for uris in
            [json!([]), json!(["http://c.example/cb"]), json!(["javascript:x"]), json!(vec!["https://c.example/cb"; 17]), json!(["cursor://x"])]
        {
            assert_eq!(document(&[("redirect_uris", uris.clone())]).unwrap_err().error(), "invalid_redirect_uri", "{uris}");
        }
        let twice = format!(r#"{{"client_id":"{ID}","client_id":"{ID}","redirect_uris":["https://c.example/cb"]}}"#);
        assert!(ClientMetadata::of_document(&ID.parse().unwrap(), twice.as_bytes(), &[]).is_err());
        assert!(document(&[("x", json!("x".repeat(METADATA_MAX)))]).is_err());
    }

    #[test]
    fn a_client_with_keys_says_where_they_are_once_and_shares_none() {
        let (key, _) = crate::keys::SigningKey::generate().unwrap();
        let set = json!({ "keys": [key.public().jwk()] });
        let with = |change: &[(&str, Value)]| {
            let mut all = vec![("token_endpoint_auth_method", json!("private_key_jwt"))];
            all.extend_from_slice(change);
            document(&all).map(|metadata| metadata.keys)
        };
        assert!(matches!(with(&[("jwks", set.clone())]).unwrap(), ClientKeys::Here(keys) if keys.has(key.public().id())));
        let at = with(&[("jwks_uri", json!("https://c.example/keys"))]).unwrap();
        assert_eq!(at, ClientKeys::At("https://c.example/keys".parse().unwrap()));
        // A document that says no more than that its client has keys is one of a public client only if it says so.
        assert_eq!(document(&[("jwks", set.clone())]).unwrap().keys, ClientKeys::Public);
        for bad in [
            vec![],
            vec![("jwks", set), ("jwks_uri", json!("https://c.example/keys"))],
            vec![("jwks", json!({ "keys": [] }))],
            vec![("jwks", json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0" }] }))],
            vec![("jwks_uri", json!("http://c.example/keys"))],
            vec![("jwks_uri", json!("https://127.0.0.1/keys"))],
            vec![("jwks_uri", json!("https://c.example/keys?x"))],
            vec![("jwks_uri", json!(1))],
        ] {
            assert_eq!(with(&bad).unwrap_err().error(), "invalid_client_metadata", "{bad:?}");
        }
    }

    #[test]
    fn what_a_document_says_of_algorithm_and_binding_is_kept_or_the_document_is_refused() {
        let (key, _) = crate::keys::SigningKey::generate().unwrap();
        let keyed = [("token_endpoint_auth_method", json!("private_key_jwt")), ("jwks", json!({ "keys": [key.public().jwk()] }))];
        let with = |change: &[(&str, Value)]| document(&[&keyed, change].concat());
        assert_eq!(with(&[]).unwrap().signs_by, None);
        for (name, algorithm) in [("EdDSA", Algorithm::EdDsa), ("Ed25519", Algorithm::EdDsa), ("ES256", Algorithm::Es256)] {
            assert_eq!(with(&[("token_endpoint_auth_signing_alg", json!(name))]).unwrap().signs_by, Some(algorithm));
        }
        for bad in [json!("none"), json!("HS256"), json!("es256"), json!(""), json!(["ES256"]), json!(null)] {
            assert_eq!(with(&[("token_endpoint_auth_signing_alg", bad.clone())]).unwrap_err().error(), "invalid_client_metadata", "{bad}");
        }
        assert_eq!((document(&[]).unwrap().bound, document(&[("dpop_bound_access_tokens", json!(true))]).unwrap().bound), (false, true));
        assert!(!document(&[("dpop_bound_access_tokens", json!(false))]).unwrap().bound);
        for bad in [json!("true"), json!(1), json!(null)] {
            assert_eq!(document(&[("dpop_bound_access_tokens", bad.clone())]).unwrap_err().error(), "invalid_client_metadata", "{bad}");
        }
    }

    #[test]
    fn a_request_without_a_redirect_uri_is_answered_only_where_there_is_one_place() {
        let two = document(&[]).unwrap();
        assert!(two.redirect(None).is_none());
        assert_eq!(two.redirect(Some("http://127.0.0.1:7/cb")).unwrap().to_string(), "http://127.0.0.1:7/cb");
        assert!(two.redirect(Some("https://c.example/cb2")).is_none());
        let one = document(&[("redirect_uris", json!(["https://c.example/cb"]))]).unwrap();
        assert_eq!(one.redirect(None).unwrap().to_string(), "https://c.example/cb");
    }

    #[test]
    fn a_registration_is_what_the_client_said_and_becomes_a_public_client() {
        let body = json!({ "redirect_uris": ["http://localhost:9/callback"], "token_endpoint_auth_method": "client_secret_post", "scope": "admin" });
        let metadata = ClientMetadata::of_registration(body.to_string().as_bytes(), &[]).unwrap();
        let registration = Registration::new(&metadata, 5);
        let again: Registration = serde_json::from_str(&serde_json::to_string(&registration).unwrap()).unwrap();
        assert_eq!(again.metadata(&[]).unwrap(), metadata);
        let answer = registration.answer("id", 1);
        assert_eq!(
            (&answer["token_endpoint_auth_method"], &answer["scope"], &answer["client_id"]),
            (&json!("none"), &json!("mcp:tools"), &json!("id"))
        );
        assert!(answer.get("client_secret").is_none() && answer["dpop_bound_access_tokens"] == false);
        let bound = json!({ "redirect_uris": ["http://localhost:9/callback"], "dpop_bound_access_tokens": true }).to_string();
        let bound = Registration::new(&ClientMetadata::of_registration(bound.as_bytes(), &[]).unwrap(), 5);
        let again: Registration = serde_json::from_str(&serde_json::to_string(&bound).unwrap()).unwrap();
        assert!(again.metadata(&[]).unwrap().bound && again.answer("id", 1)["dpop_bound_access_tokens"] == true);
        // One that was registered before anybody could say so did not.
        assert!(!serde_json::from_str::<Registration>(r#"{"n":"C","r":["http://localhost:9/callback"],"x":5}"#).unwrap().bound);
        let long: Vec<String> = (0..16).map(|n| format!("https://c.example/{n}/{}", "x".repeat(100))).collect();
        assert!(ClientMetadata::of_registration(json!({ "redirect_uris": long }).to_string().as_bytes(), &[]).is_err());
    }

    #[test]
    fn a_scheme_that_is_not_allowed_any_more_takes_the_registration_with_it() {
        let schemes = ["cursor".to_owned()];
        let body = json!({ "redirect_uris": ["cursor://a/b"] }).to_string();
        let metadata = ClientMetadata::of_registration(body.as_bytes(), &schemes).unwrap();
        assert!(Registration::new(&metadata, 5).metadata(&schemes).is_ok());
        assert!(Registration::new(&metadata, 5).metadata(&[]).is_err());
    }

    proptest! {
        #[test]
        fn no_metadata_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "\\{\"(client_id|redirect_uris|client_name)\":\\PC{0,80}\\}", url in "https://\\PC{0,40}") {
            for bytes in [bytes.as_slice(), text.as_bytes()] {
                let _ = ClientMetadata::of_registration(bytes, &[]).is_ok();
                let _ = ClientMetadata::of_document(&ID.parse().unwrap(), bytes, &[]).is_ok();
            }
            if let Ok(id) = url.parse::<ClientIdUrl>() {
                let read = Url::parse(id.as_str()).unwrap();
                prop_assert_eq!(read.host_str().unwrap(), id.host());
            }
        }
    }
}
