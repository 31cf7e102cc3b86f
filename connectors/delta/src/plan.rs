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
