//! Older clients in tools of several rounds: where a client of 2026-07-28 gets an `input_required` result, one that shook hands is asked
//! in the middle of its call, all questions of a round at once.
#![expect(deprecated, reason = "the suite still scores what 2026-07-28 removed")]

use rmcp::model::{InputRequest, InputRequiredResult, InputResponses, ProtocolVersion};
use rmcp::service::{Peer, RequestContext, RoleServer};
use rmcp::{ErrorData, ServiceError};
use serde::Serialize;
use serde_json::Value;

/// Does the client of this request take `input_required` results?
pub(crate) fn takes_rounds(context: &RequestContext<RoleServer>) -> bool {
    context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28)
}

/// Puts the questions of one round to the client.
pub(crate) async fn ask(context: &RequestContext<RoleServer>, round: &InputRequiredResult) -> Result<InputResponses, ErrorData> {
    let questions = round.input_requests.clone().unwrap_or_default().into_iter().collect();
    all(&context.peer, questions).await.map_err(|error| ErrorData::internal_error(format!("the client did not answer: {error}"), None))
}

/// All at once, and in this very task: rmcp knows by its task on which stream a question belongs.
async fn all(peer: &Peer<RoleServer>, mut questions: Vec<(String, InputRequest)>) -> Result<InputResponses, ServiceError> {
    let Some((key, question)) = questions.pop() else { return Ok(InputResponses::new()) };
    let (answer, rest) = tokio::join!(answer(peer, question), Box::pin(all(peer, questions)));
    let mut answers = rest?;
    answers.insert(key, answer?);
    Ok(answers)
}

async fn answer(peer: &Peer<RoleServer>, question: InputRequest) -> Result<Value, ServiceError> {
    Ok(match question {
        InputRequest::Elicitation(request) => plain(&peer.create_elicitation(request.params).await?),
        InputRequest::CreateMessage(request) => plain(&peer.create_message(request.params).await?),
        InputRequest::ListRoots(_) => plain(&peer.list_roots().await?),
        _ => Value::Null,
    })
}

fn plain(answer: &impl Serialize) -> Value {
    serde_json::to_value(answer).unwrap_or_default()
}
