//! A call on the wire: taken from a client's request, put to the pipeline, and its answer said in the client's era.

use std::sync::Arc;

use bailiwick_core::{Call, CallId, Digest, ErrorCode};
use bailiwick_wire::mcp::frame::ResultKind;
use bailiwick_wire::mcp::reply;
use bailiwick_wire::mcp::{Method, Refusal, code};
use bailiwick_wire::{Limits, Raw, RawBuf};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::random;
use crate::mcp::exchange::{Exchange, Said, Speaks};
use crate::mcp::parked::{self, Run, Turn};
use crate::mcp::{held, relay, to_open};
use crate::pipeline::{Answer, Asks, Refused, Sending};
use crate::registry::ToolEntry;
use crate::state_seal::State;
use crate::upstream::{Event, Reply};

/// What a client asks to be done.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    /// The name as the client said it.
    pub(super) name: String,
    /// The whole name: system and tool or operation.
    pub(super) whole: String,
    pub(super) entry: Option<Arc<ToolEntry>>,
    /// The exact bytes of the arguments; for an operation, of its parameters.
    pub(super) arguments: Bytes,
    /// `requestState` that the client brought back.
    pub(super) state: Option<String>,
    /// `inputResponses` that the client brought back.
    pub(super) responses: Option<RawBuf>,
    pub(super) cancel: CancellationToken,
}

/// How long a client's `requestState` for a system's own question is taken.
const STATE_LIFE: std::time::Duration = std::time::Duration::from_secs(3600);
/// Rounds in which a modern system may ask a client that shakes hands.
const ROUNDS_MAX: usize = 10;

impl Exchange {
    /// Makes the call and says what came of it. What the system says meanwhile goes to `events`.
    pub(super) async fn call(&self, asked: Asked, events: Option<mpsc::Sender<Event>>) -> Said {
        let mut extra: Vec<(&'static str, String)> = Vec::new();
        let mut leg = 0;
        let mut run: Option<Run> = None;
        if let Some(text) = &asked.state {
            match self.take_state(&asked, text).await {
                Ok(Taken::Leg(l)) => leg = l,
                Ok(Taken::Run(taken)) => run = Some(*taken),
                // A system that shakes hands is only asked anew: it knows by itself that its page was opened.
                Ok(Taken::Upstream(_)) if asked.entry.as_ref().is_some_and(|e| matches!(self.asks(&e.system), Asks::Legacy { .. })) => {
                    if asked.responses.as_ref().is_some_and(|r| to_open::declined(r.raw())) {
                        return self.refused(asked.method, &asked.name, &to_open::not_opened());
                    }
                }
                Ok(Taken::Upstream(inner)) => {
                    if let Some(inner) = inner {
                        extra.push(("requestState", quoted(&inner)));
                    }
                    if let Some(responses) = &asked.responses {
                        extra.push(("inputResponses", responses.raw().text().to_owned()));
                    }
                }
                Err(said) => return said,
            }
        } else if let (Some(responses), Some(entry)) = (&asked.responses, &asked.entry)
            && matches!(self.asks(&entry.system), Asks::Modern { .. })
        {
            // A system that keeps no state asks for none back; it judges the answers itself.
            extra.push(("inputResponses", responses.raw().text().to_owned()));
        }
        let mut waiting = held::Waiting::new(leg);
        for _ in 0..ROUNDS_MAX {
            let answer = match self.turn(&asked, &mut run, &extra, events.as_ref()).await {
                Turn::Answered(answer) => answer,
                Turn::Asked => match run.take() {
                    Some(run) => return self.park(&asked, run),
                    None => continue,
                },
            };
            let (result, system) = match (answer, &asked.entry) {
                (Answer::Done(Reply::Result(result)), Some(entry)) => (result, entry),
                (Answer::Done(Reply::Result(_)), None) => return self.refused(asked.method, &asked.name, &unknown()),
                (Answer::Done(Reply::Error { code, message, data, http_status }), _) => {
                    return self
                        .to_open(&asked, code, data.as_ref())
                        .unwrap_or_else(|| self.upstream_error(code, &message, data.as_ref(), http_status));
                }
                (Answer::Refused(refused), _) => return self.refused(asked.method, &asked.name, &refused),
                (Answer::Held(hold), _) => match waiting.step(self, &asked, *hold, events.as_ref()).await {
                    held::Step::Again => continue,
                    held::Step::Say(said) => return said,
                },
            };
            match ResultKind::of(result.raw()) {
                ResultKind::InputRequired if self.is_modern() => return self.input_required(&asked, &result),
                ResultKind::InputRequired => match relay::ask_all(self, &result, events.as_ref()).await {
                    Some(answers) => extra = answers,
                    None => return self.refused(asked.method, &asked.name, &no_answer()),
                },
                ResultKind::Complete => {
                    if let (Some(session), Method::ResourcesSubscribe | Method::ResourcesUnsubscribe) = (legacy_session(self), asked.method) {
                        session.heed(&asked.name, asked.method == Method::ResourcesSubscribe);
                    }
                    let mut message = Vec::with_capacity(result.raw().text().len().saturating_add(256));
                    self.writer().upstream_result(&mut message, &self.id, asked.method, result.raw());
                    return Said::ok(message);
                }
                _ => {
                    tracing::warn!(tool = %system.tool.name, "the system's answer is of a kind that was not asked for");
                    return self.refused(
                        asked.method,
                        &asked.name,
                        &Refused { code: ErrorCode::UpstreamBroken, detail: "the system's answer is of a kind that was not asked for".to_owned() },
                    );
                }
            }
        }
        self.refused(asked.method, &asked.name, &no_answer())
    }

    /// The next thing to come of the call: in a run of its own, if its system may ask in the middle of it.
    async fn turn(&self, asked: &Asked, run: &mut Option<Run>, extra: &[(&'static str, String)], events: Option<&mpsc::Sender<Event>>) -> Turn {
        if run.is_none() {
            let Some(patience) = parked::may_ask(self, asked) else {
                return Turn::Answered(self.once(asked, extra.to_vec(), events.cloned()).await);
            };
            *run = Some(Run::start(self, asked, extra.to_vec(), patience));
        }
        let Some(running) = run.as_mut() else { return Turn::Asked };
        let turn = running.turn(self, events).await;
        if matches!(turn, Turn::Answered(_)) {
            *run = None;
        }
        turn
    }

    /// One way through the pipeline.
    pub(super) async fn once(&self, asked: &Asked, extra: Vec<(&'static str, String)>, events: Option<mpsc::Sender<Event>>) -> Answer {
        let now = self.house.clock.now();
        let call = Call::new(CallId::new(now, random()), now, asked.whole.clone(), asked.arguments.clone());
        let sending = Sending {
            asks: asked.entry.as_ref().map_or_else(|| Asks::Modern { capabilities: Raw::EMPTY_OBJECT.to_owned() }, |e| self.asks(&e.system)),
            session: self.session_key(),
            method: asked.method,
            meta: self.meta.clone(),
            progress: self.progress.clone(),
            events,
            cancel: asked.cancel.clone(),
            extra,
            waits: parked::may_ask(self, asked).map(|_| parked::PARKED_FOR),
            life: None,
            told: self.told.clone(),
            lease: None,
        };
        self.house.handle(call, &self.who, asked.entry.as_ref(), self.traceparent.as_deref(), sending).await
    }

    async fn take_state(&self, asked: &Asked, text: &str) -> Result<Taken, Said> {
        let refuse = |why: &'static str| {
            Said::refusal(&Refusal { http_status: 200, ..Refusal::bad_request(code::INVALID_PARAMS, why).with_id(self.id_ref()) })
        };
        let now = self.house.clock.now();
        let here = self.who.live.task.id;
        match self.house.state_seal.open(text) {
            Some(State::Hold { hold, task, key, until, leg }) if task == here && now < until && self.state_key(asked) == Some(key) => {
                if asked.responses.as_ref().is_some_and(|r| held::declined(r.raw())) {
                    if let Err(error) = self.house.withdraw(hold).await {
                        tracing::warn!(%error, "a hold could not be withdrawn");
                    }
                    let refused = Refused {
                        code: ErrorCode::HoldRefused,
                        detail: "the request for approval was declined at the client; the call was not made".to_owned(),
                    };
                    return Err(self.refused(asked.method, &asked.name, &refused));
                }
                Ok(Taken::Leg(leg))
            }
            Some(State::Upstream { task, key, inner, until }) if task == here && now < until && self.state_key(asked) == Some(key) => {
                Ok(Taken::Upstream(inner))
            }
            Some(State::Parked { id, task, key, until }) if task == here && now < until && self.state_key(asked) == Some(key) => {
                self.resume(asked, &id, &key).map(|run| Taken::Run(Box::new(run))).ok_or_else(|| refuse("requestState was used or has expired"))
            }
            Some(_) => Err(refuse("requestState is for another call or has expired")),
            None => Err(refuse("requestState is not valid")),
        }
    }

    /// A modern system asks for input: its state goes to the client inside ours, bound to task and call.
    pub(super) fn input_required(&self, asked: &Asked, result: &RawBuf) -> Said {
        let now = self.house.clock.now();
        let inner = result.raw().member("requestState").and_then(Raw::string).map(std::borrow::Cow::into_owned);
        let Some(key) = self.state_key(asked) else { return self.refused(asked.method, &asked.name, &unknown()) };
        let state = State::Upstream { task: self.who.live.task.id, key, inner, until: now.plus(STATE_LIFE) };
        let Some(sealed) = self.house.state_seal.seal(&state) else { return self.refused(asked.method, &asked.name, &unknown()) };
        let mut message = Vec::new();
        self.writer().input_required(&mut message, &self.id, result.raw(), &sealed);
        Said::ok(message)
    }

    /// What a `requestState` is bound to: tool, definition, target, task and arguments, whatever their spacing and key order. `None`: there
    /// is no such tool any more.
    pub(super) fn state_key(&self, asked: &Asked) -> Option<Digest> {
        let tool = &asked.entry.as_ref()?.tool;
        let raw = Raw::parse(&asked.arguments, &Limits::REQUEST).ok()?;
        let mut canonical = Vec::new();
        let _ = bailiwick_wire::canonical(raw, &mut canonical);
        let task = self.who.live.task.id.to_bytes();
        let parts: [&[u8]; 5] = [tool.name.as_str().as_bytes(), tool.definition.as_bytes(), tool.target.as_bytes(), &task, &canonical];
        Some(Digest::bind("bailiwick/request-state/v2", &parts))
    }

    pub(super) fn upstream_error(&self, number: i64, text: &str, data: Option<&RawBuf>, http_status: u16) -> Said {
        let number = i32::try_from(number).unwrap_or(code::INTERNAL_ERROR);
        // -32002 was the handshake revisions' word for a resource that is not there.
        let number = if self.is_modern() && number == -32_002 { code::INVALID_PARAMS } else { number };
        let mut message = Vec::new();
        reply::error(&mut message, Some(&self.id), number, text, data.map(RawBuf::raw));
        // A system that shakes hands has no status of its own for these; 2026-07-28 has (MCP, error handling).
        let refused = [code::HEADER_MISMATCH, code::MISSING_CAPABILITY, code::UNSUPPORTED_VERSION].contains(&number);
        let status = match http_status {
            400 | 404 if self.is_modern() => http_status,
            _ if self.is_modern() && refused => 400,
            _ => 200,
        };
        Said { status, message }
    }
}

enum Taken {
    Leg(u32),
    Upstream(Option<String>),
    Run(Box<Run>),
}

pub(super) fn unknown() -> Refused {
    Refused { code: ErrorCode::ToolUnknown, detail: ErrorCode::ToolUnknown.sentence().to_owned() }
}

fn no_answer() -> Refused {
    Refused { code: ErrorCode::UpstreamBroken, detail: "the system asked for input that this client does not give".to_owned() }
}

pub(super) fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    bailiwick_wire::json::write_string(&mut out, text);
    String::from_utf8(out).unwrap_or_default()
}

/// The parameters of an operation without what is the envelope's, in written order.
pub(super) fn operation_arguments(params: Raw<'_>, rename: Option<&str>) -> Bytes {
    let mut out = Vec::with_capacity(params.text().len());
    out.push(b'{');
    for (key, value) in params.entries() {
        let name = key.string().unwrap_or_default();
        if matches!(&*name, "_meta" | "requestState" | "inputResponses" | "task" | "cursor") {
            continue;
        }
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(key.bytes());
        out.push(b':');
        match rename {
            Some(new) if name == "name" => bailiwick_wire::json::write_string(&mut out, new),
            Some(_) | None => out.extend_from_slice(value.bytes()),
        }
    }
    out.push(b'}');
    Bytes::from(out)
}

/// Whether the exchange is of a client that shakes hands.
pub(super) const fn legacy_session(exchange: &Exchange) -> Option<&Arc<crate::mcp::session::Session>> {
    match &exchange.speaks {
        Speaks::Legacy(session) => Some(session),
        Speaks::Modern { .. } => None,
    }
}
