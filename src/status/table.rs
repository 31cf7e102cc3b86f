//! A [`Report`] as a table for a terminal; `{:#}` adds a line for each partition.

use std::fmt;

use anabranch_core::{SnapshotState, TableSnapshot};
use anabranch_kafka::TableRepairs;
use anabranch_postgres::{GuardState, SourceFigures, bar};

use super::{Report, SinkReport, SourceReport, State, TableReport};

/// Widths of the columns: sink, table, state, lag in events, lag in seconds.
const WIDTHS: [usize; 5] = [14, 34, 9, 12, 10];

/// Tables whose copy is under way that are shown.
const COPIES_MAX: usize = 8;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            source_rows(f, source)?;
        }
        self.repairs.iter().try_for_each(|repairs| repair(f, repairs))?;
        let open = self.snapshots.iter().filter(|snapshot| {
            matches!(snapshot.state, SnapshotState::Running | SnapshotState::Failed)
        });
        open.take(COPIES_MAX).try_for_each(|open| {
            writeln!(f, "snapshot of {}", snapshot_line(open, open.state.word()))
        })?;
        row(f, ["SINK", "TABLE", "STATE", "LAG EVENTS", "LAG s"])?;
        for (name, sink) in &self.sinks {
            sink_rows(f, name, sink)?;
        }
        Ok(())
    }
}

fn source_rows(f: &mut fmt::Formatter<'_>, source: &SourceReport) -> fmt::Result {
    let SourceFigures { received_lsn, durable_lsn, rows, .. } = &source.figures;
    writeln!(
        f,
        "source {}: received {received_lsn}, durable in the log {durable_lsn}, {rows} events",
        source.state.word(),
    )?;
    error(f, &source.state)?;
    if let Some(copy) = &source.figures.copy {
        writeln!(f, "copying: {copy}")?;
        let under_way = copy.tables.iter().filter(|table| table.rows > 0 && !table.finished);
        under_way.take(COPIES_MAX).try_for_each(|table| writeln!(f, "    {table}"))?;
    }
    let Some(guard) = &source.wal_guard else { return Ok(()) };
    let state = guard.state;
    let word = if state > GuardState::Calm { state.word().to_uppercase() } else { String::new() };
    writeln!(f, "{}", format!("{guard}  {word}").trim_end())?;
    for line in guard.error.iter().chain(&guard.help) {
        writeln!(f, "    {line}")?;
    }
    Ok(())
}

fn repair(f: &mut fmt::Formatter<'_>, repairs: &TableRepairs) -> fmt::Result {
    let TableRepairs { table, rows, reason } = repairs;
    let what = rows.map_or("all rows".to_owned(), |rows| format!("{rows} rows"));
    let why = reason.describe();
    writeln!(
        f,
        "repair pending: {what} of {table} may differ from the source until they are read again ({why})"
    )
}

/// A snapshot of a table: what became of it in a word, how far and how fast it is.
pub(crate) fn snapshot_line(snapshot: &TableSnapshot, word: &str) -> String {
    let TableSnapshot { table, state, rows, trouble, .. } = snapshot;
    let mut line = format!("{table:<34}  {word:<10}  {rows:>12} rows");
    if let Some(percent) = snapshot.percent() {
        line.push_str(&format!("  {}  {percent:>3} %", bar(percent)));
    }
    if let (SnapshotState::Running, Some(rate)) = (state, snapshot.rows_per_second()) {
        line.push_str(&format!("  {rate} rows/s"));
    }
    if let (SnapshotState::Running, Some(left)) = (state, snapshot.seconds_left()) {
        line.push_str(&format!("  about {left} s left"));
    }
    if let Some(trouble) = trouble {
        line.push_str(&format!("\n    {trouble}"));
    }
    line
}

fn sink_rows(f: &mut fmt::Formatter<'_>, name: &str, sink: &SinkReport) -> fmt::Result {
    if sink.tables.is_empty() || sink.state.error().is_some() {
        row(f, [name, "", sink.state.word(), "", ""])?;
        error(f, &sink.state)?;
    }
    for (topic, table) in &sink.tables {
        let events: i64 = table.partitions.iter().map(|unit| unit.lag_events).sum();
        let worst = worst_seconds(table);
        let cells = [name, topic, table.state.word(), &events.to_string(), &format!("{worst:.1}")];
        row(f, cells)?;
        error(f, &table.state)?;
        let units = if f.alternate() { table.partitions.as_slice() } else { &[] };
        for unit in units {
            let place = format!("  [{}] offset {} of {}", unit.partition, unit.offset, unit.end);
            let (events, seconds) = (unit.lag_events.to_string(), unit.lag_seconds);
            row(f, ["", &place, "", &events, &format!("{seconds:.1}")])?;
        }
    }
    Ok(())
}

fn worst_seconds(table: &TableReport) -> f64 {
    table.partitions.iter().map(|unit| unit.lag_seconds).fold(0.0, f64::max)
}

fn row(f: &mut fmt::Formatter<'_>, cells: [&str; 5]) -> fmt::Result {
    let [sink, table, state, events, seconds] = cells;
    let [a, b, c, d, e] = WIDTHS;
    writeln!(f, "{sink:<a$}  {table:<b$}  {state:<c$}  {events:>d$}  {seconds:>e$}")
}

fn error(f: &mut fmt::Formatter<'_>, state: &State) -> fmt::Result {
    state.error().map_or(Ok(()), |error| writeln!(f, "    {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::status::PartitionReport;

    #[test]
    fn a_table_sums_its_partitions_and_a_parked_one_says_why() {
        let unit = |partition, lag_events, lag_seconds| PartitionReport {
            partition,
            offset: 10,
            end: 10 + lag_events,
            lag_events,
            lag_seconds,
        };
        let parked = State::Parked { error: "cannot write row 7".to_owned() };
        let table =
            TableReport { state: parked, partitions: vec![unit(0, 3, 0.5), unit(1, 4, 2.0)] };
        let tables = BTreeMap::from([("p.public.t".to_owned(), table)]);
        let sink = SinkReport { state: State::Running, tables };
        let reason = anabranch_core::RepairReason::TypeChanged;
        let repairs = vec![TableRepairs { table: "public.t".to_owned(), rows: Some(3), reason }];
        let sinks = BTreeMap::from([("cache".to_owned(), sink)]);
        let report = Report { source: None, sinks, repairs, snapshots: vec![] };
        assert!(!report.is_healthy());
        let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let brief = words(report.to_string());
        assert!(brief.contains("cache p.public.t PARKED 7 2.0 cannot write row 7"), "{brief}");
        let pending =
            "repair pending: 3 rows of public.t may differ from the source until they are read";
        assert!(brief.contains(pending), "{brief}");
        let long = words(format!("{report:#}"));
        assert!(long.contains("[1] offset 10 of 14 4 2.0"), "{long}");
    }
}
