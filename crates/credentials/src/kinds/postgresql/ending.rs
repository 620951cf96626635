//! The end of a role: door shut, sessions ended on every node, prepared transactions and objects removed, role dropped, login tried.

use std::collections::BTreeSet;
use std::time::Duration;

use bailiwick_core::Timestamp;
use tokio::time::sleep;
use tokio_postgres::error::SqlState;

use super::session::{Door, Session};
use super::sql::{Failure, cell, identifier, literal};
use super::{LOCK_CLASS, OID, Postgresql, fence, lock_key, oid_of};
use crate::lease::{Account, Ending, Evidence, Step, TargetCode, TargetError};

/// How often sessions are told to end before we say that the node is busy. Each telling waits up to a second by itself.
const KILLS_MAX: usize = 8;
/// How often a standby is asked whether it has replayed the end, and the pause between.
const REPLAY_ASKS: usize = 60;
const REPLAY_PAUSE: Duration = Duration::from_millis(50);
const OBJECTS_SHOWN: usize = 20;

/// Ends the role; each step may be done already.
pub(super) async fn end(system: &Postgresql, account: &Account) -> Result<Ending, TargetError> {
    let mut end = End { system, account, oids: BTreeSet::new(), evidence: Evidence::default(), nameless: 0 };
    if let Some(oid) = account.ids.find(OID) {
        end.oids.insert(oid.parse().map_err(|_| TargetError::new(TargetCode::Plan, Step::Gate, "", "the remembered oid is no number"))?);
    }
    // A node that cannot be reached keeps this from being an end, and the others from nothing.
    let mut reached = end.reach().await;
    end.gate(&mut reached).await;
    for (door, _) in &reached.nodes {
        reached.trouble.extend(end.kill(door).await.err());
    }
    let writers: Vec<_> = reached.nodes.iter().filter(|(_, writes)| *writes).map(|(door, _)| *door).collect();
    for door in &writers {
        reached.trouble.extend(end.remove(door).await.err());
    }
    if let Some(first) = reached.trouble.into_iter().next() {
        return Err(first);
    }
    if writers.is_empty() {
        return Err(TargetError::new(TargetCode::Busy, Step::Gate, "", "no node accepts writes"));
    }
    if system.doors.len() > writers.len() {
        end.wait_for_standbys(&writers).await?;
    }
    for door in &system.doors {
        end.kill(door).await?;
        end.nothing_left(door).await?;
    }
    end.verify().await
}

struct End<'a> {
    system: &'a Postgresql,
    account: &'a Account,
    /// By what the role's sessions and objects are found, also when it has no name any more.
    oids: BTreeSet<u32>,
    evidence: Evidence,
    /// Sessions of roles that are gone, seen while the account's own oid was not known.
    nameless: u64,
}

/// Nodes that answer, with whether they accept writes, and what went wrong.
struct Reached<'a> {
    nodes: Vec<(&'a Door, bool)>,
    trouble: Vec<TargetError>,
}

impl<'a> End<'a> {
    fn now(&self) -> Timestamp {
        self.system.clock.now()
    }

    fn saw(&mut self, door: &Door, step: Step, saw: &str) {
        let now = self.now();
        self.evidence.saw(door.name(), step, now, saw, self.account.secret.as_ref());
    }

    fn role(&self) -> String {
        identifier(self.account.name.as_str())
    }

    /// The nodes that answer, and what kept the others from it.
    async fn reach(&self) -> Reached<'a> {
        let mut reached = Reached { nodes: Vec::new(), trouble: Vec::new() };
        for door in &self.system.doors {
            match door.take(Step::Gate).await {
                Ok(session) => {
                    door.put_back(session);
                    reached.nodes.push((door, false));
                }
                Err(error) => reached.trouble.push(error),
            }
        }
        reached
    }

    /// No new login, from now on, wherever something can be written.
    async fn gate(&mut self, reached: &mut Reached<'a>) {
        // Only one node is expected to accept writes; once it is found, the others are asked first, so that no refusal stands in their logs.
        let mut found = false;
        for (door, writes) in &mut reached.nodes {
            match self.gate_or_ask(door, found).await {
                Ok(wrote) => *writes = wrote,
                Err(error) => reached.trouble.push(error),
            }
            found |= *writes;
        }
    }

    async fn gate_or_ask(&mut self, door: &Door, ask: bool) -> Result<bool, TargetError> {
        let session = door.take(Step::Gate).await?;
        if ask {
            let rows = session.run(Step::Gate, "SELECT pg_is_in_recovery()").await?;
            if cell(&rows, 0, 0) != Some("f") {
                door.put_back(session);
                return Ok(false);
            }
        }
        self.gate_at(door, session).await
    }

    /// Shuts the door of one node; `false` if it is a standby.
    async fn gate_at(&mut self, door: &Door, session: Session) -> Result<bool, TargetError> {
        let shut = format!("ALTER ROLE {} NOLOGIN PASSWORD NULL; {}", self.role(), oid_of(&self.account.name));
        let fail = |failure: Failure| Err(failure.target(Step::Gate, door.name()));
        match session.ask(&shut).await {
            Ok(rows) => self.note(door, Step::Gate, &rows, "no login and no password any more")?,
            Err(failure) if failure.is(&SqlState::READ_ONLY_SQL_TRANSACTION) => {
                door.put_back(session);
                return Ok(false);
            }
            Err(failure) if failure.is(&SqlState::UNDEFINED_OBJECT) => {
                // Not there: gone, or its mint is still on its way. Whoever mints holds the lock before it sends anything that creates.
                match session.ask(&format!("{}; COMMIT", fence(&self.account.name))).await {
                    Ok(rows) if rows.len() <= 2 => self.saw(door, Step::Gate, "there is no such role, and no mint of it under way"),
                    Ok(_) => match session.ask(&shut).await {
                        Ok(rows) => self.note(door, Step::Gate, &rows, "no login and no password any more")?,
                        Err(failure) => return fail(failure),
                    },
                    Err(failure) if failure.is(&SqlState::LOCK_NOT_AVAILABLE) => {
                        drop(session);
                        return Err(self.break_lock(door).await);
                    }
                    Err(failure) => return fail(failure),
                }
            }
            Err(failure) => return fail(failure),
        }
        door.put_back(session);
        Ok(true)
    }

    fn note(&mut self, door: &Door, step: Step, rows: &super::sql::Rows, saw: &str) -> Result<(), TargetError> {
        let oid = cell(rows, 0, 0).and_then(|oid| oid.parse().ok());
        self.oids.insert(oid.ok_or_else(|| TargetError::new(TargetCode::Protocol, step, door.name(), "the role has no oid"))?);
        self.saw(door, step, saw);
        Ok(())
    }

    /// A mint that hangs, or somebody who took its lock, is ended; the next try finds the lock free.
    async fn break_lock(&self, door: &Door) -> TargetError {
        let holders = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND pid <> pg_backend_pid() \
             AND classid = {LOCK_CLASS} AND objid = {} AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            lock_key(&self.account.name).cast_unsigned()
        );
        let ended = async { door.take(Step::Gate).await?.run(Step::Gate, &holders).await };
        match ended.await {
            Ok(rows) => {
                let count = cell(&rows, 0, 0).unwrap_or("0");
                TargetError::new(TargetCode::Busy, Step::Gate, door.name(), &format!("a mint of this name hung; {count} sessions ended"))
            }
            Err(error) => error,
        }
    }

    /// Which sessions are the account's. Without an oid, those of roles that are gone and that bear our mark. A server that crashed before a mint
    /// was on its disk may give the oid to somebody else, who has a name of their own.
    fn sessions(&self) -> String {
        if self.oids.is_empty() {
            return "usesysid IS NOT NULL AND usename IS NULL AND application_name LIKE 'bailiwick %'".to_owned();
        }
        let oids: Vec<_> = self.oids.iter().map(u32::to_string).collect();
        format!("usesysid IN ({}) AND (usename IS NULL OR usename = {})", oids.join(", "), literal(self.account.name.as_str()))
    }

    /// Ends the account's sessions on a node, until there is none.
    async fn kill(&mut self, door: &Door) -> Result<(), TargetError> {
        let session = door.take(Step::Kill).await?;
        let kill = format!("SELECT count(pg_terminate_backend(pid, 1000)) FROM pg_stat_activity WHERE {}", self.sessions());
        let mut ended = 0_u64;
        for _ in 0..KILLS_MAX {
            let rows = session.run(Step::Kill, &kill).await?;
            let found: u64 = cell(&rows, 0, 0).and_then(|count| count.parse().ok()).unwrap_or(u64::MAX);
            if found == 0 {
                door.put_back(session);
                self.saw(door, Step::Kill, &format!("{ended} sessions ended, none left"));
                return Ok(());
            }
            ended = ended.saturating_add(found);
        }
        Err(TargetError::new(TargetCode::Busy, Step::Kill, door.name(), "sessions do not end"))
    }

    /// Removes what the role left behind, and the role.
    async fn remove(&mut self, door: &Door) -> Result<(), TargetError> {
        let session = door.take(Step::Remove).await?;
        let role = literal(self.account.name.as_str());
        let oids = self.oids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        if !oids.is_empty() {
            let left = format!(
                "SELECT 'prepared', database, gid FROM pg_prepared_xacts WHERE owner = {role}; \
                 SELECT DISTINCT 'objects', coalesce(d.datname, current_database()), NULL FROM pg_shdepend s LEFT JOIN pg_database d ON d.oid = s.dbid \
                 WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid IN ({oids})"
            );
            let mut rows = session.run(Step::Remove, &left).await?;
            // Prepared transactions hold locks that would keep us from dropping objects, so they go first.
            rows.sort_by_key(|row| row.first().cloned().flatten().as_deref() != Some("prepared"));
            for row in rows {
                match row.as_slice() {
                    [_, Some(database), Some(gid)] => self.roll_back(door, &session, database, gid).await?,
                    [_, Some(database), None] => self.drop_owned(door, &session, database).await?,
                    _ => return Err(TargetError::new(TargetCode::Protocol, Step::Remove, door.name(), "what is left has no database")),
                }
            }
        }
        session.run(Step::Remove, &format!("DROP ROLE IF EXISTS {}", self.role())).await?;
        door.put_back(session);
        self.saw(door, Step::Remove, "role dropped");
        Ok(())
    }

    async fn roll_back(&mut self, door: &Door, session: &Session, database: &str, gid: &str) -> Result<(), TargetError> {
        let other = elsewhere(door, database).await?;
        let session = other.as_ref().unwrap_or(session);
        // Only its owner or a superuser may do it, and we are a member of the owner.
        session.run(Step::Remove, &format!("SET ROLE {}", self.role())).await?;
        let done = session.ask(&format!("ROLLBACK PREPARED {}", literal(gid))).await;
        session.run(Step::Remove, "RESET ROLE").await?;
        match done {
            Ok(_) => {}
            Err(failure) if failure.is(&SqlState::UNDEFINED_OBJECT) => {}
            Err(failure) => return Err(failure.target(Step::Remove, door.name())),
        }
        self.saw(door, Step::Remove, &format!("rolled back the prepared transaction `{gid}` in database `{database}`"));
        Ok(())
    }

    async fn drop_owned(&mut self, door: &Door, session: &Session, database: &str) -> Result<(), TargetError> {
        let other = elsewhere(door, database).await?;
        let session = other.as_ref().unwrap_or(session);
        let oids = self.oids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let owned = format!(
            "SELECT pg_describe_object(classid, objid, objsubid) FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid IN ({oids}) \
             AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) LIMIT {OBJECTS_SHOWN}"
        );
        let objects: Vec<_> = session.run(Step::Remove, &owned).await?.into_iter().flatten().flatten().collect();
        let cascade = if self.system.settings.cascade { " CASCADE" } else { "" };
        match session.ask(&format!("DROP OWNED BY {}{cascade}", self.role())).await {
            Ok(_) => {
                self.saw(door, Step::Remove, &format!("dropped in database `{database}`, or revoked from it: {}", objects.join("; ")));
                Ok(())
            }
            // The role is gone already, and with it what it owned.
            Err(failure) if failure.is(&SqlState::UNDEFINED_OBJECT) => Ok(()),
            Err(failure) => {
                // What it made stays for now. It must not act with the groups' rights meanwhile: a `SECURITY DEFINER` function would.
                self.leave_groups(session).await?;
                Err(failure.target(Step::Remove, door.name()))
            }
        }
    }

    async fn leave_groups(&self, session: &Session) -> Result<(), TargetError> {
        let groups = format!(
            "SELECT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = {}",
            literal(self.account.name.as_str())
        );
        for group in session.run(Step::Remove, &groups).await?.into_iter().flatten().flatten() {
            session.run(Step::Remove, &format!("REVOKE {} FROM {}", identifier(&group), self.role())).await?;
        }
        Ok(())
    }

    /// Waits until every standby has replayed what the writers did. Before that, it lets the account in: also one that it does not know
    /// yet, because it has replayed neither its creation nor its end.
    async fn wait_for_standbys(&mut self, writers: &[&Door]) -> Result<(), TargetError> {
        let mut until = Vec::new();
        for door in writers {
            let session = door.take(Step::Remove).await?;
            let rows = session.run(Step::Remove, "SELECT pg_current_wal_flush_lsn()").await?;
            door.put_back(session);
            until.extend(cell(&rows, 0, 0).map(literal));
        }
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= ALL (ARRAY[{}]::pg_lsn[])", until.join(", "));
        for door in self.system.doors.iter().filter(|door| !writers.iter().any(|writer| std::ptr::eq(*writer, *door))) {
            let session = door.take(Step::Remove).await?;
            let mut asks = 0;
            while cell(&session.run(Step::Remove, &replayed).await?, 0, 0) != Some("t") {
                asks += 1;
                if asks > REPLAY_ASKS {
                    return Err(TargetError::new(TargetCode::Busy, Step::Remove, door.name(), "the standby lags: it has not replayed the end yet"));
                }
                sleep(REPLAY_PAUSE).await;
            }
            door.put_back(session);
            self.saw(door, Step::Remove, &format!("replayed up to {}", until.join(", ")));
        }
        Ok(())
    }

    /// No role and no session, by the node's own catalogue.
    async fn nothing_left(&mut self, door: &Door) -> Result<(), TargetError> {
        let session = door.take(Step::Verify).await?;
        let sql = format!(
            "SELECT (SELECT count(*) FROM pg_roles WHERE rolname = {}), (SELECT count(*) FROM pg_stat_activity WHERE {}), \
             (SELECT count(*) FROM pg_stat_activity WHERE usesysid IS NOT NULL AND usename IS NULL)",
            literal(self.account.name.as_str()),
            self.sessions()
        );
        let rows = session.run(Step::Verify, &sql).await?;
        door.put_back(session);
        if (cell(&rows, 0, 0), cell(&rows, 0, 1)) != (Some("0"), Some("0")) {
            return Err(TargetError::new(TargetCode::Busy, Step::Verify, door.name(), "the role or a session of it is there again"));
        }
        if self.oids.is_empty() {
            let nameless = cell(&rows, 0, 2).and_then(|count| count.parse().ok()).unwrap_or(u64::MAX);
            self.nameless = self.nameless.saturating_add(nameless);
        }
        self.saw(door, Step::Verify, "0 roles and 0 sessions");
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
                Ok(()) => return Err(TargetError::new(TargetCode::Busy, Step::Verify, door.name(), "the login is still accepted")),
                Err(refusal) if is_refusal_of_the_role(&refusal) => self.saw(door, Step::Verify, &refusal.words()),
                Err(refusal) if refusal.state.as_ref().is_some_and(|state| state.code().starts_with("28")) => {
                    // Such as no line for it in `pg_hba.conf`: it says nothing about the role.
                    self.saw(door, Step::Verify, &refusal.words());
                    why = Some(format!("`{}` refuses the login whatever the role is: {}", door.name(), refusal.words()));
                }
                Err(failure) => return Err(failure.target(Step::Verify, door.name())),
            }
        }
        if self.nameless > 0 {
            why = Some(format!("its oid is not known, and {} sessions of roles that are gone are open", self.nameless));
        }
        Ok(match why {
            None => Ending::RevokedVerified { evidence: self.evidence },
            Some(why) => Ending::RevokedUnverified { why, evidence: self.evidence },
        })
    }
}

/// Wrong password, or a role that is not there or may not log in. Where passwords are not asked for, only the server's function tells the latter
/// from a host that may not come in at all.
fn is_refusal_of_the_role(failure: &Failure) -> bool {
    failure.is(&SqlState::INVALID_PASSWORD)
        || (failure.is(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) && failure.routine.as_deref() == Some("InitializeSessionUserId"))
}

/// A session in another database than the door's own.
async fn elsewhere(door: &Door, database: &str) -> Result<Option<Session>, TargetError> {
    if database == door.database() { Ok(None) } else { door.take_at(Step::Remove, database).await.map(Some) }
}
