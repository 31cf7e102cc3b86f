//! What is read next: what we have begun ourselves, what people ask for, and what the log asks for.
//!
//! ```text
//! another word of people ─▶ plan ─▶ waiting ─┐
//! one has ended ─────────────────────────────┴─▶ fill ─▶ jobs
//! ```
//!
//! Each table has one snapshot at a time, and no more tables are read at once than there may be
//! sessions. There may be thousands: all of them are looked at only when something else is asked for.

use std::collections::{HashMap, HashSet};

use anabranch_core::{SnapshotState, TableSnapshot};
use uuid::Uuid;

use super::{Incremental, Job, SnapshotRequest, SnapshotScope, own};
use crate::batch::BatchBuilder;
use crate::catalog::Catalog;

impl Incremental {
    /// Ends what is not asked for any more, and takes in what is. Without a word of people, what is
    /// under way goes on.
    pub(super) fn plan(&mut self, catalog: &Catalog, builder: &mut BatchBuilder) {
        let said = self.requests.borrow_and_update().requests.clone();
        let is_known = said.is_some();
        let requests = said.unwrap_or_default();
        self.let_go(catalog, builder);
        let asked = self.asked(&requests, catalog);
        if is_known {
            // Who is not asked for any more is to end as well.
            let ids: HashSet<Uuid> = asked.iter().map(|(_, request)| request.id).collect();
            let unasked = |job: &&Job| job.repairs.is_none() && !ids.contains(&job.request.id);
            let ended = self.jobs.iter().filter(unasked).map(|job| job.record.oid);
            for oid in ended.collect::<Vec<_>>() {
                self.end(oid, SnapshotState::Cancelled, None, builder);
            }
        }
        // What is said of one that has ended by now holds nothing else back.
        let ended = self.records.values().filter(|record| record.state != SnapshotState::Running);
        let ended: HashSet<Uuid> = ended.map(|record| record.id).collect();
        let paused = requests.iter().filter(|said| said.is_paused() && !ended.contains(&said.id));
        self.paused = paused.map(|said| said.table.clone()).collect();
        self.waiting.clear();
        for (oid, request) in asked {
            self.plan_one(oid, request, builder);
        }
    }

    /// Begins what there is room for.
    pub(super) fn fill(&mut self, catalog: &Catalog, builder: &mut BatchBuilder) {
        for _ in 0..self.waiting.len() {
            if !self.has_room() {
                break;
            }
            if let Some((oid, request)) = self.waiting.pop_front() {
                self.plan_one(oid, request, builder);
            }
        }
        self.plan_repairs(catalog, builder);
    }

    /// Ends what was begun of tables that are not there, or not read, any more. One that comes back is read
    /// again.
    fn let_go(&mut self, catalog: &Catalog, builder: &mut BatchBuilder) {
        let is_left = |record: &&TableSnapshot| {
            record.state == SnapshotState::Running && catalog.relation(record.oid).is_none()
        };
        let left: Vec<TableSnapshot> = self.records.values().filter(is_left).cloned().collect();
        for record in left {
            self.keep(TableSnapshot { state: SnapshotState::Cancelled, ..record }, builder);
        }
    }

    /// Everything, with the oids of the tables: first what we have begun ourselves, which stands still
    /// or ends as is said of its table.
    fn asked(
        &self,
        requests: &[SnapshotRequest],
        catalog: &Catalog,
    ) -> Vec<(u32, SnapshotRequest)> {
        let said: HashMap<&str, &SnapshotRequest> =
            requests.iter().map(|request| (request.table.as_str(), request)).collect();
        let own = self.records.values().filter_map(|record| {
            let (oid, own) = SnapshotRequest::own(record)?;
            let said = said.get(record.table.as_str());
            let paused = said.is_some_and(|said| said.is_paused());
            // What was said of another one does not end this.
            let cancelled = said.is_some_and(|said| said.cancelled && said.id == own.id);
            Some((oid, SnapshotRequest { paused, cancelled, ..own }))
        });
        let mut asked: Vec<(u32, SnapshotRequest)> = own.collect();
        if requests.is_empty() {
            return asked;
        }
        let taken: HashSet<Uuid> = asked.iter().map(|(_, request)| request.id).collect();
        let tables = catalog.tables().into_iter().map(|table| (table.full_name(), table.oid));
        let oids: HashMap<String, u32> = tables.collect();
        let others = requests.iter().filter(|request| !taken.contains(&request.id));
        asked.extend(others.filter_map(|other| Some((*oids.get(&other.table)?, other.clone()))));
        asked
    }

    fn plan_one(&mut self, oid: u32, request: SnapshotRequest, builder: &mut BatchBuilder) {
        let known = self.records.get(&oid).filter(|record| record.id == request.id);
        if known.is_some_and(|record| record.state != SnapshotState::Running) {
            return;
        }
        if request.cancelled {
            // One that has never begun leaves no record, least of all in the place of another.
            if let Some(record) = known.cloned() {
                self.jobs.retain(|job| job.request.id != request.id);
                self.keep(TableSnapshot { state: SnapshotState::Cancelled, ..record }, builder);
            }
        } else if let Some(job) = self.jobs.iter_mut().find(|job| job.record.oid == oid) {
            if job.request.id == request.id {
                job.request = request;
            } else {
                // One of another kind comes first.
                self.waiting.push_back((oid, request));
            }
        } else if request.paused {
            // It is asked for again when it may go on.
        } else if !self.has_room() {
            self.waiting.push_back((oid, request));
        } else {
            let begin = || request.begin(oid, builder.log());
            let record = known.cloned().unwrap_or_else(begin);
            self.begin(request, record);
        }
    }

    fn has_room(&self) -> bool {
        self.jobs.len() < self.config.snapshot_sessions.get()
    }

    /// Carries out what the log asks for, as far as nobody else reads the table.
    fn plan_repairs(&mut self, catalog: &Catalog, builder: &mut BatchBuilder) {
        for oid in self.repairs.tables() {
            let is_read = self.jobs.iter().any(|job| job.record.oid == oid);
            let relation = catalog.relation(oid).filter(|relation| !relation.is_append_only());
            let Some(relation) = relation.filter(|_| !is_read) else { continue };
            if !self.has_room() {
                return;
            }
            let name = relation.table.full_name();
            if self.paused.contains(&name) {
                continue;
            }
            let before = self.records.get(&oid);
            // At a start such a record is one that runs again.
            let has_failed = before
                .is_some_and(|record| record.by_itself && record.state == SnapshotState::Failed);
            let record = own(before, (oid, name), builder.log());
            // Those that are hashed cannot be looked for.
            let keys = self.repairs.keys(&relation.table).filter(|_| relation.has_plain_key());
            if let Some((keys, texts)) = keys {
                let (id, table) = (Uuid::new_v4(), record.table.clone());
                let scope = SnapshotScope::Keys(texts);
                let request = SnapshotRequest { id, table, scope, paused: false, cancelled: false };
                self.push(request, record, Some(keys));
            } else if let Some((_, request)) = SnapshotRequest::own(&record).filter(|_| !has_failed)
            {
                self.keep(record.clone(), builder);
                self.begin(request, record);
            }
        }
    }
}
