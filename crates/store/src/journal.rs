//! The journal in front of the database: one file that never grows, in which a batch of calls is one aligned piece, written and synchronised by
//! one call of the kernel. The database follows (`follow.rs`). Never holds anything but entries and the signed heads over them.
//!
//! The file is a block that says what it is and which run of which database it belongs to (`bond.rs`), and a ring of blocks behind it. A *place* counts bytes from the journal's first use on and never
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

use crate::bond::{Bond, JournalName};
use crate::error::{Reason, StoreError};
use crate::writing::Pending;

pub(crate) const JOURNAL: &str = "bailiwick.journal";
/// What the disk reads and writes whole: a block that was acknowledged is not touched again before it is free.
const BLOCK: usize = 4096;
const BLOCK_BYTES: u64 = BLOCK as u64;
/// A smaller ring is not worth its file.
const RING_BYTES_MIN: u64 = 256 << 10;
const RING_BYTES_MAX: u64 = 1 << 30;
const NAME: &[u8; 20] = b"bailiwick journal 2\n";
/// What a journal without a name of its own says: it was made before they had names.
const NAMELESS: &[u8; 20] = b"bailiwick journal 1\n";
/// Memory for one record that is kept until the next.
const KEPT_BYTES: usize = 2 << 20;

/// The journal, open for writing.
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    name: JournalName,
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
    pub(crate) name: JournalName,
    pub(crate) records: Vec<Record>,
    /// The place behind the last of them.
    pub(crate) next: u64,
    ring: u64,
}

impl Journal {
    /// Takes the journal that was found in a directory, or makes one with about so many bytes, for a run from a place on, under a new name. `None`:
    /// there is none, and none is wanted. Whatever was found, the database has by now.
    ///
    /// # Errors
    /// `Directory` if it cannot be made or opened.
    pub(crate) fn begin(dir: &Path, found: Option<&Found>, bytes: u64, next: u64, name: JournalName) -> Result<Option<Self>, StoreError> {
        let path = dir.join(JOURNAL);
        let refused = |e: io::Error| StoreError::Directory { path: path.clone(), detail: e.to_string().into() };
        let ring = match found {
            Some(found) => found.ring,
            None if bytes < RING_BYTES_MIN => return Ok(None),
            None => {
                let ring = bytes.min(RING_BYTES_MAX) / BLOCK_BYTES * BLOCK_BYTES;
                make(&path, ring).map_err(refused)?;
                ring
            }
        };
        // What a run before left may be anywhere.
        let soiled = next..if found.is_none() { next } else { next.saturating_add(ring) };
        let file = open_synchronously(&path).map_err(refused)?;
        let mut journal = Self { file, path: path.clone(), name, ring, next, buffer: Vec::new(), suspect: false, soiled };
        journal.say_what_it_is(true).map_err(refused)?;
        Ok(Some(journal))
    }

    /// Writes the block in front: whatever the database has not comes from the next place on. The first sector has all of it, so that it is the
    /// old one or the new one. `open`: where the file system can do that, everything is written past the kernel's cache from then on.
    fn say_what_it_is(&mut self, open: bool) -> io::Result<()> {
        let head = Head { ring: self.ring, name: self.name, base: Some(self.next) }.bytes();
        let start = self.clear_buffer(BLOCK);
        self.buffer.extend_from_slice(&head);
        self.buffer.resize(start.saturating_add(BLOCK), 0);
        let block = self.buffer.get(start..).unwrap_or_default();
        // Some file systems say no only when it is used.
        #[cfg(target_os = "linux")]
        if open
            && let Ok(direct) = OpenOptions::new().write(true).custom_flags(libc::O_DSYNC | libc::O_DIRECT).open(&self.path)
            && direct.write_all_at(block, 0).is_ok()
        {
            self.file = direct;
            return Ok(());
        }
        self.file.write_all_at(block, 0)
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
        // Before anything goes: afterwards nothing tells any more that the journal had come this far.
        self.say_what_it_is(false).map_err(|e| failed(&self.path, &e))?;
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

/// What the journal of a directory holds that its database has not, for whoever only reads. `None`: there is no journal.
///
/// # Errors
/// `Damaged` if a record is not whole and others stand behind it, or the file was cut; `Disagrees` if it is the journal of another database,
/// or of another moment of this one; `Directory` if it cannot be read.
pub(crate) fn look(path: &Path, bond: &Bond) -> Result<Option<Found>, StoreError> {
    let refused = |e: io::Error| StoreError::Directory { path: path.to_owned(), detail: e.to_string().into() };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(refused(e)),
    };
    let damaged = |at: u64| damage(path, at);
    let length = file.metadata().map_err(refused)?.len();
    if length > RING_BYTES_MAX.saturating_add(BLOCK_BYTES) {
        return Err(damaged(0));
    }
    let mut bytes = vec![0u8; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0).map_err(refused)?;
    let Some((head, blocks)) = bytes.split_at_checked(BLOCK).and_then(|(block, blocks)| Some((Head::read(block)?, blocks))) else {
        // Zeros: it was being made when the power was lost.
        return if bytes.iter().all(|b| *b == 0) { Ok(None) } else { Err(damaged(0)) };
    };
    if !bond.covers(head.name) {
        return Err(foreign(path, bond));
    }
    let Some(blocks) = usize::try_from(head.ring).ok().and_then(|ring| blocks.get(..ring)) else { return Err(damaged(length)) };
    Ring { blocks, ring: head.ring }.found(path, &head, bond).map(Some)
}

fn damage(path: &Path, at: u64) -> StoreError {
    let detail = format!("`{}` is damaged at byte {at}, and acknowledged entries stand behind it", path.display());
    StoreError::unavailable(Reason::Damaged, detail)
}

fn foreign(path: &Path, bond: &Bond) -> StoreError {
    let what_to_do = if bond.must.is_some() {
        "put journal and database back from the same copy"
    } else {
        "put journal and database back from the same copy; or, since this database has everything of its own journal, move this one away, and keep \
         it: another database may need it"
    };
    let detail = format!("`{}` is the journal of another database, or of another moment of this one: {what_to_do}", path.display());
    StoreError::unavailable(Reason::Disagrees, detail)
}

fn other_moment(path: &Path, how: &str) -> StoreError {
    let detail = format!("`{}` {how}: they are not of the same moment. Put both back from the same copy", path.display());
    StoreError::unavailable(Reason::Disagrees, detail)
}

/// The ring as it was read.
struct Ring<'a> {
    blocks: &'a [u8],
    ring: u64,
}

impl Ring<'_> {
    /// What it holds from the database's place on, if it is of the same moment.
    fn found(&self, path: &Path, head: &Head, bond: &Bond) -> Result<Found, StoreError> {
        let (from, ring) = (bond.place, self.ring);
        if head.base.is_some_and(|base| base > from) {
            return Err(other_moment(path, "begins behind what the database has"));
        }
        let mut found = Found { name: head.name, records: Vec::new(), next: from, ring };
        while let Some(record) = self.record(found.next).filter(|r| r.end <= from.saturating_add(ring)) {
            found.next = record.end;
            found.records.push(record);
        }
        // It came as far as the database at least: the record that the database had last is there until others stand behind it.
        let mut reached = !found.records.is_empty() || head.base.is_none_or(|base| base == from);
        // One record is written at a time: whatever stands behind one that is not whole was written when that one was durable.
        for at in (0..ring).step_by(BLOCK) {
            match self.place(at) {
                Some(place) if place >= from.saturating_add(ring) && self.record(place).is_some() => {
                    return Err(other_moment(path, "goes on from a later state than the database"));
                }
                Some(place) if place >= found.next && self.record(place).is_some() => {
                    return Err(damage(path, BLOCK_BYTES.saturating_add(found.next % ring)));
                }
                Some(place) if !reached && self.end(place) == Some(from) => reached = self.record(place).is_some(),
                _ => {}
            }
        }
        if reached { Ok(found) } else { Err(other_moment(path, "ends before what the database has: it is an older copy")) }
    }

    /// The place that the record says which begins at this byte of the ring, if one seems to.
    fn place(&self, at: u64) -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let place = record::place(self.blocks.get(at..at.saturating_add(BLOCK))?)?;
        (place % self.ring == u64::try_from(at).ok()?).then_some(place)
    }

    /// The place behind the record of a place, by its own words.
    fn end(&self, place: u64) -> Option<u64> {
        let at = usize::try_from(place % self.ring).ok()?;
        let whole = blocks(record::told_length(self.blocks.get(at..at.saturating_add(BLOCK))?)?);
        place.checked_add(u64::try_from(whole).ok().filter(|whole| *whole <= self.ring)?)
    }

    /// The record of a place, if it is whole.
    fn record(&self, place: u64) -> Option<Record> {
        let at = usize::try_from(place % self.ring).ok()?;
        let length = record::told_length(self.blocks.get(at..at.saturating_add(BLOCK))?)?;
        let end = self.end(place)?;
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

/// The block in front.
struct Head {
    ring: u64,
    name: JournalName,
    /// Nothing that stands before this place was ever needed under this name. `None`: nobody said.
    base: Option<u64>,
}

impl Head {
    fn bytes(&self) -> Vec<u8> {
        let mut head = match self.base {
            Some(base) => [NAME.as_slice(), &self.ring.to_be_bytes(), &self.name.0, &base.to_be_bytes()].concat(),
            None => [NAMELESS.as_slice(), &self.ring.to_be_bytes()].concat(),
        };
        let digest = Digest::of(&head);
        head.extend_from_slice(digest.as_bytes());
        head
    }

    /// What the block says, if it is whole.
    fn read(block: &[u8]) -> Option<Self> {
        let (kind, said) = block.split_first_chunk::<20>()?;
        let (ring, said) = said.split_first_chunk()?;
        let ring = u64::from_be_bytes(*ring);
        let (name, base) = match kind {
            NAME => {
                let (name, said) = said.split_first_chunk()?;
                (*name, Some(u64::from_be_bytes(*said.first_chunk()?)))
            }
            NAMELESS => ([0; 16], None),
            _ => return None,
        };
        let head = Self { ring, name: JournalName(name), base };
        (block.starts_with(&head.bytes()) && ring.is_multiple_of(BLOCK_BYTES) && ring >= BLOCK_BYTES).then_some(head)
    }
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
    file.sync_all()
}

/// Opens the file so that a write is durable when it returns.
fn open_synchronously(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(path)
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
