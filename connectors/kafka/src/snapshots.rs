//! How far snapshots of single tables are: records in the progress topic, beside the position.
//!
//! ```text
//! LogBatch ─▶ its snapshots ── same transaction as their rows ──▶ <prefix>.progress ─▶ Snapshots
//! ```

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anabranch_core::{Error, ErrorKind, Result, SNAPSHOT_FORMAT, TableSnapshot};

use crate::error;

/// What the keys of the records begin with.
const KEY_PREFIX: &str = "snapshot.";

/// The last snapshot of each table, by its oid; shared.
#[derive(Debug, Default)]
pub struct Snapshots(Mutex<BTreeMap<u32, TableSnapshot>>);

/// The key of the record in the progress topic: a later one with the same key replaces it.
pub(crate) fn record_key(snapshot: &TableSnapshot) -> String {
    format!("{KEY_PREFIX}{}", snapshot.oid)
}

/// Whether a record of the progress topic is of a snapshot.
pub(crate) fn is_snapshot(key: &[u8]) -> bool {
    key.starts_with(KEY_PREFIX.as_bytes())
}

pub(crate) fn parse(value: &[u8]) -> Result<TableSnapshot> {
    let action = "read a snapshot in the progress topic";
    let record: TableSnapshot = serde_json::from_slice(value)
        .map_err(|error| Error::new(ErrorKind::Rejected, action).with_source(error))?;
    if record.format > SNAPSHOT_FORMAT {
        let seen =
            format!("it has format {}, and this release reads {SNAPSHOT_FORMAT}", record.format);
        return Err(error::config(action, seen, "run the release that wrote it, or a newer one"));
    }
    Ok(record)
}

impl Snapshots {
    /// What the log holds, instead of what was known.
    pub(crate) fn reset(&self, records: Vec<TableSnapshot>) {
        *self.lock() = records.into_iter().map(|record| (record.oid, record)).collect();
    }

    /// The records are in the log.
    pub(crate) fn add(&self, records: &[TableSnapshot]) {
        self.lock().extend(records.iter().map(|record| (record.oid, record.clone())));
    }

    /// All of them, in the order of the tables' oids.
    #[must_use]
    pub fn all(&self) -> Vec<TableSnapshot> {
        self.lock().values().cloned().collect()
    }

    /// A panic elsewhere cannot leave the map half changed.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, TableSnapshot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn records_round_trip_by_table_and_newer_formats_are_refused() {
        let begun = TableSnapshot::begin((Uuid::from_u128(1), Uuid::nil()), 7, "public.t".into());
        let record = TableSnapshot { after: Some(vec!["1".into()]), rows: 3, ..begun };
        assert!(is_snapshot(record_key(&record).as_bytes()) && !is_snapshot(b"repair.7"));
        assert_eq!(parse(&serde_json::to_vec(&record).unwrap()).unwrap(), record);
        let snapshots = Snapshots::default();
        snapshots.add(&[record.clone(), TableSnapshot { rows: 4, ..record.clone() }]);
        assert_eq!(snapshots.all().len(), 1);
        assert_eq!(snapshots.all()[0].rows, 4);
        snapshots.reset(vec![]);
        assert!(snapshots.all().is_empty());
        let newer = TableSnapshot { format: SNAPSHOT_FORMAT + 1, ..record };
        let error = parse(&serde_json::to_vec(&newer).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}
