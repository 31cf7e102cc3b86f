//! A topic as a source: batches of whole groups, from the partitions of one lease.
//!
//! ```text
//! partition queues ─▶ buffers ─▶ whole groups, one from each in turn ─▶ decoder ─▶ Batch, cursor
//! ```
//!
//! A batch ends at a group's border in every partition, holds one version of the table, and takes
//! nothing of a partition after a TRUNCATE there. What was read and is in no batch yet stays here,
//! so a call that is dropped loses nothing. A queue that nobody reads is Kafka's to hold back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::avro::read::{Decoder, Kind};
use anabranch_core::resume::Mark;
use anabranch_core::{
    Assignment, Batch, DeleteBelow, LastRecord, Result, Source, StoreCursor, UnitCursor,
};

use rdkafka::Offset;
use rdkafka::consumer::Consumer as _;

use crate::buffer::Size;
use crate::catalog::Catalog;
use crate::error;
use crate::feed::{Feed, InFlight, Raw};
use crate::lease::{Commit, Lease};
use crate::member::MemberConsumer;
use crate::schemas::SchemaRecord;
use crate::seek::{self, Of, Sought};

/// Records taken from one partition before it is another's turn.
const RECORDS_PER_TURN: usize = 256;

/// The longest wait before the queues are looked at anyway.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How often a source with nothing to do moves its cursor past markers.
const MARKERS_INTERVAL: Duration = Duration::from_secs(60);

/// How large a batch may get, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows. A batch holds at least one group, which has at most 65,536.
    pub rows: usize,
    /// Bytes of the rows in the log.
    pub bytes: usize,
    /// How long the first row waits for others.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows: 16_384, bytes: 8 << 20, wait: Duration::from_millis(250) }
    }
}

/// This process's share of a topic.
pub struct TopicSource {
    assignment: Assignment,
    limits: Limits,
    lease: Arc<Lease>,
    catalog: Arc<Catalog>,
    /// By value schema id: a handful in the life of a table.
    decoders: HashMap<i32, Decoder>,
    /// The cursor of the target once it holds every batch returned.
    cursor: StoreCursor,
    /// A reset was taken, and the target does not know yet.
    announce: bool,
    reset_to: BTreeMap<i32, i64>,
    /// A record of a schema that is not known yet, and its place in `feeds`.
    stalled: Option<(usize, Raw)>,
    /// When the oldest buffered record came.
    since: Option<Instant>,
    /// The feed whose turn is first.
    turn: usize,
    /// When to look whether markers can be passed, if nothing else is to do.
    markers_at: Instant,
    /// Dropped before the consumer that they belong to.
    feeds: Vec<Feed>,
    consumer: Arc<MemberConsumer>,
}

impl TopicSource {
    pub(crate) fn new(
        (sink, generation, limits): (String, u32, Limits),
        (lease, record): (Arc<Lease>, Arc<SchemaRecord>),
        (catalog, consumer): (Arc<Catalog>, Arc<MemberConsumer>),
    ) -> Self {
        let assignment = Assignment {
            sink,
            topic: lease.topic.clone(),
            table: Arc::clone(&record.table),
            partitions: lease.units.keys().copied().collect(),
            log: catalog.log,
            generation,
        };
        Self {
            assignment,
            limits,
            lease,
            catalog,
            decoders: HashMap::new(),
            cursor: StoreCursor::new(),
            announce: false,
            reset_to: BTreeMap::new(),
            stalled: None,
            since: None,
            turn: 0,
            markers_at: Instant::now(),
            feeds: Vec::new(),
            consumer,
        }
    }

    /// What the store is to be opened with.
    #[must_use]
    pub fn assignment(&self) -> Assignment {
        self.assignment.clone()
    }

    fn begin(&mut self, sought: Sought) {
        self.feeds = sought.feeds;
        self.cursor = sought.cursor;
        self.reset_to = sought.reset_to.into_iter().collect();
        self.announce = sought.is_reset;
        // A batch that failed half-way has left rows in them.
        self.decoders.clear();
        self.stalled = None;
        self.since = None;
        self.markers_at = Instant::now() + MARKERS_INTERVAL;
    }

    /// Looks up the schema that a record waits for.
    async fn unstall(&mut self) -> Result<()> {
        let Some((_, raw)) = &self.stalled else { return Ok(()) };
        let id = raw.value_schema_id;
        if !self.learn(id) {
            let catalog = Arc::clone(&self.catalog);
            crate::blocking(move || catalog.refresh()).await?;
            self.catalog.check_same()?;
            if !self.learn(id) {
                return Err(unknown_schema(&self.lease.topic, id));
            }
        }
        if let Some((place, raw)) = self.stalled.take() {
            self.push(place, raw)?;
        }
        Ok(())
    }

    /// Makes a decoder for the schema, if it is known.
    fn learn(&mut self, value_schema_id: i32) -> bool {
        let known = self.catalog.version(&self.lease.topic, value_schema_id);
        if let Some(record) = &known {
            let decoder = Decoder::new(Arc::clone(&record.table));
            self.decoders.entry(value_schema_id).or_insert(decoder);
        }
        known.is_some()
    }

    /// Reads what has come, from each partition in turn, as far as there is room.
    fn fill(&mut self) -> Result<()> {
        let mut any = true;
        while any && self.stalled.is_none() {
            any = false;
            for place in 0..self.feeds.len() {
                any |= self.fill_from(place)?;
            }
        }
        Ok(())
    }

    fn fill_from(&mut self, place: usize) -> Result<bool> {
        let mut any = false;
        for _ in 0..RECORDS_PER_TURN {
            if self.stalled.is_some() || !self.has_room() {
                break;
            }
            let Some(feed) = self.feeds.get_mut(place) else { break };
            let Some(raw) = feed.poll()? else { break };
            any = true;
            self.push(place, raw)?;
        }
        if any && let Some(feed) = self.feeds.get(place) {
            feed.count();
        }
        Ok(any)
    }

    fn push(&mut self, place: usize, raw: Raw) -> Result<()> {
        if !self.decoders.contains_key(&raw.value_schema_id) && !self.learn(raw.value_schema_id) {
            self.stalled = Some((place, raw));
            return Ok(());
        }
        self.since.get_or_insert_with(Instant::now);
        let decoder = self.decoders.get(&raw.value_schema_id);
        match (self.feeds.get_mut(place), decoder) {
            (Some(feed), Some(decoder)) => {
                feed.push(raw, decoder)?;
                feed.buffer.cut(Size { rows: self.limits.rows, bytes: self.limits.bytes });
                Ok(())
            }
            (None, _) | (_, None) => Ok(()),
        }
    }

    /// Whether more may be buffered: until the next batch is full. A group that is not whole does
    /// not count, for without its rest nothing could go on; [`crate::buffer`] bounds it.
    fn has_room(&self) -> bool {
        let whole = self.whole();
        whole.rows < self.limits.rows && whole.bytes < self.limits.bytes
    }

    /// All whole groups that are buffered.
    fn whole(&self) -> Size {
        self.feeds.iter().fold(Size::default(), |mut all, feed| {
            all.add(feed.buffer.whole());
            all
        })
    }

    /// How long until there is a batch, if nothing more comes; zero if there is one.
    fn until_ready(&self) -> Option<Duration> {
        let whole = self.whole();
        if whole.rows == 0 {
            return None;
        }
        if whole.rows >= self.limits.rows || whole.bytes >= self.limits.bytes {
            return Some(Duration::ZERO);
        }
        let waited = self.since.map_or(self.limits.wait, |since| since.elapsed());
        Some(self.limits.wait.saturating_sub(waited))
    }

    /// Makes a batch of what is whole, up to the limits.
    fn take(&mut self) -> Result<Option<Batch>> {
        let count = self.feeds.len();
        let order = (0..count).map(|place| (self.turn + place) % count.max(1));
        let order: Vec<usize> = order.collect();
        self.turn = self.turn.wrapping_add(1) % count.max(1);
        let schema = order.iter().find_map(|place| self.feeds.get(*place)?.buffer.next_group());
        let Some((_, schema)) = schema else { return Ok(None) };
        let Some(decoder) = self.decoders.get_mut(&schema) else { return Ok(None) };
        let table = Arc::clone(decoder.table());
        let mut taken = Taken { schema, limits: self.limits, ..Taken::default() };
        let mut any = true;
        while any {
            any = false;
            for place in &order {
                if let Some(feed) = self.feeds.get_mut(*place) {
                    any |= taken.group_of(feed, decoder)?;
                }
            }
        }
        for feed in &mut self.feeds {
            let Some(part) = taken.parts.get(&feed.partition) else { continue };
            feed.taken(part.in_flight);
            if let Some(unit) = self.cursor.get_mut(&feed.partition) {
                *unit = UnitCursor { next: part.in_flight.next, last: Some(part.last), ..*unit };
            }
        }
        let (rows, meta) = decoder.finish()?;
        self.pass_markers()?;
        self.since = self.feeds.iter().any(|f| f.buffer.size().rows > 0).then(Instant::now);
        Ok(Some(Batch { table, rows, meta, delete_below: taken.delete_below }))
    }
}

/// Markers of transactions.
impl TopicSource {
    /// Moves the cursor of every partition that was read to its end past the markers there, and
    /// says whether one moved. Else the last of them would expire before a store that holds
    /// everything, and look like history that it missed.
    fn pass_markers(&mut self) -> Result<bool> {
        let drained = |feed: &&Feed| feed.is_drained();
        let drained: Vec<i32> = self.feeds.iter().filter(drained).map(|f| f.partition).collect();
        if drained.is_empty() {
            return Ok(false);
        }
        let topic = &self.lease.topic;
        let positions = self.consumer.position().map_err(|e| {
            error::classify(format!("read topic {topic}"), e, &self.consumer.context().trouble)
        })?;
        let mut moved = false;
        for partition in drained {
            let position = positions.find_partition(topic, partition).map(|unit| unit.offset());
            let Some(Offset::Offset(position)) = position else { continue };
            if let Some(unit) = self.cursor.get_mut(&partition).filter(|u| u.next < position) {
                unit.next = position;
                moved = true;
            }
        }
        Ok(moved)
    }

    /// A batch without rows, if the cursor can be moved and has not been for long.
    fn idle(&mut self) -> Result<Option<Batch>> {
        if Instant::now() < self.markers_at {
            return Ok(None);
        }
        self.markers_at = Instant::now() + MARKERS_INTERVAL;
        let moved = self.pass_markers()?;
        Ok(moved.then(|| Batch::empty(Arc::clone(&self.assignment.table))))
    }
}

impl Source for TopicSource {
    type Batch = Batch;
    type Cursor = StoreCursor;

    async fn seek(&mut self, after: Option<StoreCursor>) -> Result<()> {
        self.feeds.clear();
        let consumer = Arc::clone(&self.consumer);
        let lease = Arc::clone(&self.lease);
        let of = Of { log: self.assignment.log, generation: self.assignment.generation };
        let after = after.unwrap_or_default();
        let sought = crate::blocking(move || seek::seek(&consumer, &lease, &after, of)).await;
        match sought {
            Ok(sought) => {
                self.begin(sought);
                Ok(())
            }
            // Whatever it was, the partitions are not ours any more.
            Err(_) if !self.lease.is_live() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn next(&mut self) -> Result<Option<(Batch, StoreCursor)>> {
        loop {
            if !self.lease.is_live() {
                self.feeds.clear();
                return Ok(None);
            }
            if std::mem::take(&mut self.announce) {
                let batch = Batch::empty(Arc::clone(&self.assignment.table));
                return Ok(Some((batch, self.cursor.clone())));
            }
            self.unstall().await?;
            self.fill()?;
            let wait = self.until_ready();
            if wait == Some(Duration::ZERO)
                && let Some(batch) = self.take()?
            {
                return Ok(Some((batch, self.cursor.clone())));
            }
            if self.stalled.is_some() {
                continue;
            }
            if wait.is_none()
                && let Some(batch) = self.idle()?
            {
                return Ok(Some((batch, self.cursor.clone())));
            }
            let wait = wait.unwrap_or(LOOK_INTERVAL).min(LOOK_INTERVAL);
            // What has come first; the timer is for a batch that waits long enough.
            tokio::select! {
                biased;
                () = self.lease.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn confirm(&mut self, upto: StoreCursor) -> Result<()> {
        for feed in &mut self.feeds {
            let Some(unit) = upto.get(&feed.partition) else { continue };
            feed.applied(unit.next);
            let reset_to = self.reset_to.get(&feed.partition).copied().unwrap_or(0);
            let UnitCursor { log, generation, resets, next, .. } = *unit;
            let mark = Mark { log, generation, resets, reset_to };
            self.lease.commit(feed.partition, Commit { offset: next, mark });
        }
        Ok(())
    }
}

impl std::fmt::Debug for TopicSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Assignment { sink, topic, partitions, .. } = &self.assignment;
        f.debug_struct("TopicSource")
            .field("sink", sink)
            .field("topic", topic)
            .field("partitions", partitions)
            .finish_non_exhaustive()
    }
}

/// A batch in the making.
#[derive(Debug, Default)]
struct Taken {
    schema: i32,
    limits: Limits,
    size: Size,
    parts: BTreeMap<i32, Part>,
    delete_below: Vec<DeleteBelow>,
}

/// What it holds of one partition.
#[derive(Clone, Copy, Debug)]
struct Part {
    in_flight: InFlight,
    last: LastRecord,
}

impl Taken {
    /// Takes the next group of a partition, unless that must be in a later batch.
    fn group_of(&mut self, feed: &mut Feed, decoder: &mut Decoder) -> Result<bool> {
        let Some((size, schema)) = feed.buffer.next_group() else { return Ok(false) };
        let mut filled = self.size;
        filled.add(size);
        let fits = filled.rows <= self.limits.rows && filled.bytes <= self.limits.bytes;
        let is_ended = self.delete_below.iter().any(|below| below.partition == feed.partition);
        if schema != self.schema || is_ended || !(fits || self.size == Size::default()) {
            return Ok(false);
        }
        self.size = filled;
        let partition = feed.partition;
        let mut failed = None;
        for record in feed.buffer.take_group() {
            let header = record.header;
            let version = header.version;
            match header.kind {
                Kind::Upsert | Kind::Delete => {
                    if let Err(e) = decoder.push(&record.key, &record.value, partition) {
                        failed = Some((record.offset, e));
                        break;
                    }
                }
                Kind::Truncate | Kind::Sweep => {
                    self.delete_below.push(DeleteBelow { partition, version });
                }
                Kind::Marked => {}
            }
            let last = LastRecord { offset: record.offset, version };
            let commit_us = header.commit_us;
            let next = record.offset + 1;
            let in_flight =
                InFlight { next, records: 0, oldest_us: commit_us, newest_us: commit_us };
            let part = self.parts.entry(partition).or_insert(Part { in_flight, last });
            part.last = last;
            part.in_flight.next = next;
            part.in_flight.records += 1;
            part.in_flight.newest_us = commit_us;
        }
        match failed {
            Some((offset, e)) => Err(feed.malformed(offset, e)),
            None => Ok(true),
        }
    }
}

fn unknown_schema(topic: &str, id: i32) -> anabranch_core::Error {
    error::transient(
        format!("decode a record of {topic}"),
        format!("ALERT: schema {id} is not in the schemas topic, though its events are in the log"),
    )
    .with_help("look at what else writes to this topic, and whether the schemas topic was deleted")
}
