//! Follows a source as the loop does, and keeps what it was handed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use anabranch_core::{
    Change, Error, ErrorKind, Event, LogBatch, Lsn, Op, Phase, Position, Repair, Result,
    SnapshotState, Source, SourceCursor, Table, TableSnapshot, Version,
};
use anabranch_postgres::{Acceptance, PostgresSource, SnapshotRequest, SnapshotRequests};
use bytes::Bytes;
use tokio::sync::watch;

use super::log::Log;
use super::{DEADLINE, Database};

/// A log and a store in memory: what a target would hold, with its cursor.
#[derive(Default)]
pub(crate) struct Replica {
    pub(crate) cursor: Option<SourceCursor>,
    pub(crate) events: Vec<Event>,
    pub(crate) repairs: Vec<Repair>,
    /// The last snapshot of each table beside the stream.
    pub(crate) snapshots: BTreeMap<u32, TableSnapshot>,
    pub(crate) tables: BTreeMap<(u32, u32), Arc<Table>>,
    /// By table and key: the version of the last change, and the row if there is one.
    pub(crate) rows: BTreeMap<(u32, Bytes), (Version, Option<Bytes>)>,
    /// What the source may ask the log.
    pub(crate) log: Arc<Log>,
    last: Option<(Position, bool)>,
    /// Where the rows of snapshots stand.
    read: HashSet<Position>,
}

impl Replica {
    /// Makes a batch durable, and checks what every batch must keep.
    pub(crate) fn apply(&mut self, batch: LogBatch, cursor: SourceCursor) {
        self.log.append(&batch, &cursor);
        for table in batch.tables {
            self.tables.insert((table.oid, table.version), table);
        }
        for event in batch.events {
            let known = self.tables.get(&(event.table.oid, event.table.version));
            assert_eq!(known, Some(&event.table), "every table is announced first");
            let created = matches!(event.change, Change::Row { op: Op::Create, .. });
            if let Some((last, deleted)) = self.last {
                // The two halves of a key change share a position, and so do the tables of a
                // TRUNCATE.
                let same = deleted && created || matches!(event.change, Change::Truncate);
                let orderly = event.position > last || (event.position == last && same);
                let is_sweep = matches!(event.change, Change::Sweep);
                let is_fine = is_sweep || self.is_beside(&event, last) || orderly;
                assert!(is_fine, "{event:?} after {last:?}, {:?}", self.events.last());
            }
            let deleted = matches!(event.change, Change::Row { op: Op::Delete, .. });
            let truncated = matches!(event.change, Change::Truncate);
            // A sweep stands where its snapshot began.
            if !matches!(event.change, Change::Sweep) {
                self.last = Some((event.position, deleted || truncated));
            }
            self.store(&event);
            self.events.push(event);
        }
        self.repairs.extend(batch.repairs);
        self.snapshots.extend(batch.snapshots.into_iter().map(|record| (record.oid, record)));
        self.cursor = Some(cursor);
    }

    /// Whether it is a row of a snapshot, which several sessions read at once: each stands alone, in
    /// any order.
    fn is_beside(&mut self, event: &Event, last: Position) -> bool {
        let (here, read) =
            (event.position, matches!(event.change, Change::Row { op: Op::Read, .. }));
        let is_new = !read || self.read.insert(here);
        read && is_new && (here.epoch, here.commit_lsn) == (last.epoch, last.commit_lsn)
    }

    fn store(&mut self, event: &Event) {
        let version = event.version();
        match &event.change {
            Change::Truncate | Change::Sweep => {
                let oid = event.table.oid;
                self.rows.retain(|(table, _), (held, _)| *table != oid || *held >= version);
            }
            Change::Row { key, after, unchanged, .. } if unchanged.is_empty() => {
                let slot = self.rows.entry((event.table.oid, key.clone()));
                let held = slot.or_insert((version, None));
                assert!(held.0 <= version, "versions grow: {event:?}");
                *held = (version, after.clone());
            }
            Change::Row { .. } => {}
        }
    }

    /// The same log as it is now, for a reader of its own.
    pub(crate) fn fork(&self) -> Self {
        Self {
            cursor: self.cursor.clone(),
            events: Vec::new(),
            tables: self.tables.clone(),
            rows: self.rows.clone(),
            repairs: self.repairs.clone(),
            snapshots: self.snapshots.clone(),
            last: self.last,
            read: self.read.clone(),
            log: Arc::new(self.log.copy()),
        }
    }

    /// Another instance's view of the same log.
    pub(crate) fn twin(&self) -> Self {
        Self {
            cursor: self.cursor.clone(),
            tables: self.tables.clone(),
            snapshots: self.snapshots.clone(),
            rows: self.rows.clone(),
            last: self.last,
            read: self.read.clone(),
            log: Arc::clone(&self.log),
            ..Self::default()
        }
    }

    /// The same where an earlier position record is the last one: what came since comes again.
    pub(crate) fn back_at(self, cursor: Option<SourceCursor>) -> Self {
        Self { cursor, last: None, read: HashSet::new(), ..self }
    }

    /// The rows that are there.
    pub(crate) fn present(&self) -> BTreeMap<(u32, Bytes), Bytes> {
        let row = |(key, (_, row)): (&(u32, Bytes), &(Version, Option<Bytes>))| {
            row.clone().map(|row| (key.clone(), row))
        };
        self.rows.iter().filter_map(row).collect()
    }

    /// Debezium's letters of the events since the snapshot, TRUNCATE as `t`.
    pub(crate) fn letters(&self) -> String {
        let letter = |event: &Event| match &event.change {
            Change::Row { op: Op::Read, .. } => None,
            Change::Row { op, .. } => Some(op.letter()),
            Change::Truncate => Some("t"),
            Change::Sweep => Some("m"),
        };
        self.events.iter().filter_map(letter).collect()
    }
}

/// A source and the replica it feeds.
pub(crate) struct Follower {
    pub(crate) source: PostgresSource,
    pub(crate) replica: Replica,
    asks: watch::Sender<SnapshotRequests>,
}

impl Follower {
    /// Starts the source where the replica stands.
    pub(crate) async fn start(database: &Database, replica: Replica) -> Self {
        Self::try_start(database, replica).await.unwrap()
    }

    pub(crate) async fn try_start(database: &Database, replica: Replica) -> Result<Self> {
        replica.log.stands_at(replica.cursor.clone());
        Self::accepting(database, replica, Vec::new()).await
    }

    /// The same, where people have accepted something. The log stands where it stands, whatever the
    /// replica believes.
    pub(crate) async fn accepting(
        database: &Database,
        replica: Replica,
        accepted: Vec<Acceptance>,
    ) -> Result<Self> {
        let mut source = PostgresSource::open(database.config.clone()).await?;
        let log: Arc<Log> = Arc::clone(&replica.log);
        source.remember(log);
        source.accept(accepted);
        source.know(replica.tables.values().cloned());
        let cursor = replica.cursor.clone();
        let mut follower = Self::of(source, replica);
        follower.source.seek(cursor).await?;
        Ok(follower)
    }

    /// Of a source that nobody has told where it stands.
    pub(crate) fn of(mut source: PostgresSource, replica: Replica) -> Self {
        let (asks, requests) = watch::channel(SnapshotRequests::default());
        source.follow(requests);
        Self { source, replica, asks }
    }

    /// Takes one batch, and does nothing with it.
    pub(crate) async fn receive(&mut self) -> Result<(LogBatch, SourceCursor)> {
        let next = tokio::time::timeout(DEADLINE, self.source.next());
        Ok(next.await.expect("a batch in time")?.unwrap())
    }

    /// Takes one batch and makes it durable, without telling the source.
    pub(crate) async fn take(&mut self) -> Result<SourceCursor> {
        let (batch, cursor) = self.receive().await?;
        self.replica.apply(batch, cursor.clone());
        Ok(cursor)
    }

    /// Takes one batch, and confirms it.
    pub(crate) async fn step(&mut self) -> Result<()> {
        let cursor = self.take().await?;
        self.source.confirm(cursor).await
    }

    /// Follows until the replica has everything that was committed before the call.
    pub(crate) async fn catch_up(&mut self, database: &Database) {
        // A record of its own ends the wait even where nothing else is written.
        let now = database.text("select pg_logical_emit_message(true, 'test', '')").await;
        self.reach(now.parse().unwrap()).await;
    }

    /// The same, and goes on after what passes by itself, as the daemon does.
    pub(crate) async fn catch_up_in_the_end(&mut self, database: &Database) {
        let now = database.text("select pg_logical_emit_message(true, 'test', '')").await;
        let target: Lsn = now.parse().unwrap();
        while self.replica.cursor.as_ref().is_none_or(|at| at.confirm < target) {
            if let Err(error) = self.step().await {
                assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
                self.source.seek(self.replica.cursor.clone()).await.unwrap();
            }
        }
    }

    /// Follows until the replica stands at `target` or beyond.
    pub(crate) async fn reach(&mut self, target: Lsn) {
        loop {
            let cursor = self.replica.cursor.as_ref();
            if cursor.is_some_and(|at| at.phase == Phase::Streaming && at.confirm >= target) {
                return;
            }
            self.step().await.unwrap();
        }
    }

    /// Asks for snapshots of single tables.
    pub(crate) fn ask(&self, requests: &[SnapshotRequest]) {
        self.ask_all(SnapshotRequests { requests: Some(requests.to_vec()), held: false });
    }

    /// The same, with what holds all of them.
    pub(crate) fn ask_all(&self, requests: SnapshotRequests) {
        self.asks.send_replace(requests);
    }

    /// Follows until every snapshot that was begun has ended.
    pub(crate) async fn settle(&mut self) {
        let is_open = |record: &TableSnapshot| record.state == SnapshotState::Running;
        loop {
            let phase = self.replica.cursor.as_ref().map(|cursor| cursor.phase);
            let is_open = self.replica.snapshots.values().any(is_open);
            if phase == Some(Phase::Streaming) && !is_open {
                return;
            }
            self.step().await.unwrap();
        }
    }

    /// Follows until every repair that was asked for is done.
    pub(crate) async fn mend(&mut self) {
        while !self.replica.log.pending().is_empty() {
            self.step().await.unwrap();
        }
        self.settle().await;
    }

    /// Follows until a snapshot has ended, and returns its record.
    pub(crate) async fn ended(&mut self, request: &SnapshotRequest) -> TableSnapshot {
        loop {
            let records = self.replica.snapshots.values();
            let ended = |record: &&TableSnapshot| {
                record.id == request.id && record.state != SnapshotState::Running
            };
            if let Some(record) = records.into_iter().find(ended) {
                return record.clone();
            }
            self.step().await.unwrap();
        }
    }

    /// Reads until it fails.
    pub(crate) async fn failure(&mut self) -> Error {
        loop {
            if let Err(error) = self.step().await {
                return error;
            }
        }
    }

    /// Dies, and leaves what is durable.
    pub(crate) fn kill(self) -> Replica {
        self.replica
    }

    /// The same, and waits until the server has let the slot go.
    pub(crate) async fn release(self, database: &Database) -> Replica {
        let replica = self.kill();
        let slot = &database.config.slot;
        let free = "select not active from pg_replication_slots where slot_name";
        database.wait_for(&format!("{free} = '{slot}'")).await;
        replica
    }
}

/// The key of a row's event; none for a TRUNCATE.
pub(crate) fn key(event: &Event) -> &[u8] {
    match &event.change {
        Change::Row { key, .. } => key,
        Change::Truncate | Change::Sweep => &[],
    }
}

/// Reads the tables anew through another slot: what the source holds, in the same bytes.
pub(crate) async fn truth(database: &Database) -> BTreeMap<(u32, Bytes), Bytes> {
    // A slot for each look.
    let name = format!("truth{:x}", rand::random::<u32>());
    let mut source = PostgresSource::open(database.other_config(&name)).await.unwrap();
    source.seek(None).await.unwrap();
    let mut replica = Replica::default();
    while replica.cursor.as_ref().is_none_or(|cursor| cursor.phase != Phase::Streaming) {
        let (batch, cursor) = source.next().await.unwrap().unwrap();
        replica.apply(batch, cursor.clone());
        source.confirm(cursor).await.unwrap();
    }
    replica.present()
}

/// The replica has what the tables have; names a few of the rows that differ.
pub(crate) async fn assert_equal(follower: &Follower, database: &Database, what: &str) {
    let (present, expected) = (follower.replica.present(), truth(database).await);
    let keys: BTreeSet<_> = present.keys().chain(expected.keys()).collect();
    let differs = |key: &&&(u32, Bytes)| present.get(**key) != expected.get(**key);
    let differing: Vec<_> = keys.iter().filter(differs).collect();
    let show = |key: &&&&(u32, Bytes)| {
        format!("{key:?}: {:?}, not {:?}", present.get(***key), expected.get(***key))
    };
    let shown: Vec<String> = differing.iter().take(3).map(|key| show(&key)).collect();
    assert!(differing.is_empty(), "{what}: {} rows differ: {shown:#?}", differing.len());
}
