//! Connections: the broker's own, kept while they are idle, and the tries to log in as an account.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::sql::{Failure, Rows};
use super::tls::Tls;
use crate::Secret;
use crate::lease::{AccountName, Node, Step, TargetError};
use crate::sessions::postgresql::Tried;

const OPEN_MAX: Duration = Duration::from_secs(8);
const IDLE_MAX: usize = 4;
/// How many sessions of ours a node bears at once, and as many tries to log in. Whoever comes later waits.
const AT_ONCE_MAX: usize = 8;

/// What holds in each session of the broker. The search path keeps objects that an account made out of our statements.
pub(in crate::kinds) const OPTIONS: &str = "-c search_path=pg_catalog -c standard_conforming_strings=on -c lock_timeout=3000 -c statement_timeout=20000 \
                       -c idle_in_transaction_session_timeout=20000 -c synchronous_commit=on -c client_encoding=UTF8";

/// The way into one node with the broker's own role.
pub(super) struct Door {
    node: Node,
    user: String,
    database: String,
    secret: Arc<Secret>,
    idle: Mutex<Vec<Session>>,
    ours: Arc<Semaphore>,
    tries: Arc<Semaphore>,
}

impl Door {
    pub(super) fn new(node: Node, user: &str, database: &str, secret: Arc<Secret>) -> Self {
        Self {
            node,
            user: user.to_owned(),
            database: database.to_owned(),
            secret,
            idle: Mutex::new(Vec::new()),
            ours: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            tries: Arc::new(Semaphore::new(AT_ONCE_MAX)),
        }
    }

    pub(super) fn name(&self) -> &str {
        self.node.name()
    }

    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// A session of ours; an idle one if there is one.
    pub(super) async fn take(&self, step: Step) -> Result<Session, TargetError> {
        let turn = turn(&self.ours).await;
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        while let Some(session) = idle() {
            if !session.client.is_closed() {
                return Ok(Session { _turn: turn, ..session });
            }
        }
        Ok(Session { _turn: turn, ..self.take_at(step, &self.database).await? })
    }

    /// A session of ours in another database. It is not kept.
    pub(super) async fn take_at(&self, step: Step, database: &str) -> Result<Session, TargetError> {
        let opened = open(&self.node, &self.user, &self.secret, database, "bailiwick", OPTIONS).await;
        opened.map_err(|failure| failure.target(if step == Step::Mint { Step::Connect } else { step }, self.name()))
    }

    /// Keeps a session for the next call. One that is in a transaction, or in a state that nobody knows, is dropped instead: only
    /// a call that came to its end gives one back.
    pub(super) fn put_back(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(Session { _turn: None, ..session });
        }
    }

    /// Logs in as an account, by whichever way the server asks for.
    pub(super) async fn log_in(&self, name: &AccountName, secret: &Secret) -> Result<Session, Failure> {
        let turn = turn(&self.tries).await;
        Ok(Session { _turn: turn, ..open(&self.node, name.as_str(), secret, &self.database, "bailiwick verify", "").await? })
    }

    /// Tries to log in as an account that should not be let in. What opens all the same is closed at once.
    pub(super) async fn try_login(&self, name: &AccountName, secret: &Secret) -> Result<(), Failure> {
        let _turn = turn(&self.tries).await;
        match crate::sessions::postgresql::try_login(&self.node, name.as_str(), secret, &self.database).await {
            Tried::In => Ok(()),
            Tried::Refused { code, message, routine } => Err(Failure { state: Some(SqlState::from_code(&code)), message, routine }),
            // Roles of leases log in by SCRAM. A server that asks otherwise, or nothing at all, is asked by a client that knows each way.
            Tried::Neither => open(&self.node, name.as_str(), secret, &self.database, "bailiwick verify", "").await.map(drop),
        }
    }
}

/// One open connection.
pub(in crate::kinds) struct Session {
    client: Client,
    node: String,
    /// The place that it takes on its node; an idle one takes none.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Session {
    /// Runs a batch of statements and gives their rows.
    pub(super) async fn run(&self, step: Step, sql: &str) -> Result<Rows, TargetError> {
        self.ask(sql).await.map_err(|failure| failure.target(step, &self.node))
    }

    /// The same, for a caller that tells the failures apart.
    pub(in crate::kinds) async fn ask(&self, sql: &str) -> Result<Rows, Failure> {
        let mut rows = Rows::new();
        for message in self.client.simple_query(sql).await? {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|column| row.try_get(column).ok().flatten().map(str::to_owned)).collect());
            }
        }
        Ok(rows)
    }
}

/// Waits for a place. (The semaphores are never closed.)
async fn turn(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(places).acquire_owned().await.ok()
}

pub(in crate::kinds) async fn open(
    node: &Node,
    user: &str,
    secret: &Secret,
    database: &str,
    application: &str,
    options: &str,
) -> Result<Session, Failure> {
    let mut config = Config::new();
    config.host(node.host()).port(node.port()).user(user).password(secret.expose()).dbname(database).application_name(application);
    config.connect_timeout(OPEN_MAX).keepalives_idle(Duration::from_secs(15)).tcp_user_timeout(Duration::from_secs(15));
    if !options.is_empty() {
        config.options(options);
    }
    let connecting = async {
        Ok::<_, tokio_postgres::Error>(match node.tls() {
            Some(trust) => {
                config.ssl_mode(SslMode::Require);
                let (client, connection) = config.connect(Tls(trust.client())).await?;
                tokio::spawn(connection);
                client
            }
            None => {
                config.ssl_mode(SslMode::Disable);
                let (client, connection) = config.connect(NoTls).await?;
                tokio::spawn(connection);
                client
            }
        })
    };
    let client = tokio::time::timeout(OPEN_MAX, connecting).await.map_err(|_| Failure::lost("no answer within 8 seconds"))??;
    Ok(Session { client, node: node.name().to_owned(), _turn: None })
}
