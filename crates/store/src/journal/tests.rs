//! What is found in a journal after a tear, a flipped bit, a cut, a lap, a failure.

use bailiwick_core::{CallId, TaskId};

use super::*;

const RING: u64 = RING_BYTES_MIN;

fn entry(n: u8, bytes: usize) -> Pending {
    let ids = (TaskId::from_bytes([n; 16]), CallId::from_bytes([n; 16]));
    Pending {
        kind: "intent",
        task: n.is_multiple_of(2).then_some(ids.0),
        call: (!n.is_multiple_of(3)).then_some(ids.1),
        closes: n.is_multiple_of(5).then_some(7),
        body: vec![n; bytes],
    }
}

fn open(dir: &Path, from: u64) -> (Journal, Vec<Record>) {
    Journal::open(dir, RING, from).unwrap().unwrap()
}

/// Appends a record of so many bytes, and gives the place behind it.
fn append(journal: &mut Journal, first: u64, n: u8, bytes: usize) -> u64 {
    journal.append(first, &[entry(n, bytes)], &[[n; 32]], &format!("note {n}")).unwrap()
}

/// How many records are found from a place on, or why none.
fn found(dir: &Path, from: u64) -> Result<usize, Reason> {
    match look(&dir.join(JOURNAL), from) {
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
        let (_, records) = open(dir.path(), places[begin]);
        assert_eq!(records.len(), turn + 1 - begin);
        for (record, turn) in records.iter().zip(begin..) {
            let (n, bytes) = ((turn % 250) as u8, turn * 97 % 28_000);
            let told = entry(n, bytes);
            let row = &record.entries[0];
            assert_eq!((row.index, record.end, &*record.note), (turn as u64 * 2, places[turn + 1], "note"));
            assert_eq!((row.task, row.call, row.closes, &row.body, row.leaf), (told.task, told.call, told.closes, &told.body, [n; 32]));
            assert_eq!((record.entries.len(), record.entries[1].index), (2, turn as u64 * 2 + 1));
        }
        assert!(open(dir.path(), end).1.is_empty());
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
    let (mut again, records) = open(dir.path(), places[1]);
    assert_eq!((records.len(), again.next()), (3, places[4]));
    append(&mut again, 5, 9, 10);
    assert_eq!(open(dir.path(), places[1]).1.last().unwrap().entries[0].body, vec![9; 10]);
    // The file's head, and its length.
    std::fs::write(&path, &whole).unwrap();
    for place in [3, 22, 30] {
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
    assert!(Journal::open(&dir.path().join("absent"), 0, 0).unwrap().is_none());
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
