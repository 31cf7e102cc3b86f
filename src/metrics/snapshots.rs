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

/// A sample for each table whose snapshot is under way: of all that ever were there may be thousands.
fn by_table(
    report: &Report,
    name: &'static str,
    help: &'static str,
    value: impl Fn(&TableSnapshot) -> Option<u64>,
) -> Family {
    let running = report.snapshots.iter().filter(|one| one.state == SnapshotState::Running);
    let sample = |snapshot: &TableSnapshot| {
        let labels = vec![("table", Cow::Owned(snapshot.table.clone()))];
        Some(Sample { labels, value: value(snapshot)?.into() })
    };
    let samples = running.filter_map(sample).collect();
    Family { samples, ..Family::new(Kind::Gauge, name, help) }
}
