//! `bailiwick demo`: the whole story in a terminal, against the real binary, with a real MCP client over HTTP. Every line that is
//! printed comes from a real answer; where one is not as the story tells it, the story ends with what was wrong.

mod client;
mod stage;

use std::path::Path;
use std::time::Duration;

use bailiwick_identity::person::Word;
use clap::Args;
use serde_json::{Value, json};

use crate::cli::client::{ApiClient, items};
use crate::cli::http::ClientError;
use crate::cli::key_files::{AgentKey, PersonKey};
use crate::cli::screen::{HeldCall, Style, field, line, short, text, texts};
use crate::cli::{Failure, decide, ledger, say, trace};
use crate::config::Config;
use client::{Reply, TaskClient};
use stage::Stage;

/// Play the whole story in this terminal against a broker of its own.
#[derive(Debug, Args)]
pub struct Demo {
    /// Without pauses.
    #[arg(long)]
    fast: bool,
}

impl Demo {
    /// Starts this very program as a broker on a temporary data directory, plays, and stops it.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let style = Style::of_terminal();
        say(style.faint("starting a broker of its own, on a data directory that is removed afterwards ..."));
        let stage = Stage::start().await?;
        let played = async {
            let cast = Cast::new(stage.data_dir(), stage.url(), "ana", "ben")?;
            Story { cast, style, pace: Pace::of(self.fast) }.play().await
        };
        let played = played.await;
        stage.end(played.is_ok()).await?;
        played?;
        say(style.faint("\nthe broker is stopped and its data removed. Your own, with this shop to try things on: bailiwick up"));
        Ok(())
    }
}

/// Plays the story against a broker that runs on this data directory with its embedded defaults.
pub(crate) async fn play_here(data_dir: &Path, url: &str, config: &Config) -> Result<(), Failure> {
    if !config.systems.contains_key("shop") || !config.agents.contains_key("assistant") {
        return Err(Failure::new(
            "the demo needs the sample shop and the agent `assistant`, which this configuration does not have",
            "play it on a broker of its own: bailiwick demo",
        ));
    }
    let owner = config.agents.get("assistant").map(|a| a.agent.owner.to_string()).unwrap_or_default();
    let others = config.people.values().filter(|p| p.roles.contains(&bailiwick_core::Role::Approver));
    let approver = others.map(|p| p.name.to_string()).find(|name| *name != owner).unwrap_or_else(|| owner.clone());
    let cast = Cast::new(data_dir, url, &owner, &approver)?;
    Story { cast, style: Style::of_terminal(), pace: Pace::of(false) }.play().await?;
    say("");
    Ok(())
}

/// Who plays.
struct Cast {
    api: ApiClient,
    agent: AgentKey,
    owner: PersonKey,
    approver: PersonKey,
    data_dir: std::path::PathBuf,
}

impl Cast {
    fn new(data_dir: &Path, url: &str, owner: &str, approver: &str) -> Result<Self, Failure> {
        let name = |e: bailiwick_core::NameError| Failure::new(e.to_string(), "");
        let place = crate::cli::Place::of_data_dir(data_dir);
        Ok(Self {
            api: ApiClient::new(url)?,
            agent: AgentKey::load(data_dir, &place.trust_domain()?, &"assistant".parse().map_err(name)?)?,
            owner: PersonKey::load(data_dir, Some(owner))?,
            approver: PersonKey::load(data_dir, Some(approver))?,
            data_dir: data_dir.to_path_buf(),
        })
    }
}

/// How long one may read.
#[derive(Clone, Copy)]
struct Pace {
    step: Duration,
    decision: Duration,
}

impl Pace {
    const fn of(fast: bool) -> Self {
        if fast {
            Self { step: Duration::ZERO, decision: Duration::ZERO }
        } else {
            Self { step: Duration::from_millis(2200), decision: Duration::from_secs(5) }
        }
    }
}

const ORDER: &str = "O-2009";
const REFUND_CENTS: u64 = 1200;
const MODEL: &str = "demo-model-1";

struct Story {
    cast: Cast,
    style: Style,
    pace: Pace,
}

impl Story {
    async fn play(&self) -> Result<(), Failure> {
        self.prologue();
        self.wait_for_shop().await?;
        let task = self.identity_and_task().await?;
        self.tools(&task).await?;
        self.read(&task).await?;
        let hold = self.write(&task).await?;
        self.again(&task, &hold).await?;
        self.outside(&task).await?;
        self.end(&task).await?;
        self.trace(&hold).await?;
        self.verify().await
    }

    fn prologue(&self) {
        say(self.style.strong("\nA model may answer tickets in a small shop. It may look orders up, and it may refund, if a person agrees."));
        say(format_args!(
            "{} answers for the agent; {} decides.",
            self.cast.owner.name,
            if self.alone() { "the same person".to_owned() } else { self.cast.approver.name.to_string() }
        ));
    }

    /// A system's tools can be granted once it has named them.
    async fn wait_for_shop(&self) -> Result<(), Failure> {
        const TRIES: usize = 200;
        for _ in 0..TRIES {
            let tools = self.cast.api.get(&self.cast.owner, "/v1/tools").await?;
            if items(&tools, "tools").iter().any(|t| text(t, "name") == "shop.refund_order" && text(t, "status") == "classified") {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(not_as_told("the sample shop should offer its tools", "it did not within 10 seconds"))
    }

    fn alone(&self) -> bool {
        self.cast.owner.name == self.cast.approver.name
    }

    async fn heading(&self, words: &str) {
        tokio::time::sleep(self.pace.step).await;
        say(format_args!("\n{}", self.style.strong(words)));
    }

    async fn identity_and_task(&self) -> Result<TaskClient<'_>, Failure> {
        self.heading("The agent proves who it is, with a key that only it holds").await;
        let task = TaskClient::open(
            &self.cast.api,
            &self.cast.agent,
            MODEL,
            &json!({
                "purpose": "answer the ticket about order O-2009",
                "tools": ["shop.show_order", "shop.list_tickets", {"tool": "shop.refund_order", "arguments": {"amount_cents": {"max": 5000}}}],
                "ttl_seconds": 900, "model": MODEL, "budget": {"calls": 20},
            }),
        )
        .await?;
        let document = &task.opened.task;
        say(field("identity", &text(document, "spiffe_id")));
        say(field("instance", &text(document, "instance")));
        say(field("model", &format!("{MODEL}, as the agent says: on record, and worth nothing in a decision")));
        self.heading("It opens a task: no task, no call").await;
        say(field("task", &text(document, "id")));
        say(field("purpose", &text(document, "purpose")));
        say(field("owner", &text(document, "owner")));
        say(field("ends", &format!("by itself at {}", text(document, "expires_at"))));
        for narrowed in &task.opened.narrowed {
            say(field("not granted", &format!("{}: {}", text(narrowed, "asked"), text(narrowed, "reason"))));
        }
        say(field("token", &format!("for this task and this endpoint, good for {} seconds", task.opened.token.expires_in)));
        Ok(task)
    }

    async fn tools(&self, task: &TaskClient<'_>) -> Result<(), Failure> {
        self.heading("The task sees the few tools that it was granted; the others do not exist for it").await;
        let reply = task.request("tools/list", serde_json::Map::new()).await?;
        let names: Vec<String> = items(reply.result()?, "tools").iter().map(|t| text(t, "name")).collect();
        let all = self.cast.api.get(&self.cast.owner, "/v1/tools").await?;
        let shop = items(&all, "tools").iter().filter(|t| text(t, "name").starts_with("shop.")).count();
        expect(names.iter().any(|n| n == "shop.refund_order") && names.len() < shop, "the task should see fewer tools than the shop has", &names)?;
        say(field("tools", &format!("{}  ({} of the shop's {shop})", names.join(", "), names.len())));
        Ok(())
    }

    async fn read(&self, task: &TaskClient<'_>) -> Result<(), Failure> {
        self.heading("It reads an order: reading passes at once").await;
        let reply = task.call("shop.show_order", &json!({ "order": ORDER })).await?;
        let order = reply.content()?;
        let refundable = order.get("refundable_cents").and_then(Value::as_u64).unwrap_or(0);
        say(field("call", &format!("shop.show_order {}", json!({ "order": ORDER }))));
        say(field(
            "answer",
            &format!(
                "{} {}, paid {} cents, {refundable} of them can be refunded",
                text(&order, "quantity"),
                text(&order, "article"),
                text(&order, "paid_cents")
            ),
        ));
        say(self.style.good(&field("decision", &format!("passed, {} ms in all", reply.elapsed.as_millis()))));
        expect(refundable >= REFUND_CENTS, "the order should have something left to refund (start on a fresh data directory)", &refundable)
    }

    /// The write: held, approved by a person, done. Gives the hold's id.
    async fn write(&self, task: &TaskClient<'_>) -> Result<String, Failure> {
        self.heading("It asks to refund: moving money waits for a person").await;
        let arguments = refund();
        say(field("call", &format!("shop.refund_order {arguments}")));
        let call = task.call("shop.refund_order", &arguments);
        let people = async {
            let document = self.wait_for_hold(task, None).await?;
            let held = HeldCall::read(&document)?;
            say(self.style.attention(&field("decision", "held: nothing was sent; the client waits")));
            self.heading(&format!(
                "{} sees the whole call, as `bailiwick approve {}` shows it",
                self.cast.approver.name,
                short(&held.id.to_string())
            ))
            .await;
            say(indented(&held.painted(self.style)));
            tokio::time::sleep(self.pace.decision).await;
            let decided = decide(&self.cast.api, &self.cast.approver, &held, Word::Approve, None).await?;
            let approval = items(&decided, "approvals").last().cloned().unwrap_or_default();
            expect(
                text(&approval, "person") == self.cast.approver.name.as_str(),
                "the approval should be on record under its giver's name",
                &decided,
            )?;
            let signature: String = text(&approval, "signature").chars().take(16).collect();
            let footing = if text(&approval, "kind") == "own_request" { "; marked `own_request`, as nobody else is here" } else { "" };
            say(self.style.good(&format!("\n  approved by {}, signed {signature}...{footing}", text(&approval, "person"))));
            Ok::<_, Failure>(held.id.to_string())
        };
        let (reply, hold) = both(call, people).await?;
        self.heading("The call is made, once, with exactly the bytes that were approved").await;
        let done = reply.content()?;
        expect(done.get("amount_cents").and_then(Value::as_u64) == Some(REFUND_CENTS), "the refund should be of the approved amount", &done)?;
        say(field("answer", &format!("refund {} of {} cents for {}", text(&done, "refund"), text(&done, "amount_cents"), text(&done, "order"))));
        Ok(hold)
    }

    /// The same call again is another call: held anew. This time the person says no.
    async fn again(&self, task: &TaskClient<'_>, first: &str) -> Result<(), Failure> {
        self.heading("The model asks for the same once more: the approval is spent, so it is held anew").await;
        let arguments = refund();
        let call = task.call("shop.refund_order", &arguments);
        let people = async {
            let document = self.wait_for_hold(task, Some(first)).await?;
            let held = HeldCall::read(&document)?;
            say(field("hold", &format!("{} (the first was {})", held.id, short(first))));
            tokio::time::sleep(self.pace.step).await;
            let decided = decide(&self.cast.api, &self.cast.approver, &held, Word::Refuse, Some("it was refunded a moment ago")).await?;
            expect(HeldCall::read(&decided)?.state() == "refused", "the call should be refused", &decided)?;
            Ok::<_, Failure>(())
        };
        let (reply, ()) = both(call, people).await?;
        let told = reply.failure()?;
        say(self.style.bad(&field("refused", &format!("by {}", self.cast.approver.name))));
        say(field("model reads", &told));
        let order = task.call("shop.show_order", &json!({ "order": ORDER })).await?.content()?;
        say(field(
            "refunds",
            &format!(
                "{} of {} cents in all",
                items(&order, "refunds").len(),
                items(&order, "refunds").iter().filter_map(|r| r.get("amount_cents").and_then(Value::as_u64)).sum::<u64>()
            ),
        ));
        Ok(())
    }

    async fn outside(&self, task: &TaskClient<'_>) -> Result<(), Failure> {
        self.heading("It tries a tool that it was not granted, and one that nobody has: the same answer").await;
        for tool in ["shop.delete_customer", "shop.no_such_tool"] {
            let error = task.call(tool, &json!({ "customer": "C-1001" })).await?.error()?;
            let expected = error.get("code").and_then(Value::as_i64) == Some(-32602) && text(&error, "message").contains(tool);
            expect(expected, "an ungranted tool should answer as an absent one", &error)?;
            say(field(tool, &self.style.bad(&format!("{} ({})", text(&error, "message"), text(&error, "code")))));
        }
        Ok(())
    }

    async fn end(&self, task: &TaskClient<'_>) -> Result<(), Failure> {
        self.heading("The work is done: the task ends, and everything of it ends with it").await;
        let ended = self.cast.api.complete(&task.opened.token, task.id).await?;
        let ended = ended.get("task").filter(|t| t.is_object()).unwrap_or(&ended);
        expect(text(ended, "state") != "open", "the task should not be open any more", ended)?;
        say(field("task", &format!("{}: {}", text(ended, "state"), text(ended, "reason"))));
        let dead = match task.request("tools/list", serde_json::Map::new()).await {
            Err(error) if error.status().is_some_and(|s| s.as_u16() == 401) => error,
            other => return Err(not_as_told("the token should be dead with its task", &format!("{other:?}"))),
        };
        say(field("its token", &self.style.bad(&format!("{} {dead}", dead.status().map_or(0, |s| s.as_u16())))));
        let renewed = self.cast.api.token(&self.cast.agent, task.instance, Some(MODEL), Some(task.id)).await;
        let refused = renewed.err().ok_or_else(|| not_as_told("an ended task should get no new token", "it got one"))?;
        say(field("a new one", &self.style.bad(&refused.to_string())));
        Ok(())
    }

    async fn trace(&self, hold: &str) -> Result<(), Failure> {
        self.heading(&format!("Later somebody asks who did that: bailiwick trace {}", short(hold))).await;
        let trace = self.cast.api.get(&self.cast.owner, &format!("/v1/trace/{hold}")).await?;
        let story = trace::story(&trace, self.style);
        for must in [self.cast.agent.spiffe_id.as_str(), self.cast.owner.name.as_str(), self.cast.approver.name.as_str(), "shop.refund_order", MODEL]
        {
            expect(story.contains(must), &format!("the trace should name {must}"), &trace)?;
        }
        say(indented(&story));
        Ok(())
    }

    async fn verify(&self) -> Result<(), Failure> {
        say(self.style.strong("\nAnd the record itself is checked: bailiwick ledger verify"));
        let (size, root) = ledger::verify_store(&self.cast.data_dir, &self.cast.data_dir.join("ledger.vkey")).await?;
        say(self.style.good(&format!("  {size} entries lead to the signed root {root}")));
        Ok(())
    }

    /// The held call of this task that waits, other than `not`.
    async fn wait_for_hold(&self, task: &TaskClient<'_>, not: Option<&str>) -> Result<Value, Failure> {
        const TRIES: usize = 150;
        for _ in 0..TRIES {
            let holds = self.cast.api.get(&self.cast.approver, "/v1/holds?state=pending").await?;
            let of_task = |h: &&Value| text(h, "task") == task.id.to_string() && not != Some(text(h, "id").as_str());
            if let Some(hold) = items(&holds, "holds").iter().find(of_task) {
                let document = self.cast.api.get(&self.cast.approver, &format!("/v1/holds/{}", text(hold, "id"))).await?;
                let people = texts(&document, "people");
                expect(people.iter().any(|p| p == self.cast.approver.name.as_str()), "the approver should be among those who may decide", &people)?;
                return Ok(document);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(not_as_told("the call should be held", "no held call of the task appeared within 15 seconds"))
    }
}

fn refund() -> Value {
    json!({ "order": ORDER, "amount_cents": REFUND_CENTS, "reason": "one stool arrived scratched" })
}

/// The client's call and the person's decision, at the same time. Whichever fails ends the story.
async fn both<T>(
    call: impl Future<Output = Result<Reply, ClientError>>,
    people: impl Future<Output = Result<T, Failure>>,
) -> Result<(Reply, T), Failure> {
    tokio::try_join!(async { call.await.map_err(Failure::from) }, people)
}

fn indented(text: &str) -> String {
    text.lines().map(|l| if l.is_empty() { String::new() } else { format!("  {l}") }).collect::<Vec<_>>().join("\n")
}

fn expect(holds: bool, told: &str, real: &impl std::fmt::Debug) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(not_as_told(told, &format!("{real:?}"))) }
}

fn not_as_told(told: &str, real: &str) -> Failure {
    let real: String = line(real).chars().take(600).collect();
    Failure::new(format!("the story does not go as told: {told}, but: {real}"), "this is a fault of Bailiwick: please report it with this output")
}
