//! Figures of a running source, for `/status` and `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::Lsn;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Counters and positions; every reader sees them grow.
#[derive(Debug)]
pub struct SourceStats {
    began: Instant,
    received_lsn: AtomicU64,
    durable_lsn: AtomicU64,
    wal_end: AtomicU64,
    heard_ms: AtomicU64,
    transactions: AtomicU64,
    rows: AtomicU64,
    rereads: AtomicU64,
    marked: AtomicU64,
    snapshot_rows: AtomicU64,
}

impl Default for SourceStats {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            received_lsn: AtomicU64::default(),
            durable_lsn: AtomicU64::default(),
            wal_end: AtomicU64::default(),
            heard_ms: AtomicU64::default(),
            transactions: AtomicU64::default(),
            rows: AtomicU64::default(),
            rereads: AtomicU64::default(),
            marked: AtomicU64::default(),
            snapshot_rows: AtomicU64::default(),
        }
    }
}

/// All of [`SourceStats`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceFigures {
    /// The end of the last transaction that was read.
    pub received_lsn: Lsn,
    /// What is durable in the log and may be forgotten by the server.
    pub durable_lsn: Lsn,
    /// How far the server said it has read its WAL.
    pub wal_end: Lsn,
    /// Seconds since the server was last heard of.
    pub silence_seconds: Option<f64>,
    /// Transactions read from the slot.
    pub transactions: u64,
    /// Changes of rows read from the slot.
    pub rows: u64,
    /// Rows copied by the initial snapshot.
    pub snapshot_rows: u64,
    /// Rows looked up again for values that the stream left out.
    pub reread_rows: u64,
    /// Events that leave an unchanged value out.
    pub marked_rows: u64,
}

impl SourceStats {
    /// Everything, now.
    #[must_use]
    pub fn figures(&self) -> SourceFigures {
        SourceFigures {
            received_lsn: self.received_lsn(),
            durable_lsn: self.durable_lsn(),
            wal_end: self.wal_end(),
            silence_seconds: self.silence().map(|silence| silence.as_secs_f64()),
            transactions: self.transactions(),
            rows: self.rows(),
            snapshot_rows: self.snapshot_rows(),
            reread_rows: self.rereads(),
            marked_rows: self.marked(),
        }
    }

    /// The end of the last transaction that was read.
    #[must_use]
    pub fn received_lsn(&self) -> Lsn {
        Lsn(self.received_lsn.load(Ordering::Relaxed))
    }

    /// What is durable in the log and may be forgotten by the server.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        Lsn(self.durable_lsn.load(Ordering::Relaxed))
    }

    /// How far the server said it has read its WAL.
    #[must_use]
    pub fn wal_end(&self) -> Lsn {
        Lsn(self.wal_end.load(Ordering::Relaxed))
    }

    /// Time since the server was last heard of; `None` before the first time.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        let heard = self.heard_ms.load(Ordering::Relaxed);
        let since = || self.began.elapsed().saturating_sub(Duration::from_millis(heard));
        (heard > 0).then(since)
    }

    /// Transactions read from the slot.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    /// Changes of rows read from the slot.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Rows looked up again for values that the stream left out.
    #[must_use]
    pub fn rereads(&self) -> u64 {
        self.rereads.load(Ordering::Relaxed)
    }

    /// Events that leave an unchanged value out because its type, or the key's, has changed since.
    #[must_use]
    pub fn marked(&self) -> u64 {
        self.marked.load(Ordering::Relaxed)
    }

    /// Rows copied by the initial snapshot.
    #[must_use]
    pub fn snapshot_rows(&self) -> u64 {
        self.snapshot_rows.load(Ordering::Relaxed)
    }

    pub(crate) fn heard(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(now.max(1), Ordering::Relaxed);
    }

    pub(crate) fn at_wal_end(&self, lsn: Lsn) {
        self.wal_end.fetch_max(lsn.0, Ordering::Relaxed);
    }

    pub(crate) fn committed(&self, end_lsn: Lsn) {
        self.received_lsn.fetch_max(end_lsn.0, Ordering::Relaxed);
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn durable(&self, lsn: Lsn) {
        self.durable_lsn.fetch_max(lsn.0, Ordering::Relaxed);
    }

    pub(crate) fn read_rows(&self, rows: usize) {
        add(&self.rows, rows);
    }

    pub(crate) fn reread(&self, rows: usize, marked: usize) {
        add(&self.rereads, rows);
        add(&self.marked, marked);
    }

    pub(crate) fn copied(&self, rows: usize) {
        add(&self.snapshot_rows, rows);
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}
