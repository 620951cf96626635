//! kill -9 at an await: a future that is polled so many times and then dropped, with everything that ran beside it; and the rows of cuts that each kind goes through.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bailiwick_credentials::lease::{Account, Kind, Plan};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::words::{assert_verified, count, only_intent, plan, remembered, secret};

/// More waits than any mint or end has here.
pub(crate) const WAITS_MAX: usize = 1000;

/// Runs `work` in a runtime of its own until it has waited `waits` times, then drops it and the runtime, as a kill would. `None` if it was cut.
pub(crate) fn cut<T>(waits: usize, work: impl Future<Output = T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut left = waits;
    let result = runtime.block_on(async {
        let mut work = pin!(work);
        poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => {
                left -= 1;
                Poll::Pending
            }
        })
        .await
    });
    runtime.shutdown_background();
    result
}

/// A kind that is cut, on real servers.
pub(crate) struct Cuts<'a> {
    /// A broker that has just been started.
    pub(crate) broker: &'a dyn Fn() -> Box<dyn Kind>,
    /// Everything on the servers that has a name of ours.
    pub(crate) left: &'a dyn Fn() -> String,
    /// What is minted.
    pub(crate) rights: &'a [&'a str],
    /// Where a login must be refused afterwards, and in which words.
    pub(crate) nodes: &'a [&'a str],
    pub(crate) refused: &'a str,
    /// Each so many-th wait is cut.
    pub(crate) step: usize,
}

impl Cuts<'_> {
    /// A mint that is cut at any wait leaves nothing that its name does not find.
    pub(crate) fn any_mint(&self) {
        for waits in (0..WAITS_MAX).step_by(self.step) {
            let plan = plan(self.rights);
            let broker = (self.broker)();
            let minted = cut(waits, async { broker.mint(&plan, Some(&secret())).await.unwrap() });
            // Another process, which knows the intent and nothing else, and is there at once.
            self.is_ended(&only_intent(&plan), waits);
            if minted.is_some() {
                assert!(waits > 3, "a mint waits for its connection and its statements");
                return;
            }
        }
        panic!("the mint never came to its end");
    }

    /// An end that is cut at any wait is taken up by the next. `open` opens what an agent has open, and `is_dead` looks that it is not any more.
    pub(crate) fn any_end<S>(&self, knows_ids: bool, mut open: impl FnMut(&Plan, usize) -> S, mut is_dead: impl FnMut(S, usize)) {
        for waits in (0..WAITS_MAX).step_by(self.step) {
            let plan = plan(self.rights);
            let broker = (self.broker)();
            let minted = cut(WAITS_MAX, async { broker.mint(&plan, Some(&secret())).await.unwrap() }).unwrap();
            let account = if knows_ids { remembered(&plan, minted) } else { only_intent(&plan) };
            let opened = open(&plan, waits);
            let first = (self.broker)();
            let ended = cut(waits, async { first.end(&account).await.unwrap() });
            self.is_ended(&account, waits);
            is_dead(opened, waits);
            if ended.is_some() {
                return;
            }
        }
        panic!("the end never came to its end");
    }

    /// Any row of cut mints and ends comes to an end with nothing left.
    pub(crate) fn any_row(&self, cases: usize) {
        let cases = u32::try_from(count("BAILIWICK_CUTS", cases)).unwrap();
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        let cuts = (0..40_usize, any::<bool>(), proptest::collection::vec(0..60_usize, 0..4));
        runner
            .run(&cuts, |(mint, again, ends)| {
                let plan = plan(self.rights);
                for waits in [Some(mint), again.then_some(WAITS_MAX)].into_iter().flatten() {
                    let broker = (self.broker)();
                    drop(cut(waits, async { broker.mint(&plan, Some(&secret())).await.map(drop) }));
                }
                for waits in ends {
                    let broker = (self.broker)();
                    drop(cut(waits, async { broker.end(&only_intent(&plan)).await.map(drop) }));
                }
                let fresh = (self.broker)();
                let ending = cut(WAITS_MAX, async { fresh.end(&only_intent(&plan)).await }).unwrap();
                prop_assert!(ending.as_ref().is_ok_and(|ending| ending.word() == "revoked-verified"), "{:?}", ending);
                prop_assert_eq!((self.left)(), "");
                Ok(())
            })
            .unwrap();
    }

    fn is_ended(&self, account: &Account, waits: usize) {
        let fresh = (self.broker)();
        let ending = cut(WAITS_MAX, async { fresh.end(account).await }).unwrap().unwrap();
        assert_verified(&ending, self.nodes, self.refused);
        assert_eq!((self.left)(), "", "cut after {waits} waits");
    }
}

#[test]
fn a_future_is_cut_after_so_many_waits() {
    let waits = |n: usize| async move {
        for _ in 0..n {
            tokio::task::yield_now().await;
        }
        n
    };
    assert_eq!(cut(2, waits(2)), Some(2));
    assert_eq!(cut(2, waits(3)), None);
    assert_eq!(cut(0, waits(0)), Some(0));
}
