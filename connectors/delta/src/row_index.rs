//! The live files of a table as a writer needs them: which rows are gone, and where each key is.
//!
//! ```text
//! TableState ──▶ files with rows of our partitions ──▶ key columns ──▶ KeyIndex
//! ```
//!
//! Only files that may hold rows of this worker's partitions are here. It is true for one version
//! of the table; [`RowIndex::follow`] brings it to another by what differs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use anabranch_core::Version;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use deltalake::kernel::Add;
use futures::{StreamExt, TryStreamExt, stream};
use roaring::RoaringBitmap;

use crate::data_file::{self, Statistics};
use crate::error::Cause;
use crate::key_index::{Hit, KeyHash, KeyIndex, Place, Record};
use crate::rows::KeyHasher;
use crate::schema::{PARTITION_COLUMN, VERSION_COLUMN};
use crate::state::{TableState, vector_id};
use crate::storage::Storage;

/// Files that are read side by side.
const READS_MAX: usize = 4;
/// Records that are collected before they become a run.
const RUN_RECORDS: usize = 1 << 18;

/// Rows of files, by the number of the file.
pub(crate) type RowsBySlot = BTreeMap<u32, RoaringBitmap>;

/// Where the rows of some partitions are.
#[derive(Debug)]
pub(crate) struct RowIndex {
    version: u64,
    partitions: BTreeSet<i32>,
    hasher: Arc<KeyHasher>,
    index: KeyIndex,
    files: Files,
}

/// A live file.
#[derive(Clone, Debug)]
pub(crate) struct DataFile {
    pub(crate) path: String,
    /// How many rows it has, those that are gone included.
    pub(crate) rows: u64,
    /// Those that are gone.
    pub(crate) dead: RoaringBitmap,
    statistics: Statistics,
    vector: Option<(String, Option<i32>)>,
}

#[derive(Debug, Default)]
struct Files {
    by_path: HashMap<String, u32>,
    slots: HashMap<u32, DataFile>,
    next: u32,
}

/// What a commit of ours did to the files.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// For each touched file all of its rows that are gone now.
    pub(crate) dead: RowsBySlot,
    /// The new files with the places in `keys` of their rows.
    pub(crate) added: Vec<(Add, Vec<usize>)>,
    /// The hash and version of each row of the batch.
    pub(crate) keys: Vec<(KeyHash, i64)>,
    /// The rows that newer ones have replaced.
    pub(crate) superseded: Vec<Hit>,
    /// Whether rows have gone in other ways too.
    pub(crate) is_bulk: bool,
}

impl Files {
    fn is_live(&self, place: Place) -> bool {
        self.slots.get(&place.slot).is_some_and(|file| !file.dead.contains(place.row))
    }

    fn insert(&mut self, file: DataFile) -> u32 {
        let slot = self.next;
        self.next += 1;
        self.by_path.insert(file.path.clone(), slot);
        self.slots.insert(slot, file);
        slot
    }

    fn remove(&mut self, slot: u32) {
        if let Some(file) = self.slots.remove(&slot) {
            self.by_path.remove(&file.path);
        }
    }
}

impl RowIndex {
    /// Reads the key columns of every file of `partitions`.
    pub(crate) async fn build(
        folder: &Path,
        partitions: &[i32],
        storage: &Storage,
        state: &TableState,
    ) -> Result<Self, Cause> {
        let empty = Self {
            version: 0,
            partitions: partitions.iter().copied().collect(),
            hasher: Arc::new(KeyHasher::new(&state.schema)?),
            index: KeyIndex::new(folder)?,
            files: Files::default(),
        };
        empty.follow(storage, state).await
    }

    /// The version of the table it is true for.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// What hashes keys for it.
    pub(crate) fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    /// The file of that number.
    pub(crate) fn file(&self, slot: u32) -> Option<&DataFile> {
        self.files.slots.get(&slot)
    }

    /// Makes it true for `state`, whatever has happened.
    ///
    /// It is given away meanwhile: if this fails or is cancelled, it must be built anew.
    pub(crate) async fn follow(
        mut self,
        storage: &Storage,
        state: &TableState,
    ) -> Result<Self, Cause> {
        let mut changed = self.drop_removed(state);
        let mut fresh = Vec::new();
        for (path, add) in &state.adds {
            let Some(slot) = self.files.by_path.get(path).copied() else {
                fresh.push(add);
                continue;
            };
            let Some(file) = self.files.slots.get_mut(&slot) else { continue };
            let vector = own_vector_id(add);
            if file.vector == vector {
                continue;
            }
            changed = true;
            let dead = data_file::read_vector(storage, add).await?;
            if file.dead.is_subset(&dead) {
                file.dead = dead;
                file.vector = vector;
            } else {
                // Rows are back, of which there may be no records any more.
                self.files.remove(slot);
                fresh.push(add);
            }
        }
        let mut index = self.index(storage, fresh).await?;
        if changed {
            index = index.recount().await?;
        }
        index.version = state.version;
        Ok(index)
    }

    fn drop_removed(&mut self, state: &TableState) -> bool {
        let is_gone = |path: &String| !state.adds.contains_key(path);
        let gone: Vec<u32> = self
            .files
            .by_path
            .iter()
            .filter(|(path, _)| is_gone(path))
            .map(|(_, slot)| *slot)
            .collect();
        gone.iter().for_each(|slot| self.files.remove(*slot));
        !gone.is_empty()
    }

    async fn index(mut self, storage: &Storage, adds: Vec<&Add>) -> Result<Self, Cause> {
        let adds = adds.into_iter().filter(|add| {
            Statistics::of(add).partition.is_none_or(|p| self.partitions.contains(&p))
        });
        let load = |add: &Add| {
            let partitions = self.partitions.clone();
            load(storage.clone(), add.clone(), Arc::clone(&self.hasher), partitions)
        };
        let loads: Vec<_> = adds.map(load).collect();
        let mut loads = stream::iter(loads).buffered(READS_MAX);
        let mut records = Vec::new();
        while let Some((file, mut found)) = loads.try_next().await? {
            let slot = self.files.insert(file);
            found.iter_mut().for_each(|record| record.place.slot = slot);
            records.append(&mut found);
            if records.len() >= RUN_RECORDS {
                self = self.add(std::mem::take(&mut records)).await?;
            }
        }
        self.add(records).await
    }

    /// The live row of each key.
    pub(crate) async fn find(self, keys: Vec<KeyHash>) -> Result<(Self, Vec<Option<Hit>>), Cause> {
        let find = move |this: &mut Self| {
            let files = &this.files;
            this.index.find(&keys, &|place| files.is_live(place))
        };
        let (this, hits) = self.blocking(find).await?;
        Ok((this, hits?))
    }

    async fn add(self, records: Vec<Record>) -> Result<Self, Cause> {
        let add = move |this: &mut Self| {
            let files = &this.files;
            this.index.add(records, &|place| files.is_live(place))
        };
        let (this, added) = self.blocking(add).await?;
        added?;
        Ok(this)
    }

    async fn recount(self) -> Result<Self, Cause> {
        let recount = |this: &mut Self| {
            let files = &this.files;
            this.index.recount(&|place| files.is_live(place))
        };
        let (this, counted) = self.blocking(recount).await?;
        counted?;
        Ok(this)
    }

    /// The live rows of `partition` below `version`.
    pub(crate) async fn rows_below(
        &self,
        storage: &Storage,
        state: &TableState,
        (partition, version): (i32, Version),
    ) -> Result<RowsBySlot, Cause> {
        let bound = version.to_i64();
        let mut below = RowsBySlot::new();
        for (slot, file) in &self.files.slots {
            let seen = file.statistics;
            if seen.partition.is_some_and(|only| only != partition) {
                continue;
            }
            let is_whole = seen.partition.is_some() && seen.version_max.is_some_and(|v| v < bound);
            let rows = if is_whole {
                all_rows(file.rows)
            } else if let Some(add) = state.adds.get(&file.path) {
                matching(storage, add, |p, v| p == partition && v < bound).await?
            } else {
                continue;
            };
            let rows = rows - &file.dead;
            if !rows.is_empty() {
                below.insert(*slot, rows);
            }
        }
        Ok(below)
    }

    /// Makes it true for `state`, which a commit of ours has led to.
    pub(crate) async fn committed(
        mut self,
        state: &TableState,
        change: Change,
    ) -> Result<Self, Cause> {
        for (slot, dead) in change.dead {
            let Some(file) = self.files.slots.get_mut(&slot) else { continue };
            match state.adds.get(&file.path) {
                Some(add) => {
                    file.vector = own_vector_id(add);
                    file.dead = dead;
                }
                None => self.files.remove(slot),
            }
        }
        self.index.superseded(change.superseded.into_iter());
        let mut records = Vec::with_capacity(change.keys.len());
        for (add, places) in &change.added {
            let slot = self.files.insert(DataFile::new(add, RoaringBitmap::new(), None)?);
            let keys = places.iter().filter_map(|place| change.keys.get(*place));
            for ((key, version), row) in keys.zip(0..) {
                let place = Place { slot, row };
                records.push(Record { key: *key, version: *version, place });
            }
        }
        let mut index = self.add(records).await?;
        if change.is_bulk {
            index = index.recount().await?;
        }
        index.version = state.version;
        Ok(index)
    }

    /// Runs what computes or reads files where it holds up nothing else.
    async fn blocking<R: Send + 'static>(
        mut self,
        work: impl FnOnce(&mut Self) -> R + Send + 'static,
    ) -> Result<(Self, R), Cause> {
        let work = move || {
            let result = work(&mut self);
            (self, result)
        };
        Ok(tokio::task::spawn_blocking(work).await?)
    }
}

impl DataFile {
    /// `counted` is how many rows were found, where that is known.
    fn new(add: &Add, dead: RoaringBitmap, counted: Option<u64>) -> Result<Self, Cause> {
        let statistics = Statistics::of(add);
        let rows = counted
            .or(statistics.rows)
            .ok_or_else(|| Cause::Foreign(format!("the rows of {} are not counted", add.path)))?;
        Ok(Self { path: add.path.clone(), rows, dead, statistics, vector: own_vector_id(add) })
    }
}

fn own_vector_id(add: &Add) -> Option<(String, Option<i32>)> {
    vector_id(add.deletion_vector.as_ref()).map(|(path, offset)| (path.to_owned(), offset))
}

fn all_rows(count: u64) -> RoaringBitmap {
    let mut rows = RoaringBitmap::new();
    rows.insert_range(0..u32::try_from(count).unwrap_or(u32::MAX));
    rows
}

/// Reads the keys of a file's live rows that are of `partitions`. The records' slots are 0.
async fn load(
    storage: Storage,
    add: Add,
    hasher: Arc<KeyHasher>,
    partitions: BTreeSet<i32>,
) -> Result<(DataFile, Vec<Record>), Cause> {
    let dead = data_file::read_vector(&storage, &add).await?;
    let mut batches = data_file::read(&storage, &add, hasher.read_schema()).await?;
    let mut records = Vec::new();
    let mut row = 0_u32;
    while let Some(batch) = batches.try_next().await? {
        let hashes = hasher.hash(&batch)?;
        for (key, (partition, version)) in hashes.into_iter().zip(origins(&batch)?) {
            if partitions.contains(&partition) && !dead.contains(row) {
                records.push(Record { key, version, place: Place { slot: 0, row } });
            }
            row = row
                .checked_add(1)
                .ok_or_else(|| Cause::Foreign(format!("{} has too many rows", add.path)))?;
        }
    }
    Ok((DataFile::new(&add, dead, Some(u64::from(row)))?, records))
}

/// The partition and the version of each row.
fn origins(batch: &RecordBatch) -> Result<impl Iterator<Item = (i32, i64)>, Cause> {
    let missing = || ArrowError::SchemaError("a row has no version or no partition".to_owned());
    let partitions = batch.column_by_name(PARTITION_COLUMN).ok_or_else(missing)?;
    let versions = batch.column_by_name(VERSION_COLUMN).ok_or_else(missing)?;
    if partitions.null_count() + versions.null_count() > 0 {
        return Err(Cause::Foreign("rows without _v or _p were written to it".to_owned()));
    }
    let partitions = partitions.as_primitive::<Int32Type>().values();
    let versions = versions.as_primitive::<Int64Type>().values();
    Ok(partitions.iter().copied().zip(versions.iter().copied()))
}

/// The rows of a file whose partition and version are `wanted`.
async fn matching(
    storage: &Storage,
    add: &Add,
    wanted: impl Fn(i32, i64) -> bool,
) -> Result<RoaringBitmap, Cause> {
    let schema = Arc::new(Schema::new(origin_fields()));
    let mut batches = data_file::read(storage, add, schema).await?;
    let (mut rows, mut first) = (RoaringBitmap::new(), 0_u32);
    while let Some(batch) = batches.try_next().await? {
        let found = origins(&batch)?.zip(first..);
        rows.extend(found.filter(|((p, v), _)| wanted(*p, *v)).map(|(_, row)| row));
        first = first.saturating_add(u32::try_from(batch.num_rows()).unwrap_or(u32::MAX));
    }
    Ok(rows)
}

fn origin_fields() -> Vec<Field> {
    vec![
        Field::new(VERSION_COLUMN, DataType::Int64, true),
        Field::new(PARTITION_COLUMN, DataType::Int32, true),
    ]
}

impl KeyHasher {
    /// The columns that records are made of.
    fn read_schema(&self) -> SchemaRef {
        let mut fields = self.key_fields();
        fields.extend(origin_fields());
        Arc::new(Schema::new(fields))
    }
}
