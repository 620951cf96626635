//! A built-in system in the place of a server: lists its tools, and does calls over the connection of the call's lease.

use std::sync::Arc;

use bailiwick_wire::mcp::{Method, code};
use bailiwick_wire::{Limits, Raw, RawBuf};
use serde_json::{Value, json};

use super::{Builtin, Session, UseError};
use crate::leases::{Held, Leases, Leasing};
use crate::upstream::{Local, Reply, UpstreamError, UpstreamRequest, UseEra};

/// A system that knows no MCP, as the house reaches it.
#[derive(Debug)]
pub(crate) struct LocalServer {
    leases: Arc<Leases>,
    leasing: Arc<Leasing>,
    builtin: Arc<dyn Builtin>,
}

impl LocalServer {
    /// With what makes and ends its credentials.
    pub(crate) const fn new(leases: Arc<Leases>, leasing: Arc<Leasing>, builtin: Arc<dyn Builtin>) -> Self {
        Self { leases, leasing, builtin }
    }

    /// The connection of a lease.
    async fn session(&self, lease: &Arc<Held>) -> Result<Arc<dyn Session>, UpstreamError> {
        let unavailable = |words: String| UpstreamError::Unavailable { words: words.into(), may_have_run: false };
        lease.session().await.map_err(|error| {
            if !error.login_refused {
                return unavailable(error.words);
            }
            // Somebody removed the account at the system, or a crash did. What is left of it is ended, and the next call has another.
            self.leases.lost(lease);
            unavailable(format!("its account is not there any more ({}); the next call is given another", error.words))
        })
    }

    async fn call(&self, request: &UpstreamRequest<'_>, sent: &(dyn Fn() + Send + Sync)) -> Result<Value, UpstreamError> {
        let unavailable = |words: String| UpstreamError::Unavailable { words: words.into(), may_have_run: false };
        let tool = request.params.member("name").and_then(Raw::string).unwrap_or_default();
        let arguments = request.params.member("arguments").map_or("{}", Raw::text);
        let arguments = super::read_arguments(arguments.as_bytes()).map_err(|refusal| unavailable(refusal.words))?;
        let lease = request.lease.as_ref().ok_or_else(|| unavailable("the call has no lease".to_owned()))?;
        if lease.is_issued() {
            sent();
            let handed = lease.hand_out().ok_or_else(|| unavailable("the credential is none that can be handed out".to_owned()))?;
            return Ok(json!({ "content": [{ "type": "text", "text": handed.to_string() }], "structuredContent": handed, "isError": false }));
        }
        let call = request.call.ok_or_else(|| unavailable("the request is no permitted call".to_owned()))?;
        let mut session = self.session(lease).await?;
        sent();
        let mut done = session.call(call, &tool, &arguments, &request.cancel).await;
        if lease.is_unused() && done.as_ref().is_err_and(|error| error.gone && !error.may_have_run) {
            // The system closed the connection while it waited for a task: nothing was done over it.
            lease.forget(&session).await;
            session = self.session(lease).await?;
            done = session.call(call, &tool, &arguments, &request.cancel).await;
        }
        lease.used();
        match done {
            Ok(answer) => Ok(json!({
                "content": [{ "type": "text", "text": answer.structured.to_string() }],
                "structuredContent": answer.structured,
                "isError": answer.is_error,
            })),
            Err(UseError { words, may_have_run, gone, .. }) => {
                if gone {
                    lease.forget(&session).await;
                }
                Err(UpstreamError::Died { words: words.into(), may_have_run })
            }
        }
    }
}

#[async_trait::async_trait]
impl Local for LocalServer {
    async fn ready(&self) -> Result<(), String> {
        self.leases.check(&self.leasing).await.map_err(|e| e.to_string())
    }

    async fn request(&self, request: &UpstreamRequest<'_>, sent: &(dyn Fn() + Send + Sync)) -> Result<Reply, UpstreamError> {
        let mut result = match request.method {
            Method::ToolsList => {
                let mut tools = self.builtin.tools();
                if self.leasing.issues {
                    tools.extend(super::ISSUING.map(|(name, _, effect)| issuing(name, effect)));
                }
                json!({ "tools": tools })
            }
            Method::ToolsCall => self.call(request, sent).await?,
            _ => {
                let message = "the system has tools only".to_owned();
                return Ok(Reply::Error { code: i64::from(code::METHOD_NOT_FOUND), message, data: None, http_status: 200 });
            }
        };
        if let (UseEra::Modern { .. }, Some(members)) = (&request.era, result.as_object_mut()) {
            members.insert("resultType".to_owned(), "complete".into());
        }
        raw(&result).map(Reply::Result).ok_or_else(|| UpstreamError::Broken { words: "its answer is too large".into(), may_have_run: true })
    }
}

/// The definition of a tool that hands a credential out.
fn issuing(name: &str, effect: bailiwick_core::Effect) -> Value {
    json!({
        "name": name,
        "title": format!("Hand out a credential that can {effect}"),
        "description": "Gives you a login of your own for this system. It ends with your task: its sessions are closed and it is removed.",
        "inputSchema": { "type": "object", "properties": {}, "additionalProperties": false },
        "annotations": { "readOnlyHint": false, "destructiveHint": true, "idempotentHint": true, "openWorldHint": false },
    })
}

fn raw(value: &Value) -> Option<RawBuf> {
    let text = value.to_string();
    Raw::parse(text.as_bytes(), &Limits::REPLY).ok().map(Raw::to_owned)
}
