//! Requests to one HTTP API with a credential that nobody sees: to the configured origin only, redirects never followed, answers limited and cleaned.
//!
//! One matcher decides where a request goes and where the credential goes: the [`Origin`] of the configuration. A request brings a path, never a host.

mod answer;
mod link;
mod origin;
mod request;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::HeaderName;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::SessionError;
use crate::Secret;
use crate::kinds::static_key::{Key, Tap};
use crate::lease::{Account, Tag};
use crate::redaction::Redaction;

pub use answer::{Answer, Body};
pub use origin::{Origin, OriginError};
pub use request::{Method, Request};

use link::Link;

/// Requests of one session at a time; more wait.
const AT_ONCE: usize = 16;
/// Connections that one session keeps between requests, and how long: shorter than servers do (5 s), so that none closes while we write to it.
const IDLE_MAX: usize = 4;
const IDLE_TIME: Duration = Duration::from_secs(4);

/// How the credential stands in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// `Authorization: Bearer SECRET` (RFC 6750 section 2.1).
    Bearer,
    /// A header of its own: its name, and what stands before the secret.
    Header {
        /// The field name.
        name: HeaderName,
        /// Such as `Token `; often nothing.
        before: String,
    },
    /// `Authorization: Basic`, with this user and the secret as the password (RFC 7617).
    Basic {
        /// The user, without a colon.
        user: String,
    },
    /// A parameter of the query.
    Query {
        /// The parameter's name.
        name: String,
    },
}

/// What an answer may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The body, in bytes.
    pub bytes: usize,
    /// From the beginning of the request to the end of the answer.
    pub time: Duration,
}

/// An API as it is configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it is.
    pub origin: Origin,
    /// How the credential is given.
    pub placement: Placement,
    /// What an answer may cost.
    pub limits: Limits,
    /// The header that carries task and agent, if any.
    pub tag_header: Option<HeaderName>,
}

/// An API, and the stored key of those leases that have no secret of their own.
pub struct Api {
    settings: Settings,
    key: Option<Arc<Key>>,
}

impl Api {
    /// An API. Without `key`, every account brings its secret.
    ///
    /// # Errors
    /// In words: the placement cannot be used.
    pub fn new(settings: Settings, key: Option<Arc<Key>>) -> Result<Self, SessionError> {
        request::check_placement(&settings)?;
        Ok(Self { settings, key })
    }

    /// Where it is.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.settings.origin
    }

    /// A session with the account's secret, or, where it has none, with the stored key. Nothing is sent yet.
    ///
    /// # Errors
    /// The account has ended, or has nothing that could be given.
    pub fn open(self: &Arc<Self>, account: &Account, tag: &Tag) -> Result<Http, SessionError> {
        let credential = match (&account.secret, &self.key) {
            (Some(secret), _) => Credential::Minted(Secret::from(secret.expose().to_vec())),
            (None, Some(key)) => Credential::Stored(key.tap(&account.name).ok_or_else(|| SessionError::lost("the credential has ended"))?),
            (None, None) => return Err(SessionError::NotSent("the credential's secret is not known".to_owned())),
        };
        self.with(credential, tag)
    }

    /// A session with this credential.
    pub(crate) fn with(self: &Arc<Self>, credential: Credential, tag: &Tag) -> Result<Http, SessionError> {
        let redaction = credential.look(|secret| request::redaction(&self.settings.placement, secret)).unwrap_or_default();
        let session = Http {
            api: Arc::clone(self),
            credential,
            chain: request::Chain::new(tag),
            redaction,
            idle: Mutex::default(),
            places: Semaphore::new(AT_ONCE),
        };
        session.check_credential()?;
        Ok(session)
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What a session injects.
pub(crate) enum Credential {
    /// Of its lease alone.
    Minted(Secret),
    /// The stored key, until the lease ends.
    Stored(Tap),
    /// Nothing: to see whether a key is asked for at all.
    None,
}

impl Credential {
    /// Lends the secret. `None` if there is none, or not any more.
    fn look<T>(&self, with: impl FnOnce(&Secret) -> T) -> Option<T> {
        match self {
            Self::Minted(secret) => Some(with(secret)),
            Self::Stored(tap) => tap.look(with),
            Self::None => None,
        }
    }
}

/// A session: requests with one lease's credential.
pub struct Http {
    api: Arc<Api>,
    credential: Credential,
    chain: request::Chain,
    redaction: Redaction,
    idle: Mutex<Vec<Link>>,
    places: Semaphore,
}

impl Http {
    /// Sends one request and reads its answer. An answer is an answer whatever its status, a redirect too. Dropping the future closes the connection.
    ///
    /// # Errors
    /// `NotSent` for a request that is none of this API, `Lost` where there is no answer, or the credential has ended.
    pub async fn send(&self, request: &Request) -> Result<Answer, SessionError> {
        let limits = self.api.settings.limits;
        let until = Instant::now().checked_add(limits.time).unwrap_or_else(Instant::now);
        let _place = self.places.acquire().await.map_err(|_| SessionError::lost("the session is closed"))?;
        let Credential::Stored(tap) = &self.credential else { return self.exchange(request, until).await };
        // Whoever ends the lease waits for this to be over, and this does not outlive that.
        let mut gate = tap.enter().ok_or_else(|| SessionError::lost("the credential has ended"))?;
        tokio::select! {
            biased;
            () = gate.shut() => Err(SessionError::Lost { words: "the credential ended in the middle of the request".to_owned(), may_have_run: true }),
            answered = self.exchange(request, until) => answered,
        }
    }

    async fn exchange(&self, request: &Request, until: Instant) -> Result<Answer, SessionError> {
        let settings = &self.api.settings;
        let late = |may_have_run| SessionError::Lost { words: format!("no answer within {} seconds", settings.limits.time.as_secs()), may_have_run };
        let outgoing = request::write(settings, request, &self.chain, &self.credential)?;
        let (mut link, outgoing) = match self.take_idle().await {
            None => (self.connect(until, &late).await?, outgoing),
            Some(mut link) => match tokio::time::timeout_at(until, link.send(outgoing)).await.map_err(|_| late(true))? {
                Ok(response) => return self.read(link, response, until, &late).await,
                // The server had closed it: no byte was written.
                Err(Some(unsent)) => (self.connect(until, &late).await?, unsent),
                Err(None) => return Err(broken()),
            },
        };
        let sent = tokio::time::timeout_at(until, link.send(outgoing)).await.map_err(|_| late(true))?;
        let response = sent.map_err(|unsent| if unsent.is_some() { SessionError::lost("the connection closed at once") } else { broken() })?;
        self.read(link, response, until, &late).await
    }

    async fn connect(&self, until: Instant, late: &impl Fn(bool) -> SessionError) -> Result<Link, SessionError> {
        tokio::time::timeout_at(until, Link::open(&self.api.settings.origin)).await.map_err(|_| late(false))?
    }

    async fn read(
        &self,
        mut link: Link,
        response: hyper::Response<hyper::body::Incoming>,
        until: Instant,
        late: &impl Fn(bool) -> SessionError,
    ) -> Result<Answer, SessionError> {
        let max = self.api.settings.limits.bytes;
        let reading = answer::read(&mut link, response, max, &self.redaction);
        let (answer, whole) = tokio::time::timeout_at(until, reading).await.map_err(|_| late(true))?.map_err(|()| broken())?;
        if whole {
            self.keep(link);
        }
        Ok(answer)
    }

    async fn take_idle(&self) -> Option<Link> {
        loop {
            let mut link = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if link.since().elapsed() < IDLE_TIME && link.is_usable().await {
                return Some(link);
            }
        }
    }

    fn keep(&self, link: Link) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if link.is_open() && idle.len() < IDLE_MAX && !self.places.is_closed() {
            idle.push(link.rested());
        }
    }

    /// The secret can be written in its place.
    fn check_credential(&self) -> Result<(), SessionError> {
        let probe = Request::new(Method::Get, "/");
        request::write(&self.api.settings, &probe, &self.chain, &self.credential).map(drop)
    }

    /// Closes what is open; no request is sent any more.
    pub fn close(&self) {
        self.places.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("origin", &self.api.settings.origin).finish_non_exhaustive()
    }
}

fn broken() -> SessionError {
    SessionError::Lost { words: "the connection ended before the answer did".to_owned(), may_have_run: true }
}
