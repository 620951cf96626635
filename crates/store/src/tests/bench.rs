//! How many intents a second, and how long one waits. Run with `cargo test --release -p bailiwick-store -- --ignored --nocapture bench`.

use std::time::Instant;

use aws_lc_rs::signature::Ed25519KeyPair;

use super::*;

/// Costs what the real tree costs: a leaf hash and about one node per entry, one signature per batch.
struct Signed(Chain, Ed25519KeyPair);

impl Integrator for Signed {
    fn integrate(&mut self, frontier: &[u8], entries: &[&[u8]]) -> Result<Integrated, String> {
        let mut tree = self.0.integrate(frontier, entries)?;
        let signature = self.1.sign(tree.checkpoint.as_bytes());
        tree.checkpoint.push_str(&signature.as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>());
        Ok(tree)
    }
}

#[test]
#[ignore = "a measurement"]
fn bench_intents() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for waiters in [1u64, 16, 64, 256] {
            let dir = tempfile::tempdir_in(std::env::var_os("BENCH_DIR").unwrap_or_else(|| ".".into())).unwrap();
            let signed = Signed(Chain::default(), Ed25519KeyPair::generate().unwrap());
            let store = Store::open(dir.path(), Box::new(signed)).unwrap();
            let of = task(1);
            store.open_task(&of, Vec::new()).await.unwrap();
            let (begin, cpu) = (Instant::now(), cpu());
            let mut callers = Vec::new();
            for caller in 0..waiters {
                let (store, of) = (store.clone(), of.clone());
                callers.push(tokio::spawn(async move {
                    let mut times = Vec::new();
                    let mut n = caller << 32;
                    while begin.elapsed() < Duration::from_secs(2) {
                        n += 1;
                        let intent = Intent { budget_calls: u64::MAX, body: vec![b'x'; 1024], ..intent(&store, &of, n) };
                        let start = Instant::now();
                        let _ = store.intent(intent).await.unwrap().unwrap();
                        times.push(start.elapsed());
                    }
                    times
                }));
            }
            let mut times = Vec::new();
            for caller in callers {
                times.extend(caller.await.unwrap());
            }
            let elapsed = begin.elapsed();
            times.sort_unstable();
            let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
            let per_second = times.len() as f64 / elapsed.as_secs_f64();
            let cpu = (self::cpu() - cpu) / times.len() as f64;
            println!("{waiters:>4} waiters  {per_second:>9.0}/s  p50 {p50:>9.1?}  p99 {p99:>9.1?}  {cpu:>6.1} us of CPU each");
        }
    });
}

/// The limit: one kilobyte written over a file that does not grow, then synchronised, one after the other.
#[test]
#[ignore = "a measurement"]
fn bench_raw() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir_in(std::env::var_os("BENCH_DIR").unwrap_or_else(|| ".".into())).unwrap();
    let file = std::fs::File::create(dir.path().join("raw")).unwrap();
    file.write_all_at(&vec![0; 16 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let (begin, cpu, mut times) = (Instant::now(), cpu(), Vec::new());
    while begin.elapsed() < Duration::from_secs(2) {
        let start = Instant::now();
        file.write_all_at(&[b'x'; 1024], (times.len() as u64 % 16_000) * 1024).unwrap();
        file.sync_data().unwrap();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let (p50, p99, cpu) = (times[times.len() / 2], times[times.len() * 99 / 100], (self::cpu() - cpu) / times.len() as f64);
    println!(" raw, 1 waiter  {:>9.0}/s  p50 {p50:>9.1?}  p99 {p99:>9.1?}  {cpu:>6.1} us of CPU each", times.len() as f64 / 2.0);
}

/// Microseconds of processor time of this process so far.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10_000.0
}
