//! A future that wakes itself while it is polled is polled again at once, where it is.
//!
//! A connection holds both ends of many a channel: the request to an upstream is sent and taken in one task, so is its answer. Each such
//! message wakes the task that is running, and the runtime takes that for a task that gives way: it queues it behind others and wakes another
//! thread to take it, which costs two changes of thread and cold caches for every message.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Not being polled.
const RESTS: u8 = 0;
/// Being polled.
const POLLED: u8 = 1;
/// Being polled, and woken since that began.
const WOKEN: u8 = 2;

/// So often in one turn. Who has more to do gives way to others.
const TIMES_MAX: usize = 16;

/// A future whose wakes of itself are heeded without the runtime.
#[derive(Debug)]
pub(crate) struct InPlace<F> {
    future: Pin<Box<F>>,
    own: Arc<Own>,
    waker: Waker,
}

#[derive(Debug)]
struct Own {
    state: AtomicU8,
    task: AtomicWaker,
}

impl<F: Future> InPlace<F> {
    pub(crate) fn new(future: F) -> Self {
        let own = Arc::new(Own { state: AtomicU8::new(RESTS), task: AtomicWaker::new() });
        Self { future: Box::pin(future), waker: Waker::from(Arc::clone(&own)), own }
    }
}

impl<F: Future> Future for InPlace<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, own, waker } = &mut *self;
        // Before the first look: whoever wakes after it finds the task.
        own.task.register(context.waker());
        for _ in 0..TIMES_MAX {
            own.state.store(POLLED, Ordering::SeqCst);
            let polled = future.as_mut().poll(&mut Context::from_waker(waker));
            let woken = own.state.swap(RESTS, Ordering::SeqCst) == WOKEN;
            if polled.is_ready() || !woken {
                return polled;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for Own {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Who polls looks at this when it is done.
        if self.state.compare_exchange(POLLED, WOKEN, Ordering::SeqCst, Ordering::SeqCst).unwrap_or_else(|found| found) == RESTS {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    struct Counts(AtomicUsize);

    impl Wake for Counts {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn both_ends_of_a_channel_in_one_task_do_not_wake_the_runtime() {
        let counts = Arc::new(Counts(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&counts));
        let (sender, mut receiver) = mpsc::channel(1);
        let takes = async move {
            let mut sum = 0;
            while let Some(number) = receiver.recv().await {
                sum += number;
            }
            sum
        };
        let gives = async move {
            for number in 1..=5 {
                sender.send(number).await.unwrap();
            }
        };
        let mut both = InPlace::new(async { futures_util::join!(takes, gives).0 });
        assert_eq!(Pin::new(&mut both).poll(&mut Context::from_waker(&waker)), Poll::Ready(15));
        assert_eq!(counts.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn what_wakes_itself_without_end_gives_way() {
        let counts = Arc::new(Counts(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&counts));
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&polls);
        let mut restless = InPlace::new(std::future::poll_fn(move |context| {
            counted.fetch_add(1, Ordering::SeqCst);
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        assert!(Pin::new(&mut restless).poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!((polls.load(Ordering::SeqCst), counts.0.load(Ordering::SeqCst)), (TIMES_MAX, 1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_wake_of_another_thread_is_lost() {
        let (forth, mut there) = mpsc::channel::<u32>(1);
        let (back, mut here) = mpsc::channel::<u32>(1);
        let echo = tokio::spawn(InPlace::new(async move {
            while let Some(number) = there.recv().await {
                back.send(number).await.unwrap();
            }
        }));
        let asks = tokio::spawn(InPlace::new(async move {
            for number in 0..20_000 {
                forth.send(number).await.unwrap();
                assert_eq!(here.recv().await, Some(number));
            }
        }));
        tokio::time::timeout(Duration::from_secs(60), asks).await.expect("a wake was lost").unwrap();
        echo.await.unwrap();
    }
}
