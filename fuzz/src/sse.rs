//! Any bytes, cut anywhere: the reader gives the same events and keeps its bound.

use bailiwick_wire::sse::{Event, Reader, SseError};

use super::Parts;

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Result<(), SseError>, Vec<Event>) {
    let mut reader = Reader::new(4096);
    let mut outcome = Ok(());
    for piece in pieces {
        outcome = outcome.and_then(|()| reader.push(piece));
    }
    (outcome, std::iter::from_fn(|| reader.next_event()).collect())
}

/// See the file.
pub fn run(bytes: &[u8]) {
    let mut parts = Parts::of(bytes);
    let (cut, bytes) = (parts.byte(), parts.rest());
    let (whole, events) = read(std::iter::once(bytes));
    let (cut, pieces) = read(bytes.chunks(usize::from(cut) + 1));
    assert_eq!(whole.is_ok(), cut.is_ok());
    if whole.is_ok() {
        assert_eq!(events, pieces);
    }
    assert!(events.iter().all(|event| event.data.len() <= 4096));
}
