//! Tools and prompts of several rounds: the 2026-07-28 `input_required` results and the sealed `requestState` between them.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use rmcp::ErrorData;
use rmcp::model::{CallToolResponse, ClientCapabilities, GetPromptResponse, InputRequiredResult, InputResponses};
use serde_json::{Value, json};

use crate::contents::{prompt, text, text_result, typed};

/// What a retry brings back.
#[derive(Debug)]
pub(crate) struct Round<'a> {
    pub(crate) responses: Option<&'a InputResponses>,
    pub(crate) state: Option<&'a str>,
    pub(crate) capabilities: Option<&'a ClientCapabilities>,
}

/// Seals a state with a keyed hash under this process's random key: enough to notice a changed state in a fixture.
#[derive(Debug, Clone, Default)]
pub(crate) struct StateSeal {
    key: Arc<RandomState>,
}

impl StateSeal {
    fn seal(&self, state: &str) -> String {
        format!("{state}.{:016x}", self.key.hash_one(state))
    }

    fn open<'a>(&self, sealed: &'a str) -> Result<&'a str, ErrorData> {
        match sealed.rsplit_once('.') {
            Some((state, _)) if self.seal(state) == sealed => Ok(state),
            _ => Err(ErrorData::invalid_params("requestState is not one that this server gave out", None)),
        }
    }
}

/// The tools of several rounds; `None` for all others.
pub(crate) fn call(seal: &StateSeal, name: &str, round: &Round<'_>) -> Option<Result<CallToolResponse, ErrorData>> {
    let tool = name.strip_prefix("test_input_required_result_")?;
    Some(round.state.map(|sealed| seal.open(sealed)).transpose().and_then(|state| match tool {
        "elicitation" => one_question(round, "user_name", ask_name(), greeting),
        "sampling" => one_question(round, "capital_question", sample("What is the capital of France?"), |answer| {
            format!("Model said: {}", answer.pointer("/content/text").and_then(Value::as_str).unwrap_or("nothing"))
        }),
        "list_roots" => one_question(round, "client_roots", list_roots(), |answer| {
            format!("Client has {} root(s).", answer.get("roots").and_then(Value::as_array).map_or(0, Vec::len))
        }),
        "request_state" => confirmed(seal, round, state, "confirm-once"),
        "tampered_state" => confirmed(seal, round, state, "round-1"),
        "multiple_inputs" => three_questions(seal, round, state),
        "multi_round" => two_rounds(seal, round, state),
        "capabilities" => by_capability(seal, round, state),
        _ => Err(ErrorData::invalid_params(format!("Unknown tool: {name}"), None)),
    }))
}

/// The one prompt that asks something before it answers.
pub(crate) fn contextual_prompt(round: &Round<'_>) -> Result<GetPromptResponse, ErrorData> {
    match round.answer("user_context") {
        Some(answer) => {
            let context = member(answer, "context").unwrap_or("nothing");
            Ok(prompt(vec![text(&format!("Use the following context: {context}"))])?.into())
        }
        None => {
            let question = ask("What context should the prompt use?", &json!({"context": {"type": "string"}}));
            Ok(required(json!({"user_context": question}), None)?.into())
        }
    }
}

/// An `input_required` result with one question, for tools elsewhere.
pub(crate) fn ask_once(key: &str, question: Value) -> Result<InputRequiredResult, ErrorData> {
    required(json!({ key: question }), None)
}

impl Round<'_> {
    /// The answer under a key, if it is an object as every kind of answer is; anything else is as good as missing.
    pub(crate) fn answer(&self, key: &str) -> Option<&Value> {
        self.responses?.get(key).filter(|answer| answer.is_object())
    }
}

fn one_question(round: &Round<'_>, key: &str, question: Value, answered: impl Fn(&Value) -> String) -> Result<CallToolResponse, ErrorData> {
    match round.answer(key) {
        Some(answer) => Ok(text_result(answered(answer))?.into()),
        None => Ok(ask_once(key, question)?.into()),
    }
}

fn confirmed(seal: &StateSeal, round: &Round<'_>, state: Option<&str>, expected: &str) -> Result<CallToolResponse, ErrorData> {
    if state == Some(expected) && round.answer("confirm").is_some() {
        return Ok(text_result("state-ok: confirmation received")?.into());
    }
    let question = ask("Please confirm", &json!({"ok": {"type": "boolean"}}));
    Ok(required(json!({"confirm": question}), Some(seal.seal(expected)))?.into())
}

fn three_questions(seal: &StateSeal, round: &Round<'_>, state: Option<&str>) -> Result<CallToolResponse, ErrorData> {
    let keys = ["user_name", "greeting", "client_roots"];
    if state == Some("three") && keys.iter().all(|key| round.answer(key).is_some()) {
        return Ok(text_result("All inputs received.")?.into());
    }
    let questions = json!({"user_name": ask_name(), "greeting": sample("Generate a greeting"), "client_roots": list_roots()});
    Ok(required(questions, Some(seal.seal("three")))?.into())
}

/// The state names the round and carries the answer of the first one.
fn two_rounds(seal: &StateSeal, round: &Round<'_>, state: Option<&str>) -> Result<CallToolResponse, ErrorData> {
    if let (Some("first"), Some(answer)) = (state, round.answer("step1")) {
        let question = ask("Step 2: What is your favorite color?", &json!({"color": {"type": "string"}}));
        let state = format!("second {}", member(answer, "name").unwrap_or("Someone"));
        return Ok(required(json!({"step2": question}), Some(seal.seal(&state)))?.into());
    }
    if let (Some(name), Some(answer)) = (state.and_then(|state| state.strip_prefix("second ")), round.answer("step2")) {
        return Ok(text_result(format!("{name} likes {}.", member(answer, "color").unwrap_or("no color")))?.into());
    }
    let question = ask("Step 1: What is your name?", &json!({"name": {"type": "string"}}));
    Ok(required(json!({"step1": question}), Some(seal.seal("first")))?.into())
}

fn by_capability(seal: &StateSeal, round: &Round<'_>, state: Option<&str>) -> Result<CallToolResponse, ErrorData> {
    if state == Some("by-capability") && round.responses.is_some_and(|responses| !responses.is_empty()) {
        return Ok(text_result("Answered.")?.into());
    }
    let mut questions = json!({});
    if let (Some(declared), Some(questions)) = (round.capabilities, questions.as_object_mut()) {
        if declared.sampling.is_some() {
            questions.insert("sample".to_owned(), sample("Say hello"));
        }
        if declared.elicitation.is_some() {
            questions.insert("ask".to_owned(), ask_name());
        }
    }
    Ok(required(questions, Some(seal.seal("by-capability")))?.into())
}

fn required(questions: Value, state: Option<String>) -> Result<InputRequiredResult, ErrorData> {
    Ok(InputRequiredResult::new(Some(typed(questions)?), state))
}

fn ask_name() -> Value {
    ask("What is your name?", &json!({"name": {"type": "string"}}))
}

fn greeting(answer: &Value) -> String {
    format!("Hello, {}!", member(answer, "name").unwrap_or("stranger"))
}

/// A form elicitation whose properties are all required.
pub(crate) fn ask(message: &str, properties: &Value) -> Value {
    let required: Vec<_> = properties.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
    json!({
        "method": "elicitation/create",
        "params": {
            "mode": "form",
            "message": message,
            "requestedSchema": {"type": "object", "properties": properties, "required": required},
        },
    })
}

fn sample(prompt: &str) -> Value {
    json!({
        "method": "sampling/createMessage",
        "params": {"messages": [{"role": "user", "content": text(prompt)}], "maxTokens": 100},
    })
}

fn list_roots() -> Value {
    json!({"method": "roots/list"})
}

fn member<'a>(answer: &'a Value, name: &str) -> Option<&'a str> {
    answer.get("content")?.get(name)?.as_str()
}
