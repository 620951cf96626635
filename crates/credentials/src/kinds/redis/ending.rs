//! The end of a user: a mint that hangs cut off, the user removed on every node and from the file that would bring it back, its login tried.

use futures_util::future::join_all;

use super::{Redis, Session, minter, passwords, run_word, target};
use crate::kinds::connection::Failure;
use crate::kinds::{NO_SECRET, revoked, together};
use crate::lease::{Account, Ending, Evidence, Node, Step, TargetCode, TargetError};

/// How often connections are looked for, until none is left. The node closes them by itself.
const LOOKS_MAX: usize = 20;
const LOOK_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Ends the user; each step may be done already. A node that cannot be reached keeps this from being an end, and the others from nothing.
pub(super) async fn end(system: &Redis, account: &Account) -> Result<Ending, TargetError> {
    let at = |node| End { system, account, node, evidence: Evidence::default(), doubt: None };
    let removed = join_all(system.settings.nodes.iter().map(|node| at(node).remove_and_look())).await;
    let removed = removed.into_iter().collect::<Result<Vec<_>, _>>()?;
    let (mut evidence, mut doubts) = (Vec::new(), Vec::new());
    for end in removed {
        doubts.extend(end.doubt);
        evidence.push(end.evidence);
    }
    if account.secret.is_some() {
        let tried = join_all(system.settings.nodes.iter().map(|node| at(node).try_login())).await;
        evidence.extend(tried.into_iter().collect::<Result<Vec<_>, _>>()?);
    } else {
        doubts.push(NO_SECRET.to_owned());
    }
    Ok(revoked(&doubts, together(evidence)))
}

/// The end on one node.
struct End<'a> {
    system: &'a Redis,
    account: &'a Account,
    node: &'a Node,
    evidence: Evidence,
    /// Why the user may come back, although it is gone.
    doubt: Option<String>,
}

impl End<'_> {
    fn saw(&mut self, step: Step, saw: &str) {
        let now = self.system.clock.now();
        self.evidence.saw(self.node.name(), step, now, saw, self.account.secret.as_ref());
    }

    fn error(&self, code: TargetCode, step: Step, detail: &str) -> TargetError {
        TargetError::new(code, step, self.node.name(), detail)
    }

    async fn remove_and_look(mut self) -> Result<Self, TargetError> {
        let mut session = self.system.at(self.node, super::OURS).await?;
        self.cut_off_mint(&mut session).await?;
        self.remove(&mut session).await?;
        self.forget(&mut session).await?;
        self.nothing_left(&mut session).await?;
        Ok(self)
    }

    /// Ends the connection of a mint of this name, if one is open: what it sent and the server has not read yet is never done.
    async fn cut_off_mint(&mut self, session: &mut Session) -> Result<(), TargetError> {
        let minter = minter(&self.account.name);
        for client in session.clients(Step::Gate).await?.into_iter().filter(|client| client.name == minter) {
            match session.ask(&["CLIENT", "KILL", "ID", &client.id]).await {
                Ok(_) => self.saw(Step::Gate, "the connection of its mint was ended"),
                Err(Failure::Said(words)) if words.contains("No such client") => {}
                Err(failure) => return Err(target(&failure, Step::Gate, self.node.name())),
            }
        }
        Ok(())
    }

    /// `off` would leave open connections as they are, and would make a user that is not there. This ends them, whatever they do.
    async fn remove(&mut self, session: &mut Session) -> Result<(), TargetError> {
        let name = self.account.name.as_str();
        let open = session.clients(Step::Kill).await?.into_iter().filter(|client| client.user == name).count();
        session.run(Step::Remove, &["ACL", "DELUSER", name]).await?;
        self.saw(Step::Remove, &format!("user removed, and {open} connections with it"));
        Ok(())
    }

    /// Writes the node's file of users anew, if the user may stand in it.
    async fn forget(&mut self, session: &mut Session) -> Result<(), TargetError> {
        match session.ask(&["ACL", "SAVE"]).await {
            Ok(_) => self.saw(Step::Remove, "the ACL file is written anew, without it"),
            Err(Failure::Said(words)) if words.contains("not configured to use an ACL file") => self.forget_in_configuration(session).await?,
            Err(Failure::Said(words)) if words.contains("error trying to save") => self.doubt("ACL file", &words),
            Err(failure) => return Err(target(&failure, Step::Remove, self.node.name())),
        }
        Ok(())
    }

    /// The user may stand in a file that the server cannot write.
    fn doubt(&mut self, file: &str, words: &str) {
        self.saw(Step::Remove, &format!("the server cannot write its {file}: {words}"));
        let node = self.node.name();
        self.doubt = Some(format!("`{node}` cannot write its {file}: if the user stands in it, a restart brings it back"));
    }

    async fn forget_in_configuration(&mut self, session: &mut Session) -> Result<(), TargetError> {
        let info = session.info(Step::Remove, &["server", "commandstats"]).await?;
        if info.find("config_file").is_none_or(str::is_empty) {
            self.saw(Step::Remove, "the node keeps users in memory only");
            return Ok(());
        }
        let same_run = info.find("run_id").is_some_and(|run| self.account.ids.find(&run_word(self.node)) == Some(run));
        // Whoever forgets the statistics may have forgotten that the configuration was written. A try that failed counts as well.
        let written = ["cmdstat_config|rewrite", "cmdstat_config|resetstat"].iter().any(|command| info.find(command).is_some());
        if same_run && !written {
            self.saw(Step::Remove, "the configuration was not written while the user was there");
            return Ok(());
        }
        match session.ask(&["CONFIG", "REWRITE"]).await {
            Ok(_) => self.saw(Step::Remove, "the configuration is written anew, without it"),
            Err(Failure::Said(words)) if words.contains("Permission denied") || words.contains("Read-only file system") => {
                self.doubt("configuration", &words);
            }
            Err(failure) => return Err(target(&failure, Step::Remove, self.node.name())),
        }
        Ok(())
    }

    /// No user and no connection, by the node's own word.
    async fn nothing_left(&mut self, session: &mut Session) -> Result<(), TargetError> {
        let name = self.account.name.as_str();
        for _ in 0..LOOKS_MAX {
            let open = session.clients(Step::Verify).await?.into_iter().any(|client| client.user == name);
            if !open {
                if passwords(session, Step::Verify, name).await?.is_some() {
                    return Err(self.error(TargetCode::Busy, Step::Verify, "the user is there again"));
                }
                self.saw(Step::Verify, "no user and no connection");
                return Ok(());
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Err(self.error(TargetCode::Busy, Step::Verify, "connections do not end"))
    }

    /// Tries the login.
    async fn try_login(mut self) -> Result<Evidence, TargetError> {
        let Some(secret) = &self.account.secret else { return Ok(self.evidence) };
        match Session::open(self.node, self.account.name.as_str(), secret, super::OURS).await {
            Ok(_) => Err(self.error(TargetCode::Busy, Step::Verify, "the login is still accepted")),
            Err(Failure::Said(words)) if words.starts_with("WRONGPASS") => {
                self.saw(Step::Verify, &words);
                Ok(self.evidence)
            }
            Err(failure) => Err(target(&failure, Step::Verify, self.node.name())),
        }
    }
}
