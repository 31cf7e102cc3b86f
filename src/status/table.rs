//! A [`Report`] as a table for a terminal.

use std::fmt;

use super::{Report, SinkReport, State, TableReport};

/// Widths of the columns: sink, table, state, lag in events, lag in seconds.
const WIDTHS: [usize; 5] = [14, 34, 9, 12, 10];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            writeln!(
                f,
                "source {}: received {}, durable in the log {}, {} events",
                source.state.word(),
                source.received_lsn,
                source.durable_lsn,
                source.events
            )?;
            error(f, &source.state)?;
        }
        row(f, ["SINK", "TABLE", "STATE", "LAG EVENTS", "LAG s"])?;
        for (name, sink) in &self.sinks {
            sink_rows(f, name, sink)?;
        }
        Ok(())
    }
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
