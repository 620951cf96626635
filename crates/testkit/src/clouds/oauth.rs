//! An authorization server (RFC 6749, 7009, 7523, 8707) and a resource, with the habits that real ones have: refresh tokens for one use, families that die of a
//! second use, revocations that do nothing for JWTs or come late, answers wider than the question, error texts that repeat what was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::jwt::{Pair, number, text, verify};
use super::server::{decoded, lock};
use super::{Asked, Service, Told, now, now_millis, random};

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The client's name.
    pub client_id: String,
    /// Its secret, for `client_secret_basic` and `client_secret_post`.
    pub client_secret: Option<String>,
    /// Its key, for `private_key_jwt`, and the audience that an assertion must have.
    pub client_key: Option<(Pair, String)>,
    /// What it may have.
    pub scopes: BTreeSet<String>,
    /// For which resources; empty: it is not asked.
    pub resources: BTreeSet<String>,
    /// How long tokens live, and whether the answer says it.
    pub life: Duration,
    /// Does the answer say how long?
    pub says_life: bool,
    /// Refresh tokens are good for one use, and a second use ends their family.
    pub rotates: bool,
    /// A used refresh token is honoured once more within this time.
    pub grace: Duration,
    /// Tokens live on when they are revoked, as JWTs do.
    pub stateless: bool,
    /// A revocation reaches the resource after this long.
    pub lag: Duration,
    /// The revocation of an access token takes its refresh token along.
    pub revokes_family: bool,
    /// Gives more than was asked for.
    pub generous: bool,
    /// Says how long a token lives in a form that is none.
    pub odd: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            client_id: "broker".to_owned(),
            client_secret: None,
            client_key: None,
            scopes: ["orders.read", "orders.write"].map(str::to_owned).into(),
            resources: BTreeSet::new(),
            life: Duration::from_secs(3600),
            says_life: true,
            rotates: true,
            grace: Duration::ZERO,
            stateless: false,
            lag: Duration::ZERO,
            revokes_family: false,
            generous: false,
            odd: false,
        }
    }
}

struct Access {
    scopes: BTreeSet<String>,
    family: Option<u64>,
    dies_at: u128,
}

struct Refresh {
    family: u64,
    used_at: Option<u128>,
}

#[derive(Default)]
struct State {
    access: BTreeMap<String, Access>,
    refresh: BTreeMap<String, Refresh>,
    dead_families: BTreeSet<u64>,
    next_family: u64,
    assertions: BTreeSet<String>,
}

/// The server: `POST /token`, `POST /revoke`, `GET /orders`, which needs `orders.read`.
pub struct Oauth {
    settings: Settings,
    state: Mutex<State>,
}

impl std::fmt::Debug for Oauth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Oauth").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Oauth {
    /// A server with nobody in it.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, state: Mutex::default() }
    }

    /// What a person gets by logging in: the first refresh token of a family.
    #[must_use]
    pub fn log_in(&self) -> String {
        let mut state = lock(&self.state);
        let family = state.next_family;
        state.next_family += 1;
        fresh_refresh(&mut state, family)
    }

    /// How many access tokens are honoured now.
    #[must_use]
    pub fn alive(&self) -> usize {
        lock(&self.state).access.values().filter(|access| access.dies_at > now_millis()).count()
    }

    fn token(&self, asked: &Asked) -> Told {
        let form = asked.form();
        let one = |name: &str| form.get(name).filter(|values| values.len() == 1).map(|values| values.concat()).unwrap_or_default();
        if asked.method != "POST" || form.is_empty() {
            return refuse(400, "invalid_request", "expected a form");
        }
        if let Err(told) = self.client(asked, &one) {
            return told;
        }
        let scopes: BTreeSet<String> = one("scope").split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
        if !scopes.is_subset(&self.settings.scopes) {
            return refuse(400, "invalid_scope", "the client may not have this scope");
        }
        let resources: BTreeSet<String> = form.get("resource").into_iter().flatten().cloned().collect();
        if resources != self.settings.resources {
            return refuse(400, "invalid_target", "unknown resource");
        }
        // The default scope is everything, as it is on many servers.
        let scopes = if scopes.is_empty() || self.settings.generous { self.settings.scopes.clone() } else { scopes };
        match one("grant_type").as_str() {
            "client_credentials" if self.settings.client_secret.is_some() || self.settings.client_key.is_some() => self.give(&scopes, None, None),
            "refresh_token" => self.refresh(&one("refresh_token"), &scopes),
            _ => refuse(400, "unsupported_grant_type", "no such grant"),
        }
    }

    /// Who asks.
    fn client(&self, asked: &Asked, one: &dyn Fn(&str) -> String) -> Result<(), Told> {
        let wrong = |what: &str| Err(refuse(401, "invalid_client", what));
        let settings = &self.settings;
        if let Some((key, audience)) = &settings.client_key {
            if one("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
                return wrong("no assertion");
            }
            let Ok((_, claims)) = verify(&one("client_assertion"), key) else {
                return wrong(&format!("not signed by the client's key: {}", one("client_assertion")));
            };
            let (issuer, subject) = (text(&claims, "iss"), text(&claims, "sub"));
            if issuer != settings.client_id || subject != settings.client_id || text(&claims, "aud") != audience {
                return wrong(&format!("somebody else's: {}", one("client_assertion")));
            }
            let (issued, expires) = (number(&claims, "iat"), number(&claims, "exp"));
            if issued > now() || expires <= now() || expires > now() + 300 {
                return wrong("the assertion is not valid now");
            }
            if !lock(&self.state).assertions.insert(text(&claims, "jti").to_owned()) {
                return wrong("the assertion was used before");
            }
            return Ok(());
        }
        let Some(secret) = &settings.client_secret else {
            return if one("client_id") == settings.client_id { Ok(()) } else { wrong("unknown client") };
        };
        let (id, sent) = match asked.header("authorization").strip_prefix("Basic ") {
            Some(basic) => {
                let pair = STANDARD.decode(basic).ok().and_then(|pair| String::from_utf8(pair).ok()).unwrap_or_default();
                let (id, secret) = pair.split_once(':').unwrap_or_default();
                (decoded(id), decoded(secret))
            }
            None => (one("client_id"), one("client_secret")),
        };
        // Some servers repeat what they were sent; so does this one.
        if id == settings.client_id && sent == *secret {
            Ok(())
        } else {
            wrong(&format!("`{sent}` is not the secret of `{id}`, nor is {}", asked.header("authorization")))
        }
    }

    fn refresh(&self, token: &str, scopes: &BTreeSet<String>) -> Told {
        let mut state = lock(&self.state);
        let Some((family, used_at)) = state.refresh.get(token).map(|refresh| (refresh.family, refresh.used_at)) else {
            return refuse(400, "invalid_grant", &format!("`{token}` is unknown"));
        };
        let spent = used_at.is_some_and(|used_at| now_millis() >= used_at + self.settings.grace.as_millis());
        if spent && self.settings.rotates {
            state.dead_families.insert(family);
        }
        if state.dead_families.contains(&family) {
            return refuse(400, "invalid_grant", &format!("`{token}` was revoked"));
        }
        let fresh = self.settings.rotates.then(|| {
            if let Some(refresh) = state.refresh.get_mut(token) {
                refresh.used_at.get_or_insert(now_millis());
            }
            fresh_refresh(&mut state, family)
        });
        drop(state);
        self.give(scopes, Some(family), fresh)
    }

    fn give(&self, scopes: &BTreeSet<String>, family: Option<u64>, refresh: Option<String>) -> Told {
        let token = format!("at_{}", random(40));
        let access = Access { scopes: scopes.clone(), family, dies_at: now_millis() + self.settings.life.as_millis() };
        lock(&self.state).access.insert(token.clone(), access);
        let scope = scopes.iter().cloned().collect::<Vec<_>>().join(" ");
        let mut body = json!({ "access_token": token, "token_type": "Bearer", "scope": scope });
        if self.settings.says_life {
            body["expires_in"] = json!(self.settings.life.as_secs());
        }
        if self.settings.odd {
            body["expires_in"] = json!(["soon"]);
        }
        if let Some(refresh) = refresh {
            body["refresh_token"] = json!(refresh);
        }
        Told::json(200, &body)
    }

    fn revoke(&self, asked: &Asked) -> Told {
        let form = asked.form();
        let one = |name: &str| form.get(name).map(|values| values.concat()).unwrap_or_default();
        if let Err(told) = self.client(asked, &one) {
            return told;
        }
        let mut state = lock(&self.state);
        let dies_at = now_millis() + self.settings.lag.as_millis();
        let family = state.access.get_mut(&one("token")).and_then(|access| {
            if !self.settings.stateless {
                access.dies_at = access.dies_at.min(dies_at);
            }
            access.family
        });
        if let Some(family) = family.filter(|_| self.settings.revokes_family) {
            state.dead_families.insert(family);
        }
        Told::empty(200)
    }

    fn orders(&self, asked: &Asked) -> Told {
        let state = lock(&self.state);
        match state.access.get(asked.bearer()).filter(|access| access.dies_at > now_millis()) {
            None => Told::json(401, &json!({ "error": "invalid_token", "error_description": format!("no such token: {}", asked.bearer()) })),
            Some(access) if access.scopes.contains("orders.read") => Told::json(200, &json!([{ "order": 1 }])),
            Some(_) => Told::json(403, &json!({ "error": "insufficient_scope" })),
        }
    }
}

fn fresh_refresh(state: &mut State, family: u64) -> String {
    let token = format!("rt_{}", random(40));
    state.refresh.insert(token.clone(), Refresh { family, used_at: None });
    token
}

fn refuse(status: u16, error: &str, description: &str) -> Told {
    Told::json(status, &json!({ "error": error, "error_description": description }))
}

impl Service for Oauth {
    fn answer(&self, asked: &Asked) -> Told {
        match (asked.method.as_str(), asked.path.as_str()) {
            ("POST", "/token") => self.token(asked),
            ("POST", "/revoke") => self.revoke(asked),
            ("GET", "/orders") => self.orders(asked),
            _ => Told::json(404, &Value::Null),
        }
    }
}
