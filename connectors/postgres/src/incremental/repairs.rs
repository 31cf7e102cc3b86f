//! Repairs that the log has and nobody has carried out: rows, or tables, that are read again.

use std::collections::BTreeMap;

use anabranch_core::{PendingRepair, Repair, RepairKey, SnapshotStart, Table};
use bytes::Bytes;

use crate::key_text::key_texts;

/// Rows of one table that are asked for by key. From there on the whole table is.
const ROWS_MAX: usize = 10_000;

/// Each with the place where it was last asked for: a read that began before that repairs nothing.
#[derive(Debug, Default)]
pub(super) struct Pending(BTreeMap<RepairKey, SnapshotStart>);

/// Keys as the log has them, and as the texts of their columns.
pub(super) type Keys = (Vec<Bytes>, Vec<Vec<String>>);

impl Pending {
    /// What the log has.
    pub(super) fn new(repairs: Vec<PendingRepair>) -> Self {
        Self(repairs.into_iter().map(|repair| (repair.of, repair.asked)).collect())
    }

    /// A batch that ends at `asked` asks for more; returns what the log is to ask for. Where the whole
    /// table is, or too many rows are, that is asked for.
    pub(super) fn ask(&mut self, repairs: Vec<Repair>, asked: SnapshotStart) -> Vec<Repair> {
        let mut widened = Vec::with_capacity(repairs.len());
        for mut repair in repairs {
            let oid = repair.oid;
            let rows = self.0.keys().filter(|(table, _)| *table == oid).count();
            if rows >= ROWS_MAX || self.0.contains_key(&(oid, None)) {
                repair.key = None;
            }
            self.0.insert((oid, repair.key.clone()), asked);
            if widened.last() != Some(&repair) {
                widened.push(repair);
            }
        }
        widened
    }

    /// Tables of which something is pending.
    pub(super) fn tables(&self) -> Vec<u32> {
        let mut oids: Vec<u32> = self.0.keys().map(|(oid, _)| *oid).collect();
        oids.dedup();
        oids
    }

    /// The keys of a table that are pending; `None` if it is to be read as a whole.
    pub(super) fn keys(&self, table: &Table) -> Option<Keys> {
        let of_table = self.0.keys().filter(|(oid, _)| *oid == table.oid);
        let each = of_table.map(|(_, key)| {
            let key = key.clone()?;
            let texts = key_texts(table, &key)?;
            Some((key, texts))
        });
        let each: Option<Vec<_>> = each.collect();
        Some(each?.into_iter().unzip())
    }

    /// All of a table has to be read, since its keys cannot be looked for.
    pub(super) fn widen(&mut self, oid: u32) {
        let of_table = self.0.iter().filter(|((table, _), _)| *table == oid);
        if let Some(last) = of_table.map(|(_, asked)| *asked).max() {
            self.0.insert((oid, None), last);
        }
    }

    /// Takes out all of a table that was dropped.
    pub(super) fn forget(&mut self, oid: u32) -> Vec<RepairKey> {
        self.0.extract_if(.., |(table, _), _| *table == oid).map(|(of, _)| of).collect()
    }

    /// Takes out what a read of a table that began at `since` has mended: of these keys, or of all.
    pub(super) fn mended(
        &mut self,
        oid: u32,
        since: SnapshotStart,
        keys: Option<&[Bytes]>,
    ) -> Vec<RepairKey> {
        let is_read = |key: &Option<Bytes>| match (keys, key) {
            (None, _) => true,
            (Some(keys), Some(key)) => keys.contains(key),
            (Some(_), None) => false,
        };
        let done = self
            .0
            .extract_if(.., |(table, key), asked| *table == oid && *asked <= since && is_read(key));
        done.map(|(of, _)| of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::raw_orders;
    use crate::catalog::{Catalog, KnownTables, Types};
    use anabranch_core::{Epoch, Lsn, RepairReason};

    fn at(lsn: u64) -> SnapshotStart {
        SnapshotStart { epoch: Epoch(0), lsn: Lsn(lsn) }
    }

    #[test]
    fn what_was_asked_for_again_stays_until_it_is_read_again() {
        let mut catalog = Catalog::new(vec![], KnownTables::default());
        let table = Table::clone(&catalog.adopt(&raw_orders(), &Types::default()).unwrap().table);
        let key = Bytes::from_static(&[2]);
        let repair = |key: Option<&Bytes>| Repair {
            oid: table.oid,
            table: table.full_name(),
            key: key.cloned(),
            reason: RepairReason::TypeChanged,
        };
        let mut pending = Pending::default();
        assert_eq!(pending.ask(vec![repair(Some(&key))], at(10)), [repair(Some(&key))]);
        assert_eq!(pending.tables(), [table.oid]);
        let (keys, texts) = pending.keys(&table).unwrap();
        assert_eq!(
            (keys.as_slice(), texts),
            ([key.clone()].as_slice(), vec![vec!["1".to_owned()]])
        );
        pending.ask(vec![repair(Some(&key))], at(20));
        assert!(pending.mended(table.oid, at(15), Some(&keys)).is_empty());
        pending.widen(table.oid);
        assert_eq!(pending.keys(&table), None, "the whole table");
        let asked = pending.ask(vec![repair(Some(&key)), repair(None)], at(20));
        assert_eq!(asked, [repair(None)], "is asked for");
        assert_eq!(pending.mended(table.oid, at(20), Some(&keys)), [(table.oid, Some(key))]);
        assert_eq!(pending.mended(table.oid, at(20), None), [(table.oid, None)]);
        assert!(pending.tables().is_empty());
    }
}
