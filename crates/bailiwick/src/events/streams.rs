//! What a receiver of our events can see and ask of its stream (OpenID Shared Signals Framework 1.0 section 8.1): its configuration, its status, and
//! one event to prove that the way to it is open. Streams are made in the configuration, and not over the wire.

use std::sync::PoisonError;
use std::time::Duration;

use bailiwick_core::{AssertionId, Timestamp};
use bailiwick_identity::secevent::{Verification, event_type};
use serde_json::{Value, json};

use super::tell::{Outbox, Proof};
use super::{POLL, PUSH};
use crate::clock::random;
use crate::house::House;

/// A receiver asks for a verification at most this often.
const VERIFIED_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// The longest `state`, in bytes.
const STATE_MAX: usize = 256;

/// Why a stream says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamRefused {
    /// Nobody presented the secret of a stream.
    Unauthenticated,
    /// The receiver has no stream of this id.
    Absent,
    /// It was asked a moment ago.
    TooOften,
    /// Its state is too long.
    Invalid,
    /// It could not be signed.
    Failed,
}

impl House {
    /// The streams of the receiver who presents this secret.
    async fn streams_of(&self, authorization: Option<&str>) -> Result<Vec<&Outbox>, StreamRefused> {
        let mut all = Vec::new();
        for outbox in self.events.to.values() {
            match self.bearer_of(&outbox.config.bearer).await {
                Ok(bearer) if bearer.is(authorization) => all.push(&**outbox),
                Ok(_) => {}
                Err(why) => tracing::error!(why, to = outbox.config.name, "a receiver cannot be known: its secret cannot be read"),
            }
        }
        if all.is_empty() { Err(StreamRefused::Unauthenticated) } else { Ok(all) }
    }

    async fn stream_of(&self, id: &str, authorization: Option<&str>) -> Result<&Outbox, StreamRefused> {
        self.streams_of(authorization).await?.into_iter().find(|outbox| outbox.config.name == id).ok_or(StreamRefused::Absent)
    }

    /// The configuration of one stream, or of all that the receiver has.
    ///
    /// # Errors
    /// `Unauthenticated` or `Absent`.
    pub(crate) async fn stream_configuration(&self, id: Option<&str>, authorization: Option<&str>) -> Result<Value, StreamRefused> {
        match id {
            Some(id) => self.stream_of(id, authorization).await.map(|outbox| self.configuration_of(outbox)),
            //= openid-sharedsignals-framework-1_0#section-8.1.1.2
            // If the "stream_id" parameter is missing, then the Transmitter MUST return a list of the stream configurations available to
            // this Receiver.
            None => Ok(self.streams_of(authorization).await?.into_iter().map(|outbox| self.configuration_of(outbox)).collect()),
        }
    }

    //= openid-sharedsignals-framework-1_0#section-8.1.1
    // stream_id REQUIRED [...] iss REQUIRED [...] aud REQUIRED [...] events_supported OPTIONAL [...] events_requested OPTIONAL [...]
    // events_delivered REQUIRED [...] delivery REQUIRED [...] min_verification_interval OPTIONAL
    fn configuration_of(&self, outbox: &Outbox) -> Value {
        let config = &outbox.config;
        let delivery = match &config.push {
            Some(url) => json!({ "method": PUSH, "endpoint_url": url.as_str() }),
            None => json!({ "method": POLL, "endpoint_url": format!("{}/events/poll/{}", self.urls.base, config.name) }),
        };
        let events = [event_type::SESSION_REVOKED];
        json!({
            "stream_id": config.name, "iss": self.issuer.url(), "aud": config.audience, "events_supported": events, "events_requested": events,
            "events_delivered": events, "delivery": delivery, "min_verification_interval": VERIFIED_AGAIN_AFTER.as_secs(),
        })
    }

    /// The status of a stream: it is there, so it is enabled.
    ///
    /// # Errors
    /// `Unauthenticated` or `Absent`.
    pub(crate) async fn stream_status(&self, id: &str, authorization: Option<&str>) -> Result<Value, StreamRefused> {
        let outbox = self.stream_of(id, authorization).await?;
        Ok(json!({ "stream_id": outbox.config.name, "status": "enabled" }))
    }

    /// Has the receiver told one event that proves that the way to it is open.
    ///
    /// # Errors
    /// See [`StreamRefused`]; nothing is told then.
    pub(crate) async fn verify_stream(&self, id: &str, state: Option<&str>, authorization: Option<&str>) -> Result<(), StreamRefused> {
        let outbox = self.stream_of(id, authorization).await?;
        if state.is_some_and(|state| state.len() > STATE_MAX) {
            return Err(StreamRefused::Invalid);
        }
        let now = self.clock.now();
        let jti = AssertionId::new(now, random()).to_string();
        let event = Verification { stream: &outbox.config.name, audience: &outbox.config.audience, jti: &jti, state };
        let token = event.sign(&self.issuer, now).map_err(|error| {
            tracing::error!(%error, "an event could not be signed");
            StreamRefused::Failed
        })?;
        if outbox.prove(Proof { jti, token }, now) { Ok(()) } else { Err(StreamRefused::TooOften) }
    }
}

impl Outbox {
    /// Puts a proof in front of everything else. False: one was asked for a moment ago.
    fn prove(&self, proof: Proof, now: Timestamp) -> bool {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.proved.is_some_and(|at| at.until(now) < VERIFIED_AGAIN_AFTER) {
                return false;
            }
            state.proved = Some(now);
            state.proof = Some(proof);
        }
        self.wanted.notify_one();
        true
    }
}
