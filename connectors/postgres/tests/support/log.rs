//! What a replica's log remembers, for a source that asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anabranch_core::{
    Answer, Change, Delivered, Epoch, Event, LogBatch, LogHistory, Lsn, OpenWork, PendingRepair,
    RepairKey, SnapshotStart, SourceCursor, Table, TableSnapshot,
};

/// The events of a log and its position, shared with the source that writes it.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    position: Option<SourceCursor>,
    events: Vec<Event>,
    snapshots: BTreeMap<u32, TableSnapshot>,
    repairs: BTreeMap<RepairKey, SnapshotStart>,
}

impl Log {
    pub(super) fn append(&self, batch: &LogBatch, position: &SourceCursor) {
        let mut state = self.0.lock().unwrap();
        state.events.extend_from_slice(&batch.events);
        let snapshots = batch.snapshots.iter().map(|record| (record.oid, record.clone()));
        state.snapshots.extend(snapshots);
        for done in &batch.repaired {
            state.repairs.remove(done);
        }
        let last = batch.events.iter().map(|event| event.position).max().unwrap_or_default();
        let asked = SnapshotStart { epoch: last.epoch, lsn: last.commit_lsn };
        let repairs = batch.repairs.iter().map(|repair| ((repair.oid, repair.key.clone()), asked));
        state.repairs.extend(repairs);
        state.position = Some(position.clone());
    }

    /// Another log that holds the same.
    pub(super) fn copy(&self) -> Self {
        let state = self.0.lock().unwrap();
        let (position, events) = (state.position.clone(), state.events.clone());
        let (snapshots, repairs) = (state.snapshots.clone(), state.repairs.clone());
        Self(Mutex::new(State { position, events, snapshots, repairs }))
    }

    /// Says what it has of snapshots, for tests that change it.
    pub(crate) fn records(&self, snapshots: Vec<TableSnapshot>) {
        let by_oid = snapshots.into_iter().map(|record| (record.oid, record));
        self.0.lock().unwrap().snapshots = by_oid.collect();
    }

    /// The repairs that are asked for and not done.
    pub(crate) fn pending(&self) -> Vec<PendingRepair> {
        let pending = self.0.lock().unwrap().repairs.clone();
        pending.into_iter().map(|(of, asked)| PendingRepair { of, asked }).collect()
    }

    /// Says where it stands, for tests that move it.
    pub(crate) fn stands_at(&self, position: Option<SourceCursor>) {
        self.0.lock().unwrap().position = position;
    }
}

impl LogHistory for Log {
    fn position(&self) -> Answer<'_, Option<SourceCursor>> {
        let position = self.0.lock().unwrap().position.clone();
        Box::pin(async { Ok(position) })
    }

    fn open_work(&self) -> Answer<'_, OpenWork> {
        let snapshots = self.0.lock().unwrap().snapshots.values().cloned().collect();
        let work = OpenWork { snapshots, repairs: self.pending() };
        Box::pin(async { Ok(work) })
    }

    fn delivered<'a>(
        &'a self,
        tables: &'a [Arc<Table>],
        since: (Epoch, Lsn),
    ) -> Answer<'a, Vec<Delivered>> {
        let state = self.0.lock().unwrap();
        let of_table = |table: &Arc<Table>| {
            let mut delivered = Delivered::nothing();
            for event in state.events.iter().filter(|event| event.table.oid == table.oid) {
                let at = (event.position.epoch, event.position.commit_lsn);
                match &event.change {
                    Change::Row { key, .. } if at >= since => delivered.add(key.clone()),
                    Change::Sweep => delivered = Delivered::Unbounded,
                    Change::Truncate if at >= since => delivered = Delivered::Unbounded,
                    Change::Row { .. } | Change::Truncate => {}
                }
            }
            delivered
        };
        let delivered = tables.iter().map(of_table).collect();
        Box::pin(async { Ok(delivered) })
    }
}
