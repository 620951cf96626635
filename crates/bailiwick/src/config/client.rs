//! The MCP client configuration that people already have, read so that every server in it comes under control in one step.
//!
//! Read: `mcpServers` (Claude Code, Claude Desktop, Cursor) and `servers` (VS Code), with `command`/`args`/`env` or `url`/`headers`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bailiwick_core::SystemName;
use serde::Deserialize;

use super::ConfigError;

/// One server of the file, with its secrets apart.
#[derive(Debug)]
pub struct ClientServer {
    /// The system's name: the server's name as a slug.
    pub name: SystemName,
    /// Program and arguments, or URL.
    pub reached: Reached,
    /// Values that move into the sealed store: the secret's name, the variable or header that it fills, the value.
    secrets: Vec<(String, String, String)>,
}

/// How a server is reached.
#[derive(Debug)]
pub enum Reached {
    /// A child process.
    Command {
        /// The program.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// Its working directory.
        cwd: Option<String>,
    },
    /// Streamable HTTP.
    Url(String),
}

/// A client configuration file, read.
#[derive(Debug)]
pub struct ClientFile {
    /// The servers, by name.
    pub servers: Vec<ClientServer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Root {
    mcp_servers: Option<BTreeMap<String, Entry>>,
    servers: Option<BTreeMap<String, Entry>>,
    mcp: Option<Box<Root>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    command: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, serde_json::Value>,
    cwd: Option<String>,
    url: Option<String>,
    server_url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    disabled: bool,
}

impl ClientFile {
    /// Reads a file's text. `${VAR}`, `${env:VAR}` and `${VAR:-default}` are filled by `environment`.
    ///
    /// # Errors
    /// Says which server and field is at fault; nothing is taken over then.
    pub fn parse(name: &str, text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let root: Root = serde_json::from_str(&without_comments(text)).map_err(|e| {
            let at = offset(text, e.line(), e.column());
            ConfigError::at(name, text, at..at.saturating_add(1), e.to_string(), "expected the JSON that an MCP client reads, with `mcpServers`")
        })?;
        let fault = |what: String, hint: &str| ConfigError::at(name, text, 0..1, what, hint);
        let root = match root.mcp {
            Some(inner) if root.mcp_servers.is_none() && root.servers.is_none() => *inner,
            Some(_) | None => root,
        };
        let Some(entries) = root.mcp_servers.or(root.servers) else {
            return Err(fault("found neither `mcpServers` nor `servers`".to_owned(), "give the file that your MCP client reads"));
        };
        let mut servers: Vec<ClientServer> = Vec::new();
        for (given, entry) in entries.into_iter().filter(|(_, e)| !e.disabled) {
            let server = server(&given, entry, &environment)
                .map_err(|what| fault(format!("server `{given}`: {what}"), "correct it there; nothing was changed"))?;
            if servers.iter().any(|s| s.name == server.name) {
                return Err(fault(format!("two servers would both be called `{}`", server.name), "rename one of them"));
            }
            if matches!(&server.reached, Reached::Command { args, .. } if args.iter().any(|a| a == "connect")) && given == "bailiwick" {
                return Err(fault("this file already goes through Bailiwick".to_owned(), "give the original file"));
            }
            servers.push(server);
        }
        if servers.is_empty() {
            return Err(fault("there is no server in the file".to_owned(), "give the file that your MCP client reads"));
        }
        Ok(Self { servers })
    }

    /// The secrets of all servers: the name under which each is sealed, and its value.
    pub fn secrets(&self) -> impl Iterator<Item = (&str, &str)> {
        self.servers.iter().flat_map(|s| s.secrets.iter().map(|(name, _, value)| (name.as_str(), value.as_str())))
    }

    /// The `[systems]` part of a configuration that names these servers, without any secret.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let quote = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut out = String::new();
        for server in &self.servers {
            let _ = writeln!(out, "\n[systems.{}]", server.name);
            let field = match &server.reached {
                Reached::Command { command, args, cwd } => {
                    let args: Vec<String> = args.iter().map(|a| quote(a)).collect();
                    let _ = writeln!(out, "command = {}\nargs = [{}]", quote(command), args.join(", "));
                    if let Some(cwd) = cwd {
                        let _ = writeln!(out, "cwd = {}", quote(cwd));
                    }
                    "imported_env"
                }
                Reached::Url(url) => {
                    let _ = writeln!(out, "url = {}", quote(url));
                    "imported_headers"
                }
            };
            if !server.secrets.is_empty() {
                let pairs: Vec<String> = server.secrets.iter().map(|(name, to, _)| format!("{} = {}", quote(to), quote(name))).collect();
                let _ = writeln!(out, "{field} = {{ {} }}", pairs.join(", "));
            }
            let _ = writeln!(out, "# Nobody said whose words its answers are: a task that reads one is marked, and policy reads the mark.");
            let _ = writeln!(out, "labels = [\"untrusted\"]");
            let _ = writeln!(out, "# The effect proposed from a tool's name and annotations applies; name a tool under `effects` to say otherwise.");
            let _ = writeln!(out, "unclassified = \"propose\"");
        }
        out
    }
}

fn server(given: &str, entry: Entry, environment: &impl Fn(&str) -> Option<String>) -> Result<ClientServer, String> {
    let slug: String = given.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
    let name: SystemName =
        slug.trim_matches('-').chars().take(40).collect::<String>().parse().map_err(|e: bailiwick_core::NameError| e.to_string())?;
    let fill = |text: &str| fill(text, environment);
    let mut secrets = Vec::new();
    let reached = match (entry.command, entry.url.or(entry.server_url)) {
        (Some(command), None) => {
            let args = entry.args.iter().map(|a| fill(a)).collect::<Result<Vec<_>, _>>()?;
            for (key, value) in entry.env {
                let value = match value {
                    serde_json::Value::String(text) => fill(&text)?,
                    serde_json::Value::Number(n) => n.to_string(),
                    serde_json::Value::Bool(b) => b.to_string(),
                    _ => return Err(format!("`env.{key}` must be a string")),
                };
                secrets.push((format!("{name}.{key}"), key, value));
            }
            Reached::Command { command: fill(&command)?, args, cwd: entry.cwd.map(|c| fill(&c)).transpose()? }
        }
        (None, Some(url)) => {
            for (key, value) in entry.headers {
                let value = fill(&value)?;
                secrets.push((format!("{name}.{}", key.to_lowercase()), key, value));
            }
            Reached::Url(fill(&url)?)
        }
        (Some(_), Some(_)) => return Err("has both `command` and `url`".to_owned()),
        (None, None) => return Err("has neither `command` nor `url`".to_owned()),
    };
    Ok(ClientServer { name, reached, secrets })
}

/// Fills `${VAR}`, `${env:VAR}` and `${VAR:-default}`.
fn fill(text: &str, environment: &impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let (inside, tail) = after.split_once('}').ok_or_else(|| "has `${` without `}`".to_owned())?;
        let (variable, default) = match inside.split_once(":-") {
            Some((v, d)) => (v, Some(d)),
            None => (inside, None),
        };
        let variable = variable.strip_prefix("env:").unwrap_or(variable);
        if variable.contains(':') {
            return Err(format!("`${{{inside}}}` asks the client for a value that is not in the file; write an environment variable instead"));
        }
        match environment(variable).or_else(|| default.map(str::to_owned)) {
            Some(value) => out.push_str(&value),
            None => return Err(format!("the environment variable `{variable}` is not set")),
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

/// VS Code's file may hold comments: they are blanked out, so that places stay.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => {
                out.push(c);
                out.extend(chars.next());
            }
            '"' => {
                quoted = !quoted;
                out.push(c);
            }
            '/' if !quoted && chars.peek() == Some(&'/') => {
                while chars.peek().is_some_and(|c| *c != '\n') {
                    chars.next();
                }
            }
            '/' if !quoted && chars.peek() == Some(&'*') => {
                chars.next();
                let mut star = false;
                for c in chars.by_ref() {
                    if c == '\n' {
                        out.push(c);
                    }
                    if star && c == '/' {
                        break;
                    }
                    star = c == '*';
                }
            }
            _ => out.push(c),
        }
    }
    out
}

fn offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    before.saturating_add(column.saturating_sub(1)).min(text.len().saturating_sub(1))
}
