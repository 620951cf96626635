//! Drives the `rmcp` client by the contract of `clients/README.md`: `mcp-client-rmcp URL TOOL JSON_ARGUMENTS`.

use std::env;
use std::io::{Write as _, stdout};
use std::time::Instant;

use anyhow::{Context as _, Result};
use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientConfig, ElicitRequestParams, ElicitResult, ElicitationAction, ElicitationCapability,
    FormElicitationCapability, Implementation, JsonObject, ProtocolVersion, UrlElicitationCapability,
};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt as _, RequestContext, RoleClient};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, ErrorData};
use serde_json::{Value, json};

/// A client that declares elicitation only where it is told to, and then accepts everything.
#[derive(Debug, Clone, Copy)]
struct Driven {
    elicits: bool,
}

impl ClientHandler for Driven {
    fn get_info(&self) -> ClientConfig {
        let mut capabilities = ClientCapabilities::default();
        if self.elicits {
            let both = ElicitationCapability::new().with_form(FormElicitationCapability::default()).with_url(UrlElicitationCapability::default());
            capabilities.elicitation = Some(both);
        }
        ClientConfig::new(capabilities, Implementation::new("mcp-client-rmcp", "1"))
    }

    async fn create_elicitation(&self, request: ElicitRequestParams, _: RequestContext<RoleClient>) -> Result<ElicitResult, ErrorData> {
        let accepted = ElicitResult::new(ElicitationAction::Accept);
        Ok(match request {
            ElicitRequestParams::FormElicitationParams { .. } => accepted.with_content(json!({})),
            _ => accepted,
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let mut next = |what: &'static str| arguments.next().context(what);
    let (url, tool, text) = (next("URL is missing")?, next("TOOL is missing")?, next("JSON_ARGUMENTS are missing")?);
    let mut report = json!({
        "client": "rmcp", "era": null, "tools": [], "result_text": "", "is_error": true, "raised": false,
    });
    let begin = Instant::now();
    let mut seconds = None;
    if let Err(error) = drive(&url, tool, serde_json::from_str(&text)?, &mut report, &mut seconds).await {
        merge(&mut report, json!({"raised": true, "result_text": format!("{error:#}")}));
    }
    merge(&mut report, json!({"seconds": seconds.unwrap_or_else(|| begin.elapsed().as_secs_f64())}));
    writeln!(stdout(), "{report}")?;
    Ok(())
}

async fn drive(url: &str, tool: String, arguments: JsonObject, report: &mut Value, seconds: &mut Option<f64>) -> Result<()> {
    let mut config = StreamableHttpClientTransportConfig::with_uri(url);
    if let Some(token) = env::var("MCP_TOKEN").ok().filter(|token| !token.is_empty()) {
        config = config.auth_header(token);
    }
    let driven = Driven { elicits: env::var("MCP_ELICIT").is_ok_and(|elicits| elicits == "1") };
    let client = driven.serve_with_lifecycle(StreamableHttpClientTransport::from_config(config), lifecycle()).await?;
    let era = client.peer_info().map(|info| json!(info.protocol_version)).unwrap_or_default();
    let tools = client.list_all_tools().await?;
    let names: Vec<_> = tools.iter().map(|tool| tool.name.as_ref()).collect();
    merge(report, json!({"era": era, "tools": names}));
    let begin = Instant::now();
    let result = client.call_tool(CallToolRequestParams::new(tool).with_arguments(arguments)).await;
    *seconds = Some(begin.elapsed().as_secs_f64());
    let result = result?;
    let texts: Vec<_> = result.content.iter().filter_map(|block| block.as_text()).map(|block| block.text.as_str()).collect();
    merge(report, json!({"result_text": texts.join("\n"), "is_error": result.is_error == Some(true)}));
    client.cancel().await?;
    Ok(())
}

fn lifecycle() -> ClientLifecycleMode {
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    match env::var("MCP_ERA").as_deref() {
        Ok("legacy") => ClientLifecycleMode::Initialize,
        Ok("modern") => ClientLifecycleMode::Discover { preferred_versions },
        _ => ClientLifecycleMode::Auto { preferred_versions, legacy_version: None },
    }
}

fn merge(report: &mut Value, members: Value) {
    if let (Some(report), Value::Object(members)) = (report.as_object_mut(), members) {
        report.extend(members);
    }
}
