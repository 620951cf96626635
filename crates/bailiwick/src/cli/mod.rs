//! The command line: what a person types, and what it gives back. Exit codes: 0 done, 1 it failed, 2 the command was not understood.

mod admin;
pub(crate) mod client;
mod decide;
pub(crate) mod enrol;
mod export;
pub(crate) mod http;
mod instances;
pub(crate) mod key_files;
mod lease;
pub(crate) mod ledger;
mod ledger_erase;
mod ledger_prune;
mod ledger_receipt;
mod ledger_shard;
mod payload_texts;
mod person;
mod root_key;
pub(crate) mod screen;
pub(crate) mod task;
mod tools;
pub(crate) mod trace;
mod up;

pub(crate) use decide::decide;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub use client::ApiClient;

/// The identity and access broker between AI models and sensitive systems.
#[derive(Debug, Parser)]
#[command(name = "bailiwick", version, about = "The identity and access broker between AI models and sensitive systems.", max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Where the installation is.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// Where keys, store and records are kept.
    #[arg(long, global = true, env = "BAILIWICK_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The configuration file. Default: `bailiwick.toml` in the data directory.
    #[arg(long, global = true, env = "BAILIWICK_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The broker's address, if it is not the one that the data directory remembers.
    #[arg(long, global = true, env = "BAILIWICK_URL", value_name = "URL")]
    url: Option<String>,
    /// Who you are, if there is more than one person here.
    #[arg(long = "as", global = true, env = "BAILIWICK_PERSON", value_name = "PERSON")]
    person: Option<String>,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
}

impl Place {
    /// The installation in a data directory, and nothing else.
    pub(crate) fn of_data_dir(dir: &std::path::Path) -> Self {
        Self { data_dir: Some(dir.to_path_buf()), config: None, url: None, person: None, json: false }
    }

    /// Is a broker meant that is not the one of the data directory?
    pub(crate) const fn is_remote(&self) -> bool {
        self.url.is_some()
    }

    /// The data directory: as given, or `bailiwick` under the user's data directory.
    ///
    /// # Errors
    /// If there is no home directory to derive it from.
    pub fn data_dir(&self) -> Result<PathBuf, Failure> {
        if let Some(dir) = &self.data_dir {
            return Ok(dir.clone());
        }
        let base =
            std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/share")));
        base.map(|b| b.join("bailiwick")).ok_or_else(|| Failure::new("there is no home directory", "give --data-dir"))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the broker.
    Up(up::Up),
    /// Play the whole story in this terminal against a broker of its own.
    Demo(crate::demo::Demo),
    /// A stdio bridge for any MCP host: opens a task, renews its tokens, ends it when the host ends.
    Connect(crate::connect::Connect),
    /// Write a commented starting point for the configuration.
    Init(admin::Init),
    /// Check a configuration and its policies without starting anything.
    Check,
    /// Print the configuration's JSON Schema.
    Schema,
    /// Print the OpenAPI document of the HTTP API.
    Openapi,
    /// Agents: their keys and owners.
    #[command(subcommand)]
    Agent(admin::AgentCommand),
    /// People: their keys, passkeys and sessions, and whether they may do anything.
    #[command(subcommand)]
    Person(person::PersonCommand),
    /// Secrets that are injected into systems, sealed.
    #[command(subcommand)]
    Secret(admin::SecretCommand),
    /// The root key: where it comes from, and its replacement.
    #[command(subcommand)]
    RootKey(root_key::RootKeyCommand),
    /// Open a task for an agent whose key is here, and print its token.
    Token(task::Token),
    /// Tasks: list, show, complete, revoke.
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Leases: credentials that were made for tasks, and how they ended.
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    /// Systems: how each stands, and whether credentials can be ended there.
    #[command(subcommand)]
    System(lease::SystemCommand),
    /// Tools: how each is classified, and the review of those that wait for it.
    #[command(subcommand)]
    Tools(tools::ToolsCommand),
    /// The held calls that wait for you.
    Approvals,
    /// Approve a held call.
    Approve(decide::Decide),
    /// Refuse a held call.
    Refuse(decide::Decide),
    /// A one-time code with which to sign in at the web page.
    SignIn,
    /// Follow an action, find entries by what they say, or report: what a task changed, what a person answers for, what differs.
    Trace(Box<trace::Trace>),
    /// The index of the record.
    #[command(subcommand)]
    Index(trace::IndexCommand),
    /// The ledger: verify, export.
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Exports: where the ledger's entries go besides the ledger, and how far each sink has got.
    #[command(subcommand)]
    Export(export::ExportCommand),
    /// The sample system: a small shop as an MCP server on stdio.
    #[command(hide = true)]
    Shop {
        /// The shop's SQLite file.
        #[arg(long)]
        file: PathBuf,
    },
    /// Print shell completions.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

/// Why a command failed, and what to do about it.
#[derive(Debug)]
pub struct Failure {
    what: String,
    hint: String,
}

impl Failure {
    /// A failure with a hint.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.what.contains('\n') {
            write!(f, "{}", self.what)?
        } else {
            write!(f, "error: {}", self.what)?
        }
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\nhint: {}", self.hint) }
    }
}

impl std::error::Error for Failure {}

/// Prints a line to standard output; a closed pipe ends quietly.
pub fn say(text: impl std::fmt::Display) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints a line to standard error.
pub fn warn(text: impl std::fmt::Display) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(failure) => {
            warn(failure);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let place = cli.place;
    let done = |result: Result<(), Failure>| result.map(|()| ExitCode::SUCCESS);
    match cli.command {
        Command::Up(up) => done(blocking(up.run(&place))),
        Command::Demo(demo) => done(blocking(demo.run())),
        Command::Connect(connect) => done(blocking(connect.run(&place))),
        Command::Init(init) => done(init.run(&place)),
        Command::Check => done(admin::check(&place)),
        Command::Schema => {
            say(serde_json::to_string_pretty(&crate::config::Config::json_schema()).unwrap_or_default());
            Ok(ExitCode::SUCCESS)
        }
        Command::Openapi => {
            say(crate::api::openapi_json());
            Ok(ExitCode::SUCCESS)
        }
        Command::Agent(command) => done(blocking(command.run(&place))),
        Command::Person(command) => done(blocking(command.run(&place))),
        Command::Secret(command) => done(blocking(command.run(&place))),
        Command::RootKey(command) => done(blocking(command.run(&place))),
        Command::Token(token) => done(blocking(token.run(&place))),
        Command::Task(command) => done(blocking(command.run(&place))),
        Command::Lease(command) => done(blocking(command.run(&place))),
        Command::System(command) => done(blocking(command.run(&place))),
        Command::Tools(command) => done(blocking(command.run(&place))),
        Command::Approvals => done(blocking(decide::approvals(&place))),
        Command::Approve(decide) => done(blocking(decide.run(&place, true))),
        Command::Refuse(decide) => done(blocking(decide.run(&place, false))),
        Command::SignIn => done(blocking(decide::sign_in(&place))),
        Command::Trace(trace) => done(blocking(trace.run(&place))),
        Command::Index(command) => done(blocking(command.run(&place))),
        Command::Ledger(command) => done(blocking(command.run(&place))),
        Command::Export(command) => done(blocking(command.run(&place))),
        Command::Shop { file } => {
            let result = crate::shop::run(&file, std::io::stdin().lock(), std::io::stdout().lock());
            done(result.map_err(|e| Failure::new(e.to_string(), "")))
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "bailiwick", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => done(clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout()).map_err(|e| Failure::new(e.to_string(), ""))),
    }
}

fn blocking<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::new(format!("cannot start: {e}"), ""))?;
    let result = runtime.block_on(work);
    // A read of standard input that nobody waits for any more would keep us here.
    runtime.shutdown_background();
    result
}
