//! kill -9 at an await: a future that is polled so many times and then dropped, with everything that ran beside it.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

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
