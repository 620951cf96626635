//! Accounts that were there before us, on private servers, and a memory of the house that outlives a kill.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bailiwick_credentials::kinds::checkout::target::Target;
use bailiwick_credentials::kinds::checkout::{Checkout, Legacy, Settings, mariadb, postgresql};
use bailiwick_credentials::lease::rotation::{Custody, Kept, Phase, Rotation, RotationError, Truth};
use bailiwick_credentials::lease::{Account, AccountName, Minted, Node, Plan, TargetIds};
use bailiwick_credentials::{RootKey, Sealer, Secret};
use bailiwick_testkit::servers::mariadb::Mariadb;
use bailiwick_testkit::servers::postgres::Postgres;

use crate::words::clock;

/// What a person set as the password of each account.
pub(crate) const BEFORE: &str = "set-by-a-person-1";

/// What the house keeps, sealed. Each step waits, so that a kill can come before it and after it.
#[derive(Debug)]
pub(crate) struct Memory {
    sealer: Sealer,
    rows: Mutex<BTreeMap<String, Row>>,
}

#[derive(Debug, Clone)]
struct Row {
    current: Vec<u8>,
    candidate: Option<Vec<u8>>,
    phase: Phase,
    revision: u64,
    holder: Option<AccountName>,
}

impl Memory {
    pub(crate) fn new(names: &[&str]) -> Arc<Self> {
        let memory = Self { sealer: RootKey::generate().unwrap().0.sealer().unwrap(), rows: Mutex::default() };
        for name in names {
            memory.set(name, BEFORE);
        }
        Arc::new(memory)
    }

    /// As a person does with `bailiwick secret set`.
    pub(crate) fn set(&self, name: &str, text: &str) {
        let current = self.seal(&Secret::from(text.to_owned()));
        let mut rows = self.rows.lock().unwrap();
        let before = rows.get(name).cloned();
        let (revision, holder) = before.map_or((0, None), |row| (row.revision + 1, row.holder));
        rows.insert(name.to_owned(), Row { current, candidate: None, phase: Phase::Settled, revision, holder });
    }

    /// A change that was begun, and cut off.
    pub(crate) fn open(&self, name: &str, candidate: &str) {
        let sealed = self.seal(&Secret::from(candidate.to_owned()));
        let mut rows = self.rows.lock().unwrap();
        let row = rows.get_mut(name).unwrap();
        (row.candidate, row.phase, row.revision) = (Some(sealed), Phase::Open, row.revision + 1);
    }

    pub(crate) fn current(&self, name: &str) -> String {
        self.open_text(&self.rows.lock().unwrap()[name].current)
    }

    pub(crate) fn phase(&self, name: &str) -> Phase {
        self.rows.lock().unwrap()[name].phase
    }

    pub(crate) fn has_candidate(&self, name: &str) -> bool {
        self.rows.lock().unwrap()[name].candidate.is_some()
    }

    pub(crate) fn whose(&self, name: &str) -> Option<AccountName> {
        self.rows.lock().unwrap()[name].holder.clone()
    }

    /// What is in a secret: only a sealer tells.
    pub(crate) fn plain(&self, secret: &Secret) -> String {
        self.open_text(&self.seal(secret))
    }

    fn seal(&self, secret: &Secret) -> Vec<u8> {
        self.sealer.seal("kept", secret).unwrap()
    }

    fn open_text(&self, sealed: &[u8]) -> String {
        String::from_utf8(self.sealer.open_bytes("kept", sealed).unwrap().to_vec()).unwrap()
    }

    fn step(&self, name: &str, seen: u64, change: impl FnOnce(&mut Row) -> bool) -> Result<u64, RotationError> {
        let mut rows = self.rows.lock().unwrap();
        let row = rows.get_mut(name).ok_or_else(|| RotationError::Unset(name.to_owned()))?;
        if row.revision != seen {
            return Err(RotationError::Moved(name.to_owned()));
        }
        if !change(row) {
            return Err(RotationError::Step(name.to_owned()));
        }
        row.revision += 1;
        Ok(row.revision)
    }
}

async fn wait() {
    tokio::task::yield_now().await;
}

#[async_trait::async_trait]
impl Rotation for Memory {
    async fn kept(&self, name: &str) -> Result<Kept, RotationError> {
        wait().await;
        let row = self.rows.lock().unwrap().get(name).cloned().ok_or_else(|| RotationError::Unset(name.to_owned()))?;
        let open = |sealed: &[u8]| self.sealer.open("kept", sealed).unwrap();
        Ok(Kept { current: open(&row.current), candidate: row.candidate.as_deref().map(open), phase: row.phase, revision: row.revision })
    }

    async fn begin(&self, name: &str, seen: u64, candidate: Option<&Secret>) -> Result<u64, RotationError> {
        wait().await;
        let sealed = candidate.map(|candidate| self.seal(candidate));
        let done = self.step(name, seen, |row| {
            let fits = row.phase == Phase::Settled || row.phase == Phase::Open && row.candidate.is_none() && sealed.is_some();
            if fits {
                (row.candidate, row.phase) = (sealed, Phase::Open);
            }
            fits
        });
        wait().await;
        done
    }

    async fn settle(&self, name: &str, seen: u64, truth: Truth) -> Result<u64, RotationError> {
        wait().await;
        let done = self.step(name, seen, |row| {
            if row.phase != Phase::Open || truth == Truth::Candidate && row.candidate.is_none() {
                return false;
            }
            match truth {
                Truth::Candidate => (row.current, row.phase) = (row.candidate.take().unwrap(), Phase::Settled),
                Truth::Current => (row.candidate, row.phase) = (None, Phase::Settled),
                Truth::Neither => row.phase = Phase::Lost,
            }
            true
        });
        wait().await;
        done
    }
}

#[async_trait::async_trait]
impl Custody for Memory {
    async fn holder(&self, name: &str) -> Result<Option<AccountName>, RotationError> {
        wait().await;
        self.rows.lock().unwrap().get(name).map(|row| row.holder.clone()).ok_or_else(|| RotationError::Unset(name.to_owned()))
    }

    async fn take(&self, name: &str, holder: &AccountName) -> Result<bool, RotationError> {
        wait().await;
        let taken = {
            let mut rows = self.rows.lock().unwrap();
            let row = rows.get_mut(name).ok_or_else(|| RotationError::Unset(name.to_owned()))?;
            row.holder.get_or_insert_with(|| holder.clone()) == holder
        };
        wait().await;
        Ok(taken)
    }

    async fn give_back(&self, name: &str, holder: &AccountName) -> Result<(), RotationError> {
        wait().await;
        {
            let mut rows = self.rows.lock().unwrap();
            let row = rows.get_mut(name).ok_or_else(|| RotationError::Unset(name.to_owned()))?;
            row.holder.take_if(|held| held == holder);
        }
        wait().await;
        Ok(())
    }
}

/// A server with the accounts `app` and `app2`, which know nothing of us.
pub(crate) enum World {
    Postgresql(Postgres),
    Mariadb(Mariadb),
}

/// A session as a task has one.
pub(crate) enum Open {
    Postgresql(tokio_postgres::Client),
    Mariadb(mysql_async::Conn),
}

impl Open {
    pub(crate) async fn is_alive(&mut self) -> bool {
        match self {
            Self::Postgresql(client) => crate::postgresql_world::ask(client, "SELECT 1").await.is_ok(),
            Self::Mariadb(client) => crate::mariadb_world::ask(client, "SELECT 1").await.is_ok(),
        }
    }

    pub(crate) async fn run(&mut self, sql: &str) {
        match self {
            Self::Postgresql(client) => drop(client.simple_query(sql).await.unwrap()),
            Self::Mariadb(client) => drop(crate::mariadb_world::ask(client, sql).await.unwrap()),
        }
    }
}

impl World {
    pub(crate) fn postgresql() -> Self {
        Self::postgresql_with(&[])
    }

    pub(crate) fn postgresql_with(options: &[&str]) -> Self {
        let server = Postgres::start(options).unwrap();
        for user in ["app", "app2"] {
            server.sql("postgres", &format!("CREATE ROLE {user} LOGIN PASSWORD '{BEFORE}'")).unwrap();
        }
        Self::Postgresql(server)
    }

    pub(crate) fn mariadb() -> Self {
        let server = Mariadb::start(&[]).unwrap();
        for user in ["app", "app2"] {
            server.sql(&format!("CREATE USER {user}@'%' IDENTIFIED BY '{BEFORE}'")).unwrap();
        }
        Self::Mariadb(server)
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        match self {
            Self::Postgresql(server) => server.sql("postgres", sql).unwrap(),
            Self::Mariadb(server) => server.sql(sql).unwrap(),
        }
    }

    pub(crate) fn log(&self) -> String {
        match self {
            Self::Postgresql(server) => server.log(),
            Self::Mariadb(server) => server.log(),
        }
    }

    pub(crate) fn stop(&mut self) {
        match self {
            Self::Postgresql(server) => server.stop().unwrap(),
            Self::Mariadb(server) => server.stop().unwrap(),
        }
    }

    pub(crate) fn run(&mut self) {
        match self {
            Self::Postgresql(server) => server.run().unwrap(),
            Self::Mariadb(server) => server.run().unwrap(),
        }
    }

    /// As the administrator does behind our back.
    pub(crate) fn set_password(&self, user: &str, password: &str) {
        match self {
            Self::Postgresql(_) => self.sql(&format!("ALTER ROLE {user} PASSWORD '{password}'")),
            Self::Mariadb(_) => self.sql(&format!("SET PASSWORD FOR {user}@'%' = PASSWORD('{password}')")),
        };
    }

    pub(crate) async fn log_in(&self, user: &str, password: &str) -> Option<Open> {
        match self {
            Self::Postgresql(server) => log_in_at(server, user, password).await.map(Open::Postgresql),
            Self::Mariadb(server) => crate::mariadb_world::log_in_with(server, user, password).await.ok().map(Open::Mariadb),
        }
    }

    pub(crate) fn target(&self) -> Arc<dyn Target> {
        match self {
            Self::Postgresql(server) => of_postgresql(&[("primary", server)]),
            Self::Mariadb(server) => {
                Arc::new(mariadb::Mariadb { nodes: vec![Node::new("primary", "127.0.0.1", server.port(), None).unwrap()], plain: false })
            }
        }
    }

    /// A broker that has just been started.
    pub(crate) fn broker(&self, memory: &Arc<Memory>) -> Checkout {
        broker(self.target(), memory, &["app", "app2"])
    }
}

pub(crate) async fn log_in_at(server: &Postgres, user: &str, password: &str) -> Option<tokio_postgres::Client> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(server.port()).user(user).password(password).dbname("postgres");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}

pub(crate) fn of_postgresql(servers: &[(&str, &Postgres)]) -> Arc<dyn Target> {
    let nodes = servers.iter().map(|(name, server)| Node::new(name, "127.0.0.1", server.port(), None).unwrap()).collect();
    Arc::new(postgresql::Postgresql { nodes, database: "postgres".to_owned(), plain: false })
}

pub(crate) fn broker(target: Arc<dyn Target>, memory: &Arc<Memory>, users: &[&str]) -> Checkout {
    let accounts = users.iter().map(|user| Legacy { user: (*user).to_owned(), secret: (*user).to_owned() }).collect();
    Checkout::new(Settings { accounts, password_chars: 43 }, target, Arc::clone(memory) as _, clock()).unwrap()
}

/// What is remembered of a lease after an orderly mint.
pub(crate) fn remembered(plan: &Plan, minted: Minted) -> Account {
    Account { name: plan.name.clone(), ids: minted.ids, secret: minted.secret, expires_at: None }
}

/// What is remembered if we were killed before the mint's answer was written down.
pub(crate) fn only_intent(plan: &Plan) -> Account {
    Account { name: plan.name.clone(), ids: TargetIds::default(), secret: None, expires_at: None }
}
