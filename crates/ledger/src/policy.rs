//! Whom to believe about a log (C2SP tlog-policy): the logs and witnesses that are known, and how many witnesses are enough.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::checkpoint::{Checkpoint, CheckpointError, parse_decimal};
use crate::note::{KeyKind, Note, NoteError, Verified, VerifierKey};

/// The longest policy that is read, in bytes.
pub const MAX_POLICY: usize = 256 * 1024;

/// The most logs, witnesses and groups each that are read. The specification asks for at least 32.
pub const MAX_OF_A_KIND: usize = 128;

/// The name of the quorum that needs no witness.
const NONE: &[u8] = b"none";

/// A text that is no policy, with the line (from 1) at which it ceases to be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct PolicyError {
    /// The line, from 1; the one after the last if something is missing.
    pub line: usize,
    /// What is wrong with it.
    pub fault: PolicyFault,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyFault {
    /// Longer than [`MAX_POLICY`], or more than [`MAX_OF_A_KIND`] of a kind.
    #[error("the policy is too long")]
    TooLong,
    /// A control character other than tab and newline.
    #[error("a control character")]
    Control,
    /// The last line has no newline: the file may have been cut.
    #[error("the last line does not end in a newline")]
    Cut,
    /// The first word is none of `log`, `witness`, `group` and `quorum`.
    #[error("unknown word `{0}`: expected `log`, `witness`, `group` or `quorum`")]
    Word(String),
    /// More or fewer words than this line has.
    #[error("expected `{0}`")]
    Form(&'static str),
    /// Not a verifier key, or one of a kind that this place does not take.
    #[error("the key: {0}")]
    Key(NoteError),
    /// A witness's key where a log's belongs, or the other way.
    #[error("a key of signature type {found:#04x}, expected {expected:#04x}")]
    Kind {
        /// The type that is there.
        found: u8,
        /// The type that belongs there.
        expected: u8,
    },
    /// The same public key stands on an earlier line of the same kind.
    #[error("the same public key is on an earlier line")]
    Duplicate,
    /// The name stands for another witness or group already, or is `none`.
    #[error("the name `{0}` is taken")]
    Taken(String),
    /// The name stands for nothing defined above.
    #[error("there is no witness or group `{0}` above")]
    Absent(String),
    /// The name is a member of a group already.
    #[error("`{0}` is a member of a group already")]
    Member(String),
    /// The threshold is not `all`, `any` or a number from 1 to the number of members.
    #[error("the threshold is not `all`, `any` or a number from 1 to {0}")]
    Threshold(usize),
    /// There is a quorum already.
    #[error("there is a quorum already")]
    SecondQuorum,
    /// There is no quorum.
    #[error("there is no `quorum` line")]
    NoQuorum,
}

/// Why a signed checkpoint is not to be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The checkpoint or its signatures.
    #[error("the checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The policy names no log of this origin.
    #[error("the policy names no log `{0}`")]
    UnknownLog(String),
    /// Too few witnesses have cosigned.
    #[error("the quorum `{quorum}` has not cosigned; {}", given(cosigned))]
    Quorum {
        /// The name of the quorum.
        quorum: String,
        /// The names of the witnesses that did.
        cosigned: Vec<String>,
    },
}

fn given(cosigned: &[String]) -> String {
    if cosigned.is_empty() { "no known witness did".to_owned() } else { format!("only these did: {}", cosigned.join(", ")) }
}

/// A log that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedLog {
    key: VerifierKey,
    url: Option<Vec<u8>>,
}

/// A witness that is known, by a name of this policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedWitness {
    name: Vec<u8>,
    key: VerifierKey,
    url: Option<Vec<u8>>,
}

impl TrustedLog {
    /// Its key; the name is its origin.
    #[must_use]
    pub const fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// Where it is, if that is given and text.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref().and_then(|url| std::str::from_utf8(url).ok())
    }
}

impl TrustedWitness {
    /// Its name in this policy: any octets but white space and control characters.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Its key.
    #[must_use]
    pub const fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// Its submission prefix, if that is given and text.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref().and_then(|url| std::str::from_utf8(url).ok())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    name: Vec<u8>,
    needed: usize,
    members: Vec<Vec<u8>>,
}

/// The known logs and witnesses, and the rule that says whose cosignatures are enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustPolicy {
    logs: Vec<TrustedLog>,
    witnesses: Vec<TrustedWitness>,
    groups: Vec<Group>,
    quorum: Vec<u8>,
}

/// A checkpoint that a policy holds to be valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    /// The head.
    pub checkpoint: Checkpoint,
    /// The key of the log that signed it.
    pub log: VerifierKey,
    /// The known witnesses that cosigned it, by their names in the policy, with the times at which they saw it.
    pub cosigned: Vec<(String, Verified)>,
}

impl TrustPolicy {
    /// Reads a policy. What it says does not depend on the encoding of names, URLs and comments.
    pub fn parse(text: &[u8]) -> Result<Self, PolicyError> {
        let at = |line: usize| move |fault| PolicyError { line, fault };
        if text.len() > MAX_POLICY {
            return Err(at(1)(PolicyFault::TooLong));
        }
        let mut reading = Reading::default();
        let mut lines = text.split(|byte| *byte == b'\n');
        // What follows the last newline: nothing, in a whole file.
        let rest = lines.next_back().unwrap_or_default();
        let mut number = 0;
        for line in lines {
            number += 1;
            reading.line(line).map_err(at(number))?;
        }
        if !rest.is_empty() {
            return Err(at(number + 1)(PolicyFault::Cut));
        }
        let Reading { logs, witnesses, groups, quorum, .. } = reading;
        let quorum = quorum.ok_or(PolicyFault::NoQuorum).map_err(at(number + 1))?;
        Ok(Self { logs, witnesses, groups, quorum })
    }

    /// The known logs.
    #[must_use]
    pub fn logs(&self) -> &[TrustedLog] {
        &self.logs
    }

    /// The known witnesses.
    #[must_use]
    pub fn witnesses(&self) -> &[TrustedWitness] {
        &self.witnesses
    }

    /// Does the quorum need any witness?
    #[must_use]
    pub fn needs_witnesses(&self) -> bool {
        self.quorum != NONE
    }

    /// Opens a signed checkpoint: it is valid if any of the known logs of its origin has signed it, and if those known witnesses
    /// have cosigned it that the quorum asks for. A signature that names a known key and is wrong refuses the whole.
    pub fn open(&self, note: &str) -> Result<Trusted, TrustError> {
        let note = Note::parse(note).map_err(CheckpointError::from)?;
        let checkpoint = Checkpoint::parse(note.text().as_str())?;
        let logs: Vec<_> = self.logs.iter().map(|log| &log.key).filter(|key| key.name() == checkpoint.origin.key_name()).collect();
        if logs.is_empty() {
            return Err(TrustError::UnknownLog(checkpoint.origin.to_string()));
        }
        let keys: Vec<_> = logs.iter().copied().chain(self.witnesses.iter().map(|witness| &witness.key)).cloned().collect();
        let verified = note.verify(&keys).map_err(CheckpointError::from)?;
        let log = verified.iter().find(|verified| logs.contains(&&verified.key)).ok_or(CheckpointError::Unsigned)?.key.clone();
        let mut cosigned = vec![];
        for witness in &self.witnesses {
            cosigned.extend(verified.iter().find(|verified| verified.key == witness.key).map(|verified| (witness, verified)));
        }
        if !self.is_quorum(cosigned.iter().map(|(witness, _)| witness.name.as_slice())) {
            let cosigned = cosigned.iter().map(|(witness, _)| lossy(&witness.name)).collect();
            return Err(TrustError::Quorum { quorum: lossy(&self.quorum), cosigned });
        }
        let cosigned = cosigned.into_iter().map(|(witness, verified)| (lossy(&witness.name), verified.clone())).collect();
        Ok(Trusted { checkpoint, log, cosigned })
    }

    /// Are these witnesses, by their names, enough?
    pub fn is_quorum<'a>(&'a self, cosigned: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let known = |name: &&[u8]| self.witnesses.iter().any(|witness| witness.name == **name);
        let mut witnessed: BTreeSet<&[u8]> = cosigned.into_iter().filter(known).collect();
        // A group names only what stands above it, so one pass in order is enough.
        for group in &self.groups {
            let have = group.members.iter().filter(|member| witnessed.contains(member.as_slice())).count();
            if have >= group.needed {
                witnessed.insert(&group.name);
            }
        }
        self.quorum == NONE || witnessed.contains(self.quorum.as_slice())
    }
}

impl FromStr for TrustPolicy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        Self::parse(text.as_bytes())
    }
}

impl fmt::Display for TrustPolicy {
    /// The same policy as a text of one line each, for policies whose names and URLs are text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = |url: &Option<Vec<u8>>| url.as_ref().map_or_else(String::new, |url| format!(" {}", lossy(url)));
        for log in &self.logs {
            writeln!(f, "log {}{}", log.key, url(&log.url))?;
        }
        for witness in &self.witnesses {
            writeln!(f, "witness {} {}{}", lossy(&witness.name), witness.key, url(&witness.url))?;
        }
        for group in &self.groups {
            let members: Vec<_> = group.members.iter().map(|member| lossy(member)).collect();
            writeln!(f, "group {} {} {}", lossy(&group.name), group.needed, members.join(" "))?;
        }
        writeln!(f, "quorum {}", lossy(&self.quorum))
    }
}

fn lossy(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// What was read so far.
#[derive(Default)]
struct Reading {
    logs: Vec<TrustedLog>,
    witnesses: Vec<TrustedWitness>,
    groups: Vec<Group>,
    quorum: Option<Vec<u8>>,
    /// Names that stand for something; true if it is a member of a group.
    names: BTreeMap<Vec<u8>, bool>,
}

impl Reading {
    fn line(&mut self, line: &[u8]) -> Result<(), PolicyFault> {
        if line.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
            return Err(PolicyFault::Control);
        }
        let words: Vec<&[u8]> = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            [] => Ok(()),
            [first, ..] if first.starts_with(b"#") => Ok(()),
            [b"log", key, url @ ..] if url.len() <= 1 => self.log(key, url.first().copied()),
            [b"log", ..] => Err(PolicyFault::Form("log <vkey> [<url>]")),
            [b"witness", name, key, url @ ..] if url.len() <= 1 => self.witness(name, key, url.first().copied()),
            [b"witness", ..] => Err(PolicyFault::Form("witness <name> <vkey> [<url>]")),
            [b"group", name, threshold, members @ ..] if !members.is_empty() => self.group(name, threshold, members),
            [b"group", ..] => Err(PolicyFault::Form("group <name> all|any|<k> <name>...")),
            [b"quorum", name] => self.quorum(name),
            [b"quorum", ..] => Err(PolicyFault::Form("quorum <name>|none")),
            [other, ..] => Err(PolicyFault::Word(lossy(other))),
        }
    }

    fn log(&mut self, key: &[u8], url: Option<&[u8]>) -> Result<(), PolicyFault> {
        let key = read_key(key, KeyKind::Note)?;
        //= tlog-policy: two vkeys are considered duplicate if they wrap the same underlying public key
        if self.logs.iter().any(|known| known.key.public_key() == key.public_key()) {
            return Err(PolicyFault::Duplicate);
        }
        room(self.logs.len())?;
        self.logs.push(TrustedLog { key, url: url.map(<[u8]>::to_vec) });
        Ok(())
    }

    fn witness(&mut self, name: &[u8], key: &[u8], url: Option<&[u8]>) -> Result<(), PolicyFault> {
        let key = read_key(key, KeyKind::Cosignature)?;
        if self.witnesses.iter().any(|known| known.key.public_key() == key.public_key()) {
            return Err(PolicyFault::Duplicate);
        }
        room(self.witnesses.len())?;
        self.define(name)?;
        self.witnesses.push(TrustedWitness { name: name.to_vec(), key, url: url.map(<[u8]>::to_vec) });
        Ok(())
    }

    fn group(&mut self, name: &[u8], threshold: &[u8], members: &[&[u8]]) -> Result<(), PolicyFault> {
        room(self.groups.len())?;
        let number = || std::str::from_utf8(threshold).ok().and_then(parse_decimal).and_then(|k| usize::try_from(k).ok());
        let needed = match threshold {
            b"all" => Some(members.len()),
            b"any" => Some(1),
            _ => number(),
        };
        let needed = needed.filter(|k| (1..=members.len()).contains(k)).ok_or(PolicyFault::Threshold(members.len()))?;
        for member in members {
            //= tlog-policy: each defined name can be listed as a group member at most once
            match self.names.get_mut(*member) {
                None => return Err(PolicyFault::Absent(lossy(member))),
                Some(true) => return Err(PolicyFault::Member(lossy(member))),
                Some(listed) => *listed = true,
            }
        }
        self.define(name)?;
        self.groups.push(Group { name: name.to_vec(), needed, members: members.iter().map(|member| member.to_vec()).collect() });
        Ok(())
    }

    fn quorum(&mut self, name: &[u8]) -> Result<(), PolicyFault> {
        if self.quorum.is_some() {
            return Err(PolicyFault::SecondQuorum);
        }
        if name != NONE && !self.names.contains_key(name) {
            return Err(PolicyFault::Absent(lossy(name)));
        }
        self.quorum = Some(name.to_vec());
        Ok(())
    }

    fn define(&mut self, name: &[u8]) -> Result<(), PolicyFault> {
        if name == NONE || self.names.contains_key(name) {
            return Err(PolicyFault::Taken(lossy(name)));
        }
        self.names.insert(name.to_vec(), false);
        Ok(())
    }
}

fn room(count: usize) -> Result<(), PolicyFault> {
    if count < MAX_OF_A_KIND { Ok(()) } else { Err(PolicyFault::TooLong) }
}

fn read_key(text: &[u8], kind: KeyKind) -> Result<VerifierKey, PolicyFault> {
    let text = std::str::from_utf8(text).map_err(|_| PolicyFault::Key(NoteError::Key("not text")))?;
    let key: VerifierKey = text.parse().map_err(PolicyFault::Key)?;
    if key.kind() == kind { Ok(key) } else { Err(PolicyFault::Kind { found: key.kind() as u8, expected: kind as u8 }) }
}

#[cfg(test)]
mod tests;
