//! The issuers whose tokens are taken as proofs of workloads, and which of their tokens are whose. Empty means that nobody's are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bailiwick_core::{AgentName, ComponentName, Person, PersonName, TrustDomain};
use bailiwick_identity::foreign::{ClaimPath, Mapping, Wanted};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::{AgentEntry, Fault};

/// The most issuers, and the most proofs of one agent.
const ISSUERS_MAX: usize = 64;
const PROOFS_MAX: usize = 32;
/// The most people that one issuer names.
const PEOPLE_MAX: usize = 10_000;
/// The oldest that a token may be allowed to be, in seconds: a day.
const AGE_MAX: u32 = 86_400;
const GUIDE: &str = "see docs/guides/workload-identity.md";

/// What an issuer vouches for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IssuerKind {
    /// Workloads, by OpenID Connect tokens: Kubernetes, GitHub Actions, GitLab, and others.
    #[default]
    Oidc,
    /// Workloads, by JWT-SVIDs of a SPIFFE trust domain.
    Spiffe,
    /// People, by ID-JAGs: that a client may act for one of them.
    IdJag,
}

impl IssuerKind {
    /// The word, as it is configured.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Oidc => "oidc",
            Self::Spiffe => "spiffe",
            Self::IdJag => "id_jag",
        }
    }

    /// How old a token may be where nothing is said, in seconds.
    const fn age_seconds(self) -> u32 {
        match self {
            Self::Oidc | Self::Spiffe => 3600,
            Self::IdJag => 600,
        }
    }
}

/// An issuer of proofs, and where its keys come from: exactly one place.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct IssuerFile {
    /// Its identifier: the exact value of `iss`. For a SPIFFE trust domain, `spiffe://<name>`.
    issuer: String,
    /// What it vouches for: `oidc` (the default), `spiffe` or `id_jag`.
    #[serde(default)]
    kind: IssuerKind,
    /// A file with its JWK set.
    jwks_file: Option<PathBuf>,
    /// Its keys are found by its own `/.well-known/openid-configuration`.
    #[serde(default)]
    discovery: bool,
    /// A file with the trust domain's SPIFFE bundle.
    spiffe_bundle_file: Option<PathBuf>,
    /// The trust domain's bundle endpoint (SPIFFE Federation, profile `https_web`).
    spiffe_bundle_url: Option<String>,
    /// The Workload API of this machine's SPIFFE implementation, as `unix:///path`: it tells the bundles of all trust domains that it knows.
    spiffe_workload_api: Option<String>,
    /// A PEM file of the authorities that may vouch for these places, instead of the web's.
    ca: Option<PathBuf>,
    /// What its tokens must be made for, and nothing besides. Default: our URL, and that of our token endpoint.
    #[serde(default)]
    audiences: Vec<String>,
    /// How old its tokens may be, in seconds. Default 3600, and 600 for `id_jag`.
    max_age_seconds: Option<u32>,
    /// For `id_jag`: which subject of the issuer is which of our people. Empty means none.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    people: BTreeMap<String, PersonName>,
}

/// Tokens of an issuer that are this agent's.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProofFile {
    /// The issuer's name in `[issuers]`.
    issuer: String,
    /// What each claim must be: a text, a text with one `*` for one segment between `/` or `:`, a whole number, or true or false. A name
    /// that begins with `/` is a JSON pointer to a claim inside another. `sub` must be there, but for `id_jag`.
    #[serde(default)]
    claims: BTreeMap<String, ClaimFile>,
    /// The claim that tells one running copy from another. Default: the pod's uid, for tokens of Kubernetes.
    instance: Option<String>,
    /// The claim in which the issuer attests the model that runs.
    model: Option<String>,
    /// The component of the agent whose tokens these are.
    #[schemars(with = "Option<String>")]
    component: Option<ComponentName>,
}

/// What a claim must be.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum ClaimFile {
    /// A text, or a template.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// True or false.
    Bool(bool),
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysFrom {
    /// A file: a JWK set, or a SPIFFE bundle where the issuer is a trust domain.
    File(PathBuf),
    /// The issuer's own discovery document.
    Discovery,
    /// A SPIFFE bundle endpoint.
    Bundle(Url),
    /// The socket of a SPIFFE Workload API.
    WorkloadApi(PathBuf),
}

/// An issuer of proofs.
#[derive(Clone, Debug)]
pub struct IssuerEntry {
    /// Its name here.
    pub name: String,
    /// Its identifier.
    pub issuer: String,
    /// What it vouches for.
    pub kind: IssuerKind,
    /// Where its keys come from.
    pub keys: KeysFrom,
    /// Authorities that may vouch for these places; empty: the web's.
    pub roots: Vec<CertificateDer<'static>>,
    /// What its tokens must be made for; empty: our own names.
    pub audiences: Vec<String>,
    /// How old its tokens may be.
    pub age_max: Duration,
    /// Which subject is which of our people.
    pub people: BTreeMap<String, PersonName>,
}

/// Tokens of an issuer that are an agent's.
#[derive(Clone, Debug)]
pub struct ProofEntry {
    /// The issuer's name.
    pub issuer: String,
    /// The agent.
    pub agent: AgentName,
    /// The component of it, if it is a component's.
    pub component: Option<ComponentName>,
    /// What each claim must be.
    pub mapping: Mapping,
    /// The claim that tells one running copy from another.
    pub instance: Option<ClaimPath>,
    /// The claim in which the issuer attests the model that runs.
    pub model: Option<ClaimPath>,
}

/// All issuers, and all proofs of agents.
#[derive(Clone, Debug, Default)]
pub struct Issuers {
    /// The issuers by name.
    pub by_name: BTreeMap<String, IssuerEntry>,
    /// The proofs. Of one issuer, no token fits two of different agents.
    pub proofs: Vec<ProofEntry>,
}

/// Reads the issuers.
pub(super) fn issuers(given: BTreeMap<String, Spanned<IssuerFile>>, people: &BTreeMap<PersonName, Person>, base: &Path) -> Result<Issuers, Fault> {
    let mut by_name: BTreeMap<String, IssuerEntry> = BTreeMap::new();
    for (name, file) in given {
        let span = file.span();
        let fault = |(what, hint): (String, &'static str)| (span.clone(), format!("issuer `{name}`: {what}"), hint);
        if name.parse::<AgentName>().is_err() || by_name.len() >= ISSUERS_MAX {
            return Err(fault((format!("its name is none, or there are more than {ISSUERS_MAX}"), "use a-z, 0-9, `-` and `_`")));
        }
        let entry = issuer(&name, file.into_inner(), people, base).map_err(fault)?;
        // Two would answer for the same tokens, and which of them does would be chance.
        if let Some(other) = by_name.values().find(|other| other.kind == entry.kind && other.issuer == entry.issuer) {
            return Err(fault((format!("it is the same issuer as `{}`", other.name), "keep one of them")));
        }
        by_name.insert(name, entry);
    }
    Ok(Issuers { by_name, proofs: Vec::new() })
}

fn issuer(name: &str, given: IssuerFile, people: &BTreeMap<PersonName, Person>, base: &Path) -> Result<IssuerEntry, (String, &'static str)> {
    let kind = given.kind;
    let identifier = !given.issuer.is_empty() && given.issuer.len() <= 2048 && !given.issuer.chars().any(char::is_control);
    let domain = given.issuer.strip_prefix("spiffe://").is_some_and(|domain| domain.parse::<TrustDomain>().is_ok());
    if !identifier || (kind == IssuerKind::Spiffe) != domain {
        return Err(("`issuer` is none of its kind".to_owned(), "write the exact `iss` of its tokens; for `spiffe`, `spiffe://<trust domain>`"));
    }
    let keys = keys_from(&given, base)?;
    if let Some(unknown) = given.people.values().find(|person| !people.contains_key(*person)) {
        return Err((format!("there is no person `{unknown}`"), "add the person under [people]"));
    }
    if (kind == IssuerKind::IdJag) == given.people.is_empty() || given.people.len() > PEOPLE_MAX {
        return Err(("`people` is for `id_jag`, which needs it".to_owned(), "say which subject is whom: people = { \"00u1abc\" = \"ana\" }"));
    }
    if kind == IssuerKind::IdJag && !given.audiences.is_empty() {
        return Err(("an ID-JAG is made for our URL, and for nothing else".to_owned(), "leave `audiences` out"));
    }
    if given.audiences.len() > 8 || given.audiences.iter().any(|a| a.is_empty() || a.len() > 2048) {
        return Err(("`audiences` has an empty one, one that is too long, or more than eight".to_owned(), GUIDE));
    }
    let age = given.max_age_seconds.unwrap_or(kind.age_seconds());
    if !(1..=AGE_MAX).contains(&age) {
        return Err((format!("`max_age_seconds` must be 1 to {AGE_MAX}"), GUIDE));
    }
    Ok(IssuerEntry {
        name: name.to_owned(),
        issuer: given.issuer,
        kind,
        keys,
        roots: roots(given.ca.as_deref(), base)?,
        audiences: given.audiences,
        age_max: Duration::from_secs(u64::from(age)),
        people: given.people,
    })
}

/// The one place of the keys, fit for its kind.
fn keys_from(given: &IssuerFile, base: &Path) -> Result<KeysFrom, (String, &'static str)> {
    const ONE: &str = "give one of `jwks_file` and `discovery = true`, or for `spiffe` of `spiffe_bundle_file`, `spiffe_bundle_url` and \
                       `spiffe_workload_api`";
    if let Some(endpoint) = &given.spiffe_workload_api {
        let alone = given.jwks_file.is_none() && !given.discovery && given.spiffe_bundle_file.is_none() && given.spiffe_bundle_url.is_none();
        if given.kind != IssuerKind::Spiffe || !alone || given.ca.is_some() {
            return Err(("it must be said in exactly one way where its keys come from".to_owned(), ONE));
        }
        return crate::spiffe::endpoint_path(endpoint)
            .map(KeysFrom::WorkloadApi)
            .map_err(|e| (e.to_string(), "write it as `unix:///path/to/agent.sock`"));
    }
    let places = (given.jwks_file.as_ref(), given.discovery, given.spiffe_bundle_file.as_ref(), given.spiffe_bundle_url.as_ref());
    match (given.kind, places) {
        (IssuerKind::Oidc | IssuerKind::IdJag, (Some(file), false, None, None)) | (IssuerKind::Spiffe, (None, false, Some(file), None)) => {
            if given.ca.is_some() {
                return Err(("`ca` is for places that are reached by https".to_owned(), "leave it out"));
            }
            Ok(KeysFrom::File(base.join(file)))
        }
        (IssuerKind::Oidc | IssuerKind::IdJag, (None, true, None, None)) => place(&given.issuer).map(|_| KeysFrom::Discovery),
        (IssuerKind::Spiffe, (None, false, None, Some(url))) => place(url).map(KeysFrom::Bundle),
        _ => Err(("it must be said in exactly one way where its keys come from".to_owned(), ONE)),
    }
}

/// A URL from which keys are fetched: https, or http to this machine.
fn place(text: &str) -> Result<Url, (String, &'static str)> {
    const HINT: &str = "write it as `https://host/path`; `http://` goes to this machine only";
    let wrong = |why: &str| (format!("`{}` {why}", text.escape_debug()), HINT);
    let url: Url = text.parse().map_err(|_| wrong("is no URL"))?;
    let local = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => return Err(wrong("has no host")),
    };
    let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    match url.scheme() {
        "https" if plain => Ok(url),
        "http" if plain && local => Ok(url),
        _ => Err(wrong("is no place from which keys are fetched")),
    }
}

fn roots(ca: Option<&Path>, base: &Path) -> Result<Vec<CertificateDer<'static>>, (String, &'static str)> {
    let Some(ca) = ca else { return Ok(Vec::new()) };
    let path = base.join(ca);
    let wrong = |why: &dyn std::fmt::Display| (format!("`{}`: {why}", path.display()), "it must be a PEM file of certificates");
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&path).map_err(|e| wrong(&e))?.collect();
    let found = found.map_err(|e| wrong(&e))?;
    if found.is_empty() { Err(wrong(&"no certificate in it")) } else { Ok(found) }
}

impl Issuers {
    /// Adds the proofs of one agent.
    pub(super) fn add(&mut self, agent: &AgentEntry, given: Vec<Spanned<ProofFile>>) -> Result<(), Fault> {
        let name = &agent.agent.name;
        if let Some(beyond) = given.get(PROOFS_MAX) {
            return Err((beyond.span(), format!("agent `{name}` has more than {PROOFS_MAX} proofs"), GUIDE));
        }
        for file in given {
            let span = file.span();
            let fault = |what: String, hint| (span.clone(), format!("agent `{name}`: {what}"), hint);
            let entry = self.proof(agent, file.into_inner()).map_err(|(what, hint)| fault(what, hint))?;
            if let Some(other) = self.proofs.iter().find(|other| self.meet(other, &entry)) {
                let what = format!("a token of issuer `{}` could be both its own and that of agent `{}`", entry.issuer, other.agent);
                return Err(fault(what, "tell them apart by a claim that both want, each with another value"));
            }
            self.proofs.push(entry);
        }
        Ok(())
    }

    /// Could one token be of both, and would that not be the same?
    fn meet(&self, one: &ProofEntry, other: &ProofEntry) -> bool {
        let whose = |proof: &ProofEntry| (proof.agent.clone(), proof.component.clone());
        // An ID-JAG names its client itself.
        let kind = self.by_name.get(&one.issuer).map(|issuer| issuer.kind);
        one.issuer == other.issuer && kind != Some(IssuerKind::IdJag) && whose(one) != whose(other) && one.mapping.overlaps(&other.mapping)
    }

    fn proof(&self, agent: &AgentEntry, given: ProofFile) -> Result<ProofEntry, (String, &'static str)> {
        let issuer = self.by_name.get(&given.issuer).ok_or_else(|| (format!("there is no issuer `{}`", given.issuer), "add it under [issuers]"))?;
        let path = |text: &str| text.parse::<ClaimPath>().map_err(|e| (e.to_string(), GUIDE));
        let claims = given.claims.into_iter().map(|(name, value)| Ok((path(&name)?, wanted(value)?)));
        let claims = claims.collect::<Result<Vec<_>, (String, &'static str)>>()?;
        let mapping = if issuer.kind == IssuerKind::IdJag { Mapping::bounding(claims) } else { Mapping::new(claims) };
        let mapping = mapping.map_err(|e| (e.to_string(), GUIDE))?;
        if issuer.kind == IssuerKind::Spiffe {
            let of_domain = |wanted: &Wanted| matches!(wanted, Wanted::Text(p) if p.prefix().starts_with(&format!("{}/", issuer.issuer)));
            if !mapping.subject().is_some_and(of_domain) {
                let what = format!("`sub` is no SPIFFE ID of {}", issuer.issuer);
                return Err((what, "write it as `spiffe://<trust domain>/<path>`"));
            }
        }
        if given.component.as_ref().is_some_and(|component| !agent.components.contains_key(component)) {
            return Err(("it has no such component".to_owned(), "add it under [agents.NAME.components]"));
        }
        Ok(ProofEntry {
            issuer: given.issuer,
            agent: agent.agent.name.clone(),
            component: given.component,
            mapping,
            instance: given.instance.as_deref().map(path).transpose()?,
            model: given.model.as_deref().map(path).transpose()?,
        })
    }
}

fn wanted(given: ClaimFile) -> Result<Wanted, (String, &'static str)> {
    match given {
        ClaimFile::Text(text) => text.parse().map(Wanted::Text).map_err(|e: bailiwick_identity::foreign::MappingError| (e.to_string(), GUIDE)),
        ClaimFile::Integer(number) => Ok(Wanted::Integer(number)),
        ClaimFile::Bool(yes) => Ok(Wanted::Bool(yes)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const BASE: &str = "[people.ana]\nroles = [\"owner\"]\n";
    const KUBE: &str = "[issuers.kube]\nissuer = \"https://kubernetes.default.svc\"\njwks_file = \"k.json\"\n";

    fn agent(name: &str, proofs: &str) -> String {
        format!("[agents.{name}]\nowner = \"ana\"\npurpose = \"p\"\nrisk = \"low\"\nreview_by = \"2099-01-01\"\n{proofs}\n")
    }

    fn parse(more: &str) -> Result<Config, String> {
        Config::parse("t", &format!("{BASE}{more}"), Path::new("/etc/b")).map_err(|e| e.to_string())
    }

    #[test]
    fn an_issuer_and_an_agents_proofs_are_read() {
        let two = agent(
            "planner",
            "[[agents.planner.proofs]]\nissuer = \"kube\"\nclaims = { sub = \"system:serviceaccount:prod:planner\", \
             \"/kubernetes.io/serviceaccount/name\" = \"planner\" }\ninstance = \"/kubernetes.io/pod/uid\"",
        );
        let config = parse(&format!("{KUBE}{two}")).unwrap();
        let issuer = &config.issuers.by_name["kube"];
        assert_eq!(
            (issuer.kind, issuer.age_max, &issuer.keys),
            (IssuerKind::Oidc, Duration::from_secs(3600), &KeysFrom::File("/etc/b/k.json".into()))
        );
        assert_eq!((config.issuers.proofs.len(), config.issuers.proofs[0].agent.as_str()), (1, "planner"));
        assert!(parse("").unwrap().issuers.by_name.is_empty());
    }

    #[test]
    fn an_issuer_that_could_be_taken_in_two_ways_or_from_a_stranger_is_refused() {
        let issuer = |body: &str| parse(&format!("[issuers.x]\n{body}")).err().unwrap_or_default();
        for (body, says) in [
            ("issuer = \"https://a\"", "exactly one way"),
            ("issuer = \"https://a\"\ndiscovery = true\njwks_file = \"k\"", "exactly one way"),
            ("issuer = \"https://a\"\nspiffe_bundle_file = \"k\"", "exactly one way"),
            ("issuer = \"http://a.example\"\ndiscovery = true", "no place"),
            ("issuer = \"http://127.0.0.1.nip.io\"\ndiscovery = true", "no place"),
            ("issuer = \"https://u:p@a\"\ndiscovery = true", "no place"),
            ("issuer = \"https://a\"\nkind = \"spiffe\"\nspiffe_bundle_file = \"k\"", "none of its kind"),
            ("issuer = \"spiffe://a\"\njwks_file = \"k\"", "none of its kind"),
            ("issuer = \"spiffe://a/b\"\nkind = \"spiffe\"\nspiffe_bundle_file = \"k\"", "none of its kind"),
            ("issuer = \"spiffe://a\"\nkind = \"spiffe\"\nspiffe_bundle_url = \"http://a/\"", "no place"),
            ("issuer = \"spiffe://a\"\nkind = \"spiffe\"\nspiffe_workload_api = \"unix:///s\"\nspiffe_bundle_file = \"k\"", "exactly one way"),
            ("issuer = \"https://a\"\nspiffe_workload_api = \"unix:///s\"", "exactly one way"),
            ("issuer = \"spiffe://a\"\nkind = \"spiffe\"\nspiffe_workload_api = \"tcp://127.0.0.1:1\"", "issuer `x`"),
            ("issuer = \"\"\njwks_file = \"k\"", "none of its kind"),
            ("issuer = \"https://a\"\njwks_file = \"k\"\nmax_age_seconds = 0", "max_age_seconds"),
            ("issuer = \"https://a\"\njwks_file = \"k\"\nmax_age_seconds = 86401", "max_age_seconds"),
            ("issuer = \"https://a\"\njwks_file = \"k\"\naudiences = [\"\"]", "audiences"),
            ("issuer = \"https://a\"\njwks_file = \"k\"\nkind = \"id_jag\"", "people"),
            ("issuer = \"https://a\"\njwks_file = \"k\"\npeople = { x = \"ana\" }", "people"),
            ("issuer = \"https://a\"\njwks_file = \"k\"\nkind = \"id_jag\"\npeople = { x = \"bob\" }", "no person `bob`"),
            ("issuer = \"https://a\"\njwks_file = \"k\"\nkind = \"id_jag\"\npeople = { x = \"ana\" }\naudiences = [\"y\"]", "made for our URL"),
            ("issuer = \"https://a\"\ndiscovery = true\nca = \"absent.pem\"", "absent.pem"),
            ("issuer = \"https://a\"\njwks_file = \"k\"\nca = \"absent.pem\"", "https"),
        ] {
            assert!(issuer(body).contains(says), "{body}: {}", issuer(body));
        }
        let twice = format!("{KUBE}{}", KUBE.replace("kube]", "again]"));
        assert!(parse(&twice).unwrap_err().contains("the same issuer"), "{twice}");
    }

    #[test]
    fn proofs_that_pin_nothing_or_could_be_anothers_are_refused() {
        let claims = |all: &str| agent("a", &format!("[[agents.a.proofs]]\nissuer = \"kube\"\nclaims = {{ {all} }}"));
        for (all, says) in [
            ("", "`sub` must be pinned"),
            ("aud = \"x\"", "`sub` must be pinned"),
            ("sub = \"*\"", "no pattern"),
            ("sub = \"repo:*\"", "`sub` must be pinned"),
            ("sub = \"a.*\"", "no pattern"),
            ("sub = \"a\", \"/sub\" = \"b\"", "wanted twice"),
            ("sub = \"a\", \"/x~y\" = \"b\"", "no claim"),
        ] {
            let said = parse(&format!("{KUBE}{}", claims(all))).unwrap_err();
            assert!(said.contains(says), "{all}: {said}");
        }
        let unknown = agent("a", "[[agents.a.proofs]]\nissuer = \"other\"\nclaims = { sub = \"a\" }");
        assert!(parse(&format!("{KUBE}{unknown}")).unwrap_err().contains("no issuer `other`"));
        let component = agent("a", "[[agents.a.proofs]]\nissuer = \"kube\"\ncomponent = \"none\"\nclaims = { sub = \"a\" }");
        assert!(parse(&format!("{KUBE}{component}")).unwrap_err().contains("no such component"));
        let spiffe = "[issuers.td]\nissuer = \"spiffe://td\"\nkind = \"spiffe\"\nspiffe_bundle_file = \"k\"\n";
        for sub in ["spiffe://other/a", "spiffe://td", "spiffe://tdx/a"] {
            let proofs = agent("a", &format!("[[agents.a.proofs]]\nissuer = \"td\"\nclaims = {{ sub = \"{sub}\" }}"));
            assert!(parse(&format!("{spiffe}{proofs}")).unwrap_err().contains("no SPIFFE ID of"), "{sub}");
        }
    }

    #[test]
    fn a_token_that_could_be_of_two_agents_is_refused_at_start() {
        let two = |a: &str, b: &str| {
            let of = |name: &str, claims: &str| agent(name, &format!("[[agents.{name}.proofs]]\nissuer = \"kube\"\nclaims = {{ {claims} }}"));
            parse(&format!("{KUBE}{}{}", of("one", a), of("two", b)))
        };
        for (a, b) in [("sub = \"s\"", "sub = \"s\""), ("sub = \"a:b:*\"", "sub = \"a:b:c\""), ("sub = \"s\", env = \"prod\"", "sub = \"s\"")] {
            assert!(two(a, b).unwrap_err().contains("could be both"), "{a} {b}");
        }
        assert!(two("sub = \"s\", env = \"prod\"", "sub = \"s\", env = \"test\"").is_ok());
        // Two proofs of one agent may meet.
        let same = agent(
            "one",
            "[[agents.one.proofs]]\nissuer = \"kube\"\nclaims = { sub = \"a:b:*\" }\n[[agents.one.proofs]]\nissuer = \"kube\"\nclaims = { sub = \"a:b:c\" }",
        );
        assert!(parse(&format!("{KUBE}{same}")).is_ok());
    }
}
