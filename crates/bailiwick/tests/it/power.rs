//! kill -9 five hundred times, and the loss of power at any moment: dense indexes, nothing acknowledged is lost, the root is the signed
//! one, and every intent can be closed.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::power_load::{Ack, check, load, place};
use crate::power_trace::{Call, Coins, Disk, JOURNAL, Moment, Survivors, Trace, What, traced};

fn this_program() -> std::path::PathBuf {
    std::env::current_exe().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Rounds on one directory, before the next gets a new one: each round checks the whole ledger.
const ROUNDS_OF_ONE: u64 = 6;

/// Kills the load in the middle, checks, and goes on with the same directory. Gives acknowledged entries and entries.
fn killed(rounds: u64, seed: u64) -> (u64, u64) {
    let (mut coins, runtime) = (Coins::new(seed), runtime());
    let (mut acknowledged, mut entries) = (0, 0);
    let mut dir = place();
    for round in 0..rounds {
        if round % ROUNDS_OF_ONE == 0 {
            dir = place();
        }
        let mut child = load(Command::new(this_program()), dir.path(), 0).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        // Some die while they open the store, before they can say anything.
        let early = coins.below(5) == 0;
        let delay = Duration::from_micros(coins.below(if early { 60_000 } else { 90_000 }));
        let (heard, hears) = std::sync::mpsc::channel();
        let hearing = std::thread::spawn(move || {
            let (mut acks, mut words) = (Vec::new(), Vec::new());
            for line in lines.lines().map_while(Result::ok) {
                match Ack::parse(&line) {
                    Some(ack) => acks.push(ack),
                    None => words.push(line),
                }
                if acks.len() == 1 {
                    let _ = heard.send(());
                }
            }
            (acks, words)
        });
        if !early {
            let _ = hears.recv_timeout(Duration::from_secs(30));
        }
        std::thread::sleep(delay);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let (acks, words) = hearing.join().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "it ended by itself: {status:?}: {}", words.join("\n"));
        acknowledged += acks.len() as u64;
        let kept = dir.path().to_owned();
        match runtime.block_on(check(&kept, &kept, &acks)) {
            Ok(size) => entries = entries.max(size),
            Err(wrong) => panic!("round {round}, seed {seed}, killed after {delay:?}, kept in {:?}: {wrong}", dir.keep()),
        }
    }
    (acknowledged, entries)
}

#[test]
fn kill_9_at_random_moments_under_load_loses_nothing_that_was_acknowledged() {
    let rounds: u64 = std::env::var("BAILIWICK_STORE_KILL_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(24);
    let (begin, seed) = (Instant::now(), u64::from_be_bytes(bailiwick::clock::random()));
    let lanes: Vec<_> = (0..2).map(|lane| std::thread::spawn(move || killed(rounds.div_ceil(2), seed ^ lane))).collect();
    let (acknowledged, longest) = lanes.into_iter().map(|l| l.join().unwrap()).fold((0, 0), |(a, l), (b, m)| (a + b, l.max(m)));
    eprintln!("{rounds} kills in {:.0?}: {acknowledged} entries were acknowledged, none is lost; the longest ledger has {longest}", begin.elapsed());
    assert!(acknowledged > rounds * 10, "the load was too small to show anything: {acknowledged}");
}

/// What a load told, by the moments at which it began to tell it.
fn acks(trace: &Trace) -> Vec<(usize, Ack)> {
    let told = trace.told().filter(|(_, _, data)| data.starts_with(b"ack "));
    told.filter_map(|(at, _, data)| Some((at, Ack::parse(String::from_utf8_lossy(data).trim_end())?))).collect()
}

/// A load, finished, with all that it asked of the kernel.
fn traced_load(calls: usize) -> (tempfile::TempDir, Trace) {
    let dir = place();
    let out = tempfile::NamedTempFile::new().unwrap();
    let done = load(traced(&this_program(), out.path()), dir.path(), calls).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let trace = Trace::read(out.path());
    (dir, trace)
}

fn moments_of(trace: &Trace, is: impl Fn(&Path, &What) -> bool) -> Vec<usize> {
    let of = |m: &Moment| match m {
        Moment::Begin(n) | Moment::End(n) => *n,
    };
    trace.moments.iter().enumerate().filter(|(_, m)| is(&trace.calls[of(m)].path, &trace.calls[of(m)].what)).map(|(at, _)| at).collect()
}

fn is_file(path: &Path, name: &str) -> bool {
    path.file_name().is_some_and(|n| n == name)
}

const DATABASE: &str = "bailiwick.sqlite";
const LOG: &str = "bailiwick.sqlite-wal";

/// For each acknowledgement whose entry's bytes are found in a write of the journal or the log: was the first such write, before the
/// acknowledgement began, synchronous and over, or covered by a synchronisation that began after it and has returned? Gives how many were
/// looked at, and the first that was not.
fn order(trace: &Trace, acks: &[(usize, Ack)], heed: impl Fn(&str) -> bool) -> (usize, Option<String>) {
    let mut looked_at = 0;
    // The descriptor through which calls are written is opened so that every write is durable when it returns.
    let opened = |c: &Call| is_file(&c.path, JOURNAL) && matches!(c.what, What::Open { synchronous: true, .. });
    let synchronous = heed("O_DSYNC") && trace.calls.iter().any(opened);
    // For each write of the log, the moment from which on it is durable.
    let mut returned: Vec<(usize, usize)> = Vec::new();
    let mut durable = std::collections::BTreeMap::new();
    let mut covers = std::collections::BTreeMap::new();
    for (at, moment) in trace.moments.iter().enumerate() {
        let (Moment::Begin(n) | Moment::End(n)) = *moment;
        let call = &trace.calls[n];
        if is_file(&call.path, JOURNAL) && synchronous && *moment == Moment::End(n) && matches!(call.what, What::Write { .. }) {
            durable.insert(n, at);
        }
        if !is_file(&call.path, LOG) {
            continue;
        }
        match (moment, &call.what) {
            (Moment::End(_), What::Write { .. }) => returned.push((n, at)),
            (Moment::Begin(_), What::Sync) if heed(&call.name) => drop(covers.insert(n, std::mem::take(&mut returned))),
            (Moment::End(_), What::Sync) if call.returned == Some(0) => {
                for (write, _) in covers.remove(&n).unwrap_or_default() {
                    durable.insert(write, at);
                }
            }
            _ => {}
        }
    }
    let writes: Vec<(usize, &[u8])> = trace
        .calls
        .iter()
        .enumerate()
        .filter(|(_, c)| is_file(&c.path, LOG) || is_file(&c.path, JOURNAL))
        .filter_map(|(n, c)| match &c.what {
            What::Write { data, .. } => Some((n, data.as_slice())),
            _ => None,
        })
        .collect();
    for (at, ack) in acks.iter().step_by(acks.len() / 200 + 1) {
        let holds = |data: &[u8]| data.windows(ack.body.len()).any(|w| w == ack.body.as_bytes());
        let Some((write, _)) = writes.iter().find(|(_, data)| holds(data)) else { continue };
        looked_at += 1;
        if durable.get(write).is_none_or(|since| since > at) {
            return (looked_at, Some(format!("{ack:?} was told at {at}, and its write {write} was durable at {:?}", durable.get(write))));
        }
    }
    (looked_at, None)
}

#[test]
fn nothing_is_acknowledged_before_its_bytes_are_synchronised_and_no_log_is_begun_anew_before_the_database_is() {
    let (dir, trace) = traced_load(150);
    let acks = acks(&trace);
    assert!(acks.len() > 200, "the load told too little: {}", acks.len());
    let (looked_at, wrong) = order(&trace, &acks, |_| true);
    assert_eq!(wrong, None);
    assert!(looked_at * 2 > acks.len().min(200), "the entries' bytes were found for {looked_at} of {} only", acks.len());
    // The same look finds it if there are no synchronisations.
    assert!(order(&trace, &acks, |_| false).1.is_some(), "this test cannot fail");
    // A log that is begun anew loses what it held: all of that must be in the database, and durable, by then.
    let mut disk = Disk::new(&trace, dir.path());
    let mut anew = 0;
    let mut begun = false;
    for (at, moment) in trace.moments.iter().enumerate() {
        let Moment::Begin(n) = *moment else { continue };
        let call = &trace.calls[n];
        let resets = is_file(&call.path, LOG) && matches!(call.what, What::Write { at: Some(0), .. } | What::Length(0));
        if resets {
            disk.go_to(at);
            assert_eq!(disk.unsynced(DATABASE), 0, "the log is begun anew at {at} while the database is not durable");
            anew += usize::from(begun);
        }
        begun |= is_file(&call.path, DATABASE) && matches!(call.what, What::Write { .. });
    }
    assert!(anew >= 2, "the log was begun anew {anew} times: nothing is shown");
}

/// Loses the power at this moment, and checks what is found.
fn power_lost(disk: &Disk<'_>, survivors: Survivors, keys: &Path, acks: &[Ack], runtime: &tokio::runtime::Runtime) -> Result<u64, String> {
    // In memory where that is possible: this directory loses no power any more.
    let memory = Path::new("/dev/shm");
    let found = tempfile::tempdir_in(if memory.is_dir() { memory } else { Path::new("/tmp") }).unwrap();
    std::fs::set_permissions(found.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    disk.after_power_loss(survivors, found.path());
    runtime.block_on(check(found.path(), keys, acks)).inspect_err(|_| drop(found.keep()))
}

#[test]
fn whenever_the_power_is_lost_all_that_was_acknowledged_is_found() {
    let moments: usize = std::env::var("BAILIWICK_POWER_LOSSES").ok().and_then(|r| r.parse().ok()).unwrap_or(150);
    let (dir, trace) = traced_load(120);
    let (acks, runtime) = (acks(&trace), runtime());
    let mut coins = Coins::new(u64::from_be_bytes(bailiwick::clock::random()));
    // When something was just told, while the log is written back, while the store is opened for the first time, and at any time.
    let mut at: Vec<(usize, Survivors)> = Vec::new();
    for _ in 0..moments / 3 {
        let (told, _) = &acks[usize::try_from(coins.below(acks.len() as u64)).unwrap()];
        at.push((*told, Survivors::None));
        at.push((told + 1, Survivors::Torn(coins.next())));
    }
    let written_back = moments_of(&trace, |path, what| is_file(path, DATABASE) && matches!(what, What::Write { .. } | What::Sync));
    let opening = acks[0].0 as u64;
    for turn in 0..moments / 3 {
        let some = match turn % 3 {
            0 => written_back[usize::try_from(coins.below(written_back.len() as u64)).unwrap()],
            1 => usize::try_from(coins.below(opening)).unwrap(),
            _ => usize::try_from(coins.below(trace.moments.len() as u64)).unwrap(),
        };
        let seed = coins.next();
        at.push((some, [Survivors::Torn(seed), Survivors::Some(seed), Survivors::None, Survivors::All][turn / 3 % 4]));
    }
    at.sort_unstable_by_key(|(at, _)| *at);
    let (mut disk, mut entries) = (Disk::new(&trace, dir.path()), 0);
    for (at, survivors) in &at {
        disk.go_to(*at);
        let told: Vec<Ack> = acks.iter().filter(|(begin, _)| begin <= at).map(|(_, ack)| ack.clone()).collect();
        match power_lost(&disk, *survivors, dir.path(), &told, &runtime) {
            Ok(size) => entries += size,
            Err(wrong) => panic!("power lost at {at} of {} with {survivors:?}, in {:?}: {wrong}", trace.moments.len(), dir.keep()),
        }
    }
    eprintln!("the power was lost {} times, in {} moments: {entries} entries were found in all", at.len(), trace.moments.len());
    // A disk that lies about synchronisations is found out: this test can fail.
    let mut lying = Disk::lying(&trace, dir.path());
    let (last, _) = acks.last().unwrap();
    lying.go_to(*last);
    let told: Vec<Ack> = acks.into_iter().map(|(_, ack)| ack).collect();
    assert!(power_lost(&lying, Survivors::None, dir.path(), &told, &runtime).is_err(), "this test cannot fail");
}
