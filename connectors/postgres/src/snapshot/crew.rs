//! The sessions that copy at once.
//!
//! ```text
//! ranges ──▶ queue ─┬─▶ session, COPY, encode ─┬─▶ pieces ──▶ whoever hands them over
//!                   ├─▶ session, COPY, encode ─┤
//!                   └─▶ ...                   ─┘
//! ```
//!
//! Each session takes the next range when it has finished one, so that none waits for another. What is
//! read and not handed over yet is bounded by the size of a piece and the number of sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anabranch_core::{Error, ErrorKind, LogBatch, Result};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::binary::{NO_BINARY_FORM, TextOnly};
use crate::copy_row::CopyFormat;
use crate::copying::Copying;
use crate::error::from_plain;
use crate::pgwire::{CopyConnection, WireError};
use crate::session::Session;
use crate::source::abandoned;

use super::progress::Progress;
use super::ranges::{Range, Source};

/// Rows that were read.
pub(super) struct Piece {
    pub(super) bytes: usize,
    pub(super) rows: LogBatch,
    /// Tables of which a range has ended with these rows, each by its place.
    pub(super) finished: Vec<usize>,
}

/// What is copied.
#[derive(Debug)]
pub(super) struct Work {
    sources: Vec<Source>,
    ranges: Vec<Range>,
    /// The next range that nobody has taken.
    next: AtomicUsize,
    /// What can be read beside the stream is not to be begun any more.
    is_cut_short: AtomicBool,
    progress: Arc<Progress>,
    text_only: TextOnly,
    piece_bytes: usize,
}

/// The sessions at work.
pub(super) struct Crew {
    pieces: mpsc::Receiver<Result<Piece>>,
    /// The session that has the locks.
    locks: Session,
    work: Arc<Work>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

struct Worker {
    connection: CopyConnection,
    work: Arc<Work>,
    out: Out,
}

/// What was read, and the way out.
struct Out {
    rows: Copying,
    pieces: mpsc::Sender<Result<Piece>>,
    /// Tables of which a range has ended since the last piece.
    finished: Vec<usize>,
}

impl Work {
    pub(super) fn new(
        (sources, ranges): (Vec<Source>, Vec<Range>),
        text_only: TextOnly,
        piece_bytes: usize,
    ) -> Self {
        let mut sizes = vec![(0, 0); sources.len()];
        for range in &ranges {
            if let Some((bytes, count)) = sizes.get_mut(range.source) {
                *bytes += range.bytes;
                *count += 1;
            }
        }
        let names = sources.iter().map(|source| source.table.full_name());
        let tables = names.zip(sizes).map(|(name, (bytes, count))| (name, bytes, count));
        let progress = Arc::new(Progress::new(tables));
        Self {
            sources,
            ranges,
            next: AtomicUsize::new(0),
            is_cut_short: AtomicBool::new(false),
            progress,
            text_only,
            piece_bytes,
        }
    }

    /// How far it is.
    pub(super) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// The next range that nobody has taken, which is the caller's now.
    fn take(&self) -> Option<(&Range, &Source)> {
        loop {
            let range = self.ranges.get(self.next.fetch_add(1, Ordering::Relaxed))?;
            let source = self.sources.get(range.source)?;
            if source.table.append_only || !self.is_cut_short.load(Ordering::Relaxed) {
                return Some((range, source));
            }
        }
    }
}

impl Crew {
    /// Lets every connection copy into the rows beside it; the session `locks` has locked the tables.
    pub(super) fn begin(
        locks: Session,
        sessions: Vec<(CopyConnection, Copying)>,
        work: Work,
    ) -> Self {
        let (out, pieces) = mpsc::channel(sessions.len().max(1));
        let work = Arc::new(work);
        let count = u64::try_from(sessions.len()).unwrap_or(u64::MAX);
        let begin = |(place, (connection, rows)): (u64, (CopyConnection, Copying))| {
            let rows = rows.one_of((place, count));
            let out = Out { rows, pieces: out.clone(), finished: Vec::new() };
            spawn(Worker { connection, work: Arc::clone(&work), out })
        };
        let tasks = (0..).zip(sessions).map(begin).collect();
        Self { pieces, locks, work, _tasks: tasks }
    }

    /// Has no range begun any more of a table that can be read beside the stream; whether that is new.
    pub(super) fn cut_short(&self) -> bool {
        !self.work.is_cut_short.swap(true, Ordering::Relaxed)
    }

    /// The next piece; `None` when everything is copied.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>> {
        // The locks come first: what is read without them may be of a table that was rewritten.
        tokio::select! {
            biased;
            () = self.locks.closed() => Err(Error::new(ErrorKind::Transient, "copy the tables")
                .with_source("the session that has locked them has ended")),
            piece = self.pieces.recv() => piece.transpose(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the handle is owned and aborts on drop")]
fn spawn(worker: Worker) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(worker.run()))
}

impl Worker {
    async fn run(mut self) {
        if let Err(error) = self.copy().await {
            // A receiver that is gone has nobody to tell.
            self.out.pieces.send(Err(error)).await.ok();
        }
    }

    async fn copy(&mut self) -> Result<()> {
        let work = Arc::clone(&self.work);
        let failed = |error| from_plain(error, "copy the tables".to_owned());
        self.connection.execute("savepoint range").await.map_err(failed)?;
        while let Some((range, source)) = work.take() {
            self.range(range, source).await?;
            self.out.finished.push(range.source);
            // Lets go of the locks on what was read, indexes and all: there may be thousands.
            self.connection.execute("rollback to savepoint range").await.map_err(failed)?;
            if let Some(rows) = work.progress.range(range.source, range.bytes) {
                tracing::info!(table = source.table.full_name(), rows, "copied");
            }
        }
        self.out.hand_over().await
    }

    async fn range(&mut self, range: &Range, source: &Source) -> Result<()> {
        let Self { connection, work, out } = self;
        let failed = |error: WireError| {
            if let WireError::Server(server) = &error
                && server.code == NO_BINARY_FORM
                && source.format == CopyFormat::Binary
            {
                return work.text_only.fall_back(error.to_string());
            }
            from_plain(error, format!("copy {}", source.table.full_name()))
        };
        let mut copied = connection.copy_out(&range.sql(source)).await.map_err(failed)?;
        while copied.fill().await.map_err(failed)? {
            let mut count = 0;
            while let Some(row) = copied.row().map_err(failed)? {
                count += u64::from(out.rows.row(&source.relation, source.format, row)?.is_some());
                if out.rows.bytes() >= work.piece_bytes {
                    out.hand_over().await?;
                }
            }
            work.progress.rows(range.source, count);
        }
        Ok(())
    }
}

impl Out {
    async fn hand_over(&mut self) -> Result<()> {
        let finished = std::mem::take(&mut self.finished);
        let piece = Piece { bytes: self.rows.bytes(), rows: self.rows.take(), finished };
        self.pieces.send(Ok(piece)).await.map_err(|_| abandoned())
    }
}
