//! The handler: one method of the protocol each, answered from the catalogue and the rooms beside this one.
#![expect(deprecated, reason = "the suite still scores what 2026-07-28 removed")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CancelTaskParams, ClientCapabilities, CompleteRequestParams, CompleteResult, CompletionInfo,
    GetPromptRequestParams, GetPromptResponse, GetTaskParams, GetTaskResult, Implementation, InputRequiredResult, InputResponses, JsonObject,
    ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams, ReadResourceRequestParams,
    ReadResourceResponse, ServerCapabilities, ServerConfig, SetLevelRequestParams, SubscribeRequestParams, SubscriptionFilter, Tool,
    UnsubscribeRequestParams, UpdateTaskParams,
};
use rmcp::service::{RequestContext, RoleServer, SubscriptionContext, SubscriptionSink};
use rmcp::task_manager::TaskManager;
use rmcp::{ErrorData, ServerHandler};
use serde_json::json;

use crate::catalogue::Catalogue;
use crate::rounds::{self, Round, StateSeal};
use crate::{async_results, contents, conversation, legacy};

const TTL_MS: u64 = 60_000;

/// The server; clones share everything.
#[derive(Clone)]
pub(crate) struct Fixture {
    catalogue: Arc<Catalogue>,
    seal: StateSeal,
    background: TaskManager,
    listeners: Arc<Mutex<BTreeMap<u64, SubscriptionSink>>>,
    next_listener: Arc<AtomicU64>,
    subscribed: Arc<Mutex<BTreeSet<String>>>,
}

impl Fixture {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            catalogue: Catalogue::load()?,
            seal: StateSeal::default(),
            background: TaskManager::new(),
            listeners: Arc::default(),
            next_listener: Arc::default(),
            subscribed: Arc::default(),
        })
    }

    fn listeners(&self) -> Vec<SubscriptionSink> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Tells everyone who asked; a listener that is gone is not an error of the call.
    async fn announce(&self, tools: bool) -> Result<CallToolResponse, ErrorData> {
        for listener in self.listeners() {
            let sent = if tools { listener.notify_tool_list_changed().await } else { listener.notify_prompt_list_changed().await };
            drop(sent);
        }
        Ok(contents::text_result("Listeners were told.")?.into())
    }

    /// Tools that talk to the client while they run.
    async fn converse(&self, name: &str, arguments: &JsonObject, context: &RequestContext<RoleServer>) -> Result<CallToolResponse, ErrorData> {
        let result = match name {
            "test_tool_with_logging" => legacy::logging(context).await,
            "test_logging_tool" => legacy::logging_if_asked(context).await,
            "test_tool_with_progress" => legacy::progress(context).await,
            "test_sampling" => legacy::sampling(context, arguments).await,
            "test_elicitation" => legacy::elicitation(context, arguments).await,
            "test_elicitation_sep1034_defaults" => legacy::elicitation_with_defaults(context).await,
            "test_elicitation_sep1330_enums" => legacy::elicitation_with_enums(context).await,
            "test_reconnection" => contents::text_result("Reconnection test completed"),
            "test_missing_capability" => needs_sampling(context),
            "test_trigger_tool_change" => return self.announce(true).await,
            "test_trigger_prompt_change" => return self.announce(false).await,
            "test_streaming_elicitation" => return streaming_question().map(Into::into),
            _ => Err(ErrorData::invalid_params(format!("Unknown tool: {name}"), None)),
        };
        result.map(Into::into)
    }
}

fn streaming_question() -> Result<InputRequiredResult, ErrorData> {
    let question = rounds::ask("A word, please", &json!({"value": {"type": "string"}}));
    rounds::ask_once("word", question)
}

fn needs_sampling(context: &RequestContext<RoleServer>) -> Result<rmcp::model::CallToolResult, ErrorData> {
    if context.client_capabilities().is_some_and(|declared| declared.sampling.is_some()) {
        return contents::text_result("The client can sample.");
    }
    let needed = ClientCapabilities::builder().enable_sampling().build();
    Err(ErrorData::missing_required_client_capability(needed))
}

impl ServerHandler for Fixture {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_logging()
            .enable_completions()
            .enable_prompts()
            .enable_prompts_list_changed()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_resources_list_changed()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_tasks()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("mcp-fixture-rmcp", "1"))
            .with_instructions("A fixture for the MCP conformance suite.")
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.catalogue.tool(name).cloned()
    }

    async fn list_tools(&self, _: Option<PaginatedRequestParams>, _: RequestContext<RoleServer>) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult { tools: self.catalogue.tools.clone(), ..Default::default() }.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn call_tool(&self, request: CallToolRequestParams, context: RequestContext<RoleServer>) -> Result<CallToolResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        let capabilities = context.client_capabilities();
        let (mut responses, mut state) = (request.input_responses, request.request_state);
        if !conversation::takes_rounds(&context) {
            loop {
                let round = Round { responses: responses.as_ref(), state: state.as_deref(), capabilities: capabilities.as_ref() };
                let asked = if request.name == "test_streaming_elicitation" && responses.is_none() {
                    Some(streaming_question().map(Into::into))
                } else {
                    rounds::call(&self.seal, &request.name, &round)
                };
                match asked {
                    Some(Ok(CallToolResponse::InputRequired(questions))) => {
                        responses = Some(conversation::ask(&context, &questions).await?);
                        state = questions.request_state;
                    }
                    Some(other) => return other,
                    None if responses.is_some() => return contents::text_result("Answered.").map(Into::into),
                    None => break,
                }
            }
        }
        let round = Round { responses: responses.as_ref(), state: state.as_deref(), capabilities: capabilities.as_ref() };
        if let Some(result) = contents::of_tool(&request.name) {
            return result.map(Into::into);
        }
        if let Some(response) = rounds::call(&self.seal, &request.name, &round) {
            return response;
        }
        if let Some(response) = async_results::call(&self.background, &request.name, &arguments, &round).await {
            return response;
        }
        self.converse(&request.name, &arguments, &context).await
    }

    async fn list_prompts(&self, _: Option<PaginatedRequestParams>, _: RequestContext<RoleServer>) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult { prompts: self.catalogue.prompts.clone(), ..Default::default() }
            .with_ttl_ms(TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn get_prompt(&self, request: GetPromptRequestParams, context: RequestContext<RoleServer>) -> Result<GetPromptResponse, ErrorData> {
        if request.name == "test_input_required_result_prompt" {
            let capabilities = context.client_capabilities();
            let ask = |responses: Option<&InputResponses>| {
                let state = request.request_state.as_deref();
                rounds::contextual_prompt(&Round { responses, state, capabilities: capabilities.as_ref() })
            };
            return match ask(request.input_responses.as_ref())? {
                GetPromptResponse::InputRequired(questions) if !conversation::takes_rounds(&context) => {
                    ask(Some(&conversation::ask(&context, &questions).await?))
                }
                other => Ok(other),
            };
        }
        contents::of_prompt(&request.name, &request.arguments.unwrap_or_default()).map(Into::into)
    }

    async fn list_resources(&self, _: Option<PaginatedRequestParams>, _: RequestContext<RoleServer>) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult { resources: self.catalogue.resources.clone(), ..Default::default() }
            .with_ttl_ms(TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let resource_templates = self.catalogue.resource_templates.clone();
        Ok(ListResourceTemplatesResult { resource_templates, ..Default::default() }.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn read_resource(&self, request: ReadResourceRequestParams, _: RequestContext<RoleServer>) -> Result<ReadResourceResponse, ErrorData> {
        let result = contents::of_resource(&request.uri)?;
        Ok(result.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public).into())
    }

    async fn complete(&self, request: CompleteRequestParams, _: RequestContext<RoleServer>) -> Result<CompleteResult, ErrorData> {
        let values = ["paris", "park", "party"].into_iter().filter(|word| word.starts_with(&request.argument.value));
        let info = CompletionInfo::new(values.map(str::to_owned).collect());
        Ok(CompleteResult::new(info.map_err(|error| ErrorData::internal_error(error, None))?))
    }

    async fn set_level(&self, _: SetLevelRequestParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn subscribe(&self, request: SubscribeRequestParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        self.subscribed.lock().unwrap_or_else(PoisonError::into_inner).insert(request.uri);
        Ok(())
    }

    async fn unsubscribe(&self, request: UnsubscribeRequestParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        self.subscribed.lock().unwrap_or_else(PoisonError::into_inner).remove(&request.uri);
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let key = self.next_listener.fetch_add(1, Ordering::Relaxed);
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).insert(key, context.sink().clone());
        context.cancelled().await;
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        Ok(())
    }

    async fn get_task(&self, request: GetTaskParams, _: RequestContext<RoleServer>) -> Result<GetTaskResult, ErrorData> {
        Ok(GetTaskResult::new(self.background.get_task(&request.task_id)?))
    }

    async fn update_task(&self, request: UpdateTaskParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        self.background.update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(&self, request: CancelTaskParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        self.background.cancel_task(&request.task_id)
    }
}
