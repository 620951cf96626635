//! The process at the other end of a Unix socket, and the agent that it is: attested by the kernel, never by what it says.
//!
//! User and group are those of the moment when it connected (`SO_PEERCRED`). Its program is looked at by a handle on the process itself
//! (`SO_PEERPIDFD`, Linux 6.5): a process that took over the number of one that is gone is not taken for it. On older kernels the time when the
//! process started is compared before and after. What this cannot tell: a process that may write into another's memory or environment, such as one of
//! the same user, can make that one speak for it. Programs tell apart what runs under one user; what must be kept apart needs a user of its own.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use bailiwick_core::{AgentName, Digest, InstanceId};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerPidfd;
use tokio::net::UnixStream;

use crate::config::{Config, LocalRule};

/// A program that is longer has no digest.
const PROGRAM_MAX: u64 = 1024 * 1024 * 1024;
/// Digests that are remembered.
const DIGESTS_MAX: usize = 1024;

/// A process that connected.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Its number, if it is one of this machine's that we can see.
    pub(crate) pid: Option<u32>,
    /// A handle on the process, where the kernel has such.
    handle: Option<OwnedFd>,
    /// When it started, in ticks since the machine did.
    started: Option<u64>,
}

/// A process that is an agent.
#[derive(Clone, Debug)]
pub(crate) struct Attested {
    /// The agent.
    pub(crate) agent: AgentName,
    /// The process as a running copy: always the same for it, and another for every other.
    pub(crate) instance: Option<InstanceId>,
    /// In words, for the record: user, group, process and program.
    pub(crate) words: Arc<str>,
}

/// Why a process is nobody. For the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Nobody {
    /// No rule says that it is an agent.
    #[error("no agent has a `local` rule that covers it")]
    Unknown,
    /// Rules of several agents do.
    #[error("it is two agents by their `local` rules")]
    Two,
    /// It ended, or became another program, while it was looked at.
    #[error("the process is gone, or changed while it was looked at")]
    Gone,
}

/// A program as it was found on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl FileId {
    fn of(meta: &Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino(), size: meta.size(), changed: (meta.ctime(), meta.ctime_nsec()) }
    }
}

/// A program that a process runs.
struct Program {
    file: FileId,
    path: PathBuf,
    sha256: Option<Digest>,
}

impl Peer {
    /// Who connected. Asked at once after the connection was accepted.
    pub(crate) fn of(stream: &UnixStream) -> std::io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
        let handle = getsockopt(stream, PeerPidfd).ok();
        let started = pid.and_then(started);
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), pid, handle, started })
    }

    /// Is the process that connected still there, under its number?
    pub(crate) fn is_there(&self) -> bool {
        let Some(pid) = self.pid else { return false };
        match &self.handle {
            Some(handle) => pid_of(handle) == Some(pid) && started(pid) == self.started,
            None => self.started.is_some() && started(pid) == self.started,
        }
    }

    fn instance(&self) -> Option<InstanceId> {
        let (pid, started) = (self.pid?, self.started?);
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").ok()?;
        let digest = Digest::bind("bailiwick/local-instance/v1", &[&boot, &pid.to_be_bytes(), &started.to_be_bytes()]);
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(digest.as_bytes()).for_each(|(to, from)| *to = *from);
        Some(InstanceId::from_bytes(bytes))
    }

    /// The program that the process runs; the same before and after it was looked at.
    fn program(&self, digests: &Digests, wants_digest: impl Fn(&FileId) -> bool) -> Result<Program, Nobody> {
        let pid = self.pid.ok_or(Nobody::Gone)?;
        let link = PathBuf::from(format!("/proc/{pid}/exe"));
        let look = || -> std::io::Result<Program> {
            let mut file = File::open(&link)?;
            let id = FileId::of(&file.metadata()?);
            let path = std::fs::read_link(&link)?;
            let sha256 = if wants_digest(&id) { digests.of(&mut file, id)? } else { None };
            Ok(Program { file: id, path, sha256 })
        };
        let program = look().map_err(|error| {
            tracing::info!(pid, %error, "the program of a process cannot be looked at: the broker needs its user, or CAP_SYS_PTRACE");
            Nobody::Gone
        })?;
        // The number may be another's by now, or the process may have become another program.
        let same = std::fs::metadata(&link).is_ok_and(|meta| FileId::of(&meta) == program.file);
        if same && self.is_there() { Ok(program) } else { Err(Nobody::Gone) }
    }
}

/// The number of the process that a handle is on. None once it is gone.
fn pid_of(handle: &OwnedFd) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", handle.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
}

/// When a process started: the 22nd field of its `stat` (proc(5)), counted after the name, which may have anything in it.
fn started(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Digests of programs, by the file that they are of.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    known: Mutex<HashMap<FileId, Digest>>,
    /// One program is read at a time, so that nobody makes us read with every core.
    reading: Mutex<()>,
}

impl Digests {
    fn known(&self, id: &FileId) -> Option<Digest> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    fn of(&self, file: &mut File, id: FileId) -> std::io::Result<Option<Digest>> {
        if let Some(known) = self.known(&id) {
            return Ok(Some(known));
        }
        if id.size > PROGRAM_MAX {
            return Ok(None);
        }
        let _alone = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody read it while we waited for our turn.
        if let Some(known) = self.known(&id) {
            return Ok(Some(known));
        }
        let mut context = Context::new(&SHA256);
        let mut piece = vec![0; 64 * 1024];
        loop {
            let read = file.read(&mut piece)?;
            if read == 0 {
                break;
            }
            context.update(piece.get(..read).unwrap_or_default());
        }
        let Ok(bytes) = <[u8; 32]>::try_from(context.finish().as_ref()) else { return Ok(None) };
        let digest = Digest::from_bytes(bytes);
        // It was not written to while it was read.
        if FileId::of(&file.metadata()?) != id {
            return Ok(None);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= DIGESTS_MAX {
            known.clear();
        }
        known.insert(id, digest);
        Ok(Some(digest))
    }
}

/// Does the user or the group of a process make it possible that it is an agent?
pub(crate) fn may_be_agent(peer: &Peer, config: &Config) -> bool {
    config.agents.values().flat_map(|entry| &entry.local).any(|rule| is_of_user(peer, rule))
}

fn is_of_user(peer: &Peer, rule: &LocalRule) -> bool {
    rule.uid.is_none_or(|uid| uid == peer.uid) && rule.gid.is_none_or(|gid| gid == peer.gid)
}

/// The agent that a process is. Looks at its program only if a rule asks for that. Blocks: reads files.
pub(crate) fn attest(peer: &Peer, config: &Config, digests: &Digests) -> Result<Attested, Nobody> {
    let rules = || config.agents.values().flat_map(|e| e.local.iter().filter(|rule| is_of_user(peer, rule)).map(move |rule| (&e.agent.name, rule)));
    if rules().next().is_none() {
        return Err(Nobody::Unknown);
    }
    let program = if rules().any(|(_, rule)| rule.asks_for_program()) {
        peer.program(digests, |file| rules().any(|(_, rule)| rule.sha256.is_some() && is_file(file, rule)))
    } else {
        Err(Nobody::Unknown)
    };
    let mut found: Option<&AgentName> = None;
    for (agent, rule) in rules() {
        let fits = !rule.asks_for_program() || program.as_ref().is_ok_and(|program| runs(program, rule));
        if fits && *found.get_or_insert(agent) != agent {
            return Err(Nobody::Two);
        }
    }
    let gone = matches!(program, Err(Nobody::Gone));
    let agent = found.ok_or(if gone { Nobody::Gone } else { Nobody::Unknown })?.clone();
    let words = words(peer, program.as_ref().ok());
    Ok(Attested { agent, instance: peer.instance(), words: words.into() })
}

/// Is the program what the rule says?
fn runs(program: &Program, rule: &LocalRule) -> bool {
    is_file(&program.file, rule) && rule.sha256.is_none_or(|sha256| program.sha256 == Some(sha256))
}

/// Is it the file that the rule names, if it names one? The file is compared, not its name, which means something else in another mount namespace.
fn is_file(file: &FileId, rule: &LocalRule) -> bool {
    rule.executable.as_deref().is_none_or(|path| std::fs::metadata(path).is_ok_and(|meta| FileId::of(&meta) == *file))
}

fn words(peer: &Peer, program: Option<&Program>) -> String {
    let mut words = format!("uid {}, gid {}", peer.uid, peer.gid);
    if let Some(pid) = peer.pid {
        words.push_str(&format!(", process {pid}"));
    }
    if let Some(program) = program {
        let path: String = program.path.to_string_lossy().chars().take(200).collect();
        words.push_str(&format!(", program {path}"));
        if let Some(sha256) = program.sha256 {
            words.push_str(&format!(" ({sha256})"));
        }
    }
    words
}

#[cfg(test)]
mod tests;
