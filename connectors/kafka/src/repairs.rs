//! Repairs that are asked for and not done: records in the progress topic, beside the position.
//!
//! ```text
//! LogBatch ─▶ its repairs ── same transaction as its events ──▶ <prefix>.progress ─▶ Repairs
//! ```
//!
//! The invariant: a repair is pending from the transaction of the changes that need it until its
//! record is deleted. One that is asked for again is written again, with the later position, so
//! whoever carries it out sees that it is not over.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anabranch_core::{
    Epoch, ErrorKind, LogBatch, Lsn, PendingRepair, Repair, RepairKey, RepairReason, Result,
    SnapshotStart,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error;

/// The format number of [`RepairRecord`] (`docs/formats.md`).
pub const REPAIR_FORMAT: u16 = 1;

/// What the keys of the records begin with.
const KEY_PREFIX: &str = "repair.";

/// A repair that is pending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairRecord {
    /// [`REPAIR_FORMAT`].
    pub format: u16,
    /// The log it belongs to.
    pub log: Uuid,
    /// The table's oid in the source.
    pub oid: u32,
    /// `schema.name`, as it was called then.
    pub table: String,
    /// The Avro payload of the row's key in hex; `None` for the whole table.
    pub key: Option<String>,
    /// Why.
    pub reason: RepairReason,
    /// The history of the last change that needs it.
    pub epoch: Epoch,
    /// The commit of that change: a read that does not see it repairs nothing.
    pub commit_lsn: Lsn,
    /// When it was asked for, microseconds since 1970 UTC.
    pub time_us: i64,
}

/// The pending repairs of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRepairs {
    /// `schema.name`.
    pub table: String,
    /// How many rows; `None` for the whole table.
    pub rows: Option<usize>,
    /// Why, the latest of them.
    pub reason: RepairReason,
}

/// All pending repairs, by the keys of their records; shared.
#[derive(Debug, Default)]
pub struct Repairs(Mutex<BTreeMap<String, RepairRecord>>);

impl RepairRecord {
    /// The key of the record in the progress topic: a later one with the same key replaces it.
    #[must_use]
    pub fn record_key(&self) -> String {
        key_of(self.oid, self.key.as_deref())
    }

    /// As the source has it; `None` if its key is none.
    pub(crate) fn pending(&self) -> Option<PendingRepair> {
        let key = self.key.as_ref().map(hex::decode).transpose().ok()?;
        let asked = SnapshotStart { epoch: self.epoch, lsn: self.commit_lsn };
        Some(PendingRepair { of: (self.oid, key.map(Bytes::from)), asked })
    }
}

/// The key of the record of a repair in the progress topic.
pub(crate) fn record_key((oid, key): &RepairKey) -> String {
    key_of(*oid, key.as_ref().map(hex::encode).as_deref())
}

fn key_of(oid: u32, key: Option<&str>) -> String {
    match key {
        None => format!("{KEY_PREFIX}{oid}"),
        Some(key) => format!("{KEY_PREFIX}{oid}.{}", crate::hash(key.as_bytes())),
    }
}

/// Whether a record of the progress topic is a repair.
pub(crate) fn is_repair(key: Option<&[u8]>) -> bool {
    key.is_some_and(|key| key.starts_with(KEY_PREFIX.as_bytes()))
}

pub(crate) fn parse(value: &[u8]) -> Result<RepairRecord> {
    let action = "read a repair in the progress topic";
    let record: RepairRecord = serde_json::from_slice(value).map_err(|error| {
        anabranch_core::Error::new(ErrorKind::Rejected, action).with_source(error)
    })?;
    if record.format > REPAIR_FORMAT {
        let seen =
            format!("it has format {}, and this release reads {REPAIR_FORMAT}", record.format);
        return Err(error::config(action, seen, "run the release that wrote it, or a newer one"));
    }
    Ok(record)
}

impl Repairs {
    /// What the log holds, instead of what was known.
    pub(crate) fn reset(&self, records: Vec<RepairRecord>) {
        *self.lock() = records.into_iter().map(|record| (record.record_key(), record)).collect();
    }

    /// The records for what `batch` asks for.
    pub(crate) fn records(&self, batch: &LogBatch, log: Uuid, now_us: i64) -> Vec<RepairRecord> {
        if batch.repairs.is_empty() {
            return Vec::new();
        }
        // Not the last event's: a sweep stands where its snapshot began.
        let position = batch.events.iter().map(|event| event.position).max().unwrap_or_default();
        let record = |repair: &Repair| RepairRecord {
            format: REPAIR_FORMAT,
            log,
            oid: repair.oid,
            table: repair.table.clone(),
            key: repair.key.as_ref().map(hex::encode),
            reason: repair.reason,
            epoch: position.epoch,
            commit_lsn: position.commit_lsn,
            time_us: now_us,
        };
        let records = batch.repairs.iter().map(record);
        // Of several with one key the last one counts.
        let by_key: BTreeMap<_, _> = records.map(|record| (record.record_key(), record)).collect();
        by_key.into_values().collect()
    }

    /// The records are in the log.
    pub(crate) fn add(&self, records: Vec<RepairRecord>) {
        self.lock().extend(records.into_iter().map(|record| (record.record_key(), record)));
    }

    /// The records are not in the log any more.
    pub(crate) fn remove(&self, done: &[RepairKey]) {
        let mut pending = self.lock();
        for of in done {
            pending.remove(&record_key(of));
        }
    }

    /// What is pending, by table.
    #[must_use]
    pub fn by_table(&self) -> Vec<TableRepairs> {
        summary(self.lock().values())
    }

    /// A panic elsewhere cannot leave the map half changed.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, RepairRecord>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Repairs by table, in the order of the tables' oids.
pub(crate) fn summary<'a>(records: impl Iterator<Item = &'a RepairRecord>) -> Vec<TableRepairs> {
    let mut tables: BTreeMap<u32, (i64, TableRepairs)> = BTreeMap::new();
    for record in records {
        let RepairRecord { oid, reason, time_us, .. } = record;
        let (latest, table) = tables.entry(*oid).or_insert_with(|| {
            let table = record.table.clone();
            (*time_us, TableRepairs { table, rows: Some(0), reason: *reason })
        });
        if time_us >= latest {
            (*latest, table.reason) = (*time_us, *reason);
        }
        let is_row = record.key.is_some();
        table.rows = table.rows.filter(|_| is_row).map(|rows| rows + 1);
    }
    tables.into_values().map(|(_, table)| table).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(repairs: &[(u32, Option<&'static [u8]>)]) -> LogBatch {
        let repair = |(oid, key): &(u32, Option<&'static [u8]>)| Repair {
            oid: *oid,
            table: format!("public.t{oid}"),
            key: key.map(Bytes::from_static),
            reason: RepairReason::TypeChanged,
        };
        LogBatch { repairs: repairs.iter().map(repair).collect(), ..LogBatch::default() }
    }

    #[test]
    fn rows_are_counted_until_the_table_is_asked_for() {
        let repairs = Repairs::default();
        let ask = |batch: LogBatch| {
            let records = repairs.records(&batch, Uuid::nil(), 1);
            repairs.add(records.clone());
            records
        };
        let first = ask(asks(&[(1, Some(b"a")), (1, Some(b"b")), (1, Some(b"a")), (2, None)]));
        assert_eq!(first.len(), 3);
        assert!(first.iter().any(|record| record.key.as_deref() == Some("61")));
        let rows: Vec<_> = repairs.by_table().into_iter().map(|table| table.rows).collect();
        assert_eq!(rows, [Some(2), None]);
        let bytes = serde_json::to_vec(&first[0]).unwrap();
        assert_eq!(parse(&bytes).unwrap(), first[0]);
        assert!(is_repair(Some(first[0].record_key().as_bytes())) && !is_repair(Some(b"position")));
        let again = repairs.records(&asks(&[(2, None)]), Uuid::nil(), 7);
        assert_eq!((again[0].record_key().as_str(), again[0].time_us), ("repair.2", 7));
        repairs.remove(&[(2, None), (1, Some(Bytes::from_static(b"a")))]);
        let rows: Vec<_> = repairs.by_table().into_iter().map(|table| table.rows).collect();
        assert_eq!(rows, [Some(1)]);
        let of: Vec<_> = first.iter().filter_map(RepairRecord::pending).map(|p| p.of).collect();
        assert!(of.contains(&(1, Some(Bytes::from_static(b"a")))), "{of:?}");
        repairs.reset(Vec::new());
        assert!(repairs.by_table().is_empty());
    }

    #[test]
    fn a_newer_format_is_refused() {
        let record = &Repairs::default().records(&asks(&[(1, None)]), Uuid::nil(), 1)[0];
        let record = RepairRecord { format: REPAIR_FORMAT + 1, ..record.clone() };
        let error = parse(&serde_json::to_vec(&record).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}
