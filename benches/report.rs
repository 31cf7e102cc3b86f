//! The table: what each stage took, and its ratio to what it cannot beat.

use std::fmt::Write as _;

use crate::stage::Outcome;

/// A stage and its runs.
#[derive(Debug)]
pub(crate) struct Line {
    /// What it is called.
    pub(crate) name: String,
    /// The lines, by name, that it cannot beat: the slowest is the floor of its rate, and all of
    /// them together the floor of its CPU.
    pub(crate) floors: &'static [&'static str],
    /// Every run of it.
    pub(crate) runs: Vec<Outcome>,
}

const HEADINGS: [&str; 9] = [
    "stage",
    "events",
    "events/s",
    "CPU-s",
    "us CPU/event",
    "server CPU-s",
    "peak RSS MiB",
    "rate/floor",
    "CPU/floor",
];

/// The whole table, a line a stage, with the median of each figure and, where there are several
/// runs, the lowest and the highest rate and CPU.
pub(crate) fn table(lines: &[Line]) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
    rows.extend(lines.iter().map(|line| cells(line, lines)));
    let widths: Vec<usize> = (0..HEADINGS.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        for (place, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a string cannot fail.
            match place {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            }
            .unwrap_or_default();
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn cells(line: &Line, lines: &[Line]) -> Vec<String> {
    let events = line.runs.first().map_or(0, |run| run.tally.events);
    let floors = || lines.iter().filter(|other| line.floors.contains(&other.name.as_str()));
    let cpu_of_all = floors().map(|floor| median(&floor.runs, micros)).sum::<f64>();
    vec![
        line.name.clone(),
        events.to_string(),
        spread(&line.runs, rate, 0),
        spread(&line.runs, cpu, 2),
        format!("{:.2}", median(&line.runs, micros)),
        optional(&line.runs, |run| run.usage.server_cpu, 2),
        optional(&line.runs, |run| run.usage.peak_mib, 0),
        rate_ratio(line, &floors().collect::<Vec<_>>()),
        ratio(median(&line.runs, micros), cpu_of_all),
    ]
}

/// The rate over that of the slowest floor, run by run, where all have run in turn: what else the
/// machine did weighed on them alike.
fn rate_ratio(line: &Line, floors: &[&Line]) -> String {
    if floors.is_empty() {
        return dash();
    }
    let of_run = |(place, run): (usize, &Outcome)| {
        let beside = floors.iter().filter_map(|floor| floor.runs.get(place).or(floor.runs.last()));
        rate(run) / beside.map(rate).fold(f64::INFINITY, f64::min)
    };
    let ratios: Vec<f64> = line.runs.iter().enumerate().map(of_run).collect();
    spread_of(ratios, 2)
}

/// A dash where there is no floor, or one below what can be measured.
fn ratio(figure: f64, floor: f64) -> String {
    if floor.is_finite() && floor > 0.0 { format!("{:.2}", figure / floor) } else { dash() }
}

fn dash() -> String {
    "-".to_owned()
}

fn rate(run: &Outcome) -> f64 {
    count(run) / run.usage.seconds
}

fn cpu(run: &Outcome) -> f64 {
    run.usage.cpu
}

fn micros(run: &Outcome) -> f64 {
    run.usage.cpu * 1e6 / count(run)
}

#[expect(clippy::as_conversions, reason = "a count of events is far below 2^53")]
pub(crate) fn count(run: &Outcome) -> f64 {
    run.tally.events as f64
}

fn median(runs: &[Outcome], figure: impl Fn(&Outcome) -> f64) -> f64 {
    median_of(runs.iter().map(figure).collect())
}

/// The median; of an even number the higher of the two in the middle.
pub(crate) fn median_of(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn spread(runs: &[Outcome], figure: fn(&Outcome) -> f64, digits: usize) -> String {
    spread_of(runs.iter().map(figure).collect(), digits)
}

/// The median, and in parentheses the lowest and the highest.
fn spread_of(all: Vec<f64>, digits: usize) -> String {
    let least = all.iter().copied().fold(f64::INFINITY, f64::min);
    let most = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let is_one = all.len() < 2;
    let middle = median_of(all);
    if is_one {
        return format!("{middle:.digits$}");
    }
    format!("{middle:.digits$} ({least:.digits$}-{most:.digits$})")
}

fn optional(runs: &[Outcome], figure: fn(&Outcome) -> Option<f64>, digits: usize) -> String {
    let known = runs.iter().all(|run| figure(run).is_some());
    if !known || runs.is_empty() {
        return dash();
    }
    format!("{:.digits$}", median(runs, |run| figure(run).unwrap_or_default()))
}
