//! The real clock and the real randomness: the only places that touch the ambient ones.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bailiwick_core::{Clock, Timestamp};

/// The machine's clock, read once at start and carried on by the monotonic one, so that setting the system clock back neither
/// revives an expired token nor lengthens a task (BI-099). A clock set forward, or a suspend, is followed.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    base: Timestamp,
}

impl SystemClock {
    /// Starts at the system's time.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now(), base: wall() }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the ambient clock")]
fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.base.plus(self.started.elapsed()).max(wall())
    }
}

/// Random bytes from the operating system.
///
/// # Panics
/// Never returns weak bytes: if the system cannot give randomness, the process stops.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[expect(clippy::expect_used, reason = "going on without randomness would forge identities")]
    SystemRandom::new().fill(&mut bytes).expect("the operating system gives no randomness");
    bytes
}
