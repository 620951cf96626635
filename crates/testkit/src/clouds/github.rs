//! GitHub's REST API as an app sees it: the app's JWT is verified as GitHub verifies it, tokens have both of their forms, and a token revokes itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::jwt::{Pair, number, text, verify};
use super::server::lock;
use super::{Asked, Service, Told, now, now_millis, random};

/// How the app is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its client id.
    pub client_id: String,
    /// Its key.
    pub key: Pair,
    /// The one installation.
    pub installation: u64,
    /// Repositories of the installation.
    pub repositories: BTreeSet<String>,
    /// Its permissions.
    pub permissions: BTreeMap<String, String>,
    /// Whether tokens are `ghs_<app>_<jwt>` where the request does not say it.
    pub stateless: bool,
    /// A revocation is known everywhere after this long.
    pub lag: Duration,
    /// Is the installation suspended?
    pub suspended: bool,
    /// Forgets to narrow.
    pub generous: bool,
}

struct Token {
    permissions: Map<String, Value>,
    repositories: Vec<String>,
    dies_at: u128,
    /// Shown as revoked to `DELETE` at once, wherever else it is still honoured.
    revoked: bool,
}

/// The API.
pub struct Github {
    /// Can be changed while it runs.
    pub settings: Mutex<Settings>,
    tokens: Mutex<BTreeMap<String, Token>>,
}

impl std::fmt::Debug for Github {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Github(..)")
    }
}

impl Github {
    /// An app without tokens.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings: Mutex::new(settings), tokens: Mutex::default() }
    }

    /// How many tokens are honoured now.
    #[must_use]
    pub fn alive(&self) -> usize {
        lock(&self.tokens).values().filter(|token| token.dies_at > now_millis()).count()
    }

    /// What GitHub checks of an app's JWT.
    fn app(&self, asked: &Asked) -> Result<(), Told> {
        let settings = lock(&self.settings);
        let Ok((_, claims)) = verify(asked.bearer(), &settings.key) else {
            return Err(message(401, &format!("A JSON web token could not be decoded: {}", asked.bearer())));
        };
        let (issued, expires) = (number(&claims, "iat"), number(&claims, "exp"));
        if text(&claims, "iss") != settings.client_id {
            return Err(message(404, "Integration not found"));
        }
        if issued > now() {
            return Err(message(401, "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"));
        }
        if expires <= now() {
            return Err(message(
                401,
                "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires",
            ));
        }
        if expires > now() + 600 {
            return Err(message(401, "'Expiration time' claim ('exp') is too far in the future"));
        }
        Ok(())
    }

    fn mint(&self, asked: &Asked) -> Told {
        let settings = lock(&self.settings).clone();
        if settings.suspended {
            return message(403, "This installation has been suspended");
        }
        let body = asked.json();
        let names = |value: &Value| value.as_array().map(|all| all.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect::<Vec<_>>());
        // Left out, it means all of them: that is GitHub's rule, and the trap in it.
        let asked_for = body.get("repositories").and_then(names);
        let repositories = asked_for.clone().unwrap_or_else(|| settings.repositories.iter().cloned().collect());
        if !repositories.iter().all(|name| settings.repositories.contains(name)) {
            return message(422, "There is at least one repository that does not exist or is not accessible to the parent installation.");
        }
        let all: Map<String, Value> = settings.permissions.iter().map(|(name, level)| (name.clone(), json!(level))).collect();
        let mut permissions = body.get("permissions").and_then(Value::as_object).cloned().unwrap_or_else(|| all.clone());
        let rank = |level: &Value| ["read", "write", "admin"].iter().position(|word| level == word).map_or(0, |at| at + 1);
        if !permissions.iter().all(|(name, level)| rank(level) > 0 && all.get(name).is_some_and(|most| rank(level) <= rank(most))) {
            return message(422, "The permissions requested are not granted to this installation.");
        }
        let narrowed = asked_for.is_some() && !settings.generous;
        if settings.generous {
            permissions = all;
        }
        permissions.insert("metadata".to_owned(), json!("read"));
        let stateless = match asked.header("x-github-stateless-s2s-token") {
            "enabled" => true,
            "disabled" => false,
            _ => settings.stateless,
        };
        let token = if stateless {
            // About 520 characters, with dots: header, claims and signature of a JWT after the app's number.
            format!("ghs_1234567_{}.{}.{}", random(36), random(380), random(86))
        } else {
            format!("ghs_{}", random(36))
        };
        let dies_at = now_millis() + 3_600_000;
        let described: Vec<Value> =
            repositories.iter().enumerate().map(|(id, name)| json!({ "id": id, "name": name, "full_name": format!("org/{name}") })).collect();
        lock(&self.tokens).insert(token.clone(), Token { permissions: permissions.clone(), repositories, dies_at, revoked: false });
        let mut answer = json!({ "token": token, "expires_at": rfc3339(now() + 3600), "permissions": permissions, "repository_selection": if narrowed { "selected" } else { "all" } });
        if narrowed {
            answer["repositories"] = json!(described);
        }
        Told::json(201, &answer)
    }

    fn with_token(&self, asked: &Asked) -> Told {
        let mut tokens = lock(&self.tokens);
        let bad = || message(401, "Bad credentials");
        let Some(token) = tokens.get_mut(asked.bearer()).filter(|token| token.dies_at > now_millis()) else { return bad() };
        match (asked.method.as_str(), asked.path.as_str()) {
            ("DELETE", "/installation/token") if token.revoked => bad(),
            ("DELETE", "/installation/token") => {
                token.revoked = true;
                token.dies_at = token.dies_at.min(now_millis() + lock(&self.settings).lag.as_millis());
                Told::empty(204)
            }
            ("GET", "/installation/repositories") => {
                let all: Vec<Value> = token.repositories.iter().map(|name| json!({ "name": name })).collect();
                Told::json(200, &json!({ "total_count": all.len(), "repositories": all }))
            }
            ("GET", path) => {
                let name = path.strip_prefix("/repos/org/").and_then(|rest| rest.strip_suffix("/contents")).unwrap_or_default();
                let may = token.repositories.iter().any(|repository| repository == name) && token.permissions.contains_key("contents");
                if may { Told::json(200, &json!([{ "name": "README.md" }])) } else { message(404, "Not Found") }
            }
            _ => message(404, "Not Found"),
        }
    }
}

/// `2026-11-23T10:00:00Z`, which is all that is needed of a calendar.
pub(super) fn rfc3339(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01, by eras of 400 years (Howard Hinnant's `civil_from_days`).
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

fn message(status: u16, words: &str) -> Told {
    Told::json(status, &json!({ "message": words, "documentation_url": "https://docs.github.com/rest" }))
}

impl Service for Github {
    fn answer(&self, asked: &Asked) -> Told {
        if asked.header("user-agent").is_empty() {
            return message(403, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header");
        }
        let (installation, suspended, permissions) = {
            let settings = lock(&self.settings);
            (settings.installation, settings.suspended, settings.permissions.clone())
        };
        let app = |answer: &dyn Fn() -> Told| self.app(asked).map_or_else(|told| told, |()| answer());
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/app") => app(&|| Told::json(200, &json!({ "slug": "bailiwick" }))),
            ("GET", path) if path == format!("/app/installations/{installation}") => {
                let suspended_at = suspended.then(|| rfc3339(now()));
                app(&|| Told::json(200, &json!({ "id": installation, "permissions": permissions, "suspended_at": suspended_at })))
            }
            ("POST", path) if path == format!("/app/installations/{installation}/access_tokens") => app(&|| self.mint(asked)),
            (_, path) if path.starts_with("/app") => app(&|| message(404, "Not Found")),
            _ => self.with_token(asked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_it_is() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_763_856_001), "2025-11-23T00:00:01Z");
    }
}
