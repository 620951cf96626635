//! A stored API key that systems cannot make or revoke: a lease of it is the right to have it injected, and ends when nothing injects it any more.
//!
//! The ending is always `injection-stopped`. What that is worth: requests of the lease that were in the air are cut off, new ones are refused, and
//! the key was never outside of this room. The key itself lives on at the system until a person changes it there.

mod key;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::Clock;

use super::connection::within;
use crate::Secret;
use crate::lease::{
    Account, AccountName, Ending, Evidence, Finding, Found, Kind, Minted, Plan, Prefix, Step, Tag, TargetCode, TargetError, TargetIds,
};
use crate::sessions::SessionError;
use crate::sessions::http::{Api, Credential, Method, Request};

pub use key::Key;
pub(crate) use key::Tap;

/// Requests that are in the air end at once; this long is waited for it.
const CUT_MAX: Duration = Duration::from_secs(10);

/// Leases of one stored key.
pub struct StaticKey {
    key: Arc<Key>,
    api: Arc<Api>,
    probe: Option<String>,
    clock: Arc<dyn Clock>,
}

impl StaticKey {
    /// The key of an API. `probe` is a path below the API's, percent-encoded, that a `GET` with the key answers with success, and one without it does not.
    #[must_use]
    pub fn new(key: Arc<Key>, api: Arc<Api>, probe: Option<String>, clock: Arc<dyn Clock>) -> Self {
        Self { key, api, probe, clock }
    }

    fn node(&self) -> &str {
        self.api.origin().authority()
    }

    async fn asked(&self, path: &str, credential: Credential) -> Result<u16, TargetError> {
        let tag = Tag { task: "preflight".to_owned(), agent: "bailiwick".to_owned(), expires_at: self.clock.now() };
        let failed = |error: SessionError| {
            let code = if matches!(error, SessionError::NotSent(_)) { TargetCode::Plan } else { TargetCode::Unreachable };
            TargetError::new(code, Step::Verify, self.node(), &error.to_string())
        };
        let session = self.api.with(credential, &tag).map_err(failed)?;
        let answer = session.send(&Request::new(Method::Get, path)).await.map_err(failed)?;
        if matches!(answer.status, 429 | 500..=599) {
            return Err(TargetError::new(
                TargetCode::Busy,
                Step::Verify,
                self.node(),
                &format!("the probe was answered with status {}", answer.status),
            ));
        }
        Ok(answer.status)
    }

    async fn probe_key(&self, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
        let Some(path) = &self.probe else { return Ok(Vec::new()) };
        let finding = |missing: String, remedy: &str| Ok(vec![Finding { node: self.node().to_owned(), missing, remedy: remedy.to_owned() }]);
        let tap = self.key.tap(probe).ok_or_else(|| TargetError::new(TargetCode::Taken, Step::Verify, self.node(), "the probe has ended"))?;
        match self.asked(path, Credential::Stored(tap)).await? {
            200..=299 => {}
            status @ (401 | 403) => {
                return finding(format!("the key is refused (status {status})"), "set a key that is valid: `bailiwick secret set NAME`");
            }
            status => {
                return finding(
                    format!("the probe is answered with status {status}, which says nothing of the key"),
                    "name a path as `probe` that succeeds with the key",
                );
            }
        }
        match self.asked(path, Credential::None).await? {
            200..=299 => {
                finding("the probe succeeds without the key too, and so says nothing of it".to_owned(), "name a path as `probe` that needs the key")
            }
            _ => Ok(Vec::new()),
        }
    }

    async fn stop(&self, account: &Account) -> Result<Ending, TargetError> {
        let mut evidence = Evidence::default();
        let mut saw = |step, words: &str| evidence.saw(self.node(), step, self.clock.now(), words, None);
        let cut = self.key.stop(&account.name, CUT_MAX).await;
        let cut = cut.ok_or_else(|| TargetError::new(TargetCode::Busy, Step::Kill, self.node(), "a request is still in the air"))?;
        saw(Step::Gate, "the key is not injected for this lease any more");
        saw(Step::Kill, &format!("requests in the air that were cut off: {cut}"));
        if self.key.tap(&account.name).is_some() {
            return Err(TargetError::new(TargetCode::Internal, Step::Verify, self.node(), "the key is still given to this lease"));
        }
        saw(
            Step::Verify,
            "asked for the key for this lease: refused. The system knows no revocation; the key lives on there, and was shown to nobody",
        );
        Ok(Ending::InjectionStopped { evidence })
    }
}

#[async_trait::async_trait]
impl Kind for StaticKey {
    fn kind(&self) -> &'static str {
        "static_key"
    }

    /// The stored key is not copied into leases.
    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        Ok(None)
    }

    async fn preflight(&self, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
        within(Step::Verify, self.probe_key(probe)).await
    }

    async fn mint(&self, plan: &Plan, secret: Option<&Secret>) -> Result<Minted, TargetError> {
        if !plan.rights.is_empty() || secret.is_some() {
            return Err(TargetError::new(
                TargetCode::Plan,
                Step::Mint,
                self.node(),
                "a stored key has the rights that it has, and no secret of a lease's own",
            ));
        }
        let given = self.key.tap(&plan.name);
        given.ok_or_else(|| TargetError::new(TargetCode::Taken, Step::Mint, self.node(), "a lease of this name has ended"))?;
        Ok(Minted { ids: TargetIds::one("api", self.api.origin().origin()), secret: None, expires_at: None })
    }

    async fn end(&self, account: &Account) -> Result<Ending, TargetError> {
        within(Step::Remove, self.stop(account)).await
    }

    /// Nothing is made at the system.
    async fn list(&self, _prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        Ok(Vec::new())
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticKey").field("api", &self.api).field("probe", &self.probe).finish_non_exhaustive()
    }
}
