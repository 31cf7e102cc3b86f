//! Transactions that arrive while they are in progress, kept until they commit.
//!
//! ```text
//! blocks ──▶ Spool: by transaction ── Stream Commit ──▶ Replay: Begin, its changes, Commit
//!              │   ▲ Stream Abort takes the changes of a subtransaction back
//!              └───┴─ memory up to a limit, then an unlinked file for each transaction
//! ```
//!
//! The invariant: what is replayed is what the server would have sent at the commit, message for
//! message, had it not streamed the transaction. Everything here is a pure state machine but
//! [`Spool::relieve`], which writes, and [`Replay::fill`], which reads.

mod config;
mod disk;
#[cfg(any(test, fuzzing))]
mod fake;
mod replay;
mod transaction;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use anabranch_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::pgoutput::{DecodeError, StreamAbort, StreamCommit, StreamStart};
pub use config::SpoolConfig;
use disk::{Disk, Folder};
#[cfg(any(test, fuzzing))]
pub(crate) use fake::FakeDisk;
pub(crate) use replay::Replay;
use transaction::{Spooled, Written};

/// The streamed transactions that have neither committed nor been rolled back.
#[derive(Debug)]
pub(crate) struct Spool {
    transactions: HashMap<u32, Spooled>,
    /// The transaction whose block is being read.
    block: Option<u32>,
    /// Bytes in memory that could be on disk.
    memory: usize,
    memory_max: usize,
    /// The transaction whose file is longer than what it holds.
    shortened: Option<u32>,
    writing: Option<Writing>,
    disk: Arc<dyn Disk>,
}

/// A write under way; until it has ended nothing else happens to the spool.
#[derive(Debug)]
struct Writing {
    xid: u32,
    bytes: Bytes,
    task: JoinHandle<io::Result<Written>>,
}

/// What is wrong with a stream, or with the disk below the spool.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    #[error("{0} of transaction {1} comes out of turn")]
    OutOfTurn(&'static str, u32),
    #[error("the spool holds what is no message")]
    Decode(#[from] DecodeError),
    #[error("the spool on disk cannot be used")]
    Disk(#[from] io::Error),
}

impl Spool {
    /// A spool as configured. If it will be `used`, its folder must be fit for it.
    pub(crate) async fn open(config: &SpoolConfig, used: bool) -> Result<Self> {
        let folder = config.folder.clone().unwrap_or_else(std::env::temp_dir);
        let action = format!("use [source.spool] folder {}", folder.display());
        if used && disk::is_memory(&folder) {
            tracing::warn!(
                "[source.spool] folder {} is in memory (tmpfs): name a folder that is on disk",
                folder.display()
            );
        }
        let disk: Arc<dyn Disk> = Arc::new(Folder(folder));
        if used {
            let disk = Arc::clone(&disk);
            let created = tokio::task::spawn_blocking(move || disk.create().map(drop)).await;
            created.map_err(io::Error::other).flatten().map_err(|error| {
                Error::new(ErrorKind::Config, action).with_source(error).with_help(
                    "name a folder that we may write to, with room for the largest \
                                transactions",
                )
            })?;
        }
        Ok(Self::new(config.memory_bytes_max, disk))
    }

    /// An empty spool that keeps at most about `memory_max` bytes in memory.
    pub(crate) fn new(memory_max: usize, disk: Arc<dyn Disk>) -> Self {
        Self {
            transactions: HashMap::new(),
            block: None,
            memory: 0,
            memory_max,
            shortened: None,
            writing: None,
            disk,
        }
    }

    /// Whether the next message is part of a block.
    pub(crate) fn in_block(&self) -> bool {
        self.block.is_some()
    }

    /// Bytes of transactions in progress: in memory, and on disk.
    pub(crate) fn bytes(&self) -> (usize, u64) {
        (self.memory, self.transactions.values().map(Spooled::on_disk).sum())
    }

    /// A block begins.
    pub(crate) fn start(&mut self, start: StreamStart) -> Result<(), SpoolError> {
        let known = self.transactions.contains_key(&start.xid);
        if self.block.is_some() || known == start.first {
            return Err(SpoolError::OutOfTurn("a block", start.xid));
        }
        self.transactions.entry(start.xid).or_default();
        self.block = Some(start.xid);
        Ok(())
    }

    /// Keeps a change of (sub)transaction `xid`, as `pgoutput` takes it apart.
    pub(crate) fn add(&mut self, xid: u32, tag: u8, body: &[u8]) -> Result<(), SpoolError> {
        let open = self.block.and_then(|top| self.transactions.get_mut(&top));
        let open = open.ok_or(SpoolError::OutOfTurn("a change", xid))?;
        let before = open.memory();
        open.add(xid, tag, body)?;
        self.memory += open.memory() - before;
        Ok(())
    }

    /// A block ends.
    pub(crate) fn stop(&mut self) -> Result<(), SpoolError> {
        self.block.take().map(drop).ok_or(SpoolError::OutOfTurn("the end of a block", 0))
    }

    /// A subtransaction, or all of a transaction, is rolled back. The server names the children of
    /// a subtransaction one by one.
    pub(crate) fn abort(&mut self, abort: StreamAbort) -> Result<(), SpoolError> {
        if self.block.is_some() {
            return Err(SpoolError::OutOfTurn("the rollback", abort.subxid));
        }
        // Of one that is not known there is nothing to take back.
        let Some(open) = self.transactions.get_mut(&abort.xid) else { return Ok(()) };
        let before = open.memory();
        if abort.subxid == abort.xid {
            self.transactions.remove(&abort.xid);
            self.memory -= before;
            self.shortened = self.shortened.filter(|xid| *xid != abort.xid);
            return Ok(());
        }
        open.abort(abort.subxid);
        self.memory = self.memory + open.memory() - before;
        if open.is_too_long() {
            self.shortened = Some(abort.xid);
        }
        Ok(())
    }

    /// A transaction commits: its changes, to be read one after the other.
    pub(crate) fn commit(&mut self, commit: StreamCommit) -> Result<Replay, SpoolError> {
        let spooled = self.transactions.remove(&commit.xid).filter(|_| self.block.is_none());
        let spooled = spooled.ok_or(SpoolError::OutOfTurn("the commit", commit.xid))?;
        self.memory -= spooled.memory();
        self.shortened = self.shortened.filter(|xid| *xid != commit.xid);
        Ok(Replay::new(commit, spooled))
    }

    /// Whether [`Self::relieve`] must be called before anything is added.
    pub(crate) fn is_full(&self) -> bool {
        self.memory > self.memory_max || self.shortened.is_some() || self.writing.is_some()
    }

    /// Writes the largest transaction to disk, or gives disk back that is not needed any more.
    /// Cancel-safe; after an error nothing has changed, and it may be called again.
    pub(crate) async fn relieve(&mut self) -> io::Result<()> {
        if self.writing.is_none() {
            self.writing = self.write();
        }
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let outcome = (&mut writing.task).await.map_err(io::Error::other).flatten();
        let Some(Writing { xid, bytes, .. }) = self.writing.take() else { return Ok(()) };
        let Some(spooled) = self.transactions.get_mut(&xid) else { return Ok(()) };
        match outcome {
            Ok(written) => {
                let before = spooled.memory() + bytes.len();
                spooled.written(&bytes, written);
                self.memory = self.memory + spooled.memory() - before;
                self.shortened = self.shortened.filter(|shortened| *shortened != xid);
                Ok(())
            }
            Err(error) => {
                spooled.take_back(bytes);
                Err(error)
            }
        }
    }

    /// Begins to write.
    fn write(&mut self) -> Option<Writing> {
        let largest = || {
            let size = |(xid, spooled): (&u32, &Spooled)| (spooled.memory(), *xid);
            self.transactions.iter().map(size).max().map(|(_, xid)| xid)
        };
        let xid = self.shortened.or_else(largest)?;
        let spooled = self.transactions.get_mut(&xid)?;
        let (bytes, write) = spooled.write(Arc::clone(&self.disk));
        Some(Writing { xid, bytes, task: tokio::task::spawn_blocking(write) })
    }
}

#[cfg(test)]
mod tests;
