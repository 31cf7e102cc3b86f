//! Records of one partition on their way into a batch, in groups that must not be cut.
//!
//! ```text
//! record ─▶ [ group │ group │ open group… ] ─▶ whole groups only
//!                             └ whole once another begins, or the partition ends
//! ```
//!
//! A group is what one version covers: the changes of one part of a transaction. A batch that ends
//! inside of one could bring a key to a store twice with one version. The rows of a snapshot also
//! share a version, but have each key once; and a TRUNCATE, or a sweep, ends what came before it:
//! all of them stand alone. Kafka's transactions hold whole groups, so a partition never ends inside of one.
//!
//! The exception is a part from [`ROW_PART_MAX`] on, which has no bound: it is cut where it fills a
//! batch, and may be in several of Kafka's transactions. Its changes still come in order, but two of
//! one key may tie, so there a late write of the earlier one could win.

use std::collections::VecDeque;

use anabranch_core::ROW_PART_MAX;
use anabranch_core::avro::read::{Header, Kind};
use bytes::Bytes;

/// A record of a table's topic; key and value are payloads, without header.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) offset: i64,
    /// Empty for a TRUNCATE.
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) value_schema_id: i32,
    pub(crate) header: Header,
}

/// What is buffered of one partition.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    records: VecDeque<Record>,
    /// Whole groups, oldest first.
    groups: VecDeque<Size>,
    whole: Size,
    /// The group at the end, which may go on.
    open: Size,
}

/// How much something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

impl Record {
    fn size(&self) -> Size {
        Size { rows: 1, bytes: self.key.len() + self.value.len() }
    }

    fn stands_alone(&self) -> bool {
        self.header.snapshot || matches!(self.header.kind, Kind::Truncate | Kind::Sweep)
    }

    /// Whether both are of one group, this one being the earlier.
    fn goes_with(&self, next: &Self) -> bool {
        !self.stands_alone()
            && !next.stands_alone()
            && self.header.version == next.header.version
            && self.header.position.commit_lsn == next.header.position.commit_lsn
            && self.value_schema_id == next.value_schema_id
    }
}

impl Size {
    pub(crate) fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
    }

    fn subtract(&mut self, other: Self) {
        self.rows = self.rows.saturating_sub(other.rows);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

impl Buffer {
    /// Takes in the next record of the partition.
    pub(crate) fn push(&mut self, record: Record) {
        if self.records.back().is_some_and(|last| !last.goes_with(&record)) {
            self.close();
        }
        self.open.add(record.size());
        let alone = record.stands_alone();
        self.records.push_back(record);
        if alone {
            self.close();
        }
    }

    /// The partition has no more records for now, so the last group is whole.
    pub(crate) fn end(&mut self) {
        self.close();
    }

    /// Ends the open group if it fills a batch of size `limit`, and is of a part without a bound.
    pub(crate) fn cut(&mut self, limit: Size) {
        let is_full = self.open.rows >= limit.rows || self.open.bytes >= limit.bytes;
        let unbounded = |last: &Record| last.header.part >= ROW_PART_MAX;
        if is_full && self.records.back().is_some_and(unbounded) {
            self.close();
        }
    }

    fn close(&mut self) {
        if self.open.rows > 0 {
            self.whole.add(self.open);
            self.groups.push_back(std::mem::take(&mut self.open));
        }
    }

    /// How much of it is whole groups.
    pub(crate) fn whole(&self) -> Size {
        self.whole
    }

    /// All of it.
    pub(crate) fn size(&self) -> Size {
        let mut size = self.whole;
        size.add(self.open);
        size
    }

    /// The oldest record.
    pub(crate) fn first(&self) -> Option<&Record> {
        self.records.front()
    }

    /// The size of the oldest group, if it is whole, and the schema of its values.
    pub(crate) fn next_group(&self) -> Option<(Size, i32)> {
        Some((*self.groups.front()?, self.records.front()?.value_schema_id))
    }

    /// Takes the oldest group out, if it is whole.
    pub(crate) fn take_group(&mut self) -> impl Iterator<Item = Record> + '_ {
        let group = self.groups.pop_front().unwrap_or_default();
        self.whole.subtract(group);
        self.records.drain(..group.rows)
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::{Epoch, Lsn, Position, Version};

    use super::*;

    fn record(offset: i64, lsn: u64, part: u8) -> Record {
        let position = Position { epoch: Epoch(0), commit_lsn: Lsn(lsn), ordinal: 1 };
        let version = Version::new(position.epoch, position.commit_lsn, part);
        let kind = Kind::Upsert;
        let header = Header { position, part, version, commit_us: 0, snapshot: false, kind };
        let bytes = || Bytes::from_static(b"12345");
        Record { offset, key: bytes(), value: bytes(), value_schema_id: 1, header }
    }

    fn of_kind(kind: Kind, mut record: Record) -> Record {
        record.header.kind = kind;
        record
    }

    fn groups(buffer: &mut Buffer) -> Vec<Vec<i64>> {
        let mut groups = Vec::new();
        while buffer.next_group().is_some() {
            groups.push(buffer.take_group().map(|record| record.offset).collect());
        }
        groups
    }

    #[test]
    fn a_group_is_whole_once_another_begins_or_the_partition_ends() {
        let mut buffer = Buffer::default();
        for record in [record(0, 64, 0), record(1, 64, 0), record(2, 128, 0)] {
            buffer.push(record);
        }
        assert_eq!(buffer.whole(), Size { rows: 2, bytes: 20 });
        assert_eq!(buffer.size(), Size { rows: 3, bytes: 30 });
        assert_eq!(groups(&mut buffer), [vec![0, 1]]);
        buffer.push(record(4, 128, 0));
        assert_eq!(groups(&mut buffer), Vec::<Vec<i64>>::new());
        buffer.end();
        assert_eq!(groups(&mut buffer), [vec![2, 4]]);
        assert_eq!(buffer.size(), Size::default());
        buffer.end();
        assert!(buffer.next_group().is_none(), "nothing is no group");
    }

    #[test]
    fn parts_and_schemas_are_borders() {
        let mut buffer = Buffer::default();
        buffer.push(record(0, 64, 0));
        buffer.push(record(1, 64, 1));
        buffer.push(Record { value_schema_id: 2, ..record(2, 64, 1) });
        buffer.end();
        assert_eq!(groups(&mut buffer), [[0], [1], [2]]);
    }

    #[test]
    fn only_a_part_without_a_bound_is_cut() {
        let limit = Size { rows: 2, bytes: 1_000 };
        for (part, whole) in [(ROW_PART_MAX - 1, 0), (ROW_PART_MAX, 4), (u8::MAX, 4)] {
            let mut buffer = Buffer::default();
            for offset in 0..5 {
                buffer.push(record(offset, 64, part));
                buffer.cut(limit);
            }
            assert_eq!(buffer.whole().rows, whole, "part {part}");
        }
        let mut buffer = Buffer::default();
        buffer.push(record(0, 64, ROW_PART_MAX));
        buffer.cut(Size { rows: 9, bytes: 10 });
        assert_eq!(groups(&mut buffer), [[0]], "bytes count too");
    }

    #[test]
    fn a_truncate_and_rows_of_a_snapshot_stand_alone() {
        let mut buffer = Buffer::default();
        buffer.push(record(0, 64, 0));
        buffer.push(of_kind(Kind::Truncate, record(1, 64, 2)));
        buffer.push(record(2, 64, 2));
        let mut rows = [record(3, 96, 0), record(4, 96, 0)];
        for row in &mut rows {
            row.header.snapshot = true;
            buffer.push(row.clone());
        }
        assert_eq!(groups(&mut buffer), [[0], [1], [2], [3], [4]]);
    }
}
