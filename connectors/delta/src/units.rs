//! The cursor as `txn` actions: a number for each app id.
//!
//! ```text
//! <log id>/<generation>/<topic>/<partition>           next offset
//! <log id>/<generation>/<topic>/<partition>/format    CURSOR_FORMAT
//! <log id>/<generation>/<topic>/<partition>/resets    reset counter
//! <log id>/<generation>/<topic>/<partition>/offset    offset of the last record applied, or −1
//! <log id>/<generation>/<topic>/<partition>/version   its version, or −1
//! ```
//!
//! Delta keeps the last `txn` of each app id, whether it is higher or lower than the one before.
//! It cannot forget one, so −1 stands for "none".

use std::collections::BTreeMap;

use anabranch_core::{Assignment, CURSOR_FORMAT, LastRecord, StoreCursor, UnitCursor, Version};
use uuid::Uuid;

/// The newest version of each app id.
pub(crate) type Transactions = BTreeMap<String, i64>;

/// A number that stands for "none".
pub(crate) const NONE: i64 = -1;

const FORMAT: &str = "format";
const RESETS: &str = "resets";
const OFFSET: &str = "offset";
const VERSION: &str = "version";
const FIELDS: [&str; 4] = [FORMAT, RESETS, OFFSET, VERSION];

/// What an app id of ours says.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Unit<'a> {
    log: Uuid,
    generation: u32,
    topic: &'a str,
    partition: i32,
}

impl<'a> Unit<'a> {
    /// Reads the app id of a unit's next offset.
    fn parse(app_id: &'a str) -> Option<Self> {
        let (log, rest) = app_id.split_once('/')?;
        let (generation, rest) = rest.split_once('/')?;
        let (topic, partition) = rest.rsplit_once('/')?;
        Some(Self {
            log: log.parse().ok()?,
            generation: generation.parse().ok()?,
            topic,
            partition: partition.parse().ok()?,
        })
    }

    fn app_id(&self) -> String {
        let Self { log, generation, topic, partition } = self;
        format!("{log}/{generation}/{topic}/{partition}")
    }
}

/// Whether `app_id` is one of ours, of whatever log, generation and sink.
pub(crate) fn is_ours(app_id: &str) -> bool {
    let whole = match app_id.rsplit_once('/') {
        Some((unit, field)) if FIELDS.contains(&field) => unit,
        _ => app_id,
    };
    Unit::parse(whole).is_some()
}

/// The cursors that a table holds for the partitions of `assignment`.
///
/// A partition that has none in this log and generation gets the one it has in another, if any:
/// whoever resumes from it finds that the table belongs to another history.
pub(crate) fn read(transactions: &Transactions, assignment: &Assignment) -> StoreCursor {
    let mut found = StoreCursor::new();
    for (app_id, next) in transactions.iter().filter(|(_, next)| **next != NONE) {
        let Some(unit) = Unit::parse(app_id) else { continue };
        let wanted =
            unit.topic == assignment.topic && assignment.partitions.contains(&unit.partition);
        let is_own = unit.log == assignment.log && unit.generation == assignment.generation;
        if wanted && (is_own || !found.contains_key(&unit.partition)) {
            found.insert(unit.partition, cursor(transactions, &unit, *next));
        }
    }
    found
}

fn cursor(transactions: &Transactions, unit: &Unit<'_>, next: i64) -> UnitCursor {
    let base = unit.app_id();
    let field = |name| transactions.get(&format!("{base}/{name}")).copied().unwrap_or(NONE);
    let version = Version::from_i64(field(VERSION));
    UnitCursor {
        format: u16::try_from(field(FORMAT)).unwrap_or(CURSOR_FORMAT),
        log: unit.log,
        generation: unit.generation,
        resets: u32::try_from(field(RESETS)).unwrap_or(0),
        next,
        last: version
            .filter(|_| field(OFFSET) != NONE)
            .map(|version| LastRecord { offset: field(OFFSET), version }),
    }
}

/// The `txn` actions that make a table say `cursor` for `topic`.
pub(crate) fn write(cursor: &StoreCursor, topic: &str) -> Transactions {
    let mut transactions = Transactions::new();
    for (partition, unit) in cursor {
        let id = Unit { log: unit.log, generation: unit.generation, topic, partition: *partition };
        let base = id.app_id();
        let last = unit.last;
        let offset = last.map_or(NONE, |last| last.offset);
        let version = last.map_or(NONE, |last| last.version.to_i64());
        let values = [i64::from(unit.format), i64::from(unit.resets), offset, version];
        for (field, value) in FIELDS.iter().zip(values) {
            transactions.insert(format!("{base}/{field}"), value);
        }
        transactions.insert(base, unit.next);
    }
    transactions
}

/// What takes `now` back to `then`: every unit of ours, also one that did not exist then.
pub(crate) fn rewind(now: &Transactions, then: &Transactions) -> Transactions {
    let ours = now.keys().chain(then.keys()).filter(|app_id| is_ours(app_id));
    ours.map(|app_id| (app_id.clone(), then.get(app_id).copied().unwrap_or(NONE))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use anabranch_core::Table;

    use super::*;

    fn assignment(partitions: &[i32]) -> Assignment {
        let table = Table {
            oid: 1,
            version: 1,
            schema: "public".to_owned(),
            name: "t".to_owned(),
            columns: Vec::new(),
            key: Vec::new(),
        };
        Assignment {
            sink: "lake".to_owned(),
            topic: "shop.public.t".to_owned(),
            table: Arc::new(table),
            partitions: partitions.to_vec(),
            log: Uuid::from_u128(7),
            generation: 1,
        }
    }

    fn unit(next: i64, last: Option<(i64, i64)>) -> UnitCursor {
        UnitCursor {
            format: CURSOR_FORMAT,
            log: Uuid::from_u128(7),
            generation: 1,
            resets: 3,
            next,
            last: last.map(|(offset, version)| LastRecord {
                offset,
                version: Version::from_i64(version).unwrap(),
            }),
        }
    }

    #[test]
    fn a_cursor_reads_back_and_other_partitions_stay_out() {
        let all = StoreCursor::from([
            (0, unit(10, Some((9, i64::MAX)))),
            (1, unit(0, None)),
            (2, unit(5, Some((4, 0)))),
        ]);
        let transactions = write(&all, "shop.public.t");
        assert_eq!(read(&transactions, &assignment(&[0, 1, 2])), all);
        let one = StoreCursor::from([(1, unit(0, None))]);
        assert_eq!(read(&transactions, &assignment(&[1, 7])), one);
        assert!(transactions.keys().all(|app_id| is_ours(app_id)));
        assert!(!is_ours("spark-query-1") && !is_ours("a/b/c"));
    }

    #[test]
    fn the_format_is_fixed() {
        let transactions = write(&StoreCursor::from([(4, unit(10, Some((8, 99))))]), "a/b.c");
        let id = "00000000-0000-0000-0000-000000000007/1/a/b.c/4";
        let expected = [("", 10), ("/format", 1), ("/offset", 8), ("/resets", 3), ("/version", 99)];
        let expected: Transactions =
            expected.into_iter().map(|(field, value)| (format!("{id}{field}"), value)).collect();
        assert_eq!(transactions, expected);
    }

    #[test]
    fn a_unit_of_another_log_shows_only_where_ours_is_missing() {
        let other = |next| UnitCursor { log: Uuid::from_u128(1), ..unit(next, None) };
        let mut transactions =
            write(&StoreCursor::from([(0, other(50)), (1, other(60))]), "shop.public.t");
        transactions.extend(write(&StoreCursor::from([(0, unit(4, None))]), "shop.public.t"));
        let expected = StoreCursor::from([(0, unit(4, None)), (1, other(60))]);
        assert_eq!(read(&transactions, &assignment(&[0, 1])), expected);
    }

    #[test]
    fn a_rewind_forgets_units_that_did_not_exist() {
        let topic = "shop.public.t";
        let then = write(&StoreCursor::from([(0, unit(4, Some((3, 3))))]), topic);
        let mut now = write(&StoreCursor::from([(0, unit(9, None)), (1, unit(2, None))]), topic);
        now.insert("spark-query-1".to_owned(), 12);
        let mut after = now.clone();
        after.extend(rewind(&now, &then));
        let expected = StoreCursor::from([(0, unit(4, Some((3, 3))))]);
        assert_eq!(read(&after, &assignment(&[0, 1])), expected);
        assert_eq!(after.get("spark-query-1"), Some(&12));
    }
}
