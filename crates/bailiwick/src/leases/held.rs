//! One lease as calls hold it: a name at first, then a credential over a connection of ours, until it ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bailiwick_core::{CallId, LeaseId, Task, Timestamp};
use bailiwick_credentials::kinds::mtls::Mtls;
use bailiwick_credentials::lease::{Account, AccountName, Tag, TargetError};
use bailiwick_credentials::{Injection, InjectionError};

use super::Leasing;
use super::given::{GivenBy, OfCall};
use super::pool::Pooled;
use crate::builtin::{Rights, Session, UseError};
use crate::upstream::{ClientCertificate, Inject};
use tokio_util::sync::CancellationToken;

/// A credential that ends by itself sooner than this is not used for another call.
const LEFT_MIN: Duration = Duration::from_secs(20);
/// How long a connection may take to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// A lease as calls hold it.
pub(crate) struct Held {
    /// Its id.
    pub(crate) id: LeaseId,
    /// The name of its account.
    pub(crate) account: AccountName,
    /// Its task.
    pub(crate) task: Arc<Task>,
    /// How it is made.
    pub(crate) leasing: Arc<Leasing>,
    /// What it may do.
    pub(crate) rights: Rights,
    /// Held while it is made; with the account that waited for it, if one did.
    pub(super) making: tokio::sync::Mutex<Option<Pooled>>,
    live: OnceLock<Live>,
    over: CancellationToken,
    /// Where its account waited in the pool.
    waited: Option<Waited>,
}

/// A lease whose account waited in the pool: nobody knows whether the system still has it, until a call did something with it.
#[derive(Default)]
struct Waited {
    /// An intent of a call of its task gave it to the task, durably.
    assigned: AtomicBool,
    /// A call got through to the system with it.
    used: CancellationToken,
    /// The system had it not any more, before any call got through.
    lost: AtomicBool,
}

struct Live {
    account: Account,
    injection: Arc<Injection>,
    certificate: Option<Arc<ClientCertificate>>,
    /// The system let it in before: that it refuses it now is no fault of the configuration.
    was_in: AtomicBool,
    session: tokio::sync::Mutex<Option<Arc<dyn Session>>>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("id", &self.id).field("account", &self.account).field("live", &self.is_live()).finish_non_exhaustive()
    }
}

impl Held {
    /// Only a name yet.
    pub(super) fn reserved(id: LeaseId, account: AccountName, task: Arc<Task>, leasing: Arc<Leasing>, rights: Rights) -> Self {
        let (making, live, over) = (tokio::sync::Mutex::const_new(None), OnceLock::new(), CancellationToken::new());
        Self { id, account, task, leasing, rights, making, live, over, waited: None }
    }

    /// Only a name yet, of an account that is there already.
    pub(super) fn from_pool(pooled: Pooled, task: Arc<Task>, leasing: Arc<Leasing>, rights: Rights) -> Self {
        let fresh = Self::reserved(pooled.id(), pooled.name().clone(), task, leasing, rights);
        Self { making: tokio::sync::Mutex::new(Some(pooled)), waited: Some(Waited::default()), ..fresh }
    }

    /// Its tag at the system.
    pub(crate) fn tag(&self) -> Tag {
        Tag { task: self.task.id.to_string(), agent: self.task.workload().to_string(), expires_at: self.task.expires_at }
    }

    /// It is made, and durable as such.
    ///
    /// # Errors
    /// The secret is none that can be given to the system.
    pub(super) fn set_live(&self, account: Account, (session, was_in): (Option<Arc<dyn Session>>, bool)) -> Result<(), InjectionError> {
        let by = self.leasing.given.as_ref().map(|given| &given.by);
        let injection = match (by, &account.secret) {
            // What is handed out is not cut out of the very answer that hands it out.
            _ if self.is_issued() => Injection::default(),
            (Some(GivenBy::Header(header)), Some(secret)) => Injection::header_of(&header.name, &header.before, secret)?,
            (_, secret) => Injection::cleaned_of(secret.as_ref()),
        };
        let certificate = match by {
            Some(GivenBy::Certificate) => {
                let certified = account.secret.as_ref().and_then(Mtls::certified);
                Some(ClientCertificate::new(certified.ok_or_else(|| InjectionError::Value("certificate".to_owned()))?))
            }
            Some(GivenBy::Header(_)) | None => None,
        };
        let was_in = AtomicBool::new(was_in);
        let live = Live { account, injection: Arc::new(injection), certificate, was_in, session: tokio::sync::Mutex::new(session) };
        // It is set once: whoever makes it holds `making`.
        drop(self.live.set(live));
        Ok(())
    }

    /// Says at the system whose the account is, that was made for nobody.
    ///
    /// # Errors
    /// The system's.
    pub(super) async fn say_whose(&self) -> Result<(), TargetError> {
        let Some(live) = self.live.get() else { return Ok(()) };
        self.leasing.kind.assign(&live.account, &self.tag()).await
    }

    /// Is it one that is handed out?
    pub(crate) fn is_issued(&self) -> bool {
        matches!(self.rights.class, super::ISSUED_READ | super::ISSUED_WRITE)
    }

    /// The credential itself, for the agent: login, secret, and until when it works. Only one that was made to be handed out.
    pub(crate) fn hand_out(&self) -> Option<serde_json::Value> {
        let account = &self.live.get().filter(|_| self.is_issued() && !self.is_over())?.account;
        let secret = account.hand_out()?;
        Some(serde_json::json!({
            "lease": self.id,
            "account": account.name.as_str(),
            "secret": secret.as_str(),
            "expires_at": account.expires_at.unwrap_or(self.task.expires_at),
            "ends_with_task": self.task.id,
        }))
    }

    /// Is it made?
    pub(crate) fn is_live(&self) -> bool {
        self.live.get().is_some() && !self.is_over()
    }

    /// May another call be given it?
    pub(super) fn is_usable(&self, now: Timestamp) -> bool {
        let expires_at = self.live.get().and_then(|live| live.account.expires_at);
        !self.is_over() && expires_at.is_none_or(|at| now.plus(LEFT_MIN) < at || at >= self.task.expires_at)
    }

    /// It was in use before this start.
    pub(super) fn set_used(&self) {
        if let Some(live) = self.live.get() {
            live.was_in.store(true, Ordering::Release);
        }
    }

    /// Nothing is to be done with it any more.
    pub(super) fn set_over(&self) {
        self.over.cancel();
    }

    /// Is nothing to be done with it any more?
    pub(crate) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Resolves when nothing is to be done with it any more.
    pub(super) async fn ended(&self) {
        self.over.cancelled().await;
    }

    /// Its account is the task's, by a durable intent.
    pub(super) fn set_assigned(&self) {
        if let Some(waited) = &self.waited {
            waited.assigned.store(true, Ordering::Release);
        }
    }

    /// Is its account the task's, by a durable intent?
    pub(super) fn is_assigned(&self) -> bool {
        self.waited.as_ref().is_some_and(|waited| waited.assigned.load(Ordering::Acquire))
    }

    /// Did its account wait in the pool, and has no call got through to the system with it yet?
    pub(crate) fn is_unused(&self) -> bool {
        self.waited.as_ref().is_some_and(|waited| !waited.used.is_cancelled())
    }

    /// A call got through to the system with it.
    pub(crate) fn used(&self) {
        if let Some(waited) = &self.waited {
            waited.used.cancel();
        }
    }

    /// Resolves when a call got through to the system with it.
    pub(super) async fn first_used(&self) {
        if let Some(waited) = &self.waited {
            waited.used.cancelled().await;
        }
    }

    /// The system has not its account any more.
    pub(super) fn set_lost(&self) {
        if let Some(waited) = self.waited.as_ref().filter(|waited| !waited.used.is_cancelled()) {
            waited.lost.store(true, Ordering::Release);
        }
    }

    /// Had the system lost its account before any call got through with it?
    pub(crate) fn was_lost_waiting(&self) -> bool {
        self.waited.as_ref().is_some_and(|waited| waited.lost.load(Ordering::Acquire))
    }

    /// What answers are cleaned of, and what is put into requests.
    pub(crate) fn injection(&self) -> Option<Arc<Injection>> {
        self.live.get().map(|live| Arc::clone(&live.injection))
    }

    /// What a system with a server of its own is given with this call.
    pub(crate) fn inject(&self, call: CallId) -> Option<Arc<dyn Inject>> {
        let given = self.leasing.given.as_ref()?;
        let live = self.live.get().filter(|_| !self.is_over())?;
        Some(Arc::new(OfCall::new(given, Arc::clone(&live.injection), live.certificate.clone(), &self.tag(), call)))
    }

    /// Is it given to a system with a server of its own?
    pub(crate) fn is_given(&self) -> bool {
        self.leasing.given.is_some()
    }

    /// The connection, opened if there is none.
    ///
    /// # Errors
    /// Nothing was done at the system.
    pub(crate) async fn session(&self) -> Result<Arc<dyn Session>, UseError> {
        let unusable = |words: &str| UseError { words: words.to_owned(), may_have_run: false, gone: true, login_refused: false };
        let live = self.live.get().filter(|_| !self.is_over()).ok_or_else(|| unusable("the credential has ended"))?;
        let builtin = self.leasing.builtin.as_ref().ok_or_else(|| unusable("the system has a server of its own"))?;
        let mut session = live.session.lock().await;
        if let Some(session) = session.as_ref().filter(|session| !session.is_over()) {
            return Ok(Arc::clone(session));
        }
        let opened = builtin.open(&live.account, &self.tag()).await;
        let fresh = opened.map_err(|error| UseError { login_refused: error.login_refused && live.was_in.load(Ordering::Acquire), ..error })?;
        live.was_in.store(true, Ordering::Release);
        if self.is_over() {
            fresh.close().await;
            return Err(unusable("the credential has ended"));
        }
        *session = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// This connection is of no use any more: the next call opens another.
    pub(crate) async fn forget(&self, gone: &Arc<dyn Session>) {
        if let Some(live) = self.live.get() {
            let mut session = live.session.lock().await;
            if session.as_ref().is_some_and(|s| Arc::ptr_eq(s, gone)) {
                *session = None;
            }
        }
    }

    /// Closes our own connection. What is open elsewhere is ended at the system.
    pub(super) async fn close(&self) {
        self.set_over();
        let Some(live) = self.live.get() else { return };
        if let Some(certificate) = &live.certificate {
            certificate.close();
        }
        let closing = async {
            let session = live.session.lock().await.take();
            if let Some(session) = session {
                session.close().await;
            }
        };
        drop(tokio::time::timeout(CLOSE_WITHIN, closing).await);
    }
}
