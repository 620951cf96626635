//! Any bytes as DER: every value that is read is written again as the same bytes, and the readers of keys and times end without panic.

use bailiwick_core::Timestamp;
use bailiwick_core::der::{Reader, positive, read_time, time, value};

/// See the file.
pub fn run(bytes: &[u8]) {
    walk(bytes, 0);
    if let Some((digits, _)) = bytes.split_first_chunk::<8>() {
        let at = Timestamp::from_seconds(i64::from_be_bytes(*digits).rem_euclid(250_000_000_000));
        let written = time(at);
        let read = Reader::new(&written).next().and_then(|value| read_time(&value));
        assert!(read == Some(at), "{at}");
    }
}

fn walk(bytes: &[u8], depth: usize) {
    let mut reader = Reader::new(bytes);
    while let Some(read) = reader.next() {
        assert_eq!(value(read.tag, read.content), read.whole);
        let _ = read_time(&read);
        if let Some(magnitude) = positive(read.content) {
            assert_eq!(bailiwick_core::der::integer(magnitude), value(bailiwick_core::der::INTEGER, read.content));
        }
        if depth < 20 {
            walk(read.content, depth + 1);
        }
    }
}
