//! A private server with a shop, and the broker's account as the guide makes it.

use std::time::Duration;

use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::mariadb::{Mariadb, SETUP, Settings};
use bailiwick_credentials::lease::{AccountName, Node};
use bailiwick_testkit::servers::mariadb::Mariadb as Server;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error, OptsBuilder};

use crate::words::{PASSWORD, clock};

const BROKER: &str = "broker-password";

/// Once, by root.
const BEGIN: &str = "
    CREATE USER broker@'%' IDENTIFIED BY 'broker-password';
    GRANT CREATE USER, CONNECTION ADMIN, PROCESS ON *.* TO broker@'%';
    GRANT SELECT (User, Host) ON mysql.user TO broker@'%';
    CREATE DATABASE shop;
    CREATE TABLE shop.orders (id int PRIMARY KEY, note text);
    INSERT INTO shop.orders SELECT seq, 'note' FROM shop_seq;
    CREATE ROLE orders_ro; GRANT SELECT ON shop.* TO orders_ro; GRANT orders_ro TO broker@'%' WITH ADMIN OPTION;
    CREATE ROLE orders_rw; GRANT ALL PRIVILEGES ON shop.* TO orders_rw; GRANT orders_rw TO broker@'%' WITH ADMIN OPTION;";

pub(crate) struct World {
    pub(crate) server: Server,
}

impl World {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(options: &[&str]) -> Self {
        let server = Server::start(options).unwrap();
        server.sql(&BEGIN.replace("SELECT seq, 'note' FROM shop_seq", "SELECT 1, 'note' UNION SELECT 2, 'note'")).unwrap();
        let world = Self { server };
        world.default_role();
        world
    }

    /// The procedure that gives an account its role, as preflight tells the administrator to make it.
    pub(crate) fn default_role(&self) {
        self.sql(&format!("DELIMITER //\n{SETUP}//\nDELIMITER ;\nGRANT EXECUTE ON PROCEDURE bailiwick.default_role TO broker@'%';"));
    }

    /// A broker that has just been started.
    pub(crate) fn broker(&self) -> Mariadb {
        broker(vec![node("primary", &self.server)])
    }

    pub(crate) fn sql(&self, statements: &str) -> String {
        self.server.sql(statements).unwrap()
    }

    /// Everything on the server that has a name of ours.
    pub(crate) fn left(&self) -> String {
        self.sql(
            "SELECT 'user', User FROM mysql.user WHERE User LIKE 'ag%\\_%';
             SELECT 'role', User FROM mysql.roles_mapping WHERE User LIKE 'ag%\\_%';
             SELECT 'db', User FROM mysql.db WHERE User LIKE 'ag%\\_%';
             SELECT 'session', id FROM information_schema.processlist WHERE user LIKE 'ag%\\_%'",
        )
    }
}

pub(crate) fn settings(nodes: Vec<Node>) -> Settings {
    Settings {
        nodes,
        user: "broker".into(),
        roles: vec!["orders_ro".into(), "orders_rw".into()],
        connections: 2,
        statement_timeout: Duration::from_secs(30),
    }
}

pub(crate) fn broker(nodes: Vec<Node>) -> Mariadb {
    Mariadb::new(settings(nodes), Secret::from(BROKER.to_owned()), clock()).unwrap()
}

pub(crate) fn node(name: &str, server: &Server) -> Node {
    Node::new(name, "127.0.0.1", server.port(), None).unwrap()
}

/// A session as an agent would open one; `Err` is the server's number, or 0 if the connection was lost.
pub(crate) async fn log_in(server: &Server, name: &AccountName) -> Result<Conn, u16> {
    log_in_with(server, name.as_str(), PASSWORD).await
}

pub(crate) async fn log_in_with(server: &Server, user: &str, password: &str) -> Result<Conn, u16> {
    let options =
        OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(server.port()).user(Some(user)).pass(Some(password)).prefer_socket(false);
    Conn::new(options).await.map_err(number)
}

/// The first column of the first row, or the server's number; 0 if the session was ended.
pub(crate) async fn ask(client: &mut Conn, sql: &str) -> Result<String, u16> {
    let row: Option<Option<String>> = client.query_first(sql).await.map_err(number)?;
    Ok(row.flatten().unwrap_or_default())
}

fn number(error: Error) -> u16 {
    match error {
        // Connection was killed: the server's last word.
        Error::Server(refusal) if refusal.code == 1927 => 0,
        Error::Server(refusal) => refusal.code,
        _ => 0,
    }
}
