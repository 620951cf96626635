//! The journal in front of the database: one file that never grows, in which a batch of calls is one aligned piece, written and synchronised by
//! one call of the kernel. The database follows (`follow.rs`). Never holds anything but entries and the signed heads over them.
//!
//! The file is a block that says what it is, and a ring of blocks behind it. A *place* counts bytes from the journal's first use on and never
//! goes back; the ring's length tells where it lies in the file. `head.journal` in the database is the place up to which the database
//! has everything, durably: what stands before it is free. A record begins at a block, names its place, and carries a checksum over itself: against a torn write, not against
//! malice, which the tree and its signature are for.

mod record;

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bailiwick_core::Digest;

pub(crate) use record::Record;

use crate::error::{Reason, StoreError};
use crate::writing::Pending;

pub(crate) const JOURNAL: &str = "bailiwick.journal";
/// What the disk reads and writes whole: a block that was acknowledged is not touched again before it is free.
const BLOCK: usize = 4096;
const BLOCK_BYTES: u64 = BLOCK as u64;
/// A smaller ring is not worth its file.
const RING_BYTES_MIN: u64 = 256 << 10;
const RING_BYTES_MAX: u64 = 1 << 30;
const NAME: &[u8; 20] = b"bailiwick journal 1\n";
/// Memory for one record that is kept until the next.
const KEPT_BYTES: usize = 2 << 20;

/// The journal, open for writing.
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    ring: u64,
    /// The place of the next record.
    next: u64,
    buffer: Vec<u8>,
    /// A record could not be written: what lies at `next` may be a part of it, or all of it.
    suspect: bool,
    /// Places that may hold something since they were zeros the last time. Longer than the ring: all of it.
    soiled: std::ops::Range<u64>,
}

/// What the journal holds that the database may not have.
pub(crate) struct Found {
    pub(crate) records: Vec<Record>,
    /// The place behind the last of them.
    pub(crate) next: u64,
    ring: u64,
    /// It was made just now: zeros.
    new: bool,
}

impl Journal {
    /// Opens the journal of a directory, or makes one with about so many bytes. `None`: there is none, and none is wanted. `from` is the
    /// place up to which the database has everything.
    ///
    /// # Errors
    /// `Damaged` if a record is not whole and others stand behind it, or the file was cut; `Disagrees` if it goes on from a later state of
    /// the database; `Directory` if it cannot be made or opened.
    pub(crate) fn open(dir: &Path, bytes: u64, from: u64) -> Result<Option<(Self, Vec<Record>)>, StoreError> {
        let path = dir.join(JOURNAL);
        let refused = |e: io::Error| StoreError::Directory { path: path.clone(), detail: e.to_string().into() };
        let found = match look(&path, from)? {
            Some(found) => found,
            None if bytes < RING_BYTES_MIN => return Ok(None),
            None => {
                let ring = bytes.min(RING_BYTES_MAX) / BLOCK_BYTES * BLOCK_BYTES;
                make(&path, ring).map_err(refused)?;
                Found { records: Vec::new(), next: from, ring, new: true }
            }
        };
        let file = open_synchronous(&path, found.ring).map_err(refused)?;
        // What a run before left may be anywhere.
        let soiled = found.next..if found.new { found.next } else { found.next.saturating_add(found.ring) };
        let journal = Self { file, path, ring: found.ring, next: found.next, buffer: Vec::new(), suspect: false, soiled };
        Ok(Some((journal, found.records)))
    }

    /// The bytes of its ring.
    pub(crate) const fn ring(&self) -> u64 {
        self.ring
    }

    /// The place of the next record.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// The bytes that a record takes. `None`: it is too long for this journal.
    pub(crate) fn room_for(&self, entries: &[Pending], note: &str) -> Option<u64> {
        let bytes = blocks(record::length(entries, note));
        u64::try_from(bytes).ok().filter(|bytes| *bytes <= self.ring / 4)
    }

    /// The place before which everything must be free for a record of so many bytes.
    pub(crate) const fn free_before(&self, bytes: u64) -> u64 {
        self.next.saturating_add(bytes).saturating_sub(self.ring)
    }

    /// Writes a record. It is durable when this returns. Gives the place behind it.
    ///
    /// # Errors
    /// It is not acknowledged, and nothing else is written before [`make_sound`](Self::make_sound).
    pub(crate) fn append(&mut self, first: u64, entries: &[Pending], leaves: &[[u8; 32]], note: &str) -> Result<u64, StoreError> {
        let length = record::length(entries, note);
        let start = self.clear_buffer(blocks(length));
        record::write(&mut self.buffer, start, self.next, first, entries, leaves, note);
        let end = start.saturating_add(blocks(length));
        self.buffer.resize(end, 0);
        self.suspect = true;
        let behind = self.next.saturating_add(u64::try_from(blocks(length)).unwrap_or(u64::MAX));
        self.soiled.end = self.soiled.end.max(behind);
        self.put(self.next, start..end)?;
        self.suspect = false;
        self.next = behind;
        if self.buffer.capacity() > KEPT_BYTES {
            self.buffer = Vec::new();
        }
        Ok(self.next)
    }

    /// After a record that could not be written: makes sure that nobody finds it later. Until this succeeds, nothing may be recorded anywhere.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn make_sound(&mut self) -> Result<(), StoreError> {
        if self.suspect {
            let start = self.clear_buffer(BLOCK);
            self.buffer.resize(start.saturating_add(BLOCK), 0);
            self.put(self.next, start..start.saturating_add(BLOCK))?;
            self.suspect = false;
        }
        Ok(())
    }

    /// Overwrites with zeros whatever was written since the last time, also what failed: the database has everything.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn wipe(&mut self) -> Result<(), StoreError> {
        const PIECE: usize = 1 << 20;
        // A failed record is voided first: half of it must not be found.
        self.make_sound()?;
        let mut at = self.soiled.start;
        let end = self.soiled.end.min(at.saturating_add(self.ring));
        if at >= end {
            return Ok(());
        }
        let start = self.clear_buffer(PIECE);
        self.buffer.resize(start.saturating_add(PIECE), 0);
        while at < end {
            let piece = end.saturating_sub(at).min(PIECE as u64);
            self.put(at, start..start.saturating_add(usize::try_from(piece).unwrap_or(PIECE)))?;
            at = at.saturating_add(piece);
        }
        self.soiled = self.next..self.next;
        Ok(())
    }

    /// An empty buffer with room for so many bytes, up to where they lie as the disk wants it in memory. Gives that place.
    fn clear_buffer(&mut self, bytes: usize) -> usize {
        self.buffer.clear();
        self.buffer.reserve(bytes.saturating_add(BLOCK));
        let start = match self.buffer.as_ptr().align_offset(BLOCK) {
            usize::MAX => 0,
            start => start,
        };
        self.buffer.resize(start, 0);
        start
    }

    /// Writes a part of the buffer at a place, around the end of the ring if need be. Durable when it returns.
    fn put(&self, place: u64, part: std::ops::Range<usize>) -> Result<(), StoreError> {
        let bytes = self.buffer.get(part).unwrap_or_default();
        let at = place % self.ring;
        let before_end = usize::try_from(self.ring.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
        let (one, two) = bytes.split_at(before_end);
        let mut done = self.file.write_all_at(one, BLOCK_BYTES.saturating_add(at));
        if done.is_ok() && !two.is_empty() {
            done = self.file.write_all_at(two, BLOCK_BYTES);
        }
        done.map_err(|e| failed(&self.path, &e))
    }
}

/// What the journal of a directory holds from a place on, for whoever only reads. `None`: there is no journal.
///
/// # Errors
/// As for [`Journal::open`].
pub(crate) fn look(path: &Path, from: u64) -> Result<Option<Found>, StoreError> {
    let refused = |e: io::Error| StoreError::Directory { path: path.to_owned(), detail: e.to_string().into() };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(refused(e)),
    };
    let damaged = |at: u64| {
        let detail = format!("`{}` is damaged at byte {at}, and acknowledged entries stand behind it", path.display());
        StoreError::unavailable(Reason::Damaged, detail)
    };
    let length = file.metadata().map_err(refused)?.len();
    if length > RING_BYTES_MAX.saturating_add(BLOCK_BYTES) {
        return Err(damaged(0));
    }
    let mut bytes = vec![0u8; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0).map_err(refused)?;
    let Some((head, blocks)) = bytes.split_at_checked(BLOCK) else {
        // It was being made when the power was lost.
        return if bytes.iter().all(|b| *b == 0) { Ok(None) } else { Err(damaged(0)) };
    };
    let Some(ring) = ring_of(head) else {
        return if bytes.iter().all(|b| *b == 0) { Ok(None) } else { Err(damaged(0)) };
    };
    let Some(blocks) = usize::try_from(ring).ok().and_then(|ring| blocks.get(..ring)) else { return Err(damaged(length)) };
    let ring_at = Ring { blocks, ring };
    let mut found = Found { records: Vec::new(), next: from, ring, new: false };
    while let Some(record) = ring_at.record(found.next).filter(|r| r.end <= from.saturating_add(ring)) {
        found.next = record.end;
        found.records.push(record);
    }
    // One record is written at a time: whatever stands behind one that is not whole was written when that one was durable.
    let mut at = 0;
    while at < ring {
        match ring_at.place(at) {
            Some(place) if place >= from.saturating_add(ring) && ring_at.record(place).is_some() => {
                let detail = format!("`{}` goes on from a later state than the database: they are not of the same moment", path.display());
                return Err(StoreError::unavailable(Reason::Disagrees, detail));
            }
            Some(place) if place >= found.next && ring_at.record(place).is_some() => {
                return Err(damaged(BLOCK_BYTES.saturating_add(found.next % ring)));
            }
            _ => {}
        }
        at = at.saturating_add(BLOCK_BYTES);
    }
    Ok(Some(found))
}

/// The ring as it was read.
struct Ring<'a> {
    blocks: &'a [u8],
    ring: u64,
}

impl Ring<'_> {
    /// The place that the record says which begins at this byte of the ring, if one seems to.
    fn place(&self, at: u64) -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let place = record::place(self.blocks.get(at..at.saturating_add(BLOCK))?)?;
        (place % self.ring == u64::try_from(at).ok()?).then_some(place)
    }

    /// The record of a place, if it is whole.
    fn record(&self, place: u64) -> Option<Record> {
        let at = usize::try_from(place % self.ring).ok()?;
        let length = record::told_length(self.blocks.get(at..at.saturating_add(BLOCK))?)?;
        let whole = blocks(length);
        if u64::try_from(whole).ok()? > self.ring {
            return None;
        }
        let end = place.checked_add(u64::try_from(whole).ok()?)?;
        let before_end = self.blocks.get(at..)?;
        match before_end.get(..length) {
            Some(bytes) => record::read(bytes, place, end),
            None => {
                let rest = self.blocks.get(..length.checked_sub(before_end.len())?)?;
                record::read(&[before_end, rest].concat(), place, end)
            }
        }
    }
}

/// Bytes up to the end of their last block.
const fn blocks(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK).saturating_mul(BLOCK)
}

fn head(ring: u64) -> Vec<u8> {
    let mut head = [NAME.as_slice(), &ring.to_be_bytes()].concat();
    let digest = Digest::of(&head);
    head.extend_from_slice(digest.as_bytes());
    head
}

/// The length of the ring, if the block in front of it is whole.
fn ring_of(block: &[u8]) -> Option<u64> {
    let ring = u64::from_be_bytes(*block.strip_prefix(NAME)?.first_chunk::<8>()?);
    (block.starts_with(&head(ring)) && ring.is_multiple_of(BLOCK_BYTES) && ring >= BLOCK_BYTES).then_some(ring)
}

/// Makes the file at its full length. What it is is said last, when all of it is durable.
fn make(path: &Path, ring: u64) -> io::Result<()> {
    let file = crate::schema::private(path)?;
    file.set_len(0)?;
    let zeros = vec![0u8; 1 << 20];
    let (mut at, end) = (0, ring.saturating_add(BLOCK_BYTES));
    while at < end {
        let piece = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(zeros.get(..piece).unwrap_or_default(), at)?;
        at = at.saturating_add(u64::try_from(piece).unwrap_or(u64::MAX));
    }
    file.sync_all()?;
    file.write_all_at(&head(ring), 0)?;
    file.sync_all()
}

/// Opens the file so that a write is durable when it returns: past the kernel's cache where the file system can do that.
fn open_synchronous(path: &Path, ring: u64) -> io::Result<File> {
    let open = |flags: i32| OpenOptions::new().write(true).custom_flags(flags).open(path);
    let mut journal = Journal { file: open(libc::O_DSYNC)?, path: path.to_owned(), ring, next: 0, buffer: Vec::new(), suspect: false, soiled: 0..0 };
    #[cfg(target_os = "linux")]
    if let Ok(direct) = open(libc::O_DSYNC | libc::O_DIRECT) {
        // Some file systems say no only when it is used. The block in front says the same as before.
        let start = journal.clear_buffer(BLOCK);
        journal.buffer.extend_from_slice(&head(ring));
        journal.buffer.resize(start.saturating_add(BLOCK), 0);
        if direct.write_all_at(journal.buffer.get(start..).unwrap_or_default(), 0).is_ok() {
            journal.file = direct;
        }
    }
    Ok(journal.file)
}

fn failed(path: &Path, error: &io::Error) -> StoreError {
    let reason = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Reason::DiskFull,
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => Reason::ReadOnly,
        ErrorKind::OutOfMemory => Reason::Memory,
        _ => Reason::Io,
    };
    StoreError::unavailable(reason, format!("`{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests;
