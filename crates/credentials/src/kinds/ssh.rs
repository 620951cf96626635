//! SSH: a certificate for each lease, signed here without asking a host; ended by its serial in the hosts' list of revoked keys, with what it left
//! running, and tried afterwards.
//!
//! What was measured on real servers, and rules this file: expiry, principal, address and the list of revoked keys are looked at when somebody logs
//! in, and never again. So a session that is open goes on. Therefore each certificate has a forced command, which is ours: it looks whether the lease has
//! ended before it runs anything, and marks what it runs with the lease's name. An end leaves a mark that shuts that door, puts the serial into the
//! list, and kills whatever has the name in its environment, with its children and its connection. A refused login is worded alike whatever the reason, so a
//! login with a fresh certificate of the same authority must go through beside it.
//!
//! OpenSSH 8.2 or newer, on Linux. Nothing of ours is installed on a host: the broker's own account there runs what POSIX, util-linux and OpenSSH have.

pub(crate) mod certificate;
pub(crate) mod client;
mod ending;
mod exchange;
mod host;
pub(crate) mod key;
mod preflight;
pub(crate) mod quote;
mod transport;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use bailiwick_core::{Clock, Timestamp};
use zeroize::Zeroizing;

use super::connection::within;
use crate::Secret;
use crate::lease::{Account, AccountName, Ending, Finding, Found, Kind, Minted, Plan, Prefix, Step, Tag, TargetCode, TargetError, TargetIds};
use certificate::Words;
use client::Client;
pub use host::Host;
use key::Key;
use quote::quote;
pub(crate) use transport::Trouble;

const HOSTS_MAX: usize = 16;
const LOGINS_MAX: usize = 16;
const ADDRESSES_MAX: usize = 16;
const COMMAND_MAX: usize = 1024;
const KEY_ID_MAX: usize = 400;
/// Clocks of hosts are behind ours by no more.
const AGE: Duration = Duration::from_secs(60);
/// How long a certificate of our own lives: for one errand.
const ERRAND: Duration = Duration::from_secs(120);
/// The words under which a certificate's number and its login are remembered.
const SERIAL: &str = "serial";
const LOGIN: &str = "login";

/// An account of the hosts, as which a lease may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The account's name at the hosts.
    pub user: String,
    /// The name in the certificate, which the host's `AuthorizedPrincipalsFile` has for this account; without such a file, the account's own name.
    pub principal: String,
}

/// The broker's own account at the hosts, with which it ends leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// As whom it logs in, with a certificate of the same authority.
    pub login: Login,
    /// Whether it becomes root with `sudo -n`. Otherwise it must be able to see and kill what leases run, and to write the folder.
    pub sudo: bool,
    /// The folder at each host that has `revoked_keys`, which sshd's `RevokedKeys` names, and the folder `ended`. Leases must not be able to write there.
    pub folder: String,
}

/// Hosts that trust one authority, and what leases may have there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Every host.
    pub hosts: Vec<Host>,
    /// The logins, by the name that a plan has for them. A lease has exactly one.
    pub logins: BTreeMap<String, Login>,
    /// No lease is longer.
    pub lease_max: Duration,
    /// From which addresses a certificate may be used, as `address/bits`. None: from everywhere.
    pub source_addresses: Vec<String>,
    /// What runs whatever is asked for.
    pub force_command: Option<String>,
    /// Without it, a certificate can only expire, and endings say so.
    pub admin: Option<Admin>,
}

impl Settings {
    /// Is everything in its range, and of its form?
    ///
    /// # Errors
    /// [`TargetCode::Plan`] with what was expected.
    pub fn check(&self) -> Result<(), TargetError> {
        let wrong = |what: &str| Err(TargetError::new(TargetCode::Plan, Step::Connect, "", what));
        let names: BTreeSet<_> = self.hosts.iter().map(Host::name).collect();
        if self.hosts.is_empty() || self.hosts.len() > HOSTS_MAX || names.len() < self.hosts.len() {
            return wrong("expected 1 to 16 hosts with different names");
        }
        let admin = self.admin.as_ref().map(|admin| &admin.login);
        if self.logins.is_empty() || self.logins.len() > LOGINS_MAX || !self.logins.values().chain(admin).all(is_login) {
            return wrong("expected 1 to 16 logins, with users and principals of letters, digits, `.`, `_`, `-` and `@`");
        }
        // Whoever may log in as the broker's own account may undo an end.
        if let Some(admin) = admin
            && self.logins.values().any(|login| login.principal == admin.principal)
        {
            return wrong("expected a principal of the broker's own account that no lease has");
        }
        if self.admin.as_ref().is_some_and(|admin| !is_folder(&admin.folder)) {
            return wrong("expected a folder such as `/var/lib/bailiwick`");
        }
        if !(Duration::from_secs(60)..=Duration::from_secs(86_400)).contains(&self.lease_max) {
            return wrong("expected leases of one minute to one day");
        }
        if self.source_addresses.len() > ADDRESSES_MAX || !self.source_addresses.iter().all(|address| is_cidr(address)) {
            return wrong("expected at most 16 source addresses such as `192.0.2.0/24`");
        }
        if self.force_command.as_ref().is_some_and(|command| !(1..=COMMAND_MAX).contains(&command.len()) || command.chars().any(char::is_control)) {
            return wrong("expected a forced command of at most 1024 printable characters");
        }
        Ok(())
    }
}

/// Certificates of one authority.
pub struct Ssh {
    settings: Settings,
    authority: Key,
    clock: Arc<dyn Clock>,
}

impl Ssh {
    /// Hosts as they are configured; `authority` is the private key of the authority that they trust, as `ssh-keygen -t ed25519 -N ''` writes it. Nothing
    /// is connected yet.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if a setting is out of its range or has no form, or the key is none.
    pub fn new(settings: Settings, authority: &Secret, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        settings.check()?;
        let Some(authority) = Key::from_file(authority.expose()) else {
            let words = "expected the authority's private key: Ed25519, in OpenSSH's format, without a passphrase";
            return Err(TargetError::new(TargetCode::Plan, Step::Connect, "", words));
        };
        Ok(Self { settings, authority, clock })
    }

    /// The line that the hosts' `TrustedUserCAKeys` file needs.
    #[must_use]
    pub fn authority_line(&self) -> String {
        format!("{} bailiwick", self.authority.public_line())
    }

    fn login(&self, right: &str) -> Option<&Login> {
        self.settings.logins.get(right)
    }

    fn mint_certificate(&self, plan: &Plan, secret: &Secret) -> Result<Minted, TargetError> {
        let wrong = |what: &str| TargetError::new(TargetCode::Plan, Step::Mint, "", what);
        let now = self.clock.now();
        if plan.tag.expires_at > now.plus(self.settings.lease_max) || plan.tag.expires_at <= now {
            return Err(wrong("the lease is over already, or longer than the configuration allows"));
        }
        let [right] = plan.rights.as_slice() else { return Err(wrong("a certificate has exactly one login")) };
        let login = self.login(right).ok_or_else(|| wrong(&format!("`{right}` is none of the configured logins")))?;
        let key = Key::from_file(secret.expose()).ok_or_else(|| wrong("the secret is no key"))?;
        let command = self.forced(&plan.name, &plan.tag);
        let words = Words {
            serial: serial(&plan.name),
            key_id: &key_id(&plan.name, &plan.tag),
            principal: &login.principal,
            valid_after: now.minus(AGE),
            valid_before: plan.tag.expires_at,
            force_command: Some(&command),
            source_addresses: &self.settings.source_addresses,
        };
        let certificate = certificate::sign(&self.authority, key.public(), &words)?;
        let line = certificate::line(&certificate);
        // Room for everything at once, so that no copy of the key is left behind.
        let mut both = Zeroizing::new(Vec::with_capacity(secret.expose().len().saturating_add(line.len()).saturating_add(2)));
        both.extend_from_slice(secret.expose());
        both.extend_from_slice(line.as_bytes());
        both.push(b'\n');
        Ok(Minted {
            ids: TargetIds::one(SERIAL, words.serial).and(LOGIN, right),
            secret: Some(Secret::from(both)),
            expires_at: Some(plan.tag.expires_at),
        })
    }

    /// What runs at each command of a lease, whatever key and client ask for it: looks whether the lease has ended, marks, and runs.
    fn forced(&self, name: &AccountName, tag: &Tag) -> String {
        let over = "{ echo \"bailiwick: this lease has ended\" >&2; exit 69; }";
        let mut script = format!("[ \"$(date +%s)\" -lt {} ] || {over}; ", tag.expires_at.as_seconds());
        if let Some(admin) = &self.settings.admin {
            let ended = format!("{}/ended", admin.folder);
            // A folder that cannot be looked into would look like one without the mark.
            script.push_str(&format!("[ -x {ended} ] && [ ! -e {ended}/{name} ] || {over}; "));
        }
        let command = self.settings.force_command.as_deref().map_or_else(|| "\"$SSH_ORIGINAL_COMMAND\"".to_owned(), quote);
        script.push_str(&format!(
            "exec env {MARK}={name} BAILIWICK_TASK={} BAILIWICK_AGENT={} /bin/sh -c {command}",
            plain(&tag.task),
            plain(&tag.agent)
        ));
        format!("exec /bin/sh -c {}", quote(&script))
    }

    /// A connection with a certificate that lives for one errand.
    async fn errand(&self, host: &Host, login: &Login, key: &Key, serial: u64, what: &str) -> Result<Client, Trouble> {
        let now = self.clock.now();
        let words = Words {
            serial,
            key_id: &format!("bailiwick;{what}"),
            principal: &login.principal,
            valid_after: now.minus(AGE),
            valid_before: now.plus(ERRAND),
            force_command: None,
            source_addresses: &self.settings.source_addresses,
        };
        let certificate = certificate::sign(&self.authority, key.public(), &words).map_err(|_| Trouble::Malformed("no randomness is available"))?;
        Client::open(host, &login.user, key, &certificate).await
    }

    async fn list_leases(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        let mut found: BTreeMap<AccountName, Found> = BTreeMap::new();
        for host in &self.settings.hosts {
            let Some(admin) = &self.settings.admin else { break };
            for name in host::Shell::open(self, host, admin, Step::List).await?.running(prefix).await? {
                let this = Found { name: name.clone(), ids: TargetIds::one(SERIAL, serial(&name)), tag: None, node: host.name().to_owned() };
                found.entry(name).or_insert(this);
            }
        }
        Ok(found.into_values().collect())
    }
}

/// The variable that marks what a lease runs.
const MARK: &str = "BAILIWICK_LEASE";

#[async_trait::async_trait]
impl Kind for Ssh {
    fn kind(&self) -> &'static str {
        "ssh"
    }

    /// A private key. What is used is what [`Kind::mint`] gives, which has the certificate after it.
    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        key::fresh().map(Some)
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

    /// Those that run something. A host keeps no list of certificates: one that is not used is seen by nobody, and expires.
    async fn list(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        within(Step::List, self.list_leases(prefix)).await
    }
}

impl fmt::Debug for Ssh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ssh").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The certificate's number, from the lease's: it is known before anything is made, and never 0.
fn serial(name: &AccountName) -> u64 {
    let hash = digest::digest(&digest::SHA256, &name.lease());
    hash.as_ref().first_chunk().copied().map_or(1, u64::from_be_bytes).max(1)
}

/// The chain, as the host's log has it: `spiffe://..;task=task_..;lease=ag_..`.
fn key_id(name: &AccountName, tag: &Tag) -> String {
    let agent: String = tag.agent.chars().map(|c| if matches!(c, '!'..='~') { c } else { '?' }).take(KEY_ID_MAX / 2).collect();
    let task: String = tag.task.chars().map(|c| if matches!(c, '!'..='~') { c } else { '?' }).take(KEY_ID_MAX / 4).collect();
    format!("{agent};task={task};lease={name}")
}

/// As a word of the shell that needs no quotes.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "._:/-".contains(c) { c } else { '_' }).take(KEY_ID_MAX / 2).collect()
}

fn is_login(login: &Login) -> bool {
    let is = |name: &str| {
        (1..=64).contains(&name.len())
            && !name.starts_with('-')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@'))
    };
    is(&login.user) && is(&login.principal)
}

/// A path that no shell reads otherwise.
fn is_folder(path: &str) -> bool {
    (2..=200).contains(&path.len())
        && path.starts_with('/')
        && !path.ends_with('/')
        && path.split('/').skip(1).all(|part| {
            !part.is_empty() && part != "." && part != ".." && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        })
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

/// When what is known to be remembered of an account is over at the latest.
fn over_at(system: &Ssh, account: &Account) -> Timestamp {
    account.expires_at.unwrap_or_else(|| system.clock.now().plus(system.settings.lease_max))
}

#[cfg(test)]
mod tests;
