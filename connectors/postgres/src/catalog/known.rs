//! The tables that the log has.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anabranch_core::Table;

use crate::table_name::TableName;

/// The newest version of each table that the log knows, or will know with the next batch. It
/// outlives a catalog, so that a number never means two shapes.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownTables(Arc<Mutex<HashMap<u32, Known>>>);

/// Names that a table has had: the log has a topic of each.
type Names = BTreeSet<TableName>;

#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) table: Arc<Table>,
    /// The log itself has said so.
    pub(super) logged: bool,
    pub(super) names: Names,
}

impl Known {
    pub(super) fn new(table: Arc<Table>, logged: bool) -> Self {
        let name = TableName { schema: table.schema.clone(), name: table.name.clone() };
        Self { table, logged, names: Names::from([name]) }
    }
}

impl KnownTables {
    /// Takes `table`, which the log holds, unless a newer version of it is known.
    pub(crate) fn logged(&self, table: Arc<Table>) {
        self.insert(Known::new(table, true));
    }

    pub(super) fn insert(&self, mut fresh: Known) {
        let mut tables = self.lock();
        let oid = fresh.table.oid;
        match tables.get_mut(&oid) {
            Some(known) if known.table.version > fresh.table.version => {
                known.names.append(&mut fresh.names);
            }
            Some(known) => {
                fresh.names.append(&mut known.names);
                *known = fresh;
            }
            None => drop(tables.insert(oid, fresh)),
        }
    }

    pub(crate) fn get(&self, oid: u32) -> Option<Arc<Table>> {
        self.lock().get(&oid).map(|known| Arc::clone(&known.table))
    }

    pub(crate) fn oids(&self) -> BTreeSet<u32> {
        self.lock().keys().copied().collect()
    }

    /// The names that table `oid` has, or had.
    pub(crate) fn names(&self, oid: u32) -> Vec<TableName> {
        let tables = self.lock();
        tables.get(&oid).into_iter().flat_map(|known| known.names.iter().cloned()).collect()
    }

    /// Whether the log has said that it holds this version.
    pub(super) fn is_logged(&self, table: &Table) -> bool {
        let tables = self.lock();
        tables
            .get(&table.oid)
            .is_some_and(|known| known.logged && known.table.version == table.version)
    }

    /// Whether the log can go on with table `oid`: it has it, or nothing is known of the log.
    pub(crate) fn has(&self, oid: u32) -> bool {
        let tables = self.lock();
        tables.is_empty() || tables.contains_key(&oid)
    }

    /// The oids of the tables of this name that the log has.
    pub(crate) fn named(&self, schema: &str, name: &str) -> Vec<u32> {
        let tables = self.lock();
        let named = tables
            .values()
            .filter(|known| known.table.schema == schema && known.table.name == name);
        named.map(|known| known.table.oid).collect()
    }

    /// Whether a table has, or had, this name in the log.
    pub(crate) fn has_name(&self, name: &TableName) -> bool {
        self.lock().values().any(|known| known.names.contains(name))
    }

    /// A panic elsewhere cannot leave the map half changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
