//! Clouds on this machine, an agent that uses what it was given, and a house that keeps refresh tokens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bailiwick_credentials::kinds::web::Endpoint;
use bailiwick_credentials::lease::rotation::{Kept, Phase, Rotation, RotationError, Truth};
use bailiwick_credentials::lease::{Account, Ending, Minted, Plan, Step, TargetIds};
use bailiwick_credentials::{Injection, Part, RootKey, Secret};
use bailiwick_testkit::clouds::Cloud;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) fn endpoint(cloud: &Cloud, name: &str, path: &str) -> Endpoint {
    Endpoint::new(name, &cloud.url(path), None).unwrap()
}

/// What is kept of a lease, and its credential as the agent's system would be given it.
pub(crate) struct Leased {
    pub(crate) account: Account,
    pub(crate) value: String,
}

pub(crate) fn leased(plan: &Plan, minted: Minted) -> Leased {
    let mut injection = Injection::default();
    injection.add_header("x-credential", Part::secret(minted.secret.unwrap())).unwrap();
    let mut value = String::new();
    injection.headers(|_, text| value = text.to_owned());
    let secret = Some(Secret::from(value.clone()));
    Leased { account: Account { name: plan.name.clone(), ids: minted.ids, secret, expires_at: minted.expires_at }, value }
}

/// What is known if we were killed before the mint's answer was written down: the name, and that the system makes the secret.
pub(crate) fn only_name(plan: &Plan) -> Account {
    Account { name: plan.name.clone(), ids: TargetIds::default(), secret: None, expires_at: None }
}

/// It ended like this, its evidence has these words, and nothing of it gives the credential away.
#[track_caller]
pub(crate) fn assert_ended(ending: &Ending, word: &str, words: &str, secret: &str) {
    assert_eq!(ending.word(), word, "{ending:#?}");
    let seen = ending.evidence().tried().iter().any(|tried| tried.saw.contains(words));
    assert!(seen, "nothing says `{words}`: {ending:#?}");
    assert!(!format!("{ending:?}").contains(secret), "{ending:#?}");
    if word == "revoked-verified" {
        assert!(ending.evidence().tried().iter().any(|tried| tried.step == Step::Verify), "{ending:#?}");
    }
}

/// A connection that stays open, as an agent has one.
pub(crate) struct Agent(TcpStream);

impl Agent {
    pub(crate) async fn connect(cloud: &Cloud) -> Self {
        Self(TcpStream::connect(cloud.authority()).await.unwrap())
    }

    /// The status.
    pub(crate) async fn get(&mut self, path: &str, token: &str) -> u16 {
        let request = format!("GET {path} HTTP/1.1\r\nhost: cloud\r\nuser-agent: agent\r\nauthorization: Bearer {token}\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        loop {
            let mut bytes = [0; 4096];
            let length = self.0.read(&mut bytes).await.unwrap();
            answer.extend_from_slice(&bytes[..length]);
            let text = String::from_utf8_lossy(&answer).to_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let expected: usize = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            if body.len() >= expected || length == 0 {
                return head.split(' ').nth(1).unwrap().parse().unwrap();
            }
        }
    }
}

/// What is kept of one refresh token.
struct Row {
    current: String,
    candidate: Option<String>,
    phase: Phase,
    revision: u64,
}

/// A house's store, which outlives brokers, and can fail.
#[derive(Default)]
pub(crate) struct Keep {
    rows: Mutex<BTreeMap<String, Row>>,
    failures: Mutex<usize>,
}

impl std::fmt::Debug for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keep(..)")
    }
}

impl Keep {
    /// As a person sets it.
    pub(crate) fn set(&self, name: &str, token: &str) {
        let mut rows = self.rows.lock().unwrap();
        let revision = rows.get(name).map_or(0, |row| row.revision) + 1;
        rows.insert(name.to_owned(), Row { current: token.to_owned(), candidate: None, phase: Phase::Settled, revision });
    }

    pub(crate) fn with(name: &str, token: &str) -> Arc<Self> {
        let keep = Arc::new(Self::default());
        keep.set(name, token);
        keep
    }

    /// The next so many writes fail, half of them after they were done.
    pub(crate) fn fail(&self, writes: usize) {
        *self.failures.lock().unwrap() = writes;
    }

    pub(crate) fn phase(&self, name: &str) -> Phase {
        self.rows.lock().unwrap()[name].phase
    }

    /// Every token that is kept.
    pub(crate) fn tokens(&self) -> Vec<String> {
        self.rows.lock().unwrap().values().flat_map(|row| [Some(row.current.clone()), row.candidate.clone()]).flatten().collect()
    }

    fn step(&self, name: &str, seen: u64, change: impl FnOnce(&mut Row) -> bool) -> Result<u64, RotationError> {
        let failed = || Err(RotationError::Store(name.to_owned(), "the disk is full".to_owned()));
        let mut failures = self.failures.lock().unwrap();
        let fails = *failures;
        *failures = failures.saturating_sub(1);
        if fails % 2 == 1 {
            return failed();
        }
        let mut rows = self.rows.lock().unwrap();
        let row = rows.get_mut(name).ok_or_else(|| RotationError::Unset(name.to_owned()))?;
        if row.revision != seen {
            return Err(RotationError::Moved(name.to_owned()));
        }
        if !change(row) {
            return Err(RotationError::Step(name.to_owned()));
        }
        row.revision += 1;
        if fails > 0 { failed() } else { Ok(row.revision) }
    }
}

fn text(secret: &Secret) -> String {
    // A secret cannot be read from outside, but it can be injected.
    let mut injection = Injection::default();
    let mut value = String::new();
    let sealer = RootKey::generate().unwrap().0.sealer().unwrap();
    let sealed = sealer.seal("test", secret).unwrap();
    injection.add_header("x", Part::secret(sealer.open("test", &sealed).unwrap())).unwrap();
    injection.headers(|_, text| value = text.to_owned());
    value
}

#[async_trait::async_trait]
impl Rotation for Keep {
    async fn kept(&self, name: &str) -> Result<Kept, RotationError> {
        tokio::task::yield_now().await;
        let rows = self.rows.lock().unwrap();
        let row = rows.get(name).ok_or_else(|| RotationError::Unset(name.to_owned()))?;
        let candidate = row.candidate.clone().map(Secret::from);
        Ok(Kept { current: Secret::from(row.current.clone()), candidate, phase: row.phase, revision: row.revision })
    }

    async fn begin(&self, name: &str, seen: u64, candidate: Option<&Secret>) -> Result<u64, RotationError> {
        tokio::task::yield_now().await;
        self.step(name, seen, |row| {
            let first = row.phase == Phase::Settled;
            let second = row.phase == Phase::Open && row.candidate.is_none() && candidate.is_some();
            if first || second {
                (row.phase, row.candidate) = (Phase::Open, candidate.map(text));
            }
            first || second
        })
    }

    async fn settle(&self, name: &str, seen: u64, truth: Truth) -> Result<u64, RotationError> {
        tokio::task::yield_now().await;
        self.step(name, seen, |row| {
            if row.phase != Phase::Open {
                return false;
            }
            match (truth, row.candidate.take()) {
                (Truth::Candidate, None) => return false,
                (Truth::Candidate, Some(candidate)) => (row.current, row.phase) = (candidate, Phase::Settled),
                (Truth::Current, _) => row.phase = Phase::Settled,
                (Truth::Neither, candidate) => (row.candidate, row.phase) = (candidate, Phase::Lost),
            }
            true
        })
    }
}
