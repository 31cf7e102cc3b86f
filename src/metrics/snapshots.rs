//! The figures of snapshots of single tables, and of the repairs that wait for one.

use std::borrow::Cow;

use anabranch_core::{SnapshotState, TableSnapshot};

use super::{Family, Kind, Sample};
use crate::status::Report;

/// What the last snapshot of a table can have come to.
const STATES: [SnapshotState; 4] =
    [SnapshotState::Running, SnapshotState::Done, SnapshotState::Cancelled, SnapshotState::Failed];

pub(super) fn families(report: &Report) -> Vec<Family> {
    let count = |wanted: SnapshotState| {
        let found = report.snapshots.iter().filter(|snapshot| snapshot.state == wanted).count();
        u64::try_from(found).unwrap_or(u64::MAX)
    };
    let states = STATES.into_iter().map(|state| Sample {
        labels: vec![("state", Cow::Owned(state.word().to_lowercase()))],
        value: count(state).into(),
    });
    let help = "Tables by what their last snapshot beside the stream has come to.";
    let mut families =
        vec![Family { samples: states.collect(), ..Family::new(Kind::Gauge, "snapshots", help) }];
    families.extend([
        by_table(report, "snapshot_rows", "Rows that a snapshot under way has read.", |snapshot| {
            Some(snapshot.rows)
        }),
        by_table(
            report,
            "snapshot_expected_rows",
            "Rows that the server believed were there when it began; absent if it knew nothing.",
            |snapshot| Some(snapshot.expected).filter(|expected| *expected > 0),
        ),
    ]);
    let pending = u64::try_from(report.repairs.len()).unwrap_or(u64::MAX);
    families.push(Family::gauge(
        "repair_pending_tables",
        "Tables of which rows are to be read again from the source.",
        Some(pending),
    ));
    families
}

/// A sample for each table whose snapshot has begun and not ended, which are few at a time: there may be
/// thousands that wait, and thousands that are done.
fn by_table(
    report: &Report,
    name: &'static str,
    help: &'static str,
    value: impl Fn(&TableSnapshot) -> Option<u64>,
) -> Family {
    let is_read = |one: &&TableSnapshot| one.state == SnapshotState::Running && one.began_us > 0;
    let running = report.snapshots.iter().filter(is_read);
    let sample = |snapshot: &TableSnapshot| {
        let labels = vec![("table", Cow::Owned(snapshot.table.clone()))];
        Some(Sample { labels, value: value(snapshot)?.into() })
    };
    let samples = running.filter_map(sample).collect();
    Family { samples, ..Family::new(Kind::Gauge, name, help) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anabranch_core::SNAPSHOT_FORMAT;
    use uuid::Uuid;

    fn snapshot(table: &str, state: SnapshotState, began_us: i64) -> TableSnapshot {
        TableSnapshot {
            format: SNAPSHOT_FORMAT,
            log: Uuid::nil(),
            id: Uuid::nil(),
            oid: 7,
            table: table.to_owned(),
            by_itself: true,
            state,
            trouble: None,
            since: None,
            after: None,
            order: String::new(),
            rows: 3,
            expected: 0,
            began_us,
            changed_us: began_us,
        }
    }

    #[test]
    fn only_what_is_being_read_has_a_series_of_its_own() {
        let waiting =
            (0..5000).map(|n| snapshot(&format!("public.t{n}"), SnapshotState::Running, 0));
        let done = (0..50).map(|n| snapshot(&format!("public.d{n}"), SnapshotState::Done, 9));
        let read = snapshot("public.read", SnapshotState::Running, 9);
        let report =
            Report { snapshots: waiting.chain(done).chain([read]).collect(), ..Report::default() };
        let families = families(&report);
        let rows = families.iter().find(|family| family.name == "snapshot_rows").unwrap();
        let tables: Vec<&str> = rows.samples.iter().map(|sample| &*sample.labels[0].1).collect();
        assert_eq!(tables, ["public.read"]);
        let all: usize = families.iter().map(|family| family.samples.len()).sum();
        assert!(all < 10, "{all} series");
    }
}
