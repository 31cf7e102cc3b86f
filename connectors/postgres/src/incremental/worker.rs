//! A task that reads chunks, of one table after the other, and writes their edges.
//!
//! ```text
//! Task ─▶ low edge · chunk ─▶ Report ─▶ high edge
//! ```
//!
//! The invariant: a chunk is reported before its high edge is in the WAL, so whoever meets that in
//! the stream has the chunk.

use std::sync::Arc;

use anabranch_core::{Error, Result};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::chunk::{Chunk, Part, Reader, Task};
use crate::config::PostgresConfig;

/// What a worker has to say.
#[derive(Debug)]
pub(crate) enum News {
    Chunk(Box<Chunk>),
    /// There is no such table.
    Gone,
    Failed(Error),
}

/// Who says it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) reader: Uuid,
    /// Of which chunk.
    pub(crate) number: u64,
    pub(crate) news: News,
}

/// A task that reads; it ends with this.
pub(crate) struct Worker {
    id: Uuid,
    /// Counts its chunks.
    number: u64,
    tasks: mpsc::Sender<Task>,
    _task: AbortOnDropHandle<()>,
}

impl Worker {
    #[expect(clippy::disallowed_methods, reason = "the handle is owned and aborts on drop")]
    pub(crate) fn begin(config: Arc<PostgresConfig>, reports: mpsc::Sender<Report>) -> Self {
        let id = Uuid::new_v4();
        // One at a time is asked for.
        let (tasks, inbox) = mpsc::channel(1);
        let reader = Reader::new(config, id);
        let task = AbortOnDropHandle::new(tokio::spawn(work(id, reader, inbox, reports)));
        Self { id, number: 0, tasks, _task: task }
    }

    /// Whether `number` is the chunk that it was asked for last, and it is `reader`.
    pub(crate) fn reads(&self, reader: Uuid, number: u64) -> bool {
        (self.id, self.number) == (reader, number)
    }

    /// What it may still say of its last chunk counts no more.
    pub(crate) fn rest(&mut self) {
        self.number += 1;
    }

    /// Has the next chunk read, of the table `oid`.
    pub(crate) fn ask(&mut self, oid: u32, part: Part, rows: usize) {
        self.number += 1;
        let task = Task { number: self.number, oid, part, rows };
        // There is room unless two are asked for at once, and then it would say nothing for ever.
        if self.tasks.try_send(task).is_err() {
            tracing::error!(reader = %self.id, "a chunk was asked for while one is read");
        }
    }
}

async fn work(
    id: Uuid,
    mut reader: Reader,
    mut tasks: mpsc::Receiver<Task>,
    reports: mpsc::Sender<Report>,
) {
    while let Some(task) = tasks.recv().await {
        let report = |news| reports.send(Report { reader: id, number: task.number, news });
        if let Err(error) = read(&mut reader, &task, report).await {
            // Without a listener there is nobody to tell.
            report(News::Failed(error)).await.ok();
        }
    }
}

async fn read<F, S>(reader: &mut Reader, task: &Task, report: F) -> Result<()>
where
    F: Fn(News) -> S,
    S: Future<Output = Result<(), mpsc::error::SendError<Report>>>,
{
    let Some(chunk) = reader.read(task).await? else {
        report(News::Gone).await.ok();
        return Ok(());
    };
    report(News::Chunk(chunk)).await.ok();
    reader.end(task.number).await
}
