//! What a legacy server does in the middle of a call: it asks the client, logs, and reports progress on the call's stream.
#![expect(deprecated, reason = "the suite still scores what 2026-07-28 removed")]

use std::time::Duration;

use rmcp::model::{CallToolResult, ElicitRequestParams, JsonObject, LoggingLevel, LoggingMessageNotificationParam, ProgressNotificationParam};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::{ErrorData, ServiceError};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::contents::{text, text_result, typed};
use crate::rounds::ask;

const PAUSE: Duration = Duration::from_millis(50);

pub(crate) async fn logging(context: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    for line in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
        log(context, LoggingLevel::Info, line).await?;
        sleep(PAUSE).await;
    }
    text_result("Tool with logging executed successfully")
}

/// Modern clients ask for logs with each request; without that there are none.
pub(crate) async fn logging_if_asked(context: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    if let Some(level) = context.meta.log_level() {
        log(context, level, "test_logging_tool ran").await?;
    }
    text_result("Logged where logs were asked for.")
}

pub(crate) async fn progress(context: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    if let Some(token) = context.meta.get_progress_token() {
        for step in [0.0, 50.0, 100.0] {
            let progress =
                ProgressNotificationParam::new(token.clone(), step).with_total(100.0).with_message(format!("Completed step {step} of 100"));
            context.peer.notify_progress(progress).await.map_err(|error| lost(&error))?;
            sleep(PAUSE).await;
        }
    }
    text_result("Tool with progress executed successfully")
}

pub(crate) async fn sampling(context: &RequestContext<RoleServer>, arguments: &JsonObject) -> Result<CallToolResult, ErrorData> {
    let prompt = arguments.get("prompt").and_then(Value::as_str).unwrap_or_default();
    let request = typed(json!({"messages": [{"role": "user", "content": text(prompt)}], "maxTokens": 100}))?;
    match context.peer.create_message(request).await {
        Ok(answer) => {
            let answer = serde_json::to_value(&answer).unwrap_or_default();
            let said = answer.pointer("/content/text").or_else(|| answer.pointer("/content/0/text"));
            text_result(format!("LLM response: {}", said.and_then(Value::as_str).unwrap_or("no text")))
        }
        Err(error) => refused("Sampling", &error),
    }
}

pub(crate) async fn elicitation(context: &RequestContext<RoleServer>, arguments: &JsonObject) -> Result<CallToolResult, ErrorData> {
    let message = arguments.get("message").and_then(Value::as_str).unwrap_or_default();
    let question = ask(message, &json!({"response": {"type": "string", "description": "User's response"}}));
    elicit(context, question).await
}

/// SEP-1034: every primitive type may have a default.
pub(crate) async fn elicitation_with_defaults(context: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    let properties = json!({
        "name": {"type": "string", "description": "User name", "default": "John Doe"},
        "age": {"type": "integer", "description": "User age", "default": 30},
        "score": {"type": "number", "description": "User score", "default": 95.5},
        "status": {"type": "string", "description": "User status", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "description": "Verification status", "default": true},
    });
    elicit(context, ask("Please check these values", &properties)).await
}

/// SEP-1330: five forms of enumeration.
pub(crate) async fn elicitation_with_enums(context: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    let titled = |pairs: &[(&str, &str)]| -> Vec<Value> { pairs.iter().map(|(value, title)| json!({"const": value, "title": title})).collect() };
    let properties = json!({
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {"type": "string", "oneOf": titled(&[("value1", "First"), ("value2", "Second"), ("value3", "Third")])},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["One", "Two", "Three"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled(&[("value1", "First"), ("value2", "Second"), ("value3", "Third")])}},
    });
    elicit(context, ask("Please choose", &properties)).await
}

async fn elicit(context: &RequestContext<RoleServer>, mut question: Value) -> Result<CallToolResult, ErrorData> {
    let params: ElicitRequestParams = typed(question.get_mut("params").map(Value::take).unwrap_or_default())?;
    match context.peer.create_elicitation(params).await {
        Ok(answer) => {
            let action = serde_json::to_value(&answer.action).unwrap_or_default();
            let action = action.as_str().unwrap_or_default();
            let content = answer.content.unwrap_or_else(|| json!({}));
            text_result(format!("User response: action={action}, content={content}"))
        }
        Err(error) => refused("Elicitation", &error),
    }
}

/// A client that cannot do what the tool needs gets a tool error that says so.
fn refused(what: &str, error: &ServiceError) -> Result<CallToolResult, ErrorData> {
    typed(json!({
        "resultType": "complete",
        "content": [text(&format!("{what} is not supported here: {error}"))],
        "isError": true,
    }))
}

async fn log(context: &RequestContext<RoleServer>, level: LoggingLevel, line: &str) -> Result<(), ErrorData> {
    let message = LoggingMessageNotificationParam::new(level, json!(line));
    context.peer.notify_logging_message(message).await.map_err(|error| lost(&error))
}

fn lost(error: &ServiceError) -> ErrorData {
    ErrorData::internal_error(format!("the client is gone: {error}"), None)
}
