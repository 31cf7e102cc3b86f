//! Collects drafts into batches, and says how far each batch takes the log.
//!
//! ```text
//! drafts: [ whole transactions | a part of the next ]
//!                              ▲ border: a batch ends here, or anywhere if that is too large
//! ```
//!
//! The invariant: a cursor's `confirm` covers only whole transactions whose events are in its batch
//! or an earlier one.

use std::sync::Arc;

use anabranch_core::{
    Epoch, LogBatch, Lsn, Repair, RepairKey, Rereads, SnapshotStart, SourceCursor, Split, Table,
    TableSnapshot,
};
use uuid::Uuid;

use crate::loss::Loss;
use crate::membership::Found;
use crate::transaction::{Assembler, Draft};

/// Bytes that a value to re-read counts with before any was: PostgreSQL moves rows above 2 kB out
/// of line, and most values there are not much larger.
const MISSING_BYTES_GUESS: usize = 8 << 10;

/// What is collected, and not yet handed over.
#[derive(Debug)]
pub(crate) struct BatchBuilder {
    pub(crate) drafts: Vec<Draft>,
    tables: Vec<Arc<Table>>,
    /// How far snapshots are with the drafts before the border.
    snapshots: Vec<TableSnapshot>,
    /// Repairs that are done with them.
    repaired: Vec<RepairKey>,
    /// Bytes of the drafts before `counted`.
    bytes: usize,
    counted: usize,
    bytes_max: usize,
    missing_bytes: usize,
    /// Drafts of whole transactions.
    border: usize,
    /// Everything before it is in those drafts or in earlier batches.
    border_lsn: Lsn,
    /// The cursor of the last batch.
    cursor: SourceCursor,
}

/// A batch before its missing values are filled in.
#[derive(Debug)]
pub(crate) struct DraftBatch {
    pub(crate) drafts: Vec<Draft>,
    pub(crate) tables: Vec<Arc<Table>>,
    snapshots: Vec<TableSnapshot>,
    repaired: Vec<RepairKey>,
    pub(crate) cursor: SourceCursor,
}

impl BatchBuilder {
    /// Goes on after `cursor`.
    pub(crate) fn new(cursor: SourceCursor, bytes_max: usize) -> Self {
        Self {
            drafts: Vec::new(),
            tables: Vec::new(),
            snapshots: Vec::new(),
            repaired: Vec::new(),
            bytes: 0,
            counted: 0,
            bytes_max,
            missing_bytes: MISSING_BYTES_GUESS,
            border: 0,
            border_lsn: cursor.confirm,
            cursor,
        }
    }

    /// The log must know this table from the next batch on.
    pub(crate) fn announce(&mut self, table: Arc<Table>) {
        self.tables.push(table);
    }

    /// How far a snapshot is with the drafts so far. A border must follow before any other draft.
    pub(crate) fn record(&mut self, snapshot: TableSnapshot) {
        self.snapshots.push(snapshot);
    }

    /// Repairs that are done with the drafts so far.
    pub(crate) fn repaired(&mut self, done: Vec<RepairKey>) {
        self.repaired.extend(done);
    }

    /// A transaction ended, or the server has nothing else before `lsn`.
    pub(crate) fn border(&mut self, lsn: Lsn) {
        self.border = self.drafts.len();
        self.border_lsn = self.border_lsn.max(lsn);
    }

    /// Counts the drafts that were added since the last call.
    pub(crate) fn count(&mut self) {
        for draft in self.drafts.get(self.counted..).unwrap_or_default() {
            self.bytes += draft.size(self.missing_bytes);
        }
        self.counted = self.drafts.len();
    }

    /// How many bytes a re-read value had, on average.
    pub(crate) fn learn(&mut self, bytes: usize, values: usize) {
        if let Some(average) = bytes.checked_div(values) {
            self.missing_bytes = average.max(MISSING_BYTES_GUESS);
        }
    }

    /// What the last batch lets the server forget.
    pub(crate) fn confirmed(&self) -> Lsn {
        self.cursor.confirm
    }

    /// The history that the batches are of.
    pub(crate) fn epoch(&self) -> Epoch {
        self.cursor.epoch
    }

    /// That of a commit at `lsn`; `None` if the log can tell no more apart.
    pub(crate) fn epoch_at(&self, lsn: Lsn) -> Option<Epoch> {
        self.cursor.epoch.at(self.cursor.confirm, lsn)
    }

    /// The log that the batches are for.
    pub(crate) fn log(&self) -> Uuid {
        self.cursor.log
    }

    /// Takes in how the tables are published now; returns what is not as the log says.
    pub(crate) fn look(&mut self, found: &Found) -> Option<Loss> {
        let before = self.cursor.membership.take();
        self.cursor.membership = found.carry(before);
        let before = self.cursor.membership.as_ref()?;
        let what = found.changed_since(before)?;
        Some(Loss::PublicationChanged { what, since: before.at, end: found.at })
    }

    /// Whether no more may be added.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= self.limit()
    }

    /// A transaction that does not fit a batch anyway goes on in thirds of one: of these, four are
    /// in memory where the log is slow. In smaller pieces 1 GB would have more than it has parts.
    fn limit(&self) -> usize {
        let split = self.cursor.split.as_ref();
        let within = split.is_some_and(|split| split.commit_lsn >= self.border_lsn);
        if within { self.bytes_max.div_ceil(3) } else { self.bytes_max }
    }

    /// Whether there are events to hand over, or something else that the log must know.
    pub(crate) fn is_ready(&self) -> bool {
        let is_done = !self.snapshots.is_empty() || !self.repaired.is_empty();
        let has_news = !self.tables.is_empty() || is_done;
        self.border > 0 || self.is_full() || (has_news && self.drafts.is_empty())
    }

    /// Whether there is nothing to hand over but a later position.
    pub(crate) fn has_idle_progress(&self) -> bool {
        self.drafts.is_empty() && self.border_lsn > self.cursor.confirm
    }

    /// Takes the next batch: whole transactions, or, if the first is too large by itself, a part of
    /// it, which makes `assembler` raise its parts.
    pub(crate) fn take(&mut self, assembler: &mut Assembler) -> DraftBatch {
        // Also before a part: what ended since the last batch may have left no draft of its own.
        let epoch = self.cursor.epoch.at(self.cursor.confirm, self.border_lsn);
        self.cursor.epoch = epoch.unwrap_or(self.cursor.epoch);
        self.cursor.confirm = self.border_lsn;
        if self.border == 0
            && !self.drafts.is_empty()
            && let Some(split) = assembler.split()
        {
            let drafts = self.cut(self.drafts.len());
            return self.finish(drafts, Some(split));
        }
        let drafts = self.cut(self.border);
        // A split transaction is over only when its end was read.
        let split = self.cursor.split.take();
        self.finish(drafts, split.filter(|split| split.commit_lsn >= self.border_lsn))
    }

    /// Takes the first `count` drafts. There is room for as many again, since what grows step by step
    /// leaves as much behind as it ends with.
    fn cut(&mut self, count: usize) -> Vec<Draft> {
        let mut rest = Vec::with_capacity(count);
        rest.extend(self.drafts.drain(count..));
        std::mem::replace(&mut self.drafts, rest)
    }

    fn finish(&mut self, drafts: Vec<Draft>, split: Option<Split>) -> DraftBatch {
        (self.border, self.bytes, self.counted) = (0, 0, 0);
        self.count();
        self.cursor.split = split;
        DraftBatch {
            drafts,
            tables: std::mem::take(&mut self.tables),
            snapshots: std::mem::take(&mut self.snapshots),
            repaired: std::mem::take(&mut self.repaired),
            cursor: self.cursor.clone(),
        }
    }
}

impl DraftBatch {
    /// The commit of the earliest event of which something is missing.
    pub(crate) fn reread_from(&self) -> Option<Lsn> {
        let missing = self.drafts.iter().filter(|draft| draft.missing.is_some());
        missing.map(|draft| draft.event.position.commit_lsn).min()
    }

    /// Behind every event that it has.
    pub(crate) fn end(&self) -> SnapshotStart {
        let split = self.cursor.split.as_ref().map(|split| Lsn(split.commit_lsn.0 + 1));
        let lsn = split.unwrap_or_default().max(self.cursor.confirm);
        SnapshotStart { epoch: self.cursor.epoch, lsn }
    }

    /// The batch, once nothing is missing. `seen` is the highest LSN that a re-read has seen.
    pub(crate) fn complete(
        mut self,
        seen: Lsn,
        rereads: &Rereads,
        repairs: Vec<Repair>,
    ) -> (LogBatch, SourceCursor) {
        self.cursor.seen = self.cursor.seen.max(seen);
        self.cursor.rereads.clone_from(rereads);
        let events = self.drafts.into_iter().map(|draft| draft.event).collect();
        let (tables, snapshots, repaired) = (self.tables, self.snapshots, self.repaired);
        (LogBatch { tables, events, repairs, repaired, snapshots }, self.cursor)
    }
}

impl Draft {
    fn size(&self, missing_bytes: usize) -> usize {
        let missing = self.missing.as_ref().map_or(0, |missing| {
            missing.new.size() + missing.places.len().saturating_mul(missing_bytes)
        });
        self.event.size() + missing
    }
}

/// A position, for tests.
#[cfg(any(test, fuzzing))]
pub(crate) mod samples {
    use anabranch_core::{CURSOR_FORMAT, Epoch, Lsn, Phase, Rereads, SourceCursor};

    pub(crate) fn cursor() -> SourceCursor {
        SourceCursor {
            format: CURSOR_FORMAT,
            log: uuid::Uuid::nil(),
            slot: "s".into(),
            epoch: Epoch(0),
            system_id: 1,
            timeline: 1,
            phase: Phase::Streaming,
            confirm: Lsn(0x10),
            seen: Lsn(0),
            split: None,
            rereads: Rereads::default(),
            fork: None,
            membership: None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::catalog::tests::raw_orders;
    use crate::catalog::{Catalog, KnownTables, Types};
    use crate::pgoutput::decode;
    use crate::pgoutput::tests::{begin_message, commit_message, row_message};
    use crate::transaction::Step;
    use anabranch_core::{Epoch, Rereads};

    pub(crate) use super::samples::cursor;

    struct Run {
        assembler: Assembler,
        catalog: Catalog,
        builder: BatchBuilder,
    }

    impl Run {
        fn new(bytes_max: usize) -> Self {
            let mut catalog = Catalog::new(vec![], KnownTables::default());
            catalog.adopt(&raw_orders(), &Types::default()).unwrap();
            let assembler = Assembler::new(Epoch(0), Lsn(0x10), None);
            Self { assembler, catalog, builder: BatchBuilder::new(cursor(), bytes_max) }
        }

        fn begin(&mut self, lsn: u64) {
            self.push(&begin_message(lsn, 1));
        }

        fn rows(&mut self, count: usize) {
            let row = row_message(b'I', 7, &[(b'N', &[Some("1"), Some("x")])]);
            (0..count).for_each(|_| self.push(&row));
        }

        fn commit(&mut self, lsn: u64) {
            self.push(&commit_message(lsn, lsn + 0x28));
        }

        fn push(&mut self, bytes: &bytes::Bytes) {
            let message = decode(bytes).unwrap();
            let drafts = &mut self.builder.drafts;
            let step = self.assembler.push(message, &self.catalog, drafts).unwrap();
            self.builder.count();
            if let Step::Committed { end_lsn } = step {
                self.builder.border(end_lsn);
            }
        }

        fn take(&mut self) -> (usize, u64, Option<u64>) {
            let (batch, cursor) = self.builder.take(&mut self.assembler).complete(
                Lsn(0),
                &Rereads::default(),
                vec![],
            );
            (batch.events.len(), cursor.confirm.0, cursor.split.map(|split| split.ordinal))
        }
    }

    #[test]
    fn a_batch_holds_whole_transactions() {
        let mut run = Run::new(1 << 20);
        run.begin(0x100);
        assert!(!run.builder.is_ready());
        run.rows(2);
        run.commit(0x100);
        run.begin(0x200);
        run.rows(3);
        assert!(run.builder.is_ready());
        assert_eq!(run.take(), (2, 0x128, None));
        assert!(!run.builder.is_ready());
        run.commit(0x200);
        assert_eq!(run.take(), (3, 0x228, None));
    }

    #[test]
    fn a_transaction_too_large_for_a_batch_is_split() {
        let mut run = Run::new(490);
        run.begin(0x100);
        run.rows(2);
        assert!(!run.builder.is_full());
        run.rows(1);
        assert!(run.builder.is_full() && run.builder.is_ready());
        assert_eq!(run.take(), (3, 0x10, Some(3)));
        assert!(!run.builder.is_full());
        run.rows(1);
        run.commit(0x100);
        assert_eq!(run.builder.drafts[0].event.part, 1);
        assert_eq!(run.take(), (1, 0x128, None));
    }

    #[test]
    fn the_rest_of_a_split_transaction_comes_in_thirds_of_a_batch() {
        let mut run = Run::new(980);
        run.begin(0x100);
        run.rows(6);
        assert_eq!(run.take(), (6, 0x10, Some(6)));
        run.rows(1);
        assert!(!run.builder.is_full());
        run.rows(1);
        assert!(run.builder.is_full());
        assert_eq!(run.take(), (2, 0x10, Some(8)));
        run.commit(0x100);
        run.begin(0x200);
        run.rows(5);
        assert!(!run.builder.is_full(), "whole batches again");
    }

    #[test]
    fn an_idle_server_moves_the_cursor_alone() {
        let mut run = Run::new(490);
        assert!(!run.builder.has_idle_progress());
        run.builder.border(Lsn(0x900));
        assert!(run.builder.has_idle_progress() && !run.builder.is_ready());
        assert_eq!(run.take(), (0, 0x900, None));
        assert!(!run.builder.has_idle_progress());
    }

    #[test]
    fn a_new_table_within_a_split_transaction_does_not_end_it() {
        let mut run = Run::new(490);
        run.begin(0x100);
        run.rows(3);
        assert_eq!(run.take(), (3, 0x10, Some(3)));
        run.builder.announce(run.catalog.tables().remove(0));
        assert!(run.builder.is_ready());
        assert_eq!(run.take(), (0, 0x10, Some(3)));
    }

    #[test]
    fn a_split_right_after_a_split_begins_after_it() {
        let mut run = Run::new(490);
        for (lsn, confirm) in [(0x100, 0x10), (0x200, 0x128)] {
            run.begin(lsn);
            run.rows(3);
            assert_eq!(run.take(), (3, confirm, Some(3)));
            run.commit(lsn);
        }
    }

    #[test]
    fn a_split_right_at_the_end_leaves_a_cursor_without_it() {
        let mut run = Run::new(490);
        run.begin(0x100);
        run.rows(3);
        assert_eq!(run.take(), (3, 0x10, Some(3)));
        run.commit(0x100);
        assert!(run.builder.has_idle_progress());
        assert_eq!(run.take(), (0, 0x128, None));
    }
}
