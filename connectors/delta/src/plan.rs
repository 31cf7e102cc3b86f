//! What a batch does to a table.
//!
//! ```text
//! last changes, live rows of their keys, delete-below ──▶ rows to write, rows that are gone
//! ```
//!
//! A change older than the stored row of its key does nothing. A row of the batch below a
//! delete-below of the batch replaces the stored row and is not written: written first and
//! removed then, it would leave the same.

use std::collections::BTreeMap;

use anabranch_core::{DeleteBelow, RowMeta, RowOp, Version};

use crate::key_index::Hit;
use crate::row_index::RowsBySlot;

/// The effect of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// For each partition the places of the rows to write.
    pub(crate) writes: BTreeMap<i32, Vec<usize>>,
    /// The rows that go.
    pub(crate) dead: RowsBySlot,
    /// The same, as they were found.
    pub(crate) superseded: Vec<Hit>,
}

/// Plans the changes `meta`, whose keys have the live rows `hits`.
pub(crate) fn plan(meta: &[RowMeta], hits: &[Option<Hit>], below: &BTreeMap<i32, Version>) -> Plan {
    let mut plan = Plan::default();
    for (place, (change, hit)) in meta.iter().zip(hits).enumerate() {
        let version = change.version.to_i64();
        if hit.is_some_and(|stored| stored.version > version) {
            continue;
        }
        if let Some(stored) = hit {
            plan.dead.entry(stored.place.slot).or_default().insert(stored.place.row);
            plan.superseded.push(*stored);
        }
        let is_below = below.get(&change.partition).is_some_and(|bound| change.version < *bound);
        if change.op == RowOp::Upsert && !is_below {
            plan.writes.entry(change.partition).or_default().push(place);
        }
    }
    plan
}

/// The highest bound of each partition.
pub(crate) fn bounds(below: &[DeleteBelow]) -> BTreeMap<i32, Version> {
    let mut bounds = BTreeMap::new();
    for DeleteBelow { partition, version } in below {
        let bound = bounds.entry(*partition).or_insert(*version);
        *bound = (*bound).max(*version);
    }
    bounds
}

#[cfg(test)]
mod tests {
    use anabranch_core::{Epoch, Lsn};
    use bytes::Bytes;

    use super::*;
    use crate::key_index::Place;

    fn version(n: u64) -> Version {
        Version::new(Epoch(0), Lsn(n * 64), 0)
    }

    fn change(op: RowOp, partition: i32, n: u64) -> RowMeta {
        RowMeta { op, partition, version: version(n), key: Bytes::new() }
    }

    fn stored(row: u32, n: u64) -> Option<Hit> {
        Some(Hit::for_test(version(n).to_i64(), Place { slot: 3, row }))
    }

    #[test]
    fn what_is_newer_stays_and_what_is_equal_is_replaced() {
        let meta = [
            change(RowOp::Upsert, 0, 5),
            change(RowOp::Upsert, 0, 5),
            change(RowOp::Delete, 1, 5),
            change(RowOp::Delete, 1, 5),
            change(RowOp::Upsert, 1, 5),
            change(RowOp::Delete, 1, 5),
        ];
        let hits = [stored(0, 6), stored(1, 5), stored(2, 6), stored(3, 4), None, None];
        let plan = plan(&meta, &hits, &BTreeMap::new());
        assert_eq!(plan.writes, BTreeMap::from([(0, vec![1]), (1, vec![4])]));
        assert_eq!(plan.dead, RowsBySlot::from([(3, [1, 3].into_iter().collect())]));
        assert_eq!(plan.superseded.len(), 2);
    }

    #[test]
    fn a_row_below_a_bound_of_the_batch_replaces_and_is_not_written() {
        let meta =
            [change(RowOp::Upsert, 0, 5), change(RowOp::Upsert, 0, 7), change(RowOp::Upsert, 1, 5)];
        let below = [6, 7, 3].map(|n| DeleteBelow { partition: 0, version: version(n) });
        let plan = plan(&meta, &[stored(0, 4), None, None], &bounds(&below));
        assert_eq!(plan.writes, BTreeMap::from([(0, vec![1]), (1, vec![2])]));
        assert_eq!(plan.dead, RowsBySlot::from([(3, [0].into_iter().collect())]));
    }
}
