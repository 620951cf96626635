//! What waits for the writer, and who writes it: the thread that asks, if nothing else is going on, else the writer's own thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::batch::Job;
use crate::error::StoreError;
use crate::writer::Writer;

/// What nobody waits for rides along with what somebody waits for, and goes alone after this long, or when there is this much of
/// it: a read's outcome must not make the next call's intent wait for a write of its own.
const RIDE_FOR: Duration = Duration::from_millis(10);
const RIDERS_MAX: usize = 1024;
/// After so many batches of one request, whoever asks is taken to be alone.
const ALONE_AFTER: usize = 64;

/// Requests in the order in which they came, and the one writer.
pub(crate) struct Desk {
    queue: Mutex<Queue>,
    bell: Condvar,
    /// Whoever holds it writes. `None` after the end.
    writer: Mutex<Option<Writer>>,
    /// Batches until the asker's own thread may write again. With more than one request in a batch, many ask at once, and writing
    /// in an asker's thread would make small batches of what could be one, and hold up whoever else runs there.
    crowd: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// How many of them somebody waits for.
    awaited: usize,
    /// Since when the oldest waits.
    since: Option<Instant>,
    /// The writer's thread sleeps without an alarm.
    asleep: bool,
    /// Nobody may ask any more.
    closed: bool,
}

impl Desk {
    pub(crate) fn new(writer: Writer) -> Self {
        Self { queue: Mutex::default(), bell: Condvar::new(), writer: Mutex::new(Some(writer)), crowd: AtomicUsize::new(0) }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) -> Result<bool, StoreError> {
        let awaited = job.is_awaited();
        let mut queue = self.queue();
        if queue.closed {
            return Err(StoreError::Closed);
        }
        queue.since.get_or_insert_with(Instant::now);
        queue.jobs.push_back(job);
        queue.awaited = queue.awaited.saturating_add(usize::from(awaited));
        let ring = !awaited && (queue.asleep || queue.jobs.len() >= RIDERS_MAX);
        drop(queue);
        if ring {
            self.bell.notify_one();
        }
        Ok(awaited)
    }

    /// Asks. What somebody waits for is written here and now if nobody else is at it: that spares two changes of thread.
    pub(crate) fn ask(&self, job: Job) -> Result<(), StoreError> {
        if !self.push(job)? {
            return Ok(());
        }
        if self.crowd.load(Ordering::Relaxed) == 0
            && let Ok(mut writer) = self.writer.try_lock()
        {
            if let Some(writer) = writer.as_mut() {
                writer.write(self);
            }
            drop(writer);
            // Looked at after the writer was let go: who came while it was held saw that, and left it to us.
            if self.queue().awaited == 0 {
                return Ok(());
            }
        }
        self.bell.notify_one();
        Ok(())
    }

    /// Asks for the end: everything that was asked before is written first.
    pub(crate) fn stop(&self, stopped: oneshot::Sender<()>) {
        if self.push(Job::Stop(stopped)).is_ok() {
            self.close();
        }
    }

    /// Nobody may ask any more.
    pub(crate) fn close(&self) {
        self.queue().closed = true;
        self.bell.notify_one();
    }

    /// Hands over all that waits.
    pub(crate) fn take(&self, into: &mut VecDeque<Job>) {
        let mut queue = self.queue();
        queue.awaited = 0;
        queue.since = None;
        into.append(&mut queue.jobs);
    }

    /// Notes how many waited for a batch.
    pub(crate) fn crowd(&self, awaited: usize) {
        let left = if awaited > 1 { ALONE_AFTER } else { self.crowd.load(Ordering::Relaxed).saturating_sub(1) };
        self.crowd.store(left, Ordering::Relaxed);
    }

    /// The writer's own thread: works until nobody can ask any more.
    pub(crate) fn run(&self) {
        while self.wait() {
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(writer) = writer.as_mut() {
                writer.write(self);
            }
        }
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stopped) = writer.and_then(Writer::end) {
            // The asker may have gone.
            stopped.send(()).unwrap_or_default();
        }
    }

    /// Waits until something is to be written now. False: it is the end.
    fn wait(&self) -> bool {
        let mut queue = self.queue();
        loop {
            let due = queue.since.map(|since| RIDE_FOR.saturating_sub(since.elapsed()));
            let now = queue.awaited > 0 || queue.jobs.len() >= RIDERS_MAX || due == Some(Duration::ZERO);
            if now || (queue.closed && !queue.jobs.is_empty()) {
                return true;
            }
            if queue.closed {
                return false;
            }
            queue.asleep = due.is_none();
            queue = match due {
                Some(left) => self.bell.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.bell.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
            queue.asleep = false;
        }
    }
}
