//! Figures of a running source, for `/status` and `/metrics`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anabranch_core::{Epoch, Lsn};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use crate::binary::TextOnly;
use crate::snapshot::{CopyFigures, Progress};
use crate::value::Misfit;

/// Counters and positions; every reader sees them grow.
#[derive(Debug)]
pub struct SourceStats {
    began: Instant,
    /// What an attempt has found that the next ones must not ask for: a stream in binary format, and
    /// transactions in progress.
    text_only: TextOnly,
    waits_for_commits: AtomicBool,
    received_lsn: AtomicU64,
    durable_lsn: AtomicU64,
    wal_end: AtomicU64,
    heard_ms: AtomicU64,
    transactions: AtomicU64,
    rows: AtomicU64,
    rereads: AtomicU64,
    marked: AtomicU64,
    snapshot_rows: AtomicU64,
    spool_memory: AtomicU64,
    spool_disk: AtomicU64,
    reread_us: AtomicU64,
    reread_waited_us: AtomicU64,
    heartbeats: AtomicU64,
    heartbeat_us: AtomicU64,
    /// The heartbeat that is under way.
    heartbeat: Mutex<Option<(Uuid, Instant)>>,
    /// Where the slot stands before a place that it cannot pass; no figure, but it goes on across
    /// attempts as they do.
    stuck_at: Mutex<Option<(Epoch, Lsn)>>,
    repaired: AtomicU64,
    /// The copy of the tables that is under way.
    copy: Mutex<Weak<Progress>>,
    misfits: [AtomicU64; Misfit::ALL.len()],
}

impl Default for SourceStats {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            text_only: TextOnly::default(),
            waits_for_commits: AtomicBool::new(false),
            received_lsn: AtomicU64::default(),
            durable_lsn: AtomicU64::default(),
            wal_end: AtomicU64::default(),
            heard_ms: AtomicU64::default(),
            transactions: AtomicU64::default(),
            rows: AtomicU64::default(),
            rereads: AtomicU64::default(),
            marked: AtomicU64::default(),
            snapshot_rows: AtomicU64::default(),
            spool_memory: AtomicU64::default(),
            spool_disk: AtomicU64::default(),
            reread_us: AtomicU64::default(),
            reread_waited_us: AtomicU64::default(),
            heartbeats: AtomicU64::default(),
            heartbeat_us: AtomicU64::default(),
            heartbeat: Mutex::default(),
            stuck_at: Mutex::default(),
            repaired: AtomicU64::default(),
            copy: Mutex::default(),
            misfits: Default::default(),
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
    /// How far the initial snapshot is, while it is under way.
    pub copy: Option<CopyFigures>,
    /// Rows looked up again for values that the stream left out.
    pub reread_rows: u64,
    /// Seconds that took, the waits for its bound included.
    pub reread_seconds: f64,
    /// Seconds of them that were waits for `reread_rows_per_second_max`.
    pub reread_waited_seconds: f64,
    /// Events that leave an unchanged value out.
    pub marked_rows: u64,
    /// Bytes in memory of transactions that are sent before they commit.
    pub spool_memory_bytes: u64,
    /// The same on disk.
    pub spool_disk_bytes: u64,
    /// Values that did not fit their column, and are another value or null in the log.
    pub changed_values: u64,
    /// Heartbeats that came through the stream.
    pub heartbeats: u64,
    /// From sending the last one to reading it.
    pub heartbeat_latency_seconds: Option<f64>,
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
            copy: lock(&self.copy).upgrade().map(|progress| progress.figures()),
            reread_rows: self.rereads(),
            reread_seconds: seconds(&self.reread_us),
            reread_waited_seconds: seconds(&self.reread_waited_us),
            marked_rows: self.marked(),
            spool_memory_bytes: self.spool_memory.load(Ordering::Relaxed),
            spool_disk_bytes: self.spool_disk.load(Ordering::Relaxed),
            changed_values: Misfit::ALL.map(|misfit| self.changed_values(misfit)).iter().sum(),
            heartbeats: self.heartbeats.load(Ordering::Relaxed),
            heartbeat_latency_seconds: self.heartbeat_latency().map(|it| it.as_secs_f64()),
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

    /// Rows read again because a branch of the history that is lost had left them in the log.
    #[must_use]
    pub fn repaired(&self) -> u64 {
        self.repaired.load(Ordering::Relaxed)
    }

    /// How long the last heartbeat was under way; `None` before the first one.
    #[must_use]
    pub fn heartbeat_latency(&self) -> Option<Duration> {
        let latency = || Duration::from_micros(self.heartbeat_us.load(Ordering::Relaxed));
        (self.heartbeats.load(Ordering::Relaxed) > 0).then(latency)
    }

    /// Remembers a place that the slot cannot pass, for the next attempt.
    pub(crate) fn stuck(&self, epoch: Epoch, at: Lsn) {
        *lock(&self.stuck_at) = Some((epoch, at));
    }

    /// Whether binary has failed in any attempt.
    pub(crate) fn text_only(&self) -> TextOnly {
        self.text_only.clone()
    }

    /// The server cannot send a transaction while it is in progress.
    pub(crate) fn wait_for_commits(&self) {
        self.waits_for_commits.store(true, Ordering::Relaxed);
    }

    /// Whether that has happened.
    pub(crate) fn waits_for_commits(&self) -> bool {
        self.waits_for_commits.load(Ordering::Relaxed)
    }

    /// What was remembered.
    pub(crate) fn stuck_at(&self) -> Option<(Epoch, Lsn)> {
        *lock(&self.stuck_at)
    }

    pub(crate) fn heartbeat_sent(&self, id: Uuid) {
        let mut under_way = lock(&self.heartbeat);
        *under_way = Some((id, Instant::now()));
    }

    /// One that another process sent says nothing, since its clock is not ours.
    pub(crate) fn heartbeat_arrived(&self, id: Uuid) {
        let mut under_way = lock(&self.heartbeat);
        if let Some((_, sent)) = under_way.take_if(|(sent, _)| *sent == id) {
            self.heartbeat_us.store(micros(sent.elapsed()), Ordering::Relaxed);
            self.heartbeats.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn spooled(&self, (memory, disk): (usize, u64)) {
        self.spool_memory.store(u64::try_from(memory).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.spool_disk.store(disk, Ordering::Relaxed);
    }

    pub(crate) fn reread_took(&self, elapsed: Duration, waited: Duration) {
        self.reread_us.fetch_add(micros(elapsed), Ordering::Relaxed);
        self.reread_waited_us.fetch_add(micros(waited), Ordering::Relaxed);
    }

    /// Values of a class that did not fit their column, and are another value or null in the log.
    #[must_use]
    pub fn changed_values(&self, misfit: Misfit) -> u64 {
        let counters = Misfit::ALL.iter().zip(&self.misfits);
        let found = counters.filter(|(class, _)| **class == misfit);
        found.map(|(_, counter)| counter.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn misfits(&self, misfit: Misfit, count: usize) {
        for (class, counter) in Misfit::ALL.iter().zip(&self.misfits) {
            if *class == misfit {
                add(counter, count);
            }
        }
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

    pub(crate) fn repaired_rows(&self, rows: usize) {
        add(&self.repaired, rows);
    }

    /// A copy is under way, for as long as somebody else has its `progress`.
    pub(crate) fn copying(&self, progress: &Arc<Progress>) {
        *lock(&self.copy) = Arc::downgrade(progress);
    }

    pub(crate) fn copied(&self, rows: usize) {
        add(&self.snapshot_rows, rows);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn seconds(micros: &AtomicU64) -> f64 {
    Duration::from_micros(micros.load(Ordering::Relaxed)).as_secs_f64()
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}
