//! The section `[clients]`: whether people may sign in with interactive MCP clients, which clients, and as which agents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bailiwick_core::{Agent, AgentName, PersonName};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::AgentEntry;

/// Which interactive clients people may use.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ClientsFile {
    /// May people sign in with MCP clients that know only the broker's URL (authorization code with PKCE)? Default false.
    interactive: bool,
    /// The agent that is offered first, if the person owns it; it must be marked `interactive`. Default: the first by name.
    #[schemars(with = "Option<String>")]
    default_agent: Option<Spanned<AgentName>>,
    /// Hosts (`claude.ai`, or `host:port`) whose client ID metadata documents are read; `*` is every public host. Default none.
    #[schemars(with = "Vec<String>")]
    document_hosts: Vec<Spanned<String>>,
    /// Those of them that may be at addresses of a private network. Default none.
    #[schemars(with = "Vec<String>")]
    private_document_hosts: Vec<Spanned<String>>,
    /// A PEM file, relative to this one, of further certificate authorities for these hosts.
    documents_ca: Option<PathBuf>,
    /// May clients register themselves (RFC 7591)? Whatever they say of themselves then, nobody vouches for it. Default false.
    registration: bool,
    /// Days until a client that registered must register again. Default 30, at most 365.
    registration_days: u32,
    /// Schemes of redirect URIs of applications, such as `cursor`, besides those in reverse domain form. Default none.
    #[schemars(with = "Vec<String>")]
    redirect_schemes: Vec<Spanned<String>>,
}

impl Default for ClientsFile {
    fn default() -> Self {
        Self {
            interactive: false,
            default_agent: None,
            document_hosts: Vec::new(),
            private_document_hosts: Vec::new(),
            documents_ca: None,
            registration: false,
            registration_days: 30,
            redirect_schemes: Vec::new(),
        }
    }
}

/// Which interactive clients people may use, checked.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    /// May people sign in with MCP clients at all?
    pub interactive: bool,
    /// The agent that is offered first.
    pub default_agent: Option<AgentName>,
    /// The agents that may work for interactive clients of their owners.
    pub agents: BTreeSet<AgentName>,
    /// Hosts whose documents are read, each with its port if that is not 443. `*` is every public one.
    pub document_hosts: BTreeSet<String>,
    /// Those that may be at private addresses.
    pub private_document_hosts: BTreeSet<String>,
    /// Further certificate authorities for hosts of documents.
    pub documents_ca: Vec<CertificateDer<'static>>,
    /// May clients register themselves?
    pub registration: bool,
    /// How long a registration counts.
    pub registration_life: Duration,
    /// Schemes of applications that redirect URIs may have.
    pub redirect_schemes: Vec<String>,
}

impl Clients {
    /// May the document of this host (with its port if that is not 443) be read?
    #[must_use]
    pub fn reads(&self, authority: &str) -> bool {
        self.document_hosts.contains(authority) || self.private_document_hosts.contains(authority) || self.document_hosts.contains("*")
    }

    /// Is any client ID that is a URL looked up?
    #[must_use]
    pub fn reads_documents(&self) -> bool {
        !self.document_hosts.is_empty() || !self.private_document_hosts.is_empty()
    }

    /// May this agent work for an interactive client of this person? Only of the one who answers for it.
    #[must_use]
    pub fn may_work_for(&self, agent: &Agent, person: &PersonName) -> bool {
        self.interactive && self.agents.contains(&agent.name) && agent.owner == *person
    }
}

type Fault = (std::ops::Range<usize>, String, &'static str);

pub(super) fn clients(
    given: ClientsFile,
    interactive_agents: BTreeSet<AgentName>,
    agents: &BTreeMap<AgentName, AgentEntry>,
    base: &Path,
) -> Result<Clients, Fault> {
    if given.interactive && interactive_agents.is_empty() {
        return Err((
            0..0,
            "`[clients]` says `interactive = true`, and no agent does".to_owned(),
            "write `interactive = true` into the table of the agent as which people's own clients may work",
        ));
    }
    if let Some(name) = &given.default_agent
        && !interactive_agents.contains(name.get_ref())
    {
        let known = if agents.contains_key(name.get_ref()) { "is not marked `interactive`" } else { "does not exist" };
        return Err((name.span(), format!("`default_agent` is `{}`, which {known}", name.get_ref()), "name an agent with `interactive = true`"));
    }
    Ok(Clients {
        interactive: given.interactive,
        default_agent: given.default_agent.map(Spanned::into_inner),
        agents: interactive_agents,
        document_hosts: hosts(given.document_hosts, true)?,
        private_document_hosts: hosts(given.private_document_hosts, false)?,
        documents_ca: authorities(given.documents_ca, base)?,
        registration: given.registration,
        registration_life: Duration::from_secs(u64::from(given.registration_days.clamp(1, 365)).saturating_mul(86_400)),
        redirect_schemes: schemes(given.redirect_schemes)?,
    })
}

fn authorities(given: Option<PathBuf>, base: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let Some(path) = given.map(|path| base.join(path)) else { return Ok(Vec::new()) };
    let wrong = |why: &dyn std::fmt::Display| {
        let what = format!("`documents_ca`: {}: {why}", path.display());
        (0..0, what, "give a file of certificates in PEM, from `-----BEGIN CERTIFICATE-----` on")
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&path).map_err(|e| wrong(&e))?.collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(wrong(&"there is no certificate in it")),
        Err(error) => Err(wrong(&error)),
    }
}

fn hosts(given: Vec<Spanned<String>>, star: bool) -> Result<BTreeSet<String>, Fault> {
    let mut all = BTreeSet::new();
    for one in given {
        let text = one.get_ref();
        let url = url::Url::parse(&format!("https://{text}/")).ok();
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b':'));
        let whole = url.filter(|u| plain && u.as_str() == format!("https://{text}/") && matches!(u.host(), Some(url::Host::Domain(_))));
        if whole.is_none() && !(star && text == "*") {
            let what = format!("`{}` is no host name", text.escape_debug());
            return Err((one.span(), what, "write a name such as `claude.ai`, with `:port` if that is not 443, in lower case"));
        }
        all.insert(one.into_inner());
    }
    Ok(all)
}

fn schemes(given: Vec<Spanned<String>>) -> Result<Vec<String>, Fault> {
    // What a browser or a system acts upon by itself is nobody's own scheme.
    const KNOWN: [&str; 14] =
        ["http", "https", "javascript", "data", "file", "blob", "about", "vbscript", "view-source", "ws", "wss", "ftp", "mailto", "chrome"];
    let mut all = Vec::with_capacity(given.len());
    for one in given {
        let text = one.get_ref();
        let plain = text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.len() <= 64
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'));
        if !plain || KNOWN.contains(&text.as_str()) {
            let what = format!("`{}` is no scheme of an application's own", text.escape_debug());
            return Err((one.span(), what, "write it without `:`, such as `cursor`"));
        }
        all.push(one.into_inner());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    const PEOPLE: &str =
        "[people.ana]\nroles = [\"owner\"]\n[agents.a]\nowner = \"ana\"\npurpose = \"p\"\nrisk = \"low\"\nreview_by = \"2099-01-01\"\n";

    fn config(agent: &str, clients: &str) -> Result<Config, String> {
        Config::parse("test", &format!("{PEOPLE}{agent}\n[clients]\n{clients}"), Path::new(".")).map_err(|e| format!("{e:?}"))
    }

    #[test]
    fn nobody_signs_in_with_a_client_unless_it_is_said_so_twice() {
        assert!(!config("", "").unwrap().clients.interactive);
        assert!(config("", "interactive = true").is_err(), "no agent is interactive");
        let clients = config("interactive = true", "interactive = true\ndefault_agent = \"a\"").unwrap().clients;
        assert!(clients.interactive && !clients.registration && !clients.reads_documents() && !clients.reads("claude.ai"));
        assert!(config("", "default_agent = \"a\"").is_err());
        assert!(config("interactive = true", "default_agent = \"b\"").is_err());
    }

    #[test]
    fn hosts_and_schemes_are_written_in_one_way() {
        let clients = config("", "document_hosts = [\"claude.ai\", \"c.example:8443\"]\nredirect_schemes = [\"cursor\"]").unwrap().clients;
        assert!(clients.reads("claude.ai") && clients.reads("c.example:8443") && !clients.reads("c.example") && !clients.reads("evil.claude.ai"));
        assert!(config("", "document_hosts = [\"*\"]").unwrap().clients.reads("any.example"));
        for bad in ["Claude.ai", "claude.ai:443", "https://claude.ai", "127.0.0.1", "claude.ai/x", "u@claude.ai", "", "*.claude.ai"] {
            assert!(config("", &format!("document_hosts = [\"{bad}\"]")).is_err(), "{bad}");
        }
        assert!(config("", "private_document_hosts = [\"*\"]").is_err());
        for bad in ["javascript", "https", "Cursor", "cursor:", "", "1a"] {
            assert!(config("", &format!("redirect_schemes = [\"{bad}\"]")).is_err(), "{bad}");
        }
    }
}
