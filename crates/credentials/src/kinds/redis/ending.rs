//! The end of a user: a mint that hangs cut off, the user removed on every node and from the file that would bring it back, its login tried.

use super::{Redis, Session, minter, passwords, run_word, target};
use crate::kinds::connection::Failure;
use crate::lease::{Account, Ending, Evidence, Node, Step, TargetCode, TargetError};

/// How often connections are looked for, until none is left. The node closes them by itself.
const LOOKS_MAX: usize = 20;
const LOOK_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Ends the user; each step may be done already.
pub(super) async fn end(system: &Redis, account: &Account) -> Result<Ending, TargetError> {
    let mut end = End { system, account, evidence: Evidence::default() };
    for node in &system.settings.nodes {
        let mut session = system.at(node, super::OURS).await?;
        end.cut_off_mint(node, &mut session).await?;
        end.remove(node, &mut session).await?;
        end.forget(node, &mut session).await?;
        end.nothing_left(node, &mut session).await?;
    }
    end.verify().await
}

struct End<'a> {
    system: &'a Redis,
    account: &'a Account,
    evidence: Evidence,
}

impl End<'_> {
    fn saw(&mut self, node: &Node, step: Step, saw: &str) {
        let now = self.system.clock.now();
        self.evidence.saw(node.name(), step, now, saw, self.account.secret.as_ref());
    }

    /// Ends the connection of a mint of this name, if one is open: what it sent and the server has not read yet is never done.
    async fn cut_off_mint(&mut self, node: &Node, session: &mut Session) -> Result<(), TargetError> {
        let minter = minter(&self.account.name);
        for client in session.clients(Step::Gate).await?.into_iter().filter(|client| client.name == minter) {
            match session.ask(&["CLIENT", "KILL", "ID", &client.id]).await {
                Ok(_) => self.saw(node, Step::Gate, "the connection of its mint was ended"),
                Err(Failure::Said(words)) if words.contains("No such client") => {}
                Err(failure) => return Err(target(&failure, Step::Gate, node.name())),
            }
        }
        Ok(())
    }

    /// `off` would leave open connections as they are, and would make a user that is not there. This ends them, whatever they do.
    async fn remove(&mut self, node: &Node, session: &mut Session) -> Result<(), TargetError> {
        let name = self.account.name.as_str();
        let open = session.clients(Step::Kill).await?.into_iter().filter(|client| client.user == name).count();
        session.run(Step::Remove, &["ACL", "DELUSER", name]).await?;
        self.saw(node, Step::Remove, &format!("user removed, and {open} connections with it"));
        Ok(())
    }

    /// Writes the node's file of users anew, if the user may stand in it.
    async fn forget(&mut self, node: &Node, session: &mut Session) -> Result<(), TargetError> {
        match session.ask(&["ACL", "SAVE"]).await {
            Ok(_) => self.saw(node, Step::Remove, "the ACL file is written anew, without it"),
            Err(Failure::Said(words)) if words.contains("not configured to use an ACL file") => self.forget_in_configuration(node, session).await?,
            Err(failure) => return Err(target(&failure, Step::Remove, node.name())),
        }
        Ok(())
    }

    async fn forget_in_configuration(&mut self, node: &Node, session: &mut Session) -> Result<(), TargetError> {
        let info = session.info(Step::Remove, &["server", "commandstats"]).await?;
        if info.find("config_file").is_none_or(str::is_empty) {
            self.saw(node, Step::Remove, "the node keeps users in memory only");
            return Ok(());
        }
        let same_run = info.find("run_id").is_some_and(|run| self.account.ids.find(&run_word(node)) == Some(run));
        // Whoever forgets the statistics may have forgotten that the configuration was written.
        let written = ["cmdstat_config|rewrite", "cmdstat_config|resetstat"].iter().any(|command| info.find(command).is_some());
        if same_run && !written {
            self.saw(node, Step::Remove, "the configuration was not written while the user was there");
            return Ok(());
        }
        match session.ask(&["CONFIG", "REWRITE"]).await {
            Ok(_) => self.saw(node, Step::Remove, "the configuration is written anew, without it"),
            Err(Failure::Said(words)) if words.contains("Permission denied") || words.contains("Read-only file system") => {
                self.saw(node, Step::Remove, &format!("the server cannot write its configuration: {words}"));
            }
            Err(failure) => return Err(target(&failure, Step::Remove, node.name())),
        }
        Ok(())
    }

    /// No user and no connection, by the node's own word.
    async fn nothing_left(&mut self, node: &Node, session: &mut Session) -> Result<(), TargetError> {
        let name = self.account.name.as_str();
        for _ in 0..LOOKS_MAX {
            let open = session.clients(Step::Verify).await?.into_iter().any(|client| client.user == name);
            if !open {
                if passwords(session, Step::Verify, name).await?.is_some() {
                    return Err(TargetError::new(TargetCode::Busy, Step::Verify, node.name(), "the user is there again"));
                }
                self.saw(node, Step::Verify, "no user and no connection");
                return Ok(());
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Err(TargetError::new(TargetCode::Busy, Step::Verify, node.name(), "connections do not end"))
    }

    /// Tries the login on every node.
    async fn verify(mut self) -> Result<Ending, TargetError> {
        let Some(secret) = &self.account.secret else {
            let why = "its secret is not known, so that a login could not be tried".to_owned();
            return Ok(Ending::RevokedUnverified { why, evidence: self.evidence });
        };
        for node in &self.system.settings.nodes {
            match Session::open(node, self.account.name.as_str(), secret, super::OURS).await {
                Ok(_) => return Err(TargetError::new(TargetCode::Busy, Step::Verify, node.name(), "the login is still accepted")),
                Err(Failure::Said(words)) if words.starts_with("WRONGPASS") => self.saw(node, Step::Verify, &words),
                Err(failure) => return Err(target(&failure, Step::Verify, node.name())),
            }
        }
        Ok(Ending::RevokedVerified { evidence: self.evidence })
    }
}
