//! Signing in with the provider: the browser goes there with what only it can bring back, and comes back as somebody or as nobody.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use bailiwick_core::{Digest, PersonName, Timestamp};
use bailiwick_credentials::kinds::oauth2::Login;
use bailiwick_credentials::kinds::oauth2::code::CodeExchange;
use bailiwick_credentials::kinds::signing::Key;
use bailiwick_credentials::kinds::web::Endpoint;
use bailiwick_identity::ProofError;
use bailiwick_identity::foreign::KeySet;
use bailiwick_identity::sign_in::{Expected, LoggedOut, Provider, SignedIn, logout, verify};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;
use url::Url;

use super::directory::ChangeError;
use super::provider::OpenIdProvider;
use super::{Upstream, Way, WebSession, secret};
use crate::config::{ClientLogin, ProviderConfig};
use crate::entry;
use crate::house::House;
use crate::passkeys::FRESH;
use crate::proofs::verified;

/// How long a person may take at the provider.
pub(crate) const FLOW_LIFE: Duration = Duration::from_secs(600);
/// Sign-ins that are under way. Beyond it the oldest is forgotten: a stranger who begins many keeps nobody out for long.
const FLOWS_MAX: usize = 10_000;
/// The longest code that a provider may give.
const CODE_MAX: usize = 4096;

/// A sign-in that is under way, by the SHA-256 of the cookie of the browser that began it.
struct Flow {
    state: String,
    nonce: String,
    verifier: String,
    path: String,
    /// The person is to prove himself or herself anew.
    fresh: bool,
    until: Timestamp,
}

impl Flow {
    /// How long ago the person may have proved himself or herself at the provider.
    fn max_age(&self, config: &ProviderConfig) -> Option<Duration> {
        let fresh = self.fresh.then_some(FRESH);
        config.max_age.into_iter().chain(fresh).min()
    }
}

/// The sign-ins that are under way.
#[derive(Default)]
pub(crate) struct Flows(Mutex<HashMap<Digest, Flow>>);

impl std::fmt::Debug for Flows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Flows(..)")
    }
}

impl Flows {
    fn put(&self, cookie: &str, flow: Flow, now: Timestamp) {
        let mut flows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if flows.len() >= FLOWS_MAX {
            flows.retain(|_, f| now < f.until);
        }
        if flows.len() >= FLOWS_MAX
            && let Some(oldest) = flows.iter().min_by_key(|(_, f)| f.until).map(|(d, _)| *d)
        {
            flows.remove(&oldest);
        }
        flows.insert(Digest::of(cookie.as_bytes()), flow);
    }

    /// Takes a flow out: whatever comes of it, it comes once.
    fn take(&self, cookie: &str, now: Timestamp) -> Option<Flow> {
        let flow = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&Digest::of(cookie.as_bytes()))?;
        (now < flow.until).then_some(flow)
    }
}

/// Where the browser is sent, and the cookie that it must bring back.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) to: String,
    pub(crate) cookie: String,
}

/// Somebody is signed in.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The value of the session's cookie.
    pub(crate) cookie: String,
    /// The place of ours that the person was on the way to.
    pub(crate) path: String,
}

/// Why nobody is. The reason is for the log; the page says only which of these it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignInRefused {
    /// The provider cannot be asked, or its answer is not as it must be.
    #[error("the provider: {0}")]
    Provider(String),
    /// What the browser brought back is not what it was sent with.
    #[error("the answer does not belong to a sign-in of this browser: {0}")]
    Stray(&'static str),
    /// The person, or the provider, said no.
    #[error("the provider refused: {0}")]
    Denied(String),
    /// The ID token.
    #[error("the ID token: {0}")]
    Token(#[from] ProofError),
    /// The person is not known here, or may not sign in.
    #[error("{0}")]
    Unknown(String),
    /// It could not be put on record.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// There are too many sessions.
    #[error("there are too many sessions")]
    TooMany,
}

/// What came back in the query of the redirect.
#[derive(Debug, Default)]
pub(crate) struct Returned<'a> {
    pub(crate) state: Option<&'a str>,
    pub(crate) code: Option<&'a str>,
    pub(crate) error: Option<&'a str>,
    pub(crate) issuer: Option<&'a str>,
}

impl House {
    /// The URI that the provider sends browsers back to.
    fn redirect_uri(&self) -> String {
        format!("{}/sign-in/oidc/callback", self.urls.base)
    }

    /// Begins a sign-in with the provider. `path` is the place of ours that the person is on the way to. With `fresh` he or she proves
    /// himself or herself there anew, unless that was a moment ago, and the provider says when it was.
    ///
    /// # Errors
    /// Without a provider, or if it cannot be asked.
    pub(crate) async fn begin_sign_in(&self, path: String, fresh: bool) -> Result<Begun, SignInRefused> {
        let provider = self.provider()?;
        let now = self.clock.now();
        let metadata = provider.metadata(now).await.map_err(|e| SignInRefused::Provider(e.to_string()))?;
        let flow = Flow { state: secret(), nonce: secret(), verifier: secret(), path, fresh, until: now.plus(FLOW_LIFE) };
        let to = authorization_url(&metadata, &provider.config, &flow, &self.redirect_uri());
        let cookie = secret();
        self.flows.put(&cookie, flow, now);
        Ok(Begun { to, cookie })
    }

    fn provider(&self) -> Result<&Arc<OpenIdProvider>, SignInRefused> {
        self.provider.as_ref().ok_or_else(|| SignInRefused::Provider("none is configured".to_owned()))
    }

    /// Ends a sign-in with what the browser brought back.
    ///
    /// # Errors
    /// The first thing that is not as it must be; nobody is signed in then, and this sign-in cannot be tried again.
    pub(crate) async fn finish_sign_in(&self, cookie: Option<&str>, returned: &Returned<'_>) -> Result<Finished, SignInRefused> {
        let provider = self.provider()?;
        let now = self.clock.now();
        let flow = cookie.and_then(|c| self.flows.take(c, now)).ok_or(SignInRefused::Stray("no sign-in is under way in this browser"))?;
        let metadata = provider.metadata(now).await.map_err(|e| SignInRefused::Provider(e.to_string()))?;
        //= openid-connect-core-1_0#section-3.1.2.1
        // state: RECOMMENDED. Opaque value used to maintain state between the request and the callback. Typically, Cross-Site
        // Request Forgery (CSRF, XSRF) mitigation is done by cryptographically binding the value of this parameter with a browser
        // cookie.
        if !returned.state.is_some_and(|said| bool::from(said.as_bytes().ct_eq(flow.state.as_bytes()))) {
            return Err(SignInRefused::Stray("another `state`"));
        }
        if !metadata.is_issuer_of(returned.issuer) {
            return Err(SignInRefused::Stray("another `iss`"));
        }
        if let Some(error) = returned.error {
            return Err(SignInRefused::Denied(error.chars().take(100).flat_map(char::escape_debug).collect()));
        }
        let code = returned.code.filter(|c| (1..=CODE_MAX).contains(&c.len())).ok_or(SignInRefused::Stray("no code"))?;
        let signed_in = self.exchange(provider, &metadata, &flow, code).await?;
        let name = self.recognize(&provider.config, &signed_in).await?;
        let upstream = Upstream {
            issuer: metadata.issuer.clone(),
            subject: signed_in.subject.clone(),
            session: signed_in.session.clone(),
            proved_at: signed_in.proved_at,
        };
        let (cookie, _) = self.begin_session(&name, Way::Provider, Some(upstream)).await?;
        Ok(Finished { cookie, path: flow.path })
    }

    async fn exchange(&self, provider: &OpenIdProvider, metadata: &Provider, flow: &Flow, code: &str) -> Result<SignedIn, SignInRefused> {
        let now = self.clock.now();
        let broken = |e: &dyn std::fmt::Display| SignInRefused::Provider(e.to_string());
        let login = self.login_at(provider, metadata).await?;
        let tls = crate::export::net::trusting(&provider.config.link).map_err(|e| broken(&e))?;
        let token = Endpoint::new("token", metadata.token.as_str(), Some(Arc::new(tls))).map_err(|e| broken(&e))?;
        let exchange = CodeExchange {
            token: &token,
            login: &login,
            client_id: &provider.config.client_id,
            code,
            verifier: &flow.verifier,
            redirect: &self.redirect_uri(),
            now,
        };
        let exchanged = exchange.run().await.map_err(|e| broken(&e.detail()))?;
        let check = |keys: &KeySet| {
            let expected = Expected {
                issuer: &metadata.issuer,
                client: &provider.config.client_id,
                nonce: &flow.nonce,
                keys,
                algorithms: &provider.config.algorithms,
                access_token: &exchanged.access_token,
                max_age: flow.max_age(&provider.config),
            };
            verify(&exchanged.id_token, &expected, self.clock.now())
        };
        by_keys_of(provider, now, check).await
    }

    async fn login_at(&self, provider: &OpenIdProvider, metadata: &Provider) -> Result<Login, SignInRefused> {
        let named = |name: &str| {
            let name = name.to_owned();
            async move { self.secret_named(&name).await.map_err(SignInRefused::Provider) }
        };
        Ok(match &provider.config.login {
            ClientLogin::Secret(name) if metadata.secret_in_form => Login::Post(named(name).await?),
            ClientLogin::Secret(name) => Login::Basic(named(name).await?),
            ClientLogin::Key(name, kid) => {
                let key = Key::from_pem(&named(name).await?).map_err(|e| SignInRefused::Provider(format!("the secret `{name}`: {e}")))?;
                Login::PrivateKeyJwt { key, kid: kid.clone(), audience: metadata.issuer.clone() }
            }
            ClientLogin::Public => Login::Public,
        })
    }

    /// A sealed secret of the configuration, by its name.
    pub(crate) async fn secret_named(&self, name: &str) -> Result<bailiwick_credentials::Secret, String> {
        let sealed = self.store.secret(name).await.map_err(|e| e.to_string())?;
        let sealed = sealed.ok_or_else(|| format!("the secret `{name}` is not set: `bailiwick secret set {name}`"))?;
        self.sealer().open(name, &sealed).map_err(|e| format!("the secret `{name}`: {e}"))
    }

    /// Who of us is it? What the provider said is remembered.
    async fn recognize(&self, config: &ProviderConfig, signed_in: &SignedIn) -> Result<PersonName, SignInRefused> {
        let name = person_of(config, signed_in)?;
        let groups: Vec<&str> = config.roles_claim.iter().flat_map(|place| signed_in.claims.texts(place)).collect();
        let roles: BTreeSet<_> = groups.iter().filter_map(|g| config.roles.get(*g)).flatten().copied().collect();
        let configured = self.directory.is_configured(&name);
        let unknown = |why: &str| SignInRefused::Unknown(format!("`{name}` (subject `{}`) {why}", signed_in.subject.escape_debug()));
        if self.directory.is_disabled(&name) {
            return Err(unknown("is disabled"));
        }
        if !configured && (!config.provision || roles.is_empty()) {
            return Err(unknown("is not known here"));
        }
        let known = self.directory.known(&name);
        // A name that was somebody's is nobody else's, whatever the provider gives out now.
        if known
            .as_ref()
            .is_some_and(|k| k.subject.as_ref().is_some_and(|s| *s != signed_in.subject) && !config.subjects.contains_key(&signed_in.subject))
        {
            self.incident("subject_changed", None, None, &format!("`{name}` came with another subject than before")).await;
            return Err(unknown("has another subject than the one who had this name before"));
        }
        let step = entry::PersonStep {
            what: "recognized",
            person: &name,
            by: None,
            way: Some(Way::Provider.word()),
            detail: Some(&config.issuer),
            passkey: None,
            key: None,
        };
        let until = self.clock.now().plus(config.roles_life);
        let (issuer, subject) = (config.issuer.clone(), signed_in.subject.clone());
        let email = signed_in.claims.verified_email().map(str::to_owned);
        self.change_person(&name, &step, |known| {
            // Looked at again under the lock: between the look and the change somebody may have been disabled.
            if known.disabled.is_some() {
                return Err(ChangeError::Unfit("the person was disabled meanwhile"));
            }
            known.issuer = Some(issuer);
            known.subject = Some(subject);
            known.email = email;
            known.roles = roles;
            known.roles_until = Some(until);
            known.provisioned = known.provisioned || !configured;
            Ok(())
        })
        .await?;
        Ok(name)
    }

    /// Begins a session, on record first.
    pub(crate) async fn begin_session(&self, name: &PersonName, way: Way, upstream: Option<Upstream>) -> Result<(String, WebSession), SignInRefused> {
        let begun = self.sign_ins.begin(name.clone(), way, upstream, self.clock.now()).ok_or(SignInRefused::TooMany)?;
        let step = entry::PersonStep {
            what: "signed_in",
            person: name,
            by: None,
            way: Some(way.word()),
            detail: Some(&begun.1.id),
            passkey: None,
            key: None,
        };
        if let Err(error) = self.note_person(&step).await {
            self.sign_ins.sign_out(&begun.0);
            return Err(ChangeError::from(error).into());
        }
        // Disabled while the entry was written: the session that was just begun is none.
        if self.directory.is_disabled(name) {
            self.sign_ins.sign_out(&begun.0);
            return Err(SignInRefused::Unknown(format!("`{name}` is disabled")));
        }
        metrics::counter!("bailiwick_sign_ins_total", "way" => way.word()).increment(1);
        Ok(begun)
    }

    /// The provider says that somebody's session is over (OpenID Connect Back-Channel Logout).
    ///
    /// # Errors
    /// Why the token is not taken.
    pub(crate) async fn logged_out(&self, token: &str) -> Result<(), SignInRefused> {
        let provider = self.provider()?;
        let now = self.clock.now();
        let check = |keys: &KeySet| logout(token, &provider.config.issuer, &provider.config.client_id, keys, &provider.config.algorithms, now);
        let said = by_keys_of(provider, now, check).await?;
        //= openid-connect-backchannel-1_0#section-2.6
        // Optionally verify that another Logout Token with the same jti value has not been recently received.
        let register = format!("logout:{}", provider.config.issuer);
        if self.store.jti_seen(&register, &said.jti, now).await.map_err(ChangeError::from)? {
            return Err(SignInRefused::Stray("a logout token that was used before"));
        }
        // Acted upon first, and that can be repeated: a logout that could not be carried out can be told again.
        self.end_upstream(&provider.config, &said).await?;
        if !self.store.jti_use(&register, &said.jti, said.remember_until(), now).await.map_err(ChangeError::from)? {
            tracing::warn!(issuer = provider.config.issuer, "a logout was carried out twice, or cannot be remembered");
        }
        Ok(())
    }

    async fn end_upstream(&self, config: &ProviderConfig, said: &LoggedOut) -> Result<(), SignInRefused> {
        let concerns = |session: &WebSession| {
            session.upstream.as_ref().is_some_and(|up| {
                up.issuer == config.issuer
                    && said.subject.as_ref().is_none_or(|s| *s == up.subject)
                    && said.session.as_ref().is_none_or(|s| up.session.as_ref() == Some(s))
            })
        };
        let ended = self.end_sessions(concerns).await;
        let by_subject = said.subject.as_deref().and_then(|subject| self.person_of_subject(&config.issuer, subject));
        let names: BTreeSet<PersonName> = ended.iter().map(|s| s.person.clone()).chain(by_subject).collect();
        for name in &names {
            let step = entry::PersonStep {
                what: "logged_out",
                person: name,
                by: Some("provider"),
                way: Some(Way::Provider.word()),
                detail: Some(&config.issuer),
                passkey: None,
                key: None,
            };
            self.note_person(&step).await.map_err(ChangeError::from)?;
            if config.logout_ends_tasks {
                self.end_all_of(name, "provider").await;
            }
        }
        Ok(())
    }

    /// Whoever has this id at the provider: by the configuration, or as it was seen at a sign-in.
    pub(crate) fn person_of_subject(&self, issuer: &str, subject: &str) -> Option<PersonName> {
        let configured = self.provider.as_ref().filter(|p| p.config.issuer == issuer).and_then(|p| p.config.subjects.get(subject).cloned());
        configured.or_else(|| self.directory.by_subject(issuer, subject))
    }
}

/// The name by which somebody is known here: by the configured `sub`, or by the claim that is a name.
fn person_of(config: &ProviderConfig, signed_in: &SignedIn) -> Result<PersonName, SignInRefused> {
    if let Some(name) = config.subjects.get(&signed_in.subject) {
        return Ok(name.clone());
    }
    let nobody = || SignInRefused::Unknown(format!("subject `{}` is nobody here", signed_in.subject.escape_debug()));
    let place = config.person_claim.as_ref().ok_or_else(nobody)?;
    let text = if place.to_string() == "email" { signed_in.claims.verified_email() } else { signed_in.claims.text(place) };
    let name: PersonName = text.and_then(|t| t.parse().ok()).ok_or_else(nobody)?;
    // Whoever is known by a `sub` is known by nothing else.
    if config.subjects.values().any(|known| *known == name) { Err(nobody()) } else { Ok(name) }
}

fn authorization_url(metadata: &Provider, config: &ProviderConfig, flow: &Flow, redirect: &str) -> String {
    let mut url: Url = metadata.authorization.clone();
    //= rfc7636#section-4.2
    // code_challenge = BASE64URL-ENCODE(SHA256(ASCII(code_verifier)))
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, flow.verifier.as_bytes()));
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &config.client_id)
        .append_pair("redirect_uri", redirect)
        .append_pair("scope", &config.scopes.join(" "))
        .append_pair("state", &flow.state)
        .append_pair("nonce", &flow.nonce)
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256");
    if let Some(max_age) = flow.max_age(config) {
        url.query_pairs_mut().append_pair("max_age", &max_age.as_secs().to_string());
    }
    url.into()
}

/// Verifies a token of the provider, by the keys that it publishes.
async fn by_keys_of<T>(provider: &OpenIdProvider, now: Timestamp, check: impl Fn(&KeySet) -> Result<T, ProofError>) -> Result<T, SignInRefused> {
    //= openid-connect-core-1_0#section-10.1.1
    // The verifier knows to go back to the jwks_uri location to re-retrieve the keys when it sees an unfamiliar kid value.
    let judged = verified(&*provider.keys, now, |why| matches!(why, ProofError::Key | ProofError::Signature), check).await;
    Ok(judged.ok_or_else(|| SignInRefused::Provider("there are no keys of the provider at present".to_owned()))??)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(until: i64) -> Flow {
        Flow {
            state: "s".to_owned(),
            nonce: "n".to_owned(),
            verifier: "v".to_owned(),
            path: "/approvals".to_owned(),
            fresh: false,
            until: Timestamp::from_millis(until),
        }
    }

    #[test]
    fn a_sign_in_is_finished_once_in_the_browser_that_began_it_and_in_time() {
        let flows = Flows::default();
        let at = Timestamp::from_millis;
        flows.put("a", flow(100), at(0));
        assert!(flows.take("b", at(1)).is_none());
        assert!(flows.take("a", at(1)).is_some() && flows.take("a", at(1)).is_none());
        flows.put("a", flow(100), at(0));
        assert!(flows.take("a", at(100)).is_none());
    }

    #[test]
    fn the_request_carries_everything_that_the_answer_is_held_against_and_no_secret() {
        let issuer = "https://login.example.org";
        let metadata = Provider::parse(
            issuer,
            br#"{"issuer":"https://login.example.org","authorization_endpoint":"https://login.example.org/auth?x=1","token_endpoint":"https://login.example.org/t","jwks_uri":"https://login.example.org/k","response_types_supported":["code"]}"#,
        )
        .unwrap();
        let config = ProviderConfig {
            name: "n".to_owned(),
            issuer: issuer.to_owned(),
            client_id: "b".to_owned(),
            login: ClientLogin::Public,
            scopes: vec!["openid".to_owned(), "email".to_owned()],
            person_claim: None,
            subjects: std::collections::BTreeMap::new(),
            roles_claim: None,
            roles: std::collections::BTreeMap::new(),
            roles_life: Duration::from_secs(1),
            provision: false,
            algorithms: Vec::new(),
            max_age: Some(Duration::from_secs(60)),
            logout_ends_tasks: true,
            link: crate::config::LinkConfig::default(),
        };
        let url = authorization_url(&metadata, &config, &flow(1), "https://b/sign-in/oidc/callback");
        for part in ["?x=1&response_type=code&client_id=b&", "scope=openid+email&state=s&nonce=n&", "&code_challenge_method=S256&max_age=60"] {
            assert!(url.contains(part), "{url}");
        }
        assert!(!url.contains("=v&") && !url.contains("code_verifier"), "{url}");
        let age = |max_age: Option<u64>, fresh: bool| {
            let config = ProviderConfig { max_age: max_age.map(Duration::from_secs), ..config.clone() };
            let url = authorization_url(&metadata, &config, &Flow { fresh, ..flow(1) }, "https://b/cb");
            url.split_once("&max_age=").map(|(_, age)| age.to_owned())
        };
        let all = [(None, false), (None, true), (Some(60), true), (Some(3600), true), (Some(3600), false)]
            .map(|(configured, fresh)| age(configured, fresh));
        assert_eq!(all.map(Option::unwrap_or_default), ["", "300", "60", "300", "3600"]);
    }
}
