//! `bailiwick up`: the broker in the foreground, from nothing, from an MCP client's configuration, or from a configuration file.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bailiwick_core::PersonName;
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::admin::config_failure;
use super::key_files::Holder;
use super::screen::Style;
use super::{Failure, Place, say, warn};
use crate::config::{ClientFile, Config, default_for_one_person};
use crate::demo;
use crate::house::{House, StartError};

/// The agent of installations that nobody configured.
const ASSISTANT: &str = "assistant";

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `bailiwick up`
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Where to listen, instead of where the configuration says. Port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Take over the servers of an MCP client's configuration (mcpServers, or VS Code's servers). May be given several times.
    #[arg(long, value_name = "FILE")]
    mcp_config: Vec<PathBuf>,
    /// Play the demo's story against this broker first.
    #[arg(long)]
    demo: bool,
    /// How the log on standard error is written. What is logged: RUST_LOG, such as `info` or `bailiwick=debug`.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

/// What the configuration came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// A file that was there.
    File,
    /// Written just now.
    Written,
}

impl Up {
    /// Starts, serves, and stops at the first signal; the second one ends at once.
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        self.log();
        let data_dir = absolute(&place.data_dir()?)?;
        crate::place::prepare(&data_dir).map_err(start_failure)?;
        let (file, origin) = self.configuration(place, &data_dir).await?;
        let mut config = Config::load(&file).map_err(config_failure)?;
        if let Some(address) = self.listen {
            config.address = address;
        }
        make_keys(&config, &data_dir, origin)?;
        let greeting = Greeting {
            data_dir: data_dir.clone(),
            file,
            agent: first_agent(&config),
            bridged: !self.mcp_config.is_empty() || origin == Origin::Written,
        };
        let stop = CancellationToken::new();
        let signals = tokio::spawn(until_told(stop.clone())?);
        let played = self.serve(config, &data_dir, greeting, stop).await;
        signals.abort();
        played
    }

    async fn serve(self, config: Config, data_dir: &Path, greeting: Greeting, stop: CancellationToken) -> Result<(), Failure> {
        let (ready, started) = tokio::sync::oneshot::channel::<Arc<House>>();
        let story = async {
            let Ok(house) = started.await else { return Ok(()) };
            if self.demo {
                let result = demo::play_here(data_dir, &house.urls.base, &house.config).await;
                if result.is_err() {
                    stop.cancel();
                }
                result?;
            }
            greeting.say(&house.urls.base);
            Ok(())
        };
        let on_ready = |house: &Arc<House>| {
            let _ = ready.send(Arc::clone(house)).is_ok();
        };
        let run = crate::serve::run(config, data_dir, stop.clone(), on_ready);
        let (ran, played) = tokio::join!(run, story);
        ran.map_err(start_failure)?;
        played
    }

    fn log(&self) {
        use tracing_subscriber::EnvFilter;
        let quiet = if self.demo { "warn" } else { "info" };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(quiet));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
        let set = match self.log_format {
            LogFormat::Text => log.with_ansi(ansi).with_target(false).try_init(),
            LogFormat::Json => log.json().try_init(),
        };
        if let Err(error) = set {
            warn(format_args!("note: the log could not be set up: {error}"));
        }
    }

    /// The configuration file: the one that is there, or one written now; with the servers of MCP clients added to it.
    async fn configuration(&self, place: &Place, data_dir: &Path) -> Result<(PathBuf, Origin), Failure> {
        let file = place.config_file()?;
        let file = if place.config.is_some() { file } else { data_dir.join("bailiwick.toml") };
        let clients = self.mcp_config.iter().map(|f| read_client(f)).collect::<Result<Vec<_>, _>>()?;
        let there = file.exists();
        if place.config.is_some() && !there {
            return Err(Failure::new(format!("{} is not there", file.display()), "write a starting point: bailiwick init FILE"));
        }
        if there && clients.is_empty() {
            return Ok((file, Origin::File));
        }
        let before = if there { std::fs::read_to_string(&file).map_err(|e| unusable(&file, &e))? } else { String::new() };
        let mut text = match (there, clients.is_empty()) {
            (true, _) => before.clone(),
            (false, true) => embedded_defaults(data_dir)?,
            (false, false) => for_clients(&user()),
        };
        for client in &clients {
            take_over(&mut text, client, &file, data_dir).await?;
        }
        // What cannot be read is not written.
        let base = file.parent().map_or_else(PathBuf::new, Path::to_path_buf);
        Config::parse(&file.display().to_string(), &text, &base).map_err(config_failure)?;
        if text != before {
            crate::place::write_private(&file, text.as_bytes()).map_err(|e| unusable(&file, &e))?;
        }
        Ok((file, if there { Origin::File } else { Origin::Written }))
    }
}

fn start_failure(error: StartError) -> Failure {
    Failure::new(error.to_string(), error.hint())
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("{}: {error}", path.display()), "")
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| unusable(path, &e))
}

fn program() -> Result<String, Failure> {
    let program = std::env::current_exe().map_err(|e| Failure::new(format!("this program does not know its own path: {e}"), ""))?;
    program.into_os_string().into_string().map_err(|p| Failure::new(format!("{} is no UTF-8 path", Path::new(&p).display()), "install it elsewhere"))
}

fn text_path(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| Failure::new(format!("{} is no UTF-8 path", path.display()), "choose another --data-dir"))
}

/// The name under which this machine knows the person, as a person's name.
fn user() -> String {
    let name = std::env::var("USER").unwrap_or_default().to_lowercase();
    if name.parse::<PersonName>().is_ok() { name } else { "owner".to_owned() }
}

fn embedded_defaults(data_dir: &Path) -> Result<String, Failure> {
    let shop = data_dir.join("shop.sqlite");
    Ok(default_for_one_person(&user(), &program()?, text_path(&shop)?))
}

/// The configuration for servers taken over from an MCP client, before their own part.
fn for_clients(person: &str) -> String {
    let person = toml::Value::String(person.to_owned());
    format!(
        r#"# Written by `bailiwick up --mcp-config`, and read from now on. Edit it freely.
trust_domain = "bailiwick.local"

[approvals]
# There is one person here, so the owner may approve; the record marks each such approval as `own_request`.
owner_may_approve = true

[people.{person}]
roles = ["owner", "approver", "reviewer", "auditor", "operator"]

[agents.{ASSISTANT}]
owner = {person}
purpose = "the MCP client of this machine"
risk = "medium"
review_by = "2027-12-31"
tools = ["*"]
"#
    )
}

fn read_client(file: &Path) -> Result<ClientFile, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| unusable(file, &e))?;
    ClientFile::parse(&file.display().to_string(), &text, |name| std::env::var(name).ok()).map_err(config_failure)
}

/// Adds a client's servers to the configuration's text and seals their secrets. A server that is there already stays as it is.
async fn take_over(text: &mut String, client: &ClientFile, file: &Path, data_dir: &Path) -> Result<(), Failure> {
    let table: toml::Table =
        text.parse().map_err(|e: toml::de::Error| Failure::new(format!("{}: {}", file.display(), e.message()), "try it: bailiwick check"))?;
    let known = |name: &str| table.get("systems").and_then(toml::Value::as_table).is_some_and(|s| s.contains_key(name));
    let (old, new): (Vec<&str>, Vec<&str>) = client.servers.iter().map(|s| s.name.as_str()).partition(|name| known(name));
    if new.is_empty() {
        return Ok(());
    }
    if !old.is_empty() {
        let what = format!("of its servers, {} are in {} already and {} are not", old.join(", "), file.display(), new.join(", "));
        return Err(Failure::new(what, "rename those that are new, or add them there by hand"));
    }
    for (name, value) in client.secrets() {
        crate::secrets::set(data_dir, name, zeroize::Zeroizing::new(value.as_bytes().to_vec())).await?;
    }
    if !text.ends_with('\n') && !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&client.to_toml());
    Ok(())
}

/// On the first start: a key for every person with a role and for every agent that has none. Later nothing appears by itself.
fn make_keys(config: &Config, data_dir: &Path, origin: Origin) -> Result<(), Failure> {
    if origin != Origin::Written {
        return Ok(());
    }
    if Holder::Person.names(data_dir, "jwk").is_empty() {
        for person in config.people.values().filter(|p| !p.roles.is_empty()) {
            Holder::Person.make(data_dir, person.name.as_str())?;
        }
    }
    for agent in config.agents.keys().filter(|a| !Holder::Agent.has_public(data_dir, a.as_str())) {
        Holder::Agent.make(data_dir, agent.as_str())?;
    }
    Ok(())
}

fn first_agent(config: &Config) -> String {
    let preferred = config.agents.keys().find(|a| a.as_str() == ASSISTANT).or_else(|| config.agents.keys().next());
    preferred.map_or_else(|| "NAME".to_owned(), ToString::to_string)
}

/// Cancels at the first signal; ends the process at the second.
fn until_told(stop: CancellationToken) -> Result<impl Future<Output = ()>, Failure> {
    let listen = |kind| signal(kind).map_err(|e| Failure::new(format!("cannot listen for signals: {e}"), ""));
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        for again in [false, true] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if again {
                #[expect(clippy::exit, reason = "a second signal asks for exactly this; what was left open is closed at the next start")]
                std::process::exit(130);
            }
            warn("stopping; once more to end at once");
            stop.cancel();
        }
    })
}

/// What is printed when the broker serves.
struct Greeting {
    data_dir: PathBuf,
    file: PathBuf,
    agent: String,
    /// Print the file to give to an MCP client.
    bridged: bool,
}

impl Greeting {
    fn say(&self, url: &str) {
        say(self.text(url, Style::of_terminal()));
    }

    fn text(&self, url: &str, style: Style) -> String {
        let Self { data_dir, file, agent, .. } = self;
        // Commands that are to be copied name the place only where it is not the usual one.
        let usual = super::Place { data_dir: None, config: None, url: None, person: None, json: false };
        let at = if usual.data_dir().is_ok_and(|d| d == *data_dir) { String::new() } else { format!(" --data-dir {}", quoted(data_dir)) };
        let mut text = String::new();
        let _ = writeln!(text, "{}", style.strong(&format!("Bailiwick is running at {url}")));
        let _ = writeln!(text, "  agents connect   {url}/mcp, or over stdio: bailiwick connect --agent {agent}{at}");
        let _ = writeln!(text, "  people look      {url}/approvals; the code to sign in: bailiwick sign-in{at}");
        let _ = writeln!(text, "  configuration    {}", file.display());
        let _ = writeln!(text, "  keys and record  {}", data_dir.display());
        let _ = writeln!(text, "{}", style.strong("Next"));
        if self.bridged
            && let Ok(client) = client_file(agent, data_dir)
        {
            let _ = writeln!(text, "  give this to your MCP client (Claude Code, Claude Desktop, Cursor, ...) instead of its own servers:\n");
            for line in client.lines() {
                let _ = writeln!(text, "  {line}");
            }
            let _ = writeln!(text);
        }
        let _ = writeln!(text, "  bailiwick token --agent {agent}{at}   a task of its own, and its token");
        let _ = writeln!(text, "  bailiwick approvals{at}   the calls that wait for you");
        let _ = write!(text, "  bailiwick ledger verify{at}   the record, checked");
        text
    }
}

/// As a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-'));
    if plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// The MCP client's configuration that has one server: the bridge.
fn client_file(agent: &str, data_dir: &Path) -> Result<String, Failure> {
    let args = ["connect", "--agent", agent, "--data-dir", text_path(data_dir)?];
    Ok(format!("{:#}", json!({ "mcpServers": { "bailiwick": { "command": program()?, "args": args } } })))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = r#"{"mcpServers":{"files":{"command":"npx","args":["-y","fs"]}}}"#;

    #[test]
    fn the_configuration_for_a_client_is_well_formed_with_its_servers() {
        let client = ClientFile::parse("mcp.json", CLIENT, |_| None).unwrap();
        let text = for_clients("ana") + &client.to_toml();
        let config = Config::parse("t", &text, Path::new("")).unwrap();
        assert!(config.systems.contains_key("files") && config.owner_may_approve);
        assert_eq!(first_agent(&config), "assistant");
    }

    #[tokio::test]
    async fn a_server_that_was_taken_over_is_not_taken_twice() {
        let client = ClientFile::parse("mcp.json", CLIENT, |_| None).unwrap();
        let mut text = for_clients("ana");
        let dir = tempfile::tempdir().unwrap();
        take_over(&mut text, &client, Path::new("b.toml"), dir.path()).await.unwrap();
        let once = text.clone();
        take_over(&mut text, &client, Path::new("b.toml"), dir.path()).await.unwrap();
        assert_eq!(text, once);
        assert_eq!(once.matches("[systems.files]").count(), 1);
    }

    #[test]
    fn keys_appear_on_the_first_start_only() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::parse("t", &default_for_one_person("ana", "bailiwick", "shop.sqlite"), Path::new("")).unwrap();
        make_keys(&config, dir.path(), Origin::File).unwrap();
        assert!(Holder::Person.names(dir.path(), "jwk").is_empty());
        make_keys(&config, dir.path(), Origin::Written).unwrap();
        assert_eq!(Holder::Person.names(dir.path(), "key.pem"), ["ana"]);
        assert_eq!(Holder::Agent.names(dir.path(), "jwk"), ["assistant"]);
    }

    #[test]
    fn the_file_for_the_client_starts_this_very_program() {
        let file: serde_json::Value = serde_json::from_str(&client_file("assistant", Path::new("/data")).unwrap()).unwrap();
        let server = &file["mcpServers"]["bailiwick"];
        assert_eq!(server["command"], program().unwrap());
        assert_eq!(server["args"], json!(["connect", "--agent", "assistant", "--data-dir", "/data"]));
    }

    #[test]
    fn a_path_is_quoted_where_a_shell_would_read_it_otherwise() {
        assert_eq!(quoted(Path::new("/a/b-c_1.d")), "/a/b-c_1.d");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
