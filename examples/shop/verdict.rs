//! Every row of every table in every store against the source, as a table.

use std::fmt;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::live::SeenLive;
use crate::progress::{Progress, grouped};
use crate::shop::{SINKS, TABLES};
use crate::support::compare::{self, Rows};
use crate::support::stores;
use crate::support::world::World;

/// A store that shows its rows a little late (Elasticsearch's refresh) is asked again for so long.
const AGAIN: Duration = Duration::from_secs(30);

const LEGEND: &str = "\
rows: in PostgreSQL. equal: of these, in the store with the same value in every column.
behind: seconds now, and at most. calm: well before the first kill. all: kills and import too.
p50, p99: from PostgreSQL's answer to COMMIT until a read of the store finds the change";

const QUANTILES: [f64; 2] = [0.50, 0.99];

/// What was found.
#[derive(Debug)]
pub(crate) struct Verdict {
    lines: Vec<Line>,
    probes: usize,
}

/// One table in one store.
#[derive(Debug)]
struct Line {
    table: &'static str,
    sink: &'static str,
    /// Rows of the source, and of the store.
    wanted: usize,
    rows: usize,
    /// Rows of the source that the store holds with every column equal.
    equal: usize,
    /// The first that differs.
    difference: Option<String>,
    lag: f64,
    peak: f64,
    /// p50 and p99 before anything happened.
    calm: [Option<Duration>; 2],
    /// The same of all.
    all: [Option<Duration>; 2],
}

/// Compares everything, until it is equal or time is up.
pub(crate) async fn compare(
    world: &World,
    seen: &SeenLive,
    progress: &mut Progress,
) -> Result<Verdict, Failure> {
    let begun = Instant::now();
    let mut lines = Vec::new();
    for (table_place, table) in TABLES.iter().enumerate() {
        let wanted = compare::source_rows(world, table).await;
        progress.event(&format!("{table}: {} rows", grouped(count(wanted.len()))));
        for (sink_place, sink) in SINKS.iter().enumerate() {
            let mut line = look(world, table, sink, &wanted).await;
            while !line.is_equal() && begun.elapsed() < AGAIN {
                tokio::time::sleep(Duration::from_secs(1)).await;
                line = look(world, table, sink, &wanted).await;
            }
            line.peak =
                seen.peaks.get(&((*sink).to_owned(), (*table).to_owned())).copied().unwrap_or(0.0);
            let delay = |until| {
                let place = (sink_place, table_place);
                QUANTILES.map(|quantile| seen.delays.quantile(place, quantile, until))
            };
            line.calm = delay(seen.calm_until);
            line.all = delay(None);
            lines.push(line);
        }
    }
    let report = world.status().await.ok_or("the daemon does not answer")?;
    for line in &mut lines {
        let topic = format!("{}.{}", world.name, line.table);
        let found = report.sinks.get(line.sink).and_then(|sink| sink.tables.get(&topic));
        let units = found.into_iter().flat_map(|table| &table.partitions);
        line.lag = units.map(|unit| unit.lag_seconds).fold(0.0, f64::max);
    }
    Ok(Verdict { lines, probes: seen.delays.count() })
}

async fn look(world: &World, table: &'static str, sink: &'static str, wanted: &Rows) -> Line {
    let (held, difference) = match stores::rows(world, sink, table).await {
        Ok(held) => {
            let difference = compare::first_difference(wanted, &held);
            (held, difference)
        }
        Err(error) => (Rows::new(), Some(error)),
    };
    let is_equal = |(key, row): &(&String, &compare::Row)| {
        held.get(*key).is_some_and(|other| compare::different_column(row, other).is_none())
    };
    Line {
        table,
        sink,
        wanted: wanted.len(),
        rows: held.len(),
        equal: wanted.iter().filter(is_equal).count(),
        difference,
        lag: 0.0,
        peak: 0.0,
        calm: [None; 2],
        all: [None; 2],
    }
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

impl Line {
    fn is_equal(&self) -> bool {
        self.difference.is_none() && self.wanted == self.rows && self.equal == self.wanted
    }
}

impl Verdict {
    /// Whether no store differs from the source in any row.
    pub(crate) fn is_equal(&self) -> bool {
        self.lines.iter().all(Line::is_equal)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(f, ["", "", "", "", "behind", "", "calm", "", "all", ""])?;
        row(f, ["table", "sink", "rows", "equal", "now", "at most", "p50", "p99", "p50", "p99"])?;
        let mut last = "";
        for line in &self.lines {
            let table = if line.table == last { "" } else { line.table };
            last = line.table;
            let [rows, equal] = [line.wanted, line.equal].map(|rows| grouped(count(rows)));
            let [lag, worst] = [line.lag, line.peak].map(|seconds| format!("{seconds:.1} s"));
            let [calm50, calm99] = line.calm.map(seconds);
            let [all50, all99] = line.all.map(seconds);
            let table = table.trim_start_matches("public.");
            let cells = [&rows, &equal, &lag, &worst, &calm50, &calm99, &all50, &all99];
            let [rows, equal, lag, worst, calm50, calm99, all50, all99] = cells.map(String::as_str);
            row(f, [table, line.sink, rows, equal, lag, worst, calm50, calm99, all50, all99])?;
        }
        writeln!(f, "\n{LEGEND} ({} probes a table).\n", self.probes)?;
        for line in self.lines.iter().filter(|line| !line.is_equal()) {
            let why = line.difference.as_deref().unwrap_or("the counts differ");
            writeln!(f, "DIFFERENT: {} {}: {why}", line.sink, line.table)?;
        }
        if self.is_equal() {
            let rows: usize = self.lines.iter().map(|line| line.equal).sum();
            write!(
                f,
                "EQUAL: {} rows in three stores compared with PostgreSQL, column by column; none differs.",
                grouped(count(rows))
            )?;
        }
        Ok(())
    }
}

fn seconds(delay: Option<Duration>) -> String {
    delay.map_or_else(|| "-".to_owned(), |delay| format!("{:.2} s", delay.as_secs_f64()))
}

fn row(f: &mut fmt::Formatter<'_>, cells: [&str; 10]) -> fmt::Result {
    let [table, sink, rows, equal, lag, worst, calm50, calm99, all50, all99] = cells;
    writeln!(
        f,
        "{table:<12}{sink:<7}{rows:>8}{equal:>8}{lag:>8}{worst:>9}{calm50:>9}{calm99:>9}{all50:>9}{all99:>9}"
    )
}
