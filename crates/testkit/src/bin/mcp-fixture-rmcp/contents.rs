//! The fixed contents: tool results, prompts and resources that need no conversation.

use rmcp::ErrorData;
use rmcp::model::{CallToolResult, GetPromptResult, ReadResourceResult};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// One pixel, PNG.
const IMAGE: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
/// Two samples of silence, WAV.
const AUDIO: &str = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=";

/// Reads a value of the protocol from the JSON that it has on the wire, which is what the suite describes.
pub(crate) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ErrorData> {
    serde_json::from_value(value).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

pub(crate) fn text_result(text: impl Into<String>) -> Result<CallToolResult, ErrorData> {
    typed(json!({"resultType": "complete", "content": [{"type": "text", "text": text.into()}], "isError": false}))
}

/// The tools whose answer is always the same; `None` for all others.
pub(crate) fn of_tool(name: &str) -> Option<Result<CallToolResult, ErrorData>> {
    let content = match name {
        "test_simple_text" => json!([text("This is a simple text response for testing.")]),
        "test_image_content" => json!([image()]),
        "test_audio_content" => json!([{"type": "audio", "data": AUDIO, "mimeType": "audio/wav"}]),
        "test_embedded_resource" => {
            json!([resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")])
        }
        "test_multiple_content_types" => json!([
            text("Multiple content types test:"),
            image(),
            resource("test://mixed-content-resource", "application/json", r#"{"test":"data","value":123}"#),
        ]),
        "test_error_handling" => {
            json!([text("This tool intentionally returns an error for testing")])
        }
        "json_schema_2020_12_tool" | "test_custom_header" => json!([text("ok")]),
        _ => return None,
    };
    let is_error = name == "test_error_handling";
    Some(typed(json!({"resultType": "complete", "content": content, "isError": is_error})))
}

/// The prompts that need no conversation.
pub(crate) fn of_prompt(name: &str, arguments: &Map<String, Value>) -> Result<GetPromptResult, ErrorData> {
    let argument = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or_default();
    let contents = match name {
        "test_simple_prompt" => vec![text("This is a simple prompt for testing.")],
        "test_prompt_with_arguments" => {
            let [first, second] = [argument("arg1"), argument("arg2")];
            vec![text(&format!("Prompt with arguments: arg1='{first}', arg2='{second}'"))]
        }
        "test_prompt_with_embedded_resource" => vec![
            resource(argument("resourceUri"), "text/plain", "Embedded resource content for testing."),
            text("Please process the embedded resource above."),
        ],
        "test_prompt_with_image" => vec![image(), text("Please analyze the image above.")],
        _ => {
            return Err(ErrorData::invalid_params(format!("Unknown prompt: {name}"), None));
        }
    };
    prompt(contents)
}

pub(crate) fn prompt(contents: Vec<Value>) -> Result<GetPromptResult, ErrorData> {
    let messages: Vec<_> = contents.into_iter().map(|content| json!({"role": "user", "content": content})).collect();
    typed(json!({"resultType": "complete", "messages": messages}))
}

pub(crate) fn of_resource(uri: &str) -> Result<ReadResourceResult, ErrorData> {
    let content = match uri {
        "test://static-text" => {
            json!({"uri": uri, "mimeType": "text/plain", "text": "This is the content of the static text resource."})
        }
        "test://watched-resource" => {
            json!({"uri": uri, "mimeType": "text/plain", "text": "Watched resource content"})
        }
        "test://static-binary" => json!({"uri": uri, "mimeType": "image/png", "blob": IMAGE}),
        _ => {
            let id = uri.strip_prefix("test://template/").and_then(|rest| rest.strip_suffix("/data"));
            let Some(id) = id.filter(|id| !id.contains('/')) else {
                return Err(ErrorData::resource_not_found(format!("Resource not found: {uri}"), Some(json!({"uri": uri}))));
            };
            let data = json!({"id": id, "templateTest": true, "data": format!("Data for ID: {id}")});
            json!({"uri": uri, "mimeType": "application/json", "text": data.to_string()})
        }
    };
    typed(json!({"resultType": "complete", "contents": [content]}))
}

pub(crate) fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn image() -> Value {
    json!({"type": "image", "data": IMAGE, "mimeType": "image/png"})
}

fn resource(uri: &str, mime_type: &str, text: &str) -> Value {
    json!({"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": text}})
}
