//! The stream as messages in the order of the commits, streamed transactions among them.
//!
//! ```text
//! ReplicationStream ─┬─ outside of blocks ──────────────────────▶ Fed::Message
//!                    └─ blocks ──▶ Spool ── commit ──▶ Replay ──▶ Fed::Message
//! ```
//!
//! The invariant: whoever reads the messages cannot tell whether a transaction was streamed. Nothing
//! is read from the server while a transaction is replayed, or while the spool waits for disk: the
//! task that answers the server goes on meanwhile.

mod late;

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use anabranch_core::{Error, ErrorKind, Lsn};
use bytes::Bytes;
use tokio::time::Instant;

use crate::error::from_wire;
use crate::pgoutput::{DecodeError, InStream, Message, decode, in_stream};
use crate::pgwire::{ReplicationStream, Streamed, WireError};
use crate::spool::{Replay, Spool, SpoolError};
use late::LateRelations;

/// Time between two tries to write to a full disk: somebody has to make room.
const FULL_DISK_INTERVAL: Duration = Duration::from_secs(1);
/// After this the feed ends, which frees its own files: if it is they that fill the disk, nothing
/// else does, since the commits that they wait for are not read meanwhile.
const FULL_DISK_WAIT_MAX: Duration = Duration::from_mins(5);

/// What the reader of the stream is given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    Message(Message),
    /// Nothing that is published lies before `wal_end` but what was given already.
    Keepalive {
        wal_end: Lsn,
    },
    /// There was something to keep, and nothing to give.
    Spooled,
}

/// The stream and its spool.
pub(crate) struct Feed {
    stream: ReplicationStream,
    spool: Spool,
    /// The streamed transaction that has committed.
    replay: Option<Replay>,
    late: LateRelations,
    /// Since when the disk has been full.
    full_since: Option<Instant>,
}

/// Why there is nothing more to give.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

impl Feed {
    /// `ours` are the tables that are read, by oid.
    pub(crate) fn new(stream: ReplicationStream, spool: Spool, ours: HashSet<u32>) -> Self {
        let late = LateRelations::new(ours);
        Self { stream, spool, replay: None, late, full_since: None }
    }

    /// The next message. Cancel-safe: whatever it waits for is kept here.
    pub(crate) async fn next(&mut self) -> Result<Fed, FeedError> {
        loop {
            if let Some(fed) = self.buffered()? {
                return Ok(fed);
            }
            if let Some(replay) = &mut self.replay {
                replay.fill().await.map_err(SpoolError::Disk)?;
            } else if self.spool.is_full() {
                self.relieve().await?;
            } else {
                let streamed = self.stream.next().await?;
                return Ok(self.understand(streamed)?.unwrap_or(Fed::Spooled));
            }
        }
    }

    /// The next message, if there is one without waiting.
    pub(crate) fn buffered(&mut self) -> Result<Option<Fed>, FeedError> {
        loop {
            if let Some(message) = self.late.next() {
                return Ok(Some(Fed::Message(message)));
            }
            if let Some(replay) = &mut self.replay {
                match replay.buffered()? {
                    Some(Message::Relation(relation)) => self.late.keep(relation),
                    Some(message) => self.late.give(message),
                    None if replay.has_ended() => self.replay = None,
                    None => return Ok(None),
                }
                continue;
            }
            if self.spool.is_full() {
                return Ok(None);
            }
            let Some(streamed) = self.stream.buffered()? else { return Ok(None) };
            if let Some(fed) = self.understand(streamed)? {
                return Ok(Some(fed));
            }
        }
    }

    /// Whether a block of a transaction in progress is being read.
    pub(crate) fn in_block(&self) -> bool {
        self.spool.in_block()
    }

    /// What the spool holds, in memory and on disk.
    pub(crate) fn spooled_bytes(&self) -> (usize, u64) {
        self.spool.bytes()
    }

    /// Takes what the server sent; `None` if there is nothing to give for it now.
    fn understand(&mut self, streamed: Streamed) -> Result<Option<Fed>, FeedError> {
        match streamed {
            Streamed::Keepalive { wal_end } => Ok(Some(Fed::Keepalive { wal_end })),
            Streamed::Data(bytes) if self.spool.in_block() => {
                self.keep(&bytes)?;
                Ok(None)
            }
            Streamed::Data(bytes) => self.sort(decode(&bytes)?),
        }
    }

    /// Keeps a message of a block.
    fn keep(&mut self, bytes: &Bytes) -> Result<(), FeedError> {
        match in_stream(bytes)? {
            InStream::Change { xid, tag, body } => self.spool.add(xid, tag, &body)?,
            InStream::Passing => {}
            InStream::Stop => self.spool.stop()?,
        }
        Ok(())
    }

    /// Gives a message, or does what it says to the spool.
    fn sort(&mut self, message: Message) -> Result<Option<Fed>, FeedError> {
        match message {
            Message::StreamStart(start) => self.spool.start(start)?,
            Message::StreamStop => self.spool.stop()?,
            Message::StreamAbort(abort) => self.spool.abort(abort)?,
            Message::StreamCommit(commit) => self.replay = Some(self.spool.commit(commit)?),
            message @ (Message::Begin(_)
            | Message::Commit(_)
            | Message::Origin
            | Message::Relation(_)
            | Message::Type
            | Message::Insert { .. }
            | Message::Update { .. }
            | Message::Delete { .. }
            | Message::Truncate { .. }
            | Message::Logical(_)
            | Message::TwoPhase(_)) => self.late.give(message),
        }
        Ok(self.late.next().map(Fed::Message))
    }

    /// Makes room in memory; while the disk is full it waits, for a bounded time, and nothing is
    /// read.
    async fn relieve(&mut self) -> Result<(), FeedError> {
        match self.spool.relieve().await {
            Ok(()) => {
                if self.full_since.take().is_some() {
                    tracing::info!("the spool has room again");
                }
            }
            Err(error) if is_full(&error) && self.may_wait() => {
                if self.full_since.is_none() {
                    tracing::warn!(%error, "the disk below the spool is full: waiting for room");
                    self.full_since = Some(Instant::now());
                }
                tokio::time::sleep(FULL_DISK_INTERVAL).await;
            }
            Err(error) => return Err(SpoolError::Disk(error).into()),
        }
        Ok(())
    }

    /// Whether a full disk may still be waited for.
    fn may_wait(&self) -> bool {
        self.full_since.is_none_or(|since| since.elapsed() < FULL_DISK_WAIT_MAX)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl FeedError {
    /// What it asks of us.
    pub(crate) fn classify(self, action: String) -> Error {
        match self {
            Self::Wire(error) => from_wire(error, action),
            Self::Spool(SpoolError::Disk(error)) => Error::new(ErrorKind::Transient, action)
                .with_source(SpoolError::Disk(error))
                .with_help("check [source.spool] folder and the disk that it is on"),
            error @ (Self::Decode(_) | Self::Spool(_)) => {
                Error::new(ErrorKind::Bug, action).with_source(error)
            }
        }
    }
}

#[cfg(test)]
mod tests;
