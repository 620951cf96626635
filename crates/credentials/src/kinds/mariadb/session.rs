//! Connections: the broker's own, kept while they are idle, and the tries to log in as an account.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder, Row, SslOpts, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::sql::{Failure, name_literal};
use crate::Secret;
use crate::lease::{AccountName, Node, Step, TargetCode, TargetError};

const OPEN_MAX: Duration = Duration::from_secs(8);
const RUN_MAX: Duration = Duration::from_secs(25);
const IDLE_MAX: usize = 4;
/// How many sessions of ours a node bears at once, and as many tries to log in. Whoever comes later waits.
const AT_ONCE_MAX: usize = 8;
/// How long a lock by name is waited for, in seconds.
const LOCK_WAIT: u32 = 3;

/// What holds in each session of the broker. Without `NO_AUTO_CREATE_USER`, a late `GRANT` would make an account.
pub(in crate::kinds) const SETTINGS: &str = "SET SESSION sql_mode = 'NO_AUTO_CREATE_USER,NO_BACKSLASH_ESCAPES', lock_wait_timeout = 3, innodb_lock_wait_timeout = 3, \
                        max_statement_time = 20";

/// The way into one node with the broker's own account.
pub(super) struct Door {
    node: Node,
    user: String,
    secret: Arc<Secret>,
    idle: Mutex<Vec<Session>>,
    ours: Arc<Semaphore>,
    tries: Arc<Semaphore>,
}

impl Door {
    pub(super) fn new(node: Node, user: &str, secret: Arc<Secret>) -> Self {
        Self {
            node,
            user: user.to_owned(),
            secret,
            idle: Mutex::new(Vec::new()),
            ours: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            tries: Arc::new(Semaphore::new(AT_ONCE_MAX)),
        }
    }

    pub(super) fn name(&self) -> &str {
        self.node.name()
    }

    /// A session of ours; an idle one if there is one that still answers.
    pub(super) async fn take(&self, step: Step) -> Result<Session, TargetError> {
        let turn = turn(&self.ours).await;
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        while let Some(mut session) = idle() {
            // The client does not notice that the server hung up, so it is asked.
            if session.column(step, "SELECT 1").await.is_ok() {
                return Ok(Session { _turn: turn, ..session });
            }
        }
        Ok(Session { _turn: turn, ..self.take_new(step).await? })
    }

    /// A new session: with the rights that the broker has now.
    pub(super) async fn take_new(&self, step: Step) -> Result<Session, TargetError> {
        let opened = open(&self.node, &self.user, &self.secret).await;
        let mut session = opened.map_err(|failure| failure.target(Step::Connect, self.name()))?;
        session.run(step, SETTINGS).await?;
        Ok(session)
    }

    /// Keeps a session for the next call: only one whose call came to its end, so that it holds no lock and no half answer.
    pub(super) fn put_back(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(Session { _turn: None, ..session });
        }
    }

    /// Forgets idle sessions: a session keeps the rights that it began with.
    pub(super) fn forget_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Tries to log in as an account.
    pub(super) async fn try_login(&self, name: &AccountName, secret: &Secret) -> Result<Session, Failure> {
        let turn = turn(&self.tries).await;
        Ok(Session { _turn: turn, ..open(&self.node, name.as_str(), secret).await? })
    }
}

/// One open connection.
pub(in crate::kinds) struct Session {
    connection: Conn,
    node: String,
    /// The place that it takes on its node; an idle one takes none.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Session {
    /// Runs a statement and gives the first column of its rows, without NULLs.
    pub(super) async fn column(&mut self, step: Step, sql: &str) -> Result<Vec<String>, TargetError> {
        let node = self.node.clone();
        self.ask(sql).await.map_err(|failure| failure.target(step, &node))
    }

    /// Runs statements that have no rows.
    pub(super) async fn run(&mut self, step: Step, sql: &str) -> Result<(), TargetError> {
        let node = self.node.clone();
        self.execute(sql).await.map_err(|failure| failure.target(step, &node))
    }

    /// As [`Session::column`], for a caller that tells the failures apart.
    pub(in crate::kinds) async fn ask(&mut self, sql: &str) -> Result<Vec<String>, Failure> {
        // Rows and not strings: the client panics on a row that has another form than it was told.
        let asking = self.connection.query::<Row, _>(sql);
        let rows = tokio::time::timeout(RUN_MAX, asking).await.map_err(|_| Failure::lost("no answer within 25 seconds"))??;
        Ok(rows.iter().filter_map(first_column).collect())
    }

    /// As [`Session::run`], for a caller that tells the failures apart.
    pub(in crate::kinds) async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        let running = self.connection.query_drop(sql);
        Ok(tokio::time::timeout(RUN_MAX, running).await.map_err(|_| Failure::lost("no answer within 25 seconds"))??)
    }

    /// Is the node a replica that takes no writes from us?
    pub(in crate::kinds) async fn read_only(&mut self, step: Step) -> Result<bool, TargetError> {
        Ok(self.column(step, "SELECT @@global.read_only").await?.first().is_none_or(|read_only| read_only != "0"))
    }

    /// Takes the lock of an account's name; `false` if another session holds on to it.
    pub(super) async fn lock(&mut self, step: Step, name: &AccountName) -> Result<bool, TargetError> {
        let got = self.column(step, &format!("SELECT GET_LOCK({}, {LOCK_WAIT})", lock_name(name))).await?;
        Ok(got.first().is_some_and(|got| got == "1"))
    }

    pub(super) async fn unlock(&mut self, step: Step, name: &AccountName) -> Result<(), TargetError> {
        self.column(step, &format!("SELECT RELEASE_LOCK({})", lock_name(name))).await.map(drop)
    }

    /// Ends the session that holds the lock of this name, if one does.
    pub(super) async fn break_lock(&mut self, step: Step, name: &AccountName) -> Result<TargetError, TargetError> {
        let holder = self.column(step, &format!("SELECT IS_USED_LOCK({})", lock_name(name))).await?;
        if let Some(id) = holder.first().and_then(|id| id.parse::<u64>().ok()) {
            self.kill(step, id).await?;
        }
        Ok(TargetError::new(TargetCode::Busy, step, &self.node, "a mint of this name hung; its session was ended"))
    }

    /// Ends one session, whatever it does.
    pub(in crate::kinds) async fn kill(&mut self, step: Step, id: u64) -> Result<(), TargetError> {
        match self.execute(&format!("KILL HARD CONNECTION {id}")).await {
            Ok(()) => Ok(()),
            Err(failure) if failure.is(super::sql::NO_SUCH_THREAD) => Ok(()),
            Err(failure) => Err(failure.target(step, &self.node)),
        }
    }
}

/// As text; `None` is NULL. What we ask for is answered in text.
fn first_column(row: &Row) -> Option<String> {
    match row.as_ref(0)? {
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::Int(number) => Some(number.to_string()),
        Value::UInt(number) => Some(number.to_string()),
        _ => None,
    }
}

fn lock_name(name: &AccountName) -> String {
    name_literal(&format!("bailiwick.{name}"))
}

/// Waits for a place. (The semaphores are never closed.)
async fn turn(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(places).acquire_owned().await.ok()
}

pub(in crate::kinds) async fn open(node: &Node, user: &str, secret: &Secret) -> Result<Session, Failure> {
    let password = str::from_utf8(secret.expose()).map_err(|_| Failure::lost("the password is no UTF-8"))?.to_owned();
    let mut options = OptsBuilder::default()
        .user(Some(user))
        .pass(Some(password))
        .stmt_cache_size(0)
        .prefer_socket(false)
        .max_allowed_packet(Some(1 << 20))
        .wait_timeout(Some(3600))
        .tcp_keepalive(Some(Duration::from_secs(15)))
        .connect_attribute("program_name", "bailiwick");
    options =
        if node.host().starts_with('/') { options.socket(Some(node.host())) } else { options.ip_or_hostname(node.host()).tcp_port(node.port()) };
    if let Some(trust) = node.tls() {
        let roots = SslOpts::default().with_root_certs(vec![trust.pem().to_vec().into()]).with_disable_built_in_roots(true);
        options = options.ssl_opts(Some(roots));
    }
    let connecting = Conn::new(options);
    let connection = tokio::time::timeout(OPEN_MAX, connecting).await.map_err(|_| Failure::lost("no answer within 8 seconds"))??;
    Ok(Session { connection, node: node.name().to_owned(), _turn: None })
}
