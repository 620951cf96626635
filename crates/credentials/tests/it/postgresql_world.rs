//! A private cluster with a shop, and the broker's role as the guide makes it.

use std::time::Duration;

use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::postgresql::{Postgresql, Settings};
use bailiwick_credentials::lease::{AccountName, Node};
use bailiwick_testkit::servers::postgres::Postgres;
use tokio_postgres::{Client, Config, NoTls};

use crate::words::{PASSWORD, clock};

const BROKER: &str = "broker-password";

/// Once, by the cluster's superuser.
const SETUP: &str = "
    CREATE ROLE broker LOGIN CREATEROLE PASSWORD 'broker-password';
    GRANT pg_signal_backend TO broker;
    CREATE ROLE grp_orders_ro NOLOGIN;
    CREATE ROLE grp_orders_rw NOLOGIN;
    GRANT grp_orders_ro, grp_orders_rw TO broker WITH ADMIN OPTION;";
const SHOP: &str = "
    CREATE SCHEMA app;
    CREATE TABLE app.orders (id int PRIMARY KEY, note text);
    INSERT INTO app.orders SELECT n, 'note' FROM generate_series(1, 100) n;
    GRANT USAGE ON SCHEMA app TO grp_orders_ro, grp_orders_rw;
    GRANT CREATE ON SCHEMA app TO grp_orders_rw;
    GRANT SELECT ON app.orders TO grp_orders_ro;
    GRANT SELECT, INSERT, UPDATE, DELETE ON app.orders TO grp_orders_rw;";

pub(crate) struct World {
    pub(crate) primary: Postgres,
}

impl World {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(options: &[&str]) -> Self {
        let primary = Postgres::start(options).unwrap();
        primary.sql("postgres", SETUP).unwrap();
        primary.sql("postgres", "CREATE DATABASE shop").unwrap();
        primary.sql("shop", SHOP).unwrap();
        Self { primary }
    }

    /// A broker that has just been started.
    pub(crate) fn broker(&self) -> Postgresql {
        broker(vec![node("primary", &self.primary)])
    }

    pub(crate) fn sql(&self, statements: &str) -> String {
        self.primary.sql("shop", statements).unwrap()
    }

    /// Everything in the cluster that has a name of ours, or belongs to a role that is gone.
    pub(crate) fn left(&self) -> String {
        self.sql(
            "SELECT 'role ' || rolname FROM pg_roles WHERE rolname LIKE 'ag\\_%';
             SELECT 'member ' || member FROM pg_auth_members m LEFT JOIN pg_roles r ON r.oid = m.member LEFT JOIN pg_roles g ON g.oid = m.roleid
                WHERE r.oid IS NULL OR g.oid IS NULL;
             SELECT 'setting ' || setrole FROM pg_db_role_setting LEFT JOIN pg_roles r ON r.oid = setrole WHERE setrole <> 0 AND r.oid IS NULL;
             SELECT 'comment ' || objoid FROM pg_shdescription LEFT JOIN pg_roles r ON r.oid = objoid
                WHERE classoid = 'pg_authid'::regclass AND r.oid IS NULL;
             SELECT 'depends ' || refobjid FROM pg_shdepend LEFT JOIN pg_roles r ON r.oid = refobjid
                WHERE refclassid = 'pg_authid'::regclass AND refobjid <> 0 AND r.oid IS NULL;
             SELECT 'prepared ' || gid FROM pg_prepared_xacts;
             SELECT 'session ' || pid FROM pg_stat_activity WHERE usesysid IS NOT NULL AND usename IS NULL;
             SELECT 'session ' || pid FROM pg_stat_activity WHERE usename LIKE 'ag\\_%';",
        )
    }
}

pub(crate) fn settings(nodes: Vec<Node>) -> Settings {
    Settings {
        nodes,
        database: "shop".into(),
        user: "broker".into(),
        groups: vec!["grp_orders_ro".into(), "grp_orders_rw".into()],
        connections: 2,
        statement_timeout: Duration::from_secs(30),
        cascade: false,
    }
}

pub(crate) fn broker(nodes: Vec<Node>) -> Postgresql {
    of(settings(nodes))
}

pub(crate) fn of(settings: Settings) -> Postgresql {
    Postgresql::new(settings, Secret::from(BROKER.to_owned()), clock()).unwrap()
}

pub(crate) fn node(name: &str, server: &Postgres) -> Node {
    Node::new(name, "127.0.0.1", server.port(), None).unwrap()
}

/// A session as an agent would open one; `Err` has the server's code.
pub(crate) async fn log_in(server: &Postgres, name: &AccountName, database: &str) -> Result<Client, String> {
    log_in_with(server, name, database, PASSWORD).await
}

pub(crate) async fn log_in_with(server: &Postgres, name: &AccountName, database: &str, password: &str) -> Result<Client, String> {
    let mut config = Config::new();
    config.host("127.0.0.1").port(server.port()).user(name.as_str()).password(password).dbname(database);
    let (client, connection) = config.connect(NoTls).await.map_err(|error| error.code().map_or(error.to_string(), |code| code.code().to_owned()))?;
    tokio::spawn(connection);
    Ok(client)
}

/// The first column of the first row, or the server's code; `closed` if the session was ended.
pub(crate) async fn ask(client: &Client, sql: &str) -> Result<String, String> {
    // The server's last words may arrive before the end of the connection does.
    let closed = |code: &str| if code == "57P01" { "closed".to_owned() } else { code.to_owned() };
    let messages = client.simple_query(sql).await.map_err(|error| closed(error.code().map_or("closed", |code| code.code())))?;
    Ok(messages
        .iter()
        .find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .unwrap_or_default())
}
