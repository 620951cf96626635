//! A record of the journal as bytes: the entries of one batch and the signed note over the tree with all of them.

use std::sync::Arc;

use bailiwick_core::{CallId, LeaseId, TaskId};

use crate::entry::EntryRow;
use crate::writing::{Assigned, Pending};

/// No text begins so: an entry that a stranger had a hand in is never taken for a record.
const MAGIC: [u8; 8] = *b"\xffbwj\x00\xfe\x01\n";
/// The checksum over all that follows it, then the magic, the place, the length of the whole record, and the first index.
const HEAD: usize = 36;
const SUM: usize = 4;
const TASK: u8 = 1;
const CALL: u8 = 2;
const CLOSES: u8 = 4;
const ASSIGNS: u8 = 8;

/// A batch as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) entries: Vec<EntryRow>,
    /// The pooled accounts that its entries gave to tasks.
    pub(crate) assigned: Vec<Assigned>,
    pub(crate) note: Arc<str>,
    /// The place behind it.
    pub(crate) end: u64,
}

/// The bytes that a record takes.
pub(super) fn length(entries: &[Pending], note: &str) -> usize {
    let of = |e: &Pending| {
        let ids = if e.task.is_some() { 16 } else { 0 } + if e.call.is_some() { 16 } else { 0 } + if e.closes.is_some() { 8 } else { 0 };
        let assigned = e.assigns.as_ref().map_or(0, |a| a.life.len().saturating_add(16 + 16 + 4));
        e.kind.len().saturating_add(e.body.len()).saturating_add(1 + 1 + 32 + 4 + ids).saturating_add(assigned)
    };
    entries.iter().fold(HEAD.saturating_add(4 + 4).saturating_add(note.len()), |n, e| n.saturating_add(of(e)))
}

/// Appends a record to `out`, whose part from `start` on it is.
pub(super) fn write(out: &mut Vec<u8>, start: usize, place: u64, first: u64, entries: &[Pending], leaves: &[[u8; 32]], note: &str) {
    out.extend_from_slice(&[0; SUM]);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&place.to_be_bytes());
    out.extend_from_slice(&u64::try_from(length(entries, note)).unwrap_or(u64::MAX).to_be_bytes());
    out.extend_from_slice(&first.to_be_bytes());
    put(out, note.as_bytes());
    out.extend_from_slice(&u32::try_from(entries.len()).unwrap_or(u32::MAX).to_be_bytes());
    for (entry, leaf) in entries.iter().zip(leaves) {
        // A word of ours, and short.
        out.push(u8::try_from(entry.kind.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(entry.kind.as_bytes());
        out.push(
            if entry.task.is_some() { TASK } else { 0 }
                | if entry.call.is_some() { CALL } else { 0 }
                | if entry.closes.is_some() { CLOSES } else { 0 }
                | if entry.assigns.is_some() { ASSIGNS } else { 0 },
        );
        if let Some(task) = entry.task {
            out.extend_from_slice(&task.to_bytes());
        }
        if let Some(call) = entry.call {
            out.extend_from_slice(&call.to_bytes());
        }
        if let Some(closes) = entry.closes {
            out.extend_from_slice(&closes.to_be_bytes());
        }
        if let Some(Assigned { lease, task, life }) = &entry.assigns {
            out.extend_from_slice(&lease.to_bytes());
            out.extend_from_slice(&task.to_bytes());
            put(out, life.as_bytes());
        }
        out.extend_from_slice(leaf);
        put(out, &entry.body);
    }
    let sum = crc32fast::hash(out.get(start.saturating_add(SUM)..).unwrap_or_default());
    if let Some(place) = out.get_mut(start..start.saturating_add(SUM)) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The place that the record says of itself which begins here, if one seems to.
pub(super) fn place(block: &[u8]) -> Option<u64> {
    let rest = block.get(SUM..)?.strip_prefix(&MAGIC)?;
    Some(u64::from_be_bytes(*rest.first_chunk::<8>()?))
}

/// The length that the record says of itself which begins here, if one seems to.
pub(super) fn told_length(block: &[u8]) -> Option<usize> {
    place(block)?;
    let length = u64::from_be_bytes(*block.get(20..)?.first_chunk::<8>()?);
    usize::try_from(length).ok().filter(|n| *n >= HEAD)
}

/// The record that is exactly these bytes, if it is whole and of this place.
pub(super) fn read(bytes: &[u8], of_place: u64, end: u64) -> Option<Record> {
    let (sum, said) = bytes.split_first_chunk::<SUM>()?;
    if crc32fast::hash(said).to_be_bytes() != *sum || place(bytes) != Some(of_place) {
        return None;
    }
    let first = u64::from_be_bytes(*bytes.get(28..)?.first_chunk::<8>()?);
    let mut rest = Bytes(bytes.get(HEAD..)?);
    let note = Arc::from(std::str::from_utf8(rest.long()?).ok()?);
    let count = u32::from_be_bytes(rest.exactly()?);
    let (mut entries, mut assigned) = (Vec::new(), Vec::new());
    for n in 0..u64::from(count) {
        let [kind_length] = rest.exactly()?;
        let kind = std::str::from_utf8(rest.take(usize::from(kind_length))?).ok()?.to_owned();
        let [flags] = rest.exactly()?;
        let task = if flags & TASK != 0 { Some(TaskId::from_bytes(rest.exactly()?)) } else { None };
        let call = if flags & CALL != 0 { Some(CallId::from_bytes(rest.exactly()?)) } else { None };
        let closes = if flags & CLOSES != 0 { Some(u64::from_be_bytes(rest.exactly()?)) } else { None };
        if flags & ASSIGNS != 0 {
            let (lease, task) = (LeaseId::from_bytes(rest.exactly()?), TaskId::from_bytes(rest.exactly()?));
            assigned.push(Assigned { lease, task, life: std::str::from_utf8(rest.long()?).ok()?.to_owned() });
        }
        let leaf = rest.exactly()?;
        let body = rest.long()?.to_vec();
        entries.push(EntryRow { index: first.checked_add(n)?, kind, task, call, closes, leaf, body });
    }
    (rest.0.is_empty() && !entries.is_empty()).then_some(Record { entries, assigned, note, end })
}

/// What is left to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn exactly<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn long(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_be_bytes(self.exactly()?);
        self.take(usize::try_from(length).ok()?)
    }
}
