//! The demo's own broker: this very program, on a data directory made for it, with two people and the sample shop.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::cli::Failure;
use crate::cli::client::Endpoint;
use crate::cli::key_files::{Holder, create, directory};
use crate::clock::random;

const START_WITHIN: Duration = Duration::from_secs(30);
const END_WITHIN: Duration = Duration::from_secs(15);
const LOG_SHOWN_BYTES: usize = 4000;

/// A running broker of the demo.
pub(super) struct Stage {
    child: Child,
    place: Temporary,
    url: String,
}

/// A directory that goes with its owner.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0).is_ok();
    }
}

impl Stage {
    /// Writes the configuration, makes the keys, and starts the broker on a free port.
    pub(super) async fn start() -> Result<Self, Failure> {
        let name: String = random::<8>().iter().map(|b| format!("{b:02x}")).collect();
        let place = Temporary(std::env::temp_dir().join(format!("bailiwick-demo-{name}")));
        directory(&place.0)?;
        let program = std::env::current_exe().map_err(|e| Failure::new(format!("this program does not know its own path: {e}"), ""))?;
        create(&place.0.join("bailiwick.toml"), configuration(&program, &place.0).as_bytes(), 0o600)?;
        Holder::Person.make(&place.0, "ana")?;
        Holder::Person.make(&place.0, "ben")?;
        Holder::Agent.make(&place.0, "assistant")?;
        let log = std::fs::File::create(place.0.join("log")).map_err(|e| Failure::new(format!("the demo's log: {e}"), ""))?;
        let child = Command::new(&program)
            .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&place.0)
            .env_remove("BAILIWICK_CONFIG")
            .env_remove("BAILIWICK_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| Failure::new(format!("cannot start {}: {e}", program.display()), ""))?;
        let mut stage = Self { child, place, url: String::new() };
        stage.url = stage.wait_until_ready().await?;
        Ok(stage)
    }

    async fn wait_until_ready(&mut self) -> Result<String, Failure> {
        let ready = async {
            loop {
                if let Some(endpoint) = Endpoint::read(&self.place.0) {
                    return Ok(endpoint.url);
                }
                if let Ok(Some(status)) = self.child.try_wait() {
                    return Err(format!("the demo's broker ended at once ({status})"));
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        };
        let ready = tokio::time::timeout(START_WITHIN, ready).await.unwrap_or_else(|_| Err("the demo's broker did not start in time".to_owned()));
        ready.map_err(|what| Failure::new(what, self.log()))
    }

    /// Its data directory.
    pub(super) fn data_dir(&self) -> &Path {
        &self.place.0
    }

    /// Where it listens.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Stops it as a person would. If the story went wrong, its log is shown.
    pub(super) async fn end(mut self, well: bool) -> Result<(), Failure> {
        if !well {
            crate::cli::warn(self.log());
        }
        if let Some(pid) = self.child.id() {
            let told = Command::new("kill").args(["-TERM", &pid.to_string()]).stderr(Stdio::null()).status().await;
            if !told.is_ok_and(|s| s.success()) {
                let _ = self.child.start_kill().is_ok();
            }
        }
        match tokio::time::timeout(END_WITHIN, self.child.wait()).await {
            Ok(Ok(status)) if status.success() || !well => Ok(()),
            Ok(Ok(status)) => Err(Failure::new(format!("the demo's broker ended badly ({status})"), self.log())),
            Ok(Err(error)) => Err(Failure::new(format!("the demo's broker cannot be waited for: {error}"), "")),
            Err(_) => Err(Failure::new("the demo's broker did not stop in time", self.log())),
        }
    }

    /// The end of its log.
    fn log(&self) -> String {
        let log = std::fs::read(self.place.0.join("log")).unwrap_or_default();
        let end = log.get(log.len().saturating_sub(LOG_SHOWN_BYTES)..).unwrap_or(&log);
        let shown: Vec<String> = String::from_utf8_lossy(end).lines().map(bailiwick_wire::render::line).collect();
        if shown.is_empty() { "its log is empty".to_owned() } else { format!("its log ends with\n{}", shown.join("\n")) }
    }
}

fn configuration(program: &Path, data_dir: &Path) -> String {
    let quote = |path: &Path| toml::Value::String(path.display().to_string());
    let (program, shop) = (quote(program), quote(&data_dir.join("shop.sqlite")));
    format!(
        r#"trust_domain = "demo.bailiwick.local"

[people.ana]
roles = ["owner", "operator", "auditor"]
[people.ben]
roles = ["approver", "reviewer", "auditor"]

[agents.assistant]
owner = "ana"
purpose = "answers tickets of the sample shop"
risk = "medium"
models = ["demo-model-1"]
review_by = "2099-12-31"
tools = ["shop.*"]

{system}"#,
        system = crate::config::shop_system(&program.to_string(), &shop.to_string()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_configuration_has_an_owner_and_another_person_who_decides() {
        let config = crate::config::Config::parse("demo", &configuration(Path::new("/b"), Path::new("/d")), Path::new("")).unwrap();
        assert!(!config.owner_may_approve);
        assert_eq!(config.agents["assistant"].agent.owner.as_str(), "ana");
        assert!(config.people["ben"].roles.contains(&bailiwick_core::Role::Approver));
    }
}
