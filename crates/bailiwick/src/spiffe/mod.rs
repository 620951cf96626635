//! SPIFFE for the processes of this machine: they are attested by the kernel, given SVIDs by the standard Workload API, and heard at the broker's own
//! Unix socket without any key.

mod authority_field;
mod book;
mod client;
mod door;
mod federated;
mod grpc;
mod key_sets;
mod peer;
mod server;
mod socket;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bailiwick_core::{Agent, ErrorCode, SpiffeId, Timestamp};
use bailiwick_credentials::Sealer;
use bailiwick_identity::spiffe::Authority;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::clock::random;
use crate::config::{Config, SpiffeIssuer};
use crate::entry;
use crate::house::{House, StartError};
use crate::paces::Door;
use crate::place::{read_private, write_private};
use book::Book;
use federated::Federated;
use grpc::{Code, Status};
use peer::{Digests, Nobody};
use socket::Socket;

pub use client::{Following, Received, WorkloadApi, WorkloadApiError, endpoint_path};
pub(crate) use door::LocalProcess;
pub(crate) use key_sets::ToldKeys;
pub(crate) use peer::{Attested, Peer};

/// How often readers of the bundle are told to look again: far less than the time for which new keys are announced.
const REFRESH_HINT: Duration = Duration::from_secs(300);
/// How often it is looked whether the next keys are due.
const TURN_EVERY: Duration = Duration::from_secs(5);
/// The name under which the authority's keys are sealed.
const KEPT: &str = "spiffe-authority";

const NOBODY: Status = Status(Code::PermissionDenied, "no identity is registered for this process");
const OUT_OF_SERVICE: Status = Status(Code::PermissionDenied, "the agent is suspended, or overdue for review by its owner");
const TOO_FAST: Status = Status(Code::ResourceExhausted, "the agent asks for too many SVIDs; wait a minute");
const NO_RECORD: Status = Status(Code::Unavailable, "the record cannot be written at present");

/// Everything for the processes of this machine.
#[derive(Debug)]
pub(crate) struct Local {
    digests: Digests,
    issuer: Option<Arc<Issuer>>,
    /// Sockets that are bound and not served yet: the Workload API's, and the broker's own.
    waiting: Mutex<(Option<Socket>, Option<Socket>)>,
}

/// The issuer of our own trust domain.
#[derive(Debug)]
pub(crate) struct Issuer {
    settings: SpiffeIssuer,
    authority: ArcSwap<Authority>,
    /// The bundles of other trust domains, for those who may have ours.
    federated: ArcSwap<Federated>,
    /// Rings with the sequence of the bundle when that changed, or when a bundle of another trust domain did.
    changed: watch::Sender<u64>,
    book: Book,
}

impl Local {
    /// Binds the sockets that are configured, and has the authority's keys.
    ///
    /// # Errors
    /// If a socket cannot be made, or the kept keys cannot be used.
    pub(crate) fn open(config: &Config, data_dir: &Path, sealer: &Sealer, now: Timestamp) -> Result<Self, StartError> {
        let bind = |path: &Path, open_to: crate::config::OpenTo| Socket::bind(path, open_to.mode());
        let broker = config.unix.as_ref().map(|(path, open_to)| bind(path, *open_to)).transpose()?;
        let Some(settings) = config.spiffe.clone() else {
            return Ok(Self { digests: Digests::default(), issuer: None, waiting: Mutex::new((None, broker)) });
        };
        let workload = bind(&settings.socket, settings.open_to)?;
        let authority = load_or_begin(config, &settings, data_dir, sealer, now)?;
        let changed = watch::Sender::new(authority.sequence());
        let (authority, federated) = (ArcSwap::from_pointee(authority), ArcSwap::default());
        let issuer = Issuer { settings, authority, federated, changed, book: Book::default() };
        Ok(Self { digests: Digests::default(), issuer: Some(Arc::new(issuer)), waiting: Mutex::new((Some(workload), broker)) })
    }

    /// The bundle of our trust domain. Without an issuer it has no keys: nothing of it is to be believed.
    pub(crate) fn bundle(&self) -> Value {
        match &self.issuer {
            Some(issuer) => issuer.authority.load().bundle(REFRESH_HINT),
            None => json!({ "keys": [] }),
        }
    }

    /// The certificates of those who sign X.509-SVIDs of our own trust domain now, DER. None without an issuer.
    pub(crate) fn own_roots(&self) -> Vec<Vec<u8>> {
        let roots = |issuer: &Arc<Issuer>| issuer.authority.load().roots().into_iter().map(<[u8]>::to_vec).collect();
        self.issuer.as_ref().map(roots).unwrap_or_default()
    }

    /// Rings when the keys of our own trust domain change. None without an issuer.
    pub(crate) fn own_changes(&self) -> Option<watch::Receiver<u64>> {
        self.issuer.as_ref().map(|issuer| issuer.changed.subscribe())
    }
}

fn load_or_begin(config: &Config, settings: &SpiffeIssuer, data_dir: &Path, sealer: &Sealer, now: Timestamp) -> Result<Authority, StartError> {
    let path = data_dir.join("keys").join(format!("{KEPT}.sealed"));
    let fault = |why: &dyn std::fmt::Display| StartError::place(path.display().to_string(), why);
    let life = settings.authority_life;
    // Higher than that of any bundle which an authority of this trust domain had before, wherever its keys are now.
    let mut sequence = u64::try_from(now.as_seconds()).unwrap_or(0);
    if path.exists() {
        let bytes = sealer.open_bytes(&format!("key/{KEPT}"), &read_private(&path)?).map_err(|e| fault(&e))?;
        let kept = Authority::from_bytes(&bytes).map_err(|e| fault(&e))?;
        if *kept.domain() == config.trust_domain {
            let Some(next) = kept.turn(life, random(), now).map_err(|e| fault(&e))? else { return Ok(kept) };
            keep(data_dir, sealer, &next)?;
            return Ok(next);
        }
        tracing::warn!(before = %kept.domain(), now = %config.trust_domain, "the trust domain is another: its authority begins anew");
        sequence = sequence.max(kept.sequence());
    }
    let first = Authority::begin(config.trust_domain.clone(), life, random(), sequence, now).map_err(|e| fault(&e))?;
    keep(data_dir, sealer, &first)?;
    Ok(first)
}

fn keep(data_dir: &Path, sealer: &Sealer, authority: &Authority) -> Result<(), StartError> {
    let path = data_dir.join("keys").join(format!("{KEPT}.sealed"));
    let fault = |why: &dyn std::fmt::Display| StartError::place(path.display().to_string(), why);
    let bytes = authority.to_bytes().map_err(|e| fault(&e))?;
    let blob = sealer.seal_bytes(&format!("key/{KEPT}"), &bytes).map_err(|e| fault(&e))?;
    write_private(&path, &blob).map_err(|e| fault(&e))
}

impl House {
    /// Serves the sockets, and keeps the authority's keys fresh.
    pub(crate) fn start_local(self: &Arc<Self>) {
        let (workload, broker) = std::mem::take(&mut *self.local.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if let (Some(socket), Some(issuer)) = (workload, &self.local.issuer) {
            self.proofs.own_authorities(Arc::new(key_sets::OwnKeys::new(Arc::clone(issuer))));
            self.workers.spawn(server::serve(Arc::clone(self), Arc::clone(issuer), socket));
            self.workers.spawn(turn_now_and_then(Arc::clone(self), Arc::clone(issuer)));
        }
        if let Some(socket) = broker {
            self.workers.spawn(door::serve(Arc::clone(self), socket));
        }
    }

    /// The agent that a process is.
    pub(crate) async fn attested(self: &Arc<Self>, peer: &Arc<Peer>) -> Result<Attested, Nobody> {
        let (house, process) = (Arc::clone(self), Arc::clone(peer));
        let found = tokio::task::spawn_blocking(move || peer::attest(&process, &house.config, &house.local.digests)).await;
        found.unwrap_or(Err(Nobody::Gone)).inspect_err(|why| {
            tracing::info!(error.code = %ErrorCode::ProofInvalid, %why, uid = peer.uid, gid = peer.gid, pid = peer.pid, "a local process was refused");
        })
    }

    /// The agent that a process is, if it is in service.
    async fn entitled(self: &Arc<Self>, peer: &Arc<Peer>) -> Result<(Attested, &Agent), Status> {
        let attested = self.attested(peer).await.map_err(|_| NOBODY)?;
        let agent = self.agent(attested.agent.as_str()).ok_or(NOBODY)?;
        if attested.instance.is_some_and(|instance| self.instances.is_ended(&agent.name, instance)) {
            return Err(NOBODY);
        }
        self.in_service(agent, self.clock.now()).map_err(|why| {
            tracing::warn!(%why, "an agent gets no SVID");
            OUT_OF_SERVICE
        })?;
        Ok((attested, agent))
    }

    /// Nobody gets SVIDs without end.
    async fn in_svid_pace(&self, agent: &Agent) -> Result<(), Status> {
        if self.paces.within(&agent.name, Door::Token, self.clock.now()) {
            return Ok(());
        }
        self.note_refused(&agent.name, Door::Token, ErrorCode::LimitExceeded).await;
        Err(TOO_FAST)
    }

    /// Puts on record that an SVID is about to be issued; what is alike is counted. Without the record there is no SVID.
    async fn note_issued(&self, issuer: &Issuer, attested: &Attested, id: &SpiffeId, kind: String, serial: Option<&str>) -> Result<(), Status> {
        let Some((kind, unwritten)) = issuer.book.see(&attested.agent, kind, self.clock.now()) else {
            // What stops the record stops this too, if nothing is written just now.
            return if self.pen.stopped().is_some() || self.store.is_failing() { Err(NO_RECORD) } else { Ok(()) };
        };
        let words = format!("{id}: {kind}; to {}; {unwritten} before it were not written", attested.words);
        let note = entry::House { what: "svid_issued", name: Some(&words), digest: serial };
        self.append(&note).await.map(drop).map_err(|error| {
            tracing::error!(%error, agent = %attested.agent, "no SVID was issued: it could not be recorded");
            NO_RECORD
        })
    }
}

/// Makes the next keys when they are due, and puts on record what was only counted.
async fn turn_now_and_then(house: Arc<House>, issuer: Arc<Issuer>) {
    let mut tick = tokio::time::interval(TURN_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = house.stop.cancelled() => return settle(&house, &issuer, Timestamp::from_millis(i64::MAX)).await,
            _ = tick.tick() => {}
        }
        if let Err(error) = turn(&house, &issuer) {
            tracing::error!(%error, "the next keys of the SPIFFE authority could not be made; it is tried again");
        }
        house.look_at_federated(&issuer);
        settle(&house, &issuer, house.clock.now()).await;
    }
}

/// One look whether the next keys are due. They are kept before anybody learns of them.
fn turn(house: &House, issuer: &Issuer) -> Result<(), StartError> {
    let next = issuer.authority.load().turn(issuer.settings.authority_life, random(), house.clock.now());
    let next = next.map_err(|e| StartError::place("the SPIFFE authority", e))?;
    let Some(next) = next else { return Ok(()) };
    keep(&house.data_dir, house.sealer(), &next)?;
    let sequence = next.sequence();
    issuer.authority.store(Arc::new(next));
    issuer.changed.send_replace(sequence);
    tracing::info!(sequence, "the keys of the SPIFFE authority changed");
    Ok(())
}

async fn settle(house: &House, issuer: &Issuer, now: Timestamp) {
    for (agent, kind, unwritten) in issuer.book.settle(now) {
        let words = format!("agent {agent}: {kind}; {unwritten} more were not written");
        if let Err(error) = house.append(&entry::House { what: "svid_issued", name: Some(&words), digest: None }).await {
            tracing::error!(%error, %agent, unwritten, "issued SVIDs could not be recorded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(domain: &str) -> Config {
        Config::parse("test", &format!("trust_domain = \"{domain}\"\n[spiffe]\nsocket = \"w.sock\"\nauthority_days = 2\n"), Path::new("/")).unwrap()
    }

    #[test]
    fn the_authority_is_kept_sealed_goes_on_after_a_start_and_begins_anew_for_another_trust_domain() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        crate::place::prepare(&data).unwrap();
        let sealer = bailiwick_credentials::RootKey::generate().unwrap().0.sealer().unwrap();
        let now = Timestamp::from_seconds(1_795_000_000);
        let open = |domain: &str, now| {
            let config = config(domain);
            load_or_begin(&config, config.spiffe.as_ref().unwrap(), &data, &sealer, now).unwrap()
        };
        let first = open("td", now);
        let again = open("td", now.plus(Duration::from_secs(3600)));
        assert_eq!(first.bundle(REFRESH_HINT), again.bundle(REFRESH_HINT));
        let later = open("td", now.plus(Duration::from_secs(36 * 3600)));
        assert_eq!(later.roots().len(), 2);
        assert!(later.sequence() > first.sequence());
        let other = open("other", now.plus(Duration::from_secs(36 * 3600)));
        assert!(other.sequence() > later.sequence() && !other.roots().contains(&later.roots()[0]));
        let file = std::fs::read(data.join("keys/spiffe-authority.sealed")).unwrap();
        let kept = other.to_bytes().unwrap();
        assert!(!file.windows(64).any(|window| kept.windows(64).any(|part| part == window)));
        std::fs::write(data.join("keys/spiffe-authority.sealed"), b"x").unwrap();
        let config = config("other");
        assert!(load_or_begin(&config, config.spiffe.as_ref().unwrap(), &data, &sealer, now).is_err());
    }
}
