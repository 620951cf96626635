//! The section `[spiffe]` and an agent's `local`: identities for workloads on this machine, and the processes that are an agent.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bailiwick_core::{AgentName, Digest, TrustDomain};
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{IssuerKind, Issuers};

/// The longest path of a Unix socket: what `sockaddr_un` has room for, with the zero at its end (unix(7)).
pub(super) const SOCKET_PATH_MAX: usize = 107;
/// Rules of one agent.
const LOCAL_MAX: usize = 32;

type Fault = (Range<usize>, String, &'static str);

/// Bailiwick as the SPIFFE issuer of its trust domain, for places that have none. Without `socket` it issues nothing.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SpiffeFile {
    /// The Unix socket on which the SPIFFE Workload API is served to the processes of this machine that are agents (`[[agents.NAME.local]]`).
    /// Relative to this file. Clients find it by `SPIFFE_ENDPOINT_SOCKET=unix:///path`.
    #[schemars(with = "Option<String>")]
    socket: Option<Spanned<PathBuf>>,
    /// Who may connect to the socket: `owner`, `group` or `everyone` on this machine. Who is an agent is decided after that. Default `owner`.
    open_to: OpenTo,
    /// Life of an X.509-SVID in minutes, 2 to 60. Default 60. It is renewed at half of it.
    #[schemars(with = "Option<u32>")]
    x509_minutes: Option<Spanned<u32>>,
    /// Life of a JWT-SVID in minutes, 1 to 60. Default 5.
    #[schemars(with = "Option<u32>")]
    jwt_minutes: Option<Spanned<u32>>,
    /// Life of the authority's keys in days, 1 to 365. Default 7. The next ones are announced at half of it.
    #[schemars(with = "Option<u32>")]
    authority_days: Option<Spanned<u32>>,
    /// Other trust domains whose bundles are handed out with ours, and whose JWT-SVIDs agents may have checked: names in `[issuers]` of kind `spiffe`.
    /// Default none.
    #[schemars(with = "Vec<String>")]
    federates_with: Vec<Spanned<String>>,
}

/// Who may connect to a Unix socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OpenTo {
    /// The user that the broker runs as.
    #[default]
    Owner,
    /// Its group too.
    Group,
    /// Every user of this machine.
    Everyone,
}

impl OpenTo {
    /// The socket's mode.
    #[must_use]
    pub const fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Group => 0o660,
            Self::Everyone => 0o666,
        }
    }
}

/// A process of this machine that is the agent: whoever connects to one of the broker's Unix sockets from it proves the agent by that alone.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LocalFile {
    /// The user that it runs as.
    uid: Option<u32>,
    /// The group that it runs as.
    gid: Option<u32>,
    /// The program that it runs: a full path. The very file that stands there now.
    executable: Option<PathBuf>,
    /// The SHA-256 of the program, in hexadecimal.
    executable_sha256: Option<String>,
    /// Every program of this user or group is the agent. Default false: then `executable` or `executable_sha256` is needed.
    #[serde(default)]
    any_executable: bool,
}

/// A process that is an agent. All of what is said must be so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalRule {
    /// The user.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The program's file.
    pub executable: Option<PathBuf>,
    /// The program's digest.
    pub sha256: Option<Digest>,
}

impl LocalRule {
    /// Does it say anything of the program?
    #[must_use]
    pub const fn asks_for_program(&self) -> bool {
        self.executable.is_some() || self.sha256.is_some()
    }
}

/// The SPIFFE issuer, checked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SpiffeIssuer {
    /// Where the Workload API is served.
    pub socket: PathBuf,
    /// Who may connect.
    pub open_to: OpenTo,
    /// Life of an X.509-SVID.
    pub x509_life: Duration,
    /// Life of a JWT-SVID.
    pub jwt_life: Duration,
    /// Life of a generation of the authority.
    pub authority_life: Duration,
    /// The issuers whose trust domains are federated with.
    pub federates_with: Vec<String>,
}

/// Checks the section. `None`: nothing is issued.
pub(super) fn issuer(file: SpiffeFile, issuers: &Issuers, domain: &TrustDomain, base: &Path) -> Result<Option<SpiffeIssuer>, Fault> {
    let within = |given: Option<Spanned<u32>>, range: std::ops::RangeInclusive<u32>, default: u32| match given {
        None => Ok(default),
        Some(number) if range.contains(number.get_ref()) => Ok(*number.get_ref()),
        Some(number) => {
            let what = format!("`{}` is not within {} and {}", number.get_ref(), range.start(), range.end());
            Err((number.span(), what, "see docs/guides/spiffe.md"))
        }
    };
    let minutes = |number: u32| Duration::from_secs(u64::from(number).saturating_mul(60));
    let x509_life = minutes(within(file.x509_minutes, 2..=60, 60)?);
    let jwt_life = minutes(within(file.jwt_minutes, 1..=60, 5)?);
    let authority_life = Duration::from_secs(u64::from(within(file.authority_days, 1..=365, 7)?).saturating_mul(86_400));
    let federates_with = federated(file.federates_with, issuers, domain)?;
    let Some(given) = file.socket else { return Ok(None) };
    let socket = socket_path(&given, base)?;
    Ok(Some(SpiffeIssuer { socket, open_to: file.open_to, x509_life, jwt_life, authority_life, federates_with }))
}

/// The issuers whose trust domains are federated with: each is one, and none is ours.
fn federated(given: Vec<Spanned<String>>, issuers: &Issuers, domain: &TrustDomain) -> Result<Vec<String>, Fault> {
    let mut names = Vec::with_capacity(given.len());
    for name in given {
        let known = issuers.by_name.get(name.get_ref()).filter(|issuer| issuer.kind == IssuerKind::Spiffe);
        let fault = |what: String, hint| Err((name.span(), what, hint));
        match known {
            None => return fault(format!("`{}` is no trust domain in [issuers]", name.get_ref()), "add it there, with kind = \"spiffe\""),
            Some(issuer) if issuer.issuer == format!("spiffe://{domain}") => {
                return fault(format!("`{}` is our own trust domain", name.get_ref()), "its bundle is handed out anyway");
            }
            Some(_) => names.push(name.into_inner()),
        }
    }
    Ok(names)
}

/// The path of a Unix socket.
pub(super) fn socket_path(given: &Spanned<PathBuf>, base: &Path) -> Result<PathBuf, Fault> {
    let path = base.join(given.get_ref());
    let fits = (1..=SOCKET_PATH_MAX).contains(&path.as_os_str().len()) && path.file_name().is_some();
    if fits && !path.as_os_str().as_encoded_bytes().contains(&0) {
        return Ok(path);
    }
    let what = format!("`{}` is no path that a Unix socket can have", path.display());
    Err((given.span(), what, "at most 107 bytes, with the directory of this file"))
}

/// Checks the processes that are an agent.
pub(super) fn local(agent: &AgentName, given: Vec<Spanned<LocalFile>>) -> Result<Vec<LocalRule>, Fault> {
    if let Some(too_many) = given.get(LOCAL_MAX) {
        return Err((too_many.span(), format!("agent `{agent}` has more than {LOCAL_MAX} `local` rules"), "keep fewer"));
    }
    given
        .into_iter()
        .map(|one| {
            let span = one.span();
            rule(one.into_inner()).map_err(|(what, hint)| (span, format!("agent `{agent}`: {what}"), hint))
        })
        .collect()
}

fn rule(file: LocalFile) -> Result<LocalRule, (String, &'static str)> {
    if file.uid.is_none() && file.gid.is_none() {
        return Err(("a `local` rule without `uid` and `gid`".to_owned(), "say which user or group it runs as"));
    }
    let named = file.executable.is_some() || file.executable_sha256.is_some();
    if !named && !file.any_executable {
        return Err((
            "a `local` rule without a program: every process of the user would be the agent".to_owned(),
            "add `executable` or `executable_sha256`; or `any_executable = true`, if that is meant",
        ));
    }
    if named && file.any_executable {
        return Err(("a `local` rule with `any_executable` and a program".to_owned(), "keep one of them"));
    }
    if file.executable.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Err(("`executable` is no full path".to_owned(), "write it as `/usr/local/bin/agent`"));
    }
    let sha256 = file.executable_sha256.map(|text| text.parse::<Digest>()).transpose();
    let sha256 = sha256.map_err(|_| ("`executable_sha256` is no SHA-256".to_owned(), "64 hexadecimal digits, as `sha256sum` writes them"))?;
    Ok(LocalRule { uid: file.uid, gid: file.gid, executable: file.executable, sha256 })
}

/// No process may be two agents: rules that say the same are refused here, and those that overlap when a process is both.
pub(super) fn distinct<'a>(agents: impl Iterator<Item = (&'a AgentName, &'a [LocalRule])>) -> Result<(), (String, &'static str)> {
    let mut seen: BTreeMap<String, &AgentName> = BTreeMap::new();
    for (agent, rules) in agents {
        for rule in rules {
            let key = format!("{rule:?}");
            if let Some(other) = seen.insert(key, agent).filter(|other| *other != agent) {
                return Err((format!("agents `{other}` and `{agent}` have the same `local` rule"), "a process is one agent: tell them apart"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn parse(more: &str) -> Result<Config, String> {
        let text = format!(
            "[people.ana]\nroles = [\"owner\"]\n[agents.scout]\nowner = \"ana\"\npurpose = \"x\"\nrisk = \"low\"\nreview_by = \"2099-12-31\"\n\
             [agents.other]\nowner = \"ana\"\npurpose = \"x\"\nrisk = \"low\"\nreview_by = \"2099-12-31\"\n{more}"
        );
        Config::parse("test", &text, Path::new("/etc/bailiwick")).map_err(|e| e.to_string())
    }

    #[test]
    fn without_a_socket_nothing_is_issued_and_defaults_are_short() {
        assert!(parse("").unwrap().spiffe.is_none());
        assert!(parse("[spiffe]\njwt_minutes = 3\n").unwrap().spiffe.is_none());
        let issuer = parse("[spiffe]\nsocket = \"w.sock\"\n").unwrap().spiffe.unwrap();
        assert_eq!(issuer.socket, Path::new("/etc/bailiwick/w.sock"));
        assert_eq!((issuer.x509_life.as_secs(), issuer.jwt_life.as_secs(), issuer.open_to.mode()), (3600, 300, 0o600));
    }

    #[test]
    fn an_svid_that_lives_longer_than_an_hour_and_a_path_that_is_too_long_are_refused() {
        for bad in ["x509_minutes = 61", "jwt_minutes = 0", "authority_days = 366", "open_to = \"world\"", "sockets = 1"] {
            assert!(parse(&format!("[spiffe]\n{bad}\n")).is_err(), "{bad}");
        }
        assert!(parse(&format!("[spiffe]\nsocket = \"{}\"\n", "a".repeat(100))).is_err());
    }

    #[test]
    fn only_another_trust_domain_that_is_known_is_federated_with() {
        let issuers = "[issuers.prod]\nissuer = \"spiffe://prod.example\"\nkind = \"spiffe\"\nspiffe_bundle_file = \"p\"\n\
                       [issuers.own]\nissuer = \"spiffe://bailiwick.local\"\nkind = \"spiffe\"\nspiffe_bundle_file = \"o\"\n\
                       [issuers.kube]\nissuer = \"https://kube\"\njwks_file = \"k\"\n";
        let with = |names: &str| parse(&format!("[spiffe]\nsocket = \"w.sock\"\nfederates_with = [{names}]\n{issuers}"));
        assert_eq!(with("\"prod\"").unwrap().spiffe.unwrap().federates_with, ["prod"]);
        assert!(with("").unwrap().spiffe.unwrap().federates_with.is_empty());
        for bad in ["\"own\"", "\"kube\"", "\"absent\"", "\"spiffe://prod.example\""] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rule_that_says_too_little_is_refused() {
        let rule = |text: &str| parse(&format!("[[agents.scout.local]]\n{text}\n"));
        assert!(rule("").is_err());
        assert!(rule("executable = \"/bin/agent\"").is_err(), "nobody's user");
        assert!(rule("uid = 1000").is_err(), "every program");
        assert!(rule("uid = 1000\nany_executable = true\nexecutable = \"/bin/agent\"").is_err());
        assert!(rule("uid = 1000\nexecutable = \"agent\"").is_err());
        assert!(rule("uid = 1000\nexecutable_sha256 = \"00\"").is_err());
        assert!(rule("uid = 1000\nany_executable = true").is_ok());
        let good = rule(&format!("gid = 5\nexecutable = \"/bin/agent\"\nexecutable_sha256 = \"{}\"", "0a".repeat(32))).unwrap();
        let [found] = good.agents[&"scout".parse::<AgentName>().unwrap()].local.as_slice() else { panic!() };
        assert!(found.asks_for_program() && found.gid == Some(5) && found.uid.is_none());
    }

    #[test]
    fn the_same_rule_for_two_agents_is_refused() {
        let same = "uid = 1000\nany_executable = true\n";
        let text = format!("[[agents.scout.local]]\n{same}[[agents.other.local]]\n{same}");
        assert!(parse(&text).unwrap_err().contains("same `local` rule"));
        assert!(parse(&format!("[[agents.scout.local]]\n{same}[[agents.scout.local]]\n{same}")).is_ok());
    }
}
