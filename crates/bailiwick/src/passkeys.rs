//! Passkeys of people: registered by whoever is signed in, used to sign in without a provider, and to sign decisions.

use std::time::Duration;

use bailiwick_core::{Digest, HoldId, PersonName, Timestamp};
use bailiwick_identity::passkey::{
    ALGORITHMS, Assertion, Challenge, Passkey, PasskeyError, Signed, Site, VerdictChallenge, decode, register, verify,
};
use bailiwick_identity::person::{Verdict, Word};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Host;

use crate::entry;
use crate::house::House;
use crate::sign_in::directory::{ChangeError, GUARDED, KeptPasskey, Known, PASSKEYS_MAX};
use crate::sign_in::{Way, WebSession};

/// How long a person may take to touch the authenticator.
const CHALLENGE_LIFE: std::time::Duration = std::time::Duration::from_secs(300);
/// The longest name of a passkey, in characters.
const NAME_MAX: usize = 60;
/// How long ago the person may have proved who he or she is, when the page that adds a first passkey is asked for: the passkey is worth
/// more than the session, and one that was left open or stolen is to make none.
pub(crate) const FRESH: Duration = Duration::from_secs(300);
/// The word under which challenges are sealed.
const SEALED: &str = "bailiwick-passkey-challenge";

/// What a challenge is for. Sealed, it goes to the page and comes back: nobody else can make one, and it is good for one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Purpose {
    /// A registration in this session.
    Register { session: Digest },
    /// A sign-in in the browser that has this form's cookie.
    SignIn { form: Digest },
    /// A decision in this session.
    Decide { session: Digest, hold: HoldId },
}

#[derive(Debug, Serialize, Deserialize)]
struct Ticket {
    purpose: Purpose,
    until: Timestamp,
}

/// What a page asks the browser, and the ticket that comes back with the answer.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// For `navigator.credentials`, as JSON with base64url in the place of bytes.
    pub(crate) options: String,
    /// The sealed ticket.
    pub(crate) ticket: String,
}

/// Why a passkey is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasskeyRefused {
    /// There are none here, or not under this address.
    #[error("passkeys are not to be had here")]
    Unavailable,
    /// The ticket is not of this page, too old, or was used.
    #[error("the page was out of date")]
    Ticket,
    /// What the browser handed over.
    #[error(transparent)]
    Passkey(#[from] PasskeyError),
    /// It is nobody's.
    #[error("nobody here has this passkey")]
    Unknown,
    /// It could not be remembered.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// Why no passkey is added in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// An invitation is for somebody who has nothing yet; the second one to use it would be somebody else.
    Invitation,
    /// Whoever has only a session or a key does not add the very thing that is asked for beside it.
    WithoutPasskey,
    /// One was removed in such a session, not long ago.
    Guarded,
    /// The first one needs a fresh sign-in.
    Stale,
}

impl Closed {
    /// In words, for the person.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Invitation => "the invitation was used already",
            Self::WithoutPasskey => "sign in with a passkey to add another one",
            Self::Guarded => "a passkey was removed in a session without one: for a day after that none is added in such a session",
            Self::Stale => "sign in again to add your first passkey: your last sign-in is too long ago, or the provider does not say when it was",
        }
    }

    /// Why a passkey that is asked for at this time is not added in this session, if it is not. `known` is what is known of its person.
    fn to(session: &WebSession, known: Option<&Known>, asked: Timestamp) -> Option<Self> {
        let first = known.is_none_or(|k| k.passkeys.is_empty());
        let guarded = known.and_then(|k| k.guarded_until).is_some_and(|until| asked < until);
        let fresh = session.proved_at().is_some_and(|at| asked <= at.plus(FRESH));
        match session.way {
            Way::Invitation if !first => Some(Self::Invitation),
            Way::Passkey => (first && !fresh).then_some(Self::Stale),
            Way::Code | Way::Provider | Way::Invitation if !first => Some(Self::WithoutPasskey),
            Way::Code | Way::Provider | Way::Invitation if guarded => Some(Self::Guarded),
            Way::Code | Way::Provider | Way::Invitation => (!fresh).then_some(Self::Stale),
        }
    }
}

/// What a browser hands over to prove a passkey, as it stands in the form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) ticket: &'a str,
    pub(crate) id: &'a str,
    pub(crate) authenticator_data: &'a str,
    pub(crate) client_data: &'a str,
    pub(crate) signature: &'a str,
    pub(crate) user_handle: &'a str,
}

impl Shown<'_> {
    fn assertion(&self) -> Result<Assertion, PasskeyError> {
        let user_handle = if self.user_handle.is_empty() { None } else { Some(decode(self.user_handle)?) };
        Ok(Assertion {
            id: decode(self.id)?,
            authenticator_data: decode(self.authenticator_data)?,
            client_data: decode(self.client_data)?,
            signature: decode(self.signature)?,
            user_handle,
        })
    }
}

/// The site of a base URL. A browser makes passkeys for names only: on this machine, for `localhost`.
fn site(base: &str) -> Option<Site> {
    let url: url::Url = base.parse().ok()?;
    let local = |port: Option<u16>| {
        let origin = port.map_or_else(|| format!("{}://localhost", url.scheme()), |port| format!("{}://localhost:{port}", url.scheme()));
        Site { id: "localhost".to_owned(), origins: vec![origin] }
    };
    match url.host()? {
        Host::Domain("localhost") => Some(local(url.port())),
        //= webauthn-3#section-5.1.3
        // If effectiveDomain is not a valid domain, then return a "SecurityError" DOMException. And without TLS there is no
        // secure context, but on this machine.
        Host::Domain(name) if url.scheme() == "https" => Some(Site { id: name.to_owned(), origins: vec![url.origin().ascii_serialization()] }),
        Host::Ipv4(ip) if ip.is_loopback() => Some(local(url.port())),
        Host::Ipv6(ip) if ip.is_loopback() => Some(local(url.port())),
        Host::Domain(_) | Host::Ipv4(_) | Host::Ipv6(_) => None,
    }
}

impl House {
    /// For which site passkeys are made here, if they can be.
    #[must_use]
    pub fn passkey_site(&self) -> Option<Site> {
        site(&self.urls.base).filter(|_| self.config.sign_in.passkeys)
    }

    fn ticket(&self, purpose: Purpose) -> Result<String, PasskeyRefused> {
        let ticket = Ticket { purpose, until: self.clock.now().plus(CHALLENGE_LIFE) };
        self.state_seal.seal_as(SEALED, &ticket).ok_or(PasskeyRefused::Ticket)
    }

    fn check_ticket(&self, sealed: &str, purpose: &Purpose) -> Result<Timestamp, PasskeyRefused> {
        let ticket: Ticket = self.state_seal.open_as(SEALED, sealed).ok_or(PasskeyRefused::Ticket)?;
        if ticket.purpose == *purpose && self.clock.now() < ticket.until { Ok(ticket.until) } else { Err(PasskeyRefused::Ticket) }
    }

    /// Uses a ticket for good.
    async fn spend(&self, person: &PersonName, sealed: &str, until: Timestamp) -> Result<(), PasskeyRefused> {
        let fresh = self.store.jti_use(&format!("passkey:{person}"), sealed, until, self.clock.now()).await.map_err(ChangeError::from)?;
        if fresh { Ok(()) } else { Err(PasskeyRefused::Ticket) }
    }

    /// Why no passkey can be added in this session now, if that is so.
    pub(crate) fn closed_to(&self, session: &WebSession) -> Option<Closed> {
        Closed::to(session, self.directory.known(&session.person).as_ref(), self.clock.now())
    }

    /// What the page asks the browser for a new passkey.
    pub(crate) fn ask_registration(&self, session: &WebSession) -> Result<Ask, PasskeyRefused> {
        let site = self.passkey_site().ok_or(PasskeyRefused::Unavailable)?;
        let known = self.directory.known(&session.person);
        let handle = self.user_handle(&session.person);
        let ticket = self.ticket(Purpose::Register { session: session.mark })?;
        let exclude: Vec<Value> = known.iter().flat_map(|k| &k.passkeys).map(|p| json!({ "type": "public-key", "id": p.id })).collect();
        let options = json!({
            "challenge": Challenge::of(&ticket).encoded(),
            "rp": { "id": site.id, "name": "Bailiwick" },
            "user": { "id": URL_SAFE_NO_PAD.encode(handle), "name": session.person.as_str(), "displayName": session.person.as_str() },
            "pubKeyCredParams": ALGORITHMS.map(|alg| json!({ "type": "public-key", "alg": alg })),
            "excludeCredentials": exclude,
            "authenticatorSelection": { "residentKey": "preferred", "userVerification": "required" },
            "attestation": "none",
            "timeout": 300_000,
        });
        Ok(Ask { options: options.to_string(), ticket })
    }

    //= webauthn-3#section-14.6.1
    // The user handle MUST NOT contain personally identifying information about the user, such as a username or email address; this
    // includes hash values of personally identifying information, unless the hash function is salted with salt values private to the
    // Relying Party.
    fn user_handle(&self, person: &PersonName) -> [u8; 32] {
        self.record_key.salted(Digest::of(b"bailiwick-passkey-user/v1").as_bytes(), person.as_str().as_bytes())
    }

    /// Registers what the browser made.
    pub(crate) async fn register_passkey(
        &self,
        session: &WebSession,
        ticket: &str,
        attestation: &str,
        client_data: &str,
        name: &str,
    ) -> Result<KeptPasskey, PasskeyRefused> {
        let site = self.passkey_site().ok_or(PasskeyRefused::Unavailable)?;
        let until = self.check_ticket(ticket, &Purpose::Register { session: session.mark })?;
        let made = register(&decode(attestation)?, &decode(client_data)?, &Challenge::of(ticket), &site)?;
        let id = made.passkey.name();
        //= webauthn-3#section-7.1
        // Verify that the credentialId is not yet registered for any user.
        if self.directory.by_passkey(&id).is_some() {
            return Err(PasskeyError::Credential.into());
        }
        self.spend(&session.person, ticket, until).await?;
        let now = self.clock.now();
        let name: String = name.trim().chars().filter(|c| !c.is_control()).take(NAME_MAX).collect();
        let kept = KeptPasskey {
            id: id.clone(),
            key: made.passkey.key.jwk(),
            counter: made.passkey.counter,
            can_be_copied: made.passkey.can_be_copied,
            name: if name.is_empty() { "passkey".to_owned() } else { name },
            added: now,
            used: None,
        };
        // The ticket says when the page was asked for: whoever has it open may take his or her time.
        let asked = until.minus(CHALLENGE_LIFE);
        let step = entry::PersonStep {
            what: "passkey_added",
            person: &session.person,
            by: None,
            way: Some(session.way.word()),
            detail: Some(&kept.name),
            passkey: Some(&id),
            key: Some(&kept.key),
        };
        let row = kept.clone();
        self.change_person(&session.person, &step, |known| {
            if known.passkeys.len() >= PASSKEYS_MAX {
                return Err(ChangeError::TooMany);
            }
            if let Some(closed) = Closed::to(session, Some(&*known), asked) {
                return Err(ChangeError::Unfit(closed.words()));
            }
            known.guarded_until = None;
            known.passkeys.push(row);
            Ok(())
        })
        .await?;
        Ok(kept)
    }

    /// Removes a passkey of a person.
    ///
    /// In a session without a passkey that is possible too, as one may be lost: then none is added in such a session for a day, and people
    /// are told.
    pub(crate) async fn remove_passkey(&self, session: &WebSession, id: &str) -> Result<(), PasskeyRefused> {
        let (person, way) = (&session.person, Some(session.way.word()));
        let step = entry::PersonStep { what: "passkey_removed", person, by: None, way, detail: None, passkey: Some(id), key: None };
        let weak = session.way != Way::Passkey;
        let guarded_until = self.clock.now().plus(GUARDED);
        self.change_person(person, &step, |known| {
            let before = known.passkeys.len();
            known.passkeys.retain(|p| p.id != id);
            if weak {
                known.guarded_until = Some(guarded_until);
            }
            if known.passkeys.len() == before { Err(ChangeError::Unfit("there is no such passkey")) } else { Ok(()) }
        })
        .await?;
        if weak {
            let detail =
                format!("a passkey of `{person}` was removed in a session without one; none can be added in such a session until {guarded_until}");
            self.incident("passkey_removed", None, None, &detail).await;
        }
        Ok(())
    }

    /// What the sign-in page asks the browser. `form` is the cookie's value of that page.
    pub(crate) fn ask_sign_in(&self, form: &str) -> Result<Ask, PasskeyRefused> {
        let site = self.passkey_site().ok_or(PasskeyRefused::Unavailable)?;
        let ticket = self.ticket(Purpose::SignIn { form: Digest::of(form.as_bytes()) })?;
        Ok(Ask { options: get(&site, Challenge::of(&ticket), &[]), ticket })
    }

    /// Who has the passkey that the browser used?
    pub(crate) async fn passkey_sign_in(&self, form: &str, shown: Shown<'_>) -> Result<PersonName, PasskeyRefused> {
        let site = self.passkey_site().ok_or(PasskeyRefused::Unavailable)?;
        let until = self.check_ticket(shown.ticket, &Purpose::SignIn { form: Digest::of(form.as_bytes()) })?;
        let assertion = shown.assertion()?;
        //= webauthn-3#section-7.2
        // If the user was not identified before the authentication ceremony was initiated: verify that response.userHandle is
        // present.
        if assertion.user_handle.is_none() {
            return Err(PasskeyError::User.into());
        }
        let (name, _) = self.use_passkey(&assertion, Challenge::of(shown.ticket), &site, (shown.ticket, until), "signed_in_with").await?;
        Ok(name)
    }

    /// What the page of a held call asks the browser for a yes; none if the person has no passkey.
    pub(crate) fn ask_decision(&self, session: &WebSession, hold: HoldId, digest: Digest, seen: Digest) -> Option<Ask> {
        let site = self.passkey_site()?;
        let known = self.directory.known(&session.person).filter(|k| !k.passkeys.is_empty())?;
        let ticket = self.ticket(Purpose::Decide { session: session.mark, hold }).ok()?;
        let verdict = Verdict { hold, digest, seen, word: Word::Approve };
        let challenge = VerdictChallenge { verdict, nonce: &ticket }.challenge();
        let ids: Vec<&str> = known.passkeys.iter().map(|p| p.id.as_str()).collect();
        Some(Ask { options: get(&site, challenge, &ids), ticket })
    }

    /// Was this very decision signed with a passkey of this person? Gives the signature for the record.
    pub(crate) async fn passkey_decision(&self, session: &WebSession, verdict: Verdict, shown: Shown<'_>) -> Result<String, PasskeyRefused> {
        let site = self.passkey_site().ok_or(PasskeyRefused::Unavailable)?;
        let until = self.check_ticket(shown.ticket, &Purpose::Decide { session: session.mark, hold: verdict.hold })?;
        let assertion = shown.assertion()?;
        let whose = self.directory.by_passkey(&URL_SAFE_NO_PAD.encode(&assertion.id));
        if whose.is_none_or(|(name, _)| name != session.person) {
            return Err(PasskeyRefused::Unknown);
        }
        let challenge = VerdictChallenge { verdict, nonce: shown.ticket }.challenge();
        let (_, passkey) = self.use_passkey(&assertion, challenge, &site, (shown.ticket, until), "decided_with").await?;
        let signed = Signed { assertion, nonce: shown.ticket.to_owned() };
        // What goes on record must verify from the record alone.
        signed.verify(verdict, &passkey, &site)?;
        Ok(signed.to_string())
    }

    /// Verifies a use of a passkey, uses its ticket up, and remembers its counter. A counter that does not rise is an incident.
    async fn use_passkey(
        &self,
        assertion: &Assertion,
        challenge: Challenge,
        site: &Site,
        (ticket, until): (&str, Timestamp),
        what: &'static str,
    ) -> Result<(PersonName, Passkey), PasskeyRefused> {
        let id = URL_SAFE_NO_PAD.encode(&assertion.id);
        let (name, known) = self.directory.by_passkey(&id).ok_or(PasskeyRefused::Unknown)?;
        if self.person(name.as_str()).is_none() {
            return Err(PasskeyRefused::Unknown);
        }
        let passkey = known.passkeys.iter().find(|p| p.id == id).and_then(KeptPasskey::passkey).ok_or(PasskeyRefused::Unknown)?;
        let used = match verify(assertion, &passkey, &self.user_handle(&name), &challenge, site) {
            Ok(used) => used,
            Err(PasskeyError::Counter) => {
                self.incident("passkey_copied", None, None, &format!("a passkey of `{name}` did not count on: there may be a copy of it")).await;
                return Err(PasskeyError::Counter.into());
            }
            Err(error) => return Err(error.into()),
        };
        self.spend(&name, ticket, until).await?;
        let now = self.clock.now();
        let step = entry::PersonStep { what, person: &name, by: None, way: Some("passkey"), detail: None, passkey: Some(&id), key: None };
        self.change_person(&name, &step, |known| {
            if known.disabled.is_some() {
                return Err(ChangeError::Unfit("the person was disabled meanwhile"));
            }
            let kept = known.passkeys.iter_mut().find(|p| p.id == id).ok_or(ChangeError::Unfit("the passkey was removed meanwhile"))?;
            // Two uses at the same moment: the second one is a copy's, or has to be tried again.
            if kept.counter != passkey.counter {
                return Err(ChangeError::Unfit("the passkey was used at the same moment"));
            }
            kept.counter = used.counter;
            kept.used = Some(now);
            Ok(())
        })
        .await?;
        Ok((name, passkey))
    }
}

fn get(site: &Site, challenge: Challenge, ids: &[&str]) -> String {
    let allowed: Vec<Value> = ids.iter().map(|id| json!({ "type": "public-key", "id": id })).collect();
    json!({
        "challenge": challenge.encoded(), "rpId": site.id, "allowCredentials": allowed, "userVerification": "required", "timeout": 300_000,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(way: Way, proved_at: Option<i64>) -> WebSession {
        let at = |seconds| Timestamp::from_seconds(seconds);
        let upstream = (way == Way::Provider).then(|| crate::sign_in::Upstream {
            issuer: "i".to_owned(),
            subject: "s".to_owned(),
            session: None,
            proved_at: proved_at.map(at),
        });
        let since = at(proved_at.unwrap_or(0));
        WebSession {
            id: String::new(),
            person: "ana".parse().unwrap(),
            way,
            mark: Digest::of(b"m"),
            csrf: String::new(),
            since,
            used: since,
            until: since.plus(GUARDED),
            upstream,
        }
    }

    /// Somebody with so many passkeys, guarded until this second.
    fn known(passkeys: usize, guarded_until: Option<i64>) -> Known {
        let at = Timestamp::from_seconds(0);
        let passkey = json!({ "id": "x", "key": {}, "counter": 0, "can_be_copied": false, "name": "n", "added": at, "used": null });
        serde_json::from_value(json!({ "v": 1, "passkeys": vec![passkey; passkeys], "guarded_until": guarded_until.map(Timestamp::from_seconds) }))
            .unwrap()
    }

    #[test]
    fn a_first_passkey_needs_a_fresh_proof_and_a_further_one_a_session_by_passkey() {
        let closed =
            |way, proved: Option<i64>, known: Option<Known>, at: i64| Closed::to(&session(way, proved), known.as_ref(), Timestamp::from_seconds(at));
        for way in [Way::Code, Way::Provider, Way::Invitation, Way::Passkey] {
            for nobody in [None, Some(known(0, None))] {
                assert_eq!(closed(way, Some(1000), nobody.clone(), 1300), None, "{way:?}");
                assert_eq!(closed(way, Some(1000), nobody, 1301), Some(Closed::Stale), "{way:?}");
            }
        }
        assert_eq!(closed(Way::Provider, None, None, 0), Some(Closed::Stale), "nobody knows when the person proved anything");
        for (way, why) in [(Way::Code, Closed::WithoutPasskey), (Way::Provider, Closed::WithoutPasskey), (Way::Invitation, Closed::Invitation)] {
            assert_eq!(closed(way, Some(1000), Some(known(1, None)), 1001), Some(why), "{way:?}");
            let removed = Some(known(0, Some(90_000)));
            assert_eq!(closed(way, Some(89_999), removed.clone(), 89_999), Some(Closed::Guarded), "{way:?}");
            assert_eq!(closed(way, Some(90_000), removed, 90_000), None, "{way:?}");
        }
        assert_eq!(closed(Way::Passkey, Some(1000), Some(known(1, Some(90_000))), 20_000), None);
    }

    #[test]
    fn a_site_has_a_name_and_a_page_that_a_browser_trusts() {
        let of = |base: &str| site(base).map(|s| (s.id, s.origins.join(" ")));
        let pair = |id: &str, origin: &str| Some((id.to_owned(), origin.to_owned()));
        assert_eq!(of("https://broker.example.org/x"), pair("broker.example.org", "https://broker.example.org"));
        assert_eq!(of("https://broker.example.org:8443"), pair("broker.example.org", "https://broker.example.org:8443"));
        assert_eq!(of("http://127.0.0.1:8200"), pair("localhost", "http://localhost:8200"));
        assert_eq!(of("http://localhost:8200"), pair("localhost", "http://localhost:8200"));
        assert_eq!(of("http://[::1]:8200"), pair("localhost", "http://localhost:8200"));
        for none in ["http://broker.example.org", "https://10.0.0.1", "http://10.0.0.1", "x"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
