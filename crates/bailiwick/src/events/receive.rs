//! Events that are taken: verified, taken once, put on record, and acted upon.

use std::time::Duration;

use bailiwick_core::{Digest, PersonName, Timestamp};
use bailiwick_identity::foreign::KeySet;
use bailiwick_identity::secevent::{self, Event, From, Received, Subject, named_issuer};
use bailiwick_store::StoreError;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Source;
use crate::entry::PersonStep;
use crate::house::House;
use crate::proofs::verified;
use crate::sign_in::WebSession;
use crate::sign_in::directory::ChangeError;
use crate::sign_in::web::{Question, ask};

/// Between two polls that brought nothing.
const PAUSE: Duration = Duration::from_secs(5);
/// The first pause after a poll that failed, and the longest.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Events that are asked for at once.
const POLLED_MAX: usize = 50;

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was acted upon, or says nothing that changes anything here.
    Now,
    /// It was taken before.
    Before,
}

/// Why a token is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventRefused {
    /// The token itself. Trying again does not help.
    #[error(transparent)]
    Token(#[from] secevent::Refused),
    /// Nobody with this issuer is configured.
    #[error("the issuer `{0}` is not configured")]
    Issuer(String),
    /// Whoever presents it did not say who it is.
    #[error("the transmitter did not present its secret")]
    Unauthenticated,
    /// Not now: the keys cannot be fetched, or nothing can be recorded. It is to be sent again.
    #[error("not now: {0}")]
    Later(String),
}

impl EventRefused {
    /// The code of RFC 8935 section 2.4.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Token(refused) => refused.code(),
            Self::Issuer(_) => "invalid_issuer",
            Self::Unauthenticated => "authentication_failed",
            Self::Later(_) => "",
        }
    }
}

impl std::convert::From<StoreError> for EventRefused {
    fn from(error: StoreError) -> Self {
        Self::Later(error.to_string())
    }
}

impl std::convert::From<ChangeError> for EventRefused {
    fn from(error: ChangeError) -> Self {
        Self::Later(error.to_string())
    }
}

/// The answer to a poll (RFC 8936 section 2.5).
#[derive(Deserialize)]
struct Polled {
    #[serde(default)]
    sets: Map<String, Value>,
    #[serde(default, rename = "moreAvailable")]
    more: bool,
}

impl House {
    /// Takes a token that was pushed.
    ///
    /// # Errors
    /// Why it is not taken.
    pub(crate) async fn take_pushed(&self, token: &str, authorization: Option<&str>) -> Result<Taken, EventRefused> {
        let issuer = named_issuer(token)?;
        let source = self.events.from.iter().find(|s| s.config.issuer == issuer);
        let source = source.ok_or_else(|| EventRefused::Issuer(issuer.chars().take(200).flat_map(char::escape_debug).collect()))?;
        if let Some(secret) = &source.config.bearer {
            let bearer = self.bearer_of(secret).await.map_err(EventRefused::Later)?;
            if !bearer.is(authorization) {
                return Err(EventRefused::Unauthenticated);
            }
        }
        self.take(source, token).await
    }

    async fn take(&self, source: &Source, token: &str) -> Result<Taken, EventRefused> {
        let now = self.clock.now();
        let config = &source.config;
        let audience = config.audience.as_deref().unwrap_or(&self.urls.base);
        let check = |keys: &KeySet| secevent::verify(token, &From { issuer: &config.issuer, audience, keys, algorithms: &config.algorithms }, now);
        let judged = verified(&*source.keys, now, |refused: &secevent::Refused| refused.code() == "invalid_key", check).await;
        let received = judged.ok_or_else(|| EventRefused::Later("there are no keys of the transmitter at present".to_owned()))??;
        // Acted upon first, and each act can be repeated: what is acknowledged has happened. A token that comes again is told apart
        // only so that it does not fill the record.
        // Each register has a bound on what it remembers: many share what a large organisation sends in a week.
        let [spread, ..] = *Digest::of(received.jti.as_bytes()).as_bytes();
        let register = format!("event:{spread:02x}:{}", config.issuer);
        let until = received.remember_until();
        if self.store.jti_seen(&register, &received.jti, now).await? {
            return Ok(Taken::Before);
        }
        self.act(source, &received, now).await?;
        if !self.store.jti_use(&register, &received.jti, until, now).await? {
            tracing::error!(from = config.name, "too many events are remembered: this one could be taken a second time");
        }
        metrics::counter!("bailiwick_events_taken_total", "from" => config.name.clone()).increment(1);
        Ok(Taken::Now)
    }

    async fn act(&self, source: &Source, received: &Received, now: Timestamp) -> Result<(), EventRefused> {
        let by = source.config.name.as_str();
        let concerned = received.subject.as_ref().map(|subject| self.concerned(&source.config.issuer, subject)).unwrap_or_default();
        for event in &received.events {
            tracing::info!(from = by, jti = received.jti, event = event.word(), people = concerned.people.len(), "an event was received");
            for name in &concerned.people {
                match event {
                    Event::SessionRevoked => self.session_revoked(name, &concerned, by).await?,
                    Event::AccountDisabled | Event::AccountPurged => self.disable_person(name, by, event.word(), true).await?,
                    Event::AccountEnabled => match self.enable_person(name, by, event.word(), Some(received.issued)).await {
                        Err(ChangeError::Unfit(why)) => tracing::warn!(from = by, person = %name, why, "an event did not enable the person again"),
                        other => other?,
                    },
                    // Whoever came in with what is no longer that person's must come in again; tasks were opened before.
                    Event::CredentialChange { change } if matches!(change.as_str(), "revoke" | "update" | "delete") => {
                        self.note_event(name, by, event).await?;
                        self.sign_ins.forget_codes(name);
                        self.end_sessions(|session| session.person == *name).await;
                    }
                    // What was only added, what shows that a stream works, and what we do not know.
                    _ => {}
                }
            }
        }
        if concerned.people.is_empty() && received.subject.is_some() {
            tracing::info!(from = by, jti = received.jti, at = %now, "the event is about nobody here");
        }
        Ok(())
    }

    async fn session_revoked(&self, name: &PersonName, concerned: &Concerned, by: &str) -> Result<(), EventRefused> {
        self.note_event(name, by, &Event::SessionRevoked).await?;
        let of_session = |session: &WebSession| {
            session.person == *name
                && concerned.session.as_ref().is_none_or(|id| session.upstream.as_ref().is_some_and(|up| up.session.as_ref() == Some(id)))
        };
        self.end_sessions(of_session).await;
        // All sessions: the person is out, and what was begun for him or her is over too.
        if concerned.session.is_none() {
            self.end_all_of(name, by).await;
        }
        Ok(())
    }

    async fn note_event(&self, name: &PersonName, by: &str, event: &Event) -> Result<(), EventRefused> {
        let step = PersonStep { what: "event", person: name, by: Some(by), way: None, detail: Some(event.word()), passkey: None, key: None };
        Ok(self.note_person(&step).await?)
    }

    /// Whom an issuer means. A subject that is narrowed in a way that we do not understand (a device, a tenant) is taken for the whole
    /// person: rather too much ends than too little.
    fn concerned(&self, issuer: &str, subject: &Subject) -> Concerned {
        let provider = self.provider.as_ref().map_or(issuer, |p| p.config.issuer.as_str());
        match subject {
            Subject::Complex { user, session, .. } => {
                let mut concerned = user.as_ref().map(|user| self.concerned(issuer, user)).unwrap_or_default();
                concerned.session = session.as_ref().and_then(|s| if let Subject::Opaque(id) = s.as_ref() { Some(id.clone()) } else { None });
                if user.is_none() {
                    let of = |s: &WebSession| s.upstream.as_ref().is_some_and(|up| up.issuer == provider && up.session == concerned.session);
                    let sessions = self.sign_ins.all(self.clock.now());
                    concerned.people = sessions.iter().filter(|s| concerned.session.is_some() && of(s)).map(|s| s.person.clone()).collect();
                    concerned.people.dedup();
                }
                concerned
            }
            // An id is one of the issuer that gave it out, and a transmitter speaks for the provider of our people or for itself.
            Subject::IssSub { iss, sub } if iss == provider || iss == issuer => Concerned::of(self.person_of_subject(iss, sub)),
            Subject::Opaque(id) => Concerned::of(self.person_of_subject(provider, id)),
            Subject::Email(email) => Concerned { people: self.directory.by_email(provider, email), session: None },
            Subject::Aliases(all) => {
                let mut people: Vec<PersonName> = all.iter().flat_map(|one| self.concerned(issuer, one).people).collect();
                people.sort();
                people.dedup();
                Concerned { people, session: None }
            }
            _ => Concerned::default(),
        }
    }

    /// Polls a transmitter until the broker stops.
    pub(super) async fn poll(&self, index: usize) {
        let Some(source) = self.events.from.get(index) else { return };
        let (mut acks, mut errors): (Vec<String>, Map<String, Value>) = (Vec::new(), Map::new());
        let mut retry = RETRY_MIN;
        loop {
            let pause = match self.poll_once(source, &mut acks, &mut errors).await {
                Ok(more) => {
                    retry = RETRY_MIN;
                    if more || !acks.is_empty() || !errors.is_empty() { Duration::ZERO } else { PAUSE }
                }
                Err(why) => {
                    tracing::warn!(from = source.config.name, why, "events could not be polled");
                    retry = retry.saturating_mul(2).min(RETRY_MAX);
                    retry
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One request. What was taken by the one before is acknowledged with it (RFC 8936 section 2.4).
    async fn poll_once(&self, source: &Source, acks: &mut Vec<String>, errors: &mut Map<String, Value>) -> Result<bool, String> {
        let Some(url) = &source.config.poll else { return Ok(false) };
        let body = json!({ "maxEvents": POLLED_MAX, "returnImmediately": true, "ack": acks, "setErrs": errors });
        let mut question = Question::post("application/json", body.to_string());
        if let Some(secret) = &source.config.bearer {
            let bearer = self.bearer_of(secret).await?;
            question = bearer.with(|value| question.authorization(value)).ok_or("no secret")?;
        }
        let answer = ask(url, &source.config.link, question).await.map_err(|e| e.to_string())?;
        if answer.status != StatusCode::OK {
            return Err(format!("it answered {}", answer.status));
        }
        acks.clear();
        errors.clear();
        let polled: Polled = serde_json::from_slice(&answer.body).map_err(|_| "its answer is not of its form")?;
        for (jti, token) in polled.sets.into_iter().take(POLLED_MAX) {
            let taken = match token.as_str() {
                Some(token) => self.take(source, token).await,
                None => Err(secevent::Refused::from(bailiwick_identity::ProofError::Form("no text")).into()),
            };
            match taken {
                Ok(_) => acks.push(jti),
                Err(EventRefused::Later(why)) => tracing::warn!(why, "an event is taken later"),
                Err(refused) => {
                    tracing::warn!(%refused, from = source.config.name, "an event was refused");
                    errors.insert(jti, json!({ "err": refused.code(), "description": "the token is not acceptable" }));
                }
            }
        }
        Ok(polled.more)
    }
}

/// Whom an event is about; perhaps one session of that person.
#[derive(Debug, Default)]
struct Concerned {
    people: Vec<PersonName>,
    session: Option<String>,
}

impl Concerned {
    fn of(person: Option<PersonName>) -> Self {
        Self { people: person.into_iter().collect(), session: None }
    }
}
