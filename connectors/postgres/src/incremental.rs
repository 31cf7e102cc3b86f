//! Snapshots of single tables, chunk by chunk, beside the stream.
//!
//! ```text
//! requests ─▶ jobs ─▶ workers ─▶ chunks ─┐
//! stream ── low edge · changes · high edge ─▶ rows that did not change in between ─▶ the batch
//! ```
//!
//! A row of a chunk stands at the high edge, above every transaction before that. *Why that is
//! right:* the chunk's snapshot was taken between the edges, so it has no transaction that committed
//! after the high edge. It must see every one that was delivered before the low edge, or it is read
//! again ([`recent`]). Of what committed in between it may see anything: rows that changed there are
//! left to the stream. What remains is the row as it was all the time between the edges.
//!
//! The progress of a snapshot is written with the rows that it counts, so it goes on where it was.
//! At the end of a whole table, rows that the log had from before it and that it has not met are gone.

mod chunk;
mod judge;
mod recent;
mod repairs;
mod request;
mod window;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::{
    Error, ErrorKind, Lsn, OpenWork, Repair, SnapshotStart, SnapshotState, TableSnapshot,
};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::batch::BatchBuilder;
use crate::catalog::Catalog;
use crate::config::PostgresConfig;
use crate::key_sql::KEYS_MAX;
use crate::pace::Pace;
use crate::pgoutput::{ChunkEdge, Edge};
use crate::row::RowWriter;
use crate::transaction::Draft;
use crate::wait::Wait;
use chunk::{Chunk, Part, Task};
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
    recent: Recent,
    pace: Pace,
    reports: mpsc::Receiver<Report>,
    to_us: mpsc::Sender<Report>,
    /// There may be something to begin.
    is_due: bool,
}

/// A snapshot that is under way.
struct Job {
    request: SnapshotRequest,
    record: TableSnapshot,
    worker: Worker,
    step: Step,
    /// Counts its chunks.
    number: u64,
    rows: usize,
    window: Option<Window>,
    chunk: Option<Box<Chunk>>,
    /// It reads the same chunk again and again.
    waits: Option<Wait>,
    /// Why it cannot go on.
    trouble: Option<String>,
    /// The rows of a repair, by their keys: it leaves no record, but is asked for until it is done.
    repairs: Option<Vec<Bytes>>,
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
            is_due: true,
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
        self.is_due || is_time || self.requests.has_changed().unwrap_or(false)
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
            _ = self.requests.changed(), if is_followed => self.is_due = true,
            () = sleep => {}
        }
    }

    /// Begins, goes on and ends what is asked for.
    pub(crate) fn turn(&mut self, catalog: &Catalog, builder: &mut BatchBuilder) {
        let is_due =
            std::mem::take(&mut self.is_due) || self.requests.has_changed().unwrap_or(false);
        let failed =
            self.jobs.iter_mut().filter_map(|job| Some((job.record.oid, job.trouble.take()?)));
        for (oid, trouble) in failed.collect::<Vec<_>>() {
            self.end(oid, SnapshotState::Failed, Some(trouble), builder);
        }
        if is_due {
            self.plan(catalog, builder);
            self.plan_repairs(catalog, builder);
        }
        // One that stands still is in nobody's way; its record says how far it is.
        self.jobs.retain(|job| !job.request.paused || !matches!(job.step, Step::Next(_)));
        let (now, held) = (Instant::now(), self.requests.borrow().held);
        for job in &mut self.jobs {
            let is_time = matches!(job.step, Step::Next(at) if at <= now);
            if is_time && !held {
                job.ask(self.pace.slice_rows());
            }
        }
    }

    /// What is asked for, by people and by ourselves. Without a word of people, what is under way goes on.
    fn plan(&mut self, catalog: &Catalog, builder: &mut BatchBuilder) {
        let mut asked: Vec<(u32, SnapshotRequest)> =
            self.records.values().filter_map(SnapshotRequest::own).collect();
        let requests = self.requests.borrow_and_update().requests.clone();
        if let Some(requests) = requests {
            let own: Vec<Uuid> = asked.iter().map(|(_, request)| request.id).collect();
            let tables = catalog.tables();
            let by_name = |request: SnapshotRequest| {
                let table = tables.iter().find(|table| table.full_name() == request.table)?;
                (!own.contains(&request.id)).then_some((table.oid, request))
            };
            asked.extend(requests.into_iter().filter_map(by_name));
            // Who is not asked for any more is to end as well.
            let unasked = |job: &Job| {
                job.repairs.is_none() && !asked.iter().any(|(_, other)| other.id == job.request.id)
            };
            let ended: Vec<u32> =
                self.jobs.iter().filter(|job| unasked(job)).map(|job| job.record.oid).collect();
            for oid in ended {
                self.end(oid, SnapshotState::Cancelled, None, builder);
            }
        }
        for (oid, request) in asked {
            self.plan_one(oid, request, builder);
        }
    }

    fn plan_one(&mut self, oid: u32, request: SnapshotRequest, builder: &mut BatchBuilder) {
        let known = self.records.get(&oid).filter(|record| record.id == request.id).cloned();
        if known.as_ref().is_some_and(|record| record.state != SnapshotState::Running) {
            return;
        }
        if request.cancelled {
            // One that has never begun leaves no record, least of all in the place of another.
            if let Some(record) = known {
                self.jobs.retain(|job| job.request.id != request.id);
                self.keep(TableSnapshot { state: SnapshotState::Cancelled, ..record }, builder);
            }
        } else if let Some(job) = self.jobs.iter_mut().find(|job| job.record.oid == oid) {
            // One of another kind comes first.
            if job.request.id == request.id {
                job.request = request;
            }
        } else if !request.paused && self.jobs.len() < self.config.snapshot_sessions.get() {
            let record = known.unwrap_or_else(|| request.begin(oid, builder.log()));
            self.begin(request, record);
        }
    }

    /// Carries out what the log asks for, as far as nobody else reads the table.
    fn plan_repairs(&mut self, catalog: &Catalog, builder: &mut BatchBuilder) {
        for oid in self.repairs.tables() {
            let is_read = self.jobs.iter().any(|job| job.record.oid == oid);
            let relation = catalog.relation(oid).filter(|relation| !relation.is_append_only());
            let Some(relation) = relation.filter(|_| !is_read) else { continue };
            if self.jobs.len() >= self.config.snapshot_sessions.get() {
                return;
            }
            let before = self.records.get(&oid);
            // At a start such a record is one that runs again.
            let has_failed = before
                .is_some_and(|record| record.by_itself && record.state == SnapshotState::Failed);
            let record = own(before, (oid, relation.table.full_name()), builder.log());
            // Those that are hashed cannot be looked for.
            let keys = self.repairs.keys(&relation.table).filter(|_| relation.has_plain_key());
            if let Some((keys, texts)) = keys {
                let (id, table) = (Uuid::new_v4(), record.table.clone());
                let scope = SnapshotScope::Keys(texts);
                let request = SnapshotRequest { id, table, scope, paused: false, cancelled: false };
                self.push(request, record, Some(keys));
            } else if let Some((_, request)) = SnapshotRequest::own(&record).filter(|_| !has_failed)
            {
                self.keep(record.clone(), builder);
                self.begin(request, record);
            }
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
        self.jobs.push(Job {
            request,
            record,
            worker: Worker::begin(Arc::clone(&self.config), self.to_us.clone()),
            step: Step::Next(Instant::now()),
            number: 0,
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

    /// An edge of a chunk came in the stream, at `lsn`.
    pub(crate) fn edge(
        &mut self,
        edge: ChunkEdge,
        lsn: Lsn,
        (catalog, builder): (&mut Catalog, &mut BatchBuilder),
    ) {
        self.take_reports();
        let is_its = |job: &Job| job.worker.id == edge.reader && job.number == edge.number;
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

    fn take_report(&mut self, Report { reader, news }: Report) {
        let Some(job) = self.jobs.iter_mut().find(|job| job.worker.id == reader) else { return };
        match news {
            News::Chunk(chunk) => job.chunk = Some(chunk),
            News::Gone => job.trouble = Some("the table is gone".to_owned()),
            News::Failed(error) if error.kind() == ErrorKind::Transient => job.retry(&error),
            News::Failed(error) => job.trouble = Some(error.report()),
        }
        self.is_due |= job.trouble.is_some();
    }
}

impl Job {
    /// Has the next chunk read, of not more rows than this.
    fn ask(&mut self, rows_max: usize) {
        self.number += 1;
        (self.window, self.chunk) = (None, None);
        let part = match &self.request.scope {
            SnapshotScope::Table => self.next_rows(None),
            SnapshotScope::Where(condition) => self.next_rows(Some(condition.clone())),
            SnapshotScope::Keys(keys) => {
                let done = usize::try_from(self.record.rows).unwrap_or(usize::MAX);
                Part::Keys(keys.iter().skip(done).take(KEYS_MAX).cloned().collect())
            }
        };
        let (number, oid, rows) = (self.number, self.record.oid, self.rows.min(rows_max));
        self.worker.ask(Task { number, oid, part, rows });
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
