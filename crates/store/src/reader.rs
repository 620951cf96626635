//! Readers: a few threads with read-only connections, so that a question never waits for the writer.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::error::StoreError;

type Question = Box<dyn FnOnce(&Connection) + Send>;

/// Questions that may wait before the next asker does.
const QUESTIONS_MAX: usize = 1024;

#[derive(Clone)]
pub(crate) struct Readers {
    questions: mpsc::Sender<Question>,
}

impl Readers {
    /// Starts one thread per connection.
    pub(crate) fn start(connections: Vec<Connection>) -> Result<(Self, Vec<JoinHandle<()>>), std::io::Error> {
        let (questions, queue) = mpsc::channel::<Question>(QUESTIONS_MAX);
        let queue = Arc::new(Mutex::new(queue));
        let mut threads = Vec::new();
        for conn in connections {
            let queue = Arc::clone(&queue);
            conn.set_prepared_statement_cache_capacity(64);
            let work = move || {
                while let Some(question) = next(&queue) {
                    question(&conn);
                }
            };
            threads.push(std::thread::Builder::new().name("store-reader".to_owned()).spawn(work)?);
        }
        Ok((Self { questions }, threads))
    }

    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let question: Question = Box::new(move |conn| drop(reply.send(question(conn))));
        self.questions.send(question).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

fn next(queue: &Mutex<mpsc::Receiver<Question>>) -> Option<Question> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv()
}
