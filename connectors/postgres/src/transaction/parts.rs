//! The parts of a transaction: what tells two changes of one key apart that share a commit.

use std::collections::BTreeMap;

use anabranch_core::{ROW_PART_MAX, TRUNCATE_PARTS};

/// Rows of a table after which its next part begins.
const ROWS_PER_PART: u32 = 65_536;

/// For each table of the transaction, the part that its next row is in.
#[derive(Debug, Default)]
pub(super) struct Parts(BTreeMap<u32, TablePart>);

#[derive(Clone, Copy, Debug, Default)]
struct TablePart {
    /// The part of the next row.
    part: u8,
    /// Rows in this part so far.
    rows: u32,
    /// The schema version of these rows.
    version: u32,
    /// The part of the last row since the last TRUNCATE.
    last: Option<u8>,
}

impl Parts {
    /// Goes on from the parts that a split left.
    pub(super) fn new(parts: BTreeMap<u32, u8>) -> Self {
        let resumed = |part: u8| {
            // The row before the split is in the part before, or in this one if that was the last.
            let last = if part < ROW_PART_MAX { part.checked_sub(1) } else { Some(part) };
            TablePart { part, last, ..TablePart::default() }
        };
        Self(parts.into_iter().map(|(oid, part)| (oid, resumed(part))).collect())
    }

    /// The part of the next row of table `oid`, which has the schema `version`. A batch for a store
    /// ends where the schema changes, so that a part holds rows of one version.
    pub(super) fn row(&mut self, oid: u32, version: u32) -> u8 {
        let table = self.0.entry(oid).or_default();
        let altered = table.rows > 0 && table.version != version;
        if altered || table.rows == ROWS_PER_PART {
            table.bump();
        }
        table.rows += 1;
        table.version = version;
        table.last = Some(table.part);
        table.part
    }

    /// The part of a TRUNCATE of table `oid`: above every row before it. `None` if there are no
    /// more.
    pub(super) fn truncate(&mut self, oid: u32) -> Option<u8> {
        let table = self.0.entry(oid).or_default();
        if let Some(last) = table.last {
            let part = last.checked_add(TRUNCATE_PARTS)?.max(table.part);
            *table = TablePart { part, ..TablePart::default() };
        }
        Some(table.part)
    }

    /// A batch ends here: of each table the next row is in a new part.
    pub(super) fn split(&mut self) {
        self.0.values_mut().filter(|table| table.rows > 0).for_each(TablePart::bump);
    }

    /// For each table the part that its next row is in.
    pub(super) fn next(&self) -> BTreeMap<u32, u8> {
        self.0.iter().map(|(oid, table)| (*oid, table.part)).collect()
    }
}

impl TablePart {
    /// Begins the next part; at the limit rows stay in one.
    fn bump(&mut self) {
        self.rows = 0;
        if self.part < ROW_PART_MAX {
            self.part += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_begin_a_part_now_and_then() {
        let mut parts = Parts::default();
        let seen: Vec<u8> = (0..=2 * ROWS_PER_PART).map(|_| parts.row(1, 1)).collect();
        let rows = usize::try_from(ROWS_PER_PART).unwrap();
        assert_eq!((seen[0], seen[rows - 1], seen[rows], seen[2 * rows]), (0, 0, 1, 2));
        assert_eq!(parts.row(2, 1), 0, "each table counts by itself");
    }

    #[test]
    fn a_truncate_leaves_a_part_between_it_and_the_rows_before_it() {
        let mut parts = Parts::default();
        assert_eq!(parts.truncate(1), Some(0), "nothing before it");
        assert_eq!((parts.row(1, 1), parts.truncate(1), parts.truncate(1)), (0, Some(2), Some(2)));
        assert_eq!((parts.row(1, 1), parts.truncate(1)), (2, Some(4)));
    }

    #[test]
    fn a_split_begins_a_part_of_every_table() {
        let mut parts = Parts::default();
        parts.row(1, 1);
        parts.row(2, 1);
        parts.truncate(2);
        parts.split();
        assert_eq!(parts.next(), BTreeMap::from([(1, 1), (2, 2)]));
        let mut resumed = Parts::new(parts.next());
        assert_eq!((parts.truncate(1), resumed.truncate(1)), (Some(2), Some(2)));
        assert_eq!(Parts::new(parts.next()).row(1, 1), 2);
    }

    #[test]
    fn a_new_schema_version_begins_a_part_of_its_table() {
        let mut parts = Parts::default();
        assert_eq!((parts.row(1, 1), parts.row(2, 1)), (0, 0));
        assert_eq!((parts.row(1, 2), parts.row(1, 2), parts.row(2, 1)), (1, 1, 0));
        assert_eq!(parts.row(1, 1), 2, "and the version before is another one again");
        assert_eq!((parts.truncate(1), parts.row(1, 2)), (Some(4), 4), "no rows before it");
    }

    #[test]
    fn a_new_schema_version_right_after_a_split_needs_no_part_of_its_own() {
        let mut parts = Parts::default();
        parts.row(1, 1);
        parts.split();
        let mut resumed = Parts::new(parts.next());
        assert_eq!((parts.row(1, 2), resumed.row(1, 2)), (1, 1));
        assert_eq!((parts.row(1, 3), resumed.row(1, 3)), (2, 2));
    }

    #[test]
    fn truncates_have_parts_left_when_rows_have_none() {
        let mut parts = Parts::default();
        for _ in 0..1_000 {
            parts.row(1, 1);
            parts.split();
        }
        assert_eq!(parts.row(1, 1), ROW_PART_MAX);
        let mut resumed = Parts::new(parts.next());
        assert_eq!(resumed.truncate(1), Some(241), "above the rows in the log");
        for expected in (241..=255).step_by(2) {
            assert_eq!(parts.truncate(1), Some(expected));
            assert_eq!(parts.row(1, 1), expected);
        }
        assert_eq!(parts.truncate(1), None);
    }
}
