//! The fuzz targets over their seeds, and over seeds that were changed at random: cheap, at every run of the tests. `cargo fuzz` looks longer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bailiwick::clock::random;

#[expect(unreachable_pub, reason = "the same files are a library of their own")]
#[path = "../../../../fuzz/src/lib.rs"]
mod targets;

use targets::TARGETS;

/// Changed seeds of each target.
const CHANGED: usize = 400;
/// The longest seed that is made.
const LENGTH_MAX: usize = 16 * 1024;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let all = std::fs::read_dir(folder().join("seeds").join(target)).unwrap_or_else(|e| panic!("the seeds of {target}: {e}"));
    all.map(|seed| std::fs::read(seed.unwrap().path()).unwrap()).collect()
}

/// A generator that needs no more than a number to begin with, which a failure names.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        const TELLING: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'}', b'.', b'/', b':', b'\n'];
        if self.below(2) == 0 { TELLING[self.below(TELLING.len())] } else { u8::try_from(self.below(256)).unwrap() }
    }

    /// A seed with a few changes: bytes, pieces that are cut, doubled, or taken from another seed.
    fn changed(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let mut out = seed.to_vec();
        for _ in 0..=self.below(4) {
            let (from, to) = (self.below(out.len() + 1), self.below(out.len() + 1));
            let (from, to) = (from.min(to), from.max(to));
            match self.below(5) {
                0 => out.truncate(from),
                1 => drop(out.drain(from..to)),
                2 => {
                    let piece = out[from..to].to_vec();
                    out.splice(from..from, piece);
                }
                3 => {
                    let (a, b) = (self.below(other.len() + 1), self.below(other.len() + 1));
                    out.splice(from..to, other[a.min(b)..a.max(b)].iter().copied());
                }
                _ => {
                    let byte = self.byte();
                    match out.get_mut(from) {
                        Some(place) => *place = byte,
                        None => out.push(byte),
                    }
                }
            }
            out.truncate(LENGTH_MAX);
        }
        out
    }
}

#[test]
fn every_target_keeps_its_promises_over_its_seeds_and_what_they_are_changed_into() {
    let [begin, ..] = random::<8>();
    let start = u64::from(begin) + 1;
    for (name, run) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for seed in &seeds {
            run(seed);
        }
        let mut dice = Dice(start);
        for step in 0..CHANGED {
            let (seed, other) = (dice.below(seeds.len()), dice.below(seeds.len()));
            let bytes = dice.changed(&seeds[seed], &seeds[other]);
            let kept = std::panic::catch_unwind(|| run(&bytes));
            assert!(kept.is_ok(), "{name} breaks a promise at step {step} from {start}: {}", bytes.escape_ascii());
        }
    }
}

#[test]
fn every_target_has_its_driver_and_its_seeds_and_there_are_no_others() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let of = |folder_name: &str| -> BTreeSet<String> {
        let all = std::fs::read_dir(folder().join(folder_name)).unwrap();
        all.map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of("fuzz_targets"), names);
    assert_eq!(of("seeds"), names);
    let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    for name in &names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}
