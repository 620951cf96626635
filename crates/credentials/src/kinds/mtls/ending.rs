//! The end of a certificate: its number in the list, refused by every server beside one that is accepted, and no session of it left where a server tells.

use std::time::Duration;

use bailiwick_core::Timestamp;

use super::{AGE, Mtls, NAME, Server, fresh_key, list, login, serial};
use crate::Secret;
use crate::kinds::connection::Failure;
use crate::lease::{Account, AccountName, Ending, Evidence, Prefix, Step, Tag, TargetCode, TargetError};

/// How long a certificate lives that a login is tried with.
const TRY_LIFE: Duration = Duration::from_secs(120);
/// How often a server is asked, until it has read the list, and until a session has ended.
const LOOKS_MAX: usize = 20;
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Ends the certificate; each step may be done already.
pub(super) async fn end(system: &Mtls, account: &Account) -> Result<Ending, TargetError> {
    let mut end = End { system, account, evidence: Evidence::default(), why: None };
    if let Some(path) = system.settings.list.clone() {
        let (authority, serial, now) = (std::sync::Arc::clone(&system.authority), serial(&account.name), system.clock.now());
        let writing = tokio::task::spawn_blocking(move || list::revoke(&path, &authority, serial, now));
        let count = writing.await.map_err(|_| TargetError::new(TargetCode::Internal, Step::Gate, "", "the list was not written"))??;
        end.saw("", Step::Gate, &format!("serial {} is in the list of revoked certificates, with {} others", end.serial(), count.saturating_sub(1)));
    }
    // A server that cannot be reached keeps no other from being ended, and the whole from being an ending.
    let mut trouble = None;
    for server in &system.settings.servers {
        if let Err(error) = end.on(server).await {
            trouble.get_or_insert(error);
        }
    }
    match trouble {
        Some(error) => Err(error),
        None => Ok(end.ending()),
    }
}

struct End<'a> {
    system: &'a Mtls,
    account: &'a Account,
    evidence: Evidence,
    why: Option<String>,
}

impl End<'_> {
    fn saw(&mut self, node: &str, step: Step, saw: &str) {
        let now = self.system.clock.now();
        self.evidence.saw(node, step, now, saw, self.account.secret.as_ref());
    }

    fn serial(&self) -> String {
        super::hexadecimal(&serial(&self.account.name))
    }

    async fn on(&mut self, server: &Server) -> Result<(), TargetError> {
        self.read_the_list(server).await?;
        self.verify(server).await?;
        // After the door is shut: a session that was opened meanwhile is ended too.
        self.kill(server).await
    }

    async fn read_the_list(&mut self, server: &Server) -> Result<(), TargetError> {
        if self.system.settings.list.is_none() {
            return Ok(());
        }
        if let Some(session) = self.system.admin_at(server, Step::Gate).await? {
            let failed = |failure: crate::kinds::postgresql::sql::Failure| failure.target(Step::Gate, server.node.name());
            session.ask("SELECT pg_reload_conf()").await.map_err(failed)?;
            self.saw(server.node.name(), Step::Gate, "told to read the list");
        }
        Ok(())
    }

    /// Tries a certificate of the same key and number, which has not expired: the refusal of the lease's own may show its expiry only.
    async fn verify(&mut self, server: &Server) -> Result<(), TargetError> {
        let system = self.system;
        let now = system.clock.now();
        let name = self.account.ids.find(NAME).and_then(|right| system.settings.names.get(right)).or_else(|| system.settings.names.values().next());
        let name = name.ok_or_else(|| TargetError::new(TargetCode::Internal, Step::Verify, "", "no name is configured"))?;
        let tag = Tag { task: "verify".to_owned(), agent: "bailiwick".to_owned(), expires_at: now.plus(TRY_LIFE) };
        let fresh = fresh_key()?;
        if self.account.secret.is_none() {
            self.why = Some("its key is not known, so that its own login could not be tried".to_owned());
        }
        let key = self.account.secret.as_ref().unwrap_or(&fresh);
        let again = system.certify(&self.account.name, name, &tag, now.minus(AGE), key)?;
        let control = system.certify(&nobody(now)?, name, &tag, now.minus(AGE), &fresh)?;
        self.refused(server, name, &again).await?;
        match login::log_in(server, name, &control).await {
            Ok(_) => self.saw(server.node.name(), Step::Verify, "a login with a fresh certificate of the same authority is accepted"),
            Err(Failure::Said(words)) => self.why = Some(format!("`{}` refuses every certificate of the authority: {words}", server.node.name())),
            Err(failure) => return Err(target(&failure, server)),
        }
        Ok(())
    }

    async fn refused(&mut self, server: &Server, name: &str, secret: &Secret) -> Result<(), TargetError> {
        for _ in 0..LOOKS_MAX {
            match login::log_in(server, name, secret).await {
                Err(Failure::Said(words)) => {
                    self.saw(server.node.name(), Step::Verify, &format!("a login with its serial: {words}"));
                    return Ok(());
                }
                Err(failure) => return Err(target(&failure, server)),
                Ok(_) if self.system.settings.list.is_none() => {
                    self.saw(server.node.name(), Step::Verify, "a login with it is still accepted");
                    return Ok(());
                }
                Ok(_) => tokio::time::sleep(LOOK_PAUSE).await,
            }
        }
        let words = "the login is still accepted: has the server read the list of revoked certificates?";
        Err(TargetError::new(TargetCode::Busy, Step::Verify, server.node.name(), words))
    }

    /// Ends its sessions, where the server tells whose they are.
    async fn kill(&mut self, server: &Server) -> Result<(), TargetError> {
        let Some(session) = self.system.admin_at(server, Step::Kill).await? else {
            self.saw(server.node.name(), Step::Kill, "the server does not tell which connections it opened; ours are closed");
            return Ok(());
        };
        let number = u128::from_be_bytes(serial(&self.account.name));
        let failed = |failure: crate::kinds::postgresql::sql::Failure| failure.target(Step::Kill, server.node.name());
        let kill = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_ssl WHERE client_serial = {number}");
        let mut killed = 0_usize;
        for _ in 0..LOOKS_MAX {
            let open = session.ask(&kill).await.map_err(failed)?.len();
            if open == 0 {
                self.saw(server.node.name(), Step::Kill, &format!("{killed} sessions were ended, and none is left"));
                return Ok(());
            }
            killed = killed.max(open);
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Err(TargetError::new(TargetCode::Busy, Step::Kill, server.node.name(), "sessions do not end"))
    }

    fn ending(self) -> Ending {
        let at = || self.account.expires_at.unwrap_or_else(|| self.system.clock.now().plus(self.system.settings.lease_max));
        match self.why {
            _ if self.system.settings.list.is_none() => Ending::ExpiresAt { at: at(), evidence: self.evidence },
            None => Ending::RevokedVerified { evidence: self.evidence },
            Some(why) => Ending::RevokedUnverified { why, evidence: self.evidence },
        }
    }
}

/// A name that no lease has: for a certificate that lives for one try.
pub(super) fn nobody(now: Timestamp) -> Result<AccountName, TargetError> {
    let mut bytes = [0; 16];
    let failed = |_| TargetError::new(TargetCode::Internal, Step::Verify, "", "no randomness is available");
    aws_lc_rs::rand::fill(&mut bytes).map_err(failed)?;
    let time = u128::try_from(now.as_millis()).unwrap_or(0);
    Ok(AccountName::new(&Prefix::default(), (u128::from_be_bytes(bytes) ^ time).to_be_bytes()))
}

pub(super) fn target(failure: &Failure, server: &Server) -> TargetError {
    let code = match failure {
        Failure::Lost(_) => TargetCode::Unreachable,
        Failure::Malformed(_) => TargetCode::Protocol,
        Failure::Said(_) => TargetCode::Refused,
    };
    TargetError::new(code, Step::Verify, server.node.name(), failure.words())
}
