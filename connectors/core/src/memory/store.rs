//! Stores in memory, one for each way that a real one guards itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;

use super::{Fault, Faults, lock, transient};
use crate::{Batch, DeleteBelow, Result, RowOp, Sink, StoreCursor, UnitCursor, Version};

/// Rows that one request carries.
const CHUNK_ROWS: usize = 2;
/// Shards of a store by version, each with its own copy of the cursors.
const SHARDS: usize = 2;

/// How a store keeps a late request from doing harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// As Redis: a request carries its owner's token; a deleted row leaves nothing behind.
    Token,
    /// As Elasticsearch: nothing but versions, which outlive a row; cursors per shard, which lag.
    Version,
    /// As Delta: a batch is one commit, which fails if the cursor is not the one it was made for.
    Commit,
}

/// A store in memory; clones share it.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    protocol: Protocol,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    rows: BTreeMap<i64, Held>,
    cursors: BTreeMap<(usize, i32), UnitCursor>,
    owners: BTreeMap<i32, u64>,
    tokens: u64,
    late: Vec<Request>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    version: Version,
    partition: i32,
    /// `None` is a tombstone.
    value: Option<Option<i64>>,
}

#[derive(Clone, Debug, Default)]
struct Request {
    /// Of the unit that must still belong to the sender.
    token: Option<(i32, u64)>,
    /// What the cursors must still be.
    expected: Option<StoreCursor>,
    rows: Vec<(i64, Held)>,
    below: Vec<DeleteBelow>,
    /// For one shard, or for all.
    cursors: Vec<(Option<usize>, i32, UnitCursor)>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self { protocol, state: Arc::default() }
    }

    /// How it guards itself.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Live rows: id and value.
    #[must_use]
    pub fn rows(&self) -> BTreeMap<i64, Option<i64>> {
        let state = lock(&self.state);
        state.rows.iter().filter_map(|(id, held)| Some((*id, held.value?))).collect()
    }

    /// The next offset of a unit; 0 if it has no cursor.
    #[must_use]
    pub fn next(&self, unit: i32) -> i64 {
        lock(&self.state).lowest(unit).map_or(0, |cursor| cursor.next)
    }

    /// A backup of everything.
    #[must_use]
    pub fn backup(&self) -> Self {
        let state = Arc::new(Mutex::new(lock(&self.state).clone()));
        Self { protocol: self.protocol, state }
    }

    /// Puts `backup` back; of a store by version, `shard` alone. Requests under way die: a server
    /// is stopped, or an index closed, to restore it.
    pub fn restore(&self, backup: &Self, shard: Option<usize>) {
        let from = lock(&backup.state).clone();
        let mut to = lock(&self.state);
        to.late.clear();
        let hit = |of: usize| shard.is_none_or(|shard| shard == of);
        to.rows.retain(|id, _| !hit(shard_of(*id)));
        to.rows.extend(from.rows.into_iter().filter(|(id, _)| hit(shard_of(*id))));
        to.cursors.retain(|(of, _), _| !hit(*of));
        to.cursors.extend(from.cursors.into_iter().filter(|((of, _), _)| hit(*of)));
    }
}

fn shard_of(id: i64) -> usize {
    usize::try_from(id.unsigned_abs() / 2).unwrap_or(0) % SHARDS
}

impl State {
    fn handle(&mut self, request: &Request, tombstones: bool) -> Result<()> {
        if let Some((unit, token)) = request.token
            && self.owners.get(&unit) != Some(&token)
        {
            return Err(transient("write: taken over by another worker"));
        }
        if let Some(expected) = &request.expected
            && request
                .cursors
                .iter()
                .any(|(_, unit, _)| self.lowest(*unit) != expected.get(unit).cloned())
        {
            return Err(transient("commit: taken over by another worker"));
        }
        for (id, row) in &request.rows {
            if self.rows.get(id).is_none_or(|held| held.version <= row.version) {
                self.put(*id, *row, tombstones);
            }
        }
        for below in &request.below {
            let hit =
                |held: &Held| held.partition == below.partition && held.version < below.version;
            let gone: Vec<_> = self
                .rows
                .iter()
                .filter(|(_, held)| hit(held))
                .map(|(id, held)| (*id, *held))
                .collect();
            for (id, held) in gone.into_iter().filter(|(_, held)| held.value.is_some()) {
                self.put(
                    id,
                    Held { version: below.version.below(), value: None, ..held },
                    tombstones,
                );
            }
        }
        for (shard, unit, cursor) in &request.cursors {
            for of in (0..SHARDS).filter(|of| shard.is_none_or(|shard| shard == *of)) {
                self.cursors.insert((of, *unit), cursor.clone());
            }
        }
        Ok(())
    }

    fn put(&mut self, id: i64, row: Held, tombstones: bool) {
        if row.value.is_some() || tombstones {
            self.rows.insert(id, row);
        } else {
            self.rows.remove(&id);
        }
    }

    /// The cursor of the shard that is furthest behind; none if a shard has none.
    fn lowest(&self, unit: i32) -> Option<UnitCursor> {
        let cursors: Option<Vec<_>> = (0..SHARDS).map(|of| self.cursors.get(&(of, unit))).collect();
        cursors?.into_iter().min_by_key(|cursor| (cursor.resets, cursor.next)).cloned()
    }
}

/// A worker of a [`MemoryStore`].
#[derive(Debug)]
pub struct MemorySink {
    store: MemoryStore,
    faults: Faults,
    partitions: Vec<i32>,
    token: u64,
    /// The cursors as last known.
    held: StoreCursor,
}

impl MemorySink {
    /// A worker for these partitions.
    #[must_use]
    pub fn new(store: MemoryStore, partitions: Vec<i32>, faults: Faults) -> Self {
        Self { store, faults, partitions, token: 0, held: StoreCursor::new() }
    }

    /// Sends one request through the faults; late ones land before or after any other.
    async fn call(&self, request: Request) -> Result<()> {
        tokio::task::yield_now().await;
        let tombstones = self.store.protocol == Protocol::Version;
        let fault = self.faults.draw();
        let mut state = lock(&self.store.state);
        while !state.late.is_empty() && self.faults.below(3) == 0 {
            let place = self.faults.below(state.late.len());
            let late = state.late.remove(place);
            // The sender is gone, or has given up: nobody hears how it went.
            state.handle(&late, tombstones).ok();
        }
        match fault {
            Fault::None => return state.handle(&request, tombstones),
            Fault::LostAnswer => {
                state.handle(&request, tombstones).ok();
            }
            Fault::Late => state.late.push(request),
            Fault::Before => {}
        }
        Err(transient("write to the store"))
    }

    fn rows(batch: &Batch) -> Vec<(i64, Held)> {
        let ids = batch.rows.column(0).as_primitive::<Int64Type>();
        let values = batch.rows.column(1).as_primitive::<Int64Type>();
        let row = |place: usize| {
            let meta = batch.meta.get(place)?;
            let value = values.is_valid(place).then(|| values.value(place));
            let value = (meta.op == RowOp::Upsert).then_some(value);
            let held = Held { version: meta.version, partition: meta.partition, value };
            Some((ids.value(place), held))
        };
        batch.last_of_each_key().into_iter().filter_map(row).collect()
    }

    async fn by_token(&self, batch: &Batch, upto: &StoreCursor) -> Result<()> {
        let all = Self::rows(batch);
        for (unit, cursor) in upto {
            let token = Some((*unit, self.token));
            let rows: Vec<_> =
                all.iter().filter(|(_, row)| row.partition == *unit).copied().collect();
            for rows in rows.chunks(CHUNK_ROWS) {
                self.call(Request { token, rows: rows.to_vec(), ..Request::default() }).await?;
            }
            let below = batch.delete_below.iter().filter(|below| below.partition == *unit);
            let below = below.copied().collect();
            self.call(Request { token, below, ..Request::default() }).await?;
            let cursors = vec![(None, *unit, cursor.clone())];
            self.call(Request { token, cursors, ..Request::default() }).await?;
        }
        Ok(())
    }

    async fn by_version(&self, batch: &Batch, upto: &StoreCursor) -> Result<()> {
        for rows in Self::rows(batch).chunks(CHUNK_ROWS) {
            self.call(Request { rows: rows.to_vec(), ..Request::default() }).await?;
        }
        if !batch.delete_below.is_empty() {
            let below = batch.delete_below.clone();
            self.call(Request { below, ..Request::default() }).await?;
        }
        let reset = |unit: &i32, cursor: &UnitCursor| {
            self.held.get(unit).is_none_or(|held| held.resets != cursor.resets)
        };
        for (unit, cursor) in upto {
            // The cursor is written now and then; a reset at once.
            if reset(unit, cursor) || !self.faults.lags() {
                for shard in 0..SHARDS {
                    let cursors = vec![(Some(shard), *unit, cursor.clone())];
                    self.call(Request { cursors, ..Request::default() }).await?;
                }
            }
        }
        Ok(())
    }

    async fn by_commit(&self, batch: &Batch, upto: &StoreCursor) -> Result<()> {
        let cursors = upto.iter().map(|(unit, cursor)| (None, *unit, cursor.clone())).collect();
        let expected = Some(self.held.clone());
        let (rows, below) = (Self::rows(batch), batch.delete_below.clone());
        self.call(Request { expected, rows, below, cursors, token: None }).await
    }
}

impl Sink<Batch, StoreCursor> for MemorySink {
    async fn cursor(&mut self) -> Result<Option<StoreCursor>> {
        tokio::task::yield_now().await;
        let mut state = lock(&self.store.state);
        state.tokens += 1;
        self.token = state.tokens;
        for unit in &self.partitions {
            state.owners.insert(*unit, self.token);
        }
        let held = self.partitions.iter().filter_map(|unit| Some((*unit, state.lowest(*unit)?)));
        self.held = held.collect();
        Ok((!self.held.is_empty()).then(|| self.held.clone()))
    }

    async fn apply(&mut self, batch: &Batch, upto: &StoreCursor) -> Result<()> {
        match self.store.protocol {
            Protocol::Token => self.by_token(batch, upto).await?,
            Protocol::Version => self.by_version(batch, upto).await?,
            Protocol::Commit => self.by_commit(batch, upto).await?,
        }
        self.held.clone_from(upto);
        Ok(())
    }
}
