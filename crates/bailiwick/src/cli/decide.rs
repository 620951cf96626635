//! Held calls from the command line: which wait, the whole of one, and a person's signed yes or no to it.

use std::io::{IsTerminal as _, Write as _};

use bailiwick_identity::person::{Verdict, Word};
use clap::Args;
use serde_json::{Value, json};

use super::client::{ApiClient, items};
use super::http::ClientError;
use super::key_files::PersonKey;
use super::screen::{HeldCall, Style, field, line, short, table, text, unique};
use super::{Failure, Place, say, warn};

/// `bailiwick approvals`
pub(crate) async fn approvals(place: &Place) -> Result<(), Failure> {
    let api = ApiClient::of(place)?;
    let holds = api.get(&place.person()?, "/v1/holds?state=pending").await?;
    if place.json {
        say(&holds);
        return Ok(());
    }
    let row = |h: &Value| {
        vec![
            short(&text(h, "id")),
            text(h, "effect"),
            text(h, "tool"),
            text(h, "agent"),
            text(h, "subject"),
            text(h, "expires_at"),
            text(h, "reasons"),
        ]
    };
    let rows: Vec<_> = items(&holds, "holds").iter().map(row).collect();
    if rows.is_empty() {
        warn("no call waits for a decision");
        return Ok(());
    }
    let style = Style::of_terminal();
    say(table(&["hold", "effect", "tool", "agent", "on behalf of", "expires", "held because"], &rows, style));
    say(style.faint("look at one and decide: bailiwick approve HOLD, or bailiwick refuse HOLD"));
    Ok(())
}

/// `bailiwick approve` and `bailiwick refuse`
#[derive(Debug, Args)]
pub(crate) struct Decide {
    /// The held call: its id, or a unique beginning or end of it.
    id: String,
    /// Why. The agent sees it when you refuse.
    #[arg(long)]
    reason: Option<String>,
    /// Do not ask again.
    #[arg(long)]
    yes: bool,
}

impl Decide {
    /// Shows the whole call, asks, signs and sends.
    pub(crate) async fn run(self, place: &Place, approve: bool) -> Result<(), Failure> {
        let api = ApiClient::of(place)?;
        let who = place.person()?;
        let document = find(&api, &who, &self.id).await?;
        let held = HeldCall::read(&document)?;
        if !held.is_pending() {
            return Err(Failure::new(format!("this call does not wait any more: {}", held.state()), "see what became of it: bailiwick trace HOLD"));
        }
        let style = Style::of_terminal();
        if place.json {
            warn(held.painted(Style::plain()))
        } else {
            say(held.painted(style))
        }
        if !self.yes && !confirmed(approve, &who).await? {
            return Err(Failure::new("nothing was decided", ""));
        }
        let word = if approve { Word::Approve } else { Word::Refuse };
        let decided = decide(&api, &who, &held, word, self.reason.as_deref()).await?;
        if place.json {
            say(&decided);
            return Ok(());
        }
        let state = decided.get("state").map_or_else(|| "-".to_owned(), |s| s.as_str().map_or_else(|| text(s, "state"), line));
        say(match word {
            Word::Approve => style.good(&format!("{} by {} ({state}); the approval is for this call, once", "approved", who.name)),
            Word::Refuse => style.bad(&format!("refused by {} ({state})", who.name)),
        });
        Ok(())
    }
}

/// The held call that `given` names.
pub(crate) async fn find(api: &ApiClient, who: &PersonKey, given: &str) -> Result<Value, Failure> {
    let pending = api.get(who, "/v1/holds?state=pending").await?;
    let ids = items(&pending, "holds").iter().filter_map(|h| h.get("id").and_then(Value::as_str));
    let id = unique(given, ids, "held call").or_else(|e| given.parse::<bailiwick_core::HoldId>().map(|_| given).map_err(|_| e))?;
    Ok(api.get(who, &format!("/v1/holds/{id}")).await?)
}

/// Signs the verdict over exactly what was shown, and sends it.
pub(crate) async fn decide(api: &ApiClient, who: &PersonKey, held: &HeldCall<'_>, word: Word, reason: Option<&str>) -> Result<Value, ClientError> {
    let verdict = Verdict { hold: held.id, digest: held.digest, seen: held.seen(), word };
    let signature = verdict.sign(&who.key).map_err(|e| ClientError::Signing(e.to_string()))?;
    let mut body = json!({ "digest": verdict.digest, "seen": verdict.seen, "signature": signature });
    if let (Some(reason), Some(members)) = (reason, body.as_object_mut()) {
        members.insert("reason".to_owned(), json!(reason));
    }
    let verb = match word {
        Word::Approve => "approve",
        Word::Refuse => "refuse",
    };
    api.post(who, &format!("/v1/holds/{}/{verb}", held.id), &body).await
}

async fn confirmed(approve: bool, who: &PersonKey) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new("nobody is here to confirm", "look at the call above, then repeat with --yes"));
    }
    let question = if approve { "Approve exactly this call, once" } else { "Refuse this call" };
    let mut out = std::io::stdout();
    let _ = write!(out, "\n{question}, as {}? Type yes: ", who.name).and_then(|()| out.flush()).is_ok();
    let typed = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let typed = typed.await.map_err(|e| Failure::new(e.to_string(), ""))?.map_err(|e| Failure::new(e.to_string(), ""))?;
    Ok(typed.trim() == "yes")
}

/// `bailiwick sign-in`
pub(crate) async fn sign_in(place: &Place) -> Result<(), Failure> {
    let api = ApiClient::of(place)?;
    let who = place.person()?;
    let answer = api.post(&who, "/v1/sign-in-codes", &json!({})).await?;
    if place.json {
        say(&answer);
        return Ok(());
    }
    say(field("open", &format!("{}/sign-in", api.url())));
    say(field("code", &text(&answer, "code")));
    say(field("", &format!("works once, for {} seconds, for {}", text(&answer, "expires_in"), who.name)));
    Ok(())
}
