//! What is found in a journal after a tear, a flipped bit, a cut, a lap, a failure.

use bailiwick_core::{CallId, LeaseId, TaskId};

use super::*;
use crate::writing::Assigned;

const RING: u64 = RING_BYTES_MIN;

fn entry(n: u8, bytes: usize) -> Pending {
    let ids = (TaskId::from_bytes([n; 16]), CallId::from_bytes([n; 16]));
    Pending {
        kind: "intent",
        task: n.is_multiple_of(2).then_some(ids.0),
        call: (!n.is_multiple_of(3)).then_some(ids.1),
        closes: n.is_multiple_of(5).then_some(7),
        assigns: n.is_multiple_of(7).then(|| given(n)),
        body: vec![n; bytes],
    }
}

fn given(n: u8) -> Assigned {
    Assigned { lease: LeaseId::from_bytes([n; 16]), task: TaskId::from_bytes([n; 16]), life: format!("{{\"life\":{n}}}") }
}

const NAMED: JournalName = JournalName([7; 16]);

fn bond(from: u64) -> Bond {
    Bond { place: from, must: Some(NAMED), may: Vec::new() }
}

fn looked(dir: &Path, from: u64) -> Option<Found> {
    look(&dir.join(JOURNAL), &bond(from)).unwrap()
}

/// A run from a place on, as the next start has it.
fn open(dir: &Path, from: u64) -> (Journal, Vec<Record>) {
    let found = looked(dir, from);
    let next = found.as_ref().map_or(from, |found| found.next);
    let journal = Journal::begin(dir, found.as_ref(), RING, next, NAMED).unwrap().unwrap();
    (journal, found.map_or_else(Vec::new, |found| found.records))
}

fn records(dir: &Path, from: u64) -> Vec<Record> {
    looked(dir, from).unwrap().records
}

/// Appends a record of so many bytes, and gives the place behind it.
fn append(journal: &mut Journal, first: u64, n: u8, bytes: usize) -> u64 {
    journal.append(first, &[entry(n, bytes)], &[[n; 32]], &format!("note {n}")).unwrap()
}

/// How many records are found from a place on, or why none.
fn found(dir: &Path, from: u64) -> Result<usize, Reason> {
    match look(&dir.join(JOURNAL), &bond(from)) {
        Ok(found) => Ok(found.unwrap().records.len()),
        Err(StoreError::Unavailable { reason, .. }) => Err(reason),
        Err(other) => panic!("{other:?}"),
    }
}

fn change(dir: &Path, at: u64, bytes: &[u8]) {
    std::fs::OpenOptions::new().write(true).open(dir.join(JOURNAL)).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn what_was_written_is_found_as_it_was_also_around_the_end_of_the_ring_and_what_is_free_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, none) = open(dir.path(), 0);
    assert!(none.is_empty());
    let (mut first, mut places) = (0, vec![0]);
    // Several laps, in records of one to seven blocks.
    for turn in 0..300usize {
        let (n, bytes) = ((turn % 250) as u8, turn * 97 % 28_000);
        let entries = [entry(n, bytes), entry(n.wrapping_add(1), 3)];
        let room = journal.room_for(&entries, "note").unwrap();
        assert_eq!(room % BLOCK_BYTES, 0);
        let end = journal.append(first, &entries, &[[n; 32], [7; 32]], "note").unwrap();
        assert_eq!(end - places.last().unwrap(), room);
        (first, _) = (first + 2, places.push(end));
        if turn % 17 != 0 {
            continue;
        }
        // Everything that still has its room is there.
        let begin = places.partition_point(|place| place + RING < end);
        let records = records(dir.path(), places[begin]);
        assert_eq!(records.len(), turn + 1 - begin);
        for (record, turn) in records.iter().zip(begin..) {
            let (n, bytes) = ((turn % 250) as u8, turn * 97 % 28_000);
            let told = entry(n, bytes);
            let row = &record.entries[0];
            assert_eq!((row.index, record.end, &*record.note), (turn as u64 * 2, places[turn + 1], "note"));
            assert_eq!((row.task, row.call, row.closes, &row.body, row.leaf), (told.task, told.call, told.closes, &told.body, [n; 32]));
            assert_eq!((record.entries.len(), record.entries[1].index), (2, turn as u64 * 2 + 1));
            let second = entry(n.wrapping_add(1), 3);
            assert_eq!(record.assigned, told.assigns.into_iter().chain(second.assigns).collect::<Vec<_>>());
        }
        assert!(super::tests::records(dir.path(), end).is_empty());
    }
    let end = *places.last().unwrap();
    assert!(end > RING * 3);
    assert_eq!((journal.free_before(0), journal.free_before(BLOCK_BYTES)), (end - RING, end - RING + BLOCK_BYTES));
}

#[test]
fn a_torn_last_record_is_not_found_and_damage_before_others_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 0);
    let places: Vec<u64> = (0..6u8).map(|n| append(&mut journal, u64::from(n), n, 10_000)).collect();
    let path = dir.path().join(JOURNAL);
    let whole = std::fs::read(&path).unwrap();
    let at = |record: usize| BLOCK_BYTES + if record == 0 { 0 } else { places[record - 1] };
    for place in [0u64, 3, 5, 13, 22, 33, 36, 70, 4096, 9_000] {
        for record in 0..6 {
            let byte = whole[(at(record) + place) as usize];
            change(dir.path(), at(record) + place, &[byte ^ 0x20]);
            let expected = if record == 5 { Ok(5) } else { Err(Reason::Damaged) };
            assert_eq!(found(dir.path(), 0), expected, "record {record}, byte {place}");
            change(dir.path(), at(record) + place, &[byte]);
        }
    }
    // What the database has already may be as it likes, and the next record takes the torn one's place.
    change(dir.path(), at(1) + 13, &[0xaa]);
    assert_eq!(found(dir.path(), places[1]), Ok(4));
    change(dir.path(), at(5) + 5000, &[0xaa; 512]);
    let (mut again, before) = open(dir.path(), places[1]);
    assert_eq!((before.len(), again.next()), (3, places[4]));
    append(&mut again, 5, 9, 10);
    assert_eq!(records(dir.path(), places[4]).last().unwrap().entries[0].body, vec![9; 10]);
    // The file's head, and its length.
    std::fs::write(&path, &whole).unwrap();
    for place in [3, 22, 30, 46, 60] {
        change(dir.path(), place, &[0xee]);
        assert_eq!(found(dir.path(), 0), Err(Reason::Damaged), "byte {place}");
        std::fs::write(&path, &whole).unwrap();
    }
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(found(dir.path(), 0), Err(Reason::Damaged));
    std::fs::write(&path, vec![0; 5000]).unwrap();
    assert_eq!(open(dir.path(), 99 * BLOCK_BYTES).0.next(), 99 * BLOCK_BYTES, "a file that was never finished is made anew");
}

#[test]
fn a_record_that_could_not_be_written_is_voided_and_a_journal_of_a_later_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 0);
    let one = append(&mut journal, 0, 1, 10);
    let two = append(&mut journal, 1, 2, 10);
    // As if the write had reported a failure and reached the disk all the same.
    (journal.next, journal.suspect) = (one, true);
    journal.make_sound().unwrap();
    assert_eq!(found(dir.path(), 0), Ok(1));
    assert_eq!(append(&mut journal, 1, 3, 10), two);
    assert_eq!(found(dir.path(), 0), Ok(2));
    journal.wipe().unwrap();
    assert_eq!(found(dir.path(), two), Ok(0));
    assert!(std::fs::read(dir.path().join(JOURNAL)).unwrap()[BLOCK..].iter().all(|b| *b == 0));
    let mut end = append(&mut journal, 2, 4, 10);
    while end < RING * 3 {
        end = append(&mut journal, end, 5, 20_000);
    }
    assert_eq!(found(dir.path(), end), Ok(0));
    assert_eq!(found(dir.path(), two), Err(Reason::Disagrees));
    // Without a read-write file there is nothing to go on with.
    assert!(journal.room_for(&[entry(1, 60_000), entry(2, 60_000)], "").is_none(), "a record is at most a quarter of the ring");
    assert!(Journal::begin(&dir.path().join("absent"), None, 0, 0, NAMED).unwrap().is_none());
}

#[test]
fn wiping_writes_no_more_than_was_written_since_and_leaves_nothing_of_a_record_that_failed() {
    let dir = tempfile::tempdir().unwrap();
    let content = || std::fs::read(dir.path().join(JOURNAL)).unwrap()[BLOCK..].to_vec();
    let (mut journal, _) = open(dir.path(), 0);
    let one = append(&mut journal, 0, 1, 10);
    append(&mut journal, 1, 2, 30_000);
    // As if that write had failed; what comes in its place is shorter.
    (journal.next, journal.suspect) = (one, true);
    journal.make_sound().unwrap();
    append(&mut journal, 1, 3, 10);
    assert!(content().contains(&2));
    change(dir.path(), RING, b"untouched");
    journal.wipe().unwrap();
    let far = RING as usize - BLOCK;
    assert!(content()[..far].iter().all(|b| *b == 0), "something is left");
    assert_eq!(&content()[far..far + 9], b"untouched", "all of the ring was written");
    // Not even made sound: wiping does it.
    let next = journal.next;
    append(&mut journal, 2, 4, 30_000);
    (journal.next, journal.suspect) = (next, true);
    journal.wipe().unwrap();
    assert!(!journal.suspect && content()[..far].iter().all(|b| *b == 0));
    // Around the end of the ring, in laps, and after a start, which does not know.
    let mut end = next;
    while end < RING * 2 + RING / 2 {
        end = append(&mut journal, end, 5, 20_000);
    }
    journal.wipe().unwrap();
    assert!(content().iter().all(|b| *b == 0));
    while end < RING * 3 + BLOCK_BYTES {
        end = append(&mut journal, end, 6, 20_000);
    }
    change(dir.path(), BLOCK_BYTES + end % RING + 5 * BLOCK_BYTES, b"torn");
    let (mut again, _) = open(dir.path(), end);
    again.wipe().unwrap();
    assert!(content().iter().all(|b| *b == 0));
}

fn refused(dir: &Path, bond: &Bond) -> (Reason, String) {
    match look(&dir.join(JOURNAL), bond) {
        Err(StoreError::Unavailable { reason, detail }) => (reason, detail.to_string()),
        Ok(_) => panic!("it is taken"),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_journal_of_another_name_is_not_taken_and_one_that_ends_before_the_database_or_begins_behind_it_neither() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 0);
    let one = append(&mut journal, 0, 1, 10);
    let older = std::fs::read(dir.path().join(JOURNAL)).unwrap();
    let two = append(&mut journal, 1, 2, 10_000);
    let other = JournalName([8; 16]);
    for (must, may, taken) in [
        (Some(NAMED), vec![], true),
        (None, vec![NAMED], true),
        (None, vec![other, NAMED], true),
        (Some(other), vec![], false),
        (Some(other), vec![NAMED], false),
        (None, vec![other], false),
        (None, vec![], false),
        (None, vec![JournalName([0; 16])], false),
    ] {
        let bond = Bond { place: 0, must, may };
        if taken {
            assert_eq!(look(&dir.path().join(JOURNAL), &bond).unwrap().unwrap().records.len(), 2, "{bond:?}");
        } else {
            let (reason, detail) = refused(dir.path(), &bond);
            assert!(reason == Reason::Disagrees && detail.contains("of another database"), "{bond:?}: {detail}");
            assert_eq!(detail.contains("move this one away"), bond.must.is_none(), "{detail}");
        }
    }
    // The database has both records: a copy with one of them is older.
    assert_eq!(found(dir.path(), two), Ok(0));
    std::fs::write(dir.path().join(JOURNAL), &older).unwrap();
    assert_eq!(found(dir.path(), one), Ok(0));
    let (reason, detail) = refused(dir.path(), &bond(two));
    assert!(reason == Reason::Disagrees && detail.contains("older copy"), "{detail}");
    // Under this name nothing was needed before the second place: a database that stands there is older.
    open(dir.path(), one);
    let (reason, detail) = refused(dir.path(), &bond(0));
    assert!(reason == Reason::Disagrees && detail.contains("begins behind"), "{detail}");
}

#[test]
fn after_a_wipe_that_was_cut_short_at_any_moment_the_journal_is_still_the_one_that_came_this_far() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 0);
    let end = (0..9u8).map(|n| append(&mut journal, u64::from(n), n, 10_000)).last().unwrap();
    let before = std::fs::read(dir.path().join(JOURNAL)).unwrap();
    journal.wipe().unwrap();
    let after = std::fs::read(dir.path().join(JOURNAL)).unwrap();
    // The head goes first, whole; then zeros, from the front.
    for cut in (BLOCK..=usize::try_from(end).unwrap() + BLOCK).step_by(512) {
        std::fs::write(dir.path().join(JOURNAL), [&after[..cut], &before[cut..]].concat()).unwrap();
        assert_eq!(found(dir.path(), end), Ok(0), "{cut}");
    }
}

#[test]
fn a_journal_from_before_they_had_names_is_read_once_and_has_one_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 0);
    let end = append(&mut journal, 0, 1, 10);
    let mut head = Head { ring: RING, name: JournalName([0; 16]), base: None }.bytes();
    head.resize(BLOCK, 0);
    change(dir.path(), 0, &head);
    let before = Bond { place: 0, must: None, may: vec![JournalName([0; 16])] };
    let found = look(&dir.path().join(JOURNAL), &before).unwrap().unwrap();
    assert_eq!((found.records.len(), found.next), (1, end));
    assert!(look(&dir.path().join(JOURNAL), &bond(0)).is_err());
    drop(Journal::begin(dir.path(), Some(&found), RING, found.next, NAMED).unwrap());
    assert!(looked(dir.path(), end).unwrap().records.is_empty());
    assert!(look(&dir.path().join(JOURNAL), &Bond { place: end, ..before }).is_err());
}

#[test]
fn cut_or_zeroed_from_any_sector_on_it_gives_whole_records_up_to_there_or_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 0);
    let (mut places, mut ends) = (vec![0], Vec::new());
    for (bytes, n) in [10usize, 5000, 100, 9000, 3000].into_iter().zip(1u8..) {
        // Where its bytes end, which the block does not.
        let length = record::length(&[entry(n, bytes)], &format!("note {n}"));
        ends.push(BLOCK + usize::try_from(journal.next).unwrap() + length);
        places.push(append(&mut journal, u64::from(n), n, bytes));
    }
    let (path, whole, all) = (dir.path().join(JOURNAL), std::fs::read(dir.path().join(JOURNAL)).unwrap(), records(dir.path(), 0));
    for cut in (0..=ends.last().unwrap() + 512).step_by(512) {
        // Cut: never taken. Of nothing at all it is said that there is none.
        std::fs::write(&path, &whole[..cut]).unwrap();
        match look(&path, &bond(0)) {
            Ok(None) => assert_eq!(cut, 0),
            Ok(Some(_)) => panic!("cut at {cut}, it is taken"),
            Err(error) => assert!(matches!(error, StoreError::Unavailable { reason: Reason::Damaged, .. }), "{cut}: {error:?}"),
        }
        // Zeros from there on: whole records up to there, and no other; but not to a database that has more.
        std::fs::write(&path, [&whole[..cut], &vec![0; whole.len() - cut]].concat()).unwrap();
        let kept = ends.iter().filter(|end| **end <= cut).count();
        for (before, place) in places.iter().enumerate() {
            match look(&path, &bond(*place)) {
                Ok(None) => assert_eq!(cut, 0),
                Ok(Some(found)) => assert!(kept >= before && found.records == all[before..kept], "zeros from {cut} on, the database at {place}"),
                Err(_) => assert!(kept < before, "zeros from {cut} on, the database at {place}: refused"),
            }
        }
    }
}

/// A record that was changed anywhere, its checksum made right again, is read as something else or not at all, and never with a panic.
#[test]
fn no_changed_record_makes_the_reader_panic_whether_its_checksum_fits_or_not() {
    let entries = [entry(30, 40), entry(7, 0), entry(9, 300)];
    let mut whole = Vec::new();
    record::write(&mut whole, 0, BLOCK_BYTES, 5, &entries, &[[1; 32], [2; 32], [3; 32]], "note");
    assert_eq!(record::read(&whole, BLOCK_BYTES, 9).unwrap().entries.len(), 3);
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |end: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice % end as u64) as usize
    };
    for _ in 0..50_000 {
        let mut bytes = whole.clone();
        for _ in 0..=below(3) {
            let at = below(bytes.len());
            match below(3) {
                0 => bytes[at] = [0, 1, 0x7f, 0xff][below(4)],
                1 => bytes.truncate(at.max(40)),
                _ => bytes.insert(at, 0xff),
            }
        }
        let changed = bytes != whole;
        assert!(!changed || record::read(&bytes, BLOCK_BYTES, 9).is_none_or(|read| read.note.len() <= bytes.len()));
        let sum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&sum.to_be_bytes());
        if let Some(read) = record::read(&bytes, BLOCK_BYTES, 9) {
            assert!(read.entries.iter().map(|e| e.body.len() + e.kind.len()).sum::<usize>() <= bytes.len());
        }
        let _ = (record::place(&bytes), record::told_length(&bytes));
    }
}
