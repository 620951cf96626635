//! Proofs that others signed: which issuer a token is of, its keys, and whose it is by the configuration.

mod fetch;
mod keys;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bailiwick_core::{AgentName, ComponentName, InstanceId, PersonName, Timestamp, TrustDomain};
use bailiwick_identity::foreign::id_jag::{self, Jag};
use bailiwick_identity::foreign::{ClaimPath, Claimed, Claims, KeySet, Rules, instance, jwt_svid, oidc};
use bailiwick_identity::token::workload;
use bailiwick_identity::{Confirmation, ProofError, assertion, spiffe};

use crate::config::{IssuerEntry, IssuerKind, Issuers, KeysFrom};
use crate::house::{House, StartError, Urls};
use crate::spiffe::{Following, Received, ToldKeys, WorkloadApi};

pub(crate) use fetch::Fetcher;
pub(crate) use keys::{Form, KEPT_MAX, Kept, Keys, Place, rest, verified};

/// The longest name of a model that an issuer attests.
const MODEL_MAX: usize = 200;

/// The issuers in use, each with its keys.
#[derive(Debug, Default)]
pub struct Proofs {
    issuers: BTreeMap<String, Trusted>,
    /// Workload APIs that are to be followed from the start on.
    to_follow: Mutex<Vec<Following>>,
    /// The authorities of our own trust domain, where we issue SVIDs ourselves.
    own: OnceLock<Arc<dyn Keys>>,
}

/// An issuer, and its keys.
#[derive(Debug)]
struct Trusted {
    entry: IssuerEntry,
    audiences: Vec<String>,
    keys: Arc<dyn Keys>,
    kept: Option<Arc<Kept>>,
}

/// A workload that a token of an issuer proved.
#[derive(Debug)]
pub(crate) struct Proven {
    /// The agent.
    pub(crate) agent: AgentName,
    /// The component of it.
    pub(crate) component: Option<ComponentName>,
    /// The running copy, if the token tells it.
    pub(crate) instance: Option<InstanceId>,
    /// The model that the issuer attests.
    pub(crate) model: Option<String>,
    /// The key that the token is bound to.
    pub(crate) confirmation: Option<Confirmation>,
}

/// What an assertion of an RFC 7523 grant is.
#[derive(Debug)]
pub(crate) enum Asserted {
    /// A workload's own token.
    Workload(Proven),
    /// The leave of an identity provider to act for a person.
    Person(Leave),
}

/// The leave of an identity provider: which client may act for whom.
#[derive(Debug)]
pub(crate) struct Leave {
    /// The issuer's name, for the record.
    pub(crate) issuer: String,
    /// The person.
    pub(crate) person: PersonName,
    /// The grant.
    pub(crate) jag: Jag,
}

/// Why a token proves nothing. For the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unproven {
    /// It is of no issuer that is configured.
    #[error("the token is of no configured issuer (iss {iss:?}, sub {sub:?})")]
    Issuer {
        /// What it says.
        iss: Option<String>,
        /// What it says.
        sub: Option<String>,
    },
    /// There are no keys of its issuer.
    #[error("there are no keys of issuer `{0}` at present")]
    NoKeys(String),
    /// It breaks a rule.
    #[error("a token of issuer `{0}`: {1}")]
    Proof(String, ProofError),
    /// It is nobody's.
    #[error("a token of issuer `{0}` is no agent's: subject {1:?}")]
    Nobody(String, String),
}

impl Unproven {
    fn read(error: ProofError) -> Self {
        Self::Proof("unknown".to_owned(), error)
    }
}

impl Proofs {
    /// The configured issuers. Keys are not there yet: see [`House::start_proofs`].
    ///
    /// # Errors
    /// If a file of keys cannot be used, or an authority is none.
    pub(crate) fn new(config: &Issuers, urls: &Urls) -> Result<Self, StartError> {
        let ours = assertion::audiences(&urls.base, &urls.token);
        let mut issuers = BTreeMap::new();
        let mut told = Told::default();
        for (name, entry) in &config.by_name {
            let fault = |why: String| StartError::place(format!("issuer `{name}`"), why);
            let domain = || domain_of(entry).ok_or_else(|| fault("it is no trust domain".to_owned()));
            let form = if entry.kind == IssuerKind::Spiffe { Form::Bundle(domain()?) } else { Form::Jwks };
            let place = match &entry.keys {
                KeysFrom::File(path) => Some(Place::File(path.clone())),
                KeysFrom::Discovery => Some(Place::Discovery(Fetcher::new(&entry.roots).map_err(fault)?, entry.issuer.clone())),
                KeysFrom::Bundle(url) => Some(Place::Url(Fetcher::new(&entry.roots).map_err(fault)?, url.clone())),
                KeysFrom::WorkloadApi(_) => None,
            };
            let kept = place.map(|place| Arc::new(Kept::new(name, place, form)));
            let keys = match (&kept, &entry.keys) {
                (Some(kept), _) => Arc::clone(kept) as Arc<dyn Keys>,
                (None, KeysFrom::WorkloadApi(path)) => told.keys(path, domain()?),
                (None, _) => continue,
            };
            let audiences = match entry.kind {
                // An ID-JAG is for our issuer identifier, and for no other name of ours.
                IssuerKind::IdJag => vec![urls.base.clone()],
                IssuerKind::Oidc | IssuerKind::Spiffe if entry.audiences.is_empty() => ours.clone(),
                IssuerKind::Oidc | IssuerKind::Spiffe => entry.audiences.clone(),
            };
            issuers.insert(name.clone(), Trusted { entry: entry.clone(), audiences, keys, kept });
        }
        Ok(Self { issuers, to_follow: Mutex::new(told.to_follow), own: OnceLock::new() })
    }

    /// The keys by which SVIDs of our own trust domain are verified: `spiffe://<ours>/agent/<name>` is that agent, without a mapping.
    pub(crate) fn own_authorities(&self, keys: Arc<dyn Keys>) {
        if self.own.set(keys).is_err() {
            tracing::warn!("the authorities of our own trust domain were said twice; the first are kept");
        }
    }

    /// The keys of our own trust domain, if we issue its SVIDs.
    pub(crate) fn own_keys(&self, now: Timestamp) -> Option<Arc<KeySet>> {
        self.own.get()?.current(now)
    }

    /// The trust domain that an issuer of this name is, and its keys.
    pub(crate) fn trust_domain(&self, name: &str) -> Option<(TrustDomain, &dyn Keys)> {
        let issuer = self.issuers.get(name)?;
        Some((domain_of(&issuer.entry)?, &*issuer.keys))
    }

    /// Are there issuers of this kind? For the metadata.
    pub(crate) fn has(&self, kind: IssuerKind) -> bool {
        self.issuers.values().any(|issuer| issuer.entry.kind == kind) || kind == IssuerKind::Spiffe && self.own.get().is_some()
    }

    fn find(&self, kind: IssuerKind, identifier: &str) -> Option<&Trusted> {
        self.issuers.values().find(|issuer| issuer.entry.kind == kind && issuer.entry.issuer == identifier)
    }
}

/// The Workload APIs that are asked, each once, whatever the number of its trust domains.
#[derive(Default)]
struct Told {
    by_path: BTreeMap<PathBuf, tokio::sync::watch::Receiver<Arc<Received>>>,
    to_follow: Vec<Following>,
}

impl Told {
    fn keys(&mut self, path: &PathBuf, domain: TrustDomain) -> Arc<dyn Keys> {
        let receiver = match self.by_path.get(path) {
            Some(receiver) => receiver.clone(),
            None => {
                let (following, receiver) = WorkloadApi::at(path.clone()).following();
                self.to_follow.push(following);
                self.by_path.insert(path.clone(), receiver.clone());
                receiver
            }
        };
        Arc::new(ToldKeys::new(domain, receiver))
    }
}

/// The trust domain that an issuer is, if it is one.
fn domain_of(entry: &IssuerEntry) -> Option<TrustDomain> {
    (entry.kind == IssuerKind::Spiffe).then_some(entry.issuer.strip_prefix("spiffe://")?)?.parse().ok()
}

impl Trusted {
    fn rules(&self) -> Rules<'_> {
        Rules { issuer: &self.entry.issuer, audiences: &self.audiences, age_max: self.entry.age_max }
    }
}

impl House {
    /// Has each issuer's keys fetched now, and again in time.
    ///
    /// # Errors
    /// If a file of keys is not one. What must be fetched may come later.
    pub(crate) async fn start_proofs(self: &Arc<Self>) -> Result<(), StartError> {
        for following in std::mem::take(&mut *self.proofs.to_follow.lock().unwrap_or_else(PoisonError::into_inner)) {
            following.start(&self.workers, &self.stop);
        }
        for (name, issuer) in &self.proofs.issuers {
            let Some(kept) = issuer.kept.clone() else { continue };
            if matches!(issuer.entry.keys, KeysFrom::File(_)) {
                kept.refresh(self.clock.now()).await.map_err(|why| StartError::place(format!("the keys of issuer `{name}`"), why))?;
            }
            let (house, name) = (Arc::clone(self), name.clone());
            self.workers.spawn(async move { house.keep_keys(&name, &kept).await });
        }
        // Nobody may ever sign in or tell an event: these places are asked when they are first needed, and from then on.
        let provider = self.provider.iter().map(|provider| (&provider.config.issuer, &provider.keys));
        for (name, kept) in provider.chain(self.events.keys()) {
            let (house, name, kept) = (Arc::clone(self), name.clone(), Arc::clone(kept));
            self.workers.spawn(async move {
                let wait = async { tokio::time::sleep(kept.wanted().await).await };
                tokio::select! {
                    () = house.stop.cancelled() => {}
                    () = wait => house.keep_keys(&name, &kept).await,
                }
            });
        }
        Ok(())
    }

    async fn keep_keys(&self, name: &str, kept: &Kept) {
        let mut failing = false;
        loop {
            let next = match kept.refresh(self.clock.now()).await {
                Ok(every) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!(issuer = name, "the keys of an issuer can be had again");
                    }
                    every
                }
                Err(why) => {
                    metrics::counter!("bailiwick_issuer_keys_failed_total", "issuer" => name.to_owned()).increment(1);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(issuer = name, why, "the keys of an issuer could not be had; it is tried again");
                    }
                    kept.retry()
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(next) => {}
            }
        }
    }

    /// The workload that a JWT-SVID proves (a client assertion of type `jwt-spiffe`).
    ///
    /// # Errors
    /// Why it proves none.
    pub(crate) async fn by_svid(&self, token: &str) -> Result<Proven, Unproven> {
        let claimed = Claimed::read(token).map_err(Unproven::read)?;
        self.svid(token, claimed).await
    }

    /// What the assertion of an RFC 7523 grant proves: a workload, or leave to act for a person.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub(crate) async fn asserted(&self, token: &str) -> Result<Asserted, Unproven> {
        let claimed = Claimed::read(token).map_err(Unproven::read)?;
        if claimed.typ.as_deref() == Some(id_jag::TYP) {
            return self.leave(token, claimed).await.map(Asserted::Person);
        }
        // The kind follows from what the token says, and then the issuer's keys and rules follow from the kind.
        match claimed.issuer.as_deref().and_then(|iss| self.proofs.find(IssuerKind::Oidc, iss)) {
            Some(issuer) => self.oidc(token, issuer).await.map(Asserted::Workload),
            None => self.svid(token, claimed).await.map(Asserted::Workload),
        }
    }

    async fn svid(&self, token: &str, claimed: Claimed) -> Result<Proven, Unproven> {
        let unknown = || Unproven::Issuer { iss: claimed.issuer.clone(), sub: claimed.subject.clone() };
        let id = claimed.subject.as_deref().and_then(|sub| sub.parse().ok()).ok_or_else(unknown)?;
        let domain = spiffe::domain_of(&id).ok_or_else(unknown)?;
        let identifier = format!("spiffe://{domain}");
        let now = self.clock.now();
        if let Some(issuer) = self.proofs.find(IssuerKind::Spiffe, &identifier) {
            let svid = proved(&*issuer.keys, &issuer.entry.name, now, |keys| jwt_svid::verify(token, keys, &issuer.rules(), now)).await?;
            return self.whose(issuer, svid.id.as_str(), svid.confirmation, &svid.claims);
        }
        let own = self.proofs.own.get().filter(|_| domain == self.config.trust_domain).ok_or_else(unknown)?;
        let ours = assertion::audiences(&self.urls.base, &self.urls.token);
        let rules = Rules { issuer: &identifier, audiences: &ours, age_max: bailiwick_identity::token::LIFE_MAX };
        let svid = proved(&**own, &identifier, now, |keys| jwt_svid::verify(token, keys, &rules, now)).await?;
        let nobody = || Unproven::Nobody(identifier.clone(), svid.id.to_string());
        let (agent, component) = workload(&self.config.trust_domain, &svid.id).ok_or_else(nobody)?;
        let known = self.config.agents.get(&agent).is_some_and(|a| component.as_ref().is_none_or(|c| a.components.contains_key(c)));
        if !known {
            return Err(nobody());
        }
        Ok(Proven { agent, component, instance: None, model: None, confirmation: svid.confirmation })
    }

    async fn oidc(&self, token: &str, issuer: &Trusted) -> Result<Proven, Unproven> {
        let now = self.clock.now();
        let found = proved(&*issuer.keys, &issuer.entry.name, now, |keys| oidc::verify(token, keys, &issuer.rules(), now)).await?;
        self.whose(issuer, &found.subject, found.confirmation, &found.claims)
    }

    async fn leave(&self, token: &str, claimed: Claimed) -> Result<Leave, Unproven> {
        let issuer = claimed.issuer.as_deref().and_then(|iss| self.proofs.find(IssuerKind::IdJag, iss));
        let issuer = issuer.ok_or(Unproven::Issuer { iss: claimed.issuer, sub: claimed.subject })?;
        let now = self.clock.now();
        let jag = proved(&*issuer.keys, &issuer.entry.name, now, |keys| id_jag::verify(token, keys, &issuer.rules(), now)).await?;
        let person = issuer.entry.people.get(&jag.subject).filter(|person| self.person(person.as_str()).is_some());
        let person = person.cloned().ok_or_else(|| Unproven::Nobody(issuer.entry.name.clone(), jag.subject.clone()))?;
        Ok(Leave { issuer: issuer.entry.name.clone(), person, jag })
    }

    /// May this client use leaves of this issuer? Only where its configuration names the issuer, and its claims fit.
    pub(crate) fn takes_leave(&self, agent: &AgentName, component: Option<&ComponentName>, leave: &Leave) -> bool {
        let of = |proof: &&crate::config::ProofEntry| {
            proof.issuer == leave.issuer && proof.agent == *agent && proof.component.as_ref() == component && leave.jag.claims.fit(&proof.mapping)
        };
        self.config.issuers.proofs.iter().any(|proof| of(&proof))
    }

    /// The agent whose token it is, by its claims.
    fn whose(&self, issuer: &Trusted, subject: &str, confirmation: Option<Confirmation>, claims: &Claims) -> Result<Proven, Unproven> {
        let name = &issuer.entry.name;
        let proof = self.config.issuers.proofs.iter().find(|proof| proof.issuer == *name && claims.fit(&proof.mapping));
        let proof = proof.ok_or_else(|| Unproven::Nobody(name.clone(), subject.to_owned()))?;
        let copy = match &proof.instance {
            Some(path) => claims.word(path),
            None => POD.parse::<ClaimPath>().ok().and_then(|path| claims.word(&path)),
        };
        let model = proof.model.as_ref().and_then(|path| claims.text(path));
        let plain = |model: &&str| model.len() <= MODEL_MAX && model.bytes().all(|b| (0x20..0x7f).contains(&b));
        Ok(Proven {
            agent: proof.agent.clone(),
            component: proof.component.clone(),
            instance: copy.map(|copy| instance(&issuer.entry.issuer, subject, &copy)),
            model: model.filter(plain).map(str::to_owned),
            confirmation,
        })
    }
}

/// The claim that tells one pod of a service account from another.
const POD: &str = "/kubernetes.io/pod/uid";

/// Verifies a token of an issuer.
async fn proved<T>(keys: &dyn Keys, name: &str, now: Timestamp, verify: impl Fn(&KeySet) -> Result<T, ProofError>) -> Result<T, Unproven> {
    let judged = verified(keys, now, |why| matches!(why, ProofError::Key | ProofError::Signature), verify).await;
    judged.ok_or_else(|| Unproven::NoKeys(name.to_owned()))?.map_err(|error| Unproven::Proof(name.to_owned(), error))
}
