//! What sorts with a connection of `credentials::sessions` share: the table of a node, and what an error of a session means for a call.

use std::fs;
use std::path::{Path, PathBuf};

use bailiwick_core::Effect;
use bailiwick_credentials::lease::{Node, Trust};
use bailiwick_credentials::sessions::SessionError;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Answer, Refusal, UseError};

const NODES_MAX: usize = 32;
/// Certificates of authorities are longer only by mistake.
const PEM_MAX: u64 = 1 << 20;

/// A server of the system.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeFile {
    /// What evidence calls it; host and port unless it is said.
    name: Option<String>,
    /// Its name or its address.
    host: String,
    /// Its port; the usual one of the protocol unless it is said.
    port: Option<u16>,
    /// A file with the certificates (PEM) of the authorities that vouch for it. Needed unless it is on this machine: a credential crosses no network without TLS.
    ca: Option<PathBuf>,
}

/// The nodes; `port` is the usual one, `folder` that of the configuration.
pub(crate) fn nodes(files: &[NodeFile], port: u16, folder: &Path) -> Result<Vec<Node>, String> {
    if files.is_empty() || files.len() > NODES_MAX {
        return Err(format!("expected 1 to {NODES_MAX} nodes"));
    }
    files.iter().map(|file| node(file, port, folder).map_err(|why| format!("node `{}`: {why}", file.host))).collect()
}

fn node(file: &NodeFile, port: u16, folder: &Path) -> Result<Node, String> {
    let port = file.port.unwrap_or(port);
    let trust = file.ca.as_deref().map(|path| trust(&folder.join(path))).transpose()?;
    let name = file.name.clone().unwrap_or_else(|| format!("{}:{port}", file.host));
    Node::new(&name, &file.host, port, trust).map_err(|error| error.to_string())
}

fn trust(path: &Path) -> Result<Trust, String> {
    let trouble = |why: &str| format!("`{}`: {why}", path.display());
    let length = fs::metadata(path).map_err(|error| trouble(&error.to_string()))?.len();
    if length > PEM_MAX {
        return Err(trouble("it is longer than a mebibyte"));
    }
    let pem = fs::read(path).map_err(|error| trouble(&error.to_string()))?;
    Trust::new(&pem).map_err(|error| trouble(&error.to_string()))
}

/// `redis://cache1:6379, ..`, for people and for the call's digest.
pub(crate) fn target(scheme: &str, nodes: &[Node]) -> String {
    let places = nodes.iter().map(|node| format!("{scheme}://{}:{}", node.host(), node.port()));
    places.collect::<Vec<_>>().join(", ")
}

/// The effect of what moves others: `influence` unless the configuration says that it is more.
pub(crate) fn effect_of_publishing(said: Option<Effect>) -> Result<Effect, String> {
    match said.unwrap_or(Effect::Influence) {
        Effect::Read => Err("`effect`: what is published moves others, so it is at least `influence`".to_owned()),
        effect => Ok(effect),
    }
}

/// The arguments of a tool. What the schema does not name is refused.
pub(crate) fn arguments<T: DeserializeOwned>(arguments: &Value) -> Result<T, Refusal> {
    T::deserialize(arguments).map_err(|error| Refusal::new(format!("the arguments are not as the tool's schema says: {error}")))
}

/// What came of a call. What the system refuses is an answer, of which the model can learn something.
pub(crate) fn answer(done: Result<Value, SessionError>) -> Result<Answer, UseError> {
    match done {
        Ok(structured) => Ok(Answer { structured, is_error: false }),
        Err(SessionError::Refused { code, words }) => {
            Ok(Answer { structured: json!({ "refused": { "code": code, "words": words } }), is_error: true })
        }
        Err(error) => Err(trouble(&error)),
    }
}

pub(crate) fn trouble(error: &SessionError) -> UseError {
    UseError { words: error.to_string(), may_have_run: error.may_have_run(), gone: error.gone(), login_refused: error.is_login_refused() }
}

/// The work, unless the call is cancelled: then it is dropped, and the connection with it.
pub(crate) async fn unless_cancelled(cancel: &CancellationToken, work: impl Future<Output = Result<Answer, UseError>>) -> Result<Answer, UseError> {
    tokio::select! {
        biased;
        answer = work => answer,
        () = cancel.cancelled() => Err(UseError { words: "the call was cancelled".to_owned(), may_have_run: true, gone: true, login_refused: false }),
    }
}

/// What a refused call says, for the schema of answers.
pub(crate) fn refused_schema() -> Value {
    json!({
        "type": "object",
        "description": "in place of the answer, where the system refused",
        "properties": { "code": { "type": "string" }, "words": { "type": "string" } },
        "required": ["code", "words"],
        "additionalProperties": false,
    })
}

/// A tool's definition. `input` and `output` are properties, with those that are needed.
pub(crate) fn definition(name: &str, title: &str, description: &str, effect: Effect, input: (&Value, &[&str]), output: &Value) -> Value {
    let mut output = output.clone();
    if let Some(properties) = output.as_object_mut() {
        properties.insert("refused".to_owned(), refused_schema());
    }
    json!({
        "name": name,
        "title": title,
        "description": description,
        "inputSchema": { "type": "object", "properties": input.0, "required": input.1, "additionalProperties": false },
        "outputSchema": { "type": "object", "properties": output, "additionalProperties": false },
        "annotations": {
            "readOnlyHint": effect == Effect::Read,
            "destructiveHint": matches!(effect, Effect::Delete | Effect::Transfer | Effect::Approve | Effect::Issue),
            "openWorldHint": false,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(host: &str, ca: Option<&str>) -> NodeFile {
        NodeFile { name: None, host: host.to_owned(), port: None, ca: ca.map(PathBuf::from) }
    }

    #[test]
    fn a_node_of_another_machine_needs_an_authority() {
        let here = Path::new("/nowhere");
        let found = nodes(&[file("127.0.0.1", None)], 6379, here).unwrap();
        assert_eq!((found[0].name(), target("redis", &found)), ("127.0.0.1:6379", "redis://127.0.0.1:6379".to_owned()));
        assert!(nodes(&[file("cache.example.org", None)], 6379, here).unwrap_err().contains("need TLS"));
        assert!(nodes(&[file("cache.example.org", Some("ca.pem"))], 6379, here).unwrap_err().contains("`/nowhere/ca.pem`"));
        assert!(nodes(&[], 6379, here).is_err());
    }

    #[test]
    fn publishing_is_never_reading() {
        assert_eq!(effect_of_publishing(None), Ok(Effect::Influence));
        assert_eq!(effect_of_publishing(Some(Effect::Transfer)), Ok(Effect::Transfer));
        assert!(effect_of_publishing(Some(Effect::Read)).is_err());
    }

    #[test]
    fn a_refusal_is_an_answer_and_a_lost_connection_is_none() {
        let refused = answer(Err(SessionError::Refused { code: "NOPERM".into(), words: "no".into() })).unwrap();
        assert!(refused.is_error && refused.structured == json!({ "refused": { "code": "NOPERM", "words": "no" } }));
        let lost = answer(Err(SessionError::Lost { words: "gone".into(), may_have_run: true })).unwrap_err();
        assert!(lost.gone && lost.may_have_run);
        let not_sent = answer(Err(SessionError::NotSent("too long".into()))).unwrap_err();
        assert!(!not_sent.gone && !not_sent.may_have_run);
    }
}
