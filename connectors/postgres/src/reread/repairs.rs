//! The repairs that the marked events of a batch ask for.

use std::collections::BTreeMap;

use anabranch_core::{Repair, RepairReason};
use bytes::Bytes;

use crate::catalog::Relation;

/// Rows of one table that a batch asks for by key: each is a record in the log's transaction. More
/// are cheaper to read as a whole.
const KEYS_MAX: usize = 1_000;

/// Repairs by table.
#[derive(Debug, Default)]
pub(super) struct Repairs(BTreeMap<u32, OfTable>);

#[derive(Debug)]
struct OfTable {
    table: String,
    /// The events that were marked.
    events: usize,
    /// The first reason.
    reason: RepairReason,
    /// Rows by key; `None` for all.
    keys: Option<BTreeMap<Bytes, RepairReason>>,
}

impl Repairs {
    /// The row of `key` has to be read again.
    pub(super) fn add(&mut self, relation: &Relation, key: &Bytes, reason: RepairReason) {
        let table = &relation.table;
        let of_table = self.0.entry(table.oid).or_insert_with(|| OfTable {
            table: table.full_name(),
            events: 0,
            reason,
            keys: Some(BTreeMap::new()),
        });
        of_table.events += 1;
        let is_findable = relation.has_plain_key() && reason != RepairReason::KeyChanged;
        match &mut of_table.keys {
            Some(keys) if is_findable && keys.len() < KEYS_MAX => {
                keys.insert(key.clone(), reason);
            }
            keys => *keys = None,
        }
    }

    /// The number of marked events, which is also logged by table, and the repairs.
    pub(super) fn finish(self) -> (usize, Vec<Repair>) {
        let mut marked = 0;
        let mut repairs = Vec::new();
        for (oid, OfTable { table, events, reason, keys }) in self.0 {
            marked += events;
            let because = reason.describe();
            tracing::warn!(
                table,
                events,
                because,
                "values that did not change cannot be had: a repair is asked for"
            );
            let repair = |key, reason| Repair { oid, table: table.clone(), key, reason };
            match keys {
                None => repairs.push(repair(None, reason)),
                Some(keys) => {
                    let each = keys.into_iter().map(|(key, reason)| repair(Some(key), reason));
                    repairs.extend(each);
                }
            }
        }
        (marked, repairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::raw_orders;
    use crate::catalog::{Catalog, KnownTables, Types};

    #[test]
    fn rows_are_asked_for_by_key_up_to_a_limit() {
        let mut catalog = Catalog::new(vec![], KnownTables::default());
        let relation = catalog.adopt(&raw_orders(), &Types::default()).unwrap();
        let key = |n: usize| Bytes::from(n.to_be_bytes().to_vec());
        let mut repairs = Repairs::default();
        for n in [1, 2, 2] {
            repairs.add(&relation, &key(n), RepairReason::TypeChanged);
        }
        let (marked, asked) = repairs.finish();
        assert_eq!((marked, asked.len()), (3, 2));
        assert_eq!(asked[1].key, Some(key(2)));

        let mut repairs = Repairs::default();
        (0..=KEYS_MAX).for_each(|n| repairs.add(&relation, &key(n), RepairReason::PartitionGone));
        let (marked, asked) = repairs.finish();
        assert_eq!((marked, asked.len(), &asked[0].key), (KEYS_MAX + 1, 1, &None));

        let mut repairs = Repairs::default();
        repairs.add(&relation, &key(1), RepairReason::KeyChanged);
        repairs.add(&relation, &key(1), RepairReason::TypeChanged);
        assert_eq!(repairs.finish().1[0].key, None, "the key is not what it was");
    }
}
