//! Snapshots of single tables, chunk by chunk, beside the stream.
//!
//! ```text
//! requests ─▶ jobs ─▶ workers ─▶ chunks ─┐
//! stream ── low edge · changes · high edge ─▶ rows that did not change in between ─▶ the batch
//! ```
//!
//! A row of a chunk stands within the high edge, above every transaction before that and below every one
//! after it, whose commit may begin where the edge ends. *Why that is right:* the chunk's snapshot was
//! taken between the edges, so it has no transaction that committed after the high edge. It must see
//! every one that was delivered before the low edge, or it is read again ([`recent`]). Of what
//! committed in between it may see anything: rows that changed there are left to the stream. What
//! remains is the row as it was all the time between the edges.
//!
//! The progress of a snapshot is written with the rows that it counts, so it goes on where it was.
//! At the end of a whole table, rows that the log had from before it and that it has not met are gone.

mod chunk;
mod judge;
mod plan;
mod recent;
mod repairs;
mod request;
mod window;
mod worker;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::{
    Error, ErrorKind, Lsn, OpenWork, Repair, SnapshotStart, SnapshotState, TableSnapshot,
};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::batch::BatchBuilder;
use crate::catalog::Catalog;
use crate::config::PostgresConfig;
use crate::key_sql::KEYS_MAX;
use crate::pace::Pace;
use crate::pgoutput::{ChunkEdge, Edge};
use crate::row::RowWriter;
use crate::transaction::Draft;
use crate::wait::Wait;
use chunk::{Chunk, Part};
use recent::Recent;
use repairs::Pending;
pub(crate) use request::own;
pub use request::{SnapshotRequest, SnapshotRequests, SnapshotScope};
use window::Window;
use worker::{News, Report, Worker};

/// Rows of the first chunk; the next ones are sized by their bytes.
const ROWS_FIRST: usize = 256;
/// How much larger than the one before a chunk may be.
const GROWTH: usize = 4;
const ROWS_MAX: usize = 50_000;
/// What a chunk is to have, so that a few of them are no matter beside a batch.
const BYTES_WANTED: usize = 2 << 20;
/// Time between two lines in the log that say how far a snapshot is.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// Time before a worker that failed tries again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Every snapshot that is asked for.
pub(crate) type Requests = watch::Receiver<SnapshotRequests>;

/// All snapshots beside one stream.
pub(crate) struct Incremental {
    config: Arc<PostgresConfig>,
    writer: RowWriter,
    requests: Requests,
    /// The last snapshot of each table, by oid.
    records: BTreeMap<u32, TableSnapshot>,
    repairs: Pending,
    jobs: Vec<Job>,
    /// They have done one table, and may read the next over the session that they have.
    idle: Vec<Worker>,
    recent: Recent,
    pace: Pace,
    reports: mpsc::Receiver<Report>,
    to_us: mpsc::Sender<Report>,
    /// What was asked for and has no room yet, with the oids of the tables.
    waiting: VecDeque<(u32, SnapshotRequest)>,
    /// Tables whose snapshots stand still.
    paused: HashSet<String>,
    /// Something else may be asked for than before.
    is_asked: bool,
    /// There may be something to begin.
    is_due: bool,
    /// When it was last told how far all of it is.
    told: Instant,
}

/// A snapshot that is under way.
struct Job {
    request: SnapshotRequest,
    record: TableSnapshot,
    worker: Worker,
    step: Step,
    rows: usize,
    window: Option<Window>,
    chunk: Option<Box<Chunk>>,
    /// It reads the same chunk again and again.
    waits: Option<Wait>,
    /// Why it cannot go on.
    trouble: Option<Trouble>,
    /// The rows of a repair, by their keys: it leaves no record, but is asked for until it is done.
    repairs: Option<Vec<Bytes>>,
}

/// Why a snapshot ends before its end.
#[derive(Debug)]
enum Trouble {
    /// Its table was dropped.
    Gone,
    Failed(String),
}

/// What a job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The next chunk may be asked for, from this moment on.
    Next(Instant),
    /// The high edge of the chunk.
    Edge,
    /// The batch with the rows of the chunk is to be handed over, of so many.
    HandOver(usize),
}

impl Incremental {
    /// Goes on with what the log has.
    pub(crate) fn new(
        config: Arc<PostgresConfig>,
        writer: RowWriter,
        (requests, work): (Requests, OpenWork),
    ) -> Self {
        let pace = Pace::new(config.snapshot_rows_per_second_max);
        let (to_us, reports) = mpsc::channel(config.snapshot_sessions.get());
        let OpenWork { snapshots, repairs } = work;
        // What we have begun ourselves is tried again at each start.
        let retried = |record: TableSnapshot| match record.state {
            SnapshotState::Failed if record.by_itself => {
                TableSnapshot { state: SnapshotState::Running, trouble: None, ..record }
            }
            SnapshotState::Running
            | SnapshotState::Done
            | SnapshotState::Cancelled
            | SnapshotState::Failed => record,
        };
        let records = snapshots.into_iter().map(retried);
        let records = records.map(|record| (record.oid, record)).collect();
        let jobs = Vec::new();
        Self {
            config,
            writer,
            requests,
            records,
            jobs,
            repairs: Pending::new(repairs),
            recent: Recent::default(),
            pace,
            reports,
            to_us,
            waiting: VecDeque::new(),
            paused: HashSet::new(),
            is_asked: true,
            is_due: true,
            told: Instant::now(),
            idle: Vec::new(),
        }
    }

    /// The transaction `xid` is delivered.
    pub(crate) fn delivered(&mut self, xid: u32) {
        self.recent.push(xid);
    }

    /// Takes notice of changes that were read.
    pub(crate) fn note(&mut self, drafts: &[Draft]) {
        self.jobs.iter_mut().filter_map(|job| job.window.as_mut()).for_each(|window| {
            window.note(drafts);
        });
    }

    /// The table has other columns.
    pub(crate) fn altered(&mut self, oid: u32) {
        let jobs = self.jobs.iter_mut().filter(|job| job.record.oid == oid);
        jobs.filter_map(|job| job.window.as_mut()).for_each(|window| window.altered = true);
    }

    /// Whether there is something to do.
    pub(crate) fn is_due(&mut self) -> bool {
        self.take_reports();
        let is_time = self.next_at().is_some_and(|at| at <= Instant::now());
        self.is_due || self.is_asked || is_time || self.requests.has_changed().unwrap_or(false)
    }

    /// When the next chunk may be asked for, or a job let go that stands still.
    fn next_at(&self) -> Option<Instant> {
        let next = self.jobs.iter().filter_map(|job| match job.step {
            Step::Next(at) => Some(at),
            Step::Edge | Step::HandOver(_) => None,
        });
        next.min().filter(|_| !self.requests.borrow().held)
    }

    /// Waits until that changes. Cancel-safe.
    pub(crate) async fn woken(&mut self) {
        let (next, is_followed) = (self.next_at(), self.requests.has_changed().is_ok());
        let sleep = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            report = self.reports.recv() => {
                if let Some(report) = report {
                    self.take_report(report);
                }
            }
            // Without anybody who asks nothing ever changes.
            _ = self.requests.changed(), if is_followed => self.is_asked = true,
            () = sleep => {}
        }
    }

    /// Begins, goes on and ends what is asked for.
    pub(crate) fn turn(&mut self, catalog: &Catalog, builder: &mut BatchBuilder) {
        let is_asked =
            std::mem::take(&mut self.is_asked) || self.requests.has_changed().unwrap_or(false);
        let is_due = std::mem::take(&mut self.is_due) || is_asked;
        self.end_failed(builder);
        if is_asked {
            self.plan(catalog, builder);
        }
        if is_due {
            self.fill(catalog, builder);
        }
        // One that stands still is in nobody's way; its record says how far it is.
        let count = self.jobs.len();
        self.jobs.retain(|job| !job.request.paused || !matches!(job.step, Step::Next(_)));
        self.is_due |= self.jobs.len() < count;
        let (now, held) = (Instant::now(), self.requests.borrow().held);
        for job in &mut self.jobs {
            let is_time = matches!(job.step, Step::Next(at) if at <= now);
            if is_time && !held {
                job.ask(self.pace.slice_rows());
            }
        }
        if self.jobs.is_empty() {
            self.idle.clear();
        }
        self.tell(now);
    }

    /// Ends those that cannot go on.
    fn end_failed(&mut self, builder: &mut BatchBuilder) {
        let failed = self.jobs.iter_mut().filter_map(|job| {
            let trouble = job.trouble.take()?;
            Some((job.record.oid, job.record.by_itself, trouble))
        });
        for (oid, by_itself, trouble) in failed.collect::<Vec<_>>() {
            let is_gone = matches!(trouble, Trouble::Gone);
            let (state, why) = match trouble {
                // Nobody asked for it, and there is nothing that anybody could do.
                Trouble::Gone if by_itself => (SnapshotState::Cancelled, None),
                Trouble::Gone => (SnapshotState::Failed, Some("the table is gone".to_owned())),
                Trouble::Failed(why) => (SnapshotState::Failed, Some(why)),
            };
            self.end(oid, state, why, builder);
            if is_gone {
                // There is nothing that they could be read from.
                builder.repaired(self.repairs.forget(oid));
            }
        }
    }

    /// Says now and then how far each is.
    fn tell(&mut self, now: Instant) {
        if now.saturating_duration_since(self.told) < TELL_INTERVAL {
            return;
        }
        self.told = now;
        for job in self.jobs.iter().filter(|job| job.repairs.is_none()) {
            let record = &job.record;
            tracing::info!(table = record.table, "reading it beside the stream: {record}");
        }
    }

    /// A batch that ends at `end` asks for repairs; returns what the log is to ask for.
    pub(crate) fn ask_repairs(&mut self, repairs: Vec<Repair>, end: SnapshotStart) -> Vec<Repair> {
        self.is_due |= !repairs.is_empty();
        self.repairs.ask(repairs, end)
    }

    fn begin(&mut self, request: SnapshotRequest, record: TableSnapshot) {
        self.records.insert(record.oid, record.clone());
        self.push(request, record, None);
    }

    fn push(
        &mut self,
        request: SnapshotRequest,
        record: TableSnapshot,
        repairs: Option<Vec<Bytes>>,
    ) {
        let (table, rows) = (&record.table, repairs.as_ref().map(Vec::len));
        tracing::info!(table, rows, "reading a table again beside the stream");
        let worker = self.idle.pop();
        let begin = || Worker::begin(Arc::clone(&self.config), self.to_us.clone());
        let worker = worker.unwrap_or_else(begin);
        self.jobs.push(Job {
            request,
            record,
            worker,
            step: Step::Next(Instant::now()),
            rows: ROWS_FIRST,
            window: None,
            chunk: None,
            waits: None,
            trouble: None,
            repairs,
        });
    }

    /// The batch with everything so far is on its way.
    pub(crate) fn handed_over(&mut self) {
        for job in &mut self.jobs {
            if let Step::HandOver(rows) = job.step {
                let now = Instant::now();
                job.step = Step::Next(now + self.pace.take(rows, now));
            }
        }
    }

    /// Ends a job before its end.
    fn end(
        &mut self,
        oid: u32,
        state: SnapshotState,
        trouble: Option<String>,
        builder: &mut BatchBuilder,
    ) {
        let Some(place) = self.jobs.iter().position(|job| job.record.oid == oid) else { return };
        let job = self.jobs.swap_remove(place);
        self.is_due = true;
        if let Some(trouble) = &trouble {
            tracing::error!(table = job.record.table, "its snapshot ends: {trouble}");
        }
        if job.repairs.is_some() {
            return self.repairs.widen(oid);
        }
        self.keep(TableSnapshot { state, trouble, ..job.record }, builder);
    }

    /// Remembers how far a snapshot is, here and with the next batch.
    fn keep(&mut self, record: TableSnapshot, builder: &mut BatchBuilder) {
        self.records.insert(record.oid, record.clone());
        builder.record(record);
    }

    /// An edge of a chunk came in the stream; `lsn` is where it ends.
    pub(crate) fn edge(
        &mut self,
        edge: ChunkEdge,
        lsn: Lsn,
        (catalog, builder): (&mut Catalog, &mut BatchBuilder),
    ) {
        self.take_reports();
        let is_its = |job: &Job| job.worker.reads(edge.reader, edge.number);
        let Some(place) = self.jobs.iter().position(is_its) else { return };
        let Some(job) = self.jobs.get_mut(place) else { return };
        let delivered = self.recent.count();
        match edge.edge {
            Edge::Low => {
                let start = builder.epoch_at(lsn).map(|epoch| SnapshotStart { epoch, lsn });
                job.window = Some(Window::open(job.record.oid, start, delivered));
            }
            Edge::High => self.high_edge(place, lsn, (catalog, builder)),
        }
    }

    fn take_reports(&mut self) {
        while let Ok(report) = self.reports.try_recv() {
            self.take_report(report);
        }
    }

    fn take_report(&mut self, Report { reader, number, news }: Report) {
        let is_its = |job: &&mut Job| job.worker.reads(reader, number);
        let Some(job) = self.jobs.iter_mut().find(is_its) else { return };
        match news {
            News::Chunk(chunk) => job.chunk = Some(chunk),
            News::Gone => job.trouble = Some(Trouble::Gone),
            News::Failed(error) if error.kind() == ErrorKind::Transient => job.retry(&error),
            News::Failed(error) => job.trouble = Some(Trouble::Failed(error.report())),
        }
        self.is_due |= job.trouble.is_some();
    }
}

impl Job {
    /// Has the next chunk read, of not more rows than this.
    fn ask(&mut self, rows_max: usize) {
        (self.window, self.chunk) = (None, None);
        let part = match &self.request.scope {
            SnapshotScope::Table => self.next_rows(None),
            SnapshotScope::Where(condition) => self.next_rows(Some(condition.clone())),
            SnapshotScope::Keys(keys) => {
                let done = usize::try_from(self.record.rows).unwrap_or(usize::MAX);
                Part::Keys(keys.iter().skip(done).take(KEYS_MAX).cloned().collect())
            }
        };
        self.worker.ask(self.record.oid, part, self.rows.min(rows_max));
        self.step = Step::Edge;
    }

    fn next_rows(&self, condition: Option<String>) -> Part {
        let (key, order) = (self.record.after.clone(), self.record.order.clone());
        Part::After { key, order, condition }
    }

    /// How long to wait before the chunk is read again.
    fn pause(&mut self) -> Duration {
        let wait = self.waits.get_or_insert_with(Wait::begin);
        if wait.is_to_be_told() {
            let table = &self.record.table;
            tracing::warn!(
                table,
                "its snapshot waits for transactions that were writing before it"
            );
        }
        wait.next_pause()
    }

    fn retry(&mut self, error: &Error) {
        tracing::warn!(table = self.record.table, "{}; trying again", error.report());
        self.step = Step::Next(Instant::now() + RETRY_AFTER);
    }

    /// The next chunk is of the size that is wanted.
    fn resize(&mut self, rows: usize, bytes: usize) {
        let fitting = BYTES_WANTED.saturating_mul(rows).checked_div(bytes);
        let most = self.rows.saturating_mul(GROWTH).min(ROWS_MAX);
        self.rows = fitting.unwrap_or(most).clamp(1, most);
    }
}
