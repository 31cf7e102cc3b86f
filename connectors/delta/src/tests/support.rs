//! A topic in memory, what a store of it must hold, and what other writers do to a table.

use std::collections::BTreeMap;

use anabranch_core::conformance::LOG;
use anabranch_core::memory::{batch, key, table};
use anabranch_core::{
    Assignment, Batch, CURSOR_FORMAT, DeleteBelow, Epoch, LastRecord, Lsn, RowMeta, RowOp,
    StoreCursor, UnitCursor, Version,
};
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use deltalake::arrow::compute::concat_batches;
use deltalake::kernel::{Action, Add, CommitInfo};
use tempfile::TempDir;
use url::Url;

use crate::config::table_url;
use crate::data_file;
use crate::log::Log;
use crate::reader::read_state;
use crate::state::TableState;
use crate::storage::{Storage, Written};
use crate::{DeltaConfig, DeltaSink, read_table, units};

/// Rows as a reader sees them: id, then value, version and partition.
pub(super) type Rows = BTreeMap<i64, (i64, i64, i32)>;

/// A record of a partition.
#[derive(Clone, Copy, Debug)]
pub(super) enum Record {
    Put(i64),
    Delete(i64),
    Truncate,
}

/// A topic, and a folder for its table.
pub(super) struct World {
    folder: TempDir,
    /// The records of each partition, with their versions.
    pub(super) topic: Vec<Vec<(Record, Version)>>,
    clock: u64,
}

impl World {
    pub(super) fn new(partitions: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, topic: vec![Vec::new(); partitions], clock: 0 }
    }

    /// The folder of everything.
    pub(super) fn path(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(super) fn config(&self) -> DeltaConfig {
        let root = self.folder.path().join("lake").display().to_string();
        DeltaConfig { root, index_dir: Some(self.folder.path().join("index")) }
    }

    pub(super) fn url(&self) -> Url {
        let table = table();
        table_url(&self.config().root_url().unwrap(), &table.schema, &table.name).unwrap()
    }

    pub(super) fn log(&self) -> Log {
        Log::new(Storage::open(self.url()).unwrap(), "public.t".to_owned())
    }

    pub(super) fn open(&self, partitions: &[i32]) -> DeltaSink {
        DeltaSink::open(&self.config(), assignment(partitions)).unwrap()
    }

    /// A transaction with one record: a truncate goes to every partition.
    pub(super) fn append(&mut self, record: Record) {
        self.clock += 1;
        let version = Version::new(Epoch(0), Lsn(self.clock * 64), 0);
        let count = self.topic.len();
        match record {
            Record::Put(id) | Record::Delete(id) => {
                self.topic[id as usize % count].push((record, version));
            }
            Record::Truncate => self.topic.iter_mut().for_each(|p| p.push((record, version))),
        }
    }

    /// Up to `count` records of each partition after `from`, and the cursor after them.
    pub(super) fn batch(&self, from: &StoreCursor, count: usize) -> (Batch, StoreCursor) {
        let (mut rows, mut meta, mut below) = (Vec::new(), Vec::new(), Vec::new());
        let mut upto = from.clone();
        for (partition, unit) in &mut upto {
            let partition = *partition;
            let records = self.topic[partition as usize].iter().skip(unit.next as usize);
            for (record, version) in records.take(count) {
                unit.last = Some(LastRecord { offset: unit.next, version: *version });
                unit.next += 1;
                let (id, op) = match record {
                    Record::Put(id) => (*id, RowOp::Upsert),
                    Record::Delete(id) => (*id, RowOp::Delete),
                    Record::Truncate => {
                        below.push(DeleteBelow { partition, version: *version });
                        break;
                    }
                };
                rows.push((id, (op == RowOp::Upsert).then_some(version.to_i64())));
                meta.push(RowMeta { op, partition, version: *version, key: key(id) });
            }
        }
        (batch(&rows, meta, below), upto)
    }

    /// What a table holds at `cursor`.
    pub(super) fn expected(&self, cursor: &StoreCursor) -> Rows {
        let mut rows = Rows::new();
        for (partition, unit) in cursor {
            let records = &self.topic[*partition as usize][..unit.next as usize];
            for (record, version) in records {
                let version = version.to_i64();
                match record {
                    Record::Put(id) => {
                        rows.insert(*id, (version, version, *partition));
                    }
                    Record::Delete(id) => {
                        rows.remove(id);
                    }
                    Record::Truncate => {
                        rows.retain(|_, (_, v, p)| p != partition || *v >= version);
                    }
                }
            }
        }
        rows
    }

    /// What one version of the table holds: the newest.
    pub(super) async fn rows_and_cursor(&self, partitions: &[i32]) -> (Rows, StoreCursor) {
        let log = self.log();
        let Some(state) = log.load(None).await.unwrap() else {
            return (Rows::new(), StoreCursor::new());
        };
        let rows = collect(&read_state(log.storage(), &state).await.unwrap());
        (rows, units::read(&state.transactions, &assignment(partitions)))
    }

    /// What a reader sees now.
    pub(super) async fn rows(&self) -> Rows {
        collect(&read_table(&self.config(), &table()).await.unwrap())
    }
}

pub(super) fn assignment(partitions: &[i32]) -> Assignment {
    Assignment {
        sink: "lake".to_owned(),
        topic: "memory.public.t".to_owned(),
        table: table(),
        partitions: partitions.to_vec(),
        log: LOG,
        generation: 1,
    }
}

/// The rows of `batches`; no id may be there twice.
pub(super) fn collect(batches: &[RecordBatch]) -> Rows {
    let mut rows = Rows::new();
    for batch in batches {
        let long = |name| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
        let partitions = batch.column_by_name("_p").unwrap().as_primitive::<Int32Type>().clone();
        let (ids, values, versions) = (long("id"), long("value"), long("_v"));
        for row in 0..batch.num_rows() {
            let found = (values.value(row), versions.value(row), partitions.value(row));
            let id = ids.value(row);
            assert_eq!(rows.insert(id, found), None, "row {id} is there twice");
        }
    }
    rows
}

/// A cursor at the beginning of `partitions`.
pub(super) fn beginning(partitions: &[i32], resets: u32) -> StoreCursor {
    let unit =
        UnitCursor { format: CURSOR_FORMAT, log: LOG, generation: 1, resets, next: 0, last: None };
    partitions.iter().map(|partition| (*partition, unit.clone())).collect()
}

/// RESTORE to `version`, by the library; `false` if the table is not beyond it.
pub(super) async fn restore(world: &World, version: u64) -> bool {
    let table = deltalake::open_table(world.url()).await.unwrap();
    if table.version().unwrap() <= version {
        return false;
    }
    table.restore().with_version_to_restore(version).await.unwrap();
    true
}

/// RESTORE to `version` as if a point in time had been asked for: the version is not said.
pub(super) async fn restore_by_time(world: &World, version: u64) -> bool {
    let log = world.log();
    let now = log.load(None).await.unwrap().unwrap();
    if now.version <= version {
        return false;
    }
    let then = log.load(Some(version)).await.unwrap().unwrap();
    // One commit may not remove and add the same file with the same vector.
    let is_in = |state: &TableState, add: &Add| {
        let other = state.adds.get(&add.path);
        other.is_some_and(|other| other.deletion_vector == add.deletion_vector)
    };
    let gone = now.adds.values().filter(|add| !is_in(&then, add));
    let back = then.adds.values().filter(|add| !is_in(&now, add));
    let removes = gone.map(|add| Action::Remove(data_file::removal(add, 0)));
    let adds = back.map(|add| Action::Add(add.clone()));
    let parameters = [("timestamp".to_owned(), "2026-01-01 00:00:00".into())];
    let info = CommitInfo {
        operation: Some("RESTORE".to_owned()),
        operation_parameters: Some(parameters.into()),
        ..CommitInfo::default()
    };
    let actions = [Action::CommitInfo(info)].into_iter().chain(removes).chain(adds);
    let actions = actions.collect();
    commit_foreign(&log, &now, actions).await;
    true
}

/// Rewrites every file into one, partitions mixed, as OPTIMIZE of any tool may do.
pub(super) async fn optimize(world: &World) {
    let log = world.log();
    let state = log.load(None).await.unwrap().unwrap();
    let rows = read_state(log.storage(), &state).await.unwrap();
    let rows = concat_batches(state.schema.arrow(), &rows).unwrap();
    let removes = state.adds.values().map(|add| Action::Remove(data_file::removal(add, 0)));
    let mut actions: Vec<Action> = removes.collect();
    if rows.num_rows() > 0 {
        let mut add = data_file::write(log.storage(), &rows).await.unwrap();
        add.data_change = false;
        // Some tools keep no statistics.
        add.stats = add.stats.filter(|_| rows.num_rows() % 2 == 0);
        actions.push(Action::Add(add));
    }
    let info = CommitInfo { operation: Some("OPTIMIZE".to_owned()), ..CommitInfo::default() };
    actions.insert(0, Action::CommitInfo(info));
    commit_foreign(&log, &state, actions).await;
}

/// A commit without our mark.
async fn commit_foreign(log: &Log, state: &TableState, actions: Vec<Action>) {
    let mut content = Vec::new();
    for action in &actions {
        serde_json::to_writer(&mut content, action).unwrap();
        content.push(b'\n');
    }
    let written = log.storage().write_commit(state.version + 1, content).await.unwrap();
    assert_eq!(written, Written::Durable, "nobody else commits meanwhile");
}

/// The library's checkpoint of the newest version.
pub(super) async fn checkpoint(world: &World) {
    let table = deltalake::open_table(world.url()).await.unwrap();
    deltalake::checkpoints::create_checkpoint(&table, None).await.unwrap();
}
