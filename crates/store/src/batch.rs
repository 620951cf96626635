//! Requests to the writer, and the answers that it owes once their batch is durable or has failed.

use std::sync::atomic::{AtomicU64, Ordering};

use bailiwick_core::CallId;
use bailiwick_core::record::Lost;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::entry::{Entry, Intent};
use crate::error::StoreError;
use crate::writing::Writing;

/// What becomes of an intent.
pub(crate) type Admitted = Result<Result<u64, Lost>, StoreError>;

/// One request to the writer.
pub(crate) enum Job {
    Intent(Intent, oneshot::Sender<Admitted>),
    Outcome {
        intent: u64,
        call: CallId,
        body: Vec<u8>,
        ack: Ack,
    },
    Append(Entry, Ack),
    /// Nobody waits for the intent of this call any more.
    Abandon(CallId),
    /// True: it takes authority away, or ends something, and has what is left of a full disk.
    Change(Box<dyn Change>, bool),
    /// The database is to have everything, and nothing is to be left in the journal.
    Wipe(oneshot::Sender<Result<(), StoreError>>),
    Stop(oneshot::Sender<()>),
}

impl Job {
    /// May it use what is left of a full disk? What became of a call that was sent may too: its place in the journal is there beforehand.
    pub(crate) const fn has_reserve(&self) -> bool {
        matches!(self, Self::Outcome { .. } | Self::Abandon(_) | Self::Change(_, true) | Self::Stop(_))
    }

    /// Does somebody wait for it to be durable?
    pub(crate) const fn is_awaited(&self) -> bool {
        !matches!(self, Self::Outcome { ack: Ack::Relaxed(_), .. } | Self::Append(_, Ack::Relaxed(_)) | Self::Abandon(_))
    }
}

/// Whom to tell that an entry is durable.
pub(crate) enum Ack {
    Durable(oneshot::Sender<Result<u64, StoreError>>),
    /// Nobody waits; the permit is the place that it takes among what is outstanding.
    Relaxed(OwnedSemaphorePermit),
}

/// A change of rows that runs inside the transaction.
pub(crate) trait Change: Send {
    fn run(&mut self, writing: &mut Writing<'_>) -> Result<(), StoreError>;
    fn answer(self: Box<Self>, batch: Result<(), StoreError>);
}

/// A change given as a closure.
pub(crate) struct Closure<T, F> {
    change: Option<F>,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Closure<T, F> {
    pub(crate) const fn new(change: F, reply: oneshot::Sender<Result<T, StoreError>>) -> Self {
        Self { change: Some(change), result: None, reply }
    }
}

impl<T: Send, F: FnOnce(&mut Writing<'_>) -> Result<T, StoreError> + Send> Change for Closure<T, F> {
    fn run(&mut self, writing: &mut Writing<'_>) -> Result<(), StoreError> {
        let Some(change) = self.change.take() else { return Err(StoreError::Closed) };
        let result = change(writing);
        let told = result.as_ref().map(|_| ()).map_err(Clone::clone);
        self.result = Some(result);
        told
    }

    fn answer(self: Box<Self>, batch: Result<(), StoreError>) {
        let result = match batch {
            Ok(()) => self.result.unwrap_or(Err(StoreError::Closed)),
            Err(e) => Err(e),
        };
        // The caller may have gone; what was written stays written.
        drop(self.reply.send(result));
    }
}

/// An answer that is owed.
pub(crate) enum Owed {
    Intent(oneshot::Sender<Admitted>, CallId, Result<u64, Lost>),
    /// An intent that was refused before it was looked at.
    Refused(oneshot::Sender<Admitted>, StoreError),
    Entry {
        ack: Ack,
        result: Result<u64, StoreError>,
        closing: Option<(u64, CallId)>,
    },
    Change(Box<dyn Change>),
}

/// What the answers left behind.
pub(crate) struct Answered<'a> {
    /// Intents whose caller is gone, or whose relaxed outcome could not be written.
    pub(crate) abandoned: Vec<(u64, CallId)>,
    /// Relaxed entries that could not be written.
    pub(crate) lost: &'a AtomicU64,
}

impl Owed {
    /// Gives the answer. `batch` says whether all of it is durable.
    pub(crate) fn answer(self, batch: Result<(), StoreError>, after: &mut Answered<'_>) {
        match self {
            Self::Intent(reply, call, result) => {
                let answer = batch.map(|()| result);
                if let Err(Ok(Ok(index))) = reply.send(answer) {
                    after.abandoned.push((index, call));
                }
            }
            Self::Refused(reply, error) => drop(reply.send(Err(error))),
            Self::Entry { ack: Ack::Durable(reply), result, closing } => {
                let result = batch.and(result);
                if let Err(Err(_)) = reply.send(result) {
                    after.abandoned.extend(closing);
                }
            }
            Self::Entry { ack: Ack::Relaxed(_place), result, closing } => {
                if let Err(error) = batch.and(result) {
                    tracing::error!(error.code = error.code().slug(), %error, intent = closing.map(|c| c.0), "an entry that nobody waits for could not be recorded");
                    after.lost.fetch_add(1, Ordering::Relaxed);
                    after.abandoned.extend(closing);
                }
            }
            Self::Change(change) => change.answer(batch),
        }
    }
}

impl Job {
    /// Refuses a request that was not looked at.
    pub(crate) fn refuse(self, error: StoreError, after: &mut Answered<'_>) {
        match self {
            Self::Intent(_, reply) => drop(reply.send(Err(error))),
            Self::Outcome { ack, intent, call, .. } => {
                Owed::Entry { ack, result: Ok(intent), closing: Some((intent, call)) }.answer(Err(error), after);
            }
            Self::Append(_, ack) => Owed::Entry { ack, result: Ok(0), closing: None }.answer(Err(error), after),
            Self::Abandon(_) => {}
            Self::Change(change, _) => change.answer(Err(error)),
            Self::Wipe(reply) => drop(reply.send(Err(error))),
            Self::Stop(reply) => reply.send(()).unwrap_or_default(),
        }
    }
}
