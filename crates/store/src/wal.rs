//! The write-ahead log as it lies on the disk, looked at before the engine reads it: does anything stand behind a damaged place?
//!
//! The engine takes the log up to the first frame that is not whole and says nothing about the rest. That is right after a loss of power,
//! which tears the last transaction at most: nobody was told of it, and nothing comes after it, because the next one is written only when
//! it is durable. If a whole transaction is followed by another behind the damage, entries that were acknowledged would vanish.
//!
//! What it cannot see: damage in the very last transaction, and a log that was cut off. Those shorten the ledger, which is found by
//! comparing it with what was published.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>, section 4.1.
const HEADER: usize = 32;
const FRAME: usize = 24;
const MAGIC: u32 = 0x377f_0682;
const PAGE_BYTES_MAX: usize = 65_536;

/// A place in the log that is damaged although what stands behind it was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The first byte of the frame that is not whole.
    pub(crate) at: u64,
}

/// Looks at a log. `None`: it is whole as far as it was acknowledged, or there is none.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn damage(path: &Path) -> io::Result<Option<Damage>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    look(BufReader::with_capacity(1 << 18, file))
}

fn look(mut log: impl Read) -> io::Result<Option<Damage>> {
    let mut header = [0u8; HEADER];
    if !filled(&mut log, &mut header)? {
        return Ok(None);
    }
    let Some((mut chain, salts, page_bytes)) = begin(&header) else {
        // Zeros were written beforehand and hold nothing; a header is durable before the first frame is written behind it.
        let mut rest = header.iter().copied().any(|b| b != 0);
        let mut piece = vec![0u8; 1 << 16];
        while !rest {
            let read = log.read(&mut piece)?;
            if read == 0 {
                return Ok(None);
            }
            rest = piece.iter().take(read).any(|b| *b != 0);
        }
        return Ok(Some(Damage { at: 0 }));
    };
    let mut frame = vec![0u8; FRAME.saturating_add(page_bytes)];
    let (mut at, mut broken, mut after_commit) = (HEADER as u64, None, false);
    while filled(&mut log, &mut frame)? {
        let (head, page) = frame.split_at(FRAME);
        let ours = head.get(8..16) == Some(salts.as_slice());
        if !ours && broken.is_none() {
            // A frame of the log before, or zeros: this may be the end, or a frame whose head is damaged.
            broken = Some(at);
        }
        let next = chain.over(head.get(..8).unwrap_or_default()).over(page);
        let told = Sum { s0: word(head, 16), s1: word(head, 20), ..chain };
        let whole = ours && next == told;
        if !whole && broken.is_none() {
            broken = Some(at);
        }
        if let Some(at) = broken.filter(|_| whole && after_commit) {
            return Ok(Some(Damage { at }));
        }
        // Behind the damage, a commit counts even if it is the damaged frame itself: what follows it tells.
        after_commit = broken.is_some() && ours && word(head, 4) != 0;
        // The next frame is checked against what this one says of itself, so that one damaged frame does not spoil all that follow.
        chain = told;
        at = at.saturating_add(frame.len() as u64);
    }
    Ok(None)
}

/// Checksum, salts and page size of a header that is whole.
fn begin(header: &[u8; HEADER]) -> Option<(Sum, [u8; 8], usize)> {
    let magic = word(header, 0);
    let big = magic & 1 == 1;
    let page_bytes = usize::try_from(word(header, 8)).ok()?;
    let start = Sum { s0: 0, s1: 0, big }.over(header.get(..24)?);
    let whole = magic & !1 == MAGIC && start == (Sum { s0: word(header, 24), s1: word(header, 28), big });
    let salts = header.get(16..24)?.try_into().ok()?;
    (whole && page_bytes.is_power_of_two() && (512..=PAGE_BYTES_MAX).contains(&page_bytes)).then_some((start, salts, page_bytes))
}

/// The log's checksum, section 4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sum {
    s0: u32,
    s1: u32,
    big: bool,
}

impl Sum {
    fn over(self, bytes: &[u8]) -> Self {
        let read = |b: [u8; 4]| if self.big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) };
        let (mut s0, mut s1) = (self.s0, self.s1);
        let (pairs, _) = bytes.as_chunks::<8>();
        for [a, b, c, d, e, f, g, h] in pairs {
            s0 = s0.wrapping_add(read([*a, *b, *c, *d])).wrapping_add(s1);
            s1 = s1.wrapping_add(read([*e, *f, *g, *h])).wrapping_add(s0);
        }
        Self { s0, s1, ..self }
    }
}

/// The big-endian word at a place, or 0.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk::<4>()).map_or(0, |b| u32::from_be_bytes(*b))
}

/// Reads exactly so many bytes. False: fewer are left.
fn filled(from: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log of some transactions of one page each, and where each frame begins.
    fn log(transactions: usize) -> (Vec<u8>, Vec<usize>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.sqlite");
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (a)").unwrap();
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        for n in 0..transactions {
            conn.execute("INSERT INTO t VALUES (?1)", [n as i64]).unwrap();
        }
        let bytes = std::fs::read(dir.path().join("d.sqlite-wal")).unwrap();
        let frames = (HEADER..bytes.len()).step_by(FRAME + 4096).collect();
        (bytes, frames)
    }

    fn looked(bytes: &[u8]) -> Option<u64> {
        look(bytes).unwrap().map(|d| d.at)
    }

    #[test]
    fn a_whole_log_and_one_that_a_loss_of_power_tore_are_not_damaged() {
        let (bytes, frames) = log(5);
        assert_eq!(frames.len(), 5);
        assert_eq!((looked(&bytes), looked(&[]), looked(&[0; 100_000])), (None, None, None));
        for cut in [bytes.len() - 1, frames[4] + 3, frames[3], HEADER, 7] {
            assert_eq!(looked(&bytes[..cut]), None, "cut at {cut}");
        }
        // Of the last transaction, any part may be there, with zeros or the frames of an older log behind.
        let mut torn = bytes.clone();
        torn[frames[4] + 100..].fill(0);
        torn.resize(1 << 20, 0);
        assert_eq!(looked(&torn), None);
        let (old, _) = log(9);
        let both = [&bytes, &old[bytes.len()..]].concat();
        assert_eq!(looked(&both), None);
    }

    #[test]
    fn one_changed_bit_before_the_last_transactions_is_found_wherever_it_is() {
        let (bytes, frames) = log(6);
        for (n, frame) in frames[..4].iter().enumerate() {
            for place in [0, 5, 9, 17, FRAME + 1, FRAME + 4095] {
                let mut changed = bytes.clone();
                changed[frame + place] ^= 0x10;
                assert_eq!(looked(&changed), Some(*frame as u64), "frame {n}, byte {place}");
            }
        }
        for place in [1, 9, 20, 30] {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_eq!(looked(&changed), Some(0), "header, byte {place}");
        }
    }
}
