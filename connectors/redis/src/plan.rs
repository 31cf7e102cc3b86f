//! What a batch means for each unit.
//!
//! ```text
//! batch + upto ──▶ for each partition: its rows, the bound of its delete-below, its next cursor
//! ```

use std::collections::BTreeMap;

use anabranch_core::{Batch, Result, StoreCursor, Version};

use crate::error::Failure;

/// A unit of progress: one partition of the topic.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    /// The key that holds its owner and its cursor.
    pub(crate) key: String,
    /// The cursor that is there, byte for byte; empty if there is none.
    pub(crate) cursor: String,
}

/// The share of one unit in a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) partition: i32,
    /// Places in the batch of the last change of each key.
    pub(crate) places: Vec<usize>,
    /// Rows below are gone once those are written.
    pub(crate) bound: Option<Version>,
    /// The cursor that the unit has then.
    pub(crate) cursor: String,
}

/// The shares of the units that have any, by partition.
pub(crate) fn shares(
    batch: &Batch,
    upto: &StoreCursor,
    units: &BTreeMap<i32, Unit>,
) -> Result<Vec<Share>> {
    let bug = |what: String| Failure::Bug(what).at(format!("write {}", batch.table.full_name()));
    if batch.meta.len() != batch.rows.num_rows() {
        return Err(bug(format!("{} rows, {} metas", batch.rows.num_rows(), batch.meta.len())));
    }
    let mut shares = BTreeMap::new();
    for (partition, cursor) in upto {
        let cursor = serde_json::to_string(cursor)
            .map_err(|error| bug(format!("the cursor is no JSON: {error}")))?;
        let share = Share { partition: *partition, places: Vec::new(), bound: None, cursor };
        shares.insert(*partition, share);
    }
    let stray = |partition| bug(format!("partition {partition} has rows but no cursor"));
    for place in batch.last_of_each_key() {
        if let Some(meta) = batch.meta.get(place) {
            let share = shares.get_mut(&meta.partition).ok_or_else(|| stray(meta.partition))?;
            share.places.push(place);
        }
    }
    for below in &batch.delete_below {
        let share = shares.get_mut(&below.partition).ok_or_else(|| stray(below.partition))?;
        share.bound = share.bound.max(Some(below.version));
    }
    if let Some(partition) = shares.keys().find(|partition| !units.contains_key(*partition)) {
        return Err(bug(format!("partition {partition} is not this worker's")));
    }
    shares.retain(|partition, share| {
        let moves = units.get(partition).is_none_or(|unit| unit.cursor != share.cursor);
        moves || share.bound.is_some() || !share.places.is_empty()
    });
    Ok(shares.into_values().collect())
}

#[cfg(test)]
mod tests {
    use anabranch_core::memory::{batch, key};
    use anabranch_core::{
        CURSOR_FORMAT, DeleteBelow, Epoch, ErrorKind, Lsn, RowMeta, RowOp, UnitCursor,
    };
    use uuid::Uuid;

    use super::*;

    fn version(lsn: u64) -> Version {
        Version::new(Epoch(0), Lsn(lsn * 64), 0)
    }

    fn cursor(next: i64) -> UnitCursor {
        let log = Uuid::from_u128(1);
        UnitCursor { format: CURSOR_FORMAT, log, generation: 1, resets: 0, next, last: None }
    }

    fn row(id: i64, partition: i32, lsn: u64) -> RowMeta {
        RowMeta { op: RowOp::Upsert, partition, version: version(lsn), key: key(id) }
    }

    fn units(partitions: &[i32]) -> BTreeMap<i32, Unit> {
        let unit = |partition: &i32| Unit {
            key: format!("u{partition}"),
            cursor: serde_json::to_string(&cursor(0)).unwrap(),
        };
        partitions.iter().map(|partition| (*partition, unit(partition))).collect()
    }

    #[test]
    fn rows_bounds_and_cursors_go_to_their_units() {
        let meta = vec![row(1, 1, 1), row(2, 0, 1), row(1, 1, 2), row(3, 1, 2)];
        let values = [(1, Some(1)), (2, Some(2)), (1, Some(3)), (3, Some(4))];
        let below = |lsn| DeleteBelow { partition: 1, version: version(lsn) };
        let batch = batch(&values, meta, vec![below(3), below(5), below(4)]);
        let upto = StoreCursor::from([(0, cursor(4)), (1, cursor(9)), (2, cursor(0))]);
        let shares = shares(&batch, &upto, &units(&[0, 1, 2])).unwrap();
        let seen: Vec<_> = shares.iter().map(|s| (s.partition, &*s.places, s.bound)).collect();
        let wanted: Vec<(i32, &[usize], _)> = vec![(0, &[1], None), (1, &[2, 3], Some(version(5)))];
        assert_eq!(seen, wanted, "unit 2 has nothing to do");
    }

    #[test]
    fn what_belongs_to_no_unit_is_a_bug() {
        let batch = batch(&[(1, Some(1))], vec![row(1, 1, 1)], Vec::new());
        for upto in [StoreCursor::from([(0, cursor(4))]), StoreCursor::from([(1, cursor(4))])] {
            let error = shares(&batch, &upto, &units(&[0])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Bug);
        }
    }
}
