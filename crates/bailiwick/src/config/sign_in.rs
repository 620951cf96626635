//! The sections `[sign_in]` and `[[events.from]]`, `[[events.to]]`: how people sign in, and which systems tell us and are told of ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bailiwick_core::{Effect, PersonName, RiskTier, Role};
use bailiwick_identity::Algorithm;
use bailiwick_identity::sign_in::ClaimPlace;
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use super::LinkConfig;
use super::export::roots;

type Fault = (String, &'static str);

/// How people sign in at the pages.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SignInFile {
    /// Hours after which a session ends, however busy. At most 24. Default 8.
    session_hours: u32,
    /// Minutes after which a session ends that nobody used. Default 30.
    idle_minutes: u32,
    /// May people register passkeys, and sign in with them? Default true.
    passkeys: bool,
    /// An OpenID provider.
    oidc: Option<OidcFile>,
}

impl Default for SignInFile {
    fn default() -> Self {
        Self { session_hours: 8, idle_minutes: 30, passkeys: true, oidc: None }
    }
}

/// An OpenID provider: the authorization code flow with PKCE, and nothing else.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OidcFile {
    /// What people call it, on the button. Default: its host.
    name: Option<String>,
    /// Its issuer identifier, exactly as its metadata has it.
    issuer: String,
    /// Our id there. The redirect URI to register is `<public URL>/sign-in/oidc/callback`, the back-channel logout URI
    /// `<public URL>/sign-in/oidc/logout`.
    client_id: String,
    /// The name of the sealed secret that is our client secret.
    client_secret: Option<String>,
    /// The name of the sealed secret that is our private key (PEM), for `private_key_jwt`.
    private_key: Option<String>,
    /// The key's name at the provider.
    private_key_id: Option<String>,
    /// What is asked for; `openid` always is. Default `["openid", "profile", "email"]`.
    scopes: Option<Vec<String>>,
    /// The claim whose exact text is the name of a person under `[people]`; people with a `sub` of their own there are known by that
    /// alone. Default: none, so that only people with a `sub` can sign in. For `email`, the provider must say that it is verified.
    person_claim: Option<String>,
    /// The claim with the person's groups or roles: a name, or a path such as `/realm_access/roles`.
    roles_claim: Option<String>,
    /// Which value of that claim gives which roles.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, BTreeSet<String>>")]
    roles: BTreeMap<String, BTreeSet<Role>>,
    /// Hours for which roles by claim hold after a sign-in. Default 24, at most 720.
    roles_hours: Option<u32>,
    /// Is a person who is not under `[people]`, and gets a role by claim, made known by signing in? Default false: refused.
    #[serde(default)]
    provision: bool,
    /// The signature algorithms that are taken. Default: all asymmetric ones that we know.
    algorithms: Option<Vec<String>>,
    /// Minutes ago that the person may have proved himself or herself to the provider, at most. Default: whatever the provider finds.
    max_age_minutes: Option<u32>,
    /// Does a logout at the provider end the person's tasks too, and not only sessions here? Default true.
    #[serde(default = "yes")]
    logout_ends_tasks: bool,
    /// A PEM file of further certificate authorities that may vouch for the provider. Relative to this file.
    ca: Option<PathBuf>,
}

const fn yes() -> bool {
    true
}

/// What must be done with a passkey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum StepUpFile {
    /// Nothing: a session or a key decides.
    #[default]
    None,
    /// Approvals.
    Passkey,
}

/// Which approvals count only with a passkey.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepUp {
    on: bool,
    effects: Vec<Effect>,
    risk: Option<RiskTier>,
}

impl StepUp {
    pub(super) fn new(kind: StepUpFile, effects: Vec<Effect>, risk: Option<RiskTier>) -> Result<Self, Fault> {
        let on = kind == StepUpFile::Passkey;
        if !on && (!effects.is_empty() || risk.is_some()) {
            return Err(("`step_up_effects` and `step_up_risk` have no meaning without `step_up`".to_owned(), "write `step_up = \"passkey\"`"));
        }
        Ok(Self { on, effects, risk })
    }

    /// Does an approval of a call with this effect, by an agent of this risk, count only with a passkey? Either of the two is enough;
    /// without both, every approval does.
    #[must_use]
    pub fn covers(&self, effect: Effect, risk: RiskTier) -> bool {
        let every = self.effects.is_empty() && self.risk.is_none();
        self.on && (every || self.effects.contains(&effect) || self.risk.is_some_and(|from| risk >= from))
    }
}

/// How people sign in, checked.
#[derive(Clone, Debug)]
pub struct SignInConfig {
    /// After this a session ends.
    pub session_max: Duration,
    /// After this a session ends that nobody used.
    pub idle_max: Duration,
    /// May people have passkeys?
    pub passkeys: bool,
    /// The provider.
    pub provider: Option<ProviderConfig>,
}

/// How we prove ourselves to the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientLogin {
    /// A secret, by its name.
    Secret(String),
    /// A key, by its name, and what the provider calls it.
    Key(String, Option<String>),
    /// We have nothing: PKCE alone binds the code.
    Public,
}

/// A provider, checked.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// What people call it.
    pub name: String,
    /// Its identifier.
    pub issuer: String,
    /// Our id there.
    pub client_id: String,
    /// How we prove ourselves.
    pub login: ClientLogin,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// The claim that is a person's name.
    pub person_claim: Option<ClaimPlace>,
    /// People by their id at the provider.
    pub subjects: BTreeMap<String, PersonName>,
    /// The claim with groups.
    pub roles_claim: Option<ClaimPlace>,
    /// Roles by group.
    pub roles: BTreeMap<String, BTreeSet<Role>>,
    /// How long roles by claim hold.
    pub roles_life: Duration,
    /// Are people made known by signing in?
    pub provision: bool,
    /// Algorithms that are taken.
    pub algorithms: Vec<Algorithm>,
    /// How old the proof at the provider may be.
    pub max_age: Option<Duration>,
    /// Does a logout end tasks?
    pub logout_ends_tasks: bool,
    /// On the way there.
    pub link: LinkConfig,
}

/// Every algorithm that a provider may sign with.
const ALGORITHMS: [Algorithm; 5] = [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Es384, Algorithm::Rs256, Algorithm::Ps256];

fn algorithms(given: Option<Vec<String>>) -> Result<Vec<Algorithm>, Fault> {
    let Some(given) = given else { return Ok(ALGORITHMS.to_vec()) };
    let parsed: Option<Vec<Algorithm>> = given.iter().map(|name| Algorithm::from_name(name)).collect();
    parsed
        .filter(|all| !all.is_empty())
        .ok_or(("`algorithms` names none, or one that is not taken".to_owned(), "for instance [\"RS256\", \"ES256\"]"))
}

/// A URL that may be asked: `https`, or `http` on this machine.
fn place(what: &str, text: &str) -> Result<Url, Fault> {
    let wrong =
        || (format!("`{what}` must be `https://...` (or `http://` on this machine), without user, query and fragment"), "see docs/guides/sign-in.md");
    let url: Url = text.parse().map_err(|_| wrong())?;
    let here = match url.host().ok_or_else(wrong)? {
        url::Host::Domain(name) => name == "localhost",
        url::Host::Ipv4(ip) => ip.is_loopback(),
        url::Host::Ipv6(ip) => ip.is_loopback(),
    };
    let good = (url.scheme() == "https" || url.scheme() == "http" && here)
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if good { Ok(url) } else { Err(wrong()) }
}

fn claim(what: &str, text: Option<String>) -> Result<Option<ClaimPlace>, Fault> {
    text.map(|t| t.parse().map_err(|e| (format!("`{what}`: {e}"), "for instance `groups`"))).transpose()
}

/// Checks `[sign_in]`. `subjects` are the people that have a `sub`.
pub(super) fn sign_in(given: SignInFile, base: &Path, subjects: BTreeMap<String, PersonName>) -> Result<SignInConfig, Fault> {
    let provider = match given.oidc {
        Some(oidc) => Some(provider(oidc, base, subjects)?),
        None if !subjects.is_empty() => {
            return Err(("a person has a `sub`, and there is no `[sign_in.oidc]` that it could be of".to_owned(), "add the provider"));
        }
        None => None,
    };
    Ok(SignInConfig {
        session_max: Duration::from_secs(u64::from(given.session_hours.clamp(1, 24)).saturating_mul(3600)),
        idle_max: Duration::from_secs(u64::from(given.idle_minutes.clamp(1, 24 * 60)).saturating_mul(60)),
        passkeys: given.passkeys,
        provider,
    })
}

/// People by their id at the provider; no two of them have one.
pub(super) fn subjects(people: &BTreeMap<PersonName, super::PersonFile>) -> Result<BTreeMap<String, PersonName>, Fault> {
    let mut subjects = BTreeMap::new();
    for (name, person) in people {
        let Some(sub) = &person.sub else { continue };
        if sub.is_empty() || sub.len() > 255 {
            return Err((format!("the `sub` of `{name}` is empty or too long"), "it is the person's id at the provider"));
        }
        if let Some(other) = subjects.insert(sub.clone(), name.clone()) {
            return Err((format!("`{name}` and `{other}` have the same `sub`"), "an id at the provider is one person's"));
        }
    }
    Ok(subjects)
}

fn provider(given: OidcFile, base: &Path, subjects: BTreeMap<String, PersonName>) -> Result<ProviderConfig, Fault> {
    let url = place("issuer", &given.issuer)?;
    let login = match (given.client_secret, given.private_key) {
        (Some(_), Some(_)) => return Err(("`[sign_in.oidc]` has both `client_secret` and `private_key`".to_owned(), "keep one")),
        (Some(secret), None) => ClientLogin::Secret(secret),
        (None, Some(key)) => ClientLogin::Key(key, given.private_key_id),
        (None, None) => ClientLogin::Public,
    };
    let mut scopes = given.scopes.unwrap_or_else(|| ["openid", "profile", "email"].map(str::to_owned).to_vec());
    let plain = |s: &String| !s.is_empty() && s.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    if scopes.len() > 20 || !scopes.iter().all(plain) {
        return Err(("`scopes` must be at most 20 words".to_owned(), "for instance [\"openid\", \"groups\"]"));
    }
    if !scopes.iter().any(|s| s == "openid") {
        scopes.insert(0, "openid".to_owned());
    }
    if given.client_id.is_empty() {
        return Err(("`client_id` is empty".to_owned(), "it is what the provider calls this broker"));
    }
    if given.roles_claim.is_some() == given.roles.is_empty() {
        return Err(("`roles_claim` and `roles` go together".to_owned(), "say which claim, and which of its values give which roles"));
    }
    if given.provision && (given.roles.is_empty() || given.person_claim.is_none()) {
        return Err(("`provision` needs `person_claim`, `roles_claim` and `roles`".to_owned(), "whoever gets no role by claim is not made known"));
    }
    if given.person_claim.is_none() && subjects.is_empty() {
        return Err(("nobody could sign in: there is no `person_claim`, and no person has a `sub`".to_owned(), "see docs/guides/sign-in.md"));
    }
    Ok(ProviderConfig {
        name: given.name.unwrap_or_else(|| url.host_str().unwrap_or("the provider").to_owned()).chars().take(60).collect(),
        issuer: given.issuer,
        client_id: given.client_id,
        login,
        scopes,
        person_claim: claim("person_claim", given.person_claim)?,
        subjects,
        roles_claim: claim("roles_claim", given.roles_claim)?,
        roles: given.roles,
        roles_life: Duration::from_secs(u64::from(given.roles_hours.unwrap_or(24).clamp(1, 720)).saturating_mul(3600)),
        provision: given.provision,
        algorithms: algorithms(given.algorithms)?,
        max_age: given.max_age_minutes.map(|m| Duration::from_secs(u64::from(m).saturating_mul(60))),
        logout_ends_tasks: given.logout_ends_tasks,
        link: LinkConfig { roots: roots(given.ca.as_deref(), base)?, allow_plain: false },
    })
}

/// Security events (RFC 8417): from whom they are taken, and to whom ends of tasks are told.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EventsFile {
    /// Transmitters: each may push to `<public URL>/events`, or is polled.
    from: Vec<FromFile>,
    /// Receivers: each is pushed to, or polls `<public URL>/events/poll/<name>`.
    to: Vec<ToFile>,
}

/// A transmitter.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FromFile {
    /// Its name, for the record.
    name: String,
    /// Its issuer, exactly.
    issuer: String,
    /// We, as it knows us. Default: the public URL.
    audience: Option<String>,
    /// Where its keys are.
    jwks_url: String,
    /// Where it is polled (RFC 8936). Without it, it pushes (RFC 8935).
    poll_url: Option<String>,
    /// The name of the sealed secret that we present when we poll, or that it must present when it pushes.
    bearer: Option<String>,
    /// The signature algorithms that are taken.
    algorithms: Option<Vec<String>>,
    /// A PEM file of further certificate authorities that may vouch for it. Relative to this file.
    ca: Option<PathBuf>,
}

/// A receiver.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ToFile {
    /// Its name, under which its place in the ledger is remembered: lower-case letters, digits, `-` and `_`.
    name: String,
    /// The audience of what it is told.
    audience: String,
    /// Where it is pushed to (RFC 8935). Without it, it polls (RFC 8936).
    push_url: Option<String>,
    /// The name of the sealed secret that we present when we push, or that it must present when it polls.
    bearer: String,
    /// A PEM file of further certificate authorities that may vouch for it. Relative to this file.
    ca: Option<PathBuf>,
}

/// Who tells and is told, checked.
#[derive(Clone, Debug, Default)]
pub struct EventsConfig {
    /// Transmitters.
    pub from: Vec<Transmitter>,
    /// Receivers.
    pub to: Vec<Receiver>,
}

/// A transmitter, checked.
#[derive(Clone, Debug)]
pub struct Transmitter {
    /// Its name.
    pub name: String,
    /// Its issuer.
    pub issuer: String,
    /// We, as it knows us; the public URL if it is not said.
    pub audience: Option<String>,
    /// Its keys.
    pub jwks: Url,
    /// Where it is polled.
    pub poll: Option<Url>,
    /// The secret.
    pub bearer: Option<String>,
    /// Algorithms that are taken.
    pub algorithms: Vec<Algorithm>,
    /// On the way there.
    pub link: LinkConfig,
}

/// A receiver, checked.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Its name.
    pub name: String,
    /// The audience of what it is told.
    pub audience: String,
    /// Where it is pushed to.
    pub push: Option<Url>,
    /// The secret.
    pub bearer: String,
    /// On the way there.
    pub link: LinkConfig,
}

/// Checks `[events]`.
pub(super) fn events(given: EventsFile, base: &Path) -> Result<EventsConfig, Fault> {
    let plain =
        |name: &str| (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
    let names: BTreeSet<&str> = given.from.iter().map(|f| f.name.as_str()).chain(given.to.iter().map(|t| t.name.as_str())).collect();
    if names.len() < given.from.len().saturating_add(given.to.len()) || !names.iter().all(|n| plain(n)) {
        return Err((
            "the names under `[events]` must differ, and be of lower-case letters, digits, `-` and `_`".to_owned(),
            "see docs/guides/events.md",
        ));
    }
    let issuers: BTreeSet<&str> = given.from.iter().map(|f| f.issuer.as_str()).collect();
    if issuers.len() < given.from.len() {
        return Err(("two transmitters under `[[events.from]]` have one issuer".to_owned(), "keep one: its keys are looked up by it"));
    }
    let link = |ca: Option<&Path>| Ok::<_, Fault>(LinkConfig { roots: roots(ca, base)?, allow_plain: false });
    let from = given.from.into_iter().map(|f| {
        Ok(Transmitter {
            jwks: place("jwks_url", &f.jwks_url)?,
            poll: f.poll_url.as_deref().map(|url| place("poll_url", url)).transpose()?,
            algorithms: algorithms(f.algorithms)?,
            link: link(f.ca.as_deref())?,
            name: f.name,
            issuer: f.issuer,
            audience: f.audience,
            bearer: f.bearer,
        })
    });
    let from = from.collect::<Result<_, Fault>>()?;
    let to = given.to.into_iter().map(|t| {
        let push = t.push_url.as_deref().map(|url| place("push_url", url)).transpose()?;
        Ok(Receiver { push, link: link(t.ca.as_deref())?, name: t.name, audience: t.audience, bearer: t.bearer })
    });
    Ok(EventsConfig { from, to: to.collect::<Result<_, Fault>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oidc(text: &str) -> Result<SignInConfig, Fault> {
        let file: SignInFile = toml::from_str(&format!("[oidc]\nissuer = \"https://login.example.org\"\nclient_id = \"b\"\n{text}")).unwrap();
        sign_in(file, Path::new("/"), BTreeMap::new())
    }

    #[test]
    fn a_provider_without_a_way_to_know_anybody_is_refused() {
        assert!(oidc("").unwrap_err().0.contains("nobody could sign in"));
        assert!(oidc("person_claim = \"preferred_username\"").is_ok());
        for bad in [
            "person_claim = \"\"",
            "person_claim = \"email\"\nprovision = true",
            "person_claim = \"email\"\nroles_claim = \"groups\"",
            "person_claim = \"email\"\nroles = { a = [\"owner\"] }",
            "person_claim = \"email\"\nclient_secret = \"s\"\nprivate_key = \"k\"",
            "person_claim = \"email\"\nalgorithms = [\"HS256\"]",
            "person_claim = \"email\"\nalgorithms = []",
            "person_claim = \"email\"\nscopes = [\"a b\"]",
        ] {
            assert!(oidc(bad).is_err(), "{bad}");
        }
        let scopes = oidc("person_claim = \"email\"\nscopes = [\"groups\"]").unwrap().provider.unwrap().scopes;
        assert_eq!(scopes, ["openid", "groups"]);
    }

    #[test]
    fn an_issuer_is_reached_over_tls_or_on_this_machine() {
        for bad in ["http://login.example.org", "https://u:p@h", "https://h/?q", "https://h/#f", "ftp://h", "login.example.org"] {
            assert!(place("issuer", bad).is_err(), "{bad}");
        }
        assert!(place("issuer", "http://127.0.0.1:9").is_ok() && place("issuer", "https://h/realms/x").is_ok());
    }

    #[test]
    fn step_up_covers_every_approval_or_those_of_an_effect_or_from_a_risk_on() {
        let step_up = |effects: &[Effect], risk| StepUp::new(StepUpFile::Passkey, effects.to_vec(), risk).unwrap();
        assert!(step_up(&[], None).covers(Effect::Read, RiskTier::Low));
        let some = step_up(&[Effect::Transfer], Some(RiskTier::High));
        assert!(some.covers(Effect::Transfer, RiskTier::Low) && some.covers(Effect::Write, RiskTier::High));
        assert!(!some.covers(Effect::Write, RiskTier::Medium));
        assert!(!StepUp::default().covers(Effect::Transfer, RiskTier::High));
        assert!(StepUp::new(StepUpFile::None, vec![Effect::Read], None).is_err());
    }

    #[test]
    fn one_issuer_is_one_transmitter_and_names_differ() {
        let events = |text: &str| events(toml::from_str(text).unwrap(), Path::new("/"));
        let one = "[[from]]\nname = \"a\"\nissuer = \"https://i\"\njwks_url = \"https://i/k\"\n";
        assert!(events(one).is_ok());
        assert!(events(&format!("{one}{}", one.replace("\"a\"", "\"b\""))).is_err());
        assert!(events(&format!("{one}[[to]]\nname = \"a\"\naudience = \"x\"\nbearer = \"s\"\n")).is_err());
        assert!(events(&one.replace("https://i/k", "http://i/k")).is_err());
    }
}
