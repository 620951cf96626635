//! The task of a bridge and its token: opened at the first need, renewed well before it ends, completed once.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bailiwick_core::{Clock as _, InstanceId, SpiffeId, TaskId};
use bailiwick_wire::mcp::{Meta, Params};
use bailiwick_wire::{Raw, render};
use http::StatusCode;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cli::client::{ApiClient, Token};
use crate::cli::http::ClientError;
use crate::cli::key_files::AgentKey;
use crate::cli::task::Wish;
use crate::cli::warn;
use crate::clock::random;

/// How a bridge proves which agent it is.
pub(super) enum Proof {
    /// By the agent's key, for a running copy of its own.
    Key(AgentKey, InstanceId),
    /// By being its process, at the broker's Unix socket; the agent, if one was named.
    Process(Option<SpiffeId>),
}

impl Proof {
    /// By this key, as a new running copy.
    pub(super) fn by_key(api: &ApiClient, key: AgentKey) -> Self {
        Self::Key(key, InstanceId::new(api.clock().now(), random()))
    }

    async fn token(&self, api: &ApiClient, model: Option<&str>, task: Option<TaskId>) -> Result<Token, ClientError> {
        match self {
            Self::Key(key, instance) => api.token(key, *instance, model, task).await,
            Self::Process(client) => api.token_by_process(client.as_ref(), task).await,
        }
    }

    /// The agent, as far as it is known here.
    fn words(&self) -> &str {
        match self {
            Self::Key(AgentKey { spiffe_id, .. }, _) | Self::Process(Some(spiffe_id)) => spiffe_id.as_str(),
            Self::Process(None) => "the agent of this process",
        }
    }
}

/// The right of one bridge to act: what proves its agent, and the one task that it opens.
pub(super) struct Credential {
    api: Arc<ApiClient>,
    proof: Proof,
    wish: Wish,
    host: OnceLock<String>,
    held: Mutex<Option<Held>>,
}

struct Held {
    task: TaskId,
    token: Arc<Token>,
    renew_at: Instant,
    ends: Instant,
}

impl Held {
    fn new(task: TaskId, token: Token) -> Self {
        let life = Duration::from_secs(token.expires_in);
        let now = Instant::now();
        // With two thirds gone there is time for several attempts.
        Self { task, token: Arc::new(token), renew_at: now + life * 2 / 3, ends: now + life }
    }
}

impl Credential {
    pub(super) fn new(api: Arc<ApiClient>, proof: Proof, wish: Wish) -> Self {
        Self { api, proof, wish, host: OnceLock::new(), held: Mutex::default() }
    }

    /// Notes what the host says it is, for the task's purpose.
    pub(super) fn introduce(&self, params: &Params<'_>) {
        let info = params.get("clientInfo").or_else(|| Meta::read(params).client_info);
        if let Some(name) = info.and_then(|i| i.member("name")).and_then(Raw::string) {
            self.host.get_or_init(|| render::line(&name).chars().take(80).collect());
        }
    }

    /// A token that is good for a while. Opens the task if there is none yet.
    pub(super) async fn token(&self) -> Result<Arc<Token>, ClientError> {
        let mut held = self.held.lock().await;
        let now = Instant::now();
        let (task, old, ends) = match &*held {
            None => return self.open(&mut held).await,
            Some(h) if now < h.renew_at => return Ok(Arc::clone(&h.token)),
            Some(h) => (h.task, Arc::clone(&h.token), h.ends),
        };
        match self.renew(&mut held, task).await {
            // The broker may be starting anew: what we have still counts.
            Err(error) if error.status().is_none() && now < ends => Ok(old),
            other => other,
        }
    }

    /// A token other than this one, which the broker did not take.
    pub(super) async fn another_than(&self, refused: &Arc<Token>) -> Result<Arc<Token>, ClientError> {
        let mut held = self.held.lock().await;
        match &*held {
            None => self.open(&mut held).await,
            Some(h) if !Arc::ptr_eq(&h.token, refused) => Ok(Arc::clone(&h.token)),
            Some(h) => {
                let task = h.task;
                self.renew(&mut held, task).await
            }
        }
    }

    /// A task that has ended is not opened anew: somebody may have ended it on purpose.
    async fn renew(&self, held: &mut Option<Held>, task: TaskId) -> Result<Arc<Token>, ClientError> {
        let token = self.proof.token(&self.api, self.wish.model(), Some(task)).await;
        let token = token.map_err(|error| match error {
            ClientError::Problem { status, code, detail, .. } if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                ClientError::Problem { status, code, detail, hint: "if the task has ended, start this connection anew to open another".to_owned() }
            }
            other => other,
        })?;
        let renewed = Held::new(task, token);
        let token = Arc::clone(&renewed.token);
        *held = Some(renewed);
        Ok(token)
    }

    async fn open(&self, held: &mut Option<Held>) -> Result<Arc<Token>, ClientError> {
        let purpose = format!("session of {}", self.host.get().map_or("an MCP host", String::as_str));
        let agent = self.proof.token(&self.api, self.wish.model(), None).await?;
        let opened = self.api.open_task(&agent, &self.wish.document(&purpose)).await?;
        let task = opened.id()?;
        warn(format_args!("bailiwick connect: {} works in {task} at {}", self.proof.words(), self.api.url()));
        let opened = Held::new(task, opened.token);
        let token = Arc::clone(&opened.token);
        *held = Some(opened);
        Ok(token)
    }

    /// Completes the task, if one was opened. One that has ended otherwise is fine.
    pub(super) async fn finish(&self) -> Result<(), ClientError> {
        let Some(held) = self.held.lock().await.take() else { return Ok(()) };
        let token = if Instant::now() < held.ends { held.token } else { Arc::new(self.proof.token(&self.api, self.wish.model(), None).await?) };
        match self.api.complete(&token, held.task).await {
            Err(error) if !error.status().is_some_and(|s| s.is_client_error()) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
