//! The end of an account: locked, its sessions killed on every node, dropped, its login tried.

use bailiwick_core::Timestamp;

use super::Mariadb;
use super::session::{Door, Session};
use super::sql::{ACCESS_DENIED, CANNOT_USER, LOCKED, account, name_literal};
use crate::lease::{Account, Ending, Evidence, Step, TargetCode, TargetError};

/// How often sessions are looked for and killed before we say that the node is busy.
const KILLS_MAX: usize = 40;
/// How long a replica is waited for, in seconds.
const REPLICA_WAIT: u32 = 4;

/// Ends the account; each step may be done already.
pub(super) async fn end(system: &Mariadb, account: &Account) -> Result<Ending, TargetError> {
    let mut end = End { system, account, evidence: Evidence::default() };
    // A node that cannot be reached keeps this from being an end, and the others from nothing.
    let mut trouble = Vec::new();
    let (mut writers, mut replicas) = (Vec::new(), Vec::new());
    for door in &system.doors {
        match end.reach(door).await {
            Ok((session, true)) => writers.push((door, session)),
            Ok((session, false)) => replicas.push((door, session)),
            Err(error) => trouble.push(error),
        }
    }
    for (door, session) in writers.iter_mut().chain(&mut replicas) {
        trouble.extend(end.kill(door, session).await.err());
    }
    let mut positions = Vec::new();
    for (door, session) in &mut writers {
        match end.remove(door, session, !replicas.is_empty()).await {
            Ok(position) => positions.push(position),
            Err(error) => trouble.push(error),
        }
    }
    if let Some(first) = trouble.into_iter().next() {
        return Err(first);
    }
    if writers.is_empty() {
        return Err(TargetError::new(TargetCode::Busy, Step::Gate, "", "no node accepts writes"));
    }
    for (door, session) in &mut replicas {
        end.wait_for(door, session, &positions).await?;
    }
    // Who came in between the look and the drop is still there, with every right of the account.
    for (door, session) in writers.iter_mut().chain(&mut replicas) {
        end.kill(door, session).await?;
        end.nothing_left(door, session).await?;
    }
    for (door, session) in writers.into_iter().chain(replicas) {
        door.put_back(session);
    }
    end.verify().await
}

struct End<'a> {
    system: &'a Mariadb,
    account: &'a Account,
    evidence: Evidence,
}

impl End<'_> {
    fn now(&self) -> Timestamp {
        self.system.clock.now()
    }

    fn saw(&mut self, door: &Door, step: Step, saw: &str) {
        let now = self.now();
        self.evidence.saw(door.name(), step, now, saw, self.account.secret.as_ref());
    }

    /// A session at a node, and whether it accepts writes; then its door is shut.
    async fn reach(&mut self, door: &Door) -> Result<(Session, bool), TargetError> {
        let mut session = door.take(Step::Gate).await?;
        let writes = !session.read_only(Step::Gate).await?;
        if writes {
            self.gate(door, &mut session).await?;
        }
        Ok((session, writes))
    }

    /// No new login. The account may not be there: gone, or its mint is still on its way; the lock tells, before it is removed.
    async fn gate(&mut self, door: &Door, session: &mut Session) -> Result<(), TargetError> {
        match session.execute(&format!("ALTER USER {} ACCOUNT LOCK", account(&self.account.name))).await {
            Ok(()) => self.saw(door, Step::Gate, "locked"),
            Err(failure) if failure.is(CANNOT_USER) => self.saw(door, Step::Gate, "there is no such account"),
            Err(failure) => return Err(failure.target(Step::Gate, door.name())),
        }
        Ok(())
    }

    /// Kills the account's sessions on a node until there is none.
    async fn kill(&mut self, door: &Door, session: &mut Session) -> Result<(), TargetError> {
        // INVARIANT: this session may see the sessions of others. Without the right, it would see none instead of an error.
        session.column(Step::Kill, "SELECT COUNT(*) FROM information_schema.innodb_trx").await?;
        let look = format!("SELECT id FROM information_schema.processlist WHERE user = {}", name_literal(self.account.name.as_str()));
        let mut killed = 0_u64;
        for _ in 0..KILLS_MAX {
            let found = session.column(Step::Kill, &look).await?;
            if found.is_empty() {
                self.saw(door, Step::Kill, &format!("{killed} sessions ended, none left"));
                return Ok(());
            }
            for id in found {
                let id = id.parse().map_err(|_| TargetError::new(TargetCode::Protocol, Step::Kill, door.name(), "a session's id is no number"))?;
                session.kill(Step::Kill, id).await?;
                killed = killed.saturating_add(1);
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Err(TargetError::new(TargetCode::Busy, Step::Kill, door.name(), "sessions do not end"))
    }

    /// Drops the account, when no mint of it is under way any more. Gives how far the replicas must come.
    async fn remove(&mut self, door: &Door, session: &mut Session, replicas: bool) -> Result<String, TargetError> {
        if !session.lock(Step::Remove, &self.account.name).await? {
            return Err(session.break_lock(Step::Remove, &self.account.name).await?);
        }
        session.run(Step::Remove, &format!("DROP USER IF EXISTS {}", account(&self.account.name))).await?;
        let position = if replicas { session.column(Step::Remove, "SELECT @@global.gtid_binlog_pos").await? } else { Vec::new() };
        session.unlock(Step::Remove, &self.account.name).await?;
        self.saw(door, Step::Remove, "account dropped");
        Ok(position.into_iter().next().unwrap_or_default())
    }

    /// Waits until a replica has done what the writers did.
    async fn wait_for(&mut self, door: &Door, session: &mut Session, positions: &[String]) -> Result<(), TargetError> {
        for position in positions {
            if position.is_empty() {
                return Err(TargetError::new(
                    TargetCode::Refused,
                    Step::Remove,
                    door.name(),
                    "its primary writes no binary log, so it cannot follow",
                ));
            }
            let waited = session.column(Step::Remove, &format!("SELECT MASTER_GTID_WAIT({}, {REPLICA_WAIT})", name_literal(position))).await?;
            if waited.first().is_none_or(|waited| waited != "0") {
                return Err(TargetError::new(TargetCode::Busy, Step::Remove, door.name(), "the replica lags: it has not done the end yet"));
            }
        }
        self.saw(door, Step::Remove, &format!("came to {}", positions.join("; ")));
        Ok(())
    }

    /// No account and no session, by the node's own tables.
    async fn nothing_left(&mut self, door: &Door, session: &mut Session) -> Result<(), TargetError> {
        let name = name_literal(self.account.name.as_str());
        let sql = format!(
            "SELECT CONCAT((SELECT COUNT(*) FROM mysql.user WHERE User = {name}), ' accounts and ', \
             (SELECT COUNT(*) FROM information_schema.processlist WHERE user = {name}), ' sessions')"
        );
        let left = session.column(Step::Verify, &sql).await?;
        if left.first().is_none_or(|left| left != "0 accounts and 0 sessions") {
            return Err(TargetError::new(TargetCode::Busy, Step::Verify, door.name(), "the account or a session of it is there again"));
        }
        self.saw(door, Step::Verify, "0 accounts and 0 sessions");
        // They outlive their session and their account, bear no owner, and hold locks. Whose they are, a person must tell.
        let prepared = session.column(Step::Verify, "XA RECOVER").await?.len();
        if prepared > 0 {
            self.saw(door, Step::Verify, &format!("{prepared} prepared XA transactions are on this node, of owners that it does not tell"));
        }
        Ok(())
    }

    /// Tries the login on every node.
    async fn verify(mut self) -> Result<Ending, TargetError> {
        let Some(secret) = &self.account.secret else {
            let why = "its secret is not known, so that a login could not be tried".to_owned();
            return Ok(Ending::RevokedUnverified { why, evidence: self.evidence });
        };
        let mut why = None;
        for door in &self.system.doors {
            match door.try_login(&self.account.name, secret).await {
                Ok(_) => return Err(TargetError::new(TargetCode::Busy, Step::Verify, door.name(), "the login is still accepted")),
                Err(refusal) if refusal.is(ACCESS_DENIED) || refusal.is(LOCKED) => self.saw(door, Step::Verify, &refusal.words()),
                // The host may not come in at all, or is blocked: it says nothing about the account.
                Err(refusal) if matches!(refusal.number, Some(1129 | 1130)) => {
                    self.saw(door, Step::Verify, &refusal.words());
                    why = Some(format!("`{}` refuses the login whatever the account is: {}", door.name(), refusal.words()));
                }
                Err(failure) => return Err(failure.target(Step::Verify, door.name())),
            }
        }
        Ok(match why {
            None => Ending::RevokedVerified { evidence: self.evidence },
            Some(why) => Ending::RevokedUnverified { why, evidence: self.evidence },
        })
    }
}
