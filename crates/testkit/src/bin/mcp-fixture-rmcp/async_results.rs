//! Tools that answer later: the `io.modelcontextprotocol/tasks` extension (SEP-2663).

use std::time::Duration;

use rmcp::ErrorData;
use rmcp::model::{CallToolResponse, CallToolResult, ClientCapabilities, CreateTaskResult, InputRequest, JsonObject};
use rmcp::task_manager::{TaskContext, TaskExit, TaskFuture, TaskManager, TaskOptions};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::contents::{text, text_result, typed};
use crate::rounds::{Round, ask, ask_once};

/// How a tool of this module treats a client that cannot wait for a background result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Background {
    Never,
    IfDeclared,
    Always,
}

fn background(name: &str) -> Option<Background> {
    match name {
        "greet" => Some(Background::Never),
        "slow_compute" | "protocol_error_job" => Some(Background::IfDeclared),
        "failing_job" | "confirm_delete" | "multi_input" | "test_tool_with_task" => Some(Background::Always),
        _ => None,
    }
}

/// The tools that may answer later; `None` for all others.
pub(crate) async fn call(
    manager: &TaskManager,
    name: &str,
    arguments: &JsonObject,
    round: &Round<'_>,
) -> Option<Result<CallToolResponse, ErrorData>> {
    let background = background(name)?;
    let declared = round.capabilities.is_some_and(ClientCapabilities::supports_tasks);
    if background == Background::Always && !declared {
        let needed = ClientCapabilities::builder().enable_tasks().build();
        return Some(Err(ErrorData::missing_required_client_capability(needed)));
    }
    let name = name.to_owned();
    let mut arguments = arguments.clone();
    if name == "test_tool_with_task" {
        let Some(answer) = round.answer("user_name") else {
            let question = ask("What is your name?", &json!({"name": {"type": "string"}}));
            return Some(ask_once("user_name", question).map(Into::into));
        };
        let gathered = answer.pointer("/content/name").cloned().unwrap_or_default();
        arguments.insert("name".to_owned(), gathered);
    }
    if background == Background::Never || !declared {
        return Some(run_at_once(&name, &arguments).await.map(Into::into));
    }
    let task = manager.spawn(TaskOptions::default().with_poll_interval_ms(200), move |context| -> TaskFuture {
        Box::pin(async move { run(&name, &arguments, &context).await })
    });
    Some(Ok(CreateTaskResult::new(task).into()))
}

async fn run_at_once(name: &str, arguments: &JsonObject) -> Result<CallToolResult, ErrorData> {
    match name {
        "greet" => text_result(format!("Hello, {}!", string(arguments, "name").unwrap_or("friend"))),
        "slow_compute" => {
            sleep(duration(arguments)).await;
            computed(arguments)
        }
        _ => Err(ErrorData::internal_error("intentional protocol error", None)),
    }
}

async fn run(name: &str, arguments: &JsonObject, context: &TaskContext) -> Result<CallToolResult, TaskExit> {
    match name {
        "slow_compute" => {
            tokio::select! {
                () = context.cancelled() => Err(TaskExit::Cancelled),
                () = sleep(duration(arguments)) => Ok(computed(arguments)?),
            }
        }
        "failing_job" => {
            sleep(Duration::from_millis(500)).await;
            Ok(typed(json!({
                "resultType": "complete",
                "content": [text("intentional tool error")],
                "isError": true,
            }))?)
        }
        "confirm_delete" => {
            let file = string(arguments, "filename").unwrap_or("a file");
            let question = ask(&format!("Delete {file}?"), &json!({"confirm": {"type": "boolean"}}));
            let answer = context.request_input("confirm", question_of(question)?).await?;
            let confirmed = answer.pointer("/content/confirm").and_then(Value::as_bool).unwrap_or(false);
            Ok(text_result(format!("{file}: confirmed = {confirmed}"))?)
        }
        "multi_input" => {
            let value = json!({"value": {"type": "string"}});
            let [first, second] = [question_of(ask("Value A?", &value))?, question_of(ask("Value B?", &value))?];
            let (first, second) = tokio::join!(context.request_input("input-a", first), context.request_input("input-b", second));
            let said = |answer: &Value| answer.pointer("/content/value").and_then(Value::as_str).unwrap_or("").to_owned();
            Ok(text_result(format!("A = {}, B = {}", said(&first?), said(&second?)))?)
        }
        "test_tool_with_task" => {
            sleep(Duration::from_millis(200)).await;
            let name = string(arguments, "name").unwrap_or("stranger");
            Ok(text_result(format!("Finished in the background for {name}."))?)
        }
        _ => {
            sleep(Duration::from_millis(200)).await;
            Err(ErrorData::internal_error("intentional protocol error", None).into())
        }
    }
}

fn computed(arguments: &JsonObject) -> Result<CallToolResult, ErrorData> {
    text_result(format!("{} computed", string(arguments, "label").unwrap_or("value")))
}

/// Between nothing and a minute, one second where the caller does not say.
fn duration(arguments: &JsonObject) -> Duration {
    let seconds = arguments.get("seconds").and_then(Value::as_f64).unwrap_or(1.0);
    Duration::from_secs_f64(seconds.clamp(0.0, 60.0))
}

fn question_of(question: Value) -> Result<InputRequest, ErrorData> {
    typed(question)
}

fn string<'a>(arguments: &'a JsonObject, name: &str) -> Option<&'a str> {
    arguments.get(name).and_then(Value::as_str)
}
