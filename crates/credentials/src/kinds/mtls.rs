//! TLS with client certificates: a certificate for each lease, signed here without asking a server; ended by its serial number in the authority's list of
//! revoked certificates, and tried afterwards.
//!
//! What rules this file: servers read the list when they are told to, and look at it when somebody logs in, never again. So an end waits until every
//! server has refused the certificate, beside one that is accepted, and on `PostgreSQL` ends the sessions that it opened, which the server tells by the
//! certificate's number. Where no list is configured, a certificate only expires, within an hour.

mod authority;
mod ending;
mod list;
mod login;
mod preflight;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use bailiwick_core::{Clock, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::connection::within;
use super::postgresql::session::{OPTIONS, open};
use super::signing::END_KEY;
use crate::Secret;
use crate::lease::{
    Account, AccountName, Ending, Finding, Found, Kind, Minted, Node, Plan, Prefix, Step, Tag, TargetCode, TargetError, TargetIds, Trust,
};
use authority::{Authority, OURS, Words};

const SERVERS_MAX: usize = 8;
const NAMES_MAX: usize = 64;
const LEASE_MAX: Duration = Duration::from_secs(3600);
/// How long a certificate of our own lives.
const OWN_LIFE: Duration = Duration::from_secs(300);
/// Clocks of servers are behind ours by no more.
const AGE: Duration = Duration::from_secs(60);
/// A name in a certificate is no longer (RFC 5280, appendix A.1).
const NAME_MAX: usize = 64;
/// The words under which a certificate's number and its name are remembered.
const SERIAL: &str = "serial";
const NAME: &str = "name";

/// What is spoken above TLS, as far as a login needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    /// Nothing that we know: a certificate is accepted if the server does not object.
    Tls,
    /// `PostgreSQL`, with `cert` in `pg_hba.conf`; the user is the certificate's common name.
    Postgresql {
        /// The database that is logged in to.
        database: String,
    },
    /// HTTP/1.1: a `GET` is answered with anything but 400, 401, 403, 495 or 496 where the certificate is good.
    Http {
        /// What stands in `Host`.
        authority: String,
        /// The path that is asked for.
        path: String,
    },
}

/// A server that asks for client certificates.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where it is, and whom to trust to say that it is it.
    pub node: Node,
    /// What it speaks.
    pub protocol: Protocol,
}

/// The broker's own role at the servers of `PostgreSQL`: it makes them read the list, and ends sessions.
#[derive(Debug)]
pub struct Admin {
    /// The role's name.
    pub user: String,
    /// Its password.
    pub password: Secret,
}

/// Servers that trust one authority, and what leases may have there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Every server.
    pub servers: Vec<Server>,
    /// The common names, by the right that a plan has for them. A lease has exactly one.
    pub names: BTreeMap<String, String>,
    /// No lease is longer; at most an hour.
    pub lease_max: Duration,
    /// The file with the authority's list of revoked certificates, which the servers read. Without it a certificate can only expire.
    pub list: Option<PathBuf>,
}

/// Certificates of one authority.
pub struct Mtls {
    settings: Settings,
    authority: Arc<Authority>,
    admin: Option<Admin>,
    clock: Arc<dyn Clock>,
}

impl Mtls {
    /// Servers as they are configured. `authority` is PEM with the certificate of the authority that they trust and its private key (PKCS #8; P-256 or
    /// Ed25519). `admin` is needed where sessions of `PostgreSQL` are to be ended, and to make it read the list. Nothing is connected yet.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if a setting is out of its range, or the authority is none.
    pub fn new(settings: Settings, authority: &Secret, admin: Option<Admin>, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        settings.check()?;
        let Some(authority) = Authority::parse(authority.expose()) else {
            let words = "expected PEM with an authority's certificate and its private key: PKCS #8, P-256 or Ed25519";
            return Err(TargetError::new(TargetCode::Plan, Step::Connect, "", words));
        };
        Ok(Self { settings, authority: Arc::new(authority), admin, clock })
    }

    /// What a client of rustls needs to show a lease's certificate, to servers that `trust` vouches for. `None` if the account has no key and certificate.
    #[must_use]
    pub fn client(account: &Account, trust: &Trust) -> Option<Arc<ClientConfig>> {
        login::client(account.secret.as_ref()?, trust)
    }

    /// Certificate and key of a lease, or of [`own`](Self::own), for a client of rustls that is put together elsewhere. `None` if the secret has none.
    #[must_use]
    pub fn certified(secret: &Secret) -> Option<Arc<CertifiedKey>> {
        login::certified(secret).map(Arc::new)
    }

    /// A certificate for the broker itself, under the name of this right, for a few minutes: to ask a server what it offers, before there is a task. No
    /// lease has it; it is in nobody's hands but ours, and dies by itself.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if the right is none that is configured; [`TargetCode::Internal`] if it cannot be made.
    pub fn own(&self, right: &str) -> Result<(Secret, Timestamp), TargetError> {
        let name = self.settings.names.get(right);
        let name = name.ok_or_else(|| TargetError::new(TargetCode::Plan, Step::Mint, "", &format!("`{right}` is none of the configured names")))?;
        let now = self.clock.now();
        let tag = Tag { task: "listing".to_owned(), agent: "bailiwick".to_owned(), expires_at: now.plus(OWN_LIFE).min(self.authority.valid_until) };
        let secret = self.certify(&ending::nobody(now)?, name, &tag, now.minus(AGE), &fresh_key()?)?;
        Ok((secret, tag.expires_at))
    }

    fn mint_certificate(&self, plan: &Plan, secret: &Secret) -> Result<Minted, TargetError> {
        let wrong = |what: &str| TargetError::new(TargetCode::Plan, Step::Mint, "", what);
        let now = self.clock.now();
        // A task that is longer is given another one when there is need.
        let tag = Tag { expires_at: plan.tag.expires_at.min(now.plus(self.settings.lease_max)).min(self.authority.valid_until), ..plan.tag.clone() };
        if tag.expires_at <= now {
            return Err(wrong("the lease is over already, or the authority's own certificate has expired"));
        }
        let [right] = plan.rights.as_slice() else { return Err(wrong("a certificate has exactly one name")) };
        let name = self.settings.names.get(right).ok_or_else(|| wrong(&format!("`{right}` is none of the configured names")))?;
        let both = self.certify(&plan.name, name, &tag, now.minus(AGE), secret)?;
        Ok(Minted {
            ids: TargetIds::one(SERIAL, hexadecimal(&serial(&plan.name))).and(NAME, right),
            secret: Some(both),
            expires_at: Some(tag.expires_at),
        })
    }

    /// The key and its certificate, as clients read them.
    fn certify(&self, account: &AccountName, name: &str, tag: &Tag, after: Timestamp, secret: &Secret) -> Result<Secret, TargetError> {
        let internal = |what: &str| TargetError::new(TargetCode::Internal, Step::Mint, "", what);
        let key = PrivatePkcs8KeyDer::from_pem_slice(secret.expose()).ok();
        let pair = key.and_then(|key| EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_pkcs8_der()).ok());
        let pair = pair.ok_or_else(|| TargetError::new(TargetCode::Plan, Step::Mint, "", "the secret is no key"))?;
        let agent = uri(&tag.agent);
        let task: String = tag.task.chars().filter(|c| matches!(c, '!'..='~')).take(NAME_MAX).collect();
        let words = Words {
            serial: serial(account),
            common_name: name,
            task: &task,
            lease: account.as_str(),
            agent: Some(&agent),
            valid_after: after,
            valid_before: tag.expires_at,
        };
        let certificate =
            self.authority.certify(pair.public_key().as_ref(), &words).ok_or_else(|| internal("the certificate could not be signed"))?;
        // Only the key, whatever else came with it; and room for everything at once, so that no copy of it is left behind.
        let end = secret.expose().windows(END_KEY.len()).position(|window| window == END_KEY).ok_or_else(|| internal("the key has no end"))?;
        let key = secret.expose().get(..end.saturating_add(END_KEY.len())).unwrap_or_default();
        let chain = [certificate.as_ref(), self.authority.certificate().as_ref()].map(|certificate| pem("CERTIFICATE", certificate)).concat();
        let mut both = Zeroizing::new(Vec::with_capacity(key.len().saturating_add(chain.len())));
        both.extend_from_slice(key);
        both.extend_from_slice(chain.as_bytes());
        Ok(Secret::from(both))
    }

    /// A session of the broker's own role at a server of `PostgreSQL`; `None` where there is none to be had.
    async fn admin_at(&self, server: &Server, step: Step) -> Result<Option<super::postgresql::session::Session>, TargetError> {
        let (Protocol::Postgresql { database }, Some(admin)) = (&server.protocol, &self.admin) else { return Ok(None) };
        let opened = open(&server.node, &admin.user, &admin.password, database, "bailiwick", OPTIONS).await;
        opened.map(Some).map_err(|failure| failure.target(step, server.node.name()))
    }

    async fn list_sessions(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        let mut found: BTreeMap<AccountName, Found> = BTreeMap::new();
        for server in &self.settings.servers {
            let Some(session) = self.admin_at(server, Step::List).await? else { continue };
            let sql = "SELECT client_dn FROM pg_stat_ssl WHERE client_dn LIKE '/serialNumber=ag%'";
            let rows = session.ask(sql).await.map_err(|failure| failure.target(Step::List, server.node.name()))?;
            for dn in rows.into_iter().flatten().flatten() {
                let name =
                    dn.strip_prefix("/serialNumber=").and_then(|rest| rest.split('/').next()).and_then(|name| name.parse::<AccountName>().ok());
                let Some(name) = name.filter(|name| prefix.covers(name)) else { continue };
                let ids = TargetIds::one(SERIAL, hexadecimal(&serial(&name)));
                let this = Found { name: name.clone(), ids, tag: None, node: server.node.name().to_owned() };
                found.entry(name).or_insert(this);
            }
        }
        Ok(found.into_values().collect())
    }
}

impl Settings {
    /// Is everything in its range, and of its form?
    ///
    /// # Errors
    /// [`TargetCode::Plan`] with what was expected.
    pub fn check(&self) -> Result<(), TargetError> {
        let wrong = |what: &str| Err(TargetError::new(TargetCode::Plan, Step::Connect, "", what));
        let nodes: BTreeSet<_> = self.servers.iter().map(|server| server.node.name()).collect();
        if self.servers.is_empty() || self.servers.len() > SERVERS_MAX || nodes.len() < self.servers.len() {
            return wrong("expected 1 to 8 servers with different names");
        }
        if self.servers.iter().any(|server| server.node.tls().is_none() || server.node.host().starts_with('/')) {
            return wrong("expected servers that are reached by TLS, and certificates of authorities that vouch for them");
        }
        let fits = |name: &String| (1..=NAME_MAX).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-@".contains(c));
        if self.names.is_empty() || self.names.len() > NAMES_MAX || !self.names.values().all(fits) {
            return wrong("expected 1 to 64 common names of letters, digits, `.`, `_`, `-` and `@`, each of at most 64");
        }
        if !(Duration::from_secs(60)..=LEASE_MAX).contains(&self.lease_max) {
            return wrong("expected leases of one minute to one hour");
        }
        if self.list.as_ref().is_some_and(|path| path.file_name().is_none()) {
            return wrong("expected the path of a file for the list of revoked certificates");
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Kind for Mtls {
    fn kind(&self) -> &'static str {
        "mtls"
    }

    /// A private key. What is used is what [`Kind::mint`] gives, which has the certificate after it.
    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        fresh_key().map(Some)
    }

    async fn preflight(&self, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
        within(Step::Verify, preflight::preflight(self, probe)).await
    }

    async fn mint(&self, plan: &Plan, secret: Option<&Secret>) -> Result<Minted, TargetError> {
        let secret = secret.ok_or_else(|| TargetError::new(TargetCode::Plan, Step::Mint, "", "a certificate needs the key that was proposed"))?;
        self.mint_certificate(plan, secret)
    }

    async fn end(&self, account: &Account) -> Result<Ending, TargetError> {
        within(Step::Remove, ending::end(self, account)).await
    }

    /// Those that have a session open at a server of `PostgreSQL`. A server keeps no list of certificates: one that is not used is seen by nobody,
    /// and expires.
    async fn list(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        within(Step::List, self.list_sessions(prefix)).await
    }
}

impl fmt::Debug for Mtls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mtls").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A fresh key on P-256, as PEM.
fn fresh_key() -> Result<Secret, TargetError> {
    super::signing::fresh_p256().map_err(|_| TargetError::new(TargetCode::Internal, Step::Mint, "", "no key could be made"))
}

fn pem(label: &str, bytes: &[u8]) -> String {
    let digits = STANDARD.encode(bytes);
    let lines: Vec<_> = digits.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// The certificate's number, from the lease's: it is known before anything is made. Positive, and told from a person's by its beginning.
fn serial(name: &AccountName) -> [u8; 16] {
    let hash = digest::digest(&digest::SHA256, &name.lease());
    let mut serial = [0; 16];
    serial.iter_mut().zip(OURS.iter().chain(hash.as_ref())).for_each(|(to, from)| *to = *from);
    serial
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As a URI that a certificate can have: what is no printable ASCII is written with percent signs.
fn uri(text: &str) -> String {
    text.bytes()
        .take(400)
        .map(
            |byte| if matches!(byte, b'!'..=b'~') && !b"\"<>\\^`{|}".contains(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") },
        )
        .collect()
}

#[cfg(test)]
mod tests;
